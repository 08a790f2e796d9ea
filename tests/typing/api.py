"""Examples of the public API for the type checkers. Never executed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, assert_type

import structlog

import mvx_logger
from mvx_logger import (
    AsyncHandlerSink,
    AsyncioLogSink,
    AsyncioLogSinkErrorPolicy,
    AsyncioLogSinkOpResult,
    AsyncioLogSinkQueueOverflowPolicy,
    FallbackSink,
    FanOutSink,
    FilterSink,
    HandlerSink,
    LogContext,
    LogContextHandler,
    LogDeliveryErrorKind,
    LogDeliveryPartialError,
    LogDeliveryTransientError,
    LogErrorHandlingPolicy,
    LogEvent,
    LogEventBatch,
    LogEventMeta,
    LoggerSink,
    LogLatency,
    LogLevel,
    LogPayloadProcessor,
    LogSinkDescriptor,
    LogSinkProto,
    LogSinkStats,
    LogSinkTerminator,
    LogVerbosityLevel,
    MemoryLogSink,
    PatternLogEventPolicy,
    PatternLogEventPolicyAction,
    PatternLogEventPolicyConfig,
    PatternLogEventPolicyRuleConfig,
    PipelineRenderer,
    PipelineTee,
    SinkHandler,
    StreamLogSink,
    StructlogLoggerFactory,
    configure,
    configure_log_context,
    configure_log_sink,
    log_invocation,
    set_shutdown_timeout,
    sink_from_url,
)
from mvx_logger.testing import capture_events


# A sink is any object with log(event).
class PrintSink:
    def log(self, event: LogEvent) -> None:
        print(event.meta.event_name, dict(event.payload))


sink: LogSinkProto = PrintSink()


# An asynchronous one implements a coroutine.
class QueueSink(AsyncioLogSink):
    def __init__(self, *, url: str, **options: Any) -> None:
        super().__init__(**options)
        self.url = url

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        return LogSinkDescriptor("queue", (kwargs["url"],))

    async def _on_starting(self) -> None: ...

    async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None: ...


made, terminate = QueueSink.create(url="queue://", queue_overflow_policy=AsyncioLogSinkQueueOverflowPolicy.BLOCK)
assert_type(made, QueueSink)
assert_type(terminate, LogSinkTerminator)
assert_type(made.start().wait(), AsyncioLogSinkOpResult)
assert_type(made.flush(1.0), bool)
assert_type(made.stats(), LogSinkStats)


async def stop() -> AsyncioLogSinkOpResult:
    return await made.stop()


class ConnectedSink(AsyncioLogSink):
    async def _on_connecting(self) -> None: ...

    def _is_connection_lost(self) -> bool:
        return False

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        assert_type(events.delivery_ids, tuple[str, ...])
        assert_type(events[0], LogEvent)
        assert_type(events.attempt, int)
        raise LogDeliveryPartialError("see items", refused={1: "mapping"}, retry=[2], retry_after=1.0)

    async def _on_disconnecting(self) -> None: ...

    def _classify_error(self, error: BaseException) -> LogDeliveryErrorKind:
        if isinstance(error, LogDeliveryTransientError):
            assert_type(error.retry_after, float | None)
            return LogDeliveryErrorKind.TRANSIENT
        return super()._classify_error(error)


durable, _ = ConnectedSink.create(
    durable="spool",
    durability="commit",
    dead_letter=MemoryLogSink(),
    error_policy=AsyncioLogSinkErrorPolicy.RETRY,
    retry_timeout=None,
)
assert_type(durable, ConnectedSink)
assert_type(durable.stats().latency, LogLatency | None)
set_shutdown_timeout(3.0)


# Contexts.
root = LogContext(log_sink=PrintSink(), payload_processor=LogPayloadProcessor())
child = LogContext(namespace="shop", parent=root, min_level=LogLevel.INFO)
child.log_info_event("order.created", {"order_id": "order-42"}, entity_id="order-42")
child.log_event("order.created", 25, event_outcome="success")
child.set_log_error_handling_policy(LogErrorHandlingPolicy.RAISE)
assert_type(child.is_event_enabled(LogEventMeta("shop", "x")), bool)
assert_type(child.parent, LogContext | None)

# The registry.
configure_log_sink(name="console", sink_cls=StreamLogSink)
ctx = configure_log_context("shop.orders", log_sink=PrintSink())
assert_type(ctx, LogContext)
assert_type(mvx_logger.stats(), dict[str, LogSinkStats])
assert_type(mvx_logger.flush(timeout=1.0), bool)

# Policies and payloads.
ctx.set_event_policy(
    PatternLogEventPolicy(
        PatternLogEventPolicyConfig(
            default_enabled=True,
            rules=(PatternLogEventPolicyRuleConfig(PatternLogEventPolicyAction.DENY, event_names=("cache.*",)),),
        )
    )
)
ctx.set_payload_processor(LogPayloadProcessor(verbosity_level=LogVerbosityLevel.MAXIMUM, max_items=50))


class Money:
    def to_log_payload(self) -> dict[str, Any]:
        return {"amount": 1}


ctx.log_info_event("paid", Money())


# Decorated functions keep their types.
@log_invocation("orders.load", ctx=ctx, log_kwargs_on_invoke=("order_id",))
def load(order_id: str, *, fresh: bool = False) -> Mapping[str, int]:
    return {order_id: int(fresh)}


@log_invocation("orders.store", ctx=ctx)
async def store(order_id: str) -> int:
    return len(order_id)


assert_type(load("order-42", fresh=True), Mapping[str, int])


async def use() -> None:
    assert_type(await store("order-42"), int)


# Both bridges.
logging.getLogger().addHandler(SinkHandler("sqlite:///events.db"))
logging.getLogger().addHandler(SinkHandler({"class": "mvx_logger.FileLogSink", "path": "app.jsonl"}, level="INFO"))
logging.getLogger("shop").addHandler(LogContextHandler("shop"))
ctx.set_log_sink(HandlerSink(logging.StreamHandler()))
ctx.set_log_sink(LoggerSink("legacy"))
behind, _ = AsyncHandlerSink.create(handler=logging.StreamHandler())
structlog.configure(processors=[PipelineTee(), PipelineRenderer()], logger_factory=StructlogLoggerFactory())

# Combinators and configuration.
ctx.set_log_sink(FanOutSink(PrintSink(), FilterSink(MemoryLogSink(), min_level=LogLevel.ERROR)))
ctx.set_log_sink(FallbackSink(sink_from_url("sqlite:///events.db"), StreamLogSink()))
configure({"sinks": {"events": "sqlite:///events.db"}, "root": {"log_sink": "events"}})
configure(Path("logging.toml"))

with capture_events("shop") as captured:
    child.log_info_event("order.created")
assert_type(captured.events, tuple[LogEvent, ...])
