"""What an order must be, what it needs, and the trades that it gets. Pure."""

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal
from typing import Final

from ecosystem.venue_simulator.accounts import Account, Terms
from ecosystem.venue_simulator.faults import FillPlan
from ecosystem.venue_simulator.market import Quote
from ecosystem.venue_simulator.orders import (
    OrderRefused,
    OrderRequest,
    OrderType,
    RefusalKind,
    TimeInForce,
    Trade,
    VenueOrder,
)
from shared.money import MarketRules, decimal_of, exact, floor_to, plain
from shared.orders import Side
from shared.venues import base_of, quote_of

_FEE_STEP: Final = Decimal("0.00000001")
"""Fees are rounded down to it, so that what was set aside is always enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A trade that will happen at `due_ms` on the venue's clock."""

    due_ms: int
    quantity: Decimal
    price: Decimal


def best_price(quote: Quote, side: Side, rules: MarketRules) -> Decimal:
    """Where a taker of this side trades: the ask to buy, the bid to sell, on the price tick."""
    if side is Side.BUY or quote.bid is None:
        return _on_tick(quote.ask, rules.price_tick, ROUND_CEILING)
    return _on_tick(quote.bid, rules.price_tick, ROUND_FLOOR)


def _on_tick(price: float, tick: Decimal, rounding: str) -> Decimal:
    with exact():
        return max(tick, decimal_of(price).quantize(tick, rounding=rounding))


def rests(request: OrderRequest) -> bool:
    """Whether what does not fill at once stays in the book."""
    return request.type is OrderType.LIMIT and request.time_in_force is TimeInForce.GTC


def crosses(request: OrderRequest, best: Decimal) -> bool:
    """Whether it trades at this best price of the other side."""
    if request.price is None:
        return True
    return request.price >= best if request.side is Side.BUY else request.price <= best


def check_rules(request: OrderRequest, rules: MarketRules, *, best: Decimal) -> None:
    """Raise `OrderRefused` for an order that breaks the market's rules. A market order's
    notional is judged at the best price."""
    quantity, price = request.quantity, request.price
    if not (quantity.is_finite() and quantity > 0):
        raise OrderRefused(RefusalKind.INVALID_QUANTITY, f"the quantity is {quantity}")
    is_limit = request.type is OrderType.LIMIT
    if is_limit != (price is not None) or not (price is None or (price.is_finite() and price > 0)):
        raise OrderRefused(RefusalKind.INVALID_PRICE, f"the price is {price}")
    with exact():
        if quantity % rules.lot_step:
            raise OrderRefused(
                RefusalKind.LOT_STEP, f"{plain(quantity)} is no multiple of {plain(rules.lot_step)}"
            )
        if price is not None and price % rules.price_tick:
            raise OrderRefused(
                RefusalKind.PRICE_TICK,
                f"{plain(price)} is no multiple of {plain(rules.price_tick)}",
            )
        if quantity < rules.min_quantity:
            raise OrderRefused(
                RefusalKind.MIN_QUANTITY, f"{plain(quantity)} is below {plain(rules.min_quantity)}"
            )
        notional = quantity * (best if price is None else price)
        if notional < rules.min_notional:
            raise OrderRefused(
                RefusalKind.MIN_NOTIONAL, f"{plain(notional)} is below {plain(rules.min_notional)}"
            )


def planned_trades(
    request: OrderRequest, rules: MarketRules, *, best: Decimal, how: FillPlan, now_ms: int
) -> list[Planned]:
    """The trades that an order gets as it arrives; none if its limit is off the market.

    Each part after the first is one tick worse, as far as the limit lets it. Lots that do not
    divide go to the last part; an order of fewer lots than parts gets fewer trades.
    """
    if not crosses(request, best):
        return []
    with exact():
        total = floor_to(request.quantity * decimal_of(how.fraction), rules.lot_step)
        parts = min(how.parts, int(total / rules.lot_step))
        if parts == 0:
            return []
        each = floor_to(total / parts, rules.lot_step)
        last = total - each * (parts - 1)
        return [
            Planned(
                due_ms=now_ms + number * how.every_ms,
                quantity=last if number == parts - 1 else each,
                price=_worse(request, best, number * rules.price_tick, rules.price_tick),
            )
            for number in range(parts)
        ]


def _worse(request: OrderRequest, best: Decimal, by: Decimal, tick: Decimal) -> Decimal:
    if request.side is Side.BUY:
        return best + by if request.price is None else min(best + by, request.price)
    return max(best - by, tick if request.price is None else request.price)


def hold_currency(request: OrderRequest) -> str:
    """What an order uses up: the quote currency of a buy, the coin of a sell."""
    return quote_of(request.pair) if request.side is Side.BUY else base_of(request.pair)


def holding(
    request: OrderRequest, remaining: Decimal, *, market_price: Decimal, terms: Terms
) -> Decimal:
    """What must be set aside for the rest of an order, in its `hold_currency`.

    A buy needs its price, and its fee unless that comes from the coin. `market_price` stands
    in for the price of a market order: the worst that it is going to trade at.
    """
    with exact():
        if request.side is Side.SELL:
            return remaining
        cost = remaining * (market_price if request.price is None else request.price)
        return cost if terms.fee_in_coin else cost * (1 + terms.taker_fee)


def fee_of(
    request: OrderRequest, quantity: Decimal, price: Decimal, terms: Terms
) -> tuple[Decimal, str]:
    """A trade's fee and its currency, without regard to a fee asset.

    >>> from shared.orders import Side
    >>> request = OrderRequest(
    ...     pair="BTC/USD", side=Side.SELL, type=OrderType.MARKET, quantity=Decimal("0.5")
    ... )
    >>> terms = Terms(taker_fee=Decimal("0.004"), fee_in_coin=False)
    >>> fee_of(request, Decimal("0.5"), Decimal("60000"), terms)
    (Decimal('120.00000000'), 'USD')
    """
    with exact():
        if request.side is Side.BUY and terms.fee_in_coin:
            return rounded_fee(quantity * terms.taker_fee), base_of(request.pair)
        return rounded_fee(quantity * price * terms.taker_fee), quote_of(request.pair)


def rounded_fee(fee: Decimal) -> Decimal:
    with exact():
        return fee.quantize(_FEE_STEP, rounding=ROUND_DOWN)


def move_balances(account: Account, trade: Trade) -> None:
    """What a trade does to the free balances, to the last digit."""
    sign = 1 if trade.side is Side.BUY else -1
    with exact():
        account.add(base_of(trade.pair), sign * trade.quantity)
        account.add(quote_of(trade.pair), -sign * trade.cost)
        account.add(trade.fee_currency, -trade.fee)


def set_aside(account: Account, order: VenueOrder, amount: Decimal) -> None:
    """Make what is held for an order this amount: what it was goes back, or the rest comes."""
    with exact():
        account.hold(hold_currency(order.request), amount - order.held)
    order.held = amount
