"""What the bound of a queue in bytes goes by."""

from __future__ import annotations

from typing import Any

import pytest

from delivery_helpers import BatchSink, Destination, make_event
from mvx_logger import LogEvent, LogEventMeta, LogEventOrigin
from mvx_logger.delivery.sizes import measure_excess


class _Unhashable(type):
    def __eq__(cls, other: object) -> bool:
        return False


class _Strange(metaclass=_Unhashable):
    pass


def _released() -> memoryview:
    view = memoryview(b"gone")
    view.release()
    return view


@pytest.mark.parametrize("value", [_Strange(), _released()], ids=["unhashable class", "released memoryview"])
def test_a_strange_value_does_not_raise_into_the_caller(value: Any) -> None:
    """log() takes an event with a value that raises when it is hashed or measured."""
    to = Destination()
    sink, close = BatchSink.create(to=to)
    sink.log(make_event("strange", value=value))
    close()
    assert to.names == ["strange"]


@pytest.mark.parametrize(
    "event",
    [
        make_event(**{f"key{index}": index for index in range(1_000)}),
        LogEvent(20, LogEventMeta("tests", "event"), None, 0.0, {}, message="x" * 100_000),
        LogEvent(
            20,
            LogEventMeta("tests", "event"),
            None,
            0.0,
            {},
            origin=LogEventOrigin(system="logging", template="x" * 100_000),
        ),
        LogEvent(
            20,
            LogEventMeta("tests", "event"),
            None,
            0.0,
            {},
            origin=LogEventOrigin(system="logging", args=("x" * 100_000,)),
        ),
    ],
    ids=["many keys", "message", "template", "args"],
)
def test_a_large_event_is_charged_for(event: LogEvent) -> None:
    """A queue that is bounded in bytes counts what a large event holds, wherever it holds it."""
    assert measure_excess(event) > 50_000
    to = Destination()
    to.open.clear()
    sink, close = BatchSink.create(to=to)
    sink.log(make_event("first"))
    assert to.arrived.wait(30)
    sink.log(event)
    assert sink.stats().queue_bytes > 50_000
    to.open.set()
    close()
