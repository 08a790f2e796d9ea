"""Sinks made of sinks: `FanOutSink` (to all), `FilterSink` (some events only), `FallbackSink` (to the first that takes it).

Each has ``close()``, ``flush(timeout)`` and ``stats()``, which go down to the parts that have them. In configuration the
parts are the options ``sinks`` or ``sink``::

    {"class": "mvx_logger.FanOutSink", "sinks": ["memory:recent", {"class": "mvx_logger.FilterSink", "sink": ...}]}
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import translate
from typing import Any, ClassVar, TypeVar

from .. import selflog
from ..delivery.stats import LogSinkStats, combine_stats
from ..errors import LogConfigurationError
from ..guard import guarded_log, is_internal, mark
from ..model import LogEvent
from ..options import check_options, parse_level
from ..protocols import LogSinkDescriptor, LogSinkProto, LogSinkTerminator

__all__ = ["FallbackSink", "FanOutSink", "FilterSink"]

C = TypeVar("C", bound="_Combinator")

_MAX_VERDICTS = 4096


class _Combinator:
    """What sinks made of sinks share."""

    # Each part sees to it that nothing comes back to it: see `guarded_log`.
    guards_itself: ClassVar[bool] = True
    sink_type: ClassVar[str]
    """The ``sink_type`` of its descriptor."""

    def __init__(self, sinks: Sequence[Any], names: Sequence[str], owns_sinks: bool) -> None:
        for name, sink in zip(names, sinks, strict=True):
            if isinstance(sink, type) or not isinstance(sink, LogSinkProto):
                got = f"the class {sink.__name__}" if isinstance(sink, type) else type(sink).__name__
                raise TypeError(f"{name}: expected an object with log(event), got {got}")
        if not isinstance(owns_sinks, bool):
            raise TypeError(f"owns_sinks: expected a bool, got {type(owns_sinks).__name__}")
        self._sinks = tuple(sinks)
        self._logs = tuple(guarded_log(sink) for sink in sinks)
        self._owns_sinks = owns_sinks

    @classmethod
    def _split(cls, kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The parts, and the other options, checked."""
        options = dict(kwargs)
        sinks = options.pop("sinks", None)
        if not isinstance(sinks, (list, tuple)):
            found = "missing" if sinks is None else f"got {type(sinks).__name__}"
            raise LogConfigurationError(
                f"sinks: {found}; {cls.__name__} needs a list of sinks", details={"path": "sinks"}
            )
        return tuple(sinks), check_options(cls, options)

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        """Say what the options describe: which sink objects are combined, and how.

        Raises:
            LogConfigurationError: An option is missing, unknown or of the wrong type.
        """
        sinks, options = cls._split(kwargs)
        cls(*sinks, **options)  # nothing but checks
        return LogSinkDescriptor(
            cls.sink_type,
            tuple(_identify(sink) for sink in sinks),
            tuple((key, _freeze(options[key])) for key in sorted(options)),
        )

    @classmethod
    def create(cls: type[C], **kwargs: Any) -> tuple[C, LogSinkTerminator]:
        """Make one of sinks that exist; its terminator is `close`.

        Args:
            **kwargs: The constructor's options, and the parts as ``sinks=[...]`` (`FilterSink`: ``sink=...``).

        Raises:
            LogConfigurationError: An option is missing, unknown or of the wrong type.
        """
        sinks, options = cls._split(kwargs)
        combinator = cls(*sinks, **options)
        return combinator, combinator.close

    @property
    def sinks(self) -> tuple[LogSinkProto, ...]:
        """The parts."""
        return self._sinks

    def close(self) -> None:
        """Close the parts that can be closed, unless ``owns_sinks`` is False. Each is, also when another one fails.

        Raises:
            Exception: What a part raised; an `ExceptionGroup` where several did.
        """
        if not self._owns_sinks:
            return
        errors: list[Exception] = []
        for sink in self._sinks:
            close = getattr(sink, "close", None)
            if close is not None:
                try:
                    close()
                except Exception as err:
                    errors.append(err)
        if errors:
            raise _as_one("sinks could not be closed", errors)

    def flush(self, timeout: float | None = None) -> bool:
        """Flush the parts that can be flushed.

        Args:
            timeout: Seconds for all of them together; None waits without end.

        Returns:
            True when all that was accepted before the call is confirmed. A part that raises is not, and is reported.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        flushed = True
        for sink in self._sinks:
            flush = getattr(sink, "flush", None)
            if flush is None:
                continue
            try:
                # A sink of somebody else's may return nothing: then it has done what it could.
                if flush(None if deadline is None else max(0.0, deadline - time.monotonic())) is False:
                    flushed = False
            except Exception as err:
                flushed = False
                selflog.report(
                    "flush", "a sink could not be flushed", sink=type(sink).__name__, error=type(err).__name__
                )
        return flushed

    def stats(self) -> LogSinkStats:
        """The accounts of the parts that keep them, as those of one sink: see `combine_stats`."""
        parts = []
        for sink in self._sinks:
            stats = getattr(sink, "stats", None)
            part = stats() if stats is not None else None
            if isinstance(part, LogSinkStats):
                parts.append(part)
        return combine_stats(parts)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(type(sink).__name__ for sink in self._sinks)}>"


class FanOutSink(_Combinator):
    """Sends each event to all of its sinks. One that fails does not keep the event from the others.

    Args:
        *sinks: Where events go, in this order; one or more.
        owns_sinks: False leaves closing them to somebody else.

    Raises:
        TypeError: One of them is no sink; the text says which.
        ValueError: There is none.
    """

    sink_type: ClassVar[str] = "fanout"

    def __init__(self, *sinks: LogSinkProto, owns_sinks: bool = True) -> None:
        _check_some(type(self), sinks)
        super().__init__(sinks, [f"sinks[{index}]" for index in range(len(sinks))], owns_sinks)

    def log(self, event: LogEvent) -> None:
        """Deliver the event.

        Raises:
            Exception: What a sink raised, after all were tried; an `ExceptionGroup` where several did.
        """
        errors: list[Exception] | None = None
        for log in self._logs:
            try:
                log(event)
            except Exception as err:
                if errors is None:
                    errors = []
                errors.append(err)
        if errors is not None:
            raise _as_one("sinks failed", errors)


class FilterSink(_Combinator):
    """Lets some events through to its sink.

    An entry of ``namespaces`` or ``exclude_namespaces`` without ``*``, ``?`` and ``[`` stands for that namespace and all
    below it (``shop``: ``shop`` and ``shop.orders``, not ``shopping``). One with any of these is a case-sensitive shell
    pattern for the whole namespace, in which ``*`` matches dots too. An event without a namespace counts as ``""``.

    Args:
        sink: Where events go that pass.
        min_level: Events below it do not pass: a number or a level's name.
        max_level: Events above it do not pass; None for no such limit.
        namespaces: Only events of these pass; empty for all.
        exclude_namespaces: Events of these do not pass, whatever ``namespaces`` says.
        predicate: Called with each event that passed so far; it passes when the result is true. When it raises, the
            event passes, and `selflog` tells.
        owns_sinks: False leaves closing the sink to somebody else.

    Raises:
        TypeError: An argument has the wrong type; the text names it.
        ValueError: A level is none, or ``max_level`` is below ``min_level``.
    """

    sink_type: ClassVar[str] = "filter"

    def __init__(
        self,
        sink: LogSinkProto,
        *,
        min_level: int | str = 0,
        max_level: int | str | None = None,
        namespaces: Sequence[str] = (),
        exclude_namespaces: Sequence[str] = (),
        predicate: Callable[[LogEvent], Any] | None = None,
        owns_sinks: bool = True,
    ) -> None:
        super().__init__((sink,), ("sink",), owns_sinks)
        self._min_level = _check_level("min_level", min_level)
        self._max_level = sys.maxsize if max_level is None else _check_level("max_level", max_level)
        if self._max_level < self._min_level:
            raise ValueError(f"max_level: expected min_level ({self._min_level}) or more, got {self._max_level}")
        self._included = _compile("namespaces", namespaces)
        self._excluded = _compile("exclude_namespaces", exclude_namespaces)
        if predicate is not None and not callable(predicate):
            raise TypeError(f"predicate: expected a callable or None, got {type(predicate).__name__}")
        self._predicate = predicate
        self._is_selective = self._included is not None or self._excluded is not None
        self._verdicts: dict[str | None, bool] = {}
        self._log = self._logs[0]

    @classmethod
    def _split(cls, kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        options = check_options(cls, kwargs)
        return (options.pop("sink"),), options

    def log(self, event: LogEvent) -> None:
        """Deliver the event if it passes. What the sink raises is raised."""
        if not self._min_level <= event.level <= self._max_level:
            return
        if self._is_selective:
            namespace = event.meta.event_namespace
            passes = self._verdicts.get(namespace)
            if passes is None:
                passes = self._judge(namespace)
            if not passes:
                return
        if self._predicate is not None and not self._ask(self._predicate, event):
            return
        self._log(event)

    def _judge(self, namespace: str | None) -> bool:
        name = namespace or ""
        passes = self._included is None or self._included(name) is not None
        if passes and self._excluded is not None:
            passes = self._excluded(name) is None
        if len(self._verdicts) >= _MAX_VERDICTS:
            self._verdicts.clear()
        self._verdicts[namespace] = passes
        return passes

    def _ask(self, predicate: Callable[[LogEvent], Any], event: LogEvent) -> bool:
        if is_internal():  # logged by a predicate, or elsewhere in the logging path: the sink refuses it
            return True
        before = mark.value
        try:
            mark.value = True
            return bool(predicate(event))
        except Exception as err:
            selflog.report("filter", "a predicate raised; the event passes", error=type(err).__name__)
            return True
        finally:
            mark.value = before


class FallbackSink(_Combinator):
    """Sends each event to the first of its sinks that takes it.

    A sink whose ``log`` raises is passed over for ``retry_after`` seconds, then tried again; `selflog` tells when it fails
    and when it is back. When no other sink takes an event, those that are passed over are tried all the same. An
    asynchronous sink takes an event when it has queued it: what becomes of it later moves nothing to the next sink.

    Args:
        *sinks: The first one is preferred, the others stand by, in this order; one or more.
        retry_after: Seconds, 0 or more.
        owns_sinks: False leaves closing them to somebody else.
        clock: Tells the time in seconds; it must not go back.

    Raises:
        TypeError: An argument has the wrong type; the text says which.
        ValueError: There is no sink, or ``retry_after`` is negative.
    """

    sink_type: ClassVar[str] = "fallback"

    def __init__(
        self,
        *sinks: LogSinkProto,
        retry_after: float = 1.0,
        owns_sinks: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check_some(type(self), sinks)
        super().__init__(sinks, [f"sinks[{index}]" for index in range(len(sinks))], owns_sinks)
        if isinstance(retry_after, bool) or not isinstance(retry_after, (int, float)):
            raise TypeError(f"retry_after: expected a number, got {type(retry_after).__name__}")
        if not retry_after >= 0:
            raise ValueError(f"retry_after: expected 0 or more seconds, got {retry_after}")
        if not callable(clock):
            raise TypeError(f"clock: expected a callable, got {type(clock).__name__}")
        self._retry_after = retry_after
        self._clock = clock
        self._order = tuple(enumerate(self._logs))
        # When each sink is to be tried again; None where it works.
        self._retry_at: list[float | None] = [None] * len(sinks)

    def log(self, event: LogEvent) -> None:
        """Deliver the event.

        Raises:
            Exception: What the sink raised, where none took the event; an `ExceptionGroup` of several.
        """
        errors: list[Exception] | None = None
        passed_over: list[int] | None = None
        for index, log in self._order:
            retry_at = self._retry_at[index]
            if retry_at is not None and self._clock() < retry_at:
                passed_over = passed_over or []
                passed_over.append(index)
                continue
            try:
                log(event)
            except Exception as err:
                errors = self._note_failure(index, err, errors)
                continue
            if retry_at is not None:
                self._note_return(index)
            return
        for index in passed_over or ():
            try:
                self._logs[index](event)
            except Exception as err:
                errors = self._note_failure(index, err, errors)
                continue
            self._note_return(index)
            return
        raise _as_one("no sink took the event", errors or [])

    def _note_failure(self, index: int, err: Exception, errors: list[Exception] | None) -> list[Exception]:
        first = self._retry_at[index] is None
        self._retry_at[index] = self._clock() + self._retry_after
        if first:
            selflog.report(
                "fallback",
                "a sink failed; the next one stands in",
                sink=type(self._sinks[index]).__name__,
                index=index,
                error=type(err).__name__,
            )
        return [err] if errors is None else [*errors, err]

    def _note_return(self, index: int) -> None:
        self._retry_at[index] = None
        selflog.report("fallback", "a sink is back", sink=type(self._sinks[index]).__name__, index=index)


def _check_some(cls: type, sinks: Sequence[Any]) -> None:
    if not sinks:
        raise ValueError(f"sinks: {cls.__name__} needs one or more")


def _check_level(name: str, level: Any) -> int:
    if isinstance(level, bool) or not isinstance(level, (int, str)):
        raise TypeError(f"{name}: expected a level (a number or a name), got {type(level).__name__}")
    return parse_level(level, path=name)


def _compile(name: str, entries: Any) -> Callable[[str], Any] | None:
    """A function that matches a namespace against the entries; None where there are none."""
    if isinstance(entries, (str, bytes)) or not isinstance(entries, (Sequence, set, frozenset)):
        raise TypeError(f"{name}: expected a list of namespaces, got {type(entries).__name__}")
    patterns = []
    for entry in entries:
        if not isinstance(entry, str):
            raise TypeError(f"{name}: a namespace is a str, got {type(entry).__name__}")
        is_pattern = any(character in entry for character in "*?[")
        patterns.append(translate(entry) if is_pattern else rf"(?s:{re.escape(entry)}(?:\..*)?)\Z")
    return re.compile("|".join(patterns)).match if patterns else None


def _as_one(message: str, errors: list[Exception]) -> Exception:
    return errors[0] if len(errors) == 1 else ExceptionGroup(message, errors)


def _identify(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}@{id(value):#x}"


def _freeze(value: Any) -> Any:
    if isinstance(value, (list, tuple, set, frozenset)):
        return tuple(value)
    return value if isinstance(value, (int, float, str, type(None))) else _identify(value)
