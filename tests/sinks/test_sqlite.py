"""`mvx_logger.sinks.sqlite`, its store and its reader: nothing lost, nothing foreign touched, everything found again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from events import MOMENT, make_event
from mvx_logger import selflog
from mvx_logger.bridge.config import sink_from_url
from mvx_logger.errors import AsyncioLogSinkOnStartingHookFailedError, LogConfigurationError
from mvx_logger.model import LogEvent, LogEventMeta, LogEventOrigin, LogException, LogStack
from mvx_logger.sinks import sqlite_store
from mvx_logger.sinks.sqlite import SqliteLogSink, SqliteStoreError, read_events, read_summary
from mvx_logger.sinks.sqlite_store import APPLICATION_ID, COLUMNS, EventStore, event_to_row, row_to_event
from needs import needs_program
from repetitions import often

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
payloads = st.dictionaries(st.text(), json_values, max_size=4)
optional_text = st.none() | st.text()
optional_int = st.none() | st.integers(-(2**63), 2**63 - 1)
frames = st.lists(payloads, max_size=2).map(tuple)
events = st.builds(
    LogEvent,
    level=st.sampled_from([10, 20, 30, 40, 50]) | st.integers(-(2**63), 2**63 - 1),
    meta=st.builds(
        LogEventMeta,
        optional_text,
        st.text(),
        entity_id=optional_text,
        source_path=optional_text,
        source_line=optional_int,
        source_func=optional_text,
    ),
    event_outcome=optional_text,
    timestamp=st.floats(allow_nan=False),
    payload=payloads,
    message=optional_text,
    exception=st.none() | st.builds(LogException, st.text(), st.text(), st.text(), frames),
    stack=st.none() | st.builds(LogStack, st.text(), frames),
    origin=st.none()
    | st.builds(
        LogEventOrigin,
        system=st.text(),
        level_name=optional_text,
        template=optional_text,
        args=st.none() | st.lists(json_values, max_size=2).map(tuple) | payloads,
        process_id=optional_int,
        process_name=optional_text,
        thread_id=optional_int,
        thread_name=optional_text,
        task_name=optional_text,
        via=st.lists(st.text(), max_size=2).map(tuple),
    ),
)


@contextlib.contextmanager
def running(path: pathlib.Path | str, **options: Any) -> Iterator[SqliteLogSink]:
    sink, close = SqliteLogSink.create(path=path, **options)
    try:
        yield sink
    finally:
        close()


@contextlib.contextmanager
def opened(path: pathlib.Path, **options: Any) -> Iterator[EventStore]:
    store = EventStore(path, **options)
    store.open()
    try:
        yield store
    finally:
        store.close()


@contextlib.contextmanager
def sqlite(path: pathlib.Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path)) as raw:
        yield raw
        raw.commit()


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
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "events.db"


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.005)


def stored(path: pathlib.Path, **wanted: Any) -> list[LogEvent]:
    return [event for _, event in read_events(path, **wanted)]


def numbers(path: pathlib.Path) -> list[tuple[int, int]]:
    """(writer, number) of every event, in the order of the store."""
    return [(event.payload["w"], event.payload["n"]) for event in stored(path)]


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


WRITER = textwrap.dedent(
    """
    import sys, time
    from mvx_logger.model import LogEvent, LogEventMeta
    from mvx_logger.sinks.sqlite import SqliteLogSink
    from mvx_logger.delivery.sink import AsyncioLogSinkQueueOverflowPolicy as Policy

    writer, count, options = int(sys.argv[1]), int(sys.argv[2]), eval(sys.argv[3])
    if "early" in sys.argv:
        print("ready", flush=True)
        sys.stdin.readline()
    sink, close = SqliteLogSink.create(
        queue_overflow_policy=Policy.BLOCK, block_timeout=60.0, shutdown_timeout=60.0, busy_timeout=60.0, **options
    )
    if "early" not in sys.argv:
        print("ready", flush=True)
        sys.stdin.readline()
    meta = LogEventMeta("child", "tick")
    for n in range(count):
        sink.log(LogEvent(level=20, meta=meta, event_outcome=None, timestamp=time.time(), payload={"w": writer, "n": n}))
        if n % 100 == 99:
            assert sink.flush(60), sink.stats()
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


# Events of each of eight threads, of each of four processes, and how often a process is killed; many more at night.
EACH = 1_500
SHARE = 1_000
ROUNDS = 4


