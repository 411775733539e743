"""The bus port's contract, held by both adapters: RabbitMQ's and memory's."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from uuid import uuid4

import pytest

from shared.bus import Bus, Delivery, Message, Subscription
from shared.bus.connect import bus_for
from shared.bus.dead_letters import DeadLetters, dead_letter
from shared.errors import BrokerUnavailable, Halt, UndecodableMessage
from shared.messages import decode_tick
from shared.topology import (
    DEAD_LETTERS,
    EVENT_ID_HEADER,
    LISTENER_QUEUE,
    ORDERS,
    PRICE_UPDATES,
    TICK_QUEUE,
    Binding,
    Queue,
    event_queue,
    matches,
    poison_key,
)

ALL_TICKS = frozenset({Binding(exchange=PRICE_UPDATES, pattern="#")})
PATIENCE_SECS = 20.0


@pytest.fixture(params=["memory", "rabbitmq"])
def bus_url(request: pytest.FixtureRequest, rabbitmq_url: str) -> str:
    return rabbitmq_url if request.param == "rabbitmq" else f"memory://{uuid4().hex}"


@pytest.fixture
async def bus(bus_url: str) -> AsyncIterator[Bus]:
    opened = bus_for(bus_url, name="test")
    await opened.start()
    yield opened
    await opened.close()


@pytest.fixture
async def other_bus(bus_url: str) -> AsyncIterator[Bus]:
    opened = bus_for(bus_url, name="other test")
    await opened.start()
    yield opened
    await opened.close()


@pytest.fixture
async def letters(bus: Bus) -> AsyncIterator[DeadLetters]:
    """The dead letters of the run's virtual host, empty before and after."""
    dead_letters = DeadLetters(bus)
    await dead_letters.purge()
    yield dead_letters
    await dead_letters.purge()


@pytest.fixture
async def durable_queue(bus: Bus, bus_url: str) -> AsyncIterator[Queue]:
    """A durable queue of the test's own, emptied at the end; it goes with its virtual host."""
    name = f"test-{uuid4().hex}"
    yield Queue(name=name, exclusive=False, durable=True, max_length=1_000)
    async with bus.inspect(name) as inspection:
        await inspection.purge()


def tick(body: bytes | str | int, pair: str = "BTC/USD") -> Message:
    return Message(
        exchange=PRICE_UPDATES,
        routing_key=pair,
        body=body if isinstance(body, bytes) else str(body).encode(),
    )


def key_of(queue: Queue) -> str:
    """A routing key on `orders` that leads to this queue alone."""
    assert queue.name is not None
    return queue.name


def bindings_of(queue: Queue) -> frozenset[Binding]:
    return frozenset({Binding(exchange=ORDERS, pattern=key_of(queue))})


def to(queue: Queue, body: int | str) -> Message:
    return Message(exchange=ORDERS, routing_key=key_of(queue), body=str(body).encode())


