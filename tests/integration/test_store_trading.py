"""Committing intents: atomic, fenced, once, and exact to the last digit, on both databases."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from sqlalchemy import Row, Table, insert, select, update

from shared.errors import InvalidRow
from shared.leases import LeaseKind
from shared.orders import (
    BotStatus,
    Intent,
    Leg,
    Mode,
    PositionStatus,
    client_order_id,
    totals_of,
)
from shared.reasons import Reason
from shared.store import leases, trading
from shared.store.engine import Store, connect
from shared.store.schema import upgrade
from shared.store.tables import bots, fills, orders, outbox, positions, users
from shared.store.tables import leases as lease_table
from shared.store.trading import Committed, Proposal
from trade_worker.venues.paper import PaperOrders

NAMESPACE = UUID(int=1)
OWNER = "worker 1"
SHARD = 3
BOTS = 4


@pytest.fixture(params=["postgresql", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """A migrated store with a user of four bots and the shard's lease held under epoch 1."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/fleet.db"
    else:
        url = request.getfixturevalue("postgres_url")
    store = connect(url, application_name="test")
    try:
        await upgrade(store, shard_count=8)
        async with store.begin() as tx:
            await tx.execute(insert(users).values(name="u"))
            await tx.execute(insert(bots), [_bot(number) for number in range(BOTS)])
            await leases.take(tx, LeaseKind.SHARD, OWNER, ttl_secs=60)
        yield store
    finally:
        await store.close()


def _bot(number: int) -> dict[str, object]:
    names = {"name": f"b{number}", "venue": "kraken", "status": BotStatus.ACTIVE}
    return {"user_id": 1, "shard": SHARD, "capital": Decimal(1000), **names}


def entry(bot_id: int = 1, sequence: int = 1, **changes: object) -> Proposal:
    intent = Intent(
        client_order_id=client_order_id(
            NAMESPACE,
            bot_id=bot_id,
            pair="BTC/USD",
            position_sequence=sequence,
            leg=Leg.ENTRY,
            attempt=0,
        ),
        bot_id=bot_id,
        user_id=1,
        shard=SHARD,
        lease_epoch=1,
        mode=Mode.PAPER,
        venue="kraken",
        pair="BTC/USD",
        position_sequence=sequence,
        position_version=0,
        leg=Leg.ENTRY,
        attempt=0,
        quantity=Decimal("0.01851234"),
        limit_price=Decimal("43198.1"),
        decided_price=Decimal("43198.1"),
        taker_fee=Decimal("0.0040"),
        reason=Reason.ENTRY_SIGNAL,
        market_time_ms=1_642_341_540_123,
        observed_at_ms=1_763_685_300_000,
        received_at_ms=1_763_685_300_002,
        decided_at_ms=1_763_685_300_003,
        regime="weak",
        facts={"tick": {"sequence": 7}, "adx": [24.1, ">=", 20.0]},
    )
    return paper(replace(intent, **changes))  # type: ignore[arg-type]


def exit_of(opened: Proposal, version: int = 1, **changes: object) -> Proposal:
    intent = opened.intent
    leg = replace(
        intent,
        client_order_id=client_order_id(
            NAMESPACE,
            bot_id=intent.bot_id,
            pair=intent.pair,
            position_sequence=intent.position_sequence,
            leg=Leg.EXIT,
            attempt=0,
        ),
        leg=Leg.EXIT,
        position_version=version,
        decided_price=Decimal("44000.3"),
        reason=Reason.PROFIT_TARGET,
    )
    return paper(replace(leg, **changes))  # type: ignore[arg-type]


def paper(intent: Intent) -> Proposal:
    return Proposal(intent=intent, fills=PaperOrders().fill_at_commit(intent))


async def commit(store: Store, *proposals: Proposal, owner: str = OWNER) -> Committed:
    async with store.begin() as tx:
        return await trading.commit(tx, proposals, owner=owner)


async def rows(store: Store, table: Table) -> Sequence[Row[Any]]:
    async with store.read() as tx:
        return (await tx.execute(select(table).order_by(table.c.id))).all()


async def test_an_entry_writes_position_order_fill_and_event_together(store: Store) -> None:
    proposal = entry()
    done = await commit(store, proposal)
    assert list(done.positions) == [proposal.intent.client_order_id]

    (order,), (position,), (fill,) = [await rows(store, t) for t in (orders, positions, fills)]
    assert order.status == "filled"
    assert order.quantity == order.filled_quantity == Decimal("0.01851234")
    assert order.facts["tick"]["sequence"] == 7
    assert order.reason == "entry_signal"
    assert order.observed_at < order.received_at < order.decided_at
    assert order.committed_at.tzinfo is not None
    assert order.settled_at == order.committed_at
    assert order.lease_epoch == 1
    assert position.status == "open"
    assert position.entry_cost == fill.quantity * fill.price
    assert position.fees == order.fee == fill.fee
    assert fill.price == Decimal("43198.1") * Decimal("1.0001")

    (event,) = await rows(store, outbox)
    assert event.routing_key == "order.update.filled.kraken"
    body = orjson.loads(event.body)
    assert body["client_order_id"] == order.client_order_id
    assert Decimal(body["fee"]) == order.fee
    assert body["realised_pnl"] is None


async def test_an_exit_closes_the_position_with_the_result_that_its_fills_say(
    store: Store,
) -> None:
    opened = entry()
    await commit(store, opened)
    closing = exit_of(opened)
    done = await commit(store, closing)
    state = done.positions[closing.intent.client_order_id]
    assert state.status is PositionStatus.CLOSED

    (position,) = await rows(store, positions)
    expected = totals_of([*opened.fills, *closing.fills], pair="BTC/USD")
    assert position.status == "closed"
    assert position.realised_pnl == expected.realised_pnl == state.totals.realised_pnl
    assert position.exit_proceeds == expected.exit_proceeds
    assert position.exit_reason == "profit_target"
    assert position.closed_at is not None
    (bot, *_) = await rows(store, bots)
    assert bot.realised == expected.realised_pnl
    assert orjson.loads((await rows(store, outbox))[-1].body)["realised_pnl"] == format(
        expected.realised_pnl, "f"
    )


