"""Tests of `mvx_logger.bridge.handlers`."""

from __future__ import annotations

import asyncio
import copy
import gc
import io
import json
import logging
import logging.handlers
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import structlog
from pythonjsonlogger.json import JsonFormatter

import mvx_logger
from mvx_logger import (
    LogConfigurationError,
    LogContext,
    LogContextHandler,
    LogErrorHandlingPolicy,
    LogEvent,
    LogEventMeta,
    LogPayloadProcessor,
    LogSinkDescriptor,
    LogSinkNotFoundError,
    MemoryLogSink,
    PatternLogEventPolicy,
    PatternLogEventPolicyAction,
    PatternLogEventPolicyConfig,
    PatternLogEventPolicyRuleConfig,
    SinkHandler,
    configure_log_context,
    selflog,
)
from mvx_logger.bridge import handlers
from mvx_logger.bridge.handlers import holds_module_lock, plain_options
from mvx_logger.bridge.records import event_to_record
from mvx_logger.delivery.sink import AsyncioLogSink
from mvx_logger.selflog import SelfLogReport
from waiting import wait_until


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    """Loggers, contexts and sinks are as they were, after every test."""
    root = logging.getLogger()
    level, handlers, filters = root.level, root.handlers[:], root.filters[:]
    yield
    root.setLevel(level)
    root.handlers[:], root.filters[:] = handlers, filters
    logging.disable(logging.NOTSET)
    mvx_logger.reset_logger()


@pytest.fixture
def reports() -> Iterator[list[SelfLogReport]]:
    """What the logger tells of itself, all of it."""
    found: list[SelfLogReport] = []
    interval = selflog.get_interval()
    before = selflog.redirect(found.append)
    selflog.set_interval(0)
    yield found
    selflog.set_interval(interval)
    selflog.redirect(before)


@pytest.fixture
def logger() -> logging.Logger:
    """A logger that nobody else uses, and that propagates nowhere."""
    made = logging.Logger("shop.orders", 1)
    made.manager = logging.Manager(logging.RootLogger(1))  # type: ignore[assignment]
    return made


def take_root(*handlers: logging.Handler) -> None:
    """Let the root logger have these handlers only: pytest's own render what they are given, too."""
    root = logging.getLogger()
    root.setLevel(1)
    root.handlers[:] = handlers


def run_python(code: str, *, timeout: float = 60, returncode: int | None = 0) -> subprocess.CompletedProcess[str]:
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert returncode is None or run.returncode == returncode, run.stderr
    return run


class Failing:
    """A sink that does not work."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def log(self, event: LogEvent) -> None:
        raise self.error


class Chatty:
    """A synchronous sink that logs with the standard library while it delivers."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def log(self, event: LogEvent) -> None:
        logging.getLogger("urllib3.connectionpool").debug("POST /logs")
        self.events.append(event)


class Collecting(AsyncioLogSink):
    """An asynchronous sink that logs with the standard library while it delivers."""

    made: ClassVar[list[Collecting]] = []

    def __init__(self, *, label: str = "", slow: float = 0.0, **async_options: Any) -> None:
        super().__init__(**async_options)
        self.label = label
        self.slow = slow
        self.events: list[LogEvent] = []
        self.made.append(self)

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        return cls._describe("collecting", (kwargs.get("label", ""),), kwargs)

    async def _on_starting(self) -> None:
        # As a client library does that is imported on first use.
        logging.getLogger(f"client.{id(self)}").debug("connecting")

    async def _dispatch_core(self, event: LogEvent) -> None:
        if self.slow:
            await asyncio.sleep(self.slow)
        logging.getLogger("client").debug("sent")
        self.events.append(event)


class Synchronous(MemoryLogSink):
    """Somebody else's sink class. May be closed, by another thread, in the middle of a call, and then raises."""

    handler_to_close: ClassVar[list[logging.Handler]] = []
    made: ClassVar[list[Synchronous]] = []

    def __init__(self, *, name: str = "") -> None:
        super().__init__(name=name)
        self.made.append(self)

    def log(self, event: LogEvent) -> None:
        if self.handler_to_close:
            self.handler_to_close.pop().close()
            raise ValueError("closed")
        super().log(event)


@pytest.fixture(autouse=True)
def _forget_made() -> Iterator[None]:
    Collecting.made.clear()
    yield
    for sink in Collecting.made:
        sink.close()
    Collecting.made.clear()


