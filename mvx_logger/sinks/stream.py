"""`StreamLogSink`: events as lines on standard error or standard output."""

from __future__ import annotations

import logging
import sys
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

from msgspec import Struct, structs

from .. import selflog
from ..errors import LogConfigurationError
from ..guard import is_internal, mark, report_recursion
from ..model import LogEvent
from ..protocols import LogSinkDescriptor, LogSinkTerminator

# The registry makes such a sink whenever the package is imported: what only a sink at work needs is loaded by then.
if TYPE_CHECKING:
    from ..delivery.stats import LogSinkStats
    from ..formats.text import TextFormatter

__all__ = [
    "DEFAULT_DATE_FORMAT",
    "DEFAULT_LOG_FORMAT",
    "LogStreamOutput",
    "LoggingStreamConfig",
    "StreamLogSink",
]

DEFAULT_LOG_FORMAT = "%(asctime)s %(levelname)s: %(message)s"
DEFAULT_DATE_FORMAT = "%Y-%m-%d %H:%M:%S"


class LogStreamOutput(Enum):
    """Which stream a `StreamLogSink` writes to."""

    STDERR = "stderr"
    STDOUT = "stdout"


class _StreamConfig(Struct, frozen=True):
    stream_output: LogStreamOutput = LogStreamOutput.STDERR
    level: int | str = logging.INFO


