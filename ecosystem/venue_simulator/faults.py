"""What can be made to go wrong, as data: set at start, or over HTTP while it runs. Pure."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum, unique
from typing import Any, Final, TypeVar

from ecosystem.venue_simulator.listings import Listing
from ecosystem.venue_simulator.market import Quote


@unique
class FaultKind(StrEnum):
    SLOW = "slow"
    """The request waits for `delay_secs` before anything is done."""
    FAIL = "fail"
    """HTTP 503, and nothing was done."""
    GARBAGE = "garbage"
    """HTTP 200 with a body that is not JSON, and nothing was done."""
    REFUSE = "refuse"
    """The symbol is not listed: unknown to requests, absent from lists."""
    MISSING_BID = "missing_bid"
    ZERO_PRICE = "zero_price"
    NAN_PRICE = "nan_price"
    """The last price is the text NaN."""
    JUMP = "jump"
    """Price, bid and ask are multiplied by `factor`. With neither `endpoint` nor `times` the
    market itself jumps: orders fill there too."""

    THROTTLE = "throttle"
    """HTTP 429 (Kraken: its rate limit error) with Retry-After `retry_after_secs`; nothing is
    done."""
    BAN = "ban"
    """Binance: HTTP 418 with Retry-After. Kraken: temporary lockout. Nothing is done."""
    MAINTENANCE = "maintenance"
    """The venue says that it is closed; nothing is done."""
    REVOKED = "revoked"
    """The key is refused as if it had been deleted."""
    REFUSE_THEN_FAIL = "refuse_then_fail"
    """Nothing is done, and the reply is HTTP `status`."""
    CLOCK_SKEW = "clock_skew"
    """The venue's clock is `skew_secs` ahead (negative: behind)."""

    ACCEPT_THEN_DROP = "accept_then_drop"
    """It is done; then the connection is cut without a reply."""
    ACCEPT_THEN_FAIL = "accept_then_fail"
    """It is done; the reply is HTTP `status`."""
    ACCEPT_THEN_GARBAGE = "accept_then_garbage"
    """It is done; the reply is HTTP 200 with a body that is not JSON."""
    CUT_BODY = "cut_body"
    """It is done; half of the reply comes, then the connection is cut."""
    LATE = "late"
    """An order is accepted only `delay_secs` later, unless its own time is over then. The reply
    comes at once: HTTP `status`, or none (the connection is cut) where that is 0."""
    FILL_FIRST = "fill_first"
    """The reply is held back for `delay_secs` after all was done: queries see the fills."""
    PARTIAL = "partial"
    """An order fills in `parts` trades, only `fraction` of it in all; each after the first
    comes `delay_secs` after the one before."""

    LAG = "lag"
    """Queries do not see what happened in the last `delay_secs`. Of an `endpoint`, only its."""
    DUPLICATE_FILLS = "duplicate_fills"
    """Every trade in the reply is there twice."""
    REORDER_FILLS = "reorder_fills"
    """Trades in the reply are in reversed order."""


PUBLIC_ENDPOINTS: Final = ("time", "status", "assets", "markets", "tickers", "candles")
PRIVATE_ENDPOINTS: Final = (
    *("add_order", "cancel", "order_query", "open_orders", "closed_orders", "trades"),
    *("balance", "permissions", "fees"),
)
ENDPOINTS: Final = (*PUBLIC_ENDPOINTS, *PRIVATE_ENDPOINTS)
"""What a request is for, by names that both venues share. `fees` is Kraken's TradeVolume,
`permissions` whatever tells or probes a key's rights."""

_ON_QUOTES: Final = frozenset(
    {FaultKind.MISSING_BID, FaultKind.ZERO_PRICE, FaultKind.NAN_PRICE, FaultKind.JUMP}
)
STANDING: Final = frozenset({FaultKind.REFUSE, FaultKind.CLOCK_SKEW})
"""States of the venue: they spoil no single reply and last until they are cleared."""

_QUERIES: Final = frozenset({"order_query", "open_orders", "closed_orders", "trades"})
_ADD_ORDER: Final = frozenset({"add_order"})
_PRIVATE: Final = frozenset(PRIVATE_ENDPOINTS)

