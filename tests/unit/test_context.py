"""`LogContext`: what is in force, what is emitted, what is rejected, and what happens when something fails."""

from __future__ import annotations

import asyncio
import copy
import enum
import gc
import inspect
import logging
import os
import pickle
import signal
import threading
import time
import tracemalloc
import uuid
import weakref
from collections.abc import Callable, Mapping
from typing import Any
from unittest.mock import MagicMock

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from mvx_logger import (
    LogContext,
    LogContextResetError,
    LogContextUnableToLog,
    LogErrorHandlingPolicy,
    LogEvent,
    LogEventMeta,
    LogException,
    LoggerError,
    LogLevel,
    LogPayloadProcessor,
    PatternLogEventPolicy,
    PatternLogEventPolicyConfig,
    PatternLogEventPolicyRuleConfig,
    selflog,
)

IGNORE = LogErrorHandlingPolicy.IGNORE
PRINT_STDERR = LogErrorHandlingPolicy.PRINT_STDERR
RAISE = LogErrorHandlingPolicy.RAISE


class Collector:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def log(self, event: LogEvent) -> None:
        self.events.append(event)

    @property
    def names(self) -> list[str]:
        return [event.meta.event_name for event in self.events]


class Failing:
    """Raises as long as it has an error."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.delivered = 0

    def log(self, event: LogEvent) -> None:
        if self.error is not None:
            raise self.error
        self.delivered += 1


class Policy:
    """Lets pass, or not, and counts how often it was asked."""

    def __init__(self, verdict: Any = True) -> None:
        self.verdict = verdict
        self.asked: list[LogEventMeta] = []

    def is_event_enabled(self, event: LogEventMeta) -> Any:
        self.asked.append(event)
        if isinstance(self.verdict, BaseException):
            raise self.verdict
        return self.verdict


class Processor:
    """A payload processor that has nothing of ours."""

    def __init__(self, result: Any = None) -> None:
        self.result = result
        self.seen: list[Any] = []

    def normalize_payload(self, payload: Any, *, unbounded: bool = False) -> Any:
        self.seen.append(payload)
        if isinstance(self.result, BaseException):
            raise self.result
        return {"processed": True} if self.result is None else self.result

    def normalize_value_for_log(self, value: Any, *, unbounded: bool = False) -> Any:
        return ("value", value, unbounded)

    def get_plain_verbosity_level(self) -> str | None:
        return "LOUD"


def make_root(sink: Any = None, **settings: Any) -> LogContext:
    settings.setdefault("payload_processor", LogPayloadProcessor())
    return LogContext(log_sink=Collector() if sink is None else sink, **settings)


def deny(*names: str, **selectors: Any) -> PatternLogEventPolicy:
    rule = PatternLogEventPolicyRuleConfig("deny", event_names=names, **selectors)  # type: ignore[arg-type]
    return PatternLogEventPolicy(PatternLogEventPolicyConfig(rules=(rule,)))


def methods(context: LogContext) -> list[Callable[..., None]]:
    """All that log an event by its name."""
    return [
        lambda event, **fields: context.log_event(event, 20, **fields),
        *(getattr(context, f"log_{level.name.lower()}_event") for level in LogLevel),
    ]


@pytest.fixture
def sink() -> Collector:
    return Collector()


@pytest.fixture
def root(sink: Collector) -> LogContext:
    return make_root(sink)


class TestConstruction:
    def test_a_root_needs_a_sink(self) -> None:
        """Without a parent there is nothing to inherit the sink from."""
        with pytest.raises(ValueError, match="log_sink"):
            LogContext(payload_processor=LogPayloadProcessor())

    def test_a_root_needs_a_payload_processor(self) -> None:
        """Without a parent there is nothing to inherit the payload processor from."""
        with pytest.raises(ValueError, match="payload_processor"):
            LogContext(log_sink=Collector())

    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            ("namespace", 5),
            ("namespace", b"shop"),
            ("parent", "shop"),
            ("log_sink", object()),
            ("log_sink", Collector),
            ("log_sink", type("NoMethod", (), {"log": 5})()),
            ("event_policy", lambda meta: True),
            ("event_policy", Policy),
            ("payload_processor", object()),
            ("payload_processor", LogPayloadProcessor),
            ("log_error_handling_policy", "ignore"),
            ("min_level", "INFO"),
            ("min_level", True),
            ("min_level", 20.0),
        ],
    )
    def test_a_wrong_type_is_named(self, argument: str, value: Any) -> None:
        """The error says which argument is wrong and what was given."""
        arguments = {"log_sink": Collector(), "payload_processor": LogPayloadProcessor(), argument: value}
        with pytest.raises(TypeError, match=f"^{argument}: expected .*, got ") as caught:
            LogContext(**arguments)
        name = value.__name__ if isinstance(value, type) else type(value).__name__
        assert name in str(caught.value)

    def test_arguments_have_names(self) -> None:
        """All arguments are keywords."""
        with pytest.raises(TypeError):
            LogContext("shop")  # type: ignore[misc]

    def test_a_root_has_defaults(self, sink: Collector) -> None:
        """A root without further settings prints failures, has no policy, no minimal level and no namespace."""
        processor = LogPayloadProcessor()
        root = LogContext(log_sink=sink, payload_processor=processor)
        assert root.namespace == "<not defined>"
        assert root.is_root
        assert root.parent is None
        assert root.log_sink is sink
        assert root.get_local_log_sink() is sink
        assert root.payload_processor is processor
        assert root.event_policy is None
        assert root.log_error_handling_policy is PRINT_STDERR
        assert root.min_level == 0
        assert repr(root) == "<LogContext <not defined>>"

    def test_a_child_knows_its_parent_and_namespace(self, root: LogContext) -> None:
        """Namespaces are names: a child's does not have to begin with its parent's."""
        child = LogContext(namespace="shop", parent=root)
        assert child.namespace == "shop"
        assert not child.is_root
        assert child.parent is root
        assert LogContext(parent=child).namespace == "<not defined>"

    @pytest.mark.parametrize("make", [MagicMock, lambda: Proxy(Collector())])
    def test_whatever_has_the_method_is_a_sink(self, make: Callable[[], Any]) -> None:
        """Mocks and proxies, which find their methods as they are asked for, are sinks on every Python."""
        sink = make()
        root = make_root(sink)
        root.log_info_event("app.started")
        assert root.log_sink is sink

    def test_a_mock_is_a_policy(self, sink: Collector) -> None:
        """A mock's verdict may change from event to event."""
        policy = MagicMock()
        root = make_root(sink, event_policy=policy, namespace="shop")
        policy.is_event_enabled.return_value = False
        root.log_info_event("order.created")
        policy.is_event_enabled.return_value = True
        root.log_info_event("order.created")
        assert len(sink.events) == 1


class Proxy:
    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


