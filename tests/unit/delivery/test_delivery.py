"""What becomes of the events that an asynchronous sink takes."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from delivery_helpers import (
    TIMEOUT,
    BatchSink,
    BlockingSink,
    CoreSink,
    Destination,
    assert_accounts,
    make_event,
    selflog_reports,
    wait_until,
    worker_threads,
)
from mvx_logger import (
    AsyncioLogSink,
    AsyncioLogSinkErrorReason,
    AsyncioLogSinkQueueOverflowError,
    AsyncioLogSinkQueueOverflowPolicy,
    AsyncioLogSinkState,
    LogDeliveryRefusedError,
    LogDeliveryTransientError,
    LogEvent,
    LogSinkDescriptor,
    LogSinkStats,
)

Policy = AsyncioLogSinkQueueOverflowPolicy
Make = Callable[..., Any]


@pytest.fixture
def to() -> Destination:
    return Destination()


@pytest.fixture
def make(to: Destination) -> Iterator[Make]:
    sinks: list[AsyncioLogSink] = []

    def make(cls: type[Any] = BatchSink, **options: Any) -> Any:
        sink, _ = cls.create(to=to, **options)
        sinks.append(sink)
        return sink

    yield make
    to.open.set()
    for sink in sinks:
        sink.close()
    assert not worker_threads()


def freeze(sink: Any, to: Destination) -> None:
    """Let the worker be busy with one event, so that all that follow wait in the queue."""
    assert sink.flush(TIMEOUT)
    to.arrived.clear()
    to.open.clear()
    sink.log(make_event("frozen"))
    assert to.arrived.wait(TIMEOUT)


class TestBatches:
    def test_first_event_after_a_pause_goes_at_once(self, make: Make, to: Destination) -> None:
        """It does not wait for company, however long others would."""
        sink = make(batch_max_age=3600)
        sink.log(make_event("first"))
        wait_until(lambda: to.batches == [["first"]])

    def test_what_follows_waits_for_company_until_the_batch_is_full(self, make: Make, to: Destination) -> None:
        """The first of a burst is alone, the others are a batch."""
        sink = make(batch_max_age=3600, batch_max_size=5)
        sink.log(make_event("first"))
        wait_until(lambda: to.batches == [["first"]])
        for number in range(5):
            sink.log(make_event(str(number)))
        wait_until(lambda: to.batches == [["first"], ["0", "1", "2", "3", "4"]])
        assert sink.stats().batches == 2

    def test_what_follows_waits_no_longer_than_its_age_allows(self, make: Make, to: Destination) -> None:
        """A batch that does not fill up goes when its time has come."""
        sink = make(batch_max_age=0.05)
        sink.log(make_event("first"))
        wait_until(lambda: to.batches == [["first"]])
        sink.log(make_event("second"))
        sink.log(make_event("third"))
        wait_until(lambda: to.batches == [["first"], ["second", "third"]])

    def test_no_batch_is_larger_than_allowed(self, make: Make, to: Destination) -> None:
        """A burst is divided."""
        sink = make(batch_max_size=7)
        freeze(sink, to)
        for number in range(20):
            sink.log(make_event(str(number)))
        to.open.set()
        assert sink.flush(TIMEOUT)
        assert [len(batch) for batch in to.batches] == [1, 7, 7, 6]
        assert to.names == ["frozen", *map(str, range(20))]

    @pytest.mark.parametrize("policy", [Policy.BLOCK, Policy.RAISE_ERROR, Policy.DROP])
    def test_small_queue_fills_up_while_the_worker_waits_for_company(
        self, make: Make, to: Destination, policy: Policy
    ) -> None:
        """A batch that would be larger than the queue is not waited for: nothing is lost, nobody is held up."""
        sink = make(queue_max_size=10, batch_max_size=1000, batch_max_age=3600, queue_overflow_policy=policy)
        sink.log(make_event("first"))
        wait_until(lambda: to.batches == [["first"]])
        for number in range(5):
            sink.log(make_event(str(number)))
        wait_until(lambda: len(to.names) == 6)
        assert to.names == ["first", *map(str, range(5))]

    def test_a_full_queue_of_one_event_wakes_the_worker(self, make: Make, to: Destination) -> None:
        """Also the smallest queue works."""
        sink = make(queue_max_size=1, batch_max_age=3600, queue_overflow_policy=Policy.BLOCK, block_timeout=TIMEOUT)
        for number in range(50):
            sink.log(make_event(str(number)))
        assert sink.flush(TIMEOUT)
        assert to.names == [str(number) for number in range(50)]

    def test_zero_age_still_delivers_in_order(self, make: Make, to: Destination) -> None:
        """With no time to wait for company each batch is what is there."""
        sink = make(batch_max_age=0)
        for number in range(100):
            sink.log(make_event(str(number)))
        assert sink.flush(TIMEOUT)
        assert to.names == [str(number) for number in range(100)]

    def test_events_cost_no_wake_up_each(self, to: Destination) -> None:
        """The loop is called at most once per batch, not once per event."""
        calls = 0

        async def main() -> None:
            nonlocal calls
            loop = asyncio.get_running_loop()
            call_soon_threadsafe = loop.call_soon_threadsafe

            def count(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                return call_soon_threadsafe(*args, **kwargs)

            loop.call_soon_threadsafe = count  # type: ignore[method-assign]
            sink = BatchSink(to=to, queue_max_size=20_000)
            await sink.start()
            calls = 0

            def log_all() -> None:
                for number in range(2_000):
                    sink.log(make_event(str(number)))

            threads = [threading.Thread(target=log_all) for _ in range(4)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads) or sink.stats().pending:
                await asyncio.sleep(0.01)
            del loop.call_soon_threadsafe
            # One more each for a thread that has seen the same sleeper as another one.
            assert calls <= 2 * len(to.batches) + len(threads), (calls, len(to.batches))
            await sink.stop()

        asyncio.run(main())
        assert len(to.names) == 8_000

    def test_order_of_each_thread_is_kept(self, make: Make, to: Destination) -> None:
        """Eight threads at once: each one's events arrive in the order in which it logged them."""
        sink = make(queue_max_size=100_000, batch_max_size=50)

        def log_all(thread: int) -> None:
            for number in range(1_000):
                sink.log(make_event(f"{thread} {number}"))

        threads = [threading.Thread(target=log_all, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sink.flush(TIMEOUT)
        assert len(to.names) == 8_000
        for number in range(8):
            mine = [name for name in to.names if name.startswith(f"{number} ")]
            assert mine == [f"{number} {count}" for count in range(1_000)]


class TestSubclassing:
    def test_core_only(self, make: Make, to: Destination) -> None:
        """A sink that takes one event at a time gets each of a batch."""
        sink = make(CoreSink)
        for number in range(10):
            sink.log(make_event(str(number)))
        assert sink.flush(TIMEOUT)
        assert to.batches == [[str(number)] for number in range(10)]

    def test_batch_only_serves_single_events(self, to: Destination) -> None:
        """What hands over a single event works with a sink that takes batches."""

        async def main() -> None:
            await BatchSink(to=to)._dispatch_core(make_event("one"))

        asyncio.run(main())
        assert to.batches == [["one"]]

    def test_neither_is_abstract(self) -> None:
        """A class that implements neither method says so, and leaves no thread."""

        class Nothing(AsyncioLogSink):
            pass

        with pytest.raises(TypeError, match="Nothing is abstract: implement _dispatch_core"):
            Nothing.create()
        assert not worker_threads()

    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"queue_max_size": 0}, ValueError, "queue_max_size: expected 1 or more, got 0"),
            ({"queue_max_size": 1.5}, TypeError, "queue_max_size: expected an int, got float"),
            ({"queue_max_size": True}, TypeError, "queue_max_size: expected an int, got bool"),
            ({"batch_max_size": 0}, ValueError, "batch_max_size: expected 1 or more"),
            ({"batch_max_age": -1}, ValueError, "batch_max_age: expected 0 or more"),
            ({"batch_max_age": "1"}, TypeError, "batch_max_age: expected a number, got str"),
            ({"block_timeout": float("nan")}, ValueError, "block_timeout: expected 0 or more"),
            ({"shutdown_timeout": None}, TypeError, "shutdown_timeout: expected a number, got NoneType"),
            ({"queue_overflow_policy": "drop"}, TypeError, "queue_overflow_policy: expected AsyncioLogSinkQueueOverf"),
            ({"namespace": 5}, TypeError, "namespace: expected a str or None, got int"),
            ({"no_such_option": 5}, TypeError, "no_such_option"),
        ],
    )
    def test_wrong_options(self, to: Destination, options: dict[str, Any], error: type[Exception], text: str) -> None:
        """A wrong option is named, with what would be right; no thread is left."""
        with pytest.raises(error, match=text):
            BatchSink.create(to=to, **options)
        assert not worker_threads()

    def test_registration_needs_a_descriptor(self) -> None:
        """A class that does not say what it describes cannot be registered, and says what is missing."""
        with pytest.raises(TypeError, match="BatchSink cannot be registered: give it a sink_type"):
            BatchSink.build_descriptor()

    def test_descriptor_hides_secrets_and_tells_them_apart(self) -> None:
        """Two passwords make two descriptors, and neither can be read in them."""

        def describe(password: str | None, **more: Any) -> LogSinkDescriptor:
            return BatchSink._describe("x", ("host",), {"password": password, **more}, secrets=("password",))

        assert describe("hunter2") == describe("hunter2")
        assert hash(describe("hunter2")) == hash(describe("hunter2"))
        assert describe("hunter2") != describe("hunter3")
        assert "hunter2" not in repr(describe("hunter2")) + repr(describe("hunter2").to_log_payload())
        assert describe(None).config_key == (("password", None),)

    def test_descriptor_of_any_option_is_hashable(self) -> None:
        """Whatever an option holds, the descriptor can be compared and hashed."""

        class Unhashable:
            __hash__ = None  # type: ignore[assignment]

        options = {
            "mapping": {"b": [1, 2], "a": {"c"}},
            "policy": Policy.DROP,
            "object": Unhashable(),
            "function": print,
            "plain": 1.5,
        }
        descriptor = BatchSink._describe("x", (), options)
        assert hash(descriptor) == hash(BatchSink._describe("x", (), options))
        assert dict(descriptor.config_key)["policy"] == "drop"

    def test_sink_made_in_the_constructor_of_a_sink_does_not_share_its_thread(self, to: Destination) -> None:
        """The thread belongs to the sink that was asked for; the inner one is bound to its loop like any other."""

        class Outer(BatchSink):
            def __init__(self, **options: Any) -> None:
                self.inner = BatchSink(to=Destination())
                super().__init__(**options)

        sink, close = Outer.create(to=to)
        sink.inner.log(make_event("inner"))
        sink.log(make_event("outer"))
        wait_until(lambda: sink.inner.to.names == ["inner"] and to.names == ["outer"])
        sink.inner.stop().wait()
        sink.log(make_event("again"))
        assert sink.flush(TIMEOUT)
        assert to.names == ["outer", "again"]
        close()
        assert not worker_threads()

    def test_subclass_may_call_its_own_what_it_likes(self, make: Make, to: Destination) -> None:
        """A connection's task, queue and lock, under the names that everybody gives them, break nothing."""

        class Natural(BatchSink):
            async def _on_starting(self) -> None:
                self._task = asyncio.create_task(asyncio.sleep(3600))
                self._lock, self._queue, self._loop = asyncio.Lock(), asyncio.Queue[str](), "loop"
                self._thread = self._state = self._limit = self._batches = self._namespace = self._ended = None
                self._start, self._stop, self._sleep = self._run, self._work, self._wake

            async def _run(self) -> None:
                raise NotImplementedError

            _work = _wake = _deliver = _spawn = _finish = _drop_all = _take_batch = _end_run = _run

            async def _on_stopped(self) -> None:
                self._task.cancel()

        sink = make(Natural)
        sink.log(make_event("0"))
        assert sink.flush(TIMEOUT)
        sink.close()
        assert to.names == ["0"]

    def test_repr_tells_kind_and_state(self, make: Make) -> None:
        """The repr holds nothing but that."""
        sink = make(namespace="orders")
        assert repr(sink) == "<BatchSink(orders) running>"
        assert {thread.name for thread in worker_threads()} == {"mvx-logger-orders"}


