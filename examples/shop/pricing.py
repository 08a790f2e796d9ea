"""What an order costs. Logs through a structlog chain that ends in the standard library."""

from __future__ import annotations

import structlog

log = structlog.get_logger("shop.pricing")


def configure() -> None:
    """Set up structlog: the chain that its documentation recommends for the standard library, rendered as JSON."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def quote(customer: str, price: float, quantity: int) -> float:
    """The total of an order, with a discount for several of a kind."""
    quoting = log.bind(customer=customer)
    total = price * quantity
    if quantity > 3:
        total *= 0.9
        quoting.info("discount", percent=10, quantity=quantity)
    quoting.info("quote", total=round(total, 2), currency="EUR")
    return round(total, 2)
