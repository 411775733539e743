"""Growing NumPy columns: the memory of the decision core, and the types it is made of."""

from typing import Any, Final, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]
Int32s = NDArray[np.int32]
Uint16s = NDArray[np.uint16]
Uint8s = NDArray[np.uint8]
Slots = NDArray[np.intp]

Select = slice | Slots
"""Which rows: a slice gives views of the columns, an array of row numbers gives copies."""

_FIRST_CAPACITY: Final = 64


class Columns:
    """Parallel columns, grown by doubling; a slot never moves while it is in use.

    A subclass annotates its columns in its body (`capital: Float64s`). `size` is one past the
    highest slot ever used, so `column[:size]` is all there is; freed slots within it are reused
    first.
    """

    def __init__(self) -> None:
        self.size = 0
        self._free: list[int] = []
        self._dtypes = _dtypes_of(type(self))
        self._capacity = 0
        self._grow(_FIRST_CAPACITY)

    @property
    def free_slots(self) -> int:
        """How many slots below `size` are not in use."""
        return len(self._free)

    def take_slot(self) -> int:
        """A slot of its own; whatever a former user left in the columns is still there."""
        if self._free:
            return self._free.pop()
        if self.size == self._capacity:
            self._grow(2 * self._capacity)
        self.size += 1
        return self.size - 1

    def give_back(self, slot: int) -> None:
        """The slot may be reused from now on."""
        self._free.append(slot)

    def _grow(self, capacity: int) -> None:
        # One block for all columns: the system takes a large block back whole, while many
        # smaller ones leave holes. Its zeros cost no memory until a row touches them.
        width = sum(dtype.itemsize for dtype in self._dtypes.values())
        block = np.zeros(width * capacity, np.uint8)
        start = 0
        for name, dtype in self._dtypes.items():
            end = start + dtype.itemsize * capacity
            column = block[start:end].view(dtype)
            if self._capacity:
                column[: self._capacity] = getattr(self, name)
            setattr(self, name, column)
            start = end
        self._capacity = capacity


def run_of(rows: Slots) -> Select:
    """The same ascending rows, as a slice where they leave none out: far faster to select.

    >>> run_of(np.array([4, 5, 6])), run_of(np.array([4, 6]))
    (slice(4, 7, None), array([4, 6]))
    """
    if rows.size and rows[-1] - rows[0] + 1 == rows.size:
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def _dtypes_of(cls: type[Columns]) -> dict[str, np.dtype[Any]]:
    dtypes = {}
    for name, hint in get_type_hints(cls).items():
        if get_origin(hint) is np.ndarray:
            _shape, dtype = get_args(hint)
            dtypes[name] = np.dtype(*get_args(dtype))
    # The widest first, so that each column starts at a multiple of its item size.
    return dict(sorted(dtypes.items(), key=lambda item: -item[1].itemsize))
