"""What one worker may ask of one venue, and who waits for it: counted, never waited for here.

A waiter stands in the line of the one budget that holds it up, by priority, then by arrival.
Nobody takes from a budget past an earlier one in its line, and a budget that is spent holds up
only who needs it. Times are monotonic seconds and must not go backwards.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from shared.errors import VenueUnavailable
from shared.request_limits import Request, RequestLimits, Scope, WindowLimit
from trade_worker.request_budget import Budget, Counter, Gate, Priority, Waiter, Window

MAX_KEYS: Final = 50_000
MAX_WAITERS: Final = 5_000
LONGEST_PAUSE_SECS: Final = 3 * 86_400.0
"""Binance bans an address for three days at the most."""

LOOK_AGAIN_SECS: Final = 0.25
"""Who waits is looked at so often at least: others may have given up, or left us their share."""

_DROP_TRIES: Final = 16


@dataclass(slots=True)
class _Owner:
    """An address or a key."""

    gate: Gate
    budgets: Mapping[str, Budget]

    def forgettable(self, now_secs: float) -> bool:
        every = (self.gate, *self.budgets.values())
        return all(budget.forgettable(now_secs) for budget in every)


class Budgets:
    """Every budget of one worker at one venue: of its address, and of each of its keys.

    `sharers` is how many workers there are behind the address: each takes its part. The key ""
    is a request that needs no key.
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
        self._address = self._owner(Scope.ADDRESS)
        self._keys: OrderedDict[str, _Owner] = OrderedDict()
        self._lines: dict[Budget, None] = {}
        """The budgets that hold somebody up, in a stable order."""
        self._entered = 0
        self._workers = 1
        self.waiting = 0

    @property
    def keys(self) -> int:
        """How many keys are remembered."""
        return len(self._keys)

    def enter(
        self, key: str, priority: Priority, request: Request, *, now_secs: float, until_secs: float
    ) -> Waiter:
        """Take what one request costs, or stand in line for it. Look at `granted`: a waiter that
        is not comes out of `release`, unless it is let to `leave` before.

        Raises `VenueUnavailable`, taking nothing, if there cannot be room before `until_secs`,
        or too many wait.
        """
        self._follow_sharers()
        needs = self._needs(key, request, now_secs)
        ready_secs = max(budget.room_at(cost, priority, now_secs) for budget, cost in needs)
        if ready_secs == math.inf:
            raise VenueUnavailable("this worker's share of the request limit is too small")
        if ready_secs > until_secs:
            wait_secs = ready_secs - now_secs
            raise VenueUnavailable(
                f"the request limit leaves no room for {wait_secs:.1f} s",
                retry_after_secs=wait_secs,
            )
        self._entered += 1
        waiter = Waiter(order=(priority, self._entered), needs=needs)
        self._try(waiter, now_secs)
        if not waiter.granted:
            if self.waiting >= self._max_waiters:
                raise VenueUnavailable("too many requests wait for their turn")
            self.waiting += 1
            self._stand(waiter, now_secs)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Give up waiting; nothing was taken. Nothing happens if it does not wait."""
        if waiter.granted or waiter.gone or waiter.held_up_by is None:
            return
        self.waiting -= 1
        waiter.held_up_by.leave(waiter)
        if waiter.held_up_by.front is None:
            self._lines.pop(waiter.held_up_by, None)

    def release(self, now_secs: float) -> list[Waiter]:
        """Those who waited and may go now, in the order of their turns."""
        self._follow_sharers()
        granted: list[Waiter] = []
        # Keys first: who is held up by a key no longer still stands in the address's lines,
        # before those of a lower priority.
        shared = {self._address.gate, *self._address.budgets.values()}
        for budget in sorted(self._lines, key=lambda budget: budget in shared):
            if budget.look_at_secs <= now_secs:
                granted.extend(self._advance(budget, now_secs))
        self.waiting -= len(granted)
        return sorted(granted)

    def next_at(self, now_secs: float) -> float | None:
        """When to call `release` next; None: nobody waits."""
        if not self.waiting:
            return None
        earliest_secs = min(budget.look_at_secs for budget in self._lines)
        return min(earliest_secs, now_secs + LOOK_AGAIN_SECS)

    def note_used(self, key: str, headers: Mapping[str, str], now_secs: float) -> frozenset[Scope]:
        """Learn from a reply's headers (names in lower case). Returns whose limits are reached."""
        spent = set()
        for name, limit in self._limits.limits.items():
            if not isinstance(limit, WindowLimit):
                continue
            used = amount_of(headers.get(limit.header))
            owner = self._address if limit.scope is Scope.ADDRESS else self._keys.get(key)
            budget = owner and owner.budgets[name]
            if used is not None and isinstance(budget, Window) and budget.note_used(used, now_secs):
                spent.add(limit.scope)
        return frozenset(spent)

    def pause(self, key: str, secs: float | None, now_secs: float) -> None:
        """Ask nothing for so long with this key, or, where it is "", from this address.

        None: the venue did not say for how long. Longer, then, each time it happens again. A key
        that was never used, or is forgotten, is not paused.
        """
        owner = self._keys.get(key) if key else self._address
        if owner is None:
            return
        gate = owner.gate
        if secs is None:
            gate.strike(self._limits.pause_secs, now_secs)
        else:
            gate.close(min(secs, LONGEST_PAUSE_SECS), now_secs)

    def silent_secs(self, key: str, now_secs: float) -> float:
        """For how long nothing must be asked with this key; 0: it may be."""
        owner = self._keys.get(key)
        gates = [self._address.gate] if owner is None else [self._address.gate, owner.gate]
        return max(gate.room_at(0.0, Priority.CANCEL, now_secs) for gate in gates) - now_secs

    def passed(self, key: str, now_secs: float) -> None:
        """The venue took a request of this key."""
        self._address.gate.passed(now_secs)
        if key in self._keys:
            self._keys[key].gate.passed(now_secs)

    def _owner(self, scope: Scope) -> _Owner:
        budgets: dict[str, Budget] = {
            name: Window(limit) if isinstance(limit, WindowLimit) else Counter(limit)
            for name, limit in self._limits.limits.items()
            if limit.scope is scope
        }
        return _Owner(Gate(), budgets)

    def _follow_sharers(self) -> None:
        workers = max(1, self._sharers())
        if workers == self._workers:
            return
        self._workers = workers
        for budget in self._address.budgets.values():
            budget.share = 1 / workers
            budget.look_at_secs = -math.inf

    def _needs(
        self, key: str, request: Request, now_secs: float
    ) -> tuple[tuple[Budget, float], ...]:
        owners = (self._address, self._key(key, now_secs)) if key else (self._address,)
        costs = self._limits.costs[request]
        needs: list[tuple[Budget, float]] = []
        for owner in owners:
            needs.append((owner.gate, 0.0))
            needs.extend(
                (budget, costs[name]) for name, budget in owner.budgets.items() if name in costs
            )
        return tuple(needs)

    def _key(self, key: str, now_secs: float) -> _Owner:
        owner = self._keys.get(key)
        if owner is None:
            self._make_room(now_secs)
            owner = self._keys[key] = self._owner(Scope.KEY)
        else:
            self._keys.move_to_end(key)
        return owner

    def _make_room(self, now_secs: float) -> None:
        """Forget an idle key at the bound. Raises `VenueUnavailable` where none is idle: what is
        known of the others must not be lost."""
        if len(self._keys) < self._max_keys:
            return
        for _ in range(min(_DROP_TRIES, len(self._keys))):
            key, owner = next(iter(self._keys.items()))
            if owner.forgettable(now_secs):
                del self._keys[key]
                return
            self._keys.move_to_end(key)
        raise VenueUnavailable("too many keys are in use")

    def _try(self, waiter: Waiter, now_secs: float) -> None:
        """Grant it, or say in `held_up_by` which budget it is to stand in line for."""
        for budget, cost in waiter.needs:
            first = budget.front
            in_turn = first is None or first is waiter or waiter < first
            if not in_turn or budget.room_at(cost, waiter.order[0], now_secs) > now_secs:
                waiter.held_up_by = budget
                return
        for budget, cost in waiter.needs:
            budget.take(cost, now_secs)
        waiter.granted = True

    def _stand(self, waiter: Waiter, now_secs: float) -> None:
        if waiter.held_up_by is not None:
            waiter.held_up_by.push(waiter, now_secs)
            self._lines[waiter.held_up_by] = None

    def _advance(self, budget: Budget, now_secs: float) -> Iterator[Waiter]:
        """Let those go who may; those held up elsewhere now stand there."""
        while (waiter := budget.front) is not None:
            self._try(waiter, now_secs)
            if not waiter.granted and waiter.held_up_by is budget:
                break
            budget.pop()
            if waiter.granted:
                yield waiter
            else:
                self._stand(waiter, now_secs)
        budget.plan(now_secs)
        if budget.front is None:
            self._lines.pop(budget, None)


def amount_of(text: str | None) -> float | None:
    """A header's number; None for one that is none, or below 0."""
    try:
        amount = float(text or "")
    except ValueError:
        return None
    return amount if math.isfinite(amount) and amount >= 0 else None
