"""What a durable sink keeps when its process is killed, hundreds of times."""

from __future__ import annotations

import pytest
import test_crash
from test_crash import receiver, seed, zygote  # noqa: F401

from crash_helpers import Killer

pytestmark = pytest.mark.slow


class TestKilled(test_crash.TestKilled):
    scale = 5

    def assess(self, killer: Killer, *, promised: int = 0, repeated: bool = False) -> None:
        """The kills have hit something, and what was on its way, too."""
        print(killer.kills, len(killer.promised), killer.receiver.repeated)
        assert sum(killer.kills.values()) >= 60
        assert len(killer.promised) > promised
        assert killer.receiver.repeated or not repeated, "no kill hit what was on its way"
