"""The bus on RabbitMQ: one connection per process that keeps itself alive."""

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import AsyncIterator, Iterable
from typing import Final

import aiormq
from yarl import URL

from shared.bus import Delivery, Inspection, Message, Subscription
from shared.bus.rabbitmq_link import REQUEST_TIMEOUT_SECS, Link
from shared.bus.rabbitmq_subscription import RabbitDelivery, RabbitSubscription
from shared.errors import BotfleetError, BrokerUnavailable, Halt
from shared.topology import Binding, Queue

log = logging.getLogger(__name__)

HEARTBEAT_SECS: Final = 10
"""AMQP's own, unless the URL says `?heartbeat=`. The probe is faster; this one frees the broker."""

FIRST_RETRY_SECS: Final = 0.2
MAX_RETRY_SECS: Final = 5.0


def retry_delay_secs(attempt: int, jitter: float) -> float:
    """How long to wait after failed attempt 0, 1, …: doubling up to 5 s, less up to a half.

    `jitter` is from 0 to 1, so that a fleet does not return in step.

    >>> retry_delay_secs(0, 0.0), retry_delay_secs(2, 1.0), retry_delay_secs(50, 0.0)
    (0.2, 0.4, 5.0)
    """
    longest = min(FIRST_RETRY_SECS * 2.0 ** min(attempt, 10), MAX_RETRY_SECS)
    return longest * (1 - jitter / 2)


class RabbitBus:
    """The `Bus` port on RabbitMQ.

    `separate_publisher` takes a second connection for publishing: a broker short of memory or
    disk stops reading from connections that publish, and then consuming goes on.
    """

    def __init__(self, url: str, *, name: str, separate_publisher: bool = False) -> None:
        parsed = URL(url)
        self._url = (
            parsed if "heartbeat" in parsed.query else parsed.update_query(heartbeat=HEARTBEAT_SECS)
        )
        # Without user and password: this stands in log lines.
        self._where = f"{parsed.scheme}://{parsed.host}:{parsed.port or 5672}{parsed.raw_path}"
        self._name = name
        self._separate_publisher = separate_publisher
        self._link: Link | None = None
        self._up = asyncio.Event()
        self._subscriptions: list[RabbitSubscription] = []
        self._supervisor: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def connected(self) -> bool:
        return self._link is not None and self._link.alive

    async def start(self) -> None:
        link = await self._connect(halt_on_refusal=True)
        self._supervisor = asyncio.create_task(self._supervise(link), name=f"bus {self._name}")

    async def publish(
        self, message: Message, *, mandatory: bool = False, timeout_secs: float = 5.0
    ) -> bool:
        return await self._live_link().publish(
            message, mandatory=mandatory, timeout_secs=timeout_secs
        )

    async def publish_all(
        self, messages: Iterable[Message], *, mandatory: bool = False, timeout_secs: float = 5.0
    ) -> list[bool | Exception]:
        # Tasks start in order, and the channel's lock is handed over in order, once per write:
        # so the messages are written in order, and the confirms are awaited together.
        results = await asyncio.gather(
            *(
                self.publish(message, mandatory=mandatory, timeout_secs=timeout_secs)
                for message in messages
            ),
            return_exceptions=True,
        )
        return [
            result if isinstance(result, bool | Exception) else BrokerUnavailable(repr(result))
            for result in results
        ]

    async def subscribe(
        self, queue: Queue, bindings: frozenset[Binding], *, prefetch: int = 200
    ) -> Subscription:
        subscription = RabbitSubscription(queue, bindings, prefetch=prefetch, owner=self._name)
        self._subscriptions = [open_ for open_ in self._subscriptions if not open_.closed]
        self._subscriptions.append(subscription)
        try:
            while True:
                link = await self._wait_for_link()
                try:
                    await subscription.attach(link)
                except BrokerUnavailable as exc:
                    link.fail(str(exc))
                else:
                    return subscription
        except BaseException:
            self._subscriptions.remove(subscription)
            raise

    @contextlib.asynccontextmanager
    async def inspect(self, queue: str) -> AsyncIterator[Inspection]:
        async with self._live_link().side_channel() as channel:
            yield RabbitInspection(channel, queue)

    async def close(self) -> None:
        self._closed = True
        self._up.set()
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait({self._supervisor})
        for subscription in self._subscriptions:
            subscription.end()
        self._subscriptions.clear()
        if self._link is not None:
            await self._link.close()

    def _live_link(self) -> Link:
        if self._link is None or not self._link.alive:
            raise BrokerUnavailable(f"not connected to the broker at {self._where}")
        return self._link

    async def _wait_for_link(self) -> Link:
        while not self._closed:
            if self._link is not None and self._link.alive:
                return self._link
            self._up.clear()
            await self._up.wait()
        raise BrokerUnavailable("this bus was closed")

    async def _supervise(self, link: Link) -> None:
        while True:
            reason = await link.watch()
            log.warning("%s lost the broker at %s: %s", self._name, self._where, reason)
            await link.close()
            link = await self._connect(halt_on_refusal=False)

    async def _connect(self, *, halt_on_refusal: bool) -> Link:
        """Try until a link stands with every subscription on it."""
        said = ""
        for attempt in itertools.count():
            try:
                link = await self._build_link()
            except Halt as exc:
                reason = f"{self._where} refuses: {exc}"
                if halt_on_refusal:
                    raise type(exc)(reason) from exc
            except BotfleetError as exc:
                reason = str(exc)
            except Exception as exc:
                # Whatever it is, a process that never tries again is worse.
                log.exception("unexpected while connecting")
                reason = repr(exc)
            else:
                log.info("%s is connected to the broker at %s", self._name, self._where)
                return link
            if reason != said:
                log.warning("%s waits for the broker at %s: %s", self._name, self._where, reason)
                said = reason
            await asyncio.sleep(retry_delay_secs(attempt, random.random()))  # noqa: S311
        raise AssertionError("unreachable")

    async def _build_link(self) -> Link:
        link = await Link.open(
            self._url, name=self._name, separate_publisher=self._separate_publisher
        )
        try:
            for subscription in tuple(self._subscriptions):
                await subscription.attach(link)
        except BaseException:
            await link.close()
            raise
        self._link = link
        self._up.set()
        return link


class RabbitInspection:
    """The `Inspection` port: `basic.get` on a channel of its own, whose end gives all back."""

    def __init__(self, channel: aiormq.abc.AbstractChannel, queue: str) -> None:
        self._channel = channel
        self._queue = queue

    async def count(self) -> int:
        declared = await self._channel.queue_declare(
            self._queue, passive=True, timeout=REQUEST_TIMEOUT_SECS
        )
        return declared.message_count or 0

    async def get(self) -> Delivery | None:
        message = await self._channel.basic_get(self._queue, timeout=REQUEST_TIMEOUT_SECS)
        return RabbitDelivery(message) if message.delivery_tag else None

    async def acknowledge(self, delivery: Delivery) -> None:
        assert isinstance(delivery, RabbitDelivery)  # noqa: S101 - it came from `get`
        await self._channel.basic_ack(delivery.tag)

    async def purge(self) -> int:
        purged = await self._channel.queue_purge(self._queue, timeout=REQUEST_TIMEOUT_SECS)
        return purged.message_count or 0
