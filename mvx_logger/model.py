"""The event model: what every room of the package speaks.

An event is built once and never changes. `msgspec.Struct` gives immutability, equality, ``repr`` and
encoding for a fraction of the cost of a frozen dataclass. The structs are not tracked by the garbage
collector (``gc=False``): they hold strings, numbers and plain containers, never a reference back to an event.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from msgspec import Struct

__all__ = [
    "LIGHT_KEYS",
    "LIGHT_TEXT",
    "LogEvent",
    "LogEventMeta",
    "LogEventOrigin",
    "LogException",
    "LogLevel",
    "LogStack",
]


LIGHT_TEXT = 256
"""Characters of text that a *light* event holds at the most, in its message, its arguments and its payload. What every event
is charged by a queue that is bounded in bytes covers a light one: it need not be measured."""
LIGHT_KEYS = 16
"""Values that the payload of a light event holds at the most, all of them numbers or text."""


class LogLevel(IntEnum):
    """The five standard levels, with the numbers of the standard library.

    Any other ``int`` is a level too: the standard library lets programs define their own.
    """

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40
    CRITICAL = 50


class LogEventMeta(Struct, frozen=True, gc=False):
    """What a policy decides on: which event, of which entity, from where.

    Attributes:
        event_namespace: The context's namespace or the logger's name; None where there is none.
        event_name: The stable name of the event, e.g. ``order.created``; for a stdlib record its message template.
        entity_id: Which instance the event is about, e.g. ``order-42``.
        source_path: The path of the source file that logged it.
        source_line: The line in that file, counted from 1.
        source_func: The function that logged it.
    """

    event_namespace: str | None
    event_name: str
    entity_id: str | None = None
    source_path: str | None = None
    source_line: int | None = None
    source_func: str | None = None


class LogException(Struct, frozen=True, gc=False, omit_defaults=True):
    """An exception as plain data: no frame, traceback or exception object is kept alive.

    Attributes:
        type: The name of the exception's type, e.g. ``ValueError``.
        message: ``str()`` of the exception.
        text: The traceback as the standard library prints it, without a trailing newline.
        stacks: One mapping for the exception and one for each cause or context behind it, as
            `structlog.tracebacks.ExceptionDictTransformer` makes them (``exc_type``, ``exc_value``, ``exc_notes``,
            ``is_cause``, ``is_group``, ``exceptions``, ``frames`` of ``filename``, ``lineno``, ``name``).
            Empty where only the text is known.
    """

    type: str
    message: str
    text: str
    stacks: tuple[Mapping[str, Any], ...] = ()


class LogStack(Struct, frozen=True, gc=False, omit_defaults=True):
    """The stack of the log call (``stack_info=True``).

    Attributes:
        text: As the standard library prints it, with its heading line, without a trailing newline.
        frames: Mappings of ``filename``, ``lineno``, ``name``, outermost call first.
    """

    text: str
    frames: tuple[Mapping[str, Any], ...] = ()


class LogEventOrigin(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What an event that came over a bridge brought along and that has no place in a native event.

    Attributes:
        system: ``"logging"`` or ``"structlog"``.
        level_name: The level's name there (a custom level has one of its own).
        template: The message before its arguments were filled in.
        args: The arguments as plain data: a tuple, or a mapping for ``%(name)s`` templates.
        process_id: The number of the process that logged.
        process_name: Its name (`multiprocessing.Process.name`).
        thread_id: `threading.get_ident` of the thread that logged.
        thread_name: Its name.
        task_name: The name of the asyncio task that logged.
        via: The sinks that forwarded the event to a handler so far, nearest last. A sink that finds itself in it
            refuses the event: that is how a cycle of handlers and sinks ends.
    """

    system: str
    level_name: str | None = None
    template: str | None = None
    args: tuple[Any, ...] | Mapping[str, Any] | None = None
    process_id: int | None = None
    process_name: str | None = None
    thread_id: int | None = None
    thread_name: str | None = None
    task_name: str | None = None
    via: tuple[str, ...] = ()


class LogEvent(Struct, frozen=True, gc=False):
    """One immutable event, on its way to a sink.

    Attributes:
        level: A `LogLevel` or any other int.
        meta: Its name, entity and source.
        event_outcome: How what it tells of ended, e.g. ``success``; None where it does not apply.
        timestamp: When it happened, in seconds since the epoch.
        payload: Its data. Treat it as read-only: other sinks hold the same mapping.
        message: The human-readable message, where the event has one (bridged events do).
        exception: The exception that was logged with it.
        stack: The stack of the log call, where it was asked for.
        origin: What only the system that it came from can hold; None for a native event.
    """

    level: int
    meta: LogEventMeta
    event_outcome: str | None
    timestamp: float
    payload: Mapping[str, Any]
    message: str | None = None
    exception: LogException | None = None
    stack: LogStack | None = None
    origin: LogEventOrigin | None = None
