"""``mvx-logger replay``: what a sink has left on the disk, or has given up, is delivered after all.

Both kinds of leftovers go the same way: through a sink of the target's class whose ``durable`` directory holds them. So
each event is removed from the disk when the target has confirmed it and not before, under the delivery id that it always
had, and a replay that was killed is continued by the next one.

A spool is such a directory already. A file of dead letters becomes one first: it is moved away to ``FILE.replay/letters``
(whoever writes dead letters begins a new file), its lines are copied to ``FILE.replay/spool.part``, which is renamed to
``FILE.replay/spool`` when all are in it. What is there decides how an interrupted replay goes on.
"""

from __future__ import annotations

import contextvars
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from msgspec import Struct

from ..bridge.config import SinkPlan, plan_sink
from ..delivery.dead_letter import DeadLetter, is_dead_letter, make_dead_letter, split_dead_letter
from ..delivery.sink import AsyncioLogSink, LogEventBatch
from ..delivery.spool import Spool, SpoolError, iter_spool, list_spool_labels
from ..delivery.stats import LogSinkStats
from ..errors import LogConfigurationError, LoggerError
from ..formats.json import LogEventDecodeError, decode_event
from ..model import LogEvent
from ..protocols import LogSinkProto
from ..registry import create_sink
from ..sinks.dead_letter import DeadLetterFile

__all__ = ["Leftovers", "Progress", "Replay", "ReplayError", "inspect"]

_LETTERS_LABEL = "replay"
_CHUNK = 1_000
_PAUSE = 0.1
_SPOOL_FILES = (".cursor", ".segment", ".dropped")


class ReplayError(LoggerError):
    """A replay cannot begin or go on; the text says why. Nothing is lost."""

    reason_code = "replay"


class Leftovers(Struct, frozen=True, kw_only=True):
    """What there is to replay.

    Attributes:
        source: The directory or file.
        events: How many.
        first, last: The times of the oldest and the newest event, in seconds since the epoch; None where there is none.
        reasons: How many dead letters there are by reason.
        sinks: How many events there are by the sink that has left them.
        unreadable: Lines of a file that are no events.
    """

    source: str
    events: int
    first: float | None
    last: float | None
    reasons: Mapping[str, int]
    sinks: Mapping[str, int]
    unreadable: int = 0


class Progress(Struct, frozen=True, kw_only=True):
    """How far a replay is.

    Attributes:
        total: Events to deliver.
        delivered: Events that the target has confirmed.
        refused: Events that it does not take; they are in the file of dead letters.
        lost: Events that could not even be written there, or were damaged on the disk.
        remaining: Events that are still to come.
        last_error: What went wrong last.
    """

    total: int
    delivered: int
    refused: int
    lost: int
    remaining: int
    last_error: str | None


def inspect(source: str) -> Leftovers:
    """Count what is there, without changing anything.

    Args:
        source: The directory of a spool, or a file of dead letters.

    Raises:
        ReplayError: It is neither, or cannot be read.
    """
    counted = _Count()
    if os.path.isdir(source):
        labels = _find_labels(source)
        for _, event in _iter_spool(source):
            counted.add(event, None)
        counted.sinks = {", ".join(labels): counted.events} if counted.events else {}
    else:
        state = f"{source}.replay"
        for path in (os.path.join(state, "spool"), os.path.join(state, "letters"), source):
            if os.path.isdir(path):
                for _, event in _iter_spool(path):
                    counted.add(*split_dead_letter(event))
            elif os.path.exists(path) and not (
                path.endswith("letters") and os.path.isdir(os.path.join(state, "spool"))
            ):
                for event in _read_lines(path, lambda _: counted.miss()):
                    counted.add(*split_dead_letter(event))
        if not os.path.exists(source) and not os.path.isdir(state):
            raise ReplayError(f"{source}: no such file or directory")
    return Leftovers(
        source=source,
        events=counted.events,
        first=counted.first,
        last=counted.last,
        reasons=dict(counted.reasons),
        sinks=dict(counted.sinks),
        unreadable=counted.unreadable,
    )


