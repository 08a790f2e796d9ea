"""Configuration as data: sinks from URLs and mappings, everything at once, all or nothing."""

from __future__ import annotations

import json
import logging
import logging.config
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mvx_logger
from delivery_helpers import TIMEOUT, make_event, wait_until, worker_threads
from mvx_logger import (
    AsyncioLogSink,
    FallbackSink,
    FanOutSink,
    FileLogSink,
    FilterSink,
    LogConfigurationError,
    LogErrorHandlingPolicy,
    LogEvent,
    LogEventMeta,
    LogPayloadProcessor,
    LogSinkCreateError,
    LogSinkDescriptor,
    LogSinkNotFoundError,
    LogSinkProto,
    MemoryLogSink,
    PatternLogEventPolicy,
    SqliteLogSink,
    StreamLogSink,
    configure,
    configure_log_context,
    configure_log_sink,
    get_configured_log_sink_names,
    get_log_context,
    get_log_sink,
    get_root_log_context,
    has_log_context,
    reset_logger,
    sink_from_url,
)
from mvx_logger.bridge import config as config_module
from mvx_logger.bridge.config import (
    find_sink_class,
    load_configuration,
    plan_configuration,
    plan_sink,
    resolve_sink,
)
from mvx_logger.delivery.dead_letter import as_dead_letter_sink
from mvx_logger.sinks.dead_letter import DeadLetterFile
from repetitions import often

RECORDING = "test_config.Recording"
MIRRORED = "test_config.Mirrored"


class Recording(AsyncioLogSink):
    """On a thread of its own; what arrives is kept by the name of the place."""

    arrived: ClassVar[dict[str, list[str]]] = {}
    made = 0

    def __init__(self, *, place: str = "", number: int = 0, fails: bool = False, **options: Any) -> None:
        if fails:
            raise OSError("no such place")
        super().__init__(**options)
        self.place = place
        self.arrived.setdefault(place, [])
        type(self).made += 1

    @classmethod
    def build_descriptor(cls, **options: Any) -> LogSinkDescriptor:
        return cls._describe("recording", (options.get("place", ""),), options)

    async def _dispatch_batch(self, events: Sequence[LogEvent]) -> None:
        self.arrived[self.place].extend(event.meta.event_name for event in events)


class Scheme(Recording):
    """What a package from elsewhere may offer."""

    @classmethod
    def options_from_url(cls, url: Any) -> dict[str, Any]:
        if url.port == 1:
            raise LogConfigurationError("place: port 1 is taken", details={"path": "place"})
        return {"place": url.hostname or ""}


class Mirrored(Recording):
    """Takes other sinks for its options."""

    def __init__(
        self,
        *,
        mirror: LogSinkProto | str | os.PathLike[str] | None = None,
        others: Sequence[LogSinkProto] = (),
        password: str = "",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.mirror = mirror
        self.others = others

    @classmethod
    def build_descriptor(cls, **options: Any) -> LogSinkDescriptor:
        return cls._describe("mirrored", (options.pop("place", ""),), options, secrets=("password",))


class Lettered:
    """A synchronous sink with a dead-letter sink, which is all that it uses."""

    def __init__(self, *, dead_letter: LogSinkProto | str | os.PathLike[str] | None = None) -> None:
        self.letters = as_dead_letter_sink(dead_letter)

    def log(self, event: LogEvent) -> None:
        assert self.letters is not None
        self.letters[0].log(event)

    def close(self) -> None:
        if self.letters is not None and self.letters[1]:
            self.letters[0].close()  # type: ignore[attr-defined]

    @classmethod
    def build_descriptor(cls, **options: Any) -> LogSinkDescriptor:
        return LogSinkDescriptor("lettered", (), tuple(options.items()))

    @classmethod
    def create(cls, **options: Any) -> tuple[Lettered, Any]:
        sink = cls(**options)
        return sink, sink.close

    @classmethod
    def options_from_url(cls, url: Any) -> dict[str, Any]:
        return {}


class Plain:
    """A sink class that is as small as can be; its options stand in the query only."""

    def __init__(self, *, tags: list[str] | None = None, size: int = 0, on: bool = False) -> None:
        self.options = (tags, size, on)
        self.events: list[LogEvent] = []

    def log(self, event: LogEvent) -> None:
        self.events.append(event)

    @classmethod
    def build_descriptor(cls, **options: Any) -> LogSinkDescriptor:
        return LogSinkDescriptor("plain", (), tuple((key, repr(options[key])) for key in sorted(options)))

    @classmethod
    def create(cls, **options: Any) -> tuple[Plain, Any]:
        return cls(**options), lambda: None


class Denying:
    """An event policy."""

    def __init__(self, *, names: Sequence[str] = ()) -> None:
        self.names = names

    def is_event_enabled(self, event: LogEventMeta) -> bool:
        return event.event_name not in self.names


AN_OBJECT = MemoryLogSink()
A_POLICY = Denying(names=["secret"])
A_PROCESSOR = LogPayloadProcessor(max_items=3)


@pytest.fixture(autouse=True)
def _no_sink_stays() -> Any:
    Recording.arrived.clear()
    Recording.made = 0
    AN_OBJECT.clear()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    reset_logger()
    for handler in list(root.handlers):
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    wait_until(lambda: not worker_threads())


def state() -> Any:
    """All that a configuration may change."""
    loggers = [logging.getLogger(), *map(logging.getLogger, sorted(logging.getLogger().manager.loggerDict))]
    contexts = [get_root_log_context(), *map(get_log_context, mvx_logger.get_log_context_namespaces())]
    return (
        {name: get_log_sink(name) for name in get_configured_log_sink_names()},
        [(context, context._get_settings()) for context in contexts],
        [
            (entry.name, entry.level, entry.propagate, entry.disabled, list(entry.handlers), list(entry.filters))
            for entry in loggers
        ],
        dict(logging._handlers.items()),  # type: ignore[attr-defined]
        list(logging._handlerList),  # type: ignore[attr-defined]
        {thread.ident for thread in worker_threads()},
    )


def error_text(err: BaseException) -> str:
    return "".join(traceback.format_exception(err))


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "cls"),
        [
            ("stderr:", StreamLogSink),
            ("stdout:?level=DEBUG", StreamLogSink),
            ("STDERR:", StreamLogSink),
            ("memory:", MemoryLogSink),
            ("memory:recent?max_events=3", MemoryLogSink),
            ("file:events.log", FileLogSink),
            ("file:events.log?format=json&max_bytes=1000&delay=true", FileLogSink),
            ("sqlite:///events.db?retention_max_age=86400", SqliteLogSink),
            ("console:", None),
        ],
    )
    def test_one_url_per_kind_of_sink(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, url: str, cls: type | None
    ) -> None:
        """Each makes a running sink that takes events; its close() ends it."""
        monkeypatch.chdir(tmp_path)
        sink = sink_from_url(url)
        try:
            assert cls is None or type(sink) is cls
            sink.log(make_event())
            assert sink.flush(TIMEOUT)
        finally:
            sink.close()
        assert not worker_threads()

    def test_options_of_the_query_are_converted_and_checked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Text becomes what the option is; repeated ones and commas make lists; keywords win."""
        monkeypatch.setitem(mvx_logger.bridge.config._SCHEMES, "plain", "test_config.Plain")  # type: ignore[attr-defined]
        assert sink_from_url("plain:?size=10&on=true&tags=a,b").options == (["a", "b"], 10, True)
        assert sink_from_url("plain:?tags=a&tags=b&tags=c").options == (["a", "b", "c"], 0, False)
        assert sink_from_url("plain:?size=10", size=7, on=True).options == (None, 7, True)

    @pytest.mark.parametrize(
        ("url", "text"),
        [
            ("", "url: the URL of a sink has no scheme; it looks like 'sqlite:///events.db'"),
            ("events.db", "url: the URL of a sink has no scheme"),
            (
                "nosuch://host",
                "url: no sink for URLs with the scheme 'nosuch' is installed; there are: amqp, amqps, click",
            ),
            (
                "sqlite:///a.db?retention_max_ag=1",
                "url.retention_max_ag: SqliteLogSink has no such option; did you mean",
            ),
            ("sqlite:///a.db?retention_max_age=x", r"url.retention_max_age: expected float, got str"),
            ("sqlite:///a.db#x", "url: the URL of a sink has no fragment; write '#' as %23"),
            ("sqlite://host/a.db", "url: the URL of a store is sqlite:///relative.db"),
            ("stderr:/x", "url: stderr: takes no path"),
            ("stderr:?level=LOUD", "url.*'LOUD' is not a level; use a number or one of DEBUG, INFO"),
            ("memory:?max_events=0", "url.max_events: expected 1 or more"),
            ("file:", "url: a file's URL is file:///absolute/path.log"),
            ("file:x?format=xml", "format: expected one of 'json', 'logfmt', 'text', got 'xml'"),
            ("sqlite://[::1/x", "url: the URL of a sink is malformed"),
        ],
    )
    def test_what_is_wrong_is_named_and_what_would_be_right(self, url: str, text: str) -> None:
        """The path to it, the option, the alternatives."""
        with pytest.raises(LogConfigurationError, match=text):
            sink_from_url(url)
        assert not worker_threads()

    @pytest.mark.parametrize("url", [5, None, b"stderr:", Path("stderr:")])
    def test_url_that_is_no_str(self, url: Any) -> None:
        """It is a TypeError."""
        with pytest.raises(TypeError, match="url: expected a str, got"):
            sink_from_url(url)

    @pytest.mark.parametrize(
        "url",
        [
            "their://user:hunter2@[host/x",
            "their://user:hunter2@ho\u2100st/x",
            "their://user:hunter2@host:0x",
            "their://host:hunter2/x",
            "their://user:hunter2@host:1/x",
            "their://user:hunter2@host/x#fragment",
            "their://user:hunter2@host/x?nosuch=1",
            "their://user:hunter2@host/x?number=hunter2",
            "their://user:hunter2@host/x?fails=true",
            "plain://user:hunter2@host/x",
            "nosuch://user:hunter2@host/x",
            "stderr://user:hunter2@host/x",
            "sqlite://user:hunter2@host/x",
            "file://user:hunter2@host/x",
        ],
    )
    def test_secrets_in_urls_never_appear_in_errors(self, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        """Neither in the text nor in the chain of causes that a traceback shows."""
        monkeypatch.setitem(mvx_logger.bridge.config._SCHEMES, "their", "test_config.Scheme")  # type: ignore[attr-defined]
        monkeypatch.setitem(mvx_logger.bridge.config._SCHEMES, "plain", "test_config.Plain")  # type: ignore[attr-defined]

        def complain(make: Any) -> str:
            with pytest.raises((LogConfigurationError, LogSinkCreateError)) as caught:
                make()
            err = caught.value
            chain = []
            cause: BaseException | None = err
            while cause is not None:
                chain.append(f"{cause!r} {cause} {getattr(cause, 'details', '')}")
                cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
            return "\n".join(chain) + str(err.to_log_payload())

        assert "hunter2" not in complain(lambda: sink_from_url(url))
        assert "hunter2" not in complain(lambda: configure({"sinks": {"main": url}}))
        assert "hunter2" not in complain(lambda: resolve_sink({"url": url}))


class TestEntryPoints:
    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "their_package.py").write_text(
            "from test_config import Plain, Scheme\n"
            "from mvx_logger import FanOutSink\n"
            "class Both(FanOutSink):\n"
            "    pass\n"
            "no_class = 5\n"
        )
        info = tmp_path / "their_package-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            "[mvx_logger.sinks]\n"
            "their = their_package:Scheme\n"
            "Mixed = their_package:Plain\n"
            "both = their_package:Both\n"
            "number = their_package:no_class\n"
            "gone = their_package:Gone\n"
            "missing = no_such_package:Sink\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        yield
        sys.modules.pop("their_package", None)

    def test_third_partys_sink_is_found_by_its_scheme(self, package: None) -> None:
        """After `pip install`, without any registration."""
        sink = sink_from_url("their://here?queue_max_size=5")
        sink.log(make_event("0"))
        sink.close()
        assert Recording.arrived["here"] == ["0"]
        configure({"sinks": {"main": "their://there"}, "root": {"log_sink": "main"}})
        get_root_log_context().log_info_event("1")
        assert mvx_logger.flush(TIMEOUT)
        assert Recording.arrived["there"] == ["1"]

    def test_scheme_in_any_case(self, package: None) -> None:
        """A URL's scheme has none."""
        assert type(sink_from_url("mixed:?size=3")).__name__ == "Plain"
        assert find_sink_class("mixed").__name__ == "Plain"

    def test_sink_made_of_sinks(self, package: None) -> None:
        """Its parts are made with it, and closed with it."""
        parts = [{"class": RECORDING, "place": "a"}, "memory:", AN_OBJECT]
        sink = sink_from_url("both:", sinks=parts, owns_sinks=True)
        sink.log(make_event("0"))
        sink.close()
        assert Recording.arrived["a"] == ["0"]
        assert len(AN_OBJECT) == 1
        assert not worker_threads()
        with pytest.raises(LogSinkCreateError):
            sink_from_url("both:", sinks=[*parts, {"class": RECORDING, "fails": True}])
        assert not worker_threads()

    @pytest.mark.parametrize(
        ("url", "text"),
        [
            ("missing:", r"url: the sink for 'missing' \(no_such_package:Sink\) cannot be loaded: No module named"),
            ("gone:", r"url: the sink for 'gone' \(their_package:Gone\) cannot be loaded"),
            ("number:", "url: int is no sink class: it needs build_descriptor"),
            ("thier:", "no sink for URLs with the scheme 'thier'.*there are: Mixed, amqp, amqps, both, .*their"),
        ],
    )
    def test_broken_entry_points(self, package: None, url: str, text: str) -> None:
        """The error names the scheme and what it leads to."""
        with pytest.raises(LogConfigurationError, match=text):
            sink_from_url(url)


