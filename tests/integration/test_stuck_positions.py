"""A position that its venue will not let go of shows everywhere, with what the venue said."""

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import insert, select

from console.__main__ import botfleet
from shared.orders import STUCK_AFTER_ATTEMPTS, Leg, OrderStatus, Side
from shared.store import positions
from shared.store.engine import Store
from shared.store.positions import PositionFilter
from shared.store.tables import orders
from tests.integration.traders import Trader, commit, spec, traders

SAID = "EOrder:Trading agreement required"


async def refused_exits(store: Store, trader: Trader, count: int) -> None:
    """So many exits of the trader's open position that the venue refused."""
    async with store.begin() as tx:
        entry = (await tx.execute(select(orders).where(orders.c.bot_id == trader.bot_id))).one()
        for attempt in range(count):
            changed = {
                "client_order_id": f"{trader.bot_id:016}{attempt:016}",
                "leg": Leg.EXIT,
                "side": Side.SELL,
                "attempt": attempt,
                "status": OrderStatus.REJECTED,
                "detail": SAID if attempt == count - 1 else None,
            }
            row = {key: value for key, value in entry._mapping.items() if key != "id"}
            await tx.execute(insert(orders).values({**row, **changed}))


@pytest.fixture
async def stuck_and_not(store: Store) -> tuple[int, int]:
    """Two open positions, by id: one with as many exits behind it as make it stuck, one with
    one less."""
    found = await traders(store, spec(name="stuck"), spec(name="not yet"))
    for trader, exits in zip(found, (STUCK_AFTER_ATTEMPTS, STUCK_AFTER_ATTEMPTS - 1), strict=True):
        await commit(store, trader.entry())
        await refused_exits(store, trader, exits)
    async with store.read() as tx:
        not_yet, stuck = await positions.page(tx)
    return stuck.id, not_yet.id


async def test_only_so_many_refused_exits_make_a_position_stuck(
    store: Store, stuck_and_not: tuple[int, int]
) -> None:
    async with store.read() as tx:
        (found,) = await positions.page(tx, PositionFilter(stuck=True))
        not_yet = await positions.get(tx, stuck_and_not[1])
        assert await positions.count_stuck(tx) == 1
    assert (found.id, found.stuck, found.last_detail) == (stuck_and_not[0], True, SAID)
    assert (not_yet.stuck, not_yet.exit_attempts) == (False, STUCK_AFTER_ATTEMPTS - 1)


async def test_a_stuck_position_shows_everywhere_with_what_the_venue_said(
    database_url: str,
    stuck_and_not: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)
    for venue in ("KRAKEN", "BINANCE"):
        monkeypatch.setenv(f"BOTFLEET_{venue}_URL", "http://127.0.0.1:9")
    stuck = stuck_and_not[0]

    async def types(*arguments: str) -> str:
        run = await asyncio.to_thread(
            CliRunner().invoke, botfleet, arguments, catch_exceptions=False
        )
        return str(run.stdout)

    listed = await types("positions", "list", "--stuck")
    assert "open, stuck" in listed
    lines = (await types("positions", "list", "--json")).splitlines()
    assert {row["id"]: row["stuck"] for row in map(json.loads, lines)} == {
        stuck: True,
        stuck_and_not[1]: False,
    }
    shown = await types("positions", "show", str(stuck))
    assert f"stuck: {STUCK_AFTER_ATTEMPTS} exits" in shown
    assert SAID in shown
    assert "positions list --stuck" in await types("status")
    assert json.loads(await types("status", "--json"))["stuck_positions"] == [stuck]
    checks = json.loads(await types("doctor", "--json"))["checks"]
    (exits,) = (check for check in checks if check["check"] == "exits")
    assert exits["mark"] == "wrong"
    assert SAID in exits["found"]
