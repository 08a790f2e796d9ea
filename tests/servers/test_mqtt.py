"""`mvx_logger.sinks.mqtt` on a Mosquitto of its own."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from msgspec import structs

import mvx_logger
from destinations import PATIENT, load_recipe, log_three_ways, make_event, make_events, make_rich_events, wait_for_error
from destinations import survive as survive_on
from mosquitto_server import Mosquitto, Subscriber, get_id, needs_mosquitto
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
from mvx_logger.sinks.mqtt import MqttLogSink
from servers import WAIT, Certificates, Proxy, make_certificates, wait_until

pytestmark = needs_mosquitto

Make = Callable[..., MqttLogSink]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as server:
        yield server


@pytest.fixture
def reader(broker: Mosquitto) -> Iterator[Subscriber]:
    with Subscriber(broker.port) as subscriber:
        yield subscriber


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes sinks that end with the test."""
    with ExitStack() as stack:

        def make(**options: Any) -> MqttLogSink:
            sink, close = MqttLogSink.create(**{**PATIENT, "host": "127.0.0.1", **options})
            stack.callback(close)
            return sink

        yield make


def deliver(sink: Any, *events: LogEvent) -> None:
    for event in events:
        sink.log(event)
    assert sink.flush(timeout=WAIT), sink.stats()


def survive(sink: MqttLogSink, reader: Subscriber, disturb: Callable[[], None], **options: Any) -> None:
    survive_on(sink, reader.read_ids, disturb, exactly_once=False, **options)


# ---------------------------------------------------------------------- what arrives


class TestMessages:
    @pytest.mark.parametrize("qos", [0, 1, 2])
    def test_every_field_arrives(self, broker: Mosquitto, reader: Subscriber, make: Make, qos: int) -> None:
        events = make_rich_events()
        deliver(make(port=broker.port, qos=qos), *events)
        messages = reader.wait_for(len(events))
        assert [decode_event(message.payload) for message in messages] == [
            decode_event(encode_event(event)) for event in events
        ]
        assert {message.qos for message in messages} == {qos}
        ids = [get_id(message) for message in messages]
        assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name) for name in ids)
        assert ids == sorted(set(ids))

    @pytest.mark.parametrize("qos", [0, 1, 2])
    def test_many_are_in_order(self, broker: Mosquitto, reader: Subscriber, make: Make, qos: int) -> None:
        deliver(make(port=broker.port, qos=qos), *make_events(1_000))
        reader.wait_for(1_000)
        assert [name for _, name in reader.read_ids()] == [f"order.{number}" for number in range(1_000)]

    def test_the_properties_of_a_message(self, broker: Mosquitto, reader: Subscriber, make: Make) -> None:
        deliver(make(port=broker.port, expiry=3600), make_event(1))
        (message,) = reader.wait_for(1)
        assert message.topic == "logs/shop.orders/info"
        assert message.properties.ContentType == "application/json"
        assert message.properties.PayloadFormatIndicator == 1
        assert 3500 < message.properties.MessageExpiryInterval <= 3600
        assert not message.retain

    def test_the_broker_keeps_the_last_of_each_topic(self, broker: Mosquitto, make: Make) -> None:
        deliver(make(port=broker.port, retain=True), make_event(1), make_event(2))
        with Subscriber(broker.port) as late:
            (message,) = late.wait_for(1)
            assert decode_event(message.payload).payload == {"number": 2}
            assert message.retain

    def test_what_an_event_holds_cannot_break_a_topic(self, broker: Mosquitto, reader: Subscriber, make: Make) -> None:
        sink = make(port=broker.port, topic="logs/{namespace}/{payload.shop|none}/x")
        event = make_event(1)
        names = ["a+b#c/d", "$SYS", "nul\0bell\7", "\ud800\uffff\U0001ffff\x85", "ü" * 300, None]
        for name in names:
            meta = structs.replace(event.meta, event_namespace=name)
            sink.log(structs.replace(event, meta=meta, payload={"shop": name}))
        assert sink.flush(timeout=WAIT), sink.stats()
        found = [message.topic.split("/")[1:3] for message in reader.wait_for(len(names))]
        cleaned = ["a_b_c_d", "_SYS", "nul_bell_", "____", "ü" * 255]
        assert found == [*([text, text] for text in cleaned), ["", "none"]]
        assert sink.stats().last_error is None

    def test_a_topic_of_fields_that_are_empty(self, broker: Mosquitto, make: Make) -> None:
        with Subscriber(broker.port, "_") as reader:
            deliver(make(port=broker.port, topic="{payload.shop}"), make_event(1))
            reader.wait_for(1)

    def test_what_the_connection_says(self, broker: Mosquitto, make: Make) -> None:
        deliver(make(port=broker.port, client_id="tells-its-name", keepalive=7), make_event(1))
        wait_until(lambda: "as tells-its-name (p5, c1, k7" in broker.log.read_text(), "the broker has heard it")

    @pytest.mark.slow
    def test_signs_of_life(self, broker: Mosquitto, make: Make) -> None:
        sink = make(port=broker.port, keepalive=2)
        deliver(sink, make_event(1))
        wait_until(lambda: broker.log.read_text().count("PINGREQ") >= 2, "pings")
        assert not sink._is_connection_lost()
        broker.freeze()
        try:
            wait_until(sink._is_connection_lost, "the sink notices that nobody answers")
        finally:
            broker.thaw()
        deliver(sink, make_event(2))
        assert sink.stats().last_error is None


