"""How syslog messages travel: datagrams, streams, and streams in TLS.

No syslog server answers. What can be known of a message without an answer is asked of the operating system, before a batch
counts as delivered; on Linux that is how much of it is not yet at its end:

- TCP and TLS: bytes that the peer's system has not acknowledged (``SIOCOUTQ``);
- a local socket: bytes that the peer's *program* has not read (the same call);
- UDP: nothing. A refusal (ICMP) is noticed when it comes in time.

A connection is never reset by us, also where it is given up: with some systems the peer would throw away what it has
acknowledged and not read yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    import ssl

__all__ = ["Channel", "Framing", "open_local", "open_tcp", "open_udp"]

Framing = Literal["octet", "newline"]
T = TypeVar("T")

_CHUNK = 1 << 16
_CLOSED = "the server has closed the connection"
_LONGEST_PAUSE = 0.01
_BURST = 64
_BREATH = 0.001
"""After so many datagrams over UDP, a pause: the usual receive buffer holds about twice as many."""
_FIRST_WORD = 1.0
"""Seconds within which a TLS 1.3 server says something after the handshake, if it ever does."""


class Channel(Protocol):
    """A way to one server."""

    async def send(self, messages: Iterable[bytes]) -> None:
        """Send messages as they are made, and wait until they have arrived, as far as that can be known.

        Raises:
            OSError: They have not, or nobody can tell.
        """

    def is_lost(self) -> bool:
        """True when the server has hung up."""
        ...

    def close(self, *, politely: bool) -> None:
        """Hang up; politely, where the connection works."""


async def open_udp(host: str, port: int, turn: int) -> Channel:
    """A channel of datagrams. ``turn`` says which of the host's addresses: over UDP nobody can tell which one listens."""
    found = await _resolve(host, port, socket.SOCK_DGRAM)
    family, address = found[turn % len(found)]
    sock = _make_socket(family, socket.SOCK_DGRAM)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return _Datagrams(sock, None)


async def open_tcp(host: str, port: int, framing: Framing, context: ssl.SSLContext | None) -> Channel:
    """A connection to the first of the host's addresses that takes it; in TLS with a context."""
    loop = asyncio.get_running_loop()
    error: OSError = OSError(f"{host} has no address")
    for family, address in await _resolve(host, port, socket.SOCK_STREAM):
        sock = _make_socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, address)
        except OSError as err:
            sock.close()
            error = err
            continue
        except BaseException:
            sock.close()
            raise
        if context is None:
            return _Stream(sock, framing)
        channel = _TlsStream(sock, framing, context, host)
        try:
            await channel.shake_hands()
        except BaseException:
            sock.close()
            raise
        return channel
    raise error


async def open_local(path: str, framing: Framing) -> Channel:
    """The local socket of a server: datagrams, or a stream where it is one."""
    loop = asyncio.get_running_loop()
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise OSError("there are no local sockets on this platform")
    sock = _make_socket(family, socket.SOCK_DGRAM)
    try:
        sock.connect(path)
        return _Datagrams(sock, path)
    except BaseException as err:
        sock.close()
        if not isinstance(err, OSError) or err.errno != errno.EPROTOTYPE:
            raise
    sock = _make_socket(family, socket.SOCK_STREAM)
    try:
        await loop.sock_connect(sock, path)
    except BaseException:
        sock.close()
        raise
    return _Stream(sock, framing)


class _Datagrams:
    def __init__(self, sock: socket.socket, path: str | None) -> None:
        self._sock = sock
        self._path = path
        self._identity = None if path is None else _identify(path)

    async def send(self, messages: Iterable[bytes]) -> None:
        sock = self._sock
        for number, message in enumerate(messages, 1):
            try:
                sock.send(message)
            except BlockingIOError:
                await asyncio.get_running_loop().sock_sendall(sock, message)
            if self._path is None and number % _BURST == 0:
                await asyncio.sleep(_BREATH)
        if self._path is not None:
            await _wait_until_taken(sock)
            self._check_reader(self._path)
        _check(sock)

    def _check_reader(self, path: str) -> None:
        # A server that dies takes its socket's queue along, and nobody tells the sender: the one that is there now has to
        # be the one that we are connected to.
        with contextlib.closing(_make_socket(self._sock.family, socket.SOCK_DGRAM)) as probe:
            probe.connect(path)
        if _identify(path) != self._identity:
            raise ConnectionResetError("the server has made its socket anew")

    def is_lost(self) -> bool:
        return False  # the next message tells, and its error is to be seen

    def close(self, *, politely: bool) -> None:
        self._sock.close()


