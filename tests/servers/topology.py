"""botfleet's exchanges and durable queues in a virtual host that is not the tests' own.

Where nobody may make virtual hosts, the tests use the one they were given, and take out of it
what they put in.
"""

import aiormq
from aiormq.abc import AbstractConnection

from shared.topology import DURABLE_QUEUES, EXCHANGES
from tests.servers.blocking import run

Named = tuple[str, str]
"""("exchange" or "queue", name)."""

OURS: tuple[Named, ...] = (
    *(("exchange", name) for name in EXCHANGES),
    *(("queue", declared.queue.name or "") for declared in DURABLE_QUEUES),
)


def present(url: str) -> frozenset[Named]:
    """Which of ours are there."""
    return run(_present(url))


def remove(url: str, *, keep: frozenset[Named]) -> None:
    """Delete ours, if they are there, but for those to keep."""
    run(_remove(url, keep))


async def _present(url: str) -> frozenset[Named]:
    connection = await aiormq.connect(url)
    try:
        return frozenset([named for named in OURS if await _is_there(connection, named)])
    finally:
        await connection.close()


async def _is_there(connection: AbstractConnection, named: Named) -> bool:
    kind, name = named
    # A channel for each: the broker closes one that asks for what is not there.
    channel = await connection.channel()
    try:
        if kind == "exchange":
            await channel.exchange_declare(name, passive=True)
        else:
            await channel.queue_declare(name, passive=True)
    except aiormq.exceptions.ChannelNotFoundEntity:
        return False
    await channel.close()
    return True


async def _remove(url: str, keep: frozenset[Named]) -> None:
    connection = await aiormq.connect(url)
    try:
        channel = await connection.channel()
        for kind, name in OURS:
            if (kind, name) in keep:
                continue
            if kind == "exchange":
                await channel.exchange_delete(name)
            else:
                await channel.queue_delete(name)
    finally:
        await connection.close()
