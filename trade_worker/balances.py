"""What each key can spend, known without asking where it is decided.

A balance is asked for in the background, the first time that somebody wants to know it. From
then on it is the venue's word minus what our own orders took since, and minus what is set aside
for orders whose outcome is not known. It may be too low for a while, never knowingly too high:
the venue would refuse, and the refusal is what `forget` is for.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from shared.clock import monotonic_secs
from shared.errors import CredentialRefused, RetryLater, VenueUnavailable
from shared.money import exact

log = logging.getLogger(__name__)

FRESH_SECS: Final = 600.0
"""A balance that is older is asked for again the next time that it is looked at."""

FRESH_WHERE_TOO_SMALL_SECS: Final = 60.0
"""The same, where there was not enough: its owner may have paid in."""

USABLE_SECS: Final = 3_600.0
"""A balance that is older is not known."""

SEEN_BY_VENUE_SECS: Final = 120.0
"""A balance asked for so long after an order was decided accounts for it. (3 s to be sent, up to
60 s until Kraken shows it.)"""

RETRY_SECS: Final = 5.0
MAX_RETRY_SECS: Final = 300.0
MAX_ACCOUNTS: Final = 20_000
MAX_ASKS: Final = 4

_NOTHING: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class _Reserved:
    currency: str
    cost: Decimal
    since_secs: float


@dataclass(slots=True)
class _Account:
    """What is known of one credential. `told` None: nothing.

    `asked_secs` is when the question was asked that `told` answers, `spent` what our orders that
    ended took since, `spent_while_asking` what they took since the question that is on its way:
    its answer may account for it or not. `version` changes where answers to what was asked
    before count no more. `again`: ask, however fresh it is.
    """

    told: Mapping[str, Decimal] | None = None
    asked_secs: float = 0.0
    spent: dict[str, Decimal] = field(default_factory=dict)
    spent_while_asking: dict[str, Decimal] = field(default_factory=dict)
    reserved: dict[str, _Reserved] = field(default_factory=dict)
    version: int = 0
    again: bool = False
    failures: int = 0
    not_before_secs: float = 0.0

    def free(self, told: Mapping[str, Decimal], currency: str) -> Decimal:
        free = told.get(currency, _NOTHING) - self.spent.get(currency, _NOTHING)
        return free - sum(
            (each.cost for each in self.reserved.values() if each.currency == currency), _NOTHING
        )


class Balances:
    """The balances of the credentials of one worker's bots; the least used are forgotten first.

    `ask` is `VenueOrders.balances`; at most `max_asks` are on their way at once. `run` must run
    for anything to become known.
    """

    def __init__(
        self,
        *,
        ask: Callable[[int], Awaitable[Mapping[str, Decimal]]],
        now_secs: Callable[[], float] = monotonic_secs,
        max_accounts: int = MAX_ACCOUNTS,
        max_asks: int = MAX_ASKS,
    ) -> None:
        self._ask = ask
        self._now_secs = now_secs
        self._max_accounts = max_accounts
        self._max_asks = max_asks
        self._accounts: OrderedDict[int, _Account] = OrderedDict()
        self._credentials: dict[str, int] = {}
        """Of the orders that something is set aside for."""
        self._wanted: OrderedDict[int, None] = OrderedDict()
        self._asking: set[int] = set()
        self._more = asyncio.Event()

    async def run(self) -> None:
        """Ask for what is wanted, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._max_asks):
                tasks.create_task(self._ask_on(), name=f"balances {number}")

    def room_for(self, credential_id: int, currency: str, cost: Decimal) -> bool | None:
        """Whether so much can be spent now; None: not known yet, but asked for soon.

        Never waits. What is not fresh is asked for again meanwhile.
        """
        account = self._account(credential_id)
        age_secs = self._now_secs() - account.asked_secs
        if account.told is None or age_secs > USABLE_SECS:
            self._want(credential_id, account)
            return None
        with exact():
            enough = account.free(account.told, currency) >= cost
        if account.again or age_secs > (FRESH_SECS if enough else FRESH_WHERE_TOO_SMALL_SECS):
            self._want(credential_id, account)
        return enough

    def reserve(self, order_id: str, *, credential_id: int, currency: str, cost: Decimal) -> None:
        """Set so much aside for an order, until `settle` or `release`."""
        account = self._account(credential_id)
        account.reserved[order_id] = _Reserved(currency, cost, self._now_secs())
        self._credentials[order_id] = credential_id

    def settle(self, order_id: str, *, spent: Decimal) -> None:
        """An order ended and took so much of what it was to spend. One for which nothing is set
        aside changes nothing."""
        found = self._take_back(order_id)
        if found is None or not spent:
            return
        credential_id, account, reserved = found
        with exact():
            _add(account.spent, reserved.currency, spent)
            if credential_id in self._asking:
                _add(account.spent_while_asking, reserved.currency, spent)
        if reserved.since_secs <= account.asked_secs:
            # What the venue told after that may account for it already.
            self._ask_again(credential_id, account)

    def release(self, order_id: str) -> None:
        """An order took nothing. Nothing happens where nothing is set aside for it."""
        self._take_back(order_id)

    def renew(self, credential_id: int) -> None:
        """Something came in: ask again soon; what is known counts until then."""
        account = self._accounts.get(credential_id)
        if account is not None and account.told is not None:
            self._ask_again(credential_id, account)

    def forget(self, credential_id: int) -> None:
        """The venue refused: what is known is wrong, so nothing is, until it is asked again."""
        account = self._accounts.get(credential_id)
        if account is not None:
            account.told = None
            account.version += 1
            self._want(credential_id, account)

    def report(self) -> dict[str, Any]:
        """What `status` may show, as JSON."""
        return {
            "known": sum(1 for account in self._accounts.values() if account.told is not None),
            "wanted": len(self._wanted),
            "asking": len(self._asking),
            "reserved_for": len(self._credentials),
        }

    def _account(self, credential_id: int) -> _Account:
        account = self._accounts.get(credential_id)
        if account is not None:
            self._accounts.move_to_end(credential_id)
            return account
        if len(self._accounts) >= self._max_accounts:
            oldest_id, oldest = self._accounts.popitem(last=False)
            self._wanted.pop(oldest_id, None)
            for order_id in oldest.reserved:
                del self._credentials[order_id]
        account = self._accounts[credential_id] = _Account()
        return account

    def _take_back(self, order_id: str) -> tuple[int, _Account, _Reserved] | None:
        credential_id = self._credentials.pop(order_id, None)
        if credential_id is None:
            return None
        account = self._accounts[credential_id]
        return credential_id, account, account.reserved.pop(order_id)

    def _ask_again(self, credential_id: int, account: _Account) -> None:
        account.again = True
        self._want(credential_id, account)

    def _want(self, credential_id: int, account: _Account) -> None:
        """Have it asked, unless that is under way, or failed just now."""
        if credential_id not in self._asking and self._now_secs() >= account.not_before_secs:
            self._wanted[credential_id] = None
            self._more.set()

    async def _ask_on(self) -> None:
        while True:
            while self._wanted:
                credential_id, _ = self._wanted.popitem(last=False)
                self._asking.add(credential_id)
                try:
                    await self._learn(credential_id, self._accounts[credential_id])
                finally:
                    self._asking.discard(credential_id)
                account = self._accounts.get(credential_id)
                if account is not None and (account.told is None or account.again):
                    self._want(credential_id, account)
            self._more.clear()
            await self._more.wait()

    async def _learn(self, credential_id: int, account: _Account) -> None:
        asked_secs, version = self._now_secs(), account.version
        account.again = False
        account.spent_while_asking = {}
        try:
            told = await self._ask(credential_id)
        except (RetryLater, CredentialRefused) as exc:
            # Not only the venue may be away: the key may have to be read from the database.
            self._failed(account, exc)
            log.info("the balance of credential %d is not known: %s", credential_id, exc)
            return
        account.failures = 0
        if account.version != version:
            return
        account.told = dict(told)
        account.asked_secs = asked_secs
        account.spent = account.spent_while_asking
        account.again = account.again or bool(account.spent)
        for order_id, reserved in tuple(account.reserved.items()):
            if reserved.since_secs <= asked_secs - SEEN_BY_VENUE_SECS:
                self.release(order_id)

    def _failed(self, account: _Account, exc: Exception) -> None:
        account.failures += 1
        account.again = True
        wait_secs = min(RETRY_SECS * 2 ** min(account.failures - 1, 10), MAX_RETRY_SECS)
        if isinstance(exc, CredentialRefused):
            account.told = None
        elif isinstance(exc, VenueUnavailable):
            wait_secs = max(wait_secs, min(exc.retry_after_secs or 0.0, MAX_RETRY_SECS))
        account.not_before_secs = self._now_secs() + wait_secs


def _add(amounts: dict[str, Decimal], currency: str, amount: Decimal) -> None:
    amounts[currency] = amounts.get(currency, _NOTHING) + amount