class TestInheritance:
    def test_a_child_takes_what_it_has_not_from_its_parent(self, root: LogContext) -> None:
        """Sink, payload processor, error policy and minimal level come from above."""
        root.set_log_error_handling_policy(RAISE)
        root.set_min_level(30)
        child = LogContext(namespace="shop", parent=LogContext(parent=root))
        assert child.log_sink is root.log_sink
        assert child.get_local_log_sink() is None
        assert child.payload_processor is root.payload_processor
        assert child.log_error_handling_policy is RAISE
        assert child.min_level == 30

    def test_its_own_settings_win(self, root: LogContext) -> None:
        """What a child is given holds for it and for what is below it, and for nothing else."""
        sink, processor = Collector(), Processor()
        child = LogContext(
            parent=root, log_sink=sink, payload_processor=processor, log_error_handling_policy=IGNORE, min_level=10
        )
        below, sibling = LogContext(parent=child), LogContext(parent=root)
        for context in (child, below):
            assert context.log_sink is sink
            assert context.payload_processor is processor
            assert context.log_error_handling_policy is IGNORE
            assert context.min_level == 10
        assert child.get_local_log_sink() is sink
        assert below.get_local_log_sink() is None
        assert sibling.log_sink is root.log_sink
        assert sibling.min_level == 0

    def test_the_event_policy_is_never_inherited(self, sink: Collector) -> None:
        """A child of a context that rejects everything logs."""
        root = make_root(sink, event_policy=Policy(False))
        child = LogContext(namespace="shop", parent=root)
        assert child.event_policy is None
        root.log_info_event("rejected")
        child.log_info_event("passes")
        assert sink.names == ["passes"]

    def test_a_change_reaches_the_whole_subtree(self, root: LogContext) -> None:
        """However deep, the next event goes where it should; a branch with a sink of its own is left alone."""
        chain = [root]
        for _ in range(20):
            chain.append(LogContext(parent=chain[-1]))
        own = Collector()
        branch = LogContext(parent=LogContext(parent=chain[3], log_sink=own))
        first = Collector()
        chain[1].set_log_sink(first)
        for context in chain[1:]:
            context.log_info_event("x")
        branch.log_info_event("y")
        assert len(first.events) == 20
        assert own.names == ["y"]
        chain[1].reset_log_sink()
        chain[-1].log_info_event("z")
        assert root.log_sink.names[-1] == "z"  # type: ignore[attr-defined]

    def test_settings_below_survive_a_change_above(self, root: LogContext) -> None:
        """Changing one setting leaves all others as they were."""
        processor = Processor()
        child = LogContext(parent=root, payload_processor=processor, min_level=5)
        root.set_log_error_handling_policy(RAISE)
        root.set_min_level(40)
        root.set_payload_processor(LogPayloadProcessor())
        assert child.payload_processor is processor
        assert child.min_level == 5
        assert child.log_error_handling_policy is RAISE


SETTINGS: dict[str, tuple[Callable[[], Any], Any]] = {
    "log_sink": (Collector, object()),
    "event_policy": (Policy, object()),
    "payload_processor": (Processor, object()),
    "log_error_handling_policy": (lambda: RAISE, "raise"),
    "min_level": (lambda: 35, "INFO"),
}


class TestChange:
    @pytest.mark.parametrize("name", SETTINGS)
    def test_set_and_reset_on_a_child(self, root: LogContext, name: str) -> None:
        """What was set holds until it is reset; then the parent's holds again (for the policy: none)."""
        child = LogContext(namespace="shop", parent=root)
        before = getattr(child, name)
        value = SETTINGS[name][0]()
        getattr(child, f"set_{name}")(value)
        assert getattr(child, name) is value or getattr(child, name) == value
        getattr(child, f"reset_{name}")()
        assert getattr(child, name) is before

    @pytest.mark.parametrize("name", ["log_sink", "payload_processor", "log_error_handling_policy"])
    def test_a_root_cannot_give_up_what_it_must_have(self, root: LogContext, name: str) -> None:
        """Resetting it on a root is an error that says what to do, and changes nothing."""
        before = getattr(root, name)
        with pytest.raises(LogContextResetError, match=f"{name}.*set another one") as caught:
            getattr(root, f"reset_{name}")()
        assert caught.value.details == {"setting": name}
        assert getattr(root, name) is before

    def test_a_root_can_give_up_its_policy_and_level(self, sink: Collector) -> None:
        """A root without a policy lets all events pass, and so does one without a minimal level."""
        root = make_root(sink, event_policy=Policy(False), min_level=50)
        root.reset_event_policy()
        root.reset_min_level()
        root.log_debug_event("passes")
        assert root.event_policy is None
        assert root.min_level == 0
        assert sink.names == ["passes"]

    @pytest.mark.parametrize("name", SETTINGS)
    def test_a_wrong_value_changes_nothing(self, root: LogContext, name: str) -> None:
        """The error names the argument; the setting stays."""
        child = LogContext(parent=root)
        getattr(child, f"set_{name}")(SETTINGS[name][0]())
        before = getattr(child, name)
        with pytest.raises(TypeError, match=name):
            getattr(child, f"set_{name}")(SETTINGS[name][1])
        assert getattr(child, name) is before

    @pytest.mark.parametrize("name", SETTINGS)
    def test_none_is_no_value(self, root: LogContext, name: str) -> None:
        """Who wants to give a setting up is told of the method that does it."""
        with pytest.raises(TypeError, match=f"reset_{name}"):
            getattr(root, f"set_{name}")(None)

    def test_from_another_thread(self, root: LogContext, sink: Collector) -> None:
        """A change that another thread has made holds for the next event."""
        child = LogContext(parent=root)
        child.log_info_event("first")
        other = Collector()
        thread = threading.Thread(target=root.set_log_sink, args=(other,))
        thread.start()
        thread.join()
        child.log_info_event("second")
        assert sink.names == ["first"]
        assert other.names == ["second"]

    def test_under_load(self, root: LogContext, sink: Collector) -> None:
        """While many threads log and others change everything, each event arrives once, at one of the sinks."""
        other = Collector()
        contexts = [LogContext(namespace="a", parent=root) for _ in range(4)]
        stop = threading.Event()

        def change() -> None:
            while not stop.is_set():
                root.set_log_sink(other)
                contexts[0].set_log_sink(sink)
                contexts[0].set_event_policy(deny("nothing"))
                contexts[0].set_min_level(10)
                root.set_log_sink(sink)
                contexts[0].reset_log_sink()
                contexts[0].reset_event_policy()
                contexts[0].reset_min_level()

        def log(context: LogContext) -> None:
            for number in range(500):
                context.log_info_event(f"event.{number}", {"number": number})

        changer = threading.Thread(target=change)
        changer.start()
        threads = [threading.Thread(target=log, args=(context,)) for context in contexts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stop.set()
        changer.join()
        assert len(sink.events) + len(other.events) == 4 * 500


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["child", "set", "reset"]),
        st.integers(0, 30),
        st.sampled_from(["log_sink", "event_policy", "payload_processor", "log_error_handling_policy", "min_level"]),
        st.integers(0, 3),
    ),
    max_size=40,
)


