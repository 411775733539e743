"""Positions as people read them: newest first."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, func, select, text, update

from shared.errors import Refused
from shared.money import exact
from shared.orders import STUCK_AFTER_ATTEMPTS, BotStatus, Leg, Mode, PositionStatus
from shared.store.engine import Transaction
from shared.store.tables import UNCLOSED_POSITION, bots, orders, positions, users
from shared.store.types import database_now
from shared.venues import quote_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A position with everything it adds up to (shared.orders.PositionTotals has the meaning).

    `entered_at` and `exited_at` are market time, `created_at` and `closed_at` the database's.
    `exit_wanted` is why a person wants, or wanted, it sold; None: nobody did. `exit_attempts`
    are the exit orders of an unclosed position so far, `last_detail` is what was said of its
    newest order that went wrong.
    """

    id: int
    bot_id: int
    bot: str
    user_id: int
    user: str
    credential_id: int
    venue: str
    pair: str
    sequence: int
    mode: Mode
    status: PositionStatus
    version: int
    regime: str | None
    entry_quantity: Decimal
    entry_cost: Decimal
    exit_quantity: Decimal
    exit_proceeds: Decimal
    fees: Decimal
    fee_quantity: Decimal
    dust_quantity: Decimal
    realised_pnl: Decimal
    peak_profit: float | None
    entry_reason: str
    exit_reason: str | None
    entered_at: datetime | None
    exited_at: datetime | None
    created_at: datetime
    closed_at: datetime | None
    exit_wanted: str | None = None
    bot_status: BotStatus = BotStatus.ACTIVE
    exit_attempts: int = 0
    last_detail: str | None = None

    @property
    def stuck(self) -> bool:
        """Whether its exits failed so often that a person should look."""
        selling = self.status in (PositionStatus.OPEN, PositionStatus.CLOSING)
        return selling and self.exit_attempts >= STUCK_AFTER_ATTEMPTS

    @property
    def unattended(self) -> bool:
        """Whether nobody watches it: its bot was made inactive and was to keep it."""
        kept = self.bot_status is BotStatus.INACTIVE and self.exit_wanted is None
        return kept and self.status is not PositionStatus.CLOSED


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionFilter:
    """Which positions; None does not filter. `unclosed` true: those that are not closed;
    `stuck` true: those whose exits keep failing."""

    bot_id: int | None = None
    user: str | None = None
    status: PositionStatus | None = None
    unclosed: bool = False
    stuck: bool = False


