"""What a durable sink keeps when its process is killed; `tests/nightly/test_more_kills.py` kills five times as often.

Set ``CRASH_SEED`` to the seed that a failure tells to draw the same again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from crash_helpers import Killer, Receiver, Victim, Zygote, draw_order

pytestmark = pytest.mark.slow

ROUNDS_TO_RECOVERY = 20
MODES = ("up", "up", "up", "down", "silent")


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def seed() -> int:
    seed = int(os.environ.get("CRASH_SEED") or random.SystemRandom().getrandbits(32))
    print(f"CRASH_SEED={seed}")
    return seed


def wait_for_moment(killer: Killer, victim: Victim) -> None:
    """The moment of the kill: at any instruction of what a process with a sink goes through."""
    moment = killer.random.choice(("start", "start", "recovery", "work", "work", "end"))
    if moment == "start":
        killer.sleep(0.01)
    elif moment == "recovery":
        victim.wait_for("started")
        killer.sleep(0.005)
    elif moment == "work":
        victim.wait_for("logged", "committed", "ready")
        killer.sleep(0.04)
    else:
        victim.wait_for("ready", "closing")
        killer.sleep(0.01)


def assert_all_is_there(killer: Killer) -> None:
    missing = killer.recover()
    assert not missing, f"{len(missing)} of {len(killer.promised)}: {sorted(missing)[:10]}"
    killer.receiver.check()
    assert os.listdir(killer.directory) == []


class TestKilled:
    scale = 1
    """What the number of kills is multiplied by."""

    def assess(self, killer: Killer, *, promised: int = 0, repeated: bool = False) -> None:
        """Nothing: a few kills need not hit anything."""

    def test_events_whose_log_call_had_returned_arrive(
        self, zygote: Zygote, receiver: Receiver, tmp_path: Path, seed: int
    ) -> None:
        """A process is killed again and again: while it starts, recovers, logs, closes, with the destination up or down."""
        killer = Killer(zygote, receiver, tmp_path / "spool", seed)
        for number in range(1, 40 * self.scale + 1):
            receiver.mode = killer.random.choice(MODES)
            victim = killer.fork(**draw_order(killer.random, threads=(1, 1, 4)))
            wait_for_moment(killer, victim)
            if not killer.random.randrange(4):
                receiver.mode = killer.random.choice(MODES)
                killer.sleep(0.01)
            killer.kill(victim)
            if not number % ROUNDS_TO_RECOVERY:
                assert_all_is_there(killer)
        self.assess(killer, promised=500, repeated=True)

    def test_two_processes_that_share_a_spool(
        self, zygote: Zygote, receiver: Receiver, tmp_path: Path, seed: int
    ) -> None:
        """What one leaves behind, the other one or their successors deliver, while they are being killed themselves."""
        killer = Killer(zygote, receiver, tmp_path / "spool", seed)
        for number in range(1, 20 * self.scale + 1):
            receiver.mode = killer.random.choice(MODES)
            victims = [killer.fork(**draw_order(killer.random)) for _ in range(2)]
            for victim in victims:
                wait_for_moment(killer, victim)
                killer.kill(victim)
            if not number % ROUNDS_TO_RECOVERY:
                assert_all_is_there(killer)
        self.assess(killer)

    def test_events_that_were_on_the_disk_arrive(
        self, zygote: Zygote, receiver: Receiver, tmp_path: Path, seed: int
    ) -> None:
        """Where log() does not wait for the disk, the statistics tell what a kill leaves alive."""
        killer = Killer(zygote, receiver, tmp_path / "spool", seed, durability="async")
        for number in range(1, 20 * self.scale + 1):
            receiver.mode = killer.random.choice(MODES)
            victim = killer.fork(**draw_order(killer.random))
            wait_for_moment(killer, victim)
            killer.kill(victim)
            if not number % ROUNDS_TO_RECOVERY:
                assert_all_is_there(killer)
        self.assess(killer, promised=100)


class TestHarness:
    """The tests above can fail."""

    @pytest.mark.parametrize("naive", [{"durable": False}, {"kind": "hasty"}])
    def test_naive_sinks_lose_events(
        self, zygote: Zygote, receiver: Receiver, tmp_path: Path, seed: int, naive: dict[str, bool | str]
    ) -> None:
        """One that keeps events in memory only, and one that forgets them when they are on their way."""
        killer = Killer(zygote, receiver, tmp_path / "spool", seed, **naive)
        receiver.mode = "down"
        # All has been logged; and the hasty one has got rid of all of it.
        end, told = ("flush", "flushed") if naive.get("kind") == "hasty" else ("wait", "ready")
        victim = killer.fork(count=100, end=end)
        victim.wait_for(told)
        killer.kill(victim)
        assert killer.recover()
