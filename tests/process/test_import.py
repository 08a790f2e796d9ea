"""What `import mvx_logger` does, and what it does not do. Each test has an interpreter of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mvx_logger

# What the import may add to the modules that `import logging, msgspec` brings: both hold the context variables that the
# guard is made of, and cost next to nothing. Whoever adds a module here shows what it costs, with
# `benchmarks/run.py --only 13`.
ALLOWED = {"contextvars", "_contextvars"}

OURS = {
    "mvx_logger",
    "mvx_logger.ambient",
    "mvx_logger.context",
    "mvx_logger.errors",
    "mvx_logger.guard",
    "mvx_logger.model",
    "mvx_logger.payload",
    "mvx_logger.protocols",
    "mvx_logger.registry",
    "mvx_logger.selflog",
    "mvx_logger.sinks",
    "mvx_logger.sinks.stream",
}


def run(program: str) -> Any:
    """What a fresh interpreter prints, as JSON. The package is found where this one is, without the help of a `.pth`."""
    # With what `python -S` and the directories on the path bring, and nothing that site hooks have imported before.
    paths = [str(Path(mvx_logger.__file__).parent.parent), *(path for path in sys.path if path)]
    result = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


class TestImport:
    def test_it_starts_nothing(self) -> None:
        """No thread, no event loop, no child, no file descriptor."""
        found = run(
            "import json, os, sys, threading\n"
            "import logging, msgspec\n"
            "descriptors = lambda: len(os.listdir('/proc/self/fd')) if os.path.isdir('/proc/self/fd') else 0\n"
            "before = descriptors()\n"
            "import mvx_logger\n"
            "print(json.dumps([threading.active_count(), descriptors() - before, 'asyncio' in sys.modules]))\n"
        )
        assert found == [1, 0, False]

    def test_it_brings_along_nothing_that_is_heavy(self) -> None:
        """Beyond `logging` and `msgspec`: our own modules that every program needs, and a short list."""
        added = run(
            "import json, sys\n"
            "import logging, msgspec\n"
            "before = set(sys.modules)\n"
            "import mvx_logger\n"
            "print(json.dumps(sorted(set(sys.modules) - before)))\n"
        )
        assert set(added) - ALLOWED == OURS

    def test_logging_an_event_does_not_either(self) -> None:
        """A native event on its way to standard error needs the text format in addition, and nothing else."""
        added = run(
            "import json, sys\n"
            "import mvx_logger\n"
            "before = set(sys.modules)\n"
            "context = mvx_logger.configure_log_context('shop.orders', min_level=10)\n"
            "context.log_info_event('order.created', {'id': 1, 'items': ['a', ('b', 'c')], 'password': 'x'})\n"
            "print(json.dumps(sorted(set(sys.modules) - before)))\n"
        )
        assert set(added) == {"mvx_logger.formats", "mvx_logger.formats.text"}

    def test_a_sink_for_the_root(self) -> None:
        """The `stderr` sink is registered and serves the root context."""
        found = run(
            "import json, mvx_logger\n"
            "root = mvx_logger.get_root_log_context()\n"
            "sink = mvx_logger.get_log_sink('stderr')\n"
            "print(json.dumps([mvx_logger.get_configured_log_sink_names(), mvx_logger.get_log_context_namespaces(),\n"
            "    type(sink).__name__, root.log_sink is sink, root.is_root]))\n"
        )
        assert found == [["stderr"], [""], "StreamLogSink", True, True]

    def test_structlog_is_not_needed_for_the_core(self) -> None:
        """Also not installed: native events, stream, registry and policies work without it."""
        found = run(
            "import json, sys\n"
            "sys.modules['structlog'] = None\n"
            "import mvx_logger\n"
            "mvx_logger.configure_log_context('a').log_info_event('e', {'b': 1})\n"
            "mvx_logger.PatternLogEventPolicy(mvx_logger.PatternLogEventPolicyConfig())\n"
            "mvx_logger.reset_logger()\n"
            "print(json.dumps('fine'))\n"
        )
        assert found == "fine"

    def test_it_leaves_the_standard_library_alone(self) -> None:
        """No handler, no level, no logger class, no hook is changed by the import."""
        found = run(
            "import json, logging, sys, threading\n"
            "def state():\n"
            "    root = logging.getLogger()\n"
            "    return [root.handlers[:], root.level, logging.getLoggerClass(), logging.getLogRecordFactory(),\n"
            "        logging.raiseExceptions, sys.excepthook, threading.excepthook, sys.stderr, sys.getswitchinterval(),\n"
            "        list(root.manager.loggerDict)]\n"
            "before = state()\n"
            "import mvx_logger\n"
            "print(json.dumps(state() == before))\n"
        )
        assert found is True

    def test_heavy_names_load_what_they_need(self) -> None:
        """On first use, once; and they are the same objects as in their modules."""
        found = run(
            "import json, sys, mvx_logger\n"
            "before = 'mvx_logger.delivery.sink' in sys.modules\n"
            "from mvx_logger import AsyncioLogSink\n"
            "import mvx_logger.delivery.sink\n"
            "print(json.dumps([before, AsyncioLogSink is mvx_logger.delivery.sink.AsyncioLogSink,\n"
            "    'AsyncioLogSink' in vars(mvx_logger)]))\n"
        )
        assert found == [False, True, True]
