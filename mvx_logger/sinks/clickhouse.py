"""`ClickHouseLogSink`: events into a table of ClickHouse, by its HTTP interface.

The table, which is made where it is missing:

=================================================  ====================================================================
``timestamp``                                      The event's time, ``DateTime64(6, 'UTC')``. Where the server is too old
                                                   for that, ``DateTime('UTC')``, and ``microsecond`` has the rest.
``delivery_id``                                    The delivery id: unique for an event.
``level``, ``level_no``                            The level's name and number.
``namespace``, ``event``, ``entity_id``,           As in the event; NULL where it has none.
``outcome``, ``message``
``payload``                                        JSON text, for `JSONExtract` and its like.
``source_path``, ``source_line``, ``source_func``  Where it was logged.
``exception``, ``stack``, ``origin``               JSON text, as in `mvx_logger.formats.json`; NULL where there is none.
=================================================  ====================================================================

A table of your own may have any of these columns, with types that take such values, and others beside them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, ClassVar, NoReturn

from ..delivery.sink import LogEventBatch
from ..errors import (
    LogConfigurationError,
    LogDeliveryError,
    LogDeliveryRefusedError,
    LogDeliveryTransientError,
)
from ..formats.document import encode_documents
from ..formats.json import encode_value, format_timestamp
from ..model import LogEvent
from .http import BaseHttpLogSink, add_path, describe_answer, get_retry_after

__all__ = ["ClickHouseLogSink"]

_TEXTS = ("namespace", "entity_id", "outcome", "message")
_JSON = ("exception", "stack", "origin")
_SOURCE = {"path": "source_path", "line": "source_line", "func": "source_func"}
_CODE = re.compile(r"Code: (\d+)[.,]")
_CONTENT_CODES = frozenset({
    6, 25, 26, 27, 32, 33, 38, 41, 53, 69, 70, 72, 117, 130, 131, 321, 349, 376, 407, 441, 469, 675, 676, 691,
})  # fmt: skip
"""A value cannot be parsed, does not fit its column, or violates a constraint."""
_OUTAGE_CODES = frozenset({
    16, 60, 81, 159, 160, 164, 192, 193, 194, 195, 201, 202, 203, 209, 210, 225, 236, 242, 243, 252, 279, 285, 286, 319,
    394, 439, 473, 497, 516, 999,
})  # fmt: skip
"""The table, the user or the right is missing; timeouts, quotas, too many queries or parts, no space, no keeper."""
_TOO_MANY_PARTS = 252
_SETTING = re.compile(r"[a-z][a-z0-9_]*")
_LAST_SECOND = 10_413_791_999
_LAST_SECOND_32 = 4_291_747_199
"""The ends of 2299 and, as old servers have it, of 2105: a time that does not fit becomes the nearest that does."""
_FEATURES = (
    "SELECT name FROM system.settings WHERE name = 'insert_deduplication_token' "
    "UNION ALL SELECT name FROM system.merge_tree_settings WHERE name = 'non_replicated_deduplication_window' "
    "UNION ALL SELECT name FROM system.data_type_families WHERE name = 'DateTime64' FORMAT TabSeparated"
)
_UNKNOWN_TABLE = 60
_WINDOW = 1_000
"""How many of the latest batches a table remembers."""


class ClickHouseLogSink(BaseHttpLogSink):
    """Inserts events into a table of ClickHouse (18.16 and newer). As a URL:
    ``clickhouse://user:password@host:8123/database?table=events``, ``clickhouses://`` with TLS.

    A batch may be inserted again after its confirmation was lost. The table that is made on demand is a
    ReplacingMergeTree ordered by time and delivery id: ``SELECT ... FINAL`` has every event once, and so does the table
    after a merge. Where the server knows ``insert_deduplication_token`` (22.2 and newer), a batch that comes again
    unchanged is not inserted in the first place.

    Args:
        url: Where the server is, ``http://host:8123`` or ``https://host:8443``.
        table: The table.
        database: Its database, which has to be there; None means the user's own.
        create_table: Make the table where it is missing.
        settings: Settings for the insertions, by name, or as a list of ``name=value``: e.g. ``async_insert=1``. An insertion
            is waited for, unless the settings say something else.
        batch_max_size: How many events a batch holds at most. ClickHouse likes few large insertions.
        batch_max_bytes: How many bytes of events a batch holds at most, estimated.
        batch_max_age: How long an event waits for company, in seconds.
        **http_options: The options of `BaseHttpLogSink` and `AsyncioLogSink`. The compression ``zstd`` needs ClickHouse 20
            or newer.

    Raises:
        LogConfigurationError: An option is wrong.
        TypeError: An argument has the wrong type.
    """

    sink_type: ClassVar[str] = "clickhouse"
    url_schemes: ClassVar[tuple[str, ...]] = ("clickhouse", "clickhouses")
    url_parts: ClassVar[Mapping[str, str]] = {**BaseHttpLogSink.url_parts, "path": "database"}
    resource_options: ClassVar[tuple[str, ...]] = ("url", "database", "table")
    content_type: ClassVar[str] = "text/plain; charset=UTF-8"

    def __init__(
        self,
        *,
        url: str = "http://localhost:8123",
        table: str = "events",
        database: str | None = None,
        create_table: bool = True,
        settings: Mapping[str, str | int | float | bool] | Sequence[str] | None = None,
        batch_max_size: int = 10_000,
        batch_max_bytes: int = 16 * 1024 * 1024,
        batch_max_age: float = 1.0,
        **http_options: Any,
    ) -> None:
        self._table = _quote("table", table)
        if database is not None:
            self._table = f"{_quote('database', database)}.{self._table}"
        if not isinstance(create_table, bool):
            raise TypeError(f"create_table: expected a bool, got {type(create_table).__name__}")
        self._creates = create_table
        self._settings = _parse_settings(settings)
        self._columns: dict[str, str] = {}
        self._deduplicates = False
        self._head = b""
        super().__init__(
            url=url,
            batch_max_size=batch_max_size,
            batch_max_bytes=batch_max_bytes,
            batch_max_age=batch_max_age,
            **http_options,
        )

    def _make_url(self) -> str:
        return add_path(self._url, "/", **self._settings)

    async def _on_connecting(self) -> None:
        await super()._on_connecting()
        try:
            await self._prepare_table()
        except BaseException:
            await self._on_disconnecting()  # which nobody else does for what was not made
            raise

    async def _prepare_table(self) -> None:
        features = set((await self._query(_FEATURES)).split())
        self._deduplicates = "insert_deduplication_token" in features
        columns = await self._describe_table()
        if columns is None and self._creates:
            await self._query(make_table(self._table, features))
            columns = await self._describe_table()
        if columns is None:
            raise LogDeliveryTransientError(f"there is no table {self._table}")
        ours = _make_columns(is_new=False)
        self._columns = {name: columns[name] for name in ours if name in columns}
        if not self._columns:
            raise LogDeliveryTransientError(f"the table {self._table} has none of the columns {', '.join(ours)}")
        names = ", ".join(f"`{name}`" for name in self._columns)
        self._head = f"INSERT INTO {self._table} ({names}) FORMAT JSONEachRow".encode()

    async def _describe_table(self) -> dict[str, str] | None:
        """The columns with their types; None where there is no such table."""
        try:
            text = await self._query(f"DESCRIBE TABLE {self._table} FORMAT TabSeparated")
        except _UnknownTableError:
            return None
        return {line.split("\t")[0]: line.split("\t")[1] for line in text.splitlines()}

    async def _query(self, query: str) -> str:
        try:
            answer = await self._request("POST", add_path(self._url, "/"), query.encode())
        except LogDeliveryError as err:  # no event can be at fault
            raise LogDeliveryTransientError(str(err), cause=err) from err
        code = _find_code(answer.headers, answer.body, answer.status)
        if code == _UNKNOWN_TABLE:
            raise _UnknownTableError(describe_answer(*answer))
        if answer.status != 200 or code is not None:
            retry_after = get_retry_after(answer.headers)
            raise LogDeliveryTransientError(describe_answer(*answer), retry_after=retry_after)
        return answer.body.decode()

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        if self._deduplicates:
            token = blake2b("".join(events.delivery_ids).encode(), digest_size=16).hexdigest()
            self._endpoint = add_path(self._make_url(), "", insert_deduplication_token=token)
        await super()._dispatch_batch(events)

    def _encode_batch(self, events: LogEventBatch) -> bytes:
        return b"\n".join([self._head, *encode_documents(self._shape, events, events.delivery_ids), b""])

    def _shape(self, line: dict[str, Any], event: LogEvent, delivery_id: str) -> dict[str, Any]:
        """A row of a document by `mvx_logger.formats.json`."""
        seconds = event.timestamp if math.isfinite(event.timestamp) else 0.0
        row: dict[str, Any] = {
            "delivery_id": delivery_id,
            "level": line["level"],
            "level_no": event.level,
            "event": line["event"],
            "payload": encode_value(line.get("payload") or {}).decode(),
        }
        kind = self._columns.get("timestamp", "")
        if "DateTime" in kind and "DateTime64" not in kind:
            microseconds = round(min(max(seconds, 0.0), _LAST_SECOND_32) * 1e6)
            row["timestamp"], row["microsecond"] = divmod(microseconds, 1_000_000)
        else:
            text = format_timestamp(min(max(seconds, 0.0), _LAST_SECOND))
            row["timestamp"] = f"{text[:10]} {text[11:-1]}"
        for name in _TEXTS:
            row[name] = line.get(name)
        for name in _JSON:
            row[name] = encode_value(line[name]).decode() if name in line else None
        source = line.get("source") or {}
        for name, column in _SOURCE.items():
            row[column] = source.get(name)
        columns = self._columns
        return {name: value for name, value in row.items() if name in columns}

    def _read_response(self, status: int, headers: Mapping[str, str], body: bytes, events: LogEventBatch) -> None:
        if _find_code(headers, body, status) is not None:  # it had begun to answer when it failed
            self._read_failure(status, headers, body, events)

    def _read_failure(self, status: int, headers: Mapping[str, str], body: bytes, events: LogEventBatch) -> NoReturn:
        code = _find_code(headers, body, status)
        if code is None:
            super()._read_failure(status, headers, body, events)
        text = describe_answer(status, headers, body)
        if code in _CONTENT_CODES or (code == _TOO_MANY_PARTS and b"single INSERT block" in body):
            raise LogDeliveryRefusedError(text)
        if code in _OUTAGE_CODES:
            raise LogDeliveryTransientError(text, retry_after=get_retry_after(headers))
        # May be for the content or for the server. Memory (241), say: of the server, or a smaller batch passes.
        raise LogDeliveryError(text)


class _UnknownTableError(LogDeliveryTransientError):
    pass


def _make_columns(*, is_new: bool) -> dict[str, str]:
    """The columns by name, with their types."""
    return {
        "timestamp": "DateTime64(6, 'UTC')" if is_new else "DateTime('UTC')",
        **({} if is_new else {"microsecond": "UInt32"}),
        "delivery_id": "String",
        "level": "String",
        "level_no": "Int64",
        "namespace": "Nullable(String)",
        "event": "String",
        "entity_id": "Nullable(String)",
        "outcome": "Nullable(String)",
        "message": "Nullable(String)",
        "payload": "String",
        "source_path": "Nullable(String)",
        "source_line": "Nullable(Int64)",
        "source_func": "Nullable(String)",
        "exception": "Nullable(String)",
        "stack": "Nullable(String)",
        "origin": "Nullable(String)",
    }


def make_table(table: str, features: set[str]) -> str:
    """The statement that makes the table, for a server with these features."""
    is_new = "DateTime64" in features
    columns = _make_columns(is_new=is_new)
    if is_new:
        for name in ("level", "namespace", "event", "outcome", "source_path", "source_func"):
            columns[name] = f"LowCardinality({columns[name]})"
    body = ", ".join(f"`{name}` {kind}" for name, kind in columns.items())
    order = "timestamp, delivery_id" if is_new else "timestamp, microsecond, delivery_id"
    statement = (
        f"CREATE TABLE IF NOT EXISTS {table} ({body}) ENGINE = ReplacingMergeTree "
        f"PARTITION BY toYYYYMM(timestamp) ORDER BY ({order})"
    )
    if "non_replicated_deduplication_window" in features:
        statement += f" SETTINGS non_replicated_deduplication_window = {_WINDOW}"
    return statement


def _find_code(headers: Mapping[str, str], body: bytes, status: int) -> int | None:
    """The code of the exception that an answer tells of, if it does."""
    text = headers.get("X-ClickHouse-Exception-Code") or ""
    if text.isdigit():
        return int(text)
    found = _CODE.search(body[:4_000].decode("utf-8", "replace"))
    # What is selected may look like an exception, too.
    return int(found[1]) if found is not None and (status != 200 or b"DB::Exception" in body) else None


def _parse_settings(settings: object) -> dict[str, str]:
    pairs: list[tuple[Any, Any]] = []
    if isinstance(settings, Mapping):
        pairs.extend(settings.items())
    elif isinstance(settings, Sequence) and not isinstance(settings, str):
        for item in settings:
            name, equals, value = item.partition("=") if isinstance(item, str) else (None, "", "")
            pairs.append((name if equals else None, value))
    elif settings is not None:
        raise TypeError(f"settings: expected a mapping, got {type(settings).__name__}")
    found: dict[str, str] = {}
    for name, value in pairs:
        if not isinstance(name, str) or not _SETTING.fullmatch(name):
            raise _wrong("settings", "expected a mapping of names to values, or a list of 'name=value'")
        if not isinstance(value, (str, int, float)):
            raise _wrong("settings", f"{name}: expected text or a number")
        if name in ("query", "database", "user", "password", "query_id", "session_id", "insert_deduplication_token"):
            raise _wrong("settings", f"{name} is for the sink to say")
        found[name] = str(int(value)) if isinstance(value, bool) else str(value)
    if "async_insert" in found:
        found.setdefault("wait_for_async_insert", "1")
    return found


def _quote(option: str, name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{option}: expected a str, got {type(name).__name__}")
    if not name or not name.isprintable():
        raise _wrong(option, "expected a name")
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _wrong(option: str, text: str) -> LogConfigurationError:
    return LogConfigurationError(f"{option}: {text}", details={"path": option})
