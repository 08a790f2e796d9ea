"""The event store: a SQLite file with one indexed table of events. This is the writing side.

The file is made for `SqliteLogSink` and marked as such (``PRAGMA application_id``, ``PRAGMA user_version``); any other
file is refused and left as it is. It is in WAL mode: readers never wait for writers, and any number of processes write in
turns.

Each event is stored with its delivery id, and a unique index over these sees to it that none is there twice, however often
it is handed out: after a commit that was not confirmed, after a crash, by another process. It costs a seventh of the
time that an insert takes. (A file of version 1 has no such column; each of its tables gets one when it is written to.)

SQLite must not be carried through a fork: a child that inherits a connection, even one that it never touches, shares
the parent's idea of which locks it holds, and may destroy the write-ahead log under the others
(https://www.sqlite.org/howtocorrupt.html, 2.6). So every use of SQLite here goes through a gate: a fork waits until
nobody is inside and every connection is closed; whoever comes next, in the parent and in the child, opens a new one.
"""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, compress, repeat
from operator import is_not
from typing import Any, TypeVar
from urllib.parse import quote
from weakref import WeakSet

import msgspec

from .. import selflog
from ..delivery.schedule import LogDeliveryErrorKind
from ..errors import LoggerError
from ..formats.json import decode_event, encode_event, encode_value, is_plain
from ..formats.text import LEVEL_NAMES, level_name
from ..model import LogEvent, LogEventMeta, LogEventOrigin, LogException, LogStack

__all__ = [
    "APPLICATION_ID",
    "SCHEMA_VERSION",
    "COLUMNS",
    "EventStore",
    "Row",
    "SqliteStoreError",
    "StoreConnection",
    "check_mark",
    "check_table_name",
    "classify_error",
    "event_to_row",
    "explain_error",
    "is_busy",
    "passes_by_itself",
    "row_to_event",
    "rows_to_insert",
    "sqlite_gate",
]

APPLICATION_ID = 0x6D76786C
"""What ``PRAGMA application_id`` says in a file of ours: ``mvxl`` in ASCII."""
SCHEMA_VERSION = 2
"""What ``PRAGMA user_version`` says in a file that this version of the package writes."""

COLUMNS = (
    "timestamp",
    "level",
    "level_name",
    "namespace",
    "event",
    "entity_id",
    "outcome",
    "message",
    "payload",
    "source_path",
    "source_line",
    "source_func",
    "exception",
    "stack",
    "process_id",
    "thread_name",
    "origin",
)

# The order of ids is the order of acceptance; AUTOINCREMENT never gives one again, so that who follows the table by id
# misses nothing after everything was deleted.
_CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS "{table}" (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    timestamp REAL NOT NULL,
    level INTEGER NOT NULL,
    level_name TEXT NOT NULL,
    namespace TEXT,
    event TEXT NOT NULL,
    entity_id TEXT,
    outcome TEXT,
    message TEXT,
    payload TEXT NOT NULL,
    source_path TEXT,
    source_line INTEGER,
    source_func TEXT,
    exception TEXT,
    stack TEXT,
    process_id INTEGER,
    thread_name TEXT,
    origin TEXT,
    delivery_id TEXT
)
"""
# Of these indexes, all but the last two serve "what, in which time".
_SCHEMA = """
CREATE INDEX IF NOT EXISTS "{table}_timestamp" ON "{table}" (timestamp);
CREATE INDEX IF NOT EXISTS "{table}_namespace" ON "{table}" (namespace, timestamp);
CREATE INDEX IF NOT EXISTS "{table}_level" ON "{table}" (level, timestamp);
CREATE INDEX IF NOT EXISTS "{table}_event" ON "{table}" (event, timestamp);
CREATE INDEX IF NOT EXISTS "{table}_entity_id" ON "{table}" (entity_id, timestamp) WHERE entity_id IS NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS "{table}_delivery_id" ON "{table}" (delivery_id) WHERE delivery_id IS NOT NULL;
CREATE VIEW IF NOT EXISTS "{table}_readable" AS SELECT
    id,
    strftime('%Y-%m-%d %H:%M:%f', timestamp, 'unixepoch') AS time_utc,
    level_name AS level,
    namespace,
    event,
    entity_id,
    outcome,
    message,
    payload,
    source_path || ':' || source_line AS source,
    json_extract(exception, '$.text') AS traceback,
    process_id,
    thread_name
