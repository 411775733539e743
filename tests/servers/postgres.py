"""PostgreSQL for the tests: private servers, and databases on any server."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import asyncpg  # type: ignore[import-untyped]

from tests.servers.blocking import run
from tests.servers.choice import POSTGRES, Source
from tests.servers.docker import ContainerServer
from tests.servers.machine import postgres_folder
from tests.servers.private import (
    Port,
    PrivateServer,
    ServerFailed,
    new_folder,
    new_secret,
    plain_environment,
)

# What makes commits durable stays on: the store warns of a database without it.
SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # In the data folder, and not in /dev/shm, where a killed server would leave it.
    "dynamic_shared_memory_type": "mmap",
    "shared_buffers": "32MB",
    "max_connections": "200",
}
SOCKET_FOLDERS: Final = ("/var/run/postgresql", "/tmp")


class Databases:
    """Makes and drops databases on one server, through its maintenance database."""

    def __init__(self, url: str) -> None:
        self._url = url

    def url(self, name: str) -> str:
        """The URL of a database on this server, as hosts hand it out."""
        return urlsplit(self._url)._replace(path=f"/{name}").geturl()

    def create(self, name: str, *, template: str = "template1") -> None:
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')

    def drop(self, name: str) -> None:
        """Drop it, if it is there, whoever is still connected."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, statement: str) -> None:
        """Run a statement in the maintenance database, outside of any transaction."""
        run(self._execute(statement))

    def names(self) -> list[str]:
        return run(self._names())

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self._url, timeout=10)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def _names(self) -> list[str]:
        connection = await asyncpg.connect(self._url, timeout=10)
        try:
            rows = await connection.fetch("SELECT datname FROM pg_database")
        finally:
            await connection.close()
        return [row["datname"] for row in rows]


def opens(url: str) -> bool:
    """Whether a server answers at the URL, takes its credentials and lets us make databases."""
    return run(_may_create_databases(url))


async def _may_create_databases(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    try:
        may: bool = await connection.fetchval(
            "SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user"
        )
    finally:
        await connection.close()
    return may


def default_urls() -> Iterator[str]:
    """Where a developer's server usually is, with the credentials that it usually takes."""
    port = POSTGRES.default_port
    user = pwd.getpwuid(os.geteuid()).pw_name
    for credentials in ("postgres:postgres", quote(user)):
        yield f"postgresql://{credentials}@127.0.0.1:{port}/postgres"
    for folder in SOCKET_FOLDERS:
        if Path(folder, f".s.PGSQL.{port}").exists():
            for name in ("postgres", user):
                yield f"postgresql://{quote(name)}@/postgres?host={quote(folder, safe='')}"


def start_private(way: Source) -> PrivateServer:
    """A server of our own, answering. Raises `ServerFailed`."""
    server = _container() if way is Source.DOCKER else _cluster()
    try:
        server.start()
    except BaseException:
        server.close()
        raise
    return server


def _cluster() -> PrivateServer:
    programs = postgres_folder()
    if programs is None:
        raise FileNotFoundError("initdb")
    folder, user = new_folder("postgres"), _unprivileged_user()
    port, password = Port(), new_secret()
    url = f"postgresql://postgres:{password}@127.0.0.1:{port.number}/postgres"
    settings = {**SETTINGS, "port": str(port.number)}
    server = PrivateServer(
        url=url,
        ports=[port],
        folder=folder,
        command=[
            *(str(programs / "postgres"), "-D", str(folder / "data")),
            *(f"--{name}={value}" for name, value in settings.items()),
        ],
        environment=plain_environment(folder),
        answers=lambda: opens(url),
        user=user,
        pid_file="data/postmaster.pid",
    )
    try:
        _initialise(programs, folder, user, password)
    except BaseException:
        server.close()
        raise
    return server


def _initialise(programs: Path, folder: Path, user: str | None, password: str) -> None:
    (folder / "password").write_text(password)
    if user is not None:
        for path in (folder, folder / "password"):
            shutil.chown(path, user)
    done = subprocess.run(
        [
            *(str(programs / "initdb"), "--pgdata", str(folder / "data"), "--username=postgres"),
            *(f"--pwfile={folder / 'password'}", "--auth=scram-sha-256"),
            *("--no-sync", "--encoding=UTF8", "--locale=C"),
        ],
        cwd=folder,
        env=plain_environment(folder),
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServerFailed(f"initdb failed:\n{done.stdout}")


def _unprivileged_user() -> str | None:
    """Who runs the server: PostgreSQL refuses to run as root. None: whoever we are."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _container() -> PrivateServer:
    port, password = Port(), new_secret()
    url = f"postgresql://postgres:{password}@127.0.0.1:{port.number}/postgres"
    return ContainerServer(
        POSTGRES,
        port=port,
        url=url,
        settings={"POSTGRES_PASSWORD": password},
        arguments=["-c", "max_connections=200"],
        answers=lambda: opens(url),
    )
