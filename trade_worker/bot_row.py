"""A bot on one pair as the store hands it to a bot table, and whether it makes sense."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, NamedTuple

from shared.messages import Regime
from shared.orders import BotStatus, Mode, PositionStatus
from shared.venues import VENUES
from trade_worker.columns import Float32s
from trade_worker.row_state import Key
from trade_worker.thresholds import vector_of

_LARGEST_INT32: Final = 2**31 - 1
_LARGEST_TIME_MS: Final = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionSnapshot:
    """A position that is not closed, as it was when the bot was loaded.

    `average_entry` is the price paid without fees. `cost` is what the entry cost with its fees;
    while the position is opening, the most that it may cost. `held` is what is there to sell,
    exact. `opened_market_ms` is the venue's clock. `regime` None counts as choppy, which has
    the nearest profit target by default. `exit_attempts` are the exit orders so far, the one that
    is on its way included. `exit_wanted`: a person wants it sold, whatever the bot is told.
    """

    sequence: int
    version: int
    status: PositionStatus
    mode: Mode
    average_entry: float
    cost: float
    held: Decimal
    opened_market_ms: int
    peak: float = 0.0
    regime: Regime | None = None
    exit_attempts: int = 0
    exit_wanted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BotRow:
    """What a bot table needs to know of one bot on its pair.

    `profile` holds what differs from `shared.risk_profile.DEFAULTS`. `capital` and `realised`
    are in the quote currency; `taker_fee` is a fraction. `last_sequence` is the sequence of the
    pair's last position, 0 without one. `failed_entries` in a row lengthen the retry cool-down;
    `cooldown_until_ms` is market time. `mode` is that of the bot's next position, `key` its
    owner's at the venue, None without one. `entries_off`, `all_off` and `flatten` (sell what is
    open) are the kill switches that cover this bot. `status` and `mode` are text because a
    database may hold anything.
    """

    bot_id: int
    user_id: int
    shard: int
    status: str
    mode: str
    capital: float
    taker_fee: float
    realised: float = 0.0
    profile: Mapping[str, object] = field(default_factory=dict)
    last_sequence: int = 0
    position: PositionSnapshot | None = None
    unsettled: bool = False
    cooldown_until_ms: int = 0
    failed_entries: int = 0
    breaker_open: bool = False
    entries_off: bool = False
    all_off: bool = False
    flatten: bool = False
    key: Key | None = None
    max_open_positions: int = 10


class Settings(NamedTuple):
    """The settings of a row after a look at them, always usable.

    What made no sense is in `complaints`, and stands here as the mildest thing that sells but
    never buys: a paused bot, no capital, the venue's own fee, the default threshold. Of an
    unknown mode nothing is sold either. `live` is the bot's own mode.
    """

    thresholds: Float32s
    status: BotStatus
    live: bool
    capital: float
    realised: float
    taker_fee: float
    max_open_positions: int
    complaints: tuple[str, ...]


_STATUSES: Final[Mapping[str, BotStatus]] = {status.value: status for status in BotStatus}
_MODES: Final[Mapping[str, Mode]] = {mode.value: mode for mode in Mode}


def look_at(bot: BotRow, venue: str) -> Settings:
    """Check a bot's settings. Never raises: a row with complaints takes no entries."""
    thresholds, complaints = vector_of(bot.profile)
    status = _STATUSES.get(bot.status)
    mode = _MODES.get(bot.mode)
    fee = 0 <= bot.taker_fee < 1
    capital = 0 <= bot.capital < math.inf
    realised = math.isfinite(bot.realised)
    limit = 0 <= bot.max_open_positions <= _LARGEST_INT32
    if not (status is not None and mode is not None and fee and capital and realised and limit):
        complaints += [
            f"{name} must be {wanted}, was {getattr(bot, name)!r}"
            for fine, name, wanted in (
                (status is not None, "status", f"one of {', '.join(BotStatus)}"),
                (mode is not None, "mode", f"one of {', '.join(Mode)}"),
                (fee, "taker_fee", "from 0 to below 1"),
                (capital, "capital", "a finite number of at least 0"),
                (realised, "realised", "a finite number"),
                (limit, "max_open_positions", f"a whole number from 0 to {_LARGEST_INT32}"),
            )
            if not fine
        ]
    return Settings(
        thresholds=thresholds,
        status=(status or BotStatus.PAUSED) if mode else BotStatus.INACTIVE,
        live=mode is Mode.LIVE,
        capital=bot.capital if capital else 0.0,
        realised=bot.realised if realised else 0.0,
        taker_fee=bot.taker_fee if fee else float(VENUES[venue].taker_fee),
        max_open_positions=bot.max_open_positions if limit else 0,
        complaints=tuple(complaints),
    )


class History(NamedTuple):
    """Where a row starts after a look at what the store knows of its past.

    A position whose numbers make no sense is kept with an `average_entry` of NaN: no profit can
    be computed for it, so no exit is decided, and nothing else is bought on its pair.
    """

    sequence: int
    position: PositionSnapshot | None
    not_before_ms: int
    failed_entries: int
    complaints: tuple[str, ...]


def look_back(bot: BotRow) -> History:
    """Check a bot's past. Never raises: a row with complaints takes no entries."""
    complaints = []
    sequence = bot.last_sequence
    until = bot.cooldown_until_ms
    failed = bot.failed_entries
    if not 0 <= sequence < _LARGEST_INT32:
        complaints.append(f"last_sequence must be a whole number of at least 0, was {sequence!r}")
        sequence = 0
    if not 0 <= until <= _LARGEST_TIME_MS:
        complaints.append(f"cooldown_until_ms must be a time, was {until!r}")
        until = 0
    position = bot.position
    if position is not None:
        position, problems = usable(position, sequence)
        complaints += problems
    return History(
        sequence=position.sequence if position else sequence,
        position=position,
        not_before_ms=until,
        failed_entries=min(max(failed, 0), 255),
        complaints=tuple(complaints),
    )


def usable(position: PositionSnapshot, sequence: int) -> tuple[PositionSnapshot, list[str]]:
    """The position, or where its numbers make no sense an unsellable one, and what is wrong."""
    problem = _problem_of(position)
    if problem is None:
        return position, []
    unsellable = PositionSnapshot(
        sequence=sequence,
        version=0,
        status=position.status,
        mode=position.mode,
        average_entry=math.nan,
        cost=0.0,
        held=Decimal(0),
        opened_market_ms=0,
    )
    return unsellable, [problem]


def _problem_of(position: PositionSnapshot) -> str | None:
    for name, fine in (
        ("sequence", 0 <= position.sequence < _LARGEST_INT32),
        ("version", 0 <= position.version <= _LARGEST_INT32),
        ("cost", 0 <= position.cost < math.inf),
        ("peak", math.isfinite(position.peak)),
        ("opened_market_ms", 0 <= position.opened_market_ms <= _LARGEST_TIME_MS),
        ("exit_attempts", position.exit_attempts >= 0),
    ):
        if not fine:
            return f"position: {name} makes no sense: {getattr(position, name)!r}"
    if position.status is PositionStatus.OPENING:
        return None
    if not 0 < position.average_entry < math.inf:
        return f"position: average_entry must be above 0, was {position.average_entry!r}"
    # An exit may have sold everything before its order is known to be final.
    nothing_left = position.held == 0 and position.status is PositionStatus.CLOSING
    if not (nothing_left or (position.held.is_finite() and position.held > 0)):
        return f"position: held must be above 0, was {position.held}"
    return None
