"""Who trades at the simulated venues: accounts with balances, and the API keys to them."""

import base64
import binascii
import secrets
import string
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from shared.errors import Refused
from shared.money import exact, plain
from shared.venues import BINANCE, KRAKEN, VENUES

_ALPHANUMERIC: Final = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """What an API key may do."""

    query: bool = True
    trade: bool = True
    withdraw: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an account pays.

    `taker_fee` is a fraction of what is traded. With `fee_in_coin` a buy's fee is taken from
    the coin that was bought, otherwise from the quote currency, as that of a sell always is.
    While there is enough of `fee_asset` (such as BNB) every fee is taken from it instead.
    """

    taker_fee: Decimal
    fee_in_coin: bool
    fee_asset: str | None = None


@dataclass(slots=True)
class Balance:
    """Of one currency: what can be used, and what open orders have set aside."""

    free: Decimal = Decimal(0)
    held: Decimal = Decimal(0)

    @property
    def total(self) -> Decimal:
        with exact():
            return self.free + self.held


@dataclass(slots=True, kw_only=True)
class Account:
    """One customer of one venue. `name` is ours; several API keys may lead to it."""

    name: str
    venue: str
    terms: Terms
    balances: dict[str, Balance] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """What the venue knows it by: the same for all its keys, and after a restart."""
        return zlib.crc32(f"{self.venue}|{self.name}".encode())

    def balance(self, currency: str) -> Balance:
        """It is there from now on, at nothing, if the account never had the currency."""
        return self.balances.setdefault(currency, Balance())

    def add(self, currency: str, amount: Decimal) -> None:
        """Move the free balance by a positive or negative amount."""
        balance = self.balance(currency)
        with exact():
            balance.free += amount

    def hold(self, currency: str, amount: Decimal) -> None:
        """Set some of the free balance aside, or give back with a negative amount."""
        balance = self.balance(currency)
        with exact():
            balance.free -= amount
            balance.held += amount


@dataclass(slots=True, kw_only=True)
class ApiKey:
    """A key to an account, with the secret that signs its requests."""

    key: str
    secret: str = field(repr=False)
    account: Account
    permissions: Permissions = field(default_factory=Permissions)
    revoked: bool = False


class Accounts:
    """Every account and key, of both venues. Keys are unique over both."""

    def __init__(self) -> None:
        self._accounts: dict[tuple[str, str], Account] = {}
        self._keys: dict[str, ApiKey] = {}

    def add(self, key: ApiKey) -> None:
        """Raises `Refused` for a key that is known."""
        if key.key in self._keys:
            raise Refused(f"there is an API key {key.key} already: choose another")
        self._keys[key.key] = key
        self._accounts[key.account.venue, key.account.name] = key.account

    def account(self, venue: str, name: str) -> Account | None:
        return self._accounts.get((venue, name))

    def named(self, venue: str, key: str) -> ApiKey | None:
        """The venue's API key of this name, revoked or not; None if it never was."""
        found = self._keys.get(key)
        return found if found is not None and found.account.venue == venue else None

    def revoke(self, key: str) -> ApiKey:
        """The venue refuses the key from now on. Raises `Refused` for an unknown one."""
        found = self._keys.get(key)
        if found is None:
            raise Refused(f"there is no API key {key}: GET /simulator/accounts lists them")
        found.revoked = True
        return found

    def all(self) -> Iterable[ApiKey]:
        """In the order in which they came."""
        return self._keys.values()

    def told(self) -> list[dict[str, Any]]:
        """Accounts with their balances and keys, for `GET /simulator/accounts`: no secrets."""
        keys: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for key in self._keys.values():
            keys[key.account.venue, key.account.name].append(told_key(key))
        return [
            {**told_account(account), "keys": keys[name]}
            for name, account in self._accounts.items()
        ]


def told_account(account: Account) -> dict[str, Any]:
    """An account as JSON, amounts as text. `key_of` understands all but `balances`."""
    return {
        "venue": account.venue,
        "name": account.name,
        "taker_fee": plain(account.terms.taker_fee),
        "fee_in_coin": account.terms.fee_in_coin,
        "fee_asset": account.terms.fee_asset,
        "balances": {
            currency: {"free": plain(balance.free), "held": plain(balance.held)}
            for currency, balance in sorted(account.balances.items())
        },
    }


