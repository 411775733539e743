"""One-minute candles as columns: what every price of the simulator is derived from. Pure."""

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

MINUTE_MS: Final = 60_000

OPEN, HIGH, LOW, CLOSE, VOLUME, SPREAD = range(6)
"""Rows of a table. Volume is in the base currency; spread is (ask - bid) / price, a fraction."""

Table = NDArray[np.float64]


class Tape(Protocol):
    """A market's prices: the same minute always has the same candle."""

    def minutes(self, first: int, count: int) -> Table:
        """float64, shape (6, n): the candles of minutes `first` to `first + count - 1`, counted
        from 1970. Minutes before the tape begins or after it ends are left out."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Candles:
    """Candles of one interval, oldest first.

    `open_ms`: int64, shape (n,), when each begins. `table`: float64, shape (5, n), rows OPEN to
    VOLUME.
    """

    open_ms: NDArray[np.int64]
    table: Table


def so_far(candle: Table, fraction: float) -> Table:
    """What of a minute's candle, shape (6,), has happened after `fraction` (0 to 1) of it.

    The price walks in a straight line from open over the nearer extreme to the other one and
    to the close: a rising minute goes open, low, high, close, a falling one open, high, low,
    close; each leg takes a third of the minute. Volume grows evenly.

    >>> so_far(np.array([10.0, 13.0, 9.0, 12.0, 6.0, 0.0]), 0.5).tolist()
    [10.0, 11.0, 9.0, 11.0, 3.0, 0.0]
    """
    first, second = (LOW, HIGH) if candle[CLOSE] >= candle[OPEN] else (HIGH, LOW)
    turns = candle[[OPEN, first, second, CLOSE]]
    leg, within = divmod(fraction * 3, 1)
    passed = turns[: int(leg) + 1]
    price = passed[-1]
    if within:
        price = passed[-1] + (turns[int(leg) + 1] - passed[-1]) * within
    known = candle.copy()
    known[HIGH] = max(passed.max(), price)
    known[LOW] = min(passed.min(), price)
    known[CLOSE] = price
    known[VOLUME] = candle[VOLUME] * fraction
    return known


def aggregate(table: Table, *, first: int, interval_minutes: int) -> Candles:
    """Minutes, the first of which is minute `first`, as candles of a longer interval.

    Intervals are counted from 1970. The first and last candle hold what minutes there are.
    """
    minutes = np.arange(first, first + table.shape[1], dtype=np.int64)
    opens, starts = np.unique(minutes // interval_minutes, return_index=True)
    if not len(opens):
        return Candles(open_ms=opens, table=table[:SPREAD])
    ends = np.append(starts[1:], table.shape[1]) - 1
    return Candles(
        open_ms=opens * (interval_minutes * MINUTE_MS),
        table=np.stack(
            [
                table[OPEN, starts],
                np.maximum.reduceat(table[HIGH], starts),
                np.minimum.reduceat(table[LOW], starts),
                table[CLOSE, ends],
                np.add.reduceat(table[VOLUME], starts),
            ]
        ),
    )
