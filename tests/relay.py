"""A TCP relay on loopback that a test can silence or cut, as networks do."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.servers.private import Port

CHUNK_BYTES = 65_536


class Relay:
    """Passes bytes between clients and one server, until it is told otherwise.

    Connect to `url`. Nothing listens there before `listen`. `accepted` counts the connections
    there have been.
    """

    def __init__(self, server_url: str) -> None:
        parts = urlsplit(server_url)
        self._server_host = parts.hostname or "127.0.0.1"
        self._server_port = parts.port or 5672
        self._port = Port()
        userinfo, at, _ = parts.netloc.rpartition("@")
        netloc = f"{userinfo}{at}127.0.0.1:{self._port.number}"
        self.url = parts._replace(netloc=netloc).geturl()
        self.accepted = 0
        self._passing = asyncio.Event()
        self._passing.set()
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port.number)

    def silence(self) -> None:
        """Keep every connection open and pass nothing on, in either direction."""
        self._passing.clear()

    def resume(self) -> None:
        """The end of `silence`: everything held back is passed on."""
        self._passing.set()

    def cut(self) -> None:
        """Reset every connection; new ones are served."""
        for writers in self._connections.values():
            for writer in writers:
                writer.transport.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in tuple(self._connections):
            task.cancel()
            await asyncio.wait({task})
        self._port.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        # Cut connections end with errors, and the end of the test cancels: both as they should.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            onward_reader, onward_writer = await asyncio.open_connection(
                self._server_host, self._server_port
            )
            self._connections[task] = (writer, onward_writer)
            try:
                await asyncio.gather(
                    self._pass(reader, onward_writer), self._pass(onward_reader, writer)
                )
            finally:
                del self._connections[task]
                for end in (writer, onward_writer):
                    end.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._passing.wait()
            writer.write(data)
            await writer.drain()
        writer.close()
