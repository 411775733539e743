"""When to poll: fixed slots that do not drift, and the clock that they are kept by."""

import asyncio
import math
from typing import Any, Protocol

from shared import clock


class Clock(Protocol):
    """Time as the stream's loops see it; tests bring one that they turn by hand."""

    def wall_ms(self) -> int: ...

    def monotonic_secs(self) -> float: ...

    async def sleep_until(self, moment_secs: float) -> None:
        """Return at this monotonic moment, at once if it has passed."""
        ...


class SystemClock:
    """The machine's."""

    def wall_ms(self) -> int:
        return clock.wall_ms()

    def monotonic_secs(self) -> float:
        return clock.monotonic_secs()

    async def sleep_until(self, moment_secs: float) -> None:
        await asyncio.sleep(max(0.0, moment_secs - clock.monotonic_secs()))


async def moment_or_event(clock: Clock, moment_secs: float | None, event: asyncio.Event) -> None:
    """Wait until the moment has come (None: never) or the event is set, which it stays."""
    waits: set[asyncio.Task[Any]] = {asyncio.create_task(event.wait(), name="event")}
    if moment_secs is not None:
        waits.add(asyncio.create_task(clock.sleep_until(moment_secs), name="moment"))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


class Schedule:
    """Slots at start + n × interval. One that has passed is skipped and counted, never made up."""

    __slots__ = ("_interval_secs", "_slot", "_start_secs", "skipped")

    def __init__(self, start_secs: float, interval_secs: float) -> None:
        self.skipped = 0
        self._start_secs = start_secs
        self._interval_secs = interval_secs
        self._slot = -1

    def next_slot(self, now_secs: float) -> float:
        """The moment of the next slot: the one after the last given, or the next still ahead.

        >>> slots = Schedule(start_secs=100.0, interval_secs=5.0)
        >>> [slots.next_slot(now) for now in (100.0, 101.0, 117.5)], slots.skipped
        ([100.0, 105.0, 120.0], 2)
        """
        due = self._slot + 1
        ahead = math.ceil((now_secs - self._start_secs) / self._interval_secs)
        # The first slot is due even where the start took a moment.
        self._slot = max(due, ahead) if due else due
        self.skipped += self._slot - due
        return self._start_secs + self._slot * self._interval_secs
