"""The venue's clock: market time from machine time, at any speed, never backwards."""

from collections.abc import Callable


class MarketClock:
    """Market time in milliseconds of UTC.

    It starts at `start_ms` and runs `speed` times as fast as `machine_ms`, a source of
    milliseconds. It stops at `end_ms`, if there is one, and at the horizon. A machine clock
    that jumps back stops it until it has caught up.
    """

    def __init__(
        self,
        *,
        start_ms: int,
        speed: float,
        machine_ms: Callable[[], float],
        end_ms: int | None = None,
    ) -> None:
        self.speed = speed
        self._start_ms = start_ms
        self._machine_ms = machine_ms
        self._machine_start_ms = machine_ms()
        self._end_ms = end_ms
        self._horizon_ms: int | None = None
        self._latest_ms = start_ms

    def now_ms(self) -> int:
        elapsed_ms = self._machine_ms() - self._machine_start_ms
        now_ms = self._start_ms + int(elapsed_ms * self.speed)
        limits = [limit for limit in (self._end_ms, self._horizon_ms) if limit is not None]
        self._latest_ms = max(self._latest_ms, min([now_ms, *limits]))
        return self._latest_ms

    def counting_ms(self) -> int:
        """A clock for counting requests: as fast as the market's, but never slower than the
        machine's, so that a slow or ended market still forgets them."""
        elapsed_ms = self._machine_ms() - self._machine_start_ms
        return self._start_ms + int(elapsed_ms * max(self.speed, 1))

    @property
    def ended(self) -> bool:
        """Whether it has reached its end."""
        return self._end_ms is not None and self.now_ms() >= self._end_ms

    def horizon_ms(self, secs: float) -> int:
        """Where it will be in `secs` of machine time, if nothing stops it before."""
        ahead_ms = self.now_ms() + int(secs * 1000 * self.speed)
        return ahead_ms if self._end_ms is None else min(ahead_ms, self._end_ms)

    def run_until(self, horizon_ms: int) -> None:
        """Stop at `horizon_ms` unless told of a later one before: what was not promised to the
        state file is not shown to anyone."""
        self._horizon_ms = horizon_ms
