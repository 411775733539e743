"""From the outbox to the broker: at least once, each bot's events in the order of what happened."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from shared import failpoints
from shared.bus import Bus, Message
from shared.errors import BrokerUnavailable, StoreUnavailable
from shared.failpoints import Point
from shared.store import outbox
from shared.store.engine import Store
from shared.store.outbox import Event
from shared.topology import EVENT_ID_HEADER

log = logging.getLogger(__name__)

PAGE: Final = 1_000
_LOOK_AGAIN_SECS: Final = 1.0
_LONGEST_PAUSE_SECS: Final = 5.0


class Relay:
    """Publishes the unsent events of this worker's shards. One task runs `run`."""

    def __init__(self, store: Store, bus: Bus, *, shards: Callable[[], frozenset[int]]) -> None:
        self._store = store
        self._bus = bus
        self._shards = shards
        self._wake = asyncio.Event()
        self._relaying = asyncio.Lock()
        """Two at once would publish the same events twice."""
        self.sent = 0

    def wake(self) -> None:
        """Events were written: look now."""
        self._wake.set()

    async def run(self) -> None:
        """Relay until cancelled. A broker or database that is away is waited for."""
        pause_secs = 0.0
        while True:
            await asyncio.sleep(pause_secs) if pause_secs else await self._woken()
            try:
                await self.relay()
            except (BrokerUnavailable, StoreUnavailable) as exc:
                if not pause_secs:
                    log.warning("events wait in the outbox: %s", exc)
                pause_secs = min(2 * pause_secs or 0.2, _LONGEST_PAUSE_SECS)
            else:
                if pause_secs:
                    log.info("events are relayed again")
                pause_secs = 0.0

    async def _woken(self) -> None:
        """Wait for a call of `wake`; now and then look without one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_AGAIN_SECS):
                await self._wake.wait()
        self._wake.clear()

    async def relay(self) -> None:
        """Publish what is unsent now. Raises `BrokerUnavailable` or `StoreUnavailable`.

        An event whose confirm failed is sent again, before any later one of its bot.
        """
        async with self._relaying:
            while shards := self._shards():
                async with self._store.read() as tx:
                    events = await outbox.unsent(tx, shards, limit=PAGE)
                if not events:
                    return
                await self._publish(events)

    async def _publish(self, events: Sequence[Event]) -> None:
        confirmed: list[int] = []
        errors: list[Exception] = []
        failpoints.hit(Point.BEFORE_RELAY)
        for wave in waves(events):
            results = await self._bus.publish_all([_message(event) for event in wave])
            for event, result in zip(wave, results, strict=True):
                if isinstance(result, Exception):
                    errors.append(result)
                else:
                    confirmed.append(event.id)
            if errors:
                break
        if confirmed:
            failpoints.hit(Point.AFTER_RELAY)
            async with self._store.begin() as tx:
                await outbox.mark_sent(tx, confirmed)
            self.sent += len(confirmed)
        if errors:
            raise errors[0]


def waves(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    """Runs of events, in order, with at most one of each bot: those may be published at once.

    What is published together may arrive although an earlier message of it was refused: a
    bot's next event waits for the confirm of its last.
    """
    start, bots = 0, set[int]()
    for at, event in enumerate(events):
        if event.bot_id in bots:
            yield events[start:at]
            start, bots = at, set()
        if event.bot_id is not None:
            bots.add(event.bot_id)
    if start < len(events):
        yield events[start:]


def _message(event: Event) -> Message:
    return Message(
        exchange=event.exchange,
        routing_key=event.routing_key,
        body=event.body.encode(),
        headers={EVENT_ID_HEADER: str(event.id)},
        persistent=True,
    )
