"""Tests of `mvx_logger.bridge.handler_sinks`."""

from __future__ import annotations

import io
import json
import logging
import logging.handlers
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from pythonjsonlogger.json import JsonFormatter

import mvx_logger
from mvx_logger import (
    AsyncHandlerSink,
    EventLogRecord,
    HandlerSink,
    LogConfigurationError,
    LogContext,
    LogContextHandler,
    LogEvent,
    LogEventMeta,
    LoggerSink,
    LogPayloadProcessor,
    LogSinkDescriptorBuildError,
    MemoryLogSink,
    SinkHandler,
    selflog,
)
from mvx_logger.bridge import handlers
from mvx_logger.bridge.config import resolve_sink
from mvx_logger.bridge.records import record_to_event
from mvx_logger.selflog import SelfLogReport
from waiting import wait_until


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    """Loggers, contexts and sinks are as they were, after every test."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    logging.disable(logging.NOTSET)
    for name in ("audit", "audit.trail", "audit.fresh", "first", "second", "target"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
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


def take_root(*handlers: logging.Handler) -> logging.Logger:
    """Let the root logger have these handlers only."""
    root = logging.getLogger()
    root.setLevel(1)
    root.handlers[:] = handlers
    return root


def native(name: str = "order.created", level: int = 20, **fields: Any) -> LogEvent:
    return LogEvent(level, LogEventMeta("shop", name), None, 1_700_000_000.0, fields)


class Recording(logging.Handler):
    """Keeps its records, as pytest's caplog does."""

    def __init__(self, level: int = 0) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []
        self.flushed = 0
        self.closed = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        self.closed += 1
        super().close()

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]


class Broken(Recording):
    """Breaks the contract: its handle() raises, and so do flush() and close()."""

    def handle(self, record: logging.LogRecord) -> bool:
        raise ValueError("no")

    def flush(self) -> None:
        raise ValueError("no")

    def close(self) -> None:
        raise ValueError("no")


