"""What a test needs of the machine: programs of Debian, packages of PyPI.

The only place that decides whether a server is here, and what a skip says where it is not. With ``MVX_REQUIRE_SERVERS=1``
in the environment, what is missing fails the test instead of skipping it: a run that has to have everything cannot pass
without.

A plugin of pytest: ``conftest.py`` loads it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Sequence
from typing import Any

import pytest


def find_program(*names: str) -> str | None:
    """The path of the first of these programs that is here, also where only an administrator looks for programs."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"])
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def needs(is_here: object, what: str, *, debian: str | None = None, pip: str | None = None) -> pytest.MarkDecorator:
    """A mark for tests that need something.

    Args:
        is_here: True when it is here.
        what: Its name.
        debian: The packages of Debian that have it.
        pip: The packages of PyPI that have it.
    """
    return pytest.mark.needs(*([] if is_here else [_tell(what, debian, pip)]))


def needs_program(*names: str, debian: str | None = None, pip: str | None = None) -> pytest.MarkDecorator:
    """A mark for tests that need one of these programs."""
    return needs(find_program(*names), names[0], debian=debian, pip=pip)


def needs_package(name: str, pip: str | None = None) -> pytest.MarkDecorator:
    """A mark for tests that need a module, under the name of its package at PyPI where that differs."""
    return needs(_is_importable(name), name, pip=pip or name)


def import_needed(name: str, pip: str | None = None) -> Any:
    """The module; without it, all tests of the calling module are skipped, or fail."""
    if not _is_importable(name):
        give_up(_tell(name, None, pip or name), allow_module_level=True)
    return importlib.import_module(name)


def check(mark: pytest.MarkDecorator) -> None:
    """For fixtures: end the test when what the mark needs is missing."""
    for reason in mark.args:
        give_up(reason)


def give_up(reason: str, *, allow_module_level: bool = False) -> None:
    """End the test for want of something: skipped, or failed where everything is required."""
    if _is_required():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=allow_module_level)


def _is_importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of a parent
        return False


def _is_required() -> bool:
    return os.environ.get("MVX_REQUIRE_SERVERS", "") not in ("", "0")


def _tell(what: str, debian: str | None, pip: str | None) -> str:
    ways: Sequence[str] = [
        *([f"apt-get install {debian}"] if debian else []),
        *([f"pip install {pip}"] if pip else []),
    ]
    return f"{what} is missing: {' or '.join(ways)}"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "needs(reason): what the machine has not, and how to get it; see tests/support/needs.py"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    reasons = [mark.args[0] for mark in item.iter_markers("needs") if mark.args]
    if reasons:
        give_up("; ".join(reasons))
