"""`AmqpLogSink`: events as messages of an AMQP 0-9-1 broker (RabbitMQ), each one confirmed by it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal
from urllib.parse import SplitResult

from ..delivery.sink import AsyncioLogSink, LogDeliveryErrorKind, LogEventBatch
from ..errors import LogConfigurationError, LogDeliveryPartialError, LogDeliveryTransientError
from ..formats.json import encode_event, level_name
from ..formats.template import EventTemplate
from ..model import LogEvent
from ..options import check_options, require_extra
from ..tls import make_tls_context

__all__ = ["AmqpLogSink"]

_SHORT = 255
"""Bytes that a routing key, a message's type and a name may have."""
_BLOCKED_PAUSE = 0.5
_GOODBYE = 0.25


class AmqpLogSink(AsyncioLogSink):
    """Publishes events to an exchange, as JSON documents. An event is delivered when the broker has confirmed it.

    As a URL: ``amqp://user:password@host:5672/vhost?exchange=logs``, or ``amqps://`` for TLS; the virtual host ``/`` may be
    left out.

    Exchange and queue are declared on each connection, durable, with the binding between them. All messages of a batch
    are under way at once, then all confirmations are awaited; a channel keeps their order. A message carries the delivery
    id as its message id, so that a consumer can tell what it has already: after a lost connection it may come again.

    What the broker does not take now (a full queue that rejects, a missing exchange, a wrong password, a memory or disk
    alarm) waits and comes again. What it returns because no queue wants it, is refused: counted in
    ``dropped["refused"]``, or dead-lettered with the text ``unroutable``. With a ``queue`` to declare, it is declared and
    the message published once more before that.

    Args:
        host: The broker.
        port: Its port; 5672, or 5671 with TLS, when None.
        username: Who we are.
        password: The password.
        vhost: The virtual host.
        tls: Speak TLS. Certificate and name are always verified.
        tls_ca: A file of the authorities to trust (PEM), instead of those of the system.
        tls_cert: A file with a client certificate (PEM).
        tls_key: A file with its key (PEM).
        tls_key_password: What the key is encrypted with.
        exchange: The exchange; ``""`` is the default one, which brings a message to the queue that its routing key names.
        exchange_type: ``topic``, ``direct``, ``fanout``, ``headers``, or what a plugin offers.
        routing_key: A template of event fields (`mvx_logger.formats.template`). None is ``{namespace|none}.{level}``; with
            the default exchange, the queue. Longer ones are cut at 255 bytes.
        queue: A queue to declare and to bind to the exchange; None leaves queues to those who read.
        queue_type: ``classic``, ``quorum`` or ``stream``.
        binding_key: What binds the queue; None is ``#`` for a topic exchange, the routing key for a direct one (which must
            have no fields then), and nothing otherwise.
        declare: False declares nothing: exchange, queue and binding are there, or will be.
        mandatory: Let the broker return what reaches no queue. False lets it throw that away without a word.
        persistent: Messages survive a restart of the broker, in durable queues.
        expiration: A message that nobody has read after so many seconds is gone; None keeps it.
        app_id: The application's name in each message.
        heartbeat: The connection is dead when nothing came for about so many seconds; 0 never asks.
        connect_timeout: How long connecting and declaring may take, in seconds.
        **async_options: The options of `AsyncioLogSink`.

    Raises:
        LogConfigurationError: An option has the wrong type or does not fit the others, or ``aiormq`` is not installed (the
            latter at the start).
    """

    sink_type: ClassVar[str] = "amqp"
    url_schemes: ClassVar[tuple[str, ...]] = ("amqp", "amqps")
    resource_options: ClassVar[tuple[str, ...]] = ("host", "port", "vhost", "exchange", "routing_key")
    secret_options: ClassVar[tuple[str, ...]] = ("password", "tls_key_password")
    url_parts: ClassVar[Mapping[str, str]] = {
        "hostname": "host",
        "port": "port",
        "username": "username",
        "password": "password",
        "path": "vhost",
    }

    def __init__(
        self,
        *,
        host: str = "localhost",
        port: int | None = None,
        username: str = "guest",
        password: str = "guest",  # noqa: S107 - what every broker comes with
        vhost: str = "/",
        tls: bool = False,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        tls_key_password: str | None = None,
        exchange: str = "logs",
        exchange_type: str = "topic",
        routing_key: str | None = None,
        queue: str | None = None,
        queue_type: Literal["classic", "quorum", "stream"] = "classic",
        binding_key: str | None = None,
        declare: bool = True,
        mandatory: bool = True,
        persistent: bool = True,
        expiration: float | None = None,
        app_id: str = "mvx-logger",
        heartbeat: int = 60,
        connect_timeout: float = 10.0,
        **async_options: Any,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in _NO_OPTIONS}
        check_options(AmqpLogSink, given)
        for name in ("host", "exchange_type", "username"):
            _check(name, given[name] != "", "may not be empty")
        for name in ("vhost", "exchange", "exchange_type", "queue", "binding_key", "app_id"):
            _check(name, len((given[name] or "").encode()) <= _SHORT, f"longer than {_SHORT} bytes")
        _check("port", port is None or 1 <= port <= 65535, "expected a number from 1 to 65535")
        _check("queue", queue != "", "may not be empty")
        _check(
            "expiration", expiration is None or 0.001 <= expiration <= 4_000_000, "expected 0.001 to 4,000,000 seconds"
        )
        _check("heartbeat", 0 <= heartbeat < 65535, "expected a number from 0 to 65534")
        _check("connect_timeout", connect_timeout > 0, "expected more than 0 seconds")
        for name in ("tls_ca", "tls_cert", "tls_key", "tls_key_password"):
            _check(name, tls or given[name] is None, "only with tls")
        if routing_key is None:
            _check("routing_key", bool(exchange or queue), "the default exchange needs one, or a queue to bring it to")
            routing_key = (
                "{namespace|none}.{level}" if exchange else (queue or "").replace("{", "{{").replace("}", "}}")
            )
        self._routing_key = EventTemplate(routing_key, option="routing_key")
        if binding_key is None and exchange_type == "direct" and exchange and queue:
            _check("binding_key", self._routing_key.is_constant, "needed where the routing key is not always the same")
            binding_key = self._routing_key.replace_fields("")
        elif binding_key is None:
            binding_key = "#" if exchange_type == "topic" else ""
        self._address = host, port or (5671 if tls else 5672)
        self._login = {"user": username, "password": password, "query": {"heartbeat": str(heartbeat), "name": app_id}}
        self._vhost = vhost
        tls_options = {"tls_ca": tls_ca, "tls_cert": tls_cert, "tls_key": tls_key, "tls_key_password": tls_key_password}
        self._tls_options = tls_options if tls else None
        self._connect_timeout = connect_timeout
        self._exchange = {"exchange": exchange, "exchange_type": exchange_type}
        self._queue = queue
        self._queue_arguments = None if queue_type == "classic" else {"x-queue-type": queue_type}
        self._binding_key = binding_key
        self._declares = declare
        self._publish_options = {"exchange": exchange, "mandatory": mandatory, "wait": False}
        self._properties: dict[str, Any] = {
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "delivery_mode": 2 if persistent else 1,
            "app_id": app_id or None,
            "expiration": None if expiration is None else str(round(expiration * 1000)),
        }
        super().__init__(**async_options)

    @classmethod
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        """``amqp://user:password@host:port/vhost``; ``amqps`` stands for ``tls=true``."""
        found = super().options_from_url(url)
        return {**found, "tls": True} if url.scheme == "amqps" else found

    async def _on_starting(self) -> None:
        self._amqp = require_extra("amqp", "aiormq")
        self._make_properties = require_extra("amqp", "pamqp.commands").Basic.Properties
        self._make_url = require_extra("amqp", "yarl").URL.build
        if self._tls_options is not None:
            make_tls_context(**self._tls_options)

    async def _on_connecting(self) -> None:
        self._dialler = _Dialler(self._tls_options)
        host, port = self._address
        url = self._make_url(scheme="amqp", host=host, port=port, **self._login)
        self._connection = self._amqp.Connection(url, transport_factory=self._dialler)
        self._connection.vhost = self._vhost  # no way to write any name into a URL is understood alike everywhere
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._connection.connect()
                self._channel = await self._connection.channel()
                if self._declares:
                    await self._declare()
        except TimeoutError as err:
            await self._on_disconnecting()
            raise LogDeliveryTransientError(f"not connected within {self._connect_timeout:g} seconds") from err
        except BaseException:
            await self._on_disconnecting()
            raise

    async def _declare(self) -> None:
        exchange = self._exchange["exchange"]
        try:
            if exchange:
                await self._channel.exchange_declare(**self._exchange, durable=True)
            if self._queue is not None:
                await self._channel.queue_declare(self._queue, durable=True, arguments=self._queue_arguments)
                if exchange:
                    await self._channel.queue_bind(self._queue, exchange, self._binding_key)
        except self._amqp.exceptions.AMQPChannelError as err:
            # They are there with other properties, or may not be made by us: somebody has to see to that.
            raise LogDeliveryTransientError(f"exchange or queue cannot be declared: {err}", cause=err) from err

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        ids = events.delivery_ids
        returned, rejected = await self._publish(dict(enumerate(zip(events, ids, strict=True))))
        if returned and self._queue is not None and self._declares:
            # Somebody has removed the queue.
            await self._declare()
            again = {index: (events[index], ids[index]) for index in returned}
            returned, more = await self._publish(again)
            rejected += more
        if returned or rejected:
            text = (
                "the broker rejects messages: a queue is full"
                if rejected
                else "messages came back: no queue wants them"
            )
            raise LogDeliveryPartialError(text, refused=returned, retry=rejected)

    async def _publish(self, messages: dict[int, tuple[LogEvent, str]]) -> tuple[dict[int, str], list[int]]:
        """Publish messages; which were returned, with the reason, and which were rejected."""
        publish = self._channel.basic_publish
        publishing = asyncio.gather(
            *[
                publish(
                    encode_event(event),
                    routing_key=_shorten(self._routing_key.format(event)),
                    properties=self._describe_message(event, delivery_id),
                    **self._publish_options,
                )
                for event, delivery_id in messages.values()
            ],
            return_exceptions=True,
        )
        try:
            while not (await asyncio.wait((publishing,), timeout=_BLOCKED_PAUSE))[0]:
                if await self._is_blocked():
                    raise LogDeliveryTransientError("the broker takes nothing: it is short of memory or disk space")
            results = publishing.result()
        finally:
            publishing.cancel()
        errors = self._amqp.exceptions
        returned: dict[int, str] = {}
        rejected: list[int] = []
        failure: BaseException | None = None
        result: Any
        for index, result in zip(messages, results, strict=True):
            if isinstance(result, errors.PublishError):
                returned[index] = f"unroutable: {result.frame.reply_text}"
            elif isinstance(result, errors.DeliveryError):
                rejected.append(index)
            elif isinstance(result, BaseException) and not isinstance(failure, errors.AMQPError):
                failure = result  # what was published too late only hears that the channel is closed
        if isinstance(failure, asyncio.CancelledError):
            raise ConnectionResetError("the connection was closed")
        if failure is not None:
            raise failure
        return returned, rejected

    async def _is_blocked(self) -> bool:
        """True when the broker has said so."""
        try:
            async with asyncio.timeout(0):
                await self._connection.ready()
        except TimeoutError:
            return True
        return False

    def _describe_message(self, event: LogEvent, delivery_id: str) -> Any:
        headers = {"level": level_name(event.level, event.origin), "namespace": event.meta.event_namespace}
        return self._make_properties(
            message_id=delivery_id,
            timestamp=_get_time(event.timestamp),
            message_type=_shorten(event.meta.event_name),
            headers={name: _shorten(value) for name, value in headers.items() if value is not None},
            **self._properties,
        )

    def _is_connection_lost(self) -> bool:
        return bool(self._channel.is_closed or not self._connection.is_opened)

    def _classify_error(self, error: BaseException) -> LogDeliveryErrorKind:
        errors = self._amqp.exceptions
        if isinstance(error, LogConfigurationError):
            return LogDeliveryErrorKind.TRANSIENT  # a file of ours is missing, or is being replaced
        if isinstance(error, errors.ChannelPreconditionFailed):
            return LogDeliveryErrorKind.REFUSED  # too large: that is all that it can be once everything is declared
        if isinstance(error, errors.ChannelAccessRefused):
            return LogDeliveryErrorKind.UNKNOWN  # for all, or for this one's routing key
        if isinstance(error, (errors.AMQPError, errors.ChannelInvalidStateError)):
            return LogDeliveryErrorKind.TRANSIENT
        return super()._classify_error(error)

    async def _on_disconnecting(self) -> None:
        goodbye = asyncio.ensure_future(self._connection.close())
        try:
            await asyncio.wait((goodbye,), timeout=_GOODBYE)
        finally:
            self._dialler.hang_up()  # a broker that answers has done so by now
        await goodbye


class _Dialler:
    """Connects for the client, and can hang up without waiting for a dead broker."""

    def __init__(self, tls_options: dict[str, str | None] | None) -> None:
        self._context = None if tls_options is None else make_tls_context(**tls_options)
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: Any, **_: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        limits: dict[str, Any] = {} if self._context is None else {"ssl_shutdown_timeout": 0.5}
        reader, self._writer = await asyncio.open_connection(url.host, url.port, ssl=self._context, **limits)
        return reader, self._writer

    def hang_up(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


_NO_OPTIONS = frozenset(("self", "async_options", "__class__"))


def _check(name: str, is_right: bool, text: str) -> None:
    if not is_right:
        raise LogConfigurationError(f"{name}: {text}", details={"path": name})


def _shorten(text: str) -> str:
    """At most 255 bytes of UTF-8, none of them half a character."""
    if len(text) <= _SHORT and text.isascii():
        return text
    return text.encode("utf-8", "replace")[:_SHORT].decode("utf-8", "ignore")


def _get_time(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds >= 0 else None
    except (ValueError, OverflowError, OSError):
        return None
