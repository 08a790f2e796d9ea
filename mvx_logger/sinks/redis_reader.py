"""Reads back what `RedisLogSink` has written to streams."""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from ..formats.json import LogEventDecodeError, decode_event
from ..formats.template import EventTemplate
from ..model import LogEvent
from .redis_client import RedisPlace, encode_key, make_reading_client

__all__ = ["read_streams"]

_PAGE = 500
_CLOCKS_DIFFER = 60.0
"""Seconds by which the clock of the server may be behind that of whoever logs."""


def read_streams(
    place: RedisPlace, template: EventTemplate, *, last: int | None, since: float | None, follow: bool
) -> Iterator[LogEvent | None]:
    """See `RedisLogSink.read_events`.

    Args:
        place: The server.
        template: The template of the streams' keys.
        last: Only the newest so many.
        since: Skip what is older, in seconds since the epoch.
        follow: Never end.
    """
    first = "-" if since is None else f"{max(0, int((since - _CLOCKS_DIFFER) * 1000))}-0"
    with closing(make_reading_client(place)) as client:
        following: dict[bytes, str] = {}  # the lowest id that was not read yet, by key
        is_first = True
        heard = time.monotonic()
        while True:
            keys = (
                [encode_key(template.replace_fields(""))] if template.is_constant else _find_streams(client, template)
            )
            found: Any
            if is_first and last is not None:
                newest = [_read_newest(client, key, first, last, following) for key in keys]
                found = sorted(entry for entries in newest for entry in entries)[-last:] if last > 0 else []
            else:
                found = heapq.merge(*[_read_pages(client, key, first, following, bounded=is_first) for key in keys])
            is_first = False
            for *_, body in found:
                try:
                    yield decode_event(body)
                except LogEventDecodeError:
                    continue
                heard = time.monotonic()
            if not follow:
                return
            if time.monotonic() - heard >= 0.5:
                yield None
                heard = time.monotonic()
            time.sleep(0.1)


Entry = tuple[int, int, bytes, bytes]
"""The two numbers of the id, the key, the text of the event."""


def _read_pages(client: Any, key: bytes, first: str, following: dict[bytes, str], *, bounded: bool) -> Iterator[Entry]:
    stop = "+"
    if bounded:  # else it might never end while events come
        newest = client.xrevrange(key, count=1)
        if not newest:
            return
        stop = newest[0][0]
    while page := client.xrange(key, min=following.get(key, first), max=stop, count=_PAGE):
        for entry in _to_entries(key, page):
            following[key] = f"{entry[0]}-{entry[1] + 1}"
            yield entry
        if len(page) < _PAGE:
            return


def _read_newest(client: Any, key: bytes, first: str, last: int, following: dict[bytes, str]) -> list[Entry]:
    entries = list(_to_entries(key, client.xrevrange(key, min=first, count=max(last, 1))))
    if entries:
        following[key] = f"{entries[0][0]}-{entries[0][1] + 1}"
    return entries


def _to_entries(key: bytes, page: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> Iterator[Entry]:
    for entry_id, fields in page:
        milliseconds, _, number = entry_id.decode().partition("-")
        yield int(milliseconds), int(number), key, fields.get(b"event", b"")


def _find_streams(client: Any, template: EventTemplate) -> list[bytes]:
    pattern = template.replace_fields("*", clean=lambda text: re.sub(r"([\\*?\[\]^-])", r"\\\1", text))
    return sorted(set(client.scan_iter(match=encode_key(pattern), count=_PAGE, _type="stream")))
