"""The synthetic market: the same for ever, whole at midnight, with something for every stage."""

from typing import Final

import numpy as np
import pytest
import talib
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecosystem.venue_simulator.listings import (
    ASSETS,
    MAX_MARKETS,
    Listing,
    listing,
    synthetic_listings,
)
from ecosystem.venue_simulator.market import HISTORY_MINUTES, Market
from ecosystem.venue_simulator.minutes import (
    CLOSE,
    HIGH,
    LOW,
    MINUTE_MS,
    OPEN,
    SPREAD,
    VOLUME,
    Table,
    aggregate,
    so_far,
)
from ecosystem.venue_simulator.synthetic import DAY_MINUTES, SyntheticTape
from shared.errors import InvalidSettings
from shared.risk_profile import DEFAULTS
from shared.venues import VENUES, base_of

DAY: Final = 20_400
FIRST: Final = DAY * DAY_MINUTES
NOW_MS: Final = FIRST * MINUTE_MS + 12 * 3_600_000 + 34_567


def tape(*, seed: int = 1, venue: str = "kraken", code: str = "SOL") -> SyntheticTape:
    return SyntheticTape(seed=seed, venue=venue, asset=ASSETS[code])


def synthetic(venue: str = "kraken", pair: str = "SOL/USD") -> tuple[Market, Listing]:
    listed = listing(venue=venue, pair=pair, price=ASSETS[base_of(pair)].price_usd)
    return Market({listed: tape(venue=venue, code=base_of(pair))}), listed


@given(offset=st.integers(-5000, 5000), count=st.integers(1, 4000))
def test_any_stretch_of_minutes_is_a_part_of_the_whole(offset: int, count: int) -> None:
    whole = tape().minutes(FIRST - 5000, 15_000)
    part = tape().minutes(FIRST + offset, count)
    assert np.array_equal(part, whole[:, offset + 5000 : offset + 5000 + count])


def test_another_seed_is_another_market() -> None:
    ours, other = (tape(seed=seed).minutes(FIRST, 60)[CLOSE] for seed in (1, 2))
    assert not np.isclose(ours, other, rtol=1e-4).any()


@pytest.mark.parametrize("code", ["BTC", "SOL", "PEPE"])
def test_candles_hold_together_over_midnight(code: str) -> None:
    table = tape(code=code).minutes(FIRST - 3 * DAY_MINUTES, 6 * DAY_MINUTES)
    assert table[OPEN, 1:] == pytest.approx(table[CLOSE, :-1], rel=1e-9)
    assert (table[LOW] <= table[[OPEN, CLOSE]].min(axis=0)).all()
    assert (table[HIGH] >= table[[OPEN, CLOSE]].max(axis=0)).all()
    assert (table[[LOW, VOLUME, SPREAD]] > 0).all()


def test_one_asset_costs_the_same_on_both_venues() -> None:
    kraken, binance = (tape(venue=venue).minutes(FIRST, DAY_MINUTES)[CLOSE] for venue in VENUES)
    assert kraken == pytest.approx(binance, rel=0.001)


def test_alts_move_with_btc() -> None:
    steps = [
        np.diff(np.log(tape(code=code).minutes(FIRST, 20 * DAY_MINUTES)[CLOSE, ::60]))
        for code in ("BTC", "SOL")
    ]
    assert np.corrcoef(steps)[0, 1] > 0.1


def test_prices_stay_near_their_reference_for_years() -> None:
    closes = [tape().minutes(day * DAY_MINUTES, 1)[CLOSE, 0] for day in range(0, 40_000, 97)]
    assert min(closes) > 0.4 * ASSETS["SOL"].price_usd
    assert max(closes) < 2.5 * ASSETS["SOL"].price_usd


def test_rising_minute_walks_over_low_and_high() -> None:
    candle = np.array([10.0, 13.0, 9.0, 12.0, 6.0, 0.001])
    walk = [so_far(candle, sixth / 6) for sixth in range(7)]
    assert [float(known[CLOSE]) for known in walk] == [10.0, 9.5, 9.0, 11.0, 13.0, 12.5, 12.0]
    assert [float(known[HIGH]) for known in walk] == [10.0, 10.0, 10.0, 11.0, 13.0, 13.0, 13.0]
    assert [float(known[LOW]) for known in walk] == [10.0, 9.5, 9.0, 9.0, 9.0, 9.0, 9.0]
    assert walk[3][VOLUME] == 3.0
    assert np.array_equal(walk[6], candle)


