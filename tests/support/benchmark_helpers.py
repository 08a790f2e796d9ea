"""How the benchmarks are run by their tests."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(script: str, *options: str) -> str:
    """What a benchmark prints."""
    command = [sys.executable, str(BENCHMARKS / script), *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


def run_json(script: str, *options: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(run(script, "--json", *options))
    assert report["python"] == sys.version.split()[0]
    return report


def find_row_numbers() -> set[int]:
    """The numbers of all rows that a module in ``rows`` says it measures."""
    numbers: set[int] = set()
    for file in (BENCHMARKS / "rows").glob("*.py"):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NUMBERS":
                numbers.update(ast.literal_eval(node.value))
    return numbers


def run_suite(*options: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the suite, after some code that finds the modules of the suite importable."""
    code = f"import sys; sys.path.insert(0, sys.argv.pop(1))\n{before}\nimport run; sys.exit(run.main())"
    command = [sys.executable, "-c", code, str(BENCHMARKS), *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)


def check_soak(*options: str) -> None:
    """Soak a sink; whatever the destination does, all events arrive but for the refused ones, and the accounts say so."""
    report = run_json("soak.py", "--events", "6000", "--refuse-every", "500", *options)
    assert report["wrong"] == {}
    assert report["accepted"] == 6_000
    assert report["dead_lettered"] == 12
    assert report["delivered"] == 6_000 - 12
    assert report["retries"] > 0
    assert report["law_checks"] > 0
    assert report["rss"]["end"] > 0
    assert {"p50", "p99", "p999", "max"} <= report["latency"].keys()
    if "--durable" in options:
        assert report["spool"]["files_left"] == []
