"""Limits and kill switches inside the intent transaction, on both databases."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from shared.limits import (
    BreakerKind,
    BreakerScope,
    KillSwitchLevel,
    KillSwitchScope,
    UserStatus,
)
from shared.orders import BotStatus, PositionStatus
from shared.reasons import Reason
from shared.store import bots, switches, users
from shared.store import tables as t
from shared.store.engine import Store
from tests.integration.traders import Trader, commit, denied, spec, traders

ENTRIES, FLATTEN, ALL = KillSwitchLevel.ENTRIES, KillSwitchLevel.FLATTEN, KillSwitchLevel.ALL


async def limit(store: Store, **values: Any) -> None:
    async with store.begin() as tx:
        await tx.execute(update(t.users).values(values))


async def count(store: Store, table: Any) -> int:
    async with store.read() as tx:
        found: int = (await tx.execute(select(func.count()).select_from(table))).scalar_one()
    return found


async def three(store: Store, **changes: Any) -> list[Trader]:
    return await traders(store, *(spec(name=f"bot {number}", **changes) for number in range(3)))


async def test_a_batch_uses_up_the_positions_that_its_user_may_open(store: Store) -> None:
    one, two, three_ = await three(store)
    await limit(store, max_open_positions=2)
    entries = [trader.entry() for trader in (one, two, three_)]
    done = await commit(store, *entries)
    assert denied(done, *entries) == [None, None, Reason.USER_POSITION_LIMIT]
    assert len(done.positions) == await count(store, t.positions) == 2
    again = await commit(store, entries[2])
    assert denied(again, entries[2]) == [Reason.USER_POSITION_LIMIT]
    await commit(store, one.exit("101"))
    assert denied(await commit(store, entries[2]), entries[2]) == [None]


async def test_a_denied_entry_leaves_nothing_behind(store: Store) -> None:
    (trader,) = await traders(store, spec())
    await limit(store, max_open_positions=0)
    entry = trader.entry()
    done = await commit(store, entry)
    assert not done.positions
    assert not done.fenced
    for table in (t.positions, t.orders, t.fills, t.outbox):
        assert await count(store, table) == 0


async def test_the_notional_of_a_user_is_limited_in_each_quote_currency(store: Store) -> None:
    one, two, three_, euros = await traders(
        store, spec(name="a"), spec(name="b"), spec(name="c"), spec(name="d", pairs=("BTC/EUR",))
    )
    await limit(store, max_notional=Decimal("200.5"))
    await commit(store, one.entry("100"))
    much, enough, elsewhere = two.entry("100.50000001"), three_.entry("100.5"), euros.entry("200.5")
    done = await commit(store, much, enough, elsewhere)
    assert denied(done, much, enough, elsewhere) == [Reason.USER_NOTIONAL_LIMIT, None, None]
    await commit(store, one.exit("101"))
    assert denied(await commit(store, much), much) == [Reason.USER_NOTIONAL_LIMIT]
    await commit(store, three_.exit("101"))
    assert denied(await commit(store, much), much) == [None]


async def test_an_entry_on_its_way_counts_with_what_it_may_cost(store: Store) -> None:
    one, two, _ = await three(store)
    await limit(store, max_notional=Decimal(150))
    sent = replace(one.entry("100"), fills=())
    done = await commit(store, sent)
    assert done.positions[sent.intent.client_order_id].status is PositionStatus.OPENING
    much, little = two.entry("50.01"), two.entry("50")
    assert denied(await commit(store, much), much) == [Reason.USER_NOTIONAL_LIMIT]
    assert denied(await commit(store, little), little) == [None]


async def test_a_disabled_user_enters_nothing_and_still_sells(store: Store) -> None:
    one, two, _ = await three(store)
    await commit(store, one.entry())
    async with store.begin() as tx:
        await users.change(tx, "ann", status=UserStatus.DISABLED)
    sold, bought = one.exit("101"), two.entry()
    done = await commit(store, sold, bought)
    assert denied(done, sold, bought) == [None, Reason.USER_DISABLED]
    assert list(done.positions) == [sold.intent.client_order_id]


async def test_a_bot_that_was_stopped_or_removed_enters_nothing_that_was_decided_before(
    store: Store,
) -> None:
    """A removed bot's position would be nobody's."""
    paused, removed = await traders(store, spec(name="paused"), spec(name="removed"))
    entries = [paused.entry(), removed.entry()]
    async with store.begin() as tx:
        await bots.set_status(tx, [paused.bot_id], BotStatus.PAUSED)
        await bots.set_status(tx, [removed.bot_id], BotStatus.INACTIVE)
        await bots.remove(tx, removed.bot_id)
    done = await commit(store, *entries)
    assert denied(done, *entries) == [Reason.BOT_NOT_ACTIVE] * 2


@pytest.mark.parametrize("scope", BreakerScope)
async def test_an_open_breaker_stops_entries_of_its_bot_or_user(
    store: Store, scope: BreakerScope
) -> None:
    one, two, other = await traders(store, spec(name="one"), spec(name="two"), spec("ben"))
    async with store.begin() as tx:
        await tx.execute(
            insert(t.breakers).values(
                scope=scope,
                scope_id=one.bot_id if scope is BreakerScope.BOT else one.user_id,
                kind=BreakerKind.LOSS_STREAK,
                open=True,
                facts={},
            )
        )
    entries = [trader.entry() for trader in (one, two, other)]
    twos = None if scope is BreakerScope.BOT else Reason.BREAKER_OPEN
    assert denied(await commit(store, *entries), *entries) == [Reason.BREAKER_OPEN, twos, None]


@pytest.mark.parametrize("level", [ENTRIES, FLATTEN, ALL])
@pytest.mark.parametrize("scope", KillSwitchScope)
async def test_a_kill_switch_denies_what_its_scope_and_level_say(
    store: Store, scope: KillSwitchScope, level: KillSwitchLevel
) -> None:
    inside, outside = await two_apart(store)
    await commit(store, inside[0].entry(), outside[0].entry())
    key = {
        KillSwitchScope.FLEET: "",
        KillSwitchScope.VENUE: "kraken",
        KillSwitchScope.USER: str(inside[0].user_id),
        KillSwitchScope.BOT: str(inside[0].bot_id),
    }[scope]
    await switches.turn(store, scope, key, level, reason="test")
    proposals = [
        trader.exit("101") if number == 0 else trader.entry()
        for side in (inside, outside)
        for number, trader in enumerate(side)
    ]
    # A bot's switch covers both of its pairs; the others' names differ in every respect.
    entry = Reason.KILL_SWITCH_ON
    exit_ = Reason.KILL_SWITCH_ON if level is ALL else None
    others = [exit_, entry] if scope is KillSwitchScope.FLEET else [None, None]
    done = await commit(store, *proposals)
    assert denied(done, *proposals) == [exit_, entry, *others]

    await switches.turn(store, scope, key, KillSwitchLevel.OFF, reason="test")
    late = [
        proposal for proposal in proposals if proposal.intent.client_order_id not in done.positions
    ]
    assert len((await commit(store, *late)).positions) == len(late)


async def two_apart(store: Store) -> tuple[list[Trader], list[Trader]]:
    """A bot on two pairs, and one of another user and venue."""
    found = await traders(
        store,
        spec("ann", pairs=("BTC/USD", "ETH/USD")),
        spec("ben", venue="binance", pairs=("BTC/USDT", "ETH/USDT")),
    )
    return found[:2], found[2:]


async def test_a_switch_that_is_turned_again_has_a_higher_version(store: Store) -> None:
    async with store.read() as tx:
        assert (await switches.read_kill_switches(tx)).version == 0
    first = await switches.turn(store, KillSwitchScope.FLEET, "", ENTRIES, reason="look")
    second = await switches.turn(store, KillSwitchScope.BOT, "7", ALL, reason="")
    third = await switches.turn(store, KillSwitchScope.FLEET, "", KillSwitchLevel.OFF, reason="ok")
    assert first.version < second.version < third.version
    async with store.read() as tx:
        found = await switches.read_kill_switches(tx)
        assert await switches.read_on(tx) == [second]
    assert found.version == third.version
    assert found.levels == {(KillSwitchScope.BOT, "7"): ALL}