class _Count:
    def __init__(self) -> None:
        self.events = self.unreadable = 0
        self.first: float | None = None
        self.last: float | None = None
        self.reasons: Counter[str] = Counter()
        self.sinks: Mapping[str, int] = Counter()

    def add(self, event: LogEvent, letter: DeadLetter | None) -> None:
        self.events += 1
        self.first = event.timestamp if self.first is None else min(self.first, event.timestamp)
        self.last = event.timestamp if self.last is None else max(self.last, event.timestamp)
        if letter is not None and isinstance(self.sinks, Counter):
            self.reasons[letter.reason] += 1
            self.sinks[letter.sink] += 1

    def miss(self) -> None:
        self.unreadable += 1


class Replay:
    """One source on its way to one target.

    Args:
        source: The directory of a spool, or a file of dead letters.
        target: The URL of the sink.
        dead_letter: The file for what the target refuses; None takes the file that is replayed, and for a directory
            ``DIRECTORY.refused.jsonl``.
        any_events: Replay a file whose events are no dead letters, too, and remove them from it.
        give_up_after: Stop when nothing was delivered for so many seconds; None never does.
        report: Told what a person should know, a sentence at a time.

    Raises:
        LogConfigurationError: The URL is wrong.
        ReplayError: There is no such source, or it is of another kind.
    """

    def __init__(
        self,
        source: str,
        target: str,
        *,
        dead_letter: str | None = None,
        any_events: bool = False,
        give_up_after: float | None = 60.0,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._source = source = source.rstrip(os.sep) or source
        self._plan = plan_sink(target, path="--to")
        for option, reason in (
            ("durable", "what was not delivered stays where it was"),
            ("dead_letter", "--dead-letter says where events go that are refused"),
        ):
            if option in self._plan.options or option in self._plan.attached:
                raise LogConfigurationError(f"--to: leave out {option!r}: {reason}", details={"path": f"--to.{option}"})
        self._is_file = not os.path.isdir(source)
        if self._is_file and not os.path.exists(source) and not os.path.isdir(self._state):
            raise ReplayError(f"{source}: no such file or directory")
        if not self._is_file:
            _find_labels(source)
        self._dead_letter = dead_letter or (source if self._is_file else f"{source}.refused.jsonl")
        self._any_events = any_events
        self._give_up_after = give_up_after
        self._report = report
        self._stopped = False

    @property
    def _state(self) -> str:
        return f"{self._source}.replay"

    def stop(self) -> None:
        """Stop soon; what was not delivered stays where it is. May be called in a signal handler."""
        self._stopped = True

    def run(self, on_progress: Callable[[Progress], None] = lambda _: None) -> Progress:
        """Deliver everything.

        Args:
            on_progress: Called a few times a second.

        Returns:
            Where it ended. All is delivered when nothing remains and nothing was refused or lost.

        Raises:
            ReplayError: Another replay of this source is running, or the disk does not do what it should.
            LogSinkCreateError: The target's sink cannot be made.
        """
        if not self._is_file:
            return self._deliver_all(self._source, _find_labels(self._source), on_progress)
        if not os.path.isdir(self._state):
            self._check_kind()
        with _claim(self._state):
            spool = self._take_letters()
            progress = self._deliver_all(spool, [_LETTERS_LABEL], on_progress)
            if not progress.remaining:
                shutil.rmtree(self._state)
            return progress

    # ------------------------------------------------------------------ files

    def _take_letters(self) -> str:
        """Make a spool of the file, or find the one that an interrupted replay has made."""
        state = self._state
        letters, part, spool = (os.path.join(state, name) for name in ("letters", "spool.part", "spool"))
        try:
            if not os.path.isdir(spool):
                if not os.path.exists(letters):
                    os.rename(self._source, letters)
                shutil.rmtree(part, ignore_errors=True)
                self._copy(letters, part)
                os.rename(part, spool)
            else:
                self._report(f"continuing what an earlier replay has begun ({state})")
            with suppress(FileNotFoundError):
                os.unlink(letters)
        except OSError as err:
            raise ReplayError(f"{self._source}: {err.strerror or err}", cause=err) from err
        return spool

    def _check_kind(self) -> None:
        if self._any_events:
            return
        for event in _read_lines(self._source, lambda _: None):
            if is_dead_letter(event):
                return
        raise ReplayError(
            f"{self._source}: holds no dead letters; --any-events replays events of another file, and removes them from it"
        )

    def _copy(self, letters: str, directory: str) -> None:
        os.mkdir(directory, 0o700)
        unreadable: list[bytes] = []
        spool = Spool(directory, label=_LETTERS_LABEL, max_bytes=1 << 62)
        spool.open()
        try:
            chunk: list[LogEvent] = []
            for event in _read_lines(letters, unreadable.append):
                chunk.append(event)
                if len(chunk) == _CHUNK:
                    spool.append(chunk)
                    chunk.clear()
            if chunk:
                spool.append(chunk)
        finally:
            spool.close()
        if unreadable:
            kept = f"{self._source}.unreadable"
            with open(kept, "wb") as file:
                file.writelines(unreadable)
            self._report(f"{len(unreadable)} lines are no events; they are in {kept}")

    # ------------------------------------------------------------------ delivery

    def _deliver_all(self, directory: str, labels: Sequence[str], on_progress: Callable[[Progress], None]) -> Progress:
        total = sum(1 for _ in _iter_spool(directory))
        done = _Tally(total)
        for label in labels:
            while not self._stopped and self._deliver(directory, label, done, on_progress):
                pass
        left = sum(1 for _ in _iter_spool(directory))
        progress = done.make_progress(left)
        on_progress(progress)
        if left and not self._stopped and not done.has_given_up:
            self._report(
                f"{left} events belong to a process that is running, or to another version; they are left alone"
            )
        return progress

    def _deliver(self, directory: str, label: str, done: _Tally, on_progress: Callable[[Progress], None]) -> bool:
        """Deliver what a sink of this label takes over; False when there was nothing, or it has to end."""
        letters = _Letters(self._dead_letter)
        sink = make_replay_sink(self._plan, directory, label, letters)
        try:
            moved_at, before = time.monotonic(), -1
            while True:
                stats = sink.stats()
                on_progress(done.make_progress(done.total - done.settled - _settled(stats), stats))
                if not stats.pending:
                    break
                if self._stopped:
                    return False
                now = time.monotonic()
                if _settled(stats) != before:
                    moved_at, before = now, _settled(stats)
                elif self._give_up_after is not None and now - moved_at > self._give_up_after:
                    done.has_given_up = True
                    self._report(f"nothing was delivered for {self._give_up_after:g} seconds: {stats.last_error}")
                    return False
                time.sleep(_PAUSE)
        finally:
            sink.close()
            stats = sink.stats()
            done.add(stats)
            letters.close()
        return stats.recovered > 0


class _Tally:
    """What the runs that are over have done."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.delivered = self.refused = self.lost = 0
        self.last_error: str | None = None
        self.has_given_up = False

    @property
    def settled(self) -> int:
        return self.delivered + self.refused + self.lost

    def add(self, stats: LogSinkStats) -> None:
        self.delivered += stats.delivered
        self.refused += stats.dead_lettered
        self.lost += sum(stats.dropped.values())
        self.last_error = stats.last_error or self.last_error

    def make_progress(self, remaining: int, stats: LogSinkStats | None = None) -> Progress:
        stats = stats or LogSinkStats()
        return Progress(
            total=self.total,
            delivered=self.delivered + stats.delivered,
            refused=self.refused + stats.dead_lettered,
            lost=self.lost + sum(stats.dropped.values()),
            remaining=max(0, remaining),
            last_error=stats.last_error or self.last_error,
        )


def _settled(stats: LogSinkStats) -> int:
    return stats.accepted - stats.pending


class _Letters:
    """Takes dead letters of what may be a dead letter itself: the old reason gives way to the new one."""

    guards_itself = True

    def __init__(self, path: str) -> None:
        self._file = DeadLetterFile(path, max_bytes=None)

    def log(self, event: LogEvent) -> None:
        """Write the event as a letter, under the id that it had first."""
        inner, new = split_dead_letter(event)
        original, old = split_dead_letter(inner)
        if new is not None:
            event = make_dead_letter(
                original,
                reason=new.reason,
                error=new.error,
                sink=new.sink,
                delivery_id=new.delivery_id if old is None else old.delivery_id,
                attempts=new.attempts + (0 if old is None else old.attempts),
                at=new.at,
            )
        self._file.log(event)

    def close(self) -> None:
        self._file.close()


def make_replay_sink(plan: SinkPlan, directory: str, label: str, dead_letter: LogSinkProto) -> AsyncioLogSink:
    """A running sink that delivers what is in a directory under a label, as the target's class would.

    Args:
        plan: The target.
        directory: The spool's directory.
        label: Whose events are taken over from it.
        dead_letter: A sink for what is refused.

    Raises:
        LogConfigurationError: The target takes no events.
        LogSinkCreateError: It cannot be made.
    """
    target = plan.sink_cls
    options: dict[str, Any] = {"durable": directory, "spool_max_bytes": 1 << 62, "dead_letter": dead_letter}
    base: type[AsyncioLogSink]
    if isinstance(target, type) and issubclass(target, AsyncioLogSink):
        base = target
        options = {"shutdown_timeout": 2.0, **plan.options, **options}
    else:
        base = _ForwardingSink
        options["make"] = plan.make
    is_batched = base._dispatch_batch is not AsyncioLogSink._dispatch_batch
    overrides: dict[str, Any] = {"_label": lambda _: label}
    if is_batched:

        async def dispatch_batch(self: Any, events: LogEventBatch) -> None:
            await base._dispatch_batch(self, _open_letters(events))

        overrides["_dispatch_batch"] = dispatch_batch
    else:

        async def dispatch_core(self: Any, event: LogEvent) -> None:
            await base._dispatch_core(self, split_dead_letter(event)[0])

        overrides["_dispatch_core"] = dispatch_core
    replaying = type(base.__name__, (base,), overrides)
    sink, _ = create_sink(replaying, options)
    assert isinstance(sink, AsyncioLogSink)
    return sink


def _open_letters(events: LogEventBatch) -> LogEventBatch:
    """The events themselves, under the ids that they were to be delivered under."""
    opened = [split_dead_letter(event) for event in events]
    if all(letter is None for _, letter in opened):
        return events
    ids = [
        own if letter is None else letter.delivery_id
        for (_, letter), own in zip(opened, events.delivery_ids, strict=True)
    ]
    return LogEventBatch._with_ids([event for event, _ in opened], ids, events.attempt)


class _ForwardingSink(AsyncioLogSink):
    """Stands for a target that is no `AsyncioLogSink`.

    Args:
        make: Makes it.
        **async_options: The options of `AsyncioLogSink`.
    """

    def __init__(self, *, make: Callable[[], Any], **async_options: Any) -> None:
        super().__init__(**async_options)
        self._make = make
        self._lease: Any = None

    async def _on_starting(self) -> None:
        self._lease = self._make()

    async def _dispatch_core(self, event: LogEvent) -> None:
        # What this thread logs is the logging path's own, and sinks refuse it; but this is not ours.
        contextvars.Context().run(self._lease.sink.log, event)

    async def _on_stopped(self) -> None:
        if self._lease is not None:
            self._lease.release()


# ---------------------------------------------------------------------- reading


def _find_labels(directory: str) -> list[str]:
    try:
        labels = list_spool_labels(directory)
    except SpoolError as err:
        raise ReplayError(str(err), cause=err) from err
    names = os.listdir(directory)
    if names and not any(name.endswith(_SPOOL_FILES) for name in names):  # one that was emptied has no files
        raise ReplayError(f"{directory}: holds no spool; it is what the option durable= of a sink names")
    return labels


def _iter_spool(directory: str) -> Iterator[tuple[str, LogEvent]]:
    try:
        yield from iter_spool(directory)
    except SpoolError as err:
        raise ReplayError(str(err), cause=err) from err


def _read_lines(path: str, on_unreadable: Callable[[bytes], None]) -> Iterator[LogEvent]:
    try:
        with open(path, "rb") as file:
            for line in file:
                if not line.strip():
                    continue
                try:
                    yield decode_event(line)
                except LogEventDecodeError:
                    on_unreadable(line if line.endswith(b"\n") else line + b"\n")
    except OSError as err:
        raise ReplayError(f"{path}: {err.strerror or err}", cause=err) from err


@contextmanager
def _claim(state: str) -> Iterator[None]:
    """Make sure that no other process replays the same file."""
    os.makedirs(state, 0o700, exist_ok=True)
    fd = os.open(os.path.join(state, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _lock(fd):
            raise ReplayError(f"{state}: another replay of this file is running")
        yield
    finally:
        os.close(fd)


if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> bool:
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
