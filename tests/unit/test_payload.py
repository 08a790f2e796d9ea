"""Payload normalization: plain, bounded, without secrets, whatever the payload does about it."""

from __future__ import annotations

import array
import collections
import copy
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import gc
import ipaddress
import math
import os
import pathlib
import sys
import threading
import time
import tracemalloc
import types
import typing
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvx_logger import payload as payload_module
from mvx_logger import selflog
from mvx_logger.errors import LogSinkNotFoundError
from mvx_logger.guard import is_internal
from mvx_logger.payload import DEFAULT_REDACT_KEYS, REDACTED, LogPayloadProcessor, LogVerbosityLevel
from mvx_logger.protocols import LogPayloadProcessorProto, LogSinkDescriptor
from repetitions import often

PLAIN = (dict, list, str, int, float, bool, type(None), bytes)

processor = LogPayloadProcessor()


@pytest.fixture
def reports() -> Iterator[list[selflog.SelfLogReport]]:
    """What the logger tells of itself during the test."""
    told: list[selflog.SelfLogReport] = []
    interval = selflog.get_interval()
    previous = selflog.redirect(told.append)
    selflog.set_interval(0)
    yield told
    selflog.set_interval(interval)
    selflog.redirect(previous)


def value_of(value: Any, **options: Any) -> Any:
    return (LogPayloadProcessor(**options) if options else processor).normalize_payload({"x": value})["x"]


def containers_in(value: Any) -> Iterator[Any]:
    if type(value) in (dict, list):
        yield value
        for inner in value.values() if type(value) is dict else value:
            yield from containers_in(inner)


def assert_plain(value: Any) -> None:
    assert type(value) in PLAIN, value
    if type(value) is dict:
        assert all(type(key) is str for key in value)
    for inner in (value.values() if type(value) is dict else value) if type(value) in (dict, list) else ():
        assert_plain(inner)


class Foreign:
    """An object that nobody can describe."""

    def __repr__(self) -> str:
        raise AssertionError("its repr may hold a secret or take a second")

    __str__ = __repr__


class Described:
    def __init__(self, payload: Any) -> None:
        self.payload = payload

    def to_log_payload(self) -> Any:
        if isinstance(self.payload, Exception):
            raise self.payload
        return self.payload


class TestPayload:
    def test_an_ordinary_payload_comes_out_as_it_went_in(self) -> None:
        """Plain values within the limits stay what they are, in their order."""
        given_payload = {"order_id": "order-42", "amount": 3, "ok": True, "rate": 0.5, "note": None}
        result = processor.normalize_payload(given_payload)
        assert result == given_payload
        assert list(result) == list(given_payload)
        assert result is not given_payload

    def test_no_payload_is_an_empty_one(self) -> None:
        """None and an empty mapping give an empty dict."""
        assert processor.normalize_payload(None) == {}
        assert processor.normalize_payload({}) == {}
        assert processor.normalize_fields(None) == {}

    @pytest.mark.parametrize(
        ("payload", "expected"),
        [
            (5, 5),
            ("text", "text"),
            ([1, 2], [1, 2]),
            (b"raw", b"raw"),
            (Foreign(), "<Foreign>"),
            (ValueError("no"), {"type": "ValueError", "message": "no"}),
            (math.inf, math.inf),
        ],
    )
    def test_what_is_no_mapping_is_a_payload_with_one_value(self, payload: Any, expected: Any) -> None:
        """Anything else than a mapping still arrives, under ``value``."""
        assert processor.normalize_payload(payload) == {"value": expected}
        assert processor.normalize_fields(payload) == {"value": expected}

    @pytest.mark.parametrize(
        "payload",
        [
            types.MappingProxyType({"a": 1, "password": "x"}),
            collections.OrderedDict(a=1, password="x"),
            collections.ChainMap({"a": 1}, {"password": "x"}),
            collections.UserDict(a=1, password="x"),
            collections.defaultdict(int, a=1, password="x"),
        ],
    )
    def test_any_mapping_is_a_payload(self, payload: Any) -> None:
        """Mappings of every kind are taken for what they hold."""
        assert processor.normalize_payload(payload) == {"a": 1, "password": REDACTED}

    def test_a_longer_payload_says_how_many_keys_it_lost(self) -> None:
        """More than `max_items` keys: the first ones, and one that tells of the rest."""
        result = processor.normalize_payload({f"k{index}": index for index in range(13)})
        assert result == {**{f"k{index}": index for index in range(10)}, "__more__": "3 more keys"}
        assert "__more__" not in processor.normalize_payload({f"k{index}": index for index in range(10)})
        assert processor.normalize_payload({f"k{index}": index for index in range(11)})["__more__"] == "1 more keys"

    def test_a_key_that_is_called_like_the_mark_keeps_its_value(self) -> None:
        """A payload that was normalized before does not lose what it knew about its own rest."""
        once = processor.normalize_payload({f"k{index}": index for index in range(13)})
        kept = LogPayloadProcessor(max_items=1).normalize_payload({"__more__": "mine", "a": 1})
        assert kept == {"__more__": "mine", "__more__ (2)": "1 more keys"}
        assert processor.normalize_payload(once)["__more__"] == "1 more keys"
        by_the_long_way = LogPayloadProcessor(max_items=2).normalize_payload({"__more__": "mine", 5: 1, 6: 2})
        assert by_the_long_way == {"__more__": "mine", "5": 1, "__more__ (2)": "1 more keys"}

    def test_unbounded_lifts_the_limit_on_items_everywhere_and_nothing_else(self) -> None:
        """Text, depth and secrets are bounded as ever."""
        deep: Any = 1
        for _ in range(10):
            deep = {"deep": deep}
        payload = {f"k{index}": index for index in range(50)} | {
            "list": list(range(50)),
            "dict": {f"k{index}": {"token": 1} for index in range(50)},
            "text": "x" * 500,
            "deep": deep,
        }
        result = processor.normalize_payload(payload, unbounded=True)
        assert len(result) == 54
        assert result["list"] == list(range(50))
        assert result["dict"] == {f"k{index}": {"token": REDACTED} for index in range(50)}
        assert len(result["text"]) == 203
        assert result["deep"] == {"deep": {"deep": {"deep": {"deep": {"deep": "<dict>"}}}}}
        assert processor.normalize_value_for_log(list(range(50)), unbounded=True) == list(range(50))
        assert len(processor.normalize_value_for_log(list(range(50)))) == 11

    def test_fields_keep_every_key_of_the_payload(self) -> None:
        """`normalize_fields` bounds what is in the fields, not how many there are."""
        payload = {f"k{index}": list(range(20)) for index in range(15)} | {"password": "x"}
        result = processor.normalize_fields(payload)
        assert len(result) == 16
        assert all(len(result[f"k{index}"]) == 11 for index in range(15))
        assert result["password"] == REDACTED
        assert len(processor.normalize_fields(types.MappingProxyType(payload))) == 16
        assert processor.normalize_fields({"a": list(range(20))})["a"][-1] == "... (10 more)"

    def test_the_result_shares_nothing_mutable_with_the_payload(self) -> None:
        """What the caller does to its payload afterwards does not reach the event."""
        payload = {"list": [1, [2]], "dict": {"a": {"b": 1}}, "bytes": bytearray(b"x"), "set": {1}, "deque": [[]]}
        result = processor.normalize_payload(payload)
        assert not {id(part) for part in containers_in(result)} & {id(part) for part in containers_in(payload)}
        assert result == {"list": [1, [2]], "dict": {"a": {"b": 1}}, "bytes": b"x", "set": [1], "deque": [[]]}

    def test_a_list_that_occurs_twice_is_there_twice(self) -> None:
        """Only what contains itself is a cycle."""
        shared = [1]
        result = processor.normalize_payload({"a": shared, "b": {"c": shared, "d": [shared, shared]}})
        assert result == {"a": [1], "b": {"c": [1], "d": [[1], [1]]}}
        assert result["a"] is not result["b"]["c"]
        colour = enum.Enum("Colour", ["RED"]).RED
        adapted = LogPayloadProcessor(log_adapter_resolver=lambda value: lambda value, verbosity: ["adapted"])
        for tested, value in (
            (processor, {"k": 1}),
            (processor, (1,)),
            (processor, {1}),
            (processor, collections.deque([1])),
            (processor, Point(1, 2)),
            (processor, Pair(1, 2)),
            (processor, Described({"k": 1})),
            (processor, Described(types.MappingProxyType({"k": 1}))),
            (processor, colour),
            (adapted, object()),
        ):
            first, second = tested.normalize_value_for_log([value, value])
            assert first == second != "<cycle>"

    def test_it_is_a_payload_processor(self) -> None:
        """A context accepts it."""
        assert isinstance(processor, LogPayloadProcessorProto)


