"""Values that belong to the current task or thread and appear on every event: structlog's context variables.

The core does not import structlog: where the program has not, nothing can be bound.
"""

from __future__ import annotations

import sys
from contextvars import copy_context
from typing import Any

__all__ = ["get_ambient"]


def get_ambient() -> dict[str, Any] | None:
    """What `structlog.contextvars` has bound here; None or an empty dict when there is nothing."""
    module = sys.modules.get("structlog.contextvars")
    # A module that is still being imported has no functions yet.
    if module is None or not copy_context() or (get_contextvars := getattr(module, "get_contextvars", None)) is None:
        return None
    bound: dict[str, Any] = get_contextvars()
    return bound
