"""Whether a destination that stands still slows the threads that log: the time of ``log()``, frozen against running.

For each configuration there are two sinks, alike but for this: the destination of one is frozen. They take turns, and each
call of ``log()`` is timed, so that a noisy machine is noisy for both. A figure is a ratio: the quantile over all rounds
with the destination frozen, divided by that with it running; the spread is that of the rounds' own ratios (their quartiles).
What the clock itself takes is subtracted from all times. Less than 1 means that the caller is better off with the
destination frozen: there is no worker that it has to share the interpreter with.

Where other programs use the processors too, one call in a few thousand is interrupted for milliseconds, and the more likely
the longer it takes: then the 99.9th percentile tells of them. So there is one more column, ``p99.9*``: without the calls
during which the operating system took the processor away from the thread (``ru_nivcsw``). Those that waited, for a
lock or for the interpreter, are in it.

The destination freezes in three ways: ``async``: it never answers; ``blocking``: it blocks the event loop of the worker; and
``tcp``: it is another process, which gets SIGSTOP.

Queues: ``free``: there is room for everything; ``drop`` and ``drop_oldest``: with the destination frozen the queue is full
from the start; ``durable``: a spool under the sink; ``commit``: the same, and ``log()`` returns after the write.

Run it with ``python benchmarks/stall.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

if sys.platform == "linux":
    from resource import RUSAGE_THREAD, getrusage

    def count_interruptions() -> int:
        """How often the operating system has taken the processor away from this thread."""
        return getrusage(RUSAGE_THREAD).ru_nivcsw

else:

    def count_interruptions() -> int:
        """Nobody knows."""
        return 0


from mvx_logger import AsyncioLogSink, AsyncioLogSinkQueueOverflowPolicy, LogEvent, LogEventMeta, selflog

POLICY = AsyncioLogSinkQueueOverflowPolicy
FORMS = ("async", "blocking", "tcp")
QUEUES = ("free", "drop", "drop_oldest", "durable", "commit")
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "p99.9*": 0.999, "max": 1.0}
FULL = 10_000
"""Events that a queue holds that is to be full."""

SERVER = """
import socket, threading
def serve(peer):
    with peer, peer.makefile("rb") as stream:
        while size := int.from_bytes(stream.read(4), "big"):
            stream.read(size)
            peer.sendall(b"k")
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


class AsyncSink(AsyncioLogSink):
    """Forgets its events; while it is frozen, it never answers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.loop = asyncio.get_running_loop()
        self.gate = asyncio.Event()
        self.gate.set()
        self.has_hung = threading.Event()

    def freeze(self) -> None:
        """From now on."""
        self.gate.clear()

    def thaw(self) -> None:
        """It answers again."""
        self.loop.call_soon_threadsafe(self.gate.set)

    async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
        if not self.gate.is_set():
            self.has_hung.set()
        await self.gate.wait()


class BlockingSink(AsyncioLogSink):
    """Forgets its events; while it is frozen, it blocks the loop of the worker."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.gate = threading.Event()
        self.gate.set()
        self.has_hung = threading.Event()

    def freeze(self) -> None:
        """From now on."""
        self.gate.clear()

    def thaw(self) -> None:
        """It goes on."""
        self.gate.set()

    async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
        if not self.gate.is_set():
            self.has_hung.set()
            self.gate.wait()


