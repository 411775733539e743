"""What every test may rely on: a clean environment, and real servers where it asks for them.

The servers are found or started once, after collection, and only if a collected test uses one
of these fixtures. TEST_DATABASE_URL and TEST_RABBITMQ_URL point to some; see tests/servers.
"""

import os
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import Phase, settings

from tests.servers import PrivateServer, ServersMissing, private_postgres, private_rabbitmq
from tests.servers.choice import POSTGRES, RABBITMQ
from tests.servers.names import remove_left_folders
from tests.servers.session import PostgresSession, RabbitMQSession, way_of

# No deadline: on a busy machine it would fail tests that are right. `make check` takes the quick
# profile, `make test` the full one.
settings.register_profile("full", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=25)
# `make chaos-mutants` wants to know that there is an example, not which one is the shortest.
settings.register_profile("unshrunk", deadline=None, phases=[Phase.generate])
settings.load_profile("full")

OURS: Final = ("DATABASE_URL", "CLOUDAMQP_URL", "RABBITMQ_URL", "WORKER_ID", "PORT")
POSTGRES_KEY: Final = pytest.StashKey[PostgresSession]()
RABBITMQ_KEY: Final = pytest.StashKey[RabbitMQSession]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough", action="store_true", help="also run the tests that take minutes each"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `thorough`, unless it is asked for."""
    if config.option.thorough:
        return
    left_out = [item for item in items if item.get_closest_marker("thorough")]
    items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=left_out)


def pytest_configure() -> None:
    # In a developer's shell these may name production: no test may ever reach it.
    for name in list(os.environ):
        if name in OURS or name.startswith(("BOTFLEET_", "LOG_")):
            del os.environ[name]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have the servers that the collected tests ask for ready before the first test starts.

    Here and not in a fixture, so that an installation counts against no test's time limit.
    """
    config = session.config
    wanted = {
        name for item in session.items for name in getattr(item, "fixturenames", ())
    }  # doctests have none
    if config.option.collectonly or not wanted & {"postgres_session", "rabbitmq_session", *WAYS}:
        return
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    say = terminal.write_line if terminal is not None else print
    remove_left_folders()
    try:
        for name, kind in WAYS.items():
            if name in wanted:
                way_of(kind, say)
        used = []
        if "postgres_session" in wanted:
            config.stash[POSTGRES_KEY] = PostgresSession(say)
            used.append(config.stash[POSTGRES_KEY].described)
        if "rabbitmq_session" in wanted:
            config.stash[RABBITMQ_KEY] = RabbitMQSession(say)
            used.append(config.stash[RABBITMQ_KEY].described)
    except ServersMissing as missing:
        raise pytest.UsageError(str(missing)) from None
    if used:
        say(f"servers: {', '.join(used)}")


def pytest_unconfigure(config: pytest.Config) -> None:
    # After an interrupted run; otherwise the fixtures below have closed them already.
    for session in (config.stash.get(POSTGRES_KEY, None), config.stash.get(RABBITMQ_KEY, None)):
        if session is not None:
            session.close()


@pytest.fixture(scope="session")
def postgres_session(pytestconfig: pytest.Config) -> Iterator[PostgresSession]:
    """The run's PostgreSQL server. Fails at the end if a test left a database behind."""
    if (
        POSTGRES_KEY not in pytestconfig.stash
    ):  # asked for by `getfixturevalue`, unseen at collection
        pytestconfig.stash[POSTGRES_KEY] = PostgresSession(print)
    session = pytestconfig.stash[POSTGRES_KEY]
    yield session
    del pytestconfig.stash[POSTGRES_KEY]
    left = session.close()
    assert not left, f"tests left databases behind: {', '.join(left)}"


@pytest.fixture(scope="session")
def rabbitmq_session(pytestconfig: pytest.Config) -> Iterator[RabbitMQSession]:
    """The run's RabbitMQ node. Fails at the end if a test left a virtual host behind."""
    if (
        RABBITMQ_KEY not in pytestconfig.stash
    ):  # asked for by `getfixturevalue`, unseen at collection
        pytestconfig.stash[RABBITMQ_KEY] = RabbitMQSession(print)
    session = pytestconfig.stash[RABBITMQ_KEY]
    yield session
    del pytestconfig.stash[RABBITMQ_KEY]
    left = session.close()
    assert not left, f"tests left virtual hosts behind: {', '.join(left)}"


@pytest.fixture(scope="session")
def rabbitmq_url(rabbitmq_session: RabbitMQSession) -> str:
    """The `amqp://` URL of the run's own virtual host, which all tests of the run share."""
    return rabbitmq_session.url


@pytest.fixture
def fresh_rabbitmq_url(rabbitmq_session: RabbitMQSession) -> Iterator[str]:
    """The `amqp://` URL of a virtual host of the test's own, empty; takes about a second."""
    with rabbitmq_session.virtual_host() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_session: PostgresSession) -> Iterator[str]:
    """The `postgresql://` URL of an empty database of the test's own."""
    with postgres_session.database() as url:
        yield url


@pytest.fixture
def migrated_database_url(postgres_session: PostgresSession) -> Iterator[str]:
    """The `postgresql://` URL of a database of the test's own, as `botfleet migrate` leaves it.

    A copy of one that was migrated once, so they share their id namespace.
    """
    # Here, so that the pure tests do not load SQLAlchemy and stand on their own.
    from shared.store.schema import migrate

    template = postgres_session.template("migrated", migrate)
    with postgres_session.database(template=template) as url:
        yield url


@pytest.fixture
def killable_rabbitmq() -> Iterator[PrivateServer]:
    """A RabbitMQ of the test's own, to kill, pause and restart; up in ten seconds."""
    with private_rabbitmq() as server:
        yield server


@pytest.fixture
def killable_postgres() -> Iterator[PrivateServer]:
    """A PostgreSQL of the test's own, to kill, pause and restart; up in a second."""
    with private_postgres() as server:
        yield server


WAYS: Final = {killable_rabbitmq.__name__: RABBITMQ, killable_postgres.__name__: POSTGRES}
"""Fixtures that start private servers: a way to do so is found, or installed, beforehand."""
