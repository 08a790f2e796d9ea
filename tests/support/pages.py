"""The fenced blocks of the README and of the documentation."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

__all__ = ["PAGES", "ROOT", "Block", "find_block", "read_blocks"]

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|:{3,})(?P<word>[^\n`]*)\n(?P<text>.*?)^ *(?P=fence)$", re.M | re.S)
_REASON = re.compile(r"<!-- not run: ([^\n]+?) -->\n+\Z")


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        place: The page and the line of the fence.
        word: The word behind the fence, without braces; empty where there is none.
        text: What is in it.
        reason: Why nobody runs it, as a comment on the page says (``<!-- not run: REASON -->``); empty for all others.
        offset: Where it begins on its page.
    """

    place: str
    word: str
    text: str
    reason: str
    offset: int


def read_blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    content = page.read_text("utf-8")
    found = []
    for match in _FENCE.finditer(content):
        before = content[: match.start()]
        reason = _REASON.search(before)
        found.append(
            Block(
                place=f"{page.relative_to(ROOT)}:{before.count(chr(10)) + 1}",
                word=(match["word"].split() or [""])[0].strip("{}"),
                text=textwrap.dedent(match["text"]),
                reason=reason[1] if reason else "",
                offset=match.start(),
            )
        )
    return found


def find_block(page: Path, words: str) -> str:
    """The text of the first block behind some words on a page."""
    offset = page.read_text("utf-8").index(words)
    return next(block.text for block in read_blocks(page) if block.offset > offset)
