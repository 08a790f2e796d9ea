"""One schema for the options of a sink: keyword arguments, `dictConfig` keys and URL query parameters."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from mvx_logger import LogConfigurationError, LogLevel
from mvx_logger.errors import LoggerError
from mvx_logger.options import check_options, convert_option, fold_config, get_options, parse_level


class Mode(enum.Enum):
    FAST = "fast"
    SAFE = "safe"


class Base:
    def __init__(self, *, namespace: str | None = None, size: int = 10) -> None:
        self.namespace = namespace
        self.size = size


class Marker:
    pass


class Target(Base):
    def __init__(
        self,
        path: Path | str,
        *,
        mode: Mode = Mode.FAST,
        kind: Literal["a", "b"] = "a",
        timeout: float | None = 1.5,
        enabled: bool = False,
        tags: list[str] | None = None,
        callback: Callable[[], None] | None = None,
        marker: Marker | None = None,
        size: float = 2.5,
        untyped=None,
        **base_options: Any,
    ) -> None:
        super().__init__(**base_options)


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """Checks itself."""

    file: str
    level: int | str = 20
    mode: Mode = Mode.FAST
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise LogConfigurationError("limit: expected 1 or more", details={"path": "limit"})


class Configured:
    config_option: ClassVar[tuple[str, type[Struct]]] = ("config", Config)

    def __init__(self, *, name: str = "", config: Config) -> None:
        pass


class Optional:
    config_option: ClassVar[tuple[str, type[Struct]]] = ("config", Config)

    def __init__(self, *, config: Config = Config("x")) -> None:  # noqa: B008
        pass


def error_of(target: type, options: dict[str, Any], **how: Any) -> LogConfigurationError:
    with pytest.raises(LogConfigurationError) as caught:
        check_options(target, options, **how)
    return caught.value


class TestReading:
    def test_the_parameters_are_the_options(self) -> None:
        """Its own before those of its bases, where it passes keywords on; the nearest class decides on a name."""
        options = get_options(Target)
        assert list(options) == [
            *(
                "path",
                "mode",
                "kind",
                "timeout",
                "enabled",
                "tags",
                "callback",
                "marker",
                "size",
                "untyped",
                "namespace",
            ),
        ]
        assert options["path"].required
        assert not options["mode"].required
        assert options["mode"].default is Mode.FAST
        assert options["size"].default == 2.5

    def test_a_class_that_passes_nothing_on(self) -> None:
        """Without `**kwargs` the options of the bases are not its own."""

        class Closed(Base):
            def __init__(self, *, own: int = 1) -> None:
                super().__init__()

        assert list(get_options(Closed)) == ["own"]

    def test_a_class_without_a_constructor(self) -> None:
        """It has those of the class that it inherits the constructor from, or none."""

        class Derived(Base):
            pass

        assert list(get_options(Derived)) == ["namespace", "size"]
        assert get_options(Marker) == {}

    def test_annotations_that_cannot_be_resolved(self) -> None:
        """Names that only a type checker knows leave the check to the constructor."""

        class Lazy:
            def __init__(self, *, value: Unknown = None) -> None:  # type: ignore[name-defined] # noqa: F821
                pass

        marker = Marker()
        assert check_options(Lazy, {"value": marker}) == {"value": marker}

    def test_annotations_that_cannot_be_checked(self) -> None:
        """Several classes at once leave the check to the constructor too."""

        class Either:
            def __init__(self, *, value: Marker | Base) -> None:
                pass

        assert check_options(Either, {"value": 5}) == {"value": 5}


class TestChecking:
    def test_what_fits_is_converted(self) -> None:
        """Values and enum members by value, paths from text, all else as it is."""
        callback, marker = lambda: None, Marker()
        given_options = {
            "path": "a/b",
            "mode": "safe",
            "kind": "b",
            "timeout": 3,
            "enabled": True,
            "tags": ["x"],
            "callback": callback,
            "marker": marker,
            "size": 1,
            "untyped": {1: 2},
            "namespace": "n",
        }
        assert check_options(Target, given_options) == {
            **given_options,
            "path": Path("a/b"),
            "mode": Mode.SAFE,
            "timeout": 3.0,
        }

    def test_members_and_paths_themselves(self) -> None:
        """What has the right type already stays."""
        checked = check_options(Target, {"path": Path("x"), "mode": Mode.SAFE, "timeout": None, "marker": None})
        assert checked == {"path": Path("x"), "mode": Mode.SAFE, "timeout": None, "marker": None}

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({}, "path: missing; Target needs it"),
            ({"path": "x", "tiemout": 1}, "tiemout: Target has no such option; did you mean 'timeout'?"),
            ({"path": "x", "zzzzzzzz": 1}, "zzzzzzzz: Target has no such option; known are: path, mode, "),
            ({"path": "x", "mode": "slow"}, "mode: expected one of 'fast', 'safe', got 'slow'"),
            ({"path": "x", "kind": "c"}, "kind: expected one of 'a', 'b', got 'c'"),
            ({"path": "x", "timeout": "3"}, "timeout: expected float, got str"),
            ({"path": "x", "enabled": 1}, "enabled: expected bool, got int"),
            ({"path": "x", "tags": "a,b"}, "tags: expected list, got str"),
            ({"path": "x", "tags": ["a", 5]}, "tags[1]: expected str, got int"),
            ({"path": "x", "marker": 5}, "marker: expected Marker, got int"),
            ({"path": 5}, "path: expected Path, got int"),
            ({"path": "x", "namespace": 5}, "namespace: expected str, got int"),
        ],
    )
    def test_what_does_not_fit(self, options: dict[str, Any], text: str) -> None:
        """The error names the path, what was found and what would be right."""
        assert str(error_of(Target, options)).startswith(text)
        err = error_of(Target, options, path="sinks.main")
        assert str(err).startswith(f"sinks.main.{text}")
        assert err.details["path"] == f"sinks.main.{text.partition(':')[0]}"
        assert isinstance(err, LoggerError)
        assert isinstance(err, ValueError)

    def test_required_ones_that_come_later(self) -> None:
        """The caller may have some that it fills in itself."""
        assert check_options(Target, {}, ignore=("path",)) == {}

    def test_the_value_is_not_told(self) -> None:
        """A wrong value may be a secret that stands in the wrong place."""
        err = error_of(Target, {"path": "x", "timeout": "hunter2"})
        assert "hunter2" not in str(err)
        assert "hunter2" not in repr(err.to_log_payload())


class TestText:
    """`lax`: options as they come from a URL."""

    def test_text_is_converted(self) -> None:
        """Numbers, booleans, lists with commas, null."""
        options = {
            "path": "a/b",
            "mode": "safe",
            "timeout": "2.5",
            "enabled": "true",
            "tags": "a,b",
            "size": "7",
            "namespace": "n",
        }
        assert check_options(Target, options, lax=True) == {
            "path": Path("a/b"),
            "mode": Mode.SAFE,
            "timeout": 2.5,
            "enabled": True,
            "tags": ["a", "b"],
            "size": 7.0,
            "namespace": "n",
        }
        assert check_options(Target, {"path": "x", "enabled": "0"}, lax=True)["enabled"] is False

    def test_what_does_not_fit(self) -> None:
        """The errors are the same."""
        assert str(error_of(Target, {"path": "x", "enabled": "maybe"}, lax=True)).startswith("enabled: ")
        assert str(error_of(Target, {"path": "x", "timeout": "soon"}, lax=True, path="url")).startswith("url.timeout: ")

    @given(st.integers(-(10**6), 10**6), st.booleans(), st.sampled_from(list(Mode)))
    def test_text_and_values_mean_the_same(self, number: int, flag: bool, mode: Mode) -> None:
        """Whichever way an option comes, it arrives as the same value."""
        as_text = {"path": "x", "size": str(number), "enabled": str(flag).lower(), "mode": mode.value}
        as_values = {"path": Path("x"), "size": number, "enabled": flag, "mode": mode}
        assert check_options(Target, as_text, lax=True) == check_options(Target, as_values)


class TestConfigurationObjects:
    def test_its_fields_may_stand_beside_the_others(self) -> None:
        """Flat, in a mapping, or as the object: the same."""
        expected = {"name": "n", "config": Config("f", "DEBUG", Mode.SAFE)}
        fields = {"file": "f", "level": "DEBUG", "mode": "safe"}
        assert check_options(Configured, {"name": "n", **fields}) == expected
        assert check_options(Configured, {"name": "n", "config": fields}) == expected
        assert check_options(Configured, {"name": "n", "config": Config("f", "DEBUG", Mode.SAFE)}) == expected

    def test_flat_fields_win(self) -> None:
        """Over those in the object or mapping."""
        for config in (Config("f", limit=3), {"file": "f", "limit": 3}):
            checked = check_options(Configured, {"config": config, "limit": 5})
            assert checked == {"config": Config("f", limit=5)}

    def test_an_object_that_is_not_needed(self) -> None:
        """Nothing given, nothing made: the constructor has a default."""
        assert check_options(Optional, {}) == {}

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({}, "file: missing"),
            ({"level": 10}, "file: missing"),
            ({"config": {}}, "config.file: missing"),
            ({"file": 5}, "file: expected str, got int"),
            ({"config": {"file": 5}}, "config.file: expected str, got int"),
            ({"file": "f", "mode": "slow"}, "mode: expected one of 'fast', 'safe', got 'slow'"),
            (
                {"config": {"file": "f", "mode": "slow"}},
                "config.mode: expected one of 'fast', 'safe', got 'slow'",
            ),
            ({"file": "f", "limit": 0}, "limit: expected 1 or more"),
            ({"config": {"file": "f", "limit": 0}}, "config.limit: expected 1 or more"),
            ({"fiel": "f"}, "fiel: Configured has no such option; did you mean 'file'?"),
            ({"config": {"fiel": "f"}}, "config.fiel: there is no such field; did you mean 'file'?"),
            ({"config": {"file": "f", "zzzz": 1}}, "config.zzzz: there is no such field; known are: file, level, mode"),
            ({"config": 5}, "config: expected mapping, got int"),
            ({"config": 5, "file": "f"}, "config: expected mapping, got int"),
        ],
    )
    def test_errors_name_what_was_written(self, options: dict[str, Any], text: str) -> None:
        """A field that stands beside the others is named without the object that it belongs to."""
        assert str(error_of(Configured, options)).startswith(text)
        err = error_of(Configured, options, path="sinks.main")
        assert str(err).startswith(f"sinks.main.{text}")
        assert err.details["path"] == f"sinks.main.{text.partition(':')[0]}"

    def test_folding_changes_nothing_that_was_given(self) -> None:
        """The caller's mappings stay as they are."""
        inner = {"file": "f"}
        options = {"config": inner, "limit": 5}
        assert fold_config(options, "config", Config) == {"config": {"file": "f", "limit": 5}}
        assert inner == {"file": "f"}
        assert options == {"config": inner, "limit": 5}
        assert fold_config({"name": "n"}, "config", Config) == {"name": "n"}


