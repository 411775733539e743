"""Breakers in the database: opened with the losses, closed by the day or by hand."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select, text

from shared.breakers import DAY_MS, next_day_ms
from shared.clock import datetime_of
from shared.limits import BreakerKind, BreakerScope
from shared.messages import BreakerClosed, BreakerOpened, decode_breaker
from shared.orders import BotStatus
from shared.reasons import Reason
from shared.store import breakers
from shared.store import tables as t
from shared.store.breakers import Breaker
from shared.store.engine import Store
from tests.integration.traders import NOON_MS, Trader, commit, denied, spec, trade, traders

BOT, USER = BreakerScope.BOT, BreakerScope.USER
STREAK, DAILY = BreakerKind.LOSS_STREAK, BreakerKind.DAILY_LOSS
MIDNIGHT_MS = next_day_ms(NOON_MS)


async def opened(store: Store) -> dict[tuple[BreakerScope, int, BreakerKind], Breaker]:
    async with store.read() as tx:
        found = await breakers.read_open(tx)
    return {(breaker.scope, breaker.scope_id, breaker.kind): breaker for breaker in found}


async def told(store: Store) -> list[tuple[str, int | None, BreakerOpened | BreakerClosed]]:
    """The breaker events in the outbox: routing key, bot and message."""
    query = select(t.outbox).where(t.outbox.c.exchange == "risk").order_by(t.outbox.c.id)
    async with store.read() as tx:
        return [
            (row.routing_key, row.bot_id, decode_breaker(row.body.encode()))
            for row in await tx.execute(query)
        ]


async def close_due(store: Store, trader: Trader, **market_time_ms: int) -> int:
    async with store.begin() as tx:
        return await breakers.close_due(tx, market_time_ms=market_time_ms, shards=[trader.shard])


async def enters(store: Store, trader: Trader) -> Reason | None:
    """What denies the trader's next entry, None if it was committed."""
    entry = trader.entry()
    (reason,) = denied(await commit(store, entry), entry)
    return reason


async def test_three_losses_in_a_row_stop_their_bot_only(store: Store) -> None:
    one, other = await traders(store, spec(name="one"), spec(name="other"))
    await trade(store, one, ["99", "99", "101", "99", "99"])
    assert await opened(store) == {}
    await trade(store, one, ["98"])
    ((key, breaker),) = (await opened(store)).items()
    assert key == (BOT, one.bot_id, STREAK)
    assert breaker.name == "one"
    assert breaker.open_until == datetime_of(MIDNIGHT_MS)
    tripped_by = one.exit("98").intent.client_order_id
    assert breaker.facts == {"losses": 3, "limit": 3, "client_order_id": tripped_by}
    assert await enters(store, one) is Reason.BREAKER_OPEN
    assert await enters(store, other) is None


async def test_opening_is_told_once_after_the_order_that_tripped_it(store: Store) -> None:
    (trader,) = await traders(store, spec(risk_profile={"max_loss_streak": 2}))
    await trade(store, trader, ["99", "99"])
    ((key, bot_id, event),) = await told(store)
    assert (key, bot_id) == ("risk.breaker.bot", trader.bot_id)
    assert isinstance(event, BreakerOpened)
    assert (event.scope_id, event.user_id, event.kind) == (trader.bot_id, trader.user_id, STREAK)
    assert event.open_until_ms == MIDNIGHT_MS
    assert event.client_order_id == trader.exit("99").intent.client_order_id
    async with store.read() as tx:
        keys = (await tx.scalars(select(t.outbox.c.routing_key).order_by(t.outbox.c.id))).all()
    assert keys[-2:] == ["order.update.filled.kraken", "risk.breaker.bot"]


async def test_a_loss_while_the_breaker_is_open_changes_nothing(store: Store) -> None:
    one, two = await traders(
        store, spec(pairs=("BTC/USD", "ETH/USD"), risk_profile={"max_loss_streak": 1})
    )
    bought = two.entry()
    await commit(store, bought)
    await trade(store, one, ["99"])
    before = await opened(store)
    await commit(store, two.exit("99"))
    assert await opened(store) == before
    assert len(await told(store)) == 1


