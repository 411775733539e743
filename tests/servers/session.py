"""The servers of one test run: found or started once, and left as they were found."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from tests.servers import postgres, rabbitmq, topology
from tests.servers.choice import (
    FIRST_SOURCE_VARIABLE,
    POSTGRES,
    RABBITMQ,
    Kind,
    ServersMissing,
    Source,
    first_source,
)
from tests.servers.machine import way_to_start
from tests.servers.names import leftovers, new_name, of_this_run
from tests.servers.postgres import Databases
from tests.servers.private import PrivateServer
from tests.servers.rabbitmq import VirtualHosts, with_virtual_host

Say = Callable[[str], None]


class PostgresSession:
    """The run's PostgreSQL. `described` says which one, for people."""

    def __init__(self, say: Say) -> None:
        self._server: PrivateServer | None = None
        self._templates: dict[str, str] = {}
        url, self.described = self._find(say)
        self.databases = Databases(url)
        for name in leftovers(self.databases.names(), now_secs=time.time()):
            self.databases.drop(name)

    def _find(self, say: Say) -> tuple[str, str]:
        if url := os.environ.get(POSTGRES.variable):
            url = url.replace("postgres://", "postgresql://", 1)
            if not postgres.opens(url):
                raise _refused(POSTGRES)
            return url, f"PostgreSQL of {POSTGRES.variable}"
        if _first() is Source.LISTENING:
            for url in filter(postgres.opens, postgres.default_urls()):
                return url, f"PostgreSQL on port {POSTGRES.default_port}"
        way = way_of(POSTGRES, say)
        self._server = postgres.start_private(way)
        return self._server.url, f"a private PostgreSQL ({way.value})"

    @contextmanager
    def database(self, *, template: str = "template1") -> Iterator[str]:
        """The URL of a fresh database, dropped at the end."""
        name = new_name()
        self.databases.create(name, template=template)
        try:
            yield self.databases.url(name)
        finally:
            self.databases.drop(name)

    def template(self, key: str, fill: Callable[[str], None]) -> str:
        """The name of the run's template database `key`, made by `fill(url)` when first asked."""
        if key not in self._templates:
            name = new_name()
            self.databases.create(name)
            self._templates[key] = name
            fill(self.databases.url(name))
        return self._templates[key]

    def close(self) -> list[str]:
        """Drop what the run made; returns the names of databases that tests left behind."""
        try:
            for name in self._templates.values():
                self.databases.drop(name)
            self._templates.clear()
            left = of_this_run(self.databases.names())
            for name in left:
                self.databases.drop(name)
        finally:
            if self._server is not None:
                self._server.close()
        return left


class RabbitMQSession:
    """The run's RabbitMQ. `url` is that of a virtual host of its own, or of the one given."""

    def __init__(self, say: Say) -> None:
        self._server: PrivateServer | None = None
        self._own: list[str] = []
        self._base, self._admin, self.described = self._find(say)
        self.url = self._base
        self._found = topology.present(self.url) if self._admin is None else frozenset()
        if self._admin is not None:
            for name in leftovers(self._admin.names(), now_secs=time.time()):
                self._admin.delete(name)
            self.url = self._add(self._admin)

    def _find(self, say: Say) -> tuple[str, VirtualHosts | None, str]:
        if url := os.environ.get(RABBITMQ.variable):
            if not rabbitmq.opens(url):
                raise _refused(RABBITMQ)
            admin = rabbitmq.administration(url, None)
            shared = "" if admin else ", in the virtual host given"
            return url, admin, f"RabbitMQ of {RABBITMQ.variable}{shared}"
        if _first() is Source.LISTENING and rabbitmq.opens(RABBITMQ.example_url):
            # Only in a virtual host of our own: in the default one may run somebody's fleet.
            admin = rabbitmq.administration(RABBITMQ.example_url, None)
            if admin is not None:
                where = f"RabbitMQ on port {RABBITMQ.default_port}"
                return RABBITMQ.example_url, admin, where
        way = way_of(RABBITMQ, say)
        self._server = rabbitmq.start_private(way)
        admin = rabbitmq.administration(self._server.url, self._server)
        return self._server.url, admin, f"a private RabbitMQ ({way.value})"

    @contextmanager
    def virtual_host(self) -> Iterator[str]:
        """The URL of a fresh virtual host, deleted at the end.

        Where we may make none it is `url`, and only botfleet's own topology goes at the end.
        """
        if self._admin is None:
            try:
                yield self.url
            finally:
                topology.remove(self.url, keep=self._found)
            return
        url = self._add(self._admin)
        name = self._own[-1]
        try:
            yield url
        finally:
            self._admin.delete(name)
            self._own.remove(name)

    def _add(self, admin: VirtualHosts) -> str:
        name = new_name()
        admin.add(name)
        self._own.append(name)
        return with_virtual_host(self._base, name)

    def close(self) -> list[str]:
        """Delete what the run made; returns the names of virtual hosts left behind."""
        left: list[str] = []
        try:
            if self._admin is None:
                topology.remove(self.url, keep=self._found)
            else:
                for name in self._own:
                    self._admin.delete(name)
                self._own.clear()
                left = of_this_run(self._admin.names())
                for name in left:
                    self._admin.delete(name)
        finally:
            if self._server is not None:
                self._server.close()
        return left


@contextmanager
def private_rabbitmq() -> Iterator[PrivateServer]:
    """A RabbitMQ of the test's own, up in seconds; `url` has all rights on it.

    Raises `ServersMissing` without a way to start one, `ServerFailed` if it does not start.
    """
    with closing(rabbitmq.start_private(way_of(RABBITMQ))) as server:
        yield server


@contextmanager
def private_postgres() -> Iterator[PrivateServer]:
    """A PostgreSQL of the test's own, up in a second or two; `url` is a superuser's.

    Raises `ServersMissing` without a way to start one, `ServerFailed` if it does not start.
    """
    with closing(postgres.start_private(way_of(POSTGRES))) as server:
        yield server


def way_of(kind: Kind, say: Say | None = None) -> Source:
    """How this machine starts a private server; found out, or made possible, once per run."""
    if kind not in _ways:
        first = _first() if _first() is not Source.LISTENING else Source.BINARIES
        _ways[kind] = way_to_start(kind, first=first, say=say or _say)
    return _ways[kind]


_ways: dict[Kind, Source] = {}


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _first() -> Source:
    return first_source(os.environ.get(FIRST_SOURCE_VARIABLE))


def _refused(kind: Kind) -> ServersMissing:
    right = ", with the right to create databases," if kind is POSTGRES else ""
    return ServersMissing(
        f"{kind.variable} is set, but no {kind.name} takes its credentials there{right} in time. "
        "Correct it, or unset it to use a local server."
    )
