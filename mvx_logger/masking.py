"""Secrets kept out of foreign texts: what an exception of a client library says may quote URLs, headers, arguments.

The texts are not ours and follow no grammar, so this errs on the side of hiding too much. Names are those of
`mvx_logger.payload.DEFAULT_REDACT_KEYS`, also at the end of a longer name (``MYAPP_DB_PASSWORD``, ``x-shop-token``). Every
text is looked at in one go from left to right: patterns are possessive, and what was masked is not looked at again. So the
time grows with the length of what is kept, whatever the text.
"""

from __future__ import annotations

import re
from typing import Final

from .payload import DEFAULT_REDACT_KEYS, REDACTED

__all__ = ["MAX_LENGTH", "describe_error", "mask_secrets"]

MAX_LENGTH: Final = 1_000
"""How many characters are kept of a text."""

_CUT = "..."
# A secret that is cut in half may not look like one any more. So more is read than is kept, and where there is still more,
# the last word of it, or what may be a part of one, is not looked at.
_WINDOW = 4 * MAX_LENGTH
_LAST_WORD = re.compile(r"[^\s,;\"'<>]*+\Z")
_LONGEST_WORD = 256
# What a payload may tell by these names, and a text may not: signed URLs are as good as passwords.
_SECRET_NAMES = {key.replace(".", "_") for key in DEFAULT_REDACT_KEYS} | {"pass", "passwords", "sig", "signature"}
_MAX_NAME = 100
_MAX_WORDS = 4

_WORD = re.compile(r"(?:[^\s\"'<>`]|[\"'<>`]++(?=\w))++|[\"'<>`]++")
_AUTHORITY = re.compile(r"[^/?#]*+")
_PORT = re.compile(r"\d*+(?:[,;)\]}.:].*+)?+\Z", re.DOTALL)
_LONG_USER = 20
"""A user without a password whose name is so long is a token: https://0123456789abcdef0123456789abcdef@host."""

# A name, the quote that may end it, and what stands between it and a value. In the raw headers of some clients,
# (b'authorization', b'...'), and in lists of arguments, ['--password', '...'], that is a comma.
_NAME = re.compile(
    r"""(?<![\w.\-])(?P<name>[\w\-][\w.\-]*+)
        (?: \\*+["'][ \t]*+,\s*+(?=[bBuUrR]?\\*+["'])
          | (?P<colon>(?P<quote>\\*+["'])?+\s*+:(?!//)=?+\s*+)
          | (?:\\*+["']\]?+)?+\s*+(?:[=!]?=>?+|%3[dD])[ \t]*+
          | (?P<space>[ \t]++)
        )""",
    re.VERBOSE,
)
_BOUNDARY = re.compile(r"[_.\-]++")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

_QUOTE = re.compile(r"""[bBuUrRfF]{0,2}(\\*+)(["'])""")
_CLOSING = {quote: re.compile(rf"(?<!\\)(\\*+){quote}(?=([^\s.:,;&\"'`<>()\[\]{{}}\\])?+)") for quote in "\"'"}
_OPENING = re.compile(r"[\[{(]")
# Quotations that do not end go to the end of the text.
_BRACKETS = re.compile(r"""[\[{(]|[\]})]|"(?:[^"\\]|\\.)*+"?+|'(?:[^'\\]|\\.)*+'?+""", re.DOTALL)
# To the end of the line, which is written out in the repr of bytes.
_LINE = re.compile(r"(?:[^\r\n\\]|\\(?![rn]))*+")
# These have spaces in their values, wherever they stand: "Authorization: Bearer xyz".
_LONG_HEADERS = ("authorization", "cookie")
_SCHEME = re.compile(r"(?:bearer|basic|digest|negotiate|token|apikey)[ \t]++(?=\S)", re.IGNORECASE)
# Up to white space and the punctuation before it, or to the next name with a value: a password may have anything in it.
_VALUE = re.compile(
    r"""(?: [^\s.:,;&"'`<>()\[\]{}\\]
          | [.:]++(?=[^\s.:,;&"'`<>()\[\]{}\\])
          | [.:,;&"'`<>()\[\]{}\\]++(?=\S)(?![\w.\-]++(?:\\*+["']\s*+)?+[=:])
        )*+""",
    re.VERBOSE,
)
_CREDENTIALS = re.compile(r"\b(bearer|basic|negotiate)([ \t]++)([\w\-.~+/=]++)", re.IGNORECASE)
_HARMLESS = frozenset({"auth", "authentication", "authorization", "credentials", "error", "realm", "scheme", "token"})


