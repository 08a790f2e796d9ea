"""`mvx_logger.formats`: events to text, JSON lines and logfmt, and back from JSON."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import math
import pathlib
import re
import types
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events import MOMENT, make_event
from mvx_logger.errors import LogConfigurationError
from mvx_logger.formats import logfmt
from mvx_logger.formats.json import (
    LogEventDecodeError,
    decode_event,
    decode_lines,
    encode_event,
    encode_lines,
    encode_value,
    format_timestamp,
    to_plain,
)
from mvx_logger.formats.text import TextFormatter, event_message, event_title
from mvx_logger.model import LogEvent, LogEventMeta, LogEventOrigin, LogException, LogLevel, LogStack
from repetitions import often

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
payloads = st.dictionaries(st.text(), json_values, max_size=5)
optional_text = st.none() | st.text()
optional_int = st.none() | st.integers(-(2**63), 2**63 - 1)
frames = st.lists(payloads, max_size=2).map(tuple)
metas = st.builds(
    LogEventMeta,
    optional_text,
    st.text(),
    entity_id=optional_text,
    source_path=optional_text,
    source_line=optional_int,
    source_func=optional_text,
)
origins = st.builds(
    LogEventOrigin,
    system=st.text(),
    level_name=optional_text,
    template=optional_text,
    args=st.none() | st.lists(json_values, max_size=3).map(tuple) | payloads,
    process_id=optional_int,
    process_name=optional_text,
    thread_id=optional_int,
    thread_name=optional_text,
    task_name=optional_text,
    via=st.lists(st.text(), max_size=2).map(tuple),
)
microseconds = st.integers(-8_000_000_000 * 10**6, 8_000_000_000 * 10**6).map(lambda n: n / 1_000_000)
events = st.builds(
    LogEvent,
    level=st.sampled_from([10, 20, 30, 40, 50]) | st.integers(-(2**63), 2**63 - 1),
    meta=metas,
    event_outcome=optional_text,
    timestamp=microseconds,
    payload=payloads,
    message=optional_text,
    exception=st.none() | st.builds(LogException, st.text(), st.text(), st.text(), frames),
    stack=st.none() | st.builds(LogStack, st.text(), frames),
    origin=st.none() | origins,
)


class Hostile:
    """Raises at every touch."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __hash__ = __len__ = __iter__ = __repr__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")


class Colour(enum.Enum):
    RED = "red"


class Odd(enum.Enum):
    BYTES = b"\xff"


@dataclasses.dataclass
class Point:
    x: int
    y: bytes


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Half(float):
    pass


