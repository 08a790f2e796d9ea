"""What asynchronous sinks do with failures: retries, the circuit, splitting, dead letters, and the disk under them."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mvx_logger
from delivery_helpers import (
    TIMEOUT,
    BatchSink,
    CoreSink,
    Destination,
    assert_accounts,
    make_event,
    selflog_reports,
    wait_until,
)
from mvx_logger import (
    AsyncioLogSink,
    AsyncioLogSinkErrorPolicy,
    AsyncioLogSinkInvalidStateError,
    AsyncioLogSinkQueueOverflowError,
    AsyncioLogSinkQueueOverflowPolicy,
    AsyncioLogSinkState,
    LogDeliveryErrorKind,
    LogDeliveryPartialError,
    LogDeliveryRefusedError,
    LogDeliveryTransientError,
    LogEvent,
    LogEventBatch,
    MemoryLogSink,
    SinkHandler,
    selflog,
)
from mvx_logger.delivery.sizes import EVENT_BYTES, measure_excess
from mvx_logger.formats.json import decode_lines
from repetitions import often

Policy = AsyncioLogSinkQueueOverflowPolicy
Make = Callable[..., Any]


@pytest.fixture
def to() -> Iterator[Destination]:
    destination = Destination()
    yield destination
    destination.open.set()


@pytest.fixture
def make(to: Destination) -> Iterator[Make]:
    """Makes sinks that are closed at the end."""
    made: list[Any] = []

    def make(cls: type[AsyncioLogSink] = BatchSink, **options: Any) -> Any:
        options = {"to": to, "retry_delay": 0.001, "retry_max_delay": 0.01, "shutdown_timeout": 5, **options}
        sink, _ = cls.create(**options)
        made.append(sink)
        return sink

    yield make
    to.open.set()
    to.fail = lambda name: None
    for sink in made:
        sink.close()


@pytest.fixture(autouse=True)
def reports() -> Iterator[list[selflog.SelfLogReport]]:
    with selflog_reports() as reports:
        yield reports


def freeze(sink: Any, to: Destination) -> None:
    """The destination does not answer; one event is on its way."""
    to.open.clear()
    to.arrived.clear()
    sink.log(make_event("frozen"))
    assert to.arrived.wait(TIMEOUT)


class TestRetries:
    @pytest.mark.parametrize("cls", [BatchSink, CoreSink])
    @pytest.mark.parametrize(
        "error",
        [
            ConnectionResetError("gone"),
            TimeoutError("slow"),
            EOFError(),
            MemoryError(),
            LogDeliveryTransientError("busy"),
            asyncio.IncompleteReadError(b"", 3),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_what_may_pass_later_comes_again(
        self, make: Make, to: Destination, cls: type[AsyncioLogSink], error: BaseException
    ) -> None:
        """All of it, in order, once; the caller notices nothing."""
        down = [True]
        to.fail = lambda name: error if down[0] else None
        sink = make(cls)
        for number in range(20):
            sink.log(make_event(str(number)))
        wait_until(lambda: sink.stats().retries >= 3)
        assert to.names == []
        assert sink.stats().pending == 20
        down.clear()
        down.append(False)
        assert sink.flush(TIMEOUT)
        assert to.names == [str(number) for number in range(20)]
        stats = sink.stats()
        assert_accounts(stats)
        assert (stats.delivered, stats.dropped) == (20, {})

    def test_batch_stays_intact(self, make: Make, to: Destination) -> None:
        """A transient failure does not split it, and what is logged meanwhile does not get into it."""
        tried: list[list[str]] = []
        failures = [True] * 3

        class Watched(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                tried.append([event.meta.event_name for event in events])
                await super()._dispatch_batch(events)

        to.fail = lambda name: OSError("down") if failures and failures.pop() else None
        sink = make(Watched, batch_max_age=0.01)
        freeze(sink, to)
        sink.log(make_event("a"))
        sink.log(make_event("b"))
        to.open.set()
        assert sink.flush(TIMEOUT)
        assert [batch for batch in tried if "a" in batch] == [["a", "b"]] * len([b for b in tried if "a" in b])
        assert to.names == ["frozen", "a", "b"]

    def test_given_up_after_its_time(self, make: Make, to: Destination) -> None:
        """With a ``retry_timeout`` a batch is lost at last, and counted."""
        to.fail = lambda name: OSError("down")
        sink = make(retry_timeout=0.02)
        sink.log(make_event("0"))
        wait_until(lambda: not sink.stats().pending)
        assert sink.stats().dropped == {"retry_timeout": 1}
        to.fail = lambda name: None
        sink.log(make_event("1"))
        assert sink.flush(TIMEOUT)
        assert to.names == ["1"]

    def test_attempt_that_takes_too_long(self, make: Make, to: Destination) -> None:
        """It is cancelled, counts as a failure, and is made again."""
        attempts = 0

        class Hanging(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                nonlocal attempts
                attempts += 1
                if attempts <= 2:
                    await asyncio.sleep(3600)
                await super()._dispatch_batch(events)

        sink = make(Hanging, delivery_timeout=0.02)
        sink.log(make_event("0"))
        assert sink.flush(TIMEOUT)
        assert attempts == 3
        assert to.names == ["0"]
        assert sink.stats().last_error == "TimeoutError: no answer within 0.02 seconds"
        assert sink.get_status() is AsyncioLogSinkState.RUNNING

    def test_destination_that_asks_to_be_left_alone(self, make: Make, to: Destination) -> None:
        """No attempt before that."""
        moments: list[float] = []

        class Busy(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                moments.append(time.monotonic())
                if len(moments) == 1:
                    raise LogDeliveryTransientError("busy", retry_after=0.15)
                await super()._dispatch_batch(events)

        sink = make(Busy, retry_delay=0)
        sink.log(make_event("0"))
        wait_until(lambda: to.names)
        assert len(moments) == 2
        assert moments[1] - moments[0] >= 0.15

    def test_flush_does_not_wait_for_the_next_retry(self, make: Make, to: Destination) -> None:
        """It is made at once; otherwise this test would take an hour."""
        down = [True]
        to.fail = lambda name: OSError("down") if down else None
        sink = make(retry_delay=3600, retry_max_delay=3600)
        sink.log(make_event("0"))
        wait_until(lambda: sink.stats().last_error)
        down.clear()
        assert sink.flush(TIMEOUT)

    def test_stop_does_not_wait_for_the_next_retry(self, make: Make, to: Destination) -> None:
        """Neither does the end: while there is time, it tries again and again."""
        tries = 0

        def fail(name: str) -> Exception | None:
            nonlocal tries
            tries += 1
            return OSError("down") if tries < 4 else None

        to.fail = fail
        sink = make(retry_delay=3600, retry_max_delay=3600, shutdown_timeout=60)
        sink.log(make_event("0"))
        sink.close()
        assert to.names == ["0"]

    def test_circuit_opens_and_closes(self, make: Make, to: Destination, reports: list[selflog.SelfLogReport]) -> None:
        """While the destination is down it is probed with one event at a time, and both turns are told."""
        tried: list[int] = []
        down = [True]

        class Watched(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                tried.append(len(events))
                await super()._dispatch_batch(events)

        to.fail = lambda name: OSError("down") if down else None
        sink = make(Watched, circuit_threshold=3)
        sink.log(make_event("0"))
        wait_until(lambda: sink.stats().circuit != "closed")
        for number in range(1, 50):
            sink.log(make_event(str(number)))
        before = len(tried)
        wait_until(lambda: len(tried) > before + 5)
        assert set(tried[before:]) == {1}
        down.clear()
        assert sink.flush(TIMEOUT)
        assert sink.stats().circuit == "closed"
        assert to.names == [str(number) for number in range(50)]
        assert {"delivery", "delivery_restored"} <= {report.kind for report in reports}

    def test_policy_to_fail(self, make: Make, to: Destination) -> None:
        """The first error ends the sink; start() gives it another chance."""
        to.fail = lambda name: OSError("down")
        sink = make(error_policy=AsyncioLogSinkErrorPolicy.FAIL)
        sink.log(make_event("0"))
        wait_until(lambda: sink.get_status() is AsyncioLogSinkState.FAILURE)
        assert sink.stats().dropped == {"failure": 1}
        with pytest.raises(AsyncioLogSinkInvalidStateError, match="has failed"):
            sink.log(make_event("1"))
        to.fail = lambda name: None
        assert sink.start().wait(TIMEOUT).success
        sink.log(make_event("2"))
        assert sink.flush(TIMEOUT)
        assert to.names == ["2"]
        assert_accounts(sink.stats())


class TestRefusals:
    def test_bad_event_does_not_take_others_along(self, make: Make, to: Destination) -> None:
        """The batch is split until it is alone."""
        to.fail = lambda name: LogDeliveryRefusedError("no such field") if name in ("13", "14", "77") else None
        sink = make()
        freeze(sink, to)
        for number in range(100):
            sink.log(make_event(str(number)))
        to.open.set()
        wait_until(lambda: not sink.stats().pending)
        assert to.names == ["frozen", *(str(number) for number in range(100) if number not in (13, 14, 77))]
        assert sink.stats().dropped == {"refused": 3}

    @pytest.mark.parametrize("cls", [BatchSink, CoreSink])
    def test_bad_event_with_an_error_that_says_nothing(
        self, make: Make, to: Destination, cls: type[AsyncioLogSink]
    ) -> None:
        """It is found by experiment, although it fails as if the destination were down."""
        to.fail = lambda name: RuntimeError("?") if name == "5" else None
        sink = make(cls, retry_max_delay=0.002)
        for number in range(10):
            sink.log(make_event(str(number)))
        wait_until(lambda: not sink.stats().pending)
        assert sorted(to.names, key=int) == [str(number) for number in range(10) if number != 5]
        assert sink.stats().dropped == {"refused": 1}

    def test_error_that_says_nothing_while_the_destination_is_down(self, make: Make, to: Destination) -> None:
        """Nothing is lost, however long it takes; one event at most comes before a suspect."""
        down = [True]
        to.fail = lambda name: RuntimeError("?") if down else None
        sink = make(retry_max_delay=0.001)
        for number in range(10):
            sink.log(make_event(str(number)))
        wait_until(lambda: sink.stats().retries > 60)
        down.clear()
        assert sink.flush(TIMEOUT)
        names = [str(number) for number in range(10)]
        assert sorted(to.names) == names
        assert any(to.names == [name, *(other for other in names if other != name)] for name in names)

    def test_destination_that_takes_a_part(self, make: Make, to: Destination) -> None:
        """It names what it refuses and what it had no time for; the rest is in."""
        calls: list[list[str]] = []

        class Bulk(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                names = [event.meta.event_name for event in events]
                calls.append(names)
                if len(names) == 6:
                    raise LogDeliveryPartialError("see items", refused={1: "mapping"}, retry=[3, 4])

        sink = make(Bulk)
        freeze_calls = len(calls)
        to.open.set()
        sink.log(make_event("first"))
        assert sink.flush(TIMEOUT)
        for number in range(6):
            sink.log(make_event(str(number)))
        wait_until(lambda: not sink.stats().pending)
        assert freeze_calls == 0
        stats = sink.stats()
        assert_accounts(stats)
        whole = [names for names in calls if len(names) == 6]
        if whole:  # all six came in one batch
            assert ["3", "4"] in calls
            assert (stats.delivered, stats.dropped) == (6, {"refused": 1})

    def test_partial_answer_that_makes_no_sense(self, make: Make, to: Destination) -> None:
        """What it says of events that were not sent is not believed: nothing counts as delivered."""

        class Confused(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                raise LogDeliveryPartialError("?", retry=[7])

        sink = make(Confused, shutdown_timeout=0.1)
        sink.log(make_event("0"))
        wait_until(lambda: sink.stats().retries > 2)
        assert (sink.stats().delivered, sink.stats().pending) == (0, 1)

    def test_datagram_that_is_too_long(self, make: Make, to: Destination) -> None:
        """The batch is split, for it would be too long the next time too."""
        sizes: list[int] = []

        class Datagrams(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                sizes.append(len(events))
                if len(events) > 3:
                    raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
                await super()._dispatch_batch(events)

        sink = make(Datagrams)
        for number in range(50):
            sink.log(make_event(str(number)))
        assert sink.flush(TIMEOUT)
        assert to.names == [str(number) for number in range(50)]

    def test_sink_that_knows_its_client(self, make: Make, to: Destination) -> None:
        """It says what its errors mean; for the others it asks the base class."""

        class ClientError(Exception):
            pass

        class Knowing(BatchSink):
            def _classify_error(self, error: BaseException) -> LogDeliveryErrorKind:
                if isinstance(error, ClientError):
                    return LogDeliveryErrorKind.REFUSED
                return super()._classify_error(error)

        to.fail = lambda name: ClientError("no") if name == "1" else None
        sink = make(Knowing)
        for number in range(3):
            sink.log(make_event(str(number)))
        wait_until(lambda: not sink.stats().pending)
        assert to.names == ["0", "2"]
        assert sink.stats().retries <= 4

    @pytest.mark.parametrize("answer", [ValueError("oops"), None, "transient"])
    def test_classification_that_fails(self, make: Make, to: Destination, answer: Any) -> None:
        """The error is found out about by experiment, then."""

        class Broken(BatchSink):
            def _classify_error(self, error: BaseException) -> Any:
                if isinstance(answer, Exception):
                    raise answer
                return answer

        down = [True] * 3
        to.fail = lambda name: OSError("down") if down and down.pop() else None
        sink = make(Broken)
        sink.log(make_event("0"))
        assert sink.flush(TIMEOUT)
        assert to.names == ["0"]


class TestDeadLetters:
    def test_with_the_reason(self, make: Make, to: Destination, tmp_path: Path) -> None:
        """A JSON line that tells why, from which sink, and under which delivery id."""
        to.fail = lambda name: LogDeliveryRefusedError("no such field") if name == "bad" else None
        sink = make(dead_letter=str(tmp_path / "dead.jsonl"), namespace="shop")
        event = make_event("bad", amount=3)
        sink.log(event)
        sink.log(make_event("good"))
        wait_until(lambda: not sink.stats().pending)
        stats = sink.stats()
        assert_accounts(stats)
        assert (stats.delivered, stats.dead_lettered, stats.dropped) == (1, 1, {})
        (line,) = (tmp_path / "dead.jsonl").read_text().splitlines()
        facts = json.loads(line)["payload"]["_dead_letter"]
        assert facts["reason"] == "refused"
        assert facts["error"] == "LogDeliveryRefusedError: no such field"
        assert facts["sink"] == "BatchSink(shop)"
        assert UUID(facts["delivery_id"]).version == 8
        (letter,) = decode_lines([line.encode()])
        assert letter.meta.event_name == "bad"
        assert letter.payload["amount"] == 3

    def test_any_sink_will_do(self, make: Make, to: Destination) -> None:
        """Another one's queue, for instance."""
        to.fail = lambda name: LogDeliveryRefusedError("no") if int(name) % 2 else None
        second = Destination()
        other, close = BatchSink.create(to=second)
        sink = make(dead_letter=other)
        for number in range(10):
            sink.log(make_event(str(number)))
        wait_until(lambda: not sink.stats().pending)
        close()
        assert to.names == ["0", "2", "4", "6", "8"]
        assert second.names == ["1", "3", "5", "7", "9"]

    def test_that_cannot_be_taken_are_counted_as_lost(
        self, make: Make, to: Destination, reports: list[selflog.SelfLogReport]
    ) -> None:
        """And the sink goes on."""

        class Full:
            def log(self, event: LogEvent) -> None:
                raise OSError(errno.ENOSPC, "full")

        to.fail = lambda name: LogDeliveryRefusedError("no") if name == "bad" else None
        sink = make(dead_letter=Full())
        sink.log(make_event("bad"))
        sink.log(make_event("good"))
        wait_until(lambda: not sink.stats().pending)
        assert sink.stats().dropped == {"refused": 1}
        assert to.names == ["good"]
        assert "dead_letter" in {report.kind for report in reports}

    def test_what_is_left_at_the_deadline(
        self, make: Make, to: Destination, reports: list[selflog.SelfLogReport]
    ) -> None:
        """It is set aside too, and one line says so."""
        memory = MemoryLogSink()
        sink = make(dead_letter=memory, shutdown_timeout=0.05)
        freeze(sink, to)
        for number in range(3):
            sink.log(make_event(str(number)))
        sink.close()
        assert [event.meta.event_name for event in memory.events] == ["frozen", "0", "1", "2"]
        assert {event.payload["_dead_letter"]["reason"] for event in memory.events} == {"shutdown"}
        assert (sink.stats().dead_lettered, sink.stats().dropped) == (4, {})
        (report,) = [report for report in reports if report.kind == "shutdown"]
        assert (report.fields["lost"], report.fields["dead_lettered"]) == (0, 4)

    def test_something_that_is_no_sink(self, to: Destination) -> None:
        """It is refused, by name."""
        with pytest.raises(TypeError, match="dead_letter"):
            BatchSink.create(to=to, dead_letter=17)


