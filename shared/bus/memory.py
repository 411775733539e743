"""The bus inside one process: the contract of RabbitMQ's, without a server.

Every `MemoryBus` on the same `MemoryBroker` shares its queues. Nothing outlives the process.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, cast
from uuid import uuid4

from shared.bus import Delivery, Inspection, Message, QueueDepth, Subscription
from shared.clock import monotonic_secs, wall_ms
from shared.errors import BrokerUnavailable, Halt
from shared.topology import (
    DEAD_LETTERS,
    DURABLE_QUEUES,
    TOO_MANY_RETURNS,
    Binding,
    Queue,
    death_headers,
    matches,
    poison_key,
)

MAX_ROUTES_KEPT: Final = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class MemoryDelivery:
    """A message in a queue. `position` orders it there, also after it was given back."""

    message: Message
    position: int
    expires_at_secs: float | None
    returns: int = 0

    @property
    def redelivered(self) -> bool:
        return self.returns > 0

    @property
    def exchange(self) -> str:
        return self.message.exchange

    @property
    def routing_key(self) -> str:
        return self.message.routing_key

    @property
    def body(self) -> bytes:
        return self.message.body

    @property
    def headers(self) -> Mapping[str, str]:
        return self.message.headers


class MemoryQueue:
    """Messages that wait, oldest first; too many or too old ones are dropped.

    `bury` takes what was returned more often than the queue's delivery limit.
    """

    def __init__(
        self,
        declaration: Queue,
        clock: Callable[[], float],
        bury: Callable[[MemoryDelivery, Queue], None],
    ) -> None:
        self.declaration = declaration
        self.bindings: frozenset[Binding] = frozenset()
        self.dropped = 0
        self._listeners: list[asyncio.Event] = []
        self._clock = clock
        self._bury = bury
        self._ready: deque[MemoryDelivery] = deque()
        self._last_position = 0

    def __len__(self) -> int:
        self._drop_expired()
        return len(self._ready)

    @property
    def refuses(self) -> bool:
        """Whether it is full and takes nothing more, rather than drop its oldest."""
        full = len(self._ready) >= self.declaration.max_length
        return full and self.declaration.delivery_limit is not None

    def listen(self, wake: asyncio.Event) -> None:
        """Set the event whenever there may be something to take."""
        self._listeners.append(wake)

    def leave(self, wake: asyncio.Event) -> None:
        """Stop listening. The next in turn may have something to take."""
        self._listeners.remove(wake)
        self._tell()

    def serves(self, listener: asyncio.Event) -> bool:
        """Whether this listener may take: of an event queue's, only the one that came first."""
        return self.declaration.delivery_limit is None or self._listeners[0] is listener

    def put(self, message: Message) -> None:
        """Append a message; a full queue drops its oldest, unless it `refuses`."""
        ttl_ms = self.declaration.message_ttl_ms
        expires_at_secs = None if ttl_ms is None else self._clock() + ttl_ms / 1000
        self._last_position += 1
        self._ready.append(MemoryDelivery(message, self._last_position, expires_at_secs))
        self._drop_surplus()
        self._tell()

    def take(self, limit: int) -> list[MemoryDelivery]:
        """Up to `limit` of the oldest messages, taken out."""
        self._drop_expired()
        return [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]

    def give_back(self, deliveries: Iterable[MemoryDelivery]) -> None:
        """Put messages back where they were, as redelivered; bury what came back too often."""
        limit = self.declaration.delivery_limit
        returned = [replace(delivery, returns=delivery.returns + 1) for delivery in deliveries]
        returned.sort(key=lambda delivery: delivery.position)
        kept = [each for each in returned if limit is None or each.returns <= limit]
        self._ready = deque(sorted([*kept, *self._ready], key=lambda ready: ready.position))
        for delivery in returned:
            if limit is not None and delivery.returns > limit:
                self._bury(delivery, self.declaration)
        self._drop_surplus()
        self._tell()

    def clear(self) -> int:
        """Drop everything that waits; returns how many."""
        count = len(self)
        self._ready.clear()
        return count

    def _drop_expired(self) -> None:
        # All of a queue's messages have the same time to live, so the oldest expire first.
        now = self._clock()
        while self._ready and (expiry := self._ready[0].expires_at_secs) is not None:
            if expiry > now:
                return
            self._ready.popleft()

    def _drop_surplus(self) -> None:
        if self.declaration.delivery_limit is not None:
            return
        if len(self._ready) > self.declaration.max_length:
            self._drop_expired()
        while len(self._ready) > self.declaration.max_length:
            self._ready.popleft()
            self.dropped += 1

    def _tell(self) -> None:
        for listener in self._listeners:
            listener.set()


