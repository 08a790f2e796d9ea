"""`mvx_logger.sinks.elasticsearch`, against the bulk interface as it is published: nothing lost, nothing there twice."""

from __future__ import annotations

import base64
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from elasticsearch_receiver import Bulk
from http_receiver import DROP, HANG, LOSE, Answer, Receiver, ReceiverServer
from mvx_logger import LogEvent, LogEventMeta, SinkHandler, selflog
from mvx_logger.bridge.config import resolve_sink, sink_from_url
from mvx_logger.formats.json import decode_event, encode_event
from mvx_logger.sinks.combinators import FallbackSink, FanOutSink, FilterSink
from mvx_logger.sinks.elasticsearch import ElasticsearchLogSink
from mvx_logger.sinks.memory import MemoryLogSink
from servers import WAIT, Certificates, Proxy, find_free_port, make_certificates, wait_until


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(Bulk()) as found:
        yield found


@pytest.fixture
def bulk(receiver: Receiver) -> Bulk:
    assert isinstance(receiver.protocol, Bulk)
    return receiver.protocol


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def make_sink() -> Iterator[Any]:
    made: list[ElasticsearchLogSink] = []

    def make(url: str, **options: Any) -> ElasticsearchLogSink:
        sink, _ = ElasticsearchLogSink.create(url=url, **{"index": "logs-shop-default", **PATIENT, **options})
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


def without_empty(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, {}, ())}


class TestDocuments:
    @pytest.mark.parametrize("compression", ["none", "gzip"])
    def test_every_field_arrives(self, receiver: Receiver, bulk: Bulk, make_sink: Any, compression: str) -> None:
        bulk.flattened = ("payload",)
        sink = make_sink(receiver.url, compression=compression)
        events = make_rich_events()
        log_all(sink, events)
        assert sink.flush(WAIT), sink.stats()
        assert len(bulk.documents) == len(events)
        for event, (key, document) in zip(events, bulk.documents.items(), strict=True):
            plain = decode_event(encode_event(event))
            rest = json.loads(document.get("mvx_logger", "{}"))
            assert document["@timestamp"] == json.loads(encode_event(event))["timestamp"]
            assert document["message"] == (plain.message if plain.message is not None else plain.meta.event_name)
            assert document["event"] == without_empty(
                {
                    "action": plain.meta.event_name,
                    "outcome": plain.event_outcome,
                    "id": key[1],
                    "severity": plain.level,
                }
            )
            assert document["host"] == {"name": socket.gethostname()}
            assert document["log"]["level"] == json.loads(encode_event(event))["level"].lower()
            assert document["log"].get("logger") == plain.meta.event_namespace
            assert document.get("labels", {}).get("entity_id") == plain.meta.entity_id
            assert document.get("payload", {}) == plain.payload
            origin = document["log"].get("origin", {})
            assert origin.get("file", {}).get("name") == plain.meta.source_path
            assert origin.get("file", {}).get("line") == plain.meta.source_line
            assert origin.get("function") == plain.meta.source_func
            if plain.exception is not None:
                assert document["error"] == {
                    "type": plain.exception.type,
                    "message": plain.exception.message,
                    "stack_trace": plain.exception.text,
                }
                assert rest["stacks"] == list(plain.exception.stacks)
            if plain.origin is not None:
                assert document["process"] == {
                    "pid": plain.origin.process_id,
                    "name": plain.origin.process_name,
                    "thread": {"id": plain.origin.thread_id, "name": plain.origin.thread_name},
                }
                assert rest["origin"]["template"] == plain.origin.template
                assert rest["origin"]["args"] == list(plain.origin.args or ())
        assert receiver.requests[0].headers.get("content-encoding", "none") == compression
        assert receiver.requests[0].headers["content-type"] == "application/x-ndjson"

    def test_a_stack_arrives(self, receiver: Receiver, bulk: Bulk, make_sink: Any) -> None:
        handler = SinkHandler(make_sink(receiver.url))
        logger = logging.getLogger("tests.elasticsearch")
        logger.addHandler(handler)
        try:
            logger.error("where", stack_info=True)
        finally:
            logger.removeHandler(handler)
        assert handler.sink.flush(WAIT)
        (document,) = bulk.documents.values()
        assert "test_a_stack_arrives" in json.loads(document["mvx_logger"])["stack"]["text"]

    def test_a_time_beyond_rfc_3339_is_a_number_of_milliseconds(
        self, receiver: Receiver, bulk: Bulk, make_sink: Any
    ) -> None:
        sink = make_sink(receiver.url)
        sink.log(LogEvent(20, LogEventMeta(None, "late"), None, 3e11, {}))
        assert sink.flush(WAIT)
        (document,) = bulk.documents.values()
        assert document["@timestamp"] == 300_000_000_000_000

    def test_the_index_is_made_of_the_event(self, receiver: Receiver, bulk: Bulk, make_sink: Any) -> None:
        sink = make_sink(receiver.url, index="logs-{namespace|none}-{payload.tenant}-{time:%Y.%m.%d}")
        log_all(
            sink,
            [
                make_event(0, tenant='A/B "c", #1:*?\\|<>'),
                make_event(1, tenant="Ünïcode" * 100),
                LogEvent(20, LogEventMeta(None, "x"), None, 0.0, {"tenant": "t"}),
            ],
        )
        assert sink.flush(WAIT), sink.stats()
        first, second, third = (index for index, _ in bulk.documents)
        assert first == "logs-shop.orders-a_b__c____1_______-2026.05.28"
        assert second.startswith("logs-shop.orders-_n_code_n_code")
        assert len(second) == 255
        assert third == "logs-none-t-1970.01.01"

    def test_an_index_without_a_name_gets_one(self, receiver: Receiver, bulk: Bulk, make_sink: Any) -> None:
        sink = make_sink(receiver.url, index="{namespace}")
        sink.log(LogEvent(20, LogEventMeta(None, "x"), None, 0.0, {}))
        sink.log(LogEvent(20, LogEventMeta("-_x", "x"), None, 0.0, {}))
        assert sink.flush(WAIT), sink.stats()
        assert [index for index, _ in bulk.documents] == ["unnamed", "x"]

    def test_pipeline_and_key(self, receiver: Receiver, bulk: Bulk, make_sink: Any) -> None:
        bulk.authorization = f"ApiKey {base64.b64encode(b'id:key').decode()}"
        for api_key in ("id:key", base64.b64encode(b"id:key").decode()):
            sink = make_sink(receiver.url, api_key=api_key, pipeline="geo ip")
            sink.log(make_event(0))
            assert sink.flush(WAIT)
        assert [request.query["pipeline"] for request in receiver.requests] == ["geo ip", "geo ip"]
        assert receiver.requests[0].query["filter_path"] == "errors,items.*.status,items.*.error"


