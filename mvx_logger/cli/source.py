"""Where ``mvx-logger show`` reads events from: event stores and JSON lines."""

from __future__ import annotations

import fnmatch
import gzip
import io
import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from heapq import heappush, heappushpop, nsmallest
from itertools import islice
from typing import Any, BinaryIO, Protocol
from urllib.parse import parse_qs, urlsplit

from msgspec import Struct, structs

from ..errors import LogConfigurationError, LoggerError
from ..formats.json import LogEventDecodeError, decode_event, encode_value
from ..formats.text import level_name
from ..masking import describe_error
from ..model import LogEvent
from ..sinks.file import FileLogSink
from ..sinks.sqlite import SqliteLogSink
from ..sinks.sqlite_reader import EventCount, StoreSummary, read_events, read_summary
from ..sinks.sqlite_store import SqliteStoreError

__all__ = ["EventFilter", "LineSource", "Source", "SourceError", "StoreSource", "in_order_of_time", "open_source"]

_SQLITE_MAGIC = b"SQLite format 3\x00"
_GZIP_MAGIC = b"\x1f\x8b"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_FILES: dict[str, tuple[Any, str]] = {"sqlite": (SqliteLogSink, "path"), "file": (FileLogSink, "file_path")}
"""The sinks whose destinations are files, and which of their options is the path."""
_POLL_INTERVAL = 0.2
_PATIENCE = 10  # polls
_MAX_STRETCHES = 4096


class SourceError(LoggerError):
    """A source cannot be read; the text says why."""

    reason_code = "source"


class EventFilter(Struct, frozen=True, kw_only=True):
    """Which events are wanted. The fields are the arguments of `mvx_logger.sinks.sqlite_reader.read_events`."""

    min_level: int | None = None
    namespace: str | None = None
    event: str | None = None
    entity_id: str | None = None
    outcome: str | None = None
    text: str | None = None
    since: float | None = None
    until: float | None = None
    payload: Mapping[str, str] | None = None

    def matches(self, event: LogEvent) -> bool:
        """True for an event that a store would find by the same filter."""
        meta = event.meta
        return (
            (self.min_level is None or event.level >= self.min_level)
            and (self.namespace is None or _is_below(meta.event_namespace, self.namespace))
            and (self.event is None or _fits(meta.event_name, self.event))
            and (self.entity_id is None or meta.entity_id == self.entity_id)
            and (self.outcome is None or event.event_outcome == self.outcome)
            and (self.since is None or event.timestamp >= self.since)
            and (self.until is None or event.timestamp < self.until)
            and (self.text is None or _contains(event, self.text))
            and all(_holds(event.payload, key, value) for key, value in (self.payload or {}).items())
        )


def _is_pattern(text: str) -> bool:
    return any(character in text for character in "*?[")


def _fits(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) if _is_pattern(pattern) else name == pattern


def _is_below(namespace: str | None, wanted: str) -> bool:
    if namespace is None:
        return False
    return _fits(namespace, wanted) or (not _is_pattern(wanted) and namespace.startswith(f"{wanted}."))


def _contains(event: LogEvent, text: str) -> bool:
    text = text.lower()
    meta = event.meta
    for field in (meta.event_namespace, meta.event_name, meta.entity_id, event.message):
        if field is not None and text in field.lower():
            return True
    if event.exception is not None and text in event.exception.text.lower():
        return True
    inside = encode_value(text).decode()[1:-1]
    return inside in encode_value(event.payload).decode().lower()


def _holds(payload: Mapping[str, Any], key: str, wanted: str) -> bool:
    return any(_reads_as(value, wanted) for value in _find(payload, key))


def _find(holder: Any, key: str) -> Iterator[Any]:
    # ``a.b`` may be one key or two; ``a.0`` a key or a place in a list.
    if isinstance(holder, Mapping) and key in holder:
        yield holder[key]
    head, dot, rest = key.partition(".")
    if not dot:
        if isinstance(holder, list) and key.isdigit() and int(key) < len(holder):
            yield holder[int(key)]
    elif isinstance(holder, Mapping) and head in holder:
        yield from _find(holder[head], rest)
    elif isinstance(holder, list) and head.isdigit() and int(head) < len(holder):
        yield from _find(holder[int(head)], rest)


