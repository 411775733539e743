"""After a backup was restored: whose orders are to be asked for.

What a restored database owes is in `recoveries`: for each account, the ids of which namespace
are to be asked for. A row stays until the venue was asked, and keeps the account's bots from
trading; the fleet itself goes on under a new namespace.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from shared.leases import Lease, LeaseKind
from shared.orders import BotStatus
from shared.store import leases
from shared.store.engine import Transaction
from shared.store.tables import (
    bots,
    credentials,
    fleet,
    orders,
    outbox,
    recoveries,
    users,
    workers,
)
from shared.store.types import Moment, database_now

NOT_ASKED: Final = (
    "a backup was restored and the venue has not been asked yet what was ordered since: "
    "run `botfleet recover`"
)

EPOCHS_LOST: Final = 1_000
"""More than the lost time can have granted: no epoch of then is met again."""

ASKED_AGAIN_FOR: Final = timedelta(hours=24)
"""How long after its recovery began an account is asked again for what showed up late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Debt:
    """An account to ask for the ids of a namespace. `begun_at` is when the backup was found to
    be restored: what came after it is none of the lost time. `asked_at` None: still owed."""

    namespace: UUID
    credential_id: int
    user_id: int
    user: str
    venue: str
    lost_since: datetime
    begun_at: datetime
    asked_at: datetime | None


async def newest_time(tx: Transaction) -> datetime | None:
    """When something was last written that services write all the time; None: never."""
    found = [
        await tx.scalar(select(func.max(column)))
        for column in (orders.c.committed_at, workers.c.heartbeat_at, outbox.c.created_at)
    ]
    return max((at for at in found if at is not None), default=None)


async def begin(
    tx: Transaction, *, owner: str, namespace: UUID, lost_since: datetime, ttl_secs: float
) -> list[Lease]:
    """Stop the fleet, write down what is owed, and take every shard for `owner`.

    Every active bot is paused, every epoch raised, every account that may have traded is in
    trouble until it was asked for, and the fleet's ids come from `namespace` from now on: first
    of all, so that whatever interrupts the rest, no id of the lost time is used again. What an
    earlier recovery owes stays owed. Raises `Refused` while anybody holds a lease.
    """
    await leases.end_all(tx, raise_epochs_by=EPOCHS_LOST)
    touched = {"version": bots.c.version + 1, "updated_at": database_now()}
    paused = update(bots).where(bots.c.status == BotStatus.ACTIVE)
    await tx.execute(paused.values(status=BotStatus.PAUSED, **touched))
    old = select(fleet.c.namespace).scalar_subquery()
    owed = select(old, credentials.c.id, literal(lost_since, Moment())).where(_may_have_traded())
    await tx.execute(
        insert(recoveries).from_select(["namespace", "credential_id", "lost_since"], owed)
    )
    await tx.execute(update(fleet).values(namespace=str(namespace)))
    await tx.execute(
        update(credentials)
        .where(credentials.c.id.in_(_owed()))
        .values(trouble=NOT_ASKED, updated_at=database_now())
    )
    return await leases.take(tx, LeaseKind.SHARD, owner, ttl_secs=ttl_secs)


async def would_owe(tx: Transaction, *, lost_since: datetime) -> list[Debt]:
    """What `begin` would write down, and what earlier recoveries left: nothing is changed."""
    left = await debts(tx)
    row = (await tx.execute(select(fleet.c.namespace, database_now().label("now")))).one()
    query = select(credentials.c.id, credentials.c.user_id, users.c.name, credentials.c.venue)
    return left + [
        Debt(
            namespace=UUID(row.namespace),
            credential_id=found.id,
            user_id=found.user_id,
            user=found.name,
            venue=found.venue,
            lost_since=lost_since,
            begun_at=row.now,
            asked_at=None,
        )
        for found in await tx.execute(
            query.join(users, users.c.id == credentials.c.user_id)
            .where(_may_have_traded())
            .order_by(credentials.c.id)
        )
    ]


async def debts(tx: Transaction) -> list[Debt]:
    """What is owed, and what was asked for so lately that late orders may have shown up."""
    query = (
        select(
            *(recoveries.c[name] for name in ("namespace", "credential_id", "lost_since")),
            *(recoveries.c[name] for name in ("begun_at", "asked_at")),
            *(credentials.c[name] for name in ("user_id", "venue")),
            users.c.name.label("user"),
            database_now().label("now"),
        )
        .join_from(recoveries, credentials, credentials.c.id == recoveries.c.credential_id)
        .join(users, users.c.id == credentials.c.user_id)
        .order_by(recoveries.c.begun_at, recoveries.c.credential_id)
    )
    return [
        Debt(
            namespace=UUID(row.namespace),
            credential_id=row.credential_id,
            user_id=row.user_id,
            user=row.user,
            venue=row.venue,
            lost_since=row.lost_since,
            begun_at=row.begun_at,
            asked_at=row.asked_at,
        )
        for row in await tx.execute(query)
        if row.asked_at is None or row.begun_at > row.now - ASKED_AGAIN_FOR
    ]


async def asked(tx: Transaction, debt: Debt) -> None:
    """The venue was asked for all of it. The account may trade, unless more of it is owed."""
    own = recoveries.c.credential_id == debt.credential_id
    await tx.execute(
        update(recoveries)
        .where(own, recoveries.c.namespace == str(debt.namespace))
        .values(asked_at=database_now())
    )
    await tx.execute(
        update(credentials)
        .where(
            credentials.c.id == debt.credential_id,
            credentials.c.id.not_in(_owed()),
            credentials.c.trouble.is_not(None),
        )
        .values(trouble=None, updated_at=database_now())
    )


async def unasked(tx: Transaction, credential_id: int, why: str) -> None:
    """The venue could not be asked, or what it said not be written: its bots go on to wait."""
    await tx.execute(
        update(credentials)
        .where(credentials.c.id == credential_id)
        .values(trouble=f"{NOT_ASKED} ({why})", updated_at=database_now())
    )


async def pass_on(tx: Transaction, *, user_id: int, venue: str, credential_id: int) -> None:
    """A new key of an account owes what the earlier ones did."""
    earlier = select(credentials.c.id).where(
        credentials.c.user_id == user_id, credentials.c.venue == venue
    )
    passed = await tx.execute(
        update(recoveries)
        .where(recoveries.c.credential_id.in_(earlier), recoveries.c.asked_at.is_(None))
        .values(credential_id=credential_id)
        .returning(recoveries.c.namespace)
    )
    if passed.first() is not None:
        new = update(credentials).where(credentials.c.id == credential_id)
        await tx.execute(new.values(trouble=NOT_ASKED))


def _may_have_traded() -> ColumnElement[bool]:
    """Keys that open, of users with bots at their venue: the active one, or the last there was."""
    newer = credentials.alias("newer")
    same = newer.c.user_id == credentials.c.user_id, newer.c.venue == credentials.c.venue
    better = or_(
        newer.c.status == "active",
        and_(credentials.c.status != "active", newer.c.id > credentials.c.id),
    )
    own = bots.c.user_id == credentials.c.user_id, bots.c.venue == credentials.c.venue
    return and_(
        credentials.c.ciphertext.is_not(None),
        exists().where(*own, bots.c.removed_at.is_(None)),
        ~exists().where(
            *same, newer.c.id != credentials.c.id, newer.c.ciphertext.is_not(None), better
        ),
    )


def _owed() -> Select[tuple[int]]:
    return select(recoveries.c.credential_id).where(recoveries.c.asked_at.is_(None))
