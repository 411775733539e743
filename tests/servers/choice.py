"""Which RabbitMQ and which PostgreSQL the tests use: the order, and what to do without any."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Source(Enum):
    """Where a server comes from; the order is the order of preference."""

    POINTED_TO = "pointed to"
    LISTENING = "listening"
    BINARIES = "binaries"
    DOCKER = "docker"
    INSTALL = "install"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of server, as people and package managers call it.

    `variable` points the tests to one. DATABASE_URL, CLOUDAMQP_URL and RABBITMQ_URL never do:
    in a developer's shell they may name production.
    """

    name: str
    variable: str
    default_port: int
    debian_package: str
    docker_image: str
    example_url: str


RABBITMQ: Final = Kind(
    name="RabbitMQ",
    variable="TEST_RABBITMQ_URL",
    default_port=5672,
    debian_package="rabbitmq-server",
    docker_image="rabbitmq:4",
    example_url="amqp://guest:guest@127.0.0.1:5672/",
)
POSTGRES: Final = Kind(
    name="PostgreSQL",
    variable="TEST_DATABASE_URL",
    default_port=5432,
    debian_package="postgresql",
    docker_image="postgres:17",
    example_url="postgresql://postgres:postgres@127.0.0.1:5432/postgres",
)

FIRST_SOURCE_VARIABLE: Final = "TEST_SERVERS_FROM"
"""`binaries`, say, passes over servers that already listen. Pointed-to ones always come first."""


class ServersMissing(Exception):
    """The tests cannot have a server that they need. The text says exactly what to do."""


def choose(is_available: Callable[[Source], bool], *, first: Source) -> Source | None:
    """The first source that is available, from `first` on; None without any.

    Asks in order and no further than needed: asking may take seconds.
    """
    order = list(Source)
    return next(filter(is_available, order[order.index(first) :]), None)


def first_source(value: str | None) -> Source:
    """The source that `TEST_SERVERS_FROM` names. Raises `ServersMissing` for an unknown one."""
    if not value:
        return Source.LISTENING
    try:
        return Source(value)
    except ValueError:
        names = ", ".join(source.value for source in Source if source is not Source.POINTED_TO)
        raise ServersMissing(
            f"{FIRST_SOURCE_VARIABLE} must be one of {names}, was {value!r}"
        ) from None


def advice(kind: Kind) -> str:
    """What a person can do when there is no server of this kind and no way to start one."""
    return (
        f"These tests need {kind.name}, and there is none on port {kind.default_port}, no "
        f"installed program to start and no Docker engine. Do one of these, then try again:\n"
        f"  - install it:         sudo apt-get install {kind.debian_package}\n"
        f"  - start one:          docker run -d -p 127.0.0.1:{kind.default_port}:"
        f"{kind.default_port} {'-e POSTGRES_PASSWORD=postgres ' if kind is POSTGRES else ''}"
        f"{kind.docker_image}\n"
        f"  - point to a test one: export {kind.variable}={kind.example_url}\n"
        f"`make check` needs no server."
    )
