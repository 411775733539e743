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
    exists,
    func,
    not_,
    or_,
    select,
    text,
    true,
    update,
)

from shared.leases import LeaseKind
from shared.orders import Mode, PositionStatus
from shared.store import live_orders
from shared.store.bulk import Rows, insert_into
from shared.store.database_url import Dialect
from shared.store.tables import (
    UNSETTLED_ORDER,
    bots,
    fills,
    leases,
    orders,
    outbox,
    positions,
)
from shared.store.types import (
    Id,
    Json,
    Moment,
    Money,
    database_now,
    seconds_after,
    seconds_from_now,
)

SEND_WITHIN_SECS: Final = 3.0
LEASE_MARGIN_SECS: Final = 0.5
"""A live order is sent within so long of its commit, and so long before its lease may end."""

SHARDS: Final = Rows("shards", number=Integer)
KEYS: Final = Rows("keys", bot_id=Id, pair=Text, sequence=Integer)
BOT_IDS: Final = Rows("bot_ids", id=Id)
ORDER_IDS: Final = Rows("order_ids", client_order_id=Text)
PEAKS: Final = Rows("peaks", bot_id=Id, pair=Text, sequence=Integer, peak=Float)

NEW_POSITIONS: Final = Rows(
    "new_positions",
    bot_id=Id,
    user_id=Id,
    credential_id=Id,
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
    entry_quantity=Money,
    entry_cost=Money,
    exit_quantity=Money,
    exit_proceeds=Money,
    fees=Money,
    fee_quantity=Money,
    dust_quantity=Money,
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
    credential_id=Id,
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
    credential_id=Id,
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
    """Insert `NEW_POSITIONS`; returns the keys of those that did not conflict.

    An unsettled order on the pair is a conflict too: a late one has no unclosed position.
    """
    new = NEW_POSITIONS.source(dialect)
    return (
        insert_into(dialect, positions)
        .from_select(new.c.keys(), select(*new.c).where(_free(new, new.c.mode)))
        .on_conflict_do_nothing()
        .returning(positions.c.bot_id, positions.c.pair, positions.c.sequence)
    )


@lru_cache
def lock_open_positions(dialect: Dialect) -> Executable:
    """Lock the positions of `KEYS` that are open and wait for no order; keys and versions."""
    keys = KEYS.source(dialect)
    return (
        select(positions.c.bot_id, positions.c.pair, positions.c.sequence, positions.c.version)
        .where(
            same_position(keys),
            positions.c.status == PositionStatus.OPEN,
            _free(keys, positions.c.mode),
        )
        .order_by(positions.c.id)
        .with_for_update(of=positions)
    )


@lru_cache
def read_positions(dialect: Dialect) -> Executable:
    """The positions of `KEYS`."""
    return select(positions).where(same_position(KEYS.source(dialect)))


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
    written = set(new.c.keys()) - {"bot_id", "pair", "sequence", "closed"}
    closed_at = func.coalesce(positions.c.closed_at, database_now())
    return (
        update(positions)
        .values(
            {name: new.c[name] for name in sorted(written)}
            | {"closed_at": case((new.c.closed == 1, closed_at))}
        )
        .where(same_position(new))
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
        .join_from(new, positions, same_position(new))
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


def same_position(rows: FromClause) -> ColumnElement[bool]:
    """Whether a position is that of a row with `bot_id`, `pair` and `sequence`."""
    return (
        (positions.c.bot_id == rows.c.bot_id)
        & (positions.c.pair == rows.c.pair)
        & (positions.c.sequence == rows.c.sequence)
    )


def _free(rows: FromClause, mode: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether no order on a row's pair is unsettled; none on paper ever is."""
    unsettled = exists().where(
        orders.c.bot_id == rows.c.bot_id,
        orders.c.pair == rows.c.pair,
        text(f"orders.{UNSETTLED_ORDER}"),
    )
    # The mode first, and not as a join: batches on paper, the largest, look nothing up.
    return or_(mode == Mode.PAPER, not_(unsettled))


@lru_cache
def insert_orders(dialect: Dialect) -> Executable:
    """Insert `NEW_ORDERS`; ids, the database's time, and `send_by` of live ones. A conflict is
    an error."""
    new = NEW_ORDERS.source(dialect)
    names = [column.key for column in new.c if column.key != "settled"]
    # Asked once: the clock moves within a statement, and nothing settles before it is committed.
    now = select(
        database_now().label("at"),
        seconds_from_now(text(str(SEND_WITHIN_SECS))).label("soon"),
    ).cte("now")
    # The lease is locked and held: its row is there, and a renewal only moves its end away.
    safe_until = (
        select(seconds_after(leases.c.expires_at, text(str(-LEASE_MARGIN_SECS))))
        .where(leases.c.kind == LeaseKind.SHARD, leases.c.number == new.c.shard)
        .scalar_subquery()
    )
    send_by = case((now.c.soon < safe_until, now.c.soon), else_=safe_until)
    return (
        insert_into(dialect, orders)
        .from_select(
            [*names, "committed_at", "settled_at", "send_by"],
            select(
                *(new.c[name] for name in names),
                now.c.at,
                case((new.c.settled == 1, now.c.at)),
                case((new.c.mode == Mode.LIVE, send_by)),
            ).join_from(new, now, true()),
        )
        .returning(orders.c.client_order_id, orders.c.committed_at, orders.c.send_by)
    )


@lru_cache
def read_orders(dialect: Dialect) -> Executable:
    """The orders of `ORDER_IDS` that exist, as `live_orders.live_order` reads them, with which
    decision of which lease they are."""
    ids = ORDER_IDS.source(dialect)
    return (
        live_orders.select_orders()
        .add_columns(orders.c.lease_epoch, orders.c.decided_at)
        .where(orders.c.client_order_id.in_(select(ids.c.client_order_id)))
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
