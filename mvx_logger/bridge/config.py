"""Configuration as data: sinks from URLs and mappings, and everything at once from a mapping or a file.

Whatever is asked for is *planned* first: a plan is checked to the last option and touches nothing. Only a plan that is
right is carried out, and a sink that cannot be made leaves everything as it was.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints
from urllib.parse import SplitResult, parse_qsl, urlsplit

from msgspec import Struct

from .. import registry
from ..context import LogErrorHandlingPolicy
from ..delivery.dead_letter import OwnedSink, is_file_path
from ..errors import LogConfigurationError, LoggerError, LogSinkDescriptorBuildError
from ..model import LogEvent
from ..options import check_options, convert_option, get_options, parse_level
from ..payload import LogPayloadProcessor
from ..policy import PatternLogEventPolicy, PatternLogEventPolicyConfig
from ..protocols import (
    LogEventPolicyProto,
    LogPayloadProcessorProto,
    LogSinkClassProto,
    LogSinkDescriptor,
    LogSinkProto,
)
from ..registry import SinkLease

__all__ = [
    "ConfigurationPlan",
    "ContextPlan",
    "SinkPlan",
    "configure",
    "find_sink_class",
    "load_configuration",
    "plan_configuration",
    "plan_sink",
    "resolve_sink",
    "sink_from_url",
]

ENTRY_POINT_GROUP = "mvx_logger.sinks"

_SINKS = "mvx_logger.sinks."
_SCHEMES = {
    scheme: _SINKS + dotted
    for dotted, schemes in {
        "amqp.AmqpLogSink": "amqp amqps",
        "clickhouse.ClickHouseLogSink": "clickhouse clickhouses",
        "datadog.DatadogLogSink": "datadog",
        "elasticsearch.ElasticsearchLogSink": "elasticsearch elasticsearchs opensearch opensearchs",
        "file.FileLogSink": "file",
        "http.HttpLogSink": "http https",
        "kafka.KafkaLogSink": "kafka kafkas",
        "loki.LokiLogSink": "loki lokis",
        "memory.MemoryLogSink": "memory",
        "mqtt.MqttLogSink": "mqtt mqtts",
        "nats.NatsLogSink": "nats natss",
        "otlp.OtlpLogSink": "otlp otlps",
        "postgres.PostgresLogSink": "postgres postgresql",
        "redis.RedisLogSink": "redis rediss redis+sentinel rediss+sentinel redis+cluster rediss+cluster redis+unix",
        "seq.SeqLogSink": "seq seqs",
        "splunk.SplunkLogSink": "splunk splunks",
        "sqlite.SqliteLogSink": "sqlite",
        "stream.StreamLogSink": "stderr stdout",
        "structlog_sink.StructlogSink": "console",
        "syslog.SyslogLogSink": "syslog syslog+udp syslog+tcp syslog+tls syslog+unix",
        "victorialogs.VictoriaLogsSink": "victorialogs victorialogss",
    }.items()
    for scheme in schemes.split()
}
_NESTED = ("sink", "sinks")
"""The options of a combinator that hold sinks of their own."""
DEAD_LETTER_OPTION = "dead_letter"
_MAX_DEPTH = 50

Spec = Any
"""A sink, its registered name, its URL, or a mapping with ``class`` (a dotted path) or ``url``, and options."""


class SinkPlan(Struct, frozen=True, kw_only=True):
    """A sink that is checked and not made yet.

    Attributes:
        path: Where it stands in the configuration.
        name: The registered (or to be registered) name that it refers to; None for others.
        sink: The object, where one was given.
        sink_cls: The class to make it of.
        options: Its options, checked.
        descriptor: What it is; None for an object that was given.
        parts: The sinks inside of it, by option: it is made of them, and nothing without them.
        attached: The sinks that it uses beside, by option (``dead_letter``): those of parameters that are annotated so.
    """

    path: str
    name: str | None = None
    sink: Any = None
    sink_cls: Any = None
    options: Mapping[str, Any] = {}
    descriptor: LogSinkDescriptor | None = None
    parts: Mapping[str, Any] = {}
    attached: Mapping[str, Any] = {}

    def make(self, named: Mapping[str, Any] | None = None) -> SinkLease:
        """Make the sink, or take a share in the one that is there.

        Args:
            named: Sinks that a name may refer to, before the registered ones.

        Raises:
            LoggerError: It cannot be made; nothing is left behind.
        """
        if self.name is not None:
            sink = (named or {}).get(self.name)
            return SinkLease(registry.get_log_sink(self.name) if sink is None else sink)
        if self.sink is not None:
            return SinkLease(self.sink)
        leases: list[SinkLease] = []
        try:
            made: dict[str, Any] = {}
            for option, part in self.get_inner().items():
                sinks = []
                for entry in _entries(part):
                    leases.append(entry.make(named))
                    sinks.append(leases[-1].sink)
                made[option] = sinks[0] if isinstance(part, SinkPlan) else sinks
            options = {**self.options, **made}
            if not self.parts:
                share = registry.lease_sink(self.sink_cls, options)
                return SinkLease(share.sink, share.release, parts=leases) if leases else share
            # It ends with its parts.
            sink, _ = registry.create_sink(self.sink_cls, options)
        except BaseException:
            for lease in leases:
                lease.release()
            raise
        return SinkLease(sink, parts=leases)

    def get_inner(self) -> dict[str, Any]:
        """The other sinks that it takes, by option: its parts, and those that are attached to it."""
        return {**self.parts, **self.attached}

    def get_identity(self) -> LogSinkDescriptor:
        """What tells it from others, also where it is an object."""
        return self.descriptor or LogSinkDescriptor("object", (id(self.sink),))

    def get_names(self) -> set[str]:
        """The names of sinks that it refers to, at any depth."""
        if self.name is not None:
            return {self.name}
        return {name for part in self.get_inner().values() for entry in _entries(part) for name in entry.get_names()}


def _entries(part: Any) -> Sequence[SinkPlan]:
    return [part] if isinstance(part, SinkPlan) else part


# ---------------------------------------------------------------------- sinks


def sink_from_url(url: str, **options: Any) -> Any:
    """Make a sink from a URL, e.g. ``sqlite:///events.db?retention_max_age=86400``.

    The scheme names the kind of sink: one of ours, or one that an installed package offers as an entry point of the group
    ``mvx_logger.sinks``. The query holds the sink's options, spelled like its keyword arguments.

    Args:
        url: The URL.
        **options: Further options; they win over those in the URL.

    Returns:
        The sink, running. Its ``close()`` ends it.

    Raises:
        LogConfigurationError: The URL or an option is wrong.
        LogSinkCreateError: The sink could not be made.
        TypeError: The URL is not a str.
    """
    if not isinstance(url, str):
        raise TypeError(f"url: expected a str, got {type(url).__name__}")
    return _make_own(_plan_url(url, options, "url"))


def _make_own(plan: SinkPlan) -> Any:
    """Make a sink that is shared with nobody."""
    if plan.sink_cls is None:
        return plan.make().sink
    inner = plan.get_inner()
    made: dict[str, Any] = {}
    try:
        for option, part in inner.items():
            made[option] = []
            for entry in _entries(part):
                made[option].append(_make_own(entry))
        nested = {option: made[option][0] if isinstance(inner[option], SinkPlan) else made[option] for option in made}
        letters = inner.get(DEAD_LETTER_OPTION)
        if isinstance(letters, SinkPlan) and letters.sink_cls is not None:
            nested[DEAD_LETTER_OPTION] = OwnedSink(nested[DEAD_LETTER_OPTION])
        sink, _ = registry.create_sink(plan.sink_cls, {**plan.options, **nested})
    except BaseException:
        for option, sinks in made.items():
            for entry, sink in zip(_entries(inner[option]), sinks, strict=False):
                if entry.sink_cls is not None and hasattr(sink, "close"):
                    sink.close()
        raise
    return sink


def resolve_sink(spec: Spec, *, path: str = "sink") -> SinkLease:
    """A share in the sink that a specification describes.

    Args:
        spec: A sink, its registered name, its URL, or a mapping ``{"class": "dotted.Path", **options}`` or
            ``{"url": ..., **options}``.
        path: Where it stands, for errors.

    Raises:
        LogConfigurationError: It is wrong; the text says where and what would be right.
        LogSinkCreateError: The sink could not be made.
    """
    return plan_sink(spec, path=path).make()


def plan_sink(spec: Spec, *, path: str = "sink", names: Collection[str] = (), gone: Collection[str] = ()) -> SinkPlan:
    """Check the specification of a sink without making it.

    Args:
        spec: See `resolve_sink`.
        path: Where it stands, for errors.
        names: Names that will be registered, beside those that are.
        gone: Names that are registered, and will not be any more.

    Raises:
        LogConfigurationError: It is wrong.
    """
    return _Planner(names, gone).plan(spec, path)


class _Planner:
    """Plans sinks where some names are known."""

    def __init__(self, names: Collection[str] = (), gone: Collection[str] = ()) -> None:
        registered = registry.get_configured_log_sink_names()
        self._names = {*names, *(name for name in registered if name not in gone)}
        # Called with each name that a specification refers to.
        self.on_name: Callable[[str], None] = _no_matter

    def plan(self, spec: Spec, path: str, *, hint: str = "") -> SinkPlan:
        if isinstance(spec, str):
            if ":" in spec:
                return self.plan_url(spec, {}, path)
            if spec in self._names:
                self.on_name(spec)
                return SinkPlan(path=path, name=spec, descriptor=LogSinkDescriptor("name", (spec,)))
            known = ", ".join(sorted(self._names)) or "none"
            raise _wrong(
                path,
                f"no sink {spec!r} is configured (there are: {known}); a URL looks like 'sqlite:///events.db'{hint}",
            )
        if isinstance(spec, Mapping):
            options = {str(key): value for key, value in spec.items()}
            url = options.pop("url", None)
            dotted = options.pop("class", None)
            if url is None and dotted is None:
                raise _wrong(path, 'a sink needs either "class": "package.SinkClass" or "url": "scheme:..."')
            if dotted is not None:
                sink_cls = _import(dotted, f"{path}.class") if isinstance(dotted, str) else dotted
                if url is not None:
                    if not isinstance(sink_cls, type) or "url" not in get_options(sink_cls):
                        raise _wrong(path, 'a sink needs either "class": "package.SinkClass" or "url": "scheme:..."')
                    options["url"] = url
                return self._plan_class(sink_cls, options, path, f"{path}.class", lax=False)
            if not isinstance(url, str):
                raise _wrong(f"{path}.url", f"expected a str, got {type(url).__name__}")
            return self.plan_url(url, options, path)
        if isinstance(spec, LogSinkProto) and not isinstance(spec, type):
            return SinkPlan(path=path, sink=spec)
        raise _wrong(
            path,
            f"{type(spec).__name__} is no sink; use an object with log(event), the name of a configured sink, a URL, or "
            'a mapping with "class" or "url"',
        )

    def plan_url(self, url: str, options: Mapping[str, Any], path: str) -> SinkPlan:
        try:
            parts = urlsplit(url)
        except ValueError:  # its text may hold parts of the URL, and with them a password
            raise _wrong(path, "the URL of a sink is malformed") from None
        if not parts.scheme:
            raise _wrong(path, "the URL of a sink has no scheme; it looks like 'sqlite:///events.db'")
        sink_cls = find_sink_class(parts.scheme, path=path)
        found = _options_of_url(sink_cls, parts, path)
        found.update(options)
        return self._plan_class(sink_cls, found, path, path, lax=True)

    def _plan_class(self, sink_cls: Any, options: dict[str, Any], path: str, class_path: str, *, lax: bool) -> SinkPlan:
        if not isinstance(sink_cls, type) or not isinstance(sink_cls, LogSinkClassProto):
            name = getattr(sink_cls, "__name__", type(sink_cls).__name__)
            raise _wrong(class_path, f"{name} is no sink class: it needs build_descriptor() and create()")
        parts: dict[str, Any] = {}
        for option in _NESTED:
            if option not in options:
                continue
            value = options.pop(option)
            where = f"{path}.{option}"
            if option == "sink":
                parts[option] = self.plan(value, where)
            elif isinstance(value, (list, tuple)):
                parts[option] = tuple(self.plan(entry, f"{where}[{index}]") for index, entry in enumerate(value))
            else:
                raise _wrong(where, f"expected a list of sinks, got {type(value).__name__}")
        attached = self._plan_attached(sink_cls, options, path)
        checked = check_options(sink_cls, options, lax=lax, path=path, ignore=(*_NESTED, *attached))
        # It is checked with stand-ins: what is inside of it is only planned yet.
        stand_ins = {
            option: _StandIn(part) if isinstance(part, SinkPlan) else [_StandIn(entry) for entry in part]
            for option, part in {**parts, **attached}.items()
        }
        try:
            descriptor = registry.describe_sink(sink_cls, {**checked, **stand_ins})
        except LogSinkDescriptorBuildError as err:
            raise _within(path, err.cause or err, sink_cls) from err
        if parts:
            inner = tuple(
                entry.get_identity() for part in (*parts.values(), *attached.values()) for entry in _entries(part)
            )
            key = tuple(sorted((name, repr(value)) for name, value in checked.items()))
            descriptor = LogSinkDescriptor(sink_cls.__name__, inner, key)
        return SinkPlan(
            path=path, sink_cls=sink_cls, options=checked, descriptor=descriptor, parts=parts, attached=attached
        )

    def _plan_attached(self, sink_cls: type, options: dict[str, Any], path: str) -> dict[str, Any]:
        """Plan what stands for sinks in options that are annotated so, and take these options out of the others."""
        attached: dict[str, Any] = {}
        for option, kind in _get_sink_options(sink_cls).items():
            value = options.get(option)
            if value is None or (kind.takes_paths and _is_path(value)):  # what is not planned is checked as it is
                continue
            where = f"{path}.{option}"
            if not kind.is_list:
                hint = "; a path has a '/' or a '.' in it" if kind.takes_paths else ""
                attached[option] = self.plan(value, where, hint=hint)
            elif isinstance(value, (list, tuple)):
                attached[option] = tuple(self.plan(entry, f"{where}[{index}]") for index, entry in enumerate(value))
            elif isinstance(value, str):  # one of several in a URL
                attached[option] = (self.plan(value, where),)
            else:
                raise _wrong(where, f"expected a list of sinks, got {type(value).__name__}")
            del options[option]
        return attached


def _plan_url(url: str, options: Mapping[str, Any], path: str) -> SinkPlan:
    return _Planner().plan_url(url, options, path)


def _options_of_url(sink_cls: Any, parts: SplitResult, path: str) -> dict[str, Any]:
    if parts.fragment:
        raise _wrong(path, "the URL of a sink has no fragment; write '#' as %23")
    if hasattr(sink_cls, "options_from_url"):
        try:
            options = dict(sink_cls.options_from_url(parts))
        except LogConfigurationError as err:
            raise _within(path, err) from err
        except Exception as err:  # its text may hold parts of the URL, and with them a password
            raise _wrong(path, f"{sink_cls.__name__} cannot read the URL ({type(err).__name__})") from None
    elif parts.netloc or parts.path:
        name = getattr(sink_cls, "__name__", type(sink_cls).__name__)
        raise _wrong(path, f"{name} takes its options from the query only: {parts.scheme}:?name=value")
    else:
        options = {}
    # Where the URL is the destination's own, so is what of its query is no option.
    known = get_options(sink_cls) if getattr(sink_cls, "keeps_query", False) else None
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if known is not None and key not in known:
            continue
        if key in options:
            given = options[key]
            options[key] = [*given, value] if isinstance(given, list) else [given, value]
        else:
            options[key] = value
    return options


def _no_matter(_: str) -> None:
    pass


class _StandIn:
    """For a sink that is not made yet; equal to those for an equal one."""

    def __init__(self, plan: SinkPlan) -> None:
        self._identity = plan.get_identity()
        self._name = plan.name

    def log(self, event: LogEvent) -> None:
        """Nothing."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _StandIn) and other._identity == self._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        if self._name is not None:
            return self._name
        return ":".join(map(str, (self._identity.sink_type, *self._identity.resource_key)))


