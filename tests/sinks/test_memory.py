"""`MemoryLogSink`."""

from __future__ import annotations

import gc
import signal
import threading
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import make_numbered
from mvx_logger import guard, selflog
from mvx_logger.model import LogEvent
from mvx_logger.protocols import LogSinkProto
from mvx_logger.registry import close_log_sink, configure_log_sink, reset_logger
from mvx_logger.sinks.memory import MemoryLogSink

EVENTS = [make_numbered(number) for number in range(100)]


def numbers(events: tuple[LogEvent, ...]) -> list[int]:
    return [event.payload["number"] for event in events]


@pytest.fixture
def clean_registry() -> Iterator[None]:
    yield
    reset_logger()


class TestKeeping:
    def test_events_are_kept_in_order(self) -> None:
        """What was logged is there, as it was, in order."""
        sink = MemoryLogSink()
        for event in EVENTS[:3]:
            sink.log(event)
        assert sink.events == tuple(EVENTS[:3])
        assert len(sink) == 3
        assert repr(sink) == "<MemoryLogSink 3 events>"

    def test_events_is_a_snapshot(self) -> None:
        """Later events do not change what was read."""
        sink = MemoryLogSink()
        sink.log(EVENTS[0])
        before = sink.events
        sink.log(EVENTS[1])
        assert before == (EVENTS[0],)

    def test_the_oldest_give_way_and_are_counted(self) -> None:
        """A bounded sink keeps the newest."""
        sink = MemoryLogSink(max_events=3)
        for event in EVENTS[:10]:
            sink.log(event)
        assert numbers(sink.events) == [7, 8, 9]
        assert sink.dropped == 7

    def test_without_a_limit_nothing_gives_way(self) -> None:
        """None keeps all; the default keeps 10,000."""
        sink = MemoryLogSink(max_events=None)
        for _ in range(200):
            for event in EVENTS:
                sink.log(event)
        assert len(sink) == 20_000
        assert sink.dropped == 0
        assert MemoryLogSink().max_events == 10_000

    def test_take_removes_what_it_returns(self) -> None:
        """Taken events are gone from the sink and are no losses."""
        sink = MemoryLogSink(max_events=3)
        for event in EVENTS[:5]:
            sink.log(event)
        assert numbers(sink.take()) == [2, 3, 4]
        assert sink.take() == sink.events == ()
        sink.log(EVENTS[9])
        assert numbers(sink.take()) == [9]
        assert sink.dropped == 2

    def test_clear_forgets(self) -> None:
        """Cleared events are no losses."""
        sink = MemoryLogSink(max_events=3)
        sink.log(EVENTS[0])
        sink.clear()
        assert len(sink) == 0
        assert sink.dropped == 0

    def test_it_goes_on_after_close(self) -> None:
        """close() keeps the events, may be called twice, and the sink can be used on."""
        sink = MemoryLogSink()
        sink.log(EVENTS[0])
        sink.close()
        sink.close()
        sink.log(EVENTS[1])
        assert numbers(sink.events) == [0, 1]
        assert sink.flush() is True
        assert sink.flush(0) is True

    def test_an_empty_sink_is_still_a_sink(self) -> None:
        """`if sink:` is true though it holds nothing."""
        assert MemoryLogSink()
        assert isinstance(MemoryLogSink(), LogSinkProto)

    @given(
        max_events=st.none() | st.integers(1, 5),
        steps=st.lists(st.sampled_from(["log", "log", "log", "take", "clear"]), max_size=40),
    )
    def test_the_accounts_are_true(self, max_events: int | None, steps: list[str]) -> None:
        """Whatever happens in whatever order, every event is kept, taken or counted as dropped."""
        sink = MemoryLogSink(max_events=max_events)
        logged = gone = dropped = 0
        kept: list[int] = []
        for step in steps:
            if step == "log":
                sink.log(EVENTS[logged])
                kept.append(logged)
                logged += 1
                if max_events is not None and len(kept) > max_events:
                    kept.pop(0)
                    dropped += 1
            else:
                gone += len(kept)
                if step == "take":
                    assert numbers(sink.take()) == kept
                else:
                    sink.clear()
                kept = []
            assert numbers(sink.events) == kept
            assert sink.dropped == dropped
            stats = sink.stats()
            assert stats.accepted == logged == gone + dropped + len(kept)
            assert stats.delivered == logged - dropped
            assert sum(stats.dropped.values()) == dropped
            assert stats.accepted == stats.delivered + sum(stats.dropped.values()) + stats.pending


