"""What must be right before a bot trades for real, judged from facts that others gathered."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Final

from console.output import number
from shared import risk_profile
from shared.limits import UserStatus
from shared.money import MarketRules, decimal_of
from shared.venues import base_of, quote_of, venue_named

if TYPE_CHECKING:
    from shared.limits import KillSwitches
    from shared.store.bots import Bot
    from shared.store.credentials import Credential
    from shared.store.users import User

SIZES: Final = ("size_choppy", "size_weak", "size_moderate", "size_strong")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at: what it is, whether it is right, and what was found."""

    name: str
    ok: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFacts:
    """What is known of a bot that is to go live, with the capital and profile it is to have.

    `key_problem` is why its key does not open or was refused by the venue, None: it was asked;
    `key_problems` is what the venue's answer says against the key. `balances` are free amounts,
    None where they could not be asked. `rules` has the pairs that are traded now (None: the venue
    does not say), `asks` the price at which each can be bought, where that is known.
    """

    bot: "Bot"
    user: "User"
    something_open: bool
    switches: "KillSwitches"
    credential: "Credential | None"
    key_problem: str | None
    key_problems: tuple[str, ...]
    balances: Mapping[str, Decimal] | None
    rules: Mapping[str, MarketRules] | None
    asks: Mapping[str, float]


def live_checks(facts: LiveFacts) -> tuple[Check, ...]:
    """Everything that is looked at, in the order in which a person would mend it."""
    return (
        _flat(facts),
        *_key(facts),
        *_balances(facts),
        *(_market(facts, pair) for pair in facts.bot.pairs),
        _user(facts),
        _switches(facts),
    )


def _flat(facts: LiveFacts) -> Check:
    bot_id = facts.bot.id
    text = (
        f"a position or an order of it is open: `botfleet bots stop {bot_id}` sells it"
        if facts.something_open
        else "nothing of it is open"
    )
    return Check(name="flat", ok=not facts.something_open, text=text)


def _key(facts: LiveFacts) -> Iterator[Check]:
    user, venue, credential = facts.bot.user, facts.bot.venue, facts.credential
    where = f"{user} --venue {venue}"
    if credential is None:
        missing = f"{user} has no key for {venue}: botfleet keys add {where}"
        yield Check(name="key", ok=False, text=missing)
        return
    live_text = "live" if credential.live else f"not live: botfleet keys set {where} --live"
    yield Check(name="key", ok=credential.live, text=live_text)
    if credential.trouble is not None:
        yield Check(name="trouble", ok=False, text=credential.trouble)
    wrong = (facts.key_problem,) if facts.key_problem is not None else facts.key_problems
    text = "; ".join(wrong) or f"{venue} says that it may trade and query, and cannot withdraw"
    yield Check(name="permissions", ok=not wrong, text=text)


def _balances(facts: LiveFacts) -> Iterator[Check]:
    if facts.balances is None:
        return
    needed = facts.bot.capital * _profile(facts.bot)["stake_fraction"]
    for quote in sorted({quote_of(pair) for pair in facts.bot.pairs}):
        free = facts.balances.get(quote, Decimal(0))
        text = f"{number(free)} {quote} free, an entry takes {number(needed)}"
        yield Check(name=f"balance {quote}", ok=free >= needed, text=text)


def _market(facts: LiveFacts, pair: str) -> Check:
    from trade_worker.sizing import ROUNDING_DOWN, terms_of

    name = f"market {pair}"
    if facts.rules is None:
        return Check(name=name, ok=False, text=f"not known: {facts.bot.venue} does not say")
    rules = facts.rules.get(pair)
    if rules is None:
        return Check(name=name, ok=False, text="the venue does not trade it at present")
    ask, quote = facts.asks.get(pair), quote_of(pair)
    least = (
        f"orders of at least {number(rules.min_notional)} {quote} and "
        f"{number(rules.min_quantity)} {base_of(pair)}"
    )
    with localcontext(ROUNDING_DOWN):
        terms = None if ask is None else terms_of(ask, rules)
        if terms is None:
            return Check(name=name, ok=False, text=f"{least}, but the venue tells no price")
        sizes = [_size(facts, size, terms) for size in SIZES]
    if not any(sizes):
        return Check(
            name=name, ok=False, text=f"{least}: capital × stake is too small to be sold again"
        )
    small = "" if all(sizes) else "; too small in some regimes, no entries there"
    return Check(name=name, ok=True, text=f"{least}{small}")


def _size(facts: LiveFacts, multiplier: str, terms: object) -> bool:
    from trade_worker.sizing import Stake, Terms, size

    assert isinstance(terms, Terms)  # noqa: S101 - for mypy: the module is imported late
    profile, credential = _profile(facts.bot), facts.credential
    own_fee = None if credential is None else credential.taker_fee
    stake = Stake(
        free=facts.bot.capital,
        share=profile["stake_fraction"] * profile[multiplier],
        taker_fee=venue_named(facts.bot.venue).taker_fee if own_fee is None else own_fee,
        max_slippage=profile["max_slippage"],
        live=True,
    )
    return size(stake, terms) is not None


def _user(facts: LiveFacts) -> Check:
    user, bot = facts.user, facts.bot
    smallest = bot.capital * _profile(bot)["stake_fraction"]
    wrong = []
    if user.status is not UserStatus.ACTIVE:
        wrong.append(f"{user.name} is {user.status}: botfleet users enable {user.name}")
    if not user.max_open_positions:
        wrong.append("no position may be open: botfleet users set --max-open-positions")
    if user.max_notional is not None and user.max_notional < smallest:
        wrong.append(
            f"all positions may cost {number(user.max_notional)}, an entry takes {number(smallest)}"
        )
    text = "; ".join(wrong) or f"at most {user.max_open_positions} open positions"
    return Check(name="user", ok=not wrong, text=text)


def _switches(facts: LiveFacts) -> Check:
    bot = facts.bot
    on = facts.switches.over(bot_id=bot.id, user_id=bot.user_id, venue=bot.venue)
    text = f"on: {', '.join(sorted(on))} (`botfleet kill-switch status`)" if on else "off"
    return Check(name="kill switches", ok=not on, text=text)


def _profile(bot: "Bot") -> dict[str, Decimal]:
    complete = risk_profile.complete(bot.risk_profile)
    return {name: decimal_of(value) for name, value in complete.items()}
