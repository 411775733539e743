"""Markets: what the venues demand of an order in each, and which of them anybody needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cache

from sqlalchemy import (
    ColumnElement,
    Executable,
    Select,
    Text,
    bindparam,
    exists,
    func,
    literal,
    or_,
    select,
    text,
    true,
    union,
)

from shared.money import MarketRules
from shared.orders import BotStatus
from shared.store.bulk import Rows, dialect_of, insert_into
from shared.store.database_url import Dialect
from shared.store.engine import Transaction
from shared.store.tables import (
    UNCLOSED_POSITION,
    UNSETTLED_ORDER,
    bot_pairs,
    bots,
    markets,
    orders,
    positions,
)
from shared.store.types import Money, database_now
from shared.venues import VENUES

Market = tuple[str, str]
"""(venue, pair)."""


class MarketStatus(StrEnum):
    LISTED = "listed"
    HALTED = "halted"
    """Not traded now, or no longer listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMarket:
    """What the price stream last learned of a market."""

    status: MarketStatus
    rules: MarketRules
    updated_at: datetime


_RULES = ("lot_step", "price_tick", "min_quantity", "min_notional")
_MARKETS = Rows(
    "venue_markets",
    pair=Text,
    lot_step=Money,
    price_tick=Money,
    min_quantity=Money,
    min_notional=Money,
)


async def save(tx: Transaction, venue: str, rules: Mapping[str, MarketRules]) -> None:
    """Write all markets that a venue lists, by pair; its others become halted.

    Rows that say the same already are not touched.
    """
    dialect = dialect_of(tx)
    rows = ((pair, *(getattr(of, name) for name in _RULES)) for pair, of in sorted(rules.items()))
    listed = {"listed_on": venue, **_MARKETS.parameters(rows)}
    await tx.execute(_save(dialect), listed)
    await tx.execute(_halt(dialect), listed)


async def read(tx: Transaction, venue: str | None = None) -> dict[Market, StoredMarket]:
    """Every market that a venue listed once, or those of one venue."""
    query = select(markets)
    if venue is not None:
        query = query.where(markets.c.venue == venue)
    return {
        (row.venue, row.pair): StoredMarket(
            status=MarketStatus(row.status),
            rules=MarketRules(**{name: getattr(row, name) for name in _RULES}),
            updated_at=row.updated_at,
        )
        for row in await tx.execute(query)
    }


async def wanted(tx: Transaction) -> dict[str, set[str]]:
    """The pairs that need prices, by venue.

    Those with an active bot, an unclosed position or an unsettled order. It walks the index of
    pairs from one to the next, so its cost grows with the markets, hardly with the bots.
    """
    found: dict[str, set[str]] = {}
    for venue, pair in await tx.execute(_wanted()):
        found.setdefault(venue, set()).add(pair)
    return found


@cache
def _save(dialect: Dialect) -> Executable:
    listed = _MARKETS.source(dialect)
    insert = insert_into(dialect, markets).from_select(
        ["venue", "pair", *_RULES, "status"],
        select(bindparam("listed_on", type_=Text()), *listed.c, literal(MarketStatus.LISTED)).where(
            true()
        ),
    )
    new = insert.excluded
    changed = {name: new[name] for name in (*_RULES, "status")}
    differs = [markets.c[name].is_distinct_from(value) for name, value in changed.items()]
    return insert.on_conflict_do_update(
        index_elements=["venue", "pair"],
        set_={**changed, "updated_at": database_now()},
        where=or_(*differs),
    )


@cache
def _halt(dialect: Dialect) -> Executable:
    listed = _MARKETS.source(dialect)
    return (
        markets.update()
        .values(status=MarketStatus.HALTED, updated_at=database_now())
        .where(
            markets.c.venue == bindparam("listed_on", type_=Text()),
            markets.c.status != MarketStatus.HALTED,
            markets.c.pair.not_in(select(listed.c.pair)),
        )
    )


@cache
def _wanted() -> Executable:
    """https://wiki.postgresql.org/wiki/Loose_indexscan, once per venue."""
    return union(
        *(_pairs_with_active_bots(venue) for venue in VENUES),
        select(positions.c.venue, positions.c.pair).where(text(UNCLOSED_POSITION)),
        select(orders.c.venue, orders.c.pair).where(text(UNSETTLED_ORDER)),
    )


def _pairs_with_active_bots(venue: str) -> Select[tuple[str, str]]:
    name = literal(venue, Text)
    walk = select(_first_pair(name)).cte(f"pairs_on_{venue}", recursive=True)
    walk = walk.union_all(
        select(_first_pair(name, after=walk.c.pair)).where(walk.c.pair.is_not(None))
    )
    judged = exists().where(
        bot_pairs.c.venue == name,
        bot_pairs.c.pair == walk.c.pair,
        bot_pairs.c.active,
        bots.c.id == bot_pairs.c.bot_id,
        bots.c.status == BotStatus.ACTIVE,
        bots.c.removed_at.is_(None),
    )
    return select(name.label("venue"), walk.c.pair).where(walk.c.pair.is_not(None), judged)


def _first_pair(
    venue: ColumnElement[str], after: ColumnElement[str] | None = None
) -> ColumnElement[str]:
    query = select(func.min(bot_pairs.c.pair)).where(bot_pairs.c.venue == venue)
    if after is not None:
        query = query.where(bot_pairs.c.pair > after)
    return query.scalar_subquery().label("pair")
