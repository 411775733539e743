"""Hands the latest ticks and the markets' rules to the database, off the path of the ticks."""

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from typing import Final, Protocol

from price_stream.schedule import Clock
from shared.messages import Tick
from shared.money import MarketRules

log = logging.getLogger(__name__)

MIN_PAUSE_SECS: Final = 0.5
RETRY_SECS: Final = 2.0
SAVE_TIMEOUT_SECS: Final = 10.0


class TickArchive(Protocol):
    """Where the latest tick of every market and the markets' rules are kept for others."""

    async def save(self, ticks: Sequence[Tick]) -> None:
        """Make these the latest ticks of their markets."""
        ...

    async def save_rules(self, venue: str, rules: Mapping[str, MarketRules]) -> None:
        """Make these the markets that the venue trades, by pair."""
        ...


class Archiver:
    """Keeps only the newest tick per market while the database is slow, so it cannot grow."""

    def __init__(self, archive: TickArchive, *, clock: Clock) -> None:
        self.saved = 0
        self.failures = 0
        self._archive = archive
        self._clock = clock
        self._ticks: dict[tuple[str, str], Tick] = {}
        self._rules: dict[str, Mapping[str, MarketRules]] = {}
        self._something = asyncio.Event()
        self._problem: str | None = None

    def offer(self, ticks: Sequence[Tick]) -> None:
        """Save these some time soon, unless newer ones of their markets come first."""
        self._ticks.update((tick.market, tick) for tick in ticks)
        self._something.set()

    def offer_rules(self, venue: str, rules: Mapping[str, MarketRules]) -> None:
        """Save a venue's rules some time soon."""
        self._rules[venue] = rules
        self._something.set()

    async def run(self) -> None:
        """Save what is offered, for ever."""
        while True:
            await self._something.wait()
            self._something.clear()
            done = await self._save_rules() and await self._save_ticks()
            if not done:
                self._something.set()
            pause_secs = MIN_PAUSE_SECS if done else RETRY_SECS
            await self._clock.sleep_until(self._clock.monotonic_secs() + pause_secs)

    async def _save_rules(self) -> bool:
        for venue, rules in tuple(self._rules.items()):
            if not await self._attempt(self._archive.save_rules(venue, rules)):
                return False
            if self._rules.get(venue) is rules:
                del self._rules[venue]
        return True

    async def _save_ticks(self) -> bool:
        ticks, self._ticks = self._ticks, {}
        if not ticks:
            return True
        if not await self._attempt(self._archive.save(list(ticks.values()))):
            self._ticks = ticks | self._ticks
            return False
        self.saved += len(ticks)
        return True

    async def _attempt(self, saving: Awaitable[None]) -> bool:
        try:
            async with asyncio.timeout(SAVE_TIMEOUT_SECS):
                await saving
        except Exception as exc:  # noqa: BLE001 - prices go on whatever the database does
            self.failures += 1
            self._note(f"{type(exc).__name__}: {exc}")
            return False
        self._note(None)
        return True

    def _note(self, problem: str | None) -> None:
        if (problem is None) == (self._problem is None):
            return
        self._problem = problem
        if problem is None:
            log.info("the latest ticks are saved again")
        else:
            log.warning("the latest ticks cannot be saved: %s", problem)
