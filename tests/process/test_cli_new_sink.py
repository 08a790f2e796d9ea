"""``mvx-logger new-sink``: a package that works at once."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("click")

from click.testing import CliRunner, Result

import mvx_logger
from mvx_logger.cli.commands import cli
from mvx_logger.cli.new_sink import NewSinkError, make_names

ROOT = str(Path(mvx_logger.__file__).parents[1])


def check_tests(name: str, directory: Path) -> None:
    """Make a package, give it the metadata that pip would write, run its tests, and make its sink by a URL."""
    package = directory / "package"
    new_sink(name, "--directory", str(package))
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    (scheme,) = project["entry-points"]["mvx_logger.sinks"]
    metadata = package / f"{make_names(name)['package']}-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text(
        f"[mvx_logger.sinks]\n{scheme} = {project['entry-points']['mvx_logger.sinks'][scheme]}\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), ROOT]), "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=package, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
    code = f"import mvx_logger; print(mvx_logger.sink_from_url('{scheme}://:secret@localhost:1?shutdown_timeout=0'))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert make_names(name)["sink"] in done.stdout, done.stderr


def new_sink(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["new-sink", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_its_tests_pass_at_once(tmp_path: Path) -> None:
    """Installed, its tests run and its URL is known."""
    check_tests("acme-sink", tmp_path)


@pytest.mark.parametrize(
    ("name", "package", "sink", "scheme"),
    [
        ("acme-sink", "acme_sink", "AcmeSink", "acme"),
        ("acme", "acme", "AcmeSink", "acme"),
        ("sink", "sink", "SinkSink", "sink"),
        ("Shop.Events", "shop_events", "ShopEventsSink", "shop-events"),
        ("a__b", "a_b", "ABSink", "a-b"),
    ],
)
def test_names(name: str, package: str, sink: str, scheme: str) -> None:
    assert make_names(name) == {"name": name, "package": package, "sink": sink, "scheme": scheme}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "is no name"),
        ("-x", "is no name"),
        ("x-", "is no name"),
        ("../x", "is no name"),
        ("x" * 81, "is no name"),
        ("ünder", "is no name"),
        ("class", "a word of the language; try class-sink"),
        ("json", "there is a module 'json' already; try json-sink"),
        ("mvx.logger", "there is a module"),
    ],
)
def test_names_that_will_not_do(name: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(NewSinkError) as caught:
        make_names(name)
    assert text in str(caught.value)
    assert text in new_sink("--directory", str(tmp_path / "x"), "--", name, code=2).stderr
    assert not any(tmp_path.iterdir())


def test_a_directory_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    assert "not empty" in new_sink("acme", "--directory", str(tmp_path), code=2).stderr
    assert "not empty" in new_sink("acme", "--directory", str(tmp_path / "mine"), code=2).stderr
    assert "mine: " in new_sink("acme", "--directory", str(tmp_path / "mine" / "x"), code=2).stderr
    assert os.listdir(tmp_path) == ["mine"]
    (tmp_path / "empty").mkdir()
    new_sink("acme", "--directory", str(tmp_path / "empty"))
    assert (tmp_path / "empty" / "acme" / "py.typed").exists()
    assert sorted(os.listdir(tmp_path)) == ["empty", "mine"]
