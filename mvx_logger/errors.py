"""Every error that the package raises, each with a stable ``reason_code``.

Texts and details never hold a secret: they name keys, types and places, and quote values only where
the code that raises has made sure that they are harmless.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any, ClassVar

__all__ = [
    "AsyncioLogSinkDispatcherCancelledError",
    "AsyncioLogSinkError",
    "AsyncioLogSinkErrorReason",
    "AsyncioLogSinkEventLoopUnavailableError",
    "AsyncioLogSinkInvalidStateError",
    "AsyncioLogSinkOnStartingHookFailedError",
    "AsyncioLogSinkOnStoppedHookFailedError",
    "AsyncioLogSinkQueueOverflowError",
    "AsyncioLogSinkUnexpectedError",
    "LogConfigurationError",
    "LogContextNotFoundError",
    "LogContextResetError",
    "LogContextUnableToLog",
    "LogDeliveryError",
    "LogDeliveryPartialError",
    "LogDeliveryRefusedError",
    "LogDeliveryTransientError",
    "LogSinkCloseError",
    "LogSinkConfigurationConflictError",
    "LogSinkCreateError",
    "LogSinkDescriptorBuildError",
    "LogSinkIsInUseError",
    "LogSinkNotFoundError",
    "LoggerError",
    "ModuleAliasError",
]


class LoggerError(Exception):
    """Base of all errors of this package.

    Attributes:
        reason_code: A stable identifier for programs to branch on.
        details: Plain data about the place and the cause; never a secret.
        cause: The exception behind this one, if there is one (also chained as ``__cause__``).
    """

    reason_code: ClassVar[str] = "logger_error"

    def __init__(
        self, message: str, *, details: Mapping[str, Any] | None = None, cause: BaseException | None = None
    ) -> None:
        super().__init__(message)
        self.details: dict[str, Any] = dict(details or {})
        self.cause = cause
        if cause is not None:
            self.__cause__ = cause

    def to_log_payload(self) -> dict[str, Any]:
        """The error as a payload: ``kind``, ``code``, ``message``, ``details`` and ``cause`` where there is one."""
        payload: dict[str, Any] = {"kind": type(self).__name__, "code": self.reason_code, "message": str(self)}
        if self.details:
            payload["details"] = dict(self.details)
        if self.cause is not None:
            payload["cause"] = type(self.cause).__name__
        return payload


class LogContextUnableToLog(LoggerError):  # noqa: N818 - the contract's name
    """A context with `LogErrorHandlingPolicy.RAISE` could not log an event; the cause is chained."""

    reason_code = "log_context_unable_to_log"


class LogContextResetError(LoggerError):
    """A root context was asked to give up what only a child can inherit."""

    reason_code = "log_context_reset"


class LogContextNotFoundError(LoggerError, LookupError):
    """No context is configured under the namespace."""

    reason_code = "log_context_not_found"


class LogSinkNotFoundError(LoggerError, LookupError):
    """No sink is configured under the name."""

    reason_code = "log_sink_not_found"


class LogSinkConfigurationConflictError(LoggerError):
    """The name is taken by a sink with another descriptor."""

    reason_code = "log_sink_configuration_conflict"


class LogSinkDescriptorBuildError(LoggerError):
    """``build_descriptor`` of a sink class failed or returned something else; nothing was registered."""

    reason_code = "log_sink_descriptor_build_failed"


class LogSinkCreateError(LoggerError):
    """``create`` of a sink class failed or returned something else; nothing was registered."""

    reason_code = "log_sink_create_failed"


class LogSinkIsInUseError(LoggerError):
    """The sink cannot be closed: contexts hold it locally (``details["namespaces"]``)."""

    reason_code = "log_sink_is_in_use"


class LogSinkCloseError(LoggerError):
    """The terminator of a sink failed; the sink is no longer registered."""

    reason_code = "log_sink_close_failed"


class LogConfigurationError(LoggerError, ValueError):
    """A configuration is wrong: the text names the path to what is wrong and what would be right."""

    reason_code = "log_configuration"


class ModuleAliasError(LoggerError, ImportError):
    """`install_as` would have hidden a real package."""

    reason_code = "module_alias"


class AsyncioLogSinkErrorReason(Enum):
    """Why an asynchronous sink raised or recorded an `AsyncioLogSinkError`."""

    EVENT_LOOP_UNAVAILABLE = "event_loop_unavailable"
    INVALID_STATE = "invalid_state"
    ON_STARTING_HOOK_FAILED = "on_starting_hook_failed"
    ON_STOPPED_HOOK_FAILED = "on_stopped_hook_failed"
    QUEUE_OVERFLOW = "queue_overflow"
    DISPATCHER_CANCELLED = "dispatcher_cancelled"
    UNEXPECTED = "unexpected"


class AsyncioLogSinkError(LoggerError):
    """Base of the errors of asynchronous sinks.

    Attributes:
        reason: The `AsyncioLogSinkErrorReason`.
    """

    reason_code = "asyncio_log_sink"
    reason: ClassVar[AsyncioLogSinkErrorReason] = AsyncioLogSinkErrorReason.UNEXPECTED


class AsyncioLogSinkEventLoopUnavailableError(AsyncioLogSinkError):
    """A sink was constructed directly where no event loop runs, or its loop is closed."""

    reason_code = "asyncio_log_sink_event_loop_unavailable"
    reason = AsyncioLogSinkErrorReason.EVENT_LOOP_UNAVAILABLE


class AsyncioLogSinkInvalidStateError(AsyncioLogSinkError):
    """The operation does not fit the state that the sink is in."""

    reason_code = "asyncio_log_sink_invalid_state"
    reason = AsyncioLogSinkErrorReason.INVALID_STATE


class AsyncioLogSinkOnStartingHookFailedError(AsyncioLogSinkError):
    """``_on_starting`` raised: the sink did not start."""

    reason_code = "asyncio_log_sink_on_starting_hook_failed"
    reason = AsyncioLogSinkErrorReason.ON_STARTING_HOOK_FAILED


class AsyncioLogSinkOnStoppedHookFailedError(AsyncioLogSinkError):
    """``_on_stopped`` raised: what the hook releases may still be held."""

    reason_code = "asyncio_log_sink_on_stopped_hook_failed"
    reason = AsyncioLogSinkErrorReason.ON_STOPPED_HOOK_FAILED


class AsyncioLogSinkQueueOverflowError(AsyncioLogSinkError):
    """The queue is full and its policy is to raise: the event was not accepted."""

    reason_code = "asyncio_log_sink_queue_overflow"
    reason = AsyncioLogSinkErrorReason.QUEUE_OVERFLOW


class AsyncioLogSinkDispatcherCancelledError(AsyncioLogSinkError):
    """The worker was cancelled from outside."""

    reason_code = "asyncio_log_sink_dispatcher_cancelled"
    reason = AsyncioLogSinkErrorReason.DISPATCHER_CANCELLED


class AsyncioLogSinkUnexpectedError(AsyncioLogSinkError):
    """Something else went wrong in the worker; the cause is chained."""

    reason_code = "asyncio_log_sink_unexpected"
    reason = AsyncioLogSinkErrorReason.UNEXPECTED


class LogDeliveryError(LoggerError):
    """Base of what a sink raises from ``_dispatch_*`` to say how a delivery failed."""

    reason_code = "log_delivery"


class LogDeliveryTransientError(LogDeliveryError):
    """The destination is down, busy or slow: the same events may pass later.

    Attributes:
        retry_after: Seconds that the destination asked to be left alone; None where it said nothing.
    """

    reason_code = "log_delivery_transient"

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        details: Mapping[str, Any] | None = None,
        cause: BaseException | None = None,
    ) -> None:
        told = {} if retry_after is None else {"retry_after": retry_after}
        super().__init__(message, details={**told, **(details or {})}, cause=cause)
        self.retry_after = retry_after


class LogDeliveryRefusedError(LogDeliveryError):
    """The destination refuses the content: trying the same events again is no use."""

    reason_code = "log_delivery_refused"


class LogDeliveryPartialError(LogDeliveryError):
    """The destination has taken a part of the batch: all events but those that are named here.

    Attributes:
        refused: Indices of events in the batch that are refused for good, each with the reason that was given.
        retry: Indices of events that may pass later.
        retry_after: Seconds that the destination asked to be left alone; None where it said nothing.
    """

    reason_code = "log_delivery_partial"

    def __init__(
        self,
        message: str,
        *,
        refused: Mapping[int, str] | None = None,
        retry: Collection[int] = (),
        retry_after: float | None = None,
        details: Mapping[str, Any] | None = None,
        cause: BaseException | None = None,
    ) -> None:
        self.refused = dict(refused or {})
        self.retry = tuple(retry)
        self.retry_after = retry_after
        counts = {"refused": len(self.refused), "retry": len(self.retry)}
        told = {name: count for name, count in counts.items() if count}
        super().__init__(message, details={**told, **(details or {})}, cause=cause)
