"""Two price streams on one bus, time turned by hand: what the second knows when it takes over."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from random import Random
from types import MappingProxyType

import orjson
import pytest

from price_stream.candles import CANDLE_MS, Candle
from price_stream.stream import PriceStream
from shared.bus import Message, Subscription
from shared.bus.memory import MemoryBroker, MemoryBus
from shared.errors import VenueUnavailable
from shared.messages import Indicators, Tick, decode_tick, encode
from shared.topology import LISTENER_QUEUE, PRICE_UPDATES, SYSTEM, TICK_QUEUE, Binding
from shared.venues import KRAKEN
from tests.unit.stream_fakes import (
    MARKET_START_MS,
    WALL_START_MS,
    FakeArchive,
    FakeDirectory,
    FakeFeed,
    ManualClock,
    settle,
)

ETH = ("kraken", "ETH/USD")
OPEN_MS = MARKET_START_MS - MARKET_START_MS % CANDLE_MS


class Station:
    """One stream with its own line to the venue."""

    def __init__(
        self,
        bus: MemoryBus,
        clock: ManualClock,
        directory: FakeDirectory,
        name: str,
        poll_secs: float,
        history: Mapping[str, list[Candle]],
    ) -> None:
        self.feed = FakeFeed(clock)
        self.feed.prices = {"BTC/USD": 101.0, "ETH/USD": 102.0}
        self.feed.prices |= {pair: 102.0 for _, pair in directory.markets}
        self.feed.history = dict(history)
        self.archive = FakeArchive()
        self.permitted = True
        self.stream = PriceStream(
            feeds={KRAKEN: self.feed},
            bus=bus,
            directory=directory,
            archive=self.archive,
            may_publish=self._may_publish,
            instance=name,
            poll_interval_secs=poll_secs,
            clock=clock,
            jitter=lambda: 0.0,
        )
        self.running = asyncio.create_task(self.stream.run(), name=name)

    async def _may_publish(self) -> bool:
        return self.permitted

    async def end(self) -> None:
        self.stream.stop()
        await asyncio.wait_for(self.running, 1.0)


class Pair:
    """The leader (epoch 7), its standby, and an ear of the test's own."""

    def __init__(
        self,
        clock: ManualClock,
        bus: MemoryBus,
        ear: Subscription,
        *,
        poll_secs: float,
        wanted: Sequence[tuple[str, str]],
        history: Mapping[str, list[Candle]],
    ) -> None:
        self.clock = clock
        self.bus = bus
        self.directory = FakeDirectory(*wanted)
        self._ear = ear
        self._poll_secs = poll_secs
        self._history = history
        self.leader = self.station("leader")
        self.standby = self.station("standby")

    def station(self, name: str) -> Station:
        """A stream of this fleet, running, that was not told yet what to do."""
        return Station(self.bus, self.clock, self.directory, name, self._poll_secs, self._history)

    async def pass_secs(self, secs: float) -> list[Tick]:
        """Let time pass; the ticks that were published meanwhile."""
        await self.clock.advance(secs)
        return await self.heard()

    async def heard(self) -> list[Tick]:
        """The ticks that were published since the last look."""
        await settle()
        ticks: list[Tick] = []
        while (await self._ear.depth()).ready:
            batch = await self._ear.batch()
            await self._ear.acknowledge(batch)
            ticks += [decode_tick(delivery.body) for delivery in batch]
        return ticks

    async def say(self, tick: Tick) -> None:
        """Publish a tick as some other stream would."""
        await self.bus.publish(
            Message(exchange=PRICE_UPDATES, routing_key=tick.pair, body=encode(tick))
        )
        await settle()


@contextlib.asynccontextmanager
async def pair(
    *,
    poll_secs: float = 5.0,
    wanted: Sequence[tuple[str, str]] = (ETH,),
    history: Mapping[str, list[Candle]] = MappingProxyType({}),
) -> AsyncIterator[Pair]:
    clock, bus = ManualClock(), MemoryBus(MemoryBroker())
    await bus.start()
    ear = await bus.subscribe(TICK_QUEUE, frozenset({Binding(exchange=PRICE_UPDATES, pattern="#")}))
    both = Pair(clock, bus, ear, poll_secs=poll_secs, wanted=wanted, history=history)
    both.standby.stream.follow()
    await settle()
    both.leader.stream.lead(7)
    await settle()
    try:
        yield both
    finally:
        for station in (both.leader, both.standby):
            if not station.running.done():
                await station.end()
        await bus.close()


def wandering(seed: int) -> list[Candle]:
    """Candles of a market that moves, from well before the start to well after."""
    random, close, candles = Random(seed), 100.0, []
    for number in range(-110, 8):
        before, close = close, close * (1 + random.uniform(-0.01, 0.01))
        candles.append(
            Candle(
                open_ms=OPEN_MS + number * CANDLE_MS,
                open=before,
                high=max(before, close) * 1.002,
                low=min(before, close) * 0.998,
                close=close,
                volume=random.uniform(1, 50),
            )
        )
    return candles


