"""The thresholds that a bot table keeps per row, as one float32 vector."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import numpy as np

from shared.errors import Refused
from shared.messages import Regime
from shared.risk_profile import DEFAULTS, THRESHOLDS, check
from trade_worker.columns import Float32s

_KEPT_BY_THE_STORE = frozenset({"max_daily_loss", "max_loss_streak"})
"""Breakers are judged where positions close; rows only know whether one is open."""

NAMES: Final = tuple(t.name for t in THRESHOLDS if t.name not in _KEPT_BY_THE_STORE)
POSITION: Final[Mapping[str, int]] = {name: position for position, name in enumerate(NAMES)}
"""Where in the vector a threshold stands."""

REGIMES: Final = tuple(Regime)
"""A regime is kept in a column as its number in here."""

_DEFAULT_VECTOR: Final = np.array([DEFAULTS[name] for name in NAMES], np.float32)


def profit_target(regime: Regime) -> str:
    """The threshold that says when to take profit in a regime."""
    return f"profit_target_{regime}"


def stake_multiplier(regime: Regime) -> str:
    """The threshold that scales the stake in a regime."""
    return f"size_{regime}"


def vector_of(profile: Mapping[str, object]) -> tuple[Float32s, list[str]]:
    """A bot's thresholds in the order of `NAMES`, and what is wrong with its profile.

    `profile` holds what differs from the defaults. A field that makes no sense counts as its
    default, so that what is open stays guarded; the complaint says which.
    """
    vector = _DEFAULT_VECTOR.copy()
    complaints = []
    for name, value in profile.items():
        try:
            number = check(name, value)
        except Refused as refused:
            complaints.append(str(refused))
            continue
        if name in POSITION:
            vector[POSITION[name]] = number
    return vector, complaints


@lru_cache(maxsize=65_536)
def readable(threshold: float) -> float:
    """The number that a person wrote, of a float32 read back as a float.

    >>> float(np.float32(0.8)), readable(float(np.float32(0.8)))
    (0.800000011920929, 0.8)
    """
    return float(str(np.float32(threshold)))
