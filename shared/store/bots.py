"""Bots as people see them: find, list, change one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Select, exists, func, or_, select, text, update

from shared.errors import Refused
from shared.leases import LeaseKind
from shared.orders import BotStatus, Mode
from shared.store.bulk import dialect_of
from shared.store.engine import Transaction
from shared.store.tables import (
    UNCLOSED_POSITION,
    UNSETTLED_ORDER,
    bot_pairs,
    bots,
    leases,
    orders,
    positions,
    users,
)
from shared.store.types import database_now


@dataclass(frozen=True, slots=True, kw_only=True)
class Bot:
    """A bot. `capital` and `realised` are in the quote currency, `realised` after fees.

    `risk_profile` holds what differs from the defaults.
    """

    id: int
    user_id: int
    user: str
    shard: int
    name: str
    venue: str
    pairs: tuple[str, ...]
    capital: Decimal
    mode: Mode
    status: BotStatus
    risk_profile: Mapping[str, float]
    version: int
    realised: Decimal
    loss_streak: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BotFilter:
    """Which bots; None does not filter."""

    user: str | None = None
    status: BotStatus | None = None
    venue: str | None = None
    mode: Mode | None = None


EVERY_BOT = BotFilter()

_OWN_COLUMNS = tuple(bots.c[name] for name in Bot.__slots__ if name not in ("user", "pairs"))


async def page(
    tx: Transaction, which: BotFilter = EVERY_BOT, *, limit: int = 100, after: int = 0
) -> list[Bot]:
    """Bots by id, of those above `after`; removed ones are gone."""
    query = _bots(which).where(bots.c.id > after).order_by(bots.c.id).limit(limit)
    return await _with_pairs(tx, query)


async def count(tx: Transaction, which: BotFilter = EVERY_BOT) -> dict[BotStatus, int]:
    """How many bots there are, by status; a status without bots is absent."""
    found = _bots(which).subquery()
    rows = await tx.execute(
        select(found.c.status, func.count().label("bots")).group_by(found.c.status)
    )
    return {BotStatus(row.status): row.bots for row in rows}


async def get(tx: Transaction, bot_id: int) -> Bot:
    """Raises `Refused` for an id without a bot."""
    found = await _with_pairs(tx, _bots(EVERY_BOT).where(bots.c.id == bot_id))
    if not found:
        raise Refused(f"there is no bot {bot_id}")
    return found[0]


async def named(tx: Transaction, user: str, name: str) -> Bot | None:
    found = await _with_pairs(tx, _bots(BotFilter(user=user)).where(bots.c.name == name))
    return found[0] if found else None


async def set_status(tx: Transaction, bot_ids: Sequence[int], status: BotStatus) -> list[int]:
    """Change the status of bots; the ids of those that had another before.

    Workers follow within a second. Raises `Refused` if an id has no bot, changing none.
    """
    await _require(tx, bot_ids)
    changed = await tx.scalars(
        update(bots)
        .where(bots.c.id.in_(bot_ids), bots.c.status != status)
        .values(status=status, **_touched())
        .returning(bots.c.id)
    )
    return sorted(changed)


async def stop(tx: Transaction, bot_ids: Sequence[int]) -> None:
    """Have bots sell what is open and then be inactive: their workers see to it.

    A bot with nothing open whose shard nobody serves is inactive at once. Raises `Refused` if
    an id has no bot, changing none.
    """
    await _require(tx, bot_ids)
    # As who takes a lease: it waits for what is being committed under it, and keeps workers from
    # taking it with what they read before.
    unserved = select(leases.c.number).where(
        leases.c.kind == LeaseKind.SHARD,
        or_(leases.c.owner.is_(None), leases.c.expires_at <= database_now()),
    )
    free = list(
        await tx.scalars(
            unserved.where(leases.c.number.in_(select(bots.c.shard).where(bots.c.id.in_(bot_ids))))
            .order_by(leases.c.number)
            .with_for_update()
        )
    )
    await tx.execute(
        update(bots)
        .where(
            bots.c.id.in_(bot_ids),
            bots.c.status != BotStatus.STOPPING,
            or_(bots.c.status != BotStatus.INACTIVE, something_open()),
        )
        .values(status=BotStatus.STOPPING, **_touched())
    )
    at_rest = await tx.scalars(
        select(bots.c.id).where(bots.c.id.in_(bot_ids), bots.c.shard.in_(free))
    )
    await finish_stopping(tx, list(at_rest))


async def finish_stopping(tx: Transaction, bot_ids: Sequence[int]) -> list[int]:
    """Make `stopping` bots with nothing open inactive; their ids."""
    changed = await tx.scalars(
        update(bots)
        .where(bots.c.id.in_(bot_ids), bots.c.status == BotStatus.STOPPING, ~something_open())
        .values(status=BotStatus.INACTIVE, **_touched())
        .returning(bots.c.id)
    )
    return sorted(changed)


async def change(
    tx: Transaction,
    bot_id: int,
    *,
    capital: Decimal | None = None,
    mode: Mode | None = None,
    risk_profile: Mapping[str, float] | None = None,
) -> Bot:
    """Change what is given; a risk profile replaces the whole of the old one.

    Raises `Refused` for an id without a bot, for another mode while something is open, and for
    live mode on SQLite.
    """
    bot = await get(tx, bot_id)
    values: dict[str, Any] = {"capital": capital, "mode": mode, "risk_profile": risk_profile}
    conditions = [bots.c.id == bot_id]
    if mode is not None and mode != bot.mode:
        if mode is Mode.LIVE and dialect_of(tx) == "sqlite":
            raise Refused("real orders need PostgreSQL: SQLite is for demo and trial")
        await _hold_back_intents(tx, bot.shard)
        conditions.append(~something_open())
    changed = await tx.execute(
        update(bots)
        .where(*conditions)
        .values({name: value for name, value in values.items() if value is not None})
        .values(_touched())
        .returning(bots.c.id)
    )
    if changed.first() is None:
        raise Refused(f"bot {bot_id} has an open position: its mode can change when it is flat")
    return await get(tx, bot_id)


async def remove(tx: Transaction, bot_id: int) -> None:
    """Remove an inactive bot; its history stays, its name is free again.

    Raises `Refused` while it is not inactive, or has an unclosed position or unsettled order.
    """
    bot = await get(tx, bot_id)
    if bot.status is not BotStatus.INACTIVE:
        raise Refused(f"bot {bot_id} is {bot.status}: stop it first")
    removed = await tx.execute(
        update(bots)
        .where(bots.c.id == bot_id, ~something_open())
        .values(removed_at=database_now(), **_touched())
        .returning(bots.c.id)
    )
    if removed.first() is None:
        raise Refused(f"bot {bot_id} has an open position: close it first")


async def _hold_back_intents(tx: Transaction, shard: int) -> None:
    """Wait for what is being committed under a shard's lease, and keep the next from it.

    What is read by later statements is then as the next intents of the shard will find it.
    """
    await tx.execute(
        select(leases.c.number)
        .where(leases.c.kind == LeaseKind.SHARD, leases.c.number == shard)
        .with_for_update()
    )


async def _require(tx: Transaction, bot_ids: Sequence[int]) -> None:
    found = set(
        await tx.scalars(
            select(bots.c.id).where(bots.c.id.in_(bot_ids), bots.c.removed_at.is_(None))
        )
    )
    if missing := sorted(set(bot_ids) - found):
        raise Refused(f"there is no bot {', '.join(map(str, missing))}")


def something_open() -> Any:  # noqa: ANN401 - an SQL condition
    """Whether the bot of the enclosing statement has an unclosed position or unsettled order."""
    return or_(
        exists().where(positions.c.bot_id == bots.c.id, text(f"positions.{UNCLOSED_POSITION}")),
        exists().where(orders.c.bot_id == bots.c.id, text(f"orders.{UNSETTLED_ORDER}")),
    )


def _touched() -> dict[str, Any]:
    """What tells the worker that a bot changed (shared/store/changes.py)."""
    return {"version": bots.c.version + 1, "updated_at": database_now()}


def _bots(which: BotFilter) -> Select[Any]:
    query = (
        select(*_OWN_COLUMNS, users.c.name.label("user"))
        .join_from(bots, users, users.c.id == bots.c.user_id)
        .where(bots.c.removed_at.is_(None))
    )
    for column, value in (
        (users.c.name, which.user),
        (bots.c.status, which.status),
        (bots.c.venue, which.venue),
        (bots.c.mode, which.mode),
    ):
        if value is not None:
            query = query.where(column == value)
    return query


async def _with_pairs(tx: Transaction, query: Select[Any]) -> list[Bot]:
    rows = (await tx.execute(query)).all()
    pairs: dict[int, list[str]] = {}
    found = await tx.execute(
        select(bot_pairs.c.bot_id, bot_pairs.c.pair)
        .where(bot_pairs.c.bot_id.in_([row.id for row in rows]), bot_pairs.c.active)
        .order_by(bot_pairs.c.bot_id, bot_pairs.c.pair)
    )
    for bot_id, pair in found:
        pairs.setdefault(bot_id, []).append(pair)
    return [
        Bot(
            **{
                **row._mapping,
                "mode": Mode(row.mode),
                "status": BotStatus(row.status),
                "pairs": tuple(pairs.get(row.id, ())),
            }
        )
        for row in rows
    ]
