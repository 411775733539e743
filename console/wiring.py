"""From settings to an open database and broker, for services and for verbs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from shared.errors import InvalidSettings, RetryLater, StoreUnavailable

if TYPE_CHECKING:
    from shared.bus import Bus
    from shared.process import Service
    from shared.settings import Settings
    from shared.store.engine import Store

T = TypeVar("T")

EMBEDDED_DATABASE: Final = "sqlite:///var/botfleet.db"
EMBEDDED_BROKER: Final = "memory://botfleet"

BUILD_TIMEOUT_SECS: Final = 600.0
"""For a migration of an embedded database at the start."""

VERB_TIMEOUT_SECS: Final = 30.0
"""Of each statement that a verb sends."""

BROKER_TIMEOUT_SECS: Final = 5.0
"""How long a verb waits for the broker. Services wait for ever."""

Builder = Callable[..., Awaitable["Service"]]
"""`build(settings, *, bus, store)` of price_stream and trade_worker."""


def embedded(settings: "Settings") -> "Settings":
    """The settings with an SQLite file and the memory bus where nothing else is configured."""
    return settings.model_copy(
        update={
            "database_url": settings.database_url or EMBEDDED_DATABASE,
            "broker_url": settings.broker_url or EMBEDDED_BROKER,
        }
    )


def required_database(settings: "Settings") -> str:
    """DATABASE_URL, or `InvalidSettings` that says what it should be."""
    if settings.database_url is not None:
        return settings.database_url
    hint = "postgresql://user:password@host:5432/name"
    file = Path(EMBEDDED_DATABASE.removeprefix("sqlite:///"))
    if file.exists():
        hint += f", or {EMBEDDED_DATABASE} for the fleet that `botfleet demo` or `all` runs here"
    raise InvalidSettings(f"DATABASE_URL is not set: set it to {hint}")


def required_broker(settings: "Settings") -> str:
    """The URL of a broker that joins processes, or `InvalidSettings`."""
    if settings.broker_url is None:
        raise InvalidSettings(
            "CLOUDAMQP_URL and RABBITMQ_URL are not set: set one to amqp://user:password@host:5672/"
            " (`botfleet all` needs no broker: it runs every service in one process)"
        )
    if settings.broker_url.startswith("memory:"):
        raise InvalidSettings(
            "CLOUDAMQP_URL (or RABBITMQ_URL) must be amqp://… or amqps://… here, was memory://…: "
            "a memory bus cannot join two processes; `botfleet all` runs every service in one"
        )
    return settings.broker_url


@asynccontextmanager
async def opened(
    settings: "Settings", name: str, *, migrating: bool
) -> AsyncIterator[tuple["Bus", "Store"]]:
    """The broker and the database of a service, both up, the schema checked; closed at the end.

    Waits for either, saying so. `migrating` brings an SQLite file to this code's schema first;
    a server's schema is never changed by the way. Raises `Halt`.
    """
    from shared.bus.connect import bus_for
    from shared.store.engine import connect
    from shared.store.schema import check_schema, upgrade

    database_url = required_database(settings)
    bus = bus_for(settings.broker_url or EMBEDDED_BROKER, name=name)
    store = connect(database_url, application_name=name)
    try:
        await store.wait_until_up()
        if migrating and store.dialect == "sqlite":
            slow = connect(database_url, application_name=name, timeout_secs=BUILD_TIMEOUT_SECS)
            try:
                await upgrade(slow, shard_count=settings.shard_count)
            finally:
                await slow.close()
        await check_schema(store, shard_count=settings.shard_count)
        await bus.start()
        yield bus, store
    finally:
        await bus.close()
        await store.close()


def on_store(work: Callable[["Store"], Coroutine[Any, Any, T]]) -> T:
    """Do a verb's work on the configured database, its schema checked, and return its result.

    Raises what the work raises, and `StoreUnavailable` at once if the database is away.
    """
    from shared.settings import load_settings
    from shared.store.engine import connect
    from shared.store.schema import check_schema

    url = required_database(load_settings())

    async def run() -> T:
        store = connect(
            url, application_name="botfleet", pool_size=2, timeout_secs=VERB_TIMEOUT_SECS
        )
        try:
            await check_schema(store)
            return await work(store)
        except StoreUnavailable as exc:
            raise StoreUnavailable(f"{exc} ({store}; `botfleet doctor` looks closer)") from exc
        finally:
            await store.close()

    return asyncio.run(run())


@asynccontextmanager
async def opened_bus(settings: "Settings") -> AsyncIterator["Bus"]:
    """The broker for a verb: up within 5 s, or `RetryLater`."""
    from shared.bus.connect import bus_for

    url = required_broker(settings)
    bus = bus_for(url, name="botfleet")
    # What the libraries say while it is tried again would only surround our last line.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        try:
            async with asyncio.timeout(BROKER_TIMEOUT_SECS):
                await bus.start()
        except TimeoutError as exc:
            raise RetryLater(
                f"no broker answers at {_address(url)} within {BROKER_TIMEOUT_SECS:.0f} s"
            ) from exc
        yield bus
    finally:
        await bus.close()


def _address(url: str) -> str:
    """Host and port of a URL: never its password."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
