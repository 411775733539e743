"""Stage 5: does the profit target of the regime pay for the trade often enough?"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from shared.messages import Regime
from shared.reasons import Reason
from trade_worker.columns import Float64s, Mask
from trade_worker.risk.check import Check, Comparison, Known, Reading
from trade_worker.risk.market_facts import MarketFacts
from trade_worker.rows import Rows
from trade_worker.thresholds import profit_target, readable

EXPECTED_SLIPPAGE: Final = 0.0001

_TARGETS: Final = tuple(profit_target(regime) for regime in Regime)


@dataclass(frozen=True, slots=True)
class TargetAboveMinimum:
    """Denies where the regime's profit target is below the row's minimum."""

    reason: Reason
    thresholds: tuple[str, ...] = ("min_profit_target", *_TARGETS)

    def passes(self, rows: Rows, market: MarketFacts, /) -> Mask | bool:
        if market.regime is None:
            return False
        target = rows.threshold(profit_target(market.regime))
        return target >= rows.threshold("min_profit_target")

    def readings(self, rows: Rows, market: MarketFacts, /) -> tuple[Reading, ...]:
        name, value = _target(rows, market)
        limit = readable(float(rows.threshold("min_profit_target")[0]))
        return (Reading(name, value, Comparison.BELOW, limit, "min_profit_target"),)


@dataclass(frozen=True, slots=True)
class TargetAboveCosts:
    """Denies where the target is below multiplier × (2 × taker fee + spread + slippage).

    In float64, from float32 thresholds and the spread rounded to float32. With the defaults on
    Binance and a spread of 0.05 %: 3 × (2 × 0.001 + 0.0005 + 0.0001) = 0.78 %.
    """

    reason: Reason
    thresholds: tuple[str, ...] = ("cost_multiplier", *_TARGETS)

    def passes(self, rows: Rows, market: MarketFacts, /) -> Mask | bool:
        if market.regime is None or market.spread is None:
            return False
        return rows.threshold(profit_target(market.regime)) >= _floor(rows, market.spread)

    def readings(self, rows: Rows, market: MarketFacts, /) -> tuple[Reading, ...]:
        name, value = _target(rows, market)
        if market.spread is None:
            return (Reading(name, value, Comparison.BELOW, "not known", "cost_multiplier"),)
        limit = round(float(_floor(rows, market.spread)[0]), 8)
        return (Reading(name, value, Comparison.BELOW, limit, "cost_multiplier"),)


def _floor(rows: Rows, spread: np.float32) -> Float64s:
    costs = 2.0 * rows.taker_fee
    costs += float(spread)
    costs += EXPECTED_SLIPPAGE
    costs *= rows.threshold("cost_multiplier")
    return costs


def _target(rows: Rows, market: MarketFacts, /) -> tuple[str, float | None]:
    if market.regime is None:
        return "profit_target", None
    name = profit_target(market.regime)
    return name, readable(float(rows.threshold(name)[0]))


CHECKS: Final[tuple[Check, ...]] = (
    Known(Reason.REGIME_MISSING, "regime"),
    TargetAboveMinimum(Reason.TARGET_BELOW_MINIMUM),
    TargetAboveCosts(Reason.TARGET_BELOW_COSTS),
)
