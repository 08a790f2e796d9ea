"""Dead letters: events that were given up, and `DeadLetterFile`, where they are put."""

from __future__ import annotations

import gc
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from delivery_helpers import TIMEOUT, assert_accounts, make_event
from mvx_logger import (
    LogConfigurationError,
    LogEvent,
    LogEventMeta,
    LogEventOrigin,
    LogException,
    LogSinkClassProto,
    LogSinkProto,
    LogStack,
    MemoryLogSink,
    configure_log_sink,
    selflog,
)
from mvx_logger.delivery.dead_letter import (
    DEAD_LETTER_KEY,
    DeadLetter,
    OwnedSink,
    as_dead_letter_sink,
    is_dead_letter,
    is_file_path,
    make_dead_letter,
    split_dead_letter,
)
from mvx_logger.formats.json import decode_event, decode_lines, encode_event
from mvx_logger.guard import internal
from mvx_logger.sinks.dead_letter import DeadLetterFile

FACTS = DeadLetter(
    reason="refused", error="ValueError: no", sink="main", delivery_id="d-1", attempts=3, at=1_700_000_001.5
)

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
facts = st.builds(
    DeadLetter,
    reason=words,
    error=st.none() | words,
    sink=words,
    delivery_id=words,
    attempts=st.integers(0, 1 << 60),
    at=st.floats(0, 1e10),
)
# The key itself, and what it is renamed to, belong to the application as well.
keys = words | st.sampled_from([DEAD_LETTER_KEY, f"{DEAD_LETTER_KEY}_", f"{DEAD_LETTER_KEY}__", "_dead_letters", "_"])
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=10)
    | st.binary(max_size=10)
)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))
payloads = st.dictionaries(keys, values | facts.map(structs.asdict), max_size=5)
events = st.builds(
    LogEvent,
    st.integers(-5, 100),
    st.builds(
        LogEventMeta, st.none() | words, words, st.none() | words, st.none() | words, st.none() | st.integers(0, 999)
    ),
    st.none() | words,
    st.floats(0, 4e9),
    payloads,
    st.none() | words,
    st.none() | st.builds(LogException, words, words, words, st.just(({"exc_type": "E"},))),
    st.none() | st.builds(LogStack, words),
    st.none() | st.builds(LogEventOrigin, system=words, thread_id=st.none() | st.integers(0, 99), via=st.just(("a",))),
)


def letter_of(event: LogEvent, letter: DeadLetter = FACTS) -> LogEvent:
    return make_dead_letter(event, **structs.asdict(letter))


def read(path: Path) -> list[LogEvent]:
    with path.open("rb") as lines:
        return list(decode_lines(lines))


class TestLetters:
    def test_one_more_key_in_the_payload(self) -> None:
        """The event is as it was, and says why it is here."""
        event = make_event("order.created", id=5)
        letter = letter_of(event)
        assert letter.payload == {
            "id": 5,
            "_dead_letter": {
                "reason": "refused",
                "error": "ValueError: no",
                "sink": "main",
                "delivery_id": "d-1",
                "attempts": 3,
                "at": 1_700_000_001.5,
            },
        }
        assert structs.replace(letter, payload=event.payload) == event
        assert event.payload == {"id": 5}
        assert is_dead_letter(letter)
        assert not is_dead_letter(event)

    @given(event=events, letter=facts)
    def test_there_and_back(self, event: LogEvent, letter: DeadLetter) -> None:
        """Whoever looks at a dead letter can log the very event again."""
        assert split_dead_letter(letter_of(event, letter)) == (event, letter)

    @given(event=events, letter=facts)
    def test_there_and_back_through_json(self, event: LogEvent, letter: DeadLetter) -> None:
        """The way over a file of JSON lines loses no more than for any other event."""
        written = encode_event(letter_of(event, letter))
        assert split_dead_letter(decode_event(written)) == (decode_event(encode_event(event)), letter)

    @given(event=events, letters=st.lists(facts, max_size=4))
    def test_letters_of_letters(self, event: LogEvent, letters: list[DeadLetter]) -> None:
        """A dead-letter sink that gives up hands on to its own; each envelope comes off in turn."""
        letter = event
        for entry in letters:
            letter = letter_of(letter, entry)
        for entry in reversed(letters):
            letter, found = split_dead_letter(letter)
            assert found == entry
        assert letter == event

    @given(event=events)
    def test_the_event_is_left_alone(self, event: LogEvent) -> None:
        """Other sinks hold the same payload."""
        before = dict(event.payload)
        letter_of(event)
        assert event.payload == before

    @pytest.mark.parametrize(
        "value",
        [None, 5, {}, {"reason": "x"}, {**structs.asdict(FACTS), "more": 1}, {**structs.asdict(FACTS), "at": "x"}],
    )
    def test_somebody_elses_key(self, value: Any) -> None:
        """What only has the name is no dead letter, and is not touched."""
        event = make_event(**{DEAD_LETTER_KEY: value})
        assert split_dead_letter(event) == (event, None)
        assert split_dead_letter(letter_of(event)) == (event, FACTS)

    def test_any_mapping_and_none(self) -> None:
        """A read-only payload is one too; one that cannot be read is named, and the letter goes out."""

        class Evil(dict[str, Any]):
            def keys(self) -> Any:
                raise RuntimeError

            __iter__ = keys

        event = structs.replace(make_event(), payload=MappingProxyType({"a": 1}))
        assert split_dead_letter(letter_of(event))[0].payload == {"a": 1}
        assert letter_of(structs.replace(event, payload=Evil(a=1))).payload["payload"] == "<Evil>"
        broken = structs.replace(event, payload=None)
        assert letter_of(broken).payload["payload"] == "<NoneType>"
        assert split_dead_letter(broken) == (broken, None)


