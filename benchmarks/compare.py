"""The goals of several runs side by side, such as one for each Python: ``python benchmarks/compare.py A.json B.json``.

Takes what ``benchmarks/run.py --json`` writes and prints a table in Markdown: the rows that the goals are judged by, with
the median of the ratio and its quartiles in each run. A figure that misses its goal is in bold.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Key = tuple[int, str, str]


def compare(reports: Sequence[dict[str, Any]]) -> str:
    """The table."""
    columns = [{_key(row): row for row in report["rows"] if row["judged"]} for report in reports]
    first: dict[Key, dict[str, Any]] = {}
    for column in columns:
        first = {**column, **first}
    lines = [
        f"| # | what | beside | goal | {' | '.join(report['python'] for report in reports)} |",
        f"| ---: | --- | --- | ---: |{' ---: |' * len(reports)}",
    ]
    for key in sorted(first, key=lambda key: key[0]):
        row = first[key]
        goal = "" if row["goal"] is None else f"{'≤' if row['better'] == 'lower' else '≥'} {row['goal']:g}"
        cells = [_render(column.get(key)) for column in columns]
        lines.append(f"| {row['number']} | {row['what']} | {row['peer']} | {goal} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _key(row: dict[str, Any]) -> Key:
    return row["number"], row["what"], row["peer"]


def _render(row: dict[str, Any] | None) -> str:
    if row is None or row["ratio"] is None:
        return "-"
    text = f"{row['ratio']:.2f}"
    if row["met"] not in ("yes", ""):
        text = f"**{text}**"
    return f"{text} ({row['low']:.2f} to {row['high']:.2f})"


def main(argv: Sequence[str]) -> int:
    """Print the table."""
    if not argv:
        print("usage: compare.py FILE.json [FILE.json ...]", file=sys.stderr)
        return 2
    print(compare([json.loads(Path(name).read_text("utf-8")) for name in argv]), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
