"""Sinks and contexts by name, for the whole process.

Reading takes no lock. What changes the registry takes one, and never while it waits for a sink: neither for its end nor
for its beginning, because what runs in a new sink's thread (an import, a callback) may use the registry itself.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from . import selflog
from .context import LogContext, LogErrorHandlingPolicy, check_settings
from .errors import (
    LogContextNotFoundError,
    LogSinkCloseError,
    LogSinkConfigurationConflictError,
    LogSinkCreateError,
    LogSinkDescriptorBuildError,
    LogSinkIsInUseError,
    LogSinkNotFoundError,
)
from .payload import LogPayloadProcessor
from .protocols import (
    LogEventPolicyProto,
    LogPayloadProcessorProto,
    LogSinkClassProto,
    LogSinkDescriptor,
    LogSinkProto,
    LogSinkTerminator,
)
from .sinks.stream import StreamLogSink

if TYPE_CHECKING:
    from .delivery.stats import LogSinkStats

__all__ = [
    "SinkLease",
    "close_log_sink",
    "configure_log_context",
    "configure_log_sink",
    "flush",
    "get_configured_log_sink_names",
    "get_log_context",
    "get_log_context_namespaces",
    "get_log_sink",
    "get_root_log_context",
    "has_configured_log_sinks",
    "has_log_context",
    "lease_sink",
    "nearest_log_context",
    "reset_log_contexts",
    "reset_logger",
    "stats",
]

DEFAULT_SINK_NAME = "stderr"
_MAX_NEAREST = 100_000
_LONGEST_WAIT = 0.5
"""Seconds that a thread which configures `logging` waits for a lock."""


class _Entry:
    """A sink that somebody counts on.

    Attributes:
        sink_cls: Its class.
        descriptor: What it is.
        sink: The sink.
        terminate: Ends it, and waits until it has ended.
        end: Ends it, without waiting.
        leases: How many shares are held, of one that is shared.
    """

    __slots__ = ("descriptor", "end", "leases", "sink", "sink_cls", "terminate")

    def __init__(
        self,
        sink_cls: Any,
        descriptor: LogSinkDescriptor,
        sink: Any,
        terminate: LogSinkTerminator,
        end: Callable[[], None] | None = None,
    ) -> None:
        self.sink_cls = sink_cls
        self.descriptor = descriptor
        self.sink = sink
        self.terminate = terminate
        self.end = partial(end_in_background, sink, terminate) if end is None else end
        self.leases = 0


_lock = threading.RLock()
_sinks: dict[str, _Entry] = {}
_contexts: dict[str, LogContext] = {}
# The nearest context by logger name. Replaced, never cleared, when contexts come or go: whoever still fills the old one
# does no harm.
_nearest: dict[str, LogContext] = {}
# Held for a few instructions, and by nobody who holds on for anything else: see _take_back().
_lease_lock = threading.RLock()
_leased: dict[tuple[Any, LogSinkDescriptor], _Entry] = {}
_given_back: deque[tuple[tuple[Any, LogSinkDescriptor], _Entry]] = deque()
# Whoever makes a sink holds the turn of its name or of its class and descriptor; who wants the same one waits for it.
_turns: WeakValueDictionary[Any, Any] = WeakValueDictionary()


# What else reset_logger() has to end: added by those who hold sinks that have no names.
reset_hooks: list[Callable[[], None]] = []


def _after_fork_in_child() -> None:
    # The threads that held these are not here.
    global _turns
    _lock._at_fork_reinit()  # type: ignore[attr-defined]
    _lease_lock._at_fork_reinit()  # type: ignore[attr-defined]
    _turns = WeakValueDictionary()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class RegistryBusyError(RuntimeError):
    """This thread configures the standard library's logging, and must not wait for a lock of ours any longer."""


class _ShortWait:
    """A lock for whoever holds the module lock of `logging`.

    A finalizer, which may log, runs anywhere: so who has a lock of ours may be waiting for that one.
    """

    def __init__(self, lock: Any) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=_LONGEST_WAIT):
            raise RegistryBusyError("another thread has held a lock of the registry for too long")

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()


def _hold(lock: Any) -> Any:
    """What to hold the lock with."""
    is_owned = getattr(getattr(sys.modules.get("logging"), "_lock", None), "_is_owned", None)
    return _ShortWait(lock) if is_owned is not None and is_owned() else lock


