"""Leases: who holds which shard, and which price stream leads.

The database's clock decides, the epoch grows with every grant, rows are never deleted, and each
grant and its end are written to `lease_grants` in the same transaction. Every statement locks
rows in the order of their numbers, as the fence of an intent does (shared/store/trading.py), so
that they never deadlock.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Executable,
    Float,
    Integer,
    Select,
    Text,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from shared.clock import monotonic_secs
from shared.errors import Refused
from shared.leases import Lease, LeaseEnd, LeaseKind
from shared.store.bulk import Rows, dialect_of
from shared.store.database_url import Dialect
from shared.store.engine import Transaction
from shared.store.tables import lease_grants, leases
from shared.store.types import Id, Moment, database_now, seconds_from_now

_LEASES = Rows("leases_asked", kind=Text, number=Integer, epoch=Id, until=Moment, why=Text)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseState:
    """A lease as everybody sees it, `left_secs` before its owner's time runs out.

    `held` is whether it has not run out; `left_secs` is None where it was given back.
    """

    kind: LeaseKind
    number: int
    owner: str | None
    epoch: int
    granted_at: datetime | None
    expires_at: datetime | None
    held: bool
    left_secs: float | None


async def states(tx: Transaction, kind: LeaseKind | None = None) -> list[LeaseState]:
    """Every lease, or every one of a kind, by number."""
    query = _states().order_by(leases.c.kind, leases.c.number)
    if kind is not None:
        query = query.where(leases.c.kind == kind)
    return [
        LeaseState(
            kind=LeaseKind(row.kind),
            number=row.number,
            owner=row.owner,
            epoch=row.epoch,
            granted_at=row.granted_at,
            expires_at=row.expires_at,
            held=bool(row.held),
            left_secs=row.expires_at and (row.expires_at - row.now).total_seconds(),
        )
        for row in await tx.execute(query)
    ]


async def take(
    tx: Transaction,
    kind: LeaseKind,
    owner: str,
    *,
    ttl_secs: float,
    numbers: Iterable[int] | None = None,
) -> list[Lease]:
    """Take what nobody holds of a kind (of these numbers), by number, each at its next epoch.

    Waits for intents that are being committed under the leases.
    """
    free = or_(leases.c.owner.is_(None), leases.c.expires_at <= database_now())
    if numbers is not None:
        free = and_(free, leases.c.number.in_(sorted(numbers)))
    return await _take(tx, kind, owner, free, ttl_secs=ttl_secs)


async def take_over(
    tx: Transaction, kind: LeaseKind, owner: str, *, ttl_secs: float, replacing: str
) -> list[Lease]:
    """Take all that an owner known to be gone holds, before it expires; otherwise as `take`."""
    return await _take(tx, kind, owner, leases.c.owner == replacing, ttl_secs=ttl_secs)


async def take_lead(tx: Transaction, owner: str, *, ttl_secs: float) -> Lease | None:
    """Become the leading price stream; None while another leads. The epoch orders its ticks."""
    taken = await take(tx, LeaseKind.PRICE_STREAM, owner, ttl_secs=ttl_secs)
    return taken[0] if taken else None


async def renew(tx: Transaction, held: Sequence[Lease], *, ttl_secs: float) -> list[Lease]:
    """Extend leases in one statement. Those not returned are lost: their epoch or time is over.

    Does not wait for intents that are being committed under them.
    """
    if not held:
        return []
    by_key = {(lease.kind, lease.number): lease for lease in held}
    asked_at = monotonic_secs()
    renewed = await tx.execute(
        _renew(dialect_of(tx)), {"ttl_secs": ttl_secs, **_LEASES.parameters(_keys(held))}
    )
    return [
        replace(by_key[LeaseKind(row.kind), row.number], valid_until=asked_at + ttl_secs)
        for row in sorted(renewed, key=lambda row: (str(row.kind), int(row.number)))
    ]


async def end_all(tx: Transaction, *, raise_epochs_by: int) -> None:
    """Take every lease from whoever had it, and raise its epoch; nobody may hold one any more.

    Waits for intents that are being committed under them. Raises `Refused`, changing nothing,
    while one has not run out.
    """
    query = _states().order_by(leases.c.kind, leases.c.number).with_for_update()
    rows = (await tx.execute(query)).all()
    if held := sorted({row.owner for row in rows if row.held}):
        raise Refused(f"leases are held by {', '.join(held)}: stop every service first")
    await _end_grants(
        tx,
        [
            (row.kind, row.number, row.epoch, row.expires_at, LeaseEnd.EXPIRED)
            for row in rows
            if row.owner is not None
        ],
    )
    await tx.execute(
        update(leases).values(
            owner=None,
            expires_at=None,
            granted_at=None,
            wanted_by=None,
            epoch=leases.c.epoch + raise_epochs_by,
        )
    )


async def release(tx: Transaction, held: Sequence[Lease]) -> None:
    """Give leases back. Those that another has taken meanwhile are left alone.

    Waits for intents that are being committed under them.
    """
    await _free(tx, _keys(held))


async def release_all(tx: Transaction, kind: LeaseKind, owner: str) -> None:
    """Give back all that an owner holds of a kind, whether or not it knows of it."""
    query = select(leases.c.kind, leases.c.number, leases.c.epoch).where(
        leases.c.kind == kind, leases.c.owner == owner
    )
    await _free(tx, [(*row, None, None) for row in await tx.execute(query)])


async def purge_grants(
    tx: Transaction,
    keys: Iterable[tuple[LeaseKind, int]],
    *,
    older_than_secs: float,
    limit: int,
) -> int:
    """Delete up to `limit` grants of these leases that ended so long ago; how many were."""
    asked = _LEASES.source(dialect_of(tx))
    ended = (
        select(lease_grants.c.id)
        .join_from(
            lease_grants,
            asked,
            and_(lease_grants.c.kind == asked.c.kind, lease_grants.c.number == asked.c.number),
        )
        .where(lease_grants.c.granted_until < seconds_from_now(text(str(-older_than_secs))))
        .order_by(lease_grants.c.id)
        .limit(limit)
    )
    rows = ((kind, number, None, None, None) for kind, number in keys)
    deleted = await tx.execute(
        delete(lease_grants).where(lease_grants.c.id.in_(ended)), _LEASES.parameters(rows)
    )
    return deleted.rowcount


async def _take(
    tx: Transaction,
    kind: LeaseKind,
    owner: str,
    condition: ColumnElement[bool],
    *,
    ttl_secs: float,
) -> list[Lease]:
    query = (
        _states()
        .where(leases.c.kind == kind, condition)
        .order_by(leases.c.number)
        .with_for_update()
    )
    found = (await tx.execute(query)).all()
    if not found:
        return []
    ended = [
        (row.kind, row.number, row.epoch, None, LeaseEnd.REPLACED)
        if row.held
        else (row.kind, row.number, row.epoch, row.expires_at, LeaseEnd.EXPIRED)
        for row in found
        if row.owner is not None
    ]
    await _end_grants(tx, ended)
    asked_at = monotonic_secs()
    granted = await tx.execute(
        _grant(dialect_of(tx)),
        {
            "new_owner": owner,
            "ttl_secs": ttl_secs,
            **_LEASES.parameters((row.kind, row.number, row.epoch, None, None) for row in found),
        },
    )
    taken = [
        Lease(
            kind=kind,
            number=row.number,
            owner=owner,
            epoch=row.epoch,
            valid_until=asked_at + ttl_secs,
        )
        for row in sorted(granted, key=lambda row: int(row.number))
    ]
    await tx.execute(
        insert(lease_grants),
        [
            {"kind": kind, "number": lease.number, "epoch": lease.epoch, "owner": owner}
            for lease in taken
        ],
    )
    return taken


def _keys(held: Sequence[Lease]) -> list[tuple[Any, ...]]:
    return [(lease.kind, lease.number, lease.epoch, None, None) for lease in held]


async def _free(tx: Transaction, keys: Sequence[tuple[Any, ...]]) -> None:
    if not keys:
        return
    freed = (await tx.execute(_release(dialect_of(tx)), _LEASES.parameters(keys))).all()
    await _end_grants(
        tx, [(row.kind, row.number, row.epoch, None, LeaseEnd.RELEASED) for row in freed]
    )


async def _end_grants(tx: Transaction, ended: Sequence[tuple[Any, ...]]) -> None:
    if ended:
        await tx.execute(_end(dialect_of(tx)), _LEASES.parameters(ended))


def _states() -> Select[Any]:
    return select(
        leases.c.kind,
        leases.c.number,
        leases.c.owner,
        leases.c.epoch,
        leases.c.granted_at,
        leases.c.expires_at,
        and_(leases.c.owner.is_not(None), leases.c.expires_at > database_now()).label("held"),
        database_now().label("now"),
    )


@cache
def _grant(dialect: Dialect) -> Executable:
    asked = _LEASES.source(dialect)
    return (
        update(leases)
        .values(
            owner=bindparam("new_owner", type_=Text()),
            epoch=leases.c.epoch + 1,
            granted_at=database_now(),
            expires_at=seconds_from_now(bindparam("ttl_secs", type_=Float(53))),
            wanted_by=None,
        )
        .where(
            leases.c.kind == asked.c.kind,
            leases.c.number == asked.c.number,
            leases.c.epoch == asked.c.epoch,
        )
        .returning(leases.c.number, leases.c.epoch)
    )


@cache
def _end(dialect: Dialect) -> Executable:
    asked = _LEASES.source(dialect)
    return (
        update(lease_grants)
        .values(
            granted_until=func.coalesce(asked.c.until, database_now()),
            ended_why=asked.c.why,
        )
        .where(
            lease_grants.c.kind == asked.c.kind,
            lease_grants.c.number == asked.c.number,
            lease_grants.c.epoch == asked.c.epoch,
            lease_grants.c.granted_until.is_(None),
        )
    )


@cache
def _renew(dialect: Dialect) -> Executable:
    locked = _locked(dialect, beside_intents=True)
    return (
        update(leases)
        .values(expires_at=seconds_from_now(bindparam("ttl_secs", type_=Float(53))))
        .where(leases.c.kind == locked.c.kind, leases.c.number == locked.c.number)
        .returning(leases.c.kind, leases.c.number)
    )


@cache
def _release(dialect: Dialect) -> Executable:
    locked = _locked(dialect, beside_intents=False)
    return (
        update(leases)
        .values(owner=None, expires_at=None, granted_at=None)
        .where(leases.c.kind == locked.c.kind, leases.c.number == locked.c.number)
        .returning(leases.c.kind, leases.c.number, leases.c.epoch)
    )


def _locked(dialect: Dialect, *, beside_intents: bool) -> Any:  # noqa: ANN401 - a CTE
    """Kind and number of the asked leases that are still their holder's, locked in order.

    FOR UPDATE waits for the FOR KEY SHARE of intents' transactions, FOR NO KEY UPDATE does not.
    """
    asked = _LEASES.source(dialect)
    return (
        select(leases.c.kind, leases.c.number)
        .join_from(
            leases,
            asked,
            and_(
                leases.c.kind == asked.c.kind,
                leases.c.number == asked.c.number,
                leases.c.epoch == asked.c.epoch,
            ),
        )
        .where(leases.c.owner.is_not(None), leases.c.expires_at > database_now())
        .order_by(leases.c.kind, leases.c.number)
        .with_for_update(of=leases, key_share=beside_intents)
        .cte("locked")
    )
