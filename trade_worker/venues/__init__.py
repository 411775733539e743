"""The order port: how an intent becomes fills.

Paper trading is an adapter of its own (`paper.py`), never an `if` inside the live one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from shared.orders import Fill, Intent, LiveOrder
from shared.vault import ApiKey
from trade_worker.answers import Report, Sent, Verdict

__all__ = ["KeyOf", "OrderPort", "Report", "Sent", "VenueOrders", "Verdict"]


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
