"""The life of an asynchronous sink: starting, stopping, failing, being left alone."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
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
    AsyncioLogSinkDispatcherCancelledError,
    AsyncioLogSinkError,
    AsyncioLogSinkErrorReason,
    AsyncioLogSinkEventLoopUnavailableError,
    AsyncioLogSinkInvalidStateError,
    AsyncioLogSinkOnStartingHookFailedError,
    AsyncioLogSinkOnStoppedHookFailedError,
    AsyncioLogSinkOp,
    AsyncioLogSinkQueueOverflowPolicy,
    AsyncioLogSinkState,
    AsyncioLogSinkUnexpectedError,
    AsyncioLogSinkWaitHandle,
    LogEvent,
    LogSinkCreateError,
    LogSinkDescriptor,
    configure_log_sink,
    has_configured_log_sinks,
)

State = AsyncioLogSinkState


@pytest.fixture
def to() -> Destination:
    return Destination()


@pytest.fixture(autouse=True)
def no_thread_stays() -> Any:
    before = worker_threads()
    yield
    wait_until(lambda: not [thread for thread in worker_threads() if thread not in before])


class Starting(BatchSink):
    """Its hooks do as they are told."""

    def __init__(self, *, on_starting: Any = None, on_stopped: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.on_starting = on_starting
        self.on_stopped = on_stopped

    async def _on_starting(self) -> None:
        await super()._on_starting()
        await _do(self.on_starting)

    async def _on_stopped(self) -> None:
        await super()._on_stopped()
        await _do(self.on_stopped)


async def _do(what: Any) -> None:
    if isinstance(what, BaseException):
        raise what
    if isinstance(what, threading.Event):
        while not what.is_set():
            await asyncio.sleep(0.001)


class LoopInThread:
    """The application's loop, in a thread of its own."""

    def __enter__(self) -> LoopInThread:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        return self

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(TIMEOUT)

    def make(self, make: Callable[[], Any]) -> Any:
        async def inner() -> Any:
            return make()

        return self.run(inner())

    def __exit__(self, *exc_info: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


class TestDirectConstruction:
    def test_needs_a_running_loop(self, to: Destination) -> None:
        """Without one it is refused, and the text says what to do."""
        with pytest.raises(AsyncioLogSinkEventLoopUnavailableError, match=r"use BatchSink\.create") as caught:
            BatchSink(to=to)
        assert caught.value.reason is AsyncioLogSinkErrorReason.EVENT_LOOP_UNAVAILABLE
        assert isinstance(caught.value, AsyncioLogSinkError)

    async def test_virgin_sink_starts_with_its_first_event(self, to: Destination) -> None:
        """No thread is needed; it works on the loop that runs."""
        sink = BatchSink(to=to)
        assert sink.get_status() is State.VIRGIN
        assert to.runs == []
        sink.log(make_event("0"))
        assert sink.get_status() is State.STARTING
        result = await sink.stop()
        assert (result.op_name, result.success, result.error) == (AsyncioLogSinkOp.STOP, True, None)
        assert sink.get_status() is State.STOPPED
        assert to.names == ["0"]
        assert to.runs == ["starting", "stopped"]
        assert not worker_threads()

    async def test_starts_when_it_is_told(self, to: Destination) -> None:
        """Also without an event."""
        sink = BatchSink(to=to)
        result = await sink.start()
        assert (result.op_name, result.success, result.error) == (AsyncioLogSinkOp.START, True, None)
        assert sink.get_status() is State.RUNNING
        await sink.stop()

    async def test_stopped_one_refuses_events_until_it_starts_again(self, to: Destination) -> None:
        """There is no thread of its own that could deliver a straggler."""
        sink = BatchSink(to=to)
        sink.log(make_event("0"))
        await sink.stop()
        with pytest.raises(AsyncioLogSinkInvalidStateError, match="is stopped") as caught:
            sink.log(make_event("refused"))
        assert caught.value.reason is AsyncioLogSinkErrorReason.INVALID_STATE
        assert sink.stats().rejected == {"stopped": 1}
        assert (await sink.start()).success
        sink.log(make_event("1"))
        await sink.stop()
        assert to.names == ["0", "1"]
        assert to.runs == ["starting", "stopped"] * 2

    async def test_virgin_one_can_be_stopped(self, to: Destination) -> None:
        """Nothing has to happen for that."""
        sink = BatchSink(to=to)
        assert (await sink.stop()).success
        assert sink.get_status() is State.STOPPED
        assert to.runs == []

    async def test_failing_start_loses_what_was_accepted_and_says_so(self, to: Destination) -> None:
        """The sink is a FAILURE; further events are refused until start() works."""
        sink = Starting(to=to, on_starting=OSError("no route"))
        with selflog_reports() as reports:
            sink.log(make_event("0"))
            result = await sink.start()
            assert not result.success
            assert isinstance(result.error, AsyncioLogSinkOnStartingHookFailedError)
            assert result.error.reason is AsyncioLogSinkErrorReason.ON_STARTING_HOOK_FAILED
            assert isinstance(result.error.cause, OSError)
            assert "no route" in str(result.error)
        assert sink.get_status() is State.FAILURE
        assert sink.stats().dropped == {"failure": 1}
        assert [(report.kind, report.fields["lost"]) for report in reports] == [("failure", 1)]
        assert "no route" in reports[0].fields["error"]
        with pytest.raises(AsyncioLogSinkInvalidStateError, match=r"has failed; start\(\) tries again") as caught:
            sink.log(make_event("1"))
        assert caught.value.cause is result.error
        assert sink.stats().rejected == {"failure": 1}
        assert (await sink.stop()).success
        sink.on_starting = None
        assert (await sink.start()).success
        sink.log(make_event("2"))
        await sink.stop()
        assert to.names == ["2"]
        assert_accounts(sink.stats())

    def test_loop_that_was_closed(self, to: Destination) -> None:
        """A sink that outlives `asyncio.run` says what is wrong with it."""
        kept: list[BatchSink] = []

        async def main() -> None:
            kept.append(BatchSink(to=to))

        asyncio.run(main())
        with pytest.raises(AsyncioLogSinkEventLoopUnavailableError, match="the event loop that it was constructed on"):
            kept[0].log(make_event())
        assert kept[0].stats().rejected == {"loop_closed": 1}
        with selflog_reports():
            result = kept[0].start()
            assert isinstance(result.wait(0).error, AsyncioLogSinkEventLoopUnavailableError)
        assert kept[0].get_status() is State.FAILURE

    @pytest.mark.parametrize("at_work", [False, True])
    def test_loop_that_is_closed_under_a_sink_at_work(self, to: Destination, at_work: bool) -> None:
        """What waits is lost and counted, and nobody hangs or is warned of a pending task."""
        loop = asyncio.new_event_loop()
        complaints: list[Any] = []
        loop.set_exception_handler(lambda loop, context: complaints.append(context))
        policy = AsyncioLogSinkQueueOverflowPolicy.BLOCK

        async def make() -> BatchSink:
            sink = BatchSink(to=to, queue_max_size=3, queue_overflow_policy=policy, block_timeout=3600)
            await sink.start()
            sink.log(make_event("0"))
            while not to.arrived.is_set():
                await asyncio.sleep(0)
            return sink

        if at_work:
            to.open.clear()
        sink = loop.run_until_complete(make())
        loop.close()
        refused = 0
        with selflog_reports() as reports:
            for number in range(5):
                try:
                    sink.log(make_event(str(number)))
                except AsyncioLogSinkEventLoopUnavailableError:
                    refused += 1
            assert sink.flush() is True
        stats = sink.stats()
        assert_accounts(stats)
        assert refused
        assert stats.rejected == {"loop_closed": refused}
        assert stats.pending == 0
        assert sink.get_status() is State.CANCELLED
        assert {report.kind for report in reports} == {"loop_closed"}
        assert sum(report.fields["lost"] for report in reports) == sum(stats.dropped.values())
        sink.close()
        gone = weakref.ref(sink)
        del sink
        gc.collect()
        assert gone() is None
        assert not complaints

    def test_asyncio_run_that_ends_delivers_what_was_accepted(self, to: Destination) -> None:
        """It cancels the worker; what was accepted is delivered all the same, in order and once."""
        kept: list[CoreSink] = []

        async def main() -> None:
            sink = CoreSink(to=to)
            kept.append(sink)
            for number in range(50):
                sink.log(make_event(str(number)))
            while not to.arrived.is_set():
                await asyncio.sleep(0)

        asyncio.run(main())
        assert to.names == [str(number) for number in range(50)]
        assert kept[0].get_status() is State.CANCELLED
        with pytest.raises(AsyncioLogSinkEventLoopUnavailableError):
            kept[0].log(make_event())

    def test_batch_that_is_under_way_when_asyncio_run_ends(self, to: Destination) -> None:
        """It is dispatched again: cancelled in the middle, nobody knows whether it has arrived."""
        attempts: list[list[str]] = []

        class Slow(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                attempts.append([event.meta.event_name for event in events])
                await asyncio.sleep(0.05)
                await super()._dispatch_batch(events)

        async def main() -> Slow:
            sink = Slow(to=to)
            for name in ("0", "1", "2"):
                sink.log(make_event(name))
            while not attempts:
                await asyncio.sleep(0)
            sink.log(make_event("3"))
            return sink

        sink = asyncio.run(main())
        assert attempts == [["0", "1", "2"], ["0", "1", "2"], ["3"]]
        assert to.batches == [["0", "1", "2"], ["3"]]
        stats = sink.stats()
        assert (stats.accepted, stats.delivered, stats.pending, stats.dropped) == (4, 4, 0, {})
        assert to.runs == ["starting", "stopped"]

    def test_failures_after_asyncio_run_has_ended(self, to: Destination) -> None:
        """In the time that is left, too, no exception ends the sink: not even a cancellation of the client's own."""
        to.fail = lambda name: asyncio.CancelledError() if name == "1" else None

        async def main() -> CoreSink:
            sink = CoreSink(to=to)
            to.open.clear()
            for number in range(4):
                sink.log(make_event(str(number)))
            while not to.arrived.is_set():
                await asyncio.sleep(0)
            threading.Timer(0.02, to.open.set).start()
            return sink

        with selflog_reports():
            sink = asyncio.run(main())
        assert to.names == ["0", "2", "3"]
        assert sink.stats().dropped == {"refused": 1}

    def test_asyncio_run_that_ends_does_not_wait_for_ever(self, to: Destination) -> None:
        """A frozen destination holds it up for the deadline of the sink; what is left is counted and told."""
        to.open.clear()

        async def main() -> BatchSink:
            sink = BatchSink(to=to, shutdown_timeout=0.05)
            for number in range(3):
                sink.log(make_event(str(number)))
            while not to.arrived.is_set():
                await asyncio.sleep(0)
            return sink

        with selflog_reports() as reports:
            sink = asyncio.run(main())
        assert sink.stats().dropped == {"cancelled": 3}
        assert_accounts(sink.stats())
        assert [(report.kind, report.fields["lost"]) for report in reports] == [("cancelled", 3)]

    @pytest.mark.parametrize("begun", [False, True])
    def test_asyncio_run_that_ends_while_the_sink_connects(self, to: Destination, begun: bool) -> None:
        """A short program's events are delivered: the sink begins once more, and has until its deadline."""

        class Connecting(BatchSink):
            async def _on_starting(self) -> None:
                await super()._on_starting()
                await asyncio.sleep(0.02)

        async def main() -> BatchSink:
            sink = Connecting(to=to)
            for number in range(3):
                sink.log(make_event(str(number)))
            while begun and not to.runs:
                await asyncio.sleep(0)
            return sink

        sink = asyncio.run(main())
        assert to.names == ["0", "1", "2"]
        assert to.runs == ["starting", "starting", "stopped"]
        assert sink.get_status() is State.CANCELLED
        assert_accounts(sink.stats())

    def test_asyncio_run_that_ends_while_the_sink_cannot_connect(self, to: Destination) -> None:
        """What was accepted is counted and told at the deadline; nothing hangs."""

        async def main() -> Starting:
            sink = Starting(to=to, on_starting=threading.Event(), shutdown_timeout=0.05)
            sink.log(make_event())
            return sink

        with selflog_reports() as reports:
            sink = asyncio.run(main())
        assert sink.get_status() is State.CANCELLED
        assert sink.stats().dropped == {"cancelled": 1}
        assert [report.fields["lost"] for report in reports] == [1]
        assert isinstance(sink.start().wait(0).error, AsyncioLogSinkEventLoopUnavailableError)

    def test_asyncio_run_that_ends_before_the_worker_has_begun(self, to: Destination) -> None:
        """An event of another thread that comes at the last moment is delivered or counted."""

        async def main() -> BatchSink:
            sink = BatchSink(to=to)
            thread = threading.Thread(target=sink.log, args=(make_event(),))
            thread.start()
            thread.join()
            return sink

        with selflog_reports():
            sink = asyncio.run(main())
        stats = sink.stats()
        assert stats.pending == 0
        assert_accounts(stats)

    def test_asyncio_run_that_ends_with_an_idle_sink(self, to: Destination) -> None:
        """There is nothing to wait for."""

        async def main() -> Starting:
            sink = Starting(to=to, on_starting=threading.Event(), shutdown_timeout=3600)
            sink.start()
            return sink

        assert asyncio.run(main()).get_status() is State.CANCELLED

    async def test_worker_that_was_cancelled_from_outside(self, to: Destination) -> None:
        """It is CANCELLED, refuses events, and can be started again."""
        sink = BatchSink(to=to)
        sink.log(make_event("0"))
        await sink.start()
        (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "mvx-logger-BatchSink"]
        task.cancel()
        await asyncio.wait([task])
        assert sink.get_status() is State.CANCELLED
        assert to.names == ["0"]
        with pytest.raises(AsyncioLogSinkDispatcherCancelledError) as caught:
            sink.log(make_event("1"))
        assert caught.value.reason is AsyncioLogSinkErrorReason.DISPATCHER_CANCELLED
        assert sink.stats().rejected == {"cancelled": 1}
        assert (await sink.start()).success
        sink.log(make_event("2"))
        await sink.stop()
        assert to.names == ["0", "2"]

    def test_keyboard_interrupt_in_the_worker_is_the_applications(self, to: Destination) -> None:
        """On the application's loop it gets through; the sink is a FAILURE with true accounts, not a zombie."""
        to.fail = lambda name: KeyboardInterrupt()
        loop = asyncio.new_event_loop()

        async def make() -> BatchSink:
            return BatchSink(to=to)

        async def log() -> None:
            sink.log(make_event("0"))
            await asyncio.sleep(TIMEOUT)

        sink = loop.run_until_complete(make())
        with selflog_reports() as reports, pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(log())
        assert sink.get_status() is State.FAILURE
        assert sink.stats().dropped == {"failure": 1}
        assert [report.fields["lost"] for report in reports] == [1]
        loop.close()

    if sys.version_info >= (3, 12):

        async def test_eager_tasks_make_no_difference(self, to: Destination) -> None:
            """Where the application's loop runs new tasks at once (Python 3.12)."""
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
            sink = CoreSink(to=to)
            for number in range(5):
                sink.log(make_event(str(number)))
            assert (await sink.stop()).success
            assert to.names == ["0", "1", "2", "3", "4"]

    def test_application_that_runs_its_loop_in_pieces(self, to: Destination) -> None:
        """The sink goes on whenever the loop does; nobody waits for a loop that does not run."""
        loop = asyncio.new_event_loop()

        async def make() -> BatchSink:
            return BatchSink(to=to)

        sink = loop.run_until_complete(make())
        with pytest.raises(AsyncioLogSinkInvalidStateError, match="that loop does not run"):
            sink.start().wait()
        for number in range(3):
            sink.log(make_event(str(number)))

            async def settle() -> None:
                while not sink.flush():
                    await asyncio.sleep(0)

            loop.run_until_complete(settle())
        assert to.names == ["0", "1", "2"]
        sink.log(make_event("lost"))
        with selflog_reports() as reports:
            sink.close()
        assert sink.get_status() is State.FAILURE
        assert sink.stats().dropped == {"shutdown": 1}
        assert [report.fields["lost"] for report in reports] == [1]
        # When the loop runs once more after all, the worker ends there, and the sink can be used again.
        loop.run_until_complete(asyncio.sleep(0.01))

        async def again() -> None:
            assert (await sink.start()).success
            sink.log(make_event("again"))
            await sink.stop()

        loop.run_until_complete(again())
        assert to.names == ["0", "1", "2", "again"]
        loop.close()


class TestOperations:
    def test_create_gives_a_running_sink(self, to: Destination) -> None:
        """Its terminator is idempotent."""
        sink, close = BatchSink.create(to=to)
        assert sink.get_status() is State.RUNNING
        assert len(worker_threads()) == 1
        close()
        close()
        assert sink.get_status() is State.STOPPED
        assert not worker_threads()
        assert to.runs == ["starting", "stopped"]

    def test_concurrent_calls_share_one_operation(self, to: Destination) -> None:
        """Everybody waits for the same start, and for the same stop."""
        sink, close = BatchSink.create(to=to)
        handles: list[AsyncioLogSinkWaitHandle] = []
        for operation in (sink.stop, sink.start):
            handles.clear()
            threads = [
                threading.Thread(target=lambda operation=operation: handles.append(operation())) for _ in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len({id(handle) for handle in handles}) == 1
            assert handles[0].wait(TIMEOUT).success
        close()
        assert to.runs == ["starting", "stopped"] * 2

    def test_stop_delivers_what_was_accepted(self, to: Destination) -> None:
        """Without waiting for the age of the batch."""
        sink, _ = BatchSink.create(to=to, batch_max_age=3600, shutdown_timeout=TIMEOUT)
        for number in range(2_500):
            sink.log(make_event(str(number)))
        handle = sink.stop()
        assert handle.wait().success
        assert handle.done()
        assert to.names == [str(number) for number in range(2_500)]

    async def test_handles_can_be_awaited_from_any_loop(self, to: Destination) -> None:
        """Also by many, and by some who lose patience."""
        sink, close = BatchSink.create(to=to)
        to.open.clear()
        sink.log(make_event())
        handle = sink.stop()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(handle, 0.01)
        waiting = [asyncio.ensure_future(_await(handle)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        to.open.set()
        assert (await waiting[1]).success
        assert (await waiting[2]).success
        assert waiting[0].cancelled()
        assert (await handle) is handle.wait()
        close()

    def test_loop_of_a_waiter_that_is_gone(self, to: Destination) -> None:
        """Whoever stopped waiting does not disturb the end of the operation."""
        sink, close = BatchSink.create(to=to)
        to.open.clear()
        sink.log(make_event())

        async def give_up() -> None:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(sink.stop(), 0.01)

        asyncio.run(give_up())
        to.open.set()
        assert sink.stop().wait(TIMEOUT).success
        close()

    def test_wait_has_a_timeout(self, to: Destination) -> None:
        """The operation goes on."""
        sink, close = BatchSink.create(to=to)
        to.open.clear()
        sink.log(make_event())
        handle = sink.stop()
        with pytest.raises(TimeoutError, match=r"the sink did not stop within 0\.01 seconds"):
            handle.wait(0.01)
        assert not handle.done()
        to.open.set()
        assert handle.wait().success
        close()

    async def test_wait_on_the_loop_that_has_to_do_the_work(self, to: Destination) -> None:
        """It is refused: it would wait for itself."""
        sink = BatchSink(to=to)
        handle = sink.start()
        with pytest.raises(AsyncioLogSinkInvalidStateError, match="use 'await handle'"):
            handle.wait()
        assert (await handle).success
        assert handle.wait().success
        sink.close()
        assert (await sink.stop()).success

    def test_wait_in_the_worker(self, to: Destination) -> None:
        """A sink cannot wait for its own end; close() there does not wait either."""
        raised: list[BaseException] = []

        class Closing(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                self.close()
                try:
                    self.stop().wait()
                except AsyncioLogSinkInvalidStateError as err:
                    raised.append(err)
                await super()._dispatch_batch(events)

        sink, _ = Closing.create(to=to)
        sink.log(make_event("0"))
        wait_until(lambda: sink.get_status() is State.STOPPED)
        assert raised
        assert to.names == ["0"]

    def test_start_of_a_running_sink_changes_nothing(self, to: Destination) -> None:
        """It is the start that has been."""
        sink, close = BatchSink.create(to=to)
        assert sink.start().wait().success
        assert to.runs == ["starting"]
        close()

    def test_stop_then_start_is_a_restart(self, to: Destination) -> None:
        """The start waits for the end of the stop; nothing is lost in between."""
        sink, close = BatchSink.create(to=to)
        to.open.clear()
        sink.log(make_event("0"))
        stopping = sink.stop()
        starting = sink.start()
        assert sink.start() is starting
        sink.log(make_event("1"))
        assert not starting.done()
        to.open.set()
        assert stopping.wait(TIMEOUT).success
        assert starting.wait(TIMEOUT).success
        assert sink.get_status() is State.RUNNING
        sink.log(make_event("2"))
        close()
        assert to.names == ["0", "1", "2"]

    def test_stop_start_stop_stops(self, to: Destination) -> None:
        """The last word counts, and the start is told."""
        sink, close = BatchSink.create(to=to)
        to.open.clear()
        sink.log(make_event("0"))
        stopping = sink.stop()
        starting = sink.start()
        assert sink.stop() is stopping
        result = starting.wait(TIMEOUT)
        assert not result.success
        assert isinstance(result.error, AsyncioLogSinkInvalidStateError)
        to.open.set()
        assert stopping.wait(TIMEOUT).success
        assert sink.get_status() is State.STOPPED
        close()

    def test_start_and_stop_from_many_threads_at_once(self, to: Destination) -> None:
        """Each call's handle ends; the accounts are true; every event arrives once."""
        sink, close = BatchSink.create(to=to)
        fates: list[Any] = []
        logged: list[str] = []

        def play(thread: int) -> None:
            for number in range(25):
                name = f"{thread} {number}"
                sink.log(make_event(name))
                logged.append(name)
                fates.append((sink.stop if (thread + number) % 2 else sink.start)().wait(TIMEOUT))

        threads = [threading.Thread(target=play, args=(thread,)) for thread in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        close()
        wait_until(lambda: sink.get_status() is State.STOPPED and not sink.stats().pending)
        assert len(fates) == 150
        assert all(fate.success or isinstance(fate.error, AsyncioLogSinkInvalidStateError) for fate in fates)
        assert sorted(to.names) == sorted(logged)
        assert to.runs == ["starting", "stopped"] * (len(to.runs) // 2)
        assert_accounts(sink.stats())

    def test_stop_of_a_sink_that_still_starts(self, to: Destination) -> None:
        """It ends at the deadline, and the start is told that it did not happen."""
        with LoopInThread() as app:
            sink = app.make(lambda: Starting(to=to, on_starting=threading.Event(), shutdown_timeout=0.05))
            starting = sink.start()
            sink.log(make_event())
            with selflog_reports() as reports:
                assert sink.stop().wait(TIMEOUT).success
            assert isinstance(starting.wait().error, AsyncioLogSinkInvalidStateError)
            assert sink.get_status() is State.STOPPED
            assert sink.stats().dropped == {"shutdown": 1}
            assert [report.fields["lost"] for report in reports] == [1]

    def test_failing_end_is_told(self, to: Destination) -> None:
        """What was accepted is delivered; the error names the hook."""
        sink, close = Starting.create(to=to, on_stopped=OSError("half closed"))
        sink.log(make_event("0"))
        result = sink.stop().wait()
        assert not result.success
        assert isinstance(result.error, AsyncioLogSinkOnStoppedHookFailedError)
        assert result.error.reason is AsyncioLogSinkErrorReason.ON_STOPPED_HOOK_FAILED
        assert "half closed" in str(result.error)
        assert to.names == ["0"]
        assert sink.get_status() is State.STOPPED
        close()

    def test_end_that_does_not_end(self, to: Destination) -> None:
        """`_on_stopped` has until the deadline."""
        sink, close = Starting.create(to=to, on_stopped=threading.Event(), shutdown_timeout=0.05)
        result = sink.stop().wait(TIMEOUT)
        assert isinstance(result.error, AsyncioLogSinkOnStoppedHookFailedError)
        assert isinstance(result.error.cause, TimeoutError)
        close()


async def _await(handle: AsyncioLogSinkWaitHandle) -> Any:
    return await handle


class TestCreate:
    def test_constructor_that_raises_leaves_nothing(self) -> None:
        """Its exception comes out; no thread stays."""

        class Broken(BatchSink):
            def __init__(self) -> None:
                raise OSError("no disk")

        with pytest.raises(OSError, match="no disk"):
            Broken.create()
        assert not worker_threads()

    def test_constructor_that_raises_after_the_base_was_made(self, to: Destination) -> None:
        """The half-made sink disturbs nobody."""

        class Broken(BatchSink):
            def __init__(self) -> None:
                super().__init__(to=to)
                raise OSError("no disk")

        with pytest.raises(OSError, match="no disk"):
            Broken.create()
        assert not worker_threads()
        assert to.runs == []

    @pytest.mark.parametrize("error", [OSError("down"), SystemExit(3), asyncio.CancelledError()])
    def test_start_that_raises_leaves_nothing(self, to: Destination, error: BaseException) -> None:
        """Whatever `_on_starting` raises, create() tells, and no thread stays."""
        with selflog_reports(), pytest.raises(AsyncioLogSinkOnStartingHookFailedError) as caught:
            Starting.create(to=to, on_starting=error)
        assert type(caught.value.cause) is type(error)
        assert not worker_threads()

    def test_registration_of_one_that_cannot_start(self, to: Destination) -> None:
        """Nothing is registered."""

        class Registered(Starting):
            @classmethod
            def build_descriptor(cls, **options: Any) -> LogSinkDescriptor:
                return LogSinkDescriptor("registered", ())

        before = has_configured_log_sinks()
        with selflog_reports(), pytest.raises(LogSinkCreateError, match="_on_starting failed: OSError: down"):
            configure_log_sink(name="broken", sink_cls=Registered, to=to, on_starting=OSError("down"))
        assert has_configured_log_sinks() is before
        assert not worker_threads()

    def test_no_thread_to_be_had(self, to: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
        """A straggler that finds no thread is refused with the reason, and the sink works again later."""
        sink, close = BatchSink.create(to=to)
        close()

        def start(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with selflog_reports(), monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(AsyncioLogSinkInvalidStateError) as caught:
                sink.log(make_event("refused"))
            assert isinstance(caught.value.cause, AsyncioLogSinkEventLoopUnavailableError)
            assert "can't start new thread" in str(caught.value.cause)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                BatchSink.create(to=to)
        assert sink.get_status() is State.FAILURE
        assert_accounts(sink.stats())
        assert sink.start().wait().success
        sink.log(make_event("later"))
        close()
        assert to.names == ["later"]

    def test_interrupted_create_leaves_nothing(self, to: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ctrl-C while it waits for a sink that is slow to start: the sink ends in the background."""

        def wait(self: AsyncioLogSinkWaitHandle, timeout: float | None = None) -> Any:
            raise KeyboardInterrupt

        may_start = threading.Event()
        monkeypatch.setattr(AsyncioLogSinkWaitHandle, "wait", wait)
        with pytest.raises(KeyboardInterrupt):
            Starting.create(to=to, on_starting=may_start)
        may_start.set()
        wait_until(lambda: to.runs == ["starting", "stopped"])


class TestDeadline:
    def test_destination_that_does_not_answer(self, to: Destination) -> None:
        """close() returns at the deadline; what is left is counted and told in one line."""
        sink, close = BatchSink.create(to=to, shutdown_timeout=0.05)
        to.open.clear()
        for number in range(5):
            sink.log(make_event(str(number)))
        with selflog_reports() as reports:
            close()
        assert sink.get_status() is State.STOPPED
        assert sink.stats().dropped == {"shutdown": 5}
        assert_accounts(sink.stats())
        assert [(report.kind, report.fields["lost"]) for report in reports] == [("shutdown", 5)]
        assert to.runs == ["starting", "stopped"]

    def test_destination_that_blocks_the_worker(self, to: Destination) -> None:
        """The stuck thread is left behind; when its call returns, it ends, and the sink can be used again."""
        sink, close = BlockingSink.create(to=to, shutdown_timeout=0.05)
        to.open.clear()
        for number in range(5):
            sink.log(make_event(str(number)))
        assert to.arrived.wait(TIMEOUT)
        with selflog_reports() as reports:
            close()
            assert sink.get_status() is State.FAILURE
            assert sink.stats().dropped == {"shutdown": 5}
            assert [(report.kind, report.fields["lost"]) for report in reports] == [("shutdown", 5)]
            assert worker_threads()
            with pytest.raises(AsyncioLogSinkInvalidStateError):
                sink.log(make_event("refused"))
            result = sink.start().wait(0)
            assert "is stuck in a call that blocks it" in str(result.error)
            to.open.set()
            wait_until(lambda: not worker_threads())
        assert_accounts(sink.stats())
        assert sink.start().wait(TIMEOUT).success
        sink.log(make_event("again"))
        close()
        assert to.names[-1] == "again"
        assert_accounts(sink.stats())

    def test_wait_for_a_stop_ends_although_the_worker_is_blocked(self, to: Destination) -> None:
        """The result says what happened."""
        sink, _ = BlockingSink.create(to=to, shutdown_timeout=0.02)
        to.open.clear()
        sink.log(make_event())
        assert to.arrived.wait(TIMEOUT)
        with selflog_reports():
            result = sink.stop().wait()
        assert not result.success
        assert isinstance(result.error, AsyncioLogSinkUnexpectedError)
        assert result.error.reason is AsyncioLogSinkErrorReason.UNEXPECTED
        to.open.set()

    async def test_awaiting_a_stop_ends_although_the_worker_is_blocked(self, to: Destination) -> None:
        """Likewise."""
        sink, _ = BlockingSink.create(to=to, shutdown_timeout=0.02)
        to.open.clear()
        sink.log(make_event())
        while not to.arrived.is_set():
            await asyncio.sleep(0.001)
        with selflog_reports():
            result = await sink.stop()
        assert isinstance(result.error, AsyncioLogSinkUnexpectedError)
        to.open.set()

    def test_dispatch_that_cannot_be_cancelled(self, to: Destination) -> None:
        """A client library that swallows the cancellation does not keep close() from returning."""

        class Stubborn(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                to.arrived.set()
                while not to.open.is_set():
                    try:
                        await asyncio.sleep(0.01)
                    except asyncio.CancelledError:
                        continue

        sink, close = Stubborn.create(to=to, shutdown_timeout=0.02)
        to.open.clear()
        sink.log(make_event())
        with selflog_reports() as reports:
            close()
        assert sink.stats().dropped == {"shutdown": 1}
        assert len(reports) == 1
        to.open.set()

    def test_load_that_never_ends(self, to: Destination) -> None:
        """A sink that is closed under constant load ends; a worker that never suspends has a deadline too."""

        class Busy(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                time.sleep(0.001)
                to.batches.append([event.meta.event_name for event in events])

        policy = AsyncioLogSinkQueueOverflowPolicy.BLOCK
        sink, close = Busy.create(to=to, shutdown_timeout=0.3, queue_max_size=500, queue_overflow_policy=policy)
        over = threading.Event()

        def log_all() -> None:
            while not over.is_set():
                sink.log(make_event())

        threads = [threading.Thread(target=log_all) for _ in range(4)]
        with selflog_reports() as reports:
            for thread in threads:
                thread.start()
            wait_until(lambda: len(to.batches) > 10)
            handle = sink.stop()
            assert handle.wait().success
            over.set()
            for thread in threads:
                thread.join()
            close()
            wait_until(lambda: sink.get_status() is State.STOPPED and not sink.stats().pending)
        stats = sink.stats()
        assert_accounts(stats)
        assert stats.delivered == len(to.names)
        assert sum(report.fields["lost"] for report in reports) == sum(stats.dropped.values())

    def test_application_goes_on_under_constant_load(self, to: Destination) -> None:
        """A dispatch that never suspends leaves the application's loop its turns."""

        class Busy(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                to.batches.append([event.meta.event_name for event in events])
                for event in events:  # there is always more to do
                    threading.Thread(target=self.log, args=(event,)).start()

        async def main() -> None:
            sink = Busy(to=to, shutdown_timeout=0.02, batch_max_size=1)
            for number in range(5):
                sink.log(make_event(str(number)))
            while len(to.batches) < 50:
                await asyncio.sleep(0)
            with selflog_reports():
                await sink.stop()

        before = threading.active_count()
        asyncio.run(asyncio.wait_for(main(), TIMEOUT))
        wait_until(lambda: threading.active_count() <= before)


class TestStragglers:
    def test_event_after_the_end_is_delivered(self, to: Destination) -> None:
        """A sink of its own thread takes up work once more, and no thread stays behind."""
        sink, close = BatchSink.create(to=to)
        close()
        for number in range(3):
            sink.log(make_event(str(number)))
            assert sink.flush(TIMEOUT)
            assert to.names[-1] == str(number)
            wait_until(lambda: not worker_threads())
        assert sink.get_status() is State.STOPPED
        assert_accounts(sink.stats())

    def test_events_of_many_threads_around_the_end(self, to: Destination) -> None:
        """Whenever close() comes, every accepted event is delivered, once."""
        for _ in range(15):
            sink, close = BatchSink.create(to=to, queue_max_size=100_000)
            go = threading.Barrier(5)

            def log_all(thread: int, sink: Any = sink, go: Any = go) -> None:
                go.wait()
                for number in range(200):
                    sink.log(make_event(f"{thread} {number}"))

            threads = [threading.Thread(target=log_all, args=(thread,)) for thread in range(4)]
            for thread in threads:
                thread.start()
            go.wait()
            close()
            for thread in threads:
                thread.join()
            wait_until(lambda sink=sink: sink.stats().delivered == 800)
            wait_until(lambda: not worker_threads())
            assert sink.get_status() is State.STOPPED
            assert_accounts(sink.stats())
            assert not sink.stats().dropped
        assert len(to.names) == 15 * 800

    def test_event_of_a_thread_that_was_held_up_while_the_sink_began_anew(self, to: Destination) -> None:
        """It knows of the old loop only, which is closed: the new run is woken, and not taken for lost."""
        sink, close = BatchSink.create(to=to)
        loop = sink._AsyncioLogSink__loop  # type: ignore[attr-defined]
        call_soon_threadsafe = loop.call_soon_threadsafe

        def hold_up(*args: Any) -> Any:
            loop.call_soon_threadsafe = call_soon_threadsafe
            close()
            assert sink.start().wait(TIMEOUT).success
            return call_soon_threadsafe(*args)

        assert sink.flush(TIMEOUT)
        loop.call_soon_threadsafe = hold_up
        sink.log(make_event("0"))
        sink.log(make_event("1"))
        assert sink.flush(TIMEOUT)
        assert sink.get_status() is State.RUNNING
        assert to.names == ["0", "1"]
        close()

    def test_start_while_a_straggler_is_delivered(self, to: Destination) -> None:
        """start() always succeeds in the end."""
        sink, close = BatchSink.create(to=to)
        close()
        to.open.clear()
        sink.log(make_event("straggler"))
        handle = sink.start()
        to.open.set()
        assert handle.wait(TIMEOUT).success
        assert sink.get_status() is State.RUNNING
        sink.log(make_event("0"))
        close()
        assert to.names == ["straggler", "0"]

    def test_report_at_the_end_may_log_to_the_sink(self, to: Destination) -> None:
        """Whoever redirects the logger's own reports into a sink that has just ended gets them delivered."""
        from mvx_logger import selflog

        sink, close = BatchSink.create(to=to, shutdown_timeout=0.02)
        to.open.clear()
        sink.log(make_event("lost"))

        def log_report(report: Any) -> None:
            to.open.set()
            # From the thread of the worker that ends; a thread of one's own is not guarded.
            thread = threading.Thread(target=sink.log, args=(make_event(report.kind),))
            thread.start()
            thread.join()

        before = selflog.redirect(log_report)
        try:
            close()
            wait_until(lambda: to.names == ["shutdown"])
        finally:
            selflog.redirect(before)
        wait_until(lambda: not worker_threads())


class TestAbandonment:
    def test_running_sink_that_nobody_refers_to(self, to: Destination) -> None:
        """It lives on, delivers, and can be found by the package's flush."""
        import mvx_logger

        sink, _ = BatchSink.create(to=to)
        alive = weakref.ref(sink)
        del sink, _
        gc.collect()
        sink = alive()
        assert sink is not None
        sink.log(make_event("0"))
        del sink
        gc.collect()
        assert mvx_logger.flush(TIMEOUT)
        assert to.names == ["0"]
        kept = alive()
        assert kept is not None
        kept.close()
        del kept
        gc.collect()
        assert alive() is None

    async def test_running_sink_on_the_loop_of_the_application(self, to: Destination) -> None:
        """Event loops hold their tasks by weak references: the sink lives and delivers all the same."""
        sink = BatchSink(to=to)
        assert (await sink.start()).success
        alive = weakref.ref(sink)
        del sink
        gc.collect()
        kept = alive()
        assert kept is not None
        kept.log(make_event("0"))
        assert (await kept.stop()).success
        assert to.names == ["0"]

    async def test_stopped_or_virgin_sink_is_collected(self, to: Destination) -> None:
        """Nothing holds it."""
        virgin = BatchSink(to=to)
        stopped = BatchSink(to=to)
        stopped.log(make_event())
        await stopped.stop()
        gone = [weakref.ref(virgin), weakref.ref(stopped)]
        del virgin, stopped
        await asyncio.sleep(0)
        gc.collect()
        assert [ref() for ref in gone] == [None, None]

    def test_sinks_may_come_and_go_while_all_are_flushed(self, to: Destination) -> None:
        """The list of sinks can be looked at while other threads change it."""
        import mvx_logger

        over = threading.Event()
        errors: list[BaseException] = []

        def make_sinks() -> None:
            try:
                while not over.is_set():
                    asyncio.run(_make_sink(to))
            except BaseException as err:
                errors.append(err)

        threads = [threading.Thread(target=make_sinks) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(200):
            mvx_logger.flush(TIMEOUT)
        over.set()
        for thread in threads:
            thread.join()
        assert not errors

    def test_sinks_may_compare_as_they_like(self, to: Destination) -> None:
        """A subclass need not be hashable."""

        class Equal(BatchSink):
            def __eq__(self, other: object) -> bool:
                return True

            __hash__ = None  # type: ignore[assignment]

        one, close_one = Equal.create(to=to)
        two, close_two = Equal.create(to=to)
        one.log(make_event("1"))
        two.log(make_event("2"))
        close_one()
        close_two()
        assert sorted(to.names) == ["1", "2"]


class TestWorker:
    def test_blocking_calls_of_a_client_run_in_threads_of_their_own(self, to: Destination) -> None:
        """What `run_in_executor` gives back or raises comes through, and a cancelled call is not made."""

        def fail() -> None:
            raise ValueError("blocking")

        results: list[Any] = []

        class Client(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                loop = asyncio.get_running_loop()
                results.append(await loop.run_in_executor(None, threading.current_thread))
                results.append(await loop.run_in_executor(None, threading.current_thread))
                with pytest.raises(ValueError, match="blocking"):
                    await loop.run_in_executor(None, fail)
                await super()._dispatch_batch(events)

        sink, close = Client.create(to=to)
        sink.log(make_event("0"))
        assert sink.flush(TIMEOUT)
        close()
        assert to.names == ["0"]
        assert len(set(results)) == 2
        assert all(thread.daemon for thread in results)

    def test_blocking_calls_where_no_thread_can_be_started(
        self, to: Destination, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They run on the worker's thread: late is better than never."""
        start = threading.Thread.start

        def refuse(self: threading.Thread) -> None:
            if self.name.endswith("-blocking"):
                raise RuntimeError("can't start new thread")
            start(self)

        class Client(BatchSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                self.ran_on = await asyncio.to_thread(threading.current_thread)
                await super()._dispatch_batch(events)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        sink, close = Client.create(to=to)
        thread = worker_threads()[0]
        sink.log(make_event("0"))
        assert sink.flush(TIMEOUT)
        assert sink.ran_on is thread
        close()

    def test_tasks_and_generators_of_a_client_that_were_left_running(self, to: Destination) -> None:
        """They are cancelled when the worker's loop ends."""
        ended: list[str] = []

        class Client(BatchSink):
            async def _on_starting(self) -> None:
                self.task = asyncio.create_task(self._poll())

            async def _poll(self) -> None:
                try:
                    await asyncio.sleep(3600)
                finally:
                    ended.append("task")

        _, close = Client.create(to=to)
        close()
        assert ended == ["task"]

    def test_sink_that_is_made_while_dictconfig_holds_the_lock_of_logging(self, to: Destination) -> None:
        """A client library that logs while it connects waits for that lock: create() does not wait for it."""
        lock = logging._lock  # type: ignore[attr-defined]

        class Client(BatchSink):
            async def _on_starting(self) -> None:
                logging.getLogger("tests.client").setLevel("DEBUG")  # takes the lock
                await super()._on_starting()

        with lock:
            sink, close = Client.create(to=to)
            quick, close_quick = BatchSink.create(to=to)
            assert to.runs == ["starting"]
            assert quick.get_status() is State.RUNNING
            sink.log(make_event("0"))
        assert sink.flush(TIMEOUT)
        close()
        close_quick()
        assert to.names == ["0"]

    async def test_core_only_sink_serves_batches(self, to: Destination) -> None:
        """What hands over a batch works with a sink that takes single events."""
        await CoreSink(to=to)._dispatch_batch([make_event("0"), make_event("1")])
        assert to.batches == [["0"], ["1"]]


async def _make_sink(to: Destination) -> None:
    BatchSink(to=to)
