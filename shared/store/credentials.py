"""Users' keys at the venues: sealed, one active per user and venue.

A key that replaces another is a row of its own, one version on: what the old one placed is on the
same account, so its orders are asked for with the new one. credential_changes.py writes them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Select, and_, exists, func, select, update

from shared.errors import Refused
from shared.store.engine import Transaction
from shared.store.tables import bots, credentials, recoveries, users
from shared.store.types import database_now
from shared.vault import Place, Sealed


class CredentialStatus(StrEnum):
    ACTIVE = "active"
    RETIRED = "retired"
    """Replaced or removed: kept because orders and fills name it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A key at a venue. `sealed` None: its secret was deleted after it was retired.

    `live` is the owner's word that real orders may be placed with it. `taker_fee` None is the
    venue's default. `facts` are permissions and balance as the venue told them at `checked_at`.
    `trouble` is why its bots stand still, None: they do not.
    """

    id: int
    user_id: int
    user: str
    venue: str
    label: str
    version: int
    status: CredentialStatus
    live: bool
    taker_fee: Decimal | None
    facts: Mapping[str, Any]
    trouble: str | None
    checked_at: datetime | None
    created_at: datetime
    sealed: Sealed | None = field(repr=False)

    @property
    def place(self) -> Place:
        """What its sealed key is bound to."""
        return Place(
            user_id=self.user_id,
            venue=self.venue,
            credential_id=self.id,
            version=self.version,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysHealth:
    """How the keys are: how many secrets each master key seals, and which keys are in trouble."""

    sealed_by: Mapping[str, int]
    troubled: tuple[tuple[str, str, str], ...]
    """User, venue and why, of active keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialFilter:
    """Which credentials; None does not filter."""

    user: str | None = None
    venue: str | None = None
    status: CredentialStatus | None = None


EVERY_CREDENTIAL: Final = CredentialFilter()
ACTIVE: Final = CredentialFilter(status=CredentialStatus.ACTIVE)

_OWN_FIELDS: Final = tuple(
    name for name in Credential.__slots__ if name not in ("user", "facts", "sealed")
)
SEALED_FIELDS: Final = tuple(Sealed.__slots__)


async def page(
    tx: Transaction, which: CredentialFilter = EVERY_CREDENTIAL, *, limit: int, after: int = 0
) -> list[Credential]:
    """Credentials by id, of those above `after`."""
    query = (
        select_credentials(which)
        .where(credentials.c.id > after)
        .order_by(credentials.c.id)
        .limit(limit)
    )
    return await read_credentials(tx, query)


async def by_ids(tx: Transaction, credential_ids: Collection[int]) -> dict[int, Credential]:
    """These credentials by id; one that does not exist is absent."""
    query = select_credentials(EVERY_CREDENTIAL).where(credentials.c.id.in_(credential_ids))
    return {found.id: found for found in await read_credentials(tx, query)}


async def active(tx: Transaction, user: str, venue: str) -> Credential | None:
    """The key that a user's bots trade with at a venue."""
    which = CredentialFilter(user=user, venue=venue, status=CredentialStatus.ACTIVE)
    found = await read_credentials(tx, select_credentials(which))
    return found[0] if found else None


async def required(tx: Transaction, user: str, venue: str) -> Credential:
    """As `active`, or `Refused` that says what is missing."""
    found = await active(tx, user, venue)
    if found is None:
        await user_id_of(tx, user)
        raise Refused(
            f"{user} has no key for {venue}: `botfleet keys add {user} --venue {venue}` adds one"
        )
    return found


async def usable(tx: Transaction, credential_id: int) -> Credential | None:
    """The key with which orders of this credential can be placed and asked for.

    The owner's active one at that venue, which is this one or what replaced it; without one, this
    one while its secret is kept. None where there is neither.
    """
    own = credentials.alias("own")
    query = (
        select_credentials(EVERY_CREDENTIAL)
        .join(own, and_(own.c.user_id == credentials.c.user_id, own.c.venue == credentials.c.venue))
        .where(
            own.c.id == credential_id,
            (credentials.c.status == CredentialStatus.ACTIVE) | (credentials.c.id == credential_id),
            credentials.c.ciphertext.is_not(None),
        )
        # 'active' before 'retired'.
        .order_by(credentials.c.status)
        .limit(1)
    )
    found = await read_credentials(tx, query)
    return found[0] if found else None


