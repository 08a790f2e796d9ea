"""A real TCP destination that misbehaves in every way that networks and servers know."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import random
import re
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from delivery_helpers import TIMEOUT, assert_accounts, make_event, wait_until, worker_threads
from mvx_logger import LogDeliveryErrorKind, LogSinkStats, MemoryLogSink, configure_log_sink, selflog
from mvx_logger.delivery.dead_letter import split_dead_letter
from mvx_logger.formats.json import decode_lines
from tcp_helpers import Behaviour, Connection, Receipts, ServerProcess, TcpServer, has_ipv6, serve, serve_some

pytestmark = pytest.mark.slow

PATH = Path(__file__).resolve().parents[2] / "examples" / "custom_tcp_sink.py"
SPEC = importlib.util.spec_from_file_location("custom_tcp_sink", PATH)
assert SPEC is not None
assert SPEC.loader is not None
example: Any = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = example
SPEC.loader.exec_module(example)

SECRET = "hunter2-AbCdEf"
THREADS = 4


# ---------------------------------------------------------------------------------------------------- what a server does


def reset_at_once(connection: Connection) -> None:
    connection.reset()


def reset_in_the_middle(connection: Connection) -> None:
    connection.read_line()
    connection.read_line()
    connection.reset()


def reset_before_it_is_stored(connection: Connection) -> None:
    connection.read_batch()
    connection.reset()


def reset_before_the_answer(connection: Connection) -> None:
    batch = connection.read_batch()
    if batch is not None:
        connection.store(batch)
    connection.reset()


def reset_in_the_answer(connection: Connection) -> None:
    batch = connection.read_batch()
    if batch is not None:
        connection.store(batch)
        connection.send(b'{"batch":"')
    connection.reset()


def close_at_once(connection: Connection) -> None:
    pass


def close_after_some_bytes(connection: Connection) -> None:
    connection.socket.recv(100, socket.MSG_WAITALL)


def close_before_the_answer(connection: Connection) -> None:
    batch = connection.read_batch()
    if batch is not None:
        connection.store(batch)


def close_in_the_answer(connection: Connection) -> None:
    batch = connection.read_batch()
    if batch is not None:
        connection.store(batch)
        connection.send(b'{"batch":"')


def never_read(connection: Connection) -> None:
    connection.stall()


def never_answer(connection: Connection) -> None:
    batch = connection.read_batch()
    if batch is not None:
        connection.store(batch)
        connection.stall()


def answer_too_late(connection: Connection) -> None:
    """The client has given up on it by then."""
    batch = connection.read_batch()
    if batch is not None:
        connection.stall()
        connection.answer(batch)


def answer_without_end(connection: Connection) -> None:
    """A few bytes now and then, so that the connection looks alive."""
    batch = connection.read_batch()
    if batch is not None:
        connection.send(b'{"batch":"')
        while True:
            connection.crawl(b"xxxxxxxxxx")


def send_an_endless_line(connection: Connection) -> None:
    while True:
        connection.send(b"x" * 65_536)


def send_an_endless_line_after_the_batch(connection: Connection) -> None:
    if connection.read_batch() is not None:
        send_an_endless_line(connection)


def answer_with(text: bytes) -> Behaviour:
    def behave(connection: Connection) -> None:
        while connection.read_batch() is not None:
            connection.send(text)

    return behave


def echo(connection: Connection) -> None:
    """What it gets comes back: also the token."""
    while data := connection.socket.recv(65_536):
        connection.send(data)


def talk_first(connection: Connection) -> None:
    """Something that looks like an answer comes before the question."""
    connection.send(b'{"batch":"00000000-0000-8000-8000-000000000000","taken":1}\n')
    connection.read_batch()
    connection.stall()


def confirm_another_number(connection: Connection) -> None:
    while (batch := connection.read_batch()) is not None:
        connection.answer(batch, taken=len(batch.events) + 1)


def name_events_that_are_not_there(connection: Connection) -> None:
    while (batch := connection.read_batch()) is not None:
        connection.answer(batch, taken=len(batch.events) - 1, refused={"5000": "who?"})


def be_busy(connection: Connection) -> None:
    # The sink stays connected here as well.
    while (batch := connection.read_batch()) is not None and connection.server.behaviour is be_busy:
        connection.answer(batch, busy=0.001)


def want_all_again(connection: Connection) -> None:
    # The sink stays connected: the server has understood it.
    while (batch := connection.read_batch()) is not None and connection.server.behaviour is want_all_again:
        connection.answer(batch, retry=list(range(len(batch.events))))


def serve_slowly(connection: Connection) -> None:
    """A few bytes at a time, and the answer byte by byte; but it does come."""
    while (batch := connection.read_batch()) is not None:
        connection.store(batch)
        connection.crawl(json.dumps({"batch": batch.name, "taken": len(batch.events)}).encode() + b"\n")


class FaultyServer(TcpServer):
    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__(host)
        self.fillers: list[socket.socket] = []

    def close(self) -> None:
        for filler in self.fillers:
            filler.close()
        super().close()


def do_nothing(server: TcpServer) -> None:
    pass


def leave_connections_to_the_kernel(server: TcpServer) -> None:
    server.open(accept=False)


def fill_the_backlog(server: FaultyServer) -> None:
    """From then on, the kernel drops what wants to connect: a black hole."""
    server.open(backlog=0, accept=False)
    while True:
        filler = socket.socket()
        server.fillers.append(filler)
        filler.setblocking(False)
        assert filler.connect_ex((server.host, server.port)) == errno.EINPROGRESS
        if not select.select([], [filler], [], 0.1)[1]:
            return


@dataclass(frozen=True)
class Fault:
    """What is wrong with a server from the start, until it is healed."""

    name: str
    error: str
    """What is told of it: a pattern."""
    behaviour: Behaviour = serve
    begin: Callable[[FaultyServer], object] = TcpServer.open
    end: Callable[[FaultyServer], object] = do_nothing
    stores: bool = False
    """True where the server keeps what it does not confirm."""

    @property
    def options(self) -> dict[str, float]:
        """For a sink: no attempt needs its timeout, but where nothing else ends it."""
        return {"delivery_timeout": 0.15} if self.error == TIMED_OUT else {}

    def break_server(self, server: FaultyServer) -> None:
        server.behaviour = self.behaviour
        self.begin(server)

    def heal_server(self, server: FaultyServer) -> None:
        server.behaviour = serve
        self.end(server)


RESET = "(ConnectionResetError|BrokenPipeError|IncompleteReadError)"
TIMED_OUT = r"TimeoutError: no answer within 0\.\d+ seconds"
NONSENSE = "LogDeliveryTransientError: the server talks nonsense"
WRONG = "LogDeliveryTransientError: the server's answer is for something else"

FAULTS = [
    Fault("refused", "ConnectionRefusedError", begin=do_nothing, end=TcpServer.open),
    Fault("black hole", TIMED_OUT, begin=fill_the_backlog, end=TcpServer.accept),
    Fault("never accepted", TIMED_OUT, begin=leave_connections_to_the_kernel, end=TcpServer.accept),
    *(
        Fault(behaviour.__name__.replace("_", " "), error, behaviour, stores=stores)
        for behaviour, error, stores in (
            (reset_at_once, RESET, False),
            (reset_in_the_middle, RESET, False),
            (reset_before_it_is_stored, RESET, False),
            (reset_before_the_answer, RESET, True),
            (reset_in_the_answer, RESET, True),
            (close_at_once, RESET, False),
            (close_after_some_bytes, RESET, False),
            (close_before_the_answer, RESET, True),
            (close_in_the_answer, "IncompleteReadError", True),
            (never_read, TIMED_OUT, False),
            (never_answer, TIMED_OUT, True),
            (answer_too_late, TIMED_OUT, False),
            (answer_without_end, TIMED_OUT, False),
            (send_an_endless_line, "LimitOverrunError", False),
            (send_an_endless_line_after_the_batch, "LimitOverrunError", False),
            (echo, NONSENSE, False),
            (talk_first, WRONG, False),
            (confirm_another_number, WRONG, False),
            (be_busy, "LogDeliveryTransientError: the server is busy", False),
            (want_all_again, "LogDeliveryPartialError: not all was taken", False),
        )
    ),
    Fault(
        "name events that are not there",
        "LogDeliveryTransientError: there is no event 5000",
        name_events_that_are_not_there,
    ),
    *(
        Fault(name, NONSENSE, answer_with(text))
        for name, text in (
            ("answers an empty line", b"\n"),
            ("answers in another protocol", f"HTTP/1.1 401 token={SECRET}\r\n\r\n".encode()),
            ("answers binary", bytes(range(256)) * 2),
            ("answers with other types", b'{"batch":[1],"taken":"all"}\n'),
            ("answers with unknown fields", b'{"batch":"x","taken":1,"stolen":1}\n'),
        )
    ),
]
BY_NAME = {fault.name: fault for fault in FAULTS}


def some(*names: str) -> list[Fault]:
    return [BY_NAME[name] for name in names]


# ---------------------------------------------------------------------------------------------------- fixtures


@pytest.fixture
def servers() -> Iterator[Callable[..., FaultyServer]]:
    made: list[FaultyServer] = []

    def make(host: str = "127.0.0.1") -> FaultyServer:
        made.append(FaultyServer(host))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def server(servers: Callable[..., FaultyServer]) -> FaultyServer:
    return servers()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path / "receipts")
    yield server
    server.close()


# Before the servers end: a sink that is left behind by a test that fails gets no time.
@pytest.fixture
def make(servers: object, process: object) -> Iterator[Callable[..., Any]]:
    sinks: list[Any] = []

    def make(server: Any, cls: Any = example.TcpLogSink, **options: Any) -> Any:
        known = {
            "host": server.host,
            "port": server.port,
            "token": SECRET,
            "batch_max_size": 100,
            "batch_max_age": 0.01,
            "delivery_timeout": TIMEOUT,
            "retry_delay": 0.004,
            "retry_max_delay": 0.02,
            "circuit_threshold": 2,
        }
        sink, _ = cls.create(**known | options)
        sinks.append(sink)
        return sink

    yield make
    for sink in sinks:
        sink._close_within(0.0)
    for sink in sinks:
        sink.close()
    wait_until(lambda: not worker_threads())


@pytest.fixture
def told() -> list[selflog.SelfLogReport]:
    """What the logger tells of its trouble: once of each kind, however often it happens."""
    reports: list[selflog.SelfLogReport] = []
    selflog.set_interval(3600)
    selflog.redirect(reports.append)
    return reports


def log_from_threads(sink: Any, numbers: range = range(400)) -> None:
    """Log from several threads at once; all have returned, and none was refused."""
    errors: list[BaseException] = []

    def log_all(thread: int) -> None:
        try:
            for number in numbers:
                sink.log(make_event(f"{thread} {number}"))
        except BaseException as err:
            errors.append(err)

    threads = [threading.Thread(target=log_all, args=(thread,), daemon=True) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert not any(thread.is_alive() for thread in threads)
    assert not errors


def wait_for(sink: Any, condition: Callable[[LogSinkStats], object]) -> LogSinkStats:
    """Wait until the accounts are so; they are true at each look."""
    seen: list[LogSinkStats] = []

    def look() -> object:
        stats = sink.stats()
        assert_accounts(stats)
        seen.append(stats)
        return condition(stats)

    wait_until(look)
    return seen[-1]


def wait_for_delivery(sink: Any, count: int) -> LogSinkStats:
    """Wait until all is delivered; the accounts say that it is, and that nothing else became of any of it."""
    stats = wait_for(sink, lambda stats: not stats.pending)
    assert (stats.accepted, stats.delivered, stats.dropped, stats.dead_lettered) == (count, count, {}, 0)
    assert stats.circuit == "closed"
    return stats


def wait_for_more_than(sink: Any, count: int) -> None:
    """Wait until more than so many events are delivered."""
    wait_for(sink, lambda stats: stats.delivered > count)


def assert_arrived(receipts: Receipts, numbers: range = range(400)) -> None:
    """Each event is there once, and those of each thread are in the order in which it logged them."""
    names = receipts.names
    for thread in range(THREADS):
        mine = [name for name in names if name.startswith(f"{thread} ")]
        assert mine == [f"{thread} {number}" for number in numbers]
    assert len(names) == THREADS * len(numbers)


def assert_keeps_the_secret(sink: Any, told: list[selflog.SelfLogReport]) -> None:
    assert SECRET not in repr((sink, sink.stats(), told))


def select_reports(told: list[selflog.SelfLogReport], kind: str) -> list[selflog.SelfLogReport]:
    return [report for report in told if report.kind == kind]


# ---------------------------------------------------------------------------------------------------- an outage


class TestOutage:
    @pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
    def test_nothing_is_lost_and_nobody_is_held_up(
        self, make: Any, server: FaultyServer, told: list[selflog.SelfLogReport], fault: Fault
    ) -> None:
        """The server misbehaves while four threads log: they are done before the first event is delivered. When it is
        well again, it has every event once, in order; the failure and the recovery were told once each."""
        fault.break_server(server)
        sink = make(server, **fault.options)
        log_from_threads(sink)
        stats = wait_for(sink, lambda stats: stats.circuit != "closed" and stats.retries >= 3)
        assert (stats.accepted, stats.delivered, stats.dropped) == (1600, 0, {})
        assert re.match(fault.error, str(stats.last_error)), stats.last_error
        assert not told[1:]
        assert told[0].kind == "delivery"
        assert re.match(fault.error, told[0].fields["error"])
        assert fault.stores or not server.receipts.arrivals

        fault.heal_server(server)
        wait_for_delivery(sink, 1600)
        assert_arrived(server.receipts)
        assert [report.kind for report in told] == ["delivery", "delivery_restored"]
        assert told[1].fields["seconds"] > 0
        assert_keeps_the_secret(sink, told)

    @pytest.mark.parametrize(
        "fault", some("refused", "reset before the answer", "never answer"), ids=lambda fault: fault.name
    )
    @pytest.mark.parametrize("host", ["::1"] if has_ipv6() else [])
    def test_over_ipv6(self, make: Any, servers: Any, host: str, fault: Fault) -> None:
        """It is all the same there."""
        server = servers(host)
        fault.break_server(server)
        sink = make(server, **fault.options)
        log_from_threads(sink)
        wait_for(sink, lambda stats: stats.circuit != "closed" and stats.retries >= 3)
        fault.heal_server(server)
        wait_for_delivery(sink, 1600)
        assert_arrived(server.receipts)


# ---------------------------------------------------------------------------------------------------- failures under load


BRIEF = [
    reset_at_once,
    reset_in_the_middle,
    reset_before_it_is_stored,
    reset_before_the_answer,
    reset_in_the_answer,
    close_at_once,
    close_after_some_bytes,
    close_before_the_answer,
    close_in_the_answer,
    send_an_endless_line_after_the_batch,
    echo,
    confirm_another_number,
]


class TestUnderLoad:
    @pytest.mark.parametrize("behaviour", BRIEF, ids=lambda behaviour: behaviour.__name__)
    def test_connections_that_fail_now_and_then(self, make: Any, server: FaultyServer, behaviour: Behaviour) -> None:
        """A dozen connections serve a few batches, then fail, while four threads log: each event arrives, once, in order."""
        chance = random.Random(behaviour.__name__)
        server.next_ones.extend(serve_some(chance.randrange(4), behaviour) for _ in range(12))
        server.open()
        sink = make(server, circuit_threshold=3)
        log_from_threads(sink, range(750))
        stats = wait_for_delivery(sink, 3000)
        assert_arrived(server.receipts, range(750))
        # Where the sink sees that a connection was closed before it uses it again, that is no failure: perhaps each time.
        assert stats.retries >= 3 or behaviour is close_at_once
        assert server.connections >= 12

    def test_all_of_it_at_once(self, make: Any, server: FaultyServer) -> None:
        """Sixty connections fail, each in a way of its own, those that answer nothing among them."""
        chance = random.Random(60)
        server.next_ones.extend(
            serve_some(chance.randrange(3), chance.choice([*BRIEF, never_answer, never_read]) if number % 6 else echo)
            for number in range(60)
        )
        server.open()
        sink = make(server, delivery_timeout=0.1)
        log_from_threads(sink, range(1000))
        wait_for_delivery(sink, 4000)
        assert_arrived(server.receipts, range(1000))

    def test_server_that_closes_after_every_request(
        self, make: Any, server: FaultyServer, told: list[selflog.SelfLogReport]
    ) -> None:
        """Each batch takes a connection of its own. Where the close is seen in time, that is no failure at all."""
        server.behaviour = serve_some(1, close_at_once)
        server.open()
        sink = make(server)
        log_from_threads(sink, range(750))
        wait_for_delivery(sink, 3000)
        assert_arrived(server.receipts, range(750))
        assert server.connections >= 30
        wait_until(lambda: not server.is_connected())
        retries = sink.stats().retries
        sink.log(make_event("late"))
        wait_for_delivery(sink, 3001)
        assert sink.stats().retries == retries

    def test_server_that_is_slow(self, make: Any, server: FaultyServer) -> None:
        """It reads little by little and answers byte by byte, but it does: that is no failure."""
        server.behaviour = serve_slowly
        server.open()
        sink = make(server, delivery_timeout=TIMEOUT, batch_max_size=500)
        log_from_threads(sink, range(500))
        stats = wait_for_delivery(sink, 2000)
        assert_arrived(server.receipts, range(500))
        assert (stats.retries, stats.last_error, server.connections) == (0, None, 1)

    def test_server_that_stops_reading_in_the_middle_of_much(self, make: Any, server: FaultyServer) -> None:
        """More than any buffer takes: the attempt ends at its timeout also while it is writing."""
        server.next_ones.append(never_read)
        server.open()
        sink = make(server, batch_max_size=1000, batch_max_bytes=1 << 30, delivery_timeout=0.5)
        for number in range(1000):
            sink.log(make_event(f"0 {number}", text="x" * 20_000))
        stats = wait_for_delivery(sink, 1000)
        assert [name for name in server.receipts.names if name.startswith("0 ")] == [f"0 {n}" for n in range(1000)]
        assert str(stats.last_error).startswith("TimeoutError: no answer within 0.5 seconds")

    def test_servers_that_come_and_go(self, make: Any, server: FaultyServer) -> None:
        """The port opens and closes again and again while threads log."""
        sink = make(server)
        over = threading.Event()

        def come_and_go() -> None:
            while not over.is_set():
                server.open()
                over.wait(0.02)
                server.shut()
            server.open()

        operator = threading.Thread(target=come_and_go, daemon=True)
        operator.start()
        count = 0
        while count < 400 or sink.stats().retries < 10:
            log_from_threads(sink, range(count, count + 40))
            count += 40
            wait_for(sink, lambda stats: stats.pending < 1000)
        over.set()
        operator.join(TIMEOUT)
        wait_for_delivery(sink, THREADS * count)
        assert_arrived(server.receipts, range(count))


# ---------------------------------------------------------------------------------------------------- the end of a sink


ENDINGS = some("refused", "black hole", "never accepted", "reset in the middle", "reset before the answer",
               "close at once", "never read", "never answer", "answer without end", "send an endless line",
               "echo", "name events that are not there", "be busy", "want all again")  # fmt: skip


class TestClose:
    @pytest.mark.parametrize("fault", ENDINGS, ids=lambda fault: fault.name)
    def test_ends_by_itself_and_says_what_is_left(
        self, make: Any, server: FaultyServer, told: list[selflog.SelfLogReport], fault: Fault
    ) -> None:
        """The server works, then it does not, and `close` is called: some events are there, the others are told as lost."""
        server.open()
        sink = make(server, shutdown_timeout=0.3, **fault.options)
        log_from_threads(sink, range(100))
        wait_for_delivery(sink, 400)
        server.shut()
        fault.break_server(server)
        log_from_threads(sink, range(100, 400))
        wait_for(sink, lambda stats: stats.retries)
        sink.close()
        stats = sink.stats()
        assert_accounts(stats)
        # It was not given up on: it has ended by itself, in time.
        assert (stats.state, stats.accepted, stats.delivered, stats.pending) == ("stopped", 1600, 400, 0)
        assert stats.dropped == {"shutdown": 1200}
        wait_until(lambda: not worker_threads())
        assert fault.stores or len(server.receipts.names) == 400
        [last] = select_reports(told, "shutdown")
        assert last.fields["lost"] == 1200
        assert len(told) == 2
        assert_keeps_the_secret(sink, told)

    def test_delivers_at_the_last_moment(self, make: Any, server: FaultyServer) -> None:
        """The server comes back while the sink waits in `close`: long waits between attempts end there, and all arrives."""
        sink = make(server, retry_delay=3600, retry_max_delay=3600, shutdown_timeout=TIMEOUT)
        log_from_threads(sink)
        wait_for(sink, lambda stats: stats.last_error)
        closing = threading.Thread(target=sink.close, daemon=True)
        closing.start()
        wait_for(sink, lambda stats: stats.retries >= 2)
        server.open()
        closing.join(TIMEOUT)
        assert not closing.is_alive()
        wait_for_delivery(sink, 1600)
        assert_arrived(server.receipts)

    @pytest.mark.parametrize("fault", some("refused", "never answer"), ids=lambda fault: fault.name)
    def test_dead_letters_what_is_left(
        self, make: Any, server: FaultyServer, told: list[selflog.SelfLogReport], tmp_path: Path, fault: Fault
    ) -> None:
        """With a dead-letter file, the end of a sink loses nothing."""
        fault.break_server(server)
        sink = make(server, shutdown_timeout=0.3, dead_letter=tmp_path / "dead.jsonl", **fault.options)
        log_from_threads(sink, range(100))
        sink.close()
        stats = sink.stats()
        assert_accounts(stats)
        assert (stats.state, stats.delivered, stats.dropped, stats.dead_lettered) == ("stopped", 0, {}, 400)
        assert select_reports(told, "shutdown")[0].fields["dead_lettered"] == 400
        receipts = Receipts()
        for letter in decode_lines((tmp_path / "dead.jsonl").read_bytes().splitlines()):
            event, facts = split_dead_letter(letter)
            assert facts is not None
            assert facts.reason == "shutdown"
            receipts.take([(facts.delivery_id, event.meta.event_name)])
        assert_arrived(receipts, range(100))
        assert SECRET not in (tmp_path / "dead.jsonl").read_text()


# ---------------------------------------------------------------------------------------------------- a disk queue


class TestDurable:
    @pytest.mark.parametrize("fault", ENDINGS, ids=lambda fault: fault.name)
    def test_sink_that_ends_in_the_middle_of_an_outage(
        self, make: Any, server: FaultyServer, told: list[selflog.SelfLogReport], tmp_path: Path, fault: Fault
    ) -> None:
        """The next one delivers what it has left, then its own, with the same ids: the server has each event once."""
        fault.break_server(server)
        sink = make(server, durable=tmp_path / "spool", shutdown_timeout=0.1, **fault.options)
        log_from_threads(sink, range(200))
        wait_for(sink, lambda stats: stats.circuit != "closed" and stats.retries >= 3)
        sink.close()
        stats = sink.stats()
        assert_accounts(stats)
        assert (stats.state, stats.pending, stats.spooled, stats.dropped) == ("stopped", 800, 800, {})
        [last] = select_reports(told, "shutdown")
        assert (last.fields["spooled"], last.fields["directory"]) == (800, str(tmp_path / "spool"))
        assert "lost" not in last.fields or not last.fields["lost"]

        sink = make(server, durable=tmp_path / "spool", **fault.options)
        log_from_threads(sink, range(200, 400))
        stats = wait_for(sink, lambda stats: stats.circuit != "closed" and stats.retries >= 3)
        assert (stats.recovered, stats.accepted, stats.delivered) == (800, 1600, 0)
        fault.heal_server(server)
        wait_for_delivery(sink, 1600)
        assert_arrived(server.receipts)
        assert_keeps_the_secret(sink, told)
        for file in tmp_path.rglob("*"):
            assert not file.is_file() or SECRET.encode() not in file.read_bytes()

    def test_sink_that_is_stopped_and_started_again(self, make: Any, server: FaultyServer, tmp_path: Path) -> None:
        """Three times in an outage, each batch stored by the server but never confirmed: it has each event once."""
        BY_NAME["reset before the answer"].break_server(server)
        sink = make(server, durable=tmp_path / "spool", shutdown_timeout=0.05)
        for start in range(0, 400, 100):
            log_from_threads(sink, range(start, start + 100))
            wait_for(sink, lambda stats: stats.circuit != "closed")
            assert sink.stop().wait(TIMEOUT).success
            stats = sink.stats()
            assert_accounts(stats)
            assert stats.pending == stats.spooled == 4 * (start + 100)
            assert sink.start().wait(TIMEOUT).success
        server.behaviour = serve
        wait_for(sink, lambda stats: not stats.pending)
        assert_arrived(server.receipts)
        stats = sink.stats()
        assert (stats.accepted, stats.delivered, stats.dropped) == (1600, 1600, {})

    def test_failures_under_load(self, make: Any, server: FaultyServer, tmp_path: Path) -> None:
        """Connections fail now and then, and the sink is replaced now and then: each event arrives, once, in order."""
        chance = random.Random(7)
        server.next_ones.extend(serve_some(chance.randrange(4), chance.choice(BRIEF)) for _ in range(40))
        server.open()
        for start in range(0, 1000, 250):
            sink = make(server, durable=tmp_path / "spool", shutdown_timeout=0.01)
            log_from_threads(sink, range(start, start + 250))
            sink.close()
            assert_accounts(sink.stats())
            assert not sink.stats().dropped
        sink = make(server, durable=tmp_path / "spool")
        wait_for(sink, lambda stats: not stats.pending)
        assert_arrived(server.receipts, range(1000))


# ---------------------------------------------------------------------------------------------------- a server process


class TestProcess:
    def test_frozen_server(self, make: Any, process: ServerProcess, told: list[selflog.SelfLogReport]) -> None:
        """It is stopped in the middle of a load (its kernel still takes connections): nobody who logs is held up. When it
        goes on it finds the same events on several connections, and keeps each once, in order."""
        process.start()
        sink = make(process, delivery_timeout=0.25)
        log_from_threads(sink, range(200))
        wait_for(sink, lambda stats: stats.delivered)
        process.freeze()
        log_from_threads(sink, range(200, 400))
        stats = wait_for(sink, lambda stats: stats.circuit == "open" and stats.retries >= 3)
        assert stats.pending >= 800
        assert str(stats.last_error).startswith("TimeoutError: no answer within 0.25 seconds")
        process.thaw()
        wait_for_delivery(sink, 1600)
        assert_arrived(process.receipts)
        assert [report.kind for report in told] == ["delivery", "delivery_restored"]

    @pytest.mark.parametrize("durable", [False, True], ids=["in memory", "on disk"])
    def test_server_that_vanishes(
        self, make: Any, process: ServerProcess, told: list[selflog.SelfLogReport], tmp_path: Path, durable: bool
    ) -> None:
        """It hangs, is killed, is away, and comes back; on disk, the sink is replaced by another one meanwhile."""
        options: dict[str, Any] = {"delivery_timeout": 0.25}
        if durable:
            options |= {"durable": tmp_path / "spool", "shutdown_timeout": 0.1}
        process.start()
        sink = make(process, **options)
        log_from_threads(sink, range(200))
        wait_for(sink, lambda stats: stats.delivered)
        process.freeze()
        log_from_threads(sink, range(200, 300))
        wait_for(sink, lambda stats: "TimeoutError" in str(stats.last_error))
        process.kill()
        wait_for(sink, lambda stats: "ConnectionRefusedError" in str(stats.last_error))
        if durable:
            sink.close()
            assert_accounts(sink.stats())
            assert not sink.stats().dropped
            sink = make(process, **options)
        log_from_threads(sink, range(300, 400))
        wait_for(sink, lambda stats: stats.circuit == "open")
        process.start()
        wait_for(sink, lambda stats: not stats.pending)
        assert_arrived(process.receipts)
        assert len(told) <= 5
        assert_keeps_the_secret(sink, told)

    def test_server_that_is_killed_again_and_again(self, make: Any, process: ServerProcess) -> None:
        """At any moment of a load: what it had stored and not confirmed comes again, and nothing is lost."""
        sink = make(process, batch_max_size=20)
        for start in range(0, 750, 125):
            process.start()
            log_from_threads(sink, range(start, start + 125))
            wait_for_more_than(sink, THREADS * start)
            process.kill()
        process.start()
        wait_for_delivery(sink, 3000)
        assert_arrived(process.receipts, range(750))


# ---------------------------------------------------------------------------------------------------- what a server says


def refuse_the_poisonous(connection: Connection) -> None:
    while (batch := connection.read_batch()) is not None:
        poison = {str(i): "no such shop" for i, (_, name) in enumerate(batch.events) if is_poisonous(name)}
        good = [event for event in batch.events if not is_poisonous(event[1])]
        connection.server.store(good)
        connection.answer(batch, taken=len(good), refused=poison)


def die_of_the_poisonous(connection: Connection) -> None:
    while (batch := connection.read_batch()) is not None:
        if any(is_poisonous(name) for _, name in batch.events):
            connection.reset()
        connection.store(batch)
        connection.answer(batch)


def is_poisonous(name: str) -> bool:
    return int(name.rpartition(" ")[2]) % 100 == 13


class TestAnswers:
    def test_refused_events(
        self, make: Any, server: FaultyServer, told: list[selflog.SelfLogReport], tmp_path: Path
    ) -> None:
        """They are in the dead-letter file with the server's reason; all others arrive, once, in order."""
        server.behaviour = refuse_the_poisonous
        server.open()
        sink = make(server, dead_letter=tmp_path / "dead.jsonl")
        log_from_threads(sink)
        stats = wait_for(sink, lambda stats: not stats.pending)
        assert (stats.delivered, stats.dead_lettered, stats.dropped, stats.retries) == (1584, 16, {}, 0)
        letters = [split_dead_letter(one) for one in decode_lines((tmp_path / "dead.jsonl").read_bytes().splitlines())]
        assert {event.meta.event_name for event, _ in letters} == {
            f"{thread} {number}" for thread in range(THREADS) for number in (13, 113, 213, 313)
        }
        assert {(facts.reason, facts.error, facts.attempts) for _, facts in letters if facts} == {
            ("refused", "no such shop", 1)
        }
        assert_good_ones_arrived(server.receipts)
        assert len(told) == 2

    def test_recovery_with_a_refusal(self, make: Any, server: FaultyServer, told: list[selflog.SelfLogReport]) -> None:
        """The first word of the server after an outage is that it refuses an event: that it is back is told all the same."""
        server.behaviour = refuse_the_poisonous
        sink = make(server)
        sink.log(make_event("13"))
        wait_for(sink, lambda stats: stats.circuit == "open")
        server.open()
        stats = wait_for(sink, lambda stats: not stats.pending)
        assert (stats.dropped, stats.circuit) == ({"refused": 1}, "closed")
        wait_until(lambda: select_reports(told, "delivery_restored"))

    def test_events_that_the_server_dies_of(self, make: Any, server: FaultyServer) -> None:
        """A sink that does not take a lost connection for an outage finds them: only they are given up."""

        class Doubtful(example.TcpLogSink):  # type: ignore[misc]
            def _classify_error(self, error: BaseException) -> LogDeliveryErrorKind:
                return LogDeliveryErrorKind.UNKNOWN

        server.behaviour = die_of_the_poisonous
        server.open()
        sink = make(server, Doubtful, retry_delay=0.001)
        log_from_threads(sink)
        stats = wait_for(sink, lambda stats: not stats.pending)
        assert (stats.delivered, stats.dropped) == (1584, {"refused": 16})
        assert sorted(server.receipts.names) == sorted(
            f"{thread} {number}" for thread in range(THREADS) for number in range(400) if number % 100 != 13
        )

    def test_busy_server(self, make: Any, server: FaultyServer) -> None:
        """It asks to be left alone for a while, and is: however short the sink's own waits are."""
        times: list[float] = []

        def be_busy_once(connection: Connection) -> None:
            batch = connection.read_batch()
            assert batch is not None
            times.append(time.monotonic())
            connection.answer(batch, busy=0.2)
            batch = connection.read_batch()
            assert batch is not None
            times.append(time.monotonic())
            connection.store(batch)
            connection.answer(batch)
            serve(connection)

        server.next_ones.append(be_busy_once)
        server.open()
        sink = make(server, retry_delay=0)
        log_from_threads(sink)
        stats = wait_for_delivery(sink, 1600)
        assert_arrived(server.receipts)
        assert stats.retries == 1
        assert times[1] - times[0] > 0.19
        assert stats.last_error == "LogDeliveryTransientError: the server is busy"

    def test_server_that_takes_a_part(self, make: Any, server: FaultyServer) -> None:
        """It takes every other event and wants to see the others again: each arrives once, and the order of both is kept."""

        def take_every_other(connection: Connection) -> None:
            seen: set[str] = set()
            while (batch := connection.read_batch()) is not None:
                again = [
                    index
                    for index, (delivery_id, name) in enumerate(batch.events)
                    if int(name.split()[1]) % 2 and delivery_id not in seen
                ]
                seen.update(batch.events[index][0] for index in again)
                connection.server.store([event for index, event in enumerate(batch.events) if index not in again])
                connection.answer(batch, taken=len(batch.events) - len(again), retry=again)

        server.behaviour = take_every_other
        server.open()
        sink = make(server)
        log_from_threads(sink)
        stats = wait_for_delivery(sink, 1600)
        assert stats.retries >= 8
        assert server.receipts.arrivals == len(server.receipts.names) == 1600
        for thread in range(THREADS):
            mine = [int(name.split()[1]) for name in server.receipts.names if name.startswith(f"{thread} ")]
            for parity in (0, 1):
                assert [number for number in mine if number % 2 == parity] == list(range(parity, 400, 2))


