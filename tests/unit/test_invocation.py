"""`log_invocation`."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import subprocess
import sys
import textwrap
import threading
import traceback
import types
import warnings
import weakref
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from mvx_logger import selflog
from mvx_logger.context import LogContext, LogErrorHandlingPolicy
from mvx_logger.invocation import LogErrorRule, log_invocation
from mvx_logger.model import LogEvent, LogEventMeta, LogLevel
from mvx_logger.payload import LogPayloadProcessor, LogVerbosityLevel
from mvx_logger.policy import (
    PatternLogEventPolicy,
    PatternLogEventPolicyAction,
    PatternLogEventPolicyConfig,
    PatternLogEventPolicyRuleConfig,
)
from mvx_logger.protocols import LogContextProto, LogContextProviderProto
from mvx_logger.sinks.memory import MemoryLogSink


class Recorder:
    """A root context and what it logged."""

    def __init__(self, **settings: Any) -> None:
        self.sink = MemoryLogSink(max_events=None)
        self.ctx = LogContext(
            **{
                "namespace": "shop",
                "log_sink": self.sink,
                "payload_processor": LogPayloadProcessor(),
                **settings,
            }
        )

    @property
    def events(self) -> tuple[LogEvent, ...]:
        return self.sink.events

    @property
    def outcomes(self) -> list[str | None]:
        return [event.event_outcome for event in self.events]

    def payload(self, outcome: str) -> dict[str, Any]:
        (payload,) = [dict(event.payload) for event in self.events if event.event_outcome == outcome]
        return payload


class Service:
    """An object with a context of its own."""

    def __init__(self, ctx: LogContextProto | None) -> None:
        self.ctx = ctx
        self.state = "idle"

    def get_log_context(self) -> LogContextProto | None:
        return self.ctx

    @log_invocation("work", context_fields=("state",), log_result_on_success=True)
    def work(self, amount: int) -> int:
        """Do it."""
        self.state = "busy"
        return amount * 2

    @log_invocation("awork")
    async def awork(self, amount: int) -> int:
        await asyncio.sleep(0)
        return amount * 2

    @log_invocation("fail")
    def fail(self, err: BaseException) -> None:
        raise err


@pytest.fixture
def log() -> Recorder:
    return Recorder()


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


def muting(*names: str) -> PatternLogEventPolicy:
    rule = PatternLogEventPolicyRuleConfig(PatternLogEventPolicyAction.DENY, event_names=names)
    return PatternLogEventPolicy(PatternLogEventPolicyConfig(rules=(rule,)))


class TestOutcomes:
    def test_a_call_is_logged_as_invoke_and_success(self, log: Recorder) -> None:
        """A call is one event with two outcomes, and the value comes through."""
        assert Service(log.ctx).work(21) == 42

        assert log.outcomes == ["invoke", "success"]
        invoke, success = log.events
        assert invoke.meta == success.meta
        assert invoke.meta.event_name == "work"
        assert invoke.meta.event_namespace == "shop"
        assert invoke.level == success.level == LogLevel.DEBUG
        assert invoke.timestamp <= success.timestamp
        assert success.payload == {"state": "busy", "result": 42}

    def test_the_source_is_that_of_the_decorated_function(self, log: Recorder) -> None:
        """Path, line and name lead to the decorated function, not to the decorator."""
        Service(log.ctx).work(1)

        meta = log.events[0].meta
        _, line = inspect.getsourcelines(Service.work)
        assert (meta.source_path, meta.source_line, meta.source_func) == (__file__, line, "work")

    def test_a_failure_is_logged_in_full_and_raised(self, log: Recorder) -> None:
        """The very exception passes; kind, message and traceback are logged at ERROR."""
        err = KeyError("nothing here")
        with pytest.raises(KeyError) as caught:
            Service(log.ctx).fail(err)

        assert caught.value is err
        assert log.outcomes == ["invoke", "failed"]
        failed = log.events[1]
        assert failed.level == LogLevel.ERROR
        assert failed.payload["error"] == {"kind": "KeyError", "message": "'nothing here'"}
        assert failed.exception is not None
        assert failed.exception.type == "KeyError"
        assert "in fail" in failed.exception.text

    def test_an_error_that_describes_itself_is_logged_as_it_does(self, log: Recorder) -> None:
        """An exception with to_log_payload() is described by it, all of its keys kept."""

        class OutOfStock(Exception):
            def to_log_payload(self) -> dict[str, Any]:
                return {f"key{number}": number for number in range(30)}

        with pytest.raises(OutOfStock):
            Service(log.ctx).fail(OutOfStock())

        assert log.payload("failed")["error"] == {f"key{number}": number for number in range(30)}

    async def test_a_coroutine_function_is_logged_when_it_is_awaited(self, log: Recorder) -> None:
        """Nothing is logged before the coroutine runs."""
        coroutine = Service(log.ctx).awork(2)
        assert log.outcomes == []
        assert await coroutine == 4
        assert log.outcomes == ["invoke", "success"]

    async def test_a_cancelled_task_logs_cancelled(self, log: Recorder) -> None:
        """Cancellation is an outcome of its own, at INFO, and goes on."""

        @log_invocation("wait", ctx=log.ctx)
        async def wait() -> None:
            await asyncio.sleep(60)

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert task.cancelled()
        assert log.outcomes == ["invoke", "cancelled"]
        assert log.events[1].level == LogLevel.INFO
        assert log.events[1].payload == {}

    async def test_the_message_of_a_cancellation_is_logged(self, log: Recorder) -> None:
        """What was said to cancel() is in the payload, and still in the exception."""

        @log_invocation("wait", ctx=log.ctx)
        async def wait() -> None:
            await asyncio.sleep(60)

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel("shutting down")
        with pytest.raises(asyncio.CancelledError, match="shutting down"):
            await task
        assert log.payload("cancelled")["error"] == {"kind": "CancelledError", "message": "shutting down"}

    async def test_a_timeout_still_works_through_it(self, log: Recorder) -> None:
        """asyncio.timeout() turns its own cancellation into TimeoutError outside of the decorated function."""

        @log_invocation("wait", ctx=log.ctx)
        async def wait() -> None:
            await asyncio.sleep(60)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await wait()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert log.outcomes == ["invoke", "cancelled"]

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_what_ends_the_program_passes_without_an_outcome(self, log: Recorder, kind: type[BaseException]) -> None:
        """KeyboardInterrupt, SystemExit and GeneratorExit are no failures."""
        with pytest.raises(kind):
            Service(log.ctx).fail(kind())
        assert log.outcomes == ["invoke"]

    async def test_a_coroutine_that_is_closed_has_no_outcome(self, log: Recorder) -> None:
        """close() ends the coroutine in silence, as it does without the decorator."""

        @log_invocation("wait", ctx=log.ctx)
        async def wait() -> None:
            await asyncio.sleep(60)

        coroutine = wait()
        coroutine.send(None)
        coroutine.close()
        assert log.outcomes == ["invoke"]

    def test_levels_are_as_given(self) -> None:
        """Every outcome has the level that it was given; custom numbers work."""
        log = Recorder()

        @log_invocation("work", ctx=log.ctx, invoke_level=5, success_level=LogLevel.INFO, error_level=45)
        def work(fail: bool) -> None:
            if fail:
                raise ValueError

        work(False)
        with pytest.raises(ValueError):
            work(True)
        assert [event.level for event in log.events] == [5, 20, 5, 45]

    def test_a_generator_is_a_value(self, log: Recorder) -> None:
        """A generator passes untouched; success says that it was made."""

        @log_invocation("rows", ctx=log.ctx)
        def rows() -> Iterator[int]:
            yield 1
            yield 2

        @log_invocation("arows", ctx=log.ctx)
        async def arows() -> AsyncIterator[int]:
            yield 1

        generator = rows()
        assert inspect.isgenerator(generator)
        assert log.outcomes == ["invoke", "success"]
        assert list(generator) == [1, 2]
        assert inspect.isasyncgen(arows())

    def test_values_bound_with_structlog_contextvars_are_on_every_outcome(self, log: Recorder) -> None:
        """Ambient values appear under explicit ones, normalized."""

        @log_invocation("work", ctx=log.ctx, context_fields=("name",))
        def work(name: str) -> None: ...

        with structlog.contextvars.bound_contextvars(request_id="r1", name="ambient", token="t0psecret"):
            work("explicit")

        for event in log.events:
            assert event.payload["request_id"] == "r1"
            assert event.payload["name"] == "explicit"
            assert "t0psecret" not in str(event.payload)


class TestContext:
    def test_neither_ctx_nor_provider_is_a_runtime_error_before_the_body_runs(self) -> None:
        """The decorated function says what is missing and does nothing."""
        ran = []

        @log_invocation("work")
        def work(amount: int = 1) -> None:
            ran.append(amount)

        for arguments in ((), (5,)):
            with pytest.raises(RuntimeError, match=r"log_invocation\('work'\).*ctx=.*get_log_context"):
                work(*arguments)
        assert ran == []

    async def test_neither_ctx_nor_provider_is_a_runtime_error_of_a_coroutine_function(self) -> None:
        """A coroutine function says so when it is awaited."""

        @log_invocation("work")
        async def work() -> None: ...

        with pytest.raises(RuntimeError, match="finds no log context"):
            await work()

    async def test_a_provider_that_gives_none_switches_logging_off(self) -> None:
        """None as the context: the call is made and not logged."""
        service = Service(None)
        assert service.work(1) == 2
        assert await service.awork(1) == 2
        with pytest.raises(ValueError, match="as it is"):
            service.fail(ValueError("as it is"))

    def test_the_first_argument_may_be_given_by_name(self, log: Recorder) -> None:
        """A function called with keywords finds its provider all the same."""

        @log_invocation("work")
        def work(service: Service, amount: int) -> int:
            return amount

        assert work(amount=3, service=Service(log.ctx)) == 3
        assert log.outcomes == ["invoke", "success"]

    def test_ctx_wins_over_the_provider(self, log: Recorder) -> None:
        """An explicit context is used whatever the first argument offers."""
        other = Recorder()

        @log_invocation("work", ctx=log.ctx)
        def work(service: Service) -> None: ...

        work(Service(other.ctx))
        assert log.outcomes == ["invoke", "success"]
        assert other.outcomes == []

    def test_a_change_of_the_provider_during_the_call_does_not_split_it(self, log: Recorder) -> None:
        """The context is asked for once a call."""

        class Switching(Service):
            @log_invocation("switch")
            def switch(self) -> None:
                self.ctx = None

        Switching(log.ctx).switch()
        assert log.outcomes == ["invoke", "success"]

    def test_a_provider_that_raises_does_not_break_the_call(self, reports: list[selflog.SelfLogReport]) -> None:
        """The call is made, unlogged, and selflog tells."""

        class Broken:
            def get_log_context(self) -> LogContextProto:
                raise OSError

            @log_invocation("work")
            def work(self) -> int:
                return 1

        assert Broken().work() == 1
        assert [report.kind for report in reports] == ["invocation"]

    def test_the_entity_id_comes_from_the_first_argument(self, log: Recorder) -> None:
        """entity_id of the first argument is the event's."""

        class Order(Service):
            entity_id = "order-42"

            @log_invocation("ship")
            def ship(self) -> None: ...

        Order(log.ctx).ship()
        assert {event.meta.entity_id for event in log.events} == {"order-42"}

    def test_the_entity_id_getter_wins(self, log: Recorder) -> None:
        """entity_id_getter is asked instead; what is no str becomes one."""

        class Order(Service):
            entity_id = "order-42"

            @log_invocation("ship", entity_id_getter=lambda: 7)  # type: ignore[arg-type, return-value]
            def ship(self) -> None: ...

        Order(log.ctx).ship()
        assert {event.meta.entity_id for event in log.events} == {"7"}

    def test_a_broken_entity_id_does_not_break_the_call(
        self, log: Recorder, reports: list[selflog.SelfLogReport]
    ) -> None:
        """The event is logged without it."""

        class Order(Service):
            @property
            def entity_id(self) -> str:
                raise OSError

            @log_invocation("ship")
            def ship(self) -> int:
                return 1

        assert Order(log.ctx).ship() == 1
        assert [event.meta.entity_id for event in log.events] == [None, None]
        assert {report.kind for report in reports} == {"invocation"}

    def test_a_root_context_has_no_namespace(self) -> None:
        """The words for "no namespace" do not get into events."""
        log = Recorder(namespace=None)
        Service(log.ctx).work(1)
        assert [event.meta.event_namespace for event in log.events] == [None, None]


