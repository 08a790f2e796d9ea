"""What goes wrong in the field: twenty reports on handlers and libraries, each as a scenario.

A scenario is a function that brings about what was reported, by events and locks held at the right moment, not by luck.
`field_helpers.observe` runs it in a process of its own, with an implementation: what this package has for the job (`ours`),
or one as the reports have it (`naive`).
"""

from __future__ import annotations

import atexit
import json
import logging
import logging.config
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from field_helpers import (
    Bell,
    ClientHandler,
    Server,
    World,
    directory_size,
    find_waits,
    observe,
    peak_memory,
    start_server,
    wait,
    wait_until,
)

# --- 1 -------------------------------------------------------------------------------------------------------------


def reconfigure_while_the_worker_sends(world: World) -> None:
    """The client needs logging's module lock just when `dictConfig` holds it and closes the handler."""
    sending, locked, over = threading.Event(), threading.Event(), threading.Event()

    def before_send() -> None:
        sending.set()
        wait(locked)

    def log(number: int) -> None:
        count = 0
        while not over.is_set() or count < 50:
            logging.getLogger(f"app.{number}.{count % 50}").info("%d of thread %d", count, number)
            count += 1
            over.wait(0.001)

    def note(record: logging.LogRecord) -> bool:
        accepted.append(record.getMessage())
        return True

    accepted: list[str] = []
    before, after = world.config(label="before"), world.config(label="after")
    for config in (before, after):
        config["filters"] = {"note": {"()": lambda: note}}
        config["handlers"]["handler"]["filters"] = ["note"]
    world.client.before_send = before_send
    logging.config.dictConfig(before)
    logging.getLogger("app").info("before")
    wait(sending)
    bell = Bell(locked.set)
    threads = [threading.Thread(target=log, args=(number,), name=f"load {number}") for number in range(4)]
    for thread in threads:
        thread.start()
    logging.config.dictConfig(after)
    logging.getLogger("app").info("after")
    over.set()
    for thread in threads:
        thread.join()
    bell.close()
    world.tell(accepted=sorted(accepted))


# --- 2 -------------------------------------------------------------------------------------------------------------


def log_to_a_closed_handler_while_reconfiguring(world: World) -> None:
    """A handler that was closed is made again in `emit`, just when `dictConfig` goes through all handlers."""
    reopening, locked = threading.Event(), threading.Event()

    def make_target() -> logging.Handler:
        if closed:
            reopening.set()
            wait(locked)
        return ClientHandler(world.client)  # takes the module lock

    closed = False
    handler = world.make(make_target)
    library = logging.Logger("library")
    library.addHandler(handler)
    bell = Bell(locked.set)
    handler.close()
    closed = True
    thread = threading.Thread(target=library.warning, args=("while",), name="request")
    thread.start()
    wait(reopening)
    logging.config.dictConfig({"version": 1})
    library.warning("after")
    thread.join()
    bell.close()


# --- 3 -------------------------------------------------------------------------------------------------------------


def log_from_the_root_at_debug(world: World) -> None:
    """The client logs a line for each request, and the handler is on the root logger."""
    logged, too_many = 100, 1000

    def give_up() -> None:
        if world.client.sent > too_many:
            world.tell(sent=f"more than {too_many}")
            os._exit(0)

    world.client.before_send = give_up
    root = logging.getLogger()
    root.setLevel(1)
    root.addHandler(world.make(world.client))
    for number in range(logged):
        logging.getLogger("app").debug("%d", number)
    root.handlers[0].flush()
    world.tell(sent=world.client.sent)


def log_to_every_sink_from_the_root_at_debug(world: World) -> None:
    """All of them at once, each with a handler on the root logger."""
    sinks = world.make(world.client, world.directory)
    root = logging.getLogger()
    root.setLevel(1)
    for sink in sinks.values():
        root.addHandler(world.module.SinkHandler(sink))
    for number in range(100):
        logging.getLogger("app").log(1, "%d", number)
    for handler in root.handlers:
        handler.flush()
    world.tell(**{name: sink.stats().delivered for name, sink in sinks.items()})


