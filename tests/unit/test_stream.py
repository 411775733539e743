"""The price stream's loops: schedule, silence, backoff, candles, publishing, the database."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import chain

import orjson
import pytest

from price_stream.candles import CANDLE_MS
from price_stream.quotes import Quote
from price_stream.stream import PriceStream
from shared.bus import Message, Subscription
from shared.bus.memory import MemoryBroker, MemoryBus
from shared.errors import StoreUnavailable, SymbolRefused, VenueUnavailable
from shared.messages import Regime, Tick, decode_tick
from shared.topology import (
    LISTENER_QUEUE,
    PRICE_UPDATES,
    SYSTEM,
    TICK_QUEUE,
    Binding,
    config_key,
)
from shared.venues import BINANCE, KRAKEN
from tests.unit.stream_fakes import (
    MARKET_START_MS,
    FakeArchive,
    FakeDirectory,
    FakeFeed,
    ManualClock,
)

KRAKEN_ETH = ("kraken", "ETH/USD")
BINANCE_ETH = ("binance", "ETH/USDT")


@dataclass
class World:
    """A running stream with everything around it under the test's control."""

    clock: ManualClock
    kraken: FakeFeed
    binance: FakeFeed
    directory: FakeDirectory
    archive: FakeArchive
    bus: MemoryBus
    stream: PriceStream
    queue: Subscription
    running: "asyncio.Task[None]"
    ticks: list[Tick] = field(default_factory=list)

    async def pass_secs(self, secs: float) -> list[Tick]:
        """Let time pass; the ticks that were published meanwhile."""
        await self.clock.advance(secs)
        new: list[Tick] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                while True:
                    batch = await self.queue.batch()
                    await self.queue.acknowledge(batch)
                    new += [decode_tick(delivery.body) for delivery in batch]
        self.ticks += new
        return new

    def venue_report(self, venue: str) -> dict[str, object]:
        report: dict[str, object] = self.stream.report()["venues"][venue]
        return report


@contextlib.asynccontextmanager
async def world(
    *,
    interval_secs: float = 5.0,
    speed: float = 1.0,
    patterns: tuple[str, ...] = ("#",),
    wanted: tuple[tuple[str, str], ...] = (KRAKEN_ETH, BINANCE_ETH),
) -> AsyncIterator[World]:
    clock = ManualClock()
    kraken, binance = FakeFeed(clock, speed=speed), FakeFeed(clock, speed=speed)
    kraken.prices = {"BTC/USD": 101.0, "ETH/USD": 102.0}
    binance.prices = {"BTC/USDT": 101.0, "ETH/USDT": 102.0}
    directory, archive = FakeDirectory(*wanted), FakeArchive()
    bus = MemoryBus(MemoryBroker())
    await bus.start()
    bindings = frozenset(Binding(exchange=PRICE_UPDATES, pattern=one) for one in patterns)
    queue = await bus.subscribe(TICK_QUEUE, bindings)
    stream = PriceStream(
        feeds={KRAKEN: kraken, BINANCE: binance},
        bus=bus,
        directory=directory,
        archive=archive,
        may_publish=permitted,
        instance="test",
        poll_interval_secs=interval_secs,
        clock=clock,
        jitter=lambda: 0.0,
    )
    stream.lead(7)
    running = asyncio.create_task(stream.run(), name="stream")
    try:
        yield World(clock, kraken, binance, directory, archive, bus, stream, queue, running)
    finally:
        if not running.done():
            stream.stop()
            await asyncio.wait_for(running, 1.0)
        await bus.close()


async def permitted() -> bool:
    return True


def of(ticks: list[Tick], *market: str) -> list[Tick]:
    return [tick for tick in ticks if tick.market == market]


# Ticks


