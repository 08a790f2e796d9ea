"""Payload normalization: whatever the caller passes becomes plain, bounded data without secrets.

The result is made of exact ``dict``, ``list``, ``str``, ``int``, ``float``, ``bool``, ``bytes`` and ``None``, whatever
the caller's types do. Nothing that a value does can raise into the caller, and nothing is read past the limits: the
cost grows with what is kept, not with what is cut.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict, UserString, deque
from collections.abc import Callable, Iterable, Mapping, MappingView, Sequence, Set
from enum import Enum, StrEnum
from itertools import islice
from types import (
    BuiltinFunctionType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any, Final, TypeAlias

from msgspec import Struct

from . import selflog
from .guard import mark
from .model import LIGHT_KEYS
from .protocols import LogAdapterResolver

__all__ = [
    "DEFAULT_REDACT_KEYS",
    "HEAVY",
    "REDACTED",
    "LogPayloadProcessor",
    "LogVerbosityLevel",
    "weigh_payload",
]

REDACTED: Final = "***"
"""What stands in the place of a value whose key looks secret."""


class LogVerbosityLevel(StrEnum):
    """How much a `LogAdapter` and the field specs of `log_invocation` tell; the built-in rules are the same for all."""

    MINIMAL = "MINIMAL"
    NORMAL = "NORMAL"
    MAXIMUM = "MAXIMUM"


def _spellings(*phrases: str) -> frozenset[str]:
    """Each phrase in snake_case, with dashes (headers) and joined (camelCase in lower case)."""
    return frozenset(joint.join(phrase.split()) for phrase in phrases for joint in ("_", "-", ""))


# Left out on purpose: "tokens" (a count), "session id" and "access key id" (identifiers that people search by), "pass"
# (a count or a verdict in test reports), "pin", "key", "hash", "signature". The names of session cookies are in.
DEFAULT_REDACT_KEYS: Final[frozenset[str]] = _spellings(
    *("password", "passwd", "passphrase", "pwd", "passcode", "new password", "old password", "current password"),
    *("confirm password", "password confirmation", "password hash", "password1", "password2", "user password"),
    *("admin password", "root password", "db password", "database password", "smtp password", "redis password"),
    *("postgres password", "mysql password", "mysql pwd", "pgpassword", "proxy password", "ssh password"),
    *("secret", "secrets", "client secret", "app secret", "api secret", "consumer secret", "shared secret"),
    *("webhook secret", "signing secret", "jwt secret", "totp secret", "otp secret", "token secret", "secret token"),
    *("secret key", "secret access key", "aws secret access key", "access key", "django secret key"),
    *("token", "access token", "refresh token", "id token", "auth token", "authentication token"),
    *("authorization token", "bearer token", "session token", "api token", "oauth token", "private token"),
    *("personal access token", "security token", "aws session token", "device token", "github token"),
    *("gitlab token", "slack token", "bot token", "reset token", "verification token", "csrf token", "xsrf token"),
    *("csrfmiddlewaretoken", "x csrf token", "x csrftoken", "x xsrf token", "x auth token", "x access token"),
    *("x api token", "x amz security token", "x vault token", "x gitlab token", "x github token", "jwt", "bearer"),
    *("api key", "x api key", "x goog api key", "api secret key", "app key", "account key", "shared access key"),
    *(
        "private key",
        "private key pem",
        "ssh key",
        "ssh private key",
        "encryption key",
        "decryption key",
        "signing key",
    ),
    *("master key", "license key", "auth key", "service account key"),
    *("authorization", "proxy authorization", "x authorization", "auth", "basic auth", "http authorization"),
    *("cookie", "cookies", "set cookie", "http cookie", "sessionid", "session cookie", "phpsessid", "jsessionid"),
    *("connect.sid", "credential", "credentials", "otp", "one time password", "mfa code", "recovery code"),
    *("recovery codes", "backup codes", "auth code", "authorization code", "code verifier"),
    *("card number", "credit card", "credit card number", "cvv", "cvv2", "cvc"),
)
"""The keys (in lower case) whose values never leave the process, unless ``redact_keys`` says otherwise."""

DEFAULT_MAX_STR_LEN: Final = 200
DEFAULT_MAX_ITEMS: Final = 10
DEFAULT_MAX_DEPTH: Final = 5

_CUT = "..."
_MORE_KEY = "__more__"
_CYCLE = "<cycle>"
# Stands for a value where the stack or the memory is so full that not even its type can be named.
_NO_ROOM = "<not described>"

# max_items and max_depth alone allow a payload of a million values, and one list that is referred to from many places
# (or `unbounded`) allows any number: these bound what one payload can cost as a whole.
_MAX_TOTAL = 100_000
_MAX_TOTAL_UNBOUNDED = 1_000_000

# What a hook logs about its own object calls that hook again, twice if it logs twice, and so on: without an end to it, one
# event freezes the process.
_MAX_NESTING = 3


class _Nesting(threading.local):
    value = 0


_nesting = _Nesting()

_MAX_HARMLESS_KEYS = 4096
_MAX_HARMLESS_KEY_LEN = 100
_MAX_RULES = 1024
# islice and slices take no larger numbers; one more than the limit must fit too.
_NO_LIMIT = sys.maxsize - 1

# Read by descriptors of `type` itself: a metaclass can override what `cls.__name__` and the like give.
_get_name: Callable[[type], str] = type.__dict__["__name__"].__get__
_get_qualname: Callable[[type], str] = type.__dict__["__qualname__"].__get__
_get_module: Callable[[type], Any] = type.__dict__["__module__"].__get__
_get_mro: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_get_namespace: Callable[[type], MappingProxyType[str, Any]] = type.__dict__["__dict__"].__get__
_exact_str: Callable[[Any], str] = str.__str__
_exact_int: Callable[[Any], int] = int.__pos__
_exact_float: Callable[[Any], float] = float.__pos__
_read_attribute: Callable[[Any, str], Any] = object.__getattribute__

_MISSING: Final = object()

_REDACTED_LEN: Final = len(REDACTED)
HEAVY: Final = sys.maxsize
"""More text than any light event has: for a payload that would have to be measured."""


def _mark(kind: type) -> str:
    return "<" + _exact_str(_get_name(kind))[:DEFAULT_MAX_STR_LEN] + ">"


def _lookup(kind: type, name: str) -> Any:
    """What the class and its bases define under the name, without running any code of theirs."""
    for base in _get_mro(kind):
        found = _get_namespace(base).get(name, _MISSING)
        if found is not _MISSING:
            return found
    return _MISSING


def _own_attributes(value: Any) -> dict[str, Any] | None:
    try:
        found = _read_attribute(value, "__dict__")
    except Exception:
        return None
    return found if type(found) is dict else None


def _report(hook: str, kind: type, error: Exception) -> None:
    selflog.report(
        "payload", f"{hook} failed; the value is described without it", type=_mark(kind), error=_mark(type(error))
    )


class _Settings:
    """All settings at one moment; replaced as a whole, never changed."""

    __slots__ = (
        "harmless",
        "longest_secret",
        "max_depth",
        "max_items",
        "max_key_len",
        "max_str_len",
        "max_total",
        "redact_keys",
        "resolver",
        "verbosity",
    )

    def __init__(
        self,
        verbosity_level: LogVerbosityLevel,
        max_str_len: int,
        max_items: int,
        log_adapter_resolver: LogAdapterResolver | None,
        max_depth: int,
        redact_keys: frozenset[str],
    ) -> None:
        self.verbosity = verbosity_level
        self.max_str_len = max_str_len
        self.max_items = max_items
        self.max_total = _MAX_TOTAL + max_items
        self.resolver = log_adapter_resolver
        self.max_depth = max_depth
        self.redact_keys = redact_keys
        self.longest_secret = max(map(len, redact_keys), default=0)
        self.max_key_len = max(max_str_len, DEFAULT_MAX_STR_LEN)
        # Keys that were looked at before and are no secret: one lookup instead of a lower-cased copy for each.
        self.harmless: set[str] = set()

    def is_secret(self, key: str) -> bool:
        # Lower-casing never makes a str shorter, so a longer key cannot be one of them.
        if len(key) <= self.longest_secret and key.lower() in self.redact_keys:
            return True
        if len(key) <= _MAX_HARMLESS_KEY_LEN:
            harmless = self.harmless
            if len(harmless) >= _MAX_HARMLESS_KEYS:
                harmless.clear()
            harmless.add(key)
        return False


class _Walk(Struct, gc=False):
    """One call: what it may take, and where it is. (A Struct because it is made faster than an object.)"""

    settings: _Settings
    limit: int
    top_limit: int
    """The limit for the payload itself; ``limit`` holds for what is in it."""
    budget: int
    max_depth: int
    max_str_len: int
    path: set[int]
    """Ids of what is being described at the moment: each of them is alive, so no id is used twice."""

    def value(self, value: Any, depth: int) -> Any:
        """Any value as plain data. Raises nothing but a `RecursionError` or `MemoryError` that leaves no room for more."""
        kind = type(value)
        if kind is str:
            return value if len(value) <= self.max_str_len else value[: self.max_str_len] + _CUT
        if kind is int or value is None or kind is bool or kind is float:
            return value
        try:
            rule = _PLAIN_RULES.get(kind)
            if rule is not None:
                return rule(self, value, depth)
            return self.foreign(value, depth, kind)
        except Exception:
            self.path.discard(id(value))
            return _mark(kind)

    def foreign(self, value: Any, depth: int, kind: type) -> Any:
        """A value that is no plain builtin: it describes itself, an adapter describes it, or the built-in rules do."""
        if id(value) in self.path:
            return _CYCLE
        rule = _RULES.get(kind) or _find_rule(kind)
        if depth > self.max_depth:
            return rule.describe(self, value, depth)
        if rule.is_provider or (rule.may_provide and "to_log_payload" in (_own_attributes(value) or ())):
            described = self.provided(value, depth, kind)
            if described is not None:
                return described
        if self.settings.resolver is not None:
            described = self.adapted(value, depth, kind)
            if described is not None:
                return described
        return rule.describe(self, value, depth)

    def provided(self, value: Any, depth: int, kind: type) -> Any:
        nesting = _nesting.value
        if nesting >= _MAX_NESTING:
            return None
        before = mark.value
        try:
            mark.value = True
            _nesting.value = nesting + 1
            payload = value.to_log_payload()
        except Exception as error:
            _report("to_log_payload()", kind, error)
            return None
        finally:
            _nesting.value = nesting
            mark.value = before
        if isinstance(payload, dict):
            # A copy: what the object goes on doing with its dict must not reach the event.
            plain = dict.copy(payload)
            return _without_secrets(plain, self.settings, {}) if self.settings.redact_keys else plain
        if isinstance(payload, Mapping):
            return self.inside(value, payload, depth)
        return None

    def adapted(self, value: Any, depth: int, kind: type) -> Any:
        settings = self.settings
        nesting = _nesting.value
        if nesting >= _MAX_NESTING:
            return None
        before = mark.value
        try:
            mark.value = True
            _nesting.value = nesting + 1
            adapter = settings.resolver(value)  # type: ignore[misc]
            if adapter is None:
                return None
            described = adapter(value, settings.verbosity.value)
            if described is None or described is value:
                return None
            # What is neither a mapping nor plain may lead to another adapter, and so on without end.
            depth = depth if isinstance(described, Mapping) else depth + 1
        except Exception as error:
            _report("the log adapter", kind, error)
            return None
        finally:
            _nesting.value = nesting
            mark.value = before
        return self.inside(value, described, depth)

    def inside(self, value: Any, described: Any, depth: int) -> Any:
        """What stands for the value, which must not occur in it again."""
        self.path.add(id(value))
        plain = self.value(described, depth)
        self.path.discard(id(value))
        return plain

    def take(self, total: int, depth: int) -> int:
        """How many of so many items may be kept; they are taken off the budget."""
        limit = self.limit if depth else self.top_limit
        if total > limit:
            total = limit
        if total > self.budget:
            total = self.budget
        self.budget -= total
        return total

    def plain_dict(self, value: dict[Any, Any], depth: int) -> Any:
        """An exact dict."""
        if depth > self.max_depth:
            return "<dict>"
        path = self.path
        ident = id(value)
        if ident in path:
            return _CYCLE
        total = len(value)
        kept = self.take(total, depth)
        # Copied in one step that no other thread can come between; then only what is not plain yet is replaced.
        result = value.copy() if kept == total else _first_of(value, kept)
        settings = self.settings
        harmless = settings.harmless
        max_str_len = self.max_str_len
        entered = False
        for key, item in result.items():
            if type(key) is not str:
                break
            if key not in harmless:
                if len(key) > settings.max_key_len:
                    break
                if settings.is_secret(key):
                    result[key] = REDACTED
                    continue
            kind = type(item)
            if kind is str:
                if len(item) > max_str_len:
                    result[key] = item[:max_str_len] + _CUT
            elif kind is not int and item is not None and kind is not bool and kind is not float:
                if not entered:
                    path.add(ident)
                    entered = True
                result[key] = self.value(item, depth + 1)
        else:
            if entered:
                path.discard(ident)
            if kept < total:
                key = _free_key(_MORE_KEY, result, {}) if _MORE_KEY in result else _MORE_KEY
                result[key] = _more(total, kept, 0) + " more keys"
            return result
        return self.pairs(value, _first_pairs(value, kept), total, depth)

    def pairs(self, value: Any, pairs: Iterable[tuple[Any, Any]], total: int, depth: int, at_least: int = 0) -> Any:
        """The pairs that are kept of a mapping of any kind, with the mark that tells of the rest."""
        settings = self.settings
        result: dict[str, Any] = {}
        repeats: dict[str, int] = {}
        kept = 0
        self.path.add(id(value))
        for raw_key, item in pairs:
            kept += 1
            key = raw_key if type(raw_key) is str else self.key(raw_key, depth)
            is_secret = key not in settings.harmless and settings.is_secret(key)
            if len(key) > settings.max_key_len:
                key = key[: settings.max_key_len] + _CUT
            if key in result:
                key = _free_key(key, result, repeats)
            result[key] = REDACTED if is_secret else self.value(item, depth + 1)
        self.path.discard(id(value))
        if kept < total or at_least:
            key = _free_key(_MORE_KEY, result, repeats) if _MORE_KEY in result else _MORE_KEY
            result[key] = _more(total, kept, at_least) + " more keys"
        return result

    def key(self, key: Any, depth: int) -> str:
        """A key that is not an exact str, as an exact str."""
        kind = type(key)
        try:
            if issubclass(kind, Enum):
                member, key = key, _read_attribute(key, "_value_")
                kind = type(key)
                if kind not in (str, int, float, bool, bytes):
                    return _exact_str(_read_attribute(member, "_name_"))
            if issubclass(kind, str):
                return _exact_str(key)
            if issubclass(kind, bytes):
                return bytes.decode(key, "utf-8", "backslashreplace")
            if issubclass(kind, tuple):
                items = tuple.__getitem__(key, slice(0, self.limit))
                return str(tuple(self.value(item, depth + 1) for item in items))
            return _exact_str(str(key))
        except Exception:
            return _mark(kind)

    def items(self, value: Any, items: list[Any], total: int, depth: int, at_least: int = 0) -> list[Any]:
        """The items that are kept of a sequence of any kind, in a list that is ours, with the mark for the rest."""
        kept = len(items)
        max_str_len = self.max_str_len
        entered = False
        for index, item in enumerate(items):
            kind = type(item)
            if kind is str:
                if len(item) > max_str_len:
                    items[index] = item[:max_str_len] + _CUT
            elif kind is not int and item is not None and kind is not bool and kind is not float:
                if not entered:
                    self.path.add(id(value))
                    entered = True
                items[index] = self.value(item, depth + 1)
        if entered:
            self.path.discard(id(value))
        if kept < total or at_least:
            items.append(_CUT + " (" + _more(total, kept, at_least) + " more)")
        return items

    def text(self, text: Any) -> str:
        """A str of any class, cut."""
        if str.__len__(text) > self.max_str_len:
            return _exact_str(str.__getitem__(text, slice(0, self.max_str_len))) + _CUT
        return _exact_str(text)


def _begin(settings: _Settings, unbounded: bool, path: set[int], taken: int = 0) -> _Walk:
    limit = _NO_LIMIT if unbounded else settings.max_items
    budget = _MAX_TOTAL_UNBOUNDED if unbounded else settings.max_total
    return _Walk(settings, limit, limit, budget - taken, settings.max_depth, settings.max_str_len, path)


def _more(total: int, kept: int, at_least: int) -> str:
    """How many are not shown; with a plus where only a lower bound is known."""
    rest = total - kept
    return str(rest) if rest >= at_least else str(at_least) + "+"


def _free_key(key: str, taken: dict[str, Any], repeats: dict[str, int]) -> str:
    number = repeats.get(key, 1)
    while True:
        number += 1
        candidate = f"{key} ({number})"
        if candidate not in taken:
            repeats[key] = number
            return candidate


def _first_of(value: dict[Any, Any], count: int) -> dict[Any, Any]:
    try:
        first = dict(islice(value.items(), count))
        if len(first) == count:
            return first
    except Exception:  # noqa: S110
        pass
    # Another thread changes it, or its keys have changed their minds: a key that is no str sends the caller the long way.
    return {None: None}


def _first_pairs(value: dict[Any, Any], count: int) -> list[tuple[Any, Any]]:
    view = OrderedDict.items(value) if isinstance(value, OrderedDict) else dict.items(value)
    try:
        return list(islice(view, count))
    except RuntimeError:  # changed by another thread meanwhile
        return list(islice(dict.copy(value).items(), count))


def _without_secrets(value: Any, settings: _Settings, seen: dict[int, Any]) -> Any:
    """The dict, list or tuple with the values of secret keys replaced; the same object where there are none inside."""
    ident = id(value)
    if ident in seen:
        return seen[ident]
    seen[ident] = _CYCLE
    is_dict = issubclass(type(value), dict)
    is_list = issubclass(type(value), list)
    items = list(dict.items(value)) if is_dict else enumerate((list if is_list else tuple).__iter__(value))
    changed: Any = None
    for key, item in items:
        if is_dict and issubclass(type(key), str) and settings.is_secret(_exact_str(key)):
            clean: Any = REDACTED
        elif issubclass(type(item), (dict, list, tuple)):
            clean = _without_secrets(item, settings, seen)
        else:
            continue
        if clean is not item:
            if changed is None:
                changed = dict.copy(value) if is_dict else list((list if is_list else tuple).__iter__(value))
            changed[key] = clean
    result = value if changed is None else changed if is_dict or is_list else tuple(changed)
    seen[ident] = result
    return result


_Describe: TypeAlias = Callable[[_Walk, Any, int], Any]


class _Rule:
    """How values of one class are described."""

    __slots__ = ("describe", "is_provider", "may_provide")

    def __init__(self, describe: _Describe, is_provider: bool, may_provide: bool) -> None:
        self.describe = describe
        self.is_provider = is_provider
        # The instance may have a `to_log_payload` of its own: looked for only where nothing better is known.
        self.may_provide = may_provide


def _list(walk: _Walk, value: list[Any], depth: int) -> Any:
    if depth > walk.max_depth:
        return _mark(type(value))
    if id(value) in walk.path:
        return _CYCLE
    total = list.__len__(value)
    kept = walk.take(total, depth)
    # The builtin's own method: a subclass may override it.
    items = value[:kept] if type(value) is list else list.__getitem__(value, slice(0, kept))
    return walk.items(value, items, total, depth)


def _tuple(walk: _Walk, value: tuple[Any, ...], depth: int) -> Any:
    if depth > walk.max_depth:
        return _mark(type(value))
    if id(value) in walk.path:
        return _CYCLE
    total = tuple.__len__(value)
    return walk.items(value, list(tuple.__getitem__(value, slice(0, walk.take(total, depth)))), total, depth)


def _range(walk: _Walk, value: range, depth: int) -> Any:
    if depth > walk.max_depth:
        return "<range>"
    # len() cannot tell lengths above sys.maxsize.
    total = max(0, (value.stop - value.start + value.step - (1 if value.step > 0 else -1)) // value.step)
    return walk.items(value, list(value[: walk.take(total, depth)]), total, depth)


def _iterated(base: Any) -> _Describe:
    """The rule for a builtin collection without slices, by the builtin's own methods: a subclass may override them."""
    length: Callable[[Any], int] = base.__len__
    iterate: Callable[[Any], Iterable[Any]] = base.__iter__

    def describe(walk: _Walk, value: Any, depth: int) -> Any:
        if depth > walk.max_depth:
            return _mark(type(value))
        if id(value) in walk.path:
            return _CYCLE
        total = length(value)
        kept = walk.take(total, depth)
        for _ in range(8):
            try:
                items = list(islice(iterate(value), kept))
                break
            except RuntimeError:  # changed by another thread meanwhile
                continue
        else:
            return _mark(type(value))
        return walk.items(value, items, total, depth)

    return describe


