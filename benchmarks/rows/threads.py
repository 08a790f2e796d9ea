"""Row 10: threads that log at once. The total throughput, relative to that of one thread.

The number of events is the same however many threads share it. The clock runs from the barrier at which all threads have
arrived to the end of the last one; what is in the queue then is delivered outside of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import peers
from harness import Contest, Options, Row, Side, compile_loop, measure_each, shorten
from peers import PAYLOAD, Opener, Target

NUMBERS = (10,)

THREADS = (1, 2, 4, 8, 16)
EXTRA = "logger.info('order created', extra=PAYLOAD)"
KEYWORDS = ", ".join(f"{key}={value!r}" for key, value in PAYLOAD.items())
EVENTS = f"logger.info('order.created', {KEYWORDS})"
SIDES: Mapping[str, tuple[Opener, str, int]] = {
    "native event": (peers.native_async, "logger.log_info_event('order.created', PAYLOAD)", 100_000),
    "SinkHandler": (peers.sink_handler, EXTRA, 20_000),
    "QueueHandler": (peers.queue_handler, EXTRA, 20_000),
    "StreamHandler to the null device": (peers.stream_handler, EXTRA, 20_000),
    "loguru enqueue": (partial(peers.loguru, enqueue=True), EVENTS, 5_000),
    "structlog orjson to the null device": (peers.structlog_orjson, EVENTS, 20_000),
}
OURS = ("native event", "SinkHandler")


def measure(options: Options) -> Iterable[Row]:
    """Measure the row."""
    return measure_each({10: measure_threads}, options)


def measure_threads(options: Options) -> Iterator[Row]:
    """Row 10, for each side and each number of threads."""
    with Contest() as contest:
        for name, (opener, statement, usual) in SIDES.items():
            total = options.scaled(usual, smallest=4 * THREADS[-1])
            shared = _Shared(opener)
            for threads in THREADS:
                contest.open(_name(name, threads), partial(shared.open_side, statement, threads, total))
        results = contest.run(options.rounds(9))
    for name in SIDES:
        is_ours = name in OURS
        for threads in THREADS[1:]:
            row = results.row(
                10,
                f"throughput of {threads} threads, {name}",
                _name(name, threads),
                _name(name, 1),
                goal=1.0 if is_ours else None,
                better="higher",
                figure="throughput",
                unit="events/s",
                judged=is_ours,
            )
            yield shorten(row, f"{name}, ")


def _name(side: str, threads: int) -> str:
    return f"{side}, {threads} thread{'s' if threads > 1 else ''}"


class _Shared:
    """One logger for all numbers of threads: there is only one loguru logger. Who opens it first closes it, at the end."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._target: Target | None = None

    @contextmanager
    def open_side(self, statement: str, threads: int, total: int) -> Iterator[Side]:
        if self._target is not None:
            yield _log_from_threads(self._target, statement, threads, total)
            return
        with self._opener() as self._target:
            yield _log_from_threads(self._target, statement, threads, total)


def _log_from_threads(target: Target, statement: str, threads: int, total: int) -> Side:
    loop = compile_loop(statement, {"logger": target.logger, "PAYLOAD": PAYLOAD})

    def measure_once() -> Mapping[str, float]:
        share = total // threads
        begun: list[float] = []
        ended: list[float] = []
        barrier = threading.Barrier(threads, action=lambda: begun.append(time.perf_counter()))

        def run() -> None:
            barrier.wait()
            loop(share)
            ended.append(time.perf_counter())

        workers = [threading.Thread(target=run) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        target.drain()
        if len(ended) != threads:
            raise RuntimeError("a thread ended early")
        return {"throughput": share * threads / (max(ended) - begun[0])}

    return measure_once
