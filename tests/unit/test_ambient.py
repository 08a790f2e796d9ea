"""Values that belong to the current task or thread."""

from __future__ import annotations

import contextvars
import subprocess
import sys
import threading
from types import ModuleType

import pytest
import structlog

from mvx_logger.ambient import get_ambient


class TestGetAmbient:
    def test_what_structlog_has_bound(self) -> None:
        """All of it, as a dict of one's own."""
        structlog.contextvars.bind_contextvars(request="r1", user=7)
        bound = get_ambient()
        assert bound == {"request": "r1", "user": 7}
        bound.clear()
        assert get_ambient() == {"request": "r1", "user": 7}

    def test_nothing_bound(self) -> None:
        """No values, whatever other variables there are."""
        structlog.contextvars.clear_contextvars()
        assert not get_ambient()
        assert not contextvars.Context().run(get_ambient)
        other: contextvars.ContextVar[int] = contextvars.ContextVar("other")
        token = other.set(1)
        assert not get_ambient()
        other.reset(token)

    def test_unbound_again(self) -> None:
        """What was taken back is gone."""
        structlog.contextvars.bind_contextvars(a=1, b=2)
        structlog.contextvars.unbind_contextvars("a")
        assert get_ambient() == {"b": 2}

    def test_another_thread(self) -> None:
        """It has its own."""
        structlog.contextvars.bind_contextvars(a=1)
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(get_ambient()))
        thread.start()
        thread.join()
        assert not found[0]

    def test_structlog_is_just_being_imported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A module without its functions yet has nothing bound."""
        structlog.contextvars.bind_contextvars(a=1)
        monkeypatch.setitem(sys.modules, "structlog.contextvars", ModuleType("structlog.contextvars"))
        assert get_ambient() is None

    def test_structlog_is_not_imported(self) -> None:
        """Nothing can be bound then, and asking does not import it."""
        program = (
            "import sys, mvx_logger\n"
            "from mvx_logger.ambient import get_ambient\n"
            "mvx_logger.configure_log_context('a').log_info_event('e', {'b': 1})\n"
            "assert get_ambient() is None\n"
            "assert 'structlog' not in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)
