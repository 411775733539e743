"""The risk filter: five stages of one shape, each a file with its `CHECKS`, in this order."""

from collections.abc import Mapping
from typing import Final

from shared.reasons import Stage
from trade_worker.risk import confidence, cost_floor, drop_protection, entry_quality, health_gate
from trade_worker.risk.check import Check

STAGES: Final[Mapping[Stage, tuple[Check, ...]]] = {
    Stage.HEALTH_GATE: health_gate.CHECKS,
    Stage.DROP_PROTECTION: drop_protection.CHECKS,
    Stage.ENTRY_QUALITY: entry_quality.CHECKS,
    Stage.CONFIDENCE: confidence.CHECKS,
    Stage.COST_FLOOR: cost_floor.CHECKS,
}

CHECKS: Final[tuple[Check, ...]] = tuple(check for stage in STAGES.values() for check in stage)
"""All five stages: the first of these that denies a row is the row's verdict."""
