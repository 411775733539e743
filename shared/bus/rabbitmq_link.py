"""One life of the connection to RabbitMQ: opened, watched until something breaks, closed.

Nothing in it is ever repaired. A lost connection, a closed channel, a cancelled consumer and a
probe that stays out each end the whole life, and the bus builds the next one from scratch:
one path to test instead of one per kind of break. (aio-pika's robust classes repair in place,
and their history is one of consumers that sit idle.)
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import aio_pika
import aiormq
from aio_pika.abc import (
    AbstractChannel,
    AbstractConnection,
    AbstractExchange,
    AbstractQueue,
)
from aio_pika.exceptions import PublishError
from aiormq.abc import DeliveredMessage
from yarl import URL

from shared import topology
from shared.bus import Message
from shared.bus.rabbitmq_errors import broker_errors
from shared.errors import BotfleetError, BrokerUnavailable
from shared.messages import CONTENT_TYPE

TRANSIENT, PERSISTENT = 1, 2
"""AMQP's delivery modes."""

CONNECT_TIMEOUT_SECS: Final = 10.0
REQUEST_TIMEOUT_SECS: Final = 5.0
CLOSE_TIMEOUT_SECS: Final = 5.0
PROBE_INTERVAL_SECS: Final = 1.0
PROBE_PATIENCE_SECS: Final = (1.0, 1.0, 1.0)
"""How long to wait for a probe, in parts: a pause of our own process uses up one part only, so
that it is not taken for a silence of the broker."""


class Link:
    """A live connection (two, if publishing has its own), its publish channel and its probe."""

    def __init__(self, *, consuming: AbstractConnection, publishing: AbstractConnection) -> None:
        self._consuming = consuming
        self._publishing = publishing
        self._publisher: aiormq.Channel | None = None
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._closing: asyncio.Task[None] | None = None
        self._probe_exchange: AbstractExchange | None = None
        self._probe_queue = ""
        self._probe_returned = asyncio.Event()
        for connection in {consuming, publishing}:
            connection.close_callbacks.add(self._on_closed)

    @classmethod
    async def open(cls, url: URL, *, name: str, separate_publisher: bool) -> "Link":
        """Connect, declare the topology and see the first probe return.

        `name` shows in the broker's list of connections. Raises what `broker_errors` says, and
        leaves nothing open then.
        """
        async with contextlib.AsyncExitStack() as unless_complete:
            with broker_errors("connecting"):
                async with asyncio.timeout(CONNECT_TIMEOUT_SECS):
                    consuming = publishing = await _connect(url, name)
                    unless_complete.push_async_callback(_close, consuming)
                    if separate_publisher:
                        publishing = await _connect(url, f"{name} (publishing)")
                        unless_complete.push_async_callback(_close, publishing)
                    link = cls(consuming=consuming, publishing=publishing)
                    await link._declare_topology(name)
                    await link._start_probe(name)
            unless_complete.pop_all()
        return link

    @property
    def alive(self) -> bool:
        """Whether nothing has broken, as far as the last probe could tell."""
        return not self._lost.done()

    def fail(self, reason: str) -> None:
        """End this life. The first reason stands."""
        if not self._lost.done():
            self._lost.set_result(reason)

    async def watch(self) -> str:
        """Probe once a second until this life ends; returns what ended it."""
        while self.alive:
            await asyncio.wait({self._lost}, timeout=PROBE_INTERVAL_SECS)
            if self.alive and not await self._probe():
                self.fail(f"no probe came back within {sum(PROBE_PATIENCE_SECS):g} s")
        return self._lost.result()

    async def close(self) -> None:
        """Close everything, in bounded time. Publishes that still wait raise. Safe to repeat."""
        self.fail("closed")
        if self._closing is None:
            self._closing = asyncio.create_task(self._close_connections(), name="close link")
        # Whoever is cancelled here leaves no half-closed connection behind.
        await asyncio.shield(self._closing)

    async def publish(self, message: Message, *, mandatory: bool, timeout_secs: float) -> bool:
        """As `Bus.publish`."""
        assert self._publisher is not None  # noqa: S101 - `open` made it
        with broker_errors(f"publishing to {message.exchange}"):
            try:
                # aiormq's publish and not aio-pika's, which waits for the socket under the
                # channel's lock before the next may write (a fifth slower, measured); the
                # confirm is the wait. The properties are new each time: aiormq draws a
                # message_id into them, by which it tells returned messages apart.
                await self._publisher.basic_publish(
                    message.body,
                    exchange=message.exchange,
                    routing_key=message.routing_key,
                    properties=aiormq.spec.Basic.Properties(
                        content_type=CONTENT_TYPE,
                        headers=dict(message.headers),
                        delivery_mode=PERSISTENT if message.persistent else TRANSIENT,
                    ),
                    mandatory=mandatory,
                    timeout=timeout_secs,
                    wait=False,
                )
            except PublishError:
                return False
        return True

    async def open_channel(self) -> AbstractChannel:
        """A channel to consume on. This life ends if the broker closes it or its consumer."""
        channel = await self._watched(self._consuming.channel(publisher_confirms=False))
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(
            lambda _: self.fail("the broker cancelled a consumer")
        )
        return channel

    async def close_channel(self, channel: AbstractChannel) -> None:
        """Close a channel on purpose. What is not acknowledged goes back to its queue."""
        channel.close_callbacks.discard(self._on_closed)
        await _close(channel)

    @contextlib.asynccontextmanager
    async def side_channel(self) -> AsyncIterator[aiormq.abc.AbstractChannel]:
        """A channel for looking around, whose end harms nothing else."""
        channel = self._consuming.channel(publisher_confirms=False)
        with broker_errors("looking into a queue"):
            await _initialize(channel)
            try:
                yield await channel.get_underlay_channel()
            finally:
                await _close(channel)

    async def _close_connections(self) -> None:
        for connection in {self._consuming, self._publishing}:
            await _close(connection)

    async def _watched(self, channel: AbstractChannel) -> AbstractChannel:
        channel.close_callbacks.add(self._on_closed)
        await _initialize(channel)
        return channel

    def _on_closed(self, what: Any, exc: BaseException | None) -> None:  # noqa: ANN401
        kind = "a channel" if isinstance(what, AbstractChannel) else "the connection"
        self.fail(f"{kind} was closed: {exc or repr(exc)}")

    async def _declare_topology(self, name: str) -> None:
        # on_return_raises: aio-pika's return callbacks do not say which publish came back.
        channel = await self._watched(
            self._publishing.channel(publisher_confirms=True, on_return_raises=True)
        )
        for exchange in topology.EXCHANGES:
            await channel.declare_exchange(
                exchange, aio_pika.ExchangeType.TOPIC, durable=True, timeout=REQUEST_TIMEOUT_SECS
            )
        for declared in topology.DURABLE_QUEUES:
            queue = await declare(channel, declared.queue, name)
            for binding in declared.bindings:
                await queue.bind(binding.exchange, binding.pattern, timeout=REQUEST_TIMEOUT_SECS)
        self._publisher = cast("aiormq.Channel", await channel.get_underlay_channel())

    async def _start_probe(self, name: str) -> None:
        channel = await self.open_channel()
        queue = await declare(channel, topology.PROBE_QUEUE, name)
        self._probe_queue = queue.name
        underlay = await channel.get_underlay_channel()
        await underlay.basic_consume(queue.name, self._on_probe, no_ack=True)
        # On the publishing connection, so that with two of them a probe crosses both.
        outgoing = await self._watched(self._publishing.channel(publisher_confirms=False))
        self._probe_exchange = outgoing.default_exchange
        if not await self._probe():
            raise BrokerUnavailable("connecting: the first probe did not come back")

    async def _on_probe(self, _: DeliveredMessage) -> None:
        self._probe_returned.set()

    async def _probe(self) -> bool:
        self._probe_returned.clear()
        round_trip = asyncio.create_task(self._probe_round_trip(), name="probe")
        ends: set[asyncio.Future[Any]] = {round_trip, self._lost}
        try:
            for patience_secs in PROBE_PATIENCE_SECS:
                done, _ = await asyncio.wait(
                    ends, timeout=patience_secs, return_when=asyncio.FIRST_COMPLETED
                )
                if done:
                    break
            return round_trip.done() and round_trip.result()
        finally:
            round_trip.cancel()
            await asyncio.wait({round_trip})

    async def _probe_round_trip(self) -> bool:
        assert self._probe_exchange is not None  # noqa: S101
        try:
            with broker_errors("probing"):
                await self._probe_exchange.publish(
                    aio_pika.Message(b""), self._probe_queue, mandatory=False
                )
        except BotfleetError:
            return False
        return await self._probe_returned.wait()


