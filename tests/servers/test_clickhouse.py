"""`mvx_logger.sinks.clickhouse`, with a real (and old) server, and with the engine of a recent one."""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clickhouse_server import ClickHouseServer, needs_chdb, needs_clickhouse
from destinations import (
    PATIENT,
    check_arrived,
    load_recipe,
    log_three_ways,
    make_event,
    make_events,
    make_rich_events,
    survive,
)
from http_receiver import DROP, LOSE, Answer, Documents, Receiver, ReceiverServer
from mvx_logger import LogEvent, LogEventMeta, SinkHandler, selflog
from mvx_logger.bridge.config import resolve_sink, sink_from_url
from mvx_logger.delivery.window import LogEventBatch
from mvx_logger.formats.json import decode_event, encode_event
from mvx_logger.sinks.clickhouse import ClickHouseLogSink
from mvx_logger.sinks.combinators import FallbackSink, FanOutSink, FilterSink
from mvx_logger.sinks.memory import MemoryLogSink
from needs import check
from servers import WAIT, Certificates, Proxy, make_certificates, wait_until

OPTIONAL = ("namespace", "entity_id", "outcome", "message", "source_path", "source_line", "source_func")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    check(needs_clickhouse)
    with ClickHouseServer(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture
def server(shared: ClickHouseServer) -> Iterator[ClickHouseServer]:
    yield shared
    shared.query("DROP TABLE IF EXISTS events")


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ClickHouseServer]:
    """One that a test may kill."""
    check(needs_clickhouse)
    with ClickHouseServer(tmp_path / "clickhouse") as server:
        yield server


@pytest.fixture(scope="module")
def modern(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Modern]:
    check(needs_chdb)
    with Modern(tmp_path_factory.mktemp("modern"), "clickhouse_server:ModernClickHouse") as server:
        yield server


class Modern(ReceiverServer):
    def query(self, query: str) -> str:
        with urllib.request.urlopen(self.url, query.encode(), timeout=20) as answer:
            return str(answer.read().decode())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def make_sink() -> Iterator[Any]:
    made: list[ClickHouseLogSink] = []

    def make(url: str, **options: Any) -> ClickHouseLogSink:
        sink, _ = ClickHouseLogSink.create(url=url, **{**PATIENT, **options})
        made.append(sink)
        return sink

    yield make
    for sink in made:
        sink.close(wait=False)
    for sink in made:
        sink.close()


def log_all(sink: Any, events: list[LogEvent]) -> None:
    for event in events:
        sink.log(event)


def read(server: Any, table: str = "events", *, final: bool = True) -> list[tuple[str, str]]:
    order = "FINAL" if final else ""
    text = server.query(f"SELECT delivery_id, event FROM {table} {order} ORDER BY delivery_id FORMAT JSONEachRow")
    return [(row["delivery_id"], row["event"]) for row in map(json.loads, text.splitlines())]


def read_rows(server: Any, columns: str = "*", table: str = "events") -> list[dict[str, Any]]:
    text = server.query(f"SELECT {columns} FROM {table} FINAL ORDER BY delivery_id FORMAT JSONEachRow")
    return [json.loads(line) for line in text.splitlines()]


def check_row(event: LogEvent, row: dict[str, Any]) -> None:
    line = json.loads(encode_event(event))
    plain = decode_event(encode_event(event))
    source = {f"source_{name}": value for name, value in line.get("source", {}).items()}
    assert (row["level"], int(row["level_no"]), row["event"]) == (line["level"], event.level, line["event"])
    for name in OPTIONAL:
        value = int(row[name]) if name == "source_line" and row[name] is not None else row[name]
        assert value == {**line, **source}.get(name), name
    assert json.loads(row["payload"]) == plain.payload
    for name in ("exception", "stack", "origin"):
        assert (None if row[name] is None else json.loads(row[name])) == line.get(name)
    assert len(row["delivery_id"]) == 36


