"""Positions follow their fills: read what there is, recompute, write. Nothing is incremented."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Row

from shared.clock import ms_of
from shared.orders import Fill, Leg, PositionStatus, PositionTotals, totals_of
from shared.store import trading_statements as sql
from shared.store.bulk import dialect_of
from shared.store.engine import Transaction

PositionKey = tuple[int, str, int]
"""(bot id, pair, sequence)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionChange:
    """A position as it is to be written. `dust` is what a closed one holds and cannot sell.

    `exited_at` is market time. What is set of the exit is written as it is.
    """

    key: PositionKey
    status: PositionStatus
    version: int
    totals: PositionTotals
    dust: Decimal = Decimal(0)
    exit_reason: str | None
    exited_at: datetime | None


async def totals(
    tx: Transaction, keys: Collection[PositionKey]
) -> dict[PositionKey, PositionTotals]:
    """What the fills of each of these positions add up to. Lock the positions before."""
    known: defaultdict[PositionKey, list[Fill]] = defaultdict(list)
    for row in await tx.execute(sql.read_fills(dialect_of(tx)), sql.KEYS.parameters(keys)):
        known[row.bot_id, row.pair, row.position_sequence].append(fill_of(row))
    return {key: totals_of(known[key], pair=key[1]) for key in keys}


def fill_of(row: Row[Any]) -> Fill:
    """A row of `fills`."""
    return Fill(
        client_order_id=row.client_order_id,
        trade_id=row.trade_id,
        leg=Leg(row.leg),
        quantity=row.quantity,
        price=row.price,
        fee=row.fee,
        fee_currency=row.fee_currency,
        at_ms=ms_of(row.filled_at),
    )


async def write(tx: Transaction, changes: Sequence[PositionChange]) -> None:
    """Store positions as recomputed; their result counts from when they are closed."""
    if changes:
        rows = sql.CHANGED_POSITIONS.parameters(_row(change) for change in changes)
        await tx.execute(sql.update_positions(dialect_of(tx)), rows)


def _row(change: PositionChange) -> tuple[Any, ...]:
    totals, closed = change.totals, change.status is PositionStatus.CLOSED
    return (
        *change.key,
        change.status,
        change.version,
        totals.entry_quantity,
        totals.entry_cost,
        totals.exit_quantity,
        totals.exit_proceeds,
        totals.fees,
        totals.fee_quantity,
        change.dust,
        totals.realised_pnl if closed else Decimal(0),
        change.exit_reason,
        change.exited_at,
        int(closed),
    )
