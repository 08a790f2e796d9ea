"""How much memory an event holds, roughly: what the bound of a queue in bytes goes by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..model import LIGHT_KEYS, LIGHT_TEXT, LogEvent

__all__ = ["EVENT_BYTES", "measure_excess"]

EVENT_BYTES = 512
"""What every event is charged: the event, its metadata, a payload of a few keys, and `LIGHT_TEXT`. For a light event with
`LIGHT_KEYS` that is about a kilobyte too little, for which ordinary events need not be measured."""

_MAX_NODES = 100_000
_NODE = 64
_HEAVY = LIGHT_TEXT + 1


def measure_excess(event: LogEvent) -> int:
    """How many bytes the event holds beyond `EVENT_BYTES`.

    Nothing here runs code of an object in the event (not even a hash of its class), so that next to nothing needs to be
    caught: what a signal handler raises meanwhile is the application's.
    """
    payload = event.payload
    if type(payload) is dict and len(payload) <= LIGHT_KEYS and event.exception is None and event.stack is None:
        text = 0
        for value in [*payload.values()]:  # a copy, in one step: other threads may change it
            kind = type(value)
            if kind is str:
                text += len(value)
            elif kind is not int and kind is not bool and kind is not float and value is not None:
                return _measure_all(event)
        message = event.message
        if message is not None:
            text += len(message) if type(message) is str else _HEAVY
        origin = event.origin
        if origin is not None:
            template, args = origin.template, origin.args
            if template is not None and template is not message:
                text += len(template) if type(template) is str else _HEAVY
            if args is not None:
                text += _count_text(args) if type(args) is tuple and len(args) <= LIGHT_KEYS else _HEAVY
        if text <= LIGHT_TEXT:
            return 0
    return _measure_all(event)


def _measure_all(event: LogEvent) -> int:
    total = _measure(event.payload) - 4 * _NODE
    if event.message is not None:
        total += _measure(event.message)
    exception = event.exception
    if exception is not None:
        total += _measure((exception.text, exception.message, exception.stacks))
    stack = event.stack
    if stack is not None:
        total += _measure((stack.text, stack.frames))
    origin = event.origin
    if origin is not None:
        total += _measure(origin.args)
        if origin.template is not event.message:
            total += _measure(origin.template)
    return max(0, total - LIGHT_TEXT)


def _count_text(values: Iterable[Any]) -> int:
    """The characters of all values; too many when one is neither text nor a number."""
    text = 0
    for value in values:
        kind = type(value)
        if kind is str:
            text += len(value)
        elif kind is not int and kind is not bool and kind is not float and value is not None:
            return _HEAVY
    return text


def _measure(value: Any) -> int:
    # Not recursive: a payload may be deeper than the stack. What is shared or cyclic is counted as often as it is met.
    total = 0
    nodes = 0
    stack = [value]
    while stack and nodes < _MAX_NODES:
        item = stack.pop()
        nodes += 1
        kind = type(item)
        if kind is str:
            total += len(item) if item.isascii() else 4 * len(item)
        elif kind is int or kind is bool or kind is float or item is None:
            pass
        elif kind is dict:
            total += _NODE * (1 + len(item))
            stack.extend(item.values())
        elif kind is list or kind is tuple:
            total += _NODE + 8 * len(item)
            stack.extend(item)
        elif kind is bytes or kind is bytearray:
            total += len(item)
        elif kind is memoryview:
            try:
                total += item.nbytes
            except ValueError:  # it was released
                pass
        else:
            total += 4 * _NODE
    return total
