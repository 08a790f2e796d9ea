"""The standard library into the pipeline: `SinkHandler` and `LogContextHandler`.

Both are handlers as `logging` knows them, with these differences:

- No lock is taken to emit: sinks are thread-safe. So nothing that a record's conversion or a sink does can meet
  logging's module lock while a lock of the handler is held, and a signal handler or a forked child may log at any time.
- A filter may return another record on every Python (with `logging`, since 3.12).
- The record is never changed. A formatter works on a copy and makes the event's ``message``.
- ``close()`` does not wait and is not the end: a handler that is used again works again.
- What is logged while a record is being converted is not delivered: `mvx_logger.selflog` tells of it.
"""

from __future__ import annotations

import copy
import logging
import os
import re
import sys
import threading
import time
import weakref
from _thread import get_ident, start_new_thread
from collections import deque
from collections.abc import Callable, Mapping
from functools import cache, partial
from logging import LogRecord
from types import FrameType
from typing import Any

from msgspec.structs import replace

from .. import registry, selflog
from ..ambient import capture, get_ambient
from ..context import LogContext
from ..errors import AsyncioLogSinkErrorReason, LogConfigurationError, LogSinkNotFoundError
from ..guard import find_offer, forwarding_log, guarded_log, internal, is_internal, mark, report_recursion
from ..model import LogEvent, LogException
from ..payload import LogPayloadProcessor
from ..protocols import LogPayloadProcessorProto, LogSinkProto
from . import records
from .records import (
    EventLogRecord,
    EventName,
    is_event_record,
    normalize_extras,
    plain_event,
    record_fields,
    record_level,
    record_meta,
    run_filters,
)

__all__ = ["LogContextHandler", "SinkHandler", "holds_module_lock", "live", "plain_options", "start_thread"]

_SINK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_TASKS_ARE_UNKNOWN = sys.version_info < (3, 12)
_PACKAGE = __name__.partition(".")[0]
_modules = sys.modules

_LONGEST_CONFIGURATION = 5.0
"""Seconds that dictConfig, and the end of the process, wait for a sink to be made."""
_MOST_EARLY_EVENTS = 10_000
"""Events that are kept for a sink that is being made."""
_RETRY_INTERVAL = 1.0
"""Seconds between two attempts to make the sink of a handler that is used after it was closed."""


class _Live(threading.local):
    exc_info: tuple[LogException, Any] | None = None


live = _Live()
"""The exception that a handler hands on right now, as it is in the event and as it is in the record: a handler behind a
synchronous `HandlerSink` gets the real one, not only its description."""


