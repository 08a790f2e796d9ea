"""The example program, and the README's first two commands on it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mvx_logger import LogEvent
from mvx_logger.formats.json import decode_event

MAIN = Path(__file__).resolve().parents[2] / "examples" / "shop" / "main.py"

OUTPUT = """\
order 1001: 2 x lamp, 39.80 paid
order 1002: 1 x desk, 240.00 paid
order 1003: not paid, card ending in 9995 was declined
order 1004: rejected, there is no sofa
2 of 4 orders shipped
"""


def execute(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MVX_LOGGER_")}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=True
    )


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> list[LogEvent]:
    """What ``show`` makes of what ``run`` has stored."""
    directory = tmp_path_factory.mktemp("shop")
    done = execute("-m", "mvx_logger.cli", "run", "--sink", "sqlite:///events.db", str(MAIN), cwd=directory)
    assert done.stdout == OUTPUT
    shown = execute("-m", "mvx_logger.cli", "show", "events.db", cwd=directory)
    return [decode_event(line) for line in shown.stdout.splitlines()]


def of(stream: list[LogEvent], namespace: str) -> list[LogEvent]:
    return [event for event in stream if (event.meta.event_namespace or "").startswith(namespace)]


class TestExample:
    def test_runs_by_itself(self, tmp_path: Path) -> None:
        """Without ``mvx-logger run`` it is an ordinary program: its operator sees warnings and errors."""
        done = execute(str(MAIN), cwd=tmp_path)
        assert done.stdout == OUTPUT
        assert "WARNING shop: order 1003 waits: 4 of chair wanted, 3 there" in done.stderr

    def test_its_output_is_the_same_when_it_is_routed(self, tmp_path: Path) -> None:
        """stderr too, but for times."""

        def shown(*command: str) -> str:
            return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "", execute(*command, cwd=tmp_path).stderr)

        assert shown("-m", "mvx_logger.cli", "run", str(MAIN)) == shown(str(MAIN))

    def test_everything_is_in_one_stream_in_order(self, stream: list[LogEvent]) -> None:
        """Standard library, structlog, HTTP client and native events, by time."""
        times = [event.timestamp for event in stream]
        assert times == sorted(times)
        systems = {event.origin.system if event.origin is not None else "native" for event in stream}
        assert systems == {"logging", "structlog", "native"}
        assert (stream[0].message, stream[-1].message) == ("the shop opens", "the shop closes: 2 of 4 orders")
        story = [event.message or event.meta.event_name for event in stream]
        for earlier, later in (
            ("looking for lamp", "lamp available: 12"),
            ("lamp available: 12", "quote"),
            ("quote", "charge"),
            ("charge", "looking for desk"),
            ("nobody sells a sofa", "shelf counted"),
            ("shelf counted", "packing for ada"),
        ):
            assert story.index(earlier) < story.index(later)

    def test_the_standard_librarys_records_keep_what_they_have(self, stream: list[LogEvent]) -> None:
        """Template, extra, traceback, thread."""
        (broken,) = [event for event in stream if event.meta.event_name == "catalog line %d is unreadable"]
        assert broken.payload == {"line": "shelf;twelve"}
        assert broken.exception is not None
        assert broken.exception.type == "ValueError"
        counted = of(stream, "shop.stock")
        assert len(counted) == 3 + 1 + 12 + 3
        assert {event.origin.thread_name for event in counted if event.origin} == {
            "shelf-chair",
            "shelf-desk",
            "shelf-lamp",
        }

    def test_the_http_client_is_heard(self, stream: list[LogEvent]) -> None:
        """httpx tells of each request, httpcore of each step."""
        assert len([event for event in of(stream, "httpx") if "200 OK" in (event.message or "")]) == 3
        assert len(of(stream, "httpcore.connection")) == 4
        assert len(of(stream, "httpcore.http11")) == 30

    def test_structlogs_events_are_data_again(self, stream: list[LogEvent]) -> None:
        """Its chain renders JSON text into the standard library; here are the values."""
        quotes = [event.payload for event in of(stream, "shop.pricing") if event.meta.event_name == "quote"]
        assert quotes[0] == {"customer": "ada", "total": 39.8, "currency": "EUR"}
        assert len(quotes) == 3

    def test_the_migrated_module_is_native(self, stream: list[LogEvent]) -> None:
        """Entities, outcomes, and nothing of what is secret."""
        payments = of(stream, "shop.payments")
        assert [event.event_outcome for event in payments if event.meta.entity_id == "order-1003"] == [
            "invoke",
            None,
            "failed",
        ]
        assert all(event.origin is None for event in payments)
        assert payments[1].payload["token"] == "***"

    def test_context_variables_are_on_the_standard_librarys_events(self, stream: list[LogEvent]) -> None:
        """What structlog's contextvars bind in a task is on each record of that task."""
        assert sorted(event.payload["order"] for event in of(stream, "shop.shipping")) == [
            "1001",
            "1001",
            "1002",
            "1002",
        ]
