"""What each step of the hot path costs, and the limits beside it: the tables of docs/performance.md.

Each step by itself, the best of many repetitions, in nanoseconds. Together they take a little less than the whole, which
finds cold caches, and needs new memory for what stays in the queue. Run it with ``python benchmarks/steps.py``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextvars import copy_context
from typing import Any

import msgspec
import structlog.contextvars  # noqa: F401 - loaded, as in a program that uses structlog: then what it has bound is asked for
from harness import compile_loop

from mvx_logger import (
    AsyncioLogSink,
    LogContext,
    LogEvent,
    LogEventBatch,
    LogEventMeta,
    LogPayloadProcessor,
    SinkHandler,
)
from mvx_logger.bridge.records import plain_event
from mvx_logger.formats.json import encode_lines
from mvx_logger.guard import find_offer, internal, mark
from mvx_logger.payload import weigh_payload

PAYLOAD = {"order_id": "order-42", "amount": 3, "paid": True}


class DiscardingSink(AsyncioLogSink):
    """Takes batches off the queue and forgets them."""

    async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
        """Nothing."""


class NullSink:
    """Takes events and does nothing."""

    guards_itself = True

    def log(self, event: LogEvent) -> None:
        """Nothing."""


def best(statement: str, names: dict[str, Any], *, number: int, repeat: int) -> float:
    """The nanoseconds of one execution."""
    loop, empty = compile_loop(statement, names), compile_loop("pass", {})
    loop(number // 10 + 1)
    return max(min(loop(number)[1] - empty(number)[1] for _ in range(repeat)) / number, 0.0)


def make_record() -> logging.LogRecord:
    """A record as a logger makes it."""
    return logging.Logger("shop").makeRecord("shop", 20, "/srv/shop/orders.py", 7, "order %s created", (42,), None, "f")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args(argv)

    sink, close = DiscardingSink.create(queue_max_size=10_000_000)
    processor = LogPayloadProcessor()
    meta = LogEventMeta("shop.orders", "order.created")
    event = LogEvent(20, meta, None, time.time(), dict(PAYLOAD))
    batch = [event] * 1_000
    with open(os.devnull, "wb", buffering=0) as null:
        names: dict[str, Any] = {
            "asynchronous": LogContext(namespace="shop.orders", log_sink=sink, payload_processor=processor),
            "batch": batch,
            "context": LogContext(
                namespace="shop.orders", log_sink=NullSink(), payload_processor=processor, min_level=20
            ),
            "copy_context": copy_context,
            "encode": msgspec.json.Encoder().encode,
            "encode_lines": encode_lines,
            "event": event,
            "f": lambda *args: None,
            "handler": SinkHandler(NullSink()),
            "internal": internal,
            "json": json,
            "lines": encode_lines(batch),
            "LogEvent": LogEvent,
            "LogEventBatch": LogEventBatch,
            "LogEventMeta": LogEventMeta,
            "mark": mark,
            "meta": meta,
            "null": null,
            "offer": find_offer(sink.log),
            "PAYLOAD": PAYLOAD,
            "plain_event": plain_event,
            "queue": deque(maxlen=1_000),
            "processor": processor,
            "record": make_record(),
            "time": time.time,
            "weigh_payload": weigh_payload,
        }
        tables: dict[str, list[tuple[str, str, int]]] = {
            "A native event with three keys": [
                ("rejected by its level", "context.log_debug_event('order.created', PAYLOAD)", 1),
                ("the method and the private one behind it: two calls", "f(f(1, 2), 1, 2, 3, 4, 5, 6, 7, 8, 9, 0)", 1),
                ("LogEventMeta", "LogEventMeta('shop.orders', 'order.created', None, None, None, None)", 1),
                ("the payload made plain, bounded and free of secrets", "weigh_payload(processor, PAYLOAD)", 1),
                ("is anything bound to the context?", "copy_context()", 1),
                ("the time", "time()", 1),
                ("LogEvent", "LogEvent(20, meta, None, 1.0, PAYLOAD)", 1),
                ("is it the logger's own doing?", "mark.value is not None or internal.get()", 1),
                ("into the queue", "offer(event)", 1),
                ("all of it, into a sink that does nothing", "context.log_info_event('order.created', PAYLOAD)", 1),
                ("all of it, into an AsyncioLogSink", "asynchronous.log_info_event('order.created', PAYLOAD)", 1),
            ],
            "A record through SinkHandler": [
                ("handle() and emit()", "f(f(f(1)))", 1),
                ("is anything bound to the context?", "copy_context()", 1),
                ("record to event", "plain_event(record, None, None, None)", 1),
                ("of it: the message", "'order %s created' % (42,)", 1),
                ("into the queue", "offer(event)", 1),
                ("all of it, into a sink that does nothing", "handler.handle(record)", 1),
            ],
            "The worker, for one event of a thousand": [
                ("the batch", "LogEventBatch._make(batch, (), 1)", 1_000),
                ("a line of JSON", "encode_lines(batch)", 1_000),
                ("written with the others", "null.write(lines)", 1_000),
            ],
            "The limits": [
                ("a ready object appended to a deque", "queue.append(event)", 1),
                ("a dict of three keys copied", "PAYLOAD.copy()", 1),
                ("the payload encoded by msgspec", "encode(PAYLOAD)", 1),
                ("the payload encoded by json", "json.dumps(PAYLOAD)", 1),
                ("one line written by itself", "null.write(b'one line of a hundred bytes')", 1),
            ],
        }
        measured: dict[str, list[tuple[str, float]]] = {}
        for title, steps in tables.items():
            measured[title] = []
            for what, statement, events in steps:
                number = max(1, options.number // events)
                cost = best(statement, names, number=number, repeat=options.repeat) / events
                measured[title].append((what, cost))
                sink.flush()
    close()
    if options.json:
        print(json.dumps({"python": sys.version.split()[0], "ns": measured}, indent=2))
        return
    for title, rows in measured.items():
        print(f"\n| {title} (Python {sys.version.split()[0]}) | ns |\n| --- | ---: |")
        for what, cost in rows:
            print(f"| {what} | {cost:.0f} |")


if __name__ == "__main__":
    main()
