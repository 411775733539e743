"""Kill switches: turned by people, read by workers and inside every intent transaction.

Turning one is a barrier. Each intent transaction enters a gate that it shares with the others;
whoever turns a switch needs the gate alone, so waits for the transactions in flight and holds
back the next ones, which then see the switch. On SQLite writers exclude each other anyway.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, func, select, text

from shared.clock import monotonic_secs
from shared.errors import StoreUnavailable
from shared.limits import KillSwitches, KillSwitchLevel, KillSwitchScope
from shared.store.bulk import dialect_of, insert_into
from shared.store.engine import Store, Transaction
from shared.store.failures import why_hopeless
from shared.store.tables import UNCLOSED_POSITION, kill_switches, positions
from shared.store.types import database_now

_GATE: Final = 0x6B696C6C67617465
"""`killgate` in ASCII: the advisory lock that intents share and a turned switch needs alone."""

PATIENCE_SECS: Final = 30.0
"""Transactions in flight take at most 2 s: longer than this means that the database is away."""

_PAUSE_SECS: Final = 0.1
_ON: Final = kill_switches.c.level != KillSwitchLevel.OFF


@dataclass(frozen=True, slots=True, kw_only=True)
class KillSwitch:
    """A switch as it was last turned, `off` included.

    `scope_key` is '' for the fleet, a venue's name, or the id of a user or bot as text.
    `version` is higher than that of every earlier change of any switch.
    """

    scope: KillSwitchScope
    scope_key: str
    level: KillSwitchLevel
    reason: str
    version: int
    updated_at: datetime


async def enter_gate(tx: Transaction) -> None:
    """Hold back whoever turns a kill switch until this transaction ends.

    The switches must be read by a later statement: this one's snapshot may be from before the
    wait. Locks of the transaction work through PgBouncer, and cost no write.
    """
    if dialect_of(tx) == "postgresql":
        await tx.execute(text(f"SELECT pg_advisory_xact_lock_shared({_GATE})"))


async def turn(
    store: Store,
    scope: KillSwitchScope,
    scope_key: str,
    level: KillSwitchLevel,
    *,
    reason: str,
    patience_secs: float = PATIENCE_SECS,
) -> KillSwitch:
    """Turn a switch. Once this has returned, no intent that it forbids can commit.

    A database that is busy or away is tried again for `patience_secs`; then, and for what
    waiting cannot mend, raises `StoreUnavailable`: the switch may or may not be turned.
    """
    deadline = monotonic_secs() + patience_secs
    while True:
        try:
            async with store.begin() as tx:
                return await _turn(tx, scope, scope_key, level, reason)
        except StoreUnavailable as exc:
            if why_hopeless(exc) or monotonic_secs() > deadline:
                raise
            await asyncio.sleep(_PAUSE_SECS)


async def _turn(
    tx: Transaction, scope: KillSwitchScope, scope_key: str, level: KillSwitchLevel, reason: str
) -> KillSwitch:
    if dialect_of(tx) == "postgresql":
        await tx.execute(text(f"SELECT pg_advisory_xact_lock({_GATE})"))
    # Turned one at a time, so versions grow in the order in which they become visible.
    version = 1 + await _newest_version(tx)
    insert = insert_into(dialect_of(tx), kill_switches).values(
        scope=scope,
        scope_key=scope_key,
        level=level,
        reason=reason,
        version=version,
        updated_at=database_now(),
    )
    changed = ("level", "reason", "version", "updated_at")
    row = await tx.execute(
        insert.on_conflict_do_update(
            index_elements=["scope", "scope_key"],
            set_={name: insert.excluded[name] for name in changed},
        ).returning(*kill_switches.c)
    )
    return _kill_switch(row.one())


async def read_levels(tx: Transaction) -> KillSwitches:
    """The switches that are on, without a version: one statement."""
    rows = await tx.execute(
        select(kill_switches.c.scope, kill_switches.c.scope_key, kill_switches.c.level).where(_ON)
    )
    levels = {
        (KillSwitchScope(row.scope), row.scope_key): KillSwitchLevel(row.level) for row in rows
    }
    return KillSwitches(levels=levels)


async def read_kill_switches(tx: Transaction) -> KillSwitches:
    """The switches that are on, and the newest version that this reading is sure to include."""
    version = await _newest_version(tx)
    return KillSwitches(levels=(await read_levels(tx)).levels, version=version)


async def read_on(tx: Transaction) -> list[KillSwitch]:
    """The switches that are on as people read them, newest last."""
    rows = await tx.execute(select(kill_switches).where(_ON).order_by(kill_switches.c.version))
    return [_kill_switch(row) for row in rows]


async def count_covered(tx: Transaction, switch: KillSwitch) -> int:
    """How many positions that are not closed a switch covers."""
    query = select(func.count()).where(text(f"positions.{UNCLOSED_POSITION}"))
    match switch.scope:
        case KillSwitchScope.VENUE:
            query = query.where(positions.c.venue == switch.scope_key)
        case KillSwitchScope.USER:
            query = query.where(positions.c.user_id == int(switch.scope_key))
        case KillSwitchScope.BOT:
            query = query.where(positions.c.bot_id == int(switch.scope_key))
    return await tx.scalar(query.select_from(positions)) or 0


async def _newest_version(tx: Transaction) -> int:
    newest = await tx.scalar(select(func.max(kill_switches.c.version)))
    return newest or 0


def _kill_switch(row: Row[Any]) -> KillSwitch:
    return KillSwitch(
        **{
            **row._mapping,
            "scope": KillSwitchScope(row.scope),
            "level": KillSwitchLevel(row.level),
        }
    )
