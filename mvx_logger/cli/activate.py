"""The part of ``mvx-logger run`` that lives in the program: routes what it logs, and leaves the rest as it is.

`activate` is called by the injected ``sitecustomize`` before the program begins, in every process that the run covers.
From then on

- each record that passes its logger goes to the run's pipeline, whatever the program does to handlers, levels,
  propagation and configuration: `logging.Logger.callHandlers` itself is wrapped;
- each event of a structlog chain goes there as the event dict that it was, see `structlog_tee`;
- each native event of a `LogContext` goes there as well as to the context's own sink;
- an exception that nobody catches becomes an event before the program's own hook prints it;
- ``os._exit`` and ``os.exec*`` deliver what was logged first.

The pipeline is the program's own only where a ``--config`` says so: without one it stands beside the registry, so that
nothing that a partly migrated program configures, resets or closes there has an effect on it.
"""

from __future__ import annotations

import atexit
import copy
import functools
import json
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from .. import context as context_module
from .. import registry, selflog
from ..bridge import handlers as handlers_module
from ..bridge.handlers import LogContextHandler
from ..bridge.records import EventLogRecord, build_exception
from ..context import LogContext
from ..errors import AsyncioLogSinkOnStartingHookFailedError
from ..guard import guarded_log, is_internal, mark
from ..model import LogEvent, LogEventMeta
from ..payload import LogPayloadProcessor

__all__ = ["BLOCK_TIMEOUT", "ENVIRONMENT_VARIABLE", "NAMESPACE", "Router", "activate"]

ENVIRONMENT_VARIABLE = "MVX_LOGGER_RUN"
"""Holds the settings of the run, as JSON."""

NAMESPACE = "mvx_logger.run"
"""The namespace of the events that the run itself makes, e.g. ``program.failed``."""

BLOCK_TIMEOUT = 2.0
"""How long the program waits for a sink whose queue is full, in seconds."""

_REST = 10.0
_RETRY_AFTER = 5.0
_EXIT_TIMEOUT = 5.0
_HASTY_EXIT_TIMEOUT = 2.0
# Those that do not end a process by default.
_HARMLESS_SIGNALS = frozenset(
    getattr(signal, name, None) for name in ("SIGCHLD", "SIGCONT", "SIGURG", "SIGWINCH", "SIGSTOP", "SIGTSTP")
)

routing: ContextVar[bool] = ContextVar("mvx_logger_run_routing", default=False)
"""True while the run hands an event to its pipeline."""


def activate(settings: Mapping[str, Any]) -> Router | None:
    """Route what this process logs.

    Args:
        settings: What `mvx_logger.cli.run.make_settings` made.

    Returns:
        The router; None when the run is over and this process is one that has outlived it.

    Raises:
        Exception: The configuration file cannot be applied. Nothing is routed then.
    """
    if settings["secrets"] is not None and not os.path.exists(settings["secrets"]):
        return None
    # pytest warns of plugin packages (ours is one) that were imported before it could rewrite their assertions, and
    # fails with -W error. This is how a module says that it has none.
    package = sys.modules[__name__.partition(".")[0]]
    package.__doc__ = f"{package.__doc__ or ''}\n\nPYTEST_DONT_REWRITE"
    router = Router(settings)
    router.install()
    return router


class _LazySink:
    """A sink that can be made when the first event comes."""

    def __init__(self, spec: Any) -> None:
        self._spec = spec
        self._lock = threading.RLock()
        self._emit: Callable[[LogEvent], None] | None = None
        self._try_again_at = 0.0
        self._rests_until = 0.0
        self._passed_over = 0
        self.sink: Any = None

    def log(self, event: LogEvent) -> None:
        emit = self._emit or self.open()
        if emit is None:
            return
        began = time.monotonic()
        if began < self._rests_until:
            self._passed_over += 1
            return
        emit(event)
        ended = time.monotonic()
        if ended - began >= BLOCK_TIMEOUT:
            # Its queue was full and stayed so. The program has waited once, and shall not wait for each event.
            self._rests_until = ended + _REST
            selflog.report("run", f"a sink is stuck; it gets no events for {_REST:g} seconds", sink=repr(self.sink))
        elif self._passed_over:
            count, self._passed_over = self._passed_over, 0
            selflog.report("run", "a sink that was stuck takes events again", sink=repr(self.sink), lost=count)

    def open(self) -> Callable[[LogEvent], None] | None:
        """Make the sink. Raises when that fails, and gives None for a while then."""
        from ..bridge.config import resolve_sink

        with self._lock:
            if self._emit is not None:
                return self._emit
            if time.monotonic() < self._try_again_at:
                return None
            before = mark.value
            try:
                mark.value = True
                self.sink = resolve_sink(self._spec, path="--sink").sink
            except Exception:
                self._try_again_at = time.monotonic() + _RETRY_AFTER
                raise
            finally:
                mark.value = before
            self._emit = guarded_log(self.sink)
            return self._emit

    def after_fork(self) -> None:
        self._lock = threading.RLock()


