"""What the rows of the benchmark suite are made of: sides that take turns, and ratios within one round.

A row compares *sides*: ours and those of the peers. A side is a callable that measures once and returns its figures by name,
such as ``{"wall": 812.0, "cpu": 807.5}``. A `Contest` runs every side once in each round, in an order that rotates, so that
a noisy machine is noisy for everyone. A result is a ratio of two sides *within one round*; the median over the rounds is
reported, with the quartiles as its spread, beside the absolute medians.

A module in ``rows/`` has ``NUMBERS``, the numbers of its rows, and ``measure``, which ``run.py`` calls::

    NUMBERS = (2,)

    def measure(options: Options) -> Iterable[Row]:
        return measure_each({2: measure_native}, options)

    def measure_native(options: Options) -> Iterable[Row]:
        number = options.scaled(5_000)
        with Contest() as contest:
            contest.add("ours", timed("ctx.log_info_event('order.created')", number, ctx=make_context()))
            contest.add("logging", timed("logger.info('order created')", number, logger=make_logger()))
            contest.open("loguru", open_loguru)  # left out, and said so, when it raises PeerMissing
            results = contest.run(options.rounds(15))
        yield results.row(2, "native event", "ours", "logging", goal=0.30, judged=True)
        yield results.row(2, "native event", "ours", "loguru")

A side that raises is left out of the rounds that follow, and the rows that need it say what went wrong.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal, Self

__all__ = [
    "Contest",
    "Options",
    "PeerMissing",
    "Results",
    "Row",
    "Side",
    "Spread",
    "compile_loop",
    "measure_each",
    "shorten",
    "spread",
    "timed",
]

Side = Callable[[], Mapping[str, float]]
"""Measures once; returns figures by name. All figures are positive."""

SMALLEST = 1.0
"""A difference of two sides that is smaller, in the unit of the figure, is taken to be this: noise may make it negative."""
_WARM_UP = 1_000


class PeerMissing(Exception):  # noqa: N818 - no error: the row is left out
    """A peer is not installed; the text says which."""


@dataclass(frozen=True)
class Options:
    """What is to be measured, and how long it may take.

    Attributes:
        numbers: The rows that are wanted; None for all.
        given_rounds: The number of rounds, where the user has said it.
        scale: What the usual number of calls and events is multiplied by.
        max_rounds: No row takes more rounds of its own will.
    """

    numbers: frozenset[int] | None = None
    given_rounds: int | None = None
    scale: float = 1.0
    max_rounds: int | None = None

    def wants(self, number: int) -> bool:
        """Whether the row is to be measured."""
        return self.numbers is None or number in self.numbers

    def scaled(self, usual: int, smallest: int = 10) -> int:
        """How many calls, events or bytes, given the number in an ordinary run; ``smallest`` at least."""
        return max(smallest, round(usual * self.scale))

    def rounds(self, usual: int = 15) -> int:
        """How many rounds, given the number in an ordinary run."""
        if self.given_rounds is not None:
            return self.given_rounds
        return usual if self.max_rounds is None else min(usual, self.max_rounds)


@dataclass(frozen=True)
class Row:
    """One line of the result.

    Attributes:
        number: The number of the row, 1 to 14; several `Row` may have the same (variants, and peers beside).
        what: What is measured, the variant included.
        goal: What the ratio is to be at most (``better="lower"``) or at least (``"higher"``); None where there is no goal.
        better: Which ratios are better.
        ours: The name of our side, a key of ``absolute``.
        peer: The name of the peer's side; for a figure without a peer, what it is measured against.
        ratio: Ours divided by the peer's: the median over the rounds. Where the goal is an absolute figure, ours divided by
            it, and the goal is 1. None when it could not be measured: then ``note`` or ``error`` says why.
        low: The lower quartile of the ratio.
        high: The upper quartile.
        absolute: Median figures of the sides by name, in ``unit``; further figures may stand here too.
        unit: Such as ``ns``, ``events/s``, ``bytes``, ``s``.
        note: What the reader has to know besides.
        judged: The goal of the issue is judged by this row.
        error: What went wrong; then the run ends with status 1.
    """

    number: int
    what: str
    goal: float | None = None
    better: Literal["lower", "higher"] = "lower"
    ours: str = "ours"
    peer: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    absolute: Mapping[str, float] = field(default_factory=dict)
    unit: str = "ns"
    note: str = ""
    judged: bool = False
    error: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None where there is none, or no figure."""
        if self.goal is None or self.ratio is None:
            return None
        return self.ratio <= self.goal if self.better == "lower" else self.ratio >= self.goal


