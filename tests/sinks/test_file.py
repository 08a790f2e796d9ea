"""`mvx_logger.sinks.file`: events into files, by many threads and processes, through rotations and accidents."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import json
import logging
import os
import pathlib
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events import MOMENT, make_event
from mvx_logger import selflog
from mvx_logger.errors import AsyncioLogSinkOnStartingHookFailedError, LogConfigurationError
from mvx_logger.formats.json import decode_lines
from mvx_logger.model import LogException
from mvx_logger.sinks import file as file_module
from mvx_logger.sinks.file import FileLogSink, LogFile, LoggingFileConfig, RotationPolicy
from repetitions import often

DAY = 86400.0

needs_locks = pytest.mark.skipif(sys.platform == "win32", reason="advisory locks")


@contextlib.contextmanager
def running(**options: Any) -> Iterator[FileLogSink]:
    sink, close = FileLogSink.create(**options)
    try:
        yield sink
    finally:
        close()


@pytest.fixture
def reports() -> Iterator[list[selflog.SelfLogReport]]:
    found: list[selflog.SelfLogReport] = []
    previous = selflog.redirect(found.append)
    interval = selflog.get_interval()
    selflog.set_interval(0)
    yield found
    selflog.set_interval(interval)
    selflog.redirect(previous)


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def choose(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield choose
    monkeypatch.undo()
    time.tzset()


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.005)


def read_numbers(*paths: pathlib.Path) -> list[tuple[int, int]]:
    """(writer, number) of every event in JSON-lines files, gzipped or not, in their order."""
    found = []
    for path in paths:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert data.endswith(b"\n") or not data
        found += [(event.payload["w"], event.payload["n"]) for event in decode_lines(data.splitlines(keepends=True))]
    return found


def files_of(path: pathlib.Path) -> list[pathlib.Path]:
    """The file and what was rotated, oldest first."""
    rotated = [other for other in path.parent.iterdir() if other != path]
    return [*sorted(rotated, key=lambda other: (other.stat().st_mtime_ns, other.name)), path]


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make_file(path: pathlib.Path, clock: Callable[[], float] = time.time, **options: Any) -> LogFile:
    return LogFile(LoggingFileConfig(path, **options), clock=clock)


WRITER = textwrap.dedent(
    """
    import sys, os, time
    from mvx_logger.model import LogEvent, LogEventMeta
    from mvx_logger.sinks.file import FileLogSink
    from mvx_logger.delivery.sink import AsyncioLogSinkQueueOverflowPolicy as Policy

    writer, count, options = int(sys.argv[1]), int(sys.argv[2]), eval(sys.argv[3])
    sink, close = FileLogSink.create(
        queue_overflow_policy=Policy.BLOCK, block_timeout=60.0, shutdown_timeout=60.0, **options
    )
    print("ready", flush=True)
    sys.stdin.readline()
    meta = LogEventMeta("child", "tick")
    for n in range(count):
        sink.log(LogEvent(level=20, meta=meta, event_outcome=None, timestamp=time.time(), payload={"w": writer, "n": n}))
        if n % 50 == 0 and n:
            sink.flush(60)
            if "slow" in sys.argv:
                time.sleep(0.002)
    close()
    assert sink.stats().delivered == count, sink.stats()
    """
)


def start_writer(writer: int, count: int, *flags: str, **options: Any) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(writer), str(count), repr(options), *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def release(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def finish(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.communicate(timeout=100)
        assert process.returncode == 0


class TestConfig:
    """`LoggingFileConfig`."""

    def test_path_and_level_are_positional_and_the_rest_has_defaults(self, tmp_path: pathlib.Path) -> None:
        """As the contract writes it."""
        config = LoggingFileConfig(str(tmp_path / "a.log"), logging.DEBUG)
        assert (config.level, config.mode, config.encoding, config.format) == (10, "a", "utf-8", "text")
        assert LoggingFileConfig(tmp_path / "a.log").level == logging.INFO
        assert LoggingFileConfig(tmp_path / "a.jsonl").format == "json"
        assert LoggingFileConfig(tmp_path / "a.jsonl", format="text").format == "text"
        with pytest.raises(TypeError):
            LoggingFileConfig(tmp_path / "a.log", 10, "w")  # type: ignore[misc]

    def test_a_relative_path_is_relative_to_the_directory_of_the_moment(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A later chdir() does not move the log."""
        monkeypatch.chdir(tmp_path)
        config = LoggingFileConfig("a.log")
        assert config.file_path == str(tmp_path / "a.log")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("level", "loud"),
            ("mode", "r"),
            ("format", "xml"),
            ("encoding", "utf-16"),
            ("encoding", "klingon"),
            ("compress", "zip"),
            ("fsync", "always"),
            ("max_bytes", 0),
            ("max_bytes", "many"),
            ("backup_count", -1),
            ("backup_count", True),
            ("backup_max_age", float("nan")),
            ("rotate_every", "fortnight"),
            ("rotate_every", 0),
            ("rotate_every", True),
            ("rotate_every", float("inf")),
            ("permissions", "rw-r--r--"),
            ("permissions", 0o10000),
            ("permissions", True),
            ("formatter_factory", "no"),
        ],
    )
    def test_a_wrong_value_names_its_field(self, tmp_path: pathlib.Path, field: str, value: Any) -> None:
        """Before anything is opened."""
        with pytest.raises(LogConfigurationError, match=field):
            LoggingFileConfig(tmp_path / "a.log", **{field: value})
        with pytest.raises(LogConfigurationError, match=field):
            FileLogSink.build_descriptor(file_path=tmp_path / "a.log", **{field: value})
        assert not list(tmp_path.iterdir())

    def test_the_descriptor_is_the_absolute_path_and_the_rest(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However the same options are written, the descriptor is the same."""
        monkeypatch.chdir(tmp_path)
        one = FileLogSink.build_descriptor(config=LoggingFileConfig("a.log", max_bytes=5), queue_max_size=7)
        two = FileLogSink.build_descriptor(file_path=tmp_path / "a.log", max_bytes=5, queue_max_size=7)
        three = FileLogSink.build_descriptor(config={"file_path": "a.log", "max_bytes": 5}, queue_max_size=7)
        assert one == two == three
        assert hash(one) == hash(two)
        assert (one.sink_type, one.resource_key) == ("file", (str(tmp_path / "a.log"),))
        assert one != FileLogSink.build_descriptor(file_path="a.log", max_bytes=6, queue_max_size=7)
        assert one != FileLogSink.build_descriptor(file_path="a.log", max_bytes=5)

    def test_wrong_arguments_of_the_sink_are_named(self, tmp_path: pathlib.Path) -> None:
        """A wrong type is a TypeError, an unknown option says so."""
        with pytest.raises(TypeError, match="config: expected LoggingFileConfig"):
            FileLogSink(config="a.log")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="logger_name"):
            FileLogSink(logger_name=3, config=LoggingFileConfig(tmp_path / "a"))  # type: ignore[arg-type]
        with pytest.raises(LogConfigurationError, match="max_byte"):
            FileLogSink.create(file_path=tmp_path / "a", max_byte=3)
        with pytest.raises(LogConfigurationError, match="missing"):
            FileLogSink.create()


class TestRotationPolicy:
    """When, and under which name: no clock, no file."""

    def test_without_limits_nothing_is_ever_due(self) -> None:
        """The default is to go on for ever."""
        policy = RotationPolicy()
        assert not policy.is_active
        assert not policy.is_due(size=10**12, incoming=1, last_write=0.0, now=1e12)
        assert policy.get_room(5) is None

    def test_size_is_due_when_the_next_event_would_not_fit(self) -> None:
        """To the byte; an empty file takes whatever comes."""
        policy = RotationPolicy(max_bytes=100)
        assert policy.is_active
        assert not policy.is_due(size=90, incoming=10, last_write=0.0, now=0.0)
        assert policy.is_due(size=90, incoming=11, last_write=0.0, now=0.0)
        assert not policy.is_due(size=0, incoming=1000, last_write=0.0, now=0.0)
        assert policy.get_room(90) == 10
        assert policy.get_label(last_write=0.0, now=MOMENT) == time.strftime(
            "%Y-%m-%d_%H-%M-%S", time.localtime(MOMENT)
        )

    @pytest.mark.parametrize(
        ("every", "last", "boundary", "label"),
        [
            ("minute", "2026-05-12 14:30:25", "2026-05-12 14:31:00", "2026-05-12_14-30"),
            ("hour", "2026-05-12 14:30:25", "2026-05-12 15:00:00", "2026-05-12_14"),
            ("day", "2026-05-12 14:30:25", "2026-05-13 00:00:00", "2026-05-12"),
            ("week", "2026-05-12 14:30:25", "2026-05-18 00:00:00", "2026-05-11"),
            ("week", "2026-05-11 00:00:00", "2026-05-18 00:00:00", "2026-05-11"),
            ("week", "2026-05-17 23:59:59", "2026-05-18 00:00:00", "2026-05-11"),
            ("month", "2026-05-12 14:30:25", "2026-06-01 00:00:00", "2026-05"),
            (3600, "2026-05-12 14:30:25", "2026-05-12 15:00:00", "2026-05-12_14-00-00"),
            (90, "2026-05-12 14:30:25", "2026-05-12 14:31:30", "2026-05-12_14-30-00"),
            (0.5, "2026-05-12 14:30:25", "2026-05-12 14:30:25.500000", "2026-05-12_14-30-25"),
        ],
    )
    def test_a_period_ends_at_its_boundary(self, every: Any, last: str, boundary: str, label: str) -> None:
        """Not a microsecond earlier; the file is named after the period that it tells of."""
        import datetime

        policy = RotationPolicy(rotate_every=every, utc=True)
        written = datetime.datetime.fromisoformat(last + "+00:00").timestamp()
        end = datetime.datetime.fromisoformat(boundary + "+00:00").timestamp()
        assert not policy.is_due(size=1, incoming=1, last_write=written, now=end - 0.000001)
        assert policy.is_due(size=1, incoming=1, last_write=written, now=end)
        assert not policy.is_due(size=0, incoming=1, last_write=written, now=end)
        assert policy.get_label(last_write=written, now=end) == label

    def test_a_clock_that_is_set_back_rotates_nothing(self) -> None:
        """The past is not a new period."""
        policy = RotationPolicy(rotate_every="day", utc=True)
        assert not policy.is_due(size=1, incoming=1, last_write=MOMENT, now=MOMENT - 3 * DAY)

    @pytest.mark.parametrize("every", ["minute", "hour", 60, 3600])
    def test_the_hour_that_comes_twice_is_two_hours(self, zone: Callable[[str], None], every: Any) -> None:
        """When daylight saving time ends, local names repeat, but periods do not."""
        zone("Europe/Berlin")
        policy = RotationPolicy(rotate_every=every)
        first = 1_792_886_400.0 + 1800  # 2026-10-25 02:30 CEST; an hour later it is 02:30 CET
        assert time.localtime(first).tm_hour == time.localtime(first + 3600).tm_hour
        assert policy.is_due(size=1, incoming=1, last_write=first, now=first + 3600)

    def test_midnight_is_where_the_program_lives(self, zone: Callable[[str], None]) -> None:
        """Local time unless utc is asked for."""
        zone("Asia/Tokyo")
        before, after = 1_778_596_225.0, 1_778_596_225.0 + 1800  # 23:30 and 00:00 in Tokyo
        assert RotationPolicy(rotate_every="day").is_due(size=1, incoming=1, last_write=before, now=after)
        assert not RotationPolicy(rotate_every="day", utc=True).is_due(size=1, incoming=1, last_write=before, now=after)

    @given(
        st.sampled_from(["minute", "hour", "day", "week", "month", 7.5, 3600.0]),
        st.floats(0, 4e9),
        st.floats(0, 4e9),
        st.floats(0, 4e9),
    )
    @settings(max_examples=often(100))
    def test_periods_follow_each_other(self, every: Any, a: float, b: float, c: float) -> None:
        """Between two moments of one period there is no other period."""
        low, middle, high = sorted((a, b, c))
        policy = RotationPolicy(rotate_every=every)

        def due(last: float, now: float) -> bool:
            return policy.is_due(size=1, incoming=1, last_write=last, now=now)

        assert not due(high, low)
        if not due(low, high):
            assert not due(low, middle)
            assert not due(middle, high)
            if isinstance(every, str):
                assert policy.get_period(low) == policy.get_period(high)


class TestContent:
    """What stands in the file."""

    def test_text_is_the_default(self, tmp_path: pathlib.Path) -> None:
        """The line of the contract."""
        path = tmp_path / "a.log"
        with running(config=LoggingFileConfig(path, utc=True)) as sink:
            sink.log(make_event(payload={"service": "demo"}))
            sink.log(make_event("é", level=30, exception=LogException("E", "m", "Traceback\nE: m")))
        assert path.read_text("utf-8") == (
            "2026-05-12 14:30:25 INFO: shop.app.started {'service': 'demo'}\n"
            "2026-05-12 14:30:25 WARNING: shop.é\n  Traceback\n  E: m\n"
        )

    def test_json_lines_come_back_as_events(self, tmp_path: pathlib.Path) -> None:
        """Every field of every event."""
        path = tmp_path / "a.jsonl"
        batch = [make_event(f"e{n}", payload={"n": n, "list": [n, {"x": None}]}) for n in range(10)]
        with running(file_path=path) as sink:
            for event in batch:
                sink.log(event)
        assert list(decode_lines(path.read_bytes().splitlines())) == batch

    def test_logfmt_is_a_format_too(self, tmp_path: pathlib.Path) -> None:
        """key=value"""
        with running(file_path=tmp_path / "a.log", format="logfmt") as sink:
            sink.log(make_event(payload={"n": 1}))
        assert (tmp_path / "a.log").read_text().endswith(" event=app.started n=1\n")

    def test_events_below_the_level_are_not_even_accepted(self, tmp_path: pathlib.Path) -> None:
        """They cost nothing and count nowhere."""
        path = tmp_path / "a.log"
        with running(file_path=path, level="warning") as sink:
            for level in (10, 20, 29, 30, 31, 50):
                sink.log(make_event(f"l{level}", level=level))
            assert sink.flush(10)
            assert sink.stats().accepted == 3
        assert [line.rpartition(".")[2] for line in path.read_text().splitlines()] == ["l30", "l31", "l50"]

    def test_formatter_factory_and_filters_see_records(self, tmp_path: pathlib.Path) -> None:
        """A formatter of the standard library makes the line; filters pass, refuse and replace."""
        path = tmp_path / "a.log"
        seen: list[str] = []

        def filter_(record: logging.LogRecord) -> Any:
            seen.append(record.name)
            if "secret" in record.getMessage():
                return False
            if "replace" in record.getMessage():
                return logging.makeLogRecord({"msg": "replaced", "levelname": "INFO", "n": 9})
            return True

        with running(
            file_path=path,
            log_format="[%(levelname)s] %(message)s n=%(n)s",
            formatter_factory=lambda fmt, datefmt: logging.Formatter(fmt, datefmt),
            filters=[filter_],
            logger_name="my.file",
        ) as sink:
            for name in ("open", "secret", "replace"):
                sink.log(make_event(name, payload={"n": 1}))
        assert path.read_text() == "[INFO] shop.open {'n': 1} n=1\n[INFO] replaced n=9\n"
        assert seen == ["my.file"] * 3

    def test_a_formatter_that_raises_loses_no_event(
        self, tmp_path: pathlib.Path, reports: list[selflog.SelfLogReport]
    ) -> None:
        """The default line takes its place, and the trouble is told."""

        class Broken(logging.Formatter):
            def format(self, record: logging.LogRecord) -> str:
                raise RuntimeError("broken")

        path = tmp_path / "a.log"
        with running(file_path=path, formatter_factory=lambda *_: Broken(), log_format="%(title)s") as sink:
            sink.log(make_event())
        assert path.read_text() == "shop.app.started\n"
        assert reports[0].kind == "file_format"

    def test_filters_alone_leave_the_default_line(self, tmp_path: pathlib.Path) -> None:
        """And a batch of which nothing passes writes nothing."""
        path = tmp_path / "a.log"
        with running(file_path=path, filters=lambda record: record.levelno > 20, log_format="%(title)s") as sink:
            sink.log(make_event("no"))
            assert sink.flush(10)
            assert path.read_bytes() == b""
            sink.log(make_event("yes", level=30))
        assert path.read_text() == "shop.yes\n"

    def test_what_the_encoding_does_not_have_is_escaped(self, tmp_path: pathlib.Path) -> None:
        """Latin-1 has no snowman."""
        path = tmp_path / "a.log"
        with running(file_path=path, encoding="latin-1", log_format="%(title)s") as sink:
            sink.log(make_event("é☃"))
        assert path.read_bytes() == b"shop.\xe9\\u2603\n"

    def test_mode_w_begins_anew_and_only_once(self, tmp_path: pathlib.Path) -> None:
        """What was there before goes; what a stopped and restarted sink wrote stays."""
        path = tmp_path / "a.log"
        path.write_text("old\n")
        with running(file_path=path, mode="w", log_format="%(event)s") as sink:
            sink.log(make_event("one"))
            sink.stop().wait(10)
            assert sink.start().wait(10).success
            sink.log(make_event("two"))
        assert path.read_text() == "one\ntwo\n"

    def test_mode_a_appends_and_mode_x_insists(self, tmp_path: pathlib.Path) -> None:
        """As for open()."""
        path = tmp_path / "a.log"
        for name in ("one", "two"):
            with running(file_path=path, log_format="%(event)s") as sink:
                sink.log(make_event(name))
        assert path.read_text() == "one\ntwo\n"
        with pytest.raises(AsyncioLogSinkOnStartingHookFailedError, match="FileExistsError"):
            FileLogSink.create(file_path=path, mode="x")
        with running(file_path=tmp_path / "new.log", mode="x", permissions="600") as sink:
            sink.log(make_event())
        with pytest.raises(AsyncioLogSinkOnStartingHookFailedError, match="FileExistsError"):
            FileLogSink.create(file_path=path, mode="x", permissions="600")

    def test_directories_are_made_and_delay_waits_for_the_first_event(self, tmp_path: pathlib.Path) -> None:
        """Nothing is on the disk before it has to be."""
        path = tmp_path / "a" / "b" / "c.log"
        with running(file_path=path, delay=True) as sink:
            assert not path.parent.exists()
            sink.log(make_event())
        assert path.exists()

    def test_a_path_that_cannot_be_opened_fails_at_once(self, tmp_path: pathlib.Path) -> None:
        """A directory, a file in the place of a directory, a link to nowhere."""
        (tmp_path / "file").write_text("")
        (tmp_path / "link").symlink_to(tmp_path / "no" / "such")
        for path in (tmp_path, tmp_path / "file" / "a.log", tmp_path / "link"):
            with pytest.raises(AsyncioLogSinkOnStartingHookFailedError):
                FileLogSink.create(file_path=path)

    @pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
    def test_permissions_are_those_that_were_asked_for(self, tmp_path: pathlib.Path) -> None:
        """Whatever the umask says, for new files and for rotated ones; a file that is there keeps its own."""
        path = tmp_path / "a.jsonl"
        old = tmp_path / "old.jsonl"
        old.write_text("")
        old.chmod(0o604)
        umask = os.umask(0o077)
        try:
            with running(file_path=path, permissions=0o664, max_bytes=1, compress="gzip") as sink:
                for n in range(3):
                    sink.log(make_event(payload={"w": 0, "n": n}))
            with running(file_path=old, permissions=0o664) as sink:
                sink.log(make_event())
        finally:
            os.umask(umask)
        assert old.stat().st_mode & 0o777 == 0o604
        old.unlink()
        assert {stat.S_IMODE(other.stat().st_mode) for other in files_of(path)} == {0o664}

    def test_a_file_that_may_only_be_written_to_will_do(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Reading is a convenience."""
        path = tmp_path / "a.log"
        path.write_bytes(b"half")
        original = os.open

        def refuse_reading(name: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & os.O_RDWR and os.fspath(name) == str(path):
                raise PermissionError(errno.EACCES, "no", name)
            return original(name, flags, *args, **kwargs)

        monkeypatch.setattr(os, "open", refuse_reading)
        with running(file_path=path, log_format="%(event)s") as sink:
            sink.log(make_event("x"))
        assert path.read_bytes() == b"halfx\n"

    def test_a_device_or_pipe_is_written_to_as_it_is(self, tmp_path: pathlib.Path) -> None:
        """No rotation, no locks, no look at the last byte."""
        with running(file_path="/dev/null", max_bytes=1, rotate_every=1) as sink:
            sink.log(make_event())
            sink.log(make_event())
        assert sink.stats().delivered == 2
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        with running(file_path=fifo, log_format="%(event)s", max_bytes=1) as sink, open(fifo) as reader:
            sink.log(make_event("through"))
            assert reader.readline() == "through\n"

    def test_fsync_is_asked_for_each_batch(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """And only where it was ordered."""
        synced: list[int] = []
        original = os.fsync
        monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), original(fd))[1])
        with running(file_path=tmp_path / "a.log", fsync="batch") as sink:
            sink.log(make_event())
            sink.flush(10)
            sink.log(make_event())
        assert len(synced) == 2
        with running(file_path=tmp_path / "b.log") as sink:
            sink.log(make_event())
        assert len(synced) == 2

    async def test_on_the_applications_loop_it_writes_in_an_executor(self, tmp_path: pathlib.Path) -> None:
        """The loop is never blocked by the disk."""
        threads: set[str] = set()
        path = tmp_path / "a.jsonl"

        class Watched(FileLogSink):
            def _write(self, events: Any) -> None:
                threads.add(threading.current_thread().name)
                super()._write(events)

        sink = Watched(config=LoggingFileConfig(path))
        await sink.start()
        sink.log(make_event(payload={"w": 0, "n": 1}))
        await sink.stop()
        assert read_numbers(path) == [(0, 1)]
        assert threading.main_thread().name not in threads