class HostileDict(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        raise RuntimeError("no")

    values = keys = __iter__ = items


def cyclic() -> dict[str, Any]:
    value: dict[str, Any] = {"a": 1}
    value["self"] = value
    return value


def deep(levels: int) -> Any:
    value: Any = "end"
    for _ in range(levels):
        value = [value]
    return value


class TestJsonLines:
    """`encode_event`, `encode_lines`, `encode_value`."""

    def test_a_native_event_is_flat_and_has_no_empty_fields(self) -> None:
        """An event is one flat object, in a fixed order, without what it does not have."""
        event = make_event("order.created", entity_id="order-42", event_outcome="success", payload={"total": 12.5})
        assert encode_event(event) == (
            b'{"timestamp":"2026-05-12T14:30:25.000123Z","level":"INFO","namespace":"shop","event":"order.created",'
            b'"entity_id":"order-42","outcome":"success","payload":{"total":12.5}}'
        )
        assert encode_event(make_event("x", namespace=None)) == (
            b'{"timestamp":"2026-05-12T14:30:25.000123Z","level":"INFO","event":"x"}'
        )

    def test_a_bridged_event_keeps_what_came_along(self) -> None:
        """Source, message, exception, stack and origin are objects with names that speak."""
        event = make_event(
            "user %s",
            message="user bob",
            source_path="/srv/a.py",
            source_line=7,
            source_func="login",
            exception=LogException("ValueError", "bad", "Traceback...\nValueError: bad"),
            stack=LogStack("Stack (most recent call last):\n  ..."),
            origin=LogEventOrigin(system="logging", level_name="INFO", args=("bob",), process_id=3),
        )
        assert json.loads(encode_event(event)) == {
            "timestamp": "2026-05-12T14:30:25.000123Z",
            "level": "INFO",
            "namespace": "shop",
            "event": "user %s",
            "message": "user bob",
            "source": {"path": "/srv/a.py", "line": 7, "func": "login"},
            "exception": {"type": "ValueError", "message": "bad", "text": "Traceback...\nValueError: bad"},
            "stack": {"text": "Stack (most recent call last):\n  ..."},
            "origin": {"system": "logging", "level_name": "INFO", "args": ["bob"], "process_id": 3},
        }

    @pytest.mark.parametrize(
        ("level", "name", "text", "number"),
        [
            (10, None, "DEBUG", None),
            (LogLevel.CRITICAL, "FATAL", "CRITICAL", None),
            (25, None, "Level 25", None),
            (25, "Level 25", "Level 25", None),
            (25, "NOTICE", "NOTICE", 25),
            (25, "INFO", "INFO", 25),
            (25, "Level 30", "Level 30", 25),
            (-3, None, "Level -3", None),
        ],
    )
    def test_the_level_is_a_name_and_a_number_only_where_the_name_is_not_enough(
        self, level: int, name: str | None, text: str, number: int | None
    ) -> None:
        """Whatever a custom level is called, the line says which number it is."""
        origin = LogEventOrigin(system="logging", level_name=name) if name else None
        event = make_event(level=level, origin=origin)
        line = json.loads(encode_event(event))
        assert (line["level"], line.get("level_no")) == (text, number)
        assert decode_event(encode_event(event)).level == level

    @pytest.mark.parametrize(
        ("moment", "text"),
        [
            (0.0, "1970-01-01T00:00:00.000000Z"),
            (-0.000001, "1969-12-31T23:59:59.999999Z"),
            (0.9999996, "1970-01-01T00:00:01.000000Z"),
            (0.9999994, "1970-01-01T00:00:00.999999Z"),
            (1_000_000_000, "2001-09-09T01:46:40.000000Z"),
            (-62_135_596_800.0, "0001-01-01T00:00:00.000000Z"),
            (951_782_400.5, "2000-02-29T00:00:00.500000Z"),
        ],
    )
    def test_times_are_rfc_3339_in_utc_with_microseconds(self, moment: float, text: str) -> None:
        """Every time between the years 1 and 9999 is told in full."""
        assert format_timestamp(moment) == text
        assert json.loads(encode_event(make_event(timestamp=moment)))["timestamp"] == text

    @given(st.lists(st.floats(-1e9, 8e9), min_size=1, max_size=20))
    def test_a_batch_tells_the_same_times_as_single_events(self, moments: list[float]) -> None:
        """The second that a batch remembers never leaks into an event of another second."""
        batch = [make_event(timestamp=moment) for moment in moments]
        told = [json.loads(line)["timestamp"] for line in encode_lines(batch).splitlines()]
        assert told == [format_timestamp(moment) for moment in moments]
        for moment, text in zip(moments, told, strict=True):
            assert abs(datetime.datetime.fromisoformat(text).timestamp() - moment) < 2e-6

    def test_the_last_half_microsecond_of_a_second_belongs_to_the_next(self) -> None:
        """Also where the second is remembered from the event before."""
        lines = encode_lines([make_event(timestamp=moment) for moment in (1.25, 1.9999994, 1.9999997, 1.5)])
        assert [line["timestamp"][-10:] for line in map(json.loads, lines.splitlines())] == [
            "01.250000Z", "01.999999Z", "02.000000Z", "01.500000Z",
        ]  # fmt: skip

    @pytest.mark.parametrize("moment", [1e18, -1e18, float("nan"), float("inf"), 10**400, "yesterday", None])
    def test_a_time_that_no_calendar_knows_does_not_lose_the_event(self, moment: Any) -> None:
        """It is told as a number, or as 0."""
        event = decode_event(encode_event(make_event(timestamp=moment)))
        assert event.timestamp == (moment if isinstance(moment, float) and math.isfinite(moment) else 0.0)

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (b"text", "text"),
            (b"\xff\xfe", "base64://4="),
            (bytearray(b"ab"), "ab"),
            (memoryview(b"ab"), "ab"),
            ([b"a", {"b": b"c"}], ["a", {"b": "c"}]),
            (float("nan"), None),
            (float("-inf"), None),
            ([float("inf")], [None]),
            ("\ud800x", "\\ud800x"),
            ({2: "a", None: "b", True: "c", (1, 2): "d"}, {"2": "a", "null": "b", "true": "c", "[1,2]": "d"}),
            ({"\udcff": 1}, {"\\udcff": 1}),
            (2**70, 2**70),
            (10**5000, hex(10**5000)),
            (object(), "<object>"),
            (Hostile(), "<Hostile>"),
            ([Hostile()], ["<Hostile>"]),
            (HostileDict(a=1), "<HostileDict>"),
            ({1, }, [1]),
            (frozenset([b"x"]), ["x"]),
            ((1, (2,)), [1, [2]]),
            (Colour.RED, "red"),
            (Odd.BYTES, "base64:/w=="),
            (Point(1, b"y"), {"x": 1, "y": "y"}),
            (Text("t"), "t"),
            (Number(3), 3),
            (Half(0.5), 0.5),
            (decimal.Decimal("1.10"), "1.10"),
            (uuid.UUID(int=0), "00000000-0000-0000-0000-000000000000"),
            (datetime.datetime(2026, 5, 12, tzinfo=datetime.UTC), "2026-05-12T00:00:00+00:00"),
            (datetime.timedelta(seconds=90), 90.0),
            (pathlib.PurePosixPath("/a/b"), "/a/b"),
            (types.MappingProxyType({"a": 1}), {"a": 1}),
            (collections.OrderedDict(a=b"1"), {"a": "1"}),
            (collections.deque([1]), "<deque>"),
            (LogStack("t"), {"text": "t", "frames": []}),
            (type, "<type>"),
            (ValueError("secret"), "<ValueError>"),
        ],
        ids=lambda value: type(value).__name__,
    )  # fmt: skip
    def test_a_value_that_json_does_not_know_is_put_into_words(self, value: Any, expected: Any) -> None:
        """With skip_payload_normalization anything may stand in a payload: the event arrives with all that can be told."""
        event = make_event(payload={"before": 1, "value": value, "after": 2})
        line = encode_event(event)
        assert msgspec.json.decode(line)["payload"] == {"before": 1, "value": expected, "after": 2}
        assert encode_lines([make_event("a"), event, make_event("b")]) == b"\n".join(
            [encode_event(make_event("a")), line, encode_event(make_event("b")), b""]
        )
        assert msgspec.json.decode(encode_value({"value": value})) == {"value": expected}

    def test_a_cycle_ends(self) -> None:
        """A payload that contains itself is written as far as it goes, once."""
        assert json.loads(encode_event(make_event(payload=cyclic())))["payload"] == {"a": 1, "self": "<dict>"}
        loop: list[Any] = []
        loop.append(loop)
        assert json.loads(encode_value(loop)) == ["<list>"]

    @pytest.mark.parametrize("levels", [150, 100_000])
    def test_depth_has_a_limit(self, levels: int) -> None:
        """What is nested too often is cut at the same place however often that is, and the stack survives."""
        line = encode_event(make_event(payload={"deep": deep(levels), "rest": 1}))
        payload = json.loads(line)["payload"]
        assert payload["rest"] == 1
        assert line.count(b"[") == 99

    def test_a_value_that_is_shared_is_no_cycle(self) -> None:
        """The same list twice is written twice."""
        shared = [b"x"]
        assert to_plain({"a": shared, "b": shared}) == {"a": ["x"], "b": ["x"]}

    def test_the_payload_is_left_alone(self) -> None:
        """Other sinks hold the same mapping."""
        payload = {"raw": b"x", "list": [b"y"]}
        encode_event(make_event(payload=payload))
        assert payload == {"raw": b"x", "list": [b"y"]}

    @pytest.mark.parametrize("text", ["\n", "\r\n", "\x00", "\x85", "\u2028", '"', "\\", "\x1b[31m"])
    def test_no_text_breaks_a_line(self, text: str) -> None:
        """A newline in any field stays inside of its string."""
        event = LogEvent(
            25,
            LogEventMeta(text, text, text, text, 1, text),
            text,
            MOMENT,
            {text: text},
            text,
            LogException(text, text, text, ({text: text},)),
            LogStack(text, ({text: text},)),
            LogEventOrigin(system=text, level_name=text, template=text, args=(text,), via=(text,)),
        )
        data = encode_lines([event, event])
        assert data.count(b"\n") == 2
        assert [decode_event(line) for line in data.split(b"\n")[:2]] == [event, event]

    def test_fields_of_a_wrong_type_do_not_lose_the_event(self) -> None:
        """An event made by hand may hold anything in any field."""
        wild: Any = LogEvent(
            "high",  # type: ignore[arg-type]
            LogEventMeta(b"ns", 7, ["e"], Hostile(), "x", 1.5),  # type: ignore[arg-type]
            object(),  # type: ignore[arg-type]
            MOMENT,
            ["not", "a", "dict"],  # type: ignore[arg-type]
            3,  # type: ignore[arg-type]
            LogException(None, 5, b"text", ({"a": {1}},)),  # type: ignore[arg-type]
            LogStack("\udc80", ()),
            LogEventOrigin(system="\udc80", args=(object(),), via=("\udc80",)),
        )
        line = encode_event(wild)
        event = decode_event(line)
        assert event.meta == LogEventMeta("ns", "7", '["e"]', "<Hostile>", None, "1.5")
        assert event.event_outcome == "<object>"
        assert event.payload == {"payload": ["not", "a", "dict"]}
        assert (event.level, event.message) == (0, "3")
        assert event.exception == LogException("", "5", "text", ({"a": [1]},))
        assert event.stack == LogStack("\\udc80")
        assert event.origin == LogEventOrigin(system="\\udc80", args=("<object>",), via=("\\udc80",))
        assert encode_lines([wild]) == line + b"\n"

    def test_an_empty_batch_is_nothing(self) -> None:
        """No events, no bytes."""
        assert encode_lines([]) == b""

    @given(events)
    @settings(max_examples=often(120))
    def test_event_to_line_to_event_restores_everything(self, event: LogEvent) -> None:
        """What can be said in JSON comes back as it was."""
        line = encode_event(event)
        assert b"\n" not in line
        assert decode_event(line) == event
        assert decode_event(line, lenient=True) == event
        assert encode_event(decode_event(line)) == line

    @given(st.lists(events, max_size=5))
    def test_lines_to_events_restores_the_batch(self, batch: list[LogEvent]) -> None:
        """A file of lines is the events, in order."""
        data = encode_lines(batch)
        assert list(decode_lines(data.splitlines(keepends=True))) == batch
        assert data == b"".join(encode_event(event) + b"\n" for event in batch)

    @given(
        st.recursive(
            st.none() | st.binary() | st.floats() | st.text(st.characters(codec=None)) | st.integers() | st.builds(object),
            lambda inner: st.lists(inner) | st.dictionaries(st.integers() | st.binary() | st.none(), inner)
            | st.tuples(inner) | st.dictionaries(st.text(st.characters(codec=None)), inner),
        )
    )  # fmt: skip
    def test_any_value_is_written_as_json_that_a_strict_reader_takes(self, value: Any) -> None:
        """Whatever a payload holds, the line is valid JSON in UTF-8."""
        event = decode_event(encode_event(make_event(payload={"value": value})))
        assert set(event.payload) == {"value"}


