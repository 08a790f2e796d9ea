"""`VictoriaLogsSink`: events into VictoriaLogs by its JSON stream API.

What is posted to ``/insert/jsonline``: an object for each event, one on each line::

    {"_msg":"order.created","delivery_id":"...","service":"shop","host":"web-1","timestamp":"2026-05-12T14:30:25.000123Z",
     "level":"INFO","namespace":"shop.orders","event":"order.created","payload":{"amount":12.5}}

VictoriaLogs makes fields of what is nested: ``payload.amount``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from ..delivery.sink import LogEventBatch
from ..errors import LogConfigurationError, LogDeliveryRefusedError
from ..formats.document import encode_documents
from ..formats.json import format_timestamp
from ..model import LogEvent
from .http import BaseHttpLogSink, add_path
from .http_fields import NamedTemplates, check_choice, format_templates, get_program_name, parse_templates

__all__ = ["VictoriaLogsSink"]

_TENANT_IDS = range(2**32)


class VictoriaLogsSink(BaseHttpLogSink):
    """Sends events to VictoriaLogs. As a URL: ``victorialogs://host:9428``; ``victorialogss://`` with TLS.

    VictoriaLogs answers 200 to whatever it is sent, and drops lines that it cannot read, that are too long or whose time is
    outside of its retention period. What the sink can see of that, it sees before it sends: a line that is too long is
    refused.

    Args:
        url: Where VictoriaLogs is, without the path of the API: ``http://host:9428``.
        stream_fields: The fields that tell streams apart: those of one instance of a program make one stream. Few values,
            please; ``level`` and ids are not for streams.
        fields: Fields to add to each event: by name, as `EventTemplate`, or as a list of ``name=template``. None:
            ``service`` (the name of the program) and ``host``.
        account_id: The tenant's account, for the header ``AccountID``.
        project_id: The tenant's project, for the header ``ProjectID``.
        max_line_bytes: Refuse an event whose line is longer: VictoriaLogs drops it without a word. The same as its
            ``-insert.maxLineSizeBytes``.
        compression: Of what is sent.
        **http_options: The others of `BaseHttpLogSink` and `AsyncioLogSink`.

    Raises:
        LogConfigurationError: An option is wrong.
        TypeError: An argument has the wrong type.
        ValueError: A number is out of range.
    """

    sink_type: ClassVar[str] = "victorialogs"
    url_schemes: ClassVar[tuple[str, ...]] = ("victorialogs", "victorialogss")
    resource_options: ClassVar[tuple[str, ...]] = ("url", "account_id", "project_id")
    content_type: ClassVar[str] = "application/stream+json"

    def __init__(
        self,
        *,
        url: str,
        stream_fields: Sequence[str] = ("service", "host"),
        fields: NamedTemplates = None,
        account_id: int = 0,
        project_id: int = 0,
        max_line_bytes: int = 256 * 1024,
        compression: Literal["none", "gzip", "zstd"] = "none",
        **http_options: Any,
    ) -> None:
        if isinstance(stream_fields, str) or not isinstance(stream_fields, Sequence):
            raise TypeError(f"stream_fields: expected a list, got {type(stream_fields).__name__}")
        for name in stream_fields:
            if not isinstance(name, str) or not name or "," in name or not name.isprintable():
                raise LogConfigurationError(
                    f"stream_fields: {name!r} is not the name of a field", details={"path": "stream_fields"}
                )
        self._stream_fields = tuple(stream_fields)
        self._fields = parse_templates(
            "fields",
            fields,
            {"service": get_program_name().replace("{", "{{").replace("}", "}}"), "host": "{host}"},
        )
        for option, number, allowed in (
            ("account_id", account_id, _TENANT_IDS),
            ("project_id", project_id, _TENANT_IDS),
            ("max_line_bytes", max_line_bytes, range(1024, 2**31)),
        ):
            if isinstance(number, bool) or not isinstance(number, int):
                raise TypeError(f"{option}: expected an int, got {type(number).__name__}")
            if number not in allowed:
                raise ValueError(f"{option}: expected {allowed[0]} to {allowed[-1]}, got {number}")
        self._tenant = account_id, project_id
        self._max_line_bytes = max_line_bytes
        check_choice("compression", compression, ("none", "gzip", "zstd"))
        super().__init__(url=url, compression=compression, **http_options)

    def _make_url(self) -> str:
        return add_path(
            self._url,
            "/insert/jsonline",
            _stream_fields=",".join(self._stream_fields),
            _time_field="timestamp",
            _msg_field="_msg",
        )

    def _make_headers(self) -> dict[str, str]:
        account, project = self._tenant
        return {**super()._make_headers(), "AccountID": str(account), "ProjectID": str(project)}

    def _encode_batch(self, events: LogEventBatch) -> bytes:
        lines = encode_documents(self._shape, events, events.delivery_ids)
        for line in lines:
            if len(line) > self._max_line_bytes:
                raise LogDeliveryRefusedError(
                    f"a line of {len(line)} bytes: VictoriaLogs takes {self._max_line_bytes} (max_line_bytes)"
                )
        return b"\n".join([*lines, b""])

    def _shape(self, document: dict[str, Any], event: LogEvent, delivery_id: str) -> Mapping[str, Any]:
        line: dict[str, Any] = {
            "_msg": document.pop("message", None) or document.get("event") or "-",
            "delivery_id": delivery_id,
        }
        line.update(format_templates(self._fields, event))
        line.update(document)
        if not isinstance(line["timestamp"], str):  # a year that RFC 3339 does not know
            line["timestamp"] = format_timestamp(0.0)
        return line
