"""The bridge under the stock configuration of `logging`: dictConfig, fileConfig, Django's LOGGING, uvicorn's log_config."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import logging
import logging.config
import logging.handlers
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import pytest

import mvx_logger
import mvx_logger.selflog
from mvx_logger import (
    LogConfigurationError,
    LogContext,
    LogContextHandler,
    LogEvent,
    LogPayloadProcessor,
    LogSinkDescriptor,
    MemoryLogSink,
    SinkHandler,
    configure_log_context,
    registry,
)
from mvx_logger.bridge import handlers
from mvx_logger.delivery.sink import AsyncioLogSink
from waiting import wait_until

PATIENCE = 20.0


class Collecting(AsyncioLogSink):
    """Logs like a client library that is imported on first use, and while it delivers."""

    made: ClassVar[list[Collecting]] = []

    def __init__(self, *, label: str = "", slow: float = 0.0, fail: bool = False, **async_options: Any) -> None:
        super().__init__(**async_options)
        self.label = label
        self.slow = slow
        self.fail = fail
        self.events: list[LogEvent] = []
        self.made.append(self)

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        return cls._describe("collecting", (kwargs.get("label", ""),), kwargs)

    async def _on_starting(self) -> None:
        if self.fail:
            raise ValueError("no such server")
        logging.getLogger(f"client.{id(self)}.{len(self.made)}").debug("connecting")

    async def _dispatch_core(self, event: LogEvent) -> None:
        if self.slow:
            await asyncio.sleep(self.slow)
        logging.getLogger("client").debug("sent")
        self.events.append(event)


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    """The standard library's logging and our sinks are as they were, after every test."""
    root = logging.getLogger()
    before = (root.level, root.handlers[:], root.filters[:])
    names = dict(logging._handlers)
    refs = logging._handlerList[:]  # type: ignore[attr-defined]
    Collecting.made.clear()
    yield
    root.setLevel(before[0])
    root.handlers[:], root.filters[:] = before[1], before[2]
    for logger in list(root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            logger.disabled = False
            logger.handlers[:] = []
            logger.propagate = True
            logger.setLevel(logging.NOTSET)
    logging._handlers.clear()
    logging._handlers.update(names)
    logging._handlerList[:] = refs  # type: ignore[attr-defined]
    # A sink that is being made still belongs to this test, not to the next one.
    wait_until(lambda: not handlers._unfinished)
    gc.collect()
    for sink in Collecting.made:
        sink.close()
    mvx_logger.reset_logger()


def within(timeout: float, function: Callable[[], object]) -> None:
    """Run it on a thread of its own: a deadlock fails the test and does not stop it."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as err:
            failed.append(err)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout)
    assert not thread.is_alive(), "it hangs"
    if failed:
        raise failed[0]


def sink_of(handler: logging.Handler) -> Any:
    assert isinstance(handler, SinkHandler)
    return handler._target.current(PATIENCE)


def root_sink() -> Any:
    return sink_of(logging.getLogger().handlers[0])


def config(sink: Any, **handler: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"pipeline": {"class": "mvx_logger.SinkHandler", "sink": sink, **handler}},
        "root": {"level": "DEBUG", "handlers": ["pipeline"]},
    }


MEMORY = {"class": "mvx_logger.MemoryLogSink"}
COLLECTING = {"class": f"{__name__}.Collecting"}


class TestDictConfig:
    def test_class(self) -> None:
        """ "class": the plainest configuration there is."""
        logging.config.dictConfig(config(MEMORY))
        logging.getLogger("app").info("order %s", "o-1", extra={"user": "alice"})
        (event,) = root_sink().events
        assert (event.message, event.payload) == ("order o-1", {"user": "alice"})

    def test_factory(self) -> None:
        """ "()": the class, a dotted path, or a function of the application's."""
        for factory in (SinkHandler, "mvx_logger.SinkHandler", lambda sink: SinkHandler(sink)):
            settings = config(MEMORY)
            settings["handlers"]["pipeline"] = {"()": factory, "sink": MEMORY}
            logging.config.dictConfig(settings)
            logging.getLogger("app").info("x")
            assert len(root_sink().take()) == 1

    def test_cfg_and_ext_references(self) -> None:
        """Wherever they stand in a sink's mapping."""
        settings = config({"class": "ext://mvx_logger.MemoryLogSink", "max_events": "cfg://limits.events"})
        settings["limits"] = {"events": 2}
        settings["handlers"]["object"] = {"class": "mvx_logger.SinkHandler", "sink": f"ext://{__name__}.SHARED_SINK"}
        settings["handlers"]["from"] = {"class": "mvx_logger.SinkHandler", "sink": "cfg://sinks.main"}
        settings["sinks"] = {"main": {"class": "mvx_logger.MemoryLogSink", "name": "other"}}
        settings["root"]["handlers"] = ["pipeline", "object", "from"]
        logging.config.dictConfig(settings)
        for number in range(3):
            logging.getLogger("app").info("%d", number)
        assert [event.message for event in root_sink().events] == ["1", "2"]
        assert len(sink_of(logging.getLogger().handlers[2]).events) == 3
        assert len(SHARED_SINK.events) == 3
        SHARED_SINK.clear()

    def test_level_filters_and_formatter(self) -> None:
        """Field bug 13: the `formatter` in dictConfig has an effect; so have level and filters."""
        settings = config(MEMORY, level="WARNING", formatter="plain", filters=["only_app"])
        settings["formatters"] = {"plain": {"format": "{levelname}:{message}", "style": "{"}}
        settings["filters"] = {"only_app": {"name": "app"}}
        logging.config.dictConfig(settings)
        logging.getLogger("app").info("too low")
        logging.getLogger("other").warning("filtered")
        logging.getLogger("app.sub").warning("order %s", "o-1")
        (event,) = root_sink().events
        assert event.message == "WARNING:order o-1"
        assert event.meta.event_name == "order %s"

    def test_all_options_are_plain_data(self) -> None:
        """Field bug 20: everything that the bridge offers can be written in a plain data file."""
        text = json.dumps(
            {
                "version": 1,
                "handlers": {
                    "pipeline": {
                        "class": "mvx_logger.SinkHandler",
                        "sink": {
                            "class": "mvx_logger.HandlerSink",
                            "handler": {
                                "class": "logging.handlers.MemoryHandler",
                                "capacity": 10,
                                "level": "INFO",
                                "formatter": "%(message)s",
                                "filters": ["app"],
                            },
                        },
                        "event_name": "message",
                        "payload_processor": {"max_str_len": 3},
                        "flush_timeout": 1.5,
                    },
                    "context": {
                        "class": "mvx_logger.LogContextHandler",
                        "context": "app",
                        "event_name": "message",
                        "flush_timeout": None,
                    },
                    "slow": {
                        "class": "mvx_logger.SinkHandler",
                        "sink": {
                            "class": "mvx_logger.AsyncHandlerSink",
                            "handler": {"class": "logging.NullHandler"},
                            "queue_max_size": 5,
                            "queue_overflow_policy": "drop",
                        },
                    },
                    "logger": {
                        "class": "mvx_logger.SinkHandler",
                        "sink": {"class": "mvx_logger.LoggerSink", "name": "audit"},
                    },
                },
                "loggers": {"audit": {"propagate": False}},
                "root": {"level": "DEBUG", "handlers": ["pipeline", "context", "slow", "logger"]},
            }
        )
        memory = MemoryLogSink()
        configure_log_context("app", log_sink=memory)
        logging.config.dictConfig(json.loads(text))
        logger = logging.getLogger("app")
        logger.disabled = False
        logger.info("order %s", "o-1", extra={"user": "alice"})
        (record,) = root_sink().handler.buffer
        assert record.user == "ali..."
        assert memory.events[0].meta.event_name == "order o-1"

    def test_a_wrong_option_names_the_handler_and_the_key(self) -> None:
        """dictConfig tells which handler; the cause tells which key, and what would be right."""
        with pytest.raises(ValueError, match="pipeline") as caught:
            logging.config.dictConfig(config({"class": "mvx_logger.MemoryLogSink", "max_event": 3}))
        assert isinstance(caught.value.__cause__, LogConfigurationError)
        assert "max_events" in str(caught.value.__cause__)

    def test_a_sink_that_cannot_start_is_an_error(self) -> None:
        """Not a surprise at the first event."""
        with pytest.raises(ValueError, match="pipeline") as caught:
            logging.config.dictConfig(config({**COLLECTING, "fail": True}))
        assert "no such server" in str(caught.value.__cause__)

    def test_disable_existing_loggers(self) -> None:
        """A logger that it disables is silent; one that is configured is not."""
        early, named = logging.getLogger("early"), logging.getLogger("named")
        settings = config(MEMORY)
        settings["disable_existing_loggers"] = True
        settings["loggers"] = {"named": {"level": "DEBUG"}}
        logging.config.dictConfig(settings)
        early.info("silent")
        named.info("heard")
        assert [event.message for event in root_sink().events] == ["heard"]

    def test_combinators(self, tmp_path: Path) -> None:
        """Sinks inside of sinks, asynchronous ones among them, in one mapping."""
        settings = config(
            {
                "class": "mvx_logger.FanOutSink",
                "sinks": [
                    MEMORY,
                    {"class": "mvx_logger.FilterSink", "sink": COLLECTING, "min_level": "ERROR"},
                    {"class": "mvx_logger.FileLogSink", "file_path": str(tmp_path / "app.log")},
                ],
            }
        )
        logging.config.dictConfig(settings)
        logging.getLogger("app").info("one")
        logging.getLogger("app").error("two")
        logging.getLogger().handlers[0].flush()
        assert [event.message for event in Collecting.made[0].events] == ["two"]
        assert len((tmp_path / "app.log").read_text().splitlines()) == 2
        logging.getLogger().handlers[0].close()

    def test_incremental(self) -> None:
        """Levels of handlers change in place; their sinks go on."""
        logging.config.dictConfig(config(MEMORY))
        sink = root_sink()
        logging.config.dictConfig(
            {"version": 1, "incremental": True, "handlers": {"pipeline": {"level": "ERROR"}}, "root": {"level": "INFO"}}
        )
        logging.getLogger("app").warning("no")
        logging.getLogger("app").error("yes")
        assert [event.message for event in sink.events] == ["yes"]

    def test_the_same_configuration_twice(self) -> None:
        """It is idempotent: the same sink underneath, with what it holds, and no thread more."""
        settings = config([])
        settings["handlers"]["pipeline"]["sink"] = COLLECTING
        settings["handlers"]["memory"] = {"class": "mvx_logger.SinkHandler", "sink": MEMORY}
        settings["root"]["handlers"] = ["pipeline", "memory"]
        logging.config.dictConfig(copy.deepcopy(settings))
        logging.getLogger("app").info("one")
        first, memory = (sink_of(handler) for handler in logging.getLogger().handlers)
        threads = threading.active_count()
        for _ in range(5):
            logging.config.dictConfig(copy.deepcopy(settings))
        logging.getLogger("app").info("two")
        assert [sink_of(handler) for handler in logging.getLogger().handlers] == [first, memory]
        wait_until(lambda: threading.active_count() == threads)
        assert first.get_status().value == "running"
        assert first.flush(PATIENCE)
        assert [event.message for event in first.events] == ["one", "two"]
        assert [event.message for event in memory.events] == ["one", "two"]
        assert len(Collecting.made) == 1

    def test_another_configuration_ends_the_old_sink(self) -> None:
        """After it has delivered what it accepted."""
        logging.config.dictConfig(config({**COLLECTING, "label": "old", "slow": 0.01}))
        for number in range(20):
            logging.getLogger("app").info("%d", number)
        logging.config.dictConfig(config({**COLLECTING, "label": "new"}))
        logging.getLogger("app").info("new")
        assert root_sink() is Collecting.made[1]
        old, new = Collecting.made
        wait_until(lambda: old.get_status().value == "stopped")
        assert [event.message for event in old.events] == [str(number) for number in range(20)]
        assert new.flush(PATIENCE)
        assert [event.message for event in new.events] == ["new"]

    def test_dictconfig_hangs_for_ever(self) -> None:
        """Field bug 1: it returns, although the worker logs while logging's module lock is held."""

        def run() -> None:
            for number in range(5):
                logging.config.dictConfig(config({**COLLECTING, "label": str(number), "slow": 0.001}))
                for count in range(50):
                    logging.getLogger(f"app.{number}.{count}").info("x")

        within(PATIENCE, run)
        wait_until(lambda: [len(sink.events) for sink in Collecting.made] == [50] * 5)

    @pytest.mark.parametrize("when", ["importing", "constructing", "starting", "making the handler"])
    def test_making_a_sink_needs_the_lock_that_dictconfig_holds(self, when: str) -> None:
        """Field bug 1, the other way round: the worker's client library is imported, and asks for its logger."""

        def take_lock() -> None:
            logging.getLogger(f"client.{time.monotonic_ns()}").debug("hello")

        class Slow(Collecting):
            def __init__(self, **options: Any) -> None:
                super().__init__(**options)
                if when == "constructing":
                    take_lock()

            @classmethod
            def create(cls, **kwargs: Any) -> Any:
                if when == "importing":
                    take_lock()
                return super().create(**kwargs)

            async def _on_starting(self) -> None:
                if when == "starting":
                    take_lock()

        written: list[str] = []

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                written.append(record.getMessage())

        sink: dict[str, Any] = {"class": Slow, "label": when}
        if when == "making the handler":
            sink = {"class": "mvx_logger.AsyncHandlerSink", "handler": {"()": Handler}}
        for _ in range(2):
            within(4, lambda: logging.config.dictConfig(config(sink)))
            logging.getLogger("app").info("x")
        wait_until(lambda: len(written) + sum(len(made.events) for made in Collecting.made) == 2)

    def test_a_finalizer_that_logs_at_a_bad_moment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Field bug 1 once more: a thread that makes a sink waits then for the lock that dictConfig holds, and holds a lock
        of the registry that the next sink needs."""
        collected = threading.Event()

        class Trash:
            def __init__(self) -> None:
                self.itself = self

            def __del__(self) -> None:
                collected.set()
                logging.getLogger("client.of.trash").debug("a connection was not closed")

        class Turns(WeakValueDictionary[Any, Any]):
            def get(self, key: Any, default: Any = None) -> Any:
                if threading.current_thread() is not configuring and not collected.is_set():
                    gc.collect()
                return super().get(key, default)

        def run() -> None:
            nonlocal configuring
            configuring = threading.current_thread()
            settings = config(COLLECTING)
            # They are made in the order of their names.
            settings["handlers"]["then"] = {"class": "mvx_logger.SinkHandler", "sink": MEMORY}
            settings["root"]["handlers"].append("then")
            logging.config.dictConfig(settings)

        configuring: threading.Thread | None = None
        monkeypatch.setattr(registry, "_turns", Turns())
        gc.disable()
        try:
            Trash()
            within(PATIENCE, run)
        finally:
            gc.enable()
        assert collected.is_set()
        logging.getLogger("app").info("x")
        sinks = [sink_of(handler) for handler in logging.getLogger().handlers[:2]]
        wait_until(lambda: [[event.message for event in sink.events] for sink in sinks] == [["x"], ["x"]])

    def test_a_sink_that_cannot_be_made_after_all(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What fails only after dictConfig has returned is told on stderr; the application goes on."""
        mvx_logger.selflog._told.clear()

        class Late(Collecting):
            async def _on_starting(self) -> None:
                logging.getLogger(f"client.{time.monotonic_ns()}")
                raise ValueError("no such server")

        within(4, lambda: logging.config.dictConfig(config({"class": Late})))
        told = ""
        deadline = time.monotonic() + PATIENCE
        while "no such server" not in told:
            logging.getLogger("app").info("x")
            told += capsys.readouterr().err
            assert time.monotonic() < deadline

    @pytest.mark.parametrize("seconds", [1.0])
    def test_reconfiguring_under_load_loses_nothing(self, seconds: float) -> None:
        """Field bugs 1 and 2: eight threads log while the configuration changes; all that was logged arrives."""
        logging.config.dictConfig(config({**COLLECTING, "label": "0"}))
        stop = threading.Event()
        logged = [0] * 8

        def log(number: int) -> None:
            while not stop.is_set():
                # Fresh names: isEnabledFor() takes the module lock for each.
                logging.getLogger(f"app.{number}.{logged[number] % 50}").warning("%d %d", number, logged[number])
                logged[number] += 1
                if logged[number] % 20 == 0:
                    time.sleep(0.001)

        workers = [threading.Thread(target=log, args=(number,), daemon=True) for number in range(8)]

        def reconfigure() -> None:
            for worker in workers:
                worker.start()
            deadline = time.monotonic() + seconds
            number = 0
            while time.monotonic() < deadline:
                number += 1
                settings = config({**COLLECTING, "label": str(number % 3), "queue_max_size": 1_000_000})
                # So that no record falls between two configurations: dictConfig takes away handlers one by one.
                settings["loggers"] = {"app": {"level": "DEBUG"}}
                logging.config.dictConfig(settings)

        try:
            within(PATIENCE + seconds, reconfigure)
        finally:
            stop.set()
        for worker in workers:
            worker.join(PATIENCE)
            assert not worker.is_alive()
        # While dictConfig has taken the old handler away and not yet set the new one, no handler is there at all: what
        # is logged then goes to lastResort. All that a handler was given arrives.
        for sink in Collecting.made:
            sink.flush(PATIENCE)
        assert sum(logged) > 100
        for sink in Collecting.made:
            accounts = sink.stats()
            assert accounts.accepted == accounts.delivered + accounts.pending
            assert not accounts.dropped
        seen: dict[int, list[int]] = {}
        for sink in Collecting.made:
            for event in sink.events:
                assert event.origin is not None
                worker_number, count = event.origin.args  # type: ignore[misc]
                seen.setdefault(worker_number, []).append(count)
        for counts in seen.values():
            assert len(counts) == len(set(counts))

    def test_every_log_call_blocks_after_a_reconfiguration(self) -> None:
        """Field bug 2: a handler in front, whose lock is held while it emits, does not meet the module lock."""
        settings = config({"class": "mvx_logger.LoggerSink", "name": "target"})
        settings["handlers"]["buffer"] = {
            "class": "logging.handlers.MemoryHandler",
            "capacity": 1,
            "target": "pipeline",
        }
        settings["handlers"]["end"] = {"class": "mvx_logger.SinkHandler", "sink": COLLECTING}
        settings["loggers"] = {"target": {"handlers": ["end"], "propagate": False, "level": "DEBUG"}}
        settings["root"]["handlers"] = ["buffer"]
        stop = threading.Event()

        def log() -> None:
            while not stop.is_set():
                logging.getLogger("app").warning("x")

        def run() -> None:
            logging.config.dictConfig(settings)
            workers = [threading.Thread(target=log, daemon=True) for _ in range(4)]
            for worker in workers:
                worker.start()
            for _ in range(30):
                logging.config.dictConfig(settings)
            stop.set()
            for worker in workers:
                worker.join(PATIENCE)
                assert not worker.is_alive()

        try:
            within(PATIENCE, run)
        finally:
            stop.set()

    def test_configured_means_running(self) -> None:
        """Field bug 15: a handler configured by dictConfig takes records out as well as in."""
        logging.config.dictConfig(config(COLLECTING))
        logging.getLogger("app").info("x")
        wait_until(lambda: Collecting.made and len(Collecting.made[0].events) == 1)

    def test_a_handler_that_was_closed_by_a_reconfiguration_and_is_still_in_use(self) -> None:
        """Field bug 17: a framework's dictConfig closes it; the library that kept it goes on logging."""
        handler = SinkHandler({**COLLECTING, "label": "kept"})
        kept = logging.Logger("library")
        kept.addHandler(handler)
        kept.warning("one")
        logging.config.dictConfig(config(MEMORY))
        kept.warning("two")
        wait_until(lambda: not [sink for sink in Collecting.made[:1] if sink.get_status().value == "running"])
        kept.warning("three")
        handler.flush()
        events = [event.message for sink in Collecting.made for event in sink.events]
        assert events == ["one", "two", "three"]
        handler.close()

    def test_contexts_behind_one_handler(self) -> None:
        """One LogContextHandler on the root logger gives every module its own context."""
        shop, rest = MemoryLogSink(), MemoryLogSink()
        mvx_logger.get_root_log_context().set_log_sink(rest)
        configure_log_context("shop", log_sink=shop)
        logging.config.dictConfig(
            {
                "version": 1,
                "handlers": {"pipeline": {"class": "mvx_logger.LogContextHandler"}},
                "root": {"level": "DEBUG", "handlers": ["pipeline"]},
            }
        )
        logging.getLogger("shop.orders.fresh").info("one")
        logging.getLogger("fresh.other").info("two")
        assert [event.message for event in shop.events] == ["one"]
        assert [event.message for event in rest.events] == ["two"]

    def test_a_registered_sink_by_name(self) -> None:
        """The name of a sink that the application configured."""
        sink = mvx_logger.configure_log_sink(name="main", sink_cls=MemoryLogSink)
        logging.config.dictConfig(config("main"))
        logging.getLogger("app").info("x")
        assert len(sink.events) == 1

    if sys.version_info >= (3, 12):  # dictConfig knows queue handlers since then

        def test_behind_a_queue_handler_of_dictconfig(self) -> None:
            """QueueHandler with its listener, as Python 3.12 configures them."""
            settings = config(MEMORY)
            settings["handlers"]["queue"] = {
                "class": "logging.handlers.QueueHandler",
                "handlers": ["pipeline"],
                "respect_handler_level": True,
            }
            settings["root"]["handlers"] = ["queue"]
            logging.config.dictConfig(settings)
            front: Any = logging.getHandlerByName("queue")  # type: ignore[attr-defined,unused-ignore]
            front.listener.start()
            logging.getLogger("app").info("order %s", "o-1", extra={"user": "alice"})
            front.listener.stop()
            sink = sink_of(logging.getHandlerByName("pipeline"))  # type: ignore[attr-defined,unused-ignore]
            assert [(event.message, event.payload) for event in sink.events] == [("order o-1", {"user": "alice"})]


SHARED_SINK = MemoryLogSink()


class TestFileConfig:
    def test_a_url_and_keyword_arguments(self, tmp_path: Path) -> None:
        """args and kwargs as fileConfig evaluates them."""
        path = tmp_path / "logging.ini"
        path.write_text(
            textwrap.dedent(
                """
                [loggers]
                keys=root
                [handlers]
                keys=pipeline,context
                [formatters]
                keys=plain
                [logger_root]
                level=DEBUG
                handlers=pipeline,context
                [handler_pipeline]
                class=mvx_logger.SinkHandler
                level=INFO
                formatter=plain
                args=({"class": "mvx_logger.MemoryLogSink"},)
                kwargs={"event_name": "message"}
                [handler_context]
                class=mvx_logger.LogContextHandler
                args=("app",)
                [formatter_plain]
                format=%(levelname)s %(message)s
                """
            )
        )
        memory = MemoryLogSink()
        configure_log_context("app", log_sink=memory)
        for _ in range(2):
            logging.config.fileConfig(path, disable_existing_loggers=False)
        logging.getLogger("app").debug("low")
        logging.getLogger("app").info("order %s", "o-1")
        (event,) = root_sink().events
        assert event.message == "INFO order o-1"
        assert event.meta.event_name == "order o-1"
        assert [event.message for event in memory.events] == ["low", "order o-1"]


def run_script(tmp_path: Path, code: str) -> list[dict[str, Any]]:
    """Run a script; what its sink printed as JSON lines."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import json, logging, os, sys
            import mvx_logger

            class Printing:
                @classmethod
                def build_descriptor(cls, **kwargs):
                    return mvx_logger.LogSinkDescriptor("printing", ())
                @classmethod
                def create(cls, **kwargs):
                    return cls(), lambda: None
                def log(self, event):
                    line = [event.meta.event_namespace, event.level, event.message, sorted(event.payload)]
                    sys.__stdout__.write(json.dumps(line) + chr(10))
                    sys.__stdout__.flush()
            """
        )
        + textwrap.dedent(code)
    )
    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("[")]


