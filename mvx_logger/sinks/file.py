"""`FileLogSink`: events into a file, as text, JSON lines or logfmt, with rotation.

A batch is one ``write`` to a descriptor in append mode, under an advisory lock on the file itself. So:

* several processes may write to one path: lines are never torn or mixed, and whoever finds that the file has to be
  rotated does it while the others wait;
* before each batch, path and descriptor are compared: when an external ``logrotate`` has moved the file away, a new one is
  begun; when it has copied and truncated it, appending goes on at the new end;
* what cannot be written (a full disk, a directory that is gone, permissions) waits and comes again: a part of a batch that
  went through is taken back, or, where rotation had divided the batch, stays and does not come again. What a crash may
  leave behind (a torn last line) is ended before the next event.

Where there are no such locks (Windows, some network file systems), one process at a time may write to a path.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import logging
import os
import re
import shutil
import stat
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar
from urllib.parse import SplitResult, unquote

from msgspec import Struct, structs

from .. import selflog
from ..delivery.sink import AsyncioLogSink, LogEventBatch
from ..errors import LogConfigurationError, LogDeliveryPartialError
from ..formats.text import DEFAULT_DATE_FORMAT, DEFAULT_LOG_FORMAT, TextFormatter
from ..guard import offers
from ..masking import describe_error
from ..model import LogEvent
from ..options import check_options, parse_level
from ..protocols import LogSinkDescriptor, LogSinkTerminator

if sys.platform == "win32":
    LOCK_EX = LOCK_NB = LOCK_UN = 0

    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, "no such locks on Windows")

else:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock

if TYPE_CHECKING:
    StrPath = str | os.PathLike[str]
else:
    StrPath = Path  # what msgspec can check

__all__ = ["FileLogSink", "LoggingFileConfig", "RotationPolicy"]

_LOCK_TIMEOUT = 5.0
_ROTATION_PAUSE = 60.0
_PERIODS = {
    "minute": "%Y-%m-%d_%H-%M",
    "hour": "%Y-%m-%d_%H",
    "day": "%Y-%m-%d",
    "week": "%Y-%m-%d",
    "month": "%Y-%m",
}
_MOMENT = "%Y-%m-%d_%H-%M-%S"


class _FileConfig(Struct, frozen=True):
    file_path: StrPath
    level: int | str = logging.INFO


class LoggingFileConfig(_FileConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a `FileLogSink` writes.

    Attributes:
        file_path: The file; missing directories are made.
        level: Events below it are not written: a number or a level's name.
        mode: ``a`` appends to a file that is there, ``w`` begins by emptying it, ``x`` insists on a new one.
        encoding: Of text; one that holds ASCII as it is. JSON lines and logfmt are always UTF-8.
        format: ``text``, ``json`` (JSON lines: `mvx_logger.formats.json`) or ``logfmt``; None takes ``json`` for a path
            that ends in ``.jsonl`` or ``.ndjson``, else ``text``.
        log_format: The line of ``text``: see `mvx_logger.formats.text.TextFormatter`.
        date_format: Its ``asctime``, for `time.strftime`.
        formatter_factory: Makes a `logging.Formatter` for ``text`` instead: called with ``log_format`` and
            ``date_format``.
        filters: Filters of the standard library's kind (`logging.Filter` objects or callables); they see the event as a
            record whose name is the sink's ``logger_name``.
        utc: Tell and divide time in UTC; else in local time.
        max_bytes: Rotate before the file would grow beyond it. A single event that is larger gets a file of its own.
        rotate_every: Rotate when a period has ended: ``minute``, ``hour``, ``day``, ``week`` (from Monday), ``month``, or a
            number of seconds (periods are counted from the epoch, so that all processes agree on them).
        backup_count: How many rotated files are kept; None keeps all.
        backup_max_age: For how many seconds after its last event a rotated file is kept; None keeps it for ever.
        compress: ``gzip`` compresses rotated files, in the background.
        delay: Open the file with the first event, not with the start of the sink.
        permissions: The mode of a new file, as a number (``0o640``) or in octal digits (``"640"``); None leaves it to
            the process' umask.
        fsync: ``batch`` makes the disk confirm each batch; ``never`` leaves that to the operating system.

    A rotated file is named after the period that it tells of, or after the moment of its rotation, with a number where
    that is taken: ``app.log.2026-05-12``, ``app.log.2026-05-12_14-30-25``, ``app.log.2026-05-12.1.gz``. No other file is
    ever removed.

    Raises:
        LogConfigurationError: A value is wrong; the text names the field.
    """

    mode: Literal["a", "w", "x"] = "a"
    encoding: str = "utf-8"
    format: Literal["text", "json", "logfmt"] | None = None
    log_format: str = DEFAULT_LOG_FORMAT
    date_format: str = DEFAULT_DATE_FORMAT
    formatter_factory: Any = None
    filters: Any = None
    utc: bool = False
    max_bytes: int | None = None
    rotate_every: float | str | None = None
    backup_count: int | None = None
    backup_max_age: float | None = None
    compress: Literal["gzip"] | None = None
    delay: bool = False
    permissions: int | str | None = None
    fsync: Literal["never", "batch"] = "never"

    def __post_init__(self) -> None:
        settle = structs.force_setattr
        path = os.path.abspath(os.fspath(self.file_path))
        settle(self, "file_path", path)
        settle(self, "level", parse_level(self.level))
        if self.format is None:
            settle(self, "format", "json" if path.endswith((".jsonl", ".ndjson")) else "text")
        settle(self, "rotate_every", _parse_period(self.rotate_every))
        settle(self, "permissions", _parse_permissions(self.permissions))
        filters = self.filters
        if filters is not None:
            settle(self, "filters", tuple(filters) if isinstance(filters, (list, tuple)) else (filters,))
        _one_of("mode", self.mode, ("a", "w", "x"))
        _one_of("format", self.format, ("text", "json", "logfmt"))
        _one_of("compress", self.compress, (None, "gzip"))
        _one_of("fsync", self.fsync, ("never", "batch"))
        _at_least("max_bytes", self.max_bytes, 1)
        _at_least("backup_count", self.backup_count, 0)
        _at_least("backup_max_age", self.backup_max_age, 0)
        try:
            fits = "aZ9\n".encode(self.encoding) == b"aZ9\n"
        except LookupError as err:
            raise _wrong("encoding", f"unknown encoding {self.encoding!r}", err) from err
        if not fits:
            raise _wrong("encoding", f"{self.encoding!r} does not hold ASCII as it is; use 'utf-8'")
        if self.formatter_factory is not None and not callable(self.formatter_factory):
            raise _wrong("formatter_factory", f"expected a callable, got {type(self.formatter_factory).__name__}")


