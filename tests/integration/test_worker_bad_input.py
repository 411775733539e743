"""What makes no sense harms nothing but itself: messages, rows of bots, amounts, markets."""

import orjson
import pytest

from shared.bus import Bus, Message
from shared.bus.dead_letters import DeadLetters
from shared.bus.memory import MemoryBroker, MemoryBus
from shared.messages import encode
from shared.store import bot_import
from shared.store.engine import Store
from shared.store.tables import orders
from shared.topology import (
    PRICE_UPDATES,
)
from tests.integration.trading_fleet import (
    Prices,
    add_bots,
    execute,
    rows,
    serving,
    spec,
    until,
)

RISE = 106.0
"""After an entry at 100: the weak regime's target."""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xff not JSON", "not JSON"),
        (b'{"version": 99}', "version must be one of"),
        (b"[]", "not a JSON object"),
        ("price", "price must be a number above 0"),
        ("market_time_ms", "market_time_ms must be"),
    ],
)
async def test_a_malformed_tick_is_set_aside_and_harms_nothing_else(
    store: Store, bus: Bus, other_bus: Bus, prices: Prices, body: bytes | str, reason: str
) -> None:
    """Where `body` is the name of a field, that field makes no sense."""
    await add_bots(store, spec())
    letters = DeadLetters(other_bus)
    await letters.purge()
    if isinstance(body, str):
        fields = orjson.loads(encode(prices.tick(100.0)))
        body = orjson.dumps({**fields, body: 10**18 if body == "market_time_ms" else -1})
    async with serving(store, bus) as worker:
        bad = Message(exchange=PRICE_UPDATES, routing_key="BTC/USD", body=body)
        await other_bus.publish_all([bad, prices.message(100.0)])
        await worker.commits(1)

        async def set_aside() -> bool:
            return await letters.count() == 1

        await until(set_aside)
        assert worker.ticks("undecodable") == 1
    (letter,) = await letters.peek()
    assert reason in letter.reason
    assert (letter.exchange, letter.routing_key) == (PRICE_UPDATES, "BTC/USD")
    assert letter.body == body
    await letters.purge()


BAD_PROFILES = {
    "a threshold out of range": '{"min_adx": -1}',
    "a threshold that is a list": '{"min_adx": [1]}',
    "a number that no float holds": '{"min_adx": 1e999}',
    "an unknown threshold": '{"adx": 20}',
    "a profile that is a list": "[1, 2]",
}
BAD_ROWS = {
    **{
        what: f"UPDATE bots SET risk_profile = '{profile}' WHERE name = 'bot 1'"
        for what, profile in BAD_PROFILES.items()
    },
    "negative capital": "UPDATE bots SET capital = '-5' WHERE name = 'bot 1'",
    "an unknown venue": "UPDATE bots SET venue = 'mtgox' WHERE name = 'bot 1'",
    "a live bot": "UPDATE bots SET mode = 'live' WHERE name = 'bot 1'",
    "a negative limit": "UPDATE users SET max_open_positions = -1 WHERE name = 'user 1'",
}


@pytest.mark.parametrize("bad", BAD_ROWS)
async def test_one_bad_bot_row_does_not_stop_the_others(
    store: Store, bus: Bus, prices: Prices, bad: str
) -> None:
    good, _, also_good = await add_bots(store, spec(0), spec(1), spec(2))
    await execute(store, BAD_ROWS[bad])
    async with serving(store, bus) as worker:
        await prices.publish(100.0)
        await worker.commits(2)
        await prices.publish(RISE)
        await worker.commits(4)
    assert {order.bot_id for order in await rows(store, orders)} == {good, also_good}


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
async def test_an_amount_that_is_no_number_stops_its_own_bot_only(
    postgres_store: Store, number: str
) -> None:
    good, poor, holder = await add_bots(postgres_store, spec(0), spec(1), spec(2))
    bus = MemoryBus(MemoryBroker())
    await bus.start()
    prices = Prices(bus)
    async with serving(postgres_store, bus) as worker:
        await prices.publish(100.0)
        await worker.commits(3)
    # An owner's bot that holds nonsense is left alone; the next worker must survive both.
    await execute(postgres_store, f"UPDATE bots SET capital = '{number}' WHERE id = {poor}")
    await execute(
        postgres_store,
        f"UPDATE positions SET entry_quantity = '{number}', entry_cost = '{number}' "
        f"WHERE bot_id = {holder}",
    )
    async with serving(postgres_store, bus) as worker:
        await prices.publish(RISE)
        await worker.commits(2)
        assert worker.worker.report()["invalid_rows"] == 2
    await bus.close()
    sold = {order.bot_id for order in await rows(postgres_store, orders) if order.leg == "exit"}
    assert sold == {good, poor}


async def test_a_threshold_beyond_reason_does_not_break_a_cool_down(
    store: Store, bus: Bus, prices: Prices
) -> None:
    good, _ = await add_bots(store, spec(0), spec(1))
    async with serving(store, bus) as worker:
        await prices.publish(100.0)
        await worker.commits(2)
        await prices.publish(RISE)
        await worker.commits(4)
    await execute(
        store, """UPDATE bots SET risk_profile = '{"cooldown_secs": 1e308}' WHERE name = 'bot 1'"""
    )
    async with serving(store, bus) as worker:
        await prices.publish(100.0, minutes=10)
        await worker.commits(1)
        assert worker.verdicts == {"entry_signal": 1, "row_invalid": 1}
    assert (await rows(store, orders))[-1].bot_id == good


async def test_a_market_whose_rules_are_not_known_is_not_bought(
    store: Store, bus: Bus, prices: Prices
) -> None:
    async with store.begin() as tx:
        await bot_import.add(tx, spec())
    async with serving(store, bus) as worker:
        await prices.publish(100.0)
        await worker.judges(1)
        assert worker.verdicts == {"market_unknown": 1}
