"""Tests of `mvx_logger.bridge.records`."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import logging
import logging.handlers
import math
import multiprocessing
import pickle
import queue
import subprocess
import sys
import threading
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from pythonjsonlogger.json import JsonFormatter
from structlog.tracebacks import ExceptionDictTransformer

from mvx_logger import LogEvent, LogEventMeta, LogEventOrigin, LogException, LogPayloadProcessor, LogStack
from mvx_logger.bridge.records import (
    EventLogRecord,
    build_exception,
    build_stack,
    event_to_record,
    is_event_record,
    normalize_extras,
    parse_exception,
    record_fields,
    record_level,
    record_meta,
    record_to_event,
    render_message,
)
from repetitions import often

TASK_NAME = "taskName" in logging.LogRecord("", 0, "", 0, "", (), None).__dict__


def make_record(
    message: Any = "order %s created",
    args: Any = ("o-1",),
    *,
    name: str = "shop.orders",
    level: int = logging.INFO,
    exc_info: Any = None,
    extra: dict[str, Any] | None = None,
    stack: str | None = None,
) -> logging.LogRecord:
    logger = logging.Logger(name)
    return logger.makeRecord(name, level, "/srv/shop/orders.py", 42, message, args, exc_info, "create", extra, stack)


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as err:
        return err


class Unprintable:
    """Fights back with every means."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no equality")

    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no attributes")


@dataclass
class Address:
    city: str
    zip_code: int


Point = namedtuple("Point", "x y")


class TestRecordToEvent:
    def test_each_attribute_finds_its_field(self) -> None:
        """Level, name, source, time, message, template, arguments, process and thread arrive where they belong."""
        record = make_record()
        event = record_to_event(record)
        assert event.level == logging.INFO
        assert event.meta == LogEventMeta("shop.orders", "order %s created", None, "/srv/shop/orders.py", 42, "create")
        assert event.timestamp == record.created
        assert event.message == "order o-1 created"
        assert event.payload == {}
        assert event.exception is None
        assert event.stack is None
        assert event.event_outcome is None
        assert event.origin == LogEventOrigin(
            system="logging",
            level_name="INFO",
            template="order %s created",
            args=("o-1",),
            process_id=record.process,
            process_name="MainProcess",
            thread_id=threading.get_ident(),
            thread_name=record.threadName,
        )

    def test_all_extras_are_payload(self) -> None:
        """Everything that a plain record does not have is payload, whatever its name."""
        event = record_to_event(make_record(extra={"user": "alice", "http.status": 200, "tags": ["a"]}))
        assert event.payload == {"user": "alice", "http.status": 200, "tags": ["a"]}

    def test_what_formatters_leave_behind_is_no_extra(self) -> None:
        """A formatter of another handler writes message and asctime on the record; neither is payload."""
        record = make_record(extra={"user": "alice"})
        logging.Formatter("%(asctime)s %(message)s").format(record)
        assert record_to_event(record).payload == {"user": "alice"}
        bare = make_record()
        logging.Formatter("%(asctime)s %(message)s").format(bare)
        assert record_to_event(bare).payload == {}

    def test_entity_id_and_event_outcome_in_extra_find_their_fields(self) -> None:
        """They are fields of the event and do not appear in the payload a second time."""
        event = record_to_event(make_record(extra={"entity_id": "order-42", "event_outcome": "success", "n": 1}))
        assert event.meta.entity_id == "order-42"
        assert event.event_outcome == "success"
        assert event.payload == {"n": 1}

    def test_an_entity_id_that_is_no_str_becomes_one(self) -> None:
        """Ids are often numbers; the field holds text."""
        event = record_to_event(make_record(extra={"entity_id": 42, "event_outcome": 7}))
        assert event.meta.entity_id == "42"
        assert event.event_outcome == "7"

    def test_extra_values_that_are_dicts_dataclasses_or_objects_arrive_as_structured_data(self) -> None:
        """Field bug 14: they were dropped with a warning."""
        event = record_to_event(
            make_record(
                extra={
                    "address": Address("Berlin", 10115),
                    "nested": {"a": {"b": [1, 2]}},
                    "when": datetime(2026, 5, 12, tzinfo=UTC),
                    "thing": object(),
                    "many": list(range(500)),
                    "long": "x" * 5000,
                }
            )
        )
        payload = event.payload
        assert set(payload) == {"address", "nested", "when", "thing", "many", "long"}
        assert payload["nested"] == {"a": {"b": [1, 2]}}
        assert len(payload["many"]) == 500
        assert payload["long"] == "x" * 5000
        assert "Berlin" in json.dumps(payload["address"], default=str)
        json.dumps({key: value for key, value in payload.items() if not isinstance(value, bytes)})

    def test_structlogs_own_attributes_do_not_leak(self) -> None:
        """Field bug 14: _logger, _record, _from_structlog and _name never show up in the payload."""
        record = make_record(
            extra={"_logger": object(), "_name": "info", "_record": 1, "_from_structlog": False, "a": 1}
        )
        assert record_to_event(record).payload == {"a": 1}

    def test_a_name_attribute_of_the_applications_own_is_kept(self) -> None:
        """_name is structlog's only where _logger is there too."""
        assert record_to_event(make_record(extra={"_name": "x"})).payload == {"_name": "x"}
        event = record_to_event(make_record({"event": "a"}, (), extra={"_name": "x"}))
        assert event.meta.event_namespace == "shop.orders"
        assert event.payload == {"_name": "x", "msg": {"event": "a"}}

    def test_secrets_in_extra_and_arguments_are_redacted(self) -> None:
        """Without a processor of one's own the default redaction applies."""
        event = record_to_event(make_record("x", ({"password": "hunter2"},), extra={"token": "abc"}))
        assert "abc" not in repr(event.payload)
        assert event.origin is not None
        assert "hunter2" not in repr(event.origin.args)

    def test_a_payload_processor_of_ones_own(self) -> None:
        """The limits of a given processor apply to values; no key is lost."""
        processor = LogPayloadProcessor(max_str_len=5, max_items=1)
        extra = {f"key{number}": "abcdefgh" for number in range(20)}
        event = record_to_event(make_record(extra=extra), payload_processor=processor)
        assert list(event.payload) == list(extra)
        assert set(event.payload.values()) == {"abcde..."}

    def test_a_processor_that_only_honours_the_protocol(self) -> None:
        """normalize_fields is an addition; normalize_payload has to do where it is missing."""

        class Processor:
            def normalize_payload(self, payload: Any, *, unbounded: bool = False) -> dict[str, Any]:
                return {key: f"<{value}>" for key, value in payload.items()}

            def normalize_value_for_log(self, value: Any, *, unbounded: bool = False) -> Any:
                return value

            def get_plain_verbosity_level(self) -> str | None:
                return None

        assert normalize_extras({"a": 1}, Processor()) == {"a": "<1>"}

    def test_the_root_loggers_name_stays_root(self) -> None:
        """The namespace is the logger's name, also for the root logger."""
        assert record_to_event(make_record(name="root")).meta.event_namespace == "root"

    def test_custom_levels_keep_number_and_name(self) -> None:
        """A level that a program registers arrives with its number and its name."""
        logging.addLevelName(25, "NOTICE")
        try:
            event = record_to_event(make_record(level=25))
        finally:
            logging._levelToName.pop(25)
            logging._nameToLevel.pop("NOTICE")
        assert event.level == 25
        assert event.origin is not None
        assert event.origin.level_name == "NOTICE"
        assert event_to_record(event).levelname == "NOTICE"

    def test_mapping_arguments(self) -> None:
        """A single mapping is kept as one."""
        event = record_to_event(make_record("%(user)s: %(n)d", ({"user": "alice", "n": 3},)))
        assert event.message == "alice: 3"
        assert event.origin is not None
        assert event.origin.args == {"user": "alice", "n": 3}

    def test_plain_arguments_are_kept_exactly(self) -> None:
        """No limit applies to text and numbers that are arguments."""
        args = ("x" * 300_000, 2**80, 1.5, True, None)
        event = record_to_event(make_record("%s %s %s %s %s", args))
        assert event.origin is not None
        assert event.origin.args == args

    def test_objects_as_arguments_are_plain_data(self) -> None:
        """Containers keep their structure; an object that describes nothing is its text."""

        class User:
            def __str__(self) -> str:
                return "alice"

        now = datetime(2026, 5, 12, 14, 30, tzinfo=UTC)
        event = record_to_event(make_record("%s %s %s %s", (User(), {"a": Point(1, 2)}, Unprintable(), now)))
        assert event.origin is not None
        user, data, hostile, moment = event.origin.args
        assert moment == "2026-05-12T14:30:00+00:00"
        assert user == "alice"
        assert data["a"] in ([1, 2], {"x": 1, "y": 2})
        assert isinstance(hostile, str)

    def test_message_given_by_a_formatter(self) -> None:
        """A message that is made already is taken as it is; template and arguments stay."""
        event = record_to_event(make_record(), message="formatted")
        assert event.message == "formatted"
        assert event.origin is not None
        assert event.origin.template == "order %s created"

    def test_task_name_from_the_caller(self) -> None:
        """Where records do not know their task, the caller may tell."""
        origin = record_to_event(make_record(), task_name="Task-7").origin
        assert origin is not None
        assert origin.task_name == (None if TASK_NAME else "Task-7")

    async def test_task_name_of_the_record(self) -> None:
        """The asyncio task's name arrives, where the record has it."""
        record = make_record()
        if not TASK_NAME:
            record.taskName = "import"
        else:
            task = asyncio.current_task()
            assert task is not None
            assert record.taskName == task.get_name()
        origin = record_to_event(record).origin
        assert origin is not None
        assert origin.task_name == record.taskName
        assert event_to_record(record_to_event(record)).taskName == record.taskName

    def test_a_record_class_with_a_getmessage_of_its_own(self) -> None:
        """Brace-style record classes, as the cookbook has them, make their own text."""

        class BraceRecord(logging.LogRecord):
            def getMessage(self) -> str:
                return str(self.msg).format(*self.args)  # type: ignore[misc]

        record = BraceRecord("shop", 20, "x.py", 1, "order {} created", ("o-1",), None)
        event = record_to_event(record)
        assert event.message == "order o-1 created"
        assert event.meta.event_name == "order {} created"
        back = event_to_record(event)
        assert back.getMessage() == "order o-1 created"
        broken = BraceRecord("shop", 20, "x.py", 1, "order {", ("o-1",), None)
        assert "order {" in render_message(broken)

    @pytest.mark.parametrize("message", ["plain", "100%", "%d%%", "", "ünïcödé \udcff"])
    def test_a_message_without_arguments_is_not_formatted(self, message: str) -> None:
        """Percent signs are kept as they are when there are no arguments."""
        assert record_to_event(make_record(message, ())).message == message


