"""``mvx-logger show``: the events of stores and JSON lines, found, filtered and drawn."""

from __future__ import annotations

import gzip
import json
import os
import pty
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import field_helpers

pytest.importorskip("click")
pytest.importorskip("rich")

from click.testing import CliRunner, Result
from rich.console import Console

import mvx_logger
from mvx_logger import LogEvent, LogEventMeta, LogEventOrigin, LogException, LogStack
from mvx_logger.cli.commands import cli, parse_moment
from mvx_logger.cli.render import draw_summary, format_value, render_pretty, sparkline
from mvx_logger.cli.source import EventFilter, LineSource, SourceError, StoreSource, in_order_of_time, open_source
from mvx_logger.formats.json import decode_event, encode_lines
from mvx_logger.sinks.sqlite_store import EventStore

ROOT = str(Path(mvx_logger.__file__).parents[1])
NOON = 1_700_000_000.0


def local(*fields: int) -> float:
    return datetime(*fields).timestamp()  # type: ignore[arg-type]  # noqa: DTZ001 - the clock on the wall


def event(
    name: str = "created", *, at: float = 0.0, level: int = 20, namespace: str | None = "shop", **more: Any
) -> LogEvent:
    entity_id = more.pop("entity_id", None)
    return LogEvent(
        level,
        LogEventMeta(namespace, name, entity_id),
        more.pop("outcome", None),
        NOON + at,
        more.pop("payload", {}),
        **more,
    )


EVENTS = [
    event("opened", at=0, namespace="shop"),
    event("order.created", at=1, namespace="shop.orders", payload={"total": 12.5, "order": {"id": 7, "paid": True}}),
    event(
        "order.paid", at=2, namespace="shop.orders", entity_id="order-7", outcome="success", payload={"items": ["a", "B"]}
    ),
    event("lost", at=3, level=40, namespace="shopping", message="the Parcel is lost", payload={"n": None, "a.b": "x y"}),
    event("bare", at=4, level=5, namespace=None, payload={"text": 'say "ä"', "rows": [{"id": 3}]}),
    event(
        "failed", at=5, level=50, namespace="shop.db.pool", outcome="failed",
        exception=LogException("OSError", "gone", "Traceback (most recent call last):\nOSError: Gone"),
    ),
]  # fmt: skip


