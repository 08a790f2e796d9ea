"""NATS: JetStream and core, on a real server, read back with nats-py."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
    wait_for_error,
)
from mvx_logger import LogConfigurationError, LogEvent, LogEventMeta, MemoryLogSink, selflog
from mvx_logger.formats.json import decode_event, encode_event
from mvx_logger.sinks.nats import NatsLogSink, clean_subject
from nats_server import NatsServer, StreamConfig, needs_nats
from needs import import_needed
from servers import WAIT, Proxy, find_free_port, make_certificates, wait_until

nkeys = import_needed("nkeys")
pytestmark = needs_nats


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def make_sink(server: NatsServer) -> Iterator[Callable[..., NatsLogSink]]:
    sinks: list[NatsLogSink] = []

    def make(**options: Any) -> NatsLogSink:
        options.setdefault("servers", f"127.0.0.1:{server.port}")
        sink, _ = NatsLogSink.create(**{**PATIENT, **options})
        sinks.append(sink)
        return sink

    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [sink.close() for sink in sinks])
        yield make


def log_all(sink: NatsLogSink, events: list[LogEvent]) -> None:
    for event in events:
        sink.log(event)
    assert sink.flush(timeout=WAIT), sink.stats()


def get_stream(server: NatsServer, name: str = "LOGS") -> Any:
    async def work(client: Any) -> Any:
        return await client.jetstream().stream_info(name)

    return server.run(work)


def add_stream(server: NatsServer, **config: Any) -> None:
    async def work(client: Any) -> None:
        await client.jetstream().add_stream(StreamConfig(**config))

    server.run(work)


class Listener:
    """A subscriber of its own, who reads all the time."""

    def __init__(self, server: NatsServer, subject: str = ">") -> None:
        self.messages: list[Any] = []
        self._server, self._subject = server, subject
        self._is_ready, self._is_over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: server.run(self._listen))

    async def _listen(self, client: Any) -> None:
        async def take(message: Any) -> None:
            self.messages.append(message)

        await client.subscribe(self._subject, cb=take)
        await client.flush()
        self._is_ready.set()
        while not self._is_over.is_set():
            await asyncio.sleep(0.01)

    def read_names(self) -> list[tuple[str, str]]:
        return [(message.headers["Nats-Msg-Id"], json.loads(message.data)["event"]) for message in self.messages]

    def __enter__(self) -> Listener:
        self._thread.start()
        assert self._is_ready.wait(WAIT)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(WAIT)


class TestFields:
    def test_every_field_arrives_in_the_stream(self, server: NatsServer, make_sink: Any) -> None:
        """What a consumer of the stream decodes is the event, under its delivery id."""
        sink = make_sink()
        events = make_rich_events()
        log_all(sink, events)
        messages = server.read()
        assert [decode_event(message.data) for message in messages] == [
            decode_event(encode_event(event)) for event in events
        ]
        ids = [message.headers["Nats-Msg-Id"] for message in messages]
        assert len(set(ids)) == len(events)
        assert sorted(ids) == ids
        assert {message.headers["Nats-Expected-Stream"] for message in messages} == {"LOGS"}
        assert [message.subject for message in messages] == [
            "logs.debug.none",
            "logs.warning.shop.pay",
            "logs.critical.shop",
            "logs.level_25.shop",
            "logs.error.shop.legacy",
        ]

    def test_every_field_arrives_at_a_listener(self, server: NatsServer, make_sink: Any) -> None:
        """Without JetStream, who listens gets the same."""
        with Listener(server) as listener:
            events = make_rich_events()
            log_all(make_sink(jetstream=False), events)
            wait_until(lambda: len(listener.messages) == len(events), "all events are there")
        assert [decode_event(message.data) for message in listener.messages] == [
            decode_event(encode_event(event)) for event in events
        ]
        assert all(message.headers["Nats-Msg-Id"] for message in listener.messages)
        assert not any(message.reply for message in listener.messages)

    def test_without_jetstream_nobody_has_to_listen(self, make_sink: Any) -> None:
        """What the server has processed counts as delivered."""
        sink = make_sink(jetstream=False)
        log_all(sink, make_events(50))
        assert sink.stats().delivered == 50


class TestSubjects:
    def test_templates_become_subjects(self, server: NatsServer, make_sink: Any) -> None:
        """Fields make levels; the stream takes all that the template may become."""
        sink = make_sink(subject="shop.events.{payload.tenant|nobody}.{event}")
        log_all(sink, [make_event(1, tenant="a.b"), make_event(2), make_event(3, tenant="$JS.API.STREAM.DELETE.LOGS")])
        assert [message.subject for message in server.read()] == [
            "shop.events.a.b.order.1",
            "shop.events.nobody.order.2",
            "shop.events._JS.API.STREAM.DELETE.LOGS.order.3",
        ]
        assert get_stream(server).config.subjects == ["shop.events.>"]

    def test_a_constant_subject_is_all_that_the_stream_takes(self, server: NatsServer, make_sink: Any) -> None:
        """Nothing else is taken away from other streams."""
        log_all(make_sink(subject="shop.log", stream="SHOP"), make_events(3))
        assert get_stream(server, "SHOP").config.subjects == ["shop.log"]

    def test_text_of_an_event_cannot_break_a_subject(self, server: NatsServer, make_sink: Any) -> None:
        """Spaces, wildcards, empty levels, line breaks and endless text are made fit; every event arrives."""
        texts = [
            "a b",
            "*",
            ">",
            "a..b",
            ".",
            "...",
            "x\r\nPUB y 1\r\nz",
            "\t",
            "\x00\x7f",
            "ä\u2028ö \U0001f600",
            "long" * 5_000,
        ]
        sink = make_sink(subject="logs.{payload.text}.end")
        log_all(sink, [make_event(number, text=text) for number, text in enumerate(texts)])
        messages = server.read()
        assert [json.loads(message.data)["payload"]["number"] for message in messages] == list(range(len(texts)))
        assert messages[0].subject == "logs.a_b.end"
        assert messages[3].subject == "logs.a._.b.end"
        assert len(messages[-1].subject) == 1_000

    @pytest.mark.parametrize(
        ("text", "subject"),
        [
            ("a.b", "a.b"),
            ("", "_"),
            (".a", "_.a"),
            ("a.", "a._"),
            ("a.*.>", "a._._"),
            ("x" * 999 + ".y", "x" * 999 + "._"),
        ],
    )
    def test_clean_subject(self, text: str, subject: str) -> None:
        """It matches one message, and none of its levels is empty."""
        assert clean_subject(text) == subject


class TestStream:
    def test_it_is_made_as_the_options_say(self, server: NatsServer, make_sink: Any) -> None:
        """Limits, duplicate window and subjects are the stream's."""
        sink = make_sink(
            subject="a.{event}",
            stream="OWN",
            stream_subjects=["a.>", "b.*"],
            max_age=3600.0,
            max_bytes=1_000_000,
            discard="new",
            duplicate_window=30.0,
            replicas=1,
        )
        log_all(sink, make_events(2))
        config = get_stream(server, "OWN").config
        assert config.subjects == ["a.>", "b.*"]
        assert (config.max_age, config.max_bytes, config.discard, config.duplicate_window) == (
            3600,
            1_000_000,
            "new",
            30,
        )
        assert config.num_replicas == 1

    def test_one_that_is_there_is_left_as_it_is(self, server: NatsServer, make_sink: Any) -> None:
        """It is somebody's."""
        add_stream(server, name="LOGS", subjects=["logs.>"], max_msgs=7)
        log_all(make_sink(max_bytes=1_000_000), make_events(20))
        state = get_stream(server)
        assert (state.config.max_msgs, state.config.max_bytes) == (7, -1)
        assert state.state.messages == 7

    def test_a_short_life_shortens_the_duplicate_window(self, server: NatsServer, make_sink: Any) -> None:
        """The server takes no window that is longer than the age of events."""
        log_all(make_sink(max_age=5.0), make_events(1))
        assert get_stream(server).config.duplicate_window == 5

    def test_events_wait_for_a_stream_that_is_missing(self, server: NatsServer, make_sink: Any) -> None:
        """Nobody answers for the subject: nothing is lost, the error says why."""
        sink = make_sink(create_stream=False, stream=None)
        for event in make_events(5):
            sink.log(event)
        wait_for_error(sink, r"no stream takes the subject \(status 503\)")
        add_stream(server, name="ANY", subjects=["logs.>"])
        assert sink.flush(timeout=WAIT)
        check_arrived(lambda: server.read_names("ANY"), 5, exactly_once=True)

    def test_a_stream_that_is_deleted_is_made_again(self, server: NatsServer, make_sink: Any) -> None:
        """Also while the sink runs."""
        sink = make_sink()
        log_all(sink, make_events(3))

        async def work(client: Any) -> None:
            await client.jetstream().delete_stream("LOGS")

        server.run(work)
        log_all(sink, make_events(3, 3))
        assert [name for _, name in server.read_names()] == ["order.3", "order.4", "order.5"]

    def test_events_do_not_go_to_another_stream(self, server: NatsServer, make_sink: Any) -> None:
        """Where another one takes the subject, that is told, and they wait."""
        add_stream(server, name="OTHER", subjects=["logs.>"])
        sink = make_sink(create_stream=False, shutdown_timeout=0.1)
        sink.log(make_event(0))
        wait_for_error(sink, "expected stream does not match")
        assert not get_stream(server, "OTHER").state.messages
        assert sink.stats().pending == 1

    def test_the_same_event_is_stored_once(self, server: NatsServer, make_sink: Any) -> None:
        """The server knows the delivery id; its answer counts as confirmation."""
        sink = make_sink()
        log_all(sink, make_events(1))
        ((delivery_id, _),) = server.read_names()

        async def work(client: Any) -> Any:
            return await client.jetstream().publish("logs.x", b"again", headers={"Nats-Msg-Id": delivery_id})

        assert server.run(work).duplicate
        assert len(server.read()) == 1


