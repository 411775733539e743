"""`python -m trade_worker [WORKER_ID]`: the same as `botfleet worker [WORKER_ID]`."""

import logging
import os
import socket
import sys
from typing import Final
from uuid import uuid4

from shared.bus import Bus
from shared.orders import Mode
from shared.settings import Settings
from shared.store import fleet
from shared.store.engine import Store
from shared.store.workers import Process, ProcessKind
from shared.venues import VENUES
from trade_worker.egress import Egress
from trade_worker.key_ring import KeyRing
from trade_worker.live_trading import LiveAccess
from trade_worker.venues import OrderPort
from trade_worker.venues.paper import PaperOrders
from trade_worker.worker import Worker

log = logging.getLogger(__name__)

LEAST_LIVE_LEASE_SECS: Final = 4.5
"""Kraken takes no order with less than 2 s left, and an order's time ends 0.5 s before its lease
may: just before a renewal, two thirds of the lease are left."""


async def build(
    settings: Settings, *, bus: Bus, store: Store, worker_id: str | None = None
) -> Worker:
    """A worker on an open database and a started bus. Without an id it is named after the host."""
    instance = uuid4().hex[:8]
    host = socket.gethostname()
    async with store.read() as tx:
        namespace = (await fleet.read(tx)).namespace
    live = None if store.dialect == "sqlite" else live_access(settings, store, host=host)
    ports: dict[Mode, OrderPort] = {Mode.PAPER: PaperOrders()}
    if live is not None:
        ports[Mode.LIVE] = live.port
        if settings.lease_ttl_secs < LEAST_LIVE_LEASE_SECS:
            log.warning(
                "BOTFLEET_LEASE_TTL_SECS=%g leaves real orders at Kraken too little time to be "
                "sent, those that sell as well: use 5 or more",
                settings.lease_ttl_secs,
            )
    return Worker(
        store=store,
        bus=bus,
        process=Process(
            kind=ProcessKind.TRADE_WORKER,
            name=worker_id or f"{host}-{instance}",
            instance=instance,
            host=host,
            pid=os.getpid(),
        ),
        namespace=namespace,
        ports=ports,
        lease_ttl_secs=settings.lease_ttl_secs,
        outbox_keep_secs=settings.outbox_keep_secs,
        live=live,
    )


def live_access(settings: Settings, store: Store, *, host: str) -> LiveAccess | None:
    """How real orders reach the venues; None without a vault key: then nothing is live here."""
    from shared.vault import vault_of

    vault = vault_of(settings)
    if vault is None:
        return None
    # ccxt costs a third of a second and 50 MB: a fleet on paper does without.
    from trade_worker.venues.limiter import Limiter
    from trade_worker.venues.live import LiveOrders

    keys = KeyRing(store, vault)
    proxy_url = None if settings.proxy_url is None else settings.proxy_url.get_secret_value()
    egress = Egress(store, host=host, proxy_url=proxy_url, alive_secs=settings.lease_ttl_secs)
    return LiveAccess(
        port=LiveOrders(
            urls={venue: settings.venue_url(venue) for venue in VENUES},
            keys=keys.open,
            limiters={
                name: Limiter(venue, sharers=lambda: egress.sharers)
                for name, venue in VENUES.items()
            },
            proxy_url=proxy_url,
        ),
        keys=keys,
        egress=egress,
    )


if __name__ == "__main__":
    from console.__main__ import botfleet

    botfleet(["worker", *sys.argv[1:]])
