"""What a lease is called and how a grant of it ends."""

from dataclasses import dataclass
from enum import StrEnum


class LeaseKind(StrEnum):
    """What a lease gives: a shard's bots, or the lead among price streams (number 0)."""

    SHARD = "shard"
    PRICE_STREAM = "price_stream"


class LeaseEnd(StrEnum):
    """Why a grant ended."""

    RELEASED = "released"
    """The holder gave it back."""
    EXPIRED = "expired"
    """The holder did not renew in time; the grant ended at its expiry."""
    REPLACED = "replaced"
    """Taken from a holder known to be gone, before its expiry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A lease as its holder knows it.

    `epoch` grows by one with every grant, and by many after a restore (shared/store/recovery.py):
    never back to one that the lost time knew. `valid_until` is on the holder's monotonic clock, in
    seconds: taken before the database was asked, so never later than the database's expiry.
    """

    kind: LeaseKind
    number: int
    owner: str
    epoch: int
    valid_until: float
