"""structlog, both ways: event dict <-> `LogEvent`, and the parts of a chain that lead into the pipeline.

The mapping, `event_dict_to_event` and `event_to_event_dict`, is pure. On it stand

- `StructlogLoggerFactory` and `PipelineRenderer`: the end of a chain,
- `PipelineTee`: the middle of one,
- `EventDictFromRecord`: what `structlog.stdlib.ProcessorFormatter` needs on a handler behind a `HandlerSink`,
- `configure_structlog`: puts the first two in place.

The way back, a sink that renders events through a chain, is `mvx_logger.sinks.structlog_sink.StructlogSink`.

Which key of an event dict goes where:

===================================================  ==================================================================
``event``, ``positional_args``                       ``meta.event_name``, ``message``, ``origin.template``/``args``
``level``, ``log_level``, ``level_number``           ``level`` (else the method's level)
``logger``, ``logger_name``                          ``meta.event_namespace`` (else the logger's name)
``timestamp``                                        ``timestamp`` (else now)
``entity_id``, ``event_outcome``                     the fields of that name
``pathname`` or ``filename``, ``lineno``,            ``meta.source_path``, ``source_line``, ``source_func``
``func_name`` or ``qual_name``
``process``, ``process_name``, ``thread``,           ``origin.process_id``, ``process_name``, ``thread_id``,
``thread_name``                                      ``thread_name``
``exc_info``, ``exception``                          ``exception``
``stack_info``, ``stack``                            ``stack``
``_record``, ``_from_structlog``, ``_logger``,       nowhere
``_name``
everything else                                      ``payload``
===================================================  ==================================================================

A value that is not what its key promises (a ``level`` of ``"banana"``, a ``lineno`` of ``"top"``) stays in the payload.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import copy_context
from datetime import UTC, datetime
from types import FrameType
from typing import Any, NoReturn
from uuid import UUID

import msgspec
import structlog
from structlog.contextvars import get_contextvars
from structlog.exceptions import DropEvent
from structlog.processors import CallsiteParameter, CallsiteParameterAdder

from .. import selflog
from ..ambient import add_trace_context, capture
from ..errors import LogConfigurationError
from ..formats import logfmt
from ..formats.json import encode_value
from ..guard import internal, is_internal, mark, report_recursion
from ..model import LIGHT_TEXT, LogEvent, LogEventMeta, LogEventOrigin, LogException, LogStack
from ..options import parse_level
from ..payload import HEAVY
from ..registry import nearest_log_context
from . import handlers, records

__all__ = [
    "RENDERERS",
    "EventDictFromRecord",
    "EventFormatter",
    "PipelineLogger",
    "PipelineRenderer",
    "PipelineTee",
    "StructlogLoggerFactory",
    "application_frame",
    "build_object",
    "build_processors",
    "build_renderer",
    "configure_structlog",
    "event_dict_to_event",
    "event_to_event_dict",
    "exception_from_stacks",
    "get_pipeline_logger",
    "import_object",
    "method_of",
    "plan_structlog",
]

NO_EVENT = "<no event>"
"""The name of an event whose event dict has no ``event``."""

_MISSING: Any = object()
_INFO = 20

_LEVEL_NAMES = {0: "notset", 10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}
_STRUCTLOG_ALIASES = {"warn": 30, "exception": 40, "fatal": 50}
_LEVELS = {
    **{name: number for number, name in _LEVEL_NAMES.items()},
    **_STRUCTLOG_ALIASES,
    "err": 40,
    "failure": 40,
    "log": 20,
    "msg": 20,
    "trace": 5,
}

_CALLSITE_KEYS = frozenset(
    {"pathname", "filename", "module", "func_name", "qual_name", "lineno"}
    | {"process", "process_name", "thread", "thread_name"}
)
_AMBIGUOUS_CALLSITE_KEYS = frozenset({"filename", "module", "process", "thread"})
_META_KEYS = frozenset({"_record", "_from_structlog", "_logger", "_name"})
_ATTACHMENT_KEYS = frozenset({"exc_info", "exception", "positional_args", "stack", "stack_info"})
_KNOWN_KEYS = (
    _META_KEYS
    | _ATTACHMENT_KEYS
    | {
        "entity_id",
        "event_outcome",
        "level_number",
        "log_level",
        "logger",
        "logger_name",
    }
)

_ORIGIN_FIELDS = {
    "process": "process_id",
    "process_name": "process_name",
    "thread": "thread_id",
    "thread_name": "thread_name",
}
_NUMERIC_CALLSITE_KEYS = frozenset({"lineno", "process", "thread"})
_RESERVED_KEYS = _META_KEYS | _ATTACHMENT_KEYS
_PLAIN_TYPES = frozenset({dict, list, tuple, int, float, bool})
_STACK_HEADING = "Stack (most recent call last):"
_CAUSED = "The above exception was the direct cause of the following exception:"
_MEANWHILE = "During handling of the above exception, another exception occurred:"
_OWN_PREFIXES = ("structlog.", "mvx_logger.")

_PLAIN_ORIGIN = LogEventOrigin(system="structlog")
_FIRST_SECOND, _LAST_SECOND = -62135596800.0, 253402300800.0  # what datetime can hold: the years 1 to 9999


class _Layout:
    """How a chain names and writes what the mapping looks for."""

    __slots__ = ("callsite", "contextvars", "event_key", "known", "timestamp_format", "timestamp_key", "timestamp_utc")

    def __init__(
        self,
        event_key: str = "event",
        timestamp_key: str = "timestamp",
        timestamp_format: str | None = None,
        timestamp_utc: bool | None = None,
        callsite: bool = True,
        contextvars: bool | None = True,
    ) -> None:
        self.event_key = event_key
        self.timestamp_key = timestamp_key
        iso = timestamp_format is None or timestamp_format.upper() == "ISO"
        self.timestamp_format = None if iso else timestamp_format
        self.timestamp_utc = timestamp_utc
        self.callsite = callsite
        self.contextvars = contextvars
        known = _KNOWN_KEYS | _CALLSITE_KEYS if callsite else _KNOWN_KEYS
        self.known = known - {event_key, timestamp_key}


_DEFAULT_LAYOUT = _Layout()
_MERGED_LAYOUT = _Layout(contextvars=False)


# --- event dict -> event -------------------------------------------------------------------------------------------


def event_dict_to_event(
    event_dict: Mapping[str, Any],
    *,
    method_name: str | None = None,
    logger_name: str | None = None,
    event_key: str = "event",
    timestamp_key: str = "timestamp",
    timestamp_format: str | None = None,
    timestamp_utc: bool | None = None,
    callsite: bool = True,
    now: float | None = None,
) -> LogEvent:
    """Turn an event dict into an event. The payload is what is left of the event dict, not normalized.

    Args:
        event_dict: As a processor gets it. It is not changed.
        method_name: The log method (``info``, ``exception``, ...): the level where no key says another. INFO if None.
        logger_name: The namespace where no key says another.
        event_key: The key of the event, where `structlog.processors.EventRenamer` changed it.
        timestamp_key: The ``key`` of `structlog.processors.TimeStamper`.
        timestamp_format: The ``fmt`` of `TimeStamper` where it is a `strftime` format. Numbers (seconds since the
            epoch), `datetime` objects and ISO 8601 text are understood without it.
        timestamp_utc: The ``utc`` of `TimeStamper`, for text without an offset. None guesses: ISO 8601 text is local
            time, other formats are UTC (the default of `TimeStamper`), unless only the other reading is what the
            clock shows now.
        callsite: False leaves the keys of `structlog.processors.CallsiteParameterAdder` in the payload.
        now: The time to use where the event dict has none (seconds since the epoch); None asks the clock. Text that
            was cut to whole seconds stands for *now*, if that is within its second.

    A timestamp that cannot be understood stays in the payload, and the time is *now*.

    >>> event = event_dict_to_event({"event": "user.login", "level": "warning", "user": "alice"}, logger_name="shop")
    >>> event.meta.event_namespace, event.meta.event_name, event.level, event.payload
    ('shop', 'user.login', 30, {'user': 'alice'})
    """
    layout = _Layout(event_key, timestamp_key, timestamp_format, timestamp_utc, callsite)
    level = None if method_name is None else _method_level(method_name)
    payload = dict(event_dict)
    level, meta, raw_timestamp, event, found = _survey(payload, level, logger_name, layout)
    timestamp = _timestamp(raw_timestamp, layout, payload, now)
    message, exception, stack, origin = _complete(event, found, payload)
    outcome = found.outcome if found is not None else None
    return LogEvent(level, meta, outcome, timestamp, payload, message, exception, stack, origin)


class _Found:
    """What an event dict holds beyond event, level, timestamp and payload. Most of it is rarely there."""

    args: tuple[Any, ...] | None = None
    exc_info: Any = None
    exception: Any = None
    level_name: str | None = None
    outcome: str | None = None
    process_id: int | None = None
    process_name: str | None = None
    stack: str | None = None
    stack_info: Any = None
    thread_id: int | None = None
    thread_name: str | None = None


def _survey(
    payload: dict[str, Any], level: int | None, namespace: str | None, layout: _Layout
) -> tuple[int, LogEventMeta, Any, Any, _Found | None]:
    """The cheap half: takes out of the event dict what is not payload, and makes of it what a policy needs."""
    event = payload.pop(layout.event_key, _MISSING)
    level_name = payload.pop("level", None)
    timestamp = payload.pop(layout.timestamp_key, None)
    if (
        type(event) is str
        and level is not None
        and (level_name is None or (type(level_name) is str and level_name == _LEVEL_NAMES.get(level)))
        and layout.known.isdisjoint(payload)
    ):
        return level, LogEventMeta(namespace, event), timestamp, event, None
    return _survey_rest(payload, level, namespace, layout, event, level_name, timestamp)


def _survey_rest(
    payload: dict[str, Any],
    level: int | None,
    namespace: str | None,
    layout: _Layout,
    event: Any,
    level_name: Any,
    timestamp: Any,
) -> tuple[int, LogEventMeta, Any, Any, _Found | None]:
    try:
        return _survey_all(payload, level, namespace, layout, event, level_name, timestamp)
    except Exception as err:  # a value that fights back; the event arrives with what can be read of it
        selflog.report(
            "structlog", "an event dict could not be read in full", logger=namespace, error=type(err).__name__
        )
        for key in _META_KEYS:
            payload.pop(key, None)
        name = _exact(event) if isinstance(event, str) else NO_EVENT
        return _INFO if level is None else level, LogEventMeta(namespace, name), timestamp, name, None


def _survey_all(
    payload: dict[str, Any],
    level: int | None,
    namespace: str | None,
    layout: _Layout,
    event: Any,
    level_name: Any,
    timestamp: Any,
) -> tuple[int, LogEventMeta, Any, Any, _Found | None]:
    found = _Found()
    keys = layout.known.intersection(payload)
    record = None
    if not keys.isdisjoint(_META_KEYS):
        record = payload.get("_record")
        if not isinstance(record, logging.LogRecord) or payload.get("_from_structlog"):
            record = None
        for key in keys & _META_KEYS:
            del payload[key]
    if record is not None:
        level = record.levelno if level is None else level
        namespace = record.name
        timestamp = record.created if timestamp is None else timestamp
    usual = level_name is None or (type(level_name) is str and level_name == _LEVEL_NAMES.get(level or 0))
    if level is None or not usual or "level_number" in keys or "log_level" in keys:
        level = _take_level(payload, keys, level, level_name, found)
    if "logger" in keys or "logger_name" in keys:
        namespace = _take_namespace(payload, namespace)
    entity_id = _take_entity_id(payload) if "entity_id" in keys else None
    if "event_outcome" in keys:
        outcome = payload["event_outcome"]
        if outcome is None or isinstance(outcome, str):
            found.outcome = None if outcome is None else _exact(outcome)
            del payload["event_outcome"]
    path = line = func = None
    if not keys.isdisjoint(_CALLSITE_KEYS):
        path, line, func = _take_callsite(payload, keys & _CALLSITE_KEYS, found)
    if record is not None and path is None and line is None and func is None:
        path, line, func = record.pathname, record.lineno, record.funcName
    if not keys.isdisjoint(_ATTACHMENT_KEYS):
        _take_attachments(payload, keys, found)
    if type(event) is str:
        name = event
    else:
        name = _event_name(event)
        if type(event) in _PLAIN_TYPES:
            payload[layout.event_key] = event
    meta = LogEventMeta(namespace, name, entity_id, path, line, func)
    return level, meta, timestamp, event, found if found.__dict__ or type(event) is not str else None


def _method_level(method_name: str) -> int | None:
    """The number of a log method or level name, in any case; None where nobody knows it."""
    number = _LEVELS.get(method_name)
    if number is None:
        number = _LEVELS.get(method_name.lower())
    if number is None:
        for name in (method_name.upper(), method_name):
            registered = logging.getLevelName(name)
            if isinstance(registered, int):
                return registered
    return number


def _level_name(level: int) -> str:
    """The name of a level as structlog spells it; of a number without a name, that of the next lower level."""
    name = _LEVEL_NAMES.get(level)
    if name is None:
        registered = logging.getLevelName(level)
        if not registered.startswith("Level "):
            return registered.lower()
        name = _LEVEL_NAMES[max((known for known in _LEVEL_NAMES if known <= level), default=0) or 10]
    return name


def _take_level(
    payload: dict[str, Any], keys: frozenset[str], level: int | None, level_name: Any, found: _Found
) -> int:
    number = payload["level_number"] if "level_number" in keys else None
    if type(number) is int:
        del payload["level_number"]
    else:
        number = None
    named = _method_level(level_name) if type(level_name) is str else None
    if number is not None:
        level = number
    elif named is not None:
        level = named
    elif level is None and type(level_name) is int:
        level = named = level_name
    if level_name is not None:
        if named is None:
            payload["level"] = level_name
        elif type(level_name) is str and level_name not in _STRUCTLOG_ALIASES and level_name != _level_name(level or 0):
            found.level_name = level_name
    if "log_level" in keys and type(other := payload["log_level"]) is str:
        meant = _method_level(other)
        if meant is not None and number is None and named is None:
            level = meant
        if meant is not None and meant == level:
            del payload["log_level"]
    return _INFO if level is None else level


def _take_namespace(payload: dict[str, Any], namespace: str | None) -> str | None:
    name = payload.get("logger")
    if isinstance(name, str):
        del payload["logger"]
        namespace = _exact(name)
    other = payload.get("logger_name")
    if isinstance(other, str) and (not isinstance(name, str) or _exact(other) == namespace):
        del payload["logger_name"]
        namespace = _exact(other)
    return namespace


def _take_entity_id(payload: dict[str, Any]) -> str | None:
    """Numbers and UUIDs serve as entity ids as often as text does."""
    entity_id = payload["entity_id"]
    if entity_id is None or isinstance(entity_id, (str, UUID)) or type(entity_id) is int:
        del payload["entity_id"]
        return None if entity_id is None else _exact(entity_id) if isinstance(entity_id, str) else str(entity_id)
    return None


def _take_callsite(
    payload: dict[str, Any], sites: frozenset[str], found: _Found
) -> tuple[str | None, int | None, str | None]:
    # Users have keys of these names too (an uploaded file's ``filename``, a forum's ``thread``): the type must fit, and
    # the names that are as good as any for a user's own value need the company of another one.
    given: dict[str, Any] = {}
    for key in sites:
        value = payload[key]
        if type(value) is (int if key in _NUMERIC_CALLSITE_KEYS else str):
            given[key] = value
    if (
        len(given) == 1
        and not _AMBIGUOUS_CALLSITE_KEYS.isdisjoint(given)
        and given.get("process") != os.getpid()
        and given.get("thread") != threading.get_ident()
    ):
        return None, None, None
    path: str | None = given.get("pathname", given.get("filename"))
    func: str | None = given.get("func_name")
    line: int | None = given.get("lineno")
    if func is None and "qual_name" in given:
        func = given["qual_name"].rpartition(".")[2]
    # What can be derived from a field goes; the rest (``qual_name``, a ``module`` of another file) stays payload.
    given.pop("qual_name", None)
    base = os.path.basename(path) if path is not None else None
    if given.get("filename") != base:
        given.pop("filename", None)
    if "module" in given and (base is None or os.path.splitext(base)[0] != given["module"]):
        del given["module"]
    for key, field in _ORIGIN_FIELDS.items():
        if key in given:
            setattr(found, field, given[key])
    for key in given:
        del payload[key]
    return path, line, func


def _take_attachments(payload: dict[str, Any], keys: frozenset[str], found: _Found) -> None:
    if "positional_args" in keys and type(args := payload["positional_args"]) in (tuple, list):
        found.args = tuple(args)
        del payload["positional_args"]
    if "exc_info" in keys:
        found.exc_info = payload.pop("exc_info")
    if "exception" in keys:
        exception = payload["exception"]
        if isinstance(exception, str) or _is_traceback_data(exception):
            found.exception = payload.pop("exception")
    if "stack_info" in keys:
        found.stack_info = payload.pop("stack_info")
    if "stack" in keys:
        stack = payload["stack"]
        if isinstance(stack, str) and stack.startswith(_STACK_HEADING):
            found.stack = payload.pop("stack")


def _is_traceback_data(value: Any) -> bool:
    """Whether a value is what `structlog.tracebacks.ExceptionDictTransformer` makes."""
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(isinstance(stack, Mapping) and "exc_type" in stack and "exc_value" in stack for stack in value)
    )


def _event_name(event: Any) -> str:
    if isinstance(event, str):
        return _exact(event)
    if event is _MISSING or event is None:
        return NO_EVENT
    if isinstance(event, (bytes, bytearray)):
        return event.decode("utf-8", "backslashreplace")
    return records._template_name(event)


def _exact(text: str) -> str:
    """Text without its class: a `str` subclass may hold anything, and an enum's member is its value."""
    return text if type(text) is str else str.__str__(text)