async def test_a_day_that_loses_five_percent_stops_the_bot_and_a_users_bots_add_up(
    store: Store,
) -> None:
    one, two, ben = await traders(
        store, spec(name="one"), spec(name="two"), spec("ben", capital=Decimal(100_000))
    )
    await trade(store, one, ["50.1"])
    assert await opened(store) == {}
    await trade(store, one, ["100.1", "99"])
    found = await opened(store)
    assert set(found) == {(BOT, one.bot_id, DAILY)}
    assert found[BOT, one.bot_id, DAILY].facts == {
        "mode": "paper",
        "currency": "USD",
        "loss": "50.8",
        "limit": "50.00",
        "capital": "1000",
        "max_daily_loss": "0.05",
        "positions": 3,
        "client_order_id": one.exit("99").intent.client_order_id,
    }
    await trade(store, two, ["51"])
    assert set(await opened(store)) == {(BOT, one.bot_id, DAILY)}
    await trade(store, two, ["99"])
    found = await opened(store)
    assert set(found) == {
        (BOT, one.bot_id, DAILY),
        (BOT, two.bot_id, DAILY),
        (USER, one.user_id, DAILY),
    }
    user = found[USER, one.user_id, DAILY]
    assert (user.name, user.facts["loss"], user.facts["limit"]) == ("ann", "100.8", "100.00")
    assert [key for key, _, _ in await told(store)] == [
        "risk.breaker.bot",
        "risk.breaker.bot",
        "risk.breaker.user",
    ]
    assert await enters(store, ben) is None


async def test_several_pairs_that_lose_in_one_transaction_add_up(store: Store) -> None:
    pairs = await traders(store, spec(pairs=("BTC/USD", "ETH/USD", "SOL/USD")))
    await commit(store, *(trader.entry() for trader in pairs))
    await commit(store, *(trader.exit("80") for trader in pairs))
    (bot_id,) = {trader.bot_id for trader in pairs}
    (user_id,) = {trader.user_id for trader in pairs}
    found = await opened(store)
    assert set(found) == {(BOT, bot_id, STREAK), (BOT, bot_id, DAILY), (USER, user_id, DAILY)}
    assert found[BOT, bot_id, DAILY].facts["loss"] == "60"


async def test_currencies_and_other_days_are_kept_apart(store: Store) -> None:
    dollars, euros = await traders(
        store,
        spec(name="dollars", pairs=("BTC/USD",), capital=Decimal(10_000)),
        spec(name="euros", pairs=("BTC/EUR",), capital=Decimal(10_000)),
    )
    await trade(store, dollars, ["1"], market_time_ms=NOON_MS - DAY_MS)
    for trader in (dollars, euros):
        for price in ("1", "101", "1", "101", "1", "101", "1"):
            await trade(store, trader, [price])
    # 393 lost today in each currency, of 10,000 each: under 5 % of either, over it in no sum.
    assert await opened(store) == {}
    await trade(store, euros, ["101", "1", "101", "1"])
    assert set(await opened(store)) == {
        (BOT, euros.bot_id, DAILY),
        (USER, euros.user_id, DAILY),
    }


async def test_inactive_bots_lend_no_capital_to_the_others(store: Store) -> None:
    trader, _ = await traders(
        store,
        spec(name="active"),
        spec(name="inactive", capital=Decimal(1_000_000), status=BotStatus.INACTIVE),
    )
    await trade(store, trader, ["50"])
    assert set(await opened(store)) == {
        (BOT, trader.bot_id, DAILY),
        (USER, trader.user_id, DAILY),
    }


@pytest.mark.parametrize("stored", [{"max_loss_streak": "many"}, {"max_loss_streak": -1}])
async def test_a_limit_that_makes_no_sense_is_the_default(
    store: Store, stored: dict[str, Any]
) -> None:
    (trader,) = await traders(store, spec(risk_profile=stored))
    await trade(store, trader, ["99", "99"])
    assert await opened(store) == {}
    await trade(store, trader, ["99"])
    assert set(await opened(store)) == {(BOT, trader.bot_id, STREAK)}


