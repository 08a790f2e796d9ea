"""The queue between the threads that log and the worker: bounded by count and by bytes, appended to without a lock."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from ..model import LogEvent
from .accounts import MARKS, Accounts
from .sizes import EVENT_BYTES

__all__ = ["NEVER", "EventQueue"]

NEVER = sys.maxsize


class EventQueue:
    """Events in the order of acceptance.

    Every event is charged `EVENT_BYTES`, which nobody has to add up; only what large events hold beyond that (their
    excess) is kept account of, and makes ``capacity`` smaller.

    Args:
        max_size: How many events may wait.
        max_bytes: How many bytes of events may wait.
        accounts: Where events that come and go are counted.

    Attributes:
        events: The deque itself; appending to it is atomic.
        capacity: How many events may be in it, as things are.
        limit: ``log()`` appends without a further look while the queue is shorter than this: the capacity, or 0 where
            every event has to go the slow way.
        wake_at: ``log()`` wakes the worker when the queue is at least this long: 1 while it sleeps, about the size of a
            batch while it waits for company, `NEVER` while it works.
        is_open: True while a run of the worker takes events.
    """

    def __init__(self, max_size: int, max_bytes: int, accounts: Accounts) -> None:
        self.events: deque[LogEvent] = deque()
        self.limit = 0
        self.wake_at = NEVER
        self.is_open = False
        self._max_size = max_size
        self._max_bytes = max_bytes
        self._accounts = accounts
        # For each large event: how many events had left the queue when it will, and its excess in bytes.
        self._heavy: deque[tuple[int, int]] = deque()
        self._heavy_bytes = 0
        self.capacity = self._get_capacity()
        self._room_waiters: deque[threading.Lock] = deque()

    def open(self, *, fast: bool) -> None:
        """Let events in; without a further look when ``fast``."""
        self.wake_at = NEVER
        self.is_open = True
        self.limit = self.capacity if fast else 0

    def shut(self) -> None:
        """Nothing enters from here on, but for what has passed the look at ``limit``: its caller wakes the worker, and
        sees that there is none."""
        self.limit = 0
        self.is_open = False
        self.wake_at = 1

    def append(self, event: LogEvent, excess: int) -> None:
        """Append an event, whatever the bounds say."""
        events = self.events
        accounts = self._accounts
        size = len(events)
        if not size % MARKS:
            accounts.marks.append((accounts.head + size, time.monotonic()))
        if excess:
            with accounts.lock:
                self._heavy.append((accounts.head + len(events), excess))
                self._weigh(excess)
        events.append(event)

    def has_room(self, excess: int) -> bool:
        """True when an event may be appended; when the queue is shut, too: what becomes of it is decided later."""
        if not self.is_open:
            return True
        size = len(self.events)
        if size >= self.capacity:
            return False
        return not excess or not size or (size + 1) * EVENT_BYTES + self._heavy_bytes + excess <= self._max_bytes

    def count_bytes(self) -> int:
        """How many bytes wait, about."""
        return len(self.events) * EVENT_BYTES + self._heavy_bytes

    def take(self, count: int, max_bytes: int) -> list[LogEvent]:
        """Take events from the front: at most so many, of at most so many bytes, but one where there is one.

        They count as having left the queue. The caller holds the lock of the accounts.
        """
        events = self.events
        size = min(len(events), count)
        if self._heavy or size * EVENT_BYTES > max_bytes:
            size = self._limit_by_bytes(size, max_bytes)
        taken = [events.popleft() for _ in range(size)]
        self._accounts.head += size
        self._accounts.thin_marks()
        self._lighten()
        return taken

    def give_back(self, taken: Sequence[LogEvent], measure: Callable[[LogEvent], int]) -> None:
        """Put events back to the front. The caller holds the lock of the accounts."""
        self.events.extendleft(reversed(taken))
        self._accounts.take_back(len(taken))
        for index in range(len(taken) - 1, -1, -1):
            excess = measure(taken[index])
            if excess:
                self._heavy.appendleft((self._accounts.head + index, excess))
                self._weigh(excess)

    def evict(self, excess: int, reason: str) -> None:
        """Drop the oldest events until there is room for one with that excess."""
        accounts, events = self._accounts, self.events
        with accounts.lock:
            while not self.has_room(excess):
                events.popleft()
                accounts.head += 1
                accounts.settled_own += 1
                accounts.dropped[reason] += 1
                if self._heavy:
                    self._lighten()

    def _limit_by_bytes(self, size: int, max_bytes: int) -> int:
        excesses = {position - self._accounts.head: excess for position, excess in self._heavy}
        for index in range(size):
            max_bytes -= EVENT_BYTES + excesses.get(index, 0)
            if max_bytes < 0:
                return max(1, index)
        return size

    def _lighten(self) -> None:
        # Forget the excess of events that have left.
        heavy = self._heavy
        if heavy:
            gone = 0
            while heavy and (not self.events or heavy[0][0] < self._accounts.head):
                gone += heavy.popleft()[1]
            self._weigh(-gone)

    def _weigh(self, excess: int) -> None:
        self._heavy_bytes += excess
        self.capacity = self._get_capacity()
        if self.limit:
            self.limit = self.capacity

    def _get_capacity(self) -> int:
        return max(1, min(self._max_size, (self._max_bytes - self._heavy_bytes) // EVENT_BYTES))

    # ------------------------------------------------------------------ back-pressure

    def wait_for_room(self, excess: int, timeout: float) -> bool:
        """Wait until an event with that excess may be appended, for so many seconds; True when it may."""
        deadline = time.monotonic() + timeout
        while True:
            # A lock of one's own, not a condition: a signal handler that logs must not meet a lock that it
            # interrupted.
            gate = threading.Lock()
            gate.acquire()
            self._room_waiters.append(gate)
            if self.has_room(excess):
                return True
            left = deadline - time.monotonic()
            if left <= 0 or not gate.acquire(timeout=left):
                return False

    def tell_of_room(self) -> None:
        """Let those who wait look again."""
        waiters = self._room_waiters
        for _ in range(len(waiters)):
            waiters.popleft().release()
