"""What is stored with an order so that a person can see later why it was placed."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from shared.messages import Tick
from trade_worker.bot_table import BotTable
from trade_worker.exits import EARLY_LOSSES, LATE_LOSS
from trade_worker.risk import STAGES
from trade_worker.thresholds import POSITION, REGIMES, profit_target, readable

_OF_ENTRIES: Final = tuple(
    dict.fromkeys(name for stage in STAGES.values() for check in stage for name in check.thresholds)
)
_OF_EXITS: Final = (
    "emergency_stop",
    "erosion_min_peak",
    "erosion_cap",
    *(name for _, name in EARLY_LOSSES),
    LATE_LOSS,
    *(profit_target(regime) for regime in REGIMES),
)
_AT_ENTRIES: Final = np.array([POSITION[name] for name in _OF_ENTRIES])
_AT_EXITS: Final = np.array([POSITION[name] for name in _OF_EXITS])


def market_facts(tick: Tick) -> Mapping[str, Any]:
    """The tick's identity, prices and indicators: the same for all orders on it."""
    return {
        "tick": {
            "stream_epoch": tick.stream_epoch,
            "sequence": tick.sequence,
            "price": tick.price,
            "bid": tick.bid,
            "ask": tick.ask,
            "market_time_ms": tick.market_time_ms,
            "observed_at_ms": tick.observed_at_ms,
        },
        "indicators": {
            **asdict(tick.indicators),
            "regime": tick.regime,
            "confidence": tick.confidence,
        },
    }


def entry_facts(market: Mapping[str, Any], table: BotTable, row: int) -> dict[str, Any]:
    """`market` and the thresholds that the row met."""
    met = map(readable, table.thresholds[_AT_ENTRIES, row].tolist())
    return {**market, "thresholds": dict(zip(_OF_ENTRIES, met, strict=True))}


def exit_facts(market: Mapping[str, Any], table: BotTable, row: int) -> dict[str, Any]:
    """`market`, the position's peak, entry and age limits, and the thresholds that it met."""
    met = map(readable, table.thresholds[_AT_EXITS, row].tolist())
    return {
        **market,
        "position": {
            "average_entry": float(table.average_entry[row]),
            "peak": float(table.peak[row]),
            "opened_market_ms": int(table.opened_ms[row]),
            "regime": REGIMES[int(table.regime[row])],
        },
        "thresholds": dict(zip(_OF_EXITS, met, strict=True)),
    }
