"""`mvx_logger.sinks.amqp` on a RabbitMQ node of its own."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from msgspec import structs

import mvx_logger
from destinations import (
    PATIENT,
    check_arrived,
    load_recipe,
    log_three_ways,
    make_event,
    make_events,
    make_rich_events,
    wait_for_error,
)
from destinations import survive as survive_on
from mvx_logger import (
    AsyncioLogSinkState,
    FallbackSink,
    FanOutSink,
    FilterSink,
    LogEvent,
    LogLevel,
    MemoryLogSink,
)
from mvx_logger.bridge.config import sink_from_url
from mvx_logger.formats.json import decode_event, encode_event
from mvx_logger.sinks.amqp import AmqpLogSink
from rabbitmq_server import RabbitMq, Reader, needs_rabbitmq
from servers import WAIT, Certificates, Proxy, make_certificates, wait_until

pytestmark = needs_rabbitmq

Make = Callable[..., AmqpLogSink]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[RabbitMq]:
    """One for all tests: it takes seconds to start. Each test leaves it at work."""
    server = RabbitMq(tmp_path_factory.mktemp("rabbitmq"), certificates)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def reader(node: RabbitMq) -> Reader:
    """Reads the test's own queue."""
    return Reader(node, f"events-{next(_numbers)}")


@pytest.fixture
def make(node: RabbitMq, reader: Reader) -> Iterator[Make]:
    """Makes sinks that publish to an exchange and a queue of the test's own, and end with the test."""
    with ExitStack() as stack:

        def make(**options: Any) -> AmqpLogSink:
            own = {"host": "127.0.0.1", "port": node.port, "exchange": f"logs-{reader.queue}", "queue": reader.queue}
            sink, close = AmqpLogSink.create(**{**PATIENT, **own, **options})
            stack.callback(close)
            return sink

        yield make


def deliver(sink: Any, *events: LogEvent) -> None:
    for event in events:
        sink.log(event)
    assert sink.flush(timeout=WAIT), sink.stats()


def with_certificate(certificates: Certificates) -> dict[str, Any]:
    certificate, key = certificates.client
    return {"tls": True, "tls_ca": certificates.ca, "tls_cert": certificate, "tls_key": key}


def survive(sink: AmqpLogSink, reader: Reader, disturb: Callable[[], None], **options: Any) -> None:
    survive_on(sink, reader.read_ids, disturb, exactly_once=False, **options)


# ---------------------------------------------------------------------- what arrives


class TestMessages:
    def test_every_field_arrives(self, make: Make, reader: Reader) -> None:
        events = make_rich_events()
        deliver(make(), *events)
        messages = reader.wait_for(len(events))
        assert [decode_event(message.body) for message in messages] == [
            decode_event(encode_event(event)) for event in events
        ]
        ids = [message.message_id for message in messages]
        assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name) for name in ids)
        assert ids == sorted(set(ids))

    def test_the_properties_of_a_message(self, make: Make, reader: Reader) -> None:
        deliver(make(app_id="shop", expiration=3600), make_event(1))
        (message,) = reader.wait_for(1)
        assert message.routing_key == "shop.orders.info"
        assert message.headers == {"level": "INFO", "namespace": "shop.orders"}
        assert (message.type, message.app_id) == ("order.1", "shop")
        assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
        assert message.timestamp.timestamp() == 1_780_000_000
        assert message.delivery_mode == 2
        assert 3500 < message.expiration <= 3600

    def test_messages_that_need_not_be_kept(self, make: Make, reader: Reader) -> None:
        deliver(make(persistent=False, app_id=""), make_event(1))
        (message,) = reader.wait_for(1)
        assert message.delivery_mode == 1
        assert message.app_id is None

    def test_a_message_expires(self, make: Make, reader: Reader) -> None:
        deliver(make(expiration=0.001), make_event(1))
        deliver(make(), make_event(2))
        assert [name for _, name in reader.wait_for(1) and reader.read_ids()] == ["order.2"]

    def test_names_that_are_too_long_or_strange_are_cut(self, make: Make, reader: Reader) -> None:
        event = make_event(1)
        meta = structs.replace(event.meta, event_name="\ud800" + "ü" * 300, event_namespace="ä" * 300)
        events = [
            structs.replace(event, meta=meta, timestamp=-1.0),
            structs.replace(event, timestamp=float("nan")),
            structs.replace(event, timestamp=1e300),
        ]
        deliver(make(), *events)
        messages = reader.wait_for(3)
        assert messages[0].type == "?" + "ü" * 127
        assert messages[0].routing_key == "ä" * 127
        assert messages[0].headers["namespace"] == "ä" * 127
        assert [message.timestamp for message in messages] == [None, None, None]

    def test_fields_choose_the_routing_key(self, make: Make, reader: Reader) -> None:
        sink = make(routing_key="{level}.{payload.shop|none}", binding_key="info.#")
        deliver(sink, make_event(1, shop="north"), make_event(2))
        assert [message.routing_key for message in reader.wait_for(2)] == ["info.north", "info.none"]

    def test_large_events_are_several_frames(self, make: Make, reader: Reader) -> None:
        deliver(make(), make_event(1, text="x" * 1_000_000))
        (message,) = reader.wait_for(1)
        assert len(decode_event(message.body).payload["text"]) == 1_000_000


