"""`LogEvent` to JSON and back: one object for each event, one line for each object.

An object is flat and has no empty fields::

    {"timestamp":"2026-05-12T14:30:25.000123Z","level":"INFO","namespace":"shop","event":"order.created",
     "entity_id":"order-42","outcome":"success","payload":{"total":12.5}}

===============  ======================================================================================================
``timestamp``    RFC 3339 in UTC with microseconds. A time that RFC 3339 cannot tell (beyond the years 1 to 9999) is the
                 number of seconds since the epoch.
``level``        ``DEBUG``, ``INFO``, ``WARNING``, ``ERROR``, ``CRITICAL``; another level has the name that it has in
                 the system that it came from, or ``Level 25``.
``level_no``     The number, where the name alone does not give it.
``namespace``, ``event``, ``entity_id``, ``outcome``, ``message``
                 As in the event.
``payload``      An object. NaN and infinities are ``null``, as in JavaScript; bytes are text where they are UTF-8, else
                 ``"base64:..."``; what has no form in JSON is ``"<TypeName>"``.
``source``       ``path``, ``line``, ``func`` of the log call.
``exception``    ``type``, ``message``, ``text`` (the traceback), ``stacks`` (as data).
``stack``        ``text``, ``frames``.
``origin``       What came over a bridge: `LogEventOrigin`.
===============  ======================================================================================================

No content of an event can break a line or lose the event: what `msgspec` refuses is put into words instead.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct, field

from ..errors import LoggerError
from ..faults import find_fault
from ..model import LogEvent, LogEventMeta, LogEventOrigin, LogException, LogStack
from .text import LEVEL_NAMES, level_name

__all__ = [
    "LogEventDecodeError",
    "decode_event",
    "decode_lines",
    "encode_event",
    "encode_lines",
    "encode_value",
    "finite",
    "format_timestamp",
    "is_plain",
    "level_name",
    "to_plain",
]

_MAX_DEPTH = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_PLAIN = frozenset((str, int, float, bool, type(None)))
# Quicker than a format.
_DIGITS = tuple([f"{number:03d}" for number in range(1_000)])
_LEVELS = {name: level for level, name in LEVEL_NAMES.items()}
_LEVEL_ALIASES = {
    "TRACE": 5, "WARN": 30, "ERR": 40, "FATAL": 50, "CRIT": 50, "NOTICE": 25, "ALERT": 50, "EMERG": 50, "PANIC": 50,
}  # fmt: skip
_LEVEL_NUMBER = re.compile(r"Level (-?\d{1,20})")


class LogEventDecodeError(LoggerError, ValueError):
    """A line is not an event: the text names the line and the field, and what would be right.

    Attributes:
        line_number: The number of the line, counted from 1; None where it is not known.
    """

    reason_code = "log_event_decode"

    def __init__(self, message: str, *, line_number: int | None = None, cause: BaseException | None = None) -> None:
        where = "" if line_number is None else f"line {line_number}: "
        super().__init__(where + message, details={"line_number": line_number}, cause=cause)
        self.line_number = line_number


class _Source(Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    path: str | None = None
    line: int | None = None
    func: str | None = None


class _Line(Struct, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    timestamp: str | float
    level: str
    level_no: int | None = None
    namespace: str | None = None
    event: str | msgspec.UnsetType = msgspec.UNSET  # an empty name is written, a missing one is an error
    entity_id: str | None = None
    outcome: str | None = None
    message: str | None = None
    payload: dict[str, Any] = field(default_factory=dict)
    source: _Source | None = None
    exception: LogException | None = None
    stack: LogStack | None = None
    origin: LogEventOrigin | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Line)


# ---------------------------------------------------------------------------------------------------- encoding


def encode_lines(events: Sequence[LogEvent]) -> bytes:
    """Encode events as JSON lines.

    Args:
        events: Any number.

    Returns:
        UTF-8: one line for each event, each ended by a newline. Never raises for what an event holds.
    """
    try:
        return _encoder.encode_lines(_to_lines(events))
    except Exception:  # some event is out of the ordinary: take them one by one
        return b"".join([encode_event(event) + b"\n" for event in events])


def encode_event(event: LogEvent) -> bytes:
    """Encode one event as a JSON object in UTF-8, without a newline. Never raises for what the event holds."""
    try:
        return _encoder.encode(_to_lines((event,))[0])
    except Exception:
        return _encode_slowly(event)


def encode_value(value: Any) -> bytes:
    """Encode a value, e.g. a payload, as JSON in UTF-8, by the rules for payloads. Never raises for what it holds."""
    try:
        if is_plain(value):
            return _encoder.encode(value)
    except Exception:  # noqa: S110 - a lone surrogate, a huge int, a cycle
        pass
    return _encoder.encode(to_plain(value))


def _to_lines(events: Sequence[LogEvent]) -> list[_Line]:
    # The hot loop: everything in one function, and one second's text made once.
    lines: list[_Line] = []
    append = lines.append
    line = _Line
    names = LEVEL_NAMES
    digits = _DIGITS
    second, prefix = _last_second
    for event in events:
        timestamp = event.timestamp
        offset = timestamp - second
        if not 0.0 <= offset < 0.9999995:
            second, prefix = _format_second(timestamp)
            offset = timestamp - second
        micros = int(offset * 1e6 + 0.5)
        payload = event.payload
        for value in payload.values():
            kind = type(value)
            if kind is not str and kind is not int and kind is not bool and value is not None and kind is not float:
                if not is_plain(payload):
                    payload = to_plain(payload)
                break
        meta = event.meta
        origin = event.origin
        path = meta.source_path
        number = event.level
        name = names.get(number)
        level_no = None
        if name is None:
            name = level_name(number, origin)
            if name != f"Level {number}":
                level_no = number
        append(
            line(
                f"{prefix}{digits[micros // 1_000]}{digits[micros % 1_000]}Z",
                name,
                level_no,
                meta.event_namespace,
                meta.event_name,
                meta.entity_id,
                event.event_outcome,
                event.message,
                payload,  # type: ignore[arg-type]
                None
                if path is None and meta.source_line is None and meta.source_func is None
                else _Source(path, meta.source_line, meta.source_func),
                event.exception,
                event.stack,
                origin,
            )
        )
    return lines


_last_second: tuple[float, str] = (0.0, "1970-01-01T00:00:00.")


def _format_second(timestamp: float) -> tuple[float, str]:
    # The second that the timestamp, rounded to microseconds, belongs to, and its text.
    global _last_second
    second = round(timestamp * 1e6) // 1_000_000
    text = (_EPOCH + timedelta(seconds=second)).strftime("%m-%dT%H:%M:%S.")
    year = (_EPOCH + timedelta(seconds=second)).year
    _last_second = result = (float(second), f"{year:04d}-{text}")
    return result


def format_timestamp(timestamp: float) -> str:
    """Seconds since the epoch as RFC 3339 in UTC with microseconds: ``2026-05-12T14:30:25.000123Z``.

    Raises:
        OverflowError, ValueError: The year is not one of 1 to 9999, or it is not a finite number.
    """
    second, prefix = _format_second(timestamp)
    return f"{prefix}{int((timestamp - second) * 1e6 + 0.5):06d}Z"


def is_plain(value: Any, depth: int = 0) -> bool:
    """True when `msgspec` writes the value as this module says, or refuses it: no bytes or objects anywhere in it."""
    if depth > _MAX_DEPTH:
        return False
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or (type(item) not in _PLAIN and not is_plain(item, depth + 1)):
                return False
        return True
    if kind is list or kind is tuple:
        for item in value:  # noqa: SIM110 - a generator would cost more than what it runs
            if type(item) not in _PLAIN and not is_plain(item, depth + 1):
                return False
        return True
    return kind in _PLAIN


def to_plain(value: Any) -> Any:
    """Any value as what JSON can hold: str keys, no bytes, no lone surrogates, no cycles, no objects.

    Never raises. The value itself is left alone.
    """
    return _to_plain(value, ())


def _to_plain(value: Any, parents: tuple[int, ...]) -> Any:
    try:
        if value is None or value is True or value is False:
            return value
        if isinstance(value, Enum):
            return _to_plain(value.value, (*parents, id(value))) if len(parents) < _MAX_DEPTH else _describe(value)
        if isinstance(value, str):
            return _text(value)
        if isinstance(value, int):
            return _integer(value)
        if isinstance(value, float):
            return float(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return _bytes_text(bytes(value))
        if isinstance(value, (datetime, date, time)):
            return value.isoformat()
        if isinstance(value, (Decimal, UUID)):
            return str(value)
        if isinstance(value, timedelta):
            return value.total_seconds()
        if len(parents) >= _MAX_DEPTH or id(value) in parents:
            return _describe(value)
        parents = (*parents, id(value))
        if isinstance(value, Mapping):
            return {_key(key): _to_plain(item, parents) for key, item in list(value.items())}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [_to_plain(item, parents) for item in list(value)]
        if isinstance(value, os.PathLike):
            return _to_plain(os.fspath(value), parents)
        if isinstance(value, Struct) or hasattr(type(value), "__dataclass_fields__"):
            names = [*getattr(value, "__struct_fields__", ()), *getattr(value, "__dataclass_fields__", ())]
            return {name: _to_plain(getattr(value, name, None), parents) for name in names}
    except Exception:  # noqa: S110 - it fights back: its type has to do
        pass
    return _describe(value)


def _describe(value: Any) -> str:
    return _text(f"<{type(value).__name__}>")


def _text(value: str) -> str:
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-8", "backslashreplace").decode()
    return text


def _integer(value: int) -> int | str:
    number = int.__index__(value)
    # Past 4,300 digits (sys.int_info) Python does not write ints in decimal; nobody reads them so either.
    return number if number.bit_length() <= 2_000 else hex(number)


def _bytes_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(value).decode('ascii')}"


def _key(key: Any) -> str:
    if key is None:
        return "null"
    if isinstance(key, bool):
        return "true" if key else "false"
    plain = _to_plain(key, ())
    if isinstance(plain, (list, dict)):
        return _encoder.encode(plain).decode()
    return str(plain)


def _optional_text(value: Any) -> str | None:
    if value is None:
        return None
    plain = to_plain(value)
    return plain if isinstance(plain, str) else _encoder.encode(plain).decode()


def _optional_int(value: Any) -> int | None:
    plain = to_plain(value)
    return plain if isinstance(plain, int) else None


def finite(value: Any) -> float:
    """A timestamp as a number that JSON can hold; 0 when it is none."""
    try:
        number = float(value)
    except Exception:
        return 0.0
    return number if number - number == 0.0 else 0.0


def _encode_slowly(event: LogEvent) -> bytes:
    # Everything is looked at; what does not fit its field is put into words.
    meta = event.meta
    number = _optional_int(event.level) or 0
    name = _text(level_name(number, event.origin))
    timestamp: str | float
    try:
        timestamp = format_timestamp(event.timestamp)
    except Exception:
        timestamp = finite(event.timestamp)
    payload = to_plain(event.payload)
    line = _Line(
        timestamp,
        name,
        None if name in (LEVEL_NAMES.get(number), f"Level {number}") else number,
        _optional_text(meta.event_namespace),
        _optional_text(meta.event_name) or "",
        _optional_text(meta.entity_id),
        _optional_text(event.event_outcome),
        _optional_text(event.message),
        payload if isinstance(payload, dict) else {"payload": payload},
    )
    source = _Source(
        _optional_text(meta.source_path), _optional_int(meta.source_line), _optional_text(meta.source_func)
    )
    if source != _Source():
        line.source = source
    exception = event.exception
    if exception is not None:
        line.exception = LogException(
            _optional_text(exception.type) or "",
            _optional_text(exception.message) or "",
            _optional_text(exception.text) or "",
            tuple(to_plain(exception.stacks)),
        )
    stack = event.stack
    if stack is not None:
        line.stack = LogStack(_optional_text(stack.text) or "", tuple(to_plain(stack.frames)))
    origin = event.origin
    if origin is not None:
        values = {name: to_plain(getattr(origin, name)) for name in LogEventOrigin.__struct_fields__}
        values["via"] = tuple(values["via"])
        line.origin = LogEventOrigin(**values)
    return _encoder.encode(line)


# ---------------------------------------------------------------------------------------------------- decoding

_NAMES: dict[str, tuple[str, ...]] = {
    # The spellings of other JSON loggers: python-json-logger, structlog, pino, Elastic Common Schema, ...
    "timestamp": ("timestamp", "time", "ts", "@timestamp", "asctime", "created"),
    "level": ("level", "levelname", "severity", "log.level", "lvl", "log_level"),
    "level_no": ("level_no", "levelno"),
    "namespace": ("namespace", "logger", "logger_name", "name", "log.logger"),
    "event": ("event", "event_name"),
    "message": ("message", "msg"),
    "entity_id": ("entity_id",),
    "outcome": ("outcome", "event_outcome"),
    "exception": ("exception", "exc_info", "error.stack_trace"),
    "stack": ("stack", "stack_info"),
}


def decode_event(line: bytes | str, *, lenient: bool = False, line_number: int | None = None) -> LogEvent:
    """Read an event that `encode_event` wrote.

    Args:
        line: A JSON object; white space around it is ignored.
        lenient: Also read the lines of other JSON loggers: other spellings of the fields, level names in any case,
            times in ISO 8601 or as numbers of seconds to nanoseconds. What has no field of its own becomes payload;
            a time without a zone is local; one that is missing or cannot be read is 0.
        line_number: Where the line stands, for the error.

    Raises:
        LogEventDecodeError: It is not an event.
    """
    try:
        return _from_line(_decoder.decode(line))
    except (msgspec.MsgspecError, ValueError, RecursionError) as err:
        if lenient:
            return _decode_leniently(line, line_number)
        raise LogEventDecodeError(_explain(err, line), line_number=line_number, cause=err) from err


def decode_lines(
    lines: Iterable[bytes | str], *, lenient: bool = False, first_line_number: int = 1
) -> Iterator[LogEvent]:
    """Read events from the lines of a file, one by one; empty lines are skipped.

    Args:
        lines: An open file, or any other lines.
        lenient: See `decode_event`.
        first_line_number: The number of the first line, for errors.

    Raises:
        LogEventDecodeError: A line is not an event.
    """
    for number, line in enumerate(lines, first_line_number):
        if line.strip():
            yield decode_event(line, lenient=lenient, line_number=number)


def _explain(err: BaseException, line: bytes | str) -> str:
    if not isinstance(err, (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)):
        return str(err)  # of _from_line
    if not line.strip():
        return "expected a JSON object, got nothing"
    try:
        text = line if isinstance(line, str) else line.decode()
        value = json.loads(text)
    except UnicodeDecodeError as bad:
        return f"not UTF-8: byte 0x{bad.object[bad.start]:02x} at position {bad.start}"
    except json.JSONDecodeError as bad:
        return f"expected a JSON object, got what is not JSON at position {bad.pos}"
    except RecursionError:
        return "expected a JSON object, got one that is nested too deeply"
    path, fault = find_fault(value, _Line)
    return f"{path.lstrip('.')}: {fault}" if path else fault


def _from_line(line: _Line) -> LogEvent:
    event = line.event
    if event is msgspec.UNSET:
        raise ValueError("event: missing")
    source = line.source
    if source is None:
        meta = LogEventMeta(line.namespace, event, line.entity_id)
    else:
        meta = LogEventMeta(line.namespace, event, line.entity_id, source.path, source.line, source.func)
    level = line.level_no
    if level is None:
        level = _LEVELS.get(line.level)
        if level is None:
            match = _LEVEL_NUMBER.fullmatch(line.level)
            if match is None:
                raise ValueError(
                    f"level: {line.level!r} is not one of {', '.join(_LEVELS)} or 'Level N', and there is no level_no"
                )
            level = int(match[1])
    timestamp = line.timestamp
    if isinstance(timestamp, str):
        timestamp = _parse_timestamp(timestamp)
    return LogEvent(
        level,
        meta,
        line.outcome,
        timestamp,
        line.payload,
        line.message,
        line.exception,
        line.stack,
        line.origin,
    )


def _parse_timestamp(text: str, *, local: bool = False) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"timestamp: {text!r} is not an RFC 3339 time like 2026-05-12T14:30:25.000123Z") from None
    if moment.tzinfo is None:
        if not local:
            raise ValueError(f"timestamp: {text!r} has no zone; end it with Z or an offset")
        return moment.timestamp()
    return ((moment - _EPOCH) // _MICROSECOND) / 1_000_000


def _decode_leniently(line: bytes | str, line_number: int | None) -> LogEvent:
    import json

    try:
        # The standard library reads what msgspec does not: NaN, Infinity, 1e400, lone surrogates.
        fields = json.loads(line)
    except (ValueError, RecursionError) as err:
        raise LogEventDecodeError(f"not JSON: {err}", line_number=line_number, cause=err) from err
    if not isinstance(fields, dict):
        raise LogEventDecodeError(f"expected a JSON object, found {_json_type(fields)}", line_number=line_number)
    found = {name: _take(fields, spellings) for name, spellings in _NAMES.items()}
    payload = fields.pop("payload", None)
    source = _converted(fields, "source", _Source) or _Source()
    origin = _converted(fields, "origin", LogEventOrigin)

    level_text, level = found["level"], found["level_no"]
    if type(level) is not int:
        level = _level_number(level_text)
        if level is None:
            level = 20
            if level_text is not None:
                fields["level"] = level_text
    timestamp = _lenient_timestamp(found["timestamp"])
    if timestamp is None:
        timestamp = 0.0
        if found["timestamp"] is not None:
            fields["timestamp"] = found["timestamp"]
    message = _optional_text(found["message"])
    name = _optional_text(found["event"])
    if isinstance(payload, dict):
        fields.update(payload)
    elif payload is not None:
        fields["payload"] = payload
    return LogEvent(
        level,
        LogEventMeta(
            _optional_text(found["namespace"]),
            name if name is not None else message or "",
            _optional_text(found["entity_id"]),
            source.path,
            source.line,
            source.func,
        ),
        _optional_text(found["outcome"]),
        timestamp,
        fields,
        message,
        _lenient_exception(found["exception"]),
        _lenient_stack(found["stack"]),
        origin,
    )


def _take(fields: dict[str, Any], spellings: tuple[str, ...]) -> Any:
    # The first spelling that is there; the others stay where they are, as payload.
    for spelling in spellings:
        if fields.get(spelling) is not None:
            return fields.pop(spelling)
    return None


def _converted(fields: dict[str, Any], name: str, kind: type[Any]) -> Any:
    try:
        converted = msgspec.convert(fields.get(name), kind | None)
    except msgspec.ValidationError:
        return None  # it stays in the payload
    fields.pop(name, None)
    return converted


def _level_number(value: Any) -> int | None:
    if type(value) is int:
        return value
    if not isinstance(value, str):
        return None
    text = value.strip()
    upper = text.upper()
    level = _LEVELS.get(upper) or _LEVEL_ALIASES.get(upper)
    if level is None and (match := re.fullmatch(r"(?:level\s+)?(-?\d{1,20})", text, re.IGNORECASE)):
        level = int(match[1])
    return level


def _lenient_timestamp(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            return _parse_timestamp(value.strip().removesuffix(" UTC").replace(",", "."), local=True)
        except (ValueError, OverflowError, OSError):
            try:
                value = float(value)
            except ValueError:
                return None
    if type(value) not in (int, float) or value - value != 0.0:
        return None
    # Seconds since the epoch reach 1e11 in the year 5138: a larger number counts something smaller.
    for limit, factor in ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6)):
        if abs(value) < limit:
            return float(value) / factor
    return float(value) / 1e9


def _lenient_exception(value: Any) -> LogException | None:
    if not value or value is True:
        return None
    if isinstance(value, dict):
        try:
            return msgspec.convert(value, LogException)
        except msgspec.ValidationError:
            value = [value]
    if isinstance(value, list) and isinstance(value[0], dict):
        # structlog.tracebacks.ExceptionDictTransformer
        kind = _optional_text(value[0].get("exc_type")) or "Exception"
        message = _optional_text(value[0].get("exc_value")) or ""
        return LogException(
            kind, message, f"{kind}: {message}", tuple(item for item in value if isinstance(item, dict))
        )
    text = _optional_text(value) or ""
    kind, _, message = text.rstrip().rpartition("\n")[2].partition(": ")
    return LogException(kind, message, text)


def _lenient_stack(value: Any) -> LogStack | None:
    if value is None:
        return None
    try:
        return msgspec.convert(value, LogStack)
    except msgspec.ValidationError:
        return LogStack(_optional_text(value) or "")


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    return {bool: "a boolean", list: "an array", str: "a string"}.get(type(value), "a number")
