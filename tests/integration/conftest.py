"""The store on both databases, and the bus that goes with each, for every test that asks."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from shared.bus import Bus
from shared.bus.connect import bus_for
from shared.store.engine import Store, connect
from shared.store.schema import migrate
from tests.integration.trading_fleet import Prices
from tests.servers.session import PostgresSession

DIALECTS = ("postgresql", "sqlite")


@pytest.fixture(params=DIALECTS)
def empty_database_url(
    request: pytest.FixtureRequest, postgres_session: PostgresSession, tmp_path: Path
) -> Iterator[str]:
    """An empty database: once on PostgreSQL, once on SQLite."""
    if request.param == "sqlite":
        yield _file(tmp_path)
    else:
        with postgres_session.database() as url:
            yield url


@pytest.fixture(params=DIALECTS)
def database_url(
    request: pytest.FixtureRequest, postgres_session: PostgresSession, tmp_path: Path
) -> Iterator[str]:
    """A migrated database without users: once on PostgreSQL, once on SQLite."""
    if request.param == "sqlite":
        migrate(_file(tmp_path))
        yield _file(tmp_path)
    else:
        with postgres_session.database(
            template=postgres_session.template("migrated", migrate)
        ) as url:
            yield url


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """A store on a migrated database, once on each."""
    store = connect(database_url, application_name="test")
    yield store
    await store.close()


@pytest.fixture
async def postgres_store(migrated_database_url: str) -> AsyncIterator[Store]:
    """A store on a migrated PostgreSQL database, for what SQLite does not have."""
    store = connect(migrated_database_url, application_name="test")
    yield store
    await store.close()


@pytest.fixture
async def bus(bus_url: str) -> AsyncIterator[Bus]:
    """What a service under test uses; `other_bus` is everybody else's."""
    opened = bus_for(bus_url, name="service")
    await opened.start()
    yield opened
    await opened.close()


@pytest.fixture
async def other_bus(bus_url: str) -> AsyncIterator[Bus]:
    opened = bus_for(bus_url, name="test")
    await opened.start()
    yield opened
    await opened.close()


@pytest.fixture
def bus_url(request: pytest.FixtureRequest, database_url: str) -> str:
    """RabbitMQ beside PostgreSQL, memory beside SQLite: as fleets are."""
    if database_url.startswith("sqlite"):
        return f"memory://{uuid4().hex}"
    url: str = request.getfixturevalue("rabbitmq_url")
    return url


@pytest.fixture
def prices(other_bus: Bus) -> Prices:
    return Prices(other_bus)


def _file(folder: Path) -> str:
    return f"sqlite:///{folder / 'var' / 'fleet.db'}"