# --- 4 -------------------------------------------------------------------------------------------------------------


class Order:
    """A value that logs when it is asked for its text, and gives other threads the time to log as well."""

    def __str__(self) -> str:
        logging.getLogger("orders").warning("an order without a number")
        thread = threading.Thread(target=logging.getLogger("app").info, args=("from another thread",))
        thread.start()
        thread.join()
        return "an order"


def log_a_value_that_logs(world: World) -> None:
    """It comes back to the handler that is just turning the record into an event."""
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(world.make(world.client))
    for _ in range(2):
        logging.getLogger("app").info("placed %s", Order())


# --- 5 -------------------------------------------------------------------------------------------------------------


def log_in_a_child(world: World) -> None:
    """The child is forked while the parent has events that are not yet sent."""
    parent, go_on = os.getpid(), threading.Event()
    sending = threading.Event()

    def before_send() -> None:
        if os.getpid() == parent:
            sending.set()
            wait(go_on)

    def work() -> None:
        logger.info("child")
        logger.handlers[0].close()

    world.client.before_send = before_send
    logger = logging.Logger("app")
    logger.addHandler(world.make(world.client))
    for number in range(3):
        logger.info("parent %d", number)
    wait(sending)
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    go_on.set()
    logger.handlers[0].flush()
    world.tell(parent=parent, exitcode=child.exitcode)


PARENTS = ["parent 0", "parent 1", "parent 2"]


# --- 6 -------------------------------------------------------------------------------------------------------------


class Slow:
    """A value that takes its time when it is asked for its text."""

    def __init__(self) -> None:
        self.asked, self.go_on = threading.Event(), threading.Event()

    def __str__(self) -> str:
        self.asked.set()
        wait(self.go_on)
        return "slow"


def fork_in_the_middle_of_a_log_call(world: World) -> None:
    """At the moment of the fork another thread is at work on a record, and holds what it holds meanwhile."""
    slow = Slow()
    logger = logging.Logger("app")
    logger.addHandler(world.make(world.client))
    thread = threading.Thread(target=logger.info, args=("parent %s", slow))
    thread.start()
    wait(slow.asked)
    if not (child := os.fork()):
        logger.info("child")
        logger.handlers[0].flush()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    slow.go_on.set()
    thread.join()
    logger.handlers[0].flush()
    world.tell(status=status)


