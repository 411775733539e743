"""The tests' own servers: they answer, die, come back, and leave nothing behind."""

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import aiormq
import asyncpg  # type: ignore[import-untyped]
import pytest

from shared.topology import ORDERS, RISK
from tests.servers import (
    PrivateServer,
    ServerFailed,
    ServersMissing,
    postgres,
    private_postgres,
    private_rabbitmq,
    rabbitmq,
    topology,
)
from tests.servers.blocking import run
from tests.servers.keeper import processes
from tests.servers.names import new_name
from tests.servers.private import Port
from tests.servers.session import PostgresSession, RabbitMQSession

ROOT: Final = Path(__file__).parents[2]
Start = Callable[[], AbstractContextManager[PrivateServer]]
Opens = Callable[[str], bool]

both_kinds = pytest.mark.parametrize(
    ("start", "opens"),
    [
        pytest.param(private_postgres, postgres.opens, id="postgres"),
        pytest.param(private_rabbitmq, rabbitmq.opens, id="rabbitmq"),
    ],
)


def processes_in(folder: Path) -> set[int]:
    """The processes that work in a folder: a server's, all of them."""
    found = set()
    for pid, _ in processes():
        try:
            if Path(f"/proc/{pid}/cwd").readlink().is_relative_to(folder):
                found.add(pid)
        except OSError:
            continue
    return found


def shared_memory() -> set[str]:
    segments = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return {line.split()[1] for line in segments}


@both_kinds
def test_private_server_dies_comes_back_and_leaves_nothing(start: Start, opens: Opens) -> None:
    before = shared_memory()
    with start() as server:
        assert opens(server.url)
        assert processes_in(server.folder)

        server.kill()
        assert not processes_in(server.folder)
        assert not opens(server.url)

        server.restart()
        assert opens(server.url)

        server.terminate()
        assert not opens(server.url)

        server.kill()
    assert not processes_in(server.folder)
    assert not server.folder.exists()
    assert shared_memory() <= before


def test_killed_postgres_keeps_what_was_committed(killable_postgres: PrivateServer) -> None:
    databases = postgres.Databases(killable_postgres.url)
    databases.create("kept")
    killable_postgres.kill()
    killable_postgres.restart()
    assert "kept" in databases.names()


def test_stopped_server_is_silent_until_it_continues(killable_postgres: PrivateServer) -> None:
    address = ("127.0.0.1", int(killable_postgres.url.rpartition(":")[2].partition("/")[0]))
    killable_postgres.stop()
    with socket.create_connection(address) as connection:
        # An SSL request, which a server that runs answers with one byte.
        connection.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        killable_postgres.cont()
        connection.settimeout(30)
        assert connection.recv(1) in (b"N", b"S")


def test_two_servers_of_a_kind_do_not_meet(killable_postgres: PrivateServer) -> None:
    with private_postgres() as other:
        assert other.url != killable_postgres.url
        killable_postgres.kill()
        assert postgres.opens(other.url)


def test_closed_server_refuses_orders() -> None:
    with private_postgres() as server:
        pass
    with pytest.raises(ServerFailed, match="closed"):
        server.restart()


@both_kinds
def test_server_dies_with_a_killed_test_run(start: Start, opens: Opens) -> None:
    program = (
        "import json, sys\n"
        f"from tests.servers import {start.__name__}\n"
        f"with {start.__name__}() as server:\n"
        "    print(json.dumps([server.url, str(server.folder), server._keeper.pid]), flush=True)\n"
        "    sys.stdin.read()\n"
    )
    before = shared_memory()
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as killed:
        assert killed.stdout is not None
        url, folder, keeper = json.loads(killed.stdout.readline())
        assert opens(url)
        keeper_ends = os.pidfd_open(keeper)
        killed.kill()
    try:
        # Readable once the keeper, the last to go, has ended.
        assert select.select([keeper_ends], [], [], 60)[0]
    finally:
        os.close(keeper_ends)
    assert not Path(folder).exists()
    assert not processes_in(Path(folder))
    assert not opens(url)
    assert shared_memory() <= before


