"""Carries a plan out: each step is a task that injects its fault, waits, and heals it.

Faults overlap, but no two of them have their hands on the same process, server or connection.
"""

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from shared.failpoints import WHERE, Point
from tests.acceptance.fleet import Member
from tests.chaos.member import SAID
from tests.chaos.plan import MANY_AT_ONCE, VENUES, Step
from tests.chaos.proxy import BOTH, Proxy, Trap, Way
from tests.chaos.records import Disturbance, Harm, Loss, now
from tests.chaos.world import Slot, World
from tests.servers import PrivateServer

TWIN_SECS: Final = 45.0
"""Within this, one of two workers of the same name must be gone, whatever else goes wrong."""

LONG_TRAP_SECS: Final = 15.0
STOP_SECS: Final = 45.0
"""A stop waits for what is in flight, and for a database or a broker that is away."""
_PATTERNS: Final[Mapping[str, tuple[bytes, bytes]]] = {
    # What a request that matters has in it, and what its answer does.
    "postgres": (b"COMMIT", b"COMMIT\x00"),
    "amqp": (b"\x00\x3c\x00\x28", b"\x00\x3c\x00\x50"),  # basic.publish, basic.ack
    "kraken": (b"/0/private/AddOrder", b"HTTP/1.1 200"),
    "binance": (b"POST /api/v3/order", b"HTTP/1.1 200"),
}
_IN_REQUESTS: Final = ("lose the answer", "cut inside")
_LASTING: Final[Mapping[str, Callable[[Proxy], None]]] = {
    "refuse": Proxy.refuse,
    "black hole": Proxy.black_hole,
    "black hole up": lambda proxy: proxy.black_hole([Way.UP]),
    "black hole down": lambda proxy: proxy.black_hole([Way.DOWN]),
    "delay": lambda proxy: proxy.delay(0.4, BOTH),
    "throttle": lambda proxy: proxy.throttle(20_000),
}
_MOMENTARY: Final[Mapping[str, Callable[[Proxy], None]]] = {
    "cut": Proxy.cut,
    "reset": Proxy.reset,
}


def _trap(kind: str, link: str) -> Trap:
    request, answer = _PATTERNS[link]
    if kind == "cut the answer":
        return Trap(pattern=answer, way=Way.DOWN, passes=False)
    return Trap(pattern=request, passes=kind == "lose the answer")


