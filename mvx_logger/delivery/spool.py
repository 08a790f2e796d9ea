"""The spool: a queue of log events on disk that survives ``kill -9`` at any instruction.

In its directory, each *epoch* (one life of one spool in one process; see `mvx_logger.delivery.ids`) has files of its own,
so that no two processes ever write to the same one:

``<epoch>.cursor``
    The claim and the progress. Whoever holds the lock on it owns the epoch; the operating system releases it when the
    owner dies, and then any other spool with the same label may take the epoch over. After a header with the label come
    two slots, each of which holds the number of the first unconfirmed event and a CRC-32. They are written in turns: a
    torn write leaves the other one. The larger number counts.
``<epoch>.<number>.segment``
    A header, then records. Only ever appended to, and removed as soon as all its events are confirmed.
``<epoch>.<number>.dropped``
    In the place of a segment that was dropped to make room, while events before it are on their way.
``*.corrupt``, ``*.unsupported``
    Segments that were set aside: damaged, or written by another version of the package. They are never read again.

A record is what one call appended: marker, CRC-32 of the header, length, CRC-32 of the body, number of the first event,
count, time (little endian), then the events as a MessagePack array. It is written by one ``write`` in append mode. An append
that fails is taken back; one that a crash has cut short is passed over, because it had not returned. Behind a damaged
record, the next one is found by its marker, and how many events are gone follows from their numbers. The checksums of
headers begin with the name of the file, so that a record counts in its own file only, whatever events may hold.

Why not SQLite in WAL mode: ``benchmarks/spool.py``. An append is one system call there, not a transaction of several; a
confirmed event costs nothing to remove; and no vacuum is needed to give space back.

The lock is one of POSIX (``fcntl.lockf``), because a forked child does not inherit it. Its price: it is lost when this
process closes any other descriptor of the same file. So every use of a cursor file in this process goes by `_claims`, and no
other code should open these files in a process that spools into them.
"""

from __future__ import annotations

import errno
import math
import os
import re
import stat
import struct
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import chain
from typing import Any
from weakref import ref

import msgspec
from msgspec import Struct

from .. import selflog
from ..errors import LoggerError
from ..formats.json import decode_event, encode_event, is_plain, to_plain
from ..model import LogEvent, LogEventMeta, LogEventOrigin, LogException, LogStack
from .ids import MAX_SEQUENCE, id_prefix, new_epoch

if sys.platform == "win32":
    import msvcrt

    def _try_lock(fd: int) -> bool:
        # Locked bytes cannot be read by others there: one far behind the end stands for the file.
        os.lseek(fd, 1 << 30, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _read_at(fd: int, size: int, offset: int) -> bytes:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size)

    def _write_at(fd: int, data: bytes, offset: int) -> None:
        os.lseek(fd, offset, os.SEEK_SET)
        os.write(fd, data)

else:
    import fcntl

    def _try_lock(fd: int) -> bool:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _read_at(fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def _write_at(fd: int, data: bytes, offset: int) -> None:
        if os.pwrite(fd, data, offset) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


__all__ = [
    "Spool",
    "SpoolBatch",
    "SpoolBusyError",
    "SpoolError",
    "SpoolFullError",
    "SpoolRun",
    "iter_spool",
    "list_spool_labels",
]

_VERSION = 1
_CURSOR_MAGIC = b"mvxcursr"
_SEGMENT_MAGIC = b"mvxspool"
# Every header begins with magic, version and its own size, and ends with its CRC-32: so much stays in other versions.
_PREFIX = struct.Struct("<8sHH")
_CRC = struct.Struct("<I")
_SEGMENT_HEADER = struct.Struct("<8sHHIQd")  # ... CRC-32 of the label, number of the first event, time
_SEGMENT_HEADER_SIZE = _SEGMENT_HEADER.size + _CRC.size
_SLOT = struct.Struct("<QI")
# A page of its own for each: what tears one does not reach the other.
_SLOTS = (4096, 8192)
_CURSOR_SIZE = _SLOTS[1] + _SLOT.size
_MAX_LABEL = 1000

_MARKER = b"\xc1mvR"  # 0xC1 has no meaning in MessagePack, nor in UTF-8
_RECORD = struct.Struct("<4sIIIQId")
_RECORD_TAIL = struct.Struct("<IIQId")  # length and CRC-32 of the body, first number, count, time
_RECORD_SIZE = _RECORD.size
_ARRAY_HEADER_SIZES = {0xDC: 3, 0xDD: 5}  # of a MessagePack array; of a short one: 1
_MAX_RECORD = 1 << 20
_CHUNK = 1 << 18
_MERGED_RECORDS = 1000
_MERGED_BYTES = 1 << 17
"""So many records, or bytes of them, are read at a time where they are small."""
_MAX_EPOCHS = 100
"""So many epochs are owned at a time: each keeps a file open."""
_MAX_EXPIRED = 1000
"""Records that may expire in one call of `Spool.read`: the caller has other things to do."""

_EPOCH = r"[0-9a-f]{12}8[0-9a-f]{3}[89ab][0-9a-f]{5}"
_FILE_NAME = re.compile(rf"({_EPOCH})\.(?:cursor|(\d{{8,18}})\.(segment|dropped))")

_OPEN_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_datasync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)

_Identity = tuple[int, int]


class SpoolError(LoggerError, OSError):
    """A spool cannot be used, or not for this; the text names its directory or file and what is wrong."""

    reason_code = "spool"

    def __init__(self, path: str, message: str, *, cause: BaseException | None = None, **details: Any) -> None:
        super().__init__(f"{path}: {message}", details={"path": path, **details}, cause=cause)


class SpoolFullError(SpoolError):
    """The events would exceed ``max_bytes``; none of them is in the spool.

    Attributes:
        need_bytes: How many bytes they take: for `Spool.drop_oldest`.
    """

    reason_code = "spool_full"

    def __init__(self, path: str, need_bytes: int, max_bytes: int) -> None:
        super().__init__(path, f"{need_bytes} more bytes would exceed the limit of {max_bytes}", need_bytes=need_bytes)
        self.need_bytes = need_bytes


class SpoolBusyError(SpoolError):
    """The call came from inside of another one in the same thread (a signal handler, a finalizer): nothing was done."""

    reason_code = "spool_busy"


class SpoolRun(Struct, frozen=True):
    """Consecutive events; the id of the event number ``i`` of the run is ``f"{prefix}{first + i:010x}"``.

    Attributes:
        prefix: What the ids of its epoch have in common (`mvx_logger.delivery.ids.id_prefix`).
        first: The number of the first event in its epoch.
        count: How many they are.
    """

    prefix: str
    first: int
    count: int


class SpoolBatch(Struct, frozen=True):
    """What `Spool.read` hands out.

    Attributes:
        events: The events, oldest first; none where all that came up had expired.
        run: Their ids, for `Spool.confirm`.
        recovered: True when they were spooled in an earlier life or by another process.
        expired: How many events were given up since the last batch because they were older than ``max_age``.
    """

    events: tuple[LogEvent, ...]
    run: SpoolRun
    recovered: bool
    expired: int


# ---------------------------------------------------------------------------------------------------- events as bytes


class _Row(Struct, array_like=True, gc=False):
    level: int
    timestamp: float
    namespace: str | None
    name: str
    entity_id: str | None
    outcome: str | None
    payload: dict[str, Any]
    message: str | None = None
    path: str | None = None
    line: int | None = None
    func: str | None = None
    exception: LogException | None = None
    stack: LogStack | None = None
    origin: LogEventOrigin | None = None


_PLAIN = frozenset((str, int, float, bool, type(None), bytes))
_BIG_INT = 1
_MAX_DEPTH = 100


def _from_extension(code: int, data: memoryview) -> Any:
    return int.from_bytes(data, "little", signed=True) if code == _BIG_INT else bytes(data)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[_Row], ext_hook=_from_extension)
_row_decoder = msgspec.msgpack.Decoder(_Row, ext_hook=_from_extension)
_raw_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_any_decoder = msgspec.msgpack.Decoder(list[Any], ext_hook=_from_extension)


def _encode(events: Sequence[LogEvent]) -> bytes:
    """Events as a MessagePack array. Never raises for what an event holds."""
    try:
        # What msgspec would write in words of its own (dates, sets, objects, ...) takes the long way.
        if len(events) == 1:
            for value in events[0].payload.values():
                if type(value) not in _PLAIN:
                    return _encode_one_by_one(events)
        elif not _PLAIN.issuperset(set(map(type, chain.from_iterable([event.payload.values() for event in events])))):
            return _encode_one_by_one(events)
        return _encoder.encode(list(map(_to_row, events)))
    except Exception:  # a lone surrogate, a huge int, a cycle
        return _encode_one_by_one(events)


