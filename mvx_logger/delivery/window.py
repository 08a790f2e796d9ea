"""What is on its way: the batch as a subclass gets it, and the window that the worker keeps of it until it is settled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from ..model import LogEvent
from .spool import SpoolRun

__all__ = ["LogEventBatch", "Window"]


_ENDINGS = tuple([f"{number:03x}" for number in range(0x1000)])


class LogEventBatch(tuple[LogEvent, ...]):
    """Events to deliver, in order: an immutable sequence, with an id for each of them.

    Attributes:
        attempt: 1 when these events are handed out for the first time, more when an attempt with them has failed.
    """

    attempt: int
    _runs: tuple[SpoolRun, ...]
    _ids: tuple[str, ...] | None

    @classmethod
    def _make(cls, events: Iterable[LogEvent], runs: tuple[SpoolRun, ...], attempt: int) -> Self:
        batch = cls(events)
        batch.attempt = attempt
        batch._runs = runs
        batch._ids = None
        return batch

    @classmethod
    def _with_ids(cls, events: Iterable[LogEvent], ids: Iterable[str], attempt: int) -> Self:
        """A batch under ids that the events have from elsewhere."""
        batch = cls._make(events, (), attempt)
        batch._ids = tuple(ids)
        return batch

    @property
    def delivery_ids(self) -> tuple[str, ...]:
        """The id of each event: a UUID (RFC 9562, version 8) in its canonical text form.

        It is unique across processes and forks, the same whenever the event is handed out again, also after a restart
        from the spool; and within one life of one sink it grows with the order of acceptance. A destination that keeps
        it (a primary key, a message id) can tell what it has already.
        """
        ids = self._ids
        if ids is None:
            ids = self._ids = tuple([name for run in self._runs for name in _make_ids(run)])
        return ids


def _make_ids(run: SpoolRun) -> Iterator[str]:
    # The last three digits come from a table: to format a number costs five times as much.
    number, stop = run.first, run.first + run.count
    while number < stop:
        low = number & 0xFFF
        head = f"{run.prefix}{number >> 12:07x}"
        endings = _ENDINGS[low : low + stop - number]
        yield from [head + ending for ending in endings]
        number += len(endings)


class Window:
    """Events that were taken, with what has become of each.

    Args:
        events: One or more.
        run: Their ids.
        spooled: True when they are on disk too.
        recovered: True when another life of the sink accepted them.
    """

    __slots__ = ("attempts", "confirmed", "delivered", "events", "offset", "own", "recovered", "runs", "scheduled",
                 "settled", "spooled")  # fmt: skip

    def __init__(self, events: Sequence[LogEvent], run: SpoolRun, *, spooled: bool, recovered: bool) -> None:
        self.events: Sequence[LogEvent] = events
        self.runs = [run]
        self.spooled = [spooled]
        self.own = 0 if recovered else len(events)
        self.recovered = len(events) if recovered else 0
        self.settled: bytearray | None = None
        self.confirmed = 0
        self.offset = 0
        self.scheduled = False
        self.attempts = 0
        self.delivered = False

    def __len__(self) -> int:
        return len(self.events)

    def extend(self, other: Window) -> None:
        """Append another window's events; none of them may be settled yet."""
        self.events = (*self.events, *other.events)
        self.runs += other.runs
        self.spooled += other.spooled
        self.own += other.own
        self.recovered += other.recovered
        if self.settled is not None:
            self.settled.extend(bytes(len(other.events)))

    def make_batch(self, start: int, stop: int, attempt: int) -> LogEventBatch:
        """Some of the events, as a subclass gets them."""
        events = self.events
        if start == 0 and stop == len(events):
            return LogEventBatch._make(events, tuple(self.runs), attempt)
        return LogEventBatch._make(events[start:stop], tuple(self._cut(start, stop)), attempt)

    def get_run(self, index: int) -> SpoolRun:
        """The run that is one event."""
        (run,) = self._cut(index, index + 1)
        return run

    def get_id(self, index: int) -> str:
        """The delivery id of an event."""
        run = self.get_run(index)
        return f"{run.prefix}{run.first:010x}"

    def _cut(self, start: int, stop: int) -> Iterable[SpoolRun]:
        base = 0
        for run in self.runs:
            low, high = max(start, base), min(stop, base + run.count)
            if low < high:
                yield SpoolRun(run.prefix, run.first + low - base, high - low)
            base += run.count

    def settle(self, start: int, stop: int) -> None:
        """Note that events are settled."""
        if self.settled is None:
            self.settled = bytearray(len(self.events))
        self.settled[start:stop] = b"\1" * (stop - start)

    def get_unsettled(self) -> list[int]:
        """The indices of the events that are not settled."""
        settled = self.settled
        return [index for index in range(self.offset, len(self.events)) if settled is None or not settled[index]]

    def take_confirmed(self, *, all_of_it: bool = False) -> list[SpoolRun]:
        """The runs on disk, or parts of them, that are settled, and all before them, and were not taken before."""
        start = stop = self.confirmed
        size = len(self.events)
        if all_of_it:
            stop = size
        elif self.settled is not None:
            stop = self.settled.find(b"\0", start)
            if stop < 0:
                stop = size
        if stop == start:
            return []
        self.confirmed = stop
        found: list[SpoolRun] = []
        base = 0
        for run, spooled in zip(self.runs, self.spooled, strict=True):
            low, high = max(start, base), min(stop, base + run.count)
            if low < high and spooled:
                found.append(SpoolRun(run.prefix, run.first + low - base, high - low))
            base += run.count
        return found

    def is_on_disk(self, index: int) -> bool:
        """True when the event is on disk."""
        base = 0
        for run, spooled in zip(self.runs, self.spooled, strict=True):
            base += run.count
            if index < base:
                return spooled
        return False
