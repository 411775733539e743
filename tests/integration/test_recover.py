"""A backup is restored, and `botfleet recover` finds what was ordered since: all of it, once."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from console import recover_run, recover_venue
from console.__main__ import botfleet
from console.recover_run import Fleet
from console.recover_venue import AccountOrders, PatientOrders
from shared.errors import Refused, VenueUnavailable
from shared.orders import BotStatus, LiveOrder, OrderStatus, PositionStatus
from shared.store import bot_import, bots, fleet, leases, positions, recovery, workers
from shared.store.credentials import set_trouble
from shared.store.engine import Store, connect
from shared.store.tables import credentials, orders
from shared.store.workers import Process, ProcessKind
from shared.store.write_off import write_off
from shared.vault import Vault, new_master_key, parse_master_keys
from tests.acceptance import checker, live_judge
from tests.integration.lost_time import (
    PAIRS,
    Trader,
    copy_of,
    trading_on,
)
from tests.integration.restored_world import (
    World,
    asking_from,
    found_ids,
    give_more_calls,
    lost_since,
    lost_time,
    trade_before,
)
from tests.integration.simulated_venue import running
from tests.integration.traders import spec
from tests.servers.session import PostgresSession
from trade_worker.asking import NOT_FOUND_SECS
from trade_worker.venues import Report
from trade_worker.venues.live import LiveOrders


@pytest.fixture
async def world(
    migrated_database_url: str,
    postgres_session: PostgresSession,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Any:
    line = new_master_key()
    key_file = tmp_path / "vault.keys"
    key_file.touch(mode=0o600)
    key_file.write_text(line)
    journal = tmp_path / "journal.jsonl"
    monkeypatch.chdir(tmp_path)
    for venue in NOT_FOUND_SECS:
        monkeypatch.setitem(NOT_FOUND_SECS, venue, 0.0)
    give_more_calls(monkeypatch)
    async with running(journal=journal) as simulator:
        monkeypatch.setenv("BOTFLEET_VAULT_KEY_FILE", str(key_file))
        monkeypatch.setenv("BOTFLEET_KRAKEN_URL", simulator.base_url)
        monkeypatch.setenv("BOTFLEET_BINANCE_URL", simulator.base_url)
        yield World(
            simulator=simulator,
            journal=journal,
            vault=Vault(parse_master_keys(line, "test")),
            url=migrated_database_url,
            session=postgres_session,
            environment=monkeypatch,
        )


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.mark.parametrize("venue", list(PAIRS))
async def test_everything_that_was_placed_is_found_and_nothing_is_placed_twice(
    world: World, stack: ExitStack, venue: str
) -> None:
    by_name = await trade_before(world, venue)
    restored = stack.enter_context(copy_of(world.url, world.session))
    await lost_time(world, by_name)
    placed = live_judge.truth_of(world.journal).accepted

    before = await checker.read(restored)
    looked = await world.recover(restored, "--dry-run")
    assert await checker.read(restored) == before, "a dry run changes nothing"
    done = await world.recover(restored, "--yes")
    found = found_ids(done)
    assert found == found_ids(looked)
    assert len(found) == 7
    assert not await world.judged(restored)
    assert live_judge.truth_of(world.journal).accepted == placed, "it places nothing"

    store = connect(restored, application_name="test")
    try:
        await look_at_recovered(store, by_name)
        again = await world.recover(restored, "--yes")
    finally:
        await store.close()
    assert not found_ids(again)
    assert not await world.judged(restored)
    assert live_judge.truth_of(world.journal).accepted == placed


async def look_at_recovered(store: Store, by_name: Mapping[str, Trader]) -> None:
    """The restored fleet is as the lost one was, and stands still."""
    async with store.read() as tx:
        unclosed = await positions.page(tx, positions.PositionFilter(unclosed=True))
        every = await bots.page(tx)
        troubles = list(await tx.scalars(select(credentials.c.trouble)))
        shards = await leases.states(tx)
        namespace = (await fleet.read(tx)).namespace
        owed = await recovery.debts(tx)
        statuses = dict(
            (await tx.execute(select(orders.c.bot_id, orders.c.status).order_by(orders.c.id))).all()
        )
    assert {(each.user, each.sequence, each.status) for each in unclosed} == {
        ("seller", 2, PositionStatus.OPEN),
        ("gaps", 3, PositionStatus.OPEN),
        ("unsettled", 1, PositionStatus.OPEN),
    }
    assert {bot.status for bot in every} == {BotStatus.PAUSED}
    assert set(troubles) == {None}
    assert all(shard.owner is None and shard.epoch >= recovery.EPOCHS_LOST for shard in shards)
    assert namespace not in {debt.namespace for debt in owed}
    assert all(debt.asked_at is not None for debt in owed)
    assert statuses[by_name["never-sent"].bot_id] == OrderStatus.NOT_PLACED


LYING: Final = {"refuses": VenueUnavailable("has no such thing"), "lists nothing": None}


@pytest.mark.parametrize("listing", LYING)
async def test_without_a_list_every_id_is_asked_for(
    world: World, stack: ExitStack, listing: str
) -> None:
    by_name = await trade_before(world, "binance")
    restored = stack.enter_context(copy_of(world.url, world.session))
    await lost_time(world, by_name)

    async def orders_since(*_: object, **__: object) -> list[object]:
        problem = LYING[listing]
        if problem is not None:
            raise problem
        return []

    world.environment.setattr(LiveOrders, "orders_since", orders_since)
    world.environment.setattr(recover_venue, "LISTING_TRIES", 1)
    done = await world.recover(restored, "--yes")
    assert len(found_ids(done)) == 7
    assert not await world.judged(restored)


class Interrupted(Exception):
    """The process was killed here."""


class Frail(PatientOrders):
    """Ends everything with the n-th question."""

    def __init__(self, venue: AccountOrders, *, after: int) -> None:
        super().__init__(venue, patience_secs=0.0)
        self.left = after

    async def ask(self, order: LiveOrder) -> Report | None:
        self.left -= 1
        if self.left < 0:
            raise Interrupted
        return await super().ask(order)


@pytest.mark.parametrize(
    "after", [6, *(pytest.param(calls, marks=pytest.mark.thorough) for calls in (0, 3, 9, 14))]
)
async def test_a_recovery_that_was_killed_is_run_again(
    world: World, stack: ExitStack, after: int
) -> None:
    by_name = await trade_before(world, "kraken")
    restored = stack.enter_context(copy_of(world.url, world.session))
    await lost_time(world, by_name)
    async with asking_from(restored, world) as (store, venue):
        newest = await lost_since(store)
        frail = Fleet(store=store, venue=Frail(venue, after=after), not_found_secs=NOT_FOUND_SECS)
        with pytest.raises(Interrupted):
            await recover_run.recover(frail, lost_since=newest, said=lambda _: None)
        async with store.read() as tx:
            owed = [debt for debt in await recovery.debts(tx) if debt.asked_at is None]
            troubled = await tx.scalars(
                select(credentials.c.id).where(credentials.c.trouble.is_not(None))
            )
        assert {debt.credential_id for debt in owed} == set(troubled), "none of them may trade"
        assert owed
    await world.recover(restored, "--yes")
    assert not await world.judged(restored)


async def test_an_account_is_asked_only_when_what_was_sent_last_must_show(
    world: World, stack: ExitStack
) -> None:
    """A venue hides a new order for a while: nothing found before would let it be forgotten."""
    await trade_before(world, "kraken")
    restored = stack.enter_context(copy_of(world.url, world.session))
    asked_at: list[datetime] = []

    class Timed(PatientOrders):
        async def ask(self, order: LiveOrder) -> Report | None:
            asked_at.append(datetime.now(UTC))
            raise Interrupted

    async with asking_from(restored, world) as (store, venue):
        hiding = Fleet(store=store, venue=Timed(venue), not_found_secs={"kraken": 1.0})
        with pytest.raises(Interrupted):
            await recover_run.recover(
                hiding, lost_since=await lost_since(store), said=lambda _: None
            )
        async with store.read() as tx:
            begun_at = max(debt.begun_at for debt in await recovery.debts(tx))
    assert min(asked_at) >= begun_at + timedelta(seconds=1)


async def test_an_account_that_cannot_be_asked_stays_owed_and_stops_only_itself(
    world: World, stack: ExitStack
) -> None:
    by_name = await trade_before(world, "kraken")
    restored = stack.enter_context(copy_of(world.url, world.session))
    await lost_time(world, by_name)
    away = by_name["gaps"].credential_id

    class Partly(PatientOrders):
        async def ask(self, order: LiveOrder) -> Report | None:
            if order.credential_id == away:
                raise VenueUnavailable("is away")
            return await super().ask(order)

    async with asking_from(restored, world) as (store, venue):
        fleet_ = Fleet(
            store=store, venue=Partly(venue, patience_secs=0.0), not_found_secs=NOT_FOUND_SECS
        )
        reports = await recover_run.recover(
            fleet_, lost_since=await lost_since(store), said=lambda _: None
        )
        assert {r.credential_id for r in reports if r.problem is not None} == {away}
        async with store.begin() as tx:
            assert not await set_trouble(tx, away, None), "a working key is not enough"
            rows = (await tx.execute(select(credentials.c.id, credentials.c.trouble))).all()
        troubles = {row.id: row.trouble for row in rows}
        assert recovery.NOT_ASKED in troubles.pop(away)
        assert set(troubles.values()) == {None}
    again = await world.recover(restored, "--yes")
    assert len(found_ids(again)) == 1
    assert not await world.judged(restored)


async def test_what_cannot_be_adopted_is_settled_by_hand_first(
    world: World, stack: ExitStack
) -> None:
    by_name = await trade_before(world, "binance")
    restored = stack.enter_context(copy_of(world.url, world.session))
    seller = by_name["seller"]
    async with trading_on(world.url, world.vault, world.simulator) as traders:
        async with traders.store.begin() as tx:
            (position,) = await positions.page(tx, positions.PositionFilter(user="seller"))
            await write_off(tx, position.id, reason="sold at the venue by hand")
        await traders.enter(seller)
    done = await world.recover(restored, "--yes", exit_code=1)
    (account,) = (each for each in done["accounts"] if each["user"] == "seller")
    assert f"position {position.id} of the same pair is still open" in account["problem"]
    store = connect(restored, application_name="test")
    try:
        async with store.begin() as tx:
            await write_off(tx, position.id, reason="sold at the venue by hand")
    finally:
        await store.close()
    await world.recover(restored, "--yes")
    assert not await world.judged(restored)


async def test_it_refuses_while_a_service_is_alive(postgres_store: Store) -> None:
    process = Process(kind=ProcessKind.TRADE_WORKER, name="1", instance="x", host="here", pid=1)

    async def live() -> None:
        while True:
            async with postgres_store.begin() as tx:
                await workers.beat(tx, process, {})
            await asyncio.sleep(0.2)

    living = asyncio.create_task(live())
    try:
        await asyncio.sleep(0.1)
        with pytest.raises(Refused, match="trade_worker 1 on here is alive: stop every"):
            await recover_run.nobody_alive(postgres_store)
    finally:
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)


def test_a_fleet_on_paper_gets_new_ids_and_stands_still(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)

    async def prepared() -> UUID:
        store = connect(database_url, application_name="test")
        try:
            async with store.begin() as tx:
                await bot_import.add(tx, spec())
                return (await fleet.read(tx)).namespace
        finally:
            await store.close()

    async def after() -> tuple[UUID, list[bots.Bot]]:
        store = connect(database_url, application_name="test")
        try:
            async with store.read() as tx:
                return (await fleet.read(tx)).namespace, await bots.page(tx)
        finally:
            await store.close()

    old = asyncio.run(prepared())
    arguments = ("recover", "--yes", "--lost-since", "2026-11-21T08:30:00")
    run = CliRunner().invoke(botfleet, arguments, catch_exceptions=False)
    assert run.exit_code == 0, run.output
    assert "Every bot is paused" in run.stdout
    new, every = asyncio.run(after())
    assert new != old
    assert {bot.status for bot in every} == {BotStatus.PAUSED}
