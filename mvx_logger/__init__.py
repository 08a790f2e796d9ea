"""mvx-logger: one pipeline for standard library, structlog and native structured events.

``user code -> LogContext -> LogEvent -> sink -> destination``, with bridges in both directions. What needs asyncio,
structlog or an optional package is loaded on first use; importing this package starts no thread and no event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# Before anything else is imported: msgspec has a complaint of its own that helps nobody. No signal has the number 0, so
# this changes nothing and fails, after a microsecond: in the main thread of the main interpreter because of the number,
# elsewhere because signals are not handled there.
try:
    __import__("_signal").signal(0, 0)
except ValueError as _reason:
    if "out of range" not in str(_reason):
        from . import _interpreter  # noqa: F401 - an ImportError in a sub-interpreter

from .context import LogContext, LogErrorHandlingPolicy
from .errors import (
    AsyncioLogSinkDispatcherCancelledError,
    AsyncioLogSinkError,
    AsyncioLogSinkErrorReason,
    AsyncioLogSinkEventLoopUnavailableError,
    AsyncioLogSinkInvalidStateError,
    AsyncioLogSinkOnStartingHookFailedError,
    AsyncioLogSinkOnStoppedHookFailedError,
    AsyncioLogSinkQueueOverflowError,
    AsyncioLogSinkUnexpectedError,
    LogConfigurationError,
    LogContextNotFoundError,
    LogContextResetError,
    LogContextUnableToLog,
    LogDeliveryError,
    LogDeliveryPartialError,
    LogDeliveryRefusedError,
    LogDeliveryTransientError,
    LoggerError,
    LogSinkCloseError,
    LogSinkConfigurationConflictError,
    LogSinkCreateError,
    LogSinkDescriptorBuildError,
    LogSinkIsInUseError,
    LogSinkNotFoundError,
    ModuleAliasError,
)
from .model import LogEvent, LogEventMeta, LogEventOrigin, LogException, LogLevel, LogStack
from .payload import LogPayloadProcessor, LogVerbosityLevel
from .protocols import (
    LogAdapter,
    LogAdapterResolver,
    LogContextProto,
    LogContextProviderProto,
    LogEntityIdProviderProto,
    LogEventPolicyProto,
    LogPayloadProcessorProto,
    LogPayloadProvider,
    LogSinkClassProto,
    LogSinkDescriptor,
    LogSinkProto,
    LogSinkTerminator,
)
from .registry import (
    close_log_sink,
    configure_log_context,
    configure_log_sink,
    flush,
    get_configured_log_sink_names,
    get_log_context,
    get_log_context_namespaces,
    get_log_sink,
    get_root_log_context,
    has_configured_log_sinks,
    has_log_context,
    nearest_log_context,
    reset_log_contexts,
    reset_logger,
    stats,
)
from .sinks.stream import LoggingStreamConfig, LogStreamOutput, StreamLogSink

if TYPE_CHECKING:
    from .alias import install_as
    from .bridge.config import configure, sink_from_url
    from .bridge.handler_sinks import AsyncHandlerSink, HandlerSink, LoggerSink
    from .bridge.handlers import LogContextHandler, SinkHandler
    from .bridge.records import EventLogRecord
    from .bridge.structlog import PipelineRenderer, PipelineTee, StructlogLoggerFactory, configure_structlog
    from .delivery.dead_letter import DeadLetter, is_dead_letter, split_dead_letter
    from .delivery.process import set_shutdown_timeout
    from .delivery.sink import (
        AsyncioLogSink,
        AsyncioLogSinkErrorPolicy,
        AsyncioLogSinkOp,
        AsyncioLogSinkOpResult,
        AsyncioLogSinkQueueOverflowPolicy,
        AsyncioLogSinkState,
        AsyncioLogSinkWaitHandle,
        LogDeliveryErrorKind,
        LogEventBatch,
    )
    from .delivery.stats import LogLatency, LogSinkStats
    from .invocation import LogErrorRule, log_invocation
    from .metrics import register_opentelemetry, register_prometheus
    from .policy import (
        PatternLogEventPolicy,
        PatternLogEventPolicyAction,
        PatternLogEventPolicyConfig,
        PatternLogEventPolicyRuleConfig,
    )
    from .sinks.combinators import FallbackSink, FanOutSink, FilterSink
    from .sinks.dead_letter import DeadLetterFile
    from .sinks.file import FileLogSink, LoggingFileConfig
    from .sinks.memory import MemoryLogSink
    from .sinks.sqlite import SqliteLogSink
    from .sinks.structlog_sink import StructlogSink

__version__ = "0.1.0"

_LAZY = {
    "AsyncHandlerSink": "bridge.handler_sinks",
    "AsyncioLogSink": "delivery.sink",
    "AsyncioLogSinkErrorPolicy": "delivery.sink",
    "AsyncioLogSinkOp": "delivery.sink",
    "AsyncioLogSinkOpResult": "delivery.sink",
    "AsyncioLogSinkQueueOverflowPolicy": "delivery.sink",
    "AsyncioLogSinkState": "delivery.sink",
    "AsyncioLogSinkWaitHandle": "delivery.sink",
    "DeadLetter": "delivery.dead_letter",
    "DeadLetterFile": "sinks.dead_letter",
    "EventLogRecord": "bridge.records",
    "FallbackSink": "sinks.combinators",
    "FanOutSink": "sinks.combinators",
    "FileLogSink": "sinks.file",
    "FilterSink": "sinks.combinators",
    "HandlerSink": "bridge.handler_sinks",
    "LogContextHandler": "bridge.handlers",
    "LogDeliveryErrorKind": "delivery.sink",
    "LogErrorRule": "invocation",
    "LogEventBatch": "delivery.sink",
    "LogLatency": "delivery.stats",
    "LogSinkStats": "delivery.stats",
    "LoggerSink": "bridge.handler_sinks",
    "LoggingFileConfig": "sinks.file",
    "MemoryLogSink": "sinks.memory",
    "PatternLogEventPolicy": "policy",
    "PatternLogEventPolicyAction": "policy",
    "PatternLogEventPolicyConfig": "policy",
    "PatternLogEventPolicyRuleConfig": "policy",
    "PipelineRenderer": "bridge.structlog",
    "PipelineTee": "bridge.structlog",
    "SinkHandler": "bridge.handlers",
    "SqliteLogSink": "sinks.sqlite",
    "StructlogLoggerFactory": "bridge.structlog",
    "StructlogSink": "sinks.structlog_sink",
    "configure": "bridge.config",
    "configure_structlog": "bridge.structlog",
    "install_as": "alias",
    "is_dead_letter": "delivery.dead_letter",
    "log_invocation": "invocation",
    "register_opentelemetry": "metrics",
    "register_prometheus": "metrics",
    "set_shutdown_timeout": "delivery.process",
    "sink_from_url": "bridge.config",
    "split_dead_letter": "delivery.dead_letter",
}

__all__ = [
    "AsyncHandlerSink",
    "AsyncioLogSink",
    "AsyncioLogSinkDispatcherCancelledError",
    "AsyncioLogSinkError",
    "AsyncioLogSinkErrorPolicy",
    "AsyncioLogSinkErrorReason",
    "AsyncioLogSinkEventLoopUnavailableError",
    "AsyncioLogSinkInvalidStateError",
    "AsyncioLogSinkOnStartingHookFailedError",
    "AsyncioLogSinkOnStoppedHookFailedError",
    "AsyncioLogSinkOp",
    "AsyncioLogSinkOpResult",
    "AsyncioLogSinkQueueOverflowError",
    "AsyncioLogSinkQueueOverflowPolicy",
    "AsyncioLogSinkState",
    "AsyncioLogSinkUnexpectedError",
    "AsyncioLogSinkWaitHandle",
    "DeadLetter",
    "DeadLetterFile",
    "EventLogRecord",
    "FallbackSink",
    "FanOutSink",
    "FileLogSink",
    "FilterSink",
    "HandlerSink",
    "LogAdapter",
    "LogAdapterResolver",
    "LogConfigurationError",
    "LogContext",
    "LogContextHandler",
    "LogContextNotFoundError",
    "LogContextProto",
    "LogContextProviderProto",
    "LogContextResetError",
    "LogContextUnableToLog",
    "LogDeliveryError",
    "LogDeliveryErrorKind",
    "LogDeliveryPartialError",
    "LogDeliveryRefusedError",
    "LogDeliveryTransientError",
    "LogEntityIdProviderProto",
    "LogErrorHandlingPolicy",
    "LogErrorRule",
    "LogEvent",
    "LogEventBatch",
    "LogEventMeta",
    "LogEventOrigin",
    "LogEventPolicyProto",
    "LogException",
    "LogLatency",
    "LogLevel",
    "LogPayloadProcessor",
    "LogPayloadProcessorProto",
    "LogPayloadProvider",
    "LogSinkClassProto",
    "LogSinkCloseError",
    "LogSinkConfigurationConflictError",
    "LogSinkCreateError",
    "LogSinkDescriptor",
    "LogSinkDescriptorBuildError",
    "LogSinkIsInUseError",
    "LogSinkNotFoundError",
    "LogSinkProto",
    "LogSinkStats",
    "LogSinkTerminator",
    "LogStack",
    "LogStreamOutput",
    "LogVerbosityLevel",
    "LoggerError",
    "LoggerSink",
    "LoggingFileConfig",
    "LoggingStreamConfig",
    "MemoryLogSink",
    "ModuleAliasError",
    "PatternLogEventPolicy",
    "PatternLogEventPolicyAction",
    "PatternLogEventPolicyConfig",
    "PatternLogEventPolicyRuleConfig",
    "PipelineRenderer",
    "PipelineTee",
    "SinkHandler",
    "SqliteLogSink",
    "StreamLogSink",
    "StructlogLoggerFactory",
    "StructlogSink",
    "__version__",
    "close_log_sink",
    "configure",
    "configure_log_context",
    "configure_log_sink",
    "configure_structlog",
    "flush",
    "get_configured_log_sink_names",
    "get_log_context",
    "get_log_context_namespaces",
    "get_log_sink",
    "get_root_log_context",
    "has_configured_log_sinks",
    "has_log_context",
    "install_as",
    "is_dead_letter",
    "log_invocation",
    "nearest_log_context",
    "register_opentelemetry",
    "register_prometheus",
    "reset_log_contexts",
    "reset_logger",
    "set_shutdown_timeout",
    "sink_from_url",
    "split_dead_letter",
    "stats",
]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