@dataclass(kw_only=True)
class Nemesis:
    """Harms one world. `draw` chooses among failpoints only: all else is in the plan."""

    world: World
    draw: random.Random
    _server_locks: Mapping[str, asyncio.Lock] = field(
        default_factory=lambda: {"broker": asyncio.Lock(), "database": asyncio.Lock()}
    )
    _link_locks: dict[Proxy, asyncio.Lock] = field(default_factory=dict)

    async def carry_out(self, plan: Sequence[Step]) -> None:
        """Inject every fault of the plan; returns when all are healed."""
        started = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            running: set[asyncio.Task[None]] = set()
            for number, step in enumerate(plan):
                if step.alone:
                    at = time.monotonic()
                    await self._until_calm(running)
                    await self._inject(step)
                    await self._until_calm(running)
                    started += time.monotonic() - at
                    continue
                await asyncio.sleep(started + step.at_secs - time.monotonic())
                task = tasks.create_task(self._inject(step), name=f"fault {number}: {step.name}")
                running.add(task)
                task.add_done_callback(running.discard)

    async def _until_calm(self, running: Collection[asyncio.Task[None]]) -> None:
        """Return when these faults are healed, and what they did to leases is over."""
        if running:
            await asyncio.wait(tuple(running))
        await asyncio.sleep(self.world.records.lease_ttl_secs + 2 * self.world.records.poll_secs)

    async def _inject(self, step: Step) -> None:
        self.world.records.injected[step.name] += 1
        if step.faults:
            await self._harm_venues(step)
        elif step.link is not None:
            await self._harm_links(step, step.link)
        else:
            await KINDS[step.kind](self, step)

    # Venues and connections.

    async def _harm_venues(self, step: Step) -> None:
        asks = any(fault.get("endpoint") != "add_order" for fault in step.faults)
        venues = {fault["venue"] for fault in step.faults}
        target = ", ".join(_told(fault) for fault in step.faults)
        with self._disturbing(
            step,
            target,
            Harm.ASKING if asks else Harm.SENDING,
            venue=None if step.kind == MANY_AT_ONCE else min(venues),
        ):
            await self.world.break_venues(step.faults)
            await asyncio.sleep(step.secs)
            await self.world.mend_venues(step.faults)

    async def _harm_links(self, step: Step, link: str) -> None:
        concerned = self.world.slots
        if link in VENUES and step.kind in _IN_REQUESTS:
            concerned = self.world.workers  # price streams place no orders
        slots = concerned if step.everywhere else [_picked(concerned, step)]
        harm = Harm.DATABASE_LINK if link == "postgres" else Harm.ASKING
        target = ", ".join(slot.name for slot in slots)
        proxies = [slot.links[link] for slot in slots]
        async with contextlib.AsyncExitStack() as stack:
            for proxy in proxies:
                lock = self._link_locks.setdefault(proxy, asyncio.Lock())
                await stack.enter_async_context(lock)
            with self._disturbing(
                step,
                target,
                Harm.OTHER if link == "amqp" else harm,
                venue=link if link in VENUES else None,
            ):
                await self._harm(step, link, proxies)

    async def _harm(self, step: Step, link: str, proxies: Sequence[Proxy]) -> None:
        if step.kind in _MOMENTARY:
            for proxy in proxies:
                _MOMENTARY[step.kind](proxy)
            return
        before = sum(proxy.sprung for proxy in proxies)
        is_trap = step.kind not in _LASTING
        for proxy in proxies:
            if is_trap:
                proxy.trap(_trap(step.kind, link))
            else:
                _LASTING[step.kind](proxy)
        if is_trap:
            deadline = time.monotonic() + LONG_TRAP_SECS
            while time.monotonic() < deadline:
                await asyncio.sleep(0.1)
                if sum(proxy.sprung for proxy in proxies) - before >= len(proxies):
                    break
            else:
                self.world.records.idle[step.name] += 1
        else:
            await asyncio.sleep(step.secs)
        for proxy in proxies:
            proxy.heal()
            if "black hole" in step.kind and step.pick < 0.5:
                # Half of the time nothing that was held back ever arrives.
                proxy.reset()

    # Processes.

    async def kill_worker(self, step: Step) -> None:
        async with self._worker(step) as slot:
            with self._disturbing(step, slot.name, Harm.WORKER):
                await self._lose(slot)
                await self.world.kill(slot)
                if "later" in step.kind:
                    await asyncio.sleep(step.secs)
                await self.world.start(slot)

    async def freeze_worker(self, step: Step) -> None:
        async with self._worker(step) as slot:
            with self._disturbing(step, slot.name, Harm.WORKER):
                if "past" in step.kind:
                    await self._lose(slot)
                await self._freeze(slot, step.secs)

    async def replace_worker(self, step: Step) -> None:
        """A worker is stopped as an operator would, and one of a new name joins."""
        async with self._worker(step) as slot:
            with self._disturbing(step, slot.name, Harm.OTHER):
                await self._stop(slot)
                slot.name = next(self.world.names)
                await self.world.start(slot)

    async def second_worker(self, step: Step) -> None:
        """Of two workers of a name one must end; if it is the first, the second stays."""
        async with self._worker(step) as slot:
            first = slot.member
            assert first is not None
            with self._disturbing(step, slot.name, Harm.OTHER):
                second = await self.world.spawn(slot)
                await _one_ended([first, second], within_secs=TWIN_SECS)
                if first.running and second.running:
                    if not self._database_was_away(TWIN_SECS):
                        self.world.records.broken.append(
                            f"two workers {slot.name} ran side by side"
                        )
                    second.signal(signal.SIGKILL)
                    await second.ended()
                elif second.running:
                    slot.member = second

    async def failpoint(self, step: Step) -> None:
        """A worker is started anew and dies, or hangs, where the product has a failpoint."""
        name = self.draw.choice(failpoints())
        action = self.draw.choice(["exit", "raise", f"pause:{step.secs:.1f}"])
        async with self._worker(step) as slot:
            with self._disturbing(step, f"{slot.name} at {name}={action}", Harm.WORKER):
                await self._lose(slot)
                await self.world.kill(slot)
                hit = self.draw.randint(1, 5)
                member = await self.world.start(slot, failpoint=f"{name}={action}@{hit}")
                with contextlib.suppress(TimeoutError):
                    await member.ended(within_secs=LONG_TRAP_SECS)
                if SAID not in member.text():
                    # Some points are crossed at the end only; and none may stay armed.
                    await self._stop(slot)
                if SAID not in member.text():
                    self.world.records.idle[step.name] += 1
                if not member.running:
                    await self.world.start(slot)

    async def harm_stream(self, step: Step) -> None:
        leader = await self.world.leading_stream()
        leading = leader or _picked(self.world.streams, step)
        others = [slot for slot in self.world.streams if slot is not leading]
        slot = others[0] if "standby" in step.kind and others else leading
        async with slot.busy:
            with self._disturbing(step, slot.name, Harm.OTHER):
                if "freeze" in step.kind:
                    await self._freeze(slot, 2 * step.secs)
                else:
                    await self._lose(slot)
                    await self.world.kill(slot)
                    await asyncio.sleep(step.secs)
                    await self.world.start(slot)

    async def harm_server(self, step: Step) -> None:
        name = step.kind.split()[-1]
        is_database = name == "database"
        server = self.world.postgres if is_database else self.world.rabbitmq
        async with self._server_locks[name]:
            with self._disturbing(step, name, Harm.DATABASE if is_database else Harm.OTHER):
                await _harm_server(server, step)

    @asynccontextmanager
    async def _worker(self, step: Step) -> AsyncIterator[Slot]:
        slot = _picked(self.world.workers, step)
        async with slot.busy:
            if not slot.running:
                await self.world.start(slot)
            yield slot

    async def _stop(self, slot: Slot) -> None:
        """Stop a process as an operator would; it must end in bounded time."""
        member = slot.member
        assert member is not None
        member.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await member.ended(within_secs=STOP_SECS)
        if member.running:
            text = f"{member.log.name} did not stop in {STOP_SECS:g} s"
            self.world.records.broken.append(text)
            await self.world.kill(slot)

    async def _freeze(self, slot: Slot, secs: float) -> None:
        member = slot.member
        assert member is not None
        member.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(secs)
        finally:
            member.signal(signal.SIGCONT)

    async def _lose(self, slot: Slot) -> None:
        """Note that a process is about to be lost. Asking takes a moment, so it comes first."""
        owner = await self.world.owner_of(slot)
        if owner is not None:
            self.world.records.losses.append(Loss(owner=owner, at=now()))

    @contextlib.contextmanager
    def _disturbing(
        self, step: Step, target: str, harm: Harm, *, venue: str | None = None
    ) -> Iterator[Disturbance]:
        disturbance = self.world.records.begin(step.name, target, harm, venue=venue)
        try:
            yield disturbance
        finally:
            disturbance.until = now()
            # At once, for whoever looks at a run that goes on, or that was ended.
            with (self.world.records.folder / "faults.txt").open("a") as file:
                file.write(f"{disturbance}\n")

    def _database_was_away(self, secs: float) -> bool:
        """Whether anything in the last seconds may have kept two workers from noticing."""
        away = (Harm.DATABASE, Harm.DATABASE_LINK)
        return any(
            each.harm in away and (now() - each.until).total_seconds() < secs
            for each in self.world.records.disturbances
        )


