"""RabbitMQ: persistent messages into a durable queue; the bare loop publishes batches with aiormq."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mvx_logger import LogEvent
from mvx_logger.formats.json import encode_event
from mvx_logger.sinks.amqp import AmqpLogSink
from rabbitmq_server import RabbitMq

QUEUE = "events"


class Case:
    """A node of its own; see `benchmarks/destinations.py`."""

    def __init__(self, directory: Path) -> None:
        self.server = RabbitMq(directory)

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.close()

    def clear(self) -> None:
        asyncio.run(self._ask("queue_purge"))

    def count(self) -> int:
        return asyncio.run(self._ask("queue_declare")).message_count

    def make_sink(self, **options: Any) -> AmqpLogSink:
        return AmqpLogSink.create(host="127.0.0.1", port=self.server.port, queue=QUEUE, **options)[0]

    async def write_bare(self, batches: Sequence[Sequence[LogEvent]], ids: Sequence[Sequence[str]]) -> None:
        import aiormq
        from pamqp.commands import Basic

        connection = await aiormq.connect(f"amqp://guest:guest@127.0.0.1:{self.server.port}/")
        channel = await connection.channel()
        for batch, names in zip(batches, ids, strict=True):
            await asyncio.gather(
                *[
                    channel.basic_publish(
                        encode_event(event),
                        exchange="logs",
                        routing_key=f"{event.meta.event_namespace}.info",
                        properties=Basic.Properties(
                            content_type="application/json",
                            content_encoding="utf-8",
                            delivery_mode=2,
                            app_id="mvx-logger",
                            message_id=name,
                            timestamp=datetime.fromtimestamp(event.timestamp, UTC),
                            message_type=event.meta.event_name,
                            headers={"level": "INFO", "namespace": event.meta.event_namespace},
                        ),
                        mandatory=True,
                        wait=False,
                    )
                    for event, name in zip(batch, names, strict=True)
                ]
            )
        await connection.close()

    async def _ask(self, what: str) -> Any:
        import aiormq

        async with aiormq.connect(f"amqp://guest:guest@127.0.0.1:{self.server.port}/") as connection:
            channel = await connection.channel()
            await channel.queue_declare(QUEUE, durable=True)
            arguments = {"durable": True} if what == "queue_declare" else {}
            return await getattr(channel, what)(QUEUE, **arguments)
