"""The rules of sending an order once: until when, and what came of it.

Pure: the shell is desk.py.
"""

from dataclasses import replace
from decimal import Decimal
from typing import Final

from shared.orders import UNSETTLED, LiveOrder, OrderStatus
from shared.settlement_rules import Settlement
from trade_worker.answers import Sent, Verdict


def deadline_secs(order: LiveOrder, *, committed_after_secs: float) -> float:
    """The monotonic moment after which the order must not be sent.

    `committed_after_secs` is a moment before its COMMIT, on the same clock: so this is never
    later than the database means with `send_by`.
    """
    return committed_after_secs + (order.send_by_ms - order.committed_at_ms) / 1000


def withheld(now_secs: float, *, send_by_secs: float, forbidden: str | None) -> Sent | None:
    """Why an order does not go out although it was committed; None: it must be sent now."""
    if now_secs >= send_by_secs:
        return Sent(verdict=Verdict.NOT_SENT, text="its time was over before it was sent")
    if forbidden is not None:
        return Sent(verdict=Verdict.NOT_SENT, text=forbidden)
    return None


def news_of(order: LiveOrder, sent: Sent, *, sent_at_ms: int | None) -> Settlement:
    """What sending an order says about it."""
    status, report = _STATUS_OF[sent.verdict], sent.report
    if report is not None:
        status = report.status
    return Settlement(
        client_order_id=order.client_order_id,
        status=status,
        venue_order_id=report.venue_order_id if report else sent.venue_order_id,
        executed=report.executed if report else _EXECUTED_OF.get(sent.verdict),
        fills=report.fills if report else (),
        sent_at_ms=None if sent.verdict is Verdict.NOT_SENT else sent_at_ms,
        detail=sent.text or None,
    )


def left_to_ask(
    order: LiveOrder, news: Settlement, settled: OrderStatus | None
) -> LiveOrder | None:
    """The order as it must be asked for once its news is written; None: its outcome is known.

    `settled` is what that made of it, None where it could not be written.
    """
    if settled is not None and settled not in UNSETTLED:
        return None
    status = order.status if settled is None else settled
    return replace(order, status=status, venue_order_id=news.venue_order_id)


_STATUS_OF: Final = {
    Verdict.ACCEPTED: OrderStatus.OPEN,
    Verdict.REJECTED: OrderStatus.REJECTED,
    Verdict.UNKNOWN: OrderStatus.UNKNOWN,
    # Only whoever committed it, and knows that the venue was never called, may say this.
    Verdict.NOT_SENT: OrderStatus.EXPIRED,
}
_EXECUTED_OF: Final = {Verdict.REJECTED: Decimal(0), Verdict.NOT_SENT: Decimal(0)}
