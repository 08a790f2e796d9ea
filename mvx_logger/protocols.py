"""What a sink, a policy, a payload processor and a context must offer.

The protocols are runtime-checkable and are checked where something is configured, never per event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from msgspec import Struct

from .model import LogEvent, LogEventMeta

__all__ = [
    "LogAdapter",
    "LogAdapterResolver",
    "LogContextProto",
    "LogContextProviderProto",
    "LogEntityIdProviderProto",
    "LogEventPolicyProto",
    "LogPayloadProcessorProto",
    "LogPayloadProvider",
    "LogSinkClassProto",
    "LogSinkDescriptor",
    "LogSinkProto",
    "LogSinkTerminator",
]

LogSinkTerminator: TypeAlias = Callable[[], None]
"""Ends a sink: delivers or accounts for what it accepted, releases what it holds. Idempotent."""

LogAdapter: TypeAlias = Callable[[Any, str], "dict[str, Any]"]
"""Describes a foreign value: called with the value and the verbosity (``"MINIMAL"``, ``"NORMAL"``, ``"MAXIMUM"``)."""


class LogSinkDescriptor(Struct, frozen=True):
    """What a sink is, where it delivers, and how it is configured. Hashable; never holds a secret in the clear.

    Attributes:
        sink_type: The kind of sink, e.g. ``"sqlite"``.
        resource_key: Identifies the destination, e.g. ``("/var/log/events.db",)``.
        config_key: Everything else that makes two sinks on one destination differ.
    """

    sink_type: str
    resource_key: tuple[Any, ...]
    config_key: tuple[Any, ...] = ()

    def to_log_payload(self) -> dict[str, Any]:
        """The descriptor as plain data."""
        return {
            "sink_type": self.sink_type,
            "resource_key": list(self.resource_key),
            "config_key": list(self.config_key),
        }


@runtime_checkable
class LogSinkProto(Protocol):
    """Anything that takes an event."""

    def log(self, event: LogEvent) -> None:
        """Deliver the event, or accept it for delivery."""
        ...


@runtime_checkable
class LogSinkClassProto(Protocol):
    """A sink class that can be registered by `configure_log_sink`."""

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        """Validate the options and say what they describe, without creating anything."""
        ...

    @classmethod
    def create(cls, **kwargs: Any) -> tuple[Any, LogSinkTerminator]:
        """Make a ready sink and the callable that ends it."""
        ...


@runtime_checkable
class LogEventPolicyProto(Protocol):
    """Decides which events are logged."""

    def is_event_enabled(self, event: LogEventMeta) -> bool:
        """True when the event is to be logged."""
        ...


@runtime_checkable
class LogPayloadProcessorProto(Protocol):
    """Turns what the caller passed as payload into plain, bounded data."""

    def normalize_payload(self, payload: Any, *, unbounded: bool = False) -> dict[str, Any]:
        """The payload as a dict of plain data; ``unbounded`` lifts the limit on items."""
        ...

    def normalize_value_for_log(self, value: Any, *, unbounded: bool = False) -> Any:
        """One value as plain data."""
        ...

    def get_plain_verbosity_level(self) -> str | None:
        """The verbosity as a str: ``"MINIMAL"``, ``"NORMAL"``, ``"MAXIMUM"``, or None."""
        ...


@runtime_checkable
class LogPayloadProvider(Protocol):
    """An object that describes itself."""

    def to_log_payload(self) -> dict[str, Any]:
        """The description; it is used as it is."""
        ...


@runtime_checkable
class LogAdapterResolver(Protocol):
    """Finds the `LogAdapter` of a foreign value."""

    def __call__(self, value: Any) -> LogAdapter | None:
        """The adapter that describes the value, or None when there is none."""
        ...


@runtime_checkable
class LogContextProto(Protocol):
    """What `log_invocation` needs of a context."""

    def log_event(
        self,
        event: str,
        level: int,
        payload: Mapping[str, Any] | LogPayloadProvider | None = None,
        *,
        event_namespace: str | None = None,
        event_outcome: str | None = None,
        entity_id: str | None = None,
        source_path: str | None = None,
        source_line: int | None = None,
        source_func: str | None = None,
        skip_payload_normalization: bool = False,
    ) -> None:
        """Log one event."""
        ...

    def is_event_enabled(self, meta: LogEventMeta) -> bool:
        """True when the context's policy lets the event pass."""
        ...

    def normalize_value_for_log(self, value: Any, *, unbounded: bool = False) -> Any:
        """One value as plain data."""
        ...

    def get_plain_verbosity_level(self) -> str | None:
        """The verbosity as a str, or None."""
        ...

    def build_error_payload(self, err: BaseException) -> dict[str, Any]:
        """The error as a payload."""
        ...

    def is_error_logged(self, err: BaseException) -> bool:
        """True when the error was reported in full before."""
        ...

    def mark_error_logged(self, err: BaseException) -> None:
        """Remember that the error was reported in full."""
        ...


@runtime_checkable
class LogContextProviderProto(Protocol):
    """An object whose decorated methods log to a context of its own."""

    def get_log_context(self) -> LogContextProto | None:
        """The context, or None to log nothing for this call."""
        ...


@runtime_checkable
class LogEntityIdProviderProto(Protocol):
    """An object that knows which entity it is."""

    @property
    def entity_id(self) -> str | None:
        """The entity's id."""
        ...
