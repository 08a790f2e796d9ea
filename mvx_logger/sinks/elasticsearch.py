"""`ElasticsearchLogSink`: events into Elasticsearch or OpenSearch by their bulk interface.

A document has the fields of the Elastic Common Schema (ECS), none of them empty:

==============================================  =======================================================================
``@timestamp``                                  The event's time, RFC 3339 in UTC with microseconds.
``message``                                     The message; the event's name where it has none.
``event.action``, ``.outcome``                  The event's name and outcome.
``event.id``                                    The delivery id, which is the document's ``_id`` too.
``event.severity``, ``log.level``               The level as a number, and its name in lower case.
``log.logger``                                  The namespace.
``log.origin.file.name``, ``.line``,            Where it was logged.
``log.origin.function``
``error.type``, ``.message``, ``.stack_trace``  The exception.
``process.pid``, ``.name``,                     As in the origin.
``process.thread.id``, ``.name``
``host.name``                                   The name of this host.
``labels.entity_id``                            The entity.
``payload``                                     The payload, an object.
``mvx_logger``                                  What has no field there, as JSON text, where there is such: ``stack``,
                                                ``stacks`` of the exception, and the rest of the origin.
==============================================  =======================================================================
"""

from __future__ import annotations

import re
import socket
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec

from ..delivery.sink import LogEventBatch
from ..errors import LogConfigurationError, LogDeliveryPartialError, LogDeliveryTransientError
from ..formats.document import encode_documents
from ..formats.json import encode_value
from ..formats.template import EventTemplate
from ..model import LogEvent, LogEventMeta
from .http import BaseHttpLogSink, add_path

__all__ = ["ElasticsearchLogSink"]

_FORBIDDEN = re.compile(r"[\\/*?\"<>|\s,#:\x00-\x1f\x7f]")
_MAX_INDEX_BYTES = 255
_HAS_IT = 409
"""A document with this id is there: the batch has come before."""
_RETRIED = frozenset({401, 403, 404, 408, 429})
"""Of a single document: an index that is read-only (the disk is full), missing or forbidden, or nodes that are busy."""
_MAX_REASON = 200
_EXAMPLE = LogEvent(20, LogEventMeta("namespace", "event", "entity"), "success", 0.0, {})


class _Reason(msgspec.Struct):
    type: str = ""
    reason: str | None = ""
    caused_by: Any = None


class _Item(msgspec.Struct):
    status: int
    error: _Reason | str | None = None


class _Answer(msgspec.Struct):
    errors: bool
    items: list[dict[str, _Item]]


