"""What can be made to go wrong, as data: set over HTTP while the simulator runs. Pure."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum, unique
from typing import Any, Final

from ecosystem.venue_simulator.listings import Listing
from ecosystem.venue_simulator.market import Quote
from shared.errors import Refused
from shared.venues import VENUES


@unique
class FaultKind(StrEnum):
    SLOW = "slow"
    """The reply waits for `delay_secs`."""
    FAIL = "fail"
    """HTTP 503."""
    GARBAGE = "garbage"
    """HTTP 200 with a body that is not JSON."""
    REFUSE = "refuse"
    """The symbol is not listed: unknown to requests, absent from lists."""
    MISSING_BID = "missing_bid"
    ZERO_PRICE = "zero_price"
    NAN_PRICE = "nan_price"
    """The last price is the text NaN."""
    JUMP = "jump"
    """Price, bid and ask are multiplied by `factor`."""


_ON_QUOTES: Final = frozenset(
    {FaultKind.MISSING_BID, FaultKind.ZERO_PRICE, FaultKind.NAN_PRICE, FaultKind.JUMP}
)

ENDPOINTS: Final = ("time", "status", "assets", "markets", "tickers", "candles")
"""What a request is for, by names that both venues share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong at one venue.

    `pair` None means all its pairs, `endpoint` None all its endpoints. `times` is how many more
    replies it spoils, None for all until it is cleared. A fault of a pair spoils every reply
    that the pair has a part in.
    """

    venue: str
    kind: FaultKind
    pair: str | None = None
    endpoint: str | None = None
    times: int | None = None
    delay_secs: float = 0.0
    factor: float = 1.0

    def touches(self, *, venue: str, endpoint: str, pairs: Collection[str]) -> bool:
        """Whether it spoils this reply. Quotes are in replies of `tickers` only."""
        if self.kind in _ON_QUOTES and endpoint != "tickers":
            return False
        return (
            self.venue == venue
            and self.endpoint in (None, endpoint)
            and (self.pair is None or self.pair in pairs)
        )


@dataclass(frozen=True, slots=True)
class Spoiled:
    """What goes wrong with one reply."""

    faults: tuple[Fault, ...] = ()

    @property
    def delay_secs(self) -> float:
        return sum(fault.delay_secs for fault in self.faults if fault.kind is FaultKind.SLOW)

    @property
    def fails(self) -> bool:
        return any(fault.kind is FaultKind.FAIL for fault in self.faults)

    @property
    def is_garbage(self) -> bool:
        return any(fault.kind is FaultKind.GARBAGE for fault in self.faults)

    def quote(self, listing: Listing, quote: Quote) -> Quote:
        """The quote as it is told."""
        for fault in self.faults:
            if fault.pair in (None, listing.pair):
                quote = _distorted(quote, fault)
        return quote


def _distorted(quote: Quote, fault: Fault) -> Quote:
    match fault.kind:
        case FaultKind.MISSING_BID:
            return replace(quote, bid=None)
        case FaultKind.ZERO_PRICE:
            return replace(quote, price=0.0)
        case FaultKind.NAN_PRICE:
            return replace(quote, price=math.nan)
        case FaultKind.JUMP:
            return Quote(
                price=quote.price * fault.factor,
                bid=None if quote.bid is None else quote.bid * fault.factor,
                ask=quote.ask * fault.factor,
            )
    return quote


@dataclass(slots=True)
class FaultBoard:
    """The faults that are set, in the order in which they were."""

    _faults: list[Fault] = field(default_factory=list)

    def set(self, fault: Fault) -> None:
        self._faults.append(fault)

    def clear(self, venue: str | None = None) -> None:
        """Mend one venue, or everything."""
        self._faults = [fault for fault in self._faults if venue not in (None, fault.venue)]

    def all(self) -> list[dict[str, Any]]:
        return [asdict(fault) for fault in self._faults]

    def refused(self, venue: str) -> frozenset[str]:
        """The pairs that the venue claims not to list."""
        return frozenset(
            fault.pair
            for fault in self._faults
            if fault.kind is FaultKind.REFUSE and fault.venue == venue and fault.pair is not None
        )

    def spoil(self, *, venue: str, endpoint: str, pairs: Iterable[str]) -> Spoiled:
        """What goes wrong with a reply of this venue about these pairs; uses up `times`."""
        concerned = frozenset(pairs)
        hits: list[Fault] = []
        kept: list[Fault] = []
        for fault in self._faults:
            if fault.kind is FaultKind.REFUSE or not fault.touches(
                venue=venue, endpoint=endpoint, pairs=concerned
            ):
                kept.append(fault)
                continue
            hits.append(fault)
            if fault.times is None:
                kept.append(fault)
            elif fault.times > 1:
                kept.append(replace(fault, times=fault.times - 1))
        self._faults = kept
        return Spoiled(tuple(hits))


def fault_of(fields: Mapping[str, Any]) -> Fault:
    """A fault from a JSON object with the fields of `Fault`.

    Raises `Refused` with the field, what it was and what would be right.
    """
    names = Fault.__slots__
    unknown = sorted(set(fields) - set(names))
    if unknown:
        raise Refused(f"{unknown[0]} is not a field of a fault; they are {', '.join(names)}")
    kinds = [kind.value for kind in FaultKind]
    _one_of("venue", fields.get("venue"), list(VENUES))
    _one_of("kind", fields.get("kind"), kinds)
    _one_of("endpoint", fields.get("endpoint"), [None, *ENDPOINTS])
    fault = Fault(**{**fields, "kind": FaultKind(fields["kind"])})
    if fault.pair is not None and not isinstance(fault.pair, str):
        raise Refused(f"pair must be a text such as BTC/USD, was {fault.pair!r}")
    if fault.kind is FaultKind.REFUSE and (fault.pair is None or fault.times is not None):
        raise Refused("refuse needs a pair and lasts until it is cleared: no times")
    if fault.times is not None and (type(fault.times) is not int or fault.times < 1):
        raise Refused(f"times must be a whole number of at least 1, was {fault.times!r}")
    _within("delay_secs", fault.delay_secs, low=0, high=600)
    _within("factor", fault.factor, low=0, high=1000)
    return fault


def _one_of(name: str, value: object, allowed: list[Any]) -> None:
    if value not in allowed:
        raise Refused(f"{name} must be one of {', '.join(map(str, allowed))}, was {value!r}")


def _within(name: str, value: object, *, low: float, high: float) -> None:
    if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]
        raise Refused(f"{name} must be a number from {low} to {high}, was {value!r}")
