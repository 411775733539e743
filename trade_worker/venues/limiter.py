"""Turns at a venue: the only throttle there is (ccxt's is off)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from shared.clock import monotonic_secs
from shared.errors import VenueUnavailable
from shared.request_limits import REQUEST_LIMITS, Request, Scope
from shared.venues import Venue
from trade_worker.request_budget import Priority, Waiter
from trade_worker.request_budgets import LOOK_AGAIN_SECS, Budgets, amount_of

__all__ = ["Limiter", "Priority"]

_SHORTEST_NAP_SECS: Final = 0.005

_TOO_MANY: Final = 429
_BANNED: Final = 418


class Limiter:
    """The request budget of one venue for this worker: per address and per key.

    `sharers` is how many live workers send from this worker's address; each takes its part.
    `key` is any text that stands for the same key each time, never the secret: the credential's
    number; "" for requests that need none. It is told to nobody.
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

    def confirm(self, key: str) -> None:
        """Look once more, right before a request whose turn came a while ago.

        Raises `VenueUnavailable` if the venue has asked for silence since.
        """
        secs = self._budgets.silent_secs(key, self._now_secs())
        if secs > 0:
            raise VenueUnavailable(
                f"{self._venue.name} wants silence for {secs:.1f} s", retry_after_secs=secs
            )

    def heard(
        self, key: str, *, status: int, headers: Mapping[str, str], throttled: bool = False
    ) -> None:
        """Learn from every reply: what is used by all, and how long to ask nothing.

        HTTP 429 and 418 silence this worker's address for `Retry-After`, or only this key where
        the headers prove that it was the key's limit that was reached. `throttled`, which is the
        venue's own code saying so, silences this key.
        """
        now_secs = self._now_secs()
        told = {name.lower(): value for name, value in headers.items()}
        spent = self._budgets.note_used(key, told, now_secs)
        pause_secs = amount_of(told.get("retry-after"))
        if status == _BANNED:
            if pause_secs is None:
                pause_secs = self._limits.ban_secs
            self._budgets.pause("", pause_secs, now_secs)
        elif status == _TOO_MANY:
            self._budgets.pause(key if spent == {Scope.KEY} else "", pause_secs, now_secs)
        elif throttled:
            self._budgets.pause(key, pause_secs, now_secs)
        else:
            self._budgets.passed(key, now_secs)

    def report(self) -> dict[str, Any]:
        """What `status` may show, as JSON."""
        return {"keys": self._budgets.keys, "waiting": self._budgets.waiting}

    async def _wait(self, key: str, priority: Priority, request: str, until_secs: float) -> None:
        now_secs = self._now_secs()
        try:
            waiter = self._budgets.enter(
                key, priority, Request(request), now_secs=now_secs, until_secs=until_secs
            )
        except VenueUnavailable as exc:
            raise VenueUnavailable(
                f"{self._venue.name}: {exc}", retry_after_secs=exc.retry_after_secs
            ) from None
        if waiter.granted:
            return
        turn = self._waiting[waiter] = asyncio.get_running_loop().create_future()
        if waiter.held_up_by is not None:
            self._wake_at(waiter.held_up_by.look_at_secs, now_secs)
        try:
            async with asyncio.timeout(until_secs - now_secs):
                await turn
        except TimeoutError:
            raise VenueUnavailable(
                f"{self._venue.name}: the request limit left no room in time"
            ) from None
        finally:
            self._budgets.leave(waiter)
            del self._waiting[waiter]

    def _wake_at(self, at_secs: float, now_secs: float) -> None:
        """Look who may go then, if that is not to be done earlier."""
        loop = asyncio.get_running_loop()
        nap_secs = min(max(at_secs - now_secs, _SHORTEST_NAP_SECS), LOOK_AGAIN_SECS)
        if self._alarm is not None:
            if self._alarm.when() <= loop.time() + nap_secs:
                return
            self._alarm.cancel()
        self._alarm = loop.call_later(nap_secs, self._release)

    def _release(self) -> None:
        self._alarm = None
        now_secs = self._now_secs()
        for waiter in self._budgets.release(now_secs):
            turn = self._waiting.get(waiter)
            if turn is not None and not turn.done():
                turn.set_result(None)
        at_secs = self._budgets.next_at(now_secs)
        if at_secs is not None:
            self._wake_at(at_secs, now_secs)
