"""The states of a bot table's row: the phase of its life, and flags for what else holds."""

from collections.abc import Mapping
from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import Final

from shared.orders import BotStatus, PositionStatus


class Phase(IntEnum):
    """Where a row stands in its life."""

    FREE = 0
    """Nobody's row: it may be reused."""
    FLAT = 1
    ENTERING = 2
    OPEN = 3
    EXITING = 4


class Flag(IntFlag):
    """What else holds for a row."""

    INVALID = 1
    NOT_ACTIVE = 2
    SELL = 4
    """A person asked to sell what is open."""
    EXITS_OFF = 8
    UNSETTLED = 16
    BREAKER = 32
    ENTRIES_OFF = 64
    ALL_OFF = 128


_OF_STATUS: Final[Mapping[BotStatus, Flag]] = {
    BotStatus.ACTIVE: Flag(0),
    BotStatus.PAUSED: Flag.NOT_ACTIVE,
    BotStatus.STOPPING: Flag.NOT_ACTIVE | Flag.SELL,
    BotStatus.INACTIVE: Flag.NOT_ACTIVE | Flag.EXITS_OFF,
}

PHASE_OF: Final[Mapping[PositionStatus, Phase]] = {
    PositionStatus.OPENING: Phase.ENTERING,
    PositionStatus.OPEN: Phase.OPEN,
    PositionStatus.CLOSING: Phase.EXITING,
    PositionStatus.CLOSED: Phase.FLAT,
}


@lru_cache
def flags_of(
    status: BotStatus,
    *,
    invalid: bool,
    breaker_open: bool,
    entries_off: bool,
    all_off: bool,
    sell: bool = False,
) -> int:
    """What a bot's settings say, apart from its orders: `UNSETTLED` is never among them.

    `sell` sells also what a bot that was made inactive was to keep.
    """
    flags = _OF_STATUS[status]
    if sell:
        flags = (flags | Flag.SELL) & ~Flag.EXITS_OFF
    for holds, flag in (
        (invalid, Flag.INVALID),
        (breaker_open, Flag.BREAKER),
        (entries_off, Flag.ENTRIES_OFF),
        (all_off, Flag.ALL_OFF),
    ):
        if holds:
            flags |= flag
    return int(flags)
