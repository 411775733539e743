"""Which shards this worker holds: leases, renewed, in fair shares with the other workers.

A shard is moved by its holder: it stops deciding, finishes what is in flight, gives the lease
back and says so; whoever should have it takes it under the next epoch. Without that, only a
lease that ran out is taken, or one of an earlier process of the same name that is dead.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from shared import failpoints
from shared.clock import monotonic_secs
from shared.errors import LeaseRefused, StoreUnavailable, WorkerReplaced
from shared.failpoints import Point
from shared.leases import LeaseKind
from shared.sharding import moves_of
from shared.store import leases, workers
from shared.store.engine import Store
from shared.store.workers import Process, ProcessKind
from trade_worker.holdings import Holdings

log = logging.getLogger(__name__)

RENEWALS_PER_TTL: Final = 3
LOOKS_PER_TTL: Final = 10
SILENT_TTLS: Final = 0.5
"""A worker silent for so many lease times has no share any more.

Less than the part of a lease time that is left after a renewal, 1 - 1 / `RENEWALS_PER_TTL`, so
that the others share out a dead worker's shards as soon as its leases run out.
"""
BEAT_EVERY_SECS: Final = 0.3
"""How often a worker shows that it is alive: a newcomer of its name watches for `WATCH_SECS`."""

RETRY_SECS: Final = 0.2
"""A renewal that failed is tried again this soon: it may have used up most of the lease's time."""

WATCH_SECS: Final = 1.0
_WATCH_AT_LEAST_SECS: Final = 2 * BEAT_EVERY_SECS


class Tenant(Protocol):
    """Who lives on the shards: the rest of the worker."""

    async def move_in(self, shards: frozenset[int]) -> None:
        """Load what is on these shards and serve it. May raise `StoreUnavailable`."""
        ...

    async def move_out(self, shards: frozenset[int]) -> None:
        """Finish what is in flight and write what is not written, so that others may go on.

        Nothing new is decided for these shards meanwhile. Returns in bounded time.
        """
        ...

    def lose(self, shards: frozenset[int]) -> None:
        """Forget these, and say that their leases ran out: they are free for anyone."""
        ...

    def forget(self, shards: frozenset[int]) -> None:
        """Drop what is on these shards: it is served by somebody else, or by nobody yet."""
        ...


