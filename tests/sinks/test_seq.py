"""Events in Seq, as a strict receiver takes them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from destinations import PATIENT, make_event, make_events, make_rich_events
from http_receiver import Receiver
from mvx_logger import LogEvent, LogEventMeta, MemoryLogSink
from mvx_logger.formats.document import encode_documents
from mvx_logger.formats.json import decode_event, encode_event, format_timestamp
from mvx_logger.model import LogEventOrigin, LogStack
from mvx_logger.sinks.seq import SeqLogSink, make_clef
from preset_receivers import SeqIngest, loads
from servers import WAIT, wait_until

TAKEN = ["Event", "@t", "@@t", "payload.Event", "payload.payload.Event"]


def write(events: list[LogEvent], receiver: Receiver, **options: Any) -> list[dict[str, Any]]:
    sink, close = SeqLogSink.create(url=receiver.url, **{**PATIENT, **options})
    for event in events:
        sink.log(event)
    assert sink.flush(timeout=WAIT), sink.stats()
    close()
    return [record["event"] for record in receiver.protocol.records]


def encode(event: LogEvent) -> dict[str, Any]:
    (line,) = encode_documents(make_clef, [event], ["id"])
    assert b"\n" not in line
    found: dict[str, Any] = loads(line)
    return found


class TestWhatArrives:
    def test_every_field(self) -> None:
        """Reified properties, the event's own, and those of the payload."""
        events = make_rich_events()
        with Receiver(SeqIngest()) as receiver:
            found = write(events, receiver)
        levels = ["Debug", "Warning", "Fatal", "Information", "Error"]
        for event, clef, level in zip(events, found, levels, strict=True):
            plain = decode_event(encode_event(event))
            assert clef["@t"] == format_timestamp(event.timestamp)
            assert clef["@m"] == (event.message or event.meta.event_name)
            assert clef["@l"] == level
            assert len(clef["DeliveryId"]) == 36
            assert clef.get("SourceContext") == event.meta.event_namespace
            assert clef["Event"] == event.meta.event_name
            assert clef.get("EntityId") == event.meta.entity_id
            assert clef.get("Outcome") == event.event_outcome
            assert {key: clef[key] for key in plain.payload} == plain.payload
            assert clef.get("@x") == (None if event.exception is None else event.exception.text)
            if event.meta.source_path is not None:
                assert clef["Source"]["line"] == event.meta.source_line
        assert (found[3]["Level"], found[3]["LevelNumber"]) == ("Level 25", 25)

    def test_names_that_are_taken(self) -> None:
        """Keys that begin with @ are escaped; those of the sink's own properties get a prefix; none is lost."""
        payload = {"@t": 1, "@@t": 2, "Event": 3, "payload.Event": 4, "DeliveryId": 5, "@": 6}
        clef = encode(LogEvent(20, LogEventMeta("n", "e"), None, 1.0, payload))
        assert clef["@@t"] == 1
        assert clef["@@@t"] == 2
        assert clef["@@"] == 6
        assert clef["Event"] == "e"
        assert clef["DeliveryId"] == "id"
        assert sorted(v for k, v in clef.items() if k.startswith("payload.")) == [3, 4, 5]

    def test_event_types(self) -> None:
        """One for a name, whatever the message says."""
        one = encode(LogEvent(20, LogEventMeta("n", "order %s"), None, 1.0, {}, message="order 1"))
        two = encode(LogEvent(20, LogEventMeta("n", "order %s"), None, 1.0, {}, message="order 2"))
        other = encode(LogEvent(20, LogEventMeta("n", "order"), None, 1.0, {}))
        assert one["@i"] == two["@i"] != other["@i"]
        assert one["@m"] == "order 1"

    def test_traces_and_stacks(self) -> None:
        """The ids of a trace are where Seq looks for them."""
        trace = {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "span_id": "00f067aa0ba902b7"}
        clef = encode(
            LogEvent(
                20,
                LogEventMeta("n", "e"),
                None,
                1.0,
                trace,
                stack=LogStack("Stack:\n  here"),
                origin=LogEventOrigin(system="logging", thread_name="worker"),
            )
        )
        assert (clef["@tr"], clef["@sp"]) == tuple(trace.values())
        assert clef["Stack"] == "Stack:\n  here"
        assert clef["Origin"]["thread_name"] == "worker"
        assert "@tr" not in encode(LogEvent(20, LogEventMeta("n", "e"), None, 1.0, {"trace_id": "request 7"}))

    @pytest.mark.parametrize(
        ("level", "wanted"), [(-1, "Verbose"), (5, "Verbose"), (15, "Debug"), (35, "Warning"), (99, "Fatal")]
    )
    def test_levels(self, level: int, wanted: str) -> None:
        """Those that Seq knows."""
        clef = encode(LogEvent(level, LogEventMeta("n", "e"), None, 1.0, {}))
        assert (clef["@l"], clef["LevelNumber"]) == (wanted, level)

    @given(
        payload=st.dictionaries(st.text() | st.sampled_from(TAKEN), st.text() | st.floats()),
        name=st.text(),
        time=st.floats(),
    )
    def test_any_event(self, payload: dict[str, Any], name: str, time: float) -> None:
        """Whatever an event holds, it is CLEF, and no key is lost."""
        clef = encode(LogEvent(20, LogEventMeta(name, name, name), name, time, payload, message=name))
        assert all(key in SeqIngest.reified or not key.startswith("@") or key.startswith("@@") for key in clef)
        own = {"@t", "@m", "@l", "@i", "DeliveryId", "SourceContext", "Event", "EntityId", "Outcome"}
        assert own <= set(clef)
        assert len(clef) == len(own) + len(payload)


class TestOptions:
    def test_path(self) -> None:
        """Another path of the API; a path before it stays."""
        sink, close = SeqLogSink.create(url="http://localhost:1/seq/", path="/api/events/raw")
        assert sink._make_url() == "http://localhost:1/seq/api/events/raw"
        close()


def test_too_large() -> None:
    """Seq refuses a request for one event: that one is found, the others are delivered."""
    dead = MemoryLogSink()
    with Receiver(SeqIngest()) as receiver:
        sink, close = SeqLogSink.create(url=receiver.url, **PATIENT, dead_letter=dead)
        for event in [*make_events(10), make_event(99, text="x" * 300_000), *make_events(10, start=10)]:
            sink.log(event)
        wait_until(lambda: not sink.stats().pending, "all is settled")
        close()
        assert [event.meta.event_name for event in dead.events] == ["order.99"]
        assert [name for _, name in receiver.protocol.read()] == [f"order.{number}" for number in range(20)]