class TestEventName:
    def test_template_is_the_default(self) -> None:
        """All records of a log statement have one event name."""
        assert record_to_event(make_record()).meta.event_name == "order %s created"

    def test_message(self) -> None:
        """The rendered message can be the event's name."""
        assert record_to_event(make_record(), event_name="message").meta.event_name == "order o-1 created"

    def test_callable(self) -> None:
        """A callable makes the name of the record."""
        event = record_to_event(make_record(), event_name=lambda record: f"{record.module}.{record.funcName}")
        assert event.meta.event_name == "orders.create"

    def test_callable_that_returns_something_else(self) -> None:
        """What is no str becomes one."""
        event = record_to_event(make_record(), event_name=lambda record: 42)  # type: ignore[arg-type,return-value]
        assert event.meta.event_name == "42"

    def test_an_exception_as_message(self) -> None:
        """logger.error(err): the stable name is the type's, the message its text."""
        event = record_to_event(make_record(ValueError("no stock"), ()))
        assert event.meta.event_name == "ValueError"
        assert event.message == "no stock"

    def test_an_object_as_message(self) -> None:
        """The text of an object may differ each time; its type's name does not."""
        event = record_to_event(make_record(Decimal("1.5"), ()))
        assert event.meta.event_name == "<Decimal>"
        assert event.message == "1.5"

    def test_a_mapping_as_message_arrives_as_structured_data(self) -> None:
        """logger.info({...}): the data is in the payload, as data."""
        record = make_record({"order": "o-1", "items": [1, 2]}, ())
        event = record_to_event(record)
        assert event.meta.event_name == "<dict>"
        assert event.message == str(record.msg)
        assert event.payload == {"msg": {"order": "o-1", "items": [1, 2]}}
        back = event_to_record(event)
        assert back.msg == {"order": "o-1", "items": [1, 2]}
        assert back.getMessage() == event.message

    def test_a_str_subclass_is_its_text(self) -> None:
        """Lazy and marked strings are templates like any other."""

        class Safe(str):
            pass

        event = record_to_event(make_record(Safe("order %s created"), ("o-1",)))
        assert type(event.meta.event_name) is str
        assert event.meta.event_name == "order %s created"
        assert event.message == "order o-1 created"

    def test_an_unprintable_message(self) -> None:
        """A message that raises when it is printed is named after its type."""
        event = record_to_event(make_record(Unprintable(), ()))
        assert event.message == "<Unprintable>"
        assert event.meta.event_name == "<Unprintable>"


