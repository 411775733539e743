"""Completed candles and a live price → indicators.

The candle part is computed once per change of the candles; the price part per tick.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import talib

from price_stream.candles import CANDLE_MS, Window
from shared.messages import Indicators, Regime

PERIOD: Final = 14
CANDLES_PER_HOUR: Final = 4
HIGH_CANDLES: Final = 20
VOLUME_CANDLES: Final = 20
RATIO_STANDS_MS: Final = 5 * 60_000
"""So long after a close the volume ratio before it stands in for the one not yet known."""

_REGIMES: Final = ((20.0, Regime.CHOPPY), (30.0, Regime.WEAK), (35.0, Regime.MODERATE))


@dataclass(frozen=True, slots=True, kw_only=True)
class CandleFacts:
    """What the completed candles alone say; None where it is not known.

    `close_1h` and `close_4h` are the closes of the 4th and the 16th last completed candle.
    `volume_ratio` holds before the market time `volume_ratio_until_ms`.
    """

    adx: float | None = None
    rsi: float | None = None
    recent_high: float | None = None
    close_1h: float | None = None
    close_4h: float | None = None
    volume_ratio: float | None = None
    volume_ratio_until_ms: int = 0


NOTHING_KNOWN: Final = CandleFacts()


def candle_facts(window: Window | None) -> CandleFacts:
    """ADX(14) and RSI(14) by TA-Lib over exactly the window, so that two streams agree.

    Without a full window nothing is known.
    """
    if window is None:
        return NOTHING_KNOWN
    ratio, until_ms = _volume_ratio(window)
    return CandleFacts(
        adx=_finite(talib.ADX(window.high, window.low, window.close, timeperiod=PERIOD)[-1]),
        rsi=_finite(talib.RSI(window.close, timeperiod=PERIOD)[-1]),
        recent_high=_finite(window.high[-HIGH_CANDLES:].max()),
        close_1h=_finite(window.close[-CANDLES_PER_HOUR]),
        close_4h=_finite(window.close[-4 * CANDLES_PER_HOUR]),
        volume_ratio=ratio,
        volume_ratio_until_ms=until_ms,
    )


def indicators(
    facts: CandleFacts, *, price: float, market_time_ms: int, btc_momentum_1h: float | None
) -> Indicators:
    """The indicators of one tick. `btc_momentum_1h` is the venue's reference market's."""
    ratio_holds = market_time_ms < facts.volume_ratio_until_ms
    return Indicators(
        adx=facts.adx,
        rsi=facts.rsi,
        momentum_1h=momentum(price, facts.close_1h),
        momentum_4h=momentum(price, facts.close_4h),
        btc_momentum_1h=btc_momentum_1h,
        volume_ratio=facts.volume_ratio if ratio_holds else None,
        recent_high=facts.recent_high,
    )


def momentum(price: float, close: float | None) -> float | None:
    """How far the price is above a close, as a fraction.

    >>> momentum(150.0, 100.0)
    0.5
    """
    return None if close is None or close <= 0 else _finite(price / close - 1)


def regime_of(adx: float | None) -> Regime | None:
    """Under 20 choppy, 30 weak, 35 moderate, else strong."""
    if adx is None:
        return None
    return next((regime for below, regime in _REGIMES if adx < below), Regime.STRONG)


def _volume_ratio(window: Window) -> tuple[float | None, int]:
    """The newest ratio that only confirmed volumes go into, and until when it holds.

    A candle's ratio is the current one until the next candle closes, and stands
    `RATIO_STANDS_MS` longer while that one's volume is not known.
    """
    confirmed = np.flatnonzero(window.confirmed)
    if not len(confirmed):
        return None, 0
    newest = int(confirmed[-1])
    before = slice(newest - VOLUME_CANDLES, newest)
    if newest < VOLUME_CANDLES or not window.confirmed[before].all():
        return None, 0
    mean = float(window.volume[before].mean())
    newest_open_ms = window.last_open_ms - (len(window.close) - 1 - newest) * CANDLE_MS
    ratio = float(window.volume[newest]) / mean if mean > 0 else None
    return ratio, newest_open_ms + 2 * CANDLE_MS + RATIO_STANDS_MS


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None
