"""The verbs of every day against a fleet that runs: what a person changes, and sees happen.

On PostgreSQL and RabbitMQ, and on SQLite, where nothing but the database joins command and worker.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from click.testing import CliRunner

from console.__main__ import botfleet
from shared.bus import Bus, Subscription
from shared.bus.connect import bus_for
from shared.orders import BotStatus, PositionStatus
from shared.reasons import Reason
from shared.signals import ControlVerb, decode_control
from shared.store import bots, positions
from shared.store.engine import Store
from shared.store.tables import orders
from shared.topology import LISTENER_QUEUE, SYSTEM, Binding, config_key, control_key
from tests.integration.trading_fleet import Prices, add_bots, rows, serving, spec

ENTRY = 100.0
HOLD = 100.5


@pytest.fixture
def bus_url(request: pytest.FixtureRequest, database_url: str) -> str:
    """RabbitMQ beside PostgreSQL, memory beside SQLite."""
    if database_url.startswith("sqlite"):
        return f"memory://{uuid4().hex}"
    url: str = request.getfixturevalue("rabbitmq_url")
    return url


@pytest.fixture
async def bus(bus_url: str) -> AsyncIterator[Bus]:
    opened = bus_for(bus_url, name="test")
    await opened.start()
    yield opened
    await opened.close()


class Person:
    """Somebody who types commands; each runs on a thread and an event loop of its own."""

    def __init__(self, environment: pytest.MonkeyPatch, *, database_url: str, bus_url: str) -> None:
        environment.setenv("DATABASE_URL", database_url)
        environment.setenv("RABBITMQ_URL", bus_url)

    async def types(self, *arguments: str, exit_code: int = 0) -> str:
        """What the command printed; it must end as expected."""
        done = await asyncio.to_thread(
            CliRunner().invoke, botfleet, arguments, catch_exceptions=False
        )
        assert done.exit_code == exit_code, done.output
        return (done.stdout if exit_code == 0 else done.stderr).strip()


@pytest.fixture
def person(
    monkeypatch: pytest.MonkeyPatch, database_url: str, bus_url: str, tmp_path: Path
) -> Person:
    monkeypatch.chdir(tmp_path)
    return Person(monkeypatch, database_url=database_url, bus_url=bus_url)


async def position_of(store: Store, bot_id: int) -> positions.Position:
    """The bot's newest position."""
    async with store.read() as tx:
        return (await positions.page(tx, positions.PositionFilter(bot_id=bot_id), limit=1))[0]


async def status_of(store: Store, bot_id: int) -> BotStatus:
    async with store.read() as tx:
        return (await bots.get(tx, bot_id)).status


@contextlib.asynccontextmanager
async def prices_go_on(prices: Prices) -> AsyncIterator[None]:
    """A tick every now and then, as the price stream has them, while a person looks."""

    async def publish() -> None:
        while True:
            await prices.publish(HOLD)
            await asyncio.sleep(0.1)

    ticking = asyncio.create_task(publish())
    try:
        yield
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)


async def test_changes_are_seen_to_take_effect(store: Store, bus: Bus, person: Person) -> None:
    [bot_id] = await add_bots(store, spec())
    async with serving(store, bus) as fleet:
        paused = await person.types("bots", "pause", str(bot_id))
        assert paused == f"bot {bot_id} is now paused\nin effect on worker 1"
        prices = Prices(bus)
        await prices.publish(ENTRY)
        await fleet.judges(1)
        assert fleet.verdicts == {"bot_not_active": 1}
        changed = await person.types("bots", "set", str(bot_id), "min_adx=30")
        assert changed.endswith("changed; in effect on worker 1")
        started = await person.types("bots", "start", str(bot_id), "--no-wait")
        assert started.endswith("workers follow within a second")


async def test_a_disabled_user_enters_nothing(store: Store, bus: Bus, person: Person) -> None:
    await add_bots(store, spec(0, user="ann"), spec(1, user="ann", name="second"))
    async with serving(store, bus) as fleet:
        disabled = await person.types("users", "disable", "ann")
        assert "ann: now disabled, no entries, exits go on; in effect on worker 1" in disabled
        prices = Prices(bus)
        await prices.publish(ENTRY)
        await fleet.judges(1)
        assert fleet.verdicts == {"bot_not_active": 2}
        await person.types("users", "enable", "ann")
        limited = await person.types("users", "set", "ann", "--max-open-positions", "1")
        assert "at most 1 open positions, any notional; in effect on worker 1" in limited
        await prices.publish(ENTRY)
        await fleet.commits(1)
    shown = json.loads(await person.types("users", "show", "ann", "--json"))
    assert (shown["status"], shown["max_open_positions"]) == ("active", 1)
    assert (len(shown["bots"]), len(shown["open_positions"])) == (2, 1)
    assert "1 of at most 1 positions are open" in await person.types("users", "show", "ann")


