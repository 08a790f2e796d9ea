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
    from .ambient import capture_trace_context
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
    from .formats.template import EventTemplate
    from .invocation import LogErrorRule, log_invocation
    from .metrics import register_opentelemetry, register_prometheus
    from .policy import (
        PatternLogEventPolicy,
        PatternLogEventPolicyAction,
        PatternLogEventPolicyConfig,
        PatternLogEventPolicyRuleConfig,
    )
    from .sinks.amqp import AmqpLogSink
    from .sinks.clickhouse import ClickHouseLogSink
    from .sinks.combinators import FallbackSink, FanOutSink, FilterSink
    from .sinks.datadog import DatadogLogSink
    from .sinks.dead_letter import DeadLetterFile
    from .sinks.elasticsearch import ElasticsearchLogSink
    from .sinks.file import FileLogSink, LoggingFileConfig
    from .sinks.http import BaseHttpLogSink, HttpLogSink
    from .sinks.kafka import KafkaLogSink
    from .sinks.loki import LokiLogSink
    from .sinks.memory import MemoryLogSink
    from .sinks.mqtt import MqttLogSink
    from .sinks.nats import NatsLogSink
    from .sinks.otlp import OtlpLogSink
    from .sinks.postgres import POSTGRES_COLUMNS, PostgresLogSink
    from .sinks.redis import RedisLogSink
    from .sinks.seq import SeqLogSink
    from .sinks.splunk import SplunkLogSink
    from .sinks.sqlite import SqliteLogSink
    from .sinks.structlog_sink import StructlogSink
    from .sinks.syslog import SyslogLogSink
    from .sinks.victorialogs import VictoriaLogsSink
    from .tls import make_tls_context

__version__ = "0.1.0"

_LAZY = {
    "AmqpLogSink": "sinks.amqp",
    "AsyncHandlerSink": "bridge.handler_sinks",
    "AsyncioLogSink": "delivery.sink",
    "AsyncioLogSinkErrorPolicy": "delivery.sink",
    "AsyncioLogSinkOp": "delivery.sink",
    "AsyncioLogSinkOpResult": "delivery.sink",
    "AsyncioLogSinkQueueOverflowPolicy": "delivery.sink",
    "AsyncioLogSinkState": "delivery.sink",
    "AsyncioLogSinkWaitHandle": "delivery.sink",
    "BaseHttpLogSink": "sinks.http",
    "ClickHouseLogSink": "sinks.clickhouse",
    "DatadogLogSink": "sinks.datadog",
    "DeadLetter": "delivery.dead_letter",
    "DeadLetterFile": "sinks.dead_letter",
    "ElasticsearchLogSink": "sinks.elasticsearch",
    "EventLogRecord": "bridge.records",
    "EventTemplate": "formats.template",
    "FallbackSink": "sinks.combinators",
    "FanOutSink": "sinks.combinators",
    "FileLogSink": "sinks.file",
    "FilterSink": "sinks.combinators",
    "HandlerSink": "bridge.handler_sinks",
    "HttpLogSink": "sinks.http",
    "KafkaLogSink": "sinks.kafka",
    "LogContextHandler": "bridge.handlers",
    "LogDeliveryErrorKind": "delivery.sink",
    "LogErrorRule": "invocation",
    "LogEventBatch": "delivery.sink",
    "LogLatency": "delivery.stats",
    "LogSinkStats": "delivery.stats",
    "LoggerSink": "bridge.handler_sinks",
    "LoggingFileConfig": "sinks.file",
    "LokiLogSink": "sinks.loki",
    "MemoryLogSink": "sinks.memory",
    "MqttLogSink": "sinks.mqtt",
    "NatsLogSink": "sinks.nats",
    "OtlpLogSink": "sinks.otlp",
    "POSTGRES_COLUMNS": "sinks.postgres",
    "PatternLogEventPolicy": "policy",
    "PatternLogEventPolicyAction": "policy",
    "PatternLogEventPolicyConfig": "policy",
    "PatternLogEventPolicyRuleConfig": "policy",
    "PipelineRenderer": "bridge.structlog",
    "PipelineTee": "bridge.structlog",
    "PostgresLogSink": "sinks.postgres",
    "RedisLogSink": "sinks.redis",
    "SeqLogSink": "sinks.seq",
    "SinkHandler": "bridge.handlers",
    "SplunkLogSink": "sinks.splunk",
    "SqliteLogSink": "sinks.sqlite",
    "StructlogLoggerFactory": "bridge.structlog",
    "StructlogSink": "sinks.structlog_sink",
    "SyslogLogSink": "sinks.syslog",
    "VictoriaLogsSink": "sinks.victorialogs",
    "capture_trace_context": "ambient",
    "configure": "bridge.config",
    "configure_structlog": "bridge.structlog",
    "install_as": "alias",
    "is_dead_letter": "delivery.dead_letter",
    "log_invocation": "invocation",
    "make_tls_context": "tls",
    "register_opentelemetry": "metrics",
    "register_prometheus": "metrics",
    "set_shutdown_timeout": "delivery.process",
    "sink_from_url": "bridge.config",
    "split_dead_letter": "delivery.dead_letter",
}

__all__ = [
    "POSTGRES_COLUMNS",
    "AmqpLogSink",
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
    "BaseHttpLogSink",
    "ClickHouseLogSink",
    "DatadogLogSink",
    "DeadLetter",
    "DeadLetterFile",
    "ElasticsearchLogSink",
    "EventLogRecord",
    "EventTemplate",
    "FallbackSink",
    "FanOutSink",
    "FileLogSink",
    "FilterSink",
    "HandlerSink",
    "HttpLogSink",
    "KafkaLogSink",
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
    "LokiLogSink",
    "MemoryLogSink",
    "ModuleAliasError",
    "MqttLogSink",
    "NatsLogSink",
    "OtlpLogSink",
    "PatternLogEventPolicy",
    "PatternLogEventPolicyAction",
    "PatternLogEventPolicyConfig",
    "PatternLogEventPolicyRuleConfig",
    "PipelineRenderer",
    "PipelineTee",
    "PostgresLogSink",
    "RedisLogSink",
    "SeqLogSink",
    "SinkHandler",
    "SplunkLogSink",
    "SqliteLogSink",
    "StreamLogSink",
    "StructlogLoggerFactory",
    "StructlogSink",
    "SyslogLogSink",
    "VictoriaLogsSink",
    "__version__",
    "capture_trace_context",
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
    "make_tls_context",
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
