"""`DatadogLogSink`: events into Datadog by its logs intake, version 2.

What is posted to ``/api/v2/logs``: an array of objects. Datadog gives some attributes a meaning of their own, whoever sends
them (``status``, ``host``, ``service``, ``date``, ...): that is why the payload stays an object, ``@payload.amount``, in
which it can hold them, too::

    [{"ddsource":"python","ddtags":"env:prod","hostname":"web-1","service":"shop","status":"info","timestamp":1780000000123,
      "message":"order.created","delivery_id":"...","evt":{"name":"order.created","outcome":"success"},
      "logger":{"name":"shop.orders"},"payload":{"amount":12.5}}]
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal
from urllib.parse import SplitResult

from ..delivery.sink import LogEventBatch
from ..errors import LogConfigurationError
from ..formats.document import encode_documents
from ..formats.template import EventTemplate
from ..formats.text import LEVEL_NAMES
from ..model import LogEvent
from ..options import options_from_url
from .http import BaseHttpLogSink, add_path
from .http_fields import (
    NamedTemplates,
    check_choice,
    check_header_text,
    fit,
    get_program_name,
    parse_templates,
    to_microseconds,
)

__all__ = ["DatadogLogSink"]

_MAX_LOGS = 1_000
_STATUSES = {level: name.lower() for level, name in LEVEL_NAMES.items()}


class DatadogLogSink(BaseHttpLogSink):
    """Sends events to Datadog. As a URL: ``datadog://:API_KEY@datadoghq.eu``, where the host is the site.

    An answer means that Datadog has taken the events for processing. What it drops later (older than 18 hours, beyond a
    quota, excluded from indexes), and that it cuts a log of more than 1 MB, it does not tell.

    Args:
        api_key: An API key (not an application key).
        site: The site: ``datadoghq.com``, ``us3.datadoghq.com``, ``us5.datadoghq.com``, ``datadoghq.eu``,
            ``ap1.datadoghq.com``, ``ddog-gov.com``, ...
        url: Where the intake is, where that is not ``https://http-intake.logs.SITE``: a proxy, say.
        service: The service, an `EventTemplate`. None: the name of the program.
        source: Which integration's pipeline the logs go through: ``ddsource``.
        hostname: The host, an `EventTemplate`.
        tags: Tags by name, as `EventTemplate`, or as a list of ``name=template``: ``{"env": "prod", "version": "1.2"}``.
        compression: Of what is sent.
        batch_max_size: How many events a request holds: at most 1,000.
        batch_max_bytes: Datadog limits a request to 5 MB.
        **http_options: The others of `BaseHttpLogSink` and `AsyncioLogSink`.

    Raises:
        LogConfigurationError: An option is wrong.
        TypeError: An argument has the wrong type.
    """

    sink_type: ClassVar[str] = "datadog"
    url_schemes: ClassVar[tuple[str, ...]] = ("datadog",)
    resource_options: ClassVar[tuple[str, ...]] = ("url", "site")
    secret_options: ClassVar[tuple[str, ...]] = (*BaseHttpLogSink.secret_options, "api_key")

    def __init__(
        self,
        *,
        api_key: str,
        site: str = "datadoghq.com",
        url: str | None = None,
        service: str | None = None,
        source: str = "python",
        hostname: str = "{host}",
        tags: NamedTemplates = None,
        compression: Literal["none", "gzip"] = "gzip",
        batch_max_size: int = _MAX_LOGS,
        batch_max_bytes: int = 3_000_000,
        **http_options: Any,
    ) -> None:
        check_header_text("api_key", api_key, required=True)
        self._api_key = api_key
        check_header_text("site", site, required=True)
        if not all(part.replace("-", "").isalnum() for part in site.split(".")):
            raise LogConfigurationError(
                f"site: {site!r} is not the name of a site, e.g. datadoghq.eu", details={"path": "site"}
            )
        check_header_text("source", source, required=True)
        self._source = source
        self._service = None if service is None else EventTemplate(service, option="service")
        self._program = get_program_name()
        self._hostname = EventTemplate(hostname, option="hostname")
        # A comma ends a tag; Datadog itself makes the rest fit.
        self._tags = parse_templates("tags", tags, {}, clean=lambda text: text.replace(",", "_"))
        check_choice("compression", compression, ("none", "gzip"))
        if isinstance(batch_max_size, int) and batch_max_size > _MAX_LOGS:
            raise ValueError(f"batch_max_size: Datadog takes at most {_MAX_LOGS} at once, got {batch_max_size}")
        super().__init__(
            url=f"https://http-intake.logs.{site}" if url is None else url,
            compression=compression,
            batch_max_size=batch_max_size,
            batch_max_bytes=batch_max_bytes,
            **http_options,
        )

    @classmethod
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        """``datadog://:API_KEY@SITE``; the key may stand in the place of the user, too."""
        if url.username and not url.password:
            url = url._replace(netloc=f":{url.netloc}")
        return options_from_url(cls, url, {"hostname": "site", "password": "api_key"})

    def _make_url(self) -> str:
        return add_path(self._url, "/api/v2/logs")

    def _make_headers(self) -> dict[str, str]:
        return {**super()._make_headers(), "DD-API-KEY": self._api_key}

    def _encode_batch(self, events: LogEventBatch) -> bytes:
        return b"[%s]" % b",".join(encode_documents(self._shape, events, events.delivery_ids))

    def _shape(self, document: dict[str, Any], event: LogEvent, delivery_id: str) -> dict[str, Any]:
        log: dict[str, Any] = {
            "ddsource": self._source,
            "ddtags": ",".join([f"{name}:{template.format(event)}" for name, template in self._tags.items()]),
            "hostname": fit(self._hostname.format(event)),
            "service": self._program if self._service is None else fit(self._service.format(event)),
            "status": _get_status(event.level),
            "timestamp": to_microseconds(event.timestamp) // 1_000,
            "message": document.get("message") or document.get("event") or "",
            "delivery_id": delivery_id,
            "evt": {"name": document.get("event")},
        }
        return shape_rest(log, document, event)


def _get_status(level: int) -> str:
    return _STATUSES.get(level) or _STATUSES[min(max(level // 10 * 10, 10), 50)]


def shape_rest(log: dict[str, Any], document: dict[str, Any], event: LogEvent) -> dict[str, Any]:
    """Add what not every event has, by Datadog's standard attributes, where there are any."""
    if "outcome" in document:
        log["evt"]["outcome"] = document["outcome"]
    logger = {"name": document.get("namespace")}
    source = document.get("source")
    if source is not None:
        logger.update(file=source.get("path"), line=source.get("line"), method_name=source.get("func"))
    origin = document.get("origin")
    if origin is not None:
        logger["thread_name"] = origin.get("thread_name")
        log["origin"] = origin
    logger = {name: value for name, value in logger.items() if value is not None}
    if logger:
        log["logger"] = logger
    exception = document.get("exception")
    if exception is not None:
        log["error"] = {
            "kind": exception.get("type"),
            "message": exception.get("message"),
            "stack": exception.get("text"),
        }
    for name in ("entity_id", "stack", "payload"):
        if name in document:
            log[name] = document[name]
    if event.level not in _STATUSES:
        log["level_name"] = document["level"]
        log["level_no"] = int(event.level)
    payload = document.get("payload") or {}
    for name in ("trace_id", "span_id"):
        if isinstance(payload.get(name), str):
            log[name] = payload[name]  # where it looks for what connects logs with traces
    return log
