"""`FanOutSink`, `FilterSink`, `FallbackSink`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import make_event
from mvx_logger import selflog
from mvx_logger.context import LogContext, LogErrorHandlingPolicy
from mvx_logger.delivery.sink import AsyncioLogSink
from mvx_logger.delivery.stats import LogSinkStats
from mvx_logger.errors import LogContextUnableToLog
from mvx_logger.model import LogEvent, LogLevel
from mvx_logger.options import check_options
from mvx_logger.payload import LogPayloadProcessor
from mvx_logger.protocols import LogSinkClassProto, LogSinkDescriptor, LogSinkProto
from mvx_logger.registry import close_log_sink, configure_log_sink, reset_logger
from mvx_logger.sinks.combinators import FallbackSink, FanOutSink, FilterSink
from mvx_logger.sinks.memory import MemoryLogSink

EVENT = make_event()


class Part:
    """A sink that can be broken, and keeps track of what is done to it."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []
        self.error: Exception | None = None
        self.closed = 0
        self.timeouts: list[float | None] = []
        self.flushed: Any = True
        self.on_flush: Callable[[], None] = lambda: None

    def log(self, event: LogEvent) -> None:
        if self.error is not None:
            raise self.error
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1
        if self.error is not None:
            raise self.error

    def flush(self, timeout: float | None = None) -> Any:
        self.timeouts.append(timeout)
        self.on_flush()
        if self.error is not None:
            raise self.error
        return self.flushed


