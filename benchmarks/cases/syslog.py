"""Syslog over TCP (RFC 5424, octet counting) to rsyslogd, which parses each message and writes it to a file.

The bare loop does what logging handlers do: it encodes a batch, writes it, and trusts that it arrives. The sink waits
for the acknowledgement of each batch in addition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mvx_logger import LogEvent
from mvx_logger.formats.syslog import SyslogFormatter
from mvx_logger.sinks.syslog import SyslogLogSink
from syslog_helpers import Rsyslogd


class Case:
    def __init__(self, directory: Path) -> None:
        self._server = Rsyslogd(directory, is_plain=True)
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
        output = self._server.output
        return output.read_bytes().count(b"\n") if output.exists() else 0

    def make_sink(self, **options: Any) -> Any:
        return SyslogLogSink.create(host="127.0.0.1", port=self._server.port, transport="tcp", **options)[0]

    async def write_bare(self, batches: Sequence[Sequence[LogEvent]], ids: Sequence[Sequence[str]]) -> None:
        encode = SyslogFormatter().format
        _, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        for events, names in zip(batches, ids, strict=True):
            messages = [encode(event, name) for event, name in zip(events, names, strict=True)]
            writer.write(b"".join([b"%d %b" % (len(message), message) for message in messages]))
            await writer.drain()
        writer.close()
        await writer.wait_closed()