class MinimalContext:
    """Exactly what `LogContextProto` asks for."""

    def __init__(self) -> None:
        self.logged: list[tuple[str, int, str | None, Any]] = []
        self.enabled = True

    def log_event(self, event: str, level: int, payload: Any = None, **keywords: Any) -> None:
        assert keywords["skip_payload_normalization"]
        self.logged.append((event, level, keywords["event_outcome"], payload))

    def is_event_enabled(self, meta: LogEventMeta) -> bool:
        return self.enabled

    def normalize_value_for_log(self, value: Any, *, unbounded: bool = False) -> Any:
        return f"<{value}>"

    def get_plain_verbosity_level(self) -> str | None:
        return None

    def build_error_payload(self, err: BaseException) -> dict[str, Any]:
        return {"kind": type(err).__name__}

    def is_error_logged(self, err: BaseException) -> bool:
        return False

    def mark_error_logged(self, err: BaseException) -> None: ...


class TestContextsOfAnotherMake:
    def test_the_protocol_is_all_that_is_needed(self) -> None:
        """A context that offers LogContextProto and nothing more gets all outcomes by log_event."""
        ctx = MinimalContext()
        assert isinstance(ctx, LogContextProto)

        @log_invocation("work", ctx=ctx, log_kwargs_on_invoke=("amount",))
        def work(amount: int) -> None:
            if amount < 0:
                raise ValueError

        work(1)
        with pytest.raises(ValueError):
            work(-1)
        assert [entry[2] for entry in ctx.logged] == ["invoke", "success", "invoke", "failed"]
        assert ctx.logged[0] == ("work", 10, "invoke", {"kwargs": {"amount": "<1>"}})

    async def test_where_not_even_reporting_is_possible_the_call_goes_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the stack full, whatever the logging part tries raises; values and exceptions still come through."""

        def raising(*args: Any, **kwargs: Any) -> Any:
            raise RecursionError

        class Full(MinimalContext):
            log_event = is_event_enabled = is_error_logged = raising

        class FullLater(Full):
            def is_event_enabled(self, meta: LogEventMeta) -> bool:
                return True

        class FullAtTheEnd(Full):
            def is_event_enabled(self, meta: LogEventMeta) -> bool:
                return True

            def log_event(self, event: str, level: int, payload: Any = None, **keywords: Any) -> None:
                if keywords["event_outcome"] != "invoke":
                    raise RecursionError

        monkeypatch.setattr(selflog, "report", raising)
        for ctx in (Full(), FullLater(), FullAtTheEnd()):

            @log_invocation("work", ctx=ctx)
            def work(err: Exception | None) -> int:
                if err is not None:
                    raise err
                return 1

            @log_invocation("awork", ctx=ctx)
            async def awork(err: Exception | None) -> int:
                return work(err)

            @log_invocation("later", ctx=ctx)
            def later(err: Exception | None) -> Awaitable[int]:
                return awork(err)

            assert work(None) == await awork(None) == await later(None) == 1
            err = ValueError()
            with pytest.raises(ValueError) as caught:
                work(err)
            assert caught.value is err
            with pytest.raises(ValueError):
                await awork(ValueError())
            with pytest.raises(ValueError):
                await later(ValueError())

    def test_a_processor_that_raises_does_not_hide_the_failure(self, reports: list[selflog.SelfLogReport]) -> None:
        """What it should have described is shown as its type."""

        class Broken(LogPayloadProcessor):
            def normalize_value_for_log(self, value: Any, *, unbounded: bool = False) -> Any:
                raise OSError

        log = Recorder(payload_processor=Broken())
        with pytest.raises(ValueError):
            Service(log.ctx).fail(ValueError("x"))
        assert log.payload("failed") == {"error": "<dict>"}
        assert {report.kind for report in reports} == {"invocation"}

    @pytest.mark.parametrize("method", ["log_event", "is_event_enabled", "is_error_logged", "build_error_payload"])
    def test_a_context_that_raises_does_not_break_the_call(
        self, method: str, reports: list[selflog.SelfLogReport]
    ) -> None:
        """Whatever the context does, values and exceptions come through."""

        class Broken(MinimalContext): ...

        def raising(*args: Any, **kwargs: Any) -> Any:
            raise OSError

        setattr(Broken, method, raising)
        ctx = Broken()

        @log_invocation("work", ctx=ctx)
        def work(err: Exception | None) -> int:
            if err is not None:
                raise err
            return 1

        assert work(None) == 1
        err = ValueError()
        with pytest.raises(ValueError) as caught:
            work(err)
        assert caught.value is err
        assert err.__context__ is None
        assert {report.kind for report in reports} == {"invocation"}

    def test_the_error_policy_raise_does_not_reach_the_caller(self, reports: list[selflog.SelfLogReport]) -> None:
        """A sink that fails under RAISE does not break the decorated call."""

        class Broken:
            def log(self, event: LogEvent) -> None:
                raise OSError

        log = Recorder(log_sink=Broken(), log_error_handling_policy=LogErrorHandlingPolicy.RAISE)
        assert Service(log.ctx).work(1) == 2
        assert "invocation" in {report.kind for report in reports}


class TestWhatIsDecorated:
    def test_it_looks_like_the_function(self) -> None:
        """Name, documentation, signature and the function itself are to be found."""
        assert Service.work.__name__ == "work"
        assert Service.work.__qualname__ == "Service.work"
        assert Service.work.__doc__ == "Do it."
        assert list(inspect.signature(Service.work).parameters) == ["self", "amount"]
        assert inspect.signature(Service.work).return_annotation == "int"
        assert not inspect.iscoroutinefunction(Service.work)
        assert inspect.iscoroutinefunction(Service.awork)
        assert inspect.iscoroutinefunction(Service(None).awork)

    def test_static_and_class_methods_in_either_order(self, log: Recorder) -> None:
        """The decorator may stand above or below staticmethod and classmethod."""

        class Tools:
            @classmethod
            def get_log_context(cls) -> LogContextProto:
                return log.ctx

            @log_invocation("one")
            @classmethod
            def one(cls) -> type:
                return cls

            @classmethod
            @log_invocation("two")
            def two(cls) -> type:
                return cls

            @log_invocation("three", ctx=log.ctx)
            @staticmethod
            def three(value: int) -> int:
                return value

            @staticmethod
            @log_invocation("four", ctx=log.ctx)
            def four(value: int) -> int:
                return value

        class More(Tools): ...

        assert Tools.one() is Tools
        assert More().one() is More
        assert More.two() is More
        assert Tools.three(3) == Tools().three(3) == 3
        assert Tools.four(4) == Tools().four(4) == 4
        assert log.outcomes == ["invoke", "success"] * 7
        assert isinstance(Tools.__dict__["one"], classmethod)
        assert isinstance(Tools.__dict__["three"], staticmethod)

    def test_on_a_class_what_belongs_to_its_instances_is_no_provider(self, log: Recorder) -> None:
        """A class method of a class whose instances have contexts needs ctx; their entity_id is not the class'."""

        class Order(Service):
            @property
            def entity_id(self) -> str:
                return "order-42"

            @classmethod
            @log_invocation("load")
            def load(cls) -> None: ...

            @classmethod
            @log_invocation("find", ctx=log.ctx)
            def find(cls) -> None: ...

        with pytest.raises(RuntimeError, match="finds no log context"):
            Order.load()
        Order.find()
        assert {event.meta.entity_id for event in log.events} == {None}

    def test_static_providers_serve_class_methods(self, log: Recorder) -> None:
        """get_log_context() may be a static method, or come from the metaclass."""

        class Static:
            @staticmethod
            def get_log_context() -> LogContextProto:
                return log.ctx

            @classmethod
            @log_invocation("work")
            def work(cls) -> None: ...

        class Meta(type):
            def get_log_context(cls) -> LogContextProto:
                return log.ctx

        class OfMeta(metaclass=Meta):
            @classmethod
            @log_invocation("work")
            def work(cls) -> None: ...

        Static.work()
        OfMeta.work()
        assert log.outcomes == ["invoke", "success"] * 2

    def test_a_partial_and_a_callable_object(self, log: Recorder) -> None:
        """Callables without a name or code work; they have no source."""

        class Doubler:
            def __call__(self, value: int) -> int:
                return value * 2

        def add(a: int, b: int) -> int:
            return a + b

        add_two = log_invocation("add", ctx=log.ctx, log_kwargs_on_invoke=("b",))(functools.partial(add, 2))
        double = log_invocation("double", ctx=log.ctx)(Doubler())
        length = log_invocation("length", ctx=log.ctx)(len)
        biggest = log_invocation("max", ctx=log.ctx, log_kwargs_on_invoke=("a",))(max)
        assert add_two(3) == 5
        assert double(4) == 8
        assert length("abc") == 3
        assert biggest(1, 2) == 2
        assert log.events[0].payload == {"kwargs": {"b": 3}}
        assert log.outcomes == ["invoke", "success"] * 4
        assert log.events[2].meta.source_path is None

    async def test_a_partial_of_a_coroutine_function(self, log: Recorder) -> None:
        """It is a coroutine function itself."""

        async def add(a: int, b: int) -> int:
            return a + b

        add_two = log_invocation("add", ctx=log.ctx)(functools.partial(add, 2))
        assert inspect.iscoroutinefunction(add_two)
        assert await add_two(3) == 5

    def test_methods_of_subclasses_and_super(self, log: Recorder) -> None:
        """Each decorated method is an event of its own, outermost first."""

        class Child(Service):
            @log_invocation("child.work")
            def work(self, amount: int) -> int:
                return super().work(amount) + 1

        assert Child(log.ctx).work(1) == 3
        assert [(event.meta.event_name, event.event_outcome) for event in log.events] == [
            ("child.work", "invoke"),
            ("work", "invoke"),
            ("work", "success"),
            ("child.work", "success"),
        ]

    def test_one_decorator_serves_many_functions(self, log: Recorder) -> None:
        """A decorator that is kept in a variable keeps the functions apart."""
        logged = log_invocation("step", ctx=log.ctx, log_kwargs_on_invoke=("a", "b"))

        @logged
        def first(a: int) -> int:
            return a

        @logged
        def second(b: int) -> int:
            return b

        first(1)
        second(2)
        assert [event.payload for event in log.events if event.event_outcome == "invoke"] == [
            {"kwargs": {"a": 1}},
            {"kwargs": {"b": 2}},
        ]

    def test_the_traceback_gets_one_frame_a_decorator(self, log: Recorder) -> None:
        """Between caller and function stands one frame."""
        try:
            Service(log.ctx).fail(ValueError())
        except ValueError as err:
            names = [frame.name for frame in traceback.extract_tb(err.__traceback__)]
        assert names == [sys._getframe().f_code.co_name, "wrapper", "fail"]

    async def test_the_traceback_of_a_coroutine_gets_one_frame_a_decorator(self, log: Recorder) -> None:
        """The same for coroutine functions."""

        @log_invocation("fail", ctx=log.ctx)
        async def fail() -> None:
            raise ValueError

        try:
            await fail()
        except ValueError as err:
            names = [frame.name for frame in traceback.extract_tb(err.__traceback__)]
        assert names == [sys._getframe().f_code.co_name, "wrapper", "fail"]

    def test_a_failed_call_leaves_no_cycle_behind(self, log: Recorder) -> None:
        """An object that failed is freed when the last reference goes, without the collector."""

        class Failing(Service):
            @log_invocation("raise")
            def fail_afresh(self) -> None:
                raise ValueError

        service = Failing(log.ctx)
        gone = weakref.ref(service)
        gc.disable()
        try:
            try:
                service.fail_afresh()
            except ValueError:
                pass
            del service
            assert gone() is None
        finally:
            gc.enable()


