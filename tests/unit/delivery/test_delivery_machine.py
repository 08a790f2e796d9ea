"""A sink against a model of it: random operations in any order, and what has to hold whatever they do."""

from __future__ import annotations

import asyncio
import errno
import functools
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    run_state_machine_as_test,
)
from hypothesis.stateful import rule as hypothesis_rule

from delivery_helpers import assert_accounts, make_event, wait_until, worker_threads
from mvx_logger import (
    AsyncioLogSink,
    AsyncioLogSinkErrorPolicy,
    AsyncioLogSinkInvalidStateError,
    AsyncioLogSinkQueueOverflowError,
    AsyncioLogSinkQueueOverflowPolicy,
    AsyncioLogSinkState,
    LogDeliveryPartialError,
    LogDeliveryRefusedError,
    LogDeliveryTransientError,
    LogEvent,
    LogEventBatch,
    LogSinkStats,
    selflog,
)
from mvx_logger.delivery import disk as disk_module
from mvx_logger.delivery import sink as sink_module
from mvx_logger.delivery import spool as spool_module
from mvx_logger.delivery.dead_letter import split_dead_letter
from mvx_logger.guard import find_offer
from repetitions import often

TIMEOUT = 20.0
"""Seconds after which something that has to happen has not happened."""
PATIENT = 30.0
"""Seconds of a shutdown that is not cut short."""

State = AsyncioLogSinkState
Policy = AsyncioLogSinkQueueOverflowPolicy

SIZES = {"light": 0, "poison": 0, "medium": 700, "large": 3_000, "huge": 40_000}
KINDS = st.sampled_from(["light", "light", "light", "poison", "medium", "large", "huge"])
UP = "up"
pytestmark = pytest.mark.slow

MODES = ("down", "unreachable", "odd", "refusing", "choking", "partial", "resetting", "frozen", "deaf")


def make_numbered(name: str, kind: str) -> LogEvent:
    return make_event(name, poison=kind == "poison", text="x" * SIZES[kind])


def log_numbered(sink: Any, name: str, kind: str) -> None:
    """Log an event as a context does: a light one the quick way, if that is open."""
    event, offer = make_numbered(name, kind), find_offer(sink.log)
    assert offer is not None
    if SIZES[kind] or not offer(event):
        sink.log(event)


# ---------------------------------------------------------------------------------------------------- around the sink


