"""A worker follows its bots, goes on where the last stopped, and writes under its leases only."""

from decimal import Decimal

import pytest
from sqlalchemy import select

from shared.bus import Bus
from shared.orders import BotStatus
from shared.store import bots as bot_store
from shared.store.engine import Store
from shared.store.tables import bots, fills, orders, outbox, positions
from tests.integration.trading_fleet import (
    RULES,
    Prices,
    add_bots,
    end_leases,
    list_market,
    rows,
    serving,
    spec,
    until,
)

FALL, HOLD, RISE = 90.0, 101.0, 106.0
"""Prices after an entry at 100: an emergency stop, nothing, and the weak regime's target."""

# Changes


async def test_changes_to_bots_are_followed_without_a_restart(
    store: Store, bus: Bus, other_bus: Bus, prices: Prices
) -> None:
    (first,) = await add_bots(store, spec())
    await list_market(store, "kraken", "ETH/USD")
    eth = Prices(other_bus, "ETH/USD")
    async with serving(store, bus) as worker:
        await prices.publish(100.0)
        await worker.commits(1)
        assert not await other_bus.publish(eth.message(100.0), mandatory=True)

        eth_only = ("ETH/USD",)
        second, third = await add_bots(store, spec(1, pairs=eth_only), spec(2, pairs=eth_only))
        await until(lambda: other_bus.publish(eth.message(100.0, adx=None), mandatory=True))
        await eth.publish(100.0)
        await worker.commits(3)

        async with store.begin() as tx:
            await bot_store.set_status(tx, [first], BotStatus.PAUSED)
            await bot_store.change(tx, second, risk_profile={"profit_target_weak": 0.001})

        async def target_followed() -> bool:
            await eth.publish(HOLD, adx=None)
            return worker.committed == 4

        await until(target_followed)
        await prices.publish(FALL)
        await worker.commits(5)
        await prices.publish(100.0, minutes=10)
        await worker.until(lambda: worker.verdicts.get("bot_not_active") == 1)

        async with store.begin() as tx:
            await bot_store.set_status(tx, [second, third], BotStatus.STOPPING)

        async def unbound() -> bool:
            return not await other_bus.publish(eth.message(100.0, adx=None), mandatory=True)

        await until(unbound)
        await worker.commits(6)
    placed = [(order.bot_id, order.reason) for order in await rows(store, orders)]
    assert placed == [
        (first, "entry_signal"),
        (second, "entry_signal"),
        (third, "entry_signal"),
        (second, "profit_target"),
        (first, "emergency_stop"),
        (third, "operator_exit"),
    ]
    async with store.read() as tx:
        statuses = {bot.id: bot.status for bot in await bot_store.page(tx)}
    assert statuses == {
        first: BotStatus.PAUSED,
        second: BotStatus.INACTIVE,
        third: BotStatus.INACTIVE,
    }


# Lives of workers


async def test_a_new_worker_goes_on_where_the_last_one_stopped(
    store: Store, bus: Bus, prices: Prices
) -> None:
    calm = {"profit_target_weak": 0.5}
    peaked, cooling = await add_bots(store, spec(0, risk_profile=calm), spec(1))
    async with serving(store, bus) as worker:
        await prices.publish(100.0)
        await worker.commits(2)
        # 5.2 % after fees: a peak for one bot, the target of the other.
        await prices.publish(RISE)
        await worker.commits(3)

    async with serving(store, bus) as worker:
        await prices.publish(102.0, minutes=1)
        await worker.commits(1)
        assert worker.verdicts == {"cooling_down": 1, "position_unclosed": 1}
        await prices.publish(100.0, minutes=5)
        await worker.commits(3)

    *_, eroded, one, other = await rows(store, orders)
    profit = RISE * 0.996 / (100.01 * 1.004) - 1
    assert (eroded.bot_id, eroded.reason) == (peaked, "erosion_cap")
    assert eroded.facts["position"]["peak"] == pytest.approx(profit, abs=1e-12)
    async with store.read() as tx:
        realised = dict(tuple(row) for row in await tx.execute(select(bots.c.id, bots.c.realised)))
    for entry in (one, other):
        # What the bot has realised is part of what it may stake.
        stake = (1000 + realised[entry.bot_id]) * Decimal("0.6")
        assert entry.quantity == (stake / 100).quantize(RULES.lot_step, "ROUND_FLOOR")
    assert {one.bot_id, other.bot_id} == {peaked, cooling}


async def test_leases_that_ran_out_commit_nothing_until_they_are_taken_again(
    store: Store, bus: Bus, other_bus: Bus, prices: Prices
) -> None:
    await add_bots(store, spec(0), spec(1))
    async with serving(store, bus, lease_ttl_secs=2.0) as worker:
        await end_leases(store)
        await prices.publish(100.0)

        async def traded() -> bool:
            if worker.task.done():
                worker.task.result()
            if not worker.committed:
                await other_bus.publish(prices.message(100.0))
            return worker.committed > 0

        await until(traded)
        await worker.until(lambda: worker.committed == 2)
    assert {order.lease_epoch for order in await rows(store, orders)} == {2}


async def test_intents_under_a_superseded_epoch_are_not_committed(
    store: Store, bus: Bus, prices: Prices
) -> None:
    await add_bots(store, spec(0), spec(1))
    async with serving(store, bus, lease_ttl_secs=60) as worker:
        await end_leases(store, new_owner="another worker")
        await prices.publish(100.0)
        await worker.until(lambda: worker.dropped.get("lease lost", 0) == 2)
        # What was not committed is as if it had not been decided.
        await prices.publish(100.0)
        await worker.until(lambda: worker.dropped["lease lost"] == 4)
        assert worker.committed == 0
    for table in (orders, positions, fills, outbox):
        assert await rows(store, table) == []
