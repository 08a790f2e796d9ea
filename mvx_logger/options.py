"""One schema for the options of a sink, whichever way they come.

The annotated keyword parameters of a class' ``__init__`` (and, where it takes ``**kwargs``, those of its bases) are the
schema: the same names and types serve keyword arguments, ``dictConfig`` keys and URL query parameters. Values are
checked by `msgspec.convert`. A class whose options come in a configuration object names the parameter and the object's class
in ``config_option = ("config", ConfigClass)``: then the object's fields may stand beside the other options.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union

import msgspec

from .errors import LogConfigurationError
from .faults import find_fault, hint

if TYPE_CHECKING:
    from urllib.parse import SplitResult

__all__ = [
    "Option",
    "check_options",
    "check_own_options",
    "convert_option",
    "fold_config",
    "get_options",
    "options_from_url",
    "parse_level",
    "parse_servers",
    "require_extra",
]


class Option(msgspec.Struct, frozen=True):
    """One option of a sink class.

    Attributes:
        name: Its spelling, everywhere.
        type: Its annotation, resolved.
        required: True when it has no default.
        default: Its default, where it has one.
    """

    name: str
    type: Any
    required: bool
    default: Any = None


_cache: dict[type, dict[str, Option]] = {}


def get_options(target: type) -> dict[str, Option]:
    """The options of a class by name, in the order of its parameters, its own before those of its bases."""
    options = _cache.get(target)
    if options is None:
        options = _cache[target] = _read_options(target)
    return options


def _read_options(target: type) -> dict[str, Option]:
    import inspect
    import typing

    options: dict[str, Option] = {}
    for cls in target.__mro__:
        init = cls.__dict__.get("__init__")
        if init is None or cls is object:
            continue
        try:
            hints = typing.get_type_hints(init)
        except Exception:  # an annotation that only a type checker can resolve: the constructor checks it
            hints = {}
        passes_on = False
        for parameter in list(inspect.signature(init).parameters.values())[1:]:
            if parameter.kind is parameter.VAR_KEYWORD:
                passes_on = True
            elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                required = parameter.default is parameter.empty
                option = Option(
                    parameter.name,
                    _checkable(hints.get(parameter.name, Any)),
                    required,
                    None if required else parameter.default,
                )
                options.setdefault(parameter.name, option)
        if not passes_on:
            break
    return options


def _checkable(annotation: Any) -> Any:
    parts = getattr(annotation, "__args__", ())
    # pathlib is half as heavy as this whole package; where nobody has imported it, no annotation names it.
    pathlib = sys.modules.get("pathlib")
    if pathlib is not None and str in parts and pathlib.Path in parts:  # one has to go: text becomes a path
        parts = tuple(part for part in parts if part is not str)
        annotation = Union[parts]  # noqa: UP007 - built from a tuple
    try:
        msgspec.convert(msgspec.UNSET, annotation | msgspec.UnsetType)
    except msgspec.ValidationError:
        pass
    except TypeError:  # a callable, a protocol, two custom types at once: the constructor checks it
        return Any
    return annotation


def _from_foreign(wanted: type, value: Any) -> Any:
    wanted = getattr(wanted, "__origin__", wanted)  # the class behind e.g. Callable[[str], int]
    if hasattr(wanted, "__fspath__") and isinstance(value, str):
        from pathlib import Path

        return Path(value)
    if isinstance(value, wanted):
        return value
    raise TypeError(f"Expected `{wanted.__name__}`, got `{type(value).__name__}`")


def convert_option(value: Any, annotation: Any, *, lax: bool = False, path: str) -> Any:
    """Check one value.

    Args:
        value: What was given.
        annotation: The type that it has to have.
        lax: Convert text as it comes from a URL: ``"10"`` to 10, ``"true"`` to True, ``"a,b"`` to a list.
        path: Where the value stands, for the error.

    Raises:
        LogConfigurationError: It does not fit; the text names the path, what was found and what would be right.
    """
    try:
        return msgspec.convert(value, annotation, strict=not lax, dec_hook=_from_foreign)
    except msgspec.ValidationError as err:
        if lax and isinstance(value, str):
            try:
                return msgspec.convert(value.split(","), annotation, strict=False, dec_hook=_from_foreign)
            except msgspec.ValidationError:
                pass
        inner, text = find_fault(value, annotation, strict=not lax, dec_hook=_from_foreign)
        where = (path + inner).strip(".")
        raise LogConfigurationError(f"{where}: {text}" if where else text, details={"path": where}, cause=err) from err


def check_options(
    target: type,
    options: Mapping[str, Any],
    *,
    lax: bool = False,
    path: str = "",
    ignore: Sequence[str] = (),
) -> dict[str, Any]:
    """Check the options of a sink class against the parameters of its constructor.

    Args:
        target: The class.
        options: What was given.
        lax: Convert text as it comes from a URL.
        path: Where the options stand (e.g. ``sinks.main``), for errors.
        ignore: Names of required parameters that may be missing.

    Returns:
        The options that were given, converted.

    Raises:
        LogConfigurationError: An option is unknown, missing, or has the wrong type.
    """
    known = get_options(target)
    prefix = f"{path}." if path else ""
    names = list(known)
    config_name = ""
    flat = False
    config_option = getattr(target, "config_option", None)
    if config_option is not None:
        config_name, config_type = config_option
        names += config_type.__struct_fields__
        # Errors name what was written: the fields of an object that is made here have no object's name before theirs.
        flat = config_name not in options
        if flat and known[config_name].required:
            options = {**options, config_name: {}}
        options = fold_config(options, config_name, config_type)
    checked: dict[str, Any] = {}
    for name, value in options.items():
        option = known.get(name)
        if option is None:
            raise _unknown(name, names, prefix, target)
        where = path if flat and name == config_name else prefix + name
        checked[name] = convert_option(value, option.type, lax=lax, path=where)
    for option in known.values():
        if option.required and option.name not in checked and option.name not in ignore:
            where = prefix + option.name
            raise LogConfigurationError(
                f"{where}: missing; {target.__name__} needs it", details={"path": where, "target": target.__name__}
            )
    return checked


def check_own_options(
    target: type, given: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]] | None = None
) -> dict[str, Any]:
    """Check the options of a sink class' own constructor, without those that it passes on.

    Args:
        target: The class; its options are keyword-only parameters.
        given: What was given, and possibly more: e.g. ``locals()`` at the beginning of the constructor.
        ranges: The smallest and the largest value of options that are numbers.

    Returns:
        All own options, converted, with defaults for those that are missing.

    Raises:
        LogConfigurationError: One has the wrong type, or is out of its range.
    """
    known = get_options(target)
    own: Any = vars(target)["__init__"]
    checked: dict[str, Any] = {}
    for name, default in own.__kwdefaults__.items():
        value = checked[name] = convert_option(given.get(name, default), known[name].type, path=name)
        if ranges is not None and name in ranges and value is not None:
            low, high = ranges[name]
            if not low <= value <= high:
                raise LogConfigurationError(
                    f"{name}: expected {low:g} to {high:g}, got {value}", details={"path": name}
                )
    return checked


def fold_config(options: Mapping[str, Any], name: str, config_type: type[msgspec.Struct]) -> dict[str, Any]:
    """Let the fields of a configuration object stand beside the other options, as they have to in a URL.

    Args:
        options: What was given, e.g. ``{"level": "DEBUG", "logger_name": "x"}``.
        name: The option that takes the object, e.g. ``config``.
        config_type: The object's class.

    Returns:
        The options with those fields moved into a mapping under ``name``, or into the object that was given there.
        Where something else was given there, it stays as it is: for whoever checks it next.
    """
    fields = {key: value for key, value in options.items() if key in config_type.__struct_fields__}
    if not fields:
        return dict(options)
    rest = {key: value for key, value in options.items() if key not in fields}
    given = rest.get(name)
    if isinstance(given, config_type):
        given = msgspec.structs.asdict(given)
    if given is None or isinstance(given, Mapping):
        rest[name] = {**(given or {}), **fields}
    return rest


def _unknown(name: object, known: Sequence[str], prefix: str, target: type) -> LogConfigurationError:
    return LogConfigurationError(
        f"{prefix}{name}: {target.__name__} has no such option; {hint(str(name), known)}",
        details={"path": f"{prefix}{name}", "target": target.__name__},
    )


def parse_level(value: int | str, *, path: str = "level") -> int:
    """A level as a number.

    Args:
        value: A number, or the name of a level that `logging` knows, in any case.
        path: Where the value stands, for the error.

    Raises:
        LogConfigurationError: It is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        import logging

        text = value.strip()
        if text.lstrip("-").isdigit():
            return int(text)
        number = logging.getLevelName(text.upper())
        if isinstance(number, int):
            return number
        number = logging.getLevelName(text)
        if isinstance(number, int):
            return number
    raise LogConfigurationError(
        f"{path}: {value!r} is not a level; use a number or one of DEBUG, INFO, WARNING, ERROR, CRITICAL",
        details={"path": path},
    )


