"""The controls of `field_scenarios`: handlers built as those of the reports are built, each with its fault.

Most of them are a queue, a thread that takes from it, and a client. None of this is how to write a handler.
"""

from __future__ import annotations

import asyncio
import atexit

# Its hook for the end of the process is to be there before those of the handlers.
import concurrent.futures.thread  # noqa: F401
import logging
import logging.handlers
import os
import queue
import socket
import sqlite3
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from field_helpers import Client, ClientHandler, Mutex, SocketClient, line_of, wait

_STOP: Any = object()
_COMMIT = 0.0004
"""What a disk takes for a commit, in seconds; it is not asked for any, for its sake."""
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class BackgroundHandler(logging.Handler):
    """A queue and a thread. `flush` and `close` wait until the thread has sent everything.

    logging's module lock or a fork may come between the two; what the client logs comes back; the formatter is forgotten.
    """

    def __init__(self, client: Client, **_: Any) -> None:
        super().__init__()
        self.client = client
        self.queue: queue.Queue[Any] = queue.Queue()
        self.start_worker()

    def start_worker(self) -> None:
        self.worker = threading.Thread(target=self.work, name="worker", daemon=True)
        self.queue.consumer = self.worker  # type: ignore[attr-defined]
        self.worker.start()

    def emit(self, record: logging.LogRecord) -> None:
        self.queue.put({"message": record.getMessage()})

    def work(self) -> None:
        while (line := self.queue.get()) is not _STOP:
            self.client.send([line])
            self.queue.task_done()
        self.queue.task_done()

    def flush(self) -> None:
        if self.worker.is_alive():
            self.queue.join()

    def close(self) -> None:
        self.queue.put(_STOP)
        self.worker.join()
        super().close()


class ReopeningHandler(logging.Handler):
    """A handler in front of another one, which it makes again when it is used after it was closed.

    It does so in `emit`, where the standard library holds its lock; and to make a handler takes the module lock.
    """

    def __init__(self, make_target: Callable[[], logging.Handler]) -> None:
        super().__init__()
        self.make_target = make_target
        self.target: logging.Handler | None = make_target()

    def emit(self, record: logging.LogRecord) -> None:
        if self.target is None:
            self.target = self.make_target()
        self.target.handle(record)

    def close(self) -> None:
        if self.target is not None:
            self.target.close()
            self.target = None
        super().close()


class EncodingHandler(logging.Handler):
    """Encodes records under a lock. That a value may log when it is asked for its text did not occur to anybody."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.client = client
        self.encoding = Mutex()

    def emit(self, record: logging.LogRecord) -> None:
        with self.encoding:
            line = line_of(record)
        self.client.send([line])


class RestartingHandler(BackgroundHandler):
    """Starts a thread anew in a forked child: for the queue as it is there, with what the parent put into it."""

    process = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        if self.process != os.getpid():
            self.process = os.getpid()
            self.start_worker()
        super().emit(record)


class LockingHandler(logging.Handler):
    """Formats and sends under a lock of its own, which nobody makes anew in a forked child."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.client = client
        self.sending = Mutex()

    def emit(self, record: logging.LogRecord) -> None:
        with self.sending:
            self.client.send([line_of(record)])


class HurriedHandler(BackgroundHandler):
    """Its thread is a daemon, and nobody waits for it at the end."""

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class PersistentHandler(BackgroundHandler):
    """Tries for ever to send, and waits at the end until it was successful."""

    def work(self) -> None:
        while (line := self.queue.get()) is not _STOP:
            while True:
                try:
                    self.client.send([line])
                    break
                except OSError:
                    time.sleep(0.001)
            self.queue.task_done()
        self.queue.task_done()


class AtExitHandler(logging.Handler):
    """Opens a connection for what it has collected when the interpreter runs its exit handlers, as `logging` closes it."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.getMessage()}\n")


class ResolvingAtExitHandler(AtExitHandler):
    """On an event loop, which asks its executor for the address."""

    def close(self) -> None:
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(self.send())
        finally:
            loop.close()
            super().close()

    async def send(self) -> None:
        _, writer = await asyncio.open_connection("localhost", self.port)
        writer.writelines(line.encode() for line in self.lines)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


class StartingAtExitHandler(AtExitHandler):
    """In a thread that it starts as soon as there is something to do for it."""

    def close(self) -> None:
        sender = threading.Thread(target=self.send)
        sender.start()
        sender.join()
        super().close()

    def send(self) -> None:
        with socket.create_connection(("localhost", self.port)) as connection:
            connection.sendall("".join(self.lines).encode())


class UnboundedQueue:
    """A queue in memory, and a thread that waits for its server."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.queue: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self.work, name="worker", daemon=True).start()

    def log(self, number: int, text: str) -> None:
        self.queue.put({"message": f"{number} {text}"})

    def work(self) -> None:
        while True:
            line = self.queue.get()
            while True:
                try:
                    self.client.send([line])
                    break
                except OSError:
                    time.sleep(0.01)

    def count(self) -> dict[str, int]:
        return {"kept": self.queue.qsize() + 1, "dropped": 0}


