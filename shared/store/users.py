"""Users: who owns bots, and how much they may do."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache

from sqlalchemy import Executable, Text, insert, select, true, update

from shared.errors import Refused
from shared.limits import UserStatus
from shared.store.bulk import Rows, dialect_of, insert_into
from shared.store.database_url import Dialect
from shared.store.engine import Transaction
from shared.store.tables import users
from shared.store.types import database_now

DEFAULT_MAX_OPEN_POSITIONS = 10

_NAMES = Rows("names", name=Text)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user. `max_notional` is per quote currency, None without a limit."""

    id: int
    name: str
    status: UserStatus
    max_open_positions: int
    max_notional: Decimal | None
    created_at: datetime


_COLUMNS = tuple(users.c[name] for name in User.__slots__)


async def add(
    tx: Transaction,
    name: str,
    *,
    max_open_positions: int = DEFAULT_MAX_OPEN_POSITIONS,
    max_notional: Decimal | None = None,
) -> User:
    """Add a user. Raises `Refused` if the name is taken."""
    if await by_name(tx, name) is not None:
        raise Refused(f"there is a user named {name!r} already")
    row = await tx.execute(
        insert(users)
        .values(name=name, max_open_positions=max_open_positions, max_notional=max_notional)
        .returning(*_COLUMNS)
    )
    return _user(row.one()._asdict())


async def by_name(tx: Transaction, name: str) -> User | None:
    row = (await tx.execute(select(*_COLUMNS).where(users.c.name == name))).one_or_none()
    return None if row is None else _user(row._asdict())


async def names(tx: Transaction, user_ids: Collection[int]) -> dict[int, str]:
    """The names of these users by id; one that does not exist is absent."""
    rows = await tx.execute(select(users.c.id, users.c.name).where(users.c.id.in_(user_ids)))
    return {row.id: row.name for row in rows}


async def page(tx: Transaction, *, limit: int = 100, after: int = 0) -> list[User]:
    """Users by id, of those above `after`."""
    query = select(*_COLUMNS).where(users.c.id > after).order_by(users.c.id).limit(limit)
    return [_user(row._asdict()) for row in await tx.execute(query)]


async def change(
    tx: Transaction,
    name: str,
    *,
    status: UserStatus | None = None,
    max_open_positions: int | None = None,
    max_notional: Decimal | None = None,
    no_max_notional: bool = False,
) -> User:
    """Change what is given; workers follow within a second. Raises `Refused` if unknown.

    `no_max_notional` takes the limit away.
    """
    values: dict[str, object] = {
        "status": status,
        "max_open_positions": max_open_positions,
        "max_notional": max_notional,
    }
    row = (
        await tx.execute(
            update(users)
            .where(users.c.name == name)
            .values({key: value for key, value in values.items() if value is not None})
            .values({"max_notional": None} if no_max_notional else {})
            .values(updated_at=database_now())
            .returning(*_COLUMNS)
        )
    ).one_or_none()
    if row is None:
        raise Refused(f"there is no user named {name!r}")
    return _user(row._asdict())


async def ids_of(tx: Transaction, names: Collection[str]) -> tuple[dict[str, int], int]:
    """The id of every name, adding the users that are new; and how many were."""
    dialect = dialect_of(tx)
    asked = _NAMES.parameters((name,) for name in sorted(set(names)))
    added = len((await tx.execute(_add_new(dialect), asked)).all())
    found = await tx.execute(_find(dialect), asked)
    return {row.name: row.id for row in found}, added


@cache
def _add_new(dialect: Dialect) -> Executable:
    names = _NAMES.source(dialect)
    return (
        insert_into(dialect, users)
        .from_select(["name"], select(names.c.name).where(true()))
        .on_conflict_do_nothing()
        .returning(users.c.id)
    )


@cache
def _find(dialect: Dialect) -> Executable:
    names = _NAMES.source(dialect)
    return select(users.c.id, users.c.name).join_from(names, users, users.c.name == names.c.name)


def _user(row: dict[str, object]) -> User:
    return User(**{**row, "status": UserStatus(str(row["status"]))})  # type: ignore[arg-type]
