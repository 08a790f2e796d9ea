r"""`LogEvent` to a syslog message: RFC 5424 with structured data, or RFC 3164.

::

    <14>1 2026-05-12T14:30:25.000123Z web1 shop 4711 order.created [mvx@32473 id="0196..." namespace="shop.orders"
    event="order.created" level="INFO" source="/srv/shop.py:117" func="place" entity_id="order-42" outcome="success"]
    [payload@32473 total="12.5" user.name="Ann"] shop.orders.order-42.order.created [success]

(on one line). What the event itself tells is in ``mvx@``, its payload in ``payload@``, its exception in ``exception@``:

===================  ==================================================================================================
``mvx@32473``        ``id`` (the delivery id), ``namespace``, ``event``, ``entity_id``, ``outcome``, ``level``;
                     ``level_no`` where the name alone does not give it; ``source`` (``path:line``), ``func``; ``thread``
                     and ``stack`` where they are known; ``time`` where RFC 3339 cannot tell it (seconds since the epoch);
                     ``payload``: a JSON object of those keys of the payload that are no name there or are there already;
                     ``truncated``: the bytes of the whole message, where it had to be cut.
``payload@32473``    The payload: text as it is, everything else as JSON; nested mappings as dotted names.
``exception@32473``  ``type``, ``message``, ``text`` (the traceback).
===================  ==================================================================================================

A message is one line of UTF-8 without control characters, whatever the event holds: they are written as ``\n`` or ``\x00``
in the text and as in JSON (``\n``, ``\u0000``) in values, in which ``"``, ``\`` and ``]`` are escaped as RFC 5424 (6.3.3)
says. So no content can end a value, an element or
a message, or pass for another one.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from ..errors import LogConfigurationError
from ..model import LogEvent
from ..options import parse_level
from .json import decode_event, encode_event, encode_value, format_timestamp, to_plain
from .template import EventTemplate
from .text import LEVEL_NAMES, event_message, level_name

__all__ = ["FACILITIES", "SEVERITIES", "SyslogFormatter"]

FACILITIES = {
    "kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7, "uucp": 8, "cron": 9,
    "authpriv": 10, "ftp": 11, "ntp": 12, "audit": 13, "alert": 14, "clock": 15, "local0": 16, "local1": 17,
    "local2": 18, "local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23,
}  # fmt: skip
"""The names of the facilities."""
SEVERITIES = {
    "emerg": 0, "alert": 1, "crit": 2, "err": 3, "warning": 4, "notice": 5, "info": 6, "debug": 7,
    "emergency": 0, "panic": 0, "critical": 2, "error": 3, "warn": 4, "informational": 6,
}  # fmt: skip
"""The names of the severities."""
MIN_SIZE = 480
"""The size in bytes that every receiver takes (RFC 5424, 6.1)."""

_DEFAULT_SEVERITIES = {50: 2, 40: 3, 30: 4, 25: 5, 20: 6}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_BOM = "\ufeff"
_SMALLEST = 48  # bytes of a parameter that is cut: its name, and some of its value
_MARK = b"..."
_SHORT = {"\n": r"\\n", "\r": r"\\r", "\t": r"\\t"}
_CACHED = 1_000

_NOT_PRINTABLE = re.compile(r"[^\x21-\x7e]")
_NOT_IN_TAG = re.compile(r"[^\x21-\x7e]|[\[\]:]")
_NAME = re.compile(r"[\x21\x23-\x3c\x3e-\x5c\x5e-\x7e]{1,32}")
_ENTERPRISE_ID = re.compile(r"[0-9]+(\.[0-9]+)*")
_ESCAPED = re.compile('["\\\\\\]\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

Element = tuple[str, list[str]]
"""The id of an element of structured data, and its parameters as they are written, each with a space before it."""


class SyslogFormatter:
    """Turns events into syslog messages.

    Args:
        rfc: ``"5424"`` or ``"3164"``.
        facility: A name of `FACILITIES`, or a number from 0 to 23.
        severity: Severities (a name of `SEVERITIES`, or a number from 0 to 7) by level (a name or a number); a mapping, or
            texts like ``"25:notice"``. They are added to the usual ones: 50 crit, 40 err, 30 warning, 25 notice, 20 info.
            A level without one has that of the next lower level that has one; below all, it is debug.
        app_name: A template (`mvx_logger.formats.template`) for APP-NAME or the TAG; None for the name of the program.
        hostname: A template for HOSTNAME; None for the name of this host, and nothing in the local form.
        procid: A template for PROCID; None for the number of the process that has logged.
        msgid: A template for MSGID.
        enterprise_id: What stands behind the ``@`` of the ids of structured data: your private enterprise number.
        max_message_size: How many bytes a message may have, 480 or more. What is longer is cut: long values first.
        bom: Begin the text with a byte order mark where it is not ASCII.
        structured_data: Write it. False leaves it out, and the payload stands in the text.
        local: The form for the local socket: RFC 3164 without HOSTNAME, as the C library writes it.

    Templates are made fit for their field: other characters than printable ASCII become ``_``, and the end is cut off.

    Raises:
        LogConfigurationError, TypeError, ValueError: An argument is wrong; the text names it.
    """

    def __init__(
        self,
        *,
        rfc: Literal["5424", "3164"] = "5424",
        facility: str | int = "user",
        severity: Mapping[str | int, str | int] | Sequence[str] | None = None,
        app_name: str | None = None,
        hostname: str | None = None,
        procid: str | None = None,
        msgid: str = "{event}",
        enterprise_id: str | int = "32473",
        max_message_size: int = 8_192,
        bom: bool = False,
        structured_data: bool = True,
        local: bool = False,
    ) -> None:
        if rfc not in ("5424", "3164"):
            raise ValueError(f"rfc: {rfc!r} is not one of '5424', '3164'")
        if isinstance(max_message_size, bool) or not isinstance(max_message_size, int):
            raise TypeError(f"max_message_size: expected an int, got {type(max_message_size).__name__}")
        if max_message_size < MIN_SIZE:
            raise ValueError(f"max_message_size: expected {MIN_SIZE} or more, got {max_message_size}")
        for name, value in (("bom", bom), ("structured_data", structured_data), ("local", local)):
            if not isinstance(value, bool):
                raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")
        enterprise = str(enterprise_id)
        if isinstance(enterprise_id, bool) or not _ENTERPRISE_ID.fullmatch(enterprise) or len(enterprise) > 22:
            raise ValueError(f"enterprise_id: expected a number like 32473 or 32473.1, got {enterprise_id!r}")
        self._facility = _parse_number("facility", facility, FACILITIES, 23)
        self._severities = sorted(_parse_severities(severity).items(), reverse=True)
        self._event_id = f"mvx@{enterprise}"
        self._payload_id = f"payload@{enterprise}"
        self._exception_id = f"exception@{enterprise}"
        self._max_size = max_message_size
        self._bom = _BOM if bom else ""
        self._structured = structured_data and rfc == "5424"
        self._format = self._format_5424 if rfc == "5424" else self._format_3164
        self._priorities: dict[int, str] = {}
        self._names: dict[str, bool] = {}
        self._sites: dict[tuple[Any, ...], list[str]] = {}
        self._second = float("nan")
        self._prefix = ""

        old = rfc == "3164"
        self._tag_limit = 32 if old else 48
        if hostname is None:
            hostname = "" if local and old else socket.gethostname().replace("{", "{{").replace("}", "}}")
            if old:  # which forbids the domain
                hostname = hostname.partition(".")[0]
        self._has_host = bool(hostname)
        self._get_host = _make_getter("hostname", hostname, 255)
        not_in_tag = _NOT_IN_TAG if old else _NOT_PRINTABLE
        app_name = _find_program() if app_name is None else app_name
        self._get_app = _make_getter("app_name", app_name, self._tag_limit, not_in_tag)
        self._get_process = _get_process if procid is None else _make_getter("procid", procid, 128, not_in_tag)
        self._get_msgid = _make_getter("msgid", msgid, 32)

    def format(self, event: LogEvent, delivery_id: str | None = None) -> bytes:
        """The message for an event, without any framing. Never raises for what the event holds.

        Args:
            event: The event.
            delivery_id: What it is known by; None leaves it out.
        """
        try:
            return self._format(event, delivery_id)
        except Exception:  # a field has a type that it must not have: JSON knows how to put anything into words
            return self._format(decode_event(encode_event(event)), delivery_id)

    # ------------------------------------------------------------------ RFC 5424

    def _format_5424(self, event: LogEvent, delivery_id: str | None) -> bytes:
        priority = self._priorities.get(event.level) or self._get_priority(event.level)
        try:
            moment = self._get_timestamp(event.timestamp)
        except (OverflowError, ValueError):
            moment = "-"
        fields = [self._get_host(event), self._get_app(event), self._get_process(event), self._get_msgid(event)]
        head = f"{priority}1 {moment} {fields[0]} {fields[1]} {fields[2]} {fields[3]}"
        if not self._structured:
            text = f"{self._bom}{_make_text(event)}"
            data = f"{head} - {text}".encode()
            return data if len(data) <= self._max_size else self._cut(priority, moment, fields, [], text, len(data))
        elements = self._get_elements(event, delivery_id, moment == "-")
        structured = "".join([f"[{name}{''.join(parameters)}]" for name, parameters in elements])
        if event.payload:
            event = LogEvent(event.level, event.meta, event.event_outcome, event.timestamp, {}, event.message)
        text = _make_line(event)
        if self._bom and not text.isascii():
            text = self._bom + text
        data = f"{head} {structured} {text}".encode()
        if len(data) <= self._max_size:
            return data
        return self._cut(priority, moment, fields, elements, text, len(data))

    def _get_elements(self, event: LogEvent, delivery_id: str | None, tell_time: bool) -> list[Element]:
        meta, origin = event.meta, event.origin
        level = level_name(event.level, origin)
        # Mostly the same few things log: what does not change with each event is written once.
        key = (meta.event_namespace, meta.event_name, event.level, level, meta.source_path, meta.source_line,
               meta.source_func)  # fmt: skip
        site = self._sites.get(key)
        if site is None:
            site = _describe_site(event, level)
            if len(self._sites) < _CACHED and sum(map(len, site)) < _CACHED:
                self._sites[key] = site
        own = [*site] if delivery_id is None else [f' id="{delivery_id}"', *site]
        for name, value in (("entity_id", meta.entity_id), ("outcome", event.event_outcome)):
            if value is not None:
                own.append(f' {name}="{_ESCAPED.sub(_escape, value) if _ESCAPED.search(value) else value}"')
        if tell_time:
            own.append(f' time="{float(event.timestamp)!r}"')
        if origin is not None and origin.thread_name is not None:
            own.append(f' thread="{_escaped(origin.thread_name)}"')
        if event.stack is not None:
            own.append(f' stack="{_escaped(event.stack.text)}"')
        elements = [(self._event_id, own)]
        if event.payload:
            parameters, rest = self._get_payload(event.payload)
            if parameters:
                elements.append((self._payload_id, parameters))
            if rest:
                own.append(f' payload="{_escaped(encode_value(rest).decode())}"')
        exception = event.exception
        if exception is not None:
            named = ("type", exception.type), ("message", exception.message), ("text", exception.text)
            elements.append((self._exception_id, [f' {name}="{_escaped(value)}"' for name, value in named]))
        return elements

    def _get_payload(self, payload: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
        # Written here: what has a name there; and what is left over.
        parameters: list[str] = []
        rest: dict[str, Any] = {}
        names = self._names
        taken: set[str] = set()
        for key, value in payload.items():
            kind = type(value)
            if key in taken or (key not in names and not self._learn(key)):
                rest[key] = value
            elif kind is str:
                parameters.append(f' {key}="{_ESCAPED.sub(_escape, value) if _ESCAPED.search(value) else value}"')
                taken.add(key)
            elif kind is int:
                parameters.append(f' {key}="{value}"')
                taken.add(key)
            elif value is None or kind is float or kind is bool:
                parameters.append(f' {key}="{encode_value(value).decode()}"')
                taken.add(key)
            else:
                plain = to_plain(value)
                found = dict(_flatten(key, plain))
                if taken.isdisjoint(found) and all(map(_NAME.fullmatch, found)) and len(found) >= _count(plain):
                    parameters += [f' {name}="{_escaped(_get_text(item))}"' for name, item in found.items()]
                    taken.update(found)
                else:
                    rest[key] = plain
        return parameters, rest

    def _learn(self, key: str) -> bool:
        if not _NAME.fullmatch(key):
            return False
        if len(self._names) < _CACHED:
            self._names[key] = True
        return True

    def _cut(
        self, priority: str, moment: str, fields: list[str], elements: list[Element], text: str, size: int
    ) -> bytes:
        """A message that fits. What is short stays whole; the longest values, and the text, are cut to one length."""
        room = self._max_size - len(f"{priority}1 {moment}      ") - sum(map(len, fields))
        first = ""
        parts: list[tuple[str, bytes]] = []
        if elements:
            own = elements[0][1]
            essential = own.pop(0) if own and own[0].startswith(" id=") else ""
            first = f'{essential} truncated="{size}"'
            room -= sum([len(name) + 2 for name, _ in elements]) + len(first)
            parts = [(name, parameter.encode()) for name, parameters in elements for parameter in parameters]
        else:
            room -= 1
        if room < 2 * _SMALLEST:  # long names in the header: they give way
            room += sum([max(0, len(field) - 32) for field in fields])
            fields = [field[:32] for field in fields]
        body = text.encode()
        parts = parts[: max(0, room // _SMALLEST - 1)]
        limit = _share(room, [len(body), *(len(part) for _, part in parts)])
        written = {name: "" for name, _ in elements}
        for name, part in parts:
            if len(part) > limit:
                if part.startswith(b' payload="{') and name == self._event_id:
                    continue  # half a document is none
                part = _cut_text(part[:-1], limit - 1, escaped=True) + b'"'
            written[name] += part.decode()
        if elements:
            written[self._event_id] = first + written[self._event_id]
        structured = "".join([f"[{name}{inner}]" for name, inner in written.items() if inner]) or "-"
        head = f"{priority}1 {moment} {' '.join(fields)} {structured} "
        return head.encode() + (body if len(body) <= limit else _cut_text(body, limit))

    # ------------------------------------------------------------------ RFC 3164

    def _format_3164(self, event: LogEvent, _: str | None) -> bytes:
        priority = self._priorities.get(event.level) or self._get_priority(event.level)
        second = event.timestamp // 1
        if second != self._second:
            try:
                moment = time.localtime(second)
            except (OverflowError, ValueError, OSError):  # a year that the platform does not know
                moment = time.localtime()
            day, clock = f"{_MONTHS[moment.tm_mon - 1]} {moment.tm_mday:2d}", time.strftime("%H:%M:%S", moment)
            self._prefix, self._second = f"{day} {clock}", second
        host = f"{self._get_host(event)} " if self._has_host else ""
        process = self._get_process(event)
        process = "" if process == "-" else f"[{process}]"
        head = f"{priority}{self._prefix} {host}{self._get_app(event)}{process}: "
        data = f"{head}{_make_text(event)}".encode()
        return data if len(data) <= self._max_size else _cut_text(data, self._max_size)

    # ------------------------------------------------------------------ both

    def _get_priority(self, level: int) -> str:
        severity = next((number for lowest, number in self._severities if level >= lowest), 7)
        priority = f"<{self._facility * 8 + severity}>"
        if len(self._priorities) < _CACHED:
            self._priorities[level] = priority
        return priority

    def _get_timestamp(self, timestamp: float) -> str:
        offset = timestamp - self._second
        if not 0.0 <= offset < 0.9999995:
            text = format_timestamp(timestamp)
            self._prefix, self._second = text[:20], float(round(timestamp * 1e6) // 1_000_000)
            return text
        return f"{self._prefix}{int(offset * 1e6 + 0.5):06d}Z"


# ---------------------------------------------------------------------------------------------------- text


def _escape(match: re.Match[str]) -> str:
    found = match[0]
    if found in '"\\]':
        return f"\\{found}"
    # As JSON writes it, so that a value that is JSON stays JSON. Its backslash is one of the value.
    return _SHORT.get(found) or f"\\\\u{ord(found):04x}"


def _escaped(text: str) -> str:
    return _ESCAPED.sub(_escape, text)


def _make_text(event: LogEvent) -> str:
    # Where there is no structured data, the text says it all.
    text = _make_line(event)
    for block in (event.exception, event.stack):
        if block is not None and block.text:
            text = f"{text} {_CONTROL.sub(_name_control, block.text)}"
    return text


def _make_line(event: LogEvent) -> str:
    text = event_message(event)
    return text if text.isprintable() else _CONTROL.sub(_name_control, text)  # a tab


def _name_control(match: re.Match[str]) -> str:
    return repr(match[0])[1:-1]


def _describe_site(event: LogEvent, level: str) -> list[str]:
    meta = event.meta
    source = meta.source_path
    if source is not None and meta.source_line is not None:
        source = f"{source}:{meta.source_line}"
    named = (
        ("namespace", meta.event_namespace),
        ("event", meta.event_name),
        ("level", level),
        ("source", source),
        ("func", meta.source_func),
    )
    site = [f' {name}="{_escaped(value)}"' for name, value in named if value is not None]
    if event.level not in LEVEL_NAMES and level != f"Level {event.level}":
        site.append(f' level_no="{int(event.level)}"')
    return site


def _get_text(value: Any) -> str:
    return value if isinstance(value, str) else encode_value(value).decode()


def _flatten(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flatten(f"{name}.{key}", item)
    else:
        yield name, value


def _count(value: Any) -> int:
    return sum(map(_count, value.values())) if isinstance(value, dict) and value else 1


def _share(room: int, sizes: list[int]) -> int:
    """The limit to which each size has to be cut so that all together have room."""
    left = len(sizes)
    for size in sorted(sizes):
        if size * left > room:
            return room // left
        room -= size
        left -= 1
    return max(sizes)


def _cut_text(text: bytes, limit: int, *, escaped: bool = False) -> bytes:
    """The beginning of a text in UTF-8, and dots; no character and no escape sequence is cut in two."""
    text = text[: limit - len(_MARK)].decode(errors="ignore").encode()
    if escaped and (len(text) - len(text.rstrip(b"\\"))) % 2:
        text = text[:-1]
    return text + _MARK


# ---------------------------------------------------------------------------------------------------- the header


def _make_getter(
    option: str, text: str, limit: int, forbidden: re.Pattern[str] = _NOT_PRINTABLE
) -> Callable[[LogEvent], str]:
    def clean(text: str) -> str:
        return forbidden.sub("_", text)[:limit] or "-"

    template = EventTemplate(text, option=option)
    if template.is_constant:
        constant = clean(template.format(LogEvent(20, None, None, 0.0, {})))  # type: ignore[arg-type]
        return lambda event: constant
    known: dict[str, str] = {}

    def get(event: LogEvent) -> str:
        text = event.meta.event_name if template.text == "{event}" else template.format(event)
        found = known.get(text)
        if found is None:
            found = clean(text)
            if len(known) < _CACHED and len(text) < 1_000:
                known[text] = found
        return found

    return get


def _get_process(event: LogEvent) -> str:
    origin = event.origin
    return str(os.getpid() if origin is None or origin.process_id is None else int(origin.process_id))


def _find_program() -> str:
    path = sys.argv[0] if getattr(sys, "argv", None) else ""
    if os.path.basename(path) == "__main__.py":
        path = os.path.dirname(os.path.abspath(path))
    name = os.path.splitext(os.path.basename(path))[0]
    return (name if name not in ("", "-c", "-m") else "python").replace("{", "{{").replace("}", "}}")


# ---------------------------------------------------------------------------------------------------- options


def _parse_number(option: str, value: object, names: Mapping[str, int], highest: int) -> int:
    if isinstance(value, str):
        text = value.strip().lower()
        number = int(text) if text.isascii() and text.isdigit() else names.get(text)
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        raise TypeError(f"{option}: expected a name or a number, got {type(value).__name__}")
    if number is None or not 0 <= number <= highest:
        raise LogConfigurationError(
            f"{option}: {value!r} is neither a number from 0 to {highest} nor one of {', '.join(names)}",
            details={"path": option},
        )
    return number


def _parse_severities(given: Mapping[str | int, str | int] | Sequence[str] | None) -> dict[int, int]:
    found = dict(_DEFAULT_SEVERITIES)
    if given is None:
        return found
    if not isinstance(given, Mapping):
        if isinstance(given, str) or not all(isinstance(entry, str) and ":" in entry for entry in given):
            raise LogConfigurationError(
                "severity: expected a mapping of levels to severities, or texts like '25:notice'",
                details={"path": "severity"},
            )
        given = {level: value for level, _, value in (entry.partition(":") for entry in given)}
    for level, value in given.items():
        found[parse_level(level, path="severity")] = _parse_number("severity", value, SEVERITIES, 7)
    return found