@pytest.fixture(params=["store", "lines", "gzip"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same events in every kind of source."""
    return write(tmp_path, request.param, EVENTS)


def write(directory: Path, kind: str, events: Sequence[LogEvent]) -> str:
    path = directory / f"events.{kind}"
    if kind == "store":
        store = EventStore(path)
        store.open()
        store.write(events)
        store.close()
    elif kind == "gzip":
        path.write_bytes(gzip.compress(encode_lines(events)))
    else:
        with path.open("ab") as file:
            file.write(encode_lines(events))
    return str(path)


def show(*arguments: str, code: int = 0, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(cli, ["show", *arguments], input=stdin)
    assert result.exit_code == code, result.output
    return result


def names(result: Result) -> list[str]:
    return [decode_event(line).meta.event_name for line in result.stdout.splitlines()]


class TestFilters:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ((), ["opened", "order.created", "order.paid", "lost", "bare", "failed"]),
            (("--level", "ERROR"), ["lost", "failed"]),
            (("--level", "5", "--level", "41"), ["failed"]),
            (("--namespace", "shop"), ["opened", "order.created", "order.paid", "failed"]),
            (("--namespace", "shop.*"), ["order.created", "order.paid", "failed"]),
            (("--namespace", "sh[!o]p"), []),
            (("--event", "order.*"), ["order.created", "order.paid"]),
            (("--event", "order"), []),
            (("--entity", "order-7"), ["order.paid"]),
            (("--outcome", "failed"), ["failed"]),
            (("--text", "parcel"), ["lost"]),
            (("--text", "GONE"), ["failed"]),
            (("--text", 'y "ä'), ["bare"]),
            (("--text", "shopping"), ["lost"]),
            (("--text", "no such text"), []),
            (("--where", "total=12.5"), ["order.created"]),
            (("--where", "order.id=7", "--where", "order.paid=true"), ["order.created"]),
            (("--where", "order.id=7", "--where", "total=1"), []),
            (("--where", "items.1=B"), ["order.paid"]),
            (("--where", "items.9=B"), []),
            (("--where", "rows.0.id=3"), ["bare"]),
            (("--where", "rows.1.id=3"), []),
            (("--where", "n=null"), ["lost"]),
            (("--where", "a.b=x y"), ["lost"]),
            (("--where", "order=nothing"), []),
            (("--limit", "2"), ["opened", "order.created"]),
            (("--limit", "0"), []),
            (("--last", "2"), ["bare", "failed"]),
            (("--last", "3", "--limit", "1"), ["lost"]),
            (("--since", "2023-11-14T22:13:23Z"), ["lost", "bare", "failed"]),
            (("--until", "2023-11-14T22:13:23+00:00"), ["opened", "order.created", "order.paid"]),
            (("--level", "INFO", "--namespace", "shop", "--last", "1"), ["failed"]),
        ],
    )
    def test_each_finds_the_same_in_every_kind_of_source(
        self, source: str, arguments: tuple[str, ...], expected: list[str]
    ) -> None:
        """A store, a file and a compressed file hold the same events: each filter gives the same."""
        assert names(show(source, *arguments)) == expected

    @given(
        st.lists(st.sampled_from(EVENTS), max_size=8),
        st.integers(0, 60),
        st.sampled_from(["shop", "shop.*", "s", None]),
    )
    def test_a_filter_is_the_conjunction_of_its_fields(
        self, events: list[LogEvent], level: int, namespace: str | None
    ) -> None:
        """What passes two filters passes the filter of both."""
        both = EventFilter(min_level=level, namespace=namespace)
        one, other = EventFilter(min_level=level), EventFilter(namespace=namespace)
        assert [both.matches(item) for item in events] == [one.matches(item) and other.matches(item) for item in events]

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--level", "LOUD"),
            ("--since", "soon"),
            ("--where", "novalue"),
            ("--where", "=x"),
            ("--limit", "-1"),
            ("--format", "xml"),
            ("--follow", "--stats"),
            ("--follow", "--limit", "1"),
        ],
    )
    def test_what_is_wrong_is_a_usage_error(self, tmp_path: Path, arguments: tuple[str, ...]) -> None:
        """Exit code 2, the option named."""
        result = show(write(tmp_path, "lines", EVENTS), *arguments, code=2)
        assert arguments[0] in result.stderr


class TestMoments:
    @pytest.mark.parametrize(
        ("text", "ago"),
        [("15m", 900), ("2h", 7200), ("1d", 86400), ("1h30m", 5400), ("1.5s", 1.5), ("200ms", 0.2), ("1w", 604800)],
    )
    def test_spans_are_counted_back_from_now(self, text: str, ago: float) -> None:
        """``15m`` is fifteen minutes ago."""
        assert parse_moment(text, now=NOON) == NOON - ago

    def test_days_and_times_are_local(self) -> None:
        """A date, a time of today, today and yesterday are those of the clock on the wall."""
        now = local(2026, 5, 12, 14, 30)
        assert parse_moment("today", now) == local(2026, 5, 12)
        assert parse_moment("yesterday", now) == local(2026, 5, 11)
        assert parse_moment("09:15", now) == local(2026, 5, 12, 9, 15)
        assert parse_moment("2026-05-01T08:00", now) == local(2026, 5, 1, 8)
        assert parse_moment("2026-05-01T08:00:00Z", now) == 1777622400.0

    @pytest.mark.parametrize("text", ["", "soon", "15", "m", "15x", "1h 2", "25:00", "2026-13-01"])
    def test_anything_else_is_refused(self, text: str) -> None:
        """No guessing."""
        with pytest.raises(ValueError):
            parse_moment(text)


class TestSources:
    def test_the_content_decides_what_a_source_is(self, tmp_path: Path) -> None:
        """Whatever its name: a SQLite file is a store, anything else is lines."""
        store, lines = Path(write(tmp_path, "store", EVENTS)), Path(write(tmp_path, "lines", EVENTS))
        odd_store, odd_lines = store.rename(tmp_path / "a.jsonl"), lines.rename(tmp_path / "a.db")
        assert isinstance(open_source(str(odd_store), report=print), StoreSource)
        assert isinstance(open_source(str(odd_lines), report=print), LineSource)
        assert names(show(str(odd_store))) == names(show(str(odd_lines)))

    def test_the_url_of_a_sink_is_a_source(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What went into ``run --sink`` can be shown."""
        store, lines = write(tmp_path, "store", EVENTS), write(tmp_path, "lines", EVENTS[:1])
        assert len(names(show(f"sqlite:///{store}"))) == 6
        assert len(names(show(f"file://{lines}"))) == 1
        monkeypatch.chdir(tmp_path)
        assert len(names(show("sqlite:///events.store?level=DEBUG"))) == 6
        other = EventStore(store, table="other")
        other.open()
        other.write(EVENTS[:2])
        other.close()
        assert len(names(show("sqlite:///events.store?table=other"))) == 2

    def test_standard_input(self) -> None:
        """``-`` reads JSON lines from a pipe."""
        assert names(show("-", stdin=encode_lines(EVENTS))) == [item.meta.event_name for item in EVENTS]

    @pytest.mark.parametrize("make", ["missing", "directory", "foreign", "url", "damaged", "torn"])
    def test_what_cannot_be_read_is_said(self, tmp_path: Path, make: str) -> None:
        """Exit code 1 and one line on stderr that names the file."""
        path = tmp_path / "source"
        name = str(path)
        if make == "directory":
            path.mkdir()
        elif make == "foreign":
            import sqlite3

            connection = sqlite3.connect(path)
            connection.execute("CREATE TABLE t (x)")
            connection.close()
        elif make == "url":
            name = "sqlite:///"
        elif make == "damaged":
            path.write_bytes(b"SQLite format 3\x00" + b"x" * 4096)
        elif make == "torn":
            path.write_bytes(gzip.compress(encode_lines(EVENTS))[:-20])
        result = show(name, code=1)
        assert result.stderr.strip().count("\n") == 0
        assert "source" in result.stderr or "sqlite:///" in result.stderr

    def test_an_empty_file_is_no_trouble(self, tmp_path: Path) -> None:
        """No events, exit code 0."""
        (tmp_path / "empty").touch()
        assert show(str(tmp_path / "empty")).output == ""

    def test_lines_that_are_no_events_are_told_and_the_others_shown(self, tmp_path: Path) -> None:
        """Each with its number, on stderr; exit code 1."""
        path = tmp_path / "log"
        path.write_bytes(encode_lines(EVENTS[:1]) + b"\nnot json\n" + encode_lines(EVENTS[1:2]) + b'{"level":3')
        result = show(str(path), code=1)
        assert names(result) == ["opened", "order.created"]
        assert [line.partition(": ")[2].partition(":")[0] for line in result.stderr.splitlines()] == [
            "line 3",
            "line 5",
        ]

    def test_a_file_of_something_else_does_not_flood(self, tmp_path: Path) -> None:
        """Ten lines are told, the rest is counted."""
        path = tmp_path / "log"
        path.write_text("plain text\n" * 1000)
        result = show(str(path), code=1)
        assert len(result.stderr.splitlines()) == 11
        assert "990 more" in result.stderr

    def test_lines_of_other_json_loggers_are_read(self, tmp_path: Path) -> None:
        """structlog's ``JSONRenderer`` writes lines that can be shown too."""
        path = tmp_path / "log"
        path.write_text('{"event": "paid", "level": "warning", "timestamp": "2026-05-12T14:30:00Z", "amount": 3}\n')
        (shown,) = [decode_event(line) for line in show(str(path)).stdout.splitlines()]
        assert (shown.meta.event_name, shown.level, shown.payload) == ("paid", 30, {"amount": 3})


class TestOrder:
    def test_events_of_several_processes_are_in_order_of_time(self, tmp_path: Path) -> None:
        """Each process delivers in batches; the stream is by time all the same."""
        mixed = [event(str(at), at=at) for at in (0, 2, 4, 1, 3, 5)]
        assert names(show(write(tmp_path, "store", mixed))) == ["0", "1", "2", "3", "4", "5"]

    @given(st.lists(st.integers(0, 20), max_size=60), st.integers(1, 70))
    def test_sorting_loses_nothing_and_is_stable(self, times: list[int], window: int) -> None:
        """All events come out; with a window as large as they are many, sorted, equal times in their order."""
        events = [event(str(number), at=at) for number, at in enumerate(times)]
        found = list(in_order_of_time(events, window))
        assert sorted(item.meta.event_name for item in found) == sorted(item.meta.event_name for item in events)
        if window >= len(events):
            assert found == sorted(events, key=lambda item: item.timestamp)

    def test_a_stream_without_end_is_not_held_back_for_ever(self) -> None:
        """Sorting looks at a window, not at everything."""

        def endless() -> Any:
            number = 0
            while True:
                yield event(str(number), at=number)
                number += 1

        assert next(in_order_of_time(endless(), 10)).meta.event_name == "0"


class TestFormats:
    def test_json_is_what_the_file_sink_writes(self, tmp_path: Path) -> None:
        """Piped, or with ``--json``: the very lines."""
        path = write(tmp_path, "lines", EVENTS)
        assert show(path).stdout_bytes == Path(path).read_bytes()
        assert show(path, "--json", "--format", "pretty").stdout_bytes == Path(path).read_bytes()

    def test_logfmt(self, tmp_path: Path) -> None:
        """``--format logfmt``: one line of pairs for each event."""
        lines = show(write(tmp_path, "lines", EVENTS), "--format", "logfmt").stdout.splitlines()
        assert len(lines) == len(EVENTS)
        assert "event=order.created" in lines[1]
        assert "order.id=7" in lines[1]

    def test_pretty(self, tmp_path: Path) -> None:
        """Time, level, namespace, entity, message, outcome and payload; the traceback indented below."""
        out = show(write(tmp_path, "lines", EVENTS), "--format", "pretty").stdout
        clock = time.strftime("%H:%M:%S.000", time.localtime(NOON + 2))
        assert f'{clock} INFO     shop.orders #order-7 order.paid [success] items=["a", "B"]' in out
        assert 'ERROR    shopping the Parcel is lost n=null a.b="x y"' in out
        assert "Level 5  bare" in out
        assert "failed [failed]\n    Traceback (most recent call last):\n    OSError: Gone\n" in out
        assert out.startswith(time.strftime("── %Y-%m-%d ──\n", time.localtime(NOON)))

    def test_verbose_says_where_it_was_logged(self, tmp_path: Path) -> None:
        """File, line, function, process, thread and task."""
        origin = LogEventOrigin(system="logging", process_id=12, thread_name="MainThread", task_name="Task-1")
        logged = LogEvent(
            20, LogEventMeta("shop", "x", None, "/srv/shop/db.py", 7, "connect"), None, NOON, {}, origin=origin
        )
        path = write(tmp_path, "lines", [logged, EVENTS[0]])
        out = show(path, "--format", "pretty", "--verbose").stdout
        assert "shop x (db.py:7 connect, process 12, MainThread, Task-1)" in out
        assert "db.py" not in show(path, "--format", "pretty").stdout

    def test_odd_times_and_levels(self) -> None:
        """A time that no calendar has, a level below zero: shown as numbers."""
        odd = LogEvent(-3, LogEventMeta("shop", "created"), None, 1e25, {})
        assert render_pretty(odd).plain == "1e+25 Level -3 shop created"

    def test_stacks_and_many_lines_are_indented(self) -> None:
        """Nothing of one event looks like the beginning of another."""
        text = render_pretty(
            event(message="one\ntwo", stack=LogStack("Stack (most recent call last):\n  File x"))
        ).plain
        assert text.split("\n")[1:] == ["    two", "    Stack (most recent call last):", "      File x"]

    @given(st.text(max_size=40), st.text(max_size=20), st.recursive(st.text(max_size=10), st.lists, max_leaves=3))
    def test_nothing_in_an_event_acts_on_the_terminal(self, message: str, key: str, value: Any) -> None:
        """Escape sequences, control characters and marks that reorder text are shown, not obeyed."""
        logged = event(
            message, namespace=message, entity_id=key, outcome=key, payload={key: value}, message=message,
            exception=LogException(key, key, message), level=33,
            origin=LogEventOrigin(system="x", level_name=key, thread_name=message),
        )  # fmt: skip
        text = render_pretty(logged, verbose=True).plain.replace("\n", "")
        assert {unicodedata.category(character)[0] for character in text.replace("\u200d", "")} <= set("LMNPSZ")
        assert not set(text) & {"\u2028", "\u2029"}

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            ("plain", "plain"),
            ("two words", '"two words"'),
            ("", '""'),
            ("true", '"true"'),
            ("a\nb", '"a\\nb"'),
            (True, "true"),
            (None, "null"),
            (1.5, "1.5"),
            ([1, {"a": "b"}], '[1, {"a": "b"}]'),
            ("\x1b[31m", '"\\u001b[31m"'),
            ("\u202etxt", "\\u202etxt"),
        ],
    )
    def test_values_cannot_be_mistaken(self, value: Any, shown: str) -> None:
        """Text is bare only where it cannot be read as something else."""
        assert format_value(value) == shown

    def test_a_terminal_gets_colours_and_a_pipe_does_not(self, tmp_path: Path) -> None:
        """On a terminal the default is pretty, in colours."""
        path = write(tmp_path, "lines", EVENTS)
        master, slave = pty.openpty()
        environment = {**os.environ, "PYTHONPATH": ROOT, "TERM": "xterm-256color", "COLUMNS": "200"}
        environment.pop("NO_COLOR", None)
        with subprocess.Popen(
            [sys.executable, "-m", "mvx_logger.cli", "show", path], stdout=slave, env=environment, close_fds=True
        ) as process:
            os.close(slave)
            shown = b""
            try:
                while chunk := os.read(master, 65536):
                    shown += chunk
            except OSError:  # the other end was closed
                pass
        os.close(master)
        assert process.returncode == 0
        assert b"\x1b[1;31mERROR" in shown
        assert "\x1b" not in show(path, "--format", "pretty").stdout


