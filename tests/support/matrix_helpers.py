"""What the tests of the process around the logger share: programs of their own, whose destination is a file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import mvx_logger
from fork_server import STRICT, get_server

TIMEOUT = 60.0

PRELUDE = '''
import asyncio, atexit, faulthandler, gc, logging, multiprocessing, os, signal, sys, threading, time, weakref

import mvx_logger
from mvx_logger import AsyncioLogSink, AsyncioLogSinkQueueOverflowPolicy, LogEvent, LogEventMeta, LogSinkDescriptor
from waiting import wait_until

OUT = os.environ["EVENTS_GO_TO"]
logging.getLogger("asyncio").setLevel(logging.ERROR)  # in debug mode it warns of what takes long, and a fork may


class ToFile(AsyncioLogSink):
    """Appends "process name" lines; a name is an event's message or, where it has none, the event's name."""

    @classmethod
    def build_descriptor(cls, **options):
        return LogSinkDescriptor(cls.__name__, (OUT,))

    async def _on_starting(self):
        self.fd = os.open(OUT, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def _dispatch_batch(self, events):
        names = [event.message or event.meta.event_name for event in events]
        os.write(self.fd, "".join(f"{os.getpid()} {name}\\n" for name in names).encode())

    async def _on_stopped(self):
        os.close(self.fd)


class Slow(ToFile):
    async def _dispatch_batch(self, events):
        await asyncio.sleep(0.05)
        await super()._dispatch_batch(events)


class Frozen(AsyncioLogSink):
    async def _dispatch_batch(self, events):
        await asyncio.sleep(3600)


class Stuck(AsyncioLogSink):
    async def _dispatch_batch(self, events):
        time.sleep(3600)


def event(name):
    return LogEvent(20, LogEventMeta("tests", str(name)), None, time.time(), {})


def ways_in(sink):
    """What logs a name: natively, by logging, by structlog."""
    import structlog

    context = mvx_logger.configure_log_context("app", log_sink=sink)
    logger = logging.getLogger("app")
    logger.handlers[:] = [mvx_logger.SinkHandler(sink)]
    logger.setLevel(1)
    logger.propagate = False
    mvx_logger.configure_structlog()
    return context.log_info_event, logger.info, structlog.get_logger("app").info


def assert_true(sink):
    """The accounts are those of a sink that has delivered all that it accepted."""
    stats = sink.stats()
    assert stats.accepted == stats.delivered + sum(stats.dropped.values()) + stats.dead_lettered + stats.pending, stats
'''


class Program:
    """Runs programs that log, and reads what arrived. Each may use what ``PRELUDE`` defines."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.out = directory / "events.txt"
        self.running: list[subprocess.Popen[bytes]] = []
        (directory / "prelude.py").write_text(PRELUDE)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        package = str(Path(mvx_logger.__file__).parent.parent)
        path = os.pathsep.join([package, str(self.directory), str(Path(__file__).parent)])
        return {**os.environ, "EVENTS_GO_TO": str(self.out), "PYTHONPATH": path, **(more or {})}

    def write(self, code: str, name: str = "app.py") -> Path:
        script = self.directory / name
        script.write_text("from prelude import *\n" + textwrap.dedent(code))
        return script

    def run(self, code: str, *, strict: bool = True, fresh: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a script until it ends.

        Args:
            code: What it does, with what ``PRELUDE`` defines.
            strict: Run it in development mode, with warnings as errors.
            fresh: Start an interpreter for it, instead of a fork.
        """
        script = self.write(code)
        flags = STRICT if strict else ()
        if fresh:
            return self.execute([sys.executable, *flags, str(script)])
        return get_server(*flags).run(str(script), cwd=self.directory, env=self.environment(), timeout=TIMEOUT)

    def execute(
        self, command: list[str], *, stdin: str | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            input=stdin,
            env=self.environment(environment),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a server; what it and its children print is in ``output()``. ``end()`` makes sure that it is gone."""
        with (self.directory / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                command,
                env=self.environment(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def output(self) -> str:
        return (self.directory / "output.txt").read_text()

    def end(self) -> None:
        for process in self.running:
            # The group is its own: the server and what it has forked.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(TIMEOUT)

    def lines(self) -> list[tuple[int, str]]:
        if not self.out.exists():
            return []
        complete = self.out.read_text().rpartition("\n")[0]
        pairs = [line.split(" ", 1) for line in complete.splitlines()]
        return [(int(process), name) for process, name in pairs]

    def names(self) -> list[str]:
        return [name for _, name in self.lines()]

    def counts(self) -> Counter[str]:
        return Counter(self.names())