FROM "{table}";
"""

_TABLE = re.compile(r"(?!sqlite_)[A-Za-z_][A-Za-z0-9_]{0,62}", re.IGNORECASE)
_BUSY_SLICE = 0.1
_ROWS_AT_ONCE = 250
# Of such a statement, SQLite and Python keep up to half a megabyte, and a copy of what was inserted with it.
_STATEMENTS = 16
# PERM, ABORT, BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, CORRUPT, FULL, CANTOPEN, PROTOCOL, SCHEMA, NOLFS, NOTADB: of
# the file or the machine, and somebody may see to it (https://www.sqlite.org/rescode.html).
_PASSING = frozenset({3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 17, 22, 26})
# Those after which the connection is still good; and 0, TOOBIG, CONSTRAINT and MISMATCH, which concern values.
_HARMLESS = frozenset({0, 5, 6, 7, 9, 13, 18, 19, 20})
_CONSTRAINT_UNIQUE = 2067
_FORK_TIMEOUT = 10.0
_INT64 = 2**63
_PLAIN = frozenset((str, int, float, bool, type(None)))

_encoder = msgspec.json.Encoder()
_payload_decoder = msgspec.json.Decoder(dict[str, Any])
_exception_decoder = msgspec.json.Decoder(LogException)
_stack_decoder = msgspec.json.Decoder(LogStack)
_origin_decoder = msgspec.json.Decoder(LogEventOrigin)

T = TypeVar("T")
Row = tuple[Any, ...]
"""The values of `COLUMNS`."""


class SqliteStoreError(LoggerError, OSError):
    """A file cannot serve as an event store; it was left as it is."""

    reason_code = "sqlite_store"

    def __init__(self, path: str, message: str, *, cause: BaseException | None = None) -> None:
        super().__init__(f"{path}: {message}", details={"path": path}, cause=cause)


# ------------------------------------------------------------------------------------------------- rows and events


def event_to_row(event: LogEvent, *, process_id: int | None = None) -> Row:
    """An event as the values of `COLUMNS`.

    Args:
        event: Any event.
        process_id: Of this process; for the column only, where the event itself does not know.
    """
    return rows_to_insert((event,), (None,), process_id)[0][:-1]


def rows_to_insert(events: Iterable[LogEvent], ids: Iterable[str | None], process_id: int | None) -> list[Row]:
    """Events as the values of `COLUMNS` and their delivery ids.

    Args:
        events: A batch.
        ids: As many; None for an event that has none.
        process_id: As of `event_to_row`.

    Raises:
        Exception: `msgspec` refuses what an event holds.
    """
    rows: list[Row] = []
    append = rows.append
    plain = _PLAIN
    encode = _encoder.encode
    names = LEVEL_NAMES
    for event, key in zip(events, ids, strict=True):
        level = event.level
        meta = event.meta
        payload = event.payload
        origin = event.origin
        exception = event.exception
        stack = event.stack
        text = "{}"
        if payload:
            fits = True
            for value in payload.values():
                if type(value) not in plain:
                    fits = is_plain(payload)
                    break
            text = (encode(payload) if fits else encode_value(payload)).decode()
        append(
            (
                event.timestamp,
                level,
                names.get(level) or level_name(level, origin),
                meta.event_namespace,
                meta.event_name,
                meta.entity_id,
                event.event_outcome,
                event.message,
                text,
                meta.source_path,
                meta.source_line,
                meta.source_func,
                None if exception is None else encode(exception).decode(),
                None if stack is None else encode(stack).decode(),
                process_id if origin is None or origin.process_id is None else origin.process_id,
                None if origin is None else origin.thread_name,
                None if origin is None else encode(origin).decode(),
                key,
            )
        )
    return rows


def _to_row_slowly(event: LogEvent, key: str | None, process_id: int | None) -> Row:
    """For an event that SQLite or msgspec refuses: what JSON can hold of it (see `mvx_logger.formats.json`)."""
    tame = decode_event(encode_event(event), lenient=True)
    timestamp = event.timestamp
    if type(timestamp) is not float or timestamp != timestamp:
        timestamp = tame.timestamp
    row = rows_to_insert((tame,), (key,), process_id)[0]
    return tuple(
        max(-_INT64, min(value, _INT64 - 1)) if type(value) is int else value for value in (timestamp, *row[1:])
    )


def row_to_event(row: Sequence[Any]) -> LogEvent:
    """The event that `event_to_row` made the values from."""
    (
        timestamp, level, _, namespace, name, entity_id, outcome, message, payload,
        path, line, func, exception, stack, _, _, origin,
    ) = row  # fmt: skip
    return LogEvent(
        level,
        LogEventMeta(namespace, name, entity_id, path, line, func),
        outcome,
        timestamp,
        _decode(_payload_decoder, payload, {}),
        message,
        None if exception is None else _decode(_exception_decoder, exception, None),
        None if stack is None else _decode(_stack_decoder, stack, None),
        None if origin is None else _decode(_origin_decoder, origin, None),
    )


def _decode(decoder: msgspec.json.Decoder[Any], text: Any, default: Any) -> Any:
    try:
        return decoder.decode(text)
    except (msgspec.MsgspecError, TypeError, RecursionError):  # somebody has edited the row
        return default


# ------------------------------------------------------------------------------------------------- the gate


class _Gate:
    """Lets any number of threads use SQLite, and a fork only when none does."""

    def __init__(self) -> None:
        self.condition = threading.Condition(threading.Lock())
        self.inside = 0
        self.closed = False

    def __enter__(self) -> None:
        with self.condition:
            while self.closed:
                self.condition.wait()
            self.inside += 1

    def __exit__(self, *exc_info: object) -> None:
        with self.condition:
            self.inside -= 1
            if self.closed:
                self.condition.notify_all()


_gate = _Gate()


def sqlite_gate() -> _Gate:
    """The context in which SQLite may be used: with it left, a fork may close every `StoreConnection`."""
    return _gate


_connections: WeakSet[StoreConnection] = WeakSet()
_is_tainted = False


def _before_fork() -> None:
    gate = _gate
    gate.condition.acquire()
    gate.closed = True
    if gate.condition.wait_for(lambda: not gate.inside, _FORK_TIMEOUT):
        for connection in list(_connections):
            connection.disconnect()


def _after_fork_in_parent() -> None:
    gate = _gate
    if gate.closed:
        gate.closed = False
        gate.condition.notify_all()
        gate.condition.release()


def _after_fork_in_child() -> None:
    global _gate, _is_tainted
    # A disk that hangs: nothing that this process could do with SQLite now is safe.
    _is_tainted = _is_tainted or _gate.inside > 0
    # Something like uwsgi forks without asking first: to close what is the parent's would harm the parent.
    _leaked.extend(connection.leak() for connection in list(_connections))
    _gate = _Gate()


_leaked: list[object] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def _get_state(path: str) -> tuple[int, ...] | None:
    """What changes when anybody writes to the database; None where somebody has it open, or has crashed with it."""
    for suffix in ("-wal", "-journal"):
        try:
            # An empty one is what a reader without the right to remove it has left.
            if os.stat(path + suffix).st_size or suffix == "-journal":
                return None
        except FileNotFoundError:
            pass
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class StoreConnection:
    """A connection that a fork closes. To be used inside of `sqlite_gate` only; ``raw`` may be None each time."""

    def __init__(self) -> None:
        self.raw: sqlite3.Connection | None = None

    def connect(self, path: str, mode: str) -> sqlite3.Connection:
        """Connect anew; ``mode`` as in SQLite's URIs."""
        if _is_tainted:
            raise SqliteStoreError(path, "this process was forked while SQLite was stuck; it cannot use SQLite safely")
        self.disconnect()
        uri = f"file:{quote(os.fsencode(path))}?mode={mode}"
        # Autocommit: transactions are ours. Any thread: one at a time, as the gate and the caller see to.
        raw = self.raw = sqlite3.connect(
            uri,
            uri=True,
            timeout=_BUSY_SLICE,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_STATEMENTS,
        )
        _connections.add(self)
        return raw

    def look(self, path: str, work: Callable[[sqlite3.Connection], T]) -> T:
        """Read from a file without a trace, and close it again.

        A read-only connection in WAL mode makes files beside the database, and may not remove them. So a database that
        nobody has open is read as what it is at this moment, an immutable file; when that turns out to have been wrong,
        the work is done again.
        """
        before = _get_state(path)
        try:
            if before is not None:
                try:
                    result = work(self.connect(path, "ro&immutable=1"))
                except sqlite3.Error:
                    if _get_state(path) == before:
                        raise
                else:
                    if _get_state(path) == before:
                        return result
            return work(self.connect(path, "ro"))
        finally:
            self.disconnect()

    def disconnect(self) -> None:
        """Close it, if it is open."""
        raw, self.raw = self.raw, None
        if raw is not None:
            try:
                raw.close()
            except sqlite3.Error:
                pass

    def leak(self) -> object:
        """Give it up without closing it."""
        raw, self.raw = self.raw, None
        return raw


