"""The benchmarks measure what they say. No figure is looked at: those are for a quiet machine.

`tests/nightly/test_benchmark_suite.py` runs all of them.
"""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from statistics import median
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark_helpers import BENCHMARKS, check_soak, run_suite


class TestSuite:
    @pytest.mark.parametrize(
        ("only", "complaint"),
        [
            ("99", "there is no row 99"),
            ("1,two", "expected numbers of rows, such as 1,2,5; got '1,two'"),
            ("", "got ''"),
        ],
    )
    def test_wrong_row(self, only: str, complaint: str) -> None:
        """A row that does not exist is refused before anything is measured."""
        done = run_suite("--smoke", "--only", only)
        assert done.returncode == 2
        assert complaint in done.stderr
        assert not done.stdout


class TestContest:
    @pytest.fixture
    def harness(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("harness")
        del sys.modules["harness"]

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        noise=st.lists(st.floats(0.5, 50), min_size=1, max_size=12),
        ours=st.floats(100, 1e6),
        peer=st.floats(100, 1e6),
    )
    def test_noise_of_a_round_does_not_reach_the_ratio(
        self, harness: ModuleType, noise: list[float], ours: float, peer: float
    ) -> None:
        """However the machine's speed changes from round to round, the ratio is the same, and has no spread."""
        figures = {
            "ours": {"wall": [ours * factor for factor in noise]},
            "peer": {"wall": [peer * factor for factor in noise]},
        }
        row = harness.Results(figures, {}, {}).row(1, "a row", "ours", "peer", goal=2.0)
        assert [row.low, row.ratio, row.high] == pytest.approx([ours / peer] * 3)
        assert row.is_met is (row.ratio <= 2.0)
        assert row.absolute == {
            "ours": pytest.approx(ours * median(noise)),
            "peer": pytest.approx(peer * median(noise)),
        }

    def test_each_side_has_each_place_in_its_turn(self, harness: ModuleType) -> None:
        """No side always comes after the same one, whose garbage or heat it would inherit, or always first."""
        turns: list[str] = []

        def take_turn(name: str) -> dict[str, float]:
            turns.append(name)
            return {"wall": 1.0}

        with harness.Contest() as contest:
            for name in "abc":
                contest.add(name, partial(take_turn, name))
            contest.run(4)
        assert "".join(turns) == "abcbcacababc"

    def test_what_a_side_takes_more_than_another(self, harness: ModuleType) -> None:
        """With a base, what is compared is what each side adds to it in the same round."""
        with harness.Contest() as contest:
            contest.add("base", iter([{"wall": 100.0}, {"wall": 300.0}]).__next__)
            contest.add("ours", iter([{"wall": 150.0}, {"wall": 350.0}]).__next__)
            contest.add("peer", iter([{"wall": 200.0}, {"wall": 400.0}]).__next__)
            row = contest.run(2).row(4, "a row", "ours", "peer", base="base")
        assert row.ratio == 0.5

    def test_garbage_collector_is_left_as_it_is(self, harness: ModuleType) -> None:
        """A program that logs has a garbage collector: a measurement without one would flatter who makes much garbage."""
        seen: list[bool] = []
        harness.timed("look()", 3, look=lambda: seen.append(gc.isenabled()))()
        assert seen
        assert all(seen)


class TestSoak:
    def test_nothing_is_wrong(self) -> None:
        """With the queue in memory."""
        check_soak()

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