class RunSink:
    """All sinks of the run as one. Their trouble is told on stderr, and never the program's."""

    guards_itself = True

    def __init__(self, specs: Sequence[Any]) -> None:
        self.sinks = [_LazySink(spec) for spec in specs]

    def log(self, event: LogEvent) -> None:
        """Hand the event to each sink."""
        for sink in self.sinks:
            try:
                sink.log(event)
            except Exception as error:
                self._report(error)

    def open(self) -> None:
        """Make the sinks that are not made yet."""
        for sink in self.sinks:
            try:
                sink.open()
            except Exception as error:
                self._report(error)

    def owns(self, sink: object) -> bool:
        """True when the sink is one of the run's."""
        return any(own.sink is sink for own in self.sinks if own.sink is not None)

    def after_fork(self) -> None:
        """Forget who held which lock in the parent."""
        for sink in self.sinks:
            sink.after_fork()

    @staticmethod
    def _report(error: Exception) -> None:
        if isinstance(getattr(error, "cause", None), AsyncioLogSinkOnStartingHookFailedError):
            return  # the sink has told that itself
        selflog.report("run", "a sink failed; events are not routed to it", error=f"{type(error).__name__}: {error}")


class _Handler(LogContextHandler):
    """Turns records into events. It is attached to no logger."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base class' name
        error = sys.exc_info()[1]
        selflog.report("run", "a record could not be routed", error=f"{type(error).__name__}: {error}")


class Router:
    """Routes what one process logs. There is one in a process.

    Args:
        settings: What `mvx_logger.cli.run.make_settings` made.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.active = True
        self.replace: bool = settings["replace"]
        self.floor: int | None = settings["level"]
        self._settings = settings
        self._dirty = False
        self._failed: BaseException | None = None
        self.match: Callable[[logging.LogRecord], Callable[[logging.LogRecord], None] | None] | None = None
        """Finds the structlog event that a record stands for; set by `structlog_tee`."""

        self.sink = RunSink(_read_sinks(settings))
        self._context: LogContext | None = None
        if settings["config"] is None:
            self._context = LogContext(
                log_sink=self.sink,
                # Wider than the defaults: the program did not write its payloads with limits in mind.
                payload_processor=LogPayloadProcessor(max_str_len=2_000, max_items=100),
                min_level=self.floor or 0,
            )
        self._handler = _Handler(self._context)

    # ------------------------------------------------------------------ installing it

    def install(self) -> None:
        """Wrap what has to be wrapped. Applies the configuration file first, which may fail."""
        settings = self._settings
        self._tap_sinks()
        if settings["config"] is not None:
            self._configure(settings["config"], settings["directory"])
        self._wrap_logger()
        self._wrap_hooks()
        self._wrap_exits()
        self._watch_structlog()
        if settings["pid"] == os.getpid():
            # Now: at its end no thread can be started any more, should the first event come then. The many processes
            # that a run may cover besides, and that log nothing, neither start a thread nor open a file.
            self.sink.open()
        if hasattr(os, "register_at_fork"):
            self._wrap_forks()
            os.register_at_fork(after_in_child=self._after_fork)
        if not settings["children"]:
            _restore_environment(settings)
        # Registered before everything of the program's, it runs after: what its exit functions log is delivered too.
        atexit.register(self._at_exit)

    def _configure(self, path: str, directory: str) -> None:
        from ..bridge.config import configure

        # The file's relative paths mean the same in every process of the run. No other thread runs yet.
        here = os.getcwd()
        os.chdir(directory)
        try:
            configure(path)
        finally:
            os.chdir(here)

    def _wrap_logger(self) -> None:
        call_handlers = logging.Logger.callHandlers

        @functools.wraps(call_handlers)
        def call_handlers_and_route(logger: logging.Logger, record: logging.LogRecord) -> None:
            if isinstance(record, EventLogRecord) or not self.accepts(record):
                call_handlers(logger, record)
            elif is_internal():
                if not self._is_our_own_doing():
                    call_handlers(logger, record)
            elif self.replace:
                self.route(record, self._match(record))
            else:
                # The program's handlers come first: what an argument's __str__ does, it does for them, as without us.
                # The record is remembered as it is before formatters write their colours into it.
                before, send = record, None
                try:
                    before, send = _clone(record), self._match(record)
                except Exception as error:
                    selflog.report("run", "an odd record is routed as it is", error=f"{type(error).__name__}: {error}")
                try:
                    call_handlers(logger, record)
                finally:
                    self.route(before, send)

        logging.Logger.callHandlers = call_handlers_and_route  # type: ignore[method-assign, assignment]
        if self.floor is not None:
            self._lower_levels(self.floor)

    def _lower_levels(self, floor: int) -> None:
        """Lets records pass that the program's levels hold back: to the pipeline, not to the program's handlers."""
        is_enabled_for = logging.Logger.isEnabledFor
        handle = logging.Logger.handle
        # The question that was answered with yes against the program's levels: the record that follows it is ours only.
        forced = threading.local()

        @functools.wraps(is_enabled_for)
        def is_enabled_or_routed(logger: logging.Logger, level: int) -> bool:
            if is_enabled_for(logger, level):
                forced.answer = None
                return True
            if level >= floor and self.active and not is_internal():
                forced.answer = (logger, level)
                return True
            return False

        @functools.wraps(handle)
        def handle_or_route(logger: logging.Logger, record: logging.LogRecord) -> None:
            answer = getattr(forced, "answer", None)
            if answer is None or answer[0] is not logger or answer[1] != record.levelno:
                handle(logger, record)
                return
            forced.answer = None
            verdict: Any = logger.filter(record)
            if isinstance(verdict, logging.LogRecord):
                record = verdict
            if verdict:
                self.route(record, self._match(record))

        logging.Logger.isEnabledFor = is_enabled_or_routed  # type: ignore[method-assign, assignment]
        logging.Logger.handle = handle_or_route  # type: ignore[method-assign, assignment]

    def _tap_sinks(self) -> None:
        """Sends native events to the run's sinks, beside the sink of their context; and keeps what the run has caught
        at its source from reaching the same sink again over a handler or chain of the program's own."""
        original = guarded_log
        fed: dict[int, Any] = {}

        def from_context(sink: Any) -> Callable[[LogEvent], None]:
            log = original(sink)
            if sink is self.sink:
                return log

            def log_and_tap(event: LogEvent) -> None:
                is_routed = routing.get()
                if is_routed:
                    fed[id(sink)] = sink
                is_caught = event.origin is not None and not is_routed
                if self.active and not is_caught:
                    self._tap(event)
                if not (is_caught and id(sink) in fed) and not self.sink.owns(sink):
                    log(event)

            return log_and_tap

        def from_handler(sink: Any) -> Callable[[LogEvent], None]:
            log = original(sink)

            def log_once(event: LogEvent) -> None:
                if not self.active or not (id(sink) in fed or self.sink.owns(sink)):
                    log(event)

            return log_once

        context_module.guarded_log = from_context  # type: ignore[attr-defined]
        handlers_module.guarded_log = from_handler  # type: ignore[attr-defined]
        registry.get_root_log_context()._refresh()

    def _tap(self, event: LogEvent) -> None:
        if self.floor is not None and event.level < self.floor:
            return
        self._dirty = True
        self.sink.log(event)

    def _wrap_hooks(self) -> None:
        excepthook, unraisablehook, thread_excepthook = sys.excepthook, sys.unraisablehook, threading.excepthook

        def route_exception(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
            self._failed = value
            self._report_end(kind, value, trace, threading.current_thread().name)
            if kind is KeyboardInterrupt:
                _restore_interrupt()
            excepthook(kind, value, trace)

        def route_thread_exception(args: Any) -> None:
            if args.exc_type is not SystemExit:
                name = args.thread.name if args.thread is not None else None
                self._report_end(args.exc_type, args.exc_value, args.exc_traceback, name)
            thread_excepthook(args)

        def route_unraisable(args: Any) -> None:
            where = f"{args.err_msg or 'Exception ignored in'}: {_safe_repr(args.object)}"
            self._report(
                logging.ERROR, "program.unraisable", where, (args.exc_type, args.exc_value, args.exc_traceback), {}
            )
            unraisablehook(args)

        sys.excepthook = route_exception
        sys.unraisablehook = route_unraisable
        threading.excepthook = route_thread_exception

    def _wrap_exits(self) -> None:
        def before(function: Callable[..., Any], clean: bool) -> Callable[..., Any]:
            @functools.wraps(function)
            def deliver_first(*args: Any, **kwargs: Any) -> Any:
                self._deliver(_HASTY_EXIT_TIMEOUT)
                if clean:
                    self._remove_secrets()
                return function(*args, **kwargs)

            return deliver_first

        _replace(os, "_exit", before(os._exit, True))
        # The others (execl, execvpe, ...) call these two.
        _replace(os, "execv", before(os.execv, False))
        _replace(os, "execve", before(os.execve, False))
        self._wrap_signals()

    def _wrap_signals(self) -> None:
        """Delivers before the process ends itself by a signal: servers do so when they have shut down (uvicorn)."""
        kill, raise_signal = os.kill, signal.raise_signal

        @functools.wraps(kill)
        def deliver_and_kill(pid: int, number: int, /) -> None:
            if pid == os.getpid():
                self._before_signal(number)
            kill(pid, number)

        @functools.wraps(raise_signal)
        def deliver_and_raise(number: int, /) -> None:
            self._before_signal(number)
            raise_signal(number)

        _replace(os, "kill", deliver_and_kill)
        _replace(signal, "raise_signal", deliver_and_raise)

    def _before_signal(self, number: int) -> None:
        try:
            is_end = number and number not in _HARMLESS_SIGNALS and signal.getsignal(number) in (signal.SIG_DFL, None)
        except (TypeError, ValueError):  # no signal: the call itself says so
            return
        if is_end:
            self._deliver(_HASTY_EXIT_TIMEOUT)

    def _wrap_forks(self) -> None:
        """Keeps Python from warning of the threads that are ours only (since 3.12)."""
        if sys.version_info < (3, 12):
            return

        def quietly(fork: Callable[[], Any]) -> Callable[[], Any]:
            @functools.wraps(fork)
            def fork_quietly() -> Any:
                own = threading.current_thread()
                if not all(thread is own or _is_ours(thread) for thread in threading.enumerate()):
                    return fork()
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
                    return fork()

            return fork_quietly

        _replace(os, "fork", quietly(os.fork))
        _replace(os, "forkpty", quietly(os.forkpty))

    def _watch_structlog(self) -> None:
        # The program may never import structlog; then neither do we.
        base = sys.modules.get("structlog._base")
        if base is not None:
            self._tee_structlog(base)
        else:
            sys.meta_path.insert(0, _StructlogFinder(self._tee_structlog))

    def _tee_structlog(self, base: Any) -> None:
        from .structlog_tee import install

        install(self, base)

    # ------------------------------------------------------------------ routing

    def accepts(self, record: logging.LogRecord) -> bool:
        """True when the record is to be routed."""
        return self.active and (self.floor is None or record.levelno >= self.floor)

    def route(self, record: logging.LogRecord, send: Callable[[logging.LogRecord], None] | None = None) -> None:
        """Send a record through the pipeline. Never raises.

        Args:
            record: The record.
            send: What sends it instead, where it stands for an event of structlog.
        """
        self._dirty = True
        token = routing.set(True)
        try:
            (send or self._handler.handle)(record)
        except Exception as error:
            selflog.report("run", "a record could not be routed", error=f"{type(error).__name__}: {error}")
        finally:
            routing.reset(token)

    def emit(self, event: LogEvent, *, merge_ambient: bool = True) -> None:
        """Send an event, whose payload is as the program made it, through the pipeline. Never raises."""
        if not self.active or (self.floor is not None and event.level < self.floor):
            return
        self._dirty = True
        meta = event.meta
        token = routing.set(True)
        try:
            context = self._context or registry.nearest_log_context(meta.event_namespace or "")
            if context._accepts(event.level, meta):
                context._emit_fields(
                    event.level, meta, event.event_outcome, event.timestamp, event.payload,
                    event.message, event.exception, event.stack, event.origin, merge_ambient=merge_ambient,
                )  # fmt: skip
        except Exception as error:
            selflog.report("run", "an event could not be routed", error=f"{type(error).__name__}: {error}")
        finally:
            routing.reset(token)

    def _match(self, record: logging.LogRecord) -> Callable[[logging.LogRecord], None] | None:
        return None if self.match is None else self.match(record)

    def _is_our_own_doing(self) -> bool:
        # What a sink's worker or the making of an event logs would not have been logged without the run.
        return routing.get() or _is_ours(threading.current_thread())

    # ------------------------------------------------------------------ the end

    def _report_end(
        self, kind: type[BaseException], value: BaseException | None, trace: TracebackType | None, thread: str | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            level, name, message = logging.WARNING, "program.interrupted", "interrupted"
        else:
            level, name, message = logging.CRITICAL, "program.failed", f"uncaught {kind.__name__}: {_safe_str(value)}"
        self._report(level, name, message, (kind, value, trace), {"thread": thread})

    def _report(self, level: int, name: str, message: str, exc_info: Any, payload: dict[str, Any]) -> None:
        if not self.active or is_internal():
            return
        try:
            before = mark.value
            try:
                mark.value = True
                exception = build_exception(exc_info)
            finally:
                mark.value = before
            meta = LogEventMeta(NAMESPACE, name)
            payload = {"process": os.getpid(), **payload}
            self.emit(LogEvent(level, meta, None, time.time(), payload, message, exception))
        except Exception as error:
            selflog.report("run", "an exception could not be routed", error=type(error).__name__)

    def _after_fork(self) -> None:
        self._dirty = False
        self.sink.after_fork()
        if not self._settings["children"]:
            self.active = False

    def _at_exit(self) -> None:
        self._report_missed()
        self._deliver(_EXIT_TIMEOUT)
        self._remove_secrets()

    def _report_missed(self) -> None:
        """Reports the exception that ended the program where a hook of its own kept ours from seeing it."""
        error = getattr(sys, "last_value", None)
        if error is None or error is self._failed:
            return
        trace = getattr(error, "__traceback__", None)
        # Test runners and debuggers set `sys.last_value` too: an exception that ended the program began at its outermost
        # frame.
        main = sys.modules.get("__main__")
        if trace is not None and main is not None and trace.tb_frame.f_globals is getattr(main, "__dict__", None):
            self._report_end(type(error), error, trace, threading.main_thread().name)

    def _deliver(self, timeout: float) -> None:
        # A process that logged nothing, e.g. a fork that is about to exec, has nothing to wait for and may hold anything.
        if not self._dirty:
            return
        try:
            registry.flush(timeout)
        except Exception as error:
            selflog.report("run", "the last events could not be delivered", error=type(error).__name__)

    def _remove_secrets(self) -> None:
        settings = self._settings
        if settings["secrets"] is not None and settings["pid"] == os.getpid():
            import shutil

            shutil.rmtree(os.path.dirname(settings["secrets"]), ignore_errors=True)


class _StructlogFinder:
    """Calls back when ``structlog._base`` has been imported."""

    def __init__(self, imported: Callable[[Any], None]) -> None:
        self._imported = imported
        self._searching = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "structlog._base" or self._searching:
            return None
        import importlib.util

        self._searching = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._searching = False
        if spec is None or spec.loader is None:
            return spec
        exec_module = spec.loader.exec_module
        imported = self._imported

        def exec_and_tell(module: Any) -> None:
            exec_module(module)
            try:
                imported(module)
            except Exception as error:
                selflog.report("run", "structlog is not routed", error=f"{type(error).__name__}: {error}")

        spec.loader.exec_module = exec_and_tell  # type: ignore[method-assign]
        return spec


def _read_sinks(settings: Mapping[str, Any]) -> list[Any]:
    if settings["secrets"] is not None:
        with open(settings["secrets"], encoding="utf-8") as file:
            sinks: list[Any] = json.load(file)
        return sinks
    return list(settings["sinks"])


def _restore_environment(settings: Mapping[str, Any]) -> None:
    os.environ.pop(ENVIRONMENT_VARIABLE, None)
    if settings["pythonpath"] is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = settings["pythonpath"]


def _replace(module: Any, name: str, function: Callable[..., Any]) -> None:
    """Put a function in the place of another, also where it comes from (``posix``): pickle looks for it there."""
    original = getattr(module, name)
    for holder in (module, sys.modules.get(original.__module__)):
        if getattr(holder, name, None) is original:
            setattr(holder, name, function)


def _clone(record: logging.LogRecord) -> logging.LogRecord:
    if type(record) is not logging.LogRecord:
        return copy.copy(record)
    clone = logging.LogRecord.__new__(logging.LogRecord)
    clone.__dict__.update(record.__dict__)
    return clone


def _is_ours(thread: threading.Thread) -> bool:
    return thread.name.startswith("mvx-logger-")


def _restore_interrupt() -> None:
    # Python ends by SIGINT when KeyboardInterrupt ends the program, and remembers that in a flag which any evaluation of
    # source text clears (namedtuple does that, so imports do). An evaluation that ends so sets it again.
    try:
        exec("raise KeyboardInterrupt")  # noqa: S102
    except KeyboardInterrupt:
        pass


def _safe_str(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _safe_repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