class TestNonsense:
    @pytest.mark.parametrize(
        ("template", "args"),
        [
            ("%d items", ("many",)),
            ("%s", ("a", "b")),
            ("%s %s", ("a",)),
            ("%(user)s", ({"name": "x"},)),
            ("%(user)s", ("x",)),
            ("%y", (1,)),
            ("no place", ("x",)),
            ("%s", (Unprintable(),)),
            ("%", (1,)),
        ],
    )
    def test_arguments_that_do_not_fit(self, template: str, args: tuple[Any, ...]) -> None:
        """The event still arrives: with the template and, where they can be printed, the arguments."""
        event = record_to_event(make_record(template, args))
        assert event.message is not None
        assert event.message.startswith(template)
        assert "args: " in event.message
        assert event_to_record(event).getMessage() == event.message

    def test_arguments_are_named_in_a_clear_form(self) -> None:
        """What did not fit can be read in the message."""
        assert record_to_event(make_record("%d items", ("many",))).message == "%d items (args: ('many',))"

    @pytest.mark.parametrize("args", ["text", 7, ["a", "b"], 0, [], {}, ..., {"a"}])
    def test_args_that_are_neither_tuple_nor_mapping(self, args: Any) -> None:
        """makeLogRecord accepts anything as args."""
        event = record_to_event(logging.makeLogRecord({"msg": "x", "args": Unprintable() if args is ... else args}))
        assert event.message is not None
        assert event.message.startswith("x")

    def test_texts_that_fight_back(self) -> None:
        """exc_text and stack_info that cannot even be asked whether they are true."""
        event = record_to_event(
            logging.makeLogRecord({"msg": "x", "exc_text": Unprintable(), "stack_info": Unprintable()})
        )
        assert event.exception == LogException("", "", "<Unprintable>")
        assert event.stack == LogStack("<Unprintable>")

    def test_a_task_name_that_is_no_text(self) -> None:
        """It becomes one."""
        origin = record_to_event(logging.makeLogRecord({"msg": "x", "taskName": 7})).origin
        assert origin is not None
        assert origin.task_name == "7"

    def test_named_tuples_as_args(self) -> None:
        """A tuple of a class of its own is a tuple."""
        event = record_to_event(logging.makeLogRecord({"msg": "%s-%s", "args": Point(1, 2)}))
        assert event.message == "1-2"
        assert event.origin is not None
        assert event.origin.args == (1, 2)

    def test_an_empty_record(self) -> None:
        """logging.makeLogRecord({}) has no level, no name and no message."""
        event = record_to_event(logging.makeLogRecord({}))
        assert event.level == 0
        assert event.message == ""
        assert event.meta.event_name == ""
        assert event.meta.event_namespace is None
        event_to_record(event).getMessage()

    @pytest.mark.parametrize(
        ("levelno", "levelname", "expected"),
        [
            ("ERROR", None, 40),
            ("35", None, 35),
            (None, "WARNING", 30),
            (True, None, 1),
            (20.0, None, 20),
            (None, None, 0),
            (object(), object(), 0),
            (math.nan, "x", 0),
        ],
    )
    def test_levels_of_any_kind(self, levelno: Any, levelname: Any, expected: int) -> None:
        """A level that is no number is looked up; one that is nothing is 0."""
        record = logging.makeLogRecord({"levelno": levelno, "levelname": levelname})
        level = record_level(record)
        assert (level, type(level)) == (expected, int)

    @pytest.mark.parametrize("created", [None, "yesterday", math.nan, math.inf, 10**400, object(), -math.inf])
    def test_times_of_any_kind(self, created: Any) -> None:
        """A record without a time gets the current one."""
        timestamp = record_to_event(logging.makeLogRecord({"msg": "x", "created": created})).timestamp
        assert 1.6e9 < timestamp < 1e11

    def test_an_int_as_time(self) -> None:
        """Whole seconds are seconds."""
        timestamp = record_to_event(logging.makeLogRecord({"msg": "x", "created": 1_700_000_000})).timestamp
        assert (timestamp, type(timestamp)) == (1_700_000_000.0, float)

    @given(
        st.dictionaries(
            st.sampled_from(
                [*logging.LogRecord("", 0, "", 0, "", (), None).__dict__, "entity_id", "event_outcome", "x", "_logger"]
            ),
            st.sampled_from(
                [
                    *(None, "", "x", 0, -1, 1.5, math.nan, True, (), ("x",), [], {}, {"a": 1}, b"x", object()),
                    *(
                        ValueError("x"),
                        ValueError,
                        (None, None, None),
                        (ValueError, None, None),
                        (1, 2, 3),
                        Unprintable(),
                    ),
                ]
            ),
        ),
        st.sampled_from(["template", "message"]),
    )
    @settings(max_examples=often(150), deadline=None)
    def test_any_nonsense_becomes_an_event_of_the_right_types(self, attributes: dict[str, Any], name: Any) -> None:
        """Whatever makeLogRecord is given: an event comes out, typed as the model says, and a record of it again."""
        record = logging.LogRecord("n", 20, "p", 1, "m", (), None)
        record.__dict__.update(attributes)
        event = record_to_event(record, event_name=name)
        assert_types(event)
        back = event_to_record(event)
        assert isinstance(back.getMessage(), str)
        assert record_to_event(back) is event

    @given(st.sets(st.sampled_from(sorted(logging.LogRecord("", 0, "", 0, "", (), None).__dict__))))
    @settings(max_examples=often(100), deadline=None)
    def test_missing_attributes(self, names: set[str]) -> None:
        """A record that lost some of its attributes still becomes an event."""
        record = make_record(extra={"a": 1})
        for name in names:
            del record.__dict__[name]
        event = record_to_event(record)
        assert_types(event)
        assert event.payload == {"a": 1}

    def test_records_that_are_not_plain_still_find_their_level(self) -> None:
        """A level that is an enum member is its number."""
        from mvx_logger import LogLevel

        level = record_level(make_record(level=LogLevel.ERROR))
        assert (level, type(level)) == (40, int)


