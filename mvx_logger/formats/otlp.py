"""`LogEvent` to the logs data model of OpenTelemetry, and to OTLP requests in protobuf and in JSON.

=======================  ==============================================================================================
``time_unix_nano``       The event's time, to the microsecond; 0 (unknown) where it is before 1970 or no number.
``observed_time_...``    The same; the time of encoding where that is unknown.
``severity_number``      DEBUG 5, INFO 9, WARNING 13, ERROR 17, CRITICAL 21; a level in between is up to three higher
                         (25 is INFO4), one above 50 FATAL to FATAL4, one below 10 TRACE to TRACE4, 0 and less unspecified.
``severity_text``        The level's name, as everywhere in this package.
``body``                 The message; the event's name where it has none.
``event_name``           The event's name.
``trace_id``, ``span_id``, ``flags``
                         From the payload's ``trace_id``, ``span_id``, ``trace_flags``, where they are what they should be.
``attributes``           The payload, typed, mappings and lists in it as such; and what the table below says.
scope                    The namespace is its name; each has a scope of its own in a request.
=======================  ==============================================================================================

========================================================  =============================================================
``log.record.uid``                                        The delivery id: a record with an id that is there already is
                                                          the same record.
``code.file.path``, ``code.line.number``, ``code.function.name``
                                                          Where it was logged.
``exception.type``, ``exception.message``, ``exception.stacktrace``
                                                          The exception.
``code.stacktrace``                                       The stack of the log call.
``process.pid``, ``thread.id``, ``thread.name``           Of a bridged event.
``mvx_logger.entity_id``, ``mvx_logger.outcome``          What the conventions have no name for. Of a bridged event also
                                                          ``mvx_logger.system``, ``.template``, ``.args``,
                                                          ``.process_name``, ``.task_name``, ``.level_no``.
========================================================  =============================================================

A key of the payload that is one of those, or empty, gets the prefix ``payload.``.
"""

from __future__ import annotations

import base64
import functools
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ..model import LogEvent
from ..options import require_extra
from .json import _encode_slowly, decode_event, encode_value, to_plain
from .text import LEVEL_NAMES, level_name

__all__ = [
    "LogRecordFields",
    "decode_partial_success",
    "describe_event",
    "encode_json",
    "encode_protobuf",
    "get_severity_number",
]

_MAX_DEPTH = 20
"""Readers of protobuf refuse what is nested more than 100 deep, and one level of a payload takes three."""
_INT64 = range(-(2**63), 2**63)
_TRACE_ID = re.compile(r"[0-9a-fA-F]{32}")
_SPAN_ID = re.compile(r"[0-9a-fA-F]{16}")
_FLAGS = re.compile(r"[0-9a-fA-F]{2}")
_SEVERITIES = {10: 5, 20: 9, 30: 13, 40: 17, 50: 21}
_OWN = frozenset(
    {
        "",  # no name for an attribute
        "log.record.uid",
        "code.file.path",
        "code.line.number",
        "code.function.name",
        "code.stacktrace",
        "exception.type",
        "exception.message",
        "exception.stacktrace",
        "process.pid",
        "thread.id",
        "thread.name",
        *(f"mvx_logger.{name}" for name in ("entity_id", "outcome", "system", "template", "args", "level_no")),
        "mvx_logger.process_name",
        "mvx_logger.task_name",
    }
)
_json_encoder = msgspec.json.Encoder()


class LogRecordFields(NamedTuple):
    """A log record of the data model, before it is encoded.

    Attributes:
        time: In nanoseconds since the epoch; 0 where it is not known.
        severity_number: 0 to 24.
        severity_text: The level's name.
        body: The message, or the event's name.
        event_name: The event's name.
        attributes: Any values by name.
        trace_id: 16 bytes, or none.
        span_id: 8 bytes, or none.
        flags: Those of the trace.
    """

    time: int
    severity_number: int
    severity_text: str
    body: str
    event_name: str
    attributes: dict[str, Any]
    trace_id: bytes
    span_id: bytes
    flags: int


