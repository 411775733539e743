"""One call at a time for a key whose nonces must arrive in order."""

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

from shared.clock import wall_ms

NUDGE_MS: Final = 2_000
MAX_AHEAD_MS: Final = 120_000


class Nonces:
    """Growing numbers of one key, in milliseconds of the wall clock where that grows.

    They never go back, whatever the clock does. `nudge` jumps ahead of a number that another
    process, or this machine's clock before it was set, has used.

    >>> nonces = Nonces(now_ms=lambda: 1_000)
    >>> nonces.next(), nonces.next()
    (1000, 1001)
    """

    def __init__(self, *, now_ms: Callable[[], int] = wall_ms) -> None:
        self._now_ms = now_ms
        self._last = 0

    def next(self) -> int:
        self._last = max(self._now_ms(), self._last + 1)
        return self._last

    def nudge(self) -> None:
        """The venue has seen a higher one. Never runs more than two minutes ahead of the clock:
        beyond that the key is used by something else, and no number of ours would help."""
        now_ms = self._now_ms()
        ahead = max(self._last, now_ms) + NUDGE_MS
        self._last = min(ahead, max(self._last, now_ms + MAX_AHEAD_MS))


class Lane:
    """One call of a key at a time; who waits goes by priority (the lowest first), then by age."""

    def __init__(self, nonces: Nonces | None = None) -> None:
        self.nonces = nonces or Nonces()
        self._taken = False
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = count()

    @asynccontextmanager
    async def turn(self, priority: int) -> AsyncIterator[None]:
        """Wait for the lane and hold it."""
        if self._taken:
            await self._wait(priority)
        self._taken = True
        try:
            yield
        finally:
            self._hand_on()

    async def _wait(self, priority: int) -> None:
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._order), granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                # It was handed over in the very moment in which this one gave up.
                self._hand_on()
            raise

    def _hand_on(self) -> None:
        while self._waiting:
            _, _, granted = heapq.heappop(self._waiting)
            if not granted.done():
                # Stays taken, so that nobody slips in between.
                granted.set_result(None)
                return
        self._taken = False
