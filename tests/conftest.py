"""What all tests share: each one finds the logger as a fresh process does, and leaves nothing behind."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import mvx_logger
from mvx_logger import selflog
from repetitions import IS_NIGHT

# Times say little on a shared machine. The profile for CI draws the same examples in every run.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=30)
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True)
settings.register_profile("nightly", settings.get_profile("dev"), max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))

# pytest-timeout raises an exception in the main thread, once for a test. One that hangs all the same (in a finalizer, which
# swallows the exception; or when what it has left behind is cleaned up) must not cost the whole run: after so many seconds,
# more than the timeout, the stacks of all threads are written to the standard error, and the process ends.
LONGEST = 3_600.0 if IS_NIGHT else 180.0
pytest_plugins = ["left_out", "leftovers", "needs"]
_stderr = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_stderr] = os.dup(2)  # while a test runs, its output is captured
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell does that to what it starts in the background, and all programs that the tests interrupt would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _watch(config: pytest.Config) -> None:
    faulthandler.dump_traceback_later(LONGEST, file=config.stash[_stderr], exit=True)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    _watch(item.config)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    _watch(item.config)  # a failure has ended both watches
    return (yield)


def pytest_unconfigure(config: pytest.Config) -> None:
    _watch(config)  # the end of the process
    # A forked child that hangs would keep the output open, and who waits for its end would wait for ever.
    for task in Path("/proc/self/task").glob("*/children"):
        for child in task.read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)


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