PRINTING = """
class Sink(mvx_logger.AsyncioLogSink):
    @classmethod
    def build_descriptor(cls, **kwargs):
        return mvx_logger.LogSinkDescriptor("async-printing", ())
    async def _on_starting(self):
        logging.getLogger("client.fresh").debug("connecting")
    async def _dispatch_core(self, event):
        os.write(1, (json.dumps([event.message]) + chr(10)).encode())
"""


class TestProcesses:
    def test_a_script_that_ends_before_its_sink_is_made(self, tmp_path: Path) -> None:
        """Field bug 7: what was logged meanwhile is delivered at the end."""
        code = """
            import logging.config
            settings = {"class": "mvx_logger.SinkHandler", "sink": {"class": Sink}}
            logging.config.dictConfig(
                {"version": 1, "handlers": {"h": settings}, "root": {"handlers": ["h"], "level": "DEBUG"}}
            )
            for number in range(100):
                logging.getLogger("app").info("%d", number)
            """
        lines = run_script(tmp_path, PRINTING + textwrap.dedent(code))
        assert lines == [[str(number)] for number in range(100)]

    def test_a_fork_while_the_sink_is_being_made(self, tmp_path: Path) -> None:
        """The child makes its own, and does not send what the parent has logged."""
        code = """
            logging._lock.acquire()
            handler = mvx_logger.SinkHandler({"class": Sink})
            handler.handle(logging.makeLogRecord({"msg": "parent", "levelno": 20}))
            pid = os.fork()
            if pid == 0:  # the child's lock is a fresh one
                handler.handle(logging.makeLogRecord({"msg": "child", "levelno": 20}))
                handler.flush()
                os._exit(0)
            logging._lock.release()
            handler.flush()
            assert os.waitpid(pid, 0)[1] == 0
            """
        lines = run_script(tmp_path, PRINTING + textwrap.dedent(code))
        assert sorted(lines) == [["child"], ["parent"]]