class TestTopology:
    @pytest.mark.parametrize(
        "options",
        [
            {"exchange_type": "direct", "routing_key": "all"},
            {"exchange_type": "direct", "routing_key": "{level}", "binding_key": "info"},
            {"exchange_type": "fanout"},
            {"exchange_type": "headers"},
            {"exchange": ""},
            {"exchange": "amq.topic", "routing_key": "unlike-others"},
            {"queue_type": "quorum"},
        ],
    )
    def test_what_is_declared_gets_all(self, make: Make, reader: Reader, options: dict[str, Any]) -> None:
        deliver(make(**options), *make_events(3))
        assert [name for _, name in reader.wait_for(3) and reader.read_ids()] == ["order.0", "order.1", "order.2"]

    def test_it_is_durable(self, node: RabbitMq, make: Make, reader: Reader) -> None:
        deliver(make(queue_type="quorum"), make_event(1))
        queues = node.control("list_queues", "--formatter", "csv", "name", "durable", "type")
        assert f'"{reader.queue}","true","quorum"' in queues
        exchanges = node.control("list_exchanges", "--formatter", "csv", "name", "durable", "type")
        assert f'"logs-{reader.queue}","true","topic"' in exchanges

    def test_without_declaring_it_waits_until_everything_is_there(
        self, node: RabbitMq, make: Make, reader: Reader
    ) -> None:
        with Proxy(node.port) as proxy:
            sink = make(port=proxy.port, declare=False)
            sink.log(make_event(1))
            wait_for_error(sink, "no exchange")
            with held_up(proxy):  # between the exchange and its queue, an event would be returned
                deliver(make(), make_event(2))  # declares
            assert sink.flush(timeout=WAIT)
            sink.close()
        assert {name for _, name in reader.wait_for(2) and reader.read_ids()} == {"order.1", "order.2"}

    def test_an_exchange_of_another_type_is_told(self, node: RabbitMq, make: Make, reader: Reader) -> None:
        deliver(make(), make_event(1))
        other = make(exchange_type="fanout")
        other.log(make_event(2))
        error = wait_for_error(other, "cannot be declared")
        assert "inequivalent arg 'type'" in error
        assert other.stats().pending == 1
        node.control("eval", f"rabbit_exchange:delete({_name(f'logs-{reader.queue}', 'exchange')}, false, <<>>).")
        assert other.flush(timeout=WAIT)

    def test_the_queue_that_somebody_removes_is_made_again(self, node: RabbitMq, make: Make, reader: Reader) -> None:
        sink = make()
        deliver(sink, make_event(1))
        node.control("delete_queue", reader.queue)
        deliver(sink, *make_events(5, start=2))
        assert [name for _, name in reader.wait_for(5) and reader.read_ids()] == [f"order.{n}" for n in range(2, 7)]
        assert sink.stats().last_error is None

    def test_virtual_hosts(self, node: RabbitMq, make: Make) -> None:
        node.control("add_vhost", "shop/a b")
        node.control("set_permissions", "-p", "shop/a b", "guest", ".*", ".*", ".*")
        deliver(make(vhost="shop/a b", queue="here"), make_event(1))
        told = node.control("list_queues", "-p", "shop/a b", "--formatter", "csv", "name", "messages")
        assert '"here","1"' in told

    def test_what_the_connection_says(self, node: RabbitMq, make: Make) -> None:
        deliver(make(heartbeat=7, app_id="tells-its-name"), make_event(1))
        told = node.control("list_connections", "timeout", "client_properties")
        assert any(line.startswith("7\t") and "tells-its-name" in line for line in told.splitlines())


