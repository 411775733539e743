"""What a venue says when an order is sent to it or asked for: data alone."""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from shared.orders import Fill, OrderStatus


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
