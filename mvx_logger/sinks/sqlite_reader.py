"""Reading the event store that `SqliteLogSink` writes: events by filters, and counts over time.

The file is opened to read only and for a moment at a time: no writer, and no fork, is ever held up by a reader.
"""

from __future__ import annotations

import os
import sqlite3
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from ..formats.json import encode_value
from ..model import LogEvent
from .sqlite_store import (
    COLUMNS,
    Row,
    SqliteStoreError,
    StoreConnection,
    check_mark,
    check_table_name,
    explain_error,
    is_busy,
    row_to_event,
    sqlite_gate,
)

__all__ = ["EventCount", "StoreSummary", "read_events", "read_summary"]


class _Query:
    """The filters of a reader as SQL."""

    def __init__(
        self,
        *,
        min_level: int | None,
        levels: Sequence[int] | None,
        namespace: str | None,
        event: str | None,
        entity_id: str | None,
        outcome: str | None,
        text: str | None,
        since: float | None,
        until: float | None,
        payload: Mapping[str, Any] | None,
    ) -> None:
        self.terms: list[str] = []
        self.values: list[Any] = []
        if min_level is not None:
            self.add("level >= ?", min_level)
        if levels is not None:
            self.add(f"level IN ({', '.join('?' * len(levels))})", *levels)
        if namespace is not None:
            self._add_namespace(_as_stored(namespace))
        if event is not None:
            self._add_pattern("event", _as_stored(event))
        if entity_id is not None:
            self.add("entity_id = ?", _as_stored(entity_id))
        if outcome is not None:
            self.add("outcome = ?", _as_stored(outcome))
        if since is not None:
            self.add("timestamp >= ?", since)
        if until is not None:
            self.add("timestamp < ?", until)
        if text is not None:
            self._add_text(_as_stored(text))
        for key, value in (payload or {}).items():
            self._add_payload(_as_stored(key), _as_stored(value) if isinstance(value, str) else value)

    def add(self, term: str, *values: Any) -> None:
        self.terms.append(f"({term})")
        self.values += values

    def get_where(self) -> str:
        return f" WHERE {' AND '.join(self.terms)}" if self.terms else ""

    def _add_pattern(self, column: str, pattern: str) -> None:
        if _is_pattern(pattern):
            self.add(f"{column} GLOB ?", pattern.replace("[!", "[^"))
        else:
            self.add(f"{column} = ?", pattern)

    def _add_namespace(self, namespace: str) -> None:
        if _is_pattern(namespace):
            self._add_pattern("namespace", namespace)
        else:
            # "/" follows "." in ASCII: everything below the namespace, and the index can be used.
            self.add("namespace = ? OR (namespace >= ? AND namespace < ?)", namespace, f"{namespace}.", f"{namespace}/")

    def _add_text(self, text: str) -> None:
        plain = _like(text)
        inside = _like(encode_value(text).decode()[1:-1])
        columns = ("namespace", "event", "entity_id", "message")
        documents = ("payload", "exception")
        terms = [f"{name} LIKE ? ESCAPE '\\'" for name in (*columns, *documents)]
        self.add(" OR ".join(terms), *[plain] * len(columns), *[inside] * len(documents))

    def _add_payload(self, key: str, value: Any) -> None:
        terms: list[str] = []
        values: list[Any] = []
        for path in _json_paths(key):
            found, kind = "json_extract(payload, ?)", "json_type(payload, ?)"
            if value is None:
                terms.append(f"{kind} = 'null'")
                values.append(path)
            elif isinstance(value, bool):
                terms.append(f"{kind} = ?")
                values += (path, "true" if value else "false")
            elif isinstance(value, (int, float)):
                terms.append(f"{kind} IN ('integer', 'real') AND {found} = ?")
                values += (path, path, value)
            else:
                # Text stands for whatever reads so: 42 as well as "42", true as well as "true".
                terms.append(f"CAST({found} AS TEXT) = ? OR ({kind} IN ('true', 'false', 'null') AND {kind} = ?)")
                values += (path, str(value), path, path, str(value))
        self.add(f"json_valid(payload) AND ({' OR '.join(f'({term})' for term in terms)})", *values)


def _as_stored(text: str) -> str:
    """The text that is stored for one that is not UTF-8, and that SQLite takes."""
    return text.encode(errors="backslashreplace").decode()


def _is_pattern(text: str) -> bool:
    return any(character in text for character in "*?[")


