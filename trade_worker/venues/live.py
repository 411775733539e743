"""Real orders at Kraken and Binance: the order port for `Mode.LIVE`."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from decimal import Decimal

from shared.orders import Fill, Intent, LiveOrder
from shared.vault import ApiKey
from shared.venues import VENUES
from trade_worker.venues import KeyOf, Report, Sent, Verdict
from trade_worker.venues.limiter import Limiter
from trade_worker.venues.listing import ListedOrder
from trade_worker.venues.venue_desk import VenueDesk

log = logging.getLogger(__name__)


class LiveOrders:
    """A `VenueOrders` for all the venues of `urls`. Start it before use and close it after.

    Every call takes its own turn at the venue's limiter (`send` by the order's leg): whoever
    calls must not. An order whose credential, symbol or turn cannot be had is `not_sent`.
    """

    def __init__(
        self,
        *,
        urls: Mapping[str, str],
        keys: Callable[[int], Awaitable[KeyOf]],
        limiters: Mapping[str, Limiter],
        proxy_url: str | None,
    ) -> None:
        """`urls` (scheme and host) and `limiters` by venue. `keys` opens a credential by its id;
        it raises `CredentialRefused` where there is none to use, `RetryLater` where it cannot
        be had now. What it returns is kept as long as a client is."""
        self._keys = keys
        self._venues_of: dict[int, str] = {}
        self._desks = {
            name: VenueDesk(
                VENUES[name],
                url=url,
                keys=self._key,
                limiter=limiters[name],
                proxy_url=proxy_url,
            )
            for name, url in urls.items()
        }

    async def start(self) -> None:
        """Open the sessions, learn the venues' clocks and markets. A venue that is away delays
        it by `venue_desk.START_SECS` at most, and is asked again when it is needed."""
        await asyncio.gather(*(desk.start() for desk in self._desks.values()))

    async def close(self) -> None:
        """Ends what is on its way, with unknown outcome: let it finish first."""
        await asyncio.gather(*(desk.close() for desk in self._desks.values()))

    def fill_at_commit(self, intent: Intent) -> Sequence[Fill]:  # noqa: ARG002 - the port's
        return ()

    async def send(self, order: LiveOrder, *, send_by_secs: float) -> Sent:
        try:
            return await self._desks[order.venue].send(order, send_by_secs=send_by_secs)
        except Exception as exc:  # what is not foreseen may have happened after the request
            log.exception("sending order %s failed", order.client_order_id)
            return Sent(verdict=Verdict.UNKNOWN, text=type(exc).__name__)

    async def ask(self, order: LiveOrder) -> Report | None:
        return await self._desks[order.venue].ask(order)

    async def cancel(self, order: LiveOrder) -> None:
        await self._desks[order.venue].cancel(order)

    async def balances(self, credential_id: int) -> Mapping[str, Decimal]:
        venue = self._venues_of.get(credential_id)
        if venue is None:
            venue = (await self._opened(credential_id)).venue
        return await self._desks[venue].balances(credential_id)

    async def orders_since(
        self, credential_id: int, venue: str, pairs: Collection[str], *, since_ms: int
    ) -> list[ListedOrder]:
        """Every order on the account in these markets, opened since then, whoever placed it."""
        return await self._desks[venue].orders_since(credential_id, pairs, since_ms=since_ms)

    async def details(self, order: LiveOrder) -> ListedOrder:
        """What was asked for with an order whose `venue_order_id` is known."""
        return await self._desks[order.venue].details(order)

    async def _key(self, credential_id: int) -> ApiKey:
        return (await self._opened(credential_id)).key

    async def _opened(self, credential_id: int) -> KeyOf:
        opened = await self._keys(credential_id)
        self._venues_of[credential_id] = opened.venue
        return opened