@pytest.fixture(params=["HandlerSink", "AsyncHandlerSink"])
def make_sink(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes a sink of either kind."""
    made: list[Any] = []

    def make(handler: Any) -> Any:
        sink_cls: Any = getattr(mvx_logger, request.param)
        sink, close = sink_cls.create(handler=handler)
        made.append(close)
        return sink

    yield make
    for close in made:
        close()


class TestBothHandlerSinks:
    def test_an_event_reaches_the_handler_as_a_record(self, make_sink: Callable[..., Any]) -> None:
        """With name, level, message and payload."""
        handler = Recording()
        sink = make_sink(handler)
        sink.log(native(total=3))
        assert sink.flush(20)
        (record,) = handler.records
        assert (record.name, record.levelname) == ("shop", "INFO")
        assert record.getMessage() == "shop.order.created {'total': 3}"
        assert record.total == 3  # type: ignore[attr-defined]

    def test_the_level_and_the_filters_of_the_handler_count(self, make_sink: Callable[..., Any]) -> None:
        """As they do behind a logger."""
        handler = Recording(level=30)
        handler.addFilter(lambda record: "no" not in record.getMessage())
        sink = make_sink(handler)
        for event in (native("a", 20), native("b", 30), native("no", 40)):
            sink.log(event)
        assert sink.flush(20)
        assert handler.messages == ["shop.b"]

    def test_errors_go_where_the_handler_sends_them(
        self, make_sink: Callable[..., Any], reports: list[SelfLogReport]
    ) -> None:
        """A handler's handleError is its own."""
        seen: list[str] = []

        class Failing(Recording):
            def emit(self, record: logging.LogRecord) -> None:
                try:
                    raise ValueError("no")
                except ValueError:
                    self.handleError(record)

            def handleError(self, record: logging.LogRecord) -> None:
                seen.append(record.getMessage())

        sink = make_sink(Failing())
        sink.log(native())
        assert sink.flush(20)
        assert seen == ["shop.order.created"]
        assert sink.stats().delivered == 1
        assert reports == []

    def test_a_handler_that_breaks_the_contract(self, make_sink: Callable[..., Any], capsys: Any) -> None:
        """What it raises is final for that event: counted, and told to whoever logs or to selflog."""
        sink = make_sink(Broken())
        context = LogContext(log_sink=sink, payload_processor=LogPayloadProcessor())
        context.log_info_event("x")
        sink.flush(20)
        wait_until(lambda: sink.stats().dropped)
        assert sink.stats().dropped == {"refused" if isinstance(sink, AsyncHandlerSink) else "error": 1}
        assert sink.stats().delivered == 0
        sink.close()

    def test_a_handler_that_was_given_stays_its_owners(self, make_sink: Callable[..., Any]) -> None:
        """It is flushed, not closed."""
        handler = Recording()
        sink = make_sink(handler)
        sink.log(native())
        sink.close()
        sink.close()
        assert handler.messages == ["shop.order.created"]
        assert handler.flushed
        assert not handler.closed

    def test_a_handler_that_was_described_is_closed_with_the_sink(
        self, make_sink: Callable[..., Any], tmp_path: Path
    ) -> None:
        """A mapping in dictConfig's syntax: class, options, level, formatter and filters in place."""
        path = tmp_path / "app.log"
        sink = make_sink(
            {
                "class": "logging.handlers.RotatingFileHandler",
                "filename": str(path),
                "maxBytes": 100,
                "backupCount": 3,
                "level": "INFO",
                "formatter": "%(levelname)s|%(message)s",
                "filters": ["shop"],
            }
        )
        handler = sink.handler
        sink.log(LogEvent(20, LogEventMeta("other", "x"), None, 1.0, {}))
        sink.log(native(level=10))
        for number in range(10):
            sink.log(native(number=number))
        sink.flush(20)
        sink.close()
        wait_until(lambda: handler.stream is None)
        written = "".join(file.read_text() for file in sorted(tmp_path.iterdir(), reverse=True))
        assert len(list(tmp_path.iterdir())) == 4
        assert "other" not in written
        assert written.endswith("INFO|shop.order.created {'number': 9}\n")

    def test_a_factory_and_a_formatter_mapping(self, make_sink: Callable[..., Any]) -> None:
        """\"()\" as in dictConfig; the formatter as one of its mappings; filters as mappings and objects."""
        sink = make_sink(
            {
                "()": f"{__name__}.Recording",
                "formatter": {"()": "pythonjsonlogger.json.JsonFormatter", "fmt": "%(message)s"},
                "filters": [{"name": "shop"}, lambda record: True],
                "level": 10,
            }
        )
        handler = sink.handler
        assert type(handler).__name__ == "Recording"
        assert isinstance(handler.formatter, JsonFormatter)
        assert handler.level == 10
        assert len(handler.filters) == 2

    @pytest.mark.parametrize("style", ["%(message)s!", "{message}!", "${message}!", "$message!"])
    def test_a_format_string_of_any_style(self, make_sink: Callable[..., Any], style: str) -> None:
        """The style is seen from the format."""
        stream = io.StringIO()
        sink = make_sink({"class": "logging.StreamHandler", "stream": stream, "formatter": style})
        sink.log(native())
        sink.flush(20)
        assert stream.getvalue() == "shop.order.created!\n"

    def test_a_formatter_object(self, make_sink: Callable[..., Any]) -> None:
        """What can format is a formatter."""
        formatter = logging.Formatter("%(message)s")
        assert make_sink({"class": "logging.NullHandler", "formatter": formatter}).handler.formatter is formatter

    def test_a_memory_handler_with_a_target(self, make_sink: Callable[..., Any]) -> None:
        """Its target is a handler described in place."""
        sink = make_sink(
            {
                "class": "logging.handlers.MemoryHandler",
                "capacity": 10,
                "target": {"()": f"{__name__}.Recording"},
            }
        )
        target = sink.handler.target
        sink.log(native("one"))
        sink.log(native("two", 40))
        wait_until(lambda: target.messages == ["shop.one", "shop.two"])

    @pytest.mark.parametrize(
        ("spec", "path"),
        [
            ({"filename": "x"}, "handler"),
            ({"class": "logging.NoSuchHandler"}, "handler"),
            ({"class": "logging.StreamHandler", "nope": 1}, "handler"),
            ({"class": "logging.FileHandler", "filename": "/no/such/dir/x.log"}, "handler"),
            ({"class": "logging.NullHandler", "level": "LOUD"}, "handler.level"),
            ({"class": "logging.NullHandler", "formatter": "no format"}, "handler.formatter"),
            ({"class": "logging.NullHandler", "formatter": 7}, "handler.formatter"),
            ({"class": "logging.NullHandler", "formatter": {"style": "banana"}}, "handler.formatter"),
            ({"class": "logging.NullHandler", "filters": [7]}, "handler.filters"),
            ({"()": "builtins.dict"}, "handler"),
            ({"class": "logging.handlers.MemoryHandler", "capacity": 1, "target": {"x": 1}}, "handler.target"),
        ],
    )
    def test_a_wrong_description(self, make_sink: Callable[..., Any], spec: dict[str, Any], path: str) -> None:
        """The error names the place."""
        with pytest.raises(LogConfigurationError) as caught:
            make_sink(spec)
        assert caught.value.details["path"] == path
        assert str(caught.value).startswith(path)

    @pytest.mark.parametrize("handler", [None, 7, logging.StreamHandler, "logging.StreamHandler"])
    def test_what_is_no_handler(self, make_sink: Callable[..., Any], handler: Any) -> None:
        """The error says what is expected."""
        with pytest.raises((TypeError, LogConfigurationError), match="handler"):
            make_sink(handler)

    @pytest.mark.parametrize("handler", [None, 7])
    def test_a_descriptor_of_what_is_no_handler(self, make_sink: Callable[..., Any], handler: Any) -> None:
        """The same, before anything is made."""
        kind = type(make_sink(Recording()))
        with pytest.raises((TypeError, LogConfigurationError), match="handler"):
            kind.build_descriptor(handler=handler)

    def test_records_are_not_shared_between_handlers(self, make_sink: Callable[..., Any]) -> None:
        """Each delivery makes a record of its own: what a handler does to it, no one else sees."""
        handler = Recording()
        sink = make_sink(handler)
        event = native(user="alice")
        sink.log(event)
        sink.flush(20)
        handler.records[0].user = "changed"  # type: ignore[attr-defined]
        sink.log(event)
        sink.flush(20)
        assert handler.records[1].user == "alice"  # type: ignore[attr-defined]

    def test_a_queue_handler_as_the_target(self, make_sink: Callable[..., Any]) -> None:
        """The event survives QueueHandler.prepare() with its arguments and its exception."""
        records: queue.Queue[Any] = queue.Queue()
        sink = make_sink(logging.handlers.QueueHandler(records))
        source = logging.Logger("shop")
        source.addHandler(SinkHandler(sink))
        try:
            raise ValueError("no stock")
        except ValueError:
            source.exception("order %s", "o-1", extra={"user": "alice"})
        sink.flush(20)
        event = record_to_event(records.get(timeout=20))
        assert event.message == "order o-1"
        assert event.origin is not None
        assert event.origin.args == ("o-1",)
        assert event.exception is not None
        assert event.exception.message == "no stock"
        assert event.payload == {"user": "alice"}

    def test_structlogs_processor_formatter_on_the_handler(self, make_sink: Callable[..., Any]) -> None:
        """Events of the standard library, of structlog and native ones, through one chain of processors."""
        from mvx_logger.bridge.structlog import EventDictFromRecord

        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=[EventDictFromRecord()],
                processors=[
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    structlog.processors.JSONRenderer(),
                ],
            )
        )
        sink = make_sink(handler)
        source = logging.Logger("shop")
        source.addHandler(SinkHandler(sink))
        source.warning("order %s", "o-1", extra={"user": "alice"})
        log = structlog.wrap_logger(
            source,
            processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
            wrapper_class=structlog.stdlib.BoundLogger,
        )
        log.info("user.login", user="bob")
        sink.log(native(user="carol"))
        sink.flush(20)
        lines = [json.loads(line) for line in stream.getvalue().splitlines()]
        assert [line["user"] for line in lines] == ["alice", "bob", "carol"]
        assert "order o-1" in lines[0]["event"]
        assert "user.login" in lines[1]["event"]

    def test_python_json_logger_on_the_handler(self, make_sink: Callable[..., Any]) -> None:
        """Message, payload and exception, and no key that is not the event's."""
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(JsonFormatter("%(levelname)s %(message)s"))
        sink = make_sink(handler)
        source = logging.Logger("shop")
        source.addHandler(SinkHandler(sink))
        try:
            raise ValueError("no stock")
        except ValueError:
            source.exception("order %s", "o-1", extra={"user": {"name": "alice"}})
        sink.flush(20)
        written = json.loads(stream.getvalue())
        assert "ValueError: no stock" in written.pop("exc_info")
        assert written == {"levelname": "ERROR", "message": "order o-1", "user": {"name": "alice"}}

    def test_what_the_handler_itself_logs_does_not_come_back(self, make_sink: Callable[..., Any]) -> None:
        """Field bug 3: a vendor's handler with an HTTP client that logs."""

        class Vendor(Recording):
            def emit(self, record: logging.LogRecord) -> None:
                logging.getLogger("urllib3").debug("POST")
                super().emit(record)

        handler = Vendor()
        sink = make_sink(handler)
        take_root(SinkHandler(sink))
        for number in range(10):
            logging.getLogger("app").info("%d", number)
        sink.flush(20)
        assert handler.messages == [str(number) for number in range(10)]

    def test_the_same_description_is_the_same_sink(self, make_sink: Callable[..., Any], tmp_path: Path) -> None:
        """Descriptors compare by what is described, and hide what might be a secret."""
        kind = type(make_sink(Recording()))
        spec = {"class": "logging.handlers.HTTPHandler", "host": "h", "url": "/", "credentials": ("me", "hunter2")}
        one = kind.build_descriptor(handler=spec)
        assert one == kind.build_descriptor(handler=dict(reversed(spec.items())))
        assert one != kind.build_descriptor(handler={**spec, "url": "/x"})
        assert "hunter2" not in repr(one.to_log_payload())
        assert "HTTPHandler" in repr(one.to_log_payload())
        handler = Recording()
        assert kind.build_descriptor(handler=handler) == kind.build_descriptor(handler=handler)
        assert kind.build_descriptor(handler=handler) != kind.build_descriptor(handler=Recording())
        assert "Recording" in repr(kind.build_descriptor(handler={"()": Recording}))

    def test_they_can_be_registered_and_leased(self, make_sink: Callable[..., Any], tmp_path: Path) -> None:
        """By name, and as a specification inside of another."""
        name = type(make_sink(Recording())).__name__
        spec = {"class": f"mvx_logger.{name}", "handler": {"()": f"{__name__}.Recording"}}
        one, two = resolve_sink(spec), resolve_sink(dict(spec))
        assert one.sink is two.sink
        handler = one.sink.handler
        one.release()
        assert not handler.closed
        two.release()
        wait_until(lambda: handler.closed)
        registered = mvx_logger.configure_log_sink(
            name="vendor", sink_cls=getattr(mvx_logger, name), handler={"()": f"{__name__}.Recording"}
        )
        assert mvx_logger.get_log_sink("vendor") is registered
        with pytest.raises(LogSinkDescriptorBuildError, match="NoSuchHandler"):
            mvx_logger.configure_log_sink(
                name="broken", sink_cls=getattr(mvx_logger, name), handler={"class": "logging.NoSuchHandler"}
            )


