"""Dead letters: events that a sink has given up, for a person to look at, each with the reason.

A dead letter is the event itself, with one more key in its payload. So it passes through any sink and any format, and
what was written can be read, understood and logged again::

    for event in decode_lines(open("dead.jsonl", "rb")):
        event, facts = split_dead_letter(event)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct, structs

from ..errors import LogConfigurationError
from ..model import LogEvent
from ..protocols import LogSinkProto

__all__ = [
    "DEAD_LETTER_KEY",
    "DeadLetter",
    "OwnedSink",
    "as_dead_letter_sink",
    "is_dead_letter",
    "is_file_path",
    "make_dead_letter",
    "split_dead_letter",
]

DEAD_LETTER_KEY: Final = "_dead_letter"
"""The key of the payload under which a dead letter has its facts."""


class DeadLetter(Struct, frozen=True, kw_only=True):
    """Why an event was given up.

    Attributes:
        reason: A stable identifier, e.g. ``refused``: what `LogSinkStats` counts by.
        error: What the destination said, as ``TypeName: text`` without secrets; None where it said nothing.
        sink: Which sink has given it up.
        delivery_id: The id under which it was to be delivered.
        attempts: How often that was tried.
        at: When it was given up, in seconds since the epoch.
    """

    reason: str
    error: str | None
    sink: str
    delivery_id: str
    attempts: int
    at: float


def make_dead_letter(
    event: LogEvent, *, reason: str, error: str | None, sink: str, delivery_id: str, attempts: int, at: float
) -> LogEvent:
    """The event with the facts in its payload. The event itself stays as it is.

    Where the payload has the key already (a letter that another dead-letter sink has given up, too), what is there moves
    to the key with an underscore more, and `split_dead_letter` moves it back. Never raises for what an event holds.

    Args:
        event: The event that was given up.
        reason: See `DeadLetter`, as for all others.
        error: Without secrets: see `mvx_logger.masking.describe_error`.
        sink: The sink's name.
        delivery_id: The event's id.
        attempts: How often it was tried.
        at: Seconds since the epoch.
    """
    payload = {f"{key}_" if _is_ours(key) else key: value for key, value in _items(event.payload)}
    payload[DEAD_LETTER_KEY] = {
        "reason": reason,
        "error": error,
        "sink": sink,
        "delivery_id": delivery_id,
        "attempts": attempts,
        "at": at,
    }
    return structs.replace(event, payload=payload)


def is_dead_letter(event: LogEvent) -> bool:
    """True when the payload has the key of the facts; a quick look only."""
    return isinstance(event.payload, Mapping) and DEAD_LETTER_KEY in event.payload


def split_dead_letter(event: LogEvent) -> tuple[LogEvent, DeadLetter | None]:
    """Undo `make_dead_letter`.

    Returns:
        The event that was given up, and why; the event as it is, and None, where it is no dead letter.
    """
    if not is_dead_letter(event):
        return event, None
    try:
        letter = msgspec.convert(event.payload[DEAD_LETTER_KEY], _Facts)
    except msgspec.ValidationError:  # somebody else's key
        return event, None
    payload = {
        key[:-1] if _is_ours(key) else key: value for key, value in event.payload.items() if key != DEAD_LETTER_KEY
    }
    return structs.replace(event, payload=payload), DeadLetter(**structs.asdict(letter))


class _Facts(DeadLetter, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


def _is_ours(key: object) -> bool:
    """True for the key and what it was renamed to."""
    return isinstance(key, str) and key.startswith(DEAD_LETTER_KEY) and not key[len(DEAD_LETTER_KEY) :].strip("_")


def _items(payload: Any) -> list[tuple[str, Any]]:
    try:
        return list(dict(payload).items())
    except Exception:  # a mapping that fights back: the letter is worth more than it
        return [("payload", f"<{type(payload).__name__}>")]


class OwnedSink:
    """A dead-letter sink that whoever is given it has to close.

    Attributes:
        sink: The sink.
    """

    def __init__(self, sink: LogSinkProto) -> None:
        self.sink = sink

    def log(self, event: LogEvent) -> None:
        """Hand the event on."""
        self.sink.log(event)


def as_dead_letter_sink(value: Any) -> tuple[LogSinkProto, bool] | None:
    """What the option ``dead_letter`` of a sink stands for.

    Args:
        value: A sink, the path of a file (see `is_file_path` for a str), or None.

    Returns:
        The sink, and True when its owner is whoever has asked; None for None.

    Raises:
        TypeError: It is something else.
        LogConfigurationError: It is a str that is no path.
    """
    if value is None:
        return None
    if isinstance(value, OwnedSink):
        return value.sink, True
    if isinstance(value, str) and not is_file_path(value):
        # It is not quoted: a URL may hold a password.
        raise LogConfigurationError(
            "dead_letter: a str has to be the path of a file, with a '/' or a '.' in it; pass a sink as an object (only "
            "a configuration knows sinks by name or URL)",
            details={"path": "dead_letter"},
        )
    if isinstance(value, (str, os.PathLike)):
        from ..sinks.dead_letter import DeadLetterFile

        return DeadLetterFile(value), True
    if isinstance(value, type) or not isinstance(value, LogSinkProto):
        got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise TypeError(f"dead_letter: expected an object with log(event), the path of a file or None, got {got}")
    return value, False


def is_file_path(text: str) -> bool:
    """True when a str is meant as the path of a file: it has a directory or a suffix, and it is no URL.

    A name without both (``archive``) is a sink's in a configuration; a file of that name is ``./archive``.
    """
    scheme, colon, _ = text.partition(":")
    # A single letter is a drive of Windows.
    if colon and len(scheme) > 1 and scheme[0].isalpha() and all(char.isalnum() or char in "+-." for char in scheme):
        return False
    return "/" in text or "." in text or os.sep in text
