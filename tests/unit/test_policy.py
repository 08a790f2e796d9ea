"""Pattern policies: what they match, what they remember, and what a wrong configuration is told."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvx_logger.errors import LogConfigurationError
from mvx_logger.model import LogEventMeta
from mvx_logger.policy import (
    PatternLogEventPolicy,
    PatternLogEventPolicyAction,
    PatternLogEventPolicyConfig,
    PatternLogEventPolicyRuleConfig,
    _Index,
)
from mvx_logger.protocols import LogEventPolicyProto

ALLOW = PatternLogEventPolicyAction.ALLOW
DENY = PatternLogEventPolicyAction.DENY
Config = PatternLogEventPolicyConfig
Rule = PatternLogEventPolicyRuleConfig

ORDER_CREATED = LogEventMeta("shop.orders", "order.created", "order-42", "/srv/shop/orders.py", 7, "create")


def policy(*rules: Rule, default_enabled: bool = True) -> PatternLogEventPolicy:
    return PatternLogEventPolicy(Config(default_enabled=default_enabled, rules=rules))


SELECTORS = ("events", "event_namespaces", "event_names", "entity_ids", "source_paths", "source_funcs")


def ask_one_by_one(rules: Sequence[Rule], default: bool, meta: LogEventMeta) -> bool:
    """The verdict by the definition: each pattern of each rule by itself."""
    full = f"{meta.event_namespace}.{meta.event_name}" if meta.event_namespace else meta.event_name
    found = (full, meta.event_namespace, meta.event_name, meta.entity_id, meta.source_path, meta.source_func)
    for rule in rules:
        if all(
            not (wanted := getattr(rule, selector))
            or (value is not None and any(fnmatchcase(value, pattern) for pattern in wanted))
            for selector, value in zip(SELECTORS, found, strict=True)
        ):
            return rule.action is ALLOW
    return default


def matches(rule: Rule, meta: LogEventMeta = ORDER_CREATED) -> bool:
    return not policy(rule).is_event_enabled(meta)


class TestMatching:
    @pytest.mark.parametrize(
        ("selector", "pattern", "expected"),
        [
            ("events", "shop.orders.order.created", True),
            ("events", "shop.*", True),
            ("events", "order.created", False),
            ("event_namespaces", "shop.orders", True),
            ("event_namespaces", "shop", False),
            ("event_namespaces", "*.orders", True),
            ("event_names", "order.?reated", True),
            ("event_names", "order.[a-d]reated", True),
            ("event_names", "order.[!a-d]reated", False),
            ("event_names", "order", False),
            ("entity_ids", "order-*", True),
            ("entity_ids", "order-43", False),
            ("source_paths", "*/shop/*.py", True),
            ("source_paths", "*.pyc", False),
            ("source_funcs", "create", True),
            ("source_funcs", "creat", False),
        ],
    )
    def test_each_selector_looks_at_its_own_field(self, selector: str, pattern: str, expected: bool) -> None:
        """A selector's patterns are compared with the whole of the field that it is named after."""
        assert matches(Rule(DENY, **{selector: (pattern,)})) is expected

    def test_all_selectors_of_a_rule_have_to_match(self) -> None:
        """Selectors are joined by AND."""
        assert matches(Rule(DENY, event_names=("order.*",), entity_ids=("order-*",), source_funcs=("create",)))
        for wrong in ({"event_names": ("x",)}, {"entity_ids": ("x",)}, {"source_funcs": ("x",)}, {"events": ("x",)}):
            selectors = {"event_names": ("order.*",), "entity_ids": ("order-*",), "source_funcs": ("create",)} | wrong
            assert not matches(Rule(DENY, **selectors))

    def test_one_pattern_of_a_selector_is_enough(self) -> None:
        """Patterns are joined by OR, exact ones and ones with wildcards alike."""
        for patterns in (("x", "order.created"), ("x*", "order.*"), ("x*", "order.created"), ("x", "y?", "order.*")):
            assert matches(Rule(DENY, event_names=patterns))
        assert not matches(Rule(DENY, event_names=("x", "y*")))

    def test_a_rule_without_selectors_matches_every_event(self) -> None:
        """No selector means any event, also one that has nothing but a name."""
        assert matches(Rule(DENY))
        assert matches(Rule(DENY), LogEventMeta(None, "started"))

    @pytest.mark.parametrize("selector", ["event_namespaces", "entity_ids", "source_paths", "source_funcs"])
    def test_a_value_that_the_event_does_not_have_is_matched_by_no_pattern(self, selector: str) -> None:
        """None is not even matched by a star."""
        assert not matches(Rule(DENY, **{selector: ("*",)}), LogEventMeta(None, "started"))
        assert matches(Rule(DENY, **{selector: ("*",)}))

    @pytest.mark.parametrize("namespace", [None, ""])
    def test_an_event_without_a_namespace_is_its_name_alone(self, namespace: str | None) -> None:
        """`events` compares with the bare name where there is no namespace."""
        assert matches(Rule(DENY, events=("started",)), LogEventMeta(namespace, "started"))
        assert not matches(Rule(DENY, events=("*.started",)), LogEventMeta(namespace, "started"))

    def test_patterns_are_case_sensitive_wherever_they_run(self) -> None:
        """Upper and lower case differ, for paths on Windows too."""
        assert not matches(Rule(DENY, event_names=("Order.*",)))
        assert not matches(Rule(DENY, event_names=("Order.created",)))
        assert not matches(Rule(DENY, source_paths=("/SRV/*",)))

    def test_a_name_with_line_breaks_is_matched_as_a_whole(self) -> None:
        """Message templates are names too."""
        meta = LogEventMeta("shop", "first line\nsecond line\n")
        assert matches(Rule(DENY, event_names=("first*",)), meta)
        assert not matches(Rule(DENY, event_names=("first line",)), meta)
        assert not matches(Rule(DENY, event_names=("*second line",)), meta)

    def test_a_bracket_that_is_not_closed_is_itself(self) -> None:
        """What looks like the beginning of a set but is none stands for itself."""
        assert matches(Rule(DENY, event_names=("[db",)), LogEventMeta(None, "[db"))

    @settings(deadline=None)
    @given(
        st.text("ab.*?[]!-A\n", max_size=6),
        st.lists(st.text("ab.*?[]!-A\n", max_size=6), min_size=1, max_size=4),
    )
    def test_patterns_mean_what_fnmatch_means(self, name: str, patterns: list[str]) -> None:
        """However the patterns are compiled, the verdict is that of `fnmatch.fnmatchcase`, pattern by pattern."""
        expected = any(fnmatchcase(name, pattern) for pattern in patterns)
        assert matches(Rule(DENY, event_names=tuple(patterns)), LogEventMeta(None, name)) is expected
        assert matches(Rule(DENY, entity_ids=tuple(patterns)), LogEventMeta(None, "x", name)) is expected


