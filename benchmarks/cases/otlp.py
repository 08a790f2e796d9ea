"""OTLP/HTTP in protobuf, at a receiver in a process of its own, which reads requests and counts what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from http_receiver import ReceiverServer
from mvx_logger import LogEvent
from mvx_logger.formats.otlp import encode_protobuf
from mvx_logger.sinks.otlp import OtlpLogSink, make_resource


class Case:
    def __init__(self, directory: Path) -> None:
        self._server = ReceiverServer(directory, "preset_receivers:Counting", mark="log.record.uid")
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
        return OtlpLogSink.create(url=self._server.url, service_name="shop", **options)[0]

    async def write_bare(self, batches: Sequence[Sequence[LogEvent]], ids: Sequence[Sequence[str]]) -> None:
        resource = make_resource("shop", {})
        headers = {"Content-Type": "application/x-protobuf"}
        async with aiohttp.ClientSession(headers=headers) as session:
            for events, names in zip(batches, ids, strict=True):
                body = encode_protobuf(events, names, resource)
                async with session.post(f"{self._server.url}/v1/logs", data=body) as response:
                    await response.read()
                    response.raise_for_status()
