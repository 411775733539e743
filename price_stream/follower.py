"""A standby's ears: what the leading price stream publishes keeps its own markets warm."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from price_stream.listening import listen
from price_stream.market_clock import MarketClock
from price_stream.markets import VenueMarkets
from price_stream.quotes import BelievedQuote
from price_stream.schedule import Clock
from shared.bus import Bus, Delivery
from shared.errors import UndecodableMessage
from shared.messages import Tick, decode_tick
from shared.topology import PRICE_UPDATES, TICK_QUEUE, Binding

ALL_TICKS: Final = frozenset({Binding(exchange=PRICE_UPDATES, pattern="#")})


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedVenue:
    """One venue's bookkeeping. `heard` is called after each batch of ticks."""

    markets: VenueMarkets
    market_clock: MarketClock
    wanted: Callable[[], Collection[str]]
    heard: Callable[[], None]


class Follower:
    """Rolls the leader's ticks into our candles, and believes its prices and its market time.

    Its queue is bound to every pair: while a standby follows, no tick lacks a listener, and
    the leader cannot tell that no worker runs.
    """

    def __init__(self, venues: Mapping[str, FollowedVenue], *, bus: Bus, clock: Clock) -> None:
        self.ticks = 0
        self.outdated = 0
        """Ticks of a deposed leader. They are ignored, whatever their market."""
        self.epoch = 0
        """The highest epoch heard, or led under. Ticks of a lower one are outdated."""
        self._venues = venues
        self._bus = bus
        self._clock = clock

    async def run(self) -> None:
        """Follow until cancelled."""
        await listen(self._bus, TICK_QUEUE, ALL_TICKS, self._heed, clock=self._clock)

    def _heed(self, batch: Sequence[Delivery]) -> None:
        for venue in self._venues.values():
            venue.markets.follow(venue.wanted())
        for delivery in batch:
            try:
                self._heed_one(decode_tick(delivery.body))
            except UndecodableMessage:
                continue  # the workers put it among the dead letters
        for venue in self._venues.values():
            venue.heard()

    def _heed_one(self, tick: Tick) -> None:
        if tick.stream_epoch < self.epoch:
            self.outdated += 1
            return
        self.epoch = tick.stream_epoch
        venue = self._venues.get(tick.venue)
        market = None if venue is None else venue.markets.get(tick.pair)
        if venue is None or market is None:
            return
        self.ticks += 1
        market.series.roll(tick.market_time_ms, tick.price)
        market.check.believe(BelievedQuote(price=tick.price, bid=tick.bid, ask=tick.ask))
        venue.markets.heard(tick.pair)
        venue.markets.last_tick_at_ms = tick.observed_at_ms
        # One sample per poll: its ticks share a market time. As of now, and not of
        # `observed_at`: by another machine's clock we might run ahead of the venue.
        if tick.market_time_ms > venue.market_clock.told_ms:
            venue.market_clock.told(tick.market_time_ms, self._clock.monotonic_secs())