class TestAnswers:
    def test_what_a_mapping_refuses_is_dead_lettered_and_the_rest_delivered(
        self, receiver: Receiver, bulk: Bulk, make_sink: Any, tmp_path: Path
    ) -> None:
        sink = make_sink(receiver.url, dead_letter=tmp_path / "dead.jsonl", batch_max_age=600.0)
        events = [make_event(number, amount=1.5 if number % 7 else {"currency": "EUR"}) for number in range(1, 50)]
        log_all(sink, events)
        assert not sink.flush(WAIT)
        stats = sink.stats()
        assert (stats.delivered, stats.dead_lettered, stats.pending) == (42, 7, 0)
        letters = [json.loads(line) for line in (tmp_path / "dead.jsonl").read_text().splitlines()]
        assert {letter["payload"]["number"] % 7 for letter in letters} == {0}
        error = letters[0]["payload"]["_dead_letter"]["error"]
        assert error.startswith("400 document_parsing_exception: ")
        assert "payload.amount" in error
        assert len(receiver.requests) < 7  # nothing was split to find them

    def test_what_is_there_already_is_delivered(self, receiver: Receiver, bulk: Bulk, make_sink: Any) -> None:
        sink = make_sink(receiver.url, batch_max_age=600.0)
        receiver.script(LOSE, LOSE)
        log_all(sink, make_events(20))
        assert sink.flush(WAIT), sink.stats()
        check_arrived(bulk.read, 20, exactly_once=True)
        assert sink.stats().delivered == 20
        assert sink.stats().retries >= 2

    def test_a_busy_node_gets_the_rest_again(self, receiver: Receiver, bulk: Bulk, make_sink: Any) -> None:
        bulk.rejected = 37
        sink = make_sink(receiver.url)
        log_all(sink, make_events(30))
        assert sink.flush(WAIT), sink.stats()
        check_arrived(bulk.read, 30, exactly_once=True, in_order=False)
        assert "429 es_rejected_execution_exception" in sink.stats().last_error

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (403, "cluster_block_exception"),
            (429, "cluster_block_exception"),
            (404, "index_not_found_exception"),
            (403, "security_exception"),
            (503, "unavailable_shards_exception"),
        ],
    )
    def test_an_index_that_takes_nothing_for_a_while_loses_nothing(
        self, receiver: Receiver, bulk: Bulk, make_sink: Any, status: int, kind: str
    ) -> None:
        bulk.blocked["logs-shop-default"] = (status, kind)
        sink = make_sink(receiver.url)
        log_all(sink, make_events(30))
        wait_until(lambda: sink.stats().retries > 2, "it is tried again")
        assert f"{status} {kind}" in sink.stats().last_error
        assert sink.stats().pending == 30
        del bulk.blocked["logs-shop-default"]
        assert sink.flush(WAIT)
        check_arrived(bulk.read, 30, exactly_once=True)

    def test_an_answer_that_is_none_is_no_confirmation(self, receiver: Receiver, bulk: Bulk, make_sink: Any) -> None:
        sink = make_sink(receiver.url)
        receiver.script(
            Answer(200, "<html>welcome</html>"),
            Answer(200, {"errors": False, "items": []}),
            Answer(200, {"errors": False}),
            Answer(200, b"\xff"),
        )
        sink.log(make_event(0))
        assert sink.flush(WAIT)
        check_arrived(bulk.read, 1, exactly_once=True)
        assert sink.stats().retries == 4
        assert "bulk interface" in sink.stats().last_error

    def test_errors_of_all_shapes_are_told(self, receiver: Receiver, bulk: Bulk, make_sink: Any) -> None:
        sink = make_sink(receiver.url)
        cause = {"type": "illegal_argument_exception", "reason": "For input string"}
        for error in (
            "an old\ncluster",
            {"type": "a", "reason": "b" * 500},
            {"type": "mapper_parsing_exception", "reason": None, "caused_by": cause},
        ):
            receiver.script(Answer(200, {"errors": True, "items": [{"create": {"status": 400, "error": error}}]}))
            sink.log(make_event(0))
            sink.flush(WAIT)
            assert sink.stats().last_error.startswith("LogDeliveryPartialError: 400 ")
        assert sink.stats().dropped == {"refused": 3}
        assert "For input string" in sink.stats().last_error

    def test_a_batch_that_is_too_large_is_split(self, receiver: Receiver, bulk: Bulk, make_sink: Any) -> None:
        receiver.max_body = 20_000
        sink = make_sink(receiver.url, batch_max_age=600.0)
        log_all(sink, make_events(200))
        assert sink.flush(WAIT)
        check_arrived(bulk.read, 200, exactly_once=True)
        assert 413 in receiver.statuses


