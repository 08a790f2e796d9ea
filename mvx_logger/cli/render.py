"""Events as lines of text for people and programs: what ``mvx-logger show`` prints."""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from ..formats.json import encode_event as encode_json
from ..formats.json import to_plain
from ..formats.logfmt import encode_event as encode_logfmt
from ..formats.text import level_name
from ..model import LogEvent
from ..sinks.sqlite_reader import StoreSummary

__all__ = ["LineWriter", "draw_summary", "format_value", "level_style", "make_writer", "render_pretty", "sparkline"]

LineWriter = Callable[[LogEvent], None]
"""Writes one event to the standard output."""

_LEVEL_STYLES = ((50, "bold white on red"), (40, "bold red"), (30, "yellow"), (20, "green"), (0, "dim"))
_OUTCOME_STYLES = {"success": "green", "failed": "red", "cancelled": "yellow"}
_BARE = re.compile(r'[^\s"=\\{}\[\],]+')
_BARS = "▁▂▃▄▅▆▇█"


def _escape(character: str) -> str:
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character)
    if short is not None:
        return short
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _safe(text: str) -> str:
    """The text on one line, with nothing in it that a terminal would act on instead of showing it: control characters,
    marks that reorder a line, half characters."""
    if text.isprintable():
        return text
    return "".join(
        # Other spaces than the one count as unprintable; the joiner holds emoji together.
        [c if c.isprintable() or c == "\u200d" or unicodedata.category(c) == "Zs" else _escape(c) for c in text]
    )


def _safe_lines(text: str) -> list[str]:
    return [_safe(line) for line in text.expandtabs(8).split("\n")]


def format_value(value: Any) -> str:
    """A payload's value on one line: bare text where that cannot be misread, else JSON."""
    if isinstance(value, str):
        if _BARE.fullmatch(value) and value not in ("true", "false", "null"):
            return _safe(value)
        return _safe(json.dumps(value, ensure_ascii=False))
    if isinstance(value, float) or value is None or isinstance(value, (bool, int)):
        return json.dumps(value)
    return _safe(json.dumps(to_plain(value), ensure_ascii=False, default=str))


def level_style(level: int) -> str:
    """The colour of a level."""
    for floor, style in _LEVEL_STYLES:
        if level >= floor:
            return style
    return "dim"


def _local_time(timestamp: float) -> tuple[str, str]:
    try:
        moment = datetime.fromtimestamp(timestamp)  # noqa: DTZ006 - people read their own clock
    except (OverflowError, OSError, ValueError):
        return "", str(timestamp)
    return moment.strftime("%Y-%m-%d"), moment.strftime("%H:%M:%S.") + f"{moment.microsecond // 1000:03d}"


def render_pretty(event: LogEvent, *, verbose: bool = False) -> Text:
    """One event for a terminal: a line, then its traceback and stack, indented.

    Args:
        event: Any event.
        verbose: Also say where in the program it was logged.
    """
    meta = event.meta
    level = level_name(event.level, event.origin)
    line = Text(no_wrap=True, overflow="ignore", end="")
    line.append(_local_time(event.timestamp)[1], "dim")
    line.append(" ")
    line.append(f"{_safe(level):<8}", level_style(event.level))
    line.append(" ")
    if meta.event_namespace:
        line.append(_safe(meta.event_namespace), "cyan")
        line.append(" ")
    if meta.entity_id is not None:
        line.append(f"#{_safe(meta.entity_id)} ", "magenta")
    first, *more = _safe_lines(event.message if event.message else meta.event_name)
    line.append(first, "bold")
    if event.event_outcome is not None:
        line.append(f" [{_safe(event.event_outcome)}]", _OUTCOME_STYLES.get(event.event_outcome, "blue"))
    for key, value in event.payload.items():
        line.append(f" {_safe(str(key))}=", "dim")
        line.append(format_value(value))
    if verbose:
        _append_origin(line, event)
    for text in more:
        line.append(f"\n    {text}", "bold")
    if event.stack is not None:
        for text in _safe_lines(event.stack.text):
            line.append(f"\n    {text}", "dim")
    if event.exception is not None:
        lines = _safe_lines(event.exception.text or f"{event.exception.type}: {event.exception.message}")
        for text in lines:
            line.append(f"\n    {text}", "red" if text and not text[0].isspace() else "dim red")
    return line