class TestText:
    def test_a_longer_text_is_cut_and_says_so(self) -> None:
        """`max_str_len` characters and three dots; what fits is left alone."""
        assert value_of("x" * 200) == "x" * 200
        assert value_of("x" * 201) == "x" * 200 + "..."
        assert value_of("x" * 201, max_str_len=3) == "xxx..."
        assert value_of("x", max_str_len=0) == "..."
        assert value_of(["x" * 201]) == ["x" * 200 + "..."]
        assert value_of({"a": "x" * 201}) == {"a": "x" * 200 + "..."}
        assert processor.normalize_value_for_log("x" * 201) == "x" * 200 + "..."
        assert processor.normalize_value_for_log("x") == "x"

    def test_lone_surrogates_stay(self) -> None:
        """File names that are no UTF-8 arrive as Python holds them."""
        assert value_of("a\udcffb") == "a\udcffb"

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_everything_like_bytes_becomes_bytes(self, kind: Any) -> None:
        """Bytes are bounded like text."""
        for length, expected in ((3, b"xxx"), (200, b"x" * 200), (201, b"x" * 200 + b"...")):
            result = value_of(kind(b"x" * length))
            assert result == expected
            assert type(result) is bytes

    def test_a_memoryview_of_any_shape_becomes_bytes(self) -> None:
        """Views of numbers, of several dimensions and with steps are bounded too."""
        numbers = memoryview(array.array("q", range(1000)))
        assert value_of(numbers) == numbers.tobytes()[:200] + b"..."
        table = memoryview(bytes(range(240))).cast("B", (4, 60))
        assert value_of(table) == bytes(range(200)) + b"..."
        assert value_of(memoryview(b"ab" * 300)[::2]) == b"a" * 200 + b"..."
        released = memoryview(b"x")
        released.release()
        assert value_of(released) == "<memoryview>"

    def test_a_memoryview_that_has_no_plain_order_becomes_bytes(self) -> None:
        """A transposed matrix is read in its own order."""
        numpy = pytest.importorskip("numpy")
        matrix = numpy.arange(400, dtype="u1").reshape(20, 20).T
        assert value_of(memoryview(matrix)) == matrix.tobytes()[:200] + b"..."

    def test_subclasses_of_plain_types_become_plain(self) -> None:
        """What a subclass overrides is not asked."""

        class Text(str):
            __slots__ = ()

            def __len__(self) -> int:
                raise RuntimeError

            __getitem__ = __str__ = __repr__ = __hash__ = __eq__ = __add__ = __len__  # type: ignore[assignment]

        class Number(int):
            def __int__(self) -> int:
                raise RuntimeError

            __index__ = __pos__ = __add__ = __int__

        class Real(float):
            def __float__(self) -> float:
                raise RuntimeError

            __pos__ = __float__

        class Raw(bytes):
            def __len__(self) -> int:
                raise RuntimeError

            __getitem__ = __bytes__ = __len__  # type: ignore[assignment]

        class RawArray(bytearray):
            def __len__(self) -> int:
                raise RuntimeError

            __getitem__ = __bytes__ = __len__  # type: ignore[assignment]

        for value, expected in (
            (Text("x" * 300), "x" * 200 + "..."),
            (Text("x"), "x"),
            (Number(7), 7),
            (Real(0.5), 0.5),
            (Raw(b"x" * 300), b"x" * 200 + b"..."),
            (RawArray(b"x"), b"x"),
            (collections.UserString("text"), "text"),
        ):
            result = value_of(value)
            assert result == expected
            assert type(result) is type(expected)
            assert type(processor.normalize_value_for_log(value)) is type(expected)

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (dt.datetime(2026, 5, 12, 14, 30, tzinfo=dt.UTC), "2026-05-12T14:30:00+00:00"),
            (dt.date(2026, 5, 12), "2026-05-12"),
            (dt.time(14, 30), "14:30:00"),
            (dt.timedelta(days=1, seconds=5), "1 day, 0:00:05"),
            (decimal.Decimal("1.50"), "1.50"),
            (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
            (pathlib.PurePosixPath("/srv/shop"), "/srv/shop"),
            (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
            (ipaddress.ip_network("10.0.0.0/8"), "10.0.0.0/8"),
            (fractions.Fraction(1, 3), "1/3"),
            (complex(1, 2), "(1+2j)"),
        ],
    )
    def test_values_that_people_read_as_text_become_that_text(self, value: Any, expected: str) -> None:
        """Dates, amounts, ids and paths arrive as what one would write."""
        assert value_of(value) == expected
        assert value_of(value, max_str_len=2) == expected[:2] + "..."

    def test_a_time_zone_that_raises_does_not(self) -> None:
        """A broken tzinfo costs the value, not the event."""

        class Broken(dt.tzinfo):
            def utcoffset(self, when: dt.datetime | None) -> dt.timedelta:
                raise RuntimeError

        assert value_of(dt.datetime(2026, 5, 12, tzinfo=Broken())) == "<datetime>"


class TestNumbers:
    def test_numbers_stay_as_they_are(self) -> None:
        """Also the large, the infinite and what is no number."""
        assert value_of(10**100) == 10**100
        assert value_of(-math.inf) == -math.inf
        assert math.isnan(value_of(math.nan))
        assert value_of(True) is True
        assert processor.normalize_value_for_log(None) is None

    def test_numpy_scalars_are_python_values(self) -> None:
        """A number from an array is a number."""
        numpy = pytest.importorskip("numpy")
        for value, expected in (
            (numpy.int64(7), 7),
            (numpy.float64(0.5), 0.5),
            (numpy.float32(0.5), 0.5),
            (numpy.bool_(True), True),
            (numpy.str_("x"), "x"),
            (numpy.datetime64("2026-05-12"), "2026-05-12"),
        ):
            result = value_of(value)
            assert result == expected
            assert type(result) is type(expected)
        assert type(value_of(numpy.longdouble(1))) in (str, float)
        assert value_of(numpy.arange(3)) == "<ndarray>"


class TestEnums:
    def test_an_enum_is_its_value(self) -> None:
        """Values of every kind, and values that are themselves to be described."""

        class Colour(enum.Enum):
            RED = "red"
            GREEN = 2
            BLUE = (1, 2)
            LINK = LogVerbosityLevel.NORMAL
            LONG = "x" * 300
            ODD = Foreign()

        class Bits(enum.Flag):
            A = 1
            B = 2

        for value, expected in (
            (Colour.RED, "red"),
            (Colour.GREEN, 2),
            (Colour.BLUE, [1, 2]),
            (Colour.LINK, "NORMAL"),
            (Colour.LONG, "x" * 200 + "..."),
            (Colour.ODD, "<Foreign>"),
            (Bits.A | Bits.B, 3),
            (enum.IntEnum("Level", "LOW")["LOW"], 1),
            (LogVerbosityLevel.MAXIMUM, "MAXIMUM"),
        ):
            result = value_of(value)
            assert result == expected
            assert type(result) is type(expected)

    def test_an_enum_that_is_its_own_value_ends(self) -> None:
        """It is a cycle like any other."""

        class Odd(enum.Enum):
            A = 1

        Odd.A._value_ = Odd.A  # type: ignore[assignment]
        assert value_of(Odd.A) == "<cycle>"

    def test_a_value_property_that_raises_is_not_asked(self) -> None:
        """What the class makes of ``value`` is not what the member is."""

        class Odd(enum.Enum):
            A = 1

            @property
            def value(self) -> int:
                raise RuntimeError

        assert value_of(Odd.A) == 1


class TestCollections:
    @pytest.mark.parametrize(
        "make",
        [
            list,
            tuple,
            collections.deque,
            lambda items: dict.fromkeys(items),
            lambda items: dict.fromkeys(items).keys(),
            lambda items: dict(enumerate(items)).values(),
            lambda items: collections.OrderedDict.fromkeys(items).keys(),
            lambda items: array.array("i", items),
            lambda items: collections.UserList(items),
            lambda items: type("Items", (list,), {})(items),
            lambda items: type("Items", (tuple,), {})(items),
            lambda items: range(len(items)),
            set,
            frozenset,
            lambda items: type("Items", (set,), {})(items),
        ],
    )
    def test_a_longer_sequence_says_how_many_items_it_lost(self, make: Any) -> None:
        """The first `max_items` items and one that tells of the rest; a shorter one is complete."""
        long, short = make(range(13)), make(range(10))
        if isinstance(long, dict):
            assert value_of(long) == {**{str(index): None for index in range(10)}, "__more__": "3 more keys"}
            assert value_of(short) == {str(index): None for index in range(10)}
        else:
            assert value_of(long) == [*range(10), "... (3 more)"]
            assert value_of(short) == list(range(10))
            assert type(value_of(short)) is list

    def test_nothing_can_be_asked_for_too(self) -> None:
        """With `max_items` 0 only the mark is left."""
        assert value_of([1, 2], max_items=1) == [1, "... (1 more)"]
        assert LogPayloadProcessor(max_items=0).normalize_payload({"a": 1}) == {"__more__": "1 more keys"}
        assert LogPayloadProcessor(max_items=0).normalize_value_for_log([1, 2]) == ["... (2 more)"]

    def test_iterators_are_not_consumed(self) -> None:
        """A generator that is logged gives all its items afterwards."""
        generator = (item for item in range(3))
        listed = iter([1, 2, 3])
        assert value_of(generator) == "<generator>"
        assert value_of(listed) == "<list_iterator>"
        assert list(generator) == [0, 1, 2]
        assert list(listed) == [1, 2, 3]
        assert value_of(map(str, [1])) == "<map>"
        assert value_of({"a": 1}.items()) == [["a", 1]]

    def test_ranges_of_any_length_are_lists(self) -> None:
        """Also those whose length Python cannot tell."""
        assert value_of(range(0)) == []
        assert value_of(range(5, 0, -2)) == [5, 3, 1]
        assert value_of(range(0, -(10**30), -1)) == [*range(0, -10, -1), f"... ({10**30 - 10} more)"]
        assert value_of([range(3)], max_depth=1) == ["<range>"]

    @pytest.mark.parametrize("depth", [0, 1, 2, 5, 8])
    def test_what_is_nested_deeper_is_named_by_its_type(self, depth: int) -> None:
        """`max_depth` containers below the payload are shown, the next is ``<TypeName>``; plain values are always shown."""
        for wrap, name in (
            (lambda inner: [inner], "<list>"),
            (lambda inner: (inner,), "<tuple>"),
            (lambda inner: {"k": inner}, "<dict>"),
            (lambda inner: collections.deque([inner]), "<deque>"),
            (lambda inner: collections.OrderedDict(k=inner), "<OrderedDict>"),
            (lambda inner: types.MappingProxyType({"k": inner}), "<mappingproxy>"),
            (lambda inner: collections.UserList([inner]), "<UserList>"),
            (lambda inner: types.SimpleNamespace(k=inner), "<SimpleNamespace>"),
            (lambda inner: Point(inner, 1), "<Point>"),
            (lambda inner: Pair(inner, 1), "<Pair>"),
            (lambda inner: Described({"k": inner}), "<Described>"),
            (lambda inner: {inner}, "<set>"),
            (lambda inner: frozenset([inner]), "<frozenset>"),
            (lambda inner: ValueError(inner), "<ValueError>"),
            (lambda inner: {"k": inner}.values(), "<dict_values>"),
            (lambda inner: collections.UserDict(k=inner), "<UserDict>"),
            (lambda inner: collections.defaultdict(int, k=inner), "<defaultdict>"),
        ):
            nested: Any = "end"
            for _ in range(depth):
                nested = [nested]
            assert "end" in str(value_of(nested, max_depth=depth))
            nested = wrap("end")
            for _ in range(depth):
                nested = [nested]
            shown = value_of(nested, max_depth=depth)
            assert name in str(shown)
            assert "end" not in str(shown)
            shown = value_of(nested, max_depth=depth + 1)
            assert name not in str(shown)
            assert "end" in str(shown)
        assert value_of(dt.date(2026, 5, 12), max_depth=0) == "2026-05-12"

    def test_a_value_counts_as_a_payload_does(self) -> None:
        """`normalize_value_for_log` shows as many containers below the value as a payload has below itself."""
        shallow = LogPayloadProcessor(max_depth=1)
        assert shallow.normalize_value_for_log({"a": {"b": {"c": 1}}}) == {"a": {"b": "<dict>"}}
        assert shallow.normalize_payload({"a": {"b": {"c": 1}}}) == {"a": {"b": "<dict>"}}

    def test_the_order_of_an_ordered_dict_is_its_own(self) -> None:
        """`move_to_end` is seen."""
        ordered = collections.OrderedDict((f"k{index}", index) for index in range(12))
        ordered.move_to_end("k11", last=False)
        assert list(value_of(ordered)) == ["k11", *(f"k{index}" for index in range(9)), "__more__"]

    def test_a_payload_cannot_cost_more_than_a_hundred_thousand_items(self) -> None:
        """One list that is referred to from everywhere (a billion laughs) is cut where the payload grows too large."""
        laughs: Any = ["ha"] * 10
        for _ in range(9):
            laughs = [laughs] * 10
        bounded = LogPayloadProcessor(max_depth=50)
        result = bounded.normalize_payload({"laughs": laughs})
        assert 90_000 < sum(len(part) for part in containers_in(result)) < 210_000
        wide = [[0] * 2_000] * 2_000
        result = processor.normalize_payload({"wide": wide}, unbounded=True)
        assert 990_000 < sum(len(part) for part in containers_in(result)) < 1_010_000
        assert result["wide"][-1] == ["... (2000 more)"]
        assert len(processor.normalize_payload({"all": list(range(300_000))}, unbounded=True)["all"]) == 300_000
        assert len(value_of(range(300_000), max_items=250_000)) == 250_001

    @pytest.mark.parametrize(
        "make",
        [
            lambda: {f"key{index}": index for index in range(200_000)},
            lambda: {index: index for index in range(200_000)},
            lambda: collections.OrderedDict((f"key{index}", index) for index in range(200_000)),
            lambda: list(range(10_000_000)),
            lambda: tuple(range(200_000)),
            lambda: set(range(200_000)),
            lambda: collections.deque(range(200_000)),
            lambda: "x" * 10_000_000,
            lambda: b"x" * 10_000_000,
            lambda: bytearray(10_000_000),
            lambda: memoryview(bytearray(10_000_000)),
            lambda: types.MappingProxyType({f"key{index}": index for index in range(200_000)}),
            lambda: {"x" * 10_000_000: 1},
        ],
    )
    def test_what_is_cut_is_not_walked(self, make: Any) -> None:
        """However large the value, what is allocated for it is what is kept of it."""
        large = make()
        processor.normalize_payload({"warm": large})
        tracemalloc.start()
        processor.normalize_payload({"large": large})
        processor.normalize_payload(large)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 20_000


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 2
    password: str = "geheim"
    hidden: str = dataclasses.field(default="geheim", repr=False)
    shared: typing.ClassVar[int] = 5


