"""The statements of `trading.py`: rows in, rows out, each of fixed text for any number of rows."""

from functools import lru_cache
from typing import Final

from sqlalchemy import (
    ColumnElement,
    Executable,
    Float,
    FromClause,
    Integer,
    Text,
    bindparam,
    case,
    select,
    true,
    update,
)

from shared.leases import LeaseKind
from shared.orders import PositionStatus
from shared.store.bulk import Rows, insert_into
from shared.store.database_url import Dialect
from shared.store.tables import bots, fills, leases, orders, outbox, positions
from shared.store.types import Id, Json, Moment, Money, database_now

SHARDS: Final = Rows("shards", number=Integer)
KEYS: Final = Rows("keys", bot_id=Id, pair=Text, sequence=Integer)
BOT_IDS: Final = Rows("bot_ids", id=Id)
ORDER_IDS: Final = Rows("order_ids", client_order_id=Text)
PEAKS: Final = Rows("peaks", bot_id=Id, pair=Text, sequence=Integer, peak=Float)

NEW_POSITIONS: Final = Rows(
    "new_positions",
    bot_id=Id,
    user_id=Id,
    venue=Text,
    pair=Text,
    sequence=Integer,
    mode=Text,
    status=Text,
    version=Integer,
    regime=Text,
    entry_quantity=Money,
    entry_cost=Money,
    fees=Money,
    entry_reason=Text,
    entered_at=Moment,
)
CHANGED_POSITIONS: Final = Rows(
    "changed_positions",
    bot_id=Id,
    pair=Text,
    sequence=Integer,
    status=Text,
    version=Integer,
    exit_quantity=Money,
    exit_proceeds=Money,
    fees=Money,
    realised_pnl=Money,
    exit_reason=Text,
    exited_at=Moment,
    closed=Integer,
)
NEW_ORDERS: Final = Rows(
    "new_orders",
    client_order_id=Text,
    bot_id=Id,
    user_id=Id,
    shard=Integer,
    mode=Text,
    venue=Text,
    pair=Text,
    position_sequence=Integer,
    leg=Text,
    attempt=Integer,
    side=Text,
    quantity=Money,
    decided_price=Money,
    limit_price=Money,
    status=Text,
    filled_quantity=Money,
    average_price=Money,
    fee=Money,
    fee_currency=Text,
    reason=Text,
    facts=Json,
    lease_epoch=Id,
    market_time=Moment,
    observed_at=Moment,
    received_at=Moment,
    decided_at=Moment,
    settled=Integer,
)
NEW_FILLS: Final = Rows(
    "new_fills",
    venue=Text,
    pair=Text,
    trade_id=Text,
    client_order_id=Text,
    bot_id=Id,
    position_sequence=Integer,
    leg=Text,
    quantity=Money,
    price=Money,
    fee=Money,
    fee_currency=Text,
    filled_at=Moment,
)
EVENTS: Final = Rows("events", shard=Integer, bot_id=Id, exchange=Text, routing_key=Text, body=Text)


@lru_cache
def lock_leases(dialect: Dialect) -> Executable:
    """Lock the leases of `SHARDS` that :owner holds now, for as long as the transaction lasts."""
    wanted = SHARDS.source(dialect)
    # In shard order, as every renewal locks them: two transactions never wait for each other.
    # FOR KEY SHARE makes whoever takes or releases wait, since those lock FOR UPDATE, and no
    # renewal, which locks FOR NO KEY UPDATE (PostgreSQL 13.3.2): a burst of large transactions
    # must not cost its own worker the leases.
    return (
        select(leases.c.number, leases.c.epoch)
        .where(leases.c.number.in_(select(wanted.c.number)), *_held_by_owner())
        .order_by(leases.c.number)
        .with_for_update(read=True, key_share=True)
    )


@lru_cache
def wait_for_holders(dialect: Dialect) -> Executable:
    """Wait until no transaction has the leases of `SHARDS` locked, and keep others from it."""
    wanted = SHARDS.source(dialect)
    return (
        select(leases.c.number)
        .where(leases.c.kind == LeaseKind.SHARD, leases.c.number.in_(select(wanted.c.number)))
        .order_by(leases.c.number)
        .with_for_update()
    )


def _held_by_owner() -> tuple[ColumnElement[bool], ...]:
    return (
        leases.c.kind == LeaseKind.SHARD,
        leases.c.owner == bindparam("owner"),
        leases.c.expires_at > database_now(),
    )