@dataclass(frozen=True)
class Spread:
    """The median of some figures and their quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """The median and the quartiles; of a single value, the value itself."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def timed(
    statement: str,
    number: int,
    *,
    after: Callable[[], object] | None = None,
    setup: Callable[[], object] | None = None,
    **names: Any,
) -> Side:
    """A side that executes a statement over and over: ``wall`` and ``cpu`` are nanoseconds for one execution.

    The statement stands in the loop itself, without a function around it, and what an empty loop takes is subtracted.
    ``cpu`` is the time that the calling thread had a processor. The garbage collector runs as it does in any program.

    Args:
        statement: One line of Python.
        number: How often it is executed in one measurement. Before the first one it is executed some times unmeasured.
        after: Called after each measurement, outside of the clock, e.g. to empty a queue.
        setup: Called before each measurement, outside of the clock.
        **names: The global variables that the statement uses.
    """
    loop, empty = compile_loop(statement, names), compile_loop("pass", {})
    is_warm = False

    def measure() -> Mapping[str, float]:
        nonlocal is_warm
        if setup is not None:
            setup()
        if not is_warm:
            is_warm = True
            loop(min(number, _WARM_UP))
            if after is not None:
                after()
        empty_wall, empty_cpu = empty(number)
        wall, cpu = loop(number)
        if after is not None:
            after()
        return {
            "wall": max((wall - empty_wall) / number, SMALLEST),
            "cpu": max((cpu - empty_cpu) / number, SMALLEST),
        }

    return measure


def compile_loop(statement: str, names: Mapping[str, Any]) -> Callable[[int], tuple[int, int]]:
    """A function that executes a statement so many times, and returns the nanoseconds on the clock and of CPU time.

    Args:
        statement: One line of Python.
        names: The global variables that it uses.
    """
    source = (
        "def loop(_number):\n"
        "    _cpu, _wall = _thread_time_ns(), _perf_counter_ns()\n"
        "    for _ in _repeat(None, _number):\n"
        f"        {statement}\n"
        "    return _perf_counter_ns() - _wall, _thread_time_ns() - _cpu\n"
    )
    variables = {
        **names,
        "_repeat": itertools.repeat,
        "_perf_counter_ns": time.perf_counter_ns,
        "_thread_time_ns": time.thread_time_ns,
    }
    exec(compile(source, f"<{statement}>", "exec"), variables)
    loop: Callable[[int], tuple[int, int]] = variables["loop"]
    return loop