class TestHandlerSink:
    def test_it_delivers_at_once(self) -> None:
        """In the thread that logs."""
        handler = Recording()
        sink = HandlerSink(handler)
        sink.log(native())
        assert handler.records[0].thread == threading.get_ident()
        assert sink.handler is handler
        assert repr(sink) == "<HandlerSink Recording>"

    def test_what_its_handler_raises_reaches_the_caller(self) -> None:
        """A handler that raises out of handle() means to: pytest's does."""
        with pytest.raises(ValueError, match="no"):
            HandlerSink(Broken()).log(native())

    def test_flush_and_close_of_a_broken_handler(self, reports: list[SelfLogReport]) -> None:
        """They do not raise; it is told."""
        sink = HandlerSink({"()": f"{__name__}.Broken"})
        assert sink.flush()
        sink.close()
        assert [report.kind for report in reports] == ["flush", "flush", "close"]

    def test_a_live_exception_stays_alive(self) -> None:
        """A vendor's handler behind a synchronous sink gets the exception itself, not only its text."""
        handler = Recording()
        sink = HandlerSink(handler)
        context = LogContext(log_sink=sink, payload_processor=LogPayloadProcessor())
        source = logging.Logger("shop")
        source.addHandler(SinkHandler(sink))
        source.addHandler(LogContextHandler(context))
        error = ValueError("no stock")
        try:
            raise error
        except ValueError:
            source.exception("failed")
        sink.log(native())
        for record in handler.records[:2]:
            assert record.exc_info is not None
            assert record.exc_info[1] is error
            assert record.exc_text is not None
        assert handler.records[2].exc_info is None

    def test_refused_while_the_logger_is_at_work(self, reports: list[SelfLogReport]) -> None:
        """A native event that a handler's own code emits does not come back."""
        sinks: list[HandlerSink] = []

        class Native(Recording):
            def emit(self, record: logging.LogRecord) -> None:
                super().emit(record)
                sinks[0].log(native("inner"))

        handler = Native()
        sinks.append(HandlerSink(handler))
        sinks[0].log(native("outer"))
        assert handler.messages == ["shop.outer"]
        assert sinks[0].stats().rejected == {"recursion": 1}
        assert [report.kind for report in reports] == ["recursion"]

    def test_closing_under_the_module_lock_does_not_hang(self) -> None:
        """Field bug 1: a handler whose flush waits for a thread that logs is ended in the background."""

        class Waiting(Recording):
            def flush(self) -> None:
                thread = threading.Thread(target=lambda: logging.getLogger("client.new").debug("x"))
                thread.start()
                thread.join()
                super().flush()

        made: list[Waiting] = []

        def make() -> Waiting:
            made.append(Waiting())
            return made[0]

        sink = HandlerSink({"()": make})
        with logging._lock:  # type: ignore[attr-defined]
            sink.close()
        wait_until(lambda: made[0].closed)

    def test_closing_when_no_thread_can_be_started_any_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """At the end of the interpreter it is done right there."""

        def refuse(*args: object) -> None:
            raise RuntimeError("can't create new thread at interpreter shutdown")

        monkeypatch.setattr(handlers, "start_new_thread", refuse)
        sink = HandlerSink({"()": f"{__name__}.Recording"})
        handler: Any = sink.handler
        with logging._lock:  # type: ignore[attr-defined]
            sink.close()
        assert handler.closed == 1

    def test_caplog_as_a_target(self, caplog: pytest.LogCaptureFixture) -> None:
        """pytest's capturing handler sees native events."""
        sink = HandlerSink(caplog.handler)
        context = LogContext(namespace="shop", log_sink=sink, payload_processor=LogPayloadProcessor())
        context.log_warning_event("order.lost", {"order": "o-1"})
        assert caplog.records[0].levelname == "WARNING"
        assert "order.lost" in caplog.text
        assert caplog.record_tuples == [("shop", 30, "shop.order.lost {'order': 'o-1'}")]


