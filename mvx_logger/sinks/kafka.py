"""`KafkaLogSink`: events to topics of Kafka, acknowledged by all replicas.

The value of a message is the JSON of `mvx_logger.formats.json`, its time the one of the event, its headers are
``delivery-id``, ``level`` (the name) and ``namespace``.

The client is confluent-kafka (librdkafka): it keeps the idempotence of a producer through lost connections and new leaders,
compresses without further packages, and is given up in no time, whatever the brokers do.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal
from urllib.parse import SplitResult

from ..delivery.sink import AsyncioLogSink, LogDeliveryErrorKind, LogEventBatch
from ..errors import LogDeliveryPartialError, LogDeliveryRefusedError, LogDeliveryTransientError
from ..formats.json import encode_event
from ..formats.template import EventTemplate
from ..formats.text import LEVEL_NAMES, level_name
from ..model import LogEvent
from ..options import check_own_options, parse_servers
from .kafka_client import KafkaPlace, clean_topic, make_topic_template, wrong_option
from .kafka_reader import read_topics

__all__ = ["KafkaLogSink"]

_MIN_PAUSE, _MAX_PAUSE = 0.000_5, 0.01
"""Seconds between two looks for acknowledgements: the longer they take, the longer."""
_MAX_TIME = 253_402_300_800.0
"""The end of the year 9999."""
_LEVELS = {number: name.encode() for number, name in LEVEL_NAMES.items()}
_UTF8 = "utf-8", "replace"


class KafkaLogSink(AsyncioLogSink):
    """Produces events, a batch at a time, and waits until all in-sync replicas have them.

    As a URL, with the other options in the query: ``kafka://user:password@one:9092,two:9092/topic``, ``kafkas://`` with TLS.

    The producer is idempotent: what it sends again because a connection was lost is stored once, and stays in order. It
    does so for as long as a delivery may take (``delivery_timeout``); then the batch is given to a new producer, and what
    was stored without our knowledge is there twice, with the same delivery id.

    Brokers that are down, a wrong password, a topic or a right that is missing, too few replicas: all that is transient,
    and the events wait. Refused is an event that is larger than ``max_message_bytes`` or than its topic takes, or whose
    time its topic refuses.

    Args:
        servers: Addresses, ``host`` or ``host:port``, with commas between them or in a list: of brokers to ask for the
            others.
        topic: The topic: a template (see `mvx_logger.formats.template`). What no topic may have becomes ``_``. Topics are
            made by the brokers, where they do that.
        key: The key of a message, a template: messages with the same key are in one partition, in order. Without one, or
            where its text is empty, they are spread over the partitions.
        compression: ``none``, ``gzip``, ``snappy``, ``lz4`` or ``zstd``.
        acks: ``all`` in-sync replicas, or the ``leader`` alone (then without ``idempotent``).
        idempotent: See above.
        linger: How long to wait for more messages before a request is sent, in seconds. The sink makes batches already.
        max_message_bytes: Refuse larger messages. Topics take about one MiB unless told otherwise (``max.message.bytes``).
        username, password: The user, for SASL.
        mechanism: ``PLAIN``, ``SCRAM-SHA-256`` or ``SCRAM-SHA-512``.
        client_id: What the brokers call us in their reports.
        tls: Speak TLS. The brokers' certificates and their names are always verified.
        tls_ca, tls_cert, tls_key, tls_key_password: See `mvx_logger.tls.make_tls_context`.
        connect_timeout: How long connecting to a broker may take, in seconds; 1 or more.
        **async_options: Those of `AsyncioLogSink`.

    Raises:
        LogConfigurationError: An argument has the wrong type, is out of range, or does not go with another.
    """

    sink_type: ClassVar[str] = "kafka"
    url_schemes: ClassVar[tuple[str, ...]] = ("kafka", "kafkas")
    resource_options: ClassVar[tuple[str, ...]] = ("servers", "topic")
    secret_options: ClassVar[tuple[str, ...]] = ("password", "tls_key_password")
    url_parts: ClassVar[Mapping[str, str]] = {
        "netloc": "servers", "username": "username", "password": "password", "path": "topic",
    }  # fmt: skip

    def __init__(
        self,
        *,
        servers: str | list[str] = "localhost:9092",
        topic: str = "logs",
        key: str | None = None,
        compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none",
        acks: Literal["all", "leader"] = "all",
        idempotent: bool = True,
        linger: float = 0.0,
        max_message_bytes: int = 1_000_000,
        username: str | None = None,
        password: str | None = None,
        mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN",
        client_id: str = "mvx-logger",
        tls: bool = False,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        tls_key_password: str | None = None,
        connect_timeout: float = 10.0,
        **async_options: Any,
    ) -> None:
        options = _check(locals())
        if idempotent and acks != "all":
            raise wrong_option("acks", "an idempotent producer needs all of them")
        self._place = KafkaPlace(parse_servers(servers, port=9092), options)
        self._config = {
            **self._place.config,
            "acks": "all" if acks == "all" else "1",
            "enable.idempotence": idempotent,
            "compression.type": compression,
            "linger.ms": linger * 1_000,
            "message.max.bytes": max_message_bytes,
            "batch.size": max_message_bytes,
            "partitioner": "murmur2_random",  # as all other clients have it: a key has one partition
            "message.timeout.ms": 0,  # how long to try is for the base to say
            "topic.metadata.propagation.max.ms": 5_000,
        }
        self._template = make_topic_template(topic)
        self._topic = self._template.replace_fields("") if self._template.is_constant else None
        self._key = None if key is None else EventTemplate(key, option="key")
        self._producer: Any = None
        self._owner = 0
        self._is_proven = False
        self._is_doomed = False
        self._is_shut_out = False
        self._trouble = ""
        super().__init__(**async_options)
        # Who waits until the base cuts a delivery off does not learn why it took so long.
        timeout = async_options.get("delivery_timeout", 30.0)
        self._patience = None if timeout is None else 0.9 * timeout

    @classmethod
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        """See the class for what the parts are."""
        found = super().options_from_url(url)
        return {**found, "tls": True} if url.scheme == "kafkas" else found

    @classmethod
    def read_events(
        cls, *, last: int | None = None, since: float | None = None, follow: bool = False, **options: Any
    ) -> Iterator[LogEvent | None]:
        """The events in the topics; of several partitions, by time.

        Args:
            last: Only the newest so many.
            since: Skip what is older, in seconds since the epoch.
            follow: Never end, and yield None when nothing has come for half a second.
            **options: The sink's.

        Raises:
            LogConfigurationError: An option is wrong.
            LogDeliveryTransientError: The brokers or the topic are not there.
        """
        checked = _check(options)
        template = make_topic_template(checked["topic"])
        place = KafkaPlace(parse_servers(checked["servers"], port=9092), checked)
        place.check()
        return read_topics(place, template, last=last, since=since, follow=follow)

    # ------------------------------------------------------------------ the producer

    async def _on_starting(self) -> None:
        self._place.check()

    async def _on_connecting(self) -> None:
        from confluent_kafka import Producer

        if self._producer is not None and self._owner != os.getpid():
            # It is the parent's, and its threads are not here: it must never be destroyed.
            import ctypes

            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._producer))
        self._is_proven = self._is_doomed = self._is_shut_out = False
        self._trouble = ""
        self._owner = os.getpid()
        self._producer = Producer({**self._config, "error_cb": self._on_error})

    def _on_error(self, error: Any) -> None:
        if error.fatal():
            self._is_doomed = True
        elif error.code() == error._ALL_BROKERS_DOWN:  # comes after what says why
            return
        self._trouble = error.str()
        # A connection that is lost is another thing: what was sent may have arrived.
        codes = error._SSL, error._AUTHENTICATION, error._RESOLVE
        self._is_shut_out = error.code() in codes or "Connect to " in self._trouble

    def _is_connection_lost(self) -> bool:
        return self._is_doomed

    async def _on_disconnecting(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()

    # ------------------------------------------------------------------ delivering

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        deadline = None if self._patience is None else time.monotonic() + self._patience
        failed = await self._produce(events, range(len(events)), deadline)
        refused = {index: text for index, (text, is_content) in failed.items() if is_content}
        retry = {index: text for index, (text, is_content) in failed.items() if not is_content}
        if len(refused) > 1 or (refused and len(events) > 1):
            # What is refused with an event may be what went with it.
            refused.clear()
            for index in [index for index, (_, is_content) in failed.items() if is_content]:
                again = await self._produce(events, (index,), deadline)
                for text, is_content in again.values():
                    (refused if is_content else retry)[index] = text
        if retry and len(retry) == len(events):
            raise LogDeliveryTransientError(next(iter(retry.values())))
        if refused and len(refused) == len(events):
            raise LogDeliveryRefusedError(next(iter(refused.values())))
        if refused or retry:
            self._is_doomed = bool(retry)
            why = next(iter((*retry.values(), *refused.values())))
            raise LogDeliveryPartialError(why, refused=refused, retry=retry)

    async def _produce(
        self, events: LogEventBatch, indices: Sequence[int], deadline: float | None
    ) -> dict[int, tuple[str, bool]]:
        """Produce some of the events and wait for all of them.

        Returns:
            Those that failed: why, and if it was for their content.
        """
        from confluent_kafka import KafkaException

        failed: dict[int, tuple[str, bool]] = {}
        ids = events.delivery_ids
        left = 0

        def on_delivery(error: Any, message: Any) -> None:
            nonlocal left
            left -= 1
            if error is None:
                self._is_proven = True
            else:
                failed[ids.index(message.headers()[0][1].decode())] = _describe(error)

        poll, produce = self._producer.poll, self._producer.produce
        topic, make_key, format_topic = self._topic, self._key, self._template.format
        for index in indices:
            event = events[index]
            stamp, origin, namespace = event.timestamp, event.origin, event.meta.event_namespace
            level = (_LEVELS.get(event.level) if origin is None else None) or level_name(event.level, origin).encode(
                *_UTF8
            )
            headers = [
                ("delivery-id", ids[index].encode()),
                ("level", level),
                ("namespace", namespace.encode(*_UTF8) if namespace else b""),
            ]
            value = encode_event(event)
            key = None if make_key is None else make_key.format(event).encode(*_UTF8) or None
            place = topic or clean_topic(format_topic(event))
            time_ms = int(stamp * 1_000) if 0.0 < stamp < _MAX_TIME else 0
            while True:
                try:
                    produce(place, value, key, on_delivery=on_delivery, timestamp=time_ms, headers=headers)
                    left += 1
                except BufferError:  # more than librdkafka keeps: until some of it has gone
                    await self._wait(deadline, _MIN_PAUSE)
                    poll(0)
                    continue
                except KafkaException as err:
                    failed[index] = _describe(err.args[0])
                break
        began = time.monotonic()
        while left:
            if not poll(0):
                await self._wait(deadline, min(_MIN_PAUSE + (time.monotonic() - began) / 20, _MAX_PAUSE))
        return failed

    async def _wait(self, deadline: float | None, seconds: float) -> None:
        """Wait a little, unless it is no use.

        Raises:
            LogDeliveryTransientError: What the brokers, or the lack of them, have to say.
        """
        # What is on its way with this producer is best left to it. Where it was never let in, nothing is.
        if self._is_doomed or (self._is_shut_out and not self._is_proven):
            raise LogDeliveryTransientError(self._trouble)
        if deadline is not None and time.monotonic() > deadline:
            raise LogDeliveryTransientError(f"not confirmed in time: {self._trouble or 'no answer'}")
        await asyncio.sleep(seconds)

    def _classify_error(self, error: BaseException) -> LogDeliveryErrorKind:
        from confluent_kafka import KafkaException

        return LogDeliveryErrorKind.TRANSIENT if isinstance(error, KafkaException) else super()._classify_error(error)


def _describe(error: Any) -> tuple[str, bool]:
    """What an error of a message says, and if it is about its content."""
    is_content = error.code() in (
        error.MSG_SIZE_TOO_LARGE, error.INVALID_MSG_SIZE, error.RECORD_LIST_TOO_LARGE,
        error.INVALID_RECORD, error.INVALID_TIMESTAMP,
    )  # fmt: skip
    return f"{error.str()} ({error.name()})", is_content


_RANGES: dict[str, tuple[float, float]] = {
    "linger": (0.0, 60.0),
    "max_message_bytes": (1_000, 1_000_000_000),
    "connect_timeout": (1.0, 1e5),
}


def _check(given: Mapping[str, Any]) -> dict[str, Any]:
    """The sink's own options, each checked by itself, with defaults for those that are missing."""
    checked = check_own_options(KafkaLogSink, given, _RANGES)
    if (checked["username"] is None) != (checked["password"] is None):
        raise wrong_option("username", "username and password go together")
    return checked