class TestRules:
    def test_the_first_rule_that_matches_decides(self) -> None:
        """Order counts: a later rule is not asked."""
        rules = (Rule(ALLOW, event_names=("order.created",)), Rule(DENY, event_names=("order.*",)))
        assert policy(*rules).is_event_enabled(ORDER_CREATED)
        assert not policy(*reversed(rules)).is_event_enabled(ORDER_CREATED)

    @pytest.mark.parametrize("default", [True, False])
    def test_the_default_decides_where_no_rule_matches(self, default: bool) -> None:
        """An event that no rule speaks of is logged or not as `default_enabled` says."""
        rules = (Rule(DENY, event_names=("x",)), Rule(ALLOW, entity_ids=("x",)))
        assert policy(*rules, default_enabled=default).is_event_enabled(ORDER_CREATED) is default
        assert policy(default_enabled=default).is_event_enabled(ORDER_CREATED) is default

    def test_rules_on_names_and_rules_on_entities_keep_their_order(self) -> None:
        """A rule that looks at the entity is asked in its place between rules that only look at names."""
        mixed = policy(
            Rule(ALLOW, event_names=("order.paid",)),
            Rule(DENY, entity_ids=("test-*",)),
            Rule(ALLOW, event_namespaces=("shop",)),
            Rule(DENY, source_funcs=("debug_*",)),
            default_enabled=False,
        )
        enabled = mixed.is_event_enabled
        assert enabled(LogEventMeta("shop", "order.paid", "test-1"))
        assert not enabled(LogEventMeta("shop", "order.created", "test-1"))
        assert enabled(LogEventMeta("shop", "order.created", "order-1"))
        assert enabled(LogEventMeta("shop", "order.created", "order-1", None, None, "debug_x"))
        assert not enabled(LogEventMeta("bank", "order.created", "order-1", None, None, "debug_x"))
        assert not enabled(LogEventMeta("bank", "order.created"))

    @settings(deadline=None)
    @given(st.data())
    def test_what_is_remembered_never_changes_a_verdict(self, data: st.DataObject) -> None:
        """Asked again and in any order, a policy says what asking rule after rule says."""
        words = st.sampled_from(["a", "b", "a.b", "c"])
        patterns = st.lists(st.sampled_from(["a", "b*", "*.b", "*"]), max_size=2).map(tuple)
        rules = data.draw(
            st.lists(
                st.builds(Rule, st.sampled_from([ALLOW, DENY]), **dict.fromkeys(SELECTORS, patterns)), max_size=4
            ).map(tuple)
        )
        default = data.draw(st.booleans())
        tested = policy(*rules, default_enabled=default)
        maybe = st.none() | words
        metas = st.builds(LogEventMeta, maybe, words, maybe, maybe, st.none(), maybe)
        for meta in data.draw(st.lists(metas, min_size=1, max_size=8)) * 2:
            assert tested.is_event_enabled(meta) is ask_one_by_one(rules, default, meta)

    @settings(deadline=None)
    @given(st.data())
    def test_many_rules_say_what_asking_them_one_by_one_says(self, data: st.DataObject) -> None:
        """However many rules there are and whatever they look at, the first one that matches decides, each time."""
        action = st.sampled_from([ALLOW, DENY])
        pattern = st.text("ab*?[]!-.\n", max_size=3) | st.sampled_from(["a*", "*b", "*", "ab", "*a*", "[!a]*", "x7"])
        patterns = st.lists(pattern, max_size=2).map(tuple)
        looks_at = st.sampled_from([SELECTORS, SELECTORS[3:], SELECTORS[3:4], SELECTORS[4:]])
        telling = looks_at.flatmap(lambda names: st.builds(Rule, action, **dict.fromkeys(names, patterns)))
        # Rules that hardly ever match, before, between and behind those that do.
        selector = data.draw(st.sampled_from(SELECTORS[3:]))
        form = data.draw(st.sampled_from(["x{}", "x{}*", "*x{}", "?x{}"]))
        fillers = [
            Rule(data.draw(action), **{selector: (form.format(index),)})
            for index in range(data.draw(st.integers(0, 3)))
        ]
        rules: list[Rule] = []
        for rule in data.draw(st.lists(telling, max_size=5)):
            rules += [*fillers * data.draw(st.sampled_from([0, 1, 10])), rule]
        rules += fillers * data.draw(st.sampled_from([0, 1, 30]))
        default = data.draw(st.booleans())
        tested = policy(*rules, default_enabled=default)
        value = st.none() | st.text("ab.\n-[", max_size=3) | st.sampled_from(["x0", "x2y", "yx1", "ab" * 200])
        name = st.sampled_from(["", "a", "b", "a.b\n"])
        metas = st.builds(LogEventMeta, st.none() | name, name, value, value, st.none() | st.just(7), value)
        asked = data.draw(st.lists(metas, min_size=1, max_size=8))
        for meta in [*asked, *reversed(asked), *asked]:
            assert tested.is_event_enabled(meta) is ask_one_by_one(rules, default, meta)

    @pytest.mark.parametrize("selector", ["entity_ids", "source_paths", "source_funcs"])
    @pytest.mark.parametrize("form", ["order-{}", "order-{}.*", "*/order-{}", "?rder-{}.*"])
    def test_each_of_a_hundred_rules_is_found(self, selector: str, form: str) -> None:
        """The place of a rule among many does not matter, and one that stands before it wins."""
        field = {"entity_ids": "entity_id", "source_paths": "source_path", "source_funcs": "source_func"}[selector]
        rules = tuple(Rule(ALLOW if index % 3 else DENY, **{selector: (form.format(index),)}) for index in range(100))
        for given_rules in (
            rules,
            (*rules, Rule(DENY, **{selector: ("*",)})),
            (Rule(ALLOW, source_funcs=("x",)), *rules),
        ):
            tested = policy(*given_rules)
            for index in (*range(102), *range(0, 102, 7)):
                value = form.format(index).replace("*", "x").replace("?", "o")
                meta = LogEventMeta("shop", "a", **{field: value})
                assert tested.is_event_enabled(meta) is ask_one_by_one(given_rules, True, meta)

    def test_few_of_many_rules_are_asked(self) -> None:
        """The index finds those that may match: by the text, its beginning, its end; the others and the open ones always."""
        index = _Index([("ab",), ("ab*",), ("*bc",), ("?x",), (), ("abc", "*c")])
        found = {
            value: [rule for rule in range(6) if index.find(value) >> rule & 1]
            for value in ("ab", "abc", "a", "x", None)
        }
        assert found == {"ab": [0, 1, 3, 4], "abc": [1, 2, 3, 4, 5], "a": [3, 4], "x": [3, 4], None: [4]}

    def test_names_of_which_other_rules_speak_do_not_share_a_verdict(self) -> None:
        """What was said about an entity under one name says nothing about it under another name."""
        fillers = tuple(Rule(DENY, entity_ids=(f"x{index}",)) for index in range(40))
        rules = (
            *fillers,
            Rule(DENY, event_names=("a",), entity_ids=("order-*",)),
            Rule(ALLOW, event_names=("b",), entity_ids=("order-*",)),
            Rule(DENY, event_names=("b", "c"), entity_ids=("order-*",), source_funcs=("f",)),
            Rule(ALLOW, event_names=("d",)),
            *fillers,
            Rule(ALLOW, event_names=("e",), entity_ids=("order-*",), source_funcs=("f",)),
            Rule(ALLOW, event_names=("f",)),
            Rule(DENY, event_names=("g",)),
        )
        for default in (True, False):
            tested = policy(*rules, default_enabled=default)
            for name in "abcdefghgfedcba":
                for entity_id in ("order-1", "order-2", "x7", None):
                    for func in ("f", "g", None):
                        meta = LogEventMeta("shop", name, entity_id, None, None, func)
                        assert tested.is_event_enabled(meta) is ask_one_by_one(rules, default, meta)


