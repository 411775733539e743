"""Settling by hand a position that cannot be sold: what it still holds becomes dust."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from sqlalchemy import select, text, update

from shared.clock import datetime_of, ms_of
from shared.errors import Refused
from shared.leases import LeaseKind
from shared.messages import decode_tick
from shared.money import plain
from shared.orders import Leg, Mode, OrderStatus, PositionStatus, PositionTotals
from shared.signals import Alert, Severity, encode
from shared.store import changes, outbox, position_changes, positions, results
from shared.store.engine import Transaction
from shared.store.position_changes import PositionChange
from shared.store.positions import Position
from shared.store.results import Result
from shared.store.tables import UNSETTLED_ORDER, bots, latest_ticks, leases, orders
from shared.store.tables import positions as positions_table
from shared.store.types import database_now
from shared.topology import SYSTEM, alert_key

WRITTEN_OFF: Final = "written_off"
"""Why a position was closed that no order closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOff:
    """What writing a position off would mean: `held` is given up, `realised_pnl` is booked.
    `shard` is its user's."""

    position: Position
    shard: int
    totals: PositionTotals

    @property
    def held(self) -> Decimal:
        return max(self.totals.held, Decimal(0))

    @property
    def realised_pnl(self) -> Decimal:
        return self.totals.realised_pnl


@dataclass(frozen=True, slots=True, kw_only=True)
class _LastOrder:
    """The order after which the position was given up: a `shared.orders.OrderFacts`."""

    client_order_id: str
    bot_id: int
    user_id: int
    shard: int
    mode: Mode
    venue: str
    credential_id: int
    pair: str
    position_sequence: int
    leg: Leg
    attempt: int
    quantity: Decimal
    limit_price: Decimal | None
    decided_price: Decimal
    reason: str
    market_time_ms: int


async def preview(tx: Transaction, position_id: int) -> WriteOff:
    """What `write_off` would do. Raises `Refused` where it would."""
    position = await positions.get(tx, position_id)
    if position.status is PositionStatus.CLOSED:
        raise Refused(f"position {position_id} is closed already")
    await _require_settled(tx, position)
    key = position.bot_id, position.pair, position.sequence
    totals = await position_changes.totals(tx, [key])
    shard = (
        await tx.execute(select(bots.c.shard).where(bots.c.id == position.bot_id))
    ).scalar_one()
    return WriteOff(position=position, shard=shard, totals=totals[key])


async def write_off(tx: Transaction, position_id: int, *, reason: str) -> WriteOff:
    """Close a position as it is, book what it brought so far, and tell everybody.

    Waits for what is being committed for its shard, and holds back what comes; a worker that
    decided about the position meanwhile finds it changed. Raises `Refused` for an id without
    one, a closed one, and while one of its orders is unsettled.
    """
    await _lock(tx, position_id)
    found = await preview(tx, position_id)
    position = found.position
    last = await _last_order(tx, position)
    await position_changes.write(
        tx,
        [
            PositionChange(
                key=(position.bot_id, position.pair, position.sequence),
                status=PositionStatus.CLOSED,
                version=position.version + 1,
                totals=found.totals,
                dust=found.held,
                exit_reason=WRITTEN_OFF,
                exited_at=datetime_of(last.market_time_ms),
            )
        ],
    )
    await tx.execute(
        update(positions_table)
        .where(positions_table.c.id == position_id)
        .values(exit_wanted=reason)
    )
    if found.totals.entry_quantity:
        await results.book(tx, [Result(closed_by=last, realised_pnl=found.realised_pnl)])
    # What tells the worker (shared/store/changes.py).
    await tx.execute(
        update(bots).where(bots.c.id == position.bot_id).values(updated_at=database_now())
    )
    await _tell(tx, found, reason=reason)
    return found


async def _lock(tx: Transaction, position_id: int) -> None:
    """The lease of its shard as who takes one, then the position."""
    position = await positions.get(tx, position_id)
    shard = select(bots.c.shard).where(bots.c.id == position.bot_id).scalar_subquery()
    own = leases.c.kind == LeaseKind.SHARD, leases.c.number == shard
    await tx.execute(select(leases.c.number).where(*own).with_for_update())
    await tx.execute(
        select(positions_table.c.id).where(positions_table.c.id == position_id).with_for_update()
    )


async def _require_settled(tx: Transaction, position: Position) -> None:
    row = (
        await tx.execute(
            select(orders.c.client_order_id, orders.c.status).where(
                orders.c.bot_id == position.bot_id,
                orders.c.pair == position.pair,
                text(UNSETTLED_ORDER),
            )
        )
    ).first()
    if row is not None:
        raise Refused(
            f"position {position.id} waits for its order {row.client_order_id} "
            f"({OrderStatus(row.status)}): the worker asks {position.venue} what became of it; "
            f"`botfleet orders --bot {position.bot_id} --unsettled` shows it, `botfleet keys "
            "list` whether its key works. Write it off once that order is settled"
        )


async def _last_order(tx: Transaction, position: Position) -> _LastOrder:
    row = (
        await tx.execute(
            select(orders)
            .where(
                orders.c.bot_id == position.bot_id,
                orders.c.pair == position.pair,
                orders.c.position_sequence == position.sequence,
            )
            .order_by(orders.c.id.desc())
            .limit(1)
        )
    ).one_or_none()
    now_ms = await _market_time_ms(tx, position)
    if row is None:
        raise Refused(f"position {position.id} has no order at all: nothing can be booked for it")
    same = {
        name: getattr(row, name)
        for name in _LastOrder.__slots__
        if name not in ("mode", "leg", "reason", "market_time_ms")
    }
    return _LastOrder(
        **same,
        mode=Mode(row.mode),
        leg=Leg(row.leg),
        reason=WRITTEN_OFF,
        market_time_ms=max(now_ms, ms_of(row.market_time)),
    )


async def _market_time_ms(tx: Transaction, position: Position) -> int:
    """What the venue's clock showed at the market's newest tick; 0 where there is none."""
    own = latest_ticks.c.venue == position.venue, latest_ticks.c.pair == position.pair
    body = await tx.scalar(select(latest_ticks.c.body).where(*own))
    return 0 if body is None else decode_tick(str(body).encode()).market_time_ms


async def _tell(tx: Transaction, found: WriteOff, *, reason: str) -> None:
    position = found.position
    alert = Alert(
        severity=Severity.WARNING,
        service="console",
        instance="botfleet",
        code="position_written_off",
        text=f"position {position.id} of bot {position.bot_id} on {position.pair} at "
        f"{position.venue} was written off by hand, {plain(found.held)} of it unsold: {reason}",
        at_ms=ms_of(await changes.clock(tx)),
        facts={
            "position_id": position.id,
            "bot_id": position.bot_id,
            "user_id": position.user_id,
            "mode": position.mode,
            "held": plain(found.held),
            "realised_pnl": plain(found.realised_pnl),
            "reason": reason,
        },
    )
    await outbox.write(
        tx,
        shard=found.shard,
        exchange=SYSTEM,
        routing_key=alert_key(alert.severity),
        body=encode(alert).decode(),
        bot_id=position.bot_id,
    )