class TestRefused:
    def test_one_that_is_larger_than_the_broker_said(self, tmp_path: Path, make: Make) -> None:
        with Mosquitto(tmp_path / "small", "max_packet_size 10000") as broker, Subscriber(broker.port) as reader:
            sink = make(port=broker.port, dead_letter=str(tmp_path / "dead.jsonl"))
            for number in range(20):
                sink.log(make_event(number, text="x" * 20_000 if number == 7 else ""))
            assert not sink.flush(timeout=WAIT)
            stats = sink.stats()
            assert (stats.delivered, stats.dead_lettered, stats.retries) == (19, 1, 0)
            reader.wait_for(19)
            assert len(reader.read_ids()) == 19
        (letter,) = [decode_event(line) for line in (tmp_path / "dead.jsonl").read_bytes().splitlines()]
        assert letter.payload["number"] == 7
        assert "the broker takes 10000" in letter.payload["_dead_letter"]["error"]

    def test_one_that_it_refuses_without_having_said_so(self, tmp_path: Path, make: Make) -> None:
        # Mosquitto acknowledges it with a reason that is not for acknowledgements, and hangs up.
        with Mosquitto(tmp_path / "small", "message_size_limit 10000") as broker, Subscriber(broker.port) as reader:
            sink = make(port=broker.port, dead_letter=str(tmp_path / "dead.jsonl"))
            for number in range(20):
                sink.log(make_event(number, text="x" * 20_000 if number == 7 else ""))
            assert not sink.flush(timeout=WAIT)
            assert (sink.stats().delivered, sink.stats().dead_lettered) == (19, 1)
            wait_until(lambda: len(dict(reader.read_ids())) == 19, "all others have come")
        (letter,) = [decode_event(line) for line in (tmp_path / "dead.jsonl").read_bytes().splitlines()]
        assert letter.payload["number"] == 7
        assert letter.payload["_dead_letter"]["error"] == "packet too large (0x95)"

    @pytest.mark.parametrize("qos", [1, 2])
    def test_topics_that_we_may_not_publish_to(self, tmp_path: Path, make: Make, qos: int) -> None:
        rules = tmp_path / "rules"
        rules.write_text("topic readwrite #\ntopic deny logs/secret\n")
        with Mosquitto(tmp_path / "strict", f"acl_file {rules}") as broker, Subscriber(broker.port) as reader:
            sink = make(port=broker.port, topic="logs/{payload.to}", qos=qos, dead_letter=str(tmp_path / "dead.jsonl"))
            for number in range(20):
                sink.log(make_event(number, to="secret" if number % 5 == 2 else "all"))
            wait_until(lambda: not sink.stats().pending, "all is settled")
            assert (sink.stats().delivered, sink.stats().dead_lettered) == (16, 4)
            wait_until(lambda: len(dict(reader.read_ids())) == 16, "the others have come")
        letters = [decode_event(line) for line in (tmp_path / "dead.jsonl").read_bytes().splitlines()]
        assert sorted(letter.payload["number"] for letter in letters) == [2, 7, 12, 17]
        assert all("not authorized (0x87)" in letter.payload["_dead_letter"]["error"] for letter in letters)

    def test_a_right_is_taken_and_given_back(self, tmp_path: Path, make: Make) -> None:
        rules = tmp_path / "rules"
        rules.write_text("topic deny logs/#\n")
        with Mosquitto(tmp_path / "strict", f"acl_file {rules}") as broker:
            sink = make(port=broker.port)
            for event in make_events(20):
                sink.log(event)
            wait_for_error(sink, "does not let us publish: not authorized")
            assert sink.stats().pending == 20
            rules.write_text("topic readwrite #\n")
            # A signal may come while the broker is at the last one.
            wait_until(lambda: broker.reload() or sink.flush(timeout=2), "the broker lets us publish")
            assert sink.stats().delivered == 20

    @pytest.mark.parametrize(("setting", "options"), [("max_qos 0", {}), ("retain_available false", {"retain": True})])
    def test_what_the_broker_does_not_offer(
        self, tmp_path: Path, make: Make, setting: str, options: dict[str, Any]
    ) -> None:
        broker = Mosquitto(tmp_path / "poor")
        broker.settings_of_listener = [setting] if setting.startswith("max_qos") else []
        broker.settings = [] if broker.settings_of_listener else [setting]
        with broker:
            sink = make(port=broker.port, shutdown_timeout=0.1, **options)
            sink.log(make_event(1))
            wait_for_error(sink, "the broker does not offer that")
            assert sink.stats().pending == 1


