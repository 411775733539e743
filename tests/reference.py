"""The decision core once more, for one bot at a time in plain Python, straight from DESIGN.md.

Slow and obvious: what the columns decide is compared with this. float32 only where the rules
say so.
"""

import math
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal, localcontext
from enum import Enum

import numpy as np

from shared.messages import Regime, Tick
from shared.money import MarketRules
from shared.reasons import Reason


class Life(Enum):
    """Where a bot stands on its pair."""

    FLAT = "flat"
    ENTERING = "entering"
    OPEN = "open"
    EXITING = "exiting"


@dataclass
class Bot:
    """One bot on one pair; thresholds by name, as they were written.

    `live` is its own mode, `holds_live` that of its position; `key` is "ready", "not live",
    "in trouble" or "missing".
    """

    thresholds: dict[str, float]
    taker_fee: float = 0.001
    valid: bool = True
    status: str = "active"
    life: Life = Life.FLAT
    unsettled: bool = False
    not_before_ms: int = 0
    breaker_open: bool = False
    entries_off: bool = False
    all_off: bool = False
    average_entry: float = math.nan
    peak: float = 0.0
    opened_ms: int = 0
    regime: Regime = Regime.WEAK
    live: bool = False
    holds_live: bool = False
    key: str = "ready"


def single(number: float) -> float:
    """The nearest float32, as a float."""
    with np.errstate(over="ignore"):
        return float(np.float32(number))


def known(number: float | None) -> float | None:
    """A tick value rounded to float32, None where it is missing or not finite."""
    if number is None or not math.isfinite(single(number)):
        return None
    return single(number)


def is_price(number: float | None) -> bool:
    return number is not None and math.isfinite(number) and number > 0


def first_denial(bot: Bot, tick: Tick, now_ms: int) -> Reason | None:
    """The verdict of the five stages, None where all pass. A NaN threshold counts against."""
    return (
        health_gate(bot, tick, now_ms)
        or drop_protection(bot, tick)
        or entry_quality(bot, tick)
        or confidence(bot, tick)
        or cost_floor(bot, tick)
    )


def health_gate(bot: Bot, tick: Tick, now_ms: int) -> Reason | None:
    limit = {name: single(value) for name, value in bot.thresholds.items()}
    if not bot.valid:
        return Reason.ROW_INVALID
    if bot.status != "active":
        return Reason.BOT_NOT_ACTIVE
    if bot.life is not Life.FLAT:
        return Reason.POSITION_UNCLOSED
    if bot.unsettled:
        return Reason.ORDER_UNSETTLED
    if tick.market_time_ms < bot.not_before_ms:
        return Reason.COOLING_DOWN
    if bot.breaker_open:
        return Reason.BREAKER_OPEN
    if bot.entries_off or bot.all_off:
        return Reason.KILL_SWITCH_ON
    if bot.live and bot.key != "ready":
        return Reason.CREDENTIAL_NOT_READY
    age_ms = now_ms - tick.observed_at_ms
    if age_ms < -1000:
        return Reason.CLOCK_SKEW
    if not single(age_ms / 1000) <= limit["max_tick_age_secs"]:
        return Reason.TICK_STALE
    adx = known(tick.indicators.adx)
    if adx is None:
        return Reason.ADX_MISSING
    if not adx >= limit["min_adx"]:
        return Reason.ADX_BELOW_MINIMUM
    momentum_4h = known(tick.indicators.momentum_4h)
    if momentum_4h is None:
        return Reason.MOMENTUM_4H_MISSING
    if not momentum_4h >= limit["min_momentum_4h"]:
        return Reason.CRASH_GUARD
    return None


def drop_protection(bot: Bot, tick: Tick) -> Reason | None:
    limit = {name: single(value) for name, value in bot.thresholds.items()}
    if tick.pair.split("/")[0] != "BTC":
        btc = known(tick.indicators.btc_momentum_1h)
        if btc is None:
            return Reason.BTC_MOMENTUM_MISSING
        if not btc >= limit["min_btc_momentum_1h"]:
            return Reason.BTC_DUMPING
    volume = known(tick.indicators.volume_ratio)
    if volume is None:
        return Reason.VOLUME_RATIO_MISSING
    momentum = known(tick.indicators.momentum_1h)
    if momentum is None:
        return Reason.MOMENTUM_1H_MISSING
    spiking = not volume <= limit["max_volume_ratio"]
    falling = not momentum >= limit["panic_momentum_1h"]
    if spiking and falling:
        return Reason.PANIC_SELLING
    if not volume >= limit["min_volume_ratio"]:
        return Reason.VOLUME_BELOW_FLOOR
    spread = spread_of(tick)
    if spread is None:
        return Reason.SPREAD_MISSING
    if not spread <= limit["max_spread"]:
        return Reason.SPREAD_ABOVE_MAXIMUM
    return None


def spread_of(tick: Tick) -> float | None:
    if not (is_price(tick.bid) and is_price(tick.ask)):
        return None
    return known((tick.ask - tick.bid) / tick.bid)


def entry_quality(bot: Bot, tick: Tick) -> Reason | None:
    limit = {name: single(value) for name, value in bot.thresholds.items()}
    high = tick.indicators.recent_high
    ratio = None
    if high is not None and is_price(high) and is_price(tick.price):
        ratio = known(tick.price / high)
    if ratio is None:
        return Reason.RECENT_HIGH_MISSING
    if not ratio <= limit["max_price_to_high"]:
        return Reason.BUYING_THE_TOP
    rsi = known(tick.indicators.rsi)
    if rsi is None:
        return Reason.RSI_MISSING
    if not rsi <= limit["max_rsi"]:
        return Reason.RSI_OVERBOUGHT
    momentum, volume = known(tick.indicators.momentum_1h), known(tick.indicators.volume_ratio)
    if momentum is None or volume is None:
        return Reason.NO_MOMENTUM
    rising = momentum > limit["min_momentum_1h"]
    breakout = volume > limit["breakout_volume_ratio"] and momentum > 0
    return None if rising or breakout else Reason.NO_MOMENTUM


