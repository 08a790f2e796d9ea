"""The event model: immutable, comparable, cheap, and open to more fields."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvx_logger import LogEvent, LogEventMeta, LogEventOrigin, LogException, LogLevel, LogSinkDescriptor, LogStack

TEXT = st.one_of(st.none(), st.text(max_size=5))
METAS = st.builds(LogEventMeta, TEXT, st.text(max_size=5), TEXT, TEXT, st.one_of(st.none(), st.integers(0, 99)), TEXT)
EXCEPTIONS = st.builds(LogException, st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))
EVENTS = st.builds(
    LogEvent,
    st.integers(-100, 100),
    METAS,
    TEXT,
    st.floats(allow_nan=False, allow_infinity=False),
    st.dictionaries(st.text(max_size=3), st.one_of(st.integers(-9, 9), st.text(max_size=3), st.none()), max_size=3),
    TEXT,
    st.one_of(st.none(), EXCEPTIONS),
    st.one_of(st.none(), st.builds(LogStack, st.text(max_size=5))),
    st.one_of(st.none(), st.builds(LogEventOrigin, system=st.sampled_from(["logging", "structlog"]), level_name=TEXT)),
)

SAMPLES: list[Any] = [
    LogEventMeta("shop", "order.created"),
    LogEvent(20, LogEventMeta(None, "e"), None, 0.0, {"a": 1}),
    LogException("ValueError", "x", "ValueError: x"),
    LogStack("Stack"),
    LogEventOrigin(system="logging"),
    LogSinkDescriptor("t", ("x",)),
]


class TestStructs:
    @pytest.mark.parametrize("value", SAMPLES, ids=lambda value: type(value).__name__)
    def test_they_are_immutable(self, value: Any) -> None:
        """No field can be set, changed or added."""
        for name in (*value.__struct_fields__, "anything"):
            with pytest.raises(AttributeError):
                setattr(value, name, None)

    @pytest.mark.parametrize("value", SAMPLES, ids=lambda value: type(value).__name__)
    def test_equal_values_are_equal(self, value: Any) -> None:
        """Copies compare equal, whichever way they were made."""
        for again in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
            assert again == value
            assert repr(again) == repr(value)

    def test_metas_and_descriptors_are_keys(self) -> None:
        """They can be looked up in dicts and sets."""
        assert len({LogEventMeta("a", "b"), LogEventMeta("a", "b"), LogEventMeta("a", "c")}) == 2
        assert (
            len({LogSinkDescriptor("a", ("b",)), LogSinkDescriptor("a", ("b",), ()), LogSinkDescriptor("a", ())}) == 2
        )

    @given(EVENTS)
    def test_events_travel(self, event: LogEvent) -> None:
        """Through JSON, MessagePack and pickle, and are equal afterwards."""
        assert msgspec.json.decode(msgspec.json.encode(event), type=LogEvent) == event
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=LogEvent) == event
        assert pickle.loads(pickle.dumps(event)) == event

    def test_older_events_can_be_read(self) -> None:
        """What was written before a field was added has that field's default."""
        meta = b'{"event_namespace":null,"event_name":"e"}'
        old = b'{"level":20,"meta":%s,"event_outcome":null,"timestamp":1,"payload":{}}' % meta
        assert msgspec.json.decode(old, type=LogEvent) == LogEvent(20, LogEventMeta(None, "e"), None, 1.0, {})

    def test_events_do_not_burden_the_garbage_collector(self) -> None:
        """A million events that wait in a queue make no collection slower."""
        for value in SAMPLES[:-1]:
            assert not gc.is_tracked(value)


class TestLevels:
    def test_levels_are_numbers(self) -> None:
        """They compare with, and stand for, the standard library's."""
        import logging

        for level in LogLevel:
            assert level == getattr(logging, level.name)
            assert LogLevel(int(level)) is level
        assert LogLevel.INFO < 25 < LogLevel.WARNING


class TestDescriptors:
    def test_as_a_payload(self) -> None:
        """Plain data."""
        descriptor = LogSinkDescriptor("sqlite", ("/var/log/e.db",), (("retention", 5),))
        assert descriptor.to_log_payload() == {
            "sink_type": "sqlite",
            "resource_key": ["/var/log/e.db"],
            "config_key": [("retention", 5)],
        }
