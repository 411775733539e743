"""A worker under breakers, kill switches and limits, on the memory bus."""

import asyncio
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Final
from uuid import uuid4

import pytest
from sqlalchemy import update

from shared.breakers import next_day_ms
from shared.bus import Bus
from shared.bus.connect import bus_for
from shared.limits import BreakerKind, KillSwitchLevel, KillSwitchScope
from shared.orders import BotStatus
from shared.store import bots, breakers, switches
from shared.store import tables as t
from shared.store.engine import Store
from tests.integration.trading_fleet import (
    MINUTE_MS,
    PATIENCE_SECS,
    Prices,
    Serving,
    add_bots,
    rows,
    serving,
    spec,
    until,
)

ENTRY, LOSS, HOLD = 100.0, 97.0, 100.5
"""Prices: to enter, to sell at an early loss, to do nothing with what was bought at 100."""

SMALL: Final = {"cooldown_secs": 0.0, "stake_fraction": 0.1}
"""No pause between trades, and losses far from a day's limit."""


@pytest.fixture
async def bus() -> AsyncIterator[Bus]:
    opened = bus_for(f"memory://{uuid4().hex}", name="test")
    await opened.start()
    yield opened
    await opened.close()


@pytest.fixture
def prices(bus: Bus) -> Prices:
    return Prices(bus)


async def publish_until(
    worker: Serving, prices: Prices, price: float, condition: Callable[[], bool]
) -> None:
    """Publish ticks at a price, each judged before the next, until the condition holds."""
    async with asyncio.timeout(PATIENCE_SECS):
        while True:
            judged = worker.ticks("judged")
            await prices.publish(price, minutes=0.01)
            await worker.judges(judged + 1)
            if condition():
                return
            # Ticks are judged faster than a transaction takes.
            await asyncio.sleep(0.01)


async def open_breakers(store: Store) -> list[BreakerKind]:
    async with store.read() as tx:
        return [breaker.kind for breaker in await breakers.read_open(tx)]


async def position_statuses(store: Store) -> list[str]:
    return [position.status for position in await rows(store, t.positions)]


async def test_three_losses_stop_a_bot_until_the_markets_next_day_over_a_restart(
    store: Store, bus: Bus, prices: Prices
) -> None:
    await add_bots(store, spec(risk_profile=SMALL))
    async with serving(store, bus) as worker:
        for number in range(3):
            await prices.publish(ENTRY)
            await worker.commits(2 * number + 1)
            await prices.publish(LOSS)
            await worker.commits(2 * number + 2)
        assert await open_breakers(store) == [BreakerKind.LOSS_STREAK]
        # Until the columns know of the breaker the transaction denies; then they do.
        await publish_until(worker, prices, ENTRY, lambda: "breaker_open" in worker.verdicts)
        assert worker.committed == 6

    async with serving(store, bus) as worker:
        await publish_until(worker, prices, ENTRY, lambda: True)
        assert worker.verdicts == {"breaker_open": 1}
        midnight_ms = next_day_ms(prices.market_time_ms)
        await prices.publish(ENTRY, minutes=(midnight_ms - prices.market_time_ms) / MINUTE_MS)

        async def closed() -> bool:
            return not await open_breakers(store)

        await until(closed)
        await publish_until(worker, prices, ENTRY, lambda: worker.committed == 1)
    assert await position_statuses(store) == ["closed", "closed", "closed", "open"]


async def test_a_level_of_the_kill_switch_stops_sells_and_lets_go_again(
    store: Store, bus: Bus, prices: Prices
) -> None:
    holding, waiting = await add_bots(store, spec(0), spec(1, status=BotStatus.PAUSED))
    async with serving(store, bus) as worker:
        await prices.publish(ENTRY)
        await worker.commits(1)
        async with store.begin() as tx:
            await bots.set_status(tx, [waiting], BotStatus.ACTIVE)
        turned = await turn(store, KillSwitchLevel.ALL)
        await worker.until(lambda: worker.worker.report()["kill_switches_seen"] == turned)
        await publish_until(worker, prices, LOSS, lambda: "kill_switch_on" in worker.verdicts)
        assert worker.committed == 1

        turned = await turn(store, KillSwitchLevel.FLATTEN)
        await worker.until(lambda: worker.worker.report()["kill_switches_seen"] == turned)
        await publish_until(worker, prices, HOLD, lambda: worker.committed == 2)
        (order,) = [order for order in await rows(store, t.orders) if order.leg == "exit"]
        assert (order.bot_id, order.reason) == (holding, "operator_exit")
        await publish_until(worker, prices, ENTRY, lambda: "kill_switch_on" in worker.verdicts)
        assert worker.committed == 2

        await turn(store, KillSwitchLevel.OFF)
        await publish_until(worker, prices, ENTRY, lambda: worker.committed >= 3)


async def test_a_kill_switch_survives_a_restart(store: Store, bus: Bus, prices: Prices) -> None:
    await add_bots(store, spec())
    turned = await turn(store, KillSwitchLevel.ENTRIES)
    for _ in range(2):
        async with serving(store, bus) as worker:
            assert worker.worker.report()["kill_switches_seen"] == turned
            await publish_until(worker, prices, ENTRY, lambda: True)
            assert worker.verdicts == {"kill_switch_on": 1}
    assert await rows(store, t.orders) == []


async def test_flatten_sells_what_an_inactive_bot_was_to_keep(
    store: Store, bus: Bus, prices: Prices
) -> None:
    (bot_id,) = await add_bots(store, spec())
    async with serving(store, bus) as worker:
        await prices.publish(ENTRY)
        await worker.commits(1)
        async with store.begin() as tx:
            await bots.set_status(tx, [bot_id], BotStatus.INACTIVE)
        await turn(store, KillSwitchLevel.FLATTEN)
        await publish_until(worker, prices, HOLD, lambda: worker.committed == 2)
    assert await position_statuses(store) == ["closed"]


async def test_a_user_at_its_notional_limit_is_asked_again_only_after_a_cool_down(
    store: Store, bus: Bus, prices: Prices
) -> None:
    await add_bots(store, spec(user="ann", name="one"), spec(user="ann", name="two"))
    async with store.begin() as tx:
        await tx.execute(update(t.users).values(max_notional=Decimal(1000)))
    async with serving(store, bus) as worker:
        await publish_until(
            worker, prices, ENTRY, lambda: bool(worker.dropped) and worker.committed == 1
        )
        assert dict(worker.dropped) == {"user_notional_limit": 1}
        await publish_until(worker, prices, ENTRY, lambda: "cooling_down" in worker.verdicts)
        await prices.publish(ENTRY, minutes=1)
        await worker.until(lambda: worker.dropped["user_notional_limit"] == 2)
    (position,) = await rows(store, t.positions)
    (order,) = await rows(store, t.orders)
    assert (position.sequence, order.position_sequence) == (1, 1)


async def turn(store: Store, level: KillSwitchLevel) -> int:
    """Turn the fleet's switch; its version."""
    return (await switches.turn(store, KillSwitchScope.FLEET, "", level, reason="test")).version