class StoringHandler(logging.Handler):
    """Puts each event into a database, and when there is none to put there, sends what it has, and deletes it."""

    def __init__(self, client: Any, durable: str, **_: Any) -> None:
        super().__init__()
        self.client = client
        self.path = Path(durable) / "events.db"
        self.path.parent.mkdir(exist_ok=True)
        self.queue: queue.Queue[str] = queue.Queue()
        self.sent = threading.Event()
        threading.Thread(target=self.work, name="worker", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        self.sent.clear()
        self.queue.put(record.getMessage())

    def work(self) -> None:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as database:
            database.execute("pragma synchronous = off")
            database.execute("create table if not exists event (message text)")
            while True:
                try:
                    message = self.queue.get(block=False)
                except queue.Empty:
                    self.send(database)
                else:
                    time.sleep(_COMMIT)
                    database.execute("insert into event values (?)", (message,))

    def send(self, database: sqlite3.Connection) -> None:
        events = [{"message": message} for (message,) in database.execute("select message from event")]
        try:
            if events:
                self.client.send(events)
                database.execute("delete from event")
            if self.queue.empty():
                self.sent.set()
        except OSError:
            pass
        time.sleep(0.01)

    def flush(self) -> None:
        wait(self.sent)


class AttributesHandler(logging.Handler):
    """Takes the extras that are simple values, all of them, and warns of the others."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.client = client

    def emit(self, record: logging.LogRecord) -> None:
        payload = {}
        for key, value in vars(record).items():
            if key in _USUAL:
                continue
            if isinstance(value, (bool, str, bytes, int, float)):
                payload[key] = value
            else:
                logging.getLogger("attributes").warning("Invalid type %s for '%s'", type(value).__name__, key)
        self.client.send([{"message": record.getMessage(), "payload": payload}])


class ListenedHandler(logging.handlers.QueueHandler):
    """The standard library's queue handler, and its listener, which an exit handler stops."""

    def __init__(self, client: Client) -> None:
        super().__init__(queue.Queue())
        self.listener = logging.handlers.QueueListener(self.queue, ClientHandler(client))
        self.listener.start()
        atexit.register(self.listener.stop)


def queue_handlers(client: Client) -> dict[str, dict[str, Any]]:
    """The standard library's queue handler as `dictConfig` makes it; Python 3.11 knows only the half of it."""
    front: dict[str, Any] = {"class": "logging.handlers.QueueHandler"}
    if sys.version_info >= (3, 12):
        front["handlers"] = ["target"]
    else:
        front["queue"] = queue.Queue()
    return {"queue": front, "target": {"()": ClientHandler, "client": client}}


class ClosedForGoodHandler(BackgroundHandler):
    """Once it was closed, it drops everything with a warning."""

    closed = False

    def emit(self, record: logging.LogRecord) -> None:
        if self.closed:
            warnings.warn("Received message after logging system shutdown", stacklevel=2)
        else:
            super().emit(record)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            super().close()


class TalkativeHandler(logging.Handler):
    """Once it was closed, it drops everything, and logs that it does."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.client = client
        self.closed = False

    def emit(self, record: logging.LogRecord) -> None:
        if self.closed:
            logging.getLogger("processor").warning("Processor is already shut down, ignoring call")
        else:
            self.client.send([line_of(record)])

    def close(self) -> None:
        self.closed = True
        super().close()


def structlog_formatter() -> dict[str, Any]:
    """structlog's own, as one would write it in a file: its processors have to be functions."""
    return {
        "()": "structlog.stdlib.ProcessorFormatter",
        "foreign_pre_chain": ["structlog.stdlib.add_log_level", "structlog.stdlib.ExtraAdder"],
        "processors": [
            "structlog.stdlib.ProcessorFormatter.remove_processors_meta",
            "structlog.processors.JSONRenderer",
        ],
    }


def flush_all() -> None:
    """What there is to call before `os._exit`."""
    for reference in logging._handlerList:  # type: ignore[attr-defined]
        handler = reference()
        if handler is not None:
            handler.flush()


def writing_handler(port: int, durable: str) -> logging.Handler:
    """Takes for delivered what it has written to the connection."""
    return StoringHandler(SocketClient(port, confirm=False), durable)
