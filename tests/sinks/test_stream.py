"""`StreamLogSink`: one line an event, on the stream that is there when it writes."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvx_logger import (
    LogConfigurationError,
    LogContext,
    LogEvent,
    LogEventMeta,
    LogEventOrigin,
    LogException,
    LoggingStreamConfig,
    LogLevel,
    LogPayloadProcessor,
    LogSinkConfigurationConflictError,
    LogStack,
    LogStreamOutput,
    StreamLogSink,
    configure_log_sink,
    selflog,
    sink_from_url,
)
from mvx_logger.bridge.records import EventLogRecord

MOMENT = time.mktime((2026, 5, 12, 14, 30, 25, 0, 0, -1))


def make_event(
    name: str = "app.started",
    *,
    namespace: str | None = "my_app",
    entity: str | None = None,
    outcome: str | None = None,
    level: int = 20,
    payload: dict[str, Any] | None = None,
    timestamp: float = MOMENT,
    **more: Any,
) -> LogEvent:
    meta = LogEventMeta(namespace, name, entity)
    return LogEvent(level, meta, outcome, timestamp, {} if payload is None else payload, **more)


def written(event: LogEvent, monkeypatch: pytest.MonkeyPatch, **options: Any) -> str:
    """What a sink with these options writes for the event."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    sink, _ = StreamLogSink.create(**options)
    sink.log(event)
    return stream.getvalue()


class Written:
    """What was written to standard error so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Written:
    return Written(capsys)


class TestTheLine:
    @pytest.mark.parametrize(
        ("fields", "line"),
        [
            (
                {"payload": {"service": "demo", "mode": "local"}},
                "2026-05-12 14:30:25 INFO: my_app.app.started {'service': 'demo', 'mode': 'local'}",
            ),
            ({}, "2026-05-12 14:30:25 INFO: my_app.app.started"),
            ({"namespace": None}, "2026-05-12 14:30:25 INFO: app.started"),
            ({"entity": "e-1"}, "2026-05-12 14:30:25 INFO: my_app.e-1.app.started"),
            ({"namespace": None, "entity": "e-1"}, "2026-05-12 14:30:25 INFO: e-1.app.started"),
            ({"outcome": "success"}, "2026-05-12 14:30:25 INFO: my_app.app.started [success]"),
            (
                {"entity": "e-1", "outcome": "failed", "payload": {"a": 1}, "level": 40},
                "2026-05-12 14:30:25 ERROR: my_app.e-1.app.started [failed] {'a': 1}",
            ),
            ({"level": 25}, "2026-05-12 14:30:25 Level 25: my_app.app.started"),
            ({"timestamp": MOMENT + 0.999}, "2026-05-12 14:30:25 INFO: my_app.app.started"),
        ],
    )
    def test_default(self, fields: dict[str, Any], line: str, stderr: Written) -> None:
        """Time, level, `namespace[.entity_id].event_name[ [outcome]]`, payload."""
        StreamLogSink().log(make_event(**fields))
        assert stderr.getvalue() == line + "\n"

    @pytest.mark.parametrize("level", list(LogLevel))
    def test_levels(self, level: LogLevel, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each level has its name."""
        assert f" {level.name}: " in written(make_event(level=level), monkeypatch, level=0)

    def test_a_level_that_a_bridge_brought_along(self, stderr: Written) -> None:
        """A custom level has the name that it had where it was logged."""
        StreamLogSink().log(make_event(level=25, origin=LogEventOrigin(system="logging", level_name="NOTICE")))
        assert " NOTICE: " in stderr.getvalue()

    def test_an_event_with_a_message(self, stderr: Written) -> None:
        """Bridged events have one: it stands for the name."""
        StreamLogSink().log(make_event(name="%s started", namespace="shop", message="worker 3 started"))
        assert stderr.getvalue().endswith("INFO: shop: worker 3 started\n")

    @given(
        st.text(max_size=20),
        st.one_of(st.none(), st.text(max_size=10)),
        st.one_of(st.none(), st.text(max_size=10)),
        st.one_of(st.none(), st.text(max_size=10)),
        st.dictionaries(st.text(max_size=5), st.text(max_size=10), max_size=3),
        st.one_of(st.none(), st.text(max_size=20)),
    )
    def test_somebody_writes_a_line_of_his_own(
        self,
        name: str,
        namespace: str | None,
        entity: str | None,
        outcome: str | None,
        payload: dict[str, str],
        message: str | None,
    ) -> None:
        """Whatever is in names, values and messages, an event is one line without control characters."""
        before, sys.stderr = sys.stderr, io.StringIO()
        try:
            event = make_event(
                name, namespace=namespace, entity=entity, outcome=outcome, payload=payload, message=message
            )
            StreamLogSink().log(event)
            text = sys.stderr.getvalue()
        finally:
            sys.stderr = before
        assert text.endswith("\n")
        assert len(text.splitlines()) == 1
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text[:-1])

    def test_exceptions_and_stacks(self, stderr: Written) -> None:
        """They follow the line, indented: no text of an exception passes for an event."""
        exception = LogException(
            "ValueError", "x", "Traceback (most recent call last):\nValueError: x\n2026 INFO: fake"
        )
        StreamLogSink().log(make_event(exception=exception, stack=LogStack("Stack (most recent call last):\n  a")))
        lines = stderr.getvalue().splitlines()
        assert lines[0] == "2026-05-12 14:30:25 INFO: my_app.app.started"
        assert "  Traceback (most recent call last):" in lines
        assert "  ValueError: x" in lines
        assert "  Stack (most recent call last):" in lines
        assert all(line.startswith("  ") for line in lines[1:])

    @pytest.mark.parametrize("timestamp", [float("nan"), float("inf"), 1e18, -1.5, 0.0])
    def test_a_time_that_no_calendar_knows(self, timestamp: float, stderr: Written) -> None:
        """The event is written all the same."""
        StreamLogSink().log(make_event(timestamp=timestamp))
        assert "app.started" in stderr.getvalue()


