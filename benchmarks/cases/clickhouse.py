"""ClickHouse: insertions into a table that the sink has made."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp

from clickhouse_server import ClickHouseServer
from mvx_logger import LogEvent, LogEventBatch
from mvx_logger.sinks.clickhouse import ClickHouseLogSink


class Case:
    def __init__(self, directory: Path) -> None:
        self._server = ClickHouseServer(directory)

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def clear(self) -> None:
        self._server.query("DROP TABLE IF EXISTS events")

    def count(self) -> int:
        return int(self._server.query("SELECT count() FROM events"))

    def make_sink(self, **options: Any) -> Any:
        return ClickHouseLogSink.create(url=self._server.url, **options)[0]

    async def write_bare(self, batches: Sequence[Sequence[LogEvent]], ids: Sequence[Sequence[str]]) -> None:
        encoder = ClickHouseLogSink(url=self._server.url)
        await encoder._on_connecting()  # makes the table
        await encoder._on_disconnecting()
        async with aiohttp.ClientSession() as session:
            for events, names in zip(batches, ids, strict=True):
                body = encoder._encode_batch(LogEventBatch._with_ids(events, names, 1))
                async with session.post(self._server.url, data=BytesIO(body)) as response:
                    await response.read()
                    response.raise_for_status()
        await encoder.stop()