def assert_types(event: LogEvent) -> None:
    meta, origin = event.meta, event.origin
    assert origin is not None
    assert type(event.level) is int
    assert type(event.timestamp) is float
    assert math.isfinite(event.timestamp)
    assert type(event.message) is str
    assert type(meta.event_name) is str
    for text in (
        meta.event_namespace,
        meta.entity_id,
        meta.source_path,
        meta.source_func,
        event.event_outcome,
        origin.level_name,
        origin.template,
        origin.process_name,
        origin.thread_name,
        origin.task_name,
    ):
        assert text is None or type(text) is str
    for number in (meta.source_line, origin.process_id, origin.thread_id):
        assert number is None or isinstance(number, int)
    assert type(event.payload) is dict
    assert all(type(key) is str for key in event.payload)
    assert origin.args is None or type(origin.args) in (tuple, dict)
    assert event.exception is None or isinstance(event.exception, LogException)
    assert event.stack is None or isinstance(event.stack, LogStack)
    pickle.loads(pickle.dumps(event))


class TestTheRecordIsNeverChanged:
    def test_nothing_is_written_on_the_record(self) -> None:
        """Field bug 16: the second handler sees what the first one saw."""
        error = raised(ValueError("no"))
        args = ({"password": "x"}, [1])
        record = make_record("%s %s", args, exc_info=(ValueError, error, error.__traceback__), extra={"a": {"b": 1}})
        before = dict(record.__dict__)
        record_to_event(record)
        record_meta(record)
        record_fields(record)
        assert record.__dict__ == before
        assert record.exc_text is None
        assert record.args is args
        assert args == ({"password": "x"}, [1])


class TestExceptions:
    def test_exc_info_arrives_as_data_and_as_the_usual_text(self) -> None:
        """Type, message, frames, and the text that the standard library prints."""
        error = raised(ValueError("no stock"))
        exc_info = (ValueError, error, error.__traceback__)
        exception = record_to_event(make_record(exc_info=exc_info)).exception
        assert exception is not None
        assert exception.type == "ValueError"
        assert exception.message == "no stock"
        assert exception.text == logging.Formatter().formatException(exc_info)
        assert exception.stacks[0]["frames"][0]["name"] == "raised"

    def structure_of(self, error: BaseException) -> list[dict[str, Any]]:
        return ExceptionDictTransformer(show_locals=False)((type(error), error, error.__traceback__))

    def test_causes_contexts_notes_and_groups_are_structured_as_structlog_does(self) -> None:
        """The structure is the one that structlog's tracebacks module makes."""

        def chain() -> None:
            try:
                raise KeyError("first")
            except KeyError as err:
                try:
                    raise ValueError("second") from err
                except ValueError:
                    third = RuntimeError("third")
                    third.add_note("a note")
                    raise third  # noqa: B904

        def hidden() -> None:
            try:
                raise KeyError("x")
            except KeyError:
                raise ValueError("y") from None

        def group() -> None:
            raise ExceptionGroup("both", [raised(ValueError("a")), ExceptionGroup("inner", [raised(OSError(2, "b"))])])

        def syntax() -> None:
            compile("a b", "file.py", "exec")

        def deep(depth: int = 0) -> None:
            if depth > 100:
                raise ValueError("deep")
            deep(depth + 1)

        def loop() -> None:
            first, second = raised(ValueError("1")), raised(ValueError("2"))
            first.__cause__, second.__cause__ = second, first
            raise first

        for function in (chain, hidden, group, syntax, deep, loop):
            with pytest.raises(Exception) as caught:
                function()
            error = caught.value
            exception = build_exception(error)
            assert exception is not None
            theirs = self.structure_of(error)
            if "exc_notes" not in theirs[0]:
                pytest.skip("this version of structlog leaves out notes and groups")
            assert list(exception.stacks) == theirs, function.__name__
            assert exception.text == logging.Formatter().formatException((type(error), error, error.__traceback__))

    @pytest.mark.parametrize(
        "exc_info", [None, False, 0, "", "text", 7, (None, None, None), (), (1, 2), (1, 2, 3), object()]
    )
    def test_what_is_no_exception_is_none(self, exc_info: Any) -> None:
        """exc_info may be anything; only exceptions are exceptions."""
        assert build_exception(exc_info) is None
        assert record_to_event(make_record(exc_info=exc_info)).exception is None

    def test_an_exception_instance(self) -> None:
        """exc_info=err, as makeLogRecord leaves it."""
        error = raised(ValueError("x"))
        record = make_record()
        record.exc_info = error  # type: ignore[assignment]
        exception = record_to_event(record).exception
        assert exception is not None
        assert "in raised" in exception.text

    def test_true_is_the_exception_that_is_being_handled(self) -> None:
        """exc_info=True, as structlog leaves it."""
        try:
            raise ValueError("x")
        except ValueError:
            exception = build_exception(True)
        assert exception is not None
        assert exception.message == "x"
        assert build_exception(True) is None

    def test_a_type_alone(self) -> None:
        """A tuple that has lost its exception still names the type."""
        assert build_exception((ValueError, None, None)) == LogException("ValueError", "", "ValueError")

    def test_hostile_exceptions(self) -> None:
        """An exception that cannot be printed is still one."""

        class Hostile(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no")

            __notes__ = 7  # type: ignore[assignment]

        exception = build_exception(raised(Hostile()))
        assert exception is not None
        assert exception.type == "Hostile"
        assert "Hostile" in exception.text

    def test_exceptions_that_the_traceback_module_cannot_print(self) -> None:
        """Type and message are left of it."""

        class Hostile(Exception):
            @property
            def __cause__(self) -> Any:  # type: ignore[override]
                raise RuntimeError("no")

        exception = build_exception(Hostile("x"))
        assert exception == LogException("Hostile", "x", "Hostile: x")

    def test_exc_text_is_all_that_is_left_behind_a_socket(self) -> None:
        """Type and message are read from the text."""
        error = raised(ValueError("no stock\nat all"))
        record = make_record()
        record.exc_text = logging.Formatter().formatException((ValueError, error, error.__traceback__))
        exception = record_to_event(record).exception
        assert exception == LogException("ValueError", "no stock\nat all", record.exc_text)

    @pytest.mark.parametrize(
        ("text", "kind", "message"),
        [
            ("ValueError: x", "ValueError", "x"),
            ("shop.errors.NoStock: x: y", "NoStock", "x: y"),
            ("KeyboardInterrupt", "KeyboardInterrupt", ""),
            ("Traceback (most recent call last):\n  File ...\nshop.NoStock", "NoStock", ""),
            ("something went wrong", "", ""),
            ("", "", ""),
        ],
    )
    def test_parse_exception(self, text: str, kind: str, message: str) -> None:
        """The last line of a traceback names type and message."""
        assert parse_exception(text) == LogException(kind, message, text)

    def test_no_frame_or_traceback_is_kept_alive(self) -> None:
        """An event holds plain data: what the frames referred to can be collected."""
        import gc
        import weakref

        class Big:
            pass

        def fail() -> weakref.ref[Big]:
            big = Big()
            reference = weakref.ref(big)
            try:
                raise ValueError("x")
            except ValueError as err:
                holder.append(record_to_event(make_record(exc_info=(ValueError, err, err.__traceback__))))
            return reference

        holder: list[LogEvent] = []
        reference = fail()
        gc.collect()
        assert reference() is None
        assert holder[0].exception is not None

    def test_structlog_is_not_imported_for_an_exception(self) -> None:
        """A program that does not use structlog does not pay for importing it in the middle of a log call."""
        code = (
            "import logging, sys\n"
            "from mvx_logger.bridge.records import build_exception\n"
            "try: 1/0\n"
            "except ZeroDivisionError as err: assert build_exception(err).stacks\n"
            "print('structlog' in sys.modules, 'asyncio' in sys.modules)"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert run.stdout.split() == ["False", "False"]


class TestStack:
    def test_frames_are_read_from_the_text(self) -> None:
        """stack_info=True arrives as text and as frames."""
        stream = io.StringIO()
        logger = logging.Logger("x")
        records: list[logging.LogRecord] = []
        logger.addFilter(lambda record: not records.append(record))
        logger.addHandler(logging.StreamHandler(stream))
        logger.info("x", stack_info=True)
        event = record_to_event(records[0])
        assert event.stack is not None
        assert event.stack.text == records[0].stack_info
        assert event.stack.frames[-1]["filename"] == __file__
        assert event.stack.frames[-1]["name"] == "test_frames_are_read_from_the_text"
        assert type(event.stack.frames[-1]["lineno"]) is int

    def test_text_without_frames(self) -> None:
        """Any text is a stack."""
        assert build_stack("nothing") == LogStack("nothing")

    def test_a_stack_that_is_no_text(self) -> None:
        """stack_info=True on a hand-made record is no reason to fail."""
        event = record_to_event(logging.makeLogRecord({"msg": "x", "stack_info": True}))
        assert event.stack == LogStack("True")


NAMES = st.text(min_size=1, max_size=20)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20))
# Names that redaction or the record itself would claim.
EXTRA_NAMES = st.from_regex(r"x[a-z_.-]{0,8}", fullmatch=True)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(EXTRA_NAMES, inner, max_size=4)),
)


