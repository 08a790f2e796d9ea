"""Options that the sinks for log products share: named texts made of an event's fields, and who logs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence

from ..errors import LogConfigurationError
from ..formats.template import EventTemplate
from ..model import LogEvent

__all__ = [
    "NamedTemplates",
    "check_choice",
    "check_header_text",
    "fit",
    "format_templates",
    "get_program_name",
    "parse_templates",
    "to_microseconds",
]

_MAX_MICROSECONDS = (2**63 - 1) // 1_000

NamedTemplates = Mapping[str, str] | Sequence[str] | None
"""As an option: a mapping of names to templates, or a list of ``name=template``, which a URL can hold."""


def parse_templates(
    option: str,
    value: NamedTemplates,
    default: Mapping[str, str],
    *,
    name: re.Pattern[str] | None = None,
    expected: str = "",
    clean: Callable[[str], str] | None = None,
) -> dict[str, EventTemplate]:
    """Named templates as they are given in options.

    Args:
        option: The option's name, for errors.
        value: What was given; None means the default.
        default: What is there without it.
        name: What a name has to match.
        expected: What that is, in words.
        clean: Makes the text of each field fit for the destination.

    Raises:
        TypeError: It is neither a mapping nor a list of text.
        LogConfigurationError: A name or a template is malformed.
    """
    pairs: list[tuple[object, object]] = []
    if value is None:
        pairs.extend(default.items())
    elif isinstance(value, Mapping):
        pairs.extend(value.items())
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for item in value:
            if item == "":  # what an empty list is in a URL
                continue
            found_name, equals, text = item.partition("=") if isinstance(item, str) else ("", "", "")
            if not equals:
                raise _wrong(option, "expected a mapping, or a list of 'name=template'")
            pairs.append((found_name, text))
    else:
        raise TypeError(f"{option}: expected a mapping or a list, got {type(value).__name__}")
    found: dict[str, EventTemplate] = {}
    for key, template in pairs:
        if not isinstance(key, str) or not key or (name is not None and not name.fullmatch(key)):
            raise _wrong(option, f"{key!r} is no name: expected {expected or 'text that is not empty'}")
        found[key] = EventTemplate(template, clean=clean, option=f"{option}.{key}")  # type: ignore[arg-type]
    return found


def format_templates(templates: Mapping[str, EventTemplate], event: LogEvent) -> dict[str, str]:
    """The texts for an event, without those that are empty."""
    found = {}
    for name, template in templates.items():
        text = template.format(event)
        if text:
            found[name] = fit(text)
    return found


def to_microseconds(timestamp: float) -> int:
    """A time as whole microseconds; 0 where it is none that anybody means (in nanoseconds, 64 bits have to hold it)."""
    try:
        microseconds = round(timestamp * 1e6)
    except (OverflowError, ValueError):  # infinite, or no number
        return 0
    return microseconds if -_MAX_MICROSECONDS <= microseconds <= _MAX_MICROSECONDS else 0


def fit(text: str) -> str:
    """Text that UTF-8 can hold."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def get_program_name() -> str:
    """What the program that runs is called: its file without ``.py``, its package where that was run, or ``python``."""
    path = sys.argv[0] if sys.argv else ""
    name = os.path.basename(path)
    if name == "__main__.py":
        name = os.path.basename(os.path.dirname(path))
    name = name.removesuffix(".py")
    return name if name and not name.startswith("-") else "python"


def check_header_text(option: str, value: object, *, required: bool = False) -> None:
    """Check an option that becomes the value of a header; it may be a secret, and is not quoted.

    Raises:
        TypeError: It is no text.
        LogConfigurationError: It is empty or has characters that a header cannot hold.
    """
    if value is None and not required:
        return
    if not isinstance(value, str):
        raise TypeError(f"{option}: expected a str, got {type(value).__name__}")
    if not value or not value.isascii() or not value.isprintable() or value != value.strip():
        raise _wrong(option, "expected printable ASCII characters, and at least one")


def check_choice(option: str, value: object, choices: Sequence[str]) -> None:
    """Check an option that is one of a few texts.

    Raises:
        LogConfigurationError: It is not.
    """
    if value not in choices:
        raise _wrong(option, f"{value!r} is not one of {', '.join(choices)}")


def _wrong(option: str, text: str) -> LogConfigurationError:
    return LogConfigurationError(f"{option}: {text}", details={"path": option})
