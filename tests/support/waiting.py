"""Waiting for a condition: the only way in which a test waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

WAIT = 60.0
"""Seconds within which everything that is waited for happens, also on a machine that is busy."""


def wait_until(
    condition: Callable[[], Any], what: str = "the condition is true", timeout: float = WAIT, pause: float = 0.005
) -> Any:
    """Return the first true value of a condition; an exception counts as not yet.

    Args:
        condition: Called again and again.
        what: What is waited for, for the error.
        timeout: Seconds after which it is an error.
        pause: Seconds between two calls.

    Raises:
        AssertionError: The condition did not become true in time.
    """
    deadline = time.monotonic() + timeout
    error: BaseException | None = None
    while True:
        try:
            value = condition()
            error = None
        except Exception as err:
            value, error = None, err
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout:g} s; the last was {value!r}") from error
        time.sleep(pause)
