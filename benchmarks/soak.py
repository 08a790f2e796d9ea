"""Millions of events through a destination that fails at random: nothing lost, nothing twice, memory flat.

Threads log as fast as the sink lets them (policy ``BLOCK``: back-pressure is all that holds them). The destination is a
coroutine in this process. At random, an attempt

- fails with a transient error, before it has taken anything, or after it has taken all (the answer is lost);
- takes too long, until the sink cancels it;
- finds the destination frozen for a while, as do all after it;
- is answered for each event: some are taken, some are to come again;
- and one event in ``--refuse-every`` is refused for good: by name in a partial answer, as a whole batch, or with an error
  that does not say so.

The destination checks every event: that it has the content it should; that it comes in the order of its thread, but for
those that a partial answer has put off and for the neighbours that try a suspect out; and that none comes a second time,
by its delivery id, but for those whose answer was lost. A second thread compares the accounts of the sink with what the
other threads have counted, twenty times a second. In the end, everything that was logged must be delivered, but for the
refused events, which must be the dead letters, no more and no less.

With ``--durable`` there is a spool under the sink, which must stay within its bound and be empty in the end.

Run it with ``python benchmarks/soak.py``; the exit status is 1 when anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

from mvx_logger import (
    AsyncioLogSink,
    AsyncioLogSinkQueueOverflowPolicy,
    LogContext,
    LogEvent,
    LogEventBatch,
    LogPayloadProcessor,
    LogSinkStats,
    selflog,
)
from mvx_logger.errors import LogDeliveryPartialError, LogDeliveryRefusedError, LogDeliveryTransientError

TEXTS = [f"order {index} of many, {'x' * (index % 40)}" for index in range(64)]
BATCH = 1_000
ALL_TEXTS = TEXTS * (BATCH // len(TEXTS) + 2)
WINDOW = 100
"""Batches whose delivery ids are remembered."""
SPOOL_BYTES = 64 * 1024 * 1024
FAULTS = {"transient": 0.02, "lost_answer": 0.005, "timeout": 0.001, "freeze": 0.0005, "partial": 0.01}
"""How likely an attempt ends so."""
TIMEOUT = 0.25
"""Seconds that the sink gives an attempt."""


class Checker:
    """What the destination knows: which event may come next.

    Args:
        threads: How many threads log.
        refuse_every: Of so many events of a thread, one is refused.
    """

    def __init__(self, threads: int, refuse_every: int) -> None:
        self.refuse_every = refuse_every
        self.next = [0] * threads
        self.put_off: list[set[int]] = [set() for _ in range(threads)]  # a partial answer wants them again
        self.early: list[set[int]] = [set() for _ in range(threads)]  # came as neighbours of a suspect
        self.suspects: set[tuple[int, int]] = set()
        self.taken = 0
        self.duplicates = 0
        self.wrong: Counter[str] = Counter()
        self.seen: set[str] = set()
        self.unanswered: set[str] = set()
        self._recent: deque[list[str]] = deque()

    def complain(self, what: str) -> None:
        """Something must not be."""
        self.wrong[what] += 1

    def is_refused(self, number: int) -> bool:
        """True for the one event of each block that the destination does not want."""
        block, place = divmod(number, self.refuse_every)
        return place == (block * 7919 + self.refuse_every // 2) % self.refuse_every

    def count_refused(self, count: int) -> set[int]:
        """Of the first so many events of a thread, those that are refused."""
        every = self.refuse_every
        places = (block * every + (block * 7919 + every // 2) % every for block in range(count // every + 1))
        return {number for number in places if number < count}

    def find_refused(self, events: Sequence[LogEvent]) -> list[int]:
        """The indices of the refused events."""
        first, last = events[0].payload, events[-1].payload
        if len(self.next) == 1 and last["n"] - first["n"] == len(events) - 1:
            every = self.refuse_every
            blocks = range(first["n"] // every, last["n"] // every + 1)
            numbers = (block * every + (block * 7919 + every // 2) % every for block in blocks)
            return [number - first["n"] for number in numbers if first["n"] <= number <= last["n"]]
        return [index for index, event in enumerate(events) if self.is_refused(event.payload["n"])]

    def take(self, events: Sequence[LogEvent], ids: Sequence[str], *, is_answered: bool) -> None:
        """The destination has these, unless it had them already."""
        seen = self.seen
        if not seen.isdisjoint(ids):
            fresh = [index for index, id_ in enumerate(ids) if id_ not in seen]
            known = [id_ for id_ in ids if id_ in seen]
            self.duplicates += len(known)
            if not self.unanswered.issuperset(known):
                self.complain("an event came twice, although it was answered")
            if is_answered:
                self.unanswered.difference_update(known)
            events, ids = [events[index] for index in fresh], [ids[index] for index in fresh]
            if not events:
                return
        kept = list(ids)
        seen.update(kept)
        if not is_answered:
            self.unanswered.update(kept)
        self._recent.append(kept)
        if len(self._recent) > WINDOW:
            gone = self._recent.popleft()
            if not self.unanswered.isdisjoint(gone):  # still to come again
                self._recent.append(gone)
            else:
                seen.difference_update(gone)
        self.taken += len(events)
        self._check(events)

    def _check(self, events: Sequence[LogEvent]) -> None:
        payloads = [event.payload for event in events]
        if len(self.next) == 1:
            first = self.next[0]
            if (
                not self.early[0]
                and not self.put_off[0]
                and [payload["n"] for payload in payloads] == list(range(first, first + len(events)))
            ):
                self.next[0] = first + len(events)
                place = first % len(TEXTS)
                if [payload["text"] for payload in payloads] != ALL_TEXTS[place : place + len(events)]:
                    self.complain("the content is wrong")
                return
        for payload in payloads:
            thread, number = payload["thread"], payload["n"]
            if payload["text"] != TEXTS[number % len(TEXTS)]:
                self.complain("the content is wrong")
            self._check_order(thread, number, is_alone=len(payloads) == 1)

    def _check_order(self, thread: int, number: int, *, is_alone: bool) -> None:
        wanted, early, put_off = self.next[thread], self.early[thread], self.put_off[thread]
        if number in put_off:
            put_off.remove(number)
            if number >= wanted:
                early.add(number)
        else:
            while wanted < number and (wanted in early or wanted in put_off or self.is_refused(wanted)):
                early.discard(wanted)
                wanted += 1
            if number == wanted:
                wanted += 1
            elif number > wanted and is_alone and self.suspects:
                early.add(number)
            else:
                self.complain("an event came out of order")
        # At once: there may be no later event of this thread.
        while early and (wanted in early or self.is_refused(wanted)):
            early.discard(wanted)
            wanted += 1
        self.next[thread] = wanted


class Letters:
    """The dead-letter sink: remembers the numbers."""

    guards_itself = True

    def __init__(self, checker: Checker) -> None:
        self.checker = checker
        self.numbers: list[tuple[int, int]] = []

    def log(self, event: LogEvent) -> None:
        """Remember it."""
        key = event.payload["thread"], event.payload["n"]
        self.numbers.append(key)
        self.checker.suspects.discard(key)


class UnreliableSink(AsyncioLogSink):
    """The destination, and all that goes wrong with it."""

    def __init__(self, *, checker: Checker, seed: int, **options: Any) -> None:
        super().__init__(**options)
        self.checker = checker
        self.random = random.Random(seed)
        self.faults: Counter[str] = Counter()
        self.attempts = 0
        self.frozen_until = 0.0
        self.cpu = 0.0  # seconds of CPU that are spent in here

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        begin = time.thread_time()
        try:
            fault = self._receive(events)
        finally:
            self.cpu += time.thread_time() - begin
        if fault is not None:
            await asyncio.sleep(60.0)

    def _receive(self, events: LogEventBatch) -> str | None:
        """Take the events, or some, or none. What it returns is why there is no answer."""
        self.attempts += 1
        if time.monotonic() < self.frozen_until:
            return "freeze"
        checker, ids = self.checker, events.delivery_ids
        refused = checker.find_refused(events)
        draw = self.random.random()
        fault = ""
        for name, share in FAULTS.items():
            if draw < share:
                fault = name
                break
            draw -= share
        if fault:
            self.faults[fault] += 1
        if fault == "transient":
            raise self.random.choice([LogDeliveryTransientError("try later"), ConnectionResetError(), EOFError()])
        if fault == "timeout":
            return fault
        if fault == "freeze":
            self.frozen_until = time.monotonic() + self.random.uniform(0.2, 3.0)
            return fault
        if fault == "partial" and len(events) > 1:
            self._answer_partially(events, ids, refused)
        if refused:
            self._refuse(events, ids, refused)
        checker.take(events, ids, is_answered=fault != "lost_answer")
        if fault == "lost_answer":
            if self.random.random() < 0.1:
                return fault
            raise ConnectionResetError("after the events were taken")
        return None

    def _answer_partially(self, events: LogEventBatch, ids: Sequence[str], refused: Sequence[int]) -> None:
        checker = self.checker
        size = len(events)
        if self.random.random() < 0.5:  # it has stopped somewhere
            again = set(range(self.random.randrange(1, size), size))
        else:
            again = set(self.random.sample(range(size), self.random.randrange(1, size)))
        gone = {index: "too large" for index in refused if index not in again}
        taken = [index for index in range(size) if index not in again and index not in gone]
        if taken:
            for index in again:
                if index < taken[-1] and index not in refused and ids[index] not in checker.seen:
                    payload = events[index].payload
                    checker.put_off[payload["thread"]].add(payload["n"])
            checker.take([events[index] for index in taken], [ids[index] for index in taken], is_answered=True)
        raise LogDeliveryPartialError("some", refused=gone, retry=sorted(again))

    def _refuse(self, events: LogEventBatch, ids: Sequence[str], refused: Sequence[int]) -> None:
        checker = self.checker
        payload = events[refused[0]].payload
        way = (payload["n"] // checker.refuse_every) % 3
        if way == 0:
            self.faults["refused by name"] += 1
            taken = [index for index in range(len(events)) if index not in refused]
            if taken:
                checker.take([events[index] for index in taken], [ids[index] for index in taken], is_answered=True)
            raise LogDeliveryPartialError("some", refused=dict.fromkeys(refused, "too large"), retry=())
        if way == 1:
            self.faults["batch refused"] += 1
            raise LogDeliveryRefusedError("one of them is too large")
        self.faults["unknown error"] += 1
        if len(events) == 1:
            checker.suspects.add((payload["thread"], payload["n"]))  # until it is dead-lettered
        raise ValueError("one of them is strange")


class Watcher(threading.Thread):
    """Samples the memory and holds the accounts against what the others have counted."""

    def __init__(self, sink: UnreliableSink, counts: list[int], directory: str | None, mark: int) -> None:
        super().__init__(name="watcher", daemon=True)
        self.sink = sink
        self.counts = counts
        self.directory = directory
        self.mark = mark
        self.over = threading.Event()
        self.checks = 0
        self.wrong: Counter[str] = Counter()
        self.rss_start = self.rss_max = read_rss()
        self.rss_at_mark: int | None = None
        self.largest_directory = 0
        self.largest_queue = 0
        self.largest_spool = 0

    def run(self) -> None:
        """Twenty times a second, until the end."""
        before = self.sink.stats()
        while not self.over.wait(0.05):
            before = self.check(before)

    def check(self, before: LogSinkStats) -> LogSinkStats:
        """Compare once."""
        returned = sum(self.counts)
        taken = self.sink.checker.taken
        stats = self.sink.stats()
        called = sum(self.counts) + len(self.counts)  # each may be in a call that it has not counted yet
        self.checks += 1
        for what, holds in {
            "accepted == delivered + dropped + dead-lettered + pending": stats.accepted
            == stats.delivered + sum(stats.dropped.values()) + stats.dead_lettered + stats.pending,
            "accepted is what was logged": returned <= stats.accepted <= called,
            "no more is delivered than the destination has": stats.delivered <= self.sink.checker.taken,
            "what the destination has is delivered or pending": taken <= stats.delivered + stats.pending,
            "nothing is dropped or rejected": not stats.dropped and not stats.rejected,
            "counters only grow": stats.accepted >= before.accepted and stats.delivered >= before.delivered,
        }.items():
            if not holds:
                self.wrong[what] += 1
        rss = read_rss()
        self.rss_max = max(self.rss_max, rss)
        if self.rss_at_mark is None and returned >= self.mark:
            self.rss_at_mark = rss
        self.largest_queue = max(self.largest_queue, stats.queue_bytes)
        self.largest_spool = max(self.largest_spool, stats.spool_bytes)
        if self.directory is not None:
            self.largest_directory = max(self.largest_directory, measure_directory(self.directory))
        return stats


def read_rss() -> int:
    """Resident memory in bytes."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure_directory(directory: str) -> int:
    """Bytes of all files."""
    total = 0
    for path, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(path, name)).st_size
    return total