def _name(name: str, kind: str) -> str:
    return f'rabbit_misc:r(<<"/">>, {kind}, <<"{name}">>)'


class TestReturned:
    def test_what_no_queue_wants_is_counted(self, make: Make, selflog_reports: list[Any]) -> None:
        sink = make(queue=None)
        for event in make_events(3):
            sink.log(event)
        assert not sink.flush(timeout=WAIT)
        stats = sink.stats()
        assert stats.dropped == {"refused": 3}
        assert (stats.delivered, stats.pending) == (0, 0)
        assert any("unroutable: NO_ROUTE" in str(report) for report in selflog_reports)

    def test_the_others_are_delivered(self, make: Make, reader: Reader, tmp_path: Path) -> None:
        sink = make(
            exchange_type="direct",
            routing_key="{payload.to}",
            binding_key="here",
            dead_letter=str(tmp_path / "dead.jsonl"),
        )
        for number in range(20):
            sink.log(make_event(number, to="nowhere" if number % 5 == 2 else "here"))
        assert not sink.flush(timeout=WAIT)
        assert sink.stats().delivered == 16
        assert sink.stats().dead_lettered == 4
        assert len(reader.wait_for(16)) == 16
        letters = [decode_event(line) for line in (tmp_path / "dead.jsonl").read_bytes().splitlines()]
        assert [letter.payload["number"] for letter in letters] == [2, 7, 12, 17]
        assert {letter.payload["_dead_letter"]["error"] for letter in letters} == {"unroutable: NO_ROUTE"}

    def test_without_mandatory_the_broker_throws_it_away(self, make: Make) -> None:
        sink = make(queue=None, mandatory=False)
        deliver(sink, *make_events(3))
        assert sink.stats().delivered == 3


class TestRefused:
    def test_a_message_that_is_too_large(self, node: RabbitMq, make: Make, reader: Reader, tmp_path: Path) -> None:
        (before,) = re.findall(r"\d+", node.control("eval", "application:get_env(rabbit, max_message_size)."))
        node.control("eval", "application:set_env(rabbit, max_message_size, 100000).")
        try:
            sink = make(dead_letter=str(tmp_path / "dead.jsonl"))
            for number in range(20):
                sink.log(make_event(number, text="x" * 200_000 if number == 7 else ""))
            assert not sink.flush(timeout=WAIT)
        finally:
            node.control("eval", f"application:set_env(rabbit, max_message_size, {before}).")
        assert sink.stats().delivered == 19
        assert sink.stats().dead_lettered == 1
        (letter,) = [decode_event(line) for line in (tmp_path / "dead.jsonl").read_bytes().splitlines()]
        assert letter.payload["number"] == 7
        assert "message size" in letter.payload["_dead_letter"]["error"]
        reader.wait_for(19)
        assert {name for _, name in reader.read_ids()} == {f"order.{n}" for n in range(20) if n != 7}

    def test_a_full_queue_that_rejects_makes_events_wait(self, node: RabbitMq, make: Make, reader: Reader) -> None:
        limits = '{"max-length":10,"overflow":"reject-publish"}'
        node.control("set_policy", "full", f"^{reader.queue}$", limits, "--apply-to", "queues")
        try:
            sink = make(retry_max_delay=0.1)
            for event in make_events(30):
                sink.log(event)
            wait_for_error(sink, "rejects messages")
            assert sink.stats().pending >= 10
            # Reading makes room, again and again.
            check_arrived(reader.read_ids, 30, exactly_once=False, in_order=False)
            assert sink.flush(timeout=WAIT)
        finally:
            node.control("clear_policy", "full")
        assert sink.stats().delivered == 30
        assert not sink.stats().dropped


# ---------------------------------------------------------------------- options