@dataclasses.dataclass(slots=True)
class SlotPoint:
    x: Any
    _token: str = "geheim"
    late: int = dataclasses.field(init=False)


class Pair(typing.NamedTuple):
    left: Any
    right: Any


class StructPoint(msgspec.Struct):
    x: Any
    api_key: str = "geheim"


class TestObjectsWithFields:
    """Extra values that are dicts, dataclasses or objects are dropped with a warning (opentelemetry-python#4421)."""

    def test_a_dataclass_arrives_as_structured_data(self) -> None:
        """Fields are keys; nested ones too; secrets and what the class hides from its repr are not told."""
        assert value_of(Point(Point(1))) == {
            "x": {"x": 1, "y": 2, "password": REDACTED},
            "y": 2,
            "password": REDACTED,
        }
        assert value_of(SlotPoint(1)) == {"x": 1, "_token": REDACTED}

    def test_a_dataclass_field_that_only_the_class_has_is_told(self) -> None:
        """A default that was never assigned on the instance is its value."""

        @dataclasses.dataclass
        class Late:
            x: int = dataclasses.field(default=5, init=False)
            gone: int = 0

        late = Late()
        late.__dict__.clear()
        del Late.gone
        assert value_of(late) == {"x": 5}

    def test_a_named_tuple_arrives_as_structured_data(self) -> None:
        """Fields are keys."""
        assert value_of(Pair(1, Pair("a", None))) == {"left": 1, "right": {"left": "a", "right": None}}
        assert value_of(collections.namedtuple("Secret", "token")("x")) == {"token": REDACTED}
        assert value_of(os.stat_result(range(10))) == list(range(10))

    def test_a_tuple_that_only_looks_like_a_named_one_keeps_its_items(self) -> None:
        """Names that do not fit the items are not used."""

        class Odd(tuple):
            __slots__ = ()
            _fields = ("a", "b")

        class Odder(tuple):
            __slots__ = ()
            _fields = 5

        assert value_of(Odd([1, 2, 3])) == [1, 2, 3]
        assert value_of(Odder([1, 2, 3])) == [1, 2, 3]

    def test_a_struct_arrives_as_structured_data(self) -> None:
        """Fields are keys."""
        assert value_of(StructPoint(StructPoint(1))) == {"x": {"x": 1, "api_key": REDACTED}, "api_key": REDACTED}

    def test_an_attrs_class_arrives_as_structured_data(self) -> None:
        """Fields are keys; what the class hides from its repr, or rewrites there, is not told."""
        attrs = pytest.importorskip("attrs")

        @attrs.define
        class Point:
            x: Any
            _secret: str = "geheim"
            hidden: str = attrs.field(default="geheim", repr=False)
            masked: str = attrs.field(default="geheim", repr=lambda _: "***")

        assert value_of(Point(Point(1))) == {"x": {"x": 1, "_secret": REDACTED}, "_secret": REDACTED}

    def test_a_pydantic_model_arrives_as_structured_data(self) -> None:
        """Fields and extra values are keys; what the class hides from its repr is not told."""
        pydantic = pytest.importorskip("pydantic")

        class Model(pydantic.BaseModel):
            model_config = pydantic.ConfigDict(extra="allow")
            x: Any
            key: pydantic.SecretStr = pydantic.SecretStr("geheim")
            hidden: str = pydantic.Field(default="geheim", repr=False)
            _private: int = 5

        assert value_of(Model(x=Model(x=1), more=[1])) == {
            "x": {"x": 1, "key": "<SecretStr>"},
            "key": "<SecretStr>",
            "more": [1],
        }

        class Strict(pydantic.BaseModel):
            x: int

        assert value_of(Strict(x=1)) == {"x": 1}

    def test_a_namespace_arrives_as_structured_data(self) -> None:
        """`types.SimpleNamespace` is a dict with dots."""
        assert value_of(types.SimpleNamespace(a=1, token="x")) == {"a": 1, "token": REDACTED}

    def test_many_fields_are_cut_like_many_keys(self) -> None:
        """`max_items` holds for fields."""
        wide = msgspec.defstruct("Wide", [(f"f{index}", int, index) for index in range(13)])
        assert value_of(wide()) == {**{f"f{index}": index for index in range(10)}, "__more__": "3 more keys"}

    def test_a_property_that_raises_costs_its_own_value_only(self) -> None:
        """The other fields arrive; the broken one is named by its error."""

        @dataclasses.dataclass
        class Odd:
            a: int
            b: int = 0
            c: int = 0

        def fail(self: Any) -> int:
            raise ValueError("geheim")

        def missing(self: Any) -> int:
            raise AttributeError

        odd = Odd(1)
        Odd.b = property(fail)  # type: ignore[assignment]
        Odd.c = property(missing)  # type: ignore[assignment]
        del odd.__dict__["b"], odd.__dict__["c"]
        assert value_of(odd) == {"a": 1, "b": "<ValueError>"}

    def test_a_lazy_attribute_does_not_ask_the_database(self) -> None:
        """A descriptor that is neither a slot nor a property is not touched."""

        class Lazy:
            def __get__(self, instance: Any, owner: Any = None) -> Any:
                raise AssertionError("a query")

        @dataclasses.dataclass
        class Row:
            a: int
            lazy: Any = None

        row = Row(1)
        del row.__dict__["lazy"]
        Row.lazy = Lazy()
        assert value_of(row) == {"a": 1}

    def test_an_overridden_attribute_access_is_not_asked(self) -> None:
        """`__getattr__` and `__getattribute__` may do anything."""

        @dataclasses.dataclass
        class Proxy:
            a: int

            def __getattribute__(self, name: str) -> Any:
                raise AssertionError("a remote call")

        assert value_of(Proxy(1)) == {"a": 1}