def log_numbers(context: LogContext, thread: int, count: int, counts: list[int], cpu: list[float]) -> None:
    """One of the threads that log."""
    log = context.log_info_event
    for number in range(count):
        log("order.created", {"n": number, "thread": thread, "text": TEXTS[number % 64]})
        counts[thread] = number + 1
    cpu[thread] = time.thread_time()


@contextlib.contextmanager
def temporary_directory(wanted: bool, parent: str | None) -> Iterator[str | None]:
    """A directory for the spool, where one is wanted."""
    if not wanted:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="mvx-soak-", dir=parent) as directory:
        yield directory


def soak(options: argparse.Namespace, directory: str | None) -> dict[str, Any]:
    """The whole run; its report."""
    reports: Counter[str] = Counter()
    selflog.set_interval(0)
    selflog.redirect(lambda report: reports.update([report.kind]))
    shares = [options.events // options.threads] * options.threads
    shares[0] += options.events - sum(shares)
    checker = Checker(options.threads, options.refuse_every)
    letters = Letters(checker)
    durable: dict[str, Any] = {}
    if directory is not None:
        durable = {"durable": directory, "spool_max_bytes": SPOOL_BYTES, "durability": options.durable}
    sink, close = UnreliableSink.create(
        checker=checker,
        seed=options.seed,
        queue_overflow_policy=AsyncioLogSinkQueueOverflowPolicy.BLOCK,
        block_timeout=600.0,
        batch_max_size=BATCH,
        delivery_timeout=TIMEOUT,
        retry_delay=0.001,
        retry_max_delay=0.05,
        dead_letter=letters,
        shutdown_timeout=600.0,
        **durable,
    )
    context = LogContext(namespace="soak", log_sink=sink, payload_processor=LogPayloadProcessor())
    counts = [0] * options.threads
    cpu_logging = [0.0] * options.threads
    watcher = Watcher(sink, counts, directory, min(1_000_000, options.events // 10))
    watcher.start()
    begin = time.perf_counter()
    cpu = time.process_time()
    loggers = [
        threading.Thread(target=log_numbers, args=(context, thread, share, counts, cpu_logging))
        for thread, share in enumerate(shares)
    ]
    for thread in loggers:
        thread.start()
    for thread in loggers:
        thread.join()
    logged = time.perf_counter() - begin
    sink.flush(timeout=600.0)  # False: there are dead letters
    taken = time.perf_counter() - begin
    cpu = time.process_time() - cpu
    watcher.over.set()
    watcher.join()
    rss_end = read_rss()
    close()
    stats = sink.stats()
    watcher.check(stats)

    wrong = checker.wrong + watcher.wrong
    refused = {(thread, number) for thread, share in enumerate(shares) for number in checker.count_refused(share)}
    for what, holds in {
        "everything was accepted": stats.accepted == options.events,
        "nothing is pending": stats.pending == 0,
        "delivered + dead-lettered + dropped == accepted": stats.delivered
        + stats.dead_lettered
        + sum(stats.dropped.values())
        == stats.accepted,
        "the destination has what counts as delivered": checker.taken == stats.delivered,
        "nothing is still to come": not any(checker.put_off) and not any(checker.early) and not checker.unanswered,
        "the dead letters are the refused ones": set(letters.numbers) == refused,
        "each of them once": len(letters.numbers) == len(set(letters.numbers)),
    }.items():
        if not holds:
            wrong[what] += 1
    report: dict[str, Any] = {
        "python": sys.version.split()[0],
        "events": options.events,
        "threads": options.threads,
        "seed": options.seed,
        "durable": options.durable,
        "seconds": taken,
        "seconds_logging": logged,
        "events_per_second": options.events / taken,
        "cpu_seconds": {
            "logging": sum(cpu_logging),
            "destination": sink.cpu,
            "rest": cpu - sum(cpu_logging) - sink.cpu,
        },
        "rss": {
            "start": watcher.rss_start,
            "at_mark": watcher.rss_at_mark,
            "mark": watcher.mark,
            "max": watcher.rss_max,
            "end": rss_end,
        },
        "largest_queue_bytes": watcher.largest_queue,
        "accepted": stats.accepted,
        "delivered": stats.delivered,
        "dead_lettered": stats.dead_lettered,
        "dropped": dict(stats.dropped),
        "batches": stats.batches,
        "attempts": sink.attempts,
        "retries": stats.retries,
        "circuit_openings": reports["delivery_restored"],
        "duplicates": checker.duplicates,
        "faults": dict(sink.faults),
        "reports": dict(reports),
        "latency": None if stats.latency is None else stats.latency.to_log_payload(),
        "law_checks": watcher.checks,
        "wrong": dict(wrong),
    }
    if directory is not None:
        left = sorted(name for _, _, names in os.walk(directory) for name in names)
        report["spool"] = {
            "bound": SPOOL_BYTES,
            "largest_by_stats": watcher.largest_spool,
            "largest_directory": watcher.largest_directory,
            "files_left": left,
            "bytes_left": measure_directory(directory),
        }
        if left:
            wrong["the spool is empty in the end"] += 1
            report["wrong"] = dict(wrong)
    return report


def show(report: dict[str, Any]) -> None:
    """The report as text."""
    rss, faults = report["rss"], report["faults"]
    mega = 1024.0 * 1024.0
    print(
        f"Python {report['python']}, {report['events']:,} events, {report['threads']} threads, seed {report['seed']}, "
        f"durable: {report['durable'] or 'no'}"
    )
    print(
        f"  {report['events_per_second']:,.0f} events/s: {report['seconds']:.1f} s, of them {report['seconds_logging']:.1f} "
        f"until the last log() returned"
    )
    cpu = report["cpu_seconds"]
    print(
        f"  CPU in s: {cpu['logging']:.1f} in the threads that log, {cpu['destination']:.1f} in the destination, "
        f"{cpu['rest']:.1f} in the worker and the second thread"
    )
    mark = "not reached" if rss["at_mark"] is None else f"{rss['at_mark'] / mega:.1f}"
    print(
        f"  memory in MiB: start {rss['start'] / mega:.1f}, after {rss['mark']:,} events {mark}, "
        f"max {rss['max'] / mega:.1f}, end {rss['end'] / mega:.1f}; queue at most "
        f"{report['largest_queue_bytes'] / mega:.1f} (estimated)"
    )
    print(
        f"  accepted {report['accepted']:,}, delivered {report['delivered']:,}, dead-lettered {report['dead_lettered']:,}, "
        f"dropped {report['dropped'] or 0}"
    )
    print(
        f"  {report['batches']:,} batches, {report['attempts']:,} attempts, {report['retries']:,} retries, circuit opened "
        f"{report['circuit_openings']:,} times, {report['duplicates']:,} duplicates after lost answers"
    )
    print(f"  faults: {', '.join(f'{name} {count:,}' for name, count in sorted(faults.items())) or 'none'}")
    latency = report["latency"]
    if latency is not None:
        quantiles = ", ".join(f"{name} {latency[name]:.3f}" for name in ("p50", "p90", "p99", "p999", "max"))
        print(f"  latency in s: {quantiles} ({latency['count']:,} samples)")
    if "spool" in report:
        spool = report["spool"]
        print(
            f"  spool in MiB: bound {spool['bound'] / mega:.1f}, largest {spool['largest_by_stats'] / mega:.1f}, directory "
            f"{spool['largest_directory'] / mega:.1f}; files left: {', '.join(spool['files_left']) or 'none'}"
        )
    print(f"  the accounts were checked {report['law_checks']:,} times")
    for what, count in report["wrong"].items():
        print(f"  WRONG, {count:,} times: {what}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print; 1 when anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--threads", type=int, default=1, help="how many threads log")
    parser.add_argument("--seed", type=int, default=1, help="for what goes wrong")
    parser.add_argument("--refuse-every", type=int, default=10_000, help="of so many events, one is refused")
    parser.add_argument(
        "--durable", nargs="?", const="async", choices=("async", "commit"), help="with a spool, of this durability"
    )
    parser.add_argument("--directory", help="where the directory for the spool is made")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a text")
    options = parser.parse_args(argv)
    if options.threads < 1 or options.events < options.threads or options.refuse_every < 1:
        parser.error("--events, --threads, --refuse-every: expected 1 or more, and no more threads than events")
    with temporary_directory(options.durable is not None, options.directory) as directory:
        report = soak(options, directory)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