def eth(ticks: Sequence[Tick]) -> list[Tick]:
    return [tick for tick in ticks if tick.market == ETH]


# Following


async def test_a_follower_polls_and_publishes_nothing() -> None:
    async with pair() as p:
        ticks = await p.pass_secs(60.0)
        assert {tick.stream_epoch for tick in ticks} == {7}
        assert p.standby.feed.asked == []
        assert p.standby.archive.saves == []
        assert p.standby.archive.rules == {}
        report = p.standby.stream.report()
        assert report["role"] == "following"
        assert report["published"] == 0
        assert report["stream_epoch"] == 7
        assert report["followed"] == len(ticks)


async def test_a_follower_is_as_warm_as_the_leader() -> None:
    async with pair() as p:
        await p.pass_secs(60.0)
        for station in (p.leader, p.standby):
            report = station.stream.report()
            assert (report["warm"], report["markets"]) == (2, 2)
            assert report["last_tick_age_ms"] == 0


async def test_a_market_that_joins_is_warmed_up_by_both() -> None:
    async with pair() as p:
        await p.pass_secs(30.0)
        for station in (p.leader, p.standby):
            station.feed.prices["SOL/USD"] = 20.0
        p.directory.markets |= {("kraken", "SOL/USD")}
        await p.pass_secs(60.0)
        assert p.standby.stream.report()["warm"] == 3
        p.standby.stream.lead(8)
        sol = [tick for tick in await p.heard() if tick.pair == "SOL/USD"][-1]
        assert sol.stream_epoch == 8
        assert sol.indicators.adx is not None


async def test_a_venue_that_cannot_be_reached_at_the_start_is_tried_until_it_answers() -> None:
    async with pair() as p:
        await p.standby.end()
        late = p.station("late")
        late.feed.failure = VenueUnavailable("did not answer in time")
        late.stream.follow()
        await p.pass_secs(20.0)
        assert late.stream.report()["warm"] == 0
        late.feed.failure = None
        await p.pass_secs(60.0)
        assert late.feed.loads == 1
        assert late.stream.report()["warm"] == 2
        await late.end()


async def test_ticks_of_a_deposed_leader_are_ignored_in_every_market() -> None:
    async with pair() as p:
        newest = (await p.pass_secs(30.0))[-1]
        p.leader.stream.follow()
        await p.say(replace(newest, pair="BTC/USD", stream_epoch=9, sequence=1))
        await p.say(replace(newest, pair="ETH/USD", stream_epoch=8, sequence=99, price=1.0))
        assert p.standby.stream.report()["outdated"] == 1
        p.standby.stream.lead(10)
        (tick,) = eth([tick for tick in await p.heard() if tick.stream_epoch == 10])
        assert tick.price == 102.0, "not judged by the price that nobody should believe"


async def test_what_cannot_be_read_is_ignored() -> None:
    async with pair() as p:
        await p.pass_secs(10.0)
        before = p.standby.stream.report()["followed"]
        for body in (b"{", b'{"version": 99}'):
            await p.bus.publish(Message(exchange=PRICE_UPDATES, routing_key="ETH/USD", body=body))
        await p.clock.advance(5.0)
        assert p.standby.stream.report()["followed"] == before + 2


# Taking over


async def test_a_new_leader_polls_at_once_with_every_indicator() -> None:
    async with pair() as p:
        await p.pass_secs(42.0)
        p.leader.stream.follow()
        p.standby.stream.lead(8)
        taken_over = await p.heard()
        assert {tick.market for tick in taken_over} == {("kraken", "BTC/USD"), ETH}
        for tick in taken_over:
            assert tick.stream_epoch == 8
            assert tick.observed_at_ms == WALL_START_MS + 42_000
            assert tick.market_time_ms == MARKET_START_MS + 42_000
            assert all(getattr(tick.indicators, name) is not None for name in Indicators.__slots__)
            assert tick.confidence is not None
        assert p.standby.stream.report()["role"] == "leading"
        again = eth(await p.pass_secs(5.0))
        assert [(tick.stream_epoch, tick.sequence) for tick in again] == [(8, 2)]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_both_say_the_same_at_the_same_moment(seed: int) -> None:
    """They take turns through two closes; each first tick is compared to the other's last.

    Rolled from the same ticks and corrected by the same candles, they may differ only between
    the two corrections of one close, where one knows the venue's candle and the other only what
    it saw, and where a follower missed ticks since the last close.
    """
    random = Random(seed)
    history = {"BTC/USD": wandering(seed), "ETH/USD": wandering(seed + 1000)}
    async with pair(poll_secs=20.0, history=history) as p:
        leads, follows = p.leader, p.standby
        compared = 0
        for epoch in range(8, 40):
            for _ in range(3):
                prices = {name: random.uniform(95, 105) for name in ("BTC/USD", "ETH/USD")}
                for station in (leads, follows):
                    station.feed.prices |= prices
                ticks = await p.pass_secs(20.0)
            leads.stream.follow()
            follows.stream.lead(epoch)
            leads, follows = follows, leads
            last = {tick.market: tick for tick in ticks}
            first = {tick.market: tick for tick in await p.heard()}
            assert len(first) == len(last) == 2
            for market, tick in first.items():
                assert tick.market_time_ms == last[market].market_time_ms
                assert tick.indicators == last[market].indicators
                assert tick.confidence == last[market].confidence
                compared += tick.indicators.volume_ratio is not None
        assert compared > 50


