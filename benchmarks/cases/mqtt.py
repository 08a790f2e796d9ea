"""Mosquitto, QoS 1: the bare loop writes the packets of the same codec, as many at once as the broker allows, and reads the
acknowledgements."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mosquitto_server import Mosquitto
from mvx_logger import LogEvent
from mvx_logger.formats.json import encode_event
from mvx_logger.sinks.mqtt import MqttLogSink


class Case:
    """A broker of its own; see `benchmarks/destinations.py`."""

    def __init__(self, directory: Path) -> None:
        self.server = Mosquitto(directory, "log_type none")
        self._before = 0

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.kill()

    def clear(self) -> None:
        self._before += max(0, self.count())

    def count(self) -> int:
        """What the broker says that it has received, which it says once a second."""
        from paho.mqtt import subscribe

        told: Any = subscribe.simple(
            "$SYS/broker/publish/messages/received", hostname="127.0.0.1", port=self.server.port
        )
        return int(told.payload) - self._before

    def make_sink(self, **options: Any) -> MqttLogSink:
        return MqttLogSink.create(host="127.0.0.1", port=self.server.port, **options)[0]

    async def write_bare(self, batches: Sequence[Sequence[LogEvent]], ids: Sequence[Sequence[str]]) -> None:
        import mqtt5

        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        writer.write(mqtt5.ConnectPacket(client_id="", clean_start=True).write())
        buffer = b""

        async def read() -> list[Any]:
            nonlocal buffer
            buffer += await reader.read(1 << 16)
            packets = []
            while buffer:
                try:
                    packet, size = mqtt5.read(memoryview(buffer))
                except IndexError:
                    break
                packets.append(packet)
                buffer = buffer[size:]
            return packets

        (welcome,) = await read()
        last = 0
        for batch, names in zip(batches, ids, strict=True):
            left = list(zip(batch, names, strict=True))[::-1]
            flying = 0
            while left or flying:
                packets = []
                while left and flying < welcome.receive_max:
                    event, name = left.pop()
                    last = last % 65_535 + 1
                    flying += 1
                    packets.append(
                        mqtt5.PublishPacket(
                            f"logs/{event.meta.event_namespace}/info",
                            encode_event(event),
                            qos=mqtt5.QoS.AT_LEAST_ONCE,
                            packet_id=last,
                            content_type="application/json",
                            payload_format_indicator=1,
                            user_properties=[("delivery-id", name)],
                        ).write()
                    )
                writer.write(b"".join(packets))
                flying -= len(await read())
        writer.write(mqtt5.DisconnectPacket().write())
        writer.close()
        await writer.wait_closed()
