"""Reads the fleet every second for somebody who looks on: the demo's screen or its log lines."""

import asyncio
from collections.abc import Callable

from console.fleet_status import read
from console.screen import Picture
from shared.clock import monotonic_secs
from shared.errors import RetryLater
from shared.store.engine import Store


class Watch:
    """A `shared.process.Service` that hands a fresh picture to `show`, again and again.

    A database that is busy or away leaves the last picture standing, with the reason in it.
    """

    name = "screen"

    def __init__(
        self, store: Store, *, speed: float, every_secs: float, show: Callable[[Picture], None]
    ) -> None:
        self._store = store
        self._speed = speed
        self._every_secs = every_secs
        self._show = show
        self._stopping = asyncio.Event()
        self._started_secs = monotonic_secs()
        self._counted = (self._started_secs, 0)
        self._last: Picture | None = None

    async def run(self) -> None:
        """Show pictures until `stop`."""
        while not self._stopping.is_set():
            if (picture := await self.picture()) is not None:
                self._show(picture)
            try:
                async with asyncio.timeout(self._every_secs):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    def stop(self) -> None:
        """Show no more."""
        self._stopping.set()

    async def picture(self) -> Picture | None:
        """The fleet as it is now; None while nothing could be read yet."""
        trouble = None
        status = None if self._last is None else self._last.status
        try:
            status = await read(self._store)
        except RetryLater as exc:
            trouble = str(exc)
        if status is None:
            return None
        stream = status.price_stream
        ticks = int(stream.report.get("published", 0)) if stream else 0
        self._last = Picture(
            status=status,
            speed=self._speed,
            up_secs=monotonic_secs() - self._started_secs,
            ticks=ticks,
            ticks_per_sec=self._rate(ticks),
            trouble=trouble,
        )
        return self._last

    def _rate(self, ticks: int) -> float:
        now_secs = monotonic_secs()
        before_secs, before = self._counted
        self._counted = (now_secs, ticks)
        elapsed_secs = now_secs - before_secs
        return max(0, ticks - before) / elapsed_secs if elapsed_secs > 0 else 0.0