def _timestamp(raw: Any, layout: _Layout, payload: dict[str, Any], now: float | None) -> float:
    if now is None:
        now = time.time()
    if raw is None:
        return now
    try:
        timestamp = _read_timestamp(raw, layout.timestamp_format, layout.timestamp_utc, now)
    except (ValueError, OverflowError, OSError):
        timestamp = None
    if timestamp is None or not _FIRST_SECOND <= timestamp < _LAST_SECOND:
        payload[layout.timestamp_key] = raw
        return now
    return timestamp


def _read_timestamp(raw: Any, pattern: str | None, utc: bool | None, now: float) -> float | None:
    if type(raw) is str:
        moment = None
        if pattern is not None:
            try:
                moment = datetime.strptime(raw, pattern)  # noqa: DTZ007 - see _resolve_naive
            except ValueError:
                pattern = None
            else:
                if moment.year == 1900:  # what strptime assumes where the pattern has no year
                    return None
        if moment is None:
            moment = datetime.fromisoformat(raw)
    elif isinstance(raw, (int, float)):
        return None if isinstance(raw, bool) else float(raw)
    elif isinstance(raw, datetime):
        moment = raw
    else:
        return None
    timestamp = moment.timestamp() if moment.tzinfo is not None else _resolve_naive(moment, utc, pattern, now)
    if not moment.microsecond and moment is not raw and 0.0 <= now - timestamp < 1.0:
        # Text of whole seconds was cut: events of one second would lose their order among those of other systems.
        return now
    return timestamp


