"""The life of orders, played: every schedule of crashes, losses and late news keeps the promises.

The model (tests/chaos/life.py) uses the product's own rules, so that a mistake in them is found
here, with the shortest schedule that shows it. `make check` plays a few hundred schedules.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shared import settlement_rules
from shared.orders import TRANSITIONS, OrderStatus, PositionTotals
from shared.settlement_rules import Home
from tests.chaos import life_books, life_restore
from tests.chaos.life import LONG_MS, WORKERS, Fate, Luck, Trouble, World
from tests.chaos.life_books import BOTS, TTL_MS, Bot
from tests.chaos.life_judge import left_over, violations
from tests.chaos.life_play import play, schedule, shortest
from tests.chaos.life_venue import Deal, Hidden, Reply
from tests.chaos.life_worker import InDoubt, Process, Send
from trade_worker import asking, sending
from trade_worker.answers import Verdict

workers = st.integers(0, WORKERS - 1)
numbers = st.integers(0, 7)
a_luck = st.builds(
    Luck,
    fate=st.sampled_from([Fate.WELL, Fate.WELL, Fate.WELL, *Fate]),
    deal=st.sampled_from([Deal.FILL, Deal.FILL, *Deal]),
    hidden=st.sampled_from([Hidden.NOT, Hidden.NOT, Hidden.TO_THE_LAST, *Hidden]),
    reply=st.sampled_from(Reply),
)
some_lucks = st.lists(a_luck, max_size=4)


class Life(RuleBasedStateMachine):
    """Ticks, crashes at every point, lost and late replies, pauses, takeovers, late fills."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize()
    def the_first_worker_serves_everything(self) -> None:
        self.world.keep_leases(0)
        self.world.calm()

    @rule(bots=st.sampled_from([BOTS[:1], BOTS[1:], BOTS]), lucks=some_lucks)
    def tick(self, bots: tuple[Bot, ...], lucks: list[Luck]) -> None:
        """What is decided gets as far as there is luck for it."""
        self.world.tick(bots)
        self.world.chain(lucks)

    @rule(lucks=some_lucks)
    def ask(self, lucks: list[Luck]) -> None:
        self.world.ask()
        self.world.chain(lucks)

    @precondition(lambda self: self.world.calls)
    @rule(number=numbers, luck=a_luck, at_once=st.booleans())
    def a_request_goes_on(self, number: int, luck: Luck, at_once: bool) -> None:
        self.world.go_on(number, luck, at_once=at_once)

    @precondition(lambda self: self.world.calls)
    @rule(lucks=some_lucks)
    def the_last_request_goes_on(self, lucks: list[Luck]) -> None:
        self.world.chain(lucks)

    @precondition(lambda self: self.world.calls)
    @rule(number=numbers)
    def nobody_waits_longer(self, number: int) -> None:
        self.world.time_out(number)

    @rule(ticks=st.booleans(), asks=st.booleans())
    def all_goes_well(self, ticks: bool, asks: bool) -> None:
        if ticks:
            self.world.tick()
        if asks:
            self.world.ask()
        self.world.calm()

    @rule(ms=st.sampled_from([100, 1_000, TTL_MS, 15_000, LONG_MS]), asks=st.booleans())
    def time_passes(self, ms: int, asks: bool) -> None:
        if asks:
            self.world.ask()
        self.world.pass_time(ms)

    @rule(ms=st.sampled_from([1_000, TTL_MS, LONG_MS]))
    def time_passes_for_nobody(self, ms: int) -> None:
        """All leases may run out: the database was away."""
        self.world.jump(ms)

    @rule(worker=workers, take=st.booleans())
    def keep_leases(self, worker: int, take: bool) -> None:
        self.world.keep_leases(worker, take=take)

    @rule(worker=workers, trouble=st.sampled_from(Trouble), other=workers)
    def somebody_is_in_trouble(self, worker: int, trouble: Trouble, other: int) -> None:
        self.world.befall(worker, trouble, other)

    @precondition(lambda self: self.world.venue.orders)
    @rule(number=numbers, most=st.sampled_from([1, 99]), ends=st.booleans())
    def the_venue_trades(self, number: int, most: int, ends: bool) -> None:
        self.world.trade(number, most, ends)

    @rule()
    def make_a_backup(self) -> None:
        self.world.back_up()

    @precondition(lambda self: self.world.backup)
    @rule()
    def restore_it(self) -> None:
        self.world.restore()

    @invariant()
    def every_promise_is_kept(self) -> None:
        found = list(violations(self.world))
        assert not found, "\n".join(found)
        self.world.now_ms += 1

    def teardown(self) -> None:
        self.world.drain()
        found = [*violations(self.world), *left_over(self.world)]
        assert not found, "\n".join(found)