class TestOverflow:
    def test_raise_error_refuses_the_new_event(self, make: Make, to: Destination) -> None:
        """The caller is told, and the event was never accepted."""
        sink = make(queue_max_size=3, queue_overflow_policy=Policy.RAISE_ERROR)
        freeze(sink, to)
        for number in range(3):
            sink.log(make_event(str(number)))
        with pytest.raises(AsyncioLogSinkQueueOverflowError, match="the queue is full") as caught:
            sink.log(make_event("too much"))
        assert caught.value.reason is AsyncioLogSinkErrorReason.QUEUE_OVERFLOW
        assert caught.value.details["queue_max_size"] == 3
        assert (sink.stats().accepted, sink.stats().rejected) == (4, {"queue_full": 1})
        to.open.set()
        assert sink.flush(TIMEOUT)
        assert to.names == ["frozen", "0", "1", "2"]

    def test_drop_loses_the_new_event(self, make: Make, to: Destination) -> None:
        """It is counted, and the caller goes on."""
        sink = make(queue_max_size=3, queue_overflow_policy=Policy.DROP)
        freeze(sink, to)
        for number in range(5):
            sink.log(make_event(str(number)))
        stats = sink.stats()
        assert (stats.accepted, stats.dropped, stats.pending) == (6, {"queue_full": 2}, 4)
        to.open.set()
        assert sink.flush(TIMEOUT)
        assert to.names == ["frozen", "0", "1", "2"]

    def test_drop_oldest_loses_what_waits_longest(self, make: Make, to: Destination) -> None:
        """The newest events arrive."""
        sink = make(queue_max_size=3, queue_overflow_policy=Policy.DROP_OLDEST)
        freeze(sink, to)
        for number in range(5):
            sink.log(make_event(str(number)))
        stats = sink.stats()
        assert (stats.accepted, stats.dropped, stats.pending) == (6, {"queue_full": 2}, 4)
        to.open.set()
        assert sink.flush(TIMEOUT)
        assert to.names == ["frozen", "2", "3", "4"]

    def test_block_waits_for_room(self, make: Make, to: Destination) -> None:
        """The caller goes on when the destination does."""
        sink = make(queue_max_size=2, queue_overflow_policy=Policy.BLOCK, block_timeout=TIMEOUT)
        freeze(sink, to)
        sink.log(make_event("0"))
        sink.log(make_event("1"))
        blocked = [threading.Thread(target=sink.log, args=(make_event(str(number)),)) for number in range(2, 6)]
        for thread in blocked:
            thread.start()
        time.sleep(0.05)
        assert all(thread.is_alive() for thread in blocked)
        to.open.set()
        for thread in blocked:
            thread.join(TIMEOUT)
        assert sink.flush(TIMEOUT)
        assert sorted(to.names) == ["0", "1", "2", "3", "4", "5", "frozen"]
        assert not sink.stats().dropped

    def test_no_wait_is_too_long(self, to: Destination) -> None:
        """Whoever says infinity means for ever."""
        for_ever = float("inf")
        sink, close = BatchSink.create(
            to=to,
            queue_max_size=1,
            queue_overflow_policy=Policy.BLOCK,
            block_timeout=for_ever,
            shutdown_timeout=for_ever,
            batch_max_age=for_ever,
        )
        for number in range(10):
            sink.log(make_event(str(number)))
        assert sink.flush(for_ever)
        sink.log(make_event("last"))
        assert sink.stop().wait(for_ever).success
        close()
        assert to.names == [*map(str, range(10)), "last"]

    def test_block_gives_up_at_its_timeout(self, make: Make, to: Destination) -> None:
        """The event is lost and counted so."""
        sink = make(queue_max_size=1, queue_overflow_policy=Policy.BLOCK, block_timeout=0.01)
        freeze(sink, to)
        sink.log(make_event("0"))
        sink.log(make_event("1"))
        assert sink.stats().dropped == {"block_timeout": 1}
        assert_accounts(sink.stats())

    def test_block_never_blocks_the_loop_of_the_sink(self, to: Destination) -> None:
        """On the loop that has to make the room, the event is dropped at once."""

        async def main() -> None:
            sink = BatchSink(
                to=to,
                queue_max_size=1,
                queue_overflow_policy=Policy.BLOCK,
                block_timeout=3600,
                shutdown_timeout=TIMEOUT,
            )
            sink.log(make_event("0"))
            sink.log(make_event("1"))
            assert sink.stats().dropped == {"queue_full": 1}
            await sink.stop()

        asyncio.run(main())
        assert to.names == ["0"]

    def test_block_ends_when_the_sink_does(self, to: Destination) -> None:
        """Who waits for room in a sink that ends is not held up until the timeout."""
        sink, close = BatchSink.create(
            to=to, queue_max_size=1, queue_overflow_policy=Policy.BLOCK, block_timeout=3600, shutdown_timeout=0.05
        )
        freeze(sink, to)
        sink.log(make_event("0"))
        blocked = threading.Thread(target=sink.log, args=(make_event("1"),))
        blocked.start()
        time.sleep(0.02)
        with selflog_reports():
            close()
            to.open.set()
            blocked.join(TIMEOUT)
        assert not blocked.is_alive()
        wait_until(lambda: not sink.stats().pending)
        assert_accounts(sink.stats())
        assert sink.stats().accepted == 3
        close()

    def test_queue_is_bounded_by_its_size_and_a_few_threads(self, make: Make, to: Destination) -> None:
        """Threads that log at the same instant may exceed it by one event each, and no more."""
        sink = make(queue_max_size=10, queue_overflow_policy=Policy.DROP_OLDEST)
        freeze(sink, to)

        def log_all() -> None:
            for number in range(3_000):
                sink.log(make_event(str(number)))

        threads = [threading.Thread(target=log_all) for _ in range(8)]
        for thread in threads:
            thread.start()
        most = 0
        while any(thread.is_alive() for thread in threads):
            stats = sink.stats()
            most = max(most, stats.pending)
            assert_accounts(stats)
        assert most <= 1 + 10 + len(threads)


