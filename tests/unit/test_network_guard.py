"""The guard of tests/unit/conftest.py bites."""

import asyncio
import socket

import pytest

blocked = pytest.raises(pytest.fail.Exception, match="used the network")


def test_inet_socket_is_refused() -> None:
    with blocked:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def test_name_lookup_is_refused() -> None:
    with blocked:
        socket.getaddrinfo("localhost", 80)


async def test_connecting_from_an_event_loop_is_refused() -> None:
    with blocked:
        await asyncio.open_connection("127.0.0.1", 9)


def test_connected_pair_is_allowed() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"x")
        assert right.recv(1) == b"x"