class TestJsonReading:
    """`decode_event` and `decode_lines`."""

    @pytest.mark.parametrize(
        ("line", "complaint"),
        [
            (b"", "expected a JSON object, got nothing"),
            (b"hello", "expected a JSON object, got what is not JSON"),
            (b'{"timestamp":"2026-05-12T14:30:25Z","level":"INFO","event":"x"', "got what is not JSON"),
            (b"[]", "expected mapping, got list"),
            (b'{"level":"INFO","event":"x"}', "timestamp: missing"),
            (b'{"timestamp":0,"level":"INFO"}', "event: missing"),
            (b'{"timestamp":0,"level":"INFO","event":5}', "event: expected str, got int"),
            (b'{"timestamp":0,"level":"INFO","event":"x","payload":[]}', "payload: expected mapping, got list"),
            (b'{"timestamp":0,"level":"INFO","event":"x","source":{"line":"9"}}', "source.line: expected int"),
            (b'{"timestamp":0,"level":"LOUD","event":"x"}', "level: 'LOUD' is not one of DEBUG, INFO"),
            (b'{"timestamp":"noon","level":"INFO","event":"x"}', "timestamp: 'noon' is not an RFC 3339 time"),
            (b'{"timestamp":"2026-05-12T14:30:25","level":"INFO","event":"x"}', "has no zone"),
            (b'{"timestamp":0,"level":"INFO","event":"x","colour":"red"}', "colour: there is no such field"),
            (b'{"timestamp":0,"level":"INFO","event":"\xff"}', "not UTF-8: byte 0xff at position 39"),
            (b'{"timestamp":0,"level":"INFO","event":"x","payload":{"a":' + b"[" * 100_000, "nested too deeply"),
        ],
    )  # fmt: skip
    def test_an_error_names_line_and_field(self, line: bytes, complaint: str) -> None:
        """What is wrong, where, and what would be right."""
        with pytest.raises(LogEventDecodeError, match=re.escape(complaint)) as caught:
            decode_event(line, line_number=7)
        assert str(caught.value).startswith("line 7: ")
        assert caught.value.line_number == 7
        assert caught.value.details == {"line_number": 7}
        with pytest.raises(LogEventDecodeError) as caught:
            decode_event(line)
        assert not str(caught.value).startswith("line")

    def test_a_file_is_read_line_by_line(self) -> None:
        """Empty lines are skipped, and the number of a bad one is told."""
        good = encode_event(make_event())
        lines = decode_lines([good + b"\n", b"\n", b"  \r\n", good.decode(), b"{"], first_line_number=10)
        assert [next(lines), next(lines)] == [make_event(), make_event()]
        with pytest.raises(LogEventDecodeError, match="line 14"):
            next(lines)

    def test_an_offset_is_as_good_as_z(self) -> None:
        """Times in other zones are read."""
        line = b'{"timestamp":"2026-05-12T16:30:25.000123+02:00","level":"INFO","event":"x"}'
        assert decode_event(line).timestamp == MOMENT

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            (  # python-json-logger
                '{"asctime":"2026-05-12 14:30:25,500+00:00","levelname":"warning","name":"shop.db","message":"slow","ms":3}',
                LogEvent(30, LogEventMeta("shop.db", "slow"), None, 1778596225.5, {"ms": 3}, "slow"),
            ),
            (  # structlog
                '{"timestamp":"2026-05-12T14:30:25Z","level":"error","logger":"shop","event":"failed","order":1}',
                LogEvent(40, LogEventMeta("shop", "failed"), None, 1778596225.0, {"order": 1}),
            ),
            (  # pino
                '{"level":30,"time":1778596225500,"pid":1,"msg":"hi"}',
                LogEvent(30, LogEventMeta(None, "hi"), None, 1778596225.5, {"pid": 1}, "hi"),
            ),
            (  # Elastic Common Schema
                '{"@timestamp":"2026-05-12T14:30:25Z","log.level":"FATAL","log.logger":"a","message":"m"}',
                LogEvent(50, LogEventMeta("a", "m"), None, 1778596225.0, {}, "m"),
            ),
            ('{"ts":1778596225500000,"event":"us"}', LogEvent(20, LogEventMeta(None, "us"), None, 1778596225.5, {})),
            ('{"ts":1778596225500000000,"event":"ns"}', LogEvent(20, LogEventMeta(None, "ns"), None, 1778596225.5, {})),
            ('{"ts":"1778596225.5","event":"t"}', LogEvent(20, LogEventMeta(None, "t"), None, 1778596225.5, {})),
            (
                '{"time":"2026-05-12 14:30:25 UTC","event":"t","level":"Level 7"}',
                LogEvent(7, LogEventMeta(None, "t"), None, 1778596225.0, {}),
            ),
            ("{}", LogEvent(20, LogEventMeta(None, ""), None, 0.0, {})),
            (
                '{"time":"noon","level":"loud","event":"x","payload":[1],"source":"a.py","ts":true}',
                LogEvent(
                    20,
                    LogEventMeta(None, "x"),
                    None,
                    0.0,
                    {"timestamp": "noon", "level": "loud", "payload": [1], "source": "a.py", "ts": True},
                ),
            ),
            (
                '{"event":"x","level":[],"levelno":35,"payload":{"a":1},"b":2}',
                LogEvent(35, LogEventMeta(None, "x"), None, 0.0, {"b": 2, "a": 1}),
            ),
            ('{"event":"x","level":{}}', LogEvent(20, LogEventMeta(None, "x"), None, 0.0, {"level": {}})),
            ('{"event":7,"v":1e400}', LogEvent(20, LogEventMeta(None, "7"), None, 0.0, {"v": float("inf")})),
        ],
    )  # fmt: skip
    def test_lines_of_other_loggers_are_read_leniently(self, line: str, expected: LogEvent) -> None:
        """`mvx-logger show` reads what python-json-logger, structlog, pino and others write."""
        event = decode_event(line if "+00:00" not in line else line.replace("+00:00", "Z"), lenient=True)
        assert event == expected

    def test_a_time_without_a_zone_is_local(self) -> None:
        """As other loggers write it."""
        local = datetime.datetime(2026, 5, 12, 14, 30, 25, 500_000)  # noqa: DTZ001
        assert decode_event('{"time":"2026-05-12 14:30:25,500"}', lenient=True).timestamp == local.timestamp()

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ('"Traceback (most recent call last):\\nValueError: bad: worse"', ("ValueError", "bad: worse")),
            ('[{"exc_type":"KeyError","exc_value":"x","frames":[]},3]', ("KeyError", "x")),
            ('{"type":"E","message":"m","text":"t"}', ("E", "m")),
            ('{"exc_type":"E","exc_value":"v"}', ("E", "v")),
            ("true", None),
            ("[]", None),
            ("[3]", ("[3]", "")),
        ],
    )
    def test_exceptions_of_other_loggers_are_read(self, text: str, expected: tuple[str, str] | None) -> None:
        """A traceback as text, structlog's list of dicts, or our own object."""
        exception = decode_event(f'{{"event":"x","exception":{text}}}', lenient=True).exception
        assert (exception and (exception.type, exception.message)) == expected

    def test_a_stack_of_other_loggers_is_read(self) -> None:
        """As text or as an object."""
        assert decode_event('{"stack_info":"Stack"}', lenient=True).stack == LogStack("Stack")
        assert decode_event('{"stack":{"text":"Stack"},"x":1}', lenient=True).stack == LogStack("Stack")

    @pytest.mark.parametrize(
        ("line", "complaint"),
        [
            ("plain text", "not JSON"),
            ("[1]", "expected a JSON object, found an array"),
            ("null", "found null"),
            ("true", "found a boolean"),
            ('"x"', "found a string"),
            ("5", "found a number"),
            ("[" * 100_000, "not JSON"),
            (b"\xff", "not JSON"),
        ],
    )
    def test_what_is_no_object_is_refused_leniently_too(self, line: str | bytes, complaint: str) -> None:
        """Lenient is not blind."""
        with pytest.raises(LogEventDecodeError, match=complaint):
            decode_event(line, lenient=True, line_number=3)

    @given(st.dictionaries(st.sampled_from([
        "timestamp", "level", "level_no", "event", "message", "payload", "source", "origin", "exception", "stack", "outcome",
        "namespace", "name", "other",
    ]), json_values))  # fmt: skip
    def test_any_object_is_an_event_leniently(self, fields: dict[str, Any]) -> None:
        """No combination of values raises."""
        event = decode_event(msgspec.json.encode(fields), lenient=True)
        assert isinstance(event.meta.event_name, str)
        assert isinstance(event.level, int)


