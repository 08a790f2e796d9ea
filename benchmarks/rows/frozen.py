"""Row 9: ``log()`` at the 99.9th percentile with the destination frozen, divided by that with it running.

What is measured, and how, is in ``stall.py``; here is one thread, and a destination that never answers. Where other
programs use the processors too, the 99.9th percentile tells of them: so the calls during which the operating system
took the processor away are left out. The note has the figure with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import stall
from fresh import run_fresh
from harness import Options, Row, measure_each

from mvx_logger import selflog

NUMBERS = (9,)

QUEUES = {
    "free": "room for everything",
    "drop": "full, drops the new",
    "drop_oldest": "full, drops the oldest",
    "durable": "a spool",
    "commit": 'a spool, durability="commit"',
}


def run_queue(queue: str, rounds: int, number: int) -> dict[str, Any]:
    """The figures of one configuration of the queue, in this interpreter."""
    selflog.redirect(lambda report: None)  # that a destination does not answer is what this is about
    return stall.measure("async", queue, 1, rounds, number, stall.clock_cost())


def measure_frozen(options: Options) -> Iterable[Row]:
    """Row 9."""
    number = options.scaled(5_000, 50)
    for queue, name in QUEUES.items():
        measured = run_fresh("rows.frozen", "run_queue", queue=queue, rounds=options.rounds(20), number=number)
        low, _, high = measured["spread"]["p99.9*"]
        yield Row(
            9, f"log() at the 99.9th percentile: {name}", 2.0, "lower", "frozen", "running",
            measured["ratio"]["p99.9*"], low, high, measured["ns"]["p99.9*"], "ns",
            f"with the calls that the system interrupted: {measured['ratio']['p99.9']:.2f}; "
            "the quartiles are those of the rounds' own ratios",
            queue == "free",
        )  # fmt: skip


def measure(options: Options) -> Iterable[Row]:
    """The rows of this module."""
    return measure_each({9: measure_frozen}, options)
