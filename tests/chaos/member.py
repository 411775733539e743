"""`python -m tests.chaos.member --failpoint NAME=ACTION worker 1`: a process with failpoints.

The only way to set one. Everything after the options is what `botfleet` is called with.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shared import failpoints
from shared.failpoints import WHERE, Point

STREAM_POINTS: Final = tuple(p for p in Point if WHERE[p].startswith("price_stream/"))
FAILPOINTS: Final = tuple(p for p in Point if p not in STREAM_POINTS)
"""Those that a worker crosses."""

EXIT_CODE: Final = 86
"""Of a process that ended at a failpoint: no other way to end has it."""
SAID: Final = "failpoint reached: "
"""How the line begins that a process writes when it reaches one; its text follows."""


class Failure(Exception):
    """What `raise` raises: something that nobody has thought of."""


class Action(StrEnum):
    EXIT = "exit"
    """Dead in that moment: nothing is flushed, closed or given back."""
    RAISE = "raise"
    PAUSE = "pause"
    """The whole process stands still, as when its machine does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failpoint:
    """What happens at a point, when it is hit for the `hit`-th time. `secs` is how long a pause
    lasts."""

    point: Point
    action: Action
    secs: float = 0.0
    hit: int = 1

    @classmethod
    def parse(cls, text: str) -> "Failpoint":
        """`NAME=exit`, `NAME=raise` or `NAME=pause:SECS`, each with `@HIT` or without.

        >>> Failpoint.parse("after_send=pause:2.5@3").secs
        2.5
        """
        name, _, rest = text.partition("=")
        what, _, hit = rest.partition("@")
        action, _, secs = what.partition(":")
        return cls(
            point=Point(name), action=Action(action), secs=float(secs or 0), hit=int(hit or 1)
        )

    def __str__(self) -> str:
        how = f"{self.action}:{self.secs:g}" if self.action is Action.PAUSE else str(self.action)
        return f"{self.point}={how}" + (f"@{self.hit}" if self.hit > 1 else "")

    def act(self) -> None:
        os.write(sys.stderr.fileno(), f"{SAID}{self}\n".encode())
        match self.action:
            case Action.EXIT:
                os._exit(EXIT_CODE)
            case Action.RAISE:
                raise Failure(str(self))
            case Action.PAUSE:
                time.sleep(self.secs)


class Armed:
    """Failpoints that are armed one after the other: each once the one before it was reached,
    and `rest_secs` have passed."""

    def __init__(self, waiting: Sequence[Failpoint], *, rest_secs: float = 0.0) -> None:
        self._waiting = list(waiting)
        self._rest_secs = rest_secs
        self._hits = 0
        self._not_before = 0.0

    def hit(self, point: Point) -> None:
        """What takes the place of `failpoints.hit`."""
        if not self._waiting or point is not self._waiting[0].point:
            return
        if time.monotonic() < self._not_before:
            return
        self._hits += 1
        if self._hits < self._waiting[0].hit:
            return
        reached, self._hits = self._waiting.pop(0), 0
        try:
            reached.act()
        finally:
            self._not_before = time.monotonic() + self._rest_secs


def main(arguments: Sequence[str]) -> None:
    """Set the failpoints and be `botfleet`. Does not return."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.member")
    parser.add_argument("--failpoint", action="append", default=[], type=Failpoint.parse)
    parser.add_argument("--rest-secs", default=0.0, type=float)
    parser.add_argument("--not-found-secs", type=float, help="For every venue; else as it is.")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    from console.__main__ import botfleet

    if options.not_found_secs is not None:
        from trade_worker import asking

        for venue in asking.NOT_FOUND_SECS:
            asking.NOT_FOUND_SECS[venue] = options.not_found_secs
    failpoints.hit = Armed(options.failpoint, rest_secs=options.rest_secs).hit
    botfleet(options.command, prog_name="botfleet")


if __name__ == "__main__":
    main(sys.argv[1:])
