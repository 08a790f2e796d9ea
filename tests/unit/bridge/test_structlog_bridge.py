"""structlog <-> pipeline: the mapping, both ends of a chain, the sink."""

from __future__ import annotations

import asyncio
import copy
import importlib.metadata
import io
import json
import logging
import logging.config
import os
import pickle
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

import pytest
import structlog
from hypothesis import assume, given
from hypothesis import strategies as st
from structlog.processors import CallsiteParameter, CallsiteParameterAdder, TimeStamper

import mvx_logger
from mvx_logger import (
    LogConfigurationError,
    LogContextUnableToLog,
    LogErrorHandlingPolicy,
    LogEvent,
    LogEventMeta,
    LogEventOrigin,
    LogException,
    LogSinkClassProto,
    LogSinkProto,
    LogStack,
    configure_log_context,
    get_root_log_context,
    guard,
    selflog,
)
from mvx_logger.bridge.handler_sinks import HandlerSink
from mvx_logger.bridge.handlers import LogContextHandler
from mvx_logger.bridge.records import event_to_record
from mvx_logger.bridge.structlog import (
    NO_EVENT,
    EventDictFromRecord,
    EventFormatter,
    PipelineRenderer,
    PipelineTee,
    StructlogLoggerFactory,
    build_processors,
    build_renderer,
    configure_structlog,
    event_dict_to_event,
    event_to_event_dict,
    exception_from_stacks,
    get_pipeline_logger,
    import_object,
    method_of,
)
from mvx_logger.sinks.structlog_sink import StructlogSink

VERSION = tuple(int(part) for part in importlib.metadata.version("structlog").split(".")[:2])
NOW = 1_800_000_000.25


class Events(list[LogEvent]):
    """A sink that keeps its events."""

    guards_itself = False

    def log(self, event: LogEvent) -> None:
        self.append(event)

    @property
    def names(self) -> list[str]:
        return [event.meta.event_name for event in self]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    mvx_logger.reset_logger()


@pytest.fixture
def events() -> Events:
    sink = Events()
    get_root_log_context().set_log_sink(sink)
    return sink


@pytest.fixture
def reports() -> Iterator[list[selflog.SelfLogReport]]:
    found: list[selflog.SelfLogReport] = []
    interval = selflog.get_interval()
    selflog.set_interval(0)
    previous = selflog.redirect(found.append)
    yield found
    selflog.redirect(previous)
    selflog.set_interval(interval)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def end_in_pipeline(*processors: Any, wrapper_class: Any = None, **options: Any) -> None:
    structlog.configure(
        processors=[*processors, PipelineRenderer()],
        wrapper_class=wrapper_class or structlog.make_filtering_bound_logger(0),
        logger_factory=StructlogLoggerFactory(),
        **options,
    )


