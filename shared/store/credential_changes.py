"""Adding, replacing and removing users' keys, and moving them under another master key.

Every change reaches the workers through the change feed (shared/store/changes.py), which follows
`updated_at`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, exists, func, insert, or_, select, text, update

from shared.errors import Refused
from shared.leases import LeaseKind
from shared.orders import Mode, OrderStatus
from shared.store import recovery
from shared.store.credentials import (
    EVERY_CREDENTIAL,
    SEALED_FIELDS,
    Credential,
    CredentialStatus,
    active,
    by_ids,
    read_credentials,
    select_credentials,
    user_id_of,
)
from shared.store.engine import Transaction
from shared.store.tables import (
    UNCLOSED_POSITION,
    UNSETTLED_ORDER,
    bots,
    credentials,
    leases,
    orders,
    positions,
    users,
)
from shared.store.types import database_now, seconds_from_now
from shared.vault import Place, Sealed

WATCHED_SECS: Final = 25 * 3600.0
"""An order that was not found is looked for during a day: its key opens a little longer."""


_NO_SECRET: Final = dict.fromkeys(SEALED_FIELDS)

Seal = Callable[[Place], Sealed]
"""Seals the key for the place that it is given: `lambda place: vault.seal(key, place)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCredential:
    """A key to add for a user, as the venue told about it just now."""

    user: str
    venue: str
    label: str = ""
    live: bool = False
    taker_fee: Decimal | None = None
    facts: Mapping[str, Any]


async def add(tx: Transaction, new: NewCredential, seal: Seal) -> Credential:
    """Add a user's key for a venue. Raises `Refused` if there is one already."""
    user_id = await _locked_user_id(tx, new.user)
    if await active(tx, new.user, new.venue) is not None:
        raise Refused(
            f"{new.user} has a key for {new.venue} already: `botfleet keys rotate {new.user} "
            f"--venue {new.venue}` replaces it by another one of the same account"
        )
    last = await tx.scalar(
        select(func.max(credentials.c.version)).where(
            credentials.c.user_id == user_id, credentials.c.venue == new.venue
        )
    )
    values = {
        "user_id": user_id,
        "venue": new.venue,
        "label": new.label,
        "live": new.live,
        "taker_fee": new.taker_fee,
        "facts": dict(new.facts),
    }
    return await _insert(tx, values, (last or 0) + 1, seal)


async def replace(
    tx: Transaction, old: Credential, seal: Seal, *, facts: Mapping[str, Any]
) -> Credential:
    """Put another key of the same account into the place of the active one `old`.

    Label, fee and what the owner allows stay; trouble is over. The old key stays readable until
    `forget_retired`. Raises `Refused` if `old` is not the active one any more.
    """
    await _locked_user_id(tx, old.user)
    retired = await tx.execute(
        update(credentials)
        .where(credentials.c.id == old.id, credentials.c.status == CredentialStatus.ACTIVE)
        .values(status=CredentialStatus.RETIRED, trouble=None, updated_at=database_now())
        .returning(credentials.c.label, credentials.c.live, credentials.c.taker_fee)
    )
    kept = retired.one_or_none()
    if kept is None:
        raise Refused(f"the key of {old.user} for {old.venue} was changed meanwhile: try again")
    values = {
        "user_id": old.user_id,
        "venue": old.venue,
        **kept._mapping,
        "facts": dict(facts),
    }
    return await _insert(tx, values, old.version + 1, seal)


async def change(
    tx: Transaction,
    credential_id: int,
    *,
    live: bool | None = None,
    taker_fee: Decimal | None = None,
    default_taker_fee: bool = False,
) -> Credential:
    """Change what is given; `default_taker_fee` goes back to the venue's."""
    values: dict[str, Any] = {"live": live, "taker_fee": taker_fee}
    changed = {name: value for name, value in values.items() if value is not None}
    if default_taker_fee:
        changed["taker_fee"] = None
    await tx.execute(
        update(credentials)
        .where(credentials.c.id == credential_id)
        .values(**changed, updated_at=database_now())
    )
    return (await by_ids(tx, [credential_id]))[credential_id]


async def checked(tx: Transaction, credential_id: int, facts: Mapping[str, Any]) -> None:
    """Write down what the venue told just now; it changes nothing for the bots."""
    await tx.execute(
        update(credentials)
        .where(credentials.c.id == credential_id)
        .values(facts=dict(facts), checked_at=database_now())
    )


async def remove(tx: Transaction, credential: Credential) -> None:
    """Retire a key and delete its secret, and those of the keys that it replaced.

    Raises `Refused` while a real position is unclosed, or a real order unsettled, on the account.
    """
    await _stop_commits(tx, credential.user_id)
    unclosed, unsettled = await _open_at_the_venue(tx, credential)
    if unclosed or unsettled:
        raise Refused(
            f"{credential.user} has {unclosed} unclosed live positions and {unsettled} unsettled "
            f"live orders on {credential.venue}: `botfleet bots stop` sells what is open; "
            f"`botfleet keys rotate {credential.user} --venue {credential.venue}` replaces the key "
            "at once"
        )
    await tx.execute(
        update(credentials)
        .where(
            credentials.c.user_id == credential.user_id,
            credentials.c.venue == credential.venue,
        )
        .values(
            status=CredentialStatus.RETIRED,
            live=False,
            trouble=None,
            updated_at=database_now(),
            **_NO_SECRET,
        )
    )