def _dict_subclass(walk: _Walk, value: dict[Any, Any], depth: int) -> Any:
    if depth > walk.max_depth:
        return _mark(type(value))
    total = dict.__len__(value)
    return walk.pairs(value, _first_pairs(value, walk.take(total, depth)), total, depth)


def _take_foreign(walk: _Walk, sized: Any, source: Iterable[Any], depth: int) -> tuple[list[Any], int, int]:
    """What a foreign collection gives, as far as it may be kept: it may break off, never end, or lie about its length.

    Returns:
        The items, how many there are in all, and how many more there are at least.
    """
    limit = min(walk.limit if depth else walk.top_limit, walk.budget)
    items: list[Any] = []
    at_least = 0
    try:
        items.extend(islice(source, limit + 1))
    except Exception:
        if not items:
            raise
        at_least = 1
    if len(items) > limit:
        del items[limit:]
        at_least = 1
    walk.budget -= len(items)
    total = len(items)
    if at_least:
        try:
            total = len(sized)
        except Exception:
            total = 0
    return items, total, at_least


def _mapping(walk: _Walk, value: Mapping[Any, Any], depth: int) -> Any:
    if depth > walk.max_depth:
        return _mark(type(value))
    pairs, total, at_least = _take_foreign(walk, value, value.items(), depth)
    return walk.pairs(value, pairs, total, depth, at_least)


