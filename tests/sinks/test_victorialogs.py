"""Events in VictoriaLogs, as a strict receiver takes them."""

from __future__ import annotations

import json
from typing import Any

from destinations import PATIENT, make_event, make_events, make_rich_events
from http_receiver import Receiver
from mvx_logger import LogEvent, LogEventMeta, MemoryLogSink
from mvx_logger.formats.json import decode_event, encode_event
from mvx_logger.sinks.victorialogs import VictoriaLogsSink
from preset_receivers import VictoriaInsert
from servers import WAIT, wait_until


def write(events: list[LogEvent], receiver: Receiver, **options: Any) -> list[dict[str, Any]]:
    sink, close = VictoriaLogsSink.create(url=receiver.url, **{**PATIENT, **options})
    for event in events:
        sink.log(event)
    assert sink.flush(timeout=WAIT), sink.stats()
    close()
    return list(receiver.protocol.records)


class TestWhatArrives:
    def test_every_field(self) -> None:
        """The event's document, with its message where VictoriaLogs wants it, its id and the fields."""
        events = make_rich_events()
        with Receiver(VictoriaInsert()) as receiver:
            records = write(events, receiver, fields={"service": "shop", "host": "web-1"})
            assert receiver.protocol.ignored == 0
        for event, record in zip(events, records, strict=True):
            line = record["line"]
            assert line.pop("_msg") == (event.message or event.meta.event_name)
            assert len(line.pop("delivery_id")) == 36
            assert (line.pop("service"), line.pop("host")) == ("shop", "web-1")
            assert record["stream"] == {"service": "shop", "host": "web-1"}
            if event.message is not None:
                line["message"] = event.message
            assert decode_event(json.dumps(line)) == decode_event(encode_event(event))

    def test_strange_times_and_names(self) -> None:
        """A time that cannot be told, a name that is empty: none is dropped on the way."""
        events = [
            LogEvent(20, LogEventMeta("shop", "far"), None, 1e300, {}),
            LogEvent(20, LogEventMeta("shop", ""), None, 1.0, {}),
            LogEvent(20, LogEventMeta("shop", "bad \ud800"), None, 1.0, {"x": b"\xff"}),
        ]
        with Receiver(VictoriaInsert()) as receiver:
            records = write(events, receiver)
            assert receiver.protocol.ignored == 0
        assert [record["line"]["_msg"] for record in records] == ["far", "-", "bad \\ud800"]


class TestOptions:
    def test_query_and_headers(self) -> None:
        """Stream fields are in the query, the tenant is in headers."""
        protocol = VictoriaInsert()
        protocol.tenant = ("7", "8")
        with Receiver(protocol) as receiver:
            (record,) = write(
                [make_event(1, shop="a")],
                receiver,
                stream_fields=["app"],
                fields=["app=shop", "shop={payload.shop}"],
                account_id=7,
                project_id=8,
            )
            assert protocol.query == {"_stream_fields": "app", "_time_field": "timestamp", "_msg_field": "_msg"}
        assert record["stream"] == {"app": "shop"}
        assert record["line"]["shop"] == "a"


def test_a_line_that_is_too_long() -> None:
    """VictoriaLogs would drop it without a word: the sink refuses it, and delivers the others."""
    dead = MemoryLogSink()
    with Receiver(VictoriaInsert()) as receiver:
        sink, close = VictoriaLogsSink.create(url=receiver.url, **PATIENT, dead_letter=dead)
        for event in [*make_events(10), make_event(99, text="x" * 300_000), *make_events(10, start=10)]:
            sink.log(event)
        wait_until(lambda: not sink.stats().pending, "all is settled")
        assert "VictoriaLogs takes 262144" in sink.stats().last_error
        close()
        assert [event.meta.event_name for event in dead.events] == ["order.99"]
        assert [name for _, name in receiver.protocol.read()] == [f"order.{number}" for number in range(20)]
        assert receiver.protocol.ignored == 0
