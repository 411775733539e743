"""How long a row waits after an order that came to nothing. Market time, milliseconds."""

from typing import Final

LONGEST_RETRY_COOLDOWN_MS: Final = 3_600_000
FIRST_EXIT_BACKOFF_MS: Final = 5_000
LONGEST_EXIT_BACKOFF_MS: Final = 300_000


def doubled(first_ms: float, times: int, longest_ms: int) -> int:
    """`first_ms` doubled so many times, at most `longest_ms`.

    >>> doubled(60_000, 0, 3_600_000), doubled(60_000, 3, 3_600_000), doubled(60_000, 9, 3_600_000)
    (60000, 480000, 3600000)
    """
    return round(min(first_ms * 2.0 ** min(times, 32), longest_ms))


def entry_cooldown_ms(first_secs: float, earlier: int) -> int:
    """The cool-down after an entry without a fill that `earlier` ones in a row came before.

    >>> entry_cooldown_ms(60, 0), entry_cooldown_ms(60, 6)
    (60000, 3600000)
    """
    return doubled(1000 * first_secs, earlier, LONGEST_RETRY_COOLDOWN_MS)


def exit_backoff_ms(earlier: int) -> int:
    """The wait after an exit that left something unsold and that `earlier` ones came before.

    >>> [exit_backoff_ms(earlier) for earlier in (0, 1, 6)]
    [5000, 10000, 300000]
    """
    return doubled(FIRST_EXIT_BACKOFF_MS, earlier, LONGEST_EXIT_BACKOFF_MS)