class TestSinkHandler:
    def test_a_record_arrives_as_an_event(self, logger: logging.Logger) -> None:
        """logger.info(...) with a sink object behind the handler."""
        sink = MemoryLogSink()
        logger.addHandler(SinkHandler(sink))
        logger.info("order %s created", "o-1", extra={"user": "alice", "entity_id": "o-1"})
        (event,) = sink.events
        assert event.level == logging.INFO
        assert event.message == "order o-1 created"
        assert event.meta.event_name == "order %s created"
        assert event.meta.entity_id == "o-1"
        assert event.payload == {"user": "alice"}

    def test_a_sink_object_stays_its_owners(self, logger: logging.Logger) -> None:
        """Closing the handler does not close a sink that it was given."""
        closed: list[bool] = []

        class Sink(MemoryLogSink):
            def close(self) -> None:
                closed.append(True)

        sink = Sink()
        handler = SinkHandler(sink)
        logger.addHandler(handler)
        handler.close()
        logger.info("still there")
        assert closed == []
        assert len(sink.events) == 1

    def test_a_registered_name(self, logger: logging.Logger) -> None:
        """The name of a registered sink; the handler follows when the name is configured anew."""
        first = mvx_logger.configure_log_sink(name="main", sink_cls=MemoryLogSink)
        handler = SinkHandler("main")
        logger.addHandler(handler)
        logger.info("one")
        mvx_logger.close_log_sink("main")
        second = mvx_logger.configure_log_sink(name="main", sink_cls=MemoryLogSink, max_events=5)
        logger.info("two")
        logger.info("three")
        handler.flush()
        assert [event.message for event in first.events] == ["one"]
        assert [event.message for event in second.events] == ["two", "three"]

    def test_a_name_that_is_not_registered(self) -> None:
        """It is an error at once, and names what is there."""
        with pytest.raises(LogSinkNotFoundError, match="nowhere"):
            SinkHandler("nowhere")

    def test_a_name_that_is_gone(self, logger: logging.Logger, reports: list[SelfLogReport]) -> None:
        """Its sink was closed: that is told, and nothing raised, until there is one of that name again."""
        mvx_logger.configure_log_sink(name="main", sink_cls=MemoryLogSink)
        handler = SinkHandler("main")
        logger.addHandler(handler)
        mvx_logger.close_log_sink("main")
        logger.info("lost")
        handler.flush()
        assert {report.kind for report in reports} == {"handler", "flush"}
        sink = mvx_logger.configure_log_sink(name="main", sink_cls=MemoryLogSink)
        logger.info("heard")
        assert [event.message for event in sink.events] == ["heard"]

    def test_a_mapping(self, logger: logging.Logger) -> None:
        """A mapping names a class and its options."""
        handler = SinkHandler({"class": "mvx_logger.MemoryLogSink", "max_events": 3})
        logger.addHandler(handler)
        for number in range(5):
            logger.info("%d", number)
        sink = handler._target.current()
        assert [event.message for event in sink.events] == ["2", "3", "4"]

    def test_a_url(self, logger: logging.Logger, capfd: pytest.CaptureFixture[str]) -> None:
        """A URL names a sink and its options."""
        logger.addHandler(SinkHandler("stderr:?level=WARNING"))
        logger.info("quiet")
        logger.warning("loud")
        assert "loud" in capfd.readouterr().err

    @pytest.mark.parametrize("sink", [None, 7, MemoryLogSink, object()])
    def test_what_is_no_sink(self, sink: Any) -> None:
        """The error says what is expected."""
        with pytest.raises(TypeError, match="sink: expected an object with log"):
            SinkHandler(sink)

    @pytest.mark.parametrize("sink", [{"class": "mvx_logger.MemoryLogSink", "max": 3}, {"clas": "x"}, "nope://x"])
    def test_a_wrong_specification(self, sink: Any) -> None:
        """A wrong option is an error that names it, when the handler is made."""
        with pytest.raises(LogConfigurationError):
            SinkHandler(sink)

    @pytest.mark.parametrize(
        ("options", "path"),
        [
            ({"event_name": "banana"}, "event_name"),
            ({"event_name": 7}, "event_name"),
            ({"flush_timeout": -1}, "flush_timeout"),
            ({"flush_timeout": "5"}, "flush_timeout"),
            ({"flush_timeout": True}, "flush_timeout"),
            ({"payload_processor": 7}, "payload_processor"),
            ({"payload_processor": LogPayloadProcessor}, "payload_processor"),
            ({"payload_processor": {"max_str": 1}}, "payload_processor"),
            ({"payload_processor": {"max_str_len": -1}}, "payload_processor"),
        ],
    )
    def test_wrong_options(self, options: dict[str, Any], path: str) -> None:
        """Each error names the option."""
        with pytest.raises(LogConfigurationError) as caught:
            SinkHandler(MemoryLogSink(), **options)
        assert caught.value.details["path"] == path

    def test_event_name_can_be_chosen(self, logger: logging.Logger) -> None:
        """template, message, or a callable."""
        names = []
        for choice in ("template", "message", lambda record: record.funcName):
            sink = MemoryLogSink()
            handler = SinkHandler(sink, event_name=choice)  # type: ignore[arg-type]
            logger.handlers = [handler]
            logger.info("order %s", "o-1")
            names.append(sink.events[0].meta.event_name)
        assert names == ["order %s", "order o-1", "test_event_name_can_be_chosen"]

    @pytest.mark.parametrize("processor", [LogPayloadProcessor(max_str_len=3), {"max_str_len": 3}])
    def test_a_payload_processor(self, logger: logging.Logger, processor: Any) -> None:
        """As an object, or as its options."""
        sink = MemoryLogSink()
        logger.addHandler(SinkHandler(sink, payload_processor=processor))
        logger.info("x", extra={"a": "abcdef"})
        assert sink.events[0].payload == {"a": "abc..."}

    def test_values_bound_with_structlog_contextvars(self, logger: logging.Logger) -> None:
        """They are on the event, beneath what the call says itself."""
        sink = MemoryLogSink()
        logger.addHandler(SinkHandler(sink))
        with structlog.contextvars.bound_contextvars(request_id="r-1", user="bob", password="x"):
            logger.info("x", extra={"user": "alice"})
        logger.info("x")
        assert sink.events[0].payload == {"request_id": "r-1", "user": "alice", "password": "***"}
        assert sink.events[1].payload == {}

    async def test_the_asyncio_task(self, logger: logging.Logger) -> None:
        """The task's name is on the event on every Python."""
        sink = MemoryLogSink()
        logger.addHandler(SinkHandler(sink))

        async def work() -> None:
            logger.info("x")

        await asyncio.create_task(work(), name="import-job")
        origin = sink.events[0].origin
        assert origin is not None
        assert origin.task_name == "import-job"

    async def test_a_callback_of_the_loop_has_no_task(self, logger: logging.Logger) -> None:
        """And no task's name."""
        sink = MemoryLogSink()
        logger.addHandler(SinkHandler(sink))
        asyncio.get_running_loop().call_soon(logger.info, "x")
        await asyncio.sleep(0)
        origin = sink.events[0].origin
        assert origin is not None
        assert origin.task_name is None

    def test_repr_names_sink_and_level_and_no_secret(self) -> None:
        """As those of the standard library's handlers."""
        handler = SinkHandler({"class": "mvx_logger.MemoryLogSink", "name": "s3cret"}, level="INFO")
        assert repr(handler) == "<SinkHandler MemoryLogSink (INFO)>"
        mvx_logger.configure_log_sink(name="main", sink_cls=MemoryLogSink)
        assert repr(SinkHandler("main")) == "<SinkHandler main (NOTSET)>"


