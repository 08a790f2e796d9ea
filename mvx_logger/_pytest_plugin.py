"""The pytest plugin. It is loaded in every test run of whoever has the package installed, so it imports nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .testing import EventCapture

__all__ = ["captured_events"]


@pytest.fixture
def captured_events() -> Iterator[EventCapture]:
    """What the test logs, through any context: an `mvx_logger.testing.EventCapture`."""
    from .testing import capture_events

    with capture_events() as capture:
        yield capture