def caught(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as err:
        return err


def read(event_dict: dict[str, Any], **options: Any) -> LogEvent:
    options.setdefault("now", NOW)
    return event_dict_to_event(event_dict, **options)


# ---------------------------------------------------------------------------------------------------- event dict -> event


class TestFields:
    def test_each_key_finds_its_field_and_the_rest_is_payload(self) -> None:
        """Event, level, logger, time, entity and outcome are fields; everything else is payload."""
        event = read(
            {
                "event": "order.created",
                "level": "warning",
                "logger": "shop.orders",
                "timestamp": "2026-05-12T14:30:25.000123Z",
                "entity_id": "order-42",
                "event_outcome": "success",
                "total": 12.5,
            }
        )
        assert event == LogEvent(
            30,
            LogEventMeta("shop.orders", "order.created", "order-42"),
            "success",
            datetime(2026, 5, 12, 14, 30, 25, 123, UTC).timestamp(),
            {"total": 12.5},
            "order.created",
            origin=LogEventOrigin(system="structlog"),
        )

    def test_event_dict_is_not_changed(self) -> None:
        """The mapping is pure."""
        event_dict = {"event": "x", "level": "info", "logger": "a", "_record": None, "n": [1]}
        before = copy.deepcopy(event_dict)
        read(event_dict)
        assert event_dict == before

    def test_any_mapping_will_do(self) -> None:
        """The event dict may be of any dict class."""
        assert read(OrderedDict(event="x", n=1)).payload == {"n": 1}

    @pytest.mark.parametrize("key", ["_record", "_from_structlog", "_logger", "_name"])
    def test_structlog_internals_do_not_leak_in(self, key: str) -> None:
        """structlog's bookkeeping is nobody's payload."""
        assert read({"event": "x", key: object(), "n": 1}).payload == {"n": 1}

    @pytest.mark.parametrize(
        ("value", "entity_id"),
        [
            ("order-1", "order-1"),
            (42, "42"),
            (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
            (None, None),
        ],
    )
    def test_entity_id(self, value: Any, entity_id: str | None) -> None:
        """Text, numbers and UUIDs identify an entity."""
        event = read({"event": "x", "entity_id": value})
        assert event.meta.entity_id == entity_id
        assert event.payload == {}

    @pytest.mark.parametrize("value", [True, 1.5, ["a"], {"id": 1}])
    def test_entity_id_of_another_kind_stays_payload(self, value: Any) -> None:
        """What cannot be an entity id is not lost."""
        event = read({"event": "x", "entity_id": value})
        assert event.meta.entity_id is None
        assert event.payload == {"entity_id": value}

    def test_event_outcome_of_another_kind_stays_payload(self) -> None:
        """What cannot be an outcome is not lost."""
        event = read({"event": "x", "event_outcome": 5})
        assert event.event_outcome is None
        assert event.payload == {"event_outcome": 5}

    def test_text_of_other_classes_becomes_plain(self) -> None:
        """Members of a StrEnum and other text are exact text in the fields."""

        class Outcome(StrEnum):
            OK = "ok"

        class Text(str):
            __slots__ = ()

        event = read({"event": Text("x"), "event_outcome": Outcome.OK, "entity_id": Text("e"), "logger": Text("l")})
        fields = (event.meta.event_name, event.message, event.event_outcome, event.meta.entity_id)
        assert fields == ("x", "x", "ok", "e")
        assert {type(field) for field in (*fields, event.meta.event_namespace)} == {str}

    def test_logger_name_is_the_namespace_where_no_key_says_another(self) -> None:
        """``logger_name`` gives the namespace of event dicts without a logger."""
        assert read({"event": "x"}, logger_name="shop").meta.event_namespace == "shop"
        assert read({"event": "x", "logger_name": "a"}, logger_name="shop").meta.event_namespace == "a"
        assert read({"event": "x"}).meta.event_namespace is None

    def test_two_names_of_a_logger(self) -> None:
        """``logger`` wins over ``logger_name``; one that says something else stays."""
        event = read({"event": "x", "logger": "a", "logger_name": "b"})
        assert (event.meta.event_namespace, event.payload) == ("a", {"logger_name": "b"})
        assert read({"event": "x", "logger": "a", "logger_name": "a"}).payload == {}

    def test_a_logger_that_is_no_name_stays_payload(self) -> None:
        """A user's own ``logger`` is not lost."""
        event = read({"event": "x", "logger": 5, "logger_name": "b"}, logger_name="shop")
        assert (event.meta.event_namespace, event.payload) == ("b", {"logger": 5})


class TestEvent:
    def test_positional_arguments_fill_the_message_and_the_template_is_the_name(self) -> None:
        """The name is the same for all events of a log statement."""
        event = read({"event": "%s of %d", "positional_args": ("a", 3)})
        assert (event.meta.event_name, event.message) == ("%s of %d", "a of 3")
        assert event.origin is not None
        assert (event.origin.template, event.origin.args) == ("%s of %d", ("a", 3))

    def test_one_dict_as_positional_argument(self) -> None:
        """A single mapping fills named places, as in the standard library."""
        event = read({"event": "%(who)s", "positional_args": ({"who": "eve"},)})
        assert event.message == "eve"
        assert event.origin is not None
        assert event.origin.args == {"who": "eve"}

    def test_arguments_that_do_not_fit(self) -> None:
        """The event still arrives, with its arguments."""
        event = read({"event": "%d apples", "positional_args": ("many",)})
        assert event.meta.event_name == "%d apples"
        assert "many" in (event.message or "")

    def test_arguments_of_no_event_stay_payload(self) -> None:
        """Nothing is lost where there is nothing to fill in."""
        assert read({"positional_args": (1,)}).payload == {"positional_args": (1,)}
        assert read({"event": "x", "positional_args": 5}).payload == {"positional_args": 5}

    def test_no_event(self) -> None:
        """An event dict without an event has a name that says so, and no message."""
        event = read({"n": 1})
        assert (event.meta.event_name, event.message, event.payload) == (NO_EVENT, None, {"n": 1})

    @pytest.mark.parametrize(
        ("value", "name", "message"),
        [
            (None, NO_EVENT, None),
            (b"caf\xc3\xa9", "café", "café"),
            (5, "<int>", "5"),
            ({"a": 1}, "<dict>", "{'a': 1}"),
            (ValueError("boom"), "ValueError", "boom"),
            (Decimal("1.5"), "<Decimal>", "1.5"),
        ],
    )
    def test_an_event_that_is_no_text(self, value: Any, name: str, message: str | None) -> None:
        """The name is stable, the message is what it says."""
        event = read({"event": value})
        assert (event.meta.event_name, event.message) == (name, message)

    def test_an_event_that_is_plain_data_is_payload_too(self) -> None:
        """Structured data stays structured."""
        assert read({"event": {"a": 1}}).payload == {"event": {"a": 1}}

    def test_an_event_that_cannot_be_put_into_words(self) -> None:
        """A raising ``__str__`` does not lose the event."""

        class Hostile:
            def __str__(self) -> str:
                raise RuntimeError

        event = read({"event": Hostile(), "n": 1})
        assert (event.meta.event_name, event.message, event.payload) == ("<Hostile>", "<Hostile>", {"n": 1})

    def test_a_renamed_event(self) -> None:
        """``event_key`` follows `EventRenamer`."""
        event_dict = structlog.processors.EventRenamer("msg", "_event")(None, "info", {"event": "x", "_event": "own"})
        event = read(event_dict, event_key="msg")
        assert (event.meta.event_name, event.payload) == ("x", {"event": "own"})

    def test_values_that_fight_back_do_not_lose_the_event(self, reports: list[Any]) -> None:
        """Whatever a value does when it is looked at, the event arrives."""

        class Hostile:
            @property
            def __class__(self) -> Any:  # type: ignore[override]
                raise RuntimeError("look away")

        event = read({"event": "x", "event_outcome": Hostile(), "_logger": 1, "n": 1}, method_name="error")
        assert (event.meta.event_name, event.level, event.payload["n"]) == ("x", 40, 1)
        assert "_logger" not in event.payload
        assert [report.kind for report in reports] == ["structlog"]


class TestLevel:
    @pytest.mark.parametrize(
        ("method_name", "level"),
        [
            ("debug", 10),
            ("info", 20),
            ("msg", 20),
            ("warning", 30),
            ("warn", 30),
            ("error", 40),
            ("err", 40),
            ("exception", 40),
            ("critical", 50),
            ("fatal", 50),
            ("notset", 0),
            ("trace", 5),
            ("WARNING", 30),
            ("of my own", 20),
            (None, 20),
        ],
    )
    def test_method_name(self, method_name: str | None, level: int) -> None:
        """The log method is the level where no key says another."""
        assert read({"event": "x"}, method_name=method_name).level == level

    @pytest.mark.parametrize("key", ["level", "log_level"])
    def test_a_key_wins_over_the_method(self, key: str) -> None:
        """A processor may change the level."""
        event = read({"event": "x", key: "error"}, method_name="info")
        assert (event.level, event.payload) == (40, {})

    @pytest.mark.parametrize("name", ["warn", "exception", "fatal", "warning"])
    def test_structlogs_own_aliases_leave_no_trace(self, name: str) -> None:
        """Aliases are the level that they stand for."""
        event = read({"event": "x", "level": name})
        assert event.origin == LogEventOrigin(system="structlog")

    def test_a_name_of_ones_own_is_kept(self) -> None:
        """The name comes back with the number."""
        event = read({"event": "x", "level": "WARNING"})
        assert event.level == 30
        assert event.origin is not None
        assert event.origin.level_name == "WARNING"
        assert event_to_event_dict(event)["level"] == "WARNING"

    def test_a_registered_level(self) -> None:
        """Levels that the program named with `logging.addLevelName` are known."""
        logging.addLevelName(23, "NOTE")
        try:
            event = read({"event": "x", "level": "note"})
            assert event.level == 23
            assert event_to_event_dict(event)["level"] == "note"
        finally:
            del logging._levelToName[23], logging._nameToLevel["NOTE"]

    def test_level_number_wins(self) -> None:
        """A number says more than a name."""
        event = read({"event": "x", "level": "info", "level_number": 25}, method_name="error")
        assert (event.level, event.payload) == (25, {})
        back = event_to_event_dict(event)
        assert (back["level"], back["level_number"]) == ("info", 25)

    def test_levels_that_contradict_each_other(self) -> None:
        """``level`` wins; what else was said stays."""
        event = read({"event": "x", "level": "info", "log_level": "error"})
        assert (event.level, event.payload) == (20, {"log_level": "error"})
        assert read({"event": "x", "level": "info", "log_level": "info"}).payload == {}

    @pytest.mark.parametrize("value", ["banana", 5, None, ["info"]])
    def test_a_users_own_level_stays_payload(self, value: Any) -> None:
        """A player's ``level`` is no log level."""
        event = read({"event": "x", "level": value}, method_name="error")
        assert event.level == 40
        assert event.payload == ({} if value is None else {"level": value})

    def test_a_level_number_of_another_kind_stays_payload(self) -> None:
        """Only a number is one."""
        event = read({"event": "x", "level_number": "high", "log_level": 7}, method_name="error")
        assert (event.level, event.payload) == (40, {"level_number": "high", "log_level": 7})

    def test_a_numeric_level_counts_where_nothing_else_says_one(self) -> None:
        """Without a log method a numeric level is the level."""
        event = read({"event": "x", "level": 35})
        assert (event.level, event.payload) == (35, {})

    @pytest.mark.parametrize(
        ("level", "name"), [(0, "debug"), (5, "debug"), (25, "info"), (50, "critical"), (99, "critical")]
    )
    def test_method_of(self, level: int, name: str) -> None:
        """Each level has a log method."""
        assert method_of(level) == ("notset" if level == 0 else name)


class TestTimestamp:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (1_700_000_000.5, 1_700_000_000.5),
            (1_700_000_000, 1_700_000_000.0),
            ("2023-11-14T22:13:20.500000Z", 1_700_000_000.5),
            ("2023-11-14T22:13:20.500000+00:00", 1_700_000_000.5),
            ("2023-11-14T23:13:20.500000+01:00", 1_700_000_000.5),
            (datetime(2023, 11, 14, 22, 13, 20, 500_000, UTC), 1_700_000_000.5),
            (datetime(2023, 11, 15, 0, 13, 20, tzinfo=timezone(timedelta(hours=2))), 1_700_000_000.0),
            (datetime(2023, 11, 14, 23, 13, 20), 1_700_000_000.0),  # noqa: DTZ001
            ("2023-11-14T23:13:20.500000", 1_700_000_000.5),
            ("2023-11-14 23:13:20", 1_700_000_000.0),
        ],
    )
    def test_forms(self, value: Any, expected: float, berlin: None) -> None:
        """Numbers, datetimes and ISO 8601 text are understood; what has no offset is local time."""
        event = read({"event": "x", "timestamp": value})
        assert event.timestamp == expected
        assert type(event.timestamp) is float
        assert event.payload == {}

    @pytest.mark.parametrize(
        "stamper",
        [
            {"fmt": None},
            {"fmt": "iso"},
            {"fmt": "ISO"},
            {"fmt": "iso", "utc": False},
            {"fmt": "%Y-%m-%d %H:%M:%S.%f"},
            {"fmt": "%Y-%m-%d %H:%M:%S.%f", "utc": False},
            {"fmt": "%d.%m.%Y %H:%M:%S,%f %z", "utc": False},
            {"fmt": "%d.%m.%Y %H:%M:%S,%f"},
            {"fmt": "%d.%m.%Y %H:%M:%S,%f", "utc": False},
            {"fmt": "%Y-%m-%d %H:%M:%S", "utc": False},
            {"fmt": "%Y-%m-%dT%H:%M:%S"},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("told", [True, False])
    def test_whatever_timestamper_makes(self, stamper: dict[str, Any], told: bool, berlin: None) -> None:
        """Every form of `TimeStamper` gives the time of the log call, whether its ``utc`` is told or guessed."""
        before = time.time()
        event_dict = TimeStamper(**stamper)(None, "info", {"event": "x"})
        after = time.time()
        if str(event_dict["timestamp"]).endswith(" "):
            pytest.skip("this structlog leaves out the offset of local time")
        event = event_dict_to_event(
            event_dict, timestamp_format=stamper["fmt"], timestamp_utc=stamper.get("utc", True) if told else None
        )
        assert event.payload == {}
        # Whole seconds are taken for the moment of the conversion, if that is within them.
        slack = 1.0 if stamper["fmt"] is not None and stamper["fmt"].endswith("%S") else 1e-6
        assert before - slack <= event.timestamp <= max(after, time.time()) + 1e-6

    def test_whole_seconds_are_the_moment_itself(self) -> None:
        """Text that was cut to seconds does not put an event before what happened earlier in its second."""
        now = 1_700_000_000.75
        assert read({"event": "x", "timestamp": "2023-11-14T22:13:20Z"}, now=now).timestamp == now
        assert read({"event": "x", "timestamp": "2023-11-14T22:13:19Z"}, now=now).timestamp == 1_699_999_999.0
        exact = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
        assert read({"event": "x", "timestamp": exact}, now=now).timestamp == 1_700_000_000.0

    def test_the_hour_that_comes_twice(self, berlin: None) -> None:
        """When the clocks go back, local time without an offset is what the clock shows now."""
        first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()
        text = "2026-10-25T02:30:00.500000"
        for now in (first, first + 3600):
            assert read({"event": "x", "timestamp": text}, now=now + 0.6).timestamp == now + 0.5

    def test_utc_without_an_offset(self, berlin: None) -> None:
        """Nobody said UTC, but only UTC is what the clock shows now."""
        assert (
            read({"event": "x", "timestamp": "2023-11-14T22:13:20.500000"}, now=1_700_000_001.0).timestamp
            == 1_700_000_000.5
        )

    @pytest.mark.parametrize(
        "value",
        [
            "yesterday",
            "",
            float("nan"),
            float("inf"),
            1_700_000_000_000,
            10**400,
            True,
            [1],
            "0001-01-01T00:00:00",
            b"2023-11-14T22:13:20Z",
        ],
        ids=repr,
    )
    def test_what_cannot_be_understood_stays(self, value: Any) -> None:
        """The time is now, and the raw value is in the payload."""
        event = read({"event": "x", "timestamp": value})
        assert event.timestamp == NOW
        assert repr(event.payload) == repr({"timestamp": value})

    def test_a_time_without_a_date_stays(self) -> None:
        """``%H:%M:%S`` is not 1900."""
        event = read({"event": "x", "timestamp": "14:30:25"}, timestamp_format="%H:%M:%S")
        assert (event.timestamp, event.payload) == (NOW, {"timestamp": "14:30:25"})

    def test_iso_is_understood_whatever_format_was_announced(self) -> None:
        """A processor that stamped before in another way is understood as well."""
        event = read({"event": "x", "timestamp": "2023-11-14T22:13:20.500000Z"}, timestamp_format="%d.%m.%Y")
        assert event.timestamp == 1_700_000_000.5

    def test_another_key(self) -> None:
        """``timestamp_key`` follows the ``key`` of `TimeStamper`."""
        event = read({"event": "x", "ts": 5.0, "timestamp": "mine"}, timestamp_key="ts")
        assert (event.timestamp, event.payload) == (5.0, {"timestamp": "mine"})

    def test_none_is_now(self) -> None:
        """A time that is not there is now."""
        assert read({"event": "x", "timestamp": None}).timestamp == NOW
        before = time.time()
        assert before <= event_dict_to_event({"event": "x"}).timestamp <= time.time()


class TestCallsite:
    def test_all_parameters_of_the_adder(self) -> None:
        """Every parameter finds its field, or stays where only the payload can hold it."""
        event_dict = CallsiteParameterAdder()(None, "info", {"event": "x"})
        event = read(event_dict)
        assert event.meta == LogEventMeta(
            None, "x", None, __file__, event_dict["lineno"], "test_all_parameters_of_the_adder"
        )
        assert event.origin is not None
        assert event.origin.process_id == os.getpid()
        assert event.origin.process_name == event_dict["process_name"]
        assert event.origin.thread_id == threading.get_ident()
        assert event.origin.thread_name == threading.current_thread().name
        assert set(event.payload) <= {"qual_name", "qual_module"}
        assert event_to_event_dict(event).items() >= event_dict.items()

    @pytest.mark.parametrize(
        ("parameter", "field"),
        [("PATHNAME", "source_path"), ("LINENO", "source_line"), ("FUNC_NAME", "source_func")],
    )
    def test_one_parameter_alone(self, parameter: str, field: str) -> None:
        """Each parameter is found without the others."""
        event_dict = CallsiteParameterAdder([CallsiteParameter[parameter]])(None, "info", {"event": "x"})
        event = read(event_dict)
        assert getattr(event.meta, field) == event_dict[CallsiteParameter[parameter].value]
        assert event.payload == {}

    def test_process_and_thread_alone(self) -> None:
        """A number that is this process's or thread's is recognized."""
        process, thread = (
            read({"event": "x", "process": os.getpid()}),
            read({"event": "x", "thread": threading.get_ident()}),
        )
        assert process.origin is not None
        assert thread.origin is not None
        assert process.origin.process_id == os.getpid()
        assert thread.origin.thread_id == threading.get_ident()

    def test_filename_with_a_line(self) -> None:
        """The base name of a file is its path where there is no other."""
        event = read({"event": "x", "filename": "app.py", "lineno": 3, "module": "app"})
        assert (event.meta.source_path, event.meta.source_line, event.payload) == ("app.py", 3, {})

    def test_qualified_name(self) -> None:
        """The function is the last part of its qualified name, which stays: nothing else can hold it."""
        event = read({"event": "x", "qual_name": "Shop.order.<locals>.send"})
        assert (event.meta.source_func, event.payload) == ("send", {"qual_name": "Shop.order.<locals>.send"})

    @pytest.mark.parametrize(
        "own",
        [
            {"filename": "report.pdf"},
            {"thread": 42},
            {"process": "billing"},
            {"module": "auth"},
            {"lineno": "top"},
            {"filename": "report.pdf", "pathname": "/srv/app.py"},
            {"module": "auth", "pathname": "/srv/app.py"},
        ],
        ids=str,
    )
    def test_a_users_own_keys_stay_payload(self, own: dict[str, Any]) -> None:
        """An uploaded file's name is not where the event was logged."""
        mine = {key: value for key, value in own.items() if key != "pathname"}
        event = read({"event": "x", **own})
        assert event.payload == mine
        assert event.meta.source_path == own.get("pathname")
        assert event_to_event_dict(event).items() >= own.items()

    def test_switched_off(self) -> None:
        """``callsite=False`` leaves them all in the payload."""
        event = read({"event": "x", "lineno": 5, "pathname": "a.py"}, callsite=False)
        assert (event.meta.source_line, event.payload) == (None, {"lineno": 5, "pathname": "a.py"})


class TestExceptions:
    def test_every_form_of_exc_info(self) -> None:
        """True, an exception and a tuple give the same structured exception."""
        try:
            raise ValueError("boom") from KeyError("cause")
        except ValueError as err:
            forms: list[Any] = [True, 1, err, (type(err), err, err.__traceback__)]
            exceptions = [read({"event": "x", "exc_info": form}).exception for form in forms]
        first = exceptions[0]
        assert first is not None
        assert (first.type, first.message) == ("ValueError", "boom")
        assert first.text.startswith("KeyError: 'cause'\n\nThe above exception was the direct cause")
        assert first.stacks[0]["frames"][-1]["name"] == "test_every_form_of_exc_info"
        assert all(exception == first for exception in exceptions)

    @pytest.mark.parametrize("value", [None, False, (None, None, None), (), True])
    def test_no_exception(self, value: Any) -> None:
        """Where there is no exception there is none, and nothing left behind."""
        event = read({"event": "x", "exc_info": value})
        assert (event.exception, event.payload) == (None, {})

    def test_a_users_words_for_an_exception_stay(self) -> None:
        """``exc_info`` of text is a user's own."""
        event = read({"event": "x", "exc_info": "it broke"})
        assert (event.exception, event.payload) == (None, {"exc_info": "it broke"})

    def test_rendered_as_text(self) -> None:
        """What `format_exc_info` made of it is read."""
        event_dict = structlog.processors.format_exc_info(
            None, "error", {"event": "x", "exc_info": caught(KeyError("k"))}
        )
        event = read(event_dict)
        assert event.exception == LogException("KeyError", "'k'", event_dict["exception"])
        assert event.payload == {}

    def test_rendered_as_data(self) -> None:
        """What `dict_tracebacks` made of it is the structure; the text is put together from it."""
        try:
            try:
                raise KeyError("inner")
            except KeyError as err:
                raise ValueError("outer\nmore") from err
        except ValueError:
            event_dict = structlog.processors.dict_tracebacks(None, "error", {"event": "x", "exc_info": True})
        event = read(event_dict)
        assert event.exception is not None
        assert (event.exception.type, event.exception.message) == ("ValueError", "outer\nmore")
        assert list(event.exception.stacks) == event_dict["exception"]
        lines = event.exception.text.split("\n")
        assert lines[0] == "Traceback (most recent call last):"
        assert lines[2:5] == [
            "KeyError: 'inner'",
            "",
            "The above exception was the direct cause of the following exception:",
        ]
        assert lines[-2:] == ["ValueError: outer", "more"]

    def test_text_of_a_structured_exception(self) -> None:
        """Context, notes, groups and frames are all told."""
        text = exception_from_stacks(
            [
                {
                    "exc_type": "ExceptionGroup",
                    "exc_value": "two",
                    "exc_notes": ["a note"],
                    "frames": [{"filename": "a.py", "lineno": 3, "name": "f"}],
                    "exceptions": [[{"exc_type": "ValueError", "exc_value": ""}]],
                },
                {"exc_type": "KeyError", "exc_value": "'k'", "is_cause": False},
            ]
        ).text
        assert text.split("\n") == [
            "KeyError: 'k'",
            "",
            "During handling of the above exception, another exception occurred:",
            "",
            "Traceback (most recent call last):",
            '  File "a.py", line 3, in f',
            "ExceptionGroup: two",
            "a note",
            "  | ValueError",
        ]

    @pytest.mark.parametrize("value", [5, [], [{"a": 1}], {"kind": "ValueError"}, ["x"]])
    def test_another_exception_key_stays_payload(self, value: Any) -> None:
        """A user's own ``exception`` is not lost."""
        event = read({"event": "x", "exception": value})
        assert (event.exception, event.payload) == (None, {"exception": value})

    def test_both(self) -> None:
        """A live exception says more than text; the text is not lost."""
        event = read({"event": "x", "exc_info": ValueError("live"), "exception": "rendered"})
        assert event.exception is not None
        assert event.exception.message == "live"
        assert event.payload == {"exception": "rendered"}


class TestStack:
    def test_stack_info(self) -> None:
        """``stack_info=True`` is the stack of the caller, without frames of structlog or the bridge."""
        stack = read({"event": "x", "stack_info": True}).stack
        assert stack is not None
        assert stack.text.startswith("Stack (most recent call last):\n")
        assert stack.frames[-1]["name"] == "read"
        assert stack.frames[-1]["filename"] == __file__

    def test_rendered_stack(self) -> None:
        """What `StackInfoRenderer` made of it is read."""
        event_dict = structlog.processors.StackInfoRenderer()(None, "info", {"event": "x", "stack_info": True})
        event = read(event_dict)
        assert event.stack is not None
        assert (event.stack.text, event.payload) == (event_dict["stack"], {})
        assert event.stack.frames[-1]["filename"] == __file__
        assert read({"event": "x", "stack_info": event_dict["stack"]}).stack == event.stack

    def test_two_stacks(self) -> None:
        """A stack that was rendered before is not lost to a new one."""
        text = 'Stack (most recent call last):\n  File "a.py", line 1, in f'
        event = read({"event": "x", "stack_info": True, "stack": text})
        assert event.stack is not None
        assert event.stack.text != text
        assert event.payload == {"stack": text}

    def test_a_users_own_stack_stays_payload(self) -> None:
        """A technology stack is no call stack."""
        event = read({"event": "x", "stack": "python", "stack_info": None})
        assert (event.stack, event.payload) == (None, {"stack": "python"})


class TestEmbeddedRecord:
    def test_a_foreign_record_fills_in_what_the_event_dict_does_not_say(self) -> None:
        """In a `ProcessorFormatter`, the record knows level, logger, time and place."""
        record = logging.LogRecord("shop", 35, "/srv/app.py", 7, "hello", (), None, "f")
        event = read({"event": "hello", "_record": record, "_from_structlog": False})
        assert event.meta == LogEventMeta("shop", "hello", None, "/srv/app.py", 7, "f")
        assert (event.level, event.timestamp, event.payload) == (35, record.created, {})

    def test_a_record_of_structlog_itself_knows_nothing(self) -> None:
        """Where structlog made the record, its place is structlog's."""
        record = logging.LogRecord("shop", 35, "/srv/app.py", 7, "hello", (), None, "f")
        event = read({"event": "hello", "_record": record, "_from_structlog": True}, logger_name="a")
        assert event.meta == LogEventMeta("a", "hello")


# ---------------------------------------------------------------------------------------------------- event -> event dict


class TestEventToEventDict:
    def test_native_event(self) -> None:
        """A native event's name is the event."""
        event = LogEvent(20, LogEventMeta("shop", "order.created", "o-1"), "success", 0.5, {"n": 1})
        assert event_to_event_dict(event) == {
            "timestamp": "1970-01-01T00:00:00.500000Z",
            "level": "info",
            "event": "order.created",
            "logger": "shop",
            "entity_id": "o-1",
            "event_outcome": "success",
            "n": 1,
        }

    def test_standard_library_event(self) -> None:
        """The message is the event; the template comes with its arguments where that is asked for."""
        origin = LogEventOrigin(system="logging", level_name="INFO", template="n=%d", args=(1,), task_name="t")
        event = LogEvent(20, LogEventMeta("shop", "n=%d"), None, 0.0, {}, "n=1", origin=origin)
        finished = event_to_event_dict(event, positional_args=False)
        assert (finished["event"], finished["level"], finished["task_name"]) == ("n=1", "info", "t")
        assert "positional_args" not in finished
        template = event_to_event_dict(event)
        assert (template["event"], template["positional_args"]) == ("n=%d", (1,))

    def test_keys_that_are_taken_get_an_underscore(self) -> None:
        """A native payload's ``level``, ``exception`` and ``_record`` are not mistaken for structlog's."""
        payload = {"level": 3, "level_": 4, "event": "e", "exception": {"kind": "x"}, "_record": "r", "stack": 1}
        event_dict = event_to_event_dict(LogEvent(20, LogEventMeta(None, "x"), None, 0.0, payload))
        assert event_dict == {
            "timestamp": "1970-01-01T00:00:00Z",
            "level": "info",
            "event": "x",
            "level_": 3,
            "level__": 4,
            "event_": "e",
            "exception_": {"kind": "x"},
            "_record_": "r",
            "stack_": 1,
        }

    def test_a_native_payload_does_not_hide_the_place_of_the_log_call(self) -> None:
        """Both are there."""
        event_dict = event_to_event_dict(
            LogEvent(20, LogEventMeta(None, "x", None, "/srv/app.py"), None, 0.0, {"pathname": 1})
        )
        assert (event_dict["pathname"], event_dict["pathname_"]) == ("/srv/app.py", 1)

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, "2023-11-14T22:13:20.500000Z"),
            ({"timestamp_utc": False}, "2023-11-14T23:13:20.500000"),
            ({"timestamp_format": None}, 1_700_000_000.5),
            ({"timestamp_format": "%H:%M"}, "22:13"),
            ({"timestamp_format": "%H:%M %z", "timestamp_utc": False}, "23:13 +0100"),
        ],
        ids=str,
    )
    def test_timestamp_formats(self, options: dict[str, Any], expected: Any, berlin: None) -> None:
        """The forms are those of `TimeStamper`."""
        event = LogEvent(20, LogEventMeta(None, "x"), None, 1_700_000_000.5, {})
        assert event_to_event_dict(event, **options)["timestamp"] == expected

    @pytest.mark.parametrize("timestamp", [1e30, float("nan"), float("inf")])
    def test_a_time_that_no_calendar_holds(self, timestamp: float) -> None:
        """It stays a number."""
        event = LogEvent(20, LogEventMeta(None, "x"), None, timestamp, {})
        assert event_to_event_dict(event)["timestamp"] is timestamp

    def test_exception_and_stack(self) -> None:
        """Exceptions are text or data, stacks are text."""
        exception = read({"event": "x", "exc_info": caught(ValueError("boom"))}).exception
        assert exception is not None
        event = LogEvent(40, LogEventMeta(None, "x"), None, 0.0, {}, None, exception, LogStack("Stack ..."))
        assert event_to_event_dict(event)["exception"] == exception.text
        assert event_to_event_dict(event)["stack"] == "Stack ..."
        assert event_to_event_dict(event, structured_exceptions=True)["exception"] == list(exception.stacks)
        bare = LogEvent(40, LogEventMeta(None, "x"), None, 0.0, {}, None, LogException("", "", "text"))
        assert event_to_event_dict(bare, structured_exceptions=True)["exception"] == "text"


