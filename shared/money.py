"""Money and quantities: Decimal at every edge, floats only inside the columns."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, localcontext

EXACT = Context(prec=60)
"""Enough digits that sums and products of prices, quantities and fees are never rounded."""


@contextmanager
def exact() -> Iterator[None]:
    """Arithmetic inside keeps every digit (60 significant ones)."""
    with localcontext(EXACT):
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketRules:
    """What a venue demands of an order in one market.

    `lot_step` and `min_quantity` are in the base currency, `price_tick` and `min_notional` in
    the quote currency.
    """

    lot_step: Decimal
    price_tick: Decimal
    min_quantity: Decimal
    min_notional: Decimal


def decimal_of(number: float) -> Decimal:
    """The shortest decimal that reads back as this float: the only way from columns to money.

    >>> decimal_of(0.1)
    Decimal('0.1')
    """
    return Decimal(repr(float(number)))


def floor_to(value: Decimal, step: Decimal) -> Decimal:
    """The largest multiple of `step` that is not above `value`.

    >>> floor_to(Decimal("1.2345"), Decimal("0.01"))
    Decimal('1.23')
    """
    return (value / step).to_integral_value(ROUND_FLOOR) * step


def ceil_to(value: Decimal, step: Decimal) -> Decimal:
    """The smallest multiple of `step` that is not below `value`."""
    return (value / step).to_integral_value(ROUND_CEILING) * step


def plain(value: Decimal) -> str:
    """The number as text without exponent: `Decimal('1E-8')` is `0.00000001`."""
    return format(value, "f")
