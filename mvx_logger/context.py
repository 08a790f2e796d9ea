"""`LogContext`: where code emits events and configuration decides what becomes of them.

Configuration is resolved when it changes, not when an event is logged. Each context holds one immutable snapshot of
what is in force for it, replaced as a whole; a change walks down the tree once. Logging reads one attribute and takes
no lock.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import copy_context
from enum import Enum
from time import time
from types import MethodType
from typing import Any, TypeAlias, TypeVar, cast
from weakref import WeakSet

from . import selflog
from .ambient import add_trace_context, capture, get_ambient
from .errors import LogContextResetError, LogContextUnableToLog
from .guard import find_offer, guarded_log, internal, mark
from .model import LIGHT_TEXT, LogEvent, LogEventMeta, LogEventOrigin, LogException, LogStack
from .payload import HEAVY, LogPayloadProcessor, weigh_payload
from .protocols import LogEventPolicyProto, LogPayloadProcessorProto, LogPayloadProvider, LogSinkProto

__all__ = ["LogContext", "LogErrorHandlingPolicy"]

Payload: TypeAlias = Mapping[str, Any] | LogPayloadProvider | None
F = TypeVar("F", bound=Callable[..., None])

_NO_NAMESPACE = "<not defined>"
_NOTHING: frozenset[str] = frozenset()
_MAX_VERDICTS = 4096
_MAX_MUTED_NAME = 256
_modules = sys.modules


class LogErrorHandlingPolicy(Enum):
    """What a context does when an event cannot be logged."""

    IGNORE = "ignore"
    """Nothing."""
    PRINT_STDERR = "print_stderr"
    """Tell the first failure on stderr, then be silent until a delivery succeeds again."""
    RAISE = "raise"
    """Raise `LogContextUnableToLog`, the cause chained."""


class _Health:
    """Whether a sink's failure was told and no delivery has succeeded since; shared by all contexts that inherit it."""

    __slots__ = ("failing",)

    def __init__(self) -> None:
        self.failing = False


class _Snapshot:
    """What is in force for one context. Never changed once it is made (but for ``muted``, a cache)."""

    __slots__ = (
        "emit",
        "errors",
        "health",
        "is_enabled",
        "min_level",
        "muted",
        "namespace",
        "normalize",
        "normalize_fields",
        "offer",
        "policy",
        "processor",
        "remember",
        "sink",
        "weigh",
    )

    sink: Any
    emit: Callable[[LogEvent], None]
    offer: Callable[[LogEvent], bool] | None
    health: _Health
    policy: Any
    is_enabled: Callable[[LogEventMeta], bool] | None
    remember: bool
    muted: set[str] | frozenset[str]
    processor: Any
    normalize: Callable[[Any], dict[str, Any]]
    normalize_fields: Callable[[Any], dict[str, Any]]
    weigh: Callable[..., tuple[dict[str, Any], int]] | None
    errors: LogErrorHandlingPolicy
    min_level: int
    namespace: str | None


_tree_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tree_lock._at_fork_reinit)  # type: ignore[attr-defined]


# To fill in the defaults of seven keyword-only parameters takes longer than to reject an event; of positional ones, it
# takes next to nothing. So what runs has only such, and one in front of them that refuses what is not given by its name.
# What a method says of itself (to type checkers, `inspect.signature` and `help`) is the definition in the class.

_NOT_GIVEN: Any = object()


def _log_event(
    self: LogContext,
    event: str,
    level: int,
    payload: Payload = None,
    _more: Any = _NOT_GIVEN,
    event_namespace: str | None = None,
    event_outcome: str | None = None,
    entity_id: str | None = None,
    source_path: str | None = None,
    source_line: int | None = None,
    source_func: str | None = None,
    skip_payload_normalization: bool = False,
) -> None:
    if _more is not _NOT_GIVEN:
        raise TypeError("LogContext.log_event() takes event, level and payload by position, all else by its name")
    snapshot = self._snapshot
    try:
        if level < snapshot.min_level or (event in snapshot.muted and event_namespace is None):
            return
    except Exception:  # the level is no number, or the name is no str
        if not isinstance(level, int):
            level = _level_of(level)
        if level < snapshot.min_level:
            return
    self._log(
        snapshot, level, event, payload, event_namespace, event_outcome, entity_id,
        source_path, source_line, source_func, skip_payload_normalization,
    )  # fmt: skip


