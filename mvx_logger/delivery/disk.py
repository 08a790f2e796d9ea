"""The disk under a sink: events move from the queue to a `Spool`, and from there to the worker.

Whatever the disk does, the sink goes on: what it refuses waits in memory, and it is asked again after a while.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from .. import selflog
from ..masking import describe_error
from ..model import LogEvent
from .accounts import MARKS, Accounts
from .queue import EventQueue
from .sizes import measure_excess
from .spool import Spool, SpoolBusyError, SpoolFullError, SpoolRun
from .window import Window

__all__ = ["ADOPT_INTERVAL", "DISK_PAUSE", "Disk"]

DISK_PAUSE = 1.0
"""Seconds after which a disk that refused is tried again."""
ADOPT_INTERVAL = 10.0
"""Seconds between two looks for what other processes have left in a spool."""


class Disk:
    """A spool, its accounts, and its troubles. The caller holds the sink's life lock, but for `commit`, `read`, `confirm`.

    Args:
        spool: What is on the disk; not open yet.
        directory: Where that is, for reports.
        queue: Where events come from.
        accounts: Where they are counted.
        drop_oldest: True drops the oldest events when the spool is full; else the new ones wait in the queue.
        label: The sink, for reports.
    """

    def __init__(
        self, spool: Spool, directory: str, queue: EventQueue, accounts: Accounts, *, drop_oldest: bool, label: str
    ) -> None:
        self.directory = directory
        self.is_open = False
        self._spool = spool
        self._queue = queue
        self._accounts = accounts
        self._drop_oldest = drop_oldest
        self._label = label
        self._is_moving = False
        self._is_opening = False
        # What was committed meanwhile: only then it is clear whether it was found.
        self._unclear: list[tuple[SpoolRun, int]] = []
        self._pause_until = 0.0
        self._damaged = (0, 0)

    def is_willing(self) -> bool:
        """False for a while after it has refused."""
        return time.monotonic() >= self._pause_until

    def has_more(self) -> bool:
        """True when there is something to read."""
        return self.is_open and self.is_willing() and self._spool.unread > 0

    def get_size(self) -> int:
        """Bytes on the disk."""
        return self._spool.size

    def open(self, *, at_once: bool = False) -> bool:
        """Open the spool if it is not; False when that is not possible now, or (not ``at_once``) it has just refused."""
        if self.is_open:
            return True
        if not at_once and not self.is_willing():
            return False
        self._is_opening = True
        found = None
        try:
            found = self._spool.open()
        except (OSError, ValueError) as err:
            self._on_error(err)
            return False
        finally:
            with self._accounts.lock:
                if found is not None:
                    self._accounts.take_over(found)
                    self.is_open = True
                    self._damaged = (0, 0)
                self._is_opening = False
                while self._unclear:
                    self._count_commit(*self._unclear.pop())
        return True

    def adopt(self) -> None:
        """Take over what processes that are gone have left."""
        if not self.is_open:
            return
        try:
            found = self._spool.adopt()
        except OSError as err:
            self._on_error(err)
            return
        accounts = self._accounts
        with accounts.lock:
            accounts.spooled += found
            accounts.recovered += found
            accounts.recovered_target += found

    def close(self) -> None:
        """Close the spool; what is in it stays there."""
        if self.is_open:
            self.is_open = False
            try:
                self._spool.close()
            except OSError as err:
                self._on_error(err)

    def forget_after_fork(self) -> None:
        """In a forked child: let go of the parent's files."""
        self._spool.forget_after_fork()

    # ------------------------------------------------------------------ in

    def commit(self, event: LogEvent) -> bool | None:
        """Put one event on the disk, past the queue.

        Returns:
            False when the disk refuses. None when the disk is closed, or when earlier events have to be moved there first.
        """
        accounts = self._accounts
        with accounts.lock:
            if self._queue.events or self._is_moving or not self.is_open:
                return None
            runs = accounts.runs
            if not accounts.head % MARKS:
                accounts.marks.append((accounts.head, time.monotonic()))
                accounts.thin_marks()
            accounts.head += 1
            accounts.in_transit += 1
        try:
            result = self._append((event,))
        except BaseException:  # a signal handler raised
            with accounts.lock:
                accounts.take_back_commit(runs)
            raise
        if isinstance(result, SpoolRun):
            with accounts.lock:
                if self._is_opening:
                    self._unclear.append((result, runs))
                else:
                    self._count_commit(result, runs)
            return True
        with accounts.lock:
            accounts.take_back_commit(runs)
        if not self.is_open:  # the run has ended meanwhile
            return None
        self._on_error(result)
        return False

    def _count_commit(self, place: SpoolRun, runs: int) -> None:
        """Note that an event is on the disk. Runs may have ended and begun while it was written."""
        accounts = self._accounts
        if not self._spool.is_own(place):  # a later run has found it there and has counted it
            accounts.take_back_commit(runs)
            return
        accounts.in_transit -= 1
        accounts.spooled += 1
        if runs != accounts.runs and accounts.is_disk_open:  # it was taken for settled, and is this run's to settle
            accounts.settled_own -= 1

    def move(self, max_size: int, max_bytes: int) -> bool:
        """Move what is in the queue to the disk, so much at a time; False when the disk refuses."""
        queue, accounts = self._queue, self._accounts
        if self._is_moving:  # a signal handler has interrupted it
            return False
        while queue.events:
            if not self.is_open or not self.is_willing():
                return False
            with accounts.lock:
                self._is_moving = True
                events = queue.take(max_size, max_bytes)
                accounts.in_transit += len(events)
            result: SpoolRun | OSError | None = None
            try:
                result = self._append(events)
            finally:
                with accounts.lock:
                    accounts.in_transit -= len(events)
                    if isinstance(result, SpoolRun):
                        accounts.spooled += len(events)
                    else:
                        queue.give_back(events, measure_excess)
                    self._is_moving = False
            if isinstance(result, OSError):
                self._on_error(result)
                return False
            queue.tell_of_room()
        return True

    def move_anyhow(self, max_size: int, max_bytes: int) -> None:
        """Move what is in the queue to the disk, even if it has just refused: there is no later."""
        self._pause_until = 0.0
        if self.open():
            self.move(max_size, max_bytes)

    def _append(self, events: Sequence[LogEvent]) -> SpoolRun | OSError:
        try:
            try:
                return self._spool.append(events)
            except SpoolFullError as full:
                if not self._drop_oldest:
                    raise
                own, recovered = self._spool.drop_oldest(full.need_bytes)
                if own or recovered:  # it may have found room without that
                    self._accounts.lose_spooled(own, recovered, "spool_full")
                return self._spool.append(events)
        except OSError as err:
            return err

    # ------------------------------------------------------------------ out

    def read(self, max_size: int, max_bytes: int) -> Window | None:
        """The next events that are on the disk."""
        if not self.is_open:
            return None
        accounts = self._accounts
        while True:
            try:
                batch = self._spool.read(max_size, max_bytes)
            except OSError as err:
                self._on_error(err)
                return None
            self._count_damage()
            if batch is None:
                return None
            size = len(batch.events)
            if batch.expired:
                own, recovered = (0, batch.expired) if batch.recovered else (batch.expired, 0)
                accounts.lose_spooled(own, recovered, "expired")
                selflog.report(
                    "expired", "events were too old when their turn came", sink=self._label, lost=batch.expired
                )
            if size:
                with accounts.lock:
                    accounts.spooled -= size
                    accounts.inflight += size
                return Window(batch.events, batch.run, spooled=True, recovered=batch.recovered)

    def confirm(self, window: Window, *, all_of_it: bool = False) -> None:
        """Remove what is settled from the disk."""
        if not self.is_open:
            return
        for run in window.take_confirmed(all_of_it=all_of_it):
            try:
                self._spool.confirm(run)
            except OSError as err:
                self._on_error(err)

    def _count_damage(self) -> None:
        lost, recovered = self._spool.lost, self._spool.lost_recovered
        before, self._damaged = self._damaged, (lost, recovered)
        if lost > before[0]:
            recovered -= before[1]
            self._accounts.lose_spooled(lost - before[0] - recovered, recovered, "spool_damaged")

    def _on_error(self, err: Exception) -> None:
        if isinstance(err, SpoolBusyError):  # a signal handler has interrupted somebody who is at the disk: no trouble
            return
        self._pause_until = time.monotonic() + DISK_PAUSE
        self._accounts.note_error(err)
        told: dict[str, Any] = {"sink": self._label, "directory": self.directory, "error": describe_error(err)}
        selflog.report("spool", "events cannot be kept on the disk, they wait in memory", **told)
