"""Asking a venue with patience: a recovery has time, and must not give up over one bad reply."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from decimal import Decimal
from typing import Final, Protocol, TypeVar

from shared.clock import monotonic_secs
from shared.errors import VenueUnavailable
from shared.orders import LiveOrder
from trade_worker.venues import Report
from trade_worker.venues.listing import ListedOrder

T = TypeVar("T")

PATIENCE_SECS: Final = 120.0
"""How long a venue is asked again that does not answer a question."""

LISTING_TRIES: Final = 3
"""A venue may not list at all: then its ids are asked for one by one."""
LISTING_PAUSE_SECS: Final = 6.0
"""In which a key of Kraken's lowest tier gets two calls back: its first list costs three."""

PAUSE_SECS: Final = 1.0
_LONGEST_PAUSE_SECS: Final = 15.0


class AccountOrders(Protocol):
    """What is asked of a venue; `trade_worker.venues.live.LiveOrders` does it."""

    async def ask(self, order: LiveOrder) -> Report | None: ...
    async def balances(self, credential_id: int) -> Mapping[str, Decimal]: ...
    async def details(self, order: LiveOrder) -> ListedOrder: ...
    async def orders_since(
        self, credential_id: int, venue: str, pairs: Collection[str], *, since_ms: int
    ) -> list[ListedOrder]: ...


class PatientOrders:
    """The same questions, asked again while the venue is away; `VenueUnavailable` in the end."""

    def __init__(self, venue: AccountOrders, *, patience_secs: float = PATIENCE_SECS) -> None:
        self._venue = venue
        self._patience_secs = patience_secs

    async def ask(self, order: LiveOrder) -> Report | None:
        return await self._again(lambda: self._venue.ask(order))

    async def balances(self, credential_id: int) -> Mapping[str, Decimal]:
        return await self._again(lambda: self._venue.balances(credential_id))

    async def details(self, order: LiveOrder) -> ListedOrder:
        return await self._again(lambda: self._venue.details(order))

    async def orders_since(
        self, credential_id: int, venue: str, pairs: Collection[str], *, since_ms: int
    ) -> list[ListedOrder]:
        return await self._again(
            lambda: self._venue.orders_since(credential_id, venue, pairs, since_ms=since_ms),
            tries=LISTING_TRIES,
            # A key whose calls are used up has some again.
            first_pause_secs=LISTING_PAUSE_SECS,
        )

    async def _again(
        self,
        question: Callable[[], Awaitable[T]],
        *,
        tries: int | None = None,
        first_pause_secs: float = PAUSE_SECS,
    ) -> T:
        give_up_secs = monotonic_secs() + self._patience_secs
        pause_secs, asked = first_pause_secs, 0
        while True:
            try:
                return await question()
            except VenueUnavailable as exc:
                asked += 1
                wait_secs = max(pause_secs, exc.retry_after_secs or 0.0)
                late = monotonic_secs() + wait_secs > give_up_secs
                if late or (tries is not None and asked >= tries):
                    raise
            await asyncio.sleep(wait_secs)
            pause_secs = min(2 * pause_secs, _LONGEST_PAUSE_SECS)