class TestTheTable:
    @pytest.mark.parametrize("compression", ["none", "gzip"])
    def test_every_field_arrives(self, server: ClickHouseServer, make_sink: Any, compression: str) -> None:
        sink = make_sink(server.url, compression=compression)
        events = make_rich_events()
        log_all(sink, events)
        assert sink.flush(WAIT), sink.stats()
        rows = read_rows(server, "*, toUnixTimestamp(timestamp) AS second")
        assert len(rows) == len(events)
        for event, row in zip(events, rows, strict=True):
            check_row(event, row)
            assert int(row["second"]) + int(row["microsecond"]) / 1e6 == pytest.approx(event.timestamp, abs=1e-6)

    def test_every_field_arrives_at_a_recent_one(self, modern: Modern, make_sink: Any) -> None:
        sink = make_sink(modern.url, table="rich")
        events = make_rich_events()
        log_all(sink, events)
        assert sink.flush(WAIT), sink.stats()
        rows = read_rows(modern, "*, toUnixTimestamp64Micro(timestamp) AS us", "rich")
        assert len(rows) == len(events)
        for event, row in zip(events, rows, strict=True):
            check_row(event, row)
            assert int(row["us"]) == pytest.approx(event.timestamp * 1e6, abs=1)
        statement = modern.query("SHOW CREATE TABLE rich")
        assert "DateTime64(6, \\'UTC\\')" in statement
        assert "LowCardinality(Nullable(String))" in statement
        assert "microsecond" not in statement

    def test_a_stack_arrives(self, server: ClickHouseServer, make_sink: Any) -> None:
        handler = SinkHandler(make_sink(server.url))
        logger = logging.getLogger("tests.clickhouse")
        logger.addHandler(handler)
        try:
            logger.error("where", stack_info=True)
        finally:
            logger.removeHandler(handler)
        assert handler.sink.flush(WAIT)
        assert "test_a_stack_arrives" in json.loads(read_rows(server)[0]["stack"])["text"]

    @pytest.mark.parametrize("is_modern", [False, True])
    def test_a_time_that_it_cannot_hold_becomes_the_nearest(
        self, server: ClickHouseServer, modern: Modern, make_sink: Any, is_modern: bool
    ) -> None:
        there = modern if is_modern else server
        sink = make_sink(there.url, table="times")
        times = [-1e10, 1e11, 1e300, float("nan"), float("inf")]
        log_all(sink, [LogEvent(20, LogEventMeta(None, "x"), None, moment, {}) for moment in times])
        assert sink.flush(WAIT), sink.stats()
        rows = read_rows(there, "toString(timestamp) AS t", "times")
        last = "2299-12-31" if is_modern else "2105-12-31"
        assert [row["t"][:10].replace("0000-00-00", "1970-01-01") for row in rows] == [
            "1970-01-01", last, last, "1970-01-01", "1970-01-01",
        ]  # fmt: skip
        there.query("DROP TABLE times")

    def test_a_table_of_one_s_own_may_have_other_columns(self, server: ClickHouseServer, make_sink: Any) -> None:
        name = "my `strange` \\\\ табель"
        quoted = name.replace("`", "\\`")
        server.query(
            f"CREATE TABLE `{quoted}` (event String, level_no UInt8, timestamp DateTime, more UInt8) ENGINE = Log"
        )
        sink = make_sink(server.url, table=name.replace("\\\\", "\\"))
        log_all(sink, make_events(3))
        assert sink.flush(WAIT), sink.stats()
        text = server.query(f"SELECT event, level_no, more FROM `{quoted}` ORDER BY event FORMAT TabSeparated")
        assert text == "order.0\t20\t0\norder.1\t20\t0\norder.2\t20\t0\n"
        server.query(f"DROP TABLE `{quoted}`")

    def test_a_table_without_a_column_of_ours_is_told(self, server: ClickHouseServer, make_sink: Any) -> None:
        server.query("CREATE TABLE other (x UInt8) ENGINE = Log")
        sink = make_sink(server.url, table="other", shutdown_timeout=0.1)
        sink.log(make_event(0))
        wait_until(lambda: sink.stats().retries > 0, "it fails")
        assert "has none of the columns timestamp" in sink.stats().last_error
        server.query("DROP TABLE other")

    def test_a_table_that_is_missing_is_waited_for(self, server: ClickHouseServer, make_sink: Any) -> None:
        sink = make_sink(server.url, create_table=False)
        sink.log(make_event(0))
        wait_until(lambda: sink.stats().retries > 0, "it fails")
        assert "there is no table `events`" in sink.stats().last_error
        server.query(
            "CREATE TABLE events (delivery_id String, event String) ENGINE = ReplacingMergeTree ORDER BY delivery_id"
        )
        assert sink.flush(WAIT)
        check_arrived(lambda: read(server), 1, exactly_once=True)

    def test_a_table_that_is_dropped_is_made_anew(self, server: ClickHouseServer, make_sink: Any) -> None:
        sink = make_sink(server.url)
        sink.log(make_event(0))
        assert sink.flush(WAIT)
        server.query("DROP TABLE events")
        log_all(sink, make_events(5))
        assert sink.flush(WAIT)
        check_arrived(lambda: read(server), 5, exactly_once=True)

    def test_a_database_of_one_s_own(self, server: ClickHouseServer, make_sink: Any) -> None:
        sink = make_sink(server.url, database="shop")
        sink.log(make_event(0))
        wait_until(lambda: sink.stats().retries > 0, "it fails")
        assert "Database shop doesn't exist" in sink.stats().last_error
        server.query("CREATE DATABASE shop")
        assert sink.flush(WAIT)
        check_arrived(lambda: read(server, "shop.events"), 1, exactly_once=True)
        server.query("DROP DATABASE shop")


