"""What the events of orders have added up to, and which were seen: one SQLite file."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from shared.messages import OrderEvent
from shared.money import exact, plain
from shared.venues import quote_of

_TABLES = """
    CREATE TABLE IF NOT EXISTS seen (
        bot_id INTEGER, pair TEXT, event_id INTEGER NOT NULL, PRIMARY KEY (bot_id, pair)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS results (
        user_id INTEGER, currency TEXT, closed INTEGER NOT NULL, won INTEGER NOT NULL,
        realised TEXT NOT NULL, PRIMARY KEY (user_id, currency)
    ) WITHOUT ROWID;
"""
_SEE = """
    INSERT INTO seen VALUES (?, ?, ?) ON CONFLICT (bot_id, pair)
    DO UPDATE SET event_id = excluded.event_id WHERE excluded.event_id > seen.event_id
"""
_ADD = """
    INSERT INTO results VALUES (?, ?, 1, ?, ?) ON CONFLICT (user_id, currency)
    DO UPDATE SET closed = closed + 1, won = won + excluded.won, realised = excluded.realised
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserResult:
    """What a user's closed positions brought in one quote currency, after fees, exact."""

    user_id: int
    currency: str
    closed: int
    won: int
    realised: Decimal


class Ledger:
    """Opens the file, and makes it if need be."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.executescript(_TABLES)

    def record(self, events: Iterable[tuple[int, OrderEvent]]) -> int:
        """Add events, each with its id, all or none; they are on disk when this returns.

        Returns how many were new. One with an id that is not above the last of its bot and
        pair was seen before and changes nothing.
        """
        new = 0
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            for event_id, event in events:
                seen = self._database.execute(_SEE, (event.bot_id, event.pair, event_id))
                if seen.rowcount:
                    new += 1
                    self._add(event)
        return new

    def _add(self, event: OrderEvent) -> None:
        if event.realised_pnl is None:
            return
        realised, currency = Decimal(event.realised_pnl), quote_of(event.pair)
        row = self._database.execute(
            "SELECT realised FROM results WHERE user_id = ? AND currency = ?",
            (event.user_id, currency),
        ).fetchone()
        # Summed here: SQLite would add as floats.
        with exact():
            total = realised + Decimal(row[0] if row else 0)
        self._database.execute(_ADD, (event.user_id, currency, realised > 0, plain(total)))

    def results(self) -> list[UserResult]:
        """Every user with a closed position, by id and currency."""
        rows = self._database.execute(
            "SELECT user_id, currency, closed, won, realised FROM results ORDER BY 1, 2"
        )
        return [
            UserResult(
                user_id=user_id,
                currency=currency,
                closed=closed,
                won=won,
                realised=Decimal(realised),
            )
            for user_id, currency, closed, won, realised in rows
        ]

    def close(self) -> None:
        """Close the file."""
        self._database.close()
