"""`StructlogSink`: events rendered by structlog, e.g. pretty on a console."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Literal
from urllib.parse import SplitResult

from structlog.exceptions import DropEvent

from ..bridge.structlog import (
    RENDERERS,
    build_object,
    build_processors,
    build_renderer,
    event_to_event_dict,
    get_pipeline_logger,
    method_of,
)
from ..delivery.stats import LogSinkStats
from ..errors import LogConfigurationError
from ..guard import is_internal, mark, report_recursion
from ..model import LogEvent
from ..options import check_options, parse_level
from ..protocols import LogSinkDescriptor, LogSinkTerminator

__all__ = ["StructlogSink"]

_STREAMS = ("stderr", "stdout")


class StructlogSink:
    """Renders each event by a chain of structlog processors, and writes it as a line or hands it to a wrapped logger.

    All options but live objects can be written in a plain data file.

    Args:
        stream: ``"stderr"`` or ``"stdout"``: the stream that `sys` has under that name when an event is written; or an
            object with ``write``, for text or bytes.
        renderer: The end of the chain: ``"console"`` (the default where there are no ``processors``), ``"json"``,
            ``"logfmt"`` or ``"key_value"``.
        processors: What runs before the renderer or, where no renderer is given, the whole chain. Each a processor, a
            dotted path, or a mapping ``{"class": "dotted.path", **options}``; see
            `mvx_logger.bridge.structlog.build_processors`. One that raises `structlog.DropEvent` drops the event.
        logger: Takes what the chain makes, by the method of the event's level, instead of a stream: a wrapped logger of
            structlog (`structlog.PrintLogger`, `structlog.BytesLogger`, a `logging.Logger`, ...), or how to make one, as in
            ``processors``.
        level: Events below it are not written: a number or a level's name.
        colors: For ``"console"``. None: where the stream is a terminal, unless ``NO_COLOR`` is set; also elsewhere if
            ``FORCE_COLOR`` is.
        sort_keys: Order keys by name, behind those that every event has.
        callsite: Show where events were logged, as far as it is known: file, line, function, process, thread.
        structured_exceptions: Give the chain exceptions as data instead of as text, where the data is known. None: for
            ``"json"`` only.
        timestamp_format: ``"iso"``, ``"unix"`` (seconds since the epoch), or a `strftime` format. None:
            ``"%Y-%m-%d %H:%M:%S"`` for ``"console"``, else ``"iso"``.
        timestamp_utc: UTC or local time. None: local time for ``"console"``, else UTC.

    Raises:
        LogConfigurationError: An option is wrong.

    URL: ``console:``, ``console:stdout?colors=false&renderer=logfmt``.

    >>> from mvx_logger.model import LogEvent, LogEventMeta
    >>> sink = StructlogSink(stream=sys.stdout, renderer="logfmt")
    >>> sink.log(LogEvent(20, LogEventMeta("shop", "order.created"), None, 0.0, {"order_id": "o-1"}))
    timestamp=1970-01-01T00:00:00Z level=info logger=shop event=order.created order_id=o-1
    """

    guards_itself: ClassVar[bool] = True
    url_schemes: ClassVar[tuple[str, ...]] = ("console",)

    def __init__(
        self,
        *,
        stream: Any = "stderr",
        renderer: Literal["console", "json", "logfmt", "key_value"] | None = None,
        processors: list[Any] | None = None,
        logger: Any = None,
        level: int | str = 0,
        colors: bool | None = None,
        sort_keys: bool = False,
        callsite: bool = False,
        structured_exceptions: bool | None = None,
        timestamp_format: str | None = None,
        timestamp_utc: bool | None = None,
    ) -> None:
        if not (stream in _STREAMS if isinstance(stream, str) else hasattr(stream, "write")):
            raise LogConfigurationError(
                f"stream: expected 'stderr', 'stdout' or an object with write(), got {stream!r}"
            )
        if renderer is None and not processors:
            renderer = "console"
        if renderer is not None and renderer not in RENDERERS:
            raise LogConfigurationError(f"renderer: {renderer!r} is unknown; use one of {', '.join(RENDERERS)}")
        self._stream = stream
        self._renderer = renderer
        self._level = parse_level(level)
        self._logger = _build_logger(logger)
        chain = build_processors(processors or ())
        if renderer is None:
            self._plain = self._colored = chain
        else:
            self._plain = [*chain, *build_renderer(renderer, colors=False, sort_keys=sort_keys)]
            self._colored = self._plain
            if renderer == "console" and colors is not False and _can_color():
                self._colored = [*chain, *build_renderer(renderer, colors=True, sort_keys=sort_keys)]
        console = renderer == "console"
        if colors is None and os.environ.get("FORCE_COLOR") and not os.environ.get("NO_COLOR"):
            colors = True
        elif colors is None and os.environ.get("NO_COLOR"):
            colors = False
        self._colors = colors
        pattern = timestamp_format if timestamp_format is not None else "%Y-%m-%d %H:%M:%S" if console else "iso"
        self._options: dict[str, Any] = {
            "callsite": callsite,
            "positional_args": False,
            "structured_exceptions": renderer == "json" if structured_exceptions is None else structured_exceptions,
            "timestamp_format": None if pattern == "unix" else pattern,
            "timestamp_utc": not console if timestamp_utc is None else timestamp_utc,
        }
        self._delivered = 0
        self._failed = 0
        self._filtered = 0
        self._refused = 0

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        """Say what the options describe. Processors and their options are told by a digest: they may hold secrets."""
        options = check_options(cls, kwargs)
        stream, logger = options.pop("stream", "stderr"), options.pop("logger", None)
        if "level" in options:
            options["level"] = parse_level(options["level"])
        if options.get("processors"):
            options["processors"] = _digest(options["processors"])
        target = stream if isinstance(stream, str) else _digest(stream)
        resource: tuple[Any, ...] = ("stream", target) if logger is None else ("logger", _digest(logger))
        return LogSinkDescriptor("structlog", resource, tuple(sorted(options.items())))

    @classmethod
    def create(cls, **kwargs: Any) -> tuple[StructlogSink, LogSinkTerminator]:
        """Make a sink. The options are the constructor's."""
        sink = cls(**check_options(cls, kwargs))
        return sink, sink.close

    @classmethod
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        """``console:``, ``console:stderr`` or ``console:stdout``; the rest is in the query."""
        name = url.netloc or url.path.strip("/")
        if name and name not in _STREAMS:
            raise LogConfigurationError(f"console:{name}: expected console:stderr or console:stdout")
        return {"stream": name} if name else {}

    def log(self, event: LogEvent) -> None:
        """Render the event and write it. What a processor or the stream raises is raised."""
        if event.level < self._level:
            return
        if is_internal():
            self._refused += 1
            report_recursion(event.meta.event_namespace, event.meta.event_name)
            return
        before = mark.value
        try:
            mark.value = True
            self._log(event)
        except DropEvent:
            self._filtered += 1
        except BaseException:
            self._failed += 1
            raise
        else:
            self._delivered += 1
        finally:
            mark.value = before

    def _log(self, event: LogEvent) -> None:
        result: Any = event_to_event_dict(event, **self._options)
        method_name = method_of(event.level)
        logger, stream = self._logger, None
        if logger is None:
            stream = getattr(sys, self._stream) if isinstance(self._stream, str) else self._stream
            if stream is None:  # pythonw, daemons
                return
            target: Any = get_pipeline_logger(event.meta.event_namespace or "")
        else:
            target = logger
        for processor in self._colored if self._shows_colors(stream) else self._plain:
            result = processor(target, method_name, result)
        if stream is not None:
            _write(stream, result)
        elif isinstance(result, tuple):
            getattr(logger, method_name)(*result[0], **result[1])
        elif isinstance(result, Mapping):
            getattr(logger, method_name)(**result)
        else:
            getattr(logger, method_name)(result)

    def _shows_colors(self, stream: Any) -> bool:
        if self._colors is not None:
            return self._colors
        isatty = getattr(stream, "isatty", None)
        return isatty is not None and bool(isatty())

    def close(self) -> None:
        """Nothing to end: stream and logger are not ours."""

    def flush(self, timeout: float | None = None) -> bool:
        """True: every event is written before ``log`` returns."""
        return True

    def stats(self) -> LogSinkStats:
        """How many events were written, dropped by a processor (``filtered``), and could not be written (``error``).

        Rejected are those that were logged by the logging path itself (``recursion``).
        """
        dropped = {"error": self._failed, "filtered": self._filtered}
        return LogSinkStats(
            accepted=self._delivered + self._failed + self._filtered,
            delivered=self._delivered,
            dropped={reason: count for reason, count in dropped.items() if count},
            rejected={"recursion": self._refused} if self._refused else {},
        )

    def __repr__(self) -> str:
        target = self._logger if self._logger is not None else self._stream
        name = target if isinstance(target, str) else type(target).__name__
        return f"<StructlogSink {self._renderer or 'processors'} {name}>"


