"""Events as OpenTelemetry log records, in protobuf and in JSON."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.sdk._logs import LoggerProvider, export
from opentelemetry.sdk.resources import Resource

from destinations import make_event, make_rich_events
from mvx_logger import LogEvent, LogEventMeta, LogEventOrigin
from mvx_logger.formats.otlp import _OWN, decode_partial_success, encode_json, encode_protobuf, get_severity_number
from mvx_logger.model import LogStack
from preset_receivers import check_record, parse_otlp_json, read_attributes, read_value
from repetitions import often

UID = "0196f0a0-0000-8000-8000-00000000002a"
TRACE = {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "span_id": "00f067aa0ba902b7", "trace_flags": "01"}


def decode(events: list[LogEvent], resource: dict[str, Any] | None = None, *, as_json: bool = False) -> Any:
    ids = [f"id-{number}" for number in range(len(events))]
    message = ExportLogsServiceRequest()
    if as_json:
        parse_otlp_json(encode_json(events, ids, resource or {}), message)
    else:
        message.ParseFromString(encode_protobuf(events, ids, resource or {}))
    return message


def decode_one(event: LogEvent, *, as_json: bool = False) -> Any:
    (resource_logs,) = decode([event], as_json=as_json).resource_logs
    (scope_logs,) = resource_logs.scope_logs
    (record,) = scope_logs.log_records
    check_record(record)
    return record


def log(**payload: Any) -> LogEvent:
    return LogEvent(20, LogEventMeta("shop", "order.created"), None, 1_780_000_000.5, payload)


both = pytest.mark.parametrize("as_json", [False, True], ids=["protobuf", "json"])


@both
class TestRecord:
    def test_fields(self, as_json: bool) -> None:
        """Each field of the event is where the data model has it."""
        event = LogEvent(
            40,
            LogEventMeta("shop.orders", "order.failed", "order-42", "/srv/shop.py", 17, "place"),
            "failed",
            1_780_000_000.123456,
            {"amount": 12.5, **TRACE},
            message="no such order",
            stack=LogStack("Stack (most recent call last):\n  here"),
            origin=LogEventOrigin(
                system="logging", template="no such %s", args=("order",), process_id=7, process_name="MainProcess",
                thread_id=8, thread_name="worker", task_name="Task-1",
            ),
        )  # fmt: skip
        record = decode_one(event, as_json=as_json)
        assert record.time_unix_nano == record.observed_time_unix_nano == 1_780_000_000_123_456_000
        assert (record.severity_number, record.severity_text) == (17, "ERROR")
        assert record.body.string_value == "no such order"
        assert record.event_name == "order.failed"
        assert record.trace_id.hex() == TRACE["trace_id"]
        assert record.span_id.hex() == TRACE["span_id"]
        assert record.flags == 1
        assert read_attributes(record.attributes) == {
            "log.record.uid": "id-0",
            "amount": 12.5,
            "mvx_logger.entity_id": "order-42",
            "mvx_logger.outcome": "failed",
            "code.file.path": "/srv/shop.py",
            "code.line.number": 17,
            "code.function.name": "place",
            "code.stacktrace": "Stack (most recent call last):\n  here",
            "mvx_logger.system": "logging",
            "mvx_logger.template": "no such %s",
            "mvx_logger.args": ["order"],
            "process.pid": 7,
            "mvx_logger.process_name": "MainProcess",
            "thread.id": 8,
            "thread.name": "worker",
            "mvx_logger.task_name": "Task-1",
        }

    def test_rich_events(self, as_json: bool) -> None:
        """All of the events that have everything in them."""
        for event in make_rich_events():
            record = decode_one(event, as_json=as_json)
            found = read_attributes(record.attributes)
            for key, value in event.payload.items():
                assert found[key] == value
            assert record.body.string_value == (event.message or event.meta.event_name)
            assert record.event_name == event.meta.event_name
            assert found.get("mvx_logger.entity_id") == event.meta.entity_id
            assert found.get("mvx_logger.outcome") == event.event_outcome
            assert record.time_unix_nano == round(event.timestamp * 1e6) * 1000
            if event.exception is not None:
                assert found["exception.type"] == "ValueError"
                assert found["exception.message"] == event.exception.message
                assert found["exception.stacktrace"] == event.exception.text

    def test_typed_values(self, as_json: bool) -> None:
        """Values keep their types, inside of others too."""
        payload = {
            "text": "äöü",
            "yes": True,
            "no": False,
            "int": -(2**63),
            "large": 2**63 - 1,
            "float": 0.1,
            "nothing": None,
            "bytes": b"\x00\xff",
            "list": [1, "two", [3.0, None], {"four": b"5"}],
            "tuple": (1, 2),
            "long": "x" * 40_000,
            "numbers": [0, 127, 128, 1_023, 1_024, 2**35, -1],
            "empty list": [],
            "empty dict": {},
            "nested": {"a": {"b": [True]}},
        }
        record = decode_one(log(**payload), as_json=as_json)
        found = read_attributes(record.attributes)
        assert found.pop("log.record.uid") == "id-0"
        assert found == {**payload, "tuple": [1, 2]}
        kinds = {attribute.key: attribute.value.WhichOneof("value") for attribute in record.attributes}
        assert kinds["yes"] == "bool_value"
        assert kinds["int"] == "int_value"
        assert kinds["empty list"] == "array_value"
        assert kinds["empty dict"] == "kvlist_value"
        assert kinds["nothing"] is None

    def test_strange_values(self, as_json: bool) -> None:
        """What has no type there becomes text, and nothing is lost for it."""
        deep: Any = "bottom"
        for _ in range(60):
            deep = [deep]
        cycle: dict[str, Any] = {}
        cycle["self"] = cycle
        record = decode_one(
            log(
                huge=2**64,
                set={1},
                buffer=bytearray(b"\xff"),
                object=object(),
                deep=deep,
                cycle=cycle,
                keys={1: "one", None: "none"},
                inf=math.inf,
                minus=-math.inf,
                nan=math.nan,
            ),
            as_json=as_json,
        )
        found = read_attributes(record.attributes)
        assert found["huge"] == str(2**64)
        assert found["set"] == [1]
        assert found["buffer"] == b"\xff"
        assert found["object"] == "<object>"
        assert found["keys"] == {"1": "one", "null": "none"}
        assert "bottom" in str(found["deep"])
        assert found["inf"] == math.inf
        assert found["minus"] == -math.inf
        assert math.isnan(found["nan"])

    def test_what_utf8_cannot_hold(self, as_json: bool) -> None:
        """It is escaped, wherever it is."""
        name = "bad \ud800 name"
        event = LogEvent(20, LogEventMeta(name, name, name), name, 1.0, {name: name, "list": [name]}, message=name)
        (resource_logs,) = decode([event], {name: name}, as_json=as_json).resource_logs
        clean = "bad \\ud800 name"
        assert read_attributes(resource_logs.resource.attributes) == {clean: clean}
        (scope_logs,) = resource_logs.scope_logs
        assert scope_logs.scope.name == clean
        (record,) = scope_logs.log_records
        assert record.event_name == record.body.string_value == clean
        found = read_attributes(record.attributes)
        assert found[clean] == clean
        assert found["list"] == [clean]
        assert found["log.record.uid"] == "id-0"

    def test_wrong_types(self, as_json: bool) -> None:
        """A field with a type that it must not have is put into words."""
        event = LogEvent(20, LogEventMeta("n", 5), None, 1.0, {1: 2})  # type: ignore[arg-type, dict-item]
        record = decode_one(event, as_json=as_json)
        assert record.event_name == "5"
        assert read_attributes(record.attributes)["1"] == 2

    def test_keys_that_are_taken(self, as_json: bool) -> None:
        """A payload's key that the sink uses itself gets a prefix; keys stay unique."""
        event = log(**{"log.record.uid": "mine", "payload.log.record.uid": "mine too", "code.file.path": 1})
        found = read_attributes(decode_one(event, as_json=as_json).attributes)
        assert found == {
            "log.record.uid": "id-0",
            "payload.log.record.uid": "mine too",
            "payload.payload.log.record.uid": "mine",
            "payload.code.file.path": 1,
        }

    @pytest.mark.parametrize("timestamp", [0.0, -5.0, math.nan, math.inf, 1e300])
    def test_time_that_is_unknown(self, as_json: bool, timestamp: float) -> None:
        """0 stands for it; when it was observed is known."""
        event = LogEvent(20, LogEventMeta("n", "e"), None, timestamp, {})
        record = decode_one(event, as_json=as_json)
        assert record.time_unix_nano == 0
        assert record.observed_time_unix_nano > 1_700_000_000 * 10**9

    @pytest.mark.parametrize(
        "payload",
        [
            {"trace_id": "request 7"},
            {"trace_id": "0" * 32, "span_id": TRACE["span_id"]},
            {"trace_id": 5, "span_id": 6},
            {"span_id": TRACE["span_id"]},
            {"trace_id": TRACE["trace_id"].replace("-", "") + "00"},
        ],
    )
    def test_ids_of_something_else(self, as_json: bool, payload: dict[str, Any]) -> None:
        """What is no id of a trace stays an attribute."""
        record = decode_one(log(**payload), as_json=as_json)
        assert not record.trace_id
        assert not record.span_id
        found = read_attributes(record.attributes)
        assert {key: found[key] for key in payload} == payload

    @pytest.mark.parametrize(("flags", "wanted"), [("01", 1), (1, 1), ("00", 0), (None, 0)])
    def test_flags(self, as_json: bool, flags: Any, wanted: int) -> None:
        """As text or as a number."""
        record = decode_one(log(trace_id=TRACE["trace_id"].upper(), trace_flags=flags), as_json=as_json)
        assert record.trace_id.hex() == TRACE["trace_id"]
        assert not record.span_id
        assert record.flags == wanted

    def test_scopes(self, as_json: bool) -> None:
        """One for each namespace, with its events in order."""
        events = [
            LogEvent(20, LogEventMeta(namespace, f"e{number}"), None, 1.0, {})
            for number, namespace in enumerate(["a", "b", "a", None, "b"])
        ]
        (resource_logs,) = decode(events, {"service.name": "shop", "n": 1}, as_json=as_json).resource_logs
        assert read_attributes(resource_logs.resource.attributes) == {"service.name": "shop", "n": 1}
        found = {s.scope.name: [r.event_name for r in s.log_records] for s in resource_logs.scope_logs}
        assert found == {"a": ["e0", "e2"], "b": ["e1", "e4"], "": ["e3"]}

    def test_custom_level(self, as_json: bool) -> None:
        """It has its own name, and its number is kept."""
        event = LogEvent(
            25, LogEventMeta("n", "e"), None, 1.0, {}, origin=LogEventOrigin(system="logging", level_name="NOTICE")
        )
        record = decode_one(event, as_json=as_json)
        assert (record.severity_number, record.severity_text) == (12, "NOTICE")
        assert read_attributes(record.attributes)["mvx_logger.level_no"] == 25

    @settings(max_examples=often(150))
    @given(
        payload=st.dictionaries(
            st.text(),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
                lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
                max_leaves=10,
            ),
            max_size=6,
        ),
        name=st.text(),
        level=st.integers(-5, 100),
        timestamp=st.floats(),
    )
    def test_any_event(self, as_json: bool, payload: dict[str, Any], name: str, level: int, timestamp: float) -> None:
        """Whatever an event holds, there is a record that a strict reader takes."""
        event = LogEvent(level, LogEventMeta(name, name, name), name, timestamp, payload, message=name)
        record = decode_one(event, as_json=as_json)
        assert len(record.attributes) >= len(payload)
        other = decode_one(event, as_json=not as_json)
        if record.time_unix_nano:
            assert record.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