async def require_nothing_open(tx: Transaction, credential: Credential) -> None:
    """Raises `Refused` while something real is open that only a key of the same account can
    sell or ask for: whether the new key is one, nobody can tell."""
    await _stop_commits(tx, credential.user_id)
    unclosed, unsettled = await _open_at_the_venue(tx, credential)
    if unclosed or unsettled:
        raise Refused(
            f"{credential.venue} does not tell which account this key belongs to, and "
            f"{credential.user} has {unclosed} unclosed live positions and {unsettled} unsettled "
            "live orders there: `botfleet bots stop` sells what is open; then replace the key"
        )


async def _open_at_the_venue(tx: Transaction, credential: Credential) -> tuple[int, int]:
    """How many real positions are unclosed and real orders unsettled on the account."""
    unclosed = await tx.scalar(
        select(func.count())
        .select_from(positions)
        .where(*_live(positions, credential), text(f"positions.{UNCLOSED_POSITION}"))
    )
    unsettled = await tx.scalar(
        select(func.count())
        .select_from(orders)
        .where(*_live(orders, credential), text(f"orders.{UNSETTLED_ORDER}"))
    )
    return unclosed or 0, unsettled or 0


async def forget_retired(tx: Transaction) -> int:
    """Delete the secrets of retired keys whose orders nobody looks for any more; how many."""
    looked_for = exists().where(
        orders.c.credential_id == credentials.c.id,
        or_(
            text(f"orders.{UNSETTLED_ORDER}"),
            and_(
                orders.c.status == OrderStatus.NOT_PLACED,
                orders.c.settled_at > seconds_from_now(-WATCHED_SECS),
            ),
        ),
    )
    forgotten = await tx.execute(
        update(credentials)
        .where(
            credentials.c.status == CredentialStatus.RETIRED,
            credentials.c.ciphertext.is_not(None),
            ~looked_for,
        )
        .values(**_NO_SECRET)
        .returning(credentials.c.id)
    )
    return len(forgotten.all())


async def to_rewrap(
    tx: Transaction, newest: str, *, limit: int, after: int = 0
) -> list[Credential]:
    """Credentials above `after` that are sealed under another master key than the newest,
    locked."""
    query = (
        select_credentials(EVERY_CREDENTIAL)
        .where(
            credentials.c.id > after,
            credentials.c.ciphertext.is_not(None),
            credentials.c.master_key_id != newest,
        )
        .order_by(credentials.c.id)
        .limit(limit)
        .with_for_update(of=credentials)
    )
    return await read_credentials(tx, query)


async def rewrapped(tx: Transaction, credential_id: int, sealed: Sealed) -> None:
    """Store a key that was re-wrapped. It is the same key: no worker need know."""
    await tx.execute(
        update(credentials).where(credentials.c.id == credential_id).values(**_columns(sealed))
    )


async def _insert(
    tx: Transaction, values: Mapping[str, Any], version: int, seal: Seal
) -> Credential:
    inserted = await tx.execute(
        insert(credentials)
        .values(**values, version=version, checked_at=database_now())
        .returning(credentials.c.id)
    )
    credential_id = inserted.scalar_one()
    # The key is bound to the row's number, which only the row's insertion gives.
    place = (await by_ids(tx, [credential_id]))[credential_id].place
    await rewrapped(tx, credential_id, seal(place))
    await recovery.pass_on(
        tx, user_id=values["user_id"], venue=values["venue"], credential_id=credential_id
    )
    return (await by_ids(tx, [credential_id]))[credential_id]


async def _locked_user_id(tx: Transaction, name: str) -> int:
    """As `user_id_of`; whoever else changes the user's keys waits."""
    user_id = await user_id_of(tx, name)
    await tx.execute(
        select(users.c.id).where(users.c.id == user_id).with_for_update(key_share=True)
    )
    return user_id


async def _stop_commits(tx: Transaction, user_id: int) -> None:
    """Wait for what is being committed for the user's bots, and hold back what comes."""
    await tx.execute(select(users.c.id).where(users.c.id == user_id).with_for_update())
    await tx.execute(
        select(leases.c.number)
        .where(
            leases.c.kind == LeaseKind.SHARD,
            leases.c.number.in_(select(bots.c.shard).where(bots.c.user_id == user_id)),
        )
        .order_by(leases.c.number)
        .with_for_update()
    )


def _live(table: Any, credential: Credential) -> tuple[ColumnElement[bool], ...]:  # noqa: ANN401
    return (
        table.c.user_id == credential.user_id,
        table.c.venue == credential.venue,
        table.c.mode == Mode.LIVE,
    )


def _columns(sealed: Sealed) -> dict[str, Any]:
    return {name: getattr(sealed, name) for name in SEALED_FIELDS}