class TestOptions:
    def test_no_secret_is_told(self, make: Make, selflog_reports: list[Any], caplog: pytest.LogCaptureFixture) -> None:
        secret = "Hush-Hush-0123"
        options = {"password": secret, "username": "somebody", "tls_key_password": None}
        sink = make(**options, shutdown_timeout=0.2)
        sink.log(make_event(1))
        wait_for_error(sink, "ACCESS_REFUSED")
        sink.close()
        texts = [repr(sink), repr(sink.stats()), str(selflog_reports), repr(AmqpLogSink.build_descriptor(**options))]
        assert not [text for text in [*texts, caplog.text] if secret in text]


def test_the_recipe_works(node: RabbitMq) -> None:
    log_three_ways(load_recipe("amqp", {"localhost:5672": f"127.0.0.1:{node.port}"}))
    reader = Reader(node, "events")
    messages = reader.wait_for(3)
    assert [(message.type, message.routing_key) for message in messages] == [
        ("one", "shop.legacy.warning"),
        ("two", "shop.web.info"),
        ("three", "shop.orders.info"),
    ]
    assert [decode_event(message.body).payload["number"] for message in messages] == [1, 2, 3]


# ---------------------------------------------------------------------- trouble


@contextmanager
def held_up(proxy: Proxy) -> Iterator[None]:
    """Nothing passes meanwhile: what is logged is still to be delivered afterwards."""
    proxy.refuse()
    proxy.drop()
    try:
        yield
    finally:
        proxy.refuse(False)


@pytest.mark.slow
class TestTrouble:
    @pytest.fixture
    def proxy(self, node: RabbitMq) -> Iterator[Proxy]:
        with Proxy(node.port) as proxy:
            yield proxy

    def test_the_node_is_killed_and_comes_back(self, node: RabbitMq, make: Make, reader: Reader) -> None:
        survive(make(), reader, node.restart)

    def test_it_freezes(self, node: RabbitMq, make: Make, reader: Reader) -> None:
        sink = make(delivery_timeout=1.0)

        def freeze() -> None:
            node.freeze()
            try:
                wait_for_error(sink, "no answer|not connected")
            finally:
                node.thaw()

        survive(sink, reader, freeze)

    def test_connections_are_dropped(self, node: RabbitMq, make: Make, reader: Reader) -> None:
        with Proxy(node.port) as proxy:
            sink = make(port=proxy.port)
            survive(sink, reader, proxy.interrupt, times=5, is_noticed=False)
            assert proxy.connections >= 5
            sink.close()

    def test_a_right_is_taken_and_given_back(self, node: RabbitMq, make: Make, reader: Reader, proxy: Proxy) -> None:
        node.control("add_user", "limited", "one")
        node.control("set_permissions", "limited", ".*", ".*", ".*")
        sink = make(port=proxy.port, username="limited", password="one", declare=False)
        deliver(make(), make_event(0))  # declares
        reader.wait_for(1).clear()

        def change() -> None:
            with held_up(proxy):
                node.control("set_permissions", "limited", ".*", "^$", ".*")
            wait_for_error(sink, "ACCESS_REFUSED")
            node.control("set_permissions", "limited", ".*", ".*", ".*")

        # A right may be missing for the routing key of one event only: while that is found out, others may pass it.
        survive(sink, reader, change, in_order=False)

    def test_a_memory_alarm_makes_events_wait(self, node: RabbitMq, make: Make, reader: Reader, proxy: Proxy) -> None:
        sink = make(port=proxy.port, delivery_timeout=1.0, retry_max_delay=0.2)

        def alarm() -> None:
            with held_up(proxy):
                node.control("set_vm_memory_high_watermark", "0")
            try:
                wait_for_error(sink, "short of memory")
            finally:
                node.control("set_vm_memory_high_watermark", "0.4")

        survive(sink, reader, alarm)

    def test_a_server_that_accepts_and_says_nothing_is_given_up_in_time(self, node: RabbitMq, make: Make) -> None:
        sink = make(connect_timeout=0.2, delivery_timeout=None, shutdown_timeout=0.2)
        node.freeze()
        try:
            sink.log(make_event(1))
            wait_for_error(sink, "not connected within 0.2 seconds")
        finally:
            node.thaw()

    @pytest.mark.parametrize("tls", [False, True])
    def test_close_does_not_wait_for_a_frozen_node(
        self, node: RabbitMq, make: Make, certificates: Certificates, tls: bool
    ) -> None:
        secure = {"port": node.tls_port, **with_certificate(certificates)} if tls else {}
        sink = make(shutdown_timeout=1.0, delivery_timeout=0.5, **secure)
        deliver(sink, make_event(0))
        node.freeze()
        try:
            for number in range(1, 300):
                sink.log(make_event(number, text="x" * 20_000))  # more than fits into the buffers of a socket
            started = time.monotonic()
            sink.close()
            assert time.monotonic() - started < 20
        finally:
            node.thaw()
        stats = sink.stats()
        assert stats.state == AsyncioLogSinkState.STOPPED.value
        assert stats.accepted == 300 == stats.delivered + sum(stats.dropped.values())

    def test_a_connection_that_was_lost_in_a_pause_is_no_failure(self, node: RabbitMq, make: Make) -> None:
        with Proxy(node.port) as proxy:
            sink = make(port=proxy.port)
            deliver(sink, make_event(0))
            proxy.drop()
            wait_until(sink._is_connection_lost, "the sink has noticed")
            deliver(sink, make_event(1))
            assert sink.stats().last_error is None
            sink.close()