class TestConcurrency:
    def test_many_threads_log_and_nothing_is_lost(self) -> None:
        """All events of all threads arrive, in order per thread."""
        sink = MemoryLogSink(max_events=None)

        def log(start: int) -> None:
            for number in range(start, start + 2_000):
                sink.log(make_numbered(number))

        threads = [threading.Thread(target=log, args=(index * 10_000,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for index in range(8):
            own = [number for number in numbers(sink.events) if number // 10_000 == index]
            assert own == list(range(index * 10_000, index * 10_000 + 2_000))
        assert sink.stats().accepted == 16_000

    def test_events_are_read_and_taken_while_others_log(self) -> None:
        """Each event is taken once, or counted; reading never fails."""
        sink = MemoryLogSink(max_events=500)
        done = threading.Event()
        taken: list[list[int]] = [[], []]

        def take(into: list[int]) -> None:
            while not done.is_set():
                into.extend(numbers(sink.take()))
                assert len(sink.events) <= 500
                stats = sink.stats()
                assert stats.accepted == stats.delivered + sum(stats.dropped.values())

        def log(start: int) -> None:
            for number in range(start, start + 5_000):
                sink.log(make_numbered(number))

        takers = [threading.Thread(target=take, args=(into,)) for into in taken]
        loggers = [threading.Thread(target=log, args=(index * 10_000,)) for index in range(2)]
        for thread in takers + loggers:
            thread.start()
        for thread in loggers:
            thread.join()
        done.set()
        for thread in takers:
            thread.join()
        rest = numbers(sink.take())
        found = taken[0] + taken[1] + rest
        assert len(found) == len(set(found))
        assert len(found) + sink.dropped == sink.stats().accepted == 10_000

    def test_a_finalizer_that_logs_does_not_disturb_reading(self) -> None:
        """Reading goes on when the collector runs in the middle of it and finalizers log."""
        sink = MemoryLogSink(max_events=None)
        for event in EVENTS:
            sink.log(event)

        class Cycle:
            def __init__(self) -> None:
                self.me = self

        threshold = gc.get_threshold()
        try:
            for allocations in range(20):
                gc.disable()
                weakref.finalize(Cycle(), sink.log, make_numbered(allocations))
                # So that it is the allocation of the iterator, the tuple, or another one that starts the collector.
                gc.set_threshold(gc.get_count()[0] + allocations)
                gc.enable()
                assert len(sink.events) >= 100
        finally:
            gc.set_threshold(*threshold)
            gc.enable()
        gc.collect()
        assert len(sink) == 120

    def test_a_signal_handler_may_log(self) -> None:
        """log() takes no lock that the interrupted code may hold."""
        sink = MemoryLogSink(max_events=None)
        before = signal.signal(signal.SIGVTALRM, lambda *_: sink.log(EVENTS[1]))
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.001, 0.001)
            while numbers(sink.events).count(1) < 5:
                for _ in range(100):
                    sink.log(EVENTS[0])
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)
        assert sink.stats().accepted >= len(sink)

    def test_what_the_logger_itself_logs_is_kept_out(self) -> None:
        """An event that is logged by the logging path is refused, counted and reported."""
        told: list[selflog.SelfLogReport] = []
        previous = selflog.redirect(told.append)
        interval = selflog.get_interval()
        selflog.set_interval(0)
        token = guard.internal.set(True)
        try:
            sink = MemoryLogSink()
            sink.log(EVENTS[0])
        finally:
            guard.internal.reset(token)
            selflog.set_interval(interval)
            selflog.redirect(previous)
        assert sink.events == ()
        assert sink.stats().rejected == {"recursion": 1}
        assert sink.stats().accepted == 0
        assert [report.kind for report in told] == ["recursion"]


class TestConfiguration:
    def test_it_can_be_registered_and_closed(self, clean_registry: None) -> None:
        """configure_log_sink makes it once."""
        sink = configure_log_sink(name="recent", sink_cls=MemoryLogSink, max_events=5)
        assert isinstance(sink, MemoryLogSink)
        assert sink.max_events == 5
        assert configure_log_sink(name="recent", sink_cls=MemoryLogSink, max_events=5) is sink
        assert close_log_sink("recent")

    def test_create_gives_an_idempotent_terminator(self) -> None:
        """create() makes a fresh sink."""
        sink, terminate = MemoryLogSink.create(name="orders", max_events=None)
        assert sink.name == "orders"
        assert repr(sink) == "<MemoryLogSink orders: 0 events>"
        terminate()
        terminate()
