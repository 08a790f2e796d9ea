"""What goes wrong in the field, and does not here: twenty reports on handlers and libraries that do this job today.

Each row has a scenario: a function that brings about what was reported, by events and locks held at the right moment, not by
luck. It runs in a process of its own, once with what this package has for the job (`ours`) and once with an
implementation as the reports have it (`naive`). Of each row one test shows that ours survives, and one
(`..._on_a_naive_...`) that the other one goes wrong in the way that was reported: so a scenario that has lost its sting is
found out.

`field_helpers` is how a scenario is run and observed, and how a deadlock is told from a long wait.
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

import pytest

from field_helpers import (
    NOT_THERE,
    Bell,
    ClientHandler,
    Server,
    World,
    directory_size,
    find_waits,
    observe,
    observe_all,
    peak_memory,
    start_server,
    wait,
    wait_until,
)

pytestmark = pytest.mark.slow

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


def test_01_dictconfig_hangs_for_ever(tmp_path: Path) -> None:
    """Reconfiguring under load returns, and nothing that was accepted is lost."""
    seen = observe(reconfigure_while_the_worker_sends, "ours.handler", tmp_path)
    assert seen.code == 0
    assert {"before", "after"} < set(seen.messages)
    assert sorted(seen.messages) == seen.told["accepted"]


def test_01_dictconfig_hangs_for_ever_on_a_naive_handler(tmp_path: Path) -> None:
    """It waits for the worker, and the worker for logging's module lock."""
    seen = observe(reconfigure_while_the_worker_sends, "naive.BackgroundHandler", tmp_path)
    assert seen.deadlock == {"MainThread": "worker", "worker": "MainThread"}


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


def test_02_every_log_call_blocks_after_a_reconfiguration(tmp_path: Path) -> None:
    """The module lock is never taken under a handler's lock."""
    seen = observe(log_to_a_closed_handler_while_reconfiguring, "ours.reopening_handler", tmp_path)
    assert (seen.code, seen.errors) == (0, "")
    assert sorted(seen.messages) == ["after", "while"]


def test_02_every_log_call_blocks_after_a_reconfiguration_on_a_naive_handler(tmp_path: Path) -> None:
    """`emit` takes the handler's lock and then the module lock, `dictConfig` the other way round."""
    seen = observe(log_to_a_closed_handler_while_reconfiguring, "naive.ReopeningHandler", tmp_path)
    assert seen.deadlock == {"MainThread": "request", "request": "MainThread"}


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


def test_03_the_handler_logs_its_own_http_clients_lines_for_ever(tmp_path: Path) -> None:
    """On the root logger at level 1: what arrives is what the application logged."""
    seen = observe(log_from_the_root_at_debug, "ours.handler", tmp_path)
    assert seen.told == {"sent": 100}
    assert seen.messages == [str(number) for number in range(100)]
    assert seen.errors.startswith("mvx-logger: recursion: ")


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


def test_03_what_arrives_is_what_the_application_logged_with_every_sink_on_the_root_logger(tmp_path: Path) -> None:
    """No sink logs to itself, nor to another one."""
    seen = observe(log_to_every_sink_from_the_root_at_debug, "ours.every_sink", tmp_path)
    assert seen.code == 0
    assert len(seen.told) > 10
    assert seen.told == dict.fromkeys(seen.told, 100)


def test_03_the_handler_logs_its_own_http_clients_lines_for_ever_on_a_naive_handler(tmp_path: Path) -> None:
    """Each request makes another one."""
    seen = observe(log_from_the_root_at_debug, "naive.BackgroundHandler", tmp_path)
    assert seen.told == {"sent": "more than 1000"}
    assert "POST /bulk" in seen.messages


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


def test_04_the_process_freezes_when_a_record_is_turned_into_an_event(tmp_path: Path) -> None:
    """What is logged meanwhile on the same thread is kept out, and told once; other threads are not concerned."""
    seen = observe(log_a_value_that_logs, "ours.handler", tmp_path)
    assert (seen.code, seen.errors.count("\n")) == (0, 1)
    assert set(seen.messages) == {"placed an order", "from another thread"}
    assert seen.messages.count("placed an order") == 2
    assert "an order without a number" in seen.errors


def test_04_the_process_freezes_when_a_record_is_turned_into_an_event_on_a_naive_handler(tmp_path: Path) -> None:
    """It waits for the lock that it holds itself."""
    seen = observe(log_a_value_that_logs, "naive.EncodingHandler", tmp_path)
    assert seen.deadlock == {"MainThread": "MainThread"}


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


