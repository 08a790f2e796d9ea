"""``mvx-logger replay``: killed, interrupted, and two of them at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")


from mvx_logger.delivery.spool import iter_spool
from replay_helpers import count_rows, make_id, read_store, replay, start, write_letters, write_spool
from waiting import wait_until


@pytest.mark.slow
class TestKilled:
    @pytest.mark.parametrize("kind", ["spool", "letters"])
    def test_killed_again_and_again_it_delivers_each_event_once(self, kind: str, tmp_path: Path) -> None:
        source, database = tmp_path / kind, tmp_path / "events.db"
        if kind == "spool":
            ids = write_spool(source, 1_500)
        else:
            write_letters(source, 1_500)
            ids = [make_id(number) for number in range(1_500)]
        before = 0
        for _ in range(4):
            running = start(source, f"sqlite:///{database}?batch_max_size=3&shutdown_timeout=1")
            wait_until(
                lambda before=before: database.exists() and count_rows(database) > before,
                "it has delivered something more",
            )
            running.kill()
            running.communicate()
            before = count_rows(database)
        replay(source, "--to", f"sqlite:///{database}")
        found = read_store(database)
        assert sorted(found) == sorted((delivery_id, f"event.{n}") for n, delivery_id in enumerate(ids))

    def test_killed_before_anything_was_delivered(self, tmp_path: Path) -> None:
        """At each moment between the file and the spool that is made of it, all letters are somewhere."""
        file, database = tmp_path / "dead.jsonl", tmp_path / "events.db"
        write_letters(file, 500)
        for step in ("rename", "append", "rmtree", "unlink"):
            code = (
                "import os, shutil, sys\n"
                "from mvx_logger.cli import replay\n"
                "from mvx_logger.delivery import spool\n"
                f"step = {step!r}\n"
                "def die(*_, **__): os._exit(9)\n"
                "if step == 'append': spool.Spool.append = die\n"
                "elif step == 'rmtree': shutil.rmtree = die\n"
                "else: setattr(os, step, die)\n"
                f"replay.Replay({str(file)!r}, 'sqlite:///{database}').run()\n"
            )
            assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 9, step
        replay(file, "--to", f"sqlite:///{database}")
        assert sorted(name for _, name in read_store(database)) == sorted(f"event.{number}" for number in range(500))

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupted(self, number: int, tmp_path: Path) -> None:
        source, database = tmp_path / "spool", tmp_path / "events.db"
        write_spool(source, 5_000)
        running = start(source, f"sqlite:///{database}?batch_max_size=2")
        wait_until(lambda: database.exists() and count_rows(database) > 10, "it delivers")
        running.send_signal(number)
        out, err = running.communicate(timeout=60)
        assert running.returncode == 128 + number, err
        words = out.decode().replace(",", "").split()
        told = dict(zip(words[1::2], map(int, words[::2]), strict=True))
        assert told["delivered"] == count_rows(database)
        left = told.get("left", 0)
        assert told["delivered"] + left == 5_000
        assert len(list(iter_spool(source))) == left
        assert b"Traceback" not in err


class TestTogether:
    def test_two_at_once(self, tmp_path: Path) -> None:
        file = tmp_path / "dead.jsonl"
        write_letters(file, 2_000)
        first = start(file, f"sqlite:///{tmp_path}/events.db?batch_max_size=5")
        try:
            wait_until(lambda: count_rows(tmp_path / "events.db") > 5, "the first one delivers")
            write_letters(file, 1, start=2_000)
            assert "another replay" in replay(file, "--to", f"sqlite:///{tmp_path}/events.db", code=1).stderr
        finally:
            first.communicate(timeout=120)
        assert Counter(Counter(read_store(tmp_path / "events.db")).values()) == {1: 2_000}
