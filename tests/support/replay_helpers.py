"""Dead letters and spools to replay, and stores to replay them into."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("click")

from click.testing import CliRunner, Result

from events import make_numbered
from mvx_logger import LogEvent
from mvx_logger.cli.commands import cli
from mvx_logger.delivery.dead_letter import make_dead_letter
from mvx_logger.delivery.spool import Spool, iter_spool
from mvx_logger.formats.json import decode_event, encode_event
from mvx_logger.sinks.sqlite_store import EventStore


def make_id(number: int) -> str:
    return f"01234567-89ab-8cde-8f01-23{number:010x}"


def make_letter(number: int, reason: str = "refused") -> LogEvent:
    return make_dead_letter(
        make_numbered(number),
        reason=reason,
        error="ValueError: no",
        sink="ShopSink",
        delivery_id=make_id(number),
        attempts=2,
        at=1_780_000_100.0,
    )


def write_letters(path: Path, count: int, start: int = 0) -> None:
    with path.open("ab") as file:
        file.writelines(encode_event(make_letter(number)) + b"\n" for number in range(start, start + count))


def write_spool(path: Path, count: int, *, label: str = "ShopSink", start: int = 0) -> list[str]:
    """What a sink of another process has left; the delivery ids."""
    spool = Spool(path, label=label)
    spool.open()
    spool.append([make_numbered(number) for number in range(start, start + count)])
    spool.close()
    return [delivery_id for delivery_id, _ in iter_spool(path)]


def make_store(path: Path) -> None:
    store = EventStore(path)
    store.open()
    store.close()


def read_store(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT delivery_id, event FROM events ORDER BY id").fetchall()


def replay(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["replay", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def read_letters(path: Path) -> list[LogEvent]:
    return [decode_event(line) for line in path.read_bytes().splitlines()]


def start(source: Path, target: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mvx_logger.cli", "replay", str(source), "--to", target]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def count_rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        count: int = connection.execute("SELECT count(*) FROM events").fetchone()[0]
        return count