def test_05_no_logs_from_gunicorn_workers_or_multiprocessing_children(tmp_path: Path) -> None:
    """The child's events arrive, the parent's are not sent twice."""
    seen = observe(log_in_a_child, "ours.handler", tmp_path)
    assert seen.told["exitcode"] == 0
    assert seen.messages == ["child", *PARENTS]
    assert [event["process"] == seen.told["parent"] for event in seen.delivered] == [False, True, True, True]
    assert (seen.code, seen.errors) == (0, "")


def test_05_no_logs_from_gunicorn_workers_or_multiprocessing_children_on_a_naive_handler(tmp_path: Path) -> None:
    """The worker thread did not survive the fork."""
    seen = observe(log_in_a_child, "naive.BackgroundHandler", tmp_path)
    assert seen.told["exitcode"] == 0
    assert seen.messages == PARENTS


def test_05_the_parents_events_are_sent_twice_on_a_naive_handler(tmp_path: Path) -> None:
    """The worker thread is started anew, and finds the parent's events in the queue."""
    seen = observe(log_in_a_child, "naive.RestartingHandler", tmp_path)
    assert seen.messages.count("parent 1") == 2


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


def test_06_the_child_deadlocks(tmp_path: Path) -> None:
    """Another thread was in the middle of a log call at the moment of the fork: the child logs all the same."""
    seen = observe(fork_in_the_middle_of_a_log_call, "ours.handler", tmp_path)
    assert (seen.code, seen.told) == (0, {"status": 0})
    assert seen.messages == ["child", "parent slow"]


def test_06_the_child_deadlocks_on_a_naive_handler(tmp_path: Path) -> None:
    """It waits for a lock that a thread held which is not there any more."""
    seen = observe(fork_in_the_middle_of_a_log_call, "naive.LockingHandler", tmp_path)
    assert seen.deadlock == {"MainThread": NOT_THERE}
    assert seen.messages == ["parent slow"]


def fork_a_thousand_times_under_load(world: World) -> None:
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
    for number in range(1000):
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


def test_06_the_child_deadlocks_in_none_of_a_thousand_forks(tmp_path: Path) -> None:
    """Wherever the other threads happen to be."""
    seen = observe(fork_a_thousand_times_under_load, "ours.handler", tmp_path)
    assert seen.told == {"failed": 0}
    children = [message for message in seen.messages if message != "noise"]
    assert sorted(children) == sorted(f"child {number}" for number in range(1000))


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


def test_07_a_short_script_ends_and_its_last_events_are_gone(tmp_path: Path) -> None:
    """All are delivered before it ends, also by `sys.exit` and with an unhandled exception."""
    endings = observe_all(end_with_unsent_events, "ours.handler", tmp_path, "ending", ENDINGS)
    assert [seen.code for seen in endings] == [0, 1, 3]
    assert [seen.messages for seen in endings] == [[str(number) for number in range(20)]] * 3


def test_07_a_short_script_ends_and_its_last_events_are_gone_on_a_naive_handler(tmp_path: Path) -> None:
    """Nobody waits for the worker."""
    endings = observe_all(end_with_unsent_events, "naive.HurriedHandler", tmp_path, "ending", ENDINGS)
    assert [seen.code for seen in endings] == [0, 1, 3]
    assert not any("19" in seen.messages for seen in endings)


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


def test_08_the_process_never_ends_because_the_server_is_down(tmp_path: Path) -> None:
    """It ends at the shutdown deadline, and says how many events were left."""
    options = {"retry_delay": 0.01, "retry_max_delay": 0.05, "shutdown_timeout": 0.5}
    seen = observe(end_while_the_server_is_down, "ours.handler", tmp_path, **options)
    assert (seen.code, seen.told) == (0, {})
    last = seen.errors.splitlines()[-1]
    assert last.startswith("mvx-logger: shutdown: ")
    assert "lost=5" in last


def test_08_the_process_says_where_the_events_are_that_are_left(tmp_path: Path) -> None:
    """With a spool they are on the disk, for the next process."""
    spool = str(tmp_path / "spool")
    options = {"retry_delay": 0.01, "retry_max_delay": 0.05, "shutdown_timeout": 0.5, "durable": spool}
    seen = observe(end_while_the_server_is_down, "ours.handler", tmp_path, **options)
    assert (seen.code, seen.told) == (0, {})
    last = seen.errors.splitlines()[-1]
    assert last.startswith("mvx-logger: shutdown: ")
    assert "spooled=5" in last
    assert spool in last