def _turn(key: Any) -> Any:
    with _hold(_lock):
        turn = _turns.get(key)
        if turn is None:
            turn = _turns[key] = threading.RLock()
        return turn


# ---------------------------------------------------------------------- sinks


def configure_log_sink(*, name: str, sink_cls: Any, **kwargs: Any) -> Any:
    """Make a sink and register it under a name.

    Args:
        name: ``[A-Za-z][A-Za-z0-9_-]*``.
        sink_cls: A class with ``build_descriptor`` and ``create`` (see `LogSinkClassProto`).
        **kwargs: The options of the sink.

    Returns:
        The sink; the one that is there when the name is taken by a sink with an equal descriptor.

    Raises:
        LogSinkConfigurationConflictError: The name is taken by a sink with another descriptor.
        LogSinkDescriptorBuildError: ``build_descriptor`` failed; nothing was registered.
        LogSinkCreateError: ``create`` failed; nothing was registered.
        TypeError: ``name`` is not a str or ``sink_cls`` is no sink class.
        ValueError: ``name`` is malformed.
    """
    check_name("name", name)
    descriptor = describe_sink(sink_cls, kwargs)
    with _turn(name):
        entry = _sinks.get(name)
        if entry is None:
            sink, terminate = create_sink(sink_cls, kwargs)
            with _lock:
                entry = _sinks.get(name)
                if entry is None:
                    _sinks[name] = _Entry(sink_cls, descriptor, sink, terminate)
                    return sink
            # A whole configuration was carried out meanwhile, and has taken the name.
            end_in_background(sink, terminate)
    if entry.sink_cls is sink_cls and entry.descriptor == descriptor:
        return entry.sink
    raise LogSinkConfigurationConflictError(
        f"the log sink {name!r} is configured already, and differently; close it first or use another name",
        details={
            "name": name,
            "present": entry.descriptor.to_log_payload(),
            "new": descriptor.to_log_payload(),
        },
    )


def describe_sink(sink_cls: Any, options: Mapping[str, Any]) -> LogSinkDescriptor:
    """The descriptor of a sink that the options would make; validates them, creates nothing."""
    if not isinstance(sink_cls, type) or not isinstance(sink_cls, LogSinkClassProto):
        raise TypeError(f"sink_cls: expected a class with build_descriptor() and create(), got {sink_cls!r}")
    try:
        descriptor: Any = sink_cls.build_descriptor(**options)
        if not isinstance(descriptor, LogSinkDescriptor):
            raise TypeError(f"expected a LogSinkDescriptor, got {type(descriptor).__name__}")
        hash(descriptor)
    except Exception as err:
        raise LogSinkDescriptorBuildError(
            f"{sink_cls.__name__}.build_descriptor failed: {type(err).__name__}: {err}",
            details={"sink_cls": sink_cls.__name__},
            cause=err,
        ) from err
    return descriptor


def create_sink(sink_cls: Any, options: Mapping[str, Any]) -> tuple[Any, LogSinkTerminator]:
    """Make a sink that is registered nowhere. `LogSinkCreateError` when that fails."""
    try:
        made: Any = sink_cls.create(**options)
        if not isinstance(made, tuple) or len(made) != 2 or not callable(made[1]):
            raise TypeError(f"expected (sink, terminator), got {type(made).__name__}")
        sink: Any = made[0]
        terminate: Any = made[1]
        if not callable(getattr(sink, "log", None)):
            terminate()
            raise TypeError(f"{type(sink).__name__} has no log(event)")
    except Exception as err:
        raise LogSinkCreateError(
            f"{sink_cls.__name__}.create failed: {type(err).__name__}: {err}",
            details={"sink_cls": sink_cls.__name__},
            cause=err,
        ) from err
    return sink, terminate


def get_log_sink(name: str) -> Any:
    """The sink of that name. `LogSinkNotFoundError` (a `LookupError`) when there is none."""
    check_name("name", name)
    entry = _sinks.get(name)
    if entry is None:
        raise LogSinkNotFoundError(
            f"no log sink {name!r} is configured; there are: {', '.join(_sinks) or 'none'}", details={"name": name}
        )
    return entry.sink