def _log_event_at(level: int) -> Callable[..., None]:
    def log_at(
        self: LogContext,
        event: str,
        payload: Payload = None,
        _more: Any = _NOT_GIVEN,
        event_namespace: str | None = None,
        event_outcome: str | None = None,
        entity_id: str | None = None,
        source_path: str | None = None,
        source_line: int | None = None,
        source_func: str | None = None,
        skip_payload_normalization: bool = False,
    ) -> None:
        if _more is not _NOT_GIVEN:
            name = log_at.__qualname__
            raise TypeError(f"{name}() takes event and payload by position, all else by its name")
        snapshot = self._snapshot
        try:
            if snapshot.min_level > level or (event in snapshot.muted and event_namespace is None):
                return
        except Exception:  # noqa: S110 - a name that is no str cannot be looked up; _log() makes it one
            pass
        self._log(
            snapshot, level, event, payload, event_namespace, event_outcome, entity_id,
            source_path, source_line, source_func, skip_payload_normalization,
        )  # fmt: skip

    return log_at


def _runs(function: Callable[..., Any]) -> Callable[[F], F]:
    """Put a function in the place of the definition, which stays what the method says of itself."""

    def put_in_place(definition: F) -> F:
        for name in ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__"):
            setattr(function, name, getattr(definition, name))
        code = function.__code__
        function.__code__ = code.replace(co_name=definition.__name__, co_qualname=definition.__qualname__)
        function.__wrapped__ = definition  # type: ignore[attr-defined]
        return cast("F", function)

    return put_in_place


