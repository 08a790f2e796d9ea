"""Row 13: what ``import mvx_logger`` costs beside importing what it stands on, `logging` and `msgspec`.

Fresh interpreters take turns. What is measured is the statement alone, without the start of the interpreter. The
modules are compiled before the first measurement.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterable, Iterator
from functools import partial

from fresh import run_program
from harness import Contest, Options, PeerMissing, Row, Side, measure_each

NUMBERS = (13,)

BASE = "import logging, msgspec"
OURS = "import mvx_logger"
PEERS = ("structlog", "loguru", "logbook", "picologging", "opentelemetry.sdk._logs")
PROGRAM = "from time import perf_counter_ns as now\nstart = now()\n{}\nprint(now() - start)"


@contextlib.contextmanager
def importing(statement: str) -> Iterator[Side]:
    """The side that executes an import statement, which has been executed once."""
    module = statement.split()[-1]
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # the package that it is in
        found = None
    if found is None:
        raise PeerMissing(f"{module} is not installed")

    def run() -> dict[str, float]:
        return {"wall": float(run_program(PROGRAM.format(statement)))}

    run()
    yield run


def measure_imports(options: Options) -> Iterable[Row]:
    """Row 13."""
    with Contest() as contest:
        for statement in (BASE, OURS, *(f"import {module}" for module in PEERS)):
            contest.open(statement, partial(importing, statement))
        results = contest.run(options.rounds(41))
    yield results.row(13, OURS, OURS, BASE, goal=1.3, judged=True, note="in a fresh interpreter, without its start")
    for module in PEERS:
        yield results.row(13, OURS, OURS, f"import {module}")


def measure(options: Options) -> Iterable[Row]:
    """The rows of this module."""
    return measure_each({13: measure_imports}, options)
