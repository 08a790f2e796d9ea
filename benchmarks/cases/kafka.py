"""A Kafka-compatible broker that keeps messages in memory; an idempotent producer, acknowledgements of all replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from kafka_server import KafkaServer
from mvx_logger import LogEvent
from mvx_logger.formats.json import encode_event
from mvx_logger.sinks.kafka import KafkaLogSink


class Case:
    """See `destinations.Destination`."""

    def __init__(self, directory: Path) -> None:
        self._server = KafkaServer(directory)
        self._topics = 0

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.kill()

    def clear(self) -> None:
        self._topics += 1
        self._server.restart()  # else it remembers more and more
        self._server.make_topic(self._topic)
        # Half a second goes by until a new producer has its number: the sink is past that when the clock starts.
        self._producer = Producer(
            {"bootstrap.servers": self._server.address, "enable.idempotence": True, "linger.ms": 0, "log_level": 0}
        )
        self._producer.produce("warm", b"x")
        self._producer.flush(30)

    def count(self) -> int:
        return len(self._server.read(self._topic))

    @property
    def _topic(self) -> str:
        return f"logs-{self._topics}"

    def make_sink(self, **options: Any) -> Any:
        return KafkaLogSink.create(servers=self._server.address, topic=self._topic, **options)[0]

    async def write_bare(self, batches: Sequence[Sequence[LogEvent]], ids: Sequence[Sequence[str]]) -> None:
        left = 0

        def on_delivery(error: Any, message: Any) -> None:
            nonlocal left
            assert error is None
            left -= 1

        producer = self._producer
        for batch, names in zip(batches, ids, strict=True):
            left = len(batch)
            for event, name in zip(batch, names, strict=True):
                headers: list[Any] = [("delivery-id", name.encode()), ("level", b"INFO"), ("namespace", b"shop.orders")]
                producer.produce(
                    self._topic,
                    encode_event(event),
                    timestamp=int(event.timestamp * 1_000),
                    headers=headers,
                    on_delivery=on_delivery,
                )
            while left:
                if not producer.poll(0):
                    await asyncio.sleep(0.001)