@st.composite
def records_with_arguments(draw: st.DrawFn) -> logging.LogRecord:
    kind = draw(st.sampled_from(["none", "positional", "mapping"]))
    args: Any = ()
    if kind == "positional":
        args = tuple(draw(st.lists(SCALARS, min_size=1, max_size=4)))
        template = draw(st.text(max_size=10)).replace("%", "%%") + " %s" * len(args)
    elif kind == "mapping":
        data = draw(st.dictionaries(EXTRA_NAMES, SCALARS, min_size=1, max_size=4))
        template = "".join(f"%({key})s " for key in data)
        args = (data,)
    else:
        template = draw(st.text(max_size=30))
    level = draw(st.integers(0, 60))
    name = draw(NAMES)
    logger = logging.Logger(name)
    path = draw(st.one_of(st.just("/srv/app/views.py"), st.text(max_size=20)))
    record = logger.makeRecord(
        name,
        level,
        path,
        draw(st.integers(0, 10**6)),
        template,
        args,
        None,
        draw(st.one_of(st.none(), NAMES)),
        draw(st.dictionaries(EXTRA_NAMES, PLAIN, max_size=4)),
        draw(st.one_of(st.none(), st.just('Stack (most recent call last):\n  File "a.py", line 3, in f\n    g()'))),
    )
    if draw(st.booleans()):
        record.levelname = draw(NAMES)
    if draw(st.booleans()):
        error = raised(ValueError(draw(st.text(max_size=20))))
        record.exc_info = (ValueError, error, error.__traceback__)
    if draw(st.booleans()):
        record.entity_id = draw(st.text(max_size=10))
        record.event_outcome = draw(st.text(max_size=10))
    record.threadName = draw(NAMES)
    record.thread = draw(st.integers(0, 2**63))
    record.process = draw(st.integers(0, 2**22))
    record.processName = draw(NAMES)
    if TASK_NAME:
        record.taskName = draw(st.one_of(st.none(), NAMES))
    return record