class TestStats:
    @pytest.mark.parametrize("kind", ["store", "lines"])
    def test_as_json(self, tmp_path: Path, kind: str) -> None:
        """Counts by namespace and level, and over time; the same from every kind of source."""
        document = json.loads(show(write(tmp_path, kind, EVENTS), "--stats").stdout)
        assert document["count"] == 6
        assert (document["first"], document["last"]) == (NOON, NOON + 5)
        assert document["namespaces"] == {
            "": {"Level 5": 1},
            "shop": {"INFO": 1},
            "shop.db.pool": {"CRITICAL": 1},
            "shop.orders": {"INFO": 2},
            "shopping": {"ERROR": 1},
        }
        assert sum(count["count"] for count in document["counts"]) == 6

    @pytest.mark.parametrize("kind", ["store", "lines"])
    def test_as_a_chart(self, tmp_path: Path, kind: str) -> None:
        """A row for each namespace, a column for each level, and bars over time."""
        out = show(write(tmp_path, kind, EVENTS), "--stats", "--format", "pretty").stdout
        rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
        assert rows["6"].startswith("6 events, 2023-11-1")
        assert "CRITICAL" in rows["namespace"]
        assert rows["shop.orders"].split()[:3] == ["shop.orders", "2", "2"]
        assert rows["all"].split()[1:6] == ["1", "3", "1", "1", "6"]
        assert "█" in rows["shop.orders"]

    def test_filters_count_too(self, tmp_path: Path) -> None:
        """``--stats`` counts what would be shown."""
        assert json.loads(show(write(tmp_path, "lines", EVENTS), "--stats", "--level", "ERROR").stdout)["count"] == 2

    def test_nothing_to_count(self, tmp_path: Path) -> None:
        """An empty source has an empty chart."""
        (tmp_path / "empty").touch()
        assert show(str(tmp_path / "empty"), "--stats", "--format", "pretty").stdout.strip() == "no events"
        assert json.loads(show(str(tmp_path / "empty"), "--stats").stdout)["count"] == 0

    @given(st.lists(st.tuples(st.floats(0, 1e6), st.sampled_from([10, 20, 40])), min_size=1, max_size=50))
    def test_every_event_is_counted_once(self, found: list[tuple[float, int]]) -> None:
        """However the time is divided, the counts add up, and no bar is outside of the chart."""
        events = [event(at=at, level=level) for at, level in found]
        source = LineSource(None, print)
        source.read = lambda wanted, **_: iter(events)  # type: ignore[method-assign, assignment]
        summary = source.summarize(EventFilter(), 20)
        assert sum(count.count for count in summary.counts) == summary.count == len(events)
        assert summary.first == min(item.timestamp for item in events)
        console = Console(width=200, color_system=None)
        with console.capture() as capture:
            console.print(draw_summary(summary, 20))
        assert str(len(events)) in capture.get()

    def test_bars(self) -> None:
        """None is a blank, the least of anything a low bar, the most a full one."""
        assert sparkline([0, 1, 50, 100]) == " ▁▄█"
        assert sparkline([1, 1], highest=8) == "▁▁"
        assert sparkline([]) == ""