class Odd(BaseException):
    """Something that is no Exception."""


class TestFailures:
    @pytest.mark.parametrize("cls", [BatchSink, CoreSink])
    @pytest.mark.parametrize(
        "error",
        [ValueError("bad"), asyncio.CancelledError(), SystemExit(1), KeyboardInterrupt(), Odd()],
        ids=lambda error: type(error).__name__,
    )
    def test_no_exception_ends_a_sink(
        self, make: Make, to: Destination, cls: type[AsyncioLogSink], error: BaseException
    ) -> None:
        """An event that fails where others pass is lost and counted; the next ones arrive."""
        to.fail = lambda name: error if name == "bad" else None
        sink = make(cls, retry_delay=0.001)
        with selflog_reports() as reports:
            sink.log(make_event("good"))
            assert sink.flush(TIMEOUT)
            sink.log(make_event("bad"))
            wait_until(lambda: sink.stats().retries)
            sink.log(make_event("fine"))
            wait_until(lambda: not sink.stats().pending)
        assert to.names == ["good", "fine"]
        stats = sink.stats()
        assert (stats.accepted, stats.delivered, stats.dropped, stats.pending) == (3, 2, {"refused": 1}, 0)
        assert sink.get_status() is AsyncioLogSinkState.RUNNING
        assert stats.last_error is not None
        assert stats.last_error.startswith(type(error).__name__)
        assert stats.last_error_at is not None
        assert {(report.kind, report.fields.get("events")) for report in reports} >= {("delivery", 1)}
        assert [report.fields["lost"] for report in reports if report.kind == "refused"] == [1]

    def test_core_loses_only_the_event_that_is_refused(self, make: Make, to: Destination) -> None:
        """The other events of the batch arrive."""
        to.fail = lambda name: LogDeliveryRefusedError("no") if name == "3" else None
        sink = make(CoreSink)
        with selflog_reports():
            for number in range(6):
                sink.log(make_event(str(number)))
            wait_until(lambda: not sink.stats().pending)
        assert to.names == ["0", "1", "2", "4", "5"]
        assert sink.stats().dropped == {"refused": 1}

    def test_dispatch_that_is_no_coroutine_function_does_not_end_the_sink(self) -> None:
        """A forgotten ``async`` is told, and loses nothing that could not have been delivered."""

        class Plain(AsyncioLogSink):
            def _dispatch_core(self, event: LogEvent) -> None:  # type: ignore[override]
                raise ValueError("at once")

        sink, close = Plain.create(retry_delay=0.001, shutdown_timeout=0.1)
        with selflog_reports() as reports:
            for _ in range(2):
                sink.log(make_event())
            wait_until(lambda: sink.stats().retries > 3)
            assert sink.get_status() is AsyncioLogSinkState.RUNNING
            close()
        assert {report.fields["error"] for report in reports if report.kind == "delivery"} == {"ValueError: at once"}
        assert sink.stats().dropped == {"shutdown": 2}

    def test_batch_cannot_be_changed_by_the_subclass(self, make: Make, to: Destination) -> None:
        """What is handed over is immutable, so that the accounts do not depend on what a subclass does to it."""
        seen: list[Any] = []

        class Greedy(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                seen.append(events)

        sink = make(Greedy)
        sink.log(make_event())
        assert sink.flush(TIMEOUT)
        assert isinstance(seen[0], tuple)


class Connecting(BatchSink):
    """Tells when it connects and disconnects."""

    def __init__(self, *, refuse: Callable[[int], bool] = lambda attempt: False, **options: Any) -> None:
        super().__init__(**options)
        self.refuse = refuse
        self.connected: bool | None = False
        self.attempts = 0

    async def _on_connecting(self) -> None:
        assert self.connected is False
        self.attempts += 1
        self.connected = None
        if self.refuse(self.attempts):
            self.connected = False
            raise ConnectionRefusedError("nobody there")
        self.connected = True
        self.to.runs.append("connect")

    async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
        assert self.connected
        await super()._dispatch_batch(events)

    async def _on_disconnecting(self) -> None:
        assert self.connected
        self.to.runs.append("disconnect")
        self.connected = False
        raise OSError("it is broken anyway")


class TestConnections:
    def test_connects_with_the_first_event_and_disconnects_at_the_end(self, make: Make, to: Destination) -> None:
        """Once, however many batches there are."""
        sink = make(Connecting)
        assert to.runs == ["starting"]
        for number in range(3):
            sink.log(make_event(str(number)))
            assert sink.flush(TIMEOUT)
        sink.close()
        assert to.runs == ["starting", "connect", "disconnect", "stopped"]
        assert sink.stats().last_error is None

    def test_a_failed_delivery_gets_a_new_connection(self, make: Make, to: Destination) -> None:
        """What is broken is given up first."""
        errors = [ConnectionResetError("gone"), None]
        to.fail = lambda name: errors.pop(0) if errors else None
        sink = make(Connecting, retry_delay=0.001)
        with selflog_reports():
            sink.log(make_event("0"))
            assert sink.flush(TIMEOUT)
        assert to.names == ["0"]
        assert to.runs == ["starting", "connect", "disconnect", "connect"]

    def test_an_event_that_is_refused_keeps_the_connection(self, make: Make, to: Destination) -> None:
        """It is not the connection's fault."""
        to.fail = lambda name: LogDeliveryRefusedError("no") if name == "1" else None
        sink = make(Connecting)
        with selflog_reports():
            for number in range(3):
                sink.log(make_event(str(number)))
            wait_until(lambda: not sink.stats().pending)
        assert to.names == ["0", "2"]
        assert to.runs == ["starting", "connect"]

    def test_a_destination_that_is_not_there_yet(self, make: Make, to: Destination) -> None:
        """The sink starts all the same, and connects when it can; what was never made is not given up."""
        sink = make(Connecting, refuse=lambda attempt: attempt < 4, retry_delay=0.001)
        with selflog_reports() as reports:
            sink.log(make_event("0"))
            assert sink.flush(TIMEOUT)
        assert to.names == ["0"]
        assert to.runs == ["starting", "connect"]
        assert reports[0].fields["error"] == "ConnectionRefusedError: nobody there"

    def test_a_destination_that_asks_for_a_while(self, make: Make, to: Destination) -> None:
        """It has answered: the connection is kept."""
        errors = [LogDeliveryTransientError("busy", retry_after=0.01)]
        to.fail = lambda name: errors.pop() if errors else None
        sink = make(Connecting, retry_delay=0)
        with selflog_reports():
            sink.log(make_event("0"))
            assert sink.flush(TIMEOUT)
        assert to.names == ["0"]
        assert to.runs == ["starting", "connect"]

    def test_a_connection_that_is_known_to_be_lost(self, make: Make, to: Destination) -> None:
        """It is made anew before the next delivery, and nothing has failed."""
        lost = [False]

        class Knowing(Connecting):
            def _is_connection_lost(self) -> bool:
                return lost.pop() if lost else False

        sink = make(Knowing)
        with selflog_reports() as reports:
            for number in range(3):
                sink.log(make_event(str(number)))
                assert sink.flush(TIMEOUT)
                lost.append(number == 0)
        assert to.names == ["0", "1", "2"]
        assert to.runs == ["starting", "connect", "disconnect", "connect"]
        assert (sink.stats().retries, reports) == (0, [])

    if hasattr(os, "fork"):

        def test_a_forked_child_does_not_touch_the_connection_of_its_parent(self, make: Make, to: Destination) -> None:
            """It makes one of its own, also when that fails at first."""
            sink = make(Connecting, retry_delay=0.001)
            sink.log(make_event("parent"))
            assert sink.flush(TIMEOUT)
            child = os.fork()
            if child == 0:
                status = 1
                with contextlib.suppress(BaseException):
                    sink.connected, sink.attempts = False, 0
                    sink.refuse = lambda attempt: attempt < 3
                    with selflog_reports():
                        sink.log(make_event("child"))
                        if sink.flush(TIMEOUT) and to.runs == ["starting", "connect", "starting", "connect"]:
                            status = 0
                os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
            sink.log(make_event("again"))
            assert sink.flush(TIMEOUT)
            assert to.runs == ["starting", "connect"]


class TestAccounts:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("policy", "queue"), [*((policy, 200) for policy in Policy), (Policy.RAISE_ERROR, 100_000)]
    )
    def test_law_holds_at_every_moment(self, to: Destination, policy: Policy, queue: int) -> None:
        """accepted = delivered + dropped + pending, whoever looks, while 8 threads log and the destination fails."""
        fate = random.Random(7)

        def fail(name: str) -> Exception | None:
            if name.endswith("77"):
                return LogDeliveryRefusedError("no")
            return OSError("down") if fate.random() < 0.002 else None

        to.fail = fail
        sink, close = BatchSink.create(
            to=to,
            queue_max_size=queue,
            batch_max_size=50,
            queue_overflow_policy=policy,
            block_timeout=0.001,
            retry_delay=0.001,
        )
        refused = [0] * 8
        logged = [0] * 8
        looks = 0

        def log_all(thread: int) -> None:
            while logged[thread] < 1_500 or (looks <= 100 and logged[thread] < 12_000):
                try:
                    sink.log(make_event(f"{thread} {logged[thread]}"))
                except AsyncioLogSinkQueueOverflowError:
                    refused[thread] += 1
                logged[thread] += 1

        threads = [threading.Thread(target=log_all, args=(thread,)) for thread in range(8)]
        broken: list[LogSinkStats] = []
        done = threading.Event()

        def look() -> None:
            nonlocal looks
            before = LogSinkStats()
            while not done.is_set():
                stats = sink.stats()
                lost = sum(stats.dropped.values())
                if stats.accepted != stats.delivered + lost + stats.pending or stats.accepted < before.accepted:
                    broken.append(stats)
                before = stats
                looks += 1

        watcher = threading.Thread(target=look)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            with selflog_reports():
                watcher.start()
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                sink.flush(TIMEOUT)
                wait_until(lambda: looks > 100)
                close()
        finally:
            sys.setswitchinterval(interval)
        done.set()
        watcher.join()
        assert looks > 100
        assert not broken
        stats = sink.stats()
        assert_accounts(stats)
        assert stats.pending == 0
        assert stats.accepted + sum(refused) == sum(logged)
        assert stats.rejected.get("queue_full", 0) == sum(refused)
        assert stats.delivered == len(to.names)
        assert stats.retries
        assert stats.dropped["refused"] <= sum(logged) / 50
        assert not [name for name in to.names if name.endswith("77")]
        if policy is not Policy.RAISE_ERROR:
            assert not sum(refused)

    def test_stats_describe_themselves(self, make: Make) -> None:
        """The accounts are plain data for a payload."""
        sink = make()
        sink.log(make_event())
        assert sink.flush(TIMEOUT)
        payload = sink.stats().to_log_payload()
        assert (payload["accepted"], payload["delivered"], payload["state"]) == (1, 1, "running")