def bodies(deliveries: Iterable[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


async def receive(subscription: Subscription, count: int) -> list[Delivery]:
    """The next `count` messages, acknowledged. More than that fails."""
    received: list[Delivery] = []
    async with asyncio.timeout(PATIENCE_SECS):
        while len(received) < count:
            batch = await subscription.batch()
            assert batch, "the subscription was closed"
            await subscription.acknowledge(batch)
            received += batch
    assert len(received) == count
    return received


async def hold(subscription: Subscription, count: int) -> list[Delivery]:
    """The next `count` messages, not acknowledged."""
    held: list[Delivery] = []
    async with asyncio.timeout(PATIENCE_SECS):
        while len(held) < count:
            held += await subscription.batch()
    assert len(held) == count
    return held


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again: a broker tells nobody when a message expires or comes back."""
    async with asyncio.timeout(PATIENCE_SECS):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def ready(subscription: Subscription) -> int:
    return (await subscription.depth()).ready


# Topics and delivery


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("BTC/USD", "BTC/USD", True),
        ("BTC/USD", "BTC/USDT", False),
        ("*", "BTC/USD", True),
        ("#", "BTC/USD", True),
        ("BTC/#", "BTC/USD", False),
        ("BTC/*", "BTC/USD", False),
        ("*", "order.update", False),
        ("*", "", False),
        ("#", "", True),
        ("order.update.*.kraken", "order.update.filled.kraken", True),
        ("order.*.filled.#", "order.update.filled.kraken", True),
        ("order.update.*", "order.update.filled.kraken", False),
        ("order.#", "order", True),
    ],
)
async def test_topics_route_as_the_pure_matching_says(
    bus: Bus, pattern: str, key: str, expected: bool
) -> None:
    await bus.subscribe(LISTENER_QUEUE, frozenset({Binding(exchange=ORDERS, pattern=pattern)}))

    routed = await bus.publish(Message(exchange=ORDERS, routing_key=key, body=b""), mandatory=True)

    assert routed is expected
    assert matches(pattern, key) is expected


async def test_a_message_arrives_as_it_was_sent(bus: Bus, other_bus: Bus) -> None:
    subscription = await other_bus.subscribe(
        LISTENER_QUEUE, frozenset({Binding(exchange=ORDERS, pattern="order.#")})
    )
    body = bytes(range(256)) * 1_000

    await bus.publish(
        Message(
            exchange=ORDERS,
            routing_key="order.update.filled.kraken",
            body=body,
            headers={EVENT_ID_HEADER: "7", "note": "Zürich"},
            persistent=True,
        )
    )

    [delivery] = await receive(subscription, 1)
    assert delivery.exchange == ORDERS
    assert delivery.routing_key == "order.update.filled.kraken"
    assert delivery.body == body
    assert delivery.headers == {EVENT_ID_HEADER: "7", "note": "Zürich"}
    assert not delivery.redelivered


async def test_every_subscriber_gets_every_message(bus: Bus, other_bus: Bus) -> None:
    subscriptions = [
        await bus.subscribe(TICK_QUEUE, ALL_TICKS),
        await bus.subscribe(TICK_QUEUE, ALL_TICKS),
        await other_bus.subscribe(TICK_QUEUE, ALL_TICKS),
    ]

    await bus.publish_all([tick(number) for number in range(3)])

    for subscription in subscriptions:
        assert bodies(await receive(subscription, 3)) == [b"0", b"1", b"2"]


async def test_a_message_that_matches_two_bindings_arrives_once(bus: Bus) -> None:
    bindings = ALL_TICKS | {Binding(exchange=PRICE_UPDATES, pattern="BTC/USD")}
    subscription = await bus.subscribe(TICK_QUEUE, bindings)

    await bus.publish(tick("once"))
    await bus.publish(tick("end"))

    assert bodies(await receive(subscription, 2)) == [b"once", b"end"]


async def test_order_is_kept_per_publisher(bus: Bus, other_bus: Bus) -> None:
    subscription = await bus.subscribe(TICK_QUEUE, ALL_TICKS)

    await asyncio.gather(
        bus.publish_all([tick(number, "A") for number in range(300)]),
        other_bus.publish_all([tick(number, "B") for number in range(300)]),
    )

    received = await receive(subscription, 600)
    for pair in ("A", "B"):
        numbers = [int(delivery.body) for delivery in received if delivery.routing_key == pair]
        assert numbers == list(range(300))


async def test_publish_all_gives_a_result_per_message(bus: Bus) -> None:
    await bus.subscribe(TICK_QUEUE, frozenset({Binding(exchange=PRICE_UPDATES, pattern="BTC/USD")}))

    results = await bus.publish_all([tick(1), tick(2, "ETH/USD"), tick(3)], mandatory=True)

    assert results == [True, False, True]


async def test_a_message_that_no_queue_takes_is_reported_if_mandatory(bus: Bus) -> None:
    assert await bus.publish(tick(1), mandatory=True) is False
    assert await bus.publish(tick(1)) is True

    await bus.subscribe(TICK_QUEUE, ALL_TICKS)

    assert await bus.publish(tick(1), mandatory=True) is True


async def test_rebinding_adds_and_removes_and_keeps_what_waits(bus: Bus) -> None:
    bindings = {pair: Binding(exchange=PRICE_UPDATES, pattern=pair) for pair in ("A", "B", "C")}
    subscription = await bus.subscribe(TICK_QUEUE, frozenset({bindings["A"], bindings["B"]}))
    await bus.publish(tick("before", "A"))

    await subscription.rebind(frozenset({bindings["B"], bindings["C"]}))

    results = await bus.publish_all([tick(pair, pair) for pair in "ABC"], mandatory=True)
    assert results == [False, True, True]
    assert bodies(await receive(subscription, 3)) == [b"before", b"B", b"C"]


# Acknowledgement, limits and age


async def test_what_is_given_back_comes_again_as_redelivered(bus: Bus) -> None:
    subscription = await bus.subscribe(TICK_QUEUE, ALL_TICKS)
    await bus.publish_all([tick(number) for number in range(4)])
    held = await hold(subscription, 4)

    await subscription.requeue(held[1:3])

    again = await receive(subscription, 2)
    assert bodies(again) == [b"1", b"2"]
    assert [delivery.redelivered for delivery in [*held, *again]] == [False] * 4 + [True] * 2


async def test_acknowledging_twice_or_out_of_order_harms_nothing(bus: Bus) -> None:
    subscription = await bus.subscribe(TICK_QUEUE, ALL_TICKS, prefetch=5)
    await bus.publish_all([tick(number) for number in range(5)])
    held = await hold(subscription, 5)

    await subscription.acknowledge([held[3], held[1]])
    await subscription.acknowledge([held[1]])
    await subscription.acknowledge(held)
    await subscription.acknowledge([])
    await bus.publish_all([tick(number) for number in range(5, 10)])

    assert bodies(await receive(subscription, 5)) == [b"5", b"6", b"7", b"8", b"9"]
    assert bus.connected


async def test_unacknowledged_messages_of_a_durable_queue_return_on_close(
    bus: Bus, other_bus: Bus, durable_queue: Queue
) -> None:
    subscription = await other_bus.subscribe(durable_queue, bindings_of(durable_queue))
    await bus.publish_all([to(durable_queue, number) for number in range(4)])
    held = await hold(subscription, 4)
    await subscription.acknowledge([held[1]])

    await other_bus.close()

    successor = await bus.subscribe(durable_queue, bindings_of(durable_queue))
    returned = await receive(successor, 3)
    assert bodies(returned) == [b"0", b"2", b"3"]
    assert all(delivery.redelivered for delivery in returned)


async def test_a_durable_queue_collects_while_nobody_listens(
    bus: Bus, durable_queue: Queue
) -> None:
    await (await bus.subscribe(durable_queue, bindings_of(durable_queue))).close()

    assert await bus.publish(to(durable_queue, "meanwhile"), mandatory=True)

    successor = await bus.subscribe(durable_queue, bindings_of(durable_queue))
    assert bodies(await receive(successor, 1)) == [b"meanwhile"]


async def test_consumers_of_one_queue_share_its_messages(
    bus: Bus, other_bus: Bus, durable_queue: Queue
) -> None:
    first = await bus.subscribe(durable_queue, bindings_of(durable_queue), prefetch=1)
    second = await other_bus.subscribe(durable_queue, bindings_of(durable_queue), prefetch=1)

    await bus.publish_all([to(durable_queue, 0), to(durable_queue, 1)])

    assert sorted(bodies([*await hold(first, 1), *await hold(second, 1)])) == [b"0", b"1"]


async def test_no_more_than_the_prefetch_limit_is_handed_over(bus: Bus) -> None:
    subscription = await bus.subscribe(TICK_QUEUE, ALL_TICKS, prefetch=2)
    await bus.publish_all([tick(number) for number in range(5)])

    held = await hold(subscription, 2)

    assert await ready(subscription) == 3
    await subscription.acknowledge(held)
    assert bodies(await receive(subscription, 3)) == [b"2", b"3", b"4"]


async def test_a_full_queue_drops_its_oldest_and_counts_them(bus: Bus) -> None:
    small = Queue(name=None, exclusive=True, durable=False, max_length=3)
    subscription = await bus.subscribe(small, ALL_TICKS, prefetch=1)
    await bus.publish(tick("in hand"))
    in_hand = await hold(subscription, 1)

    await bus.publish_all([tick(number) for number in range(5)])

    depth = await subscription.depth()
    assert depth.ready == 3
    assert depth.dropped in (2, None)
    await subscription.acknowledge(in_hand)
    assert bodies(await receive(subscription, 3)) == [b"2", b"3", b"4"]


async def test_what_waited_too_long_is_not_delivered(bus: Bus) -> None:
    brief = Queue(name=None, exclusive=True, durable=False, max_length=9, message_ttl_ms=50)
    subscription = await bus.subscribe(brief, ALL_TICKS, prefetch=1)
    await bus.publish(tick("in hand"))
    in_hand = await hold(subscription, 1)
    await bus.publish(tick("will expire"))

    async def expired() -> bool:
        return await ready(subscription) == 0

    await until(expired)
    await subscription.acknowledge(in_hand)
    # Published until one is taken in time: a busy machine may take longer than the limit.
    received: list[Delivery] = []
    async with asyncio.timeout(PATIENCE_SECS):
        while not received:
            await bus.publish(tick("fresh"))
            received = await subscription.batch()
    assert set(bodies(received)) == {b"fresh"}


# Dead letters


async def test_a_message_that_does_not_decode_is_set_aside_with_its_reason(
    bus: Bus, letters: DeadLetters
) -> None:
    subscription = await bus.subscribe(TICK_QUEUE, ALL_TICKS)
    await bus.publish(
        Message(
            exchange=PRICE_UPDATES,
            routing_key="BTC/USD",
            body=b'{"version": 99}',
            headers={EVENT_ID_HEADER: "42"},
        )
    )
    [delivery] = await hold(subscription, 1)

    with pytest.raises(UndecodableMessage) as undecodable:
        decode_tick(delivery.body)
    await dead_letter(bus, delivery, str(undecodable.value))
    await subscription.acknowledge([delivery])

    [letter] = await letters.peek()
    assert letter.reason == "version must be one of [1], was 99"
    assert (letter.exchange, letter.routing_key) == (PRICE_UPDATES, "BTC/USD")
    assert letter.body == b'{"version": 99}'
    assert letter.event_id == "42"
    assert letter.died_at_ms is not None


async def test_dead_letters_carry_their_origin_in_the_routing_key(
    bus: Bus, letters: DeadLetters
) -> None:
    ticks = await bus.subscribe(TICK_QUEUE, ALL_TICKS)
    watcher = await bus.subscribe(
        LISTENER_QUEUE, frozenset({Binding(exchange=DEAD_LETTERS, pattern="price_updates.*")})
    )
    await bus.publish(tick("junk"))
    [delivery] = await receive(ticks, 1)

    await dead_letter(bus, delivery, "no reason")

    [seen] = await receive(watcher, 1)
    assert seen.routing_key == "price_updates.BTC/USD"
    assert await letters.count() == 1


async def test_extreme_reasons_and_keys_are_cut_to_fit(bus: Bus, letters: DeadLetters) -> None:
    subscription = await bus.subscribe(TICK_QUEUE, ALL_TICKS)
    await bus.publish(tick(b"", pair="ü" * 127))
    [delivery] = await receive(subscription, 1)

    await dead_letter(bus, delivery, "\x00ß" * 1_000_000)

    [letter] = await letters.peek()
    assert letter.reason == "\x00ß" * 500
    assert letter.routing_key == "ü" * 127
    assert bus.connected


async def make_letters(bus: Bus, *texts: str) -> None:
    subscription = await bus.subscribe(TICK_QUEUE, ALL_TICKS)
    await bus.publish_all([tick(text) for text in texts])
    for delivery in await receive(subscription, len(texts)):
        await dead_letter(bus, delivery, f"reason of {delivery.body.decode()}")
    await subscription.close()


async def test_looking_at_dead_letters_changes_nothing(bus: Bus, letters: DeadLetters) -> None:
    await make_letters(bus, "a", "b", "c")

    first = await letters.peek(limit=2)

    async def all_back() -> bool:
        return await letters.count() == 3

    await until(all_back)
    again = await letters.peek()
    assert [letter.body for letter in again] == [b"a", b"b", b"c"]
    assert again[:2] == first
    assert len({letter.id for letter in again}) == 3


async def test_a_replayed_letter_goes_where_it_came_from(bus: Bus, letters: DeadLetters) -> None:
    await make_letters(bus, "a", "b", "c")
    chosen = (await letters.peek())[1]
    subscription = await bus.subscribe(TICK_QUEUE, ALL_TICKS)

    replayed = await letters.replay({chosen.id, "unheard-of"})

    assert (replayed.count, replayed.refused) == (1, ())
    [delivery] = await receive(subscription, 1)
    assert (delivery.routing_key, delivery.body) == ("BTC/USD", b"b")
    assert [letter.body for letter in await letters.peek()] == [b"a", b"c"]


async def test_letters_that_no_queue_takes_back_stay(bus: Bus, letters: DeadLetters) -> None:
    await make_letters(bus, "a")
    # As another program might put it there: without saying where it came from.
    await bus.publish(Message(exchange=DEAD_LETTERS, routing_key="elsewhere", body=b"foreign"))
    ids = tuple(letter.id for letter in await letters.peek())

    replayed = await letters.replay()

    assert (replayed.count, replayed.refused) == (0, ids)
    assert [letter.body for letter in await letters.peek()] == [b"a", b"foreign"]


async def test_chosen_letters_or_all_can_be_deleted(bus: Bus, letters: DeadLetters) -> None:
    await make_letters(bus, "a", "b", "c")
    chosen = (await letters.peek())[0]

    assert await letters.purge({chosen.id}) == 1
    assert [letter.body for letter in await letters.peek()] == [b"b", b"c"]

    async def both_back() -> bool:
        return await letters.count() == 2

    await until(both_back)
    assert await letters.purge() == 2
    assert await letters.peek() == []


async def test_looking_into_a_queue_that_does_not_exist_harms_nothing_else(bus: Bus) -> None:
    subscription = await bus.subscribe(TICK_QUEUE, ALL_TICKS)

    with pytest.raises(BrokerUnavailable):
        await DeadLetters(bus, "no-such-queue").count()

    await bus.publish(tick("still here"))
    assert bodies(await receive(subscription, 1)) == [b"still here"]


# Refusals and life


async def test_a_queue_with_other_properties_is_refused(bus: Bus, durable_queue: Queue) -> None:
    await (await bus.subscribe(durable_queue, bindings_of(durable_queue))).close()
    longer = Queue(name=key_of(durable_queue), exclusive=False, durable=True, max_length=2_000)

    with pytest.raises(Halt):
        await bus.subscribe(longer, bindings_of(durable_queue))

    # Nobody else is harmed for long: the bus stands again, and serves.
    subscription = await bus.subscribe(durable_queue, bindings_of(durable_queue))
    assert await bus.publish(to(durable_queue, "served"), mandatory=True)
    assert bodies(await receive(subscription, 1)) == [b"served"]


async def test_a_prefetch_limit_below_one_is_refused(bus: Bus) -> None:
    with pytest.raises(ValueError, match="prefetch must be at least 1"):
        await bus.subscribe(TICK_QUEUE, ALL_TICKS, prefetch=0)


async def test_publishing_without_a_connection_fails_at_once(bus_url: str) -> None:
    bus = bus_for(bus_url, name="test")
    states = [bus.connected]
    with pytest.raises(BrokerUnavailable):
        await bus.publish(tick(1))

    await bus.start()
    states.append(bus.connected)
    await bus.close()
    states.append(bus.connected)

    assert states == [False, True, False]
    with pytest.raises(BrokerUnavailable):
        await bus.publish(tick(1))
    results = await bus.publish_all([tick(1), tick(2)])
    assert [type(result) for result in results] == [BrokerUnavailable] * 2
    with pytest.raises(BrokerUnavailable):
        await bus.subscribe(TICK_QUEUE, ALL_TICKS)


async def test_closing_twice_is_harmless_and_ends_every_batch(bus_url: str) -> None:
    before = asyncio.all_tasks()
    bus = bus_for(bus_url, name="test")
    await bus.start()
    subscription = await bus.subscribe(TICK_QUEUE, ALL_TICKS)
    waiting = asyncio.create_task(subscription.batch())
    await asyncio.sleep(0)

    await bus.close()
    await bus.close()

    assert await waiting == []
    assert await subscription.batch() == []
    await subscription.close()
    assert asyncio.all_tasks() <= before


async def test_a_bus_that_never_started_can_be_closed(bus_url: str) -> None:
    bus = bus_for(bus_url, name="test")

    await bus.close()

    assert not bus.connected


async def test_a_closed_subscription_takes_its_exclusive_queue_along(bus: Bus) -> None:
    subscription = await bus.subscribe(TICK_QUEUE, ALL_TICKS)

    await subscription.close()

    assert await bus.publish(tick(1), mandatory=True) is False
    assert bus.connected


# Event queues: nothing is missed


@pytest.fixture
async def events(bus: Bus) -> AsyncIterator[Queue]:
    """An event queue of the test's own, which returns a message twice at most."""
    queue = event_queue(f"test-{uuid4().hex}", delivery_limit=2)
    yield queue
    async with bus.inspect(key_of(queue)) as inspection:
        await inspection.purge()


async def test_an_event_queue_collects_while_nobody_consumes(bus: Bus, events: Queue) -> None:
    first = await bus.subscribe(events, bindings_of(events))
    await first.close()
    results = await bus.publish_all([to(events, number) for number in range(50)], mandatory=True)
    assert results == [True] * 50

    again = await bus.subscribe(events, bindings_of(events))

    assert bodies(await receive(again, 50)) == [b"%d" % number for number in range(50)]


async def test_what_an_event_consumer_left_open_comes_again_first_and_in_order(
    bus: Bus, events: Queue
) -> None:
    first = await bus.subscribe(events, bindings_of(events))
    await bus.publish_all([to(events, number) for number in range(5)])
    held = await hold(first, 5)
    await first.acknowledge(held[:2])
    await first.close()
    await bus.publish(to(events, 5))

    second = await bus.subscribe(events, bindings_of(events))

    received = await receive(second, 4)
    assert bodies(received) == [b"2", b"3", b"4", b"5"]
    assert [delivery.redelivered for delivery in received] == [True, True, True, False]


async def test_event_consumers_take_turns(bus: Bus, other_bus: Bus, events: Queue) -> None:
    first = await bus.subscribe(events, bindings_of(events))
    second = await other_bus.subscribe(events, bindings_of(events))
    await bus.publish_all([to(events, number) for number in range(4)])
    assert bodies(await receive(first, 4)) == [b"0", b"1", b"2", b"3"]

    await first.close()
    await bus.publish(to(events, 4))

    assert bodies(await receive(second, 1)) == [b"4"]


async def test_a_poisonous_event_goes_to_the_dead_letters_and_the_next_ones_on(
    bus: Bus, events: Queue, letters: DeadLetters
) -> None:
    subscription = await bus.subscribe(events, bindings_of(events))
    poison = Message(
        exchange=ORDERS,
        routing_key=key_of(events),
        body=b"poison",
        headers={EVENT_ID_HEADER: "42"},
        persistent=True,
    )
    await bus.publish(poison)
    for redelivered in (False, True, True):
        [delivery] = await hold(subscription, 1)
        assert delivery.redelivered is redelivered
        await subscription.requeue([delivery])

    async def buried() -> bool:
        return await letters.count() == 1

    await until(buried)
    [letter] = await letters.peek()
    assert letter.reason == "delivery_limit"
    assert (letter.exchange, letter.routing_key) == (ORDERS, key_of(events))
    assert (letter.body, letter.event_id) == (b"poison", "42")
    assert letter.died_at_ms is not None
    await bus.publish(to(events, "next"))
    assert bodies(await receive(subscription, 1)) == [b"next"]

    replayed = await letters.replay({letter.id})

    assert replayed.count == 1
    [delivery] = await receive(subscription, 1)
    assert (delivery.body, delivery.headers[EVENT_ID_HEADER]) == (b"poison", "42")


async def test_poison_can_be_selected_by_its_queue(
    bus: Bus, events: Queue, letters: DeadLetters
) -> None:
    watcher = await bus.subscribe(
        LISTENER_QUEUE,
        frozenset({Binding(exchange=DEAD_LETTERS, pattern=poison_key(key_of(events)))}),
    )
    subscription = await bus.subscribe(events, bindings_of(events))
    await bus.publish(to(events, "poison"))
    for _ in range(3):
        await subscription.requeue(await hold(subscription, 1))

    assert bodies(await receive(watcher, 1)) == [b"poison"]
    assert await letters.count() == 1


async def test_a_full_event_queue_refuses_and_keeps_what_it_has(bus: Bus, events: Queue) -> None:
    small = replace(events, max_length=10)
    subscription = await bus.subscribe(small, bindings_of(small))
    await subscription.close()
    taken: list[bytes] = []

    async def refused() -> bool:
        # RabbitMQ lets a few more in than it says: its limit is soft.
        number = len(taken)
        try:
            await bus.publish(to(small, number))
        except BrokerUnavailable:
            return True
        taken.append(b"%d" % number)
        return False

    await until(refused)
    assert len(taken) >= 10

    again = await bus.subscribe(small, bindings_of(small))

    assert bodies(await receive(again, len(taken))) == taken
