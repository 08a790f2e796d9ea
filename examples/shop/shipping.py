"""Ships the accepted orders, each in an asyncio task of its own."""

from __future__ import annotations

import asyncio
import logging

from structlog.contextvars import bound_contextvars

logger = logging.getLogger("shop.shipping")


async def _ship(order: dict) -> None:
    # What is bound here appears on every event of this task, also on those of the standard library.
    with bound_contextvars(order=order["id"]):
        logger.info("packing for %s", order["customer"])
        await asyncio.sleep(0.05)
        logger.info("on its way")


async def ship(orders: list[dict]) -> None:
    """Ship all orders concurrently."""
    async with asyncio.TaskGroup() as group:
        for order in orders:
            group.create_task(_ship(order), name=f"ship-{order['id']}")
