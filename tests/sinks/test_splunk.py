"""Events in Splunk's HTTP Event Collector, as a strict receiver takes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from destinations import PATIENT, check_arrived, make_event, make_events, make_rich_events
from http_receiver import LOSE, Answer, Receiver
from mvx_logger import LogEvent, LogEventBatch, LogEventMeta, MemoryLogSink
from mvx_logger.formats.json import decode_event, encode_event
from mvx_logger.formats.template import EventTemplate
from mvx_logger.sinks.splunk import SplunkLogSink, encode_hec
from preset_receivers import SplunkHec, loads
from servers import WAIT, wait_until

TOKEN = SplunkHec.token


def create(receiver: Receiver, **options: Any) -> Any:
    return SplunkLogSink.create(**{"url": receiver.url, "token": TOKEN, **PATIENT, **options})


class TestWhatArrives:
    def test_every_field(self) -> None:
        """The event is its JSON document; time, host and indexed fields stand beside it."""
        events = make_rich_events()
        with Receiver(SplunkHec()) as receiver:
            sink, close = create(receiver, host="web-1", source="shop", sourcetype="mvx", index="shop")
            for event in events:
                sink.log(event)
            assert sink.flush(timeout=WAIT), sink.stats()
            close()
            records = receiver.protocol.records
        assert len(records) == len(events)
        for event, record in zip(events, records, strict=True):
            found = record["event"]
            assert decode_event(json.dumps(found["event"])) == decode_event(encode_event(event))
            assert found["time"] == pytest.approx(event.timestamp, rel=0, abs=1e-6)
            assert (found["host"], found["source"], found["sourcetype"], found["index"]) == (
                "web-1",
                "shop",
                "mvx",
                "shop",
            )
            assert len(found["fields"]["delivery_id"]) == 36
            assert found["fields"].get("namespace") == event.meta.event_namespace
            assert found["fields"]["level"]

    def test_templates(self) -> None:
        """Index, source and fields may be of the event."""
        with Receiver(SplunkHec()) as receiver:
            sink, close = create(receiver, index="{payload.index|main}", fields=["user={payload.user}"], host=None)
            sink.log(make_event(1, index="shop", user="u-7"))
            sink.log(make_event(2))
            assert sink.flush(timeout=WAIT), sink.stats()
            close()
            one, two = (record["event"] for record in receiver.protocol.records)
        assert (one["index"], one["fields"]["user"]) == ("shop", "u-7")
        assert two["index"] == "main"
        assert "user" not in two["fields"]
        assert "host" not in one

    @given(
        events=st.lists(
            st.tuples(st.text(), st.floats(), st.text() | st.binary() | st.integers()), min_size=1, max_size=5
        )
    )
    def test_any_event(self, events: list[tuple[str, float, Any]]) -> None:
        """Whatever events hold, it is one object after the other."""
        made = [LogEvent(20, LogEventMeta(name, name), name, at, {"v": value}) for name, at, value in events]
        batch = LogEventBatch(made)
        batch._ids = tuple(map(str, range(len(made))))
        body = encode_hec(batch, {"source": EventTemplate("{event}")}, {"v": EventTemplate("{payload.v}")})
        lines = body.decode().split("\n")
        assert [loads(line)["fields"]["delivery_id"] for line in lines] == list(batch._ids)
        assert all(set(loads(line)) <= {"time", "source", "event", "fields"} for line in lines)


class TestAnswers:
    def test_an_event_that_is_refused(self) -> None:
        """Those before it were taken, and are not sent again; it goes to the dead letters; those after it are sent again."""
        dead = MemoryLogSink()
        with Receiver(SplunkHec()) as receiver:
            sink, close = create(receiver, index="{payload.index|main}", dead_letter=dead)
            events = make_events(30)
            for bad in (7, 20, 29):
                events[bad] = make_event(bad, index="elsewhere")
            for event in events:
                sink.log(event)
            sink.flush(timeout=WAIT)
            stats = sink.stats()
            close()
            assert stats.delivered == 27
            assert stats.dead_lettered == 3
            assert [event.payload["number"] for event in dead.events] == [7, 20, 29]
            names = [name for _, name in receiver.protocol.read()]
            assert names == [f"order.{number}" for number in range(30) if number not in (7, 20, 29)]

    @pytest.mark.parametrize(
        ("status", "code", "text"),
        [
            (503, 9, "Server is busy"),
            (429, 26, "HEC queue is at capacity"),
            (400, 10, "Data channel is missing"),
            (403, 1, "Token disabled"),
            (200, 9, "Server is busy"),
            (500, 8, "Internal server error"),
        ],
    )
    def test_what_passes(self, status: int, code: int, text: str) -> None:
        """Nothing is wrong with the events: they come again."""
        with Receiver(SplunkHec()) as receiver:
            receiver.script(Answer(status, {"text": text, "code": code}))
            sink, close = create(receiver)
            sink.log(make_event(1))
            assert sink.flush(timeout=WAIT), sink.stats()
            assert text in sink.stats().last_error
            assert sink.stats().retries == 1
            close()
            assert [name for _, name in receiver.protocol.read()] == ["order.1"]

    def test_nearly_full(self) -> None:
        """A warning with 200 is no failure."""
        with Receiver(SplunkHec()) as receiver:
            receiver.script(Answer(200, {"text": "Queue is approaching capacity", "code": 24}))
            sink, close = create(receiver)
            sink.log(make_event(1))
            assert sink.flush(timeout=WAIT), sink.stats()
            close()
            assert len(receiver.requests) == 1

    def test_no_collector(self) -> None:
        """A page that says 200 to everything has taken nothing."""
        with Receiver(SplunkHec()) as receiver:
            receiver.script(Answer(200, "<!doctype html>"))
            sink, close = create(receiver)
            sink.log(make_event(1))
            assert sink.flush(timeout=WAIT), sink.stats()
            assert "no answer of a collector" in sink.stats().last_error
            close()

    def test_invalid_without_a_number(self) -> None:
        """The batch is split until the event is alone."""
        with Receiver(SplunkHec()) as receiver:
            sink, close = create(receiver, batch_max_age=600.0)
            sink.log(make_event(0))  # the first event after the start goes alone
            assert sink.flush(timeout=WAIT), sink.stats()
            receiver.script(Answer(400, {"text": "Invalid data format", "code": 6}), 413)
            for event in make_events(8, start=1):
                sink.log(event)
            assert sink.flush(timeout=WAIT), sink.stats()
            close()
            assert [name for _, name in receiver.protocol.read()] == [f"order.{number}" for number in range(9)]


class TestAcknowledgement:
    def make(self, **attributes: Any) -> SplunkHec:
        protocol = SplunkHec()
        protocol.acknowledges = True
        for name, value in attributes.items():
            setattr(protocol, name, value)
        return protocol

    def test_waits_for_the_index(self) -> None:
        """An event counts as delivered when it is indexed: asked on the channel that it was sent on."""
        with Receiver(self.make(patience=2)) as receiver:
            sink, close = create(receiver, acknowledge=True)
            for event in make_events(10):
                sink.log(event)
            assert sink.flush(timeout=WAIT), sink.stats()
            close()
            asked = [request for request in receiver.requests if request.path == "/services/collector/ack"]
            sent = [request for request in receiver.requests if request not in asked]
            assert len(asked) == 3 * len(sent)
            channels = {request.headers["x-splunk-request-channel"] for request in receiver.requests}
            assert {request.query["channel"] for request in asked} == channels
            assert len(receiver.protocol.read()) == 10

    def test_never_acknowledged(self) -> None:
        """The batch comes again, on another channel."""
        protocol = self.make(patience=10**9)
        with Receiver(protocol) as receiver:
            sink, close = create(receiver, acknowledge=True, delivery_timeout=0.5)
            sink.log(make_event(1))
            wait_until(lambda: sink.stats().retries, "it comes again")
            protocol.patience = 0
            assert sink.flush(timeout=WAIT), sink.stats()
            close()
            assert len(protocol.acks) > 1
            check_arrived(lambda: [(i, "order.0") for i, _ in protocol.read()], 1, exactly_once=False)

    def test_asking_fails(self) -> None:
        """So it does when the collector does not answer, or something else does."""
        with Receiver(self.make()) as receiver:
            usual = receiver.protocol.handle
            receiver.script(usual, LOSE, usual, 503, usual, Answer(200, "{}"))
            sink, close = create(receiver, acknowledge=True)
            sink.log(make_event(1))
            assert sink.flush(timeout=WAIT), sink.stats()
            assert sink.stats().retries == 3
            close()

    def test_the_token_knows_nothing_of_it(self) -> None:
        """The error says so, and nothing is lost."""
        protocol = SplunkHec()
        with Receiver(protocol) as receiver:
            sink, close = create(receiver, acknowledge=True)
            sink.log(make_event(1))
            wait_until(lambda: "no acknowledgement was promised" in (sink.stats().last_error or ""), "it is told")
            protocol.acknowledges = True
            assert sink.flush(timeout=WAIT), sink.stats()
            close()
