"""`NatsLogSink`: events to NATS, stored by JetStream exactly once, or to whoever listens.

The body of a message is the JSON of `mvx_logger.formats.json`, its header ``Nats-Msg-Id`` is the delivery id.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal
from urllib.parse import SplitResult

import msgspec

from ..delivery.sink import AsyncioLogSink, LogDeliveryErrorKind, LogEventBatch
from ..errors import (
    LogConfigurationError,
    LogDeliveryError,
    LogDeliveryPartialError,
    LogDeliveryRefusedError,
    LogDeliveryTransientError,
)
from ..formats.json import encode_event
from ..formats.template import EventTemplate
from ..model import LogEvent
from ..options import check_own_options, parse_servers
from .nats_client import NatsConnection, NatsPlace
from .nats_reader import read_stream

__all__ = ["NatsLogSink"]

_IN_FLIGHT = 1_000
"""Messages that wait for their acknowledgement at most. A server takes 10,000 before it says that it has enough."""
_MAX_SUBJECT = 1_000
"""Characters. A line of the protocol (subject, inbox, numbers) has 4,096 bytes; a longer one ends the connection."""
_HEADERS = len("NATS/1.0\r\nNats-Msg-Id: \r\nNats-Expected-Stream: \r\n\r\n") + 36
_TOO_LARGE = (10054, 10097)
"""Error codes of JetStream: the message, or its headers, are larger than the stream takes."""
_IS_SUBJECT = re.compile(r"[^\s.*>\x00-\x1f\x7f]+(\.[^\s.*>\x00-\x1f\x7f]+)*")
_NOT_IN_SUBJECT = re.compile(r"[\s*>\x00-\x1f\x7f]")
_IS_STREAM = re.compile(r"[^\s.*>/\\\x00-\x1f\x7f]{1,255}")


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Ack(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None


_decoder = msgspec.json.Decoder(_Ack)


class NatsLogSink(AsyncioLogSink):
    """Publishes events, a batch at a time, and waits for the word of the server.

    As a URL, with the other options in the query: ``nats://user:password@one:4222,two:4222/logs.{level}``, ``natss://`` with
    TLS; ``nats://token@host`` has a token.

    With JetStream, an event counts as delivered when the stream has stored it. Its delivery id is the ``Nats-Msg-Id``: the
    stream has it once, although it may be sent again, as long as it comes again within the stream's duplicate window.
    Without JetStream, an event counts as delivered when the server has processed it; who does not listen at that moment
    never gets it.

    A server that is down, a wrong password, a permission or a stream that is missing, a stream that is full and takes
    nothing new: all that is transient, and the events wait. Refused is an event that is larger than the server, or the
    stream, takes.

    Args:
        servers: Addresses, ``host`` or ``host:port``, with commas between them or in a list. The first one that answers is
            taken.
        subject: The subject: a template (see `mvx_logger.formats.template`). In the text of an event, white space, ``*``,
            ``>`` and ``$`` become ``_``; dots make levels. What is empty between two dots becomes ``_``.
        jetstream: False publishes without JetStream.
        stream: The stream that has to store the events; None leaves that to the server. Not without JetStream.
        create_stream: Make the stream where it is missing, with the options below; one that is there is left as it is.
        stream_subjects: What it takes. Without it, all that ``subject`` may become.
        max_age: How long it keeps an event, in seconds; None for ever.
        max_bytes: How large it may grow; None without limit.
        discard: What happens when it is full: ``old`` removes the oldest events, ``new`` takes no new ones.
        duplicate_window: For how long it knows delivery ids, in seconds. An outage that is longer may make events come
            twice.
        replicas: On how many servers of a cluster it is.
        username, password: The user.
        token: A token instead.
        nkey: A file with the seed of an nkey instead.
        credentials: A file with credentials (``.creds``) instead.
        client_name: What the server calls us in its reports.
        inbox_prefix: Where answers go: what the user may subscribe to below it.
        tls: Speak TLS. The server's certificate and its name are always verified.
        tls_ca, tls_cert, tls_key, tls_key_password: See `mvx_logger.tls.make_tls_context`.
        tls_first: Begin with TLS before the server says anything (``handshake_first`` in its configuration).
        connect_timeout: How long connecting to a server may take, in seconds.
        **async_options: Those of `AsyncioLogSink`.

    Raises:
        LogConfigurationError: An argument has the wrong type, is out of range, or does not go with another.
    """

    sink_type: ClassVar[str] = "nats"
    url_schemes: ClassVar[tuple[str, ...]] = ("nats", "natss")
    resource_options: ClassVar[tuple[str, ...]] = ("servers", "subject", "jetstream", "stream")
    secret_options: ClassVar[tuple[str, ...]] = ("password", "token", "tls_key_password")
    url_parts: ClassVar[Mapping[str, str]] = {
        "netloc": "servers", "username": "username", "password": "password", "path": "subject",
    }  # fmt: skip

    def __init__(
        self,
        *,
        servers: str | list[str] = "localhost:4222",
        subject: str = "logs.{level}.{namespace|none}",
        jetstream: bool = True,
        stream: str | None = "LOGS",
        create_stream: bool = True,
        stream_subjects: list[str] | None = None,
        max_age: float | None = None,
        max_bytes: int | None = None,
        discard: Literal["old", "new"] = "old",
        duplicate_window: float = 120.0,
        replicas: int = 1,
        username: str | None = None,
        password: str | None = None,
        token: str | None = None,
        nkey: str | None = None,
        credentials: str | None = None,
        client_name: str = "mvx-logger",
        inbox_prefix: str = "_INBOX",
        tls: bool = False,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        tls_key_password: str | None = None,
        tls_first: bool = False,
        connect_timeout: float = 10.0,
        **async_options: Any,
    ) -> None:
        options = _check(locals())
        self._place = NatsPlace(parse_servers(servers, port=4222), options)
        self._template, self._subject = _make_template(subject)
        self._jetstream = jetstream
        self._stream = stream if jetstream else None
        self._headers = {} if self._stream is None else {"Nats-Expected-Stream": self._stream}
        self._stream_config: dict[str, Any] | None = None
        if self._stream is not None and create_stream:
            self._stream_config = {
                "name": stream,
                "subjects": stream_subjects or [_make_filter(self._template)],
                "max_age": max_age,
                "max_bytes": max_bytes,
                "discard": discard,
                "duplicate_window": duplicate_window if max_age is None else min(duplicate_window, max_age),
                "num_replicas": replicas,
            }
        self._connection: NatsConnection | None = None
        self._inbox = ""
        self._acks: _Acks | None = None
        super().__init__(**async_options)

    @classmethod
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        """See the class for what the parts are."""
        found = super().options_from_url(url)
        if "username" in found and "password" not in found:
            found["token"] = found.pop("username")
        return {**found, "tls": True} if url.scheme == "natss" else found

    @classmethod
    def read_events(
        cls, *, last: int | None = None, since: float | None = None, follow: bool = False, **options: Any
    ) -> Iterator[LogEvent | None]:
        """The events in the stream, in its order. It blocks; not for a thread whose event loop runs.

        Args:
            last: Only the newest so many.
            since: Skip what was stored earlier, in seconds since the epoch.
            follow: Never end, and yield None when nothing has come for half a second.
            **options: The sink's.

        Raises:
            LogConfigurationError: An option is wrong, or the stream is one from which reading takes events away.
            LogDeliveryTransientError: The server or the stream is not there.
        """
        checked = _check(options)
        template, _ = _make_template(checked["subject"])
        if not checked["jetstream"]:
            raise _wrong("jetstream", "without it, nothing is stored that could be read")
        place = NatsPlace(parse_servers(checked["servers"], port=4222), checked)
        place.check()
        return read_stream(place, checked["stream"], _make_filter(template), last=last, since=since, follow=follow)

    # ------------------------------------------------------------------ the connection

    async def _on_starting(self) -> None:
        self._place.check()

    async def _on_connecting(self) -> None:
        connection = await NatsConnection.open(self._place)
        try:
            if self._stream_config is not None:
                await self._make_stream(connection)
            if self._jetstream:
                self._inbox = connection.client.new_inbox()
                await connection.client.subscribe(f"{self._inbox}.*", cb=self._on_ack)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection

    async def _make_stream(self, connection: NatsConnection) -> None:
        from nats.js.api import DiscardPolicy, StreamConfig
        from nats.js.errors import NotFoundError

        jetstream = connection.client.jetstream(timeout=self._place.options["connect_timeout"])
        config = {**(self._stream_config or {})}
        try:
            await connection.until_lost(jetstream.stream_info(config["name"]))
        except NotFoundError:
            config["discard"] = DiscardPolicy(config["discard"])
            await connection.until_lost(jetstream.add_stream(StreamConfig(**config)))

    def _is_connection_lost(self) -> bool:
        return self._connection is None or self._connection.is_lost

    async def _on_disconnecting(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    # ------------------------------------------------------------------ delivering

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        connection = self._connection
        assert connection is not None
        messages, refused = self._encode(events, connection.client.max_payload)
        retry: dict[int, str] = {}
        for start in range(0, len(messages), _IN_FLIGHT):
            acks = self._acks = _Acks(min(_IN_FLIGHT, len(messages) - start)) if self._jetstream else None
            await self._publish(connection, messages[start : start + _IN_FLIGHT])
            if acks is None:
                await connection.confirm()
                continue
            await connection.until_lost(acks.done)
            refused.update(acks.refused)
            retry.update(acks.retry)
        if refused and len(refused) == len(events):
            raise LogDeliveryRefusedError(next(iter(refused.values())))
        if retry and len(retry) == len(messages):  # then the connection is made anew, and the stream, where it is gone
            raise LogDeliveryTransientError(next(iter(retry.values())))
        if refused or retry:
            why = next(iter((*retry.values(), *refused.values())))
            raise LogDeliveryPartialError(why, refused=refused, retry=retry)

    def _encode(
        self, events: LogEventBatch, max_payload: int
    ) -> tuple[list[tuple[int, str, bytes, dict[str, str]]], dict[int, str]]:
        messages = []
        refused = {}
        limit = max_payload - _HEADERS - len((self._stream or "").encode())
        for index, (delivery_id, event) in enumerate(zip(events.delivery_ids, events, strict=True)):
            body = encode_event(event)
            if len(body) > limit:  # the server would close the connection
                refused[index] = f"{len(body)} bytes are more than the server's max_payload of {max_payload} allows"
                continue
            subject = self._subject or clean_subject(self._template.format(event))
            messages.append((index, subject, body, {"Nats-Msg-Id": delivery_id, **self._headers}))
        return messages, refused

    async def _publish(
        self, connection: NatsConnection, messages: list[tuple[int, str, bytes, dict[str, str]]]
    ) -> None:
        publish = connection.client.publish
        task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        for index, subject, body, headers in messages:
            await publish(subject, body, f"{self._inbox}.{index}" if self._jetstream else "", headers)
            if task.cancelling() > cancelling:
                raise asyncio.CancelledError  # the client keeps it to itself

    async def _on_ack(self, message: Any) -> None:
        if self._acks is not None:
            self._acks.take(int(message.subject.rpartition(".")[2]), message)

    def _classify_error(self, error: BaseException) -> LogDeliveryErrorKind:
        from nats.errors import Error

        if isinstance(error, Error) and not isinstance(error, LogDeliveryError):
            return LogDeliveryErrorKind.TRANSIENT  # what has to do with an event is found out before, or acknowledged
        return super()._classify_error(error)


class _Acks:
    """The acknowledgements of messages that are under way.

    Attributes:
        done: Has a result when all have come.
        refused, retry: What those said that were none, by index.
    """

    def __init__(self, count: int) -> None:
        self._left = count
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.refused: dict[int, str] = {}
        self.retry: dict[int, str] = {}

    def take(self, index: int, message: Any) -> None:
        """Read an acknowledgement."""
        if not message.data:
            self.retry[index] = f"no stream takes the subject (status {(message.headers or {}).get('Status')})"
        else:
            try:
                error = _decoder.decode(message.data).error
            except msgspec.MsgspecError as err:
                self.retry[index] = f"the server's answer makes no sense: {err}"
            else:
                if error is not None:
                    where = self.refused if error.err_code in _TOO_LARGE else self.retry
                    where[index] = f"{error.description} (error {error.err_code})"
        self._left -= 1
        if self._left == 0 and not self.done.done():
            self.done.set_result(None)


# ---------------------------------------------------------------------- options


def clean_subject(text: str) -> str:
    """A subject that the server takes, and that matches no more than one message."""
    if len(text) > _MAX_SUBJECT:
        text = text[:_MAX_SUBJECT]
    if _IS_SUBJECT.fullmatch(text):
        return text
    return ".".join([token or "_" for token in _NOT_IN_SUBJECT.sub("_", text).split(".")])


def _clean_field(text: str) -> str:
    # Subjects that begin with a dollar sign are the server's own: to publish there may delete a stream.
    return _NOT_IN_SUBJECT.sub("_", text).replace("$", "_")


def _make_template(text: str) -> tuple[EventTemplate, str | None]:
    """The template, and the subject where it is always the same."""
    template = EventTemplate(text, clean=_clean_field, option="subject")
    if not _IS_SUBJECT.fullmatch(template.replace_fields("x")):
        raise _wrong("subject", "expected names with dots between them, without spaces and wildcards")
    return template, template.replace_fields("") if template.is_constant else None


def _make_filter(template: EventTemplate) -> str:
    """What the template's subjects have in common, as a subscription."""
    if template.is_constant:
        return template.replace_fields("")
    head: list[str] = []
    for token in template.replace_fields("\0").split("."):
        if "\0" in token:
            break
        head.append(token)
    return ".".join([*head, ">"])