async def _harm_server(server: PrivateServer, step: Step) -> None:
    if step.kind.startswith("freeze"):
        await asyncio.to_thread(server.stop)
        try:
            await asyncio.sleep(step.secs)
        finally:
            await asyncio.to_thread(server.cont)
        return
    await asyncio.to_thread(server.terminate if "restart" in step.kind else server.kill)
    await asyncio.sleep(min(step.secs, 2.0))
    await asyncio.to_thread(server.start)


async def _one_ended(members: Sequence[Member], *, within_secs: float) -> None:
    """Return once one of them has ended, or after so long."""
    tasks = [asyncio.create_task(member.ended(within_secs=within_secs)) for member in members]
    await asyncio.wait(tasks, timeout=within_secs, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def failpoints() -> Sequence[Point]:
    """The failpoints that a worker can cross."""
    return [point for point, where in WHERE.items() if where.startswith("trade_worker/")]


KINDS: Final[Mapping[str, Callable[[Nemesis, Step], Awaitable[None]]]] = {
    "kill a worker": Nemesis.kill_worker,
    "kill a worker, start it later": Nemesis.kill_worker,
    "freeze a worker briefly": Nemesis.freeze_worker,
    "freeze a worker past its lease": Nemesis.freeze_worker,
    "replace a worker": Nemesis.replace_worker,
    "a second worker of the same name": Nemesis.second_worker,
    "a worker dies at a failpoint": Nemesis.failpoint,
    "kill the leading stream": Nemesis.harm_stream,
    "kill the standby stream": Nemesis.harm_stream,
    "freeze the leading stream": Nemesis.harm_stream,
    "kill the broker": Nemesis.harm_server,
    "freeze the broker": Nemesis.harm_server,
    "kill the database": Nemesis.harm_server,
    "restart the database": Nemesis.harm_server,
    "freeze the database": Nemesis.harm_server,
}


def _picked(slots: Sequence[Slot], step: Step) -> Slot:
    return slots[int(step.pick * len(slots))]


def _told(fault: Mapping[str, Any]) -> str:
    narrowed = (str(fault[name]) for name in ("endpoint", "pair", "account") if name in fault)
    return " ".join((fault["venue"], fault["kind"], *narrowed))