class Follower:
    """``show --follow`` in a process of its own."""

    def __init__(self, *arguments: str, directory: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": ROOT, "PYTHONUNBUFFERED": ""}
        self.out = directory / "followed"
        self.err = directory / "complaints"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mvx_logger.cli", "show", "--follow", *arguments],
                stdout=out, stderr=err, env=environment,
            )  # fmt: skip

    def names(self) -> list[str]:
        whole = self.out.read_bytes().rpartition(b"\n")[0]
        return [decode_event(line).meta.event_name for line in whole.splitlines()]

    def wait_for(self, *expected: str) -> None:
        deadline = time.monotonic() + 30
        while self.names() != list(expected) and time.monotonic() < deadline:
            assert self.process.poll() is None, self.err.read_text()
            time.sleep(0.02)
        assert self.names() == list(expected)

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


@pytest.fixture
def follow(tmp_path: Path) -> Any:
    started: list[Follower] = []

    def start(*arguments: str) -> Follower:
        started.append(Follower(*arguments, directory=tmp_path))
        return started[-1]

    yield start
    for follower in started:
        if follower.process.poll() is None:
            follower.interrupt()


Follow = Callable[..., Follower]


class TestFollow:
    @pytest.mark.parametrize("kind", ["store", "lines"])
    def test_shows_the_last_ones_then_what_comes_until_ctrl_c(self, tmp_path: Path, follow: Follow, kind: str) -> None:
        """The last ten first, new ones as they come, filtered; Ctrl-C ends it with 130 and without a word."""
        source = write(tmp_path, kind, [event(str(number), at=number) for number in range(12)])
        follower = follow(source, "--event", "[0-9]*")
        ten = [str(number) for number in range(2, 12)]
        follower.wait_for(*ten)
        write(tmp_path, kind, [event("20"), event("unwanted"), event("21")])
        follower.wait_for(*ten, "20", "21")
        write(tmp_path, kind, [event("22")])
        follower.wait_for(*ten, "20", "21", "22")
        assert follower.interrupt() == 130
        assert follower.err.read_text() == ""

    @pytest.mark.parametrize("kind", ["store", "lines"])
    def test_a_source_that_is_not_there_yet_is_waited_for(self, tmp_path: Path, follow: Follow, kind: str) -> None:
        """Start looking before the program starts."""
        name = f"sqlite:///{tmp_path}/events.store" if kind == "store" else str(tmp_path / "events.lines")
        follower = follow(name, "--last", "0")
        time.sleep(0.2)  # either way right: this only makes it likely that it looks before there is anything
        write(tmp_path, kind, [event("old")])
        deadline = time.monotonic() + 30
        while not follower.names() and time.monotonic() < deadline:
            write(tmp_path, kind, [event("new")])
            time.sleep(0.1)
        assert set(follower.names()) <= {"old", "new"}
        assert "new" in follower.names()

    @pytest.mark.parametrize("how", ["moved", "truncated", "replaced"])
    def test_a_file_is_followed_across_its_rotation(self, tmp_path: Path, follow: Follow, how: str) -> None:
        """Moved away with a last line written to the old one, truncated in place, or replaced."""
        source = Path(write(tmp_path, "lines", [event("one", payload={"x": "y" * 200})]))
        follower = follow(str(source))
        follower.wait_for("one")
        seen = ["one"]
        if how == "moved":
            source.rename(tmp_path / "events.1")
            with (tmp_path / "events.1").open("ab") as old:
                old.write(encode_lines([event("two")]))
            follower.wait_for("one", "two")
            seen.append("two")
        elif how == "truncated":
            os.truncate(source, 0)
        else:
            (tmp_path / "new").touch()
            (tmp_path / "new").replace(source)
        write(tmp_path, "lines", [event("three")])
        follower.wait_for(*seen, "three")

    def test_a_line_is_shown_when_it_is_whole(self, tmp_path: Path, follow: Follow) -> None:
        """Half a line is no event yet, and no trouble."""
        source = Path(write(tmp_path, "lines", [event("one")]))
        follower = follow(str(source))
        follower.wait_for("one")
        line = encode_lines([event("two")])
        with source.open("ab", buffering=0) as file:
            file.write(line[:20])
            time.sleep(0.5)  # either way right: this only makes it likely that it looks meanwhile
            file.write(line[20:])
        follower.wait_for("one", "two")
        assert follower.interrupt() == 130
        assert follower.err.read_text() == ""

    def test_a_store_that_is_made_anew_is_followed_on(self, tmp_path: Path, follow: Follow) -> None:
        """Deleted and begun again, its ids start again."""
        source = Path(write(tmp_path, "store", [event(str(number)) for number in range(3)]))
        follower = follow(str(source))
        follower.wait_for("0", "1", "2")
        for suffix in ("", "-wal", "-shm"):
            Path(f"{source}{suffix}").unlink(missing_ok=True)
        write(tmp_path, "store", [event("again")])
        follower.wait_for("0", "1", "2", "again")

    def test_a_compressed_file_cannot_be_followed(self, tmp_path: Path) -> None:
        """It does not grow: a usage error."""
        assert "compressed" in show(write(tmp_path, "gzip", EVENTS), "--follow", code=2).stderr

    def test_something_else_than_a_store_is_not_waited_for(self, tmp_path: Path) -> None:
        """A SQLite file of somebody else's is said to be one."""
        import sqlite3

        connection = sqlite3.connect(tmp_path / "other.db")
        connection.execute("CREATE TABLE t (x)")
        connection.commit()
        connection.close()
        assert "not an event store" in show(str(tmp_path / "other.db"), "--follow", code=1).stderr

    def test_standard_input_is_shown_as_it_comes(self, tmp_path: Path) -> None:
        """A pipe is followed to its end."""
        assert names(show("-", "--follow", stdin=encode_lines(EVENTS)))[:2] == ["opened", "order.created"]


