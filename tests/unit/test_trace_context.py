"""Events that are logged within a span of OpenTelemetry carry its ids, where that is switched on."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import mvx_logger
from mvx_logger import LogContextHandler, MemoryLogSink, SinkHandler, configure_log_context, configure_structlog
from mvx_logger.ambient import add_trace_context, capture, capture_trace_context, get_ambient

TRACER = TracerProvider().get_tracer("tests")


@pytest.fixture(autouse=True)
def _switched_off() -> Iterator[None]:
    yield
    capture.holders.clear()
    capture.active = False


@pytest.fixture
def sink() -> MemoryLogSink:
    return MemoryLogSink()


@contextmanager
def a_span() -> Iterator[dict[str, str]]:
    """A current span, and what it makes of an event's payload."""
    with TRACER.start_as_current_span("work") as span:
        context = span.get_span_context()
        yield {
            "trace_id": f"{context.trace_id:032x}",
            "span_id": f"{context.span_id:016x}",
            "trace_flags": f"{context.trace_flags:02x}",
        }


def payloads(sink: MemoryLogSink) -> list[dict[str, Any]]:
    return [dict(event.payload) for event in sink.events]


class TestWays:
    def test_natively(self, sink: MemoryLogSink) -> None:
        """A context's own events."""
        ctx = configure_log_context("shop", log_sink=sink)
        capture_trace_context()
        with a_span() as ids:
            ctx.log_info_event("one", {"n": 1})
            ctx.log_info_event("two")
        ctx.log_info_event("three")
        assert payloads(sink) == [{**ids, "n": 1}, ids, {}]

    @pytest.mark.parametrize("kind", [SinkHandler, LogContextHandler])
    def test_by_logging(self, sink: MemoryLogSink, kind: Any) -> None:
        """Records of the standard library."""
        context = configure_log_context("shop", log_sink=sink)
        handler = SinkHandler(sink) if kind is SinkHandler else LogContextHandler(context)
        capture_trace_context()
        logger = logging.getLogger("shop.trace")
        logger.addHandler(handler)
        try:
            with a_span() as ids:
                logger.warning("one", extra={"n": 1})
            logger.warning("two")
        finally:
            logger.removeHandler(handler)
        assert payloads(sink) == [{**ids, "n": 1}, {}]

    @pytest.mark.parametrize("processors", [[], [structlog.contextvars.merge_contextvars]], ids=["plain", "merging"])
    def test_by_structlog(self, sink: MemoryLogSink, processors: list[Any]) -> None:
        """Its event dicts, whether its chain merges context variables or not."""
        configure_log_context("shop", log_sink=sink)
        configure_structlog(processors=processors)
        capture_trace_context()
        try:
            structlog.contextvars.bind_contextvars(request="r1")
            with a_span() as ids:
                structlog.get_logger("shop").info("one", n=1)
            structlog.get_logger("shop").info("two")
        finally:
            structlog.reset_defaults()
        assert payloads(sink) == [{"request": "r1", **ids, "n": 1}, {"request": "r1"}]

    def test_by_log_invocation(self, sink: MemoryLogSink) -> None:
        """Calls that are logged by the decorator."""

        ctx = configure_log_context("shop", log_sink=sink)
        place = mvx_logger.log_invocation("place", ctx=ctx)(lambda: None)
        capture_trace_context()
        with a_span() as ids:
            place()
        assert payloads(sink)
        assert all(payload.items() >= ids.items() for payload in payloads(sink))

    def test_by_a_bridge_that_has_merged_the_rest(self, sink: MemoryLogSink) -> None:
        """What is bound is not merged again; the ids are."""
        root = configure_log_context("shop", log_sink=sink)
        capture_trace_context()
        structlog.contextvars.bind_contextvars(request="r1")
        meta = mvx_logger.LogEventMeta(None, "e")
        with a_span() as ids:
            root._emit_fields(20, meta, None, 0.0, {"a": 1}, merge_ambient=False)
        assert payloads(sink) == [{"a": 1, **ids}]


