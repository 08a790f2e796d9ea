"""Found first on ``PYTHONPATH`` in a program that ``mvx-logger run`` starts: switches the routing on, then steps aside.

Every interpreter that inherits the environment runs this file, also ones of other versions and environments (tox,
virtualenv, pip's build environments). It is therefore plain enough for any of them, and does nothing where it does not
belong.
"""
# ruff: noqa: E402, F401, S110, UP031
# mypy: ignore-errors

import os
import sys


def _find(package):
    """The function that switches the routing on; None where the package is not to be had."""
    sys.path.append(package)  # last: it matters only where the command was run from a checkout
    try:
        from mvx_logger.cli.activate import activate
    except ImportError as error:
        if (getattr(error, "name", None) or "").partition(".")[0] == "mvx_logger":
            return None
        raise
    finally:
        sys.path.remove(package)
    return activate


def _start():
    here = os.path.dirname(os.path.abspath(__file__))
    # The program's sys.path is its own; what it starts finds this directory through PYTHONPATH again.
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    text = os.environ.get("MVX_LOGGER_RUN")
    if not text or sys.version_info[0] < 3:
        return
    try:
        import json

        settings = json.loads(text)
        if settings["prefix"] != sys.prefix or settings["python"] != list(sys.version_info[:2]):
            return
        activate = _find(settings["package"])
        if activate is not None:
            activate(settings)
    except Exception as error:
        try:
            sys.stderr.write("mvx-logger: run: logging is not routed: %s: %s\n" % (type(error).__name__, error))
        except Exception:
            pass


_start()
# Step aside: what follows is what `site` would have done without this file, its ImportError included. The reference
# keeps this module's globals alive in Python 2.
_shadow = sys.modules.pop("sitecustomize", None)
import sitecustomize
