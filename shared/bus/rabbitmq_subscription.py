"""A subscription on RabbitMQ: one channel, one consumer, acknowledged in batches."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Collection, Iterable, Mapping
from typing import Protocol, cast

import aiormq
from aio_pika.abc import AbstractChannel, AbstractQueue
from aiormq.abc import DeliveredMessage

from shared.bus import Delivery, QueueDepth
from shared.bus.rabbitmq_deaths import headers_of_death
from shared.bus.rabbitmq_errors import broker_errors
from shared.bus.rabbitmq_link import REQUEST_TIMEOUT_SECS, Link, declare
from shared.errors import BrokerUnavailable
from shared.topology import Binding, Queue


class RabbitDelivery:
    """A delivery with the channel and tag by which it is settled."""

    __slots__ = ("_message", "channel", "tag")

    def __init__(self, message: DeliveredMessage) -> None:
        self._message = message
        self.channel = message.channel
        self.tag = message.delivery_tag or 0

    @property
    def exchange(self) -> str:
        return self._message.exchange or ""

    @property
    def routing_key(self) -> str:
        return self._message.routing_key or ""

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def headers(self) -> Mapping[str, str]:
        """Values that are not texts (other people's) as Python shows them.

        What the broker notes of a message that it dead-lettered reads as if we had done it.
        """
        headers = self._message.header.properties.headers or {}
        texts = {
            name: value if isinstance(value, str) else repr(value)
            for name, value in headers.items()
        }
        return texts | headers_of_death(headers["x-death"]) if "x-death" in headers else texts

    @property
    def redelivered(self) -> bool:
        return bool(self._message.redelivered)


class _Settle(Protocol):
    """aiormq's `basic_ack` and `basic_nack`."""

    def __call__(self, delivery_tag: int, multiple: bool, *, wait: bool) -> Awaitable[None]: ...


def split_settled(unsettled: Iterable[int], tags: Collection[int]) -> tuple[int, list[int]]:
    """How to settle `tags` in the fewest frames, given all unsettled ones in ascending order.

    Returns the highest tag of the prefix that one frame with `multiple` settles (0: none), and
    the tags to settle one by one. Tags that are not unsettled are left out: the broker answers
    an unknown tag by closing the channel.

    >>> split_settled([4, 5, 6, 7], {4, 5, 7, 9})
    (5, [7])
    """
    up_to = 0
    in_prefix = True
    single: list[int] = []
    for tag in unsettled:
        if tag not in tags:
            in_prefix = False
        elif in_prefix:
            up_to = tag
        else:
            single.append(tag)
    return up_to, single


class RabbitSubscription:
    """A queue that is declared, bound and consumed anew on each `Link` it is attached to."""

    def __init__(
        self, queue: Queue, bindings: frozenset[Binding], *, prefetch: int, owner: str
    ) -> None:
        if prefetch < 1:
            raise ValueError(f"prefetch must be at least 1, was {prefetch}")
        self._declaration = queue
        self._wanted = bindings
        self._bound: frozenset[Binding] = frozenset()
        self._prefetch = prefetch
        self._owner = owner
        self._changing = asyncio.Lock()
        self._link: Link | None = None
        self._channel: AbstractChannel | None = None
        self._underlay: aiormq.abc.AbstractChannel | None = None
        self._queue: AbstractQueue | None = None
        self._arrived: deque[Delivery] = deque()
        self._unsettled: dict[int, None] = {}
        self._wake = asyncio.Event()
        self.closed = False

    async def attach(self, link: Link) -> None:
        """Declare, bind and consume on this link. Does nothing if that has been done.

        Raises what `broker_errors` says; the link is of no use then.
        """
        async with self._changing:
            if self.closed or self._link is link:
                return
            with broker_errors(f"consuming from {self._declaration.name or 'a queue'}"):
                channel = await link.open_channel()
                await channel.set_qos(prefetch_count=self._prefetch, timeout=REQUEST_TIMEOUT_SECS)
                self._queue = await declare(channel, self._declaration, self._owner)
                if self._declaration.exclusive:
                    self._bound = frozenset()
                else:
                    # The broker delivers these again, on the new channel.
                    self._arrived.clear()
                await self._apply_bindings(self._queue, held=frozenset())
                underlay = await channel.get_underlay_channel()
                self._unsettled.clear()
                self._channel, self._underlay = channel, underlay
                # aiormq's own consumer: aio-pika's would wrap each message once more, and
                # what aiormq forces (a task per message) is all that this callback costs.
                await underlay.basic_consume(
                    self._queue.name, self._on_message, timeout=REQUEST_TIMEOUT_SECS
                )
            self._link = link

    async def batch(self) -> list[Delivery]:
        while not self._arrived and not self.closed:
            self._wake.clear()
            await self._wake.wait()
        deliveries = list(self._arrived)
        self._arrived.clear()
        return deliveries

    async def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        if self._underlay is not None:
            await self._settle(self._underlay.basic_ack, deliveries)

    async def requeue(self, deliveries: Iterable[Delivery]) -> None:
        if self._underlay is not None:
            await self._settle(self._underlay.basic_nack, deliveries)

    async def rebind(self, bindings: frozenset[Binding]) -> None:
        self._wanted = bindings
        async with self._changing:
            if self._link is None or self._queue is None or self.closed:
                return
            # What breaks here ends the link, and the next one is bound as wanted.
            with contextlib.suppress(BrokerUnavailable), broker_errors("binding"):
                await self._apply_bindings(self._queue, held=self._bound)

    async def depth(self) -> QueueDepth:
        if self._link is None or not self._link.alive or self._queue is None:
            raise BrokerUnavailable("not connected to the broker")
        async with self._link.side_channel() as channel:
            declared = await channel.queue_declare(
                self._queue.name, passive=True, timeout=REQUEST_TIMEOUT_SECS
            )
        return QueueDepth(ready=declared.message_count or 0, dropped=None)

    def end(self) -> None:
        """End every `batch`, now and later. Leaves the channel to the end of its connection."""
        self.closed = True
        self._arrived.clear()
        self._wake.set()

    async def close(self) -> None:
        if self.closed:
            return
        self.end()
        async with self._changing:
            link, channel, queue = self._link, self._channel, self._queue
            if link is None or channel is None or queue is None or not link.alive:
                return
            await link.close_channel(channel)
            if self._declaration.exclusive:
                # After its consumer: the broker would report that as cancelled.
                with contextlib.suppress(BrokerUnavailable):
                    async with link.side_channel() as side:
                        await side.queue_delete(queue.name, timeout=REQUEST_TIMEOUT_SECS)

    async def _on_message(self, message: DeliveredMessage) -> None:
        delivery = RabbitDelivery(message)
        if delivery.channel is self._underlay and not self.closed:
            self._unsettled[delivery.tag] = None
            self._arrived.append(delivery)
            self._wake.set()

    async def _settle(self, settle: _Settle, deliveries: Iterable[Delivery]) -> None:
        tags = {
            delivery.tag
            for delivery in cast("Iterable[RabbitDelivery]", deliveries)
            if delivery.channel is self._underlay
        }
        up_to, single = split_settled(self._unsettled, tags)
        for tag in tags:
            self._unsettled.pop(tag, None)
        # A channel that is gone takes nothing, and its queue is gone or delivers again.
        with contextlib.suppress(BrokerUnavailable), broker_errors("acknowledging"):
            # The bound: aiormq queues ten frames and then waits for the socket.
            async with asyncio.timeout(REQUEST_TIMEOUT_SECS):
                if up_to:
                    await settle(up_to, True, wait=False)
                for tag in single:
                    await settle(tag, False, wait=False)

    async def _apply_bindings(self, queue: AbstractQueue, *, held: frozenset[Binding]) -> None:
        wanted = self._wanted
        unwanted = self._bound - wanted
        self._bound |= wanted
        for binding in wanted - held:
            await queue.bind(binding.exchange, binding.pattern, timeout=REQUEST_TIMEOUT_SECS)
        for binding in unwanted:
            await queue.unbind(binding.exchange, binding.pattern, timeout=REQUEST_TIMEOUT_SECS)
        self._bound = wanted