class MemoryBroker:
    """Queues by name, and which of them a routing key leads to."""

    def __init__(self, clock: Callable[[], float] = monotonic_secs) -> None:
        self._clock = clock
        self._queues: dict[str, MemoryQueue] = {}
        self._routes: dict[tuple[str, str], tuple[MemoryQueue, ...]] = {}
        for declared in DURABLE_QUEUES:
            self.bind(self.declare(declared.queue), frozenset(declared.bindings))

    def declare(self, declaration: Queue) -> MemoryQueue:
        """The queue of that name, made if need be. Raises `Halt` if it has other properties."""
        name = declaration.name or uuid4().hex
        queue = self._queues.setdefault(name, MemoryQueue(declaration, self._clock, self._bury))
        if queue.declaration != declaration:
            raise Halt(f"the queue {name} exists with other properties: {queue.declaration}")
        return queue

    def queue(self, name: str) -> MemoryQueue:
        """Raises `BrokerUnavailable` without such a queue, as RabbitMQ's adapter does."""
        if name not in self._queues:
            raise BrokerUnavailable(f"there is no queue {name}")
        return self._queues[name]

    def bind(self, queue: MemoryQueue, bindings: frozenset[Binding]) -> None:
        """Make these the queue's bindings."""
        queue.bindings = bindings
        self._routes.clear()

    def delete(self, queue: MemoryQueue) -> None:
        self._queues = {name: kept for name, kept in self._queues.items() if kept is not queue}
        self._routes.clear()

    def publish(self, message: Message) -> bool:
        """Put the message into every queue that is bound for it; returns whether one is.

        Raises `BrokerUnavailable` if one of them refuses; the others have it then.
        """
        route = self._routes.get((message.exchange, message.routing_key))
        if route is None:
            route = self._route(message.exchange, message.routing_key)
        refusing = [queue.declaration.name for queue in route if queue.refuses]
        for queue in route:
            if not queue.refuses:
                queue.put(message)
        if refusing:
            raise BrokerUnavailable(f"publishing to {message.exchange}: {refusing} is full")
        return bool(route)

    def _bury(self, delivery: MemoryDelivery, queue: Queue) -> None:
        headers = death_headers(
            reason=TOO_MANY_RETURNS,
            exchange=delivery.exchange,
            routing_key=delivery.routing_key,
            died_at_ms=wall_ms(),
        )
        self.publish(
            replace(
                delivery.message,
                exchange=DEAD_LETTERS,
                routing_key=poison_key(queue.name or ""),
                headers={**delivery.headers, **headers},
            )
        )

    def _route(self, exchange: str, routing_key: str) -> tuple[MemoryQueue, ...]:
        if len(self._routes) >= MAX_ROUTES_KEPT:
            self._routes.clear()
        route = tuple(
            queue
            for queue in self._queues.values()
            if any(
                binding.exchange == exchange and matches(binding.pattern, routing_key)
                for binding in queue.bindings
            )
        )
        self._routes[exchange, routing_key] = route
        return route