def test_08_the_process_never_ends_because_the_server_is_down_on_a_naive_handler(tmp_path: Path) -> None:
    """The end of the process waits for the worker, and that tries without end."""
    seen = observe(end_while_the_server_is_down, "naive.PersistentHandler", tmp_path)
    assert seen.told == {"the_end_waits_for": "a thread that tries for ever"}


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


def test_09_at_exit_no_new_thread_can_be_created_and_no_new_future_scheduled(tmp_path: Path) -> None:
    """The last flush can still resolve a name and open a connection."""
    assert see_the_end("ours.connecting_handler", tmp_path) == (["last line", "in an exit handler"], "")


def test_09_at_exit_no_new_future_can_be_scheduled_on_a_naive_handler(tmp_path: Path) -> None:
    """The executor that is to resolve the name is closed by then."""
    lines, errors = see_the_end("naive.ResolvingAtExitHandler", tmp_path)
    assert lines == []
    assert "RuntimeError: cannot schedule new futures after interpreter shutdown" in errors


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


def test_10_memory_grows_without_end_while_the_server_is_down(tmp_path: Path) -> None:
    """It is bounded by count and by bytes over an hour's worth of events, and each of them is accounted for."""
    seen = observe(log_while_the_server_is_down, "ours.BoundedQueue", tmp_path, events=AN_HOUR)
    assert seen.told["memory"] < A_LOT
    assert 0 < seen.told["kept"] <= 10_000 + 1_000  # in the queue, and in the batch that is tried again and again
    assert seen.told["kept"] + seen.told["dropped"] == AN_HOUR


def test_10_memory_grows_without_end_while_the_server_is_down_on_a_naive_queue(tmp_path: Path) -> None:
    """After ten minutes it is too much, and nothing has left the queue."""
    seen = observe(log_while_the_server_is_down, "naive.UnboundedQueue", tmp_path, events=TEN_MINUTES)
    assert seen.told["memory"] > A_LOT
    assert seen.told["kept"] == TEN_MINUTES


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


def test_11_at_a_high_rate_nothing_arrives_any_more_and_the_database_never_shrinks(tmp_path: Path) -> None:
    """The spool drains faster than it fills, and gives its space back."""
    seen = observe(log_at_a_high_rate, "ours.handler", tmp_path, most=100_000)
    assert seen.told["meanwhile"] > 0.9
    assert [int(message.split()[0]) for message in seen.messages] == list(range(seen.told["logged"]))
    assert directory_size(tmp_path / "store") < 30_000 < 300_000 < seen.told["largest"]


def test_11_at_a_high_rate_nothing_arrives_any_more_and_the_database_never_shrinks_on_a_naive_handler(
    tmp_path: Path,
) -> None:
    """It sends when its queue is empty: that is when nobody logs any more. The space stays taken when all was sent."""
    seen = observe(log_at_a_high_rate, "naive.StoringHandler", tmp_path, most=5_000)
    assert seen.told["meanwhile"] < 0.1
    assert len(seen.messages) == 5_000
    assert directory_size(tmp_path / "store") == seen.told["largest"] > 700_000


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


def test_11_the_database_on_disk_grows_to_gigabytes(tmp_path: Path) -> None:
    """It is as large as it is allowed to be."""
    seen = observe(log_to_the_disk_while_the_server_is_down, "ours.handler", tmp_path, enough=500_000)
    assert seen.told["largest"] < 1_100_000


def test_11_the_database_on_disk_grows_to_gigabytes_on_a_naive_handler(tmp_path: Path) -> None:
    """It is as large as what was logged."""
    seen = observe(log_to_the_disk_while_the_server_is_down, "naive.StoringHandler", tmp_path, enough=5_000_000)
    assert seen.told["largest"] > 5_000_000


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


def test_12_events_are_removed_from_the_local_store_when_they_were_written_to_the_socket(tmp_path: Path) -> None:
    """Only when the destination has confirmed them."""
    seen = observe(restart_a_server_that_was_not_ready, "ours.confirming_handler", tmp_path)
    assert seen.messages == [str(number) for number in range(10)]


def test_12_events_are_removed_from_the_local_store_when_they_were_written_to_the_socket_on_a_naive_handler(
    tmp_path: Path,
) -> None:
    """The server was not ready; all gone."""
    assert observe(restart_a_server_that_was_not_ready, "naive.writing_handler", tmp_path).messages == []


# --- 13 ------------------------------------------------------------------------------------------------------------


