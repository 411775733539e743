"""Logs and figures about ourselves: nothing here decides anything."""

import logging
import sys
from bisect import bisect_left
from datetime import UTC, datetime
from typing import Final, Literal, TextIO

import orjson

from shared.redaction import REDACTOR

_NOISY: Final = ("ccxt", "aiohttp", "asyncio", "sqlalchemy", "alembic")
"""Libraries that log requests, keys or every reconnect: warnings only (facts, section 5)."""

_SPOKEN_FOR: Final = ("aio_pika", "aiormq")
"""Their warnings are a traceback per attempt to connect; the bus says the same once, in a line."""

_RECORD_FIELDS: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


class _JsonFormatter(logging.Formatter):
    """One JSON object per line; `extra={...}` of a log call become fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, tz=UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields.update(
            (name, value) for name, value in vars(record).items() if name not in _RECORD_FIELDS
        )
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(fields, default=str).decode()


class _Redacting(logging.Formatter):
    """Another formatter's text without secrets: message, arguments, extra fields, tracebacks."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return REDACTOR.clean(self._inner.format(record))


def configure_logging(
    level: str, log_format: Literal["text", "json"] | None = None, stream: TextIO | None = None
) -> None:
    """Log to `stream` (standard output): text on a terminal, JSON elsewhere, or as asked.

    What looks like a secret, or is one that the vault opened, is written as `***`.
    """
    stream = stream or sys.stdout
    handler = logging.StreamHandler(stream)
    formatter: logging.Formatter = _JsonFormatter()
    if (log_format or ("text" if stream.isatty() else "json")) == "text":
        formatter = logging.Formatter(
            "%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"
        )
    handler.setFormatter(_Redacting(formatter))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _SPOKEN_FOR:
        logging.getLogger(name).setLevel(logging.CRITICAL)


class Histogram:
    """Durations in milliseconds, counted in buckets that each are 10 % wider than the last.

    A percentile is right within 10 %; adding costs a bisection, memory is constant.
    """

    BOUNDS_MS: Final = tuple(0.05 * 1.1**step for step in range(160))

    def __init__(self) -> None:
        self.count = 0
        self.maximum_ms = 0.0
        self._buckets = [0] * (len(self.BOUNDS_MS) + 1)

    def add(self, duration_ms: float, times: int = 1) -> None:
        """Count `times` events that took this long."""
        self.count += times
        self.maximum_ms = max(self.maximum_ms, duration_ms)
        self._buckets[bisect_left(self.BOUNDS_MS, duration_ms)] += times

    def percentile_ms(self, fraction: float) -> float | None:
        """The duration that this fraction (0-1) of the events did not exceed; None without any."""
        if not self.count:
            return None
        seen = 0
        for bound, times in zip(self.BOUNDS_MS, self._buckets, strict=False):
            seen += times
            if seen >= fraction * self.count:
                return min(bound, self.maximum_ms)
        return self.maximum_ms

    def report(self) -> dict[str, float | int | None]:
        """Count, p50, p95, p99 and maximum, for `status`."""
        figures: dict[str, float | int | None] = {"count": self.count}
        for name, fraction in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99)):
            value = self.percentile_ms(fraction)
            figures[name] = None if value is None else round(value, 2)
        figures["max_ms"] = round(self.maximum_ms, 2)
        return figures