class _PipelineHandler(logging.Handler):
    """What the two handlers share: everything but where an event goes."""

    def __init__(
        self,
        level: int | str,
        event_name: EventName,
        payload_processor: LogPayloadProcessorProto | Mapping[str, Any] | None,
        flush_timeout: float | None,
    ) -> None:
        self._flush_timeout: float | None = 0.0
        # From here on logging.shutdown() knows this handler, even if it is never finished.
        super().__init__(level)
        if not callable(event_name) and event_name not in ("template", "message"):
            raise LogConfigurationError(
                f"event_name: expected 'template', 'message' or a callable, got {event_name!r}",
                details={"path": "event_name"},
            )
        if flush_timeout is not None and (
            isinstance(flush_timeout, bool) or not isinstance(flush_timeout, (int, float)) or not flush_timeout >= 0
        ):
            raise LogConfigurationError(
                f"flush_timeout: expected seconds (0 or more) or None, got {flush_timeout!r}",
                details={"path": "flush_timeout"},
            )
        self._event_name: EventName = event_name
        self._payload_processor = _make_processor(payload_processor)
        self._flush_timeout = flush_timeout

    # ------------------------------------------------------------------ the contract of logging.Handler

    def filter(self, record: LogRecord) -> LogRecord | bool:  # type: ignore[override]
        """Run the record through the filters. As in Python 3.12 a filter may return the record to go on with.

        Returns:
            The record to go on with, or False.
        """
        return (run_filters(self.filters, record) or False) if self.filters else record

    def handle(self, record: LogRecord) -> Any:
        """Emit the record if the filters let it pass, without taking the handler's lock.

        Returns:
            The record that was emitted, or False.
        """
        try:
            if self.filters:
                # A filter that logs would otherwise call itself for ever.
                if is_internal() and not isinstance(record, EventLogRecord) and not _interrupts():
                    _report(record)
                    return False
                before = mark.value
                try:
                    mark.value = True
                    verdict = self.filter(record)
                finally:
                    mark.value = before
            else:
                verdict = self.filter(record)
            if not verdict:
                return False
            if verdict is not record and isinstance(verdict, LogRecord):
                record = verdict
            self.emit(record)
        except Exception:
            self._on_error(record)
        return record

    def emit(self, record: LogRecord) -> None:
        """Turn the record into an event and hand it on. What goes wrong is given to ``handleError``."""
        try:
            if (mark.value is None and not internal.get()) or not is_internal():
                self._emit(record)
            elif isinstance(record, EventLogRecord):
                # It was accepted before, and is forwarded on purpose; the hops that it carries end a cycle.
                self._forward(record)
            elif _interrupts():
                forwarding_log(self._emit, record)  # type: ignore[arg-type]
            else:
                _report(record)
        except Exception:
            self._on_error(record)

    def flush(self) -> None:
        """Wait until the sink has delivered what it accepted, for ``flush_timeout`` seconds at most.

        It does not wait where that could last for ever: while this thread holds logging's module lock (`dictConfig`
        does, and the sink's client library may log), in what a sink itself runs, and at the end of the process, which
        waits for all sinks anyway.
        """
        if is_internal() or holds_module_lock():
            return
        timeout = self._flush_timeout if threading.main_thread().is_alive() else 0.0
        try:
            self._flush(timeout)
        except Exception as err:
            selflog.report("flush", "a handler could not flush", handler=repr(self), error=type(err).__name__)

    def handleError(self, record: LogRecord) -> None:  # noqa: N802 - the name in logging
        """Tell that the record could not be handed on, as `logging.Handler.handleError` does.

        A full queue is told by `mvx_logger.selflog`, one line in a while: a traceback for each of thousands of records
        would be one more burden on a program that is overloaded already. The sink's statistics count every one.
        """
        error = sys.exc_info()[1]
        if error is None or getattr(error, "reason", None) is not AsyncioLogSinkErrorReason.QUEUE_OVERFLOW:
            super().handleError(record)
        elif logging.raiseExceptions:
            selflog.report("overflow", str(error), handler=repr(self))

    def _on_error(self, record: LogRecord) -> None:
        try:
            self.handleError(record)
        except (RecursionError, MemoryError):
            # There is no room left to tell of it, and nothing that the application could do.
            pass

    # ------------------------------------------------------------------ making events

    def _emit(self, record: LogRecord) -> None:
        raise NotImplementedError

    def _forward(self, record: LogRecord) -> None:
        raise NotImplementedError

    def _flush(self, timeout: float | None) -> None:
        raise NotImplementedError

    def _plain_event(
        self, record: LogRecord, processor: LogPayloadProcessorProto | None, ambient: dict[str, Any] | None
    ) -> tuple[LogEvent, bool] | None:
        """The event of most records, and whether it is light; None for one that is out of the ordinary."""
        if type(record) is not LogRecord or self.formatter is not None or self._event_name != "template":
            return None
        return plain_event(record, processor, ambient, _current_task_name() if _TASKS_ARE_UNKNOWN else None)

    def _ready_event(self, record: LogRecord) -> LogEvent:
        """The event of a record that holds one; the payload of an event dict is not normalized yet."""
        event = records.record_to_event(record, event_name=self._event_name, payload_processor=_AS_IT_IS)
        return event if self.formatter is None else replace(event, message=self._format(record))

    def _format(self, record: LogRecord) -> str:
        formatter = self.formatter
        assert formatter is not None
        if type(record) is LogRecord:
            clone = LogRecord.__new__(LogRecord)
            clone.__dict__.update(record.__dict__)
        else:
            clone = copy.copy(record)
        kind = type(formatter)
        if (
            kind.format is logging.Formatter.format
            and kind.formatException is logging.Formatter.formatException
            and kind.formatStack is logging.Formatter.formatStack
        ):
            # The stock formatter appends the traceback and the stack. The event has them as data.
            clone.exc_info = clone.exc_text = clone.stack_info = None
        return str(formatter.format(clone))