def test_severity_numbers() -> None:
    """By the data model's table; in between and beyond, it goes on."""
    levels = {-1: 0, 0: 0, 1: 1, 5: 1, 6: 2, 9: 4, 10: 5, 11: 6, 15: 8, 20: 9, 25: 12, 30: 13, 35: 16, 40: 17, 50: 21}
    assert {level: get_severity_number(level) for level in levels} == levels
    assert [get_severity_number(level) for level in (51, 53, 60, 10**6)] == [22, 24, 24, 24]
    numbers = [get_severity_number(level) for level in range(-10, 100)]
    assert numbers == sorted(numbers)


class TestAgainstTheSdk:
    """The records of OpenTelemetry's own SDK for the same things."""

    def test_the_same_record(self) -> None:
        """Encoded by the SDK's exporter, a record with the same content is the same."""
        from opentelemetry._logs import LogRecord, SeverityNumber
        from opentelemetry.context import Context
        from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

        event = LogEvent(
            30, LogEventMeta("shop", "order.created"), None, 1_780_000_000.25,
            {"amount": 12.5, "n": 3, "ok": True, "items": ["a", "b"], "user": {"id": 7}, "raw": b"\x00", **TRACE},
        )  # fmt: skip
        ours = ExportLogsServiceRequest.FromString(encode_protobuf([event], [UID], {"service.name": "shop"}))

        if not hasattr(export, "InMemoryLogRecordExporter"):
            pytest.skip("an SDK before 1.39 takes no record of the API")
        exporter = export.InMemoryLogRecordExporter()
        provider = LoggerProvider(resource=Resource({"service.name": "shop"}))
        provider.add_log_record_processor(export.SimpleLogRecordProcessor(exporter))
        span = SpanContext(
            int(TRACE["trace_id"], 16), int(TRACE["span_id"], 16), is_remote=False, trace_flags=TraceFlags(1)
        )
        nanoseconds = 1_780_000_000_250_000_000
        provider.get_logger("shop").emit(
            LogRecord(
                timestamp=nanoseconds,
                observed_timestamp=nanoseconds,
                context=set_span_in_context(NonRecordingSpan(span), Context()),
                severity_number=SeverityNumber.WARN,
                severity_text="WARNING",
                body="order.created",
                event_name="order.created",
                attributes={
                    "log.record.uid": UID, "amount": 12.5, "n": 3, "ok": True, "items": ["a", "b"], "user": {"id": 7},
                    "raw": b"\x00",
                },
            )
        )  # fmt: skip
        provider.shutdown()  # type: ignore[no-untyped-call]
        theirs = encode_logs(exporter.get_finished_logs())
        (their_record,) = theirs.resource_logs[0].scope_logs[0].log_records
        (our_record,) = ours.resource_logs[0].scope_logs[0].log_records
        assert our_record == their_record
        assert ours.resource_logs[0].resource == theirs.resource_logs[0].resource
        assert ours.resource_logs[0].scope_logs[0].scope == theirs.resource_logs[0].scope_logs[0].scope

    def test_names_of_attributes(self) -> None:
        """They are those of the semantic conventions."""
        from opentelemetry.semconv._incubating.attributes import log_attributes, process_attributes, thread_attributes
        from opentelemetry.semconv.attributes import code_attributes, exception_attributes

        conventions = {
            code_attributes.CODE_FILE_PATH,
            code_attributes.CODE_LINE_NUMBER,
            code_attributes.CODE_FUNCTION_NAME,
            code_attributes.CODE_STACKTRACE,
            exception_attributes.EXCEPTION_TYPE,
            exception_attributes.EXCEPTION_MESSAGE,
            exception_attributes.EXCEPTION_STACKTRACE,
            log_attributes.LOG_RECORD_UID,
            process_attributes.PROCESS_PID,
            thread_attributes.THREAD_ID,
            thread_attributes.THREAD_NAME,
        }
        assert {name for name in _OWN if name and not name.startswith("mvx_logger.")} == conventions


