"""A plugin of pytest that ends a run with what was left out, and how to run it. `conftest.py` loads it."""

from __future__ import annotations

from collections import Counter

import pytest

FOLDERS = {
    "unit": "the rules, in this process: pytest tests/unit",
    "sinks": "sinks, on files and on receivers in this process: pytest tests/sinks",
    "process": "interpreters, forks, exits, command lines and frameworks: pytest tests/process",
    "field": "reports from the field: pytest tests/field",
    "servers": "real servers: tox -e servers",
    "nightly": "forks, kills and random histories many times over, every benchmark: tox -e nightly",
}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for found in terminalreporter.stats.values() for report in found if hasattr(report, "nodeid")]
    ran = {part for report in reports for part in report.nodeid.split("/")[:2]}
    left_out = [f"tests/{folder}: {text}" for folder, text in FOLDERS.items() if folder not in ran]
    skipped = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    )
    left_out += [f"{count} skipped: {reason}" for reason, count in sorted(skipped.items())]
    if left_out:
        terminalreporter.section("left out", sep="-")
        terminalreporter.write_line("\n".join(left_out))
