"""Indicators of known candles, by hand and against the definitions of DESIGN.md."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from price_stream.candles import CANDLE_MS, WINDOW, Window
from price_stream.indicators import (
    NOTHING_KNOWN,
    RATIO_STANDS_MS,
    candle_facts,
    indicators,
    regime_of,
)
from shared.messages import Indicators, Regime

LAST_OPEN_MS = 1_000 * CANDLE_MS


def window(
    *,
    close: list[float] | None = None,
    spread: float = 0.0,
    volume: list[float] | None = None,
    unconfirmed: int = 0,
) -> Window:
    """A full window; the newest `unconfirmed` candles were rolled from ticks."""
    closes = np.array(close or [100.0] * WINDOW)
    confirmed = np.ones(WINDOW, dtype=np.bool_)
    if unconfirmed:
        confirmed[-unconfirmed:] = False
    return Window(
        last_open_ms=LAST_OPEN_MS,
        high=closes + spread,
        low=closes - spread,
        close=closes,
        volume=np.array(volume or [1.0] * WINDOW),
        confirmed=confirmed,
    )


def wilder_rsi(closes: list[float], period: int = 14) -> float:
    """Wilder's RSI, from its definition: averages seeded with the mean of the first period."""
    changes = [after - before for before, after in pairwise(closes)]
    up = sum(max(change, 0) for change in changes[:period]) / period
    down = sum(max(-change, 0) for change in changes[:period]) / period
    for change in changes[period:]:
        up = (up * (period - 1) + max(change, 0)) / period
        down = (down * (period - 1) + max(-change, 0)) / period
    return 100 * up / (up + down)


def test_without_a_window_nothing_is_known() -> None:
    assert candle_facts(None) == NOTHING_KNOWN
    known = indicators(NOTHING_KNOWN, price=1.0, market_time_ms=0, btc_momentum_1h=None)
    assert known == Indicators()


def test_rsi_is_wilders_over_exactly_the_window() -> None:
    closes = [100 + 5 * math.sin(step / 3) + step / 50 for step in range(WINDOW)]
    assert candle_facts(window(close=closes)).rsi == pytest.approx(wilder_rsi(closes), abs=1e-9)


def test_a_straight_rise_trends_as_strongly_as_can_be() -> None:
    facts = candle_facts(window(close=[100.0 + step for step in range(WINDOW)], spread=0.5))
    assert facts.adx == pytest.approx(100.0)
    assert facts.rsi == pytest.approx(100.0)


def test_a_zigzag_does_not_trend() -> None:
    facts = candle_facts(window(close=[100.0 + step % 2 for step in range(WINDOW)], spread=0.5))
    assert facts.adx is not None
    assert facts.adx < 10


def test_momenta_go_back_four_and_sixteen_completed_candles() -> None:
    facts = candle_facts(window(close=[float(step) for step in range(1, WINDOW + 1)]))
    known = indicators(facts, price=106.7, market_time_ms=0, btc_momentum_1h=0.25)
    # The 4th last close is 97, the 16th last 85.
    assert known.momentum_1h == pytest.approx(106.7 / 97 - 1)
    assert known.momentum_4h == pytest.approx(106.7 / 85 - 1)
    assert known.btc_momentum_1h == 0.25


def test_recent_high_is_that_of_the_last_twenty() -> None:
    closes = [100.0] * WINDOW
    closes[-21], closes[-20] = 900.0, 500.0
    assert candle_facts(window(close=closes, spread=1.0)).recent_high == 501.0


def test_volume_ratio_is_the_last_over_the_mean_of_the_twenty_before() -> None:
    volume = [999.0] * (WINDOW - 21) + [2.0] * 10 + [4.0] * 10 + [9.0]
    facts = candle_facts(window(volume=volume))
    assert facts.volume_ratio == pytest.approx(9.0 / 3.0)


def test_the_previous_ratio_stands_five_minutes_after_the_next_close() -> None:
    volume = [1.0] * (WINDOW - 2) + [5.0, 0.0]
    facts = candle_facts(window(volume=volume, unconfirmed=1))
    closed_ms = LAST_OPEN_MS + CANDLE_MS

    def ratio(market_time_ms: int) -> float | None:
        return indicators(
            facts, price=1.0, market_time_ms=market_time_ms, btc_momentum_1h=None
        ).volume_ratio

    assert RATIO_STANDS_MS == 300_000
    assert ratio(closed_ms) == 5.0
    assert ratio(closed_ms + 299_999) == 5.0
    assert ratio(closed_ms + 300_000) is None


def test_a_confirmed_ratio_holds_until_five_minutes_after_the_next_close() -> None:
    facts = candle_facts(window())
    assert facts.volume_ratio_until_ms == LAST_OPEN_MS + 2 * CANDLE_MS + 300_000


def test_a_ratio_over_an_unconfirmed_candle_is_not_known() -> None:
    assert candle_facts(window(unconfirmed=WINDOW)).volume_ratio is None
    assert candle_facts(window(unconfirmed=WINDOW - 20)).volume_ratio is None
    assert candle_facts(window(unconfirmed=WINDOW - 21)).volume_ratio == 1.0


def test_a_ratio_to_no_volume_is_not_known() -> None:
    assert candle_facts(window(volume=[0.0] * (WINDOW - 1) + [1.0])).volume_ratio is None


@pytest.mark.parametrize(
    ("adx", "regime"),
    [
        (None, None),
        (0.0, Regime.CHOPPY),
        (19.999, Regime.CHOPPY),
        (20.0, Regime.WEAK),
        (29.999, Regime.WEAK),
        (30.0, Regime.MODERATE),
        (34.999, Regime.MODERATE),
        (35.0, Regime.STRONG),
        (100.0, Regime.STRONG),
    ],
)
def test_the_regime_goes_by_adx(adx: float | None, regime: Regime | None) -> None:
    assert regime_of(adx) is regime


@given(st.lists(st.floats(min_value=1e-6, max_value=1e9), min_size=WINDOW, max_size=WINDOW))
def test_no_indicator_is_ever_nan_or_infinite(closes: list[float]) -> None:
    facts = candle_facts(window(close=closes, volume=closes))
    known = indicators(facts, price=closes[0], market_time_ms=0, btc_momentum_1h=None)
    values = [getattr(known, name) for name in Indicators.__slots__]
    assert all(value is None or math.isfinite(value) for value in values)
    assert known.adx is None or 0 <= known.adx <= 100 + 1e-6
    assert known.rsi is None or 0 <= known.rsi <= 100 + 1e-6
