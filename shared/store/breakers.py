"""Breakers as rows: opened by losses, closed when their day is over or by hand, each an event."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Executable,
    Integer,
    Row,
    Select,
    Text,
    and_,
    case,
    func,
    or_,
    select,
    true,
    update,
)

from shared.breakers import Trip
from shared.clock import datetime_of, ms_of
from shared.limits import BreakerKind, BreakerScope
from shared.messages import BreakerClosed, BreakerOpened, encode
from shared.orders import OrderFacts
from shared.store.bulk import Rows, dialect_of, insert_into
from shared.store.database_url import Dialect
from shared.store.engine import Transaction
from shared.store.tables import bots, breakers, users
from shared.store.trading_statements import BOT_IDS, EVENTS, insert_events
from shared.store.types import Id, Json, Moment, database_now
from shared.topology import RISK, breaker_key

Subject = tuple[BreakerScope, int]
"""Whom a breaker stops: the scope and the bot's or user's id."""

RESET_BY_HAND: Final = "reset_by_hand"
"""Set among a closed breaker's facts: earlier results are not held against its subject again."""

_SUBJECTS = Rows("subjects", scope=Text, scope_id=Id)
_TRIPS = Rows("trips", scope=Text, scope_id=Id, kind=Text, open_until=Moment, facts=Json)
_CLOSED = Rows("closed", scope=Text, scope_id=Id, kind=Text, open_until=Moment, facts=Json)
_CLOCKS = Rows("clocks", venue=Text, now=Moment)
_SHARDS = Rows("shards", number=Integer)

_KEY: Final = ("scope", "scope_id", "kind")


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """An open breaker. `open_until` is market time, None until reset by hand.

    `name` is the bot's or the user's.
    """

    scope: BreakerScope
    scope_id: int
    kind: BreakerKind
    name: str
    open_until: datetime | None
    opened_at: datetime | None
    facts: Mapping[str, object]


async def read_open(
    tx: Transaction, subjects: Collection[Subject] | None = None, *, limit: int | None = None
) -> list[Breaker]:
    """Open breakers, oldest first: of these bots and users, or of all."""
    query = _open_breakers().order_by(breakers.c.opened_at).limit(limit)
    parameters = {}
    if subjects is not None:
        asked = _SUBJECTS.source(dialect_of(tx))
        query = query.join(
            asked, and_(breakers.c.scope == asked.c.scope, breakers.c.scope_id == asked.c.scope_id)
        )
        parameters = _SUBJECTS.parameters(subjects)
    return [_breaker(row) for row in await tx.execute(query, parameters)]


async def count_open(tx: Transaction) -> dict[BreakerScope, int]:
    """How many breakers are open, by scope; a scope without any is absent."""
    rows = await tx.execute(
        select(breakers.c.scope, func.count().label("open"))
        .where(breakers.c.open)
        .group_by(breakers.c.scope)
    )
    return {BreakerScope(row.scope): row.open for row in rows}


async def open_tripped(tx: Transaction, trips: Sequence[tuple[Trip, OrderFacts]]) -> None:
    """Open breakers, each with the order that tripped it, and write an event for each.

    One that is open for as long already stays as it is, without an event. The same breaker must
    not be among them twice.
    """
    by_key = {(t.scope, t.scope_id, t.kind): (t, order) for t, order in sorted(trips, key=_key)}
    new = _TRIPS.parameters(
        (*key, datetime_of(t.open_until_ms), _facts(t, order)) for key, (t, order) in by_key.items()
    )
    events = []
    for row in (await tx.execute(_open(dialect_of(tx)), new)).all():
        opened, order = by_key[BreakerScope(row.scope), row.scope_id, BreakerKind(row.kind)]
        event = BreakerOpened(
            scope=opened.scope,
            scope_id=opened.scope_id,
            user_id=order.user_id,
            kind=opened.kind,
            open_until_ms=opened.open_until_ms,
            client_order_id=order.client_order_id,
            facts=dict(opened.facts),
            at_ms=ms_of(row.opened_at),
        )
        events.append((order.shard, event))
    await _announce(tx, events)