def _encode_one_by_one(events: Sequence[LogEvent]) -> bytes:
    return _encoder.encode([msgspec.Raw(_encode_event(event)) for event in events])


def _encode_event(event: LogEvent) -> bytes:
    try:
        row = _to_row(event)
        payload = event.payload
        for value in payload.values():
            if type(value) not in _PLAIN:
                if not is_plain(payload):
                    row = (*row[:6], _tame(payload, ()), *row[7:])
                break
        return _encoder.encode(row)
    except Exception:
        return _encode_slowly(event)


def _to_row(event: LogEvent) -> tuple[Any, ...]:
    meta = event.meta
    return (
        event.level + 0,  # msgspec is slow at enums
        event.timestamp,
        meta.event_namespace,
        meta.event_name,
        meta.entity_id,
        event.event_outcome,
        event.payload,
        event.message,
        meta.source_path,
        meta.source_line,
        meta.source_func,
        event.exception,
        event.stack,
        event.origin,
    )


def _encode_slowly(event: LogEvent) -> bytes:
    try:
        return _encoder.encode([_tame(value, ()) for value in _to_row(event)])
    except Exception:  # not even its fields are what they should be
        return _encoder.encode((20, 0.0, None, "unreadable", None, None, {"event": _tame(event, ())}))


def _tame(value: Any, parents: tuple[int, ...]) -> Any:
    """What MessagePack can hold of a value: as it is where it can, else in the words of `mvx_logger.formats.json`."""
    kind = type(value)
    if value is None or kind is bool or kind is float or kind is bytes:
        return value
    if kind is int:
        if -(2**63) <= value < 2**64:
            return value
        return msgspec.msgpack.Ext(_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))
    if kind is str:
        return to_plain(value)
    try:
        if kind is dict or kind is list or kind is tuple:
            if len(parents) < _MAX_DEPTH and id(value) not in parents:
                parents = (*parents, id(value))
                if kind is dict:
                    return {next(iter(to_plain({key: 0}))): _tame(item, parents) for key, item in list(value.items())}
                return [_tame(item, parents) for item in list(value)]
            return f"<{kind.__name__}>"
        if kind is LogException or kind is LogStack or kind is LogEventOrigin:
            return {name: _tame(getattr(value, name), parents) for name in value.__struct_fields__}
        # What comes of it is made of the kinds above.
        return _tame(to_plain(value), parents)
    except Exception:
        return f"<{kind.__name__}>"


def _decode(body: bytes) -> list[LogEvent]:
    """The events that `_encode` wrote.

    Raises:
        Exception: It did not write this.
    """
    rows: list[_Row]
    try:
        rows = _decoder.decode(body)
    except msgspec.ValidationError:  # fields of the wrong type pass the encoder
        return [_decode_event(raw) for raw in _raw_decoder.decode(body)]
    return _from_rows(rows)


def _from_rows(rows: list[_Row]) -> list[LogEvent]:
    return [
        LogEvent(
            row.level,
            LogEventMeta(row.namespace, row.name, row.entity_id, row.path, row.line, row.func),
            row.outcome,
            row.timestamp,
            row.payload,
            row.message,
            row.exception,
            row.stack,
            row.origin,
        )
        for row in rows
    ]


def _decode_event(raw: msgspec.Raw) -> LogEvent:
    try:
        return _from_rows([_row_decoder.decode(raw)])[0]
    except msgspec.ValidationError:
        pass
    try:
        row = _any_decoder.decode(raw)
        # JSON puts each field into words that fit.
        return decode_event(encode_event(_from_rows([_Row(*row)])[0]), lenient=True)
    except Exception:
        return LogEvent(20, LogEventMeta(None, "unreadable"), None, 0.0, {"event": bytes(raw)})


# ---------------------------------------------------------------------------------------------------- files


def _get_seed(text: str) -> int:
    return zlib.crc32(text.encode())


def _seal(header: bytes, seed: int) -> bytes:
    return header + _CRC.pack(zlib.crc32(header, seed))


def _check_header(data: bytes, magic: bytes, seed: int) -> int | None:
    """The version that a header says; None when it is damaged."""
    if len(data) < _PREFIX.size:
        return None
    found, version, size = _PREFIX.unpack_from(data)
    if found != magic or not _PREFIX.size + _CRC.size <= size <= len(data):
        return None
    if data[size - _CRC.size : size] != _CRC.pack(zlib.crc32(data[: size - _CRC.size], seed)):
        return None
    return int(version)


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        step = os.write(fd, data[written:])
        if not step:
            raise OSError(errno.EIO, "nothing was written")
        written += step


def _sync_directory(directory: str) -> None:
    if hasattr(os, "O_DIRECTORY"):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | _OPEN_FLAGS)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _get_identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _is_at(path: str, identity: _Identity) -> bool:
    try:
        return _get_identity(os.lstat(path)) == identity
    except OSError:
        return False


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:  # what cannot be removed is found again, and all of it is confirmed or void
        pass


def _close_quietly(fd: int) -> None:
    if fd >= 0:
        try:
            os.close(fd)
        except OSError:
            pass


def _create(path: str, flags: int) -> int:
    """Create a file and open it; interrupted (by a signal handler that raises), there is neither file nor descriptor."""
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL | _OPEN_FLAGS, 0o600)
    except OSError:
        raise
    except BaseException:
        # The system call may be done, and its result is lost: a descriptor that nobody else could close.
        with suppress(OSError):
            identity = _get_identity(os.stat(path))
            for fd in map(int, os.listdir("/dev/fd")):
                with suppress(OSError):
                    if _get_identity(os.fstat(fd)) == identity:
                        os.close(fd)
            os.unlink(path)
        raise


def _list(directory: str) -> tuple[set[str], dict[str, list[tuple[int, str]]]]:
    """The epochs that have a cursor, and number and kind of the files of each epoch that has others."""
    cursors: set[str] = set()
    others: dict[str, list[tuple[int, str]]] = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            match = _FILE_NAME.fullmatch(entry.name)
            if match is None or not entry.is_file(follow_symlinks=False):
                continue
            if match[2] is None:
                cursors.add(match[1])
            else:
                others.setdefault(match[1], []).append((int(match[2]), match[3]))
    for files in others.values():
        files.sort()
    return cursors, others


class _Cursor(Struct):
    """What a cursor file says."""

    version: int | None
    label: bytes
    done: int
    slot: int
    is_sound: bool


def _read_cursor(fd: int, epoch: str) -> _Cursor:
    seed = _get_seed(epoch)
    data = _read_at(fd, _CURSOR_SIZE, 0)
    version = _check_header(data[: _SLOTS[0]], _CURSOR_MAGIC, seed)
    label = b""
    if version == _VERSION:
        label = data[_PREFIX.size : _PREFIX.unpack_from(data)[2] - _CRC.size]
    found: list[int | None] = []
    for offset in _SLOTS:
        slot = data[offset : offset + _SLOT.size]
        sound = len(slot) == _SLOT.size and slot == _make_slot(_SLOT.unpack(slot)[0], seed)
        found.append(_SLOT.unpack(slot)[0] if sound else None)
    first, second = (-1 if value is None else value for value in found)
    if max(first, second) < 0:
        version = None
    return _Cursor(version, label, max(first, second, 0), 0 if second > first else 1, None not in found)


def _make_slot(done: int, seed: int) -> bytes:
    return _SLOT.pack(done, zlib.crc32(done.to_bytes(8, "little"), seed))


def _make_cursor(epoch: str, label: bytes, done: int) -> bytes:
    seed = _get_seed(epoch)
    header = _PREFIX.pack(_CURSOR_MAGIC, _VERSION, _PREFIX.size + len(label) + _CRC.size) + label
    slot = _make_slot(done, seed)
    return b"".join((_seal(header, seed).ljust(_SLOTS[0], b"\0"), slot.ljust(_SLOTS[1] - _SLOTS[0], b"\0"), slot))


class _Segment:
    """One segment file. ``size`` is what readers may see of it, ``end`` what is written."""

    __slots__ = ("damaged", "dropped", "end", "first", "made", "name", "number", "path", "seed", "size")

    def __init__(self, directory: str, epoch: str, number: int, kind: str = "segment", size: int = 0) -> None:
        self.name = f"{epoch}.{number:08d}"
        self.path = os.path.join(directory, f"{self.name}.{kind}")
        self.seed = _get_seed(self.name)
        self.number = number
        self.first = 0
        self.made = 0.0
        self.size = self.end = size
        self.dropped = kind == "dropped"
        self.damaged = False


