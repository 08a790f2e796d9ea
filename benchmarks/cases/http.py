"""Any endpoint: a receiver in a process of its own, which reads requests and counts what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp

from http_receiver import ReceiverServer
from mvx_logger import LogEvent, LogEventBatch
from mvx_logger.sinks.http import HttpLogSink, encode_documents


class Case:
    def __init__(self, directory: Path) -> None:
        self._server = ReceiverServer(directory, "preset_receivers:Counting", mark='{"delivery_id":', status=200)
        self._before = 0

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def clear(self) -> None:
        self._before = self._count()

    def count(self) -> int:
        return self._count() - self._before

    def _count(self) -> int:
        return sum(record["count"] for record in self._server.read_records())

    def make_sink(self, **options: Any) -> Any:
        return HttpLogSink.create(url=self._server.url, **options)[0]

    async def write_bare(self, batches: Sequence[Sequence[LogEvent]], ids: Sequence[Sequence[str]]) -> None:
        headers = {"Content-Type": "application/x-ndjson"}
        async with aiohttp.ClientSession(headers=headers) as session:
            for events, names in zip(batches, ids, strict=True):
                body = b"\n".join([*encode_documents(LogEventBatch._with_ids(events, names, 1)), b""])
                async with session.post(self._server.url, data=BytesIO(body)) as response:
                    await response.read()
                    response.raise_for_status()
