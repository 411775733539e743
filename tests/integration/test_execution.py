"""From decisions to durable orders, with a database that fails in every way it can."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import orjson
import pytest
from sqlalchemy import Row, insert, select, text, update

from shared.clock import wall_ms
from shared.orders import Leg, Mode, client_order_id
from shared.reasons import Reason
from shared.store import trading
from shared.store.engine import Store
from shared.store.tables import bot_pairs, bots, fills, orders, outbox, positions
from shared.store.trading import Committed
from shared.store.types import database_now
from tests.integration.desk import OWNER, Desk, desk_on
from tests.integration.trading_fleet import (
    PATIENCE_SECS,
    Ticks,
    add_bots,
    execute,
    rows,
    spec,
    until,
)
from tests.integration.unreliable_store import Trouble
from trade_worker import execution
from trade_worker.row_state import Phase

HOLD, RISE = 101.0, 106.0
"""Prices after an entry at 100: nothing, and the weak regime's target."""


@pytest.fixture
async def desk(store: Store) -> AsyncIterator[Desk]:
    """A desk that holds every shard under epoch 1; `serve` gives it bots."""
    desk = await desk_on(store)
    task = asyncio.create_task(desk.execution.run())
    yield desk
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def serve(store: Store, desk: Desk, count: int = 1, **changes: Any) -> list[int]:
    """Give the desk so many new bots; their ids."""
    ids = await add_bots(store, *(spec(number, **changes) for number in range(count)))
    await desk.roster.load(range(256))
    return ids


def order_id(desk: Desk, bot_id: int, leg: Leg) -> str:
    """Of the first order of a bot's first position."""
    return client_order_id(
        desk.namespace,
        bot_id=bot_id,
        pair="BTC/USD",
        position_sequence=1,
        leg=leg,
        attempt=0,
    )


async def occupy(store: Store, taken_id: str) -> None:
    """Let a foreign row have an order's id, so that the database refuses the order."""
    moment = Ticks().tick(1.0)
    times = dict.fromkeys(("market_time", "observed_at", "received_at", "decided_at"))
    async with store.begin() as tx:
        now = await tx.scalar(select(database_now()))
        await tx.execute(
            insert(orders).values(
                client_order_id=taken_id,
                bot_id=999,
                user_id=999,
                shard=0,
                mode=Mode.PAPER,
                venue=moment.venue,
                pair=moment.pair,
                position_sequence=1,
                leg=Leg.ENTRY,
                attempt=0,
                side=Leg.ENTRY.side,
                quantity=Decimal(1),
                decided_price=Decimal(1),
                status="filled",
                reason="entry_signal",
                facts={},
                lease_epoch=1,
                **dict.fromkeys(times, now),
            )
        )


async def legs(store: Store) -> list[str]:
    return [order.leg for order in await rows(store, orders)]


# The database is away


async def test_decisions_are_dropped_while_the_database_is_away_and_made_again(
    store: Store, desk: Desk
) -> None:
    await serve(store, desk, 2)
    desk.store.troubles.append(Trouble.AWAY)
    await desk.trade(100.0)
    assert desk.execution.dropped == {"database away": 2}
    assert desk.phases() == [Phase.FLAT] * 2
    await desk.trade(100.0)
    assert desk.phases() == [Phase.OPEN] * 2

    desk.store.troubles.append(Trouble.AWAY)
    await desk.trade(RISE)
    assert desk.phases() == [Phase.OPEN] * 2
    await desk.trade(RISE)
    assert desk.phases() == [Phase.FLAT] * 2
    assert await legs(store) == ["entry", "entry", "exit", "exit"]
    assert [position.sequence for position in await rows(store, positions)] == [1, 1]