def _reads_as(value: Any, wanted: str) -> bool:
    if isinstance(value, str):
        return value == wanted
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str) == wanted


class Source(Protocol):
    """Something that events can be read from."""

    can_be_followed: bool
    problems: int

    def read(self, wanted: EventFilter, *, limit: int | None = None, last: int | None = None) -> Iterator[LogEvent]:
        """The events that are there, one by one."""
        ...

    def follow(self, wanted: EventFilter, *, last: int) -> Iterator[LogEvent | None]:
        """The last ones that are there, then those that come; None where there is nothing for the moment."""
        ...

    def summarize(self, wanted: EventFilter, buckets: int) -> StoreSummary:
        """Counts by namespace and level over time."""
        ...


def open_source(name: str, *, report: Callable[[str], None], follow: bool = False) -> Source:
    """Find out what a source is, by its content.

    Args:
        name: A path, ``-`` for standard input, or the URL of a sink whose destination can be read.
        report: Told of each line that is no event.
        follow: The source may not be there yet.

    Raises:
        SourceError: There is no such source, or it cannot be read.
    """
    if name == "-":
        return LineSource(None, report)
    scheme = _SCHEME.match(name)
    if scheme is not None and scheme[1].lower() not in _FILES and not os.path.exists(name):
        return _open_reader(name)
    path, table = _locate(name)
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        if not follow:
            raise SourceError(f"{path}: no such file") from None
        # It is going to be made: what it will be is known by its name only.
        is_store = name.startswith("sqlite:") or path.endswith((".db", ".sqlite", ".sqlite3"))
        return StoreSource(path, table) if is_store else LineSource(path, report)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}", cause=error) from error
    if head == _SQLITE_MAGIC or (not head and name.startswith("sqlite:")):
        return StoreSource(path, table)
    return LineSource(path, report, compressed=head.startswith(_GZIP_MAGIC))


def _open_reader(url: str) -> ReaderSource:
    from ..bridge.config import plan_sink

    try:
        plan = plan_sink(url, path="source")
    except LogConfigurationError as error:
        raise SourceError(str(error), cause=error) from error
    parts = urlsplit(url)
    label = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    read_events = getattr(plan.sink_cls, "read_events", None)
    if read_events is None:
        raise SourceError(f"{label}: what is there cannot be read back by this command")
    return ReaderSource(label, partial(read_events, **plan.options))


def _locate(name: str) -> tuple[str, str]:
    for scheme, (sink_cls, option) in _FILES.items():
        if name.startswith(f"{scheme}:"):
            parts = urlsplit(name)
            try:
                options = sink_cls.options_from_url(parts)
            except LogConfigurationError as error:
                raise SourceError(str(error), cause=error) from error
            return options[option], parse_qs(parts.query).get("table", ["events"])[-1]
    return name, "events"


# ---------------------------------------------------------------------- stores


class StoreSource:
    """An event store that `SqliteLogSink` writes.

    Args:
        path: The file.
        table: The table in it.
    """

    can_be_followed = True
    problems = 0

    def __init__(self, path: str, table: str = "events") -> None:
        self._path = path
        self._table = table

    def read(self, wanted: EventFilter, *, limit: int | None = None, last: int | None = None) -> Iterator[LogEvent]:
        """See `Source.read`; `SqliteStoreError` when the file is no store."""
        found = read_events(self._path, table=self._table, limit=limit, last=last, **structs.asdict(wanted))
        return (event for _, event in found)

    def follow(self, wanted: EventFilter, *, last: int) -> Iterator[LogEvent | None]:
        """See `Source.follow`. A store that is deleted and made anew is read from its beginning."""
        options: dict[str, Any] = structs.asdict(wanted)
        after = failures = 0
        begun = False
        while True:
            try:
                newest = max((number for number, _ in read_events(self._path, table=self._table, last=1)), default=0)
                if newest < after:
                    after = 0
                part: dict[str, Any] = {"after_id": after} if begun else {"last": last}
                for number, event in read_events(self._path, table=self._table, **part, **options):
                    after = max(after, number)
                    yield event
                begun = True
                # What the filter kept out up to here need not be looked at again.
                after = max(after, newest)
                failures = 0
            except SqliteStoreError:
                # It is not there, or is just being made; for how long can that be so?
                failures = failures + 1 if os.path.exists(self._path) else 0
                if failures > _PATIENCE:
                    raise
            yield None

    def summarize(self, wanted: EventFilter, buckets: int) -> StoreSummary:
        """See `Source.summarize`."""
        return read_summary(self._path, table=self._table, buckets=buckets, **structs.asdict(wanted))


