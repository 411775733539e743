"""The price stream: every venue polled at once and on its own, its ticks published.

It leads or it follows. While it follows, another leads: nothing is polled or published, and
the leader's ticks keep the candles, the quote checks and the market clock as warm as its own.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from price_stream.archiver import Archiver, TickArchive
from price_stream.candle_keeper import CandleKeeper
from price_stream.confidence import ConfidenceModel, WeightedParts
from price_stream.feeds import Feed, request_timeout_secs
from price_stream.follower import FollowedVenue, Follower
from price_stream.market_clock import MarketClock
from price_stream.markets import MarketDirectory, VenueHealth, VenueMarkets
from price_stream.poller import VenuePoller
from price_stream.publisher import TickPublisher
from price_stream.schedule import Clock, Schedule, SystemClock
from price_stream.ticks import TickMaker
from price_stream.wanted import WantedMarkets
from shared.bus import Bus, Message
from shared.errors import RetryLater
from shared.messages import Heartbeat, Tick, encode
from shared.process import TaskGroup
from shared.topology import SYSTEM, health_key
from shared.venues import Venue

log = logging.getLogger(__name__)

SERVICE: Final = "price_stream"


class Role(StrEnum):
    """What a price stream does."""

    WAITING = "waiting"
    """Nothing: nobody has said yet whether another leads."""
    FOLLOWING = "following"
    LEADING = "leading"


CANDLE_SHARE: Final = {Role.WAITING: 0.0, Role.FOLLOWING: 0.25, Role.LEADING: 0.75}
"""What a stream takes of a venue's pace for candles. A leader and its standby behind one address
stay within it together; the standby, which only has to be ready, takes the smaller part. A second
standby belongs behind another address."""


class PriceStream:
    """One process's price stream, warm from the first tick it hears to the last it publishes.

    `feeds` holds one feed per venue. `may_publish` is asked before the ticks of each poll go
    out. The bus must have been started, or be starting; it stays the caller's to close.
    """

    def __init__(
        self,
        *,
        feeds: Mapping[Venue, Feed],
        bus: Bus,
        directory: MarketDirectory,
        archive: TickArchive,
        may_publish: Callable[[], Awaitable[bool]],
        instance: str,
        poll_interval_secs: float,
        model: ConfidenceModel | None = None,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._bus = bus
        self._feeds = feeds
        self._may_publish = may_publish
        self._instance = instance
        self._interval_secs = poll_interval_secs
        self._role = Role.WAITING
        self._withheld = 0
        self._clock = clock or SystemClock()
        self._turned = asyncio.Event()
        self._stopping = False
        self._wanted = WantedMarkets(directory, bus=bus, clock=self._clock)
        self._archiver = Archiver(archive, clock=self._clock)
        self._publisher = TickPublisher(
            bus,
            timeout_secs=request_timeout_secs(poll_interval_secs),
            published=self._archiver.offer,
        )
        self._makers: list[TickMaker] = []
        self._pollers: dict[str, VenuePoller] = {}
        self._keepers: dict[str, CandleKeeper] = {}
        for venue, feed in feeds.items():
            self._add_venue(venue, feed, model or WeightedParts(), jitter)
        self._follower = Follower(
            {name: self._followed(name) for name in self._pollers}, bus=bus, clock=self._clock
        )

    async def run(self) -> None:
        """Lead or follow, as told last, until `stop`; then end every task and close the feeds.

        Raises what a part of it died of.
        """
        tasks = TaskGroup()
        running, names = Role.WAITING, list[str]()
        try:
            await self._wanted.ask()
            self._start(tasks)
            while not self._stopping:
                self._turned.clear()
                if self._role is not running:
                    running, before = self._role, names
                    names = self._start_role(tasks, running)
                    # Only now, so that the first poll of a new leader waits for nothing.
                    if before:
                        await tasks.cancel(*before)
                    continue
                await tasks.watch(self._turned)
        finally:
            await tasks.cancel()
            for feed in self._feeds.values():
                await feed.close()

    def stop(self) -> None:
        """Ask `run` to end; it does within a second."""
        self._stopping = True
        self._turned.set()

    def lead(self, stream_epoch: int) -> None:
        """Poll and publish from now on; if it leads already, go on under the new epoch.

        The epoch must be above that of every stream before. The first poll is made at once.
        """
        for maker in self._makers:
            maker.stream_epoch = stream_epoch
        self._follower.epoch = stream_epoch
        self._turn(Role.LEADING)

    def follow(self) -> None:
        """Publish no further tick, and follow the stream that leads."""
        self._turn(Role.FOLLOWING)

    def report(self) -> dict[str, Any]:
        """What `status` shows, as JSON. Times are wall clock in ms.

        `stream_epoch` is our own while we lead, else the highest heard or led under, if any.
        `warm` counts the markets whose candles suffice for every indicator.
        """
        markets = [market for poller in self._pollers.values() for market in poller.markets]
        last_at_ms = [
            at_ms for poller in self._pollers.values() if (at_ms := poller.markets.last_tick_at_ms)
        ]
        return {
            "role": self._role,
            "stream_epoch": self._follower.epoch or None,
            "warm": sum(1 for market in markets if market.series.window() is not None),
            "markets": len(markets),
            "published": self._publisher.published,
            "unrouted": self._publisher.unrouted,
            "dropped": self._publisher.dropped,
            "withheld": self._withheld,
            "followed": self._follower.ticks,
            "outdated": self._follower.outdated,
            "saved": self._archiver.saved,
            "save_failures": self._archiver.failures,
            "wanted_failures": self._wanted.failures,
            "last_tick_age_ms": self._clock.wall_ms() - max(last_at_ms) if last_at_ms else None,
            "venues": {
                name: {
                    **poller.report(),
                    "candle_requests": self._keepers[name].requests,
                    "candle_failures": self._keepers[name].failures,
                }
                for name, poller in self._pollers.items()
            },
        }

    def _turn(self, role: Role) -> None:
        self._role = role
        for keeper in self._keepers.values():
            keeper.share = CANDLE_SHARE[role]
        self._turned.set()

    def _add_venue(
        self, venue: Venue, feed: Feed, model: ConfidenceModel, jitter: Callable[[], float]
    ) -> None:
        markets = VenueMarkets(venue.reference_pair)
        health = VenueHealth(self._interval_secs)
        market_clock = MarketClock()
        maker = TickMaker(venue=venue.name, stream_epoch=0, model=model)
        self._makers.append(maker)
        keeper = CandleKeeper(
            venue=venue,
            feed=feed,
            markets=markets,
            health=health,
            market_clock=market_clock,
            clock=self._clock,
            poll_interval_secs=self._interval_secs,
        )
        self._keepers[venue.name] = keeper
        self._pollers[venue.name] = VenuePoller(
            feed=feed,
            markets=markets,
            health=health,
            market_clock=market_clock,
            maker=maker,
            clock=self._clock,
            jitter=jitter,
            catch_up=keeper.catch_up,
        )

    def _followed(self, name: str) -> FollowedVenue:
        poller = self._pollers[name]
        return FollowedVenue(
            markets=poller.markets,
            market_clock=poller.market_clock,
            wanted=self._wanted_at(name),
            heard=self._keepers[name].wake,
        )

    def _start(self, tasks: TaskGroup) -> None:
        """What both roles do."""
        for name, keeper in self._keepers.items():
            tasks.start(f"candles of {name}", keeper.run())
        tasks.start("changed bots", self._wanted.listen())
        tasks.start("latest ticks", self._archiver.run())
        beats = Schedule(self._clock.monotonic_secs(), self._interval_secs)
        tasks.start("heartbeat", self._beat(beats))

    def _start_role(self, tasks: TaskGroup, role: Role) -> list[str]:
        """Start what only this role does; returns the tasks' names."""
        first_slot_secs = self._clock.monotonic_secs()
        work = {"wanted markets": self._wanted.run(first_slot_secs, self._interval_secs)}
        if role is Role.FOLLOWING:
            work["ticks"] = self._follower.run()
        for name, poller in self._pollers.items():
            if role is Role.FOLLOWING:
                work[f"markets of {name}"] = poller.prepare()
            else:
                schedule = Schedule(first_slot_secs, self._interval_secs)
                wake = self._keepers[name].wake
                work[f"poll {name}"] = poller.run(
                    schedule, self._wanted_at(name), self._publish, wake
                )
                work[f"markets of {name}"] = poller.refresh(self._archiver.offer_rules)
        for name, coroutine in work.items():
            tasks.start(f"{role}: {name}", coroutine)
        return [f"{role}: {name}" for name in work]

    def _wanted_at(self, venue: str) -> Callable[[], frozenset[str]]:
        return lambda: self._wanted.of(venue)

    async def _publish(self, ticks: Sequence[Tick]) -> None:
        if await self._may_publish() and self._role is Role.LEADING:
            await self._publisher.publish(ticks)
        else:
            self._withheld += len(ticks)

    async def _beat(self, schedule: Schedule) -> None:
        while True:
            await self._clock.sleep_until(schedule.next_slot(self._clock.monotonic_secs()))
            heartbeat = Heartbeat(
                service=SERVICE,
                instance=self._instance,
                at_ms=self._clock.wall_ms(),
                interval_secs=self._interval_secs,
                facts=self.report(),
            )
            message = Message(
                exchange=SYSTEM, routing_key=health_key(SERVICE), body=encode(heartbeat)
            )
            try:
                await self._bus.publish(message)
            except RetryLater as exc:
                log.debug("no heartbeat: %s", exc)
