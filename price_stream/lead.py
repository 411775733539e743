"""Which price stream leads: the one that holds the lease, whose epoch orders its ticks.

Two rules, for two kinds of trouble:

- *The database is away.* Nobody can take the lease then, and prices must not stop: a leader
  whose renewals are not answered goes on publishing beyond its lease. It may be wrong: if only
  its own way to the database is cut, another leads by now. That harms nobody, because the other
  has a higher epoch: workers that heard it drop the lower one's ticks of every market, and
  `latest_ticks` never goes back. A worker that has heard only the old leader gets prices as
  fresh and as true as the new one's.
- *We were away*: paused, swapped out, stuck. The lease has run out although no renewal failed.
  Then the database is asked before another tick goes out.

Between the last look at the lease and the broker a pause can still fall. What slips out there
carries the old epoch.
"""

import asyncio
import contextlib
import logging
from typing import Final, Protocol

from shared import failpoints
from shared.clock import monotonic_secs
from shared.errors import StoreUnavailable
from shared.failpoints import Point
from shared.leases import Lease, LeaseKind
from shared.store import leases
from shared.store.engine import Store, Transaction

log = logging.getLogger(__name__)

RENEWALS_PER_TTL: Final = 3
LOOKS_PER_TTL: Final = 10
RETRY_SECS: Final = 1.0
"""While the database is away it is asked at least this often."""

AWAY_STANDS_SECS: Final = 10.0
"""So long a failed renewal says that the database is away: longer than a try and a pause last."""

_NOTHING_YET: Final = -1


class Candidate(Protocol):
    """The stream that leads or follows. Both are called with each change, and at the start."""

    def lead(self, stream_epoch: int) -> None:
        """Publish under this epoch from now on; it is above every epoch before it."""
        ...

    def follow(self) -> None:
        """Publish nothing from now on: another leads."""
        ...


class Lead:
    """The lease of the leading price stream as one process sees it, seeks it and keeps it."""

    def __init__(self, store: Store, *, owner: str, ttl_secs: float) -> None:
        """`owner` must be new with each start of a process."""
        self._store = store
        self._owner = owner
        self._ttl_secs = ttl_secs
        self._lease: Lease | None = None
        self._answered = False
        self._failed_at_secs: float | None = None
        self._asking = asyncio.Lock()
        self._look = asyncio.Event()
        self._over = False

    def look(self) -> None:
        """The lead may be free: ask for it now."""
        self._look.set()

    async def run(self, candidate: Candidate) -> None:
        """Seek the lead, keep it, seek it again once lost, and say so, until cancelled.

        A lease that ran out while nobody else took it is taken again, under a new epoch.
        """
        told: int | None = _NOTHING_YET
        while True:
            self._look.clear()
            async with self._asking:
                await self._ask()
            epoch = None if self._lease is None else self._lease.epoch
            if self._answered and epoch != told:
                _tell(candidate, epoch)
                told = epoch
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_secs):
                    await self._look.wait()

    async def permits(self) -> bool:
        """Whether ticks may go out now. Asks the database only after a pause of ours."""
        if self._lease is not None and not self._in_time:
            async with self._asking:
                if not self._in_time:
                    log.warning("the lead has run out: asking before another tick goes out")
                    await self._ask()
            self._look.set()
        return self._lease is not None

    async def give_back(self) -> bool:
        """Stop leading and seeking, so that a successor need not wait; True if we led.

        If the database is away, the lease is left to run out.
        """
        async with self._asking:
            self._over = True
            lease, self._lease = self._lease, None
            if lease is None:
                return False
            try:
                async with self._store.begin() as tx:
                    await leases.release(tx, [lease])
            except StoreUnavailable as exc:
                log.warning("could not give the lead back, it will expire: %s", exc)
            return True

    @property
    def _in_time(self) -> bool:
        """Whether the lease lasts, or has run out only because the database does not answer."""
        now_secs = monotonic_secs()
        if self._lease is not None and now_secs < self._lease.valid_until:
            return True
        failed_at_secs = self._failed_at_secs
        return failed_at_secs is not None and now_secs < failed_at_secs + AWAY_STANDS_SECS

    @property
    def _pause_secs(self) -> float:
        if self._lease is None:
            return self._ttl_secs / LOOKS_PER_TTL
        renewal_secs = self._ttl_secs / RENEWALS_PER_TTL
        return renewal_secs if self._failed_at_secs is None else min(renewal_secs, RETRY_SECS)

    async def _ask(self) -> None:
        """Renew what we hold, else take what nobody holds."""
        if self._over:
            return
        try:
            failpoints.hit(Point.BEFORE_LEAD)
            async with self._store.begin() as tx:
                lease = await self._renew(tx) or await self._take(tx)
        except StoreUnavailable as exc:
            if self._failed_at_secs is None:
                log.warning("cannot ask who leads: %s", exc)
            self._failed_at_secs = monotonic_secs()
        else:
            if self._failed_at_secs is not None:
                log.info("the database tells again who leads")
            self._lease, self._answered, self._failed_at_secs = lease, True, None

    async def _renew(self, tx: Transaction) -> Lease | None:
        held = [] if self._lease is None else [self._lease]
        return next(iter(await leases.renew(tx, held, ttl_secs=self._ttl_secs)), None)

    async def _take(self, tx: Transaction) -> Lease | None:
        lease = await leases.take_lead(tx, self._owner, ttl_secs=self._ttl_secs)
        if lease is None and self._failed_at_secs is not None:
            # A COMMIT whose answer was lost may have given it to us, under an epoch that we
            # never learned.
            ours = await leases.take_over(
                tx,
                LeaseKind.PRICE_STREAM,
                self._owner,
                ttl_secs=self._ttl_secs,
                replacing=self._owner,
            )
            lease = next(iter(ours), None)
        return lease


def _tell(candidate: Candidate, epoch: int | None) -> None:
    if epoch is None:
        log.info("another price stream leads: following it, ready to take over")
        candidate.follow()
    else:
        log.info("leading, epoch %d", epoch)
        candidate.lead(epoch)