class TestOpaque:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (Foreign(), "<Foreign>"),
            (object(), "<object>"),
            (Foreign, "<class test_payload.Foreign>"),
            (int, "<class int>"),
            (LogVerbosityLevel, "<class mvx_logger.payload.LogVerbosityLevel>"),
            (value_of, "<function test_payload.value_of>"),
            (len, "<function len>"),
            ([].append, "<function list.append>"),
            (os.getpid, "<function posix.getpid>" if os.name == "posix" else "<function nt.getpid>"),
            (processor.normalize_payload, "<method mvx_logger.payload.LogPayloadProcessor.normalize_payload>"),
            (os.path, f"<module {os.path.__name__}>"),
            (functools.partial(len), "<partial>"),
            (threading.Lock(), "<lock>"),
            (weakref.proxy(Foreign), f"<{type(weakref.proxy(Foreign)).__name__}>"),
            (mock.MagicMock(), "<MagicMock>"),
            (typing.Any, None),
            (list[int], "<GenericAlias>"),
        ],
        ids=lambda value: value if type(value) is str else "",
    )
    def test_other_objects_are_named_by_their_type(self, value: Any, expected: str | None) -> None:
        """No ``repr`` or ``str`` of theirs is called; classes, functions and modules tell their name."""
        result = value_of(value)
        assert result.startswith("<") if expected is None else result == expected

    def test_a_module_without_a_name_is_still_told(self) -> None:
        """What tells no usable name is named by its type."""
        nameless = types.ModuleType("x")
        del nameless.__dict__["__name__"]
        assert value_of(nameless) == "<module>"

    def test_long_names_are_cut(self) -> None:
        """A generated class does not fill the log with its name."""
        assert len(value_of(type("X" * 1000, (), {})())) == 202
        assert len(value_of(type("X" * 1000, (), {}))) == 203

    def test_exceptions_tell_type_and_message(self) -> None:
        """The message is bounded; an exception that cannot say it still has a type."""

        class Mute(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        assert value_of(KeyError("x")) == {"type": "KeyError", "message": "'x'"}
        assert value_of(ValueError("x" * 300)) == {"type": "ValueError", "message": "x" * 200 + "..."}
        assert value_of(Mute()) == {"type": "Mute", "message": "<Mute>"}
        assert value_of(KeyboardInterrupt()) == {"type": "KeyboardInterrupt", "message": ""}
        assert value_of(LogSinkNotFoundError("no sink"))["code"] == "log_sink_not_found"


class TestKeys:
    def test_every_key_becomes_text(self) -> None:
        """Numbers, None, enums, bytes, tuples and dates are told as one would write them."""

        class Colour(enum.Enum):
            RED = "red"
            PAIR = (1, 2)

        class Text(str):
            __slots__ = ()

            def __str__(self) -> str:
                raise RuntimeError

        result = value_of(
            {
                1: "int",
                None: "none",
                True and 2.5: "float",
                Colour.RED: "enum",
                Colour.PAIR: "odd enum",
                b"raw\xff": "bytes",
                (1, "a", None, dt.date(2026, 5, 12)): "tuple",
                Text("text"): "text",
                pathlib.PurePosixPath("/srv"): "path",
            },
        )
        assert result == {
            "1": "int",
            "None": "none",
            "2.5": "float",
            "red": "enum",
            "PAIR": "odd enum",
            "raw\\xff": "bytes",
            "(1, 'a', None, '2026-05-12')": "tuple",
            "text": "text",
            "/srv": "path",
        }
        assert_plain(result)

    def test_keys_that_become_equal_keep_their_values(self) -> None:
        """Nothing is lost: the later one gets a number."""
        assert value_of({1: "a", "1": "b", b"1": "c"}) == {"1": "a", "1 (2)": "b", "1 (3)": "c"}
        assert value_of({"1 (2)": "x", 1: "a", "1": "b"}) == {"1 (2)": "x", "1": "a", "1 (3)": "b"}
        assert value_of({1: "a", "1": {"k": 1}, "token": 1, b"token": 2}) == {
            "1": "a",
            "1 (2)": {"k": 1},
            "token": REDACTED,
            "token (2)": REDACTED,
        }

    def test_thousands_of_equal_keys_take_linear_time(self) -> None:
        """Each finds its number without trying all the others."""

        class Same:
            def __str__(self) -> str:
                return "same"

        result = processor.normalize_payload({Same(): index for index in range(100_000)}, unbounded=True)
        assert list(result.values()) == list(range(100_000))
        assert list(result)[-1] == "same (100000)"

    def test_a_key_that_cannot_be_told_is_named_by_its_type(self) -> None:
        """Its value still arrives."""

        class Mute:
            def __str__(self) -> str:
                raise RuntimeError

        assert value_of({Mute(): 1, Mute(): 2, "a": 3}) == {"<Mute>": 1, "<Mute> (2)": 2, "a": 3}

    def test_long_keys_are_cut_and_stay_apart(self) -> None:
        """200 characters are kept, or `max_str_len` if that is more; a small `max_str_len` does not touch keys."""
        long = {"x" * 300 + "a": 1, "x" * 300 + "b": 2}
        assert processor.normalize_payload(long) == {"x" * 200 + "...": 1, "x" * 200 + "... (2)": 2}
        assert value_of({"x" * 300: 1}, max_str_len=300) == {"x" * 300: 1}
        assert value_of({"x" * 300: 1}) == {"x" * 200 + "...": 1}
        assert value_of({"order_id": 1}, max_str_len=2) == {"order_id": 1}

    def test_a_key_that_claims_to_be_another_does_not_take_its_place(self) -> None:
        """Keys with lying hashes and comparisons neither stay in the result nor hide another key."""

        class Liar:
            def __hash__(self) -> int:
                return hash("a")

            def __eq__(self, other: object) -> bool:
                return armed

            def __str__(self) -> str:
                return "liar"

        armed = False
        payload: dict[Any, Any] = {"a": 1, Liar(): 2, "b": 3}
        armed = True
        assert processor.normalize_payload(payload) == {"a": 1, "liar": 2, "b": 3}
        assert LogPayloadProcessor(max_items=2).normalize_payload(payload) == {
            "a": 1,
            "liar": 2,
            "__more__": "1 more keys",
        }

    def test_a_key_that_cannot_be_hashed_any_more_is_told(self) -> None:
        """A dict may hold what could no longer be put into it."""

        class Fickle:
            def __hash__(self) -> int:
                if armed:
                    raise RuntimeError
                return 1

            def __str__(self) -> str:
                return "fickle"

        armed = False
        payload: dict[Any, Any] = {"a": 1, Fickle(): 2, "b": 3}
        armed = True
        assert processor.normalize_payload(payload) == {"a": 1, "fickle": 2, "b": 3}
        assert LogPayloadProcessor(max_items=2).normalize_payload(payload)["fickle"] == 2

    def test_ever_new_keys_do_not_fill_the_memory(self) -> None:
        """A program that puts ids into keys pays for the last few thousand."""
        tested = LogPayloadProcessor()
        for index in range(10_000):
            tested.normalize_payload({f"warm up {index:0100}": 1})
        tracemalloc.start()
        for index in range(20_000):
            tested.normalize_payload({f"key {index:090}": 1, f"key {index:0150}": 1})
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 2_000_000


class TestSecrets:
    def test_secrets_are_redacted_at_any_depth(self) -> None:
        """The key stays, the value does not, whatever it is."""
        payload = {
            "password": "geheim",
            "user": {"name": "eve", "Token": {"geheim": "geheim"}, "list": [{"API_KEY": ["geheim"]}]},
            "headers": types.MappingProxyType({"Authorization": "geheim", b"Set-Cookie": b"geheim"}),
            "none": {"secret": None},
        }
        for result in (processor.normalize_payload(payload), processor.normalize_fields(payload)):
            assert result == {
                "password": REDACTED,
                "user": {"name": "eve", "Token": REDACTED, "list": [{"API_KEY": REDACTED}]},
                "headers": {"Authorization": REDACTED, "Set-Cookie": REDACTED},
                "none": {"secret": REDACTED},
            }
        assert processor.normalize_value_for_log({"pwd": 1}) == {"pwd": REDACTED}

    def test_a_secret_is_redacted_every_time(self) -> None:
        """What was remembered about keys does not let one through later."""
        tested = LogPayloadProcessor()
        for _ in range(3):
            for key in ("token", "TOKEN", "Token", "tokens"):
                assert tested.normalize_payload({key: "x"}) == {key: "x" if key == "tokens" else REDACTED}

    def test_a_secret_value_is_not_even_looked_at(self) -> None:
        """What is not shown is not described either."""

        class Bomb(Mapping[str, Any]):
            def __getitem__(self, key: str) -> Any:
                raise AssertionError

            __len__ = __iter__ = __getitem__  # type: ignore[assignment]

        assert processor.normalize_payload({"password": Bomb(), "x": {5: 1, "token": Bomb()}}) == {
            "password": REDACTED,
            "x": {"5": 1, "token": REDACTED},
        }

    @pytest.mark.parametrize(
        "key",
        [
            *("password", "passwd", "pwd", "passphrase", "secret", "client_secret", "token", "access_token"),
            *("refresh_token", "id_token", "auth_token", "api_key", "apikey", "api-key", "x-api-key", "X-API-Key"),
            *("authorization", "Authorization", "proxy-authorization", "cookie", "set-cookie", "Set-Cookie"),
            *("private_key", "privateKey", "credentials", "session_token", "aws_secret_access_key", "csrf_token"),
            *("accessToken", "clientSecret", "jwt", "bearer", "card_number", "cvv", "sessionid", "x_csrf_token"),
        ],
    )
    def test_the_usual_names_are_known(self, key: str) -> None:
        """In snake_case, with dashes, in camelCase and in any case."""
        assert processor.normalize_payload({key: "x"}) == {key: REDACTED}

    @pytest.mark.parametrize(
        "key",
        ["tokens", "token_count", "session_id", "key", "pass", "author", "user", "id", "passwords_changed", "", "path"],
    )
    def test_what_only_resembles_a_secret_is_shown(self, key: str) -> None:
        """Counts, ids and words that merely contain one."""
        assert processor.normalize_payload({key: "x"}) == {key: "x"}

    def test_the_known_names_are_lower_case(self) -> None:
        """They can be compared with the lower-cased key."""
        assert isinstance(DEFAULT_REDACT_KEYS, frozenset)
        assert all(key == key.lower() and key for key in DEFAULT_REDACT_KEYS)

    def test_redaction_can_be_extended_replaced_and_turned_off(self) -> None:
        """`redact_keys` replaces the set; an empty one turns it off, in descriptions by the objects themselves too."""
        payload = {"password": "x", "Iban": "y", "own": Described({"password": "x"})}
        off = {"password": "x", "Iban": "y", "own": {"password": "x"}}
        assert LogPayloadProcessor(redact_keys=()).normalize_payload(payload) == off
        assert LogPayloadProcessor(redact_keys=["IBAN"]).normalize_payload(payload) == off | {"Iban": REDACTED}
        more = LogPayloadProcessor(redact_keys=DEFAULT_REDACT_KEYS | {"iban"})
        assert more.normalize_payload(payload) == {
            "password": REDACTED,
            "Iban": REDACTED,
            "own": {"password": REDACTED},
        }
        changed = LogPayloadProcessor()
        assert changed.normalize_payload({"iban": 1}) == {"iban": 1}
        changed.set_redact_keys({"iban"})
        assert changed.normalize_payload({"iban": 1}) == {"iban": REDACTED}

    @settings(deadline=None)
    @given(st.sampled_from(sorted(DEFAULT_REDACT_KEYS)), st.data())
    def test_no_secret_survives_anywhere(self, key: str, data: st.DataObject) -> None:
        """In any nesting of containers and fields, in any case of the key."""
        cased = "".join(data.draw(st.sampled_from([char.lower(), char.upper()])) for char in key)
        nested: Any = {cased: "geheim", "other": 1}
        wraps = (
            lambda inner: [inner],
            lambda inner: {"k": inner},
            lambda inner: {5: inner},
            lambda inner: (0, inner),
            lambda inner: Point(inner),
            lambda inner: Pair(1, inner),
            lambda inner: types.MappingProxyType({"k": inner}),
            lambda inner: {f"k{index}": inner for index in range(12)},
        )
        if data.draw(st.booleans()):
            nested = Described({"k": [({"k": nested},)]})
        for wrap in data.draw(st.lists(st.sampled_from(wraps), max_size=4)):
            nested = wrap(nested)
        assert "geheim" not in str(processor.normalize_payload({"x": nested}))
        assert "geheim" not in str(processor.normalize_payload(nested))
        assert "geheim" not in str(processor.normalize_payload(nested, unbounded=True))


class TestProviders:
    def test_an_objects_own_description_is_used_as_it_is(self) -> None:
        """No limit is applied, no value is touched; only the dict itself is a copy."""
        marker = Foreign()
        own = {"marker": marker, "long": "x" * 500, "list": list(range(50)), 5: "five"}
        for result in (
            processor.normalize_payload(Described(own)),
            processor.normalize_fields(Described(own)),
            value_of(Described(own)),
            value_of([Described(own)])[0],
            processor.normalize_value_for_log(Described(own)),
        ):
            assert result == own
            assert result is not own
            assert all(result[key] is own[key] for key in own)

    def test_secrets_are_redacted_in_it_and_nothing_else_is_touched(self) -> None:
        """What has no secret inside is the same object; the object's own dict is not changed."""
        clean, marker = [{"a": 1}], Foreign()
        own = {
            "token": "geheim",
            "clean": clean,
            "inner": [1, ({"Password": "geheim", "m": marker},), clean],
            "sub": collections.OrderedDict(secret="geheim", a=clean),
        }
        result = value_of(Described(own))
        assert result["token"] == REDACTED
        assert result["clean"] is clean
        assert result["inner"] == [1, ({"Password": REDACTED, "m": marker},), clean]
        assert result["inner"][2] is clean
        assert result["sub"] == {"secret": REDACTED, "a": clean}
        assert own["token"] == "geheim"
        assert own["inner"][1][0]["Password"] == "geheim"  # type: ignore[index]

    def test_a_description_that_contains_itself_keeps_no_secret(self) -> None:
        """The search for secrets ends, and no way round leads to the original."""
        own: dict[str, Any] = {"token": "geheim"}
        own["self"] = own
        shared = {"token": "geheim"}
        own["twice"] = [shared, shared]
        result = processor.normalize_payload(Described(own))
        assert result["token"] == REDACTED
        assert "geheim" not in str(result)
        assert result["twice"] == [{"token": REDACTED}] * 2

    def test_whatever_it_is_otherwise_it_describes_itself(self) -> None:
        """An exception, a dict, a dataclass or an enum with `to_log_payload` is asked first."""

        class Error(Exception):
            def to_log_payload(self) -> dict[str, Any]:
                return {"own": 1}

        class Dict(dict[str, Any]):
            to_log_payload = Error.to_log_payload

        class Kind(enum.Enum):
            A = 1

            def to_log_payload(self) -> dict[str, Any]:
                return {"own": 1}

        for value in (Error(), Dict(a=1), Kind.A):
            assert value_of(value) == {"own": 1}
            assert processor.normalize_payload(value) == {"own": 1}
        assert value_of(LogSinkDescriptor("a", ("b",))) == {"sink_type": "a", "resource_key": ["b"], "config_key": []}

    def test_an_instance_may_bring_its_own(self) -> None:
        """The attribute may be on the object instead of its class."""
        assert processor.normalize_payload(types.SimpleNamespace(to_log_payload=lambda: {"own": 1})) == {"own": 1}
        loose = Foreign()
        loose.to_log_payload = lambda: {"own": 1}  # type: ignore[attr-defined]
        assert processor.normalize_payload(loose) == {"own": 1}
        assert value_of(loose) == {"own": 1}

    def test_the_class_of_such_objects_is_just_a_class(self) -> None:
        """A class is not asked to describe an instance."""
        assert value_of(Described) == "<class test_payload.Described>"

    @pytest.mark.parametrize("useless", [None, 5, [("a", 1)], "text"])
    def test_a_description_that_is_no_mapping_is_passed_over(self, useless: Any) -> None:
        """The built-in rules apply."""
        assert value_of(Described(useless)) == "<Described>"
        assert processor.normalize_payload(Described(useless)) == {"value": "<Described>"}

    def test_a_description_in_another_mapping_is_normalized(self) -> None:
        """Only a dict can be used as it is."""
        own = types.MappingProxyType({"a": (1,), "token": 1})
        assert value_of(Described(own)) == {"a": [1], "token": REDACTED}
        copied = value_of(Described(collections.OrderedDict(a=1)))
        assert copied == {"a": 1}
        assert type(copied) is dict

    def test_a_description_that_raises_is_reported_and_passed_over(self, reports: list[selflog.SelfLogReport]) -> None:
        """The value is described by the built-in rules; the error's text, which may hold a secret, is not told."""

        @dataclasses.dataclass
        class Broken:
            a: int

            def to_log_payload(self) -> dict[str, Any]:
                raise ValueError("geheim")

        assert value_of(Broken(1)) == {"a": 1}
        assert processor.normalize_payload(Broken(1)) == {"a": 1}
        assert processor.normalize_payload(Described(ValueError("geheim"))) == {"value": "<Described>"}
        assert [report.kind for report in reports] == ["payload"] * 3
        assert "<Broken>" in reports[0].to_line()
        assert "geheim" not in "".join(report.to_line() for report in reports)

    def test_a_class_may_opt_out(self) -> None:
        """`to_log_payload = None` takes an inherited description back."""

        class Plain(Described):
            to_log_payload = None  # type: ignore[assignment]

        assert value_of(Plain(1)) == "<Plain>"


class TestAdapters:
    def resolver(self, value: Any) -> Any:
        if isinstance(value, Foreign):
            return lambda value, verbosity: {"foreign": True, "verbosity": verbosity}
        return None

    def test_an_adapter_describes_a_foreign_value(self) -> None:
        """It is told the verbosity; other values follow the built-in rules."""
        tested = LogPayloadProcessor(log_adapter_resolver=self.resolver, verbosity_level=LogVerbosityLevel.MAXIMUM)
        expected = {"foreign": True, "verbosity": "MAXIMUM"}
        assert tested.normalize_payload({"x": [Foreign(), object()]}) == {"x": [expected, "<object>"]}
        assert tested.normalize_payload(Foreign()) == {"value": expected}
        assert tested.normalize_value_for_log(Foreign()) == expected

    def test_plain_values_never_reach_the_resolver(self) -> None:
        """Builtins are not foreign; their subclasses, dates and enums are."""
        asked: list[Any] = []
        tested = LogPayloadProcessor(log_adapter_resolver=asked.append)
        plain = [1, 0.5, True, None, "a", b"a", bytearray(b"a"), [1], (1,), {1}, frozenset({1}), {"a": 1}, range(2), 1j]
        for value in [*plain, memoryview(b"a"), collections.deque([1])]:
            tested.normalize_payload({"x": value})
        assert asked == []
        foreign = [dt.date(2026, 5, 12), LogVerbosityLevel.NORMAL, collections.OrderedDict(a=1), Point(1), ValueError()]
        for value in foreign:
            tested.normalize_payload({"x": value})
        assert asked == foreign

    def test_an_adapter_wins_over_the_built_in_rules_and_a_provider_over_it(self) -> None:
        """An object that describes itself is not given to the resolver."""

        def resolver(value: Any) -> Any:
            return lambda value, verbosity: {"adapted": type(value).__name__}

        tested = LogPayloadProcessor(log_adapter_resolver=resolver)
        assert tested.normalize_payload({"x": Point(1)}) == {"x": {"adapted": "Point"}}
        assert tested.normalize_payload({"x": dt.date(2026, 5, 12)}) == {"x": {"adapted": "date"}}
        assert tested.normalize_payload(collections.OrderedDict(a=1)) == {"adapted": "OrderedDict"}
        assert tested.normalize_payload({"x": Described({"own": 1})}) == {"x": {"own": 1}}
        assert tested.normalize_payload({"x": Described(None)}) == {"x": {"adapted": "Described"}}

    def test_what_an_adapter_returns_is_bounded_and_searched_for_secrets(self) -> None:
        """It is normalized like any other value."""
        wild = {"token": "geheim", "long": "x" * 300, "list": list(range(20)), "foreign": object(), 5: (1,)}
        tested = LogPayloadProcessor(log_adapter_resolver=lambda value: lambda value, verbosity: wild)
        tested.set_log_adapter_resolver(
            lambda value: (lambda v, verbosity: wild) if isinstance(value, Foreign) else None
        )
        result = tested.normalize_payload({"x": Foreign()})["x"]
        assert result == {
            "token": REDACTED,
            "long": "x" * 200 + "...",
            "list": [*range(10), "... (10 more)"],
            "foreign": "<object>",
            "5": [1],
        }

    @pytest.mark.parametrize(
        ("adapter", "expected"),
        [
            (lambda value, verbosity: None, "<Foreign>"),
            (lambda value, verbosity: value, "<Foreign>"),
            (lambda value, verbosity: {"self": value}, {"self": "<cycle>"}),
            (lambda value, verbosity: [value, 1], ["<cycle>", 1]),
            (lambda value, verbosity: "text", "text"),
            (lambda value, verbosity: Foreign(), "<Foreign>"),
            (lambda value, verbosity: types.MappingProxyType({"a": 1}), {"a": 1}),
        ],
    )
    def test_an_adapter_that_describes_badly_ends(self, adapter: Any, expected: Any) -> None:
        """The same value again, a new foreign one without end, or something else than a dict."""

        def resolver(value: Any) -> Any:
            return adapter if isinstance(value, Foreign) else None

        assert LogPayloadProcessor(log_adapter_resolver=resolver).normalize_payload({"x": Foreign()}) == {"x": expected}

    def test_an_adapter_that_always_answers_with_another_foreign_value_is_asked_a_few_times(self) -> None:
        """Once for each level that the value could have."""
        asked: list[Any] = []

        def adapter(value: Any, verbosity: str) -> Any:
            asked.append(value)
            return Foreign()

        tested = LogPayloadProcessor(log_adapter_resolver=lambda value: adapter, max_depth=3)
        assert tested.normalize_payload({"x": Foreign()}) == {"x": "<Foreign>"}
        assert len(asked) == 3

    def test_an_adapter_that_nests_without_end_stops_at_the_depth(self) -> None:
        """A new foreign value in each description."""

        def resolver(value: Any) -> Any:
            return (lambda value, verbosity: {"next": Foreign()}) if isinstance(value, Foreign) else None

        tested = LogPayloadProcessor(log_adapter_resolver=resolver, max_depth=3)
        assert tested.normalize_payload({"x": Foreign()}) == {"x": {"next": {"next": {"next": "<Foreign>"}}}}

    def test_an_adapter_that_raises_is_reported_and_passed_over(self, reports: list[selflog.SelfLogReport]) -> None:
        """The built-in rules apply, whether the resolver or the adapter failed."""

        def fail(*_: Any) -> Any:
            raise ValueError("geheim")

        for resolver in (fail, lambda value: fail, lambda value: 5):
            tested = LogPayloadProcessor(log_adapter_resolver=resolver)  # type: ignore[arg-type]
            assert tested.normalize_payload({"x": Pair(1, 2)}) == {"x": {"left": 1, "right": 2}}
        assert [report.kind for report in reports] == ["payload"] * 3
        assert "geheim" not in "".join(report.to_line() for report in reports)


class Hostile:
    """Raises whatever it is asked, and lies about its class."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return dict
        raise RuntimeError(name)

    def _fail(self, *_: Any) -> Any:
        raise RuntimeError

    __str__ = __repr__ = __len__ = __iter__ = __getitem__ = __eq__ = __bool__ = __hash__ = __format__ = _fail  # type: ignore[assignment]


class HostileList(list[Any]):
    __len__ = __iter__ = __getitem__ = __bool__ = __str__ = __repr__ = Hostile._fail  # type: ignore[assignment]


class HostileDict(dict[Any, Any]):
    __len__ = __iter__ = __getitem__ = items = keys = copy = __bool__ = Hostile._fail  # type: ignore[assignment]


class HostileSet(set[Any]):
    __len__ = __iter__ = __contains__ = copy = Hostile._fail  # type: ignore[assignment]


class HostileMapping(Mapping[Any, Any]):
    __len__ = __iter__ = __getitem__ = Hostile._fail  # type: ignore[assignment]


class HostileSequence(Sequence[Any]):
    __len__ = __iter__ = __getitem__ = Hostile._fail  # type: ignore[assignment]


class HostileMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError(name)

    def __hash__(cls) -> int:
        raise RuntimeError

    def __eq__(cls, other: object) -> bool:
        raise RuntimeError

    def __instancecheck__(cls, instance: Any) -> bool:
        raise RuntimeError

    __subclasscheck__ = __instancecheck__  # type: ignore[assignment]


class OfHostileClass(metaclass=HostileMeta):
    pass


class LyingMeta(type):
    """Its classes pass for ``int`` and ``dict`` wherever classes are compared."""

    def __hash__(cls) -> int:
        return hash(dict)

    def __eq__(cls, other: object) -> bool:
        return True

    __name__ = "int"


class OfLyingClass(metaclass=LyingMeta):
    pass


class Endless(Sequence[Any]):
    """A sequence that never ends and says that it is short."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        return index


class Liar(Sequence[Any]):
    """Says that it is long, and is short."""

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: Any) -> Any:
        return [1, 2, 3][index]


