"""Publishes ticks with confirms, and knows who does not listen."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from shared import failpoints
from shared.bus import Bus, Message
from shared.errors import RetryLater
from shared.failpoints import Point
from shared.messages import Tick, encode
from shared.topology import PRICE_UPDATES

log = logging.getLogger(__name__)

MAX_CONFIRM_SECS: Final = 5.0


class TickPublisher:
    """Publishes each poll's ticks once. A tick that could not be published is not kept: by the
    time the broker is back it is stale."""

    def __init__(
        self, bus: Bus, *, timeout_secs: float, published: Callable[[Sequence[Tick]], None]
    ) -> None:
        self.published = 0
        self.unrouted = 0
        self.dropped = 0
        self._bus = bus
        self._timeout_secs = min(timeout_secs, MAX_CONFIRM_SECS)
        self._hand_on = published
        self._unheard: set[tuple[str, str]] = set()
        self._broker_away = False

    async def publish(self, ticks: Sequence[Tick]) -> None:
        """Publish and wait for the confirms; what the broker took is handed on."""
        messages = [
            Message(exchange=PRICE_UPDATES, routing_key=tick.pair, body=encode(tick))
            for tick in ticks
        ]
        results: Sequence[bool | Exception]
        failpoints.hit(Point.BEFORE_TICKS)
        try:
            results = await self._bus.publish_all(
                messages, mandatory=True, timeout_secs=self._timeout_secs
            )
        except RetryLater as exc:
            results = [exc] * len(ticks)
        failpoints.hit(Point.AFTER_TICKS)
        taken = []
        unheard = []
        failures = []
        for tick, result in zip(ticks, results, strict=True):
            if isinstance(result, Exception):
                failures.append(result)
                continue
            taken.append(tick)
            if not result:
                unheard.append(tick)
        self.published += len(taken) - len(unheard)
        self.unrouted += len(unheard)
        self.dropped += len(failures)
        self._note_broker(failures)
        self._note_listeners(taken, {tick.market for tick in unheard})
        if taken:
            self._hand_on(taken)

    def _note_broker(self, failures: Sequence[Exception]) -> None:
        if bool(failures) == self._broker_away:
            return
        self._broker_away = bool(failures)
        if failures:
            log.warning("ticks are dropped until the broker takes them: %s", failures[0])
        else:
            log.info("the broker takes ticks again")

    def _note_listeners(self, taken: Sequence[Tick], unheard: set[tuple[str, str]]) -> None:
        if new := unheard - self._unheard:
            log.warning(
                "no body listens to %s on %s: is a trade worker running?",
                *(_listed(new), PRICE_UPDATES),
            )
        heard = self._unheard & {tick.market for tick in taken} - unheard
        if heard:
            log.info("%s on %s: listened to again", _listed(heard), PRICE_UPDATES)
        self._unheard = (self._unheard - heard) | unheard


def _listed(markets: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{pair} ({venue})" for venue, pair in sorted(markets))
