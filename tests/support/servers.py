"""Real servers for the tests: each on a free port of its own, to be killed, frozen and restarted.

`Server` runs a process. A subclass says how it is started and when it is ready; its files and its port stay the same
when it is started again. `Proxy` stands between a sink and a server, and drops connections. `make_certificates` makes
the certificates of a private authority: the right one, and those that a client has to refuse.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from waiting import WAIT as WAIT
from waiting import wait_until as wait_until


def find_free_port(host: str = "127.0.0.1", highest: int = 29_999) -> int:
    """A port below the range from which the kernel takes those of clients: nobody gets it while its server is down."""
    for _ in range(1_000):
        port = int.from_bytes(os.urandom(2)) % (highest - 19_999) + 20_000
        with contextlib.closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise AssertionError("there is no free port")


def is_open(port: int, host: str = "127.0.0.1") -> bool:
    """True when somebody takes connections there."""
    with contextlib.closing(socket.socket()) as probe:
        probe.settimeout(5)
        return probe.connect_ex((host, port)) == 0


FIRST_PIDS: dict[int, int] = {}
"""By the process of a server that was started again: the first one."""


class Server:
    """A server in a process of its own. It ends with the test process at the latest.

    Args:
        directory: Where its files are; made where it is missing.

    Attributes:
        host, port: Where it listens.
        log: What it printed.
    """

    host = "127.0.0.1"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.port = find_free_port()
        self.log = directory / "output.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._first_pid: int | None = None

    # What a subclass says.

    def prepare(self) -> None:
        """Write the files that it needs. Runs before each start."""

    def command(self) -> Sequence[str]:
        """The program and its arguments. It has to stay in the foreground."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Variables to add."""
        return {}

    def user(self) -> str | None:
        """Who runs it where the tests are run by root; None for root."""
        return None

    def is_ready(self) -> bool:
        """True when it serves; what it raises counts as not yet."""
        return is_open(self.port, self.host)

    # What a test does.

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it serves."""
        assert not self.is_running
        self.prepare()
        # The user changes in there: this interpreter may stand where nobody but root can start it.
        user = self.user() if os.geteuid() == 0 else None
        command = [sys.executable, __file__, str(os.getpid()), user or "", *self.command()]
        with open(self.log, "ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.environment()},
                cwd=self.directory,
                start_new_session=True,
            )
        # A test may restart a server that lives longer than the test: it leaves the same child behind.
        self._first_pid = self._first_pid or self._process.pid
        FIRST_PIDS[self._process.pid] = self._first_pid
        try:
            wait_until(self._has_started, f"{type(self).__name__} serves")
        except AssertionError as err:
            self.kill()
            raise AssertionError(f"{err}\n{self.log.read_text(errors='replace')[-4000:]}") from err

    def _has_started(self) -> bool:
        if not self.is_running:
            raise SystemExit(f"{type(self).__name__} has ended:\n{self.log.read_text(errors='replace')[-4000:]}")
        return self.is_ready()

    def stop(self) -> None:
        """End it in its own good time."""
        if self._process is not None:
            self.thaw()
            self._signal(signal.SIGTERM)
            try:
                self._process.wait(WAIT)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """End it, and all that it has started, at once."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(WAIT)
            self._process = None

    def freeze(self) -> None:
        """Stop all of it: connections stay open, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Kill it and start it again, on the same port and the same files."""
        self.kill()
        self.start()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Proxy:
    """Stands on a port of its own before a server, and passes on what is said, until it is told to drop it.

    Args:
        port: The server's port.
        host: The server's host.
    """

    host = "127.0.0.1"

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._target = host, port
        self.connections = 0
        self.is_refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, self.host, 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def drop(self) -> int:
        """Reset all connections; how many there were."""
        return self._run(self._drop())

    def interrupt(self) -> None:
        """Wait until a client is connected, and reset all connections."""
        wait_until(self.drop, "a client is connected")

    def refuse(self, refusing: bool = True) -> None:
        """Reset each new connection at once, from now on; or no more."""
        self.is_refusing = refusing

    def close(self) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT)
        self._loop.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        if self.is_refusing:
            self._reset(writer)
            return
        try:
            other_reader, other_writer = await asyncio.open_connection(*self._target)
        except OSError:
            self._reset(writer)
            return
        if writer not in self._writers:  # dropped meanwhile
            self._reset(other_writer)
            return
        self._writers.add(other_writer)
        # What `close` cancels is no error of the server's callback.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(self._pass_on(reader, other_writer), self._pass_on(other_reader, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()
        self._writers.discard(writer)

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        raw = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        self._writers.discard(writer)

    async def _drop(self) -> int:
        dropped = list(self._writers)
        for writer in dropped:
            self._reset(writer)
        return (len(dropped) + 1) // 2

    async def _close(self) -> None:
        self._server.close()
        await self._drop()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Certificates(NamedTuple):
    """Paths of files in PEM format; each certificate's file is followed by the one of its key.

    The right ones are for localhost, 127.0.0.1 and ::1.
    """

    ca: str
    right: tuple[str, str]
    wrong_name: tuple[str, str]
    expired: tuple[str, str]
    self_signed: tuple[str, str]
    client: tuple[str, str]


def make_certificates(directory: Path) -> Certificates:
    """Make a private authority and what it has signed; ``self_signed`` is by an authority that nobody trusts."""
    import trustme

    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")

    def write(name: str, certificate: Any) -> tuple[str, str]:
        chain, key = directory / f"{name}.pem", directory / f"{name}.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        certificate.private_key_pem.write_to_path(key)
        key.chmod(0o644)  # servers that give up root read it; it protects nothing
        return str(chain), str(key)

    names = "localhost", "127.0.0.1", "::1"
    return Certificates(
        str(directory / "ca.pem"),
        write("right", authority.issue_cert(*names)),
        write("wrong-name", authority.issue_cert("elsewhere.test")),
        write("expired", authority.issue_cert(*names, not_after=datetime(2020, 1, 1, tzinfo=UTC))),
        write("self-signed", trustme.CA().issue_cert(*names)),
        write("client", authority.issue_cert("client@shop.test")),
    )


def _run_under(parent: int, user: str, command: list[str]) -> None:
    """Become a command of a user ("" for the present one) that the kernel kills when the test process ends."""
    import ctypes

    if user:
        import pwd

        entry = pwd.getpwnam(user)
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    _run_under(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
