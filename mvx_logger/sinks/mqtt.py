"""`MqttLogSink`: events as messages of an MQTT 5 broker, each one acknowledged by it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal
from urllib.parse import SplitResult

from ..delivery.sink import AsyncioLogSink, LogDeliveryErrorKind, LogEventBatch
from ..errors import LogConfigurationError, LogDeliveryPartialError, LogDeliveryTransientError
from ..formats.json import encode_event
from ..formats.template import EventTemplate
from ..options import check_options, require_extra
from ..tls import make_tls_context
from .mqtt_client import MqttConnection, MqttError, describe_reason

__all__ = ["MqttLogSink"]

_FIELD = 255
"""Characters of a field that a topic takes."""
# What has a meaning in a topic, and the characters that brokers hang up on (MQTT 5, 1.5.4).
_NOT_IN_TOPICS = re.compile(
    "[+#/\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | end) for plane in range(17) for end in (0xFFFE, 0xFFFF))
    + "]"
)

_NOT_AUTHORIZED = 0x87
# Of an acknowledgement: the topic, the message or its form are wrong, and will be the next time.
_FINAL = frozenset((0x90, 0x95, 0x99))
# Of a disconnection: something in what was sent is wrong, and nobody says in which message.
_FOR_CONTENT = frozenset((0x81, 0x82, _NOT_AUTHORIZED, *_FINAL))


class MqttLogSink(AsyncioLogSink):
    """Publishes events to topics, as JSON documents. An event is delivered when the broker has acknowledged it.

    As a URL: ``mqtt://user:password@host:1883?topic=logs/{namespace}/{level}``, or ``mqtts://`` for TLS.

    As many messages are under way as the broker allows (its Receive Maximum); those of a topic stay in order. Each message
    has a user property ``delivery-id``, by which a subscriber can tell what it has already: after a lost connection it may
    come again, with every quality of service.

    A broker acknowledges what nobody has subscribed to, too. Whether it keeps what it has acknowledged when it is killed
    is for its own configuration.

    What the broker does not take now (wrong password, quota exceeded, shutting down) waits and comes again. What is refused
    for good is a message larger than the broker's Maximum Packet Size, one whose topic or form it refuses, and one whose
    topic we may not publish to while others pass.

    Args:
        host: The broker.
        port: Its port; 1883, or 8883 with TLS, when None.
        username: Who we are; None does not say.
        password: The password.
        tls: Speak TLS. Certificate and name are always verified.
        tls_ca: A file of the authorities to trust (PEM), instead of those of the system.
        tls_cert: A file with a client certificate (PEM).
        tls_key: A file with its key (PEM).
        tls_key_password: What the key is encrypted with.
        topic: A template of event fields (`mvx_logger.formats.template`). A field is one level of the topic: ``+``, ``#``,
            ``/``, control characters and a ``$`` at its start become ``_``, and it is cut at 255 characters.
        qos: 1: the broker acknowledges each message. 2: within a connection it also doubles none, for two round trips. 0: it
            acknowledges nothing; an event counts as delivered when the broker has answered a ping that was sent behind it.
        retain: Let the broker keep the last message of each topic for those who subscribe later.
        expiry: A message that could not be passed on for so many seconds is gone; None keeps it.
        client_id: What the broker knows us by; None lets it choose. Two connections with one id throw each other out, so
            leave it to the broker where several processes log.
        keepalive: Ask for a sign of life after half as many seconds without one; 0 never asks.
        connect_timeout: How long connecting may take, in seconds.
        **async_options: The options of `AsyncioLogSink`.

    Raises:
        LogConfigurationError: An option has the wrong type or does not fit the others, or ``mqtt5`` is not installed (the
            latter at the start).
    """

    sink_type: ClassVar[str] = "mqtt"
    url_schemes: ClassVar[tuple[str, ...]] = ("mqtt", "mqtts")
    resource_options: ClassVar[tuple[str, ...]] = ("host", "port", "topic")
    secret_options: ClassVar[tuple[str, ...]] = ("password", "tls_key_password")
    url_parts: ClassVar[Mapping[str, str]] = {
        "hostname": "host",
        "port": "port",
        "username": "username",
        "password": "password",
    }

    def __init__(
        self,
        *,
        host: str = "localhost",
        port: int | None = None,
        username: str | None = None,
        password: str | None = None,
        tls: bool = False,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        tls_key_password: str | None = None,
        topic: str = "logs/{namespace|none}/{level}",
        qos: Literal[0, 1, 2] = 1,
        retain: bool = False,
        expiry: float | None = None,
        client_id: str | None = None,
        keepalive: int = 60,
        connect_timeout: float = 10.0,
        **async_options: Any,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in _NO_OPTIONS}
        check_options(MqttLogSink, given)
        _check("host", host != "", "may not be empty")
        _check("port", port is None or 1 <= port <= 65535, "expected a number from 1 to 65535")
        _check("expiry", expiry is None or 1 <= expiry < 1 << 32, "expected 1 to 4,294,967,295 seconds")
        _check("keepalive", 0 <= keepalive <= 65535, "expected a number from 0 to 65535")
        _check("connect_timeout", connect_timeout > 0, "expected more than 0 seconds")
        for name in ("username", "password", "client_id"):
            _check(name, len((given[name] or "").encode()) <= 65535, "longer than 65535 bytes")
        for name in ("tls_ca", "tls_cert", "tls_key", "tls_key_password"):
            _check(name, tls or given[name] is None, "only with tls")
        self._topic = EventTemplate(topic, clean=_clean, option="topic")
        _check("topic", topic != "", "may not be empty")
        _check("topic", not re.search("[+#\x00]", self._topic.replace_fields("")), "may not hold + or #")
        self._address = host, port or (8883 if tls else 1883)
        tls_options = {"tls_ca": tls_ca, "tls_cert": tls_cert, "tls_key": tls_key, "tls_key_password": tls_key_password}
        self._tls_options = tls_options if tls else None
        self._connect_timeout = connect_timeout
        self._hello: dict[str, Any] = {
            "client_id": client_id or "",
            "username": username,
            "password": None if password is None else password.encode(),
            "clean_start": True,
            "keep_alive": keepalive,
        }
        self._message: dict[str, Any] = {
            "retain": retain,
            "message_expiry_interval": None if expiry is None else round(expiry),
            "content_type": "application/json",
            "payload_format_indicator": 1,
        }
        self._qos = qos
        super().__init__(**async_options)

    @classmethod
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        """``mqtt://user:password@host:port``; ``mqtts`` stands for ``tls=true``."""
        found = super().options_from_url(url)
        return {**found, "tls": True} if url.scheme == "mqtts" else found

    async def _on_starting(self) -> None:
        self._mqtt = require_extra("mqtt", "mqtt5")
        self._message["qos"] = self._mqtt.QoS(self._qos)
        if self._tls_options is not None:
            make_tls_context(**self._tls_options)

    async def _on_connecting(self) -> None:
        loop = asyncio.get_running_loop()
        limits: dict[str, Any] = {}
        if self._tls_options is not None:
            limits = {"ssl": make_tls_context(**self._tls_options), "ssl_shutdown_timeout": 0.5}
        connection = self._connection = MqttConnection(self._mqtt, loop)
        try:
            async with asyncio.timeout(self._connect_timeout):
                await loop.create_connection(lambda: connection, *self._address, **limits)
                welcome = await connection.open(self._mqtt.ConnectPacket(**self._hello))
        except BaseException as err:
            await self._on_disconnecting()
            if isinstance(err, TimeoutError):
                raise LogDeliveryTransientError(f"not connected within {self._connect_timeout:g} seconds") from err
            raise
        for asks, has, what in (
            (self._qos, int(welcome.max_qos), "quality of service"),
            (self._message["retain"], welcome.retain_available, "retained messages"),
        ):
            if asks > has:
                await self._on_disconnecting()
                raise LogDeliveryTransientError(f"{what}: the broker does not offer that")

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        ids = events.delivery_ids
        packet, message, topic = self._mqtt.PublishPacket, self._message, self._topic

        def encode(index: int, packet_id: int | None) -> bytes:
            event = events[index]
            written: bytes = packet(
                topic.format(event) or "_",
                encode_event(event),
                packet_id=packet_id,
                user_properties=[("delivery-id", ids[index])],
                **message,
            ).write()
            return written

        reasons = await self._connection.publish(len(events), encode, acknowledged=self._qos > 0)
        if not reasons:
            return
        if len(reasons) == len(events) and set(reasons.values()) == {_NOT_AUTHORIZED}:
            # All that we send, or just these topics? The next events show it.
            raise MqttError("the broker does not let us publish", _NOT_AUTHORIZED)
        # What passed behind a message shows that it was about that message; else the rights may have changed meanwhile.
        passed = max((index for index in range(len(events)) if index not in reasons), default=-1)
        refused = {
            index: describe_reason(reason)
            for index, reason in reasons.items()
            if isinstance(reason, str) or reason in _FINAL or (reason == _NOT_AUTHORIZED and index < passed)
        }
        retry = [index for index in reasons if index not in refused]
        text = describe_reason(reasons[retry[0] if retry else next(iter(refused))])
        raise LogDeliveryPartialError(f"the broker has not taken all: {text}", refused=refused, retry=retry)

    def _is_connection_lost(self) -> bool:
        return self._connection.error is not None

    def _classify_error(self, error: BaseException) -> LogDeliveryErrorKind:
        if isinstance(error, LogConfigurationError):
            return LogDeliveryErrorKind.TRANSIENT  # a file of ours is missing, or is being replaced
        if isinstance(error, MqttError):
            for_content = error.reason in _FOR_CONTENT
            return LogDeliveryErrorKind.UNKNOWN if for_content else LogDeliveryErrorKind.TRANSIENT
        return super()._classify_error(error)

    async def _on_disconnecting(self) -> None:
        await self._connection.close()


_NO_OPTIONS = frozenset(("self", "async_options", "__class__"))


def _check(name: str, is_right: bool, text: str) -> None:
    if not is_right:
        raise LogConfigurationError(f"{name}: {text}", details={"path": name})


def _clean(text: str) -> str:
    """One level of a topic."""
    text = _NOT_IN_TOPICS.sub("_", text[:_FIELD])
    return f"_{text[1:]}" if text.startswith("$") else text