class TestDecidesByName:
    def test_it_is_true_where_rules_look_at_names_only(self) -> None:
        """A context may then remember the verdict by namespace and name."""
        assert policy().decides_by_name
        assert policy(
            Rule(DENY), Rule(ALLOW, events=("a",), event_namespaces=("b",), event_names=("c",))
        ).decides_by_name

    @pytest.mark.parametrize("selector", ["entity_ids", "source_paths", "source_funcs"])
    def test_it_is_false_where_one_rule_looks_further(self, selector: str) -> None:
        """One such rule is enough, wherever it stands."""
        assert not policy(Rule(DENY, event_names=("a",)), Rule(DENY, **{selector: ("a",)})).decides_by_name

    def test_it_is_false_for_a_subclass_that_decides_otherwise(self) -> None:
        """What it looks at is not known; a subclass that only adds something is as good as the class."""

        class ByLine(PatternLogEventPolicy):
            def is_event_enabled(self, event: LogEventMeta) -> bool:
                return event.source_line != 7

        class Named(PatternLogEventPolicy):
            name = "shop"

        assert not ByLine(Config()).decides_by_name
        assert Named(Config()).decides_by_name


class TestPolicy:
    def test_it_is_an_event_policy(self) -> None:
        """A context accepts it."""
        assert isinstance(policy(), LogEventPolicyProto)

    def test_it_tells_its_configuration(self) -> None:
        """The configuration can be read back, and equal ones compare equal."""
        config = Config(default_enabled=False, rules=(Rule(DENY, events=("a",)),))
        assert PatternLogEventPolicy(config).config == Config.from_mapping(
            {"default_enabled": False, "rules": [{"action": "deny", "events": ["a"]}]}
        )
        assert "events=('a',)" in repr(PatternLogEventPolicy(config))

    def test_something_else_than_a_configuration_is_refused(self) -> None:
        """The error names the argument and the type that was found."""
        with pytest.raises(TypeError, match="config: expected a PatternLogEventPolicyConfig, got dict"):
            PatternLogEventPolicy({"rules": []})  # type: ignore[arg-type]

    def test_ever_new_names_do_not_fill_the_memory(self) -> None:
        """A program that logs rendered messages as names gets right verdicts, and what is remembered stays bounded."""
        tested = policy(Rule(DENY, event_names=("*7",)))
        for index in range(10_000):
            tested.is_event_enabled(LogEventMeta("shop", f"warm up {index} {'x' * 50}"))
        tracemalloc.start()
        for index in range(30_000):
            assert tested.is_event_enabled(LogEventMeta("shop", f"order {index}")) is (index % 10 != 7)
        for index in range(3_000):
            assert tested.is_event_enabled(LogEventMeta("shop", f"{'x' * 10_000}{index}")) is (index % 10 != 7)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 3_000_000

    @pytest.mark.parametrize("form", ["*-{}7", "order-{}*", "?rder-{}"])
    def test_ever_new_entities_do_not_fill_the_memory(self, form: str) -> None:
        """Entities that never come back, and very long ids, get right verdicts; what is remembered stays bounded."""
        rules = tuple(Rule(DENY, entity_ids=(form.format(index),), source_funcs=("f",)) for index in range(20))
        tested = policy(*rules)

        def ask(entity_id: str) -> None:
            meta = LogEventMeta("shop", "order.created", entity_id, None, None, "f")
            assert tested.is_event_enabled(meta) is ask_one_by_one(rules, True, meta)

        ask("order-0")
        tracemalloc.start()
        for index in range(20_000):
            if index % 20:
                tested.is_event_enabled(LogEventMeta("shop", "order.created", f"order-{index}", None, None, "f"))
            else:
                ask(f"order-{index}")
        for index in range(300):
            ask(f"order-{'1' * 100_000}{index}")
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 3_000_000

    def test_threads_get_the_same_verdicts(self) -> None:
        """Many threads, many names and entities: each verdict is right."""
        others = tuple(Rule(DENY, entity_ids=(f"x{index}-*",)) for index in range(30))
        tested = policy(Rule(DENY, event_names=("*7",)), *others, Rule(DENY, entity_ids=("*3",)))

        def ask(offset: int) -> bool:
            return all(
                tested.is_event_enabled(LogEventMeta("shop", f"order {index}")) is (index % 10 != 7)
                and tested.is_event_enabled(LogEventMeta("shop", "order", f"{index}")) is (index % 10 != 3)
                for index in range(offset, offset + 3_000)
            )

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(ask, range(0, 8_000, 1_000)))

    def test_a_name_that_is_no_str_is_compared_as_its_text(self) -> None:
        """What a careless bridge hands over does not raise."""

        class Unprintable:
            def __str__(self) -> str:
                raise RuntimeError

        class NoHash(str):
            __slots__ = ()

            def __hash__(self) -> int:
                raise RuntimeError

        tested = policy(
            Rule(DENY, event_names=("404", "*a*", "<Unprintable>", "secret")), Rule(DENY, entity_ids=("7",))
        )
        for name in (404, ["a"], Unprintable(), NoHash("secret")):
            assert not tested.is_event_enabled(LogEventMeta(None, name))  # type: ignore[arg-type]
        assert not tested.is_event_enabled(LogEventMeta(None, "x", 7))  # type: ignore[arg-type]
        assert tested.is_event_enabled(LogEventMeta(5, None))  # type: ignore[arg-type]

    @pytest.mark.parametrize("selector", ["entity_ids", "source_paths", "source_funcs"])
    @pytest.mark.parametrize("others", [0, 50])
    def test_a_field_that_is_no_str_is_compared_as_its_text(self, others: int, selector: str) -> None:
        """Equal values are not taken for each other: the texts of ``1``, ``1.0`` and ``True`` differ."""

        class Liar(str):
            __slots__ = ()

            def __eq__(self, other: object) -> bool:
                raise RuntimeError

            def __hash__(self) -> int:
                raise RuntimeError

        fillers = (Rule(ALLOW, **{selector: (f"x{index}",)}) for index in range(others))
        tested = policy(*fillers, Rule(DENY, **{selector: ("1", "[[]*", "secret")}))
        verdicts = {"1": False, "1.0": True, "True": True, "[2]": False, "secret": False}
        for value in (1, True, 1.0, "1", "True", [2], Liar("secret"), "secret", True, 1, 1.0) * 2:
            meta = LogEventMeta(None, "x", **{selector[:-1]: value})
            assert tested.is_event_enabled(meta) is verdicts[f"{value!s}"]

    def test_a_name_of_a_class_of_its_own_is_the_text_that_it_holds(self) -> None:
        """Whether the plain name was seen before or not: a str is what it holds, whatever it prints as."""

        class Name(str):
            __slots__ = ()

            def __str__(self) -> str:
                return "Name.PAID"

        for names in (("order.paid", Name("order.paid")), (Name("order.paid"), "order.paid")):
            tested = policy(Rule(DENY, event_names=("order.paid",), entity_ids=("order.paid",)))
            for name in names:
                assert not tested.is_event_enabled(LogEventMeta("shop", name, name))


