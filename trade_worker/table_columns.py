"""What a bot table keeps of each row: its columns, all of them."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import numpy as np

from trade_worker.columns import (
    Columns,
    Float32s,
    Float64s,
    Int32s,
    Int64s,
    Select,
    Uint8s,
    Uint16s,
)
from trade_worker.thresholds import NAMES, POSITION

MOST_COUNTED: Final[Mapping[str, int]] = {"failed_entries": 255, "exit_attempts": 65_535}


class TableColumns(Columns):
    """The rows of one market as columns. Times are milliseconds of market time.

    `not_before_ms` is the end of a cool-down for a flat row and of the back-off between exits
    for an open one. `at_stake` is what the row has reserved of its bot's capital (entering) or
    has in its position (open, exiting). `sequence` is that of the last position.

    `live` is the mode of what the row has or is doing, for a flat row the bot's own. `credential`
    is the owner's key, 0 without one. `exit_attempts` is the number of the exit that is on its way
    or would be next: it makes the client order id, so one that was committed never comes again.
    """

    bot_id: Int64s
    average_entry: Float64s
    peak: Float64s
    taker_fee: Float64s
    at_stake: Float64s
    opened_ms: Int64s
    credential: Int64s
    not_before_ms: Int64s
    peak_saved: Float32s
    bot_slot: Int32s
    user_slot: Int32s
    sequence: Int32s
    version: Int32s
    exit_attempts: Uint16s
    flags: Uint16s
    failed_entries: Uint8s
    regime: Uint8s
    live: Uint8s
    phase: Uint8s
    verdict: Uint8s

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, Decimal] = {}
        """row → what an open position has to sell, exact. Only rows with a position are here."""

    def threshold(self, name: str, rows: Select) -> Float32s:
        """One threshold of some rows."""
        column: Float32s = self.thresholds[POSITION[name]][rows]
        return column

    def _count(self, row: int, name: str) -> None:
        column = getattr(self, name)
        column[row] = min(int(column[row]) + 1, MOST_COUNTED[name])

    def _grow(self, capacity: int) -> None:
        larger = np.zeros((len(NAMES), capacity), np.float32)
        if self._capacity:
            larger[:, : self._capacity] = self.thresholds
        self.thresholds: Float32s = larger
        super()._grow(capacity)
