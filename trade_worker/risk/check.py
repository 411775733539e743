"""What a stage is made of: checks, which deny rows, and the few forms that they take.

Comparisons are strict as worded and written so that NaN denies. A check's `passes` serves the
hot path and `bots explain` alike; its `readings` show what was compared.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import numpy as np

from shared.reasons import Reason, Stage
from trade_worker.columns import Float32s, Float64s, Mask
from trade_worker.risk.market_facts import MarketFacts
from trade_worker.row_state import Flag
from trade_worker.rows import Rows
from trade_worker.thresholds import readable


class Comparison(StrEnum):
    """How a value must stand to its threshold for a denial, or for an exit."""

    BELOW = "below"
    ABOVE = "above"
    NOT_ABOVE = "not above"
    AT_MOST = "at or below"
    AT_LEAST = "at or above"
    IS = "is"


Limits = Float32s | Float64s | np.float32

_PASSES: Final[Mapping[Comparison, Callable[[np.float32, Limits], Mask]]] = {
    Comparison.BELOW: np.greater_equal,
    Comparison.ABOVE: np.less_equal,
    Comparison.NOT_ABOVE: np.greater,
}


@dataclass(frozen=True, slots=True)
class Reading:
    """One comparison of one row, for people: `value` `comparison` `threshold` denies.

    `threshold_name` is a field of the risk profile where it is one.
    """

    name: str
    value: float | str | None
    comparison: Comparison
    threshold: float | str
    threshold_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One comparison that a row met: `value` `comparison` `threshold` would deny, or sell.

    A check that combines several comparisons gives one result for each, all with the `passed`
    of the whole check. The first result that did not pass is the row's verdict; of the exits,
    the first that did not pass is the reason to sell.
    """

    stage: Stage
    reason: Reason
    description: str
    name: str
    value: float | str | None
    comparison: Comparison
    threshold: float | str
    threshold_name: str | None
    passed: bool


def results_of(reason: Reason, readings: tuple[Reading, ...], *, passed: bool) -> list[CheckResult]:
    """One result per reading of a check."""
    return [
        CheckResult(
            stage=reason.stage,
            reason=reason,
            description=reason.text,
            name=reading.name,
            value=reading.value,
            comparison=reading.comparison,
            threshold=reading.threshold,
            threshold_name=reading.threshold_name,
            passed=passed,
        )
        for reading in readings
    ]


class Check(Protocol):
    """One reason for which a stage denies rows."""

    @property
    def reason(self) -> Reason:
        """What a denial by this check is called."""

    @property
    def thresholds(self) -> tuple[str, ...]:
        """The fields of the risk profile that it compares with."""

    def passes(self, rows: Rows, market: MarketFacts, /) -> Mask | bool:
        """Which rows pass; one bool where all rows share the answer."""

    def readings(self, rows: Rows, market: MarketFacts, /) -> tuple[Reading, ...]:
        """What the first of `rows` was compared with."""


@dataclass(frozen=True, slots=True)
class Known:
    """Denies every row while one of the market's facts is not known."""

    reason: Reason
    fact: str
    thresholds: tuple[str, ...] = ()

    def passes(self, _rows: Rows, market: MarketFacts, /) -> Mask | bool:
        return getattr(market, self.fact) is not None

    def readings(self, _rows: Rows, market: MarketFacts, /) -> tuple[Reading, ...]:
        return (Reading(self.fact, shown(market, self.fact), Comparison.IS, "not known"),)


@dataclass(frozen=True, slots=True)
class Limit:
    """Denies where a fact of the market stands so to the row's threshold (or a constant)."""

    reason: Reason
    fact: str
    comparison: Comparison
    threshold: str | float

    @property
    def thresholds(self) -> tuple[str, ...]:
        return (self.threshold,) if isinstance(self.threshold, str) else ()

    def passes(self, rows: Rows, market: MarketFacts, /) -> Mask | bool:
        value = getattr(market, self.fact)
        if value is None:
            return False
        if isinstance(self.threshold, str):
            return _PASSES[self.comparison](value, rows.threshold(self.threshold))
        return bool(_PASSES[self.comparison](value, np.float32(self.threshold)))

    def readings(self, rows: Rows, market: MarketFacts, /) -> tuple[Reading, ...]:
        value = shown(market, self.fact)
        if isinstance(self.threshold, str):
            limit = readable(float(rows.threshold(self.threshold)[0]))
            return (Reading(self.fact, value, self.comparison, limit, self.threshold),)
        return (Reading(self.fact, value, self.comparison, self.threshold),)


@dataclass(frozen=True, slots=True)
class Both:
    """Denies where both parts deny."""

    reason: Reason
    first: Check
    second: Check

    @property
    def thresholds(self) -> tuple[str, ...]:
        return self.first.thresholds + self.second.thresholds

    def passes(self, rows: Rows, market: MarketFacts, /) -> Mask | bool:
        return self.first.passes(rows, market) | self.second.passes(rows, market)

    def readings(self, rows: Rows, market: MarketFacts, /) -> tuple[Reading, ...]:
        return self.first.readings(rows, market) + self.second.readings(rows, market)


@dataclass(frozen=True, slots=True)
class Either:
    """Denies where at least one part denies."""

    reason: Reason
    first: Check
    second: Check

    @property
    def thresholds(self) -> tuple[str, ...]:
        return self.first.thresholds + self.second.thresholds

    def passes(self, rows: Rows, market: MarketFacts, /) -> Mask | bool:
        return self.first.passes(rows, market) & self.second.passes(rows, market)

    def readings(self, rows: Rows, market: MarketFacts, /) -> tuple[Reading, ...]:
        return self.first.readings(rows, market) + self.second.readings(rows, market)


@dataclass(frozen=True, slots=True)
class ExceptBtc:
    """A check that markets whose base is BTC pass."""

    check: Check

    @property
    def reason(self) -> Reason:
        return self.check.reason

    @property
    def thresholds(self) -> tuple[str, ...]:
        return self.check.thresholds

    def passes(self, rows: Rows, market: MarketFacts, /) -> Mask | bool:
        return market.base_is_btc or self.check.passes(rows, market)

    def readings(self, rows: Rows, market: MarketFacts, /) -> tuple[Reading, ...]:
        return self.check.readings(rows, market)


@dataclass(frozen=True, slots=True)
class NoFlag:
    """Denies rows that have any of some flags."""

    reason: Reason
    flags: Flag
    thresholds: tuple[str, ...] = ()

    def passes(self, rows: Rows, _market: MarketFacts, /) -> Mask | bool:
        return True if rows.none_has(self.flags) else rows.lacks(self.flags)

    def readings(self, rows: Rows, _market: MarketFacts, /) -> tuple[Reading, ...]:
        name = " or ".join(flag.name.lower() for flag in self.flags if flag.name)
        value = "no" if rows.lacks(self.flags)[0] else "yes"
        return (Reading(name, value, Comparison.IS, "yes"),)


def shown(market: MarketFacts, fact: str) -> float | str | None:
    """A fact of the market for people."""
    value = getattr(market, fact)
    return readable(float(value)) if isinstance(value, np.float32) else value
