"""``mvx-logger check``: what a configuration would make, as a tree, without making it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from rich.text import Text
from rich.tree import Tree

from ..bridge.config import ConfigurationPlan, ContextPlan, SinkPlan, load_configuration, plan_configuration, plan_sink
from ..errors import LogConfigurationError
from ..formats.text import level_name
from ..options import get_options
from ..payload import LogPayloadProcessor
from ..policy import PatternLogEventPolicy
from .render import format_value

__all__ = ["draw", "plan_file"]

_DICT_CONFIG_KEYS = frozenset(
    {"handlers", "loggers", "formatters", "filters", "disable_existing_loggers", "incremental"}
)
# What of a foreign handler may be shown: anything else may be a password.
_HARMLESS = ("filename", "stream", "mode", "encoding", "maxBytes", "backupCount", "when", "interval", "target")


def plan_file(path: str) -> ConfigurationPlan:
    """Check a configuration file: one of ours, or a plain one for `logging.config.dictConfig`.

    Raises:
        LogConfigurationError: Something is wrong; the text says where and what would be right.
    """
    data = load_configuration(path)
    if _DICT_CONFIG_KEYS.intersection(data):
        return plan_configuration({"logging": data})
    return plan_configuration(data)


def draw(path: str, plan: ConfigurationPlan) -> Tree:
    """The tree of sinks, contexts, loggers and handlers. Shows no secret."""
    tree = Tree(Text(path, "bold"))
    if plan.sinks:
        branch = tree.add(Text("sinks", "bold cyan"))
        for name, sink in plan.sinks.items():
            _add_sink(branch, sink, name)
    if plan.contexts:
        _add_contexts(tree.add(Text("contexts", "bold cyan")), plan.contexts)
    if plan.logging is not None:
        _add_logging(tree.add(Text("logging", "bold cyan")), plan.logging, tuple(plan.sinks))
    if not tree.children:
        tree.add(Text("nothing: the configuration is empty", "dim"))
    return tree


# ---------------------------------------------------------------------- sinks


def _line(name: str, *parts: str, **pairs: Any) -> Text:
    line = Text().append(name, "bold")
    for part in parts:
        line.append(" " if line else "").append(part)
    for key, value in pairs.items():
        line.append(f" {key}=", "dim").append(format_value(_readable(value)))
    return line


def _readable(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("hidden:"):
        return "***"
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return [_readable(item) for item in value]
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    return getattr(value, "value", str(value))


def _add_sink(tree: Tree, plan: SinkPlan, name: str = "") -> None:
    if plan.name is not None:
        tree.add(_line(name, f"→ {plan.name}"))
        return
    descriptor = plan.descriptor
    kind = type(plan.sink).__name__ if descriptor is None else descriptor.sink_type
    if plan.parts:
        branch = tree.add(_line(name, kind, **_without_defaults(plan, plan.options)))
        for part in plan.parts.values():
            for entry in [part] if isinstance(part, SinkPlan) else part:
                _add_sink(branch, entry)
        return
    if descriptor is None:
        tree.add(_line(name, kind))
        return
    options = {
        entry[0]: entry[1]
        for entry in descriptor.config_key
        if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str)
    }
    place = [format_value(_readable(part)) for part in descriptor.resource_key]
    tree.add(_line(name, kind, *place, **_without_defaults(plan, options)))


def _without_defaults(plan: SinkPlan, options: Mapping[str, Any]) -> dict[str, Any]:
    defaults: dict[str, Any] = {}
    for option in get_options(plan.sink_cls).values():
        defaults[option.name] = option.default
    for value in plan.options.values():
        if isinstance(value, msgspec.Struct):  # a configuration object: its fields are options too
            for field in msgspec.structs.fields(type(value)):
                defaults[field.name] = field.default
    return {
        name: value
        for name, value in options.items()
        if value not in (None, ()) and _readable(value) != _readable(defaults.get(name))
    }


# ---------------------------------------------------------------------- contexts


def _add_contexts(tree: Tree, contexts: Iterable[ContextPlan]) -> None:
    planned = {context.namespace: context for context in contexts}
    branches: dict[str, Tree] = {"": tree.add(_context_line("(root)", planned.get("")))}
    if "" in planned:
        _add_settings(branches[""], planned[""])
    for namespace in planned:
        names = namespace.split(".") if namespace else []
        for end in range(1, len(names) + 1):
            own = ".".join(names[:end])
            if own not in branches:
                branches[own] = branches[".".join(names[: end - 1])].add(_context_line(own, planned.get(own)))
                if own in planned:
                    _add_settings(branches[own], planned[own])


def _context_line(label: str, plan: ContextPlan | None) -> Text:
    pairs: dict[str, Any] = {}
    if plan is not None:
        if "min_level" in plan.settings:
            pairs["min_level"] = level_name(plan.settings["min_level"])
        if "log_error_handling_policy" in plan.settings:
            pairs["errors"] = plan.settings["log_error_handling_policy"]
    return _line(label, **pairs)


def _add_settings(tree: Tree, plan: ContextPlan) -> None:
    if plan.sink is not None:
        _add_sink(tree, plan.sink, "sink")
    policy = plan.settings.get("event_policy")
    if isinstance(policy, PatternLogEventPolicy):
        branch = tree.add(
            _line("policy", "allows" if policy.config.default_enabled else "denies", "what no rule names")
        )
        for rule in policy.config.rules:
            patterns = {
                name: list(value)
                for name in rule.__struct_fields__
                if name != "action" and (value := getattr(rule, name))
            }
            branch.add(_line(rule.action.value, **patterns))
    elif policy is not None:
        tree.add(_line("policy", type(policy).__name__))
    processor = plan.settings.get("payload_processor")
    if isinstance(processor, LogPayloadProcessor):
        limits = {
            name: getattr(processor, name) for name in ("verbosity_level", "max_str_len", "max_items", "max_depth")
        }
        tree.add(_line("processor", **limits))
    elif processor is not None:
        tree.add(_line("processor", type(processor).__name__))


# ---------------------------------------------------------------------- the standard library


def _add_logging(tree: Tree, section: Mapping[str, Any], names: tuple[str, ...]) -> None:
    handlers = section.get("handlers", {})
    loggers = {str(name): logger for name, logger in section.get("loggers", {}).items()}
    root = tree.add(_logger_line("(root logger)", section.get("root", {})))
    used: set[str] = set()
    _add_handlers(root, section.get("root", {}), handlers, names, used)
    branches: dict[str, Tree] = {"": root}
    for name in sorted(loggers):
        parent = name
        while parent not in branches:
            parent = parent.rpartition(".")[0]
        branches[name] = branches[parent].add(_logger_line(name, loggers[name]))
        _add_handlers(branches[name], loggers[name], handlers, names, used)
    for name in handlers:
        if name not in used:
            line = _handler_line(name, handlers[name])
            tree.add(line.append(" (attached to no logger)", "yellow"))


def _logger_line(name: str, logger: Mapping[str, Any]) -> Text:
    pairs: dict[str, Any] = {}
    if logger.get("level") is not None:
        pairs["level"] = logger["level"]
    if logger.get("propagate") is False:
        pairs["propagate"] = False
    return _line(name, **pairs)


def _add_handlers(
    tree: Tree, logger: Mapping[str, Any], handlers: Mapping[str, Any], names: tuple[str, ...], used: set[str]
) -> None:
    for name in logger.get("handlers") or ():
        used.add(str(name))
        handler = handlers.get(name, {})
        branch = tree.add(_handler_line(str(name), handler))
        spec = handler.get("sink")
        if spec is None:
            continue
        try:
            plan = plan_sink(spec, path=f"logging.handlers.{name}.sink", names=names)
        except LogConfigurationError:  # a handler of somebody else's, with a "sink" of its own
            continue
        _add_sink(branch, plan, "sink")


def _handler_line(name: str, handler: Mapping[str, Any]) -> Text:
    factory = handler.get("()", handler.get("class"))
    label = factory if isinstance(factory, str) else getattr(factory, "__qualname__", "handler")
    pairs = {key: handler[key] for key in ("level", "formatter", "filters", "context", *_HARMLESS) if key in handler}
    return Text().append("⇒ ", "dim").append_text(_line(name, label, **pairs))
