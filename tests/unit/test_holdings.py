"""What workers believe about their leases, against a database that answers late or never."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shared.leases import Lease, LeaseKind
from trade_worker.holdings import SAFETY_SECS, Holdings

TTL_SECS = 5.0
SHARDS = range(3)


def lease(number: int = 1, *, epoch: int = 1, valid_until: float = 10.0) -> Lease:
    return Lease(
        kind=LeaseKind.SHARD, number=number, owner="a", epoch=epoch, valid_until=valid_until
    )


def test_intents_may_be_committed_until_shortly_before_the_lease_ends() -> None:
    holdings = Holdings()
    holdings.grant([lease(epoch=7, valid_until=10.0)])
    assert holdings.epoch(1, 10.0 - SAFETY_SECS) == 7
    assert holdings.epoch(1, 10.01 - SAFETY_SECS) is None
    assert holdings.epoch(2, 0.0) is None


def test_a_shard_is_unserved_until_its_bots_are_loaded() -> None:
    holdings = Holdings()
    assert holdings.grant([lease(1), lease(2)]) == frozenset()
    assert holdings.unserved == {1, 2}
    holdings.serve([1])
    assert holdings.unserved == {2}


def test_bots_that_were_loaded_under_an_earlier_grant_are_outdated() -> None:
    holdings = Holdings()
    holdings.grant([lease(1), lease(2)])
    holdings.serve([1, 2])
    assert holdings.grant([lease(1, epoch=3)]) == {1}
    assert holdings.unserved == {1}
    assert holdings.epoch(1, 0.0) == 3


def test_what_was_lost_while_it_was_loaded_is_not_served() -> None:
    holdings = Holdings()
    holdings.grant([lease(1), lease(2)])
    assert holdings.renew([lease(2, valid_until=20.0)]) == {1}
    holdings.serve([1, 2])
    assert holdings.shards == {2}
    assert holdings.epoch(2, 15.0) == 1
    holdings.grant([lease(1, epoch=3)])
    assert holdings.unserved == {1}


def test_nothing_is_decided_for_a_shard_that_is_handed_over_and_it_does_not_come_back() -> None:
    holdings = Holdings()
    holdings.grant([lease(1), lease(2)])
    holdings.leave([1, 3])
    assert holdings.epoch(1, 0.0) is None
    assert holdings.any_valid(0.0)
    assert holdings.unserved == {2}
    holdings.give_up([1])
    # The renewal was asked for before, and answered after it was given up.
    assert holdings.renew([lease(1), lease(2)]) == frozenset()
    assert holdings.shards == {2}


@dataclass
class Row:
    """A lease as the database has it."""

    owner: int | None = None
    epoch: int = 0
    expires_at: float = 0.0

    def free(self, now: float) -> bool:
        return self.owner is None or self.expires_at <= now

    def held_by(self, worker: int, epoch: int, now: float) -> bool:
        return (self.owner, self.epoch) == (worker, epoch) and self.expires_at > now


@dataclass
class Asked:
    """A question on its way to the database and back."""

    at: float
    renewing: tuple[Lease, ...] | None = None
    answer: list[Lease] | None = None


@dataclass
class Process:
    """A worker: what it believes, and which bots it has in memory, under the epoch of a grant."""

    holdings: Holdings = field(default_factory=Holdings)
    loaded: dict[int, int] = field(default_factory=dict)
    loading: dict[int, int] | None = None
    asked: Asked | None = None
    leaving: frozenset[int] = frozenset()

    def forget(self, shards: frozenset[int]) -> None:
        for shard in shards:
            self.loaded.pop(shard, None)
            if self.loading is not None:
                self.loading.pop(shard, None)

    def epochs(self) -> dict[int, int]:
        return {each.number: each.epoch for each in self.holdings.leases}


workers = st.integers(0, 1)
shards = st.frozensets(st.sampled_from(SHARDS))


class Belief(RuleBasedStateMachine):
    """Workers take, renew, load, hand over, pause and die; the clock runs between any two steps.

    Each worker asks one question at a time, as `Shards` does, and takes only while it loads
    nothing. What is begun `at_once` also ends before anything else happens.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.rows = {shard: Row() for shard in SHARDS}
        self.processes = [Process() for _ in range(2)]

    @rule(secs=st.sampled_from([0.1, TTL_SECS / 3, TTL_SECS]))
    def time_passes(self, secs: float) -> None:
        self.now += secs

    @initialize()
    def the_first_worker_serves_everything(self) -> None:
        self.ask(0, renews=False, at_once=True)
        self.load(0, works=True, at_once=True)

    @rule(worker=workers, renews=st.booleans(), at_once=st.booleans())
    def ask(self, worker: int, renews: bool, at_once: bool) -> None:
        """To renew what is held, or to take what is free."""
        process = self.processes[worker]
        if process.asked is None and (renews or process.loading is None):
            renewing = tuple(process.holdings.leases) if renews else None
            process.asked = Asked(at=self.now, renewing=renewing)
            if at_once:
                self.the_database_acts(worker)
                self.the_answer_arrives(worker)

    @rule(worker=workers, lost=st.booleans())
    def the_question_goes_on(self, worker: int, lost: bool) -> None:
        asked = self.processes[worker].asked
        if asked is None or lost:
            self.processes[worker].asked = None
        elif asked.answer is None:
            self.the_database_acts(worker)
        else:
            self.the_answer_arrives(worker)

    def the_database_acts(self, worker: int) -> None:
        asked = self.processes[worker].asked
        assert asked is not None
        if asked.renewing is None:
            granted = [shard for shard, row in self.rows.items() if row.free(self.now)]
        else:
            granted = [
                each.number
                for each in asked.renewing
                if self.rows[each.number].held_by(worker, each.epoch, self.now)
            ]
        for shard in granted:
            self.rows[shard].epoch += asked.renewing is None
            self.rows[shard].owner = worker
            self.rows[shard].expires_at = self.now + TTL_SECS
        asked.answer = [
            lease(shard, epoch=self.rows[shard].epoch, valid_until=asked.at + TTL_SECS)
            for shard in granted
        ]

    def the_answer_arrives(self, worker: int) -> None:
        process = self.processes[worker]
        asked, process.asked = process.asked, None
        assert asked is not None
        assert asked.answer is not None
        apply = process.holdings.grant if asked.renewing is None else process.holdings.renew
        process.forget(apply(asked.answer))

    @rule(worker=workers, works=st.booleans(), at_once=st.booleans())
    def load(self, worker: int, works: bool, at_once: bool) -> None:
        process = self.processes[worker]
        taking = process.asked is not None and process.asked.renewing is None
        if process.loading is None and not taking:
            epochs = process.epochs()
            process.loading = {shard: epochs[shard] for shard in process.holdings.unserved}
            if not at_once:
                return
        if process.loading is not None:
            process.loaded |= process.loading
            if works:
                process.holdings.serve(process.loading)
            process.loading = None

    @rule(worker=workers, leaving=shards)
    def begin_to_hand_over(self, worker: int, leaving: frozenset[int]) -> None:
        process = self.processes[worker]
        process.leaving = leaving & process.holdings.shards
        process.holdings.leave(leaving)

    @rule(worker=workers, told=st.booleans())
    def end_to_hand_over(self, worker: int, told: bool) -> None:
        process = self.processes[worker]
        epochs = process.epochs()
        for shard in process.leaving & epochs.keys() if told else ():
            if self.rows[shard].held_by(worker, epochs[shard], self.now):
                self.rows[shard].owner = None
        process.holdings.give_up(process.leaving)
        process.forget(process.leaving)
        process.leaving = frozenset()

    @precondition(lambda self: self.now > 2 * TTL_SECS)
    @rule(victim=workers)
    def die_and_be_replaced(self, victim: int) -> None:
        """By a process of the same name, which takes over at its start."""
        heir = self.processes[victim] = Process()
        mine = [shard for shard, row in self.rows.items() if row.owner == victim]
        for shard in mine:
            self.rows[shard].epoch += 1
            self.rows[shard].expires_at = self.now + TTL_SECS
        valid_until = self.now + TTL_SECS
        heir.holdings.grant(
            lease(shard, epoch=self.rows[shard].epoch, valid_until=valid_until) for shard in mine
        )

    @invariant()
    def nobody_believes_to_hold_what_the_database_gave_to_nobody_or_another(self) -> None:
        for worker, process in enumerate(self.processes):
            for shard in SHARDS:
                epoch = process.holdings.epoch(shard, self.now)
                assert epoch is None or self.rows[shard].held_by(worker, epoch, self.now)

    @invariant()
    def nothing_is_decided_for_a_shard_that_is_handed_over(self) -> None:
        for process in self.processes:
            for shard in process.leaving:
                assert process.holdings.epoch(shard, self.now) is None

    @invariant()
    def bots_are_in_memory_as_they_were_under_the_grant_that_is_held(self) -> None:
        for process in self.processes:
            epochs, holdings = process.epochs(), process.holdings
            for shard in holdings.shards - holdings.unserved - process.leaving:
                assert process.loaded[shard] == epochs[shard]
            assert process.loaded.keys() <= holdings.shards


TestBelief = Belief.TestCase
TestBelief.settings = settings(
    max_examples=settings().max_examples * 150 // 100, stateful_step_count=50
)
