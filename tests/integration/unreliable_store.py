"""A store that fails when and how a test says, in front of a real one."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from enum import Enum, auto

from shared.errors import CommitUnknown, StoreUnavailable
from shared.store.database_url import Dialect
from shared.store.engine import Store, Transaction


class Trouble(Enum):
    """What becomes of a writing transaction."""

    AWAY = auto()
    """It never begins."""
    COMMIT_LOST = auto()
    """The connection breaks before COMMIT arrives."""
    COMMIT_MADE = auto()
    """The connection breaks before COMMIT is answered."""
    MISTAKE_AFTER = auto()
    """Something that nobody has thought of goes wrong once it is committed."""


class UnreliableStore(Store):
    """Passes on to `real` what its troubles let through.

    `troubles` meet the next writing transactions, one each; the next `reads_refused` reading
    ones find the database away. While `open_to_readers` or `open_to_writers` is clear, such
    transactions wait: writers before they begin, readers once they have read.
    """

    def __init__(self, real: Store) -> None:
        self._real = real
        self.troubles: deque[Trouble] = deque()
        self.reads_refused = 0
        self.written = 0
        self.open_to_writers = asyncio.Event()
        self.open_to_writers.set()
        self.open_to_readers = asyncio.Event()
        self.open_to_readers.set()
        self.readers_wait = asyncio.Event()

    @property
    def dialect(self) -> Dialect:
        return self._real.dialect

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        await self.open_to_writers.wait()
        trouble = self.troubles.popleft() if self.troubles else None
        if trouble is Trouble.AWAY:
            raise StoreUnavailable("the database is away, says the test")
        self.written += 1
        with contextlib.suppress(_NeverCommitted):
            async with self._real.begin() as tx:
                yield tx
                if trouble is Trouble.COMMIT_LOST:
                    raise _NeverCommitted
        if trouble is Trouble.MISTAKE_AFTER:
            raise ZeroDivisionError("a mistake, says the test")
        if trouble is not None:
            raise CommitUnknown("the connection broke inside COMMIT, says the test")

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        if self.reads_refused:
            self.reads_refused -= 1
            raise StoreUnavailable("the database is away, says the test")
        async with self._real.read() as tx:
            yield tx
        if not self.open_to_readers.is_set():
            self.readers_wait.set()
            await self.open_to_readers.wait()


class _NeverCommitted(Exception):
    pass
