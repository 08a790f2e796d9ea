"""Sinks and contexts by name: configuring, closing, resetting, sharing, finding the nearest."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mvx_logger
from mvx_logger import (
    AsyncioLogSink,
    LogContext,
    LogContextNotFoundError,
    LogErrorHandlingPolicy,
    LogEvent,
    LogPayloadProcessor,
    LogSinkCloseError,
    LogSinkConfigurationConflictError,
    LogSinkCreateError,
    LogSinkDescriptor,
    LogSinkDescriptorBuildError,
    LogSinkIsInUseError,
    LogSinkNotFoundError,
    LogSinkStats,
    PatternLogEventPolicy,
    PatternLogEventPolicyConfig,
    StreamLogSink,
    close_log_sink,
    configure_log_context,
    configure_log_sink,
    get_configured_log_sink_names,
    get_log_context,
    get_log_context_namespaces,
    get_log_sink,
    get_root_log_context,
    has_configured_log_sinks,
    has_log_context,
    nearest_log_context,
    registry,
    reset_log_contexts,
    reset_logger,
)
from mvx_logger.registry import SinkLease, lease_sink
from waiting import wait_until


class Sink:
    """A registrable sink that keeps its events and remembers in which order sinks were closed."""

    made: int = 0
    closed: list[str] = []  # noqa: RUF012

    def __init__(self, destination: str = "d", *, size: int = 1) -> None:
        self.destination = destination
        self.events: list[LogEvent] = []
        self.closed_times = 0

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        return LogSinkDescriptor("test", (kwargs.get("destination", "d"),), (kwargs.get("size", 1),))

    @classmethod
    def create(cls, **kwargs: Any) -> tuple[Any, Callable[[], None]]:
        Sink.made += 1
        sink = cls(**kwargs)
        return sink, sink.close

    def log(self, event: LogEvent) -> None:
        self.events.append(event)

    @property
    def names(self) -> list[str]:
        return [event.meta.event_name for event in self.events]

    def close(self) -> None:
        self.closed_times += 1
        if self.closed_times == 1:
            Sink.closed.append(self.destination)


class BackgroundSink(AsyncioLogSink):
    """Delivers to a list when it is let."""

    def __init__(self, *, label: str = "b", **options: Any) -> None:
        super().__init__(**options)
        self.events: list[LogEvent] = []
        self.gate = threading.Event()
        self.gate.set()

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        return LogSinkDescriptor("background", (kwargs.get("label", "b"),))

    async def _dispatch_core(self, event: LogEvent) -> None:
        self.gate.wait(30)
        self.events.append(event)


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Sink.made = 0
    Sink.closed.clear()
    monkeypatch.setattr(registry, "_leased", {})  # not what handlers of other tests still hold
    yield
    assert registry._leased == {}, "a share was not given back"


NAMES = st.text("abcXYZ019_-. é\n", max_size=6)


class TestSinks:
    def test_at_import(self) -> None:
        """A `StreamLogSink` named `stderr` serves the root."""
        assert get_configured_log_sink_names() == ("stderr",)
        sink = get_log_sink("stderr")
        assert isinstance(sink, StreamLogSink)
        assert get_root_log_context().log_sink is sink
        assert has_configured_log_sinks()

    def test_configuring_gives_the_sink(self) -> None:
        """It is made by `create` with the options, and found under its name."""
        sink = configure_log_sink(name="main", sink_cls=Sink, destination="x")
        assert type(sink) is Sink
        assert sink.destination == "x"
        assert get_log_sink("main") is sink
        assert get_configured_log_sink_names() == ("stderr", "main")

    def test_configuring_it_again_gives_the_same(self) -> None:
        """Same name and equal descriptor: the sink that is there; no second one is made."""
        first = configure_log_sink(name="main", sink_cls=Sink, destination="x")
        assert configure_log_sink(name="main", sink_cls=Sink, destination="x", size=1) is first
        assert Sink.made == 1
        assert configure_log_sink(name="stderr", sink_cls=StreamLogSink) is get_log_sink("stderr")

    def test_the_same_destination_under_another_name(self) -> None:
        """Another name is another sink."""
        assert configure_log_sink(name="a", sink_cls=Sink) is not configure_log_sink(name="b", sink_cls=Sink)

    @pytest.mark.parametrize("other", [{"destination": "y"}, {"destination": "x", "size": 2}])
    def test_configuring_it_differently_is_a_conflict(self, other: dict[str, Any]) -> None:
        """The error names the sink and tells both descriptors; the sink that is there stays."""
        first = configure_log_sink(name="main", sink_cls=Sink, destination="x")
        with pytest.raises(LogSinkConfigurationConflictError, match="'main'") as caught:
            configure_log_sink(name="main", sink_cls=Sink, **other)
        assert caught.value.details["name"] == "main"
        assert caught.value.details["present"]["resource_key"] == ["x"]
        assert caught.value.details["new"]["resource_key"] == [other["destination"]]
        assert get_log_sink("main") is first
        assert Sink.made == 1

    def test_another_class_is_a_conflict(self) -> None:
        """Also where the descriptors are equal."""

        class Other(Sink):
            pass

        configure_log_sink(name="main", sink_cls=Sink)
        with pytest.raises(LogSinkConfigurationConflictError):
            configure_log_sink(name="main", sink_cls=Other)

    @pytest.mark.parametrize(
        "result", [ValueError("bad option"), None, "descriptor", LogSinkDescriptor("t", ([],))], ids=repr
    )
    def test_a_descriptor_that_cannot_be_built(self, result: Any) -> None:
        """Nothing is created and nothing is registered; the cause is chained where there is one."""

        class Broken(Sink):
            @classmethod
            def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
                if isinstance(result, Exception):
                    raise result
                return result

        with pytest.raises(LogSinkDescriptorBuildError, match="Broken") as caught:
            configure_log_sink(name="main", sink_cls=Broken)
        assert isinstance(caught.value.__cause__, Exception)
        if isinstance(result, Exception):
            assert caught.value.cause is result
        assert get_configured_log_sink_names() == ("stderr",)
        assert Sink.made == 0

    @pytest.mark.parametrize(
        "result",
        [OSError("no such host"), None, Sink(), (Sink(), None), (Sink(),)],
        ids=["raises", "None", "no pair", "no terminator", "a tuple of one"],
    )
    def test_a_sink_that_cannot_be_created(self, result: Any) -> None:
        """Nothing is registered, and the name is free for the next attempt."""

        class Broken(Sink):
            fails = True

            @classmethod
            def create(cls, **kwargs: Any) -> Any:
                if not cls.fails:
                    return super().create(**kwargs)
                if isinstance(result, Exception):
                    raise result
                return result

        with pytest.raises(LogSinkCreateError, match="Broken") as caught:
            configure_log_sink(name="main", sink_cls=Broken)
        assert isinstance(caught.value.__cause__, Exception)
        assert get_configured_log_sink_names() == ("stderr",)
        Broken.fails = False
        assert isinstance(configure_log_sink(name="main", sink_cls=Broken), Broken)

    def test_what_is_no_sink_is_ended_again(self) -> None:
        """Where `create` makes something without `log(event)`, its terminator is called, and nothing is registered."""
        ended: list[str] = []

        class Broken(Sink):
            @classmethod
            def create(cls, **kwargs: Any) -> Any:
                return object(), lambda: ended.append("ended")

        with pytest.raises(LogSinkCreateError, match="log"):
            configure_log_sink(name="main", sink_cls=Broken)
        assert ended == ["ended"]

    @pytest.mark.parametrize("sink_cls", [Sink(), "Sink", None, object, int])
    def test_what_is_no_sink_class(self, sink_cls: Any) -> None:
        """A class without the two class methods, or no class at all, is a `TypeError` that names the argument."""
        with pytest.raises(TypeError, match="sink_cls"):
            configure_log_sink(name="main", sink_cls=sink_cls)

    def test_a_sink_that_is_not_there(self) -> None:
        """The error is a `LookupError` and names those that are there."""
        with pytest.raises(LogSinkNotFoundError, match=r"'main'.*stderr") as caught:
            get_log_sink("main")
        assert isinstance(caught.value, LookupError)

    @pytest.mark.parametrize(
        "function", [get_log_sink, close_log_sink, lambda name: configure_log_sink(name=name, sink_cls=Sink)]
    )
    def test_names_are_checked(self, function: Callable[[Any], Any]) -> None:
        """Not a str: `TypeError`. Malformed: `ValueError`. Nothing is made."""
        for name in (5, None, b"main"):
            with pytest.raises(TypeError, match="name"):
                function(name)
        for name in ("", "1a", "_a", "-a", "a b", "a.b", "é", "a\n", "a:b"):
            with pytest.raises(ValueError, match="name"):
                function(name)
        assert Sink.made == 0

    @given(NAMES)
    def test_which_names_there_are(self, name: str) -> None:
        """`[A-Za-z][A-Za-z0-9_-]*`, and nothing else."""
        import re

        valid = re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name)
        try:
            registry.check_name("name", name)
        except ValueError:
            assert not valid
        else:
            assert valid
        valid = re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z][A-Za-z0-9_-]*)*", name)
        try:
            registry.check_namespace(name)
        except ValueError:
            assert not valid
        else:
            assert valid


class TestClosing:
    def test_an_unknown_name(self) -> None:
        """There is nothing to close."""
        assert close_log_sink("nobody") is False

    def test_closing_ends_the_sink(self) -> None:
        """Its terminator is called and its name is free."""
        sink = configure_log_sink(name="main", sink_cls=Sink)
        assert close_log_sink("main") is True
        assert sink.closed_times == 1
        assert get_configured_log_sink_names() == ("stderr",)
        assert close_log_sink("main") is False
        assert configure_log_sink(name="main", sink_cls=Sink) is not sink

    def test_a_sink_in_use(self) -> None:
        """The error names the contexts that hold it locally; those that inherit it do not count, and it stays."""
        sink = configure_log_sink(name="main", sink_cls=Sink)
        configure_log_context("shop", log_sink=sink)
        configure_log_context("shop.orders")
        configure_log_context("billing", log_sink=sink)
        get_root_log_context().set_log_sink(sink)
        with pytest.raises(LogSinkIsInUseError, match=r"<root>, shop, billing") as caught:
            close_log_sink("main")
        assert caught.value.details == {"name": "main", "namespaces": ["<root>", "shop", "billing"]}
        assert sink.closed_times == 0
        assert get_log_sink("main") is sink
        get_root_log_context().set_log_sink(get_log_sink("stderr"))
        for namespace in ("shop", "billing"):
            get_log_context(namespace).reset_log_sink()
        assert close_log_sink("main") is True

    def test_a_terminator_that_fails(self) -> None:
        """The cause is chained; the sink is no longer registered."""
        error = OSError("disk full")

        class Broken(Sink):
            def close(self) -> None:
                raise error

        configure_log_sink(name="main", sink_cls=Broken)
        with pytest.raises(LogSinkCloseError, match=r"'main'.*disk full") as caught:
            close_log_sink("main")
        assert caught.value.__cause__ is error
        assert get_configured_log_sink_names() == ("stderr",)

    def test_closing_waits_for_delivery(self) -> None:
        """What a background sink has accepted is delivered when the call returns."""
        sink = configure_log_sink(name="main", sink_cls=BackgroundSink)
        context = LogContext(log_sink=sink, payload_processor=LogPayloadProcessor())
        for number in range(100):
            context.log_info_event(f"e{number}")
        close_log_sink("main")
        assert len(sink.events) == 100


class TestContexts:
    def test_parents_are_made(self) -> None:
        """`a.b.c` makes `a`, `a.b` and `a.b.c`, each the parent of the next, below the root."""
        context = configure_log_context("a.b.c")
        assert get_log_context_namespaces() == ("", "a", "a.b", "a.b.c")
        assert context.namespace == "a.b.c"
        assert context.parent is get_log_context("a.b")
        assert get_log_context("a").parent is get_root_log_context() is get_log_context("")
        assert configure_log_context("a.b") is context.parent

    def test_settings_are_for_the_one_that_was_named(self) -> None:
        """The parents that are made along the way have no settings of their own."""
        sink, policy, processor = Sink(), PatternLogEventPolicy(PatternLogEventPolicyConfig()), LogPayloadProcessor()
        context = configure_log_context(
            "a.b",
            log_sink=sink,
            event_policy=policy,
            payload_processor=processor,
            log_error_handling_policy=LogErrorHandlingPolicy.RAISE,
            min_level=30,
        )
        assert context.get_local_log_sink() is sink
        assert context.event_policy is policy
        assert context.payload_processor is processor
        assert context.log_error_handling_policy is LogErrorHandlingPolicy.RAISE
        assert context.min_level == 30
        assert get_log_context("a").get_local_log_sink() is None
        assert get_log_context("a").min_level == 0

    def test_what_is_given_is_updated(self) -> None:
        """Configuring a context again changes what is given and leaves the rest."""
        sink = Sink()
        context = configure_log_context("a", log_sink=sink, min_level=30)
        assert configure_log_context("a", min_level=10) is context
        assert context.log_sink is sink
        assert context.min_level == 10

    def test_a_sink_by_its_name(self) -> None:
        """A registered sink may be named."""
        sink = configure_log_sink(name="main", sink_cls=Sink)
        assert configure_log_context("a", log_sink="main").log_sink is sink
        with pytest.raises(LogSinkNotFoundError):
            configure_log_context("b", log_sink="nobody")
        assert not has_log_context("b")

    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            ("log_sink", object()),
            ("event_policy", object()),
            ("payload_processor", object()),
            ("log_error_handling_policy", "raise"),
            ("min_level", "INFO"),
        ],
    )
    def test_a_wrong_setting_changes_nothing(self, argument: str, value: Any) -> None:
        """No context is made, none is changed."""
        context = configure_log_context("a", min_level=30)
        with pytest.raises(TypeError, match=argument):
            configure_log_context("a.b.c", **{argument: value})
        with pytest.raises(TypeError, match=argument):
            configure_log_context("a", log_sink=Sink(), **{argument: value}) if argument != "log_sink" else (
                configure_log_context("a", min_level=10, **{argument: value})
            )
        assert get_log_context_namespaces() == ("", "a")
        assert context.get_local_log_sink() is None
        assert context.min_level == 30

    @pytest.mark.parametrize("function", [configure_log_context, get_log_context, has_log_context])
    def test_namespaces_are_checked(self, function: Callable[[Any], Any]) -> None:
        """Not a str: `TypeError`. Malformed: `ValueError`. Nothing is made."""
        for namespace in (5, None, b"a"):
            with pytest.raises(TypeError, match="namespace"):
                function(namespace)
        for namespace in ("a.", ".a", "a..b", "1", "a b", "a.1b", "é", "a\n"):
            with pytest.raises(ValueError, match="namespace"):
                function(namespace)
        assert get_log_context_namespaces() == ("",)

    def test_the_root_is_not_configured_by_name(self) -> None:
        """It has no namespace; it can be looked up as the empty one."""
        with pytest.raises(ValueError, match="namespace"):
            configure_log_context("")
        assert has_log_context("") is True
        assert get_log_context("") is get_root_log_context()

    def test_a_context_that_is_not_there(self) -> None:
        """The error is a `LookupError` that says how to make it."""
        assert has_log_context("a") is False
        with pytest.raises(LogContextNotFoundError, match=r"configure_log_context\('a'\)") as caught:
            get_log_context("a")
        assert isinstance(caught.value, LookupError)

    def test_from_many_threads(self) -> None:
        """Whoever is first makes it; all get the same."""
        found: list[LogContext] = []
        barrier = threading.Barrier(8)

        def work() -> None:
            barrier.wait()
            found.append(configure_log_context("a.b.c.d"))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 1
        assert get_log_context_namespaces() == ("", "a", "a.b", "a.b.c", "a.b.c.d")


class TestResetting:
    def test_contexts(self) -> None:
        """All but the root are forgotten; sinks stay; a context that someone holds keeps its settings."""
        sink = configure_log_sink(name="main", sink_cls=Sink)
        held = configure_log_context("a", log_sink=sink)
        root = get_root_log_context()
        root.set_min_level(5)
        reset_log_contexts()
        assert get_log_context_namespaces() == ("",)
        assert get_root_log_context() is root
        assert root.min_level == 5
        assert get_log_sink("main") is sink
        held.log_info_event("e")
        assert sink.names == ["e"]
        assert configure_log_context("a") is not held

    def test_everything(self) -> None:
        """Sinks are closed, newest first, and all is as after the import; the root is the same object."""
        root = get_root_log_context()
        for name in ("a", "b", "c"):
            configure_log_sink(name=name, sink_cls=Sink, destination=name)
        old = get_log_sink("stderr")
        configure_log_context("x.y", log_sink="a")
        root.set_log_sink(get_log_sink("b"))
        root.set_min_level(40)
        root.set_event_policy(PatternLogEventPolicy(PatternLogEventPolicyConfig(default_enabled=False)))
        root.set_log_error_handling_policy(LogErrorHandlingPolicy.RAISE)
        root.set_payload_processor(LogPayloadProcessor(max_items=1))
        reset_logger()
        assert Sink.closed == ["c", "b", "a"]
        assert get_configured_log_sink_names() == ("stderr",)
        assert get_log_context_namespaces() == ("",)
        assert get_root_log_context() is root
        assert root.log_sink is get_log_sink("stderr") is not old
        assert root.min_level == 0
        assert root.event_policy is None
        assert root.log_error_handling_policy is LogErrorHandlingPolicy.PRINT_STDERR
        assert root.normalize_payload({"a": 1, "b": 2}) == {"a": 1, "b": 2}

    def test_contexts_that_are_held_go_on(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A module's `ctx = configure_log_context(...)` logs to the new `stderr` sink, not to one that was closed."""
        sink = configure_log_sink(name="main", sink_cls=Sink)
        held = configure_log_context("shop", log_sink=sink, min_level=50)
        below = LogContext(namespace="shop.request", parent=held)
        reset_logger()
        held.log_info_event("order.created")
        below.log_info_event("order.paid")
        assert sink.events == []
        errors = capsys.readouterr().err
        assert "INFO: shop.order.created" in errors
        assert "INFO: shop.request.order.paid" in errors

    def test_no_context_is_left_with_a_closed_sink(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Also not one that was forgotten before, or never registered; one with a sink of its own keeps that."""
        sink, own = configure_log_sink(name="main", sink_cls=Sink), Sink()
        forgotten = configure_log_context("shop", log_sink=sink)
        reset_log_contexts()
        unregistered = LogContext(namespace="x", parent=get_root_log_context(), log_sink=sink)
        independent = LogContext(namespace="y", parent=get_root_log_context(), log_sink=own)
        reset_logger()
        for context in (forgotten, unregistered, independent):
            context.log_info_event("e")
        assert sink.events == []
        assert own.names == ["e"]
        assert capsys.readouterr().err.count("\n") == 2

    def test_sinks_that_a_configuration_made_for_contexts(self) -> None:
        """They have no names, and are ended too; those that a handler holds go on."""
        spec = {"class": Sink, "destination": "inline"}
        handler = mvx_logger.SinkHandler({"class": Sink, "destination": "handler"})
        mvx_logger.configure({"root": {"log_sink": spec}, "sinks": {"main": {"class": Sink, "destination": "named"}}})
        reset_logger()
        assert sorted(Sink.closed) == ["inline", "named"]
        handler.close()
        assert sorted(Sink.closed) == ["handler", "inline", "named"]

    def test_a_terminator_that_fails(self) -> None:
        """The others are called all the same, everything is reset, and the error names all that failed."""

        class Broken(Sink):
            def close(self) -> None:
                raise OSError(self.destination)

        configure_log_sink(name="a", sink_cls=Sink, destination="a")
        configure_log_sink(name="b", sink_cls=Broken, destination="b")
        configure_log_sink(name="c", sink_cls=Sink, destination="c")
        configure_log_sink(name="d", sink_cls=Broken, destination="d")
        with pytest.raises(LogSinkCloseError, match="'d'") as caught:
            reset_logger()
        assert caught.value.details["failed"] == ["d", "b"]
        assert Sink.closed == ["c", "a"]
        assert get_configured_log_sink_names() == ("stderr",)

    def test_twice(self) -> None:
        """Resetting is idempotent."""
        reset_logger()
        reset_logger()
        assert get_configured_log_sink_names() == ("stderr",)


class TestNearest:
    def test_the_nearest_by_name(self) -> None:
        """`shop` serves `shop.orders.db` until `shop.orders` is configured; the root serves the rest."""
        root = get_root_log_context()
        assert nearest_log_context("shop.orders.db") is root
        shop = configure_log_context("shop")
        assert nearest_log_context("shop.orders.db") is shop
        assert nearest_log_context("shop") is shop
        assert nearest_log_context("shopping") is root
        orders = configure_log_context("shop.orders")
        assert nearest_log_context("shop.orders.db") is orders
        assert nearest_log_context("shop.cart") is shop

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "a..b", ".a", "a.", "__main__", "not a name!", "é.ü", "x" * 10_000]
    )
    def test_any_logger_name(self, name: str) -> None:
        """Loggers are named more freely than contexts: there is one for each."""
        assert nearest_log_context(name) is get_root_log_context()

    def test_it_follows_resets(self) -> None:
        """What is forgotten serves nobody any more."""
        configure_log_context("shop")
        nearest_log_context("shop.orders")
        reset_log_contexts()
        assert nearest_log_context("shop.orders") is get_root_log_context()
        again = configure_log_context("shop")
        assert nearest_log_context("shop.orders") is again
        reset_logger()
        assert nearest_log_context("shop.orders") is get_root_log_context()

    def test_many_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A program that makes logger names up does not fill the memory."""
        monkeypatch.setattr(registry, "_MAX_NEAREST", 100)
        shop = configure_log_context("shop")
        for number in range(1000):
            assert nearest_log_context(f"shop.{number}") is shop
        assert len(registry._nearest) <= 100

    @given(st.lists(st.tuples(st.booleans(), st.text("ab.", min_size=1, max_size=6)), max_size=20))
    def test_like_a_search_from_the_end(self, steps: list[tuple[bool, str]]) -> None:
        """Whatever is configured and looked up in whichever order, the result is the obvious one."""
        reset_log_contexts()
        for configure, name in steps:
            if configure:
                try:
                    configure_log_context(name)
                except ValueError:
                    continue
            expected = name
            while expected not in get_log_context_namespaces():
                expected = expected.rpartition(".")[0]
            assert nearest_log_context(name) is get_log_context(expected)

    def test_while_contexts_come_and_go(self) -> None:
        """A look-up that runs during a change never leaves a stale answer behind."""
        stop = threading.Event()

        def look() -> None:
            while not stop.is_set():
                nearest_log_context("shop.orders.db")

        threads = [threading.Thread(target=look) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(300):
                shop = configure_log_context("shop")
                assert nearest_log_context("shop.orders.db") is shop
                orders = configure_log_context("shop.orders")
                assert nearest_log_context("shop.orders.db") is orders
                reset_log_contexts()
                assert nearest_log_context("shop.orders.db") is get_root_log_context()
        finally:
            stop.set()
            for thread in threads:
                thread.join()


class TestLeases:
    def test_equal_descriptors_share_a_sink(self) -> None:
        """It is made with the first share and ends with the last one."""
        first = lease_sink(Sink, {"destination": "x"})
        second = lease_sink(Sink, {"destination": "x", "size": 1})
        other = lease_sink(Sink, {"destination": "y"})
        assert first.sink is second.sink is not other.sink
        other.release()
        Sink.closed.clear()
        first.release()
        first.release()
        assert Sink.closed == []
        second.release()
        assert Sink.closed == ["x"]
        third = lease_sink(Sink, {"destination": "x"})
        assert third.sink is not first.sink
        third.release()

    def test_what_cannot_be_made(self) -> None:
        """The errors are those of `configure_log_sink`; nothing is left behind."""

        class Broken(Sink):
            fails = True

            @classmethod
            def create(cls, **kwargs: Any) -> Any:
                if cls.fails:
                    raise OSError("down")
                return super().create(**kwargs)

        with pytest.raises(LogSinkCreateError):
            lease_sink(Broken, {})
        Broken.fails = False
        lease = lease_sink(Broken, {})
        lease.release()
        assert lease.sink.closed_times == 1

    def test_a_lease_of_nothing(self) -> None:
        """A sink that belongs to somebody else can be held like any: giving it back does nothing."""
        sink = Sink()
        lease = SinkLease(sink)
        lease.release()
        lease.end()
        assert sink.closed_times == 0

    def test_shares_of_which_a_lease_is_made(self) -> None:
        """They are given back with it."""
        part = lease_sink(Sink, {"destination": "part"})
        SinkLease(object(), parts=[part]).release()
        assert part.sink.closed_times == 1

    def test_a_share_that_comes_back_while_another_one_is_taken(self) -> None:
        """A finalizer may run under the lock: who holds that sees to the share afterwards."""

        class Descriptor(LogSinkDescriptor):
            def __hash__(self) -> int:
                if registry._lease_lock._is_owned():
                    first.release()
                    seen.append(first.sink.closed_times)
                return super().__hash__()

        class Odd(Sink):
            @classmethod
            def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
                return Descriptor("odd", ("d",), ())

        seen: list[int] = []
        first = lease_sink(Sink, {"destination": "x"})
        second = lease_sink(Odd, {})
        assert seen == [0]
        assert first.sink.closed_times == 1
        second.release()

    def test_who_waits_for_a_short_time_only(self) -> None:
        """Whoever configures `logging` may be waited for; all others wait for a lock as long as it takes."""
        assert registry._hold(registry._lock) is registry._lock
        with logging._lock:  # type: ignore[attr-defined]
            assert registry._hold(registry._lock) is not registry._lock

    def test_releasing_does_not_wait(self) -> None:
        """A background sink delivers what it has after the last share is back."""
        lease = lease_sink(BackgroundSink, {})
        sink = lease.sink
        sink.gate.clear()
        context = LogContext(log_sink=sink, payload_processor=LogPayloadProcessor())
        context.log_info_event("e")
        lease.release()
        assert sink.events == []
        sink.gate.set()
        wait_until(lambda: sink.get_status().value == "stopped")
        assert len(sink.events) == 1

    def test_ending_waits_where_it_was_the_last_share(self) -> None:
        """Then everything is delivered; where others hold the sink, it goes on."""
        first, second = lease_sink(BackgroundSink, {}), lease_sink(BackgroundSink, {})
        sink = first.sink
        context = LogContext(log_sink=sink, payload_processor=LogPayloadProcessor())
        first.end()
        assert sink.get_status().value == "running"
        for _ in range(50):
            context.log_info_event("e")
        SinkLease(object(), parts=[second]).end()
        assert sink.get_status().value == "stopped"
        assert len(sink.events) == 50

    def test_a_sink_that_fails_to_end(self, selflog_reports: list[Any]) -> None:
        """Nobody who releases or leases something is told of it by an exception."""

        class Broken(Sink):
            def close(self) -> None:
                raise OSError("disk full")

        lease_sink(Broken, {}).release()
        assert [report.kind for report in selflog_reports] == ["close"]
        assert "disk full" in selflog_reports[0].to_line()

    def test_many_threads(self) -> None:
        """Shares that come and go at once: a sink that someone holds is never ended, and none is left at the end."""
        errors: list[str] = []

        def work() -> None:
            for _ in range(200):
                lease = lease_sink(Sink, {})
                if lease.sink.closed_times:
                    errors.append("ended while held")
                lease.release()
                lease.release()

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert len(Sink.closed) == Sink.made

    def test_two_who_give_the_same_share_back(self) -> None:
        """A finalizer and a `close()` at the same moment count once."""
        for _ in range(200):
            kept, lease = lease_sink(Sink, {}), lease_sink(Sink, {})
            barrier = threading.Barrier(2)

            def give_back(barrier: threading.Barrier = barrier, lease: SinkLease = lease) -> None:
                barrier.wait()
                lease.release()

            threads = [threading.Thread(target=give_back) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert kept.sink.closed_times == 0
            kept.release()
            assert kept.sink.closed_times == 1

    def test_the_process_hangs_because_a_finalizer_waits_for_the_registry(self) -> None:
        """A share comes back from the garbage collector while another thread is busy with the registry: it is taken
        back at once, and nobody waits."""
        lease = lease_sink(Sink, {})
        handler = type("Handler", (), {})()
        weakref.finalize(handler, lease.release)
        held, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with registry._lock:
                held.set()
                leave.wait(30)

        holder = threading.Thread(target=hold)
        holder.start()
        try:
            assert held.wait(30)
            del handler
            gc.collect()
            assert lease.sink.closed_times == 1
        finally:
            leave.set()
            holder.join()

    def test_a_finalizer_amid_leasing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The garbage collector may run while a share of the very same sink is counted: the sink is not ended under
        whoever is getting it."""
        finalizers: list[Callable[[], None]] = []

        class Counted(registry._Entry):
            """Runs finalizers at the worst moment: after the look and before the count."""

            __slots__ = ("count",)

            @property
            def leases(self) -> int:  # type: ignore[override]
                while finalizers:
                    finalizers.pop()()
                return self.count

            @leases.setter
            def leases(self, value: int) -> None:
                self.count = value

        monkeypatch.setattr(registry, "_Entry", Counted)
        first = lease_sink(Sink, {})
        finalizers.append(first.release)
        second = lease_sink(Sink, {})
        assert finalizers == []
        assert second.sink is first.sink
        assert second.sink.closed_times == 0
        second.release()
        assert second.sink.closed_times == 1

    def test_leasing_in_a_signal_handler(self) -> None:
        """A handler that is used again after it was closed makes its sink anew, wherever the signal comes."""
        handled = 0

        def handle(number: int, frame: Any) -> None:
            nonlocal handled
            lease = lease_sink(Sink, {"destination": "signal" if handled % 2 else "d"})
            assert lease.sink.closed_times == 0
            lease.release()
            handled += 1

        before = signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        try:
            while handled < 100:
                lease = lease_sink(Sink, {})
                assert lease.sink.closed_times == 0
                lease.release()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert len(Sink.closed) == Sink.made


class TestMakingSinks:
    """While a sink is made, the registry is free."""

    def test_the_program_hangs_because_a_new_sink_s_thread_configures_something(self) -> None:
        """A sink whose start imports a module that configures contexts and sinks at import time comes up."""

        class Importing(BackgroundSink):
            async def _on_starting(self) -> None:
                configure_log_context("driver.module")
                configure_log_sink(name="inner", sink_cls=Sink)
                lease_sink(Sink, {"destination": "inner"}).release()
                get_log_sink("stderr")

        done = threading.Event()

        def make() -> None:
            configure_log_sink(name="main", sink_cls=Importing)
            lease_sink(Importing, {}).release()
            done.set()

        threading.Thread(target=make, daemon=True).start()
        assert done.wait(30), "it hangs"
        assert has_log_context("driver.module")
        assert get_configured_log_sink_names() == ("stderr", "inner", "main")

    def test_others_do_not_wait(self) -> None:
        """While one sink takes long to connect, other sinks and contexts are configured."""
        entered, leave = threading.Event(), threading.Event()

        class Slow(Sink):
            @classmethod
            def create(cls, **kwargs: Any) -> Any:
                entered.set()
                assert leave.wait(30)
                return super().create(**kwargs)

        thread = threading.Thread(target=lambda: configure_log_sink(name="slow", sink_cls=Slow))
        thread.start()
        try:
            assert entered.wait(30)
            configure_log_sink(name="quick", sink_cls=Sink)
            configure_log_context("a", log_sink="quick")
            lease_sink(Sink, {}).release()
            assert get_configured_log_sink_names() == ("stderr", "quick")
        finally:
            leave.set()
            thread.join()
        assert get_configured_log_sink_names() == ("stderr", "quick", "slow")

    def test_those_who_want_the_same_one_wait_for_it(self) -> None:
        """Of many threads that configure or lease the same sink at once, one makes it, all get it."""
        barrier = threading.Barrier(8)
        found: list[Any] = []
        leases: list[SinkLease] = []

        class Slow(Sink):
            @classmethod
            def create(cls, **kwargs: Any) -> Any:
                time.sleep(0.02)
                return super().create(**kwargs)

        def work() -> None:
            barrier.wait()
            found.append(configure_log_sink(name="main", sink_cls=Slow))
            leases.append(lease_sink(Slow, {}))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 1
        assert len({lease.sink for lease in leases}) == 1
        assert Sink.made == 2
        for lease in leases:
            lease.release()
        assert Sink.closed == ["d"]

    def test_a_name_that_is_taken_meanwhile(self) -> None:
        """Where a configuration takes the name while the sink is made, the conflict is found, and the sink is ended."""

        class Overtaken(Sink):
            @classmethod
            def create(cls, **kwargs: Any) -> Any:
                lease = SinkLease(Sink("winner"))
                registry.replace_sinks({"main": (Sink, Sink.build_descriptor(destination="winner"), lease)}, ())
                return super().create(**kwargs)

        with pytest.raises(LogSinkConfigurationConflictError):
            configure_log_sink(name="main", sink_cls=Overtaken, destination="loser")
        assert get_log_sink("main").destination == "winner"
        assert Sink.closed == ["loser"]


class TestWholeConfigurations:
    """What `mvx_logger.configure` is made of."""

    def test_going_back(self) -> None:
        """`Saved` brings sinks, contexts and settings back, those of contexts that were changed since."""
        sink = configure_log_sink(name="main", sink_cls=Sink)
        context = configure_log_context("a", log_sink=sink, min_level=30)
        saved = registry.Saved()
        registry.replace_sinks({"other": (Sink, Sink.build_descriptor(), SinkLease(Sink()))}, ("main",))
        registry.replace_contexts({"": {"min_level": 50}, "b.c": {"min_level": 7}}, forget=("a", "unknown"))
        assert get_configured_log_sink_names() == ("stderr", "other")
        assert context.min_level == 50
        assert context.get_local_log_sink() is None
        assert get_log_context("b.c").min_level == 7
        saved.restore()
        assert get_configured_log_sink_names() == ("stderr", "main")
        assert get_log_context_namespaces() == ("", "a")
        assert context.log_sink is sink
        assert context.min_level == 30
        assert get_root_log_context().min_level == 0
        assert nearest_log_context("b.c") is get_root_log_context()

    def test_a_root_keeps_what_it_needs(self) -> None:
        """Replacing all of a root's settings leaves it a sink and a processor."""
        root = get_root_log_context()
        sink = root.log_sink
        registry.replace_contexts({"": {}}, forget=())
        assert root.log_sink is sink
        assert root.payload_processor is not None

    def test_has_sink(self) -> None:
        """True for the same name, class and descriptor."""
        configure_log_sink(name="main", sink_cls=Sink, destination="x")
        assert registry.has_sink("main", Sink, Sink.build_descriptor(destination="x"))
        assert not registry.has_sink("main", Sink, Sink.build_descriptor(destination="y"))
        assert not registry.has_sink("other", Sink, Sink.build_descriptor(destination="x"))

    def test_replaced_sinks_end_when_nobody_holds_them(self) -> None:
        """A sink that was configured ends when it loses its name; one that others share goes on for them."""
        plain = configure_log_sink(name="plain", sink_cls=Sink, destination="plain")
        shared, elsewhere = lease_sink(Sink, {"destination": "shared"}), lease_sink(Sink, {"destination": "shared"})
        assert registry.replace_sinks({"shared": (Sink, Sink.build_descriptor(), shared)}, ()) == []
        new = SinkLease(Sink("new"))
        endings = registry.replace_sinks({"plain": (Sink, Sink.build_descriptor(), new)}, ("shared", "unknown"))
        assert Sink.closed == []
        for end in endings:
            end()
        assert Sink.closed == ["plain"]
        assert plain.closed_times == 1
        elsewhere.release()
        assert Sink.closed == ["plain", "shared"]

    def test_closing_a_shared_sink_waits_for_delivery(self) -> None:
        """`close_log_sink` of a sink that a configuration made delivers before it returns."""
        lease = lease_sink(BackgroundSink, {})
        sink = lease.sink
        registry.replace_sinks({"main": (BackgroundSink, BackgroundSink.build_descriptor(), lease)}, ())
        context = LogContext(log_sink=sink, payload_processor=LogPayloadProcessor())
        for _ in range(50):
            context.log_info_event("e")
        assert close_log_sink("main") is True
        assert len(sink.events) == 50


class TestFlush:
    def log(self, *sinks: Any) -> None:
        for sink in sinks:
            LogContext(log_sink=sink, payload_processor=LogPayloadProcessor()).log_info_event("e")

    def test_everything_that_was_accepted(self) -> None:
        """Registered sinks, leased ones, those that only a context holds, and those that nobody knows of."""
        registered = configure_log_sink(name="main", sink_cls=BackgroundSink)
        lease = lease_sink(BackgroundSink, {})
        unregistered, close = BackgroundSink.create(label="u")

        class Synchronous(Sink):
            flushed = False

            def flush(self, timeout: float | None = None) -> bool:
                self.flushed = True
                return True

        local = Synchronous()
        configure_log_context("a", log_sink=local)
        self.log(registered, lease.sink, unregistered)
        assert mvx_logger.flush(30) is True
        assert [len(sink.events) for sink in (registered, lease.sink, unregistered)] == [1, 1, 1]
        assert local.flushed
        lease.release()
        close()

    def test_in_time(self) -> None:
        """Where one destination is stuck, the answer is False after the timeout, and the others have theirs."""
        stuck = configure_log_sink(name="stuck", sink_cls=BackgroundSink, label="stuck")
        healthy = configure_log_sink(name="healthy", sink_cls=BackgroundSink, label="healthy")
        stuck.gate.clear()
        self.log(stuck, healthy)
        assert mvx_logger.flush(0.05) is False
        wait_until(lambda: len(healthy.events) == 1)
        stuck.gate.set()
        assert mvx_logger.flush() is True
        assert len(stuck.events) == 1

    def test_all_at_once(self) -> None:
        """While one destination is waited for, the others do not wait for company for their batches."""
        slow = configure_log_sink(name="slow", sink_cls=BackgroundSink, label="slow")
        patient = configure_log_sink(name="patient", sink_cls=BackgroundSink, label="patient", batch_max_age=600.0)
        slow.gate.clear()
        self.log(slow, patient)
        wait_until(lambda: len(patient.events) == 1)  # the first event after a pause goes at once
        self.log(patient)
        answers: list[bool] = []
        thread = threading.Thread(target=lambda: answers.append(mvx_logger.flush(60)))
        thread.start()
        try:
            wait_until(lambda: len(patient.events) == 2)
            assert answers == []
        finally:
            slow.gate.set()
            thread.join()
        assert answers == [True]

    @pytest.mark.parametrize(("result", "expected"), [(True, True), (None, True), (False, False)])
    def test_somebody_else_s_sink(self, result: Any, expected: bool) -> None:
        """One that returns nothing from `flush` has done what it could."""

        class Other(Sink):
            def flush(self, timeout: float | None = None) -> Any:
                return result

        configure_log_sink(name="other", sink_cls=Other)
        assert mvx_logger.flush(1) is expected

    def test_a_sink_that_fails_to_flush(self, selflog_reports: list[Any]) -> None:
        """The answer is False, the others are flushed, nothing is raised."""

        class Broken(Sink):
            def flush(self) -> bool:  # takes no timeout
                return True

        configure_log_sink(name="broken", sink_cls=Broken)
        sink = configure_log_sink(name="main", sink_cls=BackgroundSink)
        self.log(sink)
        assert mvx_logger.flush(30) is False
        assert len(sink.events) == 1
        assert [report.kind for report in selflog_reports] == ["flush"]

    def test_nothing_to_flush(self) -> None:
        """With synchronous sinks everything is there already."""
        assert mvx_logger.flush() is True
        assert mvx_logger.flush(0) is True


class TestStats:
    def test_every_registered_sink(self) -> None:
        """By its name; a sink that keeps no accounts has none."""
        sink = configure_log_sink(name="main", sink_cls=BackgroundSink)
        configure_log_sink(name="other", sink_cls=Sink)
        LogContext(log_sink=sink, payload_processor=LogPayloadProcessor()).log_info_event("e")
        mvx_logger.flush(30)
        stats = mvx_logger.stats()
        assert set(stats) == {"stderr", "main"}
        assert (stats["main"].accepted, stats["main"].delivered) == (1, 1)

    def test_leased_sinks(self) -> None:
        """Under type and destination, told apart where these are equal; one that is registered too is told once."""

        class Keeping(Sink):
            def stats(self) -> LogSinkStats:
                return LogSinkStats(accepted=len(self.events))

        leases = [lease_sink(Keeping, {"destination": "x", "size": size}) for size in (1, 2, 3)]
        assert set(mvx_logger.stats()) == {"stderr", "test:x", "test:x#2", "test:x#3"}
        registry.replace_sinks({"main": (Keeping, Keeping.build_descriptor(), leases[0])}, ())
        assert set(mvx_logger.stats()) == {"stderr", "main", "test:x", "test:x#2"}
        for lease in leases:
            lease.release()

    def test_a_sink_that_fails_to_tell(self, selflog_reports: list[Any]) -> None:
        """The others are told; what is no account is none."""

        class Broken(Sink):
            def stats(self) -> Any:
                raise OSError("down")

        class Odd(Sink):
            stats = "many"

        configure_log_sink(name="broken", sink_cls=Broken)
        configure_log_sink(name="odd", sink_cls=Odd)
        assert set(mvx_logger.stats()) == {"stderr"}
        assert {report.kind for report in selflog_reports} == {"stats"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
class TestFork:
    def test_the_child_deadlocks_because_another_thread_configured_a_sink(self) -> None:
        """Forked while other threads hold the registry's locks and are making sinks, the child can use all of it."""
        leave = threading.Event()
        entered = [threading.Event() for _ in range(4)]

        class Slow(Sink):
            @classmethod
            def create(cls, **kwargs: Any) -> Any:
                entered[kwargs["size"]].set()
                assert leave.wait(30)
                return super().create(**kwargs)

        def hold(lock: Any, event: threading.Event) -> None:
            with lock:
                event.set()
                leave.wait(30)
            registry._take_back()  # as everybody who has held it

        threads = [
            threading.Thread(target=lambda: configure_log_sink(name="slow", sink_cls=Slow, size=0)),
            threading.Thread(target=lambda: lease_sink(Slow, {"size": 1}).release()),
        ]
        for thread in threads:
            thread.start()
        assert entered[0].wait(30)
        assert entered[1].wait(30)
        for lock, event in ((registry._lock, entered[2]), (registry._lease_lock, entered[3])):
            threads.append(threading.Thread(target=hold, args=(lock, event)))
            threads[-1].start()
            assert event.wait(30)
        try:
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    signal.alarm(20)
                    leave.set()
                    configure_log_sink(name="slow", sink_cls=Slow, size=0)
                    configure_log_context("a.b", log_sink="slow").log_info_event("e")
                    lease_sink(Slow, {"size": 1}).release()
                    assert get_log_sink("slow").names == ["e"]
                    reset_logger()
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        finally:
            leave.set()
            for thread in threads:
                thread.join()

    def test_the_lookup_of_the_standard_library_is_not_needed(self) -> None:
        """Finding the nearest context takes no lock at all: not ours, and not the standard library's."""
        configure_log_context("shop")
        found: list[Any] = []
        with registry._lock, logging._lock:  # type: ignore[attr-defined]
            thread = threading.Thread(target=lambda: found.append(nearest_log_context("shop.orders")), daemon=True)
            thread.start()
            thread.join(30)
        assert found == [get_log_context("shop")]


def test_the_registry_is_reachable_under_its_names() -> None:
    """All functions of the registry are those of the package."""
    for name in registry.__all__:
        if name not in ("SinkLease", "lease_sink"):
            assert getattr(mvx_logger, name) is getattr(registry, name)
    assert sys.modules["mvx_logger.registry"] is registry
