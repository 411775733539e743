"""What is told of orders: an event for each change, written to the outbox with the fact."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from shared.clock import ms_of
from shared.messages import OrderEvent, encode
from shared.money import exact, plain
from shared.orders import Fill, OrderFacts, OrderStatus
from shared.store.bulk import dialect_of
from shared.store.engine import Transaction
from shared.store.trading_statements import EVENTS, insert_events
from shared.topology import ORDERS, order_update_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Traded:
    """What the fills of one order add up to.

    `fee` is in `fee_currency`, the one that the first fill was charged in. What others were
    charged in another one is in the fills alone.
    """

    quantity: Decimal
    average_price: Decimal | None
    fee: Decimal
    fee_currency: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderNews:
    """An order that changed. `realised_pnl` is what its position brought, if this closed it."""

    order: OrderFacts
    status: OrderStatus
    traded: Traded
    realised_pnl: Decimal | None
    at: datetime


def traded(fills: Iterable[Fill]) -> Traded:
    """Sum the distinct fills of one order; their order does not matter."""
    ordered = sorted(fills, key=lambda fill: (fill.at_ms, fill.trade_id))
    currency = ordered[0].fee_currency if ordered else None
    zero = Decimal(0)
    with exact():
        quantity = sum((fill.quantity for fill in ordered), zero)
        value = sum((fill.quantity * fill.price for fill in ordered), zero)
        fee = sum((fill.fee for fill in ordered if fill.fee_currency == currency), zero)
    return Traded(
        quantity=quantity,
        average_price=value / quantity if quantity else None,
        fee=fee,
        fee_currency=currency,
    )


async def announce(tx: Transaction, news: Sequence[OrderNews]) -> None:
    """Write one event per piece of news to the outbox, in their order."""
    rows = [
        (
            each.order.shard,
            each.order.bot_id,
            ORDERS,
            order_update_key(each.status, each.order.venue),
            encode(_event(each)).decode(),
        )
        for each in news
    ]
    if rows:
        await tx.execute(insert_events(dialect_of(tx)), EVENTS.parameters(rows))


def _event(news: OrderNews) -> OrderEvent:
    order, summed = news.order, news.traded
    return OrderEvent(
        client_order_id=order.client_order_id,
        bot_id=order.bot_id,
        user_id=order.user_id,
        mode=order.mode,
        venue=order.venue,
        pair=order.pair,
        position_sequence=order.position_sequence,
        leg=order.leg,
        attempt=order.attempt,
        side=order.leg.side,
        status=news.status,
        quantity=plain(order.quantity),
        limit_price=_plain(order.limit_price),
        filled_quantity=plain(summed.quantity),
        average_price=_plain(summed.average_price),
        fee=plain(summed.fee),
        fee_currency=summed.fee_currency,
        reason=order.reason,
        realised_pnl=_plain(news.realised_pnl),
        at_ms=ms_of(news.at),
    )


def _plain(amount: Decimal | None) -> str | None:
    return None if amount is None else plain(amount)
