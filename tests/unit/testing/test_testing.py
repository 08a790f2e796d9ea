"""`capture_events`, `EventCapture` and the pytest plugin."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mvx_logger.context import LogContext
from mvx_logger.model import LogLevel
from mvx_logger.payload import LogPayloadProcessor
from mvx_logger.registry import (
    configure_log_context,
    get_log_context,
    get_root_log_context,
    has_log_context,
    reset_log_contexts,
    reset_logger,
)
from mvx_logger.sinks.memory import MemoryLogSink
from mvx_logger.testing import EventCapture, capture_events


@pytest.fixture(autouse=True)
def clean_registry() -> Iterator[None]:
    reset_log_contexts()
    yield
    reset_logger()


def names(capture: EventCapture) -> list[str]:
    return [event.meta.event_name for event in capture]


class TestCaptureEvents:
    def test_everything_below_the_root_is_captured(self) -> None:
        """Without an argument, whatever is logged anywhere is captured and sent nowhere else."""
        elsewhere = MemoryLogSink()
        get_root_log_context().set_log_sink(elsewhere)
        shop = configure_log_context("shop.orders")
        with capture_events() as capture:
            shop.log_info_event("created", {"order_id": 1})
            get_root_log_context().log_debug_event("started")
        assert names(capture) == ["created", "started"]
        assert capture.events[0].payload == {"order_id": 1}
        assert elsewhere.events == ()
        shop.log_info_event("later")
        assert len(capture) == 2
        assert len(elsewhere) == 1

    def test_only_a_namespace_and_what_is_below_it(self) -> None:
        """Other namespaces go where they went."""
        elsewhere = MemoryLogSink()
        get_root_log_context().set_log_sink(elsewhere)
        below, other = configure_log_context("shop.orders"), configure_log_context("bank")
        with capture_events("shop") as capture:
            below.log_info_event("mine")
            other.log_info_event("theirs")
        assert names(capture) == ["mine"]
        assert [event.meta.event_name for event in elsewhere.events] == ["theirs"]

    def test_a_namespace_that_is_not_configured_yet(self) -> None:
        """It is configured, so that the code under test finds it."""
        with capture_events("new.app") as capture:
            assert has_log_context("new.app")
            configure_log_context("new.app").log_info_event("found")
        assert names(capture) == ["found"]
        assert get_log_context("new.app").get_local_log_sink() is None

    def test_contexts_below_with_a_sink_of_their_own_are_captured_too(self) -> None:
        """A test does not write to the file that a part of the program is configured for."""
        own = MemoryLogSink()
        audit = configure_log_context("shop.audit", log_sink=own)
        with capture_events("shop") as capture:
            audit.log_info_event("paid")
        assert names(capture) == ["paid"]
        assert own.events == ()
        assert audit.get_local_log_sink() is own
        audit.log_info_event("later")
        assert len(own) == 1

    def test_a_context_of_ones_own(self) -> None:
        """A context that is registered nowhere, and its children."""
        sink = MemoryLogSink()
        root = LogContext(namespace="own", log_sink=sink, payload_processor=LogPayloadProcessor())
        child = LogContext(namespace="own.child", parent=root, log_sink=MemoryLogSink())
        with capture_events(root) as capture:
            root.log_info_event("one")
            child.log_info_event("two")
        assert names(capture) == ["one", "two"]
        assert root.log_sink is sink

    def test_what_was_inherited_is_inherited_again(self) -> None:
        """A context without a sink of its own has none afterwards, also after an exception."""
        shop = configure_log_context("shop")
        with pytest.raises(ValueError, match="in the test"), capture_events(shop):
            raise ValueError("in the test")
        assert shop.get_local_log_sink() is None
        assert shop.log_sink is get_root_log_context().log_sink

    def test_captures_nest(self) -> None:
        """The inner one takes over, then the outer one goes on."""
        shop = configure_log_context("shop")
        with capture_events() as outer:
            shop.log_info_event("1")
            with capture_events("shop") as inner:
                shop.log_info_event("2")
            shop.log_info_event("3")
        assert (names(outer), names(inner)) == (["1", "3"], ["2"])

    def test_a_sink_that_is_set_meanwhile_stays(self) -> None:
        """Configuration that the code under test makes is not undone."""
        shop = configure_log_context("shop")
        sink = MemoryLogSink()
        with capture_events("shop") as capture:
            shop.set_log_sink(sink)
            shop.log_info_event("elsewhere")
        assert shop.get_local_log_sink() is sink
        assert names(capture) == []

    def test_only_events_from_a_level_on(self) -> None:
        """level=WARNING leaves out the chatter."""
        shop = configure_log_context("shop")
        with capture_events("shop", level=LogLevel.WARNING) as capture:
            shop.log_info_event("chatter")
            shop.log_error_event("alarm")
        assert names(capture) == ["alarm"]

    def test_levels_and_policies_stay_in_force(self) -> None:
        """What is rejected in production is not captured either."""
        shop = configure_log_context("shop", min_level=30)
        with capture_events("shop") as capture:
            shop.log_info_event("rejected")
        assert names(capture) == []

    def test_events_of_all_threads_are_captured(self) -> None:
        """Capturing is not bound to a thread."""
        shop = configure_log_context("shop")
        with capture_events() as capture:
            thread = threading.Thread(target=shop.log_info_event, args=("from the thread",))
            thread.start()
            thread.join()
        assert names(capture) == ["from the thread"]

    def test_a_wrong_argument_is_named(self) -> None:
        """Nothing is changed."""
        with pytest.raises(TypeError, match=r"namespace_or_context: .*int"), capture_events(5):  # type: ignore[arg-type]
            pass  # pragma: no cover
        with pytest.raises(ValueError, match="malformed"), capture_events("not a name"):
            pass  # pragma: no cover

    def test_the_empty_namespace_is_the_root(self) -> None:
        """As in get_log_context_namespaces()."""
        with capture_events("") as capture:
            get_root_log_context().log_info_event("x")
        assert names(capture) == ["x"]


@pytest.fixture
def capture() -> Iterator[EventCapture]:
    """Three events."""
    with capture_events() as capture:
        shop = configure_log_context("shop")
        shop.log_info_event("order.created", {"order_id": 1, "name": "Ann"}, entity_id="order-1")
        shop.log_error_event("order.created", {"order_id": 2}, event_outcome="failed")
        get_root_log_context().log_event("done", 25)
        yield capture


class TestEventCapture:
    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            ({}, [0, 1, 2]),
            ({"name": "order.created"}, [0, 1]),
            ({"name": "order"}, []),
            ({"namespace": "shop"}, [0, 1]),
            ({"namespace": None}, [2]),
            ({"level": LogLevel.ERROR}, [1]),
            ({"level": 25}, [2]),
            ({"outcome": "failed"}, [1]),
            ({"outcome": None}, [0, 2]),
            ({"entity_id": "order-1"}, [0]),
            ({"entity_id": None}, [1, 2]),
            ({"order_id": 1}, [0]),
            ({"order_id": 3}, []),
            ({"unknown": None}, []),
            ({"payload": {"name": "Ann"}}, [0]),
            ({"payload": {"order_id": 2}, "outcome": "failed"}, [1]),
            ({"payload": {"order_id": 2}, "outcome": None}, []),
        ],
    )
    def test_find(self, capture: EventCapture, wanted: dict[str, Any], found: list[int]) -> None:
        """Events that agree with everything that is given."""
        assert capture.find(**wanted) == [capture.events[index] for index in found]

    def test_one(self, capture: EventCapture) -> None:
        """The only one that agrees."""
        assert capture.one("order.created", order_id=2) is capture.events[1]
        assert capture.one(level=25) is capture.events[2]

    def test_one_tells_what_was_captured_instead(self, capture: EventCapture) -> None:
        """A failing test shows what it looked for and what there is."""
        with pytest.raises(AssertionError) as caught:
            capture.one("order.created")
        text = str(caught.value)
        assert text.startswith("expected one event with name='order.created', found 2 in\n")
        assert repr(capture) in text
        with pytest.raises(AssertionError, match="with anything, found 3"):
            capture.one()

    def test_its_repr_lists_the_events(self, capture: EventCapture) -> None:
        """One a line, as the text format shows them."""
        assert repr(capture).splitlines() == [
            "<EventCapture: 3 events>",
            "  INFO shop.order-1.order.created {'order_id': 1, 'name': 'Ann'}",
            "  ERROR shop.order.created [failed] {'order_id': 2}",
            "  Level 25 done",
        ]
        capture.clear()
        assert capture.events == ()
        assert repr(capture) == "<EventCapture: 0 events>"
        get_root_log_context().log_info_event("x")
        assert repr(capture) == "<EventCapture: 1 event>\n  INFO x"


TEST_THAT_LOGS = """
    import mvx_logger

    def test_one(captured_events):
        mvx_logger.configure_log_context("shop").log_info_event("order.created", {"order_id": 42})
        assert captured_events.one("order.created").payload["order_id"] == 42

    def test_two(captured_events):
        assert not captured_events.events
