"""How one venue is spoken to: what a dialect knows, and the adapter does not."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from shared.orders import LiveOrder
from shared.request_limits import Request
from trade_worker.venues import Report, Sent
from trade_worker.venues.replies import Judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One private request: `path`, `method` and `api` as ccxt names them. `request` is what the
    limiter counts it as."""

    request: Request
    path: str
    params: Mapping[str, str]
    method: str = "POST"
    api: str = "private"


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The venue's clock now, and when it must refuse what arrives; both never ahead of it."""

    now_ms: int
    deadline_ms: int


Asking = Callable[[Call], Awaitable[Judged]]
"""Makes one private request. Raises `VenueUnavailable` where no reply came."""


class Dialect(Protocol):
    """One venue's requests and replies. No state, no I/O but through `Asking`.

    Methods that read replies raise `replies.Unreadable` where those make no sense.
    """

    least_secs: float
    """How much of its time an order must have left for the venue to take it."""
    clock_path: str
    clock_resolution_ms: int

    def told_time_ms(self, judged: Judged) -> int:
        """The server time in a reply, rounded down to the resolution."""
        ...

    def stamped(self, call: Call, times: Times) -> Call:
        """The call with what limits it to its time, as every call needs it."""
        ...

    def addition(self, order: LiveOrder, symbol: str, times: Times) -> Call:
        """The request that places the order, once and within its time."""
        ...

    def accepted(self, order: LiveOrder, judged: Judged) -> Sent:
        """What a reply without an error says of the order that was sent."""
        ...

    async def report(self, order: LiveOrder, symbol: str, asking: Asking) -> Report | None:
        """What the venue knows of the order; None where it says that there is none."""
        ...

    def cancellation(self, order: LiveOrder, symbol: str) -> Call: ...

    async def balances(self, asking: Asking) -> Mapping[str, Decimal]:
        """What is free, by the venue's own names of currencies."""
        ...
