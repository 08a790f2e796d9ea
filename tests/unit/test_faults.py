"""`mvx_logger.faults`: where a value does not fit, in words that no other package can change."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvx_logger.faults import find_fault


class Mode(Enum):
    FAST = "fast"
    SAFE = "safe"


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    size: int
    mode: Mode = Mode.FAST


class Outer(msgspec.Struct):
    inner: Inner | None = None
    many: list[Inner] = []
    named: dict[str, int] = {}

    def __post_init__(self) -> None:
        if self.inner is not None and len(self.many) > 2:
            raise ValueError("no more than two beside an inner one")


@pytest.mark.parametrize(
    ("value", "annotation", "path", "text"),
    [
        ("1", int, "", "expected int, got str"),
        (None, int, "", "expected int, got None"),
        ("x", float | None, "", "expected float, got str"),
        (True, int | str, "", "expected int or str, got bool"),
        ("slow", Mode, "", "expected one of 'fast', 'safe', got 'slow'"),
        ("c", Literal["a", "b"] | None, "", "expected one of 'a', 'b', got 'c'"),
        (0, Annotated[int, msgspec.Meta(ge=1, le=9)], "", "expected int >= 1 and <= 9, got 0"),
        ([1, "x"], list[int], "[1]", "expected int, got str"),
        ({"size": "big"}, Inner, ".size", "expected int, got str"),
        ({"mode": "fast"}, Inner, ".size", "missing"),
        ({"size": 1, "sise": 2}, Inner, ".sise", "there is no such field; did you mean 'size'?"),
        ({"inner": {"size": 1, "mode": "slow"}}, Outer, ".inner.mode", "expected one of 'fast', 'safe', got 'slow'"),
        ({"many": [{"size": 1}, {}]}, Outer, ".many[1].size", "missing"),
        ({"named": {"a": 1, "b": None}}, Outer, ".named.b", "expected int, got None"),
        ({"inner": {"size": 1}, "many": [{"size": 1}] * 3}, Outer, "", "no more than two beside an inner one"),
        (5, Outer, "", "expected mapping, got int"),
    ],
)
def test_the_fault(value: Any, annotation: Any, path: str, text: str) -> None:
    """The path leads to the innermost part that does not fit."""
    assert find_fault(value, annotation) == (path, text)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["inner", "many", "named", "size", "mode"]), inner)))  # fmt: skip
def test_whatever_is_refused_has_a_fault(value: Any) -> None:
    """No value makes the search fail, and none is shown."""
    try:
        msgspec.convert(value, Outer)
    except msgspec.ValidationError:
        _, text = find_fault(value, Outer)
        assert text.startswith(("expected ", "missing", "there is no such field", "no more than two"))
        assert "`" not in text