class SinkHandler(_PipelineHandler):
    """Any sink as a `logging.Handler`, without a context.

    Args:
        sink: Where the events go: a sink object; the name of a registered one; a mapping
            (``{"class": "dotted.Path", **options}``); or a URL (``"sqlite:///events.db"``). A sink object stays its
            owner's. The sink of a name may be closed and configured anew: the handler follows. The sink of a mapping
            or a URL is shared by all handlers that describe the same, and ends with the last of them.
        level: As of `logging.Handler`.
        event_name: What becomes the ``event_name``: ``"template"`` (the message before its arguments were filled in:
            the same for all records of a log statement), ``"message"``, or a callable that is given the record.
        payload_processor: Makes extras plain and bounded: a processor, or the options of a `LogPayloadProcessor` as a
            mapping. None keeps them whole, with generous limits.
        flush_timeout: How long `flush` waits at most, in seconds; None waits without end.

    Raises:
        LogSinkNotFoundError: No sink is registered under the name.
        LogConfigurationError: An option is wrong, or the mapping or URL is.
        TypeError: ``sink`` is none of the four.
    """

    def __init__(
        self,
        sink: LogSinkProto | Mapping[str, Any] | str,
        *,
        level: int | str = logging.NOTSET,
        event_name: EventName = "template",
        payload_processor: LogPayloadProcessorProto | Mapping[str, Any] | None = None,
        flush_timeout: float | None = 5.0,
    ) -> None:
        self._target = _Target()
        super().__init__(level, event_name, payload_processor, flush_timeout)
        if isinstance(sink, str) and _SINK_NAME.fullmatch(sink):
            self._target = _NamedSink(sink)
        elif isinstance(sink, (str, Mapping)):
            self._target = _LeasedSink(plain_options(sink), self)
        elif isinstance(sink, LogSinkProto) and not isinstance(sink, type):
            self._target = _GivenSink(sink)
        else:
            raise TypeError(
                "sink: expected an object with log(event), the name of a sink, a mapping or a URL, got "
                f"{sink.__name__ if isinstance(sink, type) else type(sink).__name__}"
            )

    @property
    def sink(self) -> Any:
        """The sink that events go to, e.g. for its ``stats()``: waits for one that is being made. None: there is none."""
        return self._target.current(None)

    def _emit(self, record: LogRecord) -> None:
        ambient = get_ambient() if "structlog.contextvars" in _modules or capture.active else None
        if (found := self._plain_event(record, self._payload_processor, ambient)) is not None:
            event, is_light = found
            target = self._target
            if not (is_light and target.offer(event)):
                target.log(event)
            return
        before = mark.value
        try:
            mark.value = True
            if (type(record) is not LogRecord or type(record.__dict__.get("msg")) is dict) and is_event_record(record):
                event = self._own_event(record, ambient)
            else:
                message = None if self.formatter is None else self._format(record)
                task = _current_task_name() if _TASKS_ARE_UNKNOWN else None
                meta = record_meta(record, self._event_name)
                outcome, timestamp, payload, message, exception, stack, origin = record_fields(record, message, task)
                if ambient:
                    payload = {**ambient, **payload}
                if payload:
                    payload = normalize_extras(payload, self._payload_processor)
                level = record_level(record)
                event = LogEvent(level, meta, outcome, timestamp, payload, message, exception, stack, origin)
        finally:
            mark.value = before
        if event.exception is None or (exc_info := record.__dict__.get("exc_info")) is None:
            self._target.log(event)
        else:
            _log_with_exception(self._target.log, event, exc_info)

    def _own_event(self, record: LogRecord, ambient: dict[str, Any] | None) -> LogEvent:
        event = self._ready_event(record)
        processor = self._payload_processor
        payload = event.payload
        if isinstance(record, EventLogRecord):
            # It has been through a processor, and was bound to its values, when it was logged.
            return event if processor is None else replace(event, payload=normalize_extras(dict(payload), processor))
        return replace(event, payload=normalize_extras({**ambient, **payload} if ambient else dict(payload), processor))

    def _forward(self, record: LogRecord) -> None:
        forwarding_log(self._target.log, self._own_event(record, None))

    def _flush(self, timeout: float | None) -> None:
        sink = self._target.current(timeout)
        if sink is not None:
            _flush_sink(sink, timeout)

    def close(self) -> None:
        """Give back what the handler holds of its sink. Does not wait; a handler that is used again works again."""
        self._target.close()
        super().close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._target.label} ({logging.getLevelName(self.level)})>"