class BreaksOff(Mapping[str, Any]):
    """Gives two of its five items, then raises."""

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[str]:
        yield "a"
        yield "b"
        raise RuntimeError

    def __getitem__(self, key: str) -> Any:
        return key


class TestAPayloadThatFightsBack:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (Hostile(), "<Hostile>"),
            (HostileList([1, "a"]), [1, "a"]),
            (HostileDict(a=1, token=2), {"a": 1, "token": REDACTED}),
            (HostileSet([1]), [1]),
            (HostileMapping(), "<HostileMapping>"),
            (HostileSequence(), "<HostileSequence>"),
            (OfHostileClass(), "<OfHostileClass>"),
            (OfLyingClass(), "<OfLyingClass>"),
            (OfHostileClass, "<class test_payload.OfHostileClass>"),
            (OfLyingClass, "<class test_payload.OfLyingClass>"),
            (Endless(), [*range(10), "... (1+ more)"]),
            (Liar(), [1, 2, 3]),
            (BreaksOff(), {"a": "a", "b": "b", "__more__": "3 more keys"}),
        ],
        ids=lambda value: type.__dict__["__name__"].__get__(type(value)),
    )
    def test_it_is_described_as_well_as_it_can_be(self, value: Any, expected: Any) -> None:
        """At the top, nested, and as a value of its own, also beside good neighbours."""
        assert value_of(value) == expected
        assert value_of([1, value]) == [1, expected]
        assert processor.normalize_value_for_log(value) == expected
        is_mapping = type(expected) is dict
        assert processor.normalize_payload(value) == (expected if is_mapping else {"value": expected})
        assert_plain(processor.normalize_payload({"a": {5: value}}))

    def test_a_mapping_whose_length_raises_still_says_that_there_is_more(self) -> None:
        """The number is the one that is known."""

        class Unknown(BreaksOff):
            def __len__(self) -> int:
                raise RuntimeError

        assert value_of(Unknown()) == {"a": "a", "b": "b", "__more__": "1+ more keys"}

    def test_a_mapping_with_odd_items_is_named(self) -> None:
        """Items that are no pairs cost the mapping."""

        class Odd(BreaksOff):
            def items(self) -> Any:
                return [1, 2, 3]

        odd = Odd()
        assert value_of([odd, {"a": odd}, odd]) == ["<Odd>", {"a": "<Odd>"}, "<Odd>"]

    def test_cycles_end(self) -> None:
        """Of every kind of container, directly and by a detour, and in the payload itself."""
        cycle: list[Any] = [1]
        cycle.append(cycle)
        assert value_of(cycle) == [1, "<cycle>"]
        payload: dict[str, Any] = {"a": 1}
        payload["self"] = payload
        payload["list"] = [payload]
        assert processor.normalize_payload(payload) == {"a": 1, "self": "<cycle>", "list": ["<cycle>"]}
        point = Point(1)
        point.x = {5: [point], "t": (point,)}
        assert value_of(point)["x"] == {"5": ["<cycle>"], "t": ["<cycle>"]}
        queue: collections.deque[Any] = collections.deque()
        queue.append((queue,))
        assert value_of(queue) == [["<cycle>"]]
        for holder, fill in (
            (types.SimpleNamespace(), lambda holder: holder.__dict__.update(x=holder)),
            (collections.UserDict(), lambda holder: holder.update(x=holder)),
            (HostileDict(), lambda holder: dict.__setitem__(holder, "x", holder)),
            ({5: 1}, lambda holder: holder.update(x=holder)),
            ({"a" * 300: 1}, lambda holder: holder.update(x=holder)),
        ):
            fill(holder)
            assert value_of(holder)["x"] == "<cycle>"
        inner: list[Any] = []
        outer = (inner,)
        inner.append(outer)
        assert value_of(outer) == [["<cycle>"]]
        long: list[Any] = [0] * 9
        long += [long] * 9
        assert value_of(long) == [0] * 9 + ["<cycle>", "... (8 more)"]

    def test_names_of_classes_may_be_odd_text(self) -> None:
        """A class can be named by a str that fights back itself."""

        class Name(str):
            __slots__ = ()
            __format__ = __str__ = __repr__ = __len__ = __radd__ = __add__ = __getitem__ = Hostile._fail  # type: ignore[assignment]

        odd = type(Name("Odd"), (), {})
        assert value_of(odd()) == "<Odd>"
        assert_plain(value_of(odd))
        assert_plain(value_of(type(Name("OddError"), (Exception,), {})("x")))

    def test_texts_that_are_no_plain_text_become_plain(self) -> None:
        """A ``__str__`` that returns a subclass, and an ``isoformat`` that returns something else."""

        class Text(str):
            __slots__ = ()

        class Path(pathlib.PurePosixPath):
            def __str__(self) -> str:
                return Text("text")

        class Date(dt.date):
            def isoformat(self) -> Any:
                return 5

        class Key:
            def __str__(self) -> str:
                return Text("key")

        assert type(value_of(Path("x"))) is str
        assert value_of(Date(2026, 5, 12)) == "<Date>"
        assert_plain(value_of({Key(): 1}))

    def test_fields_that_lie_are_no_fields(self) -> None:
        """A class that only claims to be a dataclass or an attrs class is named by its type."""

        class Fake:
            __dataclass_fields__ = 5

        class FakeAttrs:
            __attrs_attrs__ = 5

        class Mapped:
            __dict__ = 5  # type: ignore[assignment]

        assert value_of(Fake()) == "<Fake>"
        assert value_of(FakeAttrs()) == "<FakeAttrs>"
        assert value_of(Mapped()) == "<Mapped>"

    def test_functions_with_odd_names_are_named_by_their_type(self) -> None:
        """A module that is no str is left out."""

        def function() -> None: ...

        function.__module__ = 5  # type: ignore[assignment]
        function.__qualname__ = "shop.place"
        assert value_of(function) == "<function shop.place>"
        assert value_of(types.MethodType(functools.partial(len), 5)) == "<method>"

    @pytest.mark.parametrize("make", [dict, list, collections.deque, set, collections.OrderedDict])
    def test_a_container_that_another_thread_changes_is_described(self, make: Any) -> None:
        """No error, no endless loop; what was there at some moment arrives."""
        shared = make()
        stop = threading.Event()

        def change() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                if isinstance(shared, dict):
                    shared[f"k{number % 50}"] = number
                    if number % 3 == 0:
                        shared.pop(f"k{number // 3 % 50}", None)
                elif isinstance(shared, set):
                    shared.add(number % 50)
                    shared.discard(number * 7 % 50)
                else:
                    shared.append(number)
                    if len(shared) > 30:
                        shared.clear()

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        thread = threading.Thread(target=change)
        thread.start()
        try:
            deadline = time.monotonic() + 20
            for _ in range(3_000):
                for limit in (10, 100):
                    tested = LogPayloadProcessor(max_items=limit)
                    result = tested.normalize_payload({"x": shared})["x"]
                    assert type(result) in (dict, list, str)
                    assert_plain(tested.normalize_payload(shared))
                assert time.monotonic() < deadline
        finally:
            stop.set()
            thread.join()
            sys.setswitchinterval(interval)

    def test_a_dict_that_changes_while_it_is_read_is_read_again(self) -> None:
        """Deterministically: a value that changes its own dict, and a key that does when it is hashed."""
        payload: dict[Any, Any] = {}

        class Changes(Mapping[str, Any]):
            def __len__(self) -> int:
                return 1

            def __iter__(self) -> Iterator[str]:
                payload[f"new {len(payload)}"] = 1
                return iter(["a"])

            def __getitem__(self, key: str) -> Any:
                return 1

        class Key:
            def __hash__(self) -> int:
                payload[f"new {len(payload)}"] = 1
                return 1

            def __str__(self) -> str:
                return "key"

        payload.update({"a": Changes(), "b": 1})
        assert processor.normalize_payload(payload) == {"a": {"a": 1}, "b": 1}
        payload.clear()
        payload["a"] = Changes()
        payload[Key()] = 1
        for index in range(20):
            payload[f"k{index}"] = index
        result = processor.normalize_payload(payload)
        assert result["a"] == {"a": 1}
        assert len(result) == 11

    def test_an_ordered_dict_that_changes_while_it_is_read_is_read_again(self) -> None:
        """It hashes its keys when it is read, and a key may change it."""

        class Key:
            def __hash__(self) -> int:
                if armed:
                    armed.pop()
                    ordered["new"] = 1
                return 1

            def __str__(self) -> str:
                return "key"

        armed: list[int] = []
        ordered: collections.OrderedDict[Any, Any] = collections.OrderedDict({"a": 1, Key(): 2, "b": 3, "c": 4})
        armed.append(1)
        assert value_of(ordered) == {"a": 1, "key": 2, "b": 3, "c": 4}
        assert not armed

    def test_a_collection_that_never_holds_still_is_named(self) -> None:
        """After a few attempts its type has to do."""

        class Restless(collections.deque[Any]):
            pass

        restless = Restless(range(5))

        class Shakes:
            def __len__(self) -> int:
                return 5

            def __iter__(self) -> Iterator[Any]:
                yield 1
                raise RuntimeError("deque mutated during iteration")

        describe = payload_module._iterated(Shakes)
        walk = payload_module._begin(LogPayloadProcessor()._settings, False, set())
        assert describe(walk, Shakes(), 1) == "<Shakes>"
        assert value_of(restless) == [0, 1, 2, 3, 4]

    def test_a_recursion_without_end_costs_one_value(self) -> None:
        """A property or description that calls itself is named by its type, and its neighbours arrive."""

        class Endless:
            def to_log_payload(self) -> dict[str, Any]:
                return self.to_log_payload()

        assert processor.normalize_payload({"a": 1, "x": Endless(), "b": 2}) == {"a": 1, "x": "<Endless>", "b": 2}

    def test_a_payload_deeper_than_the_stack_is_cut(self) -> None:
        """`max_depth` beyond what Python can recurse does no harm."""
        deep: Any = "end"
        for _ in range(50_000):
            deep = [deep]
        tested = LogPayloadProcessor(max_depth=10**6)
        result = tested.normalize_payload({"a": 1, "deep": deep})
        assert result["a"] == 1
        while type(result) is not str:
            result = result["deep"] if type(result) is dict else result[0]
        assert result in ("<list>", "<not described>")
        own: Any = {"token": 1}
        for _ in range(50_000):
            own = [own]
        assert tested.normalize_payload({"a": 1, "own": Described({"x": own})})["a"] == 1
        while deep != "end":
            deep = deep[0]

    @pytest.mark.untraced
    def test_nothing_raises_with_the_stack_nearly_full(self) -> None:
        """At every distance from the recursion limit something plain comes out."""
        payload = {"a": 1, "list": [[1]], "point": Point(1), "d": dt.date(2026, 5, 12)}
        results: list[Any] = []
        refusals: list[RecursionError] = []

        def deeper(left: int) -> None:
            if left:
                deeper(left - 1)
                return
            for call in (
                LogPayloadProcessor.normalize_payload,
                LogPayloadProcessor.normalize_fields,
                LogPayloadProcessor.normalize_value_for_log,
            ):
                try:
                    results.append(call(processor, payload | {f"never seen before {len(results)}": 1}))
                    results.append(call(processor, payload))
                    results.append(call(processor, Point(1)))
                except RecursionError as error:
                    refusals.append(error)

        depth = 0
        while not refusals:
            depth += 1
            try:
                deeper(depth)
            except RecursionError:
                break
            for result in results[-9:]:
                assert_plain(result)
        # Where there is no room for the call itself, the error is the caller's.
        for refusal in refusals:
            traceback = refusal.__traceback__
            while traceback is not None:
                assert traceback.tb_frame.f_code.co_filename != payload_module.__file__
                traceback = traceback.tb_next
        assert len(results) > 100
        assert {"a": 1, "list": "<not described>", "point": "<not described>", "d": "<not described>"} in results

    def test_a_hook_that_logs_its_own_object_does_not_freeze_the_process(self) -> None:
        """Each call would make two more: a description and an adapter alike are asked a few times only."""
        calls: list[str] = []

        class Chatty:
            def to_log_payload(self) -> dict[str, Any]:
                calls.append("description")
                return {"a": processor.normalize_payload({"x": self}), "b": processor.normalize_value_for_log(self)}

        def adapter(value: Any, verbosity: str) -> dict[str, Any]:
            calls.append("adapter")
            return {"a": tested.normalize_payload({"x": value}), "b": tested.normalize_value_for_log(value)}

        tested = LogPayloadProcessor(log_adapter_resolver=lambda value: adapter)
        assert processor.normalize_payload({"x": Chatty()})["x"].keys() == {"a", "b"}
        assert tested.normalize_payload({"x": Foreign()})["x"].keys() == {"a", "b"}
        assert len(calls) < 20
        assert value_of(Described({"own": 1})) == {"own": 1}

    def test_what_a_hook_logs_is_the_loggers_own_doing(self) -> None:
        """A description that logs is marked, so that no record of it enters a sink again; afterwards nothing is."""
        marks: list[bool] = []

        class Logs:
            def to_log_payload(self) -> dict[str, Any]:
                marks.append(is_internal())
                raise ValueError

        def adapter(value: Any, verbosity: str) -> dict[str, Any]:
            marks.append(is_internal())
            raise ValueError

        previous = selflog.redirect(lambda report: None)
        try:
            LogPayloadProcessor(log_adapter_resolver=lambda value: adapter).normalize_payload({"x": Logs()})
        finally:
            selflog.redirect(previous)
        assert marks == [True, True]
        assert not is_internal()

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_what_is_no_ordinary_error_passes(self, error: type[BaseException]) -> None:
        """Ctrl-C during a slow description still ends the program."""

        class Slow:
            def to_log_payload(self) -> dict[str, Any]:
                raise error

        with pytest.raises(error):
            processor.normalize_payload({"x": Slow()})
        assert processor.normalize_payload({"x": [1]}) == {"x": [1]}

    def test_thousands_of_classes_do_not_fill_the_memory(self) -> None:
        """Classes that a program makes on the fly are forgotten again."""
        classes = []
        for index in range(3_000):
            kind = type(f"Kind{index}", (), {})
            classes.append(weakref.ref(kind))
            assert value_of(kind()) == f"<Kind{index}>"
        del kind
        gc.collect()
        assert sum(reference() is not None for reference in classes) <= 1_100


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=30),
    st.text(min_size=195, max_size=210),
    st.binary(max_size=30),
    st.binary(min_size=195, max_size=210),
    st.datetimes(),
    st.uuids(),
    st.decimals(),
    st.sampled_from([*LogVerbosityLevel, Foreign, len, range(5), range(20)]),
    # By name: hypothesis hashes and prints what it samples from.
    st.sampled_from(
        [
            *("Foreign", "Endless", "Liar", "BreaksOff", "Hostile", "HostileMapping", "HostileSequence"),
        ]
    ).map(lambda name: globals()[name]()),
    # In a list: hypothesis compares the classes of what it makes.
    st.sampled_from(["OfHostileClass", "OfLyingClass"]).map(lambda name: [globals()[name]()]),
)
keys = st.one_of(
    st.text(max_size=8),
    st.text(min_size=198, max_size=205),
    st.integers(0, 5),
    st.none(),
    st.booleans(),
    st.binary(max_size=3),
    st.tuples(st.integers(0, 3), st.text(max_size=2)),
    st.sampled_from([*LogVerbosityLevel, "token", b"token", "__more__", Foreign, "1", "None", "True"]),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=14),
        st.lists(inner, max_size=4).map(tuple),
        st.lists(inner, max_size=4).map(collections.deque),
        st.lists(inner, max_size=4).map(HostileList),
        st.dictionaries(keys, inner, max_size=14),
        st.dictionaries(keys, inner, max_size=4).map(HostileDict),
        st.dictionaries(keys, inner, max_size=4).map(types.MappingProxyType),
        st.dictionaries(st.text(max_size=4), inner, max_size=4).map(lambda found: types.SimpleNamespace(**found)),
        st.builds(Point, inner, inner),
        st.builds(SlotPoint, inner),
        st.builds(StructPoint, inner),
        st.builds(Pair, inner, inner),
        st.builds(ValueError, inner.map(lambda value: "x")),
    ),
    max_leaves=40,
)