class TestText:
    """`event_title`, `event_message`, `TextFormatter`."""

    def test_a_title_names_namespace_entity_event_and_outcome(self) -> None:
        """namespace[.entity_id].event_name[ [outcome]]"""
        assert event_title(make_event("started", namespace=None)) == "started"
        assert event_title(make_event("started")) == "shop.started"
        assert (
            event_title(make_event("paid", entity_id="order-4", event_outcome="success"))
            == "shop.order-4.paid [success]"
        )

    def test_a_message_takes_the_place_of_the_name(self) -> None:
        """A bridged event reads as its program meant it."""
        assert event_message(make_event("u %s", message="u bob")) == "shop: u bob"
        assert event_message(make_event("u %s", message="u bob", namespace=None, payload={"a": 1})) == "u bob {'a': 1}"
        assert (
            event_message(make_event("u", message="m", entity_id="e", event_outcome="failed")) == "shop.e: m [failed]"
        )
        assert event_message(make_event("u", message="m", entity_id="e", namespace=None)) == "e: m"

    def test_the_default_line_is_the_documented_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """2026-05-12 14:30:25 INFO: my_app.app.started {'service': 'demo', 'mode': 'local'}"""
        event = make_event("app.started", namespace="my_app", payload={"service": "demo", "mode": "local"})
        line = TextFormatter(utc=True).format(event)
        assert line == "2026-05-12 14:30:25 INFO: my_app.app.started {'service': 'demo', 'mode': 'local'}"
        local = datetime.datetime.fromtimestamp(MOMENT).strftime("%H:%M")  # noqa: DTZ006
        assert TextFormatter(date_format="%H:%M").format(event).startswith(f"{local} INFO: my_app")

    def test_custom_levels_have_their_names(self) -> None:
        """Of the system that they came from."""
        assert " NOTICE: " in TextFormatter().format(
            make_event(level=25, origin=LogEventOrigin(system="logging", level_name="NOTICE"))
        )
        assert " Level 25: " in TextFormatter().format(make_event(level=25))

    @pytest.mark.parametrize(
        "evil", ["\n", "\r", "\x1b[2J", "\x85", "\u2028", "\u2029", "\x00", "\x07", "\ud800", "\x9b"]
    )
    def test_no_name_or_value_can_forge_a_line(self, evil: str) -> None:
        """Line breaks and terminal controls are escaped wherever they come from."""
        text = f"a{evil}2026-05-12 14:30:25 CRITICAL: forged"

        class Talkative:
            def __repr__(self) -> str:
                return text

        for fields in (
            {"name": text},
            {"namespace": text},
            {"entity_id": text},
            {"event_outcome": text},
            {"message": text},
            {"payload": {text: text}},
            {"payload": {"a": Talkative()}},
            {"level": 25, "origin": LogEventOrigin(system="x", level_name=text)},
            {"message": text, "payload": {"a": Talkative()}},
        ):
            values: dict[str, Any] = dict(fields)
            for formatter in (
                TextFormatter(),
                TextFormatter("%(levelname)s %(event)s %(namespace)s %(message)s %(payload)s"),
            ):
                line = formatter.format(
                    make_event(values.get("name", "n"), **{k: v for k, v in values.items() if k != "name"})
                )
                assert evil not in line
                assert len(line.splitlines()) == 1
                assert "forged" in line
                line.encode()

    def test_tabs_and_other_alphabets_stay(self) -> None:
        """Escaping is for what harms."""
        assert event_message(make_event("x", message="a\tж 日本 👩‍🚀 é")) == "shop: a\tж 日本 👩‍🚀 é"

    def test_multiline_messages_go_on_indented(self) -> None:
        """A message of several lines is readable, and none of them looks like an event."""
        event = make_event("x", message="one\r\ntwo\n\x1b[0m", payload={"a": "b\nc"})
        assert event_message(event, multiline=True) == "shop: one\n  two\n  \\x1b[0m {'a': 'b\\nc'}"
        assert event_message(make_event("plain"), multiline=True) == "shop.plain"
        assert TextFormatter("%(message)s", multiline=True).format(event).splitlines()[1] == "  two"

    def test_exceptions_and_stacks_follow_on_lines_of_their_own(self) -> None:
        """Indented, so that no exception's text can pass for an event."""
        event = make_event(
            exception=LogException(
                "E", "m", "Traceback (most recent call last):\n  File\nE: m\n2026-05-12 FORGED\x1b["
            ),
            stack=LogStack("Stack (most recent call last):"),
        )
        assert TextFormatter("%(message)s").format(event) == (
            "shop.app.started\n  Traceback (most recent call last):\n    File\n  E: m\n  2026-05-12 FORGED\\x1b[\n"
            "  Stack (most recent call last):"
        )
        assert TextFormatter("%(message)s", exceptions=False).format(event) == "shop.app.started"

    def test_every_documented_field_works(self) -> None:
        """The fields of a LogRecord, ours, and the payload's keys."""
        origin = LogEventOrigin(
            system="logging", process_id=5, process_name="P", thread_id=6, thread_name="T", task_name="K"
        )
        event = make_event(
            "e", message="m", entity_id="i", event_outcome="ok", source_path="/a/b.py", source_line=3, source_func="f",
            payload={"order": 9}, origin=origin,
        )  # fmt: skip
        names = re.findall(
            r"\w+",
            "levelname levelno name created msecs pathname filename module lineno funcName process processName thread "
            "threadName taskName title namespace event entity_id outcome payload order missing",
        )
        line = TextFormatter("|".join(f"%({name})s" for name in names)).format(event)
        assert line.split("|") == [
            "INFO", "20", "shop", str(MOMENT), "0", "/a/b.py", "b.py", "b", "3", "f", "5", "P", "6", "T", "K",
            "shop.i.e [ok]", "shop", "e", "i", "ok", "{'order': 9}", "9", "",
        ]  # fmt: skip
        native = TextFormatter("%(process)d %(thread)d %(lineno)05d %(msecs)03d %(name)-6s|").format(
            make_event(namespace=None)
        )
        assert re.fullmatch(r"\d+ 0 00000 000 root  \|", native)

    @pytest.mark.parametrize("bad", ["%(message)", "%(message)y", "100%", "%(asctime)d"])
    def test_a_malformed_format_is_refused_at_once(self, bad: str) -> None:
        """Not with the first event."""
        with pytest.raises(LogConfigurationError, match="log_format"):
            TextFormatter(bad)

    def test_a_time_that_the_platform_does_not_know_is_a_number(self) -> None:
        """The event is told all the same."""
        assert TextFormatter().format(make_event(timestamp=1e18)) == "1000000000000000000.000000 INFO: shop.app.started"

    def test_a_payload_that_fights_back_is_described(self) -> None:
        """An object that raises in its repr does not lose the event."""
        assert event_message(make_event("x", payload={"a": Hostile()})) == "shop.x {'a': '<Hostile>'}"
        assert event_message(make_event("x", payload=types.MappingProxyType({"a": 1}))) == "shop.x {'a': 1}"

    def test_an_event_that_does_not_fit_the_format_is_told_as_json(self) -> None:
        """Never lost."""
        event = make_event(payload={"n": "text"})
        assert TextFormatter("%(n)d").format(event) == encode_event(event).decode()
        odd: Any = make_event(timestamp="noon")
        assert '"event":"app.started"' in TextFormatter().format(odd)


