"""The ledger adds each event once, exactly, and remembers it over restarts."""

import contextlib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from ecosystem.pnl_consumer.ledger import Ledger, UserResult
from ecosystem.pnl_consumer.screen import Lines, table
from shared.messages import OrderEvent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with contextlib.closing(Ledger(path)) as opened:
        yield opened


def closed(
    pnl: str | None, *, bot_id: int = 7, user_id: int = 3, pair: str = "A/USD"
) -> OrderEvent:
    return OrderEvent(
        client_order_id="ab" * 16,
        bot_id=bot_id,
        user_id=user_id,
        mode="paper",
        venue="kraken",
        pair=pair,
        position_sequence=1,
        leg="exit",
        attempt=0,
        side="sell",
        status="filled",
        quantity="1",
        limit_price=None,
        filled_quantity="1",
        average_price="1",
        fee="0",
        fee_currency="USD",
        reason="profit_target",
        realised_pnl=pnl,
        at_ms=1,
    )


def result(realised: str, *, closed: int, won: int, currency: str = "USD") -> UserResult:
    return UserResult(
        user_id=3, currency=currency, closed=closed, won=won, realised=Decimal(realised)
    )


def test_results_are_summed_to_the_last_digit(ledger: Ledger) -> None:
    amounts = ["0.1", "0.2", "-12345678901234567890.000000000000000001"]
    assert ledger.record(enumerate(map(closed, amounts), start=1)) == 3
    assert ledger.results() == [result("-12345678901234567889.700000000000000001", closed=3, won=2)]


def test_an_event_that_comes_again_counts_once(ledger: Ledger) -> None:
    ledger.record([(1, closed("1")), (2, closed("2"))])
    assert ledger.record([(1, closed("1")), (2, closed("2")), (3, closed("4"))]) == 1
    assert ledger.results() == [result("7", closed=3, won=3)]


def test_bots_and_pairs_have_ids_of_their_own_order(ledger: Ledger) -> None:
    ledger.record([(9, closed("1"))])
    assert ledger.record([(8, closed("1", bot_id=8)), (7, closed("1", pair="B/USD"))]) == 2


def test_what_closes_no_position_is_seen_and_adds_nothing(ledger: Ledger) -> None:
    assert ledger.record([(1, closed(None))]) == 1
    assert ledger.results() == []


def test_currencies_are_never_mixed(ledger: Ledger) -> None:
    ledger.record([(1, closed("1")), (2, closed("-1", pair="A/USDT"))])
    assert ledger.results() == [
        result("1", closed=1, won=1),
        result("-1", closed=1, won=0, currency="USDT"),
    ]


def test_the_memory_outlives_the_process(ledger: Ledger, path: Path) -> None:
    ledger.record([(1, closed("1.50"))])
    ledger.close()
    with contextlib.closing(Ledger(path)) as again:
        assert again.record([(1, closed("1.50"))]) == 0
        assert again.results() == [result("1.50", closed=1, won=1)]


def test_a_batch_is_recorded_whole_or_not_at_all(ledger: Ledger) -> None:
    with pytest.raises(ArithmeticError):
        ledger.record([(1, closed("1")), (2, closed("much"))])
    assert ledger.results() == []
    assert ledger.record([(1, closed("1"))]) == 1


def test_lines_show_what_has_changed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines([result("1", closed=1, won=1)])
    lines([result("1", closed=1, won=1)])
    lines([result("-1234.5", closed=2, won=1)])
    assert capsys.readouterr().out.splitlines() == [
        "user 3: +1.00 USD from 1 closed positions, 1 of them won",
        "user 3: -1,234.50 USD from 2 closed positions, 1 of them won",
    ]


def test_the_table_has_a_row_per_user_and_currency() -> None:
    assert table([result("1", closed=1, won=1)]).row_count == 1
    assert table([]).caption == "No trades yet"
