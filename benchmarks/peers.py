"""Loggers that are ready to be called: the peers', each as its documentation recommends, and ours beside them.

Each function is a context manager that gives a `Target`. One whose package is not installed raises `PeerMissing`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import logging.handlers
import os
import queue
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from harness import PeerMissing, Side, timed

from mvx_logger import (
    AsyncioLogSink,
    LogContext,
    LogEvent,
    LogPayloadProcessor,
    SinkHandler,
    configure_log_context,
    reset_logger,
)
from mvx_logger.bridge.structlog import PipelineRenderer, StructlogLoggerFactory

DISTRIBUTIONS = (
    "msgspec",
    "structlog",
    "orjson",
    "python-json-logger",
    "loguru",
    "opentelemetry-sdk",
    "opentelemetry-instrumentation-logging",
    "picologging",
    "Logbook",
    "python-logstash-async",
    "persist-queue",
)
PAYLOAD = {"order_id": "order-42", "amount": 3, "paid": True}
ROOM = 1_000_000
"""Events that a queue holds: more than one measurement makes."""


@dataclass(frozen=True)
class Target:
    """A logger, and how to wait until everything that it has accepted is delivered."""

    logger: Any
    drain: Callable[[], object] = lambda: None


Opener = Callable[[], AbstractContextManager[Target]]


def find_versions() -> dict[str, str | None]:
    """The versions of the peers by the name of the distribution; None for those that are not installed."""
    versions: dict[str, str | None] = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def load(module: str, distribution: str) -> Any:
    """Import a peer's module; `PeerMissing` where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PeerMissing(f"{distribution} is not installed") from error


def calling(opener: Opener, statement: str, number: int, **names: Any) -> Callable[[], AbstractContextManager[Side]]:
    """What `Contest.open` takes: the side that executes a statement with ``logger`` and ``PAYLOAD``."""

    @contextmanager
    def open_side() -> Iterator[Side]:
        with opener() as target:
            yield timed(statement, number, after=target.drain, logger=target.logger, PAYLOAD=PAYLOAD, **names)

    return open_side


# ---------------------------------------------------------------------- ours


class NullSink:
    """Takes events and does nothing."""

    guards_itself = True

    def log(self, event: LogEvent) -> None:
        """Nothing."""


class DiscardingSink(AsyncioLogSink):
    """Takes batches off the queue and forgets them."""

    async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
        """Nothing."""


def make_context(sink: Any = None, *, processor: LogPayloadProcessor | None = None, **settings: Any) -> LogContext:
    """A context that belongs to no tree; its sink does nothing unless another one is given."""
    return LogContext(
        namespace="bench",
        log_sink=NullSink() if sink is None else sink,
        payload_processor=LogPayloadProcessor() if processor is None else processor,
        **settings,
    )


@contextmanager
def running_sink() -> Iterator[tuple[AsyncioLogSink, Callable[[], None]]]:
    """A sink whose worker runs and discards, with room for everything; and how to empty it."""
    sink, end = DiscardingSink.create(queue_max_size=ROOM, queue_max_bytes=4 * 1024**3)

    def drain() -> None:
        # The default policy raises where the queue is full, and a context tells of that on stderr only.
        if not sink.flush(60) or sink.stats().dropped:
            raise RuntimeError(f"the sink did not take everything: {sink.stats()}")

    try:
        yield sink, drain
    finally:
        end()


@contextmanager
def native_null(**settings: Any) -> Iterator[Target]:
    """A context over a sink that does nothing."""
    yield Target(make_context(**settings))


@contextmanager
def native_async() -> Iterator[Target]:
    """A context over an `AsyncioLogSink` that runs."""
    with running_sink() as (sink, drain):
        yield Target(make_context(sink), drain)


@contextmanager
def sink_handler() -> Iterator[Target]:
    """A logger with a `SinkHandler` into an `AsyncioLogSink` that runs."""
    with running_sink() as (sink, drain):
        yield Target(make_logger(SinkHandler(sink)), drain)


@contextmanager
def structlog_bridge(*before: Any) -> Iterator[Target]:
    """A structlog logger whose chain ends in an `AsyncioLogSink` that runs."""
    with running_sink() as (sink, drain):
        configure_log_context("bench", log_sink=sink)
        try:
            yield Target(wrap(StructlogLoggerFactory()("bench"), *before, PipelineRenderer()), drain)
        finally:
            reset_logger()


# ---------------------------------------------------------------------- the standard library


def make_logger(*handlers: logging.Handler) -> logging.Logger:
    """A logger of the standard library of its own, at INFO."""
    logger = logging.Logger("bench", logging.INFO)
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    return logger


@contextmanager
def null_handler() -> Iterator[Target]:
    """A logger with a `logging.NullHandler`."""
    yield Target(make_logger(logging.NullHandler()))


@contextmanager
def queue_handler(make_queue: Callable[[], Any] = lambda: queue.Queue(-1)) -> Iterator[Target]:
    """A logger with a `QueueHandler` whose listener runs. The queue is that of the documentation."""
    records = make_queue()
    listener = logging.handlers.QueueListener(records, logging.NullHandler())
    listener.start()

    def drain() -> None:
        while not records.empty():
            time.sleep(0.001)

    try:
        yield Target(make_logger(logging.handlers.QueueHandler(records)), drain)
    finally:
        listener.stop()


