"""Events in Loki, as a strict receiver takes them."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from destinations import PATIENT, make_event, make_events, make_rich_events
from http_receiver import Receiver
from mvx_logger import LogEvent, LogEventBatch, LogEventMeta, MemoryLogSink
from mvx_logger.formats.json import decode_event, encode_event
from mvx_logger.sinks.http_fields import parse_templates
from mvx_logger.sinks.loki import LokiLogSink, encode_push
from preset_receivers import LokiPush, loads
from servers import WAIT, wait_until


def write(events: list[LogEvent], receiver: Receiver, **options: Any) -> list[dict[str, Any]]:
    sink, close = LokiLogSink.create(url=receiver.url, **{**PATIENT, **options})
    for event in events:
        sink.log(event)
    assert sink.flush(timeout=WAIT), sink.stats()
    close()
    return list(receiver.protocol.records)


def make_batch(events: list[LogEvent]) -> LogEventBatch:
    batch = LogEventBatch(events)
    batch._ids = tuple(f"id-{number}" for number in range(len(events)))
    return batch


class TestWhatArrives:
    def test_every_field_as_json(self) -> None:
        """The line is the event, with its id; time, labels and metadata are those of the event."""
        events = make_rich_events()
        with Receiver(LokiPush()) as receiver:
            records = write(events, receiver, labels={"service_name": "shop", "level": "{level}"})
        found = {record["name"]: record for record in records}
        for event in events:
            record = found[event.meta.event_name]
            document = loads(record["line"])
            delivery_id = document.pop("delivery_id")
            assert len(delivery_id) == 36
            assert decode_event(record["line"].replace(f'"delivery_id":"{delivery_id}",', "")) == decode_event(
                encode_event(event)
            )
            assert record["time"] == str(round(event.timestamp * 1e6) * 1000)
            assert record["stream"]["service_name"] == "shop"
            metadata = record["metadata"]
            assert metadata["delivery_id"] == delivery_id
            assert metadata.get("namespace") == event.meta.event_namespace
            assert metadata["event"] == event.meta.event_name
            assert metadata.get("entity_id") == event.meta.entity_id
        assert found["bare"]["stream"]["level"] == "debug"
        assert found["custom.level"]["stream"]["level"] == "level 25"

    def test_logfmt(self) -> None:
        """The other form of the line."""
        with Receiver(LokiPush()) as receiver:
            (record,) = write([make_event(7, text="two words")], receiver, line="logfmt")
        assert " event=order.7 " in record["line"]
        assert ' text="two words" ' in record["line"]
        assert record["line"].endswith(f" delivery_id={record['metadata']['delivery_id']}")

    def test_streams(self) -> None:
        """One for each combination of labels; within each, the order in which events were logged."""
        levels = [20, 40, 20, 30, 40, 20]
        events = [
            LogEvent(level, LogEventMeta("shop", f"e{number}"), None, 1_780_000_000.0, {})
            for number, level in enumerate(levels)
        ]
        templates = parse_templates("labels", {"app": "shop", "level": "{level}"}, {})
        body = loads(
            encode_push(make_batch(events), [event.meta.event_name.encode() for event in events], templates, None)
        )
        assert [(s["stream"]["level"], [v[1] for v in s["values"]]) for s in body["streams"]] == [
            ("error", ["e1", "e4"]),
            ("info", ["e0", "e2", "e5"]),
            ("warning", ["e3"]),
        ]
        assert all(len(value) == 2 for stream in body["streams"] for value in stream["values"])

    def test_labels_without_a_text(self) -> None:
        """Loki has no empty labels, and limits long ones."""
        with Receiver(LokiPush()) as receiver:
            records = write(
                [make_event(1), make_event(2, user="u" * 5_000)], receiver, labels=["user={payload.user}", "app=shop"]
            )
        assert [record["stream"]["user"] for record in records] == ["unknown", "u" * 512]

    def test_the_same_event_twice(self) -> None:
        """Two events that differ in nothing are two: their ids are in the line."""
        with Receiver(LokiPush()) as receiver:
            records = write([make_event(1), make_event(1)], receiver)
        assert len(records) == 2

    @given(
        names=st.lists(st.tuples(st.text(), st.text(), st.floats()), min_size=1, max_size=5),
        value=st.text() | st.binary() | st.floats() | st.none(),
    )
    def test_any_event(self, names: list[tuple[str, str, float]], value: Any) -> None:
        """Whatever events hold, it is a request that is well-formed."""
        events = [LogEvent(20, LogEventMeta(n, e, n), e, at, {"v": value, n: e}) for n, e, at in names]
        templates = parse_templates("labels", {"n": "{namespace}", "e": "{event}", "v": "{payload.v}"}, {})
        metadata = parse_templates("structured_metadata", {"n": "{namespace}", "v": "{payload.v}"}, {})
        lines = [encode_event(event) for event in events]
        body = loads(encode_push(make_batch(events), lines, templates, metadata))
        assert sum(len(stream["values"]) for stream in body["streams"]) == len(events)
        for stream in body["streams"]:
            assert all(stream["stream"].values())
            for time, line, found in stream["values"]:
                int(time)
                loads(line)
                assert all(type(text) is str for text in found.values())


class TestOptions:
    def test_tenant_and_metadata(self) -> None:
        """The tenant is in its header; the metadata is what was asked for."""
        protocol = LokiPush()
        protocol.tenant = "blue"
        with Receiver(protocol) as receiver:
            (record,) = write(
                [make_event(1, user={"id": "u-7"})],
                receiver,
                tenant="blue",
                structured_metadata={"user": "{payload.user.id}", "nothing": "{payload.nothing}"},
            )
            assert record["metadata"] == {"delivery_id": record["id"], "user": "u-7"}

    def test_no_metadata(self) -> None:
        """For a Loki that refuses it."""
        with Receiver(LokiPush()) as receiver:
            (record,) = write([make_event(1)], receiver, structured_metadata=[])
        assert record["metadata"] == {}

    def test_by_url(self) -> None:
        """Names with templates fit into a URL; an empty list is nothing."""
        from mvx_logger.bridge.config import sink_from_url

        with Receiver(LokiPush()) as receiver:
            server = receiver.url.replace("http://", "loki://")
            sink = sink_from_url(f"{server}?labels=app=shop,level={{level}}&structured_metadata=&line=logfmt")
            sink.log(make_event(1))
            assert sink.flush(timeout=WAIT), sink.stats()
            sink.close()
            (record,) = receiver.protocol.records
        assert record["stream"] == {"app": "shop", "level": "info"}
        assert not record["metadata"]


class TestRefused:
    def test_too_old(self) -> None:
        """Loki takes the others of a request, and says 400: the one that is too old is found, the others are there once."""
        protocol = LokiPush()
        protocol.oldest = 1_700_000_000 * 10**9
        dead = MemoryLogSink()
        old = LogEvent(20, LogEventMeta("shop", "old"), None, 1_600_000_000.0, {})
        events = [*make_events(10), old, *make_events(10, start=10)]
        with Receiver(protocol) as receiver:
            sink, close = LokiLogSink.create(url=receiver.url, **PATIENT, dead_letter=dead)
            for event in events:
                sink.log(event)
            wait_until(lambda: not sink.stats().pending, "all is settled")
            assert sink.stats().delivered == 20
            assert "too far behind" in sink.stats().last_error
            close()
            assert [event.meta.event_name for event in dead.events] == ["old"]
            assert [name for _, name in protocol.read()] == [f"order.{number}" for number in range(20)]

    def test_line_too_long(self) -> None:
        """It is given up on; the rest is delivered."""
        with Receiver(LokiPush()) as receiver:
            sink, close = LokiLogSink.create(url=receiver.url, **PATIENT)
            for event in (make_event(1), make_event(2, text="x" * 300_000), make_event(3)):
                sink.log(event)
            wait_until(lambda: not sink.stats().pending, "all is settled")
            assert sink.stats().dropped == {"refused": 1}
            assert [name for _, name in receiver.protocol.read()] == ["order.1", "order.3"]
            close()
