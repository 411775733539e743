"""One limit of a venue: what is left of it, and who stands in line for it.

Times are monotonic seconds and must not go backwards.
"""

import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from shared.request_limits import CounterLimit, WindowLimit


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

_SLOTS: Final = 20
_NEGLIGIBLE: Final = 0.01
_TINY: Final = 1e-9
"""What sums of floats may be off by."""


class Budget(ABC):
    """What is left of one limit, and the line of those whom it holds up.

    `share` is this worker's part of it. `look_at_secs` is when the first in the line may find
    room.
    """

    __slots__ = ("_gone", "_line", "look_at_secs", "share")

    def __init__(self) -> None:
        self.share = 1.0
        self.look_at_secs = math.inf
        self._line: list[Waiter] = []
        self._gone = 0

    @property
    @abstractmethod
    def size(self) -> float:
        """What there is of it when nothing is used."""

    @abstractmethod
    def left(self, now_secs: float) -> float:
        """What there is of it now; below 0 where others used more than theirs."""

    @abstractmethod
    def take(self, cost: float, now_secs: float) -> None:
        """Use some of it: of that which is left, or not."""

    @abstractmethod
    def _left_at(self, amount: float, now_secs: float) -> float:
        """When so much will be left, if nothing more is used."""

    def room_at(self, cost: float, priority: Priority, now_secs: float) -> float:
        """When there is room, if nothing more is used: `now_secs` if there is, inf if never.

        With 90 of 100 left an entry of cost 50 finds room, as 40 stay; with 89 it waits.
        """
        size = self.size
        if cost > size:
            return math.inf
        # What never leaves its share goes when all of it is there.
        needed = cost + min(LEFT_TO_HIGHER[priority] * size, size - cost)
        if self.left(now_secs) >= needed - _TINY:
            return now_secs
        return self._left_at(needed, now_secs)

    def forgettable(self, now_secs: float) -> bool:
        """Whether a new budget would say the same as this one, to a hundredth."""
        return not self._line and self.left(now_secs) >= self.size * (1 - _NEGLIGIBLE)

    @property
    def front(self) -> "Waiter | None":
        """Who is next."""
        while self._line and self._line[0].gone:
            heapq.heappop(self._line)
            self._gone -= 1
        return self._line[0] if self._line else None

    def push(self, waiter: "Waiter", now_secs: float) -> None:
        """Let it stand in line, in order."""
        heapq.heappush(self._line, waiter)
        if self._line[0] is waiter:
            self.plan(now_secs)

    def pop(self) -> None:
        """Take the first out of the line; `plan` after the last one."""
        heapq.heappop(self._line)

    def leave(self, waiter: "Waiter") -> None:
        """Forget one who stands in the line."""
        if self._line[0] is waiter:
            self.look_at_secs = -math.inf
        waiter.gone = True
        self._gone += 1
        if 2 * self._gone > len(self._line):
            self._line = [each for each in self._line if not each.gone]
            heapq.heapify(self._line)
            self._gone = 0

    def plan(self, now_secs: float) -> None:
        """Know when to look at the line next."""
        first = self.front
        if first is None:
            self.look_at_secs = math.inf
        else:
            cost = next(cost for budget, cost in first.needs if budget is self)
            self.look_at_secs = self.room_at(cost, first.order[0], now_secs)


@dataclass(slots=True, eq=False)
class Waiter:
    """One request: granted at once, or standing in the line of the budget that holds it up."""

    order: tuple[Priority, int]
    needs: tuple[tuple[Budget, float], ...]
    granted: bool = False
    gone: bool = False
    held_up_by: Budget | None = field(default=None, repr=False)

    def __lt__(self, other: "Waiter") -> bool:
        return self.order < other.order


