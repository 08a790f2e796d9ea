"""The one place where the logger tells of its own trouble."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mvx_logger import LogContext, LogPayloadProcessor, configure_log_context, selflog
from mvx_logger.selflog import SelfLogReport


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(selflog, "_clock", clock)
    return clock


@pytest.fixture
def told() -> Iterator[list[SelfLogReport]]:
    """Reports that pass the rate limit."""
    reports: list[SelfLogReport] = []
    selflog.redirect(reports.append)
    yield reports
    selflog.redirect(None)


class TestTelling:
    def test_one_line_on_stderr(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Kind, message and fields, on the stream that `sys.stderr` is now."""
        selflog.report("recursion", "logged by itself", event="shop: e", count=3)
        assert capsys.readouterr() == ("", "mvx-logger: recursion: logged by itself event='shop: e' count=3\n")

    def test_what_is_in_it_stays_on_its_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Line breaks in messages and fields are escaped."""
        selflog.report("x", "one\ntwo\rthree", text="a\nb")
        assert capsys.readouterr().err.count("\n") == 1

    def test_a_report(self, told: list[SelfLogReport]) -> None:
        """It is immutable and knows when it was made."""
        selflog.report("kind", "message", a=1)
        (report,) = told
        assert (report.kind, report.message, report.fields, report.suppressed) == ("kind", "message", {"a": 1}, 0)
        assert report.timestamp > 1.6e9
        with pytest.raises(AttributeError):
            report.kind = "other"  # type: ignore[misc]

    def test_a_field_may_have_any_name(self, told: list[SelfLogReport]) -> None:
        """But for those of the function's own parameters."""
        selflog.report("kind", "message", timestamp=1, suppressed=2, self=3)
        assert told[0].fields == {"timestamp": 1, "suppressed": 2, "self": 3}