async def test_the_first_poll_publishes_without_indicators_and_the_next_with_them() -> None:
    async with world() as w:
        first = of(await w.pass_secs(0.1), *KRAKEN_ETH)
        assert [(tick.price, tick.bid, tick.sequence) for tick in first] == [(102.0, 102.0, 1)]
        assert first[0].stream_epoch == 7
        assert first[0].market_time_ms == MARKET_START_MS
        assert first[0].indicators.adx is None
        assert first[0].regime is None
        assert first[0].confidence is None

        second = of(await w.pass_secs(5.0), *KRAKEN_ETH)
        assert [tick.sequence for tick in second] == [2]
        known = second[0].indicators
        assert known.momentum_1h == pytest.approx(0.02)
        assert known.momentum_4h == pytest.approx(0.02)
        assert known.btc_momentum_1h == pytest.approx(0.01)
        assert known.volume_ratio == 1.0
        assert known.recent_high == 101.0
        assert known.adx == 0.0
        assert second[0].regime is Regime.CHOPPY
        assert second[0].confidence is not None


async def test_the_references_are_polled_although_nobody_wants_a_market() -> None:
    async with world(wanted=()) as w:
        ticks = await w.pass_secs(0.1)
        assert {tick.market for tick in ticks} == {("kraken", "BTC/USD"), ("binance", "BTC/USDT")}


async def test_a_body_is_json_as_the_design_says() -> None:
    async with world(wanted=()) as w:
        await w.clock.advance(0.1)
        body = json.loads((await w.queue.batch())[0].body)
        assert set(body) == {
            *("version", "venue", "pair", "price", "bid", "ask", "market_time_ms"),
            *("observed_at_ms", "published_at_ms", "stream_epoch", "sequence", "indicators"),
            *("regime", "confidence"),
        }


async def test_without_the_reference_btc_momentum_is_not_known() -> None:
    async with world() as w:
        await w.pass_secs(0.1)
        w.kraken.quotes_told["BTC/USD"] = Quote(price=1.0, bid=None, ask=1.0)
        eth = of(await w.pass_secs(5.0), *KRAKEN_ETH)[0]
        assert eth.indicators.momentum_1h is not None
        assert eth.indicators.btc_momentum_1h is None


# Schedule


async def test_both_venues_are_polled_at_once_on_a_schedule_that_does_not_drift() -> None:
    async with world() as w:
        await w.pass_secs(52.0)
        moments = [moment for moment, _ in w.kraken.asked]
        assert moments == [5.0 * number for number in range(11)]
        assert moments == [moment for moment, _ in w.binance.asked]
        assert all(pairs == ["BTC/USD", "ETH/USD"] for _, pairs in w.kraken.asked)


async def test_a_slow_venue_does_not_delay_the_other() -> None:
    async with world() as w:
        w.kraken.answering.clear()
        ticks = await w.pass_secs(12.0)
        assert {tick.venue for tick in ticks} == {"binance"}
        assert len(of(ticks, *BINANCE_ETH)) == 3
        assert len(w.kraken.asked) == 1, "no burst of requests against a slow venue"

        w.kraken.answering.set()
        await w.pass_secs(10.0)
        assert [moment for moment, _ in w.kraken.asked] == [0.0, 15.0, 20.0]
        assert w.venue_report("kraken")["late_polls"] == 2


# A venue that fails


async def test_a_venue_that_fails_is_silenced_alone_backed_off_and_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with world() as w:
        await w.pass_secs(0.1)
        w.kraken.failure = VenueUnavailable("failed (503)")
        ticks = await w.pass_secs(99.0)
        assert {tick.venue for tick in ticks} == {"binance"}
        # Fails at 5, then pauses of 5, 10, 20, 40 seconds, on the slots.
        assert [moment for moment, _ in w.kraken.asked] == [0.0, 5.0, 10.0, 20.0, 40.0, 80.0]
        report = w.venue_report("kraken")
        assert report["state"] == "silenced"
        assert report["reason"] == "failed (503)"
        assert report["failures"] == 5
        assert w.venue_report("binance")["state"] == "ok"
        assert [r.message for r in caplog.records].count("kraken is silenced: it failed (503)") == 1

        w.kraken.failure = None
        assert {tick.venue for tick in await w.pass_secs(60.0)} == {"binance", "kraken"}
        assert w.venue_report("kraken")["state"] == "ok"
        assert [r.message for r in caplog.records].count("kraken answers again") == 1


