"""Entry point of the ``mvx-logger`` command."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command; its packages (``click``, ``rich``) are the extra ``cli``."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError as error:
        print(f"mvx-logger: {error}; the command needs: pip install 'mvx-logger[cli]'", file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from None
    from .commands import cli

    cli(prog_name="mvx-logger")


if __name__ == "__main__":
    main()
