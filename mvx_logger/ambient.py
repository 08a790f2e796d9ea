"""Values that belong to the current task or thread and appear on every event.

Those are structlog's context variables, always, and the ids of OpenTelemetry's current span where `capture_trace_context`
has switched that on. The core imports neither: where the program has not, nothing can be bound.
"""

from __future__ import annotations

import sys
from contextvars import copy_context
from typing import Any
from weakref import ref

__all__ = ["add_trace_context", "capture", "capture_trace_context", "get_ambient"]


class _Capture:
    """Whether events take the ids of the current span along."""

    __slots__ = ("__weakref__", "active", "holders")

    def __init__(self) -> None:
        self.active = False
        self.holders: set[ref[object]] = set()

    def update(self, *, add: ref[object] | None = None, remove: ref[object] | None = None) -> None:
        if add is not None:
            self.holders.add(add)
        if remove is not None:
            self.holders.discard(remove)
        self.active = bool(self.holders)

    def forget(self, holder: ref[object]) -> None:
        """A holder was collected."""
        self.update(remove=holder)


capture = _Capture()
"""Read by those who make events: one attribute, and nothing else happens while it is off."""


def capture_trace_context(enabled: bool = True, *, holder: object | None = None) -> None:
    """Let every event that is logged inside of a span of OpenTelemetry carry its ids, whatever sink it goes to.

    The payload gets ``trace_id`` and ``span_id`` (32 and 16 hexadecimal digits) and ``trace_flags`` (two), as the
    specification has it for logs in other formats than OTLP, where it has no ``trace_id`` yet. An `OtlpLogSink` switches
    this on by itself. Where ``opentelemetry-api`` is not installed, it does nothing.

    Args:
        enabled: On or off.
        holder: Who wants it: it is on while anybody does who has not ended; None is the program itself.
    """
    owner = capture if holder is None else holder
    if enabled and _is_installed():
        capture.update(add=ref(owner, capture.forget))
    else:
        capture.update(remove=ref(owner))


def _is_installed() -> bool:
    from importlib.util import find_spec

    try:
        return find_spec("opentelemetry.trace") is not None
    except ImportError:
        return False


def add_trace_context(target: dict[str, Any]) -> None:
    """Add the ids of the current span, if there is one; a ``trace_id`` that is there already stays. Never raises."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or "trace_id" in target:
        return
    try:
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            target["trace_id"] = f"{span.trace_id:032x}"
            target["span_id"] = f"{span.span_id:016x}"
            target["trace_flags"] = f"{span.trace_flags & 0xFF:02x}"
    except Exception:  # noqa: S110 - a module that is still being imported; a span of somebody's own making
        pass


def get_ambient() -> dict[str, Any] | None:
    """What `structlog.contextvars` has bound here, and the current span's ids; None or an empty dict when there is
    nothing."""
    if not copy_context():  # neither has a value then
        return None
    bound: dict[str, Any] | None = None
    module = sys.modules.get("structlog.contextvars")
    # A module that is still being imported has no functions yet.
    if module is not None and (get_contextvars := getattr(module, "get_contextvars", None)) is not None:
        bound = get_contextvars()
    if capture.active:
        bound = {} if bound is None else bound
        add_trace_context(bound)
    return bound