def is_busy(err: sqlite3.Error) -> bool:
    """True for SQLITE_BUSY and SQLITE_LOCKED, with their extended codes: it may work a moment later."""
    return _get_code(err) in (5, 6)


def passes_by_itself(err: sqlite3.Error) -> bool:
    """True when nobody need do anything about the file: it is busy, or the disk is full."""
    return _get_code(err) in (5, 6, 13)


def _get_code(err: BaseException) -> int:
    # 0 for what does not come from SQLite itself. The upper bits extend the code.
    return getattr(err, "sqlite_errorcode", 0) & 0xFF


def classify_error(err: BaseException) -> LogDeliveryErrorKind:
    """What an error of `EventStore.write` means for the events; UNKNOWN for what does not come from SQLite."""
    if isinstance(err, (OverflowError, UnicodeError, sqlite3.IntegrityError, sqlite3.DataError)):
        return LogDeliveryErrorKind.REFUSED
    return LogDeliveryErrorKind.TRANSIENT if _get_code(err) in _PASSING else LogDeliveryErrorKind.UNKNOWN


def explain_error(path: str, err: sqlite3.Error) -> sqlite3.Error | SqliteStoreError:
    """A clearer error where there is one, else the same."""
    code = _get_code(err)
    if code == 26:  # SQLITE_NOTADB
        return SqliteStoreError(path, "not a SQLite database", cause=err)
    if code == 11:  # SQLITE_CORRUPT
        return SqliteStoreError(
            path,
            f"the database is damaged ({err}); set it aside (sqlite3's '.recover' may save its content)",
            cause=err,
        )
    if code == 14:  # SQLITE_CANTOPEN
        return SqliteStoreError(path, "cannot be opened", cause=err)
    return err