class TestConfiguration:
    def test_an_action_may_be_given_by_its_value(self) -> None:
        """The str of a data file becomes the action."""
        rule = Rule("deny")  # type: ignore[arg-type]
        assert rule.action is DENY

    def test_lists_and_sets_become_tuples(self) -> None:
        """A configuration is immutable and hashable whatever it was made from."""
        rule = Rule(DENY, events=["a"], event_names={"b"})  # type: ignore[arg-type]
        assert rule == Rule(DENY, events=("a",), event_names=("b",))
        config = Config(rules=[rule])  # type: ignore[arg-type]
        assert hash(config) == hash(Config(rules=(rule,)))
        with pytest.raises(AttributeError):
            config.rules = ()  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("arguments", "error", "text"),
        [
            ({"action": "maybe"}, ValueError, "action: expected 'allow' or 'deny', got the str 'maybe'"),
            ({"action": None}, TypeError, "action: expected 'allow' or 'deny', got None"),
            ({"events": "shop.*"}, TypeError, "events: expected a list or tuple of patterns, got the str 'shop.*'"),
            ({"events": 5}, TypeError, "events: expected a list or tuple of patterns, got 5"),
            ({"events": {"a": 1}}, TypeError, "events: expected a list or tuple of patterns, got a value of type dict"),
            ({"event_names": ("a", 5)}, TypeError, "event_names[1]: expected a pattern as a str, got 5"),
        ],
    )
    def test_a_wrong_rule_is_refused_where_it_is_made(self, arguments: Any, error: type, text: str) -> None:
        """The error names the field, what was found and what would be right; a str is not taken character by character."""
        with pytest.raises(error) as caught:
            Rule(**({"action": DENY} | arguments))
        assert str(caught.value).startswith(text)

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"default_enabled": 1}, "default_enabled: expected True or False, got 1"),
            ({"rules": "deny"}, "rules: expected a list or tuple of rules, got the str 'deny'"),
            ({"rules": Rule(DENY)}, "rules: expected a list or tuple of rules, got a value of type Pattern"),
            (
                {"rules": ({"action": "deny"},)},
                "rules[0]: expected a PatternLogEventPolicyRuleConfig, got a value of type dict",
            ),
        ],
    )
    def test_a_wrong_policy_is_refused_where_it_is_made(self, arguments: Any, text: str) -> None:
        """The error names the field, what was found and what would be right."""
        with pytest.raises(TypeError) as caught:
            Config(**arguments)
        assert str(caught.value).startswith(text)


