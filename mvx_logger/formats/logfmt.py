"""`LogEvent` to a line of logfmt: ``timestamp=2026-05-12T14:30:25.000123Z level=info event=order.created total=12.5``.

The format has no standard; this follows its common readers (`Heroku's <https://brandur.org/logfmt>`_, Grafana Loki's,
``github.com/go-logfmt/logfmt``): keys without spaces, quotes and ``=``; values in double quotes, with JSON's escapes,
where they hold such characters. The payload's keys stand beside the event's own; nested mappings become dotted keys,
and a key that the event itself uses gets the prefix ``payload.``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ..model import LogEvent
from .json import encode_value, finite, format_timestamp, is_plain, to_plain
from .text import level_name

__all__ = ["encode_event", "encode_lines"]

_BARE = re.compile(r"[^\s\"=\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_NOT_IN_KEYS = re.compile(r"[\s\"=\\\x00-\x1f\x7f-\x9f\u2028\u2029]")
_OWN = frozenset(
    {"timestamp", "level", "namespace", "event", "entity_id", "outcome", "message", "source", "process", "thread"}
    | {"exception", "stack"}
)
_BREAKS = {0x7F: "\\u007f", 0x2028: "\\u2028", 0x2029: "\\u2029"} | {
    code: f"\\u{code:04x}" for code in range(0x80, 0xA0)
}


def encode_lines(events: Sequence[LogEvent]) -> bytes:
    """Encode events as logfmt lines in UTF-8, each ended by a newline. Never raises for what an event holds."""
    return b"".join([encode_event(event) + b"\n" for event in events])


def encode_event(event: LogEvent) -> bytes:
    """Encode one event as logfmt in UTF-8, without a newline. Never raises for what the event holds."""
    return " ".join([f"{key}={_value(value)}" for key, value in _pairs(event)]).encode("utf-8", "backslashreplace")


def _pairs(event: LogEvent) -> Iterator[tuple[str, Any]]:
    meta = event.meta
    try:
        yield "timestamp", format_timestamp(event.timestamp)
    except Exception:
        yield "timestamp", finite(event.timestamp)
    level = to_plain(event.level)
    yield "level", level_name(level, event.origin).lower() if isinstance(level, int) else level
    origin = event.origin
    exception = event.exception
    stack = event.stack
    before: tuple[tuple[str, Any], ...] = (
        ("namespace", meta.event_namespace),
        ("event", meta.event_name),
        ("entity_id", meta.entity_id),
        ("outcome", event.event_outcome),
        ("message", event.message),
        ("source", None if meta.source_path is None else f"{meta.source_path}:{meta.source_line or 0}"),
    )
    for key, value in before:
        if value is not None:
            yield key, value
    payload = event.payload if type(event.payload) is dict and is_plain(event.payload) else to_plain(event.payload)
    yield from _flatten("", payload if isinstance(payload, dict) else {"payload": payload})
    after: tuple[tuple[str, Any], ...] = (
        ("process", None if origin is None else origin.process_id),
        ("thread", None if origin is None else origin.thread_name),
        ("exception", None if exception is None else exception.text),
        ("stack", None if stack is None else stack.text),
    )
    for key, value in after:
        if value is not None:
            yield key, value


def _flatten(prefix: str, mapping: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        name = prefix + (_NOT_IN_KEYS.sub("_", key) or "_")
        if not prefix and name in _OWN:
            name = f"payload.{name}"
        if isinstance(value, dict) and value:
            yield from _flatten(f"{name}.", value)
        else:
            yield name, value


def _value(value: Any) -> str:
    if value is None:
        return ""
    if type(value) is str:
        if _BARE.fullmatch(value):
            return value
    elif type(value) is int:
        return str(value)
    text = encode_value(value).decode()
    if isinstance(value, (list, dict)):
        text = encode_value(text).decode()
    return text.translate(_BREAKS)
