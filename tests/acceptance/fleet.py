"""A fleet of separate processes on a database and a virtual host of its own, to kill at will."""

import asyncio
import itertools
import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

ROOT: Final = Path(__file__).parents[2]
PATIENCE_SECS: Final = 60.0
"""How long anything may take before the fleet counts as stuck. No promise: those are checked."""

LOOK_EVERY_SECS: Final = 0.05
TAIL_LINES: Final = 25
MARKETS: Final = {
    venue: [f"{base}/{quote}" for base in bases.split()]
    for venue, quote, bases in (
        ("kraken", "USD", "BTC ETH SOL XRP ADA DOT LTC LINK ATOM ALGO XTZ"),
        ("binance", "USDT", "BTC ETH SOL BNB DOGE AVAX TRX UNI NEAR FIL SUI"),
    )
}
"""Listed by the simulator, whose default is twelve markets per venue."""


class Stuck(AssertionError):
    """The fleet does not do what was waited for."""


class Member:
    """One process of the fleet, with its log file."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def signal(self, number: signal.Signals) -> datetime:
        """Send a signal to the process and its children; when."""
        at = datetime.now(UTC)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        return at

    async def ended(self, *, within_secs: float = PATIENCE_SECS) -> int:
        """The exit code, negative for a signal."""
        return await asyncio.wait_for(self._process.wait(), within_secs)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def said(self, text: str) -> list[datetime]:
        """When the process logged a message that contains this text."""
        entries = (json.loads(line) for line in self.text().splitlines() if line.startswith("{"))
        return [
            datetime.fromisoformat(entry["time"]) for entry in entries if text in entry["message"]
        ]


class Fleet:
    """Starts processes and reads their database. Use `fleet_of`, which also ends them."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.members: list[Member] = []
        self.database_url = environment["DATABASE_URL"]
        self.venues_url = ""
        self._folder = folder
        self._environment = dict(environment)
        self._connection: Any = None
        self._number = itertools.count()

    async def start(
        self,
        name: str,
        *arguments: str,
        typed: str | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> Member:
        """Run `python ARGUMENTS` as a member of the fleet, in a process group of its own.

        `typed` is what it reads on standard input; `environment` goes before the fleet's.
        """
        log = self._folder / f"{next(self._number):02d}-{name}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                cwd=self._folder,
                env={**self._environment, **environment},
                stdin=asyncio.subprocess.DEVNULL if typed is None else asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        if process.stdin is not None and typed is not None:
            process.stdin.write(typed.encode())
            process.stdin.close()
        member = Member(name, process, log)
        self.members.append(member)
        return member

    async def command(
        self, *arguments: str, typed: str | None = None, within_secs: float = PATIENCE_SECS
    ) -> str:
        """What `botfleet ARGUMENTS` prints. It must succeed."""
        member = await self.start(arguments[0], "-m", "console", *arguments, typed=typed)
        if code := await member.ended(within_secs=within_secs):
            raise Stuck(f"botfleet {' '.join(arguments)} failed with {code}: {member.text()}")
        return member.text()

    def set(self, **environment: str) -> None:
        """Set variables of every process that starts from now on."""
        self._environment |= environment

    async def start_simulator(self, *options: str) -> Member:
        """Start the venues, and point every process that starts from now on to them."""
        simulator = await self.start(
            "simulator", "-m", "console", "simulate-venue", "--port", "0", *options
        )
        await until(lambda: "http://" in simulator.text(), "the simulator's address")
        (url,) = re.findall(r"http://[\d.]+:\d+", simulator.text())[:1]
        self.venues_url = url
        self.set(BOTFLEET_KRAKEN_URL=url, BOTFLEET_BINANCE_URL=url)
        return simulator

    async def start_price_stream(self, name: str) -> Member:
        return await self.start(name, "-m", "price_stream")

    async def start_worker(self, name: str) -> Member:
        return await self.start(f"worker-{name}", "-m", "trade_worker", name)

    async def import_bots(self, count: int) -> None:
        """Add active paper bots, five to a user, on every market, with varied risk profiles."""
        path = self._folder / "bots.csv"
        path.write_text("\n".join(bots_csv(count, random.Random(count))))
        await self.command("bots", "import", str(path), "--unlisted-ok")

    async def query(self, statement: str, *arguments: object) -> Sequence[Mapping[str, Any]]:
        """Rows of the fleet's database. Reconnects once; raises if it is away."""
        for attempt in range(2):
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(self.database_url, timeout=5)
            try:
                return list(await self._connection.fetch(statement, *arguments))
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                self._connection.terminate()
                if attempt:
                    raise
        raise AssertionError("unreachable")

    def use(self, database_url: str) -> None:
        """Let every process that starts from now on, and queries, go to another database."""
        self.database_url = database_url
        self.set(DATABASE_URL=database_url)

    async def disconnect(self) -> None:
        """Give up the connection for queries; the next one opens another."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def end(self) -> None:
        """Kill whatever still runs. Safe to call twice."""
        for member in self.members:
            if member.running:
                member.signal(signal.SIGKILL)
                await member.ended()
        if self._connection is not None:
            self._connection.terminate()

    def tails(self) -> str:
        """The last lines of every log, for whoever has to find out what happened."""
        return "\n".join(
            f"--- {member.log.name}\n" + "\n".join(member.text().splitlines()[-TAIL_LINES:])
            for member in self.members
        )


@asynccontextmanager
async def fleet_of(
    folder: Path, *, database_url: str, broker_url: str, lease_ttl_secs: float, poll_secs: float
) -> AsyncIterator[Fleet]:
    """An empty fleet on a migrated database. Its processes are gone at the end, come what may."""
    inherited = ("PATH", "HOME", "LANG", "TMPDIR")
    fleet = Fleet(
        folder,
        {
            **{name: os.environ[name] for name in inherited if name in os.environ},
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": database_url,
            "RABBITMQ_URL": broker_url,
            "LOG_FORMAT": "json",
            "BOTFLEET_LEASE_TTL_SECS": str(lease_ttl_secs),
            "BOTFLEET_POLL_INTERVAL_SECS": str(poll_secs),
        },
    )
    try:
        yield fleet
    except BaseException as error:
        error.add_note(fleet.tails())
        raise
    finally:
        await fleet.end()


async def until(seen: Callable[[], bool], what: str) -> None:
    """Look again and again until it is seen. Raises `Stuck`."""
    deadline = time.monotonic() + PATIENCE_SECS
    while not seen():
        if time.monotonic() > deadline:
            raise Stuck(f"not within {PATIENCE_SECS:g} s: {what}")
        await asyncio.sleep(LOOK_EVERY_SECS)


def bots_csv(count: int, draw: random.Random) -> list[str]:
    """The lines of an import file: thresholds from eager to choosy, so that many bots trade."""
    thresholds = "min_adx,min_confidence,cost_multiplier,min_momentum_1h"
    lines = [f"user,bot,venue,pairs,capital,mode,status,{thresholds}"]
    for number in range(count):
        venue = draw.choice(sorted(MARKETS))
        values = (
            *(f"user{number // 5}", f"bot{number}", venue, draw.choice(MARKETS[venue])),
            *(draw.choice(["500", "1000", "5000.5"]), "paper", "active"),
            *(draw.randint(10, 30), draw.randint(40, 80), draw.choice([1, 2, 3])),
            draw.choice([0.001, 0.003, 0.005]),
        )
        lines.append(",".join(map(str, values)))
    return lines
