"""`SyslogLogSink`: on rsyslogd, and on receivers that refuse what the RFCs do."""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mvx_logger
from destinations import PATIENT, Load, load_recipe, log_three_ways, make_event, make_events, make_rich_events, survive
from mvx_logger import LogEvent, LogEventMeta, SinkHandler, sink_from_url
from mvx_logger.formats.text import event_message
from mvx_logger.sinks.syslog import SyslogLogSink
from servers import WAIT, Certificates, Proxy, find_free_port, make_certificates, wait_until
from syslog_helpers import (
    Message,
    Receiver,
    Rsyslogd,
    check_payload,
    check_same,
    make_server_context,
    needs_rsyslogd,
    needs_rsyslogd_with_tls,
    parse_3164,
    parse_5424,
)

pytestmark = [
    needs_rsyslogd,
    needs_rsyslogd_with_tls,
    pytest.mark.usefixtures("selflog_reports"),
]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what has arrived")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Rsyslogd]:
    with Rsyslogd(tmp_path_factory.mktemp("rsyslog"), tls=(certificates.ca, *certificates.right)) as server:
        yield server


@pytest.fixture
def server(running: Rsyslogd) -> Rsyslogd:
    """rsyslogd, shared by the tests that do it no harm; it has written nothing yet."""
    if not running.is_running:
        running.start()
    running.output.write_bytes(b"")
    return running


@pytest.fixture
def own_server(tmp_path: Path, certificates: Certificates) -> Iterator[Rsyslogd]:
    """rsyslogd for one test, to be killed and frozen."""
    with Rsyslogd(tmp_path / "rsyslog", tls=(certificates.ca, *certificates.right)) as server:
        yield server


@pytest.fixture
def make_sink() -> Iterator[Callable[..., SyslogLogSink]]:
    """Makes sinks that are closed in the end."""
    sinks: list[SyslogLogSink] = []

    def make(**options: Any) -> SyslogLogSink:
        if "path" not in options:
            options = {"host": "127.0.0.1", **options}
        sink, _ = SyslogLogSink.create(**{**PATIENT, **options})
        sinks.append(sink)
        return sink

    yield make
    for sink in sinks:
        sink.close()


def reach(server: Rsyslogd, certificates: Certificates) -> dict[str, dict[str, Any]]:
    """The options that lead to it, by the way."""
    return {
        "udp": {"transport": "udp", "port": server.port, "max_message_size": 8_192},
        "tcp": {"transport": "tcp", "port": server.port},
        "tcp-newline": {"transport": "tcp", "port": server.port, "framing": "newline"},
        "tls": {"transport": "tls", "port": server.tls_port, "tls_ca": certificates.ca},
        "tls-newline": {
            "transport": "tls", "port": server.tls_port, "tls_ca": certificates.ca, "framing": "newline",
        },
        "unix": {"path": server.local_5424, "rfc": "5424"},
    }  # fmt: skip


WAYS = ["udp", "tcp", "tcp-newline", "tls", "tls-newline", "unix"]


def deliver(sink: Any, events: list[LogEvent]) -> None:
    for event in events:
        sink.log(event)
    assert sink.flush(timeout=WAIT), sink.stats()


def as_message(found: dict[str, Any]) -> Message:
    """What rsyslogd has parsed."""
    facility, severity = divmod(int(found["pri"]), 8)
    fields = [None if found[name] == "-" else found[name] for name in ("hostname", "app_name", "procid", "msgid")]
    data = found["sd"].get("rfc5424-sd", {})
    return Message(facility, severity, found["timestamp"], *fields, data, found["msg"])


