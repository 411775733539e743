"""A bot table against a plain dictionary, through any sequence of what can happen to rows."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shared.orders import PositionStatus
from tests.unit.fleet import MARKET_MS, bot_row, new_table, open_position
from trade_worker.accounts import Accounts
from trade_worker.backoff import doubled
from trade_worker.bot_table import PeakDue
from trade_worker.row_state import Phase

IDS = st.integers(1, 12)
AMOUNTS = st.sampled_from([0.0, 12.5, 600.0])


class Model:
    """What a row should hold."""

    def __init__(self, capital: float, min_adx: float) -> None:
        self.capital = capital
        self.realised = 0.0
        self.min_adx = min_adx
        self.phase = Phase.FLAT
        self.stake = 0.0
        self.sequence = 0
        self.failed = 0
        self.exits = 0
        self.not_before_ms = 0
        self.held: Decimal | None = None


class TableMachine(RuleBasedStateMachine):
    """Two tables that share accounts; a bot's user is its id modulo 3."""

    def __init__(self) -> None:
        super().__init__()
        self.accounts = Accounts()
        self.tables = [new_table(self.accounts), new_table(self.accounts)]
        self.models: list[dict[int, Model]] = [{}, {}]
        self.capital: dict[int, float] = {}
        self.realised: dict[int, float] = {}

    @rule(at=st.integers(0, 1), bot_id=IDS, capital=AMOUNTS, min_adx=st.sampled_from([20.0, 33.0]))
    def put(self, at: int, bot_id: int, capital: float, min_adx: float) -> None:
        bot = bot_row(bot_id, user_id=bot_id % 3, capital=capital, profile={"min_adx": min_adx})
        assert self.tables[at].put(bot) == ()
        model = self.models[at].setdefault(bot_id, Model(capital, min_adx))
        model.min_adx = min_adx
        self.capital[bot_id] = capital

    @rule(at=st.integers(0, 1), first=st.integers(100, 200))
    def put_many(self, at: int, first: int) -> None:
        for bot_id in range(first, first + 70):
            self.put(at, bot_id, 12.5, 20.0)

    @rule(at=st.integers(0, 1), bot_id=IDS)
    def remove(self, at: int, bot_id: int) -> None:
        assert self.tables[at].remove(bot_id) == (bot_id in self.models[at])
        self.models[at].pop(bot_id, None)
        if not any(bot_id in models for models in self.models):
            self.realised.pop(bot_id, None)

    @rule(at=st.integers(0, 1), bot_id=IDS, reserve=AMOUNTS)
    def decide_entry(self, at: int, bot_id: int, reserve: float) -> None:
        model = self.models[at].get(bot_id)
        row = self.tables[at].row_of(bot_id)
        if model is None or row is None or model.phase is not Phase.FLAT:
            return
        self.tables[at].entry_decided(row, reserve)
        model.phase, model.stake = Phase.ENTERING, reserve
        model.sequence += 1

    @rule(at=st.integers(0, 1), bot_id=IDS)
    def drop_entry(self, at: int, bot_id: int) -> None:
        model = self._told(at, bot_id, Phase.ENTERING, self.tables[at].entry_dropped(bot_id))
        if model:
            model.phase, model.stake = Phase.FLAT, 0.0
            model.sequence -= 1

    @rule(at=st.integers(0, 1), bot_id=IDS)
    def end_entry_unfilled(self, at: int, bot_id: int) -> None:
        told = self.tables[at].entry_ended_unfilled(
            bot_id, sequence=self._sequence(at, bot_id), market_time_ms=MARKET_MS
        )
        model = self._told(at, bot_id, Phase.ENTERING, told)
        if model:
            model.phase, model.stake = Phase.FLAT, 0.0
            model.not_before_ms = MARKET_MS + min(60_000 * 2**model.failed, 3_600_000)
            model.failed += 1

    @rule(at=st.integers(0, 1), bot_id=IDS, cost=AMOUNTS)
    def fill_entry(self, at: int, bot_id: int, cost: float) -> None:
        held = Decimal("0.25")
        sequence = self._sequence(at, bot_id)
        told = self.tables[at].entry_filled(
            bot_id, open_position(sequence=sequence, cost=cost, held=held)
        )
        model = self._told(at, bot_id, Phase.ENTERING, told)
        if model:
            model.phase, model.stake, model.held = Phase.OPEN, cost, held
            model.failed = model.not_before_ms = model.exits = 0

    @rule(at=st.integers(0, 1), bot_id=IDS)
    def decide_exit(self, at: int, bot_id: int) -> None:
        model = self.models[at].get(bot_id)
        row = self.tables[at].row_of(bot_id)
        if model is not None and row is not None and model.phase is Phase.OPEN:
            self.tables[at].exit_decided(row)
            model.phase = Phase.EXITING

    @rule(at=st.integers(0, 1), bot_id=IDS)
    def drop_exit(self, at: int, bot_id: int) -> None:
        model = self._told(at, bot_id, Phase.EXITING, self.tables[at].exit_dropped(bot_id))
        if model:
            model.phase = Phase.OPEN

    @rule(at=st.integers(0, 1), bot_id=IDS)
    def end_exit_unfilled(self, at: int, bot_id: int) -> None:
        held = Decimal("0.125")
        told = self.tables[at].exit_ended_unfilled(
            bot_id,
            sequence=self._sequence(at, bot_id),
            attempt=self.models[at][bot_id].exits if bot_id in self.models[at] else 0,
            version=9,
            held=held,
            market_time_ms=MARKET_MS,
        )
        model = self._told(at, bot_id, Phase.EXITING, told)
        if model:
            model.phase, model.held = Phase.OPEN, held
            model.not_before_ms = MARKET_MS + min(5_000 * 2**model.exits, 300_000)
            model.exits += 1

    @rule(at=st.integers(0, 1), bot_id=IDS)
    def deny_exit(self, at: int, bot_id: int) -> None:
        told = self.tables[at].exit_denied(bot_id, market_time_ms=MARKET_MS)
        model = self._told(at, bot_id, Phase.EXITING, told)
        if model:
            model.phase = Phase.OPEN
            model.not_before_ms = MARKET_MS + min(5_000 * 2**model.exits, 300_000)
            model.exits += 1

    @rule(at=st.integers(0, 1), bot_id=IDS)
    def hear_of_earlier_orders(self, at: int, bot_id: int) -> None:
        """Of the position before, and of the exit before: neither is what the row waits for."""
        table, now = self.tables[at], self._sequence(at, bot_id)
        told = [
            table.entry_filled(bot_id, open_position(sequence=now - 1)),
            table.entry_ended_unfilled(bot_id, sequence=now - 1, market_time_ms=MARKET_MS),
            table.exit_filled(bot_id, sequence=now - 1, realised=1.0, market_time_ms=MARKET_MS),
        ]
        exits = self.models[at][bot_id].exits if bot_id in self.models[at] else 0
        told += [
            table.exit_ended_unfilled(
                bot_id,
                sequence=sequence,
                attempt=attempt,
                version=1,
                held=Decimal(1),
                market_time_ms=MARKET_MS,
            )
            for sequence, attempt in ((now - 1, exits), (now, exits - 1), (now, exits + 1))
        ]
        assert not any(told)

    @rule(at=st.integers(0, 1), bot_id=IDS, realised=st.sampled_from([-25.0, 7.5]))
    def fill_exit(self, at: int, bot_id: int, realised: float) -> None:
        told = self.tables[at].exit_filled(
            bot_id,
            sequence=self._sequence(at, bot_id),
            realised=realised,
            market_time_ms=MARKET_MS,
        )
        model = self._told(at, bot_id, Phase.EXITING, told)
        if model:
            model.phase, model.stake, model.held = Phase.FLAT, 0.0, None
            model.not_before_ms = MARKET_MS + 300_000
            self.realised[bot_id] = self.realised.get(bot_id, 0.0) + realised

    def _sequence(self, at: int, bot_id: int) -> int:
        model = self.models[at].get(bot_id)
        return 1 if model is None else model.sequence

    def _told(self, at: int, bot_id: int, phase: Phase, told: bool) -> Model | None:
        model = self.models[at].get(bot_id)
        assert told == (model is not None and model.phase is phase)
        return model if told else None

    @invariant()
    def rows_hold_what_the_model_holds(self) -> None:
        for table, models in zip(self.tables, self.models, strict=True):
            assert table.bot_ids() == sorted(models)
            assert len(table) == len(models) == table.size - table.free_slots
            assert set(np.flatnonzero(table.phase[: table.size] != Phase.FREE)) == {
                table.row_of(bot_id) for bot_id in models
            }
            for bot_id, model in models.items():
                row = table.row_of(bot_id)
                assert row is not None
                assert table.bot_id[row] == bot_id
                assert table.phase[row] == model.phase
                assert table.at_stake[row] == model.stake
                assert table.sequence[row] == model.sequence
                if model.phase in (Phase.OPEN, Phase.EXITING):
                    assert table.exit_attempts[row] == model.exits
                assert table.not_before_ms[row] == model.not_before_ms
                assert table.held.get(row) == model.held
                assert table.threshold("min_adx", slice(row, row + 1))[0] == model.min_adx

    @invariant()
    def accounts_add_up(self) -> None:
        for bot_id in {bot_id for models in self.models for bot_id in models}:
            slot = self.accounts.bot_slot(bot_id)
            stakes = sum(models[bot_id].stake for models in self.models if bot_id in models)
            free = self.capital[bot_id] + self.realised.get(bot_id, 0.0) - stakes
            assert self.accounts.bots.free[slot] == pytest.approx(free, abs=1e-9)
        for user_id in range(3):
            slot = self.accounts.user_slot(user_id)
            mine = [m for models in self.models for b, m in models.items() if b % 3 == user_id]
            assert (slot is None) == (not mine)
            if slot is not None:
                unclosed = sum(model.phase is not Phase.FLAT for model in mine)
                assert self.accounts.users.unclosed[slot] == unclosed


