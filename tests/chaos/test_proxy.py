"""What the proxy does to connections: without that, a chaos run proves nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from tests.chaos.proxy import Proxy, Trap, Way

SHORT_SECS = 0.2
PATIENCE_SECS = 5.0


class Echo:
    """A server that answers each read with the same bytes, and remembers what it got."""

    def __init__(self) -> None:
        self.got = b""
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1024):
                self.got += data
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
            self.ended.set()


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[Proxy, Echo]]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Proxy(f"http://127.0.0.1:{port}") as proxy:
        yield proxy, echo


async def connected(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(proxy.url)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def echoed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    writer.write(data)
    async with asyncio.timeout(PATIENCE_SECS):
        return await reader.readexactly(len(data))


async def silent(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(SHORT_SECS):
            await reader.read(1)
    except TimeoutError:
        return True
    return False


async def test_bytes_pass_both_ways() -> None:
    async with proxied() as (proxy, _):
        reader, writer = await connected(proxy)
        assert await echoed(reader, writer, b"hello") == b"hello"
        writer.close()


@pytest.mark.parametrize("ways", [(Way.UP,), (Way.DOWN,), (Way.UP, Way.DOWN)])
async def test_a_black_hole_passes_nothing_until_it_is_healed(ways: tuple[Way, ...]) -> None:
    async with proxied() as (proxy, echo):
        reader, writer = await connected(proxy)
        await echoed(reader, writer, b"before")
        proxy.black_hole(ways)
        writer.write(b"after")
        assert await silent(reader)
        assert echo.got == (b"before" if Way.UP in ways else b"beforeafter")
        proxy.heal()
        async with asyncio.timeout(PATIENCE_SECS):
            assert await reader.readexactly(5) == b"after"
        writer.close()


async def test_a_reset_is_seen_as_one_and_new_connections_are_served() -> None:
    async with proxied() as (proxy, _):
        reader, writer = await connected(proxy)
        await echoed(reader, writer, b"hello")
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        again = await connected(proxy)
        assert await echoed(*again, b"hello") == b"hello"
        for each in (writer, again[1]):
            each.close()


async def test_a_cut_ends_connections_in_order() -> None:
    async with proxied() as (proxy, _):
        reader, writer = await connected(proxy)
        await echoed(reader, writer, b"hello")
        proxy.cut()
        async with asyncio.timeout(PATIENCE_SECS):
            assert await reader.read(1) == b""
        writer.close()


async def test_refused_connections_are_reset_while_open_ones_go_on() -> None:
    async with proxied() as (proxy, _):
        reader, writer = await connected(proxy)
        await echoed(reader, writer, b"hello")
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            await echoed(*(await connected(proxy)), b"hello")
        assert await echoed(reader, writer, b"still") == b"still"
        writer.close()


async def test_a_trap_lets_the_request_pass_and_loses_the_answer() -> None:
    async with proxied() as (proxy, echo):
        reader, writer = await connected(proxy)
        proxy.trap(Trap(pattern=b"COMMIT"))
        await echoed(reader, writer, b"BEGIN")
        writer.write(b"..COMMIT;")
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        async with asyncio.timeout(PATIENCE_SECS):
            await echo.ended.wait()
        assert echo.got == b"BEGIN..COMMIT;"
        assert proxy.sprung == 1
        again = await connected(proxy)
        assert await echoed(*again, b"COMMIT") == b"COMMIT"
        for each in (writer, again[1]):
            each.close()


async def test_a_trap_cuts_inside_the_request() -> None:
    async with proxied() as (proxy, echo):
        reader, writer = await connected(proxy)
        proxy.trap(Trap(pattern=b"COMMIT", passes=False))
        writer.write(b"..COMMIT;")
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        async with asyncio.timeout(PATIENCE_SECS):
            await echo.ended.wait()
        assert b"COMMIT" not in echo.got
        writer.close()


async def test_what_is_throttled_or_delayed_arrives_whole() -> None:
    async with proxied() as (proxy, _):
        reader, writer = await connected(proxy)
        proxy.throttle(200_000)
        proxy.delay(0.02)
        data = bytes(range(256)) * 40
        assert await echoed(reader, writer, data) == data
        writer.close()