class TestModel:
    """Trees of contexts against the obvious implementation: look upwards until something is found."""

    VALUES: Mapping[str, list[Any]] = {
        "log_sink": [Collector() for _ in range(4)],
        "event_policy": [Policy(), Policy(False), deny("x"), deny("y")],
        "payload_processor": [LogPayloadProcessor(), LogPayloadProcessor(max_items=1), Processor(), Processor()],
        "log_error_handling_policy": [IGNORE, PRINT_STDERR, RAISE, RAISE],
        "min_level": [0, 10, 20, 30],
    }

    @given(OPERATIONS)
    def test_settings_resolve_upwards(self, operations: list[tuple[str, int, str, int]]) -> None:
        """After any sequence of changes each context has what the model has, and its events go there."""
        defaults = {
            "log_sink": self.VALUES["log_sink"][0],
            "payload_processor": self.VALUES["payload_processor"][0],
            "log_error_handling_policy": PRINT_STDERR,
            "min_level": 0,
        }
        nodes = [LogContext(log_sink=defaults["log_sink"], payload_processor=defaults["payload_processor"])]
        own: list[dict[str, Any]] = [dict(defaults)]
        parents = [-1]
        for operation, index, name, choice in operations:
            index %= len(nodes)
            value = self.VALUES[name][choice]
            if operation == "child":
                nodes.append(LogContext(parent=nodes[index], **{name: value}))
                own.append({name: value})
                parents.append(index)
            elif operation == "set":
                getattr(nodes[index], f"set_{name}")(value)
                own[index][name] = value
            elif index == 0 and name not in ("event_policy", "min_level"):
                with pytest.raises(LogContextResetError):
                    getattr(nodes[0], f"reset_{name}")()
            else:
                getattr(nodes[index], f"reset_{name}")()
                own[index].pop(name, None)

            for node, context in enumerate(nodes):
                for setting in self.VALUES:
                    at = node
                    if setting == "event_policy":
                        expected = own[at].get(setting)
                    else:
                        while setting not in own[at] and parents[at] >= 0:
                            at = parents[at]
                        expected = own[at].get(setting, defaults[setting])
                    assert getattr(context, setting) is expected, (node, setting)
                assert context.get_local_log_sink() is own[node].get("log_sink")
        for context in nodes:
            sink: Any = context.log_sink
            sink.events.clear()
            context.emit_log_event(LogEvent(20, LogEventMeta(None, "e"), None, 0.0, {}))
            assert sink.names == ["e"]


class TestEmit:
    @pytest.mark.parametrize("level", list(LogLevel))
    def test_one_method_for_each_level(self, root: LogContext, sink: Collector, level: LogLevel) -> None:
        """`log_info_event` and its kind log at the level that they are named after."""
        getattr(root, f"log_{level.name.lower()}_event")("order.created", {"id": 1})
        (event,) = sink.events
        assert event.level == level
        assert event.meta.event_name == "order.created"
        assert event.payload == {"id": 1}

    @pytest.mark.parametrize("method", ["log_event", *(f"log_{level.name.lower()}_event" for level in LogLevel)])
    def test_every_field_finds_its_place(self, root: LogContext, sink: Collector, method: str) -> None:
        """Each keyword is a field of the event or of its meta."""
        child = LogContext(namespace="shop", parent=root)
        level = (33,) if method == "log_event" else ()
        before = time.time()
        getattr(child, method)(
            "order.created",
            *level,
            {"total": 12.5},
            event_namespace="shop.orders",
            event_outcome="success",
            entity_id="order-42",
            source_path="/srv/shop/orders.py",
            source_line=17,
            source_func="create",
        )
        (event,) = sink.events
        assert event.meta == LogEventMeta(
            "shop.orders", "order.created", "order-42", "/srv/shop/orders.py", 17, "create"
        )
        assert event.event_outcome == "success"
        assert event.payload == {"total": 12.5}
        assert before <= event.timestamp <= time.time()
        if level:
            assert event.level == 33

    @pytest.mark.parametrize("method", ["log_event", *(f"log_{level.name.lower()}_event" for level in LogLevel)])
    def test_only_the_name_is_needed(self, root: LogContext, sink: Collector, method: str) -> None:
        """Everything else may be left out: the payload is then empty, and nothing is made up."""
        level = (20,) if method == "log_event" else ()
        getattr(root, method)("app.started", *level)
        (event,) = sink.events
        assert event.meta == LogEventMeta(None, "app.started")
        assert event.event_outcome is None
        assert event.payload == {}
        assert (event.message, event.exception, event.stack, event.origin) == (None, None, None, None)

    def test_any_int_is_a_level(self, root: LogContext, sink: Collector) -> None:
        """Custom levels, and zero; below zero is below the default minimal level."""
        for level in (-5, 0, 5, 25, 70, LogLevel.ERROR):
            root.log_event("e", level)
        root.set_min_level(-10)
        root.log_event("e", -5)
        assert [event.level for event in sink.events] == [0, 5, 25, 70, 40, -5]

    def test_the_namespace_is_the_context_s(self, root: LogContext, sink: Collector) -> None:
        """Unless the call gives another one."""
        child = LogContext(namespace="shop", parent=root)
        child.log_info_event("a")
        child.log_info_event("b", event_namespace="billing")
        assert [event.meta.event_namespace for event in sink.events] == ["shop", "billing"]

    def test_payloads_are_normalized(self, root: LogContext, sink: Collector) -> None:
        """Secrets are gone, and what the caller changes later does not reach the event."""
        payload = {"password": "hunter2", "items": [1]}
        root.log_info_event("e", payload)
        payload["items"].append(2)  # type: ignore[attr-defined]
        assert sink.events[0].payload["items"] == [1]
        assert "hunter2" not in repr(sink.events[0])

    def test_an_object_that_describes_itself(self, root: LogContext, sink: Collector) -> None:
        """A payload provider is a payload."""

        class Order:
            def to_log_payload(self) -> dict[str, Any]:
                return {"order_id": 42}

        root.log_info_event("e", Order())
        root.log_info_event("e", Order(), skip_payload_normalization=True)
        assert [event.payload for event in sink.events] == [{"order_id": 42}] * 2

    def test_without_normalization(self, root: LogContext, sink: Collector) -> None:
        """The values are the very same objects; the mapping is the event's own."""
        value = ["x" * 1000] * 50
        payload = {"value": value}
        root.log_info_event("e", payload, skip_payload_normalization=True)
        event = sink.events[0]
        assert event.payload["value"] is value
        payload["more"] = []
        assert "more" not in event.payload

    def test_the_processor_in_force_is_asked(self, root: LogContext, sink: Collector) -> None:
        """For payloads, for values and for the verbosity."""
        processor = Processor()
        root.set_payload_processor(processor)
        child = LogContext(parent=root)
        child.log_info_event("e", {"a": 1})
        assert sink.events[0].payload == {"processed": True}
        assert processor.seen == [{"a": 1}]
        assert child.normalize_payload({"b": 2}) == {"processed": True}
        assert child.normalize_value_for_log(5, unbounded=True) == ("value", 5, True)
        assert child.get_plain_verbosity_level() == "LOUD"

    def test_unbounded_reaches_the_processor(self, root: LogContext) -> None:
        """`unbounded` lifts the limit on items."""
        assert len(root.normalize_payload({"a": list(range(50))}, unbounded=True)["a"]) == 50
        assert len(root.normalize_payload({"a": list(range(50))})["a"]) == 11
        assert root.get_plain_verbosity_level() == "NORMAL"

    def test_a_finished_event_passes_untouched(self, sink: Collector) -> None:
        """`emit_log_event` asks no policy and no level, and normalizes nothing: the sink gets the very same object."""
        root = make_root(sink, event_policy=Policy(False), min_level=50)
        event = LogEvent(10, LogEventMeta("other", "e"), "done", 1.0, {"password": "x"})
        root.emit_log_event(event)
        assert sink.events[0] is event


class Shade(enum.Enum):
    RED = "shade.red"


class Tone(enum.StrEnum):
    HIGH = "tone.high"


class NoText:
    def __str__(self) -> str:
        raise ValueError("no text")


class NoHash:
    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return "no.hash"


class BadHash(str):
    __slots__ = ()

    def __hash__(self) -> int:
        raise ValueError("no hash")

    def __str__(self) -> str:
        raise ValueError("no text")


ODD_NAMES = [
    (["a", 1], "['a', 1]"),
    (5, "5"),
    (None, "None"),
    (Shade.RED, "shade.red"),
    (Tone.HIGH, "tone.high"),
    (NoText(), "<NoText>"),
    (NoHash(), "no.hash"),
    (BadHash("bad.hash"), "bad.hash"),
]


