"""`python -m trade_worker [WORKER_ID]`: the same as `botfleet worker [WORKER_ID]`."""

import os
import socket
import sys
from uuid import uuid4

from shared.bus import Bus
from shared.orders import Mode
from shared.settings import Settings
from shared.store import fleet
from shared.store.engine import Store
from shared.store.workers import Process, ProcessKind
from trade_worker.venues.paper import PaperOrders
from trade_worker.worker import Worker


async def build(
    settings: Settings, *, bus: Bus, store: Store, worker_id: str | None = None
) -> Worker:
    """A worker on an open database and a started bus. Without an id it is named after the host."""
    instance = uuid4().hex[:8]
    host = socket.gethostname()
    async with store.read() as tx:
        namespace = (await fleet.read(tx)).namespace
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
        ports={Mode.PAPER: PaperOrders()},
        lease_ttl_secs=settings.lease_ttl_secs,
        outbox_keep_secs=settings.outbox_keep_secs,
    )


if __name__ == "__main__":
    from console.__main__ import botfleet

    botfleet(["worker", *sys.argv[1:]])
