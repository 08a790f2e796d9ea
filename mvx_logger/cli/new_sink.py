"""``mvx-logger new-sink``: a package with a sink of one's own, its tests, and an entry point."""

from __future__ import annotations

import keyword
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from string import Template

from ..errors import LoggerError

__all__ = ["NewSinkError", "make_names", "write_package"]

# The grammar of a project's name: https://packaging.python.org/en/latest/specifications/name-normalization/
_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_MAX_NAME = 80

_FILES = {
    "pyproject.toml": "pyproject.toml.in",
    "README.md": "README.md.in",
    "$package/__init__.py": "package.py.in",
    "$package/py.typed": None,
    "tests/server.py": "server.py.in",
    "tests/test_sink.py": "test_sink.py.in",
}


class NewSinkError(LoggerError, ValueError):
    """The package cannot be written; the text says why, and what would be right. Nothing was written."""

    reason_code = "new_sink"


def make_names(name: str) -> dict[str, str]:
    """The names that follow from the project's.

    Args:
        name: The project's name, as on an index: ``acme-sink``.

    Returns:
        ``name``; ``package``, the module: ``acme_sink``; ``sink``, the class: ``AcmeSink``; ``scheme``, of URLs: ``acme``.

    Raises:
        NewSinkError: It is no name for a project, or its module would be a keyword or hide another module.
    """
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
        raise NewSinkError(
            f"{name!r} is no name for a package: use letters, digits, '-', '_' and '.', beginning with a letter and ending "
            f"with a letter or digit, {_MAX_NAME} at most"
        )
    words = [word.lower() for word in re.split(r"[-_.]+", name)]
    package = "_".join(words)
    if keyword.iskeyword(package) or keyword.issoftkeyword(package):
        raise NewSinkError(f"{name!r}: {package!r} is a word of the language; try {name}-sink")
    if package in sys.stdlib_module_names or package == "mvx_logger":
        raise NewSinkError(f"{name!r}: there is a module {package!r} already; try {name}-sink")
    own = words[:-1] if words[-1] == "sink" and len(words) > 1 else words
    return {
        "name": name,
        "package": package,
        "sink": "".join(word.capitalize() for word in own) + "Sink",
        "scheme": "-".join(own),
    }


def write_package(name: str, directory: str) -> list[str]:
    """Write the package.

    Args:
        name: The project's name.
        directory: Where it is to be; must not be there yet, or be empty. Missing parents are made.

    Returns:
        The paths that were written.

    Raises:
        NewSinkError: The name is wrong, the directory is not empty, or the disk does not take it; nothing was written.
    """
    names = make_names(name)
    path = os.path.abspath(directory)
    try:
        if os.path.lexists(path) and (not os.path.isdir(path) or os.listdir(path)):
            raise NewSinkError(f"{directory}: is there already, and not empty; use --directory for another place")
        parent = os.path.dirname(path)
        os.makedirs(parent, exist_ok=True)
        # All or nothing: it is made beside, and renamed.
        with tempfile.TemporaryDirectory(prefix=".new-sink-", dir=parent) as made:
            whole = os.path.join(made, "package")
            written = _write(names, whole)
            if os.path.isdir(path):
                os.rmdir(path)
            os.rename(whole, path)
            _take_usual_permissions(path)
    except OSError as err:
        raise NewSinkError(f"{err.filename or directory}: {err.strerror or err}", cause=err) from err
    return [os.path.join(directory, relative) for relative in written]


def _write(names: Mapping[str, str], directory: str) -> list[str]:
    templates = files("mvx_logger.cli") / "_new_sink"
    written = []
    for target, source in _FILES.items():
        relative = Template(target).substitute(names)
        path = os.path.join(directory, relative)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        text = "" if source is None else Template((templates / source).read_text("utf-8")).substitute(names)
        with open(path, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
        written.append(relative)
    return written


def _take_usual_permissions(path: str) -> None:
    """What was made in a temporary directory is for its owner only."""
    shutil.copymode(os.path.dirname(path), path) if os.name == "nt" else os.chmod(path, 0o777 & ~_get_umask())


def _get_umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
