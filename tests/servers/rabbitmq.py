"""RabbitMQ for the tests: private nodes, and virtual hosts on any node."""

import os
import socket
import ssl
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import quote, unquote, urlsplit

from tests.servers.choice import RABBITMQ, Source
from tests.servers.docker import ContainerServer
from tests.servers.machine import rabbitmq_folder
from tests.servers.names import new_name
from tests.servers.private import Port, PrivateServer, new_folder, new_secret, plain_environment

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
CONNECTION: Final = 10
START_OK, TUNE, TUNE_OK, OPEN, OPEN_OK = 11, 30, 31, 40, 41


class VirtualHosts(Protocol):
    """Who can make and delete virtual hosts on a node. Raises `OSError` where it may not."""

    def add(self, name: str) -> None: ...
    def delete(self, name: str) -> None: ...
    def names(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Rabbitmqctl:
    """The node's own command line: `command` with `environment` reaches the right node."""

    command: Sequence[str]
    environment: Mapping[str, str]
    user: str = "guest"

    def add(self, name: str) -> None:
        self._run("add_vhost", name)
        self._run("set_permissions", "--vhost", name, self.user, ".*", ".*", ".*")

    def delete(self, name: str) -> None:
        self._run("delete_vhost", name)

    def names(self) -> list[str]:
        return self._run("list_vhosts", "--silent").split()

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self.command, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise OSError(f"rabbitmqctl {arguments[0]}: {done.stderr.strip()}")
        return done.stdout


def opens(url: str, *, timeout_secs: float = 5.0) -> bool:
    """Whether a broker answers at the URL, takes its credentials and opens its virtual host.

    The first five steps of AMQP 0-9-1's handshake, by hand: a client library would retry, log
    and leave tasks behind.
    """
    parts = urlsplit(url)
    host = parts.hostname or "127.0.0.1"
    port = parts.port or (5671 if parts.scheme == "amqps" else 5672)
    user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
    try:
        with socket.create_connection((host, port), timeout=timeout_secs) as connection:
            if parts.scheme == "amqps":
                context = ssl.create_default_context()
                with context.wrap_socket(connection, server_hostname=host) as encrypted:
                    return _handshake(encrypted, user, password, virtual_host(url))
            return _handshake(connection, user, password, virtual_host(url))
    except OSError:
        return False


def _handshake(connection: socket.socket, user: str, password: str, host: str) -> bool:
    connection.sendall(PROTOCOL_HEADER)
    _receive(connection)  # Start
    response = f"\0{user}\0{password}".encode()
    start_ok = struct.pack(">I", 0) + _short(b"PLAIN") + struct.pack(">I", len(response))
    _send(connection, START_OK, start_ok + response + _short(b"en_US"))
    method, limits = _receive(connection)
    if method != TUNE:
        return False
    _send(connection, TUNE_OK, limits)
    _send(connection, OPEN, _short(host.encode()) + b"\0\0")
    return _receive(connection)[0] == OPEN_OK


def _send(connection: socket.socket, method: int, arguments: bytes) -> None:
    payload = struct.pack(">HH", CONNECTION, method) + arguments
    connection.sendall(struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce")


def _receive(connection: socket.socket) -> tuple[int, bytes]:
    """The next frame's method and its arguments."""
    _, _, size = struct.unpack(">BHI", _exactly(connection, 7))
    payload = _exactly(connection, size + 1)[:-1]
    return int.from_bytes(payload[2:4]), payload[4:]


def _exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise ConnectionResetError("the broker closed the connection")
        received += part
    return received


def _short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def virtual_host(url: str) -> str:
    """The virtual host that an AMQP URL names: `/` for `amqp://host` and `amqp://host/`."""
    return unquote(urlsplit(url).path[1:]) or "/"


def with_virtual_host(url: str, name: str) -> str:
    """The same URL with another virtual host."""
    return urlsplit(url)._replace(path=f"/{quote(name, safe='')}").geturl()


def start_private(way: Source) -> PrivateServer:
    """A node of our own, answering. Raises `ServerFailed`."""
    server = _container() if way is Source.DOCKER else _node()
    try:
        server.start()
    except BaseException:
        server.close()
        raise
    return server


def _node() -> PrivateServer:
    """A node with its own port mapper, cookie and folder: it knows of no other node."""
    programs = rabbitmq_folder()
    if programs is None:
        raise FileNotFoundError("rabbitmq-server")
    folder = new_folder("rabbitmq")
    amqp, distribution, mapper = ports = [Port(), Port(), Port()]
    (folder / "enabled_plugins").write_text("[].\n")
    (folder / "env.conf").touch()
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.local = 127.0.0.1:{amqp.number}\n"
        # A small disk or memory is no reason to block the tests' publishers.
        "disk_free_limit.absolute = 1MB\n"
        "vm_memory_high_watermark.absolute = 1GB\n"
    )
    cookie = folder / ".erlang.cookie"
    cookie.write_text(new_secret())
    cookie.chmod(0o400)
    url = f"amqp://guest:guest@127.0.0.1:{amqp.number}/"
    return PrivateServer(
        url=url,
        ports=ports,
        folder=folder,
        command=[str(programs / "rabbitmq-server")],
        environment={
            **plain_environment(folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(mapper.number),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": str(distribution.number),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_NODENAME": f"{new_name()}@localhost",
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1}"
                # Two cores' worth of schedulers: the tests share the machine.
                " +S 2:2 +sbwt none"
            ),
        },
        answers=lambda: opens(url),
    )


def _container() -> PrivateServer:
    port = Port()
    url = f"amqp://guest:guest@127.0.0.1:{port.number}/"
    return ContainerServer(RABBITMQ, port=port, url=url, settings={}, answers=lambda: opens(url))


def administration(url: str, server: PrivateServer | None) -> VirtualHosts | None:
    """Who can make virtual hosts at this URL; None where nobody here can.

    Tried, not guessed: a rabbitmqctl may well reach another node than the one at the URL.
    """
    for candidate in _candidates(url, server):
        name = new_name()
        try:
            candidate.add(name)
            try:
                if opens(with_virtual_host(url, name)):
                    return candidate
            finally:
                candidate.delete(name)
        except (OSError, subprocess.TimeoutExpired):
            continue
    return None


def _candidates(url: str, server: PrivateServer | None) -> list[VirtualHosts]:
    user = unquote(urlsplit(url).username or "guest")
    if isinstance(server, ContainerServer):
        return [Rabbitmqctl(["docker", "exec", server.name, "rabbitmqctl"], os.environ, user)]
    programs = rabbitmq_folder()
    if server is not None and programs is not None:
        return [Rabbitmqctl([str(programs / "rabbitmqctl")], server.environment, user)]
    if urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"):
        return []
    return [Rabbitmqctl(["rabbitmqctl"], os.environ, user)]