class TestAsyncHandlerSink:
    def test_a_slow_handler_does_not_hold_the_caller(self) -> None:
        """An SMTPHandler-like handler works on the sink's own thread, in order."""
        go_on = threading.Event()

        class Slow(Recording):
            def emit(self, record: logging.LogRecord) -> None:
                go_on.wait(20)
                super().emit(record)

        handler = Slow()
        sink, close = AsyncHandlerSink.create(handler=handler)
        for number in range(5):
            sink.log(native(str(number)))
        assert handler.records == []
        go_on.set()
        assert sink.flush(20)
        assert handler.messages == [f"shop.{number}" for number in range(5)]
        assert handler.records[0].threadName == ""
        close()

    @pytest.mark.parametrize("trouble", [ConnectionResetError("reset"), TimeoutError("late"), EOFError("gone")])
    def test_a_handler_whose_server_is_away_gets_the_event_again(self, trouble: Exception) -> None:
        """Nothing is lost, and the order stays."""
        failures = 3

        class Away(Recording):
            def handle(self, record: logging.LogRecord) -> bool:
                nonlocal failures
                if failures:
                    failures -= 1
                    raise trouble
                self.emit(record)
                return True

        handler = Away()
        sink, close = AsyncHandlerSink.create(handler=handler, retry_delay=0.001)
        for number in range(3):
            sink.log(native(str(number)))
        assert sink.flush(20)
        assert handler.messages == ["shop.0", "shop.1", "shop.2"]
        assert (sink.stats().dropped, sink.stats().retries) == ({}, 3)
        close()

    def test_a_record_that_a_handler_refuses_does_not_hold_the_others(self) -> None:
        """One event is given up at once, by one attempt; it goes to the dead letters."""
        letters = MemoryLogSink()

        class Picky(Recording):
            def handle(self, record: logging.LogRecord) -> bool:
                self.emit(record)
                if record.getMessage() == "shop.bad":
                    raise KeyError("bad")
                return True

        handler = Picky()
        sink, close = AsyncHandlerSink.create(handler=handler, dead_letter=letters)
        for name in ("one", "bad", "two"):
            sink.log(native(name))
        wait_until(lambda: not sink.stats().pending)
        assert handler.messages == ["shop.one", "shop.bad", "shop.two"]
        assert (sink.stats().delivered, sink.stats().dead_lettered, sink.stats().dropped) == (2, 1, {})
        assert len(letters.events) == 1
        close()

    async def test_on_the_loop_of_the_application(self) -> None:
        """Constructed in a coroutine, it blocks an executor's thread, not the loop."""
        seen: list[int] = []

        class Handler(Recording):
            def emit(self, record: logging.LogRecord) -> None:
                seen.append(threading.get_ident())

        sink = AsyncHandlerSink(Handler())
        sink.log(native())
        await sink.stop()
        assert seen
        assert seen[0] != threading.get_ident()

    def test_a_described_handler_is_made_anew_when_the_sink_starts_again(self, tmp_path: Path) -> None:
        """stop() closes it, start() opens another one."""
        path = tmp_path / "app.log"
        sink, close = AsyncHandlerSink.create(handler={"class": "logging.FileHandler", "filename": str(path)})
        first = sink.handler
        sink.log(native("one"))
        assert sink.stop().wait(20).success
        assert sink.start().wait(20).success
        sink.log(native("two"))
        assert sink.flush(20)
        assert sink.handler is not first
        assert path.read_text() == "shop.one\nshop.two\n"
        close()

    def test_a_described_handler_is_made_anew_in_a_forked_child(self, tmp_path: Path) -> None:
        """Connections and locks of the parent are not used there."""
        path = tmp_path / "app.log"
        sink, close = AsyncHandlerSink.create(
            handler={"class": "logging.FileHandler", "filename": str(path), "formatter": "%(process)d %(message)s"}
        )
        parent = sink.handler
        sink.log(native("parent"))
        assert sink.flush(20)
        pid = os.fork()
        if pid == 0:
            try:
                sink.log(native("child"))
                sink.flush(20)
                os._exit(0 if sink.handler is not parent else 3)
            finally:
                os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert path.read_text().splitlines() == [f"{os.getpid()} shop.parent", f"{pid} shop.child"]
        close()

    def test_options_of_the_base(self) -> None:
        """They are spelled as everywhere."""
        lease = resolve_sink(
            {"class": "mvx_logger.AsyncHandlerSink", "handler": {"class": "logging.NullHandler"}, "queue_max_size": 3}
        )
        assert lease.sink._AsyncioLogSink__max_size == 3
        lease.release()
        with pytest.raises(LogConfigurationError, match="queue_max"):
            resolve_sink({"class": "mvx_logger.AsyncHandlerSink", "handler": logging.NullHandler(), "queue_max": 3})


