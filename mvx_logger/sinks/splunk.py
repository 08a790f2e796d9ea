"""`SplunkLogSink`: events into Splunk by its HTTP Event Collector (HEC).

What is posted to ``/services/collector/event``: an object for each event, one after the other::

    {"time":1780000000.123000,"host":"web-1","event":{"timestamp":...,"event":"order.created",...},
     "fields":{"delivery_id":"..."}}
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NoReturn
from uuid import uuid4

import msgspec

from ..delivery.sink import LogEventBatch
from ..errors import (
    LogConfigurationError,
    LogDeliveryPartialError,
    LogDeliveryRefusedError,
    LogDeliveryTransientError,
)
from ..formats.json import encode_lines, encode_value
from ..formats.template import EventTemplate
from .http import BaseHttpLogSink, add_path, describe_answer, get_retry_after
from .http_fields import (
    NamedTemplates,
    check_choice,
    check_header_text,
    format_templates,
    parse_templates,
    to_microseconds,
)

__all__ = ["SplunkLogSink"]

_TAKEN = frozenset((0, 17, 24, 25))
"""Success; success, but a queue is nearly full."""
_CONTENT = frozenset((5, 6, 7, 12, 13, 15))
"""No data, invalid format, wrong index, event required, event blank, fields that cannot be indexed."""
_MAX_POLL = 2.0


class _Answer(msgspec.Struct):
    code: int
    text: str = ""
    invalid: int | None = msgspec.field(default=None, name="invalid-event-number")
    ack_id: int | None = msgspec.field(default=None, name="ackId")


class _Acks(msgspec.Struct):
    acks: dict[str, bool]


class SplunkLogSink(BaseHttpLogSink):
    """Sends events to the HTTP Event Collector. As a URL: ``splunks://:TOKEN@host:8088``; ``splunk://`` without TLS.

    An answer with the number of an invalid event means that those before it were taken: that one is refused, those after it
    are sent again. A token or a channel that is wrong, disabled or missing counts as transient.

    Without ``acknowledge``, an event is delivered when the collector has it, in memory: what Splunk loses between there and
    the index is lost. With it, it is delivered when it is indexed.

    Args:
        url: Where the collector is: ``https://host:8088``.
        token: The token of the collector.
        index: The index; None leaves it to the token. This and the next three are `EventTemplate`.
        source: The source; None leaves it to the token.
        sourcetype: The source type; None leaves it to the token.
        host: The host.
        fields: Fields that are indexed beside the event: by name, or as a list of ``name=template``. None: ``level`` and
            ``namespace``. The delivery id is always there.
        acknowledge: Wait until the events are indexed. The token needs "indexer acknowledgment". Each batch waits for its
            acknowledgement, which takes from tenths of a second to several: let batches be large.
        compression: Of what is sent.
        batch_max_bytes: Splunk Cloud limits a request (1 MB); Splunk Enterprise has a limit of 800 MB.
        **http_options: The others of `BaseHttpLogSink` and `AsyncioLogSink`.

    Raises:
        LogConfigurationError: An option is wrong.
        TypeError: An argument has the wrong type.
    """

    sink_type: ClassVar[str] = "splunk"
    url_schemes: ClassVar[tuple[str, ...]] = ("splunk", "splunks")
    url_parts: ClassVar[Mapping[str, str]] = {"password": "token"}
    resource_options: ClassVar[tuple[str, ...]] = ("url", "index")
    secret_options: ClassVar[tuple[str, ...]] = (*BaseHttpLogSink.secret_options, "token")

    def __init__(
        self,
        *,
        url: str,
        token: str,
        index: str | None = None,
        source: str | None = None,
        sourcetype: str | None = None,
        host: str | None = "{host}",
        fields: NamedTemplates = None,
        acknowledge: bool = False,
        compression: Literal["none", "gzip"] = "none",
        batch_max_bytes: int = 900_000,
        **http_options: Any,
    ) -> None:
        check_header_text("token", token, required=True)
        self._token = token
        given = {"host": host, "source": source, "sourcetype": sourcetype, "index": index}
        self._metadata = {
            name: EventTemplate(text, option=name) for name, text in given.items() if text is not None and text != ""
        }
        self._fields = parse_templates("fields", fields, {"level": "{level}", "namespace": "{namespace}"})
        if not isinstance(acknowledge, bool):
            raise TypeError(f"acknowledge: expected a bool, got {type(acknowledge).__name__}")
        for name in ("username", "password", "bearer_token"):
            if http_options.get(name) is not None:
                raise LogConfigurationError(f"{name}: HEC knows tokens only", details={"path": name})
        self._channel = str(uuid4()) if acknowledge else None
        self._ack_id: int | None = None
        check_choice("compression", compression, ("none", "gzip"))
        super().__init__(url=url, compression=compression, batch_max_bytes=batch_max_bytes, **http_options)

    def _make_url(self) -> str:
        return add_path(self._url, "/services/collector/event")

    def _make_headers(self) -> dict[str, str]:
        headers = {**super()._make_headers(), "Authorization": f"Splunk {self._token}"}
        if self._channel is not None:
            # Another one for each connection: acknowledgements that nobody asked for stay with the old one.
            self._channel = str(uuid4())
            headers["X-Splunk-Request-Channel"] = self._channel
        return headers

    def _encode_batch(self, events: LogEventBatch) -> bytes:
        return encode_hec(events, self._metadata, self._fields)

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        self._ack_id = None
        await super()._dispatch_batch(events)
        if self._channel is not None:
            await self._await_acknowledgement(self._channel)

    async def _await_acknowledgement(self, channel: str) -> None:
        ack_id = self._ack_id
        if ack_id is None:
            raise LogDeliveryTransientError("no acknowledgement was promised: is it enabled for the token?")
        url = add_path(self._url, "/services/collector/ack", channel=channel)
        pause = 0.05
        while True:  # delivery_timeout ends it
            status, headers, body = await self._request("POST", url, b'{"acks":[%d]}' % ack_id)
            try:
                acks = msgspec.json.decode(body, type=_Acks).acks if status == 200 else None
            except (msgspec.MsgspecError, UnicodeDecodeError):
                acks = None
            if acks is None:
                raise LogDeliveryTransientError(
                    f"asked for an acknowledgement: {describe_answer(status, headers, body)}",
                    retry_after=get_retry_after(headers),
                )
            if acks.get(str(ack_id)):
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_POLL)

    def _read_response(self, status: int, headers: Mapping[str, str], body: bytes, events: LogEventBatch) -> None:
        answer = _parse(body)
        if answer is None:
            raise LogDeliveryTransientError(f"no answer of a collector: {describe_answer(status, headers, body)}")
        if answer.code not in _TAKEN:
            self._read_failure(status, headers, body, events)
        self._ack_id = answer.ack_id

    def _read_failure(self, status: int, headers: Mapping[str, str], body: bytes, events: LogEventBatch) -> NoReturn:
        answer = _parse(body)
        if answer is None:
            super()._read_failure(status, headers, body, events)
        text = describe_answer(status, headers, body)
        if answer.code not in _CONTENT:
            raise LogDeliveryTransientError(text, retry_after=get_retry_after(headers))
        number = answer.invalid
        if number is None or not 0 <= number < len(events) or len(events) == 1:
            raise LogDeliveryRefusedError(text)
        raise LogDeliveryPartialError(text, refused={number: text}, retry=range(number + 1, len(events)))


def _parse(body: bytes) -> _Answer | None:
    try:
        return msgspec.json.decode(body, type=_Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def encode_hec(
    events: LogEventBatch, metadata: Mapping[str, EventTemplate], fields: Mapping[str, EventTemplate]
) -> bytes:
    """The body of a request: an object for each event, each on a line of its own."""
    parts: list[bytes] = []
    constant = all(template.is_constant or template.text == "{host}" for template in metadata.values())
    head = b""
    for number, (event, delivery_id, line) in enumerate(
        zip(events, events.delivery_ids, encode_lines(events).split(b"\n"), strict=False)
    ):
        if not number or not constant:
            head = b"".join(
                b',"%s":%s' % (name.encode(), encode_value(text))
                for name, text in format_templates(metadata, event).items()
            )
        parts.append(
            b'{"time":%.6f%s,"event":%s,"fields":%s}'
            % (
                to_microseconds(event.timestamp) / 1e6,
                head,
                line,
                encode_value({**format_templates(fields, event), "delivery_id": delivery_id}),
            )
        )
    return b"\n".join(parts)
