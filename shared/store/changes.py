"""What people changed since the last look: a worker asks every half second, for next to nothing."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Final

from sqlalchemy import Executable, bindparam, func, literal, select, text, union_all

from shared.limits import BreakerScope
from shared.store.bulk import dialect_of
from shared.store.engine import Transaction
from shared.store.tables import bots, breakers, credentials, kill_switches, users
from shared.store.types import Moment, database_now

_CLOCK_STEP: Final = timedelta(seconds=1)
"""How far the database's clock may be set back without a change being missed."""

_LONGEST_ON_SQLITE: Final = timedelta(seconds=30)
"""Longer than any transaction that changes bots there: SQLite does not tell who is writing."""

_SWITCHES: Final = 0
"""Stands for the kill switches where else a bot's id stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Bots to load again, of all shards; and whether to read the kill switches again."""

    bot_ids: frozenset[int]
    kill_switches: bool

    def __bool__(self) -> bool:
        return bool(self.bot_ids) or self.kill_switches


class ChangeFeed:
    """Tells each change to bots, pairs, users, credentials, breakers and switches once.

    Start it (`start`) before loading, so that nothing falls in between. What the worker writes
    itself (results, cool-downs) is no change.

    A change carries the time at which it was written, and becomes visible when its transaction
    commits. So the next poll looks back to the start of the oldest transaction that is writing
    now; PostgreSQL shows the transactions of the same role.
    """

    def __init__(self) -> None:
        self.polled_at: datetime | None = None
        """The database's clock at the last poll: what was committed before it has been told."""
        self._since: datetime | None = None
        self._seen: frozenset[tuple[int, datetime]] = frozenset()

    async def start(self, tx: Transaction) -> None:
        """Count as known what was committed before now."""
        _, self._since = await _now_and_horizon(tx)
        await self.poll(tx)

    async def poll(self, tx: Transaction) -> Changes:
        """What changed since the last poll: two queries that read next to nothing."""
        if self._since is None:
            raise RuntimeError("poll before start")
        # Before the changes: what begins to write in between is written after this horizon.
        now, horizon = await _now_and_horizon(tx)
        rows = await tx.execute(_changed(), {"since": self._since})
        seen = frozenset((row[0], row[1]) for row in rows)
        new = {bot_id for bot_id, _ in seen - self._seen}
        self.polled_at, self._since = now, horizon
        self._seen = frozenset(change for change in seen if change[1] > horizon)
        return Changes(bot_ids=frozenset(new - {_SWITCHES}), kill_switches=_SWITCHES in new)


async def clock(tx: Transaction) -> datetime:
    """The database's clock. A feed whose `polled_at` is later knows what was committed before."""
    now: datetime = (await tx.execute(select(database_now()))).scalar_one()
    return now


async def _now_and_horizon(tx: Transaction) -> tuple[datetime, datetime]:
    """The database's clock, and a time before every change that is not yet visible."""
    if dialect_of(tx) == "sqlite":
        now = await clock(tx)
        return now, now - _LONGEST_ON_SQLITE
    row = (await tx.execute(_OLDEST_WRITER)).one()
    return row.now, row.oldest - _CLOCK_STEP


_OLDEST_WRITER: Final = text(
    """
    SELECT clock_timestamp() AS now, least(clock_timestamp(), min(xact_start)) AS oldest
    FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND datname = current_database()
    """
)


@cache
def _changed() -> Executable:
    since = bindparam("since", type_=Moment())
    return union_all(
        select(bots.c.id.label("bot_id"), bots.c.updated_at.label("stamp")).where(
            bots.c.updated_at > since
        ),
        select(bots.c.id, users.c.updated_at)
        .join_from(users, bots, bots.c.user_id == users.c.id)
        .where(users.c.updated_at > since),
        select(bots.c.id, credentials.c.updated_at)
        .join_from(credentials, bots, bots.c.user_id == credentials.c.user_id)
        .where(credentials.c.updated_at > since),
        select(breakers.c.scope_id, breakers.c.updated_at).where(
            breakers.c.scope == BreakerScope.BOT, breakers.c.updated_at > since
        ),
        select(bots.c.id, breakers.c.updated_at)
        .join_from(breakers, bots, bots.c.user_id == breakers.c.scope_id)
        .where(breakers.c.scope == BreakerScope.USER, breakers.c.updated_at > since),
        select(literal(_SWITCHES), func.max(kill_switches.c.updated_at))
        .where(kill_switches.c.updated_at > since)
        .having(func.count() > 0),
    )
