"""The process around the sinks: its forks and its end.

Every asynchronous sink registers itself here. In a forked child each starts afresh. At the end of the main thread, and
again at the end of the interpreter, what was accepted is delivered within the sinks' deadlines, whatever the backends
do.
"""

from __future__ import annotations

import atexit

# Its hook refuses work for the executors, and the last hook that is registered runs first: ours has to come after it.
import concurrent.futures.thread  # noqa: F401
import os
import threading
import time
from typing import Protocol
from weakref import ref

from .. import selflog

__all__ = ["hold", "is_ending", "let_go", "live_sinks", "register", "running_sinks", "set_shutdown_timeout"]


class _Sink(Protocol):
    def _after_fork_in_child(self) -> None: ...
    def _exit_timeout(self) -> float: ...
    def _close_within(self, timeout: float) -> None: ...
    def _join(self, deadline: float) -> None: ...
    def flush(self, timeout: float | None = None) -> bool: ...


# Plain dicts, of which copies are made in one step: sinks come and go in any thread, and when the garbage collector runs.
_sinks: dict[int, ref[_Sink]] = {}
_running: dict[int, _Sink] = {}
_gave_up_at: float | None = None
_ending = False
_timeout = float("inf")


def set_shutdown_timeout(seconds: float | None) -> None:
    """Limit what all sinks together may take of the end of the process, whatever their own ``shutdown_timeout`` says.

    Sinks deliver side by side, so that without a limit the end takes as long as the most patient of them.

    Args:
        seconds: 0 or more; None takes the limit away, which is the default.

    Raises:
        TypeError: It is not a number.
        ValueError: It is less than 0.
    """
    global _timeout
    if seconds is None:
        _timeout = float("inf")
        return
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"seconds: expected a number or None, got {type(seconds).__name__}")
    if not seconds >= 0:
        raise ValueError(f"seconds: expected 0 or more, got {seconds}")
    _timeout = float(seconds)


def register(sink: _Sink) -> None:
    """Look after the sink for as long as it lives."""
    number = id(sink)
    _sinks[number] = ref(sink, lambda _: _sinks.pop(number, None))


def hold(sink: _Sink) -> None:
    """Keep the sink alive while its worker runs: event loops hold their tasks by weak references only."""
    _running[id(sink)] = sink


def let_go(sink: _Sink) -> None:
    """Its worker has ended."""
    _running.pop(id(sink), None)


def live_sinks() -> list[_Sink]:
    """Every asynchronous sink of this process."""
    return [sink for entry in list(_sinks.values()) if (sink := entry()) is not None]


def running_sinks() -> list[_Sink]:
    """Every asynchronous sink of this process whose worker runs."""
    return list(_running.values())


def is_ending() -> bool:
    """True when the interpreter's end has come so far that the sinks are closed."""
    return _ending


def _after_fork_in_child() -> None:
    global _gave_up_at, _ending
    _gave_up_at, _ending = None, False
    for sink in live_sinks():
        try:
            sink._after_fork_in_child()
        except Exception as err:  # the others have to begin afresh all the same
            selflog.report("fork", "a sink failed to begin afresh", sink=repr(sink), error=type(err).__name__)


def _on_main_thread_end() -> None:
    # Before the executors of concurrent.futures refuse work and before non-daemon threads are joined: these may go
    # on logging for hours, so the sinks stay open. multiprocessing's children, which run no atexit callback, come by
    # here as well.
    global _gave_up_at
    began = time.monotonic()
    sinks = live_sinks()
    for sink in sinks:
        _flush(sink, 0.0)
    for sink in sinks:
        if not _flush(sink, max(0.0, began + min(_timeout, sink._exit_timeout()) - time.monotonic())):
            _gave_up_at = time.monotonic()


def _flush(sink: _Sink, timeout: float) -> bool:
    try:
        return sink.flush(timeout)
    except Exception as err:  # of a subclass' own making
        selflog.report("flush", "a sink failed to flush", sink=repr(sink), error=type(err).__name__)
        return False


def _on_exit() -> None:
    global _ending
    _ending = True
    selflog.prepare_for_exit()
    sinks = live_sinks()
    now = time.monotonic()
    # The deadline is for the end of the process as a whole, however many hooks it runs through.
    limit = _timeout if _gave_up_at is None else min(_timeout, max(0.1, now - _gave_up_at))
    for sink in sinks:
        sink._close_within(limit)
    for sink in sinks:
        sink._join(now + min(limit, sink._exit_timeout()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_on_exit)
try:
    threading._register_atexit(_on_main_thread_end)  # type: ignore[attr-defined]
except (AttributeError, RuntimeError):  # another interpreter, or imported while this one ends: atexit has to do
    pass