# Events of each of eight threads, and of each of four processes; many more at night.
EACH = 2_500
SHARE = 2_000


class TestManyWriters:
    """Threads and processes."""

    @pytest.mark.parametrize("name", ["a.jsonl", "a.log"])
    def test_events_from_8_threads_arrive_in_order_per_thread(self, tmp_path: pathlib.Path, name: str) -> None:
        """None lost, none twice, none mixed."""
        path = tmp_path / name
        with running(file_path=path, queue_max_size=200_000, log_format="%(w)s %(n)s") as sink:

            def work(writer: int) -> None:
                for n in range(EACH):
                    sink.log(make_event("tick", payload={"w": writer, "n": n}))

            threads = [threading.Thread(target=work, args=(writer,)) for writer in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sink.flush(60)
            assert sink.stats().delivered == 8 * EACH
        if name.endswith("l"):
            found = read_numbers(path)
        else:
            found = [(int(w), int(n)) for w, n in map(str.split, path.read_text().splitlines())]
        for writer in range(8):
            assert [n for w, n in found if w == writer] == list(range(EACH))

    def test_four_processes_share_a_file_without_torn_lines(self, tmp_path: pathlib.Path) -> None:
        """Every line is whole, every process' events are in order."""
        path = tmp_path / "shared.jsonl"
        writers = [start_writer(w, SHARE, file_path=str(path)) for w in range(4)]
        release(*writers)
        finish(*writers)
        found = read_numbers(path)
        for writer in range(4):
            assert [n for w, n in found if w == writer] == list(range(SHARE))

    @needs_locks
    @pytest.mark.parametrize("compress", [None, "gzip"])
    def test_four_processes_rotate_one_file_and_lose_nothing(
        self, tmp_path: pathlib.Path, compress: str | None
    ) -> None:
        """Whoever notices rotates, the others follow; no file is larger than the limit."""
        path = tmp_path / "shared.jsonl"
        options = {"file_path": str(path), "max_bytes": 50_000, "compress": compress}
        writers = [start_writer(w, SHARE, **options) for w in range(4)]
        release(*writers)
        finish(*writers)
        files = files_of(path)
        assert len(files) > SHARE // 200
        if compress is None:
            assert max(file.stat().st_size for file in files) <= 50_000
        found = read_numbers(*[file for file in files if not file.name.endswith(".tmp")])
        assert len(found) == len(set(found)) == 4 * SHARE
        for writer in range(4):
            assert {n for w, n in found if w == writer} == set(range(SHARE))
            for file in files:
                numbers = [n for w, n in read_numbers(file) if w == writer]
                assert numbers == sorted(numbers)

    @needs_locks
    def test_a_forked_child_goes_on_in_the_same_file(self, tmp_path: pathlib.Path) -> None:
        """Its events arrive, the parent's are there once, and mode w empties nothing a second time."""
        path = tmp_path / "forked.jsonl"
        with running(file_path=path, mode="w", max_bytes=2_000) as sink:
            for n in range(100):
                sink.log(make_event(payload={"w": 0, "n": n}))
            children = []
            for child in range(1, 4):
                pid = os.fork()
                if not pid:
                    try:
                        for n in range(100):
                            sink.log(make_event(payload={"w": child, "n": n}))
                        os._exit(0 if sink.flush(30) else 1)
                    finally:
                        os._exit(2)
                children.append(pid)
            for n in range(100, 200):
                sink.log(make_event(payload={"w": 0, "n": n}))
            assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
        found = read_numbers(*files_of(path))
        assert sorted(found) == sorted([(0, n) for n in range(200)] + [(w, n) for w in (1, 2, 3) for n in range(100)])

    @needs_locks
    def test_a_lock_that_is_stuck_delays_and_does_not_stop(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, reports: list[selflog.SelfLogReport]
    ) -> None:
        """A stopped process that holds the lock must not take the others with it."""
        import fcntl

        monkeypatch.setattr(file_module, "_LOCK_TIMEOUT", 0.05)
        path = tmp_path / "a.log"
        log = make_file(path, max_bytes=3)
        with open(path, "a") as holder:
            fcntl.flock(holder, fcntl.LOCK_EX)
            log.write(b"one\n")
            log.write(b"two\n")
            assert path.read_text() == "one\ntwo\n"
            assert {report.kind for report in reports} == {"file_lock"}
        log.write(b"three\n")
        assert path.read_text() == "three\n"
        log.close()

    @needs_locks
    def test_a_writer_waits_for_the_lock_and_then_looks_again(self, tmp_path: pathlib.Path) -> None:
        """While it waited, the file was rotated: it goes on in the new one."""
        import fcntl

        path = tmp_path / "a.log"
        log = make_file(path)
        log.write(b"one\n")
        with open(path, "a") as holder:
            fcntl.flock(holder, fcntl.LOCK_EX)
            thread = threading.Thread(target=log.write, args=(b"two\n",))
            thread.start()
            path.rename(tmp_path / "moved.log")
            thread.join(10)
            assert not thread.is_alive()
        assert path.read_text() == "two\n"
        assert (tmp_path / "moved.log").read_text() == "one\n"
        log.close()

    @needs_locks
    def test_a_file_that_is_rotated_between_the_look_and_the_lock_is_not_written_to(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may be compressed already: the event would be lost."""
        path = tmp_path / "a.log"
        log = make_file(path)
        log.write(b"one\n")
        original = file_module.flock

        def rotate_then_lock(fd: int, operation: int) -> None:
            monkeypatch.setattr(file_module, "flock", original)
            path.rename(tmp_path / "moved.log")
            original(fd, operation)

        monkeypatch.setattr(file_module, "flock", rotate_then_lock)
        log.write(b"two\n")
        log.close()
        assert (tmp_path / "moved.log").read_text() == "one\n"
        assert path.read_text() == "two\n"

    @needs_locks
    def test_a_file_system_without_locks_is_written_to(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on Windows and some network file systems; rotation and compression go on."""

        def refuse(fd: int, operation: int) -> None:
            raise OSError(errno.ENOLCK, "no locks")

        monkeypatch.setattr(file_module, "flock", refuse)
        log = make_file(tmp_path / "a.jsonl", max_bytes=4, compress="gzip")
        for n in range(3):
            log.write(b"%03d\n" % n)
        log._backups.join(10)
        log.close()
        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".gz", ".gz", ".jsonl"]


class TestRotation:
    """By size and by time, with an injected clock."""

    def test_no_file_grows_beyond_max_bytes(self, tmp_path: pathlib.Path) -> None:
        """A batch is divided between events; an event that is larger has a file of its own."""
        path = tmp_path / "a.jsonl"
        log = make_file(path, max_bytes=10)
        log.write(b"1234\n5678\n9\nabcdefghijklmno\np\nq\n")
        assert [file.read_bytes() for file in files_of(path)] == [
            b"1234\n5678\n",
            b"9\n",
            b"abcdefghijklmno\n",
            b"p\nq\n",
        ]
        log.close()

    def test_text_events_of_several_lines_stay_together(self, tmp_path: pathlib.Path) -> None:
        """A traceback is never divided between two files."""
        path = tmp_path / "a.log"
        event = make_event("x", exception=LogException("E", "m", "T\nF\nE: m"))
        line = "shop.x\n  T\n  F\n  E: m\n"
        with running(file_path=path, log_format="%(title)s", max_bytes=2 * len(line) + 5, batch_max_age=0) as sink:
            for _ in range(7):
                sink.log(event)
        assert [file.read_text() for file in files_of(path)] == [line * 2, line * 2, line * 2, line]

    @given(
        batches=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=8), max_size=8),
        limit=st.integers(1, 60),
        text=st.booleans(),
    )
    @settings(max_examples=often(60), deadline=None)
    def test_rotation_by_size_keeps_every_event_whole_and_in_order(
        self, batches: list[list[int]], limit: int, text: bool, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Whatever the sizes of events, batches and files."""
        path = tmp_path_factory.mktemp("rotation") / "a.log"
        log = make_file(path, max_bytes=limit, delay=True)
        everything = []
        for number, sizes in enumerate(batches):
            # In text an event may have line breaks inside.
            records = [bytes([65 + number]) * (size - 1) + b"\n" for size in sizes]
            if text:
                records = [b"\n" * (len(record) // 2) + record[len(record) // 2 :] for record in records]
            ends = [sum(map(len, records[: index + 1])) for index in range(len(records))]
            log.write(b"".join(records), ends if text else None)
            everything += records
        log.close()
        if not everything:
            return
        # Rotated within one second, the files differ in their numbers.
        files = sorted(
            (file for file in path.parent.iterdir() if file != path),
            key=lambda file: (file.name[:25], int(file.name[26:] or 0)),
        )
        contents = [file.read_bytes() for file in [*files, path]]
        assert b"".join(contents) == b"".join(everything)
        position = 0
        for content in contents:
            count = 0
            while content:
                assert content.startswith(everything[position])
                content = content[len(everything[position]) :]
                position += 1
                count += 1
            size = sum(map(len, everything[position - count : position]))
            assert size <= limit or count == 1

    def test_a_new_day_is_a_new_file(self, tmp_path: pathlib.Path) -> None:
        """The old one has the name of its day; a second one of the same day has a number."""
        path = tmp_path / "a.log"
        clock = Clock(MOMENT)
        log = make_file(path, clock, rotate_every="day", utc=True)
        log.write(b"one\n")
        clock.now += 9 * 3600
        log.write(b"two\n")
        clock.now += 3600
        log.write(b"three\n")
        (tmp_path / "a.log.2026-05-13.gz").write_bytes(b"")
        clock.now += 3 * DAY
        log.write(b"four\n")
        log.close()
        assert (tmp_path / "a.log.2026-05-12").read_text() == "one\ntwo\n"
        assert (tmp_path / "a.log.2026-05-13.1").read_text() == "three\n"
        assert path.read_text() == "four\n"

    def test_a_restart_on_the_next_day_rotates_the_file_of_yesterday(self, tmp_path: pathlib.Path) -> None:
        """The time of the last write decides, not that of the start."""
        path = tmp_path / "a.log"
        path.write_text("yesterday\n")
        os.utime(path, (MOMENT - DAY, MOMENT - DAY))
        log = make_file(path, Clock(MOMENT), rotate_every="day", utc=True)
        log.open()
        log.write(b"today\n")
        log.close()
        assert (tmp_path / "a.log.2026-05-11").read_text() == "yesterday\n"
        assert path.read_text() == "today\n"
        again = make_file(path, Clock(MOMENT + 5), rotate_every="day", utc=True)
        again.write(b"more\n")
        again.close()
        assert path.read_text() == "today\nmore\n"

    def test_a_file_begun_at_midnight_is_not_taken_for_yesterdays(self, tmp_path: pathlib.Path) -> None:
        """The kernel stamps files with a clock that lags: another process must not rotate again."""
        path = tmp_path / "a.log"
        midnight = 1_778_630_400.0
        one, two = (make_file(path, Clock(midnight + 0.0001), rotate_every="day", utc=True) for _ in range(2))
        one.write(b"one\n")
        assert path.stat().st_mtime == pytest.approx(midnight + 0.0001, abs=1e-6)
        two.write(b"two\n")
        assert path.read_text() == "one\ntwo\n"
        one.close()
        two.close()

    def test_only_so_many_backups_are_kept(self, tmp_path: pathlib.Path) -> None:
        """The oldest go; files that only look similar stay."""
        path = tmp_path / "a.log"
        others = ["a.log.keep", "a.log.2026-05-12.txt", "b.log.2026-05-12", "xa.log.2026-05-12", "a.log.2026"]
        for name in others:
            (tmp_path / name).write_text("mine\n")
        clock = Clock(MOMENT)
        log = make_file(path, clock, rotate_every="hour", backup_count=2, utc=True)
        for n in range(6):
            log.write(b"%d\n" % n)
            clock.now += 3600
        log.close()
        left = {file.name: file.read_text() for file in tmp_path.iterdir() if file.name not in others}
        assert left == {"a.log": "5\n", "a.log.2026-05-12_18": "4\n", "a.log.2026-05-12_17": "3\n"}
        assert all((tmp_path / name).read_text() == "mine\n" for name in others)

    def test_backups_that_are_too_old_are_removed(self, tmp_path: pathlib.Path) -> None:
        """Counted from their last event, also when nothing was rotated but the program started."""
        path = tmp_path / "a.log"
        for days in (1, 5, 9):
            backup = tmp_path / f"a.log.2026-05-{12 - days:02}"
            backup.write_text("x\n")
            os.utime(backup, (MOMENT - days * DAY, MOMENT - days * DAY))
        log = make_file(path, Clock(MOMENT), rotate_every="day", backup_max_age=6 * DAY, utc=True)
        log.open()
        log.close()
        assert sorted(file.name for file in tmp_path.iterdir()) == ["a.log", "a.log.2026-05-07", "a.log.2026-05-11"]

    def test_backup_count_zero_keeps_none(self, tmp_path: pathlib.Path) -> None:
        """Then there is only ever one file."""
        log = make_file(tmp_path / "a.log", max_bytes=2, backup_count=0)
        for _ in range(5):
            log.write(b"x\n")
        log.close()
        assert [file.name for file in tmp_path.iterdir()] == ["a.log"]

    @needs_locks
    def test_backups_are_compressed_in_the_background(self, tmp_path: pathlib.Path) -> None:
        """Content and time of the last event stay, the plain file goes, the rest is kept to the number."""
        path = tmp_path / "a.jsonl"
        clock = Clock(MOMENT)
        log = make_file(path, clock, rotate_every="day", compress="gzip", backup_count=3, utc=True)
        for n in range(6):
            log.write(b"%d\n" % n)
            os.utime(path, (clock.now, clock.now))
            clock.now += DAY
        wait_for(lambda: sum(file.suffix == ".gz" for file in tmp_path.iterdir()) == 3, "three compressed files")
        wait_for(lambda: len(list(tmp_path.iterdir())) == 4, "nothing else")
        log.close()
        kept = files_of(path)
        assert [file.name for file in kept] == [*(f"a.jsonl.2026-05-{day}.gz" for day in (14, 15, 16)), "a.jsonl"]
        assert [gzip.decompress(file.read_bytes()) for file in kept[:-1]] == [b"2\n", b"3\n", b"4\n"]
        assert kept[0].stat().st_mtime == MOMENT + 2 * DAY

    @needs_locks
    def test_a_compression_that_was_cut_short_is_done_by_the_next_process(self, tmp_path: pathlib.Path) -> None:
        """A half-written archive is written anew."""
        path = tmp_path / "a.jsonl"
        (tmp_path / "a.jsonl.2026-05-11").write_text("left\n")
        (tmp_path / "a.jsonl.2026-05-11.gz.tmp").write_bytes(b"half")
        log = make_file(path, max_bytes=1000, compress="gzip")
        log.open()
        log._backups.join(10)
        log.close()
        assert gzip.decompress((tmp_path / "a.jsonl.2026-05-11.gz").read_bytes()) == b"left\n"
        assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl", "a.jsonl.2026-05-11.gz"]

    @needs_locks
    def test_a_compression_that_fails_leaves_the_file(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, reports: list[selflog.SelfLogReport]
    ) -> None:
        """Nothing is removed before its copy is on the disk."""

        def fail(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "disk full")

        monkeypatch.setattr(shutil, "copyfileobj", fail)
        log = make_file(tmp_path / "a.log", max_bytes=2, compress="gzip")
        log.write(b"1\n2\n")
        log._backups.join(10)
        log.close()
        assert sorted(file.read_text() for file in tmp_path.iterdir()) == ["1\n", "2\n"]
        assert [report.kind for report in reports] == ["file_compression"]

    @needs_locks
    def test_two_processes_do_not_compress_the_same_file(self, tmp_path: pathlib.Path) -> None:
        """The one that comes second leaves it, or finds it gone."""
        import fcntl

        path = tmp_path / "a.log.2026-05-11"
        path.write_text("x\n")
        with open(path) as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            file_module._compress_file(str(path))
            assert [file.name for file in tmp_path.iterdir()] == [path.name]
        path.unlink()
        file_module._compress_file(str(path))
        assert not list(tmp_path.iterdir())

    def test_a_rotation_that_fails_goes_on_in_the_old_file(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, reports: list[selflog.SelfLogReport]
    ) -> None:
        """Too large a file is better than a lost event; a minute later it is tried again."""
        path = tmp_path / "a.log"
        clock = Clock(MOMENT)
        log = make_file(path, clock, max_bytes=2)

        def refuse(*_: Any) -> None:
            raise PermissionError(errno.EACCES, "no")

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", refuse)
            log.write(b"1\n2\n")
            log.write(b"3\n")
        assert path.read_text() == "1\n2\n3\n"
        assert [report.kind for report in reports] == ["file_rotation"]
        clock.now += 61
        log.write(b"4\n")
        assert path.read_text() == "4\n"
        log.close()

    def test_a_backup_that_cannot_be_removed_is_told(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, reports: list[selflog.SelfLogReport]
    ) -> None:
        """And nothing else happens."""
        log = make_file(tmp_path / "a.log", max_bytes=2, backup_count=0)
        with monkeypatch.context() as patch:

            def refuse(path: Any) -> None:
                raise PermissionError(errno.EACCES, "no", path)

            patch.setattr(os, "unlink", refuse)
            log.write(b"1\n2\n")
        log.close()
        assert [report.kind for report in reports] == ["file_retention"]

    def test_a_link_stays_a_link(self, tmp_path: pathlib.Path) -> None:
        """The file behind it is rotated, where it is."""
        (tmp_path / "real").mkdir()
        link = tmp_path / "a.log"
        link.symlink_to(tmp_path / "real" / "b.log")
        log = make_file(link, max_bytes=2)
        log.write(b"1\n2\n")
        log.close()
        assert link.is_symlink()
        assert link.read_text() == "2\n"
        assert len(list((tmp_path / "real").iterdir())) == 2
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.log"]


class TestExternalRotation:
    """`logrotate` and people."""

    def test_logrotate_moves_the_file_under_load(self, tmp_path: pathlib.Path) -> None:
        """Rename (and create, or not): what comes later is in the new file, nothing is lost."""
        path = tmp_path / "a.jsonl"
        writer = start_writer(0, 20_000, "slow", file_path=str(path))
        release(writer)
        moved = []
        while writer.poll() is None and len(moved) < 40:
            if path.exists() and path.stat().st_size:
                target = tmp_path / f"moved.{len(moved)}"
                path.rename(target)
                moved.append(target)
                if len(moved) % 2:
                    with contextlib.suppress(FileExistsError):
                        path.open("x").close()
            time.sleep(0.003)
        finish(writer)
        assert len(moved) > 5
        assert read_numbers(*moved, path) == [(0, n) for n in range(20_000)]

    def test_logrotate_copies_and_truncates_the_file_under_load(self, tmp_path: pathlib.Path) -> None:
        """Appending goes on at the new end: no hole of NUL bytes, no torn line; only what was written in between is gone.

        A copy may end within a line: it was made while that was being written.
        """
        path = tmp_path / "a.jsonl"
        writer = start_writer(0, 20_000, "slow", file_path=str(path))
        release(writer)
        copies = []
        while writer.poll() is None and len(copies) < 20:
            target = tmp_path / f"copy.{len(copies)}"
            shutil.copyfile(path, target)
            os.truncate(path, 0)
            copies.append(target)
            time.sleep(0.01)
        finish(writer)
        assert b"\0" not in path.read_bytes()
        found = [n for _, n in read_numbers(path)]
        assert found == list(range(20_000 - len(found), 20_000))
        for copy in copies:
            whole_lines = copy.read_bytes().rpartition(b"\n")
            copy.write_bytes(whole_lines[0] + whole_lines[1])
        numbers = [n for copy in copies for _, n in read_numbers(copy)] + found
        assert numbers == sorted(set(numbers))

    def test_a_file_and_its_directory_that_are_deleted_come_back(self, tmp_path: pathlib.Path) -> None:
        """The next event is in a new file."""
        path = tmp_path / "logs" / "a.log"
        with running(file_path=path, log_format="%(event)s") as sink:
            sink.log(make_event("one"))
            assert sink.flush(10)
            shutil.rmtree(path.parent)
            sink.log(make_event("two"))
        assert path.read_text() == "two\n"

    def test_a_descriptor_that_somebody_closed_is_not_written_to(self, tmp_path: pathlib.Path) -> None:
        """A program that closes all descriptors, and opens its own under the same number, keeps its files clean."""
        path = tmp_path / "a.log"
        log = make_file(path)
        log.write(b"one\n")
        number = log._fd
        os.close(number)
        other = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR)
        assert other == number
        log.write(b"two\n")
        log.close()
        assert os.fstat(other).st_size == 0
        os.close(other)
        assert path.read_text() == "one\ntwo\n"
        log = make_file(path)
        log.write(b"three\n")
        os.close(log._fd)
        log.close()

    def test_a_directory_that_may_not_be_searched_any_more_keeps_the_open_file(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Privileges were dropped after the file was opened."""
        path = tmp_path / "a.log"
        log = make_file(path)
        log.write(b"one\n")
        original = os.stat

        def refuse(name: Any, *args: Any, **kwargs: Any) -> os.stat_result:
            if name == str(path):
                raise PermissionError(errno.EACCES, "no", name)
            return original(name, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", refuse)
            log.write(b"two\n")
        log.close()
        assert path.read_text() == "one\ntwo\n"


class TestAccidents:
    """Crashes and full disks."""

    def test_kill_9_leaves_a_file_that_goes_on(self, tmp_path: pathlib.Path) -> None:
        """At most one line is torn, and the next process' first event does not grow onto it."""
        path = tmp_path / "a.jsonl"
        for round_ in range(3):
            writer = start_writer(round_, 200_000, file_path=str(path))
            size = path.stat().st_size
            release(writer)
            wait_for(lambda size=size: path.stat().st_size > size + 100_000, "some events")  # type: ignore[misc]
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
        with running(file_path=path) as sink:
            sink.log(make_event(payload={"w": 9, "n": 0}))
        whole, torn = [], 0
        for line in path.read_bytes().splitlines():
            try:
                whole.append(json.loads(line)["payload"])
            except ValueError:
                torn += 1
        assert torn <= 3
        for writer_number in range(3):
            numbers = [entry["n"] for entry in whole if entry["w"] == writer_number]
            assert numbers == list(range(len(numbers)))
        assert whole[-1] == {"w": 9, "n": 0}

    def test_a_torn_last_line_is_ended_before_the_next_event(self, tmp_path: pathlib.Path) -> None:
        """One bad line, not two events in one."""
        path = tmp_path / "a.jsonl"
        path.write_bytes(b'{"whole":1}\n{"torn"')
        log = make_file(path)
        log.write(b"{}\n")
        log.close()
        assert path.read_bytes() == b'{"whole":1}\n{"torn"\n{}\n'

    def test_a_part_that_cannot_be_taken_back_is_ended(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When somebody has appended in between, nothing of theirs is cut off."""
        path = tmp_path / "a.log"
        log = make_file(path)
        original = os.write

        def write_half_and_fail(fd: int, data: bytes) -> int:
            if len(data) > 4:
                return original(fd, data[:4])
            with open(path, "ab") as foreign:
                foreign.write(b"foreign")
            raise OSError(errno.ENOSPC, "disk full")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write_half_and_fail)
            with pytest.raises(OSError, match="disk full"):
                log.write(b"1234567\n")
        log.write(b"next\n")
        log.close()
        assert path.read_bytes() == b"1234foreign\nnext\n"

    @pytest.mark.parametrize("failure", ["error", "nothing"])
    def test_a_short_write_is_continued_or_taken_back(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, failure: str
    ) -> None:
        """Whole or not at all."""
        path = tmp_path / "a.log"
        log = make_file(path)
        log.write(b"before\n")
        original = os.write
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda fd, data: original(fd, data[:3]))
            log.write(b"in small steps\n")
        calls: list[int] = []

        def fail_later(fd: int, data: bytes) -> int:
            calls.append(fd)
            if len(calls) < 3:
                return original(fd, data[:3])
            if failure == "nothing":
                return 0
            raise OSError(errno.EIO, "broken")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fail_later)
            with pytest.raises(OSError, match=r"broken|nothing was written"):
                log.write(b"never there\n")
        log.write(b"after\n")
        log.close()
        assert path.read_text() == "before\nin small steps\nafter\n"

    def test_what_cannot_be_truncated_is_ended(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file that may only grow (chattr +a)."""
        path = tmp_path / "a.log"
        log = make_file(path)
        original = os.write

        def fail(fd: int, data: bytes) -> int:
            if len(data) > 4:
                return original(fd, data[:4])
            raise OSError(errno.ENOSPC, "disk full")

        def refuse(fd: int, length: int) -> None:
            raise PermissionError(errno.EPERM, "append only")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fail)
            patch.setattr(os, "ftruncate", refuse)
            with pytest.raises(OSError, match="disk full"):
                log.write(b"1234567\n")
        log.write(b"next\n")
        log.close()
        assert path.read_bytes() == b"1234\nnext\n"

    @pytest.mark.parametrize(
        ("room", "written", "content"),
        [
            (3, 4, "one\ntwo\nthree\n"),  # only the end of the line is missing: the next write makes it
            (6, 4, "one\ntw\ntwo\nthree\n"),
            (8, 8, "one\ntwo\nthree\n"),
        ],
    )
    def test_whole_lines_that_cannot_be_taken_back_count_as_written(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, room: int, written: int, content: str
    ) -> None:
        """They would be there twice else."""
        path = tmp_path / "a.log"
        log = make_file(path)
        data = b"one\ntwo\nthree\n"
        with Disk(monkeypatch, [room], appends_only=True), pytest.raises(OSError, match="No space left"):
            log.write(data)
        assert log.written == written
        log.write(data[written:])
        log.close()
        assert path.read_text() == content

    def test_what_the_disk_does_not_confirm_is_written_anew(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After an error of fsync the kernel has forgotten what it did not write; and nothing is there twice."""
        path = tmp_path / "a.jsonl"
        original = os.fsync
        failures = [OSError(errno.EIO, "broken"), OSError(errno.ENOSPC, "full")]

        def fail(fd: int) -> None:
            if failures:
                raise failures.pop()
            original(fd)

        monkeypatch.setattr(os, "fsync", fail)
        with running(file_path=path, fsync="batch", retry_delay=0.001) as sink:
            for n in range(10):
                sink.log(make_event(payload={"w": 0, "n": n}))
            assert sink.flush(20)
            assert sink.stats().retries >= 2
        assert not failures
        assert read_numbers(path) == [(0, n) for n in range(10)]

    def test_a_file_system_that_confirms_nothing_is_told_once(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, reports: list[selflog.SelfLogReport]
    ) -> None:
        """Events do not wait for what will never come."""
        path = tmp_path / "a.jsonl"

        def refuse(fd: int) -> None:
            raise OSError(errno.EINVAL, "no fsync here")

        monkeypatch.setattr(os, "fsync", refuse)
        with running(file_path=path, fsync="batch") as sink:
            for n in range(2):
                sink.log(make_event(payload={"w": 0, "n": n}))
                assert sink.flush(20)
        assert read_numbers(path) == [(0, 0), (0, 1)]
        assert [report.kind for report in reports] == ["file_fsync"]

    def test_a_time_that_cannot_be_set_is_no_trouble(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The events are written by then."""
        path = tmp_path / "a.log"

        def refuse(*args: Any, **kwargs: Any) -> None:
            raise PermissionError(errno.EPERM, "not the owner")

        monkeypatch.setattr(os, "utime", refuse)
        monkeypatch.setattr(os, "supports_fd", {*os.supports_fd, refuse})
        log = make_file(path, max_bytes=1000)
        log.write(b"one\n")
        log.close()
        assert path.read_bytes() == b"one\n"

    def test_a_process_that_was_frozen_in_the_middle_goes_on(self, tmp_path: pathlib.Path) -> None:
        """SIGSTOP and SIGCONT lose nothing, and the others hardly notice."""
        path = tmp_path / "a.jsonl"
        writers = [start_writer(w, 5_000, "slow", file_path=str(path), max_bytes=100_000) for w in range(2)]
        release(*writers)
        for _ in range(5):
            writers[0].send_signal(signal.SIGSTOP)
            time.sleep(0.02)
            writers[0].send_signal(signal.SIGCONT)
            time.sleep(0.01)
        finish(*writers)
        assert sorted(read_numbers(*files_of(path))) == [(w, n) for w in range(2) for n in range(5_000)]


class Disk:
    """In its context, sinks and tests write to a disk with so much room in bytes; and each time it is full, the next amount
    of room is made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rooms: list[int], *, appends_only: bool = False) -> None:
        self._patch = monkeypatch.context()
        self._rooms = rooms
        self._left = rooms[0] if rooms else None
        self._appends_only = appends_only
        self._write = os.write

    def __enter__(self) -> Disk:
        patch = self._patch.__enter__()
        patch.setattr(os, "write", self._write_some)
        if self._appends_only:
            patch.setattr(os, "ftruncate", self._refuse)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._patch.__exit__(None, None, None)

    def _write_some(self, fd: int, data: Any) -> int:
        if not stat.S_ISREG(os.fstat(fd).st_mode) or self._left is None:
            return self._write(fd, data)
        if not self._left:
            self._rooms.pop(0)
            self._left = self._rooms[0] if self._rooms else None
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(fd, bytes(data[: self._left]))
        self._left -= written
        return written

    def _refuse(self, fd: int, length: int) -> None:
        raise PermissionError(errno.EPERM, "append only")


def read_in_order(path: pathlib.Path) -> list[bytes]:
    """The contents of all files, by the numbers that those of one second have."""
    rotated = sorted(
        (file for file in path.parent.iterdir() if file != path),
        key=lambda file: (file.name[len(path.name) :][:20], int(file.name[len(path.name) + 21 :] or 0)),
    )
    return [file.read_bytes() for file in [*rotated, path]]


def read_all_numbers(path: pathlib.Path) -> list[int]:
    """The numbers of all events in all files, in order; torn lines are passed over."""
    found = []
    for content in read_in_order(path):
        for line in content.splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line)["payload"]["n"])
    return found


TROUBLED = textwrap.dedent(
    """
    import os, resource, shutil, sys, time
    from mvx_logger.model import LogEvent, LogEventMeta
    from mvx_logger.sinks.file import FileLogSink
    from mvx_logger import selflog

    selflog.redirect(lambda report: None)
    path = sys.argv[1]
    count = 0

    def log(number):
        global count
        for _ in range(number):
            payload = {"w": 0, "n": count, "f": "x" * 300}
            sink.log(LogEvent(20, LogEventMeta(None, "x"), None, 0.0, payload))
            count += 1

    def wait(condition):
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, sink.stats()
            time.sleep(0.002)

    def create(**options):
        global sink, close
        sink, close = FileLogSink.create(file_path=path, retry_delay=0.002, retry_max_delay=0.02, **options)

    def end():
        assert sink.flush(30), sink.stats()
        close()
        stats = sink.stats()
        assert (stats.delivered, stats.dropped, stats.pending) == (count, {}, 0), stats
        print(count)
    """
)


def run_troubled(path: pathlib.Path, script: str) -> int:
    """Run a script that begins as above; how many events it has logged."""
    result = subprocess.run(
        [sys.executable, "-c", TROUBLED + textwrap.dedent(script), str(path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


class TestTroubleThatPasses:
    """Events wait while the file cannot be written to; then all of them are there, in order, none twice."""

    @pytest.mark.parametrize("options", ["", "max_bytes=40_000", "fsync='batch'"])
    def test_a_full_disk(self, tmp_path: pathlib.Path, options: str) -> None:
        """Also when the disk fills up several times, in the middle of a line."""
        path = tmp_path / "a.jsonl"
        count = run_troubled(
            path,
            f"""
            create({options})
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            for limit in (10_000, 20_123, 30_456):
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
                retries = sink.stats().retries
                log(100)
                wait(lambda: sink.stats().retries > retries + 8)
                assert 0 < sink.stats().delivered < count and not sink.stats().dropped
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            log(5)
            end()
            """,
        )
        assert read_all_numbers(path) == list(range(count))
        assert all(content.endswith(b"\n") for content in read_in_order(path))

    def test_a_directory_that_is_gone_and_cannot_be_made(self, tmp_path: pathlib.Path) -> None:
        """Somebody has moved it away and put a file in its place. What was written before is in the old one."""
        path = tmp_path / "logs" / "a.jsonl"
        run_troubled(
            path,
            """
            create()
            log(10)
            assert sink.flush(30)
            place = os.path.dirname(path)
            os.rename(place, place + ".old")
            open(place, "w").close()
            log(10)
            wait(lambda: sink.stats().retries > 8)
            assert sink.stats().pending == 10 and os.path.getsize(place) == 0
            os.unlink(place)
            log(10)
            end()
            """,
        )
        assert read_numbers(tmp_path / "logs.old" / "a.jsonl") == [(0, n) for n in range(10)]
        assert read_numbers(path) == [(0, n) for n in range(10, 30)]

    def test_permissions_that_are_taken_and_given_back(self) -> None:
        """Of a directory, after an external rotation: for a process without privileges."""
        with tempfile.TemporaryDirectory() as name:
            os.chmod(name, 0o777)
            path = pathlib.Path(name) / "logs" / "a.jsonl"
            run_troubled(
                path,
                """
                if not os.getuid():
                    os.setuid(65534)
                create()
                log(10)
                assert sink.flush(30)
                place = os.path.dirname(path)
                os.rename(path, path + ".1")
                os.chmod(place, 0o500)
                log(10)
                wait(lambda: sink.stats().retries > 8)
                assert sink.stats().pending == 10 and "PermissionError" in sink.stats().last_error
                os.chmod(place, 0o700)
                log(10)
                end()
                """,
            )
            assert read_numbers(path.with_name("a.jsonl.1")) == [(0, n) for n in range(10)]
            assert read_numbers(path) == [(0, n) for n in range(10, 30)]

    @given(
        batches=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=12), min_size=1, max_size=4),
        rooms=st.lists(st.integers(0, 120), max_size=8),
        limit=st.none() | st.integers(1, 200),
    )
    @settings(max_examples=often(100), deadline=None)
    def test_a_disk_that_fills_up_again_and_again(
        self,
        batches: list[list[int]],
        rooms: list[int],
        limit: int | None,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        """Whatever the sizes of texts (of several lines), of files and of the disk, and whatever is filtered out."""
        path = tmp_path_factory.mktemp("disk") / "a.log"
        expected: list[str] = []
        with (
            pytest.MonkeyPatch.context() as patch,
            running(
                file_path=path,
                log_format="%(event)s",
                max_bytes=limit,
                filters=lambda record: "hidden" not in record.getMessage(),
                formatter_factory=lambda *args: logging.Formatter("%(message)s"),
                retry_delay=0.0,
            ) as sink,
            Disk(patch, list(rooms)),
        ):
            for sizes in batches:
                for size in sizes:
                    name = f"{len(expected)}:\n" + "x" * size
                    if size % 5 == 4:
                        sink.log(make_event(f"hidden {name}"))
                    else:
                        expected.append(f"shop.{name}\n")
                        sink.log(make_event(name))
                assert sink.flush(30)
            assert sink.stats().dropped == {}
        assert b"".join(read_in_order(path)).decode() == "".join(expected)

    @given(
        batches=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=12), min_size=1, max_size=4),
        rooms=st.lists(st.integers(0, 400), max_size=8),
        limit=st.none() | st.integers(1, 600),
    )
    @settings(max_examples=often(100), deadline=None)
    def test_a_full_disk_and_a_file_that_may_only_grow(
        self,
        batches: list[list[int]],
        rooms: list[int],
        limit: int | None,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        """Torn lines stay, and beside them each event once."""
        path = tmp_path_factory.mktemp("disk") / "a.jsonl"
        count = 0
        with (
            pytest.MonkeyPatch.context() as patch,
            running(file_path=path, max_bytes=limit, retry_delay=0.0) as sink,
            Disk(patch, list(rooms), appends_only=True),
        ):
            for sizes in batches:
                for size in sizes:
                    sink.log(make_event(payload={"n": count, "f": "x" * size}))
                    count += 1
                assert sink.flush(30)
        assert read_all_numbers(path) == list(range(count))

    @pytest.mark.parametrize("reads_late", [False, True])
    async def test_a_file_that_is_frozen(self, tmp_path: pathlib.Path, reads_late: bool) -> None:
        """A network file system, or a pipe whose reader sleeps: a write that was given up on goes on in its thread, and
        what it has written after all does not come again."""
        path = tmp_path / "fifo"
        os.mkfifo(path)
        sink = FileLogSink(
            config=LoggingFileConfig(path, format="json"),
            delivery_timeout=0.05,
            retry_delay=0.01,
            retry_max_delay=0.02,
            circuit_threshold=3 if reads_late else 1000,
        )
        await sink.start()
        for n in range(6):
            sink.log(make_event(payload={"n": n, "f": "x" * 40_000}))
        while sink.stats().retries < (6 if reads_late else 1):
            await asyncio.sleep(0.005)
        assert sink.stats().delivered == 0

        def read() -> list[int]:
            found: list[int] = []
            with open(path, encoding="utf-8") as reader:
                for line in reader:
                    found.append(json.loads(line)["payload"]["n"])
                    if found[-1] == 6:
                        break
            return found

        reading = asyncio.get_running_loop().run_in_executor(None, read)
        while sink.stats().pending:
            await asyncio.sleep(0.005)
        sink.log(make_event(payload={"n": 6}))
        assert await reading == list(range(7))
        await sink.stop()
        assert (sink.stats().delivered, sink.stats().dropped) == (7, {})

    @pytest.mark.parametrize("failing", [1, 2, 3])
    async def test_a_write_that_is_given_up_on_and_fails_after_all(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, failing: int
    ) -> None:
        """Its events come again; those that a file before the rotation has taken do not."""
        path = tmp_path / "a.jsonl"
        frozen, go_on = threading.Event(), threading.Event()
        original = os.write
        calls: list[int] = []

        def freeze(fd: int, data: bytes) -> int:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                calls.append(fd)
                if len(calls) == failing:
                    frozen.set()
                    assert go_on.wait(30)
                    raise OSError(errno.EIO, "the server is gone")
            return original(fd, data)

        monkeypatch.setattr(os, "write", freeze)
        sink = FileLogSink(config=LoggingFileConfig(path, max_bytes=1_000), delivery_timeout=0.05, retry_delay=0.01)
        await sink.start()
        for n in range(6):
            sink.log(make_event(payload={"w": 0, "n": n, "f": "x" * 300}))
        while not frozen.is_set():
            await asyncio.sleep(0.005)
        retries = sink.stats().retries
        while sink.stats().retries == retries:
            await asyncio.sleep(0.005)
        go_on.set()
        while sink.stats().pending:
            await asyncio.sleep(0.005)
        await sink.stop()
        assert len(calls) > failing
        assert read_all_numbers(path) == list(range(6))


def test_no_descriptors_leak(tmp_path: pathlib.Path) -> None:
    """Through starts, stops and rotations."""

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = None
    for _ in range(5):
        with running(file_path=tmp_path / "a.jsonl", max_bytes=100) as sink:
            for n in range(20):
                sink.log(make_event(payload={"n": n}))
        if before is None:
            before = count()
    assert count() <= before
    assert resource.getrlimit(resource.RLIMIT_NOFILE)
