"""The bus port: what botfleet needs of a broker, and no more.

Two adapters, one contract (tests/integration/test_bus_contract.py runs on both):
`rabbitmq.py` for a fleet, `memory.py` for one process.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from shared.topology import EXCHANGES, MAX_ROUTING_KEY_BYTES, Binding, Queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message to publish. `headers` are texts; `persistent` survives a broker restart.

    Raises ValueError for an exchange that is not ours or a routing key over 255 bytes: either
    would make the broker close the channel under everybody else's messages.
    """

    exchange: str
    routing_key: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    persistent: bool = False

    def __post_init__(self) -> None:
        if self.exchange not in EXCHANGES:
            raise ValueError(f"exchange must be one of {EXCHANGES}, was {self.exchange!r}")
        if len(self.routing_key.encode()) > MAX_ROUTING_KEY_BYTES:
            raise ValueError(f"routing_key must be at most {MAX_ROUTING_KEY_BYTES} bytes")


class Delivery(Protocol):
    """A message that a queue handed over, not yet acknowledged."""

    @property
    def exchange(self) -> str: ...
    @property
    def routing_key(self) -> str: ...
    @property
    def body(self) -> bytes: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def redelivered(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """How many messages wait in a queue, and how many it dropped since it was declared.

    `dropped` is None where the broker does not tell (RabbitMQ without its management plug-in).
    """

    ready: int
    dropped: int | None


class Subscription(Protocol):
    """A queue with its bindings, consumed in batches. It survives the broker's restarts."""

    async def batch(self) -> list[Delivery]:
        """Wait for at least one message, then return all that are here, oldest first.

        Empty only once the subscription is closed, so `while batch := await s.batch()` ends
        with it. While the broker is away it waits.

        Unacknowledged messages count against the prefetch limit; what exceeds it stays in the
        broker's queue, where the oldest are dropped and outdated ones expire.
        """
        ...

    async def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """Take deliveries off the queue. One whose connection is gone is skipped: its queue
        was deleted (exclusive) or redelivers it (durable)."""
        ...

    async def requeue(self, deliveries: Iterable[Delivery]) -> None:
        """Give deliveries back; they come again with `redelivered` set.

        From an event queue they come again in their old order only if no later one was
        acknowledged, and past its delivery limit they go to `dead_letters` instead.
        """
        ...

    async def rebind(self, bindings: frozenset[Binding]) -> None:
        """Make these the queue's bindings: add what is new, remove what is not among them.

        While disconnected it takes effect with the next connection.
        """
        ...

    async def depth(self) -> QueueDepth:
        """Raises `BrokerUnavailable` while disconnected."""
        ...

    async def close(self) -> None:
        """Stop consuming. Unacknowledged messages go back to a durable queue. Safe to repeat."""
        ...


class Inspection(Protocol):
    """A look into a durable queue, message by message, without subscribing to it."""

    async def count(self) -> int:
        """How many messages are ready, not counting those that this inspection holds."""
        ...

    async def get(self) -> Delivery | None:
        """The oldest message that this inspection does not hold yet, or None.

        Not from an event queue, whose messages go to its one consumer.
        """
        ...

    async def acknowledge(self, delivery: Delivery) -> None:
        """Take this message off the queue for good."""
        ...

    async def purge(self) -> int:
        """Delete every ready message; returns how many."""
        ...


class Bus(Protocol):
    """A connection to the broker that keeps itself alive."""

    @property
    def connected(self) -> bool:
        """Whether the last probe came back in time."""
        ...

    async def start(self) -> None:
        """Connect and declare the topology. Waits for a broker that is away, saying so.

        Raises `InvalidSettings` if the broker refuses user, password or virtual host, and
        `Halt` if a queue exists with other properties. After that a refusal is waited out.
        """
        ...

    async def publish(
        self, message: Message, *, mandatory: bool = False, timeout_secs: float = 5.0
    ) -> bool:
        """Publish and wait for the broker's confirm.

        Returns False if `mandatory` and no queue took the message, else True. Raises
        `PublishTimeout` without a confirm in time (it may have arrived) and
        `BrokerUnavailable` at once while disconnected, on a broker's nack (an event queue is
        full; other queues may have it), and if the connection breaks before the confirm (it
        may have arrived).
        """
        ...

    async def publish_all(
        self, messages: Iterable[Message], *, mandatory: bool = False, timeout_secs: float = 5.0
    ) -> list[bool | Exception]:
        """Publish in order without waiting in between; a result per message, as `publish`.

        A message after a failed one may have arrived. The caller bounds the batch.
        """
        ...

    async def subscribe(
        self, queue: Queue, bindings: frozenset[Binding], *, prefetch: int = 200
    ) -> Subscription:
        """Declare the queue, bind it and consume from it; waits while disconnected.

        Once it returns, what is published to the bindings is in the queue. `prefetch` is at
        least 1. Raises `Halt` if the queue exists with other properties.
        """
        ...

    def inspect(self, queue: str) -> AbstractAsyncContextManager[Inspection]:
        """Look into a durable queue. On leaving, what was not acknowledged goes back in place.

        Raises `BrokerUnavailable` while disconnected.
        """
        ...

    async def close(self) -> None:
        """Close every subscription and the connection. Safe to call twice."""
        ...