class World:
    """Where events go. It knows each by its delivery id, and does as its mode says.

    Attributes:
        order: The names in the order of their first arrival.
        excused: Events that may come earlier or later than the order of acceptance says.
        faults: What must not happen.
    """

    def __init__(self) -> None:
        self.mode = UP
        self.order: list[str] = []
        self.arrived: set[str] = set()
        self.excused: set[str] = set()
        self.faults: list[str] = []
        self.start_failures = 0
        self.is_connected = False
        self.is_broken = False
        self.is_started = False
        self._names: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        self._alone: Counter[str] = Counter()
        self._suspects: set[str] = set()
        self._asked_again: set[str] = set()
        self._lock = threading.Lock()

    def start(self) -> None:
        if self.is_started:
            self.faults.append("started twice")
        if self.start_failures:
            self.start_failures -= 1
            raise ConnectionRefusedError("not yet")
        self.is_started = True

    def stop(self) -> None:
        if not self.is_started:
            self.faults.append("stopped before it was started")
        self.is_started = False

    def connect(self) -> None:
        if self.is_connected:
            self.faults.append("connected twice")
        if self.mode == "unreachable":
            raise ConnectionRefusedError("unreachable")
        self.is_connected = True

    def disconnect(self) -> None:
        self.is_connected = self.is_broken = False

    async def take(self, events: Sequence[LogEvent], ids: Sequence[str] | None) -> None:
        if not (self.is_connected and self.is_started):
            self.faults.append("a delivery without a connection")
        if self.is_broken:
            self.faults.append("a delivery by a connection that had failed")
        try:
            await self._take(events, ids)
        except (LogDeliveryPartialError, LogDeliveryRefusedError):
            raise
        except BaseException as err:
            self.is_broken = getattr(err, "retry_after", None) is None  # else it has answered
            raise

    async def _take(self, events: Sequence[LogEvent], ids: Sequence[str] | None) -> None:
        while self.mode == "frozen":
            await asyncio.sleep(0.001)
        mode = self.mode
        names = [str(event.meta.event_name) for event in events]
        poison = [index for index, event in enumerate(events) if event.payload["poison"]]
        if mode == "unreachable":
            raise BrokenPipeError("unreachable")
        if mode == "down":
            raise LogDeliveryTransientError("busy", retry_after=0.002 if len(names) % 2 else None)
        if mode == "odd" or (mode == "choking" and poison):
            self._note_unknown(names)
            raise ValueError("odd")
        if mode == "refusing" and poison:
            raise LogDeliveryRefusedError("poison")
        if mode == "partial":
            again = [
                index
                for index, name in enumerate(names)
                if index not in poison and name not in self._asked_again and not zlib.crc32(name.encode()) % 3
            ]
            taken = [index for index in range(len(names)) if index not in poison and index not in again]
            self.keep([names[index] for index in taken], None if ids is None else [ids[index] for index in taken])
            if poison or again:
                self._asked_again.update(names[index] for index in again)
                # One that is refused comes later where it is not given up: the policy FAIL keeps it.
                self.excused.update(names[index] for index in (*again, *poison))
                raise LogDeliveryPartialError("a part", refused=dict.fromkeys(poison, "poison"), retry=again)
            return
        self.keep(names, ids)
        if mode == "resetting":
            raise ConnectionResetError("the answer is lost")
        while self.mode == "deaf":
            await asyncio.sleep(0.001)

    def _note_unknown(self, names: Sequence[str]) -> None:
        # From the fourth failure alone on, others may be tried before it: see `DeliverySchedule`.
        if len(names) == 1:
            self._alone[names[0]] += 1
            if self._alone[names[0]] > 3:
                self.excused.add(names[0])
                self._suspects.add(names[0])

    def keep(self, names: Sequence[str], ids: Sequence[str] | None) -> None:
        with self._lock:
            if len(names) == 1 and self._suspects:  # this may be the one that was tried before its turn
                self.excused.add(names[0])
                self._suspects.clear()
            for index, name in enumerate(names):
                if ids is not None:
                    self._identify(ids[index], name)
                if name not in self.arrived:
                    self.arrived.add(name)
                    self.order.append(name)

    def identify(self, number: str, name: str) -> None:
        with self._lock:
            self._identify(number, name)

    def _identify(self, number: str, name: str) -> None:
        if self._names.setdefault(number, name) != name:
            self.faults.append(f"{number} is the id of {self._names[number]} and of {name}")
        if self._ids.setdefault(name, number) != number:
            self.faults.append(f"{name} has the ids {self._ids[name]} and {number}")


class Remote:
    """A `World` in the parent process, as a child sees it. From some batch on, it does not answer any more."""

    def __init__(self, connection: socket.socket, batches: float = float("inf")) -> None:
        self.left = batches
        self._connection = connection
        self._lock = threading.Lock()

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def connect(self) -> None: ...
    def disconnect(self) -> None: ...

    def tell(self, *words: Any) -> None:
        with self._lock:
            self._connection.sendall(json.dumps(words).encode() + b"\n")

    async def take(self, events: Sequence[LogEvent], ids: Sequence[str] | None) -> None:
        while self.left <= 0:
            await asyncio.sleep(0.001)
        self.tell("batch", [event.meta.event_name for event in events], ids)
        assert self._connection.recv(1) == b"+"
        self.left -= 1


class MachineSink(AsyncioLogSink):
    def __init__(self, *, to: World | Remote, **options: Any) -> None:
        super().__init__(**options)
        self.to = to

    async def _on_starting(self) -> None:
        self.to.start()

    async def _on_connecting(self) -> None:
        self.to.connect()

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        await self.to.take(events, events.delivery_ids)

    async def _on_disconnecting(self) -> None:
        self.to.disconnect()

    async def _on_stopped(self) -> None:
        self.to.stop()


class OneByOneSink(MachineSink):
    _dispatch_batch = AsyncioLogSink._dispatch_batch

    async def _dispatch_core(self, event: LogEvent) -> None:
        await self.to.take((event,), None)


