"""`SqliteLogSink`: events into an embedded store that ``sqlite3`` and ``mvx-logger show`` read.

Each batch is one transaction, and no event is stored twice. For the table and its indexes see
`mvx_logger.sinks.sqlite_store`, for how it is read `mvx_logger.sinks.sqlite_reader`.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import SplitResult, unquote

from .. import selflog
from ..delivery.sink import AsyncioLogSink, LogDeliveryErrorKind, LogEventBatch
from ..errors import LogConfigurationError
from ..options import check_options
from ..protocols import LogSinkDescriptor
from .sqlite_reader import read_events, read_summary
from .sqlite_store import EventStore, SqliteStoreError, check_table_name, classify_error, passes_by_itself

__all__ = ["SqliteLogSink", "SqliteStoreError", "read_events", "read_summary"]


class SqliteLogSink(AsyncioLogSink):
    """Inserts events into a table of a SQLite file. Any number of processes may use one file at once.

    As a URL: ``sqlite:///relative.db`` and ``sqlite:////absolute/path.db`` (as in SQLAlchemy), with options in the query.

    Whatever is wrong with the file counts as transient: it is locked, the disk is full, it may not be written to, it is
    damaged, something else stands in its place. The events wait until somebody has seen to that. (At the start of a sink,
    all but a lock and a full disk is an error.) What is refused for good is an event that SQLite does not take (larger
    than a gigabyte), or that a constraint or trigger of yours forbids.

    Each row has the event's ``delivery_id``, which is unique in the table. So an event is there once, although a batch may
    be handed out again after its commit was not confirmed, or by the next process from the disk queue (``durable``); but
    what retention has removed by then is not known any more.

    A file that is not an event store is refused and left as it is. Limits are enforced with deliveries and at the start;
    freed space is given back to the file system little by little.

    Args:
        path: The file; missing directories are made.
        table: The table: up to 63 letters, digits and underscores. A file may hold several.
        retention_max_age: Remove events whose time is longer ago than so many seconds.
        retention_max_events: Remove the oldest events beyond so many.
        retention_max_bytes: Remove the oldest events when the content of the file (all tables and indexes, without the
            write-ahead log) is larger than so many bytes.
        retention_interval: Look at the limits at most so often, in seconds (and every 10,000 events).
        busy_timeout: Wait so many seconds for other processes that write, then count the attempt as failed: the batch comes
            again later.
        synchronous: As ``PRAGMA synchronous``. With ``normal`` a crash of the process loses nothing, one of the operating
            system the last moments; with ``full`` each batch is on the disk when it counts as delivered.
        queue_max_size: How many events may wait. A local disk catches up with any burst that fits.
        **async_options: The others of `AsyncioLogSink`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.
    """

    url_schemes: ClassVar[tuple[str, ...]] = ("sqlite",)

    def __init__(
        self,
        path: str | Path,
        *,
        table: str = "events",
        retention_max_age: float | None = None,
        retention_max_events: int | None = None,
        retention_max_bytes: int | None = None,
        retention_interval: float = 10.0,
        busy_timeout: float = 10.0,
        synchronous: Literal["off", "normal", "full", "extra"] = "normal",
        queue_max_size: int = 100_000,
        **async_options: Any,
    ) -> None:
        text = os.fspath(path)
        if not isinstance(text, str):
            raise TypeError(f"path: expected a str or a path, got {type(path).__name__}")
        if text in ("", ".", ":memory:"):  # an empty path is "."
            raise ValueError("path: expected a file; a database in memory would be lost with the process")
        check_table_name(table)
        for name, value in (
            ("retention_max_age", retention_max_age),
            ("retention_max_events", retention_max_events),
            ("retention_max_bytes", retention_max_bytes),
            ("retention_interval", retention_interval),
            ("busy_timeout", busy_timeout),
        ):
            _check_limit(name, value, optional=name.startswith("retention_max"))
        if synchronous not in ("off", "normal", "full", "extra"):
            raise ValueError(f"synchronous: {synchronous!r} is not one of off, normal, full, extra")
        self._store_options: dict[str, Any] = {
            "path": os.path.abspath(text),
            "table": table,
            "retention_max_age": retention_max_age,
            "retention_max_events": retention_max_events,
            "retention_max_bytes": retention_max_bytes,
            "retention_interval": retention_interval,
            "busy_timeout": busy_timeout,
            "synchronous": synchronous,
        }
        self._store: EventStore | None = None
        super().__init__(queue_max_size=queue_max_size, **async_options)

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        """Check the options and say what they describe: the resource is the file's absolute path and the table."""
        options = check_options(cls, kwargs)
        path = os.path.abspath(os.fspath(options.pop("path")))
        return cls._describe("sqlite", (path, options.pop("table", "events")), options)

    @classmethod
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        """``sqlite:///relative.db`` or ``sqlite:////absolute/path.db``."""
        path = unquote(url.path)
        if path.startswith("/"):
            path = path[1:]
        if url.netloc or not path or path == ":memory:":
            raise LogConfigurationError(
                "the URL of a store is sqlite:///relative.db or sqlite:////absolute/path.db; there is none in memory",
                details={"scheme": url.scheme},
            )
        return {"path": path}

    async def _on_starting(self) -> None:
        await self._run_blocking(self._start)

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        assert self._store is not None
        await self._run_blocking(self._store.write, events, events.delivery_ids)

    def _classify_error(self, error: BaseException) -> LogDeliveryErrorKind:
        kind = classify_error(error)
        return super()._classify_error(error) if kind is LogDeliveryErrorKind.UNKNOWN else kind

    async def _on_stopped(self) -> None:
        if self._store is not None:
            await self._run_blocking(self._store.close)

    def _start(self) -> None:
        # A new one for each run: in a forked child the old one's locks may be held by threads that are not there.
        self._store = EventStore(**self._store_options)
        try:
            self._store.open()
        except sqlite3.Error as err:
            if not passes_by_itself(err):
                raise
            # The first batch opens it.
            selflog.report("sqlite_open", "a store cannot be opened yet", path=self._store.path, error=str(err))


def _check_limit(name: str, value: object, *, optional: bool) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"{name}: expected 0 or more, got {value}")