class LoggingStreamConfig(_StreamConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a `StreamLogSink` writes.

    Attributes:
        stream_output: Which stream (a `LogStreamOutput` or its value as a str): the one that ``sys.stderr`` or
            ``sys.stdout`` *is* when an event is written.
        level: Events below it are not written: a number or a level's name.
        log_format: The line: see `mvx_logger.formats.text.TextFormatter`.
        date_format: Its ``asctime``, for `time.strftime`; local time.
        formatter_factory: Makes a `logging.Formatter` instead: called with ``log_format`` and ``date_format``.
        filters: Filters of the standard library's kind (`logging.Filter` objects or callables), one or several; they
            see the event as a record whose name is the sink's ``logger_name``.

    Raises:
        LogConfigurationError: A value is wrong; the text names the field.
    """

    log_format: str = DEFAULT_LOG_FORMAT
    date_format: str = DEFAULT_DATE_FORMAT
    formatter_factory: Any = None
    filters: Any = None

    def __post_init__(self) -> None:
        settle = structs.force_setattr
        try:
            settle(self, "stream_output", LogStreamOutput(self.stream_output))
        except ValueError as err:
            raise _wrong("stream_output", f"expected 'stderr' or 'stdout', got {self.stream_output!r}") from err
        if type(self.level) is not int:
            from ..options import parse_level

            settle(self, "level", parse_level(self.level))
        for name in ("log_format", "date_format"):
            if not isinstance(getattr(self, name), str):
                raise _wrong(name, f"expected a str, got {type(getattr(self, name)).__name__}")
        if self.formatter_factory is not None and not callable(self.formatter_factory):
            raise _wrong("formatter_factory", f"expected a callable, got {type(self.formatter_factory).__name__}")
        if self.filters is not None:
            filters = tuple(self.filters) if isinstance(self.filters, (list, tuple)) else (self.filters,)
            for entry in filters:
                if not callable(entry) and not callable(getattr(entry, "filter", None)):
                    raise _wrong(
                        "filters", f"expected a callable or an object with filter(), got {type(entry).__name__}"
                    )
            settle(self, "filters", filters or None)


def _wrong(field: str, text: str) -> LogConfigurationError:
    return LogConfigurationError(f"{field}: {text}", details={"path": field})


class StreamLogSink:
    """Writes each event to standard error or standard output, at once, as `mvx_logger.formats.text` has it.

    Where there is no such stream (``sys.stderr`` is None), events are passed over and counted as dropped
    (``no_stream``).

    Args:
        logger_name: The name that ``formatter_factory`` and ``filters`` see.
        config: How to write.

    Raises:
        TypeError: An argument has the wrong type, or ``config.formatter_factory`` makes no formatter.
        LogConfigurationError: ``config.log_format`` is malformed.
        Exception: What ``config.formatter_factory`` raises.
    """

    guards_itself: ClassVar[bool] = True
    url_schemes: ClassVar[tuple[str, ...]] = ("stderr", "stdout")
    config_option: ClassVar[tuple[str, type[Struct]]] = ("config", LoggingStreamConfig)

    def __init__(
        self,
        *,
        logger_name: str = "mvx.stream_log_sink",
        config: LoggingStreamConfig = LoggingStreamConfig(),  # noqa: B008 - immutable
    ) -> None:
        if not isinstance(logger_name, str):
            raise TypeError(f"logger_name: expected a str, got {type(logger_name).__name__}")
        if not isinstance(config, LoggingStreamConfig):
            raise TypeError(f"config: expected LoggingStreamConfig, got {type(config).__name__}")
        self._logger_name = logger_name
        self._config = config
        self._level = int(config.level)
        self._to_stdout = config.stream_output is LogStreamOutput.STDOUT
        self._text: TextFormatter | None = None
        if config.log_format != DEFAULT_LOG_FORMAT and config.formatter_factory is None:
            self._text = self._make_text(config.log_format)  # which checks it
        self._formatter: logging.Formatter | None = None
        if config.formatter_factory is not None:
            self._formatter = config.formatter_factory(config.log_format, config.date_format)
            if not callable(getattr(self._formatter, "format", None)):
                raise TypeError(
                    f"config.formatter_factory: expected to get a logging.Formatter, got {type(self._formatter).__name__}"
                )
        self._filters: tuple[Any, ...] = config.filters or ()
        self._written = 0
        self._failed = 0
        self._unwritten = 0

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        """Say what the options describe.

        Raises:
            LogConfigurationError: One of them is wrong.
        """
        options = cls._options(kwargs)
        fields = structs.asdict(options.get("config", LoggingStreamConfig()))
        output = fields.pop("stream_output")
        fields["logger_name"] = options.get("logger_name", "mvx.stream_log_sink")
        return LogSinkDescriptor("stream", (output.value,), tuple(sorted(fields.items())))

    @classmethod
    def create(cls, **kwargs: Any) -> tuple[StreamLogSink, LogSinkTerminator]:
        """Make a sink. The options are the constructor's; those of ``config`` may stand beside them."""
        sink = cls(**cls._options(kwargs))
        return sink, sink.close

    @classmethod
    def options_from_url(cls, url: Any) -> dict[str, Any]:
        """``stderr:`` or ``stdout:``; the rest is in the query."""
        if url.netloc or url.path:
            raise LogConfigurationError(f"{url.scheme}: takes no path; write it as {url.scheme}:?level=DEBUG")
        return {"stream_output": url.scheme}

    @classmethod
    def _options(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        if not kwargs:
            return {}
        from ..options import check_options

        return check_options(cls, kwargs)

    def log(self, event: LogEvent) -> None:
        """Write the event. What the stream raises is raised."""
        if event.level < self._level:
            return
        if is_internal():
            report_recursion(event.meta.event_namespace, event.meta.event_name)
            return
        before = mark.value
        try:
            mark.value = True
            if self._formatter is None and not self._filters:
                text: str | None = (self._text or self._make_text()).format(event)
            else:
                text = self._format_by_record(event)
            if text is None:
                return
            stream: TextIO | None = sys.stdout if self._to_stdout else sys.stderr
            if stream is None:  # pythonw, daemons
                self._unwritten += 1
                return
            selflog.write_line(stream, text)
            self._written += 1
        except Exception:
            self._failed += 1
            raise
        finally:
            mark.value = before

    def _make_text(self, log_format: str = DEFAULT_LOG_FORMAT) -> TextFormatter:
        from ..formats.text import TextFormatter

        self._text = TextFormatter(log_format, self._config.date_format)
        return self._text

    def _format_by_record(self, event: LogEvent) -> str | None:
        """By the formatter and the filters of the standard library's kind; None when a filter holds it back."""
        from ..bridge.records import event_to_record, run_filters

        try:
            made = event_to_record(event)
            made.name = self._logger_name
            record = run_filters(self._filters, made)
            if record is None:
                return None
            if self._formatter is not None:
                return self._formatter.format(record)
        except Exception as err:
            selflog.report(
                "stream_format", "a formatter or filter failed; the sink's own format is used", error=repr(err)
            )
        return (self._text or self._make_text()).format(event)

    def close(self) -> None:
        """Nothing to end: the stream is not ours."""

    def flush(self, timeout: float | None = None) -> bool:
        """True: every event is written before ``log`` returns."""
        return True

    def stats(self) -> LogSinkStats:
        """How many events were written, and how many could not be."""
        from ..delivery.stats import LogSinkStats

        written, failed, unwritten = self._written, self._failed, self._unwritten
        dropped = {"error": failed, "no_stream": unwritten}
        return LogSinkStats(
            accepted=written + failed + unwritten,
            delivered=written,
            dropped={reason: number for reason, number in dropped.items() if number},
        )

    def __repr__(self) -> str:
        return f"<StreamLogSink {self._config.stream_output.value}>"
