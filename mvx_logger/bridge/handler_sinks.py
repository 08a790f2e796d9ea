"""The pipeline into the standard library: `HandlerSink`, `AsyncHandlerSink` and `LoggerSink`.

Each turns events back into records (see `mvx_logger.bridge.records.event_to_record`). A record that is made here carries
its event and, in ``origin.via``, the sinks that forwarded it so far. Handlers of this package that meet such a record
take the event from it, and a sink that finds itself among those that forwarded an event refuses it: so a cycle of sinks
and handlers delivers each event once, however many queues and threads it leads through.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from msgspec.structs import replace

from .. import selflog
from ..delivery.sink import AsyncioLogSink, LogDeliveryErrorKind
from ..delivery.stats import LogSinkStats
from ..errors import LogConfigurationError
from ..guard import is_internal, report_recursion, run_marked
from ..model import LogEvent, LogEventOrigin
from ..options import check_options, parse_level
from ..protocols import LogSinkDescriptor, LogSinkTerminator
from .handlers import holds_module_lock, live, plain_options, start_thread
from .records import NATIVE, EventLogRecord, event_to_record

__all__ = ["AsyncHandlerSink", "HandlerSink", "LoggerSink"]

_HANDLER_KEYS = frozenset({"level", "formatter", "filters"})
_PROCESS_TOKEN = os.urandom(6).hex()
_numbers = itertools.count(1)


class _Hop:
    """The identity of a forwarding sink, for ``origin.via``."""

    __slots__ = ("_name", "_told")

    def __init__(self, kind: str) -> None:
        self._name = f"{kind}-{next(_numbers)}-{_PROCESS_TOKEN}"
        self._told = False

    @property
    def name(self) -> str:
        # A forked child is another hop: what it forwards to its parent is no cycle.
        return f"{self._name}-{os.getpid()}"

    def admits(self, event: LogEvent) -> bool:
        """False, and reported once, when the event has been here before."""
        origin = event.origin
        if origin is None or not origin.via or self.name not in origin.via:
            return True
        if not self._told:
            self._told = True
            selflog.report(
                "cycle",
                "a sink leads to a handler that leads back to it; each event is delivered once",
                limit=False,
                sink=self._name,
                event=event.meta.event_name,
            )
        return False

    def to_record(self, event: LogEvent, *, same_thread: bool = True) -> EventLogRecord:
        """The event as a record that remembers to have been here."""
        origin = event.origin
        if origin is None:
            origin = LogEventOrigin(system=NATIVE, via=(self.name,))
        else:
            origin = replace(origin, via=(*origin.via, self.name))
        exc_info = None
        if event.exception is not None:
            known = live.exc_info
            if known is not None and known[0] is event.exception:
                exc_info = known[1]
        return event_to_record(replace(event, origin=origin), exc_info=exc_info, same_thread=same_thread)


class _SyncForwardingSink:
    guards_itself: ClassVar[bool] = True

    def __init__(self) -> None:
        self._hop = _Hop(type(self).__name__)
        self._delivered = 0
        self._failed = 0
        self._refused: dict[str, int] = {}

    @property
    def hop_id(self) -> str:
        """What stands for this sink in ``origin.via``."""
        return self._hop.name

    def log(self, event: LogEvent) -> None:
        """Hand the event on at once.

        Raises:
            Exception: What a handler raises out of ``handle()``. Handlers that follow the contract of `logging` never
                do: their errors go to their own ``handleError``.
        """
        if is_internal():
            self._refuse("recursion")
            report_recursion(event.meta.event_namespace, event.meta.event_name)
            return
        if not self._hop.admits(event):
            self._refuse("cycle")
            return
        # What a handler logs by itself (an HTTP client at work) is not to come back; the record that it is given may
        # pass on, because it carries its event.
        try:
            run_marked(self._hand_on, event)
        except Exception:
            self._failed += 1
            raise
        else:
            self._delivered += 1

    def _hand_on(self, event: LogEvent) -> None:
        raise NotImplementedError

    def _refuse(self, reason: str) -> None:
        self._refused[reason] = self._refused.get(reason, 0) + 1

    def stats(self) -> LogSinkStats:
        """How many events were handed on, how many could not be, and how many were refused."""
        failed = self._failed
        return LogSinkStats(
            accepted=self._delivered + failed,
            delivered=self._delivered,
            dropped={"error": failed} if failed else {},
            rejected=dict(self._refused),
        )


class HandlerSink(_SyncForwardingSink):
    """Any `logging.Handler` as a sink: its level, its filters, its formatter, its ``handleError``.

    It delivers in the thread that logs. For a handler that may block there is `AsyncHandlerSink`.

    Args:
        handler: The handler, or a mapping that describes one as in `logging.config.dictConfig`: ``class`` or ``()``,
            options, ``level``, and, in place instead of by name, ``formatter`` (a format string or a mapping) and
            ``filters`` (a list of filters, of mappings, or of logger names). A handler that is given stays its owner's;
            one that is described here is closed with the sink.

    Raises:
        LogConfigurationError: The mapping is wrong, or the handler could not be made.
        TypeError: ``handler`` is neither.
    """

    def __init__(self, handler: logging.Handler | Mapping[str, Any]) -> None:
        super().__init__()
        self._is_ours = not isinstance(handler, logging.Handler)
        self._handler = _take_handler(handler)
        self._closed = False

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        """Say what the options describe. A mapping's values may be secrets: they are told apart by a hash."""
        return _describe_handler(cls, check_options(cls, kwargs))

    @classmethod
    def create(cls, **kwargs: Any) -> tuple[HandlerSink, LogSinkTerminator]:
        """Make a sink; its terminator is `close`."""
        sink = cls(**check_options(cls, kwargs))
        return sink, sink.close

    @property
    def handler(self) -> logging.Handler:
        """The handler."""
        return self._handler

    def _hand_on(self, event: LogEvent) -> None:
        handler = self._handler
        if event.level >= handler.level:
            handler.handle(self._hop.to_record(event))

    def flush(self, timeout: float | None = None) -> bool:
        """Flush the handler; its ``flush()`` knows no timeout. True: nothing waits in the sink itself."""
        _flush_handler(self._handler)
        return True

    def close(self) -> None:
        """Flush the handler, and close it if it was made here. Idempotent."""
        if self._closed:
            return
        self._closed = True
        _end_handler(self._handler, self._is_ours)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {type(self._handler).__name__}>"


