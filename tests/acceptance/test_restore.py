"""Backup, trade on, everything killed, restored, `recover`: nothing is lost or doubled."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance import checker, live_judge
from tests.acceptance.fleet import Fleet, Member, fleet_of
from tests.acceptance.live_fleet import LiveFleet
from tests.integration.lost_time import copy_of
from tests.servers.session import PostgresSession

USERS: Final = 2
SENT: Final = "SELECT count(*) FROM orders WHERE mode = 'live' AND sent_at IS NOT NULL"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


async def start(fleet: Fleet) -> tuple[Member, Member]:
    return await fleet.start_price_stream("stream"), await fleet.start_worker("1")


async def trade(live: LiveFleet, orders: int) -> None:
    """Trade until so many more orders were sent."""
    ((sent,),) = [row.values() for row in await live.fleet.query(SENT)]
    await live.until(SENT, at_least=sent + orders, within_secs=120.0)


async def kill(fleet: Fleet, *members: Member) -> None:
    """Everything that is connected to the database is gone."""
    for member in members:
        member.signal(signal.SIGKILL)
        await member.ended()
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    for _ in range(100):
        ((left,),) = [row.values() for row in await fleet.query(others)]
        if left == 1:
            break
        await asyncio.sleep(0.1)
    await fleet.disconnect()


@pytest.mark.thorough
@pytest.mark.timeout(420)
async def test_a_fleet_trades_on_after_a_restore_as_if_nothing_was_lost(
    migrated_database_url: str,
    postgres_session: PostgresSession,
    fresh_rabbitmq_url: str,
    tmp_path: Path,
    stack: ExitStack,
) -> None:
    async with fleet_of(
        tmp_path,
        database_url=migrated_database_url,
        broker_url=fresh_rabbitmq_url,
        lease_ttl_secs=5.0,
        poll_secs=0.5,
    ) as fleet:
        live = await LiveFleet.begin(fleet, tmp_path, users=USERS)
        members = await start(fleet)
        await live.go_live()
        await trade(live, 2 * USERS)

        await kill(fleet, *members)
        backup = stack.enter_context(copy_of(migrated_database_url, postgres_session))
        members = await start(fleet)
        await trade(live, 4 * USERS)
        await kill(fleet, *members)
        placed = set(live_judge.truth_of(live.journal).accepted)

        fleet.use(backup)
        known = {row["client_order_id"] for row in await fleet.query("SELECT * FROM orders")}
        assert placed - known, "the backup knows it all: nothing was lost"
        await fleet.command("recover", "--yes", within_secs=240.0)
        known = {row["client_order_id"] for row in await fleet.query("SELECT * FROM orders")}
        assert placed <= known
        assert set(live_judge.truth_of(live.journal).accepted) == placed

        members = await start(fleet)
        ids = [str(row["id"]) for row in await fleet.query("SELECT id FROM bots")]
        await fleet.command("bots", "start", *ids, "--no-wait")
        await trade(live, 2 * USERS)
        await live.sell_out(within_secs=150.0)
        for member in members:
            member.signal(signal.SIGTERM)
        assert [await member.ended() for member in members] == [0, 0]
        history = await checker.read(backup)
        truth = live_judge.truth_of(live.journal)

    assert not live_judge.violations(history, truth)
