"""Messages that could not be used: set aside with their reason, looked at, replayed, deleted."""

from collections.abc import Collection
from dataclasses import dataclass
from hashlib import blake2s
from typing import Final

from shared.bus import Bus, Delivery, Message
from shared.clock import wall_ms
from shared.errors import BrokerUnavailable
from shared.topology import (
    DEAD_LETTER_QUEUE,
    DEAD_LETTERS,
    DIED_AT_HEADER,
    EVENT_ID_HEADER,
    EXCHANGES,
    ORIGIN_EXCHANGE_HEADER,
    ORIGIN_KEY_HEADER,
    REASON_HEADER,
    dead_letter_key,
    death_headers,
)

MAX_HEADER_CHARACTERS: Final = 1_000
"""A reason quotes what it met, and headers must fit into one AMQP frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message in the dead letter queue: set aside by whoever could not read it, or by the
    broker, which a durable queue's delivery limit told that it is poison.

    `id` is made from its content, so that it is the same each time somebody looks; copies of a
    message that died in the same millisecond share it. `exchange`, `routing_key` and `died_at_ms`
    are its origin, None where another program put it there without saying.
    """

    id: str
    reason: str
    exchange: str | None
    routing_key: str | None
    died_at_ms: int | None
    event_id: str | None
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a replay did. `refused`: ids that stay, because no queue or no origin took them."""

    count: int
    refused: tuple[str, ...]


async def dead_letter(bus: Bus, delivery: Delivery, reason: str) -> None:
    """Set a delivery aside in `dead_letters`; only then may the caller acknowledge it.

    Its key there is `dead_letter_key`; body, event id and origin go along. Raises
    `BrokerUnavailable` unless the broker confirmed that a queue has it.
    """
    headers = death_headers(
        reason=reason,
        exchange=delivery.exchange,
        routing_key=delivery.routing_key,
        died_at_ms=wall_ms(),
    )
    if (event_id := delivery.headers.get(EVENT_ID_HEADER)) is not None:
        headers[EVENT_ID_HEADER] = event_id
    taken = await bus.publish(
        Message(
            exchange=DEAD_LETTERS,
            routing_key=dead_letter_key(delivery.exchange, delivery.routing_key),
            body=delivery.body,
            headers={name: value[:MAX_HEADER_CHARACTERS] for name, value in headers.items()},
            persistent=True,
        ),
        mandatory=True,
    )
    if not taken:
        raise BrokerUnavailable(
            f"no queue takes dead letters: bind one to the exchange {DEAD_LETTERS}, "
            "or restart a service, which declares it"
        )


class DeadLetters:
    """The dead letter queue, for people."""

    def __init__(self, bus: Bus, queue: str = DEAD_LETTER_QUEUE.queue.name or "") -> None:
        self._bus = bus
        self._queue = queue

    async def count(self) -> int:
        """How many there are. Raises `BrokerUnavailable`, as everything here."""
        async with self._bus.inspect(self._queue) as inspection:
            return await inspection.count()

    async def peek(self, limit: int = 100) -> list[DeadLetter]:
        """The oldest ones, left where they are."""
        letters: list[DeadLetter] = []
        async with self._bus.inspect(self._queue) as inspection:
            while len(letters) < limit and (delivery := await inspection.get()) is not None:
                letters.append(read_dead_letter(delivery))
        return letters

    async def replay(self, ids: Collection[str] | None = None) -> Replayed:
        """Publish those with these ids (None: all) where they came from, then delete them.

        At least once: one that is interrupted between the two is replayed again. Each queue
        bound to the origin gets it, not only the one whose consumer failed. What dies again
        meanwhile is left for the next replay.
        """
        count = 0
        refused: list[str] = []
        async with self._bus.inspect(self._queue) as inspection:
            for _ in range(await inspection.count()):
                if (delivery := await inspection.get()) is None:
                    break
                letter = read_dead_letter(delivery)
                if ids is not None and letter.id not in ids:
                    continue
                if await self._publish_again(letter):
                    await inspection.acknowledge(delivery)
                    count += 1
                else:
                    refused.append(letter.id)
        return Replayed(count=count, refused=tuple(refused))

    async def purge(self, ids: Collection[str] | None = None) -> int:
        """Delete those with these ids (None: all); returns how many."""
        async with self._bus.inspect(self._queue) as inspection:
            if ids is None:
                return await inspection.purge()
            count = 0
            for _ in range(await inspection.count()):
                if (delivery := await inspection.get()) is None:
                    break
                if read_dead_letter(delivery).id in ids:
                    await inspection.acknowledge(delivery)
                    count += 1
            return count

    async def _publish_again(self, letter: DeadLetter) -> bool:
        if letter.exchange not in EXCHANGES or letter.routing_key is None:
            return False
        headers = {} if letter.event_id is None else {EVENT_ID_HEADER: letter.event_id}
        return await self._bus.publish(
            Message(
                exchange=letter.exchange,
                routing_key=letter.routing_key,
                body=letter.body,
                headers=headers,
                persistent=True,
            ),
            mandatory=True,
        )


def read_dead_letter(delivery: Delivery) -> DeadLetter:
    """What a delivery of the dead letter queue says about itself. Never raises."""
    headers = delivery.headers
    died_at = headers.get(DIED_AT_HEADER, "")
    identity = "\0".join((delivery.routing_key, died_at, headers.get(REASON_HEADER, "")))
    digest = blake2s(identity.encode(errors="replace") + b"\0" + delivery.body, digest_size=6)
    return DeadLetter(
        id=digest.hexdigest(),
        reason=headers.get(REASON_HEADER, "unknown"),
        exchange=headers.get(ORIGIN_EXCHANGE_HEADER),
        routing_key=headers.get(ORIGIN_KEY_HEADER),
        died_at_ms=int(died_at) if died_at.isdecimal() and len(died_at) < 16 else None,
        event_id=headers.get(EVENT_ID_HEADER),
        body=delivery.body,
    )