class TestRsyslogd:
    @pytest.mark.parametrize("way", WAYS)
    def test_every_field(
        self, server: Rsyslogd, certificates: Certificates, make_sink: Callable[..., SyslogLogSink], way: str
    ) -> None:
        """What rsyslogd has parsed of each event is what the event holds, over each transport."""
        sink = make_sink(**reach(server, certificates)[way], app_name="shop", hostname="web1.test", facility="local3")
        events = make_rich_events()
        deliver(sink, events)
        found = server.wait_for(len(events))
        ids = set()
        for event, parsed in zip(events, found, strict=True):
            # Its own reader of structured data, and ours, which is stricter.
            raw = parse_5424(
                f"<{parsed['pri']}>1 - a b c d {parsed['structured_data']} {parsed['msg']}".encode(),
            )
            message = as_message(parsed)
            assert (message.hostname, message.app_name, message.facility) == ("web1.test", "shop", 19)
            assert parsed["version"] == "1"
            ids.add(raw.data["mvx@32473"].pop("id"))
            own = message.data["mvx@32473"]
            own.pop("id")
            assert raw.data["mvx@32473"] == own
            assert raw.data == message.data
            raw.data["mvx@32473"]["id"] = "01960000-0000-8000-8000-000000000001"
            check_same(message._replace(data=raw.data), event)
            text = event_message(LogEvent(**{**as_dict(event), "payload": {}}))
            assert parsed["msg"] == text.replace("\t", r"\t")
        assert len(ids) == len(events)

    def test_the_local_form(self, server: Rsyslogd, make_sink: Callable[..., SyslogLogSink]) -> None:
        """Its local socket takes RFC 3164 as the C library writes it."""
        sink = make_sink(path=server.local, app_name="shop", facility="daemon", max_message_size=8_192)
        events = make_rich_events()
        deliver(sink, events)
        for event, parsed in zip(events, server.wait_for(len(events)), strict=True):
            process = os.getpid() if event.origin is None else event.origin.process_id
            assert parsed["tag"] == f"shop[{process}]:"
            assert int(parsed["pri"]) >> 3 == 3
            assert parsed["hostname"] == socket.gethostname()
            assert parsed["msg"].startswith(f" {event_message(event)}".replace("\t", r"\t"))
            if event.timestamp > 0:  # it does not believe in the first second of all
                assert time.strftime("%m-%dT%H:%M:%S", time.localtime(event.timestamp)) in parsed["timestamp"]

    @pytest.mark.parametrize("way", ["udp", "tcp", "tcp-newline", "tls"])
    def test_rfc_3164(
        self, server: Rsyslogd, certificates: Certificates, make_sink: Callable[..., SyslogLogSink], way: str
    ) -> None:
        """Over a network with the host's name."""
        sink = make_sink(**reach(server, certificates)[way], rfc="3164", app_name="shop", hostname="web1")
        event = LogEvent(30, LogEventMeta("shop", "order.failed", "order-42"), "failed", time.time(), {"total": 1})
        deliver(sink, [event])
        (parsed,) = server.wait_for(1)
        assert parsed["hostname"] == "web1"
        assert parsed["tag"] == f"shop[{os.getpid()}]:"
        assert parsed["msg"] == " shop.order-42.order.failed [failed] {'total': 1}"
        assert parsed["pri"] == "12"

    @pytest.mark.parametrize("way", WAYS)
    def test_thousands(
        self, server: Rsyslogd, certificates: Certificates, make_sink: Callable[..., SyslogLogSink], way: str
    ) -> None:
        """They all arrive, once, in order."""
        count = 200 if way == "udp" else 3_000
        sink = make_sink(**reach(server, certificates)[way])
        deliver(sink, make_events(count))
        server.wait_for(count)
        names = [name for _, name in server.read_names()]
        assert names == [f"order.{number}" for number in range(count)]
        assert sink.stats().delivered == count
        assert sink.stats().last_error is None

    def test_what_is_cut(self, server: Rsyslogd, make_sink: Callable[..., SyslogLogSink]) -> None:
        """A message of the largest size arrives as one; a longer one is cut."""
        sink = make_sink(transport="tcp", port=server.port, max_message_size=3_000)
        deliver(sink, [make_event(1, text='"\\]' * 5_000), make_event(2)])
        first, second = server.wait_for(2)
        data = first["sd"]["rfc5424-sd"]
        assert int(data["mvx@32473"]["truncated"]) > 30_000
        assert re.fullmatch(r'(?:"\\\])+"?\\?\.\.\.', data["payload@32473"]["text"])
        assert data["payload@32473"]["number"] == "1"
        assert second["sd"]["rfc5424-sd"]["mvx@32473"]["event"] == "order.2"

    def test_the_recipe(self, server: Rsyslogd) -> None:
        """What the page tells to paste, with logging, structlog and natively."""
        log_three_ways(load_recipe("syslog", {"localhost:514": f"127.0.0.1:{server.port}"}))
        found = [as_message(parsed) for parsed in server.wait_for(3)]
        assert [message.app_name for message in found] == ["shop"] * 3
        assert [message.facility for message in found] == [16] * 3
        assert [message.severity for message in found] == [4, 6, 6]
        assert [message.data["payload@32473"]["number"] for message in found] == ["1", "2", "3"]
        assert [message.data["mvx@32473"]["event"] for message in found] == ["one", "two", "three"]
        assert [message.data["mvx@32473"]["namespace"] for message in found] == [
            "shop.legacy", "shop.web", "shop.orders",
        ]  # fmt: skip
        assert found[0].text == "shop.legacy: one"

    def test_behind_other_sinks(self, server: Rsyslogd) -> None:
        """Fan-out, fallback and filter in front of it."""
        url = f"syslog+tcp://127.0.0.1:{server.port}"
        sinks = [
            mvx_logger.FanOutSink(sink_from_url(f"{url}?app_name=a")),
            mvx_logger.FallbackSink(sink_from_url(f"{url}?app_name=b")),
            mvx_logger.FilterSink(sink_from_url(f"{url}?app_name=c"), min_level=30),
        ]
        for sink in sinks:
            for level in (20, 40):
                sink.log(LogEvent(level, LogEventMeta("shop", "x"), None, 0.0, {}))
            assert sink.flush(timeout=WAIT)
            sink.close()
        names = sorted(parsed["app_name"] for parsed in server.wait_for(5))
        assert names == ["a", "a", "b", "b", "c"]

    def test_a_forked_child_has_a_connection_of_its_own(
        self, server: Rsyslogd, certificates: Certificates, make_sink: Callable[..., SyslogLogSink]
    ) -> None:
        """What both log arrives, over each transport, and the parent's connection works on."""
        sinks = [make_sink(**options) for options in reach(server, certificates).values()]
        for sink in sinks:
            deliver(sink, [make_event(0)])
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for sink in sinks:
                    deliver(sink, [make_event(1)])
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        for sink in sinks:
            deliver(sink, [make_event(2)])
            assert sink.stats().last_error is None
        server.wait_for(3 * len(sinks))
        found = server.read_names()
        assert len(set(found)) == 3 * len(sinks)
        procids = {(parsed["msgid"], parsed["procid"]) for parsed in server.read()}
        assert procids == {("order.0", str(os.getpid())), ("order.1", str(child)), ("order.2", str(os.getpid()))}


