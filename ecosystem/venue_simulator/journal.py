"""The venue's truth on disk: append-only JSON lines, there before anybody is answered.

Every line has `type`, `wall_ms` (this machine's clock), `venue` (None of `opened`) and the
fields of its type. Amounts are text; times on the venue's own clock are called `…_at_ms`.

- `opened`: a simulator began to write here. `version`, `market`.
- `account`: a customer came, with an opening balance. `account`, `taker_fee`, `fee_in_coin`,
  `fee_asset`, `balances` {currency: {free, held}}.
- `key`: an API key. `account`, `key`, `permissions`. Its secret is not here but in the file of
  the same name with `.keys` added, which only its owner can read.
- `revoked`: the key is refused from now on. `key`.
- `request`: a private request. `key` (None where there was none), `endpoint` (see
  `faults.PRIVATE_ENDPOINTS`), `params` (no secret, no signature), `faults` (kinds that hit it).
- `accepted`: an order is at the venue. `account`, `key`, `order_id`, `client_order_id`,
  `userref`, `pair`, `side`, `order_type`, `time_in_force`, `quantity`, `price`,
  `accepted_at_ms`, `expires_at_ms`. `wall_ms` is the wall clock at acceptance.
- `refused`: an order or a cancel was refused by the engine. `account`, `key`, `action` (`place`
  or `cancel`), `kind` (`orders.RefusalKind`), `detail`, `client_order_id`, `order_id`, `pair`.
- `filled`: `account`, `trade_id`, `order_id`, `client_order_id`, `pair`, `side`, `quantity`,
  `price`, `fee`, `fee_currency`, `is_maker`, `traded_at_ms`.
- `ended`: an order ended with something unfilled. `account`, `order_id`, `client_order_id`,
  `status` (`cancelled` or `expired`), `by` (`client` or `venue`), `ended_at_ms`.

An order whose fills add up to its quantity is filled: no line says so.
"""

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from shared.clock import wall_ms
from shared.errors import Halt

VERSION: Final = 1

_LINE_BEGINS: Final = b'{"type": '

Entry = dict[str, Any]
"""One line."""


class JournalBroken(Halt):
    """The journal cannot be written or read: nothing may be answered any more."""


class Journal:
    """The writing end. Lines are in the order of `write`; with no path it writes nothing.

    `write` never waits. Who answers a request awaits `on_disk` first: whatever was written
    until then, by whomever, has been fsynced when it returns. Waiters share fsyncs.
    """

    def __init__(self, path: Path | None, *, clock: Callable[[], int] = wall_ms) -> None:
        self._path = path
        self._clock = clock
        self._pending: list[bytes] = []
        self._written = 0
        self._durable = 0
        self._flushing: asyncio.Task[None] | None = None
        self._file: int | None = None

    def open(self) -> list[Entry]:
        """Read what is there and make ready to append; a last line that was cut off by a crash
        is dropped: nobody was told of it. Raises `JournalBroken`."""
        if self._path is None:
            return []
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch()
            content = self._path.read_bytes()
            whole = content.rfind(b"\n") + 1
            torn = content[whole:]
            if not (torn.startswith(_LINE_BEGINS) or _LINE_BEGINS.startswith(torn)):
                raise JournalBroken(f"{self._path} is not a journal: name another file")
            entries = list(read_journal(self._path))
            os.truncate(self._path, whole)
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        except OSError as exc:
            raise JournalBroken(f"the journal {self._path} cannot be opened: {exc}") from exc
        return entries

    def write(self, type_: str, *, venue: str | None, **fields: object) -> None:
        """Add a line. It is on disk once `on_disk` returns."""
        if self._path is None:
            return
        entry = {"type": type_, "wall_ms": self._clock(), "venue": venue, **fields}
        self._pending.append(json.dumps(entry, default=str).encode() + b"\n")
        self._written += 1

    async def on_disk(self) -> None:
        """Wait for everything that was written so far. Raises `JournalBroken`, for good."""
        target = self._written
        while self._durable < target:
            if self._flushing is None or (
                self._flushing.done() and self._flushing.exception() is None
            ):
                self._flushing = asyncio.create_task(self._flush(), name="venue-journal")
            # A waiter that is cancelled must not take the others' flush with it.
            await asyncio.shield(self._flushing)

    async def close(self) -> None:
        """Write what is left and close the file."""
        if self._file is None:
            return
        try:
            await self.on_disk()
        finally:
            os.close(self._file)
            self._file = None

    async def _flush(self) -> None:
        lines, self._pending = self._pending, []
        target = self._written
        try:
            await asyncio.to_thread(self._append, b"".join(lines))
        except OSError as exc:
            raise JournalBroken(f"the journal {self._path} cannot be written: {exc}") from exc
        self._durable = target

    def _append(self, lines: bytes) -> None:
        file = self._file
        if file is None:
            raise OSError("it is not open")
        while lines:
            lines = lines[os.write(file, lines) :]
        os.fsync(file)


def read_journal(path: Path) -> Iterator[Entry]:
    """Every whole line of a journal, first to last, also while it is being written.

    Raises `JournalBroken` for a line that is not a JSON object with a type, other than a last
    one without its end.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n"):
                    yield _entry(path, number, line)
    except OSError as exc:
        raise JournalBroken(f"the journal {path} cannot be read: {exc}") from exc


def _entry(path: Path, number: int, line: bytes) -> Entry:
    try:
        entry: Any = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
        raise JournalBroken(f"line {number} of the journal {path} is not a journal's line")
    return entry


_SECRET_PARAMS: Final = frozenset({"signature", "secret", "otp", "password"})


def redacted(params: Mapping[str, str]) -> dict[str, str]:
    """A request's parameters without what signs it."""
    return {name: value for name, value in params.items() if name.lower() not in _SECRET_PARAMS}
