"""A worker's bots of one market as columns: a row per (bot, pair), and how a row lives.

    flat ─entry_decided─▶ entering ─entry_filled─▶ open ─exit_decided─▶ exiting ─exit_filled─▶ flat
      ◀─entry_ended_unfilled─┘                       ◀─exit_ended_unfilled─┘

Where a decision never became an intent, `entry_dropped` and `exit_dropped` undo it. An order of
unknown outcome leaves its row entering or exiting until it is settled.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import numpy as np

from shared.messages import Regime
from shared.orders import Mode
from trade_worker.accounts import Accounts
from trade_worker.backoff import entry_cooldown_ms, exit_backoff_ms
from trade_worker.bot_row import BotRow, PositionSnapshot, Settings, look_at, look_back, usable
from trade_worker.columns import Int64s
from trade_worker.id_index import IdIndex
from trade_worker.row_state import (
    OF_THE_POSITION,
    PHASE_OF,
    Flag,
    Phase,
    flags_of,
    key_flags,
)
from trade_worker.table_columns import MOST_COUNTED, TableColumns
from trade_worker.thresholds import POSITION, REGIMES

NOT_JUDGED: Final = 255
"""The verdict of a row that has met no tick since it was loaded."""

PEAK_WORTH_SAVING: Final = 0.001
_UNSETTLED: Final = int(Flag.UNSETTLED)
_IN_FLIGHT: Final = frozenset({Phase.ENTERING, Phase.EXITING})
_OF_THE_POSITION: Final = int(OF_THE_POSITION)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakDue:
    """A peak that has grown by more than 0.1 % (of the entry) since it was last saved."""

    bot_id: int
    sequence: int
    peak: float


class BotTable(TableColumns):
    """The rows of one market, found by bot id, and what happens to them.

    The methods that report an outcome take the bot id (and what tells the order from others) and
    return False, changing nothing, where the bot has left or its row does not wait for that: a
    late answer to what was reloaded meanwhile concerns nobody.
    """

    def __init__(self, venue: str, pair: str, accounts: Accounts) -> None:
        super().__init__()
        self.venue = venue
        self.pair = pair
        self.accounts = accounts
        self._index = IdIndex()

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, bot_id: int) -> bool:
        return self._index.get(bot_id) is not None

    def row_of(self, bot_id: int) -> int | None:
        """The bot's row, None where it has none. It stays the same until the bot leaves."""
        return self._index.get(bot_id)

    def bot_ids(self) -> list[int]:
        """Every bot in here, in ascending order."""
        return list(self._index)

    def bots_of(self, shards: Int64s) -> list[int]:
        """Every bot whose user is on one of these shards."""
        used = slice(0, self.size)
        on_them = np.isin(self.accounts.users.shard[self.user_slot[used]], shards)
        on_them &= self.phase[used] != Phase.FREE
        bot_ids: list[int] = self.bot_id[used][on_them].tolist()
        return bot_ids

    def put(self, bot: BotRow) -> tuple[str, ...]:
        """Add a bot, or take over the changed settings of one that is here.

        A bot that is here keeps its position with its mode, its cool-downs, and what it has
        realised and reserved: the table knows them better than a reader of the database. Returns
        what makes no sense, for people; such a row takes no entries (`row_invalid`) and never
        raises.
        """
        settings = look_at(bot, self.venue)
        row = self._index.get(bot.bot_id)
        if row is None:
            return (*settings.complaints, *self._add(bot, settings))
        unsettled = bool(self.flags[row] & _UNSETTLED)
        self._set(row, bot, settings, invalid=bool(settings.complaints), unsettled=unsettled)
        self.accounts.set_capital(int(self.bot_slot[row]), settings.capital)
        self.accounts.users.max_unclosed[self.user_slot[row]] = settings.max_open_positions
        return settings.complaints

    def remove(self, bot_id: int) -> bool:
        """Forget a bot and what its row had at stake. False where it is not here."""
        row = self._index.get(bot_id)
        if row is None:
            return False
        self._leave_position(row)
        self.accounts.let_bot_go(bot_id, int(self.bot_slot[row]))
        self.accounts.let_user_go(int(self.user_slot[row]))
        self._index.remove(bot_id)
        self.phase[row] = Phase.FREE
        self.give_back(row)
        return True

    def set_unsettled(self, bot_id: int, unsettled: bool) -> bool:
        """Block or free a row whose pair has an unsettled order outside the row's own life."""
        row = self._index.get(bot_id)
        if row is None:
            return False
        flags = int(self.flags[row])
        self.flags[row] = flags | _UNSETTLED if unsettled else flags & ~_UNSETTLED
        return True

    def entry_decided(self, row: int, reserve: float) -> None:
        """Reserve an entry's greatest cost and the user's position. The row must be flat."""
        self.sequence[row] += 1
        self._stake(row, Phase.ENTERING, reserve)

    def entry_dropped(self, bot_id: int) -> bool:
        """The decided entry was never committed: as if it had not been decided."""
        row = self._in_phase(bot_id, Phase.ENTERING)
        if row is None:
            return False
        self._go_flat(row)
        self.sequence[row] -= 1
        return True

    def entry_denied(self, bot_id: int, *, market_time_ms: int) -> bool:
        """What the columns do not know denied the entry: as if it had not been decided, but
        asked again only after the cool-down of a refused entry."""
        row = self._in_phase(bot_id, Phase.ENTERING)
        if row is None:
            return False
        self.sequence[row] -= 1
        self._end_entry(row, market_time_ms)
        return True

    def entry_ended_unfilled(self, bot_id: int, *, sequence: int, market_time_ms: int) -> bool:
        """The entry ended without a fill: cool down for 1 min by default, doubling up to 1 h."""
        row = self._in_phase(bot_id, Phase.ENTERING)
        if row is None or self.sequence[row] != sequence:
            return False
        self._end_entry(row, market_time_ms)
        return True

    def entry_filled(self, bot_id: int, position: PositionSnapshot) -> bool:
        """The entry ended with a fill, a partial one included: the position is open.

        Numbers that make no sense mark the row invalid, as in `put`.
        """
        row = self._in_phase(bot_id, Phase.ENTERING)
        if row is None or self.sequence[row] != position.sequence:
            return False
        self._leave_position(row)
        self.failed_entries[row] = 0
        self.not_before_ms[row] = 0
        sound, problems = usable(position, int(self.sequence[row]))
        if problems:
            self.flags[row] |= np.uint8(Flag.INVALID)
        self._take_position(row, sound)
        return True

    def exit_decided(self, row: int) -> None:
        """Nothing else is decided for the row until the exit's outcome is told."""
        self.phase[row] = Phase.EXITING

    def exit_dropped(self, bot_id: int) -> bool:
        """The decided exit was never committed: the next tick may decide it again."""
        row = self._in_phase(bot_id, Phase.EXITING)
        if row is None:
            return False
        self.phase[row] = Phase.OPEN
        return True

    def exit_denied(self, bot_id: int, *, market_time_ms: int) -> bool:
        """The database refuses the exit: the next one waits as after an exit that sold nothing,
        and has another id, since it may be this one's that is taken."""
        row = self._in_phase(bot_id, Phase.EXITING)
        if row is None:
            return False
        self.phase[row] = Phase.OPEN
        self.not_before_ms[row] = market_time_ms + exit_backoff_ms(int(self.exit_attempts[row]))
        self._count(row, "exit_attempts")
        return True

    def exit_ended_unfilled(
        self,
        bot_id: int,
        *,
        sequence: int,
        attempt: int,
        version: int,
        held: Decimal,
        market_time_ms: int,
    ) -> bool:
        """The exit left `held` unsold: the position is open again, at its new version.

        The next exit waits 5 s, doubling with each attempt up to 5 min. `attempt` is the number
        of the exit that ended: one that was committed counts, whether or not it was sent.
        """
        row = self._in_phase(bot_id, Phase.EXITING)
        if row is None or (self.sequence[row], self.exit_attempts[row]) != (sequence, attempt):
            return False
        self.phase[row] = Phase.OPEN
        self.version[row] = version
        self.held[row] = held
        self.not_before_ms[row] = market_time_ms + exit_backoff_ms(attempt)
        self._count(row, "exit_attempts")
        return True

    def exit_filled(
        self, bot_id: int, *, sequence: int, realised: float, market_time_ms: int
    ) -> bool:
        """The position is closed: its capital is free, its result realised, the bot cools down."""
        row = self._in_phase(bot_id, Phase.EXITING)
        if row is None or self.sequence[row] != sequence:
            return False
        self._go_flat(row)
        self.accounts.bots.free[self.bot_slot[row]] += realised
        cooldown_ms = 1000 * float(self.thresholds[POSITION["cooldown_secs"], row])
        self.not_before_ms[row] = market_time_ms + round(cooldown_ms)
        return True

    def peaks_due(self) -> list[PeakDue]:
        """Peaks of open positions worth saving: the caller asks at most every 5 s."""
        used = slice(0, self.size)
        due = np.flatnonzero(
            (self.phase[used] == Phase.OPEN)
            & (self.peak[used] - self.peak_saved[used] > PEAK_WORTH_SAVING)
        )
        columns = (self.bot_id[due], self.sequence[due], self.peak[due])
        return [
            PeakDue(bot_id=bot_id, sequence=sequence, peak=peak)
            for bot_id, sequence, peak in zip(*(c.tolist() for c in columns), strict=True)
        ]

    def peaks_saved(self, saved: list[PeakDue]) -> None:
        """Note that these peaks are durable."""
        for due in saved:
            row = self._index.get(due.bot_id)
            if row is not None and self.sequence[row] == due.sequence:
                self.peak_saved[row] = due.peak

    def _add(self, bot: BotRow, settings: Settings) -> tuple[str, ...]:
        history = look_back(bot)
        row = self.take_slot()
        self._index.add(bot.bot_id, row)
        self.bot_id[row] = bot.bot_id
        self.bot_slot[row] = self.accounts.hold_bot(
            bot.bot_id, capital=settings.capital, realised=settings.realised
        )
        self.user_slot[row] = self.accounts.hold_user(
            bot.user_id, shard=bot.shard, max_unclosed=settings.max_open_positions
        )
        invalid = bool(settings.complaints or history.complaints)
        self.verdict[row] = NOT_JUDGED
        self.not_before_ms[row] = history.not_before_ms
        self.failed_entries[row] = history.failed_entries
        self.sequence[row] = history.sequence
        self.phase[row] = Phase.FLAT
        self.at_stake[row] = 0
        if history.position is not None:
            self._take_position(row, history.position)
        # The one unsettled order of a row in flight is what its own life waits for.
        unsettled = bot.unsettled and int(self.phase[row]) not in _IN_FLIGHT
        self._set(row, bot, settings, invalid=invalid, unsettled=unsettled)
        return history.complaints

    def _set(
        self, row: int, bot: BotRow, settings: Settings, *, invalid: bool, unsettled: bool
    ) -> None:
        self.thresholds[:, row] = settings.thresholds
        self.taker_fee[row] = settings.taker_fee
        self.credential[row] = bot.key.id if bot.key else 0
        if int(self.phase[row]) == Phase.FLAT:
            self.live[row] = settings.live
        is_live = bool(self.live[row])
        flags = flags_of(
            settings.status,
            invalid=invalid,
            breaker_open=bot.breaker_open,
            entries_off=bot.entries_off,
            all_off=bot.all_off,
            sell=bot.flatten or self._exit_wanted(row, bot.position),
        )
        flags |= key_flags(bot.key, wants_live=settings.live, is_live=is_live)
        self.flags[row] = flags | _UNSETTLED if unsettled else flags

    def _exit_wanted(self, row: int, position: PositionSnapshot | None) -> bool:
        """Whether a person wants sold what the row has now, not what it had when that was read."""
        return (
            position is not None
            and position.exit_wanted
            and bool(position.sequence == self.sequence[row])
            and int(self.phase[row]) != Phase.FLAT
        )

    def _take_position(self, row: int, position: PositionSnapshot) -> None:
        phase = PHASE_OF[position.status]
        self.sequence[row] = position.sequence
        if phase is Phase.FLAT:
            return
        self.version[row] = position.version
        self.live[row] = position.mode is Mode.LIVE
        self.average_entry[row] = position.average_entry
        self.opened_ms[row] = position.opened_market_ms
        self.peak[row] = self.peak_saved[row] = position.peak
        self.regime[row] = REGIMES.index(position.regime or Regime.CHOPPY)
        ended = position.exit_attempts - (phase is Phase.EXITING)
        self.exit_attempts[row] = min(max(ended, 0), MOST_COUNTED["exit_attempts"])
        if position.held > 0:
            self.held[row] = position.held
        self._stake(row, phase, position.cost)

    def _stake(self, row: int, phase: Phase, amount: float) -> None:
        self.accounts.bots.free[self.bot_slot[row]] -= amount
        self.accounts.users.unclosed[self.user_slot[row]] += 1
        self.at_stake[row] = amount
        self.phase[row] = phase

    def _leave_position(self, row: int) -> None:
        if int(self.phase[row]) == Phase.FLAT:
            return
        self.accounts.bots.free[self.bot_slot[row]] += self.at_stake[row]
        self.accounts.users.unclosed[self.user_slot[row]] -= 1
        self.at_stake[row] = 0
        self.held.pop(row, None)
        self.phase[row] = Phase.FLAT

    def _go_flat(self, row: int) -> None:
        """The position is gone, and what was meant for it; the next one has the bot's own mode."""
        self._leave_position(row)
        flags = int(self.flags[row])
        self.flags[row] = flags & ~_OF_THE_POSITION
        self.live[row] = bool(flags & Flag.WANTS_LIVE)

    def _end_entry(self, row: int, market_time_ms: int) -> None:
        self._go_flat(row)
        first_secs = float(self.thresholds[POSITION["retry_cooldown_secs"], row])
        wait_ms = entry_cooldown_ms(first_secs, int(self.failed_entries[row]))
        self.not_before_ms[row] = market_time_ms + wait_ms
        self._count(row, "failed_entries")

    def _in_phase(self, bot_id: int, phase: Phase) -> int | None:
        row = self._index.get(bot_id)
        return row if row is not None and int(self.phase[row]) == phase else None
