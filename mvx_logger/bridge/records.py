"""`logging.LogRecord` <-> `LogEvent`: one mapping, pure, both ways.

====================================================  =================================================================
``levelno``, ``levelname``                            ``level``, ``origin.level_name``
``name``                                              ``meta.event_namespace`` (the root logger's stays ``root``)
``msg``                                               ``meta.event_name`` (selectable), ``origin.template``
``args``                                              ``origin.args``, as plain data
``getMessage()``                                      ``message``
``created``                                           ``timestamp``
``pathname``, ``lineno``, ``funcName``                ``meta.source_path``, ``source_line``, ``source_func``
``exc_info``, ``exc_text``                            ``exception``
``stack_info``                                        ``stack``
``process``, ``processName``, ``thread``,             ``origin.process_id``, ``process_name``, ``thread_id``,
``threadName``, ``taskName``                          ``thread_name``, ``task_name``
extra ``entity_id``, ``event_outcome``                ``meta.entity_id``, ``event_outcome``
every other extra                                     ``payload``
====================================================  =================================================================

A record is never changed here. Whatever it holds (`logging.makeLogRecord` accepts anything), an event comes out of it.

Coming back, `event_to_record` restores the template and its arguments where they still give the event's message: plain
data does not always format like the object that it describes. Where they do not, ``msg`` is the message itself. Either
way the record carries its event, so that `record_to_event` gives back the very same one.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from logging import LogRecord
from traceback import walk_tb
from types import TracebackType
from typing import Any, Literal, TypeAlias

from msgspec.structs import replace

from ..formats.text import event_title
from ..guard import mark
from ..model import LIGHT_KEYS, LIGHT_TEXT, LogEvent, LogEventMeta, LogEventOrigin, LogException, LogStack
from ..payload import HEAVY, LogPayloadProcessor, weigh_payload
from ..protocols import LogPayloadProcessorProto

__all__ = [
    "EventLogRecord",
    "EventName",
    "RecordFields",
    "build_exception",
    "build_stack",
    "event_to_record",
    "is_event_record",
    "normalize_extras",
    "parse_exception",
    "plain_event",
    "record_fields",
    "record_level",
    "record_meta",
    "record_to_event",
    "render_message",
    "run_filters",
]

EventName: TypeAlias = Literal["template", "message"] | Callable[[LogRecord], str]
"""What becomes the ``event_name`` of a record: its template, its rendered message, or what a callable makes of it."""

RecordFields: TypeAlias = tuple[
    "str | None",
    float,
    "dict[str, Any]",
    str,
    "LogException | None",
    "LogStack | None",
    LogEventOrigin,
]
"""``event_outcome``, ``timestamp``, ``payload`` (not normalized), ``message``, ``exception``, ``stack``, ``origin``."""

ExcInfo: TypeAlias = "tuple[type[BaseException], BaseException, TracebackType | None]"

NATIVE = "native"
"""``origin.system`` of a native event that was forwarded to a handler."""

_PROBE = LogRecord("", 0, "", 0, "", (), None)
_STANDARD = frozenset(_PROBE.__dict__)
_STANDARD_COUNT = len(_STANDARD)
_LAST_STANDARD = next(reversed(_PROBE.__dict__))
_HAS_TASK_NAME = "taskName" in _STANDARD
_START = _PROBE.created - _PROBE.relativeCreated / 1000
_NS_CLOCK = sys.version_info >= (3, 13)

# What formatters write on a record, and what a later Python has on each.
_WRITTEN = frozenset({"message", "asctime", "taskName"})
# structlog's own.
_NEVER_PAYLOAD = frozenset({"_record", "_logger", "_from_structlog"})
_NOT_PAYLOAD = _STANDARD | _WRITTEN | _NEVER_PAYLOAD | {"entity_id", "event_outcome"}
# Names that a payload key cannot have on a record: it would hide the record's own.
_TAKEN = _STANDARD | _WRITTEN | _NEVER_PAYLOAD | frozenset(name for name in dir(_PROBE) if name[:2] != "__")

_SCALARS = frozenset({str, int, float, bool, type(None)})
_LONGEST_REPR = 10_000
_MAX_FRAMES = 50  # as structlog.tracebacks

_PLAIN = LogPayloadProcessor(max_str_len=100_000, max_items=10_000, max_depth=20)
_FORMATTER = logging.Formatter()
_get_message = LogRecord.getMessage


# --- what is called for every record ---------------------------------------------------------------------------------


def record_level(record: LogRecord) -> int:
    """The level of a record as a number; for one that has none, the number that belongs to its ``levelname``, or 0."""
    level = record.__dict__.get("levelno")
    return level if type(level) is int else _repair_level(record, level)


def record_meta(record: LogRecord, event_name: EventName = "template") -> LogEventMeta:
    """What a policy needs of a record. Cheap: nothing is rendered, unless the message is to be the event's name.

    Args:
        record: Any record.
        event_name: What becomes the ``event_name``.

    Raises:
        Exception: What the ``event_name`` callable raises.
    """
    attributes = record.__dict__
    try:
        name = attributes["name"]
        path = attributes["pathname"]
        line = attributes["lineno"]
        func = attributes["funcName"]
        template = attributes["msg"]
    except KeyError:
        return _repair_meta(record, event_name)
    if (
        type(name) is not str
        or type(template) is not str
        or type(path) is not str
        or type(line) is not int
        or (func is not None and type(func) is not str)
        or event_name != "template"
    ):
        return _repair_meta(record, event_name)
    entity_id = attributes.get("entity_id")
    if entity_id is not None and type(entity_id) is not str:
        entity_id = _safe_str(entity_id)
    return LogEventMeta(name, template, entity_id, path, line, func)


def record_fields(record: LogRecord, message: str | None = None, task_name: str | None = None) -> RecordFields:
    """The rest of the event, for a record that a policy has let pass.

    Args:
        record: Any record.
        message: Its text, where a formatter has made it already.
        task_name: The asyncio task that logs, for a Python whose records do not tell (before 3.12).

    Returns:
        The fields of the event that `record_meta` and `record_level` do not give; see `RecordFields`.
    """
    attributes = record.__dict__
    get = attributes.get
    template = get("msg")
    args = get("args")
    # Looking at each attribute costs more than all the rest. Extras come last, so the last one tells, should a
    # deleted attribute make the number look right.
    extras = len(attributes) - _STANDARD_COUNT
    if not extras and next(reversed(attributes)) != _LAST_STANDARD:
        extras = 1
    if type(template) is not str:
        extras += isinstance(template, Mapping)  # structured data: it belongs into the payload
        template = _safe_str(template)
    if message is None:
        if type(record).getMessage is _get_message:
            message = template if args is None else _fill_in(template, args)
        else:
            message = render_message(record)
    # An empty tuple is what a log call without arguments leaves there.
    plain_args = None if args is None or (type(args) is tuple and not args) else _plain_args(args)

    payload: dict[str, Any] = {}
    outcome = None
    if extras > 0:  # formatters of other handlers may have been here
        extras -= ("message" in attributes) + ("asctime" in attributes)
    if extras:
        payload, outcome = _take_extras(attributes)
    if "taskName" in attributes:
        task_name = attributes["taskName"]
        if task_name is not None and type(task_name) is not str:
            task_name = _safe_str(task_name)

    exception = None
    if get("exc_info") is not None or get("exc_text") is not None:
        exception = _take_exception(get("exc_info"), get("exc_text"))
    stack = None
    if (stack_info := get("stack_info")) is not None:
        stack = _take_stack(stack_info)

    created = get("created")
    if type(created) is not float or not -1e18 < created < 1e18:
        created = _repair_time(created)
    level_name = get("levelname")
    process = get("process")
    process_name = get("processName")
    thread = get("thread")
    thread_name = get("threadName")
    if (
        type(level_name) is not str
        or type(process) is not int
        or type(process_name) is not str
        or type(thread) is not int
        or type(thread_name) is not str
    ):
        level_name = _str_or_none(level_name)
        process = _int_or_none(process)
        process_name = _str_or_none(process_name)
        thread = _int_or_none(thread)
        thread_name = _str_or_none(thread_name)
    origin = LogEventOrigin(
        system="logging",
        level_name=level_name,
        template=template,
        args=plain_args,
        process_id=process,
        process_name=process_name,
        thread_id=thread,
        thread_name=thread_name,
        task_name=task_name,
    )
    return outcome, created, payload, message, exception, stack, origin


def record_to_event(
    record: LogRecord,
    *,
    event_name: EventName = "template",
    message: str | None = None,
    payload_processor: LogPayloadProcessorProto | None = None,
    task_name: str | None = None,
) -> LogEvent:
    """Turn a record into an event.

    Args:
        record: Any record. One that `event_to_record` made gives its event back; what a filter has changed on it since
            is changed in the event. One that `structlog.stdlib.ProcessorFormatter.wrap_for_formatter` made gives the
            fields of its event dict.
        event_name: What becomes the ``event_name``.
        message: The text of the event, where a formatter has made it already.
        payload_processor: Makes the extras plain data; None uses one with generous limits.
        task_name: The asyncio task that logs, for a Python whose records do not tell (before 3.12).

    Raises:
        Exception: What the ``event_name`` callable or a payload processor of one's own raises.

    >>> record = logging.LogRecord("shop.orders", 20, "orders.py", 7, "order %s created", ("o-1",), None)
    >>> event = record_to_event(record)
    >>> event.meta.event_namespace, event.meta.event_name, event.message
    ('shop.orders', 'order %s created', 'order o-1 created')
    """
    if isinstance(record, EventLogRecord):
        event = _current_event(record)
        return event if message is None else replace(event, message=message)
    if type(record.__dict__.get("msg")) is dict and _is_wrapped(record):
        event = _unwrap(record, payload_processor)
        return event if message is None else replace(event, message=message)
    meta = record_meta(record, event_name)
    outcome, timestamp, payload, message, exception, stack, origin = record_fields(record, message, task_name)
    if payload:
        payload = normalize_extras(payload, payload_processor)
    return LogEvent(record_level(record), meta, outcome, timestamp, payload, message, exception, stack, origin)


def plain_event(
    record: LogRecord,
    payload_processor: LogPayloadProcessorProto | None,
    ambient: dict[str, Any] | None,
    task_name: str | None,
) -> tuple[LogEvent, bool] | None:
    """What `record_to_event` makes of a record, in a fraction of the time, where that is nothing out of the ordinary.

    That is a template, arguments that are text and numbers, and extras.

    Args:
        record: A `logging.LogRecord`, of no subclass.
        payload_processor: As of `record_to_event`.
        ambient: Values that join the extras.
        task_name: As of `record_to_event`.

    Returns:
        The event, and whether it is light (see `mvx_logger.model.LIGHT_TEXT`). None for any other record, and for one on
        which somebody has changed the type of an attribute.
    """
    try:
        # Attributes are read faster while nobody has asked for the dict.
        name = record.name
        template = record.msg
        args: Any = record.args
        level_name = record.levelname
        level = record.levelno
        path = record.pathname
        line = record.lineno
        func = record.funcName
        created = record.created
        thread = record.thread
        thread_name = record.threadName
        process = record.process
        process_name = record.processName
        is_special = record.exc_info is not None or record.exc_text is not None or record.stack_info is not None
        if _HAS_TASK_NAME:
            task_name = record.taskName  # type: ignore[attr-defined]
        # With these, it has all that every record has; what it has beyond that are extras.
        _ = record.filename, record.module, record.msecs, record.relativeCreated
    except AttributeError:
        return None
    if (
        is_special
        or type(name) is not str
        or type(template) is not str
        or type(level_name) is not str
        or type(level) is not int
        or type(path) is not str
        or type(line) is not int
        or type(func) is not str
        or type(created) is not float
        or not -1e18 < created < 1e18
        or type(thread) is not int
        or type(thread_name) is not str
        or type(process) is not int
        or type(process_name) is not str
        or LogRecord.getMessage is not _get_message
    ):
        return None
    if task_name is not None and type(task_name) is not str:
        return None
    message = template
    text = len(template)
    if type(args) is tuple and args:
        for value in args:
            kind = type(value)
            if kind is str:
                text += len(value)
            elif kind is not int and kind not in _SCALARS:
                return None
        try:
            message = template % args
        except Exception:
            return None
        text += len(message) if len(args) <= LIGHT_KEYS else HEAVY
    elif type(args) is tuple:
        args = None
    elif args is not None:
        return None
    payload: dict[str, Any] = {}
    attributes = record.__dict__
    extras = len(attributes) - _STANDARD_COUNT
    if extras:
        attributes = attributes.copy()  # in one step: other threads may change them
        payload = {key: attributes[key] for key in islice(attributes, _STANDARD_COUNT, None)}
        payload.pop("message", None)  # what the formatters of other handlers leave there
        payload.pop("asctime", None)
        if not _NOT_PAYLOAD.isdisjoint(payload):
            return None
    if payload or ambient:
        payload, size = _weigh_extras({**ambient, **payload} if ambient else payload, payload_processor)
        text += size
    origin = LogEventOrigin(
        system="logging",
        level_name=level_name,
        template=template,
        args=args,
        process_id=process,
        process_name=process_name,
        thread_id=thread,
        thread_name=thread_name,
        task_name=task_name,
    )
    meta = LogEventMeta(name, template, None, path, line, func)
    return LogEvent(level, meta, None, created, payload, message, None, None, origin), text <= LIGHT_TEXT


def _weigh_extras(payload: dict[str, Any], processor: LogPayloadProcessorProto | None) -> tuple[dict[str, Any], int]:
    before = mark.value
    try:
        mark.value = True  # what is made plain here may be anything, and may log
        if processor is None:
            processor = _PLAIN
        if type(processor) is LogPayloadProcessor:
            return weigh_payload(processor, payload, all_keys=True)
        return normalize_extras(payload, processor), HEAVY
    finally:
        mark.value = before


def is_event_record(record: LogRecord) -> bool:
    """True when `record_to_event` finds a ready event in the record, which the two cheap steps would not see."""
    return isinstance(record, EventLogRecord) or (type(record.__dict__.get("msg")) is dict and _is_wrapped(record))


def normalize_extras(payload: dict[str, Any], processor: LogPayloadProcessorProto | None = None) -> dict[str, Any]:
    """Make extras plain data: all of them are kept, each as far as the processor's limits go."""
    if processor is None:
        return _PLAIN.normalize_fields(payload)
    normalize_fields = getattr(processor, "normalize_fields", None)
    if normalize_fields is None:
        return processor.normalize_payload(payload, unbounded=True)
    fields: dict[str, Any] = normalize_fields(payload)
    return fields