@pytest.mark.parametrize("leg", Leg)
@pytest.mark.parametrize(
    "trouble", [Trouble.COMMIT_LOST, Trouble.COMMIT_MADE, Trouble.MISTAKE_AFTER]
)
async def test_a_commit_of_unknown_outcome_is_read_back(
    store: Store, desk: Desk, trouble: Trouble, leg: Leg
) -> None:
    await serve(store, desk, 2)
    price = 100.0
    if leg is Leg.EXIT:
        await desk.trade(price)
        price = RISE
    before, announced = len(await rows(store, orders)), desk.announced
    desk.store.troubles.append(trouble)
    desk.store.reads_refused = 2
    await desk.trade(price)
    assert desk.store.reads_refused == 0

    made = trouble is not Trouble.COMMIT_LOST
    assert len(await rows(store, orders)) == before + 2 * made
    assert desk.announced == announced + made
    opened = made if leg is Leg.ENTRY else not made
    assert desk.phases() == [Phase.OPEN if opened else Phase.FLAT] * 2

    await desk.roster.refresh()
    await desk.trade(price)
    await desk.trade(RISE)
    assert await legs(store) == ["entry", "entry", "exit", "exit"]
    for position in await rows(store, positions):
        assert (position.sequence, position.status) == (1, "closed")
    assert len(await rows(store, fills)) == 4
    assert len(await rows(store, outbox)) == 4


async def test_reading_back_waits_for_a_transaction_that_is_still_under_way(
    postgres_store: Store,
) -> None:
    """A COMMIT that broke off on our side may arrive at the server later than the question."""
    store = postgres_store
    desk = await desk_on(store)
    await serve(store, desk)
    desk.submit(desk.ticks.tick(100.0))
    proposals = [pending.proposal for pending in desk.execution._pending]

    async def asked() -> Committed:
        async with store.read() as tx:
            return await trading.read_back(tx, proposals)

    async def it_waits() -> bool:
        async with store.read() as tx:
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            return bool(await tx.scalar(text(waiting)))

    async with store.begin() as tx:
        await trading.commit(tx, proposals, owner=OWNER)
        question = asyncio.create_task(asked())
        await until(it_waits)
    assert list((await question).positions) == [proposals[0].intent.client_order_id]


# Bad rows and outdated ones


async def test_one_bad_row_in_a_batch_backs_off_and_the_others_trade(
    store: Store, desk: Desk
) -> None:
    ids = await serve(store, desk, 5)
    await occupy(store, order_id(desk, ids[3], Leg.ENTRY))
    await desk.trade(100.0)
    flat, open_ = Phase.FLAT, Phase.OPEN
    assert desk.phases() == [open_, open_, open_, flat, open_]
    assert desk.execution.dropped == {"refused by the database": 1}
    assert {order.bot_id for order in await rows(store, orders)} == {999, *ids} - {ids[3]}

    # It tries again after a minute of market time.
    assert (await desk.trade(100.0, minutes=0.9)).verdicts[Reason.COOLING_DOWN] == 1
    await desk.trade(100.0, minutes=0.1)
    assert desk.phases() == [open_] * 5


async def test_a_bad_exit_backs_off_and_is_tried_again_under_another_id(
    store: Store, desk: Desk
) -> None:
    ids = await serve(store, desk, 3)
    await desk.trade(100.0)
    await occupy(store, order_id(desk, ids[1], Leg.EXIT))
    await desk.trade(RISE)
    assert desk.phases() == [Phase.FLAT, Phase.OPEN, Phase.FLAT]
    assert (await desk.trade(RISE, minutes=4.9 / 60)).exits == ()
    await desk.trade(RISE, minutes=0.1 / 60)
    assert desk.phases() == [Phase.FLAT] * 3
    assert {position.status for position in await rows(store, positions)} == {"closed"}