# ---------------------------------------------------------------------- options


class TestOptions:
    def test_no_secret_is_told(self, tmp_path: Path, make: Make, selflog_reports: list[Any]) -> None:
        secret = "Hush-Hush-0123"
        options = {"password": secret, "username": "somebody"}
        with Mosquitto(tmp_path / "closed", with_password=True) as broker:
            sink = make(port=broker.port, **options, shutdown_timeout=0.2)
            sink.log(make_event(1))
            wait_for_error(sink, "refuses the connection: not authorized")
            sink.close()
        texts = [repr(sink), repr(sink.stats()), str(selflog_reports), repr(MqttLogSink.build_descriptor(**options))]
        assert not [text for text in texts if secret in text]


def test_the_recipe_works(broker: Mosquitto, reader: Subscriber) -> None:
    log_three_ways(load_recipe("mqtt", {"localhost:1883": f"127.0.0.1:{broker.port}"}))
    messages = reader.wait_for(3)
    assert [message.topic for message in messages] == [
        "logs/shop.legacy/warning",
        "logs/shop.web/info",
        "logs/shop.orders/info",
    ]
    assert [name for _, name in reader.read_ids()] == ["one", "two", "three"]
    assert [decode_event(message.payload).payload["number"] for message in messages] == [1, 2, 3]


# ---------------------------------------------------------------------- trouble


