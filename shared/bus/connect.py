"""Which bus a broker URL means."""

from typing import Final
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from shared.bus import Bus
from shared.bus.memory import MemoryBroker, MemoryBus
from shared.bus.rabbitmq import RabbitBus
from shared.errors import InvalidSettings

_memory_brokers: Final[WeakValueDictionary[str, MemoryBroker]] = WeakValueDictionary()
"""One broker per `memory://` URL for as long as somebody holds a bus on it."""


def bus_for(url: str, *, name: str, separate_publisher: bool = False) -> Bus:
    """A bus for `amqp://`, `amqps://` or `memory://`, not started yet.

    Equal `memory://` URLs share one broker within the process. `name` tells processes apart in
    the broker's lists and in log lines. `separate_publisher` is `RabbitBus`'s. Raises
    `InvalidSettings` for anything else, without repeating the URL: it may hold a password.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as exc:
        raise InvalidSettings("the broker URL cannot be read: host or port are malformed") from exc
    match parts.scheme:
        case "memory":
            return MemoryBus(_memory_brokers.setdefault(url, MemoryBroker()))
        case "amqp" | "amqps" if host:
            return RabbitBus(url, name=name, separate_publisher=separate_publisher)
        case "amqp" | "amqps":
            raise InvalidSettings(f"the broker URL names no host: {parts.scheme}://?")
        case _:
            raise InvalidSettings(
                "the broker URL must begin with amqp://, amqps:// or memory://, "
                f"was {parts.scheme or 'without a scheme'!r}"
            )