class TestFlush:
    def test_true_when_everything_is_delivered(self, make: Make, to: Destination) -> None:
        """It does not wait for the age of the batch."""
        sink = make(batch_max_age=3600)
        for number in range(100):
            sink.log(make_event(str(number)))
            if number % 10 == 0:
                assert sink.flush(TIMEOUT)
                assert to.names == [str(count) for count in range(number + 1)]

    def test_true_when_there_is_nothing_to_do(self, make: Make) -> None:
        """Also without any time."""
        assert make().flush(0)

    def test_false_when_time_runs_out(self, make: Make, to: Destination) -> None:
        """What waits then is delivered later."""
        sink = make()
        freeze(sink, to)
        sink.log(make_event("late"))
        assert sink.flush(0) is False
        assert sink.flush(0.02) is False
        to.open.set()
        assert sink.flush(TIMEOUT)
        assert to.names == ["frozen", "late"]

    def test_false_when_an_event_is_lost(self, make: Make, to: Destination) -> None:
        """Loss before the call does not count, loss after it does."""
        to.fail = lambda name: LogDeliveryRefusedError("no") if name == "bad" else None
        sink = make(CoreSink)
        freeze(sink, to)
        sink.log(make_event("bad"))
        results: list[bool] = []
        flusher = threading.Thread(target=lambda: results.append(sink.flush(TIMEOUT)))
        with selflog_reports():
            flusher.start()
            wait_until(lambda: sink._AsyncioLogSink__accounts.waiters)
            to.open.set()
            flusher.join()
        assert results == [False]
        sink.log(make_event("good"))
        assert sink.flush(TIMEOUT)

    def test_true_although_newer_events_find_no_room(self, make: Make, to: Destination) -> None:
        """What was accepted before the call is there; what came later and was dropped is another matter."""
        sink = make(queue_max_size=1, queue_overflow_policy=Policy.DROP)
        freeze(sink, to)
        sink.log(make_event("0"))
        results: list[bool] = []
        flusher = threading.Thread(target=lambda: results.append(sink.flush(TIMEOUT)))
        flusher.start()
        wait_until(lambda: sink._AsyncioLogSink__accounts.waiters)
        sink.log(make_event("dropped"))
        to.open.set()
        flusher.join()
        assert results == [True]
        assert sink.stats().dropped == {"queue_full": 1}

    def test_many_at_once(self, make: Make, to: Destination) -> None:
        """Every thread finds its own events delivered when its flush returns True."""
        sink = make(queue_max_size=100_000)
        missing: list[str] = []

        def log_and_flush(thread: int) -> None:
            for number in range(30):
                name = f"{thread} {number}"
                sink.log(make_event(name))
                if not sink.flush(TIMEOUT) or name not in to.names:
                    missing.append(name)

        threads = [threading.Thread(target=log_and_flush, args=(thread,)) for thread in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not missing

    def test_in_the_worker_it_does_not_wait_for_itself(self, make: Make, to: Destination) -> None:
        """A sink that flushes itself in its dispatch is told False."""
        results: list[bool] = []

        class Flushing(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                results.append(self.flush())

        sink = make(Flushing)
        sink.log(make_event())
        assert sink.flush(TIMEOUT)
        assert results == [False]

    def test_on_the_loop_of_the_sink_it_does_not_wait(self, to: Destination) -> None:
        """It would block what has to deliver; it asks for a hurry."""

        async def main() -> None:
            sink = BatchSink(to=to, batch_max_age=3600)
            assert sink.flush()
            sink.log(make_event("0"))
            assert sink.flush() is False
            while not sink.flush():
                await asyncio.sleep(0.001)
            assert to.names == ["0"]
            assert await asyncio.to_thread(sink.flush, 0)

        asyncio.run(main())

    def test_where_the_loop_does_not_run_it_does_not_wait(self, to: Destination) -> None:
        """Nobody delivers while the program has left its loop."""
        loop = asyncio.new_event_loop()

        async def make_sink() -> BatchSink:
            return BatchSink(to=to)

        sink = loop.run_until_complete(make_sink())
        sink.log(make_event("0"))
        assert sink.flush() is False

        async def stop() -> None:
            await sink.stop()

        loop.run_until_complete(stop())
        assert to.names == ["0"]
        loop.close()


class TestGuard:
    def test_what_the_worker_logs_natively_never_comes_back(self, make: Make, to: Destination) -> None:
        """It is refused, counted and reported once."""

        class Chatty(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                await super()._dispatch_batch(events)
                self.log(make_event("about myself"))
                await asyncio.create_task(self._talk())
                await self._run_blocking(self.log, make_event("blocking"))
                await asyncio.get_running_loop().run_in_executor(None, self.log, make_event("executor"))

            async def _talk(self) -> None:
                self.log(make_event("from a task"))

        sink = make(Chatty)
        with selflog_reports() as reports:
            for number in range(3):
                sink.log(make_event(str(number)))
                assert sink.flush(TIMEOUT)
        assert to.names == ["0", "1", "2"]
        assert sink.stats().rejected == {"recursion": 12}
        assert {report.kind for report in reports} == {"recursion"}
        assert reports[0].fields["event"] == "tests: about myself"

    def test_on_the_loop_of_the_application_only_the_worker_is_guarded(self, to: Destination) -> None:
        """What the application logs on the same loop is delivered."""

        class Chatty(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                await super()._dispatch_batch(events)
                self.log(make_event("about myself"))
                await self._run_blocking(self.log, make_event("blocking"))

        async def main() -> None:
            sink = Chatty(to=to)
            sink.log(make_event("0"))
            await asyncio.sleep(0)
            sink.log(make_event("1"))
            result = await sink.stop()
            assert result.success
            assert sink.stats().rejected == {"recursion": 2 * sink.stats().batches}

        with selflog_reports():
            asyncio.run(main())
        assert to.names == ["0", "1"]

    def test_every_call_of_a_client_library_at_debug_level_stays_outside(self, make: Make, to: Destination) -> None:
        """Attached to the root logger at level 1, a sink whose client logs delivers what the application logged."""
        from mvx_logger import SinkHandler

        client = logging.getLogger("some_client")

        class Talkative(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                client.debug("connecting")
                await super()._dispatch_batch(events)
                client.debug("done")

        sink = make(Talkative)
        handler = SinkHandler(sink)
        root = logging.getLogger()
        level = root.level
        root.addHandler(handler)
        root.setLevel(1)
        try:
            with selflog_reports() as reports:
                for number in range(50):
                    logging.getLogger("app").debug("event %d", number)
                assert sink.flush(TIMEOUT)
        finally:
            root.setLevel(level)
            root.removeHandler(handler)
            handler.close()
        mine = [name for name in to.names if name.startswith("event")]
        assert len(mine) == 50
        assert not [name for name in to.names if name in ("connecting", "done")]
        assert "recursion" in {report.kind for report in reports}

    def test_context_of_the_caller_does_not_leak_into_the_worker(self, to: Destination) -> None:
        """A sink on a thread of its own sees none of the context variables of whoever made it."""
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")
        seen: list[str] = []

        class Curious(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                seen.append(variable.get())

        token = variable.set("private")
        sink, close = Curious.create(to=to)
        sink.log(make_event())
        sink.flush(TIMEOUT)
        close()
        variable.reset(token)
        assert seen == ["nothing"]


@pytest.mark.untraced
class TestInterruptions:
    def test_signal_handler_that_logs_meets_no_lock(self, make: Make, to: Destination) -> None:
        """It may log at any instruction of a log call, with any policy, also where the queue is full."""
        sink = make(queue_max_size=50, queue_overflow_policy=Policy.DROP_OLDEST)
        handled = 0

        def handle(number: int, frame: object) -> None:
            nonlocal handled
            sink.log(make_event("signal"))
            sink.stats()
            handled += 1

        before = signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        try:
            logged = 0
            deadline = time.monotonic() + TIMEOUT
            while handled < 300 and time.monotonic() < deadline:
                sink.log(make_event("main"))
                logged += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert sink.flush(TIMEOUT)
        stats = sink.stats()
        assert_accounts(stats)
        assert stats.accepted == logged + handled

    def test_signal_handler_that_raises_does_not_put_the_worker_to_sleep(self, make: Make, to: Destination) -> None:
        """Interrupted log calls do not keep later events from being delivered."""

        class Interrupted(Exception):
            pass

        def handle(number: int, frame: object) -> None:
            raise Interrupted

        sink = make(batch_max_age=0, queue_max_size=100_000)
        before = signal.signal(signal.SIGALRM, handle)
        interrupted = 0
        try:
            deadline = time.monotonic() + TIMEOUT
            while interrupted < 150 and time.monotonic() < deadline:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0003)
                    while True:
                        sink.log(make_event("main"))
                        time.sleep(0)
                except Interrupted:
                    interrupted += 1
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    sink.log(make_event(f"after {interrupted}"))
                    wait_until(lambda last=f"after {interrupted}": last in to.names)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert interrupted == 150
        assert_accounts(sink.stats())

    def test_finalizer_that_logs_during_a_log_call(self, make: Make, to: Destination) -> None:
        """The garbage collector may run in the middle of anything."""
        sink = make(queue_max_size=1_000_000)

        class Trash:
            def __init__(self) -> None:
                self.me = self

            def __del__(self) -> None:
                sink.log(make_event("collected"))

        threshold = gc.get_threshold()
        gc.set_threshold(1)
        try:
            for _ in range(300):
                Trash()
                sink.log(make_event("main"))
        finally:
            gc.set_threshold(*threshold)

        def all_are_there() -> bool:
            gc.collect()
            stats = sink.stats()
            assert_accounts(stats)
            # A finalizer that happens to run on the worker's thread counts as the worker's own doing.
            return stats.accepted + stats.rejected.get("recursion", 0) == 600

        wait_until(all_are_there)
        assert sink.flush(TIMEOUT)
        assert to.names.count("main") == 300


class TestRunBlocking:
    def test_on_a_thread_of_its_own_it_runs_there(self, make: Make, to: Destination) -> None:
        """No further thread is started for it."""
        seen: list[threading.Thread] = []

        class Seeing(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                seen.append(await self._run_blocking(threading.current_thread))

        sink = make(Seeing)
        sink.log(make_event())
        assert sink.flush(TIMEOUT)
        assert seen == worker_threads()

    def test_on_the_loop_of_the_application_it_runs_beside_it(self, to: Destination) -> None:
        """The application's loop goes on while the sink blocks."""

        async def main() -> None:
            sink = BlockingSink(to=to)
            to.open.clear()
            sink.log(make_event("0"))
            while not to.arrived.is_set():
                await asyncio.sleep(0.001)
            to.open.set()
            assert (await sink.stop()).success

        asyncio.run(main())
        assert to.names == ["0"]

    def test_what_it_raises_is_raised(self, to: Destination) -> None:
        """In both places."""

        def fail() -> None:
            raise ValueError("blocking")

        class Failing(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                await self._run_blocking(fail)

        async def main() -> None:
            sink = Failing(to=to, shutdown_timeout=0.1)
            sink.log(make_event())
            await sink.stop()
            assert sink.stats().last_error == "ValueError: blocking"

        with selflog_reports():
            asyncio.run(main())
            sink, close = Failing.create(to=to, shutdown_timeout=0.1)
            sink.log(make_event())
            close()
        assert sink.stats().last_error == "ValueError: blocking"