class _SinkOption(Struct, frozen=True):
    """What a parameter that is annotated as a sink takes.

    Attributes:
        is_list: Several of them.
        takes_paths: Also the path of a file.
    """

    is_list: bool
    takes_paths: bool


_sink_options: dict[type, dict[str, _SinkOption]] = {}


def _get_sink_options(sink_cls: type) -> dict[str, _SinkOption]:
    """The options whose annotation has `LogSinkProto` in it, but for those that hold the parts of a combinator."""
    found = _sink_options.get(sink_cls)
    if found is None:
        found = {}
        for cls in reversed(sink_cls.__mro__):
            if "__init__" not in vars(cls):
                continue
            try:
                hints = get_type_hints(vars(cls)["__init__"])
            except Exception:  # noqa: S112 - an annotation that only a type checker can resolve
                continue
            for name, annotation in hints.items():
                found.pop(name, None)
                kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
                is_list = any(LogSinkProto in get_args(kind) for kind in kinds)
                if name not in _NESTED and (is_list or LogSinkProto in kinds):
                    takes_paths = any(kind is str or hasattr(get_origin(kind) or kind, "__fspath__") for kind in kinds)
                    found[name] = _SinkOption(is_list, takes_paths)
        known = get_options(sink_cls)
        found = _sink_options[sink_cls] = {name: kind for name, kind in found.items() if name in known}
    return found


