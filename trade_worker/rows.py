"""Some rows of a bot table, seen as columns: what every rule is a function of."""

import numpy as np

from trade_worker.bot_table import BotTable
from trade_worker.columns import Float32s, Float64s, Int64s, Mask, Select, Uint8s
from trade_worker.row_state import Flag, Phase


class Rows:
    """The columns of the selected rows, all of one length.

    A slice gives views of the table, an array of row numbers gives copies.
    """

    __slots__ = ("_flags_seen", "_select", "_table")

    def __init__(self, table: BotTable, select: Select) -> None:
        self._table = table
        self._select = select
        self._flags_seen: int | None = None

    def threshold(self, name: str) -> Float32s:
        """One threshold of each row."""
        return self._table.threshold(name, self._select)

    @property
    def phase(self) -> Uint8s:
        """A `Phase` per row."""
        phase: Uint8s = self._table.phase[self._select]
        return phase

    @property
    def in_use(self) -> Mask:
        """Which rows belong to a bot."""
        used: Mask = self.phase != Phase.FREE
        return used

    def none_has(self, flags: Flag) -> bool:
        """Whether no row at all had any of these flags when this was first asked.

        Most flags are rare: one look at all of them spares a look at each.
        """
        if self._flags_seen is None:
            self._flags_seen = int(np.bitwise_or.reduce(self._table.flags[self._select]))
        return not self._flags_seen & flags

    def lacks(self, flags: Flag) -> Mask:
        """Which rows have none of these flags."""
        clear: Mask = (self._table.flags[self._select] & int(flags)) == 0
        return clear

    @property
    def not_before_ms(self) -> Int64s:
        """Market time before which a row decides nothing more, per row."""
        until: Int64s = self._table.not_before_ms[self._select]
        return until

    @property
    def opened_ms(self) -> Int64s:
        """Market time at which each position opened."""
        opened: Int64s = self._table.opened_ms[self._select]
        return opened

    @property
    def taker_fee(self) -> Float64s:
        """As a fraction, per row."""
        fee: Float64s = self._table.taker_fee[self._select]
        return fee

    @property
    def average_entry(self) -> Float64s:
        """The price paid for each position, without fees."""
        entry: Float64s = self._table.average_entry[self._select]
        return entry

    @property
    def peak(self) -> Float64s:
        """The best profit of each position so far, as a fraction."""
        peak: Float64s = self._table.peak[self._select]
        return peak

    @property
    def regime(self) -> Uint8s:
        """The regime at entry of each position, as its number in `thresholds.REGIMES`."""
        regime: Uint8s = self._table.regime[self._select]
        return regime
