"""Closes the breakers of this worker's bots and users when the market's day is over."""

from collections.abc import Callable
from typing import Final

from shared.messages import Tick
from shared.store import breakers
from shared.store.engine import Store

BREAKERS_EVERY_SECS: Final = 1.0


class BreakerWatch:
    """Knows the market's clocks from the ticks that pass by."""

    def __init__(
        self,
        store: Store,
        *,
        shards: Callable[[], frozenset[int]],
        on_closed: Callable[[], None],
    ) -> None:
        """`on_closed` is called when events of closed breakers wait in the outbox."""
        self._store = store
        self._shards = shards
        self._on_closed = on_closed
        self._market_time_ms: dict[str, int] = {}

    def note(self, tick: Tick) -> None:
        """The venue's clock stands where its newest tick says."""
        self._market_time_ms[tick.venue] = tick.market_time_ms

    async def close_due(self) -> None:
        """Close what is due. A worker without ticks closes nothing: it does not know the time.

        Raises `StoreUnavailable`: the next call finds what is still open.
        """
        async with self._store.begin() as tx:
            closed = await breakers.close_due(
                tx, market_time_ms=self._market_time_ms, shards=self._shards()
            )
        if closed:
            self._on_closed()