def describe_error(err: BaseException) -> str:
    """An exception as ``TypeName: text``, without secrets; ``TypeName`` where it has no text.

    Never raises, although ``str(err)`` may.
    """
    name = type(err).__name__
    try:
        text = str(err)
    except Exception:  # it has no text then
        return name
    masked = mask_secrets(text)
    return f"{name}: {masked}" if masked else name


def mask_secrets(text: str) -> str:
    """A text in which what looks like a secret is replaced by ``***``.

    That is: the password in ``scheme://user:password@host`` and ``user:password@host``, and the value that goes with a
    secret name in queries, DSNs, headers, JSON, Python reprs and command lines (``password=x``, ``"token": "x"``,
    ``Authorization: Bearer x``, ``--api-key x``).

    Args:
        text: Any text.

    Returns:
        At most `MAX_LENGTH` characters; what is longer is cut, and ends in ``...``. Never raises.
    """
    try:
        return _mask(text)
    except Exception:  # no text, or no room: nothing is told rather than too much
        return REDACTED


def _mask(text: str) -> str:
    text = str.__str__(text)  # of a subclass, too
    is_cut = len(text) > _WINDOW
    if is_cut:
        last = _LAST_WORD.search(text, _WINDOW - _LONGEST_WORD, _WINDOW)
        text = text[: _WINDOW - _LONGEST_WORD if last is None else last.start()]
    text = _mask_pairs(_mask_urls(text))
    text = _CREDENTIALS.sub(_hide_credentials, text)
    if is_cut or len(text) > MAX_LENGTH:
        text = text[: MAX_LENGTH - len(_CUT)] + _CUT
    return text


# ---------------------------------------------------------------------- user:password@host


def _mask_urls(text: str) -> str:
    if "@" not in text and "://" not in text:
        return text
    return _WORD.sub(lambda match: _mask_word(match[0]), text)


def _mask_word(word: str) -> str:
    if "@" not in word and "://" not in word:
        return word
    first, *urls = word.split("://")
    before = "//".join(_mask_authority(part, is_url=False) for part in first.split("//"))
    return "://".join([before, *(_mask_authority(url, is_url=True) for url in urls)])


def _mask_authority(text: str, *, is_url: bool) -> str:
    """What follows ``scheme://``, or what is before it or without it."""
    authority = text[: _match_end(_AUTHORITY, text, 0)]
    at = authority.rfind("@")
    colon = authority.find(":")
    if at < 0:
        if not is_url or colon < 0 or authority.startswith("[") or _PORT.match(authority, colon + 1):
            return text
        # No host:port. It is a password with a character that should have been escaped, or that a quotation was cut in.
        at = text.rfind("@")
        return f"{text[: colon + 1]}{REDACTED}{text[at:] if at >= 0 else ''}"
    if 0 <= colon < at:
        # C:\users\a@b, mail:"a@b" and :a@b are none.
        is_other = not is_url and (colon == 0 or authority[colon + 1] in "\\\"'")
        return text if is_other or at == colon + 1 else f"{text[: colon + 1]}{REDACTED}{text[at:]}"
    return REDACTED + text[at:] if is_url and at >= _LONG_USER else text


# ---------------------------------------------------------------------- name and value


def _mask_pairs(text: str) -> str:
    parts: list[str] = []
    done = 0
    match = _NAME.search(text)
    while match is not None:
        begin = match.end()
        if _is_secret(text, match):
            start, end = _find_value(text, match)
            if end > start:
                parts += (text[done:start], REDACTED)
                begin = done = end
        match = _NAME.search(text, begin)
    parts.append(text[done:])
    return "".join(parts)