_RANGES: dict[str, tuple[float, float]] = {
    "max_age": (0.1, 1e9),
    "max_bytes": (1, 1 << 62),
    "duplicate_window": (0.1, 1e9),
    "replicas": (1, 5),
    "connect_timeout": (0.001, 1e6),
}


def _check(given: Mapping[str, Any]) -> dict[str, Any]:
    """The sink's own options, each checked by itself and with the others, with defaults for those that are missing."""
    checked = check_own_options(NatsLogSink, given, _RANGES)
    if checked["stream"] is not None and not _IS_STREAM.fullmatch(checked["stream"]):
        raise _wrong("stream", "expected a name without spaces, dots, slashes and wildcards")
    if (checked["username"] is None) != (checked["password"] is None):
        raise _wrong("username", "username and password go together")
    ways = [name for name in ("username", "token", "nkey", "credentials") if checked[name] is not None]
    if len(ways) > 1:
        raise _wrong(ways[1], f"not together with {ways[0]}")
    if not _IS_SUBJECT.fullmatch(checked["inbox_prefix"]):
        raise _wrong("inbox_prefix", "expected names with dots between them, without spaces and wildcards")
    return checked


def _wrong(name: str, text: str) -> LogConfigurationError:
    return LogConfigurationError(f"{name}: {text}", details={"path": name})
