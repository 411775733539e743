"""Every threshold of a bot: one table with unit, range and default.

`bots import` and `bots add` take these names; a bot stores only what differs from the
default. Fractions are fractions: 0.015 is 1.5 %.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.errors import Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """One field of the risk profile. `low` and `high` are both allowed."""

    name: str
    default: float
    low: float
    high: float
    unit: str
    text: str
    whole: bool = False


def _t(name: str, default: float, low: float, high: float, unit: str, text: str) -> Threshold:
    return Threshold(name=name, default=default, low=low, high=high, unit=unit, text=text)


THRESHOLDS: Final[tuple[Threshold, ...]] = (
    # 1 health gate
    _t("max_tick_age_secs", 15, 0.1, 300, "s", "an older tick denies entries"),
    _t("min_adx", 20, 0, 100, "points", "ADX(14) below this is choppy"),
    _t("min_momentum_4h", -0.03, -1, 1, "fraction", "crash guard: 4 h momentum below this"),
    # 2 drop protection
    _t("min_btc_momentum_1h", -0.015, -1, 1, "fraction", "dump of the BTC reference below this"),
    _t("max_volume_ratio", 3.0, 0, 1000, "ratio", "panic: volume above this while falling"),
    _t("panic_momentum_1h", -0.005, -1, 1, "fraction", "panic: 1 h momentum below this"),
    _t("min_volume_ratio", 0.5, 0, 1000, "ratio", "below this there is no real market"),
    _t("max_spread", 0.005, 0, 1, "fraction of bid", "a wider spread denies"),
    # 3 entry quality
    _t("max_price_to_high", 0.995, 0, 10, "ratio", "price over recent high above this is the top"),
    _t("max_rsi", 85, 0, 100, "points", "RSI(14) above this is extremely overbought"),
    _t("min_momentum_1h", 0.005, -1, 1, "fraction", "1 h momentum above this is an entry"),
    _t("breakout_volume_ratio", 1.3, 0, 1000, "ratio", "so is volume above this while rising"),
    # 4 confidence
    _t("min_confidence", 70, 0, 100, "points", "confidence below this denies"),
    # 5 cost floor
    _t("min_profit_target", 0.005, 0, 1, "fraction", "a smaller profit target denies"),
    _t("cost_multiplier", 3.0, 0, 100, "times", "the target must be this many times the costs"),
    _t("profit_target_choppy", 0.02, 0, 10, "fraction", "take profit, ADX under 20"),
    _t("profit_target_weak", 0.045, 0, 10, "fraction", "take profit, ADX under 30"),
    _t("profit_target_moderate", 0.065, 0, 10, "fraction", "take profit, ADX under 35"),
    _t("profit_target_strong", 0.12, 0, 10, "fraction", "take profit, ADX from 35"),
    # exits
    _t("emergency_stop", -0.06, -1, 0, "fraction", "sell at market at this loss"),
    _t("erosion_min_peak", 0.005, 0, 10, "fraction", "the erosion cap guards peaks from this"),
    _t("erosion_cap", 0.30, 0, 1, "fraction of peak", "sell when this much is given back"),
    _t("early_loss_5m", -0.015, -1, 0, "fraction", "sell at this loss, age to 5 min"),
    _t("early_loss_15m", -0.02, -1, 0, "fraction", "the same, age to 15 min"),
    _t("early_loss_30m", -0.025, -1, 0, "fraction", "the same, age to 30 min"),
    _t("early_loss_3h", -0.035, -1, 0, "fraction", "the same, age to 3 h"),
    _t("early_loss_later", -0.045, -1, 0, "fraction", "the same, older"),
    # sizing
    _t("stake_fraction", 0.8, 0, 1, "fraction", "of free capital that an entry takes"),
    _t("size_choppy", 0.5, 0, 10, "times", "stake multiplier, ADX under 20"),
    _t("size_weak", 0.75, 0, 10, "times", "stake multiplier, ADX under 30"),
    _t("size_moderate", 1.0, 0, 10, "times", "stake multiplier, ADX under 35"),
    _t("size_strong", 1.25, 0, 10, "times", "stake multiplier, ADX from 35"),
    # afterwards
    _t("max_slippage", 0.003, 0, 0.1, "fraction", "how far a live limit is from the decided price"),
    _t("cooldown_secs", 300, 0, 604_800, "s", "no entry after an exit, market time"),
    _t("retry_cooldown_secs", 60, 1, 3_600, "s", "after a refused entry; doubles up to 1 h"),
    _t("max_daily_loss", 0.05, 0, 1, "fraction of capital", "opens the breaker until tomorrow"),
    Threshold(
        name="max_loss_streak",
        default=3,
        low=1,
        high=1000,
        unit="losses",
        text="in a row open the breaker",
        whole=True,
    ),
)

BY_NAME: Final[Mapping[str, Threshold]] = {threshold.name: threshold for threshold in THRESHOLDS}
DEFAULTS: Final[Mapping[str, float]] = {t.name: t.default for t in THRESHOLDS}


def check(name: str, value: object) -> float:
    """The value of one threshold, as a float.

    Raises `Refused` with the field, the value and the allowed range.
    """
    threshold = BY_NAME.get(name)
    if threshold is None:
        raise Refused(f"{name} is not a field of the risk profile; they are {', '.join(BY_NAME)}")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not threshold.low <= number <= threshold.high or (
        threshold.whole and not number.is_integer()
    ):
        kind = "a whole number" if threshold.whole else "a number"
        raise Refused(
            f"{name} must be {kind} from {threshold.low:g} to {threshold.high:g} "
            f"({threshold.unit}), was {value!r}"
        )
    return number


def complete(overrides: Mapping[str, object]) -> dict[str, float]:
    """Every threshold: the overrides where given, else the default. Raises as `check`."""
    return {**DEFAULTS, **{name: check(name, value) for name, value in overrides.items()}}
