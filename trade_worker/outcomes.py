"""Letting a row know what became of its order."""

from shared.messages import Regime
from shared.orders import Intent, Leg, LiveOrder, Mode, PositionStatus
from shared.store.trading import PositionState
from trade_worker.bot_row import PositionSnapshot
from trade_worker.bot_table import BotTable


def tell(table: BotTable, order: Intent | LiveOrder, state: PositionState) -> None:
    """End what the order's row waits for; while the position is opening or closing, nothing.

    An outcome that the row does not wait for concerns nobody: it was reloaded meanwhile.
    """
    if order.leg is Leg.ENTRY:
        _tell_entry(table, order, state)
    else:
        _tell_exit(table, order, state)


def _tell_entry(table: BotTable, order: Intent | LiveOrder, state: PositionState) -> None:
    totals = state.totals
    if state.status is PositionStatus.OPEN:
        table.entry_filled(
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
    elif state.status is PositionStatus.CLOSED:
        table.entry_ended_unfilled(
            order.bot_id, sequence=order.position_sequence, market_time_ms=order.market_time_ms
        )


def _tell_exit(table: BotTable, order: Intent | LiveOrder, state: PositionState) -> None:
    totals = state.totals
    if state.status is PositionStatus.CLOSED:
        table.exit_filled(
            order.bot_id,
            sequence=order.position_sequence,
            realised=float(totals.realised_pnl),
            market_time_ms=order.market_time_ms,
        )
    elif state.status is PositionStatus.OPEN:
        table.exit_ended_unfilled(
            order.bot_id,
            sequence=order.position_sequence,
            attempt=order.attempt,
            version=state.version,
            held=totals.held,
            market_time_ms=order.market_time_ms,
        )
