"""`mvx_logger.sinks.http`: batches to an endpoint that looks at them strictly, and to real proxies."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

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
from http_receiver import DROP, GARBAGE, HANG, LOSE, Answer, Documents, Receiver, ReceiverServer, Request
from mvx_logger import LogEvent, LogEventMeta, SinkHandler, selflog
from mvx_logger.bridge.config import resolve_sink, sink_from_url
from mvx_logger.errors import LogConfigurationError
from mvx_logger.formats.json import decode_event, encode_event
from mvx_logger.sinks.combinators import FallbackSink, FanOutSink, FilterSink
from mvx_logger.sinks.http import (
    BaseHttpLogSink,
    HttpLogSink,
    add_path,
    describe_answer,
    describe_client_error,
    get_retry_after,
    show_url,
)
from mvx_logger.sinks.memory import MemoryLogSink
from needs import check, find_program, needs_package, needs_program
from servers import WAIT, Certificates, Proxy, Server, find_free_port, make_certificates, wait_until


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(Documents()) as found:
        yield found


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def make_sink() -> Iterator[Any]:
    made: list[HttpLogSink] = []

    def make(url: str, **options: Any) -> HttpLogSink:
        sink, _ = HttpLogSink.create(url=url, **{**PATIENT, **options})
        made.append(sink)
        return sink

    yield make
    for sink in made:
        sink.close(wait=False)
    for sink in made:
        sink.close()


def log_all(sink: Any, events: Sequence[LogEvent]) -> None:
    for event in events:
        sink.log(event)


# ---------------------------------------------------------------------------------------------------- what is sent


class TestBodies:
    @pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
    @pytest.mark.parametrize("form", ["ndjson", "json"])
    def test_every_field_arrives(self, receiver: Receiver, make_sink: Any, form: str, compression: str) -> None:
        sink = make_sink(receiver.url, format=form, compression=compression)
        events = make_rich_events()
        log_all(sink, events)
        assert sink.flush(WAIT)
        documents = [dict(record["document"]) for record in receiver.protocol.records]
        ids = [document.pop("delivery_id") for document in documents]
        assert len(set(ids)) == len(events)
        assert [decode_event(json.dumps(document)) for document in documents] == [
            decode_event(encode_event(event)) for event in events
        ]
        encodings = {request.headers.get("content-encoding", "none") for request in receiver.requests}
        assert encodings == {compression}

    def test_an_event_that_no_encoder_takes_is_put_into_words(self, receiver: Receiver, make_sink: Any) -> None:
        sink = make_sink(receiver.url, batch_max_age=600.0)
        log_all(sink, [make_event(0), make_event(1, text="\ud800", big=10**400), make_event(2)])
        assert sink.flush(WAIT)
        assert [record["name"] for record in receiver.protocol.records] == ["order.0", "order.1", "order.2"]

    def test_a_template_is_filled_in_for_each_event(self, receiver: Receiver, make_sink: Any) -> None:
        sink = make_sink(
            receiver.url,
            format="template",
            template='{{"id":"{delivery_id}","text":"{message|-}","shop":"{payload.shop}"}}',
        )
        receiver.always(Answer(200))
        text = 'quote " back \\ new\nline \ud800 ü'
        log_all(sink, [LogEvent(20, LogEventMeta(None, "a"), None, 0.0, {"shop": "x"}, text), make_event(1)])
        assert sink.flush(WAIT)
        lines = [json.loads(line) for request in receiver.requests for line in request.body.decode().split("\n")]
        assert [line["text"] for line in lines] == ['quote " back \\ new\nline \\ud800 ü', "-"]
        assert [line["shop"] for line in lines] == ["x", ""]
        assert len({line["id"] for line in lines}) == 2
        assert all(len(line["id"]) == 36 for line in lines)
        assert receiver.requests[0].headers["content-type"] == "text/plain; charset=utf-8"

    def test_a_large_batch_goes_in_one_request(self, receiver: Receiver, make_sink: Any) -> None:
        sink = make_sink(receiver.url, batch_max_age=30.0, batch_max_size=400)
        log_all(sink, [make_event(number, long="x" * 5_000) for number in range(400)])
        assert sink.flush(WAIT)
        check_arrived(receiver.protocol.read, 400, exactly_once=True)
        assert max(len(request.raw) for request in receiver.requests) > 1_000_000
        assert receiver.connections == 1

    def test_method_path_query_and_headers_are_as_given(self, make_sink: Any) -> None:
        protocol = Documents()
        protocol.path = "/in put/v1"
        with Receiver(protocol) as receiver:
            sink = make_sink(
                f"{receiver.url}/in%20put/v1?tenant=shop&x=%26",
                method="PUT",
                headers={"X-Tenant": "shop", "user-agent": "shop/1"},
            )
            sink.log(make_event(0))
            assert sink.flush(WAIT)
            (request,) = receiver.requests
        assert (request.method, request.query) == ("PUT", {"tenant": "shop", "x": "&"})
        assert request.headers["x-tenant"] == "shop"
        assert request.headers["user-agent"] == "shop/1"
        assert request.headers["content-type"] == "application/x-ndjson"

    @pytest.mark.parametrize(
        ("options", "header"),
        [
            ({"username": "shop", "password": "pä:ss"}, "Basic c2hvcDpww6Q6c3M="),
            ({"username": "shop"}, "Basic c2hvcDo="),
            ({"password": "x"}, "Basic Ong="),
            ({"bearer_token": "t0ken"}, "Bearer t0ken"),
            ({"headers": ["Authorization: ApiKey abc"]}, "ApiKey abc"),
        ],
    )
    def test_authentication(self, receiver: Receiver, make_sink: Any, options: dict[str, Any], header: str) -> None:
        receiver.protocol.authorization = header
        sink = make_sink(receiver.url, **options)
        sink.log(make_event(0))
        assert sink.flush(WAIT)
        assert receiver.statuses == [200]

    def test_one_connection_serves_all_batches(self, receiver: Receiver, make_sink: Any) -> None:
        sink = make_sink(receiver.url)
        for number in range(5):
            sink.log(make_event(number))
            assert sink.flush(WAIT)
        assert len(receiver.requests) == 5
        assert receiver.connections == 1

    def test_the_same_batch_has_the_same_key(self, receiver: Receiver, make_sink: Any) -> None:
        sink = make_sink(receiver.url)
        receiver.script(LOSE, DROP)
        sink.log(make_event(0))
        assert sink.flush(WAIT)
        sink.log(make_event(1))
        assert sink.flush(WAIT)
        keys = [request.headers["idempotency-key"] for request in receiver.requests]
        assert keys[0] == keys[1] == keys[2] != keys[3]
        first, again, other = receiver.protocol.records
        assert first == again != other


# ---------------------------------------------------------------------------------------------------- answers


class TestAnswers:
    @pytest.mark.parametrize(
        "status",
        [301, 302, 401, 402, 403, 404, 405, 407, 408, 410, 415, 421, 425, 429, 451, 500, 501, 502, 503, 504, 599],
    )
    def test_nothing_is_lost_when_it_may_pass_later(self, receiver: Receiver, make_sink: Any, status: int) -> None:
        sink = make_sink(receiver.url, batch_max_age=600.0)
        receiver.script(*[status] * 3)
        log_all(sink, make_events(3))
        assert sink.flush(WAIT)
        check_arrived(receiver.protocol.read, 3, exactly_once=True)
        stats = sink.stats()
        assert (stats.delivered, stats.retries > 0) == (3, True)
        assert stats.last_error.startswith(f"LogDeliveryTransientError: {status}")

    @pytest.mark.parametrize("status", [400, 413, 422])
    @pytest.mark.parametrize("unknown", [False, True])
    def test_what_is_refused_is_found_and_the_rest_delivered(
        self, receiver: Receiver, make_sink: Any, tmp_path: Path, status: int, unknown: bool
    ) -> None:
        def judge(request: Request) -> Answer:
            if b'"order.13"' in request.body:
                return Answer(409 if unknown else status, "no 13 here")
            return receiver.protocol.handle(request)

        sink = make_sink(receiver.url, dead_letter=tmp_path / "dead.jsonl", retry_max_delay=0.05)
        receiver.always(judge)
        log_all(sink, make_events(50))
        # Found out by experiment, an event needs another one behind it that passes.
        wait_until(lambda: sink.stats().pending == 0, "all is settled")
        sink.flush(WAIT)
        stats = sink.stats()
        assert (stats.delivered, stats.dead_lettered) == (49, 1)
        (letter,) = map(json.loads, (tmp_path / "dead.jsonl").read_text().splitlines())
        assert letter["event"] == "order.13"
        assert "no 13 here" in letter["payload"]["_dead_letter"]["error"]
        assert [record["name"] for record in receiver.protocol.records if record["name"] == "order.13"] == []

    def test_a_server_that_is_asked_for_less_than_it_refuses_gets_smaller_batches(
        self, receiver: Receiver, make_sink: Any
    ) -> None:
        receiver.max_body = 20_000
        sink = make_sink(receiver.url, batch_max_age=600.0)
        log_all(sink, make_events(200))
        assert sink.flush(WAIT)
        check_arrived(receiver.protocol.read, 200, exactly_once=True)
        assert 413 in receiver.statuses

    def test_an_endless_500_loses_nothing(self, receiver: Receiver, make_sink: Any) -> None:
        sink = make_sink(receiver.url, retry_max_delay=0.01)
        receiver.always(500)
        log_all(sink, make_events(20))
        wait_until(lambda: len(receiver.requests) > 100, "it is tried often")
        receiver.always(None)
        assert sink.flush(WAIT)
        check_arrived(receiver.protocol.read, 20, exactly_once=True)

    def test_retry_after_is_honoured(self, receiver: Receiver, make_sink: Any) -> None:
        sink = make_sink(receiver.url, retry_delay=0.0)
        receiver.script(Answer(503, headers={"Retry-After": "1"}), Answer(429, headers={"retry-after": "0"}))
        start = time.monotonic()
        sink.log(make_event(0))
        wait_until(lambda: receiver.protocol.records, "it arrives")
        assert time.monotonic() - start >= 0.99
        assert receiver.statuses == [503, 429, 200]
        assert receiver.connections == 1  # a server that asks for a while has answered

    def test_a_redirection_is_not_followed(self, receiver: Receiver, make_sink: Any) -> None:
        with Receiver(Documents()) as other:
            sink = make_sink(receiver.url, username="shop", password="geheim")
            receiver.script(Answer(307, headers={"Location": f"{other.url}/steal?token=geheim2"}))
            sink.log(make_event(0))
            assert sink.flush(WAIT)
            assert other.requests == []
        error = sink.stats().last_error
        assert "a redirection to http://127.0.0.1" in error
        assert "not followed" in error
        assert "geheim" not in error

    def test_a_connection_that_is_lost_after_the_request_is_made_anew(self, receiver: Receiver, make_sink: Any) -> None:
        sink = make_sink(receiver.url)
        receiver.script(DROP, GARBAGE, LOSE)
        log_all(sink, make_events(3))
        assert sink.flush(WAIT)
        check_arrived(receiver.protocol.read, 3, exactly_once=False)

    def test_a_server_that_hangs_up_on_a_large_event_does_not_stop_the_others(
        self, receiver: Receiver, make_sink: Any
    ) -> None:
        def judge(request: Request, step: Any) -> Any:
            return DROP if len(request.body) > 100_000 else receiver.protocol.handle(request)

        receiver._decide = judge  # type: ignore[method-assign]
        sink = make_sink(receiver.url, retry_max_delay=0.02)
        log_all(sink, [make_event(number, text="x" * (200_000 if number == 7 else 1)) for number in range(20)])
        wait_until(lambda: sink.stats().pending == 0, "all is settled")
        assert sink.stats().dropped == {"refused": 1}
        assert len(receiver.protocol.records) == 19

    def test_answers_that_come_and_go_lose_nothing(self, receiver: Receiver, make_sink: Any) -> None:
        dice = random.Random(7)

        def judge(request: Request, step: Any) -> Any:
            fate = dice.choice([DROP, LOSE, Answer(500), Answer(403), Answer(503), None, None])
            if fate is not None and fate is not LOSE:
                return fate
            answer = receiver.protocol.handle(request)
            return fate or answer

        receiver._decide = judge  # type: ignore[method-assign]
        sink = make_sink(receiver.url, retry_delay=0.001, retry_max_delay=0.01, batch_max_size=3)
        log_all(sink, make_events(300))
        assert sink.flush(WAIT), sink.stats()
        check_arrived(receiver.protocol.read, 300, exactly_once=False)

    def test_an_answer_without_end_is_not_read_to_its_end(self, receiver: Receiver, make_sink: Any) -> None:
        sink = make_sink(receiver.url)
        receiver.script(Answer(500, "x" * 3_000_000), Answer(200, "x" * 3_000_000))
        log_all(sink, [make_event(0)])
        assert sink.flush(WAIT)
        sink.log(make_event(1))
        assert sink.flush(WAIT)
        assert len(sink.stats().last_error) < 1_000
        assert len(receiver.protocol.records) == 1

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("3", 3.0), (" 0.5 ", 0.5), ("-1", 0.0), ("1e9", 3600.0), ("nan", None), ("soon", None), ("", None)],
    )
    def test_retry_after_in_seconds(self, text: str, seconds: float | None) -> None:
        assert get_retry_after({"Retry-After": text}) == seconds

    def test_retry_after_as_a_date(self) -> None:
        moment = datetime.now(UTC) + timedelta(seconds=100)
        seconds = get_retry_after({"Retry-After": format_datetime(moment, usegmt=True)})
        assert seconds is not None
        assert 90 < seconds <= 100
        naive = moment.strftime("%a, %d %b %Y %H:%M:%S -0000")
        assert 90 < (get_retry_after({"Retry-After": naive}) or 0) <= 100
        assert get_retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
        assert get_retry_after({}) is None

    def test_an_answer_becomes_a_text_without_secrets(self) -> None:
        text = describe_answer(401, {}, b'{"error":\n "bad", "password": "geheim"} ' + b"x" * 500 + b"\xff")
        assert text.startswith('401 Unauthorized: {"error": "bad"')
        assert "geheim" not in text
        assert text.endswith("...")
        assert describe_answer(799, {}, b"") == "799"
        assert describe_answer(302, {"Location": "http://[broken"}, b"") == (
            "302 Found: a redirection to ***, which is not followed"
        )
        assert describe_client_error(ValueError("http://x/?key=geheim")) == "ValueError"


# ---------------------------------------------------------------------------------------------------- options


class TestOptions:
    def test_the_names_are_the_same_by_keyword_mapping_and_url(self, receiver: Receiver) -> None:
        host = f"127.0.0.1:{receiver.port}"
        receiver.protocol.authorization = "Basic c2hvcDpwQHNz"
        leases: list[Any] = []

        def make(spec: dict[str, Any]) -> Any:
            leases.append(resolve_sink(spec))
            return leases[-1].sink

        by_keyword, close = HttpLogSink.create(
            url=f"http://shop:p%40ss@{host}/?x=1", compression="gzip", batch_max_size=7, headers={"X-A": "b"}
        )
        by_mapping = make(
            {
                "class": "mvx_logger.sinks.http.HttpLogSink",
                "url": f"http://{host}/?x=1",
                "username": "shop",
                "password": "p@ss",
                "compression": "gzip",
                "headers": {"X-A": "b"},
                "batch_max_size": 7,
            }
        )
        by_url = sink_from_url(f"http://shop:p%40ss@{host}/?x=1&compression=gzip&batch_max_size=7&headers=X-A:%20b")
        by_both = make({"url": f"http://shop:p%40ss@{host}/?x=1&headers=X-A:b&headers=X-B:c", "compression": "gzip"})
        for sink in (by_keyword, by_mapping, by_url, by_both):
            sink.log(make_event(0))
            assert sink.flush(WAIT), sink.stats()
        for lease in leases:
            lease.release()
        by_url.close()
        close()
        assert {request.headers["content-encoding"] for request in receiver.requests} == {"gzip"}
        assert [request.headers["x-a"] for request in receiver.requests] == ["b"] * 4
        assert receiver.requests[3].headers["x-b"] == "c"
        assert [request.query for request in receiver.requests] == [{"x": "1"}] * 4

    def test_secrets_are_shown_nowhere(self, receiver: Receiver, selflog_reports: list[selflog.SelfLogReport]) -> None:
        url = f"http://shop:geheim@127.0.0.1:{receiver.port}/hooks/T0{'geheim' * 4}?api_key=geheim&x=geheim"
        options = {
            "headers": {"X-Token": "geheim"},
            "proxy": f"http://me:geheim@127.0.0.1:{receiver.port}",
            **PATIENT,
        }
        descriptor = HttpLogSink.build_descriptor(url=url, **options)
        assert descriptor.sink_type == "http"
        assert descriptor.resource_key == (f"http://127.0.0.1:{receiver.port}/hooks/***?***",)
        assert descriptor == HttpLogSink.build_descriptor(url=url, **options)
        assert descriptor != HttpLogSink.build_descriptor(url=url.replace("x=geheim", "x=anders"), **options)
        other = HttpLogSink.build_descriptor(url="http://127.0.0.1", bearer_token="geheim", tls_key_password="geheim")
        receiver.script(401, 500, DROP, GARBAGE, Answer(403, json.dumps({"password": "geheim"})))
        lease = resolve_sink({"url": url, **options})
        sink = lease.sink
        receiver.protocol.path = f"/hooks/T0{'geheim' * 4}"
        sink.log(make_event(0))
        assert sink.flush(WAIT)
        assert len(selflog_reports) >= 5
        lease.release()
        gone = find_free_port()
        dead, close = HttpLogSink.create(url=url.replace(str(receiver.port), str(gone)), shutdown_timeout=0.0)
        dead.log(make_event(0))
        wait_until(lambda: dead.stats().last_error, "it fails")
        close()
        told = [descriptor, other, sink, sink.stats(), dead, dead.stats(), selflog_reports]
        assert not [text for text in map(repr, told) if "geheim" in text]
        with pytest.raises(LogConfigurationError) as caught:
            sink_from_url("http://shop:geheim@:80/")
        assert "geheim" not in str(caught.value)

    def test_urls(self) -> None:
        assert add_path("http://host/a/?x=1", "/b", y="ü ") == "http://host/a/b?x=1&y=%C3%BC+"
        assert show_url("http://me:pw@host:1/a/b") == "http://host:1/a/b"
        with pytest.raises(LogConfigurationError, match="the port in the URL is not a number"):
            sink_from_url("http://host:x/")
        with pytest.raises(LogConfigurationError, match="the URL has no host"):
            sink_from_url("http:///path")

    def test_a_subclass_has_schemes_of_its_own(self, receiver: Receiver) -> None:
        class ShopSink(BaseHttpLogSink):
            sink_type: ClassVar[str] = "shop"
            url_schemes: ClassVar[tuple[str, ...]] = ("shop", "shops")
            url_parts: ClassVar[dict[str, str]] = {"password": "key", "path": "till"}
            resource_options: ClassVar[tuple[str, ...]] = ("url", "till")

            def __init__(
                self, *, till: str = "1", key: str = "", url: str = "http://localhost:1", **options: Any
            ) -> None:
                super().__init__(url=url, **options)
                self._till = till

            def _make_url(self) -> str:
                return add_path(self._url, f"/tills/{self._till}")

            def _encode_batch(self, events: Any) -> bytes:
                return b"[]"

        from urllib.parse import urlsplit

        options = ShopSink.options_from_url(urlsplit("shops://:k%2F@host:99/base/my%20till?batch_max_size=1"))
        assert options == {"url": "https://host:99/base", "key": "k/", "till": "my till"}
        assert ShopSink.options_from_url(urlsplit("shop://[::1]:99/")) == {"url": "http://[::1]:99"}
        with pytest.raises(LogConfigurationError, match="no option for the username"):
            ShopSink.options_from_url(urlsplit("shop://me@host"))
        assert ShopSink.build_descriptor(till="2").resource_key == ("http://localhost:1", "2")
        sink, close = ShopSink.create(url=f"{receiver.url}/base", till="7")
        receiver.always(Answer(204))
        sink.log(make_event(0))
        assert sink.flush(WAIT)
        close()
        assert (receiver.requests[0].path, receiver.requests[0].body) == ("/base/tills/7", b"[]")

    def test_a_base_without_an_encoder_says_so(self) -> None:
        sink, close = BaseHttpLogSink.create(url="http://127.0.0.1:1", shutdown_timeout=0.0)
        sink.log(make_event(0))
        wait_until(lambda: sink.stats().last_error == "NotImplementedError", "it fails")
        close()


# ---------------------------------------------------------------------------------------------------- trouble


class TestTrouble:
    def test_events_survive_a_server_that_is_killed(self, tmp_path: Path, make_sink: Any) -> None:
        with ReceiverServer(tmp_path, "http_receiver:Documents") as server:
            survive(make_sink(server.url), server.read, server.restart, exactly_once=False, times=2)

    @pytest.mark.slow
    def test_events_survive_a_server_that_is_frozen(self, tmp_path: Path, make_sink: Any) -> None:
        with ReceiverServer(tmp_path, "http_receiver:Documents") as server:
            sink = make_sink(server.url, delivery_timeout=1.0)

            def disturb() -> None:
                server.freeze()
                wait_until(lambda: sink.stats().retries > 0, "it is noticed")
                server.thaw()

            survive(sink, server.read, disturb, exactly_once=False)

    def test_events_survive_connections_that_are_dropped(self, receiver: Receiver, make_sink: Any) -> None:
        with Proxy(receiver.port) as proxy:
            sink = make_sink(f"http://127.0.0.1:{proxy.port}", batch_max_size=50)

            def disturb() -> None:
                proxy.refuse()
                proxy.drop()
                retries = sink.stats().retries
                wait_until(lambda: sink.stats().retries > retries, "it is noticed")
                proxy.refuse(False)

            survive(sink, receiver.protocol.read, disturb, exactly_once=False, times=5)
            assert proxy.connections >= 6

    def test_events_survive_a_password_that_is_changed_and_back(self, receiver: Receiver, make_sink: Any) -> None:
        receiver.protocol.authorization = "Bearer one"
        sink = make_sink(receiver.url, bearer_token="one")

        def disturb() -> None:
            receiver.protocol.authorization = "Bearer two"
            wait_until(lambda: 401 in receiver.statuses, "it is refused")
            wait_until(lambda: sink.stats().retries > 1, "it is tried again")
            receiver.protocol.authorization = "Bearer one"

        survive(sink, receiver.protocol.read, disturb, exactly_once=True)
        assert "401 Unauthorized" in sink.stats().last_error

    def test_events_survive_answers_that_are_lost(self, receiver: Receiver, make_sink: Any) -> None:
        sink = make_sink(receiver.url)

        def disturb() -> None:
            receiver.script(LOSE, 503, DROP, 429, Answer(503, headers={"Retry-After": "0"}), LOSE)
            wait_until(lambda: receiver.is_script_over, "the script is over")

        survive(sink, receiver.protocol.read, disturb, exactly_once=False, times=3)

    def test_a_sink_starts_before_its_server(self, make_sink: Any) -> None:
        port = find_free_port()
        sink = make_sink(f"http://127.0.0.1:{port}")
        log_all(sink, make_events(10))
        wait_until(lambda: sink.stats().retries > 0, "nobody is there")
        assert "Cannot connect to host 127.0.0.1" in sink.stats().last_error
        with Receiver(Documents(), port=port) as receiver:
            assert sink.flush(WAIT)
            check_arrived(receiver.protocol.read, 10, exactly_once=True)
            sink.close()

    def test_a_name_that_nobody_knows_is_an_outage(self, make_sink: Any) -> None:
        sink = make_sink("http://nowhere.invalid:8080", shutdown_timeout=0.1)
        sink.log(make_event(0))
        wait_until(lambda: sink.stats().retries > 0, "it fails")
        assert "nowhere.invalid" in sink.stats().last_error
        sink.close()
        assert sink.stats().dropped == {"shutdown": 1}

    def test_connecting_does_not_take_for_ever(self, make_sink: Any) -> None:
        # A socket whose queue is full: connections are neither taken nor refused.
        import socket

        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            sink = make_sink(
                f"http://127.0.0.1:{full.getsockname()[1]}",
                connect_timeout=0.2,
                delivery_timeout=60.0,
                shutdown_timeout=0.1,
            )
            sink.log(make_event(0))
            wait_until(lambda: sink.stats().retries > 0, "it gives up to connect")
            assert "Timeout" in sink.stats().last_error
            sink.close()
            for filler in fillers:
                filler.close()

    def test_close_does_not_wait_for_a_server_that_says_nothing(self, receiver: Receiver, make_sink: Any) -> None:
        sink = make_sink(receiver.url, shutdown_timeout=0.3, delivery_timeout=None)
        receiver.always(HANG)
        log_all(sink, make_events(5))
        wait_until(lambda: receiver.requests, "it has the request")
        start = time.monotonic()
        sink.close()
        assert time.monotonic() - start < 10
        assert sink.stats().dropped == {"shutdown": 5}
        receiver.release()

    def test_a_forked_child_logs_on_a_connection_of_its_own(self, receiver: Receiver, make_sink: Any) -> None:
        sink = make_sink(receiver.url)
        log_all(sink, make_events(10))
        assert sink.flush(WAIT)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                log_all(sink, make_events(10, 10))
                code = 0 if sink.flush(WAIT) else 2
                sink.close()
            finally:
                os._exit(code)
        log_all(sink, make_events(10, 20))
        assert sink.flush(WAIT)
        assert os.waitpid(pid, 0)[1] == 0
        check_arrived(receiver.protocol.read, 30, exactly_once=True, in_order=False)
        assert receiver.connections == 2

    def test_it_stops_and_starts_again(self, receiver: Receiver, make_sink: Any) -> None:
        sink = make_sink(receiver.url)
        sink.log(make_event(0))
        sink.stop().wait(WAIT)
        sink.start().wait(WAIT)
        sink.log(make_event(1))
        assert sink.flush(WAIT)
        check_arrived(receiver.protocol.read, 2, exactly_once=True)

    async def test_on_the_loop_of_the_application(self, receiver: Receiver) -> None:
        sink = HttpLogSink(url=receiver.url, compression="zstd", **PATIENT)
        for number in range(300):
            sink.log(make_event(number))
            await asyncio.sleep(0)
        await sink.stop()
        assert sink.stats().delivered == 300
        check_arrived(receiver.protocol.read, 300, exactly_once=True)

    def test_a_spool_keeps_what_a_dead_server_did_not_take(self, receiver: Receiver, tmp_path: Path) -> None:
        options = {**PATIENT, "durable": tmp_path / "spool", "shutdown_timeout": 0.1}
        sink, close = HttpLogSink.create(url=f"http://127.0.0.1:{find_free_port()}", **options)
        log_all(sink, make_events(20))
        close()
        assert sink.stats().spooled == 20
        sink, close = HttpLogSink.create(url=receiver.url, **options)
        assert sink.flush(WAIT)
        close()
        check_arrived(receiver.protocol.read, 20, exactly_once=True)


class TestTls:
    def test_the_right_certificate(self, certificates: Certificates, make_sink: Any) -> None:
        with Receiver(Documents(), certificate=certificates.right) as receiver:
            sink = make_sink(receiver.url.replace("127.0.0.1", "localhost"), tls_ca=certificates.ca)
            log_all(sink, make_events(5))
            assert sink.flush(WAIT), sink.stats()
            check_arrived(receiver.protocol.read, 5, exactly_once=True)
            assert receiver.requests[0].secure
            sink.close()

    def test_a_client_has_a_certificate(self, certificates: Certificates, make_sink: Any) -> None:
        with Receiver(Documents(), certificate=certificates.right, client_ca=certificates.ca) as receiver:
            without = make_sink(receiver.url, tls_ca=certificates.ca, shutdown_timeout=0.1)
            without.log(make_event(0))
            wait_until(lambda: without.stats().retries > 0, "it is refused")
            without.close()
            sink = make_sink(
                receiver.url,
                tls_ca=certificates.ca,
                tls_cert=certificates.client[0],
                tls_key=certificates.client[1],
            )
            sink.log(make_event(0))
            assert sink.flush(WAIT), sink.stats()
            assert len(receiver.protocol.records) == 1
            assert receiver.requests[0].peer["subjectAltName"] == (("email", "client@shop.test"),)
            sink.close()

    @pytest.mark.parametrize("kind", ["wrong_name", "expired", "self_signed"])
    def test_a_wrong_certificate_gets_nothing_until_it_is_right(
        self, certificates: Certificates, make_sink: Any, kind: str
    ) -> None:
        with Receiver(Documents(), certificate=getattr(certificates, kind)) as receiver:
            sink = make_sink(receiver.url, tls_ca=certificates.ca)
            log_all(sink, make_events(5))
            wait_until(lambda: sink.stats().retries > 1, "it is refused")
            assert "CERTIFICATE_VERIFY_FAILED" in sink.stats().last_error
            assert (receiver.requests, sink.stats().pending) == ([], 5)
            receiver.use_certificate(certificates.right)
            assert sink.flush(WAIT)
            check_arrived(receiver.protocol.read, 5, exactly_once=True)
            sink.close()


# ---------------------------------------------------------------------------------------------------- proxies


class ProxyServer(Server):
    """proxy.py."""

    def command(self) -> Sequence[str]:
        return [
            sys.executable, "-m", "proxy", "--hostname", self.host, "--port", str(self.port), "--threaded",
            "--num-acceptors", "1", "--num-workers", "1", "--basic-auth", "me:p@ss", "--log-level", "DEBUG",
            "--data-dir", str(self.directory),
        ]  # fmt: skip


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyServer]:
    check(needs_package("proxy", pip="proxy.py"))
    with ProxyServer(tmp_path_factory.mktemp("proxy")) as server:
        yield server


class TestProxies:
    def test_by_http(self, receiver: Receiver, proxy: ProxyServer, make_sink: Any) -> None:
        sink = make_sink(receiver.url, proxy=f"http://me:p%40ss@127.0.0.1:{proxy.port}", username="shop")
        log_all(sink, make_events(5))
        assert sink.flush(WAIT), sink.stats()
        check_arrived(receiver.protocol.read, 5, exactly_once=True)
        assert "via" in receiver.requests[0].headers
        assert receiver.requests[0].headers["authorization"] == "Basic c2hvcDo="
        assert "proxy-authorization" not in receiver.requests[0].headers

    def test_by_a_tunnel(self, certificates: Certificates, proxy: ProxyServer, make_sink: Any) -> None:
        with Receiver(Documents(), certificate=certificates.right) as receiver:
            sink = make_sink(receiver.url, tls_ca=certificates.ca, proxy=f"http://me:p%40ss@127.0.0.1:{proxy.port}")
            log_all(sink, make_events(5))
            assert sink.flush(WAIT), sink.stats()
            check_arrived(receiver.protocol.read, 5, exactly_once=True)
            sink.close()

    @pytest.mark.parametrize("secure", [False, True])
    def test_a_proxy_that_does_not_know_us_is_an_outage(
        self, receiver: Receiver, proxy: ProxyServer, certificates: Certificates, make_sink: Any, secure: bool
    ) -> None:
        url = receiver.url.replace("http", "https") if secure else receiver.url
        sink = make_sink(url, proxy=f"http://me:geheim@127.0.0.1:{proxy.port}", shutdown_timeout=0.1)
        sink.log(make_event(0))
        wait_until(lambda: sink.stats().retries > 0, "it is refused")
        assert "407" in sink.stats().last_error
        assert "geheim" not in sink.stats().last_error
        sink.close()
        assert sink.stats().dropped == {"shutdown": 1}

    def test_the_environment_names_one(
        self, receiver: Receiver, proxy: ProxyServer, make_sink: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "REQUEST_METHOD"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", f"http://me:p%40ss@127.0.0.1:{proxy.port}")
        by_proxy, by_none = make_sink(receiver.url, proxy="env"), make_sink(receiver.url)
        by_proxy.log(make_event(0))
        assert by_proxy.flush(WAIT), by_proxy.stats()
        by_none.log(make_event(1))
        assert by_none.flush(WAIT)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        direct = make_sink(receiver.url, proxy="env")
        direct.log(make_event(2))
        assert direct.flush(WAIT)
        assert ["via" in request.headers for request in receiver.requests] == [True, False, False]
        monkeypatch.delenv("no_proxy")
        monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
        wrong = make_sink(receiver.url, proxy="env", shutdown_timeout=0.1)
        wrong.log(make_event(3))
        wait_until(lambda: wrong.stats().last_error, "it fails")
        assert "http_proxy in the environment" in wrong.stats().last_error


# ---------------------------------------------------------------------------------------------------- behind nginx


class Nginx(Server):
    """A reverse proxy as they stand before log collectors: with limits of its own."""

    def __init__(self, directory: Path, behind: int) -> None:
        super().__init__(directory)
        self._behind = behind

    def prepare(self) -> None:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = " ".join(f"{kind}_temp_path {self.directory}/{kind};" for kind in kinds)
        (self.directory / "nginx.conf").write_text(
            f"""
            daemon off; master_process off; pid {self.directory}/nginx.pid; error_log stderr warn;
            {"user root;" if os.geteuid() == 0 else ""}
            events {{ worker_connections 64; }}
            http {{
                access_log off; {paths}
                client_max_body_size 30k; keepalive_requests 7; keepalive_timeout 1s;
                limit_req_zone $uri zone=slow:64k rate=20r/s;
                upstream behind {{ server 127.0.0.1:{self._behind} max_fails=0; }}
                server {{
                    listen {self.host}:{self.port};
                    location / {{ proxy_pass http://behind; proxy_connect_timeout 1s; }}
                    location /slow {{ limit_req zone=slow; rewrite .* / break; proxy_pass http://behind; }}
                    location /moved {{ return 308 http://{self.host}:{self._behind}/; }}
                }}
            }}
            """
        )

    def command(self) -> Sequence[str]:
        return [find_program("nginx") or "", "-p", str(self.directory), "-c", "nginx.conf"]


@needs_program("nginx", debian="nginx-light")
class TestBehindNginx:
    def test_what_is_too_large_is_split(self, receiver: Receiver, make_sink: Any, tmp_path: Path) -> None:
        with Nginx(tmp_path / "nginx", receiver.port) as nginx:
            sink = make_sink(f"http://127.0.0.1:{nginx.port}", batch_max_age=5.0, retry_max_delay=0.02)
            log_all(sink, [make_event(number, long="x" * (40_000 if number == 7 else 2_000)) for number in range(100)])
            wait_until(lambda: sink.stats().pending == 0, "all is settled")
            assert sink.stats().dropped == {"refused": 1}
            names = {record["name"] for record in receiver.protocol.records}
            assert names == {f"order.{number}" for number in range(100) if number != 7}
            sink.close()

    def test_events_survive_what_is_behind_it(self, make_sink: Any, tmp_path: Path) -> None:
        with (
            ReceiverServer(tmp_path / "receiver", "http_receiver:Documents") as behind,
            Nginx(tmp_path / "nginx", behind.port) as nginx,
        ):
            sink = make_sink(f"http://127.0.0.1:{nginx.port}", batch_max_size=50)

            def disturb() -> None:
                behind.kill()
                # An answer that was on its way may have been torn first.
                wait_until(lambda: "502 Bad Gateway" in str(sink.stats().last_error), "nginx reports it")
                behind.start()

            survive(sink, behind.read, disturb, exactly_once=False)
            sink.close()

    def test_its_own_end_and_its_limits_lose_nothing(self, receiver: Receiver, make_sink: Any, tmp_path: Path) -> None:
        with Nginx(tmp_path / "nginx", receiver.port) as nginx:
            sink = make_sink(f"http://127.0.0.1:{nginx.port}/slow", batch_max_size=20, batch_max_age=0.0)
            survive(sink, receiver.protocol.read, nginx.restart, exactly_once=False, times=2, count=1_000)
            assert sink.stats().retries > 2
            sink.close()

    def test_a_connection_that_it_has_closed_meanwhile_is_made_anew(
        self, receiver: Receiver, make_sink: Any, tmp_path: Path
    ) -> None:
        with Nginx(tmp_path / "nginx", receiver.port) as nginx:
            sink = make_sink(f"http://127.0.0.1:{nginx.port}")
            for number in range(20):  # it takes seven requests on a connection
                sink.log(make_event(number))
                assert sink.flush(WAIT)
            check_arrived(receiver.protocol.read, 20, exactly_once=True)
            assert sink.stats().retries == 0
            moved = make_sink(f"http://127.0.0.1:{nginx.port}/moved", shutdown_timeout=0.1)
            moved.log(make_event(20))
            wait_until(lambda: moved.stats().last_error, "it is redirected")
            assert "308 Permanent Redirect: a redirection to http://127.0.0.1" in moved.stats().last_error
            sink.close()
            moved.close()


# ---------------------------------------------------------------------------------------------------- among others


class TestAmongOthers:
    def test_the_recipe(self, receiver: Receiver) -> None:
        receiver.protocol.path = "/ingest"
        receiver.protocol.authorization = "Bearer s3cret"
        recipe = load_recipe("http", {"https://logs.example.com": receiver.url})
        log_three_ways(recipe)
        documents = [record["document"] for record in receiver.protocol.records]
        assert [document["payload"]["number"] for document in documents] == [1, 2, 3]
        assert [document["namespace"] for document in documents] == ["shop.legacy", "shop.web", "shop.orders"]

    def test_it_composes(self, receiver: Receiver) -> None:
        sink, close = HttpLogSink.create(url=receiver.url, **PATIENT)
        memory = MemoryLogSink()
        composed = FanOutSink(FilterSink(FallbackSink(sink, memory), min_level=20), memory)
        log_all(composed, [LogEvent(10, LogEventMeta(None, "low"), None, 0.0, {}), *make_events(3)])
        assert composed.flush(WAIT)
        check_arrived(receiver.protocol.read, 3, exactly_once=True)
        assert len(memory.events) == 4
        handler = SinkHandler(sink)
        import logging

        handler.handle(logging.LogRecord("shop", logging.INFO, __file__, 1, "hello %s", ("you",), None))
        handler.flush()
        assert receiver.protocol.records[-1]["document"]["message"] == "hello you"
        handler.close()
        close()
