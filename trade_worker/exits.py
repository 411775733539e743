"""When an open position is sold: a tuple of rules, the first that is reached gives the reason.

"Reached" is at or beyond. Profits and peaks are float64; a float32 threshold is widened.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from shared.messages import Tick
from shared.reasons import Reason
from trade_worker.bot_table import BotTable
from trade_worker.columns import Float32s, Float64s, Mask, Slots
from trade_worker.risk.check import CheckResult, Comparison, Reading, results_of
from trade_worker.risk.market_facts import is_price
from trade_worker.row_state import Flag, Phase
from trade_worker.rows import Rows
from trade_worker.thresholds import REGIMES, profit_target, readable

EARLY_LOSSES: Final = (
    (5 * 60_000, "early_loss_5m"),
    (15 * 60_000, "early_loss_15m"),
    (30 * 60_000, "early_loss_30m"),
    (180 * 60_000, "early_loss_3h"),
)
"""To which age (included, market time) which limit holds."""
LATE_LOSS: Final = "early_loss_later"

_NEVER_SOLD: Final = Flag.EXITS_OFF | Flag.UNSETTLED | Flag.ALL_OFF | Flag.KEY_UNUSABLE


@dataclass(frozen=True, slots=True)
class Holdings:
    """Open positions on one tick, a row each; `peak` includes this tick's profit.

    A profit that cannot be known is NaN, which reaches nothing.
    """

    rows: Rows
    profit: Float64s
    peak: Float64s
    market_time_ms: int


@dataclass(frozen=True, slots=True)
class ExitRule:
    """One reason to sell. `readings` show what the first of the holdings was compared with."""

    reason: Reason
    reached: Callable[[Holdings], Mask]
    readings: Callable[[Holdings], tuple[Reading, ...]]


def profit_of(bid: float, taker_fee: Float64s, average_entry: Float64s) -> Float64s:
    """bid × (1 - fee) / (average entry × (1 + fee)) - 1: green means green after both fees.

    Bought at 100, sold at 101, 0.4 % each: 101 × 0.996 / (100 × 1.004) - 1 = 0.195 %.
    """
    profit: Float64s = bid * (1.0 - taker_fee) / (average_entry * (1.0 + taker_fee)) - 1.0
    return profit


def reached(table: BotTable, chunk: slice, tick: Tick) -> list[tuple[Reason, Slots]]:
    """Rows of the chunk to sell on this tick, each under the first reason that applies.

    Updates the peaks of all open positions. Nothing happens without a usable bid.
    """
    is_open = table.phase[chunk] == Phase.OPEN
    if not is_open.any() or not is_price(tick.bid):
        return []
    # A slice of the columns is several times faster than picking rows from them.
    picked = None if is_open.all() else np.flatnonzero(is_open) + chunk.start
    select = chunk if picked is None else picked
    holdings = _hold(Rows(table, select), tick)
    table.peak[select] = holdings.peak
    due = []
    waiting = _sellable(holdings)
    for rule in RULES:
        hit = rule.reached(holdings)
        hit &= waiting
        if hit.any():
            rows = np.flatnonzero(hit) + chunk.start if picked is None else picked[hit]
            due.append((rule.reason, rows))
            waiting &= ~hit
    return due


def explain_exit(table: BotTable, row: int, tick: Tick) -> list[CheckResult]:
    """Every exit rule for one open row, in order; empty without an open position or a bid.

    The peaks of the table are left as they are.
    """
    if table.phase[row] != Phase.OPEN or not is_price(tick.bid):
        return []
    with np.errstate(all="ignore"):
        holdings = _hold(Rows(table, slice(row, row + 1)), tick)
        return list(_explained(holdings))


def _explained(holdings: Holdings) -> Iterator[CheckResult]:
    for rule in RULES:
        passed = not rule.reached(holdings)[0]
        yield from results_of(rule.reason, rule.readings(holdings), passed=passed)


def _hold(rows: Rows, tick: Tick) -> Holdings:
    profit = profit_of(tick.bid, rows.taker_fee, rows.average_entry)
    finite = np.isfinite(profit)
    if not finite.all():
        profit = np.where(finite, profit, np.nan)
    # fmax ignores NaN: a profit that is not known leaves the peak alone.
    return Holdings(rows, profit, np.fmax(rows.peak, profit), tick.market_time_ms)


def _sellable(holdings: Holdings) -> Mask:
    rows = holdings.rows
    may: Mask = rows.not_before_ms <= holdings.market_time_ms
    may &= ~np.isnan(holdings.profit)
    if not rows.none_has(_NEVER_SOLD):
        may &= rows.lacks(_NEVER_SOLD)
    return may


def _operator_exit(holdings: Holdings) -> Mask:
    rows = holdings.rows
    if rows.none_has(Flag.SELL):
        return np.zeros(holdings.profit.shape, np.bool_)
    return ~rows.lacks(Flag.SELL)


def _emergency_stop(holdings: Holdings) -> Mask:
    return holdings.profit <= holdings.rows.threshold("emergency_stop")


def _erosion_cap(holdings: Holdings) -> Mask:
    rows, profit, peak = holdings.rows, holdings.profit, holdings.peak
    eroded: Mask = profit > 0
    if eroded.any():
        eroded &= peak >= rows.threshold("erosion_min_peak")
        eroded &= peak - profit >= rows.threshold("erosion_cap") * peak
    return eroded


def _early_loss(holdings: Holdings) -> Mask:
    return holdings.profit <= _loss_limit(holdings)


def _profit_target(holdings: Holdings) -> Mask:
    regimes = holdings.rows.regime
    met = np.zeros(regimes.shape, np.bool_)
    for number, regime in enumerate(REGIMES):
        in_regime = regimes == number
        if in_regime.any():
            in_regime &= holdings.profit >= holdings.rows.threshold(profit_target(regime))
            met |= in_regime
    return met


def _loss_limit(holdings: Holdings) -> Float32s:
    limit = holdings.rows.threshold(LATE_LOSS).copy()
    opened = holdings.rows.opened_ms
    for age_ms, name in reversed(EARLY_LOSSES):
        young = opened >= holdings.market_time_ms - age_ms
        if not young.any():
            break
        np.copyto(limit, holdings.rows.threshold(name), where=young)
    return limit


def _read_operator_exit(holdings: Holdings) -> tuple[Reading, ...]:
    asked = "yes" if _operator_exit(holdings)[0] else "no"
    return (Reading("sale_asked", asked, Comparison.IS, "yes"),)


def _read_emergency_stop(holdings: Holdings) -> tuple[Reading, ...]:
    limit = readable(float(holdings.rows.threshold("emergency_stop")[0]))
    return (_reading(holdings, Comparison.AT_MOST, limit, "emergency_stop"),)


def _read_erosion_cap(holdings: Holdings) -> tuple[Reading, ...]:
    rows, peak, profit = holdings.rows, float(holdings.peak[0]), float(holdings.profit[0])
    least = readable(float(rows.threshold("erosion_min_peak")[0]))
    cap = readable(float(rows.threshold("erosion_cap")[0]))
    given_back = round((peak - profit) / peak, 8) if peak > 0 else 0.0
    return (
        Reading("peak", round(peak, 8), Comparison.AT_LEAST, least, "erosion_min_peak"),
        Reading("given_back", given_back, Comparison.AT_LEAST, cap, "erosion_cap"),
        _reading(holdings, Comparison.ABOVE, 0.0, None),
    )


def _read_early_loss(holdings: Holdings) -> tuple[Reading, ...]:
    age_ms = holdings.market_time_ms - int(holdings.rows.opened_ms[0])
    name = next((name for limit_ms, name in EARLY_LOSSES if age_ms <= limit_ms), LATE_LOSS)
    limit = readable(float(_loss_limit(holdings)[0]))
    return (_reading(holdings, Comparison.AT_MOST, limit, name),)


def _read_profit_target(holdings: Holdings) -> tuple[Reading, ...]:
    name = profit_target(REGIMES[int(holdings.rows.regime[0])])
    target = readable(float(holdings.rows.threshold(name)[0]))
    return (_reading(holdings, Comparison.AT_LEAST, target, name),)


def _reading(
    holdings: Holdings, comparison: Comparison, threshold: float, name: str | None
) -> Reading:
    return Reading("profit", round(float(holdings.profit[0]), 8), comparison, threshold, name)


RULES: Final = (
    ExitRule(Reason.OPERATOR_EXIT, _operator_exit, _read_operator_exit),
    ExitRule(Reason.EMERGENCY_STOP, _emergency_stop, _read_emergency_stop),
    ExitRule(Reason.EROSION_CAP, _erosion_cap, _read_erosion_cap),
    ExitRule(Reason.EARLY_LOSS, _early_loss, _read_early_loss),
    ExitRule(Reason.PROFIT_TARGET, _profit_target, _read_profit_target),
)