EVERY_POSITION = PositionFilter()


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What closed positions brought, by quote currency: how many, how many of them gained, and
    the sum.

    Only the newest `of_newest` positions are looked at, so that reading it stays cheap.
    """

    of_newest: int
    closed: Mapping[str, int]
    won: Mapping[str, int]
    realised_pnl: Mapping[str, Decimal]


NEWEST: Final = 20_000


async def page(
    tx: Transaction,
    which: PositionFilter = EVERY_POSITION,
    *,
    limit: int = 100,
    before: int | None = None,
) -> list[Position]:
    """Positions by id, newest first, of those below `before`."""
    query = _positions()
    if which.bot_id is not None:
        query = query.where(positions.c.bot_id == which.bot_id)
    if which.user is not None:
        query = query.where(users.c.name == which.user)
    if which.status is not None:
        query = query.where(positions.c.status == which.status)
    if which.unclosed:
        query = query.where(text(f"positions.{UNCLOSED_POSITION}"))
    if which.stuck:
        query = query.where(text(f"positions.{UNCLOSED_POSITION}"), _stuck())
    if before is not None:
        query = query.where(positions.c.id < before)
    rows = await tx.execute(query.order_by(positions.c.id.desc()).limit(limit))
    return [_position(row._asdict()) for row in rows]


async def get(tx: Transaction, position_id: int) -> Position:
    """Raises `Refused` for an id without a position."""
    row = (await tx.execute(_positions().where(positions.c.id == position_id))).one_or_none()
    if row is None:
        raise Refused(f"there is no position {position_id}")
    return _position(row._asdict())


async def want_exit(tx: Transaction, position_id: int, *, reason: str) -> Position:
    """Wish a position sold at the next tick, whatever its bot is told; its worker follows.

    Raises `Refused` for an id without a position, and for a closed one.
    """
    position = await get(tx, position_id)
    wished = await tx.execute(
        update(positions)
        .where(positions.c.id == position_id, text(UNCLOSED_POSITION))
        .values(exit_wanted=reason)
    )
    if not wished.rowcount:
        raise Refused(f"position {position_id} is closed already")
    # What tells the worker (shared/store/changes.py). Not the position's version: an exit that
    # is under way was decided on that.
    await tx.execute(
        update(bots).where(bots.c.id == position.bot_id).values(updated_at=database_now())
    )
    return position


async def count(tx: Transaction) -> dict[PositionStatus, int]:
    """How many positions are not closed, by status; a status without any is absent."""
    rows = await tx.execute(
        select(positions.c.status, func.count().label("positions"))
        .where(text(UNCLOSED_POSITION))
        .group_by(positions.c.status)
    )
    return {PositionStatus(row.status): row.positions for row in rows}


async def count_stuck(tx: Transaction) -> int:
    """How many positions have exits that keep failing."""
    query = select(func.count()).where(text(f"positions.{UNCLOSED_POSITION}"), _stuck())
    return (await tx.execute(query.select_from(positions))).scalar_one()


async def trades(tx: Transaction, *, limit: int = 100) -> list[Position]:
    """Of the newest positions, those that sold what they had bought, latest first."""
    query = _positions().where(*_traded()).order_by(positions.c.closed_at.desc()).limit(limit)
    return [_position(row._asdict()) for row in await tx.execute(query)]


async def results(tx: Transaction, *, mode: Mode | None = None) -> Results:
    """What the newest trades brought, all or those of one mode. Summed here: SQLite keeps
    amounts as text."""
    closed, won = Counter[str](), Counter[str]()
    pnl: defaultdict[str, Decimal] = defaultdict(Decimal)
    query = select(positions.c.pair, positions.c.realised_pnl).where(*_traded())
    if mode is not None:
        query = query.where(positions.c.mode == mode)
    with exact():
        for pair, realised in (await tx.execute(query)).all():
            currency = quote_of(pair)
            closed[currency] += 1
            won[currency] += realised > 0
            pnl[currency] += realised
    return Results(of_newest=NEWEST, closed=dict(closed), won=dict(won), realised_pnl=dict(pnl))


def _traded() -> tuple[ColumnElement[bool], ...]:
    newest = select(func.max(positions.c.id)).scalar_subquery()
    return (
        positions.c.id > func.coalesce(newest, 0) - NEWEST,
        positions.c.status == PositionStatus.CLOSED,
        positions.c.exited_at.is_not(None),
    )


def _positions() -> Select[Any]:
    joined = {
        "bot": bots.c.name,
        "bot_status": bots.c.status,
        "user": users.c.name,
        "exit_attempts": _exit_attempts(),
        "last_detail": _last_detail(),
    }
    own = (positions.c[name] for name in Position.__slots__ if name not in joined)
    return (
        select(*own, *(column.label(name) for name, column in joined.items()))
        .join_from(positions, bots, bots.c.id == positions.c.bot_id)
        .join(users, users.c.id == positions.c.user_id)
    )


def _stuck() -> ColumnElement[bool]:
    selling = positions.c.status.in_((PositionStatus.OPEN, PositionStatus.CLOSING))
    return and_(selling, _exit_attempts() >= STUCK_AFTER_ATTEMPTS)


def _exit_attempts() -> ColumnElement[int]:
    counted = select(func.count()).select_from(orders).where(_own_orders(), _EXIT)
    return counted.correlate(positions).scalar_subquery()


def _last_detail() -> ColumnElement[str]:
    newest = select(orders.c.detail).where(_own_orders()).order_by(orders.c.id.desc()).limit(1)
    return newest.correlate(positions).scalar_subquery()


_EXIT: Final = orders.c.leg == Leg.EXIT


def _own_orders() -> ColumnElement[bool]:
    """The orders of a position that is not closed."""
    return and_(
        text(f"positions.{UNCLOSED_POSITION}"),
        orders.c.bot_id == positions.c.bot_id,
        orders.c.pair == positions.c.pair,
        orders.c.position_sequence == positions.c.sequence,
    )


def _position(fields: dict[str, Any]) -> Position:
    fields["mode"] = Mode(fields["mode"])
    fields["status"] = PositionStatus(fields["status"])
    fields["bot_status"] = BotStatus(fields["bot_status"])
    return Position(**fields)
