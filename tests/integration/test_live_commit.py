"""Committing live intents: whose key, until when they may be sent, and who may enter at all."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update

from shared.errors import Refused
from shared.leases import LeaseKind
from shared.orders import Intent, LiveOrder, Mode, OrderStatus, PositionStatus
from shared.reasons import Reason
from shared.store import bots, leases, trading
from shared.store import tables as t
from shared.store.engine import Store, connect
from shared.store.schema import migrate
from shared.store.trading import Committed, Proposal
from shared.store.types import seconds_from_now
from tests.integration.live_traders import (
    NOON_MS,
    PAIR,
    LiveTrader,
    buy,
    changed,
    commit,
    live_traders,
    rows,
    said,
    settle,
)
from tests.integration.traders import OWNER


@pytest.fixture
async def store(postgres_store: Store) -> Store:
    """Real orders need PostgreSQL."""
    return postgres_store


@pytest.fixture
async def sqlite_store(tmp_path: Path) -> AsyncIterator[Store]:
    url = f"sqlite:///{tmp_path / 'fleet.db'}"
    await asyncio.to_thread(migrate, url)
    store = connect(url, application_name="test")
    yield store
    await store.close()


@pytest.fixture
async def trader(store: Store) -> LiveTrader:
    (trader,) = await live_traders(store, "ann")
    return trader


async def propose(store: Store, *intents: Intent) -> Committed:
    async with store.begin() as tx:
        return await trading.commit(
            tx, [Proposal(intent=intent) for intent in intents], owner=OWNER
        )


async def test_a_live_entry_is_an_order_to_send_and_a_position_that_opens(
    store: Store, trader: LiveTrader
) -> None:
    entry = trader.entry(quantity="0.5", price="100.1")
    done = await commit(store, entry)
    assert done.positions[entry.client_order_id].status is PositionStatus.OPENING
    (order,), (position,) = await rows(store, t.orders), await rows(store, t.positions)
    assert (order.status, order.filled_quantity, order.settled_at) == ("committed", 0, None)
    assert (position.status, position.mode) == ("opening", "live")
    assert order.credential_id == position.credential_id == trader.credential_id
    assert order.send_by - order.committed_at >= timedelta(seconds=3)
    live = done.live[entry.client_order_id]
    assert live == LiveOrder(
        client_order_id=entry.client_order_id,
        bot_id=trader.bot_id,
        user_id=trader.user_id,
        shard=trader.shard,
        credential_id=trader.credential_id,
        venue="kraken",
        pair=PAIR,
        position_sequence=1,
        leg=entry.leg,
        attempt=0,
        quantity=Decimal("0.5"),
        limit_price=Decimal("100.1"),
        decided_price=Decimal("100.1"),
        status=OrderStatus.COMMITTED,
        venue_order_id=None,
        market_time_ms=NOON_MS,
        committed_at_ms=round(order.committed_at.timestamp() * 1000),
        send_by_ms=round(order.send_by.timestamp() * 1000),
        regime="weak",
    )


async def test_nothing_may_be_sent_in_the_last_half_second_of_its_lease(
    store: Store, trader: LiveTrader
) -> None:
    ends = seconds_from_now(text("2"))
    async with store.begin() as tx:
        await tx.execute(
            update(t.leases).where(t.leases.c.number == trader.shard).values(expires_at=ends)
        )
    await commit(store, trader.entry())
    (order,) = await rows(store, t.orders)
    (lease,) = [row for row in await leases_of(store) if row.number == trader.shard]
    assert order.send_by == lease.expires_at - timedelta(seconds=0.5)


async def leases_of(store: Store) -> Any:
    async with store.read() as tx:
        return (await tx.execute(t.leases.select())).all()


async def test_a_live_exit_closes_its_position_and_cannot_be_decided_twice(
    store: Store, trader: LiveTrader
) -> None:
    await buy(store, trader)
    leaving = trader.exit()
    done = await commit(store, leaving)
    state = done.positions[leaving.client_order_id]
    assert (state.status, state.version) == (PositionStatus.CLOSING, 3)
    assert state.totals.held == 1
    assert list(done.live) == [leaving.client_order_id]
    again = await propose(store, trader.exit(version=3, attempt=1))
    assert not again.positions
    assert not again.live


async def test_a_pair_with_an_unsettled_order_takes_no_other_even_if_its_position_would(
    store: Store, trader: LiveTrader
) -> None:
    """An order that was adopted late, and is still open, has no position that waits for it."""
    await buy(store, trader)
    entry = trader.entry(2)
    async with store.begin() as tx:
        await tx.execute(update(t.positions).values(status=PositionStatus.CLOSED))
    await commit(store, entry)
    async with store.begin() as tx:
        await tx.execute(
            update(t.positions)
            .where(t.positions.c.sequence == 2)
            .values(status=PositionStatus.CLOSED)
        )
    assert not (await propose(store, trader.entry(3))).positions
    async with store.begin() as tx:
        await tx.execute(
            update(t.positions).where(t.positions.c.sequence == 1).values(status="open")
        )
    assert not (await propose(store, trader.exit(1))).positions
    await settle(store, said(entry, OrderStatus.EXPIRED))
    assert (await propose(store, trader.exit(1))).positions


async def test_read_back_gives_the_live_orders_to_send(store: Store, trader: LiveTrader) -> None:
    entry, lost = trader.entry(), trader.entry(2)
    done = await commit(store, entry)
    async with store.read() as tx:
        found = await trading.read_back(tx, [Proposal(intent=entry), Proposal(intent=lost)])
    assert found.positions == done.positions
    assert found.live == done.live


async def test_read_back_gives_nobody_the_order_that_another_lease_committed(
    store: Store, trader: LiveTrader
) -> None:
    """Our COMMIT never arrived, the lease ran out, and its next holder decided the same: the
    same id. It sends its order; were it ours as well, the venue would have it twice."""
    ours = trader.entry()
    async with store.begin() as tx:
        await tx.execute(update(t.leases).values(expires_at=seconds_from_now(text("-1"))))
        taken = await leases.take(tx, LeaseKind.SHARD, "worker 2 (test)", ttl_secs=60)
    epochs = {lease.number: lease.epoch for lease in taken}
    theirs = changed(ours, lease_epoch=epochs[ours.shard])
    await commit(store, theirs, owner="worker 2 (test)")
    async with store.read() as tx:
        found = await trading.read_back(tx, [Proposal(intent=ours)])
    assert not found.positions
    assert not found.live


async def test_read_back_gives_no_order_of_an_earlier_decision(
    store: Store, trader: LiveTrader
) -> None:
    earlier = trader.entry()
    await commit(store, earlier)
    again = changed(earlier, decided_at_ms=earlier.decided_at_ms + 1)
    async with store.read() as tx:
        found = await trading.read_back(tx, [Proposal(intent=again)])
    assert not found.positions
    assert not found.live


@pytest.mark.parametrize("mode", Mode)
async def test_an_entry_in_another_mode_than_the_bots_is_denied(
    store: Store, trader: LiveTrader, mode: Mode
) -> None:
    other = Mode.PAPER if mode is Mode.LIVE else Mode.LIVE
    async with store.begin() as tx:
        await bots.change(tx, trader.bot_id, mode=mode)
    entry = changed(trader.entry(), mode=other)
    done = await propose(store, entry)
    assert done.denied == {entry.client_order_id: Reason.BOT_MODE_CHANGED}
    assert not await rows(store, t.orders)


@pytest.mark.parametrize(
    "values",
    [
        {"live": False},
        {"status": "retired"},
        {"trouble": "the venue refuses the key"},
        {"venue": "binance"},
    ],
    ids=str,
)
async def test_a_live_entry_needs_its_key_ready(
    store: Store, trader: LiveTrader, values: dict[str, Any]
) -> None:
    async with store.begin() as tx:
        await tx.execute(update(t.credentials).values(values))
    entry = trader.entry()
    done = await propose(store, entry)
    assert done.denied == {entry.client_order_id: Reason.CREDENTIAL_NOT_READY}


async def test_a_live_entry_needs_the_key_of_its_own_user_that_it_names(store: Store) -> None:
    ann, ben = await live_traders(store, "ann", "ben")
    entries = [
        changed(ann.entry(), credential_id=ben.credential_id),
        changed(ben.entry(), credential_id=0),
    ]
    done = await propose(store, *entries)
    assert set(done.denied.values()) == {Reason.CREDENTIAL_NOT_READY}
    assert len(done.denied) == 2


async def test_what_is_held_is_sold_whatever_became_of_mode_and_key(
    store: Store, trader: LiveTrader
) -> None:
    await buy(store, trader)
    async with store.begin() as tx:
        await tx.execute(update(t.credentials).values(trouble="revoked", live=False))
        await tx.execute(update(t.bots).values(mode="paper"))
    await commit(store, trader.exit())


async def test_a_mode_cannot_change_beside_an_entry_that_is_being_committed(
    store: Store, trader: LiveTrader
) -> None:
    async def change() -> None:
        async with store.begin() as other:
            await bots.change(other, trader.bot_id, mode=Mode.PAPER)

    async with store.begin() as tx:
        await trading.commit(tx, [Proposal(intent=trader.entry())], owner=OWNER)
        changing = asyncio.create_task(change())
        done, _ = await asyncio.wait({changing}, timeout=0.3)
        assert not done
    with pytest.raises(Refused, match="open position"):
        await changing


async def test_an_entry_waits_for_a_mode_that_is_being_changed_and_is_denied(
    store: Store, trader: LiveTrader
) -> None:
    entry = trader.entry()
    async with store.begin() as tx:
        await bots.change(tx, trader.bot_id, mode=Mode.PAPER)
        entering = asyncio.create_task(propose(store, entry))
        done, _ = await asyncio.wait({entering}, timeout=0.3)
        assert not done
    assert (await entering).denied == {entry.client_order_id: Reason.BOT_MODE_CHANGED}


async def test_on_sqlite_nothing_is_live(sqlite_store: Store) -> None:
    (trader,) = await live_traders(sqlite_store, "ann")
    entry = trader.entry()
    done = await propose(sqlite_store, entry)
    assert done.denied == {entry.client_order_id: Reason.LIVE_NEEDS_POSTGRES}
    async with sqlite_store.begin() as tx:
        await bots.change(tx, trader.bot_id, mode=Mode.PAPER)
        with pytest.raises(Refused, match="real orders need PostgreSQL"):
            await bots.change(tx, trader.bot_id, mode=Mode.LIVE)