class LogContext:
    """Emits events under a namespace, to the sink that is in force for it.

    Without ``parent`` it is a root. A child takes sink, payload processor, error policy and minimal level from its
    parent until it is given its own; its event policy is only ever its own.

    Args:
        namespace: The namespace of its events; None for none.
        parent: The context to inherit from.
        log_sink: Where its events go. Mandatory for a root.
        event_policy: Decides which events pass; None lets all pass.
        payload_processor: Makes payloads plain and bounded. Mandatory for a root.
        log_error_handling_policy: What happens when an event cannot be logged. A root's default is ``PRINT_STDERR``.
        min_level: Events below it are rejected first of all. A root's default is 0.

    Raises:
        ValueError: A root was given no sink or no payload processor.
        TypeError: An argument has the wrong type; the text names it.
    """

    def __init__(
        self,
        *,
        namespace: str | None = None,
        parent: LogContext | None = None,
        log_sink: LogSinkProto | None = None,
        event_policy: LogEventPolicyProto | None = None,
        payload_processor: LogPayloadProcessorProto | None = None,
        log_error_handling_policy: LogErrorHandlingPolicy | None = None,
        min_level: int | None = None,
    ) -> None:
        _check("namespace", namespace, str)
        _check("parent", parent, LogContext)
        check_settings(
            log_sink=log_sink,
            event_policy=event_policy,
            payload_processor=payload_processor,
            log_error_handling_policy=log_error_handling_policy,
            min_level=min_level,
        )
        if parent is None:
            if log_sink is None:
                raise ValueError("log_sink: a context without a parent needs one")
            if payload_processor is None:
                raise ValueError("payload_processor: a context without a parent needs one")
        self._namespace = namespace
        self._parent = parent
        self._children: WeakSet[LogContext] = WeakSet()
        self._local_sink = log_sink
        self._local_health = _Health()
        self._local_policy = event_policy
        self._local_processor = payload_processor
        self._local_errors = log_error_handling_policy
        self._local_min_level = min_level
        with _tree_lock:
            self._snapshot = self._make_snapshot()
            if parent is not None:
                parent._children.add(self)

    # ------------------------------------------------------------------ what is in force

    @property
    def namespace(self) -> str:
        """The namespace of its events; ``"<not defined>"`` when it has none."""
        return _NO_NAMESPACE if self._namespace is None else self._namespace

    @property
    def is_root(self) -> bool:
        """True when it has no parent."""
        return self._parent is None

    @property
    def parent(self) -> LogContext | None:
        """The context that it inherits from."""
        return self._parent

    @property
    def log_sink(self) -> LogSinkProto:
        """The sink in force."""
        sink: LogSinkProto = self._snapshot.sink
        return sink

    @property
    def event_policy(self) -> LogEventPolicyProto | None:
        """Its own event policy; None lets all events pass."""
        return self._local_policy

    @property
    def payload_processor(self) -> LogPayloadProcessorProto:
        """The payload processor in force."""
        processor: LogPayloadProcessorProto = self._snapshot.processor
        return processor

    @property
    def log_error_handling_policy(self) -> LogErrorHandlingPolicy:
        """The error policy in force."""
        return self._snapshot.errors

    @property
    def min_level(self) -> int:
        """The minimal level in force."""
        return self._snapshot.min_level

    def get_local_log_sink(self) -> LogSinkProto | None:
        """Its own sink; None when it inherits one."""
        return self._local_sink

    def __repr__(self) -> str:
        return f"<LogContext {self.namespace}>"

    # ------------------------------------------------------------------ changing it

    def set_log_sink(self, value: LogSinkProto) -> None:
        """Give it a sink of its own. TypeError when it is none."""
        self._set(log_sink=_given("log_sink", value))

    def reset_log_sink(self) -> None:
        """Inherit the sink again. `LogContextResetError` on a root."""
        self._reset("log_sink")

    def set_event_policy(self, value: LogEventPolicyProto) -> None:
        """Give it an event policy. TypeError when it is none."""
        self._set(event_policy=_given("event_policy", value))

    def reset_event_policy(self) -> None:
        """Let all events pass again."""
        with _tree_lock:
            self._local_policy = None
            self._refresh()

    def set_payload_processor(self, value: LogPayloadProcessorProto) -> None:
        """Give it a payload processor of its own. TypeError when it is none."""
        self._set(payload_processor=_given("payload_processor", value))

    def reset_payload_processor(self) -> None:
        """Inherit the payload processor again. `LogContextResetError` on a root."""
        self._reset("payload_processor")

    def set_log_error_handling_policy(self, value: LogErrorHandlingPolicy) -> None:
        """Give it an error policy of its own. TypeError when it is none."""
        self._set(log_error_handling_policy=_given("log_error_handling_policy", value))

    def reset_log_error_handling_policy(self) -> None:
        """Inherit the error policy again. `LogContextResetError` on a root."""
        self._reset("log_error_handling_policy")

    def set_min_level(self, value: int) -> None:
        """Reject events below a level from now on. TypeError when it is no int."""
        self._set(min_level=_given("min_level", value))

    def reset_min_level(self) -> None:
        """Inherit the minimal level again; a root lets all levels pass."""
        with _tree_lock:
            self._local_min_level = None
            self._refresh()

    def _set(
        self,
        *,
        log_sink: LogSinkProto | None = None,
        event_policy: LogEventPolicyProto | None = None,
        payload_processor: LogPayloadProcessorProto | None = None,
        log_error_handling_policy: LogErrorHandlingPolicy | None = None,
        min_level: int | None = None,
    ) -> None:
        check_settings(
            log_sink=log_sink,
            event_policy=event_policy,
            payload_processor=payload_processor,
            log_error_handling_policy=log_error_handling_policy,
            min_level=min_level,
        )
        with _tree_lock:
            if log_sink is not None and log_sink is not self._local_sink:
                self._local_sink = log_sink
                self._local_health = _Health()
            if event_policy is not None:
                self._local_policy = event_policy
            if payload_processor is not None:
                self._local_processor = payload_processor
            if log_error_handling_policy is not None:
                self._local_errors = log_error_handling_policy
            if min_level is not None:
                self._local_min_level = min_level
            self._refresh()

    def _reset(self, *names: str) -> None:
        with _tree_lock:
            if self._parent is None:
                raise LogContextResetError(
                    f"{names[0]}: a root context has nothing to inherit it from; set another one instead",
                    details={"setting": names[0]},
                )
            if "log_sink" in names:
                self._local_sink = None
            if "payload_processor" in names:
                self._local_processor = None
            if "log_error_handling_policy" in names:
                self._local_errors = None
            self._refresh()

    def _get_settings(self) -> dict[str, Any]:
        """Its own settings, as `_replace_settings` takes them."""
        return {
            "log_sink": self._local_sink,
            "event_policy": self._local_policy,
            "payload_processor": self._local_processor,
            "log_error_handling_policy": self._local_errors,
            "min_level": self._local_min_level,
        }

    def _replace_settings(self, settings: Mapping[str, Any]) -> None:
        """Make these all of its own settings, in one step; what is missing is inherited. A root keeps what it needs."""
        check_settings(**settings)
        with _tree_lock:
            sink = settings.get("log_sink")
            processor = settings.get("payload_processor")
            if self._parent is None:
                sink = self._local_sink if sink is None else sink
                processor = self._local_processor if processor is None else processor
            if sink is not self._local_sink:
                self._local_sink = sink
                self._local_health = _Health()
            self._local_processor = processor
            self._local_policy = settings.get("event_policy")
            self._local_errors = settings.get("log_error_handling_policy")
            self._local_min_level = settings.get("min_level")
            self._refresh()

    def _all_below(self) -> Iterator[LogContext]:
        """Its children, their children, and so on; also those that are registered nowhere."""
        for child in list(self._children):
            yield child
            yield from child._all_below()

    def _refresh(self) -> None:
        self._snapshot = self._make_snapshot()
        for child in list(self._children):
            child._refresh()

    def _make_snapshot(self) -> _Snapshot:
        above = None if self._parent is None else self._parent._snapshot
        new = _Snapshot()
        new.namespace = self._namespace
        if self._local_sink is not None or above is None:
            new.sink = self._local_sink
            new.emit = guarded_log(self._local_sink)
            new.offer = find_offer(new.emit)
            new.health = self._local_health
        else:
            new.sink, new.emit, new.offer, new.health = above.sink, above.emit, above.offer, above.health
        processor = above.processor if self._local_processor is None and above is not None else self._local_processor
        assert processor is not None
        new.processor = processor
        new.normalize = processor.normalize_payload
        new.normalize_fields = getattr(processor, "normalize_fields", processor.normalize_payload)
        new.weigh = None
        if type(processor) is LogPayloadProcessor:
            new.weigh = MethodType(weigh_payload, processor)
        else:
            new.normalize, new.normalize_fields = _checked(new.normalize), _checked(new.normalize_fields)
        if self._local_errors is not None:
            new.errors = self._local_errors
        else:
            new.errors = LogErrorHandlingPolicy.PRINT_STDERR if above is None else above.errors
        if self._local_min_level is not None:
            new.min_level = int(self._local_min_level)
        else:
            new.min_level = 0 if above is None else above.min_level
        policy = new.policy = self._local_policy
        new.is_enabled = None if policy is None else policy.is_event_enabled
        # Where names alone decide, a verdict holds for as long as the snapshot does.
        new.remember = getattr(policy, "decides_by_name", False) is True
        new.muted = set() if new.remember else _NOTHING
        return new

    # ------------------------------------------------------------------ logging

    def is_event_enabled(self, meta: LogEventMeta) -> bool:
        """True when the event policy lets the event pass. A policy that fails lets it pass."""
        return self._is_enabled(self._snapshot, meta)

    def _is_enabled(self, snapshot: _Snapshot, meta: LogEventMeta) -> bool:
        is_enabled = snapshot.is_enabled
        if is_enabled is None:
            return True
        try:
            enabled = bool(is_enabled(meta))
            if not enabled and snapshot.remember and meta.event_namespace == snapshot.namespace:
                name = meta.event_name
                # Longer names are rendered messages rather than names: they hardly repeat, and keeping them costs memory.
                if type(name) is str and len(name) <= _MAX_MUTED_NAME:
                    muted = snapshot.muted
                    if len(muted) >= _MAX_VERDICTS:
                        muted.clear()  # type: ignore[union-attr]
                    muted.add(name)  # type: ignore[union-attr]
        except Exception as err:
            # A broken policy must not lose events.
            selflog.report("policy", "an event policy failed; the event passes", error=_describe(err))
            return True
        return enabled

    @_runs(_log_event)
    def log_event(
        self,
        event: str,
        level: int,
        payload: Payload = None,
        *,
        event_namespace: str | None = None,
        event_outcome: str | None = None,
        entity_id: str | None = None,
        source_path: str | None = None,
        source_line: int | None = None,
        source_func: str | None = None,
        skip_payload_normalization: bool = False,
    ) -> None:
        """Log one event.

        Args:
            event: Its name, e.g. ``order.created``.
            level: A `LogLevel` or any other int.
            payload: Its data: a mapping, or an object with ``to_log_payload()``. Left out, it is empty.
            event_namespace: Instead of the context's namespace.
            event_outcome: How what it tells of ended, e.g. ``success``.
            entity_id: Which instance it is about.
            source_path: The source file that logs it.
            source_line: The line in that file, counted from 1.
            source_func: The function that logs it.
            skip_payload_normalization: The payload is plain, bounded data already: take its items as they are.

        Raises:
            LogContextUnableToLog: It could not be logged, and the error policy is ``RAISE``.
        """

    @_runs(_log_event_at(10))
    def log_debug_event(
        self,
        event: str,
        payload: Payload = None,
        *,
        event_namespace: str | None = None,
        event_outcome: str | None = None,
        entity_id: str | None = None,
        source_path: str | None = None,
        source_line: int | None = None,
        source_func: str | None = None,
        skip_payload_normalization: bool = False,
    ) -> None:
        """Log one event at level DEBUG. See `log_event`."""

    @_runs(_log_event_at(20))
    def log_info_event(
        self,
        event: str,
        payload: Payload = None,
        *,
        event_namespace: str | None = None,
        event_outcome: str | None = None,
        entity_id: str | None = None,
        source_path: str | None = None,
        source_line: int | None = None,
        source_func: str | None = None,
        skip_payload_normalization: bool = False,
    ) -> None:
        """Log one event at level INFO. See `log_event`."""

    @_runs(_log_event_at(30))
    def log_warning_event(
        self,
        event: str,
        payload: Payload = None,
        *,
        event_namespace: str | None = None,
        event_outcome: str | None = None,
        entity_id: str | None = None,
        source_path: str | None = None,
        source_line: int | None = None,
        source_func: str | None = None,
        skip_payload_normalization: bool = False,
    ) -> None:
        """Log one event at level WARNING. See `log_event`."""

    @_runs(_log_event_at(40))
    def log_error_event(
        self,
        event: str,
        payload: Payload = None,
        *,
        event_namespace: str | None = None,
        event_outcome: str | None = None,
        entity_id: str | None = None,
        source_path: str | None = None,
        source_line: int | None = None,
        source_func: str | None = None,
        skip_payload_normalization: bool = False,
    ) -> None:
        """Log one event at level ERROR. See `log_event`."""

    @_runs(_log_event_at(50))
    def log_critical_event(
        self,
        event: str,
        payload: Payload = None,
        *,
        event_namespace: str | None = None,
        event_outcome: str | None = None,
        entity_id: str | None = None,
        source_path: str | None = None,
        source_line: int | None = None,
        source_func: str | None = None,
        skip_payload_normalization: bool = False,
    ) -> None:
        """Log one event at level CRITICAL. See `log_event`."""

    def _log(
        self,
        snapshot: _Snapshot,
        level: int,
        event: str,
        payload: Payload,
        event_namespace: str | None,
        event_outcome: str | None,
        entity_id: str | None,
        source_path: str | None,
        source_line: int | None,
        source_func: str | None,
        skip_payload_normalization: bool,
    ) -> None:
        try:
            meta = LogEventMeta(
                snapshot.namespace if event_namespace is None else event_namespace,
                event if type(event) is str else _name_of(event),
                entity_id if entity_id is None or type(entity_id) is str else _name_of(entity_id),
                source_path,
                source_line,
                source_func,
            )
            if snapshot.is_enabled is not None and not self._is_enabled(snapshot, meta):
                return
            data: dict[str, Any]
            text = HEAVY
            if payload is None:
                data, text = {}, 0
            elif snapshot.weigh is not None and not skip_payload_normalization:
                data, text = snapshot.weigh(payload)
            else:
                try:
                    data = _as_it_is(payload) if skip_payload_normalization else snapshot.normalize(payload)
                except Exception as err:
                    data = _describe_anyway(snapshot, payload, err)
            if ("structlog.contextvars" in _modules or capture.active) and copy_context():
                merged = _with_ambient(snapshot, data)
                if merged is not data:
                    data, text = merged, HEAVY
            log_event = LogEvent(level, meta, event_outcome, time(), data)
            offer = snapshot.offer
            if offer is None or text > LIGHT_TEXT or mark.value is not None or internal.get() or not offer(log_event):
                snapshot.emit(log_event)
        except Exception as err:
            self._on_failure(snapshot, err)
        else:
            if snapshot.health.failing:
                snapshot.health.failing = False

    def emit_log_event(self, event: LogEvent) -> None:
        """Hand a finished event to the sink in force: no level, no policy, no normalization.

        Raises:
            LogContextUnableToLog: The sink failed, and the error policy is ``RAISE``.
        """
        snapshot = self._snapshot
        try:
            snapshot.emit(event)
        except Exception as err:
            self._on_failure(snapshot, err)
        else:
            if snapshot.health.failing:
                snapshot.health.failing = False

    def _emit_light(self, event: LogEvent) -> None:
        """For bridges: `emit_log_event` by the quick way, for a light event that is not the logger's own doing."""
        snapshot = self._snapshot
        offer = snapshot.offer
        if type(self).emit_log_event is not _emit_log_event or "emit_log_event" in self.__dict__:
            offer = None
        try:
            if offer is not None and offer(event):
                if snapshot.health.failing:
                    snapshot.health.failing = False
                return
        except Exception as err:
            self._on_failure(snapshot, err)
            return
        self.emit_log_event(event)

    def _accepts(self, level: int, meta: LogEventMeta) -> bool:
        """For bridges: would an event of that level and meta be logged?"""
        snapshot = self._snapshot
        return level >= snapshot.min_level and (snapshot.is_enabled is None or self._is_enabled(snapshot, meta))

    def _emit_fields(
        self,
        level: int,
        meta: LogEventMeta,
        event_outcome: str | None,
        timestamp: float,
        payload: Mapping[str, Any],
        message: str | None = None,
        exception: LogException | None = None,
        stack: LogStack | None = None,
        origin: LogEventOrigin | None = None,
        merge_ambient: bool = True,
    ) -> None:
        """For bridges: log what `_accepts` has let pass. All keys of the payload are kept, each value is bounded.

        ``merge_ambient=False`` is for a bridge that has merged values bound with `structlog.contextvars` itself.
        """
        snapshot = self._snapshot
        try:
            data: dict[str, Any] = {}
            if payload:
                try:
                    data = snapshot.normalize_fields(payload)
                except Exception as err:
                    data = _describe_anyway(snapshot, payload, err)
            if merge_ambient and ("structlog.contextvars" in _modules or capture.active) and copy_context():
                data = _with_ambient(snapshot, data)
            elif capture.active:
                data = dict(data)
                add_trace_context(data)
            snapshot.emit(LogEvent(level, meta, event_outcome, timestamp, data, message, exception, stack, origin))
        except Exception as err:
            self._on_failure(snapshot, err)
        else:
            if snapshot.health.failing:
                snapshot.health.failing = False

    def _on_failure(self, snapshot: _Snapshot, err: Exception) -> None:
        if snapshot.errors is LogErrorHandlingPolicy.RAISE:
            if isinstance(err, LogContextUnableToLog):
                raise err
            raise LogContextUnableToLog(
                f"context {self.namespace} could not log: {_describe(err)}",
                details={"namespace": self.namespace},
                cause=err,
            ) from err
        if snapshot.errors is LogErrorHandlingPolicy.PRINT_STDERR and not snapshot.health.failing:
            snapshot.health.failing = True
            selflog.report(
                "sink",
                "a sink failed; its next failures are not shown until a delivery succeeds",
                limit=False,
                namespace=self.namespace,
                sink=type(snapshot.sink).__name__,
                error=_describe(err),
            )

    # ------------------------------------------------------------------ payloads and errors

    def normalize_payload(self, payload: Any, *, unbounded: bool = False) -> dict[str, Any]:
        """The payload as plain data, by the processor in force."""
        data: dict[str, Any] = self._snapshot.processor.normalize_payload(payload, unbounded=unbounded)
        return data

    def normalize_value_for_log(self, value: Any, *, unbounded: bool = False) -> Any:
        """One value as plain data, by the processor in force."""
        return self._snapshot.processor.normalize_value_for_log(value, unbounded=unbounded)

    def get_plain_verbosity_level(self) -> str | None:
        """The verbosity of the processor in force, as a str."""
        level: str | None = self._snapshot.processor.get_plain_verbosity_level()
        return level

    def build_error_payload(self, err: BaseException) -> dict[str, Any]:
        """An error as a payload: its own ``to_log_payload()`` when that gives a dict, else ``code`` and ``code_desc``
        where it has them, ``kind`` (the name of its type) and ``message``. Never raises."""
        try:
            own = err.to_log_payload()  # type: ignore[attr-defined]
        except Exception:
            own = None
        if isinstance(own, dict):
            return own
        payload: dict[str, Any] = {}
        for name in ("code", "code_desc"):
            try:
                value = getattr(err, name, None)
            except Exception:  # noqa: S112 - a property that raises is no description
                continue
            if value is not None:
                payload[name] = value
        payload["kind"] = type(err).__name__
        try:
            payload["message"] = str(err)
        except Exception:
            payload["message"] = f"<{type(err).__name__}>"
        return payload

    def is_error_logged(self, err: BaseException) -> bool:
        """True when `mark_error_logged` was called for the error. Never raises."""
        try:
            return err.__dict__.get(_LOGGED_MARK) is True
        except Exception:
            return False

    def mark_error_logged(self, err: BaseException) -> None:
        """Remember that the error was reported in full, as far as it can hold a mark. Never raises."""
        try:
            err.__dict__[_LOGGED_MARK] = True
        except Exception:  # noqa: S110 - best effort
            pass


