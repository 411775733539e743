"""What the whole fleet agrees on: one row, written by the first `botfleet migrate`."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select

from shared.store.engine import Transaction
from shared.store.tables import fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """`namespace` makes client order ids (shared/orders.py); `shard_count` never changes."""

    namespace: UUID
    shard_count: int


async def read(tx: Transaction) -> Fleet:
    row = (await tx.execute(select(fleet.c.namespace, fleet.c.shard_count))).one()
    return Fleet(namespace=UUID(row.namespace), shard_count=row.shard_count)
