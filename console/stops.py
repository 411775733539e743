"""What stops a bot besides its market: kill switches, breakers and its user's limits, in words."""

from typing import TYPE_CHECKING

from console.breakers import breaker_text, breakers_of
from console.output import iso, number
from shared.limits import KillSwitchScope
from shared.venues import quote_of

if TYPE_CHECKING:
    from shared.admission import UserStanding
    from shared.store.bots import Bot
    from shared.store.engine import Transaction
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
