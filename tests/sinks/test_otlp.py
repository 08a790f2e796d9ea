"""`OtlpLogSink`, at a receiver that reads OTLP with ``opentelemetry-proto``. For the records see `test_otlp_format`."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from destinations import PATIENT, make_event, make_events, make_rich_events
from http_receiver import Answer, Receiver
from mvx_logger import (
    LogEvent,
    MemoryLogSink,
    SinkHandler,
    __version__,
    configure_log_context,
)
from mvx_logger.ambient import capture
from mvx_logger.selflog import SelfLogReport
from mvx_logger.sinks.otlp import OtlpLogSink, make_resource, parse_partial_success
from preset_receivers import OtlpCollector, read_attributes
from servers import WAIT, wait_until

TRACER = TracerProvider().get_tracer("tests")
both = pytest.mark.parametrize("encoding", ["protobuf", "json"])


def create(receiver: Receiver, **options: Any) -> Any:
    return OtlpLogSink.create(**{"url": receiver.url, **PATIENT, **options})


def write(events: list[LogEvent], receiver: Receiver, **options: Any) -> list[Any]:
    """The records, as they were read."""
    sink, close = create(receiver, **options)
    for event in events:
        sink.log(event)
    assert sink.flush(timeout=WAIT), sink.stats()
    close()
    return read_records(receiver)


def read_records(receiver: Receiver) -> list[Any]:
    return [
        record
        for request in receiver.protocol.requests
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]


@both
class TestWhatArrives:
    def test_every_field(self, encoding: str) -> None:
        """All that the events hold: the record of each is looked at in `test_otlp_format`."""
        events = make_rich_events()
        with Receiver(OtlpCollector()) as receiver:
            records = write(events, receiver, encoding=encoding)
            kind = "application/json" if encoding == "json" else "application/x-protobuf"
            assert receiver.protocol.kind == kind
        found = {record.event_name: record for record in records}
        for event in events:
            record = found[event.meta.event_name]
            attributes = read_attributes(record.attributes)
            assert {key: attributes[key] for key in event.payload} == event.payload
            assert len(attributes["log.record.uid"]) == 36
            assert record.body.string_value == (event.message or event.meta.event_name)

    def test_resource(self, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is known, what the environment says and what was given."""
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=blue%20team, service.name=theirs,broken")
        with Receiver(OtlpCollector()) as receiver:
            write([make_event(1)], receiver, encoding=encoding, service_name="shop", resource={"n": 1, "tags": ["a"]})
            (request,) = receiver.protocol.requests
        (resource_logs,) = request.resource_logs
        found = read_attributes(resource_logs.resource.attributes)
        assert found.pop("host.name")
        assert found == {
            "service.name": "shop",
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "mvx-logger",
            "telemetry.sdk.version": __version__,
            "team": "blue team",
            "n": 1,
            "tags": ["a"],
        }
        assert resource_logs.scope_logs[0].scope.name == "shop.orders"


class TestTraces:
    def test_of_the_caller(self) -> None:
        """The span is that of the thread or task that logs, not the worker's; whichever way it logs."""
        with Receiver(OtlpCollector()) as receiver:
            sink, close = create(receiver)
            ctx = configure_log_context("shop", log_sink=sink)
            logger = logging.getLogger("shop.otlp")
            handler = SinkHandler(sink)
            logger.addHandler(handler)
            spans: dict[str, Any] = {}

            def log(name: str, emit: Any) -> None:
                with TRACER.start_as_current_span(name) as span:
                    spans[name] = span.get_span_context()
                    emit(name)

            async def in_task(name: str) -> None:
                log(name, ctx.log_info_event)

            async def in_tasks() -> None:
                await asyncio.gather(in_task("task 1"), in_task("task 2"))

            try:
                log("native", ctx.log_info_event)
                log("logging", logger.warning)
                thread = threading.Thread(target=log, args=("thread", ctx.log_info_event))
                thread.start()
                thread.join()
                asyncio.run(in_tasks())
                ctx.log_info_event("none")
            finally:
                logger.removeHandler(handler)
            assert sink.flush(timeout=WAIT), sink.stats()
            close()
            records = {record.event_name: record for record in read_records(receiver)}
        assert len(spans) == 5
        for name, span in spans.items():
            record = records[name]
            assert record.trace_id == span.trace_id.to_bytes(16, "big")
            assert record.span_id == span.span_id.to_bytes(8, "big")
            assert record.flags == int(span.trace_flags)
            assert not {"trace_id", "span_id", "trace_flags"} & set(read_attributes(record.attributes))
        assert not records["none"].trace_id

    def test_while_it_lives(self) -> None:
        """The switch is on from the start to the end of the sink, and not at all where it is not wanted."""
        with Receiver(OtlpCollector()) as receiver:
            assert not capture.active
            sink, close = create(receiver)
            assert capture.active
            close()
            assert not capture.active
            sink.start().wait()
            assert capture.active
            sink.close()
            sink, close = create(receiver, trace_context=False)
            assert not capture.active
            close()