_PLACES: Final[Mapping[FaultKind, Collection[str]]] = {
    **dict.fromkeys(_ON_QUOTES, frozenset({"tickers"})),
    **dict.fromkeys((FaultKind.LATE, FaultKind.PARTIAL), _ADD_ORDER),
    FaultKind.LAG: _QUERIES,
    FaultKind.DUPLICATE_FILLS: _QUERIES | _ADD_ORDER,
    FaultKind.REORDER_FILLS: _QUERIES | _ADD_ORDER,
    **dict.fromkeys(
        (
            FaultKind.REVOKED,
            FaultKind.REFUSE_THEN_FAIL,
            FaultKind.ACCEPT_THEN_DROP,
            FaultKind.ACCEPT_THEN_FAIL,
            FaultKind.ACCEPT_THEN_GARBAGE,
            FaultKind.CUT_BODY,
            FaultKind.FILL_FIRST,
        ),
        _PRIVATE,
    ),
}
"""Which endpoints a kind can meet at all, where these are not all."""

_TURN_AWAY: Final = frozenset(
    {
        *(FaultKind.FAIL, FaultKind.GARBAGE, FaultKind.THROTTLE, FaultKind.BAN),
        *(FaultKind.MAINTENANCE, FaultKind.REVOKED, FaultKind.REFUSE_THEN_FAIL),
    }
)
_REPLY: Final = frozenset(
    {
        *(FaultKind.ACCEPT_THEN_DROP, FaultKind.ACCEPT_THEN_FAIL),
        *(FaultKind.ACCEPT_THEN_GARBAGE, FaultKind.CUT_BODY, FaultKind.LATE),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong at one venue.

    `pair` None means all its pairs, `endpoint` None all its endpoints, `account` (an API key or
    an account's name) None every caller. Of the requests that it concerns it lets the first
    `after` pass and then each with probability 1 - `probability`. `times` is how many more
    requests it spoils, None for all until it is cleared. A fault of a pair spoils every reply
    that the pair has a part in. The other fields belong to some kinds, as `FaultKind` says.
    """

    venue: str
    kind: FaultKind
    pair: str | None = None
    endpoint: str | None = None
    account: str | None = None
    times: int | None = None
    after: int = 0
    probability: float = 1.0
    delay_secs: float = 0.0
    factor: float = 1.0
    status: int = 502
    retry_after_secs: int = 10
    skew_secs: float = 0.0
    parts: int = 2
    fraction: float = 1.0

    def touches(
        self, *, venue: str, endpoint: str, pairs: Collection[str], callers: Collection[str] = ()
    ) -> bool:
        """Whether it concerns this request. Quotes are in replies of `tickers` only."""
        return (
            self.venue == venue
            and self.kind not in STANDING
            and endpoint in _PLACES.get(self.kind, ENDPOINTS)
            and self.endpoint in (None, endpoint)
            and (self.pair is None or self.pair in pairs)
            and (self.account is None or self.account in callers)
        )


@dataclass(frozen=True, slots=True)
class FillPlan:
    """How an order fills: in `parts` trades, `every_ms` apart, `fraction` of it in all."""

    parts: int = 1
    fraction: float = 1.0
    every_ms: int = 0


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spoiled:
    """What goes wrong with one request.

    Who answers goes through it in this order: wait `delay_secs`; if it is `turned_away`, answer
    that and do nothing; do it (the engine takes the `Spoiled` and acts late, in parts, blind);
    wait `reply_delay_secs`; spoil the reply as `reply` says.
    """

    faults: tuple[Fault, ...] = ()

    @property
    def kinds(self) -> list[str]:
        return [fault.kind.value for fault in self.faults]

    @property
    def delay_secs(self) -> float:
        return self._secs(FaultKind.SLOW)

    @property
    def fails(self) -> bool:
        return self._first({FaultKind.FAIL}) is not None

    @property
    def is_garbage(self) -> bool:
        return self._first({FaultKind.GARBAGE}) is not None

    @property
    def turned_away(self) -> Fault | None:
        """What answers instead of the venue, before anything is done: `fail` (503), `garbage`,
        `throttle`, `ban`, `maintenance`, `revoked` or `refuse_then_fail` (its `status`)."""
        return self._first(_TURN_AWAY)

    @property
    def reply(self) -> Fault | None:
        """What befalls the reply of a request that was done: `accept_then_drop`,
        `accept_then_fail` (its `status`), `accept_then_garbage`, `cut_body`, or `late` (its
        `status`; 0: the connection is cut)."""
        # A late order has no reply yet that anything else could befall.
        return self._first({FaultKind.LATE}) or self._first(_REPLY)

    @property
    def reply_delay_secs(self) -> float:
        return self._secs(FaultKind.FILL_FIRST)

    @property
    def late_secs(self) -> float:
        """How much later than now the order reaches the engine."""
        return self._secs(FaultKind.LATE)

    @property
    def lag_secs(self) -> float:
        """How old something must be to be seen."""
        return self._secs(FaultKind.LAG)

    @property
    def fill_plan(self) -> FillPlan:
        fault = self._first({FaultKind.PARTIAL})
        if fault is None:
            return FillPlan()
        return FillPlan(
            parts=fault.parts, fraction=fault.fraction, every_ms=int(fault.delay_secs * 1000)
        )

    def fills(self, trades: Sequence[T]) -> list[T]:
        """Trades, or whatever stands for them, as a reply tells them."""
        told = list(trades)
        if self._first({FaultKind.DUPLICATE_FILLS}):
            told = [trade for trade in told for _ in range(2)]
        if self._first({FaultKind.REORDER_FILLS}):
            told.reverse()
        return told

    def quote(self, listing: Listing, quote: Quote) -> Quote:
        """The quote as it is told."""
        for fault in self.faults:
            if fault.pair in (None, listing.pair):
                quote = _distorted(quote, fault)
        return quote

    def _secs(self, kind: FaultKind) -> float:
        return sum(fault.delay_secs for fault in self.faults if fault.kind is kind)

    def _first(self, kinds: Collection[FaultKind]) -> Fault | None:
        return next((fault for fault in self.faults if fault.kind in kinds), None)


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


def _always() -> float:
    return 0.0


@dataclass(slots=True)
class FaultBoard:
    """The faults that are set, in the order in which they were.

    `chance` draws from 0 to below 1: a fault happens where it is below its probability.
    """

    chance: Callable[[], float] = _always
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
            fault.pair for fault in self._of(venue, FaultKind.REFUSE) if fault.pair is not None
        )

    def skew_ms(self, venue: str) -> int:
        """How far the venue's clock is ahead."""
        return round(1000 * sum(fault.skew_secs for fault in self._of(venue, FaultKind.CLOCK_SKEW)))

    def traded_quote(self, listing: Listing, quote: Quote) -> Quote:
        """The quote at which orders fill: that of the market, wherever it has jumped to."""
        for fault in self._of(listing.venue, FaultKind.JUMP):
            lasts = fault.endpoint is None and fault.times is None and fault.account is None
            certain = fault.probability == 1 and fault.after == 0
            if lasts and certain and fault.pair in (None, listing.pair):
                quote = _distorted(quote, fault)
        return quote

    def spoil(
        self, *, venue: str, endpoint: str, pairs: Iterable[str], callers: Collection[str] = ()
    ) -> Spoiled:
        """What goes wrong with a request to this venue about these pairs; uses up `after` and
        `times`. `callers` are the API key and the account's name."""
        concerned = frozenset(pairs)
        hits: list[Fault] = []
        kept: list[Fault] = []
        for fault in self._faults:
            if not fault.touches(venue=venue, endpoint=endpoint, pairs=concerned, callers=callers):
                kept.append(fault)
            elif fault.after > 0:
                kept.append(replace(fault, after=fault.after - 1))
            elif fault.probability < 1 and self.chance() >= fault.probability:
                kept.append(fault)
            else:
                hits.append(fault)
                if fault.times is None:
                    kept.append(fault)
                elif fault.times > 1:
                    kept.append(replace(fault, times=fault.times - 1))
        self._faults = kept
        return Spoiled(tuple(hits))

    def _of(self, venue: str, kind: FaultKind) -> list[Fault]:
        return [fault for fault in self._faults if fault.kind is kind and fault.venue == venue]
