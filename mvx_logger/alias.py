"""`install_as`: the package under another name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType

from .errors import ModuleAliasError

__all__ = ["install_as"]

_PACKAGE = __name__.rpartition(".")[0]


def install_as(name: str, *, force: bool = False) -> None:
    """Make ``import name`` give this package: ``install_as("mvx.common.logger")``.

    Packages above it that do not exist are made, empty. What is imported from below it
    (``from mvx.common.logger.sinks.stream import ...``) is the package's own, not a second copy.

    Args:
        name: A dotted module name.
        force: Hide a real package of that name.

    Raises:
        ModuleAliasError: A real package of that name is importable, and ``force`` was not given; nothing was changed.
        ValueError: The name is malformed.
        TypeError: It is not a str.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a str, got {type(name).__name__}")
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts) or parts[0] == _PACKAGE:
        raise ValueError(f"name: {name!r} is malformed; use a dotted module name such as 'mvx.common.logger'")
    package = sys.modules[_PACKAGE]
    if sys.modules.get(name) is package:
        return
    if not force and _is_importable(name):
        raise ModuleAliasError(
            f"a package {name!r} is importable here and would be hidden; remove it, or pass force=True",
            details={"name": name},
        )
    parent: ModuleType | None = None
    for end in range(1, len(parts)):
        above = ".".join(parts[:end])
        module = sys.modules.get(above)
        if module is None:
            module = _import_or_make(above)
        if parent is not None:
            setattr(parent, parts[end - 1], module)
        parent = module
    sys.modules[name] = package
    if parent is not None:
        setattr(parent, parts[-1], package)
    # Before the finder of paths: it would load the package's files again.
    sys.meta_path.insert(0, _SubmoduleFinder(name))


def _is_importable(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _import_or_make(name: str) -> ModuleType:
    if _is_importable(name):
        return importlib.import_module(name)
    module = ModuleType(name, "Made by mvx_logger.install_as.")
    module.__path__ = []
    sys.modules[name] = module
    return module


class _SubmoduleFinder:
    """Finds the package's submodules under another name."""

    def __init__(self, alias: str) -> None:
        self._prefix = f"{alias}."

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(self._prefix):
            return None
        name = f"{_PACKAGE}.{fullname.removeprefix(self._prefix)}"
        if importlib.util.find_spec(name) is None:
            return None
        return ModuleSpec(fullname, _SameModule(name))


class _SameModule(Loader):
    """Loads a module by giving the one that there is."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has given it the alias' spec meanwhile.
        module.__spec__ = self._spec
