"""A plugin of pytest: a test that leaves something behind in its process fails. `conftest.py` loads it.

Loggers are an exception. Configuring them is what many tests are about, so all of them are put back here, after each test.
"""

from __future__ import annotations

import _signal
import gc
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Generator
from typing import Any

import pytest

# kind -> name -> value
State = dict[str, dict[Any, Any]]

# How long a thread, a child or a connection may take to end after the test.
PATIENCE = 20.0
# What a fixture of a wider scope may end while a test is torn down.
_MAY_END = {"descriptor", "thread", "child"}
_MISSING = "(nothing)"
abandoned: set[threading.Thread] = set()
"""Threads that tests have left behind: those tests have failed, and no other one shall for the same reason."""
_before = pytest.StashKey[State]()
_AS_MADE = {"level": 0, "handlers": (), "filters": (), "disabled": False, "propagate": True}
# SIGALRM is pytest-timeout's.
_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGALRM})[:30]


def _descriptors() -> dict[int, str]:
    found = {}
    try:
        names = os.listdir("/proc/self/fd")
    except FileNotFoundError:  # not Linux
        return {}
    for name in names:
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one that listed the others
            pass
    return found


def _first_pids() -> dict[int, int]:
    """A server of a wider scope that the test has started again is the same child."""
    servers = sys.modules.get("servers")
    return {} if servers is None else servers.FIRST_PIDS


def _children() -> dict[int, str]:
    found = {}
    try:
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/children", "rb", buffering=0) as file:
                for child in file.read().split():
                    found[_first_pids().get(int(child), int(child))] = "running or not waited for"
    except (FileNotFoundError, ProcessLookupError):  # a thread has just ended
        pass
    return found


def _loggers() -> dict[str, Any]:
    """The loggers that are not as `getLogger` makes them. A library that is imported meanwhile may add a `NullHandler`."""
    found = {}
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        if type(logger) is logging.PlaceHolder:
            continue
        if logger.level or logger.handlers or logger.filters or logger.disabled or not logger.propagate:
            handlers = tuple(handler for handler in logger.handlers if type(handler) is not logging.NullHandler)
            state = (logger.level, handlers, tuple(logger.filters), logger.disabled, logger.propagate)
            if state != tuple(_AS_MADE.values()):
                found[logger.name] = dict(
                    zip(("level", "handlers", "filters", "disabled", "propagate"), state, strict=True)
                )
    return found


def _globals() -> dict[str, Any]:
    structlog = sys.modules.get("structlog")
    return {
        "logging.disable": logging.root.manager.disable,
        "logging.getLogRecordFactory": logging.getLogRecordFactory(),
        "logging.getLoggerClass": logging.getLoggerClass(),
        "logging.raiseExceptions": logging.raiseExceptions,
        "logging.lastResort": logging.lastResort,
        "sys.excepthook": sys.excepthook,
        "sys.unraisablehook": sys.unraisablehook,
        "sys.path": tuple(sys.path),
        "sys.stdin, stdout, stderr": (sys.stdin, sys.stdout, sys.stderr),
        "threading.excepthook": threading.excepthook,
        "warnings.showwarning": warnings.showwarning,
        "working directory": os.getcwd(),
        "structlog.is_configured": structlog is not None and structlog.is_configured(),
    }


def take() -> State:
    environment = os.environ._data.copy()  # type: ignore[attr-defined]  # encoded: decoding it all takes longer than all the rest
    environment.pop(b"PYTEST_CURRENT_TEST", None)
    return {
        "descriptor": _descriptors(),
        "thread": {thread: thread.name for thread in threading.enumerate()},
        "child": _children(),
        "signal handler": {number: _signal.getsignal(number) for number in _SIGNALS},
        "logger": _loggers(),
        "environment": environment,
        "global": _globals(),
    }


def changes(before: State, after: State) -> list[tuple[str, Any, Any, Any]]:
    """(kind, name, value before, value after) of what was added or changed."""
    found = []
    for kind, were in before.items():
        are = after[kind]
        if were == are:
            continue
        names = are if kind in _MAY_END else were | are
        for name in names:
            old, new = were.get(name, _MISSING), are.get(name, _MISSING)
            if old != new:
                found.append((kind, name, old, new))
    return found


def extend(before: State, found: list[tuple[str, Any, Any, Any]]) -> None:
    """These changes are legitimate: a fixture that lives longer than the test has made them."""
    for kind, name, _, new in found:
        before[kind][name] = new


def left_behind(before: State) -> list[str]:
    """What is still there when all that only takes a moment has ended."""
    end = time.monotonic() + PATIENCE
    wait = 0.001
    while found := changes(before, take()):
        if time.monotonic() > end:
            return [_tell(*change) for change in found]
        del found  # it may be what holds a descriptor
        gc.collect()
        time.sleep(wait)
        wait = min(2 * wait, 0.5)
    return []


def restore_loggers(before: State) -> None:
    """Configuring loggers is what many tests are about; every logger is put back here, in one place for all of them."""
    were = before["logger"]
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        if type(logger) is logging.PlaceHolder:
            continue
        state = were.get(logger.name, _AS_MADE)
        if logger.level != state["level"]:
            logger.setLevel(state["level"])  # it clears the caches of all loggers
        kept = [handler for handler in logger.handlers if type(handler) is logging.NullHandler]
        logger.handlers[:] = [*state["handlers"], *kept]
        logger.filters[:] = state["filters"]
        logger.disabled, logger.propagate = state["disabled"], state["propagate"]
    logging.setLoggerClass(before["global"]["logging.getLoggerClass"])  # structlog's factory sets one
    if logging.root.manager.disable != before["global"]["logging.disable"]:
        logging.disable(before["global"]["logging.disable"])


def _tell(kind: str, name: Any, old: Any, new: Any) -> str:
    if kind == "thread":
        return f"thread {name!r}, target {getattr(name, '_target', None)!r}"
    if kind in _MAY_END and old is _MISSING:
        return f"{kind} {name}: {new}"
    if isinstance(name, signal.Signals):
        name = name.name
    return f"{kind} {name}: {old!r} before, {new!r} after"


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside of what pytest itself does to loggers and output
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    item.stash[_before] = take()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """What a fixture of a wider scope starts may stay until the fixture ends."""
    item = request._pyfuncitem
    if fixturedef.scope == "function" or _before not in item.stash:
        return (yield)
    before = take()
    try:
        return (yield)
    finally:
        extend(item.stash[_before], changes(before, take()))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Look when all fixtures of the test have ended."""
    result = yield
    if _before in item.stash:
        restore_loggers(item.stash[_before])
        if found := left_behind(item.stash[_before]):
            abandoned.update(threading.enumerate())
            pytest.fail("the test leaves behind:\n" + "\n".join(found), pytrace=False)
    return result
