"""What importing `mvx_logger` costs beside importing what it stands on, `logging` and `msgspec`.

Fresh interpreters take turns, so that a noisy machine disturbs both sides alike; the medians are compared. The modules
are compiled before the first measurement.

Run: ``python benchmarks/import_time.py [ROUNDS]``
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

BASE = "import logging, msgspec"
OURS = f"{BASE}, mvx_logger"
PROGRAM = "from time import perf_counter_ns as now\nstart = now()\n{}\nprint(now() - start)"


def measure(statement: str) -> float:
    """Milliseconds that a fresh interpreter takes for an import statement."""
    # An environment that keeps Python from writing bytecode would have every interpreter compile the package anew.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", PROGRAM.format(statement)]
    run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return int(run.stdout) / 1e6


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 41
    for statement in (BASE, OURS):
        measure(statement)
    base: list[float] = []
    ours: list[float] = []
    for _ in range(rounds):
        base.append(measure(BASE))
        ours.append(measure(OURS))
    for statement, times in ((BASE, base), (OURS, ours)):
        print(f"{statement:35} {statistics.median(times):7.2f} ms (median), {min(times):7.2f} ms (best)")
    ratio = statistics.median(ours) / statistics.median(base)
    print(f"ratio {ratio:.3f} (median), {min(ours) / min(base):.3f} (best), of {rounds} rounds")


if __name__ == "__main__":
    main()