async def test_a_venue_that_is_away_at_the_start_is_waited_for() -> None:
    async with world() as w:
        w.kraken.failure = VenueUnavailable("did not answer in time")
        assert {tick.venue for tick in await w.pass_secs(4.0)} == {"binance"}
        w.kraken.failure = None
        assert {tick.venue for tick in await w.pass_secs(2.0)} == {"binance", "kraken"}


async def test_retry_after_is_honoured() -> None:
    async with world() as w:
        w.binance.failure = VenueUnavailable("throttles", retry_after_secs=120.0)
        await w.pass_secs(1.0)
        w.binance.failure = None
        await w.pass_secs(118.0)
        assert w.binance.asked == [], "asked for markets once, then for nothing"
        await w.pass_secs(2.0)
        assert [moment for moment, _ in w.binance.asked] == [120.0]


async def test_a_retry_after_of_a_candle_request_silences_the_polls_too() -> None:
    async with world() as w:
        w.kraken.candle_failure = VenueUnavailable("throttles", retry_after_secs=30.0)
        await w.pass_secs(29.0)
        assert len(w.kraken.asked) == 1
        assert w.venue_report("kraken")["candle_failures"] == 1


async def test_an_unknown_server_time_keeps_the_offset() -> None:
    async with world() as w:
        await w.pass_secs(0.1)
        w.kraken.time_failure = VenueUnavailable("did not answer in time")
        eth = of(await w.pass_secs(10.0), *KRAKEN_ETH)
        assert [tick.market_time_ms - MARKET_START_MS for tick in eth] == [5_000, 10_000]
        assert w.venue_report("kraken")["market_clock_problem"] == "did not answer in time"


async def test_a_server_time_that_hangs_does_not_keep_the_quotes() -> None:
    async with world() as w:
        await w.pass_secs(0.1)
        w.kraken.telling_time.clear()
        await w.clock.advance(5.0)
        eth: list[Tick] = []
        async with asyncio.timeout(10):
            while not eth:
                batch = await w.queue.batch()
                await w.queue.acknowledge(batch)
                eth = of([decode_tick(delivery.body) for delivery in batch], *KRAKEN_ETH)
        assert eth[0].market_time_ms == MARKET_START_MS + 5_000
        assert w.venue_report("kraken")["market_clock_problem"] == "is slow to tell"


async def test_a_venue_that_set_its_clock_back_is_silenced() -> None:
    async with world() as w:
        await w.pass_secs(0.1)
        w.kraken.setback_ms = 120_000
        assert of(await w.pass_secs(5.0), *KRAKEN_ETH) == []
        assert "clock back" in str(w.venue_report("kraken")["reason"])


async def test_a_venue_that_never_told_its_time_is_silenced() -> None:
    async with world() as w:
        w.kraken.time_failure = VenueUnavailable("did not answer in time")
        assert of(await w.pass_secs(1.0), *KRAKEN_ETH) == []
        assert w.venue_report("kraken")["state"] == "silenced"


# A market that fails


