"""Every failpoint crossed with exit, raise and pause, on real processes that trade.

`python -m tests.chaos.failpoint_matrix [WORD …]` runs all of it (or what contains a word) on a
PostgreSQL and a RabbitMQ of its own, prints what was reached, and fails if something was not or
the judge finds anything.

One healthy worker and one price stream stay. Beside them run lanes: workers that die, workers that
fail, two workers that freeze past their leases again and again, and price streams.
"""

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from shared.failpoints import Point
from tests.acceptance import checker, live_judge
from tests.acceptance.checker import Violation
from tests.acceptance.fleet import LOOK_EVERY_SECS, Fleet, Member, Stuck, fleet_of, until
from tests.acceptance.live_fleet import CASH, LiveFleet
from tests.chaos import judge
from tests.chaos.many_keys import add_accounts, go_live
from tests.chaos.member import EXIT_CODE, FAILPOINTS, SAID, STREAM_POINTS, Action, Failpoint
from tests.chaos.records import Records
from tests.servers import private_postgres, private_rabbitmq

USERS: Final = 12
"""So many that each of a few workers has some of them."""
COOLDOWN_SECS: Final = {"kraken": 8.0, "binance": 5.0}
LEASE_TTL_SECS: Final = 4.5
"""Under 4 s nothing could be sent to Kraken: it wants 2 s between an order's arrival and its
deadline, which is half a second before the lease ends, of which a third may be over."""

POLL_SECS: Final = 0.3
PAUSE_SECS: Final = 1.2 * LEASE_TTL_SECS
REST_SECS: Final = 1.0
NOT_FOUND_SECS: Final = 2.0
"""The simulator works on nothing after an order's time: it hides nothing here either."""
STOP_SECS: Final = 20.0
GRACEFUL: Final = (0, -signal.SIGTERM)
"""How a process ends that is told to; by the signal itself where there is nothing to end yet, or
not any more."""

REACHED_SECS: Final = 30.0
"""How long a failpoint is waited for. No promise."""
SELL_OUT_SECS: Final = 120.0
SHOWN_PER_RULE: Final = 3
MEMBER: Final = ("-m", "tests.chaos.member", "--not-found-secs", str(NOT_FOUND_SECS))

TROUBLE: Final = (
    {"kind": "accept_then_drop", "endpoint": "add_order", "probability": 0.1},
    {"kind": "refuse_then_fail", "endpoint": "add_order", "probability": 0.1},
)
"""What makes the fleet ask for orders all the time, at both venues."""

OF_ONE_ORDER: Final = frozenset(
    {
        *(Point.BEFORE_COMMIT, Point.IN_COMMIT, Point.AFTER_COMMIT),
        *(Point.BEFORE_SEND, Point.IN_SEND, Point.AFTER_SEND),
        *(Point.BEFORE_SETTLE, Point.IN_SETTLE, Point.AFTER_SETTLE, Point.AFTER_ASK),
    }
)
"""A mistake there concerns some orders: the worker goes on. Elsewhere it ends the process."""

_HITS: Final = {Point.BEFORE_LEAD: 3, Point.BEFORE_TICKS: 10, Point.AFTER_TICKS: 10}
"""So late that another price stream stands by."""


def combinations() -> list[Failpoint]:
    """All there are: a pause is one past the lease."""
    return [
        Failpoint(
            point=point,
            action=action,
            secs=PAUSE_SECS if action is Action.PAUSE else 0.0,
            hit=_HITS.get(point, 1),
        )
        for action in Action
        for point in (*FAILPOINTS, *STREAM_POINTS)
    ]