def _is_path(value: object) -> bool:
    return is_file_path(value) if isinstance(value, str) else isinstance(value, os.PathLike)


def find_sink_class(scheme: str, *, path: str = "url") -> Any:
    """The sink class for the scheme of a URL.

    Raises:
        LogConfigurationError: No installed package offers it.
    """
    dotted = _SCHEMES.get(scheme)
    if dotted is not None:
        return _import(dotted, path)
    from importlib.metadata import entry_points

    offers = entry_points(group=ENTRY_POINT_GROUP)
    for entry in offers:
        if entry.name.lower() == scheme:  # a URL's scheme comes in lower case
            try:
                return entry.load()
            except Exception as err:
                raise _wrong(path, f"the sink for {scheme!r} ({entry.value}) cannot be loaded: {err}", err) from err
    known = ", ".join(sorted({*_SCHEMES, *(entry.name for entry in offers)}))
    raise _wrong(path, f"no sink for URLs with the scheme {scheme!r} is installed; there are: {known}")


# ---------------------------------------------------------------------- everything at once


_SECTIONS = ("version", "sinks", "policies", "processors", "root", "contexts", "structlog", "logging")


class _Context(Struct, frozen=True, forbid_unknown_fields=True):
    log_sink: Any = None
    event_policy: Any = None
    payload_processor: Any = None
    log_error_handling_policy: LogErrorHandlingPolicy | None = None
    min_level: int | str | None = None


