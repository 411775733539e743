"""Many workers, one truth: workers come, go, die and freeze while the fleet trades.

`python -m tests.acceptance.many_workers` runs the whole story with 10,000 bots on a PostgreSQL
and a RabbitMQ of its own, prints what it measured, and fails if the checker finds anything.
"""

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

from tests.acceptance import checker
from tests.acceptance.checker import History, Lost, Outage, Promise, Violation
from tests.acceptance.fleet import LOOK_EVERY_SECS, Fleet, Member, Stuck, fleet_of
from tests.servers import PrivateServer, private_postgres, private_rabbitmq

OUTAGE_SECS: Final = 60.0
SHOWN_PER_RULE: Final = 3
CALM_SECS: Final = 180.0
"""How long the fleet may take to settle. No promise: the checker judges times."""

HOLDERS: Final = """
    SELECT owner, name, pid, shards, loaded,
        (SELECT count(*) FROM bots WHERE shard = ANY (numbers)) AS wanted
    FROM (
        SELECT owner, count(*) AS shards, array_agg(number) AS numbers
        FROM leases WHERE kind = 'shard' AND expires_at > clock_timestamp() GROUP BY owner
    ) AS holders LEFT JOIN (
        SELECT name, pid, name || ' (' || instance || ')' AS owner,
            (report ->> 'rows')::int AS loaded
        FROM workers WHERE kind = 'trade_worker'
    ) AS living USING (owner)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to the fleet, and until when it had settled again."""

    text: str
    at: datetime
    settled_at: datetime


@dataclass(kw_only=True)
class Scenario:
    """A running fleet, and what has been done to it so far."""

    fleet: Fleet
    promise: Promise
    shards: int = 256
    workers: dict[str, Member] = field(default_factory=dict)
    streams: list[Member] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    async def begin(self, *names: str, bots: int, speed: float, streams: int = 1) -> None:
        """Bring up venues, price streams and workers, until every bot is served."""
        await self.fleet.start_simulator("--speed", str(speed), "--seed", "3")
        await self.fleet.command("migrate")
        await self.fleet.import_bots(bots)
        self.streams = [
            await self.fleet.start_price_stream(f"stream-{number}") for number in range(streams)
        ]
        await self.add(*names)

    async def add(self, *names: str) -> None:
        at = datetime.now(UTC)
        for name in names:
            self.workers[name] = await self.fleet.start_worker(name)
        await self._settle(f"start {', '.join(names)}", at)

    async def kill(self, name: str) -> None:
        at = self._lose(name, signal.SIGKILL)
        del self.workers[name]
        await self._settle(f"kill -9 {name}", at)

    async def stop(self, name: str) -> None:
        at = datetime.now(UTC)
        await _stopped([self.workers.pop(name)])
        await self._settle(f"stop {name}", at)

    async def pause(self, name: str) -> None:
        """Freeze a worker past its lease, and let it go on when the others have its shards."""
        paused = self.workers.pop(name)
        at = self._lose(name, signal.SIGSTOP, paused)
        await self._settle(f"pause {name}", at)
        self.workers[name] = paused
        await self._settle(f"continue {name}", paused.signal(signal.SIGCONT))

    async def duplicate(self, name: str) -> str:
        """Start a worker under a name that is in use. Returns its last line."""
        at = datetime.now(UTC)
        twin = await self.fleet.start_worker(name)
        code = await twin.ended()
        last = twin.text().strip().splitlines()[-1]
        assert code == 1, f"a second {name} ended with {code}: {last}"
        await self._settle(f"a second {name} is refused", at)
        return last

    async def restart(self, name: str) -> None:
        """Kill a worker, and start it again under its name at once."""
        at = self._lose(name, signal.SIGKILL)
        self.workers[name] = await self.fleet.start_worker(name)
        await self._settle(f"kill -9 {name}, restart it", at)

    async def kill_leading_stream(self) -> None:
        """Kill the price stream that leads; the other one takes over."""
        epoch = await self._stream_epoch()
        (row,) = await self.fleet.query(
            "SELECT pid FROM leases JOIN workers USING (kind)"
            " WHERE kind = 'price_stream' AND position(instance in owner) > 0"
        )
        leader = next(stream for stream in self.streams if stream.pid == row["pid"])
        at = leader.signal(signal.SIGKILL)
        self.streams.remove(leader)
        await self._until(lambda: self._leads_after(epoch), "another price stream leads")
        await self._settle("kill -9 the leading price stream", at)

    async def outage(self, what: str, server: PrivateServer, *, of_database: bool) -> None:
        """Stop a server for a minute, and start it again."""
        at = datetime.now(UTC)
        await asyncio.to_thread(server.terminate)
        await asyncio.sleep(OUTAGE_SECS)
        await asyncio.to_thread(server.start)
        up_at = datetime.now(UTC)
        if of_database:
            self.outages.append(Outage(since=at, until=up_at))
        await self._until(lambda: self._trades_since(up_at), f"trade goes on after: {what}")
        await self._settle(f"{what} stopped for a minute, then up", up_at)

    async def drain(self) -> History:
        """Stop the prices, then, when all events are sent, the workers. Returns what is left."""
        await _stopped(self.streams)
        now = datetime.now(UTC)
        await self._until(lambda: self._sent_until(now), "every event is sent")
        await _stopped(list(self.workers.values()))
        return await checker.read(self.fleet.database_url)

    def judge(self, history: History) -> list[Violation]:
        promise = replace(self.promise, lost=tuple(self.lost), outages=tuple(self.outages))
        return checker.violations(history, promise)

    def served_between(self, since: datetime, until: datetime) -> list[datetime]:
        """When workers had loaded the bots of shards that they had taken."""
        moments = (at for member in self.fleet.members for at in member.said("more shards"))
        return [at for at in moments if since <= at <= until]

    def _lose(self, name: str, how: signal.Signals, member: Member | None = None) -> datetime:
        at = (member or self.workers[name]).signal(how)
        self.lost.append(Lost(worker=name, at=at))
        return at

    async def _settle(self, text: str, at: datetime) -> None:
        """Wait until exactly our workers serve all bots, in fair shares."""
        await self._until(self._settled, f"fair shares after: {text}")
        self.events.append(Event(text=text, at=at, settled_at=datetime.now(UTC)))

    async def _settled(self) -> str | None:
        holders = await self.fleet.query(HOLDERS)
        ours = {(name, worker.pid) for name, worker in self.workers.items()}
        if {(row["name"], row["pid"]) for row in holders} != ours:
            return f"shards are held by {[row['owner'] for row in holders]}"
        if wrong := checker.unfair({row["name"]: row["shards"] for row in holders}, self.shards):
            return wrong
        missing = [dict(row) for row in holders if row["loaded"] != row["wanted"]]
        return f"bots are not loaded as they should be: {missing}" if missing else None

    async def _trades_since(self, at: datetime) -> str | None:
        """Whether ticks come in again, and no event of the time before waits for the broker."""
        (row,) = await self.fleet.query("SELECT max(observed_at) AS newest FROM latest_ticks")
        if row["newest"] <= at:
            return f"the newest tick is of {row['newest']}"
        return await self._sent_until(at)

    async def _sent_until(self, at: datetime) -> str | None:
        (row,) = await self.fleet.query(
            "SELECT count(*) AS unsent FROM outbox WHERE sent_at IS NULL AND created_at <= $1", at
        )
        return f"{row['unsent']} events are not sent" if row["unsent"] else None

    async def _leads_after(self, epoch: int) -> str | None:
        now = await self._stream_epoch()
        return None if now > epoch else f"ticks are of epoch {now}"

    async def _stream_epoch(self) -> int:
        (row,) = await self.fleet.query("SELECT max(stream_epoch) AS epoch FROM latest_ticks")
        return int(row["epoch"] or 0)

    async def _until(self, wrong: Callable[[], Awaitable[str | None]], what: str) -> None:
        deadline = time.monotonic() + CALM_SECS
        while (why := await wrong()) is not None:
            if time.monotonic() > deadline:
                raise Stuck(f"not within {CALM_SECS:g} s: {what}: {why}")
            for name, worker in self.workers.items():
                if not worker.running:
                    raise Stuck(f"worker {name} has ended while waiting for: {what}")
            await asyncio.sleep(LOOK_EVERY_SECS)


