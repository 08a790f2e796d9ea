"""`LogEvent` as a plain dict: what a destination with a JSON form of its own starts from.

The dict has the fields of `mvx_logger.formats.json`, none of them empty, and may be changed by whoever asked for it, but
not what is in it: the payload is still the event's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ..model import LogEvent
from .json import _encode_slowly, _to_lines

__all__ = ["encode_documents", "to_document"]

_encoder = msgspec.json.Encoder()


def to_document(event: LogEvent) -> dict[str, Any]:
    """The fields of an event by the names that they have in JSON. Never raises for what the event holds.

    Its strings may still hold what UTF-8 cannot: see `encode_documents`.
    """
    try:
        document: dict[str, Any] = msgspec.to_builtins(_to_lines((event,))[0])
    except Exception:
        document = msgspec.json.decode(_encode_slowly(event))
    return document


def encode_documents(
    shape: Callable[[dict[str, Any], LogEvent, str], Any], events: Sequence[LogEvent], ids: Sequence[str]
) -> list[bytes]:
    """Encode each event as JSON in the form of a destination.

    Args:
        shape: Makes what is encoded, of the event's document, the event and its delivery id.
        events: The events.
        ids: Their delivery ids.

    Returns:
        UTF-8, one object for each event, without line breaks. Never raises for what an event holds.
    """
    encode = _encoder.encode
    encoded: list[bytes] = []
    for event, delivery_id in zip(events, ids, strict=True):
        try:
            encoded.append(encode(shape(to_document(event), event, delivery_id)))
        except Exception:  # a lone surrogate, a huge int: in the bytes of the plain form it is put into words
            encoded.append(encode(shape(msgspec.json.decode(_encode_slowly(event)), event, delivery_id)))
    return encoded