def _build_logger(spec: Any) -> Any:
    if spec is None:
        return None
    logger = build_object(spec, path="logger")
    if not hasattr(logger, "info") and callable(logger):
        logger = logger()  # a logger factory
    if not hasattr(logger, "info"):
        raise LogConfigurationError(f"logger: {type(logger).__name__} has no log methods", details={"path": "logger"})
    return logger


def _can_color() -> bool:
    if sys.platform != "win32":
        return True
    try:
        import colorama  # type: ignore[import-untyped, unused-ignore]  # noqa: F401
    except ImportError:
        return False
    return True


def _write(stream: Any, result: Any) -> None:
    if isinstance(result, str):
        line = result + "\n"
        try:
            stream.write(line)
        except UnicodeEncodeError:
            encoding = getattr(stream, "encoding", None) or "ascii"
            stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
    elif isinstance(result, (bytes, bytearray)):
        raw = getattr(stream, "buffer", None)
        if raw is not None:
            stream.flush()
            stream = raw
        try:
            stream.write(bytes(result) + b"\n")
        except TypeError:  # text only
            stream.write(result.decode("utf-8", "backslashreplace") + "\n")
    else:
        raise TypeError(
            f"the last processor has to make str or bytes for a stream, not {type(result).__name__}; "
            "give the sink a renderer or a logger"
        )
    flush = getattr(stream, "flush", None)
    if flush is not None:
        flush()


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(_freeze(value)).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _freeze(value: Any) -> Any:
    if isinstance(value, Mapping):
        return "mapping", sorted((str(key), _freeze(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return "list", [_freeze(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return type(value).__name__, value
    return "object", f"{type(value).__module__}.{type(value).__qualname__}", id(value)
