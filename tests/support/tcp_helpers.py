"""A TCP server for ``examples/custom_tcp_sink.py`` that keeps what it is sent, and misbehaves as it is told.

In threads of the test (`TcpServer`), where each connection is told what to do; or in a process of its own
(`ServerProcess`, which runs this file), which can be frozen and killed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

WAIT = 30.0


class Batch(NamedTuple):
    """What the sink sends at once: its name, and the ids and names of its events."""

    name: str
    events: list[tuple[str, str]]


class Receipts:
    """Events that arrived, by delivery id, in the order in which each came for the first time."""

    def __init__(self, events: Iterable[tuple[str, str]] = ()) -> None:
        self.by_id: dict[str, str] = {}
        self.arrivals = 0
        self.take(events)

    def take(self, events: Iterable[tuple[str, str]]) -> None:
        for delivery_id, name in events:
            self.arrivals += 1
            known = self.by_id.setdefault(delivery_id, name)
            assert known == name, f"{delivery_id} is the id of {known!r} and of {name!r}"

    @property
    def names(self) -> list[str]:
        return list(self.by_id.values())


def make_socket(host: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except BaseException:
        made.close()
        raise
    return made


def has_ipv6() -> bool:
    try:
        make_socket("::1", 0).close()
    except OSError:
        return False
    return True


class Connection:
    """One client. What its methods do to a client that is gone raises OSError, which ends the connection."""

    def __init__(self, server: TcpServer, sock: socket.socket) -> None:
        self.server = server
        self.socket = sock
        self.token: str | None = None
        self._buffer = b""

    def read_line(self) -> bytes | None:
        """The next line, without its end; None when the client has closed the connection."""
        while b"\n" not in self._buffer:
            data = self.socket.recv(1 << 16)
            if not data:
                return None
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def read_batch(self) -> Batch | None:
        """The next whole batch; None when the client has closed the connection, be it in the middle of one."""
        events: list[tuple[str, str]] = []
        head: dict[str, Any] | None = None
        while head is None or len(events) < head["events"]:
            line = self.read_line()
            if line is None:
                return None
            told = json.loads(line)
            if "token" in told:
                self.token = told["token"]
            elif head is None:
                head = told
            else:
                events.append((told["id"], told["event"]["event"]))
        return Batch(head["batch"], events)

    def store(self, batch: Batch) -> None:
        """Keep all events of a batch."""
        self.server.store(batch.events)

    def answer(self, batch: Batch, **fields: Any) -> None:
        """Say what has become of a batch: all was taken, unless the fields say otherwise."""
        self.send(json.dumps({"batch": batch.name, **(fields or {"taken": len(batch.events)})}).encode() + b"\n")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def crawl(self, data: bytes) -> None:
        """Send byte by byte."""
        for index in range(len(data)):
            self.send(data[index : index + 1])
            self.server.over.wait(0.001)

    def stall(self) -> None:
        """Neither read nor answer, until the client is gone."""
        poll = select.poll()
        poll.register(self.socket, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        poll.poll()

    def reset(self) -> None:
        """End with a reset: what is on the way in both directions is lost."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionAbortedError


Behaviour = Callable[[Connection], None]


def serve(connection: Connection) -> None:
    """Keep and confirm everything."""
    while (batch := connection.read_batch()) is not None:
        connection.store(batch)
        connection.answer(batch)


def serve_some(count: int, behaviour: Behaviour) -> Behaviour:
    """Serve so many batches, then misbehave."""

    def behave(connection: Connection) -> None:
        for _ in range(count):
            batch = connection.read_batch()
            if batch is None:
                return
            connection.store(batch)
            connection.answer(batch)
        behaviour(connection)

    return behave


