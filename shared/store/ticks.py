"""The newest tick of each market, for people and for whoever starts late."""

from collections.abc import Iterable
from functools import cache

from sqlalchemy import Executable, Text, and_, or_, select, true

from shared.clock import datetime_of
from shared.messages import Tick, decode_tick, encode
from shared.store.bulk import Rows, dialect_of, insert_into
from shared.store.database_url import Dialect
from shared.store.engine import Transaction
from shared.store.tables import latest_ticks
from shared.store.types import Id, Moment

_TICKS = Rows(
    "ticks",
    venue=Text,
    pair=Text,
    body=Text,
    observed_at=Moment,
    stream_epoch=Id,
    sequence=Id,
)


async def save(tx: Transaction, ticks: Iterable[Tick]) -> None:
    """Keep these ticks, at most one per market; one that is older than what is kept is dropped."""
    rows = [
        (
            tick.venue,
            tick.pair,
            encode(tick).decode(),
            datetime_of(tick.observed_at_ms),
            tick.stream_epoch,
            tick.sequence,
        )
        for tick in sorted(ticks, key=lambda tick: tick.market)
    ]
    await tx.execute(_save(dialect_of(tx)), _TICKS.parameters(rows))


async def read(tx: Transaction, *, venue: str | None = None, pair: str | None = None) -> list[Tick]:
    """The newest tick of every market, of a venue's, or of one, by market."""
    query = select(latest_ticks.c.body).order_by(latest_ticks.c.venue, latest_ticks.c.pair)
    if venue is not None:
        query = query.where(latest_ticks.c.venue == venue)
    if pair is not None:
        query = query.where(latest_ticks.c.pair == pair)
    return [decode_tick(body.encode()) for body in await tx.scalars(query)]


@cache
def _save(dialect: Dialect) -> Executable:
    ticks = _TICKS.source(dialect)
    insert = insert_into(dialect, latest_ticks).from_select(
        ticks.c.keys(), select(*ticks.c).where(true())
    )
    new = insert.excluded
    newer = or_(
        latest_ticks.c.stream_epoch < new.stream_epoch,
        and_(
            latest_ticks.c.stream_epoch == new.stream_epoch,
            latest_ticks.c.sequence < new.sequence,
        ),
    )
    return insert.on_conflict_do_update(
        index_elements=["venue", "pair"],
        set_={name: new[name] for name in ("body", "observed_at", "stream_epoch", "sequence")},
        where=newer,
    )