class DeadLetters:
    """A dead-letter sink that can refuse."""

    def __init__(self, world: World) -> None:
        self.is_open = True
        self.names: set[str] = set()
        self._world = world

    def log(self, event: LogEvent) -> None:
        if not self.is_open:
            raise OSError("full")
        event, letter = split_dead_letter(event)
        assert letter is not None
        name = str(event.meta.event_name)
        self._world.identify(letter.delivery_id, name)
        if letter.reason == "refused" and not event.payload["poison"] and name not in self._world.excused:
            self._world.faults.append(f"{name} was given up, and nobody had refused it")
        self.names.add(name)


class FaultyOs:
    """The module `os` as the spool sees it, with a disk that can be full or gone."""

    def __init__(self) -> None:
        self.mode = "works"
        self.room = 0
        self.was_out_of_reach = False

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _check(self) -> None:
        if self.mode == "gone":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def write(self, fd: int, data: bytes) -> int:
        self._check()
        if self.mode == "full":
            if not self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = data[: self.room]
            self.room -= len(data)
        return os.write(fd, data)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        self._check()
        return os.pwrite(fd, data, offset)

    def makedirs(self, *args: Any, **options: Any) -> None:
        self.was_out_of_reach |= self.mode == "gone"
        self._check()
        os.makedirs(*args, **options)

    def scandir(self, path: str) -> Any:
        self._check()
        return os.scandir(path)


the_disk = FaultyOs()


# ---------------------------------------------------------------------------------------------------- the machine


def rule(**strategies: Any) -> Callable[[Callable[..., None]], Any]:
    """A rule that a failure tells of: where threads are at work, the same steps need not fail again."""

    def decorate(function: Callable[..., None]) -> Any:
        @functools.wraps(function)
        def step(self: SinkMachine, **values: Any) -> None:
            self.journal.append(
                f"{function.__name__}({', '.join(f'{name}={value!r}' for name, value in values.items())})"
            )
            try:
                function(self, **values)
            except Exception as err:
                self.tell(err)
                raise

        return hypothesis_rule(**strategies)(step)

    return decorate


@st.composite
def draw_options(draw: st.DrawFn, *, durable: bool) -> dict[str, Any]:
    options: dict[str, Any] = {
        "queue_max_size": draw(st.sampled_from((1, 3, 8, 1000))),
        "queue_max_bytes": draw(st.sampled_from((1 << 20, 4096, 512))),
        "queue_overflow_policy": draw(st.sampled_from(list(Policy))),
        "block_timeout": draw(st.sampled_from((0.0, 0.005))),
        "batch_max_size": draw(st.sampled_from((1, 4, 100))),
        "batch_max_bytes": draw(st.sampled_from((1 << 20, 2048))),
        "batch_max_age": 0.001,
        "delivery_timeout": draw(st.sampled_from((None, 0.02))),
        "retry_delay": draw(st.sampled_from((0.0, 0.001))),
        "retry_max_delay": 0.003,
        "retry_timeout": draw(st.sampled_from((None, None, None, 0.02))),
        "circuit_threshold": draw(st.sampled_from((1, 3))),
        "error_policy": draw(st.sampled_from((*[AsyncioLogSinkErrorPolicy.RETRY] * 5, AsyncioLogSinkErrorPolicy.FAIL))),
        "shutdown_timeout": draw(st.sampled_from((PATIENT, 0.01, 0.0))),
    }
    if durable:
        options["durability"] = draw(st.sampled_from(("async", "commit")))
        options["spool_max_bytes"] = draw(st.sampled_from((1 << 30, 1 << 30, 200_000, 4_000)))
        options["spool_max_age"] = draw(st.sampled_from((None, None, None, 0.05)))
    return options


