"""Two whole price streams on real servers: the leader dies, freezes, stops, or loses the database.

Processes where only a process will do (kill -9, SIGSTOP), services in this process elsewhere.
"""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from sqlalchemy import select

from ecosystem.venue_simulator import SimulatorOptions, VenueSimulator
from price_stream.__main__ import build
from price_stream.service import PriceStreamService
from shared.bus import Bus, Subscription
from shared.bus.connect import bus_for
from shared.leases import LeaseEnd, LeaseKind
from shared.messages import Indicators, Tick, decode_tick
from shared.settings import Settings, load_settings
from shared.store import ticks, workers
from shared.store.engine import Store, connect
from shared.store.schema import migrate
from shared.store.tables import lease_grants
from shared.topology import LISTENER_QUEUE, PRICE_UPDATES, SYSTEM, Binding, health_key
from shared.venues import VENUES
from tests.servers import PrivateServer

ROOT: Final = Path(__file__).parents[2]
PATIENCE_SECS: Final = 60.0
SPEED: Final = 20.0
"""So fast the venues' clocks run, and with them the pace at which candles may be asked for."""

TTL_SECS: Final = 1.0
POLL_SECS: Final = 0.2
MARKETS: Final = {(venue.name, venue.reference_pair) for venue in VENUES.values()}
EVERYTHING: Final = frozenset(
    {
        Binding(exchange=PRICE_UPDATES, pattern="#"),
        Binding(exchange=SYSTEM, pattern=health_key("price_stream")),
    }
)


class Ear:
    """Hears every tick, and what the streams say of themselves."""

    def __init__(self, subscription: Subscription) -> None:
        self.ticks: list[Tick] = []
        self.streams: dict[str, Mapping[str, Any]] = {}
        self._subscription = subscription

    async def until(self, seen: Callable[[], bool]) -> None:
        """Listen until it is so."""
        async with asyncio.timeout(PATIENCE_SECS):
            while not seen():
                batch = await self._subscription.batch()
                for delivery in batch:
                    if delivery.exchange == PRICE_UPDATES:
                        self.ticks.append(decode_tick(delivery.body))
                    else:
                        beat = orjson.loads(delivery.body)
                        self.streams[beat["instance"]] = beat["facts"]
                await self._subscription.acknowledge(batch)

    async def pair(self) -> tuple[str, str]:
        """The instances of a leader and of a warm standby, once there are both."""
        await self.until(lambda: self._of("leading") is not None and self._warm())
        leader, standby = self._of("leading"), self._of("following")
        assert leader is not None
        assert standby is not None
        return leader, standby

    @property
    def epoch(self) -> int:
        """The highest that any tick carried."""
        return max((tick.stream_epoch for tick in self.ticks), default=0)

    def first_of(self, epoch: int) -> dict[tuple[str, str], Tick]:
        """Each market's first tick of an epoch."""
        return {tick.market: tick for tick in reversed(self.ticks) if tick.stream_epoch == epoch}

    async def successor(self, epoch: int) -> None:
        """Wait for another leader's first ticks, and see that nothing in them is missing."""
        await self.until(lambda: self.first_of(epoch).keys() == MARKETS)
        for tick in self.first_of(epoch).values():
            for name in Indicators.__slots__:
                assert getattr(tick.indicators, name) is not None, f"{name} of {tick.market}"
            assert tick.confidence is not None

    def _of(self, role: str) -> str | None:
        return next((one for one, facts in self.streams.items() if facts["role"] == role), None)

    def _warm(self) -> bool:
        standby = self._of("following")
        return standby is not None and self.streams[standby]["warm"] == len(MARKETS)


@pytest.fixture
async def venues() -> AsyncIterator[str]:
    """The URL of both simulated venues."""
    simulator = VenueSimulator(SimulatorOptions(speed=SPEED))
    await simulator.start()
    yield simulator.base_url
    await simulator.close()


@contextlib.asynccontextmanager
async def listening(broker_url: str) -> AsyncIterator[tuple[Bus, Ear]]:
    bus = bus_for(broker_url, name="test")
    await bus.start()
    try:
        yield bus, Ear(await bus.subscribe(LISTENER_QUEUE, EVERYTHING))
    finally:
        await bus.close()


def environment(database_url: str, broker_url: str, venues: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "RABBITMQ_URL": broker_url,
        "BOTFLEET_KRAKEN_URL": venues,
        "BOTFLEET_BINANCE_URL": venues,
        "BOTFLEET_LEASE_TTL_SECS": str(TTL_SECS),
        "BOTFLEET_POLL_INTERVAL_SECS": str(POLL_SECS),
    }


# As processes


@contextlib.asynccontextmanager
async def two_processes(variables: Mapping[str, str], folder: Path) -> AsyncIterator[None]:
    streams: list[Process] = []
    try:
        with (folder / "streams.log").open("wb") as log:
            for _ in range(2):
                streams.append(  # noqa: PERF401 - what was started must be ended
                    await asyncio.create_subprocess_exec(
                        *(sys.executable, "-m", "price_stream"),
                        cwd=folder,
                        env={**os.environ, **variables, "PYTHONPATH": str(ROOT)},
                        stderr=log,
                    )
                )
        yield
    finally:
        for stream in streams:
            with contextlib.suppress(ProcessLookupError):
                stream.kill()
            await stream.wait()


async def pid_of(store: Store, instance: str) -> int:
    async with store.read() as tx:
        beats = await workers.read(tx)
    return next(beat.process.pid for beat in beats if beat.process.instance == instance)


