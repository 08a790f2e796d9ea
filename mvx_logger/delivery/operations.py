"""The vocabulary of a sink's life: its states, its operations, its policies, and the handles that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from concurrent.futures import Future
from enum import Enum
from typing import Any, Protocol

from msgspec import Struct

from ..errors import AsyncioLogSinkError, AsyncioLogSinkInvalidStateError

__all__ = [
    "FOREVER",
    "AsyncioLogSinkErrorPolicy",
    "AsyncioLogSinkOp",
    "AsyncioLogSinkOpResult",
    "AsyncioLogSinkQueueOverflowPolicy",
    "AsyncioLogSinkState",
    "AsyncioLogSinkWaitHandle",
    "bounded",
]

FOREVER = 1e8
"""Seconds; longer waits overflow in the standard library."""


def bounded(seconds: float | None) -> float | None:
    """The seconds, or as many as can be waited for."""
    return None if seconds is None else min(seconds, FOREVER)


class _Operated(Protocol):
    def _is_own_thread(self) -> bool: ...
    def _loop_runs(self) -> bool: ...
    def _get_patience(self, handle: AsyncioLogSinkWaitHandle) -> float | None: ...
    def _abandon(self) -> None: ...


class AsyncioLogSinkState(Enum):
    """Where an asynchronous sink is in its life."""

    VIRGIN = "virgin"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILURE = "failure"
    CANCELLED = "cancelled"


class AsyncioLogSinkOp(Enum):
    """What a wait handle waits for."""

    START = "start"
    STOP = "stop"


class AsyncioLogSinkQueueOverflowPolicy(Enum):
    """What happens to an event that finds the queue full."""

    DROP = "drop"
    """The new event is lost, and counted (``queue_full``)."""
    DROP_OLDEST = "drop_oldest"
    """The oldest event that waits is lost, and counted (``queue_full``)."""
    BLOCK = "block"
    """The caller waits for room, for ``block_timeout`` at most; then the new event is lost and counted (so named)."""
    RAISE_ERROR = "raise_error"
    """The new event is refused with `AsyncioLogSinkQueueOverflowError`."""


class AsyncioLogSinkErrorPolicy(Enum):
    """What becomes of a sink whose delivery fails."""

    RETRY = "retry"
    """It waits and tries again; what is refused for its content is set aside. No exception ends it."""
    FAIL = "fail"
    """It goes to the FAILURE state at the first error; ``log()`` raises from then on, until it is started again."""


class AsyncioLogSinkOpResult(Struct, frozen=True):
    """How an operation ended.

    Attributes:
        op_name: The operation.
        success: True when it did what it should.
        error: Why it did not.
    """

    op_name: AsyncioLogSinkOp
    success: bool
    error: AsyncioLogSinkError | None = None


class AsyncioLogSinkWaitHandle:
    """Waits for an operation of a sink: ``handle.wait()`` blocks, ``await handle`` does not."""

    def __init__(self, op_name: AsyncioLogSinkOp, sink: _Operated) -> None:
        self._op_name = op_name
        self._sink = sink
        self._future: Future[AsyncioLogSinkOpResult] = Future()

    def _resolve(self, error: AsyncioLogSinkError | None = None) -> None:
        if not self._future.done():
            self._future.set_result(AsyncioLogSinkOpResult(self._op_name, error is None, error))

    def done(self) -> bool:
        """True when the operation has ended."""
        return self._future.done()

    def wait(self, timeout: float | None = None) -> AsyncioLogSinkOpResult:
        """Block until the operation has ended. A stop that does not end in time is given up on: that is its result.

        Args:
            timeout: Seconds; None waits until the end.

        Raises:
            TimeoutError: It had not ended by then.
            AsyncioLogSinkInvalidStateError: The loop that has to do the work is the one that would wait, or does not
                run: it would wait for itself.
        """
        future = self._future
        if future.done():
            return future.result()
        if self._sink._is_own_thread() or not self._sink._loop_runs():
            raise AsyncioLogSinkInvalidStateError(
                "wait() would block the event loop that the sink runs on, or that loop does not run; use 'await handle' "
                "on it"
            )
        patience = self._sink._get_patience(self)
        gives_up = patience is not None and (timeout is None or patience <= timeout)
        try:
            return future.result(patience if gives_up else bounded(timeout))
        except TimeoutError:
            if gives_up:
                self._sink._abandon()
                return future.result(0)
            raise TimeoutError(f"the sink did not {self._op_name.value} within {timeout} seconds") from None

    def __await__(self) -> Generator[Any, None, AsyncioLogSinkOpResult]:
        return self._wait().__await__()

    async def _wait(self) -> AsyncioLogSinkOpResult:
        if not self._future.done():
            loop = asyncio.get_running_loop()
            # Each has a future of their own: whoever stops waiting must not cancel what others wait for too.
            waiter = loop.create_future()

            def set_done() -> None:
                if not waiter.done():
                    waiter.set_result(None)

            def wake(_: object) -> None:
                try:
                    loop.call_soon_threadsafe(set_done)
                except RuntimeError:  # the loop is closed: nobody waits any more
                    pass

            self._future.add_done_callback(wake)
            try:
                await asyncio.wait_for(waiter, self._sink._get_patience(self))
            except TimeoutError:
                self._sink._abandon()
        return self._future.result(0)
