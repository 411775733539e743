"""A recorded market: a file of one-minute candles, played minute by minute."""

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from ecosystem.venue_simulator.minutes import CLOSE, HIGH, LOW, MINUTE_MS, OPEN, VOLUME, Table
from shared.errors import InvalidSettings

COLUMNS: Final = ("timestamp", "open", "high", "low", "close", "volume")
HISTORY_MINUTES: Final = 100 * 15
"""What lies in the past when a replay starts: the first 100 fifteen-minute candles."""

_SECONDS_BEFORE: Final = 1e11
"""An epoch below this counts seconds (until the year 5138), above it milliseconds."""


class ReplayTape:
    """The candles of a file as a `Tape`. Minutes that the file left out carry the close before
    them, without volume."""

    def __init__(self, *, first: int, table: Table) -> None:
        self.first = first
        self._table = table
        self._table.flags.writeable = False

    @property
    def end(self) -> int:
        """The minute after the last one."""
        return self.first + len(self._table[OPEN])

    @property
    def start_ms(self) -> int:
        """When the clock of a replay starts: with exactly 100 completed 15 m candles behind it."""
        return (self.first // 15 * 15 + HISTORY_MINUTES) * MINUTE_MS

    @property
    def end_ms(self) -> int:
        """The last moment of the last minute, where the clock of a replay stops."""
        return self.end * MINUTE_MS - 1

    def minutes(self, first: int, count: int) -> Table:
        start = max(0, first - self.first)
        return self._table[:, start : max(start, first + count - self.first)]


def load_replay(path: Path, *, spread: float) -> tuple[ReplayTape, str]:
    """The file's tape, and a name for it that changes with its content.

    CSV with a header that names at least `COLUMNS`; `timestamp` is when a minute begins: UTC as
    `2021-12-31 23:01:00.000000` or ISO 8601, or an epoch in seconds or milliseconds. `volume`
    is in the quote currency, as derivatives venues count contracts; the tape has it in the base
    currency (volume / close). `spread` is (ask - bid) / price.

    Raises `InvalidSettings` that names the line for anything else: candles not in order or not
    on whole minutes, prices that are not positive numbers or not within low and high, less than
    the history and a minute more.
    """
    try:
        content = path.read_bytes()
        lines = io.StringIO(content.decode("utf-8-sig"), newline="")
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidSettings(f"the replay file {path} cannot be read: {exc}") from exc
    rows = list(_rows(lines, path))
    if not rows:
        raise InvalidSettings(f"the replay file {path} holds no candle")
    tape = _tape(rows, spread=spread)
    if tape.start_ms > tape.end_ms:
        raise InvalidSettings(
            f"the replay file {path} must hold more than its history of {HISTORY_MINUTES} "
            f"minutes, held {tape.end - tape.first}"
        )
    return tape, f"replay {path.name} {hashlib.sha256(content).hexdigest()[:16]}"


_Row = tuple[int, float, float, float, float, float]
"""Minute from 1970, open, high, low, close, volume in the quote currency."""


def _rows(lines: Iterable[str], path: Path) -> Iterator[_Row]:
    reader = csv.DictReader(lines)
    header = [name.strip().lower() for name in reader.fieldnames or ()]
    reader.fieldnames = header
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise InvalidSettings(
            f"the replay file {path} must begin with a header of {', '.join(COLUMNS)}; "
            f"it lacks {', '.join(missing)}"
        )
    previous = -1
    for fields in reader:
        try:
            row = _row(fields)
            if row[0] <= previous:
                raise ValueError("it is not later than the candle before it")
        except (TypeError, ValueError) as exc:
            raise InvalidSettings(f"{path} line {reader.line_num}: {exc}") from exc
        previous = row[0]
        yield row


def _row(fields: dict[str, str]) -> _Row:
    at_ms = _epoch_ms(fields["timestamp"])
    if at_ms % MINUTE_MS:
        raise ValueError(f"timestamp must be a whole minute, was {fields['timestamp']!r}")
    opened, high, low, close, volume = (float(fields[name]) for name in COLUMNS[1:])
    if not (0 < low <= min(opened, close) and max(opened, close) <= high < float("inf")):
        raise ValueError("prices must be above 0, with open and close within low and high")
    if not 0 <= volume < float("inf"):
        raise ValueError(f"volume must be a number of at least 0, was {fields['volume']!r}")
    return at_ms // MINUTE_MS, opened, high, low, close, volume


def _epoch_ms(text: str) -> int:
    try:
        epoch = float(text)
    except ValueError:
        moment = datetime.fromisoformat(text.strip())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    return round(epoch * 1000 if epoch < _SECONDS_BEFORE else epoch)


def _tape(rows: list[_Row], *, spread: float) -> ReplayTape:
    columns = np.array(rows, dtype=np.float64).T
    recorded = columns[0].astype(np.int64)
    first, end = int(recorded[0]), int(recorded[-1]) + 1
    latest = np.searchsorted(recorded, np.arange(first, end), side="right") - 1
    prices = columns[1:5, latest]
    gap = np.ones(end - first, dtype=bool)
    gap[recorded - first] = False
    prices[:, gap] = prices[CLOSE, gap]
    volume = np.where(gap, 0.0, columns[5, latest] / prices[CLOSE])
    table = np.empty((6, end - first))
    table[[OPEN, HIGH, LOW, CLOSE]] = prices
    table[VOLUME] = volume
    table[VOLUME + 1] = spread
    return ReplayTape(first=first, table=table)
