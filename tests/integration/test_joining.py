"""Becoming a member while the database fails."""

import pytest

from shared.errors import CommitUnknown
from shared.store.engine import Store
from shared.store.workers import Process, ProcessKind
from tests.integration.unreliable_store import Trouble, UnreliableStore
from trade_worker.shards import Shards


async def nobody_hears() -> None:
    pass


def process(instance: str) -> Process:
    return Process(kind=ProcessKind.TRADE_WORKER, name="1", instance=instance, host="here", pid=1)


async def test_a_worker_whose_joining_was_committed_without_its_knowledge_joins_again(
    store: Store,
) -> None:
    """It must not take itself for another worker of its name."""
    unreliable = UnreliableStore(store)
    new = Shards(unreliable, process=process("new"), ttl_secs=60, announce=nobody_hears)
    unreliable.troubles.append(Trouble.COMMIT_MADE)
    with pytest.raises(CommitUnknown):
        await new.join()
    await new.join()
