"""`mvx_logger.delivery.spool`: what was appended is delivered, whatever happens to the process, the disk and the files."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import random
import resource
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from delivery_helpers import TIMEOUT, make_event, wait_until
from mvx_logger.delivery import spool as spool_module
from mvx_logger.delivery.ids import MAX_SEQUENCE, id_prefix, new_epoch
from mvx_logger.delivery.spool import (
    Spool,
    SpoolBusyError,
    SpoolError,
    SpoolFullError,
    SpoolRun,
    iter_spool,
)
from mvx_logger.errors import LoggerError
from mvx_logger.formats.json import decode_event, encode_event
from mvx_logger.model import LogEvent, LogEventMeta, LogEventOrigin, LogException, LogStack
from repetitions import often

ALL = 1 << 40


def numbered(first: int, count: int = 1, filler: int = 0) -> list[LogEvent]:
    return [make_event(str(number), filler="x" * filler) for number in range(first, first + count)]


def names(events: Any) -> list[str]:
    return [event.meta.event_name for event in events]


def ids_of(run: SpoolRun) -> list[str]:
    return [f"{run.prefix}{run.first + index:010x}" for index in range(run.count)]


def read_all(spool: Spool, max_events: int = ALL, max_bytes: int = ALL) -> list[tuple[str, LogEvent]]:
    """All that is unread, with ids; nothing is confirmed."""
    found = []
    while (batch := spool.read(max_events, max_bytes)) is not None:
        found += list(zip(ids_of(batch.run), batch.events, strict=True))
    return found


def drain(spool: Spool, max_events: int = ALL) -> list[str]:
    """Names of all that is unread, confirmed."""
    found = []
    while (batch := spool.read(max_events, ALL)) is not None:
        spool.confirm(batch.run)
        found += names(batch.events)
    return found


def files(directory: pathlib.Path, ending: str = "") -> list[pathlib.Path]:
    return sorted(path for path in directory.iterdir() if path.name.endswith(ending))


def disk_size(directory: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in files(directory, ".segment"))


class Reports(list[tuple[str, dict[str, Any]]]):
    def __call__(self, kind: str, message: str, **fields: Any) -> None:
        assert message
        self.append((kind, fields))


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _nothing_stays_claimed() -> Iterator[None]:
    yield
    assert spool_module._claims == {}


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "spool"


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def make(directory: pathlib.Path, reports: Reports) -> Iterator[Callable[..., Spool]]:
    """Makes open spools in one directory; whoever reports damage that was not expected fails."""
    made: list[Spool] = []

    def make_spool(label: str = "tests", *, is_open: bool = True, **options: Any) -> Spool:
        spool = Spool(directory, label=label, **{"report": reports, **options})
        made.append(spool)
        if is_open:
            spool.open()
        return spool

    yield make_spool
    for spool in made:
        spool.close()


@contextmanager
def child(run: Callable[[int], None]) -> Iterator[tuple[int, int]]:
    """A forked process, by its number, and the end of a pipe that it writes to. It is killed at the end."""
    reading, writing = os.pipe()
    if sys.platform == "linux":
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)  # the child is never far ahead
    number = os.fork()
    if number == 0:
        try:
            os.close(reading)
            run(writing)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    try:
        yield number, reading
    finally:
        os.close(reading)
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)


def end_of(number: int) -> int:
    """The exit code of a child that ends by itself."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def kill(number: int) -> None:
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)


def read_lines(fd: int) -> Iterator[str]:
    with open(fd, closefd=False) as stream:
        for line in stream:
            if line.endswith("\n"):  # the last one may have been cut by the kill
                yield line.rstrip()


def write_line(fd: int, text: object) -> None:
    os.write(fd, f"{text}\n".encode())


# ---------------------------------------------------------------------------------------------------- ids


class TestIds:
    """Delivery ids are UUIDs of version 8 that share their beginning."""

    def test_an_id_is_a_canonical_uuid(self):
        """Any tool that knows UUIDs takes them, and they sort in the order of acceptance."""
        for number in (0, 1, MAX_SEQUENCE):
            text = f"{id_prefix(new_epoch())}{number:010x}"
            parsed = uuid.UUID(text)
            assert str(parsed) == text
            assert (parsed.version, parsed.variant) == (8, uuid.RFC_4122)
            assert parsed.int & MAX_SEQUENCE == number

    def test_epochs_differ_in_82_bits(self):
        """Every bit but version and variant is random."""
        bits = [int(new_epoch(), 16) for _ in range(300)]
        assert len(set(bits)) == 300
        ever = never = 0
        for value in bits:
            ever |= value
            never |= ~value
        assert (ever & never & (2**88 - 1)).bit_count() == 82


# ---------------------------------------------------------------------------------------------------- events as bytes