class MemorySubscription:
    """The `Subscription` port: takes from its queue when asked, up to the prefetch limit."""

    def __init__(self, broker: MemoryBroker, queue: MemoryQueue, *, prefetch: int) -> None:
        self._broker = broker
        self._queue = queue
        self._prefetch = prefetch
        self._unsettled: set[MemoryDelivery] = set()
        self._wake = asyncio.Event()
        self._closed = False
        queue.listen(self._wake)

    async def batch(self) -> list[Delivery]:
        while not self._closed:
            room = self._prefetch - len(self._unsettled)
            taken = self._queue.take(room if self._queue.serves(self._wake) else 0)
            if taken:
                self._unsettled.update(taken)
                return cast("list[Delivery]", taken)
            self._wake.clear()
            await self._wake.wait()
        return []

    async def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        self._settle(deliveries)
        self._wake.set()

    async def requeue(self, deliveries: Iterable[Delivery]) -> None:
        self._queue.give_back(self._settle(deliveries))

    async def rebind(self, bindings: frozenset[Binding]) -> None:
        self._broker.bind(self._queue, bindings)

    async def depth(self) -> QueueDepth:
        if self._closed:
            raise BrokerUnavailable("this subscription was closed")
        return QueueDepth(ready=len(self._queue), dropped=self._queue.dropped)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._wake.set()
        if self._queue.declaration.exclusive:
            self._broker.delete(self._queue)
        else:
            self._queue.give_back(self._unsettled)
        self._unsettled.clear()
        self._queue.leave(self._wake)

    def _settle(self, deliveries: Iterable[Delivery]) -> set[MemoryDelivery]:
        settled = self._unsettled.intersection(cast("Iterable[MemoryDelivery]", deliveries))
        self._unsettled -= settled
        return settled


class MemoryBus:
    """The `Bus` port within one process."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._subscriptions: list[MemorySubscription] = []
        self._started = asyncio.Event()
        self._closed = False

    @property
    def connected(self) -> bool:
        return self._started.is_set() and not self._closed

    async def start(self) -> None:
        self._started.set()

    async def publish(
        self,
        message: Message,
        *,
        mandatory: bool = False,
        timeout_secs: float = 5.0,  # noqa: ARG002 - the port's; here nothing takes time
    ) -> bool:
        self._require_connection()
        routed = self._broker.publish(message)
        # Consumers get their turn, as they would while a confirm is under way.
        await asyncio.sleep(0)
        return routed or not mandatory

    async def publish_all(
        self, messages: Iterable[Message], *, mandatory: bool = False, timeout_secs: float = 5.0
    ) -> list[bool | Exception]:
        results: list[bool | Exception] = []
        for message in messages:
            try:
                results.append(
                    await self.publish(message, mandatory=mandatory, timeout_secs=timeout_secs)
                )
            except BrokerUnavailable as exc:
                results.append(exc)
        return results

    async def subscribe(
        self, queue: Queue, bindings: frozenset[Binding], *, prefetch: int = 200
    ) -> Subscription:
        if prefetch < 1:
            raise ValueError(f"prefetch must be at least 1, was {prefetch}")
        await self._started.wait()
        self._require_connection()
        declared = self._broker.declare(queue)
        # As on RabbitMQ, what others have bound to a durable queue stays.
        self._broker.bind(declared, declared.bindings | bindings)
        subscription = MemorySubscription(self._broker, declared, prefetch=prefetch)
        self._subscriptions.append(subscription)
        return subscription

    @contextlib.asynccontextmanager
    async def inspect(self, queue: str) -> AsyncIterator[Inspection]:
        self._require_connection()
        inspection = MemoryInspection(self._broker.queue(queue))
        try:
            yield inspection
        finally:
            inspection.give_back()

    async def close(self) -> None:
        self._closed = True
        self._started.set()
        for subscription in self._subscriptions:
            await subscription.close()
        self._subscriptions.clear()

    def _require_connection(self) -> None:
        if not self.connected:
            raise BrokerUnavailable("this bus is not started, or was closed")


class MemoryInspection:
    """The `Inspection` port: holds what it got until it is acknowledged or given back."""

    def __init__(self, queue: MemoryQueue) -> None:
        self._queue = queue
        self._held: set[MemoryDelivery] = set()

    async def count(self) -> int:
        return len(self._queue)

    async def get(self) -> Delivery | None:
        taken = self._queue.take(1)
        self._held.update(taken)
        return taken[0] if taken else None

    async def acknowledge(self, delivery: Delivery) -> None:
        self._held.discard(cast("MemoryDelivery", delivery))

    async def purge(self) -> int:
        return self._queue.clear()

    def give_back(self) -> None:
        """End of the inspection: what was not acknowledged waits again, in place."""
        self._queue.give_back(self._held)
        self._held.clear()
