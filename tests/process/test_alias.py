"""`install_as`: the package under another name. Each test has an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import mvx_logger

Run = Callable[[str], None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a program in a fresh interpreter that finds modules in `tmp_path`."""
    paths = [str(tmp_path), str(Path(mvx_logger.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]

    def run(program: str) -> None:
        result = subprocess.run(
            [sys.executable, "-c", f"import sys, mvx_logger\n{textwrap.dedent(program)}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            cwd=tmp_path,
        )
        assert result.returncode == 0, result.stderr

    return run


class TestInstallAs:
    def test_the_other_name_is_the_package(self, run: Run) -> None:
        """Every way to import it gives the same module; packages above it are made."""
        run("""
            mvx_logger.install_as("mvx.common.logger")
            import mvx.common.logger
            from mvx.common import logger
            from mvx.common.logger import LogContext, configure_log_context, PatternLogEventPolicy
            import mvx.common.logger as alias
            assert mvx.common.logger is logger is alias is mvx_logger
            assert LogContext is mvx_logger.LogContext
            assert mvx.common.__doc__
        """)

    def test_submodules_exist_once(self, run: Run) -> None:
        """What is imported from below the other name is the package's own: there is one registry, one of each class."""
        run("""
            mvx_logger.install_as("mvx.common.logger")
            from mvx.common.logger.registry import configure_log_context
            from mvx.common.logger.sinks.stream import StreamLogSink
            import mvx.common.logger.bridge.records as records
            import mvx_logger.bridge.records, mvx_logger.registry
            assert records is mvx_logger.bridge.records
            assert records.__name__ == records.__spec__.name == "mvx_logger.bridge.records"
            assert StreamLogSink is mvx_logger.StreamLogSink
            assert configure_log_context is mvx_logger.configure_log_context
            assert mvx_logger.__spec__.name == "mvx_logger"
            import importlib
            try:
                importlib.import_module("mvx.common.logger.nothing")
            except ModuleNotFoundError as err:
                assert err.name == "mvx.common.logger.nothing"
            else:
                raise AssertionError
        """)

    def test_a_name_without_dots(self, run: Run) -> None:
        """Nothing is above it."""
        run("""
            mvx_logger.install_as("mvx_log")
            import mvx_log
            assert mvx_log is mvx_logger
        """)

    def test_twice(self, run: Run) -> None:
        """Idempotent; several names may stand side by side."""
        run("""
            for name in ("a.b", "a.b", "a.c"):
                mvx_logger.install_as(name)
            import a.b, a.c
            assert a.b is a.c is mvx_logger
            assert len([finder for finder in sys.meta_path if type(finder).__module__ == "mvx_logger.alias"]) == 2
        """)

    def test_a_real_package_is_not_hidden(self, run: Run, tmp_path: Path) -> None:
        """The error names it and says what to do; nothing is changed. It is not imported for that."""
        package = tmp_path / "mvx" / "common" / "logger"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise SystemExit('imported')")
        run("""
            before = dict(sys.modules), list(sys.meta_path)
            try:
                mvx_logger.install_as("mvx.common.logger")
            except mvx_logger.ModuleAliasError as err:
                assert "mvx.common.logger" in str(err) and "force=True" in str(err)
                assert err.details == {"name": "mvx.common.logger"}
                assert isinstance(err, ImportError)
            else:
                raise AssertionError
            assert "mvx.common.logger" not in sys.modules
            assert sys.meta_path == before[1]
        """)

    def test_a_module_that_is_loaded_is_not_hidden(self, run: Run) -> None:
        """Also one that no finder knows of."""
        run("""
            import types
            sys.modules["made"] = types.ModuleType("made")
            try:
                mvx_logger.install_as("made")
            except mvx_logger.ModuleAliasError:
                pass
            else:
                raise AssertionError
            assert sys.modules["made"] is not mvx_logger
        """)

    def test_force(self, run: Run, tmp_path: Path) -> None:
        """Who insists hides the real one; the packages above it stay real."""
        package = tmp_path / "mvx" / "common" / "logger"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("REAL = True")
        (tmp_path / "mvx" / "common" / "__init__.py").write_text("ABOVE = True")
        run("""
            import mvx.common.logger
            assert mvx.common.logger.REAL
            mvx_logger.install_as("mvx.common.logger", force=True)
            from mvx.common import logger, ABOVE
            assert logger is mvx.common.logger is mvx_logger
            assert ABOVE
        """)

    def test_real_packages_above_it(self, run: Run, tmp_path: Path) -> None:
        """They are imported, not replaced."""
        package = tmp_path / "mvx"
        package.mkdir()
        (package / "__init__.py").write_text("REAL = True")
        (package / "other.py").write_text("OTHER = True")
        run("""
            mvx_logger.install_as("mvx.common.logger")
            import mvx.other, mvx.common.logger
            assert mvx.REAL and mvx.other.OTHER
            assert mvx.common.logger is mvx_logger
        """)

    def test_a_module_above_it(self, run: Run) -> None:
        """A plain module is no package, but the name can be had all the same."""
        run("""
            mvx_logger.install_as("json.decoder.log")
            import json.decoder
            from json.decoder import log, JSONDecoder
            assert log is mvx_logger
        """)

    @pytest.mark.parametrize(
        "name", ["", ".", "a.", ".a", "a..b", "a-b", "1a", "a b", "mvx_logger", "mvx_logger.other"]
    )
    def test_names_that_cannot_be(self, name: str) -> None:
        """Malformed, or the package's own: `ValueError`."""
        with pytest.raises(ValueError, match="name"):
            mvx_logger.install_as(name)

    def test_a_name_that_is_no_str(self) -> None:
        """`TypeError`."""
        with pytest.raises(TypeError, match="name"):
            mvx_logger.install_as(5)  # type: ignore[arg-type]