class TestAnswers:
    def test_what_does_not_fit_is_refused_and_the_rest_delivered(
        self, server: ClickHouseServer, make_sink: Any, tmp_path: Path
    ) -> None:
        server.query(
            "CREATE TABLE events (delivery_id String, event String, entity_id FixedString(8)) "
            "ENGINE = ReplacingMergeTree ORDER BY delivery_id"
        )
        sink = make_sink(server.url, dead_letter=tmp_path / "dead.jsonl")
        log_all(sink, make_events(150))  # order-100 has nine letters
        wait_until(lambda: not sink.stats().pending, "all is settled")
        stats = sink.stats()
        assert (stats.delivered, stats.dead_lettered) == (100, 50)
        assert (
            "Code: 131"
            in json.loads((tmp_path / "dead.jsonl").read_text().splitlines()[0])["payload"]["_dead_letter"]["error"]
        )

    def test_settings_are_those_of_the_insertion(self, server: ClickHouseServer, make_sink: Any) -> None:
        sink = make_sink(server.url, settings={"max_memory_usage": 1}, shutdown_timeout=0.1)
        sink.log(make_event(0))
        wait_until(lambda: sink.stats().retries > 0, "it fails")
        assert "Code: 241" in sink.stats().last_error

    def test_a_batch_that_comes_again_is_not_inserted_again(self, modern: Modern, make_sink: Any) -> None:
        with Proxy(modern.port) as proxy:
            sink = make_sink(f"http://127.0.0.1:{proxy.port}", table="tokens")
            log_all(sink, make_events(5))
            assert sink.flush(WAIT), sink.stats()
        run = read(modern, "tokens", final=False)

        # As when the answer is lost: the very batch again, under the ids that it had.
        async def insert_twice() -> None:
            direct = ClickHouseLogSink(url=modern.url, table="tokens", **PATIENT)
            await direct._on_starting()
            await direct._on_connecting()
            batch = LogEventBatch._with_ids(make_events(5, 10), [f"again-{number}" for number in range(5)], 1)
            for _ in range(3):
                await direct._dispatch_batch(batch)
            await direct._on_disconnecting()

        asyncio.run(insert_twice())
        found = read(modern, "tokens", final=False)
        assert len(run) == 5
        assert len(found) == 10
        assert "non_replicated_deduplication_window = 1000" in modern.query("SHOW CREATE TABLE tokens")

    def test_a_recent_one_refuses_what_does_not_fit(self, modern: Modern, make_sink: Any, tmp_path: Path) -> None:
        modern.query(
            "CREATE TABLE narrow (delivery_id String, event String, entity_id FixedString(8), level Enum('INFO' = 1), "
            "CONSTRAINT no_13 CHECK event != 'order.13') ENGINE = ReplacingMergeTree ORDER BY delivery_id"
        )
        sink = make_sink(modern.url, table="narrow", dead_letter=tmp_path / "dead.jsonl")
        error = LogEvent(40, LogEventMeta(None, "bad", "x"), None, 0.0, {})
        log_all(sink, [*make_events(20), make_event(100), error])
        wait_until(lambda: not sink.stats().pending, "all is settled")
        letters = [json.loads(line) for line in (tmp_path / "dead.jsonl").read_text().splitlines()]
        assert {letter["event"] for letter in letters} == {"order.13", "order.100", "bad"}
        assert sink.stats().delivered == 19

    @pytest.mark.parametrize("settings", [{"async_insert": True}, ["async_insert=1"]])
    def test_asynchronous_insertions_are_waited_for(self, modern: Modern, make_sink: Any, settings: Any) -> None:
        sink = make_sink(modern.url, table="later", settings=settings)
        log_all(sink, make_events(20))
        assert sink.flush(WAIT), sink.stats()
        assert len(read(modern, "later")) == 20
        modern.query("DROP TABLE later")

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            (Answer(200, "Code: 27. DB::Exception: half-way", {}), "LogDeliveryRefusedError"),
            (Answer(400, "x", {"X-ClickHouse-Exception-Code": "117"}), "LogDeliveryRefusedError"),
            (
                Answer(500, "Code: 252, e.displayText() = DB::Exception: Too many partitions for single INSERT block"),
                "LogDeliveryRefusedError",
            ),
            (
                Answer(500, "Code: 252, e.displayText() = DB::Exception: Too many parts (300)"),
                "LogDeliveryTransientError",
            ),
            (
                Answer(500, "Code: 243, e.displayText() = DB::Exception: Cannot reserve"),
                "LogDeliveryTransientError",
            ),
            (Answer(500, "Code: 241. DB::Exception: Memory limit"), "LogDeliveryError"),
            (Answer(503, "a proxy says no"), "LogDeliveryTransientError"),
            (Answer(413, "a proxy says no"), "LogDeliveryRefusedError"),
        ],
    )
    def test_errors_say_what_may_pass_later(self, make_sink: Any, answer: Answer, kind: str) -> None:
        class Fake(Documents):
            def handle(self, request: Any) -> Answer:
                if b"INSERT" in request.body:
                    return answer
                return Answer(200, "event\tString\n" if b"DESCRIBE" in request.body else "")

        with Receiver(Fake()) as receiver:
            sink = make_sink(receiver.url, shutdown_timeout=0.1)
            sink.log(make_event(0))
            wait_until(lambda: sink.stats().last_error, "it fails")
            assert sink.stats().last_error.startswith(f"{kind}: ")
            sink.close()