class TestLoggerSink:
    def test_into_a_logger_and_whatever_it_propagates_to(self) -> None:
        """Its handlers and those of its parents, with the event's own name."""
        own, parent = Recording(), Recording()
        logging.getLogger("audit.trail").addHandler(own)
        logging.getLogger("audit").addHandler(parent)
        sink = LoggerSink("audit.trail")
        sink.log(native(level=40))
        assert own.records[0] is parent.records[0]
        assert own.records[0].name == "shop"
        assert repr(sink) == "<LoggerSink audit.trail>"
        assert sink.flush()
        sink.close()

    def test_the_loggers_own_decisions_count(self) -> None:
        """Its effective level, disabled, filters, propagate, and logging.disable."""
        handler = Recording()
        logger = logging.getLogger("audit")
        logger.addHandler(handler)
        logger.propagate = False
        logging.getLogger().setLevel(30)
        sink = LoggerSink("audit")
        sink.log(native("below the effective level", 20))
        logger.setLevel(10)
        sink.log(native("one", 20))
        logger.disabled = True
        sink.log(native("disabled", 50))
        logger.disabled = False
        logging.disable(40)
        sink.log(native("logging.disable", 40))
        sink.log(native("two", 50))
        logging.disable(0)
        logger.addFilter(lambda record: False)
        sink.log(native("filtered", 50))
        logger.filters.clear()
        assert handler.messages == ["shop.one", "shop.two"]

    @pytest.mark.parametrize("name", ["", "root"])
    def test_the_root_logger(self, name: str) -> None:
        """By either name."""
        assert LoggerSink(name).logger is logging.getLogger()

    def test_a_logger_class_with_an_isenabledfor_of_its_own(self) -> None:
        """It is asked."""

        class Choosy(logging.Logger):
            def isEnabledFor(self, level: int) -> bool:
                return level == 25

        handler = Recording()
        sink = LoggerSink("x")
        sink._logger = Choosy("x")
        sink._logger.addHandler(handler)
        for level in (20, 25, 50):
            sink.log(native(str(level), level))
        assert handler.messages == ["shop.25"]

    def test_it_never_takes_the_module_lock(self) -> None:
        """Field bug 2: it may be called under the lock of a handler, while dictConfig holds the module lock."""
        handler = Recording()
        logger = logging.getLogger("audit.fresh")
        logger.addHandler(handler)
        sink = LoggerSink("audit.fresh")
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with logging._lock:  # type: ignore[attr-defined]
                logging.getLogger().manager._clear_cache()  # type: ignore[attr-defined]
                held.set()
                done.wait(20)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(20)
        sink.log(native(level=50))
        done.set()
        thread.join()
        assert len(handler.records) == 1

    def test_options(self) -> None:
        """By keyword, by mapping; a wrong type is an error."""
        assert LoggerSink.build_descriptor(name="") == LoggerSink.build_descriptor(name="root")
        assert resolve_sink({"class": "mvx_logger.LoggerSink", "name": "audit"}).sink.logger.name == "audit"
        with pytest.raises(TypeError):
            LoggerSink(7)  # type: ignore[arg-type]
        with pytest.raises(LogConfigurationError):
            resolve_sink({"class": "mvx_logger.LoggerSink", "name": 7})


