"""Letting a row know what became of its order."""

from shared.messages import Regime
from shared.orders import Intent, Leg, LiveOrder, PositionStatus
from shared.store.trading import PositionState
from trade_worker.bot_row import PositionSnapshot
from trade_worker.bot_table import BotTable


def tell(table: BotTable, order: Intent | LiveOrder, state: PositionState) -> bool:
    """End what the order's row waits for; while the position is opening or closing, nothing.

    False where the row does not wait for it: it was loaded meanwhile, and knows it or not.
    """
    if order.leg is Leg.ENTRY:
        return _tell_entry(table, order, state)
    return _tell_exit(table, order, state)


def _tell_entry(table: BotTable, order: Intent | LiveOrder, state: PositionState) -> bool:
    totals = state.totals
    if state.status is PositionStatus.OPEN:
        return table.entry_filled(
            order.bot_id,
            PositionSnapshot(
                sequence=order.position_sequence,
                version=state.version,
                status=state.status,
                mode=order.mode,
                average_entry=float(totals.entry_cost / totals.entry_quantity),
                cost=float(totals.entry_cost + totals.fees),
                held=totals.held,
                opened_market_ms=order.market_time_ms,
                regime=Regime(order.regime) if order.regime else None,
            ),
        )
    if state.status is PositionStatus.CLOSED:
        return table.entry_ended_unfilled(
            order.bot_id, sequence=order.position_sequence, market_time_ms=order.market_time_ms
        )
    return True


def _tell_exit(table: BotTable, order: Intent | LiveOrder, state: PositionState) -> bool:
    totals = state.totals
    if state.status is PositionStatus.CLOSED:
        return table.exit_filled(
            order.bot_id,
            sequence=order.position_sequence,
            realised=float(totals.realised_pnl),
            market_time_ms=order.market_time_ms,
        )
    if state.status is PositionStatus.OPEN:
        return table.exit_ended_unfilled(
            order.bot_id,
            sequence=order.position_sequence,
            attempt=order.attempt,
            version=state.version,
            held=totals.held,
            market_time_ms=order.market_time_ms,
        )
    return True
