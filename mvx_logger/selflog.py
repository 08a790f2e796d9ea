"""The one place where the logger tells of its own trouble.

Reports go to ``sys.stderr`` as one line each, at most one of a kind per interval; what was held back is counted and
told with the next line of that kind. A report never raises, never takes a lock, and never recurses: a report that is
made while one is being written (because ``sys.stderr`` or the redirection logs) is dropped.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from msgspec import Struct

__all__ = ["SelfLogReport", "get_interval", "redirect", "report", "set_interval", "write_line"]


class SelfLogReport(Struct, frozen=True):
    """One report of the logger about itself.

    Attributes:
        kind: A stable identifier, e.g. ``"recursion"``; the rate limit counts by it.
        message: One sentence for a person.
        fields: Plain data; never a secret.
        suppressed: How many reports of the kind were held back since the last one that was told.
        timestamp: Seconds since the epoch.
    """

    kind: str
    message: str
    fields: Mapping[str, Any]
    suppressed: int
    timestamp: float

    def to_line(self) -> str:
        """The report as one line of text, without a newline."""
        parts = [f"mvx-logger: {self.kind}: {self.message}"]
        parts.extend(f"{key}={value!r}" for key, value in self.fields.items())
        if self.suppressed:
            parts.append(f"({self.suppressed} more of this kind were not shown)")
        return " ".join(parts).replace("\n", "\\n").replace("\r", "\\r")


SelfLogTarget = Callable[[SelfLogReport], object]

_interval = 10.0
_ending = False
_target: SelfLogTarget | None = None
_told: dict[str, float] = {}
_held_back: dict[str, int] = {}
_clock: Callable[[], float] = time.monotonic


class _Reporting(threading.local):
    value = False


_reporting = _Reporting()


def redirect(target: SelfLogTarget | None) -> SelfLogTarget | None:
    """Send reports somewhere else; None sends them to ``sys.stderr`` again.

    Args:
        target: Called with each `SelfLogReport` that passes the rate limit. What it raises is ignored.

    Returns:
        The target that was set before.
    """
    global _target
    if target is not None and not callable(target):
        raise TypeError(f"target: expected a callable or None, got {type(target).__name__}")
    previous, _target = _target, target
    return previous


def get_interval() -> float:
    """Seconds in which at most one report of a kind is told."""
    return _interval


def set_interval(seconds: float) -> None:
    """Set in how many seconds at most one report of a kind is told (default 10; 0 tells all)."""
    global _interval
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"seconds: expected a number, got {type(seconds).__name__}")
    if not seconds >= 0:
        raise ValueError(f"seconds: expected 0 or more, got {seconds}")
    _interval = float(seconds)


def prepare_for_exit() -> None:
    """Tell that the interpreter is about to end: from now on other threads than the main one hold no stream's lock."""
    global _ending
    _ending = True


def report(kind: str, message: str, *, limit: bool = True, **fields: Any) -> None:
    """Tell of trouble.

    Args:
        kind: A stable identifier; the rate limit counts by it.
        message: One sentence for a person.
        limit: False tells the report whatever the rate limit says: for callers with a limit of their own.
        fields: Plain data; never a secret.
    """
    if _reporting.value:
        return
    try:
        _reporting.value = True
        now = _clock()
        if limit:
            last = _told.get(kind)
            if last is not None and now - last < _interval:
                _held_back[kind] = _held_back.get(kind, 0) + 1
                return
        _told[kind] = now
        entry = SelfLogReport(kind, message, fields, _held_back.pop(kind, 0), time.time())
        target = _target
        if target is not None:
            target(entry)
        else:
            _write_line(entry.to_line())
    except Exception:  # noqa: S110 - there is nobody left to tell
        pass
    finally:
        _reporting.value = False


def write_line(stream: TextIO, line: str) -> None:
    """Write a line to a text stream and flush it; what its encoding cannot hold is escaped.

    Raises:
        Exception: What the stream raises: ValueError when it is closed, OSError when nobody reads it any more.
    """
    try:
        stream.write(f"{line}\n")
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        stream.write(f"{line}\n".encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def _write_line(line: str) -> None:
    streams: tuple[TextIO | None, ...] = (sys.stderr, sys.__stderr__)
    for stream in streams:
        if stream is None:
            continue
        try:
            if _ending and threading.current_thread() is not threading.main_thread():
                # The interpreter stops daemon threads where they are. One that held the stream's lock then would make
                # it abort when it flushes the stream.
                os.write(stream.fileno(), f"{line}\n".encode("utf-8", "backslashreplace"))
            else:
                write_line(stream, line)
        except Exception:  # noqa: S112 - closed or broken: try the next
            continue
        return
