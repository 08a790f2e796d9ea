"""A connection to NATS as a sink needs it: it is up or it is lost, and nothing is done behind its back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from ..errors import LogDeliveryTransientError
from ..options import require_extra
from ..tls import make_tls_context

__all__ = ["NatsConnection", "NatsPlace"]

T = TypeVar("T")


class NatsPlace:
    """Where the servers are, and how they know us.

    Args:
        servers: Their addresses.
        options: The sink's options that are about the connection, by name.
    """

    def __init__(self, servers: list[tuple[str, int]], options: Mapping[str, Any]) -> None:
        self.servers = servers
        self.options = options

    def check(self) -> None:
        """See that what is needed to connect is there.

        Raises:
            LogConfigurationError: A package or a file is missing.
        """
        require_extra("nats", "nats")
        options = self.options
        if options["nkey"] is not None or options["credentials"] is not None:
            require_extra("nats", "nkeys")
        self.make_tls()

    def make_tls(self) -> Any:
        """The TLS context; None without TLS."""
        options = self.options
        if not options["tls"]:
            return None
        return make_tls_context(
            **{name: options[name] for name in ("tls_ca", "tls_cert", "tls_key", "tls_key_password")}
        )


class NatsConnection:
    """One connection. The client's own reconnecting is off: what it keeps meanwhile nobody would account for.

    Attributes:
        client: The client.
        lost: Has an exception as soon as something is wrong with the connection.
    """

    def __init__(self, place: NatsPlace) -> None:
        self._place = place
        self._is_up = False
        self.client: Any = require_extra("nats", "nats.aio.client").Client()
        self.lost: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, place: NatsPlace) -> NatsConnection:
        """Connect to the first server that takes us.

        Raises:
            LogDeliveryTransientError: None does.
        """
        nats_error = require_extra("nats", "nats.errors").Error
        errors: list[str] = []
        cause: BaseException | None = None
        for host, port in place.servers:
            connection = cls(place)
            try:
                await connection._connect(host, port)
            except (OSError, nats_error) as err:  # TimeoutError is an OSError
                await connection.close()
                errors.append(f"{host}:{port}: {str(err) or 'no answer'}")
                cause = err
            except BaseException:
                await connection.close()
                raise
            else:
                return connection
        raise LogDeliveryTransientError("; ".join(errors), cause=cause) from cause

    async def _connect(self, host: str, port: int) -> None:
        options = self._place.options
        address = f"[{host}]" if ":" in host else host
        await self.client.connect(
            f"nats://{address}:{port}",
            name=options["client_name"],
            allow_reconnect=False,
            connect_timeout=options["connect_timeout"],
            ping_interval=20,
            error_cb=self._on_error,
            closed_cb=self._on_closed,
            tls=self._place.make_tls(),
            tls_handshake_first=options["tls_first"],
            inbox_prefix=options["inbox_prefix"],
            user=options["username"],
            password=self._guard(options["password"]),
            token=self._guard(options["token"]),
            nkeys_seed=options["nkey"],
            user_credentials=options["credentials"],
        )
        self._check_tls()
        self._is_up = True

    def _guard(self, secret: str | None) -> Callable[[], str] | None:
        def tell() -> str:
            self._check_tls()
            return str(secret)

        return None if secret is None else tell

    def _check_tls(self) -> None:
        # The client speaks TLS only where the server asks for it, and somebody in between could leave that out.
        writer = self._get_writer()
        if self._place.options["tls"] and (writer is None or writer.get_extra_info("ssl_object") is None):
            raise ConnectionError("the server does not speak TLS")

    def _get_writer(self) -> asyncio.StreamWriter | None:
        writer: asyncio.StreamWriter | None = getattr(self.client._transport, "_io_writer", None)
        return writer

    async def _on_error(self, error: Exception) -> None:
        if not self._is_up:
            raise error  # the client would try the same server again
        self._lose(error)

    async def _on_closed(self) -> None:
        self._lose(self.client.last_error or ConnectionError("the server has closed the connection"))

    def _lose(self, error: Exception) -> None:
        if not self.lost.done():
            self.lost.set_exception(error)
            self.lost.exception()  # mostly nobody waits for it

    @property
    def is_lost(self) -> bool:
        """True when it is of no more use."""
        return self.lost.done() or not self.client.is_connected

    async def until_lost(self, awaitable: Awaitable[T]) -> T:
        """Wait for something that never comes where the connection is lost meanwhile.

        Raises:
            Exception: What the connection was lost by.
        """
        task = asyncio.ensure_future(awaitable)
        try:
            await asyncio.wait((task, self.lost), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self.lost.result()
            return await task
        finally:
            task.cancel()

    async def confirm(self) -> None:
        """Return when the server has processed all that was published."""
        # flush() sends its PING at once, and what was published before when its turn comes. The answer to the second PING
        # is for all that.
        for _ in range(2):
            await self.until_lost(self.client.flush(timeout=86_400))

    async def close(self) -> None:
        """Give it up, at once."""
        client = self.client
        writer = self._get_writer()
        if writer is not None:
            # close() would first write what a server that hangs never reads, then wait for an end that never comes where
            # TLS was refused.
            client._transport = None
            writer.transport.abort()
        with contextlib.suppress(Exception):
            await client.close()
