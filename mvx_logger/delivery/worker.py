"""A thread with an event loop of its own, for one sink."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from .. import selflog
from ..guard import internal, mark

__all__ = ["DaemonExecutor", "LoopThread"]

_MAX_ACCIDENTS = 1_000

T = TypeVar("T")


class DaemonExecutor(ThreadPoolExecutor):
    """Runs each call in a daemon thread, and in the calling thread where no thread can be started any more.

    The stock executor refuses work as soon as the main thread has ended, so that the last flush could not resolve a
    name; and the interpreter joins its threads, so that one that hangs in the resolver would keep the process alive.
    (It is a subclass because event loops accept no other executor.)
    """

    def __init__(self, name: str) -> None:
        super().__init__(max_workers=1, thread_name_prefix=name)
        self._name = name

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start the call; its outcome is in the future."""
        future: Future[Any] = Future()

        def run() -> None:
            internal.set(True)
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as err:
                future.set_exception(err)
            else:
                future.set_result(result)

        try:
            threading.Thread(target=run, name=f"{self._name}-blocking", daemon=True).start()
        except RuntimeError:  # "can't start new thread" at interpreter shutdown
            run()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing to do: no thread outlives its call, and none is waited for."""


class LoopThread:
    """One daemon thread that runs one event loop until it is told to stop.

    Args:
        name: The thread's name.

    Raises:
        RuntimeError: The interpreter starts no threads any more.
    """

    def __init__(self, name: str) -> None:
        before = mark.value
        try:
            mark.value = True  # asyncio tells of its selector
            self.loop = asyncio.new_event_loop()
        finally:
            mark.value = before
        self.loop.set_default_executor(DaemonExecutor(name))
        # Sinks may block this loop: asyncio's debug mode need not warn of it.
        self.loop.slow_callback_duration = float("inf")
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            self.thread.start()
        except BaseException:
            self.loop.close()
            raise

    def _run(self) -> None:
        internal.set(True)
        loop = self.loop
        asyncio.set_event_loop(loop)
        try:
            for _ in range(_MAX_ACCIDENTS):
                try:
                    loop.run_forever()
                    break
                except Exception as err:  # out of memory in the selector, say: the next round may do better
                    selflog.report("event_loop", "an event loop of a sink was interrupted", error=type(err).__name__)
        finally:
            close_loop(loop)
            asyncio.set_event_loop(None)

    def call(self, func: Callable[[], T]) -> T:
        """Run a function on the loop's thread and wait for what it returns or raises."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(func())
            except BaseException as err:
                future.set_exception(err)

        # A callback runs in a copy of its caller's context, who may not be marked.
        context = copy_context()
        context.run(internal.set, True)
        self.loop.call_soon_threadsafe(run, context=context)
        return future.result()

    def is_current(self) -> bool:
        """True when called on this thread."""
        return threading.get_ident() == self.thread.ident

    def request_stop(self) -> None:
        """Let the thread end as soon as what is scheduled has run. Does not wait."""
        try:
            self.loop.call_soon_threadsafe(self.loop.stop)
        except RuntimeError:  # it is closed: it has ended
            pass

    def join(self, timeout: float | None) -> bool:
        """Wait until the thread has ended, for at most ``timeout`` seconds; True when it has."""
        if not self.is_current():
            self.thread.join(timeout)
        return not self.thread.is_alive()


def close_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what is left on a stopped loop and close it."""
    try:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