class TestTheContractOfHandler:
    @pytest.fixture
    def sink(self) -> MemoryLogSink:
        return MemoryLogSink()

    @pytest.fixture
    def handler(self, sink: MemoryLogSink, logger: logging.Logger) -> SinkHandler:
        made = SinkHandler(sink)
        logger.addHandler(made)
        return made

    def test_level(self, sink: MemoryLogSink, handler: SinkHandler, logger: logging.Logger) -> None:
        """As an argument and by setLevel, as a number and as a name."""
        assert SinkHandler(sink, level="ERROR").level == 40
        handler.setLevel("WARNING")
        logger.info("no")
        logger.warning("yes")
        assert [event.message for event in sink.events] == ["yes"]

    def test_filters(self, sink: MemoryLogSink, handler: SinkHandler, logger: logging.Logger) -> None:
        """Objects and callables; any of them may reject."""

        class Odd(logging.Filter):
            def filter(self, record: logging.LogRecord) -> bool:
                return bool(record.args) and record.args[0] % 2 == 1  # type: ignore[index,operator,return-value]

        handler.addFilter(Odd())
        handler.addFilter(lambda record: record.args[0] > 2)  # type: ignore[index,operator]
        for number in range(6):
            logger.info("%d", number)
        assert [event.message for event in sink.events] == ["3", "5"]

    def test_a_filter_that_replaces_the_record(
        self, sink: MemoryLogSink, handler: SinkHandler, logger: logging.Logger
    ) -> None:
        """On every Python: the later filters and the sink see the other record, other handlers the first one."""
        seen: list[str] = []

        def redact(record: logging.LogRecord) -> logging.LogRecord:
            other = copy.copy(record)
            other.msg, other.args = "redacted", ()
            return other

        handler.addFilter(redact)  # type: ignore[arg-type]
        handler.addFilter(lambda record: not seen.append(record.getMessage()))
        stream = io.StringIO()
        logger.addHandler(logging.StreamHandler(stream))
        logger.info("password is %s", "hunter2")
        assert sink.events[0].message == "redacted"
        assert sink.events[0].meta.event_name == "redacted"
        assert seen == ["redacted"]
        assert stream.getvalue() == "password is hunter2\n"

    def test_handle_returns_what_filter_says(self, handler: SinkHandler) -> None:
        """A false value for a rejected record, else the record."""
        record = logging.makeLogRecord({"msg": "x"})
        assert handler.handle(record)
        handler.addFilter(lambda record: False)
        assert not handler.handle(record)

    def test_the_formatter_in_dictconfig_has_no_effect(
        self, sink: MemoryLogSink, handler: SinkHandler, logger: logging.Logger
    ) -> None:
        """Field bug 13: a formatter set on the handler makes the message."""
        handler.setFormatter(logging.Formatter("[%(levelname)s] %(name)s: %(message)s"))
        logger.info("order %s", "o-1")
        assert sink.events[0].message == "[INFO] shop.orders: order o-1"
        assert sink.events[0].meta.event_name == "order %s"

    def test_a_stock_formatter_does_not_repeat_the_traceback(
        self, sink: MemoryLogSink, handler: SinkHandler, logger: logging.Logger
    ) -> None:
        """The traceback is in the event once, as data; a formatter class of one's own may still print it."""
        handler.setFormatter(logging.Formatter("%(message)s"))
        try:
            raise ValueError("no")
        except ValueError:
            logger.exception("failed", stack_info=True)

        class Own(logging.Formatter):
            def formatException(self, ei: Any) -> str:
                return f"<{ei[0].__name__}>"

        handler.setFormatter(Own("%(message)s"))
        try:
            raise ValueError("no")
        except ValueError:
            logger.exception("failed")
        first, second = sink.events
        assert first.message == "failed"
        assert first.exception is not None
        assert first.stack is not None
        assert second.message == "failed\n<ValueError>"

    def test_a_formatter_that_changes_the_record(
        self, sink: MemoryLogSink, handler: SinkHandler, logger: logging.Logger
    ) -> None:
        """Field bug 16: the second handler sees a message that the first one's formatter already changed."""

        class Shouting(logging.Formatter):
            def format(self, record: logging.LogRecord) -> str:
                record.msg = "CHANGED %s"
                record.args = ("CHANGED",)
                record.exc_info = None
                return super().format(record)

        handler.setFormatter(Shouting())
        stream = io.StringIO()
        logger.addHandler(logging.StreamHandler(stream))
        logger.info("order %s", "o-1", extra={"a": 1})
        assert sink.events[0].payload == {"a": 1}
        assert sink.events[0].origin is not None
        assert sink.events[0].origin.args == ("o-1",)
        assert stream.getvalue() == "order o-1\n"

    def test_a_json_formatter(self, sink: MemoryLogSink, handler: SinkHandler, logger: logging.Logger) -> None:
        """python-json-logger on the handler: the message is its JSON."""
        handler.setFormatter(JsonFormatter("%(message)s"))
        logger.info("order %s", "o-1", extra={"user": "alice"})
        assert json.loads(sink.events[0].message or "") == {"message": "order o-1", "user": "alice"}

    def test_handle_error_is_the_users(self, logger: logging.Logger) -> None:
        """A failing sink is told to handleError, with the exception being handled; the application goes on."""
        seen: list[tuple[str, Any]] = []

        class Handler(SinkHandler):
            def handleError(self, record: logging.LogRecord) -> None:
                seen.append((record.getMessage(), sys.exc_info()[1]))

        error = ValueError("no")
        logger.addHandler(Handler(Failing(error)))
        logger.info("x")
        assert seen == [("x", error)]

    def test_a_handle_error_that_raises(self, logger: logging.Logger) -> None:
        """pytest's way: who overrides handleError to raise gets what was raised."""

        class Handler(SinkHandler):
            def handleError(self, record: logging.LogRecord) -> None:
                raise

        logger.addHandler(Handler(Failing(ValueError("no"))))
        with pytest.raises(ValueError, match="no"):
            logger.info("x")

    def test_raise_exceptions(
        self, logger: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """logging.raiseExceptions decides whether a failure is printed."""
        logger.addHandler(SinkHandler(Failing(ValueError("the sink is broken"))))
        logger.info("x")
        assert "the sink is broken" in capsys.readouterr().err
        monkeypatch.setattr(logging, "raiseExceptions", False)
        logger.info("x")
        assert capsys.readouterr().err == ""

    def test_a_full_queue_is_an_error_of_the_handler(self, logger: logging.Logger) -> None:
        """The overflow of an asynchronous sink goes to handleError, not to the application."""
        errors: list[str] = []

        class Handler(SinkHandler):
            def handleError(self, record: logging.LogRecord) -> None:
                errors.append(type(sys.exc_info()[1]).__name__)

        sink, close = Collecting.create(slow=10, queue_max_size=1, shutdown_timeout=0)
        logger.addHandler(Handler(sink))
        for _ in range(5):
            logger.info("x")
        assert set(errors) == {"AsyncioLogSinkQueueOverflowError"}
        close()

    @pytest.mark.parametrize("error", [RecursionError("deep"), MemoryError("full")])
    def test_no_room_left(self, logger: logging.Logger, error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
        """RecursionError and MemoryError do not escape either, not even from handleError."""

        class Handler(SinkHandler):
            def handleError(self, record: logging.LogRecord) -> None:
                raise error

        logger.addHandler(Handler(Failing(error)))
        logger.info("x")
        logger.handlers[:] = [SinkHandler(Failing(error))]
        logger.info("x")
        assert type(error).__name__ in capsys.readouterr().err

    @pytest.mark.untraced
    def test_the_recursion_limit_is_nearly_reached(self, logger: logging.Logger) -> None:
        """A log call next to the limit raises nothing that comes from the handler."""
        sink = MemoryLogSink()
        logger.addHandler(SinkHandler(sink))
        record = logging.makeLogRecord({"msg": "%s", "args": ("x",), "user": {"a": [1]}})
        handler = logger.handlers[0]
        escaped: list[BaseException] = []

        def dive() -> None:
            try:
                handler.handle(record)
            except RecursionError as err:
                # It may only be the call of handle() itself that did not fit.
                trace = err.__traceback__
                assert trace is not None
                if trace.tb_next is not None and trace.tb_next.tb_next is not None:
                    escaped.append(err)
                raise
            dive()

        before = logging.raiseExceptions
        logging.raiseExceptions = False
        try:
            with pytest.raises(RecursionError):
                dive()
        finally:
            logging.raiseExceptions = before
        assert not escaped
        handler.handle(record)
        assert sink.events[-1].message == "x"

    def test_a_filter_that_raises(
        self, handler: SinkHandler, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The application is not the one to suffer from it."""

        def broken(record: logging.LogRecord) -> bool:
            raise ValueError("broken filter")

        handler.addFilter(broken)
        logger.info("x")
        assert "broken filter" in capsys.readouterr().err

    def test_keyboard_interrupt_passes(self, logger: logging.Logger) -> None:
        """What is no error of the program's is not swallowed, and leaves the handler in order."""
        logger.addHandler(SinkHandler(Failing(KeyboardInterrupt())))
        with pytest.raises(KeyboardInterrupt):
            logger.info("x")
        sink = MemoryLogSink()
        logger.handlers[:] = [SinkHandler(sink)]
        logger.info("x")
        assert len(sink.events) == 1

    def test_it_is_shared_by_many_loggers(self, sink: MemoryLogSink, handler: SinkHandler) -> None:
        """Each event has its logger's name."""
        for name in ("a", "b.c"):
            other = logging.Logger(name)
            other.addHandler(handler)
            other.warning("x")
        assert [event.meta.event_namespace for event in sink.events] == ["a", "b.c"]

    def test_a_subclass_may_override_emit(self, sink: MemoryLogSink, logger: logging.Logger) -> None:
        """handle() calls it, without a lock."""
        seen: list[str] = []

        class Handler(SinkHandler):
            def emit(self, record: logging.LogRecord) -> None:
                seen.append(record.getMessage())
                super().emit(record)

        logger.addHandler(Handler(sink))
        logger.info("x")
        assert seen == ["x"]
        assert len(sink.events) == 1

    def test_a_subclass_may_override_filter(self, sink: MemoryLogSink, logger: logging.Logger) -> None:
        """In the way of before Python 3.12: True and False."""

        class Handler(SinkHandler):
            def filter(self, record: logging.LogRecord) -> bool:
                return record.getMessage() == "yes"

        logger.addHandler(Handler(sink))
        logger.info("yes")
        logger.info("no")
        assert [event.message for event in sink.events] == ["yes"]

    def test_emitting_takes_no_lock(self, sink: MemoryLogSink, handler: SinkHandler, logger: logging.Logger) -> None:
        """A signal handler or a fork may come while another thread holds the handler's lock: it is not taken."""
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with handler.lock:  # type: ignore[union-attr]
                held.set()
                done.wait(20)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(20)
        logger.info("x")
        done.set()
        thread.join()
        assert len(sink.events) == 1

    def test_logging_shutdown_and_use_after_it(
        self, sink: MemoryLogSink, handler: SinkHandler, logger: logging.Logger
    ) -> None:
        """logging.shutdown() closes the handler; a record after it arrives all the same."""
        logging.shutdown([weakref.ref(handler)])
        logger.info("x")
        assert len(sink.events) == 1

    def test_it_is_found_by_its_name_until_it_is_closed(self, handler: SinkHandler) -> None:
        """The standard library's registry of handlers by name is kept."""
        handler.name = "pipeline"
        assert logging._handlers["pipeline"] is handler  # type: ignore[index]
        handler.close()
        assert "pipeline" not in logging._handlers

    def test_records_of_a_queue_listener(self, sink: MemoryLogSink, handler: SinkHandler) -> None:
        """The stock QueueHandler and QueueListener in front of it."""
        records: queue.Queue[Any] = queue.Queue()
        listener = logging.handlers.QueueListener(records, handler)
        source = logging.Logger("shop")
        source.addHandler(logging.handlers.QueueHandler(records))
        listener.start()
        source.warning("order %s", "o-1", extra={"user": "alice"})
        listener.stop()
        assert sink.events[0].message == "order o-1"
        assert sink.events[0].payload == {"user": "alice"}

    def test_a_memory_handler_in_front_of_it(self, sink: MemoryLogSink, handler: SinkHandler) -> None:
        """The stock MemoryHandler with it as its target."""
        buffer = logging.handlers.MemoryHandler(10, target=handler)
        source = logging.Logger("shop")
        source.addHandler(buffer)
        source.info("one")
        assert sink.events == ()
        buffer.flush()
        assert [event.message for event in sink.events] == ["one"]

    def test_eight_threads_lose_nothing(
        self, sink: MemoryLogSink, handler: SinkHandler, logger: logging.Logger
    ) -> None:
        """Every record of each thread arrives, in order per thread."""

        def work(number: int) -> None:
            for count in range(500):
                logger.info("%d %d", number, count)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        events = [event.origin.args for event in sink.events if event.origin is not None]
        assert len(events) == 4000
        for number in range(8):
            assert [count for thread, count in events if thread == number] == list(range(500))  # type: ignore[misc]


class TestRecursion:
    def test_attached_to_the_root_logger_the_handler_logs_its_own_http_clients_lines_for_ever(
        self, reports: list[SelfLogReport]
    ) -> None:
        """Field bug 3: with every kind of sink on the root logger at level 1, what arrives is what was logged."""
        memory, chatty = MemoryLogSink(), Chatty()
        sink, close = Collecting.create()
        context = LogContext(log_sink=Chatty(), payload_processor=LogPayloadProcessor())
        take_root(SinkHandler(memory), SinkHandler(chatty), SinkHandler(sink), LogContextHandler(context))
        for number in range(100):
            logging.getLogger("app").info("%d", number)
        assert sink.flush(20)
        close()
        expected = [str(number) for number in range(100)]
        for events in (chatty.events, sink.events, context.log_sink.events):  # type: ignore[attr-defined]
            assert [event.message for event in events] == expected
        assert [event.message for event in memory.events] == expected
        assert {report.kind for report in reports} == {"recursion"}

    @pytest.mark.parametrize("where", ["extra", "argument", "message", "event_name", "formatter", "filter"])
    def test_the_process_freezes_when_turning_a_record_into_an_event_logs(
        self, where: str, reports: list[SelfLogReport]
    ) -> None:
        """Field bug 4: the record that is logged meanwhile does not come back, and is reported."""
        sink = MemoryLogSink()

        class Talkative:
            def __str__(self) -> str:
                logging.getLogger("inner").warning("describing")
                return "text"

            def to_log_payload(self) -> dict[str, Any]:
                logging.getLogger("inner").warning("describing")
                return {"a": 1}

        def name(record: logging.LogRecord) -> str:
            logging.getLogger("inner").warning("naming")
            return "name"

        class Formatter(logging.Formatter):
            def format(self, record: logging.LogRecord) -> str:
                logging.getLogger("inner").warning("formatting")
                return "text"

        def let_pass(record: logging.LogRecord) -> bool:
            logging.getLogger("inner").warning("filtering")
            return True

        both: list[logging.Handler] = [
            SinkHandler(sink, event_name=name if where == "event_name" else "template"),
            LogContextHandler(
                LogContext(log_sink=sink, payload_processor=LogPayloadProcessor()),
                event_name=name if where == "event_name" else "template",
            ),
        ]
        for handler in both:
            if where == "formatter":
                handler.setFormatter(Formatter())
            if where == "filter":
                handler.addFilter(let_pass)
        take_root(*both)
        extra = {"thing": Talkative()} if where == "extra" else None
        message: Any = Talkative() if where == "message" else "x %s"
        logging.getLogger("app").info(message, *([] if where == "message" else [Talkative()]), extra=extra)
        assert [event.meta.event_namespace for event in sink.events] == ["app", "app"]
        assert reports
        assert {report.kind for report in reports} == {"recursion"}
        assert "inner" in str(reports[0].fields)

    def test_it_is_reported_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A thousand of them are one line on stderr."""
        selflog._told.clear()
        take_root(SinkHandler(Chatty()))
        for _ in range(1000):
            logging.getLogger("app").info("x")
        assert capsys.readouterr().err.count("mvx-logger: recursion") == 1

    def test_another_thread_is_not_held_back(self) -> None:
        """The guard is the thread's own: others deliver meanwhile."""
        sink = MemoryLogSink()
        handler = SinkHandler(sink)
        inside, go_on = threading.Event(), threading.Event()

        class Slow:
            def __str__(self) -> str:
                inside.set()
                go_on.wait(20)
                return "slow"

        thread = threading.Thread(target=lambda: handler.handle(logging.makeLogRecord({"msg": Slow()})))
        thread.start()
        inside.wait(20)
        handler.handle(logging.makeLogRecord({"msg": "fast"}))
        assert [event.message for event in sink.events] == ["fast"]
        go_on.set()
        thread.join()
        assert [event.message for event in sink.events] == ["fast", "slow"]

    @pytest.mark.parametrize("kind", ["function", "method", "object", "partial"])
    def test_what_a_signal_handler_logs_in_the_middle_of_a_log_call_arrives(self, kind: str) -> None:
        """It is none of the logger's own doing, wherever it interrupts the logger."""
        sink = MemoryLogSink()
        take_root(SinkHandler(sink))

        class OnSignal:
            def method(self, number: int, frame: object) -> None:
                logging.getLogger("app").warning("interrupted")

            __call__ = method

        def function(number: int, frame: object) -> None:
            logging.getLogger("app").warning("interrupted")

        from functools import partial

        on_signal: Any = {
            "function": function,
            "method": OnSignal().method,
            "object": OnSignal(),
            "partial": partial(OnSignal().method),
        }[kind]

        class Interrupted:
            def __str__(self) -> str:
                signal.raise_signal(signal.SIGUSR1)
                return "conversion"

        before = signal.signal(signal.SIGUSR1, on_signal)
        try:
            logging.getLogger("app").warning(Interrupted())
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert [event.message for event in sink.events] == ["interrupted", "conversion"]

    def test_a_log_call_during_shutdown_recurses_until_the_stack_is_full(self) -> None:
        """Field bug 18: it does not, whatever logs at the end of the interpreter."""
        run = run_python(
            """
            import atexit, logging, logging.config, weakref
            import mvx_logger

            class Chatty:
                def log(self, event):
                    logging.getLogger("client").warning("sending")
                    print(event.message, flush=True)

            class Late:
                def __str__(self):
                    logging.getLogger("inner").warning("inner")
                    return "late"
                def __del__(self):
                    logging.getLogger("app").warning("from __del__")

            root = logging.getLogger()
            root.addHandler(mvx_logger.SinkHandler(Chatty()))
            root.addHandler(mvx_logger.LogContextHandler())
            late = Late()
            late.itself = late
            atexit.register(logging.getLogger("app").warning, "from %s", late)
            logging.getLogger("app").warning("main")
            """
        )
        assert "RecursionError" not in run.stderr
        assert run.stdout.splitlines()[:2] == ["main", "from late"]
        assert run.stdout.count("from late") == 1


class TestForwardedRecords:
    def test_an_event_in_a_record_is_delivered_as_it_is(self) -> None:
        """A record that carries its event gives it back, also to a handler with a processor."""
        event = LogEvent(20, LogEventMeta("shop", "order.created"), None, 1.0, {"a": 1})
        sink = MemoryLogSink()
        SinkHandler(sink).handle(event_to_record(event))
        assert sink.events == (event,)

    def test_values_bound_here_are_not_those_of_the_event(self) -> None:
        """A forwarded event has had its own."""
        event = LogEvent(20, LogEventMeta("shop", "order.created"), None, 1.0, {"a": 1})
        sink = MemoryLogSink()
        with structlog.contextvars.bound_contextvars(request_id="other"):
            SinkHandler(sink).handle(event_to_record(event))
            LogContextHandler(LogContext(log_sink=sink, payload_processor=LogPayloadProcessor())).handle(
                event_to_record(event)
            )
        assert [event.payload for event in sink.events] == [{"a": 1}, {"a": 1}]

    def test_a_context_applies_its_policy_and_its_processor(self) -> None:
        """Also to a forwarded event."""
        sink = MemoryLogSink()
        context = LogContext(
            log_sink=sink,
            payload_processor=LogPayloadProcessor(max_str_len=3),
            min_level=20,
            event_policy=deny("noise.*"),
        )
        handler = LogContextHandler(context)
        handler.setFormatter(logging.Formatter("<%(name)s>"))
        for level, name in ((10, "order.created"), (20, "noise.x"), (20, "order.created")):
            handler.handle(event_to_record(LogEvent(level, LogEventMeta("shop", name), None, 1.0, {"a": "abcdef"})))
        (event,) = sink.events
        assert event.payload == {"a": "abc..."}
        assert event.message == "<shop>"

    def test_a_processor_of_the_handler_applies(self) -> None:
        """A handler that was given one bounds forwarded events too."""
        event = LogEvent(20, LogEventMeta("shop", "order.created"), None, 1.0, {"a": "abcdef"})
        sink = MemoryLogSink()
        SinkHandler(sink, payload_processor={"max_str_len": 3}).handle(event_to_record(event))
        assert sink.events[0].payload == {"a": "abc..."}

    def test_a_payload_is_normalized_once(self) -> None:
        """What was cut is not cut again: the numbers that were left out stay true."""
        sink = MemoryLogSink()
        processor = LogPayloadProcessor(max_items=3)
        target = logging.Logger("shop", 1)
        target.addHandler(SinkHandler(sink, payload_processor=processor))
        target.addHandler(LogContextHandler(LogContext(log_sink=sink, payload_processor=processor)))
        log = structlog.wrap_logger(
            target,
            processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
            wrapper_class=structlog.stdlib.BoundLogger,
        )
        log.info("x", items=list(range(10)))
        assert [event.payload for event in sink.events] == [{"items": [0, 1, 2, "... (7 more)"]}] * 2

    def test_a_record_of_structlog(self) -> None:
        """What structlog prepared for its ProcessorFormatter is an event by itself; bound values join it."""
        sink = MemoryLogSink()
        target = logging.Logger("shop", 1)
        target.addHandler(SinkHandler(sink))
        target.addHandler(LogContextHandler(LogContext(log_sink=sink, payload_processor=LogPayloadProcessor())))
        log = structlog.wrap_logger(
            target,
            processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
            wrapper_class=structlog.stdlib.BoundLogger,
        )
        with structlog.contextvars.bound_contextvars(request_id="r-1", user="bob"):
            log.info("user.login", user="alice")
        for event in sink.events:
            assert event.meta.event_name == "user.login"
            assert event.payload == {"request_id": "r-1", "user": "alice"}
        assert len(sink.events) == 2


def deny(*names: str) -> PatternLogEventPolicy:
    return PatternLogEventPolicy(
        PatternLogEventPolicyConfig(
            rules=(PatternLogEventPolicyRuleConfig(action=PatternLogEventPolicyAction.DENY, event_names=names),)
        )
    )


class TestLogContextHandler:
    @pytest.fixture
    def sink(self) -> MemoryLogSink:
        return MemoryLogSink()

    def test_a_context_object(self, sink: MemoryLogSink, logger: logging.Logger) -> None:
        """The context's processor and sink; the namespace is the logger's name."""
        context = LogContext(namespace="x", log_sink=sink, payload_processor=LogPayloadProcessor(max_str_len=3))
        logger.addHandler(LogContextHandler(context))
        logger.info("order %s", "o-1", extra={"a": "abcdef", "event_outcome": "success"})
        (event,) = sink.events
        assert event.meta.event_namespace == "shop.orders"
        assert event.payload == {"a": "abc..."}
        assert event.message == "order o-1"
        assert event.event_outcome == "success"

    def test_all_extras_are_kept_whatever_the_processors_limit(
        self, sink: MemoryLogSink, logger: logging.Logger
    ) -> None:
        """max_items bounds values; it does not take extras away."""
        logger.addHandler(
            LogContextHandler(LogContext(log_sink=sink, payload_processor=LogPayloadProcessor(max_items=2)))
        )
        logger.info("x", extra={f"k{number}": number for number in range(20)})
        assert len(sink.events[0].payload) == 20

    def test_a_rejected_record_is_not_rendered(self, sink: MemoryLogSink, logger: logging.Logger) -> None:
        """The policy comes first: neither the arguments nor the extras of a rejected record are touched."""
        touched: list[str] = []

        class Touchy:
            def __str__(self) -> str:
                touched.append("argument")
                return ""

            def to_log_payload(self) -> dict[str, Any]:
                touched.append("extra")
                return {}

        context = LogContext(
            log_sink=sink, payload_processor=LogPayloadProcessor(), event_policy=deny("noise *"), min_level=20
        )
        logger.addHandler(LogContextHandler(context))
        logger.info("noise %s", Touchy(), extra={"x": Touchy()})
        logger.debug("order %s", Touchy(), extra={"x": Touchy()})
        assert (touched, sink.events) == ([], ())
        logger.info("order %s", Touchy(), extra={"x": Touchy()})
        assert len(sink.events) == 1

    def test_the_policy_sees_entity_and_source(self, sink: MemoryLogSink, logger: logging.Logger) -> None:
        """An entity id in extra and the call site are there to be decided on."""
        seen: list[LogEventMeta] = []

        class Policy:
            def is_event_enabled(self, event: LogEventMeta) -> bool:
                seen.append(event)
                return True

        context = LogContext(log_sink=sink, payload_processor=LogPayloadProcessor(), event_policy=Policy())
        logger.addHandler(LogContextHandler(context))
        logger.info("x", extra={"entity_id": "o-1"})
        assert seen[0].entity_id == "o-1"
        assert seen[0].source_path == __file__
        assert seen[0].source_func == "test_the_policy_sees_entity_and_source"

    def test_one_handler_gives_every_module_its_own_context(self) -> None:
        """Without a context the nearest one to the logger's name serves, and the lookup follows reconfiguration."""
        sinks = {name: MemoryLogSink() for name in ("shop", "shop.orders")}
        root_sink = MemoryLogSink()
        mvx_logger.get_root_log_context().set_log_sink(root_sink)
        configure_log_context("shop", log_sink=sinks["shop"])
        handler = LogContextHandler()
        logger = logging.Logger("shop.orders.db")
        logger.addHandler(handler)
        other = logging.Logger("other")
        other.addHandler(handler)
        logger.warning("one")
        other.warning("elsewhere")
        configure_log_context("shop.orders", log_sink=sinks["shop.orders"])
        logger.warning("two")
        mvx_logger.reset_log_contexts()
        logger.warning("three")
        assert [event.message for event in sinks["shop"].events] == ["one"]
        assert [event.message for event in sinks["shop.orders"].events] == ["two"]
        assert [event.message for event in root_sink.events] == ["elsewhere", "three"]

    def test_a_namespace(self, sink: MemoryLogSink, logger: logging.Logger) -> None:
        """It is looked up when a record comes; before it is configured the nearest one serves."""
        mvx_logger.get_root_log_context().set_log_sink(sink)
        handler = LogContextHandler("billing.invoices")
        logger.addHandler(handler)
        logger.info("one")
        other = MemoryLogSink()
        configure_log_context("billing.invoices", log_sink=other)
        logger.info("two")
        assert [event.message for event in sink.events] == ["one"]
        assert [event.message for event in other.events] == ["two"]
        assert other.events[0].meta.event_namespace == "shop.orders"

    @pytest.mark.parametrize("context", [7, object(), LogContext])
    def test_what_is_no_context(self, context: Any) -> None:
        """The error says what is expected."""
        with pytest.raises(TypeError, match="context: expected a LogContext"):
            LogContextHandler(context)

    def test_bound_values_join_beneath_the_extras(self, sink: MemoryLogSink, logger: logging.Logger) -> None:
        """structlog.contextvars on standard library records, once each, through the context's processor."""
        context = LogContext(log_sink=sink, payload_processor=LogPayloadProcessor(max_str_len=3))
        logger.addHandler(LogContextHandler(context))
        with structlog.contextvars.bound_contextvars(request_id="r-1234", user="bob"):
            logger.info("x", extra={"user": "eve"})
        assert sink.events[0].payload == {"request_id": "r-1...", "user": "eve"}

    def test_the_error_policy_of_the_context(self, logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
        """Only RAISE reaches handleError."""
        errors: list[str] = []

        class Handler(LogContextHandler):
            def handleError(self, record: logging.LogRecord) -> None:
                errors.append(type(sys.exc_info()[1]).__name__)

        for policy in LogErrorHandlingPolicy:
            context = LogContext(
                log_sink=Failing(ValueError("no")),
                payload_processor=LogPayloadProcessor(),
                log_error_handling_policy=policy,
            )
            logger.handlers[:] = [Handler(context)]
            logger.info("x")
        assert errors == ["LogContextUnableToLog"]
        capsys.readouterr()

    def test_a_processor_that_fails(
        self, sink: MemoryLogSink, logger: logging.Logger, reports: list[SelfLogReport]
    ) -> None:
        """The default one takes over, and it is told."""

        class Broken(LogPayloadProcessor):
            def normalize_fields(self, payload: Any) -> dict[str, Any]:
                raise ValueError("no")

        logger.addHandler(LogContextHandler(LogContext(log_sink=sink, payload_processor=Broken())))
        logger.info("x", extra={"a": 1})
        assert sink.events[0].payload == {"a": 1}
        assert reports[0].kind == "payload"

    def test_a_formatter_makes_the_message(self, sink: MemoryLogSink, logger: logging.Logger) -> None:
        """Field bug 13 again, on the other handler."""
        handler = LogContextHandler(LogContext(log_sink=sink, payload_processor=LogPayloadProcessor()))
        handler.setFormatter(logging.Formatter("{name}|{message}", style="{"))
        logger.addHandler(handler)
        logger.info("x %d", 1)
        assert sink.events[0].message == "shop.orders|x 1"

    def test_exceptions_arrive(self, sink: MemoryLogSink, logger: logging.Logger) -> None:
        """logger.exception(): as data."""
        logger.addHandler(LogContextHandler(LogContext(log_sink=sink, payload_processor=LogPayloadProcessor())))
        try:
            raise ValueError("no")
        except ValueError:
            logger.exception("failed")
        assert sink.events[0].exception is not None
        assert sink.events[0].exception.message == "no"

    def test_records_without_a_name(self, sink: MemoryLogSink) -> None:
        """makeLogRecord({}) has none: the root context serves."""
        mvx_logger.get_root_log_context().set_log_sink(sink)
        LogContextHandler().handle(logging.makeLogRecord({"msg": "x"}))
        assert sink.events[0].meta.event_namespace is None

    def test_repr(self, sink: MemoryLogSink) -> None:
        """It names the context."""
        context = LogContext(namespace="shop", log_sink=sink, payload_processor=LogPayloadProcessor())
        assert repr(LogContextHandler(context)) == "<LogContextHandler shop (NOTSET)>"
        assert repr(LogContextHandler("a.b", level=20)) == "<LogContextHandler a.b (INFO)>"
        assert repr(LogContextHandler()) == "<LogContextHandler nearest (NOTSET)>"


class TestFlush:
    def test_it_waits_for_the_sink(self, logger: logging.Logger) -> None:
        """After flush() the destination has everything."""
        sink, close = Collecting.create(slow=0.01)
        several: list[logging.Handler] = [
            SinkHandler(sink),
            LogContextHandler(LogContext(log_sink=sink, payload_processor=LogPayloadProcessor())),
            LogContextHandler("shop"),
            LogContextHandler(),
        ]
        mvx_logger.get_root_log_context().set_log_sink(sink)
        for number, handler in enumerate(several, 1):
            handler.handle(logging.makeLogRecord({"msg": "x", "name": "shop", "levelno": 20}))
            handler.flush()
            assert len(sink.events) == number
        close()

    def test_not_longer_than_its_timeout(self) -> None:
        """A destination that hangs does not hang the caller."""
        sink, close = Collecting.create(slow=60, shutdown_timeout=0)
        handler = SinkHandler(sink, flush_timeout=0.05)
        handler.handle(logging.makeLogRecord({"msg": "x", "levelno": 20}))
        handler.flush()
        assert sink.events == []
        close()

    def test_not_while_the_module_lock_is_held(self) -> None:
        """dictConfig flushes the old handlers under logging's module lock, which the sink's own client may need."""
        flushed: list[Any] = []

        class Sink(MemoryLogSink):
            def flush(self, timeout: float | None = None) -> bool:
                flushed.append(timeout)
                return True

        handler = SinkHandler(Sink(), flush_timeout=3)
        assert not holds_module_lock()
        with logging._lock:  # type: ignore[attr-defined]
            assert holds_module_lock()
            handler.flush()
        assert flushed == []
        handler.flush()
        assert flushed == [3]
        ended = threading.Thread(target=int)
        ended.start()
        ended.join()
        with pytest.MonkeyPatch.context() as patch:  # as at the end of the process, which waits for all sinks anyway
            patch.setattr(threading, "main_thread", lambda: ended)
            handler.flush()
        assert flushed == [3, 0]

    def test_not_inside_of_what_a_sink_runs(self) -> None:
        """A worker that flushes its own handler would wait for itself."""
        flushed: list[bool] = []

        class Sink(AsyncioLogSink):
            async def _dispatch_core(self, event: LogEvent) -> None:
                handler.flush()
                flushed.append(True)

        sink, close = Sink.create()
        handler = SinkHandler(sink, flush_timeout=None)
        handler.handle(logging.makeLogRecord({"msg": "x", "levelno": 20}))
        wait_until(lambda: flushed)
        close()

    def test_sinks_without_a_flush_or_with_another_kind(self, reports: list[SelfLogReport]) -> None:
        """Foreign sinks need not have it, may take no timeout, and may fail."""
        flushed: list[bool] = []

        class Plain:
            def log(self, event: LogEvent) -> None: ...

        class NoTimeout(Plain):
            def flush(self) -> None:
                flushed.append(True)

        class Broken(Plain):
            def flush(self, timeout: float | None = None) -> bool:
                raise ValueError("no")

        SinkHandler(Plain()).flush()
        SinkHandler(NoTimeout()).flush()
        SinkHandler(Broken()).flush()
        assert flushed == [True]
        assert [report.kind for report in reports] == ["flush"]

    def test_a_closed_handler(self) -> None:
        """There is nothing to flush in a handler that holds no sink."""
        handler = SinkHandler({"class": "mvx_logger.MemoryLogSink"})
        handler.close()
        handler.flush()


class TestLife:
    @pytest.fixture(autouse=True)
    def _describe(self, request: pytest.FixtureRequest) -> None:
        """Handlers of one description share a sink: each test has a description of its own."""
        self.SPEC: dict[str, Any] = {"class": f"{__name__}.Collecting", "label": request.node.name}

    def sinks(self) -> list[Collecting]:
        return [sink for sink in Collecting.made if sink.label == self.SPEC["label"]]

    def running(self) -> list[Collecting]:
        return [sink for sink in self.sinks() if sink.get_status().value == "running"]

    def test_handlers_of_the_same_description_share_a_sink(self) -> None:
        """It ends with the last of them, after it has delivered everything."""
        first, second = SinkHandler(self.SPEC), SinkHandler(dict(self.SPEC))
        (sink,) = self.sinks()
        first.handle(logging.makeLogRecord({"msg": "one", "levelno": 20}))
        first.close()
        assert sink.get_status().value == "running"
        second.handle(logging.makeLogRecord({"msg": "two", "levelno": 20}))
        second.close()
        wait_until(lambda: sink.get_status().value == "stopped")
        assert [event.message for event in sink.events] == ["one", "two"]

    def test_received_message_after_logging_system_shutdown(self) -> None:
        """Field bug 17: a handler that is used after close() works again."""
        handler = SinkHandler(self.SPEC)
        handler.handle(logging.makeLogRecord({"msg": "one", "levelno": 20}))
        handler.close()
        handler.close()
        handler.handle(logging.makeLogRecord({"msg": "two", "levelno": 20}))
        handler.handle(logging.makeLogRecord({"msg": "three", "levelno": 20}))
        handler.flush()
        assert [event.message for sink in self.sinks() for event in sink.events] == ["one", "two", "three"]
        handler.close()
        wait_until(lambda: not self.running())

    def test_a_closed_handler_whose_sink_cannot_be_made_again(self, reports: list[SelfLogReport]) -> None:
        """Field bug 17: it says why not, and raises nothing."""
        spec: dict[str, Any] = dict(self.SPEC)
        handler = SinkHandler(spec)
        handler.close()
        handler._target._spec["class"] = "no.such.Sink"  # type: ignore[attr-defined]
        handler.handle(logging.makeLogRecord({"msg": "x", "levelno": 20}))
        assert [report.kind for report in reports] == ["handler"]
        assert "no.such.Sink" in str(reports[0].fields)

    def test_close_does_not_wait(self) -> None:
        """Field bug 1: the sink delivers in the background what it accepted, however long that takes."""
        spec = {**self.SPEC, "slow": 0.05}
        handler = SinkHandler(spec)
        for _ in range(10):
            handler.handle(logging.makeLogRecord({"msg": "x", "levelno": 20}))
        handler.close()
        (sink,) = self.sinks()
        assert sink.get_status().value == "stopping"
        assert len(sink.events) < 10
        wait_until(lambda: len(sink.events) == 10)

    def test_events_wait_for_a_sink_that_is_being_made(
        self, reports: list[SelfLogReport], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In order, up to a number; what is lost is told."""
        monkeypatch.setattr(handlers, "_MOST_EARLY_EVENTS", 5)
        with logging._lock:  # type: ignore[attr-defined]
            handler = SinkHandler(self.SPEC)
            for number in range(8):
                handler.handle(logging.makeLogRecord({"msg": str(number), "levelno": 20}))
            assert repr(handler) == "<SinkHandler sink (NOTSET)>"
        handler.flush()
        handler.handle(logging.makeLogRecord({"msg": "last", "levelno": 20}))
        handler.flush()
        assert [event.message for event in self.sinks()[0].events] == ["0", "1", "2", "3", "4", "last"]
        assert "too many" in reports[0].message
        handler.close()

    def test_an_event_that_waited_and_is_refused(self, reports: list[SelfLogReport]) -> None:
        """It is told, and the next ones are delivered."""
        with logging._lock:  # type: ignore[attr-defined]
            handler = SinkHandler({**self.SPEC, "queue_max_size": 1, "slow": 0.05})
            for number in range(5):
                handler.handle(logging.makeLogRecord({"msg": str(number), "levelno": 20}))
        handler.flush()
        delivered = len(self.sinks()[0].events)
        lost = sum(report.message == "an event was lost" for report in reports)
        assert delivered >= 1
        assert delivered + lost == 5
        handler.close()

    def test_closed_while_its_sink_is_being_made(self) -> None:
        """What it was given is delivered, and the sink is given back."""
        with logging._lock:  # type: ignore[attr-defined]
            handler = SinkHandler(self.SPEC)
            handler.handle(logging.makeLogRecord({"msg": "x", "levelno": 20}))
            handler.close()
        wait_until(lambda: self.sinks() and len(self.sinks()[0].events) == 1)
        wait_until(lambda: not self.running())

    def test_closed_in_the_middle_of_a_call(self) -> None:
        """The event goes to the sink that is made for it; nothing is raised."""
        Synchronous.made.clear()
        handler = SinkHandler({"class": f"{__name__}.Synchronous"})
        handler.handleError = None  # type: ignore[method-assign,assignment]
        Synchronous.handler_to_close.append(handler)
        handler.handle(logging.makeLogRecord({"msg": "x", "levelno": 20}))
        first, second = Synchronous.made
        assert first.events == ()
        assert [event.message for event in second.events] == ["x"]
        handler.close()

    def test_another_attempt_after_a_failure_waits(
        self, reports: list[SelfLogReport], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not every event pays for one; once it is time, the sink is made."""
        handler = SinkHandler({"class": f"{__name__}.Synchronous"})
        handler.close()
        spec = handler._target._spec  # type: ignore[attr-defined]
        right, spec["class"] = spec["class"], "no.such.Sink"
        record = logging.makeLogRecord({"msg": "x", "levelno": 20})
        handler.handle(record)
        spec["class"] = right
        handler.handle(record)
        assert handler._target.current() is None
        assert len(reports) == 1
        monkeypatch.setattr(handlers, "_RETRY_INTERVAL", 0.0)
        handler.handle(record)
        assert len(handler._target.current().events) == 1
        handler.close()

    def test_no_thread_can_be_started_any_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """At the end of the interpreter a handler is closed, and even made, without one."""

        def refuse(*args: object) -> None:
            raise RuntimeError("can't create new thread at interpreter shutdown")

        monkeypatch.setattr(handlers, "start_new_thread", refuse)
        spec = {"class": f"{__name__}.Synchronous"}
        with logging._lock:  # type: ignore[attr-defined]
            handler = SinkHandler(spec)
            handler.handle(logging.makeLogRecord({"msg": "x", "levelno": 20}))
            assert [event.message for event in handler._target.current().events] == ["x"]
            handler.close()
            assert handler._target.current() is None

    def test_a_handler_that_is_garbage_collected_gives_its_sink_back(self) -> None:
        """No close() is needed, also in a reference cycle."""
        handler = SinkHandler(self.SPEC)
        handler.handle(logging.makeLogRecord({"msg": "x", "levelno": 20}))
        handler.itself = handler  # type: ignore[attr-defined]
        reference = weakref.ref(handler)
        (sink,) = self.sinks()
        del handler
        gc.collect()
        assert reference() is None
        wait_until(lambda: sink.get_status().value == "stopped")
        assert len(sink.events) == 1

    def test_closing_and_using_it_from_many_threads(self) -> None:
        """Whoever closes it while others log: every accepted record arrives, and no sink is left behind."""
        handler = SinkHandler(self.SPEC)
        stop = threading.Event()
        errors: list[BaseException] = []
        handler.handleError = lambda record: errors.append(sys.exc_info()[1])  # type: ignore[method-assign,assignment,arg-type]

        def close() -> None:
            while not stop.is_set():
                handler.close()
                time.sleep(0.002)

        def log(number: int) -> None:
            for count in range(100):
                handler.handle(logging.makeLogRecord({"msg": f"{number}-{count}", "levelno": 20}))

        closer = threading.Thread(target=close)
        workers = [threading.Thread(target=log, args=(number,)) for number in range(4)]
        for thread in (closer, *workers):
            thread.start()
        for thread in workers:
            thread.join()
        stop.set()
        closer.join()
        handler.close()
        expected = sorted(f"{number}-{count}" for number in range(4) for count in range(100))
        wait_until(lambda: sum(len(sink.events) for sink in self.sinks()) >= 400 - len(errors))
        assert errors == []
        assert sorted(str(event.message) for sink in self.sinks() for event in sink.events) == expected
        wait_until(lambda: not self.running())

    def test_a_forked_child_logs(self) -> None:
        """Field bug 5: no logs from multiprocessing children."""
        run = run_python(
            """
            import logging, os, sys, mvx_logger
            class Sink(mvx_logger.AsyncioLogSink):
                @classmethod
                def build_descriptor(cls, **kwargs):
                    return mvx_logger.LogSinkDescriptor("printing", ())
                async def _dispatch_core(self, event):
                    os.write(1, f"{event.message} {event.origin.process_id == os.getpid()}\\n".encode())
            handler = mvx_logger.SinkHandler({"class": Sink})
            logger = logging.getLogger("app")
            logger.addHandler(handler)
            logger.warning("parent")
            handler.flush()
            pid = os.fork()
            logger.warning("child" if pid == 0 else "parent again")
            handler.flush()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            """
        )
        assert sorted(run.stdout.splitlines()) == ["child True", "parent True", "parent again True"]

    def test_a_script_that_ends_at_once_loses_nothing(self) -> None:
        """Field bug 7: also after an unhandled exception."""
        for ending, code in (("", 0), ("raise SystemExit(3)", 3), ("raise ValueError('x')", 1)):
            run = run_python(
                f"""
                import logging, os, time, mvx_logger
                class Sink(mvx_logger.AsyncioLogSink):
                    @classmethod
                    def build_descriptor(cls, **kwargs):
                        return mvx_logger.LogSinkDescriptor("printing", ())
                    async def _dispatch_core(self, event):
                        time.sleep(0.001)
                        os.write(1, b".")
                logging.getLogger().addHandler(mvx_logger.SinkHandler({{"class": Sink}}))
                for _ in range(200):
                    logging.getLogger("app").warning("x")
                {ending}
                """,
                returncode=code,
            )
            assert run.stdout == "." * 200, run.stderr

    def test_the_process_ends_although_the_destination_hangs(self) -> None:
        """Field bug 8: the handler's own flush at the end does not add to the sink's deadline."""
        started = time.monotonic()
        run_python(
            """
            import asyncio, logging, mvx_logger
            class Sink(mvx_logger.AsyncioLogSink):
                @classmethod
                def build_descriptor(cls, **kwargs):
                    return mvx_logger.LogSinkDescriptor("hanging", ())
                async def _dispatch_core(self, event):
                    await asyncio.sleep(3600)
            for _ in range(5):
                logging.getLogger().addHandler(
                    mvx_logger.SinkHandler({"class": Sink, "shutdown_timeout": 0.2}, flush_timeout=30)
                )
            logging.getLogger("app").warning("x")
            """,
            timeout=25,
        )
        assert time.monotonic() - started < 25


class TestPlainOptions:
    def test_a_configuration_loses_the_types_of_dictconfig(self) -> None:
        """ext:// and cfg:// are resolved wherever they stand."""
        from logging.config import DictConfigurator

        config: Any = DictConfigurator(
            {"version": 1, "limit": 7, "x": {"a": ["cfg://limit", {"b": "ext://sys.stderr"}], "t": (1,)}}
        )
        plain = plain_options(config.config["x"])
        assert plain == {"a": [7, {"b": sys.stderr}], "t": (1,)}
        assert type(plain) is dict
        assert type(plain["a"]) is list
        assert type(plain["a"][1]) is dict
        assert type(plain["t"]) is tuple


class TestOverload:
    """More records than a sink's queue holds."""

    @pytest.fixture
    def full_sink(self):
        """A sink that has no room left and delivers nothing."""
        from mvx_logger import AsyncioLogSink

        taken = threading.Event()

        class Frozen(AsyncioLogSink):
            async def _dispatch_core(self, event):
                taken.set()
                await asyncio.Event().wait()

        sink, close = Frozen.create(queue_max_size=1, shutdown_timeout=0)
        sink.log(make_filler())
        assert taken.wait(10)
        sink.log(make_filler())
        yield SinkHandler(sink), sink
        close()

    def test_a_full_queue_is_told_in_one_line_not_in_a_traceback_for_each_record(self, full_sink, capfd):
        """Every refused record is counted; stderr gets one line."""
        handler, sink = full_sink
        for _ in range(100):
            handler.handle(logging.makeLogRecord({"msg": "m", "levelno": 20}))
        assert sink.stats().rejected["queue_full"] == 100
        lines = [line for line in capfd.readouterr().err.splitlines() if line]
        assert len(lines) == 1
        assert "overflow" in lines[0]
        assert "Traceback" not in lines[0]

    def test_raise_exceptions_switches_it_off(self, full_sink, capfd, monkeypatch):
        """`logging.raiseExceptions = False` is silence, as for other handlers."""
        handler, _ = full_sink
        monkeypatch.setattr(logging, "raiseExceptions", False)
        handler.handle(logging.makeLogRecord({"msg": "m", "levelno": 20}))
        assert capfd.readouterr().err == ""

    def test_a_handle_error_of_ones_own_hears_of_each(self, full_sink):
        """Who overrides ``handleError`` gets every record."""
        _, sink = full_sink
        lost = []

        class Own(SinkHandler):
            def handleError(self, record):
                lost.append(record.getMessage())

        handler = Own(sink)
        for number in range(3):
            handler.handle(logging.makeLogRecord({"msg": f"m{number}", "levelno": 20}))
        assert lost == ["m0", "m1", "m2"]


def make_filler():
    from mvx_logger import LogEvent, LogEventMeta

    return LogEvent(20, LogEventMeta(None, "filler"), None, 0.0, {})


class TestUnfinished:
    @pytest.mark.parametrize(
        ("code", "error"),
        [
            ("mvx_logger.SinkHandler({'class': 'no.such.Sink'})", "LogConfigurationError"),
            ("mvx_logger.SinkHandler('nobody')", "LogSinkNotFoundError"),
            ("mvx_logger.SinkHandler('memory:', flush_timeout='x')", "LogConfigurationError"),
            ("mvx_logger.LogContextHandler(5)", "TypeError"),
            ("mvx_logger.LogContextHandler(event_name='x')", "LogConfigurationError"),
        ],
    )
    def test_handler_that_could_not_be_made_does_not_come_back_at_exit(self, code: str, error: str) -> None:
        """`logging.shutdown` knows it, and finds nothing to complain about."""
        done = run_python(f"import mvx_logger\n{code}", returncode=1)
        assert "AttributeError" not in done.stderr
        assert error in done.stderr.splitlines()[-1]