def render_message(record: LogRecord) -> str:
    """The text of a record, as `logging.LogRecord.getMessage` makes it; never raises.

    Arguments that do not fit the template follow it: ``"%d items (args: ('many',))"``.
    """
    attributes = record.__dict__
    if type(record).getMessage is not _get_message:
        try:
            return str(record.getMessage())
        except Exception:  # noqa: S110 - a record class of the application's own: the plain rule has to do
            pass
    template = attributes.get("msg")
    if type(template) is not str:
        template = _safe_str(template)
    return _fill_in(template, attributes.get("args"))


def _fill_in(template: str, args: Any) -> str:
    try:
        return template % args if args else template
    except Exception:
        return f"{template} (args: {_safe_repr(args)})"


def _take_extras(attributes: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    payload = {key: value for key, value in attributes.items() if key not in _NOT_PAYLOAD}
    if "_logger" in attributes:
        payload.pop("_name", None)
    message = attributes.get("msg")
    if type(message) is not str and isinstance(message, Mapping):
        payload["msg"] = message
    outcome = attributes.get("event_outcome")
    if outcome is not None and type(outcome) is not str:
        outcome = _safe_str(outcome)
    return payload, outcome


def _plain_args(args: Any) -> tuple[Any, ...] | dict[str, Any]:
    if type(args) is tuple:
        for value in args:
            if type(value) not in _SCALARS:
                break
        else:
            return args
        return tuple([_plain_arg(value) for value in args])
    if isinstance(args, tuple):  # a named one
        return tuple([_plain_arg(value) for value in tuple(args)])
    if isinstance(args, Mapping):
        return _PLAIN.normalize_fields(args)
    return (_plain_arg(args),)


def _plain_arg(value: Any) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    plain = _PLAIN.normalize_value_for_log(value)
    # The text of an object is what its place in the template most likely asks for.
    return _safe_str(value) if type(plain) is str and plain == f"<{kind.__name__}>" else plain


def _safe_str(value: Any) -> str:
    try:
        text = str(value)
        return text if type(text) is str else str.__str__(text)
    except Exception:
        return f"<{type(value).__name__}>"


def _safe_repr(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST_REPR else text[:_LONGEST_REPR] + "..."


def _str_or_none(value: Any) -> str | None:
    return value if value is None or type(value) is str else _safe_str(value)


def _int_or_none(value: Any) -> int | None:
    # int() of a foreign type could be anything; a subclass of int is one.
    return int.__int__(value) if isinstance(value, int) else None


# --- records that are not as `logging` makes them --------------------------------------------------------------------


def _repair_level(record: LogRecord, level: Any) -> int:
    if isinstance(level, int):
        return int.__int__(level)
    if isinstance(level, float) and level.is_integer():
        return int(level)
    for name in (level, record.__dict__.get("levelname")):
        if isinstance(name, str):
            known = logging.getLevelName(name)
            if isinstance(known, int):
                return int(known)
            if name.isascii() and name.isdigit():
                return int(name)
    return logging.NOTSET


def _repair_meta(record: LogRecord, event_name: EventName) -> LogEventMeta:
    get = record.__dict__.get
    if event_name == "template":
        name = _template_name(get("msg"))
    elif event_name == "message":
        name = render_message(record)
    else:
        name = event_name(record)
        if type(name) is not str:
            name = _safe_str(name)
    entity_id = get("entity_id")
    return LogEventMeta(
        _str_or_none(get("name")),
        name,
        _str_or_none(entity_id),
        _str_or_none(get("pathname")),
        _int_or_none(get("lineno")),
        _str_or_none(get("funcName")),
    )


def _template_name(message: Any) -> str:
    if isinstance(message, str):
        return _safe_str(message)
    kind = type(message).__name__
    # The text of an object may differ with every record; its type does not.
    return kind if isinstance(message, BaseException) else f"<{kind}>"


def _repair_time(created: Any) -> float:
    if isinstance(created, (int, float)):
        try:
            seconds = float(created)
        except OverflowError:
            return time.time()
        if -1e18 < seconds < 1e18:
            return seconds
    return time.time()


# --- exceptions and stacks -------------------------------------------------------------------------------------------


def build_exception(exc_info: Any) -> LogException | None:
    """An exception as plain data.

    Args:
        exc_info: What a log call may be given as such: an exception, a tuple as of `sys.exc_info`, or True for the
            exception that is being handled. Anything else is no exception.

    The structure is that of `structlog.tracebacks.ExceptionDictTransformer` (without local variables), which is not
    used itself: importing structlog takes a tenth of a second, and this may be the program's first use of it, in the
    middle of a log call.
    """
    if exc_info is True:
        exc_info = sys.exc_info()
    if isinstance(exc_info, BaseException):
        exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
    if not isinstance(exc_info, tuple) or len(exc_info) != 3:
        return None
    kind, error, trace = exc_info
    if not isinstance(error, BaseException):
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            return None
        return LogException(kind.__name__, "", kind.__name__)
    if not isinstance(trace, TracebackType):
        trace = None
    message = _safe_str(error)
    try:
        text = _FORMATTER.formatException((type(error), error, trace))
    except Exception:  # hostile beyond what the traceback module expects
        text = f"{type(error).__name__}: {message}"
    stacks: tuple[Mapping[str, Any], ...] = ()
    try:
        stacks = tuple(_describe_chain(error, trace, set()))
    except Exception:  # noqa: S110 - the text has to do
        pass
    return LogException(type(error).__name__, message, text, stacks)


def _describe_chain(error: BaseException, trace: TracebackType | None, seen: set[int]) -> list[dict[str, Any]]:
    stacks: list[dict[str, Any]] = []
    is_cause = False
    while id(error) not in seen:
        seen.add(id(error))
        group = error.exceptions if isinstance(error, BaseExceptionGroup) else None
        stacks.append(
            {
                "exc_type": type(error).__name__,
                "exc_value": _safe_str(error),
                "exc_notes": [_safe_str(note) for note in getattr(error, "__notes__", ())],
                "syntax_error": _describe_syntax_error(error) if isinstance(error, SyntaxError) else None,
                "is_cause": is_cause,
                "frames": _describe_frames(trace),
                "is_group": group is not None,
                "exceptions": [_describe_chain(inner, inner.__traceback__, seen) for inner in group or ()],
            }
        )
        cause, context = error.__cause__, error.__context__
        if cause is not None and cause.__traceback__ is not None:
            error, is_cause = cause, True
        elif context is not None and context.__traceback__ is not None and not error.__suppress_context__:
            error, is_cause = context, False
        else:
            break
        trace = error.__traceback__
    return stacks


def _describe_frames(trace: TracebackType | None) -> list[dict[str, Any]]:
    frames: list[dict[str, Any]] = []
    for frame, line in walk_tb(trace):
        path = frame.f_code.co_filename
        if path and not path.startswith("<"):
            path = os.path.abspath(path)
        frames.append({"filename": path or "?", "lineno": line, "name": frame.f_code.co_name})
    if len(frames) > _MAX_FRAMES:
        half = _MAX_FRAMES // 2
        skipped = {"filename": "", "lineno": -1, "name": f"Skipped frames: {len(frames) - 2 * half}"}
        frames[half:-half] = [skipped]
    return frames


def _describe_syntax_error(error: SyntaxError) -> dict[str, Any]:
    return {
        "offset": error.offset or 0,
        "filename": error.filename or "?",
        "line": error.text or "",
        "lineno": error.lineno or 0,
        "msg": error.msg,
    }


_EXCEPTION_LINE = re.compile(r"(?:[^\W\d]\w*\.)*([^\W\d]\w*)(?:: (.*))?", re.DOTALL)


def parse_exception(text: str) -> LogException:
    """What can be read from a printed traceback: the last exception's type and message. There are no ``stacks``."""
    start = text.rfind("Traceback (most recent call last):\n")
    lines = text[max(start, 0) :].split("\n")
    if start >= 0:
        index = 1
        while index < len(lines) and lines[index][:1].isspace():
            index += 1
        lines = lines[index:]
    match = _EXCEPTION_LINE.fullmatch("\n".join(lines))
    if match is None:
        return LogException("", "", text)
    return LogException(match[1], match[2] or "", text)


_FRAME_LINE = re.compile(r'^  File "(.*)", line (\d+), in (.*)$', re.MULTILINE)


def build_stack(text: str) -> LogStack:
    """A stack as ``stack_info=True`` prints it, with its frames read from the text."""
    frames = tuple(
        {"filename": path, "lineno": int(line), "name": name} for path, line, name in _FRAME_LINE.findall(text)
    )
    return LogStack(text, frames)


def _take_exception(exc_info: Any, exc_text: Any) -> LogException | None:
    exception = build_exception(exc_info)
    if exception is None and _is_true(exc_text):
        # All that is left behind a queue or a socket.
        exception = parse_exception(exc_text if type(exc_text) is str else _safe_str(exc_text))
    return exception


def _take_stack(stack_info: Any) -> LogStack | None:
    if not _is_true(stack_info):
        return None
    return build_stack(stack_info if type(stack_info) is str else _safe_str(stack_info))


def _is_true(value: Any) -> bool:
    try:
        return bool(value)
    except Exception:
        return True


# --- records of structlog's ProcessorFormatter -----------------------------------------------------------------------


def _is_wrapped(record: LogRecord) -> bool:
    attributes = record.__dict__
    return "_logger" in attributes and "_name" in attributes


def _unwrap(record: LogRecord, processor: LogPayloadProcessorProto | None) -> LogEvent:
    # structlog's wrap_for_formatter: the event dict is the message, and the formatter would render it.
    from .structlog import event_dict_to_event

    attributes = record.__dict__
    template = attributes["msg"]
    own = record_meta(record)
    outcome, timestamp, extras, _, exception, stack, origin = record_fields(record, "")
    extras.pop("msg", None)
    event = event_dict_to_event(
        template, method_name=_safe_str(attributes["_name"]), logger_name=own.event_namespace, now=timestamp
    )
    meta = event.meta
    if meta.source_path is None and meta.source_line is None and meta.source_func is None:
        meta = replace(meta, source_path=own.source_path, source_line=own.source_line, source_func=own.source_func)
    if meta.entity_id is None and own.entity_id is not None:
        meta = replace(meta, entity_id=own.entity_id)
    found = event.origin or origin
    origin = replace(
        origin,
        system=found.system,
        template=found.template,
        args=found.args,
        process_id=found.process_id or origin.process_id,
        process_name=found.process_name or origin.process_name,
        thread_id=found.thread_id or origin.thread_id,
        thread_name=found.thread_name or origin.thread_name,
    )
    payload = normalize_extras({**extras, **event.payload}, processor)
    return LogEvent(
        record_level(record),
        meta,
        event.event_outcome or outcome,
        event.timestamp,
        payload,
        event.message,
        event.exception or exception,
        event.stack or stack,
        origin,
    )


# --- event -> record -------------------------------------------------------------------------------------------------


class EventLogRecord(LogRecord):
    """A record that was made from an event, and carries it.

    What is its own is in slots: formatters that dump ``record.__dict__`` do not see it. It can be copied and pickled;
    a live ``exc_info`` stays behind when it is pickled.

    Attributes:
        mvx_event: The event.
        mvx_message: Its text, which `getMessage` returns for as long as nobody changes ``msg`` or ``args``.
        mvx_base: The record's attributes as they were made, to tell what a filter has changed since.
    """

    __slots__ = ("mvx_base", "mvx_event", "mvx_message")

    mvx_event: LogEvent
    mvx_message: str
    mvx_base: dict[str, Any]

    def getMessage(self) -> str:  # noqa: N802 - the base class' name
        """The event's message, exactly; of a native event its title and payload."""
        attributes, base = self.__dict__, self.mvx_base
        if attributes.get("msg") is base["msg"] and attributes.get("args") is base["args"]:
            return self.mvx_message
        return super().getMessage()

    def __copy__(self) -> EventLogRecord:
        return _remake(type(self), self.__dict__, self.mvx_event, self.mvx_message, self.mvx_base)

    def __reduce__(self) -> tuple[Any, ...]:
        attributes, base = self.__dict__, self.mvx_base
        if attributes.get("exc_info") is not None:
            attributes = {**attributes, "exc_info": None}
        if base["exc_info"] is not None:
            base = {**base, "exc_info": None}
        return _remake, (type(self), attributes, self.mvx_event, self.mvx_message, base)


def _remake(
    cls: type[EventLogRecord], attributes: dict[str, Any], event: LogEvent, message: str, base: dict[str, Any]
) -> EventLogRecord:
    record = cls.__new__(cls)
    record.__dict__.update(attributes)
    record.mvx_event = event
    record.mvx_message = message
    record.mvx_base = base
    return record


def event_to_record(event: LogEvent, *, exc_info: ExcInfo | None = None, same_thread: bool = True) -> EventLogRecord:
    """Turn an event into a record, for any `logging.Handler` and `logging.Formatter`.

    The payload becomes extra attributes; a key that is the name of a record's own (``name``, ``args``, ...) is
    prefixed with ``payload_``. ``entity_id`` and ``event_outcome`` are attributes where the event has them. A native
    event's text is its title and its payload.

    Args:
        event: Any event.
        exc_info: The live exception behind ``event.exception``, where it is at hand.
        same_thread: False where the caller is not the thread that logged: a native event does not know its thread.
    """
    meta = event.meta
    origin = event.origin
    message = event.message
    if message is None:
        message = _native_text(event)
    template: Any = message
    args: Any = ()
    native = origin is None or origin.system == NATIVE
    path: str | None = meta.source_path
    func: str | None = meta.source_func
    level = event.level
    if origin is None or native:
        level_name = logging.getLevelName(level)
        path = path if path is not None else "(unknown file)"
        func = func if func is not None else "(unknown function)"
        process: int | None = os.getpid()
        process_name: str | None = _process_name()
        thread: int | None = threading.get_ident() if same_thread else 0
        thread_name: str | None = threading.current_thread().name if same_thread else ""
        task_name: str | None = None
    else:
        level_name = origin.level_name if origin.level_name is not None else logging.getLevelName(level)
        process = origin.process_id
        process_name = origin.process_name
        thread = origin.thread_id
        thread_name = origin.thread_name
        task_name = origin.task_name
        if origin.template is not None:
            template, args = _restore_template(event, origin, message)

    created = event.timestamp
    if path is None:  # as logging.LogRecord has it
        filename, module = None, "Unknown module"
    else:
        filename = os.path.basename(path)
        module = os.path.splitext(filename)[0]
    record = EventLogRecord.__new__(EventLogRecord)
    attributes = record.__dict__
    attributes.update(
        name=meta.event_namespace if meta.event_namespace is not None else "root",
        msg=template,
        args=args,
        levelname=level_name,
        levelno=level,
        pathname=path,
        filename=filename,
        module=module,
        exc_info=exc_info,
        exc_text=event.exception.text if event.exception is not None else None,
        stack_info=event.stack.text if event.stack is not None else None,
        lineno=meta.source_line if meta.source_line is not None else 0,
        funcName=func,
        created=created,
        msecs=_milliseconds(created),
        relativeCreated=(created - _START) * 1000,
        thread=thread,
        threadName=thread_name,
        processName=process_name,
        process=process,
    )
    if _HAS_TASK_NAME or task_name is not None:
        attributes["taskName"] = task_name
    if meta.entity_id is not None:
        attributes["entity_id"] = meta.entity_id
    if event.event_outcome is not None:
        attributes["event_outcome"] = event.event_outcome
    payload = event.payload
    if payload:
        if _TAKEN.isdisjoint(payload) and attributes.keys().isdisjoint(payload):
            attributes.update(payload)
        else:
            for name, key in _attribute_names(event).items():
                attributes[name] = payload[key]
    record.mvx_event = event
    record.mvx_message = message
    record.mvx_base = attributes.copy()
    return record


def _attribute_names(event: LogEvent) -> dict[str, Any]:
    """The names that the payload's keys have on a record, with the keys."""
    taken = set(_TAKEN)
    if event.meta.entity_id is not None:
        taken.add("entity_id")
    if event.event_outcome is not None:
        taken.add("event_outcome")
    names: dict[str, Any] = {}
    for key in event.payload:
        name = key if type(key) is str else _safe_str(key)
        while name in taken or name in names or (name != key and name in event.payload):
            name = f"payload_{name}"
        names[name] = key
    return names


def _native_text(event: LogEvent) -> str:
    title = event_title(event)
    return f"{title} {_safe_repr(dict(event.payload))}" if event.payload else title


def _restore_template(event: LogEvent, origin: LogEventOrigin, message: str) -> tuple[Any, Any]:
    template, args = origin.template, origin.args
    if not args:
        data = event.payload.get("msg")
        if isinstance(data, Mapping) and origin.system == "logging" and _safe_str(data) == message:
            return data, ()
        return message, ()
    try:
        if template is not None and template % args == message:
            return template, args
    except Exception:  # noqa: S110 - plain data is not what the template was written for
        pass
    return message, ()


def _milliseconds(created: float) -> float:
    try:
        fraction = (created - int(created)) * 1000
    except (OverflowError, ValueError):
        return 0.0
    # Since 3.13 they are cut from nanoseconds, of which a float holds about every two hundredth.
    return int(fraction + 0.00025) % 1000 + 0.0 if _NS_CLOCK else int(fraction) + 0.0


def _process_name() -> str:
    multiprocessing: Any = sys.modules.get("multiprocessing")
    if multiprocessing is not None:
        try:
            return str(multiprocessing.current_process().name)
        except Exception:  # noqa: S110 - it is being imported right now
            pass
    return "MainProcess"


# --- EventLogRecord -> event -----------------------------------------------------------------------------------------

_MISSING: Any = object()
_META_FIELDS = {
    "name": "event_namespace",
    "pathname": "source_path",
    "lineno": "source_line",
    "funcName": "source_func",
    "entity_id": "entity_id",
}
_ORIGIN_FIELDS = {
    "levelname": "level_name",
    "process": "process_id",
    "processName": "process_name",
    "thread": "thread_id",
    "threadName": "thread_name",
    "taskName": "task_name",
}


def _current_event(record: EventLogRecord) -> LogEvent:
    event = record.mvx_event
    attributes, base = record.__dict__, record.mvx_base
    changed = {
        key
        for key, value in attributes.items()
        if (was := base.get(key, _MISSING)) is not value
        and (key in base or key not in _WRITTEN)
        and not _same(was, value)
    }
    changed.update(key for key in base if key not in attributes)
    return _changed_event(record, changed) if changed else event


def _same(one: Any, other: Any) -> bool:
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:
        return False


def _changed_event(record: EventLogRecord, changed: set[str]) -> LogEvent:
    """The event, with what somebody (a filter that redacts or enriches, a queue handler) has changed on its record."""
    event = record.mvx_event
    attributes = record.__dict__
    fields: dict[str, Any] = {}
    if attributes.get("args") is None and "msg" in attributes and attributes["msg"] is attributes.get("message"):
        # logging.handlers.QueueHandler.prepare: the text is final, and what it was made of is gone. We still have it.
        changed -= {"args", "exc_info", "exc_text", "stack_info"}
        if _safe_str(attributes["msg"]).startswith(record.mvx_message):
            changed.discard("msg")
    meta_values = {field: attributes.get(name) for name, field in _META_FIELDS.items() if name in changed}
    origin_values = {field: attributes.get(name) for name, field in _ORIGIN_FIELDS.items() if name in changed}
    if "msg" in changed or "args" in changed:
        fields["message"] = render_message(record)
        origin_values["template"] = _safe_str(attributes.get("msg"))
        args = attributes.get("args")
        origin_values["args"] = _plain_args(args) if _is_true(args) else None
        # The old name would still tell what a filter has taken out of the message.
        old = event.meta.event_name
        if event.origin is not None and event.origin.system != NATIVE and old in (event.origin.template, event.message):
            meta_values["event_name"] = _template_name(attributes.get("msg"))
    if "levelno" in changed:
        fields["level"] = record_level(record)
    if "created" in changed:
        fields["timestamp"] = _repair_time(attributes.get("created"))
    if "event_outcome" in changed:
        fields["event_outcome"] = _str_or_none(attributes.get("event_outcome"))
    if "exc_text" in changed or "exc_info" in changed:
        fields["exception"] = _take_exception(attributes.get("exc_info"), attributes.get("exc_text"))
    if "stack_info" in changed:
        fields["stack"] = _take_stack(attributes.get("stack_info"))
    if meta_values:
        fields["meta"] = replace(
            event.meta,
            **{
                field: _int_or_none(value) if field == "source_line" else _str_or_none(value)
                for field, value in meta_values.items()
            },
        )
    if origin_values and event.origin is not None:
        for field in ("process_id", "thread_id"):
            if field in origin_values:
                origin_values[field] = _int_or_none(origin_values[field])
        for field in ("level_name", "process_name", "thread_name", "task_name"):
            if field in origin_values:
                origin_values[field] = _str_or_none(origin_values[field])
        fields["origin"] = replace(event.origin, **origin_values)
    extras = {name for name in changed if name not in _NOT_PAYLOAD}
    if extras:
        names = _attribute_names(event)
        payload = dict(event.payload)
        for name in extras:
            if name not in attributes:
                payload.pop(names.get(name, name), None)
        new = {names.get(name, name): attributes[name] for name in extras if name in attributes}
        fields["payload"] = {**payload, **_PLAIN.normalize_fields(new)}
    return replace(event, **fields) if fields else event


def run_filters(filters: Iterable[Any], record: LogRecord) -> LogRecord | None:
    """Run a record through filters as `logging.Filterer` does since Python 3.12, on every Python.

    Args:
        filters: Callables, or objects with ``filter(record)``.
        record: The record.

    Returns:
        The record to go on with, which a filter may have replaced; None when a filter holds it back.
    """
    for entry in filters:
        call: Any = getattr(entry, "filter", entry)
        verdict = call(record)
        if not verdict:
            return None
        if isinstance(verdict, LogRecord):
            record = verdict
    return record