class ContextPlan(Struct, frozen=True, kw_only=True):
    """A context that is checked and not made yet.

    Attributes:
        namespace: Its namespace; ``""`` is the root.
        sink: Its sink; None inherits.
        settings: Its other settings, as `LogContext` takes them.
    """

    namespace: str
    sink: SinkPlan | None
    settings: Mapping[str, Any]


class ConfigurationPlan(Struct, frozen=True, kw_only=True):
    """A configuration that is checked and not carried out yet.

    Attributes:
        sinks: The sinks to register, by name, such that each stands after those that it refers to.
        contexts: The contexts to configure; the root, if it is among them, is first.
        logging: The section for `logging.config.dictConfig`; None when there is none.
        structlog: The arguments for `structlog.configure`; None when there is no such section.
    """

    sinks: Mapping[str, SinkPlan]
    contexts: tuple[ContextPlan, ...]
    logging: Mapping[str, Any] | None
    structlog: Mapping[str, Any] | None = None

    def get_names(self) -> set[str]:
        """The names of sinks that it defines or refers to."""
        plans = [*self.sinks.values(), *(context.sink for context in self.contexts if context.sink is not None)]
        return set(self.sinks).union(*(plan.get_names() for plan in plans))


def configure(source: Mapping[str, Any] | str | os.PathLike[str]) -> None:
    """Configure sinks, contexts and, optionally, the standard library's logging.

    The same configuration again changes nothing. Another one replaces what an earlier call has made: a sink that it does
    not name any more delivers what it accepted and ends in the background, a context that it does not name inherits
    again; where an earlier call had given the root a sink and this one does not, that is ``stderr`` again.

    Args:
        source: A mapping, or the path of a TOML, JSON or YAML file, with the sections ``sinks`` (by name: a URL, a
            mapping with ``class`` or ``url`` and options, or an object), ``policies`` and ``processors`` (by name),
            ``root`` and ``contexts`` (by namespace: ``log_sink``, ``event_policy``, ``payload_processor``,
            ``log_error_handling_policy``, ``min_level``), ``structlog`` (what `configure_structlog` takes) and
            ``logging`` (what `logging.config.dictConfig` takes). A str ``ext://package.name`` stands for that object.

    Raises:
        LogConfigurationError: Something is wrong; the text says where and what would be right. Nothing was changed.
        LogSinkCreateError: A sink could not be made. Nothing was changed.
    """
    plan = plan_configuration(load_configuration(source))
    # Planning imports modules, and these may configure something themselves: nobody holds the lock meanwhile.
    with _configuring:
        _carry_out(plan)