class TestOptions:
    def test_by_url(self, server: NatsServer) -> None:
        """The query has the same names."""
        url = f"nats://127.0.0.1:{server.port}/shop.{{level}}?stream=SHOP&max_bytes=100000&stream_subjects=shop.a,shop.info"
        handler = mvx_logger.SinkHandler(url)
        try:
            log_all(handler.sink, make_events(2))  # type: ignore[arg-type]
        finally:
            handler.close()
        assert get_stream(server, "SHOP").config.subjects == ["shop.a", "shop.info"]
        assert [message.subject for message in server.read("SHOP")] == ["shop.info"] * 2

    def test_secrets_stay_secret(self, server: NatsServer, make_sink: Any) -> None:
        """Neither descriptor, repr, statistics nor reports have them."""
        server.settings = "authorization { user: bob, password: right-secret }"
        server.reload()
        descriptor = NatsLogSink.build_descriptor(username="bob", password="wrong-secret", token=None)
        assert "wrong-secret" not in repr(descriptor)
        assert "wrong-secret" not in json.dumps(descriptor.to_log_payload(), default=str)
        assert descriptor != NatsLogSink.build_descriptor(username="bob", password="other", token=None)
        reports: list[Any] = []
        before = selflog.redirect(reports.append)
        try:
            sink = make_sink(username="bob", password="wrong-secret", shutdown_timeout=0.1)
            sink.log(make_event(0))
            wait_for_error(sink, "Authorization Violation")
            seen = f"{sink!r} {sink.stats()}"
            sink.close()
        finally:
            selflog.redirect(before)
        assert "secret" not in seen
        assert reports
        assert "secret" not in repr(reports)

    def test_the_next_server_is_tried(self, server: NatsServer, make_sink: Any) -> None:
        """The first one does not answer."""
        sink = make_sink(servers=[f"127.0.0.1:{find_free_port()}", f"127.0.0.1:{server.port}"])
        log_all(sink, make_events(3))
        assert not sink.stats().retries

    def test_the_name_of_the_client(self, server: NatsServer, make_sink: Any) -> None:
        """The server's reports have it."""
        server.settings = "accounts { SYS { users: [{user: sys, password: x}] }, A { jetstream: enabled, users: [{user: a, password: a}] } }\nsystem_account: SYS"  # fmt: skip # noqa: E501
        server.restart()
        sink = make_sink(username="a", password="a", client_name="the-shop", inbox_prefix="_INBOX.shop")
        log_all(sink, make_events(1))

        async def work(client: Any) -> Any:
            return json.loads(
                (await client.request("$SYS.REQ.SERVER.PING.CONNZ", b'{"subscriptions": true}', timeout=10)).data
            )

        connections = server.run(work, user="sys", password="x")["data"]["connections"]
        (own,) = (connection for connection in connections if connection.get("name") == "the-shop")
        assert any(subject.startswith("_INBOX.shop.") for subject in own["subscriptions_list"])


