"""How the tests with `field_scenarios` make their observations.

Each scenario runs in a process of its own. With ours it has to come to its end. With a naive implementation a watcher looks
on, and tells a deadlock as soon as there is one. It does not go by the clock but by who waits for whom without a deadline:
for a lock that the other one holds, for the end of the other one, for the queue that the other one empties. To see who holds
a lock, the process has the re-entrant lock of `threading` that is written in Python.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import itertools
import json
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

from fork_server import get_server
from waiting import wait_until

__all__ = [
    "NOT_THERE",
    "PATIENCE",
    "Bell",
    "Client",
    "ClientHandler",
    "Mutex",
    "Observed",
    "Server",
    "SocketClient",
    "World",
    "directory_size",
    "find_waits",
    "line_of",
    "observe",
    "observe_all",
    "peak_memory",
    "serve",
    "start_server",
    "wait",
    "wait_until",
]

PATIENCE = 100.0
"""Seconds that a child may take, and that anything in it waits: much more than it needs on a busy machine."""
NOT_THERE = "a thread that is not there"
_DEADLOCK = 86
"""The exit code of a process in which the watcher has seen one."""


def wait(event: threading.Event) -> None:
    """Wait for what is bound to happen."""
    assert event.wait(PATIENCE), "it did not happen"


# --- in the test ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Observed:
    """What became of a scenario.

    Attributes:
        told: What the scenario told.
        delivered: What arrived at the destination, in order; with what arrived there in earlier scenarios.
        errors: What the process wrote to its standard error.
        code: Its exit code.
        deadlock: Threads by name, and for which one each waits, as the watcher has seen it.
    """

    told: dict[str, Any]
    delivered: list[dict[str, Any]]
    errors: str
    code: int
    deadlock: dict[str, str]

    @property
    def messages(self) -> list[str]:
        """The messages that arrived."""
        return [event["message"] for event in self.delivered]


def observe(scenario: Callable[..., None], implementation: str, directory: Path, **options: Any) -> Observed:
    """Run a scenario in a process of its own.

    Args:
        scenario: A function of a module; it is given a `World` and the options.
        implementation: What goes through it, as ``module.name``.
        directory: Where the process may write.
        **options: Anything that JSON can hold.
    """
    package = importlib.util.find_spec("mvx_logger")
    assert package is not None
    assert package.origin is not None
    path = [str(Path(__file__).parent), str(Path(package.origin).parent.parent)]
    names = [scenario.__module__, scenario.__qualname__, implementation, str(directory), json.dumps(options)]
    told = directory / "told"
    told.unlink(missing_ok=True)
    command = ["-c", "import field_helpers; field_helpers.main()", *names]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    if implementation.startswith("naive."):
        # It needs other locks, before anything is imported.
        done = subprocess.run(
            [sys.executable, *command],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    else:
        done = get_server().run(*command, cwd=Path.cwd(), env=env, timeout=PATIENCE)
    facts: dict[str, Any] = {}
    for line in _read(told):
        facts.update(line)
    return Observed(facts, _read(directory / "delivered"), done.stderr, done.returncode, facts.pop("deadlock", {}))


def observe_all(
    scenario: Callable[..., None], implementation: str, directory: Path, name: str, values: Sequence[str]
) -> list[Observed]:
    """Run a scenario once for each value of an option, each in a directory of its own."""

    seen = []
    for value in values:
        (own := directory / value).mkdir()
        seen.append(observe(scenario, implementation, own, **{name: value}))
    return seen


class Server:
    """A TCP server in the process of the test: keeps the lines that it is sent."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._texts: list[str] = []
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # The last connection: those before it, which have ended, were served by then.
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self._socket.close()

    @property
    def lines(self) -> list[str]:
        """What has arrived when the server is over."""
        return "".join(self._texts).splitlines()

    def _serve(self) -> None:
        while True:
            connection = self._socket.accept()[0]
            with connection, connection.makefile() as file:
                if not (text := file.read()):
                    return
            self._texts.append(text)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# --- in the scenario -----------------------------------------------------------------------------------------------


class Client:
    """The destination, and the client library on the way to it: as any HTTP client does, it logs while it works.

    Attributes:
        before_send: Called before each request: where scenarios hold it up.
        sent: How many events were sent.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._connections = itertools.count()
        self.before_send: Callable[[], object] = lambda: None
        self.sent = 0

    def send(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Send a batch of events, each with a ``message``."""
        self.before_send()
        # By a fresh name: whether that logger is enabled is in no cache yet, so logging's module lock is needed.
        logging.getLogger(f"http.connection{next(self._connections)}").debug("POST /bulk")
        lines = [json.dumps({"process": os.getpid(), **event}, default=str) + "\n" for event in events]
        os.write(self._fd, "".join(lines).encode())
        self.sent += len(lines)


