"""The last word on an intent, inside its transaction: kill switches, breakers, users' limits."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from shared.limits import KillSwitches, KillSwitchLevel
from shared.money import exact
from shared.orders import Intent, Leg
from shared.reasons import Reason
from shared.venues import quote_of


@dataclass(frozen=True, slots=True, kw_only=True)
class UserStanding:
    """A user as the database has it now.

    `unclosed` counts positions that are not closed. `notional` is what they cost, by quote
    currency, an entry on its way at the most that it may cost; only needed where `max_notional`
    is set.
    """

    active: bool
    breaker_open: bool
    max_open_positions: int
    unclosed: int
    max_notional: Decimal | None = None
    notional: Mapping[str, Decimal] = field(default_factory=dict)


def notional_of(intent: Intent) -> Decimal:
    """What an entry is counted with before it is filled, in its quote currency, without fees."""
    price = intent.decided_price if intent.limit_price is None else intent.limit_price
    with exact():
        return intent.quantity * price


def denials(
    intents: Iterable[Intent],
    *,
    switches: KillSwitches,
    users: Mapping[int, UserStanding],
    stopped_bots: Mapping[int, Reason],
) -> dict[str, Reason]:
    """Which intents must not be committed, and why, by client order id.

    An exit is denied only by a kill switch of level `all`. Entries use up their users' limits in
    the order given. `stopped_bots` says which bots enter nothing, and why; a user that is not in
    `users` is denied.
    """
    quota = _Quota(users)
    denied = {}
    for intent in intents:
        levels = switches.over(bot_id=intent.bot_id, user_id=intent.user_id, venue=intent.venue)
        reason: Reason | None
        if intent.leg is Leg.EXIT:
            reason = Reason.KILL_SWITCH_ON if KillSwitchLevel.ALL in levels else None
        elif levels:
            reason = Reason.KILL_SWITCH_ON
        elif intent.bot_id in stopped_bots:
            reason = stopped_bots[intent.bot_id]
        else:
            reason = quota.take(intent)
        if reason is not None:
            denied[intent.client_order_id] = reason
    return denied


class _Quota:
    """What the entries of one batch leave of their users' limits."""

    def __init__(self, users: Mapping[int, UserStanding]) -> None:
        self._users = users
        self._opened: defaultdict[int, int] = defaultdict(int)
        self._spent: defaultdict[tuple[int, str], Decimal] = defaultdict(Decimal)

    def take(self, entry: Intent) -> Reason | None:
        """Count the entry, or say why it is too much."""
        user = self._users.get(entry.user_id)
        if user is None or not user.active:
            return Reason.USER_DISABLED
        if user.breaker_open:
            return Reason.BREAKER_OPEN
        if user.unclosed + self._opened[entry.user_id] >= user.max_open_positions:
            return Reason.USER_POSITION_LIMIT
        if user.max_notional is not None and not self._spend(entry, user, user.max_notional):
            return Reason.USER_NOTIONAL_LIMIT
        self._opened[entry.user_id] += 1
        return None

    def _spend(self, entry: Intent, user: UserStanding, limit: Decimal) -> bool:
        currency = quote_of(entry.pair)
        key = entry.user_id, currency
        with exact():
            spent = self._spent[key] + notional_of(entry)
            if user.notional.get(currency, Decimal(0)) + spent > limit:
                return False
        self._spent[key] = spent
        return True
