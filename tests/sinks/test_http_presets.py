"""What the sinks for log products have in common. None of these has a server here: strict receivers stand for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import preset_receivers
from destinations import PATIENT, load_recipe, log_three_ways, make_event, make_events, survive
from http_receiver import DROP, LOSE, Answer, Protocol, Receiver, ReceiverServer
from mvx_logger import (
    FanOutSink,
    FilterSink,
    LogEvent,
    LogEventMeta,
    MemoryLogSink,
    SinkHandler,
)
from mvx_logger.selflog import SelfLogReport
from mvx_logger.sinks.datadog import DatadogLogSink
from mvx_logger.sinks.loki import LokiLogSink
from mvx_logger.sinks.otlp import OtlpLogSink
from mvx_logger.sinks.seq import SeqLogSink
from mvx_logger.sinks.splunk import SplunkLogSink
from mvx_logger.sinks.victorialogs import VictoriaLogsSink
from servers import WAIT, Certificates, Proxy, make_certificates, wait_until

SECRET = "s3cret-t0ken-0123456789"


class Preset(NamedTuple):
    """A sink, who receives from it, and how both are set up.

    Attributes:
        sink_cls: The class.
        protocol: The class of the receiver.
        options: Options beside ``url``, with the secret.
        attributes: What the receiver has to know.
        recipe: The URL on its recipe page, and what stands for it here; ``SERVER`` stands for the receiver's address.
        exactly_once: The destination keeps one of those that come twice.
        secret: How the secret is to be seen by the receiver: the header, and what is in it.
    """

    sink_cls: Any
    protocol: type[Protocol]
    options: dict[str, Any]
    attributes: dict[str, Any]
    recipe: tuple[str, str]
    exactly_once: bool
    secret: tuple[str, str]


BASIC = "Basic c2hvcDpzM2NyZXQtdDBrZW4tMDEyMzQ1Njc4OQ=="
USER = {"username": "shop", "password": SECRET}
PRESETS = {
    "loki": Preset(
        LokiLogSink,
        preset_receivers.LokiPush,
        {**USER, "tenant": "shop"},
        {"authorization": BASIC, "tenant": "shop"},
        ("loki://localhost:3100", "loki://SERVER"),
        True,
        ("authorization", BASIC),
    ),
    "splunk": Preset(
        SplunkLogSink,
        preset_receivers.SplunkHec,
        {"token": SECRET},
        {"token": SECRET},
        ("splunks://:TOKEN@localhost:8088", "splunk://:0aa0-token@SERVER"),
        False,
        ("authorization", f"Splunk {SECRET}"),
    ),
    "datadog": Preset(
        DatadogLogSink,
        preset_receivers.DatadogIntake,
        {"api_key": SECRET},
        {"key": SECRET},
        ("datadog://:API_KEY@datadoghq.eu", "datadog://:dd-key@datadoghq.eu?url=http://SERVER"),
        False,
        ("dd-api-key", SECRET),
    ),
    "seq": Preset(
        SeqLogSink,
        preset_receivers.SeqIngest,
        {"api_key": SECRET},
        {"key": SECRET},
        ("seq://localhost:5341", "seq://SERVER"),
        False,
        ("x-seq-apikey", SECRET),
    ),
    "victorialogs": Preset(
        VictoriaLogsSink,
        preset_receivers.VictoriaInsert,
        USER,
        {"authorization": BASIC},
        ("victorialogs://localhost:9428", "victorialogs://SERVER"),
        False,
        ("authorization", BASIC),
    ),
    "otlp": Preset(
        OtlpLogSink,
        preset_receivers.OtlpCollector,
        USER,
        {"authorization": BASIC},
        ("otlp://localhost:4318", "otlp://SERVER"),
        True,
        ("authorization", BASIC),
    ),
}


@pytest.fixture(params=PRESETS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def preset(name: str) -> Preset:
    return PRESETS[name]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@contextmanager
def receiving(preset: Preset, **options: Any) -> Iterator[Receiver]:
    with Receiver(preset.protocol(), **options) as receiver:
        for attribute, value in preset.attributes.items():
            setattr(receiver.protocol, attribute, value)
        yield receiver


@contextmanager
def a_sink(preset: Preset, url: str, **options: Any) -> Iterator[Any]:
    sink, close = preset.sink_cls.create(url=url, **{**PATIENT, **preset.options, **options})
    try:
        yield sink
    finally:
        close()


class TestOptions:
    def test_the_secret(self, preset: Preset, selflog_reports: list[SelfLogReport]) -> None:
        """The server gets it, and nobody else sees it, whatever goes wrong."""
        with receiving(preset) as receiver:
            receiver.script(401, 503, LOSE)
            with a_sink(preset, receiver.url) as sink:
                sink.log(make_event(1))
                assert sink.flush(timeout=WAIT), sink.stats()
                header, value = preset.secret
                assert [request.headers[header] for request in receiver.requests[-1:]] == [value]
                descriptor = preset.sink_cls.build_descriptor(url=receiver.url, **preset.options)
                for told in (repr(sink), repr(sink.stats()), repr(descriptor), str(selflog_reports)):
                    assert SECRET not in told
                    assert BASIC not in told

    def test_compression(self, preset: Preset) -> None:
        """The body is smaller, and the same."""
        with receiving(preset) as receiver, a_sink(preset, receiver.url, compression="gzip") as sink:
            for event in make_events(50):
                sink.log(event)
            assert sink.flush(timeout=WAIT), sink.stats()
            assert len(receiver.protocol.read()) == 50
            assert {request.headers["content-encoding"] for request in receiver.requests} == {"gzip"}
            assert sum(len(r.raw) for r in receiver.requests) < sum(len(r.body) for r in receiver.requests)

    def test_defaults_of_batches(self, preset: Preset) -> None:
        """A thousand events fit into one request, within the limits of the product."""
        with receiving(preset) as receiver, a_sink(preset, receiver.url, batch_max_size=1_000) as sink:
            sink.log(make_event(0))
            assert sink.flush(timeout=WAIT)
            receiver.requests.clear()
            for event in make_events(3_000, start=1):
                sink.log(event)
            assert sink.flush(timeout=WAIT), sink.stats()
            assert len(receiver.protocol.read()) == 3_001
            assert max(len(request.body) for request in receiver.requests) < 1_000_000


class TestFailures:
    def test_busy(self, preset: Preset) -> None:
        """429 with Retry-After, then 503: the batch comes again, once the time is over."""
        with receiving(preset) as receiver:
            receiver.script(Answer(429, "slow down", {"Retry-After": "0.2"}), 503)
            with a_sink(preset, receiver.url) as sink:
                sink.log(make_event(1))
                assert sink.flush(timeout=WAIT), sink.stats()
                assert receiver.statuses[:2] == [429, 503]
                assert [event for _, event in receiver.protocol.read()] == ["order.1"]
                assert sink.stats().retries == 2

    @pytest.mark.parametrize("status", [401, 403, 404])
    def test_access(self, preset: Preset, status: int) -> None:
        """A token that is renewed, a route that is missing for a while: nothing is lost."""
        with receiving(preset) as receiver:
            receiver.always(status)
            with a_sink(preset, receiver.url) as sink:
                for event in make_events(20):
                    sink.log(event)
                wait_until(lambda: len(receiver.statuses) > 2, "it is tried again")
                assert str(status) in sink.stats().last_error
                receiver.always(None)
                assert sink.flush(timeout=WAIT), sink.stats()
                assert len(receiver.protocol.read()) == 20
                assert not sink.stats().dropped

    def test_too_large(self, preset: Preset, name: str) -> None:
        """A body that is too large comes again in halves; an event that is too large alone goes to the dead letters."""
        dead = MemoryLogSink()
        with (
            receiving(preset, max_body=30_000) as receiver,
            a_sink(preset, receiver.url, dead_letter=dead, compression="none", batch_max_size=1_000) as sink,
        ):
            events = make_events(300)
            events.insert(150, make_event(999, text="x" * 40_000))
            for event in events:
                sink.log(event)
            wait_until(lambda: sink.stats().pending == 0, "all is settled")
            assert sink.stats().delivered == 300
            assert [event.meta.event_name for event in dead.events] == ["order.999"]
            assert {event for _, event in receiver.protocol.read()} == {
                event.meta.event_name for event in make_events(300)
            }
            assert 413 in receiver.statuses

    def test_down_at_the_start(self, preset: Preset, tmp_path: Path) -> None:
        """The sink starts without its server, and delivers once it is there."""
        with receiving(preset) as receiver:
            port = receiver.port
        with a_sink(preset, f"http://127.0.0.1:{port}") as sink:
            sink.log(make_event(1))
            wait_until(lambda: sink.stats().retries, "it is tried again")
            with receiving(preset, port=port) as receiver:
                assert sink.flush(timeout=WAIT), sink.stats()
                assert [event for _, event in receiver.protocol.read()] == ["order.1"]

    def test_the_end_with_a_dead_server(self, preset: Preset, selflog_reports: list[SelfLogReport]) -> None:
        """close() ends in its time, and tells what was lost."""
        with receiving(preset) as receiver:
            url = receiver.url
        with a_sink(preset, url, shutdown_timeout=0.3) as sink:
            sink.log(make_event(1))
        assert sink.stats().dropped == {"shutdown": 1}
        assert selflog_reports


two_of_them = pytest.mark.parametrize("name", ["loki", "otlp"])
"""Where the sinks have everything in common."""


@pytest.mark.slow
class TestTrouble:
    @pytest.fixture(params=["loki", "splunk"])
    def name(self, request: pytest.FixtureRequest) -> str:
        """One that deduplicates and one that does not; all of them at night."""
        return str(request.param)

    def test_killed(self, preset: Preset, tmp_path: Path) -> None:
        """The server is killed and comes back: every event arrives."""
        with (
            ReceiverServer(tmp_path, _dotted(preset.protocol), **preset.attributes) as server,
            a_sink(preset, server.url) as sink,
        ):
            survive(sink, server.read, server.restart, count=1_000, times=2, exactly_once=preset.exactly_once)

    @two_of_them
    def test_frozen(self, preset: Preset, tmp_path: Path) -> None:
        """The server takes connections and says nothing for longer than an attempt may take."""
        with (
            ReceiverServer(tmp_path, _dotted(preset.protocol), **preset.attributes) as server,
            a_sink(preset, server.url, delivery_timeout=1.0) as sink,
        ):

            def freeze() -> None:
                failures = sink.stats().retries
                server.freeze()
                wait_until(lambda: sink.stats().retries > failures, "an attempt fails")
                server.thaw()

            survive(sink, server.read, freeze, exactly_once=preset.exactly_once)

    @two_of_them
    def test_dropped_connections(self, preset: Preset, tmp_path: Path) -> None:
        """Connections are reset, in the middle of requests and between them."""
        with (
            ReceiverServer(tmp_path, _dotted(preset.protocol), **preset.attributes) as server,
            Proxy(server.port) as proxy,
            a_sink(preset, f"http://127.0.0.1:{proxy.port}") as sink,
        ):

            def drop() -> None:
                failures = sink.stats().retries
                proxy.refuse()
                proxy.drop()
                wait_until(lambda: sink.stats().retries > failures, "an attempt fails")
                proxy.refuse(False)

            survive(sink, server.read, drop, times=3, exactly_once=preset.exactly_once)

    def test_answers_that_are_lost(self, preset: Preset) -> None:
        """What was taken may come twice, with the same id; where ids count, it is there once."""
        with receiving(preset) as receiver, a_sink(preset, receiver.url) as sink:

            def lose() -> None:
                receiver.script(LOSE, DROP, Answer(429, "", {"Retry-After": "0.1"}), 503)
                wait_until(lambda: receiver.is_script_over, "all of it has happened")

            survive(sink, receiver.protocol.read, lose, count=1_000, times=2, exactly_once=preset.exactly_once)


def _dotted(protocol: type[Protocol]) -> str:
    return f"{protocol.__module__}:{protocol.__name__}"


class TestTls:
    """They share it with the general sink, where it is tested in full."""

    def test_the_right_certificate(self, preset: Preset, certificates: Certificates) -> None:
        """Events arrive by TLS; the schemes with an ``s`` mean it."""
        with (
            receiving(preset, certificate=certificates.right) as receiver,
            a_sink(preset, receiver.url, tls_ca=certificates.ca) as sink,
        ):
            sink.log(make_event(1))
            assert sink.flush(timeout=WAIT), sink.stats()
            assert receiver.requests[0].secure

    def test_a_wrong_certificate(self, certificates: Certificates) -> None:
        """Nothing is sent until the right one is there."""
        preset = PRESETS["otlp"]
        with (
            receiving(preset, certificate=certificates.wrong_name) as receiver,
            a_sink(preset, receiver.url, tls_ca=certificates.ca) as sink,
        ):
            sink.log(make_event(1))
            wait_until(lambda: sink.stats().retries, "it is tried again")
            assert "certificate" in sink.stats().last_error
            assert not receiver.requests
            receiver.use_certificate(certificates.right)
            assert sink.flush(timeout=WAIT), sink.stats()

    def test_schemes(self, name: str, preset: Preset) -> None:
        """``loki://`` is http, ``lokis://`` is https."""
        from urllib.parse import urlsplit

        if name == "datadog":  # has its servers by site
            found = preset.sink_cls.options_from_url(urlsplit("datadog://KEY@datadoghq.eu"))
            assert found == {"site": "datadoghq.eu", "api_key": "KEY"}
            return
        found = preset.sink_cls.options_from_url(urlsplit(f"{name}://host:1/base"))
        assert found == {"url": "http://host:1/base"}
        found = preset.sink_cls.options_from_url(urlsplit(f"{name}s://host"))
        assert found == {"url": "https://host"}


