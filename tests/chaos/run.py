"""A fleet under faults, then the judge: `python -m tests.chaos.run --faults 500 --seed 1`.

Prints a table. Exit status 1 if anything was lost, doubled, mismatched or left unresolved; then
the folder with all logs and the venues' journal is kept and named.
"""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg  # type: ignore[import-untyped]

from tests.acceptance import checker, live_judge
from tests.acceptance.checker import Violation
from tests.acceptance.fleet import Stuck
from tests.chaos import judge, report
from tests.chaos.judge import Evidence
from tests.chaos.nemesis import Nemesis
from tests.chaos.plan import plan_of
from tests.chaos.records import Records, now
from tests.chaos.world import Servers, Slot, World, world_of
from tests.servers import private_postgres, private_rabbitmq

Say = Callable[[str], None]

DRAIN_SECS: Final = 330.0
"""The bound of the drain: a sale that the venue refused again and again is tried again after up
to five minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run is like."""

    faults: int
    seed: int
    every_secs: float = 1.5
    users: int = 12
    paper_users: int = 3
    workers: int = 3
    streams: int = 2
    lease_ttl_secs: float = 5.0
    poll_secs: float = 0.5
    calm: bool = False


async def chaos(options: Options, servers: Servers, folder: Path, say: Say) -> Evidence:
    """Run a world through the plan of the seed and drain it. Leaves all it wrote in the folder."""
    records = Records(
        folder=folder,
        seed=options.seed,
        lease_ttl_secs=options.lease_ttl_secs,
        poll_secs=options.poll_secs,
    )
    plan = plan_of(
        options.seed,
        faults=options.faults,
        every_secs=options.every_secs,
        lease_ttl_secs=options.lease_ttl_secs,
        calm=options.calm,
    )
    (folder / "plan.txt").write_text("\n".join(map(str, plan)))
    say("bringing up venues, keys, bots and processes …")
    async with world_of(
        records,
        servers,
        users=options.users,
        paper_users=options.paper_users,
        workers=options.workers,
        streams=options.streams,
    ) as world:
        say(f"{len(plan)} faults in about {plan[-1].at_secs:.0f} s …")
        await _under(world, Nemesis(world=world, draw=random.Random(options.seed)).carry_out(plan))
        records.faults_off_at = now()
        say("no more faults: selling out …")
        await _drain(world)
        history = await checker.read(world.postgres.url)
        await _keep_artefacts(world, folder)
        secrets = [world.live.canary, (folder / "vault.keys").read_text().strip()]
    truth = live_judge.truth_of(world.live.journal)
    return Evidence(history=history, truth=truth, records=records, secrets=secrets)


async def _under(world: World, nemesis: Coroutine[None, None, None]) -> None:
    """Let the nemesis finish, while what ends by itself is started again."""
    supervisor = asyncio.create_task(world.look_after(), name="supervisor")
    work = asyncio.create_task(nemesis, name="nemesis")
    try:
        await asyncio.wait({supervisor, work}, return_when=asyncio.FIRST_COMPLETED)
        for task in (work, supervisor):
            if task.done():
                task.result()
    finally:
        for task in (supervisor, work):
            task.cancel()
        await asyncio.gather(supervisor, work, return_exceptions=True)


async def _drain(world: World) -> None:
    """Sell everything and end all processes. What does not go as it should is recorded."""
    broken = world.records.broken
    supervisor = asyncio.create_task(world.look_after(), name="supervisor")
    try:
        await world.live.sell_out(within_secs=DRAIN_SECS)
        world.records.drained_at = now()
    except Stuck as stuck:
        broken.append(f"not drained: {stuck}")
    finally:
        supervisor.cancel()
        with suppress(asyncio.CancelledError):
            await supervisor
    for slot in (*world.workers, *world.streams):
        await _stop(world, slot)


async def _stop(world: World, slot: Slot) -> None:
    member = slot.member
    if member is None or not member.running:
        return
    member.signal(signal.SIGTERM)
    with suppress(TimeoutError):
        if code := await member.ended():
            world.records.broken.append(f"{member.log.name} ended with {code} after SIGTERM")
        return
    world.records.broken.append(f"{member.log.name} did not end after SIGTERM")


async def _keep_artefacts(world: World, folder: Path) -> None:
    """Everything else that is written down somewhere: every table, the servers' own logs."""
    for server, name in ((world.postgres, "postgres"), (world.rabbitmq, "rabbitmq")):
        log = server.folder / "server.log"
        if log.exists():
            shutil.copyfile(log, folder / f"{name}-server.log")
    connection = await asyncpg.connect(world.postgres.url)
    try:
        tables = await connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
        )
        with (folder / "tables.txt").open("w") as file:
            for (table,) in tables:
                for (row,) in await connection.fetch(f'SELECT t::text FROM "{table}" AS t'):
                    file.write(f"{table} {row}\n")
    finally:
        await connection.close()


def judged(evidence: Evidence, say: Say) -> list[Violation]:
    """What is wrong, after saying it all."""
    found = judge.violations(evidence)
    for line in (*report.table(evidence, found), *report.violations(evidence, found)):
        say(line)
    say(f"verdict: {len(found)} violations")
    return found


def run(options: Options, folder: Path, say: Say) -> list[Violation]:
    """One run on servers of its own, judged. Returns what is wrong."""
    with private_postgres() as postgres, private_rabbitmq() as rabbitmq:
        servers = Servers(postgres=postgres, rabbitmq=rabbitmq)
        evidence = asyncio.run(chaos(options, servers, folder, say))
    return judged(evidence, say)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--users", type=int, default=12)
    parser.add_argument("--keep", action="store_true", help="Keep all logs in any case.")
    given = parser.parse_args(arguments)
    keep = vars(given).pop("keep")
    options = Options(**vars(given))
    folder = Path(tempfile.mkdtemp(prefix=f"botfleet_chaos_{options.seed}_"))

    started = time.monotonic()

    def say(line: str) -> None:
        if line.endswith("…"):
            line = f"{time.monotonic() - started:4.0f} s  {line}"
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    kept = True
    try:
        kept = bool(run(options, folder, say))
    finally:
        if kept or keep:
            say(f"everything is kept in {folder}; SEED={options.seed} repeats the faults")
        else:
            shutil.rmtree(folder)
    return int(kept)


if __name__ == "__main__":
    sys.exit(main())
