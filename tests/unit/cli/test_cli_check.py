"""``mvx-logger check``: what a configuration would make, without making it."""

from __future__ import annotations

import json
import logging
import sys
import textwrap
import threading
from pathlib import Path

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from click.testing import CliRunner, Result

import mvx_logger
from mvx_logger.cli.commands import cli

TOML = """
    [sinks]
    main = "sqlite:///events.db?retention_max_events=1000"
    errors = {class = "mvx_logger.sinks.combinators.FilterSink", sink = "main", min_level = "ERROR"}
    [sinks.both]
    class = "mvx_logger.sinks.combinators.FanOutSink"
    sinks = ["errors", "file:copy.jsonl?max_bytes=5000", "stderr:"]

    [policies.calm]
    default_enabled = true
    rules = [{action = "deny", event_names = ["tick*"]}]

    [root]
    log_sink = "main"
    min_level = "INFO"
    log_error_handling_policy = "ignore"

    [contexts."shop.orders.db"]
    log_sink = "both"
    event_policy = "calm"
    payload_processor = {max_items = 50}

    [logging]
    version = 1
    [logging.handlers.pipe]
    class = "mvx_logger.bridge.handlers.SinkHandler"
    level = "WARNING"
    sink = "file:piped.jsonl"
    [logging.handlers.nearest]
    class = "mvx_logger.bridge.handlers.LogContextHandler"
    [logging.handlers.mail]
    class = "logging.handlers.SMTPHandler"
    mailhost = "localhost"
    credentials = ["operator", "hunter2"]
    [logging.root]
    level = "DEBUG"
    handlers = ["nearest"]
    [logging.loggers."shop.orders"]
    level = "INFO"
    handlers = ["pipe"]
    propagate = false
    [logging.loggers.shop]
    level = "WARNING"
    """

TREE = """
    ├── sinks
    │   ├── main sqlite {path} events retention_max_events=1000
    │   ├── errors FilterSink min_level=ERROR
    │   │   └── → main
    │   └── both FanOutSink
    │       ├── → errors
    │       ├── file {copy} format=json max_bytes=5000
    │       └── stream stderr
    ├── contexts
    │   └── (root) min_level=INFO errors=ignore
    │       ├── sink → main
    │       └── shop
    │           └── shop.orders
    │               └── shop.orders.db
    │                   ├── sink → both
    │                   ├── policy allows what no rule names
    │                   │   └── deny event_names=["tick*"]
    │                   └── processor verbosity_level=NORMAL max_str_len=200 max_items=50 max_depth=5
    └── logging
        ├── (root logger) level=DEBUG
        │   ├── ⇒ nearest mvx_logger.bridge.handlers.LogContextHandler
        │   └── shop level=WARNING
        │       └── shop.orders level=INFO propagate=false
        │           └── ⇒ pipe mvx_logger.bridge.handlers.SinkHandler level=WARNING
        │               └── sink file {piped} format=json
        └── ⇒ mail logging.handlers.SMTPHandler (attached to no logger)
    """


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", sys.path[:])  # the command adds the directory that it is in


def check(text: str, name: str = "logging.toml", code: int = 0) -> Result:
    Path(name).write_text(textwrap.dedent(text), "utf-8")
    result = CliRunner().invoke(cli, ["check", name])
    assert result.exit_code == code, result.output
    return result


