"""The venue's clock and the file that keeps it: never backwards, whatever happens."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecosystem.venue_simulator.clock import MarketClock
from ecosystem.venue_simulator.state import StateFile
from shared.errors import InvalidSettings


class Machine:
    """A machine clock that goes where it is set."""

    def __init__(self) -> None:
        self.ms = 1_000_000.0

    def __call__(self) -> float:
        return self.ms


def clock(machine: Machine, *, speed: float = 1.0, end_ms: int | None = None) -> MarketClock:
    return MarketClock(start_ms=5_000_000, speed=speed, machine_ms=machine, end_ms=end_ms)


def test_clock_runs_at_its_speed() -> None:
    machine = Machine()
    fast = clock(machine, speed=60)
    machine.ms += 1_000
    assert fast.now_ms() == 5_060_000


@pytest.mark.parametrize(("speed", "passed_ms"), [(0.001, 1_000), (1, 1_000), (60, 60_000)])
def test_clock_for_counting_is_never_slower_than_the_machine(speed: float, passed_ms: int) -> None:
    machine = Machine()
    stopped = clock(machine, speed=speed, end_ms=5_000_000)
    before_ms = stopped.counting_ms()
    machine.ms += 1_000
    assert stopped.ended
    assert stopped.counting_ms() - before_ms == passed_ms


@given(
    jumps=st.lists(st.integers(-100_000, 100_000), max_size=20),
    speed=st.sampled_from([0.5, 1, 600]),
)
def test_clock_never_goes_back(jumps: list[int], speed: float) -> None:
    machine = Machine()
    ours = clock(machine, speed=speed, end_ms=5_500_000)
    seen = [ours.now_ms()]
    for jump in jumps:
        machine.ms += jump
        seen.append(ours.now_ms())
    assert seen == sorted(seen)
    assert seen[-1] <= 5_500_000


def test_clock_stops_at_its_end() -> None:
    machine = Machine()
    ours = clock(machine, end_ms=5_001_000)
    assert not ours.ended
    machine.ms += 2_000
    assert ours.now_ms() == 5_001_000
    assert ours.ended


def test_clock_waits_at_the_horizon_until_it_moves() -> None:
    machine = Machine()
    ours = clock(machine, speed=10)
    ours.run_until(ours.horizon_ms(3))
    machine.ms += 60_000
    assert ours.now_ms() == 5_030_000
    ours.run_until(ours.horizon_ms(3))
    assert ours.now_ms() == 5_060_000


def test_horizon_is_not_beyond_the_end() -> None:
    assert clock(Machine(), speed=100, end_ms=5_000_500).horizon_ms(3) == 5_000_500


def test_state_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.json"
    state = StateFile(path, market="synthetic seed 1")
    assert state.load() is None
    state.save(123)
    state.save(456)
    assert StateFile(path, market="synthetic seed 1").load() == 456
    assert [file.name for file in path.parent.iterdir()] == ["state.json"]


def test_state_of_another_market_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    StateFile(path, market="synthetic seed 1").save(123)
    with pytest.raises(InvalidSettings, match="'synthetic seed 1', not to 'synthetic seed 2'"):
        StateFile(path, market="synthetic seed 2").load()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "not a state file"),
        ("[]", "not a state file"),
        ('{"version": 1}', "not a state file"),
        ('{"version": 2, "market": "m", "market_time_ms": 1}', "another version"),
        ('{"version": 1, "market": "m", "market_time_ms": "now"}', "another version"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(InvalidSettings, match=complaint):
        StateFile(path, market="m").load()


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="cannot be read"):
        StateFile(tmp_path, market="m").load()
