"""Programs that start in a millisecond: forked from an interpreter that has imported already what they import.

A program ends as one of an interpreter of its own does: its exit functions, threads and finalization are the real ones. What
a program begins with differs, so a test of that starts an interpreter: modules are in `sys.modules` already,
variables of the environment that Python itself reads have no effect, and a forked process is one to `os.register_at_fork`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

FORK_IS_NO_NEWS = "ignore:This process:DeprecationWarning"
STRICT = ("-W", "error", "-W", FORK_IS_NO_NEWS, "-X", "dev")
"""Development mode, with warnings as errors."""

_PRELOADED = (
    "asyncio",
    "faulthandler",
    "logging.config",
    "multiprocessing.pool",
    "structlog",
    "mvx_logger",
    "mvx_logger.bridge.config",
    "mvx_logger.bridge.handlers",
    "mvx_logger.cli.activate",
    "mvx_logger.cli.commands",
    "mvx_logger.cli.main",
    "mvx_logger.cli.run",
    "mvx_logger.sinks.file",
    "mvx_logger.sinks.sqlite",
)
_NUMBER = struct.Struct("i")

# --- in the tests --------------------------------------------------------------------------------------------------


class ForkServer:
    """An interpreter that forks a process for each program. One runs at a time.

    Args:
        flags: Of the interpreter.
    """

    def __init__(self, *flags: str) -> None:
        ours, theirs = socket.socketpair()
        self._control = ours
        self._lock = threading.Lock()
        package = importlib.util.find_spec("mvx_logger")
        assert package is not None
        assert package.origin is not None
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *flags, __file__, str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": str(Path(package.origin).parents[1])},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def close(self) -> None:
        self._control.close()
        self._process.wait()

    def run(
        self,
        *command: str,
        cwd: str | os.PathLike[str],
        env: Mapping[str, str],
        input: str | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program until it ends and its output is closed, like `subprocess.run`.

        Args:
            *command: The arguments of Python: a script or ``-c`` or ``-m mvx_logger.cli``, and what belongs to it.
            cwd: Its working directory.
            env: Its environment.
            input: What it reads.
            timeout: Seconds after which it and what it has forked are killed.
        """
        job = json.dumps({"command": command, "cwd": os.fspath(cwd), "env": dict(env)})
        with self._lock, tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as stdin:
            file.write(job.encode())
            stdin.write((input or "").encode())
            file.seek(0)
            stdin.seek(0)
            outputs = [os.pipe(), os.pipe()]
            fds = [stdin.fileno(), outputs[0][1], outputs[1][1], file.fileno()]
            socket.send_fds(self._control, [b"j"], fds)
            for _, writing in outputs:
                os.close(writing)
            texts = ["", ""]

            def read(number: int) -> None:
                with open(outputs[number][0], encoding="utf-8") as pipe:
                    texts[number] = pipe.read()

            readers = [threading.Thread(target=read, args=(number,)) for number in range(2)]
            for reader in readers:
                reader.start()
            process, status = self._receive(timeout), None
            try:
                status = self._receive(timeout)
                for reader in readers:
                    reader.join(timeout)
                    if reader.is_alive():
                        raise TimeoutError("its output is not closed")
            except TimeoutError as error:
                raise AssertionError(f"{command}: {error}; not within {timeout:g} s") from None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process, signal.SIGKILL)
                for reader in readers:
                    reader.join(timeout)
                if status is None:
                    self._receive(timeout)
        return subprocess.CompletedProcess(command, os.waitstatus_to_exitcode(status), *texts)

    def _receive(self, timeout: float) -> int:
        self._control.settimeout(timeout)
        data = self._control.recv(_NUMBER.size)
        assert data, "the fork server is gone"
        number: int = _NUMBER.unpack(data)[0]
        return number


_servers: dict[tuple[str, ...], ForkServer] = {}


def get_server(*flags: str) -> ForkServer:
    """The server of these flags; it lives as long as the test session."""
    if flags not in _servers:
        _servers[flags] = ForkServer(*flags)
    return _servers[flags]