def encode_jwt(claims: dict[str, Any], issuer: Any) -> str:
    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    claims = {**claims, "iss": issuer.public_key.decode(), "iat": int(time.time())}
    claims["jti"] = base64.b32encode(hashlib.sha256(json.dumps(claims).encode()).digest()).rstrip(b"=").decode()
    text = f"{encode(json.dumps({'typ': 'JWT', 'alg': 'ed25519-nkey'}).encode())}.{encode(json.dumps(claims).encode())}"
    return f"{text}.{encode(issuer.sign(text.encode()))}"


def make_key(prefix: int) -> tuple[str, Any]:
    seed = nkeys.encode_seed(os.urandom(32), prefix)
    return seed.decode(), nkeys.from_seed(bytearray(seed))


class TestLogin:
    @pytest.mark.parametrize(
        ("settings", "options"),
        [
            ("user: bob, password: secret", {"username": "bob", "password": "secret"}),
            ("token: tok", {"token": "tok"}),
        ],
    )
    def test_password_and_token(self, server: NatsServer, make_sink: Any, settings: str, options: Any) -> None:
        """The right one is taken; a wrong one is told, and events wait."""
        server.settings = f"authorization {{ {settings} }}"
        server.reload()
        log_all(make_sink(**options), make_events(2))
        wrong = make_sink(**{**options, list(options)[-1]: "wrong"}, shutdown_timeout=0.1)
        wrong.log(make_event(9))
        wait_for_error(wrong, "Authorization Violation")
        assert wrong.stats().pending == 1

    def test_nkey(self, server: NatsServer, make_sink: Any, tmp_path: Path) -> None:
        """A file with the seed."""
        seed, key = make_key(nkeys.PREFIX_BYTE_USER)
        (tmp_path / "seed").write_text(seed + "\n")
        server.settings = f"authorization {{ users: [{{nkey: {key.public_key.decode()}}}] }}"
        server.reload()
        log_all(make_sink(nkey=str(tmp_path / "seed")), make_events(2))

    def test_credentials(self, server: NatsServer, make_sink: Any, tmp_path: Path) -> None:
        """A file with a JWT and its seed."""
        _, operator = make_key(nkeys.PREFIX_BYTE_OPERATOR)
        _, account = make_key(nkeys.PREFIX_BYTE_ACCOUNT)
        seed, user = make_key(nkeys.PREFIX_BYTE_USER)
        _, system_account = make_key(nkeys.PREFIX_BYTE_ACCOUNT)
        names = [key.public_key.decode() for key in (operator, account, user, system_account)]
        limits = {"subs": -1, "data": -1, "payload": -1, "conn": -1, "imports": -1, "exports": -1, "wildcards": True,
                  "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}  # fmt: skip
        system = {name: value for name, value in limits.items() if not name.endswith("storage")}
        unlimited = {"subs": -1, "data": -1, "payload": -1}
        tokens = [
            encode_jwt({"name": "op", "sub": names[0], "nats": {"type": "operator", "version": 2}}, operator),
            encode_jwt(
                {"name": "a", "sub": names[1], "nats": {"type": "account", "version": 2, "limits": limits}}, operator
            ),
            encode_jwt({"name": "u", "sub": names[2], "nats": {"type": "user", "version": 2, **unlimited}}, account),
            encode_jwt(
                {"name": "s", "sub": names[3], "nats": {"type": "account", "version": 2, "limits": system}}, operator
            ),
        ]
        server.settings = (
            f"operator: {tokens[0]}\nsystem_account: {names[3]}\nresolver: MEMORY\n"
            f"resolver_preload: {{ {names[1]}: {tokens[1]}, {names[3]}: {tokens[3]} }}"
        )
        server.restart()
        path = tmp_path / "user.creds"
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{tokens[2]}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
        log_all(make_sink(credentials=str(path)), make_events(2))

    def test_a_missing_permission_is_told_at_once(self, server: NatsServer, make_sink: Any) -> None:
        """The server tells of it beside; nobody has to wait for a timeout. Given it, all arrive."""
        right = "user: bob, password: x, permissions: {{ publish: {} }}"
        server.settings = "authorization {{ users: [{{ {} }}] }}".format(right.format('["$JS.API.>"]'))
        server.reload()
        sink = make_sink(username="bob", password="x", delivery_timeout=None)
        for event in make_events(3):
            sink.log(event)
        wait_for_error(sink, "ermissions violation")
        server.settings = "authorization {{ users: [{{ {} }}] }}".format(right.format('">"'))
        server.reload()
        assert sink.flush(timeout=WAIT)
        check_arrived(lambda: server.read_names(user="bob", password="x"), 3, exactly_once=True)


class TestTls:
    def test_the_right_certificate(self, server: NatsServer, make_sink: Any, tmp_path: Path) -> None:
        """Also with a certificate of the client, and also when TLS comes first."""
        made = make_certificates(tmp_path / "tls")
        server.tls, server.client_ca = made.right, made.ca
        server.restart()
        sink = make_sink(tls=True, tls_ca=made.ca, tls_cert=made.client[0], tls_key=made.client[1])
        log_all(sink, make_events(3))
        without = make_sink(tls=True, tls_ca=made.ca, shutdown_timeout=0.1)
        without.log(make_event(3))
        wait_until(lambda: without.stats().retries, "it is not let in")
        assert without.stats().pending == 1

    @pytest.mark.parametrize("name", ["wrong_name", "expired", "self_signed"])
    def test_a_certificate_that_is_wrong(self, server: NatsServer, make_sink: Any, tmp_path: Path, name: str) -> None:
        """Nothing goes there; the events arrive once the server has the right one."""
        made = make_certificates(tmp_path / "tls")
        server.tls = getattr(made, name)
        server.restart()
        sink = make_sink(tls=True, tls_ca=made.ca)
        for event in make_events(5):
            sink.log(event)
        wait_for_error(sink, "certificate")
        assert sink.stats().delivered == 0
        server.tls = made.right
        server.restart()
        assert sink.flush(timeout=WAIT)
        server.tls = None
        server.restart()
        check_arrived(server.read_names, 5, exactly_once=True)

    def test_tls_first(self, server: NatsServer, make_sink: Any, tmp_path: Path) -> None:
        """The server says nothing before."""
        made = make_certificates(tmp_path / "tls")
        server.tls = made.right
        prepare = server.prepare

        def with_handshake_first() -> None:
            prepare()
            path = server.directory / "server.conf"
            path.write_text(path.read_text().replace("tls {", "tls { handshake_first: true,"))

        server.prepare = with_handshake_first  # type: ignore[method-assign]
        try:
            server.restart()
        except AssertionError:
            pytest.skip("this nats-server cannot begin with TLS")
        log_all(make_sink(tls=True, tls_ca=made.ca, tls_first=True), make_events(2))

    def test_a_server_that_leaves_tls_out_gets_nothing(self, make_sink: Any) -> None:
        """Neither the password nor an event: the client alone would speak without TLS where the server asks for none."""
        received = bytearray()

        def serve(listener: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.sendall(
                            b'INFO {"server_id":"x","version":"2.10.0","max_payload":1048576,"auth_required":true}\r\n'
                        )
                        connection.settimeout(5)
                        while data := connection.recv(1 << 16):
                            received.extend(data)
                            if b"PING" in data:
                                connection.sendall(b"PONG\r\n")

        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=serve, args=(listener,))
            thread.start()
            try:
                address = f"127.0.0.1:{listener.getsockname()[1]}"
                for login in ({"username": "bob", "password": "secret"}, {}):
                    sink = make_sink(servers=address, tls=True, shutdown_timeout=0.1, jetstream=False, **login)
                    sink.log(make_event(0))
                    wait_for_error(sink, "the server does not speak TLS")
                    sink.close()
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join(WAIT)
        assert b"secret" not in received
        assert b"order.0" not in received


class TestTrouble:
    @pytest.mark.slow
    def test_killed(self, server: NatsServer, make_sink: Any) -> None:
        """SIGKILL twice, under load: all is there once."""
        survive(make_sink(), server.read_names, server.restart, times=2, exactly_once=True, is_noticed=False)

    @pytest.mark.slow
    def test_frozen(self, server: NatsServer, make_sink: Any) -> None:
        """It does not answer for longer than a delivery may take: what it stored meanwhile is not stored again."""
        sink = make_sink(delivery_timeout=1.0)

        def freeze() -> None:
            before = sink.stats().retries
            server.freeze()
            wait_until(lambda: sink.stats().retries > before, "a delivery took too long")
            server.thaw()

        survive(sink, server.read_names, freeze, exactly_once=True)

    @pytest.mark.slow
    def test_frozen_with_more_on_its_way_than_buffers_hold(self, server: NatsServer, make_sink: Any) -> None:
        """The client waits inside of itself then, and does not pass on that it was cancelled."""
        sink = make_sink(delivery_timeout=1.0, batch_max_size=1_000, batch_max_bytes=1 << 26, max_bytes=1 << 30)
        log_all(sink, make_events(1))
        server.freeze()
        for number in range(1, 1_000):
            sink.log(make_event(number, text="x" * 20_000))
        wait_until(lambda: sink.stats().retries >= 3, "several deliveries took too long")
        server.thaw()
        assert sink.flush(timeout=WAIT), sink.stats()
        check_arrived(server.read_names, 1_000, exactly_once=True)

    @pytest.mark.slow
    def test_dropped_connections(self, server: NatsServer, make_sink: Any) -> None:
        """Many times, under load: all is there once."""
        with Proxy(server.port) as proxy:
            sink = make_sink(servers=f"127.0.0.1:{proxy.port}")
            survive(sink, server.read_names, proxy.interrupt, times=8, exactly_once=True, is_noticed=False)
            assert proxy.connections >= 8
            sink.close()

    @pytest.mark.slow
    def test_a_full_stream(self, server: NatsServer, make_sink: Any) -> None:
        """It takes nothing new: events wait until there is room, and each is there once."""
        sink = make_sink(max_bytes=40_000, discard="new", batch_max_size=100)
        arrived: list[tuple[str, str]] = []

        async def purge(client: Any) -> None:
            await client.jetstream().purge_stream("LOGS")

        def make_room() -> None:
            wait_for_error(sink, r"maximum bytes exceeded \(error 10077\)")
            arrived.extend(server.read_names())
            server.run(purge)

        with Load(sink, 400) as load:
            load.wait_for(1.0)
        make_room()
        while not sink.flush(timeout=2):
            arrived.extend(server.read_names())
            server.run(purge)
        check_arrived(lambda: [*arrived, *server.read_names()], 400, exactly_once=True, in_order=False)
        assert sink.stats().delivered == 400
        assert not sink.stats().dropped

    @pytest.mark.slow
    @pytest.mark.parametrize("trouble", ["drop", "freeze"])
    def test_without_jetstream(self, server: NatsServer, make_sink: Any, trouble: str) -> None:
        """Who listens all the time gets every event."""
        with Listener(server) as listener, Proxy(server.port) as proxy:
            sink = make_sink(servers=f"127.0.0.1:{proxy.port}", jetstream=False, delivery_timeout=1.0)

            def freeze() -> None:
                server.freeze()
                wait_until(lambda: sink.stats().retries, "a delivery took too long")
                server.thaw()

            survive(
                sink,
                listener.read_names,
                proxy.interrupt if trouble == "drop" else freeze,
                times=5 if trouble == "drop" else 1,
                exactly_once=False,
                is_noticed=trouble == "freeze",
            )
            sink.close()

    def test_without_jetstream_all_that_is_confirmed_was_processed(self, server: NatsServer, make_sink: Any) -> None:
        """When flush() returns, a listener on the same server has been sent everything."""
        with Listener(server) as listener:
            sink = make_sink(jetstream=False, batch_max_size=1_000)
            for start in range(0, 3_000, 1_000):
                log_all(sink, make_events(1_000, start))
                server.run(_ping)
            wait_until(lambda: len(listener.messages) == 3_000, "all have come")

    def test_jetstream_that_is_not_there(self, server: NatsServer, make_sink: Any) -> None:
        """It is told, and events wait until it is."""
        server.jetstream = False
        server.restart()
        sink = make_sink()
        sink.log(make_event(0))
        wait_until(lambda: sink.stats().retries, "it is tried again")
        assert sink.stats().pending == 1
        server.jetstream = True
        server.restart()
        assert sink.flush(timeout=WAIT)
        check_arrived(server.read_names, 1, exactly_once=True)

    @pytest.mark.parametrize("frozen", [False, True])
    def test_close_with_a_dead_server(self, server: NatsServer, make_sink: Any, frozen: bool) -> None:
        """It ends in time, and what is left is counted."""
        sink = make_sink(shutdown_timeout=1.0)
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
        server.kill()


async def _ping(client: Any) -> None:
    await client.flush()


class TestRefused:
    def test_an_event_that_is_too_large(self, server: NatsServer, make_sink: Any, tmp_path: Path) -> None:
        """It alone is set aside, also where only its headers make it too large; the server would end the connection."""
        server.max_payload = 10_000
        server.restart()
        letters = MemoryLogSink()
        sink = make_sink(dead_letter=letters)
        events = make_events(30)
        events[7] = make_event(7, text="x" * 20_000)
        bare = len(encode_event(make_event(8, text="")))
        events[8] = make_event(8, text="x" * (10_000 - bare))
        for event in events:
            sink.log(event)
        wait_until(lambda: not sink.stats().pending, "all is settled")
        assert {name for _, name in server.read_names()} == {f"order.{n}" for n in range(30) if n not in (7, 8)}
        assert [event.payload["number"] for event in letters.events] == [7, 8]
        assert "max_payload of 10000" in letters.events[0].payload["_dead_letter"]["error"]
        assert sink.stats().dead_lettered == 2

    def test_the_largest_one_passes(self, server: NatsServer, make_sink: Any) -> None:
        """To the byte."""
        server.max_payload = 10_000
        server.restart()
        bare = len(encode_event(make_event(0, text="")))
        headers = len("NATS/1.0\r\nNats-Msg-Id: \r\nNats-Expected-Stream: LOGS\r\n\r\n") + 36
        log_all(make_sink(), [make_event(0, text="x" * (10_000 - bare - headers))])

    def test_an_event_that_the_stream_refuses(self, server: NatsServer, make_sink: Any) -> None:
        """The stream's own limit."""
        add_stream(server, name="LOGS", subjects=["logs.>"], max_msg_size=2_000)
        letters = MemoryLogSink()
        sink = make_sink(dead_letter=letters)
        for number in range(10):
            sink.log(make_event(number, text="x" * (5_000 if number == 4 else 10)))
        wait_until(lambda: not sink.stats().pending, "all is settled")
        assert len(server.read_names()) == 9
        (letter,) = letters.events
        assert "message size exceeds maximum allowed (error 10054)" in letter.payload["_dead_letter"]["error"]


class TestReading:
    def read(self, server: NatsServer, **options: Any) -> list[int]:
        events = NatsLogSink.read_events(servers=f"127.0.0.1:{server.port}", **options)
        return [event.payload["number"] for event in events if event is not None]

    def fill(self, server: NatsServer, make_sink: Any, count: int = 1_200) -> None:
        log_all(make_sink(), make_events(count // 2))

        async def work(client: Any) -> None:
            await client.jetstream().publish("logs.x", b"no event")
            await client.jetstream().publish("logs.y", b"")

        server.run(work)
        log_all(make_sink(), make_events(count - count // 2, count // 2))

    def test_all(self, server: NatsServer, make_sink: Any) -> None:
        """In the order of the stream; what is no event is skipped; nothing is left behind on the server."""
        self.fill(server, make_sink)
        assert self.read(server) == list(range(1_200))
        state = get_stream(server).state
        assert (state.messages, state.consumer_count) == (1_202, 0)

    @pytest.mark.parametrize("last", [0, 1, 5, 700, 5_000])
    def test_the_newest(self, server: NatsServer, make_sink: Any, last: int) -> None:
        """Exactly so many, where there are."""
        self.fill(server, make_sink)
        assert self.read(server, last=last) == list(range(max(0, 1_200 - last), 1_200))

    def test_only_what_the_subject_means(self, server: NatsServer, make_sink: Any) -> None:
        """A stream may have much else."""
        log_all(make_sink(subject="logs.a.{level}", stream_subjects=["logs.>"]), make_events(5))
        log_all(make_sink(subject="logs.b.{level}"), make_events(5, 5))
        log_all(make_sink(subject="logs.a.{level}"), make_events(5, 10))
        assert self.read(server, subject="logs.a.{level}") == [*range(5), *range(10, 15)]
        assert self.read(server, subject="logs.a.{level}", last=6) == [4, *range(10, 15)]
        assert self.read(server, subject="logs.b.{level}", stream=None) == list(range(5, 10))
        assert self.read(server, subject="logs.c.{level}") == []

    def test_since(self, server: NatsServer, make_sink: Any) -> None:
        """What is older than any event may be skipped; what is newer is there."""
        self.fill(server, make_sink, 10)
        assert self.read(server, since=time.time() - 5) == list(range(10))
        assert self.read(server, since=time.time() + 3_600) == []

    def test_an_empty_stream(self, server: NatsServer, make_sink: Any) -> None:
        """It ends at once."""
        add_stream(server, name="LOGS", subjects=["logs.>"])
        assert self.read(server) == []
        assert self.read(server, last=3) == []

    def test_follow(self, server: NatsServer, make_sink: Any) -> None:
        """What comes later comes, with None in between when there is nothing."""
        sink = make_sink()
        log_all(sink, make_events(5))
        events = NatsLogSink.read_events(servers=f"127.0.0.1:{server.port}", last=2, follow=True)
        found = [next(events), next(events)]
        assert next(events) is None
        log_all(sink, make_events(1, 5))
        found.append(next(event for event in events if event is not None))
        events.close()  # type: ignore[attr-defined]
        assert [event.payload["number"] for event in found if event is not None] == [3, 4, 5]
        wait_until(lambda: get_stream(server).state.consumer_count == 0, "nothing is left behind")

    def test_a_queue_is_not_read(self, server: NatsServer) -> None:
        """Reading would take events away."""
        add_stream(server, name="LOGS", subjects=["logs.>"], retention="workqueue")
        with pytest.raises(LogConfigurationError, match="stream: LOGS is a queue"):
            self.read(server)

    def test_what_is_not_there(self, server: NatsServer) -> None:
        """No stream, no server, no JetStream: the error says so."""
        with pytest.raises(mvx_logger.LogDeliveryTransientError, match="there is no stream LOGS"):
            self.read(server)
        with pytest.raises(mvx_logger.LogDeliveryTransientError, match="there is no stream for logs"):
            self.read(server, stream=None)
        with pytest.raises(LogConfigurationError, match="jetstream: without it"):
            self.read(server, jetstream=False)
        server.kill()
        with pytest.raises(mvx_logger.LogDeliveryTransientError, match="Connect call failed"):
            self.read(server)


class TestTogether:
    def test_the_recipe(self, server: NatsServer) -> None:
        """What the page says, word for word."""
        log_three_ways(load_recipe("nats", {"localhost:4222": f"127.0.0.1:{server.port}"}))
        events = [decode_event(message.data) for message in server.read()]
        assert [event.payload["number"] for event in events] == [1, 2, 3]
        assert [event.meta.event_namespace for event in events] == ["shop.legacy", "shop.web", "shop.orders"]
        assert {message.subject for message in server.read()} >= {"logs.warning.shop.legacy", "logs.info.shop.orders"}

    def test_behind_combinators(self, server: NatsServer, make_sink: Any) -> None:
        """It is a sink like any other."""
        sink, memory = make_sink(), MemoryLogSink()
        fan = mvx_logger.FanOutSink(mvx_logger.FilterSink(sink, min_level=30), mvx_logger.FallbackSink(sink, memory))
        fan.log(make_event(0))
        fan.log(LogEvent(40, LogEventMeta("shop", "failed"), None, 0.0, {}))
        assert sink.flush(timeout=WAIT)
        assert sorted(name for _, name in server.read_names()) == ["failed", "failed", "order.0"]
        assert not memory.events

    def test_on_the_loop_of_an_application(self, server: NatsServer) -> None:
        """Nothing of the client is left on it."""

        async def main() -> set[Any]:
            sink = NatsLogSink(servers=f"127.0.0.1:{server.port}", **PATIENT)
            await sink.start()
            for event in make_events(20):
                sink.log(event)
            await sink.stop()
            await asyncio.sleep(0)
            return asyncio.all_tasks() - {asyncio.current_task()}

        assert asyncio.run(main()) == set()
        check_arrived(server.read_names, 20, exactly_once=True)