class Awaitable1:
    """An awaitable that is more than that: the result of many a client library."""

    def __init__(self, err: Exception | None = None) -> None:
        self.err = err
        self.option = 1
        self.left = False

    def __await__(self) -> Generator[Any, None, str]:
        yield from asyncio.sleep(0).__await__()
        if self.err is not None:
            raise self.err
        return "answer"

    async def __aenter__(self) -> str:
        return await self

    async def __aexit__(self, *exc: object) -> None:
        self.left = True

    def __len__(self) -> int:
        return 3

    def __repr__(self) -> str:
        return "Awaitable1()"


class TestFunctionsThatReturnAwaitables:
    def make(self, log: Recorder, make: Callable[[], Any]) -> Callable[[], Any]:
        @log_invocation("ask", ctx=log.ctx, log_result_on_success=True)
        def ask() -> Any:
            return make()

        return ask

    async def test_a_coroutine_is_logged_when_it_is_done(self, log: Recorder) -> None:
        """Success comes with the value of the coroutine, not with the coroutine."""

        async def answer() -> str:
            await asyncio.sleep(0)
            return "answer"

        ask = self.make(log, answer)
        coroutine = ask()
        assert inspect.iscoroutine(coroutine)
        assert not inspect.iscoroutinefunction(ask)
        assert coroutine.__qualname__.endswith("answer")
        assert log.outcomes == ["invoke"]
        assert await coroutine == "answer"
        assert log.payload("success") == {"result": "answer"}

    async def test_a_coroutine_that_fails(self, log: Recorder) -> None:
        """The failure is told when it happens."""

        async def answer() -> str:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await self.make(log, answer)()
        assert log.outcomes == ["invoke", "failed"]

    async def test_a_coroutine_that_is_cancelled(self, log: Recorder) -> None:
        """So is the cancellation."""

        async def answer() -> str:
            await asyncio.sleep(60)
            return ""

        task = asyncio.create_task(self.make(log, answer)())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log.outcomes == ["invoke", "cancelled"]

    async def test_a_failure_before_there_is_an_awaitable(self, log: Recorder) -> None:
        """The function itself may fail."""

        def make() -> Awaitable[str]:
            raise ValueError

        with pytest.raises(ValueError):
            self.make(log, make)()
        assert log.outcomes == ["invoke", "failed"]

    async def test_a_task_is_returned_as_it_is_and_logged_when_it_is_done(self, log: Recorder) -> None:
        """Tasks can still be cancelled, compared and waited for; the outcome is logged though nobody awaits."""
        made = []

        async def answer() -> str:
            await asyncio.sleep(0)
            return "answer"

        def make() -> asyncio.Task[str]:
            made.append(asyncio.create_task(answer()))
            return made[-1]

        task = self.make(log, make)()
        assert task is made[0]
        assert log.outcomes == ["invoke"]
        await asyncio.wait([task])
        assert log.payload("success") == {"result": "answer"}

    async def test_a_task_that_fails_or_is_cancelled(self, log: Recorder) -> None:
        """Its exception, or its cancellation, is the outcome."""

        async def answer(err: Exception | None) -> None:
            if err:
                raise err
            await asyncio.sleep(60)

        failing = self.make(log, lambda: asyncio.ensure_future(answer(ValueError())))()
        with pytest.raises(ValueError):
            await failing
        cancelled = self.make(log, lambda: asyncio.ensure_future(answer(None)))()
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert log.outcomes == ["invoke", "failed", "invoke", "cancelled"]

    async def test_a_future_that_is_done_already(self, log: Recorder) -> None:
        """Its outcome is logged at once."""

        def make() -> asyncio.Future[str]:
            future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            future.set_result("cached")
            return future

        assert self.make(log, make)().result() == "cached"
        assert log.payload("success") == {"result": "cached"}

    async def test_a_task_nobody_awaits_is_still_complained_of(self, log: Recorder) -> None:
        """asyncio's "exception was never retrieved" is not silenced by logging the exception."""
        told = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))

        async def answer() -> None:
            raise ValueError

        task = self.make(log, lambda: asyncio.ensure_future(answer()))()
        await asyncio.wait([task])
        await asyncio.sleep(0)
        assert log.outcomes == ["invoke", "failed"]
        del task
        gc.collect()
        assert told == ["Task exception was never retrieved"]

    async def test_a_future_of_another_make(self, log: Recorder, reports: list[selflog.SelfLogReport]) -> None:
        """Futures that only look like asyncio's are watched through their public methods; one may fail in them."""

        class Foreign:
            _asyncio_future_blocking = False
            broken = False

            def __init__(self) -> None:
                self.callbacks: list[Callable[[Any], None]] = []

            def done(self) -> bool:
                return False

            def cancelled(self) -> bool:
                if self.broken:
                    raise OSError
                return False

            def exception(self) -> Exception:
                return ValueError("foreign")

            def add_done_callback(self, callback: Callable[[Any], None]) -> None:
                self.callbacks.append(callback)

            def __await__(self) -> Generator[Any, None, None]:
                yield

        future = Foreign()
        assert self.make(log, lambda: future)() is future
        future.callbacks[0](future)
        assert log.payload("failed")["error"] == {"kind": "ValueError", "message": "foreign"}
        assert reports == []
        future.broken = True
        future.callbacks[0](future)
        assert [report.kind for report in reports] == ["invocation"]

    async def test_another_awaitable_keeps_its_other_sides(self, log: Recorder) -> None:
        """What is awaitable and more stays more: attributes, special methods, its type."""
        awaitable = Awaitable1()
        result = self.make(log, lambda: awaitable)()
        assert isinstance(result, Awaitable1)
        assert inspect.isawaitable(result)
        assert (len(result), repr(result), result.option) == (3, "Awaitable1()", 1)
        result.option = 2
        assert awaitable.option == 2
        del result.option
        assert not hasattr(awaitable, "option")
        assert log.outcomes == ["invoke"]
        assert await result == "answer"
        assert log.outcomes == ["invoke", "success"]
        assert await result == "answer"
        assert log.outcomes == ["invoke", "success"], "a second await is no second call"

    async def test_an_awaitable_that_is_entered(self, log: Recorder) -> None:
        """async with is a way to get the result too."""
        awaitable = Awaitable1()
        async with self.make(log, lambda: awaitable)() as answer:
            assert answer == "answer"
            assert log.payload("success") == {"result": "answer"}
        assert awaitable.left

    async def test_another_awaitable_that_fails(self, log: Recorder) -> None:
        """Its failure is the outcome."""
        with pytest.raises(ValueError):
            await self.make(log, lambda: Awaitable1(ValueError()))()
        assert log.outcomes == ["invoke", "failed"]

    async def test_a_coroutine_made_of_a_generator(self, log: Recorder) -> None:
        """types.coroutine functions return awaitables too."""

        @log_invocation("old", ctx=log.ctx)
        @types.coroutine
        def old() -> Generator[Any, Any, int]:
            yield from asyncio.sleep(0).__await__()
            return 5

        assert await old() == 5
        assert log.outcomes == ["invoke", "success"]

    async def test_a_muted_event_tells_failures_of_awaitables(self) -> None:
        """A policy that mutes the event mutes neither failure nor cancellation, wherever they come from."""
        log = Recorder(event_policy=muting("ask"))

        async def answer() -> None:
            raise ValueError

        with pytest.raises(ValueError):
            await self.make(log, answer)()
        with pytest.raises(ValueError):
            await self.make(log, lambda: asyncio.ensure_future(answer()))()
        with pytest.raises(ValueError):
            await self.make(log, lambda: Awaitable1(ValueError()))()
        assert await self.make(log, Awaitable1)() == "answer"
        assert log.outcomes == ["failed"] * 3

    async def test_an_awaitable_that_cannot_be_watched_passes_as_it_is(
        self, log: Recorder, reports: list[selflog.SelfLogReport]
    ) -> None:
        """Whatever a class does to who looks at it, the caller gets its value."""

        class Unhashable(type):
            __hash__ = None  # type: ignore[assignment]

        class Touchy(type):
            def __getattr__(cls, name: str) -> Any:
                raise OSError

        class Plain(metaclass=Unhashable): ...

        class Odd(Awaitable1, metaclass=Unhashable): ...

        class Bad(metaclass=Touchy): ...

        plain, odd, bad = Plain(), Odd(), Bad()
        assert self.make(log, lambda: plain)() is plain
        assert self.make(log, lambda: odd)() is odd
        assert self.make(log, lambda: bad)() is bad
        assert log.outcomes == ["invoke", "success"] * 3
        assert reports == []

    async def test_a_future_that_takes_no_callback_passes_as_it_is(
        self, log: Recorder, reports: list[selflog.SelfLogReport]
    ) -> None:
        """The value comes through, and selflog tells why there is no outcome."""

        class Stubborn(Awaitable1):
            _asyncio_future_blocking = False

        future = Stubborn()
        assert self.make(log, lambda: future)() is future
        assert log.outcomes == ["invoke"]
        assert [report.kind for report in reports] == ["invocation"]

    async def test_many_classes_of_awaitables_do_not_pile_up(self, log: Recorder) -> None:
        """Classes made on the fly are not kept for ever."""
        from mvx_logger import invocation

        for _ in range(300):
            made = type("Made", (Awaitable1,), {})
            assert await self.make(log, made)() == "answer"
        assert len(invocation._stand_ins) <= 256


