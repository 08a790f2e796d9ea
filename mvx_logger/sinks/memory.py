"""`MemoryLogSink`: events kept in memory, for tests, consoles and "the last thousand events" of a status page."""

from __future__ import annotations

from collections import deque
from itertools import repeat
from operator import length_hint
from sys import maxsize
from typing import Any, ClassVar
from urllib.parse import SplitResult

from ..delivery.stats import LogSinkStats
from ..errors import LogConfigurationError
from ..guard import is_internal, report_recursion
from ..model import LogEvent
from ..options import check_options
from ..protocols import LogSinkDescriptor, LogSinkTerminator

__all__ = ["MemoryLogSink"]


class _Counter:
    """Counts without a lock, so that threads, signal handlers and finalizers may all log at any instruction.

    One step of `itertools.repeat` is one call into C, and its length hint tells how many steps are left.
    """

    __slots__ = ("_left", "increment")

    def __init__(self) -> None:
        self._left = repeat(None, maxsize)
        self.increment = self._left.__next__

    def get(self) -> int:
        return maxsize - length_hint(self._left)


class MemoryLogSink:
    """Keeps events in the order in which they were logged. Thread-safe; takes no lock.

    Args:
        max_events: How many events are kept, 1 or more; the oldest give way, and are counted. None keeps all.
        name: Tells sinks apart where they are configured: the same name (and the same ``max_events``) is the same sink.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: ``max_events`` is less than 1.

    URL: ``memory:``, ``memory:NAME``, ``memory:NAME?max_events=100``.
    """

    guards_itself: ClassVar[bool] = True
    url_schemes: ClassVar[tuple[str, ...]] = ("memory",)

    def __init__(self, *, max_events: int | None = 10_000, name: str = "") -> None:
        _check_max_events(max_events)
        if not isinstance(name, str):
            raise TypeError(f"name: expected a str, got {type(name).__name__}")
        self._max_events = max_events
        self._name = name
        self._kept: deque[LogEvent] = deque(maxlen=max_events)
        self._keep = self._kept.append
        self._accepted = _Counter()
        self._count = self._accepted.increment
        self._removed = _Counter()
        self._rejected = _Counter()

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        """Say what the options describe. `LogConfigurationError` where one is wrong."""
        options = check_options(cls, kwargs)
        max_events = options.get("max_events", 10_000)
        try:
            _check_max_events(max_events)
        except ValueError as err:
            raise LogConfigurationError(str(err), details={"path": "max_events"}) from None
        return LogSinkDescriptor("memory", (options.get("name", ""),), (("max_events", max_events),))

    @classmethod
    def create(cls, **kwargs: Any) -> tuple[MemoryLogSink, LogSinkTerminator]:
        """Make a sink; its terminator is `close`."""
        sink = cls(**check_options(cls, kwargs))
        return sink, sink.close

    @classmethod
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        """``memory:NAME``; the rest is in the query."""
        name = (url.netloc + url.path).strip("/")
        return {"name": name} if name else {}

    def log(self, event: LogEvent) -> None:
        """Keep the event."""
        if is_internal():
            self._rejected.increment()
            report_recursion(event.meta.event_namespace, event.meta.event_name)
            return
        self._keep(event)
        self._count()

    @property
    def name(self) -> str:
        """The name that tells it apart; empty when it was given none."""
        return self._name

    @property
    def max_events(self) -> int | None:
        """How many events are kept; None for all."""
        return self._max_events

    @property
    def events(self) -> tuple[LogEvent, ...]:
        """The events that are kept now, oldest first."""
        while True:
            try:
                return tuple(self._kept)
            except RuntimeError:  # another thread, or a finalizer, logged meanwhile
                continue

    @property
    def dropped(self) -> int:
        """How many events gave way to newer ones."""
        if self._max_events is None:
            return 0
        # In this order, whatever happens in between makes the result smaller, never larger, than it is.
        accepted = self._accepted.get()
        return max(0, accepted - len(self._kept) - self._removed.get())

    def take(self) -> tuple[LogEvent, ...]:
        """Remove and return the events that are kept, oldest first. Of several callers, each event goes to one."""
        kept, removed = self._kept, self._removed.increment
        taken = []
        for _ in range(len(kept)):
            try:
                taken.append(kept.popleft())
            except IndexError:  # another caller was faster
                break
            removed()
        return tuple(taken)

    def clear(self) -> None:
        """Remove the events that are kept. They are not counted as dropped."""
        self.take()

    def close(self) -> None:
        """Nothing to end: the events stay, and the sink can be used on."""

    def flush(self, timeout: float | None = None) -> bool:
        """True: every event is kept before ``log`` returns."""
        return True

    def stats(self) -> LogSinkStats:
        """The accounts; events that gave way are dropped for the reason ``overflow``."""
        dropped = self.dropped
        accepted = max(dropped, self._accepted.get())
        rejected = self._rejected.get()
        return LogSinkStats(
            accepted=accepted,
            delivered=accepted - dropped,
            dropped={"overflow": dropped} if dropped else {},
            rejected={"recursion": rejected} if rejected else {},
        )

    def __len__(self) -> int:
        return len(self._kept)

    def __bool__(self) -> bool:
        return True  # a sink, even where it is empty

    def __repr__(self) -> str:
        return f"<MemoryLogSink {self._name + ': ' if self._name else ''}{len(self._kept)} events>"


def _check_max_events(max_events: object) -> None:
    if max_events is None:
        return
    if isinstance(max_events, bool) or not isinstance(max_events, int):
        raise TypeError(f"max_events: expected an int or None, got {type(max_events).__name__}")
    if max_events < 1:
        raise ValueError(f"max_events: expected 1 or more, or None for no limit, got {max_events}")