def test_falling_minute_walks_over_high_and_low() -> None:
    candle = np.array([12.0, 13.0, 9.0, 10.0, 6.0, 0.001])
    assert [float(so_far(candle, third / 3)[CLOSE]) for third in range(4)] == [12, 13, 9, 10]


def test_aggregate_keeps_first_open_last_close_and_sums_volume() -> None:
    minutes = tape().minutes(FIRST + 10, 20)
    candles = aggregate(minutes, first=FIRST + 10, interval_minutes=15)
    assert candles.open_ms.tolist() == [FIRST * MINUTE_MS, (FIRST + 15) * MINUTE_MS]
    assert candles.table[OPEN].tolist() == [minutes[OPEN, 0], minutes[OPEN, 5]]
    assert candles.table[CLOSE].tolist() == [minutes[CLOSE, 4], minutes[CLOSE, 19]]
    assert candles.table[HIGH].tolist() == [minutes[HIGH, :5].max(), minutes[HIGH, 5:].max()]
    assert candles.table[LOW].tolist() == [minutes[LOW, :5].min(), minutes[LOW, 5:].min()]
    assert candles.table[VOLUME] == pytest.approx(
        [minutes[VOLUME, :5].sum(), minutes[VOLUME, 5:].sum()]
    )


@pytest.mark.parametrize("interval", [1, 5, 15, 60])
def test_last_candle_is_the_one_that_is_being_made(interval: int) -> None:
    market, listed = synthetic()
    candles = market.candles(
        listed, interval_minutes=interval, now_ms=NOW_MS, from_ms=0, to_ms=2**53
    )
    step_ms = interval * MINUTE_MS
    assert candles.open_ms[-1] == NOW_MS // step_ms * step_ms
    assert (np.diff(candles.open_ms) == step_ms).all()
    assert len(candles.open_ms) == HISTORY_MINUTES // interval + 1 - (HISTORY_MINUTES % interval)
    quote = market.quote(listed, NOW_MS)
    assert candles.table[CLOSE, -1] == pytest.approx(quote.price, abs=0.0011)
    assert candles.table[LOW, -1] <= candles.table[CLOSE, -1] <= candles.table[HIGH, -1]


def test_a_completed_candle_never_changes() -> None:
    market, listed = synthetic()

    def completed(now_ms: int) -> Table:
        end_ms = FIRST * MINUTE_MS + 11 * 3_600_000
        return market.candles(
            listed, interval_minutes=15, now_ms=now_ms, from_ms=end_ms - 86_400_000, to_ms=end_ms
        ).table

    assert np.array_equal(completed(NOW_MS), completed(NOW_MS + 7_654_321))


@given(now_ms=st.integers(NOW_MS, NOW_MS + 10 * 86_400_000))
def test_price_lies_between_bid_and_ask_on_the_price_tick(now_ms: int) -> None:
    market, listed = synthetic()
    quote = market.quote(listed, now_ms)
    assert quote.bid is not None
    assert quote.bid <= quote.price <= quote.ask
    assert quote.bid < quote.ask
    for price in (quote.bid, quote.price, quote.ask):
        assert round(price, listed.price_decimals) == price