def assert_bounded(value: Any, tested: LogPayloadProcessor, depth: int) -> None:
    if type(value) in (str, bytes):
        # A mark names a type of up to 200 characters.
        assert len(value) <= max(tested.max_str_len + 3, 203)
        return
    if type(value) in (dict, list):
        assert depth <= tested.max_depth
        assert len(value) <= tested.max_items + 1
        for inner in value.values() if type(value) is dict else value:
            assert_bounded(inner, tested, depth + 1)
        if type(value) is dict:
            assert all(len(key) <= 215 for key in value)


def without_marks(value: Any) -> Any:
    if type(value) is list:
        return [without_marks(item) for item in value if not (type(item) is str and item.endswith(" more)"))]
    if type(value) is dict:
        return {
            key: without_marks(item)
            for key, item in value.items()
            if not (type(item) is str and item.endswith("more keys"))
        }
    return "nan" if type(value) is float and math.isnan(value) else value


class TestProperties:
    @settings(max_examples=often(150), deadline=None)
    @given(values, st.booleans(), st.integers(1, 12), st.integers(0, 6), st.sampled_from([3, 200]))
    def test_only_plain_bounded_data_comes_out(
        self, value: Any, unbounded: bool, max_items: int, max_depth: int, max_str_len: int
    ) -> None:
        """Whatever goes in: exact plain types, within all limits, and the same for the whole and for the value."""
        tested = LogPayloadProcessor(max_items=max_items, max_depth=max_depth, max_str_len=max_str_len)
        for result in (
            tested.normalize_payload({"x": value}, unbounded=unbounded),
            tested.normalize_payload(value, unbounded=unbounded),
            tested.normalize_fields({"x": value}),
        ):
            assert type(result) is dict
            assert_plain(result)
        assert_plain(tested.normalize_value_for_log(value, unbounded=unbounded))
        assert_bounded(tested.normalize_payload({"x": value}), tested, 0)
        assert_bounded(tested.normalize_payload(value), tested, 0)
        assert tested.normalize_fields({"x": value}).keys() == {"x"}

    @settings(max_examples=often(120), deadline=None)
    @given(values)
    def test_what_was_normalized_stays_what_it_is(self, value: Any) -> None:
        """Normalizing again changes nothing but the marks of what was cut."""
        once = processor.normalize_payload({"x": value})
        assert without_marks(processor.normalize_payload(once)) == without_marks(once)

    @settings(max_examples=often(100), deadline=None)
    @given(
        st.recursive(
            st.none() | st.integers() | st.text(max_size=300),
            lambda inner: st.lists(inner, max_size=14) | st.dictionaries(st.text(max_size=3) | st.integers(), inner),
        )
    )
    def test_the_payload_is_not_touched(self, value: Any) -> None:
        """The caller's objects are the same afterwards, and none of them is in the result."""
        before = copy.deepcopy(value)
        result = processor.normalize_payload({"x": value})
        assert value == before
        assert not {id(part) for part in containers_in(value)} & {id(part) for part in containers_in(result)}

    @settings(max_examples=often(100), deadline=None)
    @given(
        st.dictionaries(
            st.text(max_size=20).filter(lambda key: key.lower() not in DEFAULT_REDACT_KEYS),
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=200),
            max_size=10,
        )
    )
    def test_plain_payloads_within_the_limits_are_unchanged(self, payload: dict[str, Any]) -> None:
        """By each of the three ways in, and with the long way round that a foreign mapping takes."""
        assert processor.normalize_payload(payload) == payload
        assert processor.normalize_fields(payload) == payload
        assert processor.normalize_value_for_log(payload) == payload
        assert processor.normalize_payload(types.MappingProxyType(payload)) == payload
        assert list(processor.normalize_payload(payload)) == list(payload)

    @settings(max_examples=often(100), deadline=None)
    @given(st.dictionaries(keys, st.integers(), max_size=10))
    def test_no_value_is_lost_whatever_the_keys_become(self, payload: dict[Any, int]) -> None:
        """As many keys come out as went in."""
        result = LogPayloadProcessor(redact_keys=()).normalize_payload(payload)
        assert list(result.values()) == list(payload.values())


