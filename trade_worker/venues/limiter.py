"""Turns at a venue: the only throttle there is (ccxt's is off)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from shared.clock import monotonic_secs
from shared.errors import VenueUnavailable
from shared.request_limits import REQUEST_LIMITS
from shared.venues import Venue
from trade_worker.venues.budgets import Budgets, Priority, Waiter, amount_of, no_room

__all__ = ["Limiter", "Priority"]

_SHORTEST_NAP_SECS: Final = 0.005

_TOO_MANY: Final = 429
_BANNED: Final = 418


class Limiter:
    """The request budget of one venue for this worker: per address and per key.

    `sharers` is how many live workers send from this worker's address; each takes its part.
    `key` is any text that stands for the same key each time, never the secret: the credential's
    number. It is told to nobody.
    """

    def __init__(
        self,
        venue: Venue,
        *,
        sharers: Callable[[], int] = lambda: 1,
        now_secs: Callable[[], float] = monotonic_secs,
    ) -> None:
        self._venue = venue
        self._limits = REQUEST_LIMITS[venue.name]
        self._now_secs = now_secs
        self._budgets = Budgets(self._limits, sharers=sharers)
        self._waiting: dict[Waiter, asyncio.Future[None]] = {}
        self._alarm: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def turn(
        self, key: str, priority: Priority, request: str, *, until_secs: float
    ) -> AsyncIterator[None]:
        """Wait for room for one request, a `shared.request_limits.Request`.

        Higher priorities go first, then who came first. Raises `VenueUnavailable`, with
        `retry_after_secs` where that is known, if there is no room before `until_secs`
        (monotonic): nothing was sent then, and nothing used. What a turn cost stays used, whatever
        became of the request.
        """
        await self._wait(key, priority, request, until_secs)
        yield

    def heard(
        self, key: str, *, status: int, headers: Mapping[str, str], throttled: bool = False
    ) -> None:
        """Learn from a reply: what is used by all, and how long to ask nothing.

        HTTP 429 and 418 silence this worker's address for `Retry-After`; `throttled` (the
        venue's own code says so) this key, unless it came with one of these.
        """
        now_secs = self._now_secs()
        told = {name.lower(): value for name, value in headers.items()}
        self._budgets.note_used(key, told, now_secs)
        if status in (_TOO_MANY, _BANNED):
            pause_secs = amount_of(told.get("retry-after"))
            if pause_secs is None:
                limits = self._limits
                pause_secs = limits.ban_secs if status == _BANNED else limits.pause_secs
            self._budgets.pause(None, pause_secs, now_secs)
        elif throttled:
            pause_secs = amount_of(told.get("retry-after"))
            self._budgets.drain(key, now_secs)
            self._budgets.pause(
                key, self._limits.pause_secs if pause_secs is None else pause_secs, now_secs
            )

    def report(self) -> dict[str, Any]:
        """What `status` may show, as JSON."""
        return {"keys": self._budgets.keys, "waiting": self._budgets.waiting}

    async def _wait(self, key: str, priority: Priority, request: str, until_secs: float) -> None:
        now_secs = self._now_secs()
        try:
            waiter = self._budgets.enter(
                key, priority, request, now_secs=now_secs, until_secs=until_secs
            )
        except VenueUnavailable as exc:
            raise VenueUnavailable(
                f"{self._venue.name}: {exc}", retry_after_secs=exc.retry_after_secs
            ) from None
        if waiter.granted:
            return
        turn = self._waiting[waiter] = asyncio.get_running_loop().create_future()
        self._set_alarm()
        try:
            async with asyncio.timeout(until_secs - now_secs):
                await turn
        except TimeoutError:
            raise VenueUnavailable(f"{self._venue.name}: {no_room(None)}") from None
        finally:
            self._budgets.leave(waiter)
            self._waiting.pop(waiter, None)

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        now_secs = self._now_secs()
        at_secs = self._budgets.next_at(now_secs)
        if at_secs is not None:
            nap_secs = max(at_secs - now_secs, _SHORTEST_NAP_SECS)
            self._alarm = asyncio.get_running_loop().call_later(nap_secs, self._release)

    def _release(self) -> None:
        for waiter in self._budgets.release(self._now_secs()):
            turn = self._waiting.get(waiter)
            if turn is not None and not turn.done():
                turn.set_result(None)
        self._set_alarm()