def test_reserved_port_is_given_to_nobody_else() -> None:
    ports = [Port() for _ in range(50)]
    try:
        assert len({port.number for port in ports}) == len(ports)
        lock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with lock, pytest.raises(OSError, match="in use"):
            lock.bind(("127.0.0.1", ports[0].number))
    finally:
        for port in ports:
            port.close()


def test_database_is_fresh_and_dropped(postgres_session: PostgresSession) -> None:
    with postgres_session.database() as url:
        name = url.rpartition("/")[2]
        assert postgres.opens(url)
        assert name in postgres_session.databases.names()
    assert name not in postgres_session.databases.names()


def test_template_is_filled_once_and_copied(postgres_session: PostgresSession) -> None:
    filled = []

    def fill(url: str) -> None:
        filled.append(url)
        postgres.Databases(url).execute("CREATE TABLE copied (id integer)")

    for _ in range(2):
        template = postgres_session.template("of this test", fill)
        with postgres_session.database(template=template) as url:
            postgres.Databases(url).execute("INSERT INTO copied VALUES (1)")
    assert len(filled) == 1


def test_own_virtual_hosts_are_fresh_and_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a private node: a second session on the run's own node would clear up after the first.
    monkeypatch.delenv("TEST_RABBITMQ_URL", raising=False)
    monkeypatch.setenv("TEST_SERVERS_FROM", "binaries")
    session = RabbitMQSession(print)
    try:
        with session.virtual_host() as url:
            assert url != session.url
            assert rabbitmq.opens(url)
        assert not rabbitmq.opens(url)
        assert rabbitmq.opens(session.url)
    finally:
        left = session.close()
    assert not left


def test_given_virtual_host_is_used_where_none_can_be_made(
    killable_rabbitmq: PrivateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The rabbitmqctl of this machine, if it has one, reaches another node.
    monkeypatch.setenv("TEST_RABBITMQ_URL", killable_rabbitmq.url)
    session = RabbitMQSession(print)
    with session.virtual_host() as url:
        assert url == session.url == killable_rabbitmq.url
        run(declare(url, RISK))
    assert not topology.present(url)
    assert not session.close()


async def declare(url: str, *exchanges: str) -> None:
    connection = await aiormq.connect(url)
    channel = await connection.channel()
    for name in exchanges:
        await channel.exchange_declare(name, exchange_type="topic", durable=True)
    await connection.close()


def test_what_a_test_forgets_is_named_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_DATABASE_URL", raising=False)
    monkeypatch.setenv("TEST_SERVERS_FROM", "binaries")
    session = PostgresSession(print)
    forgotten = new_name()
    session.databases.create(forgotten)
    assert session.close() == [forgotten]


def test_server_that_refuses_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(ServersMissing, match="TEST_DATABASE_URL is set"):
        PostgresSession(print)


def test_wrong_credentials_do_not_open(rabbitmq_url: str, postgres_url: str) -> None:
    assert rabbitmq.opens(rabbitmq_url)
    assert not rabbitmq.opens(rabbitmq_url.replace("guest:guest", "guest:wrong"))
    assert not postgres.opens(postgres_url.rpartition("/")[0] + "/no_such_database")


def test_migrated_database_has_its_tables(migrated_database_url: str, postgres_url: str) -> None:
    postgres.Databases(migrated_database_url).execute("TABLE orders")
    with pytest.raises(asyncpg.UndefinedTableError):
        postgres.Databases(postgres_url).execute("TABLE orders")


def test_given_virtual_host_keeps_only_what_was_in_it(fresh_rabbitmq_url: str) -> None:
    run(declare(fresh_rabbitmq_url, ORDERS))
    found = topology.present(fresh_rabbitmq_url)
    assert found == {("exchange", ORDERS)}
    run(declare(fresh_rabbitmq_url, ORDERS, RISK))
    topology.remove(fresh_rabbitmq_url, keep=found)
    assert topology.present(fresh_rabbitmq_url) == found