class TestOptions:
    @pytest.mark.parametrize("path", ["", "/", "/v1/logs", "/v1/logs/"])
    def test_the_path(self, path: str) -> None:
        """It is added where it is missing."""
        sink, close = OtlpLogSink.create(url=f"http://localhost:1{path}")
        assert sink._make_url().rstrip("/") == "http://localhost:1/v1/logs"
        close()

    def test_service_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The nearest word counts."""
        monkeypatch.setattr(sys, "argv", ["/srv/shop/run.py"])
        assert make_resource(None, {})["service.name"] == "unknown_service:run"
        monkeypatch.setattr(sys, "argv", ["/srv/shop/__main__.py"])
        assert make_resource(None, {})["service.name"] == "unknown_service:shop"
        monkeypatch.setattr(sys, "argv", ["-c"])
        assert make_resource(None, {})["service.name"] == "unknown_service:python"
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=one")
        assert make_resource(None, {})["service.name"] == "one"
        monkeypatch.setenv("OTEL_SERVICE_NAME", "two")
        assert make_resource(None, {})["service.name"] == "two"
        assert make_resource(None, {"service.name": "three"})["service.name"] == "three"
        assert make_resource("four", {"service.name": "three"})["service.name"] == "four"

    def test_by_url(self) -> None:
        """Attributes of the resource fit into a URL."""
        from mvx_logger.bridge.config import sink_from_url

        with Receiver(OtlpCollector()) as receiver:
            server = receiver.url.replace("http://", "otlp://")
            sink = sink_from_url(f"{server}?encoding=json&service_name=shop&resource=a=1,b=two&compression=zstd")
            sink.log(make_event(1))
            assert sink.flush(timeout=WAIT), sink.stats()
            sink.close()
            (request,) = receiver.protocol.requests
        found = read_attributes(request.resource_logs[0].resource.attributes)
        assert (found["service.name"], found["a"], found["b"]) == ("shop", "1", "two")


class TestAnswers:
    @both
    def test_partial_success(self, encoding: str, selflog_reports: list[SelfLogReport]) -> None:
        """Nobody knows which records were rejected: they are counted, told, and not sent again."""
        protocol = OtlpCollector()
        protocol.reject = ("order.3", "order.5")
        with Receiver(protocol) as receiver:
            sink, close = create(receiver, encoding=encoding, batch_max_age=600.0)
            for event in make_events(10):
                sink.log(event)
            assert sink.flush(timeout=WAIT), sink.stats()
            close()
            assert sink.rejected == 2
            assert sink.stats().delivered == 10
            assert len(read_records(receiver)) == 10
        (report,) = [report for report in selflog_reports if report.kind == "otlp_rejected"]
        assert (report.fields["rejected"], report.fields["error"]) == (2, "not here")

    @both
    def test_all_rejected(self, encoding: str) -> None:
        """Then it is known: each is dead-lettered."""
        protocol = OtlpCollector()
        protocol.reject = tuple(f"order.{number}" for number in range(5))
        dead = MemoryLogSink()
        with Receiver(protocol) as receiver:
            sink, close = create(receiver, encoding=encoding, dead_letter=dead, batch_max_size=5, batch_max_age=600.0)
            sink.log(make_event(99))
            assert sink.flush(timeout=WAIT)
            for event in make_events(5):
                sink.log(event)
            wait_until(lambda: not sink.stats().pending, "all is settled")
            close()
            assert sorted(event.payload["number"] for event in dead.events) == list(range(5))
            assert sink.rejected == 0
            assert len(read_records(receiver)) == 6

    def test_one_at_a_time(self) -> None:
        """With batches of one, every record is accounted for."""
        protocol = OtlpCollector()
        protocol.reject = ("order.3", "order.5")
        dead = MemoryLogSink()
        with Receiver(protocol) as receiver:
            sink, close = create(receiver, dead_letter=dead, batch_max_size=1)
            for event in make_events(8):
                sink.log(event)
            wait_until(lambda: not sink.stats().pending, "all is settled")
            close()
            assert [event.payload["number"] for event in dead.events] == [3, 5]
            assert sink.stats().delivered == 6

    def test_a_warning(self, selflog_reports: list[SelfLogReport]) -> None:
        """A collector that has something to say is passed on."""
        with Receiver(OtlpCollector()) as receiver:
            receiver.script(Answer(200, {"partialSuccess": {"errorMessage": "deprecated"}}))
            sink, close = create(receiver)
            sink.log(make_event(1))
            assert sink.flush(timeout=WAIT), sink.stats()
            close()
        assert [report.fields["error"] for report in selflog_reports if report.kind == "otlp_warning"] == ["deprecated"]

    @pytest.mark.parametrize("status", [429, 502, 503, 504])
    def test_retryable(self, status: int) -> None:
        """Those that the specification names: the same request comes again."""
        with Receiver(OtlpCollector()) as receiver:
            receiver.script(Answer(status, b"\x12\x04busy", {"Content-Type": "application/x-protobuf"}))
            sink, close = create(receiver, batch_max_age=600.0)
            for event in make_events(5):
                sink.log(event)
            assert sink.flush(timeout=WAIT), sink.stats()
            close()
            assert receiver.requests[0].body == receiver.requests[1].body
            assert str(status) in sink.stats().last_error
            assert "\x12" not in sink.stats().last_error

    @pytest.mark.parametrize("status", [400, 408, 413, 415, 500, 501])
    def test_not_retryable(self, status: int) -> None:
        """Those that it does not: the same request is never sent again, parts of it find the record that is meant."""
        with Receiver(OtlpCollector()) as receiver:
            usual = receiver.protocol.handle

            def refuse(request: Any) -> Answer:
                return Answer(status, "no") if b"order.3" in request.body else usual(request)

            receiver.protocol.handle = refuse  # type: ignore[method-assign]
            sink, close = create(receiver)
            for event in make_events(8):
                sink.log(event)
            sink.flush(timeout=WAIT)
            assert not sink.stats().pending
            close()
            assert sink.stats().dropped == {"refused": 1}
            assert sink.stats().delivered == 7
            bodies = [request.body for request in receiver.requests]
            assert len(set(bodies)) == len(bodies)

    @pytest.mark.parametrize(
        ("kind", "body"),
        [
            ("application/x-protobuf", b"\xff\xff"),
            ("application/json", b"{"),
            ("text/html", b"<html>"),
            ("application/json", b"{}"),
            ("", b""),
        ],
    )
    def test_answers_that_say_nothing(self, kind: str, body: bytes) -> None:
        """A status of the class 2xx means that it is there."""
        assert parse_partial_success({"Content-Type": kind}, body) == (0, "")

    def test_numbers_in_json(self) -> None:
        """64-bit numbers are text in the JSON of protobuf; some write them as numbers."""
        for number in ('"2"', "2"):
            body = b'{"partialSuccess":{"rejectedLogRecords":%s,"errorMessage":"no"}}' % number.encode()
            assert parse_partial_success({"Content-Type": "application/json"}, body) == (2, "no")