def fork_under_load(world: World, forks: int) -> None:
    """Threads log, flush and close all the time; each child logs and ends."""
    handlers = [world.make(world.client, label=label, queue_max_size=1_000_000) for label in ("even", "odd")]
    over = threading.Event()

    def make_noise(thread: int) -> None:
        even, odd = handlers
        while not over.wait(0.001 if thread > 1 else 0.01):
            even.handle(record("noise"))
            odd.handle(record("noise"))
            if thread == 0:
                even.flush()
            elif thread == 1:
                odd.close()

    def record(message: str) -> logging.LogRecord:
        return logging.makeLogRecord({"msg": message, "levelno": logging.INFO})

    threads = [threading.Thread(target=make_noise, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    running = failed = 0
    for number in range(forks):
        if not os.fork():
            handlers[number % 2].handle(record(f"child {number}"))
            handlers[number % 2].flush()
            os._exit(0)
        running += 1
        if running == 8:
            failed += os.wait()[1] != 0
            running -= 1
    for _ in range(running):
        failed += os.wait()[1] != 0
    over.set()
    for thread in threads:
        thread.join()
    world.tell(failed=failed)


# --- 7 -------------------------------------------------------------------------------------------------------------


def end_with_unsent_events(world: World, ending: str) -> None:
    """The network is slow: a request takes much longer than the rest of the script."""
    world.client.before_send = lambda: time.sleep(0.2)
    logger = logging.Logger("app")
    logger.addHandler(world.make(world.client))
    for number in range(20):
        logger.info("%d", number)
    if ending == "exception":
        raise ValueError("oops")
    if ending == "sys.exit":
        sys.exit(3)


ENDINGS = ("return", "exception", "sys.exit")


# --- 8 -------------------------------------------------------------------------------------------------------------


def end_while_the_server_is_down(world: World, **options: Any) -> None:
    """It refuses every connection, now and for ever."""
    tries = 0

    def refuse() -> None:
        nonlocal tries
        if find_waits().get("MainThread") == threading.current_thread().name:
            tries += 1
            if tries == 20:
                world.tell(the_end_waits_for="a thread that tries for ever")
                os._exit(0)
        raise ConnectionRefusedError

    world.client.before_send = refuse
    logger = logging.getLogger("app")
    logger.setLevel(logging.INFO)
    logger.addHandler(world.make(world.client, **options))
    for number in range(5):
        logger.info("%d", number)


# --- 9 -------------------------------------------------------------------------------------------------------------


def connect_at_the_end(world: World, port: int) -> None:
    """What the script logs last, and what its exit handlers log, goes over a connection that has yet to be opened."""
    logger = logging.getLogger("app")
    logger.setLevel(logging.INFO)
    atexit.register(logger.info, "in an exit handler")
    logger.addHandler(world.make(port))
    logger.info("last line")


def see_the_end(implementation: str, directory: Path) -> tuple[list[str], str]:
    """What arrived, and what was complained of."""
    with Server() as server:
        seen = observe(connect_at_the_end, implementation, directory, port=server.port)
    return server.lines, seen.errors


if sys.version_info[:2] == (3, 12):  # the others still start threads while exit handlers run

    def test_09_at_exit_no_new_thread_can_be_created_on_a_naive_handler(tmp_path: Path) -> None:
        """The interpreter starts no more threads by then."""
        lines, errors = see_the_end("naive.StartingAtExitHandler", tmp_path)
        assert lines == []
        assert "RuntimeError: can't create new thread at interpreter shutdown" in errors


# --- 10 ------------------------------------------------------------------------------------------------------------


AN_HOUR, TEN_MINUTES = 200 * 3600, 200 * 600
"""Events: 200 a second."""
A_LOT = 64_000_000
"""Bytes of memory that nobody should need for logging."""


def log_while_the_server_is_down(world: World, events: int) -> None:
    """The first two thousand events are large (100 kB), and of the others one in a hundred."""

    def refuse() -> None:
        raise ConnectionRefusedError

    world.client.before_send = refuse
    destination = world.make(world.client)
    before = peak_memory()
    for number in range(events):
        destination.log(number, "x" * (100_000 if number < 2_000 or number % 101 == 0 else 10))
    world.tell(**destination.count(), memory=peak_memory() - before)


# --- 11 ------------------------------------------------------------------------------------------------------------


RATE = 5_000
"""Events a second."""


def log_at_a_high_rate(world: World, most: int) -> None:
    """Half a second of it while the server is down; then it is there, but slow. Until it has caught up, or to the end."""
    store = world.directory / "store"
    down = True

    def serve_slowly() -> None:
        if down:
            raise ConnectionRefusedError
        time.sleep(0.001)

    world.client.before_send = serve_slowly
    logger = logging.getLogger("app")
    logger.setLevel(logging.INFO)
    logger.addHandler(world.make(world.client, durable=str(store), retry_delay=0.01, retry_max_delay=0.05))
    logged = largest = 0
    began = time.monotonic()
    while logged < most and world.client.sent <= logged * 0.9:
        while logged < min(most, RATE * (time.monotonic() - began)):
            logger.info("%d %s", logged, "x" * 200)
            logged += 1
        down = logged < RATE / 2
        largest = max(largest, directory_size(store))
        time.sleep(0.002)
    meanwhile = world.client.sent / logged
    logger.handlers[0].flush()
    wait_until(lambda: world.client.sent >= logged)
    world.tell(logged=logged, meanwhile=meanwhile, largest=max(largest, directory_size(store)))


def log_to_the_disk_while_the_server_is_down(world: World, enough: int) -> None:
    """Five megabytes, and a disk queue that may have one. Until it has so many bytes."""
    store = world.directory / "store"
    largest = 0

    def refuse() -> None:
        raise ConnectionRefusedError

    def measure() -> int:
        nonlocal largest
        largest = max(largest, directory_size(store))
        return largest

    world.client.before_send = refuse
    options = {"queue_max_size": 100, "queue_overflow_policy": "drop", "spool_max_bytes": 1_000_000}
    logger = logging.getLogger("app")
    logger.setLevel(logging.INFO)
    logger.addHandler(world.make(world.client, durable=str(store), **options))
    for number in range(2_500):
        logger.info("%d %s", number, "x" * 2_000)
        if number % 100 == 0:
            measure()
    wait_until(lambda: measure() > enough)
    world.tell(largest=largest)
    os._exit(0)  # it would wait for the server


# --- 12 ------------------------------------------------------------------------------------------------------------


def restart_a_server_that_was_not_ready(world: World) -> None:
    """It takes what it is sent, and is killed before it has done anything with it; then comes one that is ready."""
    server, port = start_server(world.directory, ready=False)
    logger = logging.getLogger("app")
    logger.setLevel(logging.INFO)
    logger.addHandler(world.make(port, str(world.directory / "store")))
    for number in range(10):
        logger.info("%d", number)
    assert server.stdout is not None
    server.stdout.readline()
    logger.handlers[0].flush()
    server.kill()
    server.wait()
    server, _ = start_server(world.directory, port=port, ready=True)
    world.module.flush_all()
    server.kill()


# --- 13 ------------------------------------------------------------------------------------------------------------


def configure_a_formatter(world: World) -> None:
    """The handler of a `dictConfig` has a `formatter`."""
    config = world.config()
    config["formatters"] = {"plain": {"format": "%(levelname)s [%(name)s] %(message)s"}}
    config["handlers"]["handler"]["formatter"] = "plain"
    logging.config.dictConfig(config)
    logging.getLogger("shop").info("order %s", "o-1")


# --- 14 ------------------------------------------------------------------------------------------------------------


@dataclass
class Item:
    """An object of the application's."""

    sku: str
    count: int


class Odd:
    """An object that has nothing to say for itself."""


def log_structured_extras(world: World) -> None:
    """Extras that are dicts, dataclasses and objects, of `logging` and of structlog on top of it."""
    import structlog

    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(world.make(world.client))
    extras = {"user": "alice", "request": {"path": "/x", "sizes": [1, 2]}, "item": Item("A-1", 2), "odd": Odd()}
    logging.getLogger("app").info("from logging", extra=extras)
    structlog.configure(
        processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    structlog.get_logger("shop").info("from structlog", item=Item("B-2", 1))


# --- 15 ------------------------------------------------------------------------------------------------------------


def configure_a_queue(world: World) -> None:
    """A queue between the loggers and the handler, all of it in `dictConfig`."""
    handlers = world.make(world.client)
    logging.config.dictConfig({"version": 1, "handlers": handlers, "root": {"level": "INFO", "handlers": ["queue"]}})
    for number in range(3):
        logging.getLogger("app").info("%d", number)
    handler: Any = logging.getLogger().handlers[0]
    handler.flush()
    waiting = getattr(handler, "queue", None)
    world.tell(
        waiting=waiting.qsize() if isinstance(waiting, queue.Queue) else 0,
        threads=sorted(thread.name for thread in threading.enumerate()),
    )


# --- 16 ------------------------------------------------------------------------------------------------------------


class Rendering(logging.Formatter):
    """A formatter that leaves its work in the record, as structlog's once did."""

    def format(self, record: logging.LogRecord) -> str:
        record.msg, record.args = f"[rendered] {record.getMessage()}", ()
        record.exc_info = record.exc_text = record.stack_info = None
        return str(record.msg)


class Second(logging.Handler):
    """The one that comes after the one that it is about."""

    def emit(self, record: logging.LogRecord) -> None:
        self.record = record


def log_through_two_handlers(world: World) -> None:
    """The first one has a formatter that changes the record, and sends it in the background; then comes the second one."""
    first, second = world.make(world.client), Second()
    first.setFormatter(Rendering())
    logger = logging.Logger("app")
    logger.addHandler(first)
    logger.addHandler(second)
    try:
        raise KeyError("o-1")
    except KeyError:
        logger.exception("order %s", "o-1", stack_info=True)
    record = second.record
    world.tell(
        msg=record.msg,
        args=record.args,
        exception=record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None,
        stack=record.stack_info is not None,
    )


# --- 17 ------------------------------------------------------------------------------------------------------------


def reconfigure_while_a_library_keeps_its_handler(world: World) -> None:
    """A framework's `dictConfig` closes all handlers; a library goes on with the one that it has."""
    library = logging.Logger("library")
    library.addHandler(world.make(world.client))
    library.warning("before")
    library.handlers[0].flush()
    logging.config.dictConfig({"version": 1})
    for number in range(3):
        library.warning("after %d", number)
    library.handlers[0].flush()


# --- 18 ------------------------------------------------------------------------------------------------------------


def log_during_shutdown(world: World) -> None:
    """An exit handler logs after the handler on the root logger was closed."""

    def late() -> None:
        handler.close()
        try:
            logging.getLogger("app").warning("late")
        except RecursionError:
            world.tell(recursion=True)

    handler = world.make(world.client)
    logging.getLogger().addHandler(handler)
    atexit.register(late)
    logging.getLogger("app").warning("before")


# --- 19 ------------------------------------------------------------------------------------------------------------


def end_by_os_exit(world: World) -> None:
    """Exit handlers do not run then."""
    world.client.before_send = lambda: time.sleep(0.2)
    logger = logging.getLogger("app")
    logger.setLevel(logging.INFO)
    logger.addHandler(world.make(world.client))
    for number in range(20):
        logger.info("%d", number)
    world.module.flush_all()
    os._exit(5)


def log_and_be_killed(world: World, kill: bool) -> None:
    """Killed while the server does not answer; then started again."""
    if kill:
        world.client.before_send = threading.Event().wait
    logger = logging.getLogger("app")
    logger.setLevel(logging.INFO)
    logger.addHandler(world.make(world.client, durable=str(world.directory / "spool"), durability="commit"))
    for number in range(10):
        logger.info("%s %d", "before" if kill else "after", number)
    if kill:
        os.kill(os.getpid(), signal.SIGKILL)
    logger.handlers[0].flush()


BEFORE = [f"before {number}" for number in range(10)]


AFTER = [f"after {number}" for number in range(10)]


# --- 20 ------------------------------------------------------------------------------------------------------------


def configure_structlogs_formatter_from_a_file(world: World) -> None:
    """Processors by their names, as JSON can hold them."""
    path, out = world.directory / "logging.json", world.directory / "out.log"
    settings = {
        "version": 1,
        "formatters": {"structured": world.make()},
        "handlers": {"file": {"class": "logging.FileHandler", "filename": str(out), "formatter": "structured"}},
        "root": {"level": "INFO", "handlers": ["file"]},
    }
    path.write_text(json.dumps(settings))
    logging.config.dictConfig(json.loads(path.read_text()))
    logging.getLogger("app").info("order %s", "o-1", extra={"amount": 3})
    world.tell(lines=out.read_text().splitlines())


def configure_everything_from_a_file(world: World) -> None:
    """structlog's chain, a sink's, a formatter's, and both handlers: one JSON file, and not a line of code."""
    path, formatted = world.directory / "logging.json", world.directory / "formatted.log"
    path.write_text(json.dumps(world.make(str(formatted))))
    world.module.mvx_logger.configure(str(path))
    import structlog

    structlog.get_logger("shop").info("order.created", amount=3)
    logging.getLogger("shop.db").warning("slow query", extra={"seconds": 2})
    world.tell(formatted=formatted.read_text())