async def test_a_row_that_the_database_contradicts_is_read_again(store: Store, desk: Desk) -> None:
    """Somebody else opened a position for one bot and sold that of another."""
    buyer, seller = await serve(store, desk, 2)
    await desk.trade(100.0)
    for statement in (
        # The first bot's position under the next sequence, as if another worker had bought it.
        f"UPDATE positions SET sequence = 2 WHERE bot_id = {buyer}",
        f"UPDATE fills SET position_sequence = 2 WHERE bot_id = {buyer}",
        f"UPDATE positions SET version = 2 WHERE bot_id = {seller}",
    ):
        await execute(store, statement)
    await desk.trade(RISE)
    assert desk.execution.dropped == {"position changed meanwhile": 2}
    assert await legs(store) == ["entry", "entry"]

    await desk.roster.refresh()
    await desk.trade(RISE)
    assert await legs(store) == ["entry", "entry", "exit", "exit"]
    sold: Sequence[Row[Any]] = await rows(store, positions)
    assert {(row.bot_id, row.sequence, row.status) for row in sold} == {
        (buyer, 2, "closed"),
        (seller, 1, "closed"),
    }


async def test_a_number_that_nobody_can_reckon_with_stops_its_own_bot_and_no_other(
    postgres_store: Store,
) -> None:
    """PostgreSQL keeps NaN. What it breaks inside the transaction must not end the worker."""
    desk = await desk_on(postgres_store)
    task = asyncio.create_task(desk.execution.run())
    await serve(postgres_store, desk, 3)
    await execute(postgres_store, "UPDATE users SET max_notional = 'NaN' WHERE name = 'user 1'")
    await desk.trade(100.0)
    assert desk.phases() == [Phase.OPEN, Phase.FLAT, Phase.OPEN]
    assert desk.execution.dropped == {"refused by the database": 1}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_is_bought_while_its_pair_is_taken_from_the_bot_stays_guarded(
    store: Store, desk: Desk
) -> None:
    """The reading that finds the pair gone may be older than the position."""
    await serve(store, desk)
    desk.store.open_to_writers.clear()
    desk.submit(desk.ticks.tick(100.0))
    async with store.begin() as tx:
        await tx.execute(update(bot_pairs).values(active=False))
        await tx.execute(update(bots).values(updated_at=database_now()))
    gate = desk.store.readers_wait
    desk.store.open_to_readers.clear()
    refresh = asyncio.create_task(desk.roster.refresh())
    async with asyncio.timeout(PATIENCE_SECS):
        await gate.wait()  # it has read which bots changed
        gate.clear()
        desk.store.open_to_readers.set()
        await asyncio.sleep(0)
        desk.store.open_to_readers.clear()
        await gate.wait()  # it has read the bot
    desk.store.open_to_writers.set()
    await desk.settled()
    desk.store.open_to_readers.set()
    await refresh
    await desk.roster.refresh()
    assert desk.phases() == [Phase.OPEN]
    await desk.trade(RISE)
    assert await legs(store) == ["entry", "exit"]
    await desk.roster.refresh()


async def test_an_old_outcome_does_not_end_what_a_row_that_was_loaded_again_waits_for(
    store: Store, desk: Desk
) -> None:
    """While a commit hung, the shards were lost, taken again and loaded; then came a tick."""
    await serve(store, desk)
    desk.store.open_to_writers.clear()
    desk.store.troubles.append(Trouble.AWAY)
    desk.submit(desk.ticks.tick(100.0))
    await asyncio.sleep(0)
    desk.roster.forget(range(256))
    await desk.roster.load(range(256))
    desk.submit(desk.ticks.tick(100.0))
    assert desk.phases() == [Phase.ENTERING]
    desk.store.open_to_writers.set()
    await desk.settled()
    assert desk.phases() == [Phase.OPEN]
    await desk.trade(RISE)
    assert await legs(store) == ["entry", "exit"]


