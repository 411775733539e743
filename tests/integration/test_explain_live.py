"""`bots explain` of bots that trade for real, or would if their owner's key let them."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import insert, update

from shared.messages import Indicators
from shared.orders import Mode, PositionStatus
from shared.store import tables as t
from shared.store.engine import Store
from tests.integration.test_console_verbs import Shell, add_bot, save_tick, tick
from tests.integration.test_console_verbs import shell as shell

GOOD = Indicators(
    adx=27.0,
    rsi=55.0,
    momentum_1h=0.006,
    momentum_4h=0.01,
    btc_momentum_1h=0.006,
    volume_ratio=1.1,
    recent_high=44_000.0,
)
LIVE: dict[str, Any] = {"live": True, "trouble": None}


def write(shell: Shell, *statements: Any) -> None:
    async def run(store: Store) -> None:
        async with store.begin() as tx:
            for statement in statements:
                await tx.execute(statement)

    shell.on_store(run)


def live_bot(shell: Shell, key: dict[str, Any] | None, *, mode: Mode = Mode.LIVE) -> int:
    """A bot of this mode that meets a tick; its owner has this key."""
    bot_id = add_bot(shell)
    write(shell, update(t.bots).values(mode=mode))
    if key is not None:
        write(shell, insert(t.credentials).values(user_id=1, venue="kraken", **key))
    save_tick(shell, tick(indicators=GOOD))
    return bot_id


def hold(shell: Shell, bot_id: int, mode: Mode) -> None:
    write(
        shell,
        insert(t.positions).values(
            bot_id=bot_id,
            user_id=1,
            venue="kraken",
            pair="BTC/USD",
            sequence=1,
            mode=mode,
            status=PositionStatus.OPEN,
            regime="weak",
            entry_quantity=Decimal(1),
            entry_cost=Decimal(43_000),
            entry_reason="entry_signal",
        ),
    )


def explained(shell: Shell, bot_id: int) -> Any:
    document = shell.document("bots", "explain", str(bot_id))
    (pair,) = document["pairs"]
    return pair


@pytest.mark.parametrize(
    ("key", "note"),
    [
        (None, "ann has no key for kraken, so nothing is bought: add one with `botfleet keys add"),
        ({**LIVE, "live": False}, "is not live, so nothing is bought: say that it is with"),
        ({**LIVE, "trouble": "EAPI:Invalid key"}, "cannot be used, so nothing is bought: EAPI"),
    ],
)
def test_a_live_bot_whose_key_is_not_ready_says_why_it_stands_still(
    shell: Shell, key: dict[str, Any] | None, note: str
) -> None:
    bot_id = live_bot(shell, key)

    assert explained(shell, bot_id)["verdict"] == "credential_not_ready"
    shown = shell("bots", "explain", str(bot_id)).stdout

    assert "kraken, active, live" in shown
    assert note in shown.replace("\n", " ")


@pytest.mark.parametrize("mode", list(Mode))
def test_a_bot_whose_key_is_ready_or_that_needs_none_has_no_note_of_it(
    shell: Shell, mode: Mode
) -> None:
    bot_id = live_bot(shell, LIVE if mode is Mode.LIVE else None, mode=mode)

    pair = explained(shell, bot_id)

    assert pair["verdict"] != "credential_not_ready"
    assert not [note for note in pair["notes"] if "key" in note]


def test_a_live_position_without_a_usable_key_says_that_it_is_not_sold(shell: Shell) -> None:
    bot_id = live_bot(shell, None, mode=Mode.PAPER)
    hold(shell, bot_id, Mode.LIVE)

    pair = explained(shell, bot_id)

    assert pair["position_mode"] == "live"
    (note,) = [note for note in pair["notes"] if "key" in note]
    assert "so the open position, which is live, is not sold" in note
    assert "The open position (live):" in shell("bots", "explain", str(bot_id)).stdout


def test_what_a_breakout_needs_is_told_while_the_volume_is_not_known(shell: Shell) -> None:
    bot_id = add_bot(shell)
    save_tick(shell, tick(indicators=replace(GOOD, momentum_1h=0.001, volume_ratio=None)))

    shown = shell("bots", "explain", str(bot_id)).stdout

    assert "or volume ratio above 1.3 and momentum 1h above 0.00 % (no_momentum)" in shown
