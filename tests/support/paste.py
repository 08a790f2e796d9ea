"""Pastes blocks of the documentation into an application that has configured logging: each into a process of its own.

A script: ``paste.py DIRECTORY``. It reads jobs (a JSON list) from standard input and writes their results in that order.
The application is set up once, with everything imported that is slow to import. Each job is a fork of it, in a directory of
its own, without a network: names are not resolved, so whatever a sink would send stays in its queue.
"""

from __future__ import annotations

import builtins
import dis
import faulthandler
import gc
import importlib
import json
import logging
import logging.config
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import structlog

import mvx_logger
from mvx_logger.bridge.config import ENTRY_POINT_GROUP, load_configuration, plan_sink
from mvx_logger.cli.check import plan_file
from mvx_logger.cli.commands import cli

ROOT = Path(__file__).resolve().parents[2]
WAIT = 60.0
"""Seconds that a block may take: much more than it needs."""
CLIENTS = (
    "aiohttp",
    "aiormq",
    "asyncio",
    "asyncpg",
    "celery",
    "confluent_kafka",
    "google.protobuf",
    "mqtt5",
    "nats",
    "redis.asyncio",
)
CLIENTS += (
    "mvx_logger.sinks.sqlite",
    "mvx_logger.sinks.http",
    "mvx_logger.sinks.syslog",
    "mvx_logger.testing",
    "sqlite3",
)


class Records(logging.Handler):
    """Where the application has its records."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


class Application:
    """Has loggers with a handler, modules with loggers of their own, a handler on the root logger, and uses structlog."""

    def __init__(self) -> None:
        self.own, self.root = Records(), Records()
        self.logger = logging.getLogger("application")
        self.logger.addHandler(self.own)
        self.logger.setLevel(logging.INFO)
        self.module = logging.getLogger("application.module")
        self.library = logging.getLogger("library")
        logging.getLogger().addHandler(self.root)
        structlog.get_logger("application")
        self.lookups: list[str] = []
        sys.addaudithook(self._cut_off)

    def _cut_off(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "socket.getaddrinfo" and str(arguments[0]) != "127.0.0.1":
            self.lookups.append(str(arguments[0]))
            raise OSError("there is no network")

    def check(self) -> None:
        """Its loggers work, and its records go where it has sent them."""
        assert not self.lookups, f"connects while it configures: {self.lookups}"
        for logger in (self.logger, self.module, self.library):
            assert not logger.disabled, f"the logger {logger.name} is switched off"
        assert logging.root.manager.disable == 0
        accepted = _accepted()
        self.root.messages.clear()  # of what the block has logged itself
        self.module.info("still here")
        assert self.own.messages == ["still here"], f"the application's handler has {self.own.messages}"
        self.library.warning("and there")
        if self.root in logging.getLogger().handlers:
            assert self.root.messages == ["still here", "and there"], f"the root's handler has {self.root.messages}"
        else:  # the block has put another one in its place
            assert _accepted() == accepted + 2, "the handler that replaces the application's takes no records"


def _accepted() -> int:
    """How many events all sinks have accepted."""
    return sum(stats.accepted for stats in mvx_logger.stats().values())


# ---------------------------------------------------------------------- one kind of block each


def run_python(text: str, directory: Path) -> None:
    """Execute a module; where there are tests in it, let pytest run it."""
    path = directory / "test_pasted.py"
    path.write_text(text)
    code = compile(text, str(path), "exec")
    for name in ("logging.config", "logging.handlers"):
        assert f"{name}." not in text or f"import {name}" in text, f"{name} is not imported"
    if "def test_" in text or "SinkConformance" in text:
        options = [
            "-q",
            "-o",
            "asyncio_default_fixture_loop_scope=function",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:randomly",
        ]
        assert pytest.main([*options, str(path)]) == 0
        return
    module = type(sys)("pasted")
    sys.modules["pasted"] = module
    exec(code, module.__dict__)
    missing = {name for name in _global_names(code) if not hasattr(module, name) and not hasattr(builtins, name)}
    assert not missing, f"not defined: {sorted(missing)}"
    for value in vars(module).values():  # of a framework that carries it out itself
        if isinstance(value, dict) and "handlers" in value:
            logging.config.dictConfig(value)


def _global_names(code: CodeType) -> Iterator[str]:
    """What the functions of a module look for in it."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from (str(step.argval) for step in dis.get_instructions(constant) if step.opname == "LOAD_GLOBAL")
            yield from _global_names(constant)


def run_data(text: str, directory: Path, suffix: str) -> None:
    """Carry out a configuration: of ours, or of ``dictConfig``."""
    path = directory / f"logging.{suffix}"
    path.write_text(text)
    data = load_configuration(path)
    if "project" in data:
        [(name, target)] = data["project"]["entry-points"][ENTRY_POINT_GROUP].items()
        assert name.isidentifier(), name
        assert target.count(":") == 1, target
        return
    plan_file(str(path))
    if "handlers" in data:
        logging.config.dictConfig(dict(data))
    else:
        mvx_logger.configure(path)


def run_ini(text: str, directory: Path) -> None:
    path = directory / "logging.ini"
    path.write_text(text)
    logging.config.fileConfig(path, disable_existing_loggers=False)


def run_urls(text: str, _: Path) -> None:
    """Plan the sinks of URLs, one in each line."""
    errors = []
    for url in text.splitlines():
        try:
            plan_sink(url)
        except mvx_logger.LogConfigurationError as error:
            errors.append(f"{url}: {error}")
    assert not errors, "\n".join(errors)