class LogContextHandler(_PipelineHandler):
    """Records to a `LogContext`: its policy, its payload processor, its sink.

    Args:
        context: The context; the namespace of one; or None: each record goes to the configured context that is nearest
            to its logger's name (``shop`` serves ``shop.orders.db`` until ``shop.orders`` is configured). A namespace
            that is not configured stands for the nearest one that is. Both follow every reconfiguration.
        level: As of `logging.Handler`.
        event_name: What becomes the ``event_name``: ``"template"`` (the message before its arguments were filled in:
            the same for all records of a log statement), ``"message"``, or a callable that is given the record.
        flush_timeout: How long `flush` waits at most, in seconds; None waits without end.

    Raises:
        LogConfigurationError: An option is wrong.
        TypeError: ``context`` is neither a context, a str nor None.
    """

    def __init__(
        self,
        context: LogContext | str | None = None,
        *,
        level: int | str = logging.NOTSET,
        event_name: EventName = "template",
        flush_timeout: float | None = 5.0,
    ) -> None:
        self._context: LogContext | str | None = None
        super().__init__(level, event_name, None, flush_timeout)
        if context is not None and not isinstance(context, (LogContext, str)):
            raise TypeError(f"context: expected a LogContext, a namespace or None, got {type(context).__name__}")
        self._context = context

    def _find_context(self, record: LogRecord) -> LogContext:
        context = self._context
        if context is None:
            # Attributes are read faster while nobody has asked for the dict.
            name = getattr(record, "name", None) if type(record) is LogRecord else record.__dict__.get("name")
            return registry.nearest_log_context(name if type(name) is str else "")
        if isinstance(context, str):
            return registry.nearest_log_context(context)
        return context

    def _emit(self, record: LogRecord) -> None:
        ambient = get_ambient() if "structlog.contextvars" in _modules or capture.active else None
        context = self._find_context(record)
        snapshot = context._snapshot
        level = getattr(record, "levelno", None) if type(record) is LogRecord else None
        if type(level) is int and snapshot.is_enabled is None and snapshot.weigh is not None:
            if level < snapshot.min_level:
                return
            if (found := self._plain_event(record, snapshot.processor, ambient)) is not None:
                event, is_light = found
                if is_light:
                    context._emit_light(event)
                else:
                    context.emit_log_event(event)
                return
        before = mark.value
        try:
            mark.value = True
            if (type(record) is not LogRecord or type(record.__dict__.get("msg")) is dict) and is_event_record(record):
                ready = self._accepted_event(context, record, ambient)
                if ready is None:
                    return
                event = ready
            else:
                meta = record_meta(record, self._event_name)
                level = record_level(record)
                if not context._accepts(level, meta):
                    return
                message = None if self.formatter is None else self._format(record)
                task = _current_task_name() if _TASKS_ARE_UNKNOWN else None
                outcome, timestamp, payload, message, exception, stack, origin = record_fields(record, message, task)
                if ambient:
                    payload = {**ambient, **payload}
                if payload:
                    payload = _normalize_by(context, payload)
                event = LogEvent(level, meta, outcome, timestamp, payload, message, exception, stack, origin)
        finally:
            mark.value = before
        if event.exception is None or (exc_info := record.__dict__.get("exc_info")) is None:
            context.emit_log_event(event)
        else:
            _log_with_exception(context.emit_log_event, event, exc_info)

    def _accepted_event(
        self, context: LogContext, record: LogRecord, ambient: dict[str, Any] | None
    ) -> LogEvent | None:
        event = self._ready_event(record)
        if not context._accepts(event.level, event.meta):
            return None
        payload = event.payload
        if ambient and not isinstance(record, EventLogRecord):
            payload = {**ambient, **payload}
        return replace(event, payload=_normalize_by(context, payload)) if payload else event

    def _forward(self, record: LogRecord) -> None:
        context = self._find_context(record)
        event = self._accepted_event(context, record, None)
        if event is not None:
            forwarding_log(context.emit_log_event, event)

    def _flush(self, timeout: float | None) -> None:
        context = self._context
        if context is None:
            registry.flush(timeout)
            return
        if isinstance(context, str):
            context = registry.nearest_log_context(context)
        _flush_sink(context.log_sink, timeout)

    def __repr__(self) -> str:
        context = self._context
        label = "nearest" if context is None else context if isinstance(context, str) else context.namespace
        return f"<{type(self).__name__} {label} ({logging.getLevelName(self.level)})>"