class Bare:
    """The least that a sink can be."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def log(self, event: LogEvent) -> None:
        self.events.append(event)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def reports() -> Iterator[list[selflog.SelfLogReport]]:
    """What the logger tells of its own trouble."""
    told: list[selflog.SelfLogReport] = []
    before = selflog.redirect(told.append)
    interval = selflog.get_interval()
    selflog.set_interval(0)
    yield told
    selflog.set_interval(interval)
    selflog.redirect(before)


@pytest.fixture
def clean_registry() -> Iterator[None]:
    yield
    reset_logger()


MAKERS: list[Callable[..., Any]] = [FanOutSink, FallbackSink, FilterSink]


class TestFanOutSink:
    def test_every_sink_gets_every_event_in_order(self) -> None:
        """All parts get the very same event."""
        parts = [MemoryLogSink(), MemoryLogSink(), MemoryLogSink()]
        sink = FanOutSink(*parts)
        events = [make_event(str(number)) for number in range(5)]
        for event in events:
            sink.log(event)
        assert [part.events for part in parts] == [tuple(events)] * 3
        assert sink.sinks == tuple(parts)

    def test_one_that_fails_does_not_keep_the_event_from_the_others(self) -> None:
        """Its exception is raised when the others have the event."""
        first, broken, last = Part(), Part(), Part()
        broken.error = OSError("down")
        with pytest.raises(OSError, match="down"):
            FanOutSink(first, broken, last).log(EVENT)
        assert first.events == last.events == [EVENT]

    def test_several_that_fail_are_told_as_a_group(self) -> None:
        """No failure hides another."""
        one, two, good = Part(), Part(), Part()
        one.error, two.error = OSError("one"), ValueError("two")
        with pytest.raises(ExceptionGroup) as caught:
            FanOutSink(one, good, two).log(EVENT)
        assert caught.value.exceptions == (one.error, two.error)
        assert good.events == [EVENT]

    def test_the_error_policy_of_a_context_sees_the_failure(self) -> None:
        """RAISE raises, with the cause chained."""
        broken = Part()
        broken.error = OSError("down")
        ctx = LogContext(
            log_sink=FanOutSink(Part(), broken),
            payload_processor=LogPayloadProcessor(),
            log_error_handling_policy=LogErrorHandlingPolicy.RAISE,
        )
        with pytest.raises(LogContextUnableToLog) as caught:
            ctx.log_info_event("x")
        assert caught.value.__cause__ is broken.error


class TestFilterSink:
    @pytest.mark.parametrize(
        ("options", "passing"),
        [
            ({}, [10, 20, 30, 40]),
            ({"min_level": 20}, [20, 30, 40]),
            ({"min_level": "WARNING"}, [30, 40]),
            ({"max_level": LogLevel.INFO}, [10, 20]),
            ({"min_level": 20, "max_level": "warning"}, [20, 30]),
            ({"min_level": 15, "max_level": 15}, []),
        ],
    )
    def test_levels(self, options: dict[str, Any], passing: list[int]) -> None:
        """Both limits are inclusive; numbers and names work."""
        part = MemoryLogSink()
        sink = FilterSink(part, **options)
        for level in (10, 20, 30, 40):
            sink.log(make_event(level=level))
        assert [event.level for event in part.events] == passing

    @pytest.mark.parametrize(
        ("options", "passing"),
        [
            ({"namespaces": ["shop"]}, ["shop", "shop.orders", "shop.orders.db"]),
            ({"namespaces": ["shop.orders"]}, ["shop.orders", "shop.orders.db"]),
            ({"namespaces": ["shop.*"]}, ["shop.orders", "shop.orders.db"]),
            ({"namespaces": ["*.db"]}, ["shop.orders.db"]),
            ({"namespaces": ["shop*"]}, ["shop", "shop.orders", "shop.orders.db", "shopping"]),
            ({"namespaces": ["Shop"]}, []),
            ({"namespaces": ["sho?"]}, ["shop"]),
            ({"namespaces": ["[st]hop"]}, ["shop"]),
            ({"namespaces": ("urllib3", "shop.orders")}, ["shop.orders", "shop.orders.db", "urllib3"]),
            ({"exclude_namespaces": ["shop"]}, ["shopping", "urllib3", None]),
            ({"namespaces": ["shop"], "exclude_namespaces": ["*.db"]}, ["shop", "shop.orders"]),
            ({"namespaces": [""]}, [None]),
            ({"namespaces": {"*"}}, ["shop", "shop.orders", "shop.orders.db", "shopping", "urllib3", None]),
            ({"namespaces": ["s.op"]}, []),
        ],
    )
    def test_namespaces(self, options: dict[str, Any], passing: list[str | None]) -> None:
        """A plain entry is a namespace and all below it, one with wildcards a pattern for the whole."""
        part = MemoryLogSink()
        sink = FilterSink(part, **options)
        for _ in range(2):
            part.clear()
            for namespace in ("shop", "shop.orders", "shop.orders.db", "shopping", "urllib3", None):
                sink.log(make_event(namespace=namespace))
            assert [event.meta.event_namespace for event in part.events] == passing

    @given(
        entry=st.text(alphabet="ab.", min_size=1, max_size=6),
        namespace=st.text(alphabet="ab.\n", max_size=8),
    )
    def test_a_plain_entry_matches_by_dotted_component(self, entry: str, namespace: str) -> None:
        """Exactly itself and what begins with it and a dot."""
        part = MemoryLogSink()
        FilterSink(part, namespaces=[entry]).log(make_event(namespace=namespace))
        assert bool(len(part)) is (namespace == entry or namespace.startswith(entry + "."))

    def test_namespaces_without_end_do_not_pile_up(self) -> None:
        """Verdicts are remembered, but not for ever."""
        part = MemoryLogSink(max_events=None)
        sink = FilterSink(part, namespaces=["shop"])
        for number in range(10_000):
            sink.log(make_event(namespace=f"shop.request-{number}"))
        assert len(part) == 10_000
        assert len(sink._verdicts) <= 4096

    def test_a_predicate_decides(self) -> None:
        """It is asked about what passed so far; any true value passes."""
        part = MemoryLogSink()
        asked: list[LogEvent] = []

        def predicate(event: LogEvent) -> Any:
            asked.append(event)
            return event.meta.event_name

        sink = FilterSink(part, min_level=20, predicate=predicate)
        for event in (make_event(""), make_event("a"), make_event("b", level=10)):
            sink.log(event)
        assert [event.meta.event_name for event in part.events] == ["a"]
        assert len(asked) == 2

    def test_a_predicate_that_raises_lets_the_event_pass(self, reports: list[selflog.SelfLogReport]) -> None:
        """A broken filter must not lose events; selflog tells."""
        part = MemoryLogSink()
        FilterSink(part, predicate=lambda event: 1 / 0).log(EVENT)
        assert part.events == (EVENT,)
        assert [report.kind for report in reports] == ["filter"]

    def test_a_predicate_that_logs_does_not_come_back_to_itself(self, reports: list[selflog.SelfLogReport]) -> None:
        """It is asked once, and what it logs is not delivered."""
        part = MemoryLogSink()
        asked: list[LogEvent] = []

        def predicate(event: LogEvent) -> bool:
            asked.append(event)
            ctx.log_info_event("asked")
            return True

        ctx = LogContext(log_sink=FilterSink(part, predicate=predicate), payload_processor=LogPayloadProcessor())
        ctx.log_info_event("first")
        assert [event.meta.event_name for event in part.events] == ["first"]
        assert len(asked) == 1
        assert [report.kind for report in reports] == ["recursion"]

    def test_what_the_sink_raises_is_raised(self) -> None:
        """Failures are not filtered."""
        part = Part()
        part.error = OSError()
        with pytest.raises(OSError):
            FilterSink(part).log(EVENT)


class TestFallbackSink:
    def make(self, count: int = 2, **options: Any) -> tuple[FallbackSink, list[Part], Clock]:
        clock = Clock()
        parts = [Part() for _ in range(count)]
        return FallbackSink(*parts, clock=clock, **options), parts, clock

    def test_the_first_sink_gets_all_while_it_works(self) -> None:
        """The others stand by."""
        sink, (first, second), _ = self.make()
        sink.log(EVENT)
        sink.log(EVENT)
        assert (len(first.events), len(second.events)) == (2, 0)

    def test_the_next_one_takes_over(self, reports: list[selflog.SelfLogReport]) -> None:
        """No event is lost when a sink fails; selflog tells once, without a word of the error's text."""
        sink, (first, second, third), _ = self.make(3)
        first.error = OSError("password=secret")
        second.error = OSError()
        for _ in range(3):
            sink.log(EVENT)
        assert len(third.events) == 3
        assert [(report.kind, report.fields["index"]) for report in reports] == [("fallback", 0), ("fallback", 1)]
        assert "secret" not in "".join(report.to_line() for report in reports)

    def test_a_failed_sink_is_tried_again_after_a_pause(self, reports: list[selflog.SelfLogReport]) -> None:
        """Within the pause it is left alone, after it it is tried, and when it is back it gets all again."""
        sink, (first, second), clock = self.make(retry_after=10)
        first.error = OSError()
        tries = []
        log = first.log

        def counting(event: LogEvent) -> None:
            tries.append(clock.now)
            log(event)

        sink._logs = (counting, sink._logs[1])
        sink._order = tuple(enumerate(sink._logs))
        sink.log(EVENT)
        clock.now += 9.9
        sink.log(EVENT)
        assert tries == [1_000.0]
        clock.now += 0.1
        sink.log(EVENT)
        assert tries == [1_000.0, 1_010.0]
        first.error = None
        sink.log(EVENT)
        assert len(tries) == 2, "the pause begins anew"
        clock.now += 10
        sink.log(EVENT)
        sink.log(EVENT)
        assert (len(first.events), len(second.events)) == (2, 4)
        assert ["back" in report.message for report in reports] == [False, True]

    def test_without_a_pause_it_is_tried_for_each_event(self) -> None:
        """retry_after=0."""
        sink, (first, second), _ = self.make(retry_after=0)
        first.error = OSError()
        sink.log(EVENT)
        first.error = None
        sink.log(EVENT)
        assert (len(first.events), len(second.events)) == (1, 1)

    def test_a_sink_in_its_pause_is_better_than_none(self) -> None:
        """When all others fail, those that are passed over are tried all the same."""
        sink, (first, second), _ = self.make()
        first.error = OSError()
        sink.log(EVENT)
        first.error, second.error = None, OSError()
        sink.log(EVENT)
        assert (len(first.events), len(second.events)) == (1, 1)

    def test_when_none_takes_it_the_failures_are_raised(self) -> None:
        """One exception as it is, several as a group; also when all are in their pause."""
        sink, (first, second), _ = self.make()
        first.error, second.error = OSError("one"), ValueError("two")
        for _ in range(2):
            with pytest.raises(ExceptionGroup) as caught:
                sink.log(EVENT)
            assert caught.value.exceptions == (first.error, second.error)
        single, (part,), _ = self.make(1)
        part.error = OSError("one")
        for _ in range(2):
            with pytest.raises(OSError, match="one"):
                single.log(EVENT)
        part.error = None
        single.log(EVENT)
        assert part.events == [EVENT]

    def test_the_pause_of_a_real_clock(self) -> None:
        """The default clock goes on by itself."""
        first, second = Part(), Part()
        sink = FallbackSink(first, second, retry_after=0.01)
        first.error = OSError()
        sink.log(EVENT)
        first.error = None
        deadline = time.monotonic() + 10
        while not first.events and time.monotonic() < deadline:
            sink.log(EVENT)
        assert first.events

    def test_many_threads_lose_nothing(self) -> None:
        """Each event is taken by one sink while the first one comes and goes."""
        first, second = Part(), Part()
        sink = FallbackSink(first, second, retry_after=0)
        done = threading.Event()

        def flicker() -> None:
            while not done.is_set():
                first.error = OSError()
                first.error = None

        def log() -> None:
            for _ in range(3_000):
                sink.log(EVENT)

        flickering = threading.Thread(target=flicker)
        threads = [threading.Thread(target=log) for _ in range(3)]
        for thread in [flickering, *threads]:
            thread.start()
        for thread in threads:
            thread.join()
        done.set()
        flickering.join()
        assert len(first.events) + len(second.events) == 9_000


