"""How the results are shown: a table on a terminal, lines elsewhere."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.live import Live
from rich.table import Table

from ecosystem.pnl_consumer.ledger import UserResult


class Show(Protocol):
    """Takes every user's results whenever some have changed."""

    def __call__(self, results: Sequence[UserResult], /) -> None: ...


@contextmanager
def screen() -> Iterator[Show]:
    """For as long as it is open it shows what it is given."""
    if not sys.stdout.isatty():
        yield Lines()
        return
    with Live(table(()), auto_refresh=False) as live:
        yield lambda results: live.update(table(results), refresh=True)


class Lines:
    """A line for every result that is not as it was shown last."""

    def __init__(self) -> None:
        self._shown: frozenset[UserResult] = frozenset()

    def __call__(self, results: Sequence[UserResult], /) -> None:
        for result in results:
            if result not in self._shown:
                sys.stdout.write(
                    f"user {result.user_id}: {result.realised:+,.2f} {result.currency} from "
                    f"{result.closed} closed positions, {result.won} of them won\n"
                )
        sys.stdout.flush()
        self._shown = frozenset(results)


def table(results: Sequence[UserResult]) -> Table:
    """Everybody's results, a row per user and currency."""
    drawn = Table(title="Profit and loss, after fees", caption=None if results else "No trades yet")
    for heading in ("User", "Closed", "Won", "Result"):
        drawn.add_column(heading, justify="right")
    for result in results:
        drawn.add_row(
            str(result.user_id),
            str(result.closed),
            str(result.won),
            f"{result.realised:+,.2f} {result.currency}",
        )
    return drawn
