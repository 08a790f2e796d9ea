"""``mvx-logger new-sink``: what takes long to prove of the package that it makes."""

from __future__ import annotations

from pathlib import Path

import pytest
from mypy import api
from test_cli_new_sink import ROOT, check_tests, new_sink

pytestmark = pytest.mark.slow


def test_its_tests_pass_at_once_whatever_it_is_called(tmp_path: Path) -> None:
    check_tests("Shop.Events", tmp_path)


def test_its_types_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_sink("acme-sink", "--directory", str(tmp_path / "acme"))
    if "site-packages" not in ROOT:  # mypy finds what is installed, but not by way of an import hook
        monkeypatch.setenv("MYPYPATH", ROOT)
    monkeypatch.setenv("MYPY_CONFIG_FILE_DIR", ROOT)  # mypy sets it, and leaves it
    package = str(tmp_path / "acme" / "acme_sink")
    out, err, status = api.run(["--strict", "--no-incremental", "--follow-imports=silent", package])
    assert status == 0, out + err
