"""`SyslogLogSink`: events to a syslog server, near or far.

For what a message looks like see `mvx_logger.formats.syslog`, for how it gets there `mvx_logger.sinks.syslog_transport`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal
from urllib.parse import SplitResult

from ..delivery.sink import AsyncioLogSink, LogEventBatch
from ..errors import LogConfigurationError
from ..formats.syslog import MIN_SIZE, SyslogFormatter
from ..tls import make_tls_context
from .syslog_transport import Channel, Framing, open_local, open_tcp, open_udp

__all__ = ["SyslogLogSink"]

_TRANSPORTS = ("udp", "tcp", "tls", "unix")
_LARGEST_DATAGRAM = 65_507


class SyslogLogSink(AsyncioLogSink):
    """Sends events to a syslog server: over UDP, TCP, TLS, or through the local socket.

    As a URL: ``syslog+udp://host:514``, ``syslog+tcp://host:514``, ``syslog+tls://host:6514``, ``syslog+unix:///dev/log``;
    ``syslog://host`` is UDP, and ``syslog:///dev/log`` the local socket.

    Syslog has no answers. An event counts as delivered

    - over TCP and TLS (on Linux) when the server's *system* has acknowledged it. What the server's program had not read,
      or not stored, when it died, is lost; nothing else is;
    - through a local socket (on Linux) when the server's *program* has read it;
    - over UDP when this system has taken it. A server that is down is noticed where its system says so.

    What may have been lost comes again, with the same ``id`` in its structured data.

    Args:
        host: The server: a name or an address.
        port: Its port; 514 without, 6514 for TLS.
        path: The local socket, e.g. ``/dev/log``; datagrams or a stream, which is found out.
        transport: ``udp``, ``tcp``, ``tls`` or ``unix``; without it ``unix`` where there is a path, else ``udp``.
        rfc: ``5424`` (the default, but for local sockets) or ``3164``.
        framing: What tells messages apart in a stream: ``octet`` for their length before each (RFC 6587, RFC 5425: the
            default of TCP and TLS), ``newline`` for a line feed after each (the default of local streams).
        facility: A name (``user``, ``daemon``, ``local0``...) or a number from 0 to 23.
        severity: Severities by level, beside the usual ones: ``{25: "notice", "AUDIT": "alert"}``, or
            ``25:notice,60:alert`` in a URL. A level without one has that of the next lower level that has one.
        app_name: A template for APP-NAME, up to 48 characters (the TAG of RFC 3164: 32); None for the program's name.
        hostname: A template for HOSTNAME, up to 255; None for this host's name (on a local socket with RFC 3164: none).
        procid: A template for PROCID, up to 128; None for the number of the process that has logged.
        msgid: A template for MSGID, up to 32.
        enterprise_id: The private enterprise number behind the ``@`` of structured data; 32473 is the one for
            documentation (RFC 5612).
        max_message_size: How many bytes a message has at most, 480 or more; what is longer is cut, and says so. None for
            1,024 with RFC 3164, 2,048 over UDP, and 8,192 otherwise.
        bom: Begin texts that are not ASCII with a byte order mark, as RFC 5424 wants it and few servers do.
        structured_data: False leaves the structured data out: then the text has the payload, and there is no id.
        tls_ca: A file of certificates (PEM) of the authorities to trust, instead of those of the system.
        tls_cert: A file with our certificate (PEM).
        tls_key: A file with its key (PEM); None where the certificate's file has it too.
        tls_key_password: What the key is encrypted with.
        connect_timeout: Wait so many seconds for a connection, and the handshake of TLS.
        **async_options: Those of `AsyncioLogSink`. ``delivery_timeout`` limits the wait for an acknowledgement too.

    Raises:
        LogConfigurationError, TypeError, ValueError: An option is wrong; the text names it.
    """

    sink_type: ClassVar[str] = "syslog"
    url_schemes: ClassVar[tuple[str, ...]] = ("syslog", "syslog+udp", "syslog+tcp", "syslog+tls", "syslog+unix")
    resource_options: ClassVar[tuple[str, ...]] = ("transport", "host", "port", "path")
    secret_options: ClassVar[tuple[str, ...]] = ("tls_key_password",)
    url_parts: ClassVar[Mapping[str, str]] = {"hostname": "host", "port": "port", "path": "path"}

    def __init__(
        self,
        *,
        host: str | None = None,
        port: int | None = None,
        path: str | None = None,
        transport: Literal["udp", "tcp", "tls", "unix"] | None = None,
        rfc: Literal["5424", "3164"] | None = None,
        framing: Framing | None = None,
        facility: str | int = "user",
        severity: Mapping[str | int, str | int] | Sequence[str] | None = None,
        app_name: str | None = None,
        hostname: str | None = None,
        procid: str | None = None,
        msgid: str = "{event}",
        enterprise_id: str | int = "32473",
        max_message_size: int | None = None,
        bom: bool = False,
        structured_data: bool = True,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        tls_key_password: str | None = None,
        connect_timeout: float = 10.0,
        **async_options: Any,
    ) -> None:
        if transport is None:
            transport = "udp" if path is None else "unix"
        if transport not in _TRANSPORTS:
            raise ValueError(f"transport: {transport!r} is not one of {', '.join(_TRANSPORTS)}")
        local = transport == "unix"
        for name, value in (("host", host), ("path", path)):
            if value is not None and (not isinstance(value, str) or not value or "\0" in value):
                raise TypeError(f"{name}: expected a str that is not empty, got {value!r}")
        if local is (path is None):
            raise LogConfigurationError(
                "path: missing; e.g. /dev/log" if local else f"path: there is none with the transport {transport}",
                details={"path": "path"},
            )
        if local and (host is not None or port is not None):
            raise LogConfigurationError("host: there is none beside a path", details={"path": "host"})
        if port is not None and (isinstance(port, bool) or not isinstance(port, int)):
            raise TypeError(f"port: expected an int, got {type(port).__name__}")
        if port is not None and not 1 <= port <= 65_535:
            raise ValueError(f"port: expected a number from 1 to 65535, got {port}")
        if framing not in (None, "octet", "newline"):
            raise ValueError(f"framing: {framing!r} is not one of octet, newline")
        if framing is not None and transport == "udp":
            raise LogConfigurationError("framing: a datagram has none", details={"path": "framing"})
        tls = {"tls_ca": tls_ca, "tls_cert": tls_cert, "tls_key": tls_key, "tls_key_password": tls_key_password}
        for name, value in tls.items():
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name}: expected a str, got {type(value).__name__}")
            if value is not None and transport != "tls":
                raise LogConfigurationError(f"{name}: only for the transport tls", details={"path": name})
        if isinstance(connect_timeout, bool) or not isinstance(connect_timeout, (int, float)):
            raise TypeError(f"connect_timeout: expected a number, got {type(connect_timeout).__name__}")
        if not connect_timeout > 0:
            raise ValueError(f"connect_timeout: expected more than 0, got {connect_timeout}")
        rfc = rfc or ("3164" if local else "5424")
        if max_message_size is None:
            max_message_size = 1_024 if rfc == "3164" else 2_048 if transport == "udp" else 8_192
        if transport == "udp" and isinstance(max_message_size, int) and max_message_size > _LARGEST_DATAGRAM:
            raise ValueError(
                f"max_message_size: a datagram has {MIN_SIZE} to {_LARGEST_DATAGRAM} bytes, got {max_message_size}"
            )
        self._formatter = SyslogFormatter(
            rfc=rfc,
            facility=facility,
            severity=severity,
            app_name=app_name,
            hostname=hostname,
            procid=procid,
            msgid=msgid,
            enterprise_id=enterprise_id,
            max_message_size=max_message_size,
            bom=bom,
            structured_data=structured_data,
            local=local,
        )
        self._transport = transport
        self._address = host or "localhost", port or (6514 if transport == "tls" else 514)
        self._path = path
        self._framing: Framing = framing or ("newline" if local else "octet")
        self._tls_options = tls
        self._connect_timeout = connect_timeout
        self._turn = -1
        self._channel: Channel | None = None
        self._in_doubt = False
        super().__init__(**async_options)

    @classmethod
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        """``syslog+tcp://host:port`` or ``syslog+unix:///path``."""
        found = super().options_from_url(url)
        transport = url.scheme.partition("+")[2]
        if "path" in found:
            found["path"] = f"/{found['path']}"
        found["transport"] = transport or ("unix" if "path" in found and "host" not in found else "udp")
        return found

    async def _on_starting(self) -> None:
        if self._transport == "tls":
            make_tls_context(**self._tls_options)  # what is wrong with the files is told now

    async def _on_connecting(self) -> None:
        self._in_doubt = False
        self._turn += 1
        async with asyncio.timeout(self._connect_timeout):
            if self._path is not None:
                self._channel = await open_local(self._path, self._framing)
            elif self._transport == "udp":
                self._channel = await open_udp(*self._address, self._turn)
            else:
                context = make_tls_context(**self._tls_options) if self._transport == "tls" else None
                self._channel = await open_tcp(*self._address, self._framing, context)

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        assert self._channel is not None
        self._in_doubt = True
        await self._channel.send(map(self._formatter.format, events, events.delivery_ids))
        self._in_doubt = False

    def _is_connection_lost(self) -> bool:
        return self._channel is not None and self._channel.is_lost()

    async def _on_disconnecting(self) -> None:
        if self._channel is not None:
            self._channel.close(politely=not self._in_doubt)
            self._channel = None