async def close_due(
    tx: Transaction, *, market_time_ms: Mapping[str, int], shards: Collection[int]
) -> int:
    """Close the breakers of these shards whose day is over, with an event each; how many.

    `market_time_ms` is the latest market time by venue: a bot's day ends on its own venue's
    clock, a user's on the first that gets there.
    """
    if not market_time_ms or not shards:
        return 0
    rows = await tx.execute(
        _due(dialect_of(tx)),
        {
            **_CLOCKS.parameters((v, datetime_of(now)) for v, now in market_time_ms.items()),
            **_SHARDS.parameters((shard,) for shard in shards),
        },
    )
    return len(await _close(tx, rows.all(), by_hand=False))


async def reset(tx: Transaction, scope: BreakerScope, scope_id: int) -> list[BreakerKind]:
    """Close the open breakers of a bot or user by hand, with an event each; which they were.

    What it lost before is not held against it again.
    """
    rows = await tx.execute(
        _with_owner().where(breakers.c.scope == scope, breakers.c.scope_id == scope_id)
    )
    return await _close(tx, rows.all(), by_hand=True)


async def read_resets(tx: Transaction, subjects: Collection[Subject]) -> dict[Subject, datetime]:
    """When the daily losses of these bots and users were last reset by hand, where they were."""
    asked = _SUBJECTS.parameters(subjects)
    return {
        (BreakerScope(row.scope), row.scope_id): row.updated_at
        for row in await tx.execute(_closed_before(dialect_of(tx)), asked)
        if row.facts.get(RESET_BY_HAND)
    }


async def _close(tx: Transaction, due: Sequence[Row[Any]], *, by_hand: bool) -> list[BreakerKind]:
    """Close those that are still open for as long as when they were read."""
    if not due:
        return []
    dialect = dialect_of(tx)
    streaks = [row.scope_id for row in due if row.kind == BreakerKind.LOSS_STREAK]
    if streaks:
        # Bots before breakers, as losses lock them.
        bot_ids = BOT_IDS.parameters((bot_id,) for bot_id in streaks)
        await tx.execute(_lock_bots(dialect), bot_ids)
    marked = {RESET_BY_HAND: True} if by_hand else {}
    closing = _CLOSED.parameters(
        (row.scope, row.scope_id, row.kind, row.open_until, {**row.facts, **marked}) for row in due
    )
    closed = {_row_key(row): row for row in await tx.execute(_shut(dialect), closing)}
    ended = [key[1] for key in closed if key[2] == BreakerKind.LOSS_STREAK]
    if ended:
        bot_ids = BOT_IDS.parameters((bot_id,) for bot_id in ended)
        await tx.execute(_end_streaks(dialect), bot_ids)
    events = [
        (
            row.shard,
            BreakerClosed(
                scope=row.scope,
                scope_id=row.scope_id,
                user_id=row.user_id,
                kind=row.kind,
                by_hand=by_hand,
                at_ms=ms_of(closed[_row_key(row)].updated_at),
            ),
        )
        for row in due
        if _row_key(row) in closed
    ]
    await _announce(tx, events)
    return [BreakerKind(event.kind) for _, event in events]


async def _announce(
    tx: Transaction, events: Iterable[tuple[int, BreakerOpened | BreakerClosed]]
) -> None:
    rows = [
        (
            shard,
            event.scope_id if event.scope == BreakerScope.BOT else None,
            RISK,
            breaker_key(event.scope),
            encode(event).decode(),
        )
        for shard, event in events
    ]
    if rows:
        await tx.execute(insert_events(dialect_of(tx)), EVENTS.parameters(rows))


def _key(tripped: tuple[Trip, OrderFacts]) -> tuple[str, int, str]:
    # Every writer of several breakers takes them in this order, so that none waits in a circle.
    trip = tripped[0]
    return trip.scope, trip.scope_id, trip.kind


def _row_key(row: Row[Any]) -> tuple[str, int, str]:
    return row.scope, row.scope_id, row.kind


def _facts(trip: Trip, order: OrderFacts) -> dict[str, object]:
    return {**trip.facts, "client_order_id": order.client_order_id}


def _breaker(row: Row[Any]) -> Breaker:
    return Breaker(
        **{
            **row._mapping,
            "scope": BreakerScope(row.scope),
            "kind": BreakerKind(row.kind),
        }
    )


def _is_bots() -> ColumnElement[bool]:
    return and_(breakers.c.scope == BreakerScope.BOT, bots.c.id == breakers.c.scope_id)


def _is_users() -> ColumnElement[bool]:
    return and_(breakers.c.scope == BreakerScope.USER, users.c.id == breakers.c.scope_id)


