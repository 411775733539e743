"""What a worker's bots and users may still spend, shared by the bot tables of all its markets."""

from trade_worker.columns import Columns, Float64s, Int32s, Int64s, Uint16s
from trade_worker.id_index import IdIndex


class _BotColumns(Columns):
    capital: Float64s
    free: Float64s
    rows: Uint16s


class _UserColumns(Columns):
    user_id: Int64s
    shard: Int32s
    unclosed: Int32s
    max_unclosed: Int32s
    rows: Int32s


class Accounts:
    """Columns per bot and per user; rows of several markets refer to them by slot.

    `bots.free` is a bot's free capital, in its quote currency: capital + realised - what its
    open positions cost - what is reserved for entries. It is kept as one number because that is
    what every entry asks for. `users.unclosed` counts positions that are not
    closed. Only the bot tables write here; a slot lives as long as a row refers to it.
    """

    def __init__(self) -> None:
        self.bots = _BotColumns()
        self.users = _UserColumns()
        self._bot_index = IdIndex()
        self._user_index = IdIndex()

    def bot_slot(self, bot_id: int) -> int | None:
        """None where no row refers to the bot."""
        return self._bot_index.get(bot_id)

    def user_slot(self, user_id: int) -> int | None:
        """None where no row refers to the user."""
        return self._user_index.get(user_id)

    def hold_bot(self, bot_id: int, *, capital: float, realised: float) -> int:
        """The bot's slot for one more row.

        `capital` replaces what was known. `realised` counts only for a bot that is new here:
        afterwards this side knows better than whoever read the database earlier.
        """
        slot = self._bot_index.get(bot_id)
        if slot is None:
            slot = self.bots.take_slot()
            self._bot_index.add(bot_id, slot)
            self.bots.capital[slot] = capital
            self.bots.free[slot] = capital + realised
            self.bots.rows[slot] = 0
        else:
            self.set_capital(slot, capital)
        self.bots.rows[slot] += 1
        return slot

    def set_capital(self, slot: int, capital: float) -> None:
        """The bot's owner gave it more or less; what it has at stake stays."""
        self.bots.free[slot] += capital - self.bots.capital[slot]
        self.bots.capital[slot] = capital

    def let_bot_go(self, bot_id: int, slot: int) -> None:
        """One row less refers to the bot; the last one frees the slot."""
        self.bots.rows[slot] -= 1
        if not self.bots.rows[slot]:
            self._bot_index.remove(bot_id)
            self.bots.give_back(slot)

    def hold_user(self, user_id: int, *, shard: int, max_unclosed: int) -> int:
        """The user's slot for one more row; `max_unclosed` replaces what was known."""
        slot = self._user_index.get(user_id)
        if slot is None:
            slot = self.users.take_slot()
            self._user_index.add(user_id, slot)
            self.users.user_id[slot] = user_id
            self.users.unclosed[slot] = self.users.rows[slot] = 0
        self.users.shard[slot] = shard
        self.users.max_unclosed[slot] = max_unclosed
        self.users.rows[slot] += 1
        return slot

    def let_user_go(self, slot: int) -> None:
        """One row less refers to the user; the last one frees the slot."""
        self.users.rows[slot] -= 1
        if not self.users.rows[slot]:
            self._user_index.remove(int(self.users.user_id[slot]))
            self.users.give_back(slot)