class TestOptions:
    """The constructor, the descriptor, the URL."""

    def test_the_url_follows_sqlalchemy(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Three slashes and a relative path, four and an absolute one; options in the query."""
        monkeypatch.chdir(tmp_path)
        for url, name in (
            ("sqlite:///relative.db", "relative.db"),
            (f"sqlite:///{tmp_path}/with%20space.db?table=log&retention_max_age=60&synchronous=off", "with space.db"),
            ("sqlite:short.db?retention_max_events=5", "short.db"),
        ):
            sink = sink_from_url(url)
            sink.close()  # type: ignore[attr-defined]
            assert (tmp_path / name).exists()

    def test_the_descriptor_is_the_file_the_table_and_the_rest(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two spellings of one path are one resource."""
        monkeypatch.chdir(tmp_path)
        one = SqliteLogSink.build_descriptor(path="a.db", queue_max_size=5)
        assert one == SqliteLogSink.build_descriptor(path=tmp_path / "a.db", table="events", queue_max_size=5)
        assert (one.sink_type, one.resource_key) == ("sqlite", (str(tmp_path / "a.db"), "events"))
        assert one != SqliteLogSink.build_descriptor(path="a.db", table="other", queue_max_size=5)
        assert one != SqliteLogSink.build_descriptor(path="a.db")
        with pytest.raises(LogConfigurationError, match="retention"):
            SqliteLogSink.build_descriptor(path="a.db", retention=5)
        assert not list(tmp_path.iterdir())


class TestRows:
    """`event_to_row`, `row_to_event`."""

    @given(events)
    @settings(max_examples=often(100))
    def test_event_to_row_to_event_restores_everything(self, event: LogEvent) -> None:
        """Times to the last bit, payloads with all their types."""
        assert row_to_event(event_to_row(event, process_id=7)) == event

    @given(batch=st.lists(events, max_size=6))
    @settings(max_examples=often(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_a_store_gives_back_what_was_written(
        self, batch: list[LogEvent], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Through SQLite and back, in order."""
        path = tmp_path_factory.mktemp("store") / "e.db"
        with opened(path, synchronous="off") as store:
            store.write(batch)
            assert stored(path) == batch

    def test_columns_are_what_a_person_looks_for(self, path: pathlib.Path) -> None:
        """Each field has a column of its own; the payload is JSON."""
        event = LogEvent(
            25,
            LogEventMeta("shop", "user %s", "user-1", "/a.py", 7, "login"),
            "success",
            MOMENT,
            {"order": {"id": 42}},
            "user bob",
            LogException("ValueError", "bad", "Traceback\nValueError: bad"),
            LogStack("Stack"),
            LogEventOrigin(system="logging", level_name="NOTICE", process_id=3, thread_name="T"),
        )
        with opened(path) as store:
            store.write([event, make_event()])
        with sqlite(path) as raw:
            assert raw.execute(
                "SELECT id, timestamp, level, level_name, namespace, event, entity_id, outcome, message, "
                "json_extract(payload, '$.order.id'), source_path, source_line, source_func, "
                "json_extract(exception, '$.type'), json_extract(stack, '$.text'), process_id, thread_name, "
                "json_extract(origin, '$.system') FROM events"
            ).fetchall() == [
                (1, MOMENT, 25, "NOTICE", "shop", "user %s", "user-1", "success", "user bob", 42, "/a.py", 7, "login",
                 "ValueError", "Stack", 3, "T", "logging"),
                (2, MOMENT, 20, "INFO", "shop", "app.started", None, None, None, None, None, None, None, None, None,
                 os.getpid(), None, None),
            ]  # fmt: skip
            assert raw.execute("SELECT * FROM events_readable").fetchall() == [
                (1, "2026-05-12 14:30:25.000", "NOTICE", "shop", "user %s", "user-1", "success", "user bob",
                 '{"order":{"id":42}}', "/a.py:7", "Traceback\nValueError: bad", 3, "T"),
                (2, "2026-05-12 14:30:25.000", "INFO", "shop", "app.started", None, None, None, "{}", None, None,
                 os.getpid(), None),
            ]  # fmt: skip

    @pytest.mark.parametrize(
        "poison",
        [
            make_event(payload={"a": object(), "b": b"\xff", "c": float("nan")}),
            make_event("\ud800"),
            make_event(level=2**70),
            make_event(timestamp=float("nan")),
            make_event(timestamp="noon"),
            make_event(payload={"a": "\udcff"}),
            make_event(payload={(1, 2): 3}),
            make_event(payload=["not", "a", "dict"]),
            make_event(payload=None),
            make_event(message=object()),
            make_event(event_outcome=["list"]),
            make_event(exception=LogException("E", "\ud800", "t", ({"a": object()},))),
            make_event(origin=LogEventOrigin(system="x", args=(object(),), process_id=2**80)),
            LogEvent(20, LogEventMeta(None, None), None, MOMENT, {}),  # type: ignore[arg-type]
            LogEvent(20, LogEventMeta("n", "e", source_line="seven"), None, MOMENT, {}),  # type: ignore[arg-type]
        ],
        ids=range(15),
    )
    def test_an_event_that_sqlite_refuses_does_not_lose_its_batch(self, path: pathlib.Path, poison: LogEvent) -> None:
        """All three arrive; what cannot be stored is put into words."""
        with running(path) as sink:
            for event in (make_event("before"), poison, make_event("after")):
                sink.log(event)
            assert sink.flush(10)
            assert sink.stats().delivered == 3
        found = stored(path)
        assert [found[0], found[2]] == [make_event("before"), make_event("after")]
        assert isinstance(found[1].payload, dict)

    def test_a_time_keeps_all_its_bits_beside_a_poisoned_value(self, path: pathlib.Path) -> None:
        """Only what does not fit is changed."""
        event = make_event(timestamp=0.1 + 0.2, level=2**63, payload={"raw": b"x"})
        with opened(path) as store:
            store.write([event])
        (found,) = stored(path)
        assert (found.timestamp, found.level, found.payload) == (0.1 + 0.2, 2**63 - 1, {"raw": "x"})

    def test_a_row_that_somebody_edited_is_read_as_far_as_it_goes(self, path: pathlib.Path) -> None:
        """One broken JSON text does not hide the event."""
        with opened(path) as store:
            store.write([make_event(payload={"a": 1}, stack=LogStack("s"), origin=LogEventOrigin(system="x"))])
        with sqlite(path) as raw:
            raw.execute("UPDATE events SET payload = 'nonsense', stack = '{}', origin = '[]', exception = x'00'")
        assert stored(path) == [make_event()]
        assert stored(path, payload={"a": 1}) == []


class TestDelivery:
    """The sink on its way to the file."""

    def test_events_from_8_threads_arrive_in_order_per_thread(self, path: pathlib.Path) -> None:
        """None lost, none twice; the ids are the order of acceptance."""
        with running(path, queue_max_size=200_000, shutdown_timeout=60.0) as sink:

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
        found = numbers(path)
        for writer in range(8):
            assert [n for w, n in found if w == writer] == list(range(EACH))
        with sqlite(path) as raw:
            assert raw.execute("SELECT count(*), min(id), max(id) FROM events").fetchone() == (8 * EACH, 1, 8 * EACH)
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    @pytest.mark.parametrize("flag", ["early", "late"])
    def test_four_processes_write_into_one_file_at_once(self, path: pathlib.Path, flag: str) -> None:
        """Also when all of them find it missing at the same moment."""
        writers = [start_writer(w, SHARE, flag, path=str(path)) for w in range(4)]
        release(*writers)
        finish(*writers)
        found = numbers(path)
        assert len(found) == 4 * SHARE
        for writer in range(4):
            assert [n for w, n in found if w == writer] == list(range(SHARE))
        # SQLite keeps the log where the last ones close at the same moment: each sees the other's lock.
        with opened(path):
            pass
        assert not list(path.parent.glob("*-wal"))

    def test_two_tables_share_a_file(self, path: pathlib.Path) -> None:
        """Each with indexes and a view of its own."""
        with running(path) as one, running(path, table="Audit_2") as two:
            one.log(make_event("one"))
            two.log(make_event("two"))
        assert stored(path) == [make_event("one")]
        assert stored(path, table="Audit_2") == [make_event("two")]
        with sqlite(path) as raw:
            assert raw.execute("SELECT count(*) FROM Audit_2_readable").fetchone() == (1,)

    def test_a_stopped_sink_starts_again(self, path: pathlib.Path) -> None:
        """On the same file."""
        with running(path) as sink:
            sink.log(make_event("one"))
            sink.stop().wait(10)
            assert sink.start().wait(10).success
            sink.log(make_event("two"))
        assert [event.meta.event_name for event in stored(path)] == ["one", "two"]

    async def test_on_the_applications_loop_it_works_in_an_executor(self, path: pathlib.Path) -> None:
        """The loop never waits for the disk."""
        sink = SqliteLogSink(path)
        await sink.start()
        for n in range(100):
            sink.log(make_event(payload={"w": 0, "n": n}))
        await sink.stop()
        assert numbers(path) == [(0, n) for n in range(100)]

    def test_missing_directories_are_made(self, tmp_path: pathlib.Path) -> None:
        """As for files, whatever characters they have."""
        path = tmp_path / "a b" / "c?d#e%20" / "é.db"
        with running(path) as sink:
            sink.log(make_event())
        assert stored(path) == [make_event()]

    def test_a_lock_that_is_held_for_a_while_only_delays(self, path: pathlib.Path) -> None:
        """Somebody's long transaction in the sqlite3 shell."""
        with running(path) as sink, contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            sink.log(make_event())
            assert not sink.flush(0.5)
            other.execute("ROLLBACK")
            assert sink.flush(10)
            assert sink.stats().delivered == 1

    def test_a_file_that_is_deleted_or_replaced_under_the_sink_comes_back(self, path: pathlib.Path) -> None:
        """SQLite itself would go on writing to what has no name any more."""
        with running(path) as sink:
            sink.log(make_event("one"))
            assert sink.flush(10)
            for other in path.parent.iterdir():
                other.unlink()
            sink.log(make_event("two"))
            assert sink.flush(10)
            assert stored(path) == [make_event("two")]
            path.rename(path.with_name("moved.db"))
            for suffix in ("-wal", "-shm"):
                pathlib.Path(f"{path}{suffix}").unlink(missing_ok=True)
            sink.log(make_event("three"))
        assert stored(path) == [make_event("three")]

    def test_a_backup_that_is_put_in_its_place_is_gone_on_with(self, path: pathlib.Path) -> None:
        """The path says where events go, not the file that once was there."""
        backup = path.with_name("backup.db")
        with opened(backup) as store:
            store.write([make_event("restored")])
        with running(path) as sink:
            sink.log(make_event("one"))
            assert sink.flush(10)
            for suffix in ("-wal", "-shm"):
                pathlib.Path(f"{path}{suffix}").unlink()
            backup.replace(path)
            sink.log(make_event("two"))
        assert [event.meta.event_name for event in stored(path)] == ["restored", "two"]

    def test_kill_9_leaves_a_store_with_whole_batches(self, path: pathlib.Path) -> None:
        """Everything that was flushed is there, and the next process goes on."""
        for round_ in range(3):
            writer = start_writer(round_, 1_000_000, path=str(path))
            release(writer)
            wait_for(
                lambda round_=round_: path.exists() and any(w == round_ for w, _ in numbers(path)),  # type: ignore[misc]
                "some events",
            )
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
        with running(path) as sink:
            sink.log(make_event(payload={"w": 9, "n": 0}))
        found = numbers(path)
        for round_ in range(3):
            mine = [n for w, n in found if w == round_]
            assert mine == list(range(len(mine)))
            assert mine
        assert found[-1] == (9, 0)
        with sqlite(path) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    @pytest.mark.parametrize("sync", ["off", "normal", "full", "extra"])
    def test_synchronous_is_passed_on(self, path: pathlib.Path, sync: str) -> None:
        """As PRAGMA synchronous counts them."""
        with opened(path, synchronous=sync) as store:
            raw = store._connection.raw
            assert raw is not None
            assert raw.execute("PRAGMA synchronous").fetchone()[0] == ["off", "normal", "full", "extra"].index(sync)


LOCKER = textwrap.dedent(
    """
    import sqlite3, sys
    raw = sqlite3.connect(sys.argv[1], isolation_level=None)
    raw.execute(sys.argv[2])
    print("ready", flush=True)
    sys.stdin.readline()
    raw.close()
    """
)

TROUBLED = textwrap.dedent(
    """
    import os, resource, sys, time
    from mvx_logger.model import LogEvent, LogEventMeta
    from mvx_logger.sinks.sqlite import SqliteLogSink
    from mvx_logger import selflog

    selflog.redirect(lambda report: None)
    path = sys.argv[1]
    count = 0

    def log(number):
        global count
        for _ in range(number):
            sink.log(LogEvent(20, LogEventMeta(None, "x"), None, 0.0, {"w": 0, "n": count, "f": "x" * 2000}))
            count += 1

    def wait(condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, sink.stats()
            time.sleep(0.002)

    def create(**options):
        global sink, close
        sink, close = SqliteLogSink.create(path=path, retry_delay=0.002, retry_max_delay=0.02, **options)

    def end():
        assert sink.flush(60), sink.stats()
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


IMPATIENT = {"retry_delay": 0.002, "retry_max_delay": 0.02}


class TestTroubleThatPasses:
    """Events wait while the file does not take them; then all of them are there, in order, none twice."""

    @pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
    def test_another_process_that_holds_the_lock_for_long(self, path: pathlib.Path, lock: str) -> None:
        """Longer than busy_timeout, several times."""
        with running(path, busy_timeout=0.02, **IMPATIENT) as sink:
            sink.log(make_event(payload={"w": 0, "n": 0}))
            assert sink.flush(30)
            locker = subprocess.Popen(
                [sys.executable, "-c", LOCKER, str(path), lock],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert locker.stdout is not None
            assert locker.stdout.readline() == "ready\n"
            for n in range(1, 10):
                sink.log(make_event(payload={"w": 0, "n": n}))
            wait_for(lambda: sink.stats().retries > 8, "attempts in vain")
            assert "locked" in (sink.stats().last_error or "")
            assert sink.stats().pending == 9
            locker.communicate("\n")
            assert sink.flush(30)
            assert sink.stats().dropped == {}
        assert numbers(path) == [(0, n) for n in range(10)]

    def test_a_lock_at_the_start_of_a_sink(self, path: pathlib.Path, reports: list[selflog.SelfLogReport]) -> None:
        """It starts all the same."""
        with opened(path), contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with running(path, busy_timeout=0.01, **IMPATIENT) as sink:
                assert reports[0].kind == "sqlite_open"
                sink.log(make_event("one"))
                wait_for(lambda: sink.stats().retries > 2, "attempts in vain")
                other.execute("ROLLBACK")
                assert sink.flush(30)
        assert [event.meta.event_name for event in stored(path)] == ["one"]

    @pytest.mark.parametrize("options", ["", "synchronous='full'", "durable=path + '.spool', durability='commit'"])
    def test_a_full_disk(self, path: pathlib.Path, options: str) -> None:
        """Several times, at whatever the store was doing; it stays whole."""
        count = run_troubled(
            path,
            f"""
            create({options})
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            for limit in (200_000, 301_234, 405_678):
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
                log(100)
                retries = sink.stats().retries
                wait(lambda: sink.stats().retries > retries + 8)
                assert sink.stats().pending and not sink.stats().dropped
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            log(5)
            end()
            """,
        )
        assert numbers(path) == [(0, n) for n in range(count)]
        with sqlite(path) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert raw.execute("SELECT max(id) FROM events").fetchone() == (count,)

    def test_permissions_that_are_taken_and_given_back(self) -> None:
        """Of the file, after it was replaced: for a process without privileges."""
        with tempfile.TemporaryDirectory() as name:
            os.chmod(name, 0o777)
            path = pathlib.Path(name) / "store" / "events.db"
            run_troubled(
                path,
                """
                import shutil
                if not os.getuid():
                    os.setuid(65534)
                create()
                log(10)
                assert sink.flush(30)
                sink.stop().wait(30)
                shutil.copy(path, path + ".copy")
                assert sink.start().wait(30).success
                os.chmod(path + ".copy", 0o400)
                os.replace(path + ".copy", path)
                log(10)
                wait(lambda: sink.stats().retries > 8)
                assert "readonly" in sink.stats().last_error, sink.stats()
                os.chmod(path, 0o600)
                log(10)
                assert sink.flush(30), sink.stats()
                place = os.path.dirname(path)
                os.chmod(place, 0o000)
                log(10)
                wait(lambda: sink.stats().pending)
                os.chmod(place, 0o700)
                log(10)
                end()
                """,
            )
            assert numbers(path) == [(0, n) for n in range(50)]

    @pytest.mark.parametrize("content", [b"dear diary\n" * 200, "database", "damage"])
    def test_something_else_in_its_place(
        self, path: pathlib.Path, content: bytes | str, reports: list[selflog.SelfLogReport]
    ) -> None:
        """It is left as it is, and complained of; when it is gone, or the store is back, delivery goes on."""
        with running(path, **IMPATIENT) as sink:
            sink.log(make_event(payload={"w": 0, "n": 0}))
            sink.stop().wait(30)
            good = path.read_bytes()
            assert sink.start().wait(30).success
            foreign = path.with_name("foreign")
            if content == "database":
                with sqlite(foreign) as raw:
                    raw.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, name TEXT)")
            elif content == "damage":
                foreign.write_bytes(good[:4096] + b"\x55" * (len(good) - 4096))
            else:
                assert isinstance(content, bytes)
                foreign.write_bytes(content)
            bad = foreign.read_bytes()
            foreign.replace(path)
            for n in range(1, 10):
                sink.log(make_event(payload={"w": 0, "n": n}))
            wait_for(lambda: sink.stats().retries > 8, "attempts in vain")
            assert path.read_bytes() == bad
            assert "SqliteStoreError" in (sink.stats().last_error or "")
            assert any("SqliteStoreError" in str(report.fields.get("error")) for report in reports)
            # The same file, repaired; never empty meanwhile: then the sink would begin a store there.
            with path.open("r+b", buffering=0) as file:
                file.write(good)
                file.truncate()
            sink.log(make_event(payload={"w": 0, "n": 10}))
            assert sink.flush(30)
            assert sink.stats().dropped == {}
        assert numbers(path) == [(0, n) for n in range(11)]

    @pytest.mark.parametrize(
        "statement",
        [
            "DROP TABLE events",
            "DROP INDEX events_delivery_id",
            "ALTER TABLE events RENAME TO old",
            "ALTER TABLE events RENAME COLUMN outcome TO result",
        ],
    )
    def test_a_table_that_somebody_has_changed(self, path: pathlib.Path, statement: str) -> None:
        """What is missing is made anew; where that is not possible, events wait."""
        with running(path, **IMPATIENT) as sink:
            sink.log(make_event("one"))
            assert sink.flush(30)
            with sqlite(path) as raw:
                raw.execute("DROP VIEW events_readable")
                raw.execute(statement)
            sink.log(make_event("two"))
            if "result" in statement:
                wait_for(lambda: sink.stats().retries > 8, "attempts in vain")
                assert "no column 'outcome'" in (sink.stats().last_error or "")
                with sqlite(path) as raw:
                    raw.execute("ALTER TABLE events RENAME COLUMN result TO outcome")
            assert sink.flush(30)
            assert sink.stats().dropped == {}
        assert stored(path)[-1] == make_event("two")

    def test_what_sqlite_refuses_does_not_hold_the_others(self, path: pathlib.Path) -> None:
        """A constraint of the owner's, and an event that is too large: each alone, at once, with its reason."""
        with running(path) as sink:
            with sqlite(path) as raw:
                raw.execute(
                    "CREATE TRIGGER mine BEFORE INSERT ON events WHEN new.event = 'bad' "
                    "BEGIN SELECT raise(ABORT, 'not here'); END"
                )
            sink.log(make_event("first"))
            assert sink.flush(30)
            assert sink._store is not None
            assert sink._store._connection.raw is not None
            sink._store._connection.raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
            for n in range(100):
                sink.log(make_event("bad" if n == 17 else "good", payload={"n": n, "f": "x" * (200_000 * (n == 71))}))
            wait_for(lambda: not sink.stats().pending, "all are settled")
            stats = sink.stats()
            assert (stats.delivered, stats.dropped) == (99, {"refused": 2})
        assert [event.payload["n"] for event in stored(path, event="good")] == [
            n for n in range(100) if n not in (17, 71)
        ]


KILLED = textwrap.dedent(
    """
    import sys
    from mvx_logger.model import LogEvent, LogEventMeta
    from mvx_logger.sinks.sqlite import SqliteLogSink

    path, first = sys.argv[1], int(sys.argv[2])
    sink, close = SqliteLogSink.create(path=path, durable=path + ".spool", durability="commit", batch_max_size=20)
    for n in range(first, first + (100_000 if "go" in sys.argv else 1)):
        sink.log(LogEvent(20, LogEventMeta(None, "tick"), None, 0.0, {"w": 0, "n": n}))
        print(n, flush=True)
    close()
    """
)


class TestDeliveryIds:
    """An event is there once, however often it is handed out."""

    def test_a_row_has_the_id_of_its_delivery(self, path: pathlib.Path) -> None:
        """So that a dead letter or a trace of the network finds it."""
        seen: list[str] = []

        class Watched(SqliteLogSink):
            async def _dispatch_batch(self, events: Any) -> None:
                seen.extend(events.delivery_ids)
                await super()._dispatch_batch(events)

        sink, close = Watched.create(path=path)
        for n in range(5):
            sink.log(make_event(payload={"n": n}))
        close()
        with sqlite(path) as raw:
            assert [key for (key,) in raw.execute("SELECT delivery_id FROM events ORDER BY id")] == seen
        assert len(set(seen)) == 5

    def test_a_commit_that_was_not_confirmed(self, path: pathlib.Path) -> None:
        """The batch is written, and comes again all the same."""

        class Forgetful(SqliteLogSink):
            async def _dispatch_batch(self, events: Any) -> None:
                await super()._dispatch_batch(events)
                if events.attempt < 4:
                    raise OSError("the confirmation got lost")

        sink, close = Forgetful.create(path=path, **IMPATIENT)
        for n in range(100):
            sink.log(make_event(payload={"w": 0, "n": n}))
        assert sink.flush(30)
        close()
        assert (sink.stats().delivered, sink.stats().dropped) == (100, {})
        assert sink.stats().retries >= 3
        assert numbers(path) == [(0, n) for n in range(100)]

    async def test_a_write_that_was_given_up_on(self, path: pathlib.Path) -> None:
        """On the application's loop it goes on in its thread: here it gets through when the lock is released."""
        sink = SqliteLogSink(path, delivery_timeout=0.05, busy_timeout=30.0, **IMPATIENT)
        await sink.start()
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            for n in range(10):
                sink.log(make_event(payload={"w": 0, "n": n}))
            while sink.stats().retries < 3:
                await asyncio.sleep(0.005)
            other.execute("ROLLBACK")
            while sink.stats().pending:
                await asyncio.sleep(0.005)
            await sink.stop()
        assert (sink.stats().delivered, sink.stats().dropped) == (10, {})
        assert numbers(path) == [(0, n) for n in range(10)]

    def test_kill_9_and_the_disk_queue(self, path: pathlib.Path) -> None:
        """Every event whose log() had returned is in the store once, after any number of crashes."""
        logged: list[int] = []
        for round_ in range(ROUNDS):
            process = subprocess.Popen(
                [sys.executable, "-c", KILLED, str(path), str(round_ * 1_000_000), "go"],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert process.stdout is not None
            logged += [int(process.stdout.readline()) for _ in range(round_ * 15 + 1)]
            process.send_signal(signal.SIGKILL)
            logged += [int(line) for line in process.communicate()[0].splitlines(keepends=True) if line.endswith("\n")]
        subprocess.run([sys.executable, "-c", KILLED, str(path), "99000000"], check=True, capture_output=True)
        found = [n for _, n in numbers(path)]
        assert len(found) == len(set(found))
        assert set(logged) <= set(found)
        for round_ in range(ROUNDS):
            mine = [n for n in found if n // 1_000_000 == round_]
            assert mine == list(range(round_ * 1_000_000, round_ * 1_000_000 + len(mine)))

    @given(batches=st.lists(st.lists(st.integers(0, 60), unique=True, max_size=30), max_size=8))
    @settings(max_examples=often(50), deadline=None)
    def test_of_any_batches_the_first_of_each_id_stays(
        self, batches: list[list[int]], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """In order, and without gaps in the row ids: retention counts by them."""
        path = tmp_path_factory.mktemp("ids") / "events.db"
        expected: dict[int, int] = {}
        with opened(path) as store:
            for number, keys in enumerate(batches):
                store.write(
                    [make_event(payload={"w": number, "n": key}) for key in keys], [f"id-{key}" for key in keys]
                )
                for key in keys:
                    expected.setdefault(key, number)
        found = list(read_events(path))
        assert [(event.payload["n"], event.payload["w"]) for _, event in found] == list(expected.items())
        assert [row_id for row_id, _ in found] == list(range(1, len(found) + 1))

    def test_a_poisoned_event_is_not_doubled_either(self, path: pathlib.Path) -> None:
        """What has to be tamed first, in a batch that is there in part."""
        poison = make_event("poison", payload={"n": float("nan"), "huge": 2**80}, timestamp=float("nan"))
        with opened(path) as store:
            store.write([make_event("one")], ["1"])
            store.write([make_event("one"), poison, make_event("two")], ["1", "2", "3"])
            store.write([make_event("one"), poison, make_event("two")], ["1", "2", "3"])
        assert [event.meta.event_name for event in stored(path)] == ["one", "poison", "two"]

    def test_events_without_an_id_are_all_kept(self, path: pathlib.Path) -> None:
        """There may be any number of them."""
        with opened(path) as store:
            store.write([make_event(), make_event()])
            store.write([make_event()])
        assert len(stored(path)) == 3


class TestManyRowsAtOnce:
    """A large batch goes in with few statements, and nobody can tell."""

    AT_ONCE = sqlite_store._ROWS_AT_ONCE

    @given(pool=st.lists(events, min_size=1, max_size=5), sizes=st.lists(st.integers(0, 3 * AT_ONCE), max_size=4))
    @settings(max_examples=often(25), deadline=None)
    def test_any_number_of_any_events_comes_back(
        self, pool: list[LogEvent], sizes: list[int], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """In order, without gaps in the row ids, whatever the events have in common and lack."""
        path = tmp_path_factory.mktemp("many") / "e.db"
        expected: list[LogEvent] = []
        with opened(path, synchronous="off") as store:
            for size in sizes:
                batch = [pool[n % len(pool)] for n in range(size)]
                store.write(batch)
                expected += batch
        found = list(read_events(path))
        assert [event for _, event in found] == expected
        assert [row_id for row_id, _ in found] == list(range(1, len(expected) + 1))

    @pytest.mark.parametrize("size", [AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 2 * AT_ONCE, 2 * AT_ONCE + 1])
    def test_what_only_the_last_event_has_is_kept(self, path: pathlib.Path, size: int) -> None:
        """All others lack it."""
        meta = LogEventMeta("n", "e", "entity", "p.py", 0, "func")
        origin = LogEventOrigin(system="s", process_id=0, thread_name="")
        full = LogEvent(0, meta, "", 0.0, {"n": 0}, "", LogException("T", "m", "t"), LogStack("s"), origin)
        batch = [*[make_event(namespace=None)] * (size - 1), full]
        with opened(path) as store:
            store.write(batch)
        assert stored(path) == batch
        with sqlite(path) as raw:
            assert None not in raw.execute("SELECT * FROM events ORDER BY id DESC").fetchone()[:-1]

    def test_batches_of_every_shape(self, path: pathlib.Path) -> None:
        """More of them than there are statements kept."""
        batches = []
        for shape in range(32):
            namespace, entity, outcome, message, func = ["" if shape >> bit & 1 else None for bit in range(5)]
            meta = LogEventMeta(namespace, "e", entity, source_func=func)
            batches.append(
                [LogEvent(20, meta, outcome, MOMENT, {"s": shape, "n": n}, message) for n in range(self.AT_ONCE + 1)]
            )
        with opened(path) as store:
            for batch in batches + batches:
                store.write(batch)
        assert stored(path) == [event for batch in batches + batches for event in batch]

    @given(
        ranges=st.lists(
            st.tuples(st.integers(0, 4 * AT_ONCE), st.integers(0, 3 * AT_ONCE)).map(lambda r: range(r[0], sum(r))),
            max_size=6,
        )
    )
    @settings(max_examples=often(25), deadline=None)
    def test_of_large_batches_the_first_of_each_id_stays(
        self, ranges: list[range], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """An id that is there already may be anywhere in a statement."""
        path = tmp_path_factory.mktemp("ids") / "events.db"
        expected: dict[int, int] = {}
        with opened(path, synchronous="off") as store:
            for number, keys in enumerate(ranges):
                store.write(
                    [make_event(payload={"w": number, "n": key}) for key in keys], [f"id-{key}" for key in keys]
                )
                for key in keys:
                    expected.setdefault(key, number)
        found = list(read_events(path))
        assert [(event.payload["n"], event.payload["w"]) for _, event in found] == list(expected.items())
        assert [row_id for row_id, _ in found] == list(range(1, len(found) + 1))

    @pytest.mark.parametrize("at", [0, AT_ONCE // 2, AT_ONCE - 1, AT_ONCE, 2 * AT_ONCE + 1])
    @pytest.mark.parametrize(
        "poison",
        [
            make_event("poison", timestamp=float("nan")),
            make_event("poison", message="\ud800"),
            make_event("poison", level=2**80),
            make_event("poison", event_outcome=object()),
        ],
        ids=["nan", "surrogate", "huge", "object"],
    )
    def test_a_value_that_does_not_fit_is_put_into_words(self, path: pathlib.Path, poison: LogEvent, at: int) -> None:
        """The others are as they were, and the batch is there once."""
        batch = [make_event(payload={"n": n}) for n in range(2 * self.AT_ONCE + 2)]
        batch[at] = poison
        keys = [f"id-{n}" for n in range(len(batch))]
        with opened(path) as store:
            store.write(batch, keys)
            store.write(batch, keys)
        found = stored(path)
        assert found.pop(at).meta.event_name == "poison"
        assert found == batch[:at] + batch[at + 1 :]

    def test_a_constraint_and_a_trigger_of_the_owner_mean_the_same(self, path: pathlib.Path) -> None:
        """What is forbidden is found in its batch; what a trigger does is done once for each row that stays."""
        with running(path, batch_max_size=4 * self.AT_ONCE, batch_max_age=60) as sink:
            with sqlite(path) as raw:
                raw.executescript(
                    """
                    CREATE TABLE counts (event TEXT UNIQUE, count INTEGER);
                    CREATE TRIGGER forbids BEFORE INSERT ON events WHEN new.event = 'bad'
                        BEGIN SELECT raise(ABORT, 'not here'); END;
                    CREATE TRIGGER counting AFTER INSERT ON events BEGIN
                        INSERT OR IGNORE INTO counts VALUES (new.event, 0);
                        UPDATE counts SET count = count + 1 WHERE event = new.event;
                    END;
                    CREATE UNIQUE INDEX mine ON events (entity_id);
                    """
                )
            sink.log(make_event("first"))
            assert sink.flush(30)
            total = 3 * self.AT_ONCE + 7
            for n in range(total):
                sink.log(
                    make_event(
                        "bad" if n == self.AT_ONCE + 9 else "good",
                        entity_id="only once" if n in (3, 2 * self.AT_ONCE + 3) else None,
                        payload={"n": n},
                    )
                )
            assert not sink.flush(30)
            assert (sink.stats().delivered, sink.stats().dropped) == (total - 1, {"refused": 2})
        left_out = (self.AT_ONCE + 9, 2 * self.AT_ONCE + 3)
        assert [event.payload["n"] for event in stored(path, event="good")] == [
            n for n in range(total) if n not in left_out
        ]
        with sqlite(path) as raw:
            assert dict(raw.execute("SELECT * FROM counts")) == {"first": 1, "good": total - 2}

    @pytest.mark.parametrize("limit", [18, 40, 999, 32_766])
    def test_an_sqlite_that_takes_fewer_parameters(self, path: pathlib.Path, limit: int) -> None:
        """999 is what it took before 3.32; whoever builds it sets the limit."""
        batch = [make_event(payload={"n": n}) for n in range(2 * self.AT_ONCE + 1)]
        with opened(path) as store:
            assert store._connection.raw is not None
            store._connection.raw.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, limit)
            store.write(batch)
        assert stored(path) == batch

    def test_a_batch_that_a_full_disk_cuts_short_is_not_there_in_part(self, path: pathlib.Path) -> None:
        """It comes again, and then all of it is."""
        batch = [make_event(payload={"n": n, "f": "x" * 500}) for n in range(3 * self.AT_ONCE)]
        keys = [f"id-{n}" for n in range(len(batch))]
        with opened(path) as store:
            raw = store._connection.raw
            assert raw is not None
            raw.execute(f"PRAGMA max_page_count = {raw.execute('PRAGMA page_count').fetchone()[0] + 60}")
            with pytest.raises(sqlite3.OperationalError, match="full"):
                store.write(batch, keys)
            assert stored(path) == []
            raw.execute("PRAGMA max_page_count = 1000000")
            store.write(batch, keys)
        assert stored(path) == batch

    def test_no_statement_needs_a_temporary_file(self, path: pathlib.Path) -> None:
        """There may be no room for one, or no directory."""
        with opened(path) as store:
            assert store._connection.raw is not None
            assert store._connection.raw.execute("PRAGMA temp_store").fetchone() == (2,)


VERSION_1 = """
CREATE TABLE "{table}" (
    id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp REAL NOT NULL, level INTEGER NOT NULL, level_name TEXT NOT NULL,
    namespace TEXT, event TEXT NOT NULL, entity_id TEXT, outcome TEXT, message TEXT, payload TEXT NOT NULL,
    source_path TEXT, source_line INTEGER, source_func TEXT, exception TEXT, stack TEXT, process_id INTEGER,
    thread_name TEXT, origin TEXT
);
CREATE INDEX "{table}_timestamp" ON "{table}" (timestamp);
CREATE INDEX "{table}_namespace" ON "{table}" (namespace, timestamp);
CREATE INDEX "{table}_level" ON "{table}" (level, timestamp);
CREATE INDEX "{table}_event" ON "{table}" (event, timestamp);
CREATE INDEX "{table}_entity_id" ON "{table}" (entity_id, timestamp) WHERE entity_id IS NOT NULL;
CREATE VIEW "{table}_readable" AS SELECT id, level_name AS level, event, payload FROM "{table}";
"""


@pytest.fixture
def old(path: pathlib.Path) -> pathlib.Path:
    """A file of version 1 with two tables."""
    with sqlite(path) as raw:
        raw.execute("PRAGMA auto_vacuum = INCREMENTAL")
        raw.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        raw.execute("PRAGMA user_version = 1")
        for table in ("events", "audit"):
            raw.executescript(VERSION_1.format(table=table))
            raw.executemany(
                f"INSERT INTO {table} ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})",
                [event_to_row(make_event(table, payload={"w": 9, "n": n})) for n in range(100)],
            )
            raw.commit()
        raw.execute("PRAGMA journal_mode = WAL")
    return path


class TestVersion1:
    """A file that an earlier version has written."""

    def get_columns(self, path: pathlib.Path, table: str) -> list[str]:
        with sqlite(path) as raw:
            return [row[1] for row in raw.execute(f"PRAGMA table_info({table})")]

    def test_it_is_read_as_it_is(self, old: pathlib.Path) -> None:
        """Without a change to the file."""
        before = old.read_bytes()
        assert numbers(old) == [(9, n) for n in range(100)]
        assert read_summary(old, table="audit").count == 100
        assert old.read_bytes() == before

    def test_each_table_is_upgraded_when_it_is_written_to(self, old: pathlib.Path) -> None:
        """And only then; the events that are there stay."""
        with running(old) as sink:
            sink.log(make_event(payload={"w": 9, "n": 100}))
        assert self.get_columns(old, "events") == ["id", *COLUMNS, "delivery_id"]
        assert self.get_columns(old, "audit") == ["id", *COLUMNS]
        with sqlite(old) as raw:
            assert raw.execute("PRAGMA user_version").fetchone() == (2,)
            assert raw.execute("SELECT count(*), count(delivery_id) FROM events").fetchone() == (101, 1)
        assert len(stored(old, table="audit")) == 100
        with opened(old, table="audit") as store:
            for _ in range(2):
                store.write([make_event(payload={"w": 9, "n": 100})], ["once"])
        for table in ("events", "audit"):
            assert [event.payload["n"] for event in stored(old, table=table)] == list(range(101))
        with sqlite(old) as raw:
            assert raw.execute("SELECT count(*) FROM audit_readable").fetchone() == (101,)
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    def test_several_processes_upgrade_it_at_once(self, old: pathlib.Path) -> None:
        """Two on each table; none fails."""
        writers = [start_writer(w, 300, "early", path=str(old), table="audit" if w % 2 else "events") for w in range(4)]
        release(*writers)
        finish(*writers)
        for table, mine in (("events", (0, 2)), ("audit", (1, 3))):
            found = [(event.payload["w"], event.payload["n"]) for event in stored(old, table=table)]
            assert len(found) == 700
            for writer, count in ((9, 100), (mine[0], 300), (mine[1], 300)):
                assert [n for w, n in found if w == writer] == list(range(count))
            assert self.get_columns(old, table) == ["id", *COLUMNS, "delivery_id"]

    def test_an_upgrade_that_is_killed_leaves_version_1_or_2(self, old: pathlib.Path) -> None:
        """All of it, or nothing: also where it fails half-way."""
        with sqlite(old) as raw:
            raw.execute("CREATE TABLE events_delivery_id (x)")  # its name is in the way of the index
        with pytest.raises(AsyncioLogSinkOnStartingHookFailedError, match="events_delivery_id"):
            SqliteLogSink.create(path=old)
        assert self.get_columns(old, "events") == ["id", *COLUMNS]
        with sqlite(old) as raw:
            assert raw.execute("PRAGMA user_version").fetchone() == (1,)

    def test_ids_that_are_there_twice_are_complained_of(self, path: pathlib.Path) -> None:
        """Somebody has edited the table: no event is lost for that."""
        with running(path, **IMPATIENT) as sink:
            sink.log(make_event("one"))
            assert sink.flush(30)
            with sqlite(path) as raw:
                raw.execute("DROP INDEX events_delivery_id")
                raw.execute(
                    "INSERT INTO events (timestamp, level, level_name, event, payload, delivery_id) "
                    "SELECT timestamp, level, level_name, event, payload, delivery_id FROM events"
                )
            sink.stop().wait(30)
            assert not sink.start().wait(30).success
            assert "share a delivery id" in str(sink.stats().last_error)
            with sqlite(path) as raw:
                raw.execute("DELETE FROM events WHERE id = 2")
            assert sink.start().wait(30).success


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
class TestForks:
    """SQLite must not be carried through a fork, and is not."""

    def test_forked_children_write_and_the_parents_events_are_there_once(self, path: pathlib.Path) -> None:
        """Under load, with children that outlive nothing and break nothing."""
        with running(path, queue_max_size=100_000, shutdown_timeout=60.0, busy_timeout=60.0) as sink:
            stop = threading.Event()
            count = [0]

            def work() -> None:
                while not stop.is_set():
                    sink.log(make_event(payload={"w": 0, "n": count[0]}))
                    count[0] += 1
                    time.sleep(0.0002)

            thread = threading.Thread(target=work)
            thread.start()
            children = []
            for child in range(1, 21):
                pid = os.fork()
                if not pid:
                    try:
                        for n in range(20):
                            sink.log(make_event(payload={"w": child, "n": n}))
                        os._exit(0 if sink.flush(60) else 1)
                    finally:
                        os._exit(2)
                children.append(pid)
            assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 20
            stop.set()
            thread.join()
            assert sink.flush(60)
        found = numbers(path)
        assert [n for w, n in found if w == 0] == list(range(count[0]))
        for child in range(1, 21):
            assert [n for w, n in found if w == child] == list(range(20))
        with sqlite(path) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    def test_no_connection_is_inherited(self, path: pathlib.Path) -> None:
        """The child begins without descriptors of the database."""
        with running(path) as sink:
            sink.log(make_event("one"))
            assert sink.flush(10)
            pid = os.fork()
            if not pid:
                try:
                    links = [
                        os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if name != "3"
                    ]
                except OSError:
                    links = [""]
                os._exit(1 if any(str(path) in link for link in links) else 0)
            assert os.waitpid(pid, 0)[1] == 0
            sink.log(make_event("two"))
        assert [event.meta.event_name for event in stored(path)] == ["one", "two"]

    def test_the_parent_may_end_while_the_child_writes(self, path: pathlib.Path) -> None:
        """A daemon: the parent's end must not remove the log that the child writes ahead."""
        script = textwrap.dedent(
            """
            import os, sys, time
            from mvx_logger.model import LogEvent, LogEventMeta
            from mvx_logger.sinks.sqlite import SqliteLogSink

            def log(w, n):
                sink.log(LogEvent(20, LogEventMeta(None, "x"), None, 0.0, {"w": w, "n": n}))

            sink, close = SqliteLogSink.create(path=sys.argv[1])
            log(0, 0)
            sink.flush(10)
            if os.fork():
                log(0, 1)
                sys.exit()
            for n in range(300):
                log(1, n)
                sink.flush(10)
                time.sleep(0.001)
            """
        )
        subprocess.run([sys.executable, "-c", script, str(path)], timeout=60, check=True, stdout=subprocess.PIPE)
        found = numbers(path)
        assert [n for w, n in found if w == 0] == [0, 1]
        assert [n for w, n in found if w == 1] == list(range(300))

    def test_a_fork_waits_for_a_transaction_and_goes_on_after_it(self, path: pathlib.Path) -> None:
        """A thread is inside of SQLite at the moment of the fork."""
        with opened(path) as store:
            entered, leave = threading.Event(), threading.Event()

            def hold() -> None:
                with sqlite_store.sqlite_gate():
                    entered.set()
                    leave.wait(10)

            thread = threading.Thread(target=hold)
            thread.start()
            entered.wait(10)
            timer = threading.Timer(0.2, leave.set)
            timer.start()
            began = time.monotonic()
            pid = os.fork()
            if not pid:
                with contextlib.suppress(BaseException):
                    store.write([make_event("child")])
                    os._exit(0)
                os._exit(1)
            assert time.monotonic() - began >= 0.15
            thread.join()
            timer.join()
            assert os.waitpid(pid, 0)[1] == 0
            store.write([make_event("parent")])
        assert sorted(event.meta.event_name for event in stored(path)) == ["child", "parent"]

    def test_a_fork_while_the_disk_hangs_is_told_to_the_child(
        self, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The fork does not hang; the child, which cannot use SQLite safely, says so instead of doing harm."""
        monkeypatch.setattr(sqlite_store, "_FORK_TIMEOUT", 0.05)
        with opened(path) as store:
            entered, leave = threading.Event(), threading.Event()

            def hold() -> None:
                with sqlite_store.sqlite_gate():
                    entered.set()
                    leave.wait(30)

            thread = threading.Thread(target=hold)
            thread.start()
            entered.wait(10)
            pid = os.fork()
            if not pid:
                try:
                    store.write([make_event("child")])
                except SqliteStoreError as err:
                    os._exit(0 if "forked while SQLite was stuck" in str(err) else 1)
                finally:
                    os._exit(2)
            leave.set()
            thread.join()
            assert os.waitpid(pid, 0)[1] == 0
            store.write([make_event("parent")])
        assert stored(path) == [make_event("parent")]

    def test_a_fork_that_asks_nobody_closes_nothing(self, path: pathlib.Path) -> None:
        """uwsgi forks in C: the child leaves the parent's connection alone and makes its own."""
        with opened(path) as store:
            raw = store._connection.raw
            sqlite_store._after_fork_in_child()
            sqlite_store._after_fork_in_parent()
            assert store._connection.raw is None
            store.write([make_event()])
            assert raw is not None
            assert raw.execute("SELECT count(*) FROM events").fetchone() == (1,)
            sqlite_store._leaked.clear()
            raw.close()


class TestForeignFiles:
    """What is not ours is refused and left as it is."""

    def check_refused(self, path: pathlib.Path, complaint: str) -> None:
        before = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.parent.iterdir()}
        stamp = path.stat().st_mtime_ns
        with pytest.raises(AsyncioLogSinkOnStartingHookFailedError, match=complaint) as caught:
            SqliteLogSink.create(path=path)
        assert isinstance(caught.value.cause, SqliteStoreError)
        assert caught.value.cause.details == {"path": str(path)}
        with pytest.raises(SqliteStoreError, match=complaint):
            stored(path)
        assert {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.parent.iterdir()} == before
        assert path.stat().st_mtime_ns == stamp

    def test_a_file_that_is_no_database(self, path: pathlib.Path) -> None:
        """Somebody's text."""
        path.write_text("dear diary\n" * 200)
        self.check_refused(path, "not a SQLite database")

    def test_an_applications_database(self, path: pathlib.Path) -> None:
        """With tables of its own, even one called events."""
        with sqlite(path) as raw:
            raw.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, name TEXT)")
        self.check_refused(path, "not an event store of mvx-logger; use another file")

    def test_an_applications_database_in_wal_mode(self, path: pathlib.Path) -> None:
        """In use by its owner at this moment."""
        with sqlite(path) as raw:
            raw.execute("PRAGMA journal_mode = WAL")
            raw.execute("CREATE TABLE mine (x)")
            raw.commit()
            with pytest.raises(AsyncioLogSinkOnStartingHookFailedError, match="not an event store"):
                SqliteLogSink.create(path=path)
            raw.execute("INSERT INTO mine VALUES (1)")
        with sqlite(path) as raw:
            assert raw.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]
            assert raw.execute("PRAGMA application_id").fetchone() == (0,)

    def test_a_database_that_only_has_a_mark(self, path: pathlib.Path) -> None:
        """An application id or a user version is somebody's."""
        with sqlite(path) as raw:
            raw.execute("PRAGMA user_version = 3")
        self.check_refused(path, "not an event store")

    def test_a_store_of_a_newer_version(self, path: pathlib.Path) -> None:
        """Says which version it has, and what to do."""
        with opened(path):
            pass
        with sqlite(path) as raw:
            raw.execute("PRAGMA user_version = 99")
        self.check_refused(path, "schema version is 99, this mvx-logger knows up to 2; update mvx-logger")

    def test_a_table_of_ours_with_other_columns(self, path: pathlib.Path) -> None:
        """Somebody made a table in our file."""
        with opened(path):
            pass
        with sqlite(path) as raw:
            raw.execute(
                "CREATE TABLE mine (id INTEGER PRIMARY KEY, timestamp REAL, level, namespace, event, entity_id)"
            )
        with pytest.raises(AsyncioLogSinkOnStartingHookFailedError, match="'mine' has no column 'level_name'"):
            SqliteLogSink.create(path=path, table="mine")
        with sqlite(path) as raw:
            assert raw.execute("SELECT count(*) FROM sqlite_master WHERE tbl_name = 'mine'").fetchone() == (1,)

    def test_an_empty_file_and_an_empty_database_are_taken(self, path: pathlib.Path) -> None:
        """There is nothing to lose."""
        path.touch()
        with opened(path) as store:
            store.write([make_event()])
        assert stored(path) == [make_event()]
        path.unlink()
        with sqlite(path) as raw:
            raw.execute("CREATE TABLE x (y)")
            raw.execute("DROP TABLE x")
        with opened(path) as store:
            store.write([make_event()])
        with sqlite(path) as raw:
            assert raw.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)

    def test_a_damaged_store_says_what_to_do(self, path: pathlib.Path, reports: list[selflog.SelfLogReport]) -> None:
        """The sink does not make it worse, and names the way out."""
        with opened(path) as store:
            store.write([make_event(payload={"n": n, "f": "x" * 500}) for n in range(500)])
        data = bytearray(path.read_bytes())
        data[4096:] = b"\x55" * (len(data) - 4096)
        path.write_bytes(bytes(data))
        with pytest.raises(SqliteStoreError, match=r"damaged.*recover"):
            stored(path)
        with pytest.raises(AsyncioLogSinkOnStartingHookFailedError, match="damaged"):
            SqliteLogSink.create(path=path)
        assert path.read_bytes() == bytes(data)

    def test_a_path_that_cannot_be_opened(self, tmp_path: pathlib.Path) -> None:
        """A directory."""
        with pytest.raises(AsyncioLogSinkOnStartingHookFailedError, match="not a regular file"):
            SqliteLogSink.create(path=tmp_path)

    def test_reading_what_is_not_there_makes_nothing(self, path: pathlib.Path) -> None:
        """No file, an empty file, no such table."""
        with pytest.raises(SqliteStoreError, match="no such file"):
            stored(path)
        with pytest.raises(SqliteStoreError, match="no such file"):
            read_summary(path)
        assert not path.exists()
        path.touch()
        with pytest.raises(SqliteStoreError, match="it is empty"):
            stored(path)
        with opened(path):
            pass
        with pytest.raises(SqliteStoreError, match="no table 'other'"):
            stored(path, table="other")


class TestRetention:
    """Old events go, and so does the space that they took."""

    def test_events_beyond_an_age_are_removed(self, path: pathlib.Path) -> None:
        """By their own time, at the start and with deliveries, not more often than the interval says."""
        clock = Clock(MOMENT)
        with opened(path, retention_max_age=100, retention_interval=10, clock=clock) as store:
            store.write([make_event("old", timestamp=MOMENT - 101), make_event("new", timestamp=MOMENT - 99)])
            assert len(stored(path)) == 2
            clock.now += 10
            store.write([make_event("third", timestamp=MOMENT)])
            assert [event.meta.event_name for event in stored(path)] == ["third"]
            clock.now -= 5000  # set back: looked at once more
            store.write([make_event("stale", timestamp=MOMENT - 6000)])
            assert [event.meta.event_name for event in stored(path)] == ["third"]
        with opened(path, retention_max_age=100, clock=Clock(MOMENT + 1000)):
            assert stored(path) == []

    def test_only_so_many_events_are_kept(self, path: pathlib.Path) -> None:
        """The oldest by order of acceptance go."""
        with opened(path, retention_max_events=50, retention_interval=0) as store:
            for n in range(10):
                store.write([make_event(payload={"w": 0, "n": n * 20 + m}, timestamp=-n) for m in range(20)])
            assert numbers(path) == [(0, n) for n in range(150, 200)]

    def test_ids_are_never_given_again(self, path: pathlib.Path) -> None:
        """Who follows the store by id misses nothing after everything was removed."""
        clock = Clock(MOMENT)
        with opened(path, retention_max_age=1, retention_interval=0, clock=clock) as store:
            store.write([make_event()] * 5)
            last = max(number for number, _ in read_events(path))
            clock.now += 100
            store.write([make_event()])
            assert list(read_events(path)) == []
            store.write([make_event(timestamp=clock.now)])
            assert [number for number, _ in read_events(path, after_id=last)] == [7]

    def test_a_store_that_is_too_large_gets_smaller_and_gives_space_back(self, path: pathlib.Path) -> None:
        """A database that only ever grows is what people complain about."""
        filler = "x" * 1000
        with opened(path) as store:
            for _ in range(20):
                store.write([make_event(payload={"f": filler})] * 1000)
        before = path.stat().st_size
        assert before > 20_000_000
        with opened(path, retention_max_bytes=2_000_000, retention_interval=0) as store:
            for _ in range(ROUNDS):
                store.write([make_event("new")])
        assert path.stat().st_size < 3_000_000
        found = stored(path)
        assert 1_000 < len(found) < 2_500
        assert found[-1].meta.event_name == "new"
        with sqlite(path) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    def test_retention_keeps_pace_with_delivery(self, path: pathlib.Path) -> None:
        """However fast events come, the store stays about as large as it may be."""
        clock = Clock(MOMENT)
        with opened(path, retention_max_events=2_000, retention_interval=3600, clock=clock, synchronous="off") as store:
            sizes = []
            for _ in range(30):
                for _ in range(5):
                    store.write([make_event()] * 1000)
                with sqlite(path) as raw:
                    sizes.append(raw.execute("SELECT count(*) FROM events").fetchone()[0])
            assert max(sizes) <= 2_000 + 10_000

    def test_trouble_with_retention_does_not_concern_the_events(
        self, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, reports: list[selflog.SelfLogReport]
    ) -> None:
        """They are delivered; the trouble is told."""
        with opened(path, retention_max_events=0, retention_interval=0) as store:

            def fail(*_: Any) -> int:
                raise sqlite3.OperationalError("no")

            monkeypatch.setattr(store, "_remove", fail)
            store.write([make_event()])
            assert len(stored(path)) == 1
            assert [report.kind for report in reports] == ["sqlite_retention"]

    def test_several_processes_with_retention_share_a_store(self, path: pathlib.Path) -> None:
        """They do not get in each other's way."""
        options = {"path": str(path), "retention_max_events": 500, "retention_interval": 0.0}
        writers = [start_writer(w, 2_000, **options) for w in range(2)]
        release(*writers)
        finish(*writers)
        found = numbers(path)
        assert 0 < len(found) <= 500
        for writer in range(2):
            mine = [n for w, n in found if w == writer]
            assert mine == sorted(set(mine))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("filled") / "events.db"
    batch = [
        make_event(
            ["order.created", "order.paid", "user.login"][n % 3],
            level=[10, 20, 30, 40, 50][n % 5],
            namespace=["shop", "shop.orders", "shop.orders.db", "shopping", None][n % 5],
            entity_id=f"e-{n % 10}" if n % 2 else None,
            event_outcome="success" if n % 4 else "failed",
            timestamp=MOMENT + n,
            payload={
                "n": n,
                "order": {"id": n % 7, "items": [{"sku": f"s{n % 3}"}, n]},
                "http.method": "GET" if n % 2 else "POST",
                "flag": bool(n % 2),
                "none": None,
                "text": f'50% of "{n}"_x',
            },
            message=f"Meldung Nr. {n} größer" if n % 11 == 0 else None,
            exception=LogException("ValueError", "bad", f"Traceback line {n}") if n % 100 == 0 else None,
        )
        for n in range(3_000)
    ]
    with opened(path) as store:
        store.write(batch)
    return path


class TestReading:
    """`read_events`."""

    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            ({}, lambda n: True),
            ({"min_level": 40}, lambda n: n % 5 >= 3),
            ({"levels": [10, 50]}, lambda n: n % 5 in (0, 4)),
            ({"levels": []}, lambda n: False),
            ({"namespace": "shop"}, lambda n: n % 5 < 3),
            ({"namespace": "shop.orders"}, lambda n: n % 5 in (1, 2)),
            ({"namespace": "shop*"}, lambda n: n % 5 < 4),
            ({"namespace": "shop.[!x]*"}, lambda n: n % 5 in (1, 2)),
            ({"namespace": "SHOP"}, lambda n: False),
            ({"event": "order.paid"}, lambda n: n % 3 == 1),
            ({"event": "order.*"}, lambda n: n % 3 < 2),
            ({"event": "order"}, lambda n: False),
            ({"entity_id": "e-3"}, lambda n: n % 10 == 3),
            ({"outcome": "failed"}, lambda n: n % 4 == 0),
            ({"since": MOMENT + 100}, lambda n: n >= 100),
            ({"until": MOMENT + 100}, lambda n: n < 100),
            ({"since": MOMENT + 5, "until": MOMENT + 7, "min_level": 10}, lambda n: n in (5, 6)),
            ({"text": "meldung nr. 22 "}, lambda n: n == 22),
            ({"text": "größer"}, lambda n: n % 11 == 0),
            ({"text": "LINE 200"}, lambda n: n in (200, 2000)),
            ({"text": 'of "1234"_'}, lambda n: n == 1234),
            ({"text": "50%"}, lambda n: True),
            ({"text": "5_%"}, lambda n: False),
            ({"text": "user.login"}, lambda n: n % 3 == 2),
            ({"text": "e-7"}, lambda n: n % 10 == 7),
            ({"payload": {"n": 5}}, lambda n: n == 5),
            ({"payload": {"n": 5.0}}, lambda n: n == 5),
            ({"payload": {"n": "5"}}, lambda n: n == 5),
            ({"payload": {"n": True}}, lambda n: False),
            ({"payload": {"order.id": 3}}, lambda n: n % 7 == 3),
            ({"payload": {"order.items.0.sku": "s1"}}, lambda n: n % 3 == 1),
            ({"payload": {"order.items.1": "17"}}, lambda n: n == 17),
            ({"payload": {"http.method": "GET"}}, lambda n: n % 2),
            ({"payload": {"flag": True}}, lambda n: n % 2),
            ({"payload": {"flag": False}}, lambda n: not n % 2),
            ({"payload": {"flag": "true"}}, lambda n: n % 2),
            ({"payload": {"flag": 1}}, lambda n: False),
            ({"payload": {"none": None}}, lambda n: True),
            ({"payload": {"none": "null"}}, lambda n: True),
            ({"payload": {"missing": None}}, lambda n: False),
            ({"payload": {"n": 8, "flag": False}}, lambda n: n == 8),
            ({"namespace": "shop", "event": "order.*", "payload": {"order.id": 3}, "min_level": 20},
             lambda n: n % 5 in (1, 2) and n % 3 < 2 and n % 7 == 3),
        ],
    )  # fmt: skip
    def test_filters_find_what_they_say(
        self, filled: pathlib.Path, wanted: dict[str, Any], expected: Callable[[int], Any]
    ) -> None:
        """Alone and together, in the order of acceptance; first, last and following ones too."""
        right = [n for n in range(3_000) if expected(n)]
        assert [event.payload["n"] for event in stored(filled, **wanted)] == right
        assert [event.payload["n"] for event in stored(filled, **wanted, limit=5)] == right[:5]
        assert [event.payload["n"] for event in stored(filled, **wanted, last=7)] == right[-7:]
        assert [event.payload["n"] for event in stored(filled, **wanted, last=7, limit=2)] == right[-7:][:2]
        after = [n for n in right if n >= 1500]
        assert [event.payload["n"] for event in stored(filled, **wanted, after_id=1500)] == after
        assert [event.payload["n"] for event in stored(filled, **wanted, after_id=1500, limit=3)] == after[:3]
        assert [event.payload["n"] for event in stored(filled, **wanted, after_id=1500, last=3)] == after[-3:]
        assert read_summary(filled, **wanted).count == len(right)

    def test_nothing_is_what_a_limit_of_0_gives(self, filled: pathlib.Path) -> None:
        """And less makes no sense."""
        for wanted in ({"limit": 0}, {"last": 0}, {"limit": 0, "min_level": 10}):
            assert stored(filled, **wanted) == []
        for wrong in ({"limit": -1}, {"last": -5}):
            with pytest.raises(ValueError, match="expected 0 or more"):
                read_events(filled, **wrong)

    @pytest.mark.parametrize("key", ["", 'a"b', "a\0b"])
    def test_a_payload_path_that_cannot_be_asked_for_is_refused(self, filled: pathlib.Path, key: str) -> None:
        """It says how a path looks."""
        with pytest.raises(ValueError, match=r"'order.id'"):
            read_events(filled, payload={key: 1})

    @given(
        st.text(), st.text(), st.text(), st.text(st.characters(exclude_characters='"\0'), min_size=1),
        st.none() | st.text() | st.floats(allow_nan=False) | st.booleans() | st.integers(-(2**63), 2**63 - 1),
    )  # fmt: skip
    @settings(max_examples=often(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_no_filter_is_taken_for_sql(
        self, filled: pathlib.Path, namespace: str, event: str, text: str, key: str, value: Any
    ) -> None:
        """Whatever is asked for, the answer is some of the events."""
        for wanted in ({"namespace": namespace}, {"event": event}, {"text": text}, {"payload": {key: value}}):
            for found in stored(filled, **wanted, limit=3):
                assert found.payload["n"] < 3_000

    def test_what_is_not_utf_8_is_found_as_it_was_stored(self, path: pathlib.Path) -> None:
        """A lone surrogate cannot be stored; a query for it finds the events that had it."""
        strange = "order\ud800"
        with running(path) as sink:
            sink.log(make_event(strange, payload={"text": strange}))
            assert sink.flush(10)
        for wanted in ({"event": strange}, {"text": strange}, {"payload": {"text": strange}}):
            assert len(stored(path, **wanted)) == 1, wanted

    def test_a_store_is_followed_by_id(self, path: pathlib.Path) -> None:
        """What is new since the last look, and nothing twice."""
        with running(path) as sink:
            seen: list[int] = []
            last = 0
            for n in range(5):
                sink.log(make_event(payload={"n": n}))
                assert sink.flush(10)
                found = list(read_events(path, after_id=last))
                seen += [event.payload["n"] for _, event in found]
                last = found[-1][0]
        assert seen == [0, 1, 2, 3, 4]

    def test_what_is_written_and_removed_meanwhile_does_no_harm(self, path: pathlib.Path) -> None:
        """A reader that takes its time sees whole events, in order."""
        with opened(path) as store:
            store.write([make_event(payload={"w": 0, "n": n}) for n in range(3_000)])
            plain, found = read_events(path), read_events(path, min_level=10)
            next(plain)
            next(found)
            with sqlite(path) as raw:
                raw.execute("DELETE FROM events WHERE id BETWEEN 1200 AND 2100")
            store.write([make_event(payload={"w": 0, "n": 3_000})])
            rest = [event.payload["n"] for _, event in plain]
            assert rest == [n for n in range(1, 3_001) if not 1199 <= n < 2100]
            assert [event.payload["n"] for _, event in found] == rest[:-1]

    def test_a_reader_holds_up_neither_writers_nor_forks(self, path: pathlib.Path) -> None:
        """An open iterator has no connection."""
        with opened(path) as store:
            store.write([make_event()] * 2_500)
            iterator = read_events(path)
            next(iterator)
            if not (pid := os.fork()):
                os._exit(0)
            os.waitpid(pid, 0)
            store.write([make_event()])
            assert sum(1 for _ in iterator) == 2_500

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="drops privileges")
    @pytest.mark.parametrize("leftover", [False, True])
    def test_a_store_in_a_read_only_place_is_read(self, leftover: bool) -> None:
        """A backup on a medium that cannot be written to; also with the empty files that a reader left there."""
        with tempfile.TemporaryDirectory() as name:
            place = pathlib.Path(name)
            path = place / "events.db"
            with opened(path) as store:
                store.write([make_event()])
            if leftover:
                pathlib.Path(f"{path}-wal").touch()
            place.chmod(0o755)
            pid = os.fork()
            if not pid:
                try:
                    os.setuid(65534)
                    os._exit(0 if stored(path) == [make_event()] else 1)
                finally:
                    os._exit(2)
            assert os.waitpid(pid, 0)[1] == 0

    def test_a_writer_that_never_commits_does_not_stop_a_reader(self, path: pathlib.Path) -> None:
        """That is what WAL is for."""
        with opened(path) as store, contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            store.write([make_event()])
            other.execute("BEGIN IMMEDIATE")
            other.execute("DELETE FROM events")
            assert stored(path) == [make_event()]
            other.execute("ROLLBACK")

    def test_a_look_that_a_writer_got_into_is_taken_again(self, path: pathlib.Path) -> None:
        """A quiet store is read as an immutable file: unless it turns out not to have been one."""
        with opened(path) as store:
            store.write([make_event()])
        looks: list[int] = []

        def work(raw: sqlite3.Connection) -> int:
            if not looks:
                with opened(path) as other:
                    other.write([make_event()])
            looks.append(raw.execute("SELECT count(*) FROM events").fetchone()[0])
            if len(looks) == 1:
                raise sqlite3.DatabaseError("what an old page and a new page make together")
            return looks[-1]

        with sqlite_store.sqlite_gate():
            assert sqlite_store.StoreConnection().look(str(path), work) == 2
        looks.clear()

        def work_without_error(raw: sqlite3.Connection) -> int:
            if not looks:
                with opened(path) as other:
                    other.write([make_event()])
            looks.append(1)
            return int(raw.execute("SELECT count(*) FROM events").fetchone()[0])

        with sqlite_store.sqlite_gate():
            assert sqlite_store.StoreConnection().look(str(path), work_without_error) == 3
        assert len(looks) == 2

    def test_reading_leaves_no_files_behind(self, path: pathlib.Path) -> None:
        """Looking at a store does not litter."""
        with opened(path) as store:
            store.write([make_event()])
        assert stored(path) == [make_event()]
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_a_store_that_is_locked_is_waited_for(self, path: pathlib.Path) -> None:
        """An exclusive lock, for a moment."""
        with opened(path) as store:
            store.write([make_event()])
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        timer = threading.Timer(0.3, other.close)
        timer.start()
        assert stored(path) == [make_event()]
        timer.join()


class TestSummary:
    """`read_summary`."""

    def test_counts_by_namespace_and_level_over_time(self, path: pathlib.Path) -> None:
        """In stretches from the first to the last event."""
        with opened(path) as store:
            store.write(
                [
                    make_event(namespace="b", timestamp=100.0),
                    make_event(
                        namespace="a", timestamp=100.0, level=25, origin=LogEventOrigin(system="x", level_name="NOTICE")
                    ),
                    make_event(namespace="a", timestamp=104.9),
                    make_event(namespace=None, timestamp=105.1),
                    make_event(namespace="a", timestamp=110.0),
                    make_event(namespace="a", timestamp=110.0),
                ]
            )
        summary = read_summary(path, buckets=2)
        assert (summary.count, summary.first, summary.last) == (6, 100.0, 110.0)
        assert summary.bucket_seconds == pytest.approx(5.0)
        assert [(entry.namespace, entry.level, entry.level_name, entry.count) for entry in summary.counts] == [
            ("a", 20, "INFO", 1),
            ("a", 25, "NOTICE", 1),
            ("b", 20, "INFO", 1),
            (None, 20, "INFO", 1),
            ("a", 20, "INFO", 2),
        ]
        assert [entry.start for entry in summary.counts] == pytest.approx([100.0, 100.0, 100.0, 105.0, 105.0])

    def test_stretches_of_a_given_length_begin_at_its_multiples(self, path: pathlib.Path) -> None:
        """Also before 1970."""
        with opened(path) as store:
            store.write([make_event(timestamp=moment) for moment in (-61.0, -1.0, 0.0, 59.9, 60.0, 3600.0)])
        counts = read_summary(path, bucket_seconds=60).counts
        assert [(entry.start, entry.count) for entry in counts] == [(-120, 1), (-60, 1), (0, 2), (60, 1), (3600, 1)]

    def test_a_single_moment_and_an_empty_store(self, path: pathlib.Path) -> None:
        """No division by nothing."""
        with opened(path) as store:
            empty = read_summary(path)
            assert (empty.count, empty.first, empty.counts) == (0, None, ())
            store.write([make_event()] * 3)
        assert [entry.count for entry in read_summary(path, buckets=10).counts] == [3]

    @pytest.mark.parametrize("wrong", [{"buckets": 0}, {"bucket_seconds": 0}, {"bucket_seconds": -1}])
    def test_stretches_have_to_be_positive(self, path: pathlib.Path, wrong: dict[str, Any]) -> None:
        """Anything else is refused."""
        with pytest.raises(ValueError, match="positive"):
            read_summary(path, **wrong)

    @given(buckets=st.integers(1, 200), bucket_seconds=st.none() | st.floats(0.5, 5000))
    @settings(max_examples=often(20), deadline=None)
    def test_the_counts_add_up(self, filled: pathlib.Path, buckets: int, bucket_seconds: float | None) -> None:
        """Every event is in one stretch, and no more stretches than were asked for."""
        summary = read_summary(filled, buckets=buckets, bucket_seconds=bucket_seconds)
        assert sum(entry.count for entry in summary.counts) == summary.count == 3_000
        starts = sorted({entry.start for entry in summary.counts})
        assert starts[0] <= MOMENT
        assert starts[-1] + summary.bucket_seconds > MOMENT + 2_999
        if bucket_seconds is None:
            assert len(starts) <= buckets


def test_the_table_has_the_documented_columns(path: pathlib.Path) -> None:
    """Programs that read the file rely on them."""
    with opened(path):
        pass
    with sqlite(path) as raw:
        assert [row[1] for row in raw.execute("PRAGMA table_info(events)")] == ["id", *COLUMNS, "delivery_id"]
        plan = raw.execute("EXPLAIN QUERY PLAN SELECT * FROM events WHERE namespace = 'a' AND timestamp > 5").fetchall()
        assert "events_namespace" in plan[0][3]
        plan = raw.execute("EXPLAIN QUERY PLAN SELECT * FROM events WHERE entity_id = 'a'").fetchall()
        assert "events_entity_id" in plan[0][3]
        plan = raw.execute("EXPLAIN QUERY PLAN SELECT * FROM events WHERE delivery_id IN ('a', 'b')").fetchall()
        assert "events_delivery_id" in plan[0][3]


@needs_program("sqlite3", debian="sqlite3")
def test_the_sqlite3_shell_reads_a_store_that_is_being_written(path: pathlib.Path) -> None:
    """The first thing that people try."""
    with running(path) as sink:
        sink.log(make_event(payload={"n": 1}))
        assert sink.flush(10)
        result = subprocess.run(
            ["sqlite3", str(path), "SELECT level, event, payload FROM events_readable"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert result.stdout == 'INFO|app.started|{"n":1}\n'