class TestAsDeadLetterSink:
    def test_each_way_to_name_one(self, tmp_path: Path) -> None:
        """None, a sink, a path; a sink is closed by whoever has made it."""
        sink = MemoryLogSink()
        assert as_dead_letter_sink(None) is None
        assert as_dead_letter_sink(sink) == (sink, False)
        assert as_dead_letter_sink(OwnedSink(sink)) == (sink, True)
        for value in (tmp_path / "dead", str(tmp_path / "dead"), "dead.jsonl", f".{os.sep}dead"):
            found = as_dead_letter_sink(value)
            assert found is not None
            made, owned = found
            assert isinstance(made, DeadLetterFile)
            assert made.path == os.path.abspath(value)
            assert owned
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("value", [5, b"dead.jsonl", ["dead.jsonl"], {}, MemoryLogSink, object(), True])
    def test_something_else(self, value: Any) -> None:
        """The error names the option, and what it takes."""
        with pytest.raises(TypeError, match=r"^dead_letter: expected an object with log\(event\), the path of a file"):
            as_dead_letter_sink(value)

    @pytest.mark.parametrize("value", ["", "archive", "sqlite:///dead.db", "memory:x", "https://a:Zq7x@host/"])
    def test_what_is_no_path(self, value: str) -> None:
        """A name or a URL does not become a file of that name; and it is not quoted."""
        with pytest.raises(LogConfigurationError, match=r"^dead_letter: a str has to be") as caught:
            as_dead_letter_sink(value)
        assert caught.value.details == {"path": "dead_letter"}
        assert "Zq7x" not in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("/var/log/dead.jsonl", True), ("dead.jsonl", True), ("./dead", True), ("a/12:30", True), ("C:/dead", True),
            ("C:dead.jsonl", True), (".dead", True), ("dead", False), ("dead-letters_2", False), ("file:dead.jsonl", False),
            ("a+b.c-d:x", False), ("", False), (":", False), ("5:.", True),
        ],
    )  # fmt: skip
    def test_paths_names_and_urls_are_told_apart(self, text: str, expected: bool) -> None:
        """By their looks only: whether there is such a file or sink does not count."""
        assert is_file_path(text) is expected

    def test_an_owned_sink_is_a_sink(self) -> None:
        """It can stand wherever a sink is asked for."""
        sink = MemoryLogSink()
        owned = OwnedSink(sink)
        assert isinstance(owned, LogSinkProto)
        owned.log(make_event())
        assert len(sink) == 1


