"""`LogEvent` to a line of text for people.

``2026-05-12 14:30:25 INFO: my_app.app.started {'service': 'demo', 'mode': 'local'}``

An event is one line, whatever its names, messages and values hold: control characters are escaped. What needs more
lines (a traceback, a stack, a message where ``multiline`` allows it) goes on, indented, so that no content can pass for
an event of its own.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import LogConfigurationError
from ..model import LogEvent, LogEventMeta, LogEventOrigin

__all__ = [
    "DEFAULT_DATE_FORMAT",
    "DEFAULT_LOG_FORMAT",
    "LEVEL_NAMES",
    "TextFormatter",
    "event_message",
    "event_title",
    "level_name",
]

DEFAULT_LOG_FORMAT = "%(asctime)s %(levelname)s: %(message)s"
DEFAULT_DATE_FORMAT = "%Y-%m-%d %H:%M:%S"

LEVEL_NAMES = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}
"""The standard levels."""
# All that a terminal or a reader of lines may act on, but for the tab; and what UTF-8 cannot hold.
_UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UNSAFE_IN_BLOCK = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_FIELD = re.compile(r"%\((\w+)\)")


def level_name(level: int, origin: LogEventOrigin | None = None) -> str:
    """The name of a level: a standard one, or the one that the origin gives, or ``Level 25``."""
    name = LEVEL_NAMES.get(level)
    if name is None:
        name = origin.level_name if origin is not None and origin.level_name else f"Level {int(level)}"
    return name


def event_title(event: LogEvent) -> str:
    """What the event is called: ``namespace[.entity_id].event_name[ [outcome]]``, as it is, nothing escaped."""
    meta = event.meta
    title = meta.event_name
    if meta.entity_id is not None:
        title = f"{meta.entity_id}.{title}"
    if meta.event_namespace is not None:
        title = f"{meta.event_namespace}.{title}"
    if event.event_outcome is not None:
        title = f"{title} [{event.event_outcome}]"
    return title


def event_message(event: LogEvent, *, multiline: bool = False) -> str:
    """What the event says: its title, or ``namespace[.entity_id]: message`` where it has one, then the payload.

    Args:
        event: The event.
        multiline: Keep the line breaks of a message; the lines after the first are indented. Else they are escaped.

    Returns:
        Text without control characters.
    """
    message = event.message
    if message is None:
        text = event_title(event)
    else:
        meta = event.meta
        text = message if event.event_outcome is None else f"{message} [{event.event_outcome}]"
        if meta.entity_id is not None:
            text = f"{meta.entity_id}: {text}"
            if meta.event_namespace is not None:
                text = f"{meta.event_namespace}.{text}"
        elif meta.event_namespace is not None:
            text = f"{meta.event_namespace}: {text}"
    if multiline and not text.isprintable():
        text = _block(text)
    if event.payload:
        rest = _payload_text(event.payload)
        text = f"{text} {rest if rest.isprintable() else _UNSAFE.sub(_escape, rest)}"
        return text if multiline or text.isprintable() else _UNSAFE.sub(_escape, text)
    return text if multiline or text.isprintable() else _UNSAFE.sub(_escape, text)


def _payload_text(payload: Mapping[str, Any]) -> str:
    try:
        return repr(payload if type(payload) is dict else dict(payload))
    except Exception:
        from .json import to_plain

        return repr(to_plain(payload))


def _escape(match: re.Match[str]) -> str:
    return repr(match[0])[1:-1]


def _block(text: str) -> str:
    # Line breaks stay; what follows them is indented, so that it cannot pass for a line of its own.
    return _UNSAFE_IN_BLOCK.sub(_escape, text.replace("\r\n", "\n")).replace("\n", "\n  ")


def _of_origin(name: str, default: Any) -> Callable[[LogEvent], Any]:
    def get(event: LogEvent) -> Any:
        origin = event.origin
        value = getattr(origin, name) if origin is not None else None
        return default if value is None else value

    return get


def _process(event: LogEvent) -> int:
    origin = event.origin
    return os.getpid() if origin is None or origin.process_id is None else origin.process_id


_FIELDS: dict[str, Callable[[LogEvent], Any]] = {
    "levelname": lambda event: level_name(event.level, event.origin),
    "levelno": lambda event: int(event.level),
    "name": lambda event: event.meta.event_namespace or "root",
    "created": lambda event: event.timestamp,
    "msecs": lambda event: int(event.timestamp % 1 * 1000),
    "pathname": lambda event: event.meta.source_path or "",
    "filename": lambda event: os.path.basename(event.meta.source_path or ""),
    "module": lambda event: os.path.splitext(os.path.basename(event.meta.source_path or ""))[0],
    "lineno": lambda event: event.meta.source_line or 0,
    "funcName": lambda event: event.meta.source_func or "",
    "process": _process,
    "processName": _of_origin("process_name", ""),
    "thread": _of_origin("thread_id", 0),
    "threadName": _of_origin("thread_name", ""),
    "taskName": _of_origin("task_name", ""),
    "title": event_title,
    "namespace": lambda event: event.meta.event_namespace or "",
    "event": lambda event: event.meta.event_name,
    "entity_id": lambda event: event.meta.entity_id or "",
    "outcome": lambda event: event.event_outcome or "",
    "payload": lambda event: _payload_text(event.payload) if event.payload else "",
}


class TextFormatter:
    """Turns events into text by a ``%``-format, as `logging.Formatter` does for records.

    Args:
        log_format: Known fields: those of a `logging.LogRecord` (``asctime``, ``levelname``, ``levelno``, ``name``,
            ``created``, ``msecs``, ``pathname``, ``filename``, ``module``, ``lineno``, ``funcName``, ``process``,
            ``processName``, ``thread``, ``threadName``, ``taskName``, ``message``: see `event_message`), and ``title``,
            ``namespace``, ``event``, ``entity_id``, ``outcome``, ``payload``. Any other name is a key of the payload;
            it is empty where the payload does not have it.
        date_format: How `time.strftime` writes ``asctime``.
        utc: Tell the time in UTC; else in local time.
        multiline: Keep the line breaks of messages, with an indentation; else they are escaped.
        exceptions: Append the texts of exceptions and stacks, indented.

    Raises:
        LogConfigurationError: ``log_format`` is malformed.
    """

    def __init__(
        self,
        log_format: str = DEFAULT_LOG_FORMAT,
        date_format: str = DEFAULT_DATE_FORMAT,
        *,
        utc: bool = False,
        multiline: bool = False,
        exceptions: bool = True,
    ) -> None:
        self._format = log_format
        self._is_default = log_format == DEFAULT_LOG_FORMAT
        self._date_format = date_format
        self._to_time = time.gmtime if utc else time.localtime
        self._multiline = multiline
        self._exceptions = exceptions
        self._second: tuple[int, str] = (-1, "")
        names = dict.fromkeys(_FIELD.findall(log_format))
        self._names = tuple(names)
        try:
            self._fill(LogEvent(20, LogEventMeta(None, "event"), None, 0.0, dict.fromkeys(names, 0)))
        except (ValueError, TypeError) as err:
            raise LogConfigurationError(
                f"log_format: {log_format!r} is not a %-format: {err}", details={"path": "log_format"}, cause=err
            ) from err

    def format(self, event: LogEvent) -> str:
        """The event as text, without a newline at the end. Never raises for what the event holds."""
        try:
            if self._is_default:
                text = (
                    f"{self._asctime(event.timestamp)} {LEVEL_NAMES.get(event.level) or self._level_name(event)}: "
                    f"{event_message(event, multiline=self._multiline)}"
                )
            else:
                text = self._fill(event)
            if self._exceptions and (event.exception is not None or event.stack is not None):
                text = self._append_blocks(text, event)
        except Exception:
            # A field has a type that it must not have. JSON knows how to put anything into words.
            from .json import encode_event

            text = encode_event(event).decode()
        return text

    def _fill(self, event: LogEvent) -> str:
        fields: dict[str, Any] = {}
        for name in self._names:
            if name == "asctime":
                value = self._asctime(event.timestamp)
            elif name == "message":
                value = event_message(event, multiline=self._multiline)
            else:
                getter = _FIELDS.get(name)
                value = event.payload.get(name, "") if getter is None else getter(event)
                if type(value) is str and not value.isprintable():
                    value = _UNSAFE.sub(_escape, value)
            fields[name] = value
        return self._format % fields

    def _level_name(self, event: LogEvent) -> str:
        return _UNSAFE.sub(_escape, level_name(event.level, event.origin))

    def _asctime(self, timestamp: float) -> str:
        second = int(timestamp // 1)
        cached, text = self._second
        if second != cached:
            try:
                text = time.strftime(self._date_format, self._to_time(second))
            except (OverflowError, ValueError, OSError):  # a year that the platform does not know
                text = f"{timestamp:f}"
            self._second = (second, text)
        return text

    def _append_blocks(self, text: str, event: LogEvent) -> str:
        for block in (event.exception, event.stack):
            if block is not None and block.text:
                text = f"{text}\n  {_block(block.text)}"
        return text
