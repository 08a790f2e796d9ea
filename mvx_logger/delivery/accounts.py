"""The accounts of a sink: where every accepted event is, and who waits for them to be settled.

Every accepted event is in exactly one place. It waits in the queue, is on its way to the disk, is on the disk, is in
flight with the worker, or is in one of the final counters. Whoever moves events does so under `Accounts.lock`; only the
append to the queue, which is atomic, happens without it. So the law holds at every moment.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from typing import Any

from ..masking import describe_error
from .stats import LatencyHistogram, LogSinkStats

__all__ = ["MARKS", "Accounts", "FlushWaiter"]

MARKS = 16
"""Of so many events, the time of acceptance is noted for one."""

_MAX_MARKS = 16_384


class FlushWaiter:
    """Waits until all that was accepted before it came is settled.

    Attributes:
        own: So many own events have to be settled.
        recovered: And so many that came from the disk; None until it is known how many that are.
        lost: How many were lost before.
        done: Set when there is no more to wait for.
    """

    __slots__ = ("done", "lost", "own", "recovered")

    def __init__(self, own: int, recovered: int | None, lost: int) -> None:
        self.own = own
        self.recovered = recovered
        self.lost = lost
        self.done = threading.Event()


class Accounts:
    """Counters, all guarded by ``lock``. Events are *own* (from the queue) or *recovered* (others left them on disk).

    Attributes:
        ended: True while no run of the worker is on: what a worker that was given up on still does counts no more.
        in_transit: Own events on their way from the queue to the disk.
        spooled: Events on the disk that no worker has taken.
        is_disk_open: True from when a run has looked at what is on the disk to when it ends.
        inflight: Events that the worker has taken, and that are not settled.
        head: Own events that have left the queue, or went past it to the disk.
        unqueued: Events that were lost before they came to the queue.
        recovered: Events that others had left on the disk.
        handed_over: Events that an earlier run of this sink had left on the disk and others have taken.
        recovered_target: Events that came from the disk when it was opened or looked at again.
        settled_own, settled_recovered: How many are settled, and all before them.
        runs: How many runs have ended.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.ended = False
        self.in_transit = 0
        self.spooled = 0
        self.is_disk_open = False
        self.inflight = 0
        self.head = 0
        self.unqueued = 0
        self.recovered = 0
        self.handed_over = 0
        self.recovered_target = 0
        self.settled_own = 0
        self.settled_recovered = 0
        self.runs = 0
        self.delivered = 0
        self.dead_lettered = 0
        # "counts[reason] += 1" on a defaultdict is one step: a signal handler cannot come between its look and its change.
        self.dropped: defaultdict[str, int] = defaultdict(int)
        self.rejected: defaultdict[str, int] = defaultdict(int)
        self.batches = 0
        self.last_error: str | None = None
        self.last_error_at: float | None = None
        # Of some own events: how many came before it, and when it was accepted.
        self.marks: deque[tuple[int, float]] = deque()
        self.latency = LatencyHistogram()
        self.waiters: list[FlushWaiter] = []
        self.flush_target = 0

    def reject(self, reason: str) -> None:
        """An event is not accepted, and the caller is told."""
        with self.lock:
            self.rejected[reason] += 1

    def lose_new(self, reason: str) -> None:
        """An event is accepted and lost at once."""
        with self.lock:
            self.unqueued += 1
            self.dropped[reason] += 1

    def deliver(self, count: int, *, batches: int = 1) -> None:
        """The destination has events that were in flight."""
        with self.lock:
            if not self.ended:
                self.inflight -= count
                self.delivered += count
            self.batches += batches

    def give_up(self, reason: str, *, dead_lettered: bool) -> bool:
        """An event that was in flight is dead-lettered or lost; False when the run is over and it was counted already."""
        with self.lock:
            if self.ended:
                return False
            self.inflight -= 1
            if dead_lettered:
                self.dead_lettered += 1
            else:
                self.dropped[reason] += 1
        return True

    def take_back(self, count: int) -> None:
        """Own events have not left the queue after all, even if a run has ended meanwhile. The caller holds ``lock``."""
        self.head -= count
        self.settled_own = min(self.settled_own, self.head)

    def take_back_commit(self, runs: int) -> None:
        """An event is not on its way to the disk any more. The caller holds ``lock``.

        Args:
            runs: How many runs had ended when it was.
        """
        self.in_transit -= 1
        self.head -= 1
        if runs != self.runs:  # it was taken for settled
            self.settled_own -= 1

    def lose_spooled(self, own: int, recovered: int, reason: str) -> None:
        """Events on the disk are lost."""
        with self.lock:
            self.spooled -= own + recovered
            self.dropped[reason] += own + recovered
            self.settled_recovered += recovered
            self.settled_own += own
            self._wake_settled()

    def finish(self, own: int, recovered: int, *, delivered: bool) -> bool:
        """All events of a window are settled; False when the run is over and they were counted already.

        Args:
            own: How many of them came from the queue.
            recovered: How many of them came from others.
            delivered: False when all of them were given up: then the time that they took is no latency.
        """
        now = time.monotonic()
        with self.lock:
            if self.ended:
                return False
            self.settled_own += own
            self.settled_recovered += recovered
            marks, settled = self.marks, self.settled_own
            while marks and marks[0][0] < settled:
                accepted_at = marks.popleft()[1]
                if delivered:
                    self.latency.record(now - accepted_at)
            self._wake_settled()
        return True

    def finish_all(self) -> None:
        """A run is over: whatever was before it is settled, but for what is on the disk."""
        with self.lock:
            self.runs += 1
            self.settled_own = self.head
            self.settled_recovered = self.recovered_target
            self.marks.clear()
            self.is_disk_open = False
            if self.spooled > 0:
                for waiter in self.waiters:
                    waiter.recovered = None

    def take_over(self, found: int) -> None:
        """A run has looked at the disk. What an earlier one has left there comes back like what others have left."""
        with self.lock:
            left = self.spooled
            self.spooled = found
            self.is_disk_open = True
            self.recovered_target += found
            if found >= left:
                self.recovered += found - left
            else:
                self.handed_over += left - found
            for waiter in self.waiters:
                if waiter.recovered is None:
                    waiter.recovered = self.recovered_target
            self._wake_settled()

    def note_error(self, err: BaseException) -> None:
        """Remember what went wrong last."""
        self.last_error = describe_error(err)
        self.last_error_at = time.time()

    def thin_marks(self) -> None:
        """Keep every second mark when there are too many of them. The caller holds ``lock``."""
        if len(self.marks) > _MAX_MARKS:
            self.marks = deque(list(self.marks)[::2])

    # ------------------------------------------------------------------ flushing

    def add_waiter(self, waiting: int) -> FlushWaiter | None:
        """Whoever flushes now; None when there is nothing to wait for.

        Args:
            waiting: How many events are in the queue.
        """
        with self.lock:
            # What an earlier run has left on the disk is still to be looked at.
            target = None if self.has_left_behind() and not self.ended else self.recovered_target
            waiter = FlushWaiter(self.head + waiting, target, self._count_lost())
            if self._is_settled(waiter):
                return None
            self.waiters.append(waiter)
            self.flush_target = max(self.flush_target, waiter.own)
        return waiter

    def remove_waiter(self, waiter: FlushWaiter) -> bool:
        """True when all that it waited for is delivered."""
        with self.lock:
            self.waiters.remove(waiter)
            return self._is_settled(waiter) and self._count_lost() == waiter.lost and not self.has_left_behind()

    def wake_waiters(self) -> None:
        """Nothing more will happen that they could wait for."""
        for waiter in self.waiters:
            waiter.done.set()

    def has_left_behind(self) -> bool:
        """True when events are on the disk that no run has taken over."""
        return self.spooled > 0 and not self.is_disk_open

    def is_hurried(self) -> bool:
        """True when somebody waits for events that are not settled."""
        return self.settled_own < self.flush_target

    def _count_lost(self) -> int:
        # But for events that never were in the queue. What others have taken over may be delivered or not.
        return sum(self.dropped.values()) + self.dead_lettered - self.unqueued + self.handed_over

    def _is_settled(self, waiter: FlushWaiter) -> bool:
        if waiter.recovered is None:
            return False
        return self.settled_own >= waiter.own and self.settled_recovered >= waiter.recovered

    def _wake_settled(self) -> None:
        for waiter in self.waiters:
            if self._is_settled(waiter):
                waiter.done.set()

    # ------------------------------------------------------------------ telling

    def tell(self, waiting: int, **more: Any) -> LogSinkStats:
        """The accounts, with what others know. The caller holds ``lock``.

        Args:
            waiting: How many events are in the queue.
            **more: Further fields.
        """
        pending = waiting + self.in_transit + self.spooled + self.inflight
        oldest = max(0.0, time.monotonic() - self.marks[0][1]) if pending and self.marks else None
        return LogSinkStats(
            accepted=self.head + self.unqueued + waiting + self.recovered - self.handed_over,
            delivered=self.delivered,
            dropped=dict(self.dropped),
            dead_lettered=self.dead_lettered,
            pending=pending,
            rejected=dict(self.rejected),
            batches=self.batches,
            recovered=self.recovered,
            spooled=max(0, self.spooled),  # the worker may have an event before its writer has counted it
            oldest_pending_age=oldest,
            latency=self.latency.snapshot(),
            last_error=self.last_error,
            last_error_at=self.last_error_at,
            **more,
        )
