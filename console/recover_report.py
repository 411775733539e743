"""What a recovery found, account by account."""

from dataclasses import dataclass, field
from decimal import Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class LookedFor:
    """An order with what the venue says of it. `outcome` is for people."""

    client_order_id: str
    bot_id: int
    pair: str
    sequence: int
    leg: str
    attempt: int
    status: str
    executed: Decimal
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A coin: what positions say is there to sell, and what is free on the account."""

    currency: str
    held: Decimal
    free: Decimal

    @property
    def short(self) -> bool:
        return self.free < self.held


@dataclass(slots=True, kw_only=True)
class AccountReport:
    """What became of one account. `problem` None: everything was asked and written down.

    `found` are orders that the database did not know, `settled` those that it knew as
    unsettled. `ids_asked` counts ids that were asked for one by one, `listed` the orders that
    the venue listed (None: it did not). `strangers` look like orders of ours and are no bot's
    that the database knows.
    """

    credential_id: int
    user: str
    venue: str
    found: list[LookedFor] = field(default_factory=list)
    settled: list[LookedFor] = field(default_factory=list)
    ids_asked: int = 0
    listed: int | None = None
    strangers: tuple[str, ...] = ()
    holdings: tuple[Holding, ...] = ()
    notes: list[str] = field(default_factory=list)
    problem: str | None = None