# ---------------------------------------------------------------------------------------------------- round trips

TEXTS = st.text(max_size=12)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
STRUCTLOG_KEYS = {
    *(
        "event",
        "level",
        "timestamp",
        "logger",
        "logger_name",
        "log_level",
        "level_number",
        "positional_args",
        "exc_info",
    ),
    *("exception", "stack", "stack_info", "entity_id", "event_outcome", "pathname", "filename", "module", "func_name"),
    *("qual_name", "qual_module", "lineno", "process", "process_name", "thread", "thread_name", "task_name"),
    *("_record", "_from_structlog", "_logger", "_name"),
}
OWN_KEYS = TEXTS.filter(lambda key: key not in STRUCTLOG_KEYS)
MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))  # noqa: DTZ001
FRAMES = st.fixed_dictionaries({"filename": TEXTS, "lineno": st.integers(1, 99), "name": TEXTS})
STACKS = st.fixed_dictionaries(
    {
        "exc_type": TEXTS,
        "exc_value": TEXTS,
        "exc_notes": st.lists(TEXTS, max_size=1),
        "is_cause": st.booleans(),
        "frames": st.lists(FRAMES, max_size=2),
    }
)
EVENT_DICTS = st.builds(
    lambda own, fields: {**own, **fields},
    st.dictionaries(OWN_KEYS, PLAIN, max_size=4),
    st.fixed_dictionaries(
        {"event": TEXTS.filter(lambda text: text != NO_EVENT)},
        optional={
            "level": st.sampled_from(["notset", "debug", "info", "warning", "error", "critical", "WARNING", "trace"]),
            "logger": TEXTS,
            "timestamp": MOMENTS.map(lambda moment: moment.isoformat().replace("+00:00", "Z")),
            "entity_id": TEXTS,
            "event_outcome": TEXTS,
            "pathname": TEXTS,
            "func_name": TEXTS,
            "lineno": st.integers(1),
            "process_name": TEXTS,
            "thread_name": TEXTS,
            "qual_name": TEXTS,
            "exception": TEXTS | st.lists(STACKS, min_size=1, max_size=2),
            "stack": TEXTS.map(lambda text: f"Stack (most recent call last):\n{text}"),
        },
    ),
)
ANYTHING = st.dictionaries(
    st.sampled_from(sorted(STRUCTLOG_KEYS - {"_record", "_from_structlog", "_logger", "_name"})), PLAIN
)
ALIASES = {"logger_name", "log_level", "level_number"}


