"""The RabbitMQ bus when something breaks: the network, the broker, a queue, the credentials."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from uuid import uuid4

import aio_pika
import pytest

from shared.bus import Bus, Delivery, Message, Subscription, rabbitmq_link
from shared.bus.connect import bus_for
from shared.bus.rabbitmq import retry_delay_secs
from shared.errors import BrokerUnavailable, InvalidSettings, PublishTimeout
from shared.topology import (
    DEAD_LETTER_QUEUE,
    DEAD_LETTERS,
    ORDERS,
    PRICE_UPDATES,
    TICK_QUEUE,
    Binding,
    Queue,
)
from tests.relay import Relay
from tests.servers import PrivateServer

PATIENCE_SECS = 60.0
LOGGER = "shared.bus.rabbitmq"


def on_pair(*pairs: str) -> frozenset[Binding]:
    return frozenset(Binding(exchange=PRICE_UPDATES, pattern=pair) for pair in pairs)


def tick(body: str, pair: str = "BTC/USD") -> Message:
    return Message(exchange=PRICE_UPDATES, routing_key=pair, body=body.encode())


def bodies(deliveries: Iterable[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


@asynccontextmanager
async def opened(url: str, *, separate_publisher: bool = False) -> AsyncIterator[Bus]:
    bus = bus_for(url, name="test", separate_publisher=separate_publisher)
    try:
        await bus.start()
        yield bus
    finally:
        await bus.close()


@pytest.fixture
async def relay(rabbitmq_url: str) -> AsyncIterator[Relay]:
    async with Relay(rabbitmq_url) as relay:
        await relay.listen()
        yield relay


async def until_connected(bus: Bus, state: bool) -> None:
    async with asyncio.timeout(PATIENCE_SECS):
        while bus.connected is not state:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def next_one(subscription: Subscription) -> Delivery:
    async with asyncio.timeout(PATIENCE_SECS):
        batch = await subscription.batch()
    await subscription.acknowledge(batch)
    [delivery] = batch
    return delivery


async def assert_serves(bus: Bus, subscription: Subscription, pair: str = "BTC/USD") -> None:
    """Once connected: what is published is in the queue, and arrives."""
    await until_connected(bus, True)
    body = uuid4().hex
    assert await bus.publish(tick(body, pair), mandatory=True)
    assert (await next_one(subscription)).body == body.encode()


def said(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.getMessage() for record in caplog.records if record.name == LOGGER)


# The network


async def test_a_cut_connection_is_rebuilt_with_its_subscriptions(
    relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=LOGGER)
    async with opened(relay.url) as bus:
        subscription = await bus.subscribe(TICK_QUEUE, on_pair("BTC/USD"))

        relay.cut()
        await until_connected(bus, False)

        await assert_serves(bus, subscription)
    assert said(caplog, "lost the broker") == 1
    assert said(caplog, "is connected to the broker") == 2
    assert "guest:" not in caplog.text


async def test_bindings_changed_while_away_hold_when_back(relay: Relay) -> None:
    async with opened(relay.url) as bus:
        subscription = await bus.subscribe(TICK_QUEUE, on_pair("BTC/USD", "ETH/USD"))
        relay.cut()
        await until_connected(bus, False)

        await subscription.rebind(on_pair("ETH/USD", "SOL/USD"))

        await assert_serves(bus, subscription, "SOL/USD")
        await assert_serves(bus, subscription, "ETH/USD")
        assert await bus.publish(tick("unwanted"), mandatory=True) is False


async def test_deliveries_of_a_lost_connection_are_skipped_and_come_again(relay: Relay) -> None:
    queue = Queue(name=f"test-{uuid4().hex}", exclusive=False, durable=True, max_length=10)
    binding = Binding(exchange=ORDERS, pattern=queue.name or "")
    async with opened(relay.url) as bus:
        subscription = await bus.subscribe(queue, frozenset({binding}))
        await bus.publish(Message(exchange=ORDERS, routing_key=binding.pattern, body=b"1"))
        [delivery] = await subscription.batch()
        relay.cut()
        await until_connected(bus, False)
        await subscription.acknowledge([delivery])

        again = await next_one(subscription)
        await subscription.acknowledge([delivery])
        await subscription.requeue([delivery])

        assert (again.body, again.redelivered) == (b"1", True)
        await until_connected(bus, True)
        assert (await subscription.depth()).ready == 0
        assert bus.connected


async def test_a_silent_connection_is_noticed_by_the_probe(
    relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(relay.url) as bus:
        subscription = await bus.subscribe(TICK_QUEUE, on_pair("BTC/USD"))

        relay.silence()
        await until_connected(bus, False)

        with pytest.raises(BrokerUnavailable):
            await bus.publish(tick("nowhere"))
        with pytest.raises(BrokerUnavailable):
            await subscription.depth()
        relay.resume()
        await assert_serves(bus, subscription)
    assert said(caplog, "no probe came back within 3 s") == 1


async def test_a_pause_of_our_own_process_is_not_taken_for_a_silent_broker(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq_link, "PROBE_INTERVAL_SECS", 0.0)
    async with opened(relay.url) as bus:
        subscription = await bus.subscribe(TICK_QUEUE, on_pair("BTC/USD"))
        relay.silence()
        # One probe is out now: whatever this publish waits for was sent after it.
        with pytest.raises(PublishTimeout):
            await bus.publish(tick("later"), timeout_secs=0.05)

        time.sleep(sum(rabbitmq_link.PROBE_PATIENCE_SECS) + 0.2)  # noqa: ASYNC251 - the pause
        relay.resume()

        assert (await next_one(subscription)).body == b"later"
        await assert_serves(bus, subscription)
        assert relay.accepted == 1


async def test_a_publish_without_a_confirm_times_out(relay: Relay) -> None:
    async with opened(relay.url) as bus:
        relay.silence()

        with pytest.raises(PublishTimeout):
            await bus.publish(tick("lost?"), timeout_secs=0.1)
        results = await bus.publish_all([tick("1"), tick("2")], timeout_secs=0.1)

        assert [type(result) for result in results] == [PublishTimeout] * 2


async def test_publishes_under_way_fail_when_the_connection_breaks(relay: Relay) -> None:
    async with opened(relay.url) as bus:
        relay.silence()
        under_way = asyncio.create_task(
            bus.publish_all([tick(str(number)) for number in range(50)], timeout_secs=PATIENCE_SECS)
        )
        await asyncio.sleep(0)

        relay.cut()

        results = await under_way
        assert {type(result) for result in results} == {BrokerUnavailable}


async def test_closing_while_the_broker_is_silent_ends(relay: Relay) -> None:
    async with opened(relay.url) as bus:
        await bus.subscribe(TICK_QUEUE, on_pair("BTC/USD"))
        relay.silence()

        async with asyncio.timeout(PATIENCE_SECS):
            await bus.close()

        assert not bus.connected


@pytest.mark.parametrize(("separate_publisher", "connections"), [(False, 1), (True, 2)])
async def test_a_bus_takes_one_connection_or_two(
    relay: Relay, separate_publisher: bool, connections: int
) -> None:
    async with opened(relay.url, separate_publisher=separate_publisher) as bus:
        subscription = await bus.subscribe(TICK_QUEUE, on_pair("BTC/USD"))
        await assert_serves(bus, subscription)

        assert relay.accepted == connections


async def test_a_bus_can_be_closed_at_any_moment_of_its_recovery(relay: Relay) -> None:
    for steps in range(0, 400, 8):
        async with opened(relay.url) as bus:
            await bus.subscribe(TICK_QUEUE, on_pair("BTC/USD"))
            relay.cut()
            for _ in range(steps):
                await asyncio.sleep(0)

            async with asyncio.timeout(PATIENCE_SECS):
                await bus.close()


async def test_two_connections_are_rebuilt_as_one(relay: Relay) -> None:
    async with opened(relay.url, separate_publisher=True) as bus:
        subscription = await bus.subscribe(TICK_QUEUE, on_pair("BTC/USD"))

        relay.cut()
        await until_connected(bus, False)

        await assert_serves(bus, subscription)


# The start


async def test_start_waits_for_a_broker_that_is_away_and_says_so_once(
    rabbitmq_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Relay(rabbitmq_url) as relay:
        bus = bus_for(relay.url, name="test")
        starting = asyncio.create_task(bus.start())
        async with asyncio.timeout(PATIENCE_SECS):
            while not said(caplog, "waits for the broker"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not starting.done()

        await relay.listen()
        await starting

        assert bus.connected
        await bus.close()
    assert said(caplog, "waits for the broker") == 1
    assert "guest:" not in caplog.text


async def test_a_start_that_waits_can_be_cancelled(rabbitmq_url: str) -> None:
    before = asyncio.all_tasks()
    async with Relay(rabbitmq_url) as relay:
        bus = bus_for(relay.url, name="test")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await bus.start()
        await bus.close()
    assert asyncio.all_tasks() <= before


async def test_a_start_can_be_cancelled_while_the_broker_says_nothing(relay: Relay) -> None:
    relay.silence()
    bus = bus_for(relay.url, name="test")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await bus.start()
    await bus.close()
    assert relay.accepted == 1


async def test_wrong_credentials_halt_the_start_with_a_clear_text(rabbitmq_url: str) -> None:
    url = rabbitmq_url.replace("guest:guest@", "guest:hunter2@")

    with pytest.raises(InvalidSettings, match=r"refuses.*ACCESS_REFUSED") as refused:
        await bus_for(url, name="test").start()

    assert "hunter2" not in str(refused.value)


async def test_an_unknown_virtual_host_halts_the_start(rabbitmq_url: str) -> None:
    url = rabbitmq_url.rsplit("/", 1)[0] + "/no-such-host"

    with pytest.raises(InvalidSettings, match="no-such-host"):
        await bus_for(url, name="test").start()


@pytest.mark.parametrize(
    "url", ["", "http://u:hunter2@host", "amqp://", "amqp://u:hunter2@host:port/", "amqp"]
)
def test_a_url_that_is_no_broker_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InvalidSettings, match="the broker URL") as refused:
        bus_for(url, name="test")

    assert "hunter2" not in str(refused.value)


# The broker


async def test_a_consumer_that_the_broker_cancels_comes_back(rabbitmq_url: str) -> None:
    queue = Queue(name=f"test-{uuid4().hex}", exclusive=False, durable=True, max_length=10)
    foreign = await aio_pika.connect(rabbitmq_url)
    async with foreign, opened(rabbitmq_url) as bus:
        subscription = await bus.subscribe(queue, on_pair("BTC/USD"))
        channel = await foreign.channel()

        await channel.queue_delete(queue.name or "")
        await until_connected(bus, False)

        await assert_serves(bus, subscription)
        await channel.queue_delete(queue.name or "")


async def test_foreign_clients_see_and_send_plain_amqp(rabbitmq_url: str) -> None:
    foreign = await aio_pika.connect(rabbitmq_url)
    async with foreign, opened(rabbitmq_url) as bus:
        subscription = await bus.subscribe(TICK_QUEUE, on_pair("BTC/USD"))
        channel = await foreign.channel()
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(PRICE_UPDATES, "#")

        await bus.publish(tick("{}"))
        assert (await next_one(subscription)).body == b"{}"
        seen = await queue.get(timeout=PATIENCE_SECS)
        assert (seen.body, seen.content_type, seen.delivery_mode) == (b"{}", "application/json", 1)

        exchange = await channel.get_exchange(PRICE_UPDATES)
        await exchange.publish(
            aio_pika.Message(
                b"", headers={"count": 3, "deep": {"a": [1]}, "raw": bytearray(b"\xff")}
            ),
            "BTC/USD",
        )
        delivery = await next_one(subscription)
        assert delivery.body == b""
        assert delivery.headers["count"] == "3"
        assert all(isinstance(value, str) for value in delivery.headers.values())


async def test_a_killed_broker_comes_back_with_topology_and_subscriptions(
    killable_rabbitmq: PrivateServer,
) -> None:
    async with opened(killable_rabbitmq.url) as bus:
        ticks = await bus.subscribe(TICK_QUEUE, on_pair("BTC/USD"))
        letter = Message(exchange=DEAD_LETTERS, routing_key="x", body=b"kept", persistent=True)
        assert await bus.publish(letter, mandatory=True)

        await asyncio.to_thread(killable_rabbitmq.kill)
        await until_connected(bus, False)
        with pytest.raises(BrokerUnavailable):
            await bus.publish(tick("nowhere"))

        await asyncio.to_thread(killable_rabbitmq.start)
        await assert_serves(bus, ticks)
        async with bus.inspect(DEAD_LETTER_QUEUE.queue.name or "") as inspection:
            kept = await inspection.get()
            assert kept is not None
            assert kept.body == b"kept"


async def test_a_paused_broker_is_noticed_and_served_again(
    killable_rabbitmq: PrivateServer,
) -> None:
    async with opened(killable_rabbitmq.url) as bus:
        subscription = await bus.subscribe(TICK_QUEUE, on_pair("BTC/USD"))

        await asyncio.to_thread(killable_rabbitmq.stop)
        with pytest.raises(PublishTimeout):
            await bus.publish(tick("lost?"), timeout_secs=0.1)
        await until_connected(bus, False)

        await asyncio.to_thread(killable_rabbitmq.cont)
        await assert_serves(bus, subscription)


def test_retries_double_up_to_five_seconds_and_never_run_in_step() -> None:
    longest = [retry_delay_secs(attempt, 0.0) for attempt in range(8)]
    shortest = [retry_delay_secs(attempt, 1.0) for attempt in range(8)]

    assert longest == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    assert shortest == [delay / 2 for delay in longest]
