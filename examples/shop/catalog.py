"""What is for sale. Logs with the standard library: ``%`` arguments, ``extra``, a traceback."""

from __future__ import annotations

import logging
from typing import NamedTuple

logger = logging.getLogger("shop.catalog")


class UnknownItemError(LookupError):
    """The shop does not sell it."""


class Item(NamedTuple):
    """One thing for sale."""

    name: str
    price: float


class Catalog:
    """All that the shop sells."""

    def __init__(self, items: list[Item]) -> None:
        self._items = {item.name: item for item in items}

    @classmethod
    def load(cls) -> Catalog:
        """Read the catalog."""
        lines = ["lamp;19.90", "desk;240.00", "chair;54.50", "shelf;twelve"]
        items = []
        for number, line in enumerate(lines, 1):
            name, price = line.split(";")
            try:
                items.append(Item(name, float(price)))
            except ValueError:
                logger.exception("catalog line %d is unreadable", number, extra={"line": line})
        logger.info("catalog of %d items loaded", len(items), extra={"items": [item.name for item in items]})
        return cls(items)

    def names(self) -> list[str]:
        """The names of all items."""
        return sorted(self._items)

    def find(self, name: str) -> Item:
        """The item of that name; `UnknownItemError` when there is none."""
        logger.debug("looking for %s", name)
        try:
            return self._items[name]
        except KeyError:
            logger.warning("nobody sells a %s", name, extra={"item": name})
            raise UnknownItemError(f"there is no {name}") from None
