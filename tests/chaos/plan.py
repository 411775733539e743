"""Which faults a run injects and when: drawn from a seed, as data. Pure.

The same seed gives the same plan. What the fleet makes of it differs from run to run, as its
processes race; the plan is what repeats.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ecosystem.venue_simulator.faults import FaultKind

VENUES: Final = ("kraken", "binance")
LINKS: Final = ("amqp", "postgres", *VENUES)

PROCESS_FAULTS: Final[Mapping[str, float]] = {
    "kill a worker": 6,
    "kill a worker, start it later": 4,
    "freeze a worker briefly": 4,
    "freeze a worker past its lease": 5,
    "replace a worker": 3,
    "a second worker of the same name": 2,
    "a worker dies at a failpoint": 6,
    "kill the leading stream": 3,
    "kill the standby stream": 1,
    "freeze the leading stream": 2,
    "kill the broker": 1,
    "freeze the broker": 1.5,
    "kill the database": 2,
    "restart the database": 1,
    "freeze the database": 2,
}
"""By weight."""

TAKEOVERS: Final = (
    "kill a worker",
    "kill a worker, start it later",
    "freeze a worker past its lease",
    "kill the leading stream",
)
"""Faults after which others must take over within the promised time."""
ALONE_RATE: Final = 0.2

LINK_FAULTS: Final[Mapping[str, float]] = {
    "cut": 2,
    "reset": 3,
    "refuse": 2,
    "black hole": 3,
    "black hole up": 3,
    "black hole down": 4,
    "delay": 3,
    "throttle": 2,
    "lose the answer": 6,
    "cut inside": 3,
    "cut the answer": 3,
}
LINK_WEIGHTS: Final[Mapping[str, float]] = {"amqp": 10, "postgres": 14, "kraken": 7, "binance": 7}

SENDING_FAULTS: Final[Sequence[Mapping[str, Any]]] = (
    {"kind": "accept_then_drop"},
    {"kind": "accept_then_fail"},
    {"kind": "accept_then_garbage"},
    {"kind": "cut_body"},
    {"kind": "late", "delay_secs": 1.0},
    {"kind": "late", "delay_secs": 2.5, "status": 0},
    {"kind": "late", "delay_secs": 4.0},
    {"kind": "refuse_then_fail"},
    {"kind": "refuse_then_fail", "status": 504},
    {"kind": "fill_first", "delay_secs": 1.0},
    {"kind": "partial", "parts": 3, "fraction": 0.6, "delay_secs": 0.3},
    {"kind": "partial", "parts": 2, "fraction": 1.0, "delay_secs": 1.5},
    {"kind": "throttle", "retry_after_secs": 1},
    {"kind": "slow", "delay_secs": 1.5},
    {"kind": "slow", "delay_secs": 5.0},
    {"kind": "fail"},
    {"kind": "garbage"},
    {"kind": "maintenance"},
)
"""What can become of a new order."""

ASKING_FAULTS: Final[Sequence[Mapping[str, Any]]] = (
    {"kind": "lag", "delay_secs": 2.0},
    {"kind": "lag", "delay_secs": 4.5},
    {"kind": "duplicate_fills"},
    {"kind": "reorder_fills"},
    {"kind": "fail", "endpoint": "order_query"},
    {"kind": "garbage", "endpoint": "trades"},
    {"kind": "slow", "endpoint": "closed_orders", "delay_secs": 1.0},
    {"kind": "cut_body", "endpoint": "open_orders"},
    {"kind": "accept_then_drop", "endpoint": "order_query"},
    {"kind": "accept_then_garbage", "endpoint": "trades"},
    {"kind": "accept_then_drop", "endpoint": "cancel"},
    {"kind": "throttle", "endpoint": "order_query", "retry_after_secs": 1},
    {"kind": "fail", "endpoint": "balance"},
)
"""What can become of questions."""

VENUE_FAULTS: Final[Sequence[Mapping[str, Any]]] = (
    {"kind": "fail"},
    {"kind": "maintenance"},
    {"kind": "ban", "retry_after_secs": 3},
    {"kind": "revoked", "account": "user0"},
    {"kind": "clock_skew", "skew_secs": 2.0},
    {"kind": "clock_skew", "skew_secs": -2.0},
    {"kind": "refuse", "pair": "BTC"},
    {"kind": "missing_bid", "pair": "ETH"},
    {"kind": "zero_price", "pair": "BTC"},
    {"kind": "nan_price", "pair": "SOL"},
    {"kind": "jump", "factor": 0.93},
    {"kind": "jump", "factor": 1.07, "pair": "ETH"},
)
"""What can become of the whole venue, or of a market there. `pair` is the base currency."""

MANY_AT_ONCE: Final = "venues: many at once"

_FAMILIES: Final[Mapping[str, float]] = {"process": 3, "link": 4, "venue": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One fault to inject `at_secs` after the start, for `secs` where it lasts.

    `pick` (from 0 to below 1) chooses among processes. `link` is the connection that a fault of
    a link harms, of one process or, if `everywhere`, of all. `faults` are the fields of the
    simulator's faults, with their venue. `alone` has everything else healed before and after: so
    much of a promise about time can be shown.
    """

    at_secs: float
    kind: str
    pick: float
    secs: float
    link: str | None = None
    everywhere: bool = False
    alone: bool = False
    faults: Sequence[Mapping[str, Any]] = field(default=())

    @property
    def name(self) -> str:
        """What it is counted as."""
        return f"{self.link}: {self.kind}" if self.link else self.kind


