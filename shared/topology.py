"""Exchanges, queues, routing keys and names on RabbitMQ: data and pure functions.

Every literal exchange or queue name stands here and nowhere else. Only what RabbitMQ 3.10
and 4.x share is used: durable topic exchanges, exclusive non-durable queues, and durable
queues without `x-queue-mode` (https://www.rabbitmq.com/docs/whats-new); a test asserts it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

PRICE_UPDATES: Final = "price_updates"
ORDERS: Final = "orders"
RISK: Final = "risk"
SYSTEM: Final = "system"
DEAD_LETTERS: Final = "dead_letters"

EXCHANGES: Final = (PRICE_UPDATES, ORDERS, RISK, SYSTEM, DEAD_LETTERS)
"""All are topic exchanges and durable."""

MAX_QUEUED_TICKS: Final = 10_000
MAX_TICK_AGE_IN_QUEUE_MS: Final = 15_000
MAX_DEAD_LETTERS: Final = 100_000
MAX_QUEUED_EVENTS: Final = 1_000_000
EVENT_DELIVERY_LIMIT: Final = 20
"""Returns to the queue after which a message counts as poison, as RabbitMQ 4.0 has it by
default (3.10 has no default). Each end of a consumer returns all that it had not acknowledged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue as both adapters declare it.

    `name` None: the adapter draws a fresh random name per connection. An exclusive queue dies
    with its connection and is never durable. A full queue drops its oldest message, unless it
    has a `delivery_limit`: see `event_queue`.
    """

    name: str | None
    exclusive: bool
    durable: bool
    max_length: int
    message_ttl_ms: int | None = None
    delivery_limit: int | None = None

    @property
    def arguments(self) -> Mapping[str, str | int | bool]:
        """The queue arguments as RabbitMQ spells them."""
        arguments: dict[str, str | int | bool] = {
            "x-max-length": self.max_length,
            "x-overflow": "drop-head" if self.delivery_limit is None else "reject-publish",
        }
        if self.message_ttl_ms is not None:
            arguments["x-message-ttl"] = self.message_ttl_ms
        if self.delivery_limit is not None:
            arguments |= {
                "x-queue-type": "quorum",
                "x-single-active-consumer": True,
                "x-delivery-limit": self.delivery_limit,
                "x-dead-letter-exchange": DEAD_LETTERS,
                "x-dead-letter-routing-key": poison_key(self.name or ""),
                "x-dead-letter-strategy": "at-least-once",
            }
        return arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Messages of `exchange` whose routing key matches `pattern` go to the queue.

    Raises ValueError for an exchange that is not ours: the broker would close the channel.
    """

    exchange: str
    pattern: str

    def __post_init__(self) -> None:
        if self.exchange not in EXCHANGES:
            raise ValueError(f"exchange must be one of {EXCHANGES}, was {self.exchange!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A durable queue that every process declares, with its bindings."""

    queue: Queue
    bindings: tuple[Binding, ...] = field(default=())


TICK_QUEUE: Final = Queue(
    name=None,
    exclusive=True,
    durable=False,
    max_length=MAX_QUEUED_TICKS,
    message_ttl_ms=MAX_TICK_AGE_IN_QUEUE_MS,
)
"""One per worker process. Old ticks are worthless: the oldest are dropped, none dead-lettered."""

LISTENER_QUEUE: Final = Queue(name=None, exclusive=True, durable=False, max_length=10_000)
"""For whoever listens while connected and may miss what happens meanwhile."""

PROBE_QUEUE: Final = Queue(
    name=None, exclusive=True, durable=False, max_length=10, message_ttl_ms=10_000
)
"""One per connection, for the probe that tells a dead connection from a quiet market."""


def event_queue(name: str, *, delivery_limit: int = EVENT_DELIVERY_LIMIT) -> Queue:
    """A durable quorum queue for one consumer of events that must miss nothing.

    Its consumer declares it; from then on it collects, also while nobody consumes. Several
    subscribers take turns: one gets everything, in order, and the next takes over where it
    ends. A message that was returned more often than `delivery_limit` goes to `dead_letters`,
    at least once. A full queue refuses (a nack to the relay), so that events wait in the
    outbox: dropping the oldest would lose them, and RabbitMQ dead-letters at least once only
    from queues that refuse. So a queue that nobody wants any more must be deleted at the
    broker, or it holds up the events of everybody.
    """
    return Queue(
        name=name,
        exclusive=False,
        durable=True,
        max_length=MAX_QUEUED_EVENTS,
        delivery_limit=delivery_limit,
    )


PROFIT_AND_LOSS_QUEUE: Final = event_queue("profit_and_loss")
"""The example consumer's (ecosystem/pnl_consumer)."""

DEAD_LETTER_QUEUE: Final = Declared(
    # A classic queue: looking at it (get, then requeue) must not use up a delivery limit.
    queue=Queue(name="dead_letters", exclusive=False, durable=True, max_length=MAX_DEAD_LETTERS),
    bindings=(Binding(exchange=DEAD_LETTERS, pattern="#"),),
)

DURABLE_QUEUES: Final = (DEAD_LETTER_QUEUE,)

REASON_HEADER: Final = "x-botfleet-reason"
ORIGIN_EXCHANGE_HEADER: Final = "x-botfleet-exchange"
ORIGIN_KEY_HEADER: Final = "x-botfleet-routing-key"
DIED_AT_HEADER: Final = "x-botfleet-died-at-ms"
EVENT_ID_HEADER: Final = "x-botfleet-event-id"

TOO_MANY_RETURNS: Final = "delivery_limit"
"""RabbitMQ's word for why it dead-lettered what exceeds a delivery limit."""

MAX_ROUTING_KEY_BYTES: Final = 255
"""AMQP 0-9-1's short string."""


def order_update_key(status: str, venue: str) -> str:
    """`order.update.filled.kraken`."""
    return f"order.update.{status}.{venue}"


def breaker_key(scope: str) -> str:
    """`risk.breaker.user`."""
    return f"risk.breaker.{scope}"


def denied_key(venue: str) -> str:
    """`risk.denied.kraken`."""
    return f"risk.denied.{venue}"


def health_key(service: str) -> str:
    """`system.health.price_stream`."""
    return f"system.health.{service}"


def config_key(change: str) -> str:
    """`system.config.bots`: somebody changed bots."""
    return f"system.config.{change}"


def alert_key(severity: str) -> str:
    """`system.alert.critical`."""
    return f"system.alert.{severity}"


def control_key(verb: str) -> str:
    """`system.control.reset`."""
    return f"system.control.{verb}"


def poison_key(queue: str) -> str:
    """Under which a durable queue dead-letters what exceeds its delivery limit.

    Its own word in front, so that `queue.#` selects what consumers could not process.
    """
    return f"queue.{queue}"


def dead_letter_key(exchange: str, routing_key: str) -> str:
    """Where a message died: its exchange, a dot, its routing key, cut to what AMQP allows.

    So `price_updates.#` selects dead ticks. The uncut origin is in the headers.

    >>> dead_letter_key("price_updates", "BTC/USD")
    'price_updates.BTC/USD'
    """
    key = f"{exchange}.{routing_key}".encode()[:MAX_ROUTING_KEY_BYTES]
    return key.decode(errors="ignore")


def death_headers(
    *, reason: str, exchange: str, routing_key: str, died_at_ms: int
) -> dict[str, str]:
    """What a dead letter says about itself."""
    return {
        REASON_HEADER: reason,
        ORIGIN_EXCHANGE_HEADER: exchange,
        ORIGIN_KEY_HEADER: routing_key,
        DIED_AT_HEADER: str(died_at_ms),
    }


def matches(pattern: str, routing_key: str) -> bool:
    """Whether a topic pattern matches a key: `*` is one word, `#` any number, words split on dots.

    >>> matches("BTC/USD", "BTC/USD"), matches("#", "BTC/USD"), matches("BTC/#", "BTC/USD")
    (True, True, False)
    >>> matches("order.*.filled.#", "order.update.filled.kraken")
    True
    """
    return _match(_words(pattern), _words(routing_key))


def _words(dotted: str) -> tuple[str, ...]:
    # As RabbitMQ has it, an empty key is no word rather than one empty word.
    return tuple(dotted.split(".")) if dotted else ()


def _match(pattern: tuple[str, ...], words: tuple[str, ...]) -> bool:
    if not pattern:
        return not words
    head, rest = pattern[0], pattern[1:]
    if head == "#":
        return any(_match(rest, words[skipped:]) for skipped in range(len(words) + 1))
    return bool(words) and head in ("*", words[0]) and _match(rest, words[1:])