class ElasticsearchLogSink(BaseHttpLogSink):
    """Indexes events in Elasticsearch (7 and newer) or OpenSearch. As a URL: ``elasticsearch://host:9200/index``,
    ``elasticsearchs://`` with TLS; ``opensearch://`` and ``opensearchs://`` mean the same.

    Documents are created under their delivery id: one that is there already is not created again, so an event is in an
    index once, whatever happens. A data stream takes them, too; there, the id is unique in a backing index, and a
    rollover between two attempts lets an event in twice.

    What becomes of a document is told for each: a mapping that does not fit, say, refuses that one event and no other.

    Args:
        url: Where the cluster is; with a path where it is behind one.
        index: The index, alias or data stream: an `EventTemplate`. The text of fields is made fit for a name.
        pipeline: The ingest pipeline; None leaves it to the index.
        api_key: An API key as the cluster encodes it, or ``id:key``; instead of ``username`` and ``password``.
        compression: Of what is sent: ``none`` or ``gzip``.
        **http_options: The options of `BaseHttpLogSink` and `AsyncioLogSink`.

    Raises:
        LogConfigurationError: An option is wrong.
        TypeError: An argument has the wrong type.
    """

    sink_type: ClassVar[str] = "elasticsearch"
    url_schemes: ClassVar[tuple[str, ...]] = ("elasticsearch", "elasticsearchs", "opensearch", "opensearchs")
    url_parts: ClassVar[Mapping[str, str]] = {**BaseHttpLogSink.url_parts, "path": "index"}
    resource_options: ClassVar[tuple[str, ...]] = ("url", "index")
    secret_options: ClassVar[tuple[str, ...]] = (*BaseHttpLogSink.secret_options, "api_key")
    content_type: ClassVar[str] = "application/x-ndjson"
    response_limit: ClassVar[int] = 16 << 20

    def __init__(
        self,
        *,
        url: str = "http://localhost:9200",
        index: str = "logs-{time:%Y.%m.%d}",
        pipeline: str | None = None,
        api_key: str | None = None,
        compression: Literal["none", "gzip"] = "none",
        **http_options: Any,
    ) -> None:
        self._index = EventTemplate(index, clean=_clean, option="index")
        name = self._index.format(_EXAMPLE)
        if not name or name[0] in "-_+." or _FORBIDDEN.search(name) or name != name.lower():
            raise _wrong("index", 'expected a name in small letters without spaces and any of \\/*?"<>|,#: in it')
        if pipeline is not None and (not isinstance(pipeline, str) or not pipeline):
            raise _wrong("pipeline", "expected the name of a pipeline")
        if compression not in ("none", "gzip"):
            raise _wrong("compression", f"{compression!r} is not one of none, gzip")
        self._pipeline = pipeline
        self._host = socket.gethostname()
        self._api_key = None if api_key is None else _encode_api_key(api_key)
        if api_key is not None and any(http_options.get(name) for name in ("username", "password", "bearer_token")):
            raise _wrong("api_key", "the sink authenticates by this or by a password or token, not both")
        super().__init__(url=url, compression=compression, **http_options)

    def _make_url(self) -> str:
        query = {"filter_path": "errors,items.*.status,items.*.error"}
        if self._pipeline is not None:
            query["pipeline"] = self._pipeline
        return add_path(self._url, "/_bulk", **query)

    def _make_headers(self) -> dict[str, str]:
        headers = super()._make_headers()
        if self._api_key is not None:
            headers["Authorization"] = f"ApiKey {self._api_key}"
        return headers

    def _encode_batch(self, events: LogEventBatch) -> bytes:
        lines: list[bytes] = []
        ids = events.delivery_ids
        for event, delivery_id, document in zip(events, ids, encode_documents(self._shape, events, ids), strict=True):
            index = encode_value(self._index.format(event).lstrip("-_+.")[:_MAX_INDEX_BYTES] or "unnamed")
            lines += (b'{"create":{"_index":%s,"_id":"%s"}}' % (index, delivery_id.encode()), document)
        lines.append(b"")
        return b"\n".join(lines)

    def _shape(self, line: dict[str, Any], event: LogEvent, delivery_id: str) -> dict[str, Any]:
        """A document by ECS of one by `mvx_logger.formats.json`."""
        timestamp = line["timestamp"]
        log: dict[str, Any] = {"level": line["level"].lower()}
        about: dict[str, Any] = {"action": line["event"], "id": delivery_id, "severity": event.level}
        document: dict[str, Any] = {
            # Beyond the years 1 to 9999 it is a number; there, it is one of milliseconds.
            "@timestamp": timestamp if isinstance(timestamp, str) else round(timestamp * 1000),
            "log": log,
            "message": line.get("message", line["event"]),
            "event": about,
            "host": {"name": self._host},
        }
        if "namespace" in line:
            log["logger"] = line["namespace"]
        if "outcome" in line:
            about["outcome"] = line["outcome"]
        if "entity_id" in line:
            document["labels"] = {"entity_id": line["entity_id"]}
        if "payload" in line:
            document["payload"] = line["payload"]
        source = line.get("source")
        if source is not None:
            file = {"name": source.get("path"), "line": source.get("line")}
            origin = {"file": _without_empty(file), "function": source.get("func")}
            log["origin"] = _without_empty(origin)
        if "exception" in line or "stack" in line or "origin" in line:
            _add_rest(document, line)
        return document

    def _read_response(self, status: int, headers: Mapping[str, str], body: bytes, events: LogEventBatch) -> None:
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError) as err:
            raise LogDeliveryTransientError("the answer is not one of the bulk interface", cause=err) from err
        items = [item for entry in answer.items for item in entry.values()]
        if len(items) != len(events):
            raise LogDeliveryTransientError(f"the answer tells of {len(items)} documents, {len(events)} were sent")
        if not answer.errors:
            return
        refused: dict[int, str] = {}
        retry: list[int] = []
        text = ""
        for number, item in enumerate(items):
            if 200 <= item.status < 300 or item.status == _HAS_IT:
                continue
            text = _describe(item)
            if item.status >= 500 or item.status in _RETRIED:
                retry.append(number)
            else:
                refused[number] = text
        if refused or retry:
            raise LogDeliveryPartialError(text, refused=refused, retry=retry)


def _add_rest(document: dict[str, Any], line: Mapping[str, Any]) -> None:
    rest: dict[str, Any] = {}
    exception = line.get("exception")
    if exception is not None:
        document["error"] = {
            "type": exception["type"],
            "message": exception["message"],
            "stack_trace": exception["text"],
        }
        if exception.get("stacks"):
            rest["stacks"] = exception["stacks"]
    if "stack" in line:
        rest["stack"] = line["stack"]
    if "origin" in line:
        # As JSON text: arguments of several types in one array, or in one place of two events, fit into no mapping.
        origin = dict(line["origin"])
        thread = {"id": origin.pop("thread_id", None), "name": origin.pop("thread_name", None)}
        process = {
            "pid": origin.pop("process_id", None),
            "name": origin.pop("process_name", None),
            "thread": _without_empty(thread),
        }
        process = _without_empty(process)
        if process:
            document["process"] = process
        rest["origin"] = origin
    if rest:
        document["mvx_logger"] = encode_value(rest).decode()


def _without_empty(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None and value != {}}


def _describe(item: _Item) -> str:
    error = item.error
    if isinstance(error, _Reason):
        text = f"{error.type}: {error.reason}"
        cause = error.caused_by
        if isinstance(cause, Mapping) and cause.get("reason"):
            text += f" ({cause['reason']})"
    else:
        text = error or ""
    text = " ".join(text.split())
    return f"{item.status} {text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + '...'}".strip()


def _clean(text: str) -> str:
    # What is not ASCII has several bytes, of which a name may not have too many.
    return _FORBIDDEN.sub("_", text.lower()).encode("ascii", "replace").decode().replace("?", "_")


def _encode_api_key(api_key: str) -> str:
    if not isinstance(api_key, str):
        raise TypeError(f"api_key: expected a str, got {type(api_key).__name__}")
    if not api_key.isascii() or not api_key.isprintable() or not api_key.strip() or " " in api_key:
        raise _wrong("api_key", "expected what the cluster has given, or id:key")
    return b64encode(api_key.encode()).decode() if ":" in api_key else api_key


def _wrong(option: str, text: str) -> LogConfigurationError:
    return LogConfigurationError(f"{option}: {text}", details={"path": option})