class TestSpecifications:
    def test_each_way_to_name_a_sink(self) -> None:
        """An object, a name, a URL, a mapping with a class or a URL."""
        configure_log_sink(name="known", sink_cls=MemoryLogSink)
        for spec, cls in (
            (AN_OBJECT, MemoryLogSink),
            ("known", MemoryLogSink),
            ("memory:x", MemoryLogSink),
            ({"class": RECORDING, "place": "a"}, Recording),
            ({"class": Recording, "place": "a"}, Recording),
            ({"url": "memory:x", "max_events": 5}, MemoryLogSink),
            ({"url": "memory:x", "max_events": "5"}, MemoryLogSink),
            ({"class": "mvx_logger.FanOutSink", "sinks": ["known", AN_OBJECT, "memory:"]}, FanOutSink),
            ({"class": "mvx_logger.FilterSink", "sink": {"class": RECORDING}, "min_level": "ERROR"}, FilterSink),
            (
                {
                    "class": "mvx_logger.FallbackSink",
                    "sinks": [{"class": "mvx_logger.FilterSink", "sink": "known"}, "stderr:"],
                },
                FallbackSink,
            ),
        ):
            lease = resolve_sink(spec)
            assert type(lease.sink) is cls, spec
            lease.sink.log(make_event())
            lease.release()
        assert get_log_sink("known") is resolve_sink("known").sink

    def test_same_description_is_the_same_sink(self) -> None:
        """Whoever asks for it shares it; it ends with the last one."""
        first = resolve_sink({"class": RECORDING, "place": "a"})
        second = resolve_sink({"class": RECORDING, "place": "a"})
        other = resolve_sink({"class": RECORDING, "place": "b"})
        assert first.sink is second.sink
        assert other.sink is not first.sink
        first.release()
        first.release()
        assert first.sink.get_status().value == "running"
        second.release()
        wait_until(lambda: first.sink.get_status().value == "stopped")
        other.end()
        assert other.sink.get_status().value == "stopped"

    def test_parts_end_with_the_whole(self) -> None:
        """Also where the whole cannot be made."""
        spec = {"class": "mvx_logger.FanOutSink", "sinks": [{"class": RECORDING, "place": "a"}, AN_OBJECT]}
        lease = resolve_sink(spec)
        (thread,) = worker_threads()
        lease.release()
        thread.join(TIMEOUT)
        assert not worker_threads()
        with pytest.raises(LogSinkCreateError, match="no such place"):
            resolve_sink({**spec, "sinks": [*spec["sinks"], {"class": RECORDING, "fails": True}]})
        wait_until(lambda: not worker_threads())

    @pytest.mark.parametrize(
        ("spec", "text"),
        [
            (5, "sink: int is no sink; use an object with log"),
            (None, "sink: NoneType is no sink"),
            (MemoryLogSink, "sink: type is no sink"),
            ("nosuch", r"sink: no sink 'nosuch' is configured \(there are: stderr\); a URL looks like"),
            ({}, 'sink: a sink needs either "class"'),
            ({"class": RECORDING, "url": "memory:"}, 'sink: a sink needs either "class"'),
            ({"url": 5}, "sink.url: expected a str, got int"),
            ({"url": "nosuch:"}, "sink: no sink for URLs with the scheme 'nosuch'"),
            ({"class": "test_config.Nothing"}, "sink.class: 'test_config.Nothing' cannot be imported: .*Nothing"),
            ({"class": "no_such_module.X"}, "sink.class: 'no_such_module.X' cannot be imported: there is no module"),
            ({"class": "logging.Handler"}, "sink.class: Handler is no sink class: it needs build_descriptor"),
            ({"class": "test_config.AN_OBJECT"}, "sink.class: MemoryLogSink is no sink class"),
            ({"class": ""}, "sink.class: '' cannot be imported"),
            ({"class": ".x"}, "sink.class: '.x' cannot be imported"),
            ({"class": RECORDING, "plaec": "x"}, "sink.plaec: Recording has no such option; did you mean 'place'"),
            ({"class": RECORDING, "number": "5"}, "sink.number: expected int, got str"),
            ({"class": "mvx_logger.FanOutSink"}, "sink.sinks: missing; FanOutSink needs a list of sinks"),
            ({"class": "mvx_logger.FanOutSink", "sinks": "memory:"}, "sink.sinks: expected a list of sinks, got str"),
            ({"class": "mvx_logger.FanOutSink", "sinks": []}, "sinks: FanOutSink needs one or more"),
            ({"class": "mvx_logger.FanOutSink", "sinks": ["memory:", 5]}, r"sink.sinks\[1\]: int is no sink"),
            ({"class": "mvx_logger.FilterSink"}, "sink.sink: missing; FilterSink needs it"),
            (
                {"class": "mvx_logger.FilterSink", "sink": {"class": "mvx_logger.FanOutSink", "sinks": ["nosuch"]}},
                r"sink.sink.sinks\[0\]: no sink 'nosuch' is configured",
            ),
            ({"class": "mvx_logger.MemoryLogSink", "sink": "stderr"}, "sink.sink: MemoryLogSink has no such option"),
            (
                {"class": "mvx_logger.FilterSink", "sink": "stderr", "min_level": 50, "max_level": 10},
                "max_level: expected",
            ),
        ],
    )
    def test_wrong_ones(self, spec: Any, text: str) -> None:
        """The error says where and what would be right; nothing is made."""
        with pytest.raises(LogConfigurationError, match=text):
            plan_sink(spec)
        with pytest.raises(LogConfigurationError, match=text):
            resolve_sink(spec)
        assert not worker_threads()

    def test_module_that_fails_at_import(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What it raises is told, and what it imports in vain."""
        (tmp_path / "fails_at_import.py").write_text("raise ValueError('at import')")
        (tmp_path / "imports_in_vain.py").write_text("import no_such_module_at_all")
        (tmp_path / "odd_module.py").write_text("def __getattr__(name):\n    raise RuntimeError('odd')")
        monkeypatch.syspath_prepend(str(tmp_path))
        for name, text in (
            ("fails_at_import.X", "ValueError: at import"),
            ("imports_in_vain.X", "No module named 'no_such_module_at_all'"),
            ("odd_module.X", "RuntimeError: odd"),
        ):
            with pytest.raises(LogConfigurationError, match=f"sink.class: '{name}' cannot be imported: {text}"):
                plan_sink({"class": name})


class TestAttachedSinks:
    """A sink may take others for its options, if it is annotated so: for dead letters, say."""

    def test_each_way_to_name_one(self, tmp_path: Path) -> None:
        """As any other sink; and where the class takes paths, what looks like one stays one."""
        configure_log_sink(name="known", sink_cls=MemoryLogSink)
        path = str(tmp_path / "x.jsonl")
        for spec, expected in (
            (AN_OBJECT, AN_OBJECT),
            ("known", get_log_sink("known")),
            ("memory:x", MemoryLogSink),
            ({"class": RECORDING, "place": "a"}, Recording),
            (
                {"class": MIRRORED, "mirror": {"class": MIRRORED, "mirror": "known", "place": "c"}, "place": "b"},
                Mirrored,
            ),
            ({"url": "memory:x", "max_events": 5}, MemoryLogSink),
            ({"class": "mvx_logger.FanOutSink", "sinks": ["known", AN_OBJECT]}, FanOutSink),
            (path, path),
            (Path(path), Path(path)),
            (None, None),
        ):
            lease = resolve_sink({"class": MIRRORED, "mirror": spec})
            mirror = lease.sink.mirror
            assert type(mirror) is expected if isinstance(expected, type) else mirror == expected, spec
            lease.end()
        lease = resolve_sink({"class": MIRRORED, "others": ["known", AN_OBJECT, "memory:x"]})
        assert [type(entry) for entry in lease.sink.others] == [MemoryLogSink] * 3
        assert lease.sink.others[1] is AN_OBJECT
        lease.end()

    def test_in_a_url(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A name, a path, another URL, several of them."""
        monkeypatch.setitem(config_module._SCHEMES, "mirrored", MIRRORED)
        configure_log_sink(name="known", sink_cls=MemoryLogSink)
        path = str(tmp_path / "x.jsonl")
        for query, expected in (("known", get_log_sink("known")), (path, path), ("memory%3Ax%3Fmax_events=5", None)):
            sink = sink_from_url(f"mirrored:?mirror={query}")
            assert sink.mirror == expected if expected is not None else sink.mirror.max_events == 5
            sink.close()
        sink = sink_from_url("mirrored:?others=known&others=memory:x")
        assert [type(entry) for entry in sink.others] == [MemoryLogSink] * 2
        sink.close()
        sink = sink_from_url("mirrored:?others=known")
        assert sink.others == [get_log_sink("known")]
        sink.close()

    def test_same_description_is_the_same_sink(self) -> None:
        """Both are shared, both end with the last share, and `stats()` knows both."""
        before = set(mvx_logger.stats())
        spec = {"class": MIRRORED, "place": "a", "mirror": {"class": RECORDING, "place": "b"}}
        first, second = resolve_sink(spec), resolve_sink(dict(spec))
        other = resolve_sink({**spec, "mirror": {"class": RECORDING, "place": "c"}})
        assert first.sink is second.sink
        assert other.sink is not first.sink
        assert {"mirrored:a", "mirrored:a#2", "recording:b", "recording:c"} <= set(mvx_logger.stats())
        other.end()
        first.release()
        assert first.sink.get_status().value == "running"
        assert first.sink.mirror.get_status().value == "running"
        second.end()
        assert first.sink.get_status().value == "stopped"
        wait_until(lambda: not worker_threads())
        assert set(mvx_logger.stats()) <= before

    def test_nothing_stays_where_it_cannot_be_made(self) -> None:
        """What was made for it ends again."""
        with pytest.raises(LogSinkCreateError, match="no such place"):
            resolve_sink({"class": MIRRORED, "fails": True, "mirror": {"class": RECORDING, "place": "a"}})
        wait_until(lambda: not worker_threads())

    @pytest.mark.parametrize(
        ("option", "value", "text"),
        [
            ("mirror", "nosuch", r"sink\.mirror: no sink 'nosuch' is configured .*; a path has a '/' or a '\.' in it"),
            ("mirror", "nosuch:", r"sink\.mirror: no sink for URLs with the scheme 'nosuch'"),
            ("mirror", 5, r"sink\.mirror: int is no sink"),
            ("mirror", {"class": RECORDING, "number": "x"}, r"sink\.mirror\.number: expected int, got str"),
            ("mirror", {"class": MIRRORED, "mirror": {}}, r"sink\.mirror\.mirror: a sink needs either"),
            ("others", ["memory:", "a.b"], r"sink\.others\[1\]: no sink 'a\.b' is configured"),
            ("others", 5, r"sink\.others: expected a list of sinks, got int"),
            ("nosuch", "memory:", r"sink\.nosuch: Mirrored has no such option"),
        ],
    )
    def test_wrong_ones(self, option: str, value: Any, text: str) -> None:
        """The error says where and what would be right; nothing is made."""
        with pytest.raises(LogConfigurationError, match=text):
            resolve_sink({"class": MIRRORED, option: value})
        assert not worker_threads()

    def test_no_secret_in_the_descriptor(self) -> None:
        """It tells apart and hides, as for a sink without others."""
        spec = {"class": MIRRORED, "password": "Zq7x", "mirror": "memory:x"}
        descriptor = plan_sink(spec).descriptor
        assert descriptor is not None
        assert "Zq7x" not in repr(descriptor)
        assert "memory:x" in repr(descriptor)
        assert descriptor == plan_sink(dict(spec)).descriptor
        assert hash(descriptor) == hash(plan_sink(dict(spec)).descriptor)
        assert descriptor != plan_sink({**spec, "mirror": "memory:y"}).descriptor
        assert descriptor != plan_sink({**spec, "password": "other"}).descriptor

    def test_in_a_whole_configuration(self, tmp_path: Path) -> None:
        """In any order, by name; again changes nothing; a change of the one makes the other anew."""
        source = {
            "sinks": {
                "main": {"class": MIRRORED, "mirror": "spare"},
                "spare": {"class": RECORDING, "place": "spare"},
                "third": {"class": MIRRORED, "place": "3", "mirror": str(tmp_path / "dead.jsonl")},
            },
            "root": {"log_sink": {"class": MIRRORED, "place": "root", "mirror": {"class": RECORDING, "place": "r"}}},
        }
        configure(source)
        before = state()
        main, spare = get_log_sink("main"), get_log_sink("spare")
        assert main.mirror is spare
        assert get_log_sink("third").mirror == str(tmp_path / "dead.jsonl")
        assert get_root_log_context().log_sink.mirror.place == "r"
        configure(json.loads(json.dumps(source)))
        assert state() == before
        source["sinks"]["spare"]["place"] = "elsewhere"
        configure(source)
        assert get_log_sink("spare").place == "elsewhere"
        assert get_log_sink("main") is not main
        assert get_log_sink("main").mirror is get_log_sink("spare")
        wait_until(lambda: main.get_status().value == spare.get_status().value == "stopped")

    def test_a_ring(self) -> None:
        """Two sinks cannot be each other's."""
        with pytest.raises(LogConfigurationError, match=r"sinks\.a: refers to itself: a -> b -> a"):
            configure({"sinks": {"a": {"class": MIRRORED, "mirror": "b"}, "b": {"class": MIRRORED, "others": ["a"]}}})
        # An option that is no sink may have the same name as one.
        configure({"sinks": {"a": {"class": MIRRORED, "place": "a", "namespace": "a"}}})

    def test_in_dict_config(self) -> None:
        """A handler's sink has options like any other."""
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "handlers": {
                    "pipeline": {
                        "class": "mvx_logger.SinkHandler",
                        "sink": {"class": MIRRORED, "place": "a", "mirror": {"class": RECORDING, "place": "b"}},
                    }
                },
                "root": {"handlers": ["pipeline"], "level": "INFO"},
            }
        )
        logging.getLogger("shop").info("sold")
        wait_until(lambda: Recording.arrived.get("a") == ["sold"])
        assert "b" in Recording.arrived

    def test_dead_letters_of_a_sink_from_a_url_end_with_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its close() ends both; a sink that was there before stays."""
        monkeypatch.setitem(config_module._SCHEMES, "lettered", "test_config.Lettered")
        monkeypatch.setitem(config_module._SCHEMES, "recording", RECORDING)
        sink = sink_from_url("lettered:?dead_letter=recording:%3Fplace=a")
        sink.log(make_event("given up"))
        (thread,) = worker_threads()
        sink.close()
        thread.join(TIMEOUT)
        assert Recording.arrived["a"] == ["given up"]
        assert not worker_threads()
        known = configure_log_sink(name="known", sink_cls=Recording, place="k")
        sink_from_url("lettered:?dead_letter=known").close()
        assert known.get_status().value == "running"
        path = tmp_path / "dead.jsonl"
        sink = sink_from_url(f"lettered:?dead_letter={path}")
        sink.log(make_event())
        assert isinstance(sink.letters[0], DeadLetterFile)
        assert len(path.read_text().splitlines()) == 1
        sink.close()


class TestConfigure:
    def test_everything_at_once(self) -> None:
        """Sinks, policies, processors, contexts and the standard library, forward references included."""
        configure(
            {
                "version": 1,
                "contexts": {
                    "shop.orders": {
                        "log_sink": "both",
                        "event_policy": "quiet",
                        "payload_processor": "short",
                        "min_level": "INFO",
                        "log_error_handling_policy": "ignore",
                    },
                    "shop": {"log_sink": {"class": RECORDING, "place": "shop"}},
                    "other": {
                        "event_policy": {"default_enabled": False},
                        "payload_processor": {"max_items": 2, "redact_keys": []},
                    },
                    "third": {"event_policy": "own", "payload_processor": "theirs"},
                },
                "root": {"log_sink": "memory:root", "min_level": 10},
                "sinks": {
                    "both": {"class": "mvx_logger.FanOutSink", "sinks": ["errors", "all"]},
                    "errors": {"class": "mvx_logger.FilterSink", "sink": "all", "min_level": "ERROR"},
                    "all": {"class": RECORDING, "place": "all"},
                    "thing": "ext://test_config.AN_OBJECT",
                },
                "policies": {
                    "quiet": {"rules": [{"action": "deny", "event_names": ["noise.*"]}]},
                    "own": {"class": "test_config.Denying", "names": ["secret"]},
                },
                "processors": {"short": {"max_str_len": 20}, "theirs": "ext://test_config.A_PROCESSOR"},
                "logging": {
                    "version": 1,
                    "handlers": {"pipeline": {"class": "mvx_logger.LogContextHandler"}},
                    "loggers": {"shop": {"handlers": ["pipeline"], "level": "DEBUG", "propagate": False}},
                },
            }
        )
        assert get_configured_log_sink_names() == ("stderr", "all", "errors", "both", "thing")
        assert get_log_sink("thing") is AN_OBJECT
        orders = get_log_context("shop.orders")
        assert orders.min_level == 20
        assert orders.log_error_handling_policy is LogErrorHandlingPolicy.IGNORE
        assert isinstance(orders.event_policy, PatternLogEventPolicy)
        orders.log_info_event("order.created", {"text": "x" * 30})
        orders.log_error_event("order.failed")
        orders.log_info_event("noise.1")
        orders.log_debug_event("debug")
        logging.getLogger("shop.basket").debug("filled")
        other = get_log_context("other")
        other.log_error_event("denied")
        assert get_log_context("third").payload_processor is A_PROCESSOR
        assert isinstance(get_log_context("third").event_policy, Denying)
        get_root_log_context().log_info_event("at the root")
        assert mvx_logger.flush(TIMEOUT)
        assert Recording.arrived == {"all": ["order.created", "order.failed", "order.failed"], "shop": ["filled"]}
        memory = get_root_log_context().log_sink
        assert isinstance(memory, MemoryLogSink)
        assert [event.meta.event_name for event in memory.events] == ["at the root"]

    CONFIG: ClassVar[dict[str, Any]] = {
        "sinks": {
            "main": {"class": RECORDING, "place": "main", "number": 3},
            "errors": {"class": "mvx_logger.FilterSink", "sink": "main", "min_level": 40},
            "store": "sqlite:///events.db?queue_max_size=500",
        },
        "policies": {"quiet": {"rules": [{"action": "deny", "event_names": ["noise"]}]}},
        "processors": {"short": {"max_str_len": 20}},
        "root": {"log_sink": "errors"},
        "contexts": {
            "shop": {"log_sink": "main", "event_policy": "quiet", "payload_processor": "short", "min_level": 20}
        },
    }

    TOML = """
        sinks.store = "sqlite:///events.db?queue_max_size=500"
        [sinks.main]
        class = "test_config.Recording"
        place = "main"
        number = 3
        [sinks.errors]
        class = "mvx_logger.FilterSink"
        sink = "main"
        min_level = 40
        [policies.quiet]
        rules = [{action = "deny", event_names = ["noise"]}]
        [processors.short]
        max_str_len = 20
        [root]
        log_sink = "errors"
        [contexts.shop]
        log_sink = "main"
        event_policy = "quiet"
        payload_processor = "short"
        min_level = 20
    """

    YAML = """
        sinks:
          main: {class: test_config.Recording, place: main, number: 3}
          errors: {class: mvx_logger.FilterSink, sink: main, min_level: 40}
          store: "sqlite:///events.db?queue_max_size=500"
        policies:
          quiet: {rules: [{action: deny, event_names: [noise]}]}
        processors:
          short: {max_str_len: 20}
        root: {log_sink: errors}
        contexts:
          shop: {log_sink: main, event_policy: quiet, payload_processor: short, min_level: 20}
    """

    def test_files_say_the_same_as_mappings(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """TOML, JSON and YAML: what one has made the others leave as it is."""
        import textwrap

        monkeypatch.chdir(tmp_path)
        (tmp_path / "config.toml").write_text(textwrap.dedent(self.TOML))
        (tmp_path / "config.json").write_text(json.dumps(self.CONFIG))
        (tmp_path / "config.yaml").write_text(textwrap.dedent(self.YAML))
        (tmp_path / "config.YML").write_text(textwrap.dedent(self.YAML))
        configure(self.CONFIG)
        before = {name: get_log_sink(name) for name in get_configured_log_sink_names()}
        for name in ("config.toml", "config.json", "config.yaml", "config.YML"):
            assert load_configuration(name) == self.CONFIG
            configure(tmp_path / name if name.endswith("json") else name)
            assert {name: get_log_sink(name) for name in get_configured_log_sink_names()} == before
        assert Recording.made == 1

    @pytest.mark.parametrize(
        ("name", "content", "text"),
        [
            ("config.ini", "", r"config.ini: .ini: expected a file that ends in .toml, .json, .yaml, .yml"),
            ("config", "", "config: no suffix: expected a file"),
            ("config.toml", "a = ", "config.toml: cannot be parsed: Invalid value"),
            ("config.json", "{", "config.json: cannot be parsed: Expecting property name"),
            ("config.json", "[" * 100_000, "config.json: cannot be parsed: "),
            ("config.json", "[]", "config.json: expected a mapping at the top, got list"),
            ("config.yaml", "a: [", "config.yaml: cannot be parsed: "),
            ("config.yaml", "", "config.yaml: expected a mapping at the top, got NoneType"),
            ("config.json", b"\xff\xfe{", "config.json: cannot be parsed: .*utf-8"),
            ("config.toml", None, "config.toml: cannot be read: No such file or directory"),
        ],
    )
    def test_files_that_are_wrong(self, tmp_path: Path, name: str, content: str | bytes | None, text: str) -> None:
        """The error names the file."""
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            path.write_text(content)
        with pytest.raises(LogConfigurationError, match=text):
            configure(path)
        with pytest.raises(LogConfigurationError, match=text):
            configure(str(path))

    def test_yaml_without_its_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error names what to install."""
        monkeypatch.setitem(sys.modules, "yaml", None)
        (tmp_path / "config.yaml").write_text("{}")
        with pytest.raises(LogConfigurationError, match=r"pip install 'mvx-logger\[yaml\]'"):
            configure(tmp_path / "config.yaml")

    @pytest.mark.parametrize("source", [5, None, ["a"], b"config.toml"])
    def test_source_that_is_neither(self, source: Any) -> None:
        """It is a TypeError."""
        with pytest.raises(TypeError, match="source: expected a mapping or the path of a file, got"):
            configure(source)
        with pytest.raises(TypeError, match="source: expected a mapping, got"):
            plan_configuration(source)

    def test_empty_configuration(self) -> None:
        """It changes nothing."""
        before = state()
        configure({})
        assert state() == before


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"sinkz": {}}, "sinkz: there is no such section; did you mean 'sinks'"),
    (
        {"x": {}},
        "x: there is no such section; there are: version, sinks, policies, processors, root, contexts, structlog, logging",
    ),
    ({"version": 2}, "version: expected 1, got 2"),
    ({"version": "1"}, "version: expected 1, got '1'"),
    ({"version": True}, "version: expected 1, got True"),
    ({"sinks": []}, "sinks: expected a mapping, got list"),
    ({"sinks": None}, "sinks: expected a mapping, got NoneType"),
    ({"sinks": {"no good": "memory:"}}, "sinks.no good: name: 'no good' is malformed"),
    ({"sinks": {"5": "memory:"}}, "sinks.5: name: '5' is malformed"),
    ({"sinks": {5: "memory:"}}, "sinks.5: name: '5' is malformed"),
    ({"sinks": {"a": "b"}}, "sinks.a: 'b' is no URL; use one, or a mapping"),
    ({"sinks": {"a": 5}}, "sinks.a: int is no sink"),
    ({"sinks": {"a": {"class": RECORDING, "number": "x"}}}, "sinks.a.number: expected int, got str"),
    (
        {"sinks": {"a": {"class": RECORDING, "queue_max_size": None}}},
        "sinks.a.queue_max_size: expected int, got None",
    ),
    (
        {"sinks": {"a": {"class": RECORDING, "queue_overflow_policy": "dorp"}}},
        "sinks.a.queue_overflow_policy: expected one of 'drop', 'drop_oldest', 'block', 'raise",
    ),
    ({"sinks": {"a": {"class": "mvx_logger.FilterSink", "sink": "a"}}}, "sinks.a: refers to itself: a -> a"),
    (
        {
            "sinks": {
                "a": {"class": "mvx_logger.FilterSink", "sink": "b"},
                "b": {
                    "class": "mvx_logger.FanOutSink",
                    "sinks": ["memory:", {"class": "mvx_logger.FilterSink", "sink": "c"}],
                },
                "c": {"class": "mvx_logger.FilterSink", "sink": "b"},
            }
        },
        "sinks.b: refers to itself: b -> c -> b",
    ),
    (
        {"sinks": {"a": {"class": "mvx_logger.FilterSink", "sink": "nosuch"}}},
        r"sinks.a.sink: no sink 'nosuch' is config",
    ),
    (
        {"sinks": {"a": "ext://no_such.thing"}},
        "sinks.a: 'no_such.thing' cannot be imported: there is no module 'no_such'",
    ),
    ({"policies": 5}, "policies: expected a mapping, got int"),
    ({"policies": {"p": 5}}, "policies.p: expected the name of a policy or a mapping, got int"),
    ({"policies": {"p": "q"}}, "policies.p: 'q' is not in 'policies'; there are: none"),
    ({"policies": {"p": {"rulez": []}}}, "policies.p.rulez: "),
    ({"policies": {"p": {"rules": [{"action": "deny"}, {"action": "dney"}]}}}, r"policies.p.rules\[1\].action: "),
    ({"policies": {"p": {"rules": [{"event_names": ["x"]}]}}}, r"policies.p.rules\[0\].action: missing"),
    (
        {"policies": {"p": {"class": "test_config.Denying", "x": 1}}},
        "policies.p: TypeError: .*unexpected keyword argument",
    ),
    ({"policies": {"p": {"class": "test_config.Plain"}}}, "policies.p.class: Plain is not an event policy"),
    ({"policies": {"p": {"class": 5}}}, "policies.p.class: expected a dotted name or a callable, got int"),
    ({"processors": {"p": 5}}, "processors.p: expected the name of a processor or a mapping, got int"),
    ({"processors": {"p": {"max_items": "x"}}}, r"processors.p.max_items: expected int"),
    (
        {"processors": {"p": {"max_itemz": 1}}},
        "processors.p.max_itemz: LogPayloadProcessor has no such option; did you mean",
    ),
    ({"processors": {"p": {"max_items": -1}}}, "processors.p.max_items: "),
    ({"processors": {"p": {"class": "test_config.Denying"}}}, "processors.p.class: Denying is not a payload processor"),
    ({"root": 5}, "root: expected a mapping, got int"),
    ({"root": {"sink": "x"}}, "root.sink: there is no such field; did you mean 'log_sink'"),
    ({"root": {"log_sink": "nosuch"}}, "root.log_sink: no sink 'nosuch' is configured"),
    ({"contexts": {"": {}}}, "contexts.: namespace: '' is malformed"),
    ({"contexts": {"a..b": {}}}, "contexts.a..b: namespace: 'a..b' is malformed"),
    ({"contexts": {"a": 5}}, "contexts.a: expected a mapping, got int"),
    ({"contexts": {"a": None}}, "contexts.a: expected a mapping, got NoneType"),
    (
        {"contexts": {"a.b": {"min_level": "LOUD"}}},
        "contexts.a.b.min_level: 'LOUD' is not a level; use a number or one of",
    ),
    ({"contexts": {"a.b": {"min_level": 1.5}}}, r"contexts.a.b.min_level: expected int or str"),
    ({"contexts": {"a": {"min_level": True}}}, "contexts.a.min_level: "),
    (
        {"contexts": {"a": {"event_policy": "nosuch"}}},
        "contexts.a.event_policy: 'nosuch' is not in 'policies'; there are: ok",
    ),
    ({"contexts": {"a": {"payload_processor": "x"}}}, "contexts.a.payload_processor: 'x' is not in 'processors'"),
    (
        {"contexts": {"a": {"log_error_handling_policy": "loud"}}},
        "contexts.a.log_error_handling_policy: expected one of 'ignore', 'print_stderr', 'raise', got 'loud'",
    ),
    (
        {"contexts": {"a": {"log_sink": {"url": "memory:?x=1"}}}},
        "contexts.a.log_sink.x: MemoryLogSink has no such option",
    ),
    ({"logging": 5}, "logging: expected a mapping, got int"),
    ({"logging": {}}, "logging.version: has to be 1"),
    ({"logging": {"version": 1, "handlers": 5}}, "logging.handlers: expected a mapping, got int"),
    ({"logging": {"version": 1, "handlers": {"h": 5}}}, "logging.handlers.h: expected a mapping, got int"),
    ({"logging": {"version": 1, "handlers": {"h": {}}}}, r'logging.handlers.h: a handler needs "class" or "\(\)"'),
    (
        {"logging": {"version": 1, "handlers": {"h": {"class": "logging.NoHandler"}}}},
        "logging.handlers.h.class: 'logging.NoHandler' cannot be imported",
    ),
    (
        {"logging": {"version": 1, "handlers": {"h": {"class": "logging.NullHandler", "level": "LOUD"}}}},
        "logging.handlers.h.level: 'LOUD' is not a level",
    ),
    (
        {"logging": {"version": 1, "handlers": {"h": {"class": "logging.NullHandler", "formatter": "f"}}}},
        "logging.handlers.h.formatter: 'f' is not defined; there are: none",
    ),
    (
        {
            "logging": {
                "version": 1,
                "handlers": {"h": {"class": "logging.NullHandler", "filters": ["f"]}},
                "filters": {"g": {}},
            }
        },
        "logging.handlers.h.filters: 'f' is not defined; there are: g",
    ),
    (
        {"logging": {"version": 1, "handlers": {"h": {"class": "mvx_logger.SinkHandler", "sink": "nosuch"}}}},
        "logging.handlers.h.sink: no sink 'nosuch' is configured",
    ),
    (
        {"logging": {"version": 1, "handlers": {"h": {"class": "mvx_logger.SinkHandler", "sink": "sqlite:///x?y=1"}}}},
        "logging.handlers.h.sink.y: SqliteLogSink has no such option",
    ),
    ({"logging": {"version": 1, "loggers": {"l": 5}}}, "logging.loggers.l: expected a mapping, got int"),
    (
        {"logging": {"version": 1, "loggers": {"l": {"handlers": ["h"]}}}},
        "logging.loggers.l.handlers: 'h' is not defined",
    ),
    (
        {"logging": {"version": 1, "loggers": {"l": {"level": "LOUD"}}}},
        "logging.loggers.l.level: 'LOUD' is not a level",
    ),
    ({"logging": {"version": 1, "root": {"handlers": ["h"]}}}, "logging.root.handlers: 'h' is not defined"),
    (
        {"logging": {"version": 1, "formatters": {"f": {"format": "%(nosuch"}}, "handlers": {}}},
        "logging: Unable to configure formatter 'f'",
    ),
    (
        {
            "logging": {
                "version": 1,
                "handlers": {"h": {"class": "logging.FileHandler", "filename": "/nonexistent/x", "delay": False}},
                "root": {"handlers": ["h"], "level": "CRITICAL"},
            }
        },
        "logging: Unable to configure handler 'h'.*(No such file|Cannot resolve)",
    ),
]


