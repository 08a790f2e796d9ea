"""`mvx_logger.sinks.redis` on real servers: one, one with sentinels, a cluster."""

from __future__ import annotations

import asyncio
import json
import logging
import logging.config
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
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
from mvx_logger import (
    AsyncioLogSinkState,
    FallbackSink,
    FanOutSink,
    FilterSink,
    LogConfigurationError,
    LogEvent,
    LoggerError,
    MemoryLogSink,
    selflog,
)
from mvx_logger.bridge.config import sink_from_url
from mvx_logger.formats.json import decode_event, encode_event
from mvx_logger.sinks.redis import RedisLogSink
from redis_server import RedisServer, Watched, name_events, needs_redis, read_list, read_stream, start_cluster
from servers import WAIT, Certificates, Proxy, find_free_port, make_certificates, wait_until

pytestmark = needs_redis

Make = Callable[..., RedisLogSink]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that no test disturbs."""
    with RedisServer(tmp_path_factory.mktemp("redis"), "appendfsync everysec") as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    with shared.connect() as client:
        client.flushall()
    return shared


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may do anything to."""
    with RedisServer(tmp_path / "server") as server:
        yield server


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes sinks that end with the test."""
    with ExitStack() as stack:

        def make(**options: Any) -> RedisLogSink:
            sink, close = RedisLogSink.create(**{**PATIENT, **options})
            stack.callback(close)
            return sink

        yield make


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def deliver(sink: Any, *events: LogEvent) -> None:
    for event in events:
        sink.log(event)
    assert sink.flush(timeout=WAIT), sink.stats()


def make_read(server: RedisServer, key: str = "logs") -> Callable[[], list[tuple[str, str]]]:
    def read() -> list[tuple[str, str]]:
        with server.connect() as client:
            return name_events(read_stream(client, key))

    return read


# ---------------------------------------------------------------------- what arrives


class TestEvents:
    def test_every_field_arrives_in_a_stream(self, server: RedisServer, make: Make) -> None:
        events = make_rich_events()
        deliver(make(port=server.port), *events)
        with server.connect() as client:
            entries = client.xrange("logs")
        assert [decode_event(fields[b"event"]) for _, fields in entries] == [
            decode_event(encode_event(event)) for event in events
        ]
        ids = [fields[b"id"].decode() for _, fields in entries]
        assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name) for name in ids)
        assert ids == sorted(set(ids))
        assert all(set(fields) == {b"id", b"event"} for _, fields in entries)

    @pytest.mark.parametrize("kind", ["list", "pubsub"])
    def test_every_field_arrives_in_lists_and_messages(self, server: RedisServer, make: Make, kind: str) -> None:
        events = make_rich_events()
        with server.connect() as client:
            listener = client.pubsub(ignore_subscribe_messages=True)
            listener.subscribe("logs")
            wait_until(lambda: client.pubsub_numsub("logs")[0][1] == 1, "somebody listens")
            deliver(make(port=server.port, kind=kind), *events)
            if kind == "list":
                items = client.lrange("logs", 0, -1)
            else:
                items = []
                wait_until(
                    lambda: (
                        ((message := listener.get_message()) and items.append(message["data"]))
                        or len(items) == len(events)
                    ),
                    "all messages",
                )
            listener.close()
        documents = [json.loads(item) for item in items]
        ids = [document.pop("id") for document in documents]
        assert documents == [json.loads(encode_event(event)) for event in events]
        assert len(set(ids)) == len(events)
        assert [next(iter(json.loads(item))) for item in items] == ["id"] * len(events)

    def test_a_message_that_nobody_hears_counts_as_delivered(self, server: RedisServer, make: Make) -> None:
        sink = make(port=server.port, kind="pubsub")
        deliver(sink, make_event(1))
        assert sink.stats().delivered == 1

    @pytest.mark.parametrize("kind", ["stream", "list"])
    def test_a_template_chooses_the_key(self, server: RedisServer, make: Make, kind: str) -> None:
        sink = make(port=server.port, kind=kind, key="logs:{namespace}:{payload.shop|none}:{{x}}")
        deliver(sink, make_event(1, shop="a"), make_event(2), make_event(3, shop="{b}\ud800"), make_event(4, shop="a"))
        with server.connect() as client:
            read = read_stream if kind == "stream" else read_list
            found = {key: [document["event"] for _, document in read(client, key)] for key in client.keys("logs:*")}
        assert found == {
            b"logs:shop.orders:a:{x}": ["order.1", "order.4"],
            b"logs:shop.orders:none:{x}": ["order.2"],
            rb"logs:shop.orders:(b)\ud800:{x}": ["order.3"],
        }

    def test_a_stream_is_trimmed_to_about_max_len(self, server: RedisServer, make: Make) -> None:
        deliver(make(port=server.port, max_len=200), *make_events(2_000))
        with server.connect() as client:
            assert 200 <= client.xlen("logs") <= 400
            assert read_stream(client)[-1][1]["event"] == "order.1999"

    def test_a_list_is_trimmed_to_max_len(self, server: RedisServer, make: Make) -> None:
        deliver(make(port=server.port, kind="list", max_len=30), *make_events(500))
        with server.connect() as client:
            assert [name for _, name in name_events(read_list(client))] == [f"order.{n}" for n in range(470, 500)]

    def test_a_list_that_cannot_be_trimmed_is_told(self, server: RedisServer, make: Make) -> None:
        told: list[str] = []
        selflog.redirect(told.append)
        with server.connect() as client:
            client.execute_command("ACL", "SETUSER", "pusher", "on", ">pw", "~*", "+rpush")
        sink = make(port=server.port, username="pusher", password="pw", kind="list", max_len=1)
        deliver(sink, *make_events(3))
        assert any("redis_trim" in str(line) for line in told)
        with server.connect() as client:
            assert client.llen("logs") == 3

    def test_the_database_is_chosen(self, server: RedisServer, make: Make) -> None:
        deliver(make(port=server.port, db=3), make_event(1))
        with server.connect(db=3) as client:
            assert len(read_stream(client)) == 1

    def test_a_unix_socket(self, server: RedisServer, make: Make) -> None:
        deliver(make(unix_socket=str(server.socket)), make_event(1))
        with server.connect() as client:
            assert len(read_stream(client)) == 1

    @pytest.mark.parametrize(
        ("options", "rights"),
        [
            ({}, "+xadd"),
            ({"kind": "list", "max_len": 5}, "+rpush +ltrim"),
            ({"kind": "pubsub"}, "&logs* +publish"),
            ({"deduplicate": 60}, "+xadd +eval +exists +set +pexpire"),
        ],
    )
    def test_a_user_with_the_rights_that_the_page_names(
        self, server: RedisServer, make: Make, options: dict[str, Any], rights: str
    ) -> None:
        with server.connect() as client:
            client.execute_command(
                "ACL", "SETUSER", "logger", "reset", "resetchannels", "on", ">pw", "~logs*", *rights.split()
            )
        sink = make(port=server.port, username="logger", password="pw", **options)
        deliver(sink, make_event(1))
        assert sink.stats().last_error is None


# ---------------------------------------------------------------------- options


class TestOptions:
    def test_no_secret_is_told(self, own: RedisServer, make: Make) -> None:
        told: list[Any] = []
        selflog.redirect(told.append)
        selflog.set_interval(0)
        secret = "Hush-Hush-0123"
        own.stop()
        own.password = "another-secret-9"
        own.start()
        options = {"password": secret, "username": "somebody", "sentinel_password": secret, "tls_key_password": secret}
        sink = make(port=own.port, **options, shutdown_timeout=0.2)
        sink.log(make_event(1))
        wait_for_error(sink, "username-password|WRONGPASS")
        sink.close()
        texts = [repr(sink), repr(sink.stats()), str(told), repr(RedisLogSink.build_descriptor(**options))]
        assert not [text for text in texts if secret in text]


def test_the_recipe_works(server: RedisServer) -> None:
    log_three_ways(load_recipe("redis", {"localhost:6379": f"127.0.0.1:{server.port}"}))
    with server.connect() as client:
        found = [document for _, document in read_stream(client)]
    assert [document["event"] for document in found] == ["one", "two", "three"]
    assert [document["payload"]["number"] for document in found] == [1, 2, 3]
    assert [document["namespace"] for document in found] == ["shop.legacy", "shop.web", "shop.orders"]


# ---------------------------------------------------------------------- trouble


class TestTrouble:
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["stream", "list"])
    def test_the_server_is_killed_and_comes_back(self, own: RedisServer, make: Make, kind: str) -> None:
        def read() -> list[tuple[str, str]]:
            with own.connect() as client:
                return name_events((read_stream if kind == "stream" else read_list)(client))

        survive(make(port=own.port, kind=kind), read, own.restart, times=2, exactly_once=False)

    @pytest.mark.slow
    @pytest.mark.parametrize("remember", [None, 600])
    def test_the_server_freezes(self, own: RedisServer, make: Make, remember: float | None) -> None:
        sink = make(port=own.port, delivery_timeout=1.0, deduplicate=remember)

        def freeze() -> None:
            own.freeze()
            try:
                wait_for_error(sink, "no answer|Timeout")
            finally:
                own.thaw()

        survive(sink, make_read(own), freeze, exactly_once=remember is not None)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["stream", "list"])
    def test_connections_are_dropped_and_no_event_is_there_twice(
        self, server: RedisServer, make: Make, kind: str
    ) -> None:
        def read() -> list[tuple[str, str]]:
            with server.connect() as client:
                return name_events((read_stream if kind == "stream" else read_list)(client))

        with Proxy(server.port) as proxy:
            sink = make(port=proxy.port, kind=kind, deduplicate=600, batch_max_age=0.0)
            survive(sink, read, proxy.interrupt, times=8, exactly_once=True, is_noticed=False)
            assert proxy.connections >= 8

    def test_connections_are_refused_for_a_while(self, server: RedisServer, make: Make) -> None:
        with Proxy(server.port) as proxy:
            sink = make(port=proxy.port)

            def refuse() -> None:
                proxy.refuse()
                proxy.drop()
                wait_for_error(sink, "Error|Connection")
                proxy.refuse(False)

            survive(sink, make_read(server), refuse, times=2, exactly_once=False, count=1_000)

    def test_a_right_is_taken_and_given_back(self, own: RedisServer, make: Make) -> None:
        with own.connect() as client:
            client.execute_command("ACL", "SETUSER", "logger", "on", ">pw", "~logs", "+xadd")
        sink = make(port=own.port, username="logger", password="pw")

        def take() -> None:
            with own.connect() as client:
                client.execute_command("ACL", "SETUSER", "logger", "-xadd")
                wait_for_error(sink, "NoPermissionError")
                client.execute_command("ACL", "SETUSER", "logger", "+xadd")

        survive(sink, make_read(own), take, exactly_once=True)

    @pytest.mark.parametrize("remember", [None, 600])
    def test_the_memory_is_full_until_there_is_more(self, own: RedisServer, make: Make, remember: float | None) -> None:
        sink = make(port=own.port, deduplicate=remember)

        def fill() -> None:
            with own.connect() as client:
                client.config_set("maxmemory", "1")
                wait_for_error(sink, "OutOfMemoryError|-OOM")
                client.config_set("maxmemory", "0")

        survive(sink, make_read(own), fill, exactly_once=True)

    def test_a_server_that_has_become_a_replica_takes_nothing(self, own: RedisServer, make: Make) -> None:
        sink = make(port=own.port)

        def demote() -> None:
            with own.connect() as client:
                client.execute_command("REPLICAOF", "127.0.0.1", find_free_port())
                wait_for_error(sink, "ReadOnlyError")
                client.execute_command("REPLICAOF", "NO", "ONE")

        survive(sink, make_read(own), demote, exactly_once=True)

    def test_too_few_replicas(self, own: RedisServer, make: Make) -> None:
        sink = make(port=own.port, wait_replicas=1, wait_timeout=0.05, deduplicate=600)
        sink.log(make_event(1))
        wait_for_error(sink, "0 of 1 replicas have it")
        assert sink.stats().delivered == 0
        replica = RedisServer(own.directory / "replica", f"replicaof {own.host} {own.port}")
        with replica:
            assert sink.flush(timeout=WAIT)
            with own.connect() as client, replica.connect() as other:
                assert len(read_stream(client)) == 1
                assert read_stream(other) == read_stream(client)

    def test_a_user_who_may_not_wait_for_replicas(self, own: RedisServer, make: Make) -> None:
        with own.connect() as client:
            client.execute_command("ACL", "SETUSER", "logger", "on", ">pw", "~logs", "+xadd")
        sink = make(port=own.port, username="logger", password="pw", wait_replicas=1, shutdown_timeout=0.1)
        sink.log(make_event(1))
        wait_for_error(sink, "NoPermissionError")
        assert sink.stats().delivered == 0

    def test_a_server_that_accepts_and_says_nothing_is_given_up_in_time(self, own: RedisServer, make: Make) -> None:
        sink = make(port=own.port, connect_timeout=0.2, delivery_timeout=None, shutdown_timeout=0.1)
        own.freeze()
        try:
            sink.log(make_event(1))
            wait_for_error(sink, "TimeoutError")
        finally:
            own.thaw()

    @pytest.mark.parametrize("is_frozen", [False, True])
    def test_close_does_not_wait_for_a_dead_server(self, own: RedisServer, make: Make, is_frozen: bool) -> None:
        sink = make(port=own.port, shutdown_timeout=1.0, delivery_timeout=0.5)
        deliver(sink, make_event(0))
        if is_frozen:
            own.freeze()
        else:
            own.kill()
        try:
            for number in range(1, 300):
                sink.log(make_event(number, text="x" * 20_000))  # more than fits into the buffers of a socket
            started = time.monotonic()
            sink.close()
            assert time.monotonic() - started < 20
        finally:
            if is_frozen:
                own.thaw()
        stats = sink.stats()
        assert stats.state == AsyncioLogSinkState.STOPPED.value
        assert stats.accepted == 300 == stats.delivered + sum(stats.dropped.values())
        assert stats.pending == 0

    def test_a_connection_that_was_lost_in_a_pause_is_made_anew(self, server: RedisServer, make: Make) -> None:
        sink = make(port=server.port)
        deliver(sink, make_event(0))
        with server.connect() as client:
            client.client_kill_filter(_type="normal", skipme=True)
        deliver(sink, make_event(1))
        assert [name for _, name in make_read(server)()] == ["order.0", "order.1"]


class TestRefused:
    def test_an_event_that_is_too_large_is_set_aside(self, own: RedisServer, make: Make) -> None:
        with own.connect() as client:
            client.config_set("proto-max-bulk-len", "1mb")
        letters = MemoryLogSink()
        sink = make(
            port=own.port, max_event_bytes=1_000_000, dead_letter=letters, batch_max_age=600.0, batch_max_size=3
        )
        deliver(sink, make_event(0))
        for number in (1, 2, 3):
            sink.log(make_event(number, text="x" * (1_000_000 if number == 2 else 10)))
        wait_until(lambda: not sink.stats().pending, "all is settled")
        assert [name for _, name in make_read(own)()] == ["order.0", "order.1", "order.3"]
        assert sink.stats().dead_lettered == 1
        assert "more than max_event_bytes" in str(letters.events[0].payload)

    def test_one_that_is_too_large_and_alone(self, server: RedisServer, make: Make) -> None:
        sink = make(port=server.port, max_event_bytes=500)
        sink.log(make_event(1, text="x" * 1_000))
        wait_until(lambda: sink.stats().dropped == {"refused": 1}, "it is refused")

    def test_a_key_of_another_type_that_an_event_chooses(self, server: RedisServer, make: Make) -> None:
        with server.connect() as client:
            client.set("logs:b", "something else")
        letters = MemoryLogSink()
        sink = make(port=server.port, key="logs:{payload.shop}", dead_letter=letters)
        for number, shop in enumerate("abab"):
            sink.log(make_event(number, shop=shop))
        wait_until(lambda: not sink.stats().pending, "all is settled")
        assert [name for _, name in make_read(server, "logs:a")()] == ["order.0", "order.2"]
        assert sink.stats().dead_lettered == 2
        assert "WRONGTYPE" in str(letters.events[0].payload)

    @pytest.mark.parametrize("options", [{}, {"kind": "list"}, {"deduplicate": 60}, {"max_len": 100}])
    def test_a_fixed_key_of_another_type_is_waited_for(
        self, server: RedisServer, make: Make, options: dict[str, Any]
    ) -> None:
        with server.connect() as client:
            client.set("logs", "something else")
            sink = make(port=server.port, **options)
            for event in make_events(5):
                sink.log(event)
            wait_for_error(sink, "WRONGTYPE")
            assert sink.stats().pending == 5
            client.delete("logs")
            assert sink.flush(timeout=WAIT)
            read = read_list if "kind" in options else read_stream
            assert [name for _, name in name_events(read(client))] == [f"order.{n}" for n in range(5)]

    def test_an_error_that_nobody_knows_is_found_out_by_experiment(self, own: RedisServer, make: Make) -> None:
        # The last number that an id can have: XADD refuses any further entry of this stream, and of this one only.
        with own.connect() as client:
            client.execute_command("XADD", "logs:b", "18446744073709551615-18446744073709551615", "a", "b")
        letters = MemoryLogSink()
        sink = make(
            port=own.port, key="logs:{payload.shop}", dead_letter=letters, retry_delay=0.01, retry_max_delay=0.02
        )
        for number, shop in enumerate("abaa"):
            sink.log(make_event(number, shop=shop))
        wait_until(lambda: sink.stats().delivered == 3, "the others are delivered")
        for number in range(4, 60):  # as long as it waits, others pass
            sink.log(make_event(number, shop="a"))
            if sink.stats().dead_lettered:
                break
            time.sleep(0.05)
        wait_until(lambda: sink.stats().dead_lettered == 1 and not sink.stats().pending, "it is found out")
        assert "ERR" in str(letters.events[0].payload) or "exhausted" in str(letters.events[0].payload)


# ---------------------------------------------------------------------- the server deduplicates


class TestDeduplicate:
    @pytest.mark.parametrize("kind", ["stream", "list"])
    def test_the_same_id_is_taken_once(self, server: RedisServer, make: Make, kind: str) -> None:
        sink = make(port=server.port, kind=kind, deduplicate=600)
        deliver(sink, *make_events(3))
        with server.connect() as client:
            before = (read_stream if kind == "stream" else read_list)(client)
            names = [name.decode() for name in client.keys("logs:seen:*")]
            assert sorted(name.removeprefix("logs:seen:") for name in names) == sorted(name for name, _ in before)
            assert all(590 <= client.ttl(name) <= 600 for name in names)

    def test_what_a_killed_process_had_delivered_does_not_come_again(
        self, server: RedisServer, make: Make, tmp_path: Path
    ) -> None:
        """The answer is lost, the process ends, and the next one finds the events in the spool."""
        with Proxy(server.port) as proxy:
            options = {"port": proxy.port, "deduplicate": 600, "durable": str(tmp_path / "spool")}
            sink = make(**options, shutdown_timeout=0.1)
            deliver(sink, make_event(0))

            async def swallow(reader: Any, writer: Any) -> None:  # what the server says does not get through
                while await reader.read(1 << 16):
                    pass

            proxy._pass_on, kept = (
                lambda reader, writer: (  # type: ignore[method-assign]
                    kept(reader, writer)
                    if writer.get_extra_info("peername")[1] == server.port
                    else swallow(reader, writer)
                ),
                proxy._pass_on,
            )
            proxy.drop()
            for number in (1, 2):
                sink.log(make_event(number))
            sink.close()
            proxy._pass_on = kept  # type: ignore[method-assign]
            proxy.drop()
            again = make(**options)
            assert again.flush(timeout=WAIT)
            wait_until(lambda: not again.stats().pending, "all is settled")
        assert [name for _, name in make_read(server)()] == ["order.0", "order.1", "order.2"]


# ---------------------------------------------------------------------- TLS


class TestTls:
    @pytest.fixture
    def secure(self, tmp_path: Path, certificates: Certificates) -> Iterator[RedisServer]:
        server = RedisServer(tmp_path / "secure", tls=certificates.right)
        with server:
            yield server

    def test_the_right_certificate(self, secure: RedisServer, make: Make, certificates: Certificates) -> None:
        sink = make(port=secure.port, tls=True, tls_ca=certificates.ca)
        deliver(sink, *make_events(3))
        assert sink.stats().last_error is None
        assert len(make_read(secure)()) == 3

    def test_by_url(self, secure: RedisServer, certificates: Certificates) -> None:
        sink = sink_from_url(f"rediss://localhost:{secure.port}?tls_ca={certificates.ca}")
        try:
            deliver(sink, make_event(1))
        finally:
            sink.close()
        assert len(make_read(secure)()) == 1

    @pytest.mark.parametrize("which", ["wrong_name", "expired", "self_signed"])
    def test_a_wrong_certificate_gets_nothing(
        self, tmp_path: Path, make: Make, certificates: Certificates, which: str
    ) -> None:
        server = RedisServer(tmp_path / "secure", tls=getattr(certificates, which))
        with server:
            sink = make(port=server.port, tls=True, tls_ca=certificates.ca)
            for event in make_events(3):
                sink.log(event)
            wait_for_error(sink, "certificate")
            assert sink.stats().pending == 3
            assert make_read(server)() == []
            server.stop()
            server.tls = certificates.right
            server.start()
            assert sink.flush(timeout=WAIT)
            assert len(make_read(server)()) == 3

    def test_an_authority_that_the_system_does_not_know(self, secure: RedisServer, make: Make) -> None:
        sink = make(port=secure.port, tls=True, shutdown_timeout=0.1)
        sink.log(make_event(1))
        wait_for_error(sink, "certificate")

    def test_the_certificate_of_the_client(self, tmp_path: Path, make: Make, certificates: Certificates) -> None:
        certificate, key = certificates.client
        with RedisServer(tmp_path / "strict", tls=certificates.right, ca=certificates.ca) as server:
            options = {"port": server.port, "tls": True, "tls_ca": certificates.ca}
            without = make(**options, shutdown_timeout=0.1)
            without.log(make_event(1))
            wait_for_error(without, "Error")
            assert without.stats().pending == 1
            without.close()
            deliver(make(**options, tls_cert=certificate, tls_key=key), make_event(2))
            with server.connect(ssl_certfile=certificate, ssl_keyfile=key) as client:
                assert [name for _, name in name_events(read_stream(client))] == ["order.2"]

    def test_a_key_with_a_password(self, tmp_path: Path, make: Make, certificates: Certificates) -> None:
        import subprocess

        certificate, key = certificates.client
        locked = tmp_path / "locked.key"
        subprocess.run(
            ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:open sesame", "-out", locked],
            check=True, capture_output=True,
        )  # fmt: skip
        with RedisServer(tmp_path / "strict", tls=certificates.right, ca=certificates.ca) as server:
            options = {"port": server.port, "tls": True, "tls_ca": certificates.ca, "tls_cert": certificate}
            deliver(make(**options, tls_key=str(locked), tls_key_password="open sesame"), make_event(1))
            with pytest.raises(LoggerError, match="tls_cert"):
                make(**options, tls_key=str(locked))

    @pytest.mark.slow
    def test_a_server_that_freezes(self, secure: RedisServer, make: Make, certificates: Certificates) -> None:
        sink = make(port=secure.port, tls=True, tls_ca=certificates.ca, delivery_timeout=1.0)

        def freeze() -> None:
            secure.freeze()
            try:
                wait_for_error(sink, "no answer|Timeout")
            finally:
                secure.thaw()

        survive(sink, make_read(secure), freeze, exactly_once=False, count=1_000)

    @pytest.mark.slow
    def test_a_cluster(self, tmp_path: Path, make: Make, certificates: Certificates) -> None:
        with start_cluster(tmp_path, tls=certificates.right, ca=certificates.ca) as nodes:
            sink = make(
                nodes=[f"localhost:{nodes[0].port}"], tls=True, tls_ca=certificates.ca, key="logs:{payload.number}"
            )
            deliver(sink, *make_events(50))
            assert sum(count_keys(node, "logs:*") for node in nodes) == 50


# ---------------------------------------------------------------------- sentinels and clusters


@pytest.fixture(scope="module")
def quiet_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    with start_cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture
def cluster(quiet_cluster: list[RedisServer]) -> list[RedisServer]:
    for node in quiet_cluster:
        if not node.is_running:
            node.start()
        with node.connect() as client:
            client.flushall()
    return quiet_cluster


def count_keys(node: RedisServer, pattern: str) -> int:
    with node.connect() as client:
        return len(client.keys(pattern))


def read_cluster(nodes: list[RedisServer], pattern: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for node in nodes:
        with node.connect() as client:
            for key in client.keys(pattern):
                found += name_events(read_stream(client, key))
    return found


class TestCluster:
    def test_keys_are_spread_over_the_nodes(self, cluster: list[RedisServer], make: Make) -> None:
        sink = make(nodes=[f"127.0.0.1:{cluster[0].port}"], key="logs:{payload.number}")
        deliver(sink, *make_events(200))
        counts = [count_keys(node, "logs:*") for node in cluster]
        assert sum(counts) == 200
        assert all(counts)
        assert sink.stats().last_error is None

    @pytest.mark.parametrize("remember", [None, 600])
    @pytest.mark.parametrize("kind", ["stream", "list"])
    def test_a_hash_tag_keeps_them_on_one(
        self, cluster: list[RedisServer], make: Make, kind: str, remember: float | None
    ) -> None:
        sink = make(
            nodes=[f"127.0.0.1:{node.port}" for node in cluster], kind=kind, key="{{logs}}:{payload.number}",
            deduplicate=remember, max_len=10,
        )  # fmt: skip
        deliver(sink, *make_events(40))
        assert sorted(count_keys(node, "{logs}:*[0-9]") > 0 for node in cluster) == [False, False, True]

    def test_without_one_the_ids_are_in_the_slot_of_their_key(self, cluster: list[RedisServer], make: Make) -> None:
        sink = make(nodes=[f"127.0.0.1:{cluster[1].port}"], key="logs:{payload.number}", deduplicate=600)
        deliver(sink, *make_events(40))
        assert sink.stats().last_error is None
        assert sum(count_keys(node, "{logs:*}:seen:*") for node in cluster) == 40

    def test_a_channel(self, cluster: list[RedisServer], make: Make) -> None:
        with cluster[2].connect() as client:
            listener = client.pubsub(ignore_subscribe_messages=True)
            listener.subscribe("logs")
            wait_until(lambda: client.pubsub_numsub("logs")[0][1] == 1, "somebody listens")
            deliver(make(nodes=[f"127.0.0.1:{cluster[0].port}"], kind="pubsub"), make_event(1))
            message = wait_until(listener.get_message, "the message")
            listener.close()
        assert json.loads(message["data"])["event"] == "order.1"

    @pytest.mark.slow
    def test_a_node_is_killed_and_comes_back(self, cluster: list[RedisServer], make: Make) -> None:
        sink = make(nodes=[f"127.0.0.1:{node.port}" for node in cluster], key="logs:{payload.number}")
        survive(sink, lambda: read_cluster(cluster, "logs:*"), cluster[1].restart, exactly_once=False, in_order=False)

    @pytest.mark.slow
    def test_a_slot_moves_to_another_node(self, cluster: list[RedisServer], make: Make) -> None:
        sink = make(nodes=[f"127.0.0.1:{cluster[0].port}"])
        with cluster[0].connect() as client:
            slot = client.execute_command("CLUSTER", "KEYSLOT", "logs")

        def move() -> None:
            with ExitStack() as stack:
                clients = [stack.enter_context(node.connect()) for node in cluster]
                names = [client.execute_command("CLUSTER", "MYID") for client in clients]
                source = next(index for index, client in enumerate(clients) if client.keys("logs"))
                target = (source + 1) % 3
                clients[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
                clients[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
                clients[source].execute_command("MIGRATE", "127.0.0.1", cluster[target].port, "logs", 0, 10_000)
                for index in (target, source, 3 - target - source):
                    clients[index].execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[target])

        survive(
            sink, lambda: read_cluster(cluster, "logs"), move, times=3, exactly_once=False, in_order=False,
            is_noticed=False,
        )  # fmt: skip

    def test_what_is_written_is_read_back(self, cluster: list[RedisServer], make: Make) -> None:
        nodes = [f"127.0.0.1:{cluster[0].port}"]
        deliver(make(nodes=nodes, key="logs:{payload.number}"), *make_events(20))
        found = list(RedisLogSink.read_events(nodes=nodes, key="logs:{payload.number}"))
        assert {event.meta.event_name for event in found if event} == {f"order.{n}" for n in range(20)}


@pytest.mark.slow
class TestSentinels:
    def test_a_failover_loses_nothing_that_a_replica_has_to_have(self, tmp_path: Path, make: Make) -> None:
        with Watched(tmp_path) as watched:
            sink = make(nodes=watched.nodes, master_name="mymaster", wait_replicas=1, wait_timeout=0.2)

            def fail_over() -> None:
                watched.master.kill()
                wait_until(lambda: watched.ask(0)["port"] == watched.replica.port, "there is a new master", 60)
                # It would be told by and by; until then, it takes what nobody keeps.
                watched.master.options = (
                    *watched.master.options, f"replicaof {watched.replica.host} {watched.replica.port}",
                )  # fmt: skip
                watched.master.start()

            survive(sink, make_read(watched.replica), fail_over, exactly_once=False)
            found = list(RedisLogSink.read_events(nodes=watched.nodes, master_name="mymaster", last=1))
            assert found
            assert make_read(watched.master)() == make_read(watched.replica)()

    def test_a_sentinel_that_is_down_or_frozen_is_passed_over(self, tmp_path: Path, make: Make) -> None:
        with Watched(tmp_path) as watched:
            watched.sentinels[0].kill()
            watched.sentinels[1].freeze()
            sink = make(nodes=watched.nodes, master_name="mymaster", connect_timeout=1.5)
            deliver(sink, *make_events(10))
            assert len(make_read(watched.master)()) == 10
            watched.sentinels[1].thaw()
            unknown = make(nodes=watched.nodes, master_name="nobody", shutdown_timeout=0.1)
            unknown.log(make_event(1))
            wait_for_error(unknown, "no sentinel names the master.*knows no master 'nobody'")

    def test_a_sentinel_with_a_password(self, tmp_path: Path, make: Make) -> None:
        with Watched(tmp_path, password="pw", sentinel_password="other") as watched:
            options = {"nodes": watched.nodes, "master_name": "mymaster", "password": "pw"}
            deliver(make(**options, sentinel_password="other"), make_event(1))
            assert len(make_read(watched.master)()) == 1
            assert len(list(RedisLogSink.read_events(**options, sentinel_password="other"))) == 1
            without = make(**options, shutdown_timeout=0.1)
            without.log(make_event(2))
            wait_for_error(without, "no sentinel names the master.*Authentication")


# ---------------------------------------------------------------------- life


class TestLife:
    def test_it_stops_and_starts_again(self, server: RedisServer, make: Make) -> None:
        sink = make(port=server.port)
        deliver(sink, make_event(0))
        assert sink.stop().wait(WAIT)
        with server.connect() as client:
            wait_until(lambda: len(client.client_list(_type="normal")) == 1, "its connection is closed")
        deliver(sink, make_event(1))
        assert len(make_read(server)()) == 2

    def test_on_the_loop_of_an_application(self, server: RedisServer) -> None:
        async def run() -> None:
            sink = RedisLogSink(port=server.port, **PATIENT)
            sink.start()
            for event in make_events(10):
                sink.log(event)
            await sink.stop()

        asyncio.run(run())
        assert len(make_read(server)()) == 10

    def test_it_composes(self, server: RedisServer, make: Make) -> None:
        memory = MemoryLogSink()
        inner = make(port=server.port)
        sink = FilterSink(FanOutSink(FallbackSink(inner, memory), memory), min_level=20)
        logger = logging.Logger("shop.legacy")
        logger.addHandler(mvx_logger.SinkHandler(sink))
        logger.debug("too quiet")
        logger.warning("order %s", "A-1")
        assert inner.flush(timeout=WAIT)
        with server.connect() as client:
            ((_, document),) = read_stream(client)
        assert document["message"] == "order A-1" or document["event"] == "order A-1"
        assert len(memory.events) == 1


# ---------------------------------------------------------------------- reading back


class TestReading:
    def read(self, server: RedisServer, **options: Any) -> list[str]:
        return [
            event.meta.event_name
            for event in RedisLogSink.read_events(port=server.port, **options)
            if event is not None
        ]

    def test_what_is_written_is_read(self, server: RedisServer, make: Make) -> None:
        events = make_rich_events()
        deliver(make(port=server.port), *events)
        found = list(RedisLogSink.read_events(port=server.port))
        assert found == [decode_event(encode_event(event)) for event in events]

    def test_more_than_a_page(self, server: RedisServer, make: Make) -> None:
        deliver(make(port=server.port), *make_events(1_300))
        assert self.read(server) == [f"order.{n}" for n in range(1_300)]
        assert self.read(server, last=600) == [f"order.{n}" for n in range(700, 1_300)]

    def test_the_newest_of_many_streams(self, server: RedisServer, make: Make) -> None:
        sink = make(port=server.port, key="logs*:{payload.shop}")
        deliver(sink, make_event(0, shop=0))
        with server.connect() as client:
            client.flushall()
            for number in range(30):
                fields: Any = {"id": "x", "event": encode_event(make_event(number))}
                client.xadd(f"logs*:{number % 3}", fields, id=f"{number + 1}-0")
            client.xadd("logsx:1", {"id": "x", "event": encode_event(make_event(99))})
            client.set("logs*:no-stream", "x")
        options = {"key": "logs*:{payload.shop}"}
        assert self.read(server, **options) == [f"order.{n}" for n in range(30)]
        assert self.read(server, last=4, **options) == [f"order.{n}" for n in range(26, 30)]
        assert self.read(server, last=0, **options) == []

    def test_since(self, server: RedisServer, make: Make) -> None:
        with server.connect() as client:
            for number, seconds in ((1, 1_000), (2, 2_000)):
                client.xadd("logs", {"id": "x", "event": encode_event(make_event(number))}, id=f"{seconds * 1000}-0")
        assert self.read(server, since=1_500.0) == ["order.2"]
        assert self.read(server, since=1_030.0) == ["order.1", "order.2"]
        assert self.read(server, since=1_500.0, last=5) == ["order.2"]

    def test_what_is_no_event_is_skipped(self, server: RedisServer, make: Make) -> None:
        deliver(make(port=server.port), make_event(1))
        with server.connect() as client:
            client.xadd("logs", {"something": "else"})
            client.xadd("logs", {"event": "no json"})
            client.xadd("logs", {"event": b"\xff"})
        deliver(make(port=server.port), make_event(2))
        assert self.read(server) == ["order.1", "order.2"]

    def test_nothing_is_there_and_nothing_is_made(self, server: RedisServer) -> None:
        assert self.read(server) == []
        assert self.read(server, last=5) == []
        with server.connect() as client:
            assert client.keys("*") == []

    @pytest.mark.parametrize("options", [{}, {"last": 1}, {"key": "logs:{payload.shop|a}"}])
    def test_following(self, server: RedisServer, make: Make, options: dict[str, Any]) -> None:
        last = options.pop("last", None)
        sink = make(port=server.port, **options)
        deliver(sink, *make_events(3))
        reader = RedisLogSink.read_events(port=server.port, follow=True, last=last, **options)
        found: list[LogEvent | None] = []
        for event in reader:
            found.append(event)
            if event is None and len(found) < 10:
                deliver(sink, make_event(len(found) + 100, shop=len(found)))
            if len([event for event in found if event]) >= (3 if last is None else 1) + 2:
                break
        names = [event.meta.event_name for event in found if event]
        assert names[:-2] == (["order.0", "order.1", "order.2"] if last is None else ["order.2"])
        assert all(name.startswith("order.10") for name in names[-2:])
        assert None in found
        with server.connect() as client:
            reader.close()  # type: ignore[attr-defined]
            wait_until(lambda: len(client.client_list(_type="normal")) == 2, "its connection is closed")

    def test_only_streams_are_read(self) -> None:
        with pytest.raises(LogConfigurationError, match="only streams can be read"):
            RedisLogSink.read_events(kind="list")
        with pytest.raises(LogConfigurationError, match="no such option"):
            RedisLogSink.read_events(nonsense=1)

    def test_over_tls_and_sockets(
        self, server: RedisServer, make: Make, tmp_path: Path, certificates: Certificates
    ) -> None:
        deliver(make(port=server.port), make_event(1))
        assert len(list(RedisLogSink.read_events(unix_socket=str(server.socket)))) == 1
        with RedisServer(tmp_path / "secure", tls=certificates.right) as secure:
            options = {"port": secure.port, "tls": True, "tls_ca": certificates.ca}
            deliver(make(**options), make_event(1))
            assert len(list(RedisLogSink.read_events(**options))) == 1

    def test_the_reader_of_the_page_skips_what_comes_twice(self, server: RedisServer) -> None:
        page = Path(__file__).resolve().parents[2] / "docs" / "destinations" / "redis.md"
        (block,) = (
            found
            for found in re.findall(r"^  ```python\n(.*?)^  ```", page.read_text(), re.M | re.S)
            if "xread" in found
        )
        with server.connect() as client:
            for name in ("a", "b", "a", "c", "b"):
                client.xadd("logs", {"id": name, "event": encode_event(make_event(ord(name)))})
            code = re.sub(r"^  ", "", block, flags=re.M)
            code = code.replace("redis.Redis(", f"redis.Redis(port={server.port}, protocol=2, ")
            code = code.replace("while True:", "while len(printed) < 3:", 1)
            printed: list[str] = []
            names: dict[str, Any] = {"print": printed.append, "printed": printed}
            exec(code, names)
            names["client"].close()
        assert printed == ["order.97", "order.98", "order.99"]