def plan_of(
    seed: int, *, faults: int, every_secs: float, lease_ttl_secs: float, calm: bool = False
) -> list[Step]:
    """`faults` steps, `every_secs` apart on average.

    `calm` leaves out what takes long to recover from: the broker killed.
    """
    draw = random.Random(seed)
    steps = []
    at_secs = 0.0
    for _ in range(faults):
        at_secs += draw.uniform(0.2, 1.8) * every_secs
        family = _weighted(draw, _FAMILIES)
        steps.append(_STEP_OF[family](draw, at_secs, lease_ttl_secs, calm))
    return steps


def _process_step(draw: random.Random, at_secs: float, ttl_secs: float, calm: bool) -> Step:
    skipped = {"kill the broker"} if calm else set()
    kind = _weighted(draw, {k: w for k, w in PROCESS_FAULTS.items() if k not in skipped})
    if "past its lease" in kind:
        secs = draw.uniform(1.2, 2.5) * ttl_secs
    elif "the database" in kind or "the broker" in kind:
        secs = draw.uniform(0.5, 6.0)
    else:
        secs = draw.uniform(0.2, 0.8) * ttl_secs
    alone = kind in TAKEOVERS and draw.random() < ALONE_RATE
    return Step(at_secs=at_secs, kind=kind, pick=draw.random(), secs=secs, alone=alone)


def _link_step(draw: random.Random, at_secs: float, ttl_secs: float, calm: bool) -> Step:
    del calm
    return Step(
        at_secs=at_secs,
        kind=_weighted(draw, LINK_FAULTS),
        pick=draw.random(),
        secs=draw.choice([0.3, 0.6, 1.5]) * ttl_secs * draw.uniform(0.5, 1.2),
        link=_weighted(draw, LINK_WEIGHTS),
        everywhere=draw.random() < 0.15,
    )


def _venue_step(draw: random.Random, at_secs: float, ttl_secs: float, calm: bool) -> Step:
    del ttl_secs, calm
    if draw.random() < 0.12:
        kind = MANY_AT_ONCE
        faults = [_fault(draw, venue, family) for venue in VENUES for family in _STORM]
    else:
        (family,) = draw.choices([SENDING_FAULTS, ASKING_FAULTS, VENUE_FAULTS], [5, 3, 2])
        faults = [_fault(draw, draw.choice(VENUES), family)]
        kind = f"venue: {faults[0]['kind']}"
    secs = draw.uniform(2.0, 8.0)
    return Step(at_secs=at_secs, kind=kind, pick=draw.random(), secs=secs, faults=faults)


_STORM: Final = (SENDING_FAULTS, SENDING_FAULTS, SENDING_FAULTS, ASKING_FAULTS, ASKING_FAULTS)
_STEP_OF: Final = {"process": _process_step, "link": _link_step, "venue": _venue_step}


def _fault(
    draw: random.Random, venue: str, family: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    fault = {"venue": venue, **draw.choice(family)}
    if family is SENDING_FAULTS:
        fault["endpoint"] = "add_order"
    if family is not VENUE_FAULTS:
        fault["probability"] = draw.choice([0.3, 0.6, 1.0])
    if "pair" in fault:
        fault["pair"] += "/USD" if venue == "kraken" else "/USDT"
    return fault


def _weighted(draw: random.Random, weights: Mapping[str, float]) -> str:
    (drawn,) = draw.choices(list(weights), list(weights.values()))
    return drawn


def kinds_of_the_simulator() -> set[str]:
    """Every kind that some fault of the tables has."""
    tables = (SENDING_FAULTS, ASKING_FAULTS, VENUE_FAULTS)
    return {FaultKind(fault["kind"]).value for table in tables for fault in table}
