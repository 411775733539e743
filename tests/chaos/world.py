"""A whole fleet of real processes on servers of its own, every connection through a proxy."""

import asyncio
import contextlib
import itertools
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import asyncpg  # type: ignore[import-untyped]

from tests.acceptance.fleet import Fleet, Member, fleet_of
from tests.acceptance.live_fleet import LiveFleet
from tests.chaos.customers import customers_of, start_bots
from tests.chaos.plan import LINKS
from tests.chaos.proxy import Proxy
from tests.chaos.records import Records
from tests.servers import PrivateServer

NO_DATABASE: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
LOOK_AFTER_SECS: Final = 0.5

_URL_OF: Final[Mapping[str, str]] = {
    "amqp": "RABBITMQ_URL",
    "postgres": "DATABASE_URL",
    "kraken": "BOTFLEET_KRAKEN_URL",
    "binance": "BOTFLEET_BINANCE_URL",
}


@dataclass(slots=True, kw_only=True)
class Slot:
    """A place in the fleet where one process runs, whichever it is at the moment.

    Whoever stops, kills or freezes the process holds `busy`; while nobody does, a process that
    ends is started again, as a supervisor would.
    """

    name: str
    service: str
    links: Mapping[str, Proxy]
    member: Member | None = None
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def running(self) -> bool:
        return self.member is not None and self.member.running

    @property
    def command(self) -> Sequence[str]:
        return ("worker", self.name) if self.service == "trade_worker" else ("price-stream",)

    def environment(self) -> dict[str, str]:
        return {_URL_OF[link]: proxy.url for link, proxy in self.links.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """A database and a broker that may be killed."""

    postgres: PrivateServer
    rabbitmq: PrivateServer


class World:
    """The fleet, its servers, its venues, and hands to harm them with. `world_of` makes one."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        live: LiveFleet,
        records: Records,
        servers: Servers,
    ) -> None:
        self.fleet = fleet
        self.live = live
        self.records = records
        self.postgres = servers.postgres
        self.rabbitmq = servers.rabbitmq
        self.workers: list[Slot] = []
        self.streams: list[Slot] = []
        self.names = map(str, itertools.count(1))
        self._faults: list[Mapping[str, Any]] = []
        self._faults_lock = asyncio.Lock()

    @property
    def slots(self) -> list[Slot]:
        return [*self.workers, *self.streams]

    async def open_slot(self, name: str, service: str) -> Slot:
        """A place with proxies of its own, and nobody in it yet."""
        servers = {"amqp": self.rabbitmq.url, "postgres": self.postgres.url}
        urls = {link: servers.get(link, self.fleet.venues_url) for link in LINKS}
        slot = Slot(
            name=name, service=service, links={link: Proxy(url) for link, url in urls.items()}
        )
        for proxy in slot.links.values():
            await proxy.listen()
        (self.workers if service == "trade_worker" else self.streams).append(slot)
        return slot

    async def start(self, slot: Slot, *, failpoint: str | None = None) -> Member:
        """Start the slot's process. With a failpoint (`NAME=ACTION`), one that has it set."""
        slot.member = await self.spawn(slot, failpoint=failpoint)
        return slot.member

    async def spawn(self, slot: Slot, *, failpoint: str | None = None) -> Member:
        """Start a process as the slot's would be, without making it the slot's."""
        entry = ["-m", "console"]
        if failpoint is not None:
            entry = ["-m", "tests.chaos.member", "--failpoint", failpoint]
        return await self.fleet.start(
            f"{slot.service}-{slot.name}", *entry, *slot.command, environment=slot.environment()
        )

    async def kill(self, slot: Slot) -> None:
        """kill -9, and wait until it is gone."""
        if slot.member is not None and slot.member.running:
            slot.member.signal(signal.SIGKILL)
            await slot.member.ended()

    async def look_after(self) -> None:
        """Start again what has ended by itself, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_AFTER_SECS)
            for slot in self.slots:
                if not slot.busy.locked() and not slot.running:
                    await self._start_again(slot)

    async def query(self, statement: str, *arguments: object) -> list[Mapping[str, Any]]:
        """Rows of the database, directly. Raises one of `NO_DATABASE` while it is away."""
        connection = await asyncpg.connect(self.postgres.url, timeout=2)
        try:
            return list(await connection.fetch(statement, *arguments, timeout=2))
        finally:
            connection.terminate()

    async def owner_of(self, slot: Slot) -> str | None:
        """As which owner of leases the slot's process is known, if it is and anybody knows."""
        if slot.member is None:
            return None
        statement = "SELECT name, instance FROM workers WHERE kind = $1 AND pid = $2"
        with contextlib.suppress(*NO_DATABASE):
            for row in await self.query(statement, slot.service, slot.member.pid):
                return f"{row['name']} ({row['instance']})"
        return None

    async def leading_stream(self) -> Slot | None:
        """The price stream that leads; None: nobody knows."""
        statement = """
            SELECT pid FROM leases JOIN workers USING (kind)
            WHERE kind = 'price_stream' AND position(instance in owner) > 0
                AND expires_at > clock_timestamp()
        """
        with contextlib.suppress(*NO_DATABASE):
            pids = {row["pid"] for row in await self.query(statement)}
            for slot in self.streams:
                if slot.member is not None and slot.member.pid in pids:
                    return slot
        return None

    async def break_venues(self, faults: Sequence[Mapping[str, Any]]) -> None:
        async with self._faults_lock:
            for fault in faults:
                self._faults.append(fault)
                await self.live.break_venue(**fault)

    async def mend_venues(self, faults: Sequence[Mapping[str, Any]]) -> None:
        """Take back these faults; the others stay."""
        async with self._faults_lock:
            for fault in faults:
                self._faults.remove(fault)
            for venue in {fault["venue"] for fault in faults}:
                url = f"{self.fleet.venues_url}/simulator/faults?venue={venue}"
                async with aiohttp.ClientSession() as session, session.delete(url) as reply:
                    reply.raise_for_status()
                for fault in self._faults:
                    if fault["venue"] == venue:
                        await self.live.break_venue(**fault)

    async def close(self) -> None:
        for slot in self.slots:
            for proxy in slot.links.values():
                await proxy.close()

    async def _start_again(self, slot: Slot) -> None:
        async with slot.busy:
            if slot.running or slot.member is None:
                return
            code = await slot.member.ended()
            lines = slot.member.text().strip().splitlines()
            last = next((line for line in reversed(lines) if not line.startswith("{")), "")
            self.records.came_back.append(f"{slot.member.log.name} ended with {code}: {last}")
            await self.start(slot)


@asynccontextmanager
async def world_of(
    records: Records, servers: Servers, *, users: int, paper_users: int, workers: int, streams: int
) -> AsyncIterator[World]:
    """A world where everything runs and the bots trade, in the folder of the records. Its
    processes are gone at the end; the servers stay."""
    async with fleet_of(
        records.folder,
        database_url=servers.postgres.url,
        broker_url=servers.rabbitmq.url,
        lease_ttl_secs=records.lease_ttl_secs,
        poll_secs=records.poll_secs,
    ) as fleet:
        live = await customers_of(fleet, records, users=users, paper_users=paper_users)
        world = World(fleet=fleet, live=live, records=records, servers=servers)
        try:
            for number in range(streams):
                await world.start(await world.open_slot(f"stream-{number}", "price_stream"))
            for _ in range(workers):
                await world.start(await world.open_slot(next(world.names), "trade_worker"))
            await start_bots(fleet)
            closed = "SELECT count(*) FROM positions WHERE status = 'closed' AND mode = 'live'"
            await live.until(closed, at_least=users)
            yield world
        finally:
            await world.close()
