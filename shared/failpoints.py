"""Named points in the code at which a test lets a process die, fail or freeze.

Off, each costs the call of an empty function. Nothing in the product can switch one on, and no
setting or environment variable: `hit` is replaced by tests/chaos/member.py alone, which is not
part of the installed package. Call it as `failpoints.hit(Point.…)`, so that it can be replaced.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final


class Point(StrEnum):
    """Each point is hit in one place: `WHERE` says in which."""

    BEFORE_COMMIT = "before_commit"
    """Decided, and nothing is in the database."""
    IN_COMMIT = "in_commit"
    """Intents are written, COMMIT is not sent."""
    AFTER_COMMIT = "after_commit"
    """Intents are durable, nobody is told."""
    BEFORE_SEND = "before_send"
    """The order may go out: everything has been checked."""
    IN_SEND = "in_send"
    """The request is stamped with its deadline, and not written."""
    AFTER_SEND = "after_send"
    """The venue has answered, nothing of it is written."""
    BEFORE_SETTLE = "before_settle"
    IN_SETTLE = "in_settle"
    """What became of orders is written, COMMIT is not sent."""
    AFTER_SETTLE = "after_settle"
    """It is durable, nobody is told."""
    AFTER_ASK = "after_ask"
    """The venue has told what became of an order, or that it has none; nothing is written."""
    BEFORE_RELAY = "before_relay"
    """Events are read from the outbox, and not published."""
    AFTER_RELAY = "after_relay"
    """The broker has confirmed events, the outbox does not know."""
    BEFORE_ACKNOWLEDGE = "before_acknowledge"
    """Ticks are judged, the broker does not know."""
    BEFORE_RENEW = "before_renew"
    IN_TAKE = "in_take"
    """The database has granted leases, we have not noted them."""
    AFTER_TAKE = "after_take"
    """Leases are ours, their bots are not loaded."""
    AFTER_LOAD = "after_load"
    """Bots are loaded, and do not count as served."""
    BEFORE_RELEASE = "before_release"
    """What was in flight is finished, some leases are not given back."""
    BEFORE_LEAVE = "before_leave"
    """As `BEFORE_RELEASE`, at the end of the process: it keeps none."""
    BEFORE_LEAD = "before_lead"
    """The price stream asks the database who leads."""
    BEFORE_TICKS = "before_ticks"
    """The price stream may publish, and has not."""
    AFTER_TICKS = "after_ticks"
    """The broker has taken ticks, nothing is noted."""


WHERE: Final[Mapping[Point, str]] = {
    Point.BEFORE_COMMIT: "trade_worker/execution.py: _execute",
    Point.IN_COMMIT: "trade_worker/execution.py: _execute",
    Point.AFTER_COMMIT: "trade_worker/execution.py: _execute",
    Point.BEFORE_SEND: "trade_worker/desk.py: _place",
    Point.IN_SEND: "trade_worker/venues/venue_desk.py: _addition",
    Point.AFTER_SEND: "trade_worker/desk.py: _place",
    Point.BEFORE_SETTLE: "trade_worker/settling.py: _write",
    Point.IN_SETTLE: "trade_worker/settling.py: _write",
    Point.AFTER_SETTLE: "trade_worker/settling.py: _write",
    Point.AFTER_ASK: "trade_worker/reconcile.py: _find_out",
    Point.BEFORE_RELAY: "trade_worker/relay.py: _publish",
    Point.AFTER_RELAY: "trade_worker/relay.py: _publish",
    Point.BEFORE_ACKNOWLEDGE: "trade_worker/worker.py: _consume",
    Point.BEFORE_RENEW: "trade_worker/shards.py: renew",
    Point.IN_TAKE: "trade_worker/shards.py: _take",
    Point.AFTER_TAKE: "trade_worker/shards.py: _serve",
    Point.AFTER_LOAD: "trade_worker/shards.py: _serve",
    Point.BEFORE_RELEASE: "trade_worker/shards.py: _give_back",
    Point.BEFORE_LEAVE: "trade_worker/shards.py: leave",
    Point.BEFORE_LEAD: "price_stream/lead.py: _ask",
    Point.BEFORE_TICKS: "price_stream/publisher.py: publish",
    Point.AFTER_TICKS: "price_stream/publisher.py: publish",
}
"""Point → file: function, the only place that hits it."""


def off(point: Point) -> None:
    """Nothing happens here."""


hit: Callable[[Point], None] = off