# ---------------------------------------------------------------------- other destinations


class ReaderSource:
    """What a sink's destination has, read by ``read_events`` of the sink's class.

    Args:
        label: The destination's name, without secrets.
        read_events: ``read_events(last=..., since=..., follow=...)``: see `read_events` of a sink that has it.
    """

    can_be_followed = True
    problems = 0

    def __init__(self, label: str, read_events: Callable[..., Generator[LogEvent | None]]) -> None:
        self._label = label
        self._read_events = read_events

    def read(self, wanted: EventFilter, *, limit: int | None = None, last: int | None = None) -> Iterator[LogEvent]:
        """See `Source.read`; `SourceError` when the destination cannot be read."""
        # The destination counts all events, and only those that fit are counted here.
        fits_all = wanted == EventFilter()
        found = self._read(last=last if fits_all else None, since=wanted.since)
        with closing(found):
            matching: Iterable[LogEvent] = (event for event in found if event is not None and wanted.matches(event))
            if last is not None and not fits_all:
                matching = deque(matching, maxlen=last)
            yield from matching if limit is None else islice(matching, limit)

    def follow(self, wanted: EventFilter, *, last: int) -> Iterator[LogEvent | None]:
        """See `Source.follow`."""
        with closing(self._read(last=last, since=wanted.since, follow=True)) as found:
            for event in found:
                if event is None or wanted.matches(event):
                    yield event

    def summarize(self, wanted: EventFilter, buckets: int) -> StoreSummary:
        """See `Source.summarize`."""
        return _count(self.read(wanted), buckets)

    def _read(self, **options: Any) -> Generator[LogEvent | None]:
        try:
            with closing(self._read_events(**options)) as found:
                yield from found
        except Exception as error:
            text = str(error) if isinstance(error, LoggerError) else describe_error(error)
            raise SourceError(f"{self._label}: {text}", cause=error) from error


# ---------------------------------------------------------------------- lines


