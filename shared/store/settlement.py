"""What became of orders at their venues, and what that makes of their positions."""

from dataclasses import dataclass
from decimal import Decimal

from shared.orders import Fill, OrderStatus
from shared.store.trading import PositionState


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """News of one order. `executed` None: the venue has told nothing of it (yet).

    `status` is what the order is now, by the venue's word or by ours (`unknown`, `expired` where
    it was never sent, `not_placed`). A final one counts only once the fills that are known sum
    to `executed`; until then the order stays `open`. `detail` is for people.
    """

    client_order_id: str
    status: OrderStatus
    venue_order_id: str | None = None
    executed: Decimal | None = None
    fills: tuple[Fill, ...] = ()
    sent_at_ms: int | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """An order and its position as a settlement left them.

    `sequence` is that of the position which the fills went to: a later one than the order's for
    a late fill. `adopted`: it was thought not to exist, or its fill came late. `changed` false:
    all of it was known before.
    """

    status: OrderStatus
    sequence: int
    position: PositionState
    adopted: bool = False
    changed: bool = True
