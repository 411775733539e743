"""Keeps one venue's candles: warm-up, and correction after each close, within its limits."""

import asyncio
import logging
from typing import Final

from price_stream.candles import WINDOW
from price_stream.feeds import Feed
from price_stream.indicators import RATIO_STANDS_MS
from price_stream.market_clock import MarketClock
from price_stream.markets import RETRY_REFUSED_SECS, Market, VenueHealth, VenueMarkets
from price_stream.schedule import Clock, moment_or_event
from shared.errors import SymbolRefused, VenueUnavailable
from shared.venues import Venue

log = logging.getLogger(__name__)

MAX_IN_FLIGHT: Final = 4
AFTER_CLOSE_MS: Final = 2_000
"""A candle is asked for this long (market time) after its close: the venue needs a moment."""

ASK_AGAIN_SECS: Final = 5.0
"""Market seconds until a market is asked again whose newest candle was not there yet."""

MIN_ASK_AGAIN_SECS: Final = 0.05
FAILED_PAUSE_SECS: Final = 5.0


class Pacer:
    """A token bucket that holds what one second earns, at least one token."""

    __slots__ = ("_at_secs", "_tokens")

    def __init__(self) -> None:
        self._tokens = 1.0
        self._at_secs: float | None = None

    def delay_secs(self, now_secs: float, per_sec: float) -> float:
        """0 if a request may go now, and it is counted; else how long to wait before asking."""
        passed_secs = now_secs - (now_secs if self._at_secs is None else self._at_secs)
        self._tokens = min(max(1.0, per_sec), self._tokens + passed_secs * per_sec)
        self._at_secs = now_secs
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / per_sec


class CandleKeeper:
    """Asks for candles that are missing, the corrections after a close before warm-ups.

    The venue's limits hold on its own clock: where that runs faster, so may the requests, at
    most `MAX_IN_FLIGHT` at once. `share` is the part of the venue's pace that is ours.
    """

    def __init__(
        self,
        *,
        venue: Venue,
        feed: Feed,
        markets: VenueMarkets,
        health: VenueHealth,
        market_clock: MarketClock,
        clock: Clock,
        poll_interval_secs: float,
    ) -> None:
        self.requests = 0
        self.failures = 0
        self.share = 1.0
        self._venue = venue
        self._feed = feed
        self._markets = markets
        self._health = health
        self._market_clock = market_clock
        self._clock = clock
        self._interval_secs = poll_interval_secs
        self._pacer = Pacer()
        self._wake = asyncio.Event()
        self._in_flight: set[str] = set()
        self._not_before_secs: dict[str, float] = {}
        self._all_not_before_secs = 0.0
        self._problem: str | None = None

    def wake(self) -> None:
        """Look again what is missing: the venue was polled."""
        self._wake.set()

    async def catch_up(self) -> None:
        """In a fast replay, correct what has closed before the ticks of this poll are made.

        Where polls are further apart than the last volume ratio stands, corrections beside them
        would come too late every time. A venue whose clock runs as ours never gets here.
        """
        poll_ms = 1000 * self._interval_secs * self._market_clock.rate
        if self._market_clock.rate == 1.0 or 2 * poll_ms < RATIO_STANDS_MS:
            return
        now_secs = self._clock.monotonic_secs()
        due = [
            (market, since_ms)
            for market, since_ms in self._due(now_secs)
            if len(market.series) >= WINDOW
        ]
        self._in_flight.update(market.pair for market, _ in due)
        await asyncio.gather(*(self._correct(market, since_ms) for market, since_ms in due))

    async def run(self) -> None:
        """Ask for what is missing, for ever."""
        async with asyncio.TaskGroup() as requests:
            while True:
                self._wake.clear()
                delay_secs = self._start_due(requests)
                next_secs = None
                if delay_secs is not None:
                    next_secs = self._clock.monotonic_secs() + delay_secs
                await moment_or_event(self._clock, next_secs, self._wake)

    def _start_due(self, requests: asyncio.TaskGroup) -> float | None:
        """Start every request that may go now; returns how long the next has to wait, if any."""
        while len(self._in_flight) < MAX_IN_FLIGHT:
            now_secs = self._clock.monotonic_secs()
            if (due := self._most_urgent(now_secs)) is None:
                return None
            per_sec = self.share * self._venue.candle_requests_per_sec * self._market_clock.rate
            if delay_secs := self._pacer.delay_secs(now_secs, per_sec):
                return delay_secs
            market, since_ms = due
            self._in_flight.add(market.pair)
            name = f"{self._venue.name} candles of {market.pair}"
            requests.create_task(self._correct(market, since_ms), name=name)
        return None

    def _most_urgent(self, now_secs: float) -> tuple[Market, int] | None:
        return min(self._due(now_secs), key=self._urgency, default=None)

    def _due(self, now_secs: float) -> list[tuple[Market, int]]:
        """The markets that may be asked now, with the time from which candles are missing."""
        ended_by_ms = self._market_clock.told_ms - AFTER_CLOSE_MS
        if ended_by_ms <= 0 or not self._markets.listed:
            return []
        if now_secs < self._all_not_before_secs or not self._health.may_ask(now_secs):
            return []
        return [
            (market, since_ms)
            for market in self._markets
            if market.pair not in self._in_flight
            and self._not_before_secs.get(market.pair, 0.0) <= now_secs
            and (since_ms := market.series.missing_since(ended_by_ms)) is not None
        ]

    def _urgency(self, due: tuple[Market, int]) -> tuple[bool, bool, int]:
        market, since_ms = due
        # The volume ratio of a market with history stands for five minutes only. Where the pace
        # does not allow for all at each close, those that waited longest come first.
        return len(market.series) < WINDOW, market.pair != self._markets.reference_pair, since_ms

    async def _correct(self, market: Market, since_ms: int) -> None:
        # Not the time told: a follower's may be a moment ahead of the venue's clock.
        ended_by_ms = self._market_clock.told_ms - AFTER_CLOSE_MS
        self.requests += 1
        pause_secs = 0.0
        try:
            candles = await self._feed.candles(market.pair, since_ms)
            market.series.correct(candles, ended_by_ms)
            self._note(None)
            if market.series.missing_since(ended_by_ms) is not None:
                pause_secs = max(MIN_ASK_AGAIN_SECS, ASK_AGAIN_SECS / self._market_clock.rate)
        except SymbolRefused:
            self.failures += 1
            pause_secs = RETRY_REFUSED_SECS
        except VenueUnavailable as exc:
            self._failed(exc)
        finally:
            self._in_flight.discard(market.pair)
            self._not_before_secs[market.pair] = self._clock.monotonic_secs() + pause_secs
            self._wake.set()

    def _failed(self, exc: VenueUnavailable) -> None:
        self.failures += 1
        now_secs = self._clock.monotonic_secs()
        self._all_not_before_secs = now_secs + FAILED_PAUSE_SECS
        if exc.retry_after_secs is not None:
            self._health.wait(exc.retry_after_secs, now_secs=now_secs)
        self._note(str(exc))

    def _note(self, problem: str | None) -> None:
        if problem == self._problem:
            return
        self._problem = problem
        if problem is None:
            log.info("%s sends candles again", self._venue.name)
        else:
            log.warning("%s: no candles: it %s", self._venue.name, problem)
