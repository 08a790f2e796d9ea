"""JetStream: stored on disk, each message acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nats

from mvx_logger import LogEvent
from mvx_logger.formats.json import encode_event
from mvx_logger.sinks.nats import NatsLogSink
from nats_server import NatsServer

SUBJECT = "logs.events"


class _Server(NatsServer):
    def prepare(self) -> None:
        # As it comes, the server syncs to the disk every two minutes; else both would wait for the disk only.
        super().prepare()
        path = self.directory / "server.conf"
        path.write_text(path.read_text().replace(", sync_interval: always", ""))


class Case:
    """See `destinations.Destination`."""

    def __init__(self, directory: Path) -> None:
        self._server = _Server(directory)

    def start(self) -> None:
        self._server.start()
        self._make_stream()

    def stop(self) -> None:
        self._server.kill()

    def clear(self) -> None:
        async def work(client: Any) -> None:  # a purge would leave the ids that it knows
            await client.jetstream().delete_stream("LOGS")

        self._server.run(work)
        self._make_stream()

    def count(self) -> int:
        async def work(client: Any) -> int:
            return int((await client.jetstream().stream_info("LOGS")).state.messages)

        return int(self._server.run(work))

    def make_sink(self, **options: Any) -> Any:
        sink, _ = NatsLogSink.create(servers=f"127.0.0.1:{self._server.port}", subject=SUBJECT, **options)
        return sink

    def _make_stream(self) -> None:
        async def work(client: Any) -> None:
            await client.jetstream().add_stream(name="LOGS", subjects=[SUBJECT])

        self._server.run(work)

    async def write_bare(self, batches: Sequence[Sequence[LogEvent]], ids: Sequence[Sequence[str]]) -> None:
        client = await nats.connect(f"nats://127.0.0.1:{self._server.port}")
        jetstream = client.jetstream()
        for batch, names in zip(batches, ids, strict=True):
            futures = []
            for event, name in zip(batch, names, strict=True):
                headers = {"Nats-Msg-Id": name}
                futures.append(
                    await jetstream.publish_async(SUBJECT, encode_event(event), headers=headers, stream="LOGS")
                )
            await asyncio.gather(*futures)
        await client.close()
