"""Row 6: a million events into a file, from the first call to the closed file, and every line of it looked at afterwards.

One thread logs. Whatever has a queue has the thread that empties it too. Ours is bounded, and makes the caller wait
where it is full; those of the peers are not. Each run has an interpreter and a file of its own; the sides take turns. A
figure is a number of events per second, so that a slow peer need not be given as many.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import queue
import tempfile
from collections.abc import Iterable
from typing import Any

import msgspec
from fresh import Stopwatch, fresh_side
from harness import Contest, Options, Row, measure_each

from mvx_logger import AsyncioLogSinkQueueOverflowPolicy, FileLogSink, SinkHandler, configure_log_context

NUMBERS = (6,)

WAITING: dict[str, Any] = {
    "queue_overflow_policy": AsyncioLogSinkQueueOverflowPolicy.BLOCK,
    "block_timeout": 600.0,
    "shutdown_timeout": 600.0,
}
"""The options of a sink that loses nothing, and gets the time that it takes."""


def log_records(logger: Any, number: int) -> None:
    """What all loggers with the standard library's methods are asked to do."""
    info = logger.info
    for index in range(number):
        info("order.created", extra={"order_id": f"order-{index}", "amount": index, "paid": True})


def make_logger(*handlers: logging.Handler) -> logging.Logger:
    """A logger of its own, at INFO."""
    logger = logging.Logger("shop.orders", logging.INFO)
    for handler in handlers:
        logger.addHandler(handler)
    return logger


def run_native(path: str, number: int) -> Stopwatch:
    """A native event into a `FileLogSink`."""
    sink, close = FileLogSink.create(file_path=path, format="json", **WAITING)
    log = configure_log_context("shop.orders", log_sink=sink).log_info_event
    with Stopwatch() as watch:
        for index in range(number):
            log("order.created", {"order_id": f"order-{index}", "amount": index, "paid": True})
        close()
    return watch


def run_bridged(path: str, number: int) -> Stopwatch:
    """A record of the standard library into a `FileLogSink`."""
    sink, close = FileLogSink.create(file_path=path, format="json", **WAITING)
    logger = make_logger(SinkHandler(sink))
    with Stopwatch() as watch:
        log_records(logger, number)
        close()
    return watch


def run_stdlib(path: str, number: int, formatter: logging.Formatter, records: Any = None) -> Stopwatch:
    """`QueueHandler`, `QueueListener` and `FileHandler`; the queue is that of the documentation unless one is given."""
    if records is None:
        records = queue.Queue(-1)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(formatter)
    listener = logging.handlers.QueueListener(records, handler)
    logger = make_logger(logging.handlers.QueueHandler(records))
    listener.start()
    with Stopwatch() as watch:
        log_records(logger, number)
        listener.stop()
        handler.close()
    return watch


def run_stdlib_json(path: str, number: int) -> Stopwatch:
    """With the formatter of python-json-logger."""
    from pythonjsonlogger.json import JsonFormatter

    return run_stdlib(path, number, JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))


def run_stdlib_orjson(path: str, number: int) -> Stopwatch:
    """With that of its formatters that uses orjson, and a faster queue."""
    from pythonjsonlogger.orjson import OrjsonFormatter

    formatter = OrjsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    return run_stdlib(path, number, formatter, queue.SimpleQueue())


def run_stdlib_text(path: str, number: int) -> Stopwatch:
    """With the standard library's own formatter."""
    line = "%(asctime)s %(levelname)s %(name)s %(message)s order_id=%(order_id)s amount=%(amount)s paid=%(paid)s"
    return run_stdlib(path, number, logging.Formatter(line))


def run_loguru(path: str, number: int, *, enqueue: bool = True) -> Stopwatch:
    """loguru, with ``enqueue`` and ``serialize``."""
    from loguru import logger

    logger.remove()
    logger.add(path, serialize=True, enqueue=enqueue)
    info = logger.info
    with Stopwatch() as watch:
        for index in range(number):
            info("order.created", order_id=f"order-{index}", amount=index, paid=True)
        logger.remove()
    return watch


def run_loguru_plain(path: str, number: int) -> Stopwatch:
    """loguru with ``serialize`` alone: the caller writes."""
    return run_loguru(path, number, enqueue=False)


def run_structlog(path: str, number: int) -> Stopwatch:
    """structlog's fastest chain: orjson, and bytes into the file, written by the caller."""
    import orjson
    import structlog

    with open(path, "wb") as file:
        info = structlog.wrap_logger(
            structlog.BytesLogger(file),
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(serializer=orjson.dumps),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        ).bind(logger="shop.orders").info  # fmt: skip
        with Stopwatch() as watch:
            for index in range(number):
                info("order.created", order_id=f"order-{index}", amount=index, paid=True)
            file.close()
    return watch


