"""The write side of the order's life: intents, fills and positions, in one transaction.

Everything is in bulk: a batch of any size takes the same few round trips. What is committed
here under a lease cannot be committed by anyone who lost that lease (DESIGN, "Fence").
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row

from shared.clock import datetime_of, ms_of
from shared.orders import (
    Fill,
    Intent,
    Leg,
    LiveOrder,
    Mode,
    OrderStatus,
    PositionStatus,
    PositionTotals,
    totals_of,
)
from shared.reasons import Reason
from shared.store import admission, live_orders, order_events, position_changes, results, switches
from shared.store import trading_statements as sql
from shared.store.bulk import dialect_of
from shared.store.engine import Transaction
from shared.store.order_events import OrderNews, traded
from shared.store.position_changes import PositionChange, PositionKey
from shared.store.results import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """An intent to commit, with the fills that are true as soon as it is committed."""

    intent: Intent
    fills: Sequence[Fill] = ()

    @property
    def position(self) -> PositionKey:
        return self.intent.bot_id, self.intent.pair, self.intent.position_sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionState:
    """A position as a transaction left it."""

    status: PositionStatus
    version: int
    totals: PositionTotals


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What became durable: positions by the client order id that changed them.

    A proposal that is in no field was refused by the database: its position was not in the
    state that it was decided on.
    """

    positions: Mapping[str, PositionState]
    fenced: frozenset[str] = frozenset()
    """Client order ids of proposals whose lease is not held (any more) under their epoch."""
    denied: Mapping[str, Reason] = field(default_factory=dict)
    """Why kill switches, breakers and users' limits left proposals out, by client order id."""
    live: Mapping[str, LiveOrder] = field(default_factory=dict)
    """The live orders among those written, by client order id: to be sent, once, in time."""


async def commit(tx: Transaction, proposals: Sequence[Proposal], *, owner: str) -> Committed:
    """Write intents with their positions, fills and events, under `owner`'s leases.

    The leases are locked until the transaction ends, so none of them can be taken meanwhile,
    and no kill switch can be turned. What switches, breakers and users' limits deny is left
    out. An entry opens its position, an exit needs its position open at the version it was
    decided on; a proposal that finds it otherwise is left out too, and the others go on. At
    most one proposal per position. Raises `InvalidRow` if the data of any row is refused:
    commit the halves of the batch instead.
    """
    await switches.enter_gate(tx)
    epochs = await hold_leases(tx, {proposal.intent.shard for proposal in proposals}, owner)
    held = [p for p in proposals if epochs.get(p.intent.shard) == p.intent.lease_epoch]
    denied = await admission.denials(tx, [p.intent for p in held])
    allowed = [p for p in held if _id(p) not in denied]
    opened = await _open_positions(tx, [p for p in allowed if p.intent.leg is Leg.ENTRY])
    exitable = await _lock_positions(tx, [p for p in allowed if p.intent.leg is Leg.EXIT])
    placed = [*opened, *exitable]
    states = {p.position: _after_entry(p) for p in opened}
    inserted: Mapping[str, Row[Any]] = {}
    if placed:
        inserted = await _insert_orders(tx, placed)
        await _insert_fills(tx, placed)
        if exitable:
            states |= await _apply_exits(tx, exitable)
        await order_events.announce(tx, [_news(p, states[p.position], inserted) for p in placed])
        await results.book(tx, _closed(exitable, states))
    return Committed(
        positions={_id(p): states[p.position] for p in placed},
        fenced=frozenset(_id(p) for p in proposals) - {_id(p) for p in held},
        denied=denied,
        live={_id(p): _live(p, inserted) for p in placed if p.intent.mode is Mode.LIVE},
    )


async def read_back(tx: Transaction, proposals: Sequence[Proposal]) -> Committed:
    """What of `proposals` is in the database: asked after a COMMIT of unknown outcome.

    The server may meet that COMMIT later than this question, which came by another connection:
    it waits until no transaction holds their leases any more. An order of the same id that is
    another decision, such as that of whoever took the lease meanwhile, is not one of them: who
    committed it sends it.
    """
    dialect = dialect_of(tx)
    shards = sql.SHARDS.parameters((shard,) for shard in {p.intent.shard for p in proposals})
    await tx.execute(sql.wait_for_holders(dialect), shards)
    ids = sql.ORDER_IDS.parameters((_id(p),) for p in proposals)
    proposed = {_id(p): p.intent for p in proposals}
    found = {
        row.client_order_id: row
        for row in await tx.execute(sql.read_orders(dialect), ids)
        if _is_of(row, proposed[row.client_order_id])
    }
    keys = sql.KEYS.parameters(p.position for p in proposals)
    states = {
        (row.bot_id, row.pair, row.sequence): state_of(row)
        for row in await tx.execute(sql.read_positions(dialect), keys)
    }
    return Committed(
        positions={_id(p): states[p.position] for p in proposals if _id(p) in found},
        live={
            order_id: live_orders.live_order(row)
            for order_id, row in found.items()
            if row.mode == Mode.LIVE
        },
    )