@pytest.mark.slow
class TestTrouble:
    @pytest.mark.parametrize("qos", [1, 2])
    def test_the_broker_is_killed_and_comes_back(self, tmp_path: Path, make: Make, qos: int) -> None:
        # Nothing waits in its memory for the subscriber: that would be lost, acknowledged or not.
        with (
            Mosquitto(tmp_path / "broker", "max_inflight_messages 0") as broker,
            Subscriber(broker.port, qos=1) as reader,
        ):
            sink = make(port=broker.port, qos=qos)
            broker.save()

            def kill() -> None:
                broker.freeze()
                # What it has acknowledged so far is on its way to the subscriber already.
                wait_until(lambda: len(dict(reader.read_ids())) >= sink.stats().delivered, "what it said has come")
                settled = -1
                while settled != len(reader.messages):
                    settled = len(reader.messages)
                    time.sleep(0.2)
                broker.restart()

            survive(sink, reader, kill, count=1_000)

    def test_it_freezes(self, broker: Mosquitto, reader: Subscriber, make: Make) -> None:
        sink = make(port=broker.port, delivery_timeout=1.0)

        def freeze() -> None:
            broker.freeze()
            try:
                wait_for_error(sink, "no answer|not connected")
            finally:
                broker.thaw()

        survive(sink, reader, freeze)

    @pytest.mark.parametrize("qos", [1, 2])
    def test_connections_are_dropped(self, broker: Mosquitto, reader: Subscriber, make: Make, qos: int) -> None:
        with Proxy(broker.port) as proxy:
            sink = make(port=proxy.port, qos=qos)
            survive(sink, reader, proxy.interrupt, times=5, is_noticed=False)
            assert proxy.connections >= 5
            sink.close()

    def test_a_server_that_accepts_and_says_nothing_is_given_up_in_time(self, broker: Mosquitto, make: Make) -> None:
        sink = make(port=broker.port, connect_timeout=0.2, delivery_timeout=None, shutdown_timeout=0.2)
        broker.freeze()
        try:
            sink.log(make_event(1))
            wait_for_error(sink, "not connected within 0.2 seconds")
        finally:
            broker.thaw()

    @pytest.mark.parametrize("tls", [False, True])
    def test_close_does_not_wait_for_a_frozen_broker(
        self, tmp_path: Path, make: Make, certificates: Certificates, tls: bool
    ) -> None:
        with Mosquitto(tmp_path / "broker", "max_inflight_messages 0", certificates=certificates) as broker:
            secure = {"port": broker.tls_port, "tls": True, "tls_ca": certificates.ca} if tls else {"port": broker.port}
            sink = make(shutdown_timeout=1.0, delivery_timeout=0.5, **secure)
            deliver(sink, make_event(0))
            broker.freeze()
            for number in range(1, 300):
                sink.log(make_event(number, text="x" * 20_000))  # more than fits into the buffers of a socket
            started = time.monotonic()
            sink.close()
            assert time.monotonic() - started < 20
        stats = sink.stats()
        assert stats.state == AsyncioLogSinkState.STOPPED.value
        assert stats.accepted == 300 == stats.delivered + sum(stats.dropped.values())

    def test_a_connection_that_was_lost_in_a_pause_is_no_failure(self, broker: Mosquitto, make: Make) -> None:
        with Proxy(broker.port) as proxy:
            sink = make(port=proxy.port)
            deliver(sink, make_event(0))
            proxy.drop()
            wait_until(sink._is_connection_lost, "the sink has noticed")
            deliver(sink, make_event(1))
            assert sink.stats().last_error is None
            sink.close()

    def test_somebody_takes_the_client_id(self, broker: Mosquitto, make: Make) -> None:
        sink = make(port=broker.port, client_id="one")
        deliver(sink, make_event(0))
        other = make(port=broker.port, client_id="one")
        deliver(other, make_event(1))
        wait_until(sink._is_connection_lost, "the broker has hung up")
        deliver(sink, make_event(2))

    def test_nonsense_from_a_server(self, make: Make) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 200)
            await reader.read()
            writer.close()

        async def run() -> None:
            server = await asyncio.start_server(talk, "127.0.0.1", 0)
            async with server:
                port = server.sockets[0].getsockname()[1]
                sink = await asyncio.to_thread(make, port=port, shutdown_timeout=0.1)
                sink.log(make_event(1))
                await asyncio.to_thread(wait_for_error, sink, "the broker talks nonsense")
                await asyncio.to_thread(sink.close)

        asyncio.run(run())


class ScriptedBroker:
    """Says what Mosquitto never says. It takes three messages at once, and hangs up on a client that sends more.

    Attributes:
        taken: The numbers of the events that it has acknowledged as taken, in order.
        script: By the number of an event, what it answers the first time: a reason in an acknowledgement, sent byte by byte,
            or ``-reason`` for a disconnection.
    """

    def __init__(self, script: dict[int, int]) -> None:
        self.script = script
        self.taken: list[int] = []
        self.most = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import mqtt5

        buffer = b""
        waiting: list[Any] = []
        try:
            while data := await reader.read(1 << 16):
                buffer += data
                while buffer:
                    try:
                        packet, size = mqtt5.read(memoryview(buffer))
                    except IndexError:
                        break
                    buffer = buffer[size:]
                    if isinstance(packet, mqtt5.ConnectPacket):
                        writer.write(mqtt5.ConnAckPacket(receive_max=3, server_keep_alive=2).write())
                    elif isinstance(packet, mqtt5.PublishPacket):
                        waiting.append(packet)
                    elif isinstance(packet, mqtt5.PingReqPacket):
                        writer.write(mqtt5.PingRespPacket().write())
                self.most = max(self.most, len(waiting))
                while waiting:
                    packet = waiting.pop(0)
                    number = decode_event(packet.payload).payload["number"]
                    reason = self.script.pop(number, 0)
                    if reason < 0:
                        writer.write(bytes((0xE0, 2, -reason, 0)))
                        return
                    for byte in (0x40, 4, packet.packet_id >> 8, packet.packet_id & 0xFF, reason, 0):
                        writer.write(bytes((byte,)))
                        await writer.drain()
                        await asyncio.sleep(0)
                    if not reason:
                        self.taken.append(number)
        finally:
            writer.close()

    def run(self, use: Callable[[int], None]) -> None:
        """Serve while ``use`` runs with the port, in a thread."""

        async def run() -> None:
            server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
            async with server:
                await asyncio.to_thread(use, server.sockets[0].getsockname()[1])

        asyncio.run(run())


