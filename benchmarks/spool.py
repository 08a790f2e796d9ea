"""The spool beside a queue in a SQLite table in WAL mode, in one run.

Both keep the same events in the same encoding, both survive ``kill -9``, and in the ``fsync`` rows a power cut too. SQLite
is set up as well as we know: WAL, ``synchronous`` NORMAL (FULL for ``fsync``), an INTEGER PRIMARY KEY, prepared statements,
no index, transactions begun as IMMEDIATE, batches by ``executemany``, deletion by range, one connection for all threads.
The spool's memory of what was just appended is switched off, so that both read from their files.

Rounds are interleaved, so that a noisy machine is noisy for both. Each ratio is SQLite's time divided by the spool's, the
median over the rounds: larger than 1 means that the spool is faster. Run it with ``python benchmarks/spool.py``.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from mvx_logger import LogEvent, LogEventMeta
from mvx_logger.delivery.spool import Spool, _decode, _encode

BATCH = 1_000
THREADS = 8


def make_event(number: int) -> LogEvent:
    """What a web shop might log."""
    return LogEvent(
        20,
        LogEventMeta("shop.orders", "order.created", f"order-{number}"),
        "success",
        time.time(),
        {"order_id": f"order-{number}", "amount": 3, "paid": True, "customer": "someone"},
    )


class SpoolQueue:
    """The spool."""

    def __init__(self, directory: str, *, fsync: bool) -> None:
        self.spool = Spool(os.path.join(directory, "spool"), label="bench", cache_bytes=0, fsync=fsync)
        self.spool.open()

    def append(self, events: Sequence[LogEvent]) -> None:
        """Durable when it returns."""
        self.spool.append(events)

    append_packed = append

    def drain(self) -> int:
        """Read and remove everything, in batches; how many there were."""
        count = 0
        while (batch := self.spool.read(BATCH, 1 << 30)) is not None:
            count += len(batch.events)
            self.spool.confirm(batch.run)
        return count

    def get_size(self) -> int:
        """Bytes on disk."""
        return sum(entry.stat().st_size for entry in os.scandir(self.spool.directory))

    def close(self) -> None:
        """Done."""
        self.spool.close()


class SqliteQueue:
    """A table."""

    def __init__(self, directory: str, *, fsync: bool) -> None:
        self.path = os.path.join(directory, "queue.db")
        self.database = sqlite3.connect(self.path, isolation_level=None, cached_statements=16, check_same_thread=False)
        self.lock = threading.Lock()
        self.run = self.database.execute
        self.run("PRAGMA journal_mode = WAL")
        self.run(f"PRAGMA synchronous = {'FULL' if fsync else 'NORMAL'}")
        self.run("PRAGMA mmap_size = 268435456")
        self.run("CREATE TABLE queue (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")

    def append(self, events: Sequence[LogEvent]) -> None:
        """Durable when it returns."""
        if len(events) == 1:
            body = _encode(events)
            with self.lock:
                self.run("INSERT INTO queue (body) VALUES (?)", (body,))
            return
        self.run("BEGIN IMMEDIATE")
        self.database.executemany("INSERT INTO queue (body) VALUES (?)", [(_encode((event,)),) for event in events])
        self.run("COMMIT")

    def append_packed(self, events: Sequence[LogEvent]) -> None:
        """The batch as one row, like a record of the spool."""
        self.run("INSERT INTO queue (body) VALUES (?)", (_encode(events),))

    def drain(self) -> int:
        """Read and remove everything, in batches; how many there were."""
        count = 0
        while rows := self.run("SELECT id, body FROM queue ORDER BY id LIMIT ?", (BATCH,)).fetchall():
            for _, body in rows:
                count += len(_decode(body))
            self.run("DELETE FROM queue WHERE id <= ?", (rows[-1][0],))
        return count

    def get_size(self) -> int:
        """Bytes on disk."""
        return sum(os.path.getsize(self.path + end) for end in ("", "-wal"))

    def close(self) -> None:
        """Done."""
        self.database.close()


def cost(call: Callable[[], object], events: int) -> float:
    """Seconds for one event."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) / events