class TestRateLimit:
    def test_one_of_a_kind_per_interval(self, told: list[SelfLogReport], clock: Clock) -> None:
        """What was held back is counted, and told with the next one of that kind."""
        for _ in range(5):
            selflog.report("a", "x")
        clock.now += 9.99
        selflog.report("a", "x")
        assert [report.suppressed for report in told] == [0]
        clock.now += 0.02
        selflog.report("a", "x")
        assert [report.suppressed for report in told] == [0, 5]
        assert "(5 more of this kind were not shown)" in told[1].to_line()
        clock.now += 100
        selflog.report("a", "x")
        assert told[2].suppressed == 0

    def test_each_kind_has_its_own(self, told: list[SelfLogReport], clock: Clock) -> None:
        """A flood of one kind hides no other one."""
        for kind in "abab":
            selflog.report(kind, "x")
        assert [report.kind for report in told] == ["a", "b"]

    def test_another_interval(self, told: list[SelfLogReport], clock: Clock) -> None:
        """In seconds; 0 tells all."""
        assert selflog.get_interval() == 10
        selflog.set_interval(0.5)
        assert selflog.get_interval() == 0.5
        selflog.report("a", "x")
        clock.now += 0.6
        selflog.report("a", "x")
        selflog.set_interval(0)
        for _ in range(3):
            selflog.report("a", "x")
        assert len(told) == 5

    def test_callers_with_a_limit_of_their_own(self, told: list[SelfLogReport], clock: Clock) -> None:
        """`limit=False` tells the report in any case."""
        for _ in range(3):
            selflog.report("a", "x", limit=False)
        assert len(told) == 3

    @pytest.mark.parametrize("value", ["1", None, True, [1]])
    def test_an_interval_of_a_wrong_type(self, value: Any) -> None:
        """`TypeError`; nothing changes."""
        with pytest.raises(TypeError, match="seconds"):
            selflog.set_interval(value)
        assert selflog.get_interval() == 10

    @pytest.mark.parametrize("value", [-1, -0.1, float("nan")])
    def test_an_interval_that_is_none(self, value: float) -> None:
        """`ValueError`; nothing changes."""
        with pytest.raises(ValueError, match="seconds"):
            selflog.set_interval(value)
        assert selflog.get_interval() == 10

    def test_from_many_threads(self, told: list[SelfLogReport], clock: Clock) -> None:
        """Nothing raises; each report is told or counted, up to a few that come in the same instant."""
        threads = [threading.Thread(target=lambda: [selflog.report("a", "x") for _ in range(500)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 <= len(told) <= 4


class TestRedirecting:
    def test_somewhere_else_and_back(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Whoever redirects gets the target that was there, to put it back."""
        first: list[SelfLogReport] = []
        assert selflog.redirect(first.append) is None
        selflog.report("a", "x")
        previous = selflog.redirect(None)
        selflog.report("b", "y")
        assert previous == first.append
        assert [report.kind for report in first] == ["a"]
        assert capsys.readouterr().err == "mvx-logger: b: y\n"

    def test_what_is_no_target(self) -> None:
        """`TypeError` names the argument."""
        with pytest.raises(TypeError, match="target"):
            selflog.redirect("stderr")  # type: ignore[arg-type]

    def test_a_target_that_raises(self) -> None:
        """Nobody who reports sees it, and the next report is tried again."""
        calls: list[str] = []

        def target(report: SelfLogReport) -> None:
            calls.append(report.kind)
            raise RuntimeError("broken")

        selflog.redirect(target)
        selflog.report("a", "x")
        selflog.report("b", "x")
        assert calls == ["a", "b"]

    def test_a_target_that_ends_the_program(self) -> None:
        """What is no failure passes, and leaves no mark behind."""

        def target(report: SelfLogReport) -> None:
            raise KeyboardInterrupt

        selflog.redirect(target)
        with pytest.raises(KeyboardInterrupt):
            selflog.report("a", "x")
        told: list[SelfLogReport] = []
        selflog.redirect(told.append)
        selflog.report("b", "x")
        assert len(told) == 1


class TestRecursion:
    def test_a_target_that_reports(self) -> None:
        """A report that is made while one is told is dropped."""
        calls: list[str] = []

        def target(report: SelfLogReport) -> None:
            calls.append(report.kind)
            selflog.report("inner", "x")

        selflog.set_interval(0)
        selflog.redirect(target)
        selflog.report("outer", "x")
        assert calls == ["outer"]

    def test_a_target_that_logs_to_a_failing_sink(self) -> None:
        """The failure is not told while another one is: it ends."""

        class Failing:
            def log(self, event: Any) -> None:
                raise OSError("down")

        context = LogContext(log_sink=Failing(), payload_processor=LogPayloadProcessor())
        calls: list[str] = []

        def target(report: SelfLogReport) -> None:
            calls.append(report.kind)
            context.log_error_event("trouble", {"kind": report.kind})

        selflog.set_interval(0)
        selflog.redirect(target)
        selflog.report("outer", "x")
        assert calls == ["outer"]

    def test_a_stderr_that_reports(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A stream that ends up here again is written to once."""
        lines: list[str] = []

        class Chatty(io.StringIO):
            def write(self, text: str) -> int:
                lines.append(text)
                selflog.report("inner", "x")
                configure_log_context("a").log_error_event("e")
                return len(text)

        monkeypatch.setattr(sys, "stderr", Chatty())
        selflog.report("outer", "x")
        assert [line for line in lines if "mvx-logger" in line] == ["mvx-logger: outer: x\n"]


class TestStreams:
    def closed(self) -> io.StringIO:
        stream = io.StringIO()
        stream.close()
        return stream

    def test_the_other_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where `sys.stderr` is gone or closed, the process' own standard error has the line."""
        for broken in (None, self.closed(), object()):
            original = io.StringIO()
            monkeypatch.setattr(sys, "stderr", broken)
            monkeypatch.setattr(sys, "__stderr__", original)
            selflog.report("a", "x", limit=False)
            assert original.getvalue() == "mvx-logger: a: x\n"

    def test_none_at_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Then there is nobody to tell; nothing is raised."""
        for broken in (None, self.closed()):
            monkeypatch.setattr(sys, "stderr", broken)
            monkeypatch.setattr(sys, "__stderr__", broken)
            selflog.report("a", "x", limit=False)

    def test_a_strict_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What its encoding cannot hold is escaped."""
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, "ascii", errors="strict"))
        selflog.report("a", "x", name="Zoë \ud800")
        assert b"Zo\\xeb" in raw.getvalue()

    def test_a_field_that_cannot_be_shown(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Nothing is raised."""

        class NoRepr:
            def __repr__(self) -> str:
                raise ValueError

        selflog.report("a", "x", value=NoRepr())
        capsys.readouterr()

    def test_in_a_finalizer_at_the_end(self) -> None:
        """A report that is made while the interpreter ends raises nothing."""
        program = (
            "import sys, mvx_logger\n"
            "from mvx_logger import selflog\n"
            "class Late:\n"
            "    def __del__(self): selflog.report('late', 'x')\n"
            "sys.late = Late()\n"
        )
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
        assert "Traceback" not in result.stderr
        assert "Exception ignored" not in result.stderr