def assert_good_ones_arrived(receipts: Receipts) -> None:
    for thread in range(THREADS):
        mine = [name for name in receipts.names if name.startswith(f"{thread} ")]
        assert mine == [f"{thread} {number}" for number in range(400) if number % 100 != 13]
    assert len(receipts.names) == 1584


# ---------------------------------------------------------------------------------------------------- names


class TestNames:
    def test_name_that_does_not_exist(
        self, make: Any, server: FaultyServer, told: list[selflog.SelfLogReport], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may exist later: the events wait, and the end of the sink tells how many there were."""

        def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        sink = make(server, host="collector.example", shutdown_timeout=0.3)
        log_from_threads(sink, range(100))
        stats = wait_for(sink, lambda stats: stats.circuit == "open")
        assert str(stats.last_error) == "gaierror: [Errno -2] Name or service not known"
        sink.close()
        stats = sink.stats()
        assert (stats.state, stats.delivered, stats.dropped) == ("stopped", 0, {"shutdown": 400})
        assert select_reports(told, "shutdown")[0].fields["lost"] == 400

    def test_name_that_cannot_be(self, make: Any, server: FaultyServer) -> None:
        """What is no name at all is no reason to lose events either: somebody may log them to the right place later."""
        sink = make(server, host="a..b", shutdown_timeout=0.1, dead_letter=MemoryLogSink())
        log_from_threads(sink, range(100))
        stats = wait_for(sink, lambda stats: stats.circuit == "open" and stats.retries >= 10)
        assert (stats.delivered, stats.dropped, stats.dead_lettered) == (0, {}, 0)
        assert "Unicode" in str(stats.last_error)
        sink.close()
        assert sink.stats().dead_lettered == 400

    def test_resolver_that_fails_for_a_while(
        self, make: Any, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The name server is down, and comes back."""
        resolve = socket.getaddrinfo
        down = threading.Event()
        down.set()

        def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
            if host != "collector.example":
                return resolve(host, *args, **kwargs)
            if down.is_set():
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            return resolve("127.0.0.1", *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        server.open()
        sink = make(server, host="collector.example")
        log_from_threads(sink)
        stats = wait_for(sink, lambda stats: stats.circuit == "open" and stats.retries >= 3)
        assert str(stats.last_error).startswith("gaierror: ")
        down.clear()
        wait_for_delivery(sink, 1600)
        assert_arrived(server.receipts)

    def test_resolver_that_hangs(self, make: Any, server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """It blocks its thread, and nothing else: attempts end at their timeout, and so does the sink."""
        resolve = socket.getaddrinfo
        goes_on = threading.Event()

        def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
            if host == "collector.example":
                assert goes_on.wait(TIMEOUT)
                host = "127.0.0.1"
            return resolve(host, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        server.open()
        sink = make(server, host="collector.example", delivery_timeout=0.05)
        log_from_threads(sink)
        stats = wait_for(sink, lambda stats: stats.circuit != "closed" and stats.retries >= 3)
        assert str(stats.last_error).startswith("TimeoutError: no answer within 0.05 seconds")
        second = make(server, host="collector.example", shutdown_timeout=0.1)
        second.log(make_event("lost"))
        second.close()
        assert (second.stats().state, second.stats().dropped) == ("stopped", {"shutdown": 1})
        goes_on.set()
        wait_for_delivery(sink, 1600)
        assert_arrived(server.receipts)


# ---------------------------------------------------------------------------------------------------- the example itself


class TestExample:
    def test_as_a_url(self, server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Host, port and token come from it; the token reaches the server, and no description of the sink."""
        tokens: list[str | None] = []

        def note_token(connection: Connection) -> None:
            serve(connection)
            tokens.append(connection.token)

        server.behaviour = note_token
        server.open()
        options = example.TcpLogSink.options_from_url(urlsplit(f"tcp+json://:{SECRET}@127.0.0.1:{server.port}"))
        descriptor = example.TcpLogSink.build_descriptor(**options)
        assert descriptor.resource_key == ("127.0.0.1", server.port)
        assert SECRET not in repr(descriptor)
        sink = configure_log_sink(name="tcp", sink_cls=example.TcpLogSink, **options)
        sink.log(make_event("0 0"))
        assert sink.flush(TIMEOUT)
        sink.close()
        wait_until(lambda: tokens == [SECRET])
        assert server.receipts.names == ["0 0"]

    def test_forked_child_has_a_connection_of_its_own(self, make: Any, server: FaultyServer) -> None:
        """Also where it cannot connect at first: the parent's connection is left alone, and goes on to work."""
        server.open()
        sink = make(server)
        sink.log(make_event("parent 1"))
        wait_for_delivery(sink, 1)
        server.refuse()
        failed, tell = os.pipe()
        if not (child := os.fork()):
            try:
                sink.log(make_event("child"))
                wait_for(sink, lambda stats: stats.retries >= 3)
                os.write(tell, b"refused")
                os._exit(0 if sink.flush(TIMEOUT) and sink.stats().accepted == 1 else 1)
            finally:
                os._exit(2)
        os.close(tell)
        assert os.read(failed, 100) == b"refused"
        os.close(failed)
        server.open()
        assert os.waitpid(child, 0)[1] == 0
        sink.log(make_event("parent 2"))
        stats = wait_for_delivery(sink, 2)
        assert stats.retries == 0
        assert server.connections == 2
        assert server.receipts.names == ["parent 1", "child", "parent 2"]
