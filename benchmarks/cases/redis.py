"""Redis: XADD into a stream, pipelined, by redis-py."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

from mvx_logger import LogEvent
from mvx_logger.formats.json import encode_event
from mvx_logger.sinks.redis import RedisLogSink
from redis_server import RedisServer


class Case:
    """See `Destination` in ``benchmarks/destinations.py``."""

    def __init__(self, directory: Path) -> None:
        # In memory only: else the disk is measured.
        self.server = RedisServer(directory, "appendonly no")

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.kill()

    def clear(self) -> None:
        with self.server.connect() as client:
            client.flushall()

    def count(self) -> int:
        with self.server.connect() as client:
            return int(client.xlen("logs"))

    def make_sink(self, **options: Any) -> Any:
        return RedisLogSink.create(port=self.server.port, **options)[0]

    async def write_bare(self, batches: Sequence[Sequence[LogEvent]], ids: Sequence[Sequence[str]]) -> None:
        import redis.asyncio

        client = redis.asyncio.Redis(port=self.server.port, protocol=2, socket_timeout=None)
        try:
            for batch, names in zip(batches, ids, strict=True):
                pipeline = client.pipeline(transaction=False)
                for event, name in zip(batch, names, strict=True):
                    pipeline.execute_command("XADD", "logs", "*", "id", name, "event", encode_event(event))
                await pipeline.execute()
        finally:
            await client.aclose()
