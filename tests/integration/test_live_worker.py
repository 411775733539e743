"""A worker trades for real at each simulated venue, and another one goes on where it ended.

What the venue wrote in its journal is what our books must say.
"""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from shared.limits import KillSwitchLevel, KillSwitchScope
from shared.orders import BotStatus, Leg
from shared.store import bots as bot_store
from shared.store import credential_changes as changes
from shared.store import credentials, switches
from shared.store import tables as t
from shared.venues import VENUES
from tests.integration.live_worker import USER, Floor, live_floor
from tests.integration.trading_fleet import rows, until


@pytest.fixture(params=VENUES.values(), ids=list(VENUES))
async def floor(
    request: pytest.FixtureRequest, migrated_database_url: str, tmp_path: Path
) -> AsyncIterator[Floor]:
    async with live_floor(request.param, migrated_database_url, tmp_path) as one:
        yield one


async def test_an_entry_and_an_exit_end_in_the_right_rows(floor: Floor) -> None:
    async with floor.worker() as worker:
        await floor.buy(worker)
        position = await floor.position_becomes("open")
        entry = await floor.order()
        assert (entry.leg, entry.status, entry.filled_quantity) == (
            "entry",
            "filled",
            entry.quantity,
        )
        assert (position.version, position.mode) == (2, "live")
        assert position.credential_id == entry.credential_id == floor.credential_id
        assert position.entry_quantity == entry.quantity
        await floor.sell(worker)
        position = await floor.position_becomes("closed")
        exit_ = await floor.order()
        assert (exit_.leg, exit_.status, exit_.limit_price) == (Leg.EXIT, "filled", None)
        assert position.version == 4  # closing, closed
        assert worker.live["sent"]["accepted"] == 2
        assert worker.live["without_outcome"] == 0
    await floor.agrees()


async def test_a_bot_trades_again_and_again_with_what_it_has_left(floor: Floor) -> None:
    await floor.change_bot(risk_profile={"cooldown_secs": 0.0})
    async with floor.worker() as worker:
        for number in range(1, 3):
            await floor.buy(worker)
            bought = await floor.position_becomes("open")
            assert bought.sequence == number
            await floor.sell(worker)
            await floor.position_becomes("closed")
    closed = await rows(floor.store, t.positions)
    (bot,) = await rows(floor.store, t.bots)
    assert bot.realised == sum((each.realised_pnl for each in closed), Decimal(0))
    await floor.agrees()


async def test_an_entry_that_the_account_cannot_pay_is_not_committed(floor: Floor) -> None:
    async with floor.worker() as worker:
        await floor.buy(worker)
        await floor.position_becomes("open")
        # A second bot of the same user wants more than the account has left.
        await floor.add_bot(capital=Decimal(1_000_000))
        await worker.until(lambda: worker.worker.report()["rows"] == 2)
        await floor.drive(lambda: worker.dropped.get("balance_too_small", 0) > 0)
        assert worker.committed == 1
    await floor.agrees()


# Takeovers


async def test_what_a_killed_worker_committed_and_never_sent_is_not_placed(floor: Floor) -> None:
    async with floor.worker() as worker:
        worker.port.may_leave.clear()
        await floor.buy(worker)
        await worker.sends()
        await worker.kill()
    assert (await floor.order()).status == "committed"
    async with floor.worker() as worker:
        order = await floor.becomes("not_placed")
        assert (await floor.position()).status == "closed"
        assert worker.port.taken == 0
        await floor.buy(worker)
        await floor.position_becomes("open")
    lost, placed = await rows(floor.store, t.orders)
    assert lost.client_order_id == order.client_order_id != placed.client_order_id
    await floor.agrees()


async def test_what_a_killed_worker_sent_and_was_not_told_of_is_found(floor: Floor) -> None:
    async with floor.worker() as worker:
        worker.port.may_return.clear()
        await floor.buy(worker)
        await worker.until(lambda: worker.port.answered > 0)
        await worker.kill()
    assert (await floor.order()).status == "committed"
    async with floor.worker() as worker:
        await floor.becomes("filled")
        assert (await floor.position()).status == "open"
        assert worker.port.taken == 0
        await floor.sell(worker)
        await floor.position_becomes("closed")
    await floor.agrees()


async def test_an_exit_of_a_killed_worker_that_was_sent_is_found(floor: Floor) -> None:
    async with floor.worker() as worker:
        await floor.buy(worker)
        await floor.position_becomes("open")
        worker.port.may_return.clear()
        await floor.sell(worker)
        await worker.until(lambda: worker.port.answered > 1)
        await worker.kill()
    assert (await floor.position()).status == "closing"
    async with floor.worker() as worker:
        await floor.position_becomes("closed")
        assert worker.port.taken == 0
    await floor.agrees()


async def test_a_worker_that_stops_waits_for_the_answers(floor: Floor) -> None:
    await floor.break_it("slow", endpoint="add_order", delay_secs=0.3)
    async with floor.worker() as worker:
        await floor.buy(worker)
        await worker.sends()
        await worker.stop()
    assert (await floor.order()).sent_at is not None
    async with floor.worker():
        await floor.becomes("filled")
    await floor.agrees()


# Stopped


async def test_under_an_entries_switch_nothing_is_bought_and_what_is_held_is_sold(
    floor: Floor,
) -> None:
    async with floor.worker() as worker:
        await floor.buy(worker)
        await floor.position_becomes("open")
        scope = KillSwitchScope.VENUE
        await switches.turn(
            floor.store, scope, floor.venue.name, KillSwitchLevel.ENTRIES, reason="test"
        )
        await floor.sell(worker)
        await floor.position_becomes("closed")
    await floor.agrees()


async def test_a_bot_that_is_stopped_sells_what_it_holds(floor: Floor) -> None:
    async with floor.worker() as worker:
        await floor.buy(worker)
        await floor.position_becomes("open")
        async with floor.store.begin() as tx:
            await bot_store.set_status(tx, [floor.bot_id], BotStatus.STOPPING)
        await floor.drive(lambda: worker.committed == 2)
        await floor.position_becomes("closed")

        async def inactive() -> bool:
            (bot,) = await rows(floor.store, t.bots)
            return bool(bot.status == BotStatus.INACTIVE)

        await until(inactive)
    await floor.agrees()


@pytest.mark.parametrize("way", ["removed", "not live"])
async def test_without_a_key_that_may_trade_nothing_is_bought(floor: Floor, way: str) -> None:
    async with floor.worker() as worker:
        await floor.tick()
        async with floor.store.begin() as tx:
            credential = await credentials.required(tx, USER, floor.venue.name)
            if way == "removed":
                await changes.remove(tx, credential)
            else:
                await changes.change(tx, credential.id, live=False)
        await floor.drive(lambda: worker.verdicts.get("credential_not_ready", 0) == 1)
        assert worker.committed == 0