def run_picologging(path: str, number: int) -> Stopwatch:
    """picologging's `QueueHandler`, `QueueListener` and `FileHandler`. It ignores ``extra``: the values are arguments."""
    import picologging
    import picologging.handlers

    records: Any = queue.SimpleQueue()
    handler = picologging.FileHandler(path)
    handler.setFormatter(picologging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    listener = picologging.handlers.QueueListener(records, handler)
    logger = picologging.Logger("shop.orders", logging.INFO)
    logger.addHandler(picologging.handlers.QueueHandler(records))
    info = logger.info
    listener.start()
    with Stopwatch() as watch:
        for index in range(number):
            info("order.created order_id=%s amount=%s paid=%s", f"order-{index}", index, True)
        listener.stop()
        handler.close()
    return watch


def run_limit(path: str, number: int) -> Stopwatch:
    """No logger at all: the same line by msgspec, and one ``write`` for each thousand."""
    encode = msgspec.json.Encoder().encode
    with open(path, "wb", buffering=0) as file, Stopwatch() as watch:
        lines: list[bytes] = []
        for index in range(number):
            payload = {"order_id": f"order-{index}", "amount": index, "paid": True}
            lines.append(
                encode({"timestamp": 0.0, "level": "INFO", "namespace": "shop.orders", "event": "order.created",
                        "payload": payload})
            )  # fmt: skip
            if len(lines) == 1_000:
                file.write(b"\n".join(lines) + b"\n")
                lines.clear()
        if lines:
            file.write(b"\n".join(lines) + b"\n")
        file.close()
    return watch


TEXT = ("stdlib_text", "picologging")
"""The sides whose lines are no JSON."""


NOTES = {
    "bridged": "ours also writes the source, thread, process and the template of each record",
    "loguru": "its line also holds the source, thread and process, and a text of the whole",
    "picologging": "it ignores extra: the values are arguments of the message; text",
    "structlog": "the caller writes",
    "limit": "no logger: the line by msgspec, a write for each 1,000",
}
PEERS = {
    "stdlib_json": ("QueueListener, FileHandler, python-json-logger", "pythonjsonlogger"),
    "stdlib_orjson": (
        "QueueListener with SimpleQueue, FileHandler, python-json-logger with orjson",
        "pythonjsonlogger orjson",
    ),
    "stdlib_text": ("QueueListener, FileHandler, text", ""),
    "loguru": ("loguru enqueue, serialize", "loguru"),
    "loguru_plain": ("loguru serialize", "loguru"),
    "structlog": ("structlog, orjson", "structlog orjson"),
    "picologging": ("picologging QueueListener, FileHandler", "picologging"),
    "limit": ("msgspec and write", ""),
}
"""What a side is called, and the packages that it needs."""
GOALS = {"stdlib_json": 8.0, "loguru": 25.0}


def run_side(side: str, path: str, number: int) -> dict[str, float]:
    """One run of one side, in this interpreter; whatever is wrong with the file is an error."""
    watch: Stopwatch = globals()[f"run_{side}"](path, number)
    count = 0
    with open(path, "rb") as file:
        for count, line in enumerate(file, 1):
            if f"order-{count - 1}".encode() not in line:
                raise RuntimeError(f"{side}: line {count} is not of event {count - 1}: {line!r}")
            if side not in TEXT:
                msgspec.json.decode(line)
    if count != number:
        raise RuntimeError(f"{side}: {count} lines of {number} events")
    os.unlink(path)
    return {"rate": number / watch.seconds, "cpu": watch.cpu / number * 1e9}


def measure_files(options: Options) -> Iterable[Row]:
    """Row 6."""
    numbers = {"native": options.scaled(1_000_000), "loguru": options.scaled(50_000)}
    usual = options.scaled(200_000)
    with tempfile.TemporaryDirectory(prefix="mvx-files-") as directory, Contest() as contest:

        def add(side: str, name: str, needs: str = "") -> None:
            contest.open(
                name,
                lambda: fresh_side(
                    "rows.files", "run_side", needs,
                    side=side, path=os.path.join(directory, side), number=numbers.get(side, usual),
                ),
            )  # fmt: skip

        add("native", "ours")
        add("bridged", "ours, records")
        for side, (name, needs) in PEERS.items():
            add(side, name, needs)
        results = contest.run(options.rounds(5))
    for side, (name, _) in PEERS.items():
        note = f"{numbers.get(side, usual):,} events of the peer's, {numbers['native']:,} of ours"
        yield results.row(
            6, "native events into a JSON-lines file, end to end", "ours", name,
            goal=GOALS.get(side), judged=side in GOALS, better="higher", figure="rate", unit="events/s",
            note="; ".join([note, *([NOTES[side]] if side in NOTES else [])]),
        )  # fmt: skip
        if side.startswith("stdlib"):
            yield results.row(
                6, "records into a JSON-lines file, end to end", "ours, records", name,
                better="higher", figure="rate", unit="events/s", note=NOTES["bridged"],
            )  # fmt: skip


def measure(options: Options) -> Iterable[Row]:
    """The rows of this module."""
    return measure_each({6: measure_files}, options)
