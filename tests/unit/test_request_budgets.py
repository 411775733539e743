"""What may be asked of a venue: never more than its limits, the urgent first, nobody forgotten."""

import math
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import VenueUnavailable
from shared.request_limits import (
    BINANCE_LIMITS,
    KRAKEN_LIMITS,
    REQUEST_LIMITS,
    CounterLimit,
    Request,
    RequestLimits,
    Scope,
    WindowLimit,
)
from shared.venues import VENUES
from trade_worker.request_budget import LEFT_TO_HIGHER, Priority, Waiter
from trade_worker.request_budgets import Budgets, amount_of

NOW: Final = 1_000.0
LATER: Final = 1e9

SMALL: Final = RequestLimits(
    limits={
        "weight": WindowLimit(
            scope=Scope.ADDRESS, most=50, window_secs=60, reserve=0.2, header="x-used"
        ),
        "orders": WindowLimit(scope=Scope.KEY, most=10, window_secs=10, header="x-orders"),
        "calls": CounterLimit(scope=Scope.KEY, most=8, decay_per_sec=0.5),
    },
    costs={
        Request.ADD_ORDER: {"weight": 1, "orders": 1},
        Request.ORDER_QUERY: {"weight": 4, "calls": 1},
        Request.CANCEL_ORDER: {"weight": 1},
        Request.TRADES: {"weight": 5, "calls": 2},
    },
    pause_secs=5,
    ban_secs=120,
)


def enter(
    budgets: Budgets,
    *,
    key: str = "a",
    priority: Priority = Priority.EXIT,
    request: Request = Request.ADD_ORDER,
    now_secs: float = NOW,
    until_secs: float = LATER,
) -> Waiter:
    return budgets.enter(key, priority, request, now_secs=now_secs, until_secs=until_secs)


def spend(budgets: Budgets, request: Request, priority: Priority, *, key: str = "a") -> int:
    """How many go at once."""
    for count in range(10_000):
        try:
            enter(budgets, key=key, priority=priority, request=request, until_secs=NOW)
        except VenueUnavailable:
            return count
    raise AssertionError("no limit")


def test_every_venue_has_limits_and_a_cost_for_every_request() -> None:
    assert set(REQUEST_LIMITS) == set(VENUES)
    for limits in REQUEST_LIMITS.values():
        assert set(limits.costs) == set(Request)
        for costs in limits.costs.values():
            assert set(costs) <= set(limits.limits)
            scopes = {limits.limits[name].scope for name in costs}
            assert Scope.ADDRESS in scopes


@pytest.mark.parametrize(
    ("priority", "count"),
    [(Priority.ENTRY, 54), (Priority.EXIT, 81), (Priority.CANCEL, 90)],
)
def test_a_key_places_at_most_its_orders_and_leaves_some_to_higher_priorities(
    priority: Priority, count: int
) -> None:
    assert spend(Budgets(BINANCE_LIMITS), Request.ADD_ORDER, priority) == count


def test_workers_behind_one_address_split_what_the_price_stream_leaves() -> None:
    workers = 1
    budgets = Budgets(BINANCE_LIMITS, sharers=lambda: workers)
    workers = 4
    assert spend(budgets, Request.CANCEL_ORDER, Priority.CANCEL) == 1_200
    workers = 1
    assert spend(budgets, Request.CANCEL_ORDER, Priority.CANCEL) == 3_600


def test_kraken_counts_history_twice_and_orders_elsewhere() -> None:
    budgets = Budgets(KRAKEN_LIMITS)
    assert spend(budgets, Request.CLOSED_ORDERS, Priority.CANCEL) == 7
    assert spend(budgets, Request.ORDER_QUERY, Priority.CANCEL) == 1
    assert spend(budgets, Request.ADD_ORDER, Priority.CANCEL) == 60


def test_a_request_that_never_leaves_its_share_goes_when_all_is_left() -> None:
    budgets = Budgets(SMALL, sharers=lambda: 8)
    assert spend(budgets, Request.TRADES, Priority.ENTRY) == 1


def test_a_request_larger_than_the_share_is_refused_at_once() -> None:
    budgets = Budgets(SMALL, sharers=lambda: 9)
    with pytest.raises(VenueUnavailable, match="too small"):
        enter(budgets, request=Request.TRADES)


def test_a_refusal_says_when_there_is_room() -> None:
    budgets = Budgets(SMALL)
    spend(budgets, Request.ORDER_QUERY, Priority.CANCEL)
    with pytest.raises(VenueUnavailable) as refused:
        enter(budgets, request=Request.ORDER_QUERY, priority=Priority.CANCEL, until_secs=NOW + 1)
    assert refused.value.retry_after_secs == pytest.approx(2.0)
    budgets.enter(
        "a",
        Priority.CANCEL,
        Request.ORDER_QUERY,
        now_secs=NOW + 2.0,
        until_secs=NOW + 2.0,
    )