def _collection(walk: _Walk, value: Iterable[Any], depth: int) -> Any:
    if depth > walk.max_depth:
        return _mark(type(value))
    items, total, at_least = _take_foreign(walk, value, value, depth)
    return walk.items(value, items, total, depth, at_least)


def _bytes(walk: _Walk, value: bytes, depth: int) -> bytes:
    data = bytes.__getitem__(value, slice(0, walk.max_str_len))
    return data if len(data) == bytes.__len__(value) else data + b"..."


def _bytearray(walk: _Walk, value: bytearray, depth: int) -> bytes:
    data = bytes(bytearray.__getitem__(value, slice(0, walk.max_str_len)))
    return data if len(data) == bytearray.__len__(value) else data + b"..."


def _memoryview(walk: _Walk, value: memoryview[Any], depth: int) -> bytes:
    size = walk.max_str_len
    if value.nbytes <= size:
        return value.tobytes()
    if value.ndim > 1 and value.c_contiguous:
        value = value.cast("B")
    if value.ndim == 1:
        value = value[: size // value.itemsize + 1]
    return value.tobytes()[:size] + b"..."


def _text(walk: _Walk, value: Any, depth: int) -> str:
    return walk.text(str(value))


def _iso_text(walk: _Walk, value: Any, depth: int) -> str:
    return walk.text(value.isoformat())


def _str_subclass(walk: _Walk, value: str, depth: int) -> str:
    return walk.text(value)


def _int_subclass(walk: _Walk, value: int, depth: int) -> int:
    return _exact_int(value)


def _float_subclass(walk: _Walk, value: float, depth: int) -> float:
    return _exact_float(value)


def _enum(walk: _Walk, value: Enum, depth: int) -> Any:
    return walk.inside(value, _read_attribute(value, "_value_"), depth)


def _numpy_scalar(walk: _Walk, value: Any, depth: int) -> Any:
    plain = value.item()
    # Where Python has nothing like it (long doubles), it stays what it is.
    return walk.text(str(value)) if type(plain) is type(value) else walk.inside(value, plain, depth)


def _exception(walk: _Walk, value: BaseException, depth: int) -> Any:
    kind = type(value)
    if depth > walk.max_depth:
        return _mark(kind)
    try:
        message = walk.text(str(value))
    except Exception:
        message = _mark(kind)
    return {"type": walk.text(_get_name(kind)), "message": message}


def _named(walk: _Walk, what: str, module: Any, name: Any) -> str:
    text = _exact_str(name)
    if isinstance(module, str) and module != "builtins":
        text = _exact_str(module) + "." + text
    return walk.text("<" + what + " " + text + ">")


def _class(walk: _Walk, value: type, depth: int) -> str:
    return _named(walk, "class", _get_module(value), _get_qualname(value))


def _function(walk: _Walk, value: Any, depth: int) -> str:
    return _named(walk, "function", value.__module__, value.__qualname__)


def _method(walk: _Walk, value: MethodType, depth: int) -> str:
    function: Any = value.__func__
    return _named(walk, "method", function.__module__, function.__qualname__)


def _module(walk: _Walk, value: ModuleType, depth: int) -> str:
    return _named(walk, "module", None, (_own_attributes(value) or {})["__name__"])


def _opaque(walk: _Walk, value: Any, depth: int) -> str:
    return _mark(type(value))


def _namespace(walk: _Walk, value: SimpleNamespace, depth: int) -> Any:
    if depth > walk.max_depth:
        return _mark(type(value))
    attributes = _own_attributes(value) or {}
    total = len(attributes)
    return walk.pairs(value, _first_pairs(attributes, walk.take(total, depth)), total, depth)


def _namedtuple(names: tuple[str, ...]) -> _Describe:
    def describe(walk: _Walk, value: tuple[Any, ...], depth: int) -> Any:
        if depth > walk.max_depth:
            return _mark(type(value))
        if tuple.__len__(value) != len(names):
            return _tuple(walk, value, depth)
        pairs = islice(zip(names, tuple.__iter__(value), strict=False), walk.take(len(names), depth))
        return walk.pairs(value, list(pairs), len(names), depth)

    return describe


def _fields(names: tuple[str, ...], extra: str | None = None) -> _Describe:
    """The rule for a class with declared fields.

    Args:
        names: The fields that are shown.
        extra: The attribute that holds a dict of further fields, if the class has one.
    """

    def describe(walk: _Walk, value: Any, depth: int) -> Any:
        kind = type(value)
        if depth > walk.max_depth:
            return _mark(kind)
        attributes = _own_attributes(value) or {}
        shown = names
        if extra is not None:
            further = _read_attribute(value, extra)
            if type(further) is dict and further:
                attributes = attributes | further
                shown = (*names, *further)
        kept = walk.take(len(shown), depth)
        pairs: list[tuple[str, Any]] = []
        total = len(shown)
        for name in islice(shown, kept):
            # A private attribute is often the public secret with an underscore.
            if walk.settings.is_secret(name.lstrip("_")):
                pairs.append((name, REDACTED))
                continue
            item = attributes.get(name, _MISSING)
            if item is _MISSING:
                item = _read_field(value, kind, name)
            if item is _MISSING:
                total -= 1
            else:
                pairs.append((name, item))
        return walk.pairs(value, pairs, total, depth)

    return describe


def _read_field(value: Any, kind: type, name: str) -> Any:
    """A field that is not in the instance's dict: in a slot, a default of the class, or a property.

    Any other descriptor may do anything (an object-relational mapper would ask its database): it is not touched.
    """
    found = _lookup(kind, name)
    if found is _MISSING or not hasattr(type(found), "__get__"):
        return found
    if type(found) is not MemberDescriptorType and type(found) is not property:
        return _MISSING
    try:
        return found.__get__(value, kind)
    except AttributeError:
        return _MISSING
    except Exception as error:
        return _mark(type(error))


def _declared_fields(kind: type) -> _Describe | None:
    """The rule for a msgspec Struct, a dataclass, an attrs class or a pydantic model.

    What a class keeps out of its ``repr`` (``repr=False``) is kept out of the log.
    """
    if issubclass(kind, Struct):
        return _fields(kind.__struct_fields__)
    if _lookup(kind, "__dataclass_fields__") is not _MISSING:
        fields = sys.modules["dataclasses"].fields(kind)
        return _fields(tuple(field.name for field in fields if field.repr))
    attributes = _lookup(kind, "__attrs_attrs__")
    if attributes is not _MISSING:
        return _fields(tuple(attribute.name for attribute in attributes if attribute.repr is True))
    base = getattr(sys.modules.get("pydantic.main"), "BaseModel", None)
    if base is not None and issubclass(kind, base):
        for place in ("__pydantic_fields__", "model_fields", "__fields__"):
            found = _lookup(kind, place)
            if isinstance(found, dict):
                shown = (name for name, field in found.items() if getattr(field, "repr", True))
                return _fields(tuple(shown), None if place == "__fields__" else "__pydantic_extra__")
    return None


# Looked up by name where they are needed: a class can only derive from one of these when its module is loaded.
_FOREIGN_RULES: tuple[tuple[str, str, _Describe], ...] = (
    ("datetime", "date", _iso_text),  # datetime too
    ("datetime", "time", _iso_text),
    ("datetime", "timedelta", _text),
    ("decimal", "Decimal", _text),
    ("uuid", "UUID", _text),
    ("pathlib", "PurePath", _text),
    ("ipaddress", "_IPAddressBase", _text),
    ("fractions", "Fraction", _text),
    ("zoneinfo", "ZoneInfo", _text),
    ("numpy", "generic", _numpy_scalar),
)

_PLAIN_RULES: dict[type, _Describe] = {
    dict: _Walk.plain_dict,
    list: _list,
    tuple: _tuple,
    set: _iterated(set),
    frozenset: _iterated(frozenset),
    deque: _iterated(deque),
    range: _range,
    bytes: _bytes,
    bytearray: _bytearray,
    memoryview: _memoryview,
    complex: _text,
}

# The first class that a type derives from says how its values are described.
_BASE_RULES: tuple[tuple[type, _Describe], ...] = (
    (Enum, _enum),
    (BaseException, _exception),
    (str, _str_subclass),
    (int, _int_subclass),
    (float, _float_subclass),
    (complex, _text),
    (bytes, _bytes),
    (bytearray, _bytearray),
    (dict, _dict_subclass),
    (list, _list),
    (set, _PLAIN_RULES[set]),
    (frozenset, _PLAIN_RULES[frozenset]),
    (deque, _PLAIN_RULES[deque]),
    (type, _class),
    (FunctionType, _function),
    (BuiltinFunctionType, _function),
    (MethodType, _method),
    (ModuleType, _module),
    (SimpleNamespace, _namespace),
    (UserString, _text),
)

_RULES: dict[type, _Rule] = {}


def _find_rule(kind: type) -> _Rule:
    try:
        describe = _built_in_rule(kind)
    except Exception:
        describe = _opaque
    provider = _lookup(kind, "to_log_payload")
    rule = _Rule(describe, provider is not _MISSING and provider is not None, describe in (_opaque, _namespace))
    if len(_RULES) >= _MAX_RULES:
        _RULES.clear()
    _RULES[kind] = rule
    return rule


def _built_in_rule(kind: type) -> _Describe:
    for base, describe in _BASE_RULES:
        if issubclass(kind, base):
            return describe
    if issubclass(kind, tuple):
        names = _lookup(kind, "_fields")
        if type(names) is tuple and all(type(name) is str for name in names):
            return _namedtuple(names)
        return _tuple
    for module, name, describe in _FOREIGN_RULES:
        foreign_base = getattr(sys.modules.get(module), name, None)
        if foreign_base is not None and issubclass(kind, foreign_base):
            return describe
    fields = _declared_fields(kind)
    if fields is not None:
        return fields
    if issubclass(kind, Mapping):
        return _mapping
    if issubclass(kind, (Sequence, Set, MappingView)):
        return _collection
    return _opaque


class LogPayloadProcessor:
    """Turns what the caller passed as payload into plain, bounded data without secrets.

    Values:
        - ``int``, ``float``, ``bool`` and ``None`` stay as they are; a subclass becomes the plain number.
        - A ``str`` longer than ``max_str_len`` is cut and gets ``"..."``; a subclass becomes a plain ``str``.
        - ``bytes``, ``bytearray`` and ``memoryview`` become ``bytes``, cut at ``max_str_len`` too (``b"..."``).
        - Sequences, sets, dict views and ranges become lists. A longer one than ``max_items`` gets a last item
          ``"... (N more)"``. Iterators and generators are not consumed: ``"<generator>"``.
        - Mappings become dicts with ``str`` keys. A longer one than ``max_items`` gets ``"__more__": "N more keys"``.
          Where the length cannot be trusted, ``N`` ends with a plus: there are more, but how many is not known.
        - An `enum.Enum` is its value. Dates and times are in ISO 8601; ``timedelta``, ``Decimal``, ``UUID``, ``Path``, IP
          addresses, ``Fraction`` and ``complex`` are their ``str``. NumPy scalars are the Python value.
        - Dataclasses, attrs classes, msgspec Structs, pydantic models, named tuples and ``SimpleNamespace`` become dicts
          of their fields, without those that the class keeps out of its ``repr``. Slots and properties are read; other
          descriptors (the lazy attributes of an ORM) are not.
        - An exception becomes ``{"type": ..., "message": ...}``; classes, functions and modules ``"<class shop.Order>"``,
          ``"<function shop.place>"``, ``"<module shop>"``.
        - What is nested deeper than ``max_depth`` containers (the payload itself is not counted), and any other object,
          is ``"<TypeName>"``. A container inside itself is ``"<cycle>"``.
        - A payload keeps at most 100,000 + ``max_items`` items in all; with ``unbounded`` 1,000,000.

    Keys:
        An Enum is its value, bytes are decoded as UTF-8, all else is its ``str``. Keys that become equal are
        told apart: ``"1"``, ``"1 (2)"``. A key longer than 200 characters (or ``max_str_len``, if that is more) is cut.

    Objects that describe themselves:
        A `LogPayloadProvider`'s dict is used as it is (a shallow copy; the values are the same objects), with one
        exception: secrets are redacted in it and in the dicts, lists and tuples that it holds. For other objects than
        plain builtins the ``log_adapter_resolver`` is asked next; what its adapter returns is normalized like any other
        value. Where a hook raises (which is reported to `mvx_logger.selflog`) or returns nothing usable, the built-in
        rules apply. What a class offers is looked at once per class.

    Secrets:
        The value of a key that equals one of ``redact_keys`` (ignoring case) becomes `REDACTED`, at any depth; for the
        fields of objects also when its name begins with underscores. The built-in rules never call a foreign ``repr`` or,
        but for keys, exceptions and the text-like types above, a foreign ``str``.

    Settings may be changed at any time from any thread; each call works with those that it found when it began.
    """

    __slots__ = ("_chosen", "_settings")

    def __init__(
        self,
        *,
        verbosity_level: LogVerbosityLevel | str | None = None,
        max_str_len: int | None = None,
        max_items: int | None = None,
        log_adapter_resolver: LogAdapterResolver | None = None,
        max_depth: int | None = None,
        redact_keys: Iterable[str] | None = None,
    ) -> None:
        """Set what is given; None means the default.

        Args:
            verbosity_level: What adapters and field specs are told (default ``NORMAL``).
            max_str_len: Characters kept of a str and bytes kept of bytes (default 200).
            max_items: Items kept of a sequence or mapping (default 10).
            log_adapter_resolver: Called with each value that is no plain builtin; returns a `LogAdapter` for it or None.
            max_depth: Containers below the payload (default 5; with 0 the payload has no containers in it).
            redact_keys: The keys whose values are replaced (default `DEFAULT_REDACT_KEYS`); ``()`` for none. To add
                some: ``DEFAULT_REDACT_KEYS | {"iban"}``.

        Raises:
            TypeError: An argument has the wrong type; the text names it.
            ValueError: A number is negative, or the verbosity level is unknown.
        """
        self._chosen: dict[str, Any] = {
            "verbosity_level": _check_verbosity_level(verbosity_level),
            "max_str_len": _check_limit("max_str_len", max_str_len, DEFAULT_MAX_STR_LEN),
            "max_items": _check_limit("max_items", max_items, DEFAULT_MAX_ITEMS),
            "log_adapter_resolver": _check_resolver(log_adapter_resolver),
            "max_depth": _check_limit("max_depth", max_depth, DEFAULT_MAX_DEPTH),
            "redact_keys": _check_redact_keys(redact_keys),
        }
        self._settings = _Settings(**self._chosen)

    def __repr__(self) -> str:
        settings = self._settings
        return (
            f"LogPayloadProcessor(verbosity_level={settings.verbosity.value!r}, max_str_len={settings.max_str_len}, "
            f"max_items={settings.max_items}, max_depth={settings.max_depth})"
        )

    def _choose(self, name: str, value: Any) -> None:
        chosen = self._chosen
        chosen[name] = value
        # Another thread may choose something else between the copy and the replacement. Whoever replaces last looks
        # again, so the last snapshot has all that was chosen, without a lock that a signal handler could find taken.
        while True:
            seen = dict(chosen)
            self._settings = _Settings(**seen)
            if all(seen[key] is chosen[key] for key in seen):
                return

    @property
    def verbosity_level(self) -> LogVerbosityLevel:
        """What adapters and field specs are told."""
        return self._settings.verbosity

    def set_verbosity_level(self, value: LogVerbosityLevel | str | None) -> None:
        """Set the verbosity level; None for the default.

        Raises:
            TypeError: It is not a `LogVerbosityLevel` or str.
            ValueError: It is another str than ``"MINIMAL"``, ``"NORMAL"``, ``"MAXIMUM"``.
        """
        self._choose("verbosity_level", _check_verbosity_level(value))

    def reset_verbosity_level(self) -> None:
        """Go back to ``NORMAL``."""
        self.set_verbosity_level(None)

    @property
    def max_str_len(self) -> int:
        """Characters kept of a str, bytes kept of bytes."""
        return self._settings.max_str_len

    def set_max_str_len(self, value: int | None) -> None:
        """Set how much is kept of a str or bytes; None for the default.

        Raises:
            TypeError: It is not an int.
            ValueError: It is negative.
        """
        self._choose("max_str_len", _check_limit("max_str_len", value, DEFAULT_MAX_STR_LEN))

    def reset_max_str_len(self) -> None:
        """Go back to 200."""
        self.set_max_str_len(None)

    @property
    def max_items(self) -> int:
        """Items kept of a sequence or mapping."""
        return self._settings.max_items

    def set_max_items(self, value: int | None) -> None:
        """Set how many items are kept; None for the default.

        Raises:
            TypeError: It is not an int.
            ValueError: It is negative.
        """
        self._choose("max_items", _check_limit("max_items", value, DEFAULT_MAX_ITEMS))

    def reset_max_items(self) -> None:
        """Go back to 10."""
        self.set_max_items(None)

    @property
    def log_adapter_resolver(self) -> LogAdapterResolver | None:
        """Finds the adapter of a value that is no plain builtin; None for no adapters."""
        return self._settings.resolver

    def set_log_adapter_resolver(self, value: LogAdapterResolver | None) -> None:
        """Set the resolver; None for none.

        Raises:
            TypeError: It cannot be called.
        """
        self._choose("log_adapter_resolver", _check_resolver(value))

    def reset_log_adapter_resolver(self) -> None:
        """Go back to no adapters."""
        self.set_log_adapter_resolver(None)

    @property
    def max_depth(self) -> int:
        """Containers below the payload."""
        return self._settings.max_depth

    def set_max_depth(self, value: int | None) -> None:
        """Set how deep containers may be nested; None for the default.

        Raises:
            TypeError: It is not an int.
            ValueError: It is negative.
        """
        self._choose("max_depth", _check_limit("max_depth", value, DEFAULT_MAX_DEPTH))

    def reset_max_depth(self) -> None:
        """Go back to 5."""
        self.set_max_depth(None)

    @property
    def redact_keys(self) -> frozenset[str]:
        """The keys, in lower case, whose values are replaced."""
        return self._settings.redact_keys

    def set_redact_keys(self, value: Iterable[str] | None) -> None:
        """Set the keys whose values are replaced; None for the default, ``()`` for none.

        Raises:
            TypeError: It is a single str, not iterable, or holds something else than str.
        """
        self._choose("redact_keys", _check_redact_keys(value))

    def reset_redact_keys(self) -> None:
        """Go back to `DEFAULT_REDACT_KEYS`."""
        self.set_redact_keys(None)

    def get_plain_verbosity_level(self) -> str | None:
        """``"MINIMAL"``, ``"NORMAL"`` or ``"MAXIMUM"``."""
        return self._settings.verbosity.value

    def normalize_payload(self, payload: Any, *, unbounded: bool = False) -> dict[str, Any]:
        """The payload as a dict of plain data that shares no mutable object with it.

        Args:
            payload: A mapping, a `LogPayloadProvider`, or None for an empty payload. Anything else becomes
                ``{"value": ...}``.
            unbounded: Lifts ``max_items``, everywhere in the payload; nothing else.
        """
        try:
            return weigh_payload(self, payload, unbounded)[0]
        except Exception:  # the stack has no room for one more call
            return {"value": _NO_ROOM}

    def normalize_fields(self, payload: Any) -> dict[str, Any]:
        """Like `normalize_payload`, but every key of the payload is kept; ``max_items`` holds for what is in it.

        For bridges: what a record brings along as ``extra`` are fields that its author named one by one. What a subclass
        does in a `normalize_payload` of its own holds for these too.
        """
        if type(self).normalize_payload is not _normalize_payload:
            return self.normalize_payload(payload)
        try:
            return weigh_payload(self, payload, all_keys=True)[0]
        except Exception:
            return {"value": _NO_ROOM}

    def normalize_value_for_log(self, value: Any, *, unbounded: bool = False) -> Any:
        """One value as plain data.

        Args:
            value: Anything; a container counts as the payload does for ``max_depth``.
            unbounded: Lifts ``max_items``, everywhere in the value; nothing else.
        """
        kind = type(value)
        if kind is int or value is None or kind is bool or kind is float:
            return value
        settings = self._settings
        if kind is str:
            return value if len(value) <= settings.max_str_len else value[: settings.max_str_len] + _CUT
        try:
            return _begin(settings, unbounded, set()).value(value, 0)
        except Exception:
            return _NO_ROOM


_normalize_payload = LogPayloadProcessor.normalize_payload


def weigh_payload(
    processor: LogPayloadProcessor, payload: Any, unbounded: bool = False, all_keys: bool = False
) -> tuple[dict[str, Any], int]:
    """A payload made plain, and how many characters of text are in it.

    `HEAVY` stands for more than that: other values than text and numbers, or more of them than a light event has.

    Args:
        processor: Whose settings hold.
        payload: As of `LogPayloadProcessor.normalize_payload`.
        unbounded: As there.
        all_keys: As `LogPayloadProcessor.normalize_fields` has it.
    """
    settings = processor._settings
    try:
        if type(payload) is not dict or (len(payload) > settings.max_items and not unbounded):
            return _normalize_other(payload, settings, unbounded, all_keys), HEAVY
        # From here on `_Walk.plain_dict` once more, without a call or an object for payloads of plain values.
        result = payload.copy()
        harmless = settings.harmless
        max_str_len = settings.max_str_len
        walk: _Walk | None = None
        text = 0
        for key, value in result.items():
            if type(key) is not str:
                break
            if key not in harmless:
                if len(key) > settings.max_key_len:
                    break
                if settings.is_secret(key):
                    result[key] = REDACTED
                    text += _REDACTED_LEN
                    continue
            kind = type(value)
            if kind is str:
                size = len(value)
                text += size
                if size > max_str_len:
                    result[key] = value[:max_str_len] + _CUT
            elif kind is not int and value is not None and kind is not bool and kind is not float:
                text = HEAVY
                try:
                    if walk is None:
                        walk = _begin(settings, unbounded, {id(payload)}, len(result))
                    result[key] = walk.value(value, 1)
                except Exception:
                    result[key] = _NO_ROOM
        else:
            return result, text if len(result) <= LIGHT_KEYS else HEAVY
        return _normalize_other(payload, settings, unbounded, all_keys), HEAVY
    except Exception:
        return {"value": _NO_ROOM}, HEAVY


def _normalize_other(payload: Any, settings: _Settings, unbounded: bool, all_keys: bool) -> dict[str, Any]:
    """Any payload but the common one: a dict within the limits."""
    if payload is None:
        return {}
    kind = type(payload)
    try:
        walk = _begin(settings, unbounded, set())
        if all_keys:
            walk.top_limit = _NO_LIMIT
        is_fields = kind is dict
        if kind not in _PLAIN_RULES:
            rule = _RULES.get(kind) or _find_rule(kind)
            own = rule.may_provide and "to_log_payload" in (_own_attributes(payload) or ())
            is_fields = rule.is_provider or own or issubclass(kind, Mapping)
        described = walk.value(payload, 0 if is_fields else 1)
        if is_fields and type(described) is dict:
            return described
    except Exception:
        described = _mark(kind)
    return {"value": described}


def _check_verbosity_level(value: Any) -> LogVerbosityLevel:
    if value is None:
        return LogVerbosityLevel.NORMAL
    if not isinstance(value, str):
        raise TypeError(f"verbosity_level: expected a LogVerbosityLevel or None, got {type(value).__name__}")
    try:
        return LogVerbosityLevel(value)
    except ValueError:
        raise ValueError(
            f"verbosity_level: expected one of 'MINIMAL', 'NORMAL', 'MAXIMUM', got {value[:60]!r}"
        ) from None


def _check_limit(name: str, value: Any, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an int or None, got {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{name}: expected 0 or more, got {value}")
    return min(int(value), _NO_LIMIT)


def _check_resolver(value: Any) -> LogAdapterResolver | None:
    if value is not None and not callable(value):
        raise TypeError(f"log_adapter_resolver: expected a callable or None, got {type(value).__name__}")
    return value  # type: ignore[no-any-return]


def _check_redact_keys(value: Any) -> frozenset[str]:
    if value is None:
        return DEFAULT_REDACT_KEYS
    # A str is iterable too: taken as it is, every single-letter key would lose its value.
    if isinstance(value, str):
        raise TypeError("redact_keys: expected a collection of keys, got a single str; write it as (key,)")
    if not isinstance(value, Iterable):
        raise TypeError(f"redact_keys: expected a collection of keys, got {type(value).__name__}")
    keys = frozenset(value)
    for key in keys:
        if not isinstance(key, str):
            raise TypeError(f"redact_keys: expected keys of type str, got {type(key).__name__}")
    return frozenset(_exact_str(key).lower() for key in keys)
