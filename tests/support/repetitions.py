"""How often a rule is tried: fewer times by day than at night (``HYPOTHESIS_PROFILE=nightly``)."""

from __future__ import annotations

import os

IS_NIGHT = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"


def often(by_night: int) -> int:
    """How many examples of a property or a machine: all of them at night, a quarter by day."""
    return by_night if IS_NIGHT else max(by_night // 4, 10)
