"""Peaks are saved beside exits, and neither stands in the other's way."""

import asyncio

from sqlalchemy import select, text

from shared.store import trading
from shared.store.engine import Store
from shared.store.tables import positions
from tests.integration.traders import OWNER, commit, spec, traders
from tests.integration.trading_fleet import until


async def test_peaks_lock_positions_in_the_order_in_which_exits_do(postgres_store: Store) -> None:
    """Else the two wait for each other for a second, until the database ends one of them."""
    store = postgres_store
    holders = await traders(store, spec(name="first"), spec(name="second"))
    for trader in holders:
        await commit(store, trader.entry())
    ids = select(positions.c.id).order_by(positions.c.id)
    async with store.read() as tx:
        first, second = (await tx.scalars(ids)).all()
    peaks = [(trader.bot_id, trader.pair, 1, 0.5) for trader in reversed(holders)]

    async def save() -> None:
        async with store.begin() as tx:
            await trading.save_peaks(tx, peaks, owner=OWNER)

    async def it_waits() -> bool:
        async with store.read() as tx:
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            return bool(await tx.scalar(text(waiting)))

    async with store.begin() as tx:
        await tx.execute(ids.where(positions.c.id == first).with_for_update())
        saving = asyncio.create_task(save())
        await until(it_waits)
        await tx.execute(ids.where(positions.c.id == second).with_for_update(nowait=True))
    await saving
    async with store.read() as tx:
        assert set(await tx.scalars(select(positions.c.peak_profit))) == {0.5}