def read_numbers(server: Rsyslogd) -> set[int]:
    """Which events the server has written, as the sink has delivered them: the first was number 0."""
    return {int(event_id[-10:], 16) for event_id, _ in server.read_names()}


def as_dict(event: LogEvent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.__struct_fields__}


class TestReceivers:
    """Against receivers that refuse what the grammars do, so also where rsyslogd is lenient."""

    @pytest.mark.parametrize("rfc", ["5424", "3164"])
    @pytest.mark.parametrize(
        ("transport", "framing"),
        [
            ("udp", None), ("tcp", "octet"), ("tcp", "newline"), ("tls", "octet"), ("tls", "newline"), ("unix", None),
            ("unix-stream", "octet"), ("unix-stream", "newline"),
        ],
    )  # fmt: skip
    def test_every_way(
        self,
        tmp_path: Path,
        certificates: Certificates,
        make_sink: Callable[..., SyslogLogSink],
        transport: str,
        framing: str | None,
        rfc: str,
    ) -> None:
        """Each transport, framing and format: messages that are right to the letter."""
        local = transport.startswith("unix")
        path = str(tmp_path / "log") if local else None
        context = make_server_context(certificates, certificates.right) if transport == "tls" else None

        def parse(data: bytes) -> Message:
            return parse_5424(data) if rfc == "5424" else parse_3164(data, local=local)

        with Receiver(
            transport, framing=framing or "octet", parse=parse, path=path, context=context, max_size=4_096
        ) as receiver:
            options: dict[str, Any] = {"path": path} if local else {"transport": transport, "port": receiver.port}
            if transport == "tls":
                options["tls_ca"] = certificates.ca
            if framing is not None:
                options["framing"] = framing
            sink = make_sink(**options, rfc=rfc, max_message_size=4_096)
            events = [*make_rich_events(), *make_events(300)]
            messages: list[Message] = []
            for start in range(0, len(events), 50):  # no more at once than fits into a buffer, where nobody waits
                deliver(sink, events[start : start + 50])
                messages = receiver.wait_for(len(events[: start + 50]))
            assert sink.stats().last_error is None
            sink.close()
        for event, message in zip(events, messages, strict=True):
            assert message.severity == {10: 7, 20: 6, 25: 5, 30: 4, 40: 3, 50: 2}[event.level]
            if rfc == "5424" and "truncated" not in message.data["mvx@32473"]:
                message.data["mvx@32473"]["id"] = "01960000-0000-8000-8000-000000000001"
                check_same(message, event)
                own = message.data["mvx@32473"]
                payload = message.data.get("payload@32473", {})
                assert ("number" in event.payload) == ("number" in payload)
                if "payload" not in own:
                    check_payload(event.payload, payload, {})

    @pytest.mark.parametrize(
        ("rfc", "transport", "size"), [("5424", "udp", 2_048), ("5424", "tcp", 8_192), ("3164", "tcp", 1_024)]
    )
    def test_the_usual_sizes(
        self, make_sink: Callable[..., SyslogLogSink], rfc: str, transport: str, size: int
    ) -> None:
        """No message is larger than what its receivers take."""
        parse = parse_5424 if rfc == "5424" else parse_3164
        with Receiver(transport, parse=parse, max_size=size) as receiver:
            sink = make_sink(transport=transport, port=receiver.port, rfc=rfc)
            deliver(sink, [make_event(1, text="x" * 100_000)])
            receiver.wait_for(1)

    @on_linux
    def test_what_counts_as_delivered_has_reached_the_other_side(self, make_sink: Callable[..., SyslogLogSink]) -> None:
        """Not what waits in a buffer of this system: that comes again when the connection is thrown away."""
        with Receiver("tcp", buffer=4_096) as receiver:
            receiver.is_reading.clear()
            sink = make_sink(transport="tcp", port=receiver.port, batch_max_size=5, delivery_timeout=60.0)
            for event in make_events(1_000):
                sink.log(event)

            def get_reached() -> list[Message]:
                data = receiver.peek()
                found = []
                while (length := re.match(rb"(\d+) ", data)) and len(data) >= length.end() + int(length[1]):
                    stop = length.end() + int(length[1])
                    found.append(parse_5424(data[length.end() : stop]))
                    data = data[stop:]
                return found

            def is_stuck() -> bool:
                stats = sink.stats()
                return stats.delivered > 0 and (stats.oldest_pending_age or 0) > 0.5

            wait_until(is_stuck, "the receiver's buffer is full")
            delivered, reached = sink.stats().delivered, get_reached()
            assert 0 < delivered <= len(reached) < 1_000
            receiver.reset()
            receiver.is_reading.set()
            assert sink.flush(timeout=WAIT), sink.stats()
            wait_until(lambda: len(receiver.messages) >= 1_000 - delivered, "the others have come")
            first = {message.data["mvx@32473"]["id"] for message in reached}
            again = {message.data["mvx@32473"]["id"] for message in receiver.messages}
            assert len(again) == 1_000 - delivered  # exactly what was not confirmed
            assert len(first | again) == 1_000
            assert sink.stats().retries > 0

    @on_linux
    @pytest.mark.parametrize("transport", ["tls", "unix-stream"])
    def test_a_server_that_does_not_read_confirms_nothing_more(
        self, tmp_path: Path, certificates: Certificates, make_sink: Callable[..., SyslogLogSink], transport: str
    ) -> None:
        """In TLS no more than its buffer holds, on a local stream nothing at all."""
        context = make_server_context(certificates, certificates.right) if transport == "tls" else None
        path = str(tmp_path / "log") if transport == "unix-stream" else None
        with Receiver(
            transport, buffer=4_096, context=context, path=path, framing="octet" if context else "newline"
        ) as receiver:
            options: dict[str, Any] = {"transport": "tls", "port": receiver.port, "tls_ca": certificates.ca}
            sink = make_sink(**({"path": path, "rfc": "5424"} if path else options), delivery_timeout=60.0)
            deliver(sink, [make_event(0)])
            receiver.is_reading.clear()
            # It is between two looks: the next thing that it reads may be one more.
            for event in make_events(2_000, start=1):
                sink.log(event)
            wait_until(lambda: (sink.stats().oldest_pending_age or 0) > 0.5, "the sink waits")
            assert sink.stats().delivered < 1_000
            receiver.is_reading.set()
            assert sink.flush(timeout=WAIT), sink.stats()
            receiver.wait_for(2_001)
            assert sink.stats().retries == 0

    @on_linux
    def test_datagrams_count_when_they_are_read(self, tmp_path: Path, make_sink: Callable[..., SyslogLogSink]) -> None:
        """What a server had not read on its local socket when it died comes to the next one."""
        path = str(tmp_path / "log")
        with Receiver("unix", path=path, parse=lambda data: parse_3164(data, local=True)) as receiver:
            sink = make_sink(path=path, delivery_timeout=60.0)
            deliver(sink, [make_event(-1)])
            os.chmod(path, 0o666)  # as servers do once it is there: it is the same socket
            deliver(sink, [make_event(0)])
            assert sink.stats().retries == 0
            receiver.wait_for(2)
        os.unlink(path)
        deaf = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        deaf.bind(path)
        for event in make_events(5, start=1):
            sink.log(event)
        wait_until(lambda: (sink.stats().oldest_pending_age or 0) > 0.3, "they are sent")
        assert sink.stats().delivered == 2
        assert deaf.recv(10_000, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        os.unlink(path)
        with Receiver("unix", path=path, parse=lambda data: parse_3164(data, local=True)) as receiver:
            deaf.close()
            assert sink.flush(timeout=WAIT), sink.stats()
            receiver.wait_for(5)

    def test_a_connection_that_was_closed_meanwhile(self, make_sink: Callable[..., SyslogLogSink]) -> None:
        """It is noticed before the next event is sent, which is no failure."""
        with Receiver("tcp") as receiver:
            sink = make_sink(transport="tcp", port=receiver.port)
            for number in range(3):
                deliver(sink, [make_event(number)])
                receiver.wait_for(number + 1)
                receiver.hang_up()
                wait_until(lambda: sink._is_connection_lost(), "the end is known here")
            stats = sink.stats()
            assert (stats.delivered, stats.retries, stats.last_error) == (3, 0, None)
            assert receiver.connections == 3

    def test_udp_with_nobody_there(self, make_sink: Callable[..., SyslogLogSink]) -> None:
        """Where its system says so, the events wait."""
        port = find_free_port()
        sink = make_sink(transport="udp", port=port)
        sink.log(make_event(0))
        wait_until(lambda: sink.stats().last_error, "nobody is there")
        assert "Connection refused" in str(sink.stats().last_error)
        assert sink.stats().delivered == 0
        with Receiver("udp", port=port) as receiver:
            assert sink.flush(timeout=WAIT)
            receiver.wait_for(1)

    def test_a_message_that_the_system_does_not_take(
        self, tmp_path: Path, make_sink: Callable[..., SyslogLogSink]
    ) -> None:
        """It is set aside, and the others are delivered."""
        path, letters = str(tmp_path / "log"), tmp_path / "dead.jsonl"
        with Receiver("unix", path=path, parse=lambda data: parse_3164(data, local=True)) as receiver:
            sink = make_sink(path=path, max_message_size=10_000_000, dead_letter=str(letters))
            events = make_events(20)
            events[10] = make_event(10, text="x" * 5_000_000)
            for event in events:
                sink.log(event)
            assert not sink.flush(timeout=WAIT)
            receiver.wait_for(19)
            stats = sink.stats()
            assert (stats.delivered, stats.dead_lettered, stats.pending) == (19, 1, 0)
            assert "Message too long" in letters.read_text()

    def test_a_name_with_two_addresses(self, make_sink: Callable[..., SyslogLogSink]) -> None:
        """Whichever of them somebody listens on."""
        for transport in ("tcp", "udp"):
            with Receiver(transport) as receiver:
                sink = make_sink(host="localhost", transport=transport, port=receiver.port)
                deliver(sink, [make_event(0)])
                receiver.wait_for(1)
                sink.close()


class TestTrouble:
    @on_linux
    @pytest.mark.slow
    @pytest.mark.parametrize("way", ["tcp", "tls", "unix"])
    def test_killed_and_started_again(
        self, own_server: Rsyslogd, certificates: Certificates, make_sink: Callable[..., SyslogLogSink], way: str
    ) -> None:
        """Nothing is lost but what it had taken and not written when it was killed."""
        count = 2_000
        sink = make_sink(**reach(own_server, certificates)[way])
        may_be_lost: set[int] = set()
        with Load(sink, count, threads=1) as load:  # confirmed in the order of their numbers
            for number in range(2):
                load.wait_for((number + 1) / 3)
                retries = sink.stats().retries
                own_server.kill()
                wait_until(lambda before=retries: sink.stats().retries > before, "the sink knows")
                # What was confirmed, and what was written of it.
                may_be_lost |= set(range(sink.stats().delivered)) - read_numbers(own_server)
                own_server.start()
        assert sink.flush(timeout=WAIT), sink.stats()
        wanted = set(range(count)) - may_be_lost
        wait_until(lambda: read_numbers(own_server) >= wanted, f"all but {len(may_be_lost)} of the events are there")
        found = set(own_server.read_names())
        assert {name for _, name in found} <= {f"order.{number}" for number in range(count)}
        assert len({event_id for event_id, _ in found}) == len({name for _, name in found})
        stats = sink.stats()
        assert (stats.accepted, stats.delivered, stats.pending) == (count, count, 0)
        assert not stats.dropped

    @pytest.mark.slow
    @pytest.mark.parametrize("way", ["tcp", "tls", "unix"])
    def test_ended_and_started_again(
        self, own_server: Rsyslogd, certificates: Certificates, make_sink: Callable[..., SyslogLogSink], way: str
    ) -> None:
        """Nothing is lost when the server ends while it has nothing to do."""
        sink = make_sink(**reach(own_server, certificates)[way])
        deliver(sink, make_events(100))
        wait_until(lambda: len(own_server.read_names()) == 100, "they are written")
        own_server.stop()
        for event in make_events(100, start=100):
            sink.log(event)
        wait_until(lambda: sink.stats().last_error, "the sink knows")
        assert sink.stats().delivered == 100
        own_server.start()
        assert sink.flush(timeout=WAIT), sink.stats()
        wait_until(lambda: len(set(own_server.read_names())) == 200, "all are there")

    @on_linux
    @pytest.mark.slow
    @pytest.mark.parametrize("way", ["tcp", "tls", "unix"])
    def test_frozen(
        self, own_server: Rsyslogd, certificates: Certificates, make_sink: Callable[..., SyslogLogSink], way: str
    ) -> None:
        """It stands still for longer than a delivery may take: everything arrives."""
        count = 3_000
        # Long messages: most of them do not fit into the buffers of its system, which may be large.
        sink = make_sink(**reach(own_server, certificates)[way], delivery_timeout=1.0, hostname="h" * 255)

        def freeze() -> None:
            own_server.freeze()
            wait_until(
                lambda: sink.stats().retries > 1 or sink.stats().delivered == count,
                "deliveries have taken too long, or its system has taken everything",
            )
            own_server.thaw()

        survive(sink, own_server.read_names, freeze, count=count, exactly_once=False, in_order=False, is_noticed=False)
        if sink.stats().retries:
            assert "no answer within 1.0 seconds" in str(sink.stats().last_error)

    @pytest.mark.slow
    def test_connections_dropped_between_batches(
        self, own_server: Rsyslogd, make_sink: Callable[..., SyslogLogSink]
    ) -> None:
        """Nothing is lost: each drop is noticed before the next batch."""
        with Proxy(own_server.port) as proxy:
            sink = make_sink(transport="tcp", port=proxy.port)
            for number in range(5):
                deliver(sink, make_events(100, start=100 * number))
                wait_until(lambda wanted=100 * (number + 1): len(own_server.read_names()) >= wanted, "they are written")
                assert proxy.drop() == 1
                wait_until(lambda: sink._is_connection_lost(), "the end is known here")
            sink.close()
        assert len(set(own_server.read_names())) == len(own_server.read_names()) == 500
        assert sink.stats().retries == 0

    @pytest.mark.slow
    @pytest.mark.parametrize("way", ["tcp", "tls"])
    def test_connections_dropped_under_load(
        self, own_server: Rsyslogd, certificates: Certificates, make_sink: Callable[..., SyslogLogSink], way: str
    ) -> None:
        """Nothing is lost but what the proxy had taken and not passed on."""
        count = 2_000
        may_be_lost: set[int] = set()
        options = reach(own_server, certificates)[way]
        with Proxy(options["port"]) as proxy:
            sink = make_sink(**{**options, "port": proxy.port})
            with Load(sink, count, threads=1) as load:  # confirmed in the order of their numbers
                for number in range(3):
                    load.wait_for((number + 1) / 4)
                    connections = proxy.connections
                    proxy.drop()
                    wait_until(lambda before=connections: proxy.connections > before, "the sink is back")
                    # All that was confirmed on the old connection is among what is confirmed now.
                    may_be_lost |= set(range(sink.stats().delivered)) - read_numbers(own_server)
            assert sink.flush(timeout=WAIT), sink.stats()
            wanted = set(range(count)) - may_be_lost
            wait_until(lambda: read_numbers(own_server) >= wanted, f"all but {len(may_be_lost)} are there")
            sink.close()
            assert proxy.connections == 4
        stats = sink.stats()
        assert (stats.accepted, stats.delivered, stats.pending) == (count, count, 0)

    @pytest.mark.parametrize("way", ["tcp", "tls", "unix"])
    def test_it_starts_while_the_server_is_down(
        self, tmp_path: Path, certificates: Certificates, make_sink: Callable[..., SyslogLogSink], way: str
    ) -> None:
        """The events wait for it."""
        server = Rsyslogd(tmp_path / "rsyslog", tls=(certificates.ca, *certificates.right))
        sink = make_sink(**reach(server, certificates)[way])
        for event in make_events(10):
            sink.log(event)
        wait_until(lambda: sink.stats().last_error, "it is down")
        with server:
            assert sink.flush(timeout=WAIT), sink.stats()
            wait_until(lambda: len(set(server.read_names())) == 10, "all are there")

    @pytest.mark.parametrize("frozen", [False, True])
    @pytest.mark.parametrize("way", ["tcp", "tls", "unix"])
    def test_close_does_not_wait_for_a_dead_server(
        self,
        own_server: Rsyslogd,
        certificates: Certificates,
        make_sink: Callable[..., SyslogLogSink],
        way: str,
        frozen: bool,
    ) -> None:
        """It ends within its time, and what is left is counted."""
        sink = make_sink(**reach(own_server, certificates)[way], shutdown_timeout=0.5, delivery_timeout=60.0)
        deliver(sink, [make_event(0)])
        if frozen:
            own_server.freeze()
        else:
            own_server.kill()
        for event in make_events(3_000, start=1):
            sink.log(event)
        start = time.monotonic()
        sink.close()
        assert time.monotonic() - start < 20
        stats = sink.stats()
        assert stats.accepted == 3_001 == stats.delivered + sum(stats.dropped.values())
        assert stats.dropped["shutdown"] > 0


class TestTls:
    @pytest.mark.slow
    @pytest.mark.parametrize("which", ["wrong_name", "expired", "self_signed"])
    def test_a_certificate_that_is_not_right(
        self, tmp_path: Path, certificates: Certificates, make_sink: Callable[..., SyslogLogSink], which: str
    ) -> None:
        """Nothing is sent, the statistics say why; with the right one, everything arrives."""
        server = Rsyslogd(tmp_path / "rsyslog", tls=(certificates.ca, *getattr(certificates, which)))
        with server:
            sink = make_sink(transport="tls", port=server.tls_port, tls_ca=certificates.ca)
            for event in make_events(20):
                sink.log(event)
            wait_until(lambda: sink.stats().retries, "it was refused, twice")
            assert "certificate verify failed" in str(sink.stats().last_error)
            assert sink.stats().pending == 20
            assert server.read() == []
            server.stop()
            server.tls = (certificates.ca, *certificates.right)
            server.start()
            assert sink.flush(timeout=WAIT), sink.stats()
            wait_until(lambda: len(server.read_names()) == 20, "all are there")

    @pytest.mark.slow
    def test_a_server_that_wants_a_certificate(
        self, tmp_path: Path, certificates: Certificates, make_sink: Callable[..., SyslogLogSink]
    ) -> None:
        """With ours, everything arrives; without it nothing counts as delivered."""
        cert, key = certificates.client
        options: dict[str, Any] = {"transport": "tls", "tls_ca": certificates.ca, "connect_timeout": 5.0}
        with Rsyslogd(
            tmp_path / "rsyslog", tls=(certificates.ca, *certificates.right), auth="x509/certvalid"
        ) as server:
            stranger = make_sink(port=server.tls_port, **options, shutdown_timeout=0.1)
            friend = make_sink(port=server.tls_port, **options, tls_cert=cert, tls_key=key)
            for event in make_events(20):
                stranger.log(event)
            deliver(friend, make_events(20, start=100))
            wait_until(lambda: stranger.stats().retries, "the stranger was refused, twice")
            assert stranger.stats().delivered == 0
            wait_until(lambda: len(server.read_names()) == 20, "the friend's are there")
            assert {name for _, name in server.read_names()} == {f"order.{number}" for number in range(100, 120)}

    @pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
    def test_what_a_server_says_of_a_missing_certificate(
        self, certificates: Certificates, make_sink: Callable[..., SyslogLogSink], version: str
    ) -> None:
        """Also where it says so after the handshake: no event is taken for delivered."""
        context = make_server_context(certificates, certificates.right, client=True)
        context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
        with Receiver("tls", context=context) as receiver:
            options: dict[str, Any] = {"transport": "tls", "port": receiver.port, "tls_ca": certificates.ca}
            sink = make_sink(**options, shutdown_timeout=0.1)
            sink.log(make_event(0))
            wait_until(lambda: sink.stats().last_error, "it was refused")
            error = str(sink.stats().last_error).lower()
            assert "certificate required" in error or "handshake failure" in error, error
            assert sink.stats().delivered == 0
            cert, key = certificates.client
            friend = make_sink(**options, tls_cert=cert, tls_key=key)
            deliver(friend, [make_event(1)])
            (message,) = receiver.wait_for(1)
            assert message.msgid == "order.1"
            sink.close()
            friend.close()

    def test_a_server_that_thinks_about_our_certificate(
        self, certificates: Certificates, make_sink: Callable[..., SyslogLogSink]
    ) -> None:
        """It has a while to refuse it after the handshake is over for us, and reads no message until then."""
        context = make_server_context(certificates, certificates.right, client=True)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=refuse_slowly, args=(listener, context), daemon=True)
            thread.start()
            sink = make_sink(
                transport="tls", port=listener.getsockname()[1], tls_ca=certificates.ca, retry_delay=100.0,
                retry_max_delay=100.0, shutdown_timeout=0.1,
            )  # fmt: skip
            sink.log(make_event(0))
            wait_until(lambda: sink.stats().last_error or sink.stats().delivered, "it is decided")
            thread.join(WAIT)
        assert "certificate required" in str(sink.stats().last_error).lower()
        assert sink.stats().delivered == 0
        sink.close()

    def test_a_server_that_sends_no_tickets(
        self, certificates: Certificates, make_sink: Callable[..., SyslogLogSink]
    ) -> None:
        """It says nothing after the handshake, and is taken to be content."""
        context = make_server_context(certificates, certificates.right)
        context.num_tickets = 0
        with Receiver("tls", context=context) as receiver:
            sink = make_sink(transport="tls", port=receiver.port, tls_ca=certificates.ca)
            deliver(sink, make_events(10))
            receiver.wait_for(10)
            assert sink.stats().last_error is None

    def test_a_server_without_tls(self, make_sink: Callable[..., SyslogLogSink], certificates: Certificates) -> None:
        """What is no TLS is an error, and nothing is sent in the clear."""
        with Receiver("tcp", parse=lambda data: pytest.fail("a message")) as receiver:
            sink = make_sink(
                transport="tls", port=receiver.port, tls_ca=certificates.ca, connect_timeout=0.2, shutdown_timeout=0.1
            )
            sink.log(make_event(0))
            wait_until(lambda: sink.stats().last_error, "it fails")
            sink.close()
            assert sink.stats().delivered == 0
            receiver.errors.clear()  # a handshake is no syslog
            receiver.messages.clear()

    def test_renewed_files_are_read_at_the_next_connection(
        self, tmp_path: Path, certificates: Certificates, make_sink: Callable[..., SyslogLogSink]
    ) -> None:
        """Nobody has to restart the application."""
        stale = make_certificates(tmp_path / "stale")
        context = make_server_context(certificates, certificates.right)
        with Receiver("tls", context=context) as receiver:
            sink = make_sink(transport="tls", port=receiver.port, tls_ca=stale.ca)
            sink.log(make_event(0))
            wait_until(lambda: sink.stats().last_error, "it is not trusted")
            Path(stale.ca).write_bytes(Path(certificates.ca).read_bytes())
            assert sink.flush(timeout=WAIT), sink.stats()
            receiver.wait_for(1)