async def save_peaks(
    tx: Transaction, peaks: Iterable[tuple[int, str, int, float]], *, owner: str
) -> None:
    """Store the highest profits of open positions: (bot id, pair, sequence, peak) each.

    A position whose shard `owner` does not hold is left as it is, and so is one that is closed
    or has a higher peak stored already.
    """
    await tx.execute(
        sql.raise_peaks(dialect_of(tx)), {**sql.PEAKS.parameters(peaks), "owner": owner}
    )


def _id(proposal: Proposal) -> str:
    return proposal.intent.client_order_id


def _is_of(row: Row[Any], intent: Intent) -> bool:
    """Whether a stored order is this very decision, and not another one under the same id."""
    decided_at_ms: int = ms_of(row.decided_at)
    stored = row.lease_epoch, decided_at_ms
    return stored == (intent.lease_epoch, intent.decided_at_ms)


def state_of(row: Row[Any]) -> PositionState:
    """A row of `positions`."""
    return PositionState(
        status=PositionStatus(row.status),
        version=row.version,
        totals=PositionTotals(
            entry_quantity=row.entry_quantity,
            entry_cost=row.entry_cost,
            exit_quantity=row.exit_quantity,
            exit_proceeds=row.exit_proceeds,
            fees=row.fees,
            fee_quantity=row.fee_quantity,
        ),
    )


async def hold_leases(tx: Transaction, shards: set[int], owner: str) -> dict[int, int]:
    """Lock the leases of these shards that the owner holds now: epoch by shard."""
    parameters = sql.SHARDS.parameters((shard,) for shard in shards)
    rows = await tx.execute(sql.lock_leases(dialect_of(tx)), {**parameters, "owner": owner})
    return {row.number: row.epoch for row in rows}


async def _open_positions(tx: Transaction, entries: Sequence[Proposal]) -> list[Proposal]:
    """Insert the positions of entries. Returns those that were free to open."""
    if not entries:
        return []
    rows = await tx.execute(
        sql.insert_positions(dialect_of(tx)),
        sql.NEW_POSITIONS.parameters(_new_position(p) for p in entries),
    )
    opened = {(row.bot_id, row.pair, row.sequence) for row in rows}
    return [p for p in entries if p.position in opened]


def _after_entry(proposal: Proposal) -> PositionState:
    return PositionState(
        status=PositionStatus.OPEN if proposal.fills else PositionStatus.OPENING,
        version=1,
        totals=totals_of(proposal.fills, pair=proposal.intent.pair),
    )


def _new_position(proposal: Proposal) -> tuple[Any, ...]:
    intent, state = proposal.intent, _after_entry(proposal)
    return (
        intent.bot_id,
        intent.user_id,
        intent.credential_id,
        intent.venue,
        intent.pair,
        intent.position_sequence,
        intent.mode,
        state.status,
        state.version,
        intent.regime,
        state.totals.entry_quantity,
        state.totals.entry_cost,
        state.totals.fees,
        intent.reason,
        datetime_of(intent.market_time_ms),
    )


async def _lock_positions(tx: Transaction, exits: Sequence[Proposal]) -> list[Proposal]:
    """Lock the positions of exits. Returns those that are as they were when it was decided."""
    if not exits:
        return []
    rows = await tx.execute(
        sql.lock_open_positions(dialect_of(tx)), sql.KEYS.parameters(p.position for p in exits)
    )
    versions = {(row.bot_id, row.pair, row.sequence): row.version for row in rows}
    return [p for p in exits if versions.get(p.position) == p.intent.position_version]


async def _insert_orders(tx: Transaction, placed: Sequence[Proposal]) -> dict[str, Row[Any]]:
    """When each order was committed and, if it is live, must be sent, by client order id."""
    rows = await tx.execute(
        sql.insert_orders(dialect_of(tx)), sql.NEW_ORDERS.parameters(_new_order(p) for p in placed)
    )
    return {row.client_order_id: row for row in rows}