class _Head:
    """The header of a record."""

    __slots__ = ("count", "crc", "first", "length", "offset", "stop", "time")

    def __init__(self, offset: int, length: int, crc: int, first: int, count: int, moment: float) -> None:
        self.offset = offset
        self.length = length
        self.crc = crc
        self.first = first
        self.count = count
        self.stop = first + count
        self.time = moment


class _Reader:
    """Reads a segment from its beginning to its end, with bounded memory.

    Attributes:
        version: What the header says; None when it cannot be read.
        label: The CRC-32 of the label, where the header can be read.
        first: The number of the first event: no record that is still to come begins before it.
        made: When the segment was begun.
        damaged: Something was passed over that had been written whole.
        bad_tail: That was so behind the last record, where no later number tells how many events are gone.
    """

    def __init__(self, segment: _Segment) -> None:
        self.segment = segment
        self.version: int | None = None
        self.label = 0
        self.first = 0
        self.made = 0.0
        self.damaged = False
        self.bad_tail = False
        self.position = 0
        self._buffer = b""
        self._offset = 0
        self._fd = os.open(segment.path, os.O_RDONLY | _OPEN_FLAGS)
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def _read_header(self) -> None:
        data = self._get(0, _CHUNK)
        self.version = _check_header(data[:4096], _SEGMENT_MAGIC, self.segment.seed)
        if self.version == _VERSION:
            _, _, _, self.label, self.first, self.made = _SEGMENT_HEADER.unpack_from(data)
            self.position = _SEGMENT_HEADER_SIZE

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def forget(self) -> None:
        """Close it in a forked child."""
        fd, self._fd = self._fd, -1
        _close_quietly(fd)

    def get_size(self) -> int:
        return os.fstat(self._fd).st_size

    def _get(self, offset: int, size: int) -> bytes:
        start = offset - self._offset
        if not 0 <= start <= len(self._buffer) - size:
            try:
                self._buffer = _read_at(self._fd, max(size, _CHUNK), offset)
            except OSError as err:
                if err.errno != errno.EIO:
                    raise
                self._buffer = b""  # the disk is damaged
                self.damaged = self.bad_tail = True
            self._offset = offset
            start = 0
        return self._buffer[start : start + size]

    def next(self, limit: int) -> _Head | None:
        """The next record of which the header can be read and the body is there; None at the end.

        Args:
            limit: Where the end is, in bytes.
        """
        while limit - self.position >= _RECORD_SIZE:
            head = self._read_head()
            if head is not None:
                if head.offset + head.length > limit:  # torn
                    break
                self.position = head.offset + head.length
                self.first = head.stop
                return head
            if not self._find(limit):
                break
        self.position = limit
        return None

    def _read_head(self) -> _Head | None:
        data = self._get(self.position, _RECORD_SIZE)
        if len(data) < _RECORD_SIZE:
            return None
        marker, check, *fields = _RECORD.unpack(data)
        if marker != _MARKER or check != zlib.crc32(data[8:], self.segment.seed):
            return None
        return _Head(self.position + _RECORD_SIZE, *fields)

    def _find(self, limit: int) -> bool:
        """Go to the next marker."""
        begin = self.position
        position = begin + 1
        while position < limit:
            data = self._get(position, min(_CHUNK, limit - position))
            found = data.find(_MARKER)
            if found >= 0:
                self.position = position + found
                self.damaged = True
                return True
            if len(data) < len(_MARKER):
                break
            position += len(data) - len(_MARKER) + 1
        # Nothing but zeros is what a power cut leaves of a file that was about to grow.
        if any(self._get(begin, min(_CHUNK, limit - begin))):
            self.damaged = self.bad_tail = True
        return False

    def read_events(self, head: _Head) -> list[LogEvent] | None:
        """The events of the record that was read last; None when it is damaged."""
        body = self._get(head.offset, head.length)
        if len(body) != head.length or zlib.crc32(body) != head.crc:
            return None
        try:
            events = _decode(body)
        except Exception:
            return None
        return events if len(events) == head.count else None

    def read_more(self, chunk: _Chunk, limit: int, stop: int, oldest: float) -> None:
        """Add the records that follow to those of a chunk, as far as nothing is in the way.

        What is in the way is left to `next`: damage, a gap, the end, a record that is older than it should be.
        """
        # The hot loop of a reader that is behind: only what is in memory already, and no calls that can be spared.
        data, seed = self._buffer, self.segment.seed
        begin = at = self.position - self._offset
        end = min(len(data), limit - self._offset, at + _MERGED_BYTES)
        number, moment = self.first, chunk.time
        bodies: list[bytes] = []
        while at + _RECORD_SIZE <= end and len(bodies) < _MERGED_RECORDS:
            start = at + _RECORD_SIZE
            marker, check, length, crc, first, count, written_at = _RECORD.unpack_from(data, at)
            body = data[start : start + length]
            if (
                first != number
                or start + length > end
                or crc != zlib.crc32(body)
                or check != zlib.crc32(data[at + 8 : start], seed)
                or marker != _MARKER
                or first + count > stop
                or written_at < oldest
            ):
                break
            bodies.append(body[1 if count < 16 else _ARRAY_HEADER_SIZES.get(body[0], 1) :])
            at = start + length
            number += count
            if written_at < moment:
                moment = written_at
        if bodies:
            count = number - self.first
            try:
                events = _decode(b"".join((b"\xdd", count.to_bytes(4, "big"), *bodies)))
            except Exception:
                return
            if len(events) == count:
                self.position, self.first = at + self._offset, number
                chunk.add(events, at - begin, moment)


class _Chunk:
    """The events of a record, or of several that follow each other, in memory."""

    __slots__ = ("_sizes", "events", "first", "is_merged", "size", "stop", "time")

    def __init__(self, first: int, moment: float, events: Sequence[LogEvent], size: int) -> None:
        self.first = first
        self.stop = first + len(events)
        self.time = moment
        self.events = events
        self.size = size
        self.is_merged = False
        self._sizes: list[int] | None = None

    def add(self, events: list[LogEvent], size: int, moment: float) -> None:
        """Add what was read of the next records; ``moment`` is the time of the oldest."""
        self.events = [*self.events, *events]
        self.stop += len(events)
        self.size += size
        self.time = moment
        self.is_merged = True

    def get_sizes(self) -> list[int]:
        """The encoded size of each event; only where a record has to be divided."""
        if self._sizes is None:
            self._sizes = [len(_encode_event(event)) for event in self.events]
        return self._sizes


# ---------------------------------------------------------------------------------------------------- epochs

# The cursor files that this process has open and locked, and the lock under which any of them is opened or closed.
_claims: dict[_Identity, int] = {}
_claim_lock = threading.RLock()
_spools: dict[int, ref[Spool]] = {}


