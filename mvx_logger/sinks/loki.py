"""`LokiLogSink`: events into Grafana Loki by its push API.

What is posted to ``/loki/api/v1/push``::

    {"streams":[{"stream":{"service_name":"shop","level":"info"},
                 "values":[["1780000000000123000","{\\"delivery_id\\":\\"...\\",...}",{"delivery_id":"...","event":"..."}]]}]}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec

from ..delivery.sink import LogEventBatch
from ..errors import LogConfigurationError
from ..formats import logfmt
from ..formats.template import EventTemplate
from .http import BaseHttpLogSink, add_path, encode_documents
from .http_fields import (
    NamedTemplates,
    check_choice,
    check_header_text,
    fit,
    format_templates,
    get_program_name,
    parse_templates,
    to_microseconds,
)

__all__ = ["LokiLogSink"]

_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_MAX_LABELS = 15
_MAX_LABEL_TEXT = 512
"""Loki takes 2,048 bytes; a character has up to four."""
_encoder = msgspec.json.Encoder()


class LokiLogSink(BaseHttpLogSink):
    """Pushes events to Loki. As a URL: ``loki://host:3100`` and ``lokis://...``, with a user and password for basic
    authentication.

    Each combination of label values is a stream of its own, and Loki wants few: take for labels what has few values, and
    leave the rest to the line and the structured metadata, which are searched as well. The lines of a stream are sent in the
    order in which the events were logged.

    An event that comes again has the same time and the same line, delivery id included: Loki keeps one of them.

    Args:
        url: Where Loki is, without the path of the API: ``http://host:3100``.
        labels: The labels by name, as `EventTemplate`, or as a list of ``name=template``. None: ``service_name`` (the name
            of the program) and ``level``. At most 15. Where an event has no text for one, it is ``unknown``.
        line: ``json``: the document of `mvx_logger.formats.json.encode_event` with a ``delivery_id``. ``logfmt``: that of
            `mvx_logger.formats.logfmt.encode_event`, with a ``delivery_id``.
        structured_metadata: What stands beside the line, in the same form as the labels. None: ``namespace``, ``event``,
            ``entity_id`` and ``trace_id``, where the event has them. The delivery id is always there. An empty list sends
            no structured metadata: Loki before 3.0 refuses it, or where its ``allow_structured_metadata`` is off.
        tenant: The tenant, for ``X-Scope-OrgID``, where Loki has several.
        compression: Of what is sent.
        batch_max_bytes: Loki limits a request (4 MiB, usually) and a burst (6 MB).
        **http_options: The others of `BaseHttpLogSink` and `AsyncioLogSink`.

    Raises:
        LogConfigurationError: An option is wrong.
        TypeError: An argument has the wrong type.
    """

    sink_type: ClassVar[str] = "loki"
    url_schemes: ClassVar[tuple[str, ...]] = ("loki", "lokis")
    resource_options: ClassVar[tuple[str, ...]] = ("url", "tenant")

    def __init__(
        self,
        *,
        url: str,
        labels: NamedTemplates = None,
        line: Literal["json", "logfmt"] = "json",
        structured_metadata: NamedTemplates = None,
        tenant: str | None = None,
        compression: Literal["none", "gzip"] = "none",
        batch_max_bytes: int = 1024 * 1024,
        **http_options: Any,
    ) -> None:
        self._labels = parse_templates(
            "labels",
            labels,
            {"service_name": get_program_name().replace("{", "{{").replace("}", "}}"), "level": "{level}"},
            name=_LABEL,
            expected="letters, digits and underscores, the first one no digit, and not two underscores in front",
        )
        if not 1 <= len(self._labels) <= _MAX_LABELS:
            raise LogConfigurationError(
                f"labels: expected 1 to {_MAX_LABELS}, got {len(self._labels)}", details={"path": "labels"}
            )
        self._metadata = parse_templates(
            "structured_metadata",
            structured_metadata,
            {
                "namespace": "{namespace}",
                "event": "{event}",
                "entity_id": "{entity_id}",
                "trace_id": "{payload.trace_id}",
            },
            name=_LABEL,
            expected="letters, digits and underscores, the first one no digit",
        )
        check_choice("line", line, ("json", "logfmt"))
        self._line = line
        check_header_text("tenant", tenant)
        self._tenant = tenant
        check_choice("compression", compression, ("none", "gzip"))
        super().__init__(url=url, compression=compression, batch_max_bytes=batch_max_bytes, **http_options)

    def _make_url(self) -> str:
        return add_path(self._url, "/loki/api/v1/push")

    def _make_headers(self) -> dict[str, str]:
        headers = super()._make_headers()
        if self._tenant is not None:
            headers["X-Scope-OrgID"] = self._tenant
        return headers

    def _encode_batch(self, events: LogEventBatch) -> bytes:
        return encode_push(
            events,
            self._encode_lines(events),
            self._labels,
            self._metadata if self._metadata else None,
        )

    def _encode_lines(self, events: LogEventBatch) -> list[bytes]:
        if self._line == "json":
            return encode_documents(events)
        return [
            b"%s delivery_id=%s" % (logfmt.encode_event(event), delivery_id.encode())
            for delivery_id, event in zip(events.delivery_ids, events, strict=True)
        ]


def encode_push(
    events: LogEventBatch,
    lines: list[bytes],
    labels: Mapping[str, EventTemplate],
    metadata: Mapping[str, EventTemplate] | None,
) -> bytes:
    """The body of a push request: a stream for each combination of labels, its events in order."""
    streams: dict[tuple[str, ...], list[list[Any]]] = {}
    templates = list(labels.values())
    for event, delivery_id, line in zip(events, events.delivery_ids, lines, strict=True):
        key = tuple([_clean(template.format(event)) for template in templates])
        value: list[Any] = [str(to_microseconds(event.timestamp) * 1_000), line.decode()]
        if metadata is not None:
            value.append({"delivery_id": delivery_id, **format_templates(metadata, event)})
        values = streams.get(key)
        if values is None:
            streams[key] = [value]
        else:
            values.append(value)
    return _encoder.encode(
        {
            "streams": [
                {"stream": dict(zip(labels, key, strict=True)), "values": streams[key]} for key in sorted(streams)
            ]
        }
    )


def _clean(text: str) -> str:
    return fit(text)[:_MAX_LABEL_TEXT] or "unknown"
