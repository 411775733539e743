"""What a venue's private routes are made of: who asks, what may be asked, and how it answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ecosystem.venue_simulator.accounts import ApiKey
from ecosystem.venue_simulator.faults import Fault, Spoiled
from ecosystem.venue_simulator.listings import Listing
from ecosystem.venue_simulator.orders import OrderRefused
from ecosystem.venue_simulator.trading import Trading
from ecosystem.venue_simulator.venue_api import Query, Reply

PAGE_OF_HTML: Final = "text/html"
GARBAGE: Final = b'{"error":[],"result":{"XXB'
"""What comes with HTTP 200 where a reply is garbage: JSON that ends too early."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateRequest:
    """An HTTP request to a private path, as it came.

    `fields` are the parameters of query and body together. `address` is where it came from.
    """

    method: str
    path: str
    query: bytes
    body: bytes
    headers: Mapping[str, str]
    fields: Query
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateCall:
    """A request that the venue has let in.

    `listings` are what the venue lists now, `now_ms` is its clock. `limits_ms` is a clock for
    counting requests, which knows nothing of faults. `expires_at_ms` is when the request's own
    time is over, on the venue's clock, if its signature says so.
    """

    fields: Query
    endpoint: str
    key: ApiKey
    listings: Sequence[Listing]
    trading: Trading
    spoiled: Spoiled
    now_ms: int
    limits_ms: int
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateEndpoint:
    """One private path with one method.

    `name` is one of `faults.PRIVATE_ENDPOINTS`, `right` the field of `accounts.Permissions` that
    the key needs, None if any key may ask. `cost` is what the request weighs in the venue's own
    limit. `answer` raises `VenueRefusal` and `OrderRefused`.
    """

    method: str
    path: str
    name: str
    right: str | None
    cost: Callable[[Query], int]
    answer: Callable[[PrivateCall], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A request at the door: `key` is what it names, None if the venue never had such a key."""

    request: PrivateRequest
    endpoint: PrivateEndpoint
    key: ApiKey | None
    now_ms: int
    limits_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A request that was let in: the key that it is signed with, and `PrivateCall`'s expiry."""

    key: ApiKey
    expires_at_ms: int | None = None


class PrivateApi(Protocol):
    """A venue's private side. What it counts of its callers is its own state.

    `prefixes` are those of the paths that are private, and of all that it does not know.
    """

    venue: str
    prefixes: Sequence[str]
    endpoints: Sequence[PrivateEndpoint]

    def key_name(self, request: PrivateRequest) -> str | None:
        """The API key that the request names; nothing is checked."""

    def named_pairs(self, fields: Query, listings: Sequence[Listing]) -> Sequence[str]:
        """The pairs that the request names, as far as they are known."""

    def weigh(self, address: str, weight: int, limits_ms: int) -> Mapping[str, str]:
        """Count a request, public or private, for the address that it comes from. Returns
        headers for its reply.

        Raises `VenueRefusal` where that was too much.
        """

    def admit(self, visit: Visit) -> Admission:
        """Check key, signature, times, rights and the key's limits. Raises `VenueRefusal`."""

    def done(self, call: PrivateCall) -> Mapping[str, str]:
        """More headers, for the reply to a request that was done."""

    def reply(self, result: object) -> object:
        """The JSON of a request that was done."""

    def refused(self, refused: OrderRefused, fields: Query, listings: Sequence[Listing]) -> Reply:
        """How the venue says what the engine refused."""

    def turned_away(self, fault: Fault, endpoint: str, now_ms: int) -> Reply:
        """How the venue says what `Spoiled.turned_away` means."""

    def failed(self, status: int) -> Reply:
        """How its gateway answers with this HTTP status."""

    def unknown(self, path: str) -> Reply:
        """How it answers to a path that it does not have."""
