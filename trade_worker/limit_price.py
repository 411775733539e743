"""The price that a live order may not be filled beyond."""

from decimal import Decimal

from shared.money import MarketRules, ceil_to, exact, floor_to
from shared.orders import Side


def limit_price(
    decided: Decimal, side: Side, *, max_slippage: Decimal, rules: MarketRules | None
) -> Decimal:
    """`decided` × (1 ± `max_slippage`, a fraction), on a price that the venue takes.

    Rounded towards `decided`: a buy never costs more, a sale never brings less. As it is where
    the rules are not known. 2,000.25 and 0.3 %: 2,006.25075 is 2,006.25 to a buyer, and
    1,994.24925 is 1,994.25 to a seller.
    """
    with exact():
        if side is Side.BUY:
            limit, to_tick = decided * (1 + max_slippage), floor_to
        else:
            limit, to_tick = decided * (1 - max_slippage), ceil_to
        if rules is None or not rules.price_tick > 0:
            return limit
        # A price below the first tick, as decided, stays one that can be paid.
        return to_tick(limit, rules.price_tick) or limit
