"""What a tick says, as the stages compare it: rounded to float32, None where it is not known."""

from dataclasses import dataclass

import numpy as np

from shared.messages import Regime, Tick
from shared.venues import base_of


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketFacts:
    """One tick at one moment. Fractions are fractions; `spread` is (ask - bid) / bid.

    `age_ms` is the worker's clock minus `observed_at_ms`, negative for a tick from the future.
    `price_to_high` is price / recent high.
    """

    age_ms: int
    market_time_ms: int
    base_is_btc: bool
    regime: Regime | None
    age_secs: np.float32 | None
    adx: np.float32 | None
    rsi: np.float32 | None
    momentum_1h: np.float32 | None
    momentum_4h: np.float32 | None
    btc_momentum_1h: np.float32 | None
    volume_ratio: np.float32 | None
    spread: np.float32 | None
    price_to_high: np.float32 | None
    confidence: np.float32 | None


def facts_of(tick: Tick, now_ms: int) -> MarketFacts:
    """The tick's facts at `now_ms` of the worker's clock. Never raises."""
    indicators = tick.indicators
    age_ms = now_ms - tick.observed_at_ms
    with np.errstate(over="ignore"):
        return MarketFacts(
            age_ms=age_ms,
            market_time_ms=tick.market_time_ms,
            base_is_btc=base_of(tick.pair) == "BTC",
            regime=tick.regime,
            age_secs=_rounded(age_ms / 1000),
            adx=_rounded(indicators.adx),
            rsi=_rounded(indicators.rsi),
            momentum_1h=_rounded(indicators.momentum_1h),
            momentum_4h=_rounded(indicators.momentum_4h),
            btc_momentum_1h=_rounded(indicators.btc_momentum_1h),
            volume_ratio=_rounded(indicators.volume_ratio),
            spread=_rounded(_spread(tick.bid, tick.ask)),
            price_to_high=_rounded(_ratio(tick.price, indicators.recent_high)),
            confidence=_rounded(tick.confidence),
        )


def is_price(number: float | None) -> bool:
    """Whether a number can be a price: known, finite and above 0."""
    return number is not None and 0 < number < float("inf")


def _spread(bid: float, ask: float) -> float | None:
    return (ask - bid) / bid if is_price(bid) and is_price(ask) else None


def _ratio(price: float, high: float | None) -> float | None:
    # The second test is for the type checker: is_price covers it.
    if high is None or not is_price(high) or not is_price(price):
        return None
    return price / high


def _rounded(number: float | None) -> np.float32 | None:
    if number is None:
        return None
    rounded = np.float32(number)
    return rounded if np.isfinite(rounded) else None