class TestBytes:
    def test_queue_is_bounded_by_bytes(self, make: Make, to: Destination) -> None:
        """Large events fill it sooner."""
        sink = make(queue_max_bytes=1_000_000, queue_overflow_policy=Policy.DROP)
        freeze(sink, to)
        for _ in range(50):
            sink.log(make_event("large", text="x" * 100_000))
        stats = sink.stats()
        assert 8 <= stats.pending - 1 <= 10
        assert stats.queue_bytes <= 1_000_000
        assert stats.dropped == {"queue_full": 50 - stats.pending + 1}
        to.open.set()
        assert sink.flush(TIMEOUT)
        assert sink.stats().queue_bytes == 0
        for _ in range(5):
            sink.log(make_event("large", text="x" * 100_000))
        assert sink.flush(TIMEOUT)
        assert_accounts(sink.stats())

    def test_light_events_are_bounded_by_bytes_too(self, make: Make, to: Destination) -> None:
        """Each is charged the same."""
        sink = make(queue_max_bytes=EVENT_BYTES * 20, queue_overflow_policy=Policy.DROP)
        freeze(sink, to)
        for number in range(50):
            sink.log(make_event(str(number)))
        assert sink.stats().pending == 21

    def test_one_that_is_larger_than_the_bound(self, make: Make, to: Destination) -> None:
        """It is accepted when nothing else waits."""
        sink = make(queue_max_bytes=10_000, queue_overflow_policy=Policy.RAISE_ERROR)
        freeze(sink, to)
        sink.log(make_event("huge", text="x" * 50_000))
        with pytest.raises(AsyncioLogSinkQueueOverflowError, match=r"1 events, about 5\d{4} bytes"):
            sink.log(make_event("next"))
        to.open.set()
        assert sink.flush(TIMEOUT)
        assert to.names == ["frozen", "huge"]

    def test_oldest_make_room_for_a_large_one(self, make: Make, to: Destination) -> None:
        """As many as it takes."""
        sink = make(queue_max_bytes=EVENT_BYTES * 100, queue_overflow_policy=Policy.DROP_OLDEST)
        freeze(sink, to)
        for number in range(100):
            sink.log(make_event(str(number)))
        sink.log(make_event("large", text="x" * EVENT_BYTES * 50))
        assert 48 <= sink.stats().dropped["queue_full"] <= 52
        assert sink.stats().queue_bytes <= EVENT_BYTES * 100

    def test_no_batch_is_larger_than_allowed(self, make: Make, to: Destination) -> None:
        """By count and by bytes; one that is larger alone is a batch of its own."""
        sink = make(batch_max_bytes=20_000, batch_max_size=10)
        freeze(sink, to)
        for number in range(30):
            sink.log(make_event(str(number), text="x" * (6_000 if number % 3 else 10)))
        sink.log(make_event("huge", text="x" * 50_000))
        sink.log(make_event("last"))
        to.open.set()
        assert sink.flush(TIMEOUT)
        assert to.names == ["frozen", *map(str, range(30)), "huge", "last"]
        assert max(len(batch) for batch in to.batches) <= 10
        assert all(len([n for n in batch if n.isdigit() and int(n) % 3]) <= 3 for batch in to.batches)
        assert ["huge"] in to.batches

    @settings(max_examples=often(50), deadline=None)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        )
    )
    def test_no_payload_is_too_odd_to_be_measured(self, value: Any) -> None:
        """And what holds more costs more."""
        small = measure_excess(make_event("x", value=value))
        large = measure_excess(make_event("x", value=[value, "y" * 10_000]))
        assert 0 <= small < large


