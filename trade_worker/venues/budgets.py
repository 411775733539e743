"""What one worker may ask of one venue, and who waits for it: counted, never waited for here.

A waiter stands in the queue of the one budget that holds it up, by priority, then by arrival.
Nobody takes from a budget past an earlier one in its queue, and a budget that is spent holds up
only who needs it. Times are monotonic seconds and must not go backwards.
"""

import heapq
import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from shared.errors import VenueUnavailable
from shared.request_limits import CounterLimit, Request, RequestLimits, Scope, WindowLimit

MAX_KEYS: Final = 50_000
MAX_WAITERS: Final = 5_000
LONGEST_PAUSE_SECS: Final = 3 * 86_400.0
"""Binance bans an address for three days at the most."""

_LOOK_AGAIN_SECS: Final = 1.0
"""Who waits is looked at so often at least: other workers may leave their share to us."""

_SLOTS: Final = 20
_DROP_TRIES: Final = 16
_NEGLIGIBLE: Final = 0.01


class Priority(IntEnum):
    """Who goes first. The lower ones also leave a share of every budget to the higher."""

    CANCEL = 0
    EXIT = 1
    RECONCILE = 2
    ENTRY = 3


LEFT_TO_HIGHER: Final[Mapping[Priority, float]] = {
    Priority.CANCEL: 0.0,
    Priority.EXIT: 0.1,
    Priority.RECONCILE: 0.25,
    Priority.ENTRY: 0.4,
}
"""The fraction of a budget that stays for those of a higher priority."""


class Budget(ABC):
    """What is left of one limit, and the queue of those that it holds up."""

    __slots__ = ("closed_until_secs", "gone", "look_at_secs", "queue", "share")

    def __init__(self) -> None:
        self.share = 1.0
        self.closed_until_secs = -math.inf
        self.queue: list[Waiter] = []
        self.gone = 0
        self.look_at_secs = math.inf

    @property
    @abstractmethod
    def size(self) -> float:
        """What there is of it when nothing is used."""

    @abstractmethod
    def take(self, cost: float, now_secs: float) -> None:
        """Use some of it: of that which is left, or not."""

    @abstractmethod
    def note_used(self, used: float, now_secs: float) -> None:
        """The venue says how much is used by all."""

    @abstractmethod
    def drain(self, now_secs: float) -> None:
        """The venue says that it is spent."""

    @abstractmethod
    def _left(self, now_secs: float) -> float: ...

    @abstractmethod
    def _left_at(self, amount: float, now_secs: float) -> float: ...

    def room_at(self, cost: float, priority: Priority, now_secs: float) -> float:
        """When there is room, if nothing more is used: `now_secs` if there is, inf if never."""
        size = self.size
        if cost > size:
            return math.inf
        # What costs more than its share of the whole goes when all of it is left.
        needed = cost + min(LEFT_TO_HIGHER[priority] * size, size - cost)
        at_secs = now_secs
        if self._left(now_secs) < needed - 1e-9:
            at_secs = self._left_at(needed, now_secs)
        return max(at_secs, self.closed_until_secs)

    def forgettable(self, now_secs: float) -> bool:
        """Whether a new budget would say the same as this one, all but a hundredth."""
        return (
            not self.queue
            and self.closed_until_secs <= now_secs
            and self._left(now_secs) >= self.size * (1 - _NEGLIGIBLE)
        )