class TestPartialSuccess:
    @given(rejected=st.integers(0, 2**63 - 1), message=st.text())
    def test_as_it_was_written(self, rejected: int, message: str) -> None:
        """What the protobuf library has written is read."""
        response = ExportLogsServiceResponse()
        response.partial_success.rejected_log_records = rejected
        response.partial_success.error_message = message
        assert decode_partial_success(response.SerializeToString()) == (rejected, message)

    def test_fields_of_later_versions(self) -> None:
        """They are stepped over, of whatever type they are."""
        inner = b"\x08\x03" + b"\x19" + bytes(8) + b"\x25" + bytes(4) + b"\x2a\x02xx" + b"\x30\x81\x01" + b"\x12\x02no"
        assert decode_partial_success(b"\x10\x01" + b"\x0a" + bytes([len(inner)]) + inner) == (3, "no")

    @given(data=st.binary())
    def test_anything(self, data: bytes) -> None:
        """It is read, or it is an error that is expected."""
        try:
            rejected, _ = decode_partial_success(data)
        except ValueError:
            return
        assert rejected >= 0

    @pytest.mark.parametrize("data", [b"\x0a", b"\x0a\x05\x08", b"\x08" + b"\xff" * 11, b"\x0b", b"\x09\x00"])
    def test_damaged(self, data: bytes) -> None:
        """What is no message is an error."""
        with pytest.raises(ValueError, match="no ExportLogsServiceResponse"):
            decode_partial_success(data)


def test_reads_back() -> None:
    """`read_value`, on which these tests stand, reads what the encoder wrote for a small event."""
    record = decode_one(make_event(7, words=["a"]))
    assert {a.key: read_value(a.value) for a in record.attributes} == {
        "log.record.uid": "id-0", "number": 7, "words": ["a"],
        "mvx_logger.entity_id": "order-7", "mvx_logger.outcome": "success",
    }  # fmt: skip