class TestDeadLetterFile:
    @pytest.fixture(autouse=True)
    def _close_all(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Close the files at the end: nothing has to be closed while a test runs."""
        files: set[DeadLetterFile] = set()
        write = DeadLetterFile._write

        def write_and_remember(self: DeadLetterFile, line: bytes) -> None:
            files.add(self)
            write(self, line)

        monkeypatch.setattr(DeadLetterFile, "_write", write_and_remember)
        yield
        for file in files:
            file.close()

    def test_it_is_in_the_file_when_log_returns(self, tmp_path: Path) -> None:
        """One line of JSON each; nothing has to be flushed or closed."""
        path = tmp_path / "deep" / "down" / "dead.jsonl"
        sink = DeadLetterFile(path)
        assert not path.parent.exists()
        for number in range(3):
            sink.log(letter_of(make_event(str(number), secret_of=b"\xff")))
            assert len(path.read_bytes().splitlines()) == number + 1
        assert [split_dead_letter(event)[0].meta.event_name for event in read(path)] == ["0", "1", "2"]
        assert [split_dead_letter(event)[1] for event in read(path)] == [FACTS] * 3
        assert sink.flush(0)
        assert sink.stats().delivered == 3
        assert_accounts(sink.stats())

    @(
        pytest.mark.skipif(os.name == "nt", reason="no modes")
        if os.name == "nt"
        else pytest.mark.filterwarnings("default")
    )
    def test_nobody_else_may_read_it(self, tmp_path: Path) -> None:
        """What was refused may be nobody else's business: 0600, whatever the umask; or as one wishes."""
        before = os.umask(0)
        try:
            for name, options, mode in (
                ("a.jsonl", {}, 0o600),
                ("b.jsonl", {"permissions": "640"}, 0o640),
                ("c.jsonl", {"permissions": None}, 0o666),
            ):
                DeadLetterFile(tmp_path / name, **options).log(make_event())
                assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode
        finally:
            os.umask(before)

    def test_it_does_not_grow_without_end(self, tmp_path: Path) -> None:
        """It is rotated at `max_bytes`; `backup_count` rotated files stay, the latest."""
        sink = DeadLetterFile(tmp_path / "dead.jsonl", max_bytes=1, backup_count=2)
        for number in range(6):
            sink.log(make_event(str(number)))
        files = sorted(tmp_path.iterdir())
        assert len(files) == 3
        assert sorted(event.meta.event_name for file in files for event in read(file)) == ["3", "4", "5"]

    def test_what_cannot_be_written_is_told(self, tmp_path: Path) -> None:
        """An OSError, counted; and when there is room again, it goes on."""
        path = tmp_path / "dead.jsonl"
        path.mkdir()
        sink = DeadLetterFile(path)
        for _ in range(2):
            with pytest.raises(OSError, match=r"dead\.jsonl"):
                sink.log(make_event())
        path.rmdir()
        sink.log(make_event("after"))
        assert [event.meta.event_name for event in read(path)] == ["after"]
        stats = sink.stats()
        assert (stats.accepted, stats.delivered, stats.dropped) == (3, 1, {"error": 2})
        assert_accounts(stats)

    def test_it_goes_on_where_it_was_moved_away_or_closed(self, tmp_path: Path) -> None:
        """A file that logrotate or a person has taken is begun anew; close() only lets go of it."""
        path = tmp_path / "dead.jsonl"
        sink = DeadLetterFile(path)
        sink.log(make_event("1"))
        path.rename(tmp_path / "taken.jsonl")
        sink.log(make_event("2"))
        sink.close()
        sink.close()
        sink.log(make_event("3"))
        assert [event.meta.event_name for event in read(path)] == ["2", "3"]
        assert [event.meta.event_name for event in read(tmp_path / "taken.jsonl")] == ["1"]

    def test_no_file_stays_open(self, tmp_path: Path) -> None:
        """However many threads have written."""
        sink = DeadLetterFile(tmp_path / "dead.jsonl")
        before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
        threads = [threading.Thread(target=sink.log, args=(make_event(),)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        sink.close()
        if before:
            assert set(os.listdir("/proc/self/fd")) == before

    def test_threads_share_it(self, tmp_path: Path) -> None:
        """Lines are whole, none is lost, rotation included."""
        sink = DeadLetterFile(tmp_path / "dead.jsonl", max_bytes=2_000, backup_count=None)

        def work(number: int) -> None:
            for index in range(50):
                sink.log(make_event(f"{number}-{index}", filling="x" * 50))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        names = [event.meta.event_name for file in tmp_path.iterdir() for event in read(file)]
        assert sorted(names) == sorted(f"{number}-{index}" for number in range(4) for index in range(50))
        assert sink.stats().delivered == 200

    def test_processes_share_it(self, tmp_path: Path) -> None:
        """Also those that were forked while it was open."""
        path = tmp_path / "dead.jsonl"
        program = (
            "import os, sys\n"
            "from mvx_logger import LogEvent, LogEventMeta\n"
            "from mvx_logger.sinks.dead_letter import DeadLetterFile\n"
            "def write(who):\n"
            "    for number in range(50):\n"
            "        sink.log(LogEvent(20, LogEventMeta('n', f'{who}-{number}'), None, 0.0, {'filling': 'x' * 50}))\n"
            "sink = DeadLetterFile(sys.argv[1], max_bytes=3_000, backup_count=None)\n"
            "write('before')\n"
            "children = []\n"
            "for who in 'ab':\n"
            "    pid = os.fork()\n"
            "    if not pid:\n"
            "        write(who)\n"
            "        os._exit(0)\n"
            "    children.append(pid)\n"
            "write('after')\n"
            "sys.exit(max(os.waitpid(pid, 0)[1] for pid in children))\n"
        )
        children = [subprocess.Popen([sys.executable, "-c", program, str(path)]) for _ in range(2)]
        assert [child.wait(TIMEOUT) for child in children] == [0, 0]
        names = [event.meta.event_name for file in tmp_path.iterdir() for event in read(file)]
        expected = [f"{who}-{number}" for who in ("before", "a", "b", "after") for number in range(50)]
        assert sorted(names) == sorted(expected * 2)

    def test_on_the_worker_of_another_sink(self, tmp_path: Path, selflog_reports: list[selflog.SelfLogReport]) -> None:
        """A dead letter passes where the logging path's own events do not: they would feed the logger on itself."""
        path = tmp_path / "dead.jsonl"
        sink = DeadLetterFile(path)
        token = internal.set(True)
        try:
            sink.log(letter_of(make_event("given up")))
            sink.log(make_event("a debug line of the client"))
        finally:
            internal.reset(token)
        assert [event.meta.event_name for event in read(path)] == ["given up"]
        assert sink.stats().rejected == {"recursion": 1}
        assert [report.kind for report in selflog_reports] == ["recursion"]

    def test_a_finalizer_that_logs_meanwhile(
        self, tmp_path: Path, selflog_reports: list[selflog.SelfLogReport]
    ) -> None:
        """Whatever runs at any instruction of log() neither hangs nor tears a line."""
        path = tmp_path / "dead.jsonl"
        sink = DeadLetterFile(path)

        class Noisy:
            def __init__(self) -> None:
                self.me = self

            def __del__(self) -> None:
                sink.log(make_event("from a finalizer"))

        thresholds = gc.get_threshold()
        gc.set_threshold(1)
        try:
            for number in range(200):
                Noisy()
                sink.log(make_event(str(number)))
        finally:
            gc.set_threshold(*thresholds)
            gc.collect()
        names = [event.meta.event_name for event in read(path)]
        assert [name for name in names if name.isdigit()] == [str(number) for number in range(200)]
        assert sink.stats().delivered == len(names)

    def test_it_can_be_registered(self, tmp_path: Path) -> None:
        """The same path and options are the same sink; another path, in whatever spelling, is not."""
        assert isinstance(DeadLetterFile, LogSinkClassProto)
        path = tmp_path / "dead.jsonl"
        sink = configure_log_sink(name="dead", sink_cls=DeadLetterFile, path=path, max_bytes=None)
        assert configure_log_sink(name="dead", sink_cls=DeadLetterFile, path=str(path), max_bytes=None) is sink
        first = DeadLetterFile.build_descriptor(path=path)
        assert first == DeadLetterFile.build_descriptor(path=f"{tmp_path}/x/../dead.jsonl")
        assert first != DeadLetterFile.build_descriptor(path=path, max_bytes=None)
        assert first != DeadLetterFile.build_descriptor(path=tmp_path / "other.jsonl")
        hash(first)
        made, terminate = DeadLetterFile.create(path=path, fsync="batch")
        made.log(make_event())
        terminate()
        assert len(read(path)) == 1
        assert str(path) in repr(made)
