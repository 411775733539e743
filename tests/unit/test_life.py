"""The life of orders, played: every schedule of crashes, losses and late news keeps the promises.

The model (tests/chaos/life.py) uses the product's own rules, so that a mistake in them is found
here, with the shortest schedule that shows it. `make check` plays a few hundred schedules.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.chaos.life import LONG_MS, WORKERS, Fate, Luck, World
from tests.chaos.life_books import TTL_MS
from tests.chaos.life_judge import left_over, violations
from tests.chaos.life_venue import Deal, Hidden, Reply

workers = st.integers(0, WORKERS - 1)
numbers = st.integers(0, 7)
lucks = st.builds(
    Luck,
    fate=st.sampled_from([Fate.WELL, Fate.WELL, Fate.WELL, *Fate]),
    deal=st.sampled_from([Deal.FILL, Deal.FILL, *Deal]),
    hidden=st.sampled_from([Hidden.NOT, Hidden.NOT, Hidden.TO_THE_LAST, *Hidden]),
    reply=st.sampled_from(Reply),
)


class Life(RuleBasedStateMachine):
    """Ticks, crashes at every point, lost and late replies, pauses, takeovers, late fills."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize()
    def the_first_worker_serves_everything(self) -> None:
        self.world.keep_leases(0)
        self.world.calm()

    @rule(worker=workers)
    def tick(self, worker: int) -> None:
        self.world.tick(worker)

    @rule(number=numbers, luck=lucks, at_once=st.booleans())
    def a_request_goes_on(self, number: int, luck: Luck, at_once: bool) -> None:
        self.world.go_on(number, luck, at_once=at_once)

    @rule(number=numbers)
    def nobody_waits_longer(self, number: int) -> None:
        self.world.time_out(number)

    @rule(worker=workers)
    def all_goes_well(self, worker: int) -> None:
        self.world.calm([worker])

    @rule(ms=st.sampled_from([100, 1_000, TTL_MS // 2, TTL_MS, 15_000, LONG_MS]))
    def time_passes(self, ms: int) -> None:
        self.world.now_ms += ms

    @rule(worker=workers, take=st.booleans(), at_once=st.booleans())
    def keep_leases(self, worker: int, take: bool, at_once: bool) -> None:
        self.world.keep_leases(worker, take=take)
        if at_once:
            self.world.calm([worker], steps=2)

    @rule(worker=workers, at_once=st.booleans())
    def ask(self, worker: int, at_once: bool) -> None:
        self.world.ask(worker)
        if at_once:
            self.world.calm([worker])

    @rule(worker=workers, heir_takes_over=st.booleans())
    def crash(self, worker: int, heir_takes_over: bool) -> None:
        self.world.crash(worker, heir_takes_over=heir_takes_over)

    @rule(worker=workers)
    def pause(self, worker: int) -> None:
        self.world.paused.add(worker)

    @rule(worker=workers)
    def resume(self, worker: int) -> None:
        self.world.paused.discard(worker)

    @rule(worker=workers, victim=workers)
    def take_over_from_a_silent_one(self, worker: int, victim: int) -> None:
        if victim in self.world.paused:
            self.world.take_over(worker, self.world.processes[victim].owner)
            self.world.calm([worker], steps=2)

    @rule(worker=workers)
    def hand_over(self, worker: int) -> None:
        self.world.hand_over(worker)

    @rule(number=numbers, most=st.sampled_from([1, 99]), ends=st.booleans())
    def the_venue_trades(self, number: int, most: int, ends: bool) -> None:
        orders = self.world.venue.orders
        if orders:
            taken = orders[-1 - number % len(orders)]
            self.world.venue.trade(taken, most, now_ms=self.world.now_ms)
            if ends:
                self.world.venue.end(taken)

    @invariant()
    def every_promise_is_kept(self) -> None:
        found = list(violations(self.world))
        assert not found, "\n".join(found)
        self.world.now_ms += 1

    def teardown(self) -> None:
        self.world.drain()
        found = [*violations(self.world), *left_over(self.world)]
        assert not found, "\n".join(found)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=settings().max_examples * 8, stateful_step_count=50)
