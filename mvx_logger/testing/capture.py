"""Capture what is logged, instead of sending it to where it would go: see `mvx_logger.testing`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..context import LogContext
from ..formats.text import event_message, level_name
from ..model import LogEvent
from ..protocols import LogSinkProto
from ..registry import configure_log_context, get_root_log_context
from ..sinks.combinators import FilterSink
from ..sinks.memory import MemoryLogSink

__all__ = ["EventCapture", "capture_events"]

_ANY: Any = object()


class EventCapture:
    """The events that `capture_events` has captured so far. Its ``repr`` lists them, one a line."""

    def __init__(self, sink: MemoryLogSink) -> None:
        self._sink = sink

    @property
    def events(self) -> tuple[LogEvent, ...]:
        """All of them, in order."""
        return self._sink.events

    def clear(self) -> None:
        """Forget them."""
        self._sink.clear()

    def find(
        self,
        name: str = _ANY,
        *,
        namespace: str | None = _ANY,
        level: int = _ANY,
        outcome: str | None = _ANY,
        entity_id: str | None = _ANY,
        payload: dict[str, Any] | None = None,
        **fields: Any,
    ) -> list[LogEvent]:
        """The events that agree with everything that is given.

        Args:
            name: The event's name.
            namespace: Its namespace; None for events without one.
            level: Its level.
            outcome: Its outcome; None for events without one.
            entity_id: Its entity's id; None for events without one.
            payload: Keys and values that its payload must have, for keys that are no keyword here.
            **fields: The same, as keywords.
        """
        wanted = {**(payload or {}), **fields}
        return [
            event
            for event in self._sink.events
            if (name is _ANY or event.meta.event_name == name)
            and (namespace is _ANY or event.meta.event_namespace == namespace)
            and (level is _ANY or event.level == level)
            and (outcome is _ANY or event.event_outcome == outcome)
            and (entity_id is _ANY or event.meta.entity_id == entity_id)
            and all(key in event.payload and event.payload[key] == value for key, value in wanted.items())
        ]

    def one(self, name: str = _ANY, **wanted: Any) -> LogEvent:
        """The only event that agrees with everything that is given: see `find`.

        Raises:
            AssertionError: There is none, or more than one; the text lists what was captured.
        """
        found = self.find(name, **wanted)
        if len(found) == 1:
            return found[0]
        if name is not _ANY:
            wanted = {"name": name, **wanted}
        what = ", ".join(f"{key}={value!r}" for key, value in wanted.items()) or "anything"
        raise AssertionError(f"expected one event with {what}, found {len(found)} in\n{self!r}")

    def __len__(self) -> int:
        return len(self._sink)

    def __iter__(self) -> Iterator[LogEvent]:
        return iter(self._sink.events)

    def __repr__(self) -> str:
        events = self._sink.events
        lines = [f"<EventCapture: {len(events)} event{'' if len(events) == 1 else 's'}>"]
        lines += [f"  {level_name(event.level, event.origin)} {event_message(event)}" for event in events]
        return "\n".join(lines)


@contextmanager
def capture_events(namespace_or_context: str | LogContext | None = None, level: int = 0) -> Iterator[EventCapture]:
    """Capture what a context and all below it log, instead of sending it to their sinks.

    At the end each context gets back the sink that was its own before, or inherits again; one that was given another
    sink in the meantime keeps that. Levels and policies stay in force: what they reject is not captured.

    Args:
        namespace_or_context: A namespace (it is configured if it is not yet), or a context; None for the root: everything.
        level: Capture only events of this level and above; the others go nowhere.

    Yields:
        The `EventCapture`, live.

    Raises:
        TypeError: The first argument is neither.
    """
    if namespace_or_context is None:
        context = get_root_log_context()
    elif isinstance(namespace_or_context, str):
        context = configure_log_context(namespace_or_context) if namespace_or_context else get_root_log_context()
    elif isinstance(namespace_or_context, LogContext):
        context = namespace_or_context
    else:
        raise TypeError(
            f"namespace_or_context: expected a namespace or a LogContext, got {type(namespace_or_context).__name__}"
        )
    memory = MemoryLogSink(max_events=None)
    sink: LogSinkProto = FilterSink(memory, min_level=level) if level else memory
    before = [(context, context.get_local_log_sink())]
    before += [(below, own) for below in _all_below(context) if (own := below.get_local_log_sink()) is not None]
    for changed, _ in before:
        changed.set_log_sink(sink)
    try:
        yield EventCapture(memory)
    finally:
        for changed, own in before:
            if changed.get_local_log_sink() is sink:
                if own is None:
                    changed.reset_log_sink()
                else:
                    changed.set_log_sink(own)


def _all_below(context: LogContext) -> Iterator[LogContext]:
    for child in list(context._children):
        yield child
        yield from _all_below(child)
