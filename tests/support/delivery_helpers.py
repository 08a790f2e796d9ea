"""What the tests of asynchronous sinks share: a destination that can be watched, frozen and broken."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import leftovers
from mvx_logger import AsyncioLogSink, LogEvent, LogEventMeta, LogSinkStats, selflog
from waiting import wait_until as wait_until

TIMEOUT = 30.0


def make_event(name: str = "event", **payload: Any) -> LogEvent:
    return LogEvent(20, LogEventMeta("tests", name), None, 1_700_000_000.0, payload)


def assert_accounts(stats: LogSinkStats) -> None:
    assert stats.accepted == stats.delivered + sum(stats.dropped.values()) + stats.dead_lettered + stats.pending, stats


def worker_threads() -> list[threading.Thread]:
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("mvx-logger")]
    return [thread for thread in threads if thread not in leftovers.abandoned]


class Destination:
    """Where a test's sink delivers: remembers everything, and does as it is told."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.failed: list[str] = []
        self.runs: list[str] = []
        self.arrived = threading.Event()
        self.open = threading.Event()
        self.open.set()
        self.fail: Callable[[str], BaseException | None] = lambda name: None

    @property
    def names(self) -> list[str]:
        return [name for batch in list(self.batches) for name in batch]

    async def take(self, events: Sequence[LogEvent]) -> None:
        names = [event.meta.event_name for event in events]
        self.arrived.set()
        while not self.open.is_set():
            await asyncio.sleep(0.001)
        for name in names:
            error = self.fail(name)
            if error is not None:
                self.failed.extend(names)
                raise error
        self.batches.append(names)

    def take_blocking(self, events: Sequence[LogEvent]) -> None:
        self.arrived.set()
        assert self.open.wait(TIMEOUT)
        self.batches.append([event.meta.event_name for event in events])


class BatchSink(AsyncioLogSink):
    def __init__(self, *, to: Destination, **options: Any) -> None:
        super().__init__(**options)
        self.to = to

    async def _on_starting(self) -> None:
        self.to.runs.append("starting")

    async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
        await self.to.take(events)

    async def _on_stopped(self) -> None:
        self.to.runs.append("stopped")


class CoreSink(AsyncioLogSink):
    def __init__(self, *, to: Destination, **options: Any) -> None:
        super().__init__(**options)
        self.to = to

    async def _dispatch_core(self, event: LogEvent) -> None:
        await self.to.take([event])


class BlockingSink(AsyncioLogSink):
    def __init__(self, *, to: Destination, **options: Any) -> None:
        super().__init__(**options)
        self.to = to

    async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
        await self._run_blocking(self.to.take_blocking, events)


@contextmanager
def selflog_reports() -> Iterator[list[selflog.SelfLogReport]]:
    """Every report of the logger about itself, whatever the rate."""
    reports: list[selflog.SelfLogReport] = []
    interval = selflog.get_interval()
    selflog.set_interval(0)
    before = selflog.redirect(reports.append)
    try:
        yield reports
    finally:
        selflog.redirect(before)
        selflog.set_interval(interval)
