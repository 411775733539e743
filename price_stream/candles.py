"""Rolling 15 m candles of one market: rolled from ticks, overwritten by the venue's own.

Completed candles are contiguous: a period without a tick, or one that the venue's reply
leaves out, carries the close before it with volume 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

CANDLE_MS: Final = 15 * 60_000
WINDOW: Final = 100
"""How many completed candles the indicators use: no more, no fewer."""

SETTLED_AFTER_MS: Final = 60_000
"""So long after its close, a candle that is not in the venue's reply had no trades."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_OPEN, _HIGH, _LOW, _CLOSE, _VOLUME = range(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candle:
    """One 15 m candle. `open_ms` is market time and a multiple of `CANDLE_MS`."""

    open_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Window:
    """The last `WINDOW` completed candles, oldest first; every array has shape (WINDOW,).

    Where `confirmed` is False the candle was rolled from ticks: its prices are what we saw,
    its volume is not known.
    """

    last_open_ms: int
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    confirmed: Flags


class CandleSeries:
    """The candles of one market, at most `WINDOW` completed ones and the one that forms.

    `version` grows whenever the set of completed candles changed.
    """

    __slots__ = ("_confirmed", "_forming", "_last_open_ms", "_rows", "version")

    def __init__(self) -> None:
        self.version = 0
        self._rows: Floats = np.empty((0, 5))
        self._confirmed: Flags = np.empty(0, dtype=np.bool_)
        self._last_open_ms = 0
        self._forming: Candle | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def confirmed_through_ms(self) -> int | None:
        """The close time of the newest candle that the venue confirmed; None without one."""
        indexes = np.flatnonzero(self._confirmed)
        return self._open_ms_at(int(indexes[-1])) + CANDLE_MS if len(indexes) else None

    def completed(self) -> list[Candle]:
        """Every completed candle, oldest first."""
        return [
            Candle(
                open_ms=self._open_ms_at(index),
                open=float(row[_OPEN]),
                high=float(row[_HIGH]),
                low=float(row[_LOW]),
                close=float(row[_CLOSE]),
                volume=float(row[_VOLUME]),
            )
            for index, row in enumerate(self._rows)
        ]

    def window(self) -> Window | None:
        """What the indicators use; None while fewer than `WINDOW` candles are known."""
        if len(self._rows) < WINDOW:
            return None
        columns = np.ascontiguousarray(self._rows.T)
        return Window(
            last_open_ms=self._last_open_ms,
            high=columns[_HIGH],
            low=columns[_LOW],
            close=columns[_CLOSE],
            volume=columns[_VOLUME],
            confirmed=self._confirmed.copy(),
        )

    def roll(self, market_time_ms: int, price: float) -> None:
        """Take one tick. Candles that ended before it are completed; a late tick is ignored."""
        open_ms = open_of(market_time_ms)
        forming = self._forming
        if len(self) and open_ms <= self._last_open_ms:
            return
        if forming is not None and open_ms < forming.open_ms:
            return
        if forming is not None and open_ms > forming.open_ms:
            self._complete(forming)
            forming = None
        self._carry_until(open_ms)
        self._forming = Candle(
            open_ms=open_ms,
            open=price if forming is None else forming.open,
            high=price if forming is None else max(forming.high, price),
            low=price if forming is None else min(forming.low, price),
            close=price,
            volume=0.0,
        )

    def correct(self, candles: Sequence[Candle], asked_at_ms: int) -> None:
        """Overwrite ours with the venue's.

        `asked_at_ms` is a market time at or before the moment the venue answered. A candle
        counts as completed if it ended by then or a later one is in the reply; the others are
        left out. Order and duplicates do not matter: of two for one period the later listed
        stands. Periods between the first and the last completed one that are not in the reply
        had no trades, and so had those after it that ended `SETTLED_AFTER_MS` before.
        """
        newest_ms = max((candle.open_ms for candle in candles), default=0)
        theirs = {
            candle.open_ms: candle
            for candle in candles
            if candle.open_ms + CANDLE_MS <= asked_at_ms or candle.open_ms < newest_ms
        }
        if not theirs:
            return
        settled = open_of(asked_at_ms - SETTLED_AFTER_MS) - CANDLE_MS
        through = max(max(theirs), settled)
        first = max(min(theirs), through - (WINDOW - 1) * CANDLE_MS)
        self._overwrite(_without_gaps(theirs, first, through), first)
        if self._forming is not None and self._forming.open_ms <= self._last_open_ms:
            self._forming = None

    def missing_since(self, market_time_ms: int) -> int | None:
        """Open time of the first candle to ask the venue for; None if all are confirmed.

        All are confirmed when the newest candle that ended by `market_time_ms` is, and with it
        the `WINDOW` - 1 before it as far as the venue's history reaches.
        """
        newest = open_of(market_time_ms) - CANDLE_MS
        oldest = newest - (WINDOW - 1) * CANDLE_MS
        if not self._confirmed.any():
            return oldest
        unconfirmed = np.flatnonzero(~self._confirmed)
        if len(unconfirmed):
            since = self._open_ms_at(int(unconfirmed[0]))
            return max(oldest, since) if since <= newest else None
        if self._last_open_ms >= newest:
            return None
        return max(oldest, self._last_open_ms + CANDLE_MS)

    def _open_ms_at(self, index: int) -> int:
        return self._last_open_ms - (len(self._rows) - 1 - index) * CANDLE_MS

    def _complete(self, candle: Candle) -> None:
        self._carry_until(candle.open_ms)
        self._append(np.array([_row(candle)]))
        self._last_open_ms = candle.open_ms

    def _carry_until(self, open_ms: int) -> None:
        """Complete the periods without a tick before `open_ms`."""
        periods = (open_ms - self._last_open_ms) // CANDLE_MS - 1
        if len(self._rows) and periods > 0:
            self._append(_carried(self._rows[-1, _CLOSE], min(periods, WINDOW)))
            self._last_open_ms = open_ms - CANDLE_MS

    def _append(self, rows: Floats) -> None:
        self._rows = np.concatenate((self._rows, rows))[-WINDOW:]
        flags = np.zeros(len(rows), dtype=np.bool_)
        self._confirmed = np.concatenate((self._confirmed, flags))[-WINDOW:]
        self.version += 1

    def _overwrite(self, theirs: Floats, their_first_ms: int) -> None:
        """Lay their contiguous rows over ours; what neither knows in between is carried."""
        ours, our_flags = self._rows, self._confirmed
        our_first_ms = self._open_ms_at(0) if len(ours) else their_first_ms
        first_ms = min(our_first_ms, their_first_ms)
        ours_at = (our_first_ms - first_ms) // CANDLE_MS
        theirs_at = (their_first_ms - first_ms) // CANDLE_MS
        if max(ours_at, theirs_at) > 2 * WINDOW:  # nothing of the older part would be left
            if ours_at > theirs_at:
                return
            ours, our_flags, theirs_at, first_ms = ours[:0], our_flags[:0], 0, their_first_ms
        length = max(ours_at + len(ours), theirs_at + len(theirs))
        rows = np.full((length, 5), np.nan)
        flags = np.zeros(length, dtype=np.bool_)
        rows[ours_at : ours_at + len(ours)] = ours
        flags[ours_at : ours_at + len(ours)] = our_flags
        rows[theirs_at : theirs_at + len(theirs)] = theirs
        flags[theirs_at : theirs_at + len(theirs)] = True
        for hole in np.flatnonzero(np.isnan(rows[:, _CLOSE])):
            rows[hole] = _carried(rows[hole - 1, _CLOSE], 1)[0]
        last_open_ms = first_ms + (length - 1) * CANDLE_MS
        rows, flags = rows[-WINDOW:], flags[-WINDOW:]
        if not (
            last_open_ms == self._last_open_ms
            and np.array_equal(rows, self._rows)
            and np.array_equal(flags, self._confirmed)
        ):
            self._rows, self._confirmed, self._last_open_ms = rows, flags, last_open_ms
            self.version += 1


def open_of(market_time_ms: int) -> int:
    """The open time of the candle that a moment belongs to.

    >>> open_of(CANDLE_MS * 3 + 1) == CANDLE_MS * 3
    True
    """
    return market_time_ms - market_time_ms % CANDLE_MS


def _row(candle: Candle) -> tuple[float, float, float, float, float]:
    return candle.open, candle.high, candle.low, candle.close, candle.volume


def _carried(close: float, periods: int) -> Floats:
    return np.tile(np.array([close, close, close, close, 0.0]), (periods, 1))


def _without_gaps(candles: Mapping[int, Candle], first_ms: int, through_ms: int) -> Floats:
    """Rows for every period from `first_ms` to `through_ms`, both included."""
    close = candles[max(open_ms for open_ms in candles if open_ms <= first_ms)].close
    rows = np.empty(((through_ms - first_ms) // CANDLE_MS + 1, 5))
    for index in range(len(rows)):
        candle = candles.get(first_ms + index * CANDLE_MS)
        rows[index] = _carried(close, 1)[0] if candle is None else _row(candle)
        close = float(rows[index, _CLOSE])
    return rows