def get_configured_log_sink_names() -> tuple[str, ...]:
    """The names of all registered sinks, oldest first."""
    return tuple(_sinks)


def has_configured_log_sinks() -> bool:
    """True when any sink is registered."""
    return bool(_sinks)


def close_log_sink(name: str) -> bool:
    """End a sink and give up its name.

    Returns:
        False when no sink of that name is registered.

    Raises:
        LogSinkIsInUseError: Contexts hold it locally; it stays.
        LogSinkCloseError: Its terminator failed; it is no longer registered.
    """
    check_name("name", name)
    with _lock:
        entry = _sinks.get(name)
        if entry is None:
            return False
        holders = [ns or "<root>" for ns, ctx in _contexts.items() if ctx.get_local_log_sink() is entry.sink]
        if holders:
            raise LogSinkIsInUseError(
                f"the log sink {name!r} is in use by {', '.join(holders)}; give these contexts another sink first",
                details={"name": name, "namespaces": holders},
            )
        del _sinks[name]
    _terminate(name, entry)
    return True


def _terminate(name: str, entry: _Entry) -> None:
    try:
        entry.terminate()
    except Exception as err:
        raise LogSinkCloseError(
            f"the log sink {name!r} failed to close: {type(err).__name__}: {err}", details={"name": name}, cause=err
        ) from err


class SinkLease:
    """A share in a sink. The sink ends when the last share is given back.

    Attributes:
        sink: The sink.
    """

    __slots__ = ("_give_back", "_parts", "sink")

    def __init__(self, sink: Any, release: Callable[[], None] | None = None, parts: Iterable[SinkLease] = ()) -> None:
        """Hold a share.

        Args:
            sink: The sink.
            release: Gives the share back; None where there is nothing to give back.
            parts: Shares in other sinks, of which this one is made: they are given back with it.
        """
        self.sink = sink
        self._parts = tuple(parts)
        # Taken from the list in one step: a finalizer may give the share back while somebody else does.
        self._give_back = [_nothing if release is None else release]

    def release(self) -> None:
        """Give the share back. Idempotent. Never waits: the sink delivers what it accepted in the background, and the end
        of the process waits for it."""
        try:
            give_back = self._give_back.pop()
        except IndexError:
            return
        give_back()
        for part in self._parts:
            part.release()

    def end(self) -> None:
        """Give the share back. Idempotent. Where it was the last one, wait until the sink has ended."""
        self.release()
        for part in self._parts:
            part.end()
        get_status = getattr(self.sink, "get_status", None)
        if get_status is not None and get_status().value in ("stopping", "stopped"):
            self.sink.close()


def _nothing() -> None:
    pass


def lease_sink(sink_cls: Any, options: Mapping[str, Any]) -> SinkLease:
    """A share in the sink that the options describe; it is made when no share with an equal descriptor is held.

    Raises:
        LogSinkDescriptorBuildError: The options are wrong.
        LogSinkCreateError: The sink could not be made.
        RegistryBusyError: This thread holds the module lock of `logging`, and another one a lock of ours, for too long.
    """
    key = (sink_cls, describe_sink(sink_cls, options))
    with _hold(_turn(key)):
        entry = _take_share(key)
        if entry is None:
            sink, terminate = create_sink(sink_cls, options)
            entry = _Entry(sink_cls, key[1], sink, terminate)
            entry.leases = 1
            _leased[key] = entry  # nobody else adds this key: it is our turn
    found = entry
    _take_back()

    def release() -> None:
        _given_back.append((key, found))
        _take_back()

    return SinkLease(found.sink, release)


def _take_share(key: tuple[Any, LogSinkDescriptor]) -> _Entry | None:
    with _hold(_lease_lock):
        entry = _leased.get(key)
        if entry is not None:
            entry.leases += 1
        return entry


def _take_back() -> None:
    # Shares come back from finalizers and signal handlers too, at any instruction of any thread: while someone else
    # holds the lock and waits for that very thread, or in the midst of what this thread does under it. So nobody waits
    # for the lock here, and nobody takes it twice: whoever holds it comes by after releasing it.
    while _given_back and not _lease_lock._is_owned() and _lease_lock.acquire(blocking=False):  # type: ignore[attr-defined]
        last: list[_Entry] = []
        try:
            while _given_back:
                key, entry = _given_back.popleft()
                entry.leases -= 1
                if not entry.leases:
                    if _leased.get(key) is entry:
                        del _leased[key]
                    last.append(entry)
        finally:
            _lease_lock.release()
        for entry in last:
            entry.end()


