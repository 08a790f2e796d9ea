"""Payments: the module that was migrated to `mvx_logger` already."""

from __future__ import annotations

from mvx_logger import LogContext, configure_log_context, log_invocation

log = configure_log_context("shop.payments")


class CardDeclinedError(Exception):
    """The bank said no."""

    code = "card_declined"
    code_desc = "The bank declined the card"


class Payment:
    """The payment of one order."""

    def __init__(self, order: str) -> None:
        self.entity_id = f"order-{order}"

    def get_log_context(self) -> LogContext:
        """Where the decorated methods log."""
        return log

    @log_invocation("charge", context_fields=("amount",))
    def charge(self, amount: float, *, card: str) -> None:
        """Charge a card; `CardDeclinedError` when the bank declines it."""
        log.log_info_event(
            "requested", {"amount": amount, "card": f"...{card[-4:]}", "token": "tok-" + card}, entity_id=self.entity_id
        )
        if card.endswith("9995"):
            raise CardDeclinedError(f"card ending in {card[-4:]} was declined")
        log.log_info_event("settled", {"amount": amount}, entity_id=self.entity_id, event_outcome="success")
