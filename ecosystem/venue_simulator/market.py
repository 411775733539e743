"""What the venues trade, and what it costs at any moment: listings, quotes, candles, days. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from ecosystem.venue_simulator.listings import Listing
from ecosystem.venue_simulator.minutes import (
    CLOSE,
    HIGH,
    LOW,
    MINUTE_MS,
    OPEN,
    SPREAD,
    VOLUME,
    Candles,
    Table,
    Tape,
    aggregate,
    so_far,
)

HISTORY_MINUTES: Final = 30 * 1440
"""How far back candles go, as if every market had been listed this long before now."""

DAY_MINUTES: Final = 1440

_MEAN_TRADE_QUOTE: Final = 2_000.0
"""The size of a trade, in the quote currency, from which trade counts are made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A market's last price and best bid and ask, exact to the listing's decimals.

    A bid of None is left out of replies, a price of NaN is garbled: only faults make them.
    """

    price: float
    bid: float | None
    ask: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of time as one candle, up to now. `volume` is in the base currency."""

    open_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float

    @property
    def mean_price(self) -> float:
        """An estimate of the volume-weighted mean price."""
        return (self.open + self.high + self.low + self.close) / 4

    @property
    def quote_volume(self) -> float:
        return self.volume * self.mean_price

    @property
    def trades(self) -> int:
        return trade_count(self.quote_volume)


def trade_count(quote_volume: float) -> int:
    """How many trades made this volume: at least one if there is any."""
    return math.ceil(quote_volume / _MEAN_TRADE_QUOTE)


class Market:
    """Every listing of every venue with its prices, at any given market time (ms of UTC)."""

    def __init__(self, tapes: Mapping[Listing, Tape]) -> None:
        self._tapes = tapes

    def listings(self, venue: str) -> list[Listing]:
        """In the venue's order."""
        return [listing for listing in self._tapes if listing.venue == venue]

    def quote(self, listing: Listing, now_ms: int) -> Quote:
        """Bid and ask lie on the price tick and at least one tick apart, the price between."""
        minute = self._until(listing, now_ms, minutes=1)[:, -1]
        price = float(minute[CLOSE])
        half_spread = price * float(minute[SPREAD]) / 2
        ticks = 10**listing.price_decimals
        bid_ticks = max(1, math.floor((price - half_spread) * ticks))
        ask_ticks = max(bid_ticks + 1, math.ceil((price + half_spread) * ticks))
        price_ticks = min(max(round(price * ticks), bid_ticks), ask_ticks)
        return Quote(price=price_ticks / ticks, bid=bid_ticks / ticks, ask=ask_ticks / ticks)

    def candles(
        self, listing: Listing, *, interval_minutes: int, now_ms: int, from_ms: int, to_ms: int
    ) -> Candles:
        """The candles that begin from `from_ms` to `to_ms`, both included; the one that now
        belongs to holds what has happened of it."""
        now = now_ms // MINUTE_MS
        step_ms = interval_minutes * MINUTE_MS
        oldest = -(-(now - HISTORY_MINUTES) // interval_minutes)
        first = max(oldest, -(-from_ms // step_ms))
        last = min(now // interval_minutes, to_ms // step_ms)
        if last < first:
            return aggregate(np.empty((6, 0)), first=0, interval_minutes=interval_minutes)
        end = min(now + 1, (last + 1) * interval_minutes)
        table, begin = self._minutes(listing, first * interval_minutes, end, now_ms)
        return aggregate(table, first=begin, interval_minutes=interval_minutes)

    def last_day(self, listing: Listing, now_ms: int) -> Span:
        """The last 24 hours."""
        return self._span(listing, now_ms, minutes=DAY_MINUTES)

    def today(self, listing: Listing, now_ms: int) -> Span:
        """Since midnight UTC."""
        return self._span(listing, now_ms, minutes=now_ms // MINUTE_MS % DAY_MINUTES + 1)

    def _span(self, listing: Listing, now_ms: int, *, minutes: int) -> Span:
        table = self._until(listing, now_ms, minutes=minutes)
        return Span(
            open_ms=(now_ms // MINUTE_MS - table.shape[1] + 1) * MINUTE_MS,
            open=float(table[OPEN, 0]),
            high=float(table[HIGH].max()),
            low=float(table[LOW].min()),
            close=float(table[CLOSE, -1]),
            volume=float(table[VOLUME].sum()),
        )

    def _until(self, listing: Listing, now_ms: int, *, minutes: int) -> Table:
        now = now_ms // MINUTE_MS
        table, _ = self._minutes(listing, now - minutes + 1, now + 1, now_ms)
        return table

    def _minutes(self, listing: Listing, first: int, end: int, now_ms: int) -> tuple[Table, int]:
        """Minutes `first` to `end - 1` as they are known now, and the first that the tape has."""
        table = self._tapes[listing].minutes(first, end - first)
        begin = end - table.shape[1]
        now, within_ms = divmod(now_ms, MINUTE_MS)
        if end == now + 1:
            table = table.copy()
            table[:, -1] = so_far(table[:, -1], within_ms / MINUTE_MS)
        return table, begin
