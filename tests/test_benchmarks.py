"""The benchmarks still run, and report what they are for. No figure is looked at: those are for a quiet machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run(script: str, *options: str) -> str:
    """What a benchmark prints."""
    command = [sys.executable, str(BENCHMARKS / script), *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


def run_json(script: str, *options: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(run(script, "--json", *options))
    assert report["python"] == sys.version.split()[0]
    return report


class TestHotPath:
    def test_each_goal_has_a_ratio(self) -> None:
        """Whoever runs it sees a ratio beside each goal."""
        report = run_json("hot_path.py", "--rounds", "2", "--number", "20")
        assert len(report["rows"]) == 5
        assert all(row["goal"] > 0 and isinstance(row["ratio"], float) for row in report["rows"])
        assert all(value > 0 for value in report["ns"].values())

    def test_table(self) -> None:
        """Without --json there is a table."""
        assert "(goal 0.20)" in run("hot_path.py", "--rounds", "2", "--number", "20")


class TestStall:
    TINY = ("--rounds", "2", "--number", "40", "--threads", "1", "2")

    @pytest.mark.parametrize("form", ["async", "blocking", "tcp"])
    def test_each_queue_is_measured_while_the_destination_is_frozen(self, form: str) -> None:
        """Each way to freeze is measured with each queue, and nothing came through while it was frozen."""
        report = run_json("stall.py", *self.TINY, "--forms", form)
        rows = report["rows"]
        queues = ["free", "drop", "drop_oldest", "durable", "commit"]
        assert [(row["queue"], row["threads"]) for row in rows] == [(queue, n) for queue in queues for n in (1, 2)]
        for row in rows:
            assert row["form"] == form
            assert row["frozen_delivered"] == 40  # before it was frozen
            assert (row["frozen_dropped"] > 0) == row["queue"].startswith("drop")
            assert row["frozen_pending"] >= 2 * 40
            for name in ("p50", "p99", "p99.9", "p99.9*", "max"):
                assert row["ratio"][name] > 0
                assert row["ns"][name].keys() == {"running", "frozen"}
                assert len(row["spread"][name]) == 3

    def test_table(self) -> None:
        """Without --json there is a line for each configuration."""
        lines = run("stall.py", *self.TINY, "--forms", "async", "--queues", "free").splitlines()
        assert [line.split()[:3] for line in lines[-2:]] == [["async", "free", "1"], ["async", "free", "2"]]


class TestSoak:
    @pytest.mark.parametrize(
        "options",
        [(), ("--threads", "3"), ("--durable",), ("--durable", "commit", "--threads", "2")],
        ids=["memory", "threads", "durable", "commit"],
    )
    def test_nothing_is_wrong(self, options: tuple[str, ...]) -> None:
        """Whatever the destination does, all events arrive but for the refused ones, and the accounts say so."""
        report = run_json("soak.py", "--events", "6000", "--refuse-every", "500", *options)
        assert report["wrong"] == {}
        assert report["accepted"] == 6_000
        assert report["dead_lettered"] == 12
        assert report["delivered"] == 6_000 - 12
        assert report["retries"] > 0
        assert report["law_checks"] > 0
        assert report["rss"]["end"] > 0
        assert {"p50", "p99", "p999", "max"} <= report["latency"].keys()
        if "--durable" in options:
            assert report["spool"]["files_left"] == []

    def test_finds_out_what_goes_wrong(self) -> None:
        """A destination that gets an event twice without a reason, out of order, or with other content, complains."""
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); import soak\n"
            "from mvx_logger import LogEvent, LogEventMeta\n"
            "def event(n, text=None):\n"
            "    payload = {'n': n, 'thread': 0, 'text': text or soak.TEXTS[n % 64]}\n"
            "    return LogEvent(20, LogEventMeta('tests', 'event'), None, 0.0, payload)\n"
            "checker = soak.Checker(1, 10_000)\n"
            "checker.take([event(0), event(1)], ['a', 'b'], is_answered=True)\n"
            "print(dict(checker.wrong))\n"
            "checker.take([event(1), event(2)], ['b', 'c'], is_answered=True)\n"
            "print(dict(checker.wrong)); checker.wrong.clear()\n"
            "checker.take([event(4), event(5)], ['d', 'e'], is_answered=True)\n"
            "print(dict(checker.wrong)); checker.wrong.clear()\n"
            "checker = soak.Checker(1, 10_000)\n"
            "checker.take([event(0, 'x')], ['a'], is_answered=True)\n"
            "print(dict(checker.wrong))\n"
        )
        command = [sys.executable, "-c", code, str(BENCHMARKS)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        assert done.stdout.splitlines() == [
            "{}",
            "{'an event came twice, although it was answered': 1}",
            "{'an event came out of order': 2}",
            "{'the content is wrong': 1}",
        ]