def confidence(bot: Bot, tick: Tick) -> Reason | None:
    score = known(tick.confidence)
    if score is None:
        return Reason.CONFIDENCE_MISSING
    if not score >= single(bot.thresholds["min_confidence"]):
        return Reason.CONFIDENCE_BELOW_MINIMUM
    return None


def cost_floor(bot: Bot, tick: Tick) -> Reason | None:
    if tick.regime is None:
        return Reason.REGIME_MISSING
    target = single(bot.thresholds[f"profit_target_{tick.regime}"])
    if not target >= single(bot.thresholds["min_profit_target"]):
        return Reason.TARGET_BELOW_MINIMUM
    spread = spread_of(tick)
    assert spread is not None
    costs = 2 * bot.taker_fee + spread + 0.0001
    if not target >= single(bot.thresholds["cost_multiplier"]) * costs:
        return Reason.TARGET_BELOW_COSTS
    return None


def exit_reason(bot: Bot, tick: Tick) -> tuple[Reason | None, float]:
    """Why to sell on this tick (None: hold), and the peak after it."""
    if bot.life is not Life.OPEN or not is_price(tick.bid):
        return None, bot.peak
    profit = tick.bid * (1 - bot.taker_fee) / (bot.average_entry * (1 + bot.taker_fee)) - 1
    if not math.isfinite(profit):
        return None, bot.peak
    peak = max(bot.peak, profit)
    blocked = bot.status == "inactive" or bot.unsettled or bot.all_off
    blocked |= bot.holds_live and bot.key in ("missing", "in trouble")
    if blocked or tick.market_time_ms < bot.not_before_ms:
        return None, peak
    return _reached(bot, profit, peak, tick.market_time_ms - bot.opened_ms), peak


def _reached(bot: Bot, profit: float, peak: float, age_ms: int) -> Reason | None:
    limit = {name: single(value) for name, value in bot.thresholds.items()}
    if bot.status == "stopping":
        return Reason.OPERATOR_EXIT
    if profit <= limit["emergency_stop"]:
        return Reason.EMERGENCY_STOP
    given_back = peak - profit >= limit["erosion_cap"] * peak
    if peak >= limit["erosion_min_peak"] and given_back and profit > 0:
        return Reason.EROSION_CAP
    if age_ms <= 5 * 60_000:
        early = "early_loss_5m"
    elif age_ms <= 15 * 60_000:
        early = "early_loss_15m"
    elif age_ms <= 30 * 60_000:
        early = "early_loss_30m"
    elif age_ms <= 3 * 3_600_000:
        early = "early_loss_3h"
    else:
        early = "early_loss_later"
    if profit <= limit[early]:
        return Reason.EARLY_LOSS
    if profit >= limit[f"profit_target_{bot.regime}"]:
        return Reason.PROFIT_TARGET
    return None


def as_written(number: float) -> Decimal:
    """A threshold as its owner wrote it, up to float32's precision."""
    return Decimal(str(float(str(np.float32(single(number))))))


def quantity_of(
    bot: Bot, free: float, tick: Tick, rules: MarketRules | None
) -> tuple[Reason | None, Decimal]:
    """What to buy, or why not: sizing without a user's limit."""
    if rules is None or rules.lot_step <= 0 or rules.price_tick <= 0 or tick.regime is None:
        return Reason.MARKET_UNKNOWN, Decimal(0)
    if not 0 < free < math.inf:
        return Reason.SIZE_TOO_SMALL, Decimal(0)
    with localcontext() as context:
        context.prec, context.rounding = 100, ROUND_FLOOR
        ask = Decimal(repr(tick.ask))
        price = (ask / rules.price_tick).to_integral_value("ROUND_HALF_EVEN") * rules.price_tick
        price = price or ask
        stake = Decimal(repr(free)) * as_written(bot.thresholds["stake_fraction"])
        stake *= as_written(bot.thresholds[f"size_{tick.regime}"])
        slippage = max(as_written(bot.thresholds["max_slippage"]), Decimal("0.0001"))
        worst = price * (1 + slippage) * (1 + Decimal(repr(bot.taker_fee)))
        most = min(stake / price, Decimal(repr(free)) / worst)
        quantity = (most / rules.lot_step).to_integral_value() * rules.lot_step
        if quantity <= 0 or quantity < rules.min_quantity:
            return Reason.SIZE_TOO_SMALL, Decimal(0)
        if quantity * price < rules.min_notional:
            return Reason.SIZE_TOO_SMALL, Decimal(0)
        to_sell = in_lots(quantity * (1 - Decimal(repr(bot.taker_fee))), rules)
        too_little = to_sell < max(rules.min_quantity, rules.lot_step)
        if bot.live and (too_little or to_sell * price * Decimal("0.9") < rules.min_notional):
            return Reason.SIZE_TOO_SMALL, Decimal(0)
    return None, quantity


def in_lots(held: Decimal, rules: MarketRules | None) -> Decimal:
    """What a venue takes of what is held."""
    if rules is None or rules.lot_step <= 0:
        return held
    return held // rules.lot_step * rules.lot_step
