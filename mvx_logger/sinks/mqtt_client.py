"""A client of MQTT 5 that only publishes, on the codec of ``mqtt5``.

It keeps as many messages under way as the broker allows, reads the reason in each acknowledgement, and can be interrupted
at any point: it is a protocol on an asyncio transport, and has no task and no thread of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..errors import LogDeliveryError, LogDeliveryTransientError

__all__ = ["MqttConnection", "MqttError", "describe_reason"]

_GOODBYE = 0.25
_LAST_ID = 65_535


class MqttError(LogDeliveryError):
    """The broker has hung up, or refuses what was sent.

    Attributes:
        reason: The reason code of MQTT 5.
    """

    reason_code = "mqtt"

    def __init__(self, message: str, reason: int) -> None:
        super().__init__(f"{message}: {describe_reason(reason)}", details={"reason": reason})
        self.reason = reason


class _Acknowledged:
    """The last message of a batch is."""


class MqttConnection(asyncio.Protocol):
    """A connection to a broker, on which messages are published.

    Args:
        mqtt: The module ``mqtt5``.
        loop: The event loop that runs.

    Attributes:
        error: Why it is broken; None as long as it works.
    """

    def __init__(self, mqtt: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.error: BaseException | None = None
        self._mqtt = mqtt
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._ended = loop.create_future()
        # What open() or publish() waits for.
        self._waiter: asyncio.Future[Any] | None = None
        self._awaited: type = object
        self._pings = 0
        self._buffer = b""
        self._heard_at = loop.time()
        self._beat: asyncio.TimerHandle | None = None
        self._keepalive = 0.0
        self._window = 1
        self._max_size: int | None = None
        self._last_id = 0
        # The batch that is under way: packet ids to indices, and what was not taken.
        self._flying: dict[int, int] = {}
        self._reasons: dict[int, int | str] = {}
        self._next = self._count = 0
        self._encode: Callable[[int, int | None], bytes] | None = None

    # ------------------------------------------------------------------ what a sink does

    async def open(self, hello: Any) -> Any:
        """Say hello; what the broker answers.

        Raises:
            LogDeliveryTransientError: It refuses.
        """
        self._write(hello.write())
        welcome = await self._wait(self._mqtt.ConnAckPacket)
        reason = int(welcome.reason_code)
        if reason >= 0x80:
            why = f" ({welcome.reason_str})" if welcome.reason_str else ""
            raise LogDeliveryTransientError(f"the broker refuses the connection: {describe_reason(reason)}{why}")
        self._window = welcome.receive_max
        self._max_size = welcome.max_packet_size
        given = welcome.server_keep_alive
        self._keepalive = hello.keep_alive if given is None else given
        if self._keepalive:
            self._beat = self._loop.call_later(self._keepalive / 2, self._ask)
        return welcome

    async def publish(
        self, count: int, encode: Callable[[int, int | None], bytes], *, acknowledged: bool
    ) -> dict[int, int | str]:
        """Publish messages, as many at once as the broker allows.

        Args:
            count: How many.
            encode: Called with a message's index and its packet id: the packet. What it raises as ValueError is why there
                is none.
            acknowledged: False where there are no acknowledgements.

        Returns:
            What the broker has not taken, by index: its reason, or a text where it has not seen it.
        """
        self._reasons = {}
        self._next, self._count, self._encode = 0, count, encode
        if not acknowledged:
            self._write(b"".join([packet for index in range(count) if (packet := self._make(index, None))]))
            self._next = count
            self._ping()
            await self._wait(self._mqtt.PingRespPacket)
        else:
            self._fill()
            if self._flying:
                await self._wait(_Acknowledged)
        return self._reasons

    async def close(self) -> None:
        """Say goodbye if there is somebody to say it to, and hang up."""
        if self._beat is not None:
            self._beat.cancel()
        transport = self._transport
        if transport is None:  # never connected
            return
        try:
            if self.error is None and not self._flying:
                self._write(self._mqtt.DisconnectPacket().write())
                transport.close()
                await asyncio.wait((self._ended,), timeout=_GOODBYE)
        finally:
            transport.abort()
        await self._ended

    # ------------------------------------------------------------------ what the transport does

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        view = memoryview(self._buffer + data)
        start = 0
        try:
            while start < len(view):
                try:
                    packet, size = self._mqtt.read(view[start:])
                except IndexError:  # the rest is still to come
                    break
                except ValueError:
                    # Brokers acknowledge with reasons that are not for acknowledgements (0x95), which the codec refuses.
                    size = 2 + view[start + 1]
                    if view[start] not in (0x40, 0x50) or not 5 <= size < 130:
                        raise
                    if start + size > len(view):
                        break
                    self._settle(view[start + 2] << 8 | view[start + 3], view[start + 4])
                    start += size
                    continue
                start += size
                self._take(packet)
        except ValueError as err:
            self._fail(LogDeliveryTransientError(f"the broker talks nonsense: {err}", cause=err))
            return
        self._buffer = bytes(view[start:])
        if self._encode is not None:
            self._fill()
            if not self._flying and self._next == self._count:
                self._encode = None
                self._answer(_Acknowledged())

    def connection_lost(self, exc: BaseException | None) -> None:
        self._fail(exc or ConnectionResetError("the broker has closed the connection"))
        if not self._ended.done():
            self._ended.set_result(None)

    # ------------------------------------------------------------------ what goes on between them

    def _take(self, packet: Any) -> None:
        mqtt = self._mqtt
        if isinstance(packet, (mqtt.PubAckPacket, mqtt.PubCompPacket)):
            self._settle(packet.packet_id, int(packet.reason_code))
        elif isinstance(packet, mqtt.PubRecPacket):
            if int(packet.reason_code) >= 0x80:
                self._settle(packet.packet_id, int(packet.reason_code))
            else:
                self._write(mqtt.PubRelPacket(packet.packet_id).write())
        elif isinstance(packet, mqtt.DisconnectPacket):
            why = f" ({packet.reason_str})" if packet.reason_str else ""
            self._fail(MqttError(f"the broker hangs up{why}", int(packet.reason_code)))
        elif isinstance(packet, mqtt.PingRespPacket):
            self._pings -= 1
            if not self._pings:
                self._answer(packet)
        else:
            self._answer(packet)

    def _settle(self, packet_id: int, reason: int) -> None:
        index = self._flying.pop(packet_id, None)
        if index is not None and reason >= 0x80:
            self._reasons[index] = reason

    def _fill(self) -> None:
        packets = []
        while self._next < self._count and len(self._flying) < self._window:
            self._last_id = self._last_id % _LAST_ID + 1
            packet = self._make(self._next, self._last_id)
            if packet:
                self._flying[self._last_id] = self._next
                packets.append(packet)
            self._next += 1
        if packets:
            self._write(b"".join(packets))

    def _make(self, index: int, packet_id: int | None) -> bytes | None:
        assert self._encode is not None
        try:
            packet = self._encode(index, packet_id)
        except ValueError as err:
            self._reasons[index] = str(err)
            return None
        if self._max_size is not None and len(packet) > self._max_size:
            self._reasons[index] = f"{len(packet)} bytes, and the broker takes {self._max_size}"
            return None
        return packet

    def _write(self, data: bytes) -> None:
        if self._transport is not None and self.error is None:
            self._transport.write(data)

    async def _wait(self, kind: type) -> Any:
        if self.error is not None:
            raise self.error
        self._waiter, self._awaited = self._loop.create_future(), kind
        return await self._waiter

    def _answer(self, packet: Any) -> None:
        if self._waiter is not None and not self._waiter.done() and isinstance(packet, self._awaited):
            self._waiter.set_result(packet)

    def _ping(self) -> None:
        self._pings += 1
        self._write(self._mqtt.PingReqPacket().write())

    def _fail(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(error)
            if self._transport is not None:
                self._transport.abort()

    def _ask(self) -> None:
        """Send a ping, and hang up on a broker that has not answered the last ones."""
        if self.error is not None:
            return
        if self._loop.time() - self._heard_at > 1.5 * self._keepalive:
            self._fail(TimeoutError(f"no sign of life within {1.5 * self._keepalive:g} seconds"))
            return
        self._ping()
        self._beat = self._loop.call_later(self._keepalive / 2, self._ask)


def describe_reason(reason: int | str) -> str:
    """A reason code in words; a text is its own description."""
    if isinstance(reason, str):
        return reason
    return f"{_REASONS.get(reason, 'reason')} (0x{reason:02x})"


_REASONS = {
    0x80: "unspecified error",
    0x81: "malformed packet",
    0x82: "protocol error",
    0x83: "implementation specific error",
    0x84: "unsupported protocol version",
    0x85: "client identifier not valid",
    0x86: "bad user name or password",
    0x87: "not authorized",
    0x88: "server unavailable",
    0x89: "server busy",
    0x8A: "banned",
    0x8B: "server shutting down",
    0x8C: "bad authentication method",
    0x8D: "keep alive timeout",
    0x8E: "session taken over",
    0x90: "topic name invalid",
    0x91: "packet identifier in use",
    0x92: "packet identifier not found",
    0x93: "receive maximum exceeded",
    0x95: "packet too large",
    0x96: "message rate too high",
    0x97: "quota exceeded",
    0x98: "administrative action",
    0x99: "payload format invalid",
    0x9A: "retain not supported",
    0x9B: "quality of service not supported",
    0x9C: "use another server",
    0x9D: "server moved",
    0x9F: "connection rate exceeded",
    0xA0: "maximum connect time",
}