class TestOddArguments:
    """What type checkers would refuse does not raise into the program either."""

    @pytest.mark.parametrize(("name", "text"), ODD_NAMES)
    @pytest.mark.parametrize("muted", [False, True])
    @pytest.mark.parametrize("method", ["log_event", *(f"log_{level.name.lower()}_event" for level in LogLevel)])
    def test_a_name_that_is_no_str(
        self, root: LogContext, sink: Collector, name: Any, text: str, muted: bool, method: str
    ) -> None:
        """The event arrives, with a name that is one; a policy that has muted other names does not change that."""
        context = LogContext(namespace="shop", parent=root, event_policy=deny("muted", "other") if muted else None)
        context.log_info_event("muted")
        sink.events.clear()
        level = (20,) if method == "log_event" else ()
        getattr(context, method)(name, *level)
        assert sink.names == [text]
        assert type(sink.names[0]) is str

    def test_a_name_that_is_no_str_can_be_muted(self, root: LogContext, sink: Collector) -> None:
        """The policy decides on the text."""
        context = LogContext(namespace="shop", parent=root, event_policy=deny("shade.*", "*'a'*"))
        for _ in range(3):
            context.log_info_event(Shade.RED)  # type: ignore[arg-type]
            context.log_info_event(["a"])  # type: ignore[arg-type]
            context.log_event(["a"], 20)  # type: ignore[arg-type]
        assert sink.events == []

    @pytest.mark.parametrize(
        ("level", "number"), [("ERROR", 40), ("warning", 30), ("35", 35), (None, 20), (object(), 20), ("nonsense", 20)]
    )
    def test_a_level_that_is_no_number(
        self, root: LogContext, sink: Collector, level: Any, number: int, selflog_reports: list[Any]
    ) -> None:
        """The name of a level is that level; what means none is INFO, and reported. The event arrives."""
        root.log_event("e", level)
        assert [event.level for event in sink.events] == [number]
        assert [report.kind for report in selflog_reports] == (["level"] if number == 20 else [])

    def test_a_level_that_is_no_number_can_be_too_low(self, root: LogContext, sink: Collector) -> None:
        """The minimal level counts for it too."""
        root.set_min_level(40)
        root.log_event("e", "INFO")  # type: ignore[arg-type]
        root.log_event("e", "CRITICAL")  # type: ignore[arg-type]
        assert [event.level for event in sink.events] == [50]

    def test_an_entity_id_that_is_no_str(self, root: LogContext, sink: Collector) -> None:
        """Numbers and UUIDs are ids: they become text, so that every destination can hold them."""
        ident = uuid.uuid4()
        for value in (42, ident, Shade.RED, NoText()):
            root.log_info_event("e", entity_id=value)  # type: ignore[arg-type]
        assert [event.meta.entity_id for event in sink.events] == ["42", str(ident), "shade.red", "<NoText>"]

    @pytest.mark.parametrize("payload", [5, "text", object(), [1, 2], NoText(), {"a": NoText()}])
    @pytest.mark.parametrize("skip", [False, True])
    def test_a_payload_that_is_no_mapping(
        self, root: LogContext, sink: Collector, payload: Any, skip: bool, selflog_reports: list[Any]
    ) -> None:
        """It is described as well as it can be."""
        root.log_info_event("e", payload, skip_payload_normalization=skip)
        assert type(sink.events[0].payload) is dict


LEVEL_METHODS = [f"log_{name}_event" for name in ("debug", "info", "warning", "error", "critical")]


