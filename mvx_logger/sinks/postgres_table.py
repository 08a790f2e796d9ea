"""The table that `PostgresLogSink` writes to: looked at, made where it is missing, divided by days."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from .. import selflog
from ..errors import LogConfigurationError, LogDeliveryTransientError
from ..masking import describe_error
from .postgres_rows import EARLY, FIELDS, LATE

__all__ = ["PostgresTable", "check_name", "quote_name"]

_MAX_NAME = 63
_DAY_SUFFIX = "_20260512"
_OVERLAPS = "42P17"

_FIND = """
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, a.attname::text AS divided_by,
    current_setting('server_encoding') AS encoding
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_partitioned_table p ON p.partrelid = c.oid AND p.partstrat = 'r' AND p.partnatts = 1
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
WHERE c.oid = to_regclass($1)
"""
_FIND_COLUMNS = """
SELECT a.attname::text AS name, b.typname::text AS type, format_type(a.atttypid, NULL) AS full_type
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
WHERE a.attrelid = $1::int8::oid AND a.attnum > 0 AND NOT a.attisdropped
"""
_FIND_KEYS = """
SELECT i.indexrelid::int8 AS key, a.attname::text AS name
FROM pg_index i
CROSS JOIN LATERAL generate_series(0, i.indnkeyatts - 1) AS number
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[number]
WHERE i.indrelid = $1::int8::oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
"""
_FIND_PARTITIONS = """
SELECT n.nspname::text AS schema, c.relname::text AS name
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE i.inhparent = $1::int8::oid
"""


def quote_name(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def check_name(option: str, name: object, *, reserve: int = 0) -> str:
    """A name of a schema, table or column, checked.

    Raises:
        LogConfigurationError: It is empty, has a NUL in it, or is longer than the 63 bytes (without ``reserve``) that
            PostgreSQL keeps of a name.
        TypeError: It is not a str.
    """
    if not isinstance(name, str):
        raise TypeError(f"{option}: expected a str, got {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0
    if not size or "\0" in name:
        raise LogConfigurationError(f"{option}: {name!r} is no name for PostgreSQL", details={"path": option})
    if size > _MAX_NAME - reserve:
        why = ", so that the names of its partitions fit" if reserve else ""
        raise LogConfigurationError(
            f"{option}: {name!r} has {size} bytes; PostgreSQL keeps {_MAX_NAME}: use at most {_MAX_NAME - reserve}{why}",
            details={"path": option},
        )
    return name


class PostgresTable:
    """One table and what is known of it. Its methods raise what the client raises.

    Args:
        schema: Its schema; None finds it by the search path.
        name: Its name.
        columns: The mapping: see `mvx_logger.sinks.postgres_rows`.
        create: Make it where it is missing, and its schema.
        by_day: Divide it by days where it is made.
        retention_days: Drop partitions of days that are longer ago.

    Attributes:
        name: Its name.
        schema: The schema where it was found.
        id_column: The column of the delivery id; None where there is none.
        sql: Its name as SQL has it.
        oid: Its number in the catalogue.
        types: The type of each of its columns (``pg_type.typname``).
        encoding: The encoding of the database.
        id_type: The type of the column of the delivery id, as SQL has it; None where no key makes that unique.
    """

    def __init__(
        self,
        *,
        schema: str | None,
        name: str,
        columns: Mapping[str, str],
        create: bool,
        by_day: bool,
        retention_days: int | None,
    ) -> None:
        if schema is not None:
            check_name("schema", schema)
        check_name("table", name, reserve=len(_DAY_SUFFIX) if by_day else 0)
        for column in columns:
            check_name(f"columns.{column}", column)
        self.name = name
        self._columns = columns
        self._create = create
        self._by_day = by_day
        self._retention_days = retention_days
        self._time = self.find_column("timestamp")
        if by_day and self._time is None:
            raise LogConfigurationError(
                "partition: needs a column with the field 'timestamp'", details={"path": "partition"}
            )
        self._wanted_schema = self.schema = schema
        self.id_column = self.find_column("delivery_id")
        self.types: Mapping[str, str] = {}
        self.encoding = "UTF8"
        self.id_type: str | None = None
        self.oid = 0
        # The days whose partitions are there; None where it is not divided by days, or not by us.
        self._days: set[str] | None = None
        self.sql = ""
        self._set_schema(schema)

    def _set_schema(self, schema: str | None) -> None:
        self.schema = schema
        self._place = "" if schema is None else f"{quote_name(schema)}."
        self.sql = self._place + quote_name(self.name)

    def find_column(self, field: str) -> str | None:
        """The column that has a field."""
        return next((name for name, source in self._columns.items() if source == field), None)

    def get_order(self) -> str | None:
        """The column that tells the order of rows; None where there is none."""
        return next((name for name in ("id", self._time) if name is not None and self._tells_order(name)), None)

    def _tells_order(self, name: str) -> bool:
        if name == "id" and name not in self._columns:
            return self.types.get(name) in ("int8", "int4")
        return name == self._time and name in self.types

    async def look(self, connection: Any) -> bool:
        """Look at the table; True when it is there."""
        self._set_schema(self._wanted_schema)
        found = await connection.fetchrow(_FIND, self.sql)
        if found is None:
            return False
        self.oid = found["oid"]
        self._set_schema(found["schema"])
        self.encoding = found["encoding"]
        rows = await connection.fetch(_FIND_COLUMNS, self.oid)
        self.types = {row["name"]: row["type"] for row in rows}
        keys: dict[int, set[str]] = {}
        for row in await connection.fetch(_FIND_KEYS, self.oid):
            keys.setdefault(row["key"], set()).add(row["name"])
        is_unique = any(self.id_column in key and key <= {self.id_column, self._time} for key in keys.values())
        self.id_type = next((row["full_type"] for row in rows if is_unique and row["name"] == self.id_column), None)
        self._days = None
        if self._by_day:
            if found["divided_by"] == self._time:
                await self._look_at_partitions(connection)
            else:
                selflog.report(
                    "postgres", "a table is not divided by days", table=self.sql, divided_by=found["divided_by"]
                )
        return True

    async def prepare(self, connection: Any) -> None:
        """Look at the table, and make it where it is missing.

        Raises:
            LogDeliveryTransientError: It is missing, and is not to be made.
        """
        if await self.look(connection):
            return
        if self._create:
            async with connection.transaction():
                await self._wait_for_turn(connection)
                if await self.look(connection):
                    return
                if self._wanted_schema is not None:
                    await self._make_schema(connection, self._wanted_schema)
                await connection.execute(self._make_statements())
            if await self.look(connection):
                return
        raise LogDeliveryTransientError(f"there is no table {self.sql}")

    async def find_ids(self, connection: Any, ids: Sequence[str]) -> set[str]:
        """Those of these delivery ids that are there."""
        assert self.id_column is not None
        column = quote_name(self.id_column)
        rows = await connection.fetch(
            f"SELECT {column}::text FROM {self.sql} WHERE {column} = ANY($1::text[]::{self.id_type}[])",  # noqa: S608
            list(ids),
        )
        return {row[0] for row in rows} & set(ids)

    async def _make_schema(self, connection: Any, schema: str) -> None:
        # Not by IF NOT EXISTS: that needs the right to make one where it is there, too.
        if await connection.fetchval("SELECT 1 FROM pg_namespace WHERE nspname = $1::text", schema) is None:
            await connection.execute(f"CREATE SCHEMA {quote_name(schema)}")

    async def _wait_for_turn(self, connection: Any) -> None:
        # Two that make the same table at once get in each other's way, also with IF NOT EXISTS.
        digest = hashlib.blake2b(f"mvx-logger {self._wanted_schema}.{self.name}".encode(), digest_size=8).digest()
        await connection.fetchval("SELECT pg_advisory_xact_lock($1::int8)::text", int.from_bytes(digest, signed=True))

    def _make_statements(self) -> str:
        lines = [f"{quote_name(name)} {FIELDS.get(source, 'text')}" for name, source in self._columns.items()]
        has_id = "id" not in self._columns
        if has_id:
            lines.insert(0, '"id" bigint GENERATED ALWAYS AS IDENTITY')
        if self.id_column is not None:
            key = [self.id_column] + ([self._time] if self._by_day and self._time is not None else [])
            lines.append(f"PRIMARY KEY ({', '.join(map(quote_name, key))})")
        suffix = f" PARTITION BY RANGE ({quote_name(self._time)})" if self._by_day and self._time is not None else ""
        statements = [f"CREATE TABLE {self.sql} ({', '.join(lines)}){suffix}"]
        indexes = ['("id")'] if has_id else []
        if self._time is not None:
            time = quote_name(self._time)
            indexes.append(f"({time})")
            # An index holds no long texts: only where they are clipped.
            for field in ("event", "entity_id") if "original" in self._columns.values() else ():
                column = self.find_column(field)
                if column is not None:
                    indexes.append(f"({quote_name(column)}, {time}) WHERE {quote_name(column)} IS NOT NULL")
            level = self.find_column("level")
            if level is not None:
                indexes.append(f"({time}) WHERE {quote_name(level)} >= 30")
        statements += [f"CREATE INDEX ON {self.sql} {index}" for index in indexes]
        return "; ".join(statements)

    # ---------------------------------------------------------------------- partitions

    async def ensure_days(self, connection: Any, days: Collection[str]) -> None:
        """Make the partitions of days, where they are missing and the table is divided by days."""
        if self._days is None or self._days.issuperset(days):
            return
        for day in sorted(set(days) - self._days):
            async with connection.transaction():
                await self._wait_for_turn(connection)
                await self._look_at_partitions(connection)
                if day not in self._days:
                    await self._make_partition(connection, day)
            self._days.add(day)

    def forget_days(self) -> bool:
        """Somebody has removed a partition; True where it can be made again."""
        if not self._days:
            return False
        self._days.clear()
        return True

    async def _look_at_partitions(self, connection: Any) -> None:
        self._days = set()
        for row in await connection.fetch(_FIND_PARTITIONS, self.oid):
            prefix, _, day = row["name"].rpartition("_")
            if prefix == self.name:
                self._days.add(day)

    async def _make_partition(self, connection: Any, day: str) -> None:
        name = f"{self._place}{quote_name(f'{self.name}_{day}')}"
        bounds = _get_bounds(day)
        try:
            async with connection.transaction():
                # Attached, it needs no lock that waits for readers of the table; with PARTITION OF it would.
                await connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {name} (LIKE {self.sql} INCLUDING DEFAULTS INCLUDING CONSTRAINTS); "
                    f"ALTER TABLE {self.sql} ATTACH PARTITION {name} FOR VALUES FROM ({bounds[0]}) TO ({bounds[1]})"
                )
        except Exception as err:
            if getattr(err, "sqlstate", None) != _OVERLAPS:  # else one of another name has the day
                raise

    async def keep(self, connection: Any) -> None:
        """Make the partition of tomorrow, and drop those that are too old. What goes wrong is only reported."""
        if self._days is None:
            return
        today = datetime.now(UTC).date()
        try:
            await self.ensure_days(connection, [f"{today:%Y%m%d}", f"{today + timedelta(days=1):%Y%m%d}"])
            if self._retention_days is not None:
                await self._drop_before(connection, f"{today - timedelta(days=self._retention_days):%Y%m%d}")
        except Exception as err:
            selflog.report("postgres", "partitions could not be seen to", table=self.sql, error=describe_error(err))

    async def _drop_before(self, connection: Any, first: str) -> None:
        pattern = re.compile(re.escape(self.name) + r"_(\d{8})")
        for row in await connection.fetch(_FIND_PARTITIONS, self.oid):
            match = pattern.fullmatch(row["name"])
            if match is not None and match[1] < first:
                async with connection.transaction():
                    # It locks the whole table: not behind somebody who reads for long, and everybody else behind us.
                    await connection.execute("SET LOCAL lock_timeout = '1s'")
                    await connection.execute(
                        f"DROP TABLE IF EXISTS {quote_name(row['schema'])}.{quote_name(row['name'])}"
                    )
                if self._days is not None:
                    self._days.discard(match[1])


def _get_bounds(day: str) -> tuple[str, str]:
    if day == EARLY:
        return "MINVALUE", "'2000-01-01 00:00:00+00'"
    if day == LATE:
        return "'2100-01-01 00:00:00+00'", "MAXVALUE"
    first = date.fromisoformat(day)
    return f"'{first} 00:00:00+00'", f"'{first + timedelta(days=1)} 00:00:00+00'"
