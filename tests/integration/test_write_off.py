"""A position that cannot be sold is settled by hand: in the books, and in the worker."""

import asyncio
import json
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import select, update

from console.__main__ import botfleet
from shared.bus import Bus
from shared.errors import Refused
from shared.orders import BotStatus, OrderStatus, PositionStatus
from shared.signals import decode_alert
from shared.store import bots, positions
from shared.store.engine import Store
from shared.store.tables import orders, outbox
from shared.store.write_off import WRITTEN_OFF, write_off
from tests.integration import trading_fleet
from tests.integration.traders import Trader, commit, spec, traders
from tests.integration.trading_fleet import Prices, add_bots, serving

WHY = "delisted; agreed with ann"


@pytest.fixture
async def bought(store: Store) -> tuple[Trader, int]:
    """A bot that bought one at 100, and the position's id."""
    (trader,) = await traders(store, spec(capital=Decimal(100_000)))
    await commit(store, trader.entry())
    async with store.read() as tx:
        (position,) = await positions.page(tx)
    return trader, position.id


async def test_what_is_held_becomes_dust_and_the_loss_is_booked(
    store: Store, bought: tuple[Trader, int]
) -> None:
    trader, position_id = bought
    async with store.begin() as tx:
        done = await write_off(tx, position_id, reason=WHY)
    async with store.read() as tx:
        position = await positions.get(tx, position_id)
        bot = await bots.get(tx, trader.bot_id)
        alert = (await tx.execute(select(outbox).order_by(outbox.c.id.desc()))).first()
    assert (done.held, done.realised_pnl) == (Decimal(1), Decimal(-100))
    assert position.status is PositionStatus.CLOSED
    assert (position.exit_reason, position.exit_wanted) == (WRITTEN_OFF, WHY)
    assert (position.dust_quantity, position.realised_pnl) == (Decimal(1), Decimal(-100))
    assert (bot.realised, bot.loss_streak) == (Decimal(-100), 1)
    assert alert is not None
    told = decode_alert(alert.body.encode())
    assert told.code == "position_written_off"
    assert told.facts["reason"] == WHY


async def test_it_is_written_off_once_and_its_pair_is_free_again(
    store: Store, bought: tuple[Trader, int]
) -> None:
    trader, position_id = bought
    async with store.begin() as tx:
        await write_off(tx, position_id, reason=WHY)
    async with store.begin() as tx:
        with pytest.raises(Refused, match="closed already"):
            await write_off(tx, position_id, reason=WHY)
    sale = trader.exit("120")
    assert not (await commit(store, sale)).positions, "a decision of before comes to nothing"
    again = trader.entry()
    assert list((await commit(store, again)).positions) == [again.intent.client_order_id]


async def test_an_unsettled_order_must_be_settled_first(
    store: Store, bought: tuple[Trader, int]
) -> None:
    _, position_id = bought
    async with store.begin() as tx:
        id_ = (await tx.execute(select(orders.c.client_order_id))).scalar_one()
        await tx.execute(update(orders).values(status=OrderStatus.UNKNOWN))
    async with store.begin() as tx:
        with pytest.raises(Refused, match=f"{id_}.*unknown.*botfleet orders"):
            await write_off(tx, position_id, reason=WHY)


@pytest.fixture
def types(
    database_url: str, bus_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> "Types":
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("RABBITMQ_URL", bus_url)
    return Types()


class Types:
    """A person at the command line."""

    async def __call__(
        self, *arguments: str, stdin: str | None = None, exit_code: int = 0
    ) -> Result:
        done = await asyncio.to_thread(
            CliRunner().invoke, botfleet, arguments, input=stdin, catch_exceptions=False
        )
        assert done.exit_code == exit_code, done.output
        return done


async def test_a_person_is_asked_first_and_must_say_why(
    store: Store, bought: tuple[Trader, int], types: Types
) -> None:
    _, position_id = bought
    verb = ("positions", "write-off", str(position_id))
    await types(*verb, exit_code=2)
    await types(*verb, "--reason", " ", "--yes", exit_code=1)
    refused = await types(*verb, "--reason", WHY, stdin="n\n", exit_code=1)
    assert "1 BTC is given up" in refused.stderr
    async with store.read() as tx:
        assert (await positions.get(tx, position_id)).status is PositionStatus.OPEN
    done = await types(*verb, "--reason", WHY, "--yes", "--json", "--no-wait")
    assert json.loads(done.stdout)["dust_quantity"] == "1"
    shown = (await types("positions", "show", str(position_id))).stdout
    assert f"written off by hand: {WHY}" in shown


async def test_the_worker_lets_go_of_it_and_trades_on(
    store: Store, bus: Bus, prices: Prices, types: Types
) -> None:
    (bot_id,) = await add_bots(
        store,
        trading_fleet.spec(
            capital=Decimal(1_000), risk_profile={"max_daily_loss": 1.0, "cooldown_secs": 0.0}
        ),
    )
    async with serving(store, bus) as worker:
        await prices.publish(100.0)
        await worker.commits(1)
        async with store.read() as tx:
            (first,) = await positions.page(tx)
        written = await types("positions", "write-off", str(first.id), "--reason", WHY, "--yes")
        assert "in effect on worker" in written.stdout
        # 0.5 % above: nothing would sell a position, and a flat row buys.
        bought = prices.tick(100.5)

        async def buys() -> bool:
            await prices.publish(bought.price)
            return worker.committed == 2

        await trading_fleet.until(buys)
        async with store.read() as tx:
            second, _ = await positions.page(tx)
            bot = await bots.get(tx, bot_id)
        assert (second.sequence, second.status) == (2, PositionStatus.OPEN)
        assert bot.status is BotStatus.ACTIVE
        assert bot.realised == -first.entry_cost - first.fees
