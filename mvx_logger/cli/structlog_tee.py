"""The part of ``mvx-logger run`` that catches structlog's events, as event dicts, in whatever chain they are.

All bound loggers run their chain in ``BoundLoggerBase._process_event`` and hand its result to the wrapped logger in
``_proxy_to_logger``. Both are wrapped. The event dict is remembered as it is before the processor that renders it; then

- a wrapped logger of the standard library makes a record of it, or does not (its level): the record and the event dict
  are one event;
- for any other wrapped logger the event dict is the event.

A chain that drops an event drops it here too.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from types import FrameType
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from ..guard import is_internal, mark
from ..model import LogEvent, LogEventMeta, LogEventOrigin

if TYPE_CHECKING:
    from .activate import Router

__all__ = ["install"]


_INNER_MODULES = ("structlog", "mvx_logger.", "logging")


class _Call:
    """One call of a log method, while its wrapped logger is being called."""

    __slots__ = ("caught",)

    def __init__(self) -> None:
        self.caught: _Caught | None = None


_call: ContextVar[_Call | None] = ContextVar("mvx_logger_run_structlog_call", default=None)
# Caught by a wrapper class that calls the wrapped logger itself: only the record that carries the very result matches.
_stray: ContextVar[_Caught | None] = ContextVar("mvx_logger_run_structlog_stray", default=None)


class _Chain:
    """Stands in for a bound logger while its chain runs, and looks at the event dict between the processors."""

    def __init__(self, bound: Any) -> None:
        self._bound = bound
        self.event_dict: dict[str, Any] = {}
        self.event: Any = None
        self.exc_info: Any = None

    @property
    def _processors(self) -> Iterator[Any]:
        for processor in self._bound._processors:
            yield self.look
            yield processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bound, name)

    def look(self, logger: Any, method_name: str, event_dict: Any) -> Any:
        # Any processor may be the one that renders; a copy of a small dict costs little beside what processors do.
        if isinstance(event_dict, Mapping):
            self.event_dict = seen = dict(event_dict)
            if "event" in seen:
                self.event = seen["event"]
            exc_info = seen.get("exc_info")
            if exc_info:
                self.exc_info = sys.exc_info() if exc_info is True else exc_info
        return event_dict


class _Caught:
    """An event dict on its way to a wrapped logger."""

    __slots__ = ("chain", "frame_name", "logger", "method_name", "path", "result", "sent", "timestamp")

    def __init__(self, chain: _Chain, method_name: str, result: Any) -> None:
        self.chain = chain
        self.method_name = method_name
        self.logger = _stdlib_logger(chain._bound._logger)
        self.result = result
        self.sent = False
        self.timestamp = time.time()
        frame = _application_frame()
        self.frame_name = frame.f_globals.get("__name__")
        self.path = (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)

    def matches(self, record: logging.LogRecord, strictly: bool) -> bool:
        if self.sent:
            return False
        if self.result is not None and record.msg is self.result:
            return True
        return not strictly and self.logger is not None and record.name == self.logger.name

    def has_ambient(self) -> bool:
        """True where the chain itself merges the context variables: then what it left out stays out."""
        module = sys.modules.get("structlog.contextvars")
        return module is not None and module.merge_contextvars in self.chain._bound._processors

    def to_event(self, record: logging.LogRecord | None) -> LogEvent:
        chain = self.chain
        event_dict = chain.event_dict
        event_key = "event"
        if "event" not in event_dict and chain.event is not None:
            event_key = next((key for key, value in event_dict.items() if value is chain.event), "event")
            if event_key == "event":
                event_dict["event"] = chain.event
        if chain.exc_info is not None:
            if "exc_info" in event_dict:
                # True means the exception that was current then, not the one of a wrapped logger that fails.
                event_dict["exc_info"] = chain.exc_info
            elif "exception" in event_dict:
                # A processor has put it into words; the exception itself says more.
                event_dict["exc_info"] = chain.exc_info
                del event_dict["exception"]
        name = self.frame_name
        if record is not None:
            name = record.name
        elif self.logger is not None:
            name = self.logger.name
        elif isinstance(own := getattr(chain._bound._logger, "name", None), str):
            name = own
        # Not at the top: this module is imported in the middle of the import of structlog.
        from ..bridge.structlog import event_dict_to_event

        return event_dict_to_event(
            event_dict,
            method_name=self.method_name,
            logger_name=name,
            event_key=event_key,
            now=self.timestamp,
        )


def install(router: Router, base: Any) -> None:
    """Wrap the two methods of ``structlog._base.BoundLoggerBase``."""
    bound_class = base.BoundLoggerBase
    process_event = bound_class._process_event
    proxy_to_logger = bound_class._proxy_to_logger

    def process_and_catch(self: Any, method_name: str, event: Any, event_kw: dict[str, Any]) -> Any:
        if not router.active or is_internal():
            return process_event(self, method_name, event, event_kw)
        chain = _Chain(self)
        args, kwargs = process_event(chain, method_name, event, event_kw)
        if not chain.event_dict:  # a chain without processors
            chain.look(self._logger, method_name, kwargs)
        caught = _Caught(chain, method_name, args[0] if args else kwargs.get("msg"))
        call = _call.get()
        if call is not None and call.caught is None:
            call.caught = caught
        elif caught.logger is not None:
            _stray.set(caught)
        else:
            _send(router, caught, None)
        if router.replace and caught.logger is None and _is_output(self._logger):
            raise base.DropEvent
        return args, kwargs

    def proxy_and_send(self: Any, method_name: str, event: Any = None, **event_kw: Any) -> Any:
        call = _Call()
        token = _call.set(call)
        try:
            return proxy_to_logger(self, method_name, event, **event_kw)
        finally:
            _call.reset(token)
            caught = call.caught
            if caught is not None and not caught.sent and caught.logger is None:
                _send(router, caught, None)

    def match(record: logging.LogRecord) -> Callable[[logging.LogRecord], None] | None:
        call = _call.get()
        caught = None if call is None else call.caught
        if caught is None or not caught.matches(record, False):
            caught = _stray.get()
            if caught is None or not caught.matches(record, True):
                return None
        found = caught
        found.sent = True  # whatever the handlers log meanwhile is something else
        return lambda record: _send(router, found, record)

    for original, wrapper in ((process_event, process_and_catch), (proxy_to_logger, proxy_and_send)):
        wrapper.__name__, wrapper.__qualname__, wrapper.__doc__ = (
            original.__name__,
            original.__qualname__,
            original.__doc__,
        )
    bound_class._process_event = process_and_catch
    bound_class._proxy_to_logger = proxy_and_send
    router.match = match


def _send(router: Router, caught: _Caught, record: logging.LogRecord | None) -> None:
    caught.sent = True
    before = mark.value
    try:
        mark.value = True  # what is put into words here may be anything, and may log
        event = caught.to_event(record)
    finally:
        mark.value = before
    meta = event.meta
    path, line, func = caught.path
    origin = _complete_origin(event.origin or LogEventOrigin(system="structlog"), record)
    meta = LogEventMeta(
        meta.event_namespace,
        meta.event_name,
        meta.entity_id,
        meta.source_path or path,
        meta.source_line or line,
        meta.source_func or func,
    )
    event = replace(event, meta=meta, origin=origin)
    if record is not None:
        meta = replace(meta, event_namespace=record.name)
        event = replace(event, meta=meta, level=record.levelno, timestamp=record.created)
    router.emit(event, merge_ambient=not caught.has_ambient())


def _complete_origin(origin: LogEventOrigin, record: logging.LogRecord | None) -> LogEventOrigin:
    """Says which process and thread it was; a key of the event dict that says so wins."""
    process_id: int | None = os.getpid()
    process_name: str | None = None
    task_name: str | None = None
    thread_id: int | None
    thread_name: str | None
    if record is None:
        thread = threading.current_thread()
        thread_id, thread_name = thread.ident, thread.name
        multiprocessing = sys.modules.get("multiprocessing.process")
        if multiprocessing is not None:
            process_name = multiprocessing.current_process().name
    else:
        process_id, process_name = record.process, record.processName
        thread_id, thread_name = record.thread, record.threadName
        task_name = getattr(record, "taskName", None)
    return replace(
        origin,
        process_id=origin.process_id or process_id,
        process_name=origin.process_name or process_name,
        thread_id=origin.thread_id or thread_id,
        thread_name=origin.thread_name or thread_name,
        task_name=origin.task_name or task_name,
    )


def _application_frame() -> FrameType:
    """The frame that called structlog; for an asynchronous log method the one that awaits it."""
    calling = getattr(sys.modules.get("structlog.contextvars"), "_ASYNC_CALLING_STACK", None)  # since structlog 23.3
    frame: FrameType = (calling.get(None) if calling is not None else None) or sys._getframe(1)
    while frame.f_back is not None and (frame.f_globals.get("__name__") or "").startswith(_INNER_MODULES):
        frame = frame.f_back
    return frame


def _stdlib_logger(logger: Any) -> logging.Logger | None:
    """The logger of the standard library that a wrapped logger is or adapts."""
    for _ in range(10):  # adapters can be nested
        if isinstance(logger, logging.Logger):
            return logger
        if not isinstance(logger, logging.LoggerAdapter):
            return None
        logger = logger.logger
    return None


def _is_output(logger: Any) -> bool:
    """True for the loggers of structlog that write to a stream: what handlers are to the standard library."""
    return type(logger).__module__ == "structlog._output"