class TestDeliveryIds:
    def test_each_event_has_one(self, make: Make, to: Destination) -> None:
        """A UUID: unique, growing in the order of acceptance, the same on every retry."""
        seen: list[tuple[tuple[str, ...], int]] = []
        failures = [True, True]

        class Deduplicating(BatchSink):
            async def _dispatch_batch(self, events: LogEventBatch) -> None:
                seen.append((events.delivery_ids, events.attempt))
                if failures:
                    failures.pop()
                    raise OSError("down")

        sink = make(Deduplicating)
        other = make(Deduplicating)
        for number in range(10):
            sink.log(make_event(str(number)))
            other.log(make_event(str(number)))
        assert sink.flush(TIMEOUT)
        assert other.flush(TIMEOUT)
        ids = {name for names, _ in seen for name in names}
        assert len(ids) == 20
        assert {str(UUID(name)) for name in ids} == ids
        assert {UUID(name).version for name in ids} == {8}
        for prefix in {name[:26] for name in ids}:
            mine = [name for names, _ in seen for name in names if name.startswith(prefix)]
            first_seen = list(dict.fromkeys(mine))
            assert first_seen == sorted(first_seen)
        assert max(attempt for _, attempt in seen) >= 2


class TestDisk:
    @pytest.mark.parametrize("durability", ["async", "commit"])
    def test_what_could_not_be_delivered_is_delivered_next_time(
        self, make: Make, to: Destination, tmp_path: Path, durability: str, reports: list[selflog.SelfLogReport]
    ) -> None:
        """By another sink, under the same ids, before anything new."""
        options: dict[str, Any] = {"durable": tmp_path / "spool", "durability": durability, "shutdown_timeout": 0.1}
        ids: list[tuple[str, str]] = []

        class Named(BatchSink):
            async def _dispatch_batch(self, events: LogEventBatch) -> None:
                ids.extend(zip(events.delivery_ids, (event.meta.event_name for event in events), strict=True))
                await super()._dispatch_batch(events)

        to.fail = lambda name: OSError("down")
        sink = make(Named, **options)
        for number in range(500):
            sink.log(make_event(str(number)))
        sink.close()
        stats = sink.stats()
        assert_accounts(stats)
        assert (stats.pending, stats.spooled, stats.dropped) == (500, 500, {})
        assert sink.flush(0.01) is False
        (report,) = [report for report in reports if report.kind == "shutdown"]
        assert report.fields["spooled"] == 500
        assert report.fields["directory"] == str(tmp_path / "spool")
        tried = dict(ids)
        to.fail = lambda name: None
        sink = make(Named, **options)
        sink.log(make_event("new"))
        assert sink.flush(TIMEOUT)
        assert to.names == [*(str(number) for number in range(500)), "new"]
        assert all(tried[name] == number for name, number in ids if name in tried)
        assert len({name for name, _ in ids}) == 501
        stats = sink.stats()
        assert_accounts(stats)
        assert (stats.accepted, stats.recovered, stats.delivered, stats.pending) == (501, 500, 501, 0)
        sink.close()
        assert list((tmp_path / "spool").iterdir()) == []

    def test_same_sink_finds_its_own_again(self, make: Make, to: Destination, tmp_path: Path) -> None:
        """Stopped and started, it counts nothing twice."""
        to.fail = lambda name: OSError("down")
        sink = make(durable=tmp_path / "spool", shutdown_timeout=0.1)
        for number in range(10):
            sink.log(make_event(str(number)))
        sink.close()
        assert sink.stats().pending == 10
        to.fail = lambda name: None
        assert sink.start().wait(TIMEOUT).success
        assert sink.flush(TIMEOUT)
        stats = sink.stats()
        assert_accounts(stats)
        assert (stats.accepted, stats.delivered, stats.pending) == (10, 10, 0)

    def test_flush_after_events_were_lost_behind_recovered_ones(
        self, make: Make, to: Destination, tmp_path: Path, reports: list[selflog.SelfLogReport]
    ) -> None:
        """What others have left is on its way; the disk is full, and new events make room for newer ones. None of those that
        are on their way counts as lost, so that nobody waits for an event that is settled."""
        to.fail = lambda name: OSError("down")
        sink = make(durable=tmp_path / "spool", shutdown_timeout=0.1)
        for number in range(3):
            sink.log(make_event(f"old {number}"))
        sink.close()
        to.fail = lambda name: None
        to.open.clear()
        to.arrived.clear()
        sink = make(
            durable=tmp_path / "spool",
            durability="commit",
            spool_max_bytes=8_000,
            queue_overflow_policy=Policy.DROP_OLDEST,
        )
        assert to.arrived.wait(TIMEOUT)
        for number in range(3):
            sink.log(make_event(f"new {number}", text="x" * 3_000))
        assert sink.stats().dropped == {"spool_full": 2}
        to.open.set()
        assert sink.flush()
        assert to.names == ["old 0", "old 1", "old 2", "new 2"]
        assert_accounts(sink.stats())

    def test_commit_returns_when_the_event_is_on_the_disk(self, make: Make, to: Destination, tmp_path: Path) -> None:
        """While the destination does not answer."""
        sink = make(durable=tmp_path / "spool", durability="commit")
        freeze(sink, to)
        for number in range(100):
            sink.log(make_event(str(number)))
            assert sink.stats().spooled == number + 1
        from mvx_logger.delivery.spool import iter_spool

        on_disk = [event.meta.event_name for _, event in iter_spool(tmp_path / "spool")]
        assert on_disk == ["frozen", *map(str, range(100))]

    def test_full_queue_goes_to_the_disk(self, make: Make, to: Destination, tmp_path: Path) -> None:
        """Whatever the policy for a full queue is, and however the worker is stuck."""
        release = threading.Event()
        stuck = threading.Event()

        class Blocking(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                stuck.set()
                release.wait(TIMEOUT)
                await super()._dispatch_batch(events)

        sink = make(Blocking, durable=tmp_path / "spool", queue_max_size=10, queue_overflow_policy=Policy.RAISE_ERROR)
        sink.log(make_event("first"))
        assert stuck.wait(TIMEOUT)
        for number in range(1_000):
            sink.log(make_event(str(number)))
        stats = sink.stats()
        assert_accounts(stats)
        assert stats.spooled >= 980
        release.set()
        assert sink.flush(TIMEOUT)
        assert to.names == ["first", *map(str, range(1_000))]

    @pytest.mark.parametrize("durability", ["async", "commit"])
    def test_disk_that_cannot_be_used(
        self, make: Make, to: Destination, tmp_path: Path, durability: str, reports: list[selflog.SelfLogReport]
    ) -> None:
        """The sink does without, and says so."""
        (tmp_path / "file").write_text("in the way")
        sink = make(durable=tmp_path / "file" / "spool", durability=durability)
        for number in range(100):
            sink.log(make_event(str(number)))
        assert sink.flush(TIMEOUT)
        assert to.names == list(map(str, range(100)))
        assert {report.kind for report in reports} == {"spool"}
        assert (tmp_path / "file").read_text() == "in the way"

    def test_disk_that_comes_back(self, make: Make, to: Destination, tmp_path: Path) -> None:
        """What waits in memory moves there."""
        (tmp_path / "file").write_text("in the way")
        to.fail = lambda name: OSError("down")
        sink = make(durable=tmp_path / "file" / "spool", shutdown_timeout=0.1)
        for number in range(100):
            sink.log(make_event(str(number)))
        wait_until(lambda: sink.stats().retries)
        (tmp_path / "file").unlink()
        for number in range(100, 200):
            sink.log(make_event(str(number)))
        wait_until(lambda: sink.stats().spooled)
        to.fail = lambda name: None
        assert sink.flush(TIMEOUT)
        assert to.names == list(map(str, range(200)))
        assert_accounts(sink.stats())

    @pytest.mark.parametrize("policy", [Policy.DROP_OLDEST, Policy.DROP])
    def test_full_spool(self, make: Make, to: Destination, tmp_path: Path, policy: Policy) -> None:
        """The policy of the queue says what is lost, and it is counted."""
        to.fail = lambda name: OSError("down")
        sink = make(
            durable=tmp_path / "spool",
            spool_max_bytes=200_000,
            queue_max_size=50,
            queue_overflow_policy=policy,
            durability="commit",
            shutdown_timeout=0.1,
        )
        for number in range(500):
            sink.log(make_event(str(number), text="x" * 1_000))
        stats = sink.stats()
        assert_accounts(stats)
        assert stats.spool_bytes <= 200_000
        lost = sum(stats.dropped.values())
        assert 200 < lost < 450
        to.fail = lambda name: None
        sink.flush(TIMEOUT)
        wait_until(lambda: not sink.stats().pending)
        names = [int(name) for name in to.names]
        assert names == sorted(names)
        assert len(names) == 500 - sum(sink.stats().dropped.values())
        assert names[-1] == 499 if policy is Policy.DROP_OLDEST else names[:100] == list(range(100))

    def test_events_that_are_too_old(self, make: Make, to: Destination, tmp_path: Path) -> None:
        """They are dropped when their turn comes, and counted."""
        to.fail = lambda name: OSError("down")
        options: dict[str, Any] = {"durable": tmp_path / "spool", "durability": "commit", "shutdown_timeout": 0.05}
        sink = make(**options)
        for number in range(10):
            sink.log(make_event(str(number)))
        sink.close()
        to.fail = lambda name: None
        sink = make(spool_max_age=1e-6, **options)
        wait_until(lambda: not sink.stats().pending)
        stats = sink.stats()
        assert_accounts(stats)
        assert (stats.recovered, stats.dropped) == (10, {"expired": 10})
        assert to.names == []

    def test_every_way_to_configure_it(self, to: Destination, tmp_path: Path) -> None:
        """Keywords, a handler in a dictConfig, a URL: the same names."""
        handler = SinkHandler(f"file://{tmp_path}/a.log?durable={tmp_path}/spool&durability=commit&retry_delay=0.1")
        handler.close()
        mvx_logger.configure(
            {
                "sinks": {
                    "events": {
                        "class": "mvx_logger.FileLogSink",
                        "file_path": str(tmp_path / "b.log"),
                        "durable": str(tmp_path / "spool2"),
                        "dead_letter": str(tmp_path / "dead.jsonl"),
                        "error_policy": "fail",
                        "durability": "async",
                    }
                },
                "root": {"log_sink": "events"},
            }
        )
        try:
            mvx_logger.get_root_log_context().log_info_event("hello")
            assert mvx_logger.flush(TIMEOUT)
        finally:
            mvx_logger.reset_logger()
        assert "hello" in (tmp_path / "b.log").read_text()

    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"durable": 5}, TypeError, "durable"),
            ({"durability": "sometimes"}, ValueError, "durability: 'sometimes' is not one of async, commit"),
            ({"durable": "x", "spool_max_bytes": 0}, ValueError, "spool_max_bytes: expected 1 or more"),
            ({"spool_max_age": 0}, ValueError, "spool_max_age: expected more than 0"),
            ({"delivery_timeout": 0}, ValueError, "delivery_timeout: expected more than 0"),
            ({"retry_timeout": -1}, ValueError, "retry_timeout: expected 0 or more"),
            ({"retry_delay": "1"}, TypeError, "retry_delay: expected a number, got str"),
            ({"circuit_threshold": 0}, ValueError, "circuit_threshold: expected 1 or more"),
            ({"queue_max_bytes": 1}, ValueError, "queue_max_bytes: expected 512 or more"),
            ({"error_policy": "fail"}, TypeError, "error_policy: expected AsyncioLogSinkErrorPolicy, got str"),
        ],
    )
    def test_wrong_options(
        self, to: Destination, tmp_path: Path, options: dict[str, Any], error: type[Exception], text: str
    ) -> None:
        """They are refused by name, before anything is made."""
        with pytest.raises(error, match=text):
            BatchSink.create(to=to, **options)


