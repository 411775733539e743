"""Alerts of one service: handed in at once, sent in the background, kept if the broker is away."""

import asyncio
import logging
from collections import deque
from typing import Final

from shared.bus import Bus, Message
from shared.clock import wall_ms
from shared.errors import BrokerUnavailable, StoreUnavailable
from shared.signals import Alert, Severity, encode
from shared.store import outbox
from shared.store.engine import Store
from shared.topology import SYSTEM, alert_key

log = logging.getLogger(__name__)

MOST_WAITING: Final = 100
PUBLISH_TIMEOUT_SECS: Final = 1.0
RELAYED_BY_SHARD: Final = 0
"""An alert is about no bot, so about no shard: whoever serves this one relays it."""

_LEVELS: Final = {
    Severity.INFO: logging.INFO,
    Severity.WARNING: logging.WARNING,
    Severity.CRITICAL: logging.ERROR,
}


class Alerts:
    """Publishes alerts on `system`. One task runs `run`; whoever stops calls `flush` last.

    What the broker does not confirm goes to the outbox, whose relay sends it once the broker is
    back; with the database away too (or no `store` at all) the log has it and nobody else.
    """

    def __init__(
        self, bus: Bus, *, service: str, instance: str, store: Store | None = None
    ) -> None:
        self._bus = bus
        self._service = service
        self._instance = instance
        self._store = store
        self._waiting: deque[Alert] = deque(maxlen=MOST_WAITING)
        self._wake = asyncio.Event()

    def tell(self, severity: Severity, code: str, text: str, **facts: object) -> None:
        """Log an alert and hand it in. Of too many that wait the oldest go."""
        log.log(_LEVELS[severity], "%s", text)
        self._waiting.append(
            Alert(
                severity=severity,
                service=self._service,
                instance=self._instance,
                code=code,
                text=text,
                at_ms=wall_ms(),
                facts=facts,
            )
        )
        self._wake.set()

    async def run(self) -> None:
        """Send what is handed in, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        """Send what waits, in order, each within bounded time. Never raises."""
        while self._waiting:
            alert = self._waiting.popleft()
            key, body = alert_key(alert.severity), encode(alert)
            try:
                await self._bus.publish(
                    Message(exchange=SYSTEM, routing_key=key, body=body, persistent=True),
                    timeout_secs=PUBLISH_TIMEOUT_SECS,
                )
            except BrokerUnavailable:
                await self._keep(key, body.decode())

    async def _keep(self, key: str, body: str) -> None:
        if self._store is None:
            return
        try:
            async with self._store.begin() as tx:
                await outbox.write(
                    tx, shard=RELAYED_BY_SHARD, exchange=SYSTEM, routing_key=key, body=body
                )
        except StoreUnavailable as exc:
            log.debug("an alert reached nobody: %s", exc)