def load_configuration(source: Mapping[str, Any] | str | os.PathLike[str]) -> Mapping[str, Any]:
    """Read a configuration from a TOML, JSON or YAML file; a mapping is returned as it is.

    Raises:
        LogConfigurationError: The file cannot be read or parsed, or is no mapping.
    """
    if isinstance(source, Mapping):
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source: expected a mapping or the path of a file, got {type(source).__name__}")
    file = Path(source)
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise _wrong(str(file), f"{file.suffix or 'no suffix'}: expected a file that ends in {', '.join(_READERS)}")
    try:
        data = reader(file.read_text("utf-8"))
    except OSError as err:
        raise _wrong(str(file), f"cannot be read: {err.strerror or err}", err) from err
    except (ValueError, RecursionError) as err:
        raise _wrong(str(file), f"cannot be parsed: {err}", err) from err
    if not isinstance(data, Mapping):
        raise _wrong(str(file), f"expected a mapping at the top, got {type(data).__name__}")
    return data


def _read_toml(text: str) -> Any:
    import tomllib

    return tomllib.loads(text)


def _read_yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError as err:
        raise ValueError("YAML files need PyYAML: pip install 'mvx-logger[yaml]'") from err
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise ValueError(str(err)) from err


_READERS: dict[str, Callable[[str], Any]] = {
    ".toml": _read_toml,
    ".json": json.loads,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
}


def plan_configuration(source: Mapping[str, Any]) -> ConfigurationPlan:
    """Check a configuration without carrying it out.

    Raises:
        LogConfigurationError: Something is wrong.
    """
    if not isinstance(source, Mapping):
        raise TypeError(f"source: expected a mapping, got {type(source).__name__}")
    config = {str(key): _plain(value, str(key)) for key, value in source.items() if str(key) != "logging"}
    for key in config:
        if key not in _SECTIONS:
            close = get_close_matches(key, _SECTIONS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(_SECTIONS)}"
            raise _wrong(key, f"there is no such section; {hint}")
    version = config.get("version", 1)
    if version != 1 or isinstance(version, bool):
        raise _wrong("version", f"expected 1, got {version!r}")
    section = _section(config, "sinks")
    for name in section:
        _check_key(f"sinks.{name}", partial(registry.check_name, "name", name))
    gone = _get_own_sinks().difference(section)
    planner = _Planner(section, gone)
    sinks = _plan_sinks(section, planner)
    policies = {
        name: _plan_policy(value, f"policies.{name}", {}) for name, value in _section(config, "policies").items()
    }
    processors = {
        name: _plan_processor(value, f"processors.{name}", {}) for name, value in _section(config, "processors").items()
    }
    contexts: list[ContextPlan] = []
    given = _section(config, "contexts")
    for namespace in given:
        _check_key(f"contexts.{namespace}", partial(registry.check_namespace, namespace))
    if "root" in config:
        given = {"": config["root"], **given}
    for namespace, entry in given.items():
        path = f"contexts.{namespace}" if namespace else "root"
        if not isinstance(entry, Mapping):
            raise _wrong(path, f"expected a mapping, got {type(entry).__name__}")
        contexts.append(_plan_context(namespace, entry, path, planner, policies, processors))
    logging_section = source.get("logging")
    if logging_section is not None:
        if not isinstance(logging_section, Mapping):
            raise _wrong("logging", f"expected a mapping, got {type(logging_section).__name__}")
        logging_section = _mutable(logging_section, "logging")
        _check_logging(logging_section, planner)
    return ConfigurationPlan(
        sinks=sinks,
        contexts=tuple(contexts),
        logging=logging_section,
        structlog=_plan_structlog(_section(config, "structlog")) if "structlog" in config else None,
    )


def _plan_structlog(section: Mapping[str, Any]) -> Mapping[str, Any]:
    from .structlog import plan_structlog

    known = inspect.signature(plan_structlog).parameters
    for key in section:
        if key not in known:
            close = get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
            raise _wrong(f"structlog.{key}", f"there is no such option; {hint}")
    try:
        return plan_structlog(**section)
    except (LogConfigurationError, TypeError, ValueError) as err:
        raise LogConfigurationError(f"structlog.{err}", details={"path": "structlog"}, cause=err) from err


def _plan_context(
    namespace: str,
    section: Mapping[str, Any],
    path: str,
    planner: _Planner,
    policies: Mapping[str, Any],
    processors: Mapping[str, Any],
) -> ContextPlan:
    given: _Context = convert_option(section, _Context, path=path)
    settings: dict[str, Any] = {}
    if given.event_policy is not None:
        settings["event_policy"] = _plan_policy(given.event_policy, f"{path}.event_policy", policies)
    if given.payload_processor is not None:
        settings["payload_processor"] = _plan_processor(
            given.payload_processor, f"{path}.payload_processor", processors
        )
    if given.log_error_handling_policy is not None:
        settings["log_error_handling_policy"] = given.log_error_handling_policy
    if given.min_level is not None:
        settings["min_level"] = parse_level(given.min_level, path=f"{path}.min_level")
    sink = None if given.log_sink is None else planner.plan(given.log_sink, f"{path}.log_sink")
    return ContextPlan(namespace=namespace, sink=sink, settings=settings)


