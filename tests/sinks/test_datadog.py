"""Events in Datadog, as a strict receiver takes them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from destinations import PATIENT, make_event, make_rich_events
from http_receiver import Receiver
from mvx_logger import LogEvent, LogEventBatch, LogEventMeta
from mvx_logger.formats.json import decode_event, encode_event
from mvx_logger.model import LogEventOrigin, LogStack
from mvx_logger.sinks.datadog import DatadogLogSink
from preset_receivers import DatadogIntake, loads
from servers import WAIT


def write(events: list[LogEvent], receiver: Receiver, **options: Any) -> list[dict[str, Any]]:
    sink, close = DatadogLogSink.create(url=receiver.url, api_key=DatadogIntake.key, **{**PATIENT, **options})
    for event in events:
        sink.log(event)
    assert sink.flush(timeout=WAIT), sink.stats()
    close()
    return [record["log"] for record in receiver.protocol.records]


class TestWhatArrives:
    def test_every_field(self) -> None:
        """Each is an attribute, a standard one where there is one."""
        events = make_rich_events()
        with Receiver(DatadogIntake()) as receiver:
            logs = write(events, receiver, service="shop", hostname="web-1", source="shop-log")
        statuses = ["debug", "warning", "critical", "info", "error"]
        for event, log, status in zip(events, logs, statuses, strict=True):
            plain = decode_event(encode_event(event))
            assert (log["service"], log["hostname"], log["ddsource"]) == ("shop", "web-1", "shop-log")
            assert log["status"] == status
            assert log["timestamp"] == int(event.timestamp * 1e6) // 1000
            assert log["message"] == (event.message or event.meta.event_name)
            assert len(log["delivery_id"]) == 36
            assert log["evt"] == {
                "name": event.meta.event_name,
                **({} if event.event_outcome is None else {"outcome": event.event_outcome}),
            }
            assert log.get("entity_id") == event.meta.entity_id
            assert log.get("payload", {}) == plain.payload
            logger = log.get("logger", {})
            assert logger.get("name") == event.meta.event_namespace
            assert logger.get("file") == event.meta.source_path
            assert logger.get("line") == event.meta.source_line
            assert logger.get("method_name") == event.meta.source_func
            if event.exception is not None:
                exception = event.exception
                assert log["error"] == {"kind": exception.type, "message": exception.message, "stack": exception.text}
        assert (logs[3]["level_name"], logs[3]["level_no"]) == ("Level 25", 25)

    def test_traces_threads_and_stacks(self) -> None:
        """The ids of a trace are where Datadog looks for them."""
        event = LogEvent(
            20,
            LogEventMeta("shop", "e"),
            None,
            1_780_000_000.0,
            {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "span_id": "00f067aa0ba902b7", "status": 404},
            stack=LogStack("Stack:\n  here"),
            origin=LogEventOrigin(system="logging", thread_name="worker"),
        )
        with Receiver(DatadogIntake()) as receiver:
            (log,) = write([event], receiver)
        assert (log["trace_id"], log["span_id"]) == (event.payload["trace_id"], event.payload["span_id"])
        assert log["status"] == "info"
        assert log["payload"]["status"] == 404
        assert log["logger"]["thread_name"] == "worker"
        assert log["stack"]["text"] == "Stack:\n  here"

    def test_tags(self) -> None:
        """Templates; what would end a tag is replaced."""
        with Receiver(DatadogIntake()) as receiver:
            (log,) = write([make_event(1, shop="a,b")], receiver, tags={"env": "prod", "shop": "{payload.shop}"})
        assert log["ddtags"] == "env:prod,shop:a_b"

    @pytest.mark.parametrize("level", [-1, 0, 5, 15, 35, 55, 10**6])
    def test_levels(self, level: int) -> None:
        """Each has a status."""
        with Receiver(DatadogIntake()) as receiver:
            (log,) = write([LogEvent(level, LogEventMeta(None, "e"), None, 1.0, {})], receiver)
        assert log["status"] == ("debug" if level < 20 else "warning" if level < 40 else "critical")
        assert log["level_no"] == level

    @given(payload=st.dictionaries(st.text(), st.text() | st.binary() | st.floats()), name=st.text(), time=st.floats())
    def test_any_event(self, payload: dict[str, Any], name: str, time: float) -> None:
        """Whatever an event holds, it is a log."""
        sink = DatadogLogSink.__new__(DatadogLogSink)
        sink._source, sink._service, sink._program = "python", None, "shop"
        from mvx_logger.formats.template import EventTemplate

        sink._hostname, sink._tags = EventTemplate("{namespace}"), {}
        batch = LogEventBatch([LogEvent(20, LogEventMeta(name, name, name), name, time, payload)])
        batch._ids = ("id",)
        (log,) = loads(sink._encode_batch(batch))
        assert log["delivery_id"] == "id"
        assert type(log["timestamp"]) is int
        assert len(log.get("payload", {})) == len(payload)


class TestOptions:
    def test_site(self) -> None:
        """It says where the intake is."""
        from mvx_logger.bridge.config import plan_sink

        plan = plan_sink("datadog://:KEY@us3.datadoghq.com?service=shop")
        assert plan.options == {"site": "us3.datadoghq.com", "api_key": "KEY", "service": "shop"}
        sink, close = DatadogLogSink.create(api_key="k", site="datadoghq.eu")
        assert sink._make_url() == "https://http-intake.logs.datadoghq.eu/api/v2/logs"
        close()