class LineSource:
    """JSON lines, as `FileLogSink` and other JSON loggers write them.

    Args:
        path: The file; None is standard input.
        report: Told of each line that is no event.
        compressed: It was compressed by gzip.
    """

    def __init__(self, path: str | None, report: Callable[[str], None], *, compressed: bool = False) -> None:
        self._path = path
        self._report = report
        self._compressed = compressed
        self._label = "-" if path is None else path
        self.can_be_followed = not compressed
        self.problems = 0

    def read(self, wanted: EventFilter, *, limit: int | None = None, last: int | None = None) -> Iterator[LogEvent]:
        """See `Source.read`; `SourceError` when the file cannot be read."""
        found: Iterator[LogEvent] = (event for event in self._decode(self._lines()) if wanted.matches(event))
        if last is not None:
            found = iter(deque(found, maxlen=last))
        for number, event in enumerate(found):
            if number == limit:
                return
            yield event

    def follow(self, wanted: EventFilter, *, last: int) -> Iterator[LogEvent | None]:
        """See `Source.follow`. A file that is moved away, replaced or truncated (by a rotation) is followed on."""
        if self._path is None:
            for event in self._decode(sys.stdin.buffer):
                if wanted.matches(event):
                    yield event
            return
        first = True
        tail = _Tail(self._path)
        with closing(tail):
            while True:
                found = (event for event in self._decode(tail.read_lines()) if wanted.matches(event))
                yield from deque(found, maxlen=last) if first else found
                first = first and not tail.is_open
                yield None

    def summarize(self, wanted: EventFilter, buckets: int) -> StoreSummary:
        """See `Source.summarize`."""
        return _count(self.read(wanted), buckets)

    def _lines(self) -> Iterator[bytes]:
        if self._path is None:
            yield from sys.stdin.buffer
            return
        try:
            with open(self._path, "rb") as raw:
                yield from gzip.GzipFile(fileobj=raw) if self._compressed else raw
        except (OSError, EOFError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise SourceError(f"{self._path}: {reason or error}", cause=error) from error

    def _decode(self, lines: Iterable[bytes]) -> Iterator[LogEvent]:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield decode_event(line, lenient=True, line_number=number)
            except LogEventDecodeError as error:
                self.problems += 1
                self._report(f"{self._label}: {error}")


class _Tail:
    """Reads what is appended to a file, whole lines only, across its rotation."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""

    @property
    def is_open(self) -> bool:
        return self._file is not None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def read_lines(self) -> Iterator[bytes]:
        """The lines that have come since the last time."""
        if self._file is None and not self._open():
            return
        yield from self._read_on()
        if self._has_moved() and self._file is not None:
            # Whoever wrote to the old one may have finished a line meanwhile.
            yield from self._read_on()
            if self._rest:
                yield self._rest
            self._file.close()
            self._file = None
            self._rest = b""
            if self._open():
                yield from self._read_on()

    def _open(self) -> bool:
        try:
            self._file = open(self._path, "rb")  # noqa: SIM115 - closed by close()
        except FileNotFoundError:
            return False
        return True

    def _has_moved(self) -> bool:
        assert self._file is not None
        own = os.fstat(self._file.fileno())
        try:
            current = os.stat(self._path)
        except FileNotFoundError:
            return False  # between the two steps of a rotation
        return (own.st_dev, own.st_ino) != (current.st_dev, current.st_ino)

    def _read_on(self) -> Iterator[bytes]:
        file = self._file
        assert file is not None
        if os.fstat(file.fileno()).st_size < file.tell():
            file.seek(0, io.SEEK_SET)  # truncated in place
            self._rest = b""
        while chunk := file.read(1 << 16):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            yield from lines


def _count(events: Iterable[LogEvent], buckets: int) -> StoreSummary:
    """`read_summary` for a stream: memory does not grow with the number of events."""
    width = 1e-3
    counts: dict[tuple[str | None, int, str], dict[int, int]] = {}
    low, high = float("inf"), float("-inf")
    total = 0
    for event in events:
        total += 1
        moment = event.timestamp
        low, high = min(low, moment), max(high, moment)
        while (high - low) / width > _MAX_STRETCHES:
            width *= 2
            for group, stretches in counts.items():
                coarser: dict[int, int] = {}
                for stretch, count in stretches.items():
                    coarser[stretch // 2] = coarser.get(stretch // 2, 0) + count
                counts[group] = coarser
        own = counts.setdefault((event.meta.event_namespace, event.level, level_name(event.level, event.origin)), {})
        stretch = int(moment // width)
        own[stretch] = own.get(stretch, 0) + 1
    if not total:
        return StoreSummary(0, None, None, 0.0, ())
    step = max((high - low) / buckets * (1 + 1e-9), 1e-6)
    found: dict[tuple[int, str, int, str], int] = {}
    names: dict[str, str | None] = {}
    for (namespace, level, name), stretches in counts.items():
        names[namespace or ""] = namespace
        for stretch, count in stretches.items():
            bucket = min(buckets - 1, max(0, int((stretch * width - low) / step)))
            key = (bucket, namespace or "", level, name)
            found[key] = found.get(key, 0) + count
    return StoreSummary(
        total,
        low,
        high,
        step,
        tuple(
            EventCount(low + bucket * step, names[namespace], level, name, count)
            for (bucket, namespace, level, name), count in sorted(found.items())
        ),
    )


# ---------------------------------------------------------------------- order and time


def in_order_of_time(events: Iterable[LogEvent], window: int = 2_000) -> Iterator[LogEvent]:
    """Sort events that are nearly in order, as they come: each process delivers to a store in batches.

    Args:
        events: Any number; of equal times, the first comes first.
        window: How many places an event may be late.
    """
    heap: list[tuple[float, int, LogEvent]] = []
    error: Exception | None = None
    try:
        for number, event in enumerate(events):
            entry = (event.timestamp, number, event)
            if len(heap) < window:
                heappush(heap, entry)
            else:
                yield heappushpop(heap, entry)[2]
    except Exception as err:  # what came before is worth seeing
        error = err
    for entry in nsmallest(len(heap), heap):
        yield entry[2]
    if error is not None:
        raise error


def wait_for_more() -> None:
    """Wait until it is worth looking again."""
    time.sleep(_POLL_INTERVAL)
