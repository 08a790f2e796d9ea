"""Sub-interpreters: the package refuses to be imported there, in words that help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mvx_logger

IMPORT = """
import os, sys
sys.path[:] = {path!r}
try:
    import mvx_logger
except ImportError as err:
    os.write(1, f"{{err.name}}: {{err}}\\n".encode())
else:
    os.write(1, b"imported\\n")
"""

if sys.version_info >= (3, 13):
    MODULE = "_interpreters"
    KINDS = {"legacy": "create('legacy')", "isolated": "create('isolated')"}
else:
    MODULE = "_xxsubinterpreters"
    KINDS = {"legacy": "create(isolated=False)", "isolated": "create(isolated=True)"}


def run(code: str) -> str:
    # On standard error, some versions of the decimal module speak up where they are loaded a second time.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestSubInterpreters:
    @pytest.mark.parametrize("thread", [False, True], ids=["main thread", "another thread"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_import_is_refused(self, kind: str, thread: bool) -> None:
        """With a shared lock (as mod_wsgi makes them) and isolated: it says what to do, whether or not the main interpreter
        has the package, which goes on working there."""
        path = [str(Path(mvx_logger.__file__).parent.parent), *filter(None, sys.path)]
        told = run(f"""
import sys, threading
import {MODULE} as interpreters
sys.path[:] = {path!r}
code = {IMPORT.format(path=path)!r}
for _ in range(2):
    interpreter = interpreters.{KINDS[kind]}
    if {thread}:
        thread = threading.Thread(target=interpreters.run_string, args=(interpreter, code))
        thread.start()
        thread.join()
    else:
        interpreters.run_string(interpreter, code)
    interpreters.destroy(interpreter)
    import mvx_logger
mvx_logger.MemoryLogSink.create()
""")
        lines = told.splitlines()
        assert len(lines) == 2
        for line in lines:
            assert line.startswith("mvx_logger: mvx_logger cannot be imported in a sub-interpreter")
            assert "--single-interpreter" in line
            assert "WSGIApplicationGroup %{GLOBAL}" in line

    def test_other_threads_of_the_main_interpreter(self) -> None:
        """They may import it first."""
        assert (
            run("""
import threading
def first():
    import mvx_logger
    mvx_logger.configure_log_context("a").log_info_event("b")
    print("imported")
thread = threading.Thread(target=first)
thread.start()
thread.join()
""")
            == "imported\n"
        )

    def test_interpreter_that_was_built_without_them(self) -> None:
        """There the question does not arise."""
        assert (
            run("""
import sys, threading
sys.modules["_interpreters"] = sys.modules["_xxsubinterpreters"] = None
def first():
    import mvx_logger
    print("imported")
thread = threading.Thread(target=first)
thread.start()
thread.join()
""")
            == "imported\n"
        )

    def test_signals_stay_as_they_are(self) -> None:
        """The look at where it is imported changes no handler."""
        told = run("""
import signal
def handlers():
    return [signal.getsignal(number) for number in sorted(signal.valid_signals())]
before = handlers()
import mvx_logger
print(handlers() == before)
""")
        assert told == "True\n"
