"""What news of an order makes of it, and what its fills make of the position."""

from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Final, NamedTuple

from shared.money import MarketRules, exact, floor_to
from shared.orders import (
    TRANSITIONS,
    Fill,
    Leg,
    Mode,
    OrderStatus,
    PositionStatus,
    PositionTotals,
)

_FINAL: Final = frozenset(status for status, later in TRANSITIONS.items() if not later)
_NEVER_TRADED: Final = frozenset(
    {OrderStatus.EXPIRED, OrderStatus.REJECTED, OrderStatus.NOT_PLACED}
)
"""Ends that, told without an executed quantity, say that nothing was executed."""


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


class PositionOutcome(NamedTuple):
    """What a position is now; `dust` is what a closed one holds and cannot sell."""

    status: PositionStatus
    dust: Decimal


def status_after(
    now: OrderStatus, told: OrderStatus, *, executed: Decimal | None, filled: Decimal, blocked: bool
) -> OrderStatus:
    """The status of an order that was `now` and is told to be `told`, with `filled` known.

    `executed` is what the venue says was traded, None where it has told nothing. An end counts
    only once the known fills sum to that; until then the order is open. An end stays whatever
    is told later. `blocked`: another order on the pair is unsettled, so that one that was not
    placed cannot become open beside it: it stays until its end is known.

    >>> status_after(OrderStatus.UNKNOWN, OrderStatus.FILLED, executed=Decimal(2),
    ...              filled=Decimal(1), blocked=False)
    <OrderStatus.OPEN: 'open'>
    """
    aim = told
    if told in _FINAL or told is OrderStatus.NOT_PLACED:
        aim = told if _complete(told, executed, filled) else OrderStatus.OPEN
    later = TRANSITIONS[now]
    if now is OrderStatus.COMMITTED:
        # It may have been sent: but for who sends it, it is unknown.
        later |= TRANSITIONS[OrderStatus.UNKNOWN]
    if aim not in later or (aim is OrderStatus.OPEN and blocked):
        return now
    return aim


def _complete(told: OrderStatus, executed: Decimal | None, filled: Decimal) -> bool:
    if executed is None:
        return told in _NEVER_TRADED and not filled
    return executed == filled and (told is not OrderStatus.FILLED or filled > 0)


def position_after(
    now: PositionStatus,
    totals: PositionTotals,
    *,
    waits_for: Leg | None,
    rules: MarketRules | None,
    price: Decimal,
) -> PositionOutcome:
    """What a position is by its totals, whatever the order in which its fills came.

    `waits_for` is the leg of its unsettled order, None without one: until that is settled, it
    is neither open nor closed. A closed one stays closed: what it still holds is dust, as is
    what the venue's rules do not let be sold at `price`. Unknown rules let everything be sold.
    """
    held = max(totals.held, Decimal(0))
    if now is PositionStatus.CLOSED:
        return PositionOutcome(now, held)
    if waits_for is Leg.EXIT:
        return PositionOutcome(PositionStatus.CLOSING, Decimal(0))
    if waits_for is Leg.ENTRY:
        return PositionOutcome(now, Decimal(0))
    if held and _sellable(held, rules, price):
        return PositionOutcome(PositionStatus.OPEN, Decimal(0))
    return PositionOutcome(PositionStatus.CLOSED, held)


class Home(Enum):
    """Which position an order's new fills go to."""

    OWN = "own"
    CURRENT = "current"
    """The one of its pair that is not closed."""
    NEW = "new"


def home_of(leg: Leg, mode: Mode, *, own: PositionStatus | None, current: Mode | None) -> Home:
    """Where the fills of an order go whose own position is `own`, None where it is lost.

    `current` is the mode of the pair's unclosed position, None without one. What was bought
    late must be sold by somebody, so it joins that, or a new one; what was sold late changes
    the result of the position that it was sold from.
    """
    if own is not None and (leg is Leg.EXIT or own is not PositionStatus.CLOSED):
        return Home.OWN
    if current is mode:
        return Home.CURRENT
    # A live fill cannot join a position on paper: it stays as dust where it came from.
    return Home.OWN if own is not None and current is not None else Home.NEW


def new_home_status(leg: Leg, *, current: Mode | None) -> PositionStatus:
    """What a position is that is made for late fills, before it has any.

    What was sold is not there to sell, and a pair has one unclosed position.
    """
    sellable = leg is Leg.ENTRY and current is None
    return PositionStatus.OPEN if sellable else PositionStatus.CLOSED


def _sellable(held: Decimal, rules: MarketRules | None, price: Decimal) -> bool:
    if rules is None:
        return True
    with exact():
        lots = floor_to(held, rules.lot_step) if rules.lot_step > 0 else held
        return lots > 0 and lots >= rules.min_quantity and lots * price >= rules.min_notional
