"""Events as rows of a PostgreSQL table, in the form that ``COPY ... (FORMAT csv)`` reads; and rows as events.

A *mapping* says what stands in each column: the name of a field (see `FIELDS`), ``payload.KEY`` or ``payload.KEY.KEY`` for a
value of the payload, or a template with fields in braces (`mvx_logger.formats.template`). Values go as text, and PostgreSQL
makes of it whatever type the column has. What PostgreSQL cannot hold (the character NUL, halves of surrogate pairs,
characters that its encoding lacks) is written as an escape, ``\\x00``.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from ..errors import LogConfigurationError
from ..formats.json import (
    LogEventDecodeError,
    decode_event,
    encode_event,
    encode_value,
    format_timestamp,
    is_plain,
    level_name,
    to_plain,
)
from ..formats.template import EventTemplate
from ..formats.text import LEVEL_NAMES
from ..model import LogEvent, LogEventMeta, LogEventOrigin, LogException, LogStack

__all__ = [
    "DELIMITER",
    "EARLY",
    "FIELDS",
    "LATE",
    "POSTGRES_COLUMNS",
    "QUOTE",
    "RowDecoder",
    "RowEncoder",
    "check_columns",
]

FIELDS: Mapping[str, str] = {
    "delivery_id": "uuid NOT NULL",
    "timestamp": "timestamptz NOT NULL",
    "epoch": "double precision NOT NULL",
    "level": "integer NOT NULL",
    "level_name": "text NOT NULL",
    "namespace": "text",
    "event": "text NOT NULL",
    "entity_id": "text",
    "outcome": "text",
    "message": "text",
    "payload": "jsonb NOT NULL",
    "source_path": "text",
    "source_line": "integer",
    "source_func": "text",
    "traceback": "text",
    "exception": "jsonb",
    "stack": "jsonb",
    "origin": "jsonb",
    "original": "jsonb",
    "document": "jsonb NOT NULL",
}
"""The fields of an event, with the types of their columns in a table that is made here.