class TestOptions:
    @pytest.mark.parametrize("scheme", ["elasticsearch", "opensearch"])
    def test_the_names_are_the_same_by_keyword_mapping_and_url(
        self, receiver: Receiver, bulk: Bulk, scheme: str
    ) -> None:
        bulk.authorization = "Basic c2hvcDpwQHNz"
        host = f"127.0.0.1:{receiver.port}"
        by_keyword, close = ElasticsearchLogSink.create(
            url=f"http://{host}", index="logs-a", username="shop", password="p@ss", compression="gzip"
        )
        by_mapping = resolve_sink(
            {
                "class": "mvx_logger.sinks.elasticsearch.ElasticsearchLogSink",
                "url": f"http://{host}",
                "index": "logs-a",
                "username": "shop",
                "password": "p@ss",
                "compression": "gzip",
            }
        )
        by_url = sink_from_url(f"{scheme}://shop:p%40ss@{host}/logs-a?compression=gzip")
        for sink in (by_keyword, by_mapping.sink, by_url):
            sink.log(make_event(0))
            assert sink.flush(WAIT), sink.stats()
        close()
        by_mapping.release()
        by_url.close()
        assert {index for index, _ in bulk.documents} == {"logs-a"}
        assert len(bulk.documents) == 3

    def test_secrets_are_shown_nowhere(
        self, receiver: Receiver, bulk: Bulk, make_sink: Any, selflog_reports: list[selflog.SelfLogReport]
    ) -> None:
        descriptor = ElasticsearchLogSink.build_descriptor(url=receiver.url, api_key="geheim")
        assert descriptor.resource_key == (receiver.url, "logs-{time:%Y.%m.%d}")
        bulk.authorization = "ApiKey other"
        sink = make_sink(receiver.url, api_key="geheim", shutdown_timeout=0.1)
        sink.log(make_event(0))
        wait_until(lambda: sink.stats().retries > 0, "it is refused")
        sink.close()
        told = [descriptor, sink, sink.stats(), selflog_reports]
        assert not [text for text in map(repr, told) if "geheim" in text]
        assert "401" in sink.stats().last_error


