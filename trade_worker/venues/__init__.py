"""The order port: how an intent becomes fills.

Paper trading is an adapter of its own (`paper.py`), never an `if` inside the live one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

from shared.orders import Fill, Intent, LiveOrder, OrderStatus
from shared.vault import ApiKey


class OrderPort(Protocol):
    """One way to execute intents. An adapter serves one `shared.orders.Mode`."""

    def fill_at_commit(self, intent: Intent) -> Sequence[Fill]:
        """The fills that are true as soon as the intent is durable; they are committed with it.

        An adapter that has to ask a venue returns none.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOf:
    """A credential, opened: its venue and its key."""

    venue: str
    key: ApiKey = field(repr=False)


class Verdict(StrEnum):
    """What is known after an order was sent once."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    """The venue proved that it refused."""
    UNKNOWN = "unknown"
    """It may have been accepted: only asking tells."""
    NOT_SENT = "not_sent"
    """It is certain that no byte of it reached the venue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An order as its venue tells it.

    `status` is one of open, filled, cancelled, expired and rejected. `executed` is the quantity
    that the venue says was traded, `fills` the trades that it has told so far: they may sum to
    less while they are on their way.
    """

    status: OrderStatus
    venue_order_id: str
    executed: Decimal
    fills: tuple[Fill, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What came of sending an order once. `text` is harmless: never a URL, a body or a secret.

    `report` is what the venue's reply already tells of an accepted order. `credential_refused`:
    the venue does not take the key. `funds_short`: the account has not got what it takes.
    `retry_after_secs` is the venue's wish.
    """

    verdict: Verdict
    text: str = ""
    report: Report | None = None
    venue_order_id: str | None = None
    credential_refused: bool = False
    funds_short: bool = False
    retry_after_secs: float | None = None


class VenueOrders(OrderPort, Protocol):
    """Live trading at one venue. Safe for any number of concurrent calls.

    `ask`, `cancel` and `balances` raise `VenueUnavailable` when the venue is slow, fails,
    throttles or answers what cannot be read, and `CredentialRefused` when the key cannot be
    used. No call retries by itself, and none leaves a secret in an error.
    """

    async def start(self) -> None:
        """Open sessions. Must come first."""
        ...

    async def close(self) -> None: ...

    async def send(self, order: LiveOrder, *, send_by_secs: float) -> Sent:
        """Send the order, once. `send_by_secs` is the monotonic moment after which nothing may
        be sent and the venue must refuse. Raises nothing but `CancelledError`, and that only
        where the outcome is unknown."""
        ...

    async def ask(self, order: LiveOrder) -> Report | None:
        """What the venue knows of this order, by our id (and by its own, where we have that);
        None where the venue says that there is none. Orders that are not ours are never
        returned."""
        ...

    async def cancel(self, order: LiveOrder) -> None:
        """Ask the venue to cancel; what came of it, `ask` tells. An order that is gone is fine."""
        ...

    async def balances(self, credential_id: int) -> Mapping[str, Decimal]:
        """What is free to spend, by currency."""
        ...
