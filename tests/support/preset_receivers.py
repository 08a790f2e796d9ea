"""What the log products that have no server here take and refuse, by their published protocols: for `http_receiver`.

They are stricter than the real ones: whatever is not in the protocol is refused, too.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any
from uuid import UUID

from http_receiver import Answer, Protocol, Refused, Request

LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def loads(data: bytes | str) -> Any:
    """JSON, as strict readers take it: no NaN, no key twice."""

    def make(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key is there twice")
        return found

    def refuse(text: str) -> Any:
        raise ValueError(f"{text} is not JSON")

    return json.loads(data, object_pairs_hook=make, parse_constant=refuse)


def expect(condition: object, status: int, body: Any) -> None:
    if not condition:
        raise Refused(status, body)


class LokiPush(Protocol):
    """``POST /loki/api/v1/push`` of Loki 3, with JSON.

    Attributes:
        tenant: What ``X-Scope-OrgID`` has to be.
        oldest: Entries that are older (nanoseconds) are ignored, and reported with a 400.
    """

    tenant: str | None = None
    oldest = 0
    max_line = 256 * 1024

    def recover(self) -> None:
        self.seen = {(tuple(sorted(r["stream"].items())), r["time"], r["line"]) for r in self.records}

    def handle(self, request: Request) -> Answer:
        self.check_authorization(request)
        expect(request.path == "/loki/api/v1/push", 404, "404 page not found")
        expect(request.method == "POST", 405, "")
        expect(request.headers.get("content-type") == "application/json", 400, "protobuf cannot be read")
        expect(request.headers.get("content-encoding") in (None, "gzip"), 400, "unsupported encoding")
        expect(self.tenant is None or request.headers.get("x-scope-orgid") == self.tenant, 401, "no org id")
        body = loads(request.body)
        expect(set(body) == {"streams"} and body["streams"], 422, "no streams")
        ignored = []
        taken = []
        for stream in body["streams"]:
            expect(set(stream) == {"stream", "values"}, 400, "malformed stream")
            labels = stream["stream"]
            expect(labels, 400, "error at least one label pair is required per stream")
            expect(len(labels) <= 15, 400, "max label names per series")
            for name, value in labels.items():
                expect(LABEL.fullmatch(name) and not name.startswith("__"), 400, f"invalid label {name}")
                expect(type(value) is str and value and len(value.encode()) <= 2048, 400, "label value")
            for entry in stream["values"]:
                expect(len(entry) in (2, 3), 400, "malformed entry")
                time, line = entry[:2]
                metadata = entry[2] if len(entry) == 3 else {}
                expect(type(time) is str and re.fullmatch(r"-?\d{1,19}", time), 400, "timestamp")
                expect(type(line) is str, 400, "line")
                expect(type(metadata) is dict and all(type(x) is str for x in metadata.values()), 400, "metadata")
                expect(all(LABEL.fullmatch(name) for name in metadata), 400, "metadata")
                if len(line.encode()) > self.max_line:
                    ignored.append(f"Max entry size '{self.max_line}' bytes exceeded for stream")
                elif int(time) < self.oldest:
                    ignored.append(f"entry with timestamp {time} ignored, reason: 'entry too far behind'")
                else:
                    taken.append((labels, time, line, metadata))
        self.take(self._deduplicate(taken))
        expect(not ignored, 400, f"{ignored[:1]}, total ignored: {len(ignored)}")
        return Answer(204)

    def _deduplicate(self, entries: list[Any]) -> Any:
        for labels, time, line, metadata in entries:
            key = (tuple(sorted(labels.items())), time, line)
            if key in self.seen:  # the same time and the same line: the same entry
                continue
            self.seen.add(key)
            if line.startswith("{"):
                document = loads(line)
                delivery_id, name = document["delivery_id"], document["event"]
            else:
                delivery_id = line.rpartition(" delivery_id=")[2]
                name = line.partition(" event=")[2].partition(" ")[0]
            yield {
                "id": delivery_id, "name": name, "stream": labels, "time": time, "line": line, "metadata": metadata,
            }  # fmt: skip


class SplunkHec(Protocol):
    """``/services/collector/event`` and ``/services/collector/ack``.

    Attributes:
        token: What the collector is to be spoken to with.
        indexes: Those that the token may write to.
        acknowledges: The token has indexer acknowledgement.
        patience: How often an acknowledgement is asked for in vain.
        busy: Answer as if the queues were full.
    """

    token = "0aa0-token"
    indexes = ("main", "shop")
    acknowledges = False
    patience = 0
    busy = False

    def recover(self) -> None:
        self.acks: dict[str, list[int]] = {}

    def handle(self, request: Request) -> Answer:
        authorization = request.headers.get("authorization")
        expect(authorization, 401, {"text": "Token is required", "code": 2})
        assert authorization is not None
        expect(authorization.startswith("Splunk "), 401, {"text": "Invalid authorization", "code": 3})
        expect(authorization == f"Splunk {self.token}", 403, {"text": "Invalid token", "code": 4})
        if request.path == "/services/collector/ack":
            return self._acknowledge(request)
        found = "/services/collector", "/services/collector/event"
        expect(request.path in found, 404, {"text": "The requested URL was not found on this server.", "code": 404})
        expect(request.headers.get("content-encoding") in (None, "gzip"), 415, "")
        expect(not self.busy, 503, {"text": "Server is busy", "code": 9})
        channel = request.headers.get("x-splunk-request-channel")
        if self.acknowledges:
            expect(channel, 400, {"text": "Data channel is missing", "code": 10})
            assert channel is not None
            expect(str(UUID(channel)) == channel, 400, {"text": "Invalid data channel", "code": 11})
        self._read(request.body.decode())
        answer: dict[str, Any] = {"text": "Success", "code": 0}
        if channel is not None and self.acknowledges:
            pending = self.acks.setdefault(channel, [])
            pending.append(self.patience)
            answer["ackId"] = len(pending) - 1
        return Answer(200, answer)

    def _read(self, text: str) -> None:
        expect(text.strip(), 400, {"text": "No data", "code": 5})
        decoder = json.JSONDecoder()
        number = position = 0
        while position < len(text):
            try:
                found, position = decoder.raw_decode(text, position)
                known = {"time", "host", "source", "sourcetype", "index", "event", "fields"}
                if not isinstance(found, dict) or not set(found) <= known:
                    raise ValueError("unknown keys")
            except ValueError:
                self._refuse(6, "Invalid data format", number)
            if "event" not in found:
                self._refuse(12, "Event field is required", number)
            if found["event"] in ("", {}, None):
                self._refuse(13, "Event field cannot be blank", number)
            if type(found.get("time", 0.0)) not in (int, float):
                self._refuse(6, "Invalid data format", number)
            if found.get("index", "main") not in self.indexes:
                self._refuse(7, "Incorrect index", number)
            fields = found.get("fields", {})
            if not all(type(value) in (str, int, float) for value in fields.values()):
                self._refuse(15, "Error in handling indexed fields", number)
            event = found["event"]
            self.take(
                [{"id": fields["delivery_id"], "name": event["event"], "time": found.get("time"), "event": found}]
            )
            number += 1
            while position < len(text) and text[position] in " \r\n\t":
                position += 1

    def _refuse(self, code: int, text: str, number: int) -> None:
        raise Refused(400, {"text": text, "code": code, "invalid-event-number": number})

    def _acknowledge(self, request: Request) -> Answer:
        expect(self.acknowledges, 400, {"text": "ACK is disabled", "code": 14})
        channel = request.query.get("channel", "")
        expect(channel, 400, {"text": "Data channel is missing", "code": 10})
        acks = {}
        for number in loads(request.body)["acks"]:
            pending = self.acks.get(channel, [])
            known = number < len(pending)
            acks[str(number)] = known and pending[number] <= 0
            if known:
                pending[number] -= 1
        return Answer(200, {"acks": acks})


class DatadogIntake(Protocol):
    """``POST /api/v2/logs``."""

    key = "dd-key"
    max_body = 5_000_000

    def handle(self, request: Request) -> Answer:
        errors = {"errors": [{"status": "403", "title": "Forbidden", "detail": "API key is invalid"}]}
        expect(request.headers.get("dd-api-key"), 401, errors)
        expect(request.headers["dd-api-key"] == self.key, 403, errors)
        expect(request.path == "/api/v2/logs" and request.method == "POST", 404, "")
        expect(request.headers.get("content-type") == "application/json", 415, "")
        expect(request.headers.get("content-encoding") in (None, "gzip"), 415, "")
        expect(len(request.body) <= self.max_body, 413, {"errors": [{"title": "Payload too large"}]})
        logs = loads(request.body)
        expect(isinstance(logs, list) and logs, 400, {"errors": [{"title": "not an array"}]})
        expect(len(logs) <= 1_000, 413, {"errors": [{"title": "too many"}]})
        for log in logs:
            for name in ("ddsource", "ddtags", "hostname", "service", "message", "status"):
                expect(type(log.get(name)) is str, 400, {"errors": [{"title": f"{name} is no text"}]})
            expect(type(log["timestamp"]) is int, 400, {"errors": [{"title": "timestamp"}]})
        self.take({"id": log["delivery_id"], "name": log["evt"]["name"], "log": log} for log in logs)
        return Answer(202, {})


class SeqIngest(Protocol):
    """``POST /ingest/clef``."""

    key: str | None = None
    max_event = 256 * 1024
    levels = ("Verbose", "Debug", "Information", "Warning", "Error", "Fatal")
    reified = frozenset(["@t", "@m", "@mt", "@l", "@x", "@i", "@r", "@tr", "@sp", "@ps", "@st", "@sc", "@ra", "@sk"])

    def handle(self, request: Request) -> Answer:
        expect(self.key is None or request.headers.get("x-seq-apikey") == self.key, 401, {"Error": "API key"})
        expect(request.path == "/ingest/clef" and request.method == "POST", 404, "")
        kind = request.headers.get("content-type")
        expect(kind == "application/vnd.serilog.clef", 400, {"Error": f"what is {kind}?"})
        lines = request.body.decode().split("\n")
        expect(lines.pop() == "" and lines, 400, {"Error": "the last line does not end"})
        events = []
        for line in lines:
            expect(len(line.encode()) <= self.max_event, 413, {"Error": "The event is too large"})
            event = loads(line)
            expect("@t" in event, 400, {"Error": "The @t property is required."})
            datetime.fromisoformat(event["@t"])
            for name in event:
                known = name in self.reified or not name.startswith("@") or name.startswith("@@")
                expect(known, 400, {"Error": f"{name} is not known"})
            for name in ("@m", "@x", "@l"):
                expect(type(event.get(name, "")) is str, 400, {"Error": f"{name} is no text"})
            expect(event["@l"] in self.levels, 400, {"Error": "level"})
            expect(re.fullmatch("[0-9a-f]{8}", event["@i"]), 400, {"Error": "@i"})
            events.append(event)
        self.take({"id": event["DeliveryId"], "name": event["Event"], "event": event} for event in events)
        return Answer(201, {"MinimumLevelAccepted": None})


class VictoriaInsert(Protocol):
    """``POST /insert/jsonline``: what it cannot use, it drops, and still answers 200."""

    max_line = 256 * 1024
    tenant: tuple[str, str] = ("0", "0")

    def recover(self) -> None:
        self.ignored = 0

    def handle(self, request: Request) -> Answer:
        self.check_authorization(request)
        expect(request.path == "/insert/jsonline" and request.method == "POST", 400, "unsupported path")
        tenant = request.headers.get("accountid", "0"), request.headers.get("projectid", "0")
        expect(tenant == tuple(self.tenant), 400, f"no such tenant: {tenant}")
        self.query = request.query
        time_field, message_field = request.query["_time_field"], request.query["_msg_field"]
        for line in request.body.split(b"\n"):
            if not line:
                continue
            try:
                found = loads(line)
                datetime.fromisoformat(found[time_field])
            except (ValueError, KeyError, TypeError):
                self.ignored += 1
                continue
            if len(line) > self.max_line or not found.get(message_field):
                self.ignored += 1
                continue
            stream = {name: found[name] for name in request.query["_stream_fields"].split(",") if name in found}
            self.take([{"id": found["delivery_id"], "name": found["event"], "line": found, "stream": stream}])
        return Answer(200)


class OtlpCollector(Protocol):
    """``POST /v1/logs``, read by ``opentelemetry-proto``.

    Attributes:
        reject: Records with these event names are rejected, and reported as a partial success.
        kind: The kind of the last request's body.
    """

    reject: tuple[str, ...] = ()
    kind = ""

    def recover(self) -> None:
        from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

        self.service = logs_service_pb2
        self.seen = {record["id"] for record in self.records}
        self.requests: list[Any] = []

    def handle(self, request: Request) -> Answer:
        self.check_authorization(request)
        expect(request.path == "/v1/logs", 404, "404 page not found")
        expect(request.method == "POST", 405, "405 method not allowed, supported: [POST]")
        self.kind = request.headers.get("content-type", "")
        expect(self.kind in ("application/x-protobuf", "application/json"), 415, "415 unsupported media type")
        is_json = self.kind == "application/json"
        if is_json:
            message = parse_otlp_json(request.body, self.service.ExportLogsServiceRequest())
        else:
            message = self.service.ExportLogsServiceRequest.FromString(request.body)
        self.requests.append(message)
        rejected = 0
        taken = []
        for resource_logs in message.resource_logs:
            check_keys(resource_logs.resource.attributes)
            for scope_logs in resource_logs.scope_logs:
                for record in scope_logs.log_records:
                    check_record(record)
                    if record.event_name in self.reject:
                        rejected += 1
                        continue
                    uid = read_attributes(record.attributes)["log.record.uid"]
                    if uid not in self.seen:  # by the conventions, it is the same record
                        self.seen.add(uid)
                        taken.append({"id": uid, "name": record.event_name, "scope": scope_logs.scope.name})
        self.take(taken)
        response = self.service.ExportLogsServiceResponse()
        if rejected:
            response.partial_success.rejected_log_records = rejected
            response.partial_success.error_message = "not here"
        if is_json:
            partial = {"rejectedLogRecords": str(rejected), "errorMessage": "not here"}
            return Answer(200, {"partialSuccess": partial} if rejected else {})
        return Answer(200, response.SerializeToString(), {"Content-Type": "application/x-protobuf"})


def parse_otlp_json(body: bytes, message: Any) -> Any:
    """Read OTLP's JSON: ids are hexadecimal, enums are numbers, names are in camel case and known."""
    from google.protobuf import json_format

    document = loads(body)
    for resource_logs in document["resourceLogs"]:
        for scope_logs in resource_logs["scopeLogs"]:
            for record in scope_logs["logRecords"]:
                expect(type(record["severityNumber"]) is int, 400, "an enum is a number")
                expect(type(record["timeUnixNano"]) is str, 400, "64-bit ints are text")
                for name, length in (("traceId", 32), ("spanId", 16)):
                    if name in record:
                        expect(re.fullmatch(f"[0-9a-f]{{{length}}}", record[name]), 400, f"{name} is not hexadecimal")
                        # In the JSON of protobuf, bytes are in base64.
                        import base64

                        record[name] = base64.b64encode(bytes.fromhex(record[name])).decode()
    return json_format.ParseDict(document, message)


