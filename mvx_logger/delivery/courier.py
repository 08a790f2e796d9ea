"""The courier takes a window of events to the destination, and comes back when every event in it is settled.

The first attempt is with everything. When it fails, `DeliverySchedule` says what is tried next, and when.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

from .. import selflog
from ..errors import LogDeliveryPartialError, LogDeliveryTransientError
from ..guard import forwarding_log, guarded_log
from ..masking import describe_error
from ..model import LogEvent
from ..protocols import LogSinkProto
from .accounts import Accounts
from .dead_letter import make_dead_letter
from .disk import Disk
from .ids import MAX_SEQUENCE, id_prefix, new_epoch
from .operations import FOREVER
from .queue import EventQueue
from .schedule import DeliverySchedule, LogDeliveryErrorKind, RetryPolicy, Settled, Wait
from .spool import SpoolRun
from .window import LogEventBatch, Window

__all__ = ["HURRY", "Courier", "DeliveryFailed"]

HURRY = 0.25
"""Seconds that a retry waits at most while the sink is ending."""


_DISCONNECT_TIMEOUT = 5.0
_ANY_BYTES = 1 << 62


class DeliveryFailed(Exception):  # noqa: N818 - not an error of its own
    """A delivery failed, and the policy is to end; the cause is chained."""


class _Sink(Protocol):
    async def _on_connecting(self) -> None: ...
    async def _on_disconnecting(self) -> None: ...
    def _is_connection_lost(self) -> bool: ...
    async def _dispatch_core(self, event: LogEvent) -> None: ...
    async def _dispatch_batch(self, events: LogEventBatch) -> None: ...
    def _classify_error(self, error: BaseException) -> LogDeliveryErrorKind: ...


class Courier:
    """Delivers for one sink, one window at a time.

    Args:
        sink: Whose ``_dispatch_*`` is called.
        batched: True calls ``_dispatch_batch``, False ``_dispatch_core`` with one event at a time.
        policy: How failures are retried.
        fails: True raises `DeliveryFailed` at the first failure.
        timeout: How long one attempt may take, in seconds; None lets it take for ever.
        accounts: Where events are counted.
        disk: Where settled events are removed; None where there is none.
        dead_letter: Where events go that are given up on; None counts them as dropped.
        label: The sink, for reports.
        is_failure: True for what the sink's code has raised, False for what is to end the worker.
        take: More events, at most so many, if there are any.
        pause: Waits for so many seconds, or until there is news; for events too, if asked to.

    Attributes:
        window: What is under way; None when everything is settled.
    """

    def __init__(
        self,
        sink: _Sink,
        *,
        batched: bool,
        policy: RetryPolicy,
        fails: bool,
        timeout: float | None,
        accounts: Accounts,
        disk: Disk | None,
        dead_letter: LogSinkProto | None,
        label: str,
        is_failure: Callable[[BaseException], bool],
        take: Callable[[int], Window | None],
        pause: Callable[[float, bool], Awaitable[None]],
    ) -> None:
        self.window: Window | None = None
        self._sink = sink
        self._batched = batched
        self._fails = fails
        self._timeout = timeout
        self._accounts = accounts
        self._disk = disk
        self._dead_letter = dead_letter
        self._label = label
        self._is_failure = is_failure
        self._take = take
        self._pause = pause
        self._schedule = DeliverySchedule(policy, one_by_one=not batched)
        self._is_connected = False
        self._in_hurry = False
        self._longest_delay: float | None = None
        self._prefix = ""
        self._sequence = MAX_SEQUENCE
        # The watch over attempts that take too long.
        self._task: asyncio.Task[Any] | None = None
        self._attempt_until: float | None = None
        self._watch_timer: asyncio.TimerHandle | None = None
        self._timed_out = False

    @property
    def retries(self) -> int:
        """How many attempts repeated events."""
        return self._schedule.retries

    @property
    def circuit(self) -> str:
        """``closed``, ``open`` or ``half_open``."""
        return self._schedule.circuit

    def make_run(self, count: int) -> SpoolRun:
        """Ids for events that are on no disk."""
        if self._sequence + count > MAX_SEQUENCE:
            self._prefix, self._sequence = id_prefix(new_epoch()), 0
        first = self._sequence
        self._sequence += count
        return SpoolRun(self._prefix, first, count)

    def hurry(self, max_delay: float | None = None) -> None:
        """End the present wait; with ``max_delay``, no later one is longer than that, in seconds."""
        self._in_hurry = True
        self._longest_delay = max_delay

    # ------------------------------------------------------------------ one window

    async def deliver(self, window: Window) -> None:
        """Deliver until every event of the window is settled. When it is cancelled, it may be called again.

        Raises:
            DeliveryFailed: An attempt failed, and the policy is to end.
        """
        self.window = window
        self._task = asyncio.current_task()
        schedule = self._schedule
        if not window.scheduled:
            error = None
            if not schedule.failures and not schedule.is_waiting(time.monotonic()):
                error = await self._deliver_at_once(window)
                if error is None:
                    self._finish(window)
                    return
            window.scheduled = True
            schedule.begin(len(window) - window.offset)
            if error is not None:
                schedule.decide(time.monotonic())  # what has just been tried
                await self._on_failure(window, len(window) - window.offset if self._batched else 1, error)
        while (step := schedule.decide(time.monotonic())) is not None:
            if isinstance(step, Wait):
                await self._hold(window, step)
                continue
            start, stop = window.offset + step.start, window.offset + step.stop
            try:
                error = await self._attempt(window, start, stop)
            except GeneratorExit:  # thrown away with its loop
                raise
            except BaseException:
                # Cancelled half-way, and not by us: what comes of the events is for the end of the run to say.
                self._settle(window, schedule.failed(time.monotonic(), LogDeliveryErrorKind.TRANSIENT))
                raise
            if error is None:
                self._on_success(window)
            else:
                await self._on_failure(window, stop - start, error)
                # A subclass may never suspend, and there may be nothing to wait for: the deadline of a stop comes in here.
                await asyncio.sleep(0)
        self._finish(window)

    async def _deliver_at_once(self, window: Window) -> BaseException | None:
        # What is delivered before an error is behind window.offset then.
        size = len(window)
        if self._batched:
            error = await self._attempt(window, window.offset, size)
            if error is None:
                self._accounts.deliver(size - window.offset)
                window.delivered = True
            return error
        for index in range(window.offset, size):
            error = await self._attempt(window, index, index + 1)
            if error is not None:
                return error
            self._accounts.deliver(1, batches=0)
            window.delivered = True
            window.offset = index + 1
            if self._disk is not None:
                window.settle(index, index + 1)
                self._disk.confirm(window)
        self._accounts.deliver(0)
        return None

    async def _attempt(self, window: Window, start: int, stop: int) -> BaseException | None:
        """Hand events to the sink; what that raises, unless the worker itself is to end."""
        window.attempts += 1
        if self._timeout is not None:
            self._attempt_until = time.monotonic() + self._timeout
            if self._watch_timer is None:
                self._watch()
        try:
            if self._is_connected and self._sink._is_connection_lost():
                await self.disconnect()
            if not self._is_connected:
                # Only what was made is given up: in a forked child, the sink's attributes still hold what is the parent's.
                await self._sink._on_connecting()
                self._is_connected = True
            if self._batched:
                await self._sink._dispatch_batch(window.make_batch(start, stop, window.attempts))
            else:
                await self._sink._dispatch_core(window.events[start])
        except BaseException as err:
            if self._forgive_timeout():
                return TimeoutError(f"no answer within {self._timeout} seconds")
            if not self._is_failure(err):
                raise
            return err
        finally:
            self._attempt_until = None
        self._forgive_timeout()
        return None

    async def _hold(self, window: Window, wait: Wait) -> None:
        if self._in_hurry:
            self._in_hurry = False
            self._schedule.hurry(time.monotonic(), max_delay=self._longest_delay)
            return
        if wait.wants_more:
            more = self._take(1)
            if more is not None:
                self._schedule.extend(len(more))
                window.extend(more)
                return
        await self._pause(max(0.0, wait.until - time.monotonic()), wait.wants_more)

    def _finish(self, window: Window) -> None:
        if self._disk is not None:
            self._disk.confirm(window, all_of_it=True)
        if self._accounts.finish(window.own, window.recovered, delivered=window.delivered):
            self.window = None

    # ------------------------------------------------------------------ attempts that take too long

    def _watch(self) -> None:
        # One timer for all attempts: most of them take far less than it costs to set one.
        self._watch_timer = None
        until, task = self._attempt_until, self._task
        if until is None or task is None or task.done():
            return
        left = until - time.monotonic()
        if left <= 0:
            self._timed_out = True
            task.cancel()
        else:
            self._watch_timer = task.get_loop().call_later(max(left, 0.001), self._watch)

    def _forgive_timeout(self) -> bool:
        """True when the attempt was cancelled for the time that it took, and for nothing else."""
        if not self._timed_out:
            return False
        self._timed_out = False
        return self._task is not None and self._task.uncancel() == 0

    async def disconnect(self, timeout: float = _DISCONNECT_TIMEOUT) -> None:  # noqa: ASYNC109 - cancels what it limits
        """Let the sink give up its connection, if it has one, within so many seconds."""
        if not self._is_connected:
            return
        self._is_connected = False
        try:
            async with asyncio.timeout(timeout):
                await self._sink._on_disconnecting()
        except BaseException as err:
            if not isinstance(err, TimeoutError) and not self._is_failure(err):
                raise
            # What made us disconnect is told already, and this mostly comes of it.

    def rest(self) -> None:
        """A run is over: hold on to nothing of it."""
        if self._watch_timer is not None:
            self._watch_timer.cancel()
            self._watch_timer = None
        self._task = None

    # ------------------------------------------------------------------ what comes of an attempt

    def _on_success(self, window: Window) -> None:
        opened_at = self._schedule.opened_at
        now = time.monotonic()
        self._settle(window, self._schedule.succeeded(now))
        self._tell_if_restored(opened_at, now)

    def _tell_if_restored(self, opened_at: float | None, now: float) -> None:
        if opened_at is not None and self._schedule.opened_at is None:
            selflog.report(
                "delivery_restored",
                "the destination of a sink is back",
                sink=self._label,
                seconds=round(now - opened_at, 3),
            )

    async def _on_failure(self, window: Window, events: int, err: BaseException) -> None:
        schedule = self._schedule
        if self._fails:
            self.tell_of_failure(err, events)
            schedule.abandon()
            window.scheduled = False
            raise DeliveryFailed from err
        now = time.monotonic()
        retry_after = _get_seconds(err)
        opened_at = schedule.opened_at
        if isinstance(err, LogDeliveryPartialError):
            try:
                settled = schedule.partially(now, refused=err.refused, retry=err.retry, retry_after=retry_after)
            except (ValueError, TypeError) as wrong:
                # It names events that are not in the batch: then nothing that it says can be trusted.
                err = LogDeliveryTransientError(str(wrong), cause=wrong)
            else:
                self.tell_of_failure(err, events)
                self._settle(window, settled)
                self._tell_if_restored(opened_at, now)
                return
        self.tell_of_failure(err, events)
        kind = self.get_kind(err)
        self._settle(window, schedule.failed(now, kind, retry_after=retry_after, error=describe_error(err)))
        # A destination that asks for a while has answered: the connection is fine.
        if kind is not LogDeliveryErrorKind.REFUSED and retry_after is None:
            await self.disconnect()

    def get_kind(self, err: BaseException) -> LogDeliveryErrorKind:
        """What an error means, as far as the sink knows."""
        try:
            kind = self._sink._classify_error(err)
        except Exception as wrong:
            self._accounts.note_error(wrong)
            return LogDeliveryErrorKind.UNKNOWN
        return kind if isinstance(kind, LogDeliveryErrorKind) else LogDeliveryErrorKind.UNKNOWN

    def tell_of_failure(self, err: BaseException, events: int) -> None:
        """Note an error and report it."""
        self._accounts.note_error(err)
        selflog.report(
            "delivery", "a sink could not deliver", sink=self._label, events=events, error=describe_error(err)
        )

    def _settle(self, window: Window, outcomes: Iterable[Settled]) -> None:
        batches = 1
        for outcome in outcomes:
            start, stop = window.offset + outcome.start, window.offset + outcome.stop
            if outcome.delivered:
                self._accounts.deliver(stop - start, batches=batches)
                window.delivered, batches = True, 0
            else:
                self._give_up(window, range(start, stop), outcome.reason, outcome.error)
            window.settle(start, stop)
        if self._disk is not None:
            self._disk.confirm(window)

    def _give_up(self, window: Window, indices: Sequence[int], reason: str, error: str | None) -> None:
        told = {"dead_lettered": 0, "lost": 0}
        for index in indices:
            if self._accounts.ended:  # accounted for already
                return
            done = self._set_aside(window.events[index], reason, error, window.get_id(index), window.attempts)
            if not self._accounts.give_up(reason, dead_lettered=done):
                return
            told["dead_lettered" if done else "lost"] += 1
        fields: dict[str, Any] = {name: count for name, count in told.items() if count}
        if error:
            fields["error"] = error
        selflog.report(reason, "a sink has given up on events", sink=self._label, **fields)

    def _set_aside(self, event: LogEvent, reason: str, error: str | None, delivery_id: str, attempts: int) -> bool:
        """True when the dead-letter sink has taken the event."""
        sink = self._dead_letter
        if sink is None:
            return False
        try:
            letter = make_dead_letter(
                event,
                reason=reason,
                error=error,
                sink=self._label,
                delivery_id=delivery_id,
                attempts=attempts,
                at=time.time(),
            )
            forwarding_log(guarded_log(sink), letter)
        except Exception as err:
            self._accounts.note_error(err)
            selflog.report(
                "dead_letter",
                "the dead-letter sink does not take an event",
                sink=self._label,
                error=describe_error(err),
            )
            return False
        return True

    # ------------------------------------------------------------------ the end of a run

    def settle_leftovers(self, queue: EventQueue, reason: str) -> tuple[int, int]:
        """Dead-letter or drop what is in flight or in the queue, but for what is on the disk.

        Returns:
            How many were lost, and how many dead-lettered.
        """
        accounts = self._accounts
        left: list[tuple[LogEvent, SpoolRun]] = []
        with accounts.lock:
            window, self.window = self.window, None
            if window is not None:
                for index in window.get_unsettled():
                    if window.is_on_disk(index):
                        accounts.spooled += 1
                    else:
                        left.append((window.events[index], window.get_run(index)))
            accounts.inflight = 0
            # Threads that have passed the look at the limit append meanwhile.
            while waiting := queue.take(1_000, _ANY_BYTES):
                left.extend((event, self.make_run(1)) for event in waiting)
            accounts.in_transit += len(left)
        self._schedule.abandon()
        self._schedule.relax()
        self._in_hurry = False
        kept = 0
        attempts = 0 if window is None else window.attempts
        for event, run in left:
            done = self._set_aside(event, reason, accounts.last_error, f"{run.prefix}{run.first:010x}", attempts)
            kept += done
            with accounts.lock:
                accounts.in_transit -= 1
                if done:
                    accounts.dead_lettered += 1
                else:
                    accounts.dropped[reason] += 1
        accounts.finish_all()
        queue.tell_of_room()
        return len(left) - kept, kept


def _get_seconds(err: BaseException) -> float | None:
    seconds = getattr(err, "retry_after", None)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < FOREVER:
        return None
    return float(seconds)