class SinkMachine(RuleBasedStateMachine):
    """Everything that is accepted arrives, in order, or is dead-lettered, or is counted as dropped; and nothing else does.

    Attributes:
        accepted: The events that were accepted, ever, by anybody.
        known: Those that the present sink knows of.
        uncertain: Those of which nobody knows, because their process was killed.
        logged: How many the present sink has accepted.
        refused: How many it has refused.
        dropped: By reason, what other sinks have lost: those before the present one, and those of children.
    """

    is_durable: ClassVar[bool] = False

    @initialize(
        data=st.data(),
        cls=st.sampled_from([MachineSink, MachineSink, OneByOneSink]),
        has_dead_letters=st.sampled_from((True, True, False)),
    )
    def begin(self, data: st.DataObject, cls: type[MachineSink], has_dead_letters: bool) -> None:
        self.journal: list[str] = []
        the_disk.mode = "works"
        the_disk.was_out_of_reach = False
        self.directory = tempfile.mkdtemp(prefix="mvx-logger-machine-")
        self.spool = os.path.join(self.directory, "spool")
        self.world = World()
        self.dead = DeadLetters(self.world)
        self.cls = cls
        self.has_dead_letters = has_dead_letters
        self.accepted: set[str] = set()
        self.uncertain: set[str] = set()
        self.logged_by_main = 0
        self.groups = 0
        self.children = 0
        self.dropped: Counter[str] = Counter()
        self.make(data.draw(draw_options(durable=self.is_durable)))

    def make(self, options: dict[str, Any]) -> None:
        self.options = options
        self.journal.append(f"{self.cls.__name__}({options})")
        self.world.start_failures = 0
        self.may_fail = options.get("error_policy") is AsyncioLogSinkErrorPolicy.FAIL
        if self.is_durable:
            options = {**options, "durable": self.spool}
        if self.has_dead_letters:
            options = {**options, "dead_letter": self.dead}
        self.sink, self.close = self.cls.create(to=self.world, **options)
        # What is on the disk, too, where it can be looked at.
        self.known = self.accepted - self.uncertain if the_disk.mode == "works" else set()
        self.logged = 0
        self.refused = 0
        self.before = LogSinkStats()
        self.is_exact = True

    # ------------------------------------------------------------------ what the rules share

    def tell(self, err: Exception) -> None:
        if not hasattr(err, "__notes__"):
            err.add_note("\n".join(["The steps were:", *self.journal]))

    @property
    def is_patient(self) -> bool:
        return bool(self.options["shutdown_timeout"] == PATIENT)

    @property
    def is_healthy(self) -> bool:
        return self.world.mode == UP and the_disk.mode == "works"

    def count_losses(self) -> int:
        return sum(self.dropped.values()) + sum(self.sink.stats().dropped.values())

    def log_all(self, kinds: list[str]) -> None:
        self.note_overlap()
        for kind in kinds:
            name = f"main:{self.logged_by_main}"
            self.logged_by_main += 1
            try:
                log_numbered(self.sink, name, kind)
            except AsyncioLogSinkQueueOverflowError:
                assert self.options["queue_overflow_policy"] is Policy.RAISE_ERROR
                self.refused += 1
            except AsyncioLogSinkInvalidStateError:
                assert self.sink.get_status() is State.FAILURE
                self.refused += 1
            else:
                self.note_accepted(name)

    def note_accepted(self, name: str) -> None:
        self.accepted.add(name)
        self.known.add(name)
        self.logged += 1

    def note_overlap(self) -> None:
        """What is logged while a run ends and another one begins may be counted as recovered from the disk; and what a
        run has left there may have been taken over by another process when the next one begins."""
        if self.is_durable and (self.may_fail or self.sink.get_status() is not State.RUNNING):
            self.is_exact = False

    def heal(self) -> None:
        self.world.mode = UP
        the_disk.mode = "works"

    # ------------------------------------------------------------------ logging

    @rule(kinds=st.lists(KINDS, min_size=1, max_size=12))
    def log(self, kinds: list[str]) -> None:
        self.log_all(kinds)

    @rule(threads=st.integers(2, 4), kinds=st.lists(KINDS, min_size=1, max_size=8))
    def log_in_threads(self, threads: int, kinds: list[str]) -> None:
        self.note_overlap()
        self.groups += 1
        failures: list[BaseException] = []
        lock = threading.Lock()

        def run(source: str) -> None:
            for number, kind in enumerate(kinds):
                name = f"{source}:{number}"
                try:
                    log_numbered(self.sink, name, kind)
                except (AsyncioLogSinkQueueOverflowError, AsyncioLogSinkInvalidStateError):
                    with lock:
                        self.refused += 1
                except BaseException as err:
                    failures.append(err)
                else:
                    with lock:
                        self.note_accepted(name)

        running = [threading.Thread(target=run, args=(f"{self.groups}.{number}",)) for number in range(threads)]
        for thread in running:
            thread.start()
        while any(thread.is_alive() for thread in running):
            check_law(self.sink.stats())
            time.sleep(0.0002)  # they are to log at the same time, and not to wait for this one
        for thread in running:
            thread.join()
        assert not failures

    # ------------------------------------------------------------------ the life of a sink

    @rule()
    def flush(self) -> None:
        accepted = self.known.copy()
        losses, letters = self.count_losses(), len(self.dead.names)
        status = self.sink.get_status()
        is_healthy = self.is_healthy
        flushed = self.sink.flush(TIMEOUT if is_healthy else 0.01)
        if flushed:
            self.check_arrived(accepted)
        elif is_healthy and status is State.RUNNING:
            is_over = self.sink.get_status() is State.FAILURE
            assert self.count_losses() > losses or len(self.dead.names) > letters or is_over, self.sink.stats()

    def check_arrived(self, accepted: set[str]) -> None:
        missing = accepted - self.world.arrived - self.dead.names
        assert len(missing) <= self.count_losses(), f"missing: {sorted(missing)[:10]}"

    @rule(how=st.sampled_from(["stop", "stop and wait", "start", "start and wait", "restart"]))
    def live(self, how: str) -> None:
        if how == "restart":
            self.sink.stop()
            self.sink.start()
            return
        handle = self.sink.stop() if how.startswith("stop") else self.sink.start()
        if how.endswith("wait"):
            if self.is_patient:
                self.heal()
            result = handle.wait(TIMEOUT)
            assert result.success or self.may_fail, result
            assert how.startswith("start") or self.sink.get_status() in (State.STOPPED, State.FAILURE)

    @rule(data=st.data(), mode=st.sampled_from((UP, "down", "frozen")), kinds=st.lists(KINDS, max_size=8))
    def replace(self, data: st.DataObject, mode: str, kinds: list[str]) -> None:
        """Another sink goes on with what the former has left on the disk."""
        self.world.mode = mode
        self.log_all(kinds)
        self.end()
        self.make(data.draw(draw_options(durable=self.is_durable)))

    def end(self) -> None:
        if self.is_patient:
            self.heal()
        self.close()
        stats = self.sink.stats()
        check_law(stats)
        assert stats.pending == stats.spooled, stats
        assert self.is_durable or not stats.pending
        self.dropped.update(stats.dropped)

    # ------------------------------------------------------------------ trouble

    @rule(mode=st.sampled_from((*MODES, UP, UP, UP)))
    def turn(self, mode: str) -> None:
        """The destination fails, or it recovers."""
        self.world.mode = mode

    @rule(failures=st.integers(0, 2), accepts_letters=st.booleans())
    def trouble(self, failures: int, accepts_letters: bool) -> None:
        """The next starts fail, and the dead-letter sink may be out of order."""
        self.world.start_failures = failures
        self.may_fail = True
        self.dead.is_open = accepts_letters

    # ------------------------------------------------------------------ other processes

    @precondition(lambda self: len(self.journal) % 3 == 0)  # they take longer than all others
    @rule(kinds=st.lists(KINDS, min_size=1, max_size=6))
    def fork(self, kinds: list[str]) -> None:
        """A child logs events of its own, flushes and ends."""
        self.children += 1
        source = f"child{self.children}"

        def run(remote: Remote) -> None:
            sink = self.sink
            sink.to = remote
            accepted = []
            for number, kind in enumerate(kinds):
                with suppress(AsyncioLogSinkQueueOverflowError, AsyncioLogSinkInvalidStateError):
                    log_numbered(sink, f"{source}:{number}", kind)
                    accepted.append(f"{source}:{number}")
            flushed = sink.flush(TIMEOUT)
            stats = sink.stats()
            # Others take over what it has left behind: the parent, when it starts a moment later.
            flushed = flushed and stats.accepted - stats.recovered == len(accepted)
            if not flushed:
                sink.close()
            check_law(sink.stats())
            remote.tell("ended", accepted, flushed, sink.stats().dropped, sorted(self.dead.names), repr(stats))

        is_running = self.sink.get_status() is State.RUNNING
        self.note_overlap()
        told, code = self.serve(run)
        assert code == 0, told
        accepted, flushed, dropped, letters, stats = told["ended"][0]
        if is_running and not dropped and len(letters) == len(self.dead.names):
            assert flushed, stats
        self.accepted.update(accepted)
        self.dropped.update(dropped)
        self.dead.names.update(letters)
        if flushed:
            self.check_arrived(set(accepted))

    @precondition(lambda self: self.is_durable and len(self.journal) % 3 == 0)
    @rule(
        kinds=st.lists(KINDS, min_size=1, max_size=8),
        batches=st.integers(0, 4),
        committed=st.integers(0, 8),
        linger=st.booleans(),
    )
    def kill(self, kinds: list[str], batches: int, committed: int, linger: bool) -> None:
        """Another process uses the same directory, and is killed."""
        self.children += 1
        source = f"killed{self.children}"
        names = [f"{source}:{number}" for number in range(len(kinds))]
        durability = self.options["durability"]

        def run(remote: Remote) -> None:
            sink, _ = self.cls.create(
                to=remote,
                durable=self.spool,
                durability=durability,
                batch_max_size=self.options["batch_max_size"],
                batch_max_age=0.001,
            )
            for name, kind in zip(names, kinds, strict=True):
                log_numbered(sink, name, kind)
                if durability == "commit":
                    remote.tell("committed", [name])
            if durability == "async":
                wanted = min(committed, len(kinds))
                wait_until(lambda: _count_committed(sink.stats()) >= wanted or remote.left <= 0)
                remote.tell("committed", names[: max(0, _count_committed(sink.stats()))])
            if linger:
                wait_until(lambda: remote.left <= 0 or not sink.stats().pending)
            os.kill(os.getpid(), signal.SIGKILL)

        self.note_overlap()
        self.uncertain.update(names)
        told, code = self.serve(run, batches)
        assert code == -signal.SIGKILL, told
        for (committed_names,) in told.get("committed", ()):
            self.accepted.update(committed_names)

    def serve(
        self, run: Callable[[Remote], None], batches: float = float("inf")
    ) -> tuple[dict[str, list[list[Any]]], int]:
        """Run it in a child, whose events come here; what else it has told, and how it ended."""
        here, there = socket.socketpair()
        number = os.fork()
        if not number:
            remote = Remote(there, batches)
            try:
                here.close()
                the_disk.mode = "works"
                run(remote)
                os._exit(0)
            except BaseException:
                remote.tell("failed", traceback.format_exc())
            finally:
                os._exit(1)
        there.close()
        told: dict[str, list[list[Any]]] = {}
        # Killed before it has read our answer, it resets the connection.
        with suppress(ConnectionResetError), here, here.makefile("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                word, *rest = json.loads(line)
                if word == "batch":
                    # Kept before it is answered: what the child knows to be delivered is here first.
                    self.world.keep(*rest)
                    with suppress(ConnectionError):
                        here.sendall(b"+")
                else:
                    told.setdefault(word, []).append(rest)
        return told, os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])

    # ------------------------------------------------------------------ what has to hold

    @invariant()
    def accounts_are_true(self) -> None:
        if not hasattr(self, "sink"):
            return
        try:
            self.check_accounts()
        except AssertionError as err:
            self.tell(err)
            raise

    def check_accounts(self) -> None:
        assert not self.world.faults, self.world.faults
        stats = self.sink.stats()
        check_law(stats)
        assert sum(stats.rejected.values()) == self.refused
        ours = stats.accepted - stats.recovered
        assert ours <= self.logged
        assert ours == self.logged or not self.is_exact
        self.check_progress(stats)

    def check_progress(self, stats: LogSinkStats) -> None:
        before, self.before = self.before, stats
        assert stats.accepted >= before.accepted or not self.is_exact
        for name in ("delivered", "dead_lettered", "batches", "retries", "recovered"):
            assert getattr(stats, name) >= getattr(before, name), name
        for name in ("dropped", "rejected"):
            counts: dict[str, int] = getattr(stats, name)
            assert all(counts.get(reason, 0) >= count for reason, count in getattr(before, name).items()), name

    def teardown(self) -> None:
        if not hasattr(self, "sink"):
            return
        try:
            self.heal()
            self.end()
            if self.is_durable:
                self.drain()
            self.check_outcome()
            wait_until(lambda: not worker_threads())
        except Exception as err:
            self.tell(err)
            raise
        finally:
            self.heal()
            self.sink.close()
            shutil.rmtree(self.directory)

    def drain(self) -> None:
        """A last sink delivers what is on the disk."""
        self.make({"shutdown_timeout": PATIENT})
        if not self.sink.flush(TIMEOUT):
            raise AssertionError(self.sink.stats())
        self.end()
        assert not os.path.isdir(self.spool) or os.listdir(self.spool) == []

    def check_outcome(self) -> None:
        world = self.world
        assert not world.faults, world.faults
        assert world.arrived <= self.accepted | self.uncertain, "events came that were not accepted"
        missing = self.accepted - world.arrived - self.dead.names
        # These never were on their way. Others may have arrived, and the answer was lost.
        certain = sum(self.dropped[reason] for reason in ("queue_full", "block_timeout"))
        lost = sum(self.dropped.values())
        assert certain <= len(missing) <= lost, f"{sorted(missing)[:20]} are missing, lost: {self.dropped}"
        if not the_disk.was_out_of_reach:  # else what came later could not wait for what was on it
            last: dict[str, int] = {}
            for name in world.order:
                if name not in world.excused:
                    source, number = name.split(":")
                    assert int(number) > last.get(source, -1), f"{name} came after {source}:{last[source]}"
                    last[source] = int(number)