@pytest.mark.parametrize(
    ("nonsense", "reason"),
    [
        (Quote(price=102.0, bid=None, ask=102.0), "bid is missing"),
        (Quote(price=102.0, bid=0.0, ask=102.0), "bid is not above 0"),
        (Quote(price=float("nan"), bid=102.0, ask=102.0), "price is not a finite number"),
        (Quote(price=160.0, bid=160.0, ask=160.0), "jumped by more than 20%"),
    ],
)
async def test_nonsense_silences_only_its_market(
    nonsense: Quote, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as w:
        await w.pass_secs(0.1)
        w.kraken.quotes_told["ETH/USD"] = nonsense
        ticks = await w.pass_secs(5.0)
        assert of(ticks, *KRAKEN_ETH) == []
        assert len(of(ticks, "kraken", "BTC/USD")) == 1
        (silenced,) = w.stream.report()["venues"]["kraken"]["silenced"]
        assert silenced["pair"] == "ETH/USD"
        assert silenced["reason"].startswith(reason)
        del w.kraken.quotes_told["ETH/USD"]
        back = of(await w.pass_secs(5.0), *KRAKEN_ETH)
        assert [tick.sequence for tick in back] == [2], "no sequence was used while silent"
        assert w.venue_report("kraken")["silenced"] == []
    assert sum("kraken ETH/USD is silenced" in r.message for r in caplog.records) == 1


async def test_a_confirmed_jump_is_published() -> None:
    async with world() as w:
        await w.pass_secs(0.1)
        w.kraken.prices["ETH/USD"] = 150.0
        ticks = await w.pass_secs(10.0)
        assert [tick.price for tick in of(ticks, *KRAKEN_ETH)] == [150.0]


async def test_a_market_missing_in_the_reply_is_silenced() -> None:
    async with world() as w:
        await w.pass_secs(0.1)
        del w.kraken.prices["ETH/USD"]
        await w.pass_secs(5.0)
        (silenced,) = w.stream.report()["venues"]["kraken"]["silenced"]
        assert silenced["reason"] == "missing in the venue's reply"


async def test_a_refused_symbol_is_found_by_bisection_and_the_others_go_on() -> None:
    pairs = [f"C{number}/USD" for number in range(31)]
    async with world(wanted=tuple(("kraken", pair) for pair in pairs)) as w:
        w.kraken.prices |= dict.fromkeys(pairs, 5.0)
        w.kraken.refused_by_venue = {"C17/USD"}
        ticks = await w.pass_secs(0.1)
        heard = {tick.pair for tick in ticks if tick.venue == "kraken"}
        assert heard == {"BTC/USD", *pairs} - {"C17/USD"}
        assert len(w.kraken.asked) <= 1 + 2 * 5
        (silenced,) = w.stream.report()["venues"]["kraken"]["silenced"]
        assert silenced["pair"] == "C17/USD"
        assert silenced["reason"] == "the venue does not know the symbol"

        w.kraken.asked.clear()
        await w.pass_secs(5.0)
        assert [len(asked) for _, asked in w.kraken.asked] == [31], "one request again"
        w.kraken.refused_by_venue = set()
        later = await w.pass_secs(300.0)
        assert of(later, "kraken", "C17/USD"), "asked again after a few minutes"


async def test_many_refused_symbols_cost_a_bounded_number_of_requests() -> None:
    pairs = [f"C{number}/USD" for number in range(40)]
    async with world(wanted=tuple(("kraken", pair) for pair in pairs)) as w:
        w.kraken.prices |= dict.fromkeys(pairs, 5.0)
        w.kraken.refused_by_venue = set(pairs)
        await w.pass_secs(0.1)
        assert len(w.kraken.asked) <= 24
        await w.pass_secs(60.0)
        assert len(w.stream.report()["venues"]["kraken"]["silenced"]) == 40
        assert of(await w.pass_secs(5.0), "kraken", "BTC/USD")


async def test_an_unlisted_market_is_silenced_and_the_listings_looked_up_again() -> None:
    async with world(wanted=(("kraken", "NEW/USD"),)) as w:
        w.kraken.unlisted = {"NEW/USD"}
        await w.pass_secs(1.0)
        (silenced,) = w.stream.report()["venues"]["kraken"]["silenced"]
        assert silenced["reason"] == "not listed"
        w.kraken.prices["NEW/USD"] = 3.0
        assert of(await w.pass_secs(310.0), "kraken", "NEW/USD")
        assert w.kraken.loads == 2


# Which markets


async def test_a_bot_started_elsewhere_brings_its_market_into_the_next_poll() -> None:
    async with world(wanted=()) as w:
        await w.pass_secs(4.0)
        w.directory.markets = frozenset({KRAKEN_ETH})
        assert of(await w.pass_secs(1.0), *KRAKEN_ETH)


async def test_an_announcement_brings_it_in_even_in_the_last_moment() -> None:
    async with world(wanted=()) as w:
        await w.pass_secs(4.9)
        w.directory.markets = frozenset({KRAKEN_ETH})
        await w.bus.publish(Message(exchange=SYSTEM, routing_key=config_key("bots"), body=b"{}"))
        assert of(await w.pass_secs(0.1), *KRAKEN_ETH)


async def test_a_database_that_is_away_keeps_the_last_markets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world() as w:
        await w.pass_secs(0.1)
        w.directory.failure = StoreUnavailable("connection refused")
        ticks = await w.pass_secs(20.0)
        assert len(of(ticks, *KRAKEN_ETH)) == 4
        assert w.stream.report()["wanted_failures"] >= 4
    assert sum("markets wanted last" in r.message for r in caplog.records) == 1


# Candles


async def test_each_close_is_corrected_once_per_market() -> None:
    async with world(wanted=(KRAKEN_ETH,)) as w:
        await w.pass_secs(10.0)
        warm_ups = [(pair, since) for _, pair, since in w.kraken.candles_asked]
        oldest = MARKET_START_MS - 60_000 - 100 * CANDLE_MS
        assert sorted(warm_ups) == [("BTC/USD", oldest), ("ETH/USD", oldest)]
        w.kraken.candles_asked.clear()
        await w.pass_secs(1800.0)
        first_close = MARKET_START_MS - 60_000 + CANDLE_MS
        assert sorted((pair, since) for _, pair, since in w.kraken.candles_asked) == [
            ("BTC/USD", first_close - CANDLE_MS),
            ("BTC/USD", first_close),
            ("ETH/USD", first_close - CANDLE_MS),
            ("ETH/USD", first_close),
        ]


async def test_candle_requests_stay_within_the_venues_pace() -> None:
    pairs = [f"C{number}/USD" for number in range(20)]
    async with world(wanted=tuple(("kraken", pair) for pair in pairs)) as w:
        w.kraken.prices |= dict.fromkeys(pairs, 5.0)
        await w.pass_secs(15.0)
        assert 4 <= len(w.kraken.candles_asked) <= 1 + 15 * KRAKEN.candle_requests_per_sec
        await w.pass_secs(60.0)
        assert len(w.kraken.candles_asked) == 21
        assert w.venue_report("kraken")["without_history"] == 0


async def test_in_a_fast_replay_the_pace_is_that_of_the_venues_clock() -> None:
    pairs = [f"C{number}/USD" for number in range(20)]
    wanted = tuple(("kraken", pair) for pair in pairs)
    async with world(wanted=wanted, speed=3600.0, interval_secs=0.05) as w:
        w.kraken.prices |= dict.fromkeys(pairs, 101.0)
        await w.pass_secs(2.0)
        assert w.venue_report("kraken")["without_history"] == 0
        # 180 market seconds pass per poll, a candle closes every five polls.
        w.kraken.candles_asked.clear()
        ticks = of(await w.pass_secs(1.0), "kraken", "C0/USD")
        known = [tick.indicators.volume_ratio is not None for tick in ticks]
        assert sum(known) / len(known) > 0.9
        assert [pair for _, pair, _ in w.kraken.candles_asked].count("C0/USD") == 4


async def test_candles_that_cannot_be_had_leave_ticks_without_indicators() -> None:
    async with world() as w:
        w.kraken.candle_failure = VenueUnavailable("failed (503)")
        eth = of(await w.pass_secs(31.0), *KRAKEN_ETH)
        assert len(eth) == 7
        assert all(tick.indicators.adx is None for tick in eth)
        w.kraken.candle_failure = None
        eth = of(await w.pass_secs(15.0), *KRAKEN_ETH)
        assert eth[-1].indicators.adx is not None


async def test_candles_of_a_refused_market_are_not_asked_for_all_the_time() -> None:
    async with world(wanted=()) as w:
        w.kraken.candle_failure = SymbolRefused("the venue does not know the symbol")
        await w.pass_secs(200.0)
        assert len(w.kraken.candles_asked) == 1


# Publishing and saving


async def test_a_market_that_nobody_listens_to_is_counted_and_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(patterns=("ETH/USD", "BTC/USDT", "ETH/USDT")) as w:
        await w.pass_secs(21.0)
        report = w.stream.report()
        assert report["unrouted"] == 5
        assert report["published"] == 15
    warnings = [r.message for r in caplog.records if "no body listens" in r.message]
    assert warnings == [
        "no body listens to BTC/USD (kraken) on price_updates: is a trade worker running?"
    ]


async def test_ticks_are_dropped_while_the_broker_is_away_and_polling_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world() as w:
        await w.pass_secs(0.1)
        await w.bus.close()
        await w.clock.advance(10.0)
        assert len(w.kraken.asked) == 3
        report = w.stream.report()
        assert report["dropped"] == 8
        assert report["published"] == 4
    assert sum("dropped until the broker" in r.message for r in caplog.records) == 1


async def test_the_latest_ticks_and_the_rules_are_saved() -> None:
    async with world() as w:
        await w.pass_secs(6.0)
        latest = {tick.market: tick.sequence for save in w.archive.saves for tick in save}
        assert latest == dict.fromkeys(
            [("kraken", "BTC/USD"), KRAKEN_ETH, ("binance", "BTC/USDT"), BINANCE_ETH], 2
        )
        assert set(w.archive.rules) == {"kraken", "binance"}
        assert w.stream.report()["saved"] == 8


async def test_a_slow_database_delays_no_poll_and_gets_only_the_newest_ticks() -> None:
    async with world() as w:
        await w.pass_secs(1.0)
        w.archive.open.clear()
        w.archive.saves.clear()
        assert len(of(await w.pass_secs(50.0), *KRAKEN_ETH)) == 10
        w.archive.open.set()
        await w.pass_secs(1.0)
        sequences = [tick.sequence for tick in of(list(chain(*w.archive.saves)), *KRAKEN_ETH)]
        assert sequences == [2, 11], "the save under way, then the newest of the rest"


async def test_a_save_that_failed_is_made_up_for() -> None:
    async with world() as w:
        w.archive.failure = StoreUnavailable("connection refused")
        await w.pass_secs(1.0)
        assert w.stream.report()["save_failures"] >= 1
        w.archive.failure = None
        await w.pass_secs(3.0)
        assert {tick.market for tick in w.archive.saves[0]} >= {KRAKEN_ETH, BINANCE_ETH}
        assert set(w.archive.rules) == {"kraken", "binance"}


async def test_a_heartbeat_goes_to_system_at_the_poll_interval() -> None:
    async with world() as w:
        bindings = frozenset({Binding(exchange=SYSTEM, pattern="system.health.#")})
        beats = await w.bus.subscribe(LISTENER_QUEUE, bindings)
        await w.clock.advance(16.0)
        bodies = [orjson.loads(delivery.body) for delivery in await beats.batch()]
        assert [body["service"] for body in bodies] == ["price_stream"] * 4
        assert bodies[-1]["interval_secs"] == 5.0
        assert bodies[-1]["facts"]["venues"]["kraken"]["state"] == "ok"


# Life


async def test_it_ends_within_a_second_and_closes_its_feeds() -> None:
    async with world() as w:
        w.kraken.answering.clear()
        w.archive.open.clear()
        await w.pass_secs(7.0)
    assert w.kraken.closed
    assert w.binance.closed
    assert {task.get_name() for task in asyncio.all_tasks()} == {
        task.get_name() for task in [asyncio.current_task()] if task is not None
    }


async def test_a_part_that_dies_ends_the_stream_with_its_error() -> None:
    async with world() as w:
        await w.pass_secs(1.0)
        w.kraken.failure = RuntimeError("a bug")
        await w.clock.advance(5.0)
        with pytest.raises(RuntimeError, match="a bug"):
            await asyncio.wait_for(w.running, 1.0)
        assert w.binance.closed


async def test_a_newer_epoch_is_taken_without_a_restart() -> None:
    async with world() as w:
        await w.pass_secs(1.0)
        w.stream.lead(9)
        eth = of(await w.pass_secs(5.0), *KRAKEN_ETH)
        assert [(tick.stream_epoch, tick.sequence) for tick in eth] == [(9, 2)]
        assert w.stream.report()["stream_epoch"] == 9


async def test_polls_far_apart_in_a_fast_replay_know_the_volume_ratio_all_the_same() -> None:
    """At speed 1200 and one poll a second a candle closes between any two polls."""
    async with world(speed=1200.0, interval_secs=1.0) as w:
        for _ in range(5):
            await w.pass_secs(1.0)
        for _ in range(10):
            ticks = of(await w.pass_secs(1.0), *KRAKEN_ETH)
            assert [tick.indicators.volume_ratio is not None for tick in ticks] == [True]
