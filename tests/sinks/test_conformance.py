"""The conformance kit of `mvx_logger.testing`: good sinks pass it, each broken one is caught by the test for it."""

from __future__ import annotations

import importlib.util
import sqlite3
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import broken_sinks
from mvx_logger import AsyncioLogSink, FileLogSink, SqliteLogSink
from mvx_logger.delivery.process import running_sinks
from mvx_logger.formats.json import decode_event
from mvx_logger.sinks.dead_letter import DeadLetterFile
from mvx_logger.testing import SinkConformance, SinkDestination
from tcp_helpers import Connection, TcpServer

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.slow

_PATH = Path(__file__).resolve().parents[2] / "examples" / "custom_tcp_sink.py"
_SPEC = importlib.util.spec_from_file_location("custom_tcp_sink", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
example = sys.modules["custom_tcp_sink"] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(example)


@pytest.fixture(autouse=True)
def _end_what_is_broken() -> Iterator[None]:
    """A sink that never closes must not be there when other tests run."""
    before = set(running_sinks())
    yield
    for shelf in broken_sinks.shelves.values():
        shelf.repair()
        shelf.go_on()
        shelf.refused.clear()
    broken_sinks.shelves.clear()
    for sink in set(running_sinks()) - before:
        AsyncioLogSink.close(sink)


class Peer(SinkDestination):
    """The server of the example's protocol."""

    def __init__(self) -> None:
        self.server = TcpServer()
        self.server.behaviour = self._serve
        self.answers = threading.Event()
        self.answers.set()
        self.refused: set[str] = set()
        self.token = "hunter2-secret"
        self.server.open()

    def options(self) -> dict[str, Any]:
        return {"host": self.server.host, "port": self.server.port, "token": "hunter2-secret"}

    def url(self) -> str | None:
        return None

    def read(self) -> Sequence[tuple[str | None, str]]:
        return list(self.server.receipts.by_id.items())

    def break_down(self) -> None:
        self.server.shut()

    def repair(self) -> None:
        self.server.open()

    def stall(self) -> None:
        self.answers.clear()

    def go_on(self) -> None:
        self.answers.set()

    def refuse(self, name: str) -> None:
        self.refused.add(name)

    def change_secret(self) -> None:
        self.token = "another"

    def restore_secret(self) -> None:
        self.token = "hunter2-secret"

    def _serve(self, connection: Connection) -> None:
        while (batch := connection.read_batch()) is not None and connection.token == self.token:
            self.answers.wait()
            refused = {str(i): "no" for i, (_, name) in enumerate(batch.events) if name in self.refused}
            self.server.store([event for event in batch.events if event[1] not in self.refused])
            connection.answer(batch, taken=len(batch.events) - len(refused), refused=refused)


class TestCustomTcpSink(SinkConformance):
    sink_class = example.TcpLogSink
    deduplicates = True
    secrets = ("hunter2-secret",)

    @pytest.fixture
    def destination(self) -> Iterator[SinkDestination]:
        peer = Peer()
        yield peer
        peer.go_on()
        peer.server.close()


class _Local(SinkConformance):
    """What needs no server cannot be down, and has no secrets."""

    test_the_destination_is_down_at_the_start = None
    test_the_destination_goes_down_and_comes_back = None
    test_the_caller_never_waits_for_a_stalled_destination = None
    test_closing_while_the_destination_is_down = None
    test_closing_while_the_destination_is_stalled = None
    test_an_event_that_is_refused = None
    test_the_secret_is_changed_and_changed_back = None
    test_the_disk_keeps_what_a_process_leaves = None
    test_secrets_stay_secret = None


class Database(SinkDestination):
    def __init__(self, path: Path) -> None:
        self.path = path

    def options(self) -> dict[str, Any]:
        return {"path": str(self.path)}

    def url(self) -> str | None:
        return f"sqlite:///{self.path}"

    def read(self) -> Sequence[tuple[str | None, str]]:
        if not self.path.exists():
            return []
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute("SELECT delivery_id, event FROM events ORDER BY id").fetchall()


class TestSqliteLogSink(_Local):
    sink_class = SqliteLogSink
    deduplicates = True

    @pytest.fixture
    def destination(self, tmp_path: Path) -> SinkDestination:
        return Database(tmp_path / "events.db")


class Lines(SinkDestination):
    def __init__(self, path: Path) -> None:
        self.path = path

    def options(self) -> dict[str, Any]:
        return {"file_path": str(self.path), "format": "json"}

    def url(self) -> str | None:
        return f"file://{self.path}?format=json"

    def read(self) -> Sequence[tuple[str | None, str]]:
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        return [(None, decode_event(line).meta.event_name) for line in lines]


class TestFileLogSink(_Local):
    sink_class = FileLogSink

    @pytest.fixture
    def destination(self, tmp_path: Path) -> SinkDestination:
        return Lines(tmp_path / "events.jsonl")


class PlainFile(Lines):
    def options(self) -> dict[str, Any]:
        return {"path": str(self.path)}

    def url(self) -> str | None:
        return None


class TestDeadLetterFile(_Local):
    """A synchronous one."""

    sink_class = DeadLetterFile
    test_batches_of_any_size = None
    test_it_can_be_stopped_and_started_again = None

    @pytest.fixture
    def destination(self, tmp_path: Path) -> SinkDestination:
        return PlainFile(tmp_path / "events.jsonl")


class TestShelfSink(broken_sinks.Conformance):
    """The one that the broken ones are made of."""

    sink_class = broken_sinks.ShelfSink
    patience = 30.0


PLAIN = ("-p", "no:cacheprovider", "-o", "addopts=", "-o", "asyncio_default_fixture_loop_scope=function")

BROKEN = {
    broken_sinks.Loses: ("test_all_events_arrive_in_order", "of 500 events are lost"),
    broken_sinks.Reorders: ("test_all_events_arrive_in_order", "the order has changed"),
    broken_sinks.DeliversTwice: ("test_all_events_arrive_in_order", "there more than once"),
    broken_sinks.WaitsForCompany: ("test_a_single_event_does_not_wait_for_others", "1 of 1 events are lost"),
    broken_sinks.Swallows: ("test_the_destination_goes_down_and_comes_back", "events are lost"),
    broken_sinks.MakesNewIds: ("test_all_events_arrive_in_order", "more than once"),
    broken_sinks.ConfirmsTooEarly: ("test_flush_means_that_the_destination_has_it", "flush said True"),
    broken_sinks.ChangesEvents: ("test_events_are_not_changed", "seen"),
    broken_sinks.ChokesOnContent: ("test_events_of_every_kind", "not all was confirmed|these contents were lost"),
    broken_sinks.Waits: ("test_the_caller_never_waits_for_a_stalled_destination", "waits for the destination"),
    broken_sinks.NeverCloses: ("test_closing_while_the_destination_is_down", "does not end"),
    broken_sinks.NeverRefuses: ("test_an_event_that_is_refused", "not all was settled"),
    broken_sinks.GivesUpOnASecret: ("test_the_secret_is_changed_and_changed_back", "secret is refused"),
    broken_sinks.SaysNothingOfTheSecret: ("test_the_secret_is_changed_and_changed_back", "does not name the cause"),
    broken_sinks.RefusesAll: ("test_an_event_that_is_refused", "assert"),
    broken_sinks.SharesABuffer: ("test_a_forked_child_has_a_connection_of_its_own", "lost|more than once"),
    broken_sinks.TellsItsToken: ("test_secrets_stay_secret", "a secret is in the descriptor"),
    broken_sinks.TellsItsTokenInErrors: ("test_secrets_stay_secret", "a secret is in the statistics"),
    broken_sinks.TakesAnything: ("test_an_option_that_does_not_exist", "DID NOT RAISE"),
    broken_sinks.NeedsItAtTheStart: ("test_the_destination_is_down_at_the_start", "OnStarting|shelf is down"),
}


@pytest.mark.parametrize(("sink_class", "test", "text"), [(cls, *rest) for cls, rest in BROKEN.items()])
def test_a_broken_sink_is_caught(sink_class: type, test: str, text: str, pytester: pytest.Pytester) -> None:
    """By the test that is for it, with words that say what is wrong."""
    pytester.makepyfile(
        f"""
        import broken_sinks

        class TestBroken(broken_sinks.Conformance):
            sink_class = broken_sinks.{sink_class.__name__}
        """
    )
    result = pytester.runpytest_inprocess("-k", test, *PLAIN)
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([f"E .*({text})"])


def test_what_a_destination_cannot_do_is_skipped_with_the_reason(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import broken_sinks
        import pytest
        from mvx_logger.testing import SinkDestination

        class Plain(SinkDestination):
            def __init__(self, shelf):
                self.options, self.read = shelf.options, shelf.read

        class TestPlain(broken_sinks.Conformance):
            sink_class = broken_sinks.ShelfSink

            @pytest.fixture
            def destination(self, tmp_path):
                return Plain(broken_sinks.Shelf(tmp_path))
        """
    )
    result = pytester.runpytest_inprocess("-rs", *PLAIN, "-k", "down or refused or stalled")
    result.assert_outcomes(skipped=6)
    for action in ("break down", "refuse", "stall"):
        result.stdout.re_match_lines_random([f".*the destination of this test cannot {action}"])


def test_a_forgotten_fixture_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import broken_sinks
        from mvx_logger.testing import SinkConformance

        class TestNothing(SinkConformance):
            sink_class = broken_sinks.ShelfSink
        """
    )
    result = pytester.runpytest_inprocess("-k", "descriptor", *PLAIN)
    result.assert_outcomes(errors=1)
    result.stdout.re_match_lines([".*TestNothing needs a fixture named destination"])