@pytest.fixture(scope="session")
def end_of_fork_servers() -> Iterator[None]:
    """They end with the test session."""
    yield
    while _servers:
        _servers.popitem()[1].close()


@pytest.fixture(scope="module", autouse=True)
def fork_servers(end_of_fork_servers: None) -> None:
    """Started before the first test of a module that uses them: no test leaves a child behind."""
    get_server()
    get_server(*STRICT)


# --- in the server -------------------------------------------------------------------------------------------------


class _Replaced(BaseException):
    """Instead of `os.execve` of Python by the command."""


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork for each job; the job in the child, None in the server at its end."""
    while True:
        fds = socket.recv_fds(control, 1, 4)[1]
        if not fds:
            return None
        process = os.fork()
        if not process:
            os.setpgid(0, 0)
            control.close()
            for number, fd in enumerate(fds[:3]):
                os.dup2(fd, number)
            with open(fds[3], "rb") as file:
                job: dict[str, Any] = json.load(file)
            for fd in fds[:3]:
                os.close(fd)
            return job
        with contextlib.suppress(OSError):  # it may have done so itself, and may even be over
            os.setpgid(process, process)
        for fd in fds:
            os.close(fd)
        control.sendall(_NUMBER.pack(process))
        control.sendall(_NUMBER.pack(os.waitpid(process, 0)[1]))


def _start(command: Sequence[str], env: Mapping[str, str]) -> types.CodeType | None:
    """What an interpreter does before it runs a program: variables, path, site; None for the ``mvx-logger`` command."""
    os.environ.clear()
    os.environ.update(env)
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("structlog", "sitecustomize")]:
        del sys.modules[name]  # whoever waits for their import shall see it
    sys.path[:] = [*filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *_BASE_PATH]
    sys.orig_argv = [sys.executable, *command]
    sys.argv = list(command)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
    if command[0] == "-c":
        sys.argv[:2] = ["-c"]
        sys.path.insert(0, "")
        return compile(command[1], "<string>", "exec")
    if tuple(command[:2]) == ("-m", "mvx_logger.cli"):
        sys.path.insert(0, os.getcwd())
        package = Path(str(importlib.import_module("mvx_logger.cli").__file__)).parent
        sys.argv[:2] = [str(package / "__main__.py")]
        return None
    script = command[0]
    sys.path.insert(0, os.path.dirname(os.path.realpath(script)))
    main.__file__ = script
    with io.open_code(os.path.abspath(script)) as file:
        return compile(file.read(), script, "exec")


def _run_command() -> tuple[Sequence[str], Mapping[str, str]]:
    """Run ``mvx-logger`` up to where it becomes a program: the arguments of Python, and the environment."""

    def replace(path: str, argv: list[str], env: Mapping[str, str]) -> None:
        raise _Replaced(argv[1:], env)

    execve = os.execve
    os.execve = replace  # type: ignore[assignment]
    try:
        importlib.import_module("mvx_logger.cli.main").main()
        raise SystemExit(0)
    except _Replaced as replaced:
        command, env = replaced.args
        return command, env
    finally:
        os.execve = execve


def _main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as control:
        for module in _PRELOADED:
            importlib.import_module(module)
        job = _serve(control)
    if job is None:
        return
    os.chdir(job["cwd"])
    code = _start(job["command"], job["env"])
    if code is None:
        code = _start(*_run_command())
        assert code is not None
    hook = None
    try:
        exec(code, sys.modules["__main__"].__dict__)
    except Exception as error:
        # As a traceback of the program alone: what called it is not the program's.
        hook = (type(error), error.with_traceback(error.__traceback__ and error.__traceback__.tb_next))
    if hook is not None:
        sys.excepthook(*hook, hook[1].__traceback__)
        raise SystemExit(1)


if __name__ == "__main__":
    _BASE_PATH = sys.path[2:]  # without this directory, and that of the package
    _main()
