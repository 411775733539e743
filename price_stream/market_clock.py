"""A venue's clock as seen from here: market time, never backwards.

On a real venue it runs as ours does; in a replay it runs many times faster.
"""

from collections import deque
from typing import Final

MAX_RATE: Final = 100_000.0
_SAMPLES: Final = 8
_REAL_TIME_WITHIN: Final = 0.5
_MIN_SPAN_SECS: Final = 0.2


class MarketClock:
    """Market time from the server times that the venue told.

    Moments of ours are monotonic seconds. `rate` is market seconds per second of ours, exactly
    1 unless the venue's clock clearly runs faster.
    """

    __slots__ = ("_last_ms", "_samples", "rate")

    def __init__(self) -> None:
        self.rate = 1.0
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)
        self._last_ms = 0

    @property
    def known(self) -> bool:
        """Whether the venue ever told its time."""
        return bool(self._samples)

    @property
    def told_ms(self) -> int:
        """The newest server time told: the venue's clock is at or past it. 0 if not known."""
        return self._samples[-1][1] if self._samples else 0

    def told(self, server_time_ms: int, read_at_secs: float) -> None:
        """The venue's reply with its time was read at this moment. An older one is ignored."""
        if self._samples and server_time_ms < self.told_ms:
            return
        self._samples.append((read_at_secs, server_time_ms))
        first_secs, first_ms = self._samples[0]
        span_secs = read_at_secs - first_secs
        # Kraken tells whole seconds: over a short span the rate would be noise.
        if span_secs >= _MIN_SPAN_SECS:
            rate = (server_time_ms - first_ms) / 1000 / span_secs
            doubt = 1 / span_secs
            fast = rate - doubt > 1 + _REAL_TIME_WITHIN
            self.rate = min(rate, MAX_RATE) if fast else 1.0

    def at(self, moment_secs: float) -> int:
        """Market time in ms at a moment, by the newest time told; never before an earlier result.

        Raises `LookupError` while the venue's time is not known.
        """
        if not self._samples:
            raise LookupError("the venue has not told its time yet")
        read_at_secs, server_time_ms = self._samples[-1]
        passed_ms = round(max(0.0, moment_secs - read_at_secs) * 1000 * self.rate)
        self._last_ms = max(self._last_ms, server_time_ms + passed_ms)
        return self._last_ms