async def test_a_jump_from_the_last_leaders_price_is_doubted() -> None:
    async with pair() as p:
        await p.pass_secs(30.0)
        p.leader.stream.follow()
        p.standby.feed.prices["ETH/USD"] = 150.0
        p.standby.stream.lead(8)
        assert eth(await p.heard()) == [], "the leader's last price was 102"
        (silenced,) = p.standby.stream.report()["venues"]["kraken"]["silenced"]
        assert silenced["reason"].startswith("jumped")
        assert [tick.price for tick in eth(await p.pass_secs(5.0))] == [150.0], "confirmed"


async def test_a_new_leader_saves_ticks_and_rules() -> None:
    async with pair() as p:
        await p.pass_secs(30.0)
        p.leader.stream.follow()
        p.standby.stream.lead(8)
        await p.pass_secs(1.0)
        assert {tick.stream_epoch for save in p.standby.archive.saves for tick in save} == {8}
        assert p.standby.archive.rules.keys() == {"kraken"}


# Losing the lead


async def test_a_poll_that_was_under_way_is_withheld() -> None:
    async with pair() as p:
        await p.pass_secs(4.0)
        p.leader.feed.answering.clear()
        await p.clock.advance(1.0)
        p.leader.permitted = False
        p.leader.feed.answering.set()
        assert await p.heard() == []
        assert p.leader.stream.report()["withheld"] == 2


async def test_a_deposed_leader_publishes_nothing_and_follows() -> None:
    async with pair() as p:
        await p.pass_secs(30.0)
        p.leader.feed.answering.clear()
        await p.clock.advance(5.0)
        p.leader.stream.follow()
        p.standby.stream.lead(8)
        p.leader.feed.answering.set()
        assert {tick.stream_epoch for tick in await p.pass_secs(20.0)} == {8}
        report = p.leader.stream.report()
        assert (report["role"], report["stream_epoch"]) == ("following", 8)

        p.standby.stream.follow()
        p.leader.stream.lead(9)
        first = eth(await p.heard())
        assert [(tick.stream_epoch, tick.sequence) for tick in first] == [(9, 8)]
        assert first[0].indicators.volume_ratio is not None


async def test_a_lead_lost_and_won_within_a_moment_goes_on() -> None:
    async with pair() as p:
        await p.pass_secs(6.0)
        p.leader.stream.follow()
        p.leader.stream.lead(8)
        assert [tick.stream_epoch for tick in eth(await p.pass_secs(4.0))] == [8]


# Between the two


async def test_both_together_stay_within_the_venues_pace_for_candles() -> None:
    wanted = [("kraken", f"C{number}/USD") for number in range(30)]
    async with pair(wanted=wanted) as p:
        await p.pass_secs(200.0)
        leaders = [secs for secs, _, _ in p.leader.feed.candles_asked]
        standbys = [secs for secs, _, _ in p.standby.feed.candles_asked]
        assert len(leaders) == 31
        assert len(standbys) == 31
        asked = sorted([*leaders, *standbys])
        per_sec = KRAKEN.candle_requests_per_sec
        for index, start_secs in enumerate(asked):
            within = sum(1 for secs in asked[index:] if secs < start_secs + 10.0)
            assert within <= 2 + 10.0 * per_sec, "a token each, and ten seconds' earnings"
        assert leaders[-1] < standbys[-1], "the leader's are not held up"


async def test_heartbeats_say_who_leads() -> None:
    async with pair() as p:
        bindings = frozenset({Binding(exchange=SYSTEM, pattern="system.health.price_stream")})
        beats = await p.bus.subscribe(LISTENER_QUEUE, bindings)
        await p.clock.advance(11.0)
        bodies = [orjson.loads(delivery.body) for delivery in await beats.batch()]
        roles = [(body["instance"], body["facts"]["role"]) for body in bodies]
        assert sorted(roles) == [("leader", "leading")] * 2 + [("standby", "following")] * 2