class TestPolicyAndLevels:
    async def test_a_muted_event_still_tells_failure_and_cancellation(self) -> None:
        """The policy mutes invoke and success only."""
        log = Recorder(event_policy=muting("work"))

        @log_invocation("work", ctx=log.ctx)
        async def work(err: BaseException | None) -> None:
            if err is not None:
                raise err

        await work(None)
        assert log.outcomes == []
        with pytest.raises(ValueError):
            await work(ValueError())
        with pytest.raises(asyncio.CancelledError):
            await work(asyncio.CancelledError())
        assert log.outcomes == ["failed", "cancelled"]
        assert {event.meta.event_name for event in log.events} == {"work"}

    def test_the_policy_is_asked_once_a_call(self) -> None:
        """A call that was announced is ended, though the policy changed in between."""
        asked = []

        class Once:
            def is_event_enabled(self, event: LogEventMeta) -> bool:
                asked.append(event)
                return len(asked) == 1

        log = Recorder(event_policy=Once())
        Service(log.ctx).work(1)
        assert log.outcomes == ["invoke", "success"]
        assert len(asked) == 1
        assert asked[0].event_name == "work"

    def test_min_level_holds_for_every_outcome(self) -> None:
        """Below the context's minimal level nothing is logged, at it everything."""
        log = Recorder(min_level=LogLevel.WARNING)
        asked = []

        @log_invocation("work", ctx=log.ctx, success_level=LogLevel.WARNING, error_level=LogLevel.INFO)
        def work(fail: bool) -> None:
            if fail:
                raise ValueError

        work(False)
        with pytest.raises(ValueError):
            work(True)
        assert log.outcomes == ["success"]
        assert asked == []

    def test_below_min_level_nothing_is_evaluated(self) -> None:
        """A rejected event asks neither for the entity's id nor for values."""
        log = Recorder(min_level=LogLevel.CRITICAL)

        def never(*args: Any) -> Any:
            raise AssertionError

        @log_invocation(
            "work",
            ctx=log.ctx,
            entity_id_getter=never,
            log_closures_on_invoke={"x": never},
            context_formatter=never,
            log_result_on_success=never,
        )
        def work(fail: bool) -> None:
            if fail:
                raise ValueError

        work(False)
        with pytest.raises(ValueError):
            work(True)
        assert log.outcomes == []

    async def test_cancellation_below_min_level(self) -> None:
        """Cancellation is INFO and subject to min_level too."""
        log = Recorder(min_level=LogLevel.WARNING)

        @log_invocation("work", ctx=log.ctx)
        async def work() -> None:
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await work()
        assert log.outcomes == []


