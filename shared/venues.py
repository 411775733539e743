"""What differs between the venues: URLs, fees, pace, reference pair, and what errors prove."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Final

from shared.errors import Refused


class Said(StrEnum):
    """What a venue's own error code proves of the request that it answers.

    All but the last three prove that nothing was placed.
    """

    REFUSED = "refused"
    FUNDS_SHORT = "funds short"
    KEY_REFUSED = "key refused"
    """Key, signature, permission or account: no request with this key will do better."""
    THROTTLED = "throttled"
    NO_SUCH_ORDER = "no such order"
    """An answer to a question or a cancellation; to a new order it means nothing."""
    OUT_OF_STEP = "out of step"
    """Nonce or timestamp. Not executed, but asked for all the same: asking is cheap."""
    UNCERTAIN = "uncertain"
    """Everything that is not on a venue's list."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Venue:
    """One venue's facts.

    `reference_pair` is what "BTC" means there for the dump guard. `taker_fee` is a fraction.
    `candle_requests_per_sec` is how fast candles may be asked for on the venue's own clock,
    well inside its public limit, the poll included. `not_found_margin_secs` is how long an order
    that was accepted may stay hidden from questions. `errors` is by the venue's code, or the
    beginning of one up to a colon; the longest counts.
    """

    name: str
    url: str
    reference_pair: str
    taker_fee: Decimal
    candle_requests_per_sec: float
    not_found_margin_secs: float
    errors: Mapping[str, Said] = field(repr=False)

    def said(self, code: str) -> Said:
        """What a code proves, such as `EOrder:Insufficient funds` or `-2010:Duplicate order sent.`

        >>> str(KRAKEN.said("EGeneral:Invalid arguments:volume")), str(BINANCE.said("-1:new"))
        ('refused', 'uncertain')
        """
        while code not in self.errors:
            code, colon, _ = code.rpartition(":")
            if not colon:
                return Said.UNCERTAIN
        return self.errors[code]


KRAKEN_ERRORS: Final[Mapping[str, Said]] = {
    # https://docs.kraken.com/api/docs/guides/spot-errors. Not listed, so uncertain: EService
    # (unavailable, busy, deadline elapsed, market modes), EGeneral:Internal error, and whatever
    # the text for a client id that is in use may be.
    "EAPI:Invalid key": Said.KEY_REFUSED,
    "EAPI:Invalid signature": Said.KEY_REFUSED,
    "EAPI:Invalid nonce": Said.OUT_OF_STEP,
    "EAPI:Rate limit exceeded": Said.THROTTLED,
    "EAPI:Feature disabled": Said.REFUSED,
    "EAccount:Invalid permissions": Said.KEY_REFUSED,
    "EAuth:Account temporary disabled": Said.KEY_REFUSED,
    "EAuth:Account unconfirmed": Said.KEY_REFUSED,
    "EAuth:Rate limit exceeded": Said.THROTTLED,
    "EAuth:Too many requests": Said.THROTTLED,
    "EBM:limit exceeded": Said.REFUSED,
    "EGeneral:Invalid arguments": Said.REFUSED,
    "EGeneral:Invalid arguments:cl_ord_id": Said.UNCERTAIN,
    "EGeneral:Permission denied": Said.KEY_REFUSED,
    "EGeneral:Temporary lockout": Said.THROTTLED,
    "EGeneral:Too many requests": Said.THROTTLED,
    "EOrder:Cost minimum not met": Said.REFUSED,
    "EOrder:Domain rate limit exceeded": Said.THROTTLED,
    "EOrder:Insufficient funds": Said.FUNDS_SHORT,
    "EOrder:Invalid price": Said.REFUSED,
    "EOrder:Order minimum not met": Said.REFUSED,
    "EOrder:Orders limit exceeded": Said.REFUSED,
    "EOrder:Rate limit exceeded": Said.THROTTLED,
    "EOrder:Tick size check failed": Said.REFUSED,
    "EOrder:Trading agreement required": Said.KEY_REFUSED,
    "EOrder:Unknown order": Said.NO_SUCH_ORDER,
    "EQuery:Invalid asset pair": Said.REFUSED,
    "EQuery:Unknown asset pair": Said.REFUSED,
    "EQuery:Unknown asset": Said.REFUSED,
    "ETrade:User Locked": Said.KEY_REFUSED,
}

BINANCE_ERRORS: Final[Mapping[str, Said]] = {
    # github.com/binance/binance-spot-api-docs, errors.md: the code, then its message where the
    # code alone does not tell. Not listed, so uncertain: -1000, -1001, -1006, -1007, -1008, -1016.
    "-1002": Said.KEY_REFUSED,
    "-1003": Said.THROTTLED,
    "-1013": Said.REFUSED,
    "-1014": Said.REFUSED,
    "-1015": Said.THROTTLED,
    "-1020": Said.REFUSED,
    "-1021": Said.OUT_OF_STEP,
    "-1022": Said.KEY_REFUSED,
    **dict.fromkeys(
        (
            *("-1100", "-1101", "-1102", "-1103", "-1104", "-1105", "-1106", "-1108"),
            *("-1111", "-1114", "-1115", "-1116", "-1117", "-1118", "-1121", "-1128", "-1130"),
            *("-1131", "-1134", "-1135"),
        ),
        Said.REFUSED,
    ),
    "-2010": Said.REFUSED,
    "-2010:Account has insufficient balance for requested action.": Said.FUNDS_SHORT,
    "-2010:Duplicate order sent.": Said.UNCERTAIN,
    "-2010:This account may not place or cancel orders.": Said.KEY_REFUSED,
    "-2010:This action is disabled on this account.": Said.KEY_REFUSED,
    "-2011:Unknown order sent.": Said.NO_SUCH_ORDER,
    "-2013": Said.NO_SUCH_ORDER,
    "-2014": Said.KEY_REFUSED,
    "-2015": Said.KEY_REFUSED,
}

KRAKEN: Final = Venue(
    name="kraken",
    url="https://api.kraken.com",
    reference_pair="BTC/USD",
    taker_fee=Decimal("0.0040"),
    # Public calls: about one per second and address
    # (https://support.kraken.com/articles/206548367).
    candle_requests_per_sec=0.8,
    # After a 502 an order "may or may not have reached", "below a minute"
    # (github.com/veox/python3-krakenex, issue 60).
    not_found_margin_secs=60.0,
    errors=KRAKEN_ERRORS,
)
BINANCE: Final = Venue(
    name="binance",
    url="https://api.binance.com",
    reference_pair="BTC/USDT",
    taker_fee=Decimal("0.0010"),
    # 6,000 weight a minute and address, klines weigh 2
    # (github.com/binance/binance-spot-api-docs, rest-api.md): a fifth of it.
    candle_requests_per_sec=10.0,
    not_found_margin_secs=5.0,
    errors=BINANCE_ERRORS,
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