def _after_fork_in_child() -> None:
    global _claim_lock
    _claim_lock = threading.RLock()
    for entry in list(_spools.values()):
        spool = entry()
        if spool is not None:
            spool.forget_after_fork()
    _claims.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class _Epoch:
    """One epoch that this process owns: its files, and how far it is.

    ``done <= read <= next`` are numbers of events: the first that is unconfirmed, the next one to read, the next one to
    write. Between ``done`` and ``next``, ``holes`` are the numbers that need no delivery any more. Each count is changed by
    one side only, so that the others may look at it at any time: ``added`` by whoever appends, ``taken`` (handed out, or
    a hole) and ``settled`` (confirmed, or a hole) by whoever reads.
    """

    def __init__(self, directory: str, name: str, fd: int, identity: _Identity, *, recovered: bool) -> None:
        self.name = name
        self.prefix = id_prefix(name)
        self.path = os.path.join(directory, f"{name}.cursor")
        self.fd = fd
        self.identity = identity
        self.recovered = recovered
        self.made = 0.0
        self.segments: list[_Segment] = []
        self.last_number = 0
        self.done = self.read = self.next = self.saved = 0
        self.slot = 0
        self.added = self.taken = self.settled = 0
        self.holes: list[tuple[int, int]] = []
        self.chunk: _Chunk | None = None
        self.reader: _Reader | None = None
        # Records that have been appended since the reader caught up, as far as there is memory for them: up to
        # `cache_next`. From there on the reader needs the disk, and `hint` tells where.
        self.cache: deque[_Chunk] = deque()
        self.cache_next = 0
        self.cached = self.uncached = 0
        self.hint: tuple[int, _Segment, int] | None = None
        self._seed = _get_seed(name)

    def get_stop(self, index: int) -> int:
        """The number behind the last event of a segment."""
        segments = self.segments
        stop = self.next  # looked at first: an append may add a segment, and then moves it
        return segments[index + 1].first if index + 1 < len(segments) else stop

    def find_segment(self, number: int) -> tuple[_Segment | None, int]:
        """The segment that holds an event, and where it stops."""
        for index, segment in enumerate(self.segments):
            stop = self.get_stop(index)
            if stop > number:
                return segment, stop
        return None, self.next

    def get_reader(self, segment: _Segment) -> _Reader:
        """A reader of which the next record is at `read` or before."""
        reader = self.reader
        if reader is None or reader.segment is not segment or reader.first > self.read:
            self.close_reader()
            reader = self.reader = _Reader(segment)
        hint = self.hint
        if hint is not None and hint[1] is segment and reader.first < hint[0] <= self.read:
            reader.first, _, reader.position = hint
        return reader

    def close_reader(self) -> None:
        reader, self.reader = self.reader, None
        if reader is not None:
            reader.close()

    def settle(self, start: int, stop: int) -> int:
        """Make a hole of unread events; how many they were."""
        count = stop - start
        holes = []
        for begin, end in self.holes:
            if end < start or begin > stop:
                holes.append((begin, end))
            else:
                count -= max(0, min(end, stop) - max(begin, start))
                start, stop = min(start, begin), max(stop, end)
        holes.append((start, stop))
        holes.sort()
        self.holes = holes
        self.taken += count
        self.settled += count
        self.pass_holes()
        return count

    def pass_holes(self) -> None:
        """Move `done` and `read` over the holes that they stand before."""
        holes = self.holes
        while holes and holes[0][0] <= self.done:
            self.done = max(self.done, holes.pop(0)[1])
        self.read = max(self.read, self.done)
        for begin, end in holes:
            if begin <= self.read < end:
                self.read = end

    def save(self) -> None:
        """Write the progress down."""
        _write_at(self.fd, _make_slot(self.done, self._seed), _SLOTS[self.slot])
        self.slot ^= 1
        self.saved = self.done

    def close(self) -> None:
        """Give up the claim."""
        self.close_reader()
        with _claim_lock:
            fd, self.fd = self.fd, -1
            if fd >= 0:
                # Only once: a new file may have the same number.
                _claims.pop(self.identity, None)
                os.close(fd)

    def forget(self) -> None:
        """Close what a forked child has inherited."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            _claims.pop(self.identity, None)
            _close_quietly(fd)
        if self.reader is not None:
            self.reader.forget()


class _Turn:
    """A lock that tells a thread that it has it already: a signal handler has interrupted the holder.

    A plain lock would be waited for for ever, and who compares thread numbers can be interrupted between taking the lock
    and noting the number. An RLock lets the same thread in, and there `is_taken` shows how far the other call has come.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.is_taken = False

    @contextmanager
    def take(self, path: str) -> Iterator[None]:
        with self.lock:
            if self.is_taken:
                raise SpoolBusyError(path, "called from inside of another call")
            self.is_taken = True
            try:
                yield
            finally:
                self.is_taken = False


class _Group:
    """Calls of `Spool.append` that wait for one of them."""

    __slots__ = ("done", "leader")

    def __init__(self) -> None:
        self.leader = threading.get_ident()
        self.done = threading.Lock()


class _Entry:
    """One call of `Spool.append` that waits for its turn."""

    __slots__ = ("count", "done", "error", "places", "records", "run", "size")

    def __init__(self, records: list[tuple[tuple[LogEvent, ...], bytes, int]]) -> None:
        self.records = records
        self.count = sum([len(events) for events, _, _ in records])
        self.size = _SEGMENT_HEADER_SIZE + sum([_RECORD_SIZE + len(body) for _, body, _ in records])
        self.places: list[tuple[_Chunk, _Segment, int]] = []
        self.run: SpoolRun | None = None
        self.error: OSError | None = None
        self.done = False


# ---------------------------------------------------------------------------------------------------- the spool