async def test_after_kill_9_the_standby_leads_with_every_indicator(
    postgres_store: Store,
    migrated_database_url: str,
    fresh_rabbitmq_url: str,
    venues: str,
    tmp_path: Path,
) -> None:
    variables = environment(migrated_database_url, fresh_rabbitmq_url, venues)
    async with listening(fresh_rabbitmq_url) as (_, ear), two_processes(variables, tmp_path):
        leader, standby = await ear.pair()
        epoch = ear.epoch
        os.kill(await pid_of(postgres_store, leader), signal.SIGKILL)
        await ear.successor(epoch + 1)
        await ear.until(lambda: ear.streams[standby]["role"] == "leading")
    assert (await grants(postgres_store))[-2:] == [(epoch, LeaseEnd.EXPIRED), (epoch + 1, None)]


async def test_a_frozen_leader_that_wakes_follows_the_one_that_took_over(
    postgres_store: Store,
    migrated_database_url: str,
    fresh_rabbitmq_url: str,
    venues: str,
    tmp_path: Path,
) -> None:
    variables = environment(migrated_database_url, fresh_rabbitmq_url, venues)
    async with listening(fresh_rabbitmq_url) as (_, ear), two_processes(variables, tmp_path):
        old, new = await ear.pair()
        epoch = ear.epoch
        frozen = await pid_of(postgres_store, old)
        os.kill(frozen, signal.SIGSTOP)
        await ear.successor(epoch + 1)
        heard = len(ear.ticks)
        os.kill(frozen, signal.SIGCONT)
        await ear.until(lambda: ear.streams[old]["role"] == "following")
        await ear.until(lambda: ear.streams[old]["stream_epoch"] == epoch + 1)
        assert {tick.stream_epoch for tick in ear.ticks[heard:]} <= {epoch + 1}
        async with postgres_store.read() as tx:
            assert {tick.stream_epoch for tick in await ticks.read(tx)} == {epoch + 1}

        os.kill(await pid_of(postgres_store, new), signal.SIGTERM)
        await ear.successor(epoch + 2)
    assert (await grants(postgres_store))[-2:] == [
        (epoch + 1, LeaseEnd.RELEASED),
        (epoch + 2, None),
    ]


# As services


@contextlib.asynccontextmanager
async def two_services(
    settings: Settings,
) -> AsyncIterator[dict[str, tuple[PriceStreamService, "asyncio.Task[None]"]]]:
    """Each with its own connections, by instance."""
    assert settings.database_url is not None
    assert settings.broker_url is not None
    async with contextlib.AsyncExitStack() as opened:
        services = {}
        for number in range(2):
            store = connect(settings.database_url, application_name=f"stream {number}")
            opened.push_async_callback(store.close)
            bus = bus_for(settings.broker_url, name=f"stream {number}")
            await bus.start()
            opened.push_async_callback(bus.close)
            service = await build(settings, bus=bus, store=store)
            task = asyncio.create_task(service.run(), name=f"stream {number}")
            opened.push_async_callback(asyncio.wait, {task})
            opened.callback(service.stop)
            services[service.instance] = service, task
        yield services
        assert not any(task.done() and task.exception() for _, task in services.values())


async def test_a_leader_that_stops_hands_over_at_once(
    postgres_store: Store, migrated_database_url: str, fresh_rabbitmq_url: str, venues: str
) -> None:
    # So long that nobody would look at the lease before the test gives up: it is the
    # announcement that wakes the standby.
    forever = {"BOTFLEET_LEASE_TTL_SECS": "300"}
    variables = environment(migrated_database_url, fresh_rabbitmq_url, venues) | forever
    async with (
        listening(fresh_rabbitmq_url) as (_, ear),
        two_services(settings_of(variables)) as services,
    ):
        leader, _ = await ear.pair()
        service, task = services[leader]
        async with asyncio.timeout(PATIENCE_SECS / 4):
            service.stop()
            await ear.successor(2)
            await task
        async with postgres_store.read() as tx:
            left = [beat.process.instance for beat in await workers.read(tx)]
        assert leader not in left
    assert (await grants(postgres_store))[:2] == [(1, LeaseEnd.RELEASED), (2, LeaseEnd.RELEASED)]


async def test_prices_go_on_without_the_database_and_one_leads_afterwards(
    killable_postgres: PrivateServer, venues: str
) -> None:
    await asyncio.to_thread(migrate, killable_postgres.url)
    broker_url = "memory://test_standby"
    variables = environment(killable_postgres.url, broker_url, venues)
    async with listening(broker_url) as (_, ear), two_services(settings_of(variables)):
        await ear.pair()
        epoch = ear.epoch
        await asyncio.to_thread(killable_postgres.kill)
        over_ms = ear.ticks[-1].observed_at_ms + 3000 * TTL_SECS
        await ear.until(lambda: ear.ticks[-1].observed_at_ms > over_ms)
        assert ear.epoch == epoch
        await asyncio.to_thread(killable_postgres.start)
        await ear.until(lambda: ear.epoch > epoch)
        ear.streams.clear()
        await ear.pair()
        await ear.until(
            lambda: {facts["stream_epoch"] for facts in ear.streams.values()} == {ear.epoch}
        )


def settings_of(variables: Mapping[str, str]) -> Settings:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return load_settings()


async def grants(store: Store) -> list[tuple[int, str | None]]:
    """(epoch, why it ended) of every grant of the lead, oldest first."""
    query = (
        select(lease_grants.c.epoch, lease_grants.c.ended_why)
        .where(lease_grants.c.kind == LeaseKind.PRICE_STREAM)
        .order_by(lease_grants.c.epoch)
    )
    async with store.read() as tx:
        return [(row.epoch, row.ended_why) for row in await tx.execute(query)]