async def _stopped(members: Sequence[Member]) -> None:
    for member in members:
        member.signal(signal.SIGTERM)
    for member in members:
        if code := await member.ended():
            raise Stuck(f"{member.name} ended with {code} after SIGTERM")


def table(scenario: Scenario, history: History) -> list[str]:
    """What each event cost, in seconds: the longest that a shard was held by nobody, until the
    last of the shards that moved was loaded, and until shares were fair and reports complete."""
    lines = [f"{'event':<48}{'shards':>7}{'unheld':>8}{'served':>8}{'settled':>9}"]
    for event in scenario.events:
        waits = [
            (later["granted_from"] - (loss.at if loss else earlier["granted_until"]))
            for grants in checker.shard_grants(history).values()
            for earlier, later in pairwise(grants)
            if event.at <= later["granted_from"] <= event.settled_at
            for loss in [checker.lost_within(earlier, scenario.lost)]
        ]
        longest = max((wait.total_seconds() for wait in waits), default=0.0)
        served = max(scenario.served_between(event.at, event.settled_at), default=event.at)
        lines.append(
            f"{event.text:<48}{len(waits):>7}{longest:>8.2f}"
            f"{(served - event.at).total_seconds():>8.2f}"
            f"{(event.settled_at - event.at).total_seconds():>9.2f}"
        )
    return lines


async def whole_story(folder: Path) -> tuple[Scenario, History]:
    """Everything that can happen to workers, to the leading stream, and to both servers."""
    promise = Promise(lease_ttl_secs=5.0, poll_secs=0.5, margin_secs=0.5)
    with private_postgres() as postgres, private_rabbitmq() as rabbitmq:
        async with fleet_of(
            folder,
            database_url=postgres.url,
            broker_url=rabbitmq.url,
            lease_ttl_secs=promise.lease_ttl_secs,
            poll_secs=promise.poll_secs,
        ) as fleet:
            scenario = Scenario(fleet=fleet, promise=promise)
            await scenario.begin("1", "2", "3", "4", bots=10_000, speed=300, streams=2)
            await scenario.kill("2")
            await scenario.add("5", "6")
            await scenario.stop("1")
            await scenario.pause("3")
            await scenario.duplicate("4")
            await scenario.restart("4")
            await scenario.kill_leading_stream()
            await scenario.outage("PostgreSQL", postgres, of_database=True)
            await scenario.outage("RabbitMQ", rabbitmq, of_database=False)
            return scenario, await scenario.drain()


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="botfleet_many_workers_") as folder:
        scenario, history = asyncio.run(whole_story(Path(folder)))
        found = scenario.judge(history)
        lines = table(scenario, history)
    say = sys.stdout.write
    say("\n".join(lines) + "\n")
    say(
        f"{len(history.orders)} orders, {len(history.positions)} positions, "
        f"{len(history.lease_grants)} grants, {len(history.outbox)} events\n"
    )
    for rule in dict.fromkeys(violation.rule for violation in found):
        shown = [violation for violation in found if violation.rule == rule]
        say("".join(f"{violation}\n" for violation in shown[:SHOWN_PER_RULE]))
    say(f"verdict: {len(found)} violations\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
