"""`python -m price_stream`: the same as `botfleet price-stream`."""

import os
import socket
import sys
from uuid import uuid4

from price_stream.feeds import CcxtFeed, request_timeout_secs
from price_stream.lead import Lead
from price_stream.service import PriceStreamService
from price_stream.stored_markets import StoredMarkets
from price_stream.stream import PriceStream
from shared.bus import Bus
from shared.settings import Settings
from shared.store.engine import Store
from shared.store.workers import Process, ProcessKind
from shared.venues import VENUES


async def build(settings: Settings, *, bus: Bus, store: Store) -> PriceStreamService:
    """A price stream on an open database and a started bus. It leads unless another does."""
    instance = uuid4().hex[:8]
    host = socket.gethostname()
    process = Process(
        kind=ProcessKind.PRICE_STREAM,
        name=f"{host}-{instance}",
        instance=instance,
        host=host,
        pid=os.getpid(),
    )
    lead = Lead(store, owner=process.owner, ttl_secs=settings.lease_ttl_secs)
    database = StoredMarkets(store)
    timeout_secs = request_timeout_secs(settings.poll_interval_secs)
    stream = PriceStream(
        feeds={
            venue: CcxtFeed(venue, url=settings.venue_url(venue.name), timeout_secs=timeout_secs)
            for venue in VENUES.values()
        },
        bus=bus,
        directory=database,
        archive=database,
        may_publish=lead.permits,
        instance=instance,
        poll_interval_secs=settings.poll_interval_secs,
    )
    return PriceStreamService(store=store, bus=bus, process=process, lead=lead, stream=stream)


if __name__ == "__main__":
    from console.__main__ import botfleet

    botfleet(["price-stream", *sys.argv[1:]])
