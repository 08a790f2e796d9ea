"""Row 12: whether deep namespaces, many contexts and many rules cost anything when an event is logged.

Each figure is relative to the smallest of its kind. *Nothing* is a ratio of 1.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import peers
from harness import Contest, Options, Results, Row, Side, measure_each, shorten, timed

from mvx_logger import (
    LogContext,
    LogContextHandler,
    PatternLogEventPolicy,
    PatternLogEventPolicyAction,
    PatternLogEventPolicyConfig,
    PatternLogEventPolicyRuleConfig,
    configure_log_context,
    reset_log_contexts,
)

NUMBERS = (12,)

DEPTHS = (1, 5, 10, 20)
CONTEXTS = (10, 100, 1_000, 10_000)
RULES = (1, 10, 100)
TOLERANCE = 1.1
"""So far from nothing is taken for noise and for the processor's caches."""
NATIVE = "logger.log_info_event('order.created', PAYLOAD)"
STANDARD = "logger.info('order %s created', 42)"
NEW = "rejected by an entity that is new each time"


def measure(options: Options) -> Iterable[Row]:
    """Measure the row."""
    return measure_each({12: measure_contexts}, options)


def measure_contexts(options: Options) -> Iterator[Row]:
    """Row 12: by depth, by the number of contexts, by the number of rules."""
    yield from _measure_depth(options)
    yield from _measure_number(options)
    yield from _measure_rules(options)


def _measure_depth(options: Options) -> Iterator[Row]:
    kinds = {
        "native event": partial(_log_natively, options.scaled(5_000)),
        "LogContextHandler": partial(_log_through_handler, options.scaled(2_000)),
    }
    with Contest() as contest:
        for kind, log in kinds.items():
            for depth in DEPTHS:
                namespace = ".".join(["bench", *(f"level{level}" for level in range(1, depth))])
                contest.add(f"{kind}, depth {depth}", _with_contexts([namespace], log))
        results = contest.run(options.rounds(15))
    for kind in kinds:
        yield from _relative(results, f"depth of the namespace, {kind}", f"{kind}, depth ", DEPTHS)


def _measure_number(options: Options) -> Iterator[Row]:
    kinds = {
        "native event": partial(_log_natively, options.scaled(5_000)),
        "LogContextHandler": partial(_log_through_handler, options.scaled(2_000)),
        "native event, each in its turn": partial(_log_in_turn, options.scaled(20_000)),
    }
    with Contest() as contest:
        for kind, log in kinds.items():
            for number in CONTEXTS:
                namespaces = [f"bench.package{index // 100}.module{index % 100}" for index in range(number)]
                contest.add(f"{kind}, contexts {number}", _with_contexts(namespaces, log))
        results = contest.run(options.rounds(9))
    for kind in kinds:
        in_turn = kind.endswith("turn")
        yield from _relative(
            results,
            f"number of contexts, {kind}",
            f"{kind}, contexts ",
            CONTEXTS,
            goal=None if in_turn else TOLERANCE,
            note="the processor's caches do not hold them all" if in_turn else "",
        )


def _with_contexts(namespaces: list[str], log: Callable[[list[LogContext]], Mapping[str, float]]) -> Side:
    """Measures with just these contexts (and those above them) in the registry."""

    def measure_once() -> Mapping[str, float]:
        reset_log_contexts()
        try:
            configure_log_context("bench", log_sink=peers.NullSink(), min_level=logging.INFO)
            return log([configure_log_context(namespace) for namespace in namespaces])
        finally:
            reset_log_contexts()

    return measure_once


def _log_natively(number: int, contexts: list[LogContext]) -> Mapping[str, float]:
    return timed(NATIVE, number, logger=contexts[len(contexts) // 2], PAYLOAD=peers.PAYLOAD)()


def _log_through_handler(number: int, contexts: list[LogContext]) -> Mapping[str, float]:
    logger = logging.Logger(contexts[len(contexts) // 2].namespace, logging.INFO)
    logger.addHandler(LogContextHandler())
    return timed(STANDARD, number, logger=logger)()


def _log_in_turn(number: int, contexts: list[LogContext]) -> Mapping[str, float]:
    statement = NATIVE.replace("logger.", "next(turns).")
    return timed(statement, number, turns=itertools.cycle(contexts), PAYLOAD=peers.PAYLOAD)()


def _measure_rules(options: Options) -> Iterator[Row]:
    number = options.scaled(10_000)
    kinds: dict[str, tuple[str, dict[str, Any], str]] = {
        "accepted by name": ("allow", {"event_names": ("order.*",)}, NATIVE),
        "rejected by name": ("deny", {"event_names": ("order.*",)}, NATIVE),
        "accepted by entity": ("allow", {"entity_ids": ("order-*",)}, NATIVE.replace(")", ", entity_id='order-42')")),
        "rejected by entity": ("deny", {"entity_ids": ("order-*",)}, NATIVE.replace(")", ", entity_id='order-42')")),
        NEW: ("deny", {"entity_ids": ("order-*",)}, NATIVE.replace(")", ", entity_id=next(ids))")),
    }
    with Contest() as contest:
        for kind, (action, selectors, statement) in kinds.items():
            for rules in RULES:
                context = peers.make_context(event_policy=_make_policy(rules, action, selectors))
                ids = map("order-{}".format, itertools.count())
                side = timed(statement, number, logger=context, PAYLOAD=peers.PAYLOAD, ids=ids)
                contest.add(f"{kind}, rules {rules}", side)
        results = contest.run(options.rounds(15))
    for kind in kinds:
        yield from _relative(
            results,
            f"number of rules, {kind}",
            f"{kind}, rules ",
            RULES,
            goal=None if kind == NEW else TOLERANCE,
            note="the last one matches",
        )


def _make_policy(rules: int, action: str, selectors: Mapping[str, tuple[str, ...]]) -> PatternLogEventPolicy:
    """So many rules of one kind, of which only the last one matches; it decides otherwise than the default."""
    others = [
        {name: tuple(f"other{index}.{pattern}" for pattern in patterns) for name, patterns in selectors.items()}
        for index in range(rules - 1)
    ]
    verdict = PatternLogEventPolicyAction(action)
    made = tuple(PatternLogEventPolicyRuleConfig(verdict, **given) for given in (*others, selectors))
    return PatternLogEventPolicy(PatternLogEventPolicyConfig(default_enabled=action == "deny", rules=made))


def _relative(
    results: Results,
    what: str,
    prefix: str,
    sizes: tuple[int, ...],
    *,
    goal: float | None = TOLERANCE,
    note: str = "",
) -> Iterator[Row]:
    kind, _, _ = prefix.rpartition(", ")
    for size in sizes[1:]:
        row = results.row(
            12,
            what,
            f"{prefix}{size}",
            f"{prefix}{sizes[0]}",
            goal=goal,
            note=note,
            judged=goal is not None and size == sizes[-1],
        )
        yield shorten(row, f"{kind}, ")