class Window(Budget):
    """At most so much in any window. It is counted in slots, which makes it a twentieth longer."""

    __slots__ = ("_elsewhere", "_elsewhere_until_secs", "_limit", "_own", "_slots")

    def __init__(self, limit: WindowLimit) -> None:
        super().__init__()
        self._limit = limit
        self._slots: list[tuple[int, float]] = []
        """What was used, by number of the slot; the oldest first."""
        self._own = 0.0
        self._elsewhere = 0.0
        self._elsewhere_until_secs = -math.inf

    @property
    def size(self) -> float:
        return self._limit.most * (1 - self._limit.reserve) * self.share

    def left(self, now_secs: float) -> float:
        self._forget(now_secs)
        return self._room(self._elsewhere) - self._own

    def take(self, cost: float, now_secs: float) -> None:
        self._forget(now_secs)
        slot = math.floor(now_secs * _SLOTS / self._limit.window_secs)
        if self._slots and self._slots[-1][0] >= slot:
            slot, before = self._slots.pop()
            self._slots.append((slot, before + cost))
        else:
            self._slots.append((slot, cost))
        self._own += cost

    def note_used(self, used: float, now_secs: float) -> bool:
        """The venue says how much is used by all. Returns whether that is all there is."""
        self._forget(now_secs)
        self._elsewhere = max(0.0, min(used, self._limit.most) - self._own)
        self._elsewhere_until_secs = now_secs + self._limit.window_secs
        return used >= self._limit.most

    def _room(self, elsewhere: float) -> float:
        """Ours: our share, unless the others use more than theirs."""
        reserve = self._limit.most * self._limit.reserve
        return min(self.size, self._limit.most - max(elsewhere, reserve))

    def _left_at(self, amount: float, now_secs: float) -> float:
        own = self._own
        ends = [(self._end_of(slot), used) for slot, used in self._slots]
        ends.append((self._elsewhere_until_secs, 0.0))
        at_secs = now_secs
        for end_secs, used in sorted(ends):
            at_secs = max(end_secs, now_secs)
            own -= used
            elsewhere = self._elsewhere if at_secs < self._elsewhere_until_secs else 0.0
            if self._room(elsewhere) - own >= amount - _TINY:
                break
        return at_secs

    def _end_of(self, slot: int) -> float:
        """When what was used in it counts no longer."""
        return (slot + 1) * self._limit.window_secs / _SLOTS + self._limit.window_secs

    def _forget(self, now_secs: float) -> None:
        while self._slots and self._end_of(self._slots[0][0]) <= now_secs:
            self._own -= self._slots.pop(0)[1]
        if not self._slots:
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
        self._at_secs = 0.0

    @property
    def size(self) -> float:
        return self._limit.most * self.share

    def left(self, now_secs: float) -> float:
        return self.size - self._level_at(now_secs)

    def take(self, cost: float, now_secs: float) -> None:
        self._level = self._level_at(now_secs) + cost
        self._at_secs = now_secs

    def _left_at(self, amount: float, now_secs: float) -> float:
        missing = amount - self.left(now_secs)
        return now_secs + missing / (self._limit.decay_per_sec * self.share)

    def _level_at(self, now_secs: float) -> float:
        decayed = self._limit.decay_per_sec * self.share * (now_secs - self._at_secs)
        return max(0.0, self._level - decayed)


class Gate(Budget):
    """Open, or closed for a while because the venue said so. Passing it costs nothing."""

    __slots__ = ("_closed_until_secs", "_strikes")

    MAX_STRIKES: Final = 4

    def __init__(self) -> None:
        super().__init__()
        self._closed_until_secs = -math.inf
        self._strikes = 0

    @property
    def size(self) -> float:
        return 1.0

    def left(self, now_secs: float) -> float:
        return float(self._closed_until_secs <= now_secs)

    def take(self, cost: float, now_secs: float) -> None:
        pass

    def close(self, secs: float, now_secs: float) -> None:
        """For so long, or longer where it was closed for longer."""
        self._closed_until_secs = max(self._closed_until_secs, now_secs + secs)

    def strike(self, secs: float, now_secs: float) -> None:
        """Close it; each time that comes right after another for twice as long, 4 times."""
        if self._closed_until_secs <= now_secs:
            self.close(secs * 2**self._strikes, now_secs)
            self._strikes = min(self._strikes + 1, self.MAX_STRIKES)

    def passed(self, now_secs: float) -> None:
        """The venue took a request: it is patient again."""
        if self._closed_until_secs <= now_secs:
            self._strikes = 0

    def room_at(self, cost: float, priority: Priority, now_secs: float) -> float:  # noqa: ARG002
        return max(now_secs, self._closed_until_secs)

    def forgettable(self, now_secs: float) -> bool:
        return not self._strikes and super().forgettable(now_secs)

    def _left_at(self, amount: float, now_secs: float) -> float:  # noqa: ARG002
        return max(now_secs, self._closed_until_secs)
