"""What is wrong with a value that does not fit its type: where, what would be right, and what was found.

``msgspec`` decides whether a value fits. Its messages are its own and change between versions, so none of them is passed on:
the fault is looked for again here, from the outside in, and said in the words of this package.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import inspect

from .errors import LogConfigurationError

__all__ = ["find_fault", "hint"]

_NAMES = {
    inspect.NoneType: "None",
    inspect.BoolType: "bool",
    inspect.IntType: "int",
    inspect.FloatType: "float",
    inspect.StrType: "str",
    inspect.BytesType: "bytes",
    inspect.ListType: "list",
    inspect.TupleType: "list",
    inspect.VarTupleType: "list",
    inspect.SetType: "list",
    inspect.FrozenSetType: "list",
    inspect.DictType: "mapping",
    inspect.StructType: "mapping",
}
_BOUNDS = {
    "ge": ">=",
    "gt": ">",
    "le": "<=",
    "lt": "<",
    "min_length": "with a length >=",
    "max_length": "with a length <=",
}

Hook = Callable[[type, Any], Any]


def find_fault(value: Any, annotation: Any, *, strict: bool = True, dec_hook: Hook | None = None) -> tuple[str, str]:
    """Say why ``msgspec.convert`` refuses a value.

    Args:
        value: What does not fit.
        annotation: The type that it should have.
        strict, dec_hook: As for ``msgspec.convert``.

    Returns:
        The path to the fault within the value, e.g. ``.source.line`` or ``[1]``, empty for the value itself; and
        ``expected X, got Y``. Values are shown only where the choice is between a few names, so that no secret is.
    """
    return _Search(strict, dec_hook).search(value, annotation)


def hint(name: str, known: Collection[str]) -> str:
    """What an unknown name may have meant, or all names that there are."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known) or 'none'}"


class _Search:
    def __init__(self, strict: bool, dec_hook: Hook | None) -> None:
        self._strict = strict
        self._dec_hook = dec_hook

    def search(self, value: Any, annotation: Any) -> tuple[str, str]:
        if typing.get_origin(annotation) is typing.Annotated and not _has_bounds(annotation):
            annotation = typing.get_args(annotation)[0]
        for member in typing.get_args(annotation) if _is_union(annotation) else (annotation,):
            inner = self._within(value, member)
            if inner is not None:
                return inner
        return "", f"expected {_describe(inspect.type_info(annotation))}, got {_show(value, annotation)}"

    def _within(self, value: Any, annotation: Any) -> tuple[str, str] | None:
        """The fault of a part of the value; None when the value as a whole is of another kind."""
        origin = typing.get_origin(annotation) or annotation
        if isinstance(value, Mapping) and isinstance(origin, type):
            if issubclass(origin, msgspec.Struct):
                return self._within_struct(value, origin)
            if issubclass(origin, Mapping):
                arguments = typing.get_args(annotation)
                return (
                    self._first((f".{key}", item, arguments[1]) for key, item in value.items()) if arguments else None
                )
        if isinstance(value, (list, tuple)) and origin in (list, tuple, set, frozenset):
            arguments = typing.get_args(annotation)
            return self._first((f"[{i}]", item, arguments[0]) for i, item in enumerate(value)) if arguments else None
        return None

    def _within_struct(self, value: Mapping[str, Any], struct: type[msgspec.Struct]) -> tuple[str, str]:
        fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
        if struct.__struct_config__.forbid_unknown_fields:
            for name in value:
                if name not in fields:
                    return f".{name}", f"there is no such field; {hint(str(name), fields)}"
        for name, field in fields.items():
            if field.required and name not in value:
                return f".{name}", "missing"
        found = self._first((f".{name}", value[name], field.type) for name, field in fields.items() if name in value)
        if found is not None:
            return found
        # Each part fits: the object itself has refused them.
        cause = self._refusal(value, struct)
        if isinstance(cause, LogConfigurationError):
            path = str(cause.details.get("path", ""))
            return f".{path}" if path else "", str(cause).removeprefix(f"{path}: ")
        return "", str(cause)

    def _first(self, parts: Iterable[tuple[str, Any, Any]]) -> tuple[str, str] | None:
        for path, value, annotation in parts:
            if self._refusal(value, annotation) is not None:
                inner, text = self.search(value, annotation)
                return path + inner, text
        return None

    def _refusal(self, value: Any, annotation: Any) -> BaseException | None:
        try:
            msgspec.convert(value, annotation, strict=self._strict, dec_hook=self._dec_hook)
        except msgspec.ValidationError as err:
            return err.__cause__ or err
        return None


def _is_union(annotation: Any) -> bool:
    return isinstance(inspect.type_info(annotation), inspect.UnionType)


def _has_bounds(annotation: Any) -> bool:
    return any(isinstance(item, msgspec.Meta) for item in typing.get_args(annotation)[1:])


def _choices(info: inspect.Type) -> list[Any]:
    if isinstance(info, inspect.UnionType):
        return [choice for member in info.types for choice in _choices(member)]
    if isinstance(info, inspect.EnumType):
        return [member.value for member in info.cls]
    return list(info.values) if isinstance(info, inspect.LiteralType) else []


def _describe(info: inspect.Type) -> str:
    if isinstance(info, inspect.Metadata):
        return _describe(info.type)
    if isinstance(info, inspect.UnionType):
        # That None would be right, too, helps nobody who gave something else.
        members = (member for member in info.types if not isinstance(member, inspect.NoneType))
        return " or ".join(dict.fromkeys(map(_describe, members)))
    choices = _choices(info)
    if choices:
        return f"one of {', '.join(map(repr, choices))}"
    foreign: str = getattr(getattr(info, "cls", None), "__name__", "another type")
    name = _NAMES.get(type(info), foreign)
    return " and ".join([f"{name} {bounds[0]}", *bounds[1:]] if (bounds := _bounds(info)) else [name])


def _bounds(info: inspect.Type) -> list[str]:
    return [f"{sign} {limit}" for key, sign in _BOUNDS.items() if (limit := getattr(info, key, None)) is not None]


def _show(value: Any, annotation: Any) -> str:
    info = inspect.type_info(annotation)
    is_choice = isinstance(value, (str, int)) and _choices(info)
    is_out_of_range = isinstance(value, (int, float)) and _bounds(info)
    return repr(value) if value is None or is_choice or is_out_of_range else type(value).__name__