class TestCycles:
    def test_a_logger_that_leads_to_itself(self, reports: list[SelfLogReport]) -> None:
        """Each event is delivered once, and the cycle is reported once."""
        handler, memory = Recording(), MemoryLogSink()
        logging.getLogger("audit").addHandler(handler)
        sink = LoggerSink("audit")
        take_root(SinkHandler(sink))
        for number in range(20):
            logging.getLogger("shop").info("%d", number)
        assert handler.messages == [str(number) for number in range(20)]
        assert [report.kind for report in reports] == ["cycle"]
        assert sink.stats().rejected == {"cycle": 20}
        assert memory.events == ()

    def test_a_context_in_the_cycle(self, reports: list[SelfLogReport]) -> None:
        """Native events and records of the standard library alike."""
        handler = Recording()
        audit = logging.getLogger("audit")
        audit.propagate = False
        audit.setLevel(1)
        context = LogContext(namespace="shop", log_sink=LoggerSink("audit"), payload_processor=LogPayloadProcessor())
        audit.handlers[:] = [handler, LogContextHandler(context)]
        context.log_info_event("order.created")
        audit.info("plain")
        assert handler.messages == ["shop.order.created", "plain", "plain"]
        assert [report.kind for report in reports] == ["cycle"]

    def test_across_the_queues_of_two_asynchronous_sinks(self, reports: list[SelfLogReport]) -> None:
        """A -> logger 1 -> SinkHandler(B) -> logger 2 -> SinkHandler(A): it ends, each delivered once at each."""
        first, second = logging.getLogger("first"), logging.getLogger("second")
        for logger in (first, second):
            logger.propagate = False
            logger.setLevel(1)

        class Into(logging.Handler):
            def __init__(self, logger: logging.Logger) -> None:
                super().__init__()
                self.logger = logger

            def emit(self, record: logging.LogRecord) -> None:
                self.logger.handle(record)

        sink_a, close_a = AsyncHandlerSink.create(handler=Into(first))
        sink_b, close_b = AsyncHandlerSink.create(handler=Into(second))
        seen_first, seen_second = Recording(), Recording()
        first.handlers[:] = [seen_first, SinkHandler(sink_b)]
        second.handlers[:] = [seen_second, SinkHandler(sink_a)]
        for number in range(20):
            sink_a.log(native(str(number)))
        for _ in range(3):
            assert sink_a.flush(20)
            assert sink_b.flush(20)
        expected = [f"shop.{number}" for number in range(20)]
        assert seen_first.messages == expected
        assert seen_second.messages == expected
        assert [report.kind for report in reports] == ["cycle"]
        assert sink_a.stats().rejected == {"cycle": 20}
        assert [type(record) for record in seen_second.records] == [EventLogRecord] * 20
        origin = seen_second.records[0].mvx_event.origin  # type: ignore[attr-defined]
        assert origin.via == (sink_a.hop_id, sink_b.hop_id)
        close_a()
        close_b()

    def test_through_a_stock_queue(self, reports: list[SelfLogReport]) -> None:
        """QueueHandler and QueueListener in the cycle: the hops go with the record."""
        records: queue.Queue[Any] = queue.Queue()
        sink = HandlerSink(logging.handlers.QueueHandler(records))
        memory = MemoryLogSink()
        listener = logging.handlers.QueueListener(records, SinkHandler(memory), SinkHandler(sink))
        listener.start()
        sink.log(native())
        wait_until(lambda: reports)
        listener.stop()
        assert len(memory.events) == 1
        assert [report.kind for report in reports] == ["cycle"]

    def test_a_forwarded_record_passes_on_to_another_sink(self, reports: list[SelfLogReport]) -> None:
        """That it is forwarded in the middle of a delivery is no recursion."""
        memory = MemoryLogSink()
        audit = logging.getLogger("audit")
        audit.propagate = False
        audit.addHandler(SinkHandler(memory))
        audit.addHandler(LogContextHandler(LogContext(log_sink=memory, payload_processor=LogPayloadProcessor())))
        source = logging.Logger("shop")
        source.addHandler(SinkHandler(LoggerSink("audit")))
        source.error("order %s", "o-1", extra={"user": "alice"})
        assert [(event.message, event.payload) for event in memory.events] == [("order o-1", {"user": "alice"})] * 2
        assert reports == []

    def test_a_child_process_is_another_hop(self) -> None:
        """What a forked child sends to its parent through the same sink is no cycle."""
        sink = LoggerSink("audit")
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(write, sink.hop_id.encode())
            os._exit(0)
        os.waitpid(pid, 0)
        os.close(write)
        assert os.read(read, 200).decode() != sink.hop_id
        os.close(read)
        assert sink.hop_id != LoggerSink("audit").hop_id


class TestAllSinksOnTheRootLogger:
    def test_what_arrives_is_what_the_application_logged(self, tmp_path: Path) -> None:
        """Field bug 3, with handlers behind the sinks that log themselves."""

        class Vendor(Recording):
            def emit(self, record: logging.LogRecord) -> None:
                logging.getLogger("vendor").debug("POST")
                super().emit(record)

        vendors = [Vendor(), Vendor(), Vendor()]
        logging.getLogger("target").addHandler(vendors[2])
        logging.getLogger("target").propagate = False
        sink, close = AsyncHandlerSink.create(handler=vendors[1])
        take_root(SinkHandler(HandlerSink(vendors[0])), SinkHandler(sink), SinkHandler(LoggerSink("target")))
        for number in range(50):
            logging.getLogger("app").debug("%d", number)
        assert sink.flush(20)
        close()
        for handler in vendors:
            assert handler.messages == [str(number) for number in range(50)]


def test_the_module_runs_without_structlog() -> None:
    """The way back into the standard library needs nothing but it."""
    assert "structlog" not in (sys.modules["mvx_logger.bridge.handler_sinks"].__dict__)