SETTINGS = [
    ("verbosity_level", LogVerbosityLevel.NORMAL, LogVerbosityLevel.MINIMAL),
    ("max_str_len", 200, 7),
    ("max_items", 10, 7),
    ("max_depth", 5, 0),
    ("log_adapter_resolver", None, TestAdapters().resolver),
    ("redact_keys", DEFAULT_REDACT_KEYS, frozenset({"iban"})),
]


class TestSettings:
    @pytest.mark.parametrize(("name", "default", "other"), SETTINGS)
    def test_each_can_be_given_set_and_reset(self, name: str, default: Any, other: Any) -> None:
        """By the constructor, by `set_X`, back by `reset_X`; None means the default."""
        tested = LogPayloadProcessor()
        assert getattr(tested, name) == default
        getattr(tested, f"set_{name}")(other)
        assert getattr(tested, name) == other
        getattr(tested, f"reset_{name}")()
        assert getattr(tested, name) == default
        assert getattr(LogPayloadProcessor(**{name: other}), name) == other
        assert getattr(LogPayloadProcessor(**{name: None}), name) == default
        getattr(tested, f"set_{name}")(other)
        getattr(tested, f"set_{name}")(None)
        assert getattr(tested, name) == default

    def test_a_change_holds_from_the_next_payload_on(self) -> None:
        """Each setting is looked at anew in each call."""
        tested = LogPayloadProcessor()
        payload = {"text": "x" * 20, "list": [[1, 2]], "iban": 1}
        assert tested.normalize_payload(payload) == payload
        tested.set_max_str_len(3)
        tested.set_max_items(1)
        tested.set_max_depth(0)
        tested.set_redact_keys(("iban",))
        assert tested.normalize_fields(payload) == {"text": "xxx...", "list": "<list>", "iban": REDACTED}
        assert tested.normalize_payload(payload) == {"text": "xxx...", "__more__": "2 more keys"}

    def test_verbosity_may_be_given_by_its_value(self) -> None:
        """The str of a data file becomes the level; its plain text is what others are told."""
        tested = LogPayloadProcessor(verbosity_level="MINIMAL")
        assert tested.verbosity_level is LogVerbosityLevel.MINIMAL
        assert tested.get_plain_verbosity_level() == "MINIMAL"
        assert type(tested.get_plain_verbosity_level()) is str
        assert [level.value for level in LogVerbosityLevel] == ["MINIMAL", "NORMAL", "MAXIMUM"]

    @pytest.mark.parametrize("name", ["max_str_len", "max_items", "max_depth"])
    @pytest.mark.parametrize(
        ("value", "error", "text"),
        [
            (-1, ValueError, "expected 0 or more, got -1"),
            (True, TypeError, "expected an int or None, got bool"),
            ("5", TypeError, "expected an int or None, got str"),
            (5.0, TypeError, "expected an int or None, got float"),
        ],
    )
    def test_a_limit_that_is_none_is_refused(self, name: str, value: Any, error: type[Exception], text: str) -> None:
        """The error names the argument, what was expected and what was found; nothing has changed."""
        tested = LogPayloadProcessor()
        before = getattr(tested, name)
        for call in (lambda: LogPayloadProcessor(**{name: value}), lambda: getattr(tested, f"set_{name}")(value)):
            with pytest.raises(error) as caught:
                call()
            assert str(caught.value) == f"{name}: {text}"
        assert getattr(tested, name) == before

    @pytest.mark.parametrize(
        ("arguments", "error", "text"),
        [
            ({"verbosity_level": 5}, TypeError, "verbosity_level: expected a LogVerbosityLevel or None, got int"),
            (
                {"verbosity_level": "LOUD"},
                ValueError,
                "verbosity_level: expected one of 'MINIMAL', 'NORMAL', 'MAXIMUM', got 'LOUD'",
            ),
            ({"log_adapter_resolver": 5}, TypeError, "log_adapter_resolver: expected a callable or None, got int"),
            (
                {"redact_keys": "password"},
                TypeError,
                "redact_keys: expected a collection of keys, got a single str; write it as (key,)",
            ),
            ({"redact_keys": 5}, TypeError, "redact_keys: expected a collection of keys, got int"),
            ({"redact_keys": ["a", 5]}, TypeError, "redact_keys: expected keys of type str, got int"),
        ],
    )
    def test_a_wrong_setting_is_refused(self, arguments: Any, error: type[Exception], text: str) -> None:
        """The error names the argument, what was expected and what was found."""
        with pytest.raises(error) as caught:
            LogPayloadProcessor(**arguments)
        assert str(caught.value) == text

    def test_limits_may_be_as_large_as_one_likes(self) -> None:
        """What no container can reach is no limit."""
        tested = LogPayloadProcessor(max_items=10**30, max_str_len=10**30, max_depth=10**30)
        payload = {"list": list(range(100)), "text": "x" * 1_000, "bytes": b"x" * 1_000, "liar": [1]}
        assert tested.normalize_payload(payload) == payload
        assert tested.normalize_payload({"x": Liar()}) == {"x": [1, 2, 3]}

    def test_changes_from_many_threads_are_all_kept(self) -> None:
        """No setting is lost because another was set at the same moment."""
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for round_number in range(1, 200):
                tested = LogPayloadProcessor()
                names = ("max_str_len", "max_items", "max_depth")
                gate = threading.Barrier(len(names))

                def change(name: str, tested: LogPayloadProcessor = tested, gate: threading.Barrier = gate) -> None:
                    gate.wait()
                    for number in range(5):
                        getattr(tested, f"set_{name}")(number + round_number)  # noqa: B023

                threads = [threading.Thread(target=change, args=(name,)) for name in names]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert [getattr(tested, name) for name in names] == [round_number + 4] * 3
        finally:
            sys.setswitchinterval(interval)

    def test_its_repr_tells_the_limits(self) -> None:
        """And no list of keys."""
        assert repr(processor) == (
            "LogPayloadProcessor(verbosity_level='NORMAL', max_str_len=200, max_items=10, max_depth=5)"
        )
