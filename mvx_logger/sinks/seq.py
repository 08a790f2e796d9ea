"""`SeqLogSink`: events into Seq, in its compact log event format (CLEF).

What is posted to ``/ingest/clef``: an object for each event, one on each line::

    {"@t":"2026-05-12T14:30:25.000123Z","@m":"order.created","@l":"Information","@i":"5c8a1f2e","DeliveryId":"...",
     "SourceContext":"shop.orders","Event":"order.created","Outcome":"success","amount":12.5}

The payload's keys are properties of their own, as they are in Seq's other clients: ``amount > 10`` finds them. The names of
the sink's own properties are capitalised, so that they rarely meet; a key of the payload that is one of them gets the
prefix ``payload.``. A key that begins with ``@`` gets another one, as the format has it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from ..delivery.sink import LogEventBatch
from ..errors import LogConfigurationError
from ..formats.document import encode_documents
from ..formats.json import format_timestamp
from ..model import LogEvent
from .http import BaseHttpLogSink, add_path
from .http_fields import check_choice, check_header_text

__all__ = ["SeqLogSink", "make_clef"]

_LEVELS = {10: "Debug", 20: "Information", 30: "Warning", 40: "Error", 50: "Fatal"}
_PROPERTIES = {"namespace": "SourceContext", "event": "Event", "entity_id": "EntityId", "outcome": "Outcome"}
_RESERVED = frozenset((*_PROPERTIES.values(), "DeliveryId", "Level", "LevelNumber", "Source", "Origin", "Stack"))
_TRACE_ID = re.compile(r"[0-9a-fA-F]{32}")
_SPAN_ID = re.compile(r"[0-9a-fA-F]{16}")


class SeqLogSink(BaseHttpLogSink):
    """Sends events to Seq. As a URL: ``seq://:API_KEY@host:5341``; ``seqs://`` with TLS.

    Seq refuses a request as a whole when one event in it is malformed or too large (256 KiB, usually): the batch comes
    again in halves until that one is alone.

    Args:
        url: Where Seq is: ``http://host:5341``.
        api_key: An API key; None where Seq takes events without one.
        path: The path of the API. Before Seq 2024.1, it was ``/api/events/raw``.
        compression: Of what is sent.
        **http_options: The others of `BaseHttpLogSink` and `AsyncioLogSink`.

    Raises:
        LogConfigurationError: An option is wrong.
        TypeError: An argument has the wrong type.
    """

    sink_type: ClassVar[str] = "seq"
    url_schemes: ClassVar[tuple[str, ...]] = ("seq", "seqs")
    url_parts: ClassVar[Mapping[str, str]] = {"password": "api_key"}
    secret_options: ClassVar[tuple[str, ...]] = (*BaseHttpLogSink.secret_options, "api_key")
    content_type: ClassVar[str] = "application/vnd.serilog.clef"

    def __init__(
        self,
        *,
        url: str,
        api_key: str | None = None,
        path: str = "/ingest/clef",
        compression: Literal["none", "gzip"] = "none",
        **http_options: Any,
    ) -> None:
        check_header_text("api_key", api_key)
        self._api_key = api_key
        check_header_text("path", path, required=True)
        if not path.startswith("/") or "?" in path or "#" in path:
            raise LogConfigurationError(f"path: expected one like /ingest/clef, got {path!r}", details={"path": "path"})
        self._path = path
        check_choice("compression", compression, ("none", "gzip"))
        super().__init__(url=url, compression=compression, **http_options)

    def _make_url(self) -> str:
        return add_path(self._url, self._path)

    def _make_headers(self) -> dict[str, str]:
        headers = super()._make_headers()
        if self._api_key is not None:
            headers["X-Seq-ApiKey"] = self._api_key
        return headers

    def _encode_batch(self, events: LogEventBatch) -> bytes:
        return b"\n".join([*encode_documents(make_clef, events, events.delivery_ids), b""])


def make_clef(document: dict[str, Any], event: LogEvent, delivery_id: str) -> dict[str, Any]:
    """The CLEF object of an event, before it is encoded."""
    timestamp = document["timestamp"]
    if not isinstance(timestamp, str):  # a year that ISO 8601 does not know
        timestamp = format_timestamp(0.0)
    name = document.get("event", "")
    level = event.level
    clef: dict[str, Any] = {
        "@t": timestamp,
        "@m": document.get("message") or name,
        "@l": _LEVELS.get(level) or ("Verbose" if level < 10 else _LEVELS[min(level // 10 * 10, 50)]),
        # The type of the event: what comes from one statement has one, whatever its message says.
        "@i": f"{zlib.crc32(name.encode('utf-8', 'replace')):08x}",
        "DeliveryId": delivery_id,
    }
    exception = document.get("exception")
    if exception is not None:
        clef["@x"] = exception.get("text") or f"{exception.get('type')}: {exception.get('message')}"
    for field, own in _PROPERTIES.items():
        if field in document:
            clef[own] = document[field]
    if level not in _LEVELS:
        clef["Level"] = document["level"]
        clef["LevelNumber"] = level
    for field, own in (("source", "Source"), ("origin", "Origin")):
        if field in document:
            clef[own] = document[field]
    if "stack" in document:
        clef["Stack"] = document["stack"].get("text", "")
    payload = document.get("payload")
    if payload:
        _add_payload(clef, payload)
    return clef


def _add_payload(clef: dict[str, Any], payload: Mapping[str, Any]) -> None:
    trace, span = payload.get("trace_id"), payload.get("span_id")
    if isinstance(trace, str) and _TRACE_ID.fullmatch(trace):
        clef["@tr"] = trace
        if isinstance(span, str) and _SPAN_ID.fullmatch(span):
            clef["@sp"] = span
    for key, value in payload.items():
        name = f"@{key}" if key.startswith("@") else key
        if name in _RESERVED:
            while name in _RESERVED or name in payload:
                name = f"payload.{name}"
        clef[name] = value