class TestOptions:
    def test_the_names_are_the_same_by_keyword_mapping_and_url(self, server: ClickHouseServer) -> None:
        by_keyword, close = ClickHouseLogSink.create(
            url=server.url, username="default", password="", database="default", table="events", compression="gzip"
        )
        by_mapping = resolve_sink(
            {
                "class": "mvx_logger.sinks.clickhouse.ClickHouseLogSink",
                "url": server.url,
                "username": "default",
                "database": "default",
                "table": "events",
                "compression": "gzip",
                "settings": {"max_insert_block_size": 1000},
            }
        )
        by_url = sink_from_url(
            f"clickhouse://default@127.0.0.1:{server.port}/default?table=events&compression=gzip"
            "&settings=max_insert_block_size=1000&create_table=yes".replace("=yes", "=true")
        )
        for sink in (by_keyword, by_mapping.sink, by_url):
            sink.log(make_event(0))
            assert sink.flush(WAIT), sink.stats()
        close()
        by_mapping.release()
        by_url.close()
        assert len(read(server)) == 3

    def test_secrets_are_shown_nowhere(
        self, server: ClickHouseServer, make_sink: Any, selflog_reports: list[selflog.SelfLogReport]
    ) -> None:
        options = {"username": "default", "password": "geheim"}
        descriptor = ClickHouseLogSink.build_descriptor(url=server.url, **options)
        assert descriptor.resource_key == (server.url, None, "events")
        sink = make_sink(server.url, shutdown_timeout=0.1, **options)
        sink.log(make_event(0))
        wait_until(lambda: sink.stats().retries > 0, "it is refused")
        sink.close()
        told = [descriptor, sink, sink.stats(), selflog_reports]
        assert not [text for text in map(repr, told) if "geheim" in text]
        assert "401" in sink.stats().last_error or "Code: 193" in sink.stats().last_error