finite_json = (
    st.none() | st.booleans() | st.integers(-(2**2100), 2**2100) | st.floats(allow_nan=False) | st.text() | st.binary()
)
json_values = st.recursive(
    finite_json,
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


@dataclass
class Point:
    x: int
    inside: bytes


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no")


class Text(str):
    pass


def through_disk(directory: pathlib.Path, *given_events: LogEvent) -> list[LogEvent]:
    spool = Spool(directory, label="tests", cache_bytes=0, max_bytes=1 << 34, report=Reports())
    spool.open()
    try:
        spool.append(given_events)
        return [event for _, event in read_all(spool)]
    finally:
        drain(spool)
        spool.close()


class TestEventsAsBytes:
    """An event comes back from the disk as it went there."""

    @given(st.lists(events, min_size=1, max_size=5))
    def test_every_event_comes_back(self, given_events: list[LogEvent]):
        """Text, numbers of any size, bytes, nested data, exceptions, stacks and origins are the same afterwards."""
        with tempfile.TemporaryDirectory() as path:
            assert through_disk(pathlib.Path(path), *given_events) == given_events

    def test_nan_and_infinities(self, directory: pathlib.Path):
        """Floats that JSON cannot hold survive, in payloads and as timestamps."""
        payload = {"nan": float("nan"), "more": [float("inf"), float("-inf")]}
        [event] = through_disk(directory, LogEvent(20, LogEventMeta(None, "x"), None, float("nan"), payload))
        assert repr(event.timestamp) == "nan"
        assert repr(event.payload) == repr(payload)

    @pytest.mark.parametrize(
        "value",
        [
            Point(1, b"\xff"),
            {1: 2, None: 3, False: 4, b"k": 5, (1, 2): 6, 2.5: 7},
            {"nested": {"deeper": [{3: Text("sub")}]}},
            Text("a subclass of str"),
            {3, 4},
            pathlib.Path("/tmp/x"),
            uuid.UUID(int=5),
            object(),
            Hostile(),
            10**5000,
            [10**5000, -(2**64), 2**64],
            "lone \ud800 surrogate",
            {"\udfff": ["\ud800"]},
            errno,
            ValueError("x"),
            LogEventMeta(None, "a struct"),
            signal.SIGTERM,
            sys.float_info,
            range(3),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_odd_values_are_put_into_words_as_in_json(self, directory: pathlib.Path, value: Any):
        """What has no form in MessagePack has the same words as in a JSON line; its neighbours are left alone."""
        odd = make_event("odd", value=value, beside=b"\xff\x00", number=2**70)
        before, after = make_event("before", raw=b"\xfe"), make_event("after")
        found = through_disk(directory, before, odd, after)
        assert [found[0], found[2]] == [before, after]
        assert found[1].payload["beside"] == b"\xff\x00"
        assert found[1].payload["number"] == 2**70
        assert encode_event(found[1]) == encode_event(odd)

    def test_dates_are_text(self, directory: pathlib.Path):
        """A moment is told as JSON tells it, and not as another type than in memory."""
        from datetime import UTC, datetime

        moment = datetime(2026, 5, 12, tzinfo=UTC)
        [event] = through_disk(directory, make_event("x", moment=moment, inside={"moment": [moment]}))
        assert event.payload == {"moment": moment.isoformat(), "inside": {"moment": [moment.isoformat()]}}

    def test_a_cycle_ends(self, directory: pathlib.Path):
        """Data that holds itself, twice at each level, does not hang or fail."""
        cycle: list[Any] = [1]
        cycle += [cycle, {"again": cycle}]
        deep: Any = "bottom"
        for _ in range(300):
            deep = [deep]
        found = through_disk(directory, make_event("x", cycle=cycle, raw=b"\xff"), make_event("y", deep=deep))
        assert found[0].payload == {"cycle": [1, "<list>", {"again": "<list>"}], "raw": b"\xff"}
        assert names(found) == ["x", "y"]

    @pytest.mark.parametrize(
        "odd",
        [
            LogEvent(20, LogEventMeta(5, 6, 7, 8, "nine", 10), 11, "now", {"a": 1}, 12),  # type: ignore[arg-type]
            LogEvent("INFO", LogEventMeta(None, None), None, None, None, None),  # type: ignore[arg-type]
            LogEvent(2**80, LogEventMeta(None, "x"), None, 10**400, {}),
            LogEvent(20, LogEventMeta(None, "x"), None, 1.0, ["a", "list"]),  # type: ignore[arg-type]
            LogEvent(20, LogEventMeta(None, "x"), None, 1.0, {1: 1}),  # type: ignore[dict-item]
            LogEvent(20, LogEventMeta(None, "x"), None, 1.0, {}, None, ValueError("x")),  # type: ignore[arg-type]
            LogEvent(20, LogEventMeta(None, "x"), None, 1.0, {}, None, None, "stack"),  # type: ignore[arg-type]
            LogEvent(20, "meta", None, 1.0, {}),  # type: ignore[arg-type]
            LogEvent(20, LogEventMeta(None, Hostile()), Hostile(), Hostile(), Hostile()),  # type: ignore[arg-type]
        ],
        ids=range(9),
    )
    def test_fields_of_the_wrong_type(self, directory: pathlib.Path, odd: LogEvent):
        """An event that a sloppy caller has made is delivered as a well-formed one; the others beside it unharmed."""
        before, after = make_event("before"), make_event("after")
        found = through_disk(directory, before, odd, after)
        assert [found[0], found[2]] == [before, after]
        assert isinstance(found[1], LogEvent)
        decode_event(encode_event(found[1]))

    def test_the_words_are_those_of_json(self, directory: pathlib.Path):
        """A message that is a number becomes its text, a payload that is a list is kept as one."""
        odd = LogEvent(20, LogEventMeta("ns", "x"), None, 1.0, [1], 12)  # type: ignore[arg-type]
        [found] = through_disk(directory, odd)
        assert (found.message, found.payload, found.meta) == ("12", {"payload": [1]}, LogEventMeta("ns", "x"))


# ---------------------------------------------------------------------------------------------------- the queue


class TestQueue:
    """First in, first out, until it is confirmed."""

    @pytest.mark.parametrize("cache_bytes", [0, 500, 8 << 20])
    def test_events_come_out_in_the_order_in_which_they_went_in(self, make: Callable[..., Spool], cache_bytes: int):
        """Whatever the batches, from memory or from disk, across many segments."""
        spool = make(cache_bytes=cache_bytes, segment_bytes=1000)
        expected = []
        for first, count in ((0, 1), (1, 30), (31, 1), (32, 200), (232, 3)):
            run = spool.append(numbered(first, count))
            assert (run.first, run.count) == (first, count)
            expected += zip(ids_of(run), map(str, range(first, first + count)), strict=True)
        assert (spool.pending, spool.unread) == (235, 235)
        found = []
        for size in (1, 2, 7, 50, 1000, 1000):
            batch = spool.read(size, ALL)
            assert batch is not None
            assert len(batch.events) == min(size, 235 - len(found))
            assert not batch.recovered
            found += zip(ids_of(batch.run), names(batch.events), strict=True)
            spool.append(()) if size == 7 else None
            if len(found) == 235:
                break
        assert found == expected
        assert (spool.pending, spool.unread) == (235, 0)
        assert spool.read(1, ALL) is None

    def test_appends_while_reading(self, make: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch):
        """Reader and writer take turns at many sizes: the reader changes between memory and disk, and nothing is out of
        order."""
        spool = make(cache_bytes=3000, segment_bytes=5000)
        dice = random.Random(5)
        written, found = 0, []
        while written < 5000:
            count = dice.choice((1, 1, 2, 40))
            spool.append(numbered(written, count))
            written += count
            for _ in range(dice.choice((0, 1, 1))):
                batch = spool.read(dice.randrange(1, 60), dice.choice((1, 2000, ALL)))
                if batch is not None:
                    found += names(batch.events)
                    if dice.random() < 0.7:
                        spool.confirm(SpoolRun(batch.run.prefix, batch.run.first, batch.run.count))
                    else:
                        spool.rewind()
                        del found[-len(batch.events) :]
        assert found + drain(spool) == [str(number) for number in range(written)]

    def test_a_batch_is_limited_by_bytes(self, make: Callable[..., Spool]):
        """A batch ends before it exceeds the limit, but holds one event at least, also within one append."""
        for cache_bytes in (0, 8 << 20):
            spool = make(label=str(cache_bytes), cache_bytes=cache_bytes)
            spool.append([*numbered(0, 3, 1000), *numbered(3, 1, 9000), *numbered(4, 4, 10)])
            sizes = []
            while (batch := spool.read(100, 3000)) is not None:
                sizes.append(len(batch.events))
            assert sizes == [2, 1, 1, 4]

    def test_what_is_read_is_read_again_after_a_rewind(self, make: Callable[..., Spool]):
        """The unconfirmed ones come again, with the same ids, before what has not been read yet."""
        spool = make()
        run = spool.append(numbered(0, 10))
        first = spool.read(4, ALL)
        second = spool.read(4, ALL)
        assert first is not None
        assert second is not None
        spool.confirm(SpoolRun(run.prefix, 0, 3))
        spool.rewind()
        assert (spool.pending, spool.unread) == (7, 7)
        assert [number for number, _ in read_all(spool, 2)] == ids_of(run)[3:]

    def test_only_the_next_events_can_be_confirmed(self, make: Callable[..., Spool]):
        """Confirming what was not read, twice, or out of order is an error and changes nothing."""
        spool = make()
        spool.append(numbered(0, 10))
        batch = spool.read(5, ALL)
        assert batch is not None
        prefix = batch.run.prefix
        for wrong in (
            SpoolRun(prefix, 0, 6),
            SpoolRun(prefix, 1, 2),
            SpoolRun(prefix, 0, -1),
            SpoolRun(id_prefix(new_epoch()), 0, 1),
        ):
            with pytest.raises(SpoolError, match="not the next"):
                spool.confirm(wrong)
        spool.confirm(SpoolRun(prefix, 0, 0))
        assert spool.pending == 10
        spool.confirm(SpoolRun(prefix, 0, 2))
        with pytest.raises(SpoolError, match="not the next"):
            spool.confirm(SpoolRun(prefix, 0, 2))
        spool.confirm(SpoolRun(prefix, 2, 3))
        assert (spool.pending, spool.unread) == (5, 5)

    def test_a_large_append_is_divided_into_records(self, make: Callable[..., Spool], directory: pathlib.Path):
        """Three megabytes in one call are one run, in several segments, all there or not at all."""
        spool = make(segment_bytes=100_000, cache_bytes=0)
        run = spool.append(numbered(0, 300, 10_000))
        assert (run.first, run.count) == (0, 300)
        assert len(files(directory, ".segment")) > 25
        assert all(path.stat().st_size <= 100_100 for path in files(directory, ".segment"))
        assert drain(spool, 7) == [str(number) for number in range(300)]

    def test_an_event_may_be_larger_than_a_segment(self, make: Callable[..., Spool]):
        """It has a segment of its own."""
        spool = make(segment_bytes=2000, cache_bytes=0)
        spool.append(numbered(0, 1, 100))
        spool.append([*numbered(1, 1, 400_000), *numbered(2, 1, 10)])
        assert [len(event.payload["filler"]) for _, event in read_all(spool)] == [100, 400_000, 10]

    def test_what_was_just_appended_is_read_from_memory(
        self, make: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch
    ):
        """As long as the reader keeps up no file is read, and what it gets are the very events."""
        reads = []
        pread = os.pread
        monkeypatch.setattr(os, "pread", lambda *args: reads.append(args) or pread(*args))
        spool = make()
        for first in range(0, 300, 3):
            given_events = numbered(first, 3)
            spool.append(given_events)
            batch = spool.read(2, ALL)
            more = spool.read(2, ALL)
            assert batch is not None
            assert more is not None
            assert [*batch.events, *more.events] == given_events
            assert batch.events[0] is given_events[0]
            spool.confirm(batch.run)
            spool.confirm(more.run)
        assert reads == []

    def test_a_long_backlog_is_not_kept_in_memory(self, make: Callable[..., Spool]):
        """Of 40 MB on disk, memory holds the cache and one read at most."""
        import tracemalloc

        spool = make(cache_bytes=1 << 20)
        tracemalloc.start()
        try:
            for first in range(0, 4000, 100):
                spool.append(numbered(first, 100, 10_000))
            spool_peak = tracemalloc.get_traced_memory()[0]
            count = 0
            while (batch := spool.read(20, ALL)) is not None:
                count += len(batch.events)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert count == 4000
        assert spool_peak < 5 << 20
        assert peak < 12 << 20

    def test_the_numbers_of_an_epoch_come_to_an_end(self, make: Callable[..., Spool], directory: pathlib.Path):
        """After 2**40 events a new epoch begins; ids stay unique and in order."""
        spool = make(cache_bytes=0)
        spool.append(numbered(0))
        assert drain(spool) == ["0"]
        own = spool._own
        assert own is not None
        own.next = own.done = own.read = own.saved = MAX_SEQUENCE - 2
        assert spool._active is not None
        spool._active.first = own.next
        first = spool.append(numbered(1, 3))
        second = spool.append(numbered(4, 2))
        assert (first.first, first.count) == (MAX_SEQUENCE - 2, 3)
        assert (second.first, second.count) == (0, 2)
        assert first.prefix != second.prefix
        assert all(str(uuid.UUID(number)) == number for run in (first, second) for number in ids_of(run))
        spool.close()
        again = make()
        assert again.pending == 5
        assert drain(again) == ["1", "2", "3", "4", "5"]
        assert not [path for path in files(directory) if path.name.startswith(first.prefix.replace("-", "")[:20])]


class TestArguments:
    """Wrong arguments are told at once, before anything is touched."""

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"label": 5}, TypeError),
            ({"label": "x" * 1001}, ValueError),
            ({"max_bytes": 0}, ValueError),
            ({"max_bytes": 1.5}, TypeError),
            ({"max_age": -1}, ValueError),
            ({"max_age": "1"}, TypeError),
            ({"segment_bytes": 0}, ValueError),
            ({"cache_bytes": True}, TypeError),
        ],
    )
    def test_wrong_options(self, directory: pathlib.Path, options: dict[str, Any], error: type[Exception]):
        """The text names the option; no directory is made."""
        with pytest.raises(error, match=next(iter(options))):
            Spool(directory, **{"label": "tests", **options})
        assert not directory.exists()

    def test_errors_have_reason_codes(self):
        """Programs branch on them; all are OSErrors and errors of this package."""
        for kind, code in ((SpoolError, "spool"), (SpoolFullError, "spool_full"), (SpoolBusyError, "spool_busy")):
            assert kind.reason_code == code
            assert issubclass(kind, (LoggerError, OSError))

    def test_closed(self, make: Callable[..., Spool], directory: pathlib.Path):
        """A spool that is not open takes nothing, gives nothing and touches nothing."""
        spool = make(is_open=False)
        with pytest.raises(SpoolError, match="not open"):
            spool.append(numbered(0))
        assert spool.read(1, ALL) is None
        assert (spool.adopt(), spool.drop_oldest(10)) == (0, (0, 0))
        spool.rewind()
        spool.close()
        assert not directory.exists()
        assert (spool.pending, spool.unread, spool.size, spool.lost, spool.expired) == (0, 0, 0, 0, 0)
        assert spool.directory == str(directory)


class TestFiles:
    """What is on the disk, and when."""

    def test_nothing_is_written_before_the_first_event(self, make: Callable[..., Spool], directory: pathlib.Path):
        """Opening makes the directory, for its owner only; files come with the first event and go with the last."""
        spool = make()
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert files(directory) == []
        spool.append(numbered(0, 5))
        assert [path.suffix for path in files(directory)] == [".segment", ".cursor"]
        assert {stat.S_IMODE(path.stat().st_mode) for path in files(directory)} == {0o600}
        assert spool.size == disk_size(directory) > 0
        assert len(drain(spool)) == 5
        assert spool.size == disk_size(directory) == 0
        spool.close()
        spool.close()
        assert files(directory) == []

    def test_space_is_given_back_at_once(self, make: Callable[..., Spool], directory: pathlib.Path):
        """Each segment goes with the confirmation of its last event."""
        spool = make(segment_bytes=2000)
        for number in range(100):
            spool.append(numbered(number, filler=100))
        sizes = []
        while (batch := spool.read(5, ALL)) is not None:
            spool.confirm(batch.run)
            assert spool.size == disk_size(directory)
            sizes.append(spool.size)
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(sizes)) == 10
        assert sizes[-1] == 0

    def test_reopened(self, make: Callable[..., Spool], directory: pathlib.Path):
        """What is not confirmed when it is closed comes with the next opening, in order and with the same ids."""
        spool = make(segment_bytes=500)
        run = spool.append(numbered(0, 50))
        batch = spool.read(20, ALL)
        assert batch is not None
        spool.confirm(SpoolRun(run.prefix, 0, 13))
        spool.close()
        assert spool.pending == spool.unread + 7 == 37
        assert spool.open() == 37
        assert (spool.pending, spool.unread) == (37, 37)
        assert spool.size == disk_size(directory)
        more = spool.append(numbered(50, 2))
        assert more.prefix != run.prefix
        first = spool.read(1000, ALL)
        second = spool.read(1000, ALL)
        assert first is not None
        assert second is not None
        assert (first.recovered, second.recovered) == (True, False)
        assert ids_of(first.run) == ids_of(run)[13:]
        assert names(first.events + second.events) == [str(number) for number in range(13, 52)]
        spool.confirm(first.run)
        assert len({path.name[:22] for path in files(directory)}) == 1
        spool.confirm(second.run)
        spool.close()
        assert files(directory) == []

    def test_another_label_is_not_touched(self, make: Callable[..., Spool]):
        """Two sinks share a directory; neither delivers what the other has left."""
        for label in ("one", "two", "drei é \ud800"):
            spool = make(label)
            spool.append(numbered(0, 3))
            spool.close()
        assert make("four").pending == 0
        for label in ("two", "one", "drei é \ud800"):
            assert drain(make(label)) == ["0", "1", "2"]

    def test_two_spools_of_one_process(self, make: Callable[..., Spool]):
        """With one label in one directory: neither takes what the other has open, nor breaks its claim."""
        first, second = make(), make()
        first.append(numbered(0, 3))
        second.append(numbered(10, 2))
        assert first.adopt() == second.adopt() == first.open() == 0
        with child(lambda fd: write_line(fd, make().pending)) as (number, reading):
            assert list(read_lines(reading)) == ["0"]
            assert end_of(number) == 0
        second.close()
        assert first.adopt() == 2
        # What is older comes first, and the own events come last.
        assert drain(first) == ["10", "11", "0", "1", "2"]

    def test_the_oldest_epoch_comes_first(self, make: Callable[..., Spool]):
        """Of several that are left behind."""
        clock = Clock()
        for number in (3, 1, 2, 0):
            clock.now = 1_700_000_000.0 + number
            spool = make(clock=clock)
            spool.read(ALL, ALL)
            spool.append(numbered(number))
            spool._epochs = [epoch for epoch in spool._epochs if not epoch.recovered or epoch.close()]
            spool.close()
        assert drain(make()) == ["0", "1", "2", "3"]

    def test_very_many_epochs(self, make: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch):
        """What a process has left that was restarted again and again is taken over in parts, the oldest first: each costs an
        open file. Those of another label do not stand in the way."""
        monkeypatch.setattr(spool_module, "_MAX_EPOCHS", 0)
        for number in range(30):
            spool = make("other" if number < 10 else "tests")
            spool.append(numbered(number))
            os.utime(spool._epochs[0].path, (number, number))
            spool.close()
        monkeypatch.setattr(spool_module, "_MAX_EPOCHS", 8)
        spool = make()
        assert spool.pending == 8
        spool.append(numbered(30))
        assert spool.adopt() == 0
        found = drain(spool)
        while spool.adopt():
            found += drain(spool)
        assert sorted(found) == sorted(str(number) for number in range(10, 31))
        assert found[:9] == [*map(str, range(10, 18)), "30"]

    def test_strange_files_are_left_alone(self, make: Callable[..., Spool], directory: pathlib.Path):
        """What is not named like a file of a spool, or is none, stays as it is."""
        directory.mkdir()
        name = new_epoch()
        strange = [directory / "README", directory / f"{name[:-1]}.cursor", directory / f"{name}.cursor.old"]
        for path in strange:
            path.write_text("mine")
        (directory / f"{name}.cursor").mkdir()
        (directory / f"{name}.00000001.segment").symlink_to(strange[0])
        spool = make()
        spool.append(numbered(0))
        drain(spool)
        spool.close()
        assert [path.read_text() for path in strange] == ["mine"] * 3
        assert len(files(directory)) == 5

    @pytest.mark.parametrize("has_segment", [False, True])
    def test_killed_between_making_a_file_and_writing_to_it(
        self, make: Callable[..., Spool], directory: pathlib.Path, reports: Reports, has_segment: bool
    ):
        """Empty files are removed without a word."""
        directory.mkdir()
        name = new_epoch()
        cursor = directory / f"{name}.cursor"
        cursor.touch()
        if has_segment:
            cursor.write_bytes(spool_module._make_cursor(name, b"tests", 0))
            (directory / f"{name}.00000001.segment").touch()
        assert make().pending == 0
        assert files(directory) == []
        assert reports == []

    def test_files_that_somebody_has_deleted(
        self, make: Callable[..., Spool], directory: pathlib.Path, reports: Reports
    ):
        """After ``rm -r`` under a running spool: what is gone is counted, and a new file is begun."""
        spool = make(cache_bytes=0)
        spool.append(numbered(0, 3))
        shutil.rmtree(directory)
        assert spool.read(10, ALL) is None
        assert (spool.lost, spool.pending) == (3, 0)
        directory.mkdir()
        spool.adopt()
        spool.append(numbered(3, 2))
        assert drain(make()) == []
        spool.close()
        assert drain(make()) == ["3", "4"]
        assert {kind for kind, _ in reports} == {"spool_damaged"}
        assert sum(fields["lost"] for _, fields in reports) == 3

    def test_a_directory_that_somebody_has_deleted(self, make: Callable[..., Spool], directory: pathlib.Path):
        """It is made again with the first event."""
        spool = make()
        directory.rmdir()
        spool.append(numbered(0))
        assert drain(spool) == ["0"]

    def test_a_segment_that_somebody_has_deleted(
        self, make: Callable[..., Spool], directory: pathlib.Path, reports: Reports
    ):
        """In the middle, at the beginning, or while it was being written to: exactly its events are lost, and counted."""
        for victim in (0, 2, -1):
            spool = make(segment_bytes=700, cache_bytes=0)
            for number in range(30):
                spool.append(numbered(number))
            segments = files(directory, ".segment")
            segments[victim].unlink()
            if victim != -1:
                spool.close()
                spool.open()
            spool.adopt()
            found = drain(spool)
            assert spool.lost == 30 - len(found) > 0
            expected = [str(number) for number in range(30)]
            assert found == [name for name in expected if name in found]
            spool.append(numbered(30))
            assert drain(spool) == ["30"]
            spool.close()
            for path in files(directory):
                assert path.suffix == ".corrupt"
                path.unlink()


