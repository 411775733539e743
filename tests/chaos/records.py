"""What was done to the fleet and when, as data: for the judge, the report, and whoever looks."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

LONG_AFTER: Final = datetime.max.replace(tzinfo=UTC)


class Harm(StrEnum):
    """What a disturbance keeps from working, as far as the promises about time go."""

    DATABASE = "database"
    """The database is away, for everybody."""
    DATABASE_LINK = "database link"
    """One process's way to the database."""
    WORKER = "worker"
    """A worker is gone, frozen or on its way."""
    SENDING = "sending"
    """Orders are answered badly by a venue, or not."""
    ASKING = "asking"
    """A venue answers questions badly or late, or not, or one process does not reach it."""
    OTHER = "other"


@dataclass(slots=True, kw_only=True)
class Disturbance:
    """One fault that was injected: its kind, what it hit, from when to when."""

    kind: str
    target: str
    harm: Harm
    since: datetime
    until: datetime = LONG_AFTER
    venue: str | None = None
    """Which venue it concerns; None: not a venue, or both."""

    def __str__(self) -> str:
        secs = (self.until - self.since).total_seconds()
        return f"{self.since:%H:%M:%S.%f} {self.kind}: {self.target}, for {secs:.1f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A process that was killed, or frozen past its lease, while it may have held leases."""

    owner: str
    """As the leases name it, or what its name begins with."""
    at: datetime


@dataclass(slots=True, kw_only=True)
class Records:
    """Everything about one run that the database and the journal do not know."""

    folder: Path
    seed: int
    lease_ttl_secs: float
    poll_secs: float
    injected: Counter[str] = field(default_factory=Counter)
    idle: Counter[str] = field(default_factory=Counter)
    """Faults that waited for something which did not happen in their time."""
    disturbances: list[Disturbance] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    came_back: list[str] = field(default_factory=list)
    """Processes that ended by themselves and were started again, with their last words."""
    broken: list[str] = field(default_factory=list)
    """What the run itself saw go wrong."""
    faults_off_at: datetime = LONG_AFTER
    drained_at: datetime | None = None

    def begin(self, kind: str, target: str, harm: Harm, *, venue: str | None = None) -> Disturbance:
        """Note a fault that begins now. Whoever injected it says when it ends."""
        disturbance = Disturbance(kind=kind, target=target, harm=harm, since=now(), venue=venue)
        self.disturbances.append(disturbance)
        return disturbance


def now() -> datetime:
    return datetime.now(UTC)