``epoch`` is the time in seconds since the epoch, ``traceback`` the exception's text, ``document`` the whole event as JSON;
``original`` is the same, but only where another column cannot tell all: NULL in nearly every row.
"""
POSTGRES_COLUMNS: Mapping[str, str] = {name: name for name in FIELDS if name not in ("epoch", "traceback", "document")}
"""The mapping that holds unless another one is given: each of these columns has the field of its own name."""

DELIMITER, QUOTE = "\2", "\1"
"""Characters that hardly any event holds: what has to be escaped is escaped, and what need not be is not searched."""
EARLY, LATE = "early", "late"
"""The names of what is before the year 2000 and after 2099, beside those of days."""

_INDEXED = frozenset(("namespace", "event", "entity_id"))
_MAX_INDEXED = 600
"""Characters. An entry of an index holds about 2,700 bytes: a longer text would be refused with its row."""
_UNLIMITED = 1 << 62
_INT_LIMITS = {"int2": 2**15, "int4": 2**31, "int8": 2**63}
# An escaped NUL, and not a backslash before "u0000".
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
_BEYOND_ASCII = re.compile("[^\0-\x7f]")

_encode = msgspec.json.Encoder().encode
_payload_decoder = msgspec.json.Decoder(dict[str, Any])
_exception_decoder = msgspec.json.Decoder(LogException)
_stack_decoder = msgspec.json.Decoder(LogStack)
_origin_decoder = msgspec.json.Decoder(LogEventOrigin)

Form = Callable[[Sequence[LogEvent]], list[str]]


def check_columns(columns: Any) -> dict[str, str]:
    """A mapping, checked.

    Args:
        columns: The names of columns, each with its field, ``payload.KEY`` or template; or that as a JSON object.

    Raises:
        LogConfigurationError: There is no such field, or a template is wrong.
        TypeError: It is no mapping of str to str.
    """
    if isinstance(columns, str):
        try:
            columns = msgspec.json.decode(columns)
        except msgspec.DecodeError as err:
            raise LogConfigurationError(
                f'columns: expected a mapping, or a JSON object like {{"at": "timestamp"}} ({err})',
                details={"path": "columns"},
                cause=err,
            ) from err
    if not isinstance(columns, Mapping):
        raise TypeError(f"columns: expected a mapping of column names to fields, got {type(columns).__name__}")
    if not columns:
        raise LogConfigurationError("columns: expected one column or more", details={"path": "columns"})
    for name, source in columns.items():
        if not isinstance(name, str) or not isinstance(source, str):
            raise TypeError(f"columns: expected a mapping of str to str, got {name!r}: {source!r}")
        path = f"columns.{name}"
        if "{" in source or "}" in source:
            EventTemplate(source, option=path)
        elif source not in FIELDS and not (source.startswith("payload.") and all(source.split("."))):
            raise LogConfigurationError(
                f"{path}: there is no field {source!r}; there are {', '.join(FIELDS)}, payload.KEY, and templates like "
                "'{namespace}.{event}'",
                details={"path": path},
            )
    return dict(columns)


class RowEncoder:
    """Makes rows of events. No content of an event makes it raise.

    It works column by column: most of what it does for a value costs less than a call.

    Args:
        columns: The mapping.
        types: The name of each column's type (``pg_type.typname``).
        encoding: The encoding of the database, as PostgreSQL calls it.

    Attributes:
        names: The columns, in the order of the values in a row.
        days: The days of the rows that were made last, as ``YYYYMMDD``, or `EARLY` or `LATE`; empty where there is no
            column for the time.
    """

    def __init__(self, columns: Mapping[str, str], types: Mapping[str, str], encoding: str = "UTF8") -> None:
        self.names = tuple(columns)
        self.days: set[str] = set()
        self._codec = _find_codec(encoding)
        self._ids: Sequence[str] = ()
        self._is_lossy = False
        self._clips = "original" in columns.values()
        self._forms = [self._make_form(source, types.get(name, "text")) for name, source in columns.items()]
        self._originals = [index for index, source in enumerate(columns.values()) if source == "original"]

    def encode(self, events: Sequence[LogEvent], ids: Sequence[str]) -> bytes:
        """Rows in CSV, each with an end of line, in UTF-8."""
        self.days = set()
        try:
            rows = self._make_rows(events, ids)
        except Exception:  # some event is out of the ordinary
            rows = [self._make_row(event, key) for event, key in zip(events, ids, strict=True)]
        return "".join(rows).encode()

    def _make_rows(self, events: Sequence[LogEvent], ids: Sequence[str]) -> list[str]:
        self._ids = ids
        self._is_lossy = False
        values = [form(events) for form in self._forms]
        if self._is_lossy and len(events) > 1:
            raise ValueError("which of them it is shows when they are taken one by one")
        if self._is_lossy:
            for index in self._originals:
                values[index] = [self._quote_json(encode_event(events[0]))]
        return [f"{DELIMITER.join(row)}\n" for row in zip(*values, strict=True)]

    def _make_row(self, event: LogEvent, key: str) -> str:
        try:
            (row,) = self._make_rows((event,), (key,))
        except Exception:  # a field of a type that it should not have
            (row,) = self._make_rows((decode_event(encode_event(event), lenient=True),), (key,))
        return row

    # ------------------------------------------------------------------ what is in a column

    def _make_form(self, source: str, kind: str) -> Form:
        if kind == "bytea":
            inner = self._make_form(source, "text")
            return lambda events: [_to_hex(value) for value in inner(events)]
        is_json = kind in ("json", "jsonb")
        if "{" in source:
            template = EventTemplate(source)
            return self._make_text(lambda event: template.format(event) or None, is_json=is_json)
        if source.startswith("payload."):
            return self._make_value(source.split(".")[1:], is_json=is_json)
        if source in _NUMBERS:
            return self._make_number(_NUMBERS[source], _INT_LIMITS.get(kind, 2**63))
        if source in _STRUCTS:
            get = _STRUCTS[source]
            return lambda events: [
                "" if (value := get(event)) is None else self._quote_json(_encode(value)) for event in events
            ]
        if source in _TEXTS:
            limit = _MAX_INDEXED if self._clips and source in _INDEXED else _UNLIMITED
            return self._make_text(_TEXTS[source], is_json=is_json, limit=limit)
        forms: dict[str, Form] = {
            "delivery_id": lambda _: list(self._ids),
            "timestamp": self._format_times,
            "epoch": lambda events: [repr(float(event.timestamp)) for event in events],
            "level_name": lambda events: [
                _LEVEL_NAMES.get(event.level) or self._quote(level_name(event.level, event.origin)) for event in events
            ],
            "payload": lambda events: [self._format_payload(event.payload) for event in events],
            "document": lambda events: [self._quote_json(encode_event(event)) for event in events],
            "original": lambda events: [""] * len(events),
        }
        form = forms[source]
        if is_json and source in ("delivery_id", "timestamp", "level_name"):
            return lambda events: [self._quote_json(_encode(value.strip(QUOTE))) for value in form(events)]
        return form

    def _make_text(self, get: Callable[[LogEvent], str | None], *, is_json: bool, limit: int = _UNLIMITED) -> Form:
        quote = self._quote
        if is_json:
            return lambda events: [
                "" if (value := get(event)) is None else self._quote_json(encode_value(value)) for event in events
            ]
        if self._codec is not None:
            return lambda events: ["" if (value := get(event)) is None else quote(value, limit) for event in events]
        # Most texts are printable, and then nothing in them has to be escaped.
        return lambda events: [
            ""
            if (value := get(event)) is None
            else f"\1{value}\1"
            if value.isprintable() and len(value) <= limit
            else quote(value, limit)
            for event in events
        ]

    def _make_number(self, get: Callable[[LogEvent], int | None], limit: int) -> Form:
        def clamp(number: int) -> int:
            if -limit <= number < limit:
                return number
            self._is_lossy = True
            return max(-limit, min(number, limit - 1))

        return lambda events: [
            "" if (number := get(event)) is None else f"{number if 0 <= number < 32768 else clamp(number):d}"
            for event in events
        ]

    def _make_value(self, keys: Sequence[str], *, is_json: bool) -> Form:
        def form(event: LogEvent) -> str:
            value: Any = event.payload
            for key in keys:
                value = value.get(key) if isinstance(value, Mapping) else None
                if value is None:
                    return ""
            if is_json:
                return self._quote_json(encode_value(value))
            plain = value if type(value) is float else to_plain(value)
            if isinstance(plain, bool):
                return "true" if plain else "false"
            if isinstance(plain, (int, float)):
                return repr(plain)
            return self._quote(plain) if isinstance(plain, str) else self._quote_json(encode_value(plain))

        return lambda events: [form(event) for event in events]

    def _format_times(self, events: Sequence[LogEvent]) -> list[str]:
        values: list[str] = []
        second, prefix = float("nan"), ""
        for event in events:
            timestamp = event.timestamp
            offset = timestamp - second
            if 0.0 <= offset < 0.9999995:
                values.append(f"{prefix}{int(offset * 1e6 + 0.5):06d}Z")
                continue
            try:
                text = format_timestamp(timestamp)
            except (OverflowError, ValueError):
                self._is_lossy = True
                is_late = timestamp > 0
                self.days.add(LATE if is_late else EARLY)
                is_number = timestamp == timestamp
                values.append(("infinity" if is_late else "-infinity") if is_number else "1970-01-01T00:00:00Z")
                continue
            second, prefix = float(round(timestamp * 1e6) // 1_000_000), text[:-7]
            year = int(text[:4])
            self.days.add(EARLY if year < 2000 else LATE if year > 2099 else text[:10].replace("-", ""))
            values.append(text)
        return values

    def _format_payload(self, payload: Any) -> str:
        for value in payload.values():
            if type(value) not in _PLAIN:
                if not is_plain(payload):
                    plain = to_plain(payload)
                    return self._quote_json(encode_value(plain if isinstance(plain, dict) else {"payload": plain}))
                break
        data = _encode(payload)
        if b"\\u0000" in data or self._codec is not None:
            return self._quote_json(data)
        return f"\1{data.decode()}\1"

    # ------------------------------------------------------------------ values in CSV

    def _quote(self, text: str, limit: int = _UNLIMITED) -> str:
        if len(text) > limit:
            self._is_lossy = True
            text = f"{text[: limit - 3]}..."
        text = text.replace("\0", "\\x00").replace("\1", "\1\1")
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-8", "backslashreplace").decode()
        return f"\1{text if self._codec is None else self._fit(text, '')}\1"

    def _quote_json(self, data: bytes) -> str:
        # It has no control characters, and so no quotes.
        if b"\\u0000" in data:
            data = _NUL.sub(rb"\1\\\\x00", data)
        text = data.decode()
        return f"\1{text if self._codec is None else self._fit(text, chr(92))}\1"

    def _fit(self, text: str, before: str) -> str:
        codec = self._codec or "utf-8"

        def fit(match: re.Match[str]) -> str:
            try:
                match[0].encode(codec)
            except UnicodeEncodeError:
                return before + match[0].encode("ascii", "backslashreplace").decode()
            return match[0]

        return text if text.isascii() else _BEYOND_ASCII.sub(fit, text)


_PLAIN = frozenset((str, int, float, bool, type(None)))
_LEVEL_NAMES = {level: f"\1{name}\1" for level, name in LEVEL_NAMES.items()}
_NUMBERS: Mapping[str, Callable[[LogEvent], int | None]] = {
    "level": attrgetter("level"),
    "source_line": attrgetter("meta.source_line"),
}
_STRUCTS: Mapping[str, Callable[[LogEvent], Any]] = {
    name: attrgetter(name) for name in ("exception", "stack", "origin")
}
_TEXTS: Mapping[str, Callable[[LogEvent], str | None]] = {
    "namespace": attrgetter("meta.event_namespace"),
    "event": attrgetter("meta.event_name"),
    "entity_id": attrgetter("meta.entity_id"),
    "outcome": attrgetter("event_outcome"),
    "message": attrgetter("message"),
    "source_path": attrgetter("meta.source_path"),
    "source_func": attrgetter("meta.source_func"),
    "traceback": lambda event: None if event.exception is None else event.exception.text,
}


def _to_hex(text: str) -> str:
    if text.startswith("\1"):
        text = text[1:-1].replace("\1\1", "\1")
    elif not text:
        return ""
    return f"\\x{text.encode().hex()}"


def _find_codec(encoding: str) -> str | None:
    # None: it holds every character.
    if encoding in ("UTF8", "SQL_ASCII"):
        return None
    name = re.sub("^WIN", "cp", encoding)
    try:
        return codecs.lookup(name).name
    except LookupError:
        return "ascii"


# ---------------------------------------------------------------------------------------------------- reading


class RowDecoder:
    """Makes events of rows.

    Args:
        columns: The mapping; what comes of templates and of values of the payload is not read.
        types: The types of the columns that are there; other columns are left out.

    Attributes:
        expressions: What to select, in this order, as SQL over quoted names.
        since: The condition that the time is not before the parameter ``$1``, in seconds; None where no column has it.

    Raises:
        LogConfigurationError: The columns do not tell enough of an event.
    """

    def __init__(self, columns: Mapping[str, str], types: Mapping[str, str], quote: Callable[[str], str]) -> None:
        self._fields: list[str] = []
        self.expressions: list[str] = []
        self.since: str | None = None
        for name, source in columns.items():
            if source not in FIELDS or source in self._fields or name not in types:
                continue
            expression = quote(name)
            if source == "timestamp" and types[name] in ("timestamptz", "timestamp", "date"):
                zone = "" if types[name] == "timestamptz" else " AT TIME ZONE 'UTC'"
                self.since = f"{expression} >= to_timestamp($1::float8){zone}"
                expression = f"extract(epoch FROM {expression})::float8"
            elif source == "epoch":
                expression = f"{expression}::float8"
                self.since = f"{expression} >= $1::float8"
            else:
                expression = f"{expression}::text"
            self._fields.append(source)
            self.expressions.append(expression)
        if not {"document", "event", "message"} & set(self._fields):
            raise LogConfigurationError(
                "columns: none of them has the field 'event', 'message' or 'document': the rows cannot be read as events",
                details={"path": "columns"},
            )

    def decode(self, row: Sequence[Any]) -> LogEvent | None:
        """The event of a row; None when the row is none."""
        found = dict(zip(self._fields, row, strict=True))
        for field in ("document", "original"):
            if found.get(field) is not None:
                try:
                    return decode_event(found[field])
                except LogEventDecodeError:
                    if field == "document" and len(found) == 1:
                        return None
        try:
            return _to_event(found)
        except (ValueError, TypeError, RecursionError):  # somebody else has written it
            return None


def _to_event(found: Mapping[str, Any]) -> LogEvent:
    get = found.get
    message = get("message")
    name = get("event", message)
    if name is None:
        raise ValueError("the row has no event")
    level = get("level")
    if level is None:
        names = {text: number for number, text in LEVEL_NAMES.items()}
        level = names.get(str(get("level_name")).upper(), 20)
    timestamp = get("timestamp", get("epoch"))
    line = get("source_line")
    payload = get("payload")
    return LogEvent(
        int(level),
        LogEventMeta(
            get("namespace"),
            name,
            get("entity_id"),
            get("source_path"),
            None if line is None else int(line),
            get("source_func"),
        ),
        get("outcome"),
        timestamp if isinstance(timestamp, float) else 0.0,
        {} if payload is None else _payload_decoder.decode(payload),
        message,
        None if get("exception") is None else _exception_decoder.decode(found["exception"]),
        None if get("stack") is None else _stack_decoder.decode(found["stack"]),
        None if get("origin") is None else _origin_decoder.decode(found["origin"]),
    )
