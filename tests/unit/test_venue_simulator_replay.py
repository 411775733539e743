"""Replayed candle files: what is read, how it is played, and what is refused."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from ecosystem.venue_simulator.listings import listing
from ecosystem.venue_simulator.market import Market
from ecosystem.venue_simulator.minutes import CLOSE, HIGH, LOW, MINUTE_MS, OPEN, SPREAD, VOLUME
from ecosystem.venue_simulator.replay import HISTORY_MINUTES, load_replay
from shared.errors import InvalidSettings

BEGIN: Final = datetime(2021, 12, 31, 23, 1, tzinfo=UTC)
BEGIN_MINUTE: Final = int(BEGIN.timestamp()) // 60
HEADER: Final = "timestamp,open,high,low,close,volume"
LENGTH: Final = HISTORY_MINUTES + 100


def candle(number: int, *, stamp: str | None = None) -> str:
    moment = BEGIN + timedelta(minutes=number)
    opened = 100 + number % 7
    stamp = stamp or moment.strftime("%Y-%m-%d %H:%M:%S.%f")
    return f"{stamp},{opened},{opened + 3},{opened - 2},{opened + 1},{(opened + 1) * 10}"


def write(path: Path, rows: Sequence[str], *, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def rows() -> list[str]:
    return [candle(number) for number in range(LENGTH)]


def test_file_is_played_as_it_is_written_with_volume_in_the_base_currency(tmp_path: Path) -> None:
    tape, _ = load_replay(write(tmp_path / "candles.csv", rows()), spread=0.0002)
    table = tape.minutes(BEGIN_MINUTE + 8, 2)
    assert table[[OPEN, HIGH, LOW, CLOSE, VOLUME, SPREAD]].T.tolist() == [
        [101, 104, 99, 102, 10, 0.0002],
        [102, 105, 100, 103, 10, 0.0002],
    ]


@pytest.mark.parametrize("style", ["iso", "iso with zone", "seconds", "milliseconds"])
def test_every_way_to_write_a_time_means_the_same(tmp_path: Path, style: str) -> None:
    def stamp(number: int) -> str:
        moment = BEGIN + timedelta(minutes=number)
        return {
            "iso": moment.strftime("%Y-%m-%dT%H:%M"),
            "iso with zone": moment.astimezone(UTC).isoformat(),
            "seconds": str(int(moment.timestamp())),
            "milliseconds": str(int(moment.timestamp()) * 1000),
        }[style]

    stamped = [candle(number, stamp=stamp(number)) for number in range(LENGTH)]
    tape, _ = load_replay(write(tmp_path / "candles.csv", stamped), spread=0.0002)
    assert tape.first == BEGIN_MINUTE
    assert tape.end == BEGIN_MINUTE + LENGTH


def test_clock_starts_after_a_hundred_quarters_and_stops_at_the_end(tmp_path: Path) -> None:
    tape, _ = load_replay(write(tmp_path / "candles.csv", rows()), spread=0.0002)
    assert datetime.fromtimestamp(tape.start_ms / 1000, tz=UTC) == datetime(2022, 1, 2, tzinfo=UTC)
    assert tape.end_ms == (BEGIN_MINUTE + LENGTH) * MINUTE_MS - 1
    kraken = listing(venue="kraken", pair="BTC/USD", price=100)
    candles = Market({kraken: tape}).candles(
        kraken, interval_minutes=15, now_ms=tape.start_ms, from_ms=0, to_ms=2**53
    )
    assert len(candles.open_ms) == 100 + 1
    assert candles.open_ms[-1] == tape.start_ms


def test_last_moment_shows_the_last_close(tmp_path: Path) -> None:
    tape, _ = load_replay(write(tmp_path / "candles.csv", rows()), spread=0.0002)
    kraken = listing(venue="kraken", pair="BTC/USD", price=100)
    quote = Market({kraken: tape}).quote(kraken, tape.end_ms)
    assert quote.price == 100 + (LENGTH - 1) % 7 + 1


def test_gap_carries_the_close_without_volume(tmp_path: Path) -> None:
    holed = rows()
    del holed[21:24]
    tape, _ = load_replay(write(tmp_path / "candles.csv", holed), spread=0.0002)
    before, *gap, after = tape.minutes(BEGIN_MINUTE + 20, 5).T.tolist()
    close = before[CLOSE]
    assert gap == [[close, close, close, close, 0, 0.0002]] * 3
    assert after[OPEN] == 100 + 24 % 7


def test_name_changes_with_the_content(tmp_path: Path) -> None:
    path = tmp_path / "candles.csv"
    _, name = load_replay(write(path, rows()), spread=0.0002)
    _, same = load_replay(path, spread=0.0002)
    _, other = load_replay(write(path, rows()[:-1]), spread=0.0002)
    assert name == same != other
    assert "candles.csv" in name


@pytest.mark.parametrize(
    ("number", "row", "complaint"),
    [
        (5, "2021-12-31 23:06:30,1,1,1,1,1", "line 7: timestamp must be a whole minute"),
        (5, candle(4), "line 7: it is not later"),
        (5, "soon,1,1,1,1,1", "line 7: "),
        (5, "2021-12-31 23:06:00,1,2,3,1,1", "line 7: prices must be above 0"),
        (5, "2021-12-31 23:06:00,0,2,0,1,1", "line 7: prices must be above 0"),
        (5, "2021-12-31 23:06:00,nan,2,1,1,1", "line 7: prices must be above 0"),
        (5, "2021-12-31 23:06:00,1,inf,1,1,1", "line 7: prices must be above 0"),
        (5, "2021-12-31 23:06:00,1,1,1,1,-1", "line 7: volume must be"),
        (5, "2021-12-31 23:06:00,1,1,1", "line 7: "),
    ],
)
def test_bad_candle_is_refused_with_its_line(
    tmp_path: Path, number: int, row: str, complaint: str
) -> None:
    bad = rows()
    bad[number] = row
    with pytest.raises(InvalidSettings, match=complaint):
        load_replay(write(tmp_path / "candles.csv", bad), spread=0.0002)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([HEADER], "holds no candle"),
        ([HEADER, candle(0)], "more than its history of 1500 minutes, held 1"),
        (["timestamp,open,high,low,close", candle(0)], "it lacks volume"),
        ([], "it lacks timestamp, open, high, low, close, volume"),
    ],
)
def test_file_that_is_no_replay_is_refused(
    tmp_path: Path, content: list[str], complaint: str
) -> None:
    path = tmp_path / "candles.csv"
    path.write_text("\n".join(content))
    with pytest.raises(InvalidSettings, match=complaint):
        load_replay(path, spread=0.0002)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="cannot be read"):
        load_replay(tmp_path / "nothing.csv", spread=0.0002)
