"""Believed quotes and candles → the ticks of one poll. Moves the candles; no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass

from price_stream.confidence import ConfidenceModel
from price_stream.indicators import indicators, momentum, regime_of
from price_stream.markets import Market, VenueMarkets
from price_stream.quotes import BelievedQuote
from shared.messages import Tick


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A believed quote and when the venue's reply was read: by our wall clock, and by its own."""

    quote: BelievedQuote
    observed_at_ms: int
    market_time_ms: int


@dataclass(slots=True, kw_only=True)
class TickMaker:
    """Makes the ticks of one venue. `stream_epoch` may grow while it works."""

    venue: str
    stream_epoch: int
    model: ConfidenceModel

    def ticks(
        self,
        markets: VenueMarkets,
        observations: Mapping[str, Observation],
        *,
        published_at_ms: int,
    ) -> list[Tick]:
        """A tick per observation of a followed market.

        Each observation is rolled into its market's candles first. BTC's momentum is that of
        the reference market in the same poll; without it, it is not known.
        """
        for pair, seen in observations.items():
            if (market := markets.get(pair)) is not None:
                market.series.roll(seen.market_time_ms, seen.quote.price)
        reference = observations.get(markets.reference_pair)
        btc_momentum_1h = None
        if reference is not None:
            btc_momentum_1h = momentum(reference.quote.price, markets.reference.facts().close_1h)
        return [
            self._tick(market, seen, btc_momentum_1h, published_at_ms)
            for pair, seen in observations.items()
            if (market := markets.get(pair)) is not None
        ]

    def _tick(
        self,
        market: Market,
        seen: Observation,
        btc_momentum_1h: float | None,
        published_at_ms: int,
    ) -> Tick:
        known = indicators(
            market.facts(),
            price=seen.quote.price,
            market_time_ms=seen.market_time_ms,
            btc_momentum_1h=btc_momentum_1h,
        )
        return Tick(
            venue=self.venue,
            pair=market.pair,
            price=seen.quote.price,
            bid=seen.quote.bid,
            ask=seen.quote.ask,
            market_time_ms=seen.market_time_ms,
            observed_at_ms=seen.observed_at_ms,
            published_at_ms=published_at_ms,
            stream_epoch=self.stream_epoch,
            sequence=market.next_sequence(),
            indicators=known,
            regime=regime_of(known.adx),
            confidence=self.model.score(known),
        )
