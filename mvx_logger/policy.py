"""Which events are logged, decided by patterns on what `LogEventMeta` says about them.

Patterns are shell patterns (`fnmatch`): ``*`` is anything (dots and slashes too), ``?`` one character, ``[seq]`` and
``[!seq]`` one character of a set. They are case-sensitive on every platform and match the whole value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, TypeAlias, TypeVar

from msgspec import Struct
from msgspec.structs import force_setattr

from .errors import LogConfigurationError
from .model import LogEventMeta

__all__ = [
    "PatternLogEventPolicy",
    "PatternLogEventPolicyAction",
    "PatternLogEventPolicyConfig",
    "PatternLogEventPolicyRuleConfig",
]

_T = TypeVar("_T")

_NAME_SELECTORS = ("events", "event_namespaces", "event_names")
_OTHER_SELECTORS = ("entity_ids", "source_paths", "source_funcs")
_RULE_KEYS = ("action", *_NAME_SELECTORS, *_OTHER_SELECTORS)
_CONFIG_KEYS = ("default_enabled", "rules")

_MAX_VERDICTS = 4096
# Longer names are rendered messages rather than names: they hardly repeat, and keeping them costs memory.
_MAX_CACHED_TEXT = 256
# What so few rules say is found out as fast as it would be remembered for an entity that does not come back.
_FEW_RULES = 8


class PatternLogEventPolicyAction(StrEnum):
    """What a rule does with the events that it matches."""

    ALLOW = "allow"
    DENY = "deny"


class PatternLogEventPolicyRuleConfig(Struct, frozen=True):
    """One rule: which events it matches, and what happens to them.

    A selector is a tuple of patterns, of which one has to match. All selectors that are given have to match; an empty
    one accepts anything, so a rule without selectors matches every event. A value that the event does not have (no
    namespace, no entity id, no source) is matched by no pattern, not even ``*``: such an event is matched only by
    rules that leave the selector empty.

    Attributes:
        action: Allow or deny (a `PatternLogEventPolicyAction` or its value as a str).
        events: Patterns for ``namespace.event_name``; for an event without a namespace, for its name alone.
        event_namespaces: Patterns for the namespace.
        event_names: Patterns for the event's name.
        entity_ids: Patterns for the entity's id.
        source_paths: Patterns for the path of the source file.
        source_funcs: Patterns for the name of the function.

    Raises:
        TypeError: A selector is not a tuple, list or set of str (a single str is not a tuple of patterns), or
            ``action`` is not a str.
        ValueError: ``action`` is another str than ``"allow"`` and ``"deny"``.
    """

    action: PatternLogEventPolicyAction
    events: tuple[str, ...] = ()
    event_namespaces: tuple[str, ...] = ()
    event_names: tuple[str, ...] = ()
    entity_ids: tuple[str, ...] = ()
    source_paths: tuple[str, ...] = ()
    source_funcs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        force_setattr(self, "action", _action(self.action, "action"))
        for name in (*_NAME_SELECTORS, *_OTHER_SELECTORS):
            force_setattr(self, name, _patterns(getattr(self, name), name))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, path: str = "") -> PatternLogEventPolicyRuleConfig:
        """Build a rule from plain data, e.g. ``{"action": "deny", "event_names": ["cache.*"]}``.

        Args:
            mapping: The attributes by name; ``action`` is mandatory.
            path: Where the mapping stands in a larger configuration; errors put it before the field's name.

        Raises:
            LogConfigurationError: A key is unknown or missing, or a value has the wrong type; the text names its path,
                what was found and what would be right.
        """
        with_prefix = f"{path}." if path else ""
        data = _known_keys(mapping, _RULE_KEYS, path, "a rule")
        if "action" not in data:
            raise LogConfigurationError(
                f"{with_prefix}action: missing; expected 'allow' or 'deny'", details={"path": f"{with_prefix}action"}
            )
        action = _checked(_action, data.pop("action"), f"{with_prefix}action")
        return cls(action, **{key: _checked(_patterns, value, with_prefix + key) for key, value in data.items()})


class PatternLogEventPolicyConfig(Struct, frozen=True):
    """The rules of a `PatternLogEventPolicy`.

    Attributes:
        default_enabled: Whether an event that no rule matches is logged.
        rules: The rules in order; the first one that matches decides.

    Raises:
        TypeError: ``default_enabled`` is not a bool, or ``rules`` is not a tuple or list of
            `PatternLogEventPolicyRuleConfig`.
    """

    default_enabled: bool = True
    rules: tuple[PatternLogEventPolicyRuleConfig, ...] = ()

    def __post_init__(self) -> None:
        _bool(self.default_enabled, "default_enabled")
        rules = _rules(self.rules, "rules")
        for index, rule in enumerate(rules):
            if not isinstance(rule, PatternLogEventPolicyRuleConfig):
                raise TypeError(f"rules[{index}]: expected a PatternLogEventPolicyRuleConfig, got {_found(rule)}")
        force_setattr(self, "rules", rules)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, path: str = "") -> PatternLogEventPolicyConfig:
        """Build the configuration from plain data, e.g. from a configuration file.

        ``{"default_enabled": False, "rules": [{"action": "allow", "event_namespaces": ["shop", "shop.*"]}]}``

        Args:
            mapping: ``default_enabled`` and ``rules``, both optional. A rule is a mapping or a
                `PatternLogEventPolicyRuleConfig`.
            path: Where the mapping stands in a larger configuration; errors put it before the field's path.

        Raises:
            LogConfigurationError: A key is unknown or missing, or a value has the wrong type; the text names its path
                (such as ``rules[1].action``), what was found and what would be right.
        """
        with_prefix = f"{path}." if path else ""
        data = _known_keys(mapping, _CONFIG_KEYS, path, "a pattern policy")
        default_enabled = _checked(_bool, data.get("default_enabled", True), f"{with_prefix}default_enabled")
        given = _checked(_rules, data.get("rules", ()), f"{with_prefix}rules")
        rules = tuple(
            rule
            if isinstance(rule, PatternLogEventPolicyRuleConfig)
            else PatternLogEventPolicyRuleConfig.from_mapping(rule, path=f"{with_prefix}rules[{index}]")
            for index, rule in enumerate(given)
        )
        return cls(default_enabled=default_enabled, rules=rules)


def _found(value: object) -> str:
    """What was found, for an error text: the value itself only where it is short and plain."""
    if value is None or type(value) is bool or type(value) is int:
        return f"{value!r}"
    if type(value) is str:
        return f"the str {value[:60]!r}"
    return f"a value of type {type(value).__name__}"


def _known_keys(mapping: object, known: tuple[str, ...], path: str, what: str) -> dict[str, Any]:
    if not isinstance(mapping, Mapping):
        text = f"expected a mapping that describes {what}, got {_found(mapping)}"
        raise LogConfigurationError(f"{path}: {text}" if path else text, details={"path": path})
    data: dict[str, Any] = dict(mapping)
    for key in data:
        if key not in known:
            place = f"{path}.{key}" if path else f"{key}"
            raise LogConfigurationError(
                f"{place}: unknown key; {what} has the keys {', '.join(known)}", details={"path": place}
            )
    return data


def _checked(check: Callable[[object, str], _T], value: object, path: str) -> _T:
    try:
        return check(value, path)
    except (TypeError, ValueError) as error:
        raise LogConfigurationError(str(error), details={"path": path}) from None


def _action(value: object, path: str) -> PatternLogEventPolicyAction:
    if not isinstance(value, str):
        raise TypeError(f"{path}: expected 'allow' or 'deny', got {_found(value)}")
    try:
        return PatternLogEventPolicyAction(value)
    except ValueError:
        raise ValueError(f"{path}: expected 'allow' or 'deny', got {_found(value)}") from None


def _bool(value: object, path: str) -> bool:
    if type(value) is not bool:
        raise TypeError(f"{path}: expected True or False, got {_found(value)}")
    return value


def _rules(value: object, path: str) -> tuple[Any, ...]:
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{path}: expected a list or tuple of rules, got {_found(value)}")
    return tuple(value)


def _patterns(value: object, path: str) -> tuple[str, ...]:
    # A str is iterable too: taken as it is, every character of it would be a pattern.
    if isinstance(value, str):
        raise TypeError(f"{path}: expected a list or tuple of patterns, got {_found(value)}; write [{value[:60]!r}]")
    if not isinstance(value, (tuple, list, set, frozenset)):
        raise TypeError(f"{path}: expected a list or tuple of patterns, got {_found(value)}")
    items: tuple[Any, ...] = tuple(value)
    for index, pattern in enumerate(items):
        if not isinstance(pattern, str):
            raise TypeError(f"{path}[{index}]: expected a pattern as a str, got {_found(pattern)}")
    return items


_Selector: TypeAlias = Callable[[str], object]


def _is_exact(pattern: str) -> bool:
    return not any(char in pattern for char in "*?[")


def _compile(patterns: tuple[str, ...]) -> _Selector:
    """One test for all patterns of a field: a set lookup where none has a wildcard, else one regular expression."""
    exact = frozenset(pattern for pattern in patterns if _is_exact(pattern))
    if len(exact) == len(patterns):
        return exact.__contains__
    from fnmatch import translate  # here: nothing else that the core imports needs it

    match = re.compile("|".join(translate(pattern) for pattern in patterns)).match
    if not exact:
        return match
    return lambda value: value in exact or match(value)


class _Index:
    """Leaves out most of the rules that a value of one field cannot match, without asking each of them.

    A set of rules is an int: the first rule is its lowest bit. A pattern that is a plain text, or one with a star before
    or behind it, is found by a lookup of the value or of as much of its end or beginning.
    """

    __slots__ = ("_lookups", "_others", "_unasked", "cost")

    def __init__(self, selectors: Iterable[tuple[str, ...]]) -> None:
        self._unasked = 0  # the rules that do not look at the field: they accept None as well
        self._others = 0  # the rules that no lookup finds
        tables: dict[tuple[int | None, int | None], dict[str, int]] = {}
        for index, patterns in enumerate(selectors):
            rule = 1 << index
            if not patterns:
                self._unasked |= rule
            for pattern in patterns:
                start = stop = None
                if pattern.endswith("*"):
                    pattern = pattern[:-1]
                    stop = len(pattern)
                elif pattern.startswith("*"):
                    pattern = pattern[1:]
                    start = -len(pattern)
                if _is_exact(pattern):
                    table = tables.setdefault((start, stop), {})
                    table[pattern] = table.get(pattern, 0) | rule
                else:
                    self._others |= rule
        self._lookups = tuple((slice(*part), table) for part, table in tables.items())
        self.cost = len(self._lookups)

    def find(self, value: str | None) -> int:
        """The rules that may match the value: all that do, and few others."""
        found = self._unasked
        if value is not None:
            found |= self._others
            for part, table in self._lookups:
                found |= table.get(value[part], 0)
        return found


class _Rule:
    """A compiled rule. A selector that was not given is None."""

    __slots__ = ("bit", "by_name", "enabled", "entity_id", "event", "func", "name", "namespace", "path")

    def __init__(self, config: PatternLogEventPolicyRuleConfig, index: int) -> None:
        self.bit = 1 << index
        self.enabled = config.action is PatternLogEventPolicyAction.ALLOW
        self.event = _compile(config.events) if config.events else None
        self.namespace = _compile(config.event_namespaces) if config.event_namespaces else None
        self.name = _compile(config.event_names) if config.event_names else None
        self.entity_id = _compile(config.entity_ids) if config.entity_ids else None
        self.path = _compile(config.source_paths) if config.source_paths else None
        self.func = _compile(config.source_funcs) if config.source_funcs else None
        self.by_name = not (config.entity_ids or config.source_paths or config.source_funcs)

    def matches_name(self, event: str, namespace: str | None, name: str) -> bool:
        return bool(
            (self.name is None or self.name(name))
            and (self.namespace is None or (namespace is not None and self.namespace(namespace)))
            and (self.event is None or self.event(event))
        )


class _Open:
    """What is left to decide about a name: rules that also look at the entity or the source."""

    __slots__ = ("bits", "first", "key", "otherwise", "rest", "with_entity_id", "with_func", "with_path")

    def __init__(self, rules: tuple[_Rule, ...], otherwise: bool) -> None:
        self.first = rules[:_FEW_RULES]
        self.rest = rules[_FEW_RULES:]
        self.otherwise = otherwise
        self.with_entity_id = any(rule.entity_id is not None for rule in rules)
        self.with_path = any(rule.path is not None for rule in rules)
        self.with_func = any(rule.func is not None for rule in rules)
        self.bits = sum(rule.bit for rule in self.rest)
        # The same for all names of which the same is left to decide.
        self.key = sum(rule.bit for rule in rules) << 1 | otherwise


def _ask(rules: Iterable[_Rule], entity_id: str | None, path: str | None, func: str | None) -> bool | None:
    """What the first of the rules that matches says; None where none does."""
    for rule in rules:
        if (
            ((accepts := rule.entity_id) is None or (entity_id is not None and accepts(entity_id)))
            and ((accepts := rule.func) is None or (func is not None and accepts(func)))
            and ((accepts := rule.path) is None or (path is not None and accepts(path)))
        ):
            return rule.enabled
    return None


def _text(value: object) -> str | None:
    """A field of a meta as patterns see it; only a bug in the caller makes it anything but a str."""
    if value is None or type(value) is str:
        return value
    try:
        # A subclass of str (an enumeration's member) is what it holds: that is also what a dict compares.
        return str.__str__(value) if isinstance(value, str) else f"{value!s:.1024}"
    except Exception:
        return f"<{type(value).__name__}>"


class PatternLogEventPolicy:
    """Decides by patterns; the first rule that matches decides.

    What the rules say about a namespace and name is worked out once and remembered for the last few thousand names, so
    the number of rules costs nothing per event. Rules that look at the entity or the source are asked for each event
    where few of them speak of its name; else what they said is remembered too, and of those that compare with a text, or
    with a text before or behind a star, only the ones that can match are asked. Safe to use from any thread.

    Attributes:
        decides_by_name: True when no rule looks at the entity's id or at the source: the verdict is then the same for
            all events with one namespace and name, and a caller may remember it.
    """

    __slots__ = (
        "_config",
        "_entity_ids",
        "_funcs",
        "_lookups",
        "_paths",
        "_rules",
        "_verdicts",
        "_verdicts_further",
        "decides_by_name",
    )

    def __init__(self, config: PatternLogEventPolicyConfig) -> None:
        """Compile the rules.

        Args:
            config: The rules and the default.

        Raises:
            TypeError: ``config`` is something else.
        """
        if not isinstance(config, PatternLogEventPolicyConfig):
            raise TypeError(f"config: expected a PatternLogEventPolicyConfig, got {type(config).__name__}")
        self._config = config
        self._rules = tuple(_Rule(rule, index) for index, rule in enumerate(config.rules))
        self._entity_ids = _Index(rule.entity_ids for rule in config.rules)
        self._paths = _Index(rule.source_paths for rule in config.rules)
        self._funcs = _Index(rule.source_funcs for rule in config.rules)
        self._lookups = self._entity_ids.cost + self._paths.cost + self._funcs.cost
        self._verdicts: dict[tuple[str | None, str], bool | _Open] = {}
        self._verdicts_further: dict[tuple[int, str | None, str | None, str | None], bool] = {}
        # What a subclass decides instead is not known here.
        decides = type(self).is_event_enabled is PatternLogEventPolicy.is_event_enabled
        self.decides_by_name: bool = decides and all(rule.by_name for rule in self._rules)

    @property
    def config(self) -> PatternLogEventPolicyConfig:
        """The configuration that the policy was made from."""
        return self._config

    def __repr__(self) -> str:
        return f"PatternLogEventPolicy({self._config!r})"

    def is_event_enabled(self, event: LogEventMeta) -> bool:
        """True when the first rule that matches the event allows it, or none matches and the default is True."""
        try:
            verdict = self._verdicts.get((event.event_namespace, event.event_name))
        except Exception:  # a name that cannot be hashed or compared is no plain str
            verdict = None
        if verdict is None:
            verdict = self._decide_by_name(event.event_namespace, event.event_name)
        if verdict is True or verdict is False:
            return verdict
        return self._decide_further(verdict, event)

    def _decide_further(self, left: _Open, event: LogEventMeta) -> bool:
        # A field that no rule looks at must not keep a verdict from being found again. What is no plain str must not
        # be compared with what is remembered: 1 and True are equal, their texts are not.
        entity_id = path = func = None
        if left.with_entity_id and (entity_id := event.entity_id) is not None and type(entity_id) is not str:
            entity_id = _text(entity_id)
        if left.with_path and (path := event.source_path) is not None and type(path) is not str:
            path = _text(path)
        if left.with_func and (func := event.source_func) is not None and type(func) is not str:
            func = _text(func)
        if not left.rest:
            verdict = _ask(left.first, entity_id, path, func)
            return left.otherwise if verdict is None else verdict
        verdicts = self._verdicts_further
        key = None
        if len(entity_id or "") + len(path or "") + len(func or "") <= _MAX_CACHED_TEXT:
            key = (left.key, entity_id, path, func)
            verdict = verdicts.get(key)
            if verdict is not None:
                return verdict
        verdict = _ask(left.first, entity_id, path, func)
        if verdict is None:
            verdict = _ask(self._find_rest(left, entity_id, path, func), entity_id, path, func)
            if verdict is None:
                verdict = left.otherwise
            if key is not None:
                if len(verdicts) >= _MAX_VERDICTS:
                    verdicts.clear()
                verdicts[key] = verdict
        return verdict

    def _find_rest(self, left: _Open, entity_id: str | None, path: str | None, func: str | None) -> Iterable[_Rule]:
        """The rest of the rules, without most of those that do not match; in their order."""
        rest = left.rest
        if not self._lookups or len(rest) <= 4 * (2 + self._lookups):  # asking them all takes hardly longer
            return rest
        bits = left.bits & self._entity_ids.find(entity_id) & self._paths.find(path) & self._funcs.find(func)
        if 2 * bits.bit_count() > len(rest):
            return rest
        found = []
        while bits:
            index = bits.bit_length() - 1
            found.append(self._rules[index])
            bits ^= 1 << index
        found.reverse()
        return found

    def _decide_by_name(self, raw_namespace: object, raw_name: object) -> bool | _Open:
        namespace, name = _text(raw_namespace), _text(raw_name) or ""
        event = f"{namespace}.{name}" if namespace else name
        undecided: list[_Rule] = []
        otherwise = self._config.default_enabled
        for rule in self._rules:
            if not rule.matches_name(event, namespace, name):
                continue
            if rule.by_name:
                otherwise = rule.enabled
                break
            undecided.append(rule)
        verdict = _Open(tuple(undecided), otherwise) if undecided else otherwise
        if len(event) <= _MAX_CACHED_TEXT:
            verdicts = self._verdicts
            if len(verdicts) >= _MAX_VERDICTS:
                verdicts.clear()
            verdicts[namespace, name] = verdict
        return verdict
