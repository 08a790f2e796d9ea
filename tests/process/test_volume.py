"""Ten thousand stdlib records from eight threads at once, into each sink; `tests/nightly/test_more_volume.py` has more."""

from __future__ import annotations

import io
import json
import logging
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

import mvx_logger
from mvx_logger import (
    AsyncHandlerSink,
    FallbackSink,
    FanOutSink,
    FilterSink,
    HandlerSink,
    LogContextHandler,
    LoggerSink,
    MemoryLogSink,
    SinkHandler,
    StreamLogSink,
    StructlogSink,
    configure_log_context,
    sink_from_url,
)

THREADS = 8
EACH = 1_250
TEMPLATE = "event %d of thread %d"


def log_all(handler: logging.Handler) -> None:
    """Log from all threads at once, through one logger for each."""
    loggers = [logging.Logger(f"volume.t{number}", logging.INFO) for number in range(THREADS)]
    for logger in loggers:
        logger.addHandler(handler)
    start = threading.Barrier(THREADS)

    def run(number: int) -> None:
        info = loggers[number].info
        start.wait()
        for count in range(EACH):
            info(TEMPLATE, count, number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def check(messages: Iterable[str]) -> None:
    """All are there, once, in order for each thread."""
    seen: dict[int, list[int]] = {number: [] for number in range(THREADS)}
    for message in messages:
        words = message.split()
        seen[int(words[4])].append(int(words[1]))
    assert seen == {number: list(range(EACH)) for number in range(THREADS)}


def messages_in(lines: Iterable[str]) -> Iterable[str]:
    return (line[line.index("event ") :] for line in lines)


class TestVolume:
    """As many events as records, in order per thread."""

    def test_memory(self):
        """Into the memory sink."""
        sink = MemoryLogSink(max_events=None)
        log_all(SinkHandler(sink))
        check(event.message for event in sink.events)
        assert {event.meta.event_name for event in sink.events} == {TEMPLATE}

    def test_sqlite(self, tmp_path: Path):
        """Into a SQLite store, which holds all of them after a flush."""
        path = tmp_path / "events.db"
        handler = SinkHandler(f"sqlite:///{path}", flush_timeout=60)
        log_all(handler)
        handler.flush()
        [account] = [account for name, account in mvx_logger.stats().items() if name.startswith("sqlite")]
        handler.close()
        assert account.accepted == account.delivered == THREADS * EACH
        connection = sqlite3.connect(path)
        check(message for (message,) in connection.execute("select message from events order by id"))
        connection.close()

    @pytest.mark.parametrize("kind", ["json", "text"])
    def test_file(self, tmp_path: Path, kind: str):
        """Into a file, as JSON lines and as text."""
        path = tmp_path / "app.log"
        url = f"file://{path}?format={kind}"
        handler = SinkHandler(url, flush_timeout=60)
        log_all(handler)
        handler.flush()
        lines = path.read_text().splitlines()
        handler.close()
        check(json.loads(line)["message"] for line in lines) if kind == "json" else check(messages_in(lines))

    def test_stream(self, monkeypatch: pytest.MonkeyPatch):
        """To standard error."""
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        log_all(SinkHandler(StreamLogSink()))
        check(messages_in(stream.getvalue().splitlines()))

    def test_structlog_renderer(self, monkeypatch: pytest.MonkeyPatch):
        """Through a structlog processor chain."""
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stdout", stream)
        sink, close = StructlogSink.create(renderer="json", stream="stdout")
        log_all(SinkHandler(sink))
        close()
        check(json.loads(line)["event"] for line in stream.getvalue().splitlines())

    @pytest.mark.parametrize(
        "combine",
        [
            lambda sink: FanOutSink(MemoryLogSink(), sink),
            lambda sink: FilterSink(sink, min_level=logging.INFO, namespaces=("volume",)),
            lambda sink: FallbackSink(sink, StreamLogSink()),
        ],
        ids=["FanOutSink", "FilterSink", "FallbackSink"],
    )
    def test_combinators(self, combine: Callable[[MemoryLogSink], object]):
        """Through each of the combinators."""
        sink = MemoryLogSink(max_events=None)
        log_all(SinkHandler(combine(sink)))
        check(event.message for event in sink.events)

    def test_into_a_handler(self):
        """Into a handler of the standard library, in the threads that log."""
        stream = io.StringIO()
        log_all(SinkHandler(HandlerSink(logging.StreamHandler(stream))))
        check(stream.getvalue().splitlines())

    def test_into_a_handler_in_the_background(self):
        """Into a handler of the standard library, on a worker."""
        stream = io.StringIO()
        sink, close = AsyncHandlerSink.create(
            handler=logging.StreamHandler(stream), queue_max_size=THREADS * EACH, shutdown_timeout=60
        )
        log_all(SinkHandler(sink))
        close()
        check(stream.getvalue().splitlines())

    def test_into_a_logger(self):
        """Into an existing logger."""
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        target = logging.getLogger("volume_target")
        target.setLevel(logging.INFO)
        target.propagate = False
        target.addHandler(handler)
        try:
            log_all(SinkHandler(LoggerSink("volume_target")))
        finally:
            target.removeHandler(handler)
            target.setLevel(logging.NOTSET)
            target.propagate = True
        check(stream.getvalue().splitlines())

    def test_through_contexts(self):
        """Through the nearest of several contexts."""
        sinks = [MemoryLogSink(max_events=None) for _ in range(THREADS)]
        for number, sink in enumerate(sinks):
            configure_log_context(f"volume.t{number}", log_sink=sink)
        log_all(LogContextHandler())
        for number, sink in enumerate(sinks):
            assert [event.origin.args for event in sink.events] == [(count, number) for count in range(EACH)]

    def test_from_a_url(self):
        """Into a sink that a URL made."""
        sink = sink_from_url(f"memory:?max_events={THREADS * EACH}")
        log_all(SinkHandler(sink))
        check(event.message for event in sink.events)