@dataclass(kw_only=True)
class Matrix:
    """A running fleet, and which failpoints its processes have reached."""

    fleet: Fleet
    live: LiveFleet
    reached: dict[str, str] = field(default_factory=dict)
    """Failpoint → what became of its process."""
    wrong: list[str] = field(default_factory=list)

    async def run(self, wanted: Sequence[Failpoint]) -> None:
        """Let processes reach what is wanted, then end the fleet. Raises `Stuck`."""
        streams = [each for each in wanted if each.point in STREAM_POINTS]
        dying, failing, freezing = (
            [each for each in wanted if each.point in FAILPOINTS and each.action is action]
            for action in Action
        )
        steady = await self.start("steady", "worker")
        stream = await self.start("stream", "price-stream")
        closed = "SELECT count(*) FROM positions WHERE status = 'closed' AND mode = 'live'"
        await self.live.until(closed, at_least=USERS)
        lanes: tuple[Coroutine[Any, Any, Any], ...] = (
            self.lane("die", dying),
            self.lane("fail", failing),
            self.freeze("freeze", freezing[::2]),
            self.freeze("freeze-too", freezing[1::2]),
            self.stream_lane(stream, streams),
        )
        for venue in CASH:
            for fault in TROUBLE:
                await self.live.break_venue(venue=venue, **fault)
        *_, stream = await asyncio.gather(*lanes)
        await self.live.mend_venues()
        await self.live.sell_out(within_secs=SELL_OUT_SECS)
        for member in (steady, stream):
            await self.stop(member, expected=GRACEFUL)
        for each in wanted:
            if str(each) not in self.reached:
                self.wrong.append(f"{each} was never reached")

    async def start(self, name: str, service: str, *failpoints: Failpoint) -> Member:
        """Start a worker or a price stream that crosses these, one after the other."""
        options = [part for each in failpoints for part in ("--failpoint", str(each))]
        command = (service, name) if service == "worker" else (service,)
        rest = ("--rest-secs", str(REST_SECS))
        return await self.fleet.start(name, *MEMBER, *rest, *options, *command)

    async def lane(self, name: str, wanted: Sequence[Failpoint]) -> None:
        """One worker after the other, under one name, each with one failpoint."""
        for each in wanted:
            # A worker that replaces one of its name takes that one's leases at once, without this.
            own = f"{name}-alone" if each.point is Point.IN_TAKE else name
            member = await self.start(own, "worker", each)
            guest = await self.provoke(member, each)
            await self.see(member, each)
            await self.settle(member, each)
            if guest is not None:
                await self.stop(guest, expected=GRACEFUL)

    async def freeze(self, name: str, wanted: Sequence[Failpoint]) -> None:
        """One worker that stands still at one failpoint after the other."""
        # What needs other workers to come is first, what ends it last.
        order = {Point.BEFORE_RELEASE: 0, Point.BEFORE_LEAVE: 2}
        left = sorted(wanted, key=lambda each: order.get(each.point, 1))
        while left:
            member = await self.start(name, "worker", *left)
            guest = None
            while left and member.running:
                guest = guest or await self.provoke(member, left[0])
                if not await self.see(member, left[0]):
                    break
                reached = left.pop(0)
                self.reached[str(reached)] = "went on"
                await asyncio.sleep(reached.secs + REST_SECS)
                if guest is not None:
                    await self.stop(guest, expected=GRACEFUL)
                    guest = None
            await self.stop(member, expected=GRACEFUL)
            if left:
                del left[0]  # it is told among those that were never reached

    async def stream_lane(self, first: Member, wanted: Sequence[Failpoint]) -> Member:
        """Price streams that lead until they are caught, each with a healthy one to follow it."""
        healthy = first
        for each in wanted:
            await self.stop(healthy, expected=GRACEFUL)
            member = await self.start("caught", "price-stream", each)
            await until(partial(_says, member, "leading, epoch"), "a stream that leads")
            healthy = await self.start("stream", "price-stream")
            await self.see(member, each)
            await self.settle(member, each)
        return healthy

    async def provoke(self, member: Member, each: Failpoint) -> Member | None:
        """Do what brings a worker to a point that it does not reach by itself."""
        if each.point not in (Point.BEFORE_RELEASE, Point.BEFORE_LEAVE):
            return None
        await until(partial(_says, member, "serving"), f"{member.name} serves")
        if each.point is Point.BEFORE_LEAVE:
            member.signal(signal.SIGTERM)
            return None
        return await self.start(f"{member.name}-guest", "worker")

    async def see(self, member: Member, each: Failpoint) -> bool:
        """Wait until the failpoint is reached. False: it is not."""
        deadline = time.monotonic() + REACHED_SECS
        while f"{SAID}{each}\n" not in member.text():
            if time.monotonic() > deadline or not member.running:
                return False
            await asyncio.sleep(LOOK_EVERY_SECS)
        return True

    async def settle(self, member: Member, each: Failpoint) -> None:
        """See that its process does what it should at a failpoint, and is gone."""
        if not _says(member, f"{SAID}{each}\n"):
            await self.stop(member, expected=())
            return
        expected: Sequence[int]
        if each.action is Action.EXIT:
            expected, goes_on = (EXIT_CODE,), False
        elif each.action is Action.RAISE and each.point not in OF_ONE_ORDER:
            expected, goes_on = (1,), False
        else:
            expected, goes_on = GRACEFUL, True
        if goes_on:
            await asyncio.sleep(each.secs + REST_SECS)
            if not member.running and each.point is not Point.BEFORE_LEAVE:
                self.wrong.append(f"{each}: {member.log.name} did not go on")
        else:
            with suppress(TimeoutError):
                await member.ended(within_secs=STOP_SECS)
        code = await self.stop(member, expected=expected)
        self.reached[str(each)] = f"{'went on, ' if goes_on else ''}ended with {code}"

    async def stop(self, member: Member, *, expected: Sequence[int]) -> int:
        """SIGTERM, and its exit code; any is as expected if none is. Kills what does not stop."""
        if member.running:
            member.signal(signal.SIGTERM)
        try:
            code = await member.ended(within_secs=STOP_SECS)
        except TimeoutError:
            member.signal(signal.SIGKILL)
            code = await member.ended()
        if expected and code not in expected:
            self.wrong.append(f"{member.log.name} ended with {code}, not {expected[0]}")
        return code


