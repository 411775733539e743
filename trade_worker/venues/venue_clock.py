"""What a venue's clock shows, for what must be refused there after a moment of ours.

A reply "it is S" that was asked for at `a` and read at `b` says that the venue's clock minus
ours is between S - b and S - a (plus what S was rounded down by: Kraken tells whole seconds).
Every question narrows that; the lower end is used, so that a deadline is never too late.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from shared.clock import monotonic_secs
from shared.errors import VenueUnavailable
from shared.venues import Venue

log = logging.getLogger(__name__)

FRESH_SECS: Final = 30.0
STALE_SECS: Final = 900.0
DRIFT: Final = 1e-4
"""How fast two clocks may part: ten times what a bad quartz does."""
FIRST_QUESTIONS: Final = 4
GOOD_ENOUGH_MS: Final = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTime:
    """The venue's clock as told, rounded down to `resolution_ms`, and when by our monotonic one."""

    told_ms: int
    resolution_ms: int
    asked_at_secs: float
    read_at_secs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Offset:
    """The venue's clock minus our monotonic one is between these, in milliseconds, at a moment
    of the latter."""

    low_ms: float
    high_ms: float
    at_secs: float

    resolution_ms: int

    def drifted(self, now_secs: float) -> "Offset":
        """The same, as much wider as the clocks may have parted since."""
        by_ms = 1000 * DRIFT * max(0.0, now_secs - self.at_secs)
        return replace(self, low_ms=self.low_ms - by_ms, high_ms=self.high_ms + by_ms)

    def narrowed(self, told: ServerTime) -> "Offset":
        """With one more reply. One that contradicts what was known replaces it."""
        new = offset_of(told)
        known = self.drifted(new.at_secs)
        low_ms, high_ms = max(new.low_ms, known.low_ms), min(new.high_ms, known.high_ms)
        return new if low_ms > high_ms else replace(new, low_ms=low_ms, high_ms=high_ms)

    @property
    def width_ms(self) -> float:
        return self.high_ms - self.low_ms

    def telling_pause_secs(self, now_secs: float) -> float:
        """How long to wait for the moment at which a question halves the doubt: when, by the
        middle of what is possible, the venue's clock turns to its next unit."""
        shown_ms = 1000 * now_secs + (self.low_ms + self.high_ms) / 2
        return (-shown_ms % self.resolution_ms) / 1000


def offset_of(told: ServerTime) -> Offset:
    """What one reply says."""
    return Offset(
        low_ms=told.told_ms - 1000 * told.read_at_secs,
        high_ms=told.told_ms + told.resolution_ms - 1000 * told.asked_at_secs,
        at_secs=told.read_at_secs,
        resolution_ms=told.resolution_ms,
    )


class VenueClock:
    """One venue's clock. `ask` tells its server time, raising `VenueUnavailable`.

    It is asked again in the background once what is known is half a minute old, and waited for
    only while nothing is known, or it is in doubt or too old to count.
    """

    def __init__(self, venue: Venue, *, ask: Callable[[], Awaitable[ServerTime]]) -> None:
        self._venue = venue
        self._ask = ask
        self._offset: Offset | None = None
        self._asking: asyncio.Task[None] | None = None
        self._answered: asyncio.Future[None] | None = None
        self._doubted = False

    async def ready(self) -> None:
        """Return at once where the clock is known, else with the first answer or failure."""
        age_secs = float("inf")
        if self._offset is not None and not self._doubted:
            age_secs = monotonic_secs() - self._offset.at_secs
        if age_secs > FRESH_SECS:
            answered = self._refresh()
            if age_secs > STALE_SECS:
                await asyncio.shield(answered)

    async def settled(self) -> None:
        """Wait until no question is under way: then it is known as well as it can be."""
        await self.ready()
        if self._asking is not None:
            await asyncio.shield(self._asking)

    def at_ms(self, secs: float) -> int:
        """The venue's clock at a monotonic moment, as far as is known, and never ahead of it.
        Raises `VenueUnavailable` where nothing is known, or in doubt."""
        if self._offset is None or self._doubted:
            raise VenueUnavailable(f"{self._venue.name} does not tell its time")
        return int((1000 * secs + self._offset.drifted(monotonic_secs()).low_ms) // 1)

    def doubt(self) -> None:
        """The venue found a time of ours wrong: whoever comes next waits for what it says now."""
        if self._asking is None or self._asking.done():
            self._doubted = True
            self._refresh()

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _refresh(self) -> asyncio.Future[None]:
        if self._answered is None or self._asking is None or self._asking.done():
            self._answered = asyncio.get_running_loop().create_future()
            self._asking = asyncio.create_task(
                self._measure(self._answered), name=f"the clock of {self._venue.name}"
            )
        return self._answered

    async def _measure(self, answered: asyncio.Future[None]) -> None:
        try:
            for _ in range(FIRST_QUESTIONS):
                self._offset = await self._narrowed(self._offset)
                self._doubted = False
                if not answered.done():
                    answered.set_result(None)
                if self._offset.width_ms <= GOOD_ENOUGH_MS:
                    break
        except VenueUnavailable as exc:
            log.info("%s does not tell its time: %s", self._venue.name, exc)
        finally:
            if not answered.done():
                answered.set_result(None)

    async def _narrowed(self, known: Offset | None) -> Offset:
        if known is None:
            return offset_of(await self._ask())
        if known.width_ms > GOOD_ENOUGH_MS and not self._doubted:
            await asyncio.sleep(known.telling_pause_secs(monotonic_secs()))
        return known.narrowed(await self._ask())