class TestAge:
    """Events that are too old are given up, and counted."""

    def test_what_is_older_than_max_age_is_not_delivered(self, make: Callable[..., Spool], directory: pathlib.Path):
        """From memory and from disk; the next batch tells how many there were, and their space is given back."""
        for cache_bytes in (0, 8 << 20):
            clock = Clock()
            spool = make(clock=clock, max_age=10, cache_bytes=cache_bytes, segment_bytes=300)
            spool.append(numbered(0, 4))
            clock.now += 10
            spool.append(numbered(4, 3))
            clock.now += 0.5
            batch = spool.read(ALL, ALL)
            assert batch is not None
            assert (names(batch.events), batch.expired, spool.expired) == (["4", "5", "6"], 4, 4)
            assert (spool.pending, spool.unread) == (3, 0)
            spool.confirm(batch.run)
            spool.append(numbered(7, 2))
            clock.now += 11
            batch = spool.read(ALL, ALL)
            assert batch is not None
            assert (batch.events, batch.expired, batch.run.count) == ((), 2, 0)
            spool.confirm(batch.run)
            assert spool.read(ALL, ALL) is None
            assert (spool.pending, spool.size, spool.expired) == (0, 0, 6)
            spool.close()
            assert files(directory) == []

    def test_what_expires_behind_unconfirmed_events(self, make: Callable[..., Spool]):
        """It is counted once, also when the events before it are read again."""
        clock = Clock()
        spool = make(clock=clock, max_age=10, cache_bytes=0)
        spool.append(numbered(0, 2))
        first = spool.read(ALL, ALL)
        spool.append(numbered(2, 2))
        clock.now += 9
        spool.append(numbered(4, 2))
        clock.now += 2
        second = spool.read(ALL, ALL)
        assert first is not None
        assert second is not None
        assert (names(second.events), second.expired) == (["4", "5"], 2)
        spool.confirm(SpoolRun(first.run.prefix, 0, 1))
        spool.rewind()
        assert (spool.pending, spool.unread) == (3, 3)
        batch = spool.read(ALL, ALL)
        assert batch is not None
        assert (names(batch.events), batch.expired, spool.expired) == (["4", "5"], 1, 3)
        spool.confirm(batch.run)
        assert spool.pending == 0

    def test_what_expires_between_two_reads(self, make: Callable[..., Spool]):
        """Records that were read from the disk together are given up each at its own time."""
        clock = Clock()
        spool = make(clock=clock, max_age=10, cache_bytes=0)
        for number in range(6):
            spool.append(numbered(2 * number, 2))
            clock.now += 1
        told = []
        for max_events, seconds in ((1, 6.5), (2, 1.0), (3, 1.0), (ALL, 0.0)):
            batch = spool.read(max_events, ALL)
            assert batch is not None
            told.append((names(batch.events), batch.expired))
            clock.now += seconds
        assert told == [(["0"], 0), (["6", "7"], 5), (["8", "9", "10"], 0), (["11"], 0)]
        clock.now += 10
        spool.rewind()
        batch = spool.read(ALL, ALL)
        assert batch is not None
        assert (batch.events, batch.expired, spool.pending) == ((), 7, 0)

    def test_a_clock_that_is_set_back(self, make: Callable[..., Spool]):
        """Does not make events old."""
        clock = Clock()
        spool = make(clock=clock, max_age=10, cache_bytes=0)
        spool.append(numbered(0, 2))
        clock.now -= 1_000_000
        assert drain(spool) == ["0", "1"]

    def test_a_long_backlog_that_has_expired(self, make: Callable[..., Spool]):
        """A call of ``read`` gives up a part of it at a time: the loop it runs on has other things to do."""
        clock = Clock()
        spool = make(clock=clock, max_age=10, cache_bytes=0)
        for number in range(2500):
            spool.append(numbered(number))
        clock.now += 11
        told = []
        while (batch := spool.read(ALL, ALL)) is not None:
            told.append(batch.expired)
        assert sum(told) == 2500
        assert len(told) >= 3
        assert max(told) <= 1000


def fill(spool: Spool) -> int:
    """Append until it is full; how many events."""
    count = 0
    with suppress(SpoolFullError):
        while True:
            spool.append(numbered(count, 1, 100))
            count += 1
    return count


class TestRoom:
    """The spool is bounded."""

    def test_a_full_spool_takes_nothing(self, make: Callable[..., Spool], directory: pathlib.Path):
        """The error says so, and how much was needed; what is in it is unharmed."""
        spool = make(max_bytes=10_000, segment_bytes=2000)
        count = fill(spool)
        with pytest.raises(SpoolFullError, match="10000") as caught:
            spool.append(numbered(count, 1, 100))
        assert disk_size(directory) == spool.size <= 10_000
        assert 200 < caught.value.need_bytes < 400
        assert spool.pending == count > 30
        with pytest.raises(SpoolFullError):
            spool.append(numbered(0, 1, 20_000))
        batch = spool.read(20, ALL)
        assert batch is not None
        spool.confirm(batch.run)
        spool.append(numbered(count, 1, 100))
        assert names(batch.events) + drain(spool) == [str(number) for number in range(count + 1)]

    def test_the_oldest_make_room(self, make: Callable[..., Spool], directory: pathlib.Path):
        """Whole segments go, the oldest first, but for those that are being delivered."""
        spool = make(max_bytes=10_000, segment_bytes=2000, cache_bytes=3000)
        count = fill(spool)
        in_flight = spool.read(2, ALL)
        assert in_flight is not None
        assert spool.drop_oldest(20_000) == (0, 0)
        assert spool.drop_oldest(0) == (0, 0)
        dropped = sum(spool.drop_oldest(4000))
        assert 15 < dropped < 40
        assert spool.size == disk_size(directory) + sum(path.stat().st_size for path in files(directory, ".dropped"))
        assert spool.size <= 6000
        assert (spool.pending, spool.unread) == (count - dropped, count - dropped - 2)
        spool.append(numbered(count, 1, 3500))
        spool.confirm(in_flight.run)
        rest = drain(spool)
        # The rest of the segment that was on its way, then those after the hole.
        expected = [str(number) for number in range(2, count + 1)]
        kept = expected.index(rest[-1]) + 1 - len(rest)
        assert kept == dropped
        assert rest == [name for name in expected if name in rest]
        steps = [int(after) - int(before) for before, after in pairwise(rest)]
        assert [step for step in steps if step > 1] == [dropped + 1]
        assert spool.lost == 0
        spool.close()
        assert files(directory) == []

    def test_room_is_made_while_events_are_confirmed(self, make: Callable[..., Spool]):
        """A segment whose last event is confirmed just when the next one is begun does not stand in the way for ever."""
        spool = make(max_bytes=3000, segment_bytes=100, cache_bytes=0)
        over = threading.Event()
        dropped = confirmed = 0

        def confirm() -> None:
            nonlocal confirmed
            while not over.is_set():
                batch = spool.read(1, ALL)
                if batch is not None:
                    spool.confirm(batch.run)
                    confirmed += 1

        def append() -> None:
            nonlocal dropped
            for number in range(count):
                while True:
                    try:
                        spool.append(numbered(number, 1, 50))
                        break
                    except SpoolFullError as full:
                        dropped += sum(spool.drop_oldest(full.need_bytes))

        count = 3000
        threads = [threading.Thread(target=work, daemon=True) for work in (append, confirm)]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-4)
        try:
            for thread in threads:
                thread.start()
            threads[0].join(TIMEOUT)
            over.set()
            assert not threads[0].is_alive(), "it hangs"
            threads[1].join(TIMEOUT)
        finally:
            over.set()
            sys.setswitchinterval(interval)
        assert dropped + confirmed + len(drain(spool)) == count

    def test_no_room_where_the_progress_cannot_be_written(
        self, make: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch, reports: Reports
    ):
        """The oldest have to stay on the disk then; it says so, and works again when the disk does."""
        spool = make(max_bytes=10_000, segment_bytes=2000, cache_bytes=3000)
        count = fill(spool)

        def fail(*_: Any) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as broken:
            broken.setattr(os, "pwrite", fail)
            dropped = sum(spool.drop_oldest(4000))
            assert 0 < dropped < 20
            assert spool.drop_oldest(4000) == (0, 0)
            assert spool.size > 9000
        assert {kind for kind, _ in reports} == {"spool_cursor"}
        dropped += sum(spool.drop_oldest(4000))
        assert spool.size <= 6000
        assert drain(spool) == [str(number) for number in range(dropped, count)]

    def test_everything_may_go(self, make: Callable[..., Spool], directory: pathlib.Path):
        """Also what other processes have left, and the file that is being written to."""
        before = make()
        before.append(numbered(0, 5, 100))
        before.close()
        spool = make(max_bytes=4000)
        spool.append(numbered(5, 5, 100))
        assert spool.drop_oldest(4000) == (5, 5)
        assert (spool.pending, spool.size) == (0, 0)
        assert spool.read(1, ALL) is None
        spool.append(numbered(10))
        assert drain(spool) == ["10"]
        spool.close()
        assert files(directory) == []

    def test_dropped_events_do_not_come_back(
        self, make: Callable[..., Spool], directory: pathlib.Path, tmp_path: pathlib.Path, reports: Reports
    ):
        """After a crash right then; and nobody takes the hole for damage."""
        spool = make(max_bytes=10_000, segment_bytes=1000, cache_bytes=0)
        for number in range(30):
            spool.append(numbered(number, 1, 100))
        assert spool.read(1, ALL) is not None
        dropped = sum(spool.drop_oldest(5000))
        shutil.copytree(directory, tmp_path / "crashed")
        left = names(event for _, event in read_all(spool))
        crashed = Spool(tmp_path / "crashed", label="tests", report=reports)
        assert crashed.open() == 30 - dropped
        assert drain(crashed) == ["0", *left]
        assert len(left) == 29 - dropped
        crashed.close()
        assert files(tmp_path / "crashed") == []
        assert reports == []

    def test_two_hundred_megabytes_through_four(self, make: Callable[..., Spool], directory: pathlib.Path):
        """The disk never holds more than the limit, and nothing in the end."""
        spool = make(max_bytes=4 << 20)
        chunk = numbered(0, 100, 10_000)
        seen = received = sent = 0
        while sent < 20_000:
            try:
                spool.append(chunk)
                sent += 100
            except SpoolFullError:
                batch = spool.read(300, ALL)
                assert batch is not None
                spool.confirm(batch.run)
                received += len(batch.events)
            seen = max(seen, disk_size(directory))
        received += len(drain(spool, 300))
        assert received == sent
        assert 3 << 20 < seen <= 4 << 20
        spool.close()
        assert files(directory) == []

    def test_it_drains_faster_than_it_fills(self, make: Callable[..., Spool]):
        """With one append for each read the backlog shrinks, and ends."""
        spool = make(cache_bytes=100_000)
        for number in range(3000):
            spool.append(numbered(number))
        backlog = [spool.pending]
        while spool.pending:
            spool.append(numbered(3000 + len(backlog)))
            batch = spool.read(100, ALL)
            assert batch is not None
            spool.confirm(batch.run)
            backlog.append(spool.pending)
            assert backlog[-1] < backlog[-2]
        assert len(backlog) < 40


