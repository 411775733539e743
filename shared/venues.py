"""What differs between the venues: URLs, fees, reference pair, pace."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from shared.errors import Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Venue:
    """One venue's facts.

    `reference_pair` is what "BTC" means there for the dump guard. `taker_fee` is a fraction.
    `candle_requests_per_sec` is how fast candles may be asked for on the venue's own clock,
    well inside its public limit, the poll included.
    """

    name: str
    url: str
    reference_pair: str
    taker_fee: Decimal
    candle_requests_per_sec: float


KRAKEN: Final = Venue(
    name="kraken",
    url="https://api.kraken.com",
    reference_pair="BTC/USD",
    taker_fee=Decimal("0.0040"),
    # Public calls: about one per second and address
    # (https://support.kraken.com/articles/206548367).
    candle_requests_per_sec=0.8,
)
BINANCE: Final = Venue(
    name="binance",
    url="https://api.binance.com",
    reference_pair="BTC/USDT",
    taker_fee=Decimal("0.0010"),
    # 6,000 weight a minute and address, klines weigh 2
    # (github.com/binance/binance-spot-api-docs, rest-api.md): a fifth of it.
    candle_requests_per_sec=10.0,
)

VENUES: Final[Mapping[str, Venue]] = {venue.name: venue for venue in (KRAKEN, BINANCE)}


def venue_named(name: str) -> Venue:
    """Raises `Refused` for a venue that botfleet does not trade on."""
    try:
        return VENUES[name]
    except KeyError:
        raise Refused(f"venue must be one of {', '.join(VENUES)}, was {name!r}") from None


def base_of(pair: str) -> str:
    """The currency that is bought: `BTC` of `BTC/USD`."""
    return pair.partition("/")[0]


def quote_of(pair: str) -> str:
    """The currency that pays: `USD` of `BTC/USD`."""
    return pair.partition("/")[2]
