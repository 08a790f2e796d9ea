"""PostgreSQL with its own settings: the sink's ``COPY``, and asyncpg's ``copy_records_to_table`` into the same table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from mvx_logger import LogEvent, LogEventMeta
from mvx_logger.formats.text import LEVEL_NAMES
from mvx_logger.sinks.postgres import PostgresLogSink
from postgres_server import PostgresServer

COLUMNS = (
    "delivery_id", "timestamp", "level", "level_name", "namespace", "event", "entity_id", "outcome", "message", "payload",
    "source_path", "source_line", "source_func",
)  # fmt: skip
ENCODE = msgspec.json.Encoder().encode


class Case:
    """See `destinations.Destination`. The server makes a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.server = PostgresServer(settings={"fsync": "on", "shared_buffers": "128MB"})

    def start(self) -> None:
        self.server.start()
        self.server.run("CREATE ROLE logger LOGIN PASSWORD 'secret'")
        self.server.run("CREATE DATABASE logs OWNER logger")
        sink = self.make_sink()  # makes the table
        sink.log(LogEvent(20, LogEventMeta(None, "start"), None, 0.0, {}))
        assert sink.flush(timeout=60), sink.stats()
        sink.close()

    def stop(self) -> None:
        self.server.remove()

    def clear(self) -> None:
        self.server.run("TRUNCATE events", database="logs")

    def count(self) -> int:
        found: int = self.server.run("SELECT count(*) FROM events", database="logs")[0][0]
        return found

    def make_sink(self, **options: Any) -> Any:
        sink, _ = PostgresLogSink.create(**self._get_address(), username="logger", **options)
        return sink

    def _get_address(self) -> dict[str, Any]:
        return {"host": self.server.host, "port": self.server.port, "database": "logs", "password": "secret"}

    async def write_bare(self, batches: Sequence[Sequence[LogEvent]], ids: Sequence[Sequence[str]]) -> None:
        connection = await asyncpg.connect(**self._get_address(), user="logger")
        for batch, keys in zip(batches, ids, strict=True):
            rows = [
                (
                    f"00000000-0000-8000-8000-{key[-12:]}",
                    datetime.fromtimestamp(event.timestamp, UTC),
                    event.level,
                    LEVEL_NAMES[event.level],
                    event.meta.event_namespace,
                    event.meta.event_name,
                    event.meta.entity_id,
                    event.event_outcome,
                    event.message,
                    ENCODE(event.payload).decode(),
                    event.meta.source_path,
                    event.meta.source_line,
                    event.meta.source_func,
                )
                for key, event in zip(keys, batch, strict=True)
            ]
            await connection.copy_records_to_table("events", records=rows, columns=COLUMNS)
        await connection.close()
