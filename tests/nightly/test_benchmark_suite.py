"""All benchmarks still run, and report what they are for. No figure is looked at: those are for a quiet machine."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest

from benchmark_helpers import BENCHMARKS, check_soak, find_row_numbers, run, run_json, run_suite

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the whole suite writes when each row is measured once, and hardly."""
    directory = tmp_path_factory.mktemp("suite")
    options = ["--json", str(directory / "rows.json"), "--markdown", str(directory / "rows.md")]
    if find_spec("matplotlib"):
        options += ["--plot", str(directory / "rows.svg")]
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--smoke", *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == (directory / "rows.md").read_text("utf-8")
    return directory


@pytest.fixture(scope="module")
def report(files: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((files / "rows.json").read_text("utf-8"))
    return report


class TestSuite:
    def test_each_row_is_measured(self, report: dict[str, Any]) -> None:
        """Each row that a module promises is in the report, and has a figure that its goal is judged by."""
        numbers = find_row_numbers()
        assert numbers >= {1, 2, 3, 4, 5, 10, 11, 12}
        assert {row["number"] for row in report["rows"]} == numbers
        assert {row["number"] for row in report["rows"] if row["judged"] and row["goal"]} >= {1, 2, 3, 4, 5, 10, 11, 12}

    def test_figures_are_positive(self, report: dict[str, Any]) -> None:
        """A ratio without a number has its reason beside it; all other figures are positive and finite."""
        for row in report["rows"]:
            assert not row["error"], row
            if row["ratio"] is None:
                assert row["note"], row
                continue
            for figure in (row["ratio"], row["low"], row["high"], *row["absolute"].values()):
                assert 0 < figure < math.inf, row
            assert row["low"] <= row["ratio"] <= row["high"], row

    def test_says_what_it_ran_on(self, report: dict[str, Any], files: Path) -> None:
        """Whoever reads the table knows the Python, the processors, the day and the peers, also those that are missing."""
        table = (files / "rows.md").read_text("utf-8")
        assert report["python"].split()[0] == platform.python_version()
        assert f"Python {report['python']}, {report['cpus']} CPUs" in table
        assert report["date"] in table
        for name, version in report["versions"].items():
            assert (f"{name} {version}" in table) if version else (name in report["missing"]), name
        assert all(name in table for name in report["missing"])

    @pytest.mark.skipif(not find_spec("matplotlib"), reason="needs matplotlib")
    def test_plot(self, report: dict[str, Any], files: Path) -> None:
        """There is a bar for each row that a goal is judged by, and none for the others."""
        picture = (files / "rows.svg").read_text("utf-8")
        for row in report["rows"]:
            if row["judged"] and row["goal"] and row["ratio"]:
                assert escape(f"{row['number']}  {row['what']}") in picture

    def test_runs_side_by_side(self, report: dict[str, Any], files: Path) -> None:
        """Each row that a goal is judged by has a line, with a figure for each run."""
        name = str(files / "rows.json")
        lines = run("compare.py", name, name).splitlines()
        judged = [row for row in report["rows"] if row["judged"]]
        assert len(lines) == 2 + len(judged)
        for line, row in zip(lines[2:], judged, strict=True):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert cells[:3] == [str(row["number"]), row["what"], row["peer"]]
            assert cells[4] == cells[5]
            assert cells[4] == "-" or f"{row['ratio']:.2f}" in cells[4]

    def test_peer_that_is_not_installed_is_left_out(self, tmp_path: Path) -> None:
        """The rows that need it say so, the others are measured, and that is no failure."""
        file = tmp_path / "rows.json"
        done = run_suite("--smoke", "--only", "2", "--json", str(file), before="sys.modules['loguru'] = None")
        assert done.returncode == 0, done.stderr
        rows = {row["peer"]: row for row in json.loads(file.read_text("utf-8"))["rows"]}
        assert rows["loguru"]["ratio"] is None
        assert "loguru is not installed" in rows["loguru"]["note"]
        assert rows["NullHandler"]["ratio"] > 0

    def test_row_that_fails_does_not_end_the_run(self, tmp_path: Path) -> None:
        """The row says what went wrong, those beside it have figures, and the status tells of it."""
        file = tmp_path / "rows.json"
        break_peer = (
            "import peers\n"
            "class Broken:\n"
            "    def info(self, *args, **kwargs): raise RuntimeError('the peer is ill')\n"
            "    msg = debug = info\n"
            "peers.NullLogger = Broken"
        )
        done = run_suite("--smoke", "--only", "2,5", "--json", str(file), before=break_peer)
        assert done.returncode == 1
        rows = json.loads(file.read_text("utf-8"))["rows"]
        errors = [row for row in rows if row["error"]]
        assert [row["peer"] for row in errors] == ["structlog, nothing rendered"]
        assert "RuntimeError: the peer is ill" in errors[0]["error"]
        assert "the peer is ill" in done.stdout
        assert all(row["ratio"] > 0 for row in rows if not row["error"] and not row["note"].endswith("installed"))
        assert {row["number"] for row in rows} == {2, 5}


class TestSteps:
    def test_each_step_has_a_figure(self) -> None:
        """What docs/performance.md tells can be measured again."""
        report = run_json("steps.py", "--number", "20", "--repeat", "2")
        assert len(report["ns"]) == 4
        for steps in report["ns"].values():
            assert all(what and 0 <= cost < math.inf for what, cost in steps)


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
        check_soak(*options)