class TestRoundTrip:
    @given(EVENT_DICTS)
    def test_event_dict_to_event_and_back(self, event_dict: dict[str, Any]) -> None:
        """Every key of an event dict comes back with its value."""
        event = event_dict_to_event(event_dict, now=NOW)
        structured = isinstance(event_dict.get("exception"), list)
        back = event_to_event_dict(event, structured_exceptions=structured)
        assert {key: back[key] for key in event_dict} == event_dict

    @given(EVENT_DICTS)
    def test_event_to_event_dict_and_back(self, event_dict: dict[str, Any]) -> None:
        """An event that came from structlog is the same after another turn."""
        event = event_dict_to_event(event_dict, now=NOW)
        structured = isinstance(event_dict.get("exception"), list)
        back = event_to_event_dict(event, structured_exceptions=structured)
        assert event_dict_to_event(back, now=NOW) == event

    @given(EVENT_DICTS, st.lists(st.integers() | TEXTS, max_size=3))
    def test_positional_arguments(self, event_dict: dict[str, Any], args: list[Any]) -> None:
        """Template and arguments come back."""
        event_dict["positional_args"] = tuple(args)
        back = event_to_event_dict(event_dict_to_event(event_dict, now=NOW))
        assert (back["event"], back["positional_args"]) == (event_dict["event"], tuple(args))

    @given(ANYTHING)
    def test_no_value_is_lost_whatever_its_key_promises(self, event_dict: dict[str, Any]) -> None:
        """A value that its field cannot hold comes back as it was."""
        event = event_dict_to_event(event_dict, now=NOW, timestamp_utc=True)
        back = event_to_event_dict(event, timestamp_format=None)
        for key, value in event_dict.items():
            if key == "stack_info" or (key == "exc_info" and not isinstance(value, (str, dict))):
                continue  # a wish, no value
            if value is None or key in ALIASES:
                continue
            if key == "level":
                assert back[key] == value or event.level == value
            elif key == "timestamp":
                assert back[key] == value or isinstance(back[key], float)
            elif key == "entity_id":
                assert str(back[key]) == str(value)
            elif key == "positional_args" and isinstance(value, list):
                assert list(back[key]) == value
            elif key == "filename" and key not in back:
                assert back["pathname"] == value
            else:
                assert back[key] == value

    @given(st.dictionaries(st.text(max_size=8), PLAIN, max_size=5), st.integers(-5, 60))
    def test_no_key_of_a_native_event_is_lost(self, payload: dict[str, Any], level: int) -> None:
        """Every value of a payload is in the event dict."""
        event_dict = event_to_event_dict(LogEvent(level, LogEventMeta("a", "x"), None, 0.0, payload))
        assert event_dict["event"] == "x"
        assert all(any(value is found for found in event_dict.values()) for value in payload.values())
        assert event_dict_to_event(event_dict).level == level

    @given(MOMENTS, st.sampled_from([None, "iso", "%d.%m.%Y %H:%M:%S.%f"]), st.booleans())
    def test_timestamps(self, moment: datetime, pattern: str | None, utc: bool) -> None:
        """A time comes back to the microsecond, in every format."""
        assume(utc or moment.year > 1980)
        event = LogEvent(20, LogEventMeta(None, "x"), None, moment.timestamp(), {})
        event_dict = event_to_event_dict(event, timestamp_format=pattern, timestamp_utc=utc)
        back = event_dict_to_event(
            event_dict, timestamp_format=pattern, timestamp_utc=utc, now=moment.timestamp() - 3.0
        )
        assert back.timestamp == pytest.approx(moment.timestamp(), abs=2e-6)


# ---------------------------------------------------------------------------------------------------- the end of a chain

WRAPPERS: dict[str, Any] = {
    "filtering": lambda: structlog.make_filtering_bound_logger(0),
    "stdlib": lambda: structlog.stdlib.BoundLogger,
    "generic": lambda: structlog.BoundLogger,
}


@pytest.fixture(params=sorted(WRAPPERS))
def wrapper_class(request: pytest.FixtureRequest) -> Any:
    return WRAPPERS[request.param]()


class TestEndOfChain:
    @pytest.mark.parametrize("cache", [False, True])
    @pytest.mark.parametrize("method", ["debug", "info", "warning", "error", "critical", "exception", "warn", "fatal"])
    def test_every_method_of_every_wrapper_class(
        self, wrapper_class: Any, method: str, cache: bool, events: Events
    ) -> None:
        """Each log method of each wrapper class sends one event of its level, cached or not."""
        end_in_pipeline(wrapper_class=wrapper_class, cache_logger_on_first_use=cache)
        log = structlog.get_logger("shop.orders")
        for number in (1, 2):
            getattr(log.bind(user="eve"), method)("order.created", n=number)
        levels = {"debug": 10, "info": 20, "warning": 30, "warn": 30, "error": 40, "exception": 40}
        if method == "fatal" and VERSION < (24, 2) and hasattr(wrapper_class, "fatal"):
            levels["fatal"] = events[0].level  # what it stands for was corrected there
        assert [(event.level, event.meta.event_namespace, event.payload) for event in events] == [
            (levels.get(method, 50), "shop.orders", {"user": "eve", "n": number}) for number in (1, 2)
        ]

    def test_the_usual_chain(self, wrapper_class: Any, events: Events) -> None:
        """A chain as it stands in people's programs fills every field."""
        end_in_pipeline(
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_log_level_number,
            structlog.stdlib.PositionalArgumentsFormatter(),
            TimeStamper(fmt="iso"),
            structlog.processors.StackInfoRenderer(),
            CallsiteParameterAdder([CallsiteParameter.PATHNAME, CallsiteParameter.LINENO, CallsiteParameter.FUNC_NAME]),
            structlog.processors.format_exc_info,
            wrapper_class=wrapper_class,
        )
        structlog.contextvars.bind_contextvars(request="r-1")
        before = time.time()
        try:
            raise KeyError("k")
        except KeyError:
            structlog.get_logger("shop").error(
                "order.failed", exc_info=True, stack_info=True, entity_id="o-1", event_outcome="failed", n=1
            )
        (event,) = events
        assert event.meta.event_namespace == "shop"
        assert event.meta.event_name == event.message == "order.failed"
        assert (event.meta.entity_id, event.event_outcome, event.level) == ("o-1", "failed", 40)
        assert (event.meta.source_path, event.meta.source_func) == (__file__, "test_the_usual_chain")
        assert before - 1e-5 <= event.timestamp <= time.time()
        assert event.payload == {"n": 1, "request": "r-1"}
        assert event.exception is not None
        assert event.exception.type == "KeyError"
        assert event.stack is not None
        assert event.stack.frames[-1]["name"] == "test_the_usual_chain"

    def test_the_chain_may_be_empty_but_for_the_renderer(self, wrapper_class: Any, events: Events) -> None:
        """Level, time, exception, stack and arguments are found without any processor."""
        end_in_pipeline(wrapper_class=wrapper_class)
        before = time.time()
        try:
            raise KeyError("k")
        except KeyError:
            structlog.get_logger("shop").warning("order.failed", exc_info=True, stack_info=True)
        (event,) = events
        assert event.level == 30
        assert before <= event.timestamp <= time.time()
        assert event.exception is not None
        assert event.stack is not None
        assert event.stack.frames[-1]["name"] == "test_the_chain_may_be_empty_but_for_the_renderer"

    @pytest.mark.parametrize("wrapper", ["filtering", "stdlib"])
    def test_positional_arguments(self, wrapper: str, events: Events) -> None:
        """Arguments fill the message; a wrapper class that leaves them leaves the template as the name."""
        end_in_pipeline(wrapper_class=WRAPPERS[wrapper]())
        structlog.get_logger("shop").info("%s created", "o-1")
        (event,) = events
        assert event.message == "o-1 created"
        assert event.meta.event_name == ("%s created" if wrapper == "stdlib" else "o-1 created")

    def test_log_with_a_level(self, events: Events) -> None:
        """``log(level, ...)`` of the wrapper classes and of the wrapped logger."""
        for wrapper in ("filtering", "stdlib"):
            end_in_pipeline(wrapper_class=WRAPPERS[wrapper]())
            structlog.get_logger("shop").log(30, "x", n=1)
        logger = get_pipeline_logger("shop")
        logger.log(35, "x", extra={"n": 1})
        logger.log("x")
        assert [event.level for event in events] == [30, 30, 35, 20]
        assert [event.payload for event in events] == [{"n": 1}, {"n": 1}, {"n": 1}, {}]

    def test_log_without_a_level(self, events: Events) -> None:
        """The generic wrapper class calls whatever method the user names."""
        end_in_pipeline(wrapper_class=structlog.BoundLogger)
        structlog.get_logger("shop").log("x", n=1)
        assert (events[0].meta.event_name, events[0].level, events[0].payload) == ("x", 20, {"n": 1})

    def test_a_logger_that_is_switched_off(self, events: Events) -> None:
        """A level of the wrapped logger's own holds behind any wrapper class."""
        end_in_pipeline()
        logger = get_pipeline_logger("shop.off")
        logger.setLevel(40)
        structlog.get_logger("shop.off").info("no")
        logger.setLevel(0)
        logger.disabled = True
        structlog.get_logger("shop.off").info("no")
        logger.disabled = False
        structlog.get_logger("shop.off").info("yes")
        assert events.names == ["yes"]

    def test_a_wrapper_class_of_another_kind(self, events: Events) -> None:
        """Any object with a method of that name may run the chain."""

        class Wrapper:
            def _proxy_to_logger(self, processor: Any) -> None:
                args, kwargs = processor(get_pipeline_logger("shop"), "info", {"event": "x"})
                get_pipeline_logger("shop").info(*args, **kwargs)

        Wrapper()._proxy_to_logger(PipelineRenderer())
        assert events.names == ["x"]

    def test_a_strange_timestamp(self, events: Events) -> None:
        """What only looks like a time is kept as it is."""
        end_in_pipeline()
        before = time.time()
        structlog.get_logger("shop").info("x", timestamp="Z")
        structlog.get_logger("shop").info("x", timestamp="2023-11-14T22:13:20.500000Z")
        assert before <= events[0].timestamp <= time.time()
        assert events[0].payload == {"timestamp": "Z"}
        assert (events[1].timestamp, events[1].payload) == (1_700_000_000.5, {})

    def test_events_of_one_second_keep_their_order(self, events: Events) -> None:
        """A `TimeStamper` that cuts off fractions does not put events before those of other systems."""
        end_in_pipeline(TimeStamper(fmt="%Y-%m-%dT%H:%M:%SZ"))
        while True:
            events.clear()
            before = time.time()
            structlog.get_logger("shop").info("x")
            after = time.time()
            if int(before) == int(after):
                break
        assert before <= events[0].timestamp <= after

    def test_filtering_by_the_wrapper_class(self, events: Events) -> None:
        """What `make_filtering_bound_logger` filters never arrives."""
        end_in_pipeline(wrapper_class=structlog.make_filtering_bound_logger(30))
        log = structlog.get_logger("shop")
        log.info("no")
        log.warning("yes")
        assert events.names == ["yes"]

    async def test_asynchronous_methods(self, events: Events) -> None:
        """``ainfo`` and the like send events with context variables, call site and exception of the caller."""
        for wrapper in ("filtering", "stdlib"):
            events.clear()
            end_in_pipeline(
                CallsiteParameterAdder([CallsiteParameter.FUNC_NAME, CallsiteParameter.THREAD_NAME]),
                wrapper_class=WRAPPERS[wrapper](),
            )
            log = structlog.get_logger("shop")
            with structlog.contextvars.bound_contextvars(request="r-1"):
                await log.ainfo("one", n=1)
                try:
                    raise KeyError("k")
                except KeyError:
                    await log.aexception("two", stack_info=True)
                await log.alog(30, "three %s", "x")
            assert [event.level for event in events] == [20, 40, 30]
            assert all(event.payload["request"] == "r-1" for event in events)
            assert events[1].exception is not None
            assert events[1].exception.type == "KeyError"
            if VERSION >= (24, 2):
                assert {event.meta.source_func for event in events} == {"test_asynchronous_methods"}
                assert events[1].stack is not None
                assert events[1].stack.frames[-1]["name"] == "test_asynchronous_methods"
            if VERSION >= (26, 1):
                assert events[0].origin is not None
                assert events[0].origin.thread_name == threading.current_thread().name

    async def test_async_bound_logger(self, events: Events) -> None:
        """`AsyncBoundLogger` sends with context variables and exception."""
        end_in_pipeline(wrapper_class=structlog.stdlib.AsyncBoundLogger)
        log = structlog.get_logger("shop")
        with structlog.contextvars.bound_contextvars(request="r-1"):
            await log.info("one", n=1)
            try:
                raise KeyError("k")
            except KeyError:
                await log.exception("two")
            await log.log(30, "three")
        assert [(event.level, event.meta.event_namespace) for event in events] == [
            (20, "shop"),
            (40, "shop"),
            (30, "shop"),
        ]
        assert all(event.payload["request"] == "r-1" for event in events)
        assert events[1].exception is not None

    async def test_tasks_keep_their_own_context(self, events: Events) -> None:
        """Values bound in one task do not appear on the events of another."""
        end_in_pipeline()
        log = structlog.get_logger("shop")

        async def work(number: int) -> None:
            structlog.contextvars.bind_contextvars(task=number)
            await asyncio.sleep(0)
            await log.ainfo("step", number=number)

        await asyncio.gather(*(work(number) for number in range(20)))
        assert sorted(event.payload["task"] for event in events) == list(range(20))
        assert all(event.payload["task"] == event.payload["number"] for event in events)

    def test_nearest_context(self, events: Events) -> None:
        """Each logger's events go to the context that is nearest to its name, and follow reconfiguration."""
        shop, orders = Events(), Events()
        end_in_pipeline(cache_logger_on_first_use=True)
        log = structlog.get_logger("shop.orders.db")
        log.info("one")
        configure_log_context("shop", log_sink=shop)
        log.info("two")
        configure_log_context("shop.orders", log_sink=orders)
        log.info("three")
        structlog.get_logger("other").info("four")
        assert (events.names, shop.names, orders.names) == (["one", "four"], ["two"], ["three"])

    def test_rejected_events_cost_nothing_past_the_policy(self, events: Events) -> None:
        """Neither level nor policy lets anything be rendered of what they reject."""

        class Policy:
            def is_event_enabled(self, event: LogEventMeta) -> bool:
                return event.event_name != "muted"

        class Costly:
            described = 0

            def to_log_payload(self) -> dict[str, Any]:
                Costly.described += 1
                return {}

        configure_log_context("shop", min_level=20, event_policy=Policy())
        end_in_pipeline()
        log = structlog.get_logger("shop")
        log.debug("low", value=Costly())
        log.info("muted", value=Costly(), exc_info=ValueError())
        assert (events.names, Costly.described) == ([], 0)
        log.info("loud", value=Costly())
        assert (events.names, Costly.described) == (["loud"], 1)

    def test_payload_is_normalized(self, events: Events) -> None:
        """The context's processor makes values plain; no key is cut."""
        end_in_pipeline()

        class Color(Enum):
            RED = "red"

        many = {f"key{number}": number for number in range(30)}
        structlog.get_logger("shop").info("x", color=Color.RED, password="hunter2", text="y" * 500, **many)
        payload = events[0].payload
        assert (payload["color"], payload["password"]) == ("red", "***")
        assert len(payload["text"]) < 300
        assert payload.items() >= many.items()

    def test_context_that_raises(self) -> None:
        """With `LogErrorHandlingPolicy.RAISE`, and only then, a failing sink is the caller's business."""

        class Broken:
            def log(self, event: LogEvent) -> None:
                raise OSError("disk full")

        end_in_pipeline()
        log = structlog.get_logger("shop")
        context = configure_log_context(
            "shop", log_sink=Broken(), log_error_handling_policy=LogErrorHandlingPolicy.IGNORE
        )
        log.info("x")
        context.set_log_error_handling_policy(LogErrorHandlingPolicy.RAISE)
        with pytest.raises(LogContextUnableToLog):
            log.info("x")

    def test_broken_payload_processor(self, events: Events, reports: list[Any]) -> None:
        """The event arrives all the same."""

        class Processor:
            def normalize_payload(self, payload: Any, *, unbounded: bool = False) -> dict[str, Any]:
                raise RuntimeError

            def normalize_value_for_log(self, value: Any, *, unbounded: bool = False) -> Any:
                raise RuntimeError

            def get_plain_verbosity_level(self) -> str | None:
                return None

        configure_log_context("shop", payload_processor=Processor())
        end_in_pipeline()
        with structlog.contextvars.bound_contextvars(entity_id="o-1"):
            structlog.get_logger("shop").info("x", n=1)
        assert (events[0].meta.entity_id, events[0].payload) == ("o-1", {"n": 1})
        assert [report.kind for report in reports] == ["payload"]

    def test_other_loggers(self, events: Events) -> None:
        """The renderer sends by itself where the logger factory is another's; the chain ends there."""
        stream = io.StringIO()
        structlog.configure(processors=[PipelineRenderer()], logger_factory=structlog.PrintLoggerFactory(stream))
        structlog.get_logger().warning("x", n=1)
        (event,) = events
        assert (event.meta.event_namespace, event.level, event.payload) == (__name__, 30, {"n": 1})
        assert stream.getvalue() == ""

    def test_event_dicts_of_another_class(self, events: Events) -> None:
        """``context_class`` may be anything like a dict."""
        end_in_pipeline(context_class=OrderedDict)
        structlog.get_logger("shop").bind(a=1).info("x", b=2)
        assert events[0].payload == {"a": 1, "b": 2}

    def test_layout_of_the_chain(self, events: Events) -> None:
        """The renderer is told how the chain names and writes things."""
        structlog.configure(
            processors=[
                TimeStamper(fmt="%d.%m.%Y %H:%M:%S.%f", key="ts"),
                structlog.processors.EventRenamer("message"),
                PipelineRenderer(event_key="message", timestamp_key="ts", timestamp_format="%d.%m.%Y %H:%M:%S.%f"),
            ],
            logger_factory=StructlogLoggerFactory(),
        )
        before = time.time()
        structlog.get_logger("shop").info("x", event_of="mine")
        assert events[0].meta.event_name == "x"
        assert before - 1e-5 <= events[0].timestamp <= time.time()
        assert events[0].payload == {"event_of": "mine"}

    def test_capture_logs(self, events: Events) -> None:
        """`structlog.testing.capture_logs` works as ever, with loggers in use too."""
        configure_structlog()
        log = structlog.get_logger("shop")
        log.info("before")
        with structlog.testing.capture_logs() as captured:
            log.info("inside", n=1)
        log.info("after")
        assert captured == [{"event": "inside", "n": 1, "log_level": "info"}]
        assert events.names == ["before", "after"]

    def test_live_exception_behind_a_synchronous_handler_sink(self) -> None:
        """A handler behind a `HandlerSink` gets the exception itself, not only its description."""
        seen: list[Any] = []

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                seen.append(record.exc_info)

        get_root_log_context().set_log_sink(HandlerSink(Handler()))
        end_in_pipeline()
        log = structlog.get_logger("shop")
        error = caught(ValueError("boom"))
        log.error("x", exc_info=error)
        log.error("x", exc_info=(type(error), error, error.__traceback__))
        try:
            raise error
        except ValueError:
            log.exception("x")
        assert [exc_info[1] for exc_info in seen] == [error] * 3


