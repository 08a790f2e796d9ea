"""What the documentation shows can be pasted: each block alone, into an application that logs already."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import mvx_logger
from mvx_logger.bridge.config import _SCHEMES
from pages import PAGES, ROOT, Block, read_blocks

PASTE = ROOT / "tests" / "support" / "paste.py"

RUN = {"python": "python", "testcode": "python", "sh": "sh"} | {kind: kind for kind in ("toml", "json", "yaml", "ini")}
"""What is carried out, by the word behind the fence."""
SHOWN = {
    "text": "what is printed or sent, or the configuration of another program; the URLs in it are planned",
    "console": "a session with another program; what it installs of ours is checked",
    "sql": "for psql",
    "testoutput": "compared with what the code before it prints",
}
"""What is not, and why."""
MARKUP = {"toctree", "eval-rst", "image"}
"""Directives of Sphinx that look like blocks."""

_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_TROUBLE = re.compile(r"^.*(?:mvx-logger:|Traceback|Warning:|Error:).*$", re.M)
_URL = re.compile(rf"(?:{'|'.join(re.escape(scheme) for scheme in _SCHEMES)}):[^\s`]*")


class Job(NamedTuple):
    """Something to carry out: where it stands, its kind, and what it prints (None where the page does not say)."""

    place: str
    kind: str
    text: str
    output: str | None = None


def find_urls(page: Path) -> list[str]:
    """The URLs of sinks in the text and in blocks of text: those that are complete."""
    texts = [match[1] for match in _CODE.finditer(page.read_text("utf-8"))]
    for block in read_blocks(page):
        if block.word == "text":
            texts += [line.split()[0] for line in block.text.splitlines() if line.strip()]
    # HTTP is every other server's scheme, too.
    return [
        text
        for text in dict.fromkeys(texts)
        if _URL.fullmatch(text) and "..." not in text and not text.endswith("://") and not text.startswith("http")
    ]


def collect() -> tuple[list[Job], list[Block], list[str]]:
    """All jobs; the blocks that are not run; what nobody knows how to run."""
    jobs: list[Job] = []
    shown: list[Block] = []
    unknown: list[str] = []
    for page in PAGES:
        blocks = read_blocks(page)
        for block, next_one in zip_longest(blocks, blocks[1:]):
            word = block.word
            if word in MARKUP:
                continue
            if block.reason or word in SHOWN:
                shown.append(block)
            elif word not in RUN:
                unknown.append(f"{block.place}: a block of the kind {word!r}")
            else:
                output = next_one.text if next_one is not None and next_one.word == "testoutput" else ""
                jobs.append(Job(block.place, RUN[word], block.text, output if word == "testcode" else None))
            if word == "console":
                installed = re.findall(r"^\$ (pip install .*)$", block.text, re.M)
                jobs += [Job(block.place, "sh", line) for line in installed]
        if urls := find_urls(page):
            jobs.append(Job(str(page.relative_to(ROOT)), "url", "\n".join(urls)))
    return jobs, shown, unknown


def test_every_block_runs_alone(tmp_path: Path) -> None:
    """Each block of the README and of the documentation works, pasted into a new process that has loggers, and these go on
    working. Code prints what the page shows, and nothing on stderr; destinations are not connected to before there is
    an event."""
    jobs, shown, unknown = collect()
    assert not unknown, "\n".join(unknown)
    [toml] = [job.text for job in jobs if job.kind == "toml" and job.place.startswith("README")]
    package = str(Path(mvx_logger.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, str(PASTE), str(tmp_path)],
        input=json.dumps([{"kind": job.kind, "text": job.text} for job in jobs]),
        env={**os.environ, "PYTHONPATH": package, "LOGGING_TOML": toml},
        stdout=subprocess.PIPE,
        text=True,
        timeout=100,
    )
    failures = []
    for job, result in zip(jobs, json.loads(done.stdout), strict=True):
        error = result["error"]
        trouble = result["stderr"]
        if "raise LogDelivery" in job.text:  # what the sink reports then is what the block is about
            trouble = "\n".join(line for line in trouble.splitlines() if not line.startswith("mvx-logger: "))
        if job.output is None:
            trouble = "\n".join(_TROUBLE.findall(trouble))
        if not error and trouble:
            error = f"on stderr: {trouble}"
        if not error and job.output is not None and result["stdout"] != job.output:
            error = f"it prints: {result['stdout']}"
        if error:
            failures.append(f"--- {job.place} ({job.kind})\n{job.text}\n{error}\n{result['stdout']}")
    kinds = Counter(job.kind for job in jobs if job.kind != "url")
    kinds["url"] = sum(len(job.text.splitlines()) for job in jobs if job.kind == "url")
    print(
        f"{len(jobs) - len(failures)} of {len(jobs)} run:",
        ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())),
    )
    print(f"{len(shown)} are shown:", ", ".join(f"{n} {word}" for word, n in Counter(b.word for b in shown).items()))
    for block in shown:
        if block.reason:
            print(f"{block.place} is not run: {block.reason}")
    assert not failures, f"{len(failures)} of {len(jobs)}\n" + "\n".join(failures)


def test_the_tests_that_the_guarantees_name_are_there() -> None:
    """Every file, class and test on the page exists, in whatever folder of the tests."""
    page = (ROOT / "docs" / "guarantees.md").read_text("utf-8")
    names = re.findall(r"`((?:test_\w+\.py)(?:::[\w…]+)*)`", page)
    assert len(names) > 30
    for name in names:
        file, *parts = name.split("::")
        [path] = (ROOT / "tests").rglob(file)
        text = path.read_text("utf-8")
        for part in parts:
            assert re.search(rf"(?:def|class) {part.removesuffix('…')}", text), name
    for script in re.findall(r"`(benchmarks/\w+\.py)`", page):
        assert (ROOT / script).is_file(), script