def configure_a_formatter(world: World) -> None:
    """The handler of a `dictConfig` has a `formatter`."""
    config = world.config()
    config["formatters"] = {"plain": {"format": "%(levelname)s [%(name)s] %(message)s"}}
    config["handlers"]["handler"]["formatter"] = "plain"
    logging.config.dictConfig(config)
    logging.getLogger("shop").info("order %s", "o-1")


def test_13_the_formatter_in_dictconfig_has_no_effect(tmp_path: Path) -> None:
    """It makes the message."""
    assert observe(configure_a_formatter, "ours.handler", tmp_path).messages == ["INFO [shop] order o-1"]


def test_13_the_formatter_in_dictconfig_has_no_effect_on_a_naive_handler(tmp_path: Path) -> None:
    """It is never asked."""
    assert observe(configure_a_formatter, "naive.BackgroundHandler", tmp_path).messages == ["order o-1"]


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


def test_14_extras_that_are_no_simple_values_are_dropped_with_a_warning(tmp_path: Path) -> None:
    """They arrive as structured data; what structlog passes along for itself does not."""
    seen = observe(log_structured_extras, "ours.handler", tmp_path)
    assert [(event["message"], event["payload"]) for event in seen.delivered] == [
        (
            "from logging",
            {
                "user": "alice",
                "request": {"path": "/x", "sizes": [1, 2]},
                "item": {"sku": "A-1", "count": 2},
                "odd": "<Odd>",
            },
        ),
        ("from structlog", {"item": {"sku": "B-2", "count": 1}}),
    ]
    assert seen.errors == ""


def test_14_extras_that_are_no_simple_values_are_dropped_with_a_warning_on_a_naive_handler(tmp_path: Path) -> None:
    """And `_logger` is one of them."""
    seen = observe(log_structured_extras, "naive.AttributesHandler", tmp_path)
    warnings = [message for message in seen.messages if message.startswith("Invalid")]
    assert warnings == [
        "Invalid type dict for 'request'",
        "Invalid type Item for 'item'",
        "Invalid type Odd for 'odd'",
        "Invalid type _FixedFindCallerLogger for '_logger'",
    ]
    events = [event for event in seen.delivered if event["message"] not in warnings]
    assert [event["payload"] for event in events] == [{"user": "alice"}, {"_name": "info"}]


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


def test_15_a_queue_handler_of_dictconfig_accepts_records_and_nobody_takes_them_out(tmp_path: Path) -> None:
    """Configured means running."""
    seen = observe(configure_a_queue, "ours.queue_handlers", tmp_path)
    assert seen.messages == ["0", "1", "2"]


def test_15_a_queue_handler_of_dictconfig_accepts_records_and_nobody_takes_them_out_on_a_naive_handler(
    tmp_path: Path,
) -> None:
    """The standard library's waits for somebody to start its listener."""
    seen = observe(configure_a_queue, "naive.queue_handlers", tmp_path)
    assert seen.told == {"waiting": 3, "threads": ["MainThread", "watcher"]}
    assert seen.messages == []


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


def test_16_the_second_handler_sees_a_message_that_the_first_ones_formatter_changed(tmp_path: Path) -> None:
    """The record is as it was; the first one's event has exception, arguments and stack as data."""
    seen = observe(log_through_two_handlers, "ours.handler", tmp_path)
    assert seen.told == {"msg": "order %s", "args": ["o-1"], "exception": "KeyError", "stack": True}
    (event,) = seen.delivered
    assert event["message"] == "[rendered] order o-1"
    assert (event["args"], event["exception"], event["stack"]) == (["o-1"], "KeyError", True)


def test_16_the_second_handler_sees_a_message_that_the_first_ones_formatter_changed_on_a_naive_handler(
    tmp_path: Path,
) -> None:
    """Neither it nor what is behind the queue has anything but the text."""
    seen = observe(log_through_two_handlers, "naive.ListenedHandler", tmp_path)
    assert seen.told == {"msg": "[rendered] order o-1", "args": [], "exception": None, "stack": False}
    (event,) = seen.delivered
    assert event.keys() == {"process", "message"}


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


def test_17_received_message_after_logging_system_shutdown(tmp_path: Path) -> None:
    """A handler that is used after `close()` works again."""
    seen = observe(reconfigure_while_a_library_keeps_its_handler, "ours.handler", tmp_path)
    assert seen.messages == ["before", "after 0", "after 1", "after 2"]
    assert (seen.code, seen.errors) == (0, "")


def test_17_received_message_after_logging_system_shutdown_on_a_naive_handler(tmp_path: Path) -> None:
    """It is out of order for good."""
    seen = observe(reconfigure_while_a_library_keeps_its_handler, "naive.ClosedForGoodHandler", tmp_path)
    assert seen.messages == ["before"]
    assert "Received message after logging system shutdown" in seen.errors


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


