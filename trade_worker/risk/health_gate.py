"""Stage 1: may this row trade at all, on this tick, in a market that is not falling apart?"""

from dataclasses import dataclass
from typing import Final

from shared.reasons import Reason
from trade_worker.columns import Mask
from trade_worker.risk.check import Check, Comparison, Known, Limit, NoFlag, Reading
from trade_worker.risk.market_facts import MarketFacts
from trade_worker.row_state import Flag, Phase
from trade_worker.rows import Rows

MAX_CLOCK_SKEW_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Flat:
    """Denies rows that have a position, or an order that may become one."""

    reason: Reason
    thresholds: tuple[str, ...] = ()

    def passes(self, rows: Rows, _market: MarketFacts, /) -> Mask | bool:
        flat: Mask = rows.phase == Phase.FLAT
        return flat

    def readings(self, rows: Rows, _market: MarketFacts, /) -> tuple[Reading, ...]:
        phase = Phase(int(rows.phase[0])).name.lower()
        return (Reading("phase", phase, Comparison.IS, "not flat"),)


@dataclass(frozen=True, slots=True)
class CooledDown:
    """Denies rows whose cool-down lasts beyond the tick's market time."""

    reason: Reason
    thresholds: tuple[str, ...] = ()

    def passes(self, rows: Rows, market: MarketFacts, /) -> Mask | bool:
        return rows.not_before_ms <= market.market_time_ms

    def readings(self, rows: Rows, market: MarketFacts, /) -> tuple[Reading, ...]:
        left_ms = max(0, int(rows.not_before_ms[0]) - market.market_time_ms)
        return (Reading("cooldown_left_secs", left_ms / 1000, Comparison.ABOVE, 0.0),)


@dataclass(frozen=True, slots=True)
class ClocksAgree:
    """Denies every row on a tick that was observed after now."""

    reason: Reason
    thresholds: tuple[str, ...] = ()

    def passes(self, _rows: Rows, market: MarketFacts, /) -> Mask | bool:
        return market.age_ms >= -MAX_CLOCK_SKEW_MS

    def readings(self, _rows: Rows, market: MarketFacts, /) -> tuple[Reading, ...]:
        skew_secs = -MAX_CLOCK_SKEW_MS / 1000
        return (Reading("tick_age_secs", market.age_ms / 1000, Comparison.BELOW, skew_secs),)


CHECKS: Final[tuple[Check, ...]] = (
    NoFlag(Reason.ROW_INVALID, Flag.INVALID),
    NoFlag(Reason.BOT_NOT_ACTIVE, Flag.NOT_ACTIVE),
    Flat(Reason.POSITION_UNCLOSED),
    NoFlag(Reason.ORDER_UNSETTLED, Flag.UNSETTLED),
    CooledDown(Reason.COOLING_DOWN),
    NoFlag(Reason.BREAKER_OPEN, Flag.BREAKER),
    NoFlag(Reason.KILL_SWITCH_ON, Flag.ENTRIES_OFF | Flag.ALL_OFF),
    NoFlag(Reason.CREDENTIAL_NOT_READY, Flag.KEY_NOT_READY),
    ClocksAgree(Reason.CLOCK_SKEW),
    Limit(Reason.TICK_STALE, "age_secs", Comparison.ABOVE, "max_tick_age_secs"),
    Known(Reason.ADX_MISSING, "adx"),
    Limit(Reason.ADX_BELOW_MINIMUM, "adx", Comparison.BELOW, "min_adx"),
    Known(Reason.MOMENTUM_4H_MISSING, "momentum_4h"),
    Limit(Reason.CRASH_GUARD, "momentum_4h", Comparison.BELOW, "min_momentum_4h"),
)