class _Stream:
    def __init__(self, sock: socket.socket, framing: Framing) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._framing = framing

    async def send(self, messages: Iterable[bytes]) -> None:
        form = b"%d %b" if self._framing == "octet" else None
        parts: list[bytes] = []
        size = 0
        for message in messages:
            part = form % (len(message), message) if form else message + b"\n"
            parts.append(part)
            size += len(part)
            if size > _CHUNK:  # the server reads while the rest is made
                await self._send(b"".join(parts))
                parts.clear()
                size = 0
        await self._send(b"".join(parts))
        await _wait_until_taken(self._sock)
        _check(self._sock)
        self._look()

    async def _send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    def is_lost(self) -> bool:
        try:
            self._look()
        except OSError:
            return True
        return False

    def _look(self) -> None:
        # Raises when the server has hung up, or says that it will.
        with contextlib.suppress(BlockingIOError):
            while data := self._sock.recv(_CHUNK):
                self._take(data)
            raise ConnectionResetError(_CLOSED)

    def _take(self, data: bytes) -> None:
        """What the server says, which it has no reason to."""

    def close(self, *, politely: bool) -> None:
        self._sock.close()


class _TlsStream(_Stream):
    # By hand, not by the transports of asyncio: those keep what the system has not taken yet where nobody can see it, and
    # do not say what the server says between the handshake and the first message.

    def __init__(self, sock: socket.socket, framing: Framing, context: ssl.SSLContext, host: str) -> None:
        super().__init__(sock, framing)
        import ssl

        self._ssl = ssl
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    async def shake_hands(self) -> None:
        await self._do(self._tls.do_handshake)
        if self._tls.version() == "TLSv1.3":
            # The server may still refuse our certificate, or the want of one. What it says first tells: an alert, or
            # tickets, which follow when it is content. One that says nothing is taken to be content.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_WORD):
                    self._take(await self._receive())

    async def _do(self, action: Callable[[], T]) -> T:
        while True:
            try:
                return action()
            except self._ssl.SSLWantReadError:
                await self._flush()
                self._incoming.write(await self._receive())
            finally:
                await self._flush()  # also the alert that tells the server what we do not like

    async def _receive(self) -> bytes:
        data = await self._loop.sock_recv(self._sock, _CHUNK)
        if not data:
            raise ConnectionResetError(_CLOSED)
        return data

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._loop.sock_sendall(self._sock, self._outgoing.read())

    async def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            chunk = view[:_CHUNK]
            sent = await self._do(lambda chunk=chunk: self._tls.write(chunk))  # type: ignore[misc]
            view = view[sent:]

    def _take(self, data: bytes) -> None:
        self._incoming.write(data)
        try:
            while self._tls.read(_CHUNK):
                pass
        except self._ssl.SSLWantReadError:
            return
        raise ConnectionResetError(_CLOSED)  # its last word, in all form

    def close(self, *, politely: bool) -> None:
        if politely:
            try:
                self._tls.unwrap()
            except OSError:  # it wants the server's answer, for which nobody has to wait
                with contextlib.suppress(OSError):
                    self._sock.send(self._outgoing.read())
        self._sock.close()


# ---------------------------------------------------------------------------------------------------- sockets


def _make_socket(family: int, kind: int) -> socket.socket:
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    return sock


async def _resolve(host: str, port: int, kind: int) -> list[tuple[int, tuple[str, int]]]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=kind)
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]


def _identify(path: str) -> tuple[int, int, int]:
    found = os.stat(path)
    # Numbers are given again; the time is that of its making, as long as only its owner or its rights are changed.
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _check(sock: socket.socket) -> None:
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


async def _wait_until_taken(sock: socket.socket) -> None:
    # The system tells of this by no event. Mostly it is so at once, or as soon as the server has read. When the connection
    # breaks, it goes on counting.
    pause = 0.0
    while _count_untaken(sock):
        _check(sock)
        await asyncio.sleep(pause)
        pause = min(max(2 * pause, 0.0002), _LONGEST_PAUSE)


if sys.platform == "linux":
    import fcntl
    import termios

    def _count_untaken(sock: socket.socket) -> int:
        try:
            found = fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0")
        except OSError:  # a kernel that only looks like Linux
            return 0
        return int(struct.unpack("i", found)[0])

else:

    def _count_untaken(sock: socket.socket) -> int:
        return 0