_emit_log_event = LogContext.emit_log_event
_LOGGED_MARK = "_mvx_logger_logged"


def _as_it_is(payload: Any) -> dict[str, Any]:
    describe = getattr(payload, "to_log_payload", None)
    return dict(payload if describe is None else describe())


def _with_ambient(snapshot: _Snapshot, data: dict[str, Any]) -> dict[str, Any]:
    ambient = get_ambient()
    if not ambient:
        return data
    for key in data:  # what the call says keeps its place, after what was bound
        ambient.pop(key, None)
    try:
        return {**snapshot.normalize_fields(ambient), **data}
    except Exception as err:
        return {**_describe_anyway(snapshot, ambient, err), **data}


def _describe_anyway(snapshot: _Snapshot, payload: Any, err: Exception) -> dict[str, Any]:
    global _fallback_processor
    if snapshot.errors is LogErrorHandlingPolicy.RAISE:
        raise err
    selflog.report(
        "payload",
        "a payload could not be processed; the default processor took over",
        processor=type(snapshot.processor).__name__,
        error=type(err).__name__,
    )
    if _fallback_processor is None:
        _fallback_processor = LogPayloadProcessor()
    return _fallback_processor.normalize_fields(payload)


_fallback_processor: LogPayloadProcessor | None = None


