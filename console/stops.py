"""What stops a bot besides its market, in words: kill switches, breakers, limits and keys."""

from typing import TYPE_CHECKING

from console.breakers import breaker_text, breakers_of
from console.output import iso, number
from shared.limits import KillSwitchScope
from shared.orders import Mode
from shared.venues import quote_of

if TYPE_CHECKING:
    from shared.admission import UserStanding
    from shared.store.bots import Bot
    from shared.store.engine import Transaction
    from shared.store.loading import LoadedBot
    from shared.store.switches import KillSwitch


async def stops_of(tx: "Transaction", bot: "Bot") -> list[str]:
    """One line for each thing that keeps the bot from entering now, whatever its market does."""
    from shared.store import admission, switches

    covering = [switch for switch in await switches.read_on(tx) if _covers(switch, bot)]
    standing = (await admission.standings(tx, [bot.user_id]))[bot.user_id]
    return [
        *(_switch_text(switch, bot) for switch in covering),
        *(breaker_text(breaker) for breaker in await breakers_of(tx, bot)),
        *_limits(standing, bot),
    ]


def key_stops(bot: "Bot", loaded: "LoadedBot") -> list[str]:
    """Why a live bot does not buy, or its live position is not sold, for want of a usable key."""
    holds_live = loaded.position is not None and loaded.position.mode is Mode.LIVE
    whose = f"{bot.user} has no key for {bot.venue}"
    if loaded.credential_id is None:
        remedy = f"add one with `botfleet keys add {bot.user} --venue {bot.venue}`"
    elif loaded.credential_trouble is not None:
        whose = f"the key of {bot.user} for {bot.venue} cannot be used"
        remedy = loaded.credential_trouble
    elif not loaded.credential_live:
        # What is open goes on being sold.
        holds_live = False
        whose = f"the key of {bot.user} for {bot.venue} is not live"
        remedy = f"say that it is with `botfleet keys set {bot.user} --venue {bot.venue} --live`"
    else:
        return []
    notes = []
    if loaded.mode == Mode.LIVE:
        notes.append(f"{whose}, so nothing is bought: {remedy}")
    if holds_live:
        notes.append(f"{whose}, so the open position, which is live, is not sold: {remedy}")
    return notes


def _covers(switch: "KillSwitch", bot: "Bot") -> bool:
    return (
        switch.scope_key
        == {
            KillSwitchScope.FLEET: "",
            KillSwitchScope.VENUE: bot.venue,
            KillSwitchScope.USER: str(bot.user_id),
            KillSwitchScope.BOT: str(bot.id),
        }[switch.scope]
    )


def _switch_text(switch: "KillSwitch", bot: "Bot") -> str:
    name = bot.user if switch.scope is KillSwitchScope.USER else switch.scope_key
    why = f": {switch.reason}" if switch.reason else ""
    whom = f"{switch.scope} {name}".strip()
    return f"kill switch of {whom} is at {switch.level} since {iso(switch.updated_at)}{why}"


def _limits(standing: "UserStanding", bot: "Bot") -> list[str]:
    notes = []
    if not standing.active:
        notes.append(f"user {bot.user} is disabled")
    if standing.unclosed >= standing.max_open_positions:
        notes.append(
            f"user {bot.user} has {standing.unclosed} open positions, "
            f"{standing.max_open_positions} are the limit"
        )
    if standing.max_notional is not None:
        notes += [
            f"user {bot.user} has {number(standing.notional[currency])} {currency} in open "
            f"positions, {number(standing.max_notional)} is the limit"
            for currency in sorted({quote_of(pair) for pair in bot.pairs})
            if standing.notional.get(currency, 0) >= standing.max_notional
        ]
    return notes