class TcpSink(AsyncioLogSink):
    """Sends its events to a process of its own, and waits for the answer to each batch."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
        assert self.server.stdout is not None
        self.port = int(self.server.stdout.readline())
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.is_frozen = False
        self.has_hung = threading.Event()

    def freeze(self) -> None:
        """From now on."""
        self.is_frozen = True
        os.kill(self.server.pid, signal.SIGSTOP)
        # A process that runs on the other processor goes on for a moment: it may still answer.
        os.waitpid(self.server.pid, os.WUNTRACED)

    def thaw(self) -> None:
        """The process goes on."""
        os.kill(self.server.pid, signal.SIGCONT)
        self.is_frozen = False

    async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        body = json.dumps([(event.level, event.timestamp, event.payload) for event in events]).encode()
        if self.is_frozen:
            self.has_hung.set()
        try:
            writer.write(len(body).to_bytes(4, "big") + body)
            await writer.drain()
            await reader.readexactly(1)
        except BaseException:
            self.streams = None
            writer.transport.abort()
            raise

    async def _on_stopped(self) -> None:
        if self.streams is not None:
            self.streams[1].transport.abort()
        os.kill(self.server.pid, signal.SIGCONT)
        self.server.kill()
        self.server.communicate()


SINKS: dict[str, type[AsyncSink] | type[BlockingSink] | type[TcpSink]] = {
    "async": AsyncSink,
    "blocking": BlockingSink,
    "tcp": TcpSink,
}


def options_for(queue: str, total: int, directory: str) -> dict[str, Any]:
    """The options of a sink for a configuration of the queue, for so many events in all."""
    if queue == "free":
        return {"queue_max_size": total + 2 * FULL, "queue_max_bytes": 1 << 40}
    if queue in ("drop", "drop_oldest"):
        return {"queue_max_size": FULL, "queue_overflow_policy": POLICY(queue)}
    durability = "commit" if queue == "commit" else "async"
    return {"durable": directory, "durability": durability, "queue_overflow_policy": POLICY.DROP}


def time_calls(log: Callable[[LogEvent], None], events: Sequence[LogEvent], into: array[int], start: int) -> None:
    """Log the events and note the nanoseconds of each call, negative where the call was interrupted."""
    clock = time.perf_counter_ns
    before = count_interruptions()
    for index, event in enumerate(events, start):
        begin = clock()
        log(event)
        taken = clock() - begin
        after = count_interruptions()
        into[index] = taken if after == before else -taken
        before = after


def one_round(log: Callable[[LogEvent], None], events: Sequence[LogEvent], threads: int) -> array[int]:
    """The nanoseconds of each call, with the events divided among threads."""
    share = len(events) // threads
    times = array("q", bytes(8 * share * threads))
    if threads == 1:
        time_calls(log, events, times, 0)
        return times
    barrier = threading.Barrier(threads)

    def work(number: int) -> None:
        barrier.wait()
        time_calls(log, events[number * share : (number + 1) * share], times, number * share)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return times


def clock_cost() -> int:
    """Nanoseconds that two looks at the clock and a call take."""
    times = array("q", bytes(8 * 20_000))
    time_calls(lambda event: None, [None] * 20_000, times, 0)  # type: ignore[list-item]
    return int(statistics.median(map(abs, times)))


def quantile(ordered: Sequence[int], share: float) -> int:
    """The value that this share does not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@contextlib.contextmanager
def pair(form: str, queue: str, total: int) -> Iterator[dict[str, Any]]:
    """A sink with a destination that runs, and one like it whose destination is frozen."""
    with tempfile.TemporaryDirectory(prefix="mvx-stall-", ignore_cleanup_errors=True) as directory:
        sinks: dict[str, Any] = {}
        try:
            for state in ("running", "frozen"):
                options = options_for(queue, total, os.path.join(directory, state))
                sinks[state], _ = SINKS[form].create(namespace=state, shutdown_timeout=60.0, **options)
            yield sinks
        finally:
            if "frozen" in sinks:
                sinks["frozen"].thaw()
            for sink in sinks.values():
                sink.close()


