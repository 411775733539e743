"""From the outbox to the broker: every event at least once, each bot's in order, on both buses."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from typing import cast
from uuid import uuid4

import pytest
from sqlalchemy import insert

from shared.bus import Bus, Delivery, Message, Subscription
from shared.bus.connect import bus_for
from shared.errors import BrokerUnavailable, PublishTimeout, StoreUnavailable
from shared.store.engine import Store
from shared.store.tables import outbox
from shared.topology import EVENT_ID_HEADER, LISTENER_QUEUE, ORDERS, Binding
from tests.integration.trading_fleet import PATIENCE_SECS, rows, until
from tests.integration.unreliable_store import Trouble, UnreliableStore
from trade_worker import relay as relay_module
from trade_worker.relay import Relay

SHARDS = frozenset({1, 2})
KEY = "order.update.filled.kraken"


class UnreliableBus:
    """What a relay needs of a bus, failing where a test says.

    A body in `refused` does not arrive, one in `unconfirmed` arrives without a confirm, each
    once. While `away`, nothing arrives.
    """

    def __init__(self, real: Bus) -> None:
        self._real = real
        self.refused: set[bytes] = set()
        self.unconfirmed: set[bytes] = set()
        self.away = False
        self.tries = 0

    async def publish_all(self, messages: Iterable[Message]) -> list[bool | Exception]:
        self.tries += 1
        results: list[bool | Exception] = []
        for message in messages:
            if self.away or message.body in self.refused:
                self.refused.discard(message.body)
                results.append(BrokerUnavailable("the broker is away, says the test"))
                continue
            result = (await self._real.publish_all([message]))[0]
            if message.body in self.unconfirmed:
                self.unconfirmed.discard(message.body)
                result = PublishTimeout("no confirm, says the test")
            results.append(result)
        return results


@pytest.fixture(params=["memory", "rabbitmq"])
async def bus(request: pytest.FixtureRequest, rabbitmq_url: str) -> AsyncIterator[Bus]:
    memory = f"memory://{uuid4().hex}"
    opened = bus_for(rabbitmq_url if request.param == "rabbitmq" else memory, name="test")
    await opened.start()
    yield opened
    await opened.close()


@pytest.fixture
async def listener(bus: Bus) -> Subscription:
    """Hears everything about orders from the start of the test on."""
    return await bus.subscribe(LISTENER_QUEUE, frozenset({Binding(exchange=ORDERS, pattern="#")}))


@pytest.fixture
def unreliable_bus(bus: Bus) -> UnreliableBus:
    return UnreliableBus(bus)


@pytest.fixture
def relay(postgres_store: Store, unreliable_bus: UnreliableBus) -> Relay:
    return Relay(postgres_store, cast("Bus", unreliable_bus), shards=lambda: SHARDS)


async def write(store: Store, *bots_and_bodies: tuple[int | None, str], shard: int = 1) -> None:
    """Append events to the outbox."""
    async with store.begin() as tx:
        await tx.execute(
            insert(outbox),
            [
                {
                    "shard": shard,
                    "bot_id": bot_id,
                    "exchange": ORDERS,
                    "routing_key": KEY,
                    "body": body,
                }
                for bot_id, body in bots_and_bodies
            ],
        )


async def hear(listener: Subscription, count: int) -> list[Delivery]:
    """The next `count` events. More than that fails."""
    heard: list[Delivery] = []
    async with asyncio.timeout(PATIENCE_SECS):
        while len(heard) < count:
            batch = await listener.batch()
            await listener.acknowledge(batch)
            heard += batch
    assert len(heard) == count
    return heard


def bodies(heard: Iterable[Delivery]) -> list[str]:
    return [delivery.body.decode() for delivery in heard]


async def unsent(store: Store) -> list[str]:
    return [event.body for event in await rows(store, outbox) if event.sent_at is None]


async def test_each_bots_events_arrive_in_order_and_are_marked(
    postgres_store: Store, relay: Relay, listener: Subscription
) -> None:
    events = [(bot_id, f"{bot_id}-{number}") for number in range(4) for bot_id in range(5)]
    await write(postgres_store, *events)
    await write(postgres_store, (None, "of nobody"), (None, "of nobody"), shard=2)
    await relay.relay()
    heard = await hear(listener, 22)
    by_bot: defaultdict[str, list[str]] = defaultdict(list)
    for body in bodies(heard)[:20]:
        by_bot[body.split("-")[0]].append(body)
    assert all(told == sorted(told) for told in by_bot.values())
    assert len(by_bot) == 5
    ids = [event.id for event in await rows(postgres_store, outbox)]
    assert sorted(int(delivery.headers[EVENT_ID_HEADER]) for delivery in heard) == ids
    assert {delivery.routing_key for delivery in heard} == {KEY}
    assert await unsent(postgres_store) == []
    assert relay.sent == 22


async def test_more_than_a_page_is_relayed(
    postgres_store: Store, relay: Relay, listener: Subscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "PAGE", 3)
    await write(postgres_store, *((7, str(number)) for number in range(8)))
    await relay.relay()
    assert bodies(await hear(listener, 8)) == [str(number) for number in range(8)]


async def test_events_of_other_shards_are_left_to_their_holders(
    postgres_store: Store, relay: Relay, listener: Subscription
) -> None:
    await write(postgres_store, (1, "theirs"), shard=3)
    await write(postgres_store, (2, "ours"), shard=2)
    await relay.relay()
    assert bodies(await hear(listener, 1)) == ["ours"]
    assert await unsent(postgres_store) == ["theirs"]


async def test_a_refused_event_goes_again_before_any_later_one_of_its_bot(
    postgres_store: Store, relay: Relay, unreliable_bus: UnreliableBus, listener: Subscription
) -> None:
    await write(postgres_store, (1, "a1"), (2, "b1"), (1, "a2"), (3, "c1"), (2, "b2"))
    unreliable_bus.refused = {b"a1"}
    with pytest.raises(BrokerUnavailable):
        await relay.relay()
    assert bodies(await hear(listener, 1)) == ["b1"]
    assert await unsent(postgres_store) == ["a1", "a2", "c1", "b2"]
    await relay.relay()
    assert bodies(await hear(listener, 4)) == ["a1", "a2", "c1", "b2"]
    assert await unsent(postgres_store) == []


async def test_an_event_without_a_confirm_is_repeated_before_any_later_one_of_its_bot(
    postgres_store: Store, relay: Relay, unreliable_bus: UnreliableBus, listener: Subscription
) -> None:
    await write(postgres_store, (1, "a1"), (1, "a2"), (1, "a3"))
    unreliable_bus.unconfirmed = {b"a2"}
    with pytest.raises(PublishTimeout):
        await relay.relay()
    await relay.relay()
    assert bodies(await hear(listener, 4)) == ["a1", "a2", "a2", "a3"]


async def test_events_that_could_not_be_marked_are_repeated_in_order(
    postgres_store: Store, bus: Bus, listener: Subscription
) -> None:
    """The database goes away between the confirm and the mark."""
    store = UnreliableStore(postgres_store)
    relay = Relay(store, bus, shards=lambda: SHARDS)
    await write(postgres_store, (1, "a1"), (2, "b1"))
    store.troubles.append(Trouble.AWAY)
    with pytest.raises(StoreUnavailable):
        await relay.relay()
    await relay.relay()
    assert bodies(await hear(listener, 4)) == ["a1", "b1", "a1", "b1"]


async def test_two_relays_at_once_publish_every_event_once(
    postgres_store: Store, relay: Relay, listener: Subscription
) -> None:
    """The loop relays while a handover does."""
    await write(postgres_store, *((bot_id, str(bot_id)) for bot_id in range(50)))
    await asyncio.gather(relay.relay(), relay.relay())
    assert bodies(await hear(listener, 50)) == [str(bot_id) for bot_id in range(50)]
    assert relay.sent == 50


async def test_events_wait_for_a_broker_that_is_away(
    postgres_store: Store, relay: Relay, unreliable_bus: UnreliableBus, listener: Subscription
) -> None:
    unreliable_bus.away = True
    await write(postgres_store, (1, "a1"))
    running = asyncio.create_task(relay.run())
    try:
        relay.wake()

        async def tried_twice() -> bool:
            return unreliable_bus.tries >= 2

        await until(tried_twice)
        await write(postgres_store, (1, "a2"))
        assert await unsent(postgres_store) == ["a1", "a2"]
        unreliable_bus.away = False
        assert bodies(await hear(listener, 2)) == ["a1", "a2"]

        async def marked() -> bool:
            return await unsent(postgres_store) == []

        await until(marked)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
