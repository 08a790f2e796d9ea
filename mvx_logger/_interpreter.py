"""Refuses to be imported in a sub-interpreter. The package asks for it where it might be in one."""

from __future__ import annotations

from typing import Any


def _is_main() -> bool:
    # Python 3.13 has given the module its name of today.
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            interpreters: Any = __import__(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() == interpreters.get_main())
    return True  # built without them


if not _is_main():
    raise ImportError(
        "mvx_logger cannot be imported in a sub-interpreter: its threads, its fork hooks and the delivery at the end of "
        "the process need the main interpreter. Run the application there (uwsgi: --single-interpreter; mod_wsgi: "
        "WSGIApplicationGroup %{GLOBAL}) or in a process of its own",
        name="mvx_logger",
    ) from None