async def test_a_notional_limit_is_set_and_taken_away(store: Store, person: Person) -> None:
    await add_bots(store, spec(0, user="ann"))
    limited = await person.types("users", "set", "ann", "--max-notional", "2500.5")
    assert "at most 2,500.5 of each quote currency; no worker serves it now" in limited
    free = await person.types("users", "set", "ann", "--max-notional", "none")
    assert "any notional" in free
    for arguments, problem in (
        (("users", "set", "ann", "--max-notional", "-1"), "--max-notional must be a number above"),
        (("users", "disable", "bob"), "there is no user named 'bob'"),
        (("users", "show", "bob"), "there is no user named 'bob'"),
    ):
        assert problem in await person.types(*arguments, exit_code=1)


async def test_a_position_is_closed_by_hand_while_its_bot_goes_on(
    store: Store, bus: Bus, person: Person
) -> None:
    first, second = await add_bots(store, spec(0), spec(1))
    prices = Prices(bus)
    async with serving(store, bus) as fleet:
        await prices.publish(ENTRY)
        await fleet.commits(2)
        position = await position_of(store, first)
        async with prices_go_on(prices):
            closed = await person.types(
                "positions", "close", str(position.id), "--reason", "bad news"
            )
        assert closed.startswith(f"position {position.id} is sold: -")
        assert closed.endswith("(operator_exit)")
        again = await person.types(
            "positions", "close", str(position.id), "--reason", "again", exit_code=1
        )
        assert again == f"botfleet: position {position.id} is closed already"
    assert await status_of(store, first) is BotStatus.ACTIVE
    assert (await position_of(store, second)).status is PositionStatus.OPEN
    assert [row.reason for row in await rows(store, orders) if row.leg == "exit"] == [
        Reason.OPERATOR_EXIT
    ]
    assert "to be sold by hand: bad news" in await person.types(
        "positions", "show", str(position.id)
    )


async def test_a_wish_outlives_the_worker_that_should_have_followed_it(
    store: Store, bus: Bus, person: Person
) -> None:
    [bot_id] = await add_bots(store, spec())
    prices = Prices(bus)
    async with serving(store, bus) as fleet:
        await prices.publish(ENTRY)
        await fleet.commits(1)
    position = await position_of(store, bot_id)
    waiting = await person.types(
        "positions", "close", str(position.id), "--reason", "now", "--no-wait"
    )
    assert "is still open: it is sold at the next tick of BTC/USD on kraken" in waiting
    async with serving(store, bus) as fleet:
        await prices.publish(HOLD)
        await fleet.commits(1)
    assert (await position_of(store, bot_id)).exit_reason == Reason.OPERATOR_EXIT


async def test_a_stopped_bot_sells_is_inactive_and_can_be_removed(
    store: Store, bus: Bus, person: Person
) -> None:
    [bot_id] = await add_bots(store, spec())
    prices = Prices(bus)
    async with serving(store, bus) as fleet:
        await prices.publish(ENTRY)
        await fleet.commits(1)
        refused = await person.types("bots", "remove", str(bot_id), exit_code=1)
        assert f"bot {bot_id} is active: stop it first (`botfleet bots stop {bot_id}`)" in refused
        async with prices_go_on(prices):
            stopped = await person.types("bots", "stop", str(bot_id))
        assert stopped == f"bot {bot_id} is inactive, nothing of it is open"
    assert (await position_of(store, bot_id)).status is PositionStatus.CLOSED
    removed = await person.types("bots", "remove", str(bot_id))
    assert removed == f"bot {bot_id} bot 0 of user 0 is removed"
    assert "there is no bot" in await person.types("bots", "show", str(bot_id), exit_code=1)


async def test_a_bot_that_nobody_serves_is_stopped_at_once(store: Store, person: Person) -> None:
    [bot_id] = await add_bots(store, spec())
    stopped = await person.types("bots", "stop", str(bot_id), "--no-wait")
    assert stopped == f"bot {bot_id} is inactive, nothing of it is open"
    refused = await person.types("bots", "stop", "999", exit_code=1)
    assert refused == "botfleet: there is no bot 999"


