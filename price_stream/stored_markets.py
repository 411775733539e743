"""The price stream's view of the database: what to poll, where to keep the latest."""

from collections.abc import Mapping, Sequence

from shared.messages import Tick
from shared.money import MarketRules
from shared.store import markets, ticks
from shared.store.engine import Store


class StoredMarkets:
    """A `MarketDirectory` and a `TickArchive`. Every call may raise `StoreUnavailable`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def wanted(self) -> frozenset[tuple[str, str]]:
        async with self._store.read() as tx:
            wanted = await markets.wanted(tx)
        return frozenset((venue, pair) for venue, pairs in wanted.items() for pair in pairs)

    async def save(self, latest: Sequence[Tick]) -> None:
        async with self._store.begin() as tx:
            await ticks.save(tx, latest)

    async def save_rules(self, venue: str, rules: Mapping[str, MarketRules]) -> None:
        async with self._store.begin() as tx:
            await markets.save(tx, venue, rules)