class TestErrors:
    def nest(self, log: Recorder, outer: Recorder, err: BaseException, **options: Any) -> None:
        @log_invocation("inner", ctx=log.ctx, **options)
        def inner() -> None:
            raise err

        @log_invocation("outer", ctx=outer.ctx)
        def wrapping() -> None:
            inner()

        with pytest.raises(type(err)):
            wrapping()

    def test_an_exception_is_reported_in_full_once(self, log: Recorder) -> None:
        """The innermost frame reports it; those further out say that they failed too."""
        self.nest(log, log, ValueError("broken"))
        inner, outer = log.events[2:]
        assert (inner.meta.event_name, inner.level) == ("inner", LogLevel.ERROR)
        assert inner.exception is not None
        assert (outer.meta.event_name, outer.event_outcome, outer.level) == ("outer", "failed", LogLevel.DEBUG)
        assert outer.payload == {"error": {"kind": "ValueError", "message": "broken"}}
        assert outer.exception is None

    def test_another_context_further_out_knows(self, log: Recorder) -> None:
        """The mark is on the exception, not in the context."""
        other = Recorder()
        self.nest(log, other, ValueError("broken"))
        assert other.events[1].level == LogLevel.DEBUG

    def test_an_exception_below_the_minimal_level_is_not_taken_as_reported(self) -> None:
        """Who did not log it did not report it."""
        quiet, loud = Recorder(min_level=LogLevel.CRITICAL), Recorder()
        self.nest(quiet, loud, ValueError("broken"))
        assert loud.events[1].level == LogLevel.ERROR
        assert loud.events[1].exception is not None

    async def test_a_cancellation_is_told_at_its_level_once(self, log: Recorder) -> None:
        """Frames further out tell it at the level of what is known already."""
        self.nest(log, log, asyncio.CancelledError("stop"))
        assert [(event.event_outcome, event.level) for event in log.events[2:]] == [
            ("cancelled", LogLevel.INFO),
            ("cancelled", LogLevel.DEBUG),
        ]

    def test_a_rule_changes_the_level(self, log: Recorder) -> None:
        """LogErrorRule(level=...) reports in full at that level; subclasses count."""
        self.nest(log, log, KeyError("x"), log_error_policy=(LogErrorRule(LookupError, level=LogLevel.WARNING),))
        assert log.events[2].level == LogLevel.WARNING
        assert log.events[2].exception is not None
        assert log.events[3].level == LogLevel.DEBUG

    def test_a_rule_suppresses(self, log: Recorder) -> None:
        """A suppressed exception is told with kind and message, and an outer frame may report it in full."""
        rules = (LogErrorRule((KeyError, ValueError), suppress=True),)
        self.nest(log, log, KeyError("x"), log_error_policy=rules, error_level_suppressed=LogLevel.INFO)
        inner, outer = log.events[2:]
        assert inner.level == LogLevel.INFO
        assert inner.payload == {"error": {"kind": "KeyError", "message": "'x'"}}
        assert inner.exception is None
        assert outer.level == LogLevel.ERROR
        assert outer.exception is not None

    def test_a_rule_suppresses_at_a_level_of_its_own(self, log: Recorder) -> None:
        """level and suppress go together."""
        rules = (LogErrorRule(KeyError, level=15, suppress=True),)
        self.nest(log, log, KeyError("x"), log_error_policy=rules)
        assert log.events[2].level == 15

    @pytest.mark.parametrize(
        ("rule", "level", "full"),
        [
            ((KeyError, True), LogLevel.ERROR, True),
            ((KeyError, False), LogLevel.DEBUG, False),
            (((ValueError, LookupError), LogLevel.WARNING), LogLevel.WARNING, True),
            ((ValueError, LogLevel.WARNING), LogLevel.ERROR, True),
        ],
    )
    def test_pairs_are_short_for_rules(self, log: Recorder, rule: Any, level: int, full: bool) -> None:
        """(types, level), (types, True) and (types, False)."""
        self.nest(log, log, KeyError("x"), log_error_policy=(rule,))
        assert log.events[2].level == level
        assert (log.events[2].exception is not None) is full

    def test_the_first_matching_rule_decides(self, log: Recorder) -> None:
        """Rules are read in order."""
        self.nest(log, log, KeyError("x"), log_error_policy=[(KeyError, 15), (LookupError, 25)])
        assert log.events[2].level == 15

    def test_an_exception_that_fights_back(self, log: Recorder) -> None:
        """A raising __str__, and attributes that raise, do not keep the failure from being told or raised."""

        class Nasty(Exception):
            def __str__(self) -> str:
                raise OSError

            def to_log_payload(self) -> dict[str, Any]:
                raise OSError

        self.nest(log, log, Nasty())
        assert log.outcomes == ["invoke", "invoke", "failed", "failed"]
        assert log.events[2].payload["error"]["kind"] == "Nasty"

    def test_a_group_of_exceptions_is_a_failure(self, log: Recorder) -> None:
        """ExceptionGroup is an Exception."""
        self.nest(log, log, ExceptionGroup("many", [ValueError("a"), KeyError("b")]))
        failed = log.events[2]
        assert failed.exception is not None
        assert "ValueError: a" in failed.exception.text
        assert "KeyError: 'b'" in failed.exception.text

    def test_a_recursion_that_fills_the_stack_ends_as_it_does_without(self, log: Recorder) -> None:
        """The logging part gives up where there is no stack left; RecursionError comes through."""

        @log_invocation("dig", ctx=log.ctx)
        def dig(depth: int) -> int:
            return dig(depth + 1)

        selflog.redirect(lambda report: None)
        try:
            with pytest.raises(RecursionError):
                dig(0)
        finally:
            selflog.redirect(None)
        assert "failed" in log.outcomes


