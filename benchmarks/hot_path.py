"""What logging costs the caller, beside the standard library and structlog, in one run.

Rounds are interleaved, so that a noisy machine is noisy for everyone. Each figure is a ratio: ours divided by the
peer's, the median over the rounds. Run it with ``python benchmarks/hot_path.py``.
"""

from __future__ import annotations

import argparse
import json
import logging
import logging.handlers
import os
import queue
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import structlog

from mvx_logger import (
    AsyncioLogSink,
    AsyncioLogSinkQueueOverflowPolicy,
    LogContext,
    LogEvent,
    LogPayloadProcessor,
    SinkHandler,
    configure_log_context,
    reset_logger,
)
from mvx_logger.bridge.structlog import PipelineRenderer, StructlogLoggerFactory

PAYLOAD = {"order_id": "order-42", "amount": 3, "paid": True}


class NullSink:
    """Takes events and does nothing."""

    guards_itself = True

    def log(self, event: LogEvent) -> None:
        """Nothing."""


class DiscardingSink(AsyncioLogSink):
    """Takes batches off the queue and forgets them."""

    async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
        """Nothing."""


def logger_with(*handlers: logging.Handler) -> logging.Logger:
    """A logger of its own, at INFO."""
    logger = logging.Logger("bench", logging.INFO)
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    return logger


def cost(call: Callable[[], object], number: int) -> float:
    """Seconds for one call."""
    start = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - start) / number


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--number", type=int, default=5_000)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(argv)

    block = AsyncioLogSinkQueueOverflowPolicy.BLOCK
    running, end_running = DiscardingSink.create(queue_max_size=1_000_000, queue_overflow_policy=block)
    null = LogContext(namespace="bench", log_sink=NullSink(), payload_processor=LogPayloadProcessor(), min_level=20)
    asynchronous = LogContext(namespace="bench", log_sink=running, payload_processor=LogPayloadProcessor())

    plain = logger_with(logging.NullHandler())
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    queued = logger_with(logging.handlers.QueueHandler(records))  # type: ignore[arg-type]
    listener = logging.handlers.QueueListener(records, logging.NullHandler())  # type: ignore[arg-type]
    listener.start()
    bridged = logger_with(SinkHandler(running))

    configure_log_context("bench", log_sink=running)
    chain = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    info = structlog.make_filtering_bound_logger(logging.INFO)
    into_pipeline = structlog.wrap_logger(
        StructlogLoggerFactory()("bench"), processors=[*chain, PipelineRenderer()], wrapper_class=info
    ).bind()
    with open(os.devnull, "wb") as devnull:
        try:
            import orjson
        except ImportError:
            orjson = None
        rendering = structlog.wrap_logger(
            structlog.BytesLogger(devnull),
            processors=[
                *chain,
                structlog.processors.JSONRenderer(serializer=orjson.dumps) if orjson else _json_bytes(),
            ],
            wrapper_class=info,
        ).bind()

        calls: dict[str, Callable[[], object]] = {
            "rejected": lambda: null.log_debug_event("order.created", PAYLOAD),
            "stdlib rejected": lambda: plain.debug("order created", extra=PAYLOAD),
            "native": lambda: null.log_info_event("order.created", PAYLOAD),
            "stdlib": lambda: plain.info("order created", extra=PAYLOAD),
            "native async": lambda: asynchronous.log_info_event("order.created", PAYLOAD),
            "stdlib queue": lambda: queued.info("order created", extra=PAYLOAD),
            "bridged": lambda: bridged.info("order %s created", 42),
            "stdlib args": lambda: plain.info("order %s created", 42),
            "stdlib queue args": lambda: queued.info("order %s created", 42),
            "structlog": lambda: into_pipeline.info("order.created", order_id="order-42", amount=3, paid=True),
            "structlog orjson": lambda: rendering.info("order.created", order_id="order-42", amount=3, paid=True),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(options.rounds):
            for name, call in calls.items():
                times[name].append(cost(call, options.number))
                running.flush()

    def ratio(ours: str, peer: str, base: str | None = None) -> float:
        return statistics.median(
            (times[ours][i] - (times[base][i] if base else 0)) / (times[peer][i] - (times[base][i] if base else 0))
            for i in range(options.rounds)
        )

    rows = [
        ("rejected by level / disabled logger.debug", ratio("rejected", "stdlib rejected"), 1.0),
        ("native event to a null sink / logger.info to NullHandler", ratio("native", "stdlib"), 0.30),
        ("native event, AsyncioLogSink / QueueHandler", ratio("native async", "stdlib queue"), 0.20),
        ("what SinkHandler adds / what QueueHandler adds", ratio("bridged", "stdlib queue args", "stdlib args"), 0.5),
        (
            f"structlog into the pipeline / {'orjson' if orjson else 'json'} bytes to a null file",
            ratio("structlog", "structlog orjson"),
            0.8,
        ),
    ]
    medians = {name: statistics.median(value) * 1e9 for name, value in times.items()}
    if options.json:
        result = {
            "python": sys.version.split()[0],
            "rounds": options.rounds,
            "number": options.number,
            "ns": medians,
            "rows": [{"name": name, "ratio": value, "goal": goal} for name, value, goal in rows],
        }
        print(json.dumps(result, indent=2))
    else:
        print(f"Python {sys.version.split()[0]}, {options.rounds} rounds of {options.number}")
        for name, value in medians.items():
            print(f"  {name:20} {value:8.0f} ns")
        for name, value, goal in rows:
            print(f"  {value:5.2f} (goal {goal:.2f})  {name}")

    listener.stop()
    end_running()
    reset_logger()


def _json_bytes() -> Callable[..., bytes]:
    render = structlog.processors.JSONRenderer()
    return lambda logger, name, event_dict: str(render(logger, name, event_dict)).encode()


if __name__ == "__main__":
    main()