def test_18_a_log_call_during_shutdown_recurses_until_the_stack_is_full(tmp_path: Path) -> None:
    """It does not: the event is delivered or, where the interpreter starts no more threads for it, told to be lost."""
    seen = observe(log_during_shutdown, "ours.handler", tmp_path)
    assert seen.told == {}
    assert (seen.code, seen.errors.count("\n")) == (0, seen.errors.count("events are lost"))
    assert seen.messages[0] == "before"
    assert seen.messages.count("late") + seen.errors.count("events are lost") == 1


def test_18_a_log_call_during_shutdown_recurses_until_the_stack_is_full_on_a_naive_handler(tmp_path: Path) -> None:
    """That it was closed is logged to itself."""
    seen = observe(log_during_shutdown, "naive.TalkativeHandler", tmp_path)
    assert seen.told == {"recursion": True}


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


def test_19_os_exit_loses_the_queue(tmp_path: Path) -> None:
    """`mvx_logger.flush` before it, and it does not."""
    seen = observe(end_by_os_exit, "ours.handler", tmp_path)
    assert seen.code == 5
    assert seen.messages == [str(number) for number in range(20)]


def test_19_os_exit_loses_the_queue_on_a_naive_handler(tmp_path: Path) -> None:
    """`flush` of a queue handler does nothing, and its listener is stopped by an exit handler."""
    seen = observe(end_by_os_exit, "naive.ListenedHandler", tmp_path)
    assert seen.code == 5
    assert "19" not in seen.messages


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


def test_19_a_killed_worker_loses_the_queue(tmp_path: Path) -> None:
    """It is in the spool, and the next process delivers it."""
    assert observe(log_and_be_killed, "ours.handler", tmp_path, kill=True).messages == []
    seen = observe(log_and_be_killed, "ours.handler", tmp_path, kill=False)
    assert (seen.code, seen.messages) == (0, BEFORE + AFTER)


def test_19_a_killed_worker_loses_the_queue_on_a_naive_handler(tmp_path: Path) -> None:
    """It was in memory only."""
    assert observe(log_and_be_killed, "naive.BackgroundHandler", tmp_path, kill=True).messages == []
    assert observe(log_and_be_killed, "naive.BackgroundHandler", tmp_path, kill=False).messages == AFTER


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


def test_20_structlogs_formatter_cannot_be_configured_from_a_json_or_yaml_file(tmp_path: Path) -> None:
    """Everything that the bridge offers can be written in a plain data file."""
    seen = observe(configure_structlogs_formatter_from_a_file, "ours.structlog_formatter", tmp_path)
    assert seen.told == {"lines": ['{"amount": 3, "event": "order o-1", "level": "info"}']}
    assert (seen.code, seen.errors) == (0, "")


def test_20_structlogs_formatter_cannot_be_configured_from_a_json_or_yaml_file_on_a_naive_handler(
    tmp_path: Path,
) -> None:
    """structlog's own takes the names for processors."""
    seen = observe(configure_structlogs_formatter_from_a_file, "naive.structlog_formatter", tmp_path)
    assert seen.told == {"lines": []}
    assert "TypeError: 'str' object is not callable" in seen.errors


def configure_everything_from_a_file(world: World) -> None:
    """structlog's chain, a sink's, a formatter's, and both handlers: one JSON file, and not a line of code."""
    path, formatted = world.directory / "logging.json", world.directory / "formatted.log"
    path.write_text(json.dumps(world.make(str(formatted))))
    world.module.mvx_logger.configure(str(path))
    import structlog

    structlog.get_logger("shop").info("order.created", amount=3)
    logging.getLogger("shop.db").warning("slow query", extra={"seconds": 2})
    world.tell(formatted=formatted.read_text())


def test_20_everything_that_the_bridge_offers_can_be_written_in_a_plain_data_file(tmp_path: Path) -> None:
    """Processors by name and with options, in a chain, in a sink and in a formatter."""
    seen = observe(configure_everything_from_a_file, "ours.everything", tmp_path)
    assert seen.code == 0
    assert seen.errors.splitlines() == [
        "timestamp=now level=info logger=shop amount=3 shop=north msg=order.created",
        'timestamp=now level=warning logger=shop.db seconds=2 msg="slow query"',
    ]
    assert seen.told == {"formatted": '{"event": "slow query", "level": "warning", "seconds": 2}\n'}
