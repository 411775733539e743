"""The states of a bot table's row: the phase of its life, and flags for what else holds."""

from collections.abc import Mapping
from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import Final, NamedTuple

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
    WANTS_LIVE = 256
    """The bot's own mode: that of its next position, whatever it holds now."""
    KEY_NOT_READY = 512
    """The bot wants real orders, but its owner's key may not buy."""
    KEY_UNUSABLE = 1024
    """What the row has is real, and there is no key to sell it with."""


OF_THE_POSITION: Final = Flag.SELL | Flag.KEY_UNUSABLE
"""What holds for a position and ends with it."""


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


class Key(NamedTuple):
    """The owner's key at the venue, as far as rows go by it.

    `live` is the owner's word that real orders may be placed with it; `in_trouble`: it cannot
    be used until somebody has mended it.
    """

    id: int
    live: bool
    in_trouble: bool


def key_flags(key: Key | None, *, wants_live: bool, is_live: bool) -> int:
    """What the owner's key (None: there is none) means for a row; paper needs none.

    `wants_live` is the bot's own mode, `is_live` that of what the row has. A key that is no
    longer live still sells: whoever took that word back wants no more bought.
    """
    if not (wants_live or is_live):
        return 0
    unusable = key is None or key.in_trouble
    not_ready = key is None or key.in_trouble or not key.live
    flags = Flag.WANTS_LIVE if wants_live else Flag(0)
    if wants_live and not_ready:
        flags |= Flag.KEY_NOT_READY
    if is_live and unusable:
        flags |= Flag.KEY_UNUSABLE
    return int(flags)


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
    """What a bot's settings say, apart from its orders and its owner's key.

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