def _status(proposal: Proposal) -> OrderStatus:
    return OrderStatus.FILLED if proposal.fills else OrderStatus.COMMITTED


def _new_order(proposal: Proposal) -> tuple[Any, ...]:
    intent, status, summed = proposal.intent, _status(proposal), traded(proposal.fills)
    return (
        intent.client_order_id,
        intent.bot_id,
        intent.user_id,
        intent.shard,
        intent.credential_id,
        intent.mode,
        intent.venue,
        intent.pair,
        intent.position_sequence,
        intent.leg,
        intent.attempt,
        intent.leg.side,
        intent.quantity,
        intent.decided_price,
        intent.limit_price,
        status,
        summed.quantity,
        summed.average_price,
        summed.fee,
        summed.fee_currency,
        intent.reason,
        intent.facts,
        intent.lease_epoch,
        datetime_of(intent.market_time_ms),
        datetime_of(intent.observed_at_ms),
        datetime_of(intent.received_at_ms),
        datetime_of(intent.decided_at_ms),
        int(status is OrderStatus.FILLED),
    )


async def _insert_fills(tx: Transaction, placed: Sequence[Proposal]) -> None:
    rows = [_new_fill(p, fill) for p in placed for fill in p.fills]
    if rows:
        await tx.execute(sql.insert_fills(dialect_of(tx)), sql.NEW_FILLS.parameters(rows))


def _new_fill(proposal: Proposal, fill: Fill) -> tuple[Any, ...]:
    intent = proposal.intent
    return (
        intent.venue,
        intent.credential_id,
        intent.pair,
        fill.trade_id,
        fill.client_order_id,
        intent.bot_id,
        intent.position_sequence,
        fill.leg,
        fill.quantity,
        fill.price,
        fill.fee,
        fill.fee_currency,
        datetime_of(fill.at_ms),
    )


async def _apply_exits(
    tx: Transaction, exits: Sequence[Proposal]
) -> dict[PositionKey, PositionState]:
    """Recompute the locked positions of exits from all their distinct fills, and store them."""
    totals = await position_changes.totals(tx, {p.position for p in exits})
    states = {p.position: _after_exit(p, totals[p.position]) for p in exits}
    await position_changes.write(
        tx,
        [
            PositionChange(
                key=p.position,
                status=states[p.position].status,
                version=states[p.position].version,
                totals=states[p.position].totals,
                exit_reason=p.intent.reason,
                exited_at=datetime_of(p.intent.market_time_ms),
            )
            for p in exits
        ],
    )
    return states


def _after_exit(proposal: Proposal, totals: PositionTotals) -> PositionState:
    if not proposal.fills:
        status = PositionStatus.CLOSING
    else:
        status = PositionStatus.OPEN if totals.held else PositionStatus.CLOSED
    return PositionState(status=status, version=proposal.intent.position_version + 1, totals=totals)


def _closed(exits: Sequence[Proposal], states: Mapping[PositionKey, PositionState]) -> list[Result]:
    return [
        Result(closed_by=p.intent, realised_pnl=states[p.position].totals.realised_pnl)
        for p in exits
        if states[p.position].status is PositionStatus.CLOSED
    ]


def _news(proposal: Proposal, state: PositionState, inserted: Mapping[str, Row[Any]]) -> OrderNews:
    closed = state.status is PositionStatus.CLOSED
    return OrderNews(
        order=proposal.intent,
        status=_status(proposal),
        traded=traded(proposal.fills),
        realised_pnl=state.totals.realised_pnl if closed else None,
        at=inserted[_id(proposal)].committed_at,
    )


def _live(proposal: Proposal, inserted: Mapping[str, Row[Any]]) -> LiveOrder:
    intent, row = proposal.intent, inserted[_id(proposal)]
    return LiveOrder(
        client_order_id=intent.client_order_id,
        bot_id=intent.bot_id,
        user_id=intent.user_id,
        shard=intent.shard,
        credential_id=intent.credential_id,
        venue=intent.venue,
        pair=intent.pair,
        position_sequence=intent.position_sequence,
        leg=intent.leg,
        attempt=intent.attempt,
        quantity=intent.quantity,
        limit_price=intent.limit_price,
        decided_price=intent.decided_price,
        status=_status(proposal),
        venue_order_id=None,
        market_time_ms=intent.market_time_ms,
        committed_at_ms=ms_of(row.committed_at),
        send_by_ms=ms_of(row.send_by),
        regime=intent.regime,
    )