class TestOptions:
    def test_what_they_do(self, make_sink: Callable[..., SyslogLogSink]) -> None:
        """Each one, as it arrives."""
        with Receiver("tcp", framing="newline") as receiver:
            sink = make_sink(
                transport="tcp", port=receiver.port, framing="newline", facility=5, severity={20: "alert"},
                app_name="a{level}", hostname="h", procid="p", msgid="{entity_id}", enterprise_id=7, bom=True,
            )  # fmt: skip
            deliver(sink, [make_event(1), LogEvent(20, LogEventMeta(None, "ü"), None, 0.0, {})])
            first, second = receiver.wait_for(2)
        assert first[:7] == (5, 1, first.timestamp, "h", "ainfo", "p", "order-1")
        assert set(first.data) == {"mvx@7", "payload@7"}
        assert second.text == "\ufeffü"
        assert second.msgid is None

    def test_nobody_sees_the_password(
        self, certificates: Certificates, make_sink: Callable[..., SyslogLogSink], selflog_reports: list[Any]
    ) -> None:
        """Not in descriptors, statistics, reports or the sink's own description."""
        options: dict[str, Any] = {
            "transport": "tls", "port": find_free_port(), "tls_ca": certificates.ca,
            "tls_cert": certificates.client[0], "tls_key": certificates.client[1], "tls_key_password": "hunter2",
        }  # fmt: skip
        sink = make_sink(**options, shutdown_timeout=0.1)
        sink.log(make_event(0))
        wait_until(lambda: sink.stats().last_error, "nobody is there")
        descriptor = SyslogLogSink.build_descriptor(**options)
        other = SyslogLogSink.build_descriptor(**{**options, "tls_key_password": "other"})
        assert descriptor != other
        assert descriptor.resource_key == other.resource_key == ("tls", None, options["port"], None)
        sink.close()
        for text in (descriptor, descriptor.to_log_payload(), sink, sink.stats(), selflog_reports):
            assert "hunter2" not in repr(text)

    def test_a_handler_of_logging(self) -> None:
        """By a URL, as any other."""
        with Receiver("tcp") as receiver:
            handler = SinkHandler(f"syslog+tcp://127.0.0.1:{receiver.port}")
            logger = logging.getLogger("shop.handler")
            logger.addHandler(handler)
            try:
                logger.error("order %s", "A-1")
            finally:
                logger.removeHandler(handler)
                handler.close()
            (message,) = receiver.wait_for(1)
        assert message.text == "shop.handler: order A-1"
        assert message.severity == 3


def refuse_slowly(listener: socket.socket, context: ssl.SSLContext) -> None:
    """A server that takes its time between its part of the handshake and its look at the client's."""
    sock, _ = listener.accept()
    with sock:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
            except ssl.SSLError:
                sock.sendall(outgoing.read())  # the alert
                return
            incoming.write(sock.recv(1 << 16))
            time.sleep(0.2)


async def test_on_the_loop_of_the_application() -> None:
    """Constructed where a loop runs, it works there."""
    with Receiver("tcp") as receiver:
        sink = SyslogLogSink(host="127.0.0.1", port=receiver.port, transport="tcp")
        assert (await sink.start()).success
        sink.log(make_event(0))
        assert (await sink.stop()).success
        receiver.wait_for(1)
