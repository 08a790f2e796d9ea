"""The marks that keep the logger from feeding on itself.

While a record is being turned into an event and while a synchronous sink delivers, the thread is marked; everything that
the worker of an asynchronous sink runs has a mark in its context (a `contextvars.ContextVar`), which a client library's own
tasks inherit. What is logged under a mark never enters a sink again: it goes to `mvx_logger.selflog`.

The mark of a thread is an attribute, because it is set for each event, at any instruction of which a signal handler
may raise, memory may end, and a finalizer may log: ``ContextVar.set`` comes with a token that is lost then, and in Python
3.11 it must not be called from inside of itself. So it is set in a ``try`` whose ``finally`` puts back what was there::

    before = mark.value
    try:
        mark.value = True
        ...
    finally:
        mark.value = before

Whoever forwards an accepted event on purpose (a sink that leads to a handler that leads to another sink) lifts the mark
for that one call: see `forwarding_log`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from types import MethodType
from typing import Any

from . import selflog
from .model import LogEvent

__all__ = [
    "find_offer",
    "forwarding_log",
    "guarded_log",
    "internal",
    "is_internal",
    "mark",
    "offers",
    "report_recursion",
    "run_marked",
]


class _Mark(threading.local):
    value: bool | None = None


mark = _Mark()
"""``mark.value`` is True where what this thread logs is the logger's own doing, False where it is forwarded on purpose, and
None where the context says."""
internal: ContextVar[bool] = ContextVar("mvx_logger_internal", default=False)
"""True in the context of a worker, and of everything that it starts."""


def is_internal() -> bool:
    """True where what is logged is the logger's own doing."""
    value = mark.value
    return internal.get() if value is None else value


def run_marked(func: Callable[[LogEvent], object], event: LogEvent) -> None:
    """Call foreign code with an event, such that neither what it logs nor what its tasks log comes back."""
    before = mark.value
    try:
        mark.value = True
        # In a context of its own, so that nothing has to be put back.
        context = copy_context()
        context.run(internal.set, True)
        context.run(func, event)
    finally:
        mark.value = before


def report_recursion(namespace: str | None, event_name: str) -> None:
    """Tell that something was logged while the logger was at work, and was kept from entering it again."""
    selflog.report(
        "recursion",
        "logged by the logging path itself; not delivered",
        event=f"{namespace}: {event_name}" if namespace else event_name,
    )


def guarded_log(sink: Any) -> Callable[[LogEvent], None]:
    """The ``log`` of a sink, such that what the sink itself logs does not come back to any sink.

    A class that sees to this itself says so with the class attribute ``guards_itself = True``: then nothing is added.
    """
    log: Callable[[LogEvent], None] = sink.log
    if getattr(type(sink), "guards_itself", False):
        return log

    def log_guarded(event: LogEvent) -> None:
        if is_internal():
            report_recursion(event.meta.event_namespace, event.meta.event_name)
            return
        run_marked(log, event)

    return log_guarded


offers: dict[Any, Callable[[Any, LogEvent], bool]] = {}
"""The quick way for light events past a ``log`` method, by the very function that is passed by: never the one of a
subclass, or one that was put in its place. It accepts the event at once, or returns False and has done nothing."""


def find_offer(log: Callable[[LogEvent], None]) -> Callable[[LogEvent], bool] | None:
    """The quick way into the sink whose own ``log`` this is; None where there is none."""
    if not isinstance(log, MethodType):
        return None
    offer = offers.get(log.__func__)
    return None if offer is None else MethodType(offer, log.__self__)


def forwarding_log(log: Callable[[LogEvent], None], event: LogEvent) -> None:
    """Hand on an event that was accepted before, from inside of a sink."""
    before = mark.value
    try:
        mark.value = False
        log(event)
    finally:
        mark.value = before