def test_an_exit_overtakes_entries_that_wait() -> None:
    budgets = Budgets(SMALL)
    spend(budgets, Request.ADD_ORDER, Priority.CANCEL)
    entries = [enter(budgets, priority=Priority.ENTRY) for _ in range(5)]
    exits = [enter(budgets, priority=Priority.EXIT) for _ in range(5)]
    assert budgets.waiting == 10
    # Then 5 of 10 are left, and 4 are not for entries.
    assert budgets.release(NOW + 11) == [*exits, entries[0]]
    assert budgets.waiting == 4


def test_equal_ones_go_in_the_order_in_which_they_came() -> None:
    budgets = Budgets(SMALL)
    spend(budgets, Request.ADD_ORDER, Priority.CANCEL)
    waiting = [enter(budgets) for _ in range(9)]
    assert budgets.release(NOW + 11) == waiting
    assert budgets.waiting == 0
    assert budgets.next_at(NOW + 11) is None


def test_a_key_that_waits_holds_up_no_other_key_nor_its_own_other_limits() -> None:
    budgets = Budgets(SMALL)
    spend(budgets, Request.ADD_ORDER, Priority.CANCEL, key="a")
    assert not enter(budgets, key="a", priority=Priority.CANCEL).granted
    assert enter(budgets, key="b", priority=Priority.ENTRY).granted
    assert enter(budgets, key="a", priority=Priority.ENTRY, request=Request.ORDER_QUERY).granted
    assert enter(budgets, key="", priority=Priority.ENTRY, request=Request.CANCEL_ORDER).granted


def test_a_large_request_is_not_starved_by_small_ones_behind_it() -> None:
    budgets = Budgets(SMALL)
    spend(budgets, Request.CANCEL_ORDER, Priority.RECONCILE)
    large = enter(budgets, priority=Priority.RECONCILE, request=Request.TRADES)
    small = enter(budgets, key="b", priority=Priority.RECONCILE)
    assert not large.granted
    assert not small.granted
    released = budgets.release(NOW + 64)
    assert released == [large, small]


def test_who_gives_up_takes_nothing_and_lets_the_next_one_go() -> None:
    budgets = Budgets(SMALL)
    spend(budgets, Request.CANCEL_ORDER, Priority.EXIT)
    first = enter(budgets, priority=Priority.EXIT, request=Request.TRADES)
    second = enter(budgets, priority=Priority.CANCEL, key="b", request=Request.TRADES)
    third = enter(budgets, priority=Priority.ENTRY, key="b")
    budgets.leave(second)
    budgets.leave(second)
    budgets.leave(first)
    assert budgets.waiting == 1
    assert not third.granted
    assert budgets.release(NOW + 64) == [third]
    budgets.leave(third)
    assert budgets.waiting == 0


def test_too_many_who_wait_are_refused() -> None:
    budgets = Budgets(SMALL, max_waiters=2)
    spend(budgets, Request.ADD_ORDER, Priority.CANCEL)
    for _ in range(2):
        enter(budgets)
    with pytest.raises(VenueUnavailable, match="too many"):
        enter(budgets)
    assert enter(budgets, key="b").granted


def test_idle_keys_are_forgotten_and_busy_ones_are_not() -> None:
    budgets = Budgets(SMALL, max_keys=3)
    for key in "abc":
        enter(budgets, key=key)
    with pytest.raises(VenueUnavailable, match="too many keys"):
        enter(budgets, key="d")
    assert enter(budgets, key="d", now_secs=NOW + 11).granted
    assert budgets.keys == 3


def test_a_paused_key_is_silent_and_the_others_are_not() -> None:
    budgets = Budgets(SMALL)
    enter(budgets, key="a")
    budgets.pause("a", 7.0, NOW)
    with pytest.raises(VenueUnavailable) as refused:
        enter(budgets, key="a", priority=Priority.CANCEL, until_secs=NOW + 5)
    assert refused.value.retry_after_secs == pytest.approx(7.0)
    # Its requests that cost it nothing are silent too.
    assert not enter(budgets, key="a", request=Request.CANCEL_ORDER).granted
    assert enter(budgets, key="b").granted
    assert len(budgets.release(NOW + 7)) == 1


def test_a_paused_address_is_silent_for_every_key() -> None:
    budgets = Budgets(SMALL)
    budgets.pause("", 30.0, NOW)
    budgets.pause("", 3.0, NOW)
    for key in ("a", "b", ""):
        assert not enter(budgets, key=key, request=Request.CANCEL_ORDER).granted
    assert budgets.release(NOW + 29) == []
    assert len(budgets.release(NOW + 30)) == 3


def test_pauses_of_unknown_length_grow_until_the_venue_is_patient() -> None:
    budgets = Budgets(SMALL)
    enter(budgets)
    now, lengths = NOW, []
    for _ in range(6):
        budgets.pause("a", None, now)
        budgets.pause("a", None, now)
        budgets.passed("a", now)
        waiter = enter(budgets, request=Request.CANCEL_ORDER, now_secs=now)
        at = next(at for at in range(1, 1_000) if budgets.release(now + at) == [waiter])
        lengths.append(at)
        now += at
    assert lengths == [5, 10, 20, 40, 80, 80]
    budgets.passed("a", now)
    budgets.pause("a", None, now)
    assert not budgets.release(now + 4)
    assert enter(budgets, request=Request.CANCEL_ORDER, now_secs=now + 5).granted


