"""One venue's poll loop: ask, judge, make ticks, hand them over."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final

from price_stream.feeds import Feed, Quotes, ServerTime
from price_stream.market_clock import MarketClock
from price_stream.markets import VenueHealth, VenueMarkets
from price_stream.schedule import Clock, Schedule
from price_stream.ticks import Observation, TickMaker
from shared.errors import RetryLater, SymbolRefused, VenueUnavailable
from shared.messages import Tick
from shared.money import MarketRules

log = logging.getLogger(__name__)

TIME_GRACE_SECS: Final = 0.25
"""So long quotes wait for the server time that was asked with them, if an offset is known."""

MAX_CLOCK_SETBACK_MS: Final = 60_000
MAX_REQUESTS_PER_POLL: Final = 24
"""Looking for one refused symbol among 40 takes 12 requests; the rest waits for the next poll."""

REFRESH_SECS: Final = 3600.0
REFRESH_UNLISTED_SECS: Final = 300.0


class VenuePoller:
    """Polls one venue. What goes wrong there stays there."""

    def __init__(
        self,
        *,
        feed: Feed,
        markets: VenueMarkets,
        health: VenueHealth,
        market_clock: MarketClock,
        maker: TickMaker,
        clock: Clock,
        jitter: Callable[[], float],
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        """`catch_up` is awaited in each poll, between the venue's reply and its ticks."""
        self.market_clock = market_clock
        self.markets = markets
        self.health = health
        self.late_polls = 0
        self._feed = feed
        self._maker = maker
        self._clock = clock
        self._jitter = jitter
        self._catch_up = catch_up
        self._venue = maker.venue
        self._rules: Mapping[str, MarketRules] = {}
        self._loaded_at_secs: float | None = None
        self._refresh_failed = False
        self._time_problem: str | None = None

    async def run(
        self,
        schedule: Schedule,
        wanted: Callable[[], Collection[str]],
        publish: Callable[[Sequence[Tick]], Awaitable[None]],
        polled: Callable[[], None],
    ) -> None:
        """Poll at every slot, for ever. `polled` is called after each poll."""
        while True:
            await self._clock.sleep_until(schedule.next_slot(self._clock.monotonic_secs()))
            self.late_polls = schedule.skipped
            self.markets.follow(wanted())
            if not self.health.may_ask(self._clock.monotonic_secs()):
                continue
            if ticks := await self.poll():
                await publish(ticks)
                self.markets.last_tick_at_ms = ticks[-1].observed_at_ms
            polled()

    async def poll(self) -> list[Tick]:
        """Ask the venue once and make the ticks; none if it failed, which is noted."""
        try:
            if self._loaded_at_secs is None:
                await self.load()
            replies = await self._ask(self.markets.due(self._clock.monotonic_secs()))
        except VenueUnavailable as exc:
            self._failed(exc)
            return []
        self._answered()
        await self._catch_up()
        observations: dict[str, Observation] = {}
        for reply in replies:
            observations |= self._believed(reply)
        return self._maker.ticks(self.markets, observations, published_at_ms=self._clock.wall_ms())

    async def load(self) -> None:
        """Learn the venue's markets. Raises `VenueUnavailable`."""
        self._rules = await self._feed.load()
        self._loaded_at_secs = self._clock.monotonic_secs()
        self.markets.listings_are_fresh()

    async def refresh(self, save_rules: Callable[[str, Mapping[str, MarketRules]], None]) -> None:
        """Keep the venue's markets fresh, for ever: hourly, sooner while one is not listed.

        What the polls learned is saved too.
        """
        saved: Mapping[str, MarketRules] | None = None
        while True:
            if self._loaded_at_secs is not None:
                await self._reload_if_due()
                if saved is not self._rules:
                    saved = self._rules
                    save_rules(self._venue, saved)
            await self._clock.sleep_until(self._clock.monotonic_secs() + 1.0)

    async def prepare(self) -> None:
        """Know the venue's markets without polling it, and keep them fresh, for ever."""
        while True:
            if self._loaded_at_secs is not None and self.health.silence is None:
                await self._reload_if_due()
            elif self.health.may_ask(self._clock.monotonic_secs()):
                await self._load_or_back_off()
            await self._clock.sleep_until(self._clock.monotonic_secs() + 1.0)

    def report(self) -> dict[str, Any]:
        """What `status` shows of this venue."""
        return {
            **self.health.report(),
            "markets": len(self.markets),
            "silenced": self.markets.report(),
            "without_history": sum(1 for market in self.markets if market.series.window() is None),
            "late_polls": self.late_polls,
            "market_time_ms": self.market_clock.told_ms or None,
            "market_clock_rate": round(self.market_clock.rate, 2),
            "market_clock_problem": self._time_problem,
            "last_tick_at_ms": self.markets.last_tick_at_ms,
        }

    async def _load_or_back_off(self) -> None:
        try:
            await self.load()
        except VenueUnavailable as exc:
            self._failed(exc)
        else:
            self._answered()

    async def _reload_if_due(self) -> None:
        age_secs = self._clock.monotonic_secs() - (self._loaded_at_secs or 0.0)
        if age_secs < (REFRESH_UNLISTED_SECS if self.markets.refused else REFRESH_SECS):
            return
        try:
            await self.load()
        except VenueUnavailable as exc:
            # What was known stands; the next try is due in an hour, or sooner as above.
            self._loaded_at_secs = self._clock.monotonic_secs()
            if not self._refresh_failed:
                log.warning("%s: cannot refresh its markets: it %s", self._venue, exc)
            self._refresh_failed = True
        else:
            self._refresh_failed = False

    async def _ask(self, groups: Sequence[Sequence[str]]) -> list[Quotes]:
        time_task = asyncio.create_task(self._server_time(), name=f"{self._venue} server time")
        try:
            replies = await self._bisected(groups)
            grace_secs = TIME_GRACE_SECS if self.market_clock.known else None
            done, _ = await asyncio.wait({time_task}, timeout=grace_secs)
            self._tell_time(time_task.result() if done else VenueUnavailable("is slow to tell"))
        finally:
            time_task.cancel()
        return replies

    async def _server_time(self) -> ServerTime | RetryLater:
        try:
            return await self._feed.server_time()
        except RetryLater as exc:
            return exc

    def _tell_time(self, answer: ServerTime | RetryLater) -> None:
        if isinstance(answer, RetryLater):
            if not self.market_clock.known:
                raise VenueUnavailable(f"does not tell its time: it {answer}") from answer
            problem = str(answer)
        else:
            setback_ms = self.market_clock.told_ms - answer.market_time_ms
            if setback_ms > MAX_CLOCK_SETBACK_MS:
                raise VenueUnavailable("set its clock back by more than a minute")
            self.market_clock.told(answer.market_time_ms, answer.read_at_secs)
            problem = None
        if problem != self._time_problem:
            self._time_problem = problem
            if problem is None:
                log.info("%s tells its time again", self._venue)
            else:
                log.warning("%s: server time unknown, offset kept: it %s", self._venue, problem)

    async def _bisected(self, groups: Sequence[Sequence[str]]) -> list[Quotes]:
        """A request per group, or, where a symbol is refused, as many as it takes to find it."""
        replies: list[Quotes] = []
        waiting = list(reversed(groups))
        for _ in range(MAX_REQUESTS_PER_POLL):
            if not waiting:
                break
            asked = waiting.pop()
            try:
                reply = await self._feed.quotes(asked)
            except SymbolRefused as exc:
                if len(asked) == 1:
                    self._refuse(asked[0], str(exc))
                else:
                    middle = len(asked) // 2
                    waiting += [asked[middle:], asked[:middle]]
                continue
            for pair, reason in reply.refused.items():
                self._refuse(pair, reason)
            for pair in asked:
                if pair not in reply.by_pair and pair not in reply.refused:
                    self._silence(pair, "missing in the venue's reply")
            replies.append(reply)
        return replies

    def _believed(self, reply: Quotes) -> dict[str, Observation]:
        believed: dict[str, Observation] = {}
        for pair, quote in reply.by_pair.items():
            if (market := self.markets.get(pair)) is None:
                continue
            judged = market.check.judge(quote)
            if isinstance(judged, str):
                self._silence(pair, judged)
                continue
            if self.markets.heard(pair):
                log.info("%s %s has believable prices again", self._venue, pair)
            believed[pair] = Observation(
                quote=judged,
                observed_at_ms=reply.observed_at_ms,
                market_time_ms=self.market_clock.at(reply.read_at_secs),
            )
        return believed

    def _silence(self, pair: str, reason: str) -> None:
        if self.markets.silenced(pair, reason, at_ms=self._clock.wall_ms()):
            log.warning("%s %s is silenced: %s", self._venue, pair, reason)

    def _refuse(self, pair: str, reason: str) -> None:
        now_secs = self._clock.monotonic_secs()
        at_ms = self._clock.wall_ms()
        if self.markets.was_refused(pair, reason, at_ms=at_ms, now_secs=now_secs):
            log.warning("%s %s is silenced: %s", self._venue, pair, reason)

    def _answered(self) -> None:
        if self.health.answered():
            log.info("%s answers again", self._venue)

    def _failed(self, exc: VenueUnavailable) -> None:
        if self.health.failed(
            str(exc),
            now_secs=self._clock.monotonic_secs(),
            at_ms=self._clock.wall_ms(),
            jitter=self._jitter(),
            retry_after_secs=exc.retry_after_secs,
        ):
            log.warning("%s is silenced: it %s", self._venue, exc)