class TestLoggerFactory:
    def test_name_given(self) -> None:
        """The first argument of ``get_logger`` is the name."""
        factory = StructlogLoggerFactory()
        assert factory("shop", "ignored").name == "shop"
        assert factory("shop") is factory("shop") is get_pipeline_logger("shop")

        class Name(StrEnum):
            SHOP = "shop"

        assert factory(Name.SHOP) is factory("shop")
        assert factory(5).name == "5"

    def test_name_of_the_calling_module(self, events: Events) -> None:
        """Without a name it is the module's, whatever of structlog's and ours lies between."""
        assert StructlogLoggerFactory()().name == __name__
        assert StructlogLoggerFactory()(None).name == __name__
        end_in_pipeline()
        structlog.get_logger().info("x")
        assert events[0].meta.event_namespace == __name__

    def test_ignored_frames(self) -> None:
        """Frames of a framework are skipped where it is asked for."""
        assert StructlogLoggerFactory([__name__])().name != __name__
        for wrong in ("venusian", [1]):
            with pytest.raises(TypeError, match="ignore_frame_names"):
                StructlogLoggerFactory(wrong)  # type: ignore[arg-type]

    def test_a_module_without_a_name(self) -> None:
        """Code that was run in bare globals still gets a logger."""
        scope: dict[str, Any] = {"factory": StructlogLoggerFactory()}
        exec("logger = factory()", scope)
        assert scope["logger"].name in ("?", "builtins")


class TestPipelineLogger:
    def test_pickling_and_copying(self, events: Events) -> None:
        """Loggers are picklable and can be copied, bound ones and lazy ones too."""
        logger = get_pipeline_logger("shop")
        assert pickle.loads(pickle.dumps(logger)) is logger
        assert copy.copy(logger) is copy.deepcopy(logger) is logger
        end_in_pipeline(TimeStamper(fmt="iso"), wrapper_class=structlog.stdlib.BoundLogger)
        lazy = structlog.get_logger("shop", a=1)
        for log in (lazy, lazy.bind(b=2)):
            for twin in (pickle.loads(pickle.dumps(log)), copy.deepcopy(log)):
                twin.info("x")
        assert [event.payload for event in events] == [{"a": 1}, {"a": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 2}]

    def test_what_stdlib_bound_logger_asks(self) -> None:
        """The attributes and methods that `structlog.stdlib.BoundLogger` passes through are there."""
        end_in_pipeline(wrapper_class=structlog.stdlib.BoundLogger)
        log = structlog.get_logger("shop.orders").bind()
        assert (log.name, log.level, log.parent.name, log.propagate) == ("shop.orders", 0, "shop", False)
        assert (log.handlers, log.disabled, log.hasHandlers()) == ([], False, True)
        assert log.getChild("db").name == "shop.orders.db"
        assert get_pipeline_logger("shop").parent is None
        log.removeHandler(logging.NullHandler())
        with pytest.raises(LogConfigurationError, match="HandlerSink"):
            log.addHandler(logging.NullHandler())
        path, line, func, stack = log.findCaller(stack_info=True)
        assert (path, func) == (__file__, "test_what_stdlib_bound_logger_asks")
        assert stack.startswith("Stack (most recent call last):")
        assert get_pipeline_logger("shop").findCaller(stacklevel=2)[2] != func
        assert line > 0
        record = log.makeRecord("shop", 20, "a.py", 1, "hello %s", ("you",), None)
        assert record.getMessage() == "hello you"
        assert repr(get_pipeline_logger("shop")) == "<PipelineLogger shop>"

    def test_handle(self, events: Events) -> None:
        """Records that are given to the logger arrive as events."""
        logger = get_pipeline_logger("handled")
        record = logging.LogRecord("handled", 20, "a.py", 1, "hello %s", ("you",), None)
        logger.handle(record)
        logger.setLevel("ERROR")
        logger.callHandlers(record)
        logger.setLevel(0)
        assert [event.message for event in events] == ["hello you"]

    def test_levels(self, events: Events) -> None:
        """The effective level is the logger's own or its context's, whichever is higher."""
        configure_log_context("shop", min_level=30)
        logger = get_pipeline_logger("shop.levels")
        assert (logger.getEffectiveLevel(), logger.isEnabledFor(20), logger.isEnabledFor(30)) == (30, False, True)
        logger.setLevel("ERROR")
        assert (logger.level, logger.get_effective_level(), logger.is_enabled_for(30)) == (40, 40, False)
        logger.warning("no")
        logger.log(30, "no")
        logger.error("yes")
        logger.disabled = True
        logger.error("no")
        assert not logger.isEnabledFor(50)
        logger.disabled = False
        logger.setLevel(0)
        assert events.names == ["yes"]
        with pytest.raises(LogConfigurationError):
            logger.setLevel("loud")

    def test_filter_by_level(self, events: Events) -> None:
        """`structlog.stdlib.filter_by_level` asks the context."""
        configure_log_context("shop", min_level=30)
        seen = []

        def look(logger: Any, method_name: str, event_dict: Any) -> Any:
            seen.append(event_dict["event"])
            return event_dict

        end_in_pipeline(structlog.stdlib.filter_by_level, look)
        log = structlog.get_logger("shop.orders")
        log.info("no")
        log.warning("yes")
        assert seen == events.names == ["yes"]

    def test_methods_of_custom_levels(self, events: Events) -> None:
        """A level that the program has named is a method; any other name is an error, as ever."""
        logging.addLevelName(23, "NOTE")
        try:
            end_in_pipeline(wrapper_class=structlog.BoundLogger)
            structlog.get_logger("shop").note("x", n=1)
        finally:
            del logging._levelToName[23], logging._nameToLevel["NOTE"]
        assert (events[0].level, events[0].payload) == (23, {"n": 1})
        with pytest.raises(AttributeError, match="nonsense"):
            _ = get_pipeline_logger("shop").nonsense
        with pytest.raises(AttributeError):
            _ = get_pipeline_logger("shop")._private

    def test_twisted_methods(self, events: Events) -> None:
        """``msg`` and ``err`` serve `structlog.twisted.BoundLogger`."""
        logger = get_pipeline_logger("shop")
        logger.msg(event="one", n=1)
        logger.err(event="two")
        assert [(event.meta.event_name, event.level) for event in events] == [("one", 20), ("two", 40)]


class TestOtherRenderers:
    @pytest.mark.parametrize(
        "renderer",
        [
            structlog.processors.JSONRenderer(),
            structlog.processors.JSONRenderer(serializer=lambda data, **kw: json.dumps(data, **kw).encode()),
            lambda logger, method_name, event_dict: event_dict,
            structlog.stdlib.render_to_log_kwargs,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
            getattr(structlog.stdlib, "render_to_log_args_and_kwargs", structlog.stdlib.render_to_log_kwargs),
        ],
        ids=["json", "json bytes", "none", "log kwargs", "wrapped", "log args"],
    )
    def test_structured_renderers_lose_nothing(self, renderer: Any, wrapper_class: Any, events: Events) -> None:
        """A chain that was made for another logger ends in the same event."""
        structlog.configure(
            processors=[structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, renderer],
            wrapper_class=wrapper_class,
            logger_factory=StructlogLoggerFactory(),
        )
        structlog.get_logger("shop").warning("order.created", n=1, entity_id="o-1")
        (event,) = events
        assert event.meta == LogEventMeta("shop", "order.created", "o-1")
        assert (event.level, event.payload, event.message) == (30, {"n": 1}, "order.created")

    @pytest.mark.parametrize("text", ["n=1 event='x'", b"n=1 event='x'", "{not json", b"{", '{"n": 1}', '{"event"'])
    def test_text(self, text: str | bytes, events: Events) -> None:
        """Rendered text is the message."""
        get_pipeline_logger("shop").info(text)
        expected = text if isinstance(text, str) else text.decode()
        assert (events[0].meta.event_name, events[0].message, events[0].payload) == (expected, expected, {})

    def test_arguments_of_the_standard_librarys_methods(self, events: Events) -> None:
        """The logger may be used as a `logging.Logger`."""
        logger = get_pipeline_logger("shop")
        logger.error("%s failed", "job", exc_info=ValueError("boom"), stacklevel=2, extra={"n": 1})
        (event,) = events
        assert (event.message, event.meta.event_name, event.payload) == ("job failed", "%s failed", {"n": 1})
        assert event.exception is not None
        logger.info("x", extra=5)
        assert events[1].payload == {"extra": 5}

    def test_keys_named_like_arguments(self, events: Events) -> None:
        """``self``, ``args`` and ``extra`` are keys like any other."""
        end_in_pipeline()
        structlog.get_logger("shop").info("x", args=1, kwargs=2, layout=3, extra={"a": 1}, msg="m", stacklevel=2)
        assert events[0].payload == {
            "args": 1,
            "kwargs": 2,
            "layout": 3,
            "extra": {"a": 1},
            "msg": "m",
            "stacklevel": 2,
        }

    def test_no_arguments_at_all(self, events: Events) -> None:
        """A log call without anything is an event without a name."""
        get_pipeline_logger("shop").info()
        assert events.names == [NO_EVENT]