# ---------------------------------------------------------------------- where a SinkHandler's events go


class _Target:
    """Finds the sink of a `SinkHandler`; itself, it is that of one that was never finished."""

    label = "nothing"
    log: Callable[[LogEvent], None]

    def offer(self, event: LogEvent) -> bool:
        """Send a light event the quick way, where the sink has one (`mvx_logger.guard.find_offer`); else False."""
        return False

    def current(self, timeout: float | None = 0.0) -> Any:
        """The sink that is in use, or None; waits for one that is being made."""
        return None

    def close(self) -> None:
        """Give it back."""


class _GivenSink(_Target):
    def __init__(self, sink: LogSinkProto) -> None:
        self.sink = sink
        self.label = type(sink).__name__
        self.log = guarded_log(sink)
        if (offer := find_offer(self.log)) is not None:
            self.offer = offer  # type: ignore[assignment, method-assign]

    def current(self, timeout: float | None = 0.0) -> Any:
        return self.sink


class _NamedSink(_Target):
    def __init__(self, name: str) -> None:
        self.label = name
        self._known = _GivenSink(registry.get_log_sink(name))

    def log(self, event: LogEvent) -> None:
        try:
            known = self._find()
        except LogSinkNotFoundError as err:
            selflog.report("handler", "the sink of a handler was closed; events are lost", error=str(err))
        else:
            known.log(event)

    def offer(self, event: LogEvent) -> bool:
        try:
            known = self._find()
        except LogSinkNotFoundError:
            return False
        return known.offer(event)

    def _find(self) -> _GivenSink:
        known = self._known
        sink = registry.get_log_sink(self.label)
        if sink is not known.sink:
            known = self._known = _GivenSink(sink)
        return known

    def current(self, timeout: float | None = 0.0) -> Any:
        return registry.get_log_sink(self.label)


class _Binding:
    """A lease, with what ends it when its handler is gone."""

    __slots__ = ("finalizer", "lease", "log", "offer")

    def __init__(self, lease: registry.SinkLease, handler: logging.Handler) -> None:
        self.lease = lease
        self.log = guarded_log(lease.sink)
        self.offer = find_offer(self.log)
        self.finalizer = weakref.finalize(handler, _release_lease, lease)
        # The end of the process waits for the sinks, not for each lease.
        self.finalizer.atexit = False

    def release(self) -> None:
        self.finalizer.detach()
        self.lease.release()


def _release_lease(lease: registry.SinkLease) -> None:
    """Give a share back from a finalizer, which may run while this thread configures logging."""
    if holds_module_lock():
        # Ending a sink needs its locks, and whoever holds one may wait for logging's.
        try:
            start_thread(lease.release)
            return
        except RuntimeError:  # no thread can be started any more: the process ends
            pass
    lease.release()


