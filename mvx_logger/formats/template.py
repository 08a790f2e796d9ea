"""Text made of an event's fields: the routing key, subject, topic, index or label that a destination wants.

A template is text with fields in braces, e.g. ``logs.{namespace}.{level}``:

=====================  ================================================================================================
``{namespace}``        The event's namespace.
``{event}``            Its name.
``{level}``            The level's name in lower case: ``info``.
``{level_no}``         The level's number.
``{entity_id}``, ``{outcome}``, ``{message}``
                       As in the event.
``{payload.KEY}``      A value of the payload; ``{payload.user.id}`` one inside of another.
``{time:FORMAT}``      The event's time in UTC, by `datetime.strftime`: ``{time:%Y.%m.%d}``.
``{host}``             The name of this host.
=====================  ================================================================================================

``{field|text}`` stands for ``text`` where the event has no such field; without it, nothing stands there. ``{{`` and ``}}``
are braces.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from ..errors import LogConfigurationError
from ..model import LogEvent
from .text import level_name

__all__ = ["EventTemplate"]

Getter = Callable[[LogEvent], str]

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|([{}])")

_FIELDS: dict[str, Callable[[LogEvent], Any]] = {
    "namespace": lambda event: event.meta.event_namespace,
    "event": lambda event: event.meta.event_name,
    "level": lambda event: level_name(event.level, event.origin).lower(),
    "level_no": lambda event: event.level,
    "entity_id": lambda event: event.meta.entity_id,
    "outcome": lambda event: event.event_outcome,
    "message": lambda event: event.message,
}


class EventTemplate:
    """A template, compiled. Making text of an event never raises, whatever the event holds.

    Args:
        text: The template: see the module.
        clean: Called with the text of each field (not with what stands around the fields): makes it fit for the
            destination, e.g. without the characters that have a meaning there.
        option: The name of the option that it came in, for errors.

    Attributes:
        text: The template.
        is_constant: True when it has no fields.

    Raises:
        LogConfigurationError: A field is unknown, or a brace stands alone.
        TypeError: The template is not a str.
    """

    def __init__(self, text: str, *, clean: Callable[[str], str] | None = None, option: str = "template") -> None:
        if not isinstance(text, str):
            raise TypeError(f"{option}: expected a str, got {type(text).__name__}")
        self.text = text
        self._parts: list[str | Getter] = []
        literal = ""
        end = 0
        for found in _TOKEN.finditer(text):
            literal += text[end : found.start()]
            end = found.end()
            if found[0] in ("{{", "}}"):
                literal += found[0][0]
            elif found[2] is not None:
                raise LogConfigurationError(
                    f"{option}: a single {found[2]!r} at position {found.start()}; write it twice for a brace",
                    details={"path": option},
                )
            else:
                if literal:
                    self._parts.append(literal)
                literal = ""
                self._parts.append(_compile(found[1], clean or str, option))
        literal += text[end:]
        if literal or not self._parts:
            self._parts.append(literal)
        self.is_constant = not any(map(callable, self._parts))

    def format(self, event: LogEvent) -> str:
        """The text for an event."""
        return "".join([part if isinstance(part, str) else part(event) for part in self._parts])

    def replace_fields(self, text: str, *, clean: Callable[[str], str] = str) -> str:
        """The template with ``text`` (e.g. a wildcard) for each field; ``clean`` is called with what stands around them."""
        return "".join([clean(part) if isinstance(part, str) else text for part in self._parts])

    def __repr__(self) -> str:
        return f"EventTemplate({self.text!r})"


def _compile(inner: str, clean: Callable[[str], str], option: str) -> Getter:
    name, _, default = inner.partition("|")
    field, colon, form = name.partition(":")
    get: Callable[[LogEvent], Any]
    if field == "time" and form:
        get = _make_time(form)
    elif colon:
        raise LogConfigurationError(
            f"{option}: {{{inner}}}: only time takes a format, as in {{time:%Y.%m.%d}}", details={"path": option}
        )
    elif field == "host":
        host = socket.gethostname()
        get = lambda _: host  # noqa: E731
    elif field.startswith("payload.") and len(field) > len("payload."):
        get = _make_payload(field.split(".")[1:])
    elif field in _FIELDS:
        get = _FIELDS[field]
    else:
        known = ", ".join([*_FIELDS, "host", "payload.KEY", "time:FORMAT"])
        raise LogConfigurationError(
            f"{option}: there is no field {{{field}}}; there are: {known}", details={"path": option}
        )

    def fill(event: LogEvent) -> str:
        try:
            value = get(event)
            return default if value is None or value == "" else clean(str(value))
        except Exception:  # a value that fights back: it has no text
            return default

    return fill


def _make_time(form: str) -> Callable[[LogEvent], str]:
    second = float("nan")
    text = ""

    def get(event: LogEvent) -> str:
        nonlocal second, text
        now = event.timestamp // 1
        if "%f" in form:
            return datetime.fromtimestamp(event.timestamp, UTC).strftime(form)
        if now != second:  # events of one second mostly come together
            text = datetime.fromtimestamp(now, UTC).strftime(form)
            second = now
        return text

    return get


def _make_payload(keys: list[str]) -> Callable[[LogEvent], Any]:
    def get(event: LogEvent) -> Any:
        value: Any = event.payload
        for key in keys:
            if not isinstance(value, Mapping):
                return None
            value = value.get(key)
        return value

    return get