def end_in_background(sink: Any, terminate: LogSinkTerminator) -> None:
    """End a sink, without waiting where it can do that by itself. Never raises."""
    try:
        stop = getattr(sink, "stop", None)
        if stop is not None and hasattr(sink, "get_status"):  # an AsyncioLogSink
            stop()
        else:
            terminate()
    except Exception as err:
        selflog.report(
            "close", "a sink failed to close", sink=type(sink).__name__, error=f"{type(err).__name__}: {err}"
        )


# ---------------------------------------------------------------------- contexts


def configure_log_context(
    namespace: str,
    *,
    log_sink: LogSinkProto | str | None = None,
    event_policy: LogEventPolicyProto | None = None,
    payload_processor: LogPayloadProcessorProto | None = None,
    log_error_handling_policy: LogErrorHandlingPolicy | None = None,
    min_level: int | None = None,
) -> LogContext:
    """Make a context and every missing parent, or update what is given on the one that is there.

    Args:
        namespace: Names joined by dots; ``a.b.c`` makes ``a``, ``a.b`` and ``a.b.c``.
        log_sink: Its sink: an object with ``log(event)``, or the name of a registered one.
        event_policy: Decides which events pass.
        payload_processor: Makes payloads plain and bounded.
        log_error_handling_policy: What happens when an event cannot be logged.
        min_level: Events below it are rejected.

    Raises:
        TypeError: An argument has the wrong type; nothing was changed.
        ValueError: The namespace is malformed; nothing was changed.
    """
    check_namespace(namespace)
    sink = get_log_sink(log_sink) if isinstance(log_sink, str) else log_sink
    check_settings(
        log_sink=sink,
        event_policy=event_policy,
        payload_processor=payload_processor,
        log_error_handling_policy=log_error_handling_policy,
        min_level=min_level,
    )
    global _nearest
    with _lock:
        context = _contexts[""]
        names = namespace.split(".")
        for end in range(1, len(names) + 1):
            name = ".".join(names[:end])
            found = _contexts.get(name)
            if found is None:
                found = _contexts[name] = LogContext(namespace=name, parent=context)
                _nearest = {}
            context = found
        context._set(
            log_sink=sink,
            event_policy=event_policy,
            payload_processor=payload_processor,
            log_error_handling_policy=log_error_handling_policy,
            min_level=min_level,
        )
        return context


def get_root_log_context() -> LogContext:
    """The context that all others inherit from. It has no namespace."""
    return _contexts[""]


def get_log_context(namespace: str) -> LogContext:
    """The context of that namespace. `LogContextNotFoundError` (a `LookupError`) when it is not configured."""
    if namespace != "":
        check_namespace(namespace)
    context = _contexts.get(namespace)
    if context is None:
        raise LogContextNotFoundError(
            f"no log context {namespace!r} is configured; configure_log_context({namespace!r}) makes it",
            details={"namespace": namespace},
        )
    return context


def has_log_context(namespace: str) -> bool:
    """True when the namespace is configured (``""`` is the root)."""
    if namespace != "":
        check_namespace(namespace)
    return namespace in _contexts


def get_log_context_namespaces() -> tuple[str, ...]:
    """All configured namespaces, parents before children; the root's is ``""``."""
    return tuple(_contexts)


def nearest_log_context(logger_name: str) -> LogContext:
    """The configured context that is nearest to a logger's name: ``shop`` serves ``shop.orders.db`` until
    ``shop.orders`` is configured; the root serves the rest."""
    nearest = _nearest
    context = nearest.get(logger_name)
    if context is None:
        contexts = _contexts
        name = logger_name
        while (context := contexts.get(name)) is None:
            name = name.rpartition(".")[0]
        if len(nearest) >= _MAX_NEAREST:
            nearest.clear()
        nearest[logger_name] = context
    return context


