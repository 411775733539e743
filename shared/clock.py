"""Time as the shell sees it. The pure core is handed times and never asks for one."""

import time
from datetime import UTC, datetime


def wall_ms() -> int:
    """Milliseconds of UTC since 1970, by this machine's wall clock."""
    return time.time_ns() // 1_000_000


def monotonic_secs() -> float:
    """Seconds that never jump, for durations and deadlines."""
    return time.monotonic()


def datetime_of(at_ms: int) -> datetime:
    """An aware datetime in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC)


def ms_of(moment: datetime) -> int:
    """Milliseconds of UTC since 1970 of an aware datetime."""
    return round(moment.timestamp() * 1000)