class TestTrouble:
    @pytest.mark.slow
    def test_events_survive_a_server_that_is_killed(self, own_server: ClickHouseServer, make_sink: Any) -> None:
        sink = make_sink(own_server.url)
        survive(sink, lambda: read(own_server), own_server.restart, exactly_once=True, times=2)

    @pytest.mark.slow
    def test_events_survive_a_server_that_is_frozen(self, own_server: ClickHouseServer, make_sink: Any) -> None:
        sink = make_sink(own_server.url, delivery_timeout=1.0)

        def disturb() -> None:
            own_server.freeze()
            wait_until(lambda: sink.stats().retries > 0, "it is noticed")
            own_server.thaw()

        survive(sink, lambda: read(own_server), disturb, exactly_once=True)

    def test_events_survive_connections_that_are_dropped(self, server: ClickHouseServer, make_sink: Any) -> None:
        with Proxy(server.port) as proxy:
            sink = make_sink(f"http://127.0.0.1:{proxy.port}", batch_max_size=50)

            def disturb() -> None:
                proxy.refuse()
                proxy.drop()
                retries = sink.stats().retries
                wait_until(lambda: sink.stats().retries > retries, "it is noticed")
                proxy.refuse(False)

            survive(sink, lambda: read(server), disturb, exactly_once=True, times=5)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "settings", ["<readonly>1</readonly>", "<max_memory_usage>1000</max_memory_usage>"], ids=["readonly", "memory"]
    )
    def test_events_survive_a_server_that_must_not_write(
        self, own_server: ClickHouseServer, make_sink: Any, settings: str
    ) -> None:
        sink = make_sink(own_server.url)

        def disturb() -> None:
            own_server.set_user(settings=settings)
            retries = sink.stats().retries
            wait_until(lambda: sink.stats().retries > retries + 1, "it is refused")
            own_server.set_user(settings="")

        survive(sink, lambda: read(own_server), disturb, exactly_once=True)
        assert "Code: 164" in sink.stats().last_error or "Code: 241" in sink.stats().last_error

    def test_events_survive_answers_that_are_lost_at_a_recent_one(self, modern: Modern, make_sink: Any) -> None:
        with Proxy(modern.port) as proxy:
            sink = make_sink(f"http://127.0.0.1:{proxy.port}", table="lost", batch_max_size=50)
            survive(sink, lambda: read(modern, "lost"), lambda: drop_busy(proxy, sink), exactly_once=True, times=4)

    def test_a_connection_lost_while_it_looks_at_the_table_is_an_outage(self, make_sink: Any) -> None:
        with Receiver(Documents()) as receiver:
            receiver.script(DROP, Answer(503, headers={"Retry-After": "0"}), LOSE)
            sink = make_sink(receiver.url, shutdown_timeout=0.1)
            sink.log(make_event(0))
            wait_until(lambda: receiver.is_script_over, "the script is over")
            assert sink.stats().pending == 1
            sink.close()


def drop_busy(proxy: Proxy, sink: Any) -> None:
    retries = sink.stats().retries
    wait_until(lambda: proxy.drop() and sink.stats().retries > retries, "a delivery fails", pause=0.005)


class TestTls:
    @pytest.mark.slow
    def test_certificates(self, certificates: Certificates, tmp_path: Path, make_sink: Any) -> None:
        check(needs_clickhouse)
        server = ClickHouseServer(tmp_path / "clickhouse")
        sinks = []
        for number, name in enumerate(("wrong_name", "expired", "self_signed")):
            server.use_tls(certificates, name)
            with server:
                sink = make_sink(f"https://localhost:{server.tls_port}", tls_ca=certificates.ca)
                sinks.append(sink)
                sink.log(make_event(number))
                wait_until(lambda sink=sink: "CERTIFICATE_VERIFY_FAILED" in (sink.stats().last_error or ""), "refused")
                assert sink.stats().pending == 1
        server.use_tls(certificates)
        with server:
            for sink in sinks:
                assert sink.flush(WAIT), sink.stats()
            check_arrived(lambda: read(server), 3, exactly_once=True, in_order=False)
        server.use_tls(certificates, asks=True)
        with server:
            mine = make_sink(
                f"https://localhost:{server.tls_port}",
                tls_ca=certificates.ca,
                tls_cert=certificates.client[0],
                tls_key=certificates.client[1],
            )
            mine.log(make_event(3))
            assert mine.flush(WAIT), mine.stats()
            check_arrived(lambda: read(server), 4, exactly_once=True, in_order=False)


class TestAmongOthers:
    def test_the_recipe(self, server: ClickHouseServer) -> None:
        log_three_ways(load_recipe("clickhouse", {"localhost:8123": f"127.0.0.1:{server.port}"}))
        rows = read_rows(server)
        assert [json.loads(row["payload"])["number"] for row in rows] == [1, 2, 3]
        assert [row["namespace"] for row in rows] == ["shop.legacy", "shop.web", "shop.orders"]

    def test_it_composes(self, server: ClickHouseServer) -> None:
        sink, close = ClickHouseLogSink.create(url=server.url, **PATIENT)
        memory = MemoryLogSink()
        composed = FanOutSink(FilterSink(FallbackSink(sink, memory), min_level=20), memory)
        log_all(composed, [LogEvent(10, LogEventMeta(None, "low"), None, 0.0, {}), *make_events(3)])
        assert composed.flush(WAIT)
        check_arrived(lambda: read(server), 3, exactly_once=True)
        close()
