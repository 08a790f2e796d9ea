"""Counts the stock, one thread for each shelf."""

from __future__ import annotations

import logging
import threading

from catalog import Catalog

logger = logging.getLogger("shop.stock")

SHELVES = {"chair": 3, "desk": 1, "lamp": 12}


def _count_shelf(name: str) -> None:
    counted = 0
    for _ in range(SHELVES[name]):
        counted += 1
        logger.debug("counted %d", counted, extra={"shelf": name})
    logger.info("shelf counted", extra={"shelf": name, "counted": counted})


def count(catalog: Catalog) -> None:
    """Count all shelves at once."""
    threads = [threading.Thread(target=_count_shelf, args=(name,), name=f"shelf-{name}") for name in catalog.names()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