def run_shell(text: str, directory: Path) -> None:
    """Run the commands that need nothing that is not there; see of the others whether there is such a thing."""
    for line in text.splitlines():
        for command in line.split("&&"):
            program, *arguments = shlex.split(command, comments=True)
            name = Path(program).name
            assert name in _PROGRAMS, f"{name}: no such program is known here"
            _PROGRAMS[name](arguments)


def _run_command(arguments: list[str]) -> None:
    _make_events()
    command = cli.commands[arguments[0]]
    context = command.make_context(arguments[0], arguments[1:])
    if arguments[0] == "run" or context.params.get("follow") or any("://" in argument for argument in arguments[1:]):
        return  # it parses: there is neither the program nor the server
    try:
        cli.main(arguments, prog_name="mvx-logger", standalone_mode=False)
    except SystemExit as end:
        if end.code:
            raise AssertionError(f"exit code {end.code}") from end


def _make_events() -> None:
    """An ``events.db``, a ``dead.jsonl`` and a ``logging.toml``."""
    if Path("events.db").exists():
        return

    class Refuses(mvx_logger.AsyncioLogSink):
        async def _dispatch_batch(self, events: Any) -> None:
            raise mvx_logger.LogDeliveryRefusedError("no")

    mvx_logger.selflog.redirect(lambda report: None)
    good = mvx_logger.sink_from_url("sqlite:///events.db")
    bad, close = Refuses.create(dead_letter="dead.jsonl")
    for sink in (good, bad):
        context = mvx_logger.configure_log_context("shop", log_sink=sink)
        context.log_warning_event("order.created", {"order_id": "order-42"})
    good.close()
    close()
    mvx_logger.reset_logger()
    Path("logging.toml").write_text(os.environ["LOGGING_TOML"])


def _check_pip(arguments: list[str]) -> None:
    for argument in arguments:
        name, _, extras = argument.rstrip("]").partition("[")
        if name == "mvx-logger" or (name == "." and not Path("pyproject.toml").exists()):
            setup = ConfigParser()
            setup.read(ROOT / "setup.cfg")
            there = set(setup["options.extras_require"])
        elif name == ".":
            there = set(load_configuration(Path("pyproject.toml"))["project"]["optional-dependencies"])
        else:
            continue
        wanted = set(filter(None, extras.split(",")))
        assert wanted <= there, f"no such extra: {wanted - there}"


def _check_paths(arguments: list[str]) -> None:
    for argument in arguments:
        if "/" in argument and not argument.startswith("-"):
            assert (ROOT / argument).exists(), f"{argument} is not there"


def _check_tox(arguments: list[str]) -> None:
    tox = ConfigParser()
    tox.read(ROOT / "tox.ini")
    for option, value in pairwise(arguments):
        assert option != "-e" or f"testenv:{value}" in tox, f"tox has no environment {value}"


_PROGRAMS: dict[str, Callable[[list[str]], object]] = {
    "cd": lambda arguments: os.chdir(arguments[0]),
    "mvx-logger": _run_command,
    "pip": _check_pip,
    "pytest": _check_paths,
    "python": _check_paths,
    "python3": _check_paths,
    "tox": _check_tox,
}


# ---------------------------------------------------------------------- forks


def run(job: dict[str, Any], directory: Path) -> None:
    """In a fork: one block. Raises what is wrong with it."""
    kind, text = job["kind"], job["text"]
    os.chdir(directory)
    if kind == "python":
        run_python(text, directory)
    elif kind in ("toml", "json", "yaml"):
        run_data(text, directory, kind)
    else:
        {"ini": run_ini, "url": run_urls, "sh": run_shell}[kind](text, directory)


def fork(job: dict[str, Any], application: Application, directory: Path) -> dict[str, str]:
    """Run one job; return what it printed, and what is wrong."""
    out, err, told = (directory / name for name in (".stdout", ".stderr", ".told"))
    child = os.fork()
    if not child:
        for path, descriptor in ((out, 1), (err, 2)):
            target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(target, descriptor)
            os.close(target)
        faulthandler.dump_traceback_later(WAIT, exit=True)  # into the standard error of this fork
        error = ""
        try:
            run(job, directory)
        except BaseException:
            error = traceback.format_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        result = {"stdout": out.read_text(), "stderr": err.read_text()}
        try:
            application.check()
        except AssertionError as wrong:
            error = error or str(wrong)
        told.write_text(json.dumps({"error": error, **result}))
        mvx_logger.set_shutdown_timeout(0.01)  # there is no network, and nothing to wait for
        raise SystemExit(0)
    _, status = os.waitpid(child, 0)
    result: dict[str, str] = {"error": "", "stdout": "", "stderr": ""}
    with suppress(OSError, ValueError):
        result = json.loads(told.read_text())
    if status and not result["error"]:
        result["error"] = f"exit status {status}: {err.read_text()}"
    return result


def main() -> None:
    """Run all jobs."""
    jobs = json.load(sys.stdin)
    for name in CLIENTS:
        with suppress(ImportError):
            importlib.import_module(name)
    application = Application()
    results = []
    gc.freeze()  # the forks need not look at what is there now
    for number, job in enumerate(jobs):
        directory = Path(sys.argv[1], str(number))
        directory.mkdir()
        results.append(fork(job, application, directory))
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
