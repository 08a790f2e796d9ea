"""The bulk interface of Elasticsearch, as far as it is published: strict about requests, names, ids, and mappings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from http_receiver import Answer, Protocol, Refused, Request

_FORBIDDEN_IN_NAMES = set('\\/*?"<>|\t\n\r ,#:')
_ACTIONS = {"create", "index"}
_METADATA = {
    "_index", "_id", "routing", "version", "version_type", "if_seq_no", "if_primary_term", "require_alias", "pipeline",
    "dynamic_templates", "require_data_stream", "list_executed_pipelines",
}  # fmt: skip
_PARAMETERS = {
    "filter_path", "pipeline", "refresh", "timeout", "routing", "wait_for_active_shards", "require_alias", "pretty",
    "error_trace", "_source",
}  # fmt: skip
_DATA_STREAM = re.compile(r"logs-[^-]+-[^-]+")
_LONG = range(-(2**63), 2**63)


def error(status: int, kind: str, reason: str) -> dict[str, Any]:
    return {
        "error": {"root_cause": [{"type": kind, "reason": reason}], "type": kind, "reason": reason},
        "status": status,
    }


class ItemError(Exception):
    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.found = {"status": status, "error": {"type": kind, "reason": reason, "index_uuid": "x", "shard": "0"}}


class Bulk(Protocol):
    """Documents by index and id, with a mapping for each index that grows as they come.

    Attributes:
        flattened: Fields whose content is not mapped.
        rejected: How many of the next documents are rejected because the node is busy.
        blocked: Indices that are read-only, with the status and the type of the error.
        max_fields: How many fields a mapping may have.
    """

    flattened: tuple[str, ...] = ()
    rejected = 0
    max_fields = 1_000

    def recover(self) -> None:
        self.blocked: dict[str, tuple[int, str]] = {}
        self.documents: dict[tuple[str, str], dict[str, Any]] = {}
        self.mappings: dict[str, dict[str, str]] = {}
        for record in self.records:
            self.documents[record["index"], record["id"]] = record["document"]
            self._map(record["index"], record["document"])

    def handle(self, request: Request) -> Answer:
        if self.authorization is not None and request.headers.get("authorization") != self.authorization:
            reason = "missing authentication credentials for REST request [/_bulk]"
            raise Refused(401, error(401, "security_exception", reason), {"WWW-Authenticate": "ApiKey"})
        if request.path != "/_bulk" or request.method not in ("POST", "PUT"):
            raise Refused(405, error(405, "method_not_allowed", f"no handler for {request.method} {request.path}"))
        kind = request.headers.get("content-type", "").partition(";")[0]
        if kind not in ("application/json", "application/x-ndjson"):
            raise Refused(406, error(406, "media_type_header_exception", f"[{kind}] is not supported"))
        unknown = set(request.query) - _PARAMETERS
        if unknown:
            reason = f"request [/_bulk] contains unrecognized parameters: {unknown}"
            raise Refused(400, error(400, "illegal_argument_exception", reason))
        if request.headers.get("content-encoding", "gzip") != "gzip":
            raise Refused(400, error(400, "parse_exception", "compressor not detected"))
        if not request.body.endswith(b"\n"):
            reason = "The bulk request must be terminated by a newline [\\n]"
            raise Refused(400, error(400, "illegal_argument_exception", reason))
        lines = request.body[:-1].split(b"\n")
        items = []
        taken = []
        for number in range(0, len(lines), 2):
            action, metadata = self._parse_action(lines[number], number + 1)
            if number + 1 == len(lines):
                raise Refused(400, error(400, "illegal_argument_exception", "no source follows the last action"))
            item: dict[str, Any] = {"_index": metadata["_index"], "_id": metadata.get("_id")}
            try:
                document = self._index(action, metadata, lines[number + 1])
                item |= {"_version": 1, "result": "created", "status": 201, "_seq_no": 1, "_primary_term": 1}
                about = document["event"]
                taken.append(
                    {
                        "id": metadata["_id"],
                        "name": about["action"],
                        "index": metadata["_index"],
                        "document": document,
                    }
                )
            except ItemError as err:
                item |= err.found
            items.append({action: item})
        self.take(taken)
        answer: dict[str, Any] = {
            "took": 3,
            "ingest_took": 0,
            "errors": any("error" in item for entry in items for item in entry.values()),
            "items": items,
        }
        return Answer(200, _filter(answer, request.query.get("filter_path")))

    def _parse_action(self, line: bytes, number: int) -> tuple[str, dict[str, Any]]:
        try:
            found = json.loads(line)
        except ValueError as err:
            raise Refused(400, error(400, "x_content_parse_exception", f"[{number}] {err}")) from err
        if not isinstance(found, dict) or len(found) != 1:
            reason = f"Malformed action/metadata line [{number}], expected one action"
            raise Refused(400, error(400, "illegal_argument_exception", reason))
        ((action, metadata),) = found.items()
        if action not in _ACTIONS or not isinstance(metadata, dict) or "_index" not in metadata:
            reason = f"Malformed action/metadata line [{number}], found [{action}]"
            raise Refused(400, error(400, "illegal_argument_exception", reason))
        if set(metadata) - _METADATA:
            reason = f"Action/metadata line [{number}] contains an unknown parameter {set(metadata) - _METADATA}"
            raise Refused(400, error(400, "illegal_argument_exception", reason))
        return action, metadata

    def _index(self, action: str, metadata: Mapping[str, Any], line: bytes) -> dict[str, Any]:
        index, key = metadata["_index"], metadata["_id"]
        _check_name(index)
        if len(key.encode()) > 512:
            raise ItemError(400, "illegal_argument_exception", "id is too long, must be no longer than 512 bytes")
        if index in self.blocked:
            status, kind = self.blocked[index]
            raise ItemError(
                status, kind, f"index [{index}] blocked by: [FORBIDDEN/12/index read-only / allow delete (api)]"
            )
        if self.rejected:
            self.rejected -= 1
            raise ItemError(429, "es_rejected_execution_exception", "rejected execution of coordinating operation")
        if _DATA_STREAM.fullmatch(index) and action != "create":
            raise ItemError(400, "illegal_argument_exception", "only write ops with an op_type of create are allowed")
        try:
            document = json.loads(line, object_pairs_hook=_no_duplicates)
        except ValueError as err:
            raise ItemError(400, "document_parsing_exception", f"failed to parse: {err}") from err
        if not isinstance(document, dict):
            raise ItemError(400, "document_parsing_exception", "the document is no object")
        if "@timestamp" not in document:
            raise ItemError(400, "document_parsing_exception", "data stream timestamp field [@timestamp] is missing")
        mapping = dict(self.mappings.get(index, {"@timestamp": "date"}))
        self._walk("", document, mapping)
        if (index, key) in self.documents:
            reason = f"[{key}]: version conflict, document already exists (current version [1])"
            raise ItemError(409, "version_conflict_engine_exception", reason)
        self.mappings[index] = mapping
        self.documents[index, key] = document
        return document

    def _map(self, index: str, document: Mapping[str, Any]) -> None:
        self._walk("", document, self.mappings.setdefault(index, {"@timestamp": "date"}))

    def _walk(self, path: str, value: Any, mapping: dict[str, str]) -> None:
        if path in self.flattened or value is None:
            return
        if isinstance(value, list):
            for item in value:
                self._walk(path, item, mapping)
            return
        kind = mapping.get(path)
        found = _kind_of(path, value)
        if found == "object":
            if kind not in (None, "object"):
                raise ItemError(
                    400, "document_parsing_exception", f"object mapping for [{path}] tried to parse field as object"
                )
            if path:
                mapping[path] = "object"
            if path.count(".") >= 20:
                raise ItemError(400, "illegal_argument_exception", "Limit of mapping depth [20] has been exceeded")
            for name, item in value.items():
                if not name.strip() or any(not part.strip() for part in name.split(".")):
                    raise ItemError(400, "document_parsing_exception", f"field name [{name}] is empty in a part")
                parts = name.split(".")
                for end in range(1, len(parts)):
                    self._walk(".".join(filter(None, [path, *parts[:end]])), {}, mapping)
                self._walk(f"{path}.{name}" if path else name, item, mapping)
            return
        if kind is None:
            mapping[path] = found
            if len(mapping) > self.max_fields:
                raise ItemError(
                    400, "illegal_argument_exception", f"Limit of total fields [{self.max_fields}] exceeded"
                )
        elif not _fits(kind, value):
            reason = f"failed to parse field [{path}] of type [{kind}] in document"
            raise ItemError(400, "document_parsing_exception", reason)


def _kind_of(path: str, value: Any) -> str:
    if isinstance(value, dict):
        return "object"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        if value not in _LONG:
            raise ItemError(400, "document_parsing_exception", f"[{path}]: value out of range for a long")
        return "long"
    if isinstance(value, float):
        return "float"
    return "text"


def _fits(kind: str, value: Any) -> bool:
    if isinstance(value, dict):
        return False
    if kind == "text":
        return True
    if kind == "boolean":
        return isinstance(value, bool) or value in ("true", "false", "")
    if kind == "date":
        if isinstance(value, str):
            datetime.fromisoformat(value)
        return not isinstance(value, bool)
    try:
        number = float(value)
    except ValueError:
        return False
    return not isinstance(value, bool) and (kind != "long" or int(number) in _LONG)


def _check_name(name: str) -> None:
    if (
        not name
        or name != name.lower()
        or set(name) & _FORBIDDEN_IN_NAMES
        or name[0] in "-_+"
        or name in (".", "..")
        or len(name.encode()) > 255
    ):
        raise ItemError(400, "invalid_index_name_exception", f"Invalid index name [{name}]")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("Duplicate field")
    return found


def _filter(answer: dict[str, Any], path: str | None) -> dict[str, Any]:
    """``filter_path`` for the paths that make sense here. An item of which nothing is left is not there any more."""
    if path is None:
        return answer
    paths = [part.split(".") for part in path.split(",")]
    found: dict[str, Any] = {}
    for part in paths:
        if len(part) == 1 and part[0] in answer:
            found[part[0]] = answer[part[0]]
    names = {part[2] for part in paths if part[:2] == ["items", "*"] and len(part) > 2}
    if names:
        items = [
            {action: {name: value for name, value in item.items() if name in names} for action, item in entry.items()}
            for entry in answer["items"]
        ]
        found["items"] = [entry for entry in items if all(entry.values())]
    return found


class CountingBulk(Protocol):
    """Counts documents without a look at them; for measurements."""

    def handle(self, request: Request) -> Answer:
        count = request.body.count(b'{"create":')
        self.take([{"count": count}])
        items = b",".join([b'{"create":{"status":201}}'] * count)
        return Answer(200, b'{"errors":false,"items":[%s]}' % items, {"Content-Type": "application/json"})