class Order:
    def __init__(self) -> None:
        self.number = 42
        self.items = [f"item{index}" for index in range(20)]
        self.customer = {"name": "Ann", "password": "pa55word"}
        self.lines = [Line("pen"), Line("ink")]

    @property
    def broken(self) -> Any:
        raise OSError


class Line:
    def __init__(self, name: str) -> None:
        self.name = name


class TestFields:
    def select(self, spec: str, **settings: Any) -> Any:
        """What ``kwargs`` holds when `spec` is selected from a call with an order."""
        log = Recorder(**settings)

        @log_invocation("take", ctx=log.ctx, log_kwargs_on_invoke=(spec,))
        def take(order: Order, /, amount: int = 3, *rest: str, note: str = "none", **more: Any) -> None: ...

        take(Order(), 5, "x", "y", extra={"deep": 1})
        return log.payload("invoke").get("kwargs", {})

    @pytest.mark.parametrize(
        ("spec", "selected"),
        [
            ("amount", {"amount": 5}),
            (" n = amount ", {"n": 5}),
            ("note", {"note": "none"}),
            ("order.number", {"number": 42}),
            ("id=order.number", {"id": 42}),
            ("order-id=order.number", {"order-id": 42}),
            ("order.id=order.number", {"order.id": 42}),
            ("order.items.len()", {"items_len": 20}),
            ("size=order.items.len()", {"size": 20}),
            ("rest", {"rest": ["x", "y"]}),
            ("rest.len()", {"rest_len": 2}),
            ("second=rest.1", {"second": "y"}),
            ("order.lines.1.name", {"name": "ink"}),
            ("order.customer.name", {"name": "Ann"}),
            ("order.customer.name.len()", {"name_len": 3}),
            ("extra", {"extra": {"deep": 1}}),
            ("extra.deep", {"deep": 1}),
            ("more", {"more": {"extra": {"deep": 1}}}),
            ("more.extra.deep", {"deep": 1}),
        ],
    )
    def test_values_are_selected(self, spec: str, selected: dict[str, Any]) -> None:
        """Parameters, attributes, keys, positions and len()."""
        assert self.select(spec) == selected

    @pytest.mark.parametrize(
        "spec",
        [
            "unknown",
            "order.unknown",
            "order.broken",
            "order.broken.len()",
            "amount.len()",
            "order.items.99",
            "order.0",
            "order.customer.unknown",
            "order.customer.items",
            "rest.5",
        ],
    )
    def test_what_cannot_be_resolved_is_skipped(self, spec: str) -> None:
        """Missing names, raising properties, len() of a number: no key, no error."""
        assert self.select(spec) == {}

    def test_the_default_of_a_parameter_is_its_value(self, log: Recorder) -> None:
        """Arguments that are left out have their defaults, by position and by name."""

        @log_invocation("take", ctx=log.ctx, log_kwargs_on_invoke=("a", "b", "c"))
        def take(a: int, b: int = 2, *, c: int = 3) -> None: ...

        take(a=1)
        assert log.payload("invoke") == {"kwargs": {"a": 1, "b": 2, "c": 3}}

    def test_a_call_that_does_not_fit_fails_as_it_does_without(self, log: Recorder) -> None:
        """TypeError of the call itself is the failure; missing arguments are skipped."""

        @log_invocation("take", ctx=log.ctx, log_kwargs_on_invoke=("a", "b"))
        def take(a: int, *, b: int) -> None: ...

        with pytest.raises(TypeError, match="missing 1 required"):
            take()  # type: ignore[call-arg]
        assert log.outcomes == ["invoke", "failed"]
        assert log.payload("invoke") == {}

    @pytest.mark.parametrize(
        ("level", "selected"),
        [
            (LogVerbosityLevel.MINIMAL, {}),
            (LogVerbosityLevel.NORMAL, {"amount": 5}),
            (LogVerbosityLevel.MAXIMUM, {"amount": 5}),
        ],
    )
    def test_a_verbosity_prefix_selects_by_the_level_of_the_context(
        self, level: LogVerbosityLevel, selected: dict[str, Any]
    ) -> None:
        """The value is there only at the levels that are named."""
        processor = LogPayloadProcessor(verbosity_level=level)
        assert self.select("NORMAL, MAXIMUM:amount", payload_processor=processor) == selected

    def test_several_verbosity_prefixes(self, log: Recorder) -> None:
        """Each field has its own."""

        @log_invocation("take", ctx=log.ctx, log_kwargs_on_invoke=("NORMAL:a", "MAXIMUM:b", "MINIMAL,NORMAL:c"))
        def take(a: int, b: int, c: int) -> None: ...

        take(1, 2, 3)
        assert log.payload("invoke") == {"kwargs": {"a": 1, "c": 3}}

    def test_a_suffix_lifts_the_limit_of_items(self) -> None:
        """! keeps all items; without it they are cut."""
        assert len(self.select("order.items!")["items"]) == 20
        assert len(self.select("MAXIMUM,NORMAL:all=order.items!")["all"]) == 20
        cut = self.select("order.items")["items"]
        assert len(cut) < 20
        assert "more" in cut[-1]

    def test_secrets_are_redacted_by_their_key(self) -> None:
        """A selected password is as secret as one in a payload, under whatever name it is."""
        for spec in ("order.customer", "order.customer.password", "password=amount"):
            found = self.select(spec)
            assert found
            assert "pa55word" not in str(found)
            assert found.get("password") != 5

    def test_a_dict_that_makes_missing_keys_up_is_left_alone(self, log: Recorder) -> None:
        """Looking a key up does not change the argument."""

        @log_invocation("take", ctx=log.ctx, log_kwargs_on_invoke=("data.key", "data.there"))
        def take(data: dict[str, int]) -> None: ...

        data: defaultdict[str, int] = defaultdict(int, there=1)
        take(data)
        assert dict(data) == {"there": 1}
        assert log.payload("invoke") == {"kwargs": {"there": 1}}

    @pytest.mark.parametrize("argument", ["context_fields", "log_kwargs_on_invoke", "log_result_on_success"])
    @pytest.mark.parametrize(
        ("spec", "why"),
        [
            ("", "a name is missing"),
            ("a..b", "a name is missing"),
            ("a.", "a name is missing"),
            ("x=", "a name is missing"),
            ("MAXIMUM:", "a name is missing"),
            ("!", "a name is missing"),
            ("=a", "before '='"),
            ("a b=c", "before '='"),
            (":a", "before ':'"),
            ("LOUD,:a", "before ':'"),
            ("a.clear()", "only 'len()' can be called"),
            ("a.len(1)", "only 'len()' can be called"),
            ("a!b", "'a!b' is not a name"),
            ("a[0]", "'a[0]' is not a name"),
        ],
    )
    def test_a_malformed_spec_is_refused_when_the_function_is_decorated(
        self, argument: str, spec: str, why: str
    ) -> None:
        """ValueError names the argument, quotes the spec and says what is right."""
        with pytest.raises(ValueError) as caught:
            log_invocation("take", **{argument: (spec,)})  # type: ignore[arg-type]
        text = str(caught.value)
        assert text.startswith(f"{argument}: {spec!r}: ")
        assert why in text
        assert "[LEVELS:][alias=]path[!]" in text

    @pytest.mark.parametrize("spec", ["0", "len()", "0.name"])
    def test_arguments_have_no_positions(self, spec: str) -> None:
        """A spec for an argument begins with a name; one for a result need not."""
        with pytest.raises(ValueError, match="begins with a name"):
            log_invocation("take", log_kwargs_on_invoke=(spec,))
        log_invocation("take", log_result_on_success=(spec,))

    @given(
        alias=st.none() | st.from_regex(r"[a-z_]{1,5}(-[a-z]{1,3})?", fullmatch=True),
        path=st.lists(st.sampled_from(["a", "b", "_c", "0", "1", "len()"]), min_size=1, max_size=4),
        levels=st.lists(st.sampled_from(["MINIMAL", "NORMAL", "MAXIMUM"]), max_size=3),
        unbounded=st.booleans(),
    )
    def test_every_well_formed_spec_is_read_as_it_was_written(
        self, alias: str | None, path: list[str], levels: list[str], unbounded: bool
    ) -> None:
        """The parts of a spec come out as they were put in."""
        from mvx_logger.invocation import _Field

        spec = (
            (f"{','.join(levels)}:" if levels else "")
            + (f"{alias}=" if alias else "")
            + ".".join(path)
            + ("!" if unbounded else "")
        )
        field = _Field("x", spec, on_value=True)
        assert field.levels == (frozenset(levels) if levels else None)
        assert field.unbounded is unbounded
        assert alias is None or field.alias == alias
        assert field.alias
        steps = [int(step) if step.isdigit() else len if step == "len()" else step for step in path]
        assert list(field.path) == steps

    @given(st.text(max_size=20))
    def test_any_text_is_a_spec_or_a_value_error(self, text: str) -> None:
        """No text makes the parser fail in another way."""
        told = repr(text)
        try:
            log_invocation("take", log_kwargs_on_invoke=(text,))
        except ValueError as err:
            told = str(err)
        assert repr(text) in told