async def test_losses_in_a_row_are_counted_and_a_win_ends_the_streak(store: Store) -> None:
    for sequence, price in enumerate(["43000", "43000", "44000", "43000"], 1):
        opened = entry(sequence=sequence)
        await commit(store, opened)
        await commit(store, exit_of(opened, decided_price=Decimal(price)))
        (bot, *_) = await rows(store, bots)
        assert bot.loss_streak == [1, 2, 0, 1][sequence - 1]
    results = [position.realised_pnl for position in await rows(store, positions)]
    assert bot.realised == sum(results)


async def test_the_same_proposal_twice_is_committed_once(store: Store) -> None:
    proposal = entry()
    await commit(store, proposal)
    again = await commit(store, proposal)
    assert again.positions == {}
    assert again.fenced == frozenset()
    assert len(await rows(store, orders)) == len(await rows(store, fills)) == 1
    assert len(await rows(store, outbox)) == 1


async def test_a_second_position_on_a_pair_is_refused_while_the_first_is_unclosed(
    store: Store,
) -> None:
    await commit(store, entry(sequence=1))
    done = await commit(store, entry(sequence=2), entry(bot_id=2))
    assert set(done.positions) == {entry(bot_id=2).intent.client_order_id}
    assert len(await rows(store, positions)) == 2


async def test_an_exit_decided_on_another_version_is_refused(store: Store) -> None:
    opened = entry()
    await commit(store, opened)
    assert (await commit(store, exit_of(opened, version=2))).positions == {}
    assert (await commit(store, exit_of(opened))).positions != {}
    assert (await commit(store, exit_of(opened))).positions == {}


@pytest.mark.parametrize(
    "why", ["another owner", "another epoch", "expired", "another shard's lease"]
)
async def test_without_the_lease_nothing_is_written(store: Store, why: str) -> None:
    proposal, owner = entry(), OWNER
    if why == "another owner":
        owner = "worker 2"
    elif why == "another epoch":
        proposal = entry(lease_epoch=2)
    elif why == "expired":
        async with store.begin() as tx:
            await tx.execute(update(lease_table).values(expires_at=lease_table.c.granted_at))
    else:
        proposal = entry(shard=4, lease_epoch=9)
    done = await commit(store, proposal, owner=owner)
    assert done.fenced == {proposal.intent.client_order_id}
    assert done.positions == {}
    for table in (orders, positions, fills, outbox):
        assert await rows(store, table) == []


async def test_a_lost_lease_drops_its_own_rows_only(store: Store) -> None:
    kept, lost = entry(bot_id=1), entry(bot_id=2, shard=5, lease_epoch=2)
    done = await commit(store, kept, lost)
    assert set(done.positions) == {kept.intent.client_order_id}
    assert done.fenced == {lost.intent.client_order_id}


async def test_a_row_that_the_database_refuses_takes_the_whole_batch_with_it(
    store: Store,
) -> None:
    with pytest.raises(InvalidRow):
        await commit(store, entry(bot_id=1), entry(bot_id=2, quantity=Decimal("NaN")))
    assert await rows(store, orders) == []
    assert await rows(store, positions) == []


async def test_read_back_finds_exactly_what_was_committed(store: Store) -> None:
    first, second = entry(bot_id=1), entry(bot_id=2)
    done = await commit(store, first)
    async with store.read() as tx:
        found = await trading.read_back(tx, [first, second])
    assert found.positions == done.positions


async def test_peaks_only_grow_and_need_the_lease(store: Store) -> None:
    await commit(store, entry())

    async def save(peak: float, owner: str = OWNER) -> float | None:
        async with store.begin() as tx:
            await trading.save_peaks(tx, [(1, "BTC/USD", 1, peak)], owner=owner)
        (position,) = await rows(store, positions)
        peak_profit: float | None = position.peak_profit
        return peak_profit

    assert await save(0.02) == 0.02
    assert await save(0.01) == 0.02
    assert await save(0.03, owner="worker 2") == 0.02
    assert await save(0.03) == 0.03


async def test_a_batch_of_many_bots_is_one_event_each_in_the_order_of_the_proposals(
    store: Store,
) -> None:
    batch = [entry(bot_id=n) for n in (3, 1, 4, 2)]
    await commit(store, *batch)
    assert [row.bot_id for row in await rows(store, outbox)] == [3, 1, 4, 2]


async def test_a_lease_cannot_be_taken_while_intents_are_committed_under_it(
    postgres_url: str,
) -> None:
    store = connect(postgres_url, application_name="test")
    try:
        await upgrade(store, shard_count=8)
        async with store.begin() as tx:
            await leases.take(tx, LeaseKind.SHARD, OWNER, ttl_secs=60)
        async with store.begin() as tx:
            await trading.commit(tx, [entry()], owner=OWNER)

            async def take() -> list[object]:
                async with store.begin() as other:
                    return list(
                        await leases.take_over(
                            other, LeaseKind.SHARD, "worker 2", ttl_secs=60, replacing=OWNER
                        )
                    )

            taking = asyncio.create_task(take())
            done, _ = await asyncio.wait({taking}, timeout=0.3)
            assert not done
        assert len(await taking) == 8
        again = entry(bot_id=2)
        assert (await commit(store, again)).fenced == {again.intent.client_order_id}
    finally:
        await store.close()
