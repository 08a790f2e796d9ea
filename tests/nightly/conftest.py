"""Many repetitions of what other folders test: their modules can be imported here."""

from __future__ import annotations

import sys
from pathlib import Path

from fork_server import end_of_fork_servers as end_of_fork_servers
from fork_server import fork_servers as fork_servers

_TESTS = Path(__file__).parents[1]
sys.path += [str(_TESTS / folder) for folder in ("process", "field", "sinks")] + [
    str(folder) for folder in [_TESTS / "unit", *sorted((_TESTS / "unit").iterdir())] if folder.is_dir()
]