EXAMPLES: Final = settings().max_examples
TestLife = Life.TestCase
TestLife.settings = settings(max_examples=EXAMPLES * 2, stateful_step_count=40)


@pytest.mark.parametrize("part", range(4))
def test_schedules_from_seeds_keep_every_promise(part: int) -> None:
    """Many more than Hypothesis plays in the same time, and further into an order's life."""
    for seed in range(part * EXAMPLES * 10, (part + 1) * EXAMPLES * 10):
        steps = schedule(seed)
        if play(steps):
            steps = shortest(steps)
            told = [*map(str, steps), *play(steps)]
            pytest.fail(f"the schedule of seed {seed}, shortened:\n" + "\n".join(told))


def _unknown_is_rejected(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sending._STATUS_OF, Verdict.UNKNOWN, OrderStatus.REJECTED)
    patch.setitem(sending._EXECUTED_OF, Verdict.UNKNOWN, Decimal(0))


def _not_found_is_final_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(asking, "not_found_is_final_in_secs", lambda *_, **__: 0.0)


def _late_orders_are_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(TRANSITIONS, OrderStatus.NOT_PLACED, frozenset())


def _late_fills_stay_in_closed_positions(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(life_books, "home_of", lambda *_, **__: Home.OWN)


def _orders_go_out_after_their_time(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sending, "deadline_secs", lambda *_, committed_after_secs: 1e9)


def _ends_count_before_their_fills_are_known(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(settlement_rules, "_complete", lambda *_: True)


def _fees_in_the_coin_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    held = property(lambda totals: totals.entry_quantity - totals.exit_quantity)
    patch.setattr(PositionTotals, "held", held)


def _exits_of_the_lost_time_are_not_asked_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(life_restore.Recovery, "_walk", lambda *_: None)


def _a_lease_has_no_fence(patch: pytest.MonkeyPatch) -> None:
    commit = life_books.Books.commit

    def unfenced(self: Any, *args: Any, **named: Any) -> Any:
        with pytest.MonkeyPatch.context() as meanwhile:
            meanwhile.setattr(life_books.Books, "holds", lambda *_, **__: True)
            return commit(self, *args, **named)

    patch.setattr(life_books.Books, "commit", unfenced)


def _an_order_is_sent_again(patch: pytest.MonkeyPatch) -> None:
    told = Process.told

    def resending(self: Any, command: Any, answer: Any, now_ms: int) -> Any:
        if isinstance(command, Send) and isinstance(answer, InDoubt):
            return [command]
        return told(self, command, answer, now_ms)

    patch.setattr(Process, "told", resending)


@pytest.mark.parametrize(
    "bug",
    [
        _unknown_is_rejected,
        _not_found_is_final_at_once,
        _late_orders_are_ignored,
        _late_fills_stay_in_closed_positions,
        _orders_go_out_after_their_time,
        _ends_count_before_their_fills_are_known,
        _fees_in_the_coin_are_forgotten,
        _exits_of_the_lost_time_are_not_asked_for,
        _a_lease_has_no_fence,
        _an_order_is_sent_again,
    ],
    ids=lambda bug: bug.__name__.strip("_"),
)
def test_a_known_bug_is_found(
    monkeypatch: pytest.MonkeyPatch, bug: Callable[[pytest.MonkeyPatch], None]
) -> None:
    bug(monkeypatch)
    failing = next(steps for seed in range(400) if play(steps := schedule(seed)))
    assert play(shortest(failing))
