"""Logs and histograms."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.telemetry import Histogram, configure_logging


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_logs_carry_extra_fields() -> None:
    stream = io.StringIO()
    configure_logging("INFO", None, stream)
    logging.getLogger("botfleet").info("took %d shards", 3, extra={"worker": "1"})
    line = json.loads(stream.getvalue())
    assert line["message"] == "took 3 shards"
    assert line["worker"] == "1"
    assert line["level"] == "info"


def test_libraries_that_log_requests_stay_quiet_even_at_debug() -> None:
    stream = io.StringIO()
    configure_logging("DEBUG", "text", stream)
    logging.getLogger("ccxt.base").debug("API-Key: canary")
    logging.getLogger("aiormq.connection").info("amqp://guest:canary@host")
    assert "canary" not in stream.getvalue()


@given(st.lists(st.floats(min_value=0.05, max_value=100_000), min_size=1))
def test_a_percentile_is_right_within_ten_percent(durations: list[float]) -> None:
    histogram = Histogram()
    for duration in durations:
        histogram.add(duration)
    exact = sorted(durations)[(len(durations) - 1) // 2]
    median = histogram.percentile_ms(0.5)
    assert median is not None
    assert exact <= median * 1.0000001
    assert median <= exact * 1.1000001
    assert histogram.percentile_ms(1) == max(durations)


def test_an_empty_histogram_has_no_percentiles() -> None:
    assert Histogram().report() == {
        "count": 0,
        "p50_ms": None,
        "p95_ms": None,
        "p99_ms": None,
        "max_ms": 0.0,
    }