class AsyncHandlerSink(AsyncioLogSink):
    """Any `logging.Handler` as a sink, on the worker of an `AsyncioLogSink`: for handlers that block.

    Handlers that follow the contract of `logging` raise nothing: their errors go to their own ``handleError``, and the
    event counts as delivered. Of those that do raise, OSError (which timeouts are), EOFError and MemoryError are taken for
    trouble that passes, and the same event comes again; a handler that had let a part of it out by then does so twice.
    Whatever else a handler raises is final for that event, because a handler knows no retry: it is dead-lettered or dropped
    (``refused``).

    Args:
        handler: As of `HandlerSink`. A handler that is described by a mapping is made anew in a forked child.
        **async_options: As of `AsyncioLogSink`.

    Raises:
        LogConfigurationError: The mapping is wrong, or the handler could not be made.
        TypeError: ``handler`` is neither.
    """

    def __init__(self, handler: logging.Handler | Mapping[str, Any], **async_options: Any) -> None:
        super().__init__(**async_options)
        self._spec = None if isinstance(handler, logging.Handler) else plain_options(handler)
        self._handler = _take_handler(handler)
        self._made_by = os.getpid()
        self._handler_closed = False
        self._hop = _Hop(type(self).__name__)
        self._refused = 0
        self._raised: Exception | None = None

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        """Say what the options describe. A mapping's values may be secrets: they are told apart by a hash."""
        return _describe_handler(cls, check_options(cls, kwargs))

    @property
    def hop_id(self) -> str:
        """What stands for this sink in ``origin.via``."""
        return self._hop.name

    @property
    def handler(self) -> logging.Handler:
        """The handler."""
        return self._handler

    def log(self, event: LogEvent) -> None:
        """Accept an event for delivery; see `AsyncioLogSink.log`. One that has been here before is refused."""
        origin = event.origin
        if origin is None or not origin.via or self._hop.admits(event):
            super().log(event)
        else:
            self._refused += 1

    async def _on_starting(self) -> None:
        if self._spec is not None and (self._handler_closed or self._made_by != os.getpid()):
            self._handler = await self._run_blocking(_take_handler, self._spec)
            self._handler_closed = False
            self._made_by = os.getpid()

    async def _dispatch_core(self, event: LogEvent) -> None:
        if event.level >= self._handler.level:
            await self._run_blocking(self._hand_on, event)

    def _hand_on(self, event: LogEvent) -> None:
        try:
            self._handler.handle(self._hop.to_record(event, same_thread=False))
        except Exception as err:
            self._raised = err
            raise

    def _classify_error(self, error: BaseException) -> LogDeliveryErrorKind:
        raised, self._raised = self._raised, None
        kind = super()._classify_error(error)
        # An executor that ends with the interpreter raises too, and says nothing about the event.
        if kind is LogDeliveryErrorKind.UNKNOWN and error is raised:
            return LogDeliveryErrorKind.REFUSED
        return kind

    async def _on_stopped(self) -> None:
        self._handler_closed = self._spec is not None
        await self._run_blocking(_end_handler, self._handler, self._handler_closed)

    def stats(self) -> LogSinkStats:
        """The sink's accounts at this moment; events that came back in a cycle are rejected."""
        accounts = super().stats()
        if not self._refused:
            return accounts
        return replace(accounts, rejected={**accounts.rejected, "cycle": self._refused})


