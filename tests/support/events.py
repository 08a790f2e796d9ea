"""Events for tests."""

from __future__ import annotations

from typing import Any

from mvx_logger import LogEvent, LogEventMeta

MOMENT = 1_778_596_225.000123  # 2026-05-12T14:30:25.000123Z
_OF_META = ("entity_id", "source_path", "source_line", "source_func")


def make_event(name: str = "app.started", namespace: str | None = "shop", level: int = 20, **fields: Any) -> LogEvent:
    """An event; other fields of it, and of its meta, by their names."""
    meta = {key: fields.pop(key) for key in _OF_META if key in fields}
    values: dict[str, Any] = {"event_outcome": None, "timestamp": MOMENT, "payload": {}}
    return LogEvent(level=level, meta=LogEventMeta(namespace, name, **meta), **(values | fields))


def make_numbered(number: int) -> LogEvent:
    """One of many, with its number in its name, its time and its payload."""
    return make_event(f"event.{number}", timestamp=1_780_000_000.0 + number, payload={"number": number})
