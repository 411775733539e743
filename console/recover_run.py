"""A whole recovery: the fleet is stopped, every account is asked, what is owed is written down."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import uuid4

from console.fleet_status import ALIVE_SECS
from console.recover_account import AccountRecovery, Scope
from console.recover_report import AccountReport
from console.recover_venue import AccountOrders
from shared.clock import monotonic_secs
from shared.errors import Refused
from shared.leases import Lease
from shared.store import changes, leases, recovery, workers
from shared.store.engine import Store
from shared.store.recovery import Debt
from shared.store.workers import Heartbeat

T = TypeVar("T")

LEASE_TTL_SECS: Final = 15.0
RENEW_EVERY_SECS: Final = 3.0
ACCOUNTS_AT_ONCE: Final = 32
"""Each is asked at the pace that its own key is allowed: that is what takes time."""
_LOOK_EVERY_SECS: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What is recovered, and how: `not_found_secs` as in `Scope`.

    `venue` None: there is no key to ask with, so every account stays owed.
    """

    store: Store
    venue: AccountOrders | None
    not_found_secs: Mapping[str, float]


async def recover(
    fleet: Fleet, *, lost_since: datetime, said: Callable[[AccountReport], None]
) -> list[AccountReport]:
    """Recover every account; `said` is called with each as soon as it is done.

    An account whose report has a problem is still owed, and its bots go on to wait: running it
    again goes on with those. Raises `Refused` while a service is alive.
    """
    await nobody_alive(fleet.store)
    owner = f"recover ({uuid4().hex[:8]})"
    held = await _begin(fleet.store, owner=owner, lost_since=lost_since)
    async with fleet.store.read() as tx:
        debts = await recovery.debts(tx)
    return await _under(fleet.store, held, _each(fleet, debts, owner=owner, said=said))


async def look(
    fleet: Fleet, *, lost_since: datetime, said: Callable[[AccountReport], None]
) -> list[AccountReport]:
    """Ask as `recover` does, and change nothing."""
    await nobody_alive(fleet.store)
    async with fleet.store.read() as tx:
        debts = await recovery.would_owe(tx, lost_since=lost_since)
    return await _each(fleet, debts, owner=None, said=said)


async def nobody_alive(store: Store) -> None:
    """Return once every service was silent for long enough. Raises `Refused` for one that lives.

    A backup holds the signs of life of when it was made: one that shows no new one is gone.
    """
    seen: dict[str, datetime] = {}
    while alive := [beat for beat in await _beats(store) if beat.silent_secs <= ALIVE_SECS]:
        for beat in alive:
            name = f"{beat.process.kind} {beat.process.name} on {beat.process.host}"
            if seen.setdefault(name, beat.heartbeat_at) != beat.heartbeat_at:
                raise Refused(f"{name} is alive: stop every worker and price stream first")
        await asyncio.sleep(_LOOK_EVERY_SECS)


async def _beats(store: Store) -> list[Heartbeat]:
    async with store.read() as tx:
        return await workers.read(tx)


async def _begin(store: Store, *, owner: str, lost_since: datetime) -> list[Lease]:
    """Stop the fleet. Waits for leases that nobody renews any more."""
    give_up_secs = monotonic_secs() + 2 * LEASE_TTL_SECS
    while True:
        try:
            async with store.begin() as tx:
                return await recovery.begin(
                    tx,
                    owner=owner,
                    namespace=uuid4(),
                    lost_since=lost_since,
                    ttl_secs=LEASE_TTL_SECS,
                )
        except Refused:
            if monotonic_secs() > give_up_secs:
                raise
        await asyncio.sleep(_LOOK_EVERY_SECS)


async def _under(store: Store, held: Sequence[Lease], work: Coroutine[Any, Any, T]) -> T:
    """Do the work while the leases are kept, and give them back after it."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY_SECS)
            async with store.begin() as tx:
                kept = await leases.renew(tx, held, ttl_secs=LEASE_TTL_SECS)
            if len(kept) < len(held):
                raise Refused("somebody else has taken the leases: run recover again")

    working = asyncio.create_task(work, name="recovering")
    renewing = asyncio.create_task(renew(), name="renewing leases")
    try:
        await asyncio.wait((working, renewing), return_when=asyncio.FIRST_COMPLETED)
        if renewing.done():
            renewing.result()
        return await working
    finally:
        await _end((working, renewing))
        async with store.begin() as tx:
            await leases.release(tx, held)


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _each(
    fleet: Fleet,
    debts: Sequence[Debt],
    *,
    owner: str | None,
    said: Callable[[AccountReport], None],
) -> list[AccountReport]:
    accounts: defaultdict[int, list[Debt]] = defaultdict(list)
    for debt in debts:
        accounts[debt.credential_id].append(debt)
    turns = asyncio.Semaphore(ACCOUNTS_AT_ONCE)

    async def one(owed: Sequence[Debt]) -> AccountReport:
        async with turns:
            report = await _account(fleet, owed, owner=owner)
        said(report)
        return report

    tasks = [asyncio.create_task(one(owed)) for owed in accounts.values()]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _end(tasks)


async def _account(fleet: Fleet, debts: Sequence[Debt], *, owner: str | None) -> AccountReport:
    """Recover one account, and write down whether it is still owed."""
    if fleet.venue is None:
        report = AccountReport(
            credential_id=debts[0].credential_id, user=debts[0].user, venue=debts[0].venue
        )
        report.problem = "there is no vault key to open its key with: set BOTFLEET_VAULT_KEY_FILE"
    else:
        scope = Scope(owner=owner, not_found_secs=fleet.not_found_secs)
        if owner is not None:
            await _shown(fleet, debts)
        report = await AccountRecovery(fleet.store, fleet.venue, debts, scope=scope).run()
    if owner is not None:
        async with fleet.store.begin() as tx:
            if report.problem is not None:
                await recovery.unasked(tx, report.credential_id, report.problem)
            else:
                for debt in debts:
                    await recovery.asked(tx, debt)
    return report


async def _shown(fleet: Fleet, debts: Sequence[Debt]) -> None:
    """Return once the venue shows what was sent last: before that, nothing there proves nothing."""
    begun_at = [debt.begun_at for debt in debts if debt.asked_at is None]
    if not begun_at:
        return
    async with fleet.store.read() as tx:
        now = await changes.clock(tx)
    shown_at = max(begun_at) + timedelta(seconds=fleet.not_found_secs[debts[0].venue])
    await asyncio.sleep(max(0.0, (shown_at - now).total_seconds()))