def _resolve_naive(moment: datetime, utc: bool | None, pattern: str | None, now: float) -> float:
    """The time that a clock face shows: twice when the clocks go back, and in two time zones where nobody said which."""
    readings: list[float] = []
    if utc is not True:
        readings += [moment.timestamp(), moment.replace(fold=1).timestamp()]
    if utc is not False:
        readings.insert(0 if pattern is not None else len(readings), moment.replace(tzinfo=UTC).timestamp())
    for reading in readings:
        if abs(now - reading) < 60.0:
            return reading
    return readings[0]


def _complete(
    event: Any, found: _Found | None, payload: dict[str, Any]
) -> tuple[str | None, LogException | None, LogStack | None, LogEventOrigin]:
    """The dear half: what is made only of an event that is going to be logged."""
    if found is None:
        return event, None, None, _PLAIN_ORIGIN
    message: str | None
    if isinstance(event, (str, bytes, bytearray)):
        message = _event_name(event)
    elif event is _MISSING or event is None:
        message = None
    else:
        message = records._safe_str(event)
    template: str | None = None
    args: tuple[Any, ...] | Mapping[str, Any] | None = None
    if found.args is not None and message is None:
        payload["positional_args"] = found.args
    elif found.args is not None and message is not None:
        template = message
        values: Any = found.args
        if len(values) == 1 and isinstance(values[0], Mapping) and values[0]:
            values = values[0]
        message, args = records._fill_in(template, values), records._plain_args(values)
    exception = _exception(found, payload)
    stack = None
    if found.stack_info:
        text = found.stack_info
        stack = records.build_stack(text if type(text) is str and text.startswith(_STACK_HEADING) else _render_stack())
        if found.stack is not None:
            payload["stack"] = found.stack
    elif found.stack is not None:
        stack = records.build_stack(_exact(found.stack))
    if (
        template is None
        and found.level_name is None
        and found.process_id is None
        and found.process_name is None
        and found.thread_id is None
        and found.thread_name is None
    ):
        return message, exception, stack, _PLAIN_ORIGIN
    origin = LogEventOrigin(
        system="structlog",
        level_name=found.level_name,
        template=template,
        args=args,
        process_id=found.process_id,
        process_name=found.process_name,
        thread_id=found.thread_id,
        thread_name=found.thread_name,
    )
    return message, exception, stack, origin


def _exception(found: _Found, payload: dict[str, Any]) -> LogException | None:
    exception: LogException | None = None
    raw = found.exc_info
    if isinstance(raw, (str, Mapping)):
        payload["exc_info"] = raw  # a user's own words
    elif raw:
        exception = records.build_exception(raw if isinstance(raw, (BaseException, tuple)) else True)
    if found.exception is not None:
        if exception is not None:
            payload["exception"] = found.exception
        elif isinstance(found.exception, str):
            exception = records.parse_exception(_exact(found.exception))
        else:
            exception = exception_from_stacks(found.exception)
    return exception


def exception_from_stacks(stacks: Sequence[Mapping[str, Any]]) -> LogException:
    """An exception of what `structlog.tracebacks.ExceptionDictTransformer` made of it (``dict_tracebacks``).

    Its text has no source lines: those were not kept.
    """
    first = stacks[0]
    lines: list[str] = []
    _write_stacks(stacks, "", lines)
    return LogException(str(first["exc_type"]), str(first["exc_value"]), "\n".join(lines), tuple(stacks))


def _write_stacks(stacks: Sequence[Mapping[str, Any]], indent: str, lines: list[str]) -> None:
    for number in range(len(stacks) - 1, -1, -1):
        stack = stacks[number]
        if frames := stack.get("frames"):
            lines.append(f"{indent}Traceback (most recent call last):")
            for frame in frames:
                where = f'File "{frame.get("filename")}", line {frame.get("lineno")}, in {frame.get("name")}'
                lines.append(f"{indent}  {where}")
        value = str(stack["exc_value"])
        head = f"{stack['exc_type']}: {value}" if value else str(stack["exc_type"])
        lines.extend(indent + line for line in head.split("\n"))
        lines.extend(f"{indent}{note}" for note in stack.get("exc_notes") or ())
        for inner in stack.get("exceptions") or ():
            _write_stacks(inner, indent + "  | ", lines)
        if number:
            cause = stack.get("is_cause")
            lines += ["", indent + (_CAUSED if cause else _MEANWHILE), ""]


