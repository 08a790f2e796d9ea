"""``mvx-logger run``: an unmodified program, its logs routed, everything else its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import mvx_logger
from fork_server import get_server
from mvx_logger import LogEvent
from mvx_logger.cli.run import INJECTED, make_environment, make_settings, resolve_program, split_arguments
from mvx_logger.errors import LogConfigurationError
from mvx_logger.formats.json import decode_lines

pytest.importorskip("click")

ROOT = str(Path(mvx_logger.__file__).parents[1])


class Outcome:
    """How a program ended."""

    def __init__(self, done: subprocess.CompletedProcess[str], events: list[LogEvent]) -> None:
        self.code = done.returncode
        self.out = done.stdout
        self.err = done.stderr
        self.events = events

    @property
    def ours(self) -> tuple[int, str, str]:
        return self.code, self.out, self.err

    def texts(self, namespace: str | None = None) -> list[str]:
        """The messages (names of native events) of a namespace, or of all, in order."""
        return [
            event.message or event.meta.event_name
            for event in self.events
            if namespace is None or event.meta.event_namespace == namespace
        ]

    def one(self, text: str) -> LogEvent:
        """The only event with that message or name."""
        found = [event for event in self.events if text in (event.message, event.meta.event_name)]
        assert len(found) == 1, f"{text!r} is there {len(found)} times: {self.texts()}"
        return found[0]


class Runner:
    """Runs programs, with and without ``mvx-logger run``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = directory / "events.jsonl"
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("MVX_LOGGER_")}
        self.environment["PYTHONPATH"] = ROOT
        self.environment["PYTHONFAULTHANDLER"] = "0"

    def write(self, source: str, name: str = "app.py") -> str:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source), "utf-8")
        return str(path)

    fresh = False
    """True starts interpreters for the command and its program, instead of a fork."""

    def execute(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        options = {"cwd": self.directory, "env": self.environment, "timeout": 60, **options}
        if not self.fresh and command[:3] == (sys.executable, "-m", "mvx_logger.cli"):
            return get_server().run(*command[1:], **options)
        return subprocess.run(command, capture_output=True, text=True, check=False, **options)

    def plain(self, *program: str, **options: Any) -> Outcome:
        return Outcome(self.execute(sys.executable, *program, **options), [])

    def routed(self, *arguments: str, sink: bool = True, **options: Any) -> Outcome:
        chosen = ["--sink", f"file:{self.store}"] if sink else []
        command = [sys.executable, "-m", "mvx_logger.cli", "run", *chosen, *arguments]
        return Outcome(self.execute(*command, **options), self.read())

    def read(self) -> list[LogEvent]:
        if not self.store.exists():
            return []
        return sorted(
            decode_lines(self.store.read_bytes().splitlines(keepends=True)), key=lambda event: event.timestamp
        )

    def both(self, source: str, *program_arguments: str, options: tuple[str, ...] = (), **more: Any) -> Outcome:
        """Run a program both ways; all that it shows has to be the same."""
        program = self.write(source)
        plain = self.plain(program, *program_arguments, **more)
        routed = self.routed(*options, program, *program_arguments, **more)
        assert routed.ours == plain.ours
        return routed


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


class TestStandardLibrary:
    def test_what_a_program_logs_without_configuring_anything_is_routed(self, runner: Runner) -> None:
        """Without any handler, warnings still go to stderr by the last resort, and to the sink."""
        routed = runner.both("import logging; log = logging.getLogger('app'); log.info('no'); log.warning('careful')")
        assert routed.err == "careful\n"
        assert routed.texts() == ["careful"]

    @pytest.mark.parametrize("force", [False, True])
    def test_survives_basic_config(self, runner: Runner, force: bool) -> None:
        """``basicConfig``, also with ``force=True`` which removes every handler, does not end the routing."""
        routed = runner.both(
            f"""
            import logging
            logging.getLogger("early").warning("before")
            logging.basicConfig(level="DEBUG", force={force}, format="%(message)s")
            logging.getLogger("app.db").debug("rows: %d", 3, extra={{"table": "orders"}})
            """
        )
        assert routed.texts() == ["before", "rows: 3"]
        event = routed.one("rows: 3")
        assert event.meta.event_namespace == "app.db"
        assert event.meta.event_name == "rows: %d"
        assert event.payload == {"table": "orders"}
        assert event.level == 10

    def test_survives_dict_config_that_disables_and_does_not_propagate(self, runner: Runner) -> None:
        """``propagate: False``, disabled loggers and cleared handlers change nothing for loggers that still log."""
        routed = runner.both(
            """
            import logging, logging.config
            early, quiet = logging.getLogger("early"), logging.getLogger("quiet")
            early.warning("one")
            logging.config.dictConfig({
                "version": 1, "disable_existing_loggers": True,
                "handlers": {"null": {"class": "logging.NullHandler"}},
                "loggers": {"quiet": {"level": "DEBUG", "handlers": ["null"], "propagate": False}},
            })
            early.warning("a disabled logger logs nothing")
            quiet.debug("two")
            logging.getLogger().handlers.clear()
            logging.shutdown()
            quiet.debug("three")
            """
        )
        assert routed.texts() == ["one", "two", "three"]

    def test_survives_file_config(self, runner: Runner) -> None:
        """``fileConfig`` replaces the handlers of the root logger, not the routing."""
        runner.write(
            """
            [loggers]
            keys=root
            [handlers]
            keys=out
            [formatters]
            keys=
            [logger_root]
            level=INFO
            handlers=out
            [handler_out]
            class=StreamHandler
            args=(sys.stdout,)
            """,
            "logging.ini",
        )
        routed = runner.both(
            """
            import logging, logging.config
            logging.config.fileConfig("logging.ini")
            logging.getLogger("app").info("configured")
            """
        )
        assert routed.out == "configured\n"
        assert routed.texts() == ["configured"]

    def test_exceptions_arrive_as_data(self, runner: Runner) -> None:
        """``logger.exception`` gives type, message and traceback."""
        routed = runner.both(
            """
            import logging
            try:
                {}["x"]
            except KeyError:
                logging.exception("lookup failed")
            """
        )
        exception = routed.one("lookup failed").exception
        assert exception is not None
        assert exception.type == "KeyError"
        assert exception.text.startswith("Traceback (most recent call last):")

    def test_a_logger_class_with_its_own_ways_is_routed_once(self, runner: Runner) -> None:
        """A subclass that overrides ``handle`` and ``callHandlers`` and calls the base logs each record once."""
        routed = runner.both(
            """
            import logging
            class Logger(logging.Logger):
                def handle(self, record): super().handle(record)
                def callHandlers(self, record): super().callHandlers(record)
            logging.setLoggerClass(Logger)
            logging.getLogger("app").warning("once")
            """
        )
        assert routed.texts() == ["once"]

    def test_what_a_handler_logs_is_routed_too(self, runner: Runner) -> None:
        """A handler of the program's own that logs while it emits is part of the program; so is what a lazy argument
        logs when the handler renders it, once."""
        routed = runner.both(
            """
            import logging
            class Handler(logging.Handler):
                def emit(self, record):
                    if record.name == "app":
                        logging.getLogger("inner").warning("emitting %s", record.getMessage())
                    print(record.name, record.getMessage())
            class Lazy:
                def __str__(self):
                    logging.getLogger("lazy").warning("working it out")
                    return "hello"
            class Cached(Lazy):
                def __str__(self):
                    self.__dict__["text"] = self.__dict__.get("text") or super().__str__()
                    return self.text
            logging.getLogger().addHandler(Handler())
            logging.getLogger("app").warning("%s", Cached())
            logging.getLogger("other").warning("%s", Lazy())
            """
        )
        assert routed.texts("app") == ["hello"]
        assert routed.texts("inner") == ["emitting hello"]
        assert routed.texts("lazy") == ["working it out"] * 2

    def test_colours_that_a_formatter_writes_into_the_record_are_not_taken_for_data(self, runner: Runner) -> None:
        """The event is made of the record as it was before the program's handlers had it."""
        routed = runner.both(
            """
            import logging
            class Formatter(logging.Formatter):
                def format(self, record):
                    record.levelname = f"<{record.levelname}>"
                    record.msg, record.args = "[secret]", None
                    return super().format(record)
            logging.basicConfig(format="%(levelname)s %(message)s")
            logging.getLogger().handlers[0].setFormatter(Formatter())
            logging.getLogger("app").warning("hello %s", "ada")
            """
        )
        origin = routed.one("hello ada").origin
        assert origin is not None
        assert origin.level_name == "WARNING"


class TestHandlers:
    PROGRAM = """
        import logging
        logging.basicConfig(level="INFO", format="own: %(message)s")
        logging.getLogger("app").info("hello")
        """

    def test_the_programs_own_output_is_kept_by_default(self, runner: Runner) -> None:
        """Its handlers run exactly as without us."""
        assert runner.both(self.PROGRAM, options=("--keep-handlers",)).err == "own: hello\n"

    def test_replace_handlers_puts_a_console_in_their_place(self, runner: Runner) -> None:
        """``--replace-handlers``: our line on stderr instead of theirs."""
        routed = runner.routed("--replace-handlers", runner.write(self.PROGRAM))
        assert routed.code == 0
        assert "own:" not in routed.err
        assert "hello" in routed.err
        assert routed.texts() == ["hello"]

    def test_replace_handlers_leaves_a_console_of_the_users_own_alone(self, runner: Runner) -> None:
        """With ``--sink stdout:`` no second console is added."""
        routed = runner.routed("--sink", "stdout:", "--replace-handlers", runner.write(self.PROGRAM))
        assert routed.err == ""
        assert routed.out.count("hello") == 1


class TestLevel:
    PROGRAM = """
        import logging
        logging.basicConfig(level="WARNING", format="own: %(message)s")
        log = logging.getLogger("app")
        log.debug("debug")
        log.info("info")
        log.error("error")
        log.handle(log.makeRecord("app", 10, __file__, 1, "handed over", (), None))
        """

    def test_without_a_level_the_programs_levels_decide(self, runner: Runner) -> None:
        """What its loggers hold back is not routed; a record that bypasses them is."""
        assert runner.both(self.PROGRAM).texts() == ["error", "handed over"]

    def test_a_level_routes_what_the_program_holds_back_and_shows_nothing_of_it(self, runner: Runner) -> None:
        """``--level DEBUG``: the program's own output stays as it is."""
        routed = runner.both(self.PROGRAM, options=("--level", "debug"))
        assert routed.texts() == ["debug", "info", "error", "handed over"]

    def test_a_level_keeps_out_what_is_below(self, runner: Runner) -> None:
        """``--level ERROR`` routes errors only."""
        assert runner.both(self.PROGRAM, options=("--level", "ERROR")).texts() == ["error"]


class TestStructlog:
    def test_the_default_chain_is_teed(self, runner: Runner) -> None:
        """A program that configures nothing prints as before; events arrive as data, named after their module."""
        routed = runner.both(
            """
            import structlog
            structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
            structlog.reset_defaults()
            log = structlog.get_logger()
            structlog.configure(processors=[structlog.processors.KeyValueRenderer(key_order=["event"])])
            log.warning("order.created", order=7, items=["a", "b"])
            """
        )
        assert routed.out == "event='order.created' order=7 items=['a', 'b']\n"
        event = routed.one("order.created")
        assert event.payload == {"order": 7, "items": ["a", "b"]}
        assert event.level == 30
        assert event.meta.event_namespace == "__main__"
        assert event.meta.source_line == 7
        assert event.origin is not None
        assert event.origin.system == "structlog"

    @pytest.mark.parametrize(
        "chain",
        [
            "structlog.processors.JSONRenderer()",
            "structlog.stdlib.render_to_log_kwargs",
            "structlog.stdlib.render_to_log_args_and_kwargs",
            "structlog.stdlib.ProcessorFormatter.wrap_for_formatter",
        ],
    )
    def test_a_chain_into_the_standard_library_gives_each_event_once_and_structured(
        self, runner: Runner, chain: str
    ) -> None:
        """However it hands over to the standard library, the event dict arrives, with the record's logger and level."""
        routed = runner.both(
            f"""
            import logging, structlog
            logging.basicConfig(level="INFO", format="%(levelname)s %(name)s %(message)s")
            structlog.configure(
                processors=[
                    structlog.processors.StackInfoRenderer(), structlog.processors.format_exc_info,
                    {chain},
                ],
                wrapper_class=structlog.stdlib.BoundLogger,
                logger_factory=structlog.stdlib.LoggerFactory(),
                cache_logger_on_first_use=True,
            )
            log = structlog.get_logger("app.orders").bind(customer="ada")
            log.info("created", order=1)
            log.debug("held back by the level")
            try:
                1 / 0
            except ZeroDivisionError:
                log.exception("failed", order=2)
            logging.getLogger("app.plain").info("plain")
            """
        )
        assert routed.texts() == ["created", "failed", "plain"]
        created, failed = routed.one("created"), routed.one("failed")
        assert created.payload == {"customer": "ada", "order": 1}
        assert created.meta.event_namespace == "app.orders"
        assert created.meta.source_path == str(runner.directory / "app.py")
        assert failed.level == 40
        assert failed.payload == {"customer": "ada", "order": 2}
        assert failed.exception is not None
        assert failed.exception.type == "ZeroDivisionError"
        assert failed.exception.stacks[0]["frames"][0]["lineno"] > 0

    def test_a_handler_that_logs_while_it_has_an_event_of_structlog(self, runner: Runner) -> None:
        """What it logs, even to the same logger, is another event."""
        routed = runner.both(
            """
            import logging, structlog
            log = logging.getLogger("app")
            class Handler(logging.Handler):
                def emit(self, record):
                    print(record.getMessage())
                    if "inner" not in record.getMessage(): log.warning("inner")
            log.addHandler(Handler())
            structlog.wrap_logger(log, processors=[structlog.processors.JSONRenderer()]).warning("outer", n=1)
            """
        )
        assert routed.texts() == ["outer", "inner"]
        assert [event.payload for event in routed.events] == [{"n": 1}, {}]

    def test_a_dropped_event_is_dropped_here_too(self, runner: Runner) -> None:
        """``DropEvent`` in the program's chain, and what ``capture_logs`` takes for a test, are not routed."""
        routed = runner.both(
            """
            import structlog
            from structlog.testing import capture_logs
            def drop(logger, name, event_dict):
                if event_dict.get("secret"): raise structlog.DropEvent
                return event_dict
            structlog.configure(processors=[drop, structlog.processors.KeyValueRenderer()])
            log = structlog.get_logger()
            log.info("dropped", secret=True)
            with capture_logs() as captured:
                log.info("captured")
            print(captured)
            log.info("kept")
            """
        )
        assert routed.texts() == ["kept"]

    def test_renamed_redacted_and_merged_keys_arrive_as_the_chain_leaves_them(self, runner: Runner) -> None:
        """What a processor takes out stays out; a renamed event is still the event; bound values are there."""
        routed = runner.both(
            """
            import structlog
            def redact(logger, name, event_dict):
                event_dict.pop("card", None)
                return event_dict
            structlog.configure(processors=[
                structlog.contextvars.merge_contextvars, redact, structlog.processors.EventRenamer("message"),
                structlog.processors.JSONRenderer(sort_keys=True),
            ])
            structlog.contextvars.bind_contextvars(request="r-1", card="4000")
            structlog.get_logger().error("paid", amount=3, card="4000")
            """
        )
        event = routed.one("paid")
        assert event.payload == {"request": "r-1", "amount": 3}
        assert event.level == 40

    def test_configured_at_any_time_and_wrapped_directly(self, runner: Runner) -> None:
        """``wrap_logger`` around a stdlib logger, ``configure_once``, native filtering and asynchronous log methods."""
        routed = runner.both(
            """
            import asyncio, logging, structlog
            logging.basicConfig(level="INFO", format="%(message)s")
            wrapped = structlog.wrap_logger(logging.getLogger("wrapped"), processors=[structlog.processors.JSONRenderer()])
            wrapped.info("first", n=1)
            structlog.configure_once(
                processors=[structlog.processors.JSONRenderer()],
                wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            )
            log = structlog.get_logger()
            log.info("filtered")
            log.warning("second", n=2)
            async def main():
                await log.aerror("third %s", "x", n=3)
            asyncio.run(main())
            """
        )
        assert routed.texts() == ["first", "second", "third x"]
        assert routed.one("first").meta.event_namespace == "wrapped"
        assert routed.one("third x").meta.source_func == "main"
        assert [event.payload["n"] for event in routed.events] == [1, 2, 3]

    def test_a_wrapper_class_of_the_programs_own(self, runner: Runner) -> None:
        """A bound logger that runs the chain itself and calls the wrapped logger itself gives each event once."""
        routed = runner.both(
            """
            import logging, structlog
            logging.basicConfig(level="INFO", format="%(message)s")
            class Bound(structlog.BoundLoggerBase):
                def tell(self, event, **kw):
                    args, kwargs = self._process_event("info", event, kw)
                    self._logger.info(*args, **kwargs)
                def whisper(self, event, **kw):
                    args, kwargs = self._process_event("debug", event, kw)
                    self._logger.debug(*args, **kwargs)
            render = structlog.processors.KeyValueRenderer()
            to_stdlib = structlog.wrap_logger(logging.getLogger("app"), processors=[render], wrapper_class=Bound)
            to_stdout = structlog.wrap_logger(structlog.PrintLogger(), processors=[render], wrapper_class=Bound)
            to_stdlib.tell("one", n=1)
            to_stdlib.whisper("below the level", n=0)
            logging.getLogger("app").info("plain")
            to_stdout.tell("two", n=2)
            """
        )
        assert routed.texts() == ["one", "plain", "two"]
        assert routed.one("one").payload == {"n": 1}
        assert routed.one("plain").payload == {}

    def test_exceptions_of_a_chain_are_those_of_the_log_call(self, runner: Runner) -> None:
        """``exc_info=True`` means the exception that was handled then, also where the wrapped logger fails."""
        routed = runner.both(
            """
            import structlog
            class Broken:
                def error(self, **event_dict): raise OSError("no space")
            log = structlog.wrap_logger(Broken(), processors=[])
            for exc_info in (True, ValueError("given")):
                try:
                    try:
                        {}["key"]
                    except KeyError:
                        log.error("failed", exc_info=exc_info)
                except OSError as error:
                    print(error)
            """
        )
        assert [event.exception.type for event in routed.events if event.exception] == ["KeyError", "ValueError"]

    def test_a_chain_that_hands_on_an_event_dict(self, runner: Runner) -> None:
        """A wrapped logger that takes key words, with a name of its own; adapters of the standard library."""
        routed = runner.both(
            """
            import logging, structlog
            class Collector:
                name = "collector"
                def info(self, **event_dict): print(sorted(event_dict))
            structlog.wrap_logger(Collector(), processors=[structlog.processors.add_log_level]).info("one", n=1)
            logging.basicConfig(level="INFO", format="%(message)s")
            adapter = logging.LoggerAdapter(logging.LoggerAdapter(logging.getLogger("adapted"), {}), {})
            structlog.wrap_logger(adapter, processors=[structlog.processors.JSONRenderer()]).info("two", n=2)
            """
        )
        assert [(event.meta.event_namespace, event.payload) for event in routed.events] == [
            ("collector", {"n": 1}),
            ("adapted", {"n": 2}),
        ]

    def test_a_chain_that_fails_fails_as_without_us(self, runner: Runner) -> None:
        """A processor's exception reaches the program; nothing is routed."""
        routed = runner.both(
            """
            import structlog
            structlog.configure(processors=[lambda logger, name, event_dict: 1 / 0])
            try:
                structlog.get_logger().info("lost")
            except ZeroDivisionError:
                print("as it should")
            """
        )
        assert routed.out == "as it should\n"
        assert routed.events == []

    def test_replace_handlers_silences_its_print_loggers(self, runner: Runner) -> None:
        """structlog's own output loggers are to it what handlers are to the standard library."""
        program = runner.write(
            """
            import structlog
            structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
            structlog.get_logger().info("hello")
            print("printed")
            """
        )
        routed = runner.routed("--replace-handlers", program)
        assert routed.out == "printed\n"
        assert routed.texts() == ["hello"]


class TestNativeEvents:
    def test_a_migrated_module_needs_no_configuration(self, runner: Runner) -> None:
        """Native events go to the run's sinks and, as without us, to the default stderr sink."""
        routed = runner.routed(
            runner.write(
                """
                from mvx_logger import configure_log_context
                configure_log_context("shop.payments").log_info_event("paid", {"amount": 3}, entity_id="o-1")
                """
            )
        )
        assert "shop.payments.o-1.paid" in routed.err
        assert routed.one("paid").payload == {"amount": 3}

    def test_a_program_with_a_pipeline_of_its_own_keeps_it(self, runner: Runner) -> None:
        """Its own sinks get what they got without us; the run's sinks get everything once."""
        routed = runner.routed(
            runner.write(
                """
                import logging
                from mvx_logger import MemoryLogSink, configure_log_context, get_root_log_context, reset_logger
                from mvx_logger.bridge.handlers import LogContextHandler
                own = MemoryLogSink()
                get_root_log_context().set_log_sink(own)
                logging.getLogger().addHandler(LogContextHandler())
                logging.getLogger("app").warning("bridged")
                configure_log_context("app").log_info_event("native")
                print(sorted(event.message or event.meta.event_name for event in own.events))
                reset_logger()
                logging.getLogger("app").warning("after the reset")
                """
            )
        )
        assert routed.out == "['bridged', 'native']\n"
        assert sorted(routed.texts()) == ["after the reset", "bridged", "native"]

    def test_a_handler_of_the_programs_own_that_leads_to_the_same_sink(self, runner: Runner) -> None:
        """`SinkHandler` and `LogContext` on the very sink of ``--sink``: each event is there once."""
        url = f"file:{runner.store}"
        routed = runner.routed(
            runner.write(
                f"""
                import logging
                from mvx_logger import configure_log_context
                from mvx_logger.bridge.config import resolve_sink
                from mvx_logger.bridge.handlers import LogContextHandler, SinkHandler
                url = {url!r}
                logging.basicConfig(level="INFO", handlers=[logging.NullHandler()])
                logging.getLogger("early").warning("early")
                sink = resolve_sink({{"url": url, "level": 0, "queue_max_size": 100_000,
                    "queue_overflow_policy": "block", "block_timeout": 2.0, "shutdown_timeout": 10.0}}).sink
                context = configure_log_context("app", log_sink=sink)
                logging.basicConfig(level="INFO", force=True, handlers=[SinkHandler(sink), LogContextHandler()])
                logging.getLogger("app").info("bridged")
                context.log_info_event("native")
                """
            )
        )
        assert routed.err == ""
        assert sorted(routed.texts()) == ["bridged", "early", "native"]


class TestConfiguration:
    CONFIG = """
        [sinks]
        all = "file:all.jsonl?level=DEBUG"
        orders = "file:orders.jsonl?level=DEBUG"
        [root]
        log_sink = "all"
        [contexts.shop]
        min_level = "WARNING"
        [contexts."shop.orders"]
        log_sink = "orders"
        """
    PROGRAM = """
        import logging, os, subprocess, sys
        logging.basicConfig(level="DEBUG", handlers=[logging.NullHandler()])
        logging.getLogger("shop").info("too low")
        logging.getLogger("shop").warning("high enough")
        logging.getLogger("shop.orders.db").warning("an order")
        logging.getLogger("other").debug("something else")
        if "child" not in sys.argv:
            os.mkdir("elsewhere")
            subprocess.run([sys.executable, __file__, "child"], cwd="elsewhere", check=True)
        """

    def read(self, path: Path) -> list[str]:
        return [event.message or "" for event in decode_lines(path.read_bytes().splitlines(keepends=True))]

    def test_contexts_policies_and_sinks_of_a_file_are_in_force(self, runner: Runner) -> None:
        """Each logger is served by the nearest context, in the children too, which find the same relative paths."""
        config = runner.write(self.CONFIG, "logging.toml")
        routed = runner.routed("--config", config, runner.write(self.PROGRAM), sink=False)
        assert routed.ours == (0, "", "")
        assert self.read(runner.directory / "orders.jsonl") == ["an order"] * 2
        # The parent and its child write side by side.
        assert sorted(self.read(runner.directory / "all.jsonl")) == ["high enough"] * 2 + ["something else"] * 2

    def test_a_sink_beside_a_file_gets_what_the_contexts_let_pass(self, runner: Runner) -> None:
        """``--config`` and ``--sink`` together."""
        config = runner.write(self.CONFIG, "logging.toml")
        routed = runner.routed("--config", config, runner.write(self.PROGRAM), "child")
        assert routed.ours == (0, "", "")
        assert routed.texts() == ["high enough", "an order", "something else"]
        assert self.read(runner.directory / "orders.jsonl") == ["an order"]

    def test_without_sink_and_file_events_go_to_a_store_in_the_working_directory(self, runner: Runner) -> None:
        """The default is ``sqlite:///mvx-events.db``."""
        routed = runner.routed(runner.write("import logging; logging.warning('hello')"), sink=False)
        assert routed.code == 0
        assert (runner.directory / "mvx-events.db").exists()


class TestTrouble:
    def plugin(self, runner: Runner, source: str) -> str:
        """Install a third party's sink for the scheme ``odd:``."""
        runner.write(source, "plugin/odd_sink.py")
        runner.write("[mvx_logger.sinks]\nodd = odd_sink:OddSink\n", "plugin/odd-1.dist-info/entry_points.txt")
        runner.write("Metadata-Version: 2.1\nName: odd\nVersion: 1\n", "plugin/odd-1.dist-info/METADATA")
        runner.environment["PYTHONPATH"] += os.pathsep + str(runner.directory / "plugin")
        return "odd:"

    SINK = """
        import logging, time
        from mvx_logger.protocols import LogSinkDescriptor
        class OddSink:
            def __repr__(self): return "<OddSink>"
            @classmethod
            def build_descriptor(cls, **kwargs): return LogSinkDescriptor("odd", (), ())
            @classmethod
            def create(cls, **kwargs): return cls(), lambda: None
            def log(self, event): %s
        """

    def test_a_sink_that_fails_is_told_of_and_costs_no_other_sink_an_event(self, runner: Runner) -> None:
        """One line on stderr, not one for each event; the program does not notice."""
        url = self.plugin(runner, self.SINK % "raise OSError('no route')")
        program = runner.write("import logging\nfor _ in range(5): logging.getLogger('a').error('x')\nprint('done')")
        routed = runner.routed("--sink", url, program)
        assert (routed.code, routed.out) == (0, "done\n")
        assert routed.err.count("OSError: no route") == 1
        assert routed.texts() == ["x"] * 5

    def test_a_sink_that_is_stuck_slows_the_program_once(self, runner: Runner) -> None:
        """A call that has waited for long is the last one for a while; what was passed over is told."""
        url = self.plugin(runner, self.SINK % "open('odd.txt', 'a').write(event.message); time.sleep(2.1)")
        program = runner.write("import logging\nfor n in range(50): logging.getLogger('a').error(str(n))\n")
        routed = runner.routed("--sink", url, program, timeout=30)
        assert routed.code == 0
        assert "a sink is stuck" in routed.err
        assert (runner.directory / "odd.txt").read_text() == "0"
        assert len(routed.events) == 50

    def test_what_a_sink_itself_logs_is_not_routed(self, runner: Runner) -> None:
        """A sink of the run that logs while it delivers does not feed the run, nor the program's handlers."""
        url = self.plugin(runner, self.SINK % "logging.getLogger('odd').error('delivering')")
        program = runner.write("import logging; logging.getLogger('a').error('x')")
        routed = runner.routed("--sink", url, program)
        assert routed.ours == (0, "", "x\n")
        assert routed.texts() == ["x"]

    def test_what_a_sink_of_the_programs_own_logs_is_the_programs(self, runner: Runner) -> None:
        """It reaches the program's handlers as without us; it does not reach the run, which it could feed for ever."""
        routed = runner.both(
            """
            import logging
            from mvx_logger import get_root_log_context
            logging.basicConfig(format="%(message)s")
            class Sink:
                def log(self, event): logging.getLogger("own").warning("own sink: %s", event.meta.event_name)
            get_root_log_context().set_log_sink(Sink())
            get_root_log_context().log_info_event("native")
            """
        )
        assert routed.err == "own sink: native\n"
        assert routed.texts() == ["native"]

    def test_the_workers_of_the_sinks_say_nothing_in_the_programs_name(self, runner: Runner) -> None:
        """asyncio's debug records of a worker's event loop are not the program's, also where a fork starts it anew."""
        routed = runner.both(
            """
            import logging, os, subprocess, sys
            logging.basicConfig(level="DEBUG", format="%(name)s %(message)s")
            logging.debug("one")
            if hasattr(os, "fork") and "child" not in sys.argv:
                if not os.fork():
                    logging.debug("two")
                    raise SystemExit
                os.wait()
                subprocess.run([sys.executable, __file__, "child"], check=True)
            """
        )
        assert "asyncio" not in routed.err
        assert routed.texts() == ["one", "two", "one"]

    def test_a_configuration_that_cannot_be_carried_out_costs_one_line(self, runner: Runner) -> None:
        """It was right, and yet its sink cannot be opened: the program runs without us."""
        (runner.directory / "file").write_text("")
        config = runner.write('[sinks]\nmain = "file:file/below.log"\n[root]\nlog_sink = "main"', "logging.toml")
        program = runner.write("import logging; logging.warning('hello'); print('runs')")
        routed = runner.routed("--config", config, program, sink=False)
        assert (routed.code, routed.out) == (0, "runs\n")
        assert "logging is not routed: LogSinkCreateError" in routed.err
        assert "WARNING:root:hello\n" in routed.err

    def test_a_context_that_raises_does_not_raise_into_the_program(self, runner: Runner) -> None:
        """A configuration with the error policy RAISE: what a routed record or event meets is told, and no more."""
        self.plugin(runner, self.SINK % "raise OSError('no route')")
        config = runner.write('[root]\nlog_sink = "odd:"\nlog_error_handling_policy = "raise"', "logging.toml")
        program = runner.write(
            """
            import logging, structlog
            logging.basicConfig(format="%(message)s")
            logging.error("record")
            structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
            structlog.get_logger().error("event")
            raise SystemExit(4)
            """
        )
        routed = runner.routed("--config", config, program, sink=False)
        assert (routed.code, routed.out) == (4, "event='event'\n")
        assert "Traceback" not in routed.err
        assert routed.err.count("no route") == 1

    def test_records_of_a_class_of_the_programs_own(self, runner: Runner) -> None:
        """A record that cannot be copied is routed as it is."""
        program = runner.write(
            """
            import logging
            class Record(logging.LogRecord):
                __slots__ = ("slot",)
                def __reduce_ex__(self, protocol):
                    if self.args: raise TypeError("not to be copied")
                    return super().__reduce_ex__(protocol)
            logging.setLogRecordFactory(Record)
            logging.warning("plain")
            logging.warning("odd %d", 1)
            """
        )
        routed = runner.routed(program)
        assert routed.texts() == ["plain", "odd 1"]
        assert routed.code == 0

    def test_an_exception_that_cannot_be_described(self, runner: Runner) -> None:
        """``str()`` of it fails: it is told as well as it can be."""
        routed = runner.both(
            """
            class Odd(Exception):
                def __str__(self): raise RuntimeError
            raise Odd
            """
        )
        assert routed.one("program.failed").message == "uncaught Odd: <Odd>"


class TestTheEnd:
    def test_an_uncaught_exception_is_an_event_and_prints_as_before(self, runner: Runner) -> None:
        """Traceback and exit code are Python's own; the event is CRITICAL and holds the exception."""
        runner.fresh = True
        routed = runner.both("def fail():\n    raise ValueError('no such order')\nfail()\n")
        assert routed.code == 1
        event = routed.one("program.failed")
        assert event.level == 50
        assert event.meta.event_namespace == "mvx_logger.run"
        assert event.exception is not None
        assert event.exception.message == "no such order"
        assert [frame["name"] for frame in event.exception.stacks[0]["frames"]] == ["<module>", "fail"]

    def test_a_hook_of_the_programs_own_runs_and_does_not_hide_it(self, runner: Runner) -> None:
        """A program that replaces ``sys.excepthook`` without calling ours is reported all the same."""
        runner.fresh = True
        routed = runner.both(
            """
            import sys
            sys.excepthook = lambda kind, value, trace: print("mine:", value, file=sys.stderr)
            raise RuntimeError("boom")
            """
        )
        assert routed.err == "mine: boom\n"
        assert routed.one("program.failed").level == 50

    def test_exceptions_of_threads_and_finalizers(self, runner: Runner) -> None:
        """A thread that dies is reported as failed, an exception in ``__del__`` as unraisable; both print as before."""
        program = runner.write(
            """
            import threading
            def fail(): raise KeyError("in a thread")
            def leave(): raise SystemExit
            for target in (fail, leave):
                thread = threading.Thread(target=target, name="worker"); thread.start(); thread.join()
            class Broken:
                def __del__(self): raise OSError("in a finalizer")
            Broken()
            print("still here")
            """
        )
        routed = runner.routed(program)
        assert routed.code == 0
        assert routed.out == "still here\n"
        assert "Exception in thread worker" in routed.err
        assert "in a finalizer" in routed.err
        assert routed.texts("mvx_logger.run") == [
            "uncaught KeyError: 'in a thread'",
            routed.one("program.unraisable").message,
        ]

    @pytest.mark.parametrize("code", ["0", "3", "None", "'bad'", "255"])
    def test_exit_codes_are_the_programs(self, runner: Runner, code: str) -> None:
        """``sys.exit`` with a number, nothing, or a text; the last event before it is there."""
        routed = runner.both(f"import logging, sys; logging.error('last'); sys.exit({code})")
        assert routed.texts() == ["last"]

    def test_what_exit_functions_log_is_delivered(self, runner: Runner) -> None:
        """Exit functions that the program registers run before the last delivery."""
        routed = runner.both(
            "import atexit, logging; atexit.register(logging.warning, 'bye'); logging.warning('hello')"
        )
        assert routed.texts() == ["hello", "bye"]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
    def test_os_exit_and_exec_deliver_first(self, runner: Runner) -> None:
        """``os._exit`` runs no exit function, ``os.exec*`` neither: what was logged arrives all the same."""
        routed = runner.both(
            """
            import logging, os, sys
            if "again" in sys.argv:
                logging.warning("second life")
                os._exit(7)
            for number in range(20): logging.warning("first life %d", number)
            os.execl(sys.executable, sys.executable, __file__, "again")
            """
        )
        assert routed.code == 7
        assert routed.texts() == [*(f"first life {number}" for number in range(20)), "second life"]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
    def test_signals_are_the_programs(self, runner: Runner) -> None:
        """Ctrl-C is a KeyboardInterrupt in the program itself, at the process id that was started."""
        program = runner.write(
            """
            import logging, os, time
            logging.warning("waiting")
            try:
                print(os.getpid(), flush=True)
                time.sleep(60)
            except KeyboardInterrupt:
                logging.warning("interrupted")
                raise SystemExit(5)
            """
        )
        command = [sys.executable, "-m", "mvx_logger.cli", "run", "--sink", f"file:{runner.store}", program]
        with subprocess.Popen(
            command, cwd=runner.directory, env=runner.environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert int(process.stdout.readline()) == process.pid
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 5
        assert [event.message for event in runner.read()] == ["waiting", "interrupted"]

    @pytest.mark.parametrize("method", ["spawn", "forkserver"])
    def test_functions_that_end_a_process_can_still_be_pickled(self, runner: Runner, method: str) -> None:
        """A child process whose target is ``os._exit`` itself."""
        if not hasattr(os, "fork") and method != "spawn":
            pytest.skip("POSIX")
        routed = runner.both(
            f"""
            import multiprocessing, os, pickle, signal
            if __name__ == "__main__":
                child = multiprocessing.get_context({method!r}).Process(target=os._exit, args=(9,))
                child.start(); child.join()
                same = [pickle.loads(pickle.dumps(f)) is f for f in (os.kill, os.execv, signal.raise_signal)]
                print(child.exitcode, same)
                try:
                    os.kill(os.getpid(), 4711)
                except OSError as error:
                    print(error)
            """
        )
        if "coverage" not in sys.modules:  # it may replace them too, and they cannot be pickled then
            assert routed.out.startswith("9 [True, True, True]\n")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
    @pytest.mark.parametrize("call", ["os.kill(os.getpid(), signal.SIGTERM)", "signal.raise_signal(signal.SIGKILL)"])
    def test_a_process_that_ends_itself_by_a_signal_delivers_first(self, runner: Runner, call: str) -> None:
        """Servers end so when they have shut down; signals that somebody handles, or that do not end it, cost nothing."""
        routed = runner.both(
            f"""
            import logging, os, signal
            signal.signal(signal.SIGUSR1, lambda *_: logging.error("handled"))
            for number in range(20): logging.error("event %d", number)
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), 0)
            signal.raise_signal(signal.SIGCHLD)
            logging.error("last")
            {call}
            """
        )
        assert routed.code < 0
        assert len(routed.events) == 22
        assert routed.texts()[-1] == "last"

    def test_an_uncaught_interrupt_is_no_failure(self, runner: Runner) -> None:
        """Ctrl-C that nobody handles is told as a warning."""
        runner.fresh = True
        routed = runner.both("raise KeyboardInterrupt")
        assert routed.one("program.interrupted").level == 30

    def test_an_interrupted_child_ends_as_without_us(self, runner: Runner) -> None:
        """Its exit code says SIGINT, whatever had to be imported to tell of it."""
        routed = runner.both(
            """
            import subprocess, sys
            print(subprocess.run([sys.executable, "-c", "raise KeyboardInterrupt"]).returncode)
            """
        )
        assert routed.texts() == ["interrupted"]


class TestProcesses:
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
    def test_forked_children_are_routed(self, runner: Runner) -> None:
        """Each process' events arrive once, also of a child that ends by ``os._exit``."""
        routed = runner.both(
            """
            import logging, os
            logging.warning("parent before")
            for number in range(3):
                pid = os.fork()
                if pid == 0:
                    logging.warning("child %d", number)
                    os._exit(0)
                os.waitpid(pid, 0)
            logging.warning("parent after")
            """
        )
        assert sorted(routed.texts()) == ["child 0", "child 1", "child 2", "parent after", "parent before"]
        processes = {event.origin.process_id for event in routed.events if event.origin is not None}
        assert len(processes) == 4

    @pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
    def test_multiprocessing_children_are_routed(self, runner: Runner, method: str) -> None:
        """Whatever way multiprocessing starts its children, and also one that dies of an exception."""
        if not hasattr(os, "fork") and method != "spawn":
            pytest.skip("POSIX")
        routed = runner.both(
            f"""
            import logging, multiprocessing
            def work(number):
                logging.getLogger("work").warning("child %d", number)
            if __name__ == "__main__":
                context = multiprocessing.get_context({method!r})
                logging.warning("parent")
                children = [context.Process(target=work, args=(number,)) for number in range(2)]
                for child in children: child.start(); child.join()
                print([child.exitcode for child in children])
            """,
        )
        assert routed.out == "[0, 0]\n"
        assert sorted(routed.texts()) == ["child 0", "child 1", "parent"]

    PARENT = """
        import logging, os, subprocess, sys
        logging.warning("parent")
        print(os.environ.get("PYTHONPATH"), "MVX_LOGGER_RUN" in os.environ, [p for p in sys.path if "_inject" in p])
        subprocess.run([sys.executable, "-c", "import logging; logging.warning('child')"], check=True)
        if hasattr(os, "fork"):
            if not os.fork():
                logging.warning("fork")
                os._exit(0)
            os.wait()
        """

    def test_started_children_are_routed(self, runner: Runner) -> None:
        """A subprocess of the same Python is covered as well; ``sys.path`` does not show how."""
        routed = runner.routed(runner.write(self.PARENT))
        assert routed.out == f"{INJECTED}{os.pathsep}{ROOT} True []\n"
        assert sorted(routed.texts()) == ["child", "fork", "parent"]

    def test_no_children_covers_the_one_process(self, runner: Runner) -> None:
        """``--no-children``: neither subprocesses nor forks; the environment is as it was."""
        routed = runner.both(self.PARENT, options=("--no-children",))
        assert routed.out == f"{ROOT} False []\n"
        assert routed.texts() == ["parent"]

    def test_other_environments_and_pythons_are_left_alone(self, runner: Runner) -> None:
        """A child of another prefix or version runs without us, in silence (tox, pip's build environments)."""
        settings = make_settings(sinks=[f"file:{runner.store}"])
        program = runner.write("import logging; logging.warning('hello')")
        for changed in ({"prefix": "/nowhere"}, {"python": [3, 0]}):
            environment = make_environment({**settings, **changed})
            done = runner.execute(sys.executable, program, env=environment)
            assert (done.returncode, done.stderr) == (0, "WARNING:root:hello\n")
        assert not runner.store.exists()
        # Nor where the package is not to be had.
        environment = make_environment({**settings, "package": str(runner.directory)})
        environment["PYTHONPATH"] = INJECTED
        done = runner.execute(sys.executable, "-S", program, env=environment)
        assert (done.returncode, done.stderr) == (0, "WARNING:root:hello\n")

    def test_settings_that_cannot_be_used_cost_one_line(self, runner: Runner) -> None:
        """Whatever goes wrong when the routing is switched on: one line on stderr, and the program runs."""
        program = runner.write("print('runs')")
        environment = {**runner.environment, "MVX_LOGGER_RUN": "{", "PYTHONPATH": INJECTED}
        done = runner.execute(sys.executable, program, env=environment)
        assert (done.returncode, done.stdout) == (0, "runs\n")
        assert done.stderr.startswith("mvx-logger: run: logging is not routed: JSONDecodeError")
        assert done.stderr.count("\n") == 1

    def test_a_sink_that_cannot_be_opened_costs_one_line(self, runner: Runner) -> None:
        """The program runs to its end; the failure is told once."""
        (runner.directory / "file").write_text("")
        program = runner.write("import logging\nfor _ in range(5): logging.getLogger('a').error('x')\nprint('done')")
        plain = runner.plain(program)
        done = runner.routed("--sink", "file:file/below/events.jsonl", program)
        assert (done.code, done.out) == (0, plain.out)
        assert done.err.count("mvx-logger:") == 1
        assert done.err.count("x\n") == 5
        assert done.texts() == ["x"] * 5


class TestInvocation:
    def test_modules_code_and_standard_input(self, runner: Runner) -> None:
        """``-m``, ``-c`` and ``-`` are handled as Python does; what follows belongs to the program."""
        runner.fresh = True
        runner.write("import logging, sys; logging.warning('%s %s', __name__, sys.argv[1:])", "pkg/mod.py")
        for program, text, stdin in (
            (("-m", "pkg.mod", "-v", "--sink", "x"), "__main__ ['-v', '--sink', 'x']", None),
            (("-c", "import logging, sys; logging.warning(sys.argv)", "-m"), "['-c', '-m']", None),
            (("-", "a"), "from stdin ['-', 'a']", "import logging, sys; logging.warning('from stdin %s', sys.argv)"),
        ):
            runner.store.unlink(missing_ok=True)
            plain = runner.plain(*program, input=stdin)
            routed = runner.routed(*program, input=stdin)
            assert routed.ours == plain.ours
            assert routed.texts() == [text]

    def test_standard_streams_are_the_programs(self, runner: Runner) -> None:
        """Standard input reaches the program, and binary output leaves it."""
        runner.fresh = True
        routed = runner.both(
            "import sys; data = sys.stdin.buffer.read(); sys.stdout.buffer.write(data[::-1])", input="drow"
        )
        assert routed.out == "word"

    def test_the_users_own_sitecustomize_still_runs(self, runner: Runner) -> None:
        """Ours steps aside for the one that it shadows; usercustomize follows as ever."""
        runner.fresh = True
        runner.write(
            """
            import logging, sys
            if "mvx_logger.cli" not in sys.orig_argv:
                logging.warning("site")
                print("site", __name__, __file__)
            """,
            "site/sitecustomize.py",
        )
        runner.environment["PYTHONPATH"] += os.pathsep + str(runner.directory / "site")
        routed = runner.both("import sys; print('sitecustomize' in sys.modules, sys.modules['sitecustomize'].__file__)")
        assert str(runner.directory / "site" / "sitecustomize.py") in routed.out
        assert routed.texts() == ["site"]

    def test_without_one_there_is_none(self, runner: Runner) -> None:
        """The program does not see ours."""
        runner.fresh = True
        program = "import sys; print(sys.modules.get('sitecustomize'), '_inject' in ''.join(sys.path))"
        assert runner.both(program).out == "None False\n"

    def test_run_from_a_checkout(self, runner: Runner) -> None:
        """Found in the working directory only, the package still serves a program that runs elsewhere."""
        runner.fresh = True
        del runner.environment["PYTHONPATH"]
        program = runner.write("import logging; logging.warning('hello')")
        assert runner.routed(program, cwd=ROOT).texts() == ["hello"]

    def test_relative_sinks_mean_where_the_command_was_run(self, runner: Runner) -> None:
        """A program that changes its directory writes to the same file, and so do its children."""
        program = runner.write(
            """
            import logging, os, subprocess, sys
            os.mkdir("below"); os.chdir("below")
            logging.warning("parent")
            subprocess.run([sys.executable, "-c", "import logging; logging.warning('child')"], check=True)
            """
        )
        runner.routed("--sink", "file:events.jsonl", program, sink=False)
        assert [event.message for event in runner.read()] == ["parent", "child"]

    def test_where_the_program_begins(self) -> None:
        """Our options end at the script, ``-m``, ``-c`` or ``-``; ``--`` ends them too."""
        assert split_arguments(["--sink", "a:", "--level=INFO", "x.py", "--sink", "b:"]) == (
            ["--sink", "a:", "--level=INFO"],
            ["x.py", "--sink", "b:"],
        )
        assert split_arguments(["--no-children", "-mpip", "-vvv"]) == (["--no-children"], ["-mpip", "-vvv"])
        assert split_arguments(["-c", "pass"]) == ([], ["-c", "pass"])
        assert split_arguments(["--config", "-", "-", "x"]) == (["--config", "-"], ["-", "x"])
        assert split_arguments(["--", "-x"]) == ([], ["-x"])
        assert split_arguments(["--sink"]) == (["--sink"], [])

    def test_a_console_script_is_found_by_its_name(self, runner: Runner) -> None:
        """``mvx-logger run pytest`` is the script that lies beside this Python."""
        path = resolve_program(["pytest", "-q"])
        assert Path(path[0]).name == "pytest"
        assert path[1:] == ["-q"]
        with pytest.raises(LogConfigurationError, match="no-such-program"):
            resolve_program(["no-such-program"])

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (("--sink", "nope://x", "app.py"), "nope"),
            (("--sink", "file:", "app.py"), "file"),
            (("--sink", "file:x.log?colour=red", "app.py"), "colour"),
            (("--sink", "stderr", "app.py"), "no URL"),
            (("--config", "missing.toml", "app.py"), "missing.toml"),
            (("--level", "LOUD", "app.py"), "LOUD"),
            (("missing.py",), "missing.py"),
            ((), "no program"),
            (("--colour", "app.py"), "--colour"),
        ],
    )
    def test_what_is_wrong_is_said_before_the_program_starts(
        self, runner: Runner, arguments: tuple[str, ...], complaint: str
    ) -> None:
        """Exit code 2, the culprit named, no traceback, nothing run."""
        runner.write("print('ran')")
        routed = runner.routed(*arguments, sink=False)
        assert routed.code == 2
        assert complaint in routed.err
        assert "Traceback" not in routed.err
        assert routed.out == ""

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
    def test_a_run_inside_of_a_run(self, runner: Runner) -> None:
        """The inner one's settings are in force for its program."""
        inner = runner.write("import logging; logging.warning('inner')", "inner.py")
        program = runner.write(
            f"""
            import logging, subprocess, sys
            logging.warning("outer")
            command = [sys.executable, "-m", "mvx_logger.cli", "run", "--sink", "file:inner.jsonl", {inner!r}]
            subprocess.run(command, check=True)
            """
        )
        routed = runner.routed(program)
        assert routed.texts() == ["outer"]
        assert b"inner" in (runner.directory / "inner.jsonl").read_bytes()


