"""Which markets of a venue to poll, and what is known about each: bookkeeping without I/O.

Times are handed in: `now_secs` is monotonic, `at_ms` wall clock, for people. Methods that
return a bool say whether something changed that is worth a log line.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from price_stream.candles import CandleSeries
from price_stream.indicators import NOTHING_KNOWN, CandleFacts, candle_facts
from price_stream.quotes import QuoteCheck

MAX_BACKOFF_SECS: Final = 60.0
RETRY_REFUSED_SECS: Final = 300.0


class MarketDirectory(Protocol):
    """Who knows which markets somebody needs."""

    async def wanted(self) -> frozenset[tuple[str, str]]:
        """(venue, pair) of every active bot, unclosed position or unsettled order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Why no ticks are published, and since when (wall clock)."""

    reason: str
    since_ms: int


class Market:
    """One market: its candles, what they say, its quote check and its last sequence."""

    __slots__ = ("_facts", "_facts_version", "check", "pair", "sequence", "series", "silence")

    def __init__(self, pair: str) -> None:
        self.pair = pair
        self.series = CandleSeries()
        self.check = QuoteCheck()
        self.sequence = 0
        self.silence: Silence | None = None
        self._facts: CandleFacts = NOTHING_KNOWN
        self._facts_version = self.series.version

    def facts(self) -> CandleFacts:
        """What the completed candles say; computed anew only after they changed."""
        if self._facts_version != self.series.version:
            self._facts = candle_facts(self.series.window())
            self._facts_version = self.series.version
        return self._facts

    def next_sequence(self) -> int:
        """The sequence of the next tick; never given twice."""
        self.sequence += 1
        return self.sequence


class VenueMarkets:
    """The markets of one venue that are followed: its reference, and those somebody wants.

    A market that nobody wants any more is forgotten, except its sequence: it goes on from
    there when the market is wanted again.
    """

    def __init__(self, reference_pair: str) -> None:
        self.reference_pair = reference_pair
        self.listed = False
        """Whether the venue has told what it lists. Nothing of a market can be asked before."""
        self.last_tick_at_ms: int | None = None
        """When the newest tick was observed (wall clock), whoever made it."""
        self._followed: dict[str, Market] = {reference_pair: Market(reference_pair)}
        self._retry_at_secs: dict[str, float] = {}
        self._left_at: dict[str, int] = {}

    def __iter__(self) -> Iterator[Market]:
        return iter(self._followed.values())

    def __len__(self) -> int:
        return len(self._followed)

    def get(self, pair: str) -> Market | None:
        """The market, if it is followed."""
        return self._followed.get(pair)

    @property
    def reference(self) -> Market:
        return self._followed[self.reference_pair]

    def follow(self, wanted: Collection[str]) -> frozenset[str]:
        """Make these and the reference the markets followed; returns those that joined."""
        pairs = {*wanted, self.reference_pair}
        for pair in self._followed.keys() - pairs:
            self._left_at[pair] = self._followed.pop(pair).sequence
            self._retry_at_secs.pop(pair, None)
        joined = frozenset(pairs - self._followed.keys())
        for pair in sorted(joined):
            market = Market(pair)
            market.sequence = self._left_at.pop(pair, 0)
            self._followed[pair] = market
        return joined

    def due(self, now_secs: float) -> list[list[str]]:
        """The pairs to ask for, in groups that are a request each.

        Pairs that the venue refused are left out for a while, and then asked for apart from
        the others, so that they spoil no request but their own.
        """
        sound = [pair for pair in self._followed if pair not in self._retry_at_secs]
        retried = [pair for pair, at_secs in self._retry_at_secs.items() if at_secs <= now_secs]
        return [group for group in (sound, retried) if group]

    def listings_are_fresh(self) -> None:
        """The venue told what it lists: ask for the refused pairs again at the next poll."""
        self.listed = True
        self._retry_at_secs = dict.fromkeys(self._retry_at_secs, 0.0)

    @property
    def refused(self) -> frozenset[str]:
        """Pairs that the venue refused and has not answered for since."""
        return frozenset(self._retry_at_secs)

    def silenced(self, pair: str, reason: str, *, at_ms: int) -> bool:
        """This market has no believable price now; it is asked for again at the next poll."""
        market = self._followed.get(pair)
        if market is None or (market.silence is not None and market.silence.reason == reason):
            return False
        market.silence = Silence(reason=reason, since_ms=at_ms)
        return True

    def was_refused(self, pair: str, reason: str, *, at_ms: int, now_secs: float) -> bool:
        """The venue refuses this market; it is asked for again in `RETRY_REFUSED_SECS`."""
        if pair in self._followed:
            self._retry_at_secs[pair] = now_secs + RETRY_REFUSED_SECS
        return self.silenced(pair, reason, at_ms=at_ms)

    def heard(self, pair: str) -> bool:
        """The market has a believable price."""
        market = self._followed[pair]
        self._retry_at_secs.pop(pair, None)
        was_silent, market.silence = market.silence is not None, None
        return was_silent

    def report(self) -> list[dict[str, Any]]:
        """The silenced markets, with reason and since when."""
        return [
            {"pair": market.pair, "reason": silence.reason, "since_ms": silence.since_ms}
            for market in self
            if (silence := market.silence) is not None
        ]


class VenueHealth:
    """Whether a venue answers, and when it may be asked again."""

    def __init__(self, poll_interval_secs: float) -> None:
        self.silence: Silence | None = None
        self.last_error: str | None = None
        self.polls = 0
        self.failures = 0
        self._interval_secs = poll_interval_secs
        self._failed_in_row = 0
        self._not_before_secs = 0.0

    def may_ask(self, now_secs: float) -> bool:
        """False while backed off."""
        return now_secs >= self._not_before_secs

    def answered(self) -> bool:
        """A poll succeeded."""
        self.polls += 1
        self._failed_in_row = 0
        was_silent, self.silence = self.silence is not None, None
        return was_silent

    def failed(
        self,
        reason: str,
        *,
        now_secs: float,
        at_ms: int,
        jitter: float,
        retry_after_secs: float | None = None,
    ) -> bool:
        """A poll failed; `jitter` is a random number from 0 to 1.

        The venue's own wish is honoured, however long.
        """
        self.polls += 1
        self.failures += 1
        self._failed_in_row += 1
        pause = backoff_secs(self._failed_in_row, self._interval_secs, jitter)
        self.wait(max(pause, retry_after_secs or 0.0), now_secs=now_secs)
        self.last_error = reason
        if self.silence is not None and self.silence.reason == reason:
            return False
        self.silence = Silence(reason=reason, since_ms=at_ms)
        return True

    def wait(self, secs: float, *, now_secs: float) -> None:
        """Ask nothing for so long; a longer pause that already runs stays."""
        self._not_before_secs = max(self._not_before_secs, now_secs + secs)

    def report(self) -> Mapping[str, Any]:
        return {
            "state": "ok" if self.silence is None else "silenced",
            "reason": None if self.silence is None else self.silence.reason,
            "since_ms": None if self.silence is None else self.silence.since_ms,
            "last_error": self.last_error,
            "polls": self.polls,
            "failures": self.failures,
        }


def backoff_secs(failed_in_row: int, interval_secs: float, jitter: float) -> float:
    """How long to leave a venue alone: doubling from the poll interval, at most 60 s.

    `jitter` from 0 to 1 takes off up to half, so that many processes do not come back at once.

    >>> [backoff_secs(n, 5.0, 0.0) for n in (1, 2, 3, 4, 5)], backoff_secs(2, 5.0, 1.0)
    ([5.0, 10.0, 20.0, 40.0, 60.0], 5.0)
    """
    doubled = interval_secs * 2.0 ** min(failed_in_row - 1, 30)
    return min(MAX_BACKOFF_SECS, doubled) * (1 - jitter / 2)