class TestAnswers:
    def test_no_more_is_under_way_than_the_broker_allows(self, make: Make) -> None:
        broker = ScriptedBroker({})

        def use(port: int) -> None:
            sink = make(port=port)
            deliver(sink, *make_events(100))
            sink.close()
            assert sink.stats().last_error is None

        broker.run(use)
        assert broker.taken == list(range(100))
        assert broker.most == 3

    @pytest.mark.parametrize("reason", [0x80, 0x83, 0x91, 0x97])
    def test_what_is_not_taken_now_comes_again(self, make: Make, reason: int) -> None:
        broker = ScriptedBroker({7: reason, 30: reason})

        def use(port: int) -> None:
            sink = make(port=port)
            deliver(sink, *make_events(40))
            sink.close()
            assert sink.stats().delivered == 40
            assert f"(0x{reason:02x})" in str(sink.stats().last_error)

        broker.run(use)
        assert sorted(broker.taken) == list(range(40))

    @pytest.mark.parametrize("reason", [0x90, 0x95, 0x99])
    def test_what_is_never_taken_is_refused_alone(self, make: Make, reason: int) -> None:
        broker = ScriptedBroker({7: reason, 39: reason})

        def use(port: int) -> None:
            sink = make(port=port)
            for event in make_events(40):
                sink.log(event)
            assert not sink.flush(timeout=WAIT)
            sink.close()
            assert sink.stats().dropped == {"refused": 2}

        broker.run(use)
        assert broker.taken == [number for number in range(40) if number not in (7, 39)]

    @pytest.mark.parametrize(
        ("reason", "text"),
        [
            (0x8B, "server shutting down"),
            (0x96, "message rate too high"),
            (0x95, "packet too large"),
            (0x81, "malformed"),
        ],
    )
    def test_the_broker_hangs_up_and_says_why(self, make: Make, reason: int, text: str) -> None:
        broker = ScriptedBroker({7: -reason})

        def use(port: int) -> None:
            sink = make(port=port)
            deliver(sink, *make_events(40))
            sink.close()
            assert sink.stats().delivered == 40
            assert f"the broker hangs up: {text}" in str(sink.stats().last_error)

        broker.run(use)
        assert set(broker.taken) == set(range(40))

    def test_an_answer_to_something_else_is_ignored(self, make: Make) -> None:
        broker = ScriptedBroker({})

        def use(port: int) -> None:
            sink = make(port=port)
            deliver(sink, make_event(0))
            sink._connection.data_received(b"\x40\x02\x12\x34")
            deliver(sink, make_event(1))
            sink.close()

        broker.run(use)
        assert broker.taken == [0, 1]


# ---------------------------------------------------------------------- TLS