class TestSecrets:
    @pytest.fixture
    def secret_url(self, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> str:
        # The file sink takes no password; a third party's sink does.
        package = runner.directory / "vault"
        runner.write(
            """
            from mvx_logger.protocols import LogSinkDescriptor
            class VaultSink:
                def __init__(self, *, password: str) -> None: self.password = password
                @classmethod
                def build_descriptor(cls, **kwargs): return LogSinkDescriptor("vault", (), ())
                @classmethod
                def create(cls, **kwargs): return cls(**kwargs), lambda: None
                def log(self, event): open("vault.txt", "a").write(self.password + event.message)
            """,
            "vault/vault_sink.py",
        )
        runner.write("[mvx_logger.sinks]\nvault = vault_sink:VaultSink\n", "vault/vault-1.dist-info/entry_points.txt")
        runner.write("Metadata-Version: 2.1\nName: vault\nVersion: 1\n", "vault/vault-1.dist-info/METADATA")
        runner.environment["PYTHONPATH"] += os.pathsep + str(package)
        runner.environment["TMPDIR"] = str(runner.directory)
        monkeypatch.setenv("TMPDIR", str(runner.directory))
        return "vault:?password=hunter2"

    def test_a_secret_of_a_sink_is_not_in_the_environment(self, runner: Runner, secret_url: str) -> None:
        """It reaches the program's processes through a private file, which is gone at the end."""
        program = runner.write(
            """
            import glob, logging, os, stat, subprocess, sys
            logging.getLogger().addHandler(logging.NullHandler())
            logging.error("parent")
            print("hunter2" in str(os.environ), flush=True)
            if "child" not in sys.argv:
                for path in glob.glob("mvx-logger-run-*/*"):
                    print(*(oct(stat.S_IMODE(os.stat(part).st_mode)) for part in (path, os.path.dirname(path))), flush=True)
                subprocess.run([sys.executable, __file__, "child"], check=True)
            """
        )
        routed = runner.routed("--sink", secret_url, program)
        assert (routed.code, routed.err) == (0, "")
        assert routed.out.splitlines() == ["False", "0o600 0o700", "False"]
        assert (runner.directory / "vault.txt").read_text() == "hunter2parent" * 2
        assert list(runner.directory.glob("mvx-logger-run-*")) == []

    def test_a_process_that_outlives_the_run_is_left_alone(self, runner: Runner) -> None:
        """The file is gone with the run: what is started later runs without us, in silence."""
        settings = {**make_settings(sinks=[f"file:{runner.store}"]), "secrets": str(runner.directory / "gone")}
        program = runner.write("import logging; logging.getLogger('a').error('hello')")
        done = runner.execute(sys.executable, program, env=make_environment(settings))
        assert (done.returncode, done.stderr) == (0, "hello\n")
        assert not runner.store.exists()

    def test_what_a_killed_run_has_left_behind_is_removed_by_the_next(self, runner: Runner, secret_url: str) -> None:
        """A process that was killed could not remove its file."""
        with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
            process.wait()
        left = runner.directory / f"mvx-logger-run-{process.pid}-x"
        left.mkdir()
        others = [runner.directory / f"mvx-logger-run-{number}-x" for number in (1, os.getpid(), "word")]
        for other in others:
            other.mkdir()
        routed = runner.routed(runner.write("pass"))
        assert routed.code == 0
        assert not left.exists()
        assert all(other.exists() for other in others)


class TestSettings:
    def test_sinks_wait_rather_than_lose(self, tmp_path: Path) -> None:
        """A burst fills the queue of a sink in a moment; the program waits, unless its user says otherwise."""
        (spec,) = make_settings(sinks=[f"file:{tmp_path}/a.jsonl"])["sinks"]
        assert spec["queue_overflow_policy"] == "block"
        (spec,) = make_settings(sinks=[f"file:{tmp_path}/a.jsonl?queue_overflow_policy=drop"])["sinks"]
        assert "queue_overflow_policy" not in spec

    def test_sinks_take_every_level_unless_told(self, tmp_path: Path) -> None:
        """A file sink starts at INFO by itself; here the program's levels decide."""
        (spec,) = make_settings(sinks=[f"file:{tmp_path}/a.jsonl"])["sinks"]
        assert spec["level"] == 0
        (spec,) = make_settings(sinks=[f"file:{tmp_path}/a.jsonl?level=ERROR"])["sinks"]
        assert "level" not in spec

    def test_a_run_inside_of_a_run_replaces_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The injected directory stands once in the path, and is not taken for the user's own."""
        monkeypatch.setenv("PYTHONPATH", f"{INJECTED}{os.pathsep}/own")
        settings = make_settings(sinks=[f"file:{tmp_path}/a.jsonl"])
        assert settings["pythonpath"] == "/own"
        assert make_environment(settings)["PYTHONPATH"] == f"{INJECTED}{os.pathsep}/own"
        monkeypatch.setenv("PYTHONPATH", INJECTED)
        settings = make_settings(sinks=[f"file:{tmp_path}/a.jsonl"])
        assert make_environment(settings)["PYTHONPATH"] == INJECTED

    def test_they_are_plain_data(self, tmp_path: Path) -> None:
        """Whatever is set travels as JSON."""
        settings = make_settings(
            sinks=[f"file:{tmp_path}/a.jsonl"], level="info", replace_handlers=True, children=False
        )
        assert json.loads(json.dumps(settings)) == settings
        assert settings["level"] == 20
        assert len(settings["sinks"]) == 2