async def declare(channel: AbstractChannel, queue: topology.Queue, owner: str) -> AbstractQueue:
    """Declare a queue; one without a name of its own gets a fresh one, begun with its owner's.

    Fresh, because the broker may still hold the queue of a connection that it has not noticed
    to be dead, and refuses the old name as locked (405).
    """
    return await channel.declare_queue(
        queue.name or f"{owner}.{uuid.uuid4().hex}",
        durable=queue.durable,
        exclusive=queue.exclusive,
        auto_delete=False,
        arguments=dict(queue.arguments),
        timeout=REQUEST_TIMEOUT_SECS,
    )


async def _connect(url: URL, name: str) -> AbstractConnection:
    return await aio_pika.connect(url, client_properties={"connection_name": name})


async def _initialize(channel: AbstractChannel) -> None:
    # aio-pika takes a timeout here and does not use it.
    async with asyncio.timeout(REQUEST_TIMEOUT_SECS):
        await channel.initialize()


async def _close(what: AbstractConnection | AbstractChannel) -> None:
    """Close without complaint: the other side may be long gone. Waits no longer than a bound.

    aiormq ends by itself what it could not close in order, after three heartbeats.
    """
    closing = asyncio.create_task(_close_quietly(what), name="close a connection or channel")
    _closing.add(closing)
    closing.add_done_callback(_closing.discard)
    await asyncio.wait({closing}, timeout=CLOSE_TIMEOUT_SECS)


async def _close_quietly(what: AbstractConnection | AbstractChannel) -> None:
    with contextlib.suppress(BotfleetError), broker_errors("closing"):
        await what.close()


_closing: Final[set[asyncio.Task[None]]] = set()
"""The event loop itself holds tasks weakly."""
