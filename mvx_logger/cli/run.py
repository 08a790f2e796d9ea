"""``mvx-logger run``: checks what is asked for, then becomes the program, with the routing injected."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlsplit

from ..bridge.config import find_sink_class, load_configuration, plan_configuration, plan_sink
from ..delivery.sink import AsyncioLogSink
from ..errors import LogConfigurationError
from ..options import parse_level
from .activate import BLOCK_TIMEOUT, ENVIRONMENT_VARIABLE

__all__ = [
    "DEFAULT_SINK",
    "INJECTED",
    "launch",
    "make_environment",
    "make_settings",
    "resolve_program",
    "split_arguments",
]

DEFAULT_SINK = "sqlite:///mvx-events.db"
"""Where events go when neither a sink nor a configuration is named."""

INJECTED = str(Path(__file__).with_name("_inject"))
"""The directory that holds only our ``sitecustomize``."""

_VALUE_OPTIONS = frozenset({"--config", "--sink", "--level"})
_TEMPORARY_PREFIX = "mvx-logger-run-"
_SECRET_PARAMETERS = ("password", "passwd", "secret", "token", "key", "auth", "credential", "pwd")
# A program that logs in a burst waits for the sink rather than losing events: whoever runs it so wants to see them all.
_PATIENT = {
    "queue_max_size": 100_000,
    "queue_overflow_policy": "block",
    "block_timeout": BLOCK_TIMEOUT,
    "shutdown_timeout": 10.0,
}


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide the command line where the program begins, as Python itself does: at ``-m``, ``-c``, ``-`` or the script.

    Returns:
        The options of ``run``; the arguments for Python.
    """
    rest = list(arguments)
    options: list[str] = []
    while rest:
        argument = rest[0]
        if argument == "--":
            return options, rest[1:]
        is_program = not argument.startswith("-") or argument == "-"
        if is_program or (argument[1:2] in ("m", "c") and not argument.startswith("--")):
            break
        options.append(rest.pop(0))
        if argument in _VALUE_OPTIONS and rest:
            options.append(rest.pop(0))
    return options, rest


def resolve_program(program: Sequence[str]) -> list[str]:
    """The arguments for Python; a console script of this environment may be named without its path.

    Raises:
        LogConfigurationError: There is no such file.
    """
    if not program:
        raise LogConfigurationError("no program to run: name a script, '-m MODULE', '-c CODE' or '-'")
    script, *rest = program
    if script.startswith("-") or os.path.exists(script):
        return [script, *rest]
    if os.path.basename(script) == script:
        found = shutil.which(script, path=sysconfig.get_path("scripts"))
        if found is not None and _is_python_script(found):
            return [found, *rest]
    raise LogConfigurationError(f"{script}: there is no such file")


def _is_python_script(path: str) -> bool:
    with open(path, "rb") as file:
        line = file.readline(1024)
        # pip writes the second form where the path of the interpreter is too long for a first line.
        return line.startswith(b"#!") and (
            b"python" in line or (b"/bin/sh" in line and b"python" in file.readline(1024))
        )


def make_settings(
    *,
    sinks: Sequence[str] = (),
    config: str | None = None,
    replace_handlers: bool = False,
    level: str | None = None,
    children: bool = True,
) -> dict[str, Any]:
    """Check what was asked for and put it into words for `mvx_logger.cli.activate.activate`.

    Args:
        sinks: URLs.
        config: The path of a configuration file.
        replace_handlers: Keep the program's own handlers from running.
        level: The lowest level to route, whatever the program's levels are.
        children: Cover the processes that the program starts.

    Raises:
        LogConfigurationError: Something is wrong; the text says what.
    """
    urls = list(sinks)
    if not urls and config is None:
        urls.append(DEFAULT_SINK)
    if replace_handlers and not any(urlsplit(url).scheme in ("stderr", "stdout", "console") for url in urls):
        urls.append("console:")
    if config is not None:
        plan_configuration(load_configuration(config))
        config = os.path.abspath(config)
    return {
        "sinks": [_check_sink(url) for url in urls],
        "config": config,
        "replace": replace_handlers,
        "level": None if level is None else parse_level(level, path="--level"),
        "children": children,
        "prefix": sys.prefix,
        "python": list(sys.version_info[:2]),
        "package": str(Path(__file__).parents[2]),
        "directory": os.getcwd(),
        "pythonpath": _without_injected(os.environ.get("PYTHONPATH")),
        "pid": os.getpid(),
        "secrets": None,
    }