class TestKeywords:
    @pytest.mark.parametrize("min_level", [0, 60])
    @pytest.mark.parametrize("name", [*LEVEL_METHODS, "log_event"])
    def test_an_unknown_one_is_an_error(self, sink: Collector, name: str, min_level: int) -> None:
        """It is named, and so is the method; also where the event is rejected; and nothing is logged."""
        context = LogContext(log_sink=sink, payload_processor=LogPayloadProcessor(), min_level=min_level)
        args = ("a", 20, {}) if name == "log_event" else ("a", {})
        with pytest.raises(TypeError, match=rf"LogContext\.{name}\(\) got an unexpected keyword argument 'entity'"):
            getattr(context, name)(*args, entity="e")
        assert sink.events == []

    @pytest.mark.parametrize("min_level", [0, 60])
    @pytest.mark.parametrize("name", [*LEVEL_METHODS, "log_event"])
    def test_by_position_it_is_an_error(self, sink: Collector, name: str, min_level: int) -> None:
        """A namespace that is not named as such does not become one, nor does None."""
        context = LogContext(log_sink=sink, payload_processor=LogPayloadProcessor(), min_level=min_level)
        args = ("a", 20, {}) if name == "log_event" else ("a", {})
        for more in (("n",), (None,), (None, "n")):
            with pytest.raises(TypeError, match="by its name"):
                getattr(context, name)(*args, *more)
        assert sink.events == []

    @pytest.mark.parametrize("name", [*LEVEL_METHODS, "log_event"])
    def test_a_method_says_what_it_takes(self, name: str) -> None:
        """Its signature has the keywords, and nothing that is not to be used; its frames have its name."""
        method = getattr(LogContext, name)
        parameters = inspect.signature(method).parameters
        keywords = {key for key, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
        assert keywords == {"event_namespace", "event_outcome", "entity_id", "source_path", "source_line", "source_func",
                            "skip_payload_normalization"}  # fmt: skip
        assert set(parameters) - keywords == {"self", "event", "payload"} | (
            {"level"} if name == "log_event" else set()
        )
        assert method.__name__ == method.__code__.co_name == name
        assert method.__doc__.startswith("Log one event")

    @pytest.mark.parametrize("name", [*LEVEL_METHODS, "log_event"])
    def test_all_of_them_arrive(self, sink: Collector, name: str) -> None:
        """Each keyword is in the event, whichever method took it."""
        context = LogContext(namespace="n", log_sink=sink, payload_processor=LogPayloadProcessor(max_str_len=1))
        args = ("a", 10, {"k": "long"}) if name == "log_event" else ("a", {"k": "long"})
        getattr(context, name)(
            *args,
            event_namespace="other",
            event_outcome="success",
            entity_id="e",
            source_path="p",
            source_line=1,
            source_func="f",
            skip_payload_normalization=True,
        )
        (event,) = sink.events
        assert event.meta == LogEventMeta("other", "a", "e", "p", 1, "f")
        assert event.event_outcome == "success"
        assert event.payload == {"k": "long"}

    def test_another_namespace_is_another_question_to_the_policy(self, sink: Collector) -> None:
        """That a name is rejected is remembered for the context's own namespace."""
        config = PatternLogEventPolicyConfig.from_mapping({"rules": [{"action": "deny", "events": ["n.a"]}]})
        policy = PatternLogEventPolicy(config)
        context = LogContext(namespace="n", log_sink=sink, payload_processor=LogPayloadProcessor(), event_policy=policy)
        for _ in range(2):
            context.log_info_event("a")
            context.log_info_event("a", entity_id="e")
            context.log_info_event("a", event_namespace="n")
            context.log_info_event("a", event_namespace="other")
        assert [event.meta.event_namespace for event in sink.events] == ["other", "other"]


class TestRejection:
    def test_below_the_minimal_level(self, sink: Collector) -> None:
        """It is rejected first of all: not even the policy is asked."""
        policy = Policy()
        root = make_root(sink, min_level=30, event_policy=policy)
        root.log_debug_event("a")
        root.log_info_event("a")
        root.log_event("a", 29)
        assert policy.asked == []
        root.log_warning_event("b")
        root.log_event("c", 30)
        assert sink.names == ["b", "c"]

    @pytest.mark.parametrize("level", list(LogLevel))
    def test_the_minimal_level_itself_passes(self, root: LogContext, sink: Collector, level: LogLevel) -> None:
        """One above it does not."""
        method = getattr(root, f"log_{level.name.lower()}_event")
        root.set_min_level(level)
        method("passes")
        root.set_min_level(level + 1)
        method("rejected")
        assert sink.names == ["passes"]

    @pytest.mark.parametrize("policy", [Policy(False), Policy(0), deny("order.*")])
    def test_a_rejected_event_costs_nothing_past_the_policy(self, policy: Any) -> None:
        """Its payload is not looked at, no event is made and no sink is called, the first time and ever after."""

        class Payload(dict):  # type: ignore[type-arg]
            def to_log_payload(self) -> dict[str, Any]:
                raise AssertionError("looked at")

            __iter__ = __len__ = __getitem__ = __contains__ = keys = items = to_log_payload  # type: ignore[assignment]

        sink, processor = MagicMock(), Processor(AssertionError("normalized"))
        root = make_root(sink, event_policy=policy, payload_processor=processor, namespace="shop")
        for _ in range(3):
            root.log_info_event("order.created", Payload())
            root.log_event("order.created", 20, Payload(), skip_payload_normalization=True)
        assert processor.seen == []
        sink.log.assert_not_called()

    def test_the_policy_sees_the_meta(self, sink: Collector) -> None:
        """With the namespace, the entity and the source."""
        policy = Policy()
        root = make_root(sink, event_policy=policy, namespace="shop")
        root.log_info_event("e", entity_id="1", source_path="p", source_line=2, source_func="f")
        assert policy.asked == [LogEventMeta("shop", "e", "1", "p", 2, "f")]
        assert policy.asked[0] is sink.events[0].meta

    def test_is_event_enabled_asks_the_policy(self, root: LogContext) -> None:
        """Without a policy every event is enabled."""
        meta = LogEventMeta("shop", "order.created")
        assert root.is_event_enabled(meta) is True
        root.set_event_policy(deny("order.*"))
        assert root.is_event_enabled(meta) is False
        assert root.is_event_enabled(LogEventMeta("shop", "cart.created")) is True
        assert root.is_event_enabled(LogEventMeta("shop", ["odd"])) is True  # type: ignore[arg-type]

    def test_a_new_policy_holds_for_the_next_event(self, root: LogContext, sink: Collector) -> None:
        """What the old one has rejected passes, and the other way round."""
        context = LogContext(namespace="shop", parent=root, event_policy=deny("a"))
        for _ in range(2):
            context.log_info_event("a")
        context.set_event_policy(deny("b"))
        for _ in range(2):
            context.log_info_event("a")
            context.log_info_event("b")
        context.reset_event_policy()
        context.log_info_event("b")
        assert sink.names == ["a", "a", "b"]

    def test_another_namespace_is_another_event(self, root: LogContext, sink: Collector) -> None:
        """That a name is muted in the context's namespace says nothing about the same name in another one."""
        policy = deny(event_namespaces=("shop",))
        context = LogContext(namespace="shop", parent=root, event_policy=policy)
        for _ in range(2):
            for log in methods(context):
                log("a")
                log("a", event_namespace="billing")
                log("a", event_namespace="shop")
        assert [event.meta.event_namespace for event in sink.events] == ["billing"] * 12
        sink.events.clear()
        other = LogContext(namespace="billing", parent=root, event_policy=policy)
        for _ in range(2):
            other.log_info_event("b", event_namespace="shop")
            other.log_info_event("b")
        assert sink.names == ["b", "b"]

    def test_a_policy_that_looks_at_entities_is_asked_each_time(self, root: LogContext, sink: Collector) -> None:
        """That one entity's events are rejected says nothing about those of another one."""
        context = LogContext(namespace="shop", parent=root, event_policy=deny("a", entity_ids=("1",)))
        for entity in ("1", "2", "1", "2"):
            context.log_info_event("a", entity_id=entity)
        assert [event.meta.entity_id for event in sink.events] == ["2", "2"]

    def test_a_policy_derived_from_ours_is_asked_each_time(self, root: LogContext, sink: Collector) -> None:
        """What it decides in place of the patterns may change from event to event."""

        class EverySecond(PatternLogEventPolicy):
            count = 0

            def is_event_enabled(self, event: LogEventMeta) -> bool:
                type(self).count += 1
                return self.count % 2 == 0

        context = LogContext(namespace="shop", parent=root, event_policy=EverySecond(PatternLogEventPolicyConfig()))
        for _ in range(6):
            context.log_info_event("a")
        assert len(sink.events) == 3

    def test_rejected_names_do_not_fill_the_memory(self, root: LogContext, sink: Collector) -> None:
        """Rendered messages as names, each of them once: what is remembered of them is bounded."""
        context = LogContext(namespace="shop", parent=root, event_policy=deny("*"))
        tracemalloc.start()
        try:
            for number in range(10_000):
                context.log_info_event(f"name.{number}")
            for number in range(300):
                context.log_info_event(f"{number} {'x' * 100_000}")
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept < 5_000_000
        assert sink.events == []


class TestErrorPolicies:
    def test_ignore(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Nothing is raised and nothing is told."""
        root = make_root(Failing(OSError("down")), log_error_handling_policy=IGNORE)
        root.log_info_event("e")
        root.emit_log_event(LogEvent(20, LogEventMeta(None, "e"), None, 0.0, {}))
        assert capsys.readouterr() == ("", "")

    def test_the_first_failure_is_told_then_silence_until_a_delivery_succeeds(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One line on stderr for each time that the sink begins to fail, however often it does."""
        sink = Failing(OSError("down"))
        root = make_root(sink)
        for _ in range(3):
            root.log_info_event("e")
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert "OSError: down" in line
        assert "Failing" in line
        sink.error = None
        root.log_info_event("e")
        assert capsys.readouterr().err == ""
        sink.error = OSError("down again")
        for _ in range(3):
            root.log_info_event("e")
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert "down again" in line

    def test_the_silence_is_the_sink_s(self, capsys: pytest.CaptureFixture[str]) -> None:
        """All contexts that inherit a sink share it: one of them tells of the failure, one of them ends the silence."""
        sink = Failing(OSError("down"))
        root = make_root(sink)
        child = LogContext(namespace="shop", parent=root)
        below = LogContext(namespace="shop.orders", parent=child)
        for context in (below, child, root):
            context.log_info_event("e")
        assert capsys.readouterr().err.count("\n") == 1
        sink.error = None
        root.log_info_event("e")
        sink.error = OSError("down")
        below.log_info_event("e")
        child.emit_log_event(LogEvent(20, LogEventMeta(None, "e"), None, 0.0, {}))
        assert capsys.readouterr().err.count("\n") == 1

    def test_another_sink_has_its_own(self, capsys: pytest.CaptureFixture[str]) -> None:
        """That one sink's failure was told does not silence another one's."""
        root = make_root(Failing(OSError("one")))
        child = LogContext(namespace="shop", parent=root, log_sink=Failing(OSError("two")))
        root.log_info_event("e")
        child.log_info_event("e")
        child.set_log_sink(Failing(OSError("three")))
        child.log_info_event("e")
        errors = capsys.readouterr().err
        assert errors.count("\n") == 3
        assert all(text in errors for text in ("one", "two", "three"))

    def test_who_ignores_failures_does_not_silence_others(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The first failure that is to be told is told, whatever was ignored or raised before it."""
        root = make_root(Failing(OSError("down")))
        LogContext(parent=root, log_error_handling_policy=IGNORE).log_info_event("e")
        with pytest.raises(LogContextUnableToLog):
            LogContext(parent=root, log_error_handling_policy=RAISE).log_info_event("e")
        assert capsys.readouterr().err == ""
        root.log_info_event("e")
        assert "down" in capsys.readouterr().err

    @pytest.mark.parametrize("method", ["log_info_event", "emit_log_event", "_emit_fields"])
    def test_raise(self, method: str) -> None:
        """The caller gets `LogContextUnableToLog` with the cause chained, each time."""
        cause = OSError("down")
        context = make_root(Failing(cause), namespace="shop", log_error_handling_policy=RAISE)
        meta = LogEventMeta("shop", "e")
        arguments: dict[str, tuple[Any, ...]] = {
            "log_info_event": ("e", {"a": 1}),
            "emit_log_event": (LogEvent(20, meta, None, 0.0, {}),),
            "_emit_fields": (20, meta, None, 0.0, {"a": 1}),
        }
        for _ in range(2):
            with pytest.raises(LogContextUnableToLog, match=r"shop.*OSError: down") as caught:
                getattr(context, method)(*arguments[method])
            assert caught.value.__cause__ is cause
            assert caught.value.cause is cause
            assert caught.value.details == {"namespace": "shop"}
            assert isinstance(caught.value, LoggerError)

    def test_raise_is_not_wrapped_twice(self) -> None:
        """A sink that leads to another context which raises: the caller sees the cause once."""
        inner = make_root(Failing(OSError("down")), log_error_handling_policy=RAISE)

        class Forward:
            guards_itself = True

            def log(self, event: LogEvent) -> None:
                inner.emit_log_event(event)

        with pytest.raises(LogContextUnableToLog) as caught:
            make_root(Forward(), log_error_handling_policy=RAISE).log_info_event("e")
        assert isinstance(caught.value.__cause__, OSError)

    @pytest.mark.parametrize("policy", list(LogErrorHandlingPolicy))
    @pytest.mark.parametrize(
        "error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), asyncio.CancelledError()], ids=repr
    )
    def test_what_ends_a_program_passes(
        self, policy: LogErrorHandlingPolicy, error: BaseException, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Whatever the policy, these are no failures: they go through, and nothing is told."""
        root = make_root(Failing(error), log_error_handling_policy=policy)
        with pytest.raises(type(error)) as caught:
            root.log_info_event("e", {"a": 1})
        assert caught.value is error
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize(
        "verdict", [RuntimeError("broken"), NoText(), MagicMock(__bool__=MagicMock(side_effect=OSError))]
    )
    def test_a_broken_policy_loses_nothing(
        self, sink: Collector, verdict: Any, selflog_reports: list[selflog.SelfLogReport]
    ) -> None:
        """The event passes, and the trouble is told."""
        broken = not isinstance(verdict, NoText)
        root = make_root(sink, event_policy=Policy(verdict), log_error_handling_policy=RAISE)
        root.log_info_event("e")
        assert root.is_event_enabled(LogEventMeta(None, "e")) is True
        assert root._accepts(20, LogEventMeta(None, "e")) is True
        assert sink.names == ["e"]
        assert {report.kind for report in selflog_reports} == ({"policy"} if broken else set())

    @pytest.mark.parametrize("result", [RuntimeError("secret text"), "no dict", 5, [("a", 1)]])
    def test_a_broken_processor_loses_nothing(
        self, sink: Collector, result: Any, selflog_reports: list[selflog.SelfLogReport]
    ) -> None:
        """The default one takes over, with its limits and its redaction, and the trouble is told, without its text."""
        root = make_root(sink, payload_processor=Processor(result))
        root.log_info_event("e", {"order": 42, "password": "hunter2", "text": "x" * 1000})
        (event,) = sink.events
        assert event.payload["order"] == 42
        assert event.payload["password"] == "***"
        assert len(event.payload["text"]) < 300
        assert [report.kind for report in selflog_reports] == ["payload"]
        assert selflog_reports[0].fields["processor"] == "Processor"
        assert "secret text" not in selflog_reports[0].to_line()

    def test_a_broken_processor_where_failures_raise(self, sink: Collector) -> None:
        """Who wants to know gets the error."""
        error = RuntimeError("broken")
        root = make_root(sink, payload_processor=Processor(error), log_error_handling_policy=RAISE)
        with pytest.raises(LogContextUnableToLog) as caught:
            root.log_info_event("e", {"a": 1})
        assert caught.value.__cause__ is error
        with pytest.raises(LogContextUnableToLog):
            root.log_info_event("e", 5, skip_payload_normalization=True)  # type: ignore[arg-type]

    def test_an_error_without_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A sink whose exception cannot be put into words fails like any other."""

        class Wordless(Exception):
            def __str__(self) -> str:
                raise ValueError("no words")

        make_root(Failing(Wordless())).log_info_event("e")
        assert "Wordless" in capsys.readouterr().err

    def test_a_subclass_of_our_processor_is_asked_for_every_payload(self, sink: Collector) -> None:
        """What it does in `normalize_payload` holds for bridged events and for bound values as well."""

        class Stamped(LogPayloadProcessor):
            def normalize_payload(self, payload: Any, *, unbounded: bool = False) -> dict[str, Any]:
                return {**super().normalize_payload(payload, unbounded=unbounded), "stamped": True}

        root = make_root(sink, payload_processor=Stamped())
        root._emit_fields(20, LogEventMeta(None, "e"), None, 0.0, {str(number): number for number in range(50)})
        assert sink.events[0].payload["stamped"] is True


class TestBridgeMethods:
    """`_accepts` and `_emit_fields`: what handlers and processors call."""

    def test_accepts(self, sink: Collector) -> None:
        """First the minimal level, then the policy."""
        policy = Policy(False)
        root = make_root(sink, min_level=20, event_policy=policy)
        meta = LogEventMeta("shop", "e")
        assert root._accepts(10, meta) is False
        assert policy.asked == []
        assert root._accepts(20, meta) is False
        policy.verdict = True
        assert root._accepts(20, meta) is True

    def test_every_key_is_kept_and_every_value_is_bounded(self, root: LogContext, sink: Collector) -> None:
        """More keys than `max_items` are fields that somebody named one by one; their values are payload like any."""
        fields = {f"field{number}": list(range(50)) for number in range(50)}
        root._emit_fields(25, LogEventMeta("shop", "e"), "done", 12.5, {**fields, "token": "t"}, message="hello")
        (event,) = sink.events
        assert len(event.payload) == 51
        assert len(event.payload["field3"]) == 11
        assert event.payload["token"] == "***"
        assert (event.level, event.event_outcome, event.timestamp, event.message) == (25, "done", 12.5, "hello")

    def test_the_rest_passes_as_it_is(self, root: LogContext, sink: Collector) -> None:
        """Exception, stack and origin are the bridge's."""
        exception = LogException("ValueError", "x", "ValueError: x")
        root._emit_fields(20, LogEventMeta(None, "e"), None, 0.0, {}, exception=exception)
        assert sink.events[0].exception is exception
        assert sink.events[0].payload == {}

    def test_a_broken_processor_loses_nothing(self, sink: Collector, selflog_reports: list[Any]) -> None:
        """The default one takes over, and keeps every key."""
        root = make_root(sink, payload_processor=Processor(RuntimeError()))
        root._emit_fields(20, LogEventMeta(None, "e"), None, 0.0, {str(number): number for number in range(50)})
        assert len(sink.events[0].payload) == 50

    def test_bound_values(self, root: LogContext, sink: Collector) -> None:
        """They are merged, unless the bridge has done that."""
        with structlog.contextvars.bound_contextvars(request="r1"):
            root._emit_fields(20, LogEventMeta(None, "e"), None, 0.0, {"a": 1})
            root._emit_fields(20, LogEventMeta(None, "e"), None, 0.0, {"a": 1}, merge_ambient=False)
        assert [event.payload for event in sink.events] == [{"request": "r1", "a": 1}, {"a": 1}]


class TestBoundValues:
    """Values bound with `structlog.contextvars` are part of native events."""

    def test_they_are_merged_under_the_payload(self, root: LogContext, sink: Collector) -> None:
        """What the call says wins, and keeps its place after what was bound."""
        with structlog.contextvars.bound_contextvars(request="r1", user="bound"):
            root.log_info_event("a", {"user": "explicit", "b": 2})
            root.log_info_event("b")
            root.log_info_event("c", {"x": 1}, skip_payload_normalization=True)
        root.log_info_event("d")
        payloads = [event.payload for event in sink.events]
        assert payloads[0] == {"request": "r1", "user": "explicit", "b": 2}
        assert list(payloads[0]) == ["request", "user", "b"]
        with structlog.contextvars.bound_contextvars(a=1, b=2, c=3, d=4, e=5):
            root.log_info_event("e", {"x": 1, "e": 2, "a": 3, "y": 4})
        assert list(sink.events[-1].payload)[-4:] == ["x", "e", "a", "y"]
        assert payloads[1] == {"request": "r1", "user": "bound"}
        assert payloads[2] == {"request": "r1", "user": "bound", "x": 1}
        assert payloads[3] == {}

    def test_they_are_normalized(self, root: LogContext, sink: Collector) -> None:
        """Secrets among them are redacted and long values are cut."""
        with structlog.contextvars.bound_contextvars(authorization="Bearer x", text="y" * 500, tags=list(range(50))):
            root.log_info_event("e")
        payload = sink.events[0].payload
        assert payload["authorization"] == "***"
        assert len(payload["text"]) == 203
        assert len(payload["tags"]) == 11

    def test_all_of_them_are_kept(self, root: LogContext, sink: Collector) -> None:
        """`max_items` bounds what is in a payload, not how many values were bound."""
        bound = {f"key{number}": number for number in range(30)}
        with structlog.contextvars.bound_contextvars(**bound):
            root.log_info_event("e", {"a": 1})
        assert sink.events[0].payload == {**bound, "a": 1}

    def test_another_thread_has_its_own(self, root: LogContext, sink: Collector) -> None:
        """What one thread has bound is not on another one's events."""
        with structlog.contextvars.bound_contextvars(request="r1"):
            thread = threading.Thread(target=root.log_info_event, args=("e",))
            thread.start()
            thread.join()
        assert sink.events[0].payload == {}

    async def test_each_task_has_its_own(self, root: LogContext, sink: Collector) -> None:
        """Two tasks that take turns do not see each other's values."""

        async def serve(number: int) -> None:
            structlog.contextvars.bind_contextvars(request=number)
            await asyncio.sleep(0)
            root.log_info_event(f"e{number}")

        await asyncio.gather(serve(1), serve(2))
        assert {event.meta.event_name: event.payload for event in sink.events} == {
            "e1": {"request": 1},
            "e2": {"request": 2},
        }

    def test_a_broken_processor_does_not_lose_them(self, sink: Collector, selflog_reports: list[Any]) -> None:
        """The default one takes over for them too."""
        root = make_root(sink, payload_processor=Processor(RuntimeError()))
        with structlog.contextvars.bound_contextvars(request="r1"):
            root.log_info_event("e")
        assert sink.events[0].payload == {"request": "r1"}


class Coded(Exception):
    code = 404
    code_desc = "not found"


class TestErrors:
    def build(self, err: BaseException) -> dict[str, Any]:
        return make_root().build_error_payload(err)

    def test_any_error(self) -> None:
        """The kind is the name of the type, the message its text."""
        assert self.build(ValueError("bad value")) == {"kind": "ValueError", "message": "bad value"}
        assert self.build(KeyboardInterrupt()) == {"kind": "KeyboardInterrupt", "message": ""}

    def test_an_error_with_a_code(self) -> None:
        """The code and its description come along where the error has them."""
        payload = self.build(Coded("no such order"))
        assert payload == {"code": 404, "code_desc": "not found", "kind": "Coded", "message": "no such order"}

        class Half(Exception):
            code = None
            code_desc = "half"

        assert self.build(Half()) == {"code_desc": "half", "kind": "Half", "message": ""}

    def test_an_error_that_describes_itself(self) -> None:
        """A dict from `to_log_payload()` is the payload, as it is."""

        class Own(Coded):
            result: Any = None

            def to_log_payload(self) -> Any:
                return self.result

        err = Own("x")
        err.result = {"own": 1}
        assert self.build(err) is err.result
        err.result = "no dict"
        assert self.build(err) == {"code": 404, "code_desc": "not found", "kind": "Own", "message": "x"}

    def test_our_own_errors_describe_themselves(self) -> None:
        """A `LoggerError` has its reason code and details in the payload."""
        payload = self.build(LogContextResetError("no", details={"setting": "log_sink"}))
        assert payload["code"] == "log_context_reset"
        assert payload["details"] == {"setting": "log_sink"}

    def test_errors_that_fight_back(self) -> None:
        """Whatever raises while it is asked is left out."""

        class Hostile(Exception):
            def __str__(self) -> str:
                raise ValueError("no text")

            @property
            def code(self) -> int:
                raise OSError("no code")

            def to_log_payload(self) -> dict[str, Any]:
                raise RuntimeError("no payload")

        assert self.build(Hostile()) == {"kind": "Hostile", "message": "<Hostile>"}

        class Closed(Exception):
            def __getattribute__(self, name: str) -> Any:
                raise RuntimeError(name)

        assert self.build(Closed("x"))["kind"] == "Closed"

    def test_mark_and_ask(self) -> None:
        """A mark belongs to one exception object, whichever context set it."""
        err, other = ValueError("x"), ValueError("x")
        first, second = make_root(), make_root()
        assert first.is_error_logged(err) is False
        first.mark_error_logged(err)
        assert second.is_error_logged(err) is True
        assert first.is_error_logged(other) is False

    def test_the_mark_survives_what_happens_to_exceptions(self) -> None:
        """Raising again, pickling (to another process) and copying keep it."""
        err = ValueError("x")
        make_root().mark_error_logged(err)
        with pytest.raises(ValueError) as again:
            raise err
        assert make_root().is_error_logged(again.value)
        assert make_root().is_error_logged(pickle.loads(pickle.dumps(err)))
        assert make_root().is_error_logged(copy.copy(err))

    def test_marking_never_raises(self) -> None:
        """What cannot hold a mark is simply not marked."""

        class Closed(Exception):
            @property
            def __dict__(self) -> Any:  # type: ignore[override]
                raise RuntimeError("no attributes")

        context = make_root()
        for err in (Closed(), object(), None, 5):
            context.mark_error_logged(err)  # type: ignore[arg-type]
            assert context.is_error_logged(err) is False  # type: ignore[arg-type]

    def test_a_claim_is_no_mark(self) -> None:
        """An exception that answers anything to any question is not taken for a marked one."""
        assert make_root().is_error_logged(MagicMock()) is False


class TestMemory:
    def test_children_are_not_kept_alive(self, root: LogContext) -> None:
        """A context for one request goes with the request."""
        child = LogContext(parent=root)
        reference = weakref.ref(child)
        del child
        gc.collect()
        assert reference() is None
        root.set_min_level(10)

    def test_what_is_between_stays(self, root: LogContext, sink: Collector) -> None:
        """A context that only its child still knows goes on handing settings down."""
        child = LogContext(namespace="c", parent=LogContext(parent=root, min_level=30))
        gc.collect()
        other = Collector()
        root.set_log_sink(other)
        child.log_info_event("rejected")
        child.log_error_event("passes")
        assert other.names == ["passes"]

    def test_many_short_lived_children(self, root: LogContext) -> None:
        """Contexts made and dropped by many threads while the root changes: nothing raises, nothing stays."""
        errors: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(300):
                    LogContext(parent=LogContext(parent=root)).log_info_event("e")
            except BaseException as err:
                errors.append(err)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            root.set_min_level(10)
        for thread in threads:
            thread.join()
        gc.collect()
        assert errors == []
        assert list(root._all_below()) == []


class TestRecursion:
    """The logger never feeds on itself."""

    def test_a_sink_that_logs(self, selflog_reports: list[selflog.SelfLogReport]) -> None:
        """The number of delivered events is the number that the application logged; the rest is told once."""

        class Chatty(Collector):
            def log(self, event: LogEvent) -> None:
                super().log(event)
                root.log_info_event("delivering", {"event": event.meta.event_name})
                other.log_info_event("delivering")

        sink, elsewhere = Chatty(), Collector()
        root = make_root(sink)
        other = make_root(elsewhere)
        root.log_info_event("a")
        root.log_info_event("b")
        assert sink.names == ["a", "b"]
        assert elsewhere.names == []
        assert {report.kind for report in selflog_reports} == {"recursion"}

    def test_the_process_freezes_because_describing_an_object_logs_the_object(
        self, sink: Collector, selflog_reports: list[selflog.SelfLogReport]
    ) -> None:
        """`to_log_payload` logs twice with `self` in the payload: the event arrives once, the rest is told."""
        calls = 0

        class Order:
            def to_log_payload(self) -> dict[str, Any]:
                nonlocal calls
                calls += 1
                assert calls < 1000, "it never ends"
                root.log_debug_event("loading", {"order": self})
                root.log_debug_event("loaded", {"order": self})
                return {"id": 42}

        root = make_root(sink)
        root.log_info_event("order.created", {"order": Order()})
        assert sink.names == ["order.created"]
        assert sink.events[0].payload == {"order": {"id": 42}}
        assert {report.kind for report in selflog_reports} == {"recursion"}

    def test_the_process_freezes_because_an_adapter_logs(
        self, sink: Collector, selflog_reports: list[selflog.SelfLogReport]
    ) -> None:
        """The same with a `LogAdapter` for foreign types."""

        class Foreign:
            pass

        calls = 0

        def adapt(value: Any, verbosity: str) -> dict[str, Any]:
            nonlocal calls
            calls += 1
            assert calls < 1000, "it never ends"
            root.log_info_event("adapting", {"value": value})
            root.log_info_event("adapted", {"value": value})
            return {"foreign": True}

        resolver = lambda value: adapt if isinstance(value, Foreign) else None  # noqa: E731
        root = make_root(sink, payload_processor=LogPayloadProcessor(log_adapter_resolver=resolver))
        root.log_info_event("e", {"value": Foreign()})
        assert sink.names == ["e"]
        assert sink.events[0].payload == {"value": {"foreign": True}}

    def test_a_describing_object_may_ask_the_processor(self, sink: Collector) -> None:
        """Normalizing what is inside of it, in `to_log_payload`, is no logging: it works as outside."""

        class Line:
            def to_log_payload(self) -> dict[str, Any]:
                return {"sku": "a"}

        class Order:
            def to_log_payload(self) -> dict[str, Any]:
                return {"line": root.normalize_value_for_log(Line())}

        root = make_root(sink)
        root.log_info_event("e", {"order": Order()})
        assert sink.events[0].payload == {"order": {"line": {"sku": "a"}}}

    def test_a_processor_that_logs_through_the_standard_library(self, sink: Collector) -> None:
        """What is logged while a payload is described is not on its way forever."""

        class Order:
            def to_log_payload(self) -> dict[str, Any]:
                logging.getLogger("orm").warning("lazy load")
                return {"id": 1}

        from mvx_logger import LogContextHandler

        root = make_root(sink)
        handler = LogContextHandler(root)
        logger = logging.getLogger("orm")
        logger.addHandler(handler)
        logger.propagate = False
        try:
            root.log_info_event("e", {"order": Order()})
        finally:
            logger.removeHandler(handler)
            logger.propagate = True
        assert sink.names == ["e"]


@pytest.fixture
def in_child() -> Callable[[Callable[[], None]], int]:
    """Runs a function in a forked child; gives its exit code, or minus the number of the signal that ended it."""

    def run(function: Callable[[], None]) -> int:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.alarm(20)
                function()
                code = 0
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return run


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
class TestFork:
    def test_the_child_deadlocks_because_another_thread_changed_a_context(
        self, root: LogContext, in_child: Callable[[Callable[[], None]], int]
    ) -> None:
        """Forked in the midst of a change that another thread makes, the child can change contexts and log."""
        entered, leave = threading.Event(), threading.Event()

        class SlowToConfigure:
            looked = 0

            @property
            def log(self) -> Callable[[LogEvent], None]:
                self.looked += 1
                if self.looked == 2:  # the first look is the check of its type
                    entered.set()
                    assert leave.wait(30)
                return lambda event: None

        changer = threading.Thread(target=root.set_log_sink, args=(SlowToConfigure(),))
        changer.start()
        try:
            assert entered.wait(30)

            def child() -> None:
                sink = Collector()
                context = make_root(sink)
                LogContext(parent=context).log_info_event("e")
                root.set_min_level(10)
                root.set_log_sink(sink)
                root.log_info_event("f")
                assert sink.names == ["e", "f"]

            assert in_child(child) == 0
        finally:
            leave.set()
            changer.join()

    def test_contexts_work_in_the_child(
        self, root: LogContext, sink: Collector, in_child: Callable[[Callable[[], None]], int]
    ) -> None:
        """The child's contexts are its own: what it logs and changes does not reach the parent's."""
        context = LogContext(namespace="shop", parent=root, event_policy=deny("muted"))
        context.log_info_event("muted")

        def child() -> None:
            context.log_info_event("muted")
            context.log_info_event("in.child", {"a": 1})
            assert sink.names == ["in.child"]
            root.set_min_level(50)
            context.log_info_event("rejected")
            assert sink.names == ["in.child"]

        assert in_child(child) == 0
        assert sink.events == []
        assert root.min_level == 0


class TestSignals:
    @pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
    def test_a_signal_handler_that_logs(self, root: LogContext, sink: Collector) -> None:
        """It may come at any instruction of a change or of another event: nothing waits for itself."""
        child = LogContext(namespace="shop", parent=root, event_policy=deny("muted"))
        handled = 0

        def handle(number: int, frame: Any) -> None:
            nonlocal handled
            handled += 1
            child.log_info_event("handled")
            child.log_info_event("muted")
            child.set_min_level(10)

        before = signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        logged = 0
        try:
            while handled < 50:
                child.log_info_event("e", {"a": [1, 2], "b": uuid.UUID(int=1)})
                logged += 1
                root.set_min_level(5)
                child.set_event_policy(deny("muted"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert sink.names.count("e") == logged
        assert sink.names.count("muted") == 0
        assert sink.names.count("handled") > 0
