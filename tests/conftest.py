"""What all tests share: each one finds the logger as a fresh process does, and leaves nothing behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

import mvx_logger
from mvx_logger import selflog

# Times say little on a shared machine. The profile for CI draws the same examples in every run.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))


@pytest.fixture(autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    """Registry, self log and values bound by structlog are as they were at import, after every test."""
    yield
    try:
        mvx_logger.reset_logger()
    except mvx_logger.LogSinkCloseError:  # a sink that is made to fail; everything was reset all the same
        pass
    selflog.redirect(None)
    selflog.set_interval(10)
    selflog._told.clear()
    selflog._held_back.clear()
    contextvars = sys.modules.get("structlog.contextvars")
    if contextvars is not None:
        contextvars.clear_contextvars()


@pytest.fixture
def selflog_reports() -> Iterator[list[selflog.SelfLogReport]]:
    """All that the logger tells of its own trouble while the test runs; no rate limit, and nothing on stderr."""
    reports: list[selflog.SelfLogReport] = []
    selflog.redirect(reports.append)
    selflog.set_interval(0)
    yield reports
    selflog.redirect(None)
    selflog.set_interval(10)