class TestTee:
    def chain(self, stream: io.StringIO, *processors: Any, tee: PipelineTee | None = None) -> None:
        structlog.configure(
            processors=[*processors, tee or PipelineTee(), structlog.processors.KeyValueRenderer(sort_keys=True)],
            logger_factory=structlog.PrintLoggerFactory(stream),
        )

    def test_both_get_the_event(self, events: Events) -> None:
        """The copy arrives in the pipeline, the event at the end of the chain."""
        stream = io.StringIO()
        self.chain(stream, structlog.stdlib.add_log_level)
        structlog.get_logger().bind(logger="shop").warning("x", n=1)
        assert stream.getvalue() == "event='x' level='warning' logger='shop' n=1\n"
        (event,) = events
        assert (event.meta, event.level, event.payload) == (LogEventMeta("shop", "x"), 30, {"n": 1})

    def test_event_dict_is_the_same_and_unchanged(self, events: Events) -> None:
        """The very same object goes on, with the same content."""
        error = caught(ValueError())
        event_dict = {"event": "x", "level": "info", "exc_info": error, "n": [1], "_record": None}
        before = dict(event_dict)
        assert PipelineTee()(None, "info", event_dict) is event_dict
        assert list(event_dict.items()) == list(before.items())
        assert events[0].exception is not None

    @pytest.mark.parametrize(
        ("event_dict", "logger", "option", "expected"),
        [
            ({"logger": "a"}, get_pipeline_logger("b"), None, "a"),
            ({"logger_name": "a"}, None, None, "a"),
            ({}, get_pipeline_logger("b"), None, "b"),
            ({}, logging.getLogger("std"), None, "std"),
            ({"logger": 5}, None, None, __name__),
            ({}, None, None, __name__),
            ({}, get_pipeline_logger("b"), "fixed", "fixed"),
        ],
    )
    def test_name(
        self, event_dict: dict[str, Any], logger: Any, option: str | None, expected: str, events: Events
    ) -> None:
        """The event dict, the logger or the calling module give the name."""
        PipelineTee(logger_name=option)(logger, "info", {"event": "x", **event_dict})
        assert events[0].meta.event_namespace == expected

    def test_it_never_raises(self, reports: list[Any]) -> None:
        """Whatever the pipeline does, the chain goes on."""

        class Broken:
            def log(self, event: LogEvent) -> None:
                raise OSError("disk full")

        context = get_root_log_context()
        context.set_log_sink(Broken())
        context.set_log_error_handling_policy(LogErrorHandlingPolicy.RAISE)
        stream = io.StringIO()
        self.chain(stream)
        structlog.get_logger().info("x")
        assert stream.getvalue() == "event='x'\n"
        assert [report.kind for report in reports] == ["structlog"]

    def test_what_is_dropped_later_was_sent(self, events: Events) -> None:
        """A processor behind the tee drops the event from the rest of the chain only."""

        def drop(logger: Any, method_name: str, event_dict: Any) -> Any:
            raise structlog.DropEvent

        structlog.configure(processors=[PipelineTee(), drop])
        structlog.get_logger().info("x")
        assert events.names == ["x"]

    def test_in_front_of_the_standard_library(self, events: Events) -> None:
        """A chain that ends in `logging` is teed with the name of its logger."""
        structlog.configure(
            processors=[PipelineTee(), structlog.stdlib.render_to_log_kwargs],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
        )
        structlog.get_logger("shop.std").error("x", n=1)
        assert (events[0].meta.event_namespace, events[0].payload) == ("shop.std", {"n": 1})


# ---------------------------------------------------------------------------------------------------- ambient values


class TestContextvars:
    def test_bound_values_appear_on_all_three_kinds_of_events(self, events: Events) -> None:
        """Native, standard library and structlog events carry what is bound; explicit keys win."""
        configure_structlog()
        handler = LogContextHandler()
        logger = logging.getLogger("test_structlog_bridge.ambient")
        logger.addHandler(handler)
        logger.propagate = False
        try:
            with structlog.contextvars.bound_contextvars(request="r-1", n=0):
                get_root_log_context().log_warning_event("native", {"n": 1})
                logger.warning("stdlib", extra={"n": 1})
                structlog.get_logger("shop").warning("structlog", n=1)
            structlog.get_logger("shop").warning("later")
        finally:
            logger.removeHandler(handler)
        assert [event.payload for event in events] == [{"request": "r-1", "n": 1}] * 3 + [{}]

    @pytest.mark.parametrize("merge", [False, True])
    def test_a_bound_field_is_not_doubled(self, merge: bool, events: Events) -> None:
        """A bound ``entity_id`` is the event's entity, and no payload, whoever merges it."""
        end_in_pipeline(*([structlog.contextvars.merge_contextvars] if merge else []))
        with structlog.contextvars.bound_contextvars(entity_id="o-1", event_outcome="ok", logger="other"):
            structlog.get_logger("shop").info("x", event_outcome="mine")
        (event,) = events
        assert (event.meta.entity_id, event.event_outcome, event.meta.event_namespace) == ("o-1", "mine", "other")
        assert event.payload == {}

    @pytest.mark.parametrize("where", ["renderer", "tee", "json"])
    def test_what_the_chain_left_out_stays_out(self, where: str, events: Events) -> None:
        """Where the chain merges bound values, a processor that removes one is obeyed."""

        def redact(logger: Any, method_name: str, event_dict: Any) -> Any:
            event_dict.pop("email", None)
            return event_dict

        ends = {
            "renderer": [PipelineRenderer()],
            "tee": [PipelineTee(), PipelineRenderer()],
            "json": [structlog.processors.JSONRenderer()],
        }
        structlog.configure(
            processors=[structlog.contextvars.merge_contextvars, redact, *ends[where]],
            logger_factory=StructlogLoggerFactory(),
        )
        with structlog.contextvars.bound_contextvars(email="eve@example.org", request="r-1"):
            structlog.get_logger("shop").info("x")
        assert all(event.payload == {"request": "r-1"} for event in events)
        assert len(events) == (2 if where == "tee" else 1)

    @pytest.mark.parametrize("flag", [True, False])
    def test_it_can_be_said(self, flag: bool, events: Events) -> None:
        """``contextvars`` decides where it is given."""
        structlog.configure(processors=[PipelineRenderer(contextvars=flag)], logger_factory=StructlogLoggerFactory())
        with structlog.contextvars.bound_contextvars(request="r-1"):
            structlog.get_logger("shop").info("x")
        assert events[0].payload == ({"request": "r-1"} if flag else {})


class TestRecursion:
    def test_the_process_freezes_because_a_value_logs_while_it_is_described(
        self, events: Events, reports: list[Any]
    ) -> None:
        """What is logged while an event is being converted is told to selflog, and not delivered."""
        end_in_pipeline()
        log = structlog.get_logger("shop")

        class Chatty:
            def to_log_payload(self) -> dict[str, Any]:
                log.info("describing", value=self)
                logging.getLogger("shop").warning("describing")
                return {"a": 1}

            def __str__(self) -> str:
                log.info("printing", value=self)
                return "chatty"

        log.info("x", value=Chatty())
        log.info(Chatty())
        assert events.names == ["x", "<Chatty>"]
        assert events[0].payload == {"value": {"a": 1}}
        assert events[1].message == "chatty"
        assert {report.kind for report in reports} == {"recursion"}

    def test_a_sink_that_logs_by_structlog(self, reports: list[Any]) -> None:
        """Its own events do not come back to it."""
        end_in_pipeline()
        log = structlog.get_logger("shop")

        class Chatty(Events):
            def log(self, event: LogEvent) -> None:
                super().log(event)
                log.info("writing")

        sink = Chatty()
        get_root_log_context().set_log_sink(sink)
        log.info("x")
        assert sink.names == ["x"]
        assert [report.kind for report in reports] == ["recursion"]

    def test_a_sink_that_leads_back_into_the_pipeline(self, reports: list[Any]) -> None:
        """A `StructlogSink` on a pipeline logger delivers each event once."""
        sink = StructlogSink(processors=[PipelineRenderer()], logger=get_pipeline_logger("shop"))
        get_root_log_context().set_log_sink(sink)
        end_in_pipeline()
        structlog.get_logger("shop").info("x")
        assert (sink.stats().delivered, sink.stats().rejected) == (1, {})
        token = guard.internal.set(True)
        sink.log(EVENT)
        guard.internal.reset(token)
        assert sink.stats().rejected == {"recursion": 1}
        del reports[1:]
        assert [report.kind for report in reports] == ["recursion"]


# ---------------------------------------------------------------------------------------------------- StructlogSink

