"""`OtlpLogSink`: events to an OpenTelemetry collector, or whatever else takes OTLP over HTTP, in protobuf or in JSON.

What becomes of the fields of an event is in `mvx_logger.formats.otlp`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NoReturn
from urllib.parse import unquote

import msgspec

from .. import selflog
from ..ambient import capture_trace_context
from ..delivery.sink import LogEventBatch
from ..errors import (
    LogConfigurationError,
    LogDeliveryPartialError,
    LogDeliveryRefusedError,
    LogDeliveryTransientError,
)
from ..formats.otlp import decode_partial_success, encode_json, encode_protobuf
from ..masking import mask_secrets
from ..options import require_extra
from .http import BaseHttpLogSink, add_path, describe_answer, get_retry_after
from .http_fields import check_choice, get_program_name

__all__ = ["OtlpLogSink"]

_RETRYABLE = frozenset((429, 502, 503, 504))
_ACCESS = frozenset((401, 403, 404, 405, 407))
"""Nothing is wrong with the events when a token is renewed or a route is missing."""


class _PartialSuccess(msgspec.Struct, rename="camel"):
    rejected_log_records: int = 0
    error_message: str = ""


class _Response(msgspec.Struct, rename="camel"):
    partial_success: _PartialSuccess | None = None


class OtlpLogSink(BaseHttpLogSink):
    """Exports events as OpenTelemetry log records, by OTLP/HTTP. As a URL: ``otlp://collector:4318``; ``otlps://`` with TLS.

    Which answers mean that a batch comes again, the specification says: 429, 502, 503 and 504, after ``Retry-After``.
    So do answers that are about access: 401, 403, 404, 405, 407 and redirections. All others refuse the content: the
    batch is split until the record that is meant is alone.

    A collector may take a batch in part. It tells how many records it has rejected, not which, and must not be sent them
    again. Where it has rejected all, they are refused, and go to the ``dead_letter`` sink. Otherwise the batch counts as
    delivered; `rejected` counts those records, and `mvx_logger.selflog` tells of them. With ``batch_max_size=1``, each is
    accounted for.

    Args:
        url: Where the collector is: ``http://host:4318``. The path ``/v1/logs`` is added, unless it ends so already.
        encoding: ``protobuf`` or ``json``.
        service_name: The attribute ``service.name`` of the resource. None: as ``OTEL_SERVICE_NAME`` or
            ``OTEL_RESOURCE_ATTRIBUTES`` say; else ``unknown_service:`` and the name of the program.
        resource: More attributes of the resource, by name, or as a list of ``name=value``. They come after those of
            ``OTEL_RESOURCE_ATTRIBUTES``, and after ``host.name`` and ``telemetry.sdk.*``.
        trace_context: While the sink lives, let all events that are logged within a span carry its ids: see
            `mvx_logger.ambient.capture_trace_context`.
        compression: Of what is sent.
        **http_options: The others of `BaseHttpLogSink` and `AsyncioLogSink`.

    Raises:
        LogConfigurationError: An option is wrong.
        TypeError: An argument has the wrong type.

    Attributes:
        rejected: How many records were rejected in batches that count as delivered.
    """

    sink_type: ClassVar[str] = "otlp"
    url_schemes: ClassVar[tuple[str, ...]] = ("otlp", "otlps")
    extra: ClassVar[str] = "otlp"

    def __init__(
        self,
        *,
        url: str = "http://localhost:4318",
        encoding: Literal["protobuf", "json"] = "protobuf",
        service_name: str | None = None,
        resource: Mapping[str, Any] | Sequence[str] | None = None,
        trace_context: bool = True,
        compression: Literal["none", "gzip", "zstd"] = "none",
        **http_options: Any,
    ) -> None:
        check_choice("encoding", encoding, ("protobuf", "json"))
        self._is_json = encoding == "json"
        if service_name is not None and not isinstance(service_name, str):
            raise TypeError(f"service_name: expected a str, got {type(service_name).__name__}")
        if not isinstance(trace_context, bool):
            raise TypeError(f"trace_context: expected a bool, got {type(trace_context).__name__}")
        check_choice("compression", compression, ("none", "gzip", "zstd"))
        self._resource = make_resource(service_name, parse_resource(resource))
        self._trace_context = trace_context
        self.rejected = 0
        super().__init__(url=url, compression=compression, **http_options)
        # From here on: an event may be logged before the worker runs.
        self._hold_trace_context()

    def _hold_trace_context(self) -> None:
        if self._trace_context:
            capture_trace_context(holder=self)

    async def _on_starting(self) -> None:
        if not self._is_json:
            require_extra("otlp", "opentelemetry.proto.collector.logs.v1.logs_service_pb2")
        await super()._on_starting()
        self._hold_trace_context()

    async def _on_stopped(self) -> None:
        await super()._on_stopped()
        if self._trace_context:
            capture_trace_context(False, holder=self)

    def _make_url(self) -> str:
        return self._url if self._url.rstrip("/").endswith("/v1/logs") else add_path(self._url, "/v1/logs")

    def _make_headers(self) -> dict[str, str]:
        return {"Content-Type": "application/json" if self._is_json else "application/x-protobuf"}

    def _encode_batch(self, events: LogEventBatch) -> bytes:
        encode = encode_json if self._is_json else encode_protobuf
        return encode(events, events.delivery_ids, self._resource)

    def _read_response(self, status: int, headers: Mapping[str, str], body: bytes, events: LogEventBatch) -> None:
        rejected, message = parse_partial_success(headers, body)
        message = mask_secrets(message)[:300]
        if rejected >= len(events):
            text = f"the collector has rejected all records: {message}"
            raise LogDeliveryPartialError(text, refused=dict.fromkeys(range(len(events)), text))
        if rejected > 0:
            self.rejected += rejected
            selflog.report(
                "otlp_rejected",
                "a collector has rejected records of a batch; which ones, it does not tell",
                sink=self._label(),
                rejected=rejected,
                records=len(events),
                error=message,
            )
        elif message:
            selflog.report("otlp_warning", "a collector warns", sink=self._label(), error=message)

    def _read_failure(self, status: int, headers: Mapping[str, str], body: bytes, events: LogEventBatch) -> NoReturn:
        text = describe_answer(status, headers, body if is_text(headers) else b"")
        if status in _RETRYABLE or status in _ACCESS or status < 400:
            raise LogDeliveryTransientError(text, retry_after=get_retry_after(headers))
        raise LogDeliveryRefusedError(text)


def is_text(headers: Mapping[str, str]) -> bool:
    """False for a body in protobuf, which says nothing to people."""
    return "protobuf" not in (headers.get("Content-Type") or "")


def parse_partial_success(headers: Mapping[str, str], body: bytes) -> tuple[int, str]:
    """How many records were rejected, and what was said; nothing where the answer cannot be read."""
    if not body:
        return 0, ""
    try:
        if is_text(headers):
            partial = msgspec.json.decode(body, type=_Response, strict=False).partial_success
            return (0, "") if partial is None else (partial.rejected_log_records, partial.error_message)
        return decode_partial_success(body)
    except Exception:  # 2xx it was
        return 0, ""


def parse_resource(resource: Mapping[str, Any] | Sequence[str] | None) -> dict[str, Any]:
    """The attributes of a resource as they are given in options.

    Raises:
        TypeError: They are neither a mapping nor a list of text.
        LogConfigurationError: A name is empty, or a value is missing.
    """
    pairs: list[tuple[Any, Any]] = []
    if isinstance(resource, Mapping):
        pairs.extend(resource.items())
    elif isinstance(resource, Sequence) and not isinstance(resource, (str, bytes)):
        for item in resource:
            name, equals, value = item.partition("=") if isinstance(item, str) else ("", "", "")
            if not equals:
                raise LogConfigurationError(
                    "resource: expected a mapping, or a list of 'name=value'", details={"path": "resource"}
                )
            pairs.append((name.strip(), value.strip()))
    elif resource is not None:
        raise TypeError(f"resource: expected a mapping or a list, got {type(resource).__name__}")
    for name, _ in pairs:
        if not isinstance(name, str) or not name:
            raise LogConfigurationError(
                f"resource: {name!r} is not the name of an attribute", details={"path": "resource"}
            )
    return dict(pairs)


def make_resource(service_name: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of the resource: what is known, what the environment says, what was given."""
    from .. import __version__

    resource: dict[str, Any] = {
        "service.name": f"unknown_service:{get_program_name()}",
        "host.name": socket.gethostname(),
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "mvx-logger",
        "telemetry.sdk.version": __version__,
    }
    for item in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        name, equals, value = item.partition("=")
        if equals and name.strip():
            resource[name.strip()] = unquote(value.strip())
    from_environment = os.environ.get("OTEL_SERVICE_NAME")
    if from_environment:
        resource["service.name"] = from_environment
    resource.update(given)
    if service_name is not None:
        resource["service.name"] = service_name
    return resource