class TestRoundTrip:
    @given(records_with_arguments())
    @settings(max_examples=often(120), deadline=None)
    def test_record_event_record(self, record: logging.LogRecord) -> None:
        """Everything that a record says is there again when it comes back."""
        event = record_to_event(record)
        back = event_to_record(event)
        was, now = dict(record.__dict__), dict(back.__dict__)
        exc_info = was.pop("exc_info")
        now.pop("exc_info")
        was["exc_text"] = None if exc_info is None else logging.Formatter().formatException(exc_info)
        for name in ("relativeCreated",):
            assert now.pop(name) == pytest.approx(was.pop(name), abs=0.01)
        # From Python 3.13 on they are counted in nanoseconds, which the float of the time does not hold.
        assert (now.pop("msecs") - was.pop("msecs")) % 1000 in (0, 1, 999)
        back.msecs = record.msecs
        assert now == was
        assert back.getMessage() == record.getMessage()
        copied = logging.makeLogRecord(record.__dict__)
        for layout in ("%(message)s", "%(asctime)s.%(msecs)d %(levelname)s %(name)s %(module)s:%(lineno)d %(message)s"):
            formatter = logging.Formatter(layout)
            assert formatter.format(back) == formatter.format(copied)

    @given(records_with_arguments())
    @settings(max_examples=often(100), deadline=None)
    def test_event_record_event(self, record: logging.LogRecord) -> None:
        """The record carries its event: it gives back the very same one."""
        event = record_to_event(record)
        assert record_to_event(event_to_record(event)) is event

    @given(
        st.builds(
            LogEvent,
            st.integers(-5, 100),
            st.builds(
                LogEventMeta,
                st.one_of(st.none(), st.text(max_size=10)),
                st.text(max_size=20),
                st.one_of(st.none(), st.text(max_size=10)),
                st.one_of(st.none(), st.text(max_size=10)),
                st.one_of(st.none(), st.integers()),
                st.one_of(st.none(), st.text(max_size=10)),
            ),
            st.one_of(st.none(), st.text(max_size=10)),
            st.floats(0, 4e9),
            st.dictionaries(st.one_of(st.text(max_size=8), st.sampled_from(["name", "msg", "args", "message"])), PLAIN),
        )
    )
    @settings(max_examples=often(120), deadline=None)
    def test_a_native_event_is_the_same_after_the_round(self, event: LogEvent) -> None:
        """native event -> record -> event is the identity, also through copy and pickle."""
        record = event_to_record(event)
        assert record_to_event(record) is event
        assert record_to_event(copy.copy(record)) is event
        assert record_to_event(pickle.loads(pickle.dumps(record))) == event

    def test_time_is_restored_to_the_millisecond(self) -> None:
        """created and msecs agree with what the standard library made."""
        for _ in range(1000):
            record = make_record()
            back = event_to_record(record_to_event(record))
            assert back.created == record.created
            assert abs(back.msecs - record.msecs) in (0, 1, 999)  # since 3.13 cut from nanoseconds
            if sys.version_info < (3, 13):
                assert back.msecs == record.msecs

    def test_a_time_on_the_exact_millisecond(self) -> None:
        """Frozen clocks stand on round milliseconds."""
        record = make_record()
        record.created = 1_700_000_000.123
        assert event_to_record(record_to_event(record)).msecs in (
            (123.0,) if sys.version_info >= (3, 13) else (122.0, 123.0)
        )

    def test_times_beyond_reason(self) -> None:
        """A decoded event may hold any number as time."""
        for timestamp in (math.inf, -math.inf, math.nan, -1.5, 1e300):
            event = LogEvent(20, LogEventMeta("a", "b"), None, timestamp, {})
            assert 0 <= event_to_record(event).msecs < 1000 or timestamp < 0

    def test_arguments_that_are_no_plain_data(self) -> None:
        """Where the plain arguments would give another text, the message stays and the template gives way."""
        event = record_to_event(make_record("%r costs %.1f", (Point(1, 2), Decimal("2.5"))))
        back = event_to_record(event)
        assert back.getMessage() == event.message == "Point(x=1, y=2) costs 2.5"
        assert logging.makeLogRecord(back.__dict__).getMessage() == event.message
        assert record_to_event(back).origin == event.origin

    def test_source_of_a_record_without_one(self) -> None:
        """A pathname of None gives what logging.LogRecord gives."""
        record = logging.LogRecord("x", 20, None, 0, "m", (), None)  # type: ignore[arg-type]
        back = event_to_record(record_to_event(record))
        assert (back.pathname, back.filename, back.module) == (record.pathname, record.filename, record.module)


