"""Row 7: a million events into SQLite, from the first call to the closed file, beside a bare `executemany` of the same
rows.

The bare one has all that the sink has, and nothing else: it begins with a copy of an empty file that the sink has made,
sets the pragmas that the sink was seen to set, and inserts the very rows that the sink has written, a transaction for
each 1,000, in one thread. There are three forms of it. In the first two the rows are there, read while its clock
stands: it knows of no events. The second leaves out the columns of a native event that are NULL, each of which Python's
`sqlite3` takes a fifth of a microsecond to bind: `executemany` cannot be faster. The third does that too, and makes the
rows from dicts, with orjson.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from unittest import mock

from fresh import Stopwatch, fresh_side, run_fresh
from harness import Contest, Options, Row, measure_each

from mvx_logger import AsyncioLogSinkQueueOverflowPolicy, SqliteLogSink, configure_log_context

NUMBERS = (7,)

BATCH = 1_000
FILLED = ("timestamp", "level", "level_name", "namespace", "event", "payload", "process_id", "delivery_id")
"""The columns of a native event that hold anything."""
FORMS = {
    "executemany": "all",
    "executemany without the NULLs": "filled",
    "executemany without the NULLs, orjson": "made",
}
WHAT = {"all": "all columns", "filled": "the columns that hold anything", "made": "rows made from dicts"}


def log_into(path: str, number: int) -> Stopwatch:
    """Native events into a new store, until it is closed."""
    sink, close = SqliteLogSink.create(
        path=path,
        queue_overflow_policy=AsyncioLogSinkQueueOverflowPolicy.BLOCK,
        block_timeout=600.0,
        shutdown_timeout=600.0,
    )
    log = configure_log_context("shop.orders", log_sink=sink).log_info_event
    with Stopwatch() as watch:
        for index in range(number):
            log("order.created", {"order_id": f"order-{index}", "amount": index, "paid": True})
        close()
    return watch


def prepare(directory: str, number: int) -> list[str]:
    """Make an empty store and one with so many rows; the pragmas that the sink sets for its connection."""
    log_into(os.path.join(directory, "empty.db"), 0)
    statements: list[str] = []
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect

    def connect_traced(*args: Any, **options: Any) -> sqlite3.Connection:
        raw = connect(*args, **options)
        raw.set_trace_callback(statements.append)
        return raw

    with mock.patch("sqlite3.connect", connect_traced):
        log_into(os.path.join(directory, "rows.db"), number)
    pragmas = (re.fullmatch(r"PRAGMA \w+ *= *\w+", statement) for statement in statements)
    return list(dict.fromkeys(pragma[0] for pragma in pragmas if pragma is not None))


def read_rows(path: str, columns: Sequence[str]) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of a store, in batches."""
    raw = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    cursor = raw.execute(f"SELECT {', '.join(columns)} FROM events ORDER BY id")
    while rows := cursor.fetchmany(BATCH):
        yield rows
    raw.close()


def make_rows(number: int) -> Iterator[list[tuple[Any, ...]]]:
    """Rows of the columns in `FILLED`, as quickly as they can be made, in batches."""
    from orjson import dumps

    process_id = os.getpid()
    for start in range(0, number, BATCH):
        yield [
            (
                time.time(), 20, "INFO", "shop.orders", "order.created",
                dumps({"order_id": f"order-{index}", "amount": index, "paid": True}).decode(),
                process_id, f"0192f0c1-7d2a-7b4e-9c3d-{index:012x}",
            )
            for index in range(start, min(number, start + BATCH))
        ]  # fmt: skip


def run_sink(path: str, number: int) -> dict[str, float]:
    """Ours."""
    return check(path, number, log_into(path, number))


def run_executemany(path: str, number: int, directory: str, pragmas: list[str], form: str) -> dict[str, float]:
    """The bare one; ``form`` is ``all`` (columns), ``filled`` (columns) or ``made``."""
    shutil.copy(os.path.join(directory, "empty.db"), path)
    raw = sqlite3.connect(path, isolation_level=None)
    for pragma in pragmas:
        raw.execute(pragma)
    names: Sequence[str] = FILLED
    if form == "all":
        names = [column[1] for column in raw.execute("PRAGMA table_info(events)") if column[1] != "id"]
    insert = f"INSERT INTO events ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    watch = Stopwatch()
    if form == "made":
        with watch:
            for rows in make_rows(number):
                insert_rows(raw, insert, rows)
    else:
        for rows in read_rows(os.path.join(directory, "rows.db"), names):
            with watch:
                insert_rows(raw, insert, rows)
    with watch:
        raw.close()
    return check(path, number, watch)


def insert_rows(raw: sqlite3.Connection, insert: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """One transaction."""
    raw.execute("BEGIN IMMEDIATE")
    raw.executemany(insert, rows)
    raw.execute("COMMIT")


def check(path: str, number: int, watch: Stopwatch) -> dict[str, float]:
    """The figures, when everything is there."""
    raw = sqlite3.connect(path)
    query = (
        "SELECT count(*), min(json_extract(payload, '$.amount')), max(json_extract(payload, '$.amount')) FROM events"
    )
    found = raw.execute(query).fetchone()
    [mode] = raw.execute("PRAGMA journal_mode").fetchone()
    raw.close()
    if found != (number, 0, number - 1) or mode != "wal":
        raise RuntimeError(f"{found} of {number} events are in the store, in mode {mode}")
    os.unlink(path)
    return {"rate": number / watch.seconds, "cpu": watch.cpu / number * 1e9}


def measure_sqlite(options: Options) -> Iterable[Row]:
    """Row 7."""
    number = options.scaled(1_000_000)
    with tempfile.TemporaryDirectory(prefix="mvx-sqlite-") as directory, Contest() as contest:
        pragmas = run_fresh("rows.sqlite", "prepare", directory=directory, number=number)
        path = os.path.join(directory, "side.db")

        def add(name: str, function: str, needs: str = "", **arguments: Any) -> None:
            contest.open(
                name, lambda: fresh_side("rows.sqlite", function, needs, path=path, number=number, **arguments)
            )

        add("ours", "run_sink")
        for name, form in FORMS.items():
            needs = "orjson" if form == "made" else ""
            add(name, "run_executemany", needs, directory=directory, pragmas=pragmas, form=form)
        results = contest.run(options.rounds(5))
    notes = {
        "all": f"the rows are ready when its clock starts; {'; '.join(pragmas)}",
        "filled": "the rows are ready when its clock starts: executemany cannot be faster",
        "made": "it makes the rows from dicts",
    }
    for name, form in FORMS.items():
        yield results.row(
            7, f"native events into SQLite, end to end; {WHAT[form]}", "ours", name, goal=0.8, judged=form != "made",
            better="higher", figure="rate", unit="events/s", note=notes[form],
        )  # fmt: skip


def measure(options: Options) -> Iterable[Row]:
    """The rows of this module."""
    return measure_each({7: measure_sqlite}, options)
