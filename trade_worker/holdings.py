"""What a worker believes to hold, and how far it is with what lives there: shards and their leases.

Pure: the shell (shards.py) asks the database and tells what came of it.
"""

from collections.abc import Iterable
from typing import Final

from shared.leases import Lease

SAFETY_SECS: Final = 0.2
"""A holder stops deciding this long before its lease ends, so that what it decided can commit."""

Shards = frozenset[int]


class Holdings:
    """The leases of one worker, by shard.

    A shard is granted, then served once its bots are loaded, then maybe leaving while its last
    work is finished, and given up. At any time it can be lost. What is believed here is never
    more than what the database grants: a lease counts until its `valid_until`, which its holder
    took before it asked.
    """

    def __init__(self) -> None:
        self._leases: dict[int, Lease] = {}
        self._served: Shards = frozenset()
        self._leaving: Shards = frozenset()

    @property
    def shards(self) -> Shards:
        """What was held when the database last answered."""
        return frozenset(self._leases)

    @property
    def leases(self) -> list[Lease]:
        """The leases to renew, by number."""
        return [self._leases[shard] for shard in sorted(self._leases)]

    @property
    def unserved(self) -> Shards:
        """Granted, but its bots are not loaded yet, or were loaded under an earlier grant."""
        return self.shards - self._served - self._leaving

    def epoch(self, shard: int, now_secs: float) -> int | None:
        """Under which epoch intents of the shard may be committed; None: they may not be.

        `now_secs` is on the clock of `Lease.valid_until`.
        """
        lease = self._leases.get(shard)
        if lease is None or shard in self._leaving:
            return None
        return lease.epoch if now_secs <= lease.valid_until - SAFETY_SECS else None

    def any_valid(self, now_secs: float) -> bool:
        """Whether intents of any shard may be committed."""
        return any(self.epoch(shard, now_secs) is not None for shard in self._leases)

    def grant(self, leases: Iterable[Lease]) -> Shards:
        """These were granted. Returns those that are loaded as they were under an earlier grant.

        Another may have traded there in between: the caller forgets their bots now.
        """
        granted = {lease.number: lease for lease in leases}
        outdated = self._served & granted.keys()
        self._leases |= granted
        self._served -= outdated
        return outdated

    def renew(self, renewed: Iterable[Lease]) -> Shards:
        """Of all `leases`, the database renewed these. Returns the lost: forget their bots now."""
        # What was given up while the database was asked stays given up.
        kept = {lease.number: lease for lease in renewed if lease.number in self._leases}
        lost = self.shards - kept.keys()
        self.give_up(lost)
        self._leases |= kept
        return lost

    def serve(self, shards: Iterable[int]) -> None:
        """The bots of these are loaded. One that was lost meanwhile is not served."""
        self._served |= self.shards.intersection(shards)

    def leave(self, shards: Iterable[int]) -> None:
        """Nothing new is decided for these, until they are given up."""
        self._leaving = self.shards.intersection(shards)

    def give_up(self, shards: Iterable[int]) -> None:
        """These are no longer held, whether or not the database could be told."""
        for shard in (gone := frozenset(shards)):
            self._leases.pop(shard, None)
        self._served -= gone
        self._leaving -= gone