async def test_a_new_day_closes_breakers_and_begins_a_new_streak(store: Store) -> None:
    (trader,) = await traders(store, spec())
    await trade(store, trader, ["99", "99", "50"])
    assert len(await opened(store)) == 3
    assert await close_due(store, trader, kraken=MIDNIGHT_MS - 1) == 0
    assert await close_due(store, trader, kraken=MIDNIGHT_MS) == 3
    assert await opened(store) == {}
    assert await close_due(store, trader, kraken=MIDNIGHT_MS) == 0
    closed = [event for _, _, event in (await told(store))[3:]]
    assert {(event.scope, event.scope_id, event.kind) for event in closed} == {
        (BOT, trader.bot_id, STREAK),
        (BOT, trader.bot_id, DAILY),
        (USER, trader.user_id, DAILY),
    }
    assert all(isinstance(event, BreakerClosed) and not event.by_hand for event in closed)
    tomorrow = NOON_MS + DAY_MS
    await trade(store, trader, ["99", "99"], market_time_ms=tomorrow)
    assert await opened(store) == {}
    await trade(store, trader, ["99"], market_time_ms=tomorrow)
    assert set(await opened(store)) == {(BOT, trader.bot_id, STREAK)}


async def test_a_bots_day_ends_on_its_venues_clock_and_a_users_on_the_first(store: Store) -> None:
    (trader,) = await traders(store, spec())
    await trade(store, trader, ["50"])
    assert await close_due(store, trader, kraken=MIDNIGHT_MS - 1, binance=MIDNIGHT_MS) == 1
    assert set(await opened(store)) == {(BOT, trader.bot_id, DAILY)}
    async with store.begin() as tx:
        others = [shard for shard in range(256) if shard != trader.shard]
        clock = {"kraken": MIDNIGHT_MS}
        assert await breakers.close_due(tx, market_time_ms=clock, shards=others) == 0
    assert await close_due(store, trader, kraken=MIDNIGHT_MS) == 1


async def test_losses_of_the_next_day_keep_a_breaker_open_that_nobody_closed_yet(
    store: Store,
) -> None:
    one, two = await traders(
        store, spec(pairs=("BTC/USD", "ETH/USD"), risk_profile={"max_loss_streak": 1})
    )
    await commit(store, two.entry())
    await trade(store, one, ["99"])
    await commit(store, two.exit("99", market_time_ms=MIDNIGHT_MS))
    assert await close_due(store, one, kraken=MIDNIGHT_MS) == 0
    (breaker,) = (await opened(store)).values()
    assert breaker.open_until == datetime_of(MIDNIGHT_MS + DAY_MS)
    assert len(await told(store)) == 2


async def test_a_reset_by_hand_forgives_what_was_lost_before(store: Store) -> None:
    (trader,) = await traders(store, spec())
    await trade(store, trader, ["99", "99", "50"])
    async with store.begin() as tx:
        assert set(await breakers.reset(tx, BOT, trader.bot_id)) == {STREAK, DAILY}
        assert await breakers.reset(tx, USER, trader.user_id) == [DAILY]
        assert await breakers.reset(tx, USER, trader.user_id) == []
    assert await opened(store) == {}
    closed = [event for _, _, event in (await told(store))[3:]]
    assert all(isinstance(event, BreakerClosed) and event.by_hand for event in closed)
    assert len(closed) == 3
    await trade(store, trader, ["60", "99"])
    assert await opened(store) == {}
    await trade(store, trader, ["91"])
    assert len(await opened(store)) == 3


async def test_breakers_are_read_of_whom_they_were_asked_for(store: Store) -> None:
    one, two = await traders(store, spec(name="one"), spec(name="two"))
    for trader in (one, two):
        await trade(store, trader, ["50"])
    async with store.read() as tx:
        found = await breakers.read_open(tx, [(BOT, two.bot_id), (USER, two.user_id)])
        assert await breakers.count_open(tx) == {BOT: 2, USER: 1}
        assert await breakers.read_open(tx, []) == []
    assert {(breaker.scope, breaker.scope_id) for breaker in found} == {
        (BOT, two.bot_id),
        (USER, two.user_id),
    }
    assert all(breaker.opened_at and breaker.opened_at < datetime.now(UTC) for breaker in found)


async def test_a_bot_whose_capital_is_no_number_keeps_no_sibling_from_selling(
    postgres_store: Store,
) -> None:
    """PostgreSQL keeps NaN, and no loss can be compared with it."""
    odd, sound = await traders(postgres_store, spec(name="odd"), spec(name="sound"))
    bought = odd.entry()
    await commit(postgres_store, bought)
    async with postgres_store.begin() as tx:
        await tx.execute(text(f"UPDATE bots SET capital = 'NaN' WHERE id = {odd.bot_id}"))
    await trade(postgres_store, sound, ["99"])
    assert await opened(postgres_store) == {}
    await commit(postgres_store, odd.exit("99"))
    assert set(await opened(postgres_store)) == {(BOT, odd.bot_id, DAILY)}
