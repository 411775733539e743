"""Deletes what nobody needs any more: sent events, old grants of leases, retired keys' secrets."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from shared.leases import LeaseKind
from shared.store import credential_changes, leases, outbox
from shared.store.engine import Store, Transaction

CLEAN_EVERY_SECS: Final = 60.0
BATCH: Final = 2_000
PAUSE_SECS: Final = 0.05
"""Between two batches: trades and their events go first."""

GRANTS_KEPT_SECS: Final = 7 * 86_400.0

_FIRST_SHARD: Final = 0
"""Whoever serves it also cleans up what has no shard: the price stream's lease, retired keys."""


class Cleaning:
    """Cleans the shards that this worker serves, so no two workers clean the same rows."""

    def __init__(
        self, store: Store, *, shards: Callable[[], frozenset[int]], outbox_keep_secs: float
    ) -> None:
        self._store = store
        self._shards = shards
        self._outbox_keep_secs = outbox_keep_secs
        self.deleted = 0

    async def clean(self) -> None:
        """Delete all that is old, a batch per transaction. Raises `StoreUnavailable`."""
        await self._in_batches(self._clean_outbox)
        await self._in_batches(self._clean_grants)
        if _FIRST_SHARD in self._shards():
            async with self._store.begin() as tx:
                await credential_changes.forget_retired(tx)

    async def _in_batches(
        self, delete: Callable[[Transaction, frozenset[int]], Awaitable[int]]
    ) -> None:
        while shards := self._shards():
            async with self._store.begin() as tx:
                deleted = await delete(tx, shards)
            self.deleted += deleted
            if deleted < BATCH:
                return
            await asyncio.sleep(PAUSE_SECS)

    async def _clean_outbox(self, tx: Transaction, shards: frozenset[int]) -> int:
        return await outbox.purge(
            tx, older_than_secs=self._outbox_keep_secs, shards=shards, limit=BATCH
        )

    async def _clean_grants(self, tx: Transaction, shards: frozenset[int]) -> int:
        keys = [(LeaseKind.SHARD, shard) for shard in sorted(shards)]
        if _FIRST_SHARD in shards:
            keys.append((LeaseKind.PRICE_STREAM, 0))
        return await leases.purge_grants(tx, keys, older_than_secs=GRANTS_KEPT_SECS, limit=BATCH)
