"""How often entries were denied, for `risk`: counted per tick, told every few seconds."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from shared.clock import wall_ms
from shared.errors import StoreUnavailable
from shared.reasons import Reason
from shared.signals import EntriesDenied, encode
from shared.store import outbox
from shared.store.engine import Store
from shared.topology import RISK, denied_key

TELL_EVERY_SECS: Final = 5.0


class Denials:
    """One worker's counts since its last report, by venue."""

    def __init__(self, store: Store, *, worker: str) -> None:
        self._store = store
        self._worker = worker
        self._counts: dict[str, Counter[Reason]] = {}
        self._since_ms = wall_ms()

    def count(self, venue: str, verdicts: Mapping[Reason, int]) -> None:
        """Add what one tick led to."""
        self._counts.setdefault(venue, Counter()).update(verdicts)

    async def tell(self, shards: frozenset[int]) -> None:
        """Write an event per venue to the outbox and begin to count anew.

        One of `shards`, those that this worker serves, carries it; without any, and if the
        database is away (`StoreUnavailable`), the counts go on.
        """
        if not shards or not self._counts:
            return
        told, since_ms, now_ms = self._counts, self._since_ms, wall_ms()
        self._counts, self._since_ms = {}, now_ms
        try:
            async with self._store.begin() as tx:
                for venue, counts in sorted(told.items()):
                    event = EntriesDenied(
                        worker=self._worker,
                        venue=venue,
                        since_ms=since_ms,
                        at_ms=now_ms,
                        counts=by_stage(counts),
                    )
                    await outbox.write(
                        tx,
                        shard=min(shards),
                        exchange=RISK,
                        routing_key=denied_key(venue),
                        body=encode(event).decode(),
                    )
        except StoreUnavailable:
            self._since_ms = since_ms
            for venue, counts in told.items():
                self.count(venue, counts)
            raise


def by_stage(counts: Mapping[Reason, int]) -> dict[str, dict[str, int]]:
    """Counts by stage, then reason, both in the order of judgement; signals are no denials."""
    sorted_: dict[str, dict[str, int]] = {}
    for reason in Reason:
        if reason is not Reason.ENTRY_SIGNAL and (count := counts.get(reason)):
            sorted_.setdefault(reason.stage.value, {})[reason.value] = count
    return sorted_
