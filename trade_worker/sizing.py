"""How much an entry buys: free capital, stake and regime, then the venue's rules, in Decimal."""

from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal
from functools import lru_cache
from typing import Final

from shared.money import MarketRules, decimal_of, floor_to
from trade_worker.columns import Float64s, Mask
from trade_worker.risk.cost_floor import EXPECTED_SLIPPAGE
from trade_worker.risk.market_facts import is_price

ROUNDING_DOWN: Final = Context(prec=60, rounding=ROUND_FLOOR)
"""Where a division is not exact, the quantity is the smaller one."""

_LEAST_SLIPPAGE: Final = decimal_of(EXPECTED_SLIPPAGE)
_FLOAT_MARGIN: Final = 1 + 1e-6

_VALUE_LEFT_TO_SELL: Final = Decimal("0.9")
"""Of a position's value, after a loss beyond the emergency stop: the venue must still take that."""

exact_of = lru_cache(maxsize=65_536)(decimal_of)
"""`decimal_of` for numbers that many rows share: fees and thresholds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one tick's price and the venue's rules leave to decide.

    `price` is the ask on the venue's price tick. No order whose value is below `least_value`
    (a float of the quote currency) can meet the rules.
    """

    price: Decimal
    rules: MarketRules
    least_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stake:
    """What a row may put into an entry, all exact.

    `free` is its bot's free capital; `share` is stake fraction × regime multiplier.
    `max_slippage` is how far above the decided price the venue may fill. What a `live` entry buys
    must be possible to sell.
    """

    free: Decimal
    share: Decimal
    taker_fee: Decimal
    max_slippage: Decimal
    live: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """An order's quantity (base currency) and the most it can cost, fee and slippage included."""

    quantity: Decimal
    greatest_cost: Decimal


def price_on_tick(number: float, rules: MarketRules | None) -> Decimal:
    """The price of a tick rounded to the nearest price that the venue takes.

    As it is where the rules are not known, or where rounding would leave nothing of it.
    """
    price = decimal_of(number)
    if rules is None or not rules.price_tick > 0:
        return price
    rounded = (price / rules.price_tick).to_integral_value("ROUND_HALF_EVEN") * rules.price_tick
    return rounded if rounded > 0 else price


def terms_of(ask: float, rules: MarketRules | None) -> Terms | None:
    """The terms on which rows may buy now; None where the price or the rules are not usable."""
    if rules is None or not is_price(ask):
        return None
    if not (rules.lot_step > 0 and rules.price_tick > 0):
        return None
    price = price_on_tick(ask, rules)
    least = max(rules.min_notional, price * max(rules.min_quantity, rules.lot_step))
    return Terms(price=price, rules=rules, least_value=float(least))


def surely_too_small(spendable: Float64s, terms: Terms) -> Mask:
    """Rows that `size` is sure to refuse, found without Decimal; NaN counts as too small.

    `spendable` is the free capital, or the part of it that is to be staked.
    """
    enough: Mask = spendable * _FLOAT_MARGIN >= terms.least_value
    enough &= spendable > 0
    return ~enough


def size(stake: Stake, terms: Terms) -> Size | None:
    """The largest order that the stake, the free capital and the venue's rules allow.

    The value at the decided price is at most free × share; the greatest cost, quantity ×
    price × (1 + slippage) × (1 + taker fee), is at most `free`. None where what is left is
    below the lot step, the minimum quantity or the minimum notional; live, where that could not be
    sold after a loss of 10 % and a fee taken from the coin. Works in the decimal context
    `ROUNDING_DOWN`.

    1,000 free, share 0.8 × 0.75, ask 43,200 and lot step 0.00001: 600 / 43,200 = 0.01388 BTC,
    which costs at most 0.01388 × 43,200 × 1.003 × 1.004 = 603.82.
    """
    rules = terms.rules
    slippage = max(stake.max_slippage, _LEAST_SLIPPAGE)
    greatest_price = terms.price * (1 + slippage) * (1 + stake.taker_fee)
    affordable = min(stake.free * stake.share / terms.price, stake.free / greatest_price)
    quantity = floor_to(affordable, rules.lot_step)
    if quantity <= 0 or quantity < rules.min_quantity:
        return None
    if quantity * terms.price < rules.min_notional:
        return None
    if stake.live and not _sellable(quantity, stake, terms):
        return None
    return Size(quantity=quantity, greatest_cost=quantity * greatest_price)


def _sellable(quantity: Decimal, stake: Stake, terms: Terms) -> bool:
    rules = terms.rules
    left = floor_to(quantity * (1 - stake.taker_fee), rules.lot_step)
    if left <= 0 or left < rules.min_quantity:
        return False
    return left * terms.price * _VALUE_LEFT_TO_SELL >= rules.min_notional