class Spool:
    """A queue of log events on disk. Any thread may call anything; appending does not wait for reading.

    Several spools, in one process or in many, may share a directory. Each writes files of its own; what one leaves
    behind when it is closed or dies is taken over by the next that opens or `adopt`\\ s with the same label.

    Args:
        directory: Where the files are; made on `open`, readable by its owner only.
        label: Whose events they are: only spools with the same label deliver them. At most 1,000 bytes in UTF-8.
        max_bytes: How many bytes the segments of this spool may take, 1 or more.
        max_age: Events that have been in the spool for longer are not delivered, in seconds; None keeps them for ever.
        segment_bytes: From which size on a segment is ended, in bytes, 1 or more. Space is given back by segments. None
            takes an eighth of ``max_bytes``, but at least 64 KiB and at most 16 MiB.
        fsync: True makes the disk confirm each append, so that it survives a power cut too. Threads that append at the
            same time share the confirmation.
        cache_bytes: How many bytes of events, by their encoded size, are kept in memory to be read without touching the
            disk; 0 keeps none.
        clock: The time in seconds since the epoch.
        report: Where damage is told: called like `mvx_logger.selflog.report`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        label: str,
        max_bytes: int = 1 << 30,
        max_age: float | None = None,
        segment_bytes: int | None = None,
        fsync: bool = False,
        cache_bytes: int = 8 << 20,
        clock: Callable[[], float] = time.time,
        report: Callable[..., None] = selflog.report,
    ) -> None:
        if not isinstance(label, str):
            raise TypeError(f"label: expected a str, got {type(label).__name__}")
        self._label = label.encode("utf-8", "backslashreplace")
        if len(self._label) > _MAX_LABEL:
            raise ValueError(f"label: expected at most {_MAX_LABEL} bytes, got {len(self._label)}")
        _check_number("max_bytes", max_bytes, minimum=1, whole=True)
        _check_number("cache_bytes", cache_bytes, minimum=0, whole=True)
        if max_age is not None:
            _check_number("max_age", max_age, minimum=0)
        if segment_bytes is None:
            segment_bytes = max(1 << 16, min(16 << 20, max_bytes // 8))
        _check_number("segment_bytes", segment_bytes, minimum=1, whole=True)
        self._directory = os.path.abspath(os.fspath(directory))
        self._label_crc = zlib.crc32(self._label)
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._segment_bytes = segment_bytes
        self._max_record = min(segment_bytes, _MAX_RECORD)
        self._fsync = bool(fsync)
        self._cache_bytes = cache_bytes
        self._clock = clock
        self._report = report
        self._begin_turns()
        self._begin_life()
        number = id(self)
        _spools[number] = ref(self, lambda _: _spools.pop(number, None))

    def _begin_life(self) -> None:
        self._is_open = False
        # Recovered ones, the oldest first, then those of this life.
        self._epochs: list[_Epoch] = []
        self._own: _Epoch | None = None
        self._active: _Segment | None = None
        self._fd = -1
        self._fresh: list[_Segment] = []
        # Bytes: written by appends, found at adoption, removed. See `_Epoch` for why they are three.
        self._written = self._found = self._removed = 0
        self._lost = self._lost_recovered = self._expired = self._expired_told = 0
        self._told: set[str] = set()

    def _begin_turns(self) -> None:
        # Who has both took the turn to read first.
        self._reading = _Turn()
        self._writing = _Turn()
        self._queue: deque[_Entry] = deque()
        self._group: _Group | None = None

    # ------------------------------------------------------------------ the accounts

    @property
    def directory(self) -> str:
        """Where the files are: an absolute path."""
        return self._directory

    @property
    def pending(self) -> int:
        """Events on disk that are not confirmed, read or not. After `close`: what it left behind."""
        return sum([epoch.added - epoch.settled for epoch in self._epochs])

    @property
    def unread(self) -> int:
        """Events on disk that `read` has still to hand out."""
        return sum([epoch.added - epoch.taken for epoch in self._epochs])

    @property
    def size(self) -> int:
        """Bytes on disk in segments."""
        return self._written + self._found - self._removed

    @property
    def lost(self) -> int:
        """Events that are known to be gone by damage, since `open`. `appended + recovered` includes them."""
        return self._lost

    @property
    def lost_recovered(self) -> int:
        """How many of them others had left behind."""
        return self._lost_recovered

    @property
    def expired(self) -> int:
        """Events that were given up because of ``max_age``, since `open`."""
        return self._expired

    # ------------------------------------------------------------------ opening and closing

    def open(self) -> int:
        """Make the directory where there is none, and take over what others with the same label have left behind.

        Returns:
            How many unconfirmed events that are, those included that turn out to be gone by damage (`lost`). A spool that
            is open already only adopts.

        Raises:
            SpoolError: The directory cannot be used.
        """
        directory = self._directory
        with self._reading.take(directory):
            if self._is_open:
                return self._adopt()
            try:
                os.makedirs(directory, mode=0o700, exist_ok=True)
                if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, "may not be written to")
                with self._writing.take(directory):
                    self._begin_life()
                    self._is_open = True
                return self._adopt()
            except OSError as err:
                self._close()
                raise SpoolError(directory, f"cannot be used as a spool: {err.strerror or err}", cause=err) from err

    def close(self) -> None:
        """Release the claims. What is not confirmed stays on disk for whoever opens next; else nothing is left there."""
        with self._reading.take(self._directory):
            self._close()

    def _close(self) -> None:
        with self._writing.take(self._directory):
            self._is_open = False
            self._close_active()
        for epoch in self._epochs:
            if epoch.fd >= 0:
                epoch.cache.clear()
                if epoch.added > epoch.settled:
                    epoch.close()
                else:
                    self._destroy(epoch)

    def forget_after_fork(self) -> None:
        """In a forked child: close what was inherited and begin anew, closed. The parent's files and claims stay its own."""
        fd, self._fd = self._fd, -1
        _close_quietly(fd)
        for epoch in self._epochs:
            epoch.forget()
        self._begin_turns()
        self._begin_life()

    # ------------------------------------------------------------------ taking over

    def adopt(self) -> int:
        """Take over the epochs whose owners have died or closed them since; see `open`.

        Returns:
            How many unconfirmed events that are. Of very many epochs, the oldest are taken first, and others by later
            calls, when those are drained.

        Raises:
            OSError: The directory cannot be read.
        """
        with self._reading.take(self._directory):
            return self._adopt() if self._is_open else 0

    def _adopt(self) -> int:
        self._check_own_files()
        mine = {epoch.name for epoch in self._epochs if epoch.fd >= 0}
        claimed: list[_Epoch] = []
        recovered = 0
        try:
            # An owner that is closing gives the oldest up first. Where one is free that was not a moment ago, older ones
            # that were looked at before are free as well by now: once more, they come first.
            while self._claim_some(mine, claimed):
                pass
            # Only now they hold still.
            files = _list(self._directory)[1] if claimed else {}
            while claimed:
                epoch = claimed[-1]
                try:
                    count = self._recover(epoch, files.get(epoch.name, []))
                except OSError as err:
                    self._tell_refusal(epoch.name, err)
                    count = None
                if count is None:
                    epoch.close()
                elif not epoch.segments:
                    recovered += count
                    self._destroy(epoch)
                else:
                    recovered += count
                    with self._writing.take(self._directory):
                        # The oldest first, and the own one last.
                        epochs = sorted([*self._epochs, epoch], key=lambda epoch: (not epoch.recovered, epoch.made))
                        del claimed[-1]
                        self._epochs = epochs
                    continue
                del claimed[-1]
        finally:
            for epoch in claimed:  # it was interrupted
                epoch.close()
        return recovered

    def _claim_some(self, mine: set[str], claimed: list[_Epoch]) -> bool:
        """Claim what is free; True when that was something."""
        before = len(claimed)
        cursors, files = _list(self._directory)
        names = (cursors | files.keys()) - mine - {epoch.name for epoch in claimed}
        for name in self._order_by_age(names):
            if len(mine) + len(claimed) >= _MAX_EPOCHS:
                return False
            try:
                self._claim(name, name in cursors, files.get(name, []), claimed)
            except OSError as err:  # of another user, perhaps
                self._tell_refusal(name, err)
        return len(claimed) > before

    def _order_by_age(self, names: set[str]) -> list[str]:
        ages = {}
        for name in names:
            try:
                ages[name] = os.lstat(os.path.join(self._directory, f"{name}.cursor")).st_mtime_ns
            except OSError:
                ages[name] = 0
        return sorted(names, key=ages.__getitem__)

    def _tell_refusal(self, name: str, err: OSError) -> None:
        message = "what another process has left in the spool cannot be taken over"
        self._tell_once("spool_claim", message, name, error=err.strerror or str(err))

    def _tell_once(self, kind: str, message: str, epoch: str, **fields: Any) -> None:
        if epoch not in self._told:
            self._told.add(epoch)
            self._report(kind, message, path=os.path.join(self._directory, f"{epoch}.cursor"), **fields)

    def _claim(self, name: str, has_cursor: bool, files: list[tuple[int, str]], claimed: list[_Epoch]) -> None:
        """Own an epoch, if nobody does, and add it to a list at once: a signal handler may raise at any call."""
        if not has_cursor:
            # Its cursor was made after the look at the directory, is removed already, or was deleted by somebody.
            if self._label_crc in self._read_labels(name, files):
                with suppress(FileExistsError):
                    self._create_cursor(name, claimed, recovered=True)
            return
        path = os.path.join(self._directory, f"{name}.cursor")
        with _claim_lock:
            try:
                identity = _get_identity(os.lstat(path))
                if identity in _claims:
                    return
                fd = os.open(path, os.O_RDWR | _OPEN_FLAGS)
            except FileNotFoundError:
                return
            is_claimed = False
            try:
                status = os.fstat(fd)
                cursor = _read_cursor(fd, name)
                is_ours = cursor.version != _VERSION or cursor.label == self._label
                if is_ours and _get_identity(status) == identity and stat.S_ISREG(status.st_mode) and _try_lock(fd):
                    epoch = _Epoch(self._directory, name, fd, identity, recovered=True)
                    # Its owner may have drained and removed it before it gave the lock up.
                    if _is_at(path, identity):
                        _claims[identity] = fd
                        is_claimed = True
                        claimed.append(epoch)
            finally:
                if not is_claimed:
                    os.close(fd)

    def _create_cursor(self, name: str, claimed: list[_Epoch], *, recovered: bool) -> bool:
        """Make the cursor of an epoch; False when another process looks at it just now, and is going to remove it."""
        path = os.path.join(self._directory, f"{name}.cursor")
        with _claim_lock:
            fd = _create(path, os.O_RDWR)
            is_claimed = False
            try:
                identity = _get_identity(os.fstat(fd))
                if _try_lock(fd) and _is_at(path, identity):
                    epoch = _Epoch(self._directory, name, fd, identity, recovered=recovered)
                    if not recovered:
                        _write_all(fd, _make_cursor(name, self._label, 0))
                        if self._fsync:
                            os.fsync(fd)
                            _sync_directory(self._directory)
                    _claims[identity] = fd
                    is_claimed = True
                    claimed.append(epoch)
            except BaseException:
                if not is_claimed:
                    _unlink(path)
                raise
            finally:
                if not is_claimed:
                    os.close(fd)
            return is_claimed

    def _read_labels(self, name: str, files: list[tuple[int, str]]) -> set[int]:
        labels = set()
        for number, kind in files:
            try:
                with closing(_Reader(_Segment(self._directory, name, number, kind))) as reader:
                    if reader.version == _VERSION:
                        labels.add(reader.label)
            except FileNotFoundError:
                continue
        return labels

    def _recover(self, epoch: _Epoch, files: list[tuple[int, str]]) -> int | None:
        """Find out what is in an epoch that has just been claimed.

        Returns:
            How many unconfirmed events; without segments, the epoch can be destroyed. None when it is not for us.
        """
        cursor = _read_cursor(epoch.fd, epoch.name)
        is_damaged = cursor.version is None
        if is_damaged:
            labels = self._read_labels(epoch.name, files)
            if files and self._label_crc not in labels:
                if not labels:
                    self._tell_once("spool_damaged", "nobody knows any more whose events these are", epoch.name)
                return None
        elif cursor.version != _VERSION:
            self._tell_once(
                "spool_version",
                "written by another version of the package, and left for that",
                epoch.name,
                version=cursor.version,
            )
            return None

        segments = epoch.segments
        self._load_segments(epoch, files)
        first = segments[0].first if segments else cursor.done
        gap = 0
        if is_damaged:
            cursor.done = first
            if segments:
                self._tell_damage(epoch.path, 0, "a cursor is damaged: some events may be delivered again")
            _write_at(epoch.fd, _make_cursor(epoch.name, self._label, cursor.done), 0)
        elif cursor.done < first:
            # When one of the slots is torn, the other one is older than what was removed.
            if cursor.is_sound:
                gap = first - cursor.done
                self._tell_damage(epoch.path, gap, "a spool file is missing")
            cursor.done = first
        epoch.slot = cursor.slot
        epoch.saved = epoch.done = epoch.read = cursor.done
        epoch.next = max(epoch.next, cursor.done)
        epoch.added = epoch.next - cursor.done
        epoch.made = segments[0].made if segments else 0.0
        while segments and epoch.get_stop(0) <= cursor.done:
            self._dispose(segments.pop(0))
        for index, segment in enumerate(segments):
            if segment.dropped:
                epoch.settle(max(segment.first, cursor.done), epoch.get_stop(index))
        pending = epoch.added - epoch.settled
        if not pending:
            while segments:
                self._dispose(segments.pop(0))
        self._found += sum([segment.size for segment in segments])
        return pending + gap

    def _load_segments(self, epoch: _Epoch, files: list[tuple[int, str]]) -> None:
        segments = epoch.segments
        for number, kind in files:
            segment = _Segment(self._directory, epoch.name, number, kind)
            with closing(_Reader(segment)) as reader:
                segment.size = segment.end = reader.get_size()
                if reader.version == _VERSION:
                    segment.first, segment.made = reader.first, reader.made
                elif reader.version is not None:
                    self._set_aside(segment, "unsupported")
                    self._report(
                        "spool_version",
                        "written by another version of the package, and set aside",
                        path=segment.path,
                        version=reader.version,
                    )
                    continue
                elif (head := None if segment.dropped else reader.next(segment.size)) is not None:
                    segment.first, segment.made = head.first, head.time
                elif reader.damaged:
                    self._set_aside(segment, "corrupt")
                    self._tell_damage(segment.path, 0, "nothing of a spool file can be read")
                    continue
                else:  # made, and no more
                    _unlink(segment.path)
                    continue
            if segment.dropped and segment.size > _SEGMENT_HEADER_SIZE:
                os.truncate(segment.path, _SEGMENT_HEADER_SIZE)
                segment.size = segment.end = _SEGMENT_HEADER_SIZE
            segments.append(segment)
        while segments and segments[-1].dropped:
            epoch.next = segments[-1].first
            self._dispose(segments.pop())
        if segments:
            last = segments[-1]
            epoch.next = last.first
            with closing(_Reader(last)) as reader:
                while (head := reader.next(last.size)) is not None:
                    epoch.next = max(epoch.next, head.stop)
            if reader.bad_tail:
                last.damaged = True
                self._tell_damage(last.path, 0, "the end of a spool file is unreadable: its last events may be gone")

    def _tell_damage(self, path: str, lost: int, message: str, *, is_recovered: bool = True) -> None:
        self._lost += lost
        self._lost_recovered += lost * is_recovered
        self._report("spool_damaged", message, path=path, lost=lost)

    def _check_own_files(self) -> None:
        """Begin anew where somebody has deleted the files of this life; what was in them is gone."""
        own = self._own
        if own is None:
            return
        with self._writing.take(self._directory):
            active = self._active
            if active is not None and not os.path.lexists(active.path):
                self._close_active()
            if not _is_at(own.path, own.identity):
                self._close_active()
                self._own = None
                self._report("spool_damaged", "the files of a spool were deleted", path=own.path, lost=0)

    # ------------------------------------------------------------------ removing

    def _set_aside(self, segment: _Segment, ending: str) -> None:
        try:
            os.replace(segment.path, f"{segment.path}.{ending}")
        except OSError:  # it is found again, with nothing in it that is not confirmed
            pass

    def _dispose(self, segment: _Segment) -> None:
        if segment.damaged:
            self._set_aside(segment, "corrupt")
        else:
            _unlink(segment.path)

    def _remove_first(self, epoch: _Epoch) -> None:
        segment = epoch.segments.pop(0)
        if epoch.reader is not None and epoch.reader.segment is segment:
            epoch.close_reader()
        self._dispose(segment)
        self._removed += segment.size

    def _destroy(self, epoch: _Epoch) -> None:
        """Leave nothing of an epoch that is drained."""
        try:
            while epoch.segments:
                self._remove_first(epoch)
            # Where an open file cannot be removed there is a moment in which others may claim an empty epoch.
            if os.name == "nt":
                epoch.close()
                _unlink(epoch.path)
            elif _is_at(epoch.path, epoch.identity):
                _unlink(epoch.path)
        finally:
            epoch.close()

    def _advance(self, epoch: _Epoch) -> None:
        """Write the progress down and give back the space of what is done."""
        if epoch.done > epoch.saved:
            try:
                epoch.save()
                if self._fsync and len(epoch.segments) > 1 and epoch.segments[1].first <= epoch.done:
                    _datasync(epoch.fd)
            except OSError as err:  # the segments have to stay until it is written
                self._report("spool_cursor", "the progress cannot be written", path=epoch.path, error=err.strerror)
                return
        segments = epoch.segments
        while len(segments) > 1 and segments[1].first <= epoch.done:
            self._remove_first(epoch)
        if epoch.done < epoch.next:
            return
        if epoch is self._own:
            with self._writing.take(self._directory):
                self._empty(epoch)
        else:
            self._destroy(epoch)
            with self._writing.take(self._directory):
                self._epochs = [other for other in self._epochs if other is not epoch]

    def _empty(self, own: _Epoch) -> None:
        """Give back the space of the epoch that is being written to, when all of it is done."""
        if own.done < own.next:
            return
        while own.segments and (own.segments[0] is not self._active or own.segments[0].damaged):
            if own.segments[0] is self._active:
                self._close_active()
            self._remove_first(own)
        active = self._active
        if active is not None and active.size:
            # The next append is going to need a file, and this is cheaper than to make one.
            own.close_reader()
            try:
                os.ftruncate(self._fd, 0)
            except OSError:
                self._close_active()
                self._remove_first(own)
            else:
                self._removed += active.size
                active.size = active.end = 0
                active.first = own.next

    def _close_active(self) -> None:
        fd, self._fd = self._fd, -1
        self._active = None
        if fd >= 0:
            os.close(fd)

    # ------------------------------------------------------------------ appending

    def append(self, events: Sequence[LogEvent]) -> SpoolRun:
        """Put events at the end, all or none.

        Args:
            events: Any number; a call is one record, and several when they are larger than 1 MiB.

        Returns:
            Their ids. When it returns, the events survive ``kill -9`` (with ``fsync``: a power cut).

        Raises:
            SpoolFullError: They would exceed ``max_bytes``.
            SpoolBusyError: Called by a signal handler that has interrupted a call of this spool.
            OSError: The disk refuses them, or the spool is not open. None of the events is in it.
        """
        if not events:
            return SpoolRun("", 0, 0)
        entry = _Entry(self._make_records(events))
        queue = self._queue
        queue.append(entry)
        try:
            if self._fsync:
                self._append_together(entry)
            else:
                self._append_in_turn()
        except BaseException:
            with suppress(ValueError):
                queue.remove(entry)
            raise
        if entry.error is not None:
            raise entry.error
        assert entry.run is not None
        return entry.run

    def _append_in_turn(self) -> None:
        turn = self._writing
        with turn.lock:
            if turn.is_taken:
                raise SpoolBusyError(self._directory, "called from inside of another call")
            # The work of all that wait; somebody else may have done ours.
            if self._queue:
                turn.is_taken = True
                try:
                    self._commit()
                finally:
                    turn.is_taken = False

    def _append_together(self, entry: _Entry) -> None:
        """Share one confirmation of the disk with the threads that wait for it already.

        To wait for the turn would do, but who has just had a confirmation takes the turn again before the others have
        seen that they are done. So the first of those that come while the disk is busy leads: it waits for the turn, and
        the others wait for it.
        """
        group = self._group
        if group is not None and group.leader != threading.get_ident():
            # Our entry was in the queue before the group was closed.
            with group.done:
                pass
            if not entry.done:  # the leader was interrupted
                self._append_in_turn()
            return
        self._group = group = _Group()
        group.done.acquire()
        try:
            self._append_in_turn()
        finally:
            if self._group is group:
                self._group = None
            group.done.release()

    def _make_records(self, events: Sequence[LogEvent]) -> list[tuple[tuple[LogEvent, ...], bytes, int]]:
        body = _encode(events)
        if len(body) > self._max_record and len(events) > 1:
            half = len(events) // 2
            return self._make_records(events[:half]) + self._make_records(events[half:])
        return [(tuple(events), body, zlib.crc32(body))]

    def _commit(self) -> None:
        """Write everything that waits. All of it or nothing is in the spool, whatever goes wrong."""
        queue = self._queue
        entries: list[_Entry] = []
        self._group = None  # who comes from here on is not waited for
        while queue:
            entries.append(queue.popleft())
        if not entries:
            return
        active: _Segment | None = None
        end = 0
        try:
            own = self._get_own(sum([entry.count for entry in entries]))
            active = self._active
            end = 0 if active is None else active.end
            number = own.next
            for entry in entries:
                number = self._write_entry(own, entry, number)
            if self._fsync and number > own.next:
                self._sync()
            for segment in self._fresh:
                segment.size = segment.end
        except OSError as err:
            self._take_back(active, end, 0)
            for entry in entries:
                entry.error = entry.error or err
                entry.done = True
            return
        except BaseException:  # interrupted
            self._take_back(active, end, 0)
            for entry in entries:
                entry.places.clear()
            queue.extendleft(reversed(entries))
            raise
        # No call among these: nothing can interrupt them.
        if active is not None:
            active.size = active.end
        own.segments += self._fresh
        self._fresh = []
        own.added += number - own.next
        own.next = number
        for entry in entries:
            entry.done = True
            for chunk, segment, offset in entry.places:
                self._cache(own, chunk, segment, offset)

    def _get_own(self, count: int) -> _Epoch:
        if not self._is_open:
            raise SpoolError(self._directory, "the spool is not open")
        own = self._own
        if own is not None and own.next + count <= MAX_SEQUENCE + 1:
            return own
        self._close_active()
        self._own = None
        for attempt in range(100):
            try:
                made = self._create_cursor(new_epoch(), self._epochs, recovered=False)
            except FileNotFoundError:  # somebody has deleted the directory
                if attempt:
                    raise
                os.makedirs(self._directory, mode=0o700, exist_ok=True)
                continue
            if made:
                self._own = own = self._epochs[-1]
                return own
        raise SpoolError(self._directory, "cannot make a file and keep it")

    def _write_entry(self, own: _Epoch, entry: _Entry, number: int) -> int:
        """Write the records of a call; the number behind its last event."""
        active = self._active
        end = 0 if active is None else active.end
        fresh = len(self._fresh)
        first = number
        if self.size + entry.size > self._max_bytes:
            entry.error = SpoolFullError(self._directory, entry.size, self._max_bytes)
            return first
        try:
            now = self._clock()
            for events, body, crc in entry.records:
                size = _RECORD_SIZE + len(body)
                segment = self._active
                if segment is None or (segment.end and segment.end + size > self._segment_bytes):
                    segment = self._begin_segment(own)
                tail = _RECORD_TAIL.pack(len(body), crc, number, len(events), now)
                data = b"".join((_MARKER, _CRC.pack(zlib.crc32(tail, segment.seed)), tail, body))
                offset = segment.end
                if not offset:
                    segment.first, segment.made = number, now
                    offset = _SEGMENT_HEADER_SIZE
                    header = _SEGMENT_HEADER.pack(
                        _SEGMENT_MAGIC, _VERSION, _SEGMENT_HEADER_SIZE, self._label_crc, number, now
                    )
                    data = _seal(header, segment.seed) + data
                _write_all(self._fd, data)
                segment.end += len(data)
                self._written += len(data)
                entry.places.append((_Chunk(number, now, events, size), segment, offset))
                number += len(events)
        except OSError as err:
            self._take_back(active, end, fresh)
            entry.places.clear()
            entry.error = err
            return first
        entry.run = SpoolRun(own.prefix, first, number - first)
        return number

    def _begin_segment(self, own: _Epoch) -> _Segment:
        if self._active is not None:
            if self._fsync:
                self._sync()
            self._close_active()
        own.last_number += 1
        segment = _Segment(self._directory, own.name, own.last_number)
        fd = _create(segment.path, os.O_WRONLY | os.O_APPEND)
        self._fd, self._active = fd, segment
        self._fresh.append(segment)
        if self._fsync:
            _sync_directory(self._directory)
        return segment

    def _sync(self) -> None:
        try:
            _datasync(self._fd)
        except OSError:
            # What was not written may be forgotten now (https://lwn.net/Articles/752063/): nothing more into this file.
            self._close_active()
            raise

    def _take_back(self, segment: _Segment | None, end: int, fresh: int) -> None:
        """Undo what was written since the active segment was this one and ended there."""
        while len(self._fresh) > fresh:
            extra = self._fresh.pop()
            if extra is self._active:
                self._close_active()
            self._written -= extra.end
            _unlink(extra.path)
        if segment is not None:
            self._written -= segment.end - end
            segment.end = end
            try:
                if segment is self._active:
                    os.ftruncate(self._fd, end)
                else:
                    os.truncate(segment.path, end)
            except OSError:
                # The next segment begins with the number of the first event that counts no more: that makes it void.
                if segment is self._active:
                    self._close_active()

    def _cache(self, own: _Epoch, chunk: _Chunk, segment: _Segment, offset: int) -> None:
        if own.cache_next == chunk.first or own.read == chunk.first:
            if own.cached - own.uncached + chunk.size <= self._cache_bytes:
                own.cached += chunk.size
                own.cache_next = chunk.stop
                own.cache.append(chunk)
            else:
                own.hint = (chunk.first, segment, offset)

    # ------------------------------------------------------------------ reading

    def read(self, max_events: int, max_bytes: int) -> SpoolBatch | None:
        """The next unread events, oldest first: those of recovered epochs before those of this life.

        Args:
            max_events: How many at most, 1 or more.
            max_bytes: How many bytes at most, by their size in the spool; but at least one event.

        Returns:
            Consecutive events of one epoch; None when all is read. Where nothing but expired events came up, a batch
            without events that tells how many those were; it need not be confirmed.

        Raises:
            OSError: A file cannot be opened or read just now. What is damaged or gone does not raise: it is passed over.
        """
        with self._reading.take(self._directory):
            for epoch in self._epochs if self._is_open else ():
                if epoch.added <= epoch.taken:
                    continue
                first, events = self._read_from(epoch, max_events, max_bytes)
                if epoch.done > epoch.saved:  # over what has expired or is gone
                    self._advance(epoch)
                if events or self._expired > self._expired_told:
                    expired = self._expired - self._expired_told
                    self._expired_told = self._expired
                    run = SpoolRun(epoch.prefix, first, len(events))
                    return SpoolBatch(tuple(events), run, epoch.recovered, expired)
            return None

    def _read_from(self, epoch: _Epoch, max_events: int, max_bytes: int) -> tuple[int, list[LogEvent]]:
        events: list[LogEvent] = []
        size = 0
        stop = 0
        while len(events) < max_events:
            chunk = self._find_chunk(epoch)
            if chunk is None or (events and epoch.read != stop):
                break
            start = epoch.read - chunk.first
            count = min(len(chunk.events) - start, max_events - len(events))
            if size + chunk.size <= max_bytes:
                size += chunk.size  # a part of the record is no larger than that: there is no need to measure it
            else:
                sizes = chunk.get_sizes()
                room = count
                count = 0
                while count < room and (size + sizes[start + count] <= max_bytes or not (events or count)):
                    size += sizes[start + count]
                    count += 1
                if not count:
                    break
            events.extend(chunk.events[start : start + count])
            epoch.taken += count
            epoch.read = stop = epoch.read + count
        return stop - len(events), events

    def _find_chunk(self, epoch: _Epoch) -> _Chunk | None:
        """The record that holds the next unread event; None when there is none, or when many have just expired."""
        patience = _MAX_EXPIRED
        while epoch.added > epoch.taken and patience:
            epoch.pass_holes()
            chunk = epoch.chunk
            if chunk is None or not chunk.first <= epoch.read < chunk.stop:
                chunk = epoch.chunk = self._find_in_cache(epoch) or self._find_on_disk(epoch)
            if chunk is not None:
                if not self._is_expired(chunk.time):
                    return chunk
                if chunk.is_merged:  # its records have times of their own
                    epoch.chunk = None
                else:
                    self._expired += epoch.settle(epoch.read, chunk.stop)
            patience -= 1
        return None

    def _is_expired(self, moment: float) -> bool:
        return self._max_age is not None and self._clock() - moment > self._max_age

    def _find_in_cache(self, epoch: _Epoch) -> _Chunk | None:
        cache = epoch.cache
        while cache and cache[0].first <= epoch.read:
            chunk = cache.popleft()
            epoch.uncached += chunk.size
            if chunk.stop > epoch.read:
                return chunk
        return None

    def _find_on_disk(self, epoch: _Epoch) -> _Chunk | None:
        """The record at `read`; None when that has moved on, because events are gone or have expired."""
        segment, stop = epoch.find_segment(epoch.read)
        # Looked at after `stop`: so much is there at least.
        limit = 0 if segment is None else segment.size
        reader = None
        if segment is not None:
            try:
                reader = epoch.get_reader(segment)
            except FileNotFoundError:  # somebody has deleted it
                pass
        while True:
            head = None if reader is None else reader.next(limit)
            gone_until = stop if head is None else min(head.first, stop)
            if gone_until > epoch.read:
                lost = epoch.settle(epoch.read, gone_until)
                self._note_damage(epoch, segment, lost)
            elif reader is not None and reader.damaged:
                self._note_damage(epoch, segment, 0)
            if reader is None or head is None or head.first >= stop:
                return None
            if head.stop <= epoch.read:
                continue
            if self._is_expired(head.time):
                self._expired += epoch.settle(epoch.read, head.stop)
                return None
            events = reader.read_events(head)
            if events is None:
                reader.damaged = True
                continue
            chunk = _Chunk(head.first, head.time, events, _RECORD_SIZE + head.length)
            oldest = -math.inf if self._max_age is None else self._clock() - self._max_age
            reader.read_more(chunk, limit, stop, oldest)
            return chunk

    def _note_damage(self, epoch: _Epoch, segment: _Segment | None, lost: int) -> None:
        if lost or (segment is not None and not segment.damaged):
            path = epoch.path if segment is None else segment.path
            message = "a spool file is damaged; what can be read of it is delivered"
            self._tell_damage(path, lost, message, is_recovered=epoch.recovered)
        if segment is not None:
            segment.damaged = True

    def confirm(self, run: SpoolRun) -> None:
        """Settle events that were read: they are delivered, or given up for good.

        Args:
            run: The run of a batch, or the beginning of it. Runs are confirmed in the order in which they were read.

        Raises:
            SpoolError: These events are not the next that are to be confirmed.
        """
        with self._reading.take(self._directory):
            for epoch in self._epochs if self._is_open else ():
                if epoch.prefix == run.prefix and run.first == epoch.done:
                    if 0 < run.count <= epoch.taken - epoch.settled:
                        epoch.done += run.count
                        epoch.settled += run.count
                        epoch.pass_holes()
                        self._advance(epoch)
                        return
                    break
            if run.count:
                what = f"{run.count} events from {run.prefix}{run.first:010x} on"
                raise SpoolError(self._directory, f"{what} are not the next to be confirmed")

    def is_own(self, run: SpoolRun) -> bool:
        """True when the events were appended in this life of the spool, or in the last one when it is closed.

        Args:
            run: What `append` returned.
        """
        return any(epoch.prefix == run.prefix and not epoch.recovered for epoch in self._epochs)

    def rewind(self) -> None:
        """Read again, from the first unconfirmed event on."""
        with self._reading.take(self._directory):
            for epoch in self._epochs:
                epoch.read = epoch.done
                epoch.taken = epoch.settled

    # ------------------------------------------------------------------ making room

    def drop_oldest(self, need_bytes: int) -> tuple[int, int]:
        """Make room for an append by removing the oldest segments, but for those with events that are read and unconfirmed.

        Args:
            need_bytes: How many bytes the append takes (`SpoolFullError.need_bytes`).

        Returns:
            How many unread events were removed: of those that were appended in this life, and of those that others had
            left behind. There may be too little room all the same: when all that is left is on its way, or when as much
            never fits (then nothing is removed).
        """
        own = recovered = 0
        if need_bytes <= self._max_bytes:
            with self._reading.take(self._directory):
                for epoch in self._epochs if self._is_open else ():
                    dropped = self._drop_from(epoch, self._max_bytes - need_bytes)
                    if epoch.recovered:
                        recovered += dropped
                    else:
                        own += dropped
        return own, recovered

    def _drop_from(self, epoch: _Epoch, limit: int) -> int:
        dropped = 0
        index = 0
        while self.size > limit and index < len(epoch.segments):
            segment = epoch.segments[index]
            in_flight = epoch.taken > epoch.settled
            if segment.dropped or not segment.size or (in_flight and segment.first < epoch.read):
                index += 1
                continue
            with self._writing.take(self._directory):
                if segment is self._active:
                    self._close_active()
            stop = epoch.get_stop(index)
            if in_flight:
                # What is before it has to be confirmed first; only then can the progress tell of it.
                try:
                    self._leave_empty(epoch, segment)
                except OSError as err:
                    self._report("spool_cleanup", "a file cannot be removed", path=segment.path, error=err.strerror)
                    index += 1
                    continue
            dropped += epoch.settle(max(segment.first, epoch.read), stop)
            # Also where that was nothing: a segment that was followed by another one just when the last of its events was
            # confirmed is still there.
            self._advance(epoch)
            if not in_flight:
                if segment in epoch.segments:  # the progress cannot be written: nothing gives space
                    break
                index = 0
        return dropped

    def _leave_empty(self, epoch: _Epoch, segment: _Segment) -> None:
        if epoch.reader is not None and epoch.reader.segment is segment:
            epoch.close_reader()
        path = os.path.join(self._directory, f"{segment.name}.dropped")
        os.rename(segment.path, path)
        segment.path, segment.dropped = path, True
        os.truncate(path, _SEGMENT_HEADER_SIZE)
        self._removed += segment.size - _SEGMENT_HEADER_SIZE
        segment.size = segment.end = _SEGMENT_HEADER_SIZE