class TestTrouble:
    def test_events_survive_a_server_that_is_killed(self, tmp_path: Path, make_sink: Any) -> None:
        with ReceiverServer(tmp_path, "elasticsearch_receiver:Bulk") as server:
            survive(make_sink(server.url), server.read, server.restart, exactly_once=True, times=2)

    @pytest.mark.slow
    def test_events_survive_a_server_that_is_frozen(self, tmp_path: Path, make_sink: Any) -> None:
        with ReceiverServer(tmp_path, "elasticsearch_receiver:Bulk") as server:
            sink = make_sink(server.url, delivery_timeout=1.0)

            def disturb() -> None:
                server.freeze()
                wait_until(lambda: sink.stats().retries > 0, "it is noticed")
                server.thaw()

            survive(sink, server.read, disturb, exactly_once=True)

    def test_events_survive_dropped_connections_and_lost_answers(
        self, receiver: Receiver, bulk: Bulk, make_sink: Any
    ) -> None:
        with Proxy(receiver.port) as proxy:
            sink = make_sink(f"http://127.0.0.1:{proxy.port}", batch_max_size=50)

            def disturb() -> None:
                receiver.script(LOSE, 503, DROP, 429, LOSE)
                proxy.drop()
                wait_until(lambda: receiver.is_script_over, "the script is over")

            survive(sink, bulk.read, disturb, exactly_once=True, times=4, in_order=False)

    def test_events_survive_a_key_that_is_changed_and_back(
        self, receiver: Receiver, bulk: Bulk, make_sink: Any
    ) -> None:
        bulk.authorization = right = f"ApiKey {base64.b64encode(b'id:key').decode()}"
        sink = make_sink(receiver.url, api_key="id:key")

        def disturb() -> None:
            bulk.authorization = "ApiKey other"
            wait_until(lambda: sink.stats().retries > 1, "it is refused")
            bulk.authorization = right

        survive(sink, bulk.read, disturb, exactly_once=True)

    def test_events_survive_a_full_disk(self, receiver: Receiver, bulk: Bulk, make_sink: Any) -> None:
        sink = make_sink(receiver.url)

        def disturb() -> None:
            bulk.blocked["logs-shop-default"] = (429, "cluster_block_exception")
            wait_until(lambda: sink.stats().retries > 1, "it is noticed")
            del bulk.blocked["logs-shop-default"]

        survive(sink, bulk.read, disturb, exactly_once=True)

    def test_a_sink_starts_before_its_server_and_ends_without_it(self, make_sink: Any) -> None:
        port = find_free_port()
        sink = make_sink(f"http://127.0.0.1:{port}")
        log_all(sink, make_events(10))
        wait_until(lambda: sink.stats().retries > 0, "nobody is there")
        with Receiver(Bulk(), port=port) as receiver:
            assert sink.flush(WAIT)
            check_arrived(receiver.protocol.read, 10, exactly_once=True)
            other = make_sink(receiver.url, shutdown_timeout=0.2)
            receiver.always(HANG)
            other.log(make_event(0))
            wait_until(lambda: len(receiver.requests) > 1, "it has the request")
            start = time.monotonic()
            other.close()
            assert time.monotonic() - start < 10
            assert other.stats().dropped == {"shutdown": 1}
            sink.close()

    def test_a_forked_child_logs_too(self, receiver: Receiver, bulk: Bulk, make_sink: Any) -> None:
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
        check_arrived(bulk.read, 30, exactly_once=True, in_order=False)

    @pytest.mark.parametrize("kind", ["wrong_name", "expired", "self_signed"])
    def test_tls(self, certificates: Certificates, make_sink: Any, kind: str) -> None:
        with Receiver(Bulk(), certificate=getattr(certificates, kind)) as receiver:
            sink = make_sink(receiver.url, tls_ca=certificates.ca)
            log_all(sink, make_events(5))
            wait_until(lambda: sink.stats().retries > 1, "it is refused")
            assert "CERTIFICATE_VERIFY_FAILED" in sink.stats().last_error
            assert receiver.requests == []
            receiver.use_certificate(certificates.right)
            assert sink.flush(WAIT)
            check_arrived(receiver.protocol.read, 5, exactly_once=True)
            sink.close()


class TestAmongOthers:
    def test_the_recipe(self, receiver: Receiver, bulk: Bulk, tmp_path: Path) -> None:
        bulk.authorization = f"ApiKey {base64.b64encode(b'id:key').decode()}"
        recipe = load_recipe(
            "elasticsearch",
            {"localhost:9200": f"127.0.0.1:{receiver.port}", "refused.jsonl": str(tmp_path / "refused.jsonl")},
        )
        log_three_ways(recipe)
        documents = list(bulk.documents.values())
        assert [document["payload"]["number"] for document in documents] == [1, 2, 3]
        assert [document["log"]["logger"] for document in documents] == ["shop.legacy", "shop.web", "shop.orders"]

    def test_it_composes(self, receiver: Receiver, bulk: Bulk) -> None:
        sink, close = ElasticsearchLogSink.create(url=receiver.url, **PATIENT)
        memory = MemoryLogSink()
        composed = FanOutSink(FilterSink(FallbackSink(sink, memory), min_level=20), memory)
        log_all(composed, [LogEvent(10, LogEventMeta(None, "low"), None, 0.0, {}), *make_events(3)])
        assert composed.flush(WAIT)
        check_arrived(bulk.read, 3, exactly_once=True)
        close()
