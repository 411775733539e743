"""The last look before an order goes out: what was stopped since its COMMIT is not sent."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.clock import monotonic_secs
from shared.limits import KillSwitches, KillSwitchLevel, KillSwitchScope
from shared.orders import BotStatus, Leg, Mode
from shared.store.engine import Store, connect
from shared.store.markets import Market
from shared.venues import VENUES
from tests.unit.live_fakes import HeardAlerts, ScriptedOrders, a_few_turns, live_order
from trade_worker.accounts import Accounts
from trade_worker.bot_row import BotRow
from trade_worker.bot_table import BotTable
from trade_worker.egress import Egress
from trade_worker.key_ring import KeyRing
from trade_worker.live_trading import LiveAccess, LiveTrading
from trade_worker.roster import Roster
from trade_worker.row_state import Key

SCOPES = [
    (KillSwitchScope.FLEET, ""),
    (KillSwitchScope.VENUE, "kraken"),
    (KillSwitchScope.USER, "1"),
    (KillSwitchScope.BOT, "1"),
]


class OneBot(Roster):
    """A roster of one live bot, which goes by what a test says."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.switches = KillSwitches()
        self.bots = BotTable("kraken", "BTC/USD", Accounts())
        self.has(BotStatus.ACTIVE)

    def has(self, status: BotStatus) -> None:
        self.bots.put(
            BotRow(
                bot_id=1,
                user_id=1,
                shard=0,
                status=status,
                mode=Mode.LIVE,
                capital=1_000.0,
                taker_fee=0.004,
                key=Key(id=1, live=True, in_trouble=False),
            )
        )

    @property
    def kill_switches(self) -> KillSwitches:
        return self.switches

    def table(self, market: Market) -> BotTable | None:
        return self.bots if market == ("kraken", "BTC/USD") else None


class Trading:
    """What sends the orders of one shard, with a venue that notes what comes."""

    def __init__(self, store: Store) -> None:
        self.port = ScriptedOrders()
        self.roster = OneBot(store)
        self.shards = {0}
        self.live = LiveTrading(
            store,
            owner="worker 1",
            access=LiveAccess(
                port=self.port,
                keys=KeyRing(store, None),
                egress=Egress(store, host="test", proxy_url=None, alive_secs=5.0),
                not_found_secs=dict.fromkeys(VENUES, 0.3),
            ),
            roster=self.roster,
            shards=lambda: self.shards,
            alerts=HeardAlerts(),
            on_written=lambda: None,
        )

    async def sends(self, leg: Leg) -> bool:
        """Whether an order that was committed a moment ago reaches the venue."""
        self.live.take(live_order(leg=leg), send_by_secs=monotonic_secs() + 3.0)
        await a_few_turns()
        await self.live.close()
        return bool(self.port.sent)


@pytest.fixture
async def trading(tmp_path: Path) -> AsyncIterator[Trading]:
    # Of an order that is not sent nothing is written here: nobody opens the database.
    store = connect(f"sqlite:///{tmp_path / 'none.db'}", application_name="test")
    yield Trading(store)
    await store.close()


@pytest.mark.parametrize("leg", Leg)
async def test_what_nothing_forbids_is_sent(trading: Trading, leg: Leg) -> None:
    assert await trading.sends(leg)


@pytest.mark.parametrize("leg", Leg)
@pytest.mark.parametrize("level", sorted(set(KillSwitchLevel) - {KillSwitchLevel.OFF}))
@pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: scope[0])
async def test_a_switch_that_was_turned_meanwhile_keeps_an_order_back(
    trading: Trading, scope: tuple[KillSwitchScope, str], level: KillSwitchLevel, leg: Leg
) -> None:
    trading.roster.switches = KillSwitches(levels={scope: level}, version=1)
    sold = leg is Leg.EXIT and level is not KillSwitchLevel.ALL
    assert await trading.sends(leg) is sold


@pytest.mark.parametrize("leg", Leg)
@pytest.mark.parametrize("status", sorted(set(BotStatus) - {BotStatus.ACTIVE}))
async def test_a_bot_that_was_stopped_meanwhile_buys_nothing_and_sells(
    trading: Trading, status: BotStatus, leg: Leg
) -> None:
    trading.roster.has(status)
    assert await trading.sends(leg) is (leg is Leg.EXIT)


@pytest.mark.parametrize("leg", Leg)
async def test_nothing_is_sent_once_the_shard_is_lost(trading: Trading, leg: Leg) -> None:
    trading.shards.clear()
    assert not await trading.sends(leg)