TableMachine.TestCase.settings = settings(
    max_examples=settings().max_examples * 60 // 100, stateful_step_count=40
)
TestTable = TableMachine.TestCase


def test_a_changed_bot_keeps_its_position_and_its_result() -> None:
    table = new_table()
    table.put(bot_row(position=open_position(peak=0.02), realised=50.0))
    table.put(bot_row(capital=2000.0, status="stopping", realised=-1.0))
    assert (table.phase[0], table.peak[0], table.held[0]) == (Phase.OPEN, 0.02, Decimal("0.3"))
    assert table.accounts.bots.free[0] == 2000.0 + 50.0 - 600.0


def test_a_bad_row_says_what_is_wrong_and_stays_paused() -> None:
    table = new_table()
    complaints = table.put(
        bot_row(capital=float("nan"), status="asleep", profile={"max_rsi": 101, "speed": 1})
    )
    text = "\n".join(complaints)
    for part in ("capital", "nan", "status", "asleep", "max_rsi", "101", "speed"):
        assert part in text
    assert table.accounts.bots.free[0] == 0


@pytest.mark.parametrize(
    "broken", [{"average_entry": 0.0}, {"held": Decimal("NaN")}, {"version": -1}]
)
def test_a_broken_position_blocks_its_pair_and_nothing_else(broken: dict[str, object]) -> None:
    table = new_table()
    assert table.put(bot_row(1, position=open_position(**broken)))
    assert table.put(bot_row(2)) == ()
    assert table.phase[:2].tolist() == [Phase.OPEN, Phase.FLAT]
    assert np.isnan(table.average_entry[0])


def test_peaks_are_due_once_they_grew_by_more_than_a_thousandth() -> None:
    table = new_table()
    for bot_id in (1, 2, 3):
        status = PositionStatus.CLOSING if bot_id == 3 else PositionStatus.OPEN
        table.put(bot_row(bot_id, position=open_position(status=status)))
    table.peak[:3] = [0.0010001, 0.001, 0.5]
    due = table.peaks_due()
    assert due == [PeakDue(bot_id=1, sequence=4, peak=0.0010001)]
    table.peaks_saved(due)
    assert table.peaks_due() == []


def test_a_cool_down_after_failed_entries_doubles_to_its_longest() -> None:
    waits = [doubled(60_000, times, 3_600_000) for times in range(8)]
    assert waits == [60_000, 120_000, 240_000, 480_000, 960_000, 1_920_000, 3_600_000, 3_600_000]
    assert doubled(5_000, 65_535, 300_000) == 300_000
