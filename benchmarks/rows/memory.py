"""Row 8: what an event takes while it waits in memory, and whether memory stays flat over millions of them.

What is counted is everything that was allocated for the events and is still there, the payload with its values
included, as `tracemalloc` tells it, in a fresh interpreter, while the destination never answers. The values are made
for each event, as those of a program are: the bare payload, kept in a `collections.deque`, is the limit.
"""

from __future__ import annotations

import asyncio
import gc
import os
import queue
import threading
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import peers
from fresh import fresh_side, run_fresh
from harness import Contest, Options, Row, measure_each, spread
from soak import read_rss

from mvx_logger import (
    AsyncioLogSink,
    AsyncioLogSinkQueueOverflowPolicy,
    LogEvent,
    SinkHandler,
    configure_log_context,
)
from mvx_logger.bridge.structlog import PipelineRenderer, StructlogLoggerFactory

NUMBERS = (8,)

LARGEST = 600
"""Bytes that a queued native event may take."""
FLAT = 1.05
"""How much more than in its first tenth a run may take in all."""
PAYLOAD = "order_id (a str), amount (an int), paid (a bool)"
Log = Callable[[int], object]


class FrozenSink(AsyncioLogSink):
    """Its destination never answers."""

    has_hung = threading.Event()

    async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
        self.has_hung.set()
        await asyncio.Event().wait()


def open_frozen(number: int) -> tuple[FrozenSink, Callable[[], None]]:
    """A sink that keeps so many events, and has begun to wait for its destination."""
    sink, _ = FrozenSink.create(
        queue_max_size=2 * number + 1_000, queue_max_bytes=1 << 40, delivery_timeout=None, shutdown_timeout=0.0
    )
    log = configure_log_context("bench", log_sink=sink).log_info_event
    log("order.created", {"order_id": "order", "amount": 1, "paid": True})
    if not sink.has_hung.wait(10.0):
        raise RuntimeError("the destination got nothing")

    def check() -> None:
        pending = sink.stats().pending
        if pending < number:
            raise RuntimeError(f"{pending} of {number} events are there")

    return sink, check


def make_payload(index: int) -> dict[str, Any]:
    """One of which every value that can be is another object."""
    return {"order_id": f"order-{index}", "amount": 1_000 + index, "paid": True}


def keep_native(number: int) -> tuple[Log, Callable[[], None]]:
    """Native events."""
    _, check = open_frozen(number)
    log = configure_log_context("bench").log_info_event
    return lambda index: log("order.created", make_payload(index)), check


def keep_records(number: int) -> tuple[Log, Callable[[], None]]:
    """Records through `SinkHandler`."""
    sink, check = open_frozen(number)
    info = peers.make_logger(SinkHandler(sink)).info
    return lambda index: info("order.created", extra=make_payload(index)), check


def keep_structlog(number: int) -> tuple[Log, Callable[[], None]]:
    """structlog events through the bridge."""
    _, check = open_frozen(number)
    info = peers.wrap(StructlogLoggerFactory()("bench"), PipelineRenderer()).info
    return lambda index: info("order.created", **make_payload(index)), check


def keep_queue_handler(number: int) -> tuple[Log, Callable[[], None]]:
    """Records in the queue of a `QueueHandler`."""
    from logging.handlers import QueueHandler

    records: Any = queue.SimpleQueue()
    info = peers.make_logger(QueueHandler(records)).info

    def check() -> None:
        if records.qsize() < number:
            raise RuntimeError(f"{records.qsize()} of {number} records are there")

    return lambda index: info("order.created", extra=make_payload(index)), check


def keep_opentelemetry(number: int) -> tuple[Log, Callable[[], None]]:
    """Records of OpenTelemetry's `LoggingHandler` in its batch processor, whose exporter never answers."""
    sdk = peers.load("opentelemetry.sdk._logs", "opentelemetry-sdk")
    export = peers.load("opentelemetry.sdk._logs.export", "opentelemetry-sdk")
    handlers = peers.load("opentelemetry.instrumentation.logging.handler", "opentelemetry-instrumentation-logging")
    taken = 0

    class Frozen:
        def export(self, batch: Sequence[Any]) -> None:
            nonlocal taken
            taken += len(batch)
            threading.Event().wait()

    processor = export.BatchLogRecordProcessor(Frozen(), max_queue_size=2 * number + 1_000)
    provider = sdk.LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(processor)
    info = peers.make_logger(handlers.LoggingHandler(logger_provider=provider)).info

    def check() -> None:
        pending = taken + len(processor._batch_processor._queue)
        if pending < number:
            raise RuntimeError(f"{pending} of {number} records are there")

    return lambda index: info("order.created", extra=make_payload(index)), check


