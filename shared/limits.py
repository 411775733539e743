"""What stops harm, by name: users' standing, breakers and kill switches."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class UserStatus(StrEnum):
    """Whether a user's bots may enter."""

    ACTIVE = "active"
    DISABLED = "disabled"
    """No entries for any of the user's bots; exits go on."""


class BreakerScope(StrEnum):
    """Whom an open breaker stops."""

    BOT = "bot"
    USER = "user"


class BreakerKind(StrEnum):
    """What opened a breaker."""

    LOSS_STREAK = "loss_streak"
    DAILY_LOSS = "daily_loss"


class KillSwitchScope(StrEnum):
    """Whom a kill switch stops."""

    FLEET = "fleet"
    VENUE = "venue"
    USER = "user"
    BOT = "bot"


class KillSwitchLevel(StrEnum):
    """How much a kill switch stops, from nothing to everything."""

    OFF = "off"
    ENTRIES = "entries"
    """No new positions; exits go on."""
    FLATTEN = "flatten"
    """No new positions, and what is open is sold."""
    ALL = "all"
    """Nothing new is sent; cancelling and reconciling go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KillSwitches:
    """The kill switches that are on: level by scope and its key ('' fleet, venue, id).

    `version` grows with every change of any switch; what is on is at least as new as it says.
    """

    levels: Mapping[tuple[KillSwitchScope, str], KillSwitchLevel] = field(default_factory=dict)
    version: int = 0

    def over(self, *, bot_id: int, user_id: int, venue: str) -> frozenset[KillSwitchLevel]:
        """The levels of every switch that covers a bot; empty: none does."""
        if not self.levels:
            return frozenset()
        keys = (
            (KillSwitchScope.FLEET, ""),
            (KillSwitchScope.VENUE, venue),
            (KillSwitchScope.USER, str(user_id)),
            (KillSwitchScope.BOT, str(bot_id)),
        )
        return frozenset(self.levels[key] for key in keys if key in self.levels)
