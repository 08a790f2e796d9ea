"""`AsyncioLogSink`: the base of every asynchronous sink.

The caller's part is an append to a queue and, at most once per batch, a wake-up. It takes no lock (but where the queue
is full, the event is large or the sink does not run), so that signal handlers, finalizers and forked children may log at
any instruction. Everything else happens in one task, the worker: on the event loop of a thread of its own
(`AsyncioLogSink.create`), or on the loop that runs where the sink is constructed.

The worker takes what is there as a *window* and keeps it until every event in it is settled: delivered, dead-lettered or
counted as dropped. When an attempt fails, `DeliverySchedule` decides what is tried next and when. With a spool, events go
from the queue to the disk first (a second task, the spooler, sees to that while the worker waits for the destination)
and windows come from there.

There are two locks. ``__life`` is held by who starts or ends a run of the worker and by who moves events to the disk; it
may be held during a write to the disk. The lock of the accounts guards the counters and is held for moments only. Who needs
both takes ``__life`` first.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from .. import selflog
from ..errors import (
    AsyncioLogSinkDispatcherCancelledError,
    AsyncioLogSinkError,
    AsyncioLogSinkEventLoopUnavailableError,
    AsyncioLogSinkInvalidStateError,
    AsyncioLogSinkOnStartingHookFailedError,
    AsyncioLogSinkOnStoppedHookFailedError,
    AsyncioLogSinkQueueOverflowError,
    AsyncioLogSinkUnexpectedError,
    LogDeliveryRefusedError,
    LogDeliveryTransientError,
)
from ..guard import internal, is_internal, mark, offers, report_recursion
from ..masking import describe_error
from ..model import LogEvent
from ..options import check_options, get_options, options_from_url
from ..protocols import LogSinkDescriptor, LogSinkProto, LogSinkTerminator
from . import process
from .accounts import MARKS, Accounts
from .courier import HURRY, Courier, DeliveryFailed
from .dead_letter import as_dead_letter_sink
from .disk import ADOPT_INTERVAL, DISK_PAUSE, Disk
from .operations import (
    FOREVER,
    AsyncioLogSinkErrorPolicy,
    AsyncioLogSinkOp,
    AsyncioLogSinkOpResult,
    AsyncioLogSinkQueueOverflowPolicy,
    AsyncioLogSinkState,
    AsyncioLogSinkWaitHandle,
    bounded,
)
from .queue import NEVER, EventQueue
from .schedule import DeliverySchedule, LogDeliveryErrorKind, RetryPolicy, Wait
from .sizes import EVENT_BYTES, measure_excess
from .spool import Spool
from .stats import LogSinkStats
from .window import LogEventBatch, Window
from .worker import LoopThread

if TYPE_CHECKING:
    from urllib.parse import SplitResult

__all__ = [
    "AsyncioLogSink",
    "AsyncioLogSinkErrorPolicy",
    "AsyncioLogSinkOp",
    "AsyncioLogSinkOpResult",
    "AsyncioLogSinkQueueOverflowPolicy",
    "AsyncioLogSinkState",
    "AsyncioLogSinkWaitHandle",
    "LogDeliveryErrorKind",
    "LogEventBatch",
]

T = TypeVar("T")
S = TypeVar("S", bound="AsyncioLogSink")

_GRACE = 1.0
"""Seconds that a worker has for its last steps after its deadline."""
_HASH_KEY = os.urandom(16)
"""Keeps the hashes of secrets from being guessed; descriptors are compared within a process only."""


class _End:
    """How a run of the worker ended."""

    __slots__ = ("error", "reason", "state")

    def __init__(self, state: AsyncioLogSinkState, reason: str, error: AsyncioLogSinkError | None) -> None:
        self.state = state
        self.reason = reason
        self.error = error


_constructing: contextvars.ContextVar[tuple[type, LoopThread] | None] = contextvars.ContextVar(
    "mvx_logger_constructing", default=None
)
# What sinks of the parent process held. Closing or collecting its loops would unregister their descriptors from an epoll
# instance that the parent still uses; closing its connections might say goodbye to the server.
_of_the_parent: list[object] = []


class AsyncioLogSink:
    """A sink that delivers in the background. Abstract: subclass it.

    A subclass implements ``async _dispatch_core(event)``, or ``async _dispatch_batch(events)`` to deliver many at once.
    It may override ``async _on_connecting()`` to connect and ``async _on_disconnecting()`` to disconnect, which take turns
    as deliveries fail; and ``async _on_starting()`` and ``async _on_stopped()``, which run once for each run of the worker,
    and again in each forked child that logs. When ``_dispatch_*`` returns, the events count as
    delivered. When it raises, what happens next depends on the kind of the error, which `_classify_error` tells:

    - *transient* (`LogDeliveryTransientError`, OSError, EOFError, a timeout, MemoryError): the same events come again,
      in the same order, after a wait that grows exponentially (with full jitter), until ``retry_timeout``;
    - *refused* (`LogDeliveryRefusedError`): the batch is split until the event that is refused is alone; that one is
      dead-lettered or dropped (``refused``), the others are delivered;
    - *partial* (`LogDeliveryPartialError`): the destination said which events it has not taken;
    - anything else is found out by experiment: first as if it were transient, then by splitting; a single event is given
      up on only when another one passes where it does not.

    So no exception ends a sink, unless its ``error_policy`` is ``FAIL``. When the worker is cancelled in the middle of a
    batch (`asyncio.run` does that at its end), what was not delivered is dispatched again. A destination may therefore
    get an event more than once, with the same delivery id each time: see `LogEventBatch.delivery_ids`.

    A sink that runs lives until it is stopped, even if nobody refers to it. Its own attributes have two leading
    underscores: a subclass may call its own what it likes.

    Args:
        namespace: A label for the sink in reports, thread names and spools.
        queue_max_size: How many events may wait in memory, 1 or more. Threads that log at the same instant may exceed it
            by one event each: the usual way into the queue takes no lock.
        queue_max_bytes: How many bytes of events may wait in memory, estimated; each event is charged 512 at least. An
            event that is larger than that alone is accepted when nothing else waits.
        queue_overflow_policy: What happens to an event that finds the queue full. With a spool the queue is emptied to
            the disk first, and this is for when the disk does not take it either.
        block_timeout: How long ``BLOCK`` makes the caller wait at most, in seconds.
        batch_max_size: How many events a batch holds at most.
        batch_max_bytes: How many bytes of events a batch holds at most, estimated in the same way; an event that is
            larger than that alone is a batch of its own.
        batch_max_age: How long an event waits for company, in seconds. The first one after a pause does not wait.
        delivery_timeout: How long one attempt may take, in seconds, before it is cancelled and counts as a transient
            failure; None lets it take for ever. It cannot interrupt code that blocks the event loop.
        retry_delay: The longest wait after the first failure, in seconds; it doubles with each further one.
        retry_max_delay: The longest wait of all, in seconds.
        retry_timeout: Give up on a batch so many seconds after its first failure; None never does.
        circuit_threshold: After so many failures in a row the destination is taken to be down: it is probed with one
            event at a time until one passes.
        error_policy: ``RETRY``, or ``FAIL`` to end with the first error.
        dead_letter: Where events go that are given up on, with the reason: the path of a JSON-lines file, or any sink.
            None counts them as dropped.
        durable: A directory for a disk queue. Events survive the end of the process there, until the destination has
            confirmed them; whatever an earlier process has left there is delivered first. Several processes may use one
            directory at once; each destination needs one of its own.
        durability: ``"async"``: ``log()`` returns before the disk is touched. ``"commit"``: it returns when the event
            survives a kill of the process.
        spool_max_bytes: How large the disk queue may grow, in bytes.
        spool_max_age: Drop events (``expired``) that have been on the disk for longer than so many seconds.
        spool_fsync: Make every commit survive a failure of power too. Slow.
        shutdown_timeout: How long `close`, `stop` and the end of the process wait for what was accepted, in seconds.

    Raises:
        AsyncioLogSinkEventLoopUnavailableError: Constructed directly where no event loop runs. `create` needs none.
        TypeError: The class implements neither ``_dispatch_core`` nor ``_dispatch_batch``, or an argument has the wrong
            type.
        ValueError: A number is out of range.
    """

    guards_itself: ClassVar[bool] = True
    url_schemes: ClassVar[tuple[str, ...]] = ()
    """The schemes of the URLs that mean this class."""
    sink_type: ClassVar[str] = ""
    """The name of this kind of sink in descriptors. A class without one overrides `build_descriptor`."""
    resource_options: ClassVar[tuple[str, ...]] = ()
    """The options that say where events go: two sinks that agree in them write to the same place."""
    secret_options: ClassVar[tuple[str, ...]] = ()
    """The options whose values nobody may see."""
    url_parts: ClassVar[Mapping[str, str]] = {}
    """Which option a part of the URL (``hostname``, ``port``, ``username``, ``password``, ``path``) is. All others are in
    the query."""

    def __init__(
        self,
        *,
        namespace: str | None = None,
        queue_max_size: int = 10_000,
        queue_max_bytes: int = 64 * 1024 * 1024,
        queue_overflow_policy: AsyncioLogSinkQueueOverflowPolicy = AsyncioLogSinkQueueOverflowPolicy.RAISE_ERROR,
        block_timeout: float = 1.0,
        batch_max_size: int = 1_000,
        batch_max_bytes: int = 4 * 1024 * 1024,
        batch_max_age: float = 0.1,
        delivery_timeout: float | None = 30.0,
        retry_delay: float = 0.5,
        retry_max_delay: float = 60.0,
        retry_timeout: float | None = None,
        circuit_threshold: int = 5,
        error_policy: AsyncioLogSinkErrorPolicy = AsyncioLogSinkErrorPolicy.RETRY,
        dead_letter: LogSinkProto | str | os.PathLike[str] | None = None,
        durable: str | Path | None = None,
        durability: Literal["async", "commit"] = "async",
        spool_max_bytes: int = 1024 * 1024 * 1024,
        spool_max_age: float | None = None,
        spool_fsync: bool = False,
        shutdown_timeout: float = 5.0,
    ) -> None:
        cls = type(self)
        core = cls._dispatch_core is not AsyncioLogSink._dispatch_core
        self.__batched = cls._dispatch_batch is not AsyncioLogSink._dispatch_batch
        if not core and not self.__batched:
            raise TypeError(f"{cls.__name__} is abstract: implement _dispatch_core(event) or _dispatch_batch(events)")
        _check_number("queue_max_size", queue_max_size, minimum=1, whole=True)
        _check_number("queue_max_bytes", queue_max_bytes, minimum=EVENT_BYTES, whole=True)
        _check_number("batch_max_size", batch_max_size, minimum=1, whole=True)
        _check_number("batch_max_bytes", batch_max_bytes, minimum=EVENT_BYTES, whole=True)
        _check_number("block_timeout", block_timeout, minimum=0)
        _check_number("batch_max_age", batch_max_age, minimum=0)
        _check_number("delivery_timeout", delivery_timeout, above=0, optional=True)
        _check_number("retry_delay", retry_delay, minimum=0)
        _check_number("retry_max_delay", retry_max_delay, minimum=0)
        _check_number("retry_timeout", retry_timeout, minimum=0, optional=True)
        _check_number("circuit_threshold", circuit_threshold, minimum=1, whole=True)
        _check_number("spool_max_bytes", spool_max_bytes, minimum=1, whole=True)
        _check_number("spool_max_age", spool_max_age, above=0, optional=True)
        _check_number("shutdown_timeout", shutdown_timeout, minimum=0)
        _check_choice("queue_overflow_policy", queue_overflow_policy, AsyncioLogSinkQueueOverflowPolicy)
        _check_choice("error_policy", error_policy, AsyncioLogSinkErrorPolicy)
        if durability not in ("async", "commit"):
            raise ValueError(f"durability: {durability!r} is not one of async, commit")
        if namespace is not None and not isinstance(namespace, str):
            raise TypeError(f"namespace: expected a str or None, got {type(namespace).__name__}")
        self.__namespace = namespace
        self.__max_size = queue_max_size
        self.__max_bytes = queue_max_bytes
        self.__overflow_policy = queue_overflow_policy
        # Without a disk to turn to, what these two do is known before any further look.
        self.__drops_new = queue_overflow_policy is AsyncioLogSinkQueueOverflowPolicy.DROP and durable is None
        self.__drops_oldest = queue_overflow_policy is AsyncioLogSinkQueueOverflowPolicy.DROP_OLDEST and durable is None
        self.__block_timeout = min(block_timeout, FOREVER)
        self.__batch_max_size = batch_max_size
        self.__batch_max_bytes = batch_max_bytes
        # The worker stops waiting for company while there is still room for what comes before it is awake.
        self.__company = min(batch_max_size, (min(queue_max_size, queue_max_bytes // EVENT_BYTES) + 1) // 2)
        self.__batch_max_age = batch_max_age
        self.__delivery_timeout = None if delivery_timeout is None else min(delivery_timeout, FOREVER)
        self.__retry_policy = RetryPolicy(
            base_delay=min(retry_delay, FOREVER),
            max_delay=min(retry_max_delay, FOREVER),
            timeout=bounded(retry_timeout),
            circuit_threshold=circuit_threshold,
        )
        self.__error_policy = error_policy
        self.__shutdown_timeout = min(shutdown_timeout, FOREVER)
        self.__dead_letter = as_dead_letter_sink(dead_letter)
        self.__commits = durable is not None and durability == "commit"
        self.__spool_options: dict[str, Any] | None = None
        if durable is not None:
            if not isinstance(durable, (str, os.PathLike)) or not os.fspath(durable):
                raise TypeError(f"durable: expected the path of a directory, got {durable!r}")
            self.__spool_options = {
                "directory": durable,
                "label": self._label(),
                "max_bytes": spool_max_bytes,
                "max_age": spool_max_age,
                "fsync": spool_fsync,
            }
            Spool(**self.__spool_options)  # nothing but checks

        self.__thread: LoopThread | None = None
        self.__loop: asyncio.AbstractEventLoop
        # Another sink may be made in the constructor of the one that the thread is for.
        constructing = _constructing.get()
        self.__dedicated = constructing is not None and constructing[0] is cls
        if constructing is not None and self.__dedicated:
            self.__thread = constructing[1]
            self.__loop = self.__thread.loop
            _constructing.set(None)
        else:
            try:
                self.__loop = asyncio.get_running_loop()
            except RuntimeError:
                raise AsyncioLogSinkEventLoopUnavailableError(
                    f"{cls.__name__} was constructed where no event loop runs: construct it inside of a coroutine, or "
                    f"use {cls.__name__}.create(...), which gives it a thread and a loop of its own"
                ) from None
        self.__begin_life()
        process.register(self)

    def __begin_life(self) -> None:
        self.__life = threading.RLock()
        accounts = self.__accounts = Accounts()
        queue = self.__queue = EventQueue(self.__max_size, self.__max_bytes, accounts)
        self.__state = AsyncioLogSinkState.VIRGIN
        self.__sleeper: asyncio.Future[None] | None = None
        self.__alarm: asyncio.Future[bool] | None = None
        self.__task: asyncio.Task[None] | None = None
        self.__spooler: asyncio.Task[None] | None = None
        self.__deadline_timer: asyncio.TimerHandle | None = None
        # True for a run that nobody has asked for and would hear of its failure.
        self.__implicit = False
        self.__start_handle: AsyncioLogSinkWaitHandle | None = None
        self.__stop_handle: AsyncioLogSinkWaitHandle | None = None
        self.__restart_handle: AsyncioLogSinkWaitHandle | None = None
        self.__stop_deadline: float | None = None
        self.__out_of_time = False
        # True while a run that is over gives back what it has.
        self.__is_ending = False
        self.__abandoned = False
        self.__last_thread: LoopThread | None = None
        self.__failure: AsyncioLogSinkError | None = None
        self.__blocking: asyncio.Future[Any] | None = None
        self.__disk: Disk | None = None
        if self.__spool_options is not None:
            self.__disk = Disk(
                Spool(**self.__spool_options),
                os.path.abspath(self.__spool_options["directory"]),
                queue,
                accounts,
                drop_oldest=self.__overflow_policy is AsyncioLogSinkQueueOverflowPolicy.DROP_OLDEST,
                label=self._label(),
            )
        self.__courier = Courier(
            self,
            batched=self.__batched,
            policy=self.__retry_policy,
            fails=self.__error_policy is AsyncioLogSinkErrorPolicy.FAIL,
            timeout=self.__delivery_timeout,
            accounts=accounts,
            disk=self.__disk,
            dead_letter=None if self.__dead_letter is None else self.__dead_letter[0],
            label=self._label(),
            is_failure=self.__is_failure,
            take=self.__take_window,
            pause=self.__pause,
        )

    # ------------------------------------------------------------------ what a subclass implements

    async def _dispatch_core(self, event: LogEvent) -> None:
        """Deliver one event."""
        await self._dispatch_batch(LogEventBatch._make((event,), (self.__courier.make_run(1),), 1))

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        """Deliver events, in order."""
        for event in events:
            await self._dispatch_core(event)

    async def _on_starting(self) -> None:
        """Prepare: open, check. Runs before the first event of each run of the worker, and again in a forked child that
        logs. What it raises ends the start."""

    async def _on_connecting(self) -> None:
        """Connect. Runs before the first delivery of a run, and before the next one when a delivery has failed. What it
        raises counts as a failure of the delivery, which is retried."""

    def _is_connection_lost(self) -> bool:
        """True when the connection is known to be broken: it is made anew before the next delivery, which has not failed
        then. Asked before each; must not block."""
        return False

    async def _on_disconnecting(self) -> None:
        """Give up the connection that `_on_connecting` has made. Runs when a delivery has failed (but not for its content,
        and not when the destination only asks for a while), and at the end of a run. What it raises is ignored; prefer to
        abort what is broken over saying goodbye."""

    async def _on_stopped(self) -> None:
        """Give back what `_on_starting` took. Runs after the last event of each run of the worker."""

    def _classify_error(self, error: BaseException) -> LogDeliveryErrorKind:
        """Say what an error of ``_dispatch_*`` means for the events. A subclass that knows its client overrides it, and
        calls this one for what it does not know."""
        if isinstance(error, LogDeliveryRefusedError):
            return LogDeliveryErrorKind.REFUSED
        if isinstance(error, OSError):
            # A datagram that is too long is too long the next time too.
            return LogDeliveryErrorKind.REFUSED if error.errno == errno.EMSGSIZE else LogDeliveryErrorKind.TRANSIENT
        if isinstance(error, (LogDeliveryTransientError, EOFError, asyncio.LimitOverrunError, MemoryError)):
            return LogDeliveryErrorKind.TRANSIENT
        return LogDeliveryErrorKind.UNKNOWN

    # ------------------------------------------------------------------ making one

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        """Say what the options describe. Needs ``sink_type``, ``resource_options`` and ``secret_options`` of the class; one
        that is not so simple overrides it.

        Raises:
            LogConfigurationError: An option is unknown, missing, or has the wrong type.
            TypeError: The class has no ``sink_type``.
        """
        if not cls.sink_type:
            raise TypeError(f"{cls.__name__} cannot be registered: give it a sink_type, or override build_descriptor")
        options = check_options(cls, kwargs)
        known = get_options(cls)
        resource = tuple(options.pop(name, known[name].default) for name in cls.resource_options)
        return cls._describe(cls.sink_type, tuple(map(_hashable, resource)), options, secrets=cls.secret_options)

    @classmethod
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        """The options that stand in a URL before its query: see ``url_parts``.

        Args:
            url: The URL, split; of its parts the escapes (``%40``) are resolved here.

        Raises:
            LogConfigurationError: It has a part that is no option of this class, or its port is no number.
        """
        return options_from_url(cls, url, cls.url_parts)

    @classmethod
    def _describe(
        cls, sink_type: str, resource_key: tuple[Any, ...], options: Mapping[str, Any], *, secrets: Iterable[str] = ()
    ) -> LogSinkDescriptor:
        """A descriptor of checked options; the values of ``secrets`` are replaced by a hash that tells them apart."""
        import hashlib

        hidden = set(secrets)
        key: list[tuple[str, Any]] = []
        for name in sorted(options):
            value = options[name]
            if name in hidden and value is not None:
                value = f"hidden:{hashlib.blake2b(repr(value).encode(), key=_HASH_KEY, digest_size=8).hexdigest()}"
            key.append((name, _hashable(value)))
        return LogSinkDescriptor(sink_type, resource_key, tuple(key))

    @classmethod
    def create(cls: type[S], **kwargs: Any) -> tuple[S, LogSinkTerminator]:
        """Make a sink on a thread and an event loop of its own, and start it.

        Args:
            **kwargs: What the constructor takes.

        Returns:
            The running sink, and its terminator: `close`.

        Raises:
            AsyncioLogSinkOnStartingHookFailedError: ``_on_starting`` raised; nothing is left behind.
            Exception: What the constructor raises.
        """
        label = kwargs.get("namespace") or cls.__name__
        thread = LoopThread(f"mvx-logger-{label}")

        def construct() -> S:
            token = _constructing.set((cls, thread))
            try:
                return cls(**kwargs)
            finally:
                _constructing.reset(token)

        try:
            sink = thread.call(construct)
        except BaseException:
            thread.request_stop()
            thread.join(_GRACE)
            raise
        handle = sink.start()
        try:
            result = _wait_under_module_lock(handle, thread) if _holds_module_lock() else handle.wait()
        except BaseException:  # interrupted
            sink.close(wait=False)
            raise
        if result is not None and result.error is not None:
            thread.join(_GRACE)
            raise result.error
        return sink, sink.close

    # ------------------------------------------------------------------ logging

    def log(self, event: LogEvent) -> None:
        """Accept an event for delivery. Never waits for the backend; thread-safe; may be called in signal handlers.

        Raises:
            AsyncioLogSinkQueueOverflowError: The queue is full and its policy is ``RAISE_ERROR``.
            AsyncioLogSinkError: The sink has failed or cannot run any more.
        """
        queue = self.__queue
        if len(queue.events) >= queue.limit or mark.value is not None or internal.get():
            self.__log_slowly(event)
            return
        excess = measure_excess(event)
        if excess or not self.__offer(event):
            self.__log_slowly(event, excess)

    def __offer(self, event: LogEvent) -> bool:
        """Accept an event that is known to be light, and not the logger's own doing, if there is room for it.

        False where there is none, or something else has to be seen to: `log` decides what becomes of it.
        """
        queue = self.__queue
        events = queue.events
        size = len(events)
        if size >= queue.limit:
            return False
        events.append(event)
        if not size % MARKS:
            self.__accounts.marks.append((self.__accounts.head + size, time.monotonic()))
        if size + 1 >= queue.wake_at:
            self.__wake()
        return True

    offers[log] = __offer

    def __log_slowly(self, event: LogEvent, excess: int | None = None) -> None:
        if is_internal():
            self.__accounts.reject("recursion")
            report_recursion(event.meta.event_namespace, event.meta.event_name)
            return
        queue = self.__queue
        if queue.is_open and (len(queue.events) >= queue.wake_at or self.__loop.is_closed()):
            # It is full, and the worker waits for company still; or its loop was closed at work.
            self.__wake()
        while not queue.is_open:
            self.__revive()
        if self.__drops_new and len(queue.events) >= queue.capacity:
            self.__accounts.lose_new("queue_full")  # at once: what is lost need not be measured
            return
        if not (self.__commits and self.__commit(event)):
            if excess is None:
                excess = measure_excess(event)
            if self.__drops_oldest:
                queue.evict(excess, "queue_full")
            elif not queue.has_room(excess) and not self.__make_room(excess):
                return
            queue.append(event, excess)
            if len(queue.events) >= queue.wake_at:
                self.__wake()
        if process.is_ending():
            # Nobody will wait for the worker any more, but this caller.
            self._join(time.monotonic() + self.__shutdown_timeout)

    def __commit(self, event: LogEvent) -> bool:
        """Put the event on the disk; False when it has to wait in memory, because the disk refuses or because this is a
        signal handler that has interrupted a commit."""
        disk = self.__disk
        if disk is None or not disk.is_willing():
            return False
        while (done := disk.commit(event)) is None:
            with self.__life:
                if not self.__move_to_disk():
                    return False
        if not done:
            return False
        if self.__accounts.ended:
            self.__wake()
        elif self.__alarm is not None:
            self.__call_worker()
        return True

    def __revive(self) -> None:
        with self.__life, self.__accounts.lock:
            state = self.__state
            if state is AsyncioLogSinkState.FAILURE:
                self.__accounts.reject("failure")
                raise AsyncioLogSinkInvalidStateError(
                    f"{self._label()} has failed; start() tries again", cause=self.__failure
                )
            if not self.__dedicated and self.__loop.is_closed():
                self.__accounts.reject("loop_closed")
                raise AsyncioLogSinkEventLoopUnavailableError(
                    f"{self._label()}: the event loop that it was constructed on is closed"
                )
            if state is AsyncioLogSinkState.CANCELLED:
                self.__accounts.reject("cancelled")
                raise AsyncioLogSinkDispatcherCancelledError(f"{self._label()}: its worker was cancelled")
            if state is AsyncioLogSinkState.VIRGIN:
                self.start()
            elif state is AsyncioLogSinkState.STOPPED:
                if not self.__dedicated:
                    self.__accounts.reject("stopped")
                    raise AsyncioLogSinkInvalidStateError(f"{self._label()} is stopped; start() it again")
                self.__start_for_straggler()

    def __start_for_straggler(self) -> None:
        """An event came after the end: it is delivered, and then the sink ends again."""
        self.__implicit = True
        self.__start_worker()
        if self.__queue.is_open:
            self.__request_stop(self.__shutdown_timeout)

    def __make_room(self, excess: int) -> bool:
        """True when the event may be appended although the queue was full.

        Where the sink has ended meanwhile, too: what becomes of the event is decided after it is appended.
        """
        queue = self.__queue
        if self.__disk is not None and self.__disk.is_willing():
            with self.__life:
                self.__move_to_disk()
            if queue.has_room(excess):
                self.__call_worker()
                return True
        policy = self.__overflow_policy
        if policy is AsyncioLogSinkQueueOverflowPolicy.DROP_OLDEST:
            queue.evict(excess, "queue_full")
            return True
        if policy is AsyncioLogSinkQueueOverflowPolicy.BLOCK and not self._is_own_thread():
            if queue.wait_for_room(excess, self.__block_timeout):
                return True
            self.__accounts.lose_new("block_timeout")
            return False
        with self.__accounts.lock:
            if not queue.is_open:
                return True
            if policy is AsyncioLogSinkQueueOverflowPolicy.RAISE_ERROR:
                self.__accounts.reject("queue_full")
                raise AsyncioLogSinkQueueOverflowError(
                    f"{self._label()}: the queue is full ({len(queue.events)} events, about {queue.count_bytes()} bytes); "
                    "the event was not accepted",
                    details={"queue_max_size": self.__max_size, "queue_max_bytes": self.__max_bytes},
                )
            self.__accounts.lose_new("queue_full")
        return False

    def __wake(self) -> None:
        try:
            self.__queue.wake_at = NEVER
            # Only now: this run of the worker may end, and another one begin on another loop, at any moment.
            loop = self.__loop
            if self.__accounts.ended:
                self.__queue.wake_at = 1
                self.__revive_for_queue()
                return
            try:
                loop.call_soon_threadsafe(self.__end_sleep)
            except RuntimeError:  # it is closed
                self.__on_loop_lost(loop)
        except BaseException:  # a signal handler raised: the next event wakes the worker
            self.__queue.wake_at = 1
            raise

    def __call_worker(self) -> None:
        """Let it look for itself, whatever it waits for."""
        try:
            self.__loop.call_soon_threadsafe(self.__end_sleep)
        except RuntimeError:  # closed: the next event that waits in the queue notices
            pass

    def __revive_for_queue(self) -> None:
        """The worker ended between the caller's look at the queue and its append."""
        with self.__life:
            with self.__accounts.lock:
                if not self.__accounts.ended or not (self.__queue.events or self.__accounts.spooled):
                    return
                if self.__state is AsyncioLogSinkState.STOPPED and self.__dedicated:
                    self.__start_for_straggler()
                    return
            self.__settle_leftovers(self.__state.value)

    def __end_sleep(self) -> None:
        if not self.__is_current_loop():
            return
        sleeper = self.__sleeper
        if sleeper is not None:
            _set_done(sleeper)
        self.__ring()

    def __is_current_loop(self) -> bool:
        """False in what was scheduled for a run that is over: the next one may be on another thread already."""
        return asyncio.get_running_loop() is self.__loop

    def __on_loop_lost(self, loop: asyncio.AbstractEventLoop) -> None:
        """The application's loop was closed under the sink: nothing that waits can be delivered any more."""
        with self.__life:
            with self.__accounts.lock:
                lost = self.__accounts.ended or loop is not self.__loop
                if not lost:
                    self.__shut()
            if lost:  # the worker has ended meanwhile, or another one has begun
                self.__wake()
                return
            left = self.__settle_leftovers("loop_closed")
            with self.__accounts.lock:
                self.__finish(
                    AsyncioLogSinkState.CANCELLED,
                    AsyncioLogSinkEventLoopUnavailableError(f"{self._label()}: its event loop was closed"),
                )
        selflog.report(
            "loop_closed",
            "the event loop of a sink was closed under it",
            limit=not left,
            sink=self._label(),
            **(left or {"lost": 0}),
        )

    # ------------------------------------------------------------------ life

    def get_status(self) -> AsyncioLogSinkState:
        """Where the sink is in its life."""
        return self.__state

    def start(self) -> AsyncioLogSinkWaitHandle:
        """Start the worker, unless it runs. Concurrent calls share one operation.

        While the sink is stopping, it starts again when it has stopped.
        """
        with self.__life, self.__accounts.lock:
            state = self.__state
            handle = self.__start_handle
            if state in (AsyncioLogSinkState.STARTING, AsyncioLogSinkState.RUNNING) and handle is not None:
                return handle
            if state is AsyncioLogSinkState.STOPPING:
                if self.__restart_handle is None:
                    self.__restart_handle = AsyncioLogSinkWaitHandle(AsyncioLogSinkOp.START, self)
                return self.__restart_handle
            handle = AsyncioLogSinkWaitHandle(AsyncioLogSinkOp.START, self)
            if self.__abandoned:
                handle._resolve(AsyncioLogSinkInvalidStateError(f"{self._label()} is stuck in a call that blocks it"))
                return handle
            return self.__start_worker(handle)

    def __start_worker(self, handle: AsyncioLogSinkWaitHandle | None = None) -> AsyncioLogSinkWaitHandle:
        handle = self.__start_handle = handle or AsyncioLogSinkWaitHandle(AsyncioLogSinkOp.START, self)
        self.__stop_handle = None
        self.__stop_deadline = None
        self.__out_of_time = False
        self.__is_ending = False
        self.__failure = None
        self.__state = AsyncioLogSinkState.STARTING
        try:
            if self.__dedicated and self.__thread is None:
                self.__thread = LoopThread(f"mvx-logger-{self.__namespace or type(self).__name__}")
                self.__loop = self.__thread.loop
            # Only now, for those who append meanwhile: from here on there is a loop to wake.
            self.__unshut()
            process.hold(self)
            if self._is_own_thread():
                # At once: a main coroutine that returns now must not leave asyncio.run() a task that has not begun.
                self.__spawn()
            else:
                self.__loop.call_soon_threadsafe(self.__spawn)
        except Exception as err:
            # The application's loop is closed; or there is no thread, descriptor or memory to be had.
            self.__shut()
            self.__settle_leftovers("failure")
            self.__finish(
                AsyncioLogSinkState.FAILURE,
                AsyncioLogSinkEventLoopUnavailableError(f"{self._label()} cannot be started: {err}", cause=err),
            )
        return handle

    def __spawn(self) -> None:
        context = contextvars.Context() if self.__dedicated else contextvars.copy_context()
        context.run(internal.set, True)
        name = f"mvx-logger-{self.__namespace or type(self).__name__}"
        begun: list[bool] = []
        self.__task = self.__loop.create_task(self.__work(begun), name=name, context=context)
        self.__task.add_done_callback(partial(self.__on_task_done, begun))

    def __on_task_done(self, begun: list[bool], task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # the sink's accounts tell of it; asyncio need not
        if not begun:  # cancelled too early
            self.__end_run(self.__cancelled())

    def stop(self) -> AsyncioLogSinkWaitHandle:
        """Deliver what was accepted, within ``shutdown_timeout``, then end the worker.

        Concurrent calls share one operation. What is logged meanwhile is delivered too.
        """
        return self.__stop_within(self.__shutdown_timeout)

    def __stop_within(self, timeout: float) -> AsyncioLogSinkWaitHandle:
        with self.__life, self.__accounts.lock:
            if self.__restart_handle is not None:
                self.__restart_handle._resolve(
                    AsyncioLogSinkInvalidStateError(f"{self._label()} was stopped before it had started again")
                )
                self.__restart_handle = None
            if self.__stop_handle is not None:
                return self.__stop_handle
            if self.__state in (AsyncioLogSinkState.STARTING, AsyncioLogSinkState.RUNNING):
                return self.__request_stop(timeout)
            handle = self.__stop_handle = AsyncioLogSinkWaitHandle(AsyncioLogSinkOp.STOP, self)
            if self.__state is AsyncioLogSinkState.VIRGIN:
                self.__state = AsyncioLogSinkState.STOPPED
                self.__shut()
                self.__end_thread()
            handle._resolve()
        return handle

    def __request_stop(self, timeout: float) -> AsyncioLogSinkWaitHandle:
        handle = self.__stop_handle = AsyncioLogSinkWaitHandle(AsyncioLogSinkOp.STOP, self)
        self.__state = AsyncioLogSinkState.STOPPING
        self.__stop_deadline = time.monotonic() + timeout
        try:
            self.__loop.call_soon_threadsafe(self.__begin_stop)
        except RuntimeError:
            self.__on_loop_lost(self.__loop)
        return handle

    def __begin_stop(self) -> None:
        self.__courier.hurry(HURRY)
        self.__end_sleep()
        if self.__stop_deadline is not None and self.__is_current_loop() and not self.__is_ending:
            self.__forget_deadline()
            left = self.__stop_deadline - time.monotonic()
            self.__deadline_timer = self.__loop.call_later(max(0.0, left), self.__end_in_time, self.__task)

    def __end_in_time(self, task: asyncio.Task[None] | None) -> None:
        if task is not None and task is self.__task and not self.__accounts.ended:
            self.__out_of_time = True
            task.cancel()

    def __forget_deadline(self) -> None:
        if self.__deadline_timer is not None:
            self.__deadline_timer.cancel()
            self.__deadline_timer = None

    def close(self, *, wait: bool = True) -> None:
        """Deliver what was accepted, within ``shutdown_timeout``, and end worker, loop and thread. Idempotent.

        Args:
            wait: False returns at once: the sink ends in the background, and the end of the process waits for it.
        """
        self.stop()
        if wait:
            self._join(time.monotonic() + self.__shutdown_timeout)

    def _exit_timeout(self) -> float:
        return self.__shutdown_timeout

    def _close_within(self, timeout: float) -> None:
        self.__stop_within(min(timeout, self.__shutdown_timeout))

    def _join(self, deadline: float) -> None:
        """Wait for a requested stop; count what is left when it does not come in time."""
        handle = self.__stop_handle
        if handle is None or self._is_own_thread():
            return
        # The worker gives up by itself at the deadline. The grace is for its last steps; only a worker that is stuck in
        # a call that blocks its loop is left behind.
        deadline += _GRACE
        try:
            handle._future.result(max(0.0, deadline - time.monotonic()) if self._loop_runs() else 0.0)
        except TimeoutError:
            self._abandon()
            return
        if self.__last_thread is not None:
            self.__last_thread.join(max(0.0, deadline - time.monotonic()))

    def _get_patience(self, handle: AsyncioLogSinkWaitHandle) -> float | None:
        """For how long the operation may take; None where that is not known."""
        deadline = self.__stop_deadline
        if handle is not self.__stop_handle or deadline is None:
            return None
        return max(0.0, deadline + _GRACE - time.monotonic())

    def _loop_runs(self) -> bool:
        # A dedicated one may have been told to run a moment ago only.
        return self.__dedicated or self.__loop.is_running()

    def _abandon(self) -> None:
        # The worker may hold __life for ever, in a write to a disk that hangs: then what waits in memory cannot be kept.
        held = self.__life.acquire(timeout=_GRACE)
        try:
            with self.__accounts.lock:
                if self.__accounts.ended:
                    return
                self.__shut()
                self.__abandoned = True
            left = self.__settle_leftovers("shutdown", spool=held)
            with self.__accounts.lock:
                self.__finish(
                    AsyncioLogSinkState.FAILURE,
                    AsyncioLogSinkUnexpectedError(f"{self._label()} did not stop in time: its event loop is blocked"),
                )
        finally:
            if held:
                self.__life.release()
        if left or self._loop_runs():
            selflog.report(
                "shutdown", "a sink did not stop in time", limit=False, sink=self._label(), **(left or {"lost": 0})
            )

    def _after_fork_in_child(self) -> None:
        held = vars(self).copy()
        del held["_AsyncioLogSink__queue"]  # the parent's events, for which this process need not keep memory
        _of_the_parent.append(held)
        thread, task, was = self.__thread, self.__task, self.__state
        if self.__disk is not None:
            self.__disk.forget_after_fork()
        self.__begin_life()
        self.__thread = None
        # Also a sink that was bound to the application's loop: there is no such loop in the child.
        self.__dedicated = True
        self.__implicit = True
        if was in (AsyncioLogSinkState.STOPPED, AsyncioLogSinkState.STOPPING):
            self.__state = AsyncioLogSinkState.STOPPED
            self.__shut()
        tasks: set[Any] = {task} if thread is None else asyncio.all_tasks(thread.loop)
        _of_the_parent.append(tasks)
        for entry in tasks - {None}:
            entry._log_destroy_pending = False

    # ------------------------------------------------------------------ the worker

    async def __work(self, begun: list[bool]) -> None:
        begun.append(True)
        try:
            while True:
                end = await self.__run()
                if self.__end_run(end):
                    return
                # Something was logged while the sink was closing: it gets a run of its own.
                self.__is_ending = False
                self.__begin_stop()
        except GeneratorExit:  # thrown away with its loop; in a forked child the sink has begun afresh long since
            raise
        except BaseException as err:  # SystemExit or KeyboardInterrupt on the application's loop, which is to see it
            fault = AsyncioLogSinkUnexpectedError(
                f"{self._label()}: its worker failed: {type(err).__name__}", cause=err
            )
            self.__end_run(_End(AsyncioLogSinkState.FAILURE, "failure", fault))
            raise

    async def __run(self) -> _End:
        cancelled = None
        try:
            try:
                await self.__prepare()
            except asyncio.CancelledError as err:
                if self.__is_failure(err) or self.__out_of_time or not self.__has_work():
                    raise
                cancelled = self.__take_grace()
                await self.__prepare()
        except BaseException as err:
            if not self.__is_failure(err) and not isinstance(err, asyncio.CancelledError):
                raise
            self.__accounts.note_error(err)
            if cancelled is not None:
                return cancelled
            if not self.__is_failure(err):
                return self.__cancelled()
            return _End(
                AsyncioLogSinkState.FAILURE,
                "failure",
                AsyncioLogSinkOnStartingHookFailedError(
                    f"{self._label()}: _on_starting failed: {describe_error(err)}", cause=err
                ),
            )
        with self.__accounts.lock:
            if self.__state is AsyncioLogSinkState.STARTING:
                self.__state = AsyncioLogSinkState.RUNNING
            if self.__start_handle is not None:
                self.__start_handle._resolve()
        if self.__disk is not None:
            self.__spooler = self.__loop.create_task(self.__feed_disk(), name=f"mvx-logger-{self._label()}-spooler")
        end = await self.__run_until_stopped()
        self.__is_ending = True  # which has a time of its own
        self.__forget_deadline()
        self.__courier.rest()
        await self.__end_spooler()
        await self.__disconnect()
        try:
            async with asyncio.timeout(max(0.5, self.__time_left())):
                await self._on_stopped()
        except BaseException as err:
            if not self.__is_failure(err) and not isinstance(err, asyncio.CancelledError):
                raise
            self.__accounts.note_error(err)
            if end.error is None:
                end.error = AsyncioLogSinkOnStoppedHookFailedError(
                    f"{self._label()}: _on_stopped failed: {describe_error(err)}", cause=err
                )
        return cancelled or end

    async def __disconnect(self) -> None:
        try:
            await self.__courier.disconnect(max(0.5, self.__time_left()))
        except asyncio.CancelledError as err:  # out of time, or cancelled: the run ends anyway
            self.__accounts.note_error(err)

    async def __prepare(self) -> None:
        if self.__disk is not None:
            with self.__life:
                self.__disk.open(at_once=True)  # what an earlier run has left there comes first
        patience = DeliverySchedule(self.__retry_policy)
        while True:
            try:
                await self._on_starting()
                self.__implicit = False
                return
            except BaseException as err:
                # Nobody has asked for this start and would hear of its failure (a forked child, an event after the end):
                # it is as good as a delivery that fails.
                if (
                    not self.__implicit
                    or not self.__is_failure(err)
                    or self.__courier.get_kind(err) is not LogDeliveryErrorKind.TRANSIENT
                ):
                    raise
                self.__courier.tell_of_failure(err, 0)
                patience.abandon()
                patience.begin(1)
                patience.decide(time.monotonic())
                now = time.monotonic()
                if patience.failed(now, LogDeliveryErrorKind.TRANSIENT) or self.__error_policy is (
                    AsyncioLogSinkErrorPolicy.FAIL
                ):
                    raise
                step = patience.decide(now)
                if isinstance(step, Wait):
                    await self.__await_alarm(min(step.until - now, HURRY) if self.__hurried() else step.until - now)

    async def __run_until_stopped(self) -> _End:
        try:
            try:
                await self.__deliver_until_stopped()
            except asyncio.CancelledError:
                if self.__out_of_time:
                    return self.__cancelled()
                end = self.__take_grace()
                try:
                    await self.__deliver_until_stopped()
                except DeliveryFailed:
                    raise
                except (Exception, asyncio.CancelledError) as err:
                    self.__accounts.note_error(err)
                return end
        except DeliveryFailed as failed:
            cause = failed.__cause__
            return _End(
                AsyncioLogSinkState.FAILURE,
                "failure",
                AsyncioLogSinkUnexpectedError(
                    f"{self._label()}: a delivery failed: {'' if cause is None else describe_error(cause)}", cause=cause
                ),
            )
        return _End(AsyncioLogSinkState.STOPPED, "shutdown", None)

    def __take_grace(self) -> _End:
        """The worker was cancelled from outside. asyncio.run() does so when its main coroutine returns, and then waits for
        the worker: there is time to deliver what was accepted."""
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        self.__stop_deadline = time.monotonic() + self.__shutdown_timeout
        self.__begin_stop()
        return self.__cancelled()

    def __cancelled(self) -> _End:
        if self.__out_of_time:
            return _End(AsyncioLogSinkState.STOPPED, "shutdown", None)
        return _End(
            AsyncioLogSinkState.CANCELLED,
            "cancelled",
            AsyncioLogSinkDispatcherCancelledError(f"{self._label()}: its worker was cancelled"),
        )

    def __is_failure(self, err: BaseException) -> bool:
        """True for what the subclass' code has raised, False for what ends the worker."""
        if isinstance(err, asyncio.CancelledError):
            # What the code waited for may have been cancelled, and not the worker.
            task = asyncio.current_task()
            return task is not None and not task.cancelling()
        if isinstance(err, (KeyboardInterrupt, SystemExit)):
            # On the application's loop they are the application's.
            return self.__dedicated
        return not isinstance(err, GeneratorExit)

    def __time_left(self) -> float:
        deadline = self.__stop_deadline
        return self.__shutdown_timeout if deadline is None else deadline - time.monotonic()

    def __has_work(self) -> bool:
        disk = self.__disk
        return bool(self.__queue.events) or self.__courier.window is not None or (disk is not None and disk.has_more())

    async def __deliver_until_stopped(self) -> None:
        linger = False
        while True:
            window = self.__courier.window
            if window is None:
                if linger and not await self.__wait_for_company():
                    linger = False
                window = self.__take_window()
            if window is not None:
                await self.__courier.deliver(window)
                linger = self.__disk is None
                # A subclass may never suspend: then deadlines, and whatever else is on the loop, have their turn here.
                await asyncio.sleep(0)
            elif self.__stop_deadline is not None:
                return
            else:
                linger = False
                await self.__rest()

    async def __rest(self) -> None:
        """Sleep until there is something to do."""
        disk = self.__disk
        if disk is None:
            await self.__sleep(1, None)
        elif not disk.is_open:  # it refuses
            await self.__await_alarm(DISK_PAUSE)
            with self.__life:
                disk.open()
        elif await self.__await_alarm(ADOPT_INTERVAL):
            with self.__life:
                disk.adopt()

    async def __pause(self, seconds: float, wants_more: bool) -> None:
        """Let the courier wait; a new event need not end that, unless it would help to decide."""
        if self.__disk is None:
            await self.__sleep(1 if wants_more else NEVER, seconds)
        else:
            await self.__await_alarm(seconds)

    async def __wait_for_company(self) -> bool:
        if self.__hurried():
            return False
        await self.__sleep(self.__company, self.__batch_max_age)
        return True

    def __hurried(self) -> bool:
        return self.__stop_deadline is not None or self.__accounts.is_hurried()

    async def __sleep(self, wake_at: int, seconds: float | None) -> None:
        """Sleep until the queue is ``wake_at`` long, someone flushes or stops, or the seconds are over."""
        sleeper = self.__sleeper = self.__loop.create_future()
        self.__queue.wake_at = wake_at
        timer = None
        try:
            # Only after __wake_at is set: an event that is appended from here on wakes the worker.
            if len(self.__queue.events) < wake_at:
                timer = None if seconds is None else self.__loop.call_later(seconds, _set_done, sleeper)
                await sleeper
        finally:
            if timer is not None:
                timer.cancel()
            if self.__sleeper is sleeper:
                self.__sleeper = None
                if not self.__accounts.ended:
                    self.__queue.wake_at = NEVER

    async def __await_alarm(self, seconds: float) -> bool:
        """Sleep until someone flushes or stops, events are on the disk, or the seconds are over: True for the last."""
        alarm = self.__alarm = self.__loop.create_future()
        timer = None
        try:
            # Only after __alarm is set: who commits an event from here on rings it.
            if seconds > 0 and (self.__courier.window is not None or self.__disk is None or not self.__disk.has_more()):
                timer = self.__loop.call_later(min(seconds, FOREVER), _set_late, alarm)
                await alarm
                return bool(alarm.result())
            await asyncio.sleep(0)
            return False
        finally:
            if timer is not None:
                timer.cancel()
            if self.__alarm is alarm:
                self.__alarm = None

    # ------------------------------------------------------------------ taking

    def __take_window(self, count: int | None = None) -> Window | None:
        """Take what is there, as far as it makes a batch."""
        limit = self.__batch_max_size if count is None else count
        disk = self.__disk
        if disk is None:
            return self.__take_from_memory(limit)
        window = disk.read(limit, self.__batch_max_bytes)
        if window is not None or not self.__queue.events:
            return window
        with self.__life:  # nobody else moves events to the disk meanwhile: they would be older than what is taken here
            self.__move_to_disk()
            # When the disk refuses, it may have taken some all the same, and they come first.
            window = disk.read(limit, self.__batch_max_bytes)
            return self.__take_from_memory(limit) if window is None else window

    def __take_from_memory(self, limit: int) -> Window | None:
        queue, accounts = self.__queue, self.__accounts
        if not queue.events:
            return None
        with accounts.lock:
            events = queue.take(limit, self.__batch_max_bytes)
            accounts.inflight += len(events)
        if not events:
            return None
        queue.tell_of_room()
        return Window(tuple(events), self.__courier.make_run(len(events)), spooled=False, recovered=False)

    def __move_to_disk(self) -> bool:
        """Move what is in the queue to the disk; False when that refuses. The caller holds ``__life``."""
        disk = self.__disk
        return disk is not None and disk.open() and disk.move(self.__batch_max_size, self.__batch_max_bytes)

    async def __feed_disk(self) -> None:
        """Move events from the queue to the disk, whatever the worker waits for."""
        while True:
            await self.__sleep(1, None)
            while self.__queue.events:
                with self.__life:
                    moved = self.__move_to_disk()
                self.__ring()
                if not moved:
                    await asyncio.sleep(DISK_PAUSE)
                elif self.__hurried():
                    await asyncio.sleep(0)
                else:
                    await self.__sleep(self.__company, self.__batch_max_age)

    def __ring(self) -> None:
        alarm = self.__alarm
        if alarm is not None and not alarm.done():
            alarm.set_result(False)

    async def __end_spooler(self) -> None:
        spooler, self.__spooler = self.__spooler, None
        if spooler is not None:
            spooler.cancel()
            try:
                await asyncio.wait((spooler,))
            except asyncio.CancelledError as err:  # the run ends anyway
                self.__accounts.note_error(err)

    # ------------------------------------------------------------------ the end of a run

    def __end_run(self, end: _End) -> bool:
        """Enter a final state; False when something waits in the queue and there is time left for it."""
        with self.__life:
            with self.__accounts.lock:
                is_over = self.__accounts.ended
                if is_over:  # given up on, and accounted for; whatever it was stuck in is over
                    self.__abandoned = False
                    self.__end_thread()
                else:
                    self.__shut()
                    if self.__has_work() and end.state is AsyncioLogSinkState.STOPPED and not self.__out_of_time:
                        self.__unshut()
                        return False
            if is_over:
                if self.__disk is not None:  # where that could not be closed
                    self.__disk.close()
                return True
            left = self.__settle_leftovers(end.reason)
            with self.__accounts.lock:
                # A new run gets a new thread: this one is about to end.
                self.__end_thread()
                restart = self.__restart_handle
                self.__restart_handle = None
                self.__finish(end.state, end.error)
                if restart is not None:
                    self.__start_worker(restart)
        if left:
            selflog.report(
                end.reason,
                "a sink ended before it had delivered everything",
                limit=False,
                sink=self._label(),
                **left,
                **({} if end.error is None else {"error": str(end.error)}),
            )
        elif end.state is AsyncioLogSinkState.FAILURE:
            selflog.report(end.reason, str(end.error), sink=self._label())
        return True

    def __shut(self) -> None:
        # In this order: an event that is appended from here on is either seen by whoever calls this, or its caller sees
        # that the run is over, and calls __revive_for_queue().
        self.__queue.shut()
        self.__accounts.ended = True

    def __unshut(self) -> None:
        self.__accounts.ended = False
        self.__queue.open(fast=not self.__commits)

    def __end_thread(self) -> None:
        # At the end of the process it stays, for stragglers: by then, no other thread can be started.
        if self.__thread is not None and not process.is_ending():
            self.__last_thread, self.__thread = self.__thread, None
            self.__last_thread.request_stop()

    def __finish(self, state: AsyncioLogSinkState, error: AsyncioLogSinkError | None) -> None:
        self.__state = state
        if error is not None:
            self.__failure = error
            self.__accounts.note_error(error)
        if self.__start_handle is not None:
            self.__start_handle._resolve(
                error or AsyncioLogSinkInvalidStateError(f"{self._label()} was stopped before it had started")
            )
        if self.__stop_handle is not None:
            self.__stop_handle._resolve(error)
        if self.__restart_handle is not None:
            self.__restart_handle._resolve(error)
            self.__restart_handle = None
        self.__accounts.wake_waiters()
        if self.__task is not None:
            # Where its loop never runs again, there is no need for asyncio to complain.
            self.__task._log_destroy_pending = False  # type: ignore[attr-defined]
        if self.__spooler is not None:
            self.__spooler._log_destroy_pending = False  # type: ignore[attr-defined]
        process.let_go(self)

    def __settle_leftovers(self, reason: str, *, spool: bool = True) -> dict[str, Any]:
        """Spool, dead-letter or drop what is left when a run has ended; what became of how many, if there was anything.

        The caller holds ``__life``, unless the disk must not be touched.
        """
        disk = self.__disk if spool else None
        if disk is not None and self.__queue.events:
            disk.move_anyhow(self.__batch_max_size, self.__batch_max_bytes)
        lost, dead_lettered = self.__courier.settle_leftovers(self.__queue, reason)
        if disk is not None:
            disk.close()
        if self.__dead_letter is not None and self.__dead_letter[1]:
            try:
                self.__dead_letter[0].close()  # type: ignore[attr-defined]
            except Exception as err:
                self.__accounts.note_error(err)
        told: dict[str, Any] = {"lost": lost} if lost else {}
        if dead_lettered:
            told = {"lost": lost, "dead_lettered": dead_lettered}
        if self.__disk is not None and self.__accounts.spooled:
            told = {"lost": lost, **told, "spooled": self.__accounts.spooled, "directory": self.__disk.directory}
        return told

    # ------------------------------------------------------------------ looking on

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the destination has everything that was accepted before the call.

        Args:
            timeout: Seconds; None waits without end, 0 only asks the worker to hurry.

        Returns:
            True when the destination has it all. False when time ran out, or some of it was lost or dead-lettered meanwhile.
            Where nothing can be waited for (on the sink's own thread, or where the loop that it is bound to does not
            run), False unless nothing is pending.
        """
        accounts = self.__accounts
        with accounts.lock:  # else an event that leaves the queue meanwhile is counted twice, and waited for in vain
            waiter = accounts.add_waiter(len(self.__queue.events))
            if waiter is None:
                return not accounts.has_left_behind()
        done = False
        try:
            self.__courier.hurry(HURRY if self.__stop_deadline is not None else None)
            self.__wake()
            if not self._is_own_thread() and self._loop_runs() and not accounts.ended:
                waiter.done.wait(bounded(timeout))
        finally:
            done = accounts.remove_waiter(waiter)
        return done

    def stats(self) -> LogSinkStats:
        """The sink's accounts at this moment."""
        disk = self.__disk
        courier = self.__courier
        spool_bytes = 0 if disk is None else disk.get_size()
        with self.__accounts.lock:
            return self.__accounts.tell(
                len(self.__queue.events),  # looked at once: others append meanwhile
                queue_bytes=self.__queue.count_bytes(),
                spool_bytes=spool_bytes,
                retries=courier.retries,
                circuit=courier.circuit,
                state=self.__state.value,
            )

    # ------------------------------------------------------------------ for subclasses

    async def _run_blocking(self, func: Callable[..., T], *args: Any) -> T:
        """Run work that blocks: right here on a thread of our own, in an executor on the application's loop.

        There, work that was cancelled goes on in its thread; the next one waits for its end.
        """
        if self.__dedicated:
            return func(*args)
        if self.__blocking is not None and not self.__blocking.done():
            await asyncio.wait((self.__blocking,))
        context = contextvars.copy_context()
        self.__blocking = self.__loop.run_in_executor(None, lambda: context.run(func, *args))
        return await asyncio.shield(self.__blocking)

    def _label(self) -> str:
        name = type(self).__name__
        return f"{name}({self.__namespace})" if self.__namespace else name

    def _is_own_thread(self) -> bool:
        if self.__thread is not None:
            return self.__thread.is_current()
        if self.__dedicated:
            return False
        try:
            return asyncio.get_running_loop() is self.__loop
        except RuntimeError:
            return False

    def __repr__(self) -> str:
        return f"<{self._label()} {self.__state.value}>"


def _holds_module_lock() -> bool:
    is_owned = getattr(getattr(sys.modules.get("logging"), "_lock", None), "_is_owned", None)
    return is_owned is not None and bool(is_owned())


def _wait_under_module_lock(handle: AsyncioLogSinkWaitHandle, thread: LoopThread) -> AsyncioLogSinkOpResult | None:
    """Wait for the start of a sink while this thread holds the lock of `logging` (dictConfig makes a handler).

    A client library that is imported now, or that logs, waits for that lock, and would for ever: then the start goes on
    without us, and its failure is told by `selflog`.
    """
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        try:
            return handle.wait(0.02)
        except TimeoutError:
            frame = sys._current_frames().get(thread.thread.ident or 0)
            if frame is not None and frame.f_globals.get("__name__") == "logging":
                break
    return None


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _set_late(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(True)


def _get_seconds(err: BaseException) -> float | None:
    seconds = getattr(err, "retry_after", None)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < FOREVER:
        return None
    return float(seconds)


def _check_number(
    name: str,
    value: object,
    *,
    minimum: int | None = None,
    above: int | None = None,
    whole: bool = False,
    optional: bool = False,
) -> None:
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise TypeError(f"{name}: expected {'an int' if whole else 'a number'}, got {type(value).__name__}")
    if minimum is not None and not value >= minimum:
        raise ValueError(f"{name}: expected {minimum} or more, got {value}")
    if above is not None and not value > above:
        raise ValueError(f"{name}: expected more than {above}, got {value}")


def _check_choice(name: str, value: object, choices: type[Enum]) -> None:
    if not isinstance(value, choices):
        raise TypeError(f"{name}: expected {choices.__name__}, got {type(value).__name__}")


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple(sorted((str(key), _hashable(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, (set, frozenset)):
        return tuple(sorted(map(repr, value)))
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, (str, int, float, bool, bytes)):
        return value
    try:
        hash(value)
    except TypeError:
        return f"{type(value).__name__}@{id(value):x}"
    return value