def keep_payload(number: int) -> tuple[Log, Callable[[], None]]:
    """Nothing but the payloads."""
    kept: deque[dict[str, Any]] = deque()
    return lambda index: kept.append(make_payload(index)), lambda: None


def weigh(side: str, number: int) -> dict[str, float]:
    """What an event takes, in bytes; in this interpreter."""
    log, check = globals()[f"keep_{side}"](number)
    for index in range(100):
        log(index)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for index in range(100, number + 100):
        log(index)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    check()
    return {"bytes": (after - before) / number}


def watch_flow(number: int) -> dict[str, float]:
    """The highest resident memory of a run in its first tenth, and in all, in MiB; in this interpreter."""
    sink, close = peers.DiscardingSink.create(
        queue_overflow_policy=AsyncioLogSinkQueueOverflowPolicy.BLOCK, block_timeout=600.0, shutdown_timeout=600.0
    )
    log = configure_log_context("bench", log_sink=sink).log_info_event
    heights: list[int] = []
    for part in range(100):
        for index in range(part * number // 100, (part + 1) * number // 100):
            log("order.created", make_payload(index))
        heights.append(read_rss())
    close()
    if sink.stats().delivered != number:
        raise RuntimeError(f"{sink.stats().delivered} of {number} events were delivered")
    return {"tenth": max(heights[:10]) / 2**20, "all": max(heights) / 2**20}


PEERS = {
    "queue_handler": ("a record in QueueHandler's queue", ""),
    "opentelemetry": (
        "a record in OpenTelemetry's batch processor", "opentelemetry.sdk opentelemetry.instrumentation.logging"
    ),
    "payload": ("the payload in a deque", ""),
}  # fmt: skip


def measure_memory(options: Options) -> Iterable[Row]:
    """Row 8."""
    number = options.scaled(100_000, 1_000)
    ours = {"native": "a native event", "records": "a record", "structlog": "a structlog event"}
    with Contest() as contest:
        for side, (name, needs) in {**{side: (name, "") for side, name in ours.items()}, **PEERS}.items():
            contest.open(name, partial(fresh_side, "rows.memory", "weigh", needs, side=side, number=number))
        results = contest.run(options.rounds(3))
    for side, name in ours.items():
        if not results.has(name):
            yield results.row(8, f"memory of {name} in the queue", name, name)
            continue
        share = spread([value / LARGEST for value in results.values(name, "bytes")])
        yield Row(
            8, f"memory of {name} in the queue", 1.0 if side == "native" else None, "lower", name, f"{LARGEST} bytes",
            share.median, share.low, share.high, {name: results.median(name, "bytes")}, "bytes",
            f"payload: {PAYLOAD}; all that was allocated for it, values included", side == "native",
        )  # fmt: skip
    for name, _ in PEERS.values():
        yield results.row(
            8, "memory of an event that waits, beside others", ours["native"], name, figure="bytes", unit="bytes"
        )  # fmt: skip
    if not os.path.exists("/proc/self/statm"):
        yield Row(8, "highest memory of the process", note="only where there is /proc")
        return
    number = options.scaled(10_000_000, 10_000)
    flows = [run_fresh("rows.memory", "watch_flow", number=number) for _ in range(options.rounds(1))]
    ratio = spread([flow["all"] / flow["tenth"] for flow in flows])
    yield Row(
        8, f"highest memory of the process, {number:,} events", FLAT, "lower", "in all", "in the first tenth",
        ratio.median, ratio.low, ratio.high, {"in all": flows[0]["all"], "in the first tenth": flows[0]["tenth"]}, "MiB",
        "through a destination that discards; soak.py has one that fails", True,
    )  # fmt: skip


def measure(options: Options) -> Iterable[Row]:
    """The rows of this module."""
    return measure_each({8: measure_memory}, options)