def _like(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def _json_paths(key: str) -> list[str]:
    # ``a.b`` may be one key or two; ``a.0`` a key or a place in a list. SQLite has no escape for a quote.
    if not key or '"' in key or "\0" in key:
        raise ValueError(f"payload: {key!r} is not a path like 'order.id' or 'items.0'")
    parts = key.split(".")
    paths = [f'$."{key}"']
    if len(parts) > 1:
        paths.append("$" + "".join(f'."{part}"' for part in parts))
        if any(part.isdigit() for part in parts[1:]):
            paths.append(
                "$"
                + "".join(f"[{part}]" if index and part.isdigit() else f'."{part}"' for index, part in enumerate(parts))
            )
    return paths


class _Reader:
    """Short looks at a store: no connection and no transaction outlives a look, so that no writer is held up."""

    def __init__(self, path: str | os.PathLike[str], table: str) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self.table = check_table_name(table)
        self._connection = StoreConnection()

    def fetch(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        if not os.path.exists(self.path):
            raise SqliteStoreError(self.path, "no such file")
        deadline = time.monotonic() + 10.0
        while True:
            try:
                with sqlite_gate():
                    return self._connection.look(self.path, lambda raw: self._fetch(raw, statement, values))
            except sqlite3.Error as err:
                if not is_busy(err) or time.monotonic() >= deadline:
                    explained = explain_error(self.path, err)
                    if explained is err:
                        raise
                    raise explained from err
                time.sleep(0.01)

    def _fetch(self, raw: sqlite3.Connection, statement: str, values: Sequence[Any]) -> list[Row]:
        if not check_mark(raw, self.path):
            raise SqliteStoreError(self.path, "it is empty")
        found = raw.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (self.table,)).fetchone()
        if found is None:
            raise SqliteStoreError(self.path, f"it has no table {self.table!r}")
        return raw.execute(statement, values).fetchall()


def read_events(
    path: str | os.PathLike[str],
    *,
    table: str = "events",
    min_level: int | None = None,
    levels: Sequence[int] | None = None,
    namespace: str | None = None,
    event: str | None = None,
    entity_id: str | None = None,
    outcome: str | None = None,
    text: str | None = None,
    since: float | None = None,
    until: float | None = None,
    payload: Mapping[str, Any] | None = None,
    after_id: int | None = None,
    limit: int | None = None,
    last: int | None = None,
) -> Iterator[tuple[int, LogEvent]]:
    """Read events from a store, in the order in which they were accepted.

    The file is opened to read only, for a thousand events at a time: writers are never held up, and what is written
    meanwhile is read too. To follow a store, call again with the last id as ``after_id``.

    Args:
        path: The store's file.
        table: The table's name.
        min_level: Only this level and above.
        levels: Only these levels.
        namespace: Only this namespace and those below it; or a shell pattern (``shop.*``, case-sensitive).
        event: Only events of this name; or a shell pattern.
        entity_id: Only of this entity.
        outcome: Only with this outcome.
        text: Only where names, message, payload or exception contain it; ASCII letters in any case.
        since: Only from this time on, in seconds since the epoch.
        until: Only before this time.
        payload: Only where the payload has these values: a key, or a path like ``order.id`` or ``items.0``, to a value. A
            str matches whatever reads like it (``"42"`` the number too); other values match their own type.
        after_id: Only events with a larger id.
        limit: At most so many, the first ones.
        last: At most so many, the last ones.

    Yields:
        The event's id in the table, and the event.

    Raises:
        SqliteStoreError: The file is not there, not a store, newer, or damaged.
        ValueError: An argument makes no sense.
    """
    reader = _Reader(path, table)
    query = _Query(
        min_level=min_level, levels=levels, namespace=namespace, event=event, entity_id=entity_id, outcome=outcome,
        text=text, since=since, until=until, payload=payload,
    )  # fmt: skip
    for name, value in (("limit", limit), ("last", last)):
        if value is not None and value < 0:
            raise ValueError(f"{name}: expected 0 or more, got {value}")
    if last is not None:
        return _read_last(reader, query, after_id, last, limit)
    if after_id is None and query.terms:
        return _read_found(reader, query, limit)
    return _read_on(reader, query, -1 if after_id is None else after_id, limit)


_NAMES = f"id, {', '.join(COLUMNS)}"


def _read_on(reader: _Reader, query: _Query, after_id: int, limit: int | None) -> Iterator[tuple[int, LogEvent]]:
    # By id and by nothing else: what is to be read is the end of the table, or all of it.
    query.add("id > ?", after_id)
    statement = f'SELECT {_NAMES} FROM "{reader.table}" NOT INDEXED{query.get_where()} ORDER BY id LIMIT ?'  # noqa: S608
    left = limit
    while left is None or left > 0:
        size = 1000 if left is None else min(left, 1000)
        rows = reader.fetch(statement, (*query.values, size))
        for row in rows:
            yield row[0], row_to_event(row[1:])
        if len(rows) < size:
            return
        query.values[-1] = rows[-1][0]
        if left is not None:
            left -= size


def _read_found(reader: _Reader, query: _Query, limit: int | None) -> Iterator[tuple[int, LogEvent]]:
    # The ids first, by whatever index is best: asking for the next thousand would search and sort anew each time.
    found = reader.fetch(
        f'SELECT id FROM "{reader.table}"{query.get_where()} ORDER BY id LIMIT ?',  # noqa: S608
        (*query.values, -1 if limit is None else limit),
    )
    ids = array("q", (row[0] for row in found))
    del found
    for start in range(0, len(ids), 500):
        chunk = ids[start : start + 500]
        marks = ", ".join("?" * len(chunk))
        rows = reader.fetch(
            f'SELECT {_NAMES} FROM "{reader.table}" WHERE id IN ({marks}) ORDER BY id',  # noqa: S608
            chunk,
        )
        for row in rows:
            yield row[0], row_to_event(row[1:])


def _read_last(
    reader: _Reader, query: _Query, after_id: int | None, last: int, limit: int | None
) -> Iterator[tuple[int, LogEvent]]:
    if after_id is not None:
        query.add("id > ?", after_id)
    rows = reader.fetch(
        f'SELECT {_NAMES} FROM "{reader.table}"{query.get_where()} ORDER BY id DESC LIMIT ?',  # noqa: S608
        (*query.values, last),
    )
    rows.reverse()
    for row in rows[:limit]:
        yield row[0], row_to_event(row[1:])


class EventCount(Struct, frozen=True):
    """How many events there are of one namespace and level in one stretch of time.

    Attributes:
        start: When the stretch begins, in seconds since the epoch.
        namespace: The namespace; None for events without one.
        level: The level's number.
        level_name: Its name.
        count: How many.
    """

    start: float
    namespace: str | None
    level: int
    level_name: str
    count: int


class StoreSummary(Struct, frozen=True):
    """What a store holds.

    Attributes:
        count: How many events.
        first: The time of the oldest, in seconds since the epoch; None when there are none.
        last: The time of the newest.
        bucket_seconds: How long a stretch of time in ``counts`` is.
        counts: By time, namespace and level, in this order; stretches without events are left out.
    """

    count: int
    first: float | None
    last: float | None
    bucket_seconds: float
    counts: tuple[EventCount, ...]


def read_summary(
    path: str | os.PathLike[str],
    *,
    table: str = "events",
    buckets: int = 60,
    bucket_seconds: float | None = None,
    min_level: int | None = None,
    levels: Sequence[int] | None = None,
    namespace: str | None = None,
    event: str | None = None,
    entity_id: str | None = None,
    outcome: str | None = None,
    text: str | None = None,
    since: float | None = None,
    until: float | None = None,
    payload: Mapping[str, Any] | None = None,
) -> StoreSummary:
    """Count the events of a store by namespace and level over time.

    Args:
        path: The store's file.
        table: The table's name.
        buckets: Into how many stretches the time from the first to the last event is divided.
        bucket_seconds: How long a stretch is instead; they begin at its multiples.
        min_level: This and all the others: as for `read_events`.
        levels: See there.
        namespace: See there.
        event: See there.
        entity_id: See there.
        outcome: See there.
        text: See there.
        since: See there.
        until: See there.
        payload: See there.

    Raises:
        SqliteStoreError: The file is not there, not a store, newer, or damaged.
        ValueError: An argument makes no sense.
    """
    if buckets < 1 or (bucket_seconds is not None and not bucket_seconds > 0):
        raise ValueError("buckets and bucket_seconds have to be positive")
    reader = _Reader(path, table)
    query = _Query(
        min_level=min_level, levels=levels, namespace=namespace, event=event, entity_id=entity_id, outcome=outcome,
        text=text, since=since, until=until, payload=payload,
    )  # fmt: skip
    source = f'FROM "{table}"{query.get_where()}'
    ((count, first, last),) = reader.fetch(f"SELECT count(*), min(timestamp), max(timestamp) {source}", query.values)
    if not count:
        return StoreSummary(0, None, None, bucket_seconds or 0.0, ())
    if bucket_seconds is None:
        origin = first
        # A little more than needed, so that the last event is in the last stretch and not behind it.
        width = max((last - first) / buckets * (1 + 1e-9), 1e-6)
    else:
        origin, width = 0.0, bucket_seconds
    rows = reader.fetch(
        f"SELECT CAST((timestamp - ?) / ? AS INTEGER) - ((timestamp - ?) < 0) AS bucket, namespace, level, "
        f"max(level_name), count(*) {source} GROUP BY bucket, namespace, level ORDER BY bucket, namespace, level",
        (origin, width, origin, *query.values),
    )
    counts = tuple(EventCount(origin + row[0] * width, *row[1:]) for row in rows)
    return StoreSummary(count, first, last, width, counts)