class TestComposition:
    def test_behind_others(self, preset: Preset) -> None:
        """A fan-out, a filter and a handler stand before it."""
        import logging

        with receiving(preset) as receiver, a_sink(preset, receiver.url) as sink:
            memory = MemoryLogSink()
            both = FanOutSink(memory, FilterSink(sink, min_level=30), owns_sinks=False)
            logger = logging.getLogger("shop.composition")
            handler = SinkHandler(both)
            logger.addHandler(handler)
            try:
                logger.warning("one")
                logger.info("not enabled")
                both.log(make_event(1))
            finally:
                logger.removeHandler(handler)
            assert sink.flush(timeout=WAIT), sink.stats()
            assert [event for _, event in receiver.protocol.read()] == ["one"]
            assert len(memory.events) == 2

    @pytest.mark.untraced
    def test_forks(self, preset: Preset) -> None:
        """A forked child has a sink of its own: what both log arrives."""
        with receiving(preset) as receiver, a_sink(preset, receiver.url) as sink:
            sink.log(make_event(1))
            assert sink.flush(timeout=WAIT)
            child = os.fork()
            if not child:
                status = 1
                try:
                    sink.log(make_event(2))
                    status = 0 if sink.flush(timeout=WAIT) else 2
                finally:
                    os._exit(status)
            _, status = os.waitpid(child, 0)
            assert status == 0
            sink.log(make_event(3))
            assert sink.flush(timeout=WAIT)
            assert sorted(event for _, event in receiver.protocol.read()) == ["order.1", "order.2", "order.3"]


class TestRecipes:
    def test_recipe(self, name: str, preset: Preset) -> None:
        """What a page tells its reader to paste works, for all kinds of loggers."""
        with Receiver(preset.protocol()) as receiver:
            written, used = preset.recipe
            used = used.replace("SERVER", receiver.url.removeprefix("http://"))
            log_three_ways(load_recipe(name, {written: used}))
            assert {event for _, event in receiver.protocol.read()} == {"one", "two", "three"}


def test_levels_and_names_survive(preset: Preset) -> None:
    """An event without anything but its name is taken, too."""
    with receiving(preset) as receiver, a_sink(preset, receiver.url) as sink:
        sink.log(LogEvent(5, LogEventMeta(None, "bare"), None, 1_780_000_000.0, {}))
        assert sink.flush(timeout=WAIT), sink.stats()
        assert [event for _, event in receiver.protocol.read()] == ["bare"]