class _Pending:
    """A sink that is being made in a thread of its own. No lock: see `start_thread`."""

    def __init__(self) -> None:
        self.done = False
        self.closed = False
        self.error: BaseException | None = None
        self.is_awaited = True

    def wait(self, timeout: float | None) -> bool:
        """Look again and again until it is done, for ``timeout`` seconds at most; True when it is."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.done:
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(0.001)
        return True


_unfinished: set[_Pending] = set()


@cache
def _wait_at_exit() -> None:
    # Registered when the first one is made, so after the hook that flushes the sinks: it runs before that.
    def wait_for_all() -> None:
        deadline = time.monotonic() + _LONGEST_CONFIGURATION
        for pending in _unfinished.copy():
            pending.wait(max(0.0, deadline - time.monotonic()))

    try:
        threading._register_atexit(wait_for_all)  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):  # the interpreter is about to end
        pass


class _LeasedSink(_Target):
    """Holds a lease while the handler is in use; takes another one when it is used after it was closed."""

    def __init__(self, spec: Any, handler: logging.Handler) -> None:
        from .config import plan_sink

        self._spec = spec
        self._handler = weakref.ref(handler)
        # emit() and close() must not share a lock: close() is called under logging's module lock, which making a sink
        # may need. So both change these by atomic operations.
        self._bindings: dict[str, _Binding] = {}
        self._pending: dict[str, _Pending] = {}
        self._early: deque[LogEvent] = deque()
        self._handing_over = threading.Lock()
        _leased_sinks.add(self)
        self._failed_at: float | None = None
        self.label = "sink"
        plan = plan_sink(spec)
        if holds_module_lock() and _may_wait(plan):
            self._bind_beside(handler)
            return
        try:
            self._bind(handler)
        except registry.RegistryBusyError:
            self._bind_beside(handler)

    def _bind(self, handler: logging.Handler) -> _Binding:
        from .config import resolve_sink

        # What making it logs (asyncio tells of its selector) is the logger's own doing.
        before = mark.value
        try:
            mark.value = True
            lease = resolve_sink(self._spec)
        finally:
            mark.value = before
        self.label = type(lease.sink).__name__
        made = _Binding(lease, handler)
        binding = self._bindings.setdefault("current", made)
        if binding is not made:  # another thread was faster
            made.release()
        return binding

    def _bind_beside(self, handler: logging.Handler) -> None:
        """Make the sink in a thread of its own, while this one holds logging's module lock.

        A sink that is made waits for its worker, and a worker's client library, which is imported now or logs, waits for
        that lock. Then it goes on without us, and what is logged until it is there is kept for it.
        """
        # asyncio's own debug line would be the first to wait: the answer is in the logger's cache now.
        logging.getLogger("asyncio").isEnabledFor(logging.DEBUG)
        pending = _Pending()
        self._pending["current"] = pending
        _unfinished.add(pending)
        _wait_at_exit()
        try:
            start_thread(self._finish_pending, pending, handler)
        except RuntimeError:  # no thread can be started any more: the process ends
            self._finish_pending(pending, handler)
        deadline = time.monotonic() + _LONGEST_CONFIGURATION
        waiting: set[tuple[int, int]] = set()
        while time.monotonic() < deadline:
            if pending.wait(0.01):
                if pending.error is not None:
                    raise pending.error
                return
            before, waiting = waiting, _workers_in_logging()
            if before & waiting:
                break
        pending.is_awaited = False
        if pending.done and pending.error is not None:
            raise pending.error

    def _finish_pending(self, pending: _Pending, handler: logging.Handler) -> None:
        try:
            binding = self._bind(handler)
        except BaseException as err:
            self._pending.pop("current", None)
            pending.error = err
            if not pending.is_awaited:
                self._tell_failure(err, lost=len(self._early))
            self._early.clear()
        else:
            self._hand_over_early()
            self._pending.pop("current", None)
            self._hand_over_early()
            if pending.closed:
                self._release(binding)
        pending.done = True
        _unfinished.discard(pending)

    def offer(self, event: LogEvent) -> bool:
        binding = self._bindings.get("current")
        return binding is not None and binding.offer is not None and not self._early and binding.offer(event)

    def log(self, event: LogEvent) -> None:
        binding = self._bindings.get("current")
        if binding is None or self._early:
            self._log_slowly(event)
            return
        try:
            binding.log(event)
        except Exception:
            if self._bindings.get("current") is binding:
                raise
            # The handler was closed between the look and the call, and the sink has ended.
            self._log_slowly(event)

    def _log_slowly(self, event: LogEvent) -> None:
        if self._pending or self._early:
            if len(self._early) >= _MOST_EARLY_EVENTS:
                selflog.report("handler", "too many events wait for the sink of a handler; the newest are lost")
                return
            self._early.append(event)
            self._hand_over_early()
            return
        binding = self._bind_again()
        if binding is not None:
            binding.log(event)

    def _hand_over_early(self) -> None:
        """Deliver what was kept, in order. An event leaves the queue only after that, so that no later one overtakes."""
        early = self._early
        while early and (binding := self._bindings.get("current")) and self._handing_over.acquire(blocking=False):
            try:
                while early:
                    try:
                        binding.log(early[0])
                    except Exception as err:
                        selflog.report("handler", "an event was lost", error=f"{type(err).__name__}: {err}")
                    early.popleft()
            finally:
                self._handing_over.release()

    def _bind_again(self) -> _Binding | None:
        handler = self._handler()
        # It may be in use by all of the program's loggers: not every event can pay for another attempt.
        too_soon = self._failed_at is not None and time.monotonic() - self._failed_at < _RETRY_INTERVAL
        if handler is None or too_soon or sys.is_finalizing():
            return None
        try:
            binding = self._bind(handler)
        except Exception as err:
            self._tell_failure(err)
            return None
        self._failed_at = None
        return binding

    def _tell_failure(self, err: BaseException, lost: int = 1) -> None:
        self._failed_at = time.monotonic()
        selflog.report(
            "handler",
            "the sink of a handler could not be made; events are lost",
            handler=repr(self._handler()),
            lost=lost,
            error=f"{type(err).__name__}: {err}",
        )

    def current(self, timeout: float | None = 0.0) -> Any:
        pending = self._pending.get("current")
        if pending is not None:
            pending.wait(timeout)
        binding = self._bindings.get("current")
        return None if binding is None else binding.lease.sink

    def close(self) -> None:
        pending = self._pending.get("current")
        if pending is not None:
            pending.closed = True
        binding = self._bindings.get("current")
        if binding is None:
            return
        if not holds_module_lock():
            self._release(binding)
            return
        # dictConfig closes all handlers before it makes the new ones. If one of those has the same sink, it goes on with
        # what it holds; and who still logs to the old handler meanwhile needs no other sink.
        binding.finalizer.detach()
        try:
            start_thread(self._release_after_configuration, binding)
        except RuntimeError:  # no thread can be started any more: the process ends
            self._release(binding)

    def _release_after_configuration(self, binding: _Binding) -> None:
        with logging._lock:  # type: ignore[attr-defined]
            pass
        self._release(binding)

    def _release(self, binding: _Binding) -> None:
        if self._bindings.get("current") is binding:
            self._bindings.pop("current", None)
        binding.release()

    def after_fork_in_child(self) -> None:
        # The thread that makes the sink stayed behind in the parent, and what waits for it is the parent's.
        self._pending.clear()
        self._early.clear()
        self._handing_over = threading.Lock()


_leased_sinks: weakref.WeakSet[_LeasedSink] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    _unfinished.clear()
    for target in list(_leased_sinks):
        target.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _may_wait(plan: Any) -> bool:
    """True when making the sink may wait for another thread: not with the synchronous ones of this package."""
    if plan.parts:
        parts = [part if isinstance(part, tuple) else (part,) for part in plan.parts.values()]
        return any(_may_wait(entry) for entries in parts for entry in entries)
    if plan.sink_cls is None:
        return False
    delivery: Any = _modules.get(f"{_PACKAGE}.delivery.sink")
    if delivery is not None and issubclass(plan.sink_cls, delivery.AsyncioLogSink):
        return True
    return bool(plan.sink_cls.__module__.partition(".")[0] != _PACKAGE)


def _workers_in_logging() -> set[tuple[int, int]]:
    """Where threads that run code of this package are in the `logging` module: those that stay wait for its lock."""
    found = set()
    for ident, top in sys._current_frames().items():
        if ident == get_ident() or top.f_globals.get("__name__") != "logging":
            continue
        frame: FrameType | None = top
        while frame is not None:
            # Or a thread that is just being started, in which the garbage collector meets an old handler.
            if str(frame.f_globals.get("__name__")).partition(".")[0] == _PACKAGE or frame.f_code is _REMOVE_HANDLER:
                found.add((id(top), top.f_lasti))
                break
            frame = frame.f_back
    return found


_REMOVE_HANDLER: Any = getattr(getattr(logging, "_removeHandlerRef", None), "__code__", None)


def start_thread(func: Callable[..., None], *args: Any) -> None:
    """Start a daemon thread without waiting for it, as `threading.Thread.start` does.

    Whoever holds logging's module lock must not wait for another thread, nor take a lock that another one may hold: the
    garbage collector, which runs in any thread, takes the module lock for each handler that it finds.

    Raises:
        RuntimeError: The interpreter starts no threads any more.
    """

    def run() -> None:
        sys.settrace(threading.gettrace())  # as `threading` does, for debuggers
        try:
            func(*args)
        finally:
            # What `threading` made of this thread when somebody asked for its name would stay there for ever.
            threading._active.pop(get_ident(), None)  # type: ignore[attr-defined]

    start_new_thread(run, ())


# ---------------------------------------------------------------------- helpers


def _log_with_exception(log: Callable[[LogEvent], None], event: LogEvent, exc_info: Any) -> None:
    assert event.exception is not None
    before = live.exc_info
    try:
        live.exc_info = (event.exception, exc_info)
        log(event)
    finally:
        live.exc_info = before


def _report(record: LogRecord) -> None:
    name, template = record.__dict__.get("name"), record.__dict__.get("msg")
    report_recursion(
        name if type(name) is str else None, template if type(template) is str else f"<{type(template).__name__}>"
    )


class _AsItIs:
    """A payload processor that leaves the work to a later one."""

    def normalize_fields(self, payload: dict[str, Any]) -> dict[str, Any]:
        return payload


_AS_IT_IS: Any = _AsItIs()


def _normalize_by(context: LogContext, payload: Mapping[str, Any]) -> dict[str, Any]:
    processor = context.payload_processor
    try:
        return normalize_extras(dict(payload), processor)
    except Exception as err:
        selflog.report(
            "payload",
            "a payload processor failed; the default one took over",
            processor=type(processor).__name__,
            error=type(err).__name__,
        )
        return normalize_extras(dict(payload))


def _interrupts() -> bool:
    """True where a signal handler logs that has interrupted the logger at work: it is none of the logger's own doing.

    It is looked for on the stack, between here and the nearest frame of this package.
    """
    if threading.current_thread() is not threading.main_thread() or not (codes := _signal_handler_codes()):
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] != _PACKAGE:
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False


def _signal_handler_codes() -> set[Any]:
    signal: Any = _modules.get("signal")
    codes: set[Any] = set()
    if signal is None:
        return codes
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        while isinstance(handler, partial):
            handler = handler.func
        function = getattr(handler, "__func__", handler)  # of a bound method
        if not hasattr(function, "__code__") and callable(handler):
            function = type(handler).__call__
        if hasattr(function, "__code__"):
            codes.add(function.__code__)
    return codes


def _current_task_name() -> str | None:
    asyncio: Any = _modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        loop = asyncio._get_running_loop()
        if loop is None:
            return None
        task = asyncio.current_task(loop)
        return None if task is None else str(task.get_name())
    except Exception:  # it is being imported right now
        return None


def holds_module_lock() -> bool:
    """True while this thread configures the standard library's logging."""
    is_owned = getattr(getattr(logging, "_lock", None), "_is_owned", None)
    return is_owned is not None and bool(is_owned())


