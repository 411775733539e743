"""What workers say and obey on `system` and `risk`, and what they clean, on both databases."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import func, insert, select, update

from shared.alerts import Alerts
from shared.bus import Bus, Delivery, Message, Subscription
from shared.bus.connect import bus_for
from shared.bus.dead_letters import DeadLetters
from shared.bus.memory import MemoryBroker, MemoryBus
from shared.errors import StoreUnavailable
from shared.leases import LeaseEnd, LeaseKind
from shared.reasons import Reason
from shared.signals import (
    Alert,
    Control,
    ControlVerb,
    Severity,
    decode_alert,
    decode_denied,
    encode,
)
from shared.store import outbox, workers
from shared.store import tables as t
from shared.store.engine import Store
from shared.store.workers import Process, ProcessKind
from shared.topology import LISTENER_QUEUE, RISK, SYSTEM, Binding, control_key
from tests.integration.trading_fleet import (
    PATIENCE_SECS,
    Prices,
    add_bots,
    end_leases,
    serving,
    spec,
    until,
)
from trade_worker.cleaning import BATCH, Cleaning
from trade_worker.denials import Denials
from trade_worker.unserved import UnservedShards

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


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


async def listen(bus: Bus, exchange: str, pattern: str) -> Subscription:
    return await bus.subscribe(
        LISTENER_QUEUE, frozenset({Binding(exchange=exchange, pattern=pattern)})
    )


async def next_where(heard: Subscription, wanted: Callable[[Delivery], bool]) -> Delivery:
    """The next message that is wanted; others are passed over."""
    async with asyncio.timeout(PATIENCE_SECS):
        while batch := await heard.batch():
            await heard.acknowledge(batch)
            for delivery in batch:
                if wanted(delivery):
                    return delivery
    raise AssertionError("the subscription was closed")


async def next_alert(heard: Subscription, code: str) -> Alert:
    return decode_alert((await next_where(heard, lambda d: decode_alert(d.body).code == code)).body)


def tell(bus: Bus, verb: ControlVerb, target: str | None = None) -> Awaitable[bool]:
    control = Control(verb=verb, target=target, at_ms=0)
    return bus.publish(
        Message(exchange=SYSTEM, routing_key=control_key(verb), body=encode(control))
    )


# Denied entries


async def test_denied_entries_are_told_per_venue_stage_and_reason(store: Store, bus: Bus) -> None:
    await add_bots(store, spec(0), spec(1))
    heard = await listen(bus, RISK, "risk.denied.*")
    prices = Prices(bus)
    counted: Counter[str] = Counter()
    async with serving(store, bus) as fleet:
        for judged in (1, 2, 3):
            await prices.publish(100.0, adx=10.0)
            await fleet.judges(judged)
        async with asyncio.timeout(PATIENCE_SECS):
            while counted.total() < 6:
                [delivery] = await heard.batch()
                await heard.acknowledge([delivery])
                assert delivery.routing_key == "risk.denied.kraken"
                denied = decode_denied(delivery.body)
                assert (denied.worker, denied.venue) == ("1", "kraken")
                assert denied.since_ms < denied.at_ms
                assert list(denied.counts) == ["health_gate"]
                counted.update(denied.counts["health_gate"])
    assert counted == {"adx_below_minimum": 6}


async def test_counts_wait_for_a_shard_and_for_the_database(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    denials = Denials(store, worker="1")
    denials.count("kraken", {Reason.TICK_STALE: 2, Reason.ENTRY_SIGNAL: 1})
    await denials.tell(frozenset())
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "write", _away)
        with pytest.raises(StoreUnavailable):
            await denials.tell(frozenset({4, 3}))
    denials.count("kraken", {Reason.TICK_STALE: 1, Reason.NO_MOMENTUM: 5})
    await denials.tell(frozenset({4, 3}))
    await denials.tell(frozenset({4, 3}))
    async with store.read() as tx:
        [event] = await outbox.unsent(tx)
    assert event.shard == 3
    assert decode_denied(event.body.encode()).counts == {
        "health_gate": {"tick_stale": 3},
        "entry_quality": {"no_momentum": 5},
    }


async def _away(*_args: object, **_kwargs: object) -> None:
    raise StoreUnavailable("the database is away")


# Alerts


async def test_a_worker_says_that_it_starts_and_stops(store: Store, bus: Bus) -> None:
    heard = await listen(bus, SYSTEM, "system.alert.info")
    async with serving(store, bus, name="7"):
        started = await next_alert(heard, "service_started")
        assert (started.service, started.severity) == ("trade_worker", Severity.INFO)
        assert started.text == "worker 7 has started"
    assert (await next_alert(heard, "service_stopped")).text == "worker 7 has stopped"


async def test_a_worker_says_that_its_leases_ran_out(store: Store, bus: Bus) -> None:
    await add_bots(store, spec())
    heard = await listen(bus, SYSTEM, "system.alert.warning")
    async with serving(store, bus, lease_ttl_secs=1.0) as fleet:
        await end_leases(store, new_owner="another")
        lost = await next_alert(heard, "leases_lost")
        assert lost.facts["count"] == 256
        fleet.worker.stop()


async def test_an_alert_waits_in_the_outbox_while_the_broker_is_away(store: Store) -> None:
    away = MemoryBus(MemoryBroker())
    alerts = Alerts(away, service="trade_worker", instance="1 (a)", store=store)
    alerts.tell(Severity.CRITICAL, "code", "text", number=3)
    await alerts.flush()
    async with store.read() as tx:
        [event] = await outbox.unsent(tx)
    assert (event.exchange, event.routing_key) == (SYSTEM, "system.alert.critical")
    assert decode_alert(event.body.encode()).facts == {"number": 3}


async def test_shards_that_nobody_takes_are_told_once_and_so_is_their_return(
    store: Store, bus: Bus
) -> None:
    heard = await listen(bus, SYSTEM, "system.alert.#")
    first = Process(kind=ProcessKind.TRADE_WORKER, name="1", instance="a", host="test", pid=1)
    async with store.begin() as tx:
        await workers.join(tx, first, in_place_of=None)
    alerts = Alerts(bus, service="trade_worker", instance=first.owner, store=store)
    # A lease time of no length: what is free at all is free for too long at the next look.
    watch = UnservedShards(store, alerts, owner=first.owner, lease_ttl_secs=0.0)
    silent = UnservedShards(store, alerts, owner="2 (b)", lease_ttl_secs=0.0)
    for _ in range(3):
        await keep_alive(store, first)
        await watch.look()
        await silent.look()
    await alerts.flush()
    told = await next_alert(heard, "shards_unserved")
    assert (told.severity, told.facts["count"]) == (Severity.CRITICAL, 256)
    async with store.begin() as tx:
        later = datetime.now(UTC) + timedelta(days=1)
        await tx.execute(update(t.leases).values(owner=first.owner, expires_at=later))
    await keep_alive(store, first)
    await watch.look()
    await alerts.flush()
    assert (await next_alert(heard, "shards_served")).severity is Severity.INFO


async def keep_alive(store: Store, process: Process) -> None:
    """Its heartbeat is of tomorrow, so that no lease time is too short for it."""
    async with store.begin() as tx:
        await tx.execute(
            update(t.workers)
            .where(t.workers.c.name == process.name)
            .values(heartbeat_at=datetime.now(UTC) + timedelta(days=1))
        )


# Control messages


async def test_a_reset_lets_a_lower_sequence_through(store: Store, bus: Bus) -> None:
    await add_bots(store, spec())
    prices = Prices(bus)
    async with serving(store, bus) as fleet:
        prices.sequence = 1_000
        await prices.publish(100.0, adx=10.0)
        await fleet.judges(1)
        prices.sequence = 0
        await prices.publish(100.0, adx=10.0)
        await fleet.until(lambda: fleet.ticks("outdated") == 1)
        await tell(bus, ControlVerb.RESET, "kraken/BTC/USD")

        async def judged() -> bool:
            # The message and the ticks come on queues of their own: in any order.
            await prices.publish(100.0, adx=10.0)
            return fleet.ticks("judged") > 1

        await until(judged)


async def test_a_shutdown_drains_whom_it_names_and_nobody_else(store: Store, bus: Bus) -> None:
    await add_bots(store, spec())
    async with serving(store, bus, name="first") as fleet:
        await tell(bus, ControlVerb.SHUTDOWN, "second")
        await tell(bus, ControlVerb.SHUTDOWN, "price_stream")
        await tell(bus, ControlVerb.SHUTDOWN, "first")
        async with asyncio.timeout(PATIENCE_SECS):
            await fleet.task
    async with store.read() as tx:
        held = await tx.scalar(select(func.count()).where(t.leases.c.owner.is_not(None)))
    assert held == 0


@pytest.mark.parametrize(
    ("key", "body", "reason"),
    [
        ("system.control.shutdown", b"{", "not JSON"),
        ("system.control.reset", b'{"verb": "shutdown", "version": 1, "at_ms": 1}', "routing key"),
        ("system.control.explode", b'{"verb": "explode", "version": 1, "at_ms": 1}', "verb must"),
    ],
)
async def test_a_control_message_that_makes_no_sense_is_set_aside_and_not_obeyed(
    store: Store, bus: Bus, key: str, body: bytes, reason: str
) -> None:
    letters = DeadLetters(bus)
    await letters.purge()
    await add_bots(store, spec())
    async with serving(store, bus) as fleet:
        await bus.publish(Message(exchange=SYSTEM, routing_key=key, body=body))

        async def set_aside() -> bool:
            return any(reason in letter.reason for letter in await letters.peek())

        await until(set_aside)
        assert not fleet.task.done()
    await letters.purge()


# Cleaning


async def put_events(store: Store, shard: int, count: int, *, sent: bool) -> None:
    row = {
        "shard": shard,
        "exchange": RISK,
        "routing_key": "k",
        "body": "{}",
        "sent_at": LONG_AGO if sent else None,
    }
    async with store.begin() as tx:
        await tx.execute(insert(t.outbox), [row] * count)


async def put_grant(
    store: Store, kind: LeaseKind, number: int, epoch: int, ended: datetime | None
) -> None:
    async with store.begin() as tx:
        await tx.execute(
            insert(t.lease_grants).values(
                kind=kind,
                number=number,
                epoch=epoch,
                owner="1 (a)",
                granted_until=ended,
                ended_why=None if ended is None else LeaseEnd.RELEASED,
            )
        )


async def test_old_events_of_own_shards_are_deleted_in_batches(store: Store) -> None:
    await put_events(store, 1, BATCH + 10, sent=True)
    await put_events(store, 1, 3, sent=False)
    await put_events(store, 2, 5, sent=True)
    cleaning = Cleaning(store, shards=lambda: frozenset({1}), outbox_keep_secs=3600)
    await cleaning.clean()
    assert cleaning.deleted == BATCH + 10
    async with store.read() as tx:
        left = Counter(await tx.scalars(select(t.outbox.c.shard)))
    assert left == {1: 3, 2: 5}


async def test_events_are_kept_for_as_long_as_was_set(store: Store) -> None:
    await put_events(store, 1, 3, sent=True)
    await Cleaning(store, shards=lambda: frozenset({1}), outbox_keep_secs=1e9).clean()
    async with store.read() as tx:
        assert await tx.scalar(select(func.count()).select_from(t.outbox)) == 3


@pytest.mark.parametrize(("shards", "left"), [({0, 1}, {4, 5, 6}), ({1}, {1, 4, 5, 6, 7})])
async def test_grants_that_ended_long_ago_are_deleted_and_no_others(
    store: Store, shards: set[int], left: set[int]
) -> None:
    now = datetime.now(UTC)
    await put_grant(store, LeaseKind.PRICE_STREAM, 0, 1, LONG_AGO)
    await put_grant(store, LeaseKind.SHARD, 1, 3, LONG_AGO)
    await put_grant(store, LeaseKind.SHARD, 1, 4, now - timedelta(days=6))
    await put_grant(store, LeaseKind.SHARD, 1, 5, None)
    await put_grant(store, LeaseKind.SHARD, 2, 6, LONG_AGO)
    await put_grant(store, LeaseKind.SHARD, 0, 7, LONG_AGO)
    await Cleaning(store, shards=lambda: frozenset(shards), outbox_keep_secs=0).clean()
    async with store.read() as tx:
        assert set(await tx.scalars(select(t.lease_grants.c.epoch))) == left
