"""What a venue's routes are made of: endpoints that turn a query into a reply. Pure."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ecosystem.venue_simulator.faults import FaultKind, Spoiled
from ecosystem.venue_simulator.listings import Listing
from ecosystem.venue_simulator.market import Market

Query = Mapping[str, str]

EVER_MS: Final = 2**53
"""Later than any candle."""


class VenueRefusal(Exception):
    """The venue refuses a request: HTTP `status`, `headers` and the JSON `body` that it answers
    with."""

    def __init__(
        self, body: object, *, status: int, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(str(body))
        self.body = body
        self.status = status
        self.headers = headers or {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What goes back over HTTP. `body` is bytes as they are, or what becomes JSON."""

    body: object
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


def refused_reply(refusal: VenueRefusal) -> Reply:
    return Reply(body=refusal.body, status=refusal.status, headers=refusal.headers)


def one(_: Query) -> int:
    """The `weight` of most endpoints."""
    return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request that the venue understood, at `now_ms` on its clock."""

    query: Query
    listings: Sequence[Listing]
    """The markets that the request is about, in its order."""
    market: Market
    now_ms: int
    spoiled: Spoiled = field(default_factory=Spoiled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One path of a venue.

    `name` is one of `faults.ENDPOINTS`. `select` finds which of the venue's listings a query is
    about, `answer` makes the JSON body; both raise `VenueRefusal`. `weight` is what a request
    costs where the venue counts that.
    """

    path: str
    name: str
    select: Callable[[Query, Sequence[Listing]], Sequence[Listing]]
    answer: Callable[[Call], object]
    weight: Callable[[Query], int] = one


@dataclass(frozen=True, slots=True, kw_only=True)
class VenueApi:
    """A venue's public side: its name, as in `shared.venues`, and its endpoints."""

    venue: str
    endpoints: tuple[Endpoint, ...]


def nothing(_: Query, __: Sequence[Listing]) -> Sequence[Listing]:
    """The `select` of an endpoint that is about no market."""
    return ()


def closes(spoiled: Spoiled) -> bool:
    """Whether the venue is closed for maintenance: its status says so, all else is refused."""
    return any(fault.kind is FaultKind.MAINTENANCE for fault in spoiled.faults)


def decimals(value: float, digits: int) -> str:
    """A number as venues write it: fixed decimals, NaN as it is.

    >>> decimals(43198.0, 1), decimals(float("nan"), 2)
    ('43198.0', 'NaN')
    """
    return f"{value:.{digits}f}" if not math.isnan(value) else "NaN"
