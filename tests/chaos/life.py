"""The life of orders as a model: a database, a venue, workers, and everything between them.

Pure and synchronous: whoever plays with it (tests/unit/test_life.py) says what happens next, to
which request, and when. A request is on its way until it acts or is lost; so is its answer. What
a process that died had on its way may still arrive.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final
from uuid import UUID

from shared.orders import UNSETTLED, LiveOrder, OrderStatus
from tests.chaos.life_books import BOTS, Books, Bot, LeaseRow
from tests.chaos.life_restore import LOST_MS, recover
from tests.chaos.life_venue import Deal, Hidden, Reply, Venue
from tests.chaos.life_worker import (
    Ask,
    Cancel,
    Command,
    Commit,
    Failed,
    InDoubt,
    Load,
    Process,
    ReadBack,
    Renew,
    Send,
    Settle,
    Take,
)
from trade_worker.answers import Sent, Verdict
from trade_worker.asking import NOT_FOUND_SECS

WORKERS: Final = 3
START_MS: Final = 1_000_000
LONG_MS: Final = round(1000 * max(NOT_FOUND_SECS.values())) + 10_000
_NAMESPACE: Final = UUID(int=1)


class Fate(Enum):
    """What happens to a request."""

    WELL = "well"
    FAILED = "failed"
    """It is not done, and whoever asked knows."""
    LOST = "lost"
    """It is not done, and nobody knows."""
    ANSWER_LOST = "answer lost"


class Trouble(Enum):
    """What happens to a worker."""

    DIES = "dies"
    DIES_AND_IS_REPLACED = "dies and is replaced"
    """By a process of the same name, which takes its leases before they run out."""
    FREEZES = "freezes"
    THAWS = "thaws"
    """With everybody else."""
    IS_THOUGHT_DEAD = "is thought dead"
    STOPS = "stops"


@dataclass(frozen=True, slots=True, kw_only=True)
class Luck:
    """How one step goes, where there is a choice."""

    fate: Fate = Fate.WELL
    deal: Deal = Deal.FILL
    hidden: Hidden = Hidden.NOT
    reply: Reply = Reply.ALL


GOOD: Final = Luck()


@dataclass(slots=True, kw_only=True)
class Call:
    """A request. `worker` None: nobody waits for its answer any more."""

    worker: int | None
    owner: str
    command: Command
    acted: bool = False
    answer: object = None


@dataclass(slots=True)
class World:
    """Everything there is. `now_ms` is the true time, and the database's."""

    now_ms: int = START_MS
    books: Books = field(default_factory=lambda: Books(namespace=_NAMESPACE))
    venue: Venue = field(default_factory=Venue)
    processes: list[Process] = field(default_factory=list)
    paused: set[int] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    committed: list[tuple[LiveOrder, int, LeaseRow]] = field(default_factory=list)
    """Each commit: the order, the epoch that it was decided under, the lease at that moment."""
    thought_dead: set[str] = field(default_factory=set)
    """Owners whose leases another took before they ran out: only the fence keeps those off."""
    backup: tuple[int, Books] | None = None
    """When it was made, and the books as they were."""
    _started: int = 0

    def __post_init__(self) -> None:
        self.processes = [self._new(worker) for worker in range(WORKERS)]

    @property
    def awake(self) -> list[int]:
        return [worker for worker in range(WORKERS) if worker not in self.paused]

    def _new(self, worker: int) -> Process:
        self._started += 1
        return Process(owner=f"{worker}#{self._started}")

    # What workers do

    def wants(self, worker: int, commands: Iterable[Command]) -> None:
        owner = self.processes[worker].owner
        self.calls += [Call(worker=worker, owner=owner, command=each) for each in commands]

    def keep_leases(self, worker: int, take: bool = False) -> None:
        if worker not in self.paused:
            self.wants(worker, self.processes[worker].keep_leases(self.now_ms, take=take))

    def tick(self, bots: Iterable[Bot] = BOTS) -> None:
        """A price comes to everybody."""
        for bot in bots:
            for worker in self.awake:
                self.wants(worker, self.processes[worker].tick(bot, self.now_ms))

    def ask(self) -> None:
        """Everybody asks for what has no outcome."""
        for worker in self.awake:
            self.wants(worker, self.processes[worker].ask(self.now_ms))

    def pass_time(self, ms: int) -> None:
        """Time passes while leases are renewed and taken by all who are awake."""
        kept = [
            lease.number
            for worker in self.awake
            for lease in self.processes[worker].holdings.leases
            if self.books.holds(lease.number, lease.owner, self.now_ms, epoch=lease.epoch)
        ]
        self.now_ms += ms
        for shard in kept:
            row = self.books.leases[shard]
            self.books.leases[shard] = replace(row, expires_ms=self.now_ms + 1)
        for worker in self.awake:
            for take in (False, True):
                self.processes[worker].leasing = False
                self.keep_leases(worker, take=take)
                self._answer_leases(worker)

    def _answer_leases(self, worker: int) -> None:
        for call in [c for c in self.calls if c.worker == worker]:
            if isinstance(call.command, Renew | Take) and not call.acted:
                self._arrive(call, GOOD)
                self._answer(call)

    def hand_over(self, worker: int) -> None:
        """Give the leases back, as a worker does that stops; what is on its way goes on."""
        if worker not in self.paused:
            process = self.processes[worker]
            self.books.release(process.holdings.leases, now_ms=self.now_ms)
            process.give_up()

    # What befalls them

    def befall(self, worker: int, trouble: Trouble, other: int) -> None:
        match trouble:
            case Trouble.DIES | Trouble.DIES_AND_IS_REPLACED:
                self.crash(worker, heir_takes_over=trouble is Trouble.DIES_AND_IS_REPLACED)
            case Trouble.FREEZES:
                self.paused.add(worker)
            case Trouble.THAWS:
                self.paused.clear()
            case Trouble.IS_THOUGHT_DEAD:
                self.paused.add(worker)
                self.take_over(other, self.processes[worker].owner)
            case Trouble.STOPS:
                self.hand_over(worker)

    def crash(self, worker: int, *, heir_takes_over: bool) -> None:
        """Kill -9; a new process has its place, and maybe its leases at once."""
        gone = self.processes[worker].owner
        for call in self.calls:
            if call.worker == worker:
                call.worker = None
        self.calls = [c for c in self.calls if c.worker is not None or not c.acted]
        self.paused.discard(worker)
        self.processes[worker] = self._new(worker)
        if heir_takes_over:
            self.take_over(worker, gone)

    def take_over(self, worker: int, gone: str) -> None:
        """Take all leases of a process that is thought dead."""
        process = self.processes[worker]
        if worker not in self.paused and not process.leasing:
            process.leasing = True
            self.thought_dead.add(gone)
            self.wants(worker, [Take(asked_ms=self.now_ms, replacing=gone)])

    # What becomes of requests

    def go_on(self, number: int, luck: Luck, at_once: bool = False) -> None:
        """One request arrives or is lost, or one answer arrives: both, `at_once`."""
        if not self.calls:
            return
        call = self.calls[number % len(self.calls)]
        if not call.acted:
            self._arrive(call, luck)
            if not at_once:
                return
        self._answer(call)

    def chain(self, lucks: Iterable[Luck]) -> None:
        """The last request goes on, and what it leads to."""
        for luck in lucks:
            self.go_on(-1, luck, at_once=True)

    def trade(self, number: int, most: int, ends: bool) -> None:
        """An order that rests at the venue trades, or ends."""
        orders = self.venue.orders
        if orders:
            taken = orders[-1 - number % len(orders)]
            self.venue.trade(taken, most, now_ms=self.now_ms)
            if ends:
                self.venue.end(taken)

    def jump(self, ms: int) -> None:
        """Time passes for nobody: the database was away, and all leases may run out."""
        self.now_ms += ms

    def time_out(self, number: int) -> None:
        """Somebody stops waiting for what is still on its way, and may arrive."""
        call = self.calls[number % len(self.calls)] if self.calls else None
        if call is None or call.worker is None or call.worker in self.paused or call.acted:
            return
        worker, call.worker = call.worker, None
        self.wants(worker, self.processes[worker].told(call.command, InDoubt(), self.now_ms))

    def calm(self, *, steps: int = 12) -> None:
        """All goes well for a while, for all who are awake."""
        for _ in range(steps):
            mine = [call for call in self.calls if call.worker in self.awake]
            if not mine:
                return
            for call in mine:
                if not call.acted:
                    self._arrive(call, GOOD)
                self._answer(call)

    def _arrive(self, call: Call, luck: Luck) -> None:
        call.acted = True
        if luck.fate is Fate.FAILED:
            call.answer = Failed()
            if isinstance(call.command, Send):
                call.answer = Sent(verdict=Verdict.NOT_SENT)
        elif luck.fate is Fate.LOST:
            call.answer = InDoubt()
        else:
            answer = self._act(call, luck)
            call.answer = InDoubt() if luck.fate is Fate.ANSWER_LOST else answer
        if call.worker is None:
            self.calls.remove(call)

    def _answer(self, call: Call) -> None:
        if call.worker is None or call.worker in self.paused:
            return
        self.calls.remove(call)
        process = self.processes[call.worker]
        self.wants(call.worker, process.told(call.command, call.answer, self.now_ms))

    def _act(self, call: Call, luck: Luck) -> object:
        """What the database or the venue does; returns its answer."""
        books, now_ms = self.books, self.now_ms
        match call.command:
            case Take(replacing=replacing):
                return books.take(call.owner, replacing=replacing, now_ms=now_ms)
            case Renew(held=held):
                return books.renew(held, now_ms=now_ms)
            case Load(shards=shards, orders_too=orders_too):
                orders = books.to_ask_for(shards, now_ms=now_ms) if orders_too else []
                return books.load(shards), orders
            case Commit() as commit:
                return self._commit(commit, call.owner)
            case ReadBack(commit=commit):
                self._end_of(commit)
                return books.written(commit.proposal)
            case Settle(news=news):
                return books.settle(news, call.owner, now_ms=now_ms)
            case Send(order=order, deadline_ms=deadline_ms):
                return self.venue.place(
                    order,
                    deadline_ms=deadline_ms,
                    now_ms=now_ms,
                    deal=luck.deal,
                    hidden=luck.hidden,
                    reply=luck.reply,
                )
            case Ask(order=order):
                return self.venue.ask(order, now_ms=now_ms, reply=luck.reply)
            case Cancel(order=order):
                for taken in self.venue.of(order.client_order_id):
                    self.venue.end(taken)
                return None

    def _commit(self, commit: Commit, owner: str) -> LiveOrder | None:
        wanted = commit.proposal
        order = self.books.commit(wanted, owner, now_ms=self.now_ms)
        if order is not None:
            lease = self.books.leases[wanted.bot.shard]
            self.committed.append((order, wanted.epoch, lease))
        return order

    def _end_of(self, commit: Commit) -> None:
        """Who reads back waits for the transaction's locks: it ends before, or never comes."""
        for call in tuple(self.calls):
            if call.command == commit and call.worker is None and not call.acted:
                self.calls.remove(call)

    # A backup

    def back_up(self) -> None:
        self.backup = self.now_ms, self.books.copy()

    def restore(self) -> None:
        """The database is lost; every service is stopped, the backup restored, `recover` run.

        Not where the venue has hidden an order for too long: what is adopted then is for people.
        """
        if self.backup is None or any(taken.hidden_too_long for taken in self.venue.orders):
            return
        made_ms, books = self.backup
        for worker in range(WORKERS):
            self.crash(worker, heir_takes_over=False)
        self.calls.clear()
        self.now_ms += LOST_MS
        self.books, self.backup = books.copy(), None
        recover(self.books, self.venue, now_ms=self.now_ms, lost_ms=self.now_ms - made_ms)

    # The end

    def drain(self) -> None:
        """No more faults: everybody runs, nothing new is decided, the venue answers."""
        self.paused.clear()
        for _ in range(12):
            # What is on its way to nobody arrives, all of it late.
            for call in [call for call in self.calls if call.worker is None]:
                self._arrive(call, GOOD)
            self.pass_time(LONG_MS)
            self.calm()
            self.ask()
            self.calm()
            if all(self._is_over(order) for order in self.books.orders.values()):
                break

    def _is_over(self, order: LiveOrder) -> bool:
        taken = self.venue.of(order.client_order_id)
        watched = order.status is OrderStatus.NOT_PLACED
        return order.status not in UNSETTLED and not (watched and taken)