class TestTree:
    def test_shows_sinks_contexts_loggers_and_handlers(self, tmp_path: Path) -> None:
        """Everything that the file would make, where it would be."""
        name, *lines = [line.rstrip() for line in check(TOML).stdout.splitlines()]
        files = {stem: tmp_path / f"{file}" for stem, file in (("copy", "copy.jsonl"), ("piped", "piped.jsonl"))}
        expected = textwrap.dedent(TREE).format(path=tmp_path / "events.db", **files)
        assert name == "logging.toml"
        assert lines == expected.strip("\n").splitlines()

    def test_makes_nothing(self, tmp_path: Path) -> None:
        """No file, no thread, no sink, no context, no logger that was not there before."""
        before = (threading.active_count(), logging.getLogger().handlers[:], dict(logging.Logger.manager.loggerDict))
        names = mvx_logger.get_configured_log_sink_names(), mvx_logger.get_log_context_namespaces()
        check(TOML)
        assert [path.name for path in tmp_path.iterdir()] == ["logging.toml"]
        assert names == (mvx_logger.get_configured_log_sink_names(), mvx_logger.get_log_context_namespaces())
        assert before == (
            threading.active_count(),
            logging.getLogger().handlers,
            dict(logging.Logger.manager.loggerDict),
        )

    def test_secrets_are_not_shown(self) -> None:
        """The arguments of a handler that is not ours may be anything."""
        assert "hunter2" not in check(TOML).output

    def test_secrets_of_sinks_are_starred(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A sink that says which of its options are secret is shown without them."""
        (tmp_path / "vault.py").write_text(
            textwrap.dedent(
                """
                from mvx_logger import AsyncioLogSink
                class VaultSink(AsyncioLogSink):
                    def __init__(self, *, host: str, password: str, **options) -> None: ...
                    async def _dispatch_core(self, event): ...
                    @classmethod
                    def build_descriptor(cls, **kwargs):
                        return cls._describe("vault", (kwargs.pop("host"),), kwargs, secrets=["password"])
                """
            )
        )
        out = check('[sinks.vault]\nclass = "vault.VaultSink"\nhost = "a"\npassword = "hunter2"').stdout
        assert "vault vault a password=***" in out

    @pytest.mark.parametrize("name", ["logging.json", "logging.yaml", "logging.yml"])
    def test_other_kinds_of_files(self, name: str) -> None:
        """JSON and YAML say the same as TOML."""
        if not name.endswith("json"):
            pytest.importorskip("yaml")
        # JSON is YAML too.
        out = check(json.dumps({"sinks": {"main": "stderr:"}, "root": {"log_sink": "main"}}), name).stdout
        assert out.splitlines()[1:] == [
            "├── sinks",
            "│   └── main stream stderr",
            "└── contexts",
            "    └── (root)",
            "        └── sink → main",
        ]

    def test_a_plain_dict_config(self) -> None:
        """A file for `logging.config.dictConfig` is drawn as well."""
        config = {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"plain": {"format": "%(message)s"}},
            "handlers": {
                "out": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stdout"},
                "file": {"()": "logging.FileHandler", "filename": "never.log", "level": "ERROR"},
            },
            "loggers": {"a.b": {"handlers": ["file"], "level": 10}},
            "root": {"handlers": ["out"], "level": "INFO"},
        }
        out = check(json.dumps(config), "dict.json").stdout
        assert out.splitlines()[1:] == [
            "└── logging",
            "    └── (root logger) level=INFO",
            "        ├── ⇒ out logging.StreamHandler formatter=plain stream=ext://sys.stdout",
            "        └── a.b level=10",
            "            └── ⇒ file logging.FileHandler level=ERROR filename=never.log",
        ]
        assert not Path("never.log").exists()

    def test_nothing(self) -> None:
        """An empty configuration makes nothing."""
        assert "empty" in check("").stdout

    def test_objects_that_are_not_ours(self, tmp_path: Path) -> None:
        """A policy or processor of the application's own is named by its class."""
        (tmp_path / "own.py").write_text(
            textwrap.dedent(
                """
                class Policy:
                    def is_event_enabled(self, event): return True
                class Processor:
                    def normalize_payload(self, payload, *, unbounded=False): return dict(payload)
                    def normalize_value_for_log(self, value, *, unbounded=False): return value
                    def get_plain_verbosity_level(self): return None
                """
            )
        )
        out = check(
            '[root]\nevent_policy = {class = "own.Policy"}\npayload_processor = {class = "own.Processor"}'
        ).stdout
        assert "policy Policy" in out
        assert "processor Processor" in out

    def test_sinks_that_are_objects_and_handlers_that_have_a_sink_of_their_own(self, tmp_path: Path) -> None:
        """An ``ext://`` object is named by its class; what somebody else calls ``sink`` is left alone."""
        (tmp_path / "things.py").write_text(
            textwrap.dedent(
                """
                import logging
                class Kitchen:
                    def log(self, event): ...
                kitchen = Kitchen()
                class Washer(logging.Handler): ...
                """
            )
        )
        config = {
            "sinks": {"all": {"class": "mvx_logger.sinks.combinators.FanOutSink", "sinks": ["ext://things.kitchen"]}},
            "root": {"log_sink": "ext://things.kitchen"},
            "logging": {
                "version": 1,
                "handlers": {"washer": {"class": "things.Washer", "sink": "steel", "level": "ERROR"}},
                "root": {"handlers": ["washer"]},
            },
        }
        out = check(json.dumps(config), "things.json").stdout
        assert out.count("Kitchen") == 2
        assert "⇒ washer things.Washer level=ERROR" in out
        assert "steel" not in out


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("[sinks]\nmain = 'nope://x'", "sinks.main"),
            ("[sinks]\nmain = 'file:x.log?max_bites=3'", "max_bites"),
            ("[root]\nlog_sink = 'missing'", "root.log_sink"),
            ("[contexts.shop]\nmin_level = 'LOUD'", "contexts.shop.min_level"),
            ("[contexts.'9']\nmin_level = 1", "contexts.9"),
            (
                "[contexts.shop]\nevent_policy = {rules = [{action = 'maybe'}]}",
                "contexts.shop.event_policy.rules[0].action",
            ),
            ("[logging]\nversion = 1\n[logging.root]\nhandlers = ['gone']", "logging.root.handlers"),
            ("[loggers.a]\nlevel = 'INFO'", "version"),
            ("colour = 'red'", "colour"),
            ("not toml", "logging.toml"),
        ],
    )
    def test_the_path_to_what_is_wrong_is_named(self, text: str, complaint: str) -> None:
        """Exit code 1; one line on stderr, nothing on stdout."""
        result = check(text, code=1)
        assert complaint in result.stderr
        assert result.stderr.startswith("logging.toml: ")
        assert result.stdout == ""

    def test_a_file_that_is_not_there_or_not_known(self) -> None:
        """Exit code 1 as well; no argument at all is a usage error."""
        runner = CliRunner()
        assert runner.invoke(cli, ["check", "missing.toml"]).exit_code == 1
        assert check("x", "notes.txt", code=1).stderr.count("\n") == 1
        assert runner.invoke(cli, ["check"]).exit_code == 2