@given(now_ms=st.integers(NOW_MS, NOW_MS + 86_400_000))
def test_quote_lies_within_its_minute(now_ms: int) -> None:
    market, listed = synthetic()
    candle = tape().minutes(now_ms // MINUTE_MS, 1)[:, 0]
    tick = float(listed.rules.price_tick)
    assert candle[LOW] - tick <= market.quote(listed, now_ms).price <= candle[HIGH] + tick


@pytest.mark.parametrize("venue", VENUES)
def test_venues_list_as_many_markets_as_asked_for(venue: str) -> None:
    everything = synthetic_listings(venue, MAX_MARKETS)
    assert len({market.pair for market in everything}) == MAX_MARKETS
    assert [market.pair for market in synthetic_listings(venue, 5)] == [
        market.pair for market in everything[:5]
    ]
    assert everything[0].pair == VENUES[venue].reference_pair
    for market in everything:
        assert base_of(market.pair) in ASSETS
        smallest = float(market.rules.min_quantity) * ASSETS[base_of(market.pair)].price_usd
        assert 0 < smallest < 15


@pytest.mark.parametrize("count", [0, -1, MAX_MARKETS + 1])
def test_an_impossible_number_of_markets_is_refused(count: int) -> None:
    with pytest.raises(InvalidSettings, match=f"from 1 to {MAX_MARKETS}, was {count}"):
        synthetic_listings("kraken", count)


class Judged:
    """What the first three stages make of each minute of a market, by DESIGN's defaults."""

    def __init__(self, table: Table, first: int) -> None:
        candles = aggregate(table, first=first, interval_minutes=15).table
        latest = np.arange(table.shape[1]) // 15 - 1  # the last completed candle
        self.known = latest >= 100
        latest = np.maximum(latest, 20)
        self.momentum_1h = table[CLOSE] / candles[CLOSE, latest - 3] - 1
        self.momentum_4h = table[CLOSE] / candles[CLOSE, np.maximum(latest - 15, 0)] - 1
        adx = talib.ADX(candles[HIGH], candles[LOW], candles[CLOSE], timeperiod=14)[latest]
        rsi = talib.RSI(candles[CLOSE], timeperiod=14)[latest]
        windows = np.lib.stride_tricks.sliding_window_view
        highs = windows(candles[HIGH], 20).max(axis=1)[latest - 19]
        volume = candles[VOLUME, latest] / windows(candles[VOLUME], 20).mean(axis=1)[latest - 20]
        self.denials: dict[str, NDArray[np.bool_]] = {
            "choppy": adx < DEFAULTS["min_adx"],
            "crash": self.momentum_4h < DEFAULTS["min_momentum_4h"],
            "panic": (volume > DEFAULTS["max_volume_ratio"])
            & (self.momentum_1h < DEFAULTS["panic_momentum_1h"]),
            "deserted": volume < DEFAULTS["min_volume_ratio"],
            "wide": table[SPREAD] > DEFAULTS["max_spread"],
            "top": table[CLOSE] > highs * DEFAULTS["max_price_to_high"],
            "overbought": rsi > DEFAULTS["max_rsi"],
            "no momentum": ~(
                (self.momentum_1h > DEFAULTS["min_momentum_1h"])
                | ((volume > DEFAULTS["breakout_volume_ratio"]) & (self.momentum_1h > 0))
            ),
        }


def test_every_stage_denies_someone_and_nearly_always_some_market_passes() -> None:
    first, count = (DAY - 2) * DAY_MINUTES, 5 * DAY_MINUTES
    markets = [
        (market, Judged(tape(venue=venue, code=base_of(market.pair)).minutes(first, count), first))
        for venue in VENUES
        for market in synthetic_listings(venue, 12)
    ]
    dumping = {
        market.venue: judged.momentum_1h < DEFAULTS["min_btc_momentum_1h"]
        for market, judged in markets
        if market.pair == VENUES[market.venue].reference_pair
    }
    known = markets[0][1].known
    reasons: dict[str, int] = {}
    passing = np.zeros((len(markets), count), dtype=bool)
    for row, (market, judged) in enumerate(markets):
        if base_of(market.pair) != "BTC":
            judged.denials["btc dumping"] = dumping[market.venue]
        denied = np.zeros(count, dtype=bool)
        for reason, denies in judged.denials.items():
            reasons[reason] = reasons.get(reason, 0) + int((denies & ~denied & known).sum())
            denied |= denies
        passing[row] = ~denied & known
    assert min(reasons.values()) > 0, reasons
    assert 0.08 < passing[:, known].mean() < 0.3
    assert passing[:, known].any(axis=1).all()
    any_market = passing[:, known].any(axis=0)
    half_hours = np.lib.stride_tricks.sliding_window_view(any_market, 30).any(axis=1)
    assert half_hours.mean() > 0.97