class TestAllOrNothing:
    FIRST: ClassVar[dict[str, Any]] = {
        "sinks": {"main": {"class": RECORDING, "place": "first"}, "old": "memory:old"},
        "root": {"log_sink": "main", "min_level": 5},
        "contexts": {"shop": {"log_sink": "old", "event_policy": {"default_enabled": False}}},
        "logging": {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"pipeline": {"class": "mvx_logger.SinkHandler", "sink": "main", "level": "INFO"}},
            "loggers": {"tests.config": {"handlers": ["pipeline"], "level": "WARNING", "propagate": False}},
        },
    }

    def test_a_handler_that_is_collected_meanwhile(self) -> None:
        """`logging` refers to handlers weakly: one that nobody else has may go at any moment."""
        alive = []

        class Name(str):
            def __hash__(self) -> int:  # whoever looks the handler up comes too late
                alive.clear()
                return super().__hash__()

        handler = logging.Handler()
        logging._handlers[Name("gone")] = handler  # type: ignore[attr-defined]
        alive.append(handler)
        del handler
        configure(self.FIRST)
        assert not alive

    @pytest.mark.parametrize(("wrong", "text"), WRONG, ids=[text[:40] for _, text in WRONG])
    def test_wrong_last_item_changes_nothing(self, wrong: dict[str, Any], text: str) -> None:
        """Sinks, contexts, the standard library's loggers, threads: all is as before."""
        configure(self.FIRST)
        before = state()
        config: dict[str, Any] = {
            "sinks": {"main": {"class": RECORDING, "place": "second"}, "new": {"class": RECORDING, "place": "new"}},
            "policies": {"ok": {"default_enabled": True}},
            "contexts": {"shop": {"log_sink": "new"}, "other": {"min_level": 30}},
            "root": {"log_sink": "new"},
        }
        for key, value in wrong.items():
            given = config.pop(key, {})
            config[key] = {**given, **value} if isinstance(value, dict) and isinstance(given, dict) else value
        with pytest.raises(LogConfigurationError, match=text) as caught:
            configure(config)
        assert caught.value.details["path"]
        wait_until(lambda: state()[5] == before[5])
        assert state() == before
        logging.getLogger("tests.config").warning("still there")
        get_root_log_context().log_info_event("and here")
        assert mvx_logger.flush(TIMEOUT)
        assert Recording.arrived["first"] == ["still there", "and here"]
        assert not has_log_context("other")

    def test_sink_that_cannot_be_made_changes_nothing(self) -> None:
        """Also those that were made before it end again."""
        configure(self.FIRST)
        before = state()
        with pytest.raises(LogSinkCreateError, match="no such place"):
            configure(
                {
                    "sinks": {
                        "new": {"class": RECORDING, "place": "new"},
                        "whole": {
                            "class": "mvx_logger.FanOutSink",
                            "sinks": [{"class": RECORDING, "place": "part"}, "new"],
                        },
                    },
                    "contexts": {
                        "shop": {"log_sink": {"class": RECORDING, "place": "inline"}},
                        "broken": {"log_sink": {"class": RECORDING, "fails": True}},
                    },
                }
            )
        assert set(Recording.arrived) == {"first", "new", "part", "inline"}
        wait_until(lambda: state()[5] == before[5])
        assert state() == before

    def test_handlers_that_dictconfig_took_down_work_again(self, tmp_path: Path) -> None:
        """When the standard library fails half-way: levels, formatters, names, `logging.shutdown`, new loggers."""
        path = tmp_path / "stock.log"
        stock = logging.FileHandler(path)
        stock.set_name("stock")
        stock.setLevel("WARNING")
        mine = logging.getLogger("tests.stock")
        mine.addHandler(stock)
        formatter = logging.Formatter("%(message)s!")
        stock.setFormatter(formatter)
        try:
            configure(self.FIRST)
            logging._handlers["stock"] = stock  # type: ignore[attr-defined]
            before = state()
            with pytest.raises(LogConfigurationError):
                configure(
                    {
                        "logging": {
                            "version": 1,
                            "handlers": {"stderr": {"class": "logging.StreamHandler"}},
                            "loggers": {
                                "tests.config.brand_new": {"handlers": ["stderr"], "level": "ERROR"},
                                "tests.stock": {"handlers": ["stderr"], "filters": [5]},
                            },
                        }
                    }
                )
            brand_new = logging.getLogger("tests.config.brand_new")
            assert (brand_new.level, brand_new.handlers) == (0, [])
            del brand_new.manager.loggerDict["tests.config.brand_new"]
            assert state() == before
            with pytest.raises(LogConfigurationError):
                configure(
                    {
                        "logging": {
                            "version": 1,
                            "incremental": True,
                            "handlers": {"stock": {"level": "CRITICAL"}},
                            "loggers": {"tests.stock": {"level": "DEBUG", "propagate": 5}, "x": {"level": "NO"}},
                        }
                    }
                )
            assert (stock.level, stock.formatter) == (30, formatter)
            mine.warning("again")
            assert path.read_text() == "again!\n"
        finally:
            mine.removeHandler(stock)
            stock.close()

    def test_interrupted_configuration_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ctrl-C in the midst of it."""
        configure(self.FIRST)
        before = state()

        def interrupt(*args: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("logging.config.dictConfig", interrupt)
        with pytest.raises(KeyboardInterrupt):
            configure({"sinks": {"main": "memory:"}, "root": {"log_sink": "main"}, "logging": {"version": 1}})
        assert state() == before

    def test_planning_makes_nothing(self) -> None:
        """A plan can be looked at."""
        before = state()
        plan = plan_configuration(self.FIRST)
        assert list(plan.sinks) == ["main", "old"]
        assert [context.namespace for context in plan.contexts] == ["", "shop"]
        assert plan.sinks["main"].descriptor == LogSinkDescriptor("recording", ("first",), (("place", "first"),))
        assert plan.logging is not None
        assert state() == before
        assert Recording.made == 0


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 100)
    | st.floats(allow_nan=True)
    | st.sampled_from(
        ["memory:", "stderr", "a", "b", "INFO", "drop", "nosuch:", "sqlite://[", "ext://os.sep", "deny", ""]
    )
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "class",
                    "url",
                    "sink",
                    "sinks",
                    "log_sink",
                    "min_level",
                    "rules",
                    "action",
                    "handlers",
                    "version",
                    "a",
                    "x y",
                ]
            )
            | st.text(max_size=4),
            inner
            | st.sampled_from(
                [
                    "mvx_logger.MemoryLogSink",
                    "mvx_logger.FanOutSink",
                    "mvx_logger.FilterSink",
                    "logging.NullHandler",
                    "test_config.Denying",
                ]
            ),
            max_size=4,
        )
    ),
    max_leaves=12,
)
junk_configs = st.dictionaries(
    st.sampled_from(["version", "sinks", "policies", "processors", "root", "contexts", "logging", "junk"]),
    json_values | st.dictionaries(st.sampled_from(["a", "b", "a.b", "c d", "version"]), json_values, max_size=3),
    max_size=4,
)


class TestJunk:
    @settings(max_examples=often(150), deadline=None)
    @given(junk_configs)
    def test_junk_is_refused_with_one_kind_of_error_and_changes_nothing(self, config: Any) -> None:
        """Whatever is wrong: a LogConfigurationError that names a path, or a TypeError."""
        before = state()
        try:
            configure(config)
        except (LogConfigurationError, TypeError):
            assert state() == before
        else:
            configure({})
            reset_logger()
            root = logging.getLogger()
            root.handlers.clear()
            root.setLevel("WARNING")

    @settings(max_examples=often(120), deadline=None)
    @given(json_values)
    def test_junk_as_a_sink(self, spec: Any) -> None:
        """Likewise."""
        try:
            plan_sink(spec)
        except (LogConfigurationError, TypeError):
            pass

    @settings(max_examples=often(120), deadline=None)
    @given(
        st.text(alphabet="smefilqt:/?#[]@&=%.,0 é\n", max_size=25), st.sampled_from(["", "file:", "memory:", "sqlite:"])
    )
    def test_junk_as_a_url(self, url: str, scheme: str) -> None:
        """Likewise."""
        try:
            plan_sink({"url": scheme + url})
        except LogConfigurationError:
            pass

    def test_configuration_that_contains_itself(self) -> None:
        """YAML can make one."""
        loop: dict[str, Any] = {}
        loop["sinks"] = {"a": loop}
        with pytest.raises(LogConfigurationError, match="nested too deeply, or contains itself"):
            configure(loop)
        section: dict[str, Any] = {"version": 1}
        section["handlers"] = {"h": [section]}
        with pytest.raises(LogConfigurationError, match="nested too deeply, or contains itself"):
            configure({"logging": section})


class TestAgain:
    def test_same_configuration_again_changes_nothing(self, tmp_path: Path) -> None:
        """The same sinks, the same threads; nothing is made anew."""
        config = {
            "sinks": {
                "main": {"class": RECORDING, "place": "main"},
                "file": f"file:{tmp_path}/x.log",
                "both": {"class": "mvx_logger.FanOutSink", "sinks": ["main", {"class": RECORDING, "place": "part"}]},
                "thing": AN_OBJECT,
            },
            "root": {"log_sink": "both"},
            "contexts": {
                "a": {"log_sink": {"class": RECORDING, "place": "inline"}},
                "b": {"log_sink": {"class": "mvx_logger.FilterSink", "sink": "main", "min_level": 30}},
                "c": {"log_sink": {"class": RECORDING, "place": "inline"}},
            },
        }
        configure(config)
        sinks = [get_log_context(name).log_sink for name in ("", "a", "b", "c")]
        before = state()
        for _ in range(3):
            configure(config)
            assert state() == before
            assert [get_log_context(name).log_sink for name in ("", "a", "b", "c")] == sinks
        assert sinks[1] is sinks[3]
        assert Recording.made == 3

    def test_logging_section_again(self) -> None:
        """The handlers are new, as dictConfig has it; what they lead to is not."""
        config = {
            "logging": {
                "version": 1,
                "handlers": {
                    "h": {"class": "mvx_logger.SinkHandler", "sink": {"class": RECORDING, "place": "handler"}}
                },
                "loggers": {"tests.config": {"handlers": ["h"], "level": "DEBUG"}},
            }
        }
        for number in range(3):
            configure(config)
            logging.getLogger("tests.config").debug("%d", number)
        assert mvx_logger.flush(TIMEOUT)
        assert Recording.arrived["handler"] == ["%d"] * 3
        assert Recording.made == 1
        for handler in logging.getLogger("tests.config").handlers[:]:
            logging.getLogger("tests.config").removeHandler(handler)
            handler.close()

    def test_changed_sink_is_replaced_and_the_old_one_drains(self) -> None:
        """What the old one had accepted arrives; who refers to the name gets the new one; others stay."""
        config: dict[str, Any] = {
            "sinks": {
                "main": {"class": RECORDING, "place": "one", "batch_max_age": 3600.0},
                "filter": {"class": "mvx_logger.FilterSink", "sink": "main"},
                "nested": {
                    "class": "mvx_logger.FanOutSink",
                    "sinks": [{"class": "mvx_logger.FilterSink", "sink": "main"}],
                },
                "stays": {"class": RECORDING, "place": "stays"},
            },
            "contexts": {
                "a": {"log_sink": "filter"},
                "b": {"log_sink": {"class": "mvx_logger.FilterSink", "sink": "nested"}},
            },
        }
        configure(config)
        old, stays = get_log_sink("main"), get_log_sink("stays")
        for name in ("a", "b"):
            get_log_context(name).log_info_event(f"{name} before")
        get_log_context("a").log_info_event("a late")
        config["sinks"]["main"] = {"class": RECORDING, "place": "two"}
        configure(config)
        for name in ("a", "b"):
            get_log_context(name).log_info_event(f"{name} after")
        wait_until(lambda: old.get_status().value == "stopped")
        assert mvx_logger.flush(TIMEOUT)
        assert get_log_sink("stays") is stays
        assert Recording.arrived["one"] == ["a before", "b before", "a late"]
        assert Recording.arrived["two"] == ["a after", "b after"]
        assert Recording.made == 3

    def test_what_is_no_longer_named_ends_and_inherits(self) -> None:
        """Sinks drain and end; contexts stay for those who hold them, and inherit; the root is as at the start."""
        start = get_root_log_context()._get_settings()
        mine = configure_log_context("mine", min_level=40)
        mine_sink = configure_log_sink(name="mine", sink_cls=MemoryLogSink)
        configure(
            {
                "sinks": {"main": {"class": RECORDING, "place": "main"}, "stderr": "memory:instead"},
                "root": {
                    "log_sink": "main",
                    "min_level": 30,
                    "payload_processor": {"max_items": 1},
                    "event_policy": {"default_enabled": False},
                    "log_error_handling_policy": "raise",
                },
                "contexts": {"a": {"log_sink": "stderr", "min_level": 10, "event_policy": {}}},
            }
        )
        context, main = get_log_context("a"), get_log_sink("main")
        assert isinstance(get_log_sink("stderr"), MemoryLogSink)
        configure({"sinks": {"other": "memory:other"}, "contexts": {"b": {"log_sink": "other"}}})
        assert get_configured_log_sink_names() == ("mine", "other", "stderr")
        assert get_log_sink("mine") is mine_sink
        assert mine.min_level == 40
        wait_until(lambda: main.get_status().value == "stopped")
        root = get_root_log_context()
        assert root.log_sink is get_log_sink("stderr")
        assert isinstance(root.log_sink, StreamLogSink)
        assert root.min_level == 0
        assert root.log_error_handling_policy is LogErrorHandlingPolicy.PRINT_STDERR
        assert root.event_policy is None
        assert isinstance(root.payload_processor, LogPayloadProcessor)
        assert root.payload_processor is not start["payload_processor"]
        assert get_log_context("a") is context
        assert context.get_local_log_sink() is None
        assert (context.log_sink, context.min_level, context.event_policy) == (root.log_sink, 0, None)
        configure({})
        assert get_configured_log_sink_names() == ("mine", "stderr")
        assert get_log_context("b").get_local_log_sink() is None

    def test_root_that_is_given_less_than_before(self) -> None:
        """What an earlier call had given it is as at the start; what the program gave it by hand stays."""
        root = get_root_log_context()
        configure({"sinks": {"main": "memory:"}, "root": {"log_sink": "main", "payload_processor": {}}})
        configure({"sinks": {"main": "memory:"}, "root": {"min_level": 20}})
        assert isinstance(root.log_sink, StreamLogSink)
        by_hand = MemoryLogSink()
        root.set_log_sink(by_hand)
        configure({"root": {"min_level": 30}})
        assert (root.log_sink, root.min_level) == (by_hand, 30)
        configure({})
        assert (root.log_sink, root.min_level) == (by_hand, 0)

    def test_name_that_is_about_to_go_cannot_be_referred_to(self) -> None:
        """Neither by a context, nor by a sink, nor by a handler."""
        configure({"sinks": {"main": {"class": RECORDING}}})
        before = state()
        for config in (
            {"contexts": {"a": {"log_sink": "main"}}},
            {"sinks": {"b": {"class": "mvx_logger.FilterSink", "sink": "main"}}},
            {"logging": {"version": 1, "handlers": {"h": {"class": "mvx_logger.SinkHandler", "sink": "main"}}}},
        ):
            with pytest.raises(LogConfigurationError, match="no sink 'main' is configured"):
                configure(config)
        assert state() == before

    def test_sink_that_the_program_has_registered_itself(self) -> None:
        """It can be named; one with the same description is taken as it is, and stays when it is no longer named."""
        mine = configure_log_sink(name="mine", sink_cls=Recording, place="mine")
        configure(
            {
                "sinks": {"mine": {"class": RECORDING, "place": "mine"}},
                "contexts": {"a": {"log_sink": "mine"}},
            }
        )
        assert get_log_sink("mine") is mine
        configure({"contexts": {"a": {"log_sink": "mine"}}})
        configure({})
        assert get_log_sink("mine") is mine
        assert mine.get_status().value == "running"

    def test_object_stays_its_owners(self) -> None:
        """A sink object that was given is not ended when it is no longer named."""
        sink, close = Recording.create(place="mine")
        configure({"sinks": {"mine": sink}, "contexts": {"a": {"log_sink": "mine"}, "b": {"log_sink": sink}}})
        assert get_log_context("b").log_sink is sink
        configure({})
        assert sink.get_status().value == "running"
        close()

    def test_shared_sink_goes_on_for_the_others(self) -> None:
        """A handler with the same description keeps it."""
        spec = {"class": RECORDING, "place": "shared"}
        lease = resolve_sink(spec)
        configure({"sinks": {"main": spec}, "contexts": {"a": {"log_sink": spec}}})
        assert get_log_sink("main") is lease.sink is get_log_context("a").log_sink
        configure({})
        assert lease.sink.get_status().value == "running"
        lease.sink.log(make_event("still"))
        lease.end()
        assert Recording.arrived["shared"] == ["still"]

    def test_sink_that_was_closed_by_hand_is_made_again(self) -> None:
        """With what is made of it."""
        config = {
            "sinks": {
                "main": {"class": RECORDING, "place": "main"},
                "both": {"class": "mvx_logger.FanOutSink", "sinks": ["main", "memory:"]},
            },
            "root": {"log_sink": "both"},
        }
        configure(config)
        first = get_log_sink("main")
        mvx_logger.close_log_sink("main")
        assert first.get_status().value == "stopped"
        configure(config)
        get_root_log_context().log_info_event("0")
        assert mvx_logger.flush(TIMEOUT)
        assert get_log_sink("main").stats().delivered == 1
        assert first.stats().accepted == 0

    def test_reset_forgets_what_was_configured(self) -> None:
        """What the program makes afterwards under the same names is its own."""
        configure(
            {
                "sinks": {"main": {"class": RECORDING, "place": "main"}},
                "root": {"log_sink": "main"},
                "contexts": {"a": {"log_sink": {"class": RECORDING, "place": "inline"}}},
            }
        )
        reset_logger()
        assert not worker_threads()
        mine = configure_log_sink(name="main", sink_cls=MemoryLogSink)
        context = configure_log_context("a", log_sink=mine, min_level=7)
        root = get_root_log_context()
        root.set_log_sink(mine)
        configure({})
        assert get_log_sink("main") is mine
        assert (context.log_sink, context.min_level, root.log_sink) == (mine, 7, mine)

    def test_old_sink_that_fails_to_close_does_not_disturb(self) -> None:
        """It is reported; everything else is done."""

        class Failing(MemoryLogSink):
            def close(self) -> None:
                raise OSError("half closed")

        reports: list[Any] = []
        configure({"sinks": {"bad": {"class": Failing}, "good": {"class": RECORDING}}})
        good = get_log_sink("good")
        before = mvx_logger.selflog.redirect(reports.append)
        try:
            configure({})
        finally:
            mvx_logger.selflog.redirect(before)
        wait_until(lambda: good.get_status().value == "stopped")
        assert [report.kind for report in reports] == ["close"]
        assert get_configured_log_sink_names() == ("stderr",)


class TestUnderLoad:
    def test_nothing_accepted_is_lost_while_eight_threads_log(self) -> None:
        """Fifty reconfigurations, of sinks, contexts and handlers: every event arrives exactly once somewhere."""
        logger = logging.getLogger("tests.config.load")
        logger.propagate = False

        def config(number: int) -> dict[str, Any]:
            return {
                "sinks": {
                    "main": {
                        "class": RECORDING,
                        "place": f"place {number % 5}",
                        "number": number,
                        "queue_max_size": 100_000,
                    }
                },
                "root": {"log_sink": "main"},
                "contexts": {"load.a": {"log_sink": "main"}} if number % 2 else {},
                "logging": {
                    "version": 1,
                    "disable_existing_loggers": False,
                    "handlers": {"h": {"class": "mvx_logger.SinkHandler", "sink": "main"}},
                    "loggers": {"tests.config.load": {"handlers": ["h"], "level": "DEBUG", "propagate": False}},
                }
                if number % 10 == 9
                else None,
            }

        configure({**config(9)})
        context = configure_log_context("load.a")
        over = threading.Event()
        logged: list[list[str]] = [[] for _ in range(8)]

        def log_all(thread: int) -> None:
            number = 0
            while not over.is_set():
                name = f"{thread} {number}"
                if thread % 2:
                    context.log_info_event(name)
                else:
                    logger.info(name)
                logged[thread].append(name)
                number += 1
                over.wait(0.0005)

        threads = [threading.Thread(target=log_all, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for number in range(50):
            configure(config(number))
        over.set()
        for thread in threads:
            thread.join()
        wait_until(lambda: mvx_logger.flush(TIMEOUT) and len(worker_threads()) <= 1)
        arrived = [name for names in Recording.arrived.values() for name in names]
        # While dictConfig exchanges a logger's handlers, the logger has none: what it logs then reaches no handler.
        native = [name for thread in range(1, 8, 2) for name in logged[thread]]
        stdlib = {name for thread in range(0, 8, 2) for name in logged[thread]}
        assert sorted(name for name in arrived if name not in stdlib) == sorted(native)
        assert len(arrived) == len(set(arrived))
        assert len(native) > 100
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            handler.close()

    def test_configurations_from_several_threads_at_once(self) -> None:
        """One after the other; what stands at the end is one of them, whole."""
        errors: list[BaseException] = []

        def configure_all(thread: int) -> None:
            try:
                for number in range(15):
                    configure(
                        {
                            "sinks": {f"s{thread}": {"class": RECORDING, "place": f"{thread} {number % 2}"}},
                            "contexts": {f"c{thread}": {"log_sink": f"s{thread}"}},
                            "root": {"log_sink": f"s{thread}"},
                        }
                    )
            except BaseException as err:
                errors.append(err)

        threads = [threading.Thread(target=configure_all, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        names = [name for name in get_configured_log_sink_names() if name != "stderr"]
        assert len(names) == 1
        assert get_root_log_context().log_sink is get_log_sink(names[0])
        wait_until(lambda: len(worker_threads()) == 1)

    @pytest.mark.untraced  # a tracer has a lock of its own
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_child_can_be_configured_although_another_thread_was_at_it(self) -> None:
        """The lock of a thread that is not there does not hold it up."""
        over = threading.Event()

        def configure_all() -> None:
            number = 0
            while not over.is_set():
                configure({"sinks": {"main": f"memory:{number}"}})
                number += 1

        thread = threading.Thread(target=configure_all)
        thread.start()
        try:
            for _ in range(30):
                child = os.fork()
                if not child:
                    try:
                        signal.signal(signal.SIGALRM, signal.SIG_DFL)
                        signal.alarm(20)
                        configure({"sinks": {"child": "memory:child"}})
                        os._exit(0 if "child" in get_configured_log_sink_names() else 1)
                    finally:
                        os._exit(2)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            over.set()
            thread.join()


class TestErrors:
    def test_missing_sink_of_a_name_is_a_lookup_error(self) -> None:
        """Names are resolved when a sink is made, too."""
        configure({"sinks": {"main": "memory:"}})
        plan = plan_sink("main")
        configure({})
        with pytest.raises(LogSinkNotFoundError):
            plan.make()

    def test_mappings_of_any_kind_serve(self) -> None:
        """Not only dicts."""
        from types import MappingProxyType

        config: Mapping[str, Any] = MappingProxyType(
            {"sinks": MappingProxyType({"main": MappingProxyType({"class": RECORDING, "place": "proxy"})})}
        )
        configure(config)
        assert get_log_sink("main").place == "proxy"

    def test_classes_of_ones_own(self) -> None:
        """Policies and processors of any class that offers what it takes."""
        configure(
            {
                "processors": {"p": {"class": "mvx_logger.LogPayloadProcessor", "max_items": 1}},
                "contexts": {"a": {"payload_processor": "p", "event_policy": {"class": Denying, "names": ["x"]}}},
            }
        )
        assert get_log_context("a").normalize_value_for_log([1, 2]) == [1, "... (1 more)"]
        assert isinstance(get_log_context("a").event_policy, Denying)

    def test_references_to_objects(self) -> None:
        """``ext://`` stands for an object wherever one may stand; also in a handler's sink and below a context that is
        named like a section."""
        configure(
            {
                "policies": {"theirs": "ext://test_config.A_POLICY"},
                "contexts": {
                    "logging": {"log_sink": "ext://test_config.AN_OBJECT", "event_policy": "theirs"},
                    "a": {"event_policy": "ext://test_config.A_POLICY"},
                },
                "logging": {
                    "version": 1,
                    "handlers": {
                        "h": {"class": "mvx_logger.SinkHandler", "sink": "ext://test_config.AN_OBJECT"},
                        "i": {
                            "class": "mvx_logger.SinkHandler",
                            "sink": {"class": "mvx_logger.FilterSink", "sink": "ext://test_config.AN_OBJECT"},
                        },
                        "j": {"class": "mvx_logger.SinkHandler", "sink": "cfg://where.sink"},
                        "k": {
                            "class": "mvx_logger.SinkHandler",
                            "sink": {"class": "mvx_logger.FanOutSink", "sinks": ["memory:", "cfg://where.sink"]},
                        },
                        "l": {"()": "ext://logging.NullHandler"},
                        "m": {"()": logging.NullHandler},
                    },
                    "where": {"sink": {"class": "mvx_logger.MemoryLogSink"}},
                },
            }
        )
        context = get_log_context("logging")
        assert context.log_sink is AN_OBJECT
        assert context.event_policy is A_POLICY
        assert get_log_context("a").event_policy is A_POLICY
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})


class TestStructlogSection:
    """structlog cannot be configured from a JSON or YAML file by itself."""

    def test_a_chain_from_a_plain_data_file(self, tmp_path: Path) -> None:
        """Everything about the chain is in the file; its events reach the nearest context."""
        import structlog

        file = tmp_path / "logging.json"
        file.write_text(
            json.dumps(
                {
                    "sinks": {"events": "memory:"},
                    "contexts": {"shop": {"log_sink": "events"}},
                    "structlog": {
                        "level": "info",
                        "processors": ["structlog.processors.StackInfoRenderer"],
                        "cache_logger_on_first_use": False,
                    },
                }
            )
        )
        try:
            mvx_logger.configure(file)
            structlog.get_logger("shop.orders").info("order.created", amount=3)
            structlog.get_logger("shop.orders").debug("hidden")
        finally:
            structlog.reset_defaults()
        [event] = mvx_logger.get_log_sink("events").events
        assert (event.meta.event_name, event.payload) == ("order.created", {"amount": 3})

    @pytest.mark.parametrize(
        ("section", "text"),
        [
            ({"proccessors": []}, "structlog.proccessors: there is no such option; did you mean 'processors'?"),
            ({"level": "LOUD"}, "structlog.level: 'LOUD' is not a level"),
            ({"renderer": "no.such.thing"}, "structlog.renderer"),
        ],
    )
    def test_what_is_wrong_changes_nothing(self, section: dict[str, object], text: str) -> None:
        """The error names the place; structlog and the registry are as they were."""
        import structlog

        before = structlog.get_config()
        with pytest.raises(mvx_logger.LogConfigurationError) as raised:
            mvx_logger.configure({"sinks": {"events": "memory:"}, "structlog": section})
        assert str(raised.value).startswith(text)
        assert structlog.get_config() == before
        assert mvx_logger.get_configured_log_sink_names() == ("stderr",)