class LoggerSink(_SyncForwardingSink):
    """Into an existing logger of the standard library, and whatever it propagates to.

    The logger's level, ``disabled``, filters, handlers and ``propagate``, and `logging.disable`, count as for a record
    that is logged there. The record keeps the event's namespace as its name.

    Args:
        name: The logger's name; ``""`` or ``"root"`` is the root logger.

    Raises:
        TypeError: ``name`` is not a str.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if not isinstance(name, str):
            raise TypeError(f"name: expected a str, got {type(name).__name__}")
        # Looked up once: getLogger() takes logging's module lock.
        self._logger = logging.getLogger(None if name == "root" else name)

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        """Say what the options describe."""
        options = check_options(cls, kwargs)
        return LogSinkDescriptor("logger", (options["name"] or "root",))

    @classmethod
    def create(cls, **kwargs: Any) -> tuple[LoggerSink, LogSinkTerminator]:
        """Make a sink; its terminator is `close`."""
        sink = cls(**check_options(cls, kwargs))
        return sink, sink.close

    @property
    def logger(self) -> logging.Logger:
        """The logger."""
        return self._logger

    def _hand_on(self, event: LogEvent) -> None:
        logger = self._logger
        if _is_enabled(logger, event.level):
            logger.handle(self._hop.to_record(event))

    def flush(self, timeout: float | None = None) -> bool:
        """True: every event is handed on before ``log`` returns."""
        return True

    def close(self) -> None:
        """Nothing to end: the logger is not ours."""

    def __repr__(self) -> str:
        return f"<LoggerSink {self._logger.name}>"


def _is_enabled(logger: logging.Logger, level: int) -> bool:
    if type(logger).isEnabledFor is not logging.Logger.isEnabledFor:
        return logger.isEnabledFor(level)
    # isEnabledFor() itself may take logging's module lock, and we may be called under the lock of a handler.
    return not logger.disabled and logger.manager.disable < level and level >= logger.getEffectiveLevel()


# ---------------------------------------------------------------------- handlers


def _flush_handler(handler: logging.Handler) -> None:
    try:
        handler.flush()
    except Exception as err:
        selflog.report("flush", "a handler could not flush", handler=type(handler).__name__, error=type(err).__name__)


def _end_handler(handler: logging.Handler, close: bool) -> None:
    if not holds_module_lock():
        _flush_and_close(handler, close)
        return
    # dictConfig is at work. A handler that waits for a thread of its own, which logs, would never return.
    try:
        start_thread(_flush_and_close, handler, close)
    except RuntimeError:  # no thread can be started any more: the process ends
        _flush_and_close(handler, close)


def _flush_and_close(handler: logging.Handler, close: bool) -> None:
    _flush_handler(handler)
    if close:
        try:
            handler.close()
        except Exception as err:
            selflog.report(
                "close", "a handler could not be closed", handler=type(handler).__name__, error=type(err).__name__
            )


def _take_handler(handler: Any) -> logging.Handler:
    if isinstance(handler, logging.Handler):
        return handler
    if isinstance(handler, Mapping):
        return _make_handler(plain_options(handler), "handler")
    raise TypeError(
        "handler: expected a logging.Handler or a mapping that describes one, got "
        f"{handler.__name__ if isinstance(handler, type) else type(handler).__name__}"
    )


def _make_handler(spec: dict[str, Any], path: str) -> logging.Handler:
    options, level, formatter, filters, configurator = _check_handler(spec, path)
    try:
        if isinstance(options.get("target"), Mapping):  # of a MemoryHandler
            configurator.config["handlers"] = {"target": _make_handler(options["target"], f"{path}.target")}
            options["target"] = "target"
        handler: Any = configurator.configure_handler(options)
        if not isinstance(handler, logging.Handler):
            raise TypeError(f"expected a logging.Handler, got {type(handler).__name__}")
    except LogConfigurationError:
        raise
    except Exception as err:
        # dictConfig's own text is about names in its sections; the cause behind it says what is wrong.
        raise _wrong(path, err.__cause__ or err) from err
    if level is not None:
        handler.setLevel(level)
    if formatter is not None:
        handler.setFormatter(formatter)
    for entry in filters:
        handler.addFilter(entry)
    return handler


def _check_handler(spec: Mapping[str, Any], path: str) -> tuple[dict[str, Any], Any, Any, list[Any], Any]:
    """What can be told of a handler without making it: its options, level, formatter, filters; and who makes it."""
    from logging.config import DictConfigurator

    configurator: Any = DictConfigurator({"version": 1})
    where = path
    try:
        kind = spec.get("class", spec.get("()"))
        if kind is None:
            raise ValueError(
                "a handler needs \"class\" or \"()\", e.g. {'class': 'logging.FileHandler', 'filename': ...}"
            )
        if isinstance(kind, str):
            kind = configurator.resolve(kind)
        if not callable(kind) or (
            "class" in spec and not (isinstance(kind, type) and issubclass(kind, logging.Handler))
        ):
            raise TypeError(f"{getattr(kind, '__name__', type(kind).__name__)} is no handler class")
        if isinstance(spec.get("target"), Mapping):
            _check_handler(spec["target"], f"{path}.target")
        where = f"{path}.level"
        level = spec.get("level")
        if level is not None:
            parse_level(level, path=where)
        where = f"{path}.formatter"
        formatter = None if spec.get("formatter") is None else _make_formatter(spec["formatter"], configurator)
        where = f"{path}.filters"
        filters = [_make_filter(entry, configurator) for entry in spec.get("filters") or ()]
    except LogConfigurationError:
        raise
    except Exception as err:
        raise _wrong(where, err.__cause__ or err) from err
    options = {key: value for key, value in spec.items() if key not in _HANDLER_KEYS}
    return options, level, formatter, filters, configurator


def _wrong(path: str, cause: BaseException) -> LogConfigurationError:
    return LogConfigurationError(f"{path}: {cause}", details={"path": path}, cause=cause)


def _make_formatter(spec: Any, configurator: Any) -> Any:
    if isinstance(spec, str):
        for style in ("%", "$", "{"):  # ${name} is both of the last two
            try:
                return logging.Formatter(spec, style=style)
            except ValueError:
                continue
        raise ValueError(f"{spec!r} is no format of any style ('%', '{{' or '$')")
    if isinstance(spec, Mapping):
        return configurator.configure_formatter(dict(spec))
    if callable(getattr(spec, "format", None)):
        return spec
    raise TypeError(f"expected a format string, a mapping or a formatter, got {type(spec).__name__}")


def _make_filter(spec: Any, configurator: Any) -> Any:
    if isinstance(spec, str):
        return logging.Filter(spec)
    if isinstance(spec, Mapping):
        return configurator.configure_filter(dict(spec))
    if callable(spec) or callable(getattr(spec, "filter", None)):
        return spec
    raise TypeError(f"expected a logger name, a mapping or a filter, got {type(spec).__name__}")


def _describe_handler(cls: type[Any], options: dict[str, Any]) -> LogSinkDescriptor:
    handler = options.pop("handler")
    if isinstance(handler, logging.Handler):
        resource: tuple[Any, ...] = (type(handler).__name__, id(handler))
    elif isinstance(handler, Mapping):
        handler = plain_options(handler)
        _check_handler(handler, "handler")
        kind = handler.get("class", handler.get("()"))
        name = kind if isinstance(kind, str) else getattr(kind, "__qualname__", type(kind).__name__)
        digest = hashlib.sha256(repr(_canonical(handler)).encode()).hexdigest()
        resource = (name, f"sha256:{digest[:16]}")
    else:
        raise TypeError(f"handler: expected a logging.Handler or a mapping, got {type(handler).__name__}")
    described = LogSinkDescriptor(cls.__name__, resource)
    if issubclass(cls, AsyncioLogSink):
        described = cls._describe(cls.__name__, resource, options)
    return described


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return sorted((str(key), _canonical(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    return value