# ---------------------------------------------------------------------- TLS


class TestTls:
    def test_the_right_certificate(self, node: RabbitMq, reader: Reader, certificates: Certificates) -> None:
        options = {**with_certificate(certificates), "queue": reader.queue, "exchange": f"x-{reader.queue}"}
        del options["tls"]
        sink = sink_from_url(f"amqps://localhost:{node.tls_port}?{urlencode(options)}")
        try:
            deliver(sink, *make_events(3))
            assert sink.stats().last_error is None
        finally:
            sink.close()
        assert len(reader.wait_for(3)) == 3

    @pytest.mark.parametrize("which", ["wrong_name", "expired", "self_signed"])
    def test_a_wrong_certificate_gets_nothing(
        self, node: RabbitMq, make: Make, reader: Reader, certificates: Certificates, which: str
    ) -> None:
        node.use_certificate(getattr(certificates, which))
        try:
            sink = make(host="localhost", port=node.tls_port, **with_certificate(certificates))
            for event in make_events(3):
                sink.log(event)
            wait_for_error(sink, "certificate")
            assert sink.stats().pending == 3
            assert sink.stats().delivered == 0
        finally:
            node.use_certificate(certificates.right)
        assert sink.flush(timeout=WAIT)
        assert len(reader.wait_for(3)) == 3

    def test_an_authority_that_the_system_does_not_know(self, node: RabbitMq, make: Make) -> None:
        sink = make(port=node.tls_port, tls=True, shutdown_timeout=0.1)
        sink.log(make_event(1))
        wait_for_error(sink, "certificate")

    def test_a_client_without_a_certificate_gets_nowhere(
        self, node: RabbitMq, make: Make, reader: Reader, certificates: Certificates
    ) -> None:
        without = make(port=node.tls_port, tls=True, tls_ca=certificates.ca, shutdown_timeout=0.1)
        without.log(make_event(1))
        wait_for_error(without, "certificate required|Connection")
        assert without.stats().pending == 1
        without.close()
        deliver(make(port=node.tls_port, **with_certificate(certificates)), make_event(2))
        assert [name for _, name in reader.wait_for(1) and reader.read_ids()] == ["order.2"]


# ---------------------------------------------------------------------- life


class TestLife:
    def test_on_the_loop_of_an_application(self, node: RabbitMq, reader: Reader) -> None:
        async def run() -> None:
            sink = AmqpLogSink(host="127.0.0.1", port=node.port, queue=reader.queue, exchange="", **PATIENT)
            sink.start()
            for event in make_events(10):
                sink.log(event)
            await sink.stop()

        asyncio.run(run())
        assert len(reader.wait_for(10)) == 10

    def test_it_composes(self, make: Make, reader: Reader) -> None:
        memory = MemoryLogSink()
        inner = make()
        sink = FilterSink(FanOutSink(FallbackSink(inner, memory), memory), min_level=LogLevel.INFO)
        logger = logging.Logger("shop.legacy")
        logger.addHandler(mvx_logger.SinkHandler(sink))
        logger.debug("too quiet")
        logger.warning("order %s", "A-1")
        assert inner.flush(timeout=WAIT)
        (message,) = reader.wait_for(1)
        assert decode_event(message.body).message == "order A-1"
        assert len(memory.events) == 1