async def test_a_kept_position_is_unattended_until_it_is_closed_by_hand(
    store: Store, bus: Bus, person: Person
) -> None:
    [bot_id] = await add_bots(store, spec())
    prices = Prices(bus)
    async with serving(store, bus) as fleet:
        await prices.publish(ENTRY)
        await fleet.commits(1)
        position = await position_of(store, bot_id)
        kept = await person.types("bots", "stop", str(bot_id), "--keep-position")
        assert f"bot {bot_id} is now inactive\nin effect on worker 1" in kept
        assert f"position {position.id} of bot {bot_id} on BTC/USD stays open" in kept
        await prices.publish(ENTRY / 2)
        await fleet.judges(2)
        assert fleet.committed == 1
        assert "open, unattended" in await person.types("positions", "list", "--open")
        async with prices_go_on(prices):
            await person.types("positions", "close", str(position.id), "--reason", "enough")
    assert (await position_of(store, bot_id)).status is PositionStatus.CLOSED


async def test_a_bot_without_what_real_orders_need_stays_on_paper(
    store: Store, person: Person
) -> None:
    [bot_id] = await add_bots(store, spec())
    refused = await person.types("bots", "set", str(bot_id), "--mode", "live", exit_code=2)
    missing = "PostgreSQL" if store.dialect == "sqlite" else "BOTFLEET_VAULT_KEY_FILE is not set"
    assert missing in refused
    await person.types("bots", "set", str(bot_id), "--mode", "paper")


async def test_pause_and_resume_turn_the_fleets_kill_switch(
    store: Store, bus: Bus, person: Person
) -> None:
    await add_bots(store, spec())
    prices = Prices(bus)
    async with serving(store, bus) as fleet:
        await person.types("control", "pause", "--reason", "3 a.m.")
        seen = fleet.worker.report
        await fleet.until(lambda: seen()["kill_switches_seen"] == 1)
        await prices.publish(ENTRY)
        await fleet.judges(1)
        assert fleet.verdicts == {"kill_switch_on": 1}
        assert "3 a.m." in await person.types("kill-switch", "status")
        await person.types("control", "resume")
        await fleet.until(lambda: seen()["kill_switches_seen"] == 2)
        await prices.publish(ENTRY)
        await fleet.commits(1)


@pytest.fixture
async def heard(bus: Bus) -> Subscription:
    """What is said on `system` to services."""
    return await bus.subscribe(
        LISTENER_QUEUE,
        frozenset(
            Binding(exchange=SYSTEM, pattern=pattern)
            for pattern in (config_key("bots"), control_key("*"))
        ),
    )


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_commands_tell_services_what_they_did(
    store: Store, heard: Subscription, person: Person
) -> None:
    [bot_id] = await add_bots(store, spec())
    await person.types("bots", "pause", str(bot_id), "--no-wait")
    assert await next_key(heard) == "system.config.bots"
    await person.types("control", "pause")
    assert await next_key(heard) == "system.control.pause"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_reset_and_shutdown_are_sent_to_whom_they_name(
    heard: Subscription, person: Person
) -> None:
    await person.types("control", "reset", "--target", "kraken/BTC/USD")
    [delivery] = await heard.batch()
    control = decode_control(delivery.body)
    assert (control.verb, control.market) == (ControlVerb.RESET, ("kraken", "BTC/USD"))
    await person.types("control", "shutdown", "--target", "2")
    [delivery] = await heard.batch()
    assert decode_control(delivery.body).target == "2"
    refused = await person.types("control", "reset", "--target", "BTC/USD", exit_code=1)
    assert "must be a market such as kraken/BTC/USD" in refused


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_broker_that_is_away_fails_no_change(
    store: Store, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    [bot_id] = await add_bots(store, spec())
    monkeypatch.setenv("RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:9/")
    await person.types("bots", "pause", str(bot_id))
    await person.types("control", "pause")
    assert await status_of(store, bot_id) is BotStatus.PAUSED
    unheard = await person.types("control", "shutdown", "--yes", exit_code=1)
    assert "no broker answers" in unheard


async def next_key(heard: Subscription) -> str:
    async with asyncio.timeout(20):
        [delivery] = await heard.batch()
    await heard.acknowledge([delivery])
    return delivery.routing_key