class Window(Budget):
    """At most so much in any window. It is counted in slots, which makes it a twentieth longer."""

    __slots__ = ("_elsewhere", "_elsewhere_until_secs", "_limit", "_own", "_slot_secs", "_used")

    def __init__(self, limit: WindowLimit) -> None:
        super().__init__()
        self._limit = limit
        self._slot_secs = limit.window_secs / _SLOTS
        self._used: list[tuple[int, float]] = []
        """By slot, the oldest first."""
        self._own = 0.0
        self._elsewhere = 0.0
        self._elsewhere_until_secs = -math.inf

    @property
    def size(self) -> float:
        return self._limit.most * (1 - self._limit.reserve) * self.share

    def take(self, cost: float, now_secs: float) -> None:
        self._forget(now_secs)
        slot = math.floor(now_secs / self._slot_secs)
        if self._used and self._used[-1][0] >= slot:
            slot, before = self._used.pop()
            self._used.append((slot, before + cost))
        else:
            self._used.append((slot, cost))
        self._own += cost

    def note_used(self, used: float, now_secs: float) -> None:
        self._forget(now_secs)
        self._elsewhere = max(0.0, min(used, self._limit.most) - self._own)
        self._elsewhere_until_secs = now_secs + self._limit.window_secs

    def drain(self, now_secs: float) -> None:
        self.note_used(self._limit.most, now_secs)

    def _left(self, now_secs: float) -> float:
        self._forget(now_secs)
        elsewhere = max(self._elsewhere, self._limit.most * self._limit.reserve)
        return min(self.size - self._own, self._limit.most - elsewhere - self._own)

    def _left_at(self, amount: float, now_secs: float) -> float:
        own, elsewhere = self._own, self._elsewhere
        reserve = self._limit.most * self._limit.reserve
        ends = [(self._ends_at(slot), used) for slot, used in self._used]
        ends.append((self._elsewhere_until_secs, 0.0))
        for at_secs, used in sorted(ends):
            own -= used
            if at_secs >= self._elsewhere_until_secs:
                elsewhere = 0.0
            others = max(elsewhere, reserve)
            if min(self.size, self._limit.most - others) - own >= amount - 1e-9:
                return max(at_secs, now_secs)
        return max((at_secs for at_secs, _ in ends), default=now_secs)

    def _ends_at(self, slot: int) -> float:
        return (slot + 1) * self._slot_secs + self._limit.window_secs

    def _forget(self, now_secs: float) -> None:
        while self._used and self._ends_at(self._used[0][0]) <= now_secs:
            self._own -= self._used.pop(0)[1]
        if not self._used:
            self._own = 0.0
        if self._elsewhere_until_secs <= now_secs:
            self._elsewhere = 0.0


class Counter(Budget):
    """A counter that falls with time: what is left is how far it may still rise."""

    __slots__ = ("_at_secs", "_level", "_limit")

    def __init__(self, limit: CounterLimit) -> None:
        super().__init__()
        self._limit = limit
        self._level = 0.0
        self._at_secs = -math.inf

    @property
    def size(self) -> float:
        return self._limit.most * (1 - self._limit.reserve) * self.share

    def take(self, cost: float, now_secs: float) -> None:
        self._level = self._level_at(now_secs) + cost
        self._at_secs = now_secs

    def note_used(self, used: float, now_secs: float) -> None:
        self._level = max(self._level_at(now_secs), used)
        self._at_secs = now_secs

    def drain(self, now_secs: float) -> None:
        self.note_used(self.size, now_secs)

    def _left(self, now_secs: float) -> float:
        return self.size - self._level_at(now_secs)

    def _left_at(self, amount: float, now_secs: float) -> float:
        missing = amount - self._left(now_secs)
        return now_secs + missing / (self._limit.decay_per_sec * self.share)

    def _level_at(self, now_secs: float) -> float:
        if not self._level:
            return 0.0
        decay = self._limit.decay_per_sec * self.share
        return max(0.0, self._level - decay * (now_secs - self._at_secs))


@dataclass(slots=True, eq=False)
class Waiter:
    """One request: granted at once, or standing in the queue of the budget that holds it up."""

    order: tuple[Priority, int]
    needs: tuple[tuple[Budget, float], ...]
    until_secs: float
    granted: bool = False
    gone: bool = False
    standing_at: Budget | None = field(default=None, repr=False)

    def __lt__(self, other: "Waiter") -> bool:
        return self.order < other.order


