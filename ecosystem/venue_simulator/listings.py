"""What each venue lists: pairs, and what an order in them must respect. Pure."""

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from ecosystem.venue_simulator.synthetic import Asset
from shared.errors import InvalidSettings
from shared.money import MarketRules
from shared.venues import BINANCE, KRAKEN, base_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One market of one venue. Prices have `price_decimals` digits after the point."""

    venue: str
    pair: str
    price_decimals: int
    quantity_decimals: int
    rules: MarketRules


_BTC_BETA: Final = 1.0
_ALT_BETA: Final = 0.4
_STAGGER: Final = 0.618
"""Multiples of the golden ratio, modulo 1, spread evenly however many there are."""

# Code, price (USD), daily volume (USD), usual spread.
_ASSETS: Final = (
    ("BTC", 60_000.0, 900e6, 0.00008),
    ("ETH", 2_500.0, 500e6, 0.0001),
    ("SOL", 140.0, 200e6, 0.0002),
    ("XRP", 0.60, 120e6, 0.0002),
    ("ADA", 0.45, 40e6, 0.0003),
    ("DOT", 6.5, 20e6, 0.0004),
    ("LTC", 80.0, 25e6, 0.0003),
    ("LINK", 13.0, 30e6, 0.0003),
    ("ATOM", 7.2, 10e6, 0.0005),
    ("ALGO", 0.17, 6e6, 0.0006),
    ("XTZ", 0.95, 4e6, 0.0007),
    ("BNB", 550.0, 150e6, 0.0002),
    ("DOGE", 0.14, 90e6, 0.0002),
    ("AVAX", 27.0, 35e6, 0.0003),
    ("TRX", 0.16, 30e6, 0.0003),
    ("UNI", 7.8, 15e6, 0.0004),
    ("NEAR", 5.1, 20e6, 0.0004),
    ("FIL", 4.3, 12e6, 0.0005),
    ("SUI", 1.8, 45e6, 0.0003),
    ("APT", 8.9, 15e6, 0.0004),
    ("AAVE", 150.0, 15e6, 0.0005),
    ("ARB", 0.62, 15e6, 0.0005),
    ("BCH", 340.0, 18e6, 0.0004),
    ("CRV", 0.31, 6e6, 0.0007),
    ("ETC", 19.0, 10e6, 0.0005),
    ("GRT", 0.18, 4e6, 0.0008),
    ("ICP", 9.1, 10e6, 0.0005),
    ("IMX", 1.5, 5e6, 0.0008),
    ("INJ", 21.0, 10e6, 0.0006),
    ("LDO", 1.2, 5e6, 0.0008),
    ("MANA", 0.33, 3e6, 0.0009),
    ("OP", 1.6, 12e6, 0.0005),
    ("PEPE", 0.000011, 60e6, 0.0004),
    ("RUNE", 5.0, 6e6, 0.0007),
    ("SAND", 0.29, 3e6, 0.0009),
    ("SEI", 0.40, 8e6, 0.0006),
    ("SHIB", 0.000018, 30e6, 0.0004),
    ("SNX", 1.6, 3e6, 0.0009),
    ("STX", 1.9, 6e6, 0.0007),
    ("TIA", 5.6, 10e6, 0.0006),
    ("XLM", 0.10, 8e6, 0.0005),
    ("ZEC", 36.0, 5e6, 0.0007),
)

ASSETS: Final = {
    code: Asset(
        code=code,
        price_usd=price_usd,
        beta=_BTC_BETA if code == "BTC" else _ALT_BETA,
        phase=number * _STAGGER % 1,
        daily_volume_usd=daily_volume_usd,
        spread=spread,
    )
    for number, (code, price_usd, daily_volume_usd, spread) in enumerate(_ASSETS)
}

MAX_MARKETS: Final = 40
"""Per venue."""

# The venues share only the largest markets among the first twelve: many independent ones give
# a fleet something to trade at any time.
_KRAKEN_FIRST: Final = (
    *("BTC/USD", "ETH/USD", "SOL/USD", "XRP/USD", "ADA/USD", "DOT/USD"),
    *("LTC/USD", "LINK/USD", "ATOM/USD", "ALGO/USD", "XTZ/USD", "BTC/USDT"),
)
_BINANCE_FIRST: Final = (
    *("BTC/USDT", "ETH/USDT", "SOL/USDT", "BNB/USDT", "DOGE/USDT", "AVAX/USDT"),
    *("TRX/USDT", "UNI/USDT", "NEAR/USDT", "FIL/USDT", "SUI/USDT", "APT/USDT"),
)
_FIRST: Final = {KRAKEN.name: ("USD", _KRAKEN_FIRST), BINANCE.name: ("USDT", _BINANCE_FIRST)}


def synthetic_listings(venue: str, count: int) -> list[Listing]:
    """The venue's first `count` markets, always in the same order.

    Raises `InvalidSettings` unless `count` is from 1 to `MAX_MARKETS`.
    """
    if not 1 <= count <= MAX_MARKETS:
        raise InvalidSettings(f"markets must be from 1 to {MAX_MARKETS}, was {count}")
    quote, first = _FIRST[venue]
    others = [pair for code in ASSETS if (pair := f"{code}/{quote}") not in first]
    return [
        listing(venue=venue, pair=pair, price=ASSETS[base_of(pair)].price_usd)
        for pair in (*first, *others)[:count]
    ]


def listing(*, venue: str, pair: str, price: float) -> Listing:
    """A market as the venue would list it at about this price.

    Kraken quotes about six digits and takes eight decimals of quantity; Binance quotes five
    digits, at least cents, and takes quantities of about half a dollar.
    """
    magnitude = math.floor(math.log10(price))
    if venue == KRAKEN.name:
        price_decimals = max(1, 5 - magnitude)
        quantity_decimals = 8
        min_quantity = Decimal(5).scaleb(-magnitude - 1)
        min_notional = Decimal("0.5")
    else:
        price_decimals = max(2, 4 - magnitude)
        quantity_decimals = max(0, magnitude + 1)
        min_quantity = Decimal(1).scaleb(-quantity_decimals)
        min_notional = Decimal(5)
    return Listing(
        venue=venue,
        pair=pair,
        price_decimals=price_decimals,
        quantity_decimals=quantity_decimals,
        rules=MarketRules(
            lot_step=Decimal(1).scaleb(-quantity_decimals),
            price_tick=Decimal(1).scaleb(-price_decimals),
            min_quantity=min_quantity,
            min_notional=min_notional,
        ),
    )
