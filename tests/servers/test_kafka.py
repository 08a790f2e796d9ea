"""Kafka: a real broker that speaks its protocol, read back with confluent-kafka."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mvx_logger
from destinations import (
    PATIENT,
    load_recipe,
    log_three_ways,
    make_event,
    make_events,
    make_rich_events,
    survive,
    wait_for_error,
)
from kafka_server import Gate, KafkaServer, ObjectStore, Producer, needs_kafka
from mvx_logger import LogEvent, LogEventMeta, MemoryLogSink, selflog
from mvx_logger.formats.json import decode_event, encode_event
from mvx_logger.sinks.kafka import KafkaLogSink
from mvx_logger.sinks.kafka_client import clean_topic
from servers import WAIT, Proxy, find_free_port, make_certificates, wait_until

pytestmark = needs_kafka


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with ObjectStore(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
def server(tmp_path: Path) -> Iterator[KafkaServer]:
    """A broker that keeps messages in memory, with a topic ``logs`` of one partition."""
    with KafkaServer(tmp_path / "kafka") as server:
        server.make_topic("logs")
        yield server


@pytest.fixture
def lasting(tmp_path: Path, store: ObjectStore) -> Iterator[KafkaServer]:
    """One whose messages survive it."""
    bucket = f"kafka-{os.urandom(4).hex()}"
    store.make_bucket(bucket)
    with KafkaServer(tmp_path / "kafka", store, bucket) as server:
        server.make_topic("logs")
        yield server


@pytest.fixture
def make_sink() -> Iterator[Callable[..., KafkaLogSink]]:
    sinks: list[KafkaLogSink] = []

    def make(server: KafkaServer | None = None, **options: Any) -> KafkaLogSink:
        if server is not None:
            options.setdefault("servers", server.address)
        sink, _ = KafkaLogSink.create(**{**PATIENT, **options})
        sinks.append(sink)
        return sink

    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [sink.close() for sink in sinks])
        yield make


def log_all(sink: KafkaLogSink, events: list[LogEvent]) -> None:
    for event in events:
        sink.log(event)
    assert sink.flush(timeout=WAIT), sink.stats()


def read_numbers(server: KafkaServer, topic: str = "logs") -> list[int]:
    return [json.loads(message.value())["payload"]["number"] for message in server.read(topic)]


class TestFields:
    def test_every_field_arrives(self, server: KafkaServer, make_sink: Any) -> None:
        """What a consumer decodes is the event; headers and time are its own."""
        events = make_rich_events()
        log_all(make_sink(server), events)
        messages = server.read()
        assert [decode_event(message.value()) for message in messages] == [
            decode_event(encode_event(event)) for event in events
        ]
        headers = [dict(message.headers()) for message in messages]
        ids = [header["delivery-id"].decode() for header in headers]
        assert ids == sorted(set(ids))
        assert [header["level"].decode() for header in headers] == ["DEBUG", "WARNING", "CRITICAL", "Level 25", "ERROR"]
        assert [header["namespace"].decode() for header in headers] == ["", "shop.pay", "shop", "shop", "shop.legacy"]
        assert [message.timestamp()[1] for message in messages[1:4]] == [
            int(event.timestamp * 1_000) for event in events[1:4]
        ]
        assert {message.key() for message in messages} == {None}

    def test_strange_times_arrive(self, server: KafkaServer, make_sink: Any) -> None:
        """A message whose time Kafka cannot hold has that of the producer."""
        times = [-5.0, 0.0, 1e300, float("nan"), float("inf"), 1e12]
        log_all(make_sink(server), [LogEvent(20, LogEventMeta(None, "e"), None, stamp, {}) for stamp in times])
        assert all(message.timestamp()[1] > 1_600_000_000_000 for message in server.read())


class TestTopicsAndKeys:
    def test_topics_of_templates(self, server: KafkaServer, make_sink: Any) -> None:
        """Fields make topics, and what no topic may have becomes an underscore."""
        sink = make_sink(server, topic="shop-{namespace|none}.{payload.tenant|a/b}")
        log_all(
            sink, [make_event(0, tenant="ä x:1"), make_event(1), LogEvent(20, LogEventMeta(None, "n"), None, 0.0, {})]
        )
        for topic in ("shop-shop.orders.__x_1", "shop-shop.orders.a_b", "shop-none.a_b"):
            assert len(server.read(topic)) == 1

    @pytest.mark.parametrize(
        ("text", "topic"),
        [("a.b-c_D9", "a.b-c_D9"), ("a/b c", "a_b_c"), ("", "_"), ("..", "_"), ("x" * 300, "x" * 249)],
    )
    def test_clean_topic(self, text: str, topic: str) -> None:
        """A broker takes it."""
        assert clean_topic(text) == topic

    def test_events_of_a_key_stay_in_order(self, server: KafkaServer, make_sink: Any) -> None:
        """Each key has one partition, the one that other clients put it into, and there they are in order."""
        server.make_topic("keyed", 4)
        sink = make_sink(server, topic="keyed", key="{payload.user}")
        log_all(sink, [make_event(number, user=f"user-{number % 7}") for number in range(700)])
        places = defaultdict(set)
        numbers = defaultdict(list)
        for message in server.read("keyed"):
            places[message.key()].add(message.partition())
            numbers[message.key()].append(json.loads(message.value())["payload"]["number"])
        assert len(numbers) == 7
        assert all(len(partitions) == 1 for partitions in places.values())
        assert all(found == sorted(found) and len(found) == 100 for found in numbers.values())
        assert len(set().union(*places.values())) > 1
        # murmur2("user-1") as Java's producer has it, see its DefaultPartitioner.
        own = Producer({**server.config, "partitioner": "murmur2"})
        placed: dict[Any, Any] = {}
        for key in numbers:
            own.produce(
                "other", b"x", key, on_delivery=lambda _, message: placed.update({message.key(): message.partition()})
            )
        own.flush(WAIT)
        assert placed == {key: next(iter(partitions)) for key, partitions in places.items()}

    def test_an_empty_key_is_none(self, server: KafkaServer, make_sink: Any) -> None:
        """Such messages are spread, and not all put into one partition."""
        log_all(make_sink(server, key="{payload.user}"), [make_event(0), make_event(1, user="")])
        assert [message.key() for message in server.read()] == [None, None]


class TestOptions:
    def test_by_url(self, server: KafkaServer) -> None:
        """The query has the same names."""
        handler = mvx_logger.SinkHandler(f"kafka://{server.address}/logs?compression=zstd&key={{level}}&linger=0.01")
        try:
            log_all(handler.sink, make_events(2))  # type: ignore[arg-type]
        finally:
            handler.close()
        assert [message.key() for message in server.read()] == [b"info"] * 2

    @pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
    def test_compression(self, server: KafkaServer, make_sink: Any, compression: str) -> None:
        """All of them need no further package, and what is compressed is smaller on its way."""
        meter = Meter(server)
        with meter:
            server.advertised = meter.port
            server.restart()
            server.make_topic("logs")
            sink = make_sink(server, compression=compression, linger=0.2)
            log_all(sink, [make_event(number, text="the same again " * 20) for number in range(200)])
            sink.close()
            assert len(server.read()) == 200
            assert (meter.bytes < 60_000) is (compression != "none"), meter.bytes

    def test_acks_of_the_leader(self, server: KafkaServer, make_sink: Any) -> None:
        """For who wants no more."""
        log_all(make_sink(server, acks="leader", idempotent=False), make_events(100))
        assert read_numbers(server) == list(range(100))

    def test_more_than_the_producer_keeps(self, server: KafkaServer, make_sink: Any) -> None:
        """A batch may be larger than its queue."""
        sink = make_sink(server, batch_max_size=10_000)
        sink._config["queue.buffering.max.messages"] = 100
        log_all(sink, make_events(2_000))
        assert read_numbers(server) == list(range(2_000))
        assert not sink.stats().retries

    def test_secrets_stay_secret(self, server: KafkaServer, make_sink: Any) -> None:
        """Neither descriptor, repr, statistics nor reports have them."""
        descriptor = KafkaLogSink.build_descriptor(username="bob", password="wrong-secret")
        assert "secret" not in repr(descriptor)
        assert "secret" not in json.dumps(descriptor.to_log_payload(), default=str)
        reports: list[Any] = []
        before = selflog.redirect(reports.append)
        try:
            with Gate(server.port) as gate:
                gate.password = "right-secret"
                sink = make_sink(
                    servers=f"127.0.0.1:{gate.port}", username="bob", password="wrong-secret", shutdown_timeout=0.1
                )
                sink.log(make_event(0))
                wait_for_error(sink, "authentication")
                seen = f"{sink!r} {sink.stats()}"
                sink.close()
        finally:
            selflog.redirect(before)
        assert "secret" not in seen
        assert reports
        assert "secret" not in repr(reports)


class Meter(Proxy):
    """Counts what goes to the broker."""

    def __init__(self, server: KafkaServer) -> None:
        super().__init__(server.port)
        self.bytes = 0

    async def _pass_on(self, reader: Any, writer: Any) -> None:
        if writer.get_extra_info("peername")[1] == self._target[1]:
            with contextlib.suppress(OSError):
                while data := await reader.read(1 << 16):
                    self.bytes += len(data)
                    writer.write(data)
                    await writer.drain()
        else:
            await super()._pass_on(reader, writer)


class TestLoginAndTls:
    """The broker speaks neither: what stands before it does."""

    @pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
    def test_login(self, lasting: KafkaServer, make_sink: Any, mechanism: str) -> None:
        """The right password is taken; with a wrong one events wait until it is right."""
        with Gate(lasting.port) as gate, lasting.behind(gate.port):
            gate.mechanism, gate.password = mechanism, "right"
            sink = make_sink(lasting, username="bob", password="right", mechanism=mechanism)
            log_all(sink, make_events(3))
            late = make_sink(lasting, username="bob", password="other", mechanism=mechanism)
            for event in make_events(3, 3):
                late.log(event)
            wait_for_error(late, "authentication")
            assert late.stats().delivered == 0
            gate.password = "other"
            assert late.flush(timeout=WAIT)
            sink.close()
            late.close()
        assert read_numbers(lasting) == list(range(6))

    def test_the_right_certificate(self, lasting: KafkaServer, make_sink: Any, tmp_path: Path) -> None:
        """Also with one of the client, and with a password on top."""
        made = make_certificates(tmp_path / "tls")
        with Gate(lasting.port, tls=made.right, client_ca=made.ca) as gate, lasting.behind(gate.port):
            gate.password = "right"
            login = {"username": "bob", "password": "right"}
            sink = make_sink(
                lasting, tls=True, tls_ca=made.ca, tls_cert=made.client[0], tls_key=made.client[1], **login
            )
            log_all(sink, make_events(3))
            without = make_sink(lasting, tls=True, tls_ca=made.ca, shutdown_timeout=0.1, **login)
            without.log(make_event(9))
            wait_until(lambda: without.stats().retries, "it is not let in")
            assert without.stats().pending == 1
            sink.close()
            without.close()
        assert read_numbers(lasting) == [0, 1, 2]

    @pytest.mark.parametrize("name", ["wrong_name", "expired", "self_signed"])
    def test_a_certificate_that_is_wrong(self, lasting: KafkaServer, make_sink: Any, tmp_path: Path, name: str) -> None:
        """Nothing goes there; the events arrive once the broker has the right one."""
        made = make_certificates(tmp_path / "tls")
        with Gate(lasting.port, tls=getattr(made, name)) as gate, lasting.behind(gate.port):
            sink = make_sink(lasting, tls=True, tls_ca=made.ca)
            for event in make_events(5):
                sink.log(event)
            wait_for_error(sink, "certificate")
            assert sink.stats().delivered == 0
            gate.use_certificate(made.right)
            assert sink.flush(timeout=WAIT)
            sink.close()
        assert read_numbers(lasting) == list(range(5))


class TestTrouble:
    @pytest.mark.slow
    def test_killed(self, lasting: KafkaServer, make_sink: Any) -> None:
        """SIGKILL under load: all is there; the producer brings most of it through by itself."""
        # Not idempotent: this broker notes the number of a batch before it has it, and takes it for known after a kill.
        sink = make_sink(lasting, idempotent=False)
        survive(sink, lasting.read_names, lasting.restart, count=600, exactly_once=False, is_noticed=False)

    @pytest.mark.slow
    def test_killed_and_everything_forgotten(self, server: KafkaServer, make_sink: Any) -> None:
        """A broker that loses what it had confirmed: what was not confirmed, and what comes later, arrives."""
        sink = make_sink(server)
        log_all(sink, make_events(100))
        server.kill()
        for event in make_events(100, 100):
            sink.log(event)
        wait_until(lambda: sink.stats().last_error, "it is noticed")
        server.start()
        log_all(sink, make_events(100, 200))
        assert {name for _, name in server.read_names()} == {f"order.{number}" for number in range(100, 300)}

    @pytest.mark.slow
    def test_frozen(self, lasting: KafkaServer, make_sink: Any) -> None:
        """It does not answer for longer than a delivery may take: a new producer brings the batch again."""
        sink = make_sink(lasting, delivery_timeout=1.0)

        def freeze() -> None:
            before = sink.stats().retries
            lasting.freeze()
            wait_until(lambda: sink.stats().retries > before, "a delivery took too long")
            assert "not confirmed in time" in (sink.stats().last_error or "")
            lasting.thaw()

        survive(sink, lasting.read_names, freeze, count=600, exactly_once=False)

    @pytest.mark.slow
    def test_dropped_connections(self, server: KafkaServer, make_sink: Any) -> None:
        """Many times, under load: the idempotent producer sends again what was not answered, and all is there once."""
        with Proxy(server.port) as proxy:
            server.advertised = proxy.port
            server.restart()
            server.make_topic("logs")
            sink = make_sink(server, delivery_timeout=30.0)
            survive(sink, server.read_names, proxy.interrupt, times=6, exactly_once=True, is_noticed=False)
            assert proxy.connections >= 6
            sink.close()

    @pytest.mark.slow
    def test_a_changed_password(self, lasting: KafkaServer, make_sink: Any) -> None:
        """Connections are lost, and the broker does not let us in again until later."""
        with Gate(lasting.port) as gate, lasting.behind(gate.port):
            gate.password = "right"
            sink = make_sink(lasting, username="bob", password="right", delivery_timeout=2.0)

            def change() -> None:
                gate.password = "other"
                gate.drop()
                wait_for_error(sink, "authentication")
                gate.password = "right"

            def read() -> list[tuple[str, str]]:
                gate.password = None
                return lasting.read_names()

            survive(sink, read, change, count=600, exactly_once=False)
            sink.close()

    def test_another_broker_is_asked(self, server: KafkaServer, make_sink: Any) -> None:
        """One of those that are named is enough."""
        log_all(make_sink(servers=[f"127.0.0.1:{find_free_port()}", server.address]), make_events(3))
        assert set(read_numbers(server)) == {0, 1, 2}

    @pytest.mark.parametrize("frozen", [False, True])
    def test_close_with_a_dead_broker(self, server: KafkaServer, make_sink: Any, frozen: bool) -> None:
        """It ends in time, and what is left is counted."""
        sink = make_sink(server, shutdown_timeout=1.0)
        log_all(sink, make_events(1))
        server.freeze() if frozen else server.kill()
        for number in range(1, 500):
            sink.log(make_event(number, text="x" * 10_000))
        began = time.monotonic()
        sink.close()
        assert time.monotonic() - began < 10
        stats = sink.stats()
        assert stats.delivered + sum(stats.dropped.values()) == 500
        assert stats.dropped

    def test_on_the_loop_of_an_application(self, server: KafkaServer) -> None:
        """Nothing of the client is left on it."""

        async def main() -> set[Any]:
            sink = KafkaLogSink(servers=server.address, **PATIENT)
            await sink.start()
            for event in make_events(20):
                sink.log(event)
            await sink.stop()
            return asyncio.all_tasks() - {asyncio.current_task()}

        assert asyncio.run(main()) == set()
        assert read_numbers(server) == list(range(20))


class TestRefused:
    def test_an_event_that_is_too_large(self, server: KafkaServer, make_sink: Any) -> None:
        """It alone is set aside."""
        letters = MemoryLogSink()
        sink = make_sink(server, max_message_bytes=10_000, dead_letter=letters)
        for number in range(30):
            sink.log(make_event(number, text="x" * (20_000 if number == 7 else 5)))
        assert not sink.flush(timeout=WAIT)
        assert read_numbers(server) == [number for number in range(30) if number != 7]
        (letter,) = letters.events
        assert letter.payload["number"] == 7
        assert "MSG_SIZE_TOO_LARGE" in letter.payload["_dead_letter"]["error"]


class TestReading:
    def read(self, server: KafkaServer, **options: Any) -> list[int]:
        events = KafkaLogSink.read_events(servers=server.address, **options)
        return [event.payload["number"] for event in events if event is not None]

    @pytest.fixture
    def filled(self, server: KafkaServer, make_sink: Any) -> KafkaServer:
        """600 events in four partitions, and what is no event."""
        server.make_topic("many", 4)
        own = Producer(server.config)
        own.produce("many", b"no event", partition=1)
        own.produce("many", None, b"key", partition=2)
        own.flush(WAIT)
        log_all(make_sink(server, topic="many", key="{payload.number}"), make_events(600))
        return server

    def test_all(self, filled: KafkaServer) -> None:
        """By time, over all partitions; what is no event is skipped."""
        assert self.read(filled, topic="many") == list(range(600))

    @pytest.mark.parametrize("last", [0, 1, 50, 5_000])
    def test_the_newest(self, filled: KafkaServer, last: int) -> None:
        """Of all partitions together."""
        assert self.read(filled, topic="many", last=last) == list(range(600))[max(0, 600 - last) :]

    def test_since(self, filled: KafkaServer) -> None:
        """What is newer is there, whatever else is."""
        assert self.read(filled, topic="many", since=1_780_000_000.5)[-100:] == list(range(500, 600))

    def test_topics_of_a_template(self, server: KafkaServer, make_sink: Any) -> None:
        """All that the template may have made."""
        log_all(make_sink(server, topic="a-{payload.t}"), [make_event(number, t=number % 2) for number in range(10)])
        log_all(make_sink(server, topic="b"), make_events(5, 10))
        assert self.read(server, topic="a-{payload.t}") == list(range(10))
        assert self.read(server, topic="a-{payload.t}", last=3) == [7, 8, 9]

    def test_follow(self, server: KafkaServer, make_sink: Any) -> None:
        """What comes later comes, with None in between when there is nothing."""
        sink = make_sink(server)
        log_all(sink, make_events(5))
        events = KafkaLogSink.read_events(servers=server.address, last=2, follow=True)
        found = [next(events), next(events)]
        assert next(events) is None
        log_all(sink, make_events(1, 5))
        found.append(next(event for event in events if event is not None))
        events.close()  # type: ignore[attr-defined]
        assert [event.payload["number"] for event in found if event is not None] == [3, 4, 5]

    def test_an_empty_topic(self, server: KafkaServer) -> None:
        """It ends at once."""
        assert self.read(server) == []
        assert self.read(server, last=3) == []

    def test_a_broker_that_is_not_there(self, server: KafkaServer) -> None:
        """The error says so."""
        server.kill()
        with pytest.raises(mvx_logger.LogDeliveryTransientError):
            self.read(server, connect_timeout=1.0)


class TestTogether:
    def test_the_recipe(self, server: KafkaServer) -> None:
        """What the page says, word for word."""
        log_three_ways(load_recipe("kafka", {"localhost:9092": server.address}))
        events = [decode_event(message.value()) for message in server.read()]
        assert [event.payload["number"] for event in events] == [1, 2, 3]
        assert [event.meta.event_namespace for event in events] == ["shop.legacy", "shop.web", "shop.orders"]

    def test_behind_combinators(self, server: KafkaServer, make_sink: Any) -> None:
        """It is a sink like any other."""
        sink, memory = make_sink(server), MemoryLogSink()
        fan = mvx_logger.FanOutSink(mvx_logger.FilterSink(sink, min_level=30), mvx_logger.FallbackSink(sink, memory))
        fan.log(make_event(0))
        fan.log(LogEvent(40, LogEventMeta("shop", "failed"), None, 0.0, {}))
        assert sink.flush(timeout=WAIT)
        assert sorted(name for _, name in server.read_names()) == ["failed", "failed", "order.0"]
        assert not memory.events