class TestFrameworks:
    def test_djangos_logging(self, tmp_path: Path) -> None:
        """LOGGING with both handlers; Django's own records and the project's arrive."""
        pytest.importorskip("django")
        lines = run_script(
            tmp_path,
            """
            from django.conf import settings
            settings.configure(
                DEBUG=True,
                ALLOWED_HOSTS=["*"],
                SECRET_KEY="x",
                ROOT_URLCONF=__name__,
                LOGGING={
                    "version": 1,
                    "disable_existing_loggers": False,
                    "filters": {"debug": {"()": "django.utils.log.RequireDebugTrue"}},
                    "formatters": {"verbose": {"format": "{levelname} {message}", "style": "{"}},
                    "handlers": {
                        "pipeline": {
                            "class": "mvx_logger.SinkHandler",
                            "sink": {"class": Printing},
                            "filters": ["debug"],
                            "formatter": "verbose",
                        }
                    },
                    "root": {"handlers": ["pipeline"], "level": "DEBUG"},
                    "loggers": {"django": {"handlers": [], "propagate": True, "level": "INFO"}},
                },
            )
            import django
            django.setup()
            from django.http import HttpResponse
            from django.urls import path
            def fail(request):
                raise ValueError("no stock")
            urlpatterns = [path("fail", fail)]
            from django.test import Client
            client = Client(raise_request_exception=False)
            assert client.get("/fail").status_code == 500
            assert client.get("/missing").status_code == 404
            logging.getLogger("shop").info("order %s", "o-1", extra={"user": "alice"})
            """,
        )
        assert ["django.request", 40, "ERROR Internal Server Error: /fail", ["request", "status_code"]] in lines
        assert ["django.request", 30, "WARNING Not Found: /missing", ["request", "status_code"]] in lines
        assert lines[-1] == ["shop", 20, "INFO order o-1", ["user"]]

    def test_uvicorns_log_config(self, tmp_path: Path) -> None:
        """uvicorn.Config applies it; applied again, nothing changes."""
        pytest.importorskip("uvicorn")
        lines = run_script(
            tmp_path,
            """
            import copy, uvicorn
            from uvicorn.config import LOGGING_CONFIG
            config = copy.deepcopy(LOGGING_CONFIG)
            config["handlers"] = {
                name: {"class": "mvx_logger.SinkHandler", "sink": {"class": Printing}, "formatter": formatter}
                for name, formatter in (("default", "default"), ("access", "access"))
            }
            async def app(scope, receive, send): ...
            for _ in range(2):
                uvicorn.Config(app, log_config=config)
            logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
            logging.getLogger("uvicorn.access").info(
                '%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", "/x", "1.1", 200
            )
            """,
        )
        assert [line[:2] for line in lines] == [["uvicorn.error", 20], ["uvicorn.access", 20]]
        assert "Started server process [7]" in lines[0][2]
        assert '127.0.0.1:1 - "GET /x HTTP/1.1" 200' in lines[1][2]

    def test_uvicorn_serves_with_it(self, tmp_path: Path) -> None:
        """A real server on a real port: its access log is events with arguments."""
        pytest.importorskip("uvicorn")
        lines = run_script(
            tmp_path,
            """
            import asyncio, copy, urllib.request, uvicorn
            from uvicorn.config import LOGGING_CONFIG
            config = copy.deepcopy(LOGGING_CONFIG)
            config["handlers"] = {
                name: {"class": "mvx_logger.SinkHandler", "sink": {"class": Printing}} for name in ("default", "access")
            }
            async def app(scope, receive, send):
                if scope["type"] == "http":
                    await send({"type": "http.response.start", "status": 204, "headers": []})
                    await send({"type": "http.response.body", "body": b""})
            async def main():
                server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=config, lifespan="off"))
                task = asyncio.create_task(server.serve())
                while not server.started:
                    await asyncio.sleep(0.01)
                port = server.servers[0].sockets[0].getsockname()[1]
                await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/x", timeout=20).close())
                server.should_exit = True
                await task
            asyncio.run(main())
            """,
        )
        names = [line[0] for line in lines]
        assert names.count("uvicorn.access") == 1
        assert "uvicorn.error" in names
        assert any("GET /x HTTP/1.1" in line[2] for line in lines)

    def test_basic_config_with_the_handler(self, tmp_path: Path) -> None:
        """basicConfig(handlers=[...]) gives it a formatter: the message is formatted by it."""
        lines = run_script(
            tmp_path,
            """
            logging.basicConfig(
                level=logging.INFO, handlers=[mvx_logger.SinkHandler(Printing())], format="%(levelname)s|%(message)s"
            )
            logging.getLogger("app").info("order %s", "o-1")
            """,
        )
        assert lines == [["app", 20, "INFO|order o-1", []]]

    def test_a_processor_class_of_the_applications_own(self) -> None:
        """LogContextHandler and dictConfig share what code has set up."""
        sink = MemoryLogSink()
        context = LogContext(log_sink=sink, payload_processor=LogPayloadProcessor(max_str_len=2))
        logging.config.dictConfig(
            {
                "version": 1,
                "handlers": {"pipeline": {"()": LogContextHandler, "context": context}},
                "root": {"handlers": ["pipeline"], "level": "INFO"},
            }
        )
        logging.getLogger("fresh").info("x", extra={"a": "abc"})
        assert sink.events[0].payload == {"a": "ab..."}