def test_what_others_use_of_the_address_is_left_to_them() -> None:
    budgets = Budgets(SMALL)
    assert not budgets.note_used("a", {"x-used": "30"}, NOW)
    assert spend(budgets, Request.CANCEL_ORDER, Priority.CANCEL) == 20
    # What we used ourselves is in the venue's figure too.
    assert budgets.note_used("a", {"x-used": "50"}, NOW) == {Scope.ADDRESS}
    assert not enter(budgets, request=Request.CANCEL_ORDER, priority=Priority.CANCEL).granted
    assert len(budgets.release(NOW + 64)) == 1


def test_the_venues_count_of_a_keys_orders_is_believed() -> None:
    budgets = Budgets(SMALL)
    enter(budgets)
    assert budgets.note_used("a", {"x-orders": "10"}, NOW) == {Scope.KEY}
    assert not enter(budgets).granted
    assert enter(budgets, key="b").granted


@pytest.mark.parametrize("text", [None, "", "soon", "nan", "inf", "-1", "1e999"])
def test_a_header_that_is_no_amount_says_nothing(text: str | None) -> None:
    assert amount_of(text) is None


requests = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(list(Priority)),
    st.sampled_from(list(SMALL.costs)),
    st.floats(0, 8),
    st.floats(0, 30),
)


@given(st.lists(requests, max_size=120), st.integers(1, 3))
def test_no_window_and_no_counter_ever_holds_more_than_its_limit(
    plan: list[tuple[str, Priority, Request, float, float]], workers: int
) -> None:
    budgets = Budgets(SMALL, sharers=lambda: workers)
    now = NOW
    waiting: dict[Waiter, tuple[str, Request, float]] = {}
    granted: list[tuple[float, str, Request]] = []

    def collect() -> None:
        for waiter in budgets.release(now):
            key, request, _ = waiting.pop(waiter)
            granted.append((now, key, request))

    for key, priority, request, pause, patience in plan:
        now += pause
        collect()
        for waiter in [waiter for waiter, (*_, until) in waiting.items() if until < now]:
            budgets.leave(waiter)
            del waiting[waiter]
        try:
            waiter = enter(
                budgets,
                key=key,
                priority=priority,
                request=request,
                now_secs=now,
                until_secs=now + patience,
            )
        except VenueUnavailable:
            continue
        if waiter.granted:
            granted.append((now, key, request))
        else:
            waiting[waiter] = (key, request, now + patience)
        assert budgets.waiting == len(waiting)
    while waiting:
        next_secs = budgets.next_at(now)
        assert next_secs is not None
        now = max(next_secs, now + 0.01)
        assert now < NOW + 10_000, "somebody waits for ever"
        collect()

    _hold_in_windows(granted, "weight", 60, 40 / workers, None)
    for key in "abc":
        _hold_in_windows(granted, "orders", 10, 10, key)
        _hold_on_counter(granted, "calls", most=8, decay_per_sec=0.5, key=key)


def _costs(
    granted: list[tuple[float, str, Request]], name: str, key: str | None
) -> list[tuple[float, float]]:
    return [
        (at, SMALL.costs[request].get(name, 0.0))
        for at, whose, request in granted
        if key in (None, whose)
    ]


def _hold_in_windows(
    granted: list[tuple[float, str, Request]],
    name: str,
    window_secs: float,
    most: float,
    key: str | None,
) -> None:
    costs = _costs(granted, name, key)
    assert all(earlier[0] <= later[0] for earlier, later in pairwise(costs))
    for start, _ in costs:
        used = math.fsum(cost for at, cost in costs if start <= at < start + window_secs)
        assert used <= most + 1e-6


def _hold_on_counter(
    granted: list[tuple[float, str, Request]],
    name: str,
    *,
    most: float,
    decay_per_sec: float,
    key: str,
) -> None:
    level, before = 0.0, NOW
    for at, cost in _costs(granted, name, key):
        level = max(0.0, level - decay_per_sec * (at - before)) + cost
        before = at
        assert level <= most + 1e-6


@given(st.integers(0, 60), st.integers(1, 20))
def test_entries_never_starve_an_exit(entries: int, exits: int) -> None:
    """However many entries came before: the share that is left to exits is there for them."""
    budgets = Budgets(SMALL)
    for number in range(entries):
        enter(budgets, key=f"entry {number}", priority=Priority.ENTRY)
    left = math.floor(40 * (LEFT_TO_HIGHER[Priority.ENTRY] - LEFT_TO_HIGHER[Priority.EXIT]))
    went = [enter(budgets, key=f"exit {number}", priority=Priority.EXIT) for number in range(exits)]
    assert all(waiter.granted for waiter in went[:left])