class TcpServer:
    """A server in threads of this process, on a free port that stays its own. Nobody listens there before `open`.

    Attributes:
        behaviour: What is done with each connection that comes.
        next_ones: What is done with the next connections instead, one each.
        receipts: What was stored.
        connections: How many there were.
        log: Where each stored event is written too, as a line, before it is confirmed.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, log: Path | None = None) -> None:
        self.host = host
        # A port that is bound, and where nobody listens, refuses, and nobody else gets it.
        self._reservation = make_socket(host, port)
        self.port: int = self._reservation.getsockname()[1]
        self.behaviour: Behaviour = serve
        self.next_ones: deque[Behaviour] = deque()
        self.receipts = Receipts()
        self.connections = 0
        self.over = threading.Event()
        self._log = None if log is None else os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def open(self, *, backlog: int = 1024, accept: bool = True) -> None:
        """Listen; without ``accept``, only the kernel takes connections, as many as its backlog allows."""
        self._listener = make_socket(self.host, self.port)
        self._listener.listen(backlog)
        if accept:
            self.accept()

    def accept(self) -> None:
        """Take connections from now on, and those that wait."""
        assert self._listener is not None
        self._acceptor = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._acceptor.start()

    def refuse(self) -> None:
        """Listen no more; the connections that there are go on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            if self._acceptor is not None:
                listener.shutdown(socket.SHUT_RDWR)  # wakes it
                self._acceptor.join(WAIT)
                self._acceptor = None
            listener.close()

    def shut(self) -> None:
        """Listen no more, and end all connections."""
        self.refuse()
        with self._lock:
            for sock in self._sockets:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:  # the client has ended it
                    pass
        for thread in self._threads:
            thread.join(WAIT)
            assert not thread.is_alive()
        self._threads.clear()

    def close(self) -> None:
        """End; what went wrong in the server itself is raised."""
        self.over.set()
        self.shut()
        self._reservation.close()
        if self._log is not None:
            os.close(self._log)
        for error in self._errors:
            raise error

    def is_connected(self) -> bool:
        """True while there is a connection that has not ended."""
        with self._lock:
            return bool(self._sockets)

    def store(self, events: list[tuple[str, str]]) -> None:
        """Keep events; all of them, or none."""
        with self._lock:
            self.receipts.take(events)
            if self._log is not None:
                os.write(self._log, "".join(f"{delivery_id} {name}\n" for delivery_id, name in events).encode())

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:  # shut
                return
            with self._lock:
                self._sockets.add(sock)
                self.connections += 1
            thread = threading.Thread(target=self._behave, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _behave(self, sock: socket.socket) -> None:
        try:
            behaviour = self.next_ones.popleft() if self.next_ones else self.behaviour
            behaviour(Connection(self, sock))
        except OSError:  # the client is gone, or is got rid of
            pass
        except BaseException as err:
            self._errors.append(err)
        finally:
            with self._lock:
                self._sockets.discard(sock)
            sock.close()


class ServerProcess:
    """A server in a process of its own, which keeps and confirms everything. Who has killed it may start it again."""

    def __init__(self, log: Path) -> None:
        self.host = "127.0.0.1"
        self._reservation = make_socket(self.host, 0)
        self.port: int = self._reservation.getsockname()[1]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def receipts(self) -> Receipts:
        """What was stored so far, by all its lives."""
        text = self._log.read_text() if self._log.exists() else ""
        # Behind the last newline there is a line that is being written.
        return Receipts((line[:36], line[37:]) for line in text[: text.rfind("\n") + 1].splitlines())

    def start(self) -> None:
        """Start, and wait until it listens."""
        command = [sys.executable, __file__, self.host, str(self.port), str(self._log)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def freeze(self) -> None:
        """Stop it where it is: its kernel still takes connections and what fits into its buffers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, frozen or not."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with process:  # closes its pipes and waits
                pass

    def close(self) -> None:
        self.kill()
        self._reservation.close()


def main(host: str, port: str, log: str) -> None:
    server = TcpServer(host, int(port), Path(log))
    server.open()
    print("ready", flush=True)
    sys.stdin.read()  # the end of whoever has started it


if __name__ == "__main__":
    main(*sys.argv[1:])
