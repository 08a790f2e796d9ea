"""Delivery ids: each accepted event has one, the same on every retry and after a restart.

An id is a UUID of version 8 (RFC 9562, 5.8: the layout is the application's own). Its upper 88 bits are the *epoch*,
82 random bits with the version and the variant in place: one life of one sink in one process has one, and a forked child
takes another. The lower 40 bits are the number of the event in that epoch::

    f"{id_prefix(epoch)}{number:010x}"
"""

from __future__ import annotations

import os

__all__ = ["MAX_SEQUENCE", "id_prefix", "new_epoch"]

MAX_SEQUENCE = 2**40 - 1
"""The largest number that an event can have in its epoch."""


def new_epoch() -> str:
    """A new epoch: 22 hex digits, of which 82 bits are random."""
    bits = int.from_bytes(os.urandom(11), "big")
    # The version is in the bits 48 to 51 of a UUID and the variant in 64 and 65, counted from the left.
    bits = bits & ~(0xF << 36) | 8 << 36
    bits = bits & ~(0x3 << 22) | 2 << 22
    return f"{bits:022x}"


def id_prefix(epoch: str) -> str:
    """What the ids of an epoch have in common: the text of a UUID but for its last ten digits."""
    return f"{epoch[:8]}-{epoch[8:12]}-{epoch[12:16]}-{epoch[16:20]}-{epoch[20:]}"