def _render_stack(frame: FrameType | None = None) -> str:
    import io
    import traceback

    text = io.StringIO()
    text.write(f"{_STACK_HEADING}\n")
    traceback.print_stack(frame or application_frame(), file=text)
    return text.getvalue().rstrip("\n")


def application_frame(ignore: tuple[str, ...] = ()) -> FrameType:
    """The frame that called structlog; for an asynchronous log method the one that awaits it."""
    calling = getattr(structlog.contextvars, "_ASYNC_CALLING_STACK", None)  # since structlog 23.3
    frame: FrameType = (calling.get(None) if calling is not None else None) or sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_globals.get("__name__") or "?"
        if not name.startswith(_OWN_PREFIXES) and name != "structlog" and not (ignore and name.startswith(ignore)):
            break
        frame = frame.f_back
    return frame


# --- event -> event dict -------------------------------------------------------------------------------------------


def event_to_event_dict(
    event: LogEvent,
    *,
    event_key: str = "event",
    timestamp_key: str = "timestamp",
    timestamp_format: str | None = "iso",
    timestamp_utc: bool = True,
    callsite: bool = True,
    positional_args: bool = True,
    structured_exceptions: bool = False,
) -> dict[str, Any]:
    """Turn an event into an event dict that processors and renderers understand.

    Args:
        event: Any event, from structlog or not.
        event_key: The key for the event: its message or, where it has none, its name.
        timestamp_key: The key for the time.
        timestamp_format: As the ``fmt`` of `structlog.processors.TimeStamper`: ``"iso"``, a `strftime` format, or None
            for seconds since the epoch.
        timestamp_utc: As the ``utc`` of `TimeStamper`: UTC or local time.
        callsite: Add where the event was logged, under the keys of `CallsiteParameterAdder`.
        positional_args: Give the message before its arguments were filled in, and ``positional_args``, where the event
            has them; False gives the finished message.
        structured_exceptions: Give ``exception`` as `structlog.processors.dict_tracebacks` does, where the structure is
            known; else as text.

    A key of the payload that is also one of structlog's gets an underscore at its end, but not in an event that came
    from structlog: there it is a value that the mapping could not understand, and that stands in its own place.

    >>> event_dict = event_to_event_dict(LogEvent(20, LogEventMeta("shop", "order.created"), None, 0.0, {"n": 1}))
    >>> event_dict
    {'timestamp': '1970-01-01T00:00:00Z', 'level': 'info', 'event': 'order.created', 'logger': 'shop', 'n': 1}
    """
    meta = event.meta
    origin = event.origin
    from_structlog = origin is not None and origin.system == "structlog"
    event_dict: dict[str, Any] = {
        timestamp_key: _format_timestamp(event.timestamp, timestamp_format, timestamp_utc),
        "level": _level_name(event.level),
    }
    if event.level not in _LEVEL_NAMES:
        event_dict["level_number"] = event.level
    args = None
    if origin is not None:
        if origin.level_name is not None:
            event_dict["level"] = origin.level_name if from_structlog else origin.level_name.lower()
        if positional_args and origin.template is not None:
            args = origin.args
    if args is not None and origin is not None:
        event_dict[event_key] = origin.template
        event_dict["positional_args"] = (dict(args),) if isinstance(args, Mapping) else tuple(args)
    elif event.message is not None:
        event_dict[event_key] = event.message
    elif not from_structlog or meta.event_name != NO_EVENT:
        event_dict[event_key] = meta.event_name
    if meta.event_namespace is not None:
        event_dict["logger"] = meta.event_namespace
    if meta.entity_id is not None:
        event_dict["entity_id"] = meta.entity_id
    if event.event_outcome is not None:
        event_dict["event_outcome"] = event.event_outcome
    tail: dict[str, Any] = {}
    if callsite:
        _add_callsite(tail, meta, origin)
    if event.stack is not None:
        tail["stack"] = event.stack.text
    if event.exception is not None:
        if structured_exceptions and event.exception.stacks:
            tail["exception"] = list(event.exception.stacks)
        else:
            tail["exception"] = event.exception.text
    for key, value in event.payload.items():
        if not from_structlog:
            while key in event_dict or key in tail or key in _RESERVED_KEYS:
                key = f"{key}_"
        event_dict[key] = value
    for key, value in tail.items():
        event_dict.setdefault(key, value)
    return event_dict


def _format_timestamp(timestamp: float, pattern: str | None, utc: bool) -> Any:
    if pattern is None:
        return timestamp
    try:
        moment = datetime.fromtimestamp(timestamp, UTC)
        iso = pattern.upper() == "ISO"
        if utc:
            return moment.isoformat().replace("+00:00", "Z") if iso else moment.strftime(pattern)
        moment = moment.astimezone()
        return moment.replace(tzinfo=None).isoformat() if iso else moment.strftime(pattern)
    except (ValueError, OverflowError, OSError):
        return timestamp


def _add_callsite(target: dict[str, Any], meta: LogEventMeta, origin: LogEventOrigin | None) -> None:
    path = meta.source_path
    if path is not None:
        target["pathname"] = path
        target["filename"] = os.path.basename(path)
        target["module"] = os.path.splitext(target["filename"])[0]
    if meta.source_line is not None:
        target["lineno"] = meta.source_line
    if meta.source_func is not None:
        target["func_name"] = meta.source_func
    if origin is not None:
        given = {
            "process": origin.process_id,
            "process_name": origin.process_name,
            "thread": origin.thread_id,
            "thread_name": origin.thread_name,
            "task_name": origin.task_name,
        }
        target.update((key, value) for key, value in given.items() if value is not None)


# --- the end and the middle of a chain -----------------------------------------------------------------------------


def _deliver(event_dict: dict[str, Any], level: int | None, name: str, layout: _Layout) -> None:
    """Send an event dict, which becomes the payload, to the nearest context of its logger's name."""
    if (mark.value is not None or internal.get()) and is_internal():
        report_recursion(name, _event_name(event_dict.get(layout.event_key)))
        return
    if layout.contextvars and copy_context():  # an empty one is the quickest answer
        for key, value in get_contextvars().items():
            if key not in event_dict:
                event_dict[key] = value
    if capture.active:
        add_trace_context(event_dict)
    before = mark.value
    try:
        mark.value = True  # what is made plain here may be anything, and may log
        # As _survey and _timestamp have it, in place for the common event: each call counts here.
        event = event_dict.pop(layout.event_key, _MISSING)
        level_name = event_dict.pop("level", None)
        raw_timestamp = event_dict.pop(layout.timestamp_key, None)
        found = None
        if (
            type(event) is str
            and level is not None
            and (level_name is None or (type(level_name) is str and level_name == _LEVEL_NAMES.get(level)))
            and layout.known.isdisjoint(event_dict)
        ):
            meta = LogEventMeta(name, event)
        else:
            level, meta, raw_timestamp, event, found = _survey_rest(
                event_dict, level, name, layout, event, level_name, raw_timestamp
            )
            name = meta.event_namespace or ""
        context = nearest_log_context(name)
        snapshot = context._snapshot
        if level < snapshot.min_level:
            return
        if snapshot.is_enabled is not None and not context._is_enabled(snapshot, meta):
            return
        moment = None
        if type(raw_timestamp) is str and layout.timestamp_format is None:
            try:
                moment = datetime.fromisoformat(raw_timestamp)
            except ValueError:
                pass
        if raw_timestamp is None:
            timestamp = time.time()
        elif moment is not None and moment.tzinfo is UTC and moment.microsecond:
            timestamp = moment.timestamp()
        else:
            timestamp = _timestamp(raw_timestamp, layout, event_dict, None)
        outcome = exception = stack = exc_info = None
        message, origin = event, _PLAIN_ORIGIN
        if found is not None:
            outcome = found.outcome
            message, exception, stack, origin = _complete(event, found, event_dict)
            exc_info = None if exception is None else _live_exc_info(found.exc_info)
        text = HEAVY
        try:
            if snapshot.weigh is not None:
                data, text = snapshot.weigh(event_dict, all_keys=True)
            else:
                data = snapshot.normalize_fields(event_dict) if event_dict else event_dict
        except Exception:
            data = None
    finally:
        mark.value = before
    if data is None:  # the context knows what to do about a broken payload processor
        context._emit_fields(
            level, meta, outcome, timestamp, event_dict, message, exception, stack, origin, merge_ambient=False
        )
        return
    log_event = LogEvent(level, meta, outcome, timestamp, data, message, exception, stack, origin)
    if found is None and text + len(event) <= LIGHT_TEXT:
        context._emit_light(log_event)
        return
    if exc_info is None or exception is None:
        context.emit_log_event(log_event)
        return
    before_live = handlers.live.exc_info
    try:
        handlers.live.exc_info = (exception, exc_info)
        context.emit_log_event(log_event)
    finally:
        handlers.live.exc_info = before_live


