"""What a worker needs of its bots: one row per bot and pair, a page at a time."""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any, Final

from sqlalchemy import ColumnElement, Executable, Row, and_, case, exists, func, or_, select, text

from shared.limits import BreakerScope, UserStatus
from shared.money import exact
from shared.orders import UNCLOSED, BotStatus, Leg, Mode, PositionStatus, PositionTotals
from shared.store.bulk import Rows, dialect_of
from shared.store.database_url import Dialect
from shared.store.engine import Store, Transaction
from shared.store.tables import (
    UNCLOSED_POSITION,
    UNSETTLED_ORDER,
    bot_pairs,
    bots,
    breakers,
    credentials,
    orders,
    positions,
    users,
)
from shared.store.types import Id

_PAGE: Final = 500
"""Bots: turning a page into rows must not keep a running worker from its ticks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPosition:
    """An unclosed position. `regime` and `entered_at` (market time) are those at entry.

    `peak_profit` is the highest since entry, a fraction, None if never saved. `exit_attempts` is
    one more than the number of its last exit order, settled or not, and `last_exit_at` (market
    time) when that was decided; 0 and None without one. `ordered_cost` is what the order on its
    way may cost without fees while the position is opening, else 0. `exit_wanted` is why a person
    wants it sold, None: nobody does.
    """

    sequence: int
    version: int
    status: PositionStatus
    mode: Mode
    regime: str | None
    totals: PositionTotals
    peak_profit: float | None
    entered_at: datetime | None
    exit_wanted: str | None
    exit_attempts: int
    last_exit_at: datetime | None
    ordered_cost: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedBot:
    """A bot on one of its pairs.

    `pair_active` is false for a pair that was taken from the bot while something was open on
    it. `taker_fee` None is the venue's default; `credential_id` None is no key. `last_sequence`
    is that of the pair's last position, 0 without one. `unsettled` is the client order id of
    the order that blocks the pair. `last_exited_at` (market time) is when the pair's last position
    was sold, None while one is unclosed. `failed_entries` are the entries in a row, up to the
    last, that bought nothing (16 stands for more), `last_failed_at` (market time) is when the last
    of them was decided. `status` and `mode` are as stored; a stored profile that is no JSON object
    stands as a field `risk_profile`, which no check takes.
    """

    bot_id: int
    user_id: int
    shard: int
    name: str
    venue: str
    pair: str
    pair_active: bool
    status: str
    user_status: str
    mode: str
    version: int
    capital: Decimal
    realised: Decimal
    risk_profile: Mapping[str, object]
    loss_streak: int
    max_open_positions: int
    max_notional: Decimal | None
    credential_id: int | None
    credential_live: bool
    credential_trouble: str | None
    taker_fee: Decimal | None
    breaker_open: bool
    unsettled: str | None
    last_sequence: int
    last_exited_at: datetime | None
    failed_entries: int
    last_failed_at: datetime | None
    position: LoadedPosition | None

    @property
    def entries_allowed(self) -> bool:
        """Whether its owner and our limits, kill switches aside, let it enter."""
        return (
            self.status == BotStatus.ACTIVE
            and self.user_status == UserStatus.ACTIVE
            and self.pair_active
        )


async def load_shards(store: Store, shards: Collection[int]) -> AsyncIterator[list[LoadedBot]]:
    """Every bot of these shards that may trade or has something open, in pages by bot id.

    A page is a transaction of its own. What changes meanwhile is found by a `ChangeFeed` that
    was started before.
    """
    after = 0
    while True:
        async with store.read() as tx:
            ids = list(
                await tx.scalars(
                    select(bots.c.id)
                    .where(bots.c.shard.in_(sorted(shards)), bots.c.id > after)
                    .order_by(bots.c.id)
                    .limit(_PAGE)
                )
            )
            if not ids:
                return
            page = await load(tx, ids)
        after = ids[-1]
        if page:
            yield page


async def load(tx: Transaction, bot_ids: Iterable[int]) -> list[LoadedBot]:
    """These bots, by id and pair.

    One without rows is to be forgotten: it is inactive or removed, and nothing is open on it.
    """
    asked = _IDS.parameters((bot_id,) for bot_id in bot_ids)
    return [_loaded_bot(row) for row in await tx.execute(_load(dialect_of(tx)), asked)]


MOST_FAILURES_COUNTED: Final = 16
"""Entries without a fill in a row: the cool-down has long stopped doubling."""

_NOTHING: Final = Decimal(0)
_IDS = Rows("ids", id=Id)
_POSITION = tuple(
    positions.c[name]
    for name in (
        "version",
        "mode",
        "status",
        "regime",
        "entry_quantity",
        "entry_cost",
        "exit_quantity",
        "exit_proceeds",
        "fees",
        "fee_quantity",
        "peak_profit",
        "entered_at",
        "exited_at",
        "exit_wanted",
    )
)


@cache
def _load(dialect: Dialect) -> Executable:
    ids = _IDS.source(dialect)
    may_trade = and_(
        bot_pairs.c.active, bots.c.removed_at.is_(None), bots.c.status != BotStatus.INACTIVE
    )
    return (
        select(
            *_bot_columns(),
            positions.c.sequence.label("last_sequence"),
            *(column.label(f"position_{column.name}") for column in _POSITION),
            _last_exit(func.max(_EXITS.c.attempt)).label("last_exit_attempt"),
            _last_exit(func.max(_EXITS.c.market_time)).label("last_exit_at"),
            _last_filled_entry().label("last_filled_entry"),
            orders.c.quantity.label("ordered_quantity"),
            func.coalesce(orders.c.limit_price, orders.c.decided_price).label("ordered_price"),
        )
        .join_from(ids, bots, bots.c.id == ids.c.id)
        .join(users, users.c.id == bots.c.user_id)
        .join(bot_pairs, bot_pairs.c.bot_id == bots.c.id)
        .outerjoin(credentials, _own_credential())
        .outerjoin(orders, _unsettled_order())
        .outerjoin(positions, _last_position())
        .where(or_(may_trade, text(f"positions.{UNCLOSED_POSITION}"), orders.c.id.is_not(None)))
        .order_by(bots.c.id, bot_pairs.c.pair)
    )


def _bot_columns() -> tuple[ColumnElement[Any], ...]:
    return (
        bots.c.id.label("bot_id"),
        bots.c.user_id,
        bots.c.shard,
        bots.c.name,
        bots.c.venue,
        bot_pairs.c.pair,
        bot_pairs.c.active.label("pair_active"),
        bots.c.status,
        users.c.status.label("user_status"),
        bots.c.mode,
        bots.c.version,
        bots.c.capital,
        bots.c.realised,
        bots.c.risk_profile,
        bots.c.loss_streak,
        users.c.max_open_positions,
        users.c.max_notional,
        credentials.c.id.label("credential_id"),
        credentials.c.live.label("credential_live"),
        credentials.c.trouble.label("credential_trouble"),
        credentials.c.taker_fee,
        _breaker_open().label("breaker_open"),
        orders.c.client_order_id.label("unsettled"),
    )


def _own_credential() -> ColumnElement[bool]:
    return and_(
        credentials.c.user_id == bots.c.user_id,
        credentials.c.venue == bots.c.venue,
        credentials.c.status == "active",
    )


def _unsettled_order() -> ColumnElement[bool]:
    return and_(
        orders.c.bot_id == bot_pairs.c.bot_id,
        orders.c.pair == bot_pairs.c.pair,
        text(f"orders.{UNSETTLED_ORDER}"),
    )


def _last_position() -> ColumnElement[bool]:
    earlier = positions.alias("earlier")
    last = (
        select(func.max(earlier.c.sequence))
        .where(earlier.c.bot_id == bot_pairs.c.bot_id, earlier.c.pair == bot_pairs.c.pair)
        .scalar_subquery()
    )
    return and_(
        positions.c.bot_id == bot_pairs.c.bot_id,
        positions.c.pair == bot_pairs.c.pair,
        positions.c.sequence == last,
    )


_EXITS: Final = orders.alias("exits")


def _last_exit(value: ColumnElement[Any]) -> ColumnElement[Any]:
    """A value of the unclosed position's exits. Not their count: an attempt is part of the client
    order id, and whatever happened to the numbers before, the next one must be new."""
    found = (
        select(value)
        .where(
            _EXITS.c.bot_id == positions.c.bot_id,
            _EXITS.c.pair == positions.c.pair,
            _EXITS.c.position_sequence == positions.c.sequence,
            _EXITS.c.leg == Leg.EXIT,
        )
        .correlate(positions)
        .scalar_subquery()
    )
    return case((text(f"positions.{UNCLOSED_POSITION}"), found))


def _last_filled_entry() -> ColumnElement[int]:
    """Where the last position came to nothing: the sequence of the newest that did not."""
    bought = positions.alias("bought")
    found = (
        select(func.max(bought.c.sequence))
        .where(
            bought.c.bot_id == positions.c.bot_id,
            bought.c.pair == positions.c.pair,
            bought.c.sequence >= positions.c.sequence - MOST_FAILURES_COUNTED,
            bought.c.entry_quantity != _NOTHING,
        )
        .correlate(positions)
        .scalar_subquery()
    )
    return case((positions.c.entry_quantity == _NOTHING, found))


def _breaker_open() -> ColumnElement[bool]:
    return exists().where(
        breakers.c.open,
        or_(
            and_(breakers.c.scope == BreakerScope.BOT, breakers.c.scope_id == bots.c.id),
            and_(breakers.c.scope == BreakerScope.USER, breakers.c.scope_id == bots.c.user_id),
        ),
    )


def _loaded_bot(row: Row[Any]) -> LoadedBot:
    # Tens of thousands of these are made at once: by place, not by name.
    fields = dict(zip(_BOT_FIELDS, row, strict=False))
    fields["credential_live"] = bool(fields["credential_live"])
    fields["breaker_open"] = bool(fields["breaker_open"])
    if not isinstance(fields["risk_profile"], dict):
        fields["risk_profile"] = {"risk_profile": fields["risk_profile"]}
    unclosed = row.position_status in UNCLOSED
    failed = row.position_status == PositionStatus.CLOSED and not row.position_entry_quantity
    since = row.last_filled_entry or max(0, (row.last_sequence or 0) - MOST_FAILURES_COUNTED)
    return LoadedBot(
        **fields,
        last_sequence=row.last_sequence or 0,
        last_exited_at=None if unclosed or failed else row.position_exited_at,
        failed_entries=row.last_sequence - since if failed else 0,
        last_failed_at=row.position_entered_at if failed else None,
        position=_position(row) if unclosed else None,
    )


_BOT_FIELDS: Final = tuple(column.name for column in _bot_columns())
_POSITION_FIELDS: Final = tuple(column.name for column in _POSITION)


def _position(row: Row[Any]) -> LoadedPosition:
    fields = dict(zip(_POSITION_FIELDS, row[len(_BOT_FIELDS) + 1 :], strict=False))
    totals = PositionTotals(**{name: fields.pop(name) for name in PositionTotals.__slots__})
    del fields["exited_at"]
    fields["status"] = PositionStatus(fields["status"])
    fields["mode"] = Mode(fields["mode"])
    last = row.last_exit_attempt
    opening = fields["status"] is PositionStatus.OPENING and row.ordered_quantity is not None
    with exact():
        ordered = row.ordered_quantity * row.ordered_price if opening else _NOTHING
    return LoadedPosition(
        sequence=row.last_sequence,
        totals=totals,
        exit_attempts=0 if last is None else last + 1,
        last_exit_at=row.last_exit_at,
        ordered_cost=ordered,
        **fields,
    )
