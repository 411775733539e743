"""The demo's fleet: the same each time, spread over users, venues and pairs."""

from collections import Counter

from console.demo_fleet import USER_PREFIX, demo_bots
from console.import_file import ImportedBot

MARKETS = {
    "kraken": ["BTC/USD", "ETH/USD", "SOL/USD", "XRP/USD", "ADA/USD"],
    "binance": ["BTC/USDT", "ETH/USDT", "BNB/USDT"],
}


def fleet(seed: int = 1) -> list[ImportedBot]:
    return demo_bots(users=50, bots=200, seed=seed, markets=MARKETS)


def test_a_seed_gives_the_same_fleet_and_another_seed_another_one() -> None:
    assert fleet() == fleet()
    assert fleet() != fleet(seed=2)


def test_every_user_has_bots_and_every_market_is_traded() -> None:
    bots = fleet()

    assert set(Counter(bot.user for bot in bots).values()) == {4}
    assert {(bot.venue, pair) for bot in bots for pair in bot.pairs} == {
        (venue, pair) for venue, pairs in MARKETS.items() for pair in pairs
    }
    assert all(bot.user.startswith(USER_PREFIX) for bot in bots)
    assert len({(bot.user, bot.bot) for bot in bots}) == 200


def test_profiles_and_capitals_vary() -> None:
    bots = fleet()

    assert len({tuple(bot.risk_profile.items()) for bot in bots}) > 100
    assert len({bot.capital for bot in bots}) > 4
