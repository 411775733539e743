"""Writing down what became of live orders: everything that waits goes into one transaction."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from shared import failpoints
from shared.errors import CommitUnknown, InvalidRow, StoreUnavailable
from shared.failpoints import Point
from shared.orders import LiveOrder
from shared.store import settlement
from shared.store.engine import Store
from shared.store.settlement import Settled, Settlement

log = logging.getLogger(__name__)

MAX_BATCH: Final = 500
_LONGEST_PAUSE_SECS: Final = 2.0


@dataclass(frozen=True, slots=True)
class _News:
    """A settlement that waits to be written, and who waits for it."""

    order: LiveOrder
    settlement: Settlement
    written: asyncio.Future[Settled | None]


class Settling:
    """Writes settlements under the leases of their shards. One task runs `run`.

    A settlement may be written twice (a COMMIT of unknown outcome, two askers): the second one
    changes nothing.
    """

    def __init__(
        self,
        store: Store,
        *,
        owner: str,
        holds: Callable[[int], bool],
        on_settled: Callable[[LiveOrder, Settled], None],
        on_written: Callable[[], None],
    ) -> None:
        """`holds` tells whether a shard is ours now. `on_settled` is called for each order that
        changed, before whoever waits for it goes on; `on_written` once per transaction."""
        self._store = store
        self._owner = owner
        self._holds = holds
        self._on_settled = on_settled
        self._on_written = on_written
        self._waiting: deque[_News] = deque()
        self._doubted: set[str] = set()
        """Orders of which something may be written that nobody was told. Written again it is no
        change any more, but it is news."""
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def settle(self, order: LiveOrder, news: Settlement) -> Settled | None:
        """Write it, however long the database is away.

        None where it could not be written: the shard is somebody else's now, who asks the venue,
        or the database refuses this row.
        """
        waiting = _News(order, news, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._idle.clear()
        self._wake.set()
        return await waiting.written

    async def run(self) -> None:
        """Write until cancelled; then whoever still waits is cancelled too."""
        batch: list[_News] = []
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting:
                    size = min(MAX_BATCH, len(self._waiting))
                    batch = [self._waiting.popleft() for _ in range(size)]
                    await self._write(batch)
                self._idle.set()
        finally:
            for news in (*batch, *self._waiting):
                news.written.cancel()
            self._waiting.clear()

    async def drain(self) -> None:
        """Wait until everything that was handed in is written."""
        await self._idle.wait()

    async def _write(self, batch: Sequence[_News]) -> None:
        pause_secs = 0.1
        while True:
            # Two pieces of news of one order are written one after the other.
            now, later = _first_of_each(batch)
            try:
                failpoints.hit(Point.BEFORE_SETTLE)
                async with self._store.begin() as tx:
                    done = await settlement.settle(
                        tx, [news.settlement for news in now], owner=self._owner
                    )
                    failpoints.hit(Point.IN_SETTLE)
                failpoints.hit(Point.AFTER_SETTLE)
            except StoreUnavailable as exc:
                if isinstance(exc, CommitUnknown):
                    self._doubt(now)
                log.warning("%d settlements wait for the database: %s", len(batch), exc)
                await asyncio.sleep(pause_secs)
                pause_secs = min(2 * pause_secs, _LONGEST_PAUSE_SECS)
                batch = self._still_ours(batch)
            except Exception as exc:  # noqa: BLE001 - no order may keep the others from it
                if not isinstance(exc, InvalidRow):
                    self._doubt(now)  # a mistake of ours may have come after COMMIT
                await self._split(now, exc)
                batch = later
            else:
                self._tell(now, done)
                batch = later
            if not batch:
                return

    async def _split(self, batch: Sequence[_News], error: Exception) -> None:
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._write(batch[:middle])
            await self._write(batch[middle:])
            return
        (news,) = batch
        log.error(
            "order %s cannot be settled: %r", news.order.client_order_id, error, exc_info=error
        )
        _resolve(news, None)

    def _still_ours(self, batch: Sequence[_News]) -> list[_News]:
        kept = []
        for news in batch:
            if self._holds(news.order.shard):
                kept.append(news)
            else:
                _resolve(news, None)
        return kept

    def _doubt(self, batch: Sequence[_News]) -> None:
        self._doubted.update(news.order.client_order_id for news in batch)

    def _tell(self, batch: Sequence[_News], done: dict[str, Settled]) -> None:
        for news in batch:
            settled = done.get(news.order.client_order_id)
            in_doubt = news.order.client_order_id in self._doubted
            self._doubted.discard(news.order.client_order_id)
            if settled is not None and (settled.changed or in_doubt):
                self._on_settled(news.order, settled)
            _resolve(news, settled)
        self._on_written()


def _first_of_each(batch: Sequence[_News]) -> tuple[list[_News], list[_News]]:
    seen: set[str] = set()
    first: list[_News] = []
    later: list[_News] = []
    for news in batch:
        (later if news.order.client_order_id in seen else first).append(news)
        seen.add(news.order.client_order_id)
    return first, later


def _resolve(news: _News, settled: Settled | None) -> None:
    if not news.written.done():  # who waited may have been cancelled
        news.written.set_result(settled)