def check_table_name(table: str) -> str:
    """The name, when it is fit for a table.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(table, str) or _TABLE.fullmatch(table) is None:
        raise ValueError(f"table: {table!r} is not a name of up to 63 letters, digits and underscores")
    return table


def check_mark(raw: sqlite3.Connection, path: str) -> bool:
    """True when the database is ours, False when it is empty.

    Raises:
        SqliteStoreError: It is somebody else's, or of a newer version of this package.
    """
    mark = raw.execute("PRAGMA application_id").fetchone()[0]
    version = raw.execute("PRAGMA user_version").fetchone()[0]
    if mark == APPLICATION_ID:
        if version > SCHEMA_VERSION:
            raise SqliteStoreError(
                path,
                f"its schema version is {version}, this mvx-logger knows up to {SCHEMA_VERSION}; update mvx-logger",
            )
        return True
    if mark or version or raw.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise SqliteStoreError(path, "this SQLite database is not an event store of mvx-logger; use another file")
    return False


# ------------------------------------------------------------------------------------------------- writing


class EventStore:
    """Writes events into a store. Blocks; used by one thread at a time. Survives forks.

    Args:
        path: The file; missing directories are made.
        table: The table's name.
        retention_max_age: Seconds that an event is kept.
        retention_max_events: How many events are kept.
        retention_max_bytes: How large the content of the file may be.
        retention_interval: Seconds between two looks at the limits.
        busy_timeout: Seconds to wait for other processes.
        synchronous: ``off``, ``normal``, ``full`` or ``extra``, as in ``PRAGMA synchronous``.
        clock: Tells the time, in seconds since the epoch.

    Raises:
        ValueError: The table's name is none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        table: str = "events",
        retention_max_age: float | None = None,
        retention_max_events: int | None = None,
        retention_max_bytes: int | None = None,
        retention_interval: float = 10.0,
        busy_timeout: float = 10.0,
        synchronous: str = "normal",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self._table = check_table_name(table)
        self._max_age = retention_max_age
        self._max_events = retention_max_events
        self._max_bytes = retention_max_bytes
        self._has_retention = not (retention_max_age is retention_max_events is retention_max_bytes is None)
        self._interval = retention_interval
        self._busy_timeout = busy_timeout
        self._synchronous = synchronous
        self._clock = clock
        self._connection = StoreConnection()
        self._identity: tuple[int, int] | None = None
        self._retained_at: float | None = None
        self._since_retention = 0
        self._insertions: dict[tuple[int, tuple[bool, ...]], str] = {}

    def open(self) -> None:
        """Open the file, make what is missing, and enforce the limits once.

        Raises:
            SqliteStoreError: The file is not ours, of a newer version, damaged, or cannot be opened.
            sqlite3.Error: Anything else.
        """
        self._patiently(self._connect)
        self._enforce(0)

    def close(self) -> None:
        """Close the connection. Writing opens it again."""
        with sqlite_gate():
            self._connection.disconnect()

    def write(self, events: Sequence[LogEvent], ids: Sequence[str] | None = None) -> None:
        """Insert events in one transaction.

        Args:
            events: Any number.
            ids: Their delivery ids. An event whose id is in the table is not inserted again.

        Raises:
            SqliteStoreError: The file cannot serve any more.
            OSError: It, or its directory, cannot be got at.
            sqlite3.Error: They could not be written, none of them. See `classify_error`.
        """
        process_id = os.getpid()
        keys: Sequence[str | None] = (None,) * len(events) if ids is None else ids
        try:
            rows = rows_to_insert(events, keys, process_id)
        except Exception:  # msgspec refuses some event
            rows = [_to_row_slowly(event, key, process_id) for event, key in zip(events, keys, strict=True)]
        try:
            self._patiently(self._write_rows, rows)
        except _UNFIT:
            rows = [_to_row_slowly(event, key, process_id) for event, key in zip(events, keys, strict=True)]
            self._patiently(self._write_rows, rows)
        if self._has_retention:
            self._enforce(len(events))

    # ------------------------------------------------------------------ connecting

    def _patiently(self, work: Callable[..., T], *args: Any) -> T:
        """Do work inside of the gate, again and again while other processes are in the way."""
        deadline = time.monotonic() + self._busy_timeout
        pause = 0.001
        while True:
            try:
                with sqlite_gate():
                    try:
                        return work(*args)
                    except BaseException as err:
                        self._roll_back(err)
                        raise
            except sqlite3.Error as err:
                if not is_busy(err) or time.monotonic() >= deadline:
                    explained = explain_error(self.path, err)
                    if explained is err:
                        raise
                    raise explained from err
                # SQLite has waited for a while itself, but not in every case.
                time.sleep(pause)
                pause = min(pause * 2, 0.05)

    def _roll_back(self, err: BaseException) -> None:
        raw = self._connection.raw
        if raw is not None and raw.in_transaction:
            try:
                raw.execute("ROLLBACK")
            except sqlite3.Error:
                self._connection.disconnect()
        if _get_code(err) not in _HARMLESS:
            # Whoever repairs the file, gives permissions back or makes a table again should not have to wait for us to let
            # go of what was: the next attempt looks at everything anew.
            self._connection.disconnect()

    def _connect(self) -> None:
        path = self.path
        connection = self._connection
        is_new = True
        try:
            status = os.stat(path)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        else:
            if not stat.S_ISREG(status.st_mode):
                raise SqliteStoreError(path, "not a regular file")
            if status.st_size:
                # First a look that cannot change anything.
                is_new = not connection.look(path, lambda raw: check_mark(raw, path))
        raw = connection.connect(path, "rwc")
        try:
            self._prepare(raw, is_new=is_new)
        except BaseException:
            connection.disconnect()
            raise
        status = os.stat(path)
        self._identity = (status.st_dev, status.st_ino)

    def _prepare(self, raw: sqlite3.Connection, *, is_new: bool) -> None:
        if is_new:
            raw.execute("PRAGMA auto_vacuum = INCREMENTAL")  # has an effect before the first table only
        table = self._table
        raw.execute("BEGIN IMMEDIATE")
        if not check_mark(raw, self.path):
            raw.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        raw.execute(_CREATE_TABLE.format(table=table))
        found = {row[1] for row in raw.execute(f'PRAGMA table_info("{table}")')}
        missing = [name for name in ("id", *COLUMNS) if name not in found]
        if missing:
            raise SqliteStoreError(self.path, f"its table {table!r} has no column {missing[0]!r}; use another table")
        if "delivery_id" not in found:
            raw.execute(f'ALTER TABLE "{table}" ADD COLUMN delivery_id TEXT')
        if raw.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
            raw.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        try:
            for statement in _SCHEMA.format(table=table).split(";\n"):
                if statement.strip():
                    raw.execute(statement)
        except sqlite3.IntegrityError as err:
            raise SqliteStoreError(
                self.path, f"events of its table {table!r} share a delivery id; remove one of them", cause=err
            ) from err
        raw.execute(f'SELECT max(id) FROM "{table}"').fetchone()  # noqa: S608 - a damaged table is noticed now
        raw.execute("COMMIT")
        # Where the file system has no shared memory, SQLite stays with the rollback journal: that works too.
        raw.execute("PRAGMA journal_mode = WAL")
        raw.execute(f"PRAGMA synchronous = {self._synchronous}")
        raw.execute("PRAGMA journal_size_limit = 16777216")
        # So that to insert takes no temporary file. (Only now: the indexes of a large table are better made with one.)
        raw.execute("PRAGMA temp_store = MEMORY")

    def _get_raw(self) -> sqlite3.Connection:
        raw = self._connection.raw
        if raw is not None:
            # Somebody may have deleted or replaced the file; SQLite would go on writing to what has no name any more.
            try:
                status = os.stat(self.path)
                if (status.st_dev, status.st_ino) == self._identity:
                    return raw
            except OSError:
                pass
        self._connect()
        raw = self._connection.raw
        assert raw is not None
        return raw

    def _write_rows(self, rows: Sequence[Row]) -> None:
        raw = self._get_raw()
        raw.execute("BEGIN IMMEDIATE")
        try:
            self._insert(raw, rows)
        except sqlite3.IntegrityError as err:
            if err.sqlite_errorcode != _CONSTRAINT_UNIQUE:
                raise
            # Some were there already; of those before them, some are now. ("ON CONFLICT DO NOTHING" would use up a row id
            # for each, and leave gaps.)
            self._insert(raw, self._leave_out(raw, rows))
        raw.execute("COMMIT")

    def _insert(self, raw: sqlite3.Connection, rows: Sequence[Row]) -> None:
        # Many rows with each statement: a row costs less then, and so many fewer times is the GIL let go and asked for
        # again. Otherwise a thread that logs would have it, for as long as it can use it, after each row.
        width = len(COLUMNS) + 1
        size = min(_ROWS_AT_ONCE, raw.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // width)
        whole = len(rows) - len(rows) % size
        if whole:
            # To bind a NULL costs as much as to bind a number, and most columns of most events are NULL.
            columns = list(zip(*rows[:whole], strict=True))
            bound = tuple([any(map(is_not, column, repeat(None))) for column in columns])
            statement = self._get_insertion(size, bound)
            values = list(chain.from_iterable(zip(*compress(columns, bound), strict=True)))
            step = size * sum(bound)
            for start in range(0, len(values), step):
                raw.execute(statement, values[start : start + step])
        if whole < len(rows):
            raw.executemany(self._get_insertion(1, (True,) * width), rows[whole:])

    def _get_insertion(self, size: int, bound: tuple[bool, ...]) -> str:
        """The statement for so many rows, with parameters for some of the columns and NULL for the others."""
        statement = self._insertions.get((size, bound))
        if statement is None:
            row = ", ".join(["?" if is_bound else "NULL" for is_bound in bound])
            statement = (
                f'INSERT INTO "{self._table}" ({", ".join(COLUMNS)}, delivery_id) '  # noqa: S608 - a checked name
                f"VALUES ({'), ('.join([row] * size)})"
            )
            if len(self._insertions) >= _STATEMENTS:
                self._insertions.clear()
            self._insertions[size, bound] = statement
        return statement

    def _leave_out(self, raw: sqlite3.Connection, rows: Sequence[Row]) -> list[Row]:
        """Those of the rows whose delivery ids are not in the table."""
        keys = [row[-1] for row in rows]
        known: set[str] = set()
        for start in range(0, len(keys), 500):
            chunk = keys[start : start + 500]
            marks = ", ".join("?" * len(chunk))
            known.update(
                key
                for (key,) in raw.execute(
                    f'SELECT delivery_id FROM "{self._table}" WHERE delivery_id IN ({marks})',  # noqa: S608
                    chunk,
                )
            )
        return [row for row in rows if row[-1] not in known]

    # ------------------------------------------------------------------ retention

    def _enforce(self, written: int) -> None:
        """Remove what is too much, as far as that is due; trouble with it never concerns the events."""
        if not self._has_retention:
            return
        self._since_retention += written
        now = self._clock()
        # A clock that was set back must not stop it.
        if (
            self._retained_at is not None
            and 0 <= now - self._retained_at < self._interval
            and self._since_retention < 10_000
        ):
            return
        # Twice of what came in: removing keeps pace, and never holds up delivery for long.
        budget = max(10_000, 2 * self._since_retention)
        self._retained_at = now
        self._since_retention = 0
        try:
            while budget > 0:
                step = min(budget, 1_000)
                if self._patiently(self._remove, now, step) < step:
                    break
                budget -= step
            else:
                self._retained_at = now - self._interval + 1.0  # there is more: soon again
            self._patiently(self._shrink)
        except (sqlite3.Error, OSError) as err:
            selflog.report("sqlite_retention", "old events could not be removed", path=self.path, error=str(err))

    def _remove(self, now: float, limit: int) -> int:
        """Remove the oldest events that are too old or too many, up to a number."""
        raw = self._get_raw()
        table = f'"{self._table}"'
        raw.execute("BEGIN IMMEDIATE")
        count = 0
        if self._max_age is not None:
            count += raw.execute(
                f"DELETE FROM {table} WHERE id IN "  # noqa: S608 - a checked name
                f"(SELECT id FROM {table} WHERE timestamp < ? ORDER BY timestamp LIMIT ?)",
                (now - self._max_age, limit),
            ).rowcount
        excess = self._count_excess(raw, table)
        if excess > 0 and count < limit:
            count += raw.execute(
                f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} ORDER BY id LIMIT ?)",  # noqa: S608
                (min(excess, limit - count),),
            ).rowcount
        raw.execute("COMMIT")
        return count

    def _count_excess(self, raw: sqlite3.Connection, table: str) -> int:
        # Ids have no gaps to speak of: their range is the number of events, for the price of two look-ups.
        low, high = raw.execute(
            f"SELECT (SELECT min(id) FROM {table}), (SELECT max(id) FROM {table})"  # noqa: S608
        ).fetchone()
        if low is None:
            return 0
        events = high - low + 1
        excess = 0 if self._max_events is None else events - self._max_events
        if self._max_bytes is not None:
            size = self._get_used_bytes(raw)
            if size > self._max_bytes:
                excess = max(excess, -(-events * (size - self._max_bytes) // size))
        return excess

    def _get_used_bytes(self, raw: sqlite3.Connection) -> int:
        pages, free, size = (
            raw.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def _shrink(self) -> None:
        """Give free pages back to the file system, but for those that the next events will need."""
        raw = self._get_raw()
        pages = raw.execute("PRAGMA page_count").fetchone()[0]
        free = raw.execute("PRAGMA freelist_count").fetchone()[0]
        spare = max(64, pages // 10)
        if free > 2 * spare:
            # It frees one page with each step, and execute() takes one step only.
            raw.executescript(f"PRAGMA incremental_vacuum({min(free - spare, 5_000)})")


# What comes of a value that cannot be bound (a huge int, a lone surrogate, an object), or breaks a NOT NULL (NaN).
_UNFIT = (
    OverflowError,
    UnicodeEncodeError,
    TypeError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    sqlite3.IntegrityError,
    sqlite3.DataError,
)
