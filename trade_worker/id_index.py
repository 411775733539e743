"""From a 64-bit id to a slot, at 12 bytes per id where a dict takes a hundred."""

from collections.abc import Iterator

import numpy as np

from trade_worker.columns import Int32s, Int64s

_FEWEST_RECENT = 1024


class IdIndex:
    """A sorted array of ids with their slots, and a small dict of what changed since.

    Looking one up takes O(log n). Changes collect in the dict and are merged once they exceed
    a 64th of the whole, so that n additions cost O(n) in all and the dict stays small.
    """

    def __init__(self) -> None:
        self._ids: Int64s = np.zeros(0, np.int64)
        self._slots: Int32s = np.zeros(0, np.int32)
        self._recent: dict[int, int | None] = {}
        """id → slot, or None where the id was removed."""
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        """Every id, in ascending order."""
        self._merge()
        return iter(self._ids.tolist())

    def get(self, wanted: int) -> int | None:
        """The slot of an id, None where there is none."""
        if wanted in self._recent:
            return self._recent[wanted]
        at = int(self._ids.searchsorted(wanted))
        if at < len(self._ids) and self._ids[at] == wanted:
            return int(self._slots[at])
        return None

    def add(self, new: int, slot: int) -> None:
        """Note the slot of an id that is not in here."""
        self._recent[new] = slot
        self._length += 1
        self._merge_if_many()

    def remove(self, old: int) -> None:
        """Forget an id that is in here."""
        self._recent[old] = None
        self._length -= 1
        self._merge_if_many()

    def _merge_if_many(self) -> None:
        if len(self._recent) > max(_FEWEST_RECENT, len(self._ids) // 64):
            self._merge()

    def _merge(self) -> None:
        if not self._recent:
            return
        changed = np.fromiter(self._recent, np.int64, len(self._recent))
        at = self._ids.searchsorted(changed)
        at = at[self._ids.take(at, mode="clip") == changed] if self._ids.size else at[:0]
        ids, slots = np.delete(self._ids, at), np.delete(self._slots, at)
        added = sorted((key, slot) for key, slot in self._recent.items() if slot is not None)
        new_ids = np.array([key for key, _ in added], np.int64)
        new_slots = np.array([slot for _, slot in added], np.int32)
        at = ids.searchsorted(new_ids)
        self._ids, self._slots = np.insert(ids, at, new_ids), np.insert(slots, at, new_slots)
        self._recent = {}
