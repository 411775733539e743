"""The positions behind orders that are being settled: which one a fill goes to, and what follows.

A fill goes to its order's own position. Where that is closed, the fill is late: what was bought
joins the pair's open position or opens the next one, since somebody must sell it; what was sold
changes the result of the closed one.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Row

from shared.clock import datetime_of
from shared.errors import StoreUnavailable
from shared.money import MarketRules, exact
from shared.orders import (
    UNSETTLED,
    Leg,
    Mode,
    OrderFacts,
    OrderStatus,
    PositionStatus,
    totals_of,
)
from shared.settlement_rules import Home, home_of, new_home_status, position_after
from shared.store import position_changes
from shared.store import settlement_statements as sql
from shared.store.bulk import dialect_of
from shared.store.engine import Transaction
from shared.store.position_changes import PositionChange, PositionKey
from shared.store.results import Result
from shared.store.trading import PositionState, state_of
from shared.store.trading_statements import KEYS, NEW_POSITIONS

Pair = tuple[int, str]
"""(bot id, pair)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The position that an order's new fills go to; `late` where it is none that waits for it."""

    key: PositionKey
    late: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Position:
    key: PositionKey
    mode: str
    regime: str | None
    state: PositionState
    exit_reason: str | None
    exited_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """The order that a pair waits for."""

    client_order_id: str
    sequence: int
    leg: Leg


def own_key(order: OrderFacts) -> PositionKey:
    return order.bot_id, order.pair, order.position_sequence