def reset_log_contexts() -> None:
    """Forget all contexts but the root. Sinks stay. A context that someone still holds keeps its settings."""
    global _contexts, _nearest
    with _lock:
        _contexts = {"": _contexts[""]}
        _nearest = {}


def reset_logger() -> None:
    """Close every registered sink, newest first, and start afresh: the root context with a new ``stderr`` sink.

    So are the sinks that `mvx_logger.configure` has made for contexts; those that handlers hold go on.

    The contexts that were configured inherit everything from the root from now on, for those who still hold them; any
    other context below the root inherits its sink if it had one of the closed ones.

    Raises:
        LogSinkCloseError: Terminators failed; everything was reset all the same. The first is raised, the others are
            in its ``details``.
    """
    global _sinks
    with _lock:
        held = [context for name, context in _contexts.items() if name]
        reset_log_contexts()
        entries = list(_sinks.items())
        _sinks = {}
        root = _start_afresh(_contexts[""])
        for context in held:
            context._replace_settings({})
        closed = {id(entry.sink) for _, entry in entries}
        for context in root._all_below():
            if id(context.get_local_log_sink()) in closed:
                context.reset_log_sink()
    for hook in reset_hooks:
        hook()
    failures: list[LogSinkCloseError] = []
    for name, entry in reversed(entries):
        try:
            _terminate(name, entry)
        except LogSinkCloseError as err:
            failures.append(err)
    if failures:
        failures[0].details["failed"] = [err.details["name"] for err in failures]
        raise failures[0]


def get_default_sink() -> Any:
    """The sink named ``stderr``; it is registered again where it is gone."""
    with _lock:
        entry = _sinks.get(DEFAULT_SINK_NAME)
        if entry is None:
            sink, terminate = StreamLogSink.create()
            entry = _Entry(StreamLogSink, StreamLogSink.build_descriptor(), sink, terminate)
            _sinks[DEFAULT_SINK_NAME] = entry
        return entry.sink


def _start_afresh(root: LogContext | None) -> LogContext:
    sink = get_default_sink()
    processor = LogPayloadProcessor()
    if root is None:
        return LogContext(log_sink=sink, payload_processor=processor)
    root._set(
        log_sink=sink,
        payload_processor=processor,
        log_error_handling_policy=LogErrorHandlingPolicy.PRINT_STDERR,
        min_level=0,
    )
    root.reset_event_policy()
    return root


# ---------------------------------------------------------------------- whole configurations


class Saved:
    """The registry at one moment, to go back to."""

    __slots__ = ("contexts", "settings", "sinks")

    def __init__(self) -> None:
        with _lock:
            self.sinks = dict(_sinks)
            self.contexts = dict(_contexts)
            self.settings = [(context, context._get_settings()) for context in _contexts.values()]

    def restore(self) -> None:
        """Go back."""
        global _sinks, _contexts, _nearest
        with _lock:
            _sinks = self.sinks
            _contexts = self.contexts
            _nearest = {}
            for context, settings in self.settings:
                context._replace_settings(settings)


def has_sink(name: str, sink_cls: Any, descriptor: LogSinkDescriptor) -> bool:
    """True when the name is registered for a sink with that descriptor."""
    entry = _sinks.get(name)
    return entry is not None and entry.sink_cls is sink_cls and entry.descriptor == descriptor


def replace_sinks(
    new: Mapping[str, tuple[Any, LogSinkDescriptor, SinkLease]], gone: Collection[str]
) -> list[Callable[[], None]]:
    """Register sinks in place of those that have their names, and forget some; ``stderr`` becomes what it was.

    Returns:
        What ends, without waiting, the sinks that lost their names: to be called when no context holds them any more.
    """
    global _sinks
    with _lock:
        sinks = dict(_sinks)
        ended = [sinks.pop(name) for name in gone if name in sinks]
        for name, (sink_cls, descriptor, lease) in new.items():
            if name in sinks:
                ended.append(sinks[name])
            # Others may hold shares in the same sink: it ends with the last one.
            sinks[name] = _Entry(sink_cls, descriptor, lease.sink, lease.end, lease.release)
        _sinks = sinks
        if DEFAULT_SINK_NAME in gone:
            get_default_sink()
    return [entry.end for entry in ended]