class SocketClient:
    """Sends events as lines to a server, which answers each line with another one as soon as it has stored it.

    Args:
        port: Of the server.
        confirm: Wait for the answers.
    """

    def __init__(self, port: int, *, confirm: bool) -> None:
        self._port = port
        self._confirm = confirm
        self._connection: socket.socket | None = None

    def send(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Send a batch of events.

        Raises:
            OSError: There is no server, or it went away.
        """
        if self._connection is None:
            self._connection = socket.create_connection(("127.0.0.1", self._port))
        try:
            lines = [json.dumps(event, default=str) + "\n" for event in events]
            self._connection.sendall("".join(lines).encode())
            missing = len(lines) if self._confirm else 0
            while missing:
                answer = self._connection.recv(4096)
                if not answer:
                    raise ConnectionResetError("the server went away")
                missing -= answer.count(b"\n")
        except OSError:
            self._connection.close()
            self._connection = None
            raise


def start_server(directory: Path, *, port: int = 0, ready: bool) -> tuple[subprocess.Popen[str], int]:
    """Start a server for `SocketClient` in a process of its own.

    Args:
        directory: Of the scenario: what the server stores counts as delivered.
        port: 0 for any.
        ready: False takes what comes, and neither stores it nor answers; it prints a line when something has come.

    Returns:
        The process, and the port.
    """
    code = "import field_helpers; field_helpers.serve()"
    server = subprocess.Popen(
        [sys.executable, "-c", code, str(directory), str(port), "ready" if ready else "not ready"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    return server, int(server.stdout.readline())


def serve() -> None:
    """What `start_server` starts."""
    directory, port, ready = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "ready"
    with socket.create_server(("127.0.0.1", port)) as listening, (directory / "delivered").open("a") as stored:
        print(listening.getsockname()[1], flush=True)
        while True:
            connection = listening.accept()[0]
            with connection, connection.makefile() as lines:
                for line in lines:
                    if ready:
                        stored.write(line)
                        stored.flush()
                        connection.sendall(b"stored\n")
                    else:
                        print("taken", flush=True)


def directory_size(directory: Path) -> int:
    """What the files take on disk, in bytes."""
    size = 0
    for entry in directory.rglob("*"):
        with suppress(FileNotFoundError):
            size += entry.stat().st_size
    return size


def peak_memory() -> int:
    """The most that the process has ever had, in bytes."""
    import resource

    with suppress(FileNotFoundError):
        # ru_maxrss starts with what the parent had when it started this process: Linux keeps it through an exec.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class World:
    """What a scenario has to do with.

    Attributes:
        make: The implementation. Most take the `client` and make a `logging.Handler`.
        module: The module that it is in.
        client: The destination.
        directory: Where it may write.
    """

    def __init__(self, module: Any, name: str, directory: Path) -> None:
        self.module = module
        self.make: Callable[..., Any] = getattr(module, name)
        self.client = Client(directory / "delivered")
        self.directory = directory

    def tell(self, **facts: Any) -> None:
        """What cannot be seen at the destination."""
        with (self.directory / "told").open("a") as file:
            file.write(json.dumps(facts) + "\n")

    def config(self, **options: Any) -> dict[str, Any]:
        """A configuration for `logging.config.dictConfig`, with the handler on the root logger.

        Args:
            **options: Of the handler, in addition to the client.
        """
        return {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"handler": {"()": self.make, "client": self.client, **options}},
            "root": {"level": "INFO", "handlers": ["handler"]},
        }


class Bell(logging.Handler):
    """Rings while `dictConfig` closes the handlers of before, and so holds logging's module lock.

    It closes the latest one first: the one that matters has to be made before this one.
    """

    def __init__(self, ring: Callable[[], object]) -> None:
        super().__init__()
        self._ring = ring

    def flush(self) -> None:
        self._ring()

    def emit(self, record: logging.LogRecord) -> None:
        pass


class ClientHandler(logging.Handler):
    """Sends each record at once."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client

    def emit(self, record: logging.LogRecord) -> None:
        self._client.send([line_of(record)])


def line_of(record: logging.LogRecord) -> dict[str, Any]:
    """What is sent of a record that has come to where it is sent."""
    line: dict[str, Any] = {"message": record.getMessage()}
    if record.args:
        line["args"] = record.args
    if record.exc_info and record.exc_info[0]:
        line["exception"] = record.exc_info[0].__name__
    if record.stack_info:
        line["stack"] = True
    return line


class Mutex:
    """A lock that is not re-entrant, like that of `threading`; the watcher sees who holds it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.owner: int | None = None

    def __enter__(self) -> None:
        self._wait()
        self.owner = threading.get_ident()

    def _wait(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.owner = None
        self._lock.release()


def main() -> None:
    """Run what `observe` was asked for."""
    module, name, implementation, directory, options = sys.argv[1:]
    faulthandler.dump_traceback_later(PATIENCE - 5)
    home, _, maker = implementation.rpartition(".")
    if home == "naive":
        threading._CRLock = None  # type: ignore[attr-defined]
        logging._lock = threading.RLock()  # type: ignore[attr-defined]
    world = World(importlib.import_module(home), maker, Path(directory))
    scenario = getattr(importlib.import_module(module), name)
    if home == "naive":
        _watch(world)
        os.register_at_fork(after_in_child=lambda: _watch(world))
    scenario(world, **json.loads(options))


# --- the watcher ---------------------------------------------------------------------------------------------------

_LOOK_AGAIN = 0.01
"""Seconds between two looks."""


class _Wait(NamedTuple):
    """One thread waits for another one."""

    other: int
    holds: bool  # what it waits for is held by the other one, even if that is not there any more
    frame: FrameType
    instruction: int


def _find_owner(variables: Mapping[str, Any]) -> Any:
    forever = variables["blocking"] and variables["timeout"] == -1
    owner = variables["self"]._owner
    return owner if forever and owner != variables.get("me") else None  # one that has it already does not wait


_LOCKS: dict[CodeType, Callable[[Mapping[str, Any]], Any]] = {
    threading._PyRLock.acquire.__code__: _find_owner,  # type: ignore[attr-defined]
    Mutex._wait.__code__: lambda variables: variables["self"].owner,
}
_OTHERS: dict[CodeType, Callable[[Mapping[str, Any]], Any]] = {
    threading.Thread.join.__code__: lambda variables: None if variables["timeout"] else variables["self"].ident,
    queue.Queue.join.__code__: lambda variables: variables["self"].consumer.ident,
}
"""Functions that wait without a deadline: for which thread, by the variables of the function."""


def _look() -> dict[int, _Wait]:
    """The threads that wait for another one."""
    waits: dict[int, _Wait] = {}
    everything = {**_LOCKS, **_OTHERS}
    for ident, top in sys._current_frames().items():
        frame: FrameType | None = top
        while frame is not None and frame.f_code not in everything and frame.f_globals.get("__name__") == "threading":
            frame = frame.f_back
        if frame is None or frame.f_code not in everything:
            continue
        other = everything[frame.f_code](frame.f_locals)
        if other is not None:
            waits[ident] = _Wait(other, frame.f_code in _LOCKS, top, top.f_lasti)
    return waits


def find_waits() -> dict[str, str]:
    """The threads that wait for another one without a deadline, by name: for which."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {names[ident]: names.get(entry.other, NOT_THERE) for ident, entry in _look().items() if ident in names}


def _find_deadlock(waits: Mapping[int, _Wait]) -> dict[int, _Wait]:
    """Threads that wait for one another in a circle, or for one that is not there."""
    # The number of a thread that is not there any more may be that of this one now.
    there = sys._current_frames().keys() - {threading.get_ident()}
    for first in waits:
        chain: list[int] = []
        ident = first
        while ident in waits and ident not in chain:
            chain.append(ident)
            ident = waits[ident].other
        if ident in chain:
            return {member: waits[member] for member in chain[chain.index(ident) :]}
        if ident not in there and waits[chain[-1]].holds:
            return {member: waits[member] for member in chain}
    return {}


def _watch(world: World) -> None:
    def look_on() -> None:
        before: dict[int, _Wait] = {}
        while True:
            found = _find_deadlock(_look())
            if found and found == before:
                threads: dict[int, threading.Thread] = threading._active  # type: ignore[attr-defined]
                names = {ident: thread.name for ident, thread in threads.items() if thread.name != "watcher"}
                world.tell(deadlock={names[ident]: names.get(entry.other, NOT_THERE) for ident, entry in found.items()})
                os._exit(_DEADLOCK)
            before = found
            time.sleep(_LOOK_AGAIN)

    threading.Thread(target=look_on, name="watcher", daemon=True).start()
