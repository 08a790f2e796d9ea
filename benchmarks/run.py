"""The benchmark suite: each row beside its peers, as a ratio within one run.

``python benchmarks/run.py`` prints a table of all rows in Markdown. ``--only 1,2,5`` measures some of them, ``--quick``
fewer rounds of fewer calls; ``--json``, ``--markdown`` and ``--plot`` write files. A peer that is not installed is left out,
and the table says so: ``pip install 'mvx-logger[bench]'`` installs those that there are for this Python.

A row has met its goal when the median of its ratios has; *within noise* means that it has not, but that the goal is
between the quartiles. Rows in bold are those that the goals are judged by. The status is 1 when a row could not be measured
because something went wrong.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import platform
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import peers
import rows
from harness import Options, Row

QUICK = {"scale": 0.2, "max_rounds": 5}
SMOKE = {"scale": 0.0, "max_rounds": 1}


@dataclass(frozen=True)
class Environment:
    """Where and when the figures were measured.

    Attributes:
        python: The version of Python, and its implementation where that is not CPython.
        platform: The operating system and the machine.
        cpus: How many processors this process may use.
        load: How many processes wanted a processor in the last minute, when it began; None where that is not known.
        date: When it began, in UTC.
        versions: The versions of the peers; None for those that are not installed.
    """

    python: str
    platform: str
    cpus: int
    load: float | None
    date: str
    versions: dict[str, str | None]

    @property
    def missing(self) -> list[str]:
        """The peers that are not installed."""
        return [name for name, version in self.versions.items() if version is None]


def describe_environment() -> Environment:
    """Where and when this runs."""
    implementation = platform.python_implementation()
    return Environment(
        python=platform.python_version()
        if implementation == "CPython"
        else f"{platform.python_version()} {implementation}",
        platform=f"{platform.system()} {platform.machine()}",
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=peers.find_versions(),
    )


def find_modules() -> dict[int, ModuleType]:
    """The module of each row: all that there are in ``rows``."""
    found: dict[int, ModuleType] = {}
    for info in pkgutil.iter_modules(rows.__path__):
        module = importlib.import_module(f"rows.{info.name}")
        for number in getattr(module, "NUMBERS", ()):
            if number in found:
                raise ValueError(f"row {number} is in {found[number].__name__} and in {module.__name__}")
            found[number] = module
    return dict(sorted(found.items()))


def measure_rows(modules: dict[int, ModuleType], options: Options) -> Iterator[Row]:
    """All rows that are wanted. A module that fails does not keep the others from running."""
    for module in dict.fromkeys(modules.values()):
        wanted = {number for number in module.NUMBERS if options.wants(number)}
        if not wanted:
            continue
        print(f"{module.__name__}: {', '.join(map(str, sorted(wanted)))}", file=sys.stderr, flush=True)
        seen: set[int] = set()
        problem = "measured nothing"
        try:
            for row in module.measure(options):
                if row.number in wanted:
                    seen.add(row.number)
                    yield row
        except Exception as error:
            traceback.print_exc()
            problem = f"{type(error).__name__}: {error}"
        for number in sorted(wanted - seen):
            yield Row(number, f"({module.__name__})", error=problem)


# ---------------------------------------------------------------------- reports


def render_markdown(environment: Environment, results: Sequence[Row]) -> str:
    """The table."""
    installed = [f"{name} {version}" for name, version in environment.versions.items() if version is not None]
    load = "" if environment.load is None else f", load {environment.load}"
    lines = [
        f"Python {environment.python}, {environment.cpus} CPUs, {environment.platform}{load}, {environment.date}.",
        f"Peers: {', '.join(installed)}.",
    ]
    if environment.missing:
        lines.append(f"Not installed, and left out: {', '.join(environment.missing)}.")
    lines += [
        "",
        "| # | what | ours / peer | ratio | quartiles | goal | met | absolute | note |",
        "| ---: | --- | --- | ---: | :---: | ---: | --- | --- | --- |",
    ]
    lines += [_render_row(row) for row in results]
    return "\n".join(lines) + "\n"


def _render_row(row: Row) -> str:
    goal = "" if row.goal is None else f"{'≤' if row.better == 'lower' else '≥'} {row.goal:.2f}"
    absolute = "; ".join(f"{name} {_number(value)} {row.unit}" for name, value in row.absolute.items())
    cells = [
        str(row.number),
        row.what,
        f"{row.ours} / {row.peer}" if row.peer else row.ours,
        "-" if row.ratio is None else f"{row.ratio:.2f}",
        "" if row.low is None or row.high is None else f"{row.low:.2f} … {row.high:.2f}",
        goal,
        judge(row),
        absolute,
        "; ".join(text for text in (row.note, f"failed: {row.error}" if row.error else "") if text),
    ]
    cells = [" ".join(cell.replace("|", "\\|").split()) for cell in cells]
    if row.judged:
        cells[1] = f"**{cells[1]}**"
    return f"| {' | '.join(cells)} |"


def judge(row: Row) -> str:
    """Whether the goal is met, in words."""
    if row.error:
        return "failed"
    if row.is_met is None:
        return ""
    if row.is_met:
        return "yes"
    assert row.goal is not None
    if row.low is not None and row.high is not None and row.low <= row.goal <= row.high:
        return "within noise"
    return "no"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def render_json(environment: Environment, options: Options, results: Sequence[Row]) -> str:
    """Everything as data."""
    report: dict[str, Any] = {
        **asdict(environment),
        "missing": environment.missing,
        "scale": options.scale,
        "rows": [{**asdict(row), "met": judge(row)} for row in results],
    }
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def draw(environment: Environment, results: Sequence[Row], file: Path) -> None:
    """One bar for each row that a goal is judged by: how far the ratio is from it. Left of the line the goal is met."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    bars = [(row, relative) for row in results if row.judged and (relative := relate(row)) is not None]
    labels = [f"{row.number}  {row.what}" for row, _ in bars]
    with rc_context({"svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(10, 1.2 + 0.25 * len(bars)), layout="constrained")
        axes = figure.subplots()
        positions = range(len(bars))
        middle = [relative[1] for _, relative in bars]
        errors = [
            [max(relative[1] - relative[0], 0) for _, relative in bars],
            [max(relative[2] - relative[1], 0) for _, relative in bars],
        ]
        colors = {"yes": "#4c9f70", "within noise": "#d9a441", "no": "#c8553d"}
        axes.barh(positions, middle, xerr=errors, color=[colors[judge(row)] for row, _ in bars], capsize=2)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_yticks(positions, labels)
        axes.invert_yaxis()
        axes.set_xlabel(
            "relative to the goal: less is better, 1 is the goal; the bar is the median, the line the quartiles"
        )
        axes.set_title(f"Python {environment.python}, {environment.cpus} CPUs, {environment.date[:10]}")
        figure.savefig(file, format="svg")


def relate(row: Row) -> tuple[float, float, float] | None:
    """Lower quartile, median and upper quartile relative to the goal, so that less than 1 is better than the goal."""
    if row.goal is None or row.ratio is None:
        return None
    low = row.ratio if row.low is None else row.low
    high = row.ratio if row.high is None else row.high
    if row.better == "lower":
        return low / row.goal, row.ratio / row.goal, high / row.goal
    return row.goal / high, row.goal / row.ratio, row.goal / low


# ---------------------------------------------------------------------- the command


def parse(argv: Sequence[str] | None, known: Iterable[int]) -> tuple[argparse.Namespace, Options]:
    """What the command line asks for; exits where it makes no sense."""
    summary, _, _ = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="run.py", description=summary)
    parser.add_argument("--only", metavar="N,N", help="the numbers of the rows to measure, such as 1,2,5")
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true", help="fewer rounds of fewer calls")
    effort.add_argument("--smoke", action="store_true", help="one round of a few calls: whether it works at all")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of every row")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table, which is printed in any case")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the rows that have a goal (SVG; needs matplotlib)"
    )
    given = parser.parse_args(argv)
    numbers: frozenset[int] | None = None
    if given.only is not None:
        known = list(known)
        names = ", ".join(map(str, known))
        try:
            numbers = frozenset(int(part) for part in given.only.split(","))
        except ValueError:
            parser.error(f"--only: expected numbers of rows, such as 1,2,5; got {given.only!r}")
        if unknown := sorted(numbers.difference(known)):
            parser.error(f"--only: there is no row {', '.join(map(str, unknown))}; there are {names}")
    if given.rounds is not None and given.rounds < 1:
        parser.error(f"--rounds: expected 1 or more, got {given.rounds}")
    if given.plot is not None:
        try:
            importlib.import_module("matplotlib")
        except ImportError:
            parser.error("--plot: needs matplotlib, which is not installed")
    effort_given: dict[str, Any] = QUICK if given.quick else SMOKE if given.smoke else {}
    return given, Options(numbers=numbers, given_rounds=given.rounds, **effort_given)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    modules = find_modules()
    given, options = parse(argv, modules)
    environment = describe_environment()
    results = sorted(measure_rows(modules, options), key=lambda row: row.number)
    table = render_markdown(environment, results)
    print(table, end="")
    if given.markdown is not None:
        given.markdown.write_text(table, "utf-8")
    if given.json is not None:
        given.json.write_text(render_json(environment, options, results), "utf-8")
    if given.plot is not None:
        draw(environment, results, given.plot)
    return 1 if any(row.error for row in results) else 0


if __name__ == "__main__":
    sys.exit(main())