# ---------------------------------------------------------------------------------------------------- looking on


def iter_spool(directory: str | os.PathLike[str]) -> Iterator[tuple[str, LogEvent]]:
    """Every unconfirmed event in a directory with its delivery id, whoever owns it; nothing is claimed or changed.

    Args:
        directory: Of one or more spools, in use or not.

    Returns:
        Epoch by epoch, the oldest first. What is confirmed or appended meanwhile may or may not be there; what is
        damaged is left out.

    Raises:
        SpoolError: The directory cannot be read.
    """
    path = os.path.abspath(os.fspath(directory))
    try:
        cursors, files = _list(path)
    except OSError as err:
        raise SpoolError(path, f"cannot be read: {err.strerror or err}", cause=err) from err
    return _iter_spool(path, cursors, files)


def list_spool_labels(directory: str | os.PathLike[str]) -> list[str]:
    """The labels of the spools in a directory that somebody has left or is using: one for each sink.

    Args:
        directory: Any.

    Returns:
        The labels, sorted; none where no spool is.

    Raises:
        SpoolError: The directory cannot be read.
    """
    path = os.path.abspath(os.fspath(directory))
    labels = set()
    try:
        cursors, _ = _list(path)
        for name in cursors:
            cursor = _peek_cursor(path, name)
            if cursor is not None and cursor.version == _VERSION:
                labels.add(cursor.label.decode(errors="replace"))
    except OSError as err:
        raise SpoolError(path, f"cannot be read: {err.strerror or err}", cause=err) from err
    return sorted(labels)