class TestEventToRecord:
    def native(self, **fields: Any) -> LogEvent:
        meta = LogEventMeta("shop", "order.created", fields.pop("entity_id", None), "/srv/shop.py", 7, "create")
        values: dict[str, Any] = {"event_outcome": None, "timestamp": 1_700_000_000.5, "payload": {}, **fields}
        return LogEvent(level=20, meta=meta, **values)

    def test_the_text_of_a_native_event_is_its_title_and_payload(self) -> None:
        """namespace[.entity_id].event_name[ [outcome]], then the payload."""
        event = self.native(entity_id="o-1", event_outcome="success", payload={"total": 3})
        record = event_to_record(event)
        assert record.getMessage() == "shop.o-1.order.created [success] {'total': 3}"
        assert logging.Formatter("%(levelname)s %(name)s %(message)s").format(record) == (
            "INFO shop shop.o-1.order.created [success] {'total': 3}"
        )
        assert event_to_record(self.native()).getMessage() == "shop.order.created"

    def test_every_field_of_a_format_can_be_printed_for_a_native_event(self) -> None:
        """Numbers are numbers: %d of the process or thread does not fail."""
        layout = (
            "%(name)s %(levelno)d %(levelname)s %(pathname)s %(filename)s %(module)s %(lineno)d %(funcName)s %(created)f "
            "%(asctime)s %(msecs)d %(relativeCreated)d %(thread)d %(threadName)s %(process)d %(processName)s %(message)s"
        )
        event = LogEvent(25, LogEventMeta(None, "x"), None, 1.5, {})
        text = logging.Formatter(layout).format(event_to_record(event))
        assert "root 25 Level 25" in text
        assert "MainProcess" in text

    def test_a_thread_that_is_not_the_loggers_is_not_told(self) -> None:
        """On the worker of a sink the thread is not the one that logged."""
        record = event_to_record(self.native(), same_thread=False)
        assert (record.thread, record.threadName) == (0, "")
        assert event_to_record(self.native()).thread == threading.get_ident()

    def test_the_payload_becomes_extras(self) -> None:
        """A formatter finds each key of the payload, the entity and the outcome."""
        record = event_to_record(self.native(entity_id="o-1", event_outcome="ok", payload={"user": "alice", "a.b": 1}))
        assert record.user == "alice"  # type: ignore[attr-defined]
        assert logging.Formatter("%(user)s %(a.b)d %(entity_id)s %(event_outcome)s").format(record) == "alice 1 o-1 ok"

    def test_payload_keys_that_are_the_records_own_are_prefixed(self) -> None:
        """A payload key never replaces what the record needs, and never gets lost."""
        payload = {
            "name": "Bob",
            "msg": "x",
            "args": (1,),
            "message": "m",
            "getMessage": 1,
            "exc_info": 1,
            "payload_name": "taken",
            "entity_id": "own",
            "event_outcome": "own",
            7: "seven",
        }
        event = self.native(entity_id="o-1", event_outcome="ok", payload=payload)
        record = event_to_record(event)
        assert record.name == "shop"
        assert record.__dict__["payload_payload_name"] == "Bob"
        assert record.__dict__["payload_name"] == "taken"
        assert record.__dict__["payload_entity_id"] == "own"
        assert record.__dict__["entity_id"] == "o-1"
        assert record.__dict__["7"] == "seven"
        assert record.__dict__["payload_getMessage"] == 1
        assert "order.created" in record.getMessage()
        assert record_to_event(record) is event

    def test_payload_keys_of_entity_and_outcome_where_the_event_has_neither(self) -> None:
        """They are ordinary keys then."""
        record = event_to_record(self.native(payload={"entity_id": "x"}))
        assert record.__dict__["entity_id"] == "x"

    def test_the_message_is_exactly_the_events(self) -> None:
        """getMessage() returns the event's message, whatever characters it holds."""
        for message in ("100%", "%s %d", "a\nb", ""):
            record = event_to_record(self.native(message=message))
            assert record.getMessage() == message
            assert logging.makeLogRecord(record.__dict__).getMessage() == message

    def test_exception_and_stack_are_printed(self) -> None:
        """The standard formatter prints the texts where it always does."""
        event = self.native(
            message="m", exception=LogException("E", "x", "Traceback...\nE: x"), stack=LogStack("Stack...")
        )
        assert logging.Formatter("%(message)s").format(event_to_record(event)) == "m\nTraceback...\nE: x\nStack..."

    def test_json_formatters_see_no_foreign_key(self) -> None:
        """python-json-logger dumps record.__dict__: there is nothing of ours in it."""
        event = self.native(payload={"user": "alice"}, event_outcome="ok")
        written = json.loads(JsonFormatter("%(message)s").format(event_to_record(event)))
        assert written == {
            "message": "shop.order.created [ok] {'user': 'alice'}",
            "user": "alice",
            "event_outcome": "ok",
        }

    def test_a_structlog_event(self) -> None:
        """What came from structlog has a message, and origin fields that may be missing."""
        event = self.native(
            message="user login", origin=LogEventOrigin(system="structlog", template="user %s", args=("x",))
        )
        record = event_to_record(event)
        assert record.getMessage() == "user login"
        assert record.levelname == "INFO"

    def test_an_unprintable_payload(self) -> None:
        """skip_payload_normalization lets anything in."""
        record = event_to_record(self.native(payload={"x": Unprintable()}))
        assert record.getMessage().startswith("shop.order.created")

    def test_process_name_of_a_child(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Once multiprocessing is there, its name for the process is used, as logging does."""
        monkeypatch.setattr(multiprocessing.current_process(), "_name", "Worker-7")
        assert event_to_record(self.native()).processName == "Worker-7"
        monkeypatch.setitem(sys.modules, "multiprocessing", None)
        assert event_to_record(self.native()).processName == "MainProcess"
        monkeypatch.setitem(sys.modules, "multiprocessing", object())  # it is being imported
        assert event_to_record(self.native()).processName == "MainProcess"


class TestEventLogRecord:
    def event(self) -> LogEvent:
        error = raised(ValueError("x"))
        return record_to_event(
            make_record(exc_info=(ValueError, error, error.__traceback__), extra={"user": "alice"}, stack="Stack:\n")
        )

    def test_it_can_be_copied_and_pickled(self) -> None:
        """By every protocol, with its event; a live exception stays behind only where it has to."""
        error = raised(ValueError("x"))
        event = self.event()
        record = event_to_record(event, exc_info=(ValueError, error, error.__traceback__))
        copied = copy.copy(record)
        assert type(copied) is EventLogRecord
        assert copied.exc_info is record.exc_info
        assert copied.__dict__ is not record.__dict__
        assert record_to_event(copied) is event
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            loaded = pickle.loads(pickle.dumps(record, protocol))
            assert loaded.exc_info is None
            assert loaded.getMessage() == record.getMessage()
            assert record_to_event(loaded) == event
        assert record.exc_info is not None

    def test_a_subclass_stays_one(self) -> None:
        """Copying keeps the class."""

        class Special(EventLogRecord):
            pass

        record = event_to_record(self.event())
        record.__class__ = Special
        assert type(copy.copy(record)) is Special

    def test_behind_a_queue_handler_the_event_is_what_it_was(self) -> None:
        """Field bug 16: QueueHandler.prepare() takes args, exc_info and stack from the record; the event has them still."""
        events: queue.Queue[logging.LogRecord] = queue.Queue()
        handler = logging.handlers.QueueHandler(events)
        event = self.event()
        handler.handle(event_to_record(event))
        prepared = events.get_nowait()
        assert prepared.args is None
        assert record_to_event(prepared) == event
        assert record_to_event(pickle.loads(pickle.dumps(prepared))) == event

    def test_behind_a_queue_handler_with_a_formatter_its_text_is_the_message(self) -> None:
        """What a formatter made is the message; exception and stack are still data."""
        events: queue.Queue[logging.LogRecord] = queue.Queue()
        handler = logging.handlers.QueueHandler(events)
        handler.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
        event = self.event()
        handler.handle(event_to_record(event))
        after = record_to_event(events.get_nowait())
        assert after.message is not None
        assert after.message.startswith("[INFO] order o-1 created")
        assert after.exception == event.exception
        assert after.stack == event.stack
        assert after.payload == event.payload

    def test_behind_a_socket_it_is_a_plain_record(self) -> None:
        """SocketHandler sends the attributes alone; what is in them arrives."""
        handler = logging.handlers.SocketHandler("localhost", 1)
        sent = pickle.loads(handler.makePickle(event_to_record(self.event()))[4:])
        event = record_to_event(logging.makeLogRecord(sent))
        assert event.message == "order o-1 created"
        assert event.payload == {"user": "alice"}
        assert event.exception is not None
        assert event.exception.type == "ValueError"

    def test_a_filter_that_redacts_the_message_is_obeyed(self) -> None:
        """What a filter took out of the message is in no field of the event, its name included."""
        event = record_to_event(make_record("login with hunter2", ()))
        record = event_to_record(event)
        record.msg, record.args = "login with ***", ()
        assert record.getMessage() == "login with ***"
        after = record_to_event(record)
        assert "hunter2" not in repr(after)
        assert after.message == "login with ***"
        assert after.meta.event_name == "login with ***"

    def test_a_filter_that_redacts_an_argument_is_obeyed(self) -> None:
        """The template stays; message and arguments are the new ones."""
        record = event_to_record(record_to_event(make_record("login %s", ("hunter2",))))
        record.args = ("***",)
        after = record_to_event(record)
        assert "hunter2" not in repr(after)
        assert after.message == "login ***"
        assert after.meta.event_name == "login %s"
        assert after.origin is not None
        assert after.origin.args == ("***",)

    def test_a_native_event_keeps_its_name(self) -> None:
        """The name of a native event is not made of its text."""
        event = LogEvent(20, LogEventMeta("shop", "order.created"), None, 1.0, {"card": "1234"})
        record = event_to_record(event)
        record.msg = "redacted"
        after = record_to_event(record)
        assert (after.meta.event_name, after.message) == ("order.created", "redacted")
        assert after.origin is None

    def test_a_filter_that_enriches_or_changes_the_record_is_obeyed(self) -> None:
        """Extras, level, name, source, time, outcome, exception and stack: what is changed on the record is changed."""
        record = event_to_record(self.event())
        record.request_id = "r-1"
        record.user = Address("Berlin", 1)
        record.levelno, record.levelname = 40, "ERROR"
        record.name = "other"
        record.lineno = 7
        record.created = 5
        record.entity_id = "e"
        record.event_outcome = "failed"
        record.exc_text = None
        record.stack_info = None
        record.threadName = "T"
        record.process = 7
        after = record_to_event(record)
        assert after.payload["request_id"] == "r-1"
        assert "Berlin" in repr(after.payload["user"])
        assert after.level == 40
        assert after.meta.event_namespace == "other"
        assert after.meta.source_line == 7
        assert after.meta.entity_id == "e"
        assert after.meta.event_name == "order %s created"
        assert after.timestamp == 5.0
        assert after.event_outcome == "failed"
        assert after.exception is None
        assert after.stack is None
        assert after.origin is not None
        assert (after.origin.level_name, after.origin.thread_name, after.origin.process_id) == ("ERROR", "T", 7)
        assert_types(after)

    def test_new_exceptions_and_stacks_on_the_record(self) -> None:
        """A filter may add them as well."""
        record = event_to_record(record_to_event(make_record()))
        error = raised(ValueError("late"))
        record.exc_info = (ValueError, error, error.__traceback__)
        record.stack_info = "Stack (most recent call last):"
        after = record_to_event(record)
        assert after.exception is not None
        assert after.exception.message == "late"
        assert after.stack is not None

    def test_values_that_cannot_be_compared(self) -> None:
        """What cannot be compared counts as changed."""
        event = LogEvent(20, LogEventMeta("shop", "x"), None, 1.0, {"a": Unprintable()})
        record = event_to_record(event)
        record.a = Unprintable()
        assert record_to_event(record).payload == {"a": "<Unprintable>"}

    def test_removed_extras_and_renamed_ones(self) -> None:
        """A key that a filter deletes is gone; one that was prefixed is found again."""
        event = LogEvent(20, LogEventMeta("shop", "x"), None, 1.0, {"name": "Bob", "secret_note": "s", "keep": 1})
        record = event_to_record(event)
        del record.__dict__["secret_note"]
        record.payload_name = "***"
        assert record_to_event(record).payload == {"name": "***", "keep": 1}

    def test_formatting_is_no_change(self) -> None:
        """What formatters write on the record is not taken for a change."""
        event = self.event()
        record = event_to_record(event)
        logging.Formatter("%(asctime)s %(message)s").format(record)
        assert record_to_event(record) is event

    def test_a_message_from_a_formatter(self) -> None:
        """The handler's formatter makes the message of a forwarded event too."""
        event = self.event()
        after = record_to_event(event_to_record(event), message="m")
        assert after.message == "m"
        assert after.exception is event.exception

    def test_it_is_told_apart(self) -> None:
        """is_event_record finds what carries a ready event."""
        assert is_event_record(event_to_record(self.event()))
        assert not is_event_record(make_record())
        assert not is_event_record(make_record({"a": 1}, ()))


class TestRecordsOfStructlog:
    def log(self, **options: Any) -> logging.LogRecord:
        """A record as structlog makes it for ProcessorFormatter."""
        records: list[logging.LogRecord] = []
        stdlib_logger = logging.Logger("shop.orders")
        stdlib_logger.addFilter(lambda record: bool(records.append(record)))
        logger = structlog.wrap_logger(
            stdlib_logger,
            processors=[structlog.stdlib.add_log_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
            wrapper_class=structlog.stdlib.BoundLogger,
        )
        logger.bind(user="alice").warning("user.login", **options)
        return records[0]

    def test_the_event_dict_becomes_an_event(self) -> None:
        """Its event is the name, the rest is payload; level, logger, time and thread are the record's."""
        record = self.log(items=[1, 2], entity_id="u-1", event_outcome="success")
        assert is_event_record(record)
        event = record_to_event(record)
        assert event.level == logging.WARNING
        assert event.meta.event_namespace == "shop.orders"
        assert event.meta.event_name == "user.login"
        assert event.meta.entity_id == "u-1"
        assert event.event_outcome == "success"
        assert event.payload == {"user": "alice", "items": [1, 2]}
        assert event.timestamp == record.created
        assert event.meta.source_path == record.pathname
        assert event.origin is not None
        assert event.origin.system == "structlog"
        assert event.origin.thread_id == record.thread
        assert event.origin.level_name == "WARNING"

    def test_its_exception(self) -> None:
        """exc_info in the event dict is the event's exception."""
        error = raised(ValueError("x"))
        event = record_to_event(self.log(exc_info=error))
        assert event.exception is not None
        assert event.exception.message == "x"
        assert "exc_info" not in event.payload

    def test_extras_of_the_record_join_the_payload(self) -> None:
        """A filter may have added attributes."""
        record = self.log()
        record.request_id = "r-1"
        record.entity_id = "e-1"
        event = record_to_event(record, message="text")
        assert event.payload == {"user": "alice", "request_id": "r-1"}
        assert event.meta.entity_id == "e-1"
        assert event.message == "text"

    def test_the_event_dict_is_not_changed(self) -> None:
        """ProcessorFormatter of another handler finds it as it was."""
        record = self.log(items=[1])
        before = dict(record.msg)  # type: ignore[arg-type]
        record_to_event(record)
        assert record.msg == before

    def test_an_ordinary_dict_with_the_same_attributes_missing(self) -> None:
        """A dict is structlog's only with structlog's marks."""
        event = record_to_event(make_record(OrderedDict(event="x"), ()))
        assert event.meta.event_name == "<OrderedDict>"


class TestSourceFiles:
    def test_the_module_imports_no_asyncio_and_no_structlog(self) -> None:
        """Both are imported where they are needed, and only then."""
        source = Path(sys.modules["mvx_logger.bridge.records"].__file__ or "").read_text()
        heading = source.split("def ")[0]
        assert "import asyncio" not in heading
        assert "import structlog" not in heading
