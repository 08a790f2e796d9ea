"""Events per second into each real server: through the sink, and by the same client in a bare loop.

    python benchmarks/destinations.py [--events N] [--rounds N] [--json FILE] [--plot FILE] [NAME ...]

Both write the same batches to the same server, in turns, within one run; what counts is the ratio. The bare loop does what
somebody would write who has all events in a list: encode a batch, send it, wait for the confirmation. The sink's figure
is from the first ``log()`` to the end of ``flush()``, with everything that it does beside. Each file in
``benchmarks/cases`` is a destination: it has a class ``Case`` (see `Destination`).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "support"))  # the servers

from mvx_logger import LogEvent, LogEventMeta  # noqa: E402

BATCH = 1_000


class Destination(Protocol):
    """What a case offers. It is made with a directory for the server's files."""

    def start(self) -> None:
        """Start the server, where it is one that we start."""

    def stop(self) -> None:
        """End it."""

    def clear(self) -> None:
        """Forget all events."""

    def count(self) -> int:
        """How many events the server has; -1 where nobody can tell."""

    def make_sink(self, **options: Any) -> Any:
        """The sink, running."""

    async def write_bare(self, batches: Sequence[Sequence[LogEvent]], ids: Sequence[Sequence[str]]) -> None:
        """Connect, write all batches one after the other in the sink's format, each one confirmed, disconnect."""


def make_events(count: int) -> list[LogEvent]:
    """Events as a shop has them: three keys, one second a thousand."""
    meta = LogEventMeta("shop.orders", "order.created", "order-42", "/srv/shop/orders.py", 117, "place")
    return [
        LogEvent(20, meta, "success", 1_780_000_000 + number / 1000, {"order": number, "amount": 12.5, "user": "u-7"})
        for number in range(count)
    ]


def measure_sink(case: Destination, events: Sequence[LogEvent]) -> float:
    sink = case.make_sink(queue_max_size=len(events) + 1, queue_max_bytes=1 << 40, batch_max_size=BATCH)
    try:
        log = sink.log
        sink.log(events[0])
        if not sink.flush(timeout=60):  # connected, tables made
            raise SystemExit(f"the destination does not work: {sink.stats()}")
        gc.collect()
        start = time.perf_counter()
        for event in events:
            log(event)
        if not sink.flush(timeout=600):
            raise SystemExit(f"not all was delivered: {sink.stats()}")
        took = time.perf_counter() - start
    finally:
        sink.close()
    check(case, len(events) + 1)
    return len(events) / took


def measure_bare(case: Destination, events: Sequence[LogEvent]) -> float:
    batches = [events[start : start + BATCH] for start in range(0, len(events), BATCH)]
    ids = [[f"{number:036d}" for number in range(n * BATCH, n * BATCH + len(batch))] for n, batch in enumerate(batches)]
    gc.collect()
    start = time.perf_counter()
    asyncio.run(case.write_bare(batches, ids))
    took = time.perf_counter() - start
    check(case, len(events))
    return len(events) / took


def check(case: Destination, count: int) -> None:
    deadline = time.monotonic() + 30
    while (found := case.count()) not in (count, -1):
        if time.monotonic() > deadline:
            raise SystemExit(f"{found} of {count} events are there")
        time.sleep(0.05)
    case.clear()


def find_cases() -> dict[str, Path]:
    return {path.stem: path for path in sorted((HERE / "cases").glob("*.py"))}


def load_case(path: Path, directory: Path) -> Destination:
    spec = importlib.util.spec_from_file_location(f"cases_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    case: Destination = module.Case(directory)
    return case


def measure(name: str, path: Path, events: Sequence[LogEvent], rounds: int) -> dict[str, Any]:
    """One destination: rounds of both, in turns; the first is not counted."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        case = load_case(path, Path(directory) / name)
        case.start()
        try:
            case.clear()
            sink, bare = [], []
            for number in range(rounds + 1):
                pair = measure_sink(case, events), measure_bare(case, events)
                if number:
                    sink.append(pair[0])
                    bare.append(pair[1])
        finally:
            case.stop()
    ratios = [own / other for own, other in zip(sink, bare, strict=True)]
    return {
        "destination": name,
        "sink": round(statistics.median(sink)),
        "bare": round(statistics.median(bare)),
        "ratio": round(statistics.median(ratios), 2),
        "lowest": round(min(ratios), 2),
        "highest": round(max(ratios), 2),
    }


def plot(results: Sequence[dict[str, Any]], path: str) -> None:
    """A bar for each destination: how much of the bare client's throughput the sink has, with the spread."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = sorted(results, key=lambda row: row["ratio"])
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(rows) + 1.2))
    ratios = [row["ratio"] for row in rows]
    spread = [
        [row["ratio"] - row["lowest"] for row in rows],
        [row["highest"] - row["ratio"] for row in rows],
    ]
    axes.barh([row["destination"] for row in rows], ratios, xerr=spread, color="#4878a8", ecolor="#888888", capsize=3)
    for index, row in enumerate(rows):
        axes.text(0.02, index, f"{row['sink']:,} events/s", va="center", color="white", fontsize=9)
    axes.axvline(1.0, color="#444444", linewidth=1)
    axes.axvline(0.8, color="#444444", linewidth=1, linestyle="--")
    axes.set_xlabel("throughput of the sink / throughput of the bare client (same batches, same server, same run)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="destinations; all without")
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--plot", metavar="FILE", help="draw the ratios there (SVG or PNG; needs matplotlib)")
    options = parser.parse_args(arguments)
    cases = find_cases()
    unknown = sorted(set(options.names) - set(cases))
    if unknown:
        parser.error(f"no such destination: {', '.join(unknown)}; there are {', '.join(cases)}")
    events = make_events(options.events)
    results = []
    print(f"Python {platform.python_version()}, {options.events} events, {options.rounds} rounds, batches of {BATCH}\n")
    print("| destination | sink, events/s | bare client, events/s | ratio (lowest to highest) |")
    print("| --- | ---: | ---: | ---: |")
    for name in options.names or cases:
        found = measure(name, cases[name], events, options.rounds)
        results.append(found)
        spread = f"{found['ratio']:.2f} ({found['lowest']:.2f} to {found['highest']:.2f})"
        print(f"| {name} | {found['sink']:,} | {found['bare']:,} | {spread} |", flush=True)
    if options.plot:
        plot(results, options.plot)
    if options.json:
        about = {
            "python": platform.python_version(),
            "events": options.events,
            "rounds": options.rounds,
            "batch": BATCH,
        }
        Path(options.json).write_text(json.dumps({**about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