class TestAll:
    @pytest.mark.parametrize("make", MAKERS)
    def test_they_are_sinks_that_can_be_registered(self, make: Any) -> None:
        """They fit both contracts."""
        assert isinstance(make(Part()), LogSinkProto)
        assert isinstance(make, LogSinkClassProto)

    @pytest.mark.parametrize("make", MAKERS)
    def test_what_is_no_sink_is_named(self, make: Any) -> None:
        """TypeError says which argument."""
        name = "sink" if make is FilterSink else r"sinks\[0\]"
        with pytest.raises(TypeError, match=f"^{name}: .*got str"):
            make("memory:")
        with pytest.raises(TypeError, match=f"^{name}: .*the class MemoryLogSink"):
            make(MemoryLogSink)
        with pytest.raises(TypeError, match="owns_sinks"):
            make(Part(), owns_sinks=1)

    def test_the_position_of_what_is_no_sink_is_named(self) -> None:
        """Counted from 0, as in a configuration."""
        with pytest.raises(TypeError, match=r"^sinks\[1\]"):
            FanOutSink(Part(), None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"^sinks\[1\]"):
            FallbackSink(Part(), 5)  # type: ignore[arg-type]

    @pytest.mark.parametrize("make", [FanOutSink, FallbackSink])
    def test_there_has_to_be_a_sink(self, make: Any) -> None:
        """None at all is a mistake."""
        with pytest.raises(ValueError, match="sinks: "):
            make()

    @pytest.mark.parametrize("make", MAKERS)
    def test_close_goes_down_to_the_parts(self, make: Any) -> None:
        """Parts that cannot be closed are left alone; owns_sinks=False leaves them all alone."""
        part = Part()
        make(part).close()
        make(Bare()).close()
        assert part.closed == 1
        make(part, owns_sinks=False).close()
        assert part.closed == 1

    def test_a_part_that_fails_to_close_does_not_keep_others_open(self) -> None:
        """All are closed, then the failures are raised."""
        first, second, third = Part(), Part(), Part()
        first.error = OSError("one")
        with pytest.raises(OSError, match="one"):
            FanOutSink(first, second).close()
        third.error = OSError("three")
        with pytest.raises(ExceptionGroup):
            FallbackSink(first, second, third).close()
        assert (first.closed, second.closed, third.closed) == (2, 2, 1)

    def test_flush_goes_down_to_the_parts_with_one_deadline(self) -> None:
        """What one part used up is not there for the next."""
        slow, quick = Part(), Part()
        slow.on_flush = lambda: time.sleep(0.05)
        assert FanOutSink(slow, Bare(), quick).flush(10) is True
        assert slow.timeouts[0] is not None
        assert slow.timeouts[0] <= 10
        assert quick.timeouts[0] is not None
        assert 0 < quick.timeouts[0] <= 9.95
        assert FanOutSink(slow, quick).flush(0.01) is True
        assert quick.timeouts[1] == 0.0
        assert FanOutSink(quick).flush() is True
        assert quick.timeouts[2] is None

    @pytest.mark.parametrize("make", [FanOutSink, FallbackSink])
    def test_flush_is_true_when_all_parts_are_flushed(self, make: Any, reports: list[selflog.SelfLogReport]) -> None:
        """One False is False for all; every part is asked. A part that raises is not flushed, and selflog tells."""
        first, second = Part(), Part()
        sink = make(first, second)
        first.flushed = None
        assert sink.flush() is True
        first.flushed = False
        assert sink.flush() is False
        first.error = OSError()
        assert sink.flush() is False
        assert len(second.timeouts) == 3
        assert [report.kind for report in reports] == ["flush"]

    def test_stats_are_the_sum_of_the_parts(self) -> None:
        """Parts without accounts are left out; the law holds."""

        class Keeping(Part):
            def __init__(self, stats: Any) -> None:
                super().__init__()
                self._stats = stats

            def stats(self) -> Any:
                return self._stats

        one = LogSinkStats(
            accepted=10,
            delivered=4,
            dropped={"error": 1, "queue_full": 1},
            dead_lettered=1,
            pending=3,
            rejected={"recursion": 1},
            batches=2,
            last_error="OSError: first",
            last_error_at=1.0,
        )
        two = LogSinkStats(
            accepted=5, delivered=3, dropped={"error": 2}, batches=1, last_error="OSError: last", last_error_at=2.0
        )
        sink = FanOutSink(Keeping(one), Part(), Keeping("no stats"), FilterSink(Keeping(two)))
        assert sink.stats() == LogSinkStats(
            accepted=15,
            delivered=7,
            dropped={"error": 3, "queue_full": 1},
            dead_lettered=1,
            pending=3,
            rejected={"recursion": 1},
            batches=3,
            last_error="OSError: last",
            last_error_at=2.0,
        )
        assert FallbackSink(Part()).stats() == LogSinkStats()

    @pytest.mark.parametrize("make", MAKERS)
    def test_a_part_that_logs_does_not_come_back_to_itself(
        self, make: Any, reports: list[selflog.SelfLogReport]
    ) -> None:
        """A custom sink whose client library logs to the same context delivers each event once."""

        class Chatty(Bare):
            def log(self, event: LogEvent) -> None:
                super().log(event)
                ctx.log_info_event("chat")

        part = Chatty()
        ctx = LogContext(log_sink=make(part), payload_processor=LogPayloadProcessor())
        ctx.log_info_event("real")
        assert [event.meta.event_name for event in part.events] == ["real"]
        assert {report.kind for report in reports} == {"recursion"}

    @pytest.mark.parametrize("make", MAKERS)
    def test_asynchronous_sinks_can_be_parts(self, make: Any) -> None:
        """Their own guard lets events of a combinator in; flush waits for them and close ends them."""
        got: list[LogEvent] = []

        class Background(AsyncioLogSink):
            async def _dispatch_core(self, event: LogEvent) -> None:
                got.append(event)

        part, _ = Background.create()
        sink = make(part)
        ctx = LogContext(log_sink=sink, payload_processor=LogPayloadProcessor())
        for number in range(10):
            ctx.log_info_event(f"event.{number}")
        assert sink.flush(10) is True
        assert [event.meta.event_name for event in got] == [f"event.{number}" for number in range(10)]
        sink.close()
        assert part.get_status().value == "stopped"
        assert sink.stats().delivered == 10

    def test_they_nest(self) -> None:
        """A tree of them delivers as drawn."""
        errors, shop, rest = MemoryLogSink(), MemoryLogSink(), MemoryLogSink()
        broken = Part()
        broken.error = OSError()
        tree = FanOutSink(
            FilterSink(errors, min_level="ERROR"),
            FilterSink(FallbackSink(broken, shop), namespaces=["shop"]),
            FilterSink(rest, exclude_namespaces=["shop"]),
        )
        tree.log(make_event("a", "shop.orders", 40))
        tree.log(make_event("b", "urllib3", 10))
        names = [[event.meta.event_name for event in sink.events] for sink in (errors, shop, rest)]
        assert names == [["a"], ["a"], ["b"]]
        assert repr(tree) == "<FanOutSink of FilterSink, FilterSink, FilterSink>"


