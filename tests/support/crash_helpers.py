"""What the crash tests share: processes that log numbered events until they are killed, and a receiver outside of them.

A zygote imports everything once and forks a victim for each order, so that hundreds of them cost little.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mvx_logger import AsyncioLogSink, LogEvent, LogEventBatch, LogEventMeta
from mvx_logger.delivery import disk, sink
from mvx_logger.delivery.spool import Spool

TIMEOUT = 60.0


# ---------------------------------------------------------------------------------------------------- the receiver


class Receiver:
    """A server that keeps each event by its delivery id, and then acknowledges the batch.

    Attributes:
        mode: ``up``; ``down`` closes connections without reading; ``silent`` keeps what comes, and does not answer.
        names: The event of each id.
        order: The names in the order in which they came for the first time.
        repeated: Events that came again.
        conflicts: Ids that came with different events, and events that were not whole.
    """

    def __init__(self) -> None:
        self.mode = "up"
        self.names: dict[str, str] = {}
        self.order: list[str] = []
        self.repeated = 0
        self.conflicts: list[str] = []
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, name="receiver", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            if self.mode == "down":
                connection.close()
            else:
                threading.Thread(target=self._serve, args=(connection,), name="receiver", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            try:
                for line in lines:
                    if self.mode == "down" or not line.endswith(b"\n"):  # or the victim was killed while it sent
                        return
                    self._keep(json.loads(line))
                    if self.mode == "silent":
                        return
                    connection.sendall(b"+")
            except ConnectionError:
                return

    def _keep(self, batch: list[tuple[str, str, bool]]) -> None:
        with self._lock:
            for number, name, is_whole in batch:
                if not is_whole:
                    self.conflicts.append(f"{name} is not whole")
                if number not in self.names:
                    self.names[number] = name
                    self.order.append(name)
                else:
                    self.repeated += 1
                    if self.names[number] != name:
                        self.conflicts.append(f"{number} is the id of {self.names[number]} and of {name}")

    def check(self) -> None:
        """No two events have the same id, no event has two, and the events of a thread came in the order of its calls."""
        with self._lock:
            assert not self.conflicts
            twice = [name for name, count in Counter(self.order).items() if count > 1]
            assert not twice, f"with two ids: {twice[:10]}"
            last: dict[str, int] = {}
            for name in self.order:
                thread, _, number = name.rpartition(".")
                assert int(number) > last.get(thread, -1), f"{name} came after {thread}.{last[thread]}"
                last[thread] = int(number)


# ---------------------------------------------------------------------------------------------------- the victims


def _make_event(name: str, size: int) -> LogEvent:
    return LogEvent(20, LogEventMeta("crash", name), None, time.time(), {"size": size, "text": "x" * size})


class ReceiverSink(AsyncioLogSink):
    """Delivers to a `Receiver`, and waits for its answer."""

    def __init__(self, *, port: int, **options: Any) -> None:
        super().__init__(**options)
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        try:
            if self.streams is None:
                self.streams = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = self.streams
            writer.write(_encode(events))
            await writer.drain()
            await reader.readexactly(1)
        except BaseException:
            await self._on_stopped()
            raise

    async def _on_stopped(self) -> None:
        streams, self.streams = self.streams, None
        if streams is not None:
            streams[1].close()


class HastySink(ReceiverSink):
    """Takes events for delivered when they are on their way, as a sink without confirmation does."""

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        self.sending = asyncio.ensure_future(self.send(events))

    async def send(self, events: LogEventBatch) -> None:
        try:
            await super()._dispatch_batch(events)
        except (OSError, EOFError):
            pass


def _encode(events: LogEventBatch) -> bytes:
    rows = [
        (number, event.meta.event_name, len(event.payload["text"]) == event.payload["size"])
        for number, event in zip(events.delivery_ids, events, strict=True)
    ]
    return json.dumps(rows).encode() + b"\n"


def _tell(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # one write: nothing is in a buffer when we are killed


def _be_victim(order: dict[str, Any]) -> None:
    name = order["name"]
    sink.Spool = functools.partial(Spool, segment_bytes=order["segment_bytes"])  # type: ignore[misc,assignment]
    kind: type[ReceiverSink] = {"waiting": ReceiverSink, "hasty": HastySink}[order["kind"]]
    target, close = kind.create(
        port=order["port"],
        durable=order["directory"] if order["durable"] else None,
        durability=order["durability"],
        batch_max_size=order["batch_max_size"],
        batch_max_age=0.001,
        retry_delay=0.001,
        retry_max_delay=0.01,
        delivery_timeout=10,
        shutdown_timeout=order["shutdown_timeout"],
    )
    _tell("started", name)

    def tell_of_commits() -> None:
        # The events of one thread reach the disk in order. What is in flight is there as well, but not in the figures.
        if order["durability"] == "async":
            stats = target.stats()
            _tell("committed", name, stats.delivered + stats.spooled - stats.recovered)

    def log(thread: int) -> None:
        draw = random.Random(f"{name} {thread}")
        for number in range(order["count"]):
            target.log(_make_event(f"{name}.{thread}.{number}", draw.choice(order["sizes"])))
            if order["durability"] == "commit":
                _tell("logged", name, f"{name}.{thread}.{number}")
            elif not number % 5:
                tell_of_commits()

    threads = [threading.Thread(target=log, args=(thread,), daemon=True) for thread in range(order["threads"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _tell("ready", name)
    if order["end"] == "flush":
        _tell("flushed", name, target.flush(TIMEOUT))
    elif order["end"] == "wait":
        while True:
            tell_of_commits()
            time.sleep(0.002)
    _tell("closing", name)
    close()
    _tell("closed", name)


def be_zygote() -> None:
    """Fork a victim for each line of the standard input, or wait for the end of one."""
    disk.ADOPT_INTERVAL = sink.ADOPT_INTERVAL = 0.01  # the other one of two must not wait so long
    for line in sys.stdin:
        order = json.loads(line)
        if "wait_for" in order:
            _, status = os.waitpid(order["wait_for"], 0)
            _tell("ended", order["name"], os.waitstatus_to_exitcode(status))
            continue
        number = os.fork()
        if not number:
            try:
                _be_victim(order)
            except BaseException as err:
                _tell("failed", order["name"], repr(err).replace("\n", " "))
            finally:
                os._exit(0)
        _tell("forked", order["name"], number)


# ---------------------------------------------------------------------------------------------------- the killer


class Victim:
    """What a victim has told."""

    def __init__(self, zygote: Zygote, name: str) -> None:
        self.name = name
        self.process = 0
        self.words: dict[str, str] = {}
        self.logged: list[str] = []
        self.committed = 0
        self._zygote = zygote

    def wait_for(self, *words: str) -> str:
        """Wait until it has told one of these, and return the rest of the line."""
        with self._zygote.news:
            found = self._zygote.news.wait_for(
                lambda: next((word for word in (*words, "failed", "lost") if word in self.words), None), TIMEOUT
            )
        assert found in words, f"{self.name}: {found} {self.words.get(found or '')}, waited for {words}"
        return self.words[found]

    def kill(self) -> None:
        # Nobody has waited for its end yet: the number is its own.
        os.kill(self.process, signal.SIGKILL)

    def end(self) -> int:
        """Wait for its end; when this returns, all that it told is known."""
        self._zygote.send(wait_for=self.process, name=self.name)
        return int(self.wait_for("ended"))


class Zygote:
    """A process that forks victims."""

    def __init__(self) -> None:
        self.news = threading.Condition()
        self.victims: dict[str, Victim] = {}
        tests = str(Path(__file__).parent)
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path.insert(0, {tests!r}); import crash_helpers as c; c.be_zygote()",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for victim in self.victims.values():
            if victim.process and "ended" not in victim.words:
                victim.kill()
                victim.end()
        self._process.stdin.close()
        assert self._process.wait(TIMEOUT) == 0
        self._reader.join()
        self._process.stdout.close()

    def send(self, **order: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def fork(self, name: str, **order: Any) -> Victim:
        victim = self.victims[name] = Victim(self, name)
        self.send(name=name, **order)
        victim.process = int(victim.wait_for("forked"))
        return victim

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, name, *rest = line.rstrip("\n").split(" ", 2)
            victim = self.victims[name]
            if word == "logged":
                victim.logged += rest
            elif word == "committed":
                victim.committed = max(victim.committed, int(rest[0]))
            with self.news:
                victim.words[word] = "".join(rest)
                self.news.notify_all()
        with self.news:
            for victim in self.victims.values():
                victim.words["lost"] = "the zygote is gone"
            self.news.notify_all()


class Killer:
    """Kills victims that share a spool directory, and knows what has to arrive all the same.

    Attributes:
        promised: The events whose ``log()`` had returned, or that were seen to be on the disk.
        kills: How many victims were killed, by the last thing that they had told.
    """

    def __init__(self, zygote: Zygote, receiver: Receiver, directory: Path, seed: int, **defaults: Any) -> None:
        self.receiver = receiver
        self.directory = directory
        self.random = random.Random(seed)
        self.promised: list[str] = []
        self.kills: Counter[str] = Counter()
        self._zygote = zygote
        self._count = 0
        self._order: dict[str, Any] = {
            "port": receiver.port,
            "directory": str(directory),
            "durable": True,
            "kind": "waiting",
            "durability": "commit",
            "threads": 1,
            "count": 0,
            "sizes": [0],
            "batch_max_size": 1000,
            "segment_bytes": None,
            "shutdown_timeout": 30,
            "end": "wait",
            **defaults,
        }

    def fork(self, **order: Any) -> Victim:
        self._count += 1
        return self._zygote.fork(f"v{self._count}", **{**self._order, **order})

    def kill(self, victim: Victim) -> None:
        victim.kill()
        assert victim.end() in (-signal.SIGKILL, 0)
        assert "failed" not in victim.words, victim.words["failed"]
        if "closed" not in victim.words:  # else it was faster
            steps = ("closing", "ready", "logged", "committed", "started", "forked")
            self.kills[next(step for step in steps if step in victim.words)] += 1
        self.promised += victim.logged
        self.promised += [f"{victim.name}.0.{number}" for number in range(victim.committed)]

    def sleep(self, seconds: float) -> None:
        """Up to so many seconds: the moment of the kill is what is drawn here."""
        time.sleep(self.random.uniform(0, seconds))

    def recover(self) -> set[str]:
        """Restart, and let a victim live until it has delivered everything; what is missing all the same."""
        self.receiver.mode = "up"
        victim = self.fork(end="flush")
        flushed = victim.wait_for("flushed")
        victim.wait_for("closed")
        assert victim.end() == 0
        assert flushed == "True"
        return set(self.promised) - set(self.receiver.order)


def draw_order(draw: random.Random, *, threads: Sequence[int] = (1,)) -> dict[str, Any]:
    """How a victim is to behave: few and many events, large and small ones, files that are full soon and late."""
    return {
        "count": draw.choice((0, 5, 50, 400)),
        "threads": draw.choice(threads),
        "sizes": draw.choice(([0], [0, 10, 300], [0] * 30 + [100_000])),
        "segment_bytes": draw.choice((None, 2_000, 30_000)),
        "batch_max_size": draw.choice((1, 7, 1000)),
        "end": draw.choice(("wait", "close")),
        "shutdown_timeout": draw.choice((0.005, 30)),
    }