class TestLogfmt:
    """`mvx_logger.formats.logfmt`."""

    def test_a_line_is_pairs(self) -> None:
        """Bare where possible, quoted where needed."""
        event = make_event(
            "order.created", level=30, entity_id="o-1", event_outcome="ok", message='say "hi"\n', source_path="/a.py",
            payload={"n": 1, "f": 0.5, "t": True, "none": None, "empty": "", "eq": "a=b", "list": [1, "x y"],
                     "map": {"a": {"b": 2}}, "no": {}, "level": "own", "bad key=\"": "v", "raw": b"x", "": 1,
                     "uni": "é\u2028\x85"},
            exception=LogException("E", "m", "T\nE: m"), stack=LogStack("S"),
            origin=LogEventOrigin(system="logging", process_id=3, thread_name="Main Thread"),
        )  # fmt: skip
        assert logfmt.encode_event(event).decode() == (
            "timestamp=2026-05-12T14:30:25.000123Z level=warning namespace=shop event=order.created entity_id=o-1 "
            "outcome=ok "
            'message="say \\"hi\\"\\n" source=/a.py:0 n=1 f=0.5 t=true none= empty="" eq="a=b" list="[1,\\"x y\\"]" '
            'map.a.b=2 no="{}" payload.level=own bad_key__=v raw=x _=1 uni="é\\u2028\\u0085" process=3 '
            'thread="Main Thread" exception="T\\nE: m" stack=S'
        )

    def test_a_batch_is_lines(self) -> None:
        """One for each event."""
        assert logfmt.encode_lines([make_event("a"), make_event("b")]).count(b"\n") == 2
        assert logfmt.encode_lines([]) == b""

    @given(events)
    def test_any_event_is_one_line_whose_quotes_are_closed(self, event: LogEvent) -> None:
        """A reader finds the pairs again."""
        line = logfmt.encode_event(event).decode()
        assert len((line + "\n").splitlines()) == 1
        assert re.fullmatch(
            r'[^\s"=]+=(?:[^\s"=\\]*|"(?:[^"\\]|\\.)*")(?: [^\s"=]+=(?:[^\s"=\\]*|"(?:[^"\\]|\\.)*"))*', line
        )

    def test_wild_fields_do_not_lose_the_event(self) -> None:
        """What has the wrong type is put into words."""
        wild: Any = LogEvent("high", LogEventMeta(b"n", 7), None, float("nan"), ["x"], "\ud800")  # type: ignore[arg-type]
        assert logfmt.encode_event(wild).decode() == (
            'timestamp=0.0 level=high namespace="n" event=7 message="\\\\ud800" payload="[\\"x\\"]"'
        )