class Budgets:
    """Every budget of one worker at one venue: of its address, and of each of its keys.

    `sharers` is how many workers there are behind the address: each takes its part.
    """

    def __init__(
        self,
        limits: RequestLimits,
        *,
        sharers: Callable[[], int] = lambda: 1,
        max_keys: int = MAX_KEYS,
        max_waiters: int = MAX_WAITERS,
    ) -> None:
        self._limits = limits
        self._sharers = sharers
        self._max_keys = max_keys
        self._max_waiters = max_waiters
        self._address = self._build(Scope.ADDRESS)
        self._keys: OrderedDict[str, dict[str, Budget]] = OrderedDict()
        self._queued: dict[Budget, None] = {}
        self._numbered = 0
        self._workers = 1
        self.waiting = 0

    @property
    def keys(self) -> int:
        """How many keys are remembered."""
        return len(self._keys)

    def enter(
        self, key: str, priority: Priority, request: str, *, now_secs: float, until_secs: float
    ) -> Waiter:
        """Take what one request costs, or queue for it. Look at `granted`; a waiter that is not
        comes out of `release`, or is to `leave`.

        Raises `VenueUnavailable`, taking nothing, if there cannot be room before `until_secs`,
        or too many wait.
        """
        self._follow_sharers()
        needs = self._needs(key, Request(request), now_secs)
        self._numbered += 1
        waiter = Waiter(order=(priority, self._numbered), needs=needs, until_secs=until_secs)
        ready_secs = max(budget.room_at(cost, priority, now_secs) for budget, cost in needs)
        if ready_secs > until_secs:
            raise no_room(ready_secs - now_secs)
        self._try(waiter, now_secs)
        if not waiter.granted:
            if self.waiting >= self._max_waiters:
                raise no_room(None)
            self._stand(waiter, now_secs)
            self.waiting += 1
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Give up waiting; nothing was taken. Of one that is granted already, nothing happens."""
        budget = waiter.standing_at
        if waiter.granted or waiter.gone or budget is None:
            return
        waiter.gone = True
        self.waiting -= 1
        budget.gone += 1
        if 2 * budget.gone > len(budget.queue):
            budget.queue = [each for each in budget.queue if not each.gone]
            heapq.heapify(budget.queue)
            budget.gone = 0
            if not budget.queue:
                self._queued.pop(budget, None)

    def release(self, now_secs: float) -> list[Waiter]:
        """Those who wait and may go now, in the order of their turns."""
        self._follow_sharers()
        granted: list[Waiter] = []
        # Keys first: who is held up by a key no longer still queues at the address, in order.
        at_address = set(self._address.values())
        for budget in sorted(self._queued, key=lambda budget: budget in at_address):
            if budget.look_at_secs <= now_secs:
                granted.extend(self._advance(budget, now_secs))
        self.waiting -= len(granted)
        return sorted(granted)

    def next_at(self, now_secs: float) -> float | None:
        """When to call `release` next; None: nobody waits."""
        if not self.waiting:
            return None
        earliest = min(budget.look_at_secs for budget in self._queued)
        return min(earliest, now_secs + _LOOK_AGAIN_SECS)

    def note_used(self, key: str, headers: Mapping[str, str], now_secs: float) -> None:
        """Learn from the headers of a reply (names in lower case)."""
        for name, limit in self._limits.limits.items():
            told = headers.get(limit.header) if isinstance(limit, WindowLimit) else None
            used = amount_of(told)
            if used is None:
                continue
            budgets = self._address if limit.scope is Scope.ADDRESS else self._keys.get(key, {})
            if name in budgets:
                budgets[name].note_used(used, now_secs)

    def pause(self, key: str | None, secs: float, now_secs: float) -> None:
        """Ask nothing for so long: with this key, or, None, from this address."""
        budgets = self._address if key is None else self._of(key, now_secs)
        until_secs = now_secs + min(secs, LONGEST_PAUSE_SECS)
        for budget in budgets.values():
            budget.closed_until_secs = max(budget.closed_until_secs, until_secs)

    def drain(self, key: str, now_secs: float) -> None:
        """The venue says that a key has spent what it has: which of it, it does not say."""
        for budget in self._of(key, now_secs).values():
            budget.drain(now_secs)

    def _build(self, scope: Scope) -> dict[str, Budget]:
        return {
            name: Window(limit) if isinstance(limit, WindowLimit) else Counter(limit)
            for name, limit in self._limits.limits.items()
            if limit.scope is scope
        }

    def _follow_sharers(self) -> None:
        workers = max(1, self._sharers())
        if workers == self._workers:
            return
        self._workers = workers
        for budget in self._address.values():
            budget.share = 1 / workers
            budget.look_at_secs = -math.inf

    def _needs(
        self, key: str, request: Request, now_secs: float
    ) -> tuple[tuple[Budget, float], ...]:
        costs = self._limits.costs[request]
        of_key = self._of(key, now_secs) if costs.keys() - self._address.keys() else {}
        # A pause closes the address, or the key, for what costs nothing there too.
        return tuple(
            (budget, costs.get(name, 0.0))
            for name, budget in (*self._address.items(), *of_key.items())
            if name in costs
        )

    def _of(self, key: str, now_secs: float) -> dict[str, Budget]:
        budgets = self._keys.get(key)
        if budgets is None:
            self._make_room(now_secs)
            budgets = self._keys[key] = self._build(Scope.KEY)
        else:
            self._keys.move_to_end(key)
        return budgets

    def _make_room(self, now_secs: float) -> None:
        """Forget idle keys at the bound. Raises `VenueUnavailable` where none is idle: what is
        known of the others must not be lost."""
        tries = 0
        while len(self._keys) >= self._max_keys:
            key, budgets = next(iter(self._keys.items()))
            if all(budget.forgettable(now_secs) for budget in budgets.values()):
                del self._keys[key]
                continue
            self._keys.move_to_end(key)
            tries += 1
            if tries >= min(_DROP_TRIES, len(self._keys)):
                raise no_room(None)

    def _try(self, waiter: Waiter, now_secs: float) -> None:
        """Grant it, or say in `standing_at` which budget holds it up."""
        for budget, cost in waiter.needs:
            ahead = _front(budget)
            if (ahead is not None and ahead is not waiter and ahead < waiter) or (
                budget.room_at(cost, waiter.order[0], now_secs) > now_secs
            ):
                waiter.standing_at = budget
                return
        for budget, cost in waiter.needs:
            budget.take(cost, now_secs)
        waiter.granted = True

    def _stand(self, waiter: Waiter, now_secs: float) -> None:
        budget = waiter.standing_at
        if budget is None:
            return
        heapq.heappush(budget.queue, waiter)
        self._queued[budget] = None
        self._plan(budget, now_secs)

    def _advance(self, budget: Budget, now_secs: float) -> Iterator[Waiter]:
        while (waiter := _front(budget)) is not None:
            self._try(waiter, now_secs)
            if not waiter.granted and waiter.standing_at is budget:
                break
            heapq.heappop(budget.queue)
            if waiter.granted:
                yield waiter
            else:
                self._stand(waiter, now_secs)
        self._plan(budget, now_secs)

    def _plan(self, budget: Budget, now_secs: float) -> None:
        waiter = _front(budget)
        if waiter is None:
            self._queued.pop(budget, None)
            return
        cost = next(cost for each, cost in waiter.needs if each is budget)
        budget.look_at_secs = budget.room_at(cost, waiter.order[0], now_secs)


def _front(budget: Budget) -> Waiter | None:
    """The first in the queue who still waits."""
    while budget.queue and budget.queue[0].gone:
        heapq.heappop(budget.queue)
        budget.gone -= 1
    return budget.queue[0] if budget.queue else None


def no_room(secs: float | None) -> VenueUnavailable:
    """What a request that may not be sent raises. `secs` is when there may be room."""
    if secs is None or not math.isfinite(secs):
        return VenueUnavailable("too many requests are waiting for this venue")
    return VenueUnavailable(
        f"the venue's request limit leaves no room for {max(secs, 0.0):.1f} s",
        retry_after_secs=max(secs, 0.0),
    )


def amount_of(text: str | None) -> float | None:
    """A header's number; None for one that is none, or below 0."""
    try:
        amount = float(text or "")
    except ValueError:
        return None
    return amount if math.isfinite(amount) and amount >= 0 else None