class DurableSinkMachine(SinkMachine):
    is_durable = True

    @rule(mode=st.sampled_from(["full", "gone", "works", "works"]), room=st.integers(0, 300))
    def turn_disk(self, mode: str, room: int) -> None:
        """The disk is full after so many bytes, or cannot be reached, or it works again."""
        the_disk.room = room
        the_disk.mode = mode


def _count_committed(stats: LogSinkStats) -> int:
    return stats.delivered + stats.spooled - stats.recovered


def check_law(stats: LogSinkStats) -> None:
    assert_accounts(stats)
    for name in ("accepted", "delivered", "dead_lettered", "pending", "spooled", "queue_bytes", "spool_bytes"):
        assert getattr(stats, name) >= 0, (name, stats)
    assert stats.spooled <= stats.pending, stats


@pytest.fixture
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short, and the disk can be broken."""
    monkeypatch.setattr(disk_module, "DISK_PAUSE", 0.002)
    monkeypatch.setattr(sink_module, "DISK_PAUSE", 0.002)
    monkeypatch.setattr(sink_module, "ADOPT_INTERVAL", 0.005)
    monkeypatch.setattr(sink_module, "_GRACE", TIMEOUT)  # on a busy machine, a second is not enough
    monkeypatch.setattr(spool_module, "os", the_disk)
    selflog.redirect(lambda report: None)


@pytest.mark.usefixtures("_quickly")
class TestModel:
    def test_random_operations(self) -> None:
        """Nothing is lost without being counted, whatever happens in any order."""
        run(SinkMachine, often(120))

    def test_random_operations_with_a_spool(self) -> None:
        """Nothing that is on the disk is lost either, when processes end, are killed and share it."""
        run(DurableSinkMachine, often(160))


def run(machine: type[SinkMachine], examples: int) -> None:
    # What depends on the timing of threads cannot be shrunk.
    phases = (Phase.explicit, Phase.reuse, Phase.generate)
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=25, print_blob=True, phases=phases)
    )


def get_function(thread: threading.Thread) -> str | None:
    """Where the thread is."""
    frame = sys._current_frames().get(thread.ident or 0)
    return None if frame is None else frame.f_code.co_name


class TestFound:
    """What the machines have found, in as few steps as it takes."""

    @pytest.fixture
    def world(self) -> World:
        selflog.redirect(lambda report: None)
        return World()

    def test_flush_while_events_leave_the_queue(self, world: World) -> None:
        """It comes back when they are delivered, whatever the worker does at the same instant."""
        sink, close = MachineSink.create(to=world, batch_max_age=0)
        lock = sink._AsyncioLogSink__accounts.lock  # type: ignore[attr-defined]
        flushed: list[bool] = []

        def do_flush() -> None:
            flushed.append(sink.flush(2.0))

        for number in range(40):
            thread = threading.Thread(target=do_flush)
            with lock:  # let both, who flushes and the worker, wait for it
                sink.log(make_numbered(f"main:{number}", "light"))
                thread.start()
                wait_until(lambda thread=thread: get_function(thread) in ("flush", "add_waiter"))
            thread.join()
            assert flushed.pop(), sink.stats()
        close()

    def test_stop_of_a_sink_that_fails_without_waiting_for_anything(self, world: World) -> None:
        """It ends in time although its code never gives the loop a turn."""
        world.mode = "resetting"
        sink, _ = MachineSink.create(to=world, retry_delay=0, shutdown_timeout=0.05)
        sink.log(make_numbered("main:0", "light"))
        result = sink.stop().wait(TIMEOUT)
        assert result.success
        assert sink.get_status() is State.STOPPED
        assert sink.stats().dropped == {"shutdown": 1}

    def test_stop_of_a_sink_that_is_ending_already(self, world: World) -> None:
        """A deadline that is over does not keep it from giving back what it has."""
        ending = threading.Event()
        stopping = threading.Event()

        class Slow(MachineSink):
            async def _on_stopped(self) -> None:
                ending.set()
                while not stopping.is_set():
                    await asyncio.sleep(0.001)
                for _ in range(20):  # whatever the stop has scheduled has its turn
                    await asyncio.sleep(0.001)
                await super()._on_stopped()

        world.mode = "down"
        sink, _ = Slow.create(to=world, shutdown_timeout=0, error_policy=AsyncioLogSinkErrorPolicy.FAIL)
        sink.log(make_numbered("main:0", "light"))
        assert ending.wait(TIMEOUT)
        handle = sink.stop()
        stopping.set()
        assert not handle.wait(TIMEOUT).success
        assert sink.get_status() is State.FAILURE
        assert not world.is_started

    def test_refused_event_whose_refusal_asks_for_a_pause(self, world: World) -> None:
        """The next event waits for that long, and a failure then does not end the sink."""

        class Later(LogDeliveryRefusedError):
            retry_after = 0.05

        errors = [Later("too large"), ConnectionResetError()]

        class Refusing(MachineSink):
            async def _dispatch_batch(self, events: LogEventBatch) -> None:
                if errors:
                    raise errors.pop(0)
                await super()._dispatch_batch(events)

        sink, close = Refusing.create(to=world, batch_max_age=0, retry_delay=0.001)
        sink.log(make_numbered("main:0", "light"))
        wait_until(lambda: sink.stats().dropped)
        sink.log(make_numbered("main:1", "light"))
        assert sink.flush(TIMEOUT)
        close()
        assert world.order == ["main:1"]

    def test_flush_right_after_a_start(self, world: World, tmp_path: Path) -> None:
        """It waits for what an earlier run has left on the disk."""
        sink, close = MachineSink.create(to=world, durable=tmp_path / "spool", shutdown_timeout=0, retry_max_delay=0.01)
        for number in range(50):
            world.mode = "down"
            sink.log(make_numbered(f"main:{number}", "light"))
            assert sink.stop().wait(TIMEOUT).success
            assert sink.stats().spooled == 1
            world.mode = UP
            sink.start()
            assert sink.flush(TIMEOUT)
            assert len(world.order) == number + 1
        close()

    def test_disk_that_takes_some_of_what_waits(self, world: World, tmp_path: Path) -> None:
        """What it has taken comes before what stays in memory."""
        busy = threading.Event()
        go_on = threading.Event()

        class Blocking(MachineSink):
            async def _dispatch_batch(self, events: LogEventBatch) -> None:
                await super()._dispatch_batch(events)
                if not busy.is_set():
                    busy.set()
                    assert go_on.wait(TIMEOUT)  # nobody else on this loop has a turn

        sink, close = Blocking.create(to=world, durable=tmp_path / "spool", spool_max_bytes=4_000, batch_max_size=1)
        sink.log(make_numbered("main:0", "light"))
        assert busy.wait(TIMEOUT)
        for number in range(1, 5):
            sink.log(make_numbered(f"main:{number}", "large"))
        go_on.set()
        assert sink.flush(TIMEOUT)
        close()
        assert world.order == [f"main:{number}" for number in range(5)]