class TestPipes:
    def test_a_reader_that_has_had_enough_is_no_error(self, tmp_path: Path) -> None:
        """``show ... | head`` ends quietly."""
        source = write(tmp_path, "lines", [event(str(number), payload={"x": "y" * 100}) for number in range(20_000)])
        with subprocess.Popen(
            [sys.executable, "-m", "mvx_logger.cli", "show", source],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ROOT},
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(30) == 141

    def test_a_huge_source_is_not_loaded(self, tmp_path: Path) -> None:
        """Memory does not grow with the source."""
        pytest.importorskip("resource")
        line = encode_lines([event(payload={"x": "y" * 1000})])
        path = tmp_path / "huge"
        with path.open("wb") as file:
            for _ in range(30):
                file.write(line * 2000)
        code = (
            "import sys; from field_helpers import peak_memory; from mvx_logger.cli.main import main\n"
            "try: main()\n"
            "finally: print(peak_memory(), file=sys.stderr)"
        )
        path_of_modules = os.pathsep.join((str(ROOT), str(Path(field_helpers.__file__).parent)))
        usage = []
        for arguments in (["--limit", "1"], []):
            done = subprocess.run(
                [sys.executable, "-c", code, "show", str(path), *arguments],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True,
                env={**os.environ, "PYTHONPATH": path_of_modules},
            )  # fmt: skip
            usage.append(int(done.stderr))
        assert usage[1] - usage[0] < 30_000_000, "for a file of 60 megabytes"


class TestInvocation:
    def test_help_tells_of_exit_codes(self) -> None:
        """Each command says what its exit code means."""
        runner = CliRunner()
        for command in ("run", "show", "check"):
            result = runner.invoke(cli, [command, "--help"])
            assert result.exit_code == 0
            assert "Exit code:" in result.stdout

    def test_version(self) -> None:
        """``--version`` names package and Python."""
        result = CliRunner().invoke(cli, ["--version"])
        assert result.exit_code == 0
        assert result.stdout.startswith(f"mvx-logger {mvx_logger.__version__} (Python 3.")

    @pytest.mark.parametrize("missing", ["click", "rich"])
    def test_without_its_packages_the_command_says_what_to_install(self, tmp_path: Path, missing: str) -> None:
        """The extra is named, in one line."""
        code = f"import sys; sys.modules[{missing!r}] = None; from mvx_logger.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": ROOT},
            check=False,
        )
        assert done.returncode == 1
        assert "pip install 'mvx-logger[cli]'" in done.stderr
        assert done.stderr.count("\n") == 1

    def test_a_source_that_does_not_exist_is_told_by_the_library_too(self) -> None:
        """`SourceError` names it."""
        with pytest.raises(SourceError, match="no-such"):
            open_source("no-such", report=print)