def _flush_sink(sink: Any, timeout: float | None) -> None:
    flush = getattr(sink, "flush", None)
    if flush is None:
        return
    try:
        flush(timeout)
    except TypeError:  # a foreign sink, which takes no timeout
        flush()


def _make_processor(processor: Any) -> LogPayloadProcessorProto | None:
    if processor is None:
        return None
    if isinstance(processor, Mapping):
        try:
            return LogPayloadProcessor(**plain_options(processor))
        except (TypeError, ValueError) as err:
            raise LogConfigurationError(
                f"payload_processor: {err}", details={"path": "payload_processor"}, cause=err
            ) from err
    if isinstance(processor, LogPayloadProcessorProto) and not isinstance(processor, type):
        return processor
    raise LogConfigurationError(
        "payload_processor: expected a payload processor or a mapping of the options of LogPayloadProcessor, got "
        f"{processor.__name__ if isinstance(processor, type) else type(processor).__name__}",
        details={"path": "payload_processor"},
    )


def plain_options(value: Any) -> Any:
    """A part of a configuration without dictConfig's own types, all ``ext://`` and ``cfg://`` resolved.

    Those types resolve an item when it is asked for by its key, and only then.
    """
    if isinstance(value, Mapping):
        return {key: plain_options(value[key]) for key in value}
    if isinstance(value, list):
        return [plain_options(value[index]) for index in range(len(value))]
    if type(value) is tuple or type(value).__name__ == "ConvertingTuple":
        return tuple([plain_options(value[index]) for index in range(len(value))])
    return value