class TestOneValue:
    def test_a_path_for_the_error(self) -> None:
        """Nested values are named by where they are."""
        with pytest.raises(LogConfigurationError, match=r"^a\.b\.x\[0\]: "):
            convert_option({"x": ["1"]}, dict[str, list[int]], path="a.b")
        with pytest.raises(LogConfigurationError, match=r"^expected int"):
            convert_option("1", int, path="")

    def test_a_wrong_key_of_a_mapping(self) -> None:
        """Where no field has a name, no names are proposed."""
        with pytest.raises(LogConfigurationError, match="expected one of "):
            convert_option({"x": {"y": "slow"}}, dict[str, dict[str, Mode]], path="a")


class TestLevels:
    @pytest.mark.parametrize(
        ("value", "number"),
        [
            (10, 10),
            (0, 0),
            (-5, -5),
            (LogLevel.ERROR, 40),
            ("INFO", 20),
            ("info", 20),
            (" Warning ", 30),
            ("warn", 30),
            ("CRITICAL", 50),
            ("FATAL", 50),
            ("NOTSET", 0),
            ("25", 25),
            ("-5", -5),
        ],
    )
    def test_numbers_and_names(self, value: Any, number: int) -> None:
        """Any number; the names that the standard library knows, in any case; a number as text."""
        assert parse_level(value) == number
        assert type(parse_level(value)) is int

    def test_a_level_of_the_program_s_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Names that were added to the standard library are known, as they were written."""
        for table in ("_levelToName", "_nameToLevel"):
            monkeypatch.setattr(logging, table, dict(getattr(logging, table)))
        logging.addLevelName(25, "Notice")
        assert parse_level("Notice") == 25

    @pytest.mark.parametrize("value", ["LOUD", "", None, 2.5, True, [], "Level 17", b"INFO"])
    def test_what_is_none(self, value: Any) -> None:
        """The error names the path, and what would be right."""
        with pytest.raises(LogConfigurationError, match=r"^sinks\.main\.level: .*INFO") as caught:
            parse_level(value, path="sinks.main.level")
        assert caught.value.details == {"path": "sinks.main.level"}
