"""Light events take a quick way into the queue: they must arrive, be counted and be charged as on the long one."""

from __future__ import annotations

import functools
import gc
import logging
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from delivery_helpers import BatchSink, Destination, assert_accounts, wait_until
from mvx_logger import (
    AsyncioLogSink,
    AsyncioLogSinkQueueOverflowPolicy,
    FileLogSink,
    LogContext,
    LogContextHandler,
    LogContextUnableToLog,
    LogErrorHandlingPolicy,
    LogEvent,
    LoggingFileConfig,
    LogPayloadProcessor,
    LogSinkDescriptor,
    MemoryLogSink,
    SinkHandler,
    close_log_sink,
    configure_log_context,
    configure_log_sink,
    selflog,
)
from mvx_logger.bridge.records import plain_event, record_to_event
from mvx_logger.bridge.structlog import PipelineRenderer, StructlogLoggerFactory
from mvx_logger.delivery.sizes import EVENT_BYTES, measure_excess
from mvx_logger.guard import internal, mark, offers
from mvx_logger.model import LIGHT_TEXT
from repetitions import often

Emit = Callable[..., None]
"""Logs one event with a name and a payload."""

SCALARS = st.one_of(
    st.text(max_size=40), st.integers(-(2**40), 2**40), st.booleans(), st.none(), st.floats(allow_nan=False)
)
VALUES = st.one_of(SCALARS, st.text(min_size=150, max_size=250), st.lists(SCALARS, max_size=3))
KEYS = st.one_of(
    st.from_regex(r"x[a-z]{1,5}", fullmatch=True), st.sampled_from(["password", "token", "api_key", "otp"])
)
PAYLOADS = st.dictionaries(KEYS, VALUES, max_size=20)


def bare(emit: Emit) -> Emit:
    """Log in a context without any variable, as a thread has it where nobody has set one.

    In the thread of the tests some have, and then every event has to be looked at for bound values.
    """
    return lambda *args, **payload: Context().run(emit, *args, **payload)


def _logger(handler: logging.Handler) -> logging.Logger:
    logger = logging.Logger("shop.orders")
    logger.addHandler(handler)
    return logger


def make_context(sink: Any, processor: Any = None, **settings: Any) -> LogContext:
    processor = LogPayloadProcessor() if processor is None else processor
    return LogContext(namespace="shop.orders", log_sink=sink, payload_processor=processor, **settings)


def natively(sink: Any, processor: Any = None, **settings: Any) -> Emit:
    context = make_context(sink, processor, **settings)
    return lambda name, **payload: context.log_info_event(name, payload)


def by_handler(sink: Any, processor: Any = None) -> Emit:
    logger = _logger(SinkHandler(sink, payload_processor=processor))
    return lambda name, **payload: logger.info(name, extra=payload)


def by_handler_with_argument(sink: Any, processor: Any = None) -> Emit:
    logger = _logger(SinkHandler(sink, payload_processor=processor))
    return lambda name, **payload: logger.info(name + "%s", "", extra=payload)


def by_context_handler(sink: Any, processor: Any = None, **settings: Any) -> Emit:
    logger = _logger(LogContextHandler(make_context(sink, processor, **settings)))
    return lambda name, **payload: logger.info(name, extra=payload)