def append_each(queue: SpoolQueue | SqliteQueue, events: Sequence[LogEvent]) -> None:
    """One commit for each event."""
    append = queue.append
    for event in events:
        append((event,))


def append_from_threads(queue: SpoolQueue | SqliteQueue, events: Sequence[LogEvent]) -> None:
    """One commit for each event, from several threads."""
    threads = [threading.Thread(target=append_each, args=(queue, events[number::THREADS])) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def append_all(queue: SpoolQueue | SqliteQueue, batches: Sequence[Sequence[LogEvent]]) -> None:
    """One commit for each batch."""
    for batch in batches:
        queue.append(batch)


def append_packed(queue: SpoolQueue | SqliteQueue, batches: Sequence[Sequence[LogEvent]]) -> None:
    """One commit for each batch, and one row."""
    for batch in batches:
        queue.append_packed(batch)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--number", type=int, default=5_000, help="events in a round")
    parser.add_argument("--synced", type=int, default=100, help="events in a round that the disk confirms one by one")
    parser.add_argument("--directory", help="where the files are made; default: the temporary directory")
    options = parser.parse_args()
    events = [make_event(number) for number in range(options.number)]
    batches = [events[start : start + BATCH] for start in range(0, len(events), BATCH)]
    times: dict[tuple[str, str], list[float]] = {}

    def note(what: str, who: str, call: Callable[[], object], count: int) -> None:
        times.setdefault((what, who), []).append(cost(call, count))

    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        queues: dict[str, SpoolQueue | SqliteQueue] = {}
        synced: dict[str, SpoolQueue | SqliteQueue] = {}
        for who, kind in (("spool", SpoolQueue), ("sqlite", SqliteQueue)):
            for name, group, fsync in (("plain", queues, False), ("synced", synced, True)):
                path = os.path.join(directory, f"{who}-{name}")
                os.mkdir(path)
                group[who] = kind(path, fsync=fsync)
        largest = dict.fromkeys(queues, 0)
        few = events[: options.synced]
        for _ in range(options.rounds):
            for who, queue in queues.items():
                note(
                    "append, a commit for each event", who, lambda queue=queue: append_each(queue, events), len(events)
                )
                largest[who] = max(largest[who], queue.get_size())
                note("drain what was appended one by one", who, queue.drain, len(events))
                note("append, 1,000 events at a time", who, lambda queue=queue: append_all(queue, batches), len(events))
                note("drain what was appended in batches", who, queue.drain, len(events))
                note(
                    "append, 1,000 events as one row",
                    who,
                    lambda queue=queue: append_packed(queue, batches),
                    len(events),
                )
                note("drain batches as one row", who, queue.drain, len(events))
            for who, queue in synced.items():
                note("fsync, a commit for each event", who, lambda queue=queue: append_each(queue, few), len(few))
                note("fsync, so from eight threads", who, lambda queue=queue: append_from_threads(queue, few), len(few))
                note("fsync, 1,000 events at a time", who, lambda queue=queue: append_all(queue, batches), len(events))
                queue.drain()
        left = {who: queue.get_size() for who, queue in queues.items()}
        for queue in (*queues.values(), *synced.values()):
            queue.close()

    print(f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}, msgspec {msgspec.__version__}")
    print(
        f"{options.rounds} rounds of {options.number:,} events of {len(_encode(events[:1]))} bytes; time for an event"
    )
    for what in dict.fromkeys(what for what, _ in times):
        ours, theirs = times[what, "spool"], times[what, "sqlite"]
        ratio = statistics.median(other / own for own, other in zip(ours, theirs, strict=True))
        print(
            f"  {what:36} spool {statistics.median(ours) * 1e6:7.2f} us   sqlite {statistics.median(theirs) * 1e6:7.2f} us"
            f"   sqlite / spool {ratio:6.2f}"
        )
    print(f"  bytes on disk when full: spool {largest['spool']:,}, sqlite {largest['sqlite']:,}")
    print(f"  bytes on disk when drained: spool {left['spool']:,}, sqlite {left['sqlite']:,}")


if __name__ == "__main__":
    main()