def _live_exc_info(raw: Any) -> Any:
    """An exception for the handlers behind a synchronous `HandlerSink`, as `sys.exc_info` gives it."""
    if isinstance(raw, BaseException):
        return type(raw), raw, raw.__traceback__
    if isinstance(raw, tuple):
        return raw
    return sys.exc_info() if raw else None


class PipelineLogger:
    """What a structlog logger wraps at the end of a chain: sends to the nearest `LogContext` of its name.

    It takes what `PipelineRenderer` hands over and, where a chain ends otherwise, what any other renderer makes: text,
    bytes (JSON is read), keyword arguments, or the arguments of `logging.Logger` methods. Towards
    `structlog.stdlib.BoundLogger` and the processors of `structlog.stdlib` it behaves like a `logging.Logger`.

    Made by `StructlogLoggerFactory` or `get_pipeline_logger`; there is one for each name, also after copying and
    unpickling.

    Attributes:
        name: The logger's name: the events' namespace.
        level: Its own minimal level; 0 leaves it to the context.
        disabled: True drops everything.
    """

    __slots__ = ("__weakref__", "disabled", "level", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.level = 0
        self.disabled = False

    def __repr__(self) -> str:
        return f"<PipelineLogger {self.name}>"

    def __reduce__(self) -> tuple[Callable[[str], PipelineLogger], tuple[str]]:
        return get_pipeline_logger, (self.name,)

    def __copy__(self) -> PipelineLogger:
        return self

    def __deepcopy__(self, memo: object) -> PipelineLogger:
        return self

    def __getattr__(self, name: str) -> Any:
        """The methods of levels that the program has named with `logging.addLevelName`."""
        if not name.startswith("_"):
            number = logging.getLevelName(name.upper())
            if isinstance(number, int):
                return _make_method(number).__get__(self)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def log(self, /, *args: Any, **kwargs: Any) -> None:
        """Log at a level given first, as `logging.Logger.log` does; without one, at INFO."""
        if args and type(args[0]) is int:
            self._log(args[0], args[1:], kwargs)
        else:
            self._log(_INFO, args, kwargs)

    def _log(self, level: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if level < self.level or self.disabled:
            return
        if len(args) == 2 and type(args[1]) is _Layout:
            event_dict, layout = args
        else:
            merged = _chain_merges_contextvars(sys._getframe(2))
            event_dict, layout = _read_call(args, kwargs), _MERGED_LAYOUT if merged else _DEFAULT_LAYOUT
        _deliver(event_dict, level, self.name, layout)

    # What structlog.stdlib asks of a logging.Logger.

    @property
    def parent(self) -> PipelineLogger | None:
        """The logger of the next shorter name."""
        name = self.name.rpartition(".")[0]
        return get_pipeline_logger(name) if name else None

    @property
    def handlers(self) -> list[logging.Handler]:
        """Always empty: the context's sink takes the events."""
        return []

    @property
    def propagate(self) -> bool:
        """Always False."""
        return False

    def setLevel(self, level: int | str) -> None:  # noqa: N802 - logging's name
        """Set the logger's own minimal level, beside that of its context.

        Raises:
            LogConfigurationError: It is no level.
        """
        self.level = parse_level(level)

    def getEffectiveLevel(self) -> int:  # noqa: N802 - logging's name
        """The lowest level that can pass: the logger's own or its context's, whichever is higher."""
        return max(self.level, nearest_log_context(self.name).min_level)

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        """True when an event of that level is not rejected for its level alone."""
        return not self.disabled and level >= self.getEffectiveLevel()

    is_enabled_for = isEnabledFor
    get_effective_level = getEffectiveLevel

    def hasHandlers(self) -> bool:  # noqa: N802 - logging's name
        """Always True: there is always a context, and it has a sink."""
        return True

    def getChild(self, suffix: str) -> PipelineLogger:  # noqa: N802 - logging's name
        """The logger of a longer name."""
        return get_pipeline_logger(f"{self.name}.{suffix}")

    def addHandler(self, hdlr: logging.Handler) -> NoReturn:  # noqa: N802 - logging's name
        """Refused: a handler becomes a sink by `HandlerSink`.

        Raises:
            LogConfigurationError: Always.
        """
        raise LogConfigurationError(
            f"logger {self.name!r}: it sends to a LogContext and takes no handlers; give the context a HandlerSink"
        )

    def removeHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802 - logging's name
        """Nothing to remove."""

    def findCaller(  # noqa: N802 - logging's name
        self, stack_info: bool = False, stacklevel: int = 1
    ) -> tuple[str, int, str, str | None]:
        """Where the application called structlog: path, line, function, and the stack as text where it is asked for."""
        frame = application_frame()
        for _ in range(stacklevel - 1):
            frame = frame.f_back or frame
        code = frame.f_code
        return code.co_filename, frame.f_lineno, code.co_name, _render_stack(frame) if stack_info else None

    def makeRecord(self, *args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: N802 - logging's name
        """As `logging.Logger.makeRecord`."""
        return logging.getLogger(self.name).makeRecord(*args, **kwargs)

    def handle(self, record: logging.LogRecord) -> None:
        """Send a record to the pipeline, as a `LogContextHandler` would."""
        if not self.disabled and record.levelno >= self.level:
            handlers.LogContextHandler().handle(record)

    callHandlers = handle  # noqa: N815 - logging's name


def _make_method(level: int) -> Any:
    def method(
        self: PipelineLogger, event: Any = _MISSING, layout: Any = _MISSING, /, *args: Any, **kwargs: Any
    ) -> None:
        if type(layout) is _Layout:
            if level >= self.level and not self.disabled:
                _deliver(event, level, self.name, layout)
            return
        given = (event,) if layout is _MISSING else (event, layout, *args)
        self._log(level, () if event is _MISSING else given, kwargs)

    method.__doc__ = f"Log at level {level}."
    return method


for _name in ("notset", "trace", "debug", "info", "msg", "warning", "warn", "error", "err", "failure", "exception"):
    setattr(PipelineLogger, _name, _make_method(_LEVELS[_name]))
for _name in ("critical", "fatal"):
    setattr(PipelineLogger, _name, _make_method(_LEVELS[_name]))


def _read_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """An event dict of what a renderer other than ours has made."""
    if not args:
        if "msg" not in kwargs or "event" in kwargs:
            return kwargs
        args = (kwargs.pop("msg"),)  # structlog.stdlib.render_to_log_kwargs
    event = args[0]
    # A dict is what structlog.stdlib.ProcessorFormatter.wrap_for_formatter hands over.
    event_dict: dict[str, Any] = dict(event) if isinstance(event, dict) else _read_json(event) or {"event": event}
    if len(args) > 1:
        event_dict["positional_args"] = args[1:]
    extra = kwargs.pop("extra", None)
    if type(kwargs.get("stacklevel")) is int:
        del kwargs["stacklevel"]
    for more in (extra, kwargs):
        if isinstance(more, Mapping):
            for key, value in more.items():
                event_dict.setdefault(key, value)
        elif more is not None:
            event_dict.setdefault("extra", more)
    return event_dict


def _read_json(text: Any) -> dict[str, Any] | None:
    """The event dict that a JSON renderer rendered."""
    if isinstance(text, str):
        if not text.startswith("{"):
            return None
    elif not isinstance(text, (bytes, bytearray)) or not text.startswith(b"{"):
        return None
    try:
        decoded = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return decoded if isinstance(decoded, dict) and "event" in decoded else None


_loggers: dict[str, PipelineLogger] = {}


def get_pipeline_logger(name: str) -> PipelineLogger:
    """The `PipelineLogger` of a name; the same one each time."""
    logger = _loggers.get(name)
    return logger if logger is not None else _loggers.setdefault(name, PipelineLogger(name))


class StructlogLoggerFactory:
    """For the ``logger_factory`` of `structlog.configure`: makes the loggers at the end of a chain into the pipeline.

    The first positional argument of `structlog.get_logger` is the logger's name; without one it is the ``__name__`` of
    the module that calls it, as with `structlog.stdlib.LoggerFactory`.

    Args:
        ignore_frame_names: When guessing the name, skip modules whose names start with one of these.
    """

    def __init__(self, ignore_frame_names: Sequence[str] | None = None) -> None:
        self._ignore = _check_ignore(ignore_frame_names)

    def __call__(self, *args: Any) -> PipelineLogger:
        """The logger of the name given, or of the calling module."""
        if args and args[0] is not None:
            name = args[0]
            return get_pipeline_logger(_exact(name) if isinstance(name, str) else records._safe_str(name))
        return get_pipeline_logger(_calling_module(self._ignore))


def _check_ignore(names: Sequence[str] | None) -> tuple[str, ...]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names or ()):
        raise TypeError("ignore_frame_names: expected a list of module names")
    return tuple(names or ())


def _calling_module(ignore: tuple[str, ...]) -> str:
    name = application_frame(ignore).f_globals.get("__name__")
    return name if isinstance(name, str) else "?"


class _PipelineProcessor:
    __slots__ = ("_layout",)

    def __init__(
        self,
        *,
        event_key: str = "event",
        timestamp_key: str = "timestamp",
        timestamp_format: str | None = None,
        timestamp_utc: bool | None = None,
        callsite: bool = True,
        contextvars: bool | None = None,
    ) -> None:
        self._layout = _Layout(event_key, timestamp_key, timestamp_format, timestamp_utc, callsite, contextvars)


class PipelineRenderer(_PipelineProcessor):
    """The last processor of a chain that ends in the pipeline: hands the event dict over as data.

    Nothing needs to stand before it: what a chain has not added, it finds itself (the level from the log method, the
    time, values bound with `structlog.contextvars`, ``exc_info``, ``stack_info`` and positional arguments).
    Made for the loggers of `StructlogLoggerFactory`; with any other logger it sends the event itself and ends the chain
    with `structlog.DropEvent`.

    Args:
        event_key: The key of the event, where `structlog.processors.EventRenamer` changed it.
        timestamp_key: The ``key`` of `structlog.processors.TimeStamper`.
        timestamp_format: Its ``fmt``, where that is a `strftime` format.
        timestamp_utc: Its ``utc``, where its text has no offset; None guesses (see `event_dict_to_event`).
        callsite: False leaves the keys of `structlog.processors.CallsiteParameterAdder` in the payload.
        contextvars: Whether values that are bound with `structlog.contextvars` join the event. None: where the chain
            has no `structlog.contextvars.merge_contextvars`; where it has, what it left out stays out.
    """

    __slots__ = ()

    def __call__(self, logger: Any, method_name: str, event_dict: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Hand the event dict over."""
        if type(event_dict) is not dict:
            event_dict = dict(event_dict)
        if self._layout.contextvars is None:
            self._layout.contextvars = not _chain_merges_contextvars(sys._getframe(1))
        if type(logger) is PipelineLogger:
            return (event_dict, self._layout), {}
        _deliver(event_dict, _method_level(method_name), _name_of(logger, event_dict, None), self._layout)
        raise DropEvent


class PipelineTee(_PipelineProcessor):
    """A processor that sends a copy to the pipeline and lets the event go on, unchanged.

    It never raises, whatever the pipeline does. The copy is sent at once: a processor behind it that drops the event
    drops it from the rest of the chain only.

    Args:
        logger_name: The events' logger name; None takes the event dict's ``logger`` or ``logger_name``, else the
            ``name`` of the wrapped logger, else the name of the module that logs.
        event_key: See `PipelineRenderer`, also for all that follow.
        timestamp_key: The ``key`` of the time stamp.
        timestamp_format: Its ``fmt``.
        timestamp_utc: Its ``utc``.
        callsite: False leaves call site keys in the payload.
        contextvars: Whether bound values join the event.
    """

    __slots__ = ("_logger_name",)

    def __init__(
        self,
        *,
        logger_name: str | None = None,
        event_key: str = "event",
        timestamp_key: str = "timestamp",
        timestamp_format: str | None = None,
        timestamp_utc: bool | None = None,
        callsite: bool = True,
        contextvars: bool | None = None,
    ) -> None:
        super().__init__(
            event_key=event_key,
            timestamp_key=timestamp_key,
            timestamp_format=timestamp_format,
            timestamp_utc=timestamp_utc,
            callsite=callsite,
            contextvars=contextvars,
        )
        self._logger_name = logger_name

    def __call__(self, logger: Any, method_name: str, event_dict: Any) -> Any:
        """Send a copy."""
        if self._layout.contextvars is None:
            self._layout.contextvars = not _chain_merges_contextvars(sys._getframe(1))
        try:
            name = _name_of(logger, event_dict, self._logger_name)
            _deliver(dict(event_dict), _method_level(method_name), name, self._layout)
        except Exception as err:
            selflog.report("structlog", "a copy of an event could not be sent", error=type(err).__name__)
        return event_dict


def _chain_merges_contextvars(frame: FrameType) -> bool:
    """Whether the bound logger whose code runs in a frame has `merge_contextvars` in its chain.

    A processor is not told which chain it is in.
    """
    if frame.f_code.co_name not in ("_process_event", "_proxy_to_logger"):
        return False
    try:
        return structlog.contextvars.merge_contextvars in list(frame.f_locals["self"]._processors)
    except Exception:  # a wrapper class of another kind
        return False


def _name_of(logger: Any, event_dict: Mapping[str, Any], name: str | None) -> str:
    if name is None:
        name = event_dict.get("logger") or event_dict.get("logger_name")
        if not isinstance(name, str):
            name = getattr(logger, "name", None)
    return _exact(name) if isinstance(name, str) and name else _calling_module(())


# --- structlog's formatter behind a HandlerSink --------------------------------------------------------------------


class EventDictFromRecord:
    """A processor for the ``foreign_pre_chain`` of `structlog.stdlib.ProcessorFormatter`: fills in what the record has.

    Level, time, logger, payload (the ``extra`` of a standard library record), exception and stack of the record join the
    event dict, whether the record was made from an event by a `HandlerSink` or by `logging`. It stands for
    ``add_log_level``, ``add_logger_name``, ``TimeStamper`` and ``ExtraAdder`` together. `EventFormatter` has it built in.

    Args:
        callsite: Add where the event was logged, under the keys of `CallsiteParameterAdder`.
        timestamp_key: The key for the time.
        timestamp_format: The ``fmt`` of a `TimeStamper`.
        timestamp_utc: The ``utc`` of a `TimeStamper`.
    """

    __slots__ = ("_options",)

    def __init__(
        self,
        *,
        callsite: bool = False,
        timestamp_key: str = "timestamp",
        timestamp_format: str | None = "iso",
        timestamp_utc: bool = True,
    ) -> None:
        self._options: dict[str, Any] = {
            "callsite": callsite,
            "timestamp_key": timestamp_key,
            "timestamp_format": timestamp_format,
            "timestamp_utc": timestamp_utc,
            "positional_args": False,
        }

    def __call__(self, logger: Any, method_name: str, event_dict: Any) -> Any:
        """Fill in the event dict of a record that is not structlog's own."""
        record = event_dict.get("_record")
        if event_dict.get("_from_structlog") or not isinstance(record, logging.LogRecord):
            return event_dict
        event = records.record_to_event(record)
        found = event_to_event_dict(event, **self._options)
        text = event_dict.get("event", found.get("event"))
        if isinstance(text, str) and event.payload:
            text = text.removesuffix(
                f" {dict(event.payload)!r}"
            )  # of a native event, whose payload is here by its keys
        found["event"] = text
        if record.exc_info:
            found["exc_info"] = record.exc_info  # alive: a renderer can make more of it than of its text
            found.pop("exception", None)
        stack = event_dict.pop("stack_info", None)
        if stack:
            found.setdefault("stack", stack)
        for key, value in found.items():
            event_dict[key] = value
        return event_dict


class EventFormatter(structlog.stdlib.ProcessorFormatter):
    """`structlog.stdlib.ProcessorFormatter`, for plain data files and for records that a `HandlerSink` made from events.

    Records from events are rendered from their event; those of `logging` and of structlog's ``wrap_for_formatter`` as
    the base class does it, with `EventDictFromRecord` as the default ``foreign_pre_chain``.

    Args:
        renderer: ``"console"``, ``"json"``, ``"logfmt"`` or ``"key_value"``: the end of the chain.
        processors: The chain before the renderer, or a whole chain where ``renderer`` is None. Each a processor, a dotted
            path, or a mapping ``{"class": "dotted.path", **options}``; see `build_processors`.
        foreign_pre_chain: Likewise, for records that are not structlog's.
        colors: For ``"console"``.
        callsite: Show where the event was logged.
        timestamp_format: The ``fmt`` of a `TimeStamper`.
        timestamp_utc: The ``utc`` of a `TimeStamper`.
        **options: Of the base class.

    Raises:
        LogConfigurationError: A processor cannot be made, or there is none.
    """

    def __init__(
        self,
        *,
        renderer: str | None = None,
        processors: Iterable[Any] | None = None,
        foreign_pre_chain: Iterable[Any] | None = None,
        colors: bool = False,
        callsite: bool = False,
        timestamp_format: str | None = "iso",
        timestamp_utc: bool = True,
        **options: Any,
    ) -> None:
        chain = build_processors(processors or ())
        if renderer is not None:
            chain += [self.remove_processors_meta, *build_renderer(renderer, colors=colors)]
        if not chain:
            raise LogConfigurationError("processors: give a chain, or a renderer: " + ", ".join(RENDERERS))
        self._options: dict[str, Any] = {
            "callsite": callsite,
            "timestamp_format": timestamp_format,
            "timestamp_utc": timestamp_utc,
        }
        pre_chain = (
            [EventDictFromRecord(**self._options)]
            if foreign_pre_chain is None
            else build_processors(foreign_pre_chain, path="foreign_pre_chain")
        )
        super().__init__(processors=chain, foreign_pre_chain=pre_chain, **options)
        self._structured = renderer == "json"

    def format(self, record: logging.LogRecord) -> str:
        """Render the record."""
        if not isinstance(record, records.EventLogRecord):
            return super().format(record)
        event = records.record_to_event(record)
        event_dict = event_to_event_dict(
            event, positional_args=False, structured_exceptions=self._structured, **self._options
        )
        if record.exc_info and not self._structured:
            event_dict["exc_info"] = record.exc_info
            event_dict.pop("exception", None)
        wrapped = logging.makeLogRecord(record.__dict__)
        wrapped.msg, wrapped.args = event_dict, ()
        wrapped.exc_info = wrapped.exc_text = wrapped.stack_info = None
        wrapped._logger = get_pipeline_logger(record.name)
        wrapped._name = method_of(event.level)
        return super().format(wrapped)


def method_of(level: int) -> str:
    """The log method for a level: its own, or that of the next lower level (``debug`` at least)."""
    name = _LEVEL_NAMES.get(level)
    return name if name is not None else _LEVEL_NAMES[max((n for n in _LEVEL_NAMES if 0 < n <= level), default=10)]


# --- chains in plain data ------------------------------------------------------------------------------------------

RENDERERS = ("console", "json", "logfmt", "key_value")
"""The names that `build_renderer` knows."""

_SHORT_NAME_MODULES = (
    "structlog.processors",
    "structlog.stdlib",
    "structlog.contextvars",
    "structlog.dev",
    "mvx_logger.bridge.structlog",
)
_FIRST_KEYS = ("timestamp", "level", "logger", "event")
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 9} | {10: "\\n", 13: "\\r"}
_CONTROL_BUT_NEWLINE = {code: text for code, text in _CONTROL.items() if code != 10}


def import_object(path: str, *, where: str = "class") -> Any:
    """What a dotted path names.

    Args:
        path: E.g. ``structlog.processors.TimeStamper``; without a dot, a name of structlog's own modules.
        where: Where the path stands, for the error.

    Raises:
        LogConfigurationError: There is no such thing; the text names the place and the path.
    """
    modules: Iterable[str] = _SHORT_NAME_MODULES
    parts = [path]
    if "." in path:
        names = path.split(".")
        modules = [".".join(names[:end]) for end in range(len(names) - 1, 0, -1)]
    for module_name in modules:
        try:
            found: Any = importlib.import_module(module_name)
        except ImportError as err:
            if isinstance(err, ModuleNotFoundError) and err.name and f"{module_name}.".startswith(f"{err.name}."):
                continue
            raise LogConfigurationError(f"{where}: importing {path!r} failed: {err}", cause=err) from err
        if "." in path:
            parts = path.split(".")[module_name.count(".") + 1 :]
        try:
            for part in parts:
                found = getattr(found, part)
        except AttributeError:
            continue
        return found
    raise LogConfigurationError(f"{where}: there is no {path!r}", details={"path": where})


def build_processors(specs: Iterable[Any], *, path: str = "processors") -> list[Any]:
    """Make a chain of what can stand in a plain data file.

    Args:
        specs: Each a processor; a dotted path of a function, of a class (made without options) or of an object; or a
            mapping ``{"class": "dotted.path", **options}`` (``"()"`` serves as well as ``"class"``). A path without a
            dot is looked up in structlog's modules and this one. A text option that starts with ``ext://`` is the object
            that the rest of it names.
        path: Where the chain stands, for errors.

    Raises:
        LogConfigurationError: One cannot be made; the text names it.

    >>> build_processors(["add_log_level", {"class": "JSONRenderer", "sort_keys": True}])  # doctest: +ELLIPSIS
    [<function add_log_level at ...>, <structlog.processors.JSONRenderer object at ...>]
    """
    if isinstance(specs, (str, Mapping)):
        raise LogConfigurationError(f"{path}: expected a list of processors, got {type(specs).__name__}")
    return [_build_callable(spec, f"{path}[{number}]") for number, spec in enumerate(specs)]


def _build_callable(spec: Any, path: str) -> Any:
    made = build_object(spec, path=path)
    if not callable(made):
        raise LogConfigurationError(
            f"{path}: expected a callable, a dotted path of one, or a mapping with a class, got {type(made).__name__}",
            details={"path": path},
        )
    return made


def build_object(spec: Any, *, path: str) -> Any:
    """Make one object of what can stand in a plain data file. See `build_processors`."""
    options: dict[str, Any] = {}
    made = spec
    if isinstance(spec, Mapping):
        options = {str(key): value for key, value in spec.items()}
        name = options.pop("class", None) or options.pop("()", None)
        if not isinstance(name, str):
            raise LogConfigurationError(f'{path}: expected "class" with a dotted path in it')
        made = import_object(name, where=path)
    elif isinstance(spec, str):
        made = import_object(spec, where=path)
    if isinstance(made, type) or isinstance(spec, Mapping):
        options = {key: _resolve_option(value, f"{path}.{key}") for key, value in options.items()}
        if made is CallsiteParameterAdder and "parameters" in options:
            options["parameters"] = _callsite_parameters(options["parameters"], f"{path}.parameters")
        try:
            made = made(**options)
        except (TypeError, ValueError, KeyError) as err:
            raise LogConfigurationError(
                f"{path}: {type(err).__name__}: {err}", details={"path": path}, cause=err
            ) from err
    return made


def _resolve_option(value: Any, path: str) -> Any:
    if isinstance(value, str) and value.startswith("ext://"):
        return import_object(value[6:], where=path)
    return value


def _callsite_parameters(names: Any, path: str) -> list[CallsiteParameter]:
    try:
        return [CallsiteParameter(name) for name in names]
    except (TypeError, ValueError) as err:
        known = ", ".join(parameter.value for parameter in CallsiteParameter)
        raise LogConfigurationError(f"{path}: expected a list of {known}", details={"path": path}, cause=err) from err


def build_renderer(name: str, *, colors: bool = False, sort_keys: bool = False) -> list[Any]:
    """The end of a chain by its name.

    Args:
        name: ``"console"`` (`structlog.dev.ConsoleRenderer`), ``"json"``, ``"logfmt"`` or ``"key_value"``.
        colors: For ``"console"``.
        sort_keys: Order the keys by name. ``"console"``, ``"logfmt"`` and ``"key_value"`` begin with those that every
            event has all the same.

    Returns:
        Processors; the last one makes text. No value of an event can write control characters to a console, or break a
        line of the others.

    Raises:
        LogConfigurationError: The name is unknown.
    """
    if name == "console":
        return [
            _make_printable,
            structlog.dev.ConsoleRenderer(
                colors=colors, sort_keys=sort_keys, exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    ordering = [_sort_keys] if sort_keys else []
    if name == "json":
        return [*ordering, _render_json]
    if name == "logfmt":
        return [*ordering, _order_keys, _render_logfmt]
    if name == "key_value":
        return [structlog.processors.KeyValueRenderer(key_order=_FIRST_KEYS, drop_missing=True, sort_keys=sort_keys)]
    raise LogConfigurationError(f"renderer: {name!r} is unknown; use one of {', '.join(RENDERERS)}")


def _make_printable(logger: Any, method_name: str, event_dict: Any) -> dict[str, Any]:
    """What an event says must not move a terminal's cursor, recolour it, or look like another event."""
    printable: dict[str, Any] = {}
    for key, value in event_dict.items():
        if type(key) is not str or not key.isprintable():
            key = str(key).translate(_CONTROL)
        if key in ("exception", "stack"):
            value = str(value).translate(_CONTROL_BUT_NEWLINE)
        elif type(value) is str and not value.isprintable():
            value = (
                value.translate(_CONTROL_BUT_NEWLINE).replace("\n", "\n    ")
                if key == "event"
                else value.translate(_CONTROL)
            )
        printable[key] = value
    return printable


def _render_json(logger: Any, method_name: str, event_dict: Any) -> str:
    return encode_value(dict(event_dict)).decode()


def _sort_keys(logger: Any, method_name: str, event_dict: Any) -> dict[str, Any]:
    return {key: event_dict[key] for key in sorted(event_dict, key=str)}


def _render_logfmt(logger: Any, method_name: str, event_dict: Any) -> str:
    """As the package's own logfmt: structlog's refuses keys with white space, and its older ones break lines."""
    pairs: dict[str, Any] = {}
    for key, value in event_dict.items():
        name = str(key)
        if not name.isidentifier():
            name = "".join("_" if char in '\\="' or not char.isprintable() or char.isspace() else char for char in name)
            while not name or name in pairs or (name != key and name in event_dict):
                name += "_"
        pairs[name] = value
    return " ".join([f"{name}={logfmt._value(value)}" for name, value in pairs.items()])


def _order_keys(logger: Any, method_name: str, event_dict: Any) -> dict[str, Any]:
    """Those that every event has first."""
    first = {key: event_dict[key] for key in _FIRST_KEYS if key in event_dict}
    return {**first, **event_dict}


# --- configuration -------------------------------------------------------------------------------------------------


def configure_structlog(
    *,
    level: int | str = "notset",
    processors: Iterable[Any] = (),
    callsite: bool | Iterable[Any] = False,
    renderer: Any = None,
    wrapper_class: Any = None,
    logger_factory: Any = None,
    context_class: Any = None,
    cache_logger_on_first_use: bool = True,
) -> None:
    """Configure structlog so that its loggers end in the pipeline.

    Args:
        level: What is below it costs nothing: the loggers' methods do nothing. Contexts have a ``min_level`` of their own
            that can be changed later.
        processors: Processors of your own. `structlog.contextvars.merge_contextvars`, ``add_log_level`` and a
            `TimeStamper` run before them, so that they find these keys. Each may be written as `build_processors` has it.
        callsite: True adds path, line and function of the log call; a list adds those parameters of
            `structlog.processors.CallsiteParameter` (their values, e.g. ``"qual_name"``). It costs a walk up the stack.
        renderer: The last processor; None is a `PipelineRenderer`.
        wrapper_class: None is a filtering bound logger of ``level``; else a class or its dotted path.
        logger_factory: None is a `StructlogLoggerFactory`; else as in `build_processors`.
        context_class: None is `dict`; else a class or its dotted path.
        cache_logger_on_first_use: As in `structlog.configure`. What was configured here before is then kept by loggers
            that were used already.

    Raises:
        LogConfigurationError: An argument is wrong; nothing was changed.

    >>> configure_structlog(level="info")
    >>> structlog.get_logger("shop").info("order.created", order_id="order-42")
    >>> structlog.reset_defaults()
    """
    structlog.configure(
        **plan_structlog(
            level=level,
            processors=processors,
            callsite=callsite,
            renderer=renderer,
            wrapper_class=wrapper_class,
            logger_factory=logger_factory,
            context_class=context_class,
            cache_logger_on_first_use=cache_logger_on_first_use,
        )
    )


def plan_structlog(
    *,
    level: int | str = "notset",
    processors: Iterable[Any] = (),
    callsite: bool | Iterable[Any] = False,
    renderer: Any = None,
    wrapper_class: Any = None,
    logger_factory: Any = None,
    context_class: Any = None,
    cache_logger_on_first_use: bool = True,
) -> dict[str, Any]:
    """What `configure_structlog` would give to `structlog.configure`, without configuring anything.

    Raises:
        LogConfigurationError: An argument is wrong.
    """
    number = parse_level(level)
    chain: list[Any] = build_processors(processors)
    if callsite is not False:
        names = ("pathname", "lineno", "func_name") if callsite is True else callsite
        adder = CallsiteParameterAdder(_callsite_parameters(names, "callsite"), additional_ignores=["mvx_logger"])
        chain.insert(0, adder)
    if chain:
        chain[:0] = [
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(),
        ]
    # Where nobody is there to see these keys, the renderer finds out by itself, for less.
    chain.append(PipelineRenderer(contextvars=not chain) if renderer is None else _build_callable(renderer, "renderer"))
    return {
        "processors": chain,
        "wrapper_class": (
            _filtering_logger(number) if wrapper_class is None else _as_class(wrapper_class, "wrapper_class")
        ),
        "logger_factory": (
            StructlogLoggerFactory() if logger_factory is None else _build_callable(logger_factory, "logger_factory")
        ),
        "context_class": dict if context_class is None else _as_class(context_class, "context_class"),
        "cache_logger_on_first_use": cache_logger_on_first_use,
    }


def _filtering_logger(level: int) -> Any:
    """The wrapper class that lets pass exactly the standard levels from ``level`` on."""
    return structlog.make_filtering_bound_logger(min((n for n in _LEVEL_NAMES if n >= level), default=50))


def _as_class(spec: Any, path: str) -> Any:
    found = import_object(spec, where=path) if isinstance(spec, str) else spec
    if not callable(found):
        raise LogConfigurationError(f"{path}: expected a class or its dotted path, got {type(found).__name__}")
    return found