def _plan_sinks(section: Mapping[str, Any], planner: _Planner) -> dict[str, SinkPlan]:
    """Plan the named sinks, each after those that it refers to."""
    plans: dict[str, SinkPlan] = {}
    planning: list[str] = []

    def plan(name: str) -> None:
        if name in plans:
            return
        if name in planning:
            ring = " -> ".join([*planning[planning.index(name) :], name])
            raise _wrong(f"sinks.{name}", f"refers to itself: {ring}")
        planning.append(name)
        spec = section[name]
        if isinstance(spec, str) and ":" not in spec:
            raise _wrong(f"sinks.{name}", f'{spec!r} is no URL; use one, or a mapping with "class" or "url"')
        made = planner.plan(spec, f"sinks.{name}")
        planning.remove(name)
        plans[name] = made

    def plan_first(name: str) -> None:
        if name in section:
            plan(name)

    planner.on_name = plan_first
    for name in section:
        plan(name)
    planner.on_name = _no_matter
    return plans


def _plan_policy(value: Any, path: str, named: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        return _by_name(value, path, named, "policies")
    if isinstance(value, LogEventPolicyProto) and not isinstance(value, (type, Mapping)):
        return value
    if not isinstance(value, Mapping):
        raise _wrong(path, f"expected the name of a policy or a mapping, got {type(value).__name__}")
    made = _plan_object(value, path, LogEventPolicyProto, "an event policy")
    if made is not None:
        return made
    return PatternLogEventPolicy(PatternLogEventPolicyConfig.from_mapping(dict(value), path=path))


def _plan_processor(value: Any, path: str, named: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        return _by_name(value, path, named, "processors")
    if isinstance(value, LogPayloadProcessorProto) and not isinstance(value, (type, Mapping)):
        return value
    if not isinstance(value, Mapping):
        raise _wrong(path, f"expected the name of a processor or a mapping, got {type(value).__name__}")
    made = _plan_object(value, path, LogPayloadProcessorProto, "a payload processor")
    if made is not None:
        return made
    options = check_options(LogPayloadProcessor, value, path=path)
    try:
        return LogPayloadProcessor(**options)
    except (TypeError, ValueError) as err:
        raise _within(path, err, LogPayloadProcessor) from err


def _plan_object(value: Mapping[str, Any], path: str, wanted: type, description: str) -> Any:
    """An object of a class that is named in the mapping; None when none is."""
    options = dict(value)
    dotted = options.pop("class", None)
    if dotted is None:
        return None
    factory = _import(dotted, f"{path}.class") if isinstance(dotted, str) else dotted
    if not callable(factory):
        raise _wrong(f"{path}.class", f"expected a dotted name or a callable, got {type(factory).__name__}")
    try:
        made = factory(**options)
    except Exception as err:
        raise _wrong(path, f"{type(err).__name__}: {err}", err) from err
    if not isinstance(made, wanted):
        raise _wrong(f"{path}.class", f"{type(made).__name__} is not {description}")
    return made


def _by_name(name: str, path: str, named: Mapping[str, Any], section: str) -> Any:
    if name not in named:
        raise _wrong(path, f"{name!r} is not in {section!r}; there are: {', '.join(named) or 'none'}")
    return named[name]


def _check_logging(section: Mapping[str, Any], planner: _Planner) -> None:
    """Find what `logging.config.dictConfig` would stumble over, before it has taken down what is there."""
    path = "logging"
    if section.get("version") != 1:
        raise _wrong(f"{path}.version", "has to be 1")
    handlers = _section(section, "handlers", path)
    formatters = _section(section, "formatters", path)
    filters = _section(section, "filters", path)
    incremental = bool(section.get("incremental"))
    for name, handler in handlers.items():
        where = f"{path}.handlers.{name}"
        if not isinstance(handler, Mapping):
            raise _wrong(where, f"expected a mapping, got {type(handler).__name__}")
        if "level" in handler:
            parse_level(handler["level"], path=f"{where}.level")
        if incremental:
            continue
        if "()" not in handler and "class" not in handler:
            raise _wrong(where, 'a handler needs "class" or "()"')
        factory = handler.get("()", handler.get("class"))
        if isinstance(factory, str) and not factory.startswith(("cfg://", "ext://")):
            factory = _import(factory, f"{where}.class")
        _check_references(handler, "formatter", formatters, where)
        _check_references(handler, "filters", filters, where)
        from .handlers import SinkHandler

        if isinstance(factory, type) and issubclass(factory, SinkHandler):
            spec = handler.get("sink")
            if not _refers_to_configuration(spec):
                planner.plan(_plain(spec, f"{where}.sink"), f"{where}.sink")
    loggers = _section(section, "loggers", path)
    for name, logger in [*loggers.items(), ("", section.get("root", {}))]:
        where = f"{path}.loggers.{name}" if name else f"{path}.root"
        if not isinstance(logger, Mapping):
            raise _wrong(where, f"expected a mapping, got {type(logger).__name__}")
        if logger.get("level") is not None:
            parse_level(logger["level"], path=f"{where}.level")
        if not incremental:
            _check_references(logger, "handlers", handlers, where)
            _check_references(logger, "filters", filters, where)


def _is_reference(value: object) -> bool:
    return isinstance(value, str) and value.startswith(("cfg://", "ext://"))


def _refers_to_configuration(value: object) -> bool:
    """True where `dictConfig` will put in something from elsewhere."""
    if isinstance(value, Mapping):
        return any(map(_refers_to_configuration, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_refers_to_configuration, value))
    return isinstance(value, str) and value.startswith("cfg://")


def _section(config: Mapping[str, Any], key: str, path: str = "") -> Mapping[str, Any]:
    value = config.get(key, {})
    if not isinstance(value, Mapping):
        raise _wrong(f"{path}.{key}" if path else key, f"expected a mapping, got {type(value).__name__}")
    return value


def _check_references(holder: Mapping[str, Any], key: str, there: Mapping[str, Any], path: str) -> None:
    value = holder.get(key)
    names = [value] if isinstance(value, str) else value or ()
    for name in names if isinstance(names, (list, tuple)) else ():
        if isinstance(name, str) and not _is_reference(name) and name not in there:
            raise _wrong(f"{path}.{key}", f"{name!r} is not defined; there are: {', '.join(map(str, there)) or 'none'}")


# ---------------------------------------------------------------------- carrying it out


class _Own:
    """What earlier calls of `configure` have made, and still stands."""

    def __init__(self) -> None:
        self.sinks: dict[str, Any] = {}
        self.contexts: set[str] = set()
        # The sinks of contexts that have no name, by namespace, each with what it is.
        self.shares: dict[str, tuple[Any, LogSinkDescriptor, SinkLease]] = {}
        # What the root was given.
        self.root: dict[str, Any] = {}

    def get_shares_beside(self, other: _Own) -> list[SinkLease]:
        """The shares that the other one has not."""
        kept = {id(share) for _, _, share in other.shares.values()}
        return [share for _, _, share in self.shares.values() if id(share) not in kept]


_own = _Own()
_configuring = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_configuring._at_fork_reinit)  # type: ignore[attr-defined]


def _forget_everything() -> None:
    global _own
    with _configuring:
        shares, _own = _own.shares, _Own()
        for _, _, share in shares.values():
            share.end()


registry.reset_hooks.append(_forget_everything)


def _get_own_sinks() -> set[str]:
    """The names of sinks that are registered, and were by an earlier call."""
    named = _get_named()
    return {name for name, sink in _own.sinks.items() if named.get(name) is sink}


def _get_named() -> dict[str, Any]:
    return {name: registry.get_log_sink(name) for name in registry.get_configured_log_sink_names()}


def _carry_out(plan: ConfigurationPlan) -> None:
    # The registry's lock is not held meanwhile: dictConfig takes the standard library's lock and makes handlers under
    # it, which take the registry's. The other way round would be a deadlock.
    global _own
    own = _Own()
    made: dict[str, SinkLease] = {}
    before: registry.Saved | None = None
    undo: _UndoLogging | None = None
    try:
        # Most of what can fail comes first.
        settings = _make_sinks(plan, made, own)
        before, undo = registry.Saved(), _UndoLogging()
        gone = _get_own_sinks().difference(plan.get_names())
        new = {name: (plan.sinks[name].sink_cls, plan.sinks[name].get_identity(), made[name]) for name in made}
        endings = registry.replace_sinks(new, gone)
        _settle_root(settings, own)
        registry.replace_contexts(settings, forget=_own.contexts.difference(settings))
        if plan.logging is not None:
            _configure_logging(plan.logging)
        if plan.structlog is not None:
            import structlog

            structlog.configure(**plan.structlog)
    except BaseException:
        if before is not None:
            before.restore()
        if undo is not None:
            undo.restore()
        for lease in [*made.values(), *own.get_shares_beside(_own)]:
            lease.release()
        raise
    named = _get_named()
    own.sinks = {
        name: named.get(name) for name in plan.sinks if name in made or _own.sinks.get(name) is named.get(name)
    }
    own.contexts = {namespace for namespace in settings if namespace}
    endings.extend(share.release for share in _own.get_shares_beside(own))
    _own = own
    for end in endings:
        end()


def _make_sinks(plan: ConfigurationPlan, made: dict[str, SinkLease], own: _Own) -> dict[str, dict[str, Any]]:
    """Make the sinks that are not there yet; return the settings of the contexts."""
    named = _get_named()
    for name, sink in plan.sinks.items():
        # One that is made of others is made anew when one of these is.
        if not registry.has_sink(name, sink.sink_cls, sink.get_identity()) or not sink.get_names().isdisjoint(made):
            made[name] = sink.make(named)
            named[name] = made[name].sink
    settings: dict[str, dict[str, Any]] = {}
    for context in plan.contexts:
        values = settings[context.namespace] = dict(context.settings)
        wanted = context.sink
        if wanted is None:
            continue
        if wanted.name is not None:
            values["log_sink"] = wanted.make(named).sink
            continue
        identity = wanted.get_identity()
        there = _own.shares.get(context.namespace)
        if there is not None and there[:2] == (wanted.sink_cls, identity) and wanted.get_names().isdisjoint(made):
            own.shares[context.namespace] = there
        else:
            own.shares[context.namespace] = (wanted.sink_cls, identity, wanted.make(named))
        values["log_sink"] = own.shares[context.namespace][2].sink
    return settings


def _settle_root(settings: dict[str, dict[str, Any]], own: _Own) -> None:
    """A root has nobody to inherit from: what an earlier call had given it and this one does not is as at the start."""
    root = registry.get_root_log_context()
    now = root._get_settings()
    given = settings.get("")
    if given is None:
        if not _own.root:
            return
        given = settings[""] = {}
    else:
        own.root.update(given)
    for key, make_default in (("log_sink", registry.get_default_sink), ("payload_processor", LogPayloadProcessor)):
        if key not in given and key in _own.root and _own.root[key] is now[key]:
            given[key] = make_default()


def _configure_logging(section: Mapping[str, Any]) -> None:
    from logging.config import dictConfig

    try:
        dictConfig(_mutable(section, "logging"))
    except LoggerError:
        raise
    except Exception as err:
        cause = f": {err.__cause__}" if err.__cause__ else ""
        raise _wrong("logging", f"{err}{cause}", err) from err


class _UndoLogging:
    """Puts the standard library's loggers and handlers back as they were."""

    def __init__(self) -> None:
        self._loggers = {
            logger: (logger.level, logger.propagate, logger.disabled, list(logger.handlers), list(logger.filters))
            for logger in _all_loggers()
        }
        # Weak values: without items(), a handler that is collected meanwhile is a KeyError.
        self._names = dict(logging._handlers.items())  # type: ignore[attr-defined]
        self._list = list(logging._handlerList)  # type: ignore[attr-defined]
        handlers = {handler for was in self._loggers.values() for handler in was[3]} | set(self._names.values())
        self._handlers = [(entry, entry.level, entry.formatter, list(entry.filters)) for entry in handlers]

    def restore(self) -> None:
        for logger in _all_loggers():
            # One that is new is as if it had only been asked for.
            level, propagate, disabled, handlers, filters = self._loggers.get(logger, (0, True, False, [], []))
            logger.setLevel(level)
            logger.propagate = propagate
            logger.disabled = disabled
            logger.handlers[:] = handlers
            logger.filters[:] = filters
        for handler, level, formatter, filters in self._handlers:
            handler.setLevel(level)
            handler.setFormatter(formatter)
            handler.filters[:] = filters
        names, there = logging._handlers, logging._handlerList  # type: ignore[attr-defined]
        names.clear()
        names.update(self._names)
        there[:] = self._list


def _all_loggers() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    yield root
    for entry in list(root.manager.loggerDict.values()):
        if isinstance(entry, logging.Logger):
            yield entry


# ---------------------------------------------------------------------- small things


def _plain(value: Any, path: str, depth: int = 0) -> Any:
    """Mappings and sequences of any kind (dictConfig's converting ones too) as dicts and lists; ``ext://`` resolved."""
    if depth > _MAX_DEPTH:
        raise _wrong(path, "nested too deeply, or contains itself")
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key], f"{path}.{key}", depth + 1) for key in value}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return [_plain(entry, f"{path}[{index}]", depth + 1) for index, entry in enumerate(value)]
    if isinstance(value, str) and value.startswith("ext://"):
        return _import(value[6:], path)
    return value


