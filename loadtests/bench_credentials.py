"""What many users' keys cost one worker in memory.

    python -m loadtests.bench_credentials [CREDENTIALS]

Half of the keys are Kraken's, half Binance's. Each is opened from the vault, takes its turn at
the limiter, signs one request for its balance through the pool of clients, and has something set
aside for an order. A server of this process on the loopback interface answers. The markets of a
venue are not loaded: all clients share one copy.
"""

import asyncio
import gc
import hashlib
import math
import multiprocessing
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import count
from typing import Final

from loadtests.bench_decide import resident_bytes
from shared.request_limits import Request
from shared.vault import ApiKey, Place, Sealed, Vault
from shared.venues import BINANCE, KRAKEN, Venue
from trade_worker.balances import Balances
from trade_worker.venues.limiter import Limiter, Priority

CREDENTIALS: Final = 10_000
AT_ONCE: Final = 200
"""More than a pool has clients: some wait for one."""

MASTER_KEYS: Final = {"bench": bytes(range(32))}
MOST_GROWTH_MB: Final = 200
POOL_SIZE: Final = 64
"""As `trade_worker.venues.clients.POOL_SIZE`."""

PATIENCE_SECS: Final = 300.0


class Server:
    """Answers every request with an empty account, and remembers whose key it was."""

    def __init__(self) -> None:
        self.keys: set[int] = set()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = dict(line.partition(b": ")[::2] for line in head.lower().split(b"\r\n"))
                await reader.readexactly(int(fields.get(b"content-length", b"0")))
                self.keys.add(hash(fields.get(b"api-key") or fields.get(b"x-mbx-apikey")))
                body = b'{"error": [], "result": {}, "balances": []}'
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    try:
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield server
    finally:
        listening.close()


class Keys:
    """The credentials table: `open` is what a worker's key ring does."""

    def __init__(self, sealed: Sequence[Sealed]) -> None:
        self._sealed = sealed
        self._vault = Vault(MASTER_KEYS)

    async def open(self, credential_id: int) -> ApiKey:
        return self._vault.open(self._sealed[credential_id], place_of(credential_id))


def venue_of(credential_id: int) -> Venue:
    return (KRAKEN, BINANCE)[credential_id % 2]


def place_of(credential_id: int) -> Place:
    return Place(
        user_id=credential_id,
        venue=venue_of(credential_id).name,
        credential_id=credential_id,
        version=1,
    )


def seal(credentials: int) -> list[Sealed]:
    """Keys as the database holds them. Another process seals them: what this leaves in memory
    is not the worker's."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(_seal, credentials).result()


def _seal(credentials: int) -> list[Sealed]:
    vault = Vault(MASTER_KEYS)
    return [vault.seal(key(number), place_of(number)) for number in range(credentials)]


def key(number: int) -> ApiKey:
    """As long as the venues' are; Kraken's secrets are base64."""
    digest = hashlib.sha512(str(number).encode()).hexdigest()
    return ApiKey(key=digest[:64], secret=digest[64:] + "A" * 20 + "====")


class Worker:
    """The parts of a worker that know its users' keys."""

    def __init__(self, url: str, sealed: Sequence[Sealed], *, pool_size: int) -> None:
        # Here, as it brings ccxt: a worker on paper does without.
        from trade_worker.venues.clients import ClientPool

        self.most_clients = 0
        self.answered = 0
        self.news = asyncio.Event()
        keys = Keys(sealed)
        self.pools = {
            venue.name: ClientPool(
                venue=venue, url=url, proxy_url=None, keys=keys.open, size=pool_size
            )
            for venue in (KRAKEN, BINANCE)
        }
        # A second for each request: the venues' real limits would take an hour.
        seconds = count()
        self._limiters = {
            venue.name: Limiter(venue, now_secs=lambda: float(next(seconds)))
            for venue in (KRAKEN, BINANCE)
        }
        self.balances = Balances(ask=self.ask, max_asks=AT_ONCE)

    async def ask(self, credential_id: int) -> Mapping[str, Decimal]:
        venue = venue_of(credential_id)
        limiter, pool = self._limiters[venue.name], self.pools[venue.name]
        turn = limiter.turn(
            str(credential_id), Priority.RECONCILE, Request.BALANCES, until_secs=math.inf
        )
        async with turn, pool.client(credential_id) as client:
            self.most_clients = max(self.most_clients, len(pool))
            if client.lane is None:
                reply = await client.call("account", {"timestamp": "1"}, method="GET")
            else:
                async with client.lane.turn(0):
                    reply = await client.call("Balance")
        self.answered += reply.status == 200
        self.news.set()
        return {"USD": Decimal(1_000), "BTC": Decimal("0.1")}


@asynccontextmanager
async def working(
    sealed: Sequence[Sealed], *, pool_size: int
) -> AsyncIterator[tuple[Server, Worker]]:
    """A worker with these keys, none of which it has used, and its venues."""
    async with serving() as server:
        worker = Worker(server.url, sealed, pool_size=pool_size)
        asking = asyncio.create_task(worker.balances.run())
        try:
            for pool in worker.pools.values():
                await pool.start()
            yield server, worker
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            for pool in worker.pools.values():
                await pool.close()


async def use_all(worker: Worker, credentials: int) -> None:
    """Use each key once. Raises `TimeoutError` if not all of them get an answer."""
    for credential_id in range(credentials):
        worker.balances.room_for(credential_id, "USD", Decimal(1))
        worker.balances.reserve(
            f"order {credential_id}", credential_id=credential_id, currency="USD", cost=Decimal(1)
        )
    async with asyncio.timeout(PATIENCE_SECS):
        while worker.answered < credentials:
            worker.news.clear()
            await worker.news.wait()


def resident_mb() -> float:
    gc.collect()
    return resident_bytes() / 1e6


async def measure(credentials: int) -> None:
    sealed = await asyncio.to_thread(seal, credentials)
    before = resident_mb()
    print(f"{'idle, without ccxt':<34}{before:>8.1f} MB")
    async with working(sealed, pool_size=POOL_SIZE) as (server, worker):
        print(f"{'live, no key used yet':<34}{resident_mb() - before:>+8.1f} MB")
        start = time.perf_counter()
        await use_all(worker, credentials)
        took = time.perf_counter() - start
        growth = resident_mb() - before
        print(f"{f'{credentials:,} keys used':<34}{growth:>+8.1f} MB in {took:.1f} s")
        print(f"most clients in a pool: {worker.most_clients} of {POOL_SIZE}")
        print(f"different keys that the server saw: {len(server.keys):,}")
    if growth > MOST_GROWTH_MB or worker.most_clients > POOL_SIZE:
        sys.exit(f"too much: the bounds are {MOST_GROWTH_MB} MB and {POOL_SIZE} clients")


def main() -> None:
    asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else CREDENTIALS))


if __name__ == "__main__":
    main()
