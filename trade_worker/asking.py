"""What an answer about an order of unknown outcome means, and when "not found" is final.

Pure: the shell is reconcile.py.
"""

from dataclasses import replace
from decimal import Decimal
from typing import Final, NamedTuple

from shared.orders import UNSETTLED, LiveOrder, OrderStatus
from shared.settlement_rules import Settlement
from shared.venues import VENUES
from trade_worker.answers import Report

ENGINE_SECS: Final = 10.0
"""How long after its time a venue's engine may still work on an order (Binance's own limit)."""

NOT_FOUND_SECS: Final = {
    venue.name: ENGINE_SECS + venue.not_found_margin_secs for venue in VENUES.values()
}
"""A Kraken order with `send_by` at 12:00:00 is given up by an ask that starts at 12:01:10."""

CANCEL_AFTER_SECS: Final = 5.0
"""An order that is still open so long after its time is cancelled: it was to fill at once."""


class Next(NamedTuple):
    """How to go on with an order that was asked for."""

    order: LiveOrder
    """As it is known now."""
    done: bool
    """Whether all is known: nobody asks for it any more."""
    cancel: bool


def not_found_is_final_in_secs(
    order: LiveOrder, *, asked_at_ms: int, not_found_secs: float
) -> float:
    """How much later an ask has to start for its "not found" to be final; 0 or less: this one.

    `not_found_secs` is the venue's of `NOT_FOUND_SECS`; `asked_at_ms` is when the ask started,
    on the database's clock, as that of `send_by_ms`.
    """
    return (order.send_by_ms - asked_at_ms) / 1000 + not_found_secs


def news_of(
    order: LiveOrder, report: Report | None, *, asked_at_ms: int, not_found_secs: float
) -> Settlement | None:
    """What to write down of an order that was asked for; `report` None: there is none.

    None: nothing is known that was not known before.
    """
    if report is not None:
        return Settlement(
            client_order_id=order.client_order_id,
            status=report.status,
            venue_order_id=report.venue_order_id,
            executed=report.executed,
            fills=report.fills,
        )
    if order.status is OrderStatus.NOT_PLACED:
        return None
    if order.venue_order_id is not None:
        return None  # the venue has named it: it only does not show it yet
    left_secs = not_found_is_final_in_secs(
        order, asked_at_ms=asked_at_ms, not_found_secs=not_found_secs
    )
    if left_secs <= 0:
        return _absent(order, OrderStatus.NOT_PLACED, "the venue never had it")
    if order.status is OrderStatus.COMMITTED:
        return _absent(order, OrderStatus.UNKNOWN, "the venue does not know it (yet)")
    return None


def after(
    order: LiveOrder, report: Report | None, settled: OrderStatus | None, *, asked_at_ms: int
) -> Next:
    """How to go on once the news is written; `settled` is what it made of the order.

    None: there was none, or it could not be written.
    """
    if settled is None:
        return Next(order, done=False, cancel=False)
    if settled is OrderStatus.NOT_PLACED:
        # Watched from now on; or it is open at the venue, beside another one on its pair, until
        # its end is known.
        since_ms = asked_at_ms if order.settled_at_ms is None else order.settled_at_ms
        watched = replace(order, status=settled, settled_at_ms=since_ms)
        return Next(watched, done=False, cancel=False)
    named = order.venue_order_id if report is None else report.venue_order_id
    known = replace(order, status=settled, venue_order_id=named)
    if settled not in UNSETTLED:
        return Next(known, done=True, cancel=False)
    late = asked_at_ms > order.send_by_ms + 1000 * CANCEL_AFTER_SECS
    is_open = report is not None and report.status is OrderStatus.OPEN
    return Next(known, done=False, cancel=is_open and late)


def _absent(order: LiveOrder, status: OrderStatus, detail: str) -> Settlement:
    return Settlement(
        client_order_id=order.client_order_id,
        status=status,
        executed=Decimal(0) if status is OrderStatus.NOT_PLACED else None,
        detail=detail,
    )
