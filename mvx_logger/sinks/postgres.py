"""`PostgresLogSink`: events into a table of a PostgreSQL database, each one once.

A batch is one ``COPY``, which PostgreSQL takes as a whole or not at all. The table has a unique key over the delivery id.
So a batch that is there already, because its confirmation was lost, is refused; then the sink asks which of its events are
there, and copies the others. That costs nothing until it happens. (A copy into a staging table, to be inserted from there
with ``ON CONFLICT DO NOTHING``, takes half as long again for every batch.)

For the rows see `mvx_logger.sinks.postgres_rows`, for the table `mvx_logger.sinks.postgres_table`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from msgspec import Struct

from ..delivery.sink import AsyncioLogSink, LogDeliveryErrorKind, LogEventBatch
from ..errors import LogConfigurationError, LogDeliveryRefusedError, LogDeliveryTransientError
from ..model import LogEvent
from ..options import check_options, get_options, require_extra
from ..tls import make_tls_context
from .postgres_rows import DELIMITER, POSTGRES_COLUMNS, QUOTE, RowDecoder, RowEncoder, check_columns
from .postgres_table import PostgresTable, quote_name

__all__ = ["POSTGRES_COLUMNS", "PostgresLogSink"]

_UNIQUE_VIOLATION = "23505"
_CHECK_VIOLATION = "23514"
# Classes of SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html
_REFUSED = frozenset(("22", "23", "44", "54", "P0"))
"""Data, integrity constraints, WITH CHECK OPTION, limits (a text of a gigabyte), errors that a trigger raises."""
_UNKNOWN = frozenset(("2F", "38", "39", "XX"))
"""Functions that triggers call, and internal errors: about the event or about the server. All others pass by themselves, or
when somebody has seen to them: to the server, to a right, to a column that is missing."""
_UPKEEP_INTERVAL = 3600.0
_GOODBYE = 1.0
_ROUNDS = 3
_POLL = 0.5
_PAGE = 1_000


class _Server(Struct, frozen=True, kw_only=True):
    """Where to connect, and as whom."""

    host: str
    port: int
    database: str | None
    username: str | None
    password: str | None
    connect_timeout: float
    application_name: str
    tls: Mapping[str, str | None] | None

    def __repr__(self) -> str:
        return f"<{self.host}:{self.port}>"  # nothing secret

    def make_tls(self) -> Any:
        return False if self.tls is None else make_tls_context(**self.tls)

    async def connect(self, client: Any) -> Any:
        return await client.connect(
            host=self.host,
            port=self.port,
            database=self.database,
            user=self.username,
            password=self.password,
            timeout=self.connect_timeout,
            server_settings={"application_name": self.application_name},
            ssl=self.make_tls(),  # anew each time: a certificate may have been renewed
            statement_cache_size=0,
        )


class PostgresLogSink(AsyncioLogSink):
    """Copies events into a table of PostgreSQL (12 or newer). Needs the extra ``postgres``.

    As a URL: ``postgresql://user:password@host:5432/database?table=events``, with options in the query.

    An event is there once, as long as the table has a unique key over the column of the delivery id (or over that and the
    time): one that is made here has. Without such a key, or without that column, an event may be there again after a
    confirmation was lost.

    What PostgreSQL refuses for its content (a constraint of yours, a value that the column's type does not hold, an error
    that a trigger raises) is refused; everything else, from a wrong password to a missing column, waits until it is seen to.

    Args:
        host: A name, an address, or the directory of a socket, which begins with a slash.
        port: The port; it is part of a socket's name, too.
        database: The database; None for one of the user's name.
        username: The role; None for the name of the operating system's user.
        password: Its password; None looks at ``PGPASSWORD`` and ``~/.pgpass``.
        tls: Encrypt, and verify the server's certificate and name.
        tls_ca: A file of certificates (PEM) of the authorities to trust, instead of those of the system.
        tls_cert: A file with a certificate of this client (PEM).
        tls_key: A file with its key, where that is not in the certificate's file.
        tls_key_password: What the key is encrypted with.
        schema: The table's schema; None is the first of the search path, ``public`` as a rule.
        table: The table. Names may have any characters, up to 63 bytes (54 with partitions).
        create_table: Make the table where it is missing, also when it is dropped later, and its schema.
        columns: What stands in each column, by its name: a field (``timestamp``, ``level``, ``event``, ``document``...), a
            value of the payload (``payload.order.id``), or a template (``{namespace}.{event}``); in a URL as a JSON object.
            Other columns have their defaults. None is `POSTGRES_COLUMNS`.
        partition: ``day`` divides a table that is made here by days (UTC).
        retention_days: Drop partitions of days that are more than so many days ago. Needs partitions.
        statement_timeout: Seconds after which the server ends a statement, which also limits how long it waits for a lock.
            Let it be less than ``delivery_timeout``.
        connect_timeout: Seconds for connecting.
        application_name: What ``pg_stat_activity`` shows.
        **async_options: The options of `AsyncioLogSink`.

    Raises:
        LogConfigurationError: An option makes no sense.
        TypeError: An option has the wrong type.
        ValueError: A number is out of range.
    """

    sink_type: ClassVar[str] = "postgres"
    url_schemes: ClassVar[tuple[str, ...]] = ("postgresql", "postgres")
    resource_options: ClassVar[tuple[str, ...]] = ("host", "port", "database", "schema", "table")
    secret_options: ClassVar[tuple[str, ...]] = ("password", "tls_key_password")
    url_parts: ClassVar[Mapping[str, str]] = {
        "hostname": "host",
        "port": "port",
        "username": "username",
        "password": "password",
        "path": "database",
    }

    def __init__(
        self,
        *,
        host: str = "localhost",
        port: int = 5432,
        database: str | None = None,
        username: str | None = None,
        password: str | None = None,
        tls: bool = False,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        tls_key_password: str | None = None,
        schema: str | None = None,
        table: str = "events",
        create_table: bool = True,
        columns: Mapping[str, str] | str | None = None,
        partition: Literal["none", "day"] = "none",
        retention_days: int | None = None,
        statement_timeout: float = 20.0,
        connect_timeout: float = 10.0,
        application_name: str = "mvx-logger",
        **async_options: Any,
    ) -> None:
        texts = {"host": host, "application_name": application_name}
        for name, text in {**texts, "database": database, "username": username, "password": password}.items():
            if not isinstance(text, str) and (text is not None or name in texts):
                raise TypeError(f"{name}: expected a str, got {type(text).__name__}")
        if isinstance(port, bool) or not isinstance(port, int):
            raise TypeError(f"port: expected an int, got {type(port).__name__}")
        if not 0 < port < 65536:
            raise ValueError(f"port: expected 1 to 65535, got {port}")
        if not host:
            raise LogConfigurationError("host: expected a name, an address or a directory", details={"path": "host"})
        if partition not in ("none", "day"):
            raise ValueError(f"partition: {partition!r} is not one of none, day")
        if retention_days is not None:
            _check_number("retention_days", retention_days, whole=True)
            if partition == "none":
                raise LogConfigurationError(
                    "retention_days: needs partition='day': what is dropped is partitions",
                    details={"path": "retention_days"},
                )
        _check_number("statement_timeout", statement_timeout)
        _check_number("connect_timeout", connect_timeout)
        if tls and host.startswith("/"):
            raise LogConfigurationError("tls: there is none on a socket of this machine", details={"path": "tls"})
        files = {"tls_ca": tls_ca, "tls_cert": tls_cert, "tls_key": tls_key}
        for name, text in files.items():
            if text is not None and not tls:
                raise LogConfigurationError(f"{name}: needs tls=True", details={"path": name})
        checked = check_columns(POSTGRES_COLUMNS if columns is None else columns)
        self._columns = checked
        self._table_options: dict[str, Any] = {
            "schema": schema,
            "name": table,
            "columns": checked,
            "create": create_table,
            "by_day": partition == "day",
            "retention_days": retention_days,
        }
        PostgresTable(**self._table_options)  # nothing but checks
        self._server = _Server(
            host=host,
            port=port,
            database=database,
            username=username,
            password=password,
            connect_timeout=connect_timeout,
            application_name=application_name,
            tls={**files, "tls_key_password": tls_key_password} if tls else None,
        )
        self._statement_timeout = statement_timeout
        self._client: Any = None
        self._connection: Any = None
        super().__init__(**async_options)

    async def _on_starting(self) -> None:
        self._client = require_extra("postgres", "asyncpg")
        self._server.make_tls()

    async def _on_connecting(self) -> None:
        # A new one each time: in a forked child, the old one is the parent's.
        self._connection = None
        self._is_fine = False
        connection = await self._server.connect(self._client)
        try:
            await self._prepare(connection)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection
        self._is_fine = True

    async def _prepare(self, connection: Any) -> None:
        timeout = int(self._statement_timeout * 1000) or 1
        await connection.execute(
            # The second ends what is left of us where this machine is gone without a word.
            f"SET statement_timeout = {timeout}; SET idle_in_transaction_session_timeout = {timeout}"
        )
        self._table = PostgresTable(**self._table_options)
        await self._table.prepare(connection)
        self._encoder = RowEncoder(self._columns, self._table.types, self._table.encoding)
        await self._keep_table(connection)

    async def _keep_table(self, connection: Any) -> None:
        self._next_upkeep = time.monotonic() + _UPKEEP_INTERVAL
        await self._table.keep(connection)

    def _is_connection_lost(self) -> bool:
        return bool(self._connection.is_closed())

    async def _on_disconnecting(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._is_fine:
            try:
                await connection.close(timeout=_GOODBYE)
            except (Exception, asyncio.CancelledError):
                connection.terminate()
                raise
        else:
            connection.terminate()

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        self._is_fine = False
        try:
            try:
                await self._copy(events, events.delivery_ids)
            except self._client.UniqueViolationError as err:
                if self._table.id_type is None:
                    raise
                await self._copy_missing(events, events.delivery_ids, err)
        except self._client.PostgresError as err:
            self._raise_refusal(err)
            raise
        if time.monotonic() >= self._next_upkeep:
            await self._keep_table(self._connection)
        self._is_fine = True

    async def _copy(self, events: Sequence[LogEvent], ids: Sequence[str]) -> None:
        data = self._encoder.encode(events, ids)
        await self._ensure_days()
        try:
            await self._copy_rows(data)
        except self._client.CheckViolationError as err:
            # A row that no partition takes comes as such a one, too, but without a constraint.
            if err.constraint_name or not self._table.forget_days():
                raise
            await self._ensure_days()
            await self._copy_rows(data)

    async def _ensure_days(self) -> None:
        try:
            await self._table.ensure_days(self._connection, self._encoder.days)
        except self._client.PostgresError as err:
            # Whatever it is, it is not about the events.
            raise LogDeliveryTransientError(f"a partition cannot be made: {err.args[0]}", cause=err) from err

    async def _copy_rows(self, data: bytes) -> None:
        await self._connection.copy_to_table(
            self._table.name,
            schema_name=self._table.schema,
            columns=self._encoder.names,
            source=memoryview(data),  # bytes would be taken for the path of a file
            format="csv",
            delimiter=DELIMITER,
            quote=QUOTE,
        )

    async def _copy_missing(self, events: Sequence[LogEvent], ids: Sequence[str], error: BaseException) -> None:
        """Copy those that are not there. Whoever wrote the others has committed: the key has made us wait for that."""
        known: set[str] = set()
        for _ in range(_ROUNDS):
            found = await self._table.find_ids(self._connection, ids)
            if found == known:
                raise error  # it is about another key
            known = found
            missing = [index for index, key in enumerate(ids) if key not in known]
            if not missing:
                return
            try:
                await self._copy([events[index] for index in missing], [ids[index] for index in missing])
            except self._client.UniqueViolationError as err:
                error = err
            else:
                return
        raise LogDeliveryTransientError("others write the same events", cause=error)

    def _raise_refusal(self, err: Any) -> None:
        state = str(err.sqlstate)
        if state[:2] not in _REFUSED or (state == _CHECK_VIOLATION and not err.constraint_name):
            return
        self._is_fine = True
        # Without its details, which quote the whole row.
        raise LogDeliveryRefusedError(f"{state}: {err.args[0]}") from None

    def _classify_error(self, error: Any) -> LogDeliveryErrorKind:
        client: Any = self._client
        if isinstance(error, client.PostgresError):
            state = str(error.sqlstate)
            is_unknown = state[:2] in _UNKNOWN or state == _CHECK_VIOLATION
            return LogDeliveryErrorKind.UNKNOWN if is_unknown else LogDeliveryErrorKind.TRANSIENT
        if isinstance(error, (client.InterfaceError, client.InternalClientError)):
            return LogDeliveryErrorKind.TRANSIENT
        return super()._classify_error(error)

    @classmethod
    def read_events(
        cls, *, last: int | None = None, since: float | None = None, follow: bool = False, **options: Any
    ) -> Iterator[LogEvent | None]:
        """Read the events of a table, in the order of its column ``id``, which is the order of arrival; where there is no
        such column, in that of their times.

        A row is only read when it is committed, so that an event may come while later ones were there before it: who
        follows gets it as soon as it is there.

        Not on a thread on which an event loop runs: it runs one.

        Args:
            last: Only the newest so many.
            since: Only what has this time or a later one, in seconds since the epoch.
            follow: Go on for ever, and give None when nothing has come for half a second. Needs a column ``id``.
            **options: Those of the sink.

        Raises:
            LogConfigurationError: An option is wrong, the table is not there, or it cannot be read as events.
            Exception: The server cannot be reached or has gone: what asyncpg raises.
            ValueError: A number is negative.
        """
        if last is not None and last < 0:
            raise ValueError(f"last: expected 0 or more, got {last}")
        checked = check_options(cls, options)
        for name, option in get_options(cls).items():
            checked.setdefault(name, option.default)
        return _read(checked, last, since, follow)


def _read(options: Mapping[str, Any], last: int | None, since: float | None, follow: bool) -> Iterator[LogEvent | None]:
    client = require_extra("postgres", "asyncpg")
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        reader = _Reader(client, options, since)
        try:
            runner.run(reader.open(last, follow))
            while rows := runner.run(reader.read_page()):
                yield from _decode(reader.decoder, rows)
            while follow:
                began = time.monotonic()
                rows = runner.run(reader.read_news())
                if rows:
                    yield from _decode(reader.decoder, rows)
                    continue
                yield None
                left = began + _POLL - time.monotonic()
                if left > 0:
                    time.sleep(left)
        finally:
            runner.run(reader.close())


def _decode(decoder: RowDecoder, rows: Sequence[Sequence[Any]]) -> Iterator[LogEvent]:
    for row in rows:
        event = decoder.decode(row[1:])
        if event is not None:
            yield event


class _Reader:
    """A look at a table: what is there first, in one snapshot, then what comes.

    Numbers are drawn in order, but rows are there when their transactions commit. So what comes is looked for from a *floor*
    on, and what is above it and known is left out. The floor rises when all transactions have ended that may have drawn a
    number below it.
    """

    decoder: RowDecoder

    def __init__(self, client: Any, options: Mapping[str, Any], since: float | None) -> None:
        self._client = client
        self._options = options
        self._since = since
        self._connection: Any = None
        self._transaction: Any = None
        self._cursor: Any = None
        self._floor = 0
        self._known: set[int] = set()
        self._mark: tuple[float, int, int] | None = None

    async def open(self, last: int | None, follow: bool) -> None:
        options = self._options
        columns = check_columns(options["columns"] or POSTGRES_COLUMNS)
        names = ("tls_ca", "tls_cert", "tls_key", "tls_key_password")
        server = {name: options[name] for name in _Server.__struct_fields__}
        server["tls"] = {name: options[name] for name in names} if options["tls"] else None
        self._connection = await _Server(**server).connect(self._client)
        table = PostgresTable(
            schema=options["schema"],
            name=options["table"],
            columns=columns,
            create=False,
            by_day=False,
            retention_days=None,
        )
        if not await table.look(self._connection):
            raise LogConfigurationError(f"table: there is no table {table.sql}", details={"path": "table"})
        decoder = self.decoder = RowDecoder(columns, table.types, quote_name)
        order = table.get_order()
        if follow and order != "id":
            raise LogConfigurationError(
                f"the table {table.sql} has no column 'id' that tells what is new", details={"path": "table"}
            )
        number = '"id"' if order == "id" else "0::int8"
        self._source = f"SELECT {', '.join([number, *decoder.expressions])} FROM {table.sql}"  # noqa: S608 - names are quoted
        self._table, self._oid = table.sql, table.oid
        self._transaction = self._connection.transaction(isolation="repeatable_read", readonly=True)
        await self._transaction.start()
        if follow:
            highest = await self._connection.fetchval(f'SELECT max("id") FROM {table.sql}') or 0  # noqa: S608
            self._floor = max(0, highest - 100 * _PAGE)
            self._known = await self._find_news()
        await self._open_cursor(None if order is None else quote_name(order), last)

    async def _open_cursor(self, order: str | None, last: int | None) -> None:
        statement = self._source
        values: list[Any] = []
        if self._since is not None and self.decoder.since is not None:
            statement += f" WHERE {self.decoder.since}"
            values.append(float(self._since))
        if last is not None:
            values.append(last)
            backwards = "" if order is None else f" ORDER BY {order} DESC"
            statement += f"{backwards} LIMIT ${len(values)}::int8"
            rows = await self._connection.fetch(statement, *values)
            self._rest = rows[::-1] if order is not None else rows
            return
        self._rest = []
        if order is not None:
            statement += f" ORDER BY {order}"
        self._cursor = await self._connection.cursor(statement, *values)

    async def read_page(self) -> Sequence[Any]:
        """The next rows of what was there; nothing at its end."""
        if self._transaction is None:
            return ()
        rows: Sequence[Any]
        if self._cursor is not None:
            rows = await self._cursor.fetch(_PAGE)
        else:
            rows, self._rest = self._rest, []
        if not rows:
            await self._transaction.commit()
            self._transaction = self._cursor = None
        return rows

    async def _find_news(self) -> set[int]:
        rows = await self._connection.fetch(f'SELECT "id" FROM {self._table} WHERE "id" > $1', self._floor)  # noqa: S608
        return {row[0] for row in rows} - self._known

    async def read_news(self) -> Sequence[Any]:
        """Rows that have come since; nothing when there are none."""
        oldest, newest, table = await self._connection.fetchrow(
            "SELECT txid_snapshot_xmin(s), txid_snapshot_xmax(s), to_regclass($1)::oid::int8 "
            "FROM txid_current_snapshot() AS s",
            self._table,
        )
        if table is None:
            return ()
        if table != self._oid:  # it was dropped and made again, and counts from 1
            self._oid, self._floor, self._known, self._mark = table, 0, set(), None
        now = time.monotonic()
        if self._mark is None:
            self._mark = now, max(self._known | {self._floor}), newest
        news = sorted(await self._find_news())
        began, floor, limit = self._mark
        # What had ended before this look is in it.
        if oldest >= limit and now > began + 2 * _POLL and len(news) <= _PAGE:
            self._floor, self._mark = floor, None
            self._known = {number for number in self._known if number > floor}
        found = news[:_PAGE]
        if not found:
            return ()
        self._known.update(found)
        rows: Sequence[Any] = await self._connection.fetch(
            f'{self._source} WHERE "id" = ANY($1::int8[]) ORDER BY "id"', found
        )
        return rows

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            await connection.close(timeout=_GOODBYE)
        except Exception:
            connection.terminate()


def _check_number(name: str, value: object, *, whole: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise TypeError(f"{name}: expected {'an int' if whole else 'a number'}, got {type(value).__name__}")
    # PostgreSQL keeps milliseconds in 32 bits.
    if not 0 < value <= 2_000_000:
        raise ValueError(f"{name}: expected more than 0 and at most 2,000,000, got {value}")
