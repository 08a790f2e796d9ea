"""Help for tests: of code that logs, and of sinks.

**Capture events.** With pytest, the fixture ``captured_events`` is there by itself (the package registers a plugin); where
plugins are not loaded by themselves, write ``pytest_plugins = ["mvx_logger.testing"]``. Without pytest, use
`capture_events`::

    with capture_events("shop") as capture:
        place_order()
    assert capture.one(name="order.created").payload["order_id"] == 42

**Check a sink of your own.** Subclass `SinkConformance` and `SinkOptionsConformance`: see there. They need pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .capture import EventCapture, capture_events

if TYPE_CHECKING:
    from .conformance import SinkConformance, SinkDestination
    from .options_conformance import SinkOptionsConformance

__all__ = ["EventCapture", "SinkConformance", "SinkDestination", "SinkOptionsConformance", "capture_events"]


def __getattr__(name: str) -> Any:
    if name in ("SinkConformance", "SinkDestination"):
        from . import conformance  # imports pytest

        return getattr(conformance, name)
    if name == "SinkOptionsConformance":
        from . import options_conformance

        return options_conformance.SinkOptionsConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def pytest_configure(config: Any) -> None:
    """For ``pytest_plugins = ["mvx_logger.testing"]``: add the plugin where it was not loaded by itself."""
    from .. import _pytest_plugin

    if not config.pluginmanager.is_registered(_pytest_plugin):
        config.pluginmanager.register(_pytest_plugin, "mvx_logger")