class TestTheStream:
    def test_stdout(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Standard output where that is asked for, in either spelling."""
        for output in (LogStreamOutput.STDOUT, "stdout"):
            StreamLogSink(config=LoggingStreamConfig(output)).log(make_event())  # type: ignore[arg-type]
            out, err = capsys.readouterr()
            assert out.count("\n") == 1
            assert err == ""

    def test_it_is_the_one_that_is_there_now(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who replaces `sys.stderr` after the sink was made gets what is written from then on."""
        sink = StreamLogSink()
        first, second = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "stderr", first)
        sink.log(make_event("a"))
        monkeypatch.setattr(sys, "stderr", second)
        sink.log(make_event("b"))
        assert "my_app.a" in first.getvalue()
        assert "my_app.b" not in first.getvalue()
        assert "my_app.b" in second.getvalue()

    def test_it_is_flushed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A line is there when `log` returns, also on a stream with a buffer."""
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BufferedWriter(raw), "utf-8"))  # type: ignore[arg-type]
        StreamLogSink().log(make_event())
        assert raw.getvalue().endswith(b"started\n")

    def test_there_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`pythonw` and daemons have no `sys.stderr`: nothing is raised, and the events are counted."""
        monkeypatch.setattr(sys, "stderr", None)
        sink = StreamLogSink()
        for _ in range(3):
            sink.log(make_event())
        stats = sink.stats()
        assert (stats.accepted, stats.delivered, stats.dropped) == (3, 0, {"no_stream": 3})
        assert sink.flush() is True

    def test_it_is_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The caller of a context sees nothing of it; the sink's own caller sees the error."""
        closed = io.StringIO()
        closed.close()
        monkeypatch.setattr(sys, "stderr", closed)
        monkeypatch.setattr(sys, "__stderr__", closed)
        sink = StreamLogSink()
        LogContext(log_sink=sink, payload_processor=LogPayloadProcessor()).log_info_event("e")
        with pytest.raises(ValueError, match="closed"):
            sink.log(make_event())
        assert sink.stats().dropped == {"error": 2}
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        sink.log(make_event())
        assert sink.stats().delivered == 1

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
    def test_the_event_is_gone_because_the_console_cannot_show_a_character(
        self, encoding: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A strict stream gets what it can hold; the rest is escaped."""
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding, errors="strict", newline="")
        monkeypatch.setattr(sys, "stdout", stream)
        sink = StreamLogSink(config=LoggingStreamConfig(LogStreamOutput.STDOUT))
        sink.log(make_event(payload={"name": "Zoë", "city": "東京", "half": "\ud800"}))
        text = raw.getvalue().decode(encoding)
        assert text.endswith("}\n")
        assert ("東京" if encoding == "utf-8" else "\\u6771\\u4eac") in text
        assert ("Zo\\xeb" if encoding == "ascii" else "Zoë") in text
        assert sink.stats().delivered == 1

    def test_a_stream_that_only_writes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A replacement without an encoding that refuses a character gets ASCII."""

        class Picky:
            def __init__(self) -> None:
                self.text = ""

            def write(self, text: str) -> None:
                text.encode("ascii")
                self.text += text

            def flush(self) -> None:
                pass

        stream = Picky()
        monkeypatch.setattr(sys, "stderr", stream)
        StreamLogSink().log(make_event(payload={"name": "Zoë"}))
        assert "Zo\\xeb" in stream.text

    def test_a_stream_that_logs(
        self, monkeypatch: pytest.MonkeyPatch, selflog_reports: list[selflog.SelfLogReport]
    ) -> None:
        """A `sys.stderr` that turns what is written into events does not recurse: each event is written once."""
        sink = StreamLogSink()
        context = LogContext(log_sink=sink, payload_processor=LogPayloadProcessor())
        lines: list[str] = []

        class Teeing(io.StringIO):
            def write(self, text: str) -> int:
                lines.append(text)
                context.log_info_event("written", {"text": text})
                logging.getLogger("tee").warning(text)
                return len(text)

        monkeypatch.setattr(sys, "stderr", Teeing())
        for number in range(3):
            context.log_info_event(f"e{number}")
        assert len(lines) == 3
        assert {report.kind for report in selflog_reports} == {"recursion"}

    def test_from_many_threads(self, stderr: Written) -> None:
        """Lines of different threads are not mixed up, and all are counted."""
        sink = StreamLogSink()

        def work(thread: int) -> None:
            for number in range(200):
                sink.log(make_event(f"t{thread}.{number}"))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        names = re.findall(r"^2026-05-12 14:30:25 INFO: my_app\.(t\d\.\d+)$", stderr.getvalue(), re.MULTILINE)
        assert len(names) == 1600
        for number in range(8):
            own = [name for name in names if name.startswith(f"t{number}.")]
            assert own == [f"t{number}.{count}" for count in range(200)]
        assert sink.stats().delivered == 1600

    def test_nobody_reads_it_any_more(self) -> None:
        """`program | head -1`: logging into the closed pipe raises nothing into the program."""
        program = (
            "import sys, mvx_logger\n"
            "sink = mvx_logger.StreamLogSink(config=mvx_logger.LoggingStreamConfig('stdout'))\n"
            "context = mvx_logger.LogContext(log_sink=sink, payload_processor=mvx_logger.LogPayloadProcessor())\n"
            "sys.stdin.readline()\n"
            "for number in range(100): context.log_info_event('e', {'x': 'y' * 1000})\n"
            "sys.stderr.write('survived')\n"
            "sys.stdout = None\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write("go\n")
        process.stdin.close()
        errors = process.stderr.read()
        process.stderr.close()
        process.wait(60)
        assert "survived" in errors
        assert errors.count("BrokenPipeError") == 1


class TestLevel:
    @pytest.mark.parametrize("level", [30, "WARNING", "warning", "30", LogLevel.WARNING])
    def test_below_it_nothing_is_written(self, level: Any, stderr: Written) -> None:
        """A level is a number or a name; events below it are passed over, and are not counted."""
        sink = StreamLogSink(config=LoggingStreamConfig(level=level))
        sink.log(make_event("low", level=29))
        sink.log(make_event("high", level=30))
        assert "low" not in stderr.getvalue()
        assert "high" in stderr.getvalue()
        assert sink.stats().accepted == 1

    def test_the_default(self, stderr: Written) -> None:
        """INFO."""
        sink = StreamLogSink()
        sink.log(make_event("low", level=19))
        sink.log(make_event("high", level=20))
        assert "low" not in stderr.getvalue()
        assert "high" in stderr.getvalue()


class TestFormats:
    def test_a_format_of_one_s_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fields of a record, of the event, and keys of the payload."""
        text = written(
            make_event(entity="e-1", payload={"user": "ann"}, outcome="ok"),
            monkeypatch,
            log_format="%(levelno)s|%(name)s|%(event)s|%(entity_id)s|%(outcome)s|%(user)s|%(nothing)s|%(asctime)s",
            date_format="%H:%M",
        )
        assert text == "20|my_app|app.started|e-1|ok|ann||14:30\n"

    def test_a_date_format_of_one_s_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The rest of the default line stays."""
        assert written(make_event(), monkeypatch, date_format="%d.%m.%Y") == "12.05.2026 INFO: my_app.app.started\n"

    def test_a_formatter_of_one_s_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The factory gets both formats; its formatter sees a record that knows the whole event."""
        seen: list[Any] = []

        class Formatter(logging.Formatter):
            def format(self, record: logging.LogRecord) -> str:
                seen.append(record)
                return super().format(record)

        def factory(log_format: str, date_format: str) -> logging.Formatter:
            return Formatter(f"<{log_format}>", date_format)

        event = make_event(payload={"user": "ann"})
        text = written(
            event,
            monkeypatch,
            formatter_factory=factory,
            log_format="%(asctime)s %(name)s %(message)s %(user)s",
            date_format="%H:%M",
            logger_name="console",
        )
        assert text == "<14:30 console my_app.app.started {'user': 'ann'} ann>\n"
        assert isinstance(seen[0], EventLogRecord)
        assert seen[0].mvx_event is event

    def test_structured_output_by_the_standard_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A factory may ignore the formats; exceptions are the formatter's matter then."""
        exception = LogException("ValueError", "x", "Traceback\nValueError: x")
        text = written(
            make_event(exception=exception),
            monkeypatch,
            formatter_factory=lambda *_: logging.Formatter("-", validate=False),
        )
        assert text == "-\nTraceback\nValueError: x\n"

    @pytest.mark.parametrize("broken", ["formatter", "filter"])
    def test_a_formatter_or_filter_that_fails(
        self, broken: str, monkeypatch: pytest.MonkeyPatch, selflog_reports: list[selflog.SelfLogReport]
    ) -> None:
        """The event is written in the sink's own format, and the trouble is told."""

        class Broken(logging.Formatter):
            def format(self, record: logging.LogRecord) -> str:
                raise RuntimeError("broken")

        def fail(record: logging.LogRecord) -> bool:
            raise RuntimeError("broken")

        options: dict[str, Any] = (
            {"formatter_factory": lambda *_: Broken()} if broken == "formatter" else {"filters": fail}
        )
        assert "INFO: my_app.app.started" in written(make_event(), monkeypatch, **options)
        assert [report.kind for report in selflog_reports] == ["stream_format"]

    def test_filters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Objects and callables, one or several; what they hold back is passed over, and is not counted."""

        def hide(record: logging.LogRecord) -> bool:
            return "secret" not in record.getMessage()

        class Rename(logging.Filter):
            def filter(self, record: logging.LogRecord) -> Any:
                assert record.name == "console"
                record.user = "bob"
                return True

        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        for filters in (hide, [hide], (Rename("console"), hide)):
            sink = StreamLogSink(logger_name="console", config=LoggingStreamConfig(filters=filters))
            sink.log(make_event("secret"))
            sink.log(make_event("public"))
            assert sink.stats().accepted == 1
        assert stream.getvalue().count("\n") == 3
        assert "secret" not in stream.getvalue()

    def test_a_filter_that_replaces_the_record(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The formatter sees the new one."""

        def replace(record: logging.LogRecord) -> Any:
            return logging.makeLogRecord({"msg": "replaced"})

        options = {"filters": replace, "formatter_factory": lambda *_: logging.Formatter("%(message)s")}
        assert written(make_event(), monkeypatch, **options) == "replaced\n"


class TestOptions:
    def test_flat_or_in_a_config(self) -> None:
        """The fields of the configuration may stand beside the other options; both give equal descriptors."""
        flat = StreamLogSink.build_descriptor(level="DEBUG", stream_output="stdout", logger_name="x")
        nested = StreamLogSink.build_descriptor(
            config=LoggingStreamConfig(LogStreamOutput.STDOUT, logging.DEBUG), logger_name="x"
        )
        plain = StreamLogSink.build_descriptor(config={"stream_output": "stdout", "level": 10}, logger_name="x")
        assert flat == nested == plain
        assert hash(flat) == hash(nested)
        assert flat.sink_type == "stream"
        assert flat.resource_key == ("stdout",)

    def test_flat_options_win_over_the_config_s(self) -> None:
        """Both may be given."""
        sink, _ = StreamLogSink.create(config=LoggingStreamConfig("stdout", "ERROR"), level="DEBUG")  # type: ignore[arg-type]
        assert sink._config == LoggingStreamConfig(LogStreamOutput.STDOUT, 10)

    def test_registering(self) -> None:
        """The same options are the same sink, others a conflict."""
        sink = configure_log_sink(name="out", sink_cls=StreamLogSink, stream_output="stdout")
        config = LoggingStreamConfig(LogStreamOutput.STDOUT)
        assert configure_log_sink(name="out", sink_cls=StreamLogSink, config=config) is sink
        with pytest.raises(LogSinkConfigurationConflictError):
            configure_log_sink(name="out", sink_cls=StreamLogSink)

    def test_by_url(self, capsys: pytest.CaptureFixture[str]) -> None:
        """`stderr:` and `stdout:`, with options in the query."""
        sink_from_url("stdout:?level=ERROR&log_format=%25(event)s").log(make_event(level=40))
        sink_from_url("stderr:").log(make_event(level=10))
        assert capsys.readouterr() == ("app.started\n", "")
        with pytest.raises(LogConfigurationError, match="takes no path"):
            sink_from_url("stderr:///dev/null")

    @pytest.mark.parametrize(
        ("fields", "name"),
        [
            ({"stream_output": "stdlog"}, "stream_output"),
            ({"stream_output": None}, "stream_output"),
            ({"level": "LOUD"}, "level"),
            ({"level": 2.5}, "level"),
            ({"log_format": None}, "log_format"),
            ({"date_format": b"%H"}, "date_format"),
            ({"formatter_factory": "x"}, "formatter_factory"),
            ({"filters": "x"}, "filters"),
        ],
    )
    def test_a_config_checks_itself(self, fields: dict[str, Any], name: str) -> None:
        """Made directly it refuses what is wrong, so that no sink writes to another stream than was meant."""
        with pytest.raises(LogConfigurationError, match=name) as caught:
            LoggingStreamConfig(**fields)
        assert caught.value.details == {"path": name}

    def test_a_config_is_immutable(self) -> None:
        """It may be shared."""
        config = LoggingStreamConfig()
        with pytest.raises(AttributeError):
            config.level = 10  # type: ignore[misc]
        assert config.stream_output is LogStreamOutput.STDERR
        assert config.level == logging.INFO

    def test_wrong_arguments_of_the_constructor(self) -> None:
        """`TypeError` names them."""
        with pytest.raises(TypeError, match="logger_name"):
            StreamLogSink(logger_name=5)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="config"):
            StreamLogSink(config={})  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="formatter_factory"):
            StreamLogSink(config=LoggingStreamConfig(formatter_factory=lambda *_: object()))

    def test_the_terminator(self) -> None:
        """It is idempotent, and leaves the stream alone; a sink that was closed still writes."""
        sink, close = StreamLogSink.create()
        close()
        close()
        assert not sys.stderr.closed
        assert repr(sink) == "<StreamLogSink stderr>"


@pytest.fixture
def run() -> Iterator[Callable[[str], subprocess.CompletedProcess[str]]]:
    def run(program: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, **options
        )

    return run  # type: ignore[return-value]


class TestInAProgram:
    def test_a_stderr_that_was_closed_at_the_start(self, run: Any) -> None:
        """`program 2>&-`: the program runs."""
        program = (
            "import mvx_logger\nmvx_logger.configure_log_context('a').log_error_event('e', {'b': 1})\nprint('done')"
        )
        result = run(program, preexec_fn=lambda: os.close(2))
        assert result.returncode == 0
        assert "done" in result.stdout

    def test_strict_ascii(self, run: Any) -> None:
        """`PYTHONIOENCODING=ascii:strict`: the event is there, escaped."""
        program = "import mvx_logger\nmvx_logger.configure_log_context('a').log_error_event('e', {'b': '\\u6771'})"
        result = run(
            program, env={**os.environ, "PYTHONIOENCODING": "ascii:strict", "PYTHONPATH": os.pathsep.join(sys.path)}
        )
        assert result.returncode == 0
        assert "a.e {'b': '\\u6771'}" in result.stderr