def _open_breakers() -> Select[Any]:
    own = (breakers.c[name] for name in Breaker.__slots__ if name != "name")
    name = case((breakers.c.scope == BreakerScope.BOT, bots.c.name), else_=users.c.name)
    return (
        select(*own, func.coalesce(name, "").label("name"))
        .select_from(breakers)
        .outerjoin(bots, _is_bots())
        .outerjoin(users, _is_users())
        .where(breakers.c.open)
    )


def _with_owner() -> Select[Any]:
    """Open breakers with the user and the shard that they belong to, in the order of `_key`."""
    # All of a user's bots are on one shard: any of them tells.
    shard = select(func.min(bots.c.shard)).where(bots.c.user_id == breakers.c.scope_id)
    users_shard = shard.correlate(breakers).scalar_subquery()
    is_bots = breakers.c.scope == BreakerScope.BOT
    return (
        select(
            *(breakers.c[name] for name in (*_KEY, "open_until", "facts")),
            case((is_bots, bots.c.user_id), else_=breakers.c.scope_id).label("user_id"),
            case((is_bots, bots.c.shard), else_=users_shard).label("shard"),
        )
        .select_from(breakers)
        .outerjoin(bots, _is_bots())
        .where(breakers.c.open)
        .order_by(*(breakers.c[name] for name in _KEY))
    )


@cache
def _due(dialect: Dialect) -> Executable:
    clocks, shards = _CLOCKS.source(dialect), _SHARDS.source(dialect)
    held = select(shards.c.number)
    owned = bots.alias("owned")
    own_clock = select(clocks.c.now).where(clocks.c.venue == bots.c.venue).scalar_subquery()
    first_clock = select(func.max(clocks.c.now)).scalar_subquery()
    of_bot = and_(
        breakers.c.scope == BreakerScope.BOT,
        bots.c.shard.in_(held),
        breakers.c.open_until <= own_clock,
    )
    of_user = and_(
        breakers.c.scope == BreakerScope.USER,
        select(owned.c.id)
        .where(owned.c.user_id == breakers.c.scope_id, owned.c.shard.in_(held))
        .exists(),
        breakers.c.open_until <= first_clock,
    )
    return _with_owner().where(or_(of_bot, of_user))


@cache
def _open(dialect: Dialect) -> Executable:
    new = _TRIPS.source(dialect)
    insert = insert_into(dialect, breakers).from_select(
        [*new.c.keys(), "open", "opened_at", "updated_at"],
        select(*new.c, true(), database_now(), database_now()).where(true()),
    )
    excluded = insert.excluded
    return insert.on_conflict_do_update(
        index_elements=list(_KEY),
        set_={
            name: excluded[name]
            for name in ("open", "open_until", "facts", "opened_at", "updated_at")
        },
        where=or_(~breakers.c.open, breakers.c.open_until < excluded.open_until),
    ).returning(*(breakers.c[name] for name in (*_KEY, "opened_at")))


@cache
def _shut(dialect: Dialect) -> Executable:
    seen = _CLOSED.source(dialect)
    return (
        update(breakers)
        .values(open=False, facts=seen.c.facts, updated_at=database_now())
        .where(
            *(breakers.c[name] == seen.c[name] for name in _KEY),
            breakers.c.open,
            breakers.c.open_until.is_not_distinct_from(seen.c.open_until),
        )
        .returning(*(breakers.c[name] for name in (*_KEY, "updated_at")))
    )


@cache
def _closed_before(dialect: Dialect) -> Executable:
    asked = _SUBJECTS.source(dialect)
    return (
        select(breakers.c.scope, breakers.c.scope_id, breakers.c.facts, breakers.c.updated_at)
        .join_from(
            asked,
            breakers,
            and_(breakers.c.scope == asked.c.scope, breakers.c.scope_id == asked.c.scope_id),
        )
        .where(breakers.c.kind == BreakerKind.DAILY_LOSS, ~breakers.c.open)
    )


@cache
def _lock_bots(dialect: Dialect) -> Executable:
    ids = BOT_IDS.source(dialect)
    return (
        select(bots.c.id)
        .where(bots.c.id.in_(select(ids.c.id)))
        .order_by(bots.c.id)
        .with_for_update()
    )


@cache
def _end_streaks(dialect: Dialect) -> Executable:
    ids = BOT_IDS.source(dialect)
    return update(bots).values(loss_streak=0).where(bots.c.id.in_(select(ids.c.id)))
