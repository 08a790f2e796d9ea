"""The examples of the documentation do what the documentation says."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mvx_logger.bridge.config import plan_configuration

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
_BLOCK = re.compile(r"^```\{(testcode|testoutput)\}\n(?::hide:\n\n)?(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = "<<<{}>>>"


def examples_of(page: Path) -> list[tuple[str, str]]:
    """Each example's code and the output that the page shows for it."""
    found: list[tuple[str, str]] = []
    for kind, text in _BLOCK.findall(page.read_text("utf-8")):
        if kind == "testcode":
            found.append((text, ""))
        else:
            found[-1] = (found[-1][0], text)
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if examples_of(page)], ids=lambda page: page.stem)
def test_examples(page: Path, tmp_path: Path) -> None:
    """The examples of a page, run one after the other in a new process, print what the page shows."""
    examples = examples_of(page)
    script = tmp_path / "page.py"
    script.write_text(
        "import mvx_logger\n" + "".join(f"{code}\nprint({_MARK.format(i)!r})\n" for i, (code, _) in enumerate(examples))
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout == "".join(f"{shown}{_MARK.format(i)}\n" for i, (_, shown) in enumerate(examples))


def test_the_configuration_in_the_readme_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The TOML file that the README shows can be carried out."""
    monkeypatch.chdir(tmp_path)
    [toml] = re.findall(r"^```toml\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    plan = plan_configuration(tomllib.loads(toml))
    assert list(plan.sinks) == ["events"]
    assert [context.namespace for context in plan.contexts] == ["", "shop.orders"]
    assert plan.logging is not None


def test_the_tests_that_the_guarantees_name_are_there() -> None:
    """Every file, class and test on the page exists."""
    page = (ROOT / "docs" / "guarantees.md").read_text("utf-8")
    names = re.findall(r"`((?:test_\w+\.py)(?:::[\w…]+)*)`", page)
    assert len(names) > 30
    for name in names:
        file, *parts = name.split("::")
        [path] = (ROOT / "tests").rglob(file)
        text = path.read_text("utf-8")
        for part in parts:
            assert re.search(rf"(?:def|class) {part.removesuffix('…')}", text), name
    for script in re.findall(r"`(benchmarks/\w+\.py)`", page):
        assert (ROOT / script).is_file(), script
