"""A bounded number of clients for any number of keys."""

import asyncio
import hashlib
import heapq
import itertools
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from shared.vault import ApiKey
from shared.venues import Venue
from trade_worker.venues.lanes import Lane
from trade_worker.venues.wire import VenueClient, venue_session

POOL_SIZE: Final = 64

Keys = Callable[[int], Awaitable[ApiKey]]
"""The key of a credential, by its id. Raises `CredentialRefused` where there is none to use, and
`RetryLater` where it cannot be had now."""


def client_for(
    venue: Venue, *, url: str, key: ApiKey, session: aiohttp.ClientSession
) -> VenueClient:
    """A client of its own for a bare key, such as one that is being added.

    `session` is a `venue_session`. One call at a time.
    """
    return VenueClient(venue, url=url, key=key, session=session)


@dataclass(slots=True)
class _Slot:
    users: int = 0
    client: VenueClient | None = None
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)


class ClientPool:
    """One venue's clients, one per credential, at most `size` of them, and their one session.

    The client that was not used for the longest time makes room; one in use never does: who
    comes when all are in use waits. What must outlive a client, a Kraken key's nonces, does.
    Start it before use and close it after.
    """

    def __init__(
        self, *, venue: Venue, url: str, proxy_url: str | None, keys: Keys, size: int = POOL_SIZE
    ) -> None:
        self.venue = venue
        self._url = url
        self._proxy_url = proxy_url
        self._keys = keys
        self._size = size
        self._session: aiohttp.ClientSession | None = None
        self._slots: OrderedDict[int, _Slot] = OrderedDict()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._tickets = itertools.count()
        self._lanes: dict[bytes, Lane] = {}

    def __len__(self) -> int:
        return len(self._slots)

    async def start(self) -> None:
        self._session = venue_session(proxy_url=self._proxy_url)

    async def close(self) -> None:
        for slot in self._slots.values():
            _forget(slot)
        self._slots.clear()
        if self._session is not None:
            await self._session.close()
            self._session = None

    def public(self) -> VenueClient:
        """A client without a key, for public calls."""
        return VenueClient(self.venue, url=self._url, key=None, session=self.session)

    @asynccontextmanager
    async def client(self, credential_id: int, priority: int = 0) -> AsyncIterator[VenueClient]:
        """The credential's client, for as long as the block takes. Raises what `keys` raises.

        Where all clients are in use, the lowest `priority` goes first, then who came first.
        """
        slot = await self._hold(credential_id, priority)
        try:
            async with slot.opening:
                if slot.client is None:
                    slot.client = self._build(await self._keys(credential_id))
            yield slot.client
        finally:
            self._let_go(credential_id, slot)

    def drop(self, credential_id: int) -> None:
        """The credential changed or was refused: ask for its key anew next time."""
        slot = self._slots.pop(credential_id, None)
        if slot is not None:
            if not slot.users:
                _forget(slot)
            self._wake()

    def _build(self, key: ApiKey) -> VenueClient:
        lane = None
        if self.venue.name == "kraken":
            digest = hashlib.sha256(key.key.encode()).digest()[:16]
            lane = self._lanes.setdefault(digest, Lane())
        return VenueClient(self.venue, url=self._url, key=key, session=self.session, lane=lane)

    async def _hold(self, credential_id: int, priority: int) -> _Slot:
        ticket = priority, next(self._tickets)
        while (slot := self._slot(credential_id)) is None:
            room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (*ticket, room))
            try:
                await room
            except asyncio.CancelledError:
                if room.done() and not room.cancelled():
                    self._wake()
                raise
        slot.users += 1
        return slot

    def _slot(self, credential_id: int) -> _Slot | None:
        slot = self._slots.get(credential_id)
        if slot is None:
            if len(self._slots) >= self._size and not self._evict():
                return None
            slot = self._slots[credential_id] = _Slot()
        self._slots.move_to_end(credential_id)
        return slot

    def _evict(self) -> bool:
        for credential_id, slot in self._slots.items():
            if not slot.users:
                _forget(slot)
                del self._slots[credential_id]
                return True
        return False

    def _let_go(self, credential_id: int, slot: _Slot) -> None:
        slot.users -= 1
        if not slot.users:
            if self._slots.get(credential_id) is not slot:
                _forget(slot)
            self._wake()

    def _wake(self) -> None:
        while self._waiting:
            _, _, room = heapq.heappop(self._waiting)
            if not room.done():
                room.set_result(None)
                return

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session of all clients. Raises where the pool is not started."""
        if self._session is None:
            raise RuntimeError("start the pool of clients before using it")
        return self._session


def _forget(slot: _Slot) -> None:
    if slot.client is not None:
        slot.client.forget()
        slot.client = None