async def test_a_row_that_is_read_again_trades_nothing_meanwhile(store: Store, desk: Desk) -> None:
    """Else what was read would undo what it has bought since, and nobody would guard that."""
    await serve(store, desk)
    desk.store.troubles.append(Trouble.COMMIT_LOST)
    await desk.trade(100.0)
    desk.store.open_to_readers.clear()
    refresh = asyncio.create_task(desk.roster.refresh())
    async with asyncio.timeout(PATIENCE_SECS):
        await desk.store.readers_wait.wait()
    assert (await desk.trade(100.0)).verdicts == {Reason.ORDER_UNSETTLED: 1}
    desk.store.open_to_readers.set()
    await refresh
    await desk.trade(100.0)
    await desk.trade(RISE)
    assert await legs(store) == ["entry", "exit"]


# Waiting


async def test_entries_that_grew_old_while_they_waited_are_dropped_and_exits_are_not(
    store: Store, desk: Desk
) -> None:
    await serve(store, desk, 1)
    await desk.trade(100.0)
    await add_bots(store, spec(1))
    await desk.roster.refresh()
    tick = desk.ticks.tick(RISE, age_secs=15.5)
    decisions = desk.submit(tick, now_ms=tick.observed_at_ms)
    assert (len(decisions.exits), len(decisions.entries)) == (1, 1)
    await desk.settled()
    assert desk.execution.dropped == {"tick too old to commit": 1}
    assert desk.phases() == [Phase.FLAT, Phase.FLAT]
    assert await legs(store) == ["entry", "exit"]


async def test_entries_that_grew_old_while_the_database_let_them_wait_are_dropped(
    store: Store, desk: Desk
) -> None:
    await serve(store, desk, 2, risk_profile={"max_tick_age_secs": 0.1})
    desk.store.open_to_writers.clear()
    tick = desk.ticks.tick(100.0)
    assert len(desk.submit(tick).entries) == 2

    async def old() -> bool:
        return wall_ms() - tick.observed_at_ms > 100

    await until(old)
    desk.store.open_to_writers.set()
    await desk.settled()
    assert desk.execution.dropped == {"tick too old to commit": 2}
    assert desk.phases() == [Phase.FLAT] * 2
    assert await rows(store, orders) == []


async def test_what_is_decided_while_a_transaction_runs_shares_the_next_ones(
    store: Store, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "MAX_BATCH", 2)
    await serve(store, desk, 5)
    await desk.trade(100.0)
    assert desk.phases() == [Phase.OPEN] * 5
    assert desk.store.written == 3


async def test_what_a_limit_denies_in_the_transaction_is_dropped_and_counted(
    store: Store, desk: Desk
) -> None:
    _, second = await serve(store, desk, 2)
    await execute(store, "UPDATE users SET max_open_positions = 0 WHERE name = 'user 0'")
    await desk.trade(100.0)
    assert {order.bot_id for order in await rows(store, orders)} == {second}
    assert desk.phases() == [Phase.FLAT, Phase.OPEN]
    # As the worker reports it: a JSON object.
    assert orjson.loads(orjson.dumps(desk.execution.dropped)) == {"user_position_limit": 1}


async def test_draining_waits_for_the_outcome_of_everything_submitted(
    store: Store, desk: Desk
) -> None:
    await serve(store, desk, 3)
    desk.store.open_to_writers.clear()
    desk.submit(desk.ticks.tick(100.0))
    drained = asyncio.create_task(desk.execution.drain())
    await asyncio.sleep(0)
    assert desk.phases() == [Phase.ENTERING] * 3
    assert not drained.done()
    desk.store.open_to_writers.set()
    async with asyncio.timeout(PATIENCE_SECS):
        await drained
    assert desk.phases() == [Phase.OPEN] * 3
    assert len(await rows(store, orders)) == 3


async def test_rows_of_an_order_that_waits_decide_nothing(store: Store, desk: Desk) -> None:
    await serve(store, desk)
    desk.store.open_to_writers.clear()
    desk.submit(desk.ticks.tick(100.0))
    assert desk.submit(desk.ticks.tick(100.0)).verdicts == {Reason.POSITION_UNCLOSED: 1}
    desk.store.open_to_writers.set()
    await desk.settled()
    assert len(await rows(store, orders)) == 1
