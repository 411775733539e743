"""The statements of `settlement.py`: rows in, rows out, each of fixed text for any number."""

from functools import lru_cache
from typing import Final

from sqlalchemy import Executable, Text, and_, case, func, or_, select, text, true, update

from shared.orders import UNSETTLED
from shared.store.bulk import Rows, insert_into
from shared.store.database_url import Dialect
from shared.store.tables import (
    UNCLOSED_POSITION,
    UNSETTLED_ORDER,
    fills,
    markets,
    orders,
    positions,
)
from shared.store.trading_statements import KEYS, NEW_FILLS, NEW_POSITIONS, ORDER_IDS, SHARDS
from shared.store.types import Id, Moment, Money, database_now

PAIRS: Final = Rows("pairs", bot_id=Id, pair=Text)
MARKETS: Final = Rows("wanted_markets", venue=Text, pair=Text)
CHANGED_ORDERS: Final = Rows(
    "changed_orders",
    client_order_id=Text,
    status=Text,
    filled_quantity=Money,
    average_price=Money,
    fee=Money,
    fee_currency=Text,
    venue_order_id=Text,
    detail=Text,
    sent_at=Moment,
)


@lru_cache
def read_shards(dialect: Dialect) -> Executable:
    """The shards of the orders of `ORDER_IDS`."""
    ids = ORDER_IDS.source(dialect)
    return (
        select(orders.c.shard)
        .where(orders.c.client_order_id.in_(select(ids.c.client_order_id)))
        .distinct()
    )


@lru_cache
def lock_orders(dialect: Dialect) -> Executable:
    """Lock the orders of `ORDER_IDS` that are in `SHARDS`; `now` is the database's clock.

    All but their facts, which are large.
    """
    ids, shards = ORDER_IDS.source(dialect), SHARDS.source(dialect)
    read = (column for column in orders.c if column.key != "facts")
    return (
        select(*read, database_now().label("now"))
        .where(
            orders.c.client_order_id.in_(select(ids.c.client_order_id)),
            orders.c.shard.in_(select(shards.c.number)),
        )
        .order_by(orders.c.id)
        .with_for_update(of=orders)
    )


@lru_cache
def lock_positions(dialect: Dialect) -> Executable:
    """Lock the positions of `KEYS`, and the unclosed ones on the same pairs."""
    keys = KEYS.source(dialect)
    wanted = (
        select(positions.c.id)
        .join_from(
            keys,
            positions,
            and_(positions.c.bot_id == keys.c.bot_id, positions.c.pair == keys.c.pair),
        )
        .where(or_(positions.c.sequence == keys.c.sequence, text(f"positions.{UNCLOSED_POSITION}")))
    )
    return (
        select(positions)
        .where(positions.c.id.in_(wanted))
        .order_by(positions.c.id)
        .with_for_update(of=positions)
    )


@lru_cache
def last_sequences(dialect: Dialect) -> Executable:
    """The highest sequence of any position on each of `PAIRS`."""
    pairs = PAIRS.source(dialect)
    return (
        select(
            positions.c.bot_id, positions.c.pair, func.max(positions.c.sequence).label("sequence")
        )
        .join_from(
            pairs,
            positions,
            and_(positions.c.bot_id == pairs.c.bot_id, positions.c.pair == pairs.c.pair),
        )
        .group_by(positions.c.bot_id, positions.c.pair)
    )


@lru_cache
def read_unsettled(dialect: Dialect) -> Executable:
    """The unsettled orders on `PAIRS`: at most one each."""
    pairs = PAIRS.source(dialect)
    names = ("client_order_id", "bot_id", "pair", "position_sequence", "leg")
    return select(*(orders.c[name] for name in names)).join_from(
        pairs,
        orders,
        and_(
            orders.c.bot_id == pairs.c.bot_id,
            orders.c.pair == pairs.c.pair,
            text(f"orders.{UNSETTLED_ORDER}"),
        ),
    )


@lru_cache
def read_rules(dialect: Dialect) -> Executable:
    """What the venues demand in `MARKETS`."""
    wanted = MARKETS.source(dialect)
    return select(markets).join_from(
        wanted, markets, and_(markets.c.venue == wanted.c.venue, markets.c.pair == wanted.c.pair)
    )


@lru_cache
def read_order_fills(dialect: Dialect) -> Executable:
    """The fills of the orders of `ORDER_IDS`."""
    ids = ORDER_IDS.source(dialect)
    return select(fills).where(fills.c.client_order_id.in_(select(ids.c.client_order_id)))


@lru_cache
def insert_late_positions(dialect: Dialect) -> Executable:
    """Insert `NEW_POSITIONS` beside whatever is unsettled; returns those without a conflict."""
    new = NEW_POSITIONS.source(dialect)
    return (
        insert_into(dialect, positions)
        .from_select(new.c.keys(), select(*new.c).where(true()))
        .on_conflict_do_nothing()
        .returning(positions)
    )


@lru_cache
def record_fills(dialect: Dialect) -> Executable:
    """Insert `NEW_FILLS`; returns the trades that were not known, by order and trade id."""
    new = NEW_FILLS.source(dialect)
    return (
        insert_into(dialect, fills)
        .from_select(new.c.keys(), select(*new.c).where(true()))
        .on_conflict_do_nothing()
        .returning(fills.c.client_order_id, fills.c.trade_id)
    )


@lru_cache
def update_orders(dialect: Dialect) -> Executable:
    """Write `CHANGED_ORDERS`; the time of settling stays while the status does."""
    new = CHANGED_ORDERS.source(dialect)
    settled_at = case(
        (new.c.status.in_(sorted(UNSETTLED)), None),
        (new.c.status == orders.c.status, orders.c.settled_at),
        else_=database_now(),
    )
    return (
        update(orders)
        .values(
            {column.key: column for column in new.c if column.key != "client_order_id"}
            | {"settled_at": settled_at}
        )
        .where(orders.c.client_order_id == new.c.client_order_id)
    )
