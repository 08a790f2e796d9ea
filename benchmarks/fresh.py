"""Functions in interpreters of their own, so that what one side of a comparison leaves behind never meets the other."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from harness import PeerMissing, Side

_PROGRAM = """
import importlib, json, sys
directory, module, function, arguments = sys.argv[1:]
sys.path.insert(0, directory)
print(json.dumps(getattr(importlib.import_module(module), function)(**json.loads(arguments))))
"""


def run_fresh(module: str, function: str, **arguments: Any) -> Any:
    """Call a function of one of the benchmarks' modules in a fresh interpreter.

    Args:
        module: Its name, as the benchmarks import it.
        function: Its name there. It returns what JSON can hold, and prints nothing.
        **arguments: What JSON can hold.

    Returns:
        What the function returned.

    Raises:
        RuntimeError: It failed; the text has what it wrote.
    """
    directory = os.path.dirname(os.path.abspath(__file__))
    return json.loads(run_program(_PROGRAM, directory, module, function, json.dumps(arguments)))


def run_program(program: str, *arguments: str) -> str:
    """What a program prints in a fresh interpreter.

    Raises:
        RuntimeError: It failed; the text has what it wrote.
    """
    # An environment that keeps Python from writing bytecode would have every interpreter compile what it imports.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a fresh interpreter failed ({', '.join(arguments)}):\n{done.stderr}")
    return done.stdout


@contextlib.contextmanager
def fresh_side(module: str, function: str, needs: str = "", **arguments: Any) -> Iterator[Side]:
    """A side of a contest that is measured in a fresh interpreter each time: see `run_fresh`.

    Args:
        module: See there.
        function: See there; it returns figures.
        needs: The modules of the peers, with spaces between them.
        **arguments: See there.

    Raises:
        PeerMissing: One of the modules is not installed.
    """
    for name in needs.split():
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:  # not even the package that it would be in
            found = None
        if found is None:
            raise PeerMissing(f"{name} is not installed")
    yield lambda: run_fresh(module, function, **arguments)


class Stopwatch:
    """Measures a ``with`` block.

    Attributes:
        seconds: How long it took.
        cpu: The processor time of the process meanwhile, all threads together, in seconds.
    """

    def __init__(self) -> None:
        self.seconds = self.cpu = 0.0

    def __enter__(self) -> Stopwatch:
        self.cpu -= time.process_time()
        self.seconds -= time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += time.perf_counter()
        self.cpu += time.process_time()