def by_structlog(sink: Any, processor: Any = None, **settings: Any) -> Emit:
    configure_log_context("shop.orders", log_sink=sink, payload_processor=processor, **settings)
    logger = structlog.wrap_logger(
        StructlogLoggerFactory()("shop.orders"),
        processors=[PipelineRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(0),
    )
    return lambda name, **payload: logger.info(name, **payload)


WAYS = pytest.mark.parametrize(
    "way",
    [natively, by_handler, by_handler_with_argument, by_context_handler, by_structlog],
    ids=lambda way: way.__name__,
)


class Frozen:
    """A sink that has taken one event and does not come back for the next."""

    def __init__(self, **options: Any) -> None:
        self.to = Destination()
        self.to.open.clear()
        self.sink, self.close = BatchSink.create(to=self.to, **options)

    def block(self, emit: Emit) -> None:
        emit("first")
        assert self.to.arrived.wait(30)

    def end(self) -> None:
        self.to.open.set()
        self.close()


@pytest.fixture
def make_frozen() -> Iterator[Callable[..., Frozen]]:
    made: list[Frozen] = []

    def make(**options: Any) -> Frozen:
        made.append(Frozen(**options))
        return made[-1]

    yield make
    for frozen in made:
        frozen.end()


@WAYS
class TestEveryWayIn:
    def test_an_event_is_charged_what_it_holds(
        self, way: Callable[[Any], Emit], make_frozen: Callable[..., Frozen]
    ) -> None:
        """The queue's bytes grow by the same for an event that came the quick way, and for one that was measured."""
        frozen = make_frozen(queue_max_size=1_000_000, queue_max_bytes=2**40)
        emit, memory = bare(way(frozen.sink)), MemoryLogSink()
        frozen.block(emit)
        emit_to_memory = way(memory) if way is not by_structlog else emit

        @given(st.sampled_from(["event", "e" * 100, "e" * 250, "e" * 300]), PAYLOADS)
        @settings(max_examples=often(60), deadline=None)
        def look(name: str, payload: dict[str, Any]) -> None:
            if way is by_structlog:
                configure_log_context("shop.orders", log_sink=memory)
            emit_to_memory(name, **payload)
            if way is by_structlog:
                configure_log_context("shop.orders", log_sink=frozen.sink)
            event = memory.events[-1]
            before = frozen.sink.stats().queue_bytes
            emit(name, **payload)
            assert frozen.sink.stats().queue_bytes - before == EVENT_BYTES + measure_excess(event)

        look()
        assert_accounts(frozen.sink.stats())

    def test_large_events_fill_the_queue(self, way: Callable[[Any], Emit], make_frozen: Callable[..., Frozen]) -> None:
        """A bound in bytes holds, whichever way they came, and what finds no room is counted."""
        frozen = make_frozen(queue_max_bytes=64 * 1024, queue_overflow_policy=AsyncioLogSinkQueueOverflowPolicy.DROP)
        emit = bare(way(frozen.sink))
        frozen.block(emit)
        for number in range(200):
            emit("event", number=number, **{f"text{index}": "x" * 190 for index in range(5)})
        stats = frozen.sink.stats()
        assert stats.queue_bytes <= 64 * 1024
        assert 0 < stats.dropped["queue_full"] < 200
        assert_accounts(stats)

    def test_the_bound_in_events_holds(self, way: Callable[[Any], Emit], make_frozen: Callable[..., Frozen]) -> None:
        """Ten fit, the others are dropped; then the ten arrive in order."""
        frozen = make_frozen(queue_max_size=10, queue_overflow_policy=AsyncioLogSinkQueueOverflowPolicy.DROP)
        emit = bare(way(frozen.sink))
        frozen.block(emit)
        for number in range(25):
            emit(f"event{number}", number=number)
        assert frozen.sink.stats().dropped == {"queue_full": 15}
        frozen.to.open.set()
        wait_until(lambda: frozen.sink.stats().pending == 0)
        names = [name.removesuffix("%s") for name in frozen.to.names]
        assert names == ["first", *(f"event{number}" for number in range(10))]

    def test_a_log_method_of_ones_own_sees_every_event(self, way: Callable[[Any], Emit]) -> None:
        """Nothing goes past the log() of a subclass."""
        seen: list[str] = []

        class Counting(BatchSink):
            def log(self, event: LogEvent) -> None:
                seen.append(event.meta.event_name.removesuffix("%s"))
                super().log(event)

        to = Destination()
        sink, close = Counting.create(to=to)
        bare(way(sink))("event", number=1)
        close()
        assert seen == ["event"]
        assert len(to.names) == 1

    def test_a_decorated_log_method_sees_every_event(self, way: Callable[[Any], Emit]) -> None:
        """Also when its decorator copies what there is to the function below: functools.wraps does."""
        seen: list[str] = []

        def traced(log: Any) -> Any:
            @functools.wraps(log)
            def wrapper(self: Any, event: LogEvent) -> None:
                seen.append(event.meta.event_name.removesuffix("%s"))
                log(self, event)

            return wrapper

        class Traced(BatchSink):
            log = traced(BatchSink.log)

        to = Destination()
        sink, close = Traced.create(to=to)
        bare(way(sink))("event", number=1)
        close()
        assert seen == ["event"]
        assert len(to.names) == 1

    def test_a_log_method_that_was_replaced_sees_every_event(self, way: Callable[[Any], Emit]) -> None:
        """Nothing goes past a log() that was put on the instance before it was configured."""
        seen: list[str] = []
        sink, close = BatchSink.create(to=Destination())
        sink.log = lambda event: seen.append(event.meta.event_name.removesuffix("%s"))  # type: ignore[method-assign]
        bare(way(sink))("event", number=1)
        close()
        assert seen == ["event"]

    def test_the_quick_way_is_taken(self, way: Callable[[Any], Emit], monkeypatch: pytest.MonkeyPatch) -> None:
        """A light event goes it, one that is not does not, and both arrive. (Else these tests would test nothing.)"""
        offer = offers[AsyncioLogSink.log]
        offered: list[str] = []

        def note(self: Any, event: LogEvent) -> bool:
            offered.append(event.meta.event_name.removesuffix("%s"))
            return offer(self, event)

        monkeypatch.setitem(offers, AsyncioLogSink.log, note)
        to = Destination()
        sink, close = BatchSink.create(to=to)
        emit = bare(way(sink))
        emit("light", number=1, text="short")
        emit("heavy", numbers=[1, 2])
        close()
        assert offered == ["light"]
        assert [name.removesuffix("%s") for name in to.names] == ["light", "heavy"]

    @pytest.mark.parametrize("is_worker", [False, True])
    def test_what_the_logger_itself_logs_is_kept_out(
        self, way: Callable[[Any], Emit], selflog_reports: list[selflog.SelfLogReport], is_worker: bool
    ) -> None:
        """An event that is logged under the mark of a thread, or of a worker's context, is not accepted."""
        to = Destination()
        sink, close = BatchSink.create(to=to)
        emit = way(sink)
        context = Context()
        before = mark.value
        try:
            if is_worker:
                context.run(internal.set, True)
            else:
                mark.value = True
            context.run(emit, "event", number=1)
        finally:
            mark.value = before
        close()
        assert to.names == []
        assert {report.kind for report in selflog_reports} == {"recursion"}

    def test_what_a_processor_of_ones_own_hides_stays_hidden(self, way: Callable[[Any], Emit]) -> None:
        """A subclass that knows of normalize_payload() only is asked for every payload, small or large."""

        class Redacting(LogPayloadProcessor):
            def normalize_payload(self, payload: Any, *, unbounded: bool = False) -> dict[str, Any]:
                plain = super().normalize_payload(payload, unbounded=unbounded)
                return {key: "hidden" if key == "iban" else value for key, value in plain.items()}

        memory = MemoryLogSink()
        emit = bare(way(memory, Redacting()))  # type: ignore[call-arg]
        emit("few", iban="DE1", number=1)
        emit("many", iban="DE2", **{f"key{index}": index for index in range(15)})
        assert [event.payload["iban"] for event in memory.events] == ["hidden", "hidden"]

    def test_a_sink_that_is_stopped_takes_the_event_all_the_same(self, way: Callable[[Any], Emit]) -> None:
        """The quick way is closed then; the long one wakes the sink for a straggler."""
        to = Destination()
        sink, close = BatchSink.create(to=to)
        emit = way(sink)
        close()
        emit("event", number=1)
        wait_until(lambda: len(to.names) == 1)

    def test_a_failed_sink_is_no_concern_of_the_caller(self, way: Callable[[Any], Emit], capsys: Any) -> None:
        """The quick way is closed, and the long one refuses: the application does not hear of it."""

        class Failing(AsyncioLogSink):
            async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
                raise OSError

        from mvx_logger import AsyncioLogSinkErrorPolicy

        sink, close = Failing.create(error_policy=AsyncioLogSinkErrorPolicy.FAIL)
        emit = way(sink)
        emit("event", number=1)
        wait_until(lambda: sink.get_status().value == "failure")
        emit("event", number=2)
        close()
        assert sink.stats().rejected == {"failure": 1}
        assert "failed" in capsys.readouterr().err


ODD = st.sampled_from(
    [None, "", "x", 0, -1, 1.5, 1e300, math.inf, math.nan, True, (), ("x",), (1, "%"), [], {}, {"a": 1}, b"x", object()]
)
NAMES = sorted(logging.LogRecord("", 0, "", 0, "", (), None).__dict__)


class TestPlainEvent:
    @given(
        st.text(max_size=20).map(lambda text: text.replace("%", "%%")),
        st.lists(SCALARS, max_size=4),
        PAYLOADS,
        st.dictionaries(
            st.sampled_from([*NAMES, "message", "asctime", "entity_id", "_logger", "_name"]), ODD, max_size=2
        ),
        st.sets(st.sampled_from(NAMES), max_size=2),
        st.dictionaries(st.from_regex(r"b[a-z]{1,5}", fullmatch=True), VALUES, max_size=2),
    )
    @settings(max_examples=often(300), deadline=None)
    def test_it_is_the_same_event(
        self,
        text: str,
        args: list[Any],
        extra: dict[str, Any],
        odd: dict[str, Any],
        missing: set[str],
        ambient: dict[str, Any],
    ) -> None:
        """Whatever record it takes, it makes the event that `record_to_event` makes; a light one has nothing to measure."""
        logger = logging.Logger("shop")
        template = text + " %s" * len(args)
        record = logger.makeRecord("shop", 20, "/a.py", 1, template, tuple(args), None, "f", extra)
        record.__dict__.update(odd)
        for name in missing:
            record.__dict__.pop(name, None)
        before = dict(record.__dict__)
        found = plain_event(record, None, ambient, None)
        assert list(record.__dict__.items()) == list(before.items())
        if found is None:
            assert odd or missing
            return
        event, is_light = found
        record.__dict__.update({name: value for name, value in ambient.items() if name not in record.__dict__})
        assert event == record_to_event(record)
        assert not is_light or not measure_excess(event)

    @pytest.mark.parametrize(
        ("template", "args", "extra", "is_light"),
        [
            ("plain", (), None, True),
            ("order %s placed by %s", (42, "alice"), None, True),
            ("plain", (), {"order_id": "o-1", "amount": 3, "paid": True}, True),
            ("plain", (), {"items": [1, 2]}, False),
            ("x" * (LIGHT_TEXT + 1), (), None, False),
            ("%1000d", (1,), None, False),
            ("%s" * 17, ("",) * 17, None, False),
            ("plain", (), {f"key{index}": index for index in range(17)}, False),
        ],
    )
    def test_what_is_plain(self, template: str, args: tuple[Any, ...], extra: Any, is_light: bool) -> None:
        """Ordinary records are; those with much text or many values are not light."""
        record = logging.Logger("shop").makeRecord("shop", 20, "/a.py", 1, template, args, None, "f", extra)
        found = plain_event(record, None, None, None)
        assert found is not None
        assert found[1] is is_light

    def test_a_message_that_is_rendered_otherwise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A getMessage() that the program has put into LogRecord is asked."""
        record = logging.Logger("shop").makeRecord("shop", 20, "/a.py", 1, "%s", (1,), None, "f")
        monkeypatch.setattr(logging.LogRecord, "getMessage", lambda self: f"<{self.msg % self.args}>")
        assert plain_event(record, None, None, None) is None
        assert record_to_event(record).message == "<1>"

    def test_what_a_formatter_of_another_handler_leaves_on_a_record(self) -> None:
        """Its text and its time are no extras, and do not make a record less plain."""
        record = logging.Logger("shop").makeRecord("shop", 20, "/a.py", 1, "plain", (), None, "f", {"n": 1})
        logging.Formatter("%(asctime)s %(message)s").format(record)
        found = plain_event(record, None, None, None)
        assert found is not None
        assert found[0].payload == {"n": 1}

    def test_what_an_extra_logs_while_it_is_made_plain(self, selflog_reports: list[selflog.SelfLogReport]) -> None:
        """It is kept out."""
        memory = MemoryLogSink()
        logger = _logger(SinkHandler(memory))

        class Key:
            def __str__(self) -> str:
                logger.info("from inside")
                return "key"

        logger.info("outside", extra={"data": {Key(): 1}})
        assert [event.meta.event_name for event in memory.events] == ["outside"]
        assert [report.kind for report in selflog_reports] == ["recursion"]


@WAYS
def test_the_level_of_a_file_is_kept(way: Callable[[Any], Emit], tmp_path: Any) -> None:
    """An event below the level of a FileLogSink is passed over, whichever way it comes."""
    sink, close = FileLogSink.create(config=LoggingFileConfig(str(tmp_path / "quiet.log"), level=30))
    way(sink)("event", number=1)
    assert sink.stats().accepted == 0
    close()
    sink, close = FileLogSink.create(config=LoggingFileConfig(str(tmp_path / "all.log"), level=20))
    way(sink)("event", number=1)
    close()
    assert "event" in (tmp_path / "all.log").read_text()


class TestTargets:
    """A handler finds the quick way of its sink anew when that is another one."""

    def test_a_name(self) -> None:
        """The sink of a name is closed and configured anew: the handler follows; without one, events are told of."""
        first, second = Destination(), Destination()
        configure_log_sink(name="events", sink_cls=NamedSink, to=first)
        logger = _logger(SinkHandler("events"))
        logger.info("one")
        close_log_sink("events")
        logger.info("lost")
        configure_log_sink(name="events", sink_cls=NamedSink, to=second)
        logger.info("two")
        close_log_sink("events")
        assert (first.names, second.names) == (["one"], ["two"])

    def test_a_url(self, tmp_path: Any) -> None:
        """The sink of a closed handler comes back with the next event."""
        path = tmp_path / "events.jsonl"
        handler = SinkHandler(f"file:///{path}?format=json")
        logger = _logger(handler)
        for number in range(3):
            logger.info("event %s", number)
            handler.flush()
            handler.close()
        logger.info("event %s", 3)
        handler.flush()
        assert [line.count("event") > 0 for line in path.read_text().splitlines()] == [True] * 4
        handler.close()


class NamedSink(BatchSink):
    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        return LogSinkDescriptor("named", (id(kwargs["to"]),))


@pytest.mark.parametrize("way", [natively, by_context_handler, by_structlog], ids=lambda way: way.__name__)
class TestFailures:
    """What goes wrong on the quick way is the error policy's business, as on the long one."""

    def make(self, way: Any, policy: LogErrorHandlingPolicy) -> tuple[Emit, list[bool], Callable[[], None]]:
        fails = [True]

        class Shaky(BatchSink):
            def log(self, event: LogEvent) -> None:
                super().log(event)

            def _try(self, event: LogEvent) -> bool:
                if fails[0]:
                    raise RuntimeError("shaky")
                return offers[AsyncioLogSink.log](self, event)

            offers[log] = _try

        sink, close = Shaky.create(to=Destination())
        return bare(way(sink, log_error_handling_policy=policy)), fails, close

    def test_raise(self, way: Any) -> None:
        """The cause is chained. (structlog and native callers get it; a handler gives it to handleError.)"""
        emit, _, close = self.make(way, LogErrorHandlingPolicy.RAISE)
        if way is by_context_handler:
            emit("event", number=1)
        else:
            with pytest.raises(LogContextUnableToLog) as caught:
                emit("event", number=1)
            assert isinstance(caught.value.cause, RuntimeError)
        close()

    def test_ignore(self, way: Any, capsys: pytest.CaptureFixture[str]) -> None:
        """Not a word."""
        emit, _, close = self.make(way, LogErrorHandlingPolicy.IGNORE)
        emit("event", number=1)
        close()
        assert capsys.readouterr().err == ""

    def test_print_stderr(self, way: Any, selflog_reports: list[selflog.SelfLogReport]) -> None:
        """The first failure is told; the next one only after a delivery has succeeded."""
        emit, fails, close = self.make(way, LogErrorHandlingPolicy.PRINT_STDERR)
        for failing in (True, True, False, True):
            fails[0] = failing
            emit("event", number=1)
        close()
        assert [report.kind for report in selflog_reports] == ["sink", "sink"]


class TestOverrides:
    def test_emit_log_event(self) -> None:
        """A context whose class has its own, or on which somebody has put another one, is not passed by."""
        seen: list[str] = []

        class Noting(LogContext):
            def emit_log_event(self, event: LogEvent) -> None:
                seen.append(event.meta.event_name)

        sink, close = BatchSink.create(to=Destination())
        one = Noting(log_sink=sink, payload_processor=LogPayloadProcessor())
        other = LogContext(log_sink=sink, payload_processor=LogPayloadProcessor())
        other.emit_log_event = lambda event: seen.append(event.meta.event_name)  # type: ignore[method-assign]
        for context in (one, other):
            bare(_logger(LogContextHandler(context)).info)("event")
        close()
        assert seen == ["event", "event"]

    def test_filter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The filter of a handler is asked wherever it was put: on the object, on the class, in a subclass."""
        memory = MemoryLogSink()

        class Refusing(SinkHandler):
            def filter(self, record: logging.LogRecord) -> bool:
                return False

        patched = SinkHandler(memory)
        patched.filter = lambda record: False  # type: ignore[method-assign]
        for handler in (Refusing(memory), patched):
            _logger(handler).info("event")
        monkeypatch.setattr(SinkHandler, "filter", lambda self, record: False)
        _logger(SinkHandler(memory)).info("event")
        assert not memory.events

    def test_the_level_of_a_context(self) -> None:
        """A record at the minimal level passes, one below does not."""
        memory = MemoryLogSink()
        logger = _logger(LogContextHandler(make_context(memory, min_level=30)))
        logger.warning("at")
        logger.info("below")
        assert [event.meta.event_name for event in memory.events] == ["at"]

    def test_a_sink_without_a_quick_way_is_freed_with_its_handler(self) -> None:
        """No cycle keeps it for the garbage collector."""
        memory = MemoryLogSink()
        handler = SinkHandler(memory)
        handler.emit(logging.makeLogRecord({"msg": "x"}))
        dead = weakref.ref(memory)
        gc.collect()
        gc.disable()
        try:
            del memory, handler
            assert dead() is None
        finally:
            gc.enable()
