"""A TCP proxy on loopback that harms what passes through it, as networks do.

In process and without randomness: whoever drives it decides what happens when.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from tests.servers.private import Port

CHUNK_BYTES: Final = 65_536
SLICE_BYTES: Final = 1_024
"""What passes at once while the pace is limited."""

_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)
_DEFAULT_PORTS: Final[Mapping[str, int]] = {"amqp": 5672, "postgresql": 5432, "http": 80}


class Way(StrEnum):
    """A direction."""

    UP = "up"
    """From clients to the server."""
    DOWN = "down"


BOTH: Final = (Way.UP, Way.DOWN)


@dataclass(slots=True)
class Trap:
    """Breaks a connection the moment that `pattern` is in what passes, `times` times in all.

    If `passes`, the server still gets everything up to the end of what was read and the client
    is cut off from the answer; if not, only half of the pattern comes through before both ends
    are reset.
    """

    pattern: bytes
    way: Way = Way.UP
    passes: bool = True
    times: int = 1


class Proxy:
    """Passes bytes between clients and one server, until it is told otherwise.

    Clients connect to `url`: the server's, with another port. Nothing listens there before
    `listen`. `accepted` counts connections, `sprung` the traps that were met.
    """

    def __init__(self, server_url: str) -> None:
        parts = urlsplit(server_url)
        self._host = parts.hostname or "127.0.0.1"
        self._server_port = parts.port or _DEFAULT_PORTS[parts.scheme]
        self._port = Port()
        userinfo, at, _ = parts.netloc.rpartition("@")
        netloc = f"{userinfo}{at}127.0.0.1:{self._port.number}"
        self.url: Final = parts._replace(netloc=netloc).geturl()
        self.accepted = 0
        self.sprung = 0
        self._open = {way: _set_event() for way in BOTH}
        self._delay_secs = dict.fromkeys(BOTH, 0.0)
        self._bytes_per_sec: float | None = None
        self._refusing = False
        self._traps: list[Trap] = []
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port.number)

    def black_hole(self, ways: Iterable[Way] = BOTH) -> None:
        """Pass nothing on in these directions, on any connection, old or new; all stay open."""
        for way in ways:
            self._open[way].clear()

    def delay(self, secs: float, ways: Iterable[Way] = BOTH) -> None:
        """Hold everything up for so long."""
        for way in ways:
            self._delay_secs[way] = secs

    def throttle(self, bytes_per_sec: float) -> None:
        """Pass so much per second and direction of each connection."""
        self._bytes_per_sec = bytes_per_sec

    def refuse(self) -> None:
        """Reset every new connection at once; those that are open go on."""
        self._refusing = True

    def trap(self, trap: Trap) -> None:
        """Set a trap, beside those that are set."""
        self._traps.append(trap)

    def heal(self) -> None:
        """Undo everything that lasts. What a black hole held back is passed on now."""
        self._delay_secs = dict.fromkeys(BOTH, 0.0)
        self._bytes_per_sec = None
        self._refusing = False
        self._traps.clear()
        for event in self._open.values():
            event.set()

    def cut(self) -> None:
        """End every connection in order; new ones are served."""
        for writers in self._connections.values():
            for writer in writers:
                writer.close()

    def reset(self) -> None:
        """End every connection with RST; what was on its way is lost. New ones are served."""
        for writers in self._connections.values():
            for writer in writers:
                _reset(writer)

    async def close(self) -> None:
        """Stop listening and reset what is open. Safe to call twice."""
        if self._server is not None:
            self._server.close()
        self.reset()
        tasks = tuple(self._connections)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._port.close()

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        if self._refusing:
            _reset(writer)
            return
        ends = self._connections[task] = [writer]
        # Broken connections end with errors, and the end of a run cancels: both as they should.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            try:
                onward_reader, onward = await asyncio.open_connection(self._host, self._server_port)
                ends.append(onward)
                await asyncio.gather(
                    self._pass(Way.UP, reader, onward, back=writer),
                    self._pass(Way.DOWN, onward_reader, writer, back=onward),
                )
            except OSError:
                # As a server that is gone, and not as one that said goodbye.
                _reset(writer)
                raise
            finally:
                del self._connections[task]
                for end in ends:
                    end.close()

    async def _pass(
        self,
        way: Way,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        back: asyncio.StreamWriter,
    ) -> None:
        """Pass one direction on until its end. `back` leads to where the bytes come from."""
        tail = b""
        while data := await reader.read(CHUNK_BYTES):
            await self._open[way].wait()
            if self._delay_secs[way]:
                await asyncio.sleep(self._delay_secs[way])
                await self._open[way].wait()
            trap = self._sprung(way, tail + data)
            if trap is None:
                await self._write(writer, data)
                tail = data[-64:]
                continue
            self.sprung += 1
            await _break(trap, data, writer=writer, back=back)
            return
        await self._open[way].wait()
        writer.close()

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        for start in range(0, len(data), SLICE_BYTES):
            pace = self._bytes_per_sec
            if pace is None:
                writer.write(data[start:])
                break
            writer.write(data[start : start + SLICE_BYTES])
            await asyncio.sleep(SLICE_BYTES / pace)
        await writer.drain()

    def _sprung(self, way: Way, data: bytes) -> Trap | None:
        for trap in self._traps:
            if trap.way is way and trap.pattern in data:
                trap.times -= 1
                if trap.times <= 0:
                    self._traps.remove(trap)
                return trap
        return None


async def _break(
    trap: Trap, data: bytes, *, writer: asyncio.StreamWriter, back: asyncio.StreamWriter
) -> None:
    if trap.passes:
        writer.write(data)
        await writer.drain()
        # The receiver must not lose what it has not read yet, so only the other end is reset.
        _reset(back)
        writer.close()
        return
    found = data.find(trap.pattern)
    writer.write(data[: max(found, 0) + len(trap.pattern) // 2])
    await writer.drain()
    for end in (writer, back):
        _reset(end)


def _reset(writer: asyncio.StreamWriter) -> None:
    held = writer.get_extra_info("socket")
    if held is not None and held.fileno() >= 0:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    writer.transport.abort()


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event