class TestStatistics:
    def test_latency_and_age(self, make: Make, to: Destination) -> None:
        """From acceptance to confirmation, and how long the oldest one waits by now."""
        sink = make()
        freeze(sink, to)
        for number in range(100):
            sink.log(make_event(str(number)))
        wait_until(lambda: (sink.stats().oldest_pending_age or 0) >= 0.05)
        to.open.set()
        assert sink.flush(TIMEOUT)
        stats = sink.stats()
        assert stats.oldest_pending_age is None
        assert stats.latency is not None
        assert stats.latency.count >= 2
        assert stats.latency.max >= 0.05
        assert 0 < stats.latency.p50 <= stats.latency.p99 <= stats.latency.max

    def test_no_secret_is_in_the_last_error(
        self, make: Make, to: Destination, reports: list[selflog.SelfLogReport]
    ) -> None:
        """Exceptions of clients quote URLs."""
        to.fail = lambda name: OSError("cannot connect to redis://joe:hunter2@host:6379/0?password=hunter2")
        sink = make(shutdown_timeout=0.05)
        sink.log(make_event("0"))
        wait_until(lambda: sink.stats().retries)
        assert "hunter2" not in repr(sink.stats())
        sink.close()
        assert not [report for report in reports if "hunter2" in report.to_line()]