def _iter_spool(
    directory: str, cursors: set[str], files: dict[str, list[tuple[int, str]]]
) -> Iterator[tuple[str, LogEvent]]:
    found: list[tuple[float, str, int, list[_Segment]]] = []
    for name, entries in files.items():
        done = _peek_done(directory, name) if name in cursors else 0
        segments = []
        for number, kind in entries:
            segment = _Segment(directory, name, number, kind)
            try:
                with closing(_Reader(segment)) as reader:
                    segment.size = reader.get_size()
                    head = reader.next(segment.size)
            except OSError:  # drained meanwhile
                continue
            if head is not None and not segment.dropped:
                segment.first, segment.made = head.first, head.time
                segments.append(segment)
        if segments and done is not None:
            found.append((segments[0].made, name, done, segments))
    for _, name, done, segments in sorted(found):
        prefix = id_prefix(name)
        for index, segment in enumerate(segments):
            stop = segments[index + 1].first if index + 1 < len(segments) else MAX_SEQUENCE + 1
            if stop > done:
                for number, event in _iter_segment(segment, done, stop):
                    yield f"{prefix}{number:010x}", event


def _peek_cursor(directory: str, name: str) -> _Cursor | None:
    """What the cursor file of an epoch says, whoever owns it; None where it is gone."""
    path = os.path.join(directory, f"{name}.cursor")
    try:
        with _claim_lock:
            held = _claims.get(_get_identity(os.lstat(path)))
            fd = os.open(path, os.O_RDONLY | _OPEN_FLAGS) if held is None else held
            try:
                return _read_cursor(fd, name)
            finally:
                if held is None:
                    os.close(fd)
    except OSError:
        return None


def _peek_done(directory: str, name: str) -> int | None:
    """The first unconfirmed event of an epoch; None when it is of another version."""
    cursor = _peek_cursor(directory, name)
    if cursor is None:
        return 0
    return None if cursor.version not in (None, _VERSION) else cursor.done


def _iter_segment(segment: _Segment, start: int, stop: int) -> Iterator[tuple[int, LogEvent]]:
    try:
        with closing(_Reader(segment)) as reader:
            if reader.version not in (None, _VERSION):
                return
            while (head := reader.next(segment.size)) is not None and head.first < stop:
                if head.stop > start:
                    for number, event in enumerate(reader.read_events(head) or (), head.first):
                        if number >= start:
                            yield number, event
    except OSError:
        return


def _check_number(name: str, value: object, *, minimum: int, whole: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise TypeError(f"{name}: expected {'an int' if whole else 'a number'}, got {type(value).__name__}")
    if not value >= minimum:
        raise ValueError(f"{name}: expected {minimum} or more, got {value}")