class Results:
    """What the sides of a contest measured.

    Attributes:
        figures: For each side, for each figure, its values, one a round.
        missing: Why a side did not take part: the peer is not installed.
        errors: What went wrong with a side.
    """

    def __init__(
        self,
        figures: Mapping[str, Mapping[str, Sequence[float]]],
        missing: Mapping[str, str],
        errors: Mapping[str, str],
    ) -> None:
        self.figures = figures
        self.missing = missing
        self.errors = errors

    def has(self, *sides: str) -> bool:
        """Whether all of these sides were measured."""
        return all(side in self.figures for side in sides)

    def values(self, side: str, figure: str = "wall", base: str | None = None) -> list[float]:
        """A figure of a side in each round; with ``base``, what the side takes more than that one in the same round."""
        values = self.figures[side][figure]
        if base is None:
            return list(values)
        return [max(own - less, SMALLEST) for own, less in zip(values, self.figures[base][figure], strict=True)]

    def median(self, side: str, figure: str = "wall", base: str | None = None) -> float:
        """The median of a figure over the rounds."""
        return statistics.median(self.values(side, figure, base))

    def ratios(self, ours: str, peer: str, figure: str = "wall", base: str | None = None) -> list[float]:
        """Ours divided by the peer's, in each round."""
        pairs = zip(self.values(ours, figure, base), self.values(peer, figure, base), strict=True)
        return [own / other for own, other in pairs]

    def row(
        self,
        number: int,
        what: str,
        ours: str,
        peer: str,
        *,
        goal: float | None = None,
        better: Literal["lower", "higher"] = "lower",
        figure: str = "wall",
        base: str | None = None,
        unit: str = "ns",
        note: str = "",
        judged: bool = False,
    ) -> Row:
        """The row that compares two sides.

        Where one of them was not measured, the row has no ratio and says why.

        Args:
            number: The number of the row.
            what: What is measured.
            ours: Our side.
            peer: The peer's side.
            goal: What the ratio is to reach.
            better: Whether lower or higher ratios are better.
            figure: Which figure of the sides is compared.
            base: A side whose figure is subtracted from both, in each round.
            unit: The unit of the figure.
            note: What the reader has to know besides.
            judged: The goal of the issue is judged by this row.
        """
        common: dict[str, Any] = {
            "number": number, "what": what, "goal": goal, "better": better, "ours": ours, "peer": peer, "unit": unit,
            "judged": judged,
        }  # fmt: skip
        needed = [side for side in (ours, peer, base) if side is not None]
        if not self.has(*needed):
            reasons = [self.missing[side] for side in needed if side in self.missing]
            errors = [f"{side}: {self.errors[side]}" for side in needed if side in self.errors]
            return Row(**common, note="; ".join(reasons) or note, error="; ".join(errors))
        ratio = spread(self.ratios(ours, peer, figure, base))
        absolute = {side: self.median(side, figure) for side in needed}
        return Row(
            **common, ratio=ratio.median, low=ratio.low, high=ratio.high, absolute=absolute, note=note
        )  # fmt: skip


class Contest:
    """The sides of a row, or of several rows that are measured together. What was opened is closed at the end.

    Attributes:
        stack: What is entered or registered here is closed with the contest.
    """

    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()
        self._sides: dict[str, Side] = {}
        self._missing: dict[str, str] = {}
        self._errors: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.__exit__(kind, error, trace)

    def add(self, name: str, side: Side) -> None:
        """Add a side."""
        if name in self._sides:
            raise ValueError(f"{name!r} takes part already")
        self._sides[name] = side

    def open(self, name: str, make: Callable[[], AbstractContextManager[Side]]) -> None:
        """Add the side that a context manager gives. One that raises `PeerMissing` is left out, and the row says so."""
        try:
            self.add(name, self.stack.enter_context(make()))
        except PeerMissing as missing:
            self._missing[name] = str(missing)
        except Exception as error:
            traceback.print_exc()
            self._errors[name] = _describe(error)

    def run(self, rounds: int) -> Results:
        """Run the rounds: in each of them every side once, beginning with another one each time.

        The garbage is collected before each measurement.
        """
        figures: dict[str, dict[str, list[float]]] = {name: {} for name in self._sides}
        for number in range(rounds):
            names = [name for name in self._sides if name not in self._errors]
            start = number % len(names) if names else 0
            for name in names[start:] + names[:start]:
                gc.collect()
                try:
                    measured = self._sides[name]()
                except Exception as error:
                    traceback.print_exc()
                    self._errors[name] = _describe(error)
                    continue
                for figure, value in measured.items():
                    figures[name].setdefault(figure, []).append(value)
        complete = {name: values for name, values in figures.items() if name not in self._errors}
        return Results(complete, dict(self._missing), dict(self._errors))


def measure_each(measures: Mapping[int, Callable[[Options], Iterable[Row]]], options: Options) -> Iterator[Row]:
    """The rows that are wanted, of several functions by number. One that raises does not keep the others from running."""
    for number, measure in measures.items():
        if not options.wants(number):
            continue
        try:
            yield from measure(options)
        except PeerMissing as missing:
            yield Row(number, "", note=str(missing))
        except Exception as error:
            traceback.print_exc()
            yield Row(number, "", error=_describe(error))


def shorten(row: Row, prefix: str) -> Row:
    """The row with a prefix taken from the names of its sides that they share, and that ``what`` has."""
    return replace(
        row,
        ours=row.ours.removeprefix(prefix),
        peer=row.peer.removeprefix(prefix),
        absolute={name.removeprefix(prefix): value for name, value in row.absolute.items()},
    )


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
