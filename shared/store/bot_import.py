"""Bots written in bulk: a file of tens of thousands in a few statements."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from itertools import islice
from typing import Any, Final

from sqlalchemy import Executable, Integer, Text, and_, select, text, true, update

from shared.errors import Refused
from shared.orders import BotStatus, Mode
from shared.sharding import shard_of
from shared.store import users
from shared.store.bots import something_open
from shared.store.bulk import Rows, dialect_of, insert_into
from shared.store.database_url import Dialect
from shared.store.engine import Transaction
from shared.store.fleet import read as read_fleet
from shared.store.tables import bot_pairs, bots
from shared.store.types import Id, Json, Money, database_now

_CHUNK: Final = 5_000
"""Bots per round of statements: each stays well under a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BotSpec:
    """A bot as its owner wants it; `user` and `name` say which one it is.

    Checked by whoever read it: `risk_profile` by shared/risk_profile.py, pairs against the
    markets of the venue.
    """

    user: str
    name: str
    venue: str
    pairs: tuple[str, ...]
    capital: Decimal
    mode: Mode = Mode.PAPER
    status: BotStatus = BotStatus.ACTIVE
    risk_profile: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import did. Every spec counts in one of the last three."""

    users_added: int = 0
    added: int = 0
    updated: int = 0
    unchanged: int = 0


async def import_bots(
    tx: Transaction,
    specs: Iterable[BotSpec],
    *,
    update_existing: bool = True,
    on_progress: Callable[[int], None] | None = None,
) -> Imported:
    """Write bots, and the users that are new. Workers follow within a second of the commit.

    A bot that exists takes over what its spec says; the pairs that the spec does not name are
    taken from it (what is open on them is still sold). `on_progress` hears how many specs are
    done. Raises `Refused`, and the caller's transaction must end without a commit, for a bot
    that exists if `update_existing` is false, that would move to another venue, or that would
    change its mode with something open; and for one that is named twice.
    """
    shard_count = (await read_fleet(tx)).shard_count
    total = Imported()
    remaining = iter(specs)
    done = 0
    while chunk := list(islice(remaining, _CHUNK)):
        user_ids, users_added = await users.ids_of(tx, {spec.user for spec in chunk})
        wanted = {(user_ids[spec.user], spec.name): spec for spec in chunk}
        if len(wanted) < len(chunk):
            raise Refused("a bot is named twice")
        counted = await _write(tx, wanted, shard_count, update_existing=update_existing)
        done += len(chunk)
        total = Imported(
            users_added=total.users_added + users_added,
            added=total.added + counted.added,
            updated=total.updated + counted.updated,
            unchanged=total.unchanged + counted.unchanged,
        )
        if on_progress is not None:
            on_progress(done)
    return total


async def add(tx: Transaction, spec: BotSpec) -> int:
    """Add one bot and return its id. Raises `Refused` if the user has one of that name."""
    await import_bots(tx, [spec], update_existing=False)
    user_ids, _ = await users.ids_of(tx, {spec.user})
    found = await _existing(tx, {(user_ids[spec.user], spec.name): spec})
    return next(iter(found.values())).id


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    id: int
    spec: BotSpec
    something_open: bool


_Key = tuple[int, str]
"""(user id, name)."""


async def _write(
    tx: Transaction, wanted: Mapping[_Key, BotSpec], shard_count: int, *, update_existing: bool
) -> Imported:
    stored = await _existing(tx, wanted)
    if stored and not update_existing:
        spec = wanted[next(iter(stored))]
        raise Refused(f"user {spec.user!r} has a bot named {spec.name!r} already")
    new = {key: spec for key, spec in wanted.items() if key not in stored}
    changed = {key: spec for key, spec in wanted.items() if key in stored}
    changed = {key: spec for key, spec in changed.items() if stored[key].spec != spec}
    for key, spec in changed.items():
        _refuse_impossible(stored[key], spec)
    ids = {key: stored[key].id for key in changed}
    ids |= await _insert(tx, new, shard_count)
    await _update(tx, changed, ids)
    await _set_pairs(tx, {ids[key]: spec for key, spec in (new | changed).items()})
    return Imported(
        added=len(new), updated=len(changed), unchanged=len(wanted) - len(new) - len(changed)
    )


def _refuse_impossible(stored: _Stored, spec: BotSpec) -> None:
    who = f"bot {spec.name!r} of user {spec.user!r}"
    if stored.spec.venue != spec.venue:
        raise Refused(
            f"{who} trades on {stored.spec.venue} and cannot move to {spec.venue}: "
            "add another bot there"
        )
    if stored.spec.mode != spec.mode and stored.something_open:
        raise Refused(f"{who} has an open position: its mode can change when it is flat")


async def _existing(tx: Transaction, wanted: Mapping[_Key, BotSpec]) -> dict[_Key, _Stored]:
    dialect = dialect_of(tx)
    rows = (await tx.execute(_find(dialect), _KEYS.parameters(wanted))).all()
    found = await tx.execute(_find_pairs(dialect), _IDS.parameters((row.id,) for row in rows))
    pairs: dict[int, set[str]] = defaultdict(set)
    for bot_id, pair in found:
        pairs[bot_id].add(pair)
    return {
        key: _Stored(
            id=row.id,
            something_open=bool(row.something_open),
            spec=BotSpec(
                user=wanted[key].user,
                name=row.name,
                venue=row.venue,
                pairs=_same_order(wanted[key].pairs, pairs[row.id]),
                capital=row.capital,
                mode=Mode(row.mode),
                status=BotStatus(row.status),
                risk_profile=row.risk_profile,
            ),
        )
        for row in rows
        for key in [(row.user_id, row.name)]
    }


def _same_order(wanted: tuple[str, ...], stored: set[str]) -> tuple[str, ...]:
    return wanted if set(wanted) == stored else tuple(sorted(stored))


async def _insert(
    tx: Transaction, new: Mapping[_Key, BotSpec], shard_count: int
) -> dict[_Key, int]:
    rows = [
        (user_id, shard_of(user_id, shard_count), name, spec.venue, *_values(spec))
        for (user_id, name), spec in new.items()
    ]
    found = await tx.execute(_add(dialect_of(tx)), _NEW.parameters(rows))
    return {(row.user_id, row.name): row.id for row in found}


async def _update(
    tx: Transaction, changed: Mapping[_Key, BotSpec], ids: Mapping[_Key, int]
) -> None:
    if changed:
        rows = [(ids[key], *_values(spec)) for key, spec in changed.items()]
        await tx.execute(_change(dialect_of(tx)), _CHANGED.parameters(rows))


async def _set_pairs(tx: Transaction, specs: Mapping[int, BotSpec]) -> None:
    dialect = dialect_of(tx)
    rows = [(bot_id, pair, spec.venue) for bot_id, spec in specs.items() for pair in spec.pairs]
    await tx.execute(_take_pairs(dialect), _IDS.parameters((bot_id,) for bot_id in specs))
    await tx.execute(_give_pairs(dialect), _PAIRS.parameters(rows))


def _values(spec: BotSpec) -> Sequence[Any]:
    return (spec.capital, spec.mode, spec.status, dict(spec.risk_profile))


_IDS = Rows("ids", id=Id)
_KEYS = Rows("keys", user_id=Id, name=Text)
_PAIRS = Rows("pairs", bot_id=Id, pair=Text, venue=Text)
_CHANGED = Rows("changed", id=Id, capital=Money, mode=Text, status=Text, risk_profile=Json)
_NEW = Rows(
    "new_bots",
    user_id=Id,
    shard=Integer,
    name=Text,
    venue=Text,
    capital=Money,
    mode=Text,
    status=Text,
    risk_profile=Json,
)


@cache
def _find(dialect: Dialect) -> Executable:
    keys = _KEYS.source(dialect)
    return (
        select(
            bots.c.id,
            bots.c.user_id,
            bots.c.name,
            bots.c.venue,
            bots.c.capital,
            bots.c.mode,
            bots.c.status,
            bots.c.risk_profile,
            something_open().label("something_open"),
        )
        .join_from(keys, bots, and_(bots.c.user_id == keys.c.user_id, bots.c.name == keys.c.name))
        .where(bots.c.removed_at.is_(None))
        .with_for_update(of=bots)
    )


@cache
def _find_pairs(dialect: Dialect) -> Executable:
    ids = _IDS.source(dialect)
    return (
        select(bot_pairs.c.bot_id, bot_pairs.c.pair)
        .join_from(ids, bot_pairs, bot_pairs.c.bot_id == ids.c.id)
        .where(bot_pairs.c.active)
    )


@cache
def _add(dialect: Dialect) -> Executable:
    new = _NEW.source(dialect)
    return (
        insert_into(dialect, bots)
        .from_select(new.c.keys(), select(*new.c).where(true()))
        .returning(bots.c.id, bots.c.user_id, bots.c.name)
    )


@cache
def _change(dialect: Dialect) -> Executable:
    changed = _CHANGED.source(dialect)
    return (
        update(bots)
        .values(
            capital=changed.c.capital,
            mode=changed.c.mode,
            status=changed.c.status,
            risk_profile=changed.c.risk_profile,
            version=bots.c.version + 1,
            updated_at=database_now(),
        )
        .where(bots.c.id == changed.c.id)
    )


@cache
def _take_pairs(dialect: Dialect) -> Executable:
    ids = _IDS.source(dialect)
    return (
        update(bot_pairs)
        .values(active=text("false"))
        .where(bot_pairs.c.bot_id == ids.c.id, bot_pairs.c.active)
    )


@cache
def _give_pairs(dialect: Dialect) -> Executable:
    pairs = _PAIRS.source(dialect)
    return (
        insert_into(dialect, bot_pairs)
        .from_select(["bot_id", "pair", "venue"], select(*pairs.c).where(true()))
        .on_conflict_do_update(index_elements=["bot_id", "pair"], set_={"active": text("true")})
    )