"""


def run_pytest(path: Path, test: str, *arguments: str, conftest: str = "") -> subprocess.CompletedProcess[str]:
    """Run pytest on a file without the plugins that happen to be installed."""
    (path / "test_it.py").write_text(textwrap.dedent(test))
    (path / "conftest.py").write_text(conftest)
    (path / "pytest.ini").write_text("[pytest]\n")
    code = (
        "import os, sys; os.environ['PYTEST_DISABLE_PLUGIN_AUTOLOAD'] = '1'; import pytest; "
        "sys.exit(pytest.main(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", *arguments, str(path)],
        capture_output=True,
        text=True,
        cwd=path,
        timeout=100,
    )


class TestPytestPlugin:
    def test_the_fixture_captures_what_a_test_logs(self, tmp_path: Path) -> None:
        """pytest_plugins = ["mvx_logger.testing"] gives captured_events; each test has its own."""
        done = run_pytest(tmp_path, TEST_THAT_LOGS, conftest='pytest_plugins = ["mvx_logger.testing"]\n')
        assert "2 passed" in done.stdout, done.stdout + done.stderr

    @pytest.mark.parametrize("module", ["mvx_logger.testing", "mvx_logger._pytest_plugin"])
    def test_it_may_be_loaded_on_the_command_line(self, tmp_path: Path, module: str) -> None:
        """-p works as well."""
        done = run_pytest(tmp_path, TEST_THAT_LOGS, "-p", module)
        assert "2 passed" in done.stdout, done.stdout + done.stderr

    def test_it_may_be_loaded_by_the_entry_point_and_by_name(self, tmp_path: Path) -> None:
        """pytest_plugins in a project that has the plugin loaded by itself is no error."""
        conftest = textwrap.dedent("""
            import pytest, mvx_logger._pytest_plugin

            @pytest.hookimpl(tryfirst=True)
            def pytest_configure(config):
                if not config.pluginmanager.has_plugin("mvx_logger"):
                    config.pluginmanager.register(mvx_logger._pytest_plugin, "mvx_logger")

            pytest_plugins = ["mvx_logger.testing"]
        """)
        done = run_pytest(tmp_path, TEST_THAT_LOGS, conftest=conftest)
        assert "2 passed" in done.stdout, done.stdout + done.stderr

    def test_a_failing_test_shows_what_was_captured(self, tmp_path: Path) -> None:
        """The report of pytest has the list of events."""
        test = """
            import mvx_logger

            def test_one(captured_events):
                mvx_logger.configure_log_context("shop").log_info_event("order.paid")
                captured_events.one("order.created")
        """
        done = run_pytest(tmp_path, test, "-p", "mvx_logger.testing")
        assert "1 failed" in done.stdout
        assert "INFO shop.order.paid" in done.stdout

    def test_nothing_is_imported_until_the_fixture_is_used(self, tmp_path: Path) -> None:
        """In test runs that do not use it, the plugin costs the import of one small module."""
        test = """
            import sys

            def test_one():
                assert "mvx_logger._pytest_plugin" in sys.modules
                assert "mvx_logger.testing" not in sys.modules
                assert "mvx_logger.sinks.memory" not in sys.modules
        """
        done = run_pytest(tmp_path, test, "-p", "mvx_logger._pytest_plugin")
        assert "1 passed" in done.stdout, done.stdout + done.stderr

    def test_capturing_needs_no_pytest(self) -> None:
        """mvx_logger.testing serves unittest too."""
        code = "import sys, mvx_logger.testing; print('pytest' in sys.modules, '_pytest' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False False"