def _checked(normalize: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    def normalize_checked(payload: Any) -> dict[str, Any]:
        data = normalize(payload)
        if not isinstance(data, dict):
            raise TypeError(f"expected a dict, got {type(data).__name__}")
        return data

    return normalize_checked


def _name_of(given: object) -> str:
    """A name or an id as a str, whatever was given for it: a number, a UUID, an Enum's member."""
    try:
        if isinstance(given, Enum):
            given = given.value
        return str.__str__(given if isinstance(given, str) else str(given))
    except Exception:
        return f"<{type(given).__name__}>"


def _level_of(level: Any) -> int:
    """The level of an event, whatever was given for it; INFO for what means none."""
    from .options import parse_level

    try:
        return parse_level(level)
    except Exception as err:
        selflog.report("level", "an event was logged with what is no level; INFO is used", error=_describe(err))
        return 20


def _describe(err: BaseException) -> str:
    try:
        return f"{type(err).__name__}: {err}"
    except Exception:
        return type(err).__name__


def check_settings(
    *,
    log_sink: object = None,
    event_policy: object = None,
    payload_processor: object = None,
    log_error_handling_policy: object = None,
    min_level: object = None,
) -> None:
    """Check the types of what was given (not None). TypeError names the first wrong one."""
    _check_methods("log_sink", log_sink, "an object with log(event)", "log")
    _check_methods("event_policy", event_policy, "an object with is_event_enabled(meta)", "is_event_enabled")
    _check_methods(
        "payload_processor",
        payload_processor,
        "an object with normalize_payload(), normalize_value_for_log() and get_plain_verbosity_level()",
        "normalize_payload",
        "normalize_value_for_log",
        "get_plain_verbosity_level",
    )
    _check("log_error_handling_policy", log_error_handling_policy, LogErrorHandlingPolicy)
    if min_level is not None and (isinstance(min_level, bool) or not isinstance(min_level, int)):
        raise TypeError(f"min_level: expected an int, got {type(min_level).__name__}")


def _check(name: str, value: object, wanted: type) -> None:
    if value is not None and not isinstance(value, wanted):
        raise _wrong_type(name, wanted.__name__, value)


def _check_methods(name: str, value: object, description: str, *methods: str) -> None:
    # Not isinstance() with the protocol: since Python 3.12 that overlooks methods that a proxy finds by __getattr__().
    if value is not None and (
        isinstance(value, type) or not all(callable(getattr(value, method, None)) for method in methods)
    ):
        raise _wrong_type(name, description, value)


def _wrong_type(name: str, wanted: str, value: object) -> TypeError:
    got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    return TypeError(f"{name}: expected {wanted}, got {got}")


def _given(name: str, value: Any) -> Any:
    if value is None:
        raise TypeError(f"{name}: got None; use reset_{name}() to give up the context's own")
    return value