def parse_servers(value: str | Sequence[str], *, port: int, path: str = "servers") -> list[tuple[str, int]]:
    """Addresses of servers.

    Args:
        value: ``host`` or ``host:port``, ``[::1]:port`` for IPv6; several with commas between them, or in a list.
        port: The port where none is given.
        path: Where the value stands, for the error.

    Raises:
        LogConfigurationError: There is no address, or one is none; the text does not repeat what may be a secret.
    """
    from urllib.parse import urlsplit

    texts = value.split(",") if isinstance(value, str) else value
    found = []
    for text in texts:
        try:
            parts = urlsplit(f"//{text.strip()}")
            host, own_port = parts.hostname, parts.port
            is_more = bool(parts.path or parts.query or parts.fragment)
        except ValueError:
            host, own_port, is_more = None, None, False
        if "@" in text:
            raise LogConfigurationError(
                f"{path}: username and password are options of their own", details={"path": path}
            )
        if not host or own_port == 0 or is_more:
            raise LogConfigurationError(f"{path}: {text!r} is not host:port", details={"path": path})
        found.append((host, own_port or port))
    if not found:
        raise LogConfigurationError(f"{path}: expected one address or more", details={"path": path})
    return found


def options_from_url(target: type, url: SplitResult, parts: Mapping[str, str]) -> dict[str, Any]:
    """The options of a sink class that stand in a URL before its query.

    Args:
        target: The class.
        url: The URL, split.
        parts: Which option a part is; the keys are ``hostname``, ``port``, ``username``, ``password`` and ``path`` (without
            its first slash). Several servers (``kafka://one:9092,two:9092``) are one part, ``netloc``.

    Returns:
        The options whose parts are there and not empty, their escapes resolved; a port is a number.

    Raises:
        LogConfigurationError: The URL has a part that is no option; the text quotes nothing of it.
    """
    from urllib.parse import unquote

    found: dict[str, Any] = {}
    netloc = url.netloc.rpartition("@")[2]
    if "netloc" in parts:
        given: dict[str, Any] = {"netloc": netloc}
    else:
        try:
            given = {"hostname": url.hostname, "port": url.port}
        except ValueError:
            raise LogConfigurationError("the port in the URL is not a number from 0 to 65535") from None
    given.update(username=url.username, password=url.password, path=url.path.removeprefix("/"))
    for part, value in given.items():
        if value is None or value == "":
            continue
        if part not in parts:
            allowed = ", ".join(parts) or "nothing but a query"
            raise LogConfigurationError(
                f"{target.__name__} has no option for the {part} of a URL; it takes {allowed}, and options in the query",
                details={"part": part},
            )
        found[parts[part]] = unquote(value) if isinstance(value, str) else value
    return found


def require_extra(extra: str, module: str) -> Any:
    """Import the client library of a destination.

    Args:
        extra: The extra of this package that installs it, e.g. ``redis``.
        module: The module to import, e.g. ``redis.asyncio``.

    Returns:
        The module.

    Raises:
        LogConfigurationError: It is not installed; the text says what to install.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as err:
        raise LogConfigurationError(
            f"the package {module.partition('.')[0]!r} is missing: pip install 'mvx-logger[{extra}]' ({err})",
            details={"extra": extra, "module": module},
            cause=err,
        ) from err