class TestWhich:
    def test_off_by_default(self, sink: MemoryLogSink) -> None:
        """Nothing is added unless somebody asked for it."""
        ctx = configure_log_context("shop", log_sink=sink)
        structlog.contextvars.bind_contextvars(request="r1")
        with a_span():
            ctx.log_info_event("one")
        assert payloads(sink) == [{"request": "r1"}]

    def test_of_the_caller(self, sink: MemoryLogSink) -> None:
        """Each task has its own span."""
        ctx = configure_log_context("shop", log_sink=sink)
        capture_trace_context()

        async def work(name: str) -> str:
            with a_span() as ids:
                await asyncio.sleep(0)
                ctx.log_info_event(name)
                return ids["span_id"]

        async def main() -> list[str]:
            return await asyncio.gather(work("a"), work("b"))

        spans = asyncio.run(main())
        assert {event.meta.event_name: event.payload["span_id"] for event in sink.events} == dict(
            zip("ab", spans, strict=True)
        )

    def test_an_id_that_is_there(self) -> None:
        """It stays, and nothing of another trace is put beside it."""
        with a_span():
            target = {"trace_id": "mine"}
            add_trace_context(target)
            assert target == {"trace_id": "mine"}

    def test_no_span(self) -> None:
        """A span that does not exist has no ids."""
        capture_trace_context()
        structlog.contextvars.bind_contextvars(request="r1")
        assert get_ambient() == {"request": "r1"}

    def test_a_span_that_fights_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Logging goes on without its ids."""
        monkeypatch.setattr(trace, "get_current_span", lambda: 1 / 0)
        target: dict[str, Any] = {}
        add_trace_context(target)
        assert not target

    def test_the_api_is_not_loaded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who has not loaded it has no span."""
        monkeypatch.delitem(sys.modules, "opentelemetry.trace")
        with a_span():
            target: dict[str, Any] = {}
            add_trace_context(target)
            assert not target


class TestSwitch:
    def test_while_anybody_wants_it(self) -> None:
        """Each holder has its say; the program is one of them."""

        class Holder:
            pass

        one, two = Holder(), Holder()
        capture_trace_context(holder=one)
        capture_trace_context(holder=two)
        capture_trace_context(False, holder=one)
        assert capture.active
        capture_trace_context(False)
        assert capture.active
        capture_trace_context()
        capture_trace_context(False, holder=two)
        assert capture.active
        capture_trace_context(False)
        assert not capture.active

    def test_a_holder_that_is_gone(self) -> None:
        """It wants nothing any more, and does not have to say so."""

        class Holder:
            pass

        holder = Holder()
        capture_trace_context(holder=holder)
        capture_trace_context(holder=holder)
        assert capture.active
        del holder
        gc.collect()
        assert not capture.active

    def test_the_api_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """There is nothing to switch on, and no error."""
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        capture_trace_context()
        assert not capture.active

        def fail(name: str) -> None:
            raise ModuleNotFoundError(name)

        monkeypatch.setattr("importlib.util.find_spec", fail)
        capture_trace_context()
        assert not capture.active

    def test_loads_nothing(self) -> None:
        """Neither OpenTelemetry nor structlog: that is for the program to do; and it works without structlog."""
        program = (
            "import logging, sys, mvx_logger\n"
            "from mvx_logger.ambient import capture, capture_trace_context\n"
            "capture_trace_context()\n"
            "assert capture.active\n"
            "sink = mvx_logger.MemoryLogSink()\n"
            "ctx = mvx_logger.configure_log_context('a', log_sink=sink)\n"
            "ctx.log_info_event('e', {'b': 1})\n"
            "assert 'opentelemetry.trace' not in sys.modules\n"
            "from opentelemetry import trace\n"
            "span = trace.NonRecordingSpan(trace.SpanContext(1, 2, False, trace.TraceFlags(1)))\n"
            "logging.getLogger().addHandler(mvx_logger.SinkHandler(sink))\n"
            "with trace.use_span(span):\n"
            "    ctx.log_info_event('f')\n"
            "    logging.getLogger('a').warning('g')\n"
            "ids = {'trace_id': '0' * 31 + '1', 'span_id': '0' * 15 + '2', 'trace_flags': '01'}\n"
            "assert [event.payload for event in sink.events] == [{'b': 1}, ids, ids], sink.events\n"
            "assert 'structlog.contextvars' not in sys.modules\n"
        )
        done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