def told_key(key: ApiKey) -> dict[str, Any]:
    """A key as JSON, without its secret."""
    return {"key": key.key, "permissions": asdict(key.permissions), "revoked": key.revoked}


_FIELDS: Final = (
    *("venue", "name", "key", "secret", "permissions"),
    *("balances", "taker_fee", "fee_in_coin", "fee_asset"),
)


def key_of(fields: Mapping[str, Any], accounts: Accounts) -> ApiKey:
    """A new API key from a JSON object; it is not in `accounts` yet.

    `venue` is all it needs. `name` is the account's, a new one or one that is there, which
    then gets another key (and no `balances` or fees). `key` and `secret` are drawn if absent.
    `permissions` is an object of `query`, `trade` and `withdraw`; `balances` are amounts by
    currency, as text or numbers; `taker_fee`, `fee_in_coin` and `fee_asset` as in `Terms`.

    Raises `Refused` with the field, what it was and what would be right.
    """
    unknown = sorted(set(fields) - set(_FIELDS))
    if unknown:
        raise Refused(f"{unknown[0]} is not a field of an account; they are {', '.join(_FIELDS)}")
    venue = fields.get("venue")
    if not isinstance(venue, str) or venue not in VENUES:
        raise Refused(f"venue must be one of {', '.join(VENUES)}, was {venue!r}")
    for name in ("name", "key", "secret", "fee_asset"):
        value = fields.get(name)
        if value is not None and not (isinstance(value, str) and value.isascii() and value):
            raise Refused(f"{name} must be a text of plain letters")
    key = fields.get("key") or _drawn_key(venue)
    return ApiKey(
        key=key,
        secret=_secret(venue, fields.get("secret")),
        account=_account(venue, key, fields, accounts),
        permissions=_permissions(fields.get("permissions", {})),
    )


def _account(venue: str, key: str, fields: Mapping[str, Any], accounts: Accounts) -> Account:
    name = fields.get("name") or f"of {key[:8]}"
    known = accounts.account(venue, name)
    terms = {"balances", "taker_fee", "fee_in_coin", "fee_asset"} & set(fields)
    if known is not None:
        if terms:
            raise Refused(f"the account {name} is there already: {min(terms)} cannot be given")
        return known
    fee_in_coin = fields.get("fee_in_coin", venue == BINANCE.name)
    if type(fee_in_coin) is not bool:
        raise Refused(f"fee_in_coin must be true or false, was {fee_in_coin!r}")
    account = Account(
        name=name,
        venue=venue,
        terms=Terms(
            taker_fee=_amount("taker_fee", fields.get("taker_fee", VENUES[venue].taker_fee)),
            fee_in_coin=fee_in_coin,
            fee_asset=fields.get("fee_asset"),
        ),
    )
    if account.terms.taker_fee >= 1:
        raise Refused(f"taker_fee must be a fraction below 1, was {account.terms.taker_fee}")
    balances = fields.get("balances", {})
    if not isinstance(balances, Mapping):
        raise Refused(f"balances must be amounts by currency, were {balances!r}")
    for currency, amount in balances.items():
        account.add(str(currency), _amount(f"the balance of {currency}", amount))
    return account


def _permissions(fields: object) -> Permissions:
    names = Permissions.__slots__
    if not isinstance(fields, Mapping) or not all(
        name in names and type(value) is bool for name, value in fields.items()
    ):
        raise Refused(f"permissions must say true or false of {', '.join(names)}, was {fields!r}")
    return Permissions(**fields)


def _amount(name: str, value: object) -> Decimal:
    try:
        amount = Decimal(value if isinstance(value, Decimal) else str(value))
    except InvalidOperation:
        raise Refused(f"{name} must be a number, was {value!r}") from None
    if not amount.is_finite() or amount < 0:
        raise Refused(f"{name} must be a number of at least 0, was {value!r}")
    return amount


def _drawn_key(venue: str) -> str:
    """Kraken's keys are 56 characters of base 64, Binance's 64 letters and digits."""
    if venue == KRAKEN.name:
        return base64.b64encode(secrets.token_bytes(42)).decode()
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(64))


def _secret(venue: str, given: str | None) -> str:
    if venue != KRAKEN.name:
        return given or _drawn_key(venue)
    if given is None:
        return base64.b64encode(secrets.token_bytes(64)).decode()
    try:
        base64.b64decode(given, validate=True)
    except binascii.Error:
        raise Refused("a Kraken secret must be base 64") from None
    return given
