"""Scenarios of `tests/field`, more often and for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from field_helpers import observe
from field_scenarios import A_LOT, AN_HOUR, fork_under_load, log_while_the_server_is_down

pytestmark = pytest.mark.slow


def test_06_the_child_deadlocks_in_none_of_a_thousand_forks(tmp_path: Path) -> None:
    """Wherever the other threads happen to be."""
    seen = observe(fork_under_load, "ours.handler", tmp_path, forks=1000)
    assert seen.told == {"failed": 0}
    children = [message for message in seen.messages if message != "noise"]
    assert sorted(children) == sorted(f"child {number}" for number in range(1000))


def test_10_memory_grows_without_end_while_the_server_is_down_for_an_hour(tmp_path: Path) -> None:
    """It is bounded by count and by bytes, and each event is accounted for."""
    seen = observe(log_while_the_server_is_down, "ours.BoundedQueue", tmp_path, events=AN_HOUR)
    assert seen.told["memory"] < A_LOT
    assert 0 < seen.told["kept"] <= 10_000 + 1_000  # in the queue, and in the batch that is tried again and again
    assert seen.told["kept"] + seen.told["dropped"] == AN_HOUR