def _check_sink(url: str) -> dict[str, Any]:
    """A sink's specification that means the same in every process: absolute paths, and patience."""
    path = "--sink"
    plan_sink(url, path=path)
    if ":" not in url:
        raise LogConfigurationError(f"{path}: {url!r} is no URL; it looks like 'sqlite:///events.db'")
    parts = urlsplit(url)
    sink_cls: Any = find_sink_class(parts.scheme, path=path)
    given = {key for key, _ in parse_qsl(parts.query, keep_blank_values=True)}
    spec: dict[str, Any] = {"url": url}
    if issubclass(sink_cls, AsyncioLogSink) and given.isdisjoint(_PATIENT):
        spec.update(_PATIENT)
    if "level" not in given and _takes(spec, "level", 0):
        # Some sinks start at INFO; here the levels of the program decide.
        spec["level"] = 0
    locate = getattr(sink_cls, "options_from_url", None)
    located: Mapping[str, Any] = {} if locate is None else locate(parts)
    descriptor = plan_sink(spec, path=path).descriptor
    for name, value in located.items():
        if isinstance(value, (str, os.PathLike)) and descriptor is not None:
            absolute = os.path.abspath(value)
            if absolute in descriptor.resource_key:
                spec[name] = absolute
    plan_sink(spec, path=path)
    return spec


def _takes(spec: Mapping[str, Any], name: str, value: Any) -> bool:
    try:
        plan_sink({**spec, name: value})
    except LogConfigurationError:
        return False
    return True


def _has_secret(spec: Mapping[str, Any]) -> bool:
    parts = urlsplit(spec["url"])
    return parts.password is not None or any(
        secret in key.lower() for key, _ in parse_qsl(parts.query) for secret in _SECRET_PARAMETERS
    )


def _without_injected(python_path: str | None) -> str | None:
    if python_path is None or INJECTED not in python_path:
        return python_path
    rest = [entry for entry in python_path.split(os.pathsep) if entry != INJECTED]
    return os.pathsep.join(rest) if rest else None


def make_environment(settings: dict[str, Any]) -> dict[str, str]:
    """The environment that makes Python inject the routing.

    Sinks that hold a secret go through a file that only the user can read, not through the environment: programs show
    theirs in error reports, debug pages and logs of CI. The program removes the file at its end.
    """
    _sweep()
    if any(_has_secret(spec) for spec in settings["sinks"]):
        directory = tempfile.mkdtemp(prefix=f"{_TEMPORARY_PREFIX}{os.getpid()}-")  # of mode 0700
        secrets = os.path.join(directory, "sinks.json")
        with open(os.open(secrets, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(settings["sinks"], file)
        settings = {**settings, "sinks": [], "secrets": secrets}
    environment = dict(os.environ)
    environment[ENVIRONMENT_VARIABLE] = json.dumps(settings)
    rest = settings["pythonpath"]
    environment["PYTHONPATH"] = f"{INJECTED}{os.pathsep}{rest}" if rest else INJECTED
    return environment


def _sweep() -> None:
    """Remove what runs have left behind that were killed."""
    if not hasattr(os, "getuid"):  # pragma: no cover - Windows
        return
    try:
        entries = list(os.scandir(tempfile.gettempdir()))
    except OSError:
        return
    for entry in entries:
        if not entry.name.startswith(_TEMPORARY_PREFIX):
            continue
        pid = entry.name.removeprefix(_TEMPORARY_PREFIX).partition("-")[0]
        try:
            if pid.isdigit() and entry.stat(follow_symlinks=False).st_uid == os.getuid() and not _is_alive(int(pid)):
                shutil.rmtree(entry.path, ignore_errors=True)
        except OSError:
            continue


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def launch(program: Sequence[str], settings: dict[str, Any]) -> NoReturn:
    """Become the program.

    Args:
        program: The arguments for Python.
        settings: What `make_settings` made.
    """
    command = [sys.executable, *program]
    environment = make_environment(settings)
    sys.stdout.flush()
    sys.stderr.flush()
    if sys.platform == "win32":  # pragma: no cover
        # There is no exec that keeps the process: the console would take its prompt back at once.
        code = subprocess.call(command, env=environment)  # noqa: S603 - it is what the user asked for
        secrets = json.loads(environment[ENVIRONMENT_VARIABLE])["secrets"]
        if secrets is not None:
            shutil.rmtree(os.path.dirname(secrets), ignore_errors=True)
        raise SystemExit(code)
    os.execve(sys.executable, command, environment)  # noqa: S606
