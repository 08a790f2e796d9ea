"""``mvx-logger replay``: spools and dead letters, delivered after all, once."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")


from events import make_numbered
from mvx_logger import AsyncioLogSink, LogEvent
from mvx_logger.delivery.dead_letter import split_dead_letter
from mvx_logger.delivery.spool import iter_spool
from mvx_logger.formats.json import encode_event
from mvx_logger.sinks.sqlite import read_events
from replay_helpers import make_id, make_store, read_letters, read_store, replay, write_letters, write_spool


class TestSpool:
    def test_everything_arrives_under_the_ids_that_it_had(self, tmp_path: Path) -> None:
        ids = write_spool(tmp_path / "spool", 2_500)
        result = replay(tmp_path / "spool", "--to", f"sqlite:///{tmp_path}/events.db")
        assert result.stdout == "2500 delivered\n"
        found = read_store(tmp_path / "events.db")
        assert found == [(delivery_id, f"event.{number}") for number, delivery_id in enumerate(ids)]
        assert not list(iter_spool(tmp_path / "spool"))
        assert not (tmp_path / "spool.refused.jsonl").exists()

    def test_spools_of_several_sinks_and_processes(self, tmp_path: Path) -> None:
        for label, start in (("ShopSink", 0), ("ShopSink", 10), ("OtherSink(x)", 20)):
            write_spool(tmp_path / "spool", 10, label=label, start=start)
        replay(tmp_path / "spool", "--to", f"sqlite:///{tmp_path}/events.db")
        assert {name for _, name in read_store(tmp_path / "events.db")} == {f"event.{number}" for number in range(30)}

    def test_twice_is_once(self, tmp_path: Path) -> None:
        write_spool(tmp_path / "spool", 10)
        replay(tmp_path / "spool", "--to", f"sqlite:///{tmp_path}/events.db")
        assert replay(tmp_path / "spool", "--to", f"sqlite:///{tmp_path}/events.db").stdout == "0 delivered\n"
        assert len(read_store(tmp_path / "events.db")) == 10

    def test_what_a_running_process_has_is_its_own(self, tmp_path: Path) -> None:
        write_spool(tmp_path / "spool", 5)
        code = (
            "import sys; from mvx_logger import LogEvent, LogEventMeta; from mvx_logger.delivery.spool import Spool\n"
            f"spool = Spool({str(tmp_path / 'spool')!r}, label='AnotherSink'); spool.open()\n"
            "spool.append([LogEvent(20, LogEventMeta('shop', 'of.another'), None, 0.0, {})] * 3)\n"
            "print('ready', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"ready\n"
            result = replay(tmp_path / "spool", "--to", f"sqlite:///{tmp_path}/events.db", code=1)
            assert result.stdout == "5 delivered, 3 left\n"
            assert "belong to a process that is running" in result.stderr
            assert len(read_store(tmp_path / "events.db")) == 5
            owner.communicate()
        assert replay(tmp_path / "spool", "--to", f"sqlite:///{tmp_path}/events.db").stdout == "3 delivered\n"

    def test_a_directory_without_a_spool(self, tmp_path: Path) -> None:
        (tmp_path / "else.txt").touch()
        result = replay(tmp_path, "--to", "memory:", code=1)
        assert "holds no spool" in result.stderr
        assert os.listdir(tmp_path) == ["else.txt"]


class TestDeadLetters:
    def test_they_arrive_as_what_they_were(self, tmp_path: Path) -> None:
        write_letters(tmp_path / "dead.jsonl", 1_500)
        result = replay(tmp_path / "dead.jsonl", "--to", f"sqlite:///{tmp_path}/events.db")
        assert result.stdout == "1500 delivered\n"
        assert read_store(tmp_path / "events.db") == [(make_id(n), f"event.{n}") for n in range(1_500)]
        assert [event for _, event in read_events(str(tmp_path / "events.db"), limit=3)] == [
            make_numbered(n) for n in range(3)
        ]
        assert os.listdir(tmp_path) == ["events.db"]

    def test_into_a_sink_that_takes_one_at_a_time_and_one_that_is_synchronous(self, tmp_path: Path) -> None:
        write_letters(tmp_path / "dead.jsonl", 3)
        result = replay(tmp_path / "dead.jsonl", "--to", "console:?colors=false&stream=stdout")
        assert [f"event.{number}" in result.stdout for number in range(4)] == [True, True, True, False]
        assert "_dead_letter" not in result.stdout

    def test_what_is_refused_again_returns_with_the_new_reason(self, tmp_path: Path) -> None:
        make_store(tmp_path / "events.db")
        with sqlite3.connect(tmp_path / "events.db") as connection:
            connection.execute(
                "CREATE TRIGGER choosy BEFORE INSERT ON events WHEN NEW.event IN ('event.3', 'event.7') "
                "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
            )
        connection.close()
        write_letters(tmp_path / "dead.jsonl", 10)
        result = replay(tmp_path / "dead.jsonl", "--to", f"sqlite:///{tmp_path}/events.db", code=1)
        assert result.stdout == "8 delivered, 2 refused\n"
        letters = [split_dead_letter(event) for event in read_letters(tmp_path / "dead.jsonl")]
        assert [event for event, _ in letters] == [make_numbered(3), make_numbered(7)]
        for number, (_, letter) in zip((3, 7), letters, strict=True):
            assert letter is not None
            assert (letter.delivery_id, letter.sink) == (make_id(number), "ShopSink") or letter.sink == "replay"
            assert letter.delivery_id == make_id(number)
            assert "not this one" in str(letter.error)
            assert letter.attempts > 2
        assert not (tmp_path / "dead.jsonl.replay").exists()

    def test_lines_that_are_no_events_are_kept(self, tmp_path: Path) -> None:
        file = tmp_path / "dead.jsonl"
        file.write_bytes(b"what is this\n")
        write_letters(file, 2)
        with file.open("ab") as lines:
            lines.write(b'\n{"cut": ')
        result = replay(file, "--to", f"sqlite:///{tmp_path}/events.db")
        assert "2 lines are no events" in result.stderr
        assert (tmp_path / "dead.jsonl.unreadable").read_bytes() == b'what is this\n{"cut": \n'
        assert len(read_store(tmp_path / "events.db")) == 2

    def test_a_file_that_holds_other_events(self, tmp_path: Path) -> None:
        file = tmp_path / "events.jsonl"
        file.write_bytes(encode_event(make_numbered(1)) + b"\n")
        before = file.read_bytes()
        result = replay(file, "--to", f"sqlite:///{tmp_path}/events.db", code=1)
        assert "holds no dead letters" in result.stderr
        assert file.read_bytes() == before
        assert os.listdir(tmp_path) == ["events.jsonl"]
        replay(file, "--any-events", "--to", f"sqlite:///{tmp_path}/events.db")
        assert [name for _, name in read_store(tmp_path / "events.db")] == ["event.1"]
        assert not file.exists()

    def test_letters_that_come_meanwhile_wait_for_the_next_time(self, tmp_path: Path) -> None:
        """The sink that writes them opens a new file when its own was moved away."""
        write_letters(tmp_path / "dead.jsonl", 5)
        make_store(tmp_path / "busy.db")
        with sqlite3.connect(tmp_path / "busy.db") as lock:
            lock.execute("BEGIN EXCLUSIVE")
            target = f"sqlite:///{tmp_path}/busy.db?busy_timeout=0.05&retry_max_delay=0.1&shutdown_timeout=0.1"
            result = replay(tmp_path / "dead.jsonl", "--give-up-after", "0.5", "--to", target, code=1)
            assert result.stdout == "0 delivered, 5 left\n"
            assert "nothing was delivered for 0.5 seconds" in result.stderr
            assert "locked" in result.stderr
        lock.close()
        write_letters(tmp_path / "dead.jsonl", 5, start=5)
        result = replay(tmp_path / "dead.jsonl", "--to", f"sqlite:///{tmp_path}/events.db")
        assert "continuing" in result.stderr
        assert result.stdout == "5 delivered\n"
        assert replay(tmp_path / "dead.jsonl", "--to", f"sqlite:///{tmp_path}/events.db").stdout == "5 delivered\n"
        assert [name for _, name in read_store(tmp_path / "events.db")] == [f"event.{number}" for number in range(10)]


class TestOptions:
    def test_dry_run(self, tmp_path: Path) -> None:
        write_letters(tmp_path / "dead.jsonl", 3)
        before = (tmp_path / "dead.jsonl").read_bytes()
        text = replay(tmp_path / "dead.jsonl", "--dry-run").stdout
        assert "3 events, from 2026-05-28T20:26:40.000000Z to 2026-05-28T20:26:42.000000Z" in text
        assert "3 of ShopSink" in text
        assert "3 reason refused" in text
        assert (tmp_path / "dead.jsonl").read_bytes() == before
        write_spool(tmp_path / "spool", 4)
        assert "4 of ShopSink" in replay(tmp_path / "spool", "-n").stdout
        assert len(list(iter_spool(tmp_path / "spool"))) == 4

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ((), "--to is missing"),
            (("--to", "nosuch://x"), "no sink for URLs"),
            (("--to", "sqlite:///x.db?nosuch=1"), "no such option"),
            (("--to", "sqlite:///x.db?durable=elsewhere"), "leave out 'durable'"),
            (("--to", "sqlite:///x.db?dead_letter=./elsewhere.jsonl"), "--dead-letter says"),
            (("--to", "memory:", "--give-up-after", "0"), "give-up-after"),
        ],
    )
    def test_a_wrong_command_line(self, arguments: tuple[str, ...], text: str, tmp_path: Path) -> None:
        write_letters(tmp_path / "dead.jsonl", 3)
        assert text in replay(tmp_path / "dead.jsonl", *arguments, code=2).stderr
        assert len(read_letters(tmp_path / "dead.jsonl")) == 3

    def test_no_such_source(self, tmp_path: Path) -> None:
        assert "no such file" in replay(tmp_path / "none", "--to", "memory:", code=1).stderr
        assert "no such file" in replay(tmp_path / "none", "-n", code=1).stderr

    def test_refused_events_of_a_directory_go_beside_it(self, tmp_path: Path) -> None:
        write_spool(tmp_path / "spool", 3)
        target = f"sqlite:///{tmp_path}/events.db"
        replay(tmp_path / "spool", "--to", target)
        with sqlite3.connect(tmp_path / "events.db") as connection:
            connection.execute("CREATE TRIGGER no BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'closed'); END")
        connection.close()
        ids = write_spool(tmp_path / "spool", 3)
        replay(tmp_path / "spool", "--to", target, code=1)
        letters = [split_dead_letter(event)[1] for event in read_letters(tmp_path / "spool.refused.jsonl")]
        assert [letter.delivery_id for letter in letters if letter] == ids

    def test_a_sink_of_ones_own(self, tmp_path: Path) -> None:
        """A class that has `_dispatch_core` only: found by its scheme."""
        from mvx_logger.bridge import config

        got: list[str] = []

        class OwnSink(AsyncioLogSink):
            sink_type = "own"

            def __init__(self, **options: Any) -> None:
                super().__init__(**options)

            async def _dispatch_core(self, event: LogEvent) -> None:
                got.append(f"{event.meta.event_name} {sorted(event.payload)}")

        write_letters(tmp_path / "dead.jsonl", 2)
        find = config.find_sink_class
        config.find_sink_class = lambda scheme, **_: OwnSink if scheme == "own" else find(scheme)
        try:
            replay(tmp_path / "dead.jsonl", "--to", "own:")
        finally:
            config.find_sink_class = find
        assert got == ["event.0 ['number']", "event.1 ['number']"]
