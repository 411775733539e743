"""Bots in the store: imported in bulk, changed, loaded by workers, and watched for changes."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Table, delete, insert, select, update

from shared.clock import ms_of
from shared.errors import InvalidRow, Refused
from shared.limits import (
    BreakerKind,
    BreakerScope,
    KillSwitches,
    KillSwitchLevel,
    KillSwitchScope,
    UserStatus,
)
from shared.orders import BotStatus, Leg, Mode, OrderStatus, PositionStatus
from shared.sharding import shard_of
from shared.store import bot_import, bots, loading, markets, switches, users
from shared.store import tables as t
from shared.store.bot_import import BotSpec, Imported
from shared.store.bots import BotFilter
from shared.store.changes import ChangeFeed, Changes
from shared.store.engine import Store
from shared.store.loading import LoadedBot
from trade_worker.roster import row_of
from trade_worker.row_state import Key

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def spec(number: int = 0, **changes: Any) -> BotSpec:
    """A bot; ten of them share a user."""
    plain = BotSpec(
        user=f"user {number // 10}",
        name=f"bot {number}",
        venue="kraken",
        pairs=("BTC/USD", "ETH/USD"),
        capital=Decimal("1000.50"),
        risk_profile={"min_adx": 25.0},
    )
    return replace(plain, **changes)


async def write(store: Store, specs: Iterable[BotSpec]) -> Imported:
    async with store.begin() as tx:
        return await bot_import.import_bots(tx, specs)


async def put(store: Store, table: Table, **values: Any) -> None:
    async with store.begin() as tx:
        await tx.execute(insert(table).values(**values))


async def open_position(
    store: Store, bot_id: int, pair: str, sequence: int = 1, **changes: Any
) -> None:
    fields: dict[str, Any] = {
        "bot_id": bot_id,
        "user_id": 1,
        "venue": "kraken",
        "pair": pair,
        "sequence": sequence,
        "mode": Mode.PAPER,
        "status": PositionStatus.OPEN,
        "version": 3,
        "regime": "weak",
        "entry_quantity": Decimal("0.5"),
        "entry_cost": Decimal(20_000),
        "fees": Decimal("80.25"),
        "peak_profit": 0.0125,
        "entry_reason": "entry",
        "entered_at": NOW,
    }
    await put(store, t.positions, **{**fields, **changes})


async def fail_to_enter(store: Store, bot_id: int, sequence: int, **changes: Any) -> None:
    nothing: dict[str, Any] = {
        "entry_quantity": Decimal(0),
        "entry_cost": Decimal(0),
        "fees": Decimal(0),
    }
    nothing |= {"status": PositionStatus.CLOSED, "peak_profit": None}
    await open_position(store, bot_id, "BTC/USD", sequence, **{**nothing, **changes})


async def place_order(
    store: Store,
    bot_id: int,
    pair: str,
    *,
    status: OrderStatus,
    leg: Leg = Leg.EXIT,
    attempt: int = 0,
    **changes: Any,
) -> str:
    client_order_id = uuid4().hex
    await put(
        store,
        t.orders,
        client_order_id=client_order_id,
        bot_id=bot_id,
        user_id=1,
        shard=0,
        mode=Mode.PAPER,
        venue="kraken",
        pair=pair,
        position_sequence=1,
        leg=leg,
        attempt=attempt,
        side=leg.side,
        quantity=Decimal("0.5"),
        decided_price=Decimal(40_000),
        status=status,
        reason="entry",
        facts={"adx": 22.5},
        lease_epoch=1,
        market_time=NOW,
        observed_at=NOW,
        received_at=NOW,
        decided_at=NOW,
        **changes,
    )
    return client_order_id


async def loaded(store: Store, *bot_ids: int) -> list[LoadedBot]:
    async with store.read() as tx:
        return await loading.load(tx, bot_ids)


async def the_bot(store: Store, **changes: Any) -> int:
    async with store.begin() as tx:
        return await bot_import.add(tx, spec(**changes))


# Writing


async def test_tens_of_thousands_are_imported_and_imported_again(store: Store) -> None:
    fleet = [spec(number) for number in range(20_000)]
    heard: list[int] = []
    async with store.begin() as tx:
        first = await bot_import.import_bots(tx, fleet, on_progress=heard.append)
    assert first == Imported(users_added=2_000, added=20_000)
    assert heard == [5_000, 10_000, 15_000, 20_000]
    changed = [
        replace(bot, capital=Decimal(7), pairs=("SOL/USD", "BTC/USD")) if number % 2 else bot
        for number, bot in enumerate(fleet)
    ]
    assert await write(store, changed) == Imported(updated=10_000, unchanged=10_000)
    assert await write(store, changed) == Imported(unchanged=20_000)
    async with store.read() as tx:
        stored = await bots.page(tx, limit=3, after=10_000)
        assert sum((await bots.count(tx)).values()) == 20_000
    assert {bot.user_id for bot in stored} == {stored[0].user_id}
    for bot in stored:
        wanted = changed[int(bot.name.removeprefix("bot "))]
        assert (bot.capital, set(bot.pairs)) == (wanted.capital, set(wanted.pairs))
        assert bot.shard == shard_of(bot.user_id, 256)
        assert bot.version == (2 if wanted.capital == 7 else 1)


async def test_an_import_that_is_refused_leaves_nothing(store: Store) -> None:
    await the_bot(store)
    with pytest.raises(Refused, match="trades on kraken and cannot move to binance"):
        await write(store, [spec(1), replace(spec(), venue="binance")])
    with pytest.raises(Refused, match="twice"):
        await write(store, [spec(1), spec(1)])
    with pytest.raises(Refused, match="has a bot named 'bot 0' already"):
        await the_bot(store)
    async with store.read() as tx:
        assert [bot.name for bot in await bots.page(tx)] == ["bot 0"]
        assert [user.name for user in await users.page(tx)] == ["user 0"]


async def test_the_mode_changes_only_while_nothing_is_open(postgres_store: Store) -> None:
    bot_id = await the_bot(postgres_store)
    await open_position(postgres_store, bot_id, "BTC/USD")
    with pytest.raises(Refused, match="open position"):
        await write(postgres_store, [spec(mode=Mode.LIVE)])
    async with postgres_store.begin() as tx:
        with pytest.raises(Refused, match="open position"):
            await bots.change(tx, bot_id, mode=Mode.LIVE)
        await tx.execute(update(t.positions).values(status=PositionStatus.CLOSED))
        assert (await bots.change(tx, bot_id, mode=Mode.LIVE)).mode is Mode.LIVE


async def test_bots_are_found_by_what_they_are(store: Store) -> None:
    await write(store, [spec(number) for number in range(25)])
    await write(store, [spec(25, venue="binance", pairs=("BTC/USDT",), status=BotStatus.PAUSED)])
    async with store.read() as tx:
        assert len(await bots.page(tx, limit=10, after=20)) == 6
        assert len(await bots.page(tx, BotFilter(user="user 0"))) == 10
        (paused,) = await bots.page(tx, BotFilter(status=BotStatus.PAUSED))
        assert await bots.page(tx, BotFilter(venue="binance")) == [paused]
        assert await bots.named(tx, "user 2", "bot 25") == paused
        assert await bots.named(tx, "user 1", "bot 25") is None
        assert await bots.count(tx) == {BotStatus.ACTIVE: 25, BotStatus.PAUSED: 1}
        with pytest.raises(Refused, match="no bot 99"):
            await bots.get(tx, 99)


async def test_a_removed_bot_frees_its_name_and_keeps_its_row(store: Store) -> None:
    first = await the_bot(store)
    async with store.begin() as tx:
        with pytest.raises(Refused, match="stop it first"):
            await bots.remove(tx, first)
        assert await bots.set_status(tx, [first], BotStatus.INACTIVE) == [first]
        assert await bots.set_status(tx, [first], BotStatus.INACTIVE) == []
        await bots.remove(tx, first)
        assert await bots.page(tx) == []
    second = await the_bot(store)
    assert second > first
    async with store.read() as tx:
        assert list(await tx.scalars(select(t.bots.c.id).order_by(t.bots.c.id))) == [first, second]


async def test_a_stopping_bot_is_inactive_once_nothing_is_open(store: Store) -> None:
    flat, holding = await the_bot(store), await the_bot(store, number=1)
    await open_position(store, holding, "BTC/USD")
    async with store.begin() as tx:
        await bots.set_status(tx, [flat, holding], BotStatus.STOPPING)
        assert await bots.finish_stopping(tx, [flat, holding]) == [flat]


# Loading


async def test_a_bot_is_loaded_with_its_position_order_and_limits(store: Store) -> None:
    bot_id = await the_bot(store)
    await open_position(store, bot_id, "BTC/USD", sequence=4)
    async with store.begin() as tx:
        await tx.execute(update(t.positions).values(sequence=1))
    await place_order(store, bot_id, "BTC/USD", status=OrderStatus.EXPIRED)
    blocking = await place_order(store, bot_id, "BTC/USD", status=OrderStatus.UNKNOWN, attempt=1)
    await put(
        store,
        t.breakers,
        scope=BreakerScope.USER,
        scope_id=1,
        kind=BreakerKind.DAILY_LOSS,
        open=True,
        facts={},
    )
    btc, eth = await loaded(store, bot_id)
    assert (btc.pair, eth.pair) == ("BTC/USD", "ETH/USD")
    assert btc.capital == Decimal("1000.50")
    assert btc.risk_profile == {"min_adx": 25.0}
    assert btc.breaker_open
    assert btc.entries_allowed
    assert (btc.unsettled, eth.unsettled) == (blocking, None)
    assert (btc.last_sequence, eth.last_sequence, eth.position) == (1, 0, None)
    assert btc.position is not None
    assert btc.position.totals.entry_cost == Decimal(20_000)
    assert btc.position.totals.fees == Decimal("80.25")
    assert (btc.position.entered_at, btc.position.regime) == (NOW, "weak")
    assert (btc.position.version, btc.position.peak_profit) == (3, 0.0125)
    assert (btc.position.exit_attempts, btc.position.last_exit_at) == (2, NOW)
    assert (btc.position.mode, btc.position.ordered_cost) == (Mode.PAPER, Decimal(0))
    assert (btc.failed_entries, btc.last_failed_at, eth.failed_entries) == (0, None, 0)


async def test_the_next_exit_has_a_new_number_whatever_became_of_others(store: Store) -> None:
    bot_id = await the_bot(store, pairs=("BTC/USD",))
    await open_position(store, bot_id, "BTC/USD")
    (btc,) = await loaded(store, bot_id)
    assert btc.position is not None
    assert (btc.position.exit_attempts, btc.position.last_exit_at) == (0, None)
    for attempt in (0, 4):
        await place_order(store, bot_id, "BTC/USD", status=OrderStatus.NOT_PLACED, attempt=attempt)
    (btc,) = await loaded(store, bot_id)
    assert btc.position is not None
    assert btc.position.exit_attempts == 5
    # It waits after the fifth as it would have without being loaded again.
    waits_until = row_of(btc, KillSwitches()).cooldown_until_ms
    assert waits_until == ms_of(NOW) + 80_000


async def test_an_entry_on_its_way_reserves_what_it_may_still_cost(store: Store) -> None:
    bot_id = await the_bot(store, pairs=("BTC/USD",))
    await open_position(
        store,
        bot_id,
        "BTC/USD",
        status=PositionStatus.OPENING,
        mode=Mode.LIVE,
        entry_quantity=Decimal("0.1"),
        entry_cost=Decimal(4_000),
        fees=Decimal(16),
    )
    await place_order(
        store,
        bot_id,
        "BTC/USD",
        status=OrderStatus.UNKNOWN,
        leg=Leg.ENTRY,
        limit_price=Decimal(40_100),
    )
    (btc,) = await loaded(store, bot_id)
    assert btc.position is not None
    assert (btc.position.mode, btc.position.ordered_cost) == (Mode.LIVE, Decimal(20_050))
    row = row_of(btc, KillSwitches())
    assert row.position is not None
    assert row.position.cost == pytest.approx(20_050 * 1.004)
    assert (row.position.mode, row.position.held) == (Mode.LIVE, Decimal("0.1"))


async def test_the_owners_key_is_loaded_with_what_is_wrong_with_it(store: Store) -> None:
    bot_id = await the_bot(store, pairs=("BTC/USD",))
    (btc,) = await loaded(store, bot_id)
    assert row_of(btc, KillSwitches()).key is None
    await put(store, t.credentials, id=8, user_id=1, venue="kraken", status="retired", live=True)
    await put(store, t.credentials, id=9, user_id=1, venue="kraken", live=True)
    (btc,) = await loaded(store, bot_id)
    assert row_of(btc, KillSwitches()).key == Key(9, live=True, in_trouble=False)
    async with store.begin() as tx:
        await tx.execute(update(t.credentials).values(live=False, trouble="revoked"))
    (btc,) = await loaded(store, bot_id)
    assert row_of(btc, KillSwitches()).key == Key(9, live=False, in_trouble=True)


async def test_failed_entries_are_counted_since_the_last_that_bought(store: Store) -> None:
    bot_id = await the_bot(store, pairs=("BTC/USD",))
    minutes = {1: 1, 2: 2, 3: 4}
    await fail_to_enter(store, bot_id, 1)
    for failed, sequence in ((1, 1), (2, 2), (3, 3)):
        if sequence > 1:
            await fail_to_enter(store, bot_id, sequence)
        (btc,) = await loaded(store, bot_id)
        assert (btc.last_sequence, btc.failed_entries) == (sequence, failed)
        assert (btc.last_failed_at, btc.last_exited_at) == (NOW, None)
        row = row_of(btc, KillSwitches())
        assert row.failed_entries == failed
        assert row.cooldown_until_ms == ms_of(NOW) + 60_000 * minutes[failed]
    closed = {"status": PositionStatus.CLOSED, "exited_at": NOW}
    await open_position(store, bot_id, "BTC/USD", 4, **closed)
    (btc,) = await loaded(store, bot_id)
    assert (btc.failed_entries, btc.last_failed_at, btc.last_exited_at) == (0, None, NOW)
    await fail_to_enter(store, bot_id, 5)
    (btc,) = await loaded(store, bot_id)
    assert (btc.failed_entries, btc.last_failed_at) == (1, NOW)
    for sequence in range(6, 26):
        await fail_to_enter(store, bot_id, sequence)
    (btc,) = await loaded(store, bot_id)
    assert btc.failed_entries == loading.MOST_FAILURES_COUNTED
    assert row_of(btc, KillSwitches()).cooldown_until_ms == ms_of(NOW) + 3_600_000


async def test_a_closed_position_leaves_only_its_sequence(store: Store) -> None:
    bot_id = await the_bot(store)
    await open_position(store, bot_id, "BTC/USD", sequence=1)
    async with store.begin() as tx:
        await tx.execute(update(t.positions).values(status=PositionStatus.CLOSED))
    await open_position(store, bot_id, "BTC/USD", sequence=2)
    async with store.begin() as tx:
        await tx.execute(update(t.positions).values(status=PositionStatus.CLOSED))
    btc, _ = await loaded(store, bot_id)
    assert (btc.last_sequence, btc.position) == (2, None)


async def test_a_pair_taken_away_stays_until_nothing_is_open_on_it(store: Store) -> None:
    bot_id = await the_bot(store)
    await open_position(store, bot_id, "ETH/USD")
    await write(store, [spec(pairs=("SOL/USD",))])
    eth, sol = await loaded(store, bot_id)
    assert (eth.pair, eth.entries_allowed) == ("ETH/USD", False)
    assert (sol.pair, sol.entries_allowed) == ("SOL/USD", True)
    async with store.begin() as tx:
        await tx.execute(update(t.positions).values(status=PositionStatus.CLOSED))
    assert [row.pair for row in await loaded(store, bot_id)] == ["SOL/USD"]
    await write(store, [spec(pairs=("ETH/USD",))])
    (again,) = await loaded(store, bot_id)
    assert (again.pair, again.pair_active, again.last_sequence) == ("ETH/USD", True, 1)


async def test_an_inactive_bot_is_loaded_only_while_something_is_open(store: Store) -> None:
    bot_id = await the_bot(store, status=BotStatus.INACTIVE)
    assert await loaded(store, bot_id) == []
    await place_order(store, bot_id, "BTC/USD", status=OrderStatus.COMMITTED, leg=Leg.ENTRY)
    (btc,) = await loaded(store, bot_id)
    assert (btc.pair, btc.entries_allowed) == ("BTC/USD", False)


async def test_shards_are_loaded_whole_and_apart(store: Store) -> None:
    await write(store, [spec(number, user=f"user {number}") for number in range(4_500)])
    halves = [range(128), range(128, 256)]
    found: list[set[int]] = []
    for half in halves:
        pages = [page async for page in loading.load_shards(store, half)]
        assert all(row.shard in half for page in pages for row in page)
        found.append({row.bot_id for page in pages for row in page})
    assert not found[0] & found[1]
    assert len(found[0] | found[1]) == 4_500


# Changes


async def polled(store: Store, feed: ChangeFeed) -> Changes:
    async with store.read() as tx:
        return await feed.poll(tx)


async def test_each_change_is_told_once(store: Store) -> None:
    first, second = await the_bot(store), await the_bot(store, number=10)
    feed = ChangeFeed()
    async with store.read() as tx:
        await feed.start(tx)
    assert not await polled(store, feed)
    async with store.begin() as tx:
        await bots.set_status(tx, [second], BotStatus.PAUSED)
    assert (await polled(store, feed)).bot_ids == {second}
    assert not await polled(store, feed)
    await write(store, [spec(pairs=("BTC/USD",))])
    assert (await polled(store, feed)).bot_ids == {first}
    async with store.begin() as tx:
        await users.change(tx, "user 1", status=UserStatus.DISABLED)
    assert (await polled(store, feed)).bot_ids == {second}
    (row, *_) = await loaded(store, second)
    assert row.user_status == UserStatus.DISABLED
    assert not row.entries_allowed


async def test_breakers_and_kill_switches_are_changes(store: Store) -> None:
    bot_id = await the_bot(store)
    feed = ChangeFeed()
    async with store.read() as tx:
        await feed.start(tx)
    for scope in BreakerScope:
        await put(
            store,
            t.breakers,
            scope=scope,
            scope_id=bot_id if scope is BreakerScope.BOT else 1,
            kind=BreakerKind.LOSS_STREAK,
            open=True,
            facts={},
        )
        assert (await polled(store, feed)).bot_ids == {bot_id}
    await put(
        store,
        t.kill_switches,
        scope=KillSwitchScope.VENUE,
        scope_key="kraken",
        level=KillSwitchLevel.ENTRIES,
    )
    changes = await polled(store, feed)
    assert changes.kill_switches
    assert not changes.bot_ids
    assert not await polled(store, feed)


async def test_a_change_that_commits_late_is_not_missed(postgres_store: Store) -> None:
    store = postgres_store
    early, late = await the_bot(store), await the_bot(store, number=1)
    feed = ChangeFeed()
    async with store.read() as tx:
        await feed.start(tx)
    async with store.begin() as slow:
        await bots.set_status(slow, [late], BotStatus.PAUSED)
        async with store.begin() as tx:
            await bots.set_status(tx, [early], BotStatus.PAUSED)
        assert (await polled(store, feed)).bot_ids == {early}
    assert (await polled(store, feed)).bot_ids == {late}


async def test_kill_switches_cover_whom_they_name(store: Store) -> None:
    for scope, key, level in (
        (KillSwitchScope.VENUE, "kraken", KillSwitchLevel.ENTRIES),
        (KillSwitchScope.USER, "7", KillSwitchLevel.ALL),
        (KillSwitchScope.BOT, "3", KillSwitchLevel.OFF),
    ):
        await put(store, t.kill_switches, scope=scope, scope_key=key, level=level)
    async with store.read() as tx:
        found = await switches.read_kill_switches(tx)
    assert found.over(bot_id=3, user_id=1, venue="binance") == frozenset()
    assert found.over(bot_id=3, user_id=7, venue="kraken") == {
        KillSwitchLevel.ENTRIES,
        KillSwitchLevel.ALL,
    }


# Demand for markets


async def wanted(store: Store) -> dict[str, set[str]]:
    async with store.read() as tx:
        return await markets.wanted(tx)


async def test_markets_are_wanted_by_active_bots_positions_and_orders(store: Store) -> None:
    assert await wanted(store) == {}
    await write(
        store,
        [
            spec(0, pairs=("BTC/USD", "ETH/USD")),
            spec(1, pairs=("SOL/USD", "XRP/USD"), status=BotStatus.PAUSED),
            spec(2, pairs=("ADA/USD",), status=BotStatus.INACTIVE),
            spec(3, venue="binance", pairs=("BTC/USDT",)),
        ],
    )
    assert await wanted(store) == {"kraken": {"BTC/USD", "ETH/USD"}, "binance": {"BTC/USDT"}}
    await open_position(store, 2, "SOL/USD")
    await place_order(store, 3, "ADA/USD", status=OrderStatus.UNKNOWN)
    await place_order(store, 2, "XRP/USD", status=OrderStatus.FILLED)
    await write(store, [spec(0, pairs=("BTC/USD",))])
    assert (await wanted(store))["kraken"] == {"BTC/USD", "SOL/USD", "ADA/USD"}
    async with store.begin() as tx:
        await tx.execute(delete(t.positions))
        await bots.set_status(tx, [1, 4], BotStatus.INACTIVE)
        await bots.remove(tx, 4)
    assert await wanted(store) == {"kraken": {"ADA/USD"}}


# What the database itself refuses


async def test_one_unclosed_position_per_bot_and_pair(store: Store) -> None:
    await open_position(store, 1, "BTC/USD", sequence=1)
    await open_position(store, 1, "ETH/USD", sequence=1)
    await open_position(store, 2, "BTC/USD", sequence=1)
    with pytest.raises(InvalidRow, match="refuses this data"):
        await open_position(store, 1, "BTC/USD", sequence=2)
    async with store.begin() as tx:
        await tx.execute(update(t.positions).values(status=PositionStatus.CLOSED))
    await open_position(store, 1, "BTC/USD", sequence=2)


async def test_one_unsettled_order_per_bot_and_pair(store: Store) -> None:
    await place_order(store, 1, "BTC/USD", status=OrderStatus.FILLED, attempt=0)
    await place_order(store, 1, "BTC/USD", status=OrderStatus.COMMITTED, attempt=1)
    for blocked in (OrderStatus.COMMITTED, OrderStatus.OPEN, OrderStatus.UNKNOWN):
        with pytest.raises(InvalidRow, match="refuses this data"):
            await place_order(store, 1, "BTC/USD", status=blocked, attempt=2)
    await place_order(store, 1, "BTC/USD", status=OrderStatus.NOT_PLACED, attempt=2)


async def test_a_status_that_does_not_exist_is_refused(store: Store) -> None:
    with pytest.raises(InvalidRow, match="refuses this data"):
        await place_order(store, 1, "BTC/USD", status="maybe")  # type: ignore[arg-type]


async def test_imports_at_once_end_in_one_bot_each(postgres_store: Store) -> None:
    results = await asyncio.gather(
        *(write(postgres_store, [spec(number) for number in range(50)]) for _ in range(3)),
        return_exceptions=True,
    )
    assert any(isinstance(result, Imported) for result in results)
    async with postgres_store.read() as tx:
        assert sum((await bots.count(tx)).values()) == 50