@lru_cache
def insert_positions(dialect: Dialect) -> Executable:
    """Insert `NEW_POSITIONS`; returns the keys of those that did not conflict."""
    new = NEW_POSITIONS.source(dialect)
    return (
        insert_into(dialect, positions)
        .from_select(new.c.keys(), select(*new.c).where(true()))
        .on_conflict_do_nothing()
        .returning(positions.c.bot_id, positions.c.pair, positions.c.sequence)
    )


@lru_cache
def lock_open_positions(dialect: Dialect) -> Executable:
    """Lock the positions of `KEYS` that are open; returns keys and versions."""
    keys = KEYS.source(dialect)
    return (
        select(positions.c.bot_id, positions.c.pair, positions.c.sequence, positions.c.version)
        .where(_same_position(keys), positions.c.status == PositionStatus.OPEN)
        .order_by(positions.c.id)
        .with_for_update(of=positions)
    )


@lru_cache
def read_positions(dialect: Dialect) -> Executable:
    """The positions of `KEYS`."""
    return select(positions).where(_same_position(KEYS.source(dialect)))


@lru_cache
def read_fills(dialect: Dialect) -> Executable:
    """The fills of the positions of `KEYS`."""
    keys = KEYS.source(dialect)
    return select(fills).where(
        fills.c.bot_id == keys.c.bot_id,
        fills.c.pair == keys.c.pair,
        fills.c.position_sequence == keys.c.sequence,
    )


@lru_cache
def update_positions(dialect: Dialect) -> Executable:
    """Write `CHANGED_POSITIONS`."""
    new = CHANGED_POSITIONS.source(dialect)
    written = (
        "status",
        "version",
        "exit_quantity",
        "exit_proceeds",
        "fees",
        "realised_pnl",
        "exit_reason",
        "exited_at",
    )
    return (
        update(positions)
        .values(
            {name: new.c[name] for name in written}
            | {"closed_at": case((new.c.closed == 1, database_now()))}
        )
        .where(_same_position(new))
    )


@lru_cache
def raise_peaks(dialect: Dialect) -> Executable:
    """Write `PEAKS` where they are higher, the position unclosed and its shard held by :owner."""
    new = PEAKS.source(dialect)
    held = (
        select(leases.c.number)
        .join(bots, bots.c.shard == leases.c.number)
        .where(bots.c.id == positions.c.bot_id, *_held_by_owner())
        .exists()
    )
    # In the order in which exits lock them, so that the two never wait for each other.
    lower = (
        select(positions.c.id, new.c.peak)
        .join_from(new, positions, _same_position(new))
        .where(
            positions.c.status != PositionStatus.CLOSED,
            positions.c.peak_profit.is_(None) | (positions.c.peak_profit < new.c.peak),
            held,
        )
        .order_by(positions.c.id)
        .with_for_update(of=positions)
        .cte("lower")
    )
    return update(positions).values(peak_profit=lower.c.peak).where(positions.c.id == lower.c.id)


def _same_position(rows: FromClause) -> ColumnElement[bool]:
    return (
        (positions.c.bot_id == rows.c.bot_id)
        & (positions.c.pair == rows.c.pair)
        & (positions.c.sequence == rows.c.sequence)
    )


@lru_cache
def insert_orders(dialect: Dialect) -> Executable:
    """Insert `NEW_ORDERS`; returns ids and the database's time. A conflict is an error."""
    new = NEW_ORDERS.source(dialect)
    names = [column.key for column in new.c if column.key != "settled"]
    # Asked once: the clock moves within a statement, and nothing settles before it is committed.
    now = select(database_now().label("at")).cte("now")
    return (
        insert_into(dialect, orders)
        .from_select(
            [*names, "committed_at", "settled_at"],
            select(
                *(new.c[name] for name in names), now.c.at, case((new.c.settled == 1, now.c.at))
            ).join_from(new, now, true()),
        )
        .returning(orders.c.client_order_id, orders.c.committed_at)
    )


@lru_cache
def read_orders(dialect: Dialect) -> Executable:
    """The client order ids of `ORDER_IDS` that exist."""
    ids = ORDER_IDS.source(dialect)
    return select(orders.c.client_order_id).where(
        orders.c.client_order_id.in_(select(ids.c.client_order_id))
    )


@lru_cache
def insert_fills(dialect: Dialect) -> Executable:
    """Insert `NEW_FILLS`; a trade that is known already is left out."""
    new = NEW_FILLS.source(dialect)
    return (
        insert_into(dialect, fills)
        .from_select(new.c.keys(), select(*new.c).where(true()))
        .on_conflict_do_nothing()
    )


@lru_cache
def insert_events(dialect: Dialect) -> Executable:
    """Append `EVENTS` to the outbox, in their order."""
    new = EVENTS.source(dialect)
    return insert_into(dialect, outbox).from_select(new.c.keys(), select(*new.c))
