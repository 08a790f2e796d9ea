"""Row 11: whether the cost of a payload grows with what is kept of it, and not with what is cut.

Each payload is logged to a sink that does nothing, once with the default limits and once with limits so wide that all of it
is kept. *Linear* is a ratio of 1: what a payload costs that is ten times as large, divided by ten times the cost of the
smaller one. What is cut is to cost nothing: there the two costs themselves are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import peers
from harness import Contest, Options, Results, Row, Side, compile_loop, measure_each, spread, timed

from mvx_logger import LogPayloadProcessor

NUMBERS = (11,)

KEYS = (1, 10, 100, 1_000)
DEPTHS = (1, 2, 3, 4, 5)
DEEP = (7, 70)
"""Deeper than the default limit: the payload itself and 5 levels below it."""
LENGTHS = (10, 100, 1_000, 10_000, 100_000)
TOLERANCE = 1.25
"""So far from linear, or from no cost at all, is taken for noise and for the processor's caches."""
STATEMENT = "logger.log_info_event('order.created', payload)"


def measure(options: Options) -> Iterable[Row]:
    """Measure the row."""
    return measure_each({11: measure_payloads}, options)


def measure_payloads(options: Options) -> Iterator[Row]:
    """Row 11: by the number of keys, by depth, by the length of a string."""
    yield from _measure_keys(options)
    yield from _measure_depth(options)
    yield from _measure_strings(options)


def _measure_keys(options: Options) -> Iterator[Row]:
    payloads = {
        f"{keys:,} key{'s' if keys > 1 else ''}": {f"key_{index}": index for index in range(keys)} for keys in KEYS
    }
    results = _measure(payloads, options)
    note = "a tenth of the cost of ten times as many keys"
    for larger, smaller in (("100 keys", "10 keys"), ("1,000 keys", "100 keys")):
        yield _compare(
            results,
            f"keys kept, {smaller.split()[0]} to {larger.split()[0]}: linear",
            f"all of {larger}",
            f"all of {smaller}",
            10,
            note=note,
            judged=True,
        )
    yield _compare(
        results,
        "keys cut: no cost",
        "1,000 keys, limited",
        "100 keys, limited",
        1,
        note="10 are kept of both",
        judged=True,
    )
    yield _compare(
        results,
        "keys cut: what it costs that there are too many",
        "1,000 keys, limited",
        "10 keys, limited",
        1,
        note="10 are kept of both; where there are more, not the short cut for small payloads but the general way is taken",
        goal=None,
    )
    yield from _beside(results, payloads)


def _measure_depth(options: Options) -> Iterator[Row]:
    payloads = {f"depth {depth}": _nest(depth) for depth in (*DEPTHS, *DEEP)}
    results = _measure(payloads, options)
    for deeper in DEPTHS[2:]:
        factor = (deeper - 1) / (DEPTHS[1] - 1)
        yield _compare(
            results,
            f"levels kept, up to {deeper}: linear",
            f"depth {deeper}, limited",
            f"depth {DEPTHS[1]}, limited",
            factor,
            base=f"depth {DEPTHS[0]}, limited",
            note=f"what {deeper - 1} levels add, divided by {factor:g} times what one adds; three values in each",
            judged=deeper == DEPTHS[-1],
        )
    yield _compare(
        results,
        "levels cut: no cost",
        f"depth {DEEP[1]}, limited",
        f"depth {DEEP[0]}, limited",
        1,
        note="the payload and 5 levels below it are kept of both",
        judged=True,
    )
    yield from _beside(results, payloads)


def _measure_strings(options: Options) -> Iterator[Row]:
    payloads = {f"str of {length:,}": {"text": "x" * length} for length in LENGTHS}
    results = _measure(payloads, options)
    yield _compare(
        results,
        "characters cut: no cost",
        "str of 100,000, limited",
        "str of 1,000, limited",
        1,
        note="200 are kept of both",
        judged=True,
    )
    yield _compare(
        results,
        "characters kept: no cost",
        "all of str of 100,000",
        "all of str of 10",
        1,
        note="a str is kept as it is, not copied",
        judged=True,
    )
    yield from _beside(results, payloads)


def _nest(depth: int) -> dict[str, Any]:
    """A payload that is so many dicts deep, itself the first, with three values in each."""
    payload: dict[str, Any] = {"order_id": "order-42", "amount": 3, "paid": True}
    for _ in range(depth - 1):
        payload = {"order_id": "order-42", "amount": 3, "paid": True, "inner": payload}
    return payload


def _measure(payloads: Mapping[str, Any], options: Options) -> Results:
    wide = LogPayloadProcessor(max_items=1_000_000, max_str_len=10_000_000, max_depth=1_000)
    orjson = partial(_encoding, "orjson", "orjson")
    standard = partial(_encoding, "json", "json")
    with Contest() as contest:
        for name, payload in payloads.items():
            limited, unlimited = peers.make_context(), peers.make_context(processor=wide)
            contest.add(f"{name}, limited", _timed(options, STATEMENT, logger=limited, payload=payload))
            contest.add(f"all of {name}", _timed(options, STATEMENT, logger=unlimited, payload=payload))
            contest.open(f"orjson, {name}", partial(orjson, payload, options))
            contest.open(f"json, {name}", partial(standard, payload, options))
        return contest.run(options.rounds(15))


@contextmanager
def _encoding(module: str, distribution: str, payload: Any, options: Options) -> Iterator[Side]:
    dumps = peers.load(module, distribution).dumps
    yield _timed(options, "dumps(payload)", dumps=dumps, payload=payload)


def _timed(options: Options, statement: str, **names: Any) -> Side:
    """As many executions as take about 10 ms. The first ones are dearer: so would be what is executed less often."""
    _, cpu = compile_loop(statement, names)(100)
    return timed(statement, options.scaled(round(10_000_000 / (cpu / 100))), **names)


def _compare(
    results: Results,
    what: str,
    larger: str,
    smaller: str,
    factor: float,
    *,
    base: str | None = None,
    note: str = "",
    goal: float | None = TOLERANCE,
    judged: bool = False,
) -> Row:
    row = results.row(11, what, larger, smaller, goal=goal, base=base, note=note, judged=judged)
    if row.ratio is None:
        return row
    ratio = spread([value / factor for value in results.ratios(larger, smaller, base=base)])
    return replace(row, ratio=ratio.median, low=ratio.low, high=ratio.high)


def _beside(results: Results, payloads: Iterable[str]) -> Iterator[Row]:
    """The cost of each payload beside that of encoding it, which a sink does later and once."""
    for name in payloads:
        names = {
            "all kept": f"all of {name}",
            "default limits": f"{name}, limited",
            "orjson": f"orjson, {name}",
            "json": f"json, {name}",
        }
        peer = "orjson" if results.has(names["orjson"]) else "json"
        row = results.row(11, f"payload: {name}", names["all kept"], names[peer])
        absolute = {short: results.median(side) for short, side in names.items() if results.has(side)}
        yield replace(row, ours="all kept", peer=f"{peer}.dumps", absolute=absolute)