class TestTls:
    def test_the_right_certificate(self, tmp_path: Path, certificates: Certificates) -> None:
        with Mosquitto(tmp_path / "secure", certificates=certificates) as broker, Subscriber(broker.port) as reader:
            sink = sink_from_url(f"mqtts://localhost:{broker.tls_port}?{urlencode({'tls_ca': certificates.ca})}")
            try:
                deliver(sink, *make_events(1_000))
                assert sink.stats().last_error is None
            finally:
                sink.close()
            assert len(reader.wait_for(1_000)) == 1_000

    @pytest.mark.parametrize("which", ["wrong_name", "expired", "self_signed"])
    def test_a_wrong_certificate_gets_nothing(
        self, tmp_path: Path, make: Make, certificates: Certificates, which: str
    ) -> None:
        broker = Mosquitto(tmp_path / "secure", certificates=certificates)
        broker.use_certificate(getattr(certificates, which))
        with broker, Subscriber(broker.port) as reader:
            broker.save()
            sink = make(host="localhost", port=broker.tls_port, tls=True, tls_ca=certificates.ca)
            for event in make_events(3):
                sink.log(event)
            wait_for_error(sink, "certificate")
            assert sink.stats().pending == 3
            assert not reader.messages
            broker.use_certificate(certificates.right)
            broker.restart()
            assert sink.flush(timeout=WAIT)
            assert len(reader.wait_for(3)) == 3

    def test_a_file_that_is_missing_for_a_while(self, tmp_path: Path, make: Make, certificates: Certificates) -> None:
        authority = tmp_path / "ca.pem"
        authority.write_bytes(Path(certificates.ca).read_bytes())
        with Mosquitto(tmp_path / "secure", certificates=certificates) as broker, Proxy(broker.tls_port) as proxy:
            sink = make(host="localhost", port=proxy.port, tls=True, tls_ca=str(authority))
            deliver(sink, make_event(1))
            authority.rename(tmp_path / "elsewhere.pem")
            proxy.drop()
            wait_until(sink._is_connection_lost, "the sink has noticed")
            for event in make_events(10):
                sink.log(event)
            wait_for_error(sink, "tls_ca: there is no file")
            (tmp_path / "elsewhere.pem").rename(authority)
            assert sink.flush(timeout=WAIT)
            assert sink.stats().delivered == 11
            sink.close()

    def test_an_authority_that_the_system_does_not_know(
        self, tmp_path: Path, make: Make, certificates: Certificates
    ) -> None:
        with Mosquitto(tmp_path / "secure", certificates=certificates) as broker:
            sink = make(port=broker.tls_port, tls=True, shutdown_timeout=0.1)
            sink.log(make_event(1))
            wait_for_error(sink, "certificate")
            sink.close()

    def test_the_certificate_of_the_client(self, tmp_path: Path, make: Make, certificates: Certificates) -> None:
        certificate, key = certificates.client
        server = Mosquitto(tmp_path / "strict", certificates=certificates, asks_certificate=True)
        with server as broker, Subscriber(broker.port) as reader:
            options = {"port": broker.tls_port, "tls": True, "tls_ca": certificates.ca}
            without = make(**options, shutdown_timeout=0.1)
            without.log(make_event(1))
            wait_for_error(without, "certificate required|Connection|handshake")
            assert without.stats().pending == 1
            without.close()
            deliver(make(**options, tls_cert=certificate, tls_key=key), make_event(2))
            reader.wait_for(1)
            assert [name for _, name in reader.read_ids()] == ["order.2"]

    @pytest.mark.slow
    def test_it_freezes(self, tmp_path: Path, make: Make, certificates: Certificates) -> None:
        with Mosquitto(tmp_path / "secure", certificates=certificates) as broker, Subscriber(broker.port) as reader:
            sink = make(port=broker.tls_port, tls=True, tls_ca=certificates.ca, delivery_timeout=1.0)

            def freeze() -> None:
                broker.freeze()
                try:
                    wait_for_error(sink, "no answer|not connected")
                finally:
                    broker.thaw()

            survive(sink, reader, freeze, count=1_000)
            sink.close()


# ---------------------------------------------------------------------- life


class TestLife:
    def test_on_the_loop_of_an_application(self, broker: Mosquitto, reader: Subscriber) -> None:
        async def run() -> None:
            sink = MqttLogSink(host="127.0.0.1", port=broker.port, **PATIENT)
            sink.start()
            for event in make_events(10):
                sink.log(event)
            await sink.stop()

        asyncio.run(run())
        assert len(reader.wait_for(10)) == 10

    def test_it_composes(self, broker: Mosquitto, reader: Subscriber, make: Make) -> None:
        memory = MemoryLogSink()
        inner = make(port=broker.port)
        sink = FilterSink(FanOutSink(FallbackSink(inner, memory), memory), min_level=LogLevel.INFO)
        logger = logging.Logger("shop.legacy")
        logger.addHandler(mvx_logger.SinkHandler(sink))
        logger.debug("too quiet")
        logger.warning("order %s", "A-1")
        assert inner.flush(timeout=WAIT)
        (message,) = reader.wait_for(1)
        assert decode_event(message.payload).message == "order A-1"
        assert len(memory.events) == 1