def measure(form: str, queue: str, threads: int, rounds: int, number: int, clock: int) -> dict[str, Any]:
    """One configuration."""
    meta = LogEventMeta("bench", "order.created")
    payloads = [{"order_id": f"order-{index}", "amount": index, "paid": True} for index in range(number)]
    events = [LogEvent(20, meta, None, 1_700_000_000.0, payload) for payload in payloads]
    times: dict[str, list[array[int]]] = {"running": [], "frozen": []}
    with pair(form, queue, (rounds + 1) * number) as sinks:
        for sink in sinks.values():  # warm, connected
            for event in events[:100]:
                sink.log(event)
            sink.flush()
        frozen = sinks["frozen"]
        frozen.freeze()
        frozen.log(events[0])
        assert frozen.has_hung.wait(10.0)
        if queue in ("drop", "drop_oldest"):
            for _ in range(FULL + 10):
                frozen.log(events[0])
        for turn in range(rounds):
            for state in ("running", "frozen") if turn % 2 else ("frozen", "running"):
                times[state].append(one_round(sinks[state].log, events, threads))
                sinks["running"].flush()
        stats = frozen.stats()
    row: dict[str, Any] = {"form": form, "queue": queue, "threads": threads, "ratio": {}, "spread": {}, "ns": {}}
    row["frozen_delivered"] = stats.delivered
    row["frozen_pending"] = stats.pending
    row["frozen_dropped"] = sum(stats.dropped.values())
    row["interrupted"] = {state: sum(time < 0 for time in chain.from_iterable(turns)) for state, turns in times.items()}
    for name, share in QUANTILES.items():
        least = 0 if name.endswith("*") else -sys.maxsize
        by_round = {
            state: [sorted(abs(time) for time in turn if time >= least) for turn in turns]
            for state, turns in times.items()
        }
        ordered = {state: sorted(chain.from_iterable(turns)) for state, turns in by_round.items()}
        running, stopped = (max(1, quantile(ordered[state], share) - clock) for state in ("running", "frozen"))
        ratios = [
            max(1, quantile(frozen_turn, share) - clock) / max(1, quantile(running_turn, share) - clock)
            for frozen_turn, running_turn in zip(by_round["frozen"], by_round["running"], strict=True)
            if frozen_turn and running_turn
        ]
        quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        row["ns"][name] = {"running": running, "frozen": stopped}
        row["ratio"][name] = stopped / running
        row["spread"][name] = quartiles
    return row


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="turns of each of the two sinks")
    parser.add_argument("--number", type=int, default=5_000, help="events in a turn, at most 10,000")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4], help="how many threads log at once")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--queues", nargs="+", choices=QUEUES, default=QUEUES)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(argv)
    if not 1 <= options.number <= FULL:
        parser.error(f"--number: expected 1 to {FULL}")
    if min(options.threads) < 1 or max(options.threads) > options.number or options.rounds < 1:
        parser.error("--threads, --rounds: expected 1 or more, and no more threads than events")

    reports: list[selflog.SelfLogReport] = []
    selflog.redirect(reports.append)  # that a destination does not answer is what this is about
    clock = clock_cost()
    if not options.json:
        print(f"Python {sys.version.split()[0]}, {options.rounds} rounds of {options.number} events, interleaved; ")
        print(f"log() frozen / running; clock {clock} ns, subtracted; (quartiles of the rounds' own ratios)")
        print(
            f"{'destination':12}{'queue':12}{'threads':>7}   {'p50':22}{'p99':22}{'p99.9':22}{'p99.9*':22}"
            f"{'max':>8}   p99.9* in us, running and frozen"
        )
    rows: list[dict[str, Any]] = []
    for form in options.forms:
        for queue in options.queues:
            for threads in options.threads:
                row = measure(form, queue, threads, options.rounds, options.number, clock)
                rows.append(row)
                if not options.json:
                    cells = "".join(cell(row, name) for name in QUANTILES if name != "max")
                    slow = row["ns"]["p99.9*"]
                    print(
                        f"{form:12}{queue:12}{threads:>7}   {cells}{row['ratio']['max']:8.2f}   "
                        f"{slow['running'] / 1e3:.1f} {slow['frozen'] / 1e3:.1f}",
                        flush=True,
                    )
    if options.json:
        result = {
            "python": sys.version.split()[0],
            "rounds": options.rounds,
            "number": options.number,
            "clock_ns": clock,
            "rows": rows,
        }
        print(json.dumps(result, indent=2))


def cell(row: dict[str, Any], name: str) -> str:
    """A ratio with its spread."""
    low, _, high = row["spread"][name]
    text = f"{row['ratio'][name]:.2f} ({low:.2f}..{high:.2f})"
    return f"{text:22}"


if __name__ == "__main__":
    main()
