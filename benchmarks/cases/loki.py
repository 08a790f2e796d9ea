"""Loki's push API, at a receiver in a process of its own, which reads requests and counts what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from http_receiver import ReceiverServer
from mvx_logger import LogEvent, LogEventBatch
from mvx_logger.sinks.http import encode_documents
from mvx_logger.sinks.http_fields import parse_templates
from mvx_logger.sinks.loki import LokiLogSink, encode_push

LABELS = {"service_name": "shop", "level": "{level}"}
METADATA = {
    "namespace": "{namespace}",
    "event": "{event}",
    "entity_id": "{entity_id}",
    "trace_id": "{payload.trace_id}",
}


class Case:
    def __init__(self, directory: Path) -> None:
        self._server = ReceiverServer(directory, "preset_receivers:Counting", mark='{\\"delivery_id\\":', status=204)
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
        return LokiLogSink.create(url=self._server.url, labels=LABELS, **options)[0]

    async def write_bare(self, batches: Sequence[Sequence[LogEvent]], ids: Sequence[Sequence[str]]) -> None:
        labels, metadata = parse_templates("labels", LABELS, {}), parse_templates("metadata", METADATA, {})
        headers = {"Content-Type": "application/json"}
        async with aiohttp.ClientSession(headers=headers) as session:
            for events, names in zip(batches, ids, strict=True):
                batch = LogEventBatch(events)
                batch._ids = tuple(names)
                body = encode_push(batch, encode_documents(batch), labels, metadata)
                async with session.post(f"{self._server.url}/loki/api/v1/push", data=body) as response:
                    await response.read()
                    response.raise_for_status()
