"""A small shop, logging the way programs of some age do.

Every module has its own habits: `catalog` and `stock` use the standard library, `pricing` a structlog chain that
ends there too, `supplier` talks HTTP with httpx, which logs by itself, `shipping` runs asyncio tasks, and `payments` is
already migrated to `mvx_logger.LogContext`. The ``dictConfig`` in ``logging.json`` puts warnings on stderr, and that is all
that its operator ever saw. To see the rest, without changing a line::

    mvx-logger run --sink sqlite:///events.db examples/shop/main.py
    mvx-logger show events.db
"""

from __future__ import annotations

import asyncio
import json
import logging.config
from pathlib import Path

import catalog
import payments
import pricing
import shipping
import stock
import supplier

logger = logging.getLogger("shop")

ORDERS = [
    {"id": "1001", "customer": "ada", "item": "lamp", "quantity": 2, "card": "4000-0000-0000-0002"},
    {"id": "1002", "customer": "grace", "item": "desk", "quantity": 1, "card": "4000-0000-0000-0010"},
    {"id": "1003", "customer": "alan", "item": "chair", "quantity": 4, "card": "4000-0000-0000-9995"},
    {"id": "1004", "customer": "edsger", "item": "sofa", "quantity": 1, "card": "4000-0000-0000-0028"},
]


def handle(order: dict, shop_catalog: catalog.Catalog, client: supplier.Supplier) -> bool:
    """Take one order through the shop; True when it is ready to be shipped."""
    number = order["id"]
    try:
        item = shop_catalog.find(order["item"])
    except catalog.UnknownItemError as err:
        print(f"order {number}: rejected, {err}")
        return False
    available = client.availability(item.name)
    if available < order["quantity"]:
        logger.warning("order %s waits: %d of %s wanted, %d there", number, order["quantity"], item.name, available)
    total = pricing.quote(order["customer"], item.price, order["quantity"])
    try:
        payments.Payment(number).charge(total, card=order["card"])
    except payments.CardDeclinedError as err:
        print(f"order {number}: not paid, {err}")
        return False
    print(f"order {number}: {order['quantity']} x {item.name}, {total:.2f} paid")
    return True


def main() -> None:
    """Handle the day's orders."""
    with open(Path(__file__).with_name("logging.json"), encoding="utf-8") as file:
        logging.config.dictConfig(json.load(file))
    pricing.configure()

    logger.info("the shop opens", extra={"orders": len(ORDERS)})
    shop_catalog = catalog.Catalog.load()
    with supplier.serve() as address, supplier.Supplier(address) as client:
        accepted = [order for order in ORDERS if handle(order, shop_catalog, client)]
    stock.count(shop_catalog)
    asyncio.run(shipping.ship(accepted))
    logger.info("the shop closes: %(accepted)d of %(all)d orders", {"accepted": len(accepted), "all": len(ORDERS)})
    print(f"{len(accepted)} of {len(ORDERS)} orders shipped")


if __name__ == "__main__":
    main()