def _wrong(field: str, text: str, cause: BaseException | None = None) -> LogConfigurationError:
    return LogConfigurationError(f"{field}: {text}", details={"path": field}, cause=cause)


def _one_of(field: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise _wrong(field, f"{value!r} is not one of {', '.join(map(repr, allowed))}")


def _at_least(field: str, value: float | None, minimum: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= minimum):
        raise _wrong(field, f"expected a number of at least {minimum}, got {value!r}")


def _parse_period(value: float | str | None) -> float | str | None:
    if value is None or value in _PERIODS:
        return value
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if isinstance(value, bool) or not 0 < seconds < float("inf"):
        raise _wrong("rotate_every", f"{value!r} is neither one of {', '.join(_PERIODS)} nor a number of seconds")
    return seconds


def _parse_permissions(value: int | str | None) -> int | None:
    if value is None:
        return None
    try:
        mode = int(value, 8) if isinstance(value, str) else int(value)
    except (TypeError, ValueError):
        mode = -1
    if isinstance(value, bool) or not 0 <= mode <= 0o7777:
        raise _wrong("permissions", f"{value!r} is no mode; write it like 0o640 or '640'")
    return mode


class RotationPolicy:
    """Decides when a file is to be rotated and what it is called then. Pure: no clock, no file.

    Args:
        max_bytes: See `LoggingFileConfig`.
        rotate_every: See `LoggingFileConfig`.
        utc: See `LoggingFileConfig`.
    """

    def __init__(
        self, *, max_bytes: int | None = None, rotate_every: float | str | None = None, utc: bool = False
    ) -> None:
        self.max_bytes = max_bytes
        self.rotate_every = rotate_every
        self._to_time = time.gmtime if utc else time.localtime

    @property
    def is_active(self) -> bool:
        """True when anything is ever rotated."""
        return self.max_bytes is not None or self.rotate_every is not None

    def get_period(self, moment: float) -> str:
        """The name of the period that a moment (in seconds since the epoch) is in."""
        every = self.rotate_every
        if isinstance(every, str):
            tm = self._to_time(moment)
            if every == "week":
                # From noon to noon: a day may be an hour shorter or longer.
                tm = self._to_time(moment + (12 - tm.tm_hour) * 3600 - tm.tm_wday * 86400)
            return time.strftime(_PERIODS[every], tm)
        return time.strftime(_MOMENT, self._to_time(moment if every is None else moment // every * every))

    def _get_order(self, moment: float) -> float | str:
        # Sorts as the periods do, also in the hour that comes twice when daylight saving time ends.
        every = self.rotate_every
        if every == "minute":
            every = 60.0
        elif every == "hour":
            tm = self._to_time(moment)
            return moment // 1 - tm.tm_min * 60 - tm.tm_sec
        return self.get_period(moment) if isinstance(every, str) or every is None else moment // every

    def is_due(self, *, size: int, incoming: int, last_write: float, now: float) -> bool:
        """True when the file has to be rotated before it is written to.

        Args:
            size: Of the file now, in bytes; an empty file is never rotated.
            incoming: The size of the next event.
            last_write: When the file was written to last, in seconds since the epoch.
            now: The time now.
        """
        if not size:
            return False
        if self.max_bytes is not None and size + incoming > self.max_bytes:
            return True
        return self._is_over(last_write, now)

    def _is_over(self, last_write: float, now: float) -> bool:
        return (
            self.rotate_every is not None and self._get_order(last_write) < self._get_order(now)  # type: ignore[operator]
        )

    def get_label(self, *, last_write: float, now: float) -> str:
        """What is appended to the name of the file that is rotated."""
        if self._is_over(last_write, now):
            return self.get_period(last_write)
        return time.strftime(_MOMENT, self._to_time(now))

    def get_room(self, size: int) -> int | None:
        """How many more bytes fit; None when there is no limit."""
        return None if self.max_bytes is None else self.max_bytes - size


class _Backups:
    """The rotated files beside a log file."""

    def __init__(self, config: LoggingFileConfig, clock: Callable[[], float]) -> None:
        self._path = os.path.realpath(config.file_path)
        self._count = config.backup_count
        self._max_age = config.backup_max_age
        self._compress = config.compress is not None
        self._clock = clock
        name = re.escape(os.path.basename(self._path))
        moment = r"\d{4}-\d\d(?:-\d\d(?:_\d\d(?:-\d\d(?:-\d\d)?)?)?)?"
        self._pattern = re.compile(rf"{name}\.{moment}(?:\.\d+)?(\.gz(?:\.tmp)?)?")
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._again = False

    def get_free_name(self, label: str) -> str:
        name = f"{self._path}.{label}"
        number = 0
        candidate = name
        while os.path.lexists(candidate) or os.path.lexists(f"{candidate}.gz"):
            number += 1
            candidate = f"{name}.{number}"
        return candidate

    def list(self) -> list[tuple[float, str, bool]]:
        """Time of the last event, path, and whether it is plain; oldest first."""
        found = []
        try:
            with os.scandir(os.path.dirname(self._path)) as entries:
                for entry in entries:
                    match = self._pattern.fullmatch(entry.name)
                    if match is None or match[1] == ".gz.tmp":
                        continue
                    try:
                        found.append((entry.stat().st_mtime, entry.path, match[1] is None))
                    except OSError:  # another process removed it meanwhile
                        continue
        except OSError:
            return []
        return sorted(found)

    def maintain(self) -> None:
        """Remove what is too much and too old at once; compress in the background."""
        self._prune()
        if not self._compress:
            return
        with self._lock:
            self._again = True
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._compress_all, name="mvx-logger-compress", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the interpreter ends: the next process does it
                self._thread = None

    def join(self, timeout: float) -> None:
        thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _prune(self) -> None:
        backups = self.list()
        keep = len(backups) if self._count is None else self._count
        old = backups[: max(0, len(backups) - keep)]
        if self._max_age is not None:
            limit = self._clock() - self._max_age
            old += [entry for entry in backups[len(old) :] if entry[0] < limit]
        for _, path, _ in old:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            except OSError as err:
                selflog.report("file_retention", "a rotated file could not be removed", path=path, error=str(err))

    def _compress_all(self) -> None:
        while True:
            with self._lock:
                if not self._again:
                    self._thread = None
                    return
                self._again = False
            for _, path, is_plain in self.list():
                if is_plain:
                    try:
                        _compress_file(path)
                    except OSError as err:
                        selflog.report(
                            "file_compression", "a rotated file could not be compressed", path=path, error=str(err)
                        )
            self._prune()


def _compress_file(path: str) -> None:
    # Whoever holds the lock does it; a process that comes second finds the file gone.
    try:
        source = open(path, "rb")  # noqa: SIM115 - closed by the with below
    except FileNotFoundError:
        return
    with source:
        try:
            flock(source.fileno(), LOCK_EX | LOCK_NB)
            here = os.stat(path)
        except (BlockingIOError, FileNotFoundError):
            return
        except OSError:  # no locks here: one process at a time writes to the path
            here = os.stat(path)
        status = os.fstat(source.fileno())
        if not os.path.samestat(here, status):
            return
        temporary = f"{path}.gz.tmp"
        try:
            with open(temporary, "wb") as target:
                if hasattr(os, "fchmod"):
                    os.fchmod(target.fileno(), stat.S_IMODE(status.st_mode))
                with gzip.GzipFile(os.path.basename(path), "wb", 6, target, status.st_mtime) as packed:
                    shutil.copyfileobj(source, packed, 1 << 20)
                target.flush()
                os.fsync(target.fileno())
            os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))
            os.replace(temporary, f"{path}.gz")
        except BaseException:
            try:
                os.unlink(temporary)
            except OSError:
                pass
            raise
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


class LogFile:
    """The file itself: opened, locked, rotated, appended to. Blocks; used by one thread at a time.

    Args:
        config: How.
        clock: Tells the time, in seconds since the epoch.
        fresh: True for the first of a sink's: ``mode`` applies to it.

    Attributes:
        written: How many bytes of what `write` was given last are in the file for good: whole events, from the first one.
    """

    def __init__(
        self, config: LoggingFileConfig, *, clock: Callable[[], float] = time.time, fresh: bool = True
    ) -> None:
        self._path = os.fspath(config.file_path)
        self._mode = config.mode if fresh else "a"
        self._permissions = _parse_permissions(config.permissions)
        self._sync = config.fsync == "batch"
        self._clock = clock
        self._policy = RotationPolicy(max_bytes=config.max_bytes, rotate_every=config.rotate_every, utc=config.utc)
        self._rotates = self._policy.is_active
        self._backups = _Backups(config, clock)
        self._rotate_not_before = 0.0
        self._fd = -1
        self._identity: tuple[int, int] | None = None
        self._is_regular = False
        self._is_readable = False
        self._is_locked = False
        self._locks = True
        self._last_write: float | None = None
        self._stayed = 0
        self.written = 0

    def open(self) -> None:
        """Open the file, and look after what earlier processes rotated."""
        self._open()
        if self._rotates:
            self._backups.maintain()

    def write(self, data: bytes, ends: Sequence[int] | None = None) -> None:
        """Append events.

        Args:
            data: Whole events, each ended by a newline.
            ends: Where each event ends in ``data``; None when each is one line.

        Raises:
            OSError: The events behind `written` could not be written. They are not in the file, but where nothing can be
                taken back (a pipe, a file that may only grow): there the first of them may have left a torn line.
        """
        self.written = start = 0
        limited = self._policy.max_bytes is not None
        while start < len(data):
            self._prepare(_find_end(data, start, ends) - start if limited else 0)
            end = len(data)
            try:
                size = os.fstat(self._fd).st_size if self._is_regular else 0
                room = self._policy.get_room(size) if self._is_regular else None
                if room is not None and end - start > room:
                    end = _find_last_end(data, start, start + room, ends)
                self._append(data[start:end] if start or end < len(data) else data, size)
                if self._rotates:
                    self._note_write(size)
            except OSError:
                if self._stayed:
                    # The next write ends the last line, if it can see that it has to.
                    limit = start + self._stayed + (self._is_regular and self._is_readable)
                    self.written = _find_whole(data, start, min(limit, end), ends)
                    self._stayed = 0
                raise
            finally:
                self._unlock()
            self.written = start = end

    def _note_write(self, size: int) -> None:
        now = self._last_write = self._clock()
        if not size and self._is_regular and os.utime in os.supports_fd:
            # The kernel's own stamp lags behind by some milliseconds: enough for another process to take a file that
            # was begun at midnight for yesterday's.
            with suppress(OSError):  # the events are written, whatever their time
                os.utime(self._fd, (now, now))

    def close(self) -> None:
        """Close the file; a compression that runs gets a second more."""
        self._close()
        self._backups.join(1.0)

    def discard(self) -> None:
        """Close a descriptor that was inherited by a fork. The parent's lock stays where it is."""
        self._close()

    # ------------------------------------------------------------------ opening and closing

    def _open(self) -> None:
        mode, self._mode = self._mode, "a"
        flags = os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        if mode == "w":
            flags |= os.O_TRUNC
        elif mode == "x":
            flags |= os.O_EXCL
        try:
            fd = self._open_anyhow(flags)
            try:
                status = os.fstat(fd)
            except BaseException:
                os.close(fd)
                raise
        except BaseException:
            self._mode = mode
            raise
        self._fd = fd
        self._identity = (status.st_dev, status.st_ino)
        self._is_regular = stat.S_ISREG(status.st_mode)
        # The past of an empty file is of no interest.
        self._last_write = status.st_mtime if status.st_size else None

    def _open_anyhow(self, flags: int) -> int:
        attempts = 5
        while True:
            try:
                if self._permissions is None:
                    return self._open_for(flags, 0o666)
                try:
                    fd = self._open_for(flags | os.O_EXCL, self._permissions)
                except FileExistsError:
                    if flags & os.O_EXCL:
                        raise
                    return self._open_for(flags & ~os.O_CREAT, 0)
                try:
                    if hasattr(os, "fchmod"):
                        os.fchmod(fd, self._permissions)
                except BaseException:
                    os.close(fd)
                    raise
                return fd
            except FileNotFoundError:
                # No directory, or another process has just rotated the file away.
                attempts -= 1
                if not attempts:
                    raise
                os.makedirs(os.path.dirname(self._path), exist_ok=True)

    def _open_for(self, flags: int, permissions: int) -> int:
        # Reading is for a look at the last byte; a file that only may be written to does without.
        try:
            fd = os.open(self._path, flags | os.O_RDWR, permissions)
        except PermissionError:
            fd = os.open(self._path, flags | os.O_WRONLY, permissions)
            self._is_readable = False
        else:
            self._is_readable = hasattr(os, "pread")
        return fd

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            is_ours = self._is_ours(fd)
        except OSError:  # a file that its server has forgotten
            is_ours = True
        if is_ours:
            os.close(fd)

    def _is_ours(self, fd: int) -> bool:
        # Whoever closes all descriptors (a daemonizing process) may have given the number to another file.
        try:
            status = os.fstat(fd)
        except OSError as err:
            if err.errno == errno.EBADF:
                return False
            raise
        return (status.st_dev, status.st_ino) == self._identity

    def _is_in_place(self) -> bool:
        """True when the descriptor is open and is what stands at the path."""
        try:
            if self._fd < 0 or not self._is_ours(self._fd):
                return False
        except OSError:
            return False
        try:
            status = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # a directory that may not be searched any more: what is open stays open
            return True
        return (status.st_dev, status.st_ino) == self._identity

    # ------------------------------------------------------------------ locking and rotating

    def _prepare(self, incoming: int) -> None:
        """Have the right file open and locked."""
        deadline = time.monotonic() + _LOCK_TIMEOUT
        pause = 0.0005
        while True:
            if not self._is_in_place():
                self._close()
                self._open()
            if not self._is_regular:
                return
            if not self._lock():
                if time.monotonic() < deadline:
                    time.sleep(pause)
                    pause = min(pause * 2, 0.02)
                    continue
                # Its holder was stopped or hangs. Appending is safe without it; rotating is not.
                selflog.report("file_lock", "the lock on a log file is stuck; writing without it", path=self._path)
                return
            # Between the look and the lock it may have been rotated.
            if not self._is_in_place():
                self._unlock()
                continue
            if not self._rotates or not self._is_due(incoming) or not self._rotate():
                return

    def _lock(self) -> bool:
        """True when the lock is held, or where there are none."""
        if not self._locks:
            return True
        try:
            flock(self._fd, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            self._locks = False
            return True
        self._is_locked = True
        return True

    def _unlock(self) -> None:
        if self._is_locked:
            self._is_locked = False
            try:
                # Explicitly: a child that was forked meanwhile has the descriptor too.
                flock(self._fd, LOCK_UN)
            except OSError:
                pass

    def _is_due(self, incoming: int) -> bool:
        status = os.fstat(self._fd)
        now = self._clock()
        if now < self._rotate_not_before:
            return False
        # Other processes write too: the file's own time counts where it is the later one.
        last_write = status.st_mtime if self._last_write is None else max(self._last_write, status.st_mtime)
        if last_write > now and self._last_write is not None:
            last_write = self._last_write
        return self._policy.is_due(size=status.st_size, incoming=incoming, last_write=last_write, now=now)

    def _rotate(self) -> bool:
        """Move the file away, under its lock; True when a new one has to be opened."""
        now = self._clock()
        last_write = self._last_write if self._last_write is not None else os.fstat(self._fd).st_mtime
        target = self._backups.get_free_name(self._policy.get_label(last_write=last_write, now=now))
        try:
            if os.name == "nt":  # an open file cannot be renamed there
                self._close()
            os.rename(os.path.realpath(self._path), target)
        except OSError as err:
            self._rotate_not_before = now + _ROTATION_PAUSE
            selflog.report(
                "file_rotation", "a log file could not be rotated; it goes on", path=self._path, error=str(err)
            )
            return self._fd < 0
        finally:
            if self._fd < 0:
                self._is_locked = False
        self._unlock()
        self._close()
        self._open()
        self._backups.maintain()
        return True

    # ------------------------------------------------------------------ writing

    def _append(self, data: bytes, size: int) -> None:
        fd = self._fd
        ending = 0
        if size and self._is_readable and os.pread(fd, 1, size - 1) not in (b"\n", b""):
            data = b"\n" + data  # a crash has left half a line
            ending = 1
        written = os.write(fd, data)
        if written < len(data):
            view = memoryview(data)
            try:
                while written < len(data):
                    step = os.write(fd, view[written:])
                    if not step:
                        raise OSError(errno.EIO, "nothing was written", self._path)
                    written += step
            except OSError:
                if not self._take_back(written):
                    self._stayed = max(0, written - ending)
                raise
        if self._sync and self._is_regular:
            self._confirm(written)

    def _confirm(self, written: int) -> None:
        try:
            os.fsync(self._fd)
        except OSError as err:
            if err.errno in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                self._sync = False
                selflog.report("file_fsync", "this file system confirms nothing", path=self._path, error=str(err))
                return
            # The kernel has given up on these pages and would not tell a second time: they have to be written anew.
            self._take_back(written)
            raise

    def _take_back(self, written: int) -> bool:
        """Remove what was written last; False where that is not possible."""
        if not self._is_regular or (self._locks and not self._is_locked):
            return False
        try:
            end = os.lseek(self._fd, 0, os.SEEK_CUR)
            if os.fstat(self._fd).st_size != end:
                return False
            os.ftruncate(self._fd, end - written)
        except OSError:  # the next write ends the torn line
            return False
        return True


def _find_end(data: bytes, start: int, ends: Sequence[int] | None) -> int:
    """Where the event that begins at ``start`` ends."""
    if ends is None:
        return data.index(b"\n", start) + 1
    return ends[bisect_right(ends, start)]


def _find_last_end(data: bytes, start: int, limit: int, ends: Sequence[int] | None) -> int:
    """Where the last event before ``limit`` ends; the first one's end when it goes beyond."""
    if ends is None:
        end = data.rfind(b"\n", start, max(start, limit)) + 1
    else:
        index = bisect_right(ends, limit)
        end = ends[index - 1] if index else 0
    return end if end > start else _find_end(data, start, ends)


def _find_whole(data: bytes, start: int, limit: int, ends: Sequence[int] | None) -> int:
    """Where the last event ends that ends at ``limit`` or before; ``start`` when none does."""
    if ends is None:
        return max(start, data.rfind(b"\n", start, limit) + 1)
    index = bisect_right(ends, limit)
    return max(start, ends[index - 1] if index else 0)


S = TypeVar("S", bound="FileLogSink")


class FileLogSink(AsyncioLogSink):
    """Appends events to a file.

    Whatever the file system refuses counts as transient: a disk that is full, a directory that is gone, permissions. The
    events wait, and are written once and in order when the trouble is over. Only after the end of a process that had no
    time to confirm what it wrote may the next one write it again (see ``durable``).

    The fields of ``config`` may also stand beside the other options in `create`, in a configuration file and in a URL:
    ``file:///var/log/app.jsonl?max_bytes=10000000&backup_count=5`` (``file:app.log`` is relative to the working directory).

    Args:
        logger_name: The name that ``formatter_factory`` and ``filters`` see.
        config: Where and how to write.
        queue_max_size: How many events may wait. A local disk catches up with any burst that fits.
        **async_options: The others of `AsyncioLogSink`.

    Raises:
        TypeError: An argument has the wrong type.
    """

    url_schemes: ClassVar[tuple[str, ...]] = ("file",)
    config_option: ClassVar[tuple[str, type[LoggingFileConfig]]] = ("config", LoggingFileConfig)

    def __init__(
        self,
        *,
        logger_name: str = "mvx.file_log_sink",
        config: LoggingFileConfig,
        queue_max_size: int = 100_000,
        **async_options: Any,
    ) -> None:
        if not isinstance(logger_name, str):
            raise TypeError(f"logger_name: expected a str, got {type(logger_name).__name__}")
        if not isinstance(config, LoggingFileConfig):
            raise TypeError(f"config: expected LoggingFileConfig, got {type(config).__name__}")
        self._config = config
        self._level = parse_level(config.level)
        self._file: LogFile | None = None
        self._encode = _make_encoder(config, logger_name)
        # On the application's loop, a write that is given up on goes on in its thread; before the next one we look what
        # became of it. True when one was given up on; the last one, and how many of its events are in the file; the ids of
        # events that are there and will come again.
        self._in_doubt = False
        self._last: tuple[LogEventBatch, int] | None = None
        self._written: set[str] = set()
        super().__init__(queue_max_size=queue_max_size, **async_options)

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        """Check the options and say what they describe: the resource is the file's absolute path."""
        options = cls._options(kwargs)
        config: LoggingFileConfig = options.pop("config")
        fields = structs.asdict(config)
        return cls._describe("file", (os.fspath(fields.pop("file_path")),), {**fields, **options})

    @classmethod
    def create(cls: type[S], **kwargs: Any) -> tuple[S, LogSinkTerminator]:
        """Make a sink on a thread of its own. The fields of ``config`` may stand beside the other options."""
        return super().create(**cls._options(kwargs))

    @classmethod
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        """``file:///absolute/path`` or ``file:relative/path``."""
        path = unquote(url.path)
        if url.netloc not in ("", "localhost") or not path:
            raise LogConfigurationError(
                "a file's URL is file:///absolute/path.log or file:relative/path.log", details={"scheme": url.scheme}
            )
        return {"file_path": path}

    @classmethod
    def _options(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        return check_options(cls, kwargs)

    def log(self, event: LogEvent) -> None:
        """Accept an event; one below ``config.level`` is passed over. See `AsyncioLogSink.log`."""
        if event.level >= self._level:
            _accept(self, event)

    def __offer(self, event: LogEvent) -> bool:
        return event.level < self._level or _accept_light(self, event)

    offers[log] = __offer

    async def _on_starting(self) -> None:
        await self._run_blocking(self._start)

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        in_doubt, self._in_doubt = self._in_doubt, False
        try:
            await self._run_blocking(self._write_again if in_doubt else self._write, events)
        except asyncio.CancelledError:
            self._in_doubt = True
            raise
        finally:
            if not self._in_doubt:
                self._last = None

    async def _on_stopped(self) -> None:
        if self._file is not None:
            await self._run_blocking(self._file.close)

    def _start(self) -> None:
        before = self._file
        if before is not None:
            before.discard()
        self._file = LogFile(self._config, fresh=before is None)
        if not self._config.delay:
            self._file.open()

    def _write_again(self, events: LogEventBatch) -> None:
        # By now, what was given up on is over.
        if self._last is not None:
            batch, count = self._last
            self._written.update(batch.delivery_ids[:count])
        self._write(events)

    def _write(self, events: LogEventBatch) -> None:
        if self._written:
            left = [index for index, key in enumerate(events.delivery_ids) if key not in self._written]
            if len(left) < len(events):
                self._write_rest(events, left)
                return
            self._written.clear()  # those have all been confirmed
        count = len(events)
        try:
            self._write_all(events)
        except LogDeliveryPartialError as err:
            count -= len(err.retry)
            raise
        except BaseException:
            count = 0
            raise
        finally:
            self._last = events, count

    def _write_rest(self, events: LogEventBatch, left: list[int]) -> None:
        """Write those of the events that are not in the file yet."""
        rest = left
        try:
            if left:
                self._write_all([events[index] for index in left])
            rest = []
        except LogDeliveryPartialError as err:
            rest = [left[index] for index in err.retry]
            raise LogDeliveryPartialError(str(err), retry=rest, cause=err.cause) from err.cause
        except OSError as err:
            raise LogDeliveryPartialError(describe_error(err), retry=rest, cause=err) from err
        finally:
            missing = set(rest)
            self._written.update(key for index, key in enumerate(events.delivery_ids) if index not in missing)

    def _write_all(self, events: Sequence[LogEvent]) -> None:
        data, ends = self._encode(events)
        if not data:
            return
        file = self._file
        assert file is not None
        try:
            file.write(data, ends)
        except OSError as err:
            if not file.written:
                raise
            count = data.count(b"\n", 0, file.written) if ends is None else bisect_right(ends, file.written)
            raise LogDeliveryPartialError(describe_error(err), retry=range(count, len(events)), cause=err) from err


_accept, _accept_light = AsyncioLogSink.log, offers[AsyncioLogSink.log]
_Encoder = Callable[[Sequence[LogEvent]], tuple[bytes, Sequence[int] | None]]


def _make_encoder(config: LoggingFileConfig, logger_name: str) -> _Encoder:
    """What turns a batch into bytes, and tells where its events end in them: None when each is one line."""
    if config.format == "text":
        return _TextEncoder(config, logger_name)
    if config.format == "logfmt":
        from ..formats.logfmt import encode_lines
    else:
        from ..formats.json import encode_lines
    return lambda events: (encode_lines(events), None)


class _Ends(Sequence[int]):
    """Where texts end in the bytes that were made of them, each with a newline. Found out only when somebody asks, which is
    when something went wrong.

    Args:
        texts: None for what is not in the bytes: it ends where the one before it does.
        encoding: Theirs.
    """

    def __init__(self, texts: Sequence[str | None], encoding: str) -> None:
        self._texts = texts
        self._encoding = encoding

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(map(len, _encode(self._texts, self._encoding))))

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: Any) -> Any:
        return self._ends[index]


def _encode(texts: Iterable[str | None], encoding: str) -> list[bytes]:
    return [b"" if text is None else f"{text}\n".encode(encoding, "backslashreplace") for text in texts]


class _TextEncoder:
    def __init__(self, config: LoggingFileConfig, logger_name: str) -> None:
        self._encoding = config.encoding
        self._wants_ends = config.max_bytes is not None
        self._logger_name = logger_name
        self._format = TextFormatter(config.log_format, config.date_format, utc=config.utc).format
        self._formatter: logging.Formatter | None = None
        if config.formatter_factory is not None:
            self._formatter = config.formatter_factory(config.log_format, config.date_format)
        self._filters: tuple[Any, ...] = config.filters or ()

    def __call__(self, events: Sequence[LogEvent]) -> tuple[bytes, Sequence[int] | None]:
        if self._formatter is not None or self._filters:
            return self._join([self._format_by_record(event) for event in events])
        if self._wants_ends:
            return self._join(list(map(self._format, events)))
        texts = list(map(self._format, events))
        texts.append("")
        data = "\n".join(texts).encode(self._encoding, "backslashreplace")
        texts.pop()
        return data, _Ends(texts, self._encoding)

    def _join(self, texts: Sequence[str | None]) -> tuple[bytes, Sequence[int]]:
        parts = _encode(texts, self._encoding)
        return b"".join(parts), list(accumulate(map(len, parts)))

    def _format_by_record(self, event: LogEvent) -> str | None:
        from ..bridge.records import event_to_record, run_filters

        try:
            made = event_to_record(event, same_thread=False)
            made.name = self._logger_name
            record = run_filters(self._filters, made)
            if record is None:
                return None
            if self._formatter is not None:
                return self._formatter.format(record)
        except Exception as err:
            selflog.report("file_format", "a formatter or filter failed; the default format is used", error=repr(err))
        return self._format(event)