def _is_secret(text: str, match: re.Match[str]) -> bool:
    name = match["name"]
    # "--password x" and "password 'x'" have a value; "password incorrect" is a sentence.
    if match["space"] is not None and name[0] != "-" and not _QUOTE.match(text, match.end()):
        return False
    if _has_secret_name(name):
        return True
    start = match.start()
    before = text[start - 1] if start else ""
    # Right after an escape: "\r\nx-token: ..." in the repr of bytes, "%26token%3D..." in a query within a query.
    return (before == "\\" and name[0] in "nrt" and _has_secret_name(name[1:])) or (
        before == "%" and _has_secret_name(name[2:])
    )


def _has_secret_name(name: str) -> bool:
    name = name[-_MAX_NAME:]
    if name.lower() in _SECRET_NAMES:
        return True
    # accessToken, ACCESS-TOKEN, access_token_2
    words = [word for word in _BOUNDARY.split(_CAMEL.sub("_", name.rstrip("0123456789_-")).lower()) if word]
    return any("_".join(words[-count:]) in _SECRET_NAMES for count in range(1, min(_MAX_WORDS, len(words)) + 1))


def _find_value(text: str, match: re.Match[str]) -> tuple[int, int]:
    """Where the value begins and ends, without its quotes."""
    start = match.end()
    quote = _QUOTE.match(text, start)
    if quote is not None:
        start = quote.end()
        return start, _find_closing(text, start, len(quote[1]), quote[2])
    if _OPENING.match(text, start):
        return start, _find_bracket(text, start)
    if match["colon"] is not None and not match["quote"]:
        before = text[match.start() - 1] if match.start() else "\n"
        if before in "'\"":  # a quotation of the whole header
            end = text.find(before, start)
            return start, _match_end(_LINE, text, start, len(text) if end < 0 else end)
        if match["name"].lower().endswith(_LONG_HEADERS) or _begins_line(text, match.start(), before):
            return start, _match_end(_LINE, text, start)
    scheme = _SCHEME.match(text, start)
    return start, _match_end(_VALUE, text, start if scheme is None else scheme.end())


def _find_closing(text: str, start: int, level: int, quote: str) -> int:
    """Where a quotation ends that was opened by a quote after ``level`` backslashes (JSON in a str in JSON: ``\\"``)."""
    for match in _CLOSING[quote].finditer(text, start):
        count = len(match[1])
        # Quotations within it have more of them, and a backslash of its own is written as a pair of what is one here. The
        # repr of a JSON text looks as if these were at its end: then a letter follows.
        if count % (2 * level + 2) == level and (count == level or match[2] is None):
            return match.end() - 1 - level
    return len(text)


def _match_end(pattern: re.Pattern[str], text: str, start: int, limit: int | None = None) -> int:
    match = pattern.match(text, start, len(text) if limit is None else limit)
    return start if match is None else match.end()


def _find_bracket(text: str, start: int) -> int:
    """Where the bracket that begins here is closed; the end of the text where it is not."""
    depth = 0
    for match in _BRACKETS.finditer(text, start):
        if match[0] in "[{(":
            depth += 1
        elif match[0] in "]})":
            depth -= 1
            if not depth:
                return match.end()
    return len(text)


def _begins_line(text: str, start: int, before: str) -> bool:
    """True when nothing but an indent, or the marks of quoted mail and of curl (``> ``), precedes."""
    if before == "\\":  # "\r\n", written out
        return True
    begin = text[max(0, start - 20) : start]
    line = begin.rpartition("\n")[2]
    return not line.strip(" \t>*") and (len(line) < len(begin) or len(begin) == start)


def _hide_credentials(match: re.Match[str]) -> str:
    scheme, space, value = match.groups()
    # "Basic authentication", "bearer token": a sentence. A word of small letters is no base64.
    is_word = value.rstrip("=.").lower() in _HARMLESS or (scheme.lower() != "bearer" and value[1:].islower())
    return match[0] if is_word else f"{scheme}{space}{REDACTED}"