class TestPayload:
    def test_context_fields_are_resolved_anew_for_each_outcome(self, log: Recorder) -> None:
        """What changes during the call is shown as it is then."""
        Service(log.ctx).work(1)
        assert [event.payload["state"] for event in log.events] == ["idle", "busy"]

    async def test_context_fields_are_on_every_outcome(self, log: Recorder) -> None:
        """Parameters, and attributes of the first argument with or without its name."""

        class Client(Service):
            @log_invocation("call", context_fields=("state", "again=self.state", "key", "all=rest"))
            async def call(self, key: str, *rest: int, err: BaseException | None = None) -> None:
                if err is not None:
                    raise err

        client = Client(log.ctx)
        expected = {"state": "idle", "again": "idle", "key": "k", "all": []}
        await client.call("k")
        with pytest.raises(ValueError):
            await client.call("k", err=ValueError())
        with pytest.raises(asyncio.CancelledError):
            await client.call("k", err=asyncio.CancelledError())
        assert log.outcomes == ["invoke", "success", "invoke", "failed", "invoke", "cancelled"]
        for event in log.events:
            assert {key: value for key, value in event.payload.items() if key != "error"} == expected

    def test_the_context_formatter_adds_to_every_outcome(self, log: Recorder) -> None:
        """It gets the first argument; its values are normalized."""

        class Client(Service):
            @log_invocation(
                "call",
                context_fields=("state",),
                context_formatter=lambda self: {"upper": self.state.upper(), "token": "abc", 1: object},
            )
            def call(self) -> None: ...

        Client(log.ctx).call()
        for event in log.events:
            assert event.payload["state"] == "idle"
            assert event.payload["upper"] == "IDLE"
            assert event.payload["token"] != "abc"
            assert "1" in event.payload

    def test_a_context_formatter_that_fails_is_left_out(
        self, log: Recorder, reports: list[selflog.SelfLogReport]
    ) -> None:
        """The event is logged without its fields, and selflog tells."""

        @log_invocation("call", ctx=log.ctx, context_formatter=lambda first: first.nothing)
        def call() -> int:
            return 1

        assert call() == 1
        assert log.outcomes == ["invoke", "success"]
        assert {report.kind for report in reports} == {"invocation"}

    def test_context_fields_do_not_cover_what_the_outcome_says(self, log: Recorder) -> None:
        """Where a context field is called like a part of the payload, they are put under "context"."""

        @log_invocation("call", ctx=log.ctx, context_fields=("result", "x"), log_result_on_success=True)
        def call(result: int, x: int) -> int:
            return 9

        call(1, 2)
        assert log.payload("invoke") == {"context": {"result": 1, "x": 2}}
        assert log.payload("success") == {"context": {"result": 1, "x": 2}, "result": 9}

    def test_closures_are_evaluated_when_the_call_begins(self, log: Recorder) -> None:
        """Callables get the arguments of the call; other values are taken as they are."""
        seen = {"count": 1}

        @log_invocation(
            "call",
            ctx=log.ctx,
            log_closures_on_invoke={
                "count": lambda *args, **kwargs: seen["count"],
                "sum": lambda a, b: a + b,
                "target": "db-1",
                "password": "secret",
            },
        )
        def call(a: int, b: int) -> None: ...

        seen["count"] = 2
        call(3, b=4)
        closures = log.payload("invoke")["closures"]
        assert {key: closures[key] for key in ("count", "sum", "target")} == {"count": 2, "sum": 7, "target": "db-1"}
        assert "secret" not in str(closures)
        assert log.payload("success") == {}

    def test_a_closure_that_raises_is_left_out(self, log: Recorder, reports: list[selflog.SelfLogReport]) -> None:
        """The others are logged, and selflog tells which."""

        @log_invocation("call", ctx=log.ctx, log_closures_on_invoke={"bad": lambda: 1 / 0, "good": lambda: 1})
        def call() -> None: ...

        call()
        assert log.payload("invoke") == {"closures": {"good": 1}}
        assert ["'bad'" in report.message for report in reports] == [True]

    @pytest.mark.parametrize("option", [None, False])
    def test_the_result_is_not_logged_unless_asked_for(self, log: Recorder, option: Any) -> None:
        """Results may be secret or huge."""

        @log_invocation("call", ctx=log.ctx, log_result_on_success=option)
        def call() -> str:
            return "secret"

        call()
        assert log.payload("success") == {}

    @pytest.mark.parametrize(
        ("option", "result", "logged"),
        [
            (True, {"a": 1}, {"result": {"a": 1}}),
            ((), {"a": 1}, {"result": {"a": 1}}),
            (True, None, {"result": None}),
            (("number", "n=items.len()"), Order(), {"result": {"number": 42, "n": 20}}),
            (["1", "first=0"], ("x", "y"), {"result": {"1": "y", "first": "x"}}),
            (("a",), {"a": 1, "b": 2}, {"result": {"a": 1}}),
            (("len()",), "four", {"result": {"len": 4}}),
            (("number",), None, {"result": None}),
            (("unknown",), Order(), {}),
            (lambda result: {"double": result * 2}, 4, {"result": {"double": 8}}),
            (lambda result: result + 1, 4, {"result": 5}),
        ],
    )
    def test_the_result_is_logged_as_asked_for(
        self, log: Recorder, option: Any, result: Any, logged: dict[str, Any]
    ) -> None:
        """The whole, selected parts, or what a callable makes of it."""

        @log_invocation("call", ctx=log.ctx, log_result_on_success=option)
        def call() -> Any:
            return result

        assert call() is result
        assert log.payload("success") == logged

    def test_a_result_formatter_that_fails_is_left_out(
        self, log: Recorder, reports: list[selflog.SelfLogReport]
    ) -> None:
        """success is logged without the result."""

        @log_invocation("call", ctx=log.ctx, log_result_on_success=lambda result: result.nothing)
        def call() -> int:
            return 1

        assert call() == 1
        assert log.payload("success") == {}
        assert [report.kind for report in reports] == ["invocation"]

    def test_values_are_described_not_passed_on(self, log: Recorder) -> None:
        """Payloads hold plain data, whatever the arguments are, also ones that fight back."""

        class Nasty:
            def __repr__(self) -> str:
                raise OSError

            __str__ = __repr__

            def __len__(self) -> int:
                raise OSError

        nasty = Nasty()

        @log_invocation("call", ctx=log.ctx, log_kwargs_on_invoke=("value",), log_result_on_success=True)
        def call(value: Any) -> Any:
            return value

        assert call(nasty) is nasty
        assert log.outcomes == ["invoke", "success"]
        assert not any(isinstance(event.payload, Nasty) for event in log.events)
        assert "Nasty" in str(log.payload("success"))