def _says(member: Member, text: str) -> bool:
    return text in member.text()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run of the matrix came to."""

    reached: dict[str, str]
    wrong: Sequence[str]
    """What the run itself saw: points not reached, unexpected exit codes."""
    violations: Sequence[Violation]
    orders: int


async def run(
    folder: Path, *, database_url: str, broker_url: str, wanted: Sequence[Failpoint]
) -> Outcome:
    """Run these on a fleet of its own, in a folder of its own, and judge it."""
    async with fleet_of(
        folder,
        database_url=database_url,
        broker_url=broker_url,
        lease_ttl_secs=LEASE_TTL_SECS,
        poll_secs=POLL_SECS,
    ) as fleet:
        live = await add_accounts(fleet, folder, users=USERS)
        await go_live(fleet, cooldown_secs=COOLDOWN_SECS)
        matrix = Matrix(fleet=fleet, live=live)
        try:
            await matrix.run(wanted)
        except Stuck as stuck:
            # The judge may know why.
            matrix.wrong.append(f"stuck: {stuck}")
        history = await checker.read(database_url)
    evidence = judge.Evidence(
        history=history,
        truth=live_judge.truth_of(live.journal),
        records=Records(folder=folder, seed=0, lease_ttl_secs=LEASE_TTL_SECS, poll_secs=POLL_SECS),
        secrets=(live.canary,),
    )
    return Outcome(
        reached=matrix.reached,
        wrong=matrix.wrong,
        violations=judge.violations(evidence),
        orders=len(live_judge.live_orders(history)),
    )


async def _on_private_servers(folder: Path, wanted: Sequence[Failpoint]) -> Outcome:
    with private_postgres() as postgres, private_rabbitmq() as rabbitmq:
        return await run(folder, database_url=postgres.url, broker_url=rabbitmq.url, wanted=wanted)


def report(outcome: Outcome, say: Callable[[str], object]) -> None:
    """Print what was reached, and what is wrong."""
    for reached, became in outcome.reached.items():
        say(f"{reached:<36}{became}\n")
    say(f"{len(outcome.reached)} failpoints reached, {outcome.orders} live orders\n")
    for wrong in outcome.wrong:
        say(f"wrong: {wrong}\n")
    for rule in dict.fromkeys(violation.rule for violation in outcome.violations):
        shown = [violation for violation in outcome.violations if violation.rule == rule]
        say("".join(f"{violation}\n" for violation in shown[:SHOWN_PER_RULE]))
    say(f"verdict: {len(outcome.violations)} violations, {len(outcome.wrong)} wrong\n")


def main(words: Sequence[str]) -> int:
    wanted = [c for c in combinations() if not words or any(word in str(c) for word in words)]
    folder = Path(tempfile.mkdtemp(prefix="botfleet_failpoints_"))
    began = time.monotonic()
    outcome = asyncio.run(_on_private_servers(folder, wanted))
    report(outcome, sys.stdout.write)
    sys.stdout.write(f"{time.monotonic() - began:.0f} s; logs and journal are in {folder}\n")
    return bool(outcome.violations or outcome.wrong)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