def _append_origin(line: Text, event: LogEvent) -> None:
    meta, origin = event.meta, event.origin
    parts = []
    if meta.source_path is not None:
        parts.append(f"{os.path.basename(meta.source_path)}:{meta.source_line} {meta.source_func or ''}".rstrip())
    if origin is not None:
        if origin.process_id is not None:
            parts.append(f"process {origin.process_id}")
        parts.extend(name for name in (origin.thread_name, origin.task_name) if name)
    if parts:
        line.append(f" ({_safe(', '.join(parts))})", "dim italic")


class _PrettyWriter:
    def __init__(self, console: Console, verbose: bool) -> None:
        self._console = console
        self._verbose = verbose
        self._day = ""

    def __call__(self, event: LogEvent) -> None:
        day = _local_time(event.timestamp)[0]
        if day != self._day:
            self._console.print(Text(f"── {day or 'no date'} ──", "dim"), soft_wrap=True)
            self._day = day
        self._console.print(render_pretty(event, verbose=self._verbose), soft_wrap=True)


def make_writer(output_format: str, console: Console, *, verbose: bool = False) -> LineWriter:
    """What writes events to standard output.

    Args:
        output_format: ``pretty``, ``json`` or ``logfmt``.
        console: Where ``pretty`` goes; the others are bytes, in UTF-8 whatever the locale.
        verbose: See `render_pretty`.
    """
    if output_format == "pretty":
        return _PrettyWriter(console, verbose)
    encode = encode_logfmt if output_format == "logfmt" else encode_json
    write = sys.stdout.buffer.write

    def write_line(event: LogEvent) -> None:
        write(encode(event) + b"\n")

    return write_line


def sparkline(counts: Sequence[int], highest: int | None = None) -> str:
    """Counts as a line of bars; a blank for none.

    Args:
        counts: One for each bar.
        highest: The count of the highest bar; by default the largest of ``counts``.
    """
    top = max(highest if highest is not None else max(counts, default=0), 1)
    last = len(_BARS) - 1
    return "".join(_BARS[min(last, (count * len(_BARS) - 1) // top)] if count else " " for count in counts)


def draw_summary(summary: StoreSummary, buckets: int) -> RenderableType:
    """Counts as a table: a row for each namespace, a column for each level, and a chart of their course.

    Args:
        summary: What was counted.
        buckets: Into how many stretches the time was divided.
    """
    if summary.first is None or summary.last is None:
        return Text("no events", "dim")
    levels = dict(sorted((count.level, count.level_name) for count in summary.counts))
    totals: dict[str, dict[int, int]] = {}
    courses: dict[str, list[int]] = {}
    course = [0] * buckets
    for count in summary.counts:
        name = count.namespace or "-"
        of_levels = totals.setdefault(name, {})
        of_levels[count.level] = of_levels.get(count.level, 0) + count.count
        place = min(buckets - 1, round((count.start - summary.first) / summary.bucket_seconds))
        courses.setdefault(name, [0] * buckets)[place] += count.count
        course[place] += count.count
    day, begin = _local_time(summary.first)
    last_day, end = _local_time(summary.last)
    until = end if day == last_day else f"{last_day} {end}"
    title = f"{summary.count} events, {day} {begin} to {until}, a bar is {_duration(summary.bucket_seconds)}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, expand=False)
    table.add_column("namespace", overflow="fold")
    for level, name in levels.items():
        table.add_column(_safe(name), justify="right", header_style=level_style(level), no_wrap=True)
    table.add_column("total", justify="right", no_wrap=True)
    table.add_column("course", no_wrap=True)
    for name in sorted(totals, key=lambda name: (-sum(totals[name].values()), name)):
        cells = [Text(str(totals[name].get(level, "")), level_style(level)) for level in levels]
        worst = level_style(max(totals[name]))
        table.add_row(
            Text(_safe(name), "cyan"), *cells, str(sum(totals[name].values())), Text(sparkline(courses[name]), worst)
        )
    if len(totals) > 1:
        sums = [str(sum(of_levels.get(level, 0) for of_levels in totals.values())) for level in levels]
        table.add_row("all", *sums, str(summary.count), sparkline(course), style="bold")
    return table


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1000:.3g} ms"