class SettledPositions:
    """The locked positions of some locked orders, kept as the transaction changes them."""

    def __init__(self) -> None:
        self._positions: dict[PositionKey, _Position] = {}
        self._waiting: dict[Pair, _Waiting] = {}
        self._rules: dict[tuple[str, str], MarketRules] = {}

    async def lock(self, tx: Transaction, orders: Collection[OrderFacts]) -> None:
        """Lock what these orders may change, until the transaction ends."""
        dialect = dialect_of(tx)
        keys = KEYS.parameters({own_key(order) for order in orders})
        for row in await tx.execute(sql.lock_positions(dialect), keys):
            self._keep(row)
        pairs = sql.PAIRS.parameters({(order.bot_id, order.pair) for order in orders})
        for row in await tx.execute(sql.read_unsettled(dialect), pairs):
            self._waiting[row.bot_id, row.pair] = _Waiting(
                client_order_id=row.client_order_id,
                sequence=row.position_sequence,
                leg=Leg(row.leg),
            )
        markets = sql.MARKETS.parameters({(order.venue, order.pair) for order in orders})
        for row in await tx.execute(sql.read_rules(dialect), markets):
            self._rules[row.venue, row.pair] = MarketRules(
                lot_step=row.lot_step,
                price_tick=row.price_tick,
                min_quantity=row.min_quantity,
                min_notional=row.min_notional,
            )

    def exists(self, key: PositionKey) -> bool:
        return key in self._positions

    def state(self, key: PositionKey) -> PositionState:
        """A position as it is now; one that does not exist is closed and empty."""
        found = self._positions.get(key)
        if found is not None:
            return found.state
        empty = totals_of((), pair=key[1])
        return PositionState(status=PositionStatus.CLOSED, version=0, totals=empty)

    def is_blocked(self, order: OrderFacts) -> bool:
        """Whether another order on its pair is unsettled: there is room for one."""
        waiting = self._waiting.get((order.bot_id, order.pair))
        return waiting is not None and waiting.client_order_id != order.client_order_id

    def order_is(self, order: OrderFacts, status: OrderStatus) -> None:
        """Take note of an order's status, for what its pair waits for."""
        pair = order.bot_id, order.pair
        if status in UNSETTLED:
            self._waiting[pair] = _Waiting(
                client_order_id=order.client_order_id,
                sequence=order.position_sequence,
                leg=order.leg,
            )
        elif not self.is_blocked(order):
            self._waiting.pop(pair, None)

    async def place(self, tx: Transaction, orders: Sequence[OrderFacts]) -> dict[str, Place]:
        """Where the new fills of these orders go, by client order id.

        Raises `StoreUnavailable` where a position was opened at this very moment: try again.
        """
        places = {}
        for order in orders:
            late = self.state(own_key(order)).status is PositionStatus.CLOSED
            home = self._home(order)
            if home is None:
                home = await self._open(tx, order)
            places[order.client_order_id] = Place(key=home, late=late)
        return places

    async def follow(
        self, tx: Transaction, touched: Mapping[PositionKey, OrderFacts]
    ) -> dict[PositionKey, Result]:
        """Recompute these positions from all their fills, each because of an order.

        Returns the results of those that were closed, and the corrections of those that were
        closed before. What stays as it was is not written.
        """
        totals = await position_changes.totals(tx, touched)
        changes, booked = [], {}
        for key, order in touched.items():
            before = self._positions[key]
            outcome = position_after(
                before.state.status,
                totals[key],
                waits_for=self._waits_for(key),
                rules=self._rules.get((order.venue, order.pair)),
                price=order.decided_price,
            )
            state = PositionState(
                status=outcome.status, version=before.state.version + 1, totals=totals[key]
            )
            if replace(state, version=before.state.version) == before.state:
                continue
            after = _with_exit(replace(before, state=state), before, order)
            self._positions[key] = after
            changes.append(_change(after, outcome.dust))
            result = _result(before.state, state, order)
            if result is not None:
                booked[key] = result
        await position_changes.write(tx, changes)
        return booked

    def _home(self, order: OrderFacts) -> PositionKey | None:
        """The position that there is for an order's fills."""
        own, current = self._positions.get(own_key(order)), self._unclosed(order)
        home = home_of(
            order.leg,
            order.mode,
            own=None if own is None else own.state.status,
            current=None if current is None else Mode(current.mode),
        )
        found = {Home.OWN: own, Home.CURRENT: current, Home.NEW: None}[home]
        return None if found is None else found.key

    def _unclosed(self, order: OrderFacts) -> _Position | None:
        pair = order.bot_id, order.pair
        for key, position in self._positions.items():
            if key[:2] == pair and position.state.status is not PositionStatus.CLOSED:
                return position
        return None

    def _waits_for(self, key: PositionKey) -> Leg | None:
        waiting = self._waiting.get(key[:2])
        return waiting.leg if waiting is not None and waiting.sequence == key[2] else None

    async def _open(self, tx: Transaction, order: OrderFacts) -> PositionKey:
        """Make a position for late fills: the next one, or the order's own where that is lost."""
        own = self._positions.get(own_key(order))
        sequence = order.position_sequence
        if own is not None:
            pair = sql.PAIRS.parameters([(order.bot_id, order.pair)])
            last = (await tx.execute(sql.last_sequences(dialect_of(tx)), pair)).one()
            sequence = last.sequence + 1
        current = self._unclosed(order)
        mode = None if current is None else Mode(current.mode)
        new = NEW_POSITIONS.parameters(
            [
                (
                    order.bot_id,
                    order.user_id,
                    order.credential_id,
                    order.venue,
                    order.pair,
                    sequence,
                    order.mode,
                    new_home_status(order.leg, current=mode),
                    0,
                    None if own is None else own.regime,
                    *(Decimal(0), Decimal(0), Decimal(0)),
                    order.reason,
                    datetime_of(order.market_time_ms),
                )
            ]
        )
        row = (await tx.execute(sql.insert_late_positions(dialect_of(tx)), new)).one_or_none()
        if row is None:
            raise StoreUnavailable(
                f"a position of bot {order.bot_id} on {order.pair} was opened meanwhile"
            )
        return self._keep(row)

    def _keep(self, row: Row[Any]) -> PositionKey:
        key = row.bot_id, row.pair, row.sequence
        self._positions[key] = _Position(
            key=key,
            mode=row.mode,
            regime=row.regime,
            state=state_of(row),
            exit_reason=row.exit_reason,
            exited_at=row.exited_at,
        )
        return key


def _with_exit(after: _Position, before: _Position, order: OrderFacts) -> _Position:
    """With the reason and time of its exit, which an order ends or begins."""
    status = after.state.status
    if status is before.state.status:
        return after
    if status is PositionStatus.OPEN or not after.state.totals.entry_quantity:
        return replace(after, exit_reason=None, exited_at=None)
    reason = order.reason if order.leg is Leg.EXIT else None
    return replace(after, exit_reason=reason, exited_at=datetime_of(order.market_time_ms))


def _change(position: _Position, dust: Decimal) -> PositionChange:
    return PositionChange(
        key=position.key,
        status=position.state.status,
        version=position.state.version,
        totals=position.state.totals,
        dust=dust,
        exit_reason=position.exit_reason,
        exited_at=position.exited_at,
    )


def _result(before: PositionState, after: PositionState, order: OrderFacts) -> Result | None:
    if after.status is not PositionStatus.CLOSED:
        return None
    realised = after.totals.realised_pnl
    if before.status is not PositionStatus.CLOSED:
        traded = after.totals.entry_quantity or after.totals.exit_quantity
        return Result(closed_by=order, realised_pnl=realised) if traded else None
    with exact():
        difference = realised - before.totals.realised_pnl
    if not difference:
        return None
    return Result(closed_by=order, realised_pnl=difference, correction=True)
