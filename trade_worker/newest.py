"""Which of the ticks that are here a worker still has to look at: the newest of each market."""

from collections.abc import Iterable

from shared.messages import Tick


class NewestTicks:
    """Remembers the last tick of every market and lets only newer ones through.

    A worker that lags looks at the newest tick of a market and skips the others. The epoch is
    compared across markets: once any tick of a new price stream arrived, the old stream's
    ticks are dropped everywhere.
    """

    def __init__(self) -> None:
        self.skipped = 0
        """Ticks that a newer one of the same market overtook before they were looked at."""
        self.outdated = 0
        """Ticks not newer than one already seen, or of a deposed price stream."""
        self._epoch = 0
        self._sequences: dict[tuple[str, str], int] = {}

    def of(self, ticks: Iterable[Tick]) -> list[Tick]:
        """The newest tick of each market among `ticks` that is newer than all seen before.

        In the order in which each market's newest tick arrived.
        """
        newest: dict[tuple[str, str], Tick] = {}
        for tick in ticks:
            if not self._is_newer(tick):
                self.outdated += 1
                continue
            if newest.pop(tick.market, None) is not None:
                self.skipped += 1
            newest[tick.market] = tick
        return list(newest.values())

    def forget(self, market: tuple[str, str] | None = None) -> None:
        """Take whatever tick of a market comes next, also one with a lower sequence.

        Without a market: of every market, and also from a stream with a lower epoch.
        """
        if market is None:
            self._epoch = 0
            self._sequences.clear()
        else:
            self._sequences.pop(market, None)

    def _is_newer(self, tick: Tick) -> bool:
        if tick.stream_epoch < self._epoch:
            return False
        if tick.stream_epoch > self._epoch:
            self._epoch = tick.stream_epoch
            self._sequences.clear()
        if tick.sequence <= self._sequences.get(tick.market, -1):
            return False
        self._sequences[tick.market] = tick.sequence
        return True
