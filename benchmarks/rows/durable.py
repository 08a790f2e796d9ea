"""Row 14: what an event costs the thread that logs when it has to survive the process.

With ``durability="async"`` ``log()`` returns before the disk is touched; with ``"commit"`` the event survives a ``kill
-9`` when it returns, and with ``spool_fsync`` a failure of power too. The destination runs, and discards: so our side
has a worker that takes turns with the caller, at each write. No peer has one but `AsynchronousLogstashHandler`; with
the destination frozen, ours has none either.

python-logstash-async stands in two forms. Its `AsynchronousLogstashHandler` runs without a server, with a transport
that discards: it formats the record and leaves it to its thread, which moves it to the SQLite file up to two seconds
later (here, a tenth of a second). Its `DatabaseCache` alone is what that thread does for each event, and what makes it
durable: it opens the file, inserts, waits for the disk and closes the file. Beside it is a SQLite table as well set up
as we know: see ``spool.py``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import msgspec
import peers
import stall
from harness import Contest, Options, Row, Side, measure_each, timed
from spool import SqliteQueue

from mvx_logger import AsyncioLogSinkQueueOverflowPolicy, LogEvent, LogEventMeta

NUMBERS = (14,)

WORKER = "the worker delivers meanwhile, in the same interpreter; the peer has none"

NATIVE = "logger.log_info_event('order.created', PAYLOAD)"
RECORD = "logger.info('order.created', extra=PAYLOAD)"
TEXT = msgspec.json.encode(
    {"@timestamp": "2026-05-12T14:30:25.123Z", "@version": "1", "host": "shop", "level": "INFO", "logger_name": "bench",
     "message": "order.created", "extra": peers.PAYLOAD}
).decode()  # fmt: skip
"""What python-logstash-async makes of an event, without what does not concern it."""


@contextlib.contextmanager
def ours(directory: str, number: int, durability: str, *, fsync: bool = False, frozen: bool = False) -> Iterator[Side]:
    """A native event, with a spool under the sink."""
    sink, close = stall.AsyncSink.create(
        durable=os.path.join(directory, f"spool-{durability}-{fsync}-{frozen}"),
        durability=durability,
        spool_fsync=fsync,
        queue_max_size=peers.ROOM,
        queue_max_bytes=1 << 40,
        queue_overflow_policy=AsyncioLogSinkQueueOverflowPolicy.BLOCK,
        block_timeout=60.0,
        delivery_timeout=None,
        shutdown_timeout=60.0,
    )

    def drain() -> None:
        if not frozen and not sink.flush(60.0):
            raise RuntimeError(f"not everything was delivered: {sink.stats()}")

    if frozen:
        sink.freeze()

    yield timed(NATIVE, number, after=drain, logger=peers.make_context(sink), PAYLOAD=peers.PAYLOAD)
    if frozen:
        sink.thaw()
    close()


@contextlib.contextmanager
def logstash_handler(directory: str, number: int) -> Iterator[Side]:
    """A record to `AsynchronousLogstashHandler`."""
    handlers = peers.load("logstash_async.handler", "python-logstash-async")
    constants = peers.load("logstash_async.constants", "python-logstash-async").constants

    class Discarding:
        def send(self, events: Any, use_logging: bool = False) -> None:
            """Nothing."""

        def close(self) -> None:
            """Nothing."""

    interval, constants.QUEUE_CHECK_INTERVAL = constants.QUEUE_CHECK_INTERVAL, 0.1
    path = os.path.join(directory, "handler.db")
    handler = handlers.AsynchronousLogstashHandler("localhost", 1, database_path=path, transport=Discarding())
    logger = peers.make_logger(handler)

    def drain() -> None:
        handler.flush()
        worker = handler._worker_thread
        while worker._queue.qsize() or worker._flush_event.is_set():
            time.sleep(0.01)

    yield timed(RECORD, number, after=drain, logger=logger, PAYLOAD=peers.PAYLOAD)
    handler.close()
    constants.QUEUE_CHECK_INTERVAL = interval


@contextlib.contextmanager
def logstash_cache(directory: str, number: int) -> Iterator[Side]:
    """A text to `DatabaseCache`."""
    database = peers.load("logstash_async.database", "python-logstash-async")
    cache = database.DatabaseCache(os.path.join(directory, "cache.db"))
    yield timed("add(TEXT)", number, after=partial(empty, cache), add=cache.add_event, TEXT=TEXT)


def empty(cache: Any) -> None:
    """Remove all events, as after they were sent."""
    while cache.get_queued_events():
        cache.delete_queued_events()


@contextlib.contextmanager
def persist_queue(directory: str, number: int) -> Iterator[Side]:
    """An event dict to persist-queue's `SQLiteQueue`."""
    module = peers.load("persistqueue", "persist-queue")
    path = os.path.join(directory, "persist")
    queue = module.SQLiteQueue(path, auto_commit=True, multithreading=True)
    event = {"event": "order.created", "level": "info", **peers.PAYLOAD}
    yield timed("put(event)", number, put=queue.put, event=event)
    queue.close()


@contextlib.contextmanager
def sqlite_table(directory: str, number: int, *, fsync: bool = False) -> Iterator[Side]:
    """A `LogEvent` into a table: no level, no policy, no payload processor, no time is taken."""
    path = os.path.join(directory, f"table-{fsync}")
    os.mkdir(path)
    table = SqliteQueue(path, fsync=fsync)
    event = LogEvent(logging.INFO, LogEventMeta("bench", "order.created"), None, time.time(), peers.PAYLOAD)
    yield timed("append(events)", number, after=table.drain, append=table.append, events=(event,))
    table.close()


SIDES: dict[str, tuple[Callable[[str, int], Any], bool]] = {
    "async": (partial(ours, durability="async"), False),
    "commit": (partial(ours, durability="commit"), False),
    "commit, frozen": (partial(ours, durability="commit", frozen=True), False),
    "commit, fsync": (partial(ours, durability="commit", fsync=True), True),
    "AsynchronousLogstashHandler": (logstash_handler, True),
    "DatabaseCache.add_event": (logstash_cache, True),
    "persist-queue": (persist_queue, True),
    "SQLite table": (sqlite_table, False),
    "SQLite table, fsync": (partial(sqlite_table, fsync=True), True),
}
"""How each side is opened, and whether it waits for the disk or has a thread that does: such get fewer events."""


def measure_durable(options: Options) -> Iterable[Row]:
    """Row 14."""
    number = options.scaled(5_000)
    few = options.scaled(100)
    with tempfile.TemporaryDirectory(prefix="mvx-durable-") as directory, Contest() as contest:
        for name, (make, is_slow) in SIDES.items():
            contest.open(name, partial(make, directory, few if is_slow else number))
        results = contest.run(options.rounds(11))
    what = "log() with a spool, "
    yield results.row(
        14, f"{what}async", "async", "AsynchronousLogstashHandler", note="both leave the disk to another thread"
    )
    for peer in ("DatabaseCache.add_event", "persist-queue", "SQLite table"):
        yield results.row(14, f"{what}commit", "commit", peer, note=WORKER)
    yield results.row(14, f"{what}commit, the destination frozen", "commit, frozen", "SQLite table")
    for peer in ("DatabaseCache.add_event", "SQLite table, fsync"):
        yield results.row(14, f"{what}commit and spool_fsync", "commit, fsync", peer, note=WORKER)


def measure(options: Options) -> Iterable[Row]:
    """The rows of this module."""
    return measure_each({14: measure_durable}, options)
