"""The bulk interface: a receiver in a process of its own, which counts documents and answers for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from http_receiver import ReceiverServer
from mvx_logger import LogEvent, LogEventBatch
from mvx_logger.sinks.elasticsearch import ElasticsearchLogSink


class Case:
    def __init__(self, directory: Path) -> None:
        self._server = ReceiverServer(directory, "elasticsearch_receiver:CountingBulk")
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
        return ElasticsearchLogSink.create(url=self._server.url, index="logs-shop-default", **options)[0]

    async def write_bare(self, batches: Sequence[Sequence[LogEvent]], ids: Sequence[Sequence[str]]) -> None:
        encoder = ElasticsearchLogSink(url=self._server.url, index="logs-shop-default")
        headers = {"Content-Type": "application/x-ndjson"}
        async with aiohttp.ClientSession(headers=headers) as session:
            for events, names in zip(batches, ids, strict=True):
                body = encoder._encode_batch(LogEventBatch._with_ids(events, names, 1))
                async with session.post(encoder._make_url(), data=BytesIO(body)) as response:
                    answer = msgspec.json.decode(await response.read())
                    response.raise_for_status()
                    assert not answer["errors"]
        await encoder.stop()