class Shards:
    """The leases of one worker process."""

    def __init__(
        self,
        store: Store,
        *,
        process: Process,
        ttl_secs: float,
        announce: Callable[[], Awaitable[None]],
    ) -> None:
        """`announce` asks the other workers to look at the leases now, as well as it can."""
        self.owner = process.owner
        self._store = store
        self._process = process
        self._ttl_secs = ttl_secs
        self._announce = announce
        self._holdings = Holdings()
        self._joined = False
        self._alive_secs = max(SILENT_TTLS * ttl_secs, 3 * BEAT_EVERY_SECS)
        self._look = asyncio.Event()
        self._asking = asyncio.Lock()
        """One question about our leases at a time: its answer fits what was asked."""

    def epoch(self, shard: int) -> int | None:
        """The epoch under which intents of this shard may be committed now, or None."""
        return self._holdings.epoch(shard, monotonic_secs())

    @property
    def valid(self) -> bool:
        """Whether any shard may be decided for now."""
        return self._holdings.any_valid(monotonic_secs())

    @property
    def held(self) -> frozenset[int]:
        """The shards whose leases were valid at the last renewal."""
        return self._holdings.shards

    def look(self) -> None:
        """Somebody came, left or gave shards back: look at the leases now."""
        self._look.set()

    async def join(self) -> None:
        """Become a member: from now on the others leave us our share.

        An earlier process of our name is watched for a second. If it lives, raises
        `LeaseRefused`; if not, its leases are taken from it. Raises `StoreUnavailable`.
        """
        async with self._store.read() as tx:
            incumbent = await workers.find(tx, self._process)
        if incumbent is not None:
            await self._make_sure_that_it_is_dead(incumbent)
        self._joined = True
        # Without an incumbent: what an earlier try took whose COMMIT was not answered.
        gone = self.owner if incumbent is None else incumbent.process.owner
        async with self._store.begin() as tx:
            if not await workers.join(tx, self._process, in_place_of=incumbent):
                raise LeaseRefused(f"another worker {self._process.name} has just started")
            taken = await leases.take_over(
                tx, LeaseKind.SHARD, self.owner, ttl_secs=self._ttl_secs, replacing=gone
            )
        self._holdings.grant(taken)
        await self._announce()

    async def renew(self, tenant: Tenant) -> None:
        """Keep what is held, until cancelled. Leases found lost are forgotten at once."""
        away = False
        while True:
            await asyncio.sleep(RETRY_SECS if away else self._ttl_secs / RENEWALS_PER_TTL)
            try:
                failpoints.hit(Point.BEFORE_RENEW)
                async with self._asking:
                    async with self._store.begin() as tx:
                        renewed = await leases.renew(
                            tx, self._holdings.leases, ttl_secs=self._ttl_secs
                        )
                    lost = self._holdings.renew(renewed)
            except StoreUnavailable as exc:
                if not away:
                    log.warning("cannot renew the leases: %s", exc)
                away = True
                continue
            away = False
            if lost:
                tenant.lose(lost)
                self.look()

    async def balance(self, tenant: Tenant) -> None:
        """Move towards a fair share, until cancelled."""
        away = False
        while True:
            pause_secs = self._ttl_secs / LOOKS_PER_TTL
            try:
                if away:
                    await self._see_who_lives()
                await self._serve(tenant)
                pause_secs = min(pause_secs, await self._move(tenant))
            except StoreUnavailable as exc:
                if not away:
                    log.warning("cannot look at the leases: %s", exc)
                away = True
            else:
                away = False
            await self._woken(pause_secs)

    async def beat(self) -> None:
        """Show that we are alive, until cancelled.

        Raises `WorkerReplaced` once another process has taken our name: we were paused or cut
        off for so long that it thought us dead.
        """
        while True:
            try:
                async with self._store.begin() as tx:
                    ours = await workers.show_life(tx, self._process)
            except StoreUnavailable:
                ours = True  # `renew` says so
            if not ours:
                raise WorkerReplaced(
                    f"another process took over as worker {self._process.name}, "
                    "while this one was silent"
                )
            await asyncio.sleep(BEAT_EVERY_SECS)

    async def leave(self, tenant: Tenant) -> None:
        """Give everything back and stop being a member, so that successors need not wait."""
        shards = self.held
        self._holdings.leave(shards)
        await tenant.move_out(shards)
        failpoints.hit(Point.BEFORE_LEAVE)
        await self.abandon()
        tenant.forget(shards)
        await self._announce()

    async def abandon(self) -> None:
        """Give everything back without finishing anything. Safe to call twice."""
        if not self._joined:
            return
        self._joined = False
        self._holdings.give_up(self.held)
        try:
            async with self._asking, self._store.begin() as tx:
                await workers.goodbye(tx, self._process)
                # Not only what we know of: a cancelled COMMIT may have granted more.
                await leases.release_all(tx, LeaseKind.SHARD, self.owner)
        except StoreUnavailable as exc:
            log.warning("could not release leases, they will expire: %s", exc)

    async def _make_sure_that_it_is_dead(self, incumbent: workers.Heartbeat) -> None:
        name = self._process.name
        log.info("an earlier worker %s did not say goodbye: watching it", name)
        # It has been watched already for as long as it was silent, by the database's clock.
        await asyncio.sleep(max(WATCH_SECS - incumbent.silent_secs, _WATCH_AT_LEAST_SECS))
        async with self._store.read() as tx:
            now = await workers.find(tx, self._process)
        if now is not None and now.heartbeat_at != incumbent.heartbeat_at:
            raise LeaseRefused(
                f"worker {name} runs already, on {now.process.host} as process "
                f"{now.process.pid}: stop it first, or use another WORKER_ID"
            )

    async def _see_who_lives(self) -> None:
        """Return some heartbeats after the database is back.

        Until then everybody's last one is old, and whoever looked first would take everything.
        """
        async with self._store.read() as tx:
            await workers.find(tx, self._process)
        await asyncio.sleep(_WATCH_AT_LEAST_SECS)

    async def _move(self, tenant: Tenant) -> float:
        """Take a step towards a fair share; in how many seconds a dead worker's leases run out."""
        async with self._store.read() as tx:
            members = await workers.members(
                tx, ProcessKind.TRADE_WORKER, alive_secs=self._alive_secs
            )
            states = await leases.states(tx, LeaseKind.SHARD)
        if self.owner not in members:
            return self._ttl_secs  # silent for too long; `beat` finds out why
        owners = {state.number: state.owner if state.held else None for state in states}
        moves = moves_of(self.owner, members=members, owners=owners)
        if release := moves.release & self.held:
            log.info("giving back %d shards", len(release))
            await self._give_back(tenant, release)
            await self._announce()
        elif moves.take:
            await self._take(tenant, moves.take)
        soon = [state.left_secs for state in states if state.held and state.owner not in members]
        return min((secs for secs in soon if secs), default=self._ttl_secs)

    async def _take(self, tenant: Tenant, shards: frozenset[int]) -> None:
        async with self._asking:
            async with self._store.begin() as tx:
                taken = await leases.take(
                    tx, LeaseKind.SHARD, self.owner, ttl_secs=self._ttl_secs, numbers=shards
                )
            failpoints.hit(Point.IN_TAKE)
            outdated = self._holdings.grant(taken)
        if outdated:
            tenant.forget(outdated)
        if taken:
            log.info("took %d shards, hold %d", len(taken), len(self.held))
            await self._serve(tenant)

    async def _serve(self, tenant: Tenant) -> None:
        """Move in wherever we have not: after a grant, a takeover, or a try that failed."""
        if shards := self._holdings.unserved:
            failpoints.hit(Point.AFTER_TAKE)
            await tenant.move_in(shards)
            failpoints.hit(Point.AFTER_LOAD)
            self._holdings.serve(shards)
            log.info("serving %d more shards", len(shards))

    async def _give_back(self, tenant: Tenant, shards: frozenset[int]) -> None:
        self._holdings.leave(shards)
        try:
            await tenant.move_out(shards)
            failpoints.hit(Point.BEFORE_RELEASE)
            given = [lease for lease in self._holdings.leases if lease.number in shards]
            async with self._asking, self._store.begin() as tx:
                await leases.release(tx, given)
        except StoreUnavailable as exc:
            log.warning("could not release leases, they will expire: %s", exc)
        finally:
            self._holdings.give_up(shards)
            tenant.forget(shards)

    async def _woken(self, at_most_secs: float) -> None:
        """Wait for a call of `look`; now and then look without one."""
        try:
            async with asyncio.timeout(at_most_secs):
                await self._look.wait()
        except TimeoutError:
            return
        self._look.clear()
