"""Follows which markets somebody needs, so that a new bot's market is in the next poll."""

import asyncio
import logging
from typing import Final

from price_stream.listening import listen
from price_stream.markets import MarketDirectory
from price_stream.schedule import Clock, Schedule, moment_or_event
from shared.bus import Bus
from shared.topology import LISTENER_QUEUE, SYSTEM, Binding, config_key

log = logging.getLogger(__name__)

MIN_INTERVAL_SECS: Final = 0.25
MAX_LEAD_SECS: Final = 0.5
ASK_TIMEOUT_SECS: Final = 2.0


class WantedMarkets:
    """The last set the directory told. Polls read it and never wait for the database."""

    def __init__(self, directory: MarketDirectory, *, bus: Bus, clock: Clock) -> None:
        self.failures = 0
        self._directory = directory
        self._bus = bus
        self._clock = clock
        self._wanted: frozenset[tuple[str, str]] = frozenset()
        self._changed = asyncio.Event()
        self._problem: str | None = None

    def of(self, venue: str) -> frozenset[str]:
        """The pairs wanted at a venue."""
        return frozenset(pair for at, pair in self._wanted if at == venue)

    async def ask(self) -> None:
        """Ask once; a failure keeps the last set, and is logged once per change."""
        try:
            async with asyncio.timeout(ASK_TIMEOUT_SECS):
                self._wanted = await self._directory.wanted()
        except Exception as exc:  # noqa: BLE001 - prices go on whatever the database does
            self.failures += 1
            self._note(f"{type(exc).__name__}: {exc}")
        else:
            self._note(None)

    async def run(self, first_slot_secs: float, interval_secs: float) -> None:
        """Ask shortly before each poll and when somebody says that bots changed, for ever."""
        interval_secs = max(interval_secs, MIN_INTERVAL_SECS)
        lead_secs = min(MAX_LEAD_SECS, interval_secs / 4)
        slots = Schedule(first_slot_secs + interval_secs - lead_secs, interval_secs)
        next_secs = slots.next_slot(self._clock.monotonic_secs())
        while True:
            await moment_or_event(self._clock, next_secs, self._changed)
            self._changed.clear()
            if self._clock.monotonic_secs() >= next_secs:
                next_secs = slots.next_slot(self._clock.monotonic_secs())
            await self.ask()

    async def listen(self) -> None:
        """Note the announcements on `system` that bots changed, for ever."""
        await listen(
            self._bus,
            LISTENER_QUEUE,
            frozenset({Binding(exchange=SYSTEM, pattern=config_key("bots"))}),
            lambda _: self._changed.set(),
            clock=self._clock,
        )

    def _note(self, problem: str | None) -> None:
        if (problem is None) == (self._problem is None):
            return
        self._problem = problem
        if problem is None:
            log.info("the database tells again which markets are wanted")
        else:
            log.warning("polling the markets wanted last, the database does not tell: %s", problem)