class TestFromMapping:
    def test_plain_data_makes_the_same_as_code(self) -> None:
        """Everything that can be written in Python can be written in a data file."""
        config = Config.from_mapping(
            {
                "default_enabled": False,
                "rules": [
                    {"action": "allow", "event_namespaces": ["shop", "shop.*"], "entity_ids": []},
                    Rule(DENY, source_funcs=("f",)),
                    {"action": DENY},
                ],
            }
        )
        assert config == Config(
            default_enabled=False,
            rules=(Rule(ALLOW, event_namespaces=("shop", "shop.*")), Rule(DENY, source_funcs=("f",)), Rule(DENY)),
        )
        assert Config.from_mapping({}) == Config()

    @pytest.mark.parametrize(
        ("mapping", "text", "path"),
        [
            (None, "expected a mapping that describes a pattern policy, got None", ""),
            ([], "expected a mapping that describes a pattern policy, got a value of type list", ""),
            (
                {"default": True},
                "default: unknown key; a pattern policy has the keys default_enabled, rules",
                "default",
            ),
            ({5: True}, "5: unknown key; a pattern policy has the keys default_enabled, rules", "5"),
            (
                {"default_enabled": "yes"},
                "default_enabled: expected True or False, got the str 'yes'",
                "default_enabled",
            ),
            ({"rules": {}}, "rules: expected a list or tuple of rules, got a value of type dict", "rules"),
            ({"rules": ["deny"]}, "rules[0]: expected a mapping that describes a rule, got the str 'deny'", "rules[0]"),
            ({"rules": [{}]}, "rules[0].action: missing; expected 'allow' or 'deny'", "rules[0].action"),
            (
                {"rules": [{"action": "deny"}, {"action": "dny"}]},
                "rules[1].action: expected 'allow' or 'deny', got the str 'dny'",
                "rules[1].action",
            ),
            ({"rules": [{"action": 1}]}, "rules[0].action: expected 'allow' or 'deny', got 1", "rules[0].action"),
            (
                {"rules": [{"action": "deny", "event": ["a"]}]},
                "rules[0].event: unknown key; a rule has the keys action, events, event_namespaces, event_names, "
                "entity_ids, source_paths, source_funcs",
                "rules[0].event",
            ),
            (
                {"rules": [{"action": "deny", "events": "shop.*"}]},
                "rules[0].events: expected a list or tuple of patterns, got the str 'shop.*'; write ['shop.*']",
                "rules[0].events",
            ),
            (
                {"rules": [{"action": "deny", "events": ["a", None]}]},
                "rules[0].events[1]: expected a pattern as a str, got None",
                "rules[0].events",
            ),
        ],
    )
    def test_what_is_wrong_is_named_with_its_path(self, mapping: Any, text: str, path: str) -> None:
        """The error says where, what was found, and what would be right."""
        with pytest.raises(LogConfigurationError) as caught:
            Config.from_mapping(mapping)
        assert str(caught.value) == text
        assert caught.value.details == {"path": path}

    def test_the_path_begins_where_the_configuration_is_nested(self) -> None:
        """A larger configuration passes its own path on."""
        for mapping, path in (
            ({"rules": [{"action": "x"}]}, "contexts.shop.policy.rules[0].action"),
            ({"x": 1}, "contexts.shop.policy.x"),
            ({"default_enabled": None}, "contexts.shop.policy.default_enabled"),
            (5, "contexts.shop.policy"),
        ):
            with pytest.raises(LogConfigurationError) as caught:
                Config.from_mapping(mapping, path="contexts.shop.policy")  # type: ignore[arg-type]
            assert str(caught.value).startswith(f"{path}: ")

    def test_a_single_rule_can_be_read_too(self) -> None:
        """`PatternLogEventPolicyRuleConfig.from_mapping` stands on its own."""
        assert Rule.from_mapping({"action": "deny", "events": ["a"]}) == Rule(DENY, events=("a",))
        with pytest.raises(LogConfigurationError, match=r"^action: missing"):
            Rule.from_mapping({"events": ["a"]})

    @settings(deadline=None)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(st.sampled_from(["rules", "action", "events", "default_enabled"]), inner)
            ),
        )
    )
    def test_any_data_is_a_configuration_or_a_clear_error(self, data: Any) -> None:
        """Nothing but `LogConfigurationError` comes out of wrong data, and what is accepted works."""
        try:
            config = Config.from_mapping(data)
        except LogConfigurationError:
            return
        assert PatternLogEventPolicy(config).is_event_enabled(ORDER_CREATED) in (True, False)
