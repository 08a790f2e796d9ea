"""`DeadLetterFile`: events into a file of JSON lines, one by one, at once."""

from __future__ import annotations

import os
from collections import deque
from typing import Any, ClassVar, Literal

from ..delivery.dead_letter import is_dead_letter
from ..delivery.stats import LogSinkStats
from ..errors import LogConfigurationError
from ..formats.json import encode_event
from ..guard import is_internal, mark, report_recursion
from ..model import LogEvent
from ..options import check_options
from ..protocols import LogSinkDescriptor, LogSinkTerminator
from .file import LogFile, LoggingFileConfig
from .memory import _Counter

__all__ = ["DeadLetterFile"]


class DeadLetterFile:
    """Appends each event to a file, as a line of JSON (`mvx_logger.formats.json`), before ``log`` returns.

    Made for what other sinks give up: few events, each of which counts. The file is opened with the first event, and
    anew when it was moved away. Threads and processes may share it, also by fork; a line is written whole or not at all.
    It takes no lock of its own: what waits, for five seconds at most, is the writing while another process or thread
    rotates or writes.

    Args:
        path: The file; missing directories are made.
        max_bytes: Rotate before the file would grow beyond it; None never rotates. See `LoggingFileConfig`.
        backup_count: How many rotated files are kept; the oldest are removed. None keeps all.
        permissions: The mode of a new file, as a number or in octal digits: what a destination refused may be nobody
            else's business. None leaves it to the process' umask.
        fsync: ``batch`` makes the disk confirm each event; ``never`` leaves that to the operating system.

    Raises:
        TypeError: ``path`` is neither a str nor a path.
        LogConfigurationError: Another value is wrong; the text names it.
    """

    guards_itself: ClassVar[bool] = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int | None = 100 * 1024 * 1024,
        backup_count: int | None = 9,
        permissions: int | str | None = 0o600,
        fsync: Literal["never", "batch"] = "never",
    ) -> None:
        if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
            raise TypeError(f"path: expected a str or a path, got {type(path).__name__}")
        if not os.fspath(path):
            raise LogConfigurationError("path: expected a file, got an empty str", details={"path": "path"})
        self._config = LoggingFileConfig(
            file_path=os.fspath(path),
            format="json",
            max_bytes=max_bytes,
            backup_count=backup_count,
            permissions=permissions,
            fsync=fsync,
        )
        # The file, with the process that has opened it. Whoever writes takes it out; who finds none opens one: a
        # finalizer that logs, or another thread, never waits for a lock that it interrupted.
        self._idle: deque[tuple[int, LogFile]] = deque()
        self._written = _Counter()
        self._failed = _Counter()
        self._rejected = _Counter()

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        """Check the options and say what they describe: the resource is the file's absolute path."""
        options = check_options(cls, kwargs)
        made = cls(**options)
        del options["path"]
        return LogSinkDescriptor("dead_letter", (made.path,), tuple(sorted(options.items())))

    @classmethod
    def create(cls, **kwargs: Any) -> tuple[DeadLetterFile, LogSinkTerminator]:
        """Make a sink; its terminator is `close`."""
        sink = cls(**check_options(cls, kwargs))
        return sink, sink.close

    @property
    def path(self) -> str:
        """The file's absolute path."""
        return os.fspath(self._config.file_path)

    def log(self, event: LogEvent) -> None:
        """Write the event.

        A dead letter (see `mvx_logger.delivery.dead_letter`) is written wherever it comes from. Any other event that is
        logged by the logging path itself is refused, as by every sink.

        Raises:
            OSError: It could not be written; nothing of it is in the file.
        """
        if is_internal() and not is_dead_letter(event):
            self._rejected.increment()
            report_recursion(event.meta.event_namespace, event.meta.event_name)
            return
        before = mark.value
        try:
            mark.value = True
            self._write(encode_event(event) + b"\n")
        except BaseException:
            self._failed.increment()
            raise
        finally:
            mark.value = before
        self._written.increment()

    def _write(self, line: bytes) -> None:
        pid = os.getpid()
        file: LogFile | None = None
        try:
            owner, file = self._idle.pop()
        except IndexError:
            owner = pid
        if file is not None and owner != pid:
            # The parent's: a lock on it would be the parent's too.
            file.discard()
            file = None
        if file is None:
            file = LogFile(self._config)
        try:
            file.write(line)
        except BaseException:
            file.close()
            raise
        if self._idle:
            file.close()
        else:
            self._idle.append((pid, file))

    def close(self) -> None:
        """Close the file. Idempotent; an event that comes later opens it again."""
        while self._idle:
            try:
                owner, file = self._idle.pop()
            except IndexError:  # somebody writes
                return
            if owner == os.getpid():
                file.close()
            else:
                file.discard()

    def flush(self, timeout: float | None = None) -> bool:
        """True: every event is written before ``log`` returns."""
        return True

    def stats(self) -> LogSinkStats:
        """How many events were written, how many could not be, and how many were refused."""
        written, failed, rejected = self._written.get(), self._failed.get(), self._rejected.get()
        return LogSinkStats(
            accepted=written + failed,
            delivered=written,
            dropped={"error": failed} if failed else {},
            rejected={"recursion": rejected} if rejected else {},
        )

    def __repr__(self) -> str:
        return f"<DeadLetterFile {self.path}>"