def get_severity_number(level: int) -> int:
    """The severity number of a level, 0 to 24."""
    if level <= 0:
        return 0
    if level < 10:
        return 1 + min(max(level - 5, 0), 3)
    base = min(level // 10 * 10, 50)
    return _SEVERITIES[base] + min(level - base, 3)


def describe_event(event: LogEvent, delivery_id: str) -> LogRecordFields:
    """What the record of an event holds; nothing is encoded yet."""
    meta = event.meta
    payload = event.payload
    trace_id = span_id = b""
    flags = 0
    attributes: dict[str, Any] = {"log.record.uid": delivery_id}
    skip: tuple[str, ...] = ()
    if "trace_id" in payload:
        trace_id, span_id, flags, skip = _read_trace(payload)
    for key, value in payload.items():
        if key in _OWN:
            while key in _OWN or key in payload:
                key = f"payload.{key}"
        elif key in skip:
            continue
        attributes[key] = value
    if meta.entity_id is not None:
        attributes["mvx_logger.entity_id"] = meta.entity_id
    if event.event_outcome is not None:
        attributes["mvx_logger.outcome"] = event.event_outcome
    if meta.source_path is not None:
        attributes["code.file.path"] = meta.source_path
    if meta.source_line is not None:
        attributes["code.line.number"] = meta.source_line
    if meta.source_func is not None:
        attributes["code.function.name"] = meta.source_func
    level = event.level
    text = LEVEL_NAMES.get(level)
    if text is None:
        text = level_name(level, event.origin)
        attributes["mvx_logger.level_no"] = int(level)
    if event.exception is not None or event.stack is not None or event.origin is not None:
        _add_rest(attributes, event)
    try:
        nanoseconds = max(round(event.timestamp * 1e6), 0) * 1_000
    except (OverflowError, ValueError):  # infinite, or no number
        nanoseconds = 0
    if nanoseconds not in _INT64:
        nanoseconds = 0
    name = meta.event_name
    message = event.message
    return LogRecordFields(
        nanoseconds,
        get_severity_number(level),
        text,
        name if message is None else message,
        name,
        attributes,
        trace_id,
        span_id,
        flags,
    )


def _read_trace(payload: Mapping[str, Any]) -> tuple[bytes, bytes, int, tuple[str, ...]]:
    """The ids and the flags, and which keys of the payload they were."""
    trace, span, flags = payload["trace_id"], payload.get("span_id"), payload.get("trace_flags")
    if type(trace) is not str or not _TRACE_ID.fullmatch(trace) or not trace.strip("0"):
        return b"", b"", 0, ()
    keys = ["trace_id"]
    span_id = b""
    if type(span) is str and _SPAN_ID.fullmatch(span) and span.strip("0"):
        span_id = bytes.fromhex(span)
        keys.append("span_id")
    number = 0
    if type(flags) is int and 0 <= flags <= 0xFF:
        number = flags
        keys.append("trace_flags")
    elif type(flags) is str and _FLAGS.fullmatch(flags):
        number = int(flags, 16)
        keys.append("trace_flags")
    return bytes.fromhex(trace), span_id, number, tuple(keys)


def _add_rest(attributes: dict[str, Any], event: LogEvent) -> None:
    exception, stack, origin = event.exception, event.stack, event.origin
    if exception is not None:
        attributes["exception.type"] = exception.type
        attributes["exception.message"] = exception.message
        attributes["exception.stacktrace"] = exception.text
    if stack is not None:
        attributes["code.stacktrace"] = stack.text
    if origin is not None:
        given = {
            "mvx_logger.system": origin.system,
            "mvx_logger.template": origin.template,
            "mvx_logger.args": origin.args or None,
            "process.pid": origin.process_id,
            "mvx_logger.process_name": origin.process_name,
            "thread.id": origin.thread_id,
            "thread.name": origin.thread_name,
            "mvx_logger.task_name": origin.task_name,
        }
        attributes.update((key, value) for key, value in given.items() if value is not None)


def _group(events: Sequence[LogEvent], ids: Sequence[str]) -> Iterable[tuple[str, list[tuple[LogEvent, str]]]]:
    """The events of each namespace, in order."""
    groups: dict[str, list[tuple[LogEvent, str]]] = {}
    for event, delivery_id in zip(events, ids, strict=True):
        namespace = event.meta.event_namespace
        name = namespace if type(namespace) is str else "" if namespace is None else str(to_plain(namespace))
        group = groups.get(name)
        if group is None:
            group = groups[name] = []
        group.append((event, delivery_id))
    return groups.items()


def _bound(value: Any, depth: int) -> Any:
    """A value that is none of the common kinds as one that is; what is nested too deep as text."""
    if isinstance(value, (Mapping, list, tuple)) and depth >= _MAX_DEPTH:
        return encode_value(value).decode()
    if isinstance(value, int) and value not in _INT64:
        return str(to_plain(value))
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    return to_plain(value)


# ---------------------------------------------------------------------------------------------------- protobuf


def encode_protobuf(events: Sequence[LogEvent], ids: Sequence[str], resource: Mapping[str, Any]) -> bytes:
    """Encode events as an ``ExportLogsServiceRequest`` in protobuf.

    Args:
        events: The events.
        ids: Their delivery ids.
        resource: The attributes of the resource.

    Returns:
        The bytes of the request. Never raises for what an event holds.

    Raises:
        LogConfigurationError: The package ``opentelemetry-proto`` is missing.
    """
    messages = _load_messages()
    request = messages.request()
    logs = request.resource_logs.add()
    logs.resource.SetInParent()
    for key, value in resource.items():
        _fill(logs.resource.attributes.add(key=_clean(key)).value, to_plain(value))
    for namespace, group in _group(events, ids):
        scope = logs.scope_logs.add()
        scope.scope.name = _clean(namespace)
        scope.log_records.extend([_make_message(messages, event, delivery_id) for event, delivery_id in group])
    encoded: bytes = request.SerializeToString()
    return encoded


class _Messages(NamedTuple):
    """Classes that opentelemetry-proto has generated."""

    request: Any
    response: Any
    record: Any
    pair: Any
    value: Any


@functools.cache
def _load_messages() -> _Messages:
    service = require_extra("otlp", "opentelemetry.proto.collector.logs.v1.logs_service_pb2")
    logs = require_extra("otlp", "opentelemetry.proto.logs.v1.logs_pb2")
    common = require_extra("otlp", "opentelemetry.proto.common.v1.common_pb2")
    return _Messages(
        service.ExportLogsServiceRequest,
        service.ExportLogsServiceResponse,
        logs.LogRecord,
        common.KeyValue,
        common.AnyValue,
    )


def _make_message(messages: _Messages, event: LogEvent, delivery_id: str) -> Any:
    try:
        return _make_record(messages, describe_event(event, delivery_id))
    except Exception:  # a lone surrogate, an object that fights back: put into words, it has a form
        return _make_record(messages, describe_event(decode_event(_encode_slowly(event)), delivery_id))


def _make_record(messages: _Messages, fields: LogRecordFields) -> Any:
    pair, make_value = messages.pair, messages.value
    attributes = []
    for key, value in fields.attributes.items():
        kind = type(value)
        if kind is str:
            attributes.append(pair(key=key, value=make_value(string_value=value)))
        elif kind is int and value in _INT64:
            attributes.append(pair(key=key, value=make_value(int_value=value)))
        else:
            attribute = pair(key=key)
            attribute.value.SetInParent()
            _fill(attribute.value, value)
            attributes.append(attribute)
    return messages.record(
        time_unix_nano=fields.time,
        observed_time_unix_nano=fields.time or time.time_ns(),
        severity_number=fields.severity_number,
        severity_text=fields.severity_text,
        body=make_value(string_value=fields.body),
        event_name=fields.event_name,
        attributes=attributes,
        trace_id=fields.trace_id,
        span_id=fields.span_id,
        flags=fields.flags,
    )


def _fill(target: Any, value: Any, depth: int = 0) -> None:
    """Give an ``AnyValue`` its value; one without any is None."""
    kind = type(value)
    if kind is str:
        target.string_value = value
    elif kind is bool:
        target.bool_value = value
    elif kind is int and value in _INT64:
        target.int_value = value
    elif kind is float:
        target.double_value = value
    elif kind is bytes:
        target.bytes_value = value
    elif (kind is list or kind is tuple) and depth < _MAX_DEPTH:
        target.array_value.SetInParent()
        for item in value:
            _fill(target.array_value.values.add(), item, depth + 1)
    elif kind is dict and depth < _MAX_DEPTH:
        target.kvlist_value.SetInParent()
        for key, item in (value if _has_plain_keys(value) else to_plain(value)).items():
            pair = target.kvlist_value.values.add(key=key)
            pair.value.SetInParent()
            _fill(pair.value, item, depth + 1)
    elif value is not None:
        _fill(target, _bound(value, depth), depth)


def decode_partial_success(data: bytes) -> tuple[int, str]:
    """How many records an ``ExportLogsServiceResponse`` in protobuf says were rejected, and why.

    Raises:
        ValueError: It is no message.
    """
    try:
        partial = _load_messages().response.FromString(data).partial_success
    except Exception as err:  # DecodeError
        raise ValueError(f"it is no ExportLogsServiceResponse: {err}") from err
    return max(partial.rejected_log_records, 0), str(partial.error_message)


def _has_plain_keys(mapping: Mapping[Any, Any]) -> bool:
    return all(type(key) is str for key in mapping)


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


# ---------------------------------------------------------------------------------------------------- JSON


def encode_json(events: Sequence[LogEvent], ids: Sequence[str], resource: Mapping[str, Any]) -> bytes:
    """Encode events as an ``ExportLogsServiceRequest`` in JSON, as OTLP has it: ids are hexadecimal, 64-bit ints are text.

    Args:
        events: The events.
        ids: Their delivery ids.
        resource: The attributes of the resource.

    Returns:
        UTF-8. Never raises for what an event holds.
    """
    scopes = []
    for namespace, group in _group(events, ids):
        records = [_make_json_record(event, delivery_id) for event, delivery_id in group]
        scope = {"name": _clean(namespace)}
        scopes.append({"scope": scope, "logRecords": [msgspec.Raw(record) for record in records]})
    attributes = [{"key": _clean(key), "value": _make_json_value(to_plain(value))} for key, value in resource.items()]
    return _json_encoder.encode({"resourceLogs": [{"resource": {"attributes": attributes}, "scopeLogs": scopes}]})


def _make_json_record(event: LogEvent, delivery_id: str) -> bytes:
    try:
        return _json_encoder.encode(_to_json(describe_event(event, delivery_id)))
    except Exception:  # as in protobuf
        return _json_encoder.encode(_to_json(describe_event(decode_event(_encode_slowly(event)), delivery_id)))


def _to_json(fields: LogRecordFields) -> dict[str, Any]:
    if not (type(fields.body) is type(fields.event_name) is str and _has_plain_keys(fields.attributes)):
        raise TypeError("a field has a type that it must not have")
    record: dict[str, Any] = {
        "timeUnixNano": str(fields.time),
        "observedTimeUnixNano": str(fields.time or time.time_ns()),
        "severityNumber": fields.severity_number,
        "severityText": fields.severity_text,
        "body": {"stringValue": fields.body},
        "attributes": [{"key": key, "value": _make_json_value(value)} for key, value in fields.attributes.items()],
        "eventName": fields.event_name,
    }
    if fields.trace_id:
        record["traceId"] = fields.trace_id.hex()
        record["flags"] = fields.flags
        if fields.span_id:
            record["spanId"] = fields.span_id.hex()
    return record


def _make_json_value(value: Any, depth: int = 0) -> dict[str, Any]:
    kind = type(value)
    if kind is str:
        return {"stringValue": value}
    if kind is bool:
        return {"boolValue": value}
    if kind is int and value in _INT64:
        return {"intValue": str(value)}
    if kind is float:
        return {"doubleValue": value if math.isfinite(value) else _NOT_FINITE.get(value, "NaN")}
    if kind is bytes:
        return {"bytesValue": base64.b64encode(value).decode()}
    if (kind is list or kind is tuple) and depth < _MAX_DEPTH:
        return {"arrayValue": {"values": [_make_json_value(item, depth + 1) for item in value]}}
    if kind is dict and depth < _MAX_DEPTH:
        items = (value if _has_plain_keys(value) else to_plain(value)).items()
        return {"kvlistValue": {"values": [{"key": key, "value": _make_json_value(x, depth + 1)} for key, x in items]}}
    return {} if value is None else _make_json_value(_bound(value, depth), depth)


_NOT_FINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}