class TestArguments:
    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            ("invoke_level", "INFO"),
            ("success_level", None),
            ("error_level", True),
            ("error_level_suppressed", 1.5),
            ("cancel_level", "10"),
            ("log_closures_on_invoke", ["x"]),
            ("context_fields", "name"),
            ("context_fields", (1,)),
            ("context_fields", None),
            ("context_formatter", "x"),
            ("log_kwargs_on_invoke", 5),
            ("log_result_on_success", "name"),
            ("log_result_on_success", 5),
            ("log_error_policy", KeyError),
            ("log_error_policy", LogErrorRule(KeyError)),
            ("log_error_policy", (KeyError, True)),
            ("log_error_policy", ((KeyError, "ERROR"),)),
            ("log_error_policy", ((int, True),)),
            ("log_error_policy", (("KeyError", True),)),
            ("log_error_policy", (LogErrorRule(KeyError, level="x"),)),  # type: ignore[arg-type]
            ("ctx", "shop"),
            ("ctx", object()),
            ("entity_id_getter", "id"),
        ],
    )
    def test_a_wrong_type_is_a_type_error_that_names_the_argument(self, argument: str, value: Any) -> None:
        """At decoration time, not at the first call."""
        with pytest.raises(TypeError, match=argument):
            log_invocation("call", **{argument: value})

    def test_the_name_of_the_event_is_mandatory(self) -> None:
        """Forgotten parentheses are explained."""

        def call() -> None: ...

        with pytest.raises(TypeError, match=r"write @log_invocation\('its.name'\)"):
            log_invocation(call)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="expected a name"):
            log_invocation("")

    @pytest.mark.parametrize("target", [5, int, Service, property(lambda self: 1)])
    def test_what_is_no_function_cannot_be_decorated(self, target: Any) -> None:
        """Classes, properties and values are refused."""
        with pytest.raises(TypeError, match=r"log_invocation\('call'\): expected a function"):
            log_invocation("call")(target)


class TestThreads:
    def test_calls_of_many_threads_do_not_mix(self, log: Recorder) -> None:
        """Each call has its own arguments."""

        @log_invocation("call", ctx=log.ctx, log_kwargs_on_invoke=("value",), log_result_on_success=True)
        def call(value: int) -> int:
            return value

        def work(start: int) -> None:
            for value in range(start, start + 100):
                assert call(value) == value

        threads = [threading.Thread(target=work, args=(number * 100,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        invoked = sorted(e.payload["kwargs"]["value"] for e in log.events if e.event_outcome == "invoke")
        returned = sorted(e.payload["result"] for e in log.events if e.event_outcome == "success")
        assert invoked == returned == list(range(400))


class TestImport:
    def test_importing_the_module_loads_neither_inspect_nor_asyncio(self) -> None:
        """They are loaded when something is decorated, or never."""
        code = """
            import sys, mvx_logger
            before = set(sys.modules)
            import mvx_logger.invocation
            print(sorted({"asyncio", "inspect", "structlog", "dataclasses"} & (set(sys.modules) - before)))
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"

    def test_the_warning_of_a_coroutine_that_is_never_awaited_names_the_function(self, log: Recorder) -> None:
        """It points to the decorated function."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            Service(log.ctx).awork(1)
            gc.collect()
        assert "Service.awork" in str(caught[0].message)

    def test_a_service_is_a_provider(self) -> None:
        """The protocol fits what the tests use."""
        assert isinstance(Service(None), LogContextProviderProto)