@contextmanager
def stream_handler(formatter: logging.Formatter | None = None) -> Iterator[Target]:
    """A logger with a `StreamHandler` that writes to the null device."""
    with open(os.devnull, "w") as stream:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter)
        yield Target(make_logger(handler))


@contextmanager
def json_stream_handler() -> Iterator[Target]:
    """The same with the formatter of python-json-logger."""
    formatter = load("pythonjsonlogger.json", "python-json-logger").JsonFormatter()
    with stream_handler(formatter) as target:
        yield target


# ---------------------------------------------------------------------- structlog


class NullLogger:
    """What a structlog chain ends in: takes everything and does nothing."""

    def msg(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    debug = info = warning = error = critical = exception = msg


def wrap(logger: Any, *processors: Any) -> Any:
    """A bound logger that filters at INFO, made once, as structlog's page on performance has it."""
    wrapper = structlog.make_filtering_bound_logger(logging.INFO)
    return structlog.wrap_logger(logger, processors=list(processors), wrapper_class=wrapper).bind()


def production_chain() -> list[Any]:
    """The chain of structlog's page on performance, without the renderer."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


@contextmanager
def structlog_null() -> Iterator[Target]:
    """The production chain into a logger that does nothing: the event dict is not rendered."""
    yield Target(wrap(NullLogger(), *production_chain()))


@contextmanager
def structlog_orjson() -> Iterator[Target]:
    """The production chain with orjson's bytes to the null device."""
    orjson = load("orjson", "orjson")
    with open(os.devnull, "wb") as stream:
        renderer = structlog.processors.JSONRenderer(serializer=orjson.dumps)
        yield Target(wrap(structlog.BytesLoggerFactory(stream)(), *production_chain(), renderer))


# ---------------------------------------------------------------------- the others


@contextmanager
def loguru(*, enqueue: bool = False, serialize: bool = False) -> Iterator[Target]:
    """loguru with one sink that does nothing, and the shortest format. There is one logger for the whole process."""
    logger = load("loguru", "loguru").logger
    logger.remove()
    logger.add(lambda message: None, level="INFO", format="{message}", enqueue=enqueue, serialize=serialize)
    try:
        yield Target(logger, logger.complete)
    finally:
        logger.remove()


@contextmanager
def opentelemetry() -> Iterator[Target]:
    """OpenTelemetry's `LoggingHandler`, a batch processor with room for everything, an exporter that discards."""
    sdk = load("opentelemetry.sdk._logs", "opentelemetry-sdk")
    export = load("opentelemetry.sdk._logs.export", "opentelemetry-sdk")
    try:
        handler_class = load("opentelemetry.instrumentation.logging.handler", "").LoggingHandler
    except PeerMissing:
        handler_class = sdk.LoggingHandler  # deprecated there

    class Discarding:
        def export(self, batch: Sequence[Any]) -> Any:
            return export.LogRecordExportResult.SUCCESS

        def shutdown(self) -> None:
            """Nothing."""

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return True

    provider = sdk.LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(export.BatchLogRecordProcessor(Discarding(), max_queue_size=ROOM))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            handler = handler_class(logger_provider=provider)
        yield Target(make_logger(handler), provider.force_flush)
    finally:
        provider.shutdown()


@contextmanager
def picologging() -> Iterator[Target]:
    """picologging with its `NullHandler`."""
    module = load("picologging", "picologging")
    logger = module.Logger("bench", module.INFO)
    logger.addHandler(module.NullHandler())
    yield Target(logger)


@contextmanager
def logbook(*, completes_records: bool = False) -> Iterator[Target]:
    """Logbook with its `NullHandler`, which keeps it from completing records; or with a handler that has them completed."""
    module = load("logbook", "Logbook")

    class EmptyHandler(module.Handler):  # type: ignore[misc, name-defined]
        def emit(self, record: Any) -> None:
            """Nothing."""

    handler = EmptyHandler(level=module.INFO) if completes_records else module.NullHandler()
    with handler.applicationbound():
        yield Target(module.Logger("bench", level=module.INFO))


@contextmanager
def logstash_async() -> Iterator[Target]:
    """python-logstash-async with its queue in memory and a transport that discards."""
    handlers = load("logstash_async.handler", "python-logstash-async")
    constants = load("logstash_async.constants", "python-logstash-async").constants

    class Discarding:
        def send(self, events: Sequence[Any], use_logging: bool = False) -> None:
            """Nothing."""

        def close(self) -> None:
            """Nothing."""

    interval = constants.QUEUE_CHECK_INTERVAL
    constants.QUEUE_CHECK_INTERVAL = 0.1  # instead of 2 seconds: the queue is to be empty before the next side's turn
    handler = handlers.AsynchronousLogstashHandler("localhost", 1, database_path=None, transport=Discarding())

    def drain() -> None:
        worker = handler._worker_thread
        while worker is not None and worker._queue.qsize():
            time.sleep(0.01)

    try:
        yield Target(make_logger(handler), drain)
    finally:
        handler.close()
        constants.QUEUE_CHECK_INTERVAL = interval
