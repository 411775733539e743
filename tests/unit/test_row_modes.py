"""Through any life of a row: nothing real without a key that may, no position in two modes."""

from decimal import Decimal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shared.orders import Leg, Mode, PositionStatus
from tests.unit.fleet import KEYS, MARKET_MS, NOW_MS, RULES, bot_row, open_position, tick_with
from trade_worker.accounts import Accounts
from trade_worker.bot_table import BotTable
from trade_worker.decide import Decision, decide
from trade_worker.row_state import Phase

MODES = st.sampled_from(list(Mode))
KEY_STATES = st.sampled_from(["ready", *KEYS])


class OneRow(RuleBasedStateMachine):
    """A bot whose mode and key change at any time, and a worker that loads it now and then."""

    mode: Mode
    key: str
    table: BotTable
    order: Decision | None = None
    """What is on its way."""
    durable: bool = False
    """Whether that is known to be committed: it was in the database when the row was loaded."""
    position: Mode | None = None
    """The mode of what was bought, or is being bought."""
    exits: int = 0
    now_ms: int = MARKET_MS

    @initialize(mode=MODES, key=KEY_STATES)
    def start(self, mode: Mode, key: str) -> None:
        self.mode, self.key = mode, key
        self.load()

    @rule(mode=MODES, key=KEY_STATES)
    def change(self, mode: Mode, key: str) -> None:
        self.mode, self.key = mode, key
        self.table.put(bot_row(mode=mode, key=KEYS[key]))

    @rule()
    def load(self) -> None:
        """Afresh, from a database that knows everything; an order on its way goes on."""
        position = None
        self.durable = self.order is not None
        sequence = self.sequence if self.position else 0
        if self.position:
            opening = self.order is not None and self.order.leg is Leg.ENTRY
            status = PositionStatus.OPENING if opening else PositionStatus.OPEN
            if self.order is not None and self.order.leg is Leg.EXIT:
                status = PositionStatus.CLOSING
            position = open_position(
                sequence=sequence,
                status=status,
                mode=self.position,
                exit_attempts=self.exits + (status is PositionStatus.CLOSING),
            )
        self.table = BotTable("binance", "ETH/USDT", Accounts())
        self.table.put(
            bot_row(
                mode=self.mode,
                key=KEYS[self.key],
                position=position,
                last_sequence=sequence,
                unsettled=self.order is not None,
            )
        )

    @property
    def sequence(self) -> int:
        return int(self.table.sequence[0])

    @precondition(lambda self: self.order is None)
    @rule()
    def tick(self) -> None:
        self.now_ms += 3_600_000  # every wait is over
        tick = tick_with(bid=2095.0 if self.position else 1999.5, market_time_ms=self.now_ms)
        decisions = decide(self.table, tick, now_ms=NOW_MS, rules=RULES)
        key = KEYS[self.key]
        for order in (*decisions.exits, *decisions.entries):
            entry = order.leg is Leg.ENTRY
            assert order.mode is (self.mode if entry else self.position)
            assert order.attempt == (0 if entry else self.exits)
            if order.mode is Mode.LIVE:
                assert key is not None
                assert order.credential_id == key.id
                assert not key.in_trouble
                assert key.live or not entry
            else:
                assert (order.credential_id, order.limit_price) == (0, None)
            self.order, self.position = order, order.mode
            self.exits = 0 if entry else self.exits
        stands = self.order is None
        if self.position is None:
            assert stands == (self.mode is Mode.LIVE and self.key != "ready")
        elif stands:
            assert self.position is Mode.LIVE
            assert self.key in ("missing", "in trouble")

    @precondition(lambda self: self.order is not None)
    @rule(committed=st.booleans(), traded=st.booleans())
    def end(self, committed: bool, traded: bool) -> None:
        order, self.order = self.order, None
        assert order is not None
        committed |= self.durable
        self.durable = False
        if order.leg is Leg.ENTRY:
            self.end_entry(committed=committed, traded=traded)
        else:
            self.end_exit(order, committed=committed, traded=traded)

    def end_entry(self, *, committed: bool, traded: bool) -> None:
        assert self.position is not None
        if not committed:
            assert self.table.entry_dropped(1)
        elif traded:
            filled = open_position(sequence=self.sequence, mode=self.position, held=Decimal("0.3"))
            assert self.table.entry_filled(1, filled)
            return
        else:
            assert self.table.entry_ended_unfilled(
                1, sequence=self.sequence, market_time_ms=self.now_ms
            )
        self.position = None

    def end_exit(self, order: Decision, *, committed: bool, traded: bool) -> None:
        sequence = order.position_sequence
        if not committed:
            assert self.table.exit_dropped(1)
        elif traded:
            assert self.table.exit_filled(
                1, sequence=sequence, realised=0.0, market_time_ms=self.now_ms
            )
            self.position = None
        else:
            assert self.table.exit_ended_unfilled(
                1,
                sequence=sequence,
                attempt=order.attempt,
                version=9,
                held=Decimal("0.3"),
                market_time_ms=self.now_ms,
            )
            self.exits += 1

    @invariant()
    def the_row_is_in_the_mode_of_what_it_has_else_of_its_bot(self) -> None:
        if hasattr(self, "table"):
            assert bool(self.table.live[0]) == ((self.position or self.mode) is Mode.LIVE)
            assert (self.table.phase[0] == Phase.FLAT) == (self.position is None)


OneRow.TestCase.settings = settings(max_examples=settings().max_examples, stateful_step_count=40)
TestOneRow = OneRow.TestCase