def replace_contexts(settings: Mapping[str, Mapping[str, Any]], forget: Iterable[str]) -> None:
    """Give contexts all of their own settings anew (``""`` is the root); let others inherit everything."""
    for namespace in forget:
        context = _contexts.get(namespace)
        if context is not None:
            context._replace_settings({})
    for namespace, own in settings.items():
        context = configure_log_context(namespace) if namespace else get_root_log_context()
        context._replace_settings(own)


# ---------------------------------------------------------------------- all of them


def flush(timeout: float | None = None) -> bool:
    """Wait until everything that any sink accepted before the call is with its destination.

    Args:
        timeout: Seconds for all sinks together; None waits without end.

    Returns:
        True when it is; False when time ran out or some of it was lost.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    sinks = _all_sinks()
    for sink in sinks:
        if hasattr(sink, "get_status"):  # an AsyncioLogSink: all of them hurry while the first one is waited for
            _flush_sink(sink, 0)
    done = True
    for sink in sinks:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        done = _flush_sink(sink, left) and done
    return done


def _flush_sink(sink: Any, timeout: float | None) -> bool:
    try:
        # A sink of somebody else's may return nothing: then it has done what it could.
        return sink.flush(timeout) is not False
    except Exception as err:
        selflog.report("flush", "a sink failed to flush", sink=type(sink).__name__, error=type(err).__name__)
        return False


def _all_sinks() -> list[Any]:
    found: dict[int, Any] = {}
    for entry in [*_sinks.values(), *_leased.values()]:
        found[id(entry.sink)] = entry.sink
    for context in list(_contexts.values()):
        sink = context.get_local_log_sink()
        found[id(sink)] = sink
    # Sinks that are registered nowhere, and such as are about to end; what one that has ended left in a spool is the matter
    # of the next. The module is there if any was ever made.
    process = sys.modules.get(f"{__package__}.delivery.process")
    if process is not None:
        for sink in process.running_sinks():
            found[id(sink)] = sink
    return [sink for sink in found.values() if hasattr(sink, "flush")]


def stats() -> dict[str, LogSinkStats]:
    """The accounts of every registered sink by its name, and of every sink that a handler or a configuration made, under
    its type and destination (e.g. ``sqlite:/var/log/events.db``)."""
    accounts: dict[str, LogSinkStats] = {}
    told: set[int] = set()
    for name, entry in list(_sinks.items()):
        _tell(accounts, name, entry.sink)
        told.add(id(entry.sink))
    for entry in list(_leased.values()):
        if id(entry.sink) in told:
            continue
        label = f"{entry.descriptor.sink_type}:{':'.join(map(str, entry.descriptor.resource_key))}"
        number = 2
        name = label
        while name in accounts:
            name = f"{label}#{number}"
            number += 1
        _tell(accounts, name, entry.sink)
    return accounts


def _tell(accounts: dict[str, LogSinkStats], name: str, sink: Any) -> None:
    from .delivery.stats import LogSinkStats

    try:
        account = sink.stats() if hasattr(sink, "stats") else None
    except Exception as err:
        selflog.report("stats", "a sink failed to tell its accounts", sink=name, error=type(err).__name__)
        return
    if isinstance(account, LogSinkStats):
        accounts[name] = account


def check_name(argument: str, name: object) -> None:
    """TypeError or ValueError when it cannot be the name of a sink."""
    if not isinstance(name, str):
        raise TypeError(f"{argument}: expected a str, got {type(name).__name__}")
    if not _is_name(name):
        raise ValueError(
            f"{argument}: {name!r} is malformed; use letters, digits, '_' and '-', and begin with a letter"
        )


def check_namespace(namespace: object) -> None:
    """TypeError or ValueError when it cannot be a namespace."""
    if not isinstance(namespace, str):
        raise TypeError(f"namespace: expected a str, got {type(namespace).__name__}")
    if not all(map(_is_name, namespace.split("."))):
        raise ValueError(
            f"namespace: {namespace!r} is malformed; use names of letters, digits, '_' and '-' that begin with a letter, "
            "joined by dots"
        )


def _is_name(text: str) -> bool:
    # Not a regular expression: compiling one is a good part of what importing this module costs.
    return text.isascii() and text[:1].isalpha() and text.replace("_", "a").replace("-", "a").isalnum()


_contexts[""] = _start_afresh(None)
