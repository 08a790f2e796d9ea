"""The mark that keeps the logger from feeding on itself."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from mvx_logger import LogEvent, LogEventMeta, selflog
from mvx_logger.guard import forwarding_log, guarded_log, internal, is_internal, report_recursion


def event(name: str = "e", namespace: str | None = "shop") -> LogEvent:
    return LogEvent(20, LogEventMeta(namespace, name), None, 0.0, {})


class Sink:
    def __init__(self) -> None:
        self.names: list[str] = []
        self.inside: list[bool] = []

    def log(self, event: LogEvent) -> None:
        self.names.append(event.meta.event_name)
        self.inside.append(is_internal())


class TestGuardedLog:
    def test_what_is_logged_inside_does_not_enter_any_sink(self, selflog_reports: list[selflog.SelfLogReport]) -> None:
        """Neither the same one nor another one; it is told, and the mark is gone afterwards."""
        other = Sink()
        log_other = guarded_log(other)

        class Chatty(Sink):
            def log(self, event: LogEvent) -> None:
                super().log(event)
                log_self(event)
                log_other(event)

        sink = Chatty()
        log_self = guarded_log(sink)
        log_self(event("a"))
        log_self(event("b"))
        assert sink.names == ["a", "b"]
        assert other.names == []
        assert not is_internal()
        assert [report.fields["event"] for report in selflog_reports] == ["shop: a"] * 2 + ["shop: b"] * 2

    def test_it_is_undone_when_the_sink_fails(self) -> None:
        """The next event is delivered."""

        class Failing(Sink):
            def log(self, event: LogEvent) -> None:
                super().log(event)
                raise OSError

        sink = Failing()
        for _ in range(2):
            with pytest.raises(OSError):
                guarded_log(sink)(event())
            assert not is_internal()
        assert sink.inside == [True, True]

    def test_a_class_that_guards_itself(self) -> None:
        """Nothing is put around its `log`."""

        class Careful(Sink):
            guards_itself = True

        sink = Careful()
        assert guarded_log(sink) == sink.log
        guarded_log(sink)(event())
        assert sink.inside == [False]

    def test_only_a_class_can_say_so(self) -> None:
        """An attribute of the object, as any mock has, is no promise."""
        sink = Sink()
        sink.guards_itself = True  # type: ignore[attr-defined]
        guarded_log(sink)(event())
        assert sink.inside == [True]

    def test_other_threads_are_not_concerned(self) -> None:
        """While one thread delivers, another one's events are delivered too."""
        sink = Sink()
        token = internal.set(True)
        try:
            thread = threading.Thread(target=guarded_log(sink), args=(event(),))
            thread.start()
            thread.join()
        finally:
            internal.reset(token)
        assert sink.names == ["e"]

    async def test_tasks_that_a_sink_starts_are_inside(self, selflog_reports: list[selflog.SelfLogReport]) -> None:
        """What a client library does in a task of its own, started by the sink, is the logger's doing too."""
        inner, tasks = Sink(), []

        async def send() -> None:
            guarded_log(inner)(event("sending"))

        class Spawning(Sink):
            def log(self, event: LogEvent) -> None:
                super().log(event)
                tasks.append(asyncio.create_task(send()))

        guarded_log(Spawning())(event())
        await asyncio.gather(*tasks)
        assert inner.names == []
        guarded_log(inner)(event("afterwards"))
        assert inner.names == ["afterwards"]


class TestForwarding:
    def test_an_accepted_event_passes_on(self) -> None:
        """From inside of a sink, on purpose; the mark is back afterwards, also when that fails."""
        target = Sink()

        class Forwarding(Sink):
            def log(self, event: LogEvent) -> None:
                forwarding_log(guarded_log(target), event)
                self.inside.append(is_internal())

        sink = Forwarding()
        guarded_log(sink)(event())
        assert target.names == ["e"]
        assert sink.inside == [True]

        def fail(event: LogEvent) -> Any:
            raise OSError

        token = internal.set(True)
        with pytest.raises(OSError):
            forwarding_log(fail, event())
        assert is_internal()
        internal.reset(token)


def test_a_report_names_the_event(selflog_reports: list[selflog.SelfLogReport]) -> None:
    """With its namespace, where it has one."""
    report_recursion("shop", "order.created")
    report_recursion(None, "order.created")
    assert [report.kind for report in selflog_reports] == ["recursion"] * 2
    assert [report.fields["event"] for report in selflog_reports] == ["shop: order.created", "order.created"]