async def in_trouble(tx: Transaction, shards: Collection[int]) -> dict[int, str]:
    """Why active keys cannot be used, by id, of the users whose bots are in these shards."""
    rows = await tx.execute(
        select(credentials.c.id, credentials.c.trouble).where(
            credentials.c.status == CredentialStatus.ACTIVE,
            credentials.c.trouble.is_not(None),
            exists().where(
                bots.c.user_id == credentials.c.user_id, bots.c.shard.in_(sorted(shards))
            ),
        )
    )
    return {row.id: row.trouble for row in rows}


async def troubled(tx: Transaction) -> tuple[tuple[str, str, str], ...]:
    """The active keys that cannot be used: user, venue and why."""
    rows = await tx.execute(
        select(users.c.name, credentials.c.venue, credentials.c.trouble)
        .join_from(credentials, users, users.c.id == credentials.c.user_id)
        .where(credentials.c.status == CredentialStatus.ACTIVE, credentials.c.trouble.is_not(None))
        .order_by(credentials.c.id)
    )
    return tuple((row[0], row[1], row[2]) for row in rows)


async def health(tx: Transaction) -> KeysHealth:
    """What `doctor` looks at."""
    sealed = await tx.execute(
        select(credentials.c.master_key_id, func.count())
        .where(credentials.c.ciphertext.is_not(None))
        .group_by(credentials.c.master_key_id)
    )
    return KeysHealth(
        sealed_by={row[0]: row[1] for row in sealed},
        troubled=await troubled(tx),
    )


async def set_trouble(tx: Transaction, credential_id: int, why: str | None) -> bool:
    """Say why a key cannot be used, or None that it can; whether that is news.

    Of one that was replaced or removed nothing is said: what is wrong with its successor shows
    when that is used. The trouble of an account that is to be recovered first stays.
    """
    owing = select(recoveries.c.credential_id).where(recoveries.c.asked_at.is_(None))
    changed = await tx.execute(
        update(credentials)
        .where(
            credentials.c.id == credential_id,
            credentials.c.status == CredentialStatus.ACTIVE,
            credentials.c.trouble.is_distinct_from(why),
            credentials.c.id.not_in(owing),
        )
        .values(trouble=why, updated_at=database_now())
        .returning(credentials.c.id)
    )
    return changed.first() is not None


def select_credentials(which: CredentialFilter) -> Select[Any]:
    """A query for whole credentials, to be narrowed further and read by `read_credentials`."""
    query = select(
        *(credentials.c[name] for name in (*_OWN_FIELDS, "facts", *SEALED_FIELDS)),
        users.c.name.label("user"),
    ).join_from(credentials, users, users.c.id == credentials.c.user_id)
    for column, value in (
        (users.c.name, which.user),
        (credentials.c.venue, which.venue),
        (credentials.c.status, which.status),
    ):
        if value is not None:
            query = query.where(column == value)
    return query


async def read_credentials(tx: Transaction, query: Select[Any]) -> list[Credential]:
    """What a query of `select_credentials` finds."""
    found = []
    for row in await tx.execute(query):
        fields = {name: getattr(row, name) for name in (*_OWN_FIELDS, "user")}
        fields["status"] = CredentialStatus(row.status)
        sealed = {name: getattr(row, name) for name in SEALED_FIELDS}
        found.append(
            Credential(
                **fields,
                facts=row.facts or {},
                sealed=None if row.ciphertext is None else Sealed(**sealed),
            )
        )
    return found


async def user_id_of(tx: Transaction, name: str) -> int:
    """The number of the user of this name. Raises `Refused` for an unknown one."""
    found = await tx.scalar(select(users.c.id).where(users.c.name == name))
    if found is None:
        raise Refused(f"there is no user named {name!r}")
    return int(found)