def check_keys(attributes: Any) -> None:
    keys = [attribute.key for attribute in attributes]
    expect(len(set(keys)) == len(keys) and all(keys), 400, f"keys are not unique, or empty: {keys}")


def check_record(record: Any) -> None:
    expect(len(record.trace_id) in (0, 16) and len(record.span_id) in (0, 8), 400, "ids")
    expect(not record.span_id or record.trace_id, 400, "a span without a trace")
    expect(0 <= record.severity_number <= 24, 400, "severity")
    expect(record.observed_time_unix_nano > 0, 400, "observed time")
    expect(not record.event_name or record.HasField("body"), 400, "body")
    check_keys(record.attributes)


def read_value(value: Any) -> Any:
    """An ``AnyValue`` as what Python has for it."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [read_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return read_attributes(value.kvlist_value.values)
    return getattr(value, kind)


def read_attributes(attributes: Any) -> dict[str, Any]:
    return {attribute.key: read_value(attribute.value) for attribute in attributes}


class Counting(Protocol):
    """Counts events and looks at nothing: for benchmarks.

    Attributes:
        mark: What is in the body once for each event.
        status: What to answer.
    """

    mark = ""
    status = 200

    def handle(self, request: Request) -> Answer:
        self.take([{"count": request.body.count(self.mark.encode())}])
        return Answer(self.status)