EVENT = LogEvent(
    30, LogEventMeta("shop", "order.created", "o-1", "/srv/app.py", 7, "f"), None, 0.5, {"n": 1, "s": "a b"}
)
FAILED = LogEvent(
    40,
    LogEventMeta("shop", "x"),
    None,
    0.0,
    {},
    None,
    LogException("ValueError", "boom", "Traceback\nValueError: boom"),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestStructlogSink:
    def lines(self, *events: LogEvent, **options: Any) -> list[str]:
        stream = io.StringIO()
        sink = StructlogSink(stream=stream, **options)
        for event in events:
            sink.log(event)
        return stream.getvalue().split("\n")[:-1]

    def test_console(self, berlin: None) -> None:
        """The pretty console, with local time."""
        (line,) = self.lines(EVENT)
        text = "1970-01-01 01:00:00 [warning ] order.created [shop] entity_id=o-1 n=1 s="
        assert " ".join(line.split()).replace("'", "") == text + "a b"

    def test_exceptions_on_the_console(self) -> None:
        """A traceback follows its line, and nothing warns."""
        assert self.lines(FAILED)[1:] == ["Traceback", "ValueError: boom"]

    def test_json(self) -> None:
        """One object a line; exceptions as data, where they are known."""
        exception = read({"event": "x", "exc_info": caught(ValueError("boom"))}).exception
        event = LogEvent(40, LogEventMeta("shop", "x"), None, 0.0, {"b": b"\xff", "n": float("nan")}, None, exception)
        (line,) = self.lines(event, renderer="json")
        data = json.loads(line)
        assert data["exception"][0]["exc_type"] == "ValueError"
        assert (data["event"], data["timestamp"], data["n"]) == ("x", "1970-01-01T00:00:00Z", None)
        (line,) = self.lines(FAILED, renderer="json", structured_exceptions=False)
        assert json.loads(line)["exception"].endswith("boom")

    def test_logfmt(self) -> None:
        """Fixed keys come first."""
        (line,) = self.lines(EVENT, renderer="logfmt", timestamp_format="unix")
        assert line == 'timestamp=0.5 level=warning logger=shop event=order.created entity_id=o-1 n=1 s="a b"'

    def test_key_value(self) -> None:
        """As structlog's own `KeyValueRenderer`."""
        (line,) = self.lines(EVENT, renderer="key_value", sort_keys=True, timestamp_utc=True)
        assert line.startswith(
            "timestamp='1970-01-01T00:00:00.500000Z' level='warning' logger='shop' event='order.created'"
        )

    def test_sorted_json(self) -> None:
        """``sort_keys`` serves JSON too."""
        (line,) = self.lines(EVENT, renderer="json", sort_keys=True)
        assert list(json.loads(line)) == sorted(json.loads(line))

    @pytest.mark.parametrize("renderer", ["json", "logfmt", "key_value"])
    def test_no_event_breaks_its_line(self, renderer: str) -> None:
        """Newlines, odd keys and odd values stay within one line."""
        event = LogEvent(
            20,
            LogEventMeta("a\nb", "x\ny"),
            None,
            0.0,
            {"a b": 1, "a=b": 2, "": 3, "a_b": 4, "t": "x\r\ny", "none": None, "flag": True, 'q"': "\u2028"},
        )
        stream = io.StringIO()
        StructlogSink(stream=stream, renderer=renderer).log(event)  # type: ignore[arg-type]
        assert stream.getvalue().count("\n") == 1
        assert "\r" not in stream.getvalue()

    def test_logfmt_keys_do_not_collide(self) -> None:
        """Every value is there, whatever became of its key."""
        event = LogEvent(20, LogEventMeta(None, "x"), None, 0.0, {"a b": 1, "a=b": 2, "a_b": 3})
        (line,) = self.lines(event, renderer="logfmt")
        assert sorted(part.split("=")[1] for part in line.split()[3:]) == ["1", "2", "3"]

    def test_an_event_cannot_move_the_terminals_cursor(self) -> None:
        """Escape sequences are shown, not obeyed, and a second line does not look like an event."""
        event = LogEvent(
            20,
            LogEventMeta("a\x1b[2J", "hello\n2026-01-01 [info] forged\x1b[31m"),
            None,
            0.0,
            {"k\x1b": "v\x1b[0m", "t": "a\tb", "n": "a\nb", "o": ["\x1b"]},
            None,
            LogException("", "", "Traceback\n\x1b[31mboom"),
        )
        lines = self.lines(event, colors=False)
        assert "\x1b" not in "".join(lines)
        assert lines[1].startswith("    2026-01-01")
        assert lines[-1] == "\\x1b[31mboom"

    def test_colors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Terminals get colours, unless somebody says otherwise."""

        def colored(stream: io.StringIO, **options: Any) -> bool:
            StructlogSink(stream=stream, **options).log(EVENT)
            return "\x1b" in stream.getvalue()

        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.delenv("FORCE_COLOR", raising=False)
        assert colored(Terminal())
        assert not colored(io.StringIO())
        assert not colored(Terminal(), colors=False)
        assert colored(io.StringIO(), colors=True)
        monkeypatch.setenv("FORCE_COLOR", "1")
        assert colored(io.StringIO())
        monkeypatch.setenv("NO_COLOR", "1")
        assert not colored(Terminal())

    @pytest.mark.parametrize("installed", [True, False])
    def test_colors_on_windows(self, installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """There they need colorama."""
        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.setitem(sys.modules, "colorama", sys if installed else None)  # type: ignore[arg-type]
        stream = Terminal()
        StructlogSink(stream=stream, colors=True).log(EVENT)
        assert ("\x1b" in stream.getvalue()) is installed

    @pytest.mark.parametrize("name", ["stderr", "stdout"])
    def test_stream_is_looked_up_when_an_event_is_written(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The sink writes to what ``sys.stderr`` is at that moment; None writes nowhere."""
        sink = StructlogSink(stream=name, renderer="logfmt")
        first, second = io.StringIO(), io.StringIO()
        for stream in (first, second, None):
            monkeypatch.setattr(sys, name, stream)
            sink.log(EVENT)
        assert first.getvalue() == second.getvalue() != ""

    def test_narrow_encodings(self) -> None:
        """What a stream cannot encode is escaped."""
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="ascii")
        StructlogSink(stream=stream, renderer="key_value").log(LogEvent(20, LogEventMeta(None, "café"), None, 0.0, {}))
        assert b"caf\\xe9" in raw.getvalue()

    def test_bytes(self) -> None:
        """A chain that makes bytes writes them to the buffer of a text stream, a binary stream, or as text."""

        def encode(logger: Any, method_name: str, event_dict: Any) -> bytes:
            return str(event_dict["event"]).encode()

        raw = io.BytesIO()
        for stream in (raw, io.TextIOWrapper(raw, write_through=True)):
            StructlogSink(stream=stream, processors=[encode]).log(EVENT)
        assert raw.getvalue() == b"order.created\n" * 2
        assert self.lines(EVENT, processors=[encode]) == ["order.created"]

    def test_streams_with_nothing_but_write(self) -> None:
        """``write`` is all that a stream has to have."""

        class Stream:
            text = ""

            def write(self, text: str) -> None:
                self.text += text

        stream = Stream()
        StructlogSink(stream=stream, renderer="logfmt").log(EVENT)
        assert stream.text.count("\n") == 1

    def test_any_chain(self, events: Events) -> None:
        """The chain is given method name, a logger of the event's namespace, and the event dict."""
        seen: list[Any] = []

        def look(logger: Any, method_name: str, event_dict: Any) -> str:
            seen.append((logger.name, method_name, event_dict["n"]))
            return "line"

        assert self.lines(EVENT, processors=[structlog.stdlib.add_log_level, look]) == ["line"]
        assert seen == [("shop", "warning", 1)]

    def test_processors_before_a_renderer(self) -> None:
        """Own processors run before the renderer that is named."""

        def add(logger: Any, method_name: str, event_dict: Any) -> Any:
            return {**event_dict, "more": 1}

        assert self.lines(EVENT, processors=[add], renderer="logfmt")[0].endswith("more=1")

    def test_callsite(self) -> None:
        """Where an event was logged is shown on request."""
        assert "lineno=7" not in self.lines(EVENT, renderer="logfmt")[0]
        assert "lineno=7" in self.lines(EVENT, renderer="logfmt", callsite=True)[0]

    def test_drop_event(self) -> None:
        """A processor may drop an event; it is counted."""

        def drop(logger: Any, method_name: str, event_dict: Any) -> Any:
            raise structlog.DropEvent

        stream = io.StringIO()
        sink = StructlogSink(stream=stream, processors=[drop], renderer="json")
        sink.log(EVENT)
        assert stream.getvalue() == ""
        stats = sink.stats()
        assert (stats.accepted, stats.delivered, stats.dropped) == (1, 0, {"filtered": 1})

    def test_failures_are_the_contexts_business(self) -> None:
        """A failing processor raises out of ``log`` and is counted; a chain that renders nothing says what to do."""
        sink = StructlogSink(processors=[structlog.stdlib.add_log_level])
        with pytest.raises(TypeError, match="renderer"):
            sink.log(EVENT)
        stats = sink.stats()
        assert (stats.accepted, stats.delivered, stats.dropped) == (1, 0, {"error": 1})

    def test_level(self) -> None:
        """Events below the level are not written."""
        assert self.lines(EVENT, level="ERROR") == []
        assert len(self.lines(EVENT, FAILED, level=40, renderer="json")) == 1

    @pytest.mark.parametrize(
        ("make", "renderer"),
        [(structlog.PrintLogger, "logfmt"), (structlog.WriteLogger, "json"), (structlog.PrintLogger, "console")],
    )
    def test_wrapped_loggers(self, make: Any, renderer: Any) -> None:
        """structlog's own loggers take what the chain makes."""
        stream = io.StringIO()
        StructlogSink(logger=make(stream), renderer=renderer).log(EVENT)
        assert "order.created" in stream.getvalue()

    def test_logger_in_plain_data(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A logger, or a factory of them, can be named."""
        made = {"class": "structlog.PrintLogger", "file": "ext://sys.stderr"}
        for logger in (made, {"class": "structlog.PrintLoggerFactory", "file": "ext://sys.stderr"}):
            StructlogSink(logger=logger, renderer="json").log(EVENT)
        assert capsys.readouterr().err.count("order.created") == 2

    def test_bytes_logger(self) -> None:
        """`BytesLogger` takes a chain that makes bytes."""
        raw = io.BytesIO()
        chain = [structlog.processors.JSONRenderer(serializer=lambda data, **kw: json.dumps(data, **kw).encode())]
        StructlogSink(logger=structlog.BytesLogger(raw), processors=chain).log(EVENT)
        assert json.loads(raw.getvalue())["event"] == "order.created"

    @pytest.mark.parametrize(
        ("renderer", "args", "kwargs"),
        [
            (structlog.stdlib.ProcessorFormatter.wrap_for_formatter, 1, {"extra"}),
            (structlog.stdlib.render_to_log_kwargs, 0, {"msg", "extra"}),
        ],
    )
    def test_calls_by_level(self, renderer: Any, args: int, kwargs: set[str]) -> None:
        """The wrapped logger's method is that of the level; arguments are passed as the chain made them."""
        logger = structlog.testing.CapturingLogger()
        sink = StructlogSink(logger=logger, processors=[renderer])
        for level in (5, 10, 25, 40, 60):
            sink.log(LogEvent(level, LogEventMeta("shop", "x"), None, 0.0, {}))
        assert [call.method_name for call in logger.calls] == ["debug", "debug", "info", "error", "critical"]
        assert all(len(call.args) == args and set(call.kwargs) == kwargs for call in logger.calls)

    def test_contract_of_sinks(self) -> None:
        """It is a sink class that can be registered, and a sink that can be closed twice."""
        assert isinstance(StructlogSink, LogSinkClassProto)
        sink, terminate = StructlogSink.create(renderer="json", stream="stdout")
        assert isinstance(sink, LogSinkProto)
        assert sink.flush(1.0) is True
        terminate()
        terminate()
        assert repr(sink) == "<StructlogSink json stdout>"
        assert repr(StructlogSink(logger=structlog.PrintLogger(io.StringIO()))) == "<StructlogSink console PrintLogger>"

    def test_descriptors(self) -> None:
        """Equal options are one sink; processors may hold secrets and are told by a digest."""
        describe = StructlogSink.build_descriptor
        spec = {"class": "myapp.AddToken", "token": "s3cret", "nested": ["a", 1, None, {"b": 2.5}]}
        one = describe(processors=[spec], renderer="json", level="INFO")
        assert one == describe(processors=[dict(spec)], renderer="json", level=20)
        assert hash(one) == hash(describe(processors=[dict(spec)], renderer="json", level=20))
        assert "s3cret" not in repr(one)
        assert one != describe(processors=[{**spec, "token": "other"}], renderer="json", level=20)
        assert describe() == describe(stream="stderr") != describe(stream="stdout")
        stream = io.StringIO()
        assert describe(stream=stream) == describe(stream=stream) != describe(stream=io.StringIO())
        assert describe(logger="PrintLogger") != describe()

    def test_behind_a_context(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A registered console shows native events."""
        sink = mvx_logger.configure_log_sink(name="console", sink_cls=StructlogSink, renderer="logfmt")
        context = configure_log_context("shop", log_sink=sink)
        context.log_info_event("order.created", {"n": 1})
        assert "event=order.created n=1" in capsys.readouterr().err


class TestUrl:
    @pytest.mark.parametrize(
        ("url", "stream"), [("console:", "stderr"), ("console:stdout", "stdout"), ("console://stdout", "stdout")]
    )
    def test_scheme(self, url: str, stream: str, capsys: pytest.CaptureFixture[str]) -> None:
        """``console:`` is a sink of its own."""
        sink = mvx_logger.sink_from_url(f"{url}?colors=false&renderer=logfmt&sort_keys=true")
        assert isinstance(sink, StructlogSink)
        sink.log(EVENT)
        assert "order.created" in getattr(capsys.readouterr(), stream.replace("std", ""))


# ---------------------------------------------------------------------------------------------------- ProcessorFormatter


class TestProcessorFormatter:
    def render(self, event: LogEvent, formatter: logging.Formatter) -> str:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter)
        HandlerSink(handler).log(event)
        return stream.getvalue().rstrip("\n")

    def dict_of(self, event: LogEvent, **options: Any) -> dict[str, Any]:
        formatter = structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[EventDictFromRecord(**options)],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                lambda logger, method_name, event_dict: json.dumps(event_dict),
            ],
        )
        found: dict[str, Any] = json.loads(self.render(event, formatter))
        return found

    @pytest.mark.parametrize("payload", [{}, {"n": 1, "s": "a b"}])
    def test_native_event_through_the_stock_formatter(self, payload: dict[str, Any]) -> None:
        """The event dict has level, time, logger and payload."""
        event = LogEvent(30, LogEventMeta("shop", "order.created", "o-1"), "success", 0.5, payload)
        event_dict = self.dict_of(event)
        assert "order.created" in event_dict.pop("event")
        assert event_dict == {
            "timestamp": "1970-01-01T00:00:00.500000Z",
            "level": "warning",
            "logger": "shop",
            "entity_id": "o-1",
            "event_outcome": "success",
            **payload,
        }

    def test_payload_is_not_shown_twice(self) -> None:
        """The text of a native event leaves out what the keys show."""
        assert (
            "n" not in self.dict_of(LogEvent(30, LogEventMeta("shop", "x"), None, 0.5, {"n": 1}))["event"].split("x")[1]
        )

    def test_exception_and_stack_through_the_stock_formatter(self) -> None:
        """Exception and stack arrive as text."""
        event = LogEvent(
            40, LogEventMeta("shop", "x"), None, 0.5, {}, None, FAILED.exception, LogStack("Stack (most ..."), None
        )
        if VERSION < (23, 3):
            pytest.skip("the formatter of this structlog takes the exception away before the chain")
        event_dict = self.dict_of(event, timestamp_format=None, callsite=True)
        assert (event_dict["exception"], event_dict["stack"]) == ("Traceback\nValueError: boom", "Stack (most ...")
        assert event_dict["timestamp"] == 0.5
        assert event_dict["process"] == os.getpid()

    def test_records_of_the_standard_library(self) -> None:
        """A record that `logging` made is treated alike; its live exception is left to the renderer."""
        error = caught(ValueError("boom"))
        record = logging.LogRecord("shop", 20, "a.py", 1, "hello %s", ("you",), (type(error), error, None), "f", None)
        record.n = 1
        event_dict = {"event": record.getMessage(), "_record": record, "_from_structlog": False}
        found = EventDictFromRecord()(None, "info", event_dict)
        assert (found["event"], found["n"], found["level"], found["logger"]) == ("hello you", 1, "info", "shop")
        assert found["exc_info"] == record.exc_info
        assert "exception" not in found
        assert found["_record"] is record

    def test_records_of_structlog_are_left_alone(self) -> None:
        """What structlog sent has its event dict already."""
        for event_dict in ({"event": "x", "_record": object(), "_from_structlog": True}, {"event": "x"}):
            assert EventDictFromRecord()(None, "info", dict(event_dict)) == event_dict

    def test_formatter_of_ones_own_chain(self) -> None:
        """`EventFormatter` renders the event itself."""
        formatter = EventFormatter(renderer="json")
        data = json.loads(self.render(EVENT, formatter))
        assert data == {
            "timestamp": "1970-01-01T00:00:00.500000Z",
            "level": "warning",
            "event": "order.created",
            "logger": "shop",
            "entity_id": "o-1",
            "n": 1,
            "s": "a b",
        }

    def test_formatter_with_exceptions(self) -> None:
        """Exceptions are data in JSON; elsewhere a live one is left to the renderer, and a described one is text."""
        error = caught(ValueError("boom"))
        exception = read({"event": "x", "exc_info": error}).exception
        event = LogEvent(40, LogEventMeta("shop", "x"), None, 0.0, {}, None, exception)
        live = event_to_record(event, exc_info=(ValueError, error, error.__traceback__))  # type: ignore[arg-type]
        assert json.loads(EventFormatter(renderer="json").format(live))["exception"][0]["exc_type"] == "ValueError"
        for record in (live, event_to_record(event)):
            text = EventFormatter(renderer="console").format(record)
            assert text.count("ValueError: boom") == 1

    def test_formatter_for_all_kinds_of_records(self) -> None:
        """Records of `logging`, and those of a structlog chain that ends in it, are rendered as well."""
        formatter = EventFormatter(renderer="json", callsite=True)
        record = logging.LogRecord("shop", 20, "a.py", 1, "hello %s", ("you",), None)
        record.n = 1
        data = json.loads(formatter.format(record))
        assert (data["event"], data["n"], data["level"], data["lineno"]) == ("hello you", 1, "info", 1)
        record = logging.LogRecord("shop", 20, "a.py", 1, {"event": "x", "n": 2}, (), None)
        record._logger, record._name = logging.getLogger("shop"), "info"
        assert json.loads(formatter.format(record)) == {"event": "x", "n": 2}

    def test_own_pre_chain_and_processors(self) -> None:
        """Both chains can be given as data."""
        formatter = EventFormatter(
            processors=["structlog.stdlib.ProcessorFormatter.remove_processors_meta", "KeyValueRenderer"],
            foreign_pre_chain=["add_log_level"],
        )
        assert formatter.format(logging.LogRecord("shop", 20, "a.py", 1, "x", (), None)) == "event='x' level='info'"

    def test_no_chain(self) -> None:
        """A formatter without a chain is an error that says what to give."""
        with pytest.raises(LogConfigurationError, match="renderer"):
            EventFormatter()

    def test_structlogs_formatter_cannot_be_configured_from_a_json_file(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The stock `dictConfig` makes formatter, handler and chain of plain data."""
        config = json.loads(
            """
            {
              "version": 1,
              "disable_existing_loggers": false,
              "formatters": {
                "pretty": {
                  "()": "mvx_logger.bridge.structlog.EventFormatter",
                  "processors": [{"class": "structlog.processors.EventRenamer", "to": "msg"}],
                  "renderer": "logfmt"
                }
              },
              "handlers": {
                "out": {"class": "logging.StreamHandler", "formatter": "pretty", "stream": "ext://sys.stdout"}
              },
              "loggers": {"test_structlog_bridge.file": {"handlers": ["out"], "level": "INFO", "propagate": false}}
            }
            """
        )
        logging.config.dictConfig(config)
        logger = logging.getLogger("test_structlog_bridge.file")
        try:
            logger.info("hello %s", "you", extra={"n": 1})
        finally:
            logger.handlers.clear()
        assert 'msg="hello you"' in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------- configuration


class TestBuilding:
    def test_every_way_to_write_a_processor(self) -> None:
        """Objects, classes, paths, short names and mappings."""
        built = build_processors(
            [
                structlog.stdlib.add_log_level,
                "structlog.contextvars.merge_contextvars",
                "add_logger_name",
                structlog.processors.KeyValueRenderer,
                {"class": "structlog.processors.TimeStamper", "fmt": "iso"},
                {"()": "JSONRenderer", "serializer": "ext://json.dumps"},
                {"class": "CallsiteParameterAdder", "parameters": ["lineno"]},
                "PipelineTee",
                "structlog.processors.format_exc_info",
                "structlog.stdlib.ProcessorFormatter.remove_processors_meta",
            ]
        )
        assert built[:3] == [
            structlog.stdlib.add_log_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_logger_name,
        ]
        assert [type(processor).__name__ for processor in built[3:]] == [
            "KeyValueRenderer",
            "TimeStamper",
            "JSONRenderer",
            "CallsiteParameterAdder",
            "PipelineTee",
            "ExceptionRenderer",
            "function",
        ]
        assert built[5](None, "info", {"a": 1}) == '{"a": 1}'

    @pytest.mark.parametrize(
        ("specs", "message"),
        [
            ("add_log_level", "processors: expected a list"),
            ({"class": "x"}, "processors: expected a list"),
            (["nonsense"], r"processors\[0\]: there is no 'nonsense'"),
            (["add_log_level", "no.such.module"], r"processors\[1\]"),
            ([{"fmt": "iso"}], r'processors\[0\]: expected "class"'),
            ([{"class": "TimeStamper", "format": "iso"}], r"processors\[0\]: TypeError"),
            ([{"class": "TimeStamper", "utc": False}], r"processors\[0\]: ValueError"),
            (
                [{"class": "CallsiteParameterAdder", "parameters": ["nonsense"]}],
                r"processors\[0\].parameters: expected a list",
            ),
            ([{"class": "JSONRenderer", "serializer": "ext://no.such"}], r"processors\[0\].serializer"),
            ([5], r"processors\[0\]: expected a callable"),
            (["os.sep"], r"processors\[0\]: expected a callable"),
        ],
        ids=str,
    )
    def test_what_is_wrong_is_named(self, specs: Any, message: str) -> None:
        """An error names the place, and what would be right."""
        with pytest.raises(LogConfigurationError, match=message):
            build_processors(specs)

    def test_a_module_that_fails_to_import(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """The reason is told, not that there is no such thing."""
        (tmp_path / "structlog_bridge_broken.py").write_text("import structlog_bridge_missing")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(LogConfigurationError, match="structlog_bridge_missing"):
            import_object("structlog_bridge_broken.thing")

    def test_unknown_renderer(self) -> None:
        """The names that are right are told."""
        with pytest.raises(LogConfigurationError, match="console, json, logfmt, key_value"):
            build_renderer("xml")


class TestConfigureStructlog:
    def test_defaults(self, events: Events) -> None:
        """Level, time, logger name and bound values are there."""
        configure_structlog(level="info")
        log = structlog.get_logger("shop")
        log.debug("no")
        before = time.time()
        with structlog.contextvars.bound_contextvars(request="r-1"):
            log.warning("yes", n=1)
        (event,) = events
        assert (event.level, event.meta, event.payload) == (30, LogEventMeta("shop", "yes"), {"n": 1, "request": "r-1"})
        assert before <= event.timestamp <= time.time()

    @pytest.mark.parametrize(("level", "passing"), [(0, 5), ("debug", 5), (15, 4), (25, 3), ("ERROR", 2), (55, 1)])
    def test_level(self, level: int | str, passing: int, events: Events) -> None:
        """Standard levels from the given one on pass; numbers between two of them round up."""
        configure_structlog(level=level)
        log = structlog.get_logger("shop")
        for method in ("debug", "info", "warning", "error", "critical"):
            getattr(log, method)("x")
        assert len(events) == passing

    def test_own_processors_see_the_usual_keys(self, events: Events) -> None:
        """Processors of one's own find level, time and bound values in the event dict."""
        seen: list[set[str]] = []

        def look(logger: Any, method_name: str, event_dict: Any) -> Any:
            seen.append(set(event_dict))
            return event_dict

        configure_structlog(processors=[look])
        with structlog.contextvars.bound_contextvars(request="r-1"):
            structlog.get_logger("shop").info("x")
        assert seen == [{"event", "level", "timestamp", "request"}]
        assert events[0].payload == {"request": "r-1"}

    def test_callsite(self, events: Events) -> None:
        """The place of the log call, as far as it is asked for."""
        configure_structlog(callsite=True)
        structlog.get_logger("shop").info("x")
        configure_structlog(callsite=["lineno", "thread_name"], cache_logger_on_first_use=False)
        structlog.get_logger("shop").info("x")
        one, two = events
        assert (one.meta.source_path, one.meta.source_func) == (__file__, "test_callsite")
        assert two.meta.source_path is None
        assert two.meta.source_line is not None
        assert two.origin is not None
        assert two.origin.thread_name == threading.current_thread().name

    def test_all_of_it_in_plain_data(self, events: Events) -> None:
        """Every argument can come from a JSON file."""
        options = json.loads(
            """
            {
              "level": "DEBUG",
              "processors": ["add_logger_name", {"class": "TimeStamper", "fmt": "%d.%m.%Y %H:%M:%S.%f"}],
              "callsite": ["func_name"],
              "renderer": {"class": "PipelineRenderer", "timestamp_format": "%d.%m.%Y %H:%M:%S.%f"},
              "wrapper_class": "structlog.stdlib.BoundLogger",
              "logger_factory": {"class": "StructlogLoggerFactory", "ignore_frame_names": ["venusian"]},
              "context_class": "collections.OrderedDict",
              "cache_logger_on_first_use": false
            }
            """
        )
        before = time.time()
        configure_structlog(**options)
        structlog.get_logger("shop").info("%s", "x")
        (event,) = events
        assert (event.message, event.meta.event_name, event.meta.source_func) == (
            "x",
            "%s",
            "test_all_of_it_in_plain_data",
        )
        assert before - 1e-5 <= event.timestamp <= time.time()
        assert event.payload == {}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"level": "loud"}, "level"),
            ({"callsite": ["nonsense"]}, "callsite: expected a list of pathname"),
            ({"processors": ["nonsense"]}, "processors"),
            ({"renderer": "nonsense"}, "renderer: there is no 'nonsense'"),
            ({"wrapper_class": "nonsense.Logger"}, "wrapper_class"),
            ({"wrapper_class": 5}, "wrapper_class: expected a class"),
            ({"context_class": "os.sep"}, "context_class: expected a class"),
            ({"logger_factory": "os.sep"}, "logger_factory"),
        ],
        ids=str,
    )
    def test_an_error_changes_nothing(self, options: dict[str, Any], message: str) -> None:
        """A wrong argument is named, and structlog stays as it was."""
        with pytest.raises(LogConfigurationError, match=message):
            configure_structlog(**options)
        assert not structlog.is_configured()


class TestThreads:
    def test_every_event_arrives_in_order_per_thread(self, events: Events) -> None:
        """Eight threads log at once; nothing is lost, nothing is mixed up."""
        configure_structlog()
        log = structlog.get_logger("shop")
        count = 500

        def work(thread: int) -> None:
            with structlog.contextvars.bound_contextvars(thread_no=thread):
                for number in range(count):
                    log.info("step", number=number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number in range(8):
            assert [event.payload["number"] for event in events if event.payload["thread_no"] == number] == list(
                range(count)
            )
        assert len(events) == 8 * count
