"""A sink of one's own: newline-delimited JSON over TCP, confirmed batch by batch.

What goes over a connection::

    > {"token":"..."}                                            once, if the sink has one
    > {"batch":"0196...-0000000001","events":2}                  then, for each batch, its name and its size,
    > {"id":"0196...-0000000001","event":{"timestamp":...}}      and a line for each event
    > {"id":"0196...-0000000002","event":{"timestamp":...}}
    < {"batch":"0196...-0000000001","taken":2}                   one line says what has become of it

The server may take a part: ``"refused":{"0":"no such shop"}`` never, ``"retry":[1]`` not now. Or nothing: ``"busy":0.2``
asks to be left alone for so many seconds. It gets an event twice when its answer was lost, but always with the same id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from mvx_logger import (
    AsyncioLogSink,
    LogDeliveryPartialError,
    LogDeliveryTransientError,
    LogEventBatch,
)
from mvx_logger.formats.json import encode_event


class Answer(msgspec.Struct, forbid_unknown_fields=True):
    """What the server says of a batch."""

    batch: str
    taken: int = 0
    refused: dict[int, str] = {}
    retry: list[int] = []
    busy: float | None = None


class TcpLogSink(AsyncioLogSink):
    """Sends events to a server and waits for its word before they count as delivered.

    It starts while the server is down, too. As a URL: ``tcp+json://:token@host:port``.

    Args:
        host: A name or an address, IPv4 or IPv6.
        port: The port.
        token: What the server knows us by.
        **async_options: The options of `AsyncioLogSink`.
    """

    sink_type: ClassVar[str] = "tcp+json"
    url_schemes: ClassVar[tuple[str, ...]] = ("tcp+json",)
    resource_options: ClassVar[tuple[str, ...]] = ("host", "port")
    secret_options: ClassVar[tuple[str, ...]] = ("token",)
    url_parts: ClassVar[Mapping[str, str]] = {"hostname": "host", "port": "port", "password": "token"}

    def __init__(self, *, host: str = "localhost", port: int, token: str | None = None, **async_options: Any) -> None:
        super().__init__(**async_options)
        self._address = host, port
        self._token = token
        self._writer: asyncio.StreamWriter | None = None

    async def _on_connecting(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        if self._token is not None:
            self._writer.write(msgspec.json.encode({"token": self._token}) + b"\n")

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        assert self._writer is not None
        ids = events.delivery_ids
        lines = [b'{"batch":"%s","events":%d}\n' % (ids[0].encode(), len(ids))]
        for delivery_id, event in zip(ids, events, strict=True):
            lines.append(b'{"id":"%s","event":%s}\n' % (delivery_id.encode(), encode_event(event)))
        self._writer.write(b"".join(lines))
        await self._writer.drain()
        answer = parse_answer(await self._reader.readuntil(b"\n"), ids)
        if answer.busy is not None:
            raise LogDeliveryTransientError("the server is busy", retry_after=answer.busy)
        if answer.refused or answer.retry:
            raise LogDeliveryPartialError("not all was taken", refused=answer.refused, retry=answer.retry)

    def _is_connection_lost(self) -> bool:
        return self._reader.at_eof()  # the server has closed it while there was nothing to send

    async def _on_disconnecting(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()  # close() would wait for what a dead server never reads


def parse_answer(line: bytes, ids: Sequence[str]) -> Answer:
    """What the server says of the batch of these ids.

    Raises:
        LogDeliveryTransientError: Nothing that can be trusted.
    """
    try:
        answer = msgspec.json.decode(line, type=Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError) as err:
        raise LogDeliveryTransientError(f"the server talks nonsense: {line[:100]!r}", cause=err) from err
    told = len(ids) if answer.busy is not None else answer.taken + len(answer.refused) + len(answer.retry)
    if answer.batch != ids[0] or told != len(ids):
        raise LogDeliveryTransientError("the server's answer is for something else")
    return answer