def _mutable(value: Any, path: str, depth: int = 0) -> Any:
    """Mappings and lists of one's own: `dictConfig` changes what it is given."""
    if depth > _MAX_DEPTH:
        raise _wrong(path, "nested too deeply, or contains itself")
    if isinstance(value, Mapping):
        return {key: _mutable(value[key], f"{path}.{key}", depth + 1) for key in value}
    if isinstance(value, list):
        return [_mutable(entry, f"{path}[{index}]", depth + 1) for index, entry in enumerate(value)]
    return value


def _import(dotted: str, path: str) -> Any:
    """What a dotted name stands for."""
    # Name by name, and nothing is imported that is there already: the lock of an import that another thread is at would
    # be taken for ever in a forked child.
    first, *names = dotted.split(".")
    module = first
    try:
        found: Any = import_module(first)
        for name in names:
            module = f"{module}.{name}"
            try:
                found = getattr(found, name)
            except AttributeError as err:
                if not isinstance(found, ModuleType):
                    raise
                try:
                    found = import_module(module)
                except ModuleNotFoundError as missing:
                    raise (err if missing.name == module else missing) from None
    except Exception as err:
        if isinstance(err, ModuleNotFoundError) and err.name == first:
            raise _wrong(path, f"{dotted!r} cannot be imported: there is no module {first!r}", err) from err
        kind = "" if isinstance(err, (AttributeError, ImportError)) else f"{type(err).__name__}: "
        raise _wrong(path, f"{dotted!r} cannot be imported: {kind}{err}", err) from err
    return found


def _check_key(path: str, check: Callable[[], None]) -> None:
    try:
        check()
    except (TypeError, ValueError) as err:
        raise _wrong(path, str(err), err) from err


def _within(path: str, err: BaseException, target: type | None = None) -> LogConfigurationError:
    """The same error, of something that stands at a path; ``target`` is the class whose option it may name."""
    text = str(err)
    inner = str(err.details.get("path", "")) if isinstance(err, LogConfigurationError) else text.partition(": ")[0]
    if inner and text.startswith(f"{inner}: ") and (target is None or inner.split(".")[0] in _known_options(target)):
        return LogConfigurationError(f"{path}.{text}", details={"path": f"{path}.{inner}"}, cause=err)
    return _wrong(path, text, err)


def _known_options(target: type) -> set[str]:
    _, config_type = getattr(target, "config_option", ("", None))
    return {*get_options(target), *_NESTED, *getattr(config_type, "__struct_fields__", ())}


def _wrong(path: str, text: str, cause: BaseException | None = None) -> LogConfigurationError:
    # What went wrong below often names the path already.
    full = text if text.startswith(path) else f"{path}: {text}"
    return LogConfigurationError(full, details={"path": path}, cause=cause)
