"""Paper trading: every order fills at once, at bid or ask, with fee and slippage."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from shared.money import exact
from shared.orders import Fill, Intent, Side
from shared.venues import quote_of

SLIPPAGE: Final = Decimal("0.0001")
"""How much worse than bid or ask a paper order fills, as a fraction: what stage 5 reckons with."""


def fill_price(decided_price: Decimal, side: Side) -> Decimal:
    """The price at which a paper order fills that was decided at `decided_price`.

    >>> fill_price(Decimal(100), Side.BUY), fill_price(Decimal(100), Side.SELL)
    (Decimal('100.0100'), Decimal('99.9900'))
    """
    with exact():
        return decided_price * (1 + SLIPPAGE if side is Side.BUY else 1 - SLIPPAGE)


class PaperOrders:
    """The order port for `Mode.PAPER`. Buys fill at the ask, sells at the bid: `decided_price`."""

    def fill_at_commit(self, intent: Intent) -> Sequence[Fill]:
        price = fill_price(intent.decided_price, intent.leg.side)
        with exact():
            fee = intent.quantity * price * intent.taker_fee
        return (
            Fill(
                client_order_id=intent.client_order_id,
                trade_id=f"paper-{intent.client_order_id}",
                leg=intent.leg,
                quantity=intent.quantity,
                price=price,
                fee=fee,
                fee_currency=quote_of(intent.pair),
                at_ms=intent.market_time_ms,
            ),
        )
