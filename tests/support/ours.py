"""The handlers and sinks of this package, in the same places of `field_scenarios` as those of `naive`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mvx_logger
from field_helpers import PATIENCE, Client, ClientHandler, SocketClient
from mvx_logger import (
    AsyncHandlerSink,
    AsyncioLogSink,
    AsyncioLogSinkQueueOverflowPolicy,
    FallbackSink,
    FanOutSink,
    FileLogSink,
    FilterSink,
    HandlerSink,
    LogEvent,
    LogEventMeta,
    LoggerSink,
    LogSinkDescriptor,
    MemoryLogSink,
    SinkHandler,
    SqliteLogSink,
    StreamLogSink,
    StructlogSink,
)

IMPATIENT = {"retry_delay": 0.01, "retry_max_delay": 0.05}
"""For servers that are down for a moment only."""
_META = LogEventMeta("app", "event")


class Sending(AsyncioLogSink):
    """Sends over a client, which blocks."""

    def __init__(self, *, client: Any, label: str = "", **async_options: Any) -> None:
        super().__init__(**async_options)
        self.client = client
        self.label = label

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        return cls._describe("sending", (kwargs.get("label", ""),), kwargs)

    async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
        await self._run_blocking(self.client.send, [line_of(event) for event in events])


def line_of(event: LogEvent) -> dict[str, Any]:
    """What is sent of an event."""
    line: dict[str, Any] = {"message": event.message, "payload": event.payload}
    if event.origin is not None:
        line["args"] = event.origin.args
    if event.exception is not None:
        line["exception"] = event.exception.type
    if event.stack is not None:
        line["stack"] = True
    return line


def handler(client: Client, **options: Any) -> logging.Handler:
    """A handler over a sink of its own."""
    return SinkHandler({"class": Sending, "client": client, **options})


class Connecting(AsyncioLogSink):
    """Resolves a name and opens a connection for each batch."""

    def __init__(self, *, port: int, **async_options: Any) -> None:
        super().__init__(**async_options)
        self.port = port

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        return cls._describe("connecting", (kwargs["port"],), kwargs)

    async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
        _, writer = await asyncio.open_connection("localhost", self.port)
        writer.writelines(f"{event.message}\n".encode() for event in events)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


def connecting_handler(port: int) -> logging.Handler:
    """A handler over TCP."""
    return SinkHandler({"class": Connecting, "port": port})


def confirming_handler(port: int, durable: str) -> logging.Handler:
    """A handler over a protocol that confirms what has arrived."""
    client = SocketClient(port, confirm=True)
    return SinkHandler({"class": Sending, "client": client, "durable": durable, **IMPATIENT}, flush_timeout=0.1)


class BoundedQueue:
    """A sink in front of a server that is down."""

    def __init__(self, client: Client) -> None:
        self.sink, _ = Sending.create(
            client=client,
            queue_max_bytes=16_000_000,
            queue_overflow_policy=AsyncioLogSinkQueueOverflowPolicy.DROP_OLDEST,
            shutdown_timeout=0.0,
            **IMPATIENT,
        )

    def log(self, number: int, text: str) -> None:
        # What is large may be anywhere: first in all messages, then in payloads too.
        payload, message = ({"text": text}, None) if number > 1_000 and number % 2 else ({}, text)
        self.sink.log(LogEvent(20, _META, None, 0.0, payload, message))

    def count(self) -> dict[str, int]:
        accounts = self.sink.stats()
        assert accounts.accepted == accounts.pending + sum(accounts.dropped.values())
        return {"kept": accounts.pending, "dropped": sum(accounts.dropped.values())}


def queue_handlers(client: Client) -> dict[str, dict[str, Any]]:
    """What stands between the loggers and a handler that blocks, as `dictConfig` makes it."""
    target = {"()": ClientHandler, "client": client}
    return {
        "queue": {
            "class": "mvx_logger.SinkHandler",
            "sink": {"class": "mvx_logger.AsyncHandlerSink", "handler": target},
        }
    }


def every_sink(client: Client, directory: Path) -> dict[str, Any]:
    """One of each kind; where there is a destination of choice, it is one that logs."""
    loud = ClientHandler(client)
    target = logging.getLogger("target")
    target.propagate = False
    target.addHandler(loud)
    return {
        "sending": Sending.create(client=client)[0],
        "memory": MemoryLogSink(),
        "file": FileLogSink.create(file_path=str(directory / "events.log"), level=1)[0],
        "sqlite": SqliteLogSink.create(path=str(directory / "events.db"))[0],
        "stream": StreamLogSink.create(level=1)[0],
        "structlog": StructlogSink(stream="stderr"),
        "handler": HandlerSink(loud),
        "handler in the background": AsyncHandlerSink.create(handler=loud)[0],
        "logger": LoggerSink("target"),
        "fan-out": FanOutSink(HandlerSink(loud)),
        "filter": FilterSink(HandlerSink(loud)),
        "fallback": FallbackSink(HandlerSink(loud), MemoryLogSink()),
    }


class AddShop:
    """A processor of the application's own."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, _: Any, __: str, event_dict: dict[str, Any]) -> dict[str, Any]:
        return {**event_dict, "shop": self.name}


def everything(formatted: str) -> dict[str, Any]:
    """What `mvx_logger.configure` takes, as it stands in a file."""
    return {
        "structlog": {
            "level": "info",
            "processors": ["StackInfoRenderer", {"class": f"{__name__}.AddShop", "name": "north"}],
        },
        "sinks": {
            "rendered": {
                "class": "mvx_logger.StructlogSink",
                "renderer": "logfmt",
                "processors": [{"class": "EventRenamer", "to": "msg"}],
                "timestamp_format": "now",
            }
        },
        "root": {"log_sink": "rendered"},
        "logging": {
            "version": 1,
            "formatters": {"structured": structlog_formatter()},
            "handlers": {
                "pipeline": {"class": "mvx_logger.LogContextHandler"},
                "file": {"class": "logging.FileHandler", "filename": formatted, "formatter": "structured"},
            },
            "root": {"level": "INFO", "handlers": ["pipeline", "file"]},
        },
    }


def structlog_formatter() -> dict[str, Any]:
    """A formatter of structlog's kind, as it stands in a file."""
    return {
        "()": "mvx_logger.bridge.structlog.EventFormatter",
        "foreign_pre_chain": ["structlog.stdlib.add_log_level", "structlog.stdlib.ExtraAdder"],
        "processors": [
            "structlog.stdlib.ProcessorFormatter.remove_processors_meta",
            {"class": "structlog.processors.JSONRenderer", "sort_keys": True},
        ],
    }


def flush_all() -> None:
    """What there is to call before `os._exit`."""
    assert mvx_logger.flush(PATIENCE)


def reopening_handler(make_target: Callable[[], logging.Handler]) -> logging.Handler:
    """A handler in front of another one."""
    return SinkHandler({"class": "mvx_logger.HandlerSink", "handler": {"()": make_target}})
