"""Events that were written with their facts and wait for the relay."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from sqlalchemy import Executable, delete, func, insert, select, text, update

from shared.store.bulk import Rows, dialect_of
from shared.store.database_url import Dialect
from shared.store.engine import Transaction
from shared.store.tables import outbox
from shared.store.types import Id, database_now, seconds_from_now

_IDS = Rows("ids", id=Id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An unsent event. `id` is unique and grows per bot in the order of what happened."""

    id: int
    shard: int
    bot_id: int | None
    exchange: str
    routing_key: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How many events wait, and since when the oldest does."""

    events: int
    oldest_at: datetime | None


async def unsent(
    tx: Transaction, shards: Collection[int] | None = None, *, limit: int = 1_000
) -> list[Event]:
    """The oldest unsent events of these shards (of all), in the order of their ids.

    One bot's events come in the order in which they were written: its rows are locked by the
    transaction that writes them. Between bots, ids may become visible out of order.
    """
    query = (
        select(*(outbox.c[name] for name in Event.__slots__))
        .where(outbox.c.sent_at.is_(None))
        .order_by(outbox.c.id)
        .limit(limit)
    )
    if shards is not None:
        query = query.where(outbox.c.shard.in_(sorted(shards)))
    return [Event(**row._mapping) for row in await tx.execute(query)]


async def write(
    tx: Transaction,
    *,
    shard: int,
    exchange: str,
    routing_key: str,
    body: str,
    bot_id: int | None = None,
) -> None:
    """Append one event. Whoever serves the shard relays it once the transaction is committed."""
    await tx.execute(
        insert(outbox).values(
            shard=shard, bot_id=bot_id, exchange=exchange, routing_key=routing_key, body=body
        )
    )


async def mark_sent(tx: Transaction, ids: Iterable[int]) -> None:
    """Note that the broker has confirmed these events."""
    await tx.execute(_mark(dialect_of(tx)), _IDS.parameters((event_id,) for event_id in ids))


async def backlog(tx: Transaction) -> Backlog:
    row = (
        await tx.execute(
            select(func.count().label("events"), func.min(outbox.c.created_at).label("oldest_at"))
            .select_from(outbox)
            .where(outbox.c.sent_at.is_(None))
        )
    ).one()
    return Backlog(events=row.events, oldest_at=row.oldest_at)


async def purge(
    tx: Transaction,
    *,
    older_than_secs: float,
    shards: Collection[int] | None = None,
    limit: int = 5_000,
) -> int:
    """Delete up to `limit` of the oldest events (of these shards) that were sent so long ago;
    how many were."""
    oldest = (
        select(outbox.c.id)
        .where(outbox.c.sent_at < seconds_from_now(text(str(-float(older_than_secs)))))
        .order_by(outbox.c.id)
        .limit(limit)
    )
    if shards is not None:
        oldest = oldest.where(outbox.c.shard.in_(sorted(shards)))
    return (await tx.execute(delete(outbox).where(outbox.c.id.in_(oldest)))).rowcount


@cache
def _mark(dialect: Dialect) -> Executable:
    ids = _IDS.source(dialect)
    return (
        update(outbox)
        .values(sent_at=database_now())
        .where(outbox.c.id == ids.c.id, outbox.c.sent_at.is_(None))
    )