# ---------------------------------------------------------------------------------------------------- laws


class SpoolMachine(RuleBasedStateMachine):
    """Any sequence of operations, beside a model that remembers every event by its id."""

    def __init__(self) -> None:
        super().__init__()
        self.path = pathlib.Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.reports = Reports()
        self.number = 0
        # Epochs in the order of reading: id -> (name, time of the append, state).
        self.epochs: dict[str, dict[int, list[Any]]] = {}
        self.recovered_order: list[str] = []
        self.others: list[Spool] = []
        self.counts: Counter[str] = Counter()

    @initialize(
        cache_bytes=st.sampled_from([0, 300, 8 << 20]),
        segment_bytes=st.sampled_from([150, 600, 100_000]),
        max_bytes=st.sampled_from([3000, 1 << 20]),
        max_age=st.sampled_from([None, 10.0]),
    )
    def begin(self, **options: Any) -> None:
        self.options = options
        self.spool = self.make()
        assert self.spool.open() == 0

    def make(self) -> Spool:
        return Spool(self.path, label="tests", clock=self.clock, report=self.reports, **self.options)

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self.spool.close()
            # Whatever has happened, nothing but what is unconfirmed is left.
            left = sum(self.count_pending(prefix) for prefix in self.epochs)
            assert bool(files(self.path)) == bool(left), files(self.path)
        for other in self.others:
            other.forget_after_fork()
        shutil.rmtree(self.path)

    # -------------------------------------------------------------- the model

    def entries(self, *states: str, order: list[str] | None = None) -> list[tuple[str, int, list[Any]]]:
        found = []
        for prefix in self.order() if order is None else order:
            for number, entry in sorted(self.epochs[prefix].items()):
                if entry[2] in states:
                    found.append((prefix, number, entry))
        return found

    def order(self) -> list[str]:
        held = [epoch.prefix for epoch in self.spool._epochs]
        recovered = [prefix for prefix in held if prefix in self.recovered_order]
        own = [prefix for prefix in held if prefix not in self.recovered_order]
        return [prefix for prefix in recovered + own if prefix in self.epochs]

    def count_pending(self, prefix: str) -> int:
        return sum(entry[2] in ("unread", "read") for entry in self.epochs[prefix].values())

    def remember(self, run: SpoolRun, names: list[str]) -> None:
        entries = self.epochs.setdefault(run.prefix, {})
        for index, name in enumerate(names):
            entries[run.first + index] = [name, self.clock.now, "unread"]

    def leave_behind(self, prefix: str) -> int:
        """What of an epoch comes back with the next opening."""
        entries = sorted(self.epochs[prefix].items())
        first = next((number for number, entry in entries if entry[2] in ("unread", "read")), None)
        if first is None:
            return 0
        count = 0
        for number, entry in entries:
            # That something has expired behind an unconfirmed event is not written down.
            if entry[2] in ("unread", "read") or (entry[2] == "expired" and number > first):
                entry[2] = "unread"
                count += 1
        return count

    # -------------------------------------------------------------- what can be done

    @rule(count=st.integers(1, 12), filler=st.sampled_from([0, 100]))
    def append(self, count: int, filler: int) -> None:
        given_events = numbered(self.number, count, filler)
        try:
            run = self.spool.append(given_events)
        except SpoolFullError:
            assert self.options["max_bytes"] == 3000
            return
        self.number += count
        self.remember(run, names(given_events))
        self.counts["appended"] += count

    @rule(count=st.integers(1, 12), is_killed=st.booleans())
    def another_process_leaves_events(self, count: int, is_killed: bool) -> None:
        other = Spool(self.path, label="tests", clock=self.clock, report=self.reports, segment_bytes=200)
        # It takes over nothing itself: its look at the directory is not opened for it.
        with other._writing.take(""):
            other._is_open = True
        given_events = numbered(self.number, count)
        run = other.append(given_events)
        self.number += count
        self.remember(run, names(given_events))
        if is_killed:
            other.forget_after_fork()
        else:
            other.close()

    @rule()
    def adopt(self) -> None:
        held = {epoch.prefix for epoch in self.spool._epochs}
        expected = sum(self.leave_behind(prefix) for prefix in self.epochs if prefix not in held)
        assert self.spool.adopt() == expected
        self.note_recovered()
        self.counts["recovered"] += expected

    def note_recovered(self) -> None:
        self.recovered_order = [epoch.prefix for epoch in self.spool._epochs if epoch.recovered]

    @rule(max_events=st.integers(1, 20), max_bytes=st.sampled_from([1, 400, ALL]))
    def read(self, max_events: int, max_bytes: int) -> None:
        order = self.order()
        batch = self.spool.read(max_events, max_bytes)
        unread = self.entries("unread", order=order)
        if batch is None:
            assert unread == []
            return
        assert len(batch.events) <= max_events
        expired = [item for item in unread if self.is_old(item[2])][: batch.expired]
        assert len(expired) == batch.expired
        for _, _, entry in expired:
            entry[2] = "expired"
        self.counts["expired"] += batch.expired
        numbers = range(batch.run.first, batch.run.first + batch.run.count)
        for number, event in zip(numbers, batch.events, strict=True):
            entry = self.epochs[batch.run.prefix][number]
            # The next one in order, and it is what was appended.
            assert self.entries("unread", order=order)[0][:2] == (batch.run.prefix, number)
            assert entry[0] == event.meta.event_name
            assert not self.is_old(entry)
            entry[2] = "read"
        assert batch.recovered == (batch.run.prefix in self.recovered_order) or not batch.events

    def is_old(self, entry: list[Any]) -> bool:
        max_age = self.options["max_age"]
        return max_age is not None and self.clock.now - entry[1] > max_age

    @rule(share=st.sampled_from([0.3, 1.0]))
    def confirm(self, share: float) -> None:
        in_flight = self.entries("read")
        if not in_flight:
            return
        prefix, first, _ = in_flight[0]
        numbers = [number for found, number, _ in in_flight if found == prefix]
        count = next((i for i, number in enumerate(numbers) if number != first + i), len(numbers))
        count = max(1, int(count * share))
        self.spool.confirm(SpoolRun(prefix, first, count))
        for number in range(first, first + count):
            self.epochs[prefix][number][2] = "confirmed"
        self.counts["confirmed"] += count

    @rule()
    def rewind(self) -> None:
        self.spool.rewind()
        for _, _, entry in self.entries("read"):
            entry[2] = "unread"

    @rule(need_bytes=st.sampled_from([500, 2000, 3000]))
    def drop_oldest(self, need_bytes: int) -> None:
        order = self.order()
        dropped = sum(self.spool.drop_oldest(need_bytes))
        left = {number for number, _ in iter_spool(self.path)}
        gone = [
            entry
            for prefix, number, entry in self.entries("unread", order=order)
            if f"{prefix}{number:010x}" not in left
        ]
        assert len(gone) == dropped
        for entry in gone:
            entry[2] = "dropped"
        self.counts["dropped"] += dropped

    @rule(seconds=st.sampled_from([1.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(is_killed=st.booleans())
    def reopen(self, is_killed: bool) -> None:
        if is_killed:
            self.spool.forget_after_fork()
            self.spool = self.make()
        else:
            self.spool.close()
        expected = sum(self.leave_behind(prefix) for prefix in self.epochs)
        assert self.spool.open() == expected
        self.note_recovered()
        self.counts = Counter(recovered=expected)

    # -------------------------------------------------------------- what always holds

    @invariant()
    def accounts(self) -> None:
        if not hasattr(self, "spool"):
            return
        spool, counts = self.spool, self.counts
        assert counts["appended"] + counts["recovered"] == (
            counts["confirmed"] + spool.pending + spool.expired + spool.lost + counts["dropped"]
        )
        assert spool.expired == counts["expired"]
        assert spool.lost == 0
        assert spool.pending == len(self.entries("unread", "read"))
        assert spool.unread == len(self.entries("unread"))
        assert self.reports == []

    @invariant()
    def files_on_disk(self) -> None:
        if not hasattr(self, "spool"):
            return
        held = {epoch.name for epoch in self.spool._epochs}
        own = [path for path in files(self.path) if path.name[:22] in held and path.suffix != ".cursor"]
        assert self.spool.size == sum(path.stat().st_size for path in own)

    @precondition(lambda self: hasattr(self, "spool"))
    @rule()
    def look(self) -> None:
        """The command line sees the unconfirmed events of everybody."""
        found = {number: event.meta.event_name for number, event in iter_spool(self.path)}
        expected = {
            f"{prefix}{number:010x}": entry[0]
            for prefix, entries in self.epochs.items()
            for number, entry in entries.items()
            if entry[2] in ("unread", "read")
        }
        assert expected.items() <= found.items()


SpoolMachine.TestCase.settings = settings(max_examples=often(60), stateful_step_count=40)


class TestLaws(SpoolMachine.TestCase):
    """appended + recovered == confirmed + pending + expired + lost + dropped, whatever is done."""


# ---------------------------------------------------------------------------------------------------- crashes


class Killed(BaseException):
    """The process is dead: nothing that it still does reaches the disk."""


class Killer:
    """Ends the process at its n-th system call that changes something; a write may have got halfway."""

    CALLS = ("open", "close", "write", "pwrite", "ftruncate", "truncate", "unlink", "rename", "replace")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1
        self.is_torn = False
        self.is_dead = False
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self.wrap(name, getattr(os, name)))
        # To the end of a process it makes no difference what the disk has confirmed.
        sync = self.wrap("sync", lambda fd: None)
        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr(spool_module, "_datasync", sync)

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.is_dead:
                raise Killed
            if self.left == 0:
                self.is_dead = True
                if self.is_torn and name in ("write", "pwrite"):
                    real(args[0], args[1][: len(args[1]) // 2], *args[2:])
                raise Killed
            self.left -= 1
            return real(*args, **kwargs)

        return call

    @contextmanager
    def after(self, calls: int, *, is_torn: bool) -> Iterator[None]:
        self.left, self.is_torn = calls, is_torn
        try:
            yield
        finally:
            self.left, self.is_dead = -1, False


class Ledger:
    """What a spool has promised."""

    def __init__(self) -> None:
        self.there: dict[str, str] = {}
        self.gone: set[str] = set()
        self.unsure: set[str] = set()
        self.half_appended: list[str] = []

    def append(self, spool: Spool, given_events: list[LogEvent]) -> None:
        self.half_appended = names(given_events)
        run = spool.append(given_events)
        self.there |= zip(ids_of(run), self.half_appended, strict=True)
        self.half_appended = []

    def confirm(self, spool: Spool, run: SpoolRun) -> None:
        self.unsure = set(ids_of(run))
        spool.confirm(run)
        self.settle(self.unsure)

    def drop(self, spool: Spool, need_bytes: int) -> int:
        self.unsure = set(self.there)
        dropped = sum(spool.drop_oldest(need_bytes))
        left = {number for number, _ in iter_spool(spool.directory)}
        self.settle(self.unsure - left)
        return dropped

    def settle(self, numbers: set[str]) -> None:
        self.gone |= numbers
        for number in numbers:
            self.there.pop(number, None)
        self.unsure = set()

    def check(self, directory: pathlib.Path, reports: Reports) -> None:
        """Everything that it said to have is there, once; nothing that it said to be done with; and nobody is alarmed."""
        spool = Spool(directory, label="tests", report=reports)
        recovered = spool.open()
        found = read_all(spool)
        numbers = [number for number, _ in found]
        assert recovered == len(found)
        assert len(set(numbers)) == len(numbers)
        assert self.there.keys() - self.unsure <= set(numbers)
        assert not self.gone & set(numbers)
        extra = [event.meta.event_name for number, event in found if number not in self.there]
        assert extra in ([], self.half_appended)
        assert [event.meta.event_name for number, event in found if number in self.there] == [
            name for number, name in self.there.items() if number in set(numbers)
        ]
        assert (reports, spool.lost) == ([], 0)
        spool.rewind()
        drain(spool)
        spool.close()
        assert files(directory) == []


def live(directory: pathlib.Path, ledger: Ledger, spool: Spool) -> None:
    """A life with everything in it."""
    spool.open()
    for number in range(4):
        ledger.append(spool, numbered(100 + number, 1 + number % 3, 50))
    first = spool.read(2, ALL)
    assert first is not None
    for number in range(12):
        ledger.append(spool, numbered(200 + 10 * number, 3, 100))
    ledger.confirm(spool, SpoolRun(first.run.prefix, first.run.first, 1))
    assert ledger.drop(spool, 7000) > 3
    ledger.append(spool, numbered(380, 2))
    second = spool.read(5, ALL)
    assert second is not None
    ledger.confirm(spool, SpoolRun(first.run.prefix, first.run.first + 1, first.run.count - 1))
    ledger.confirm(spool, second.run)
    spool.rewind()
    assert spool.adopt() == 0
    assert ledger.drop(spool, 9000) > 3
    while (batch := spool.read(4, ALL)) is not None:
        ledger.confirm(spool, batch.run)
    ledger.append(spool, numbered(400, 2))
    ledger.append(spool, numbered(402, 1))
    spool.close()


def close_descriptors(directory: pathlib.Path) -> int:
    """Close what is open below a directory, as the kernel does when a process is killed; how many files that were."""
    count = 0
    for fd in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the one that listed the others
            if os.readlink(f"/proc/self/fd/{fd}").startswith(f"{directory}/"):
                os.close(fd)
                count += 1
                for identity, claim in list(spool_module._claims.items()):
                    if claim == fd:
                        del spool_module._claims[identity]
    return count


class TestKilled:
    """``kill -9`` at any instruction."""

    @pytest.fixture(autouse=True)
    def _end(self, tmp_path: pathlib.Path) -> Iterator[None]:
        yield
        close_descriptors(tmp_path)

    @pytest.mark.parametrize("fsync", [False, True])
    @pytest.mark.parametrize("is_torn", [False, True])
    def test_at_every_system_call(
        self,
        directory: pathlib.Path,
        reports: Reports,
        monkeypatch: pytest.MonkeyPatch,
        is_torn: bool,
        fsync: bool,
    ):
        """Between any two of them, and with a write that got halfway: what was appended is there, what was confirmed is
        not, and nobody sees damage."""
        options: dict[str, Any] = {"segment_bytes": 700, "max_bytes": 12_000, "cache_bytes": 0, "report": reports}
        killer = Killer(monkeypatch)
        calls = 0
        while True:
            ledger = Ledger()
            before = Spool(directory, label="tests", **options)
            before.open()
            for number in range(6):
                ledger.append(before, numbered(10 * number, 2, 50))
            before.close()
            spool = Spool(directory, label="tests", fsync=fsync, **options)
            survived = True
            with killer.after(calls, is_torn=is_torn):
                try:
                    live(directory, ledger, spool)
                except Killed:
                    survived = False
            spool.forget_after_fork()
            ledger.check(directory, reports)
            if survived:
                break
            calls += 1
        assert calls > 100

    @pytest.mark.parametrize("is_torn", [False, True])
    def test_while_taking_over(
        self,
        directory: pathlib.Path,
        tmp_path: pathlib.Path,
        reports: Reports,
        monkeypatch: pytest.MonkeyPatch,
        is_torn: bool,
    ):
        """The one that takes over the events of a dead process is killed too, at every system call."""
        killer = Killer(monkeypatch)
        for calls in range(60, 200):  # until it is killed in an append, with a hole before it
            ledger = Ledger()
            spool = Spool(directory, label="tests", segment_bytes=700, max_bytes=12_000)
            with suppress(Killed), killer.after(calls, is_torn=True):
                live(directory, ledger, spool)
            spool.forget_after_fork()
            if ledger.half_appended and files(directory, ".dropped"):
                break
            shutil.rmtree(directory)
        assert ledger.there
        calls = 0
        while True:
            path = tmp_path / str(calls)
            shutil.copytree(directory, path)
            again = Ledger()
            again.there = dict(ledger.there)
            again.half_appended = ledger.half_appended
            spool = Spool(path, label="tests", segment_bytes=700, report=reports)
            survived = True
            with killer.after(calls, is_torn=is_torn):
                try:
                    spool.open()
                    while (batch := spool.read(4, ALL)) is not None:
                        again.confirm(spool, batch.run)
                    spool.close()
                except Killed:
                    survived = False
            spool.forget_after_fork()
            again.check(path, reports)
            if survived:
                break
            calls += 1
        assert calls > 20

    def test_at_fifty_random_moments(self, directory: pathlib.Path, reports: Reports):
        """A process that logs is killed: every event whose append had returned is there."""
        dice = random.Random()
        said: list[str] = []
        for life in range(50):

            def run(fd: int, life: int = life) -> None:
                spool = Spool(directory, label="tests", segment_bytes=dice.choice((2000, 5000, 100_000)))
                spool.open()
                number = 0
                while True:
                    count = dice.choice((1, 1, 1, 5))
                    spool.append([make_event(f"{life}-{number + index}") for index in range(count)])
                    number += count
                    write_line(fd, f"{life}-{number}")

            with child(run) as (number, reading):
                lines = read_lines(reading)
                for _ in range(dice.randrange(1, 200)):
                    last = next(lines)
                deadline = time.perf_counter() + dice.random() * 0.002
                while time.perf_counter() < deadline:
                    pass
                kill(number)
                *_, last = [last, *lines]
            said += [f"{life}-{index}" for index in range(int(last.partition("-")[2]))]
        spool = Spool(directory, label="tests", report=reports)
        recovered = spool.open()
        found = drain(spool)
        spool.close()
        assert len(found) == recovered
        assert len(set(found)) == len(found)
        promised = set(said)
        assert promised <= set(found)
        # Of each life, one append at most had not said so yet.
        assert len(found) <= len(said) + 50 * 5
        assert [name for name in found if name in promised] == said
        assert (reports, spool.lost, files(directory)) == ([], 0, [])

    def test_while_it_delivers(self, directory: pathlib.Path, reports: Reports):
        """A process that confirms is killed again and again: nothing is lost, and what was confirmed never comes back."""
        spool = Spool(directory, label="tests", segment_bytes=2000, report=reports)
        spool.open()
        for number in range(0, 9000, 3):
            spool.append(numbered(number, 3))
        spool.close()
        dice = random.Random()
        done: list[str] = []
        unsure: set[str] = set()

        def run(fd: int) -> None:
            with_reports = Reports()
            spool = Spool(directory, label="tests", report=with_reports)
            spool.open()
            while (batch := spool.read(dice.randrange(1, 10), ALL)) is not None:
                write_line(fd, "> " + " ".join(names(batch.events)))
                spool.confirm(batch.run)
                write_line(fd, "< " + " ".join(names(batch.events)))
                assert with_reports == []

        for _ in range(25):
            with child(run) as (number, reading):
                lines = read_lines(reading)
                seen = [next(lines) for _ in range(dice.randrange(1, 40))]
                kill(number)
                seen += lines
            asked = [name for line in seen if line.startswith(">") for name in line[2:].split()]
            assert not set(asked) & set(done)
            said = [name for line in seen if line.startswith("<") for name in line[2:].split()]
            done += said
            unsure |= set(asked) - set(said)
        assert spool.open() > 0
        rest = drain(spool)
        spool.close()
        assert not set(rest) & set(done)
        assert set(rest) | set(done) | unsure == {str(number) for number in range(9000)}
        assert len(done) == len(set(done))
        assert (reports, files(directory)) == ([], [])


# ---------------------------------------------------------------------------------------------------- damage

RECORDS = ((0, 1), (1, 2), (3, 1), (4, 3), (7, 1))


def make_left_behind(
    directory: pathlib.Path, *, has_next: bool
) -> tuple[pathlib.Path, list[tuple[int, int, list[str]]]]:
    """A small segment that a dead process has left: begin, end and events of its records."""
    spool = Spool(directory, label="tests", segment_bytes=1 << 16)
    spool.open()
    places = []
    end = spool_module._SEGMENT_HEADER_SIZE
    for first, count in RECORDS:
        spool.append(numbered(first, count))
        places.append((end, spool.size, names(numbered(first, count))))
        end = spool.size
    if has_next:
        spool._segment_bytes = 1
        spool.append(numbered(8, 2))
    spool.close()
    return files(directory, ".segment")[0], places


def damage(directory: pathlib.Path, deed: str, where: int, data: bytes) -> None:
    """Do something bad to one of the files."""
    paths = [path for path in files(directory) if path.stat().st_size]
    if not paths:
        return
    path = paths[where % len(paths)]
    content = bytearray(path.read_bytes())
    place = (where // len(paths)) % len(content)
    if deed == "flip":
        content[place] ^= data[0] or 1
    elif deed == "overwrite":
        content[place : place + len(data)] = data
    elif deed == "truncate":
        del content[place:]
    elif deed == "append":
        content += data
    elif deed == "insert":
        content[place:place] = data
    elif deed == "delete":
        path.unlink()
        return
    else:
        other = paths[place % len(paths)]
        content, theirs = other.read_bytes(), content
        other.write_bytes(theirs)
    path.write_bytes(content)


class TestDamage:
    """What the disk, or somebody, has done to the files."""

    @pytest.mark.parametrize("has_next", [False, True])
    def test_cut_off_at_every_byte(self, directory: pathlib.Path, tmp_path: pathlib.Path, has_next: bool):
        """All records before the cut are there. In the last segment that is what a crash leaves, and no damage; in another
        one the missing events are counted."""
        segment, places = make_left_behind(directory, has_next=has_next)
        data = segment.read_bytes()
        for size in range(len(data)):
            segment.write_bytes(data[:size])
            path = tmp_path / "copy"
            shutil.copytree(directory, path)
            reports = Reports()
            spool = Spool(path, label="tests", report=reports)
            spool.open()
            kept = [name for _, end, found in places if end <= size for name in found]
            assert drain(spool) == kept + (["8", "9"] if has_next else []), size
            lost = 8 - len(kept) if has_next else 0
            assert spool.lost == lost
            assert sum(fields["lost"] for _, fields in reports) == lost
            assert [kind for kind, _ in reports] == ["spool_damaged"] * bool(lost)
            spool.close()
            assert [found.suffix for found in files(path)] == [".corrupt"] * bool(lost and size >= 36)
            shutil.rmtree(path)

    @pytest.mark.parametrize("has_next", [False, True])
    @pytest.mark.parametrize("mask", [0x01, 0xFF])
    def test_every_byte_flipped(self, directory: pathlib.Path, tmp_path: pathlib.Path, mask: int, has_next: bool):
        """All records but the damaged one are there, the damage is told and counted, and the file is set aside."""
        segment, places = make_left_behind(directory, has_next=has_next)
        data = segment.read_bytes()
        for position in range(len(data)):
            damaged = bytearray(data)
            damaged[position] ^= mask
            segment.write_bytes(damaged)
            path = tmp_path / "copy"
            shutil.copytree(directory, path)
            reports = Reports()
            spool = Spool(path, label="tests", report=reports)
            recovered = spool.open()
            hit = [found for begin, end, found in places if begin <= position < end]
            kept = [name for begin, end, found in places if not begin <= position < end for name in found]
            found = drain(spool)
            assert found == kept + (["8", "9"] if has_next else []), position
            assert {kind for kind, _ in reports} == {"spool_damaged"}
            assert recovered == len(found) + spool.lost
            # How many events the last record of all had stands in its header only.
            if has_next or not hit or hit != [["7"]] or position >= places[-1][0] + spool_module._RECORD_SIZE:
                assert spool.lost == sum(map(len, hit))
            assert sum(fields["lost"] for _, fields in reports) == spool.lost
            assert len(reports) == 1
            spool.close()
            [aside] = files(path)
            assert aside.name == f"{segment.name}.corrupt"
            assert aside.read_bytes() == damaged
            again = Spool(path, label="tests", report=reports)
            assert again.open() == 0
            again.close()
            assert files(path) == [aside]
            shutil.rmtree(path)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["flip", "overwrite", "truncate", "append", "insert", "delete", "swap"]),
                st.integers(0, 2**32),
                st.binary(min_size=1, max_size=60),
            ),
            min_size=1,
            max_size=6,
        )
    )
    def test_any_damage(self, deeds: list[tuple[str, int, bytes]]):
        """Whatever is done to the files: no error, nothing that was never there, nothing twice, and the accounts hold."""
        with tempfile.TemporaryDirectory() as path:
            directory = pathlib.Path(path)
            spool = Spool(directory, label="tests", segment_bytes=300)
            spool.open()
            for number in range(0, 30, 2):
                spool.append(numbered(number, 2))
            batch = spool.read(5, ALL)
            assert batch is not None
            spool.confirm(batch.run)
            spool.close()
            for deed, where, data in deeds:
                damage(directory, deed, where, data)
            reports = Reports()
            spool = Spool(directory, label="tests", report=reports)
            recovered = spool.open()
            found = read_all(spool, 3)
            assert recovered == len(found) + spool.lost
            assert len({number for number, _ in found}) == len(found)
            assert [int(name) for name in names(event for _, event in found)] == sorted(
                int(number[-10:], 16) for number, _ in found
            )
            assert spool.pending == len(found)
            spool.rewind()
            assert read_all(spool) == found
            spool.rewind()
            drain(spool)
            assert (spool.pending, spool.size) == (0, 0)
            spool.close()
            left = {path.suffix for path in files(directory)}
            assert left <= {".corrupt"} or {kind for kind, _ in reports} == {"spool_damaged"}

    def test_garbage_in_the_middle(self, make: Callable[..., Spool], directory: pathlib.Path, reports: Reports):
        """Blocks of zeros or of another file in the midst of large records: the rest is found again."""
        for garbage in (b"\0" * 4096, os.urandom(4096), spool_module._MARKER * 1024):
            spool = make(cache_bytes=0)
            for number in range(100):
                spool.append(numbered(number, 1, 20_000))
            spool.close()
            [segment] = files(directory, ".segment")
            with open(segment, "r+b") as file:
                file.seek(1_005_000)
                file.write(garbage)
            assert spool.open() == 100
            found = drain(spool)
            assert len(found) == 99
            assert spool.lost == 1
            spool.close()
            files(directory, ".corrupt")[0].unlink()

    def test_zeros_at_the_end(self, make: Callable[..., Spool], directory: pathlib.Path, reports: Reports):
        """As some file systems leave them after a power cut: no damage."""
        spool = make()
        spool.append(numbered(0, 3))
        spool.close()
        with open(files(directory, ".segment")[0], "ab") as file:
            file.write(bytes(5000))
        assert spool.open() == 3
        assert drain(spool) == ["0", "1", "2"]
        assert reports == []

    def test_an_event_that_holds_a_record(self, make: Callable[..., Spool], directory: pathlib.Path):
        """Somebody logs what a segment holds; with the record around it damaged, that is not taken for events."""
        spool = make(cache_bytes=0)
        spool.append([make_event("forged")])
        forged = files(directory, ".segment")[0].read_bytes()
        drain(spool)
        spool.append([make_event("honest", raw=forged)])
        spool.append([make_event("last")])
        segment = files(directory, ".segment")[0]
        data = bytearray(segment.read_bytes())
        data[spool_module._SEGMENT_HEADER_SIZE + 9] ^= 1
        segment.write_bytes(data)
        assert drain(spool) == ["last"]
        assert spool.lost == 1

    def test_damage_while_it_runs(self, make: Callable[..., Spool], directory: pathlib.Path, reports: Reports):
        """Delivery goes on behind the damage; what is appended afterwards arrives."""
        spool = make(cache_bytes=0)
        for number in range(5):
            spool.append(numbered(number, 2))
        segment = files(directory, ".segment")[0]
        data = bytearray(segment.read_bytes())
        data[len(data) // 2] ^= 0xFF
        segment.write_bytes(data)
        batch = spool.read(1, ALL)
        assert batch is not None
        rest = read_all(spool)
        assert len(rest) == 7
        assert (spool.lost, spool.pending, spool.unread) == (2, 8, 0)
        spool.rewind()
        assert len(read_all(spool)) == 8
        assert (spool.lost, len(reports)) == (2, 1)
        spool.rewind()
        spool.append(numbered(10))
        assert len(drain(spool)) == 9
        spool.append(numbered(11))
        assert drain(spool) == ["11"]
        spool.close()
        assert [path.suffix for path in files(directory)] == [".corrupt"]

    def test_a_damaged_cursor(self, directory: pathlib.Path, tmp_path: pathlib.Path):
        """Every byte flipped, and cut off in many places: all unconfirmed events are there; some others may be, again."""
        spool = Spool(directory, label="tests", segment_bytes=150)
        spool.open()
        for number in range(10):
            spool.append(numbered(number))
        for _ in range(3):
            batch = spool.read(1, ALL)
            assert batch is not None
            spool.confirm(batch.run)
        spool.close()
        [cursor] = files(directory, ".cursor")
        data = cursor.read_bytes()
        assert len(data) == spool_module._CURSOR_SIZE
        flips = [*range(40), *range(4090, 4120), *range(8185, len(data))]
        versions = [data[:position] + bytes([data[position] ^ 0x81]) + data[position + 1 :] for position in flips]
        versions += [data[:size] for size in [*range(40), 4095, 4096, 4100, 4108, 8191, 8192, 8195, 8203]]
        told = Counter[bool]()
        for version in versions:
            cursor.write_bytes(version)
            path = tmp_path / "copy"
            shutil.copytree(directory, path)
            reports = Reports()
            spool = Spool(path, label="tests", report=reports)
            assert spool.open() == 7 + (spool.pending - 7)
            found = drain(spool)
            assert found[-7:] == [str(number) for number in range(3, 10)]
            assert spool.lost == 0
            assert {kind for kind, _ in reports} <= {"spool_damaged"}
            told[bool(reports)] += 1
            spool.close()
            assert files(path) == []
            shutil.rmtree(path)
        assert told[True] > 50
        assert told[False] > 20

    def test_a_cursor_that_somebody_has_deleted(
        self, make: Callable[..., Spool], directory: pathlib.Path, reports: Reports
    ):
        """Whose events they are says each segment; all of them are delivered again, and another label's are left alone."""
        spool = make(segment_bytes=150)
        for number in range(5):
            spool.append(numbered(number))
        spool.close()
        files(directory, ".cursor")[0].unlink()
        other = make("another")
        assert other.pending == 0
        other.close()
        assert len(files(directory, ".cursor")) == 0
        assert spool.open() == 5
        assert drain(spool) == ["0", "1", "2", "3", "4"]
        assert [kind for kind, _ in reports] == ["spool_damaged"]
        spool.close()
        assert files(directory) == []

    def test_nobody_knows_whose_events_they_are(
        self, make: Callable[..., Spool], directory: pathlib.Path, reports: Reports
    ):
        """They are told of once, left where they are, and delivered to nobody."""
        spool = make()
        spool.append(numbered(0))
        spool.close()
        for path in files(directory):
            path.write_bytes(b"?" + path.read_bytes()[1:])
        before = [path.read_bytes() for path in files(directory)]
        assert spool.open() == spool.adopt() == spool.adopt() == 0
        assert len(reports) == 1
        spool.close()
        assert [path.read_bytes() for path in files(directory)] == before

    def test_another_version_of_the_format(
        self, make: Callable[..., Spool], directory: pathlib.Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
    ):
        """An epoch of a newer version of the package is left to that, and told of once."""
        with monkeypatch.context() as patch:
            patch.setattr(spool_module, "_VERSION", 2)
            newer = make()
            newer.append(numbered(0, 3))
            newer.close()
        before = [path.read_bytes() for path in files(directory)]
        spool = make()
        assert (spool.pending, spool.adopt()) == (0, 0)
        assert [(kind, fields["version"]) for kind, fields in reports] == [("spool_version", 2)]
        assert list(iter_spool(directory)) == []
        spool.close()
        assert [path.read_bytes() for path in files(directory)] == before
        monkeypatch.setattr(spool_module, "_VERSION", 2)
        assert drain(make()) == ["0", "1", "2"]

    def test_a_segment_of_another_version(
        self, make: Callable[..., Spool], directory: pathlib.Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
    ):
        """It is set aside, not destroyed, and told of; the others are delivered."""
        spool = make(segment_bytes=150)
        spool.append(numbered(0, 2))
        with monkeypatch.context() as patch:
            patch.setattr(spool_module, "_VERSION", 9)
            spool.append(numbered(2, 3))
        spool.append(numbered(5))
        spool.close()
        unknown = files(directory, ".segment")[1]
        data = unknown.read_bytes()
        assert spool.open() == 6
        assert drain(spool) == ["0", "1", "5"]
        assert spool.lost == 3
        assert [kind for kind, _ in reports] == ["spool_version", "spool_damaged"]
        assert pathlib.Path(f"{unknown}.unsupported").read_bytes() == data

    def test_a_disk_that_cannot_be_read(
        self, make: Callable[..., Spool], directory: pathlib.Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
    ):
        """An input/output error is damage: the events of that file are lost and counted, the rest is delivered."""
        spool = make(segment_bytes=150, cache_bytes=0)
        for number in range(5):
            spool.append(numbered(number))
        bad = files(directory, ".segment")[2].stat().st_ino
        pread = os.pread

        def broken(fd: int, *args: int) -> bytes:
            if os.fstat(fd).st_ino == bad:
                raise OSError(errno.EIO, "broken")
            return pread(fd, *args)

        monkeypatch.setattr(os, "pread", broken)
        assert drain(spool) == ["0", "1", "3", "4"]
        assert spool.lost == 1
        spool.append(numbered(5))
        spool.close()
        bad = files(directory, ".segment")[0].stat().st_ino
        assert spool.open() == 0
        assert len(files(directory, ".corrupt")) == 2
        assert {kind for kind, _ in reports} == {"spool_damaged"}

    def test_a_file_that_cannot_be_opened_just_now(self, make: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch):
        """Too many open files are no damage: the next attempt has the events."""
        spool = make(cache_bytes=0)
        spool.append(numbered(0, 3))

        def refuse(*args: Any) -> int:
            raise OSError(errno.EMFILE, "too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse)
            with pytest.raises(OSError, match="too many"):
                spool.read(10, ALL)
        assert drain(spool) == ["0", "1", "2"]

    def test_what_another_user_has_left(
        self, make: Callable[..., Spool], directory: pathlib.Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
    ):
        """What may not be opened is told of, once; the rest is taken over."""
        for number in range(2):
            spool = Spool(directory, label="tests")
            spool.open() if number == 0 else spool.__class__._begin_life(spool)
            spool._is_open = True
            spool.append(numbered(number))
            spool.close()
        theirs = str(files(directory, ".cursor")[0])
        real = os.open

        def refuse(path: str, *args: Any) -> int:
            if path == theirs:
                raise PermissionError(errno.EACCES, "not yours")
            return real(path, *args)

        monkeypatch.setattr(os, "open", refuse)
        spool = make()
        assert (spool.pending, spool.adopt()) == (1, 0)
        assert [(kind, fields["error"]) for kind, fields in reports] == [("spool_claim", "not yours")]

    def test_progress_that_cannot_be_written(
        self, make: Callable[..., Spool], directory: pathlib.Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
    ):
        """It is told; nothing is removed before it is written, and delivery goes on."""
        spool = make(segment_bytes=150)
        for number in range(6):
            spool.append(numbered(number))

        def refuse(*args: Any) -> int:
            raise OSError(errno.EIO, "broken")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", refuse)
            for _ in range(3):
                batch = spool.read(1, ALL)
                assert batch is not None
                spool.confirm(batch.run)
        assert len(files(directory, ".segment")) == 6
        assert {kind for kind, _ in reports} == {"spool_cursor"}
        batch = spool.read(1, ALL)
        assert batch is not None
        spool.confirm(batch.run)
        assert len(files(directory, ".segment")) == 2
        assert drain(spool) == ["4", "5"]


# ---------------------------------------------------------------------------------------------------- disks that refuse


class TestRefusingDisk:
    """A full disk, a directory that may not be written to."""

    def test_a_file_that_may_not_grow(self, directory: pathlib.Path, reports: Reports):
        """The append that does not fit raises and leaves nothing; those before it are whole; with room again, it goes on."""

        def run(fd: int) -> None:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            spool = Spool(directory, label="tests")
            spool.open()
            number = 0
            for limit in (20_000, 25_003, 31_111):
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
                with suppress(OSError):
                    while True:
                        spool.append(numbered(number, 3, 100))
                        number += 3
                with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
                    spool.append(numbered(number, 3, 100))
                assert limit - 1000 < spool.size <= limit
                assert disk_size(directory) == spool.size
                assert spool.pending == number
            write_line(fd, number)
            os._exit(0)

        with child(run) as (number, reading):
            [count] = read_lines(reading)
            assert end_of(number) == 0
        spool = Spool(directory, label="tests", report=reports)
        spool.open()
        assert drain(spool) == [str(number) for number in range(int(count))]
        assert (reports, spool.lost) == ([], 0)
        spool.close()

    def test_no_room_for_the_first_file(self, directory: pathlib.Path):
        """Nothing half-made is left behind."""

        def run(fd: int) -> None:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            spool = Spool(directory, label="tests")
            spool.open()
            for limit in (0, 100, 5000):
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
                with pytest.raises(OSError, match="large"):
                    spool.append(numbered(0))
                assert files(directory) == []
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
            with pytest.raises(OSError, match="large"):
                spool.append(numbered(0, 1, 20_000))
            assert [path.suffix for path in files(directory)] == [".cursor"]
            assert (spool.size, spool.pending) == (0, 0)
            spool.append(numbered(0))
            assert drain(spool) == ["0"]
            spool.close()
            assert files(directory) == []

        with child(run) as (number, _):
            assert end_of(number) == 0

    @pytest.mark.parametrize("can_truncate", [True, False])
    @pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
    def test_a_write_that_got_halfway(
        self,
        make: Callable[..., Spool],
        directory: pathlib.Path,
        tmp_path: pathlib.Path,
        reports: Reports,
        monkeypatch: pytest.MonkeyPatch,
        error: int,
        can_truncate: bool,
    ):
        """It is taken back. Where that fails too, a new file is begun, and the torn record harms nobody."""
        spool = make()
        spool.append(numbered(0, 2))
        size = disk_size(directory)
        real = os.write
        steps = iter((40, 10, 0, -1))

        def refuse(fd: int, data: bytes) -> int:
            step = next(steps)
            if step < 0:
                raise OSError(error, os.strerror(error))
            return real(fd, data[: step or 5])

        def stuck(*args: Any) -> None:
            raise OSError(errno.EIO, "stuck")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", refuse)
            if not can_truncate:
                patch.setattr(os, "ftruncate", stuck)
            with pytest.raises(OSError, match=os.strerror(error)):
                spool.append(numbered(2, 3))
        assert (spool.pending, spool.size) == (2, size)
        assert (disk_size(directory) == size) == can_truncate
        shutil.copytree(directory, tmp_path / "crashed")
        assert spool.append(numbered(5, 2)).first == 2
        shutil.copytree(directory, tmp_path / "crashed later")
        assert len(files(directory, ".segment")) == (1 if can_truncate else 2)
        for path, expected in (("crashed", ["0", "1"]), ("crashed later", ["0", "1", "5", "6"])):
            crashed = Spool(tmp_path / path, label="tests", report=reports)
            crashed.open()
            assert drain(crashed) == expected
            crashed.close()
            assert files(tmp_path / path) == []
        assert drain(spool) == ["0", "1", "5", "6"]
        assert reports == []

    def test_a_record_that_cannot_be_taken_back(
        self,
        make: Callable[..., Spool],
        directory: pathlib.Path,
        tmp_path: pathlib.Path,
        reports: Reports,
        monkeypatch: pytest.MonkeyPatch,
    ):
        """Written whole, then refused by the disk (``fsync``), and stuck: its caller was told that it is not there, so it is
        not delivered once other events have its numbers."""
        spool = make(fsync=True)
        spool.append(numbered(0, 2))

        def stuck(*args: Any) -> None:
            raise OSError(errno.EIO, "stuck")

        with monkeypatch.context() as patch:
            patch.setattr(spool_module, "_datasync", stuck)
            patch.setattr(os, "ftruncate", stuck)
            patch.setattr(os, "truncate", stuck)
            with pytest.raises(OSError, match="stuck"):
                spool.append(numbered(2, 3))
        spool.append(numbered(5))
        shutil.copytree(directory, tmp_path / "crashed")
        crashed = Spool(tmp_path / "crashed", label="tests", report=reports)
        crashed.open()
        found = {number for number, _ in iter_spool(tmp_path / "crashed")}
        assert len(found) == 3
        assert drain(crashed) == drain(spool) == ["0", "1", "5"]
        crashed.close()
        assert reports == []

    def test_a_large_append_that_fails_halfway(
        self, make: Callable[..., Spool], directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ):
        """Of an append over several files nothing is left when the last one does not fit."""
        spool = make(segment_bytes=3000, max_bytes=1 << 20)
        spool.append(numbered(0, 2))
        size = spool.size
        real = os.write
        room = 40_000

        def refuse(fd: int, data: bytes) -> int:
            nonlocal room
            room -= len(data)
            if room < 0:
                raise OSError(errno.ENOSPC, "full")
            return real(fd, data)

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", refuse)
            with pytest.raises(OSError, match="full"):
                spool.append(numbered(2, 1000, 100))
        assert (spool.size, spool.pending, disk_size(directory)) == (size, 2, size)
        assert len(files(directory, ".segment")) == 1
        spool.append(numbered(2, 50, 100))
        assert drain(spool) == [str(number) for number in range(52)]

    def test_a_directory_below_a_file(self, tmp_path: pathlib.Path):
        """The error names the path and what is wrong."""
        (tmp_path / "file").write_text("mine")
        for path in (tmp_path / "file", tmp_path / "file" / "spool", pathlib.Path("/proc/self/spool")):
            spool = Spool(path, label="tests")
            with pytest.raises(SpoolError, match=str(path)) as caught:
                spool.open()
            assert caught.value.details["path"] == str(path)
            with pytest.raises(SpoolError, match="not open"):
                spool.append(numbered(0))
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_directory_that_may_not_be_written_to(self):
        """Somebody else's, or a read-only one: an error, and nothing is changed."""
        with tempfile.TemporaryDirectory() as path:
            os.chmod(path, 0o555)

            def run(fd: int) -> None:
                if os.getuid() == 0:
                    os.setuid(65534)
                spool = Spool(path, label="tests")
                with pytest.raises(SpoolError, match="may not be written to"):
                    spool.open()
                with pytest.raises(SpoolError, match="not open"):
                    spool.append(numbered(0))

            with child(run) as (number, _):
                assert end_of(number) == 0
            assert os.listdir(path) == []


# ---------------------------------------------------------------------------------------------------- processes


class TestProcesses:
    """Several processes on one directory."""

    def test_each_event_is_delivered_by_one_of_them(self, directory: pathlib.Path, tmp_path: pathlib.Path):
        """They append, take over what others leave, deliver and go, with and without closing: everything once."""

        def run(fd: int, name: int) -> None:
            dice = random.Random(name)
            reports = Reports()
            with open(tmp_path / f"out-{name}", "w") as out:
                for life in range(4):
                    spool = Spool(directory, label="tests", segment_bytes=1000, cache_bytes=500, report=reports)
                    spool.open()
                    for number in range(60):
                        count = dice.randrange(1, 4)
                        spool.append([make_event(f"{name}-{life}-{number}-{index}") for index in range(count)])
                        if dice.random() < 0.3:
                            spool.adopt()
                        if dice.random() < 0.7:
                            batch = spool.read(dice.randrange(1, 6), ALL)
                            if batch is not None:
                                spool.confirm(batch.run)
                                for identity, event in zip(ids_of(batch.run), batch.events, strict=True):
                                    out.write(f"{identity} {event.meta.event_name}\n")
                    if life < 3:
                        spool.close()
            assert reports == []
            write_line(fd, spool.pending)
            os._exit(0)  # without closing

        children = []
        for name in range(4):
            context = child(lambda fd, name=name: run(fd, name))  # type: ignore[misc]
            children.append((context, context.__enter__()))
        for context, (number, _) in children:
            assert end_of(number) == 0
            context.__exit__(None, None, None)
        reports = Reports()
        spool = Spool(directory, label="tests", report=reports)
        spool.open()
        found = [f"{identity} {event.meta.event_name}" for identity, event in read_all(spool)]
        assert found
        spool.rewind()
        drain(spool)
        spool.close()
        for name in range(4):
            found += (tmp_path / f"out-{name}").read_text().splitlines()
        assert len({line.split()[0] for line in found}) == len({line.split()[1] for line in found}) == len(found)
        for name in range(4):
            expected = {line.split()[1].rpartition("-")[0] for line in found if line.split()[1].startswith(f"{name}-")}
            assert len(expected) == 4 * 60
        assert (reports, files(directory)) == ([], [])

    def test_a_stopped_process_keeps_its_events(self, make: Callable[..., Spool], directory: pathlib.Path):
        """Nobody takes over while it lives, however long it does not move; and at once when it is dead."""

        def run(fd: int) -> None:
            spool = Spool(directory, label="tests")
            spool.open()
            spool.append(numbered(0, 3))
            write_line(fd, "ready")
            signal.pause()

        with child(run) as (number, reading):
            assert next(read_lines(reading)) == "ready"
            os.kill(number, signal.SIGSTOP)
            os.waitpid(number, os.WUNTRACED)
            spool = make()
            assert (spool.pending, spool.adopt()) == (0, 0)
            assert len(list(iter_spool(directory))) == 3
            kill(number)
            assert spool.adopt() == 3
        batch = spool.read(10, ALL)
        assert batch is not None
        assert (names(batch.events), batch.recovered) == (["0", "1", "2"], True)

    def test_fork_while_a_thread_appends(self, make: Callable[..., Spool], directory: pathlib.Path):
        """The child has a spool that is closed and can be opened; the parent's claim and events stay what they are."""
        spool = make(segment_bytes=2000)
        stop = threading.Event()
        count = 0

        def log() -> None:
            nonlocal count
            while not stop.is_set():
                spool.append(numbered(count))
                count += 1

        def run(fd: int) -> None:
            with pytest.raises(SpoolError, match="not open"):
                spool.append(numbered(0))
            spool.close()
            assert spool.read(1, ALL) is None
            assert spool.pending == spool.size == 0
            spool.open()
            if sys.platform == "linux":
                for name in os.listdir("/proc/self/fd"):
                    with suppress(FileNotFoundError):  # the one that has listed them
                        assert os.readlink(f"/proc/self/fd/{name}") != parent.path
            spool.append([make_event("child")])
            mine = spool._own
            assert mine is not None
            write_line(fd, mine.prefix)
            os._exit(0)

        thread = threading.Thread(target=log)
        thread.start()
        prefixes = []
        try:
            for _ in range(20):
                wait_until(lambda goal=count + 20: count > goal)
                parent = spool._own
                assert parent is not None
                with child(run) as (number, reading):
                    prefixes += list(read_lines(reading))
                    assert end_of(number) == 0
        finally:
            stop.set()
            thread.join()
        assert len(set(prefixes)) == 20
        assert spool._own is not None
        assert spool._own.prefix not in prefixes
        # Each child took over what the one before it had left.
        assert spool.adopt() == 20
        with child(lambda fd: write_line(fd, make().pending)) as (_, reading):
            assert list(read_lines(reading)) == ["0"]
        found = drain(spool)
        assert found == ["child"] * 20 + [str(number) for number in range(count)]

    def test_looking_at_a_spool_does_not_give_it_away(self, make: Callable[..., Spool], directory: pathlib.Path):
        """POSIX locks are lost when the file is closed a second time: whoever looks in the owner's process must not."""
        spool = make()
        run = spool.append(numbered(0, 3))
        batch = spool.read(1, ALL)
        assert batch is not None
        spool.confirm(batch.run)
        assert [number for number, _ in iter_spool(directory)] == ids_of(run)[1:]
        make().adopt()
        with child(lambda fd: write_line(fd, make().pending)) as (_, reading):
            assert list(read_lines(reading)) == ["0"]

    def test_drained_and_removed_while_another_waits_for_it(
        self, make: Callable[..., Spool], directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ):
        """Who gets the lock of a file that is not at its path any more has got nothing."""
        spool = make()
        spool.append(numbered(0))
        spool.close()
        real = spool_module._try_lock

        def too_late(fd: int) -> bool:
            for path in files(directory):
                path.unlink()
            return real(fd)

        monkeypatch.setattr(spool_module, "_try_lock", too_late)
        assert make().pending == 0
        assert files(directory) == []
        assert not spool_module._claims

    def test_an_adopter_looks_at_a_file_that_is_being_made(
        self, make: Callable[..., Spool], directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ):
        """The spool makes another one and loses nothing."""
        spool = make()
        real = spool_module._try_lock
        outcomes = iter([False, False])
        monkeypatch.setattr(spool_module, "_try_lock", lambda fd: next(outcomes, True) and real(fd))
        spool.append(numbered(0))
        monkeypatch.undo()
        assert len(files(directory, ".cursor")) == 3
        other = make()
        assert other.pending == 0
        assert len(files(directory, ".cursor")) == 1
        assert drain(spool) == ["0"]


class TestLooking:
    """``iter_spool`` shows what is in a directory."""

    def test_everybodys_events(self, make: Callable[..., Spool], directory: pathlib.Path):
        """Of all labels, claimed or not, in the order of age, without what is confirmed or torn."""
        clock = Clock()
        expected = []
        for number in range(3):
            clock.now += 1
            spool = make(f"label {number}", clock=clock, segment_bytes=200)
            run = spool.append(numbered(10 * number, 5))
            batch = spool.read(2, ALL)
            assert batch is not None
            spool.confirm(batch.run)
            expected += list(zip(ids_of(run)[2:], numbered(10 * number + 2, 3), strict=True))
            if number == 1:
                spool.close()
                with open(files(directory, ".segment")[-1], "ab") as file:
                    file.write(spool_module._MARKER)
        before = {path.name: path.read_bytes() for path in files(directory)}
        assert list(iter_spool(directory)) == expected
        assert {path.name: path.read_bytes() for path in files(directory)} == before

    def test_while_it_is_drained(self, make: Callable[..., Spool], directory: pathlib.Path):
        """What disappears meanwhile is left out."""
        spool = make(segment_bytes=200)
        for number in range(10):
            spool.append(numbered(number))
        look = iter_spool(directory)
        assert next(look)[1] == numbered(0)[0]
        drain(spool)
        assert len(list(look)) < 9

    def test_no_directory(self, tmp_path: pathlib.Path):
        """An error that names it."""
        with pytest.raises(SpoolError, match="nowhere"):
            iter_spool(tmp_path / "nowhere")


# ---------------------------------------------------------------------------------------------------- threads, signals


class TestThreads:
    """Many callers at once."""

    @pytest.mark.parametrize("fsync", [False, True])
    def test_many_threads_append_while_one_delivers(self, make: Callable[..., Spool], fsync: bool):
        """Everything arrives once, in the order of each thread; the accounts hold in the end."""
        spool = make(segment_bytes=20_000, cache_bytes=5000, fsync=fsync)
        each = 100 if fsync else 1500
        start = threading.Barrier(5)

        def log(name: int) -> None:
            start.wait()
            for number in range(each):
                spool.append([make_event(f"{name}-{number}")])

        threads = [threading.Thread(target=log, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        start.wait()
        found: list[str] = []
        deadline = time.monotonic() + TIMEOUT
        while len(found) < 4 * each:
            assert time.monotonic() < deadline
            found += drain(spool, 50)
        for thread in threads:
            thread.join()
        for name in range(4):
            assert [item for item in found if item.startswith(f"{name}-")] == [
                f"{name}-{number}" for number in range(each)
            ]
        assert (spool.pending, spool.size) == (0, 0)

    def test_threads_share_the_confirmation_of_the_disk(
        self, make: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch
    ):
        """Eight threads that append while the disk is busy cost one more confirmation, not eight."""
        spool = make(fsync=True)
        spool.append(numbered(0))
        calls = []
        real = os.fdatasync

        def slow(fd: int) -> None:
            calls.append(fd)
            wait_until(lambda: len(calls) > 1 or len(spool._queue) == 7)
            real(fd)

        monkeypatch.setattr(spool_module, "_datasync", slow)
        runs: list[SpoolRun] = []
        threads = [
            threading.Thread(target=lambda name=name: runs.append(spool.append([make_event(str(name))])))
            for name in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(calls) == 2
        assert sorted(run.first for run in runs) == list(range(1, 9))
        assert len(drain(spool)) == 9

    def test_the_one_that_others_wait_for_is_interrupted(
        self, make: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch
    ):
        """The others do its work themselves."""
        spool = make(fsync=True)
        real = spool._commit
        calls = []

        def interrupted() -> None:
            calls.append(1)
            if len(calls) == 1:
                wait_until(lambda: len(spool._queue) == 4)
                raise KeyboardInterrupt
            real()

        monkeypatch.setattr(spool, "_commit", interrupted)
        outcomes: list[str] = []

        def log(number: int) -> None:
            try:
                outcomes.append(f"appended {spool.append(numbered(number)).count}")
            except KeyboardInterrupt:
                outcomes.append("interrupted")

        threads = [threading.Thread(target=log, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        assert sorted(outcomes) == ["appended 1"] * 3 + ["interrupted"]
        assert len(drain(spool)) == 3

    def test_a_confirmation_that_fails(
        self, make: Callable[..., Spool], directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ):
        """All that shared it are told, none of their events is there, and the next append uses a new file."""
        spool = make(fsync=True)
        spool.append(numbered(0))

        def broken(fd: int) -> None:
            wait_until(lambda: len(spool._queue) == 2)
            raise OSError(errno.EIO, "broken")

        errors: list[OSError] = []

        def log(number: int) -> None:
            try:
                spool.append(numbered(number))
            except OSError as err:
                errors.append(err)

        threads = [threading.Thread(target=log, args=(number,)) for number in range(1, 4)]
        calls = iter([broken])
        real = os.fdatasync
        monkeypatch.setattr(spool_module, "_datasync", lambda fd: next(calls, real)(fd))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(errors) == 1
        assert spool.pending == 3
        assert len(files(directory, ".segment")) == 2
        assert len(drain(spool)) == 3

    def test_a_signal_handler_that_logs_inside_of_an_append(
        self, make: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch
    ):
        """It is refused at once instead of waiting for itself; both sides stay whole."""
        spool = make()
        seen: list[str] = []

        def handler(*_: object) -> None:
            try:
                spool.append([make_event("from the handler")])
            except SpoolBusyError as err:
                seen.append(err.reason_code)

        before = signal.signal(signal.SIGUSR1, handler)
        try:
            for name in ("write", "pwrite"):
                real = getattr(os, name)

                def interrupted(*args: Any, real: Callable[..., int] = real) -> int:
                    done = real(*args)
                    signal.raise_signal(signal.SIGUSR1)
                    return done

                with monkeypatch.context() as patch:
                    patch.setattr(os, name, interrupted)
                    spool.append(numbered(0))
                    batch = spool.read(1, ALL)
                    assert batch is not None
                    spool.confirm(batch.run)
        finally:
            signal.signal(signal.SIGUSR1, before)
        # Confirming does not keep anybody from appending.
        assert seen == ["spool_busy"] * 2
        assert drain(spool) == ["from the handler"]
        assert spool.pending == 0

    @pytest.mark.untraced
    def test_interrupted_by_the_keyboard(self, make: Callable[..., Spool], tmp_path: pathlib.Path):
        """At any moment of an append: the event is there or not, but never half, and its number is not used twice."""
        spool = make(segment_bytes=400, cache_bytes=1000)
        dice = random.Random()
        expected: dict[str, str] = {}
        interrupted = 0

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            for number in range(2000):
                try:
                    signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 60e-6))
                    run = spool.append(numbered(number))
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    expected |= zip(ids_of(run), [str(number)], strict=True)
                except KeyboardInterrupt:
                    interrupted += 1
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert interrupted > 20
        # Other threads can go on.
        thread = threading.Thread(target=spool.append, args=([make_event("last")],))
        thread.start()
        thread.join(TIMEOUT)
        assert not thread.is_alive()
        found = [(number, event.meta.event_name) for number, event in read_all(spool)]
        assert len({number for number, _ in found}) == len(found) == spool.pending
        assert len({name for _, name in found}) == len(found)
        assert expected.items() <= dict(found).items()
        assert found[-1][1] == "last"
        assert spool.lost == 0
        spool.close()
        # An interruption between the system call and the instruction that keeps its result: nobody can close that one.
        assert close_descriptors(tmp_path) <= interrupted // 100