class TestConfiguration:
    def test_create_takes_sinks_by_keyword(self) -> None:
        """sinks=[...] or sink=..., with the other options beside."""
        part = Part()
        fan_out, end = FanOutSink.create(sinks=[part, part])
        fallback, _ = FallbackSink.create(sinks=(part,), retry_after=5, owns_sinks=False)
        only, _ = FilterSink.create(sink=part, min_level="ERROR", namespaces=["shop"])
        fan_out.log(EVENT)
        fallback.log(EVENT)
        only.log(EVENT)
        assert len(part.events) == 3
        end()
        end()
        assert part.closed == 4

    def test_the_same_parts_and_options_are_the_same_sink(self) -> None:
        """Parts count by identity, and in order."""
        one, two = Part(), Part()
        describe = FanOutSink.build_descriptor
        assert describe(sinks=[one, two]) == describe(sinks=(one, two))
        assert hash(describe(sinks=[one, two])) == hash(describe(sinks=[one, two]))
        assert describe(sinks=[one, two]) != describe(sinks=[two, one])
        assert describe(sinks=[one]) != describe(sinks=[two])
        assert FallbackSink.build_descriptor(sinks=[one]) != describe(sinks=[one])

        def predicate(event: LogEvent) -> bool:
            return True

        filtered = FilterSink.build_descriptor
        assert filtered(sink=one, namespaces=["a"]) == filtered(sink=one, namespaces=["a"])
        assert filtered(sink=one, namespaces=["a"]) != filtered(sink=one, namespaces=["b"])
        assert filtered(sink=one, predicate=predicate) == filtered(sink=one, predicate=predicate)
        assert filtered(sink=one, predicate=predicate) != filtered(sink=one, predicate=lambda event: True)
        assert filtered(sink=one).sink_type == "filter"
        assert filtered(sink=one, min_level=10).to_log_payload()["config_key"] == [("min_level", 10)]

    def test_a_part_that_is_no_sink_is_refused_by_the_descriptor(self) -> None:
        """Before anything is registered."""
        with pytest.raises(TypeError, match=r"^sinks\[0\]"):
            FanOutSink.build_descriptor(sinks=["memory:"])

    def test_options_of_a_url_are_converted(self) -> None:
        """Text becomes what the option needs."""
        checked = check_options(
            FilterSink, {"sink": Part(), "min_level": "30", "namespaces": "a,b", "owns_sinks": "false"}, lax=True
        )
        assert FilterSink(**checked)._min_level == 30
        assert checked["namespaces"] == ["a", "b"]
        assert checked["owns_sinks"] is False

    def test_they_can_be_registered_and_closed(self, clean_registry: None) -> None:
        """configure_log_sink makes one for the same parts once; closing it closes them."""
        part = Part()
        sink = configure_log_sink(name="both", sink_cls=FanOutSink, sinks=[part])
        assert isinstance(FanOutSink.build_descriptor(sinks=[part]), LogSinkDescriptor)
        assert configure_log_sink(name="both", sink_cls=FanOutSink, sinks=[part]) is sink
        assert close_log_sink("both")
        assert part.closed == 1
