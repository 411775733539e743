"""The venues' customers: how they come, and what a journal remembers of them."""

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from ecosystem.venue_simulator import order_lines
from ecosystem.venue_simulator.accounts import (
    Account,
    Accounts,
    ApiKey,
    Permissions,
    Terms,
    key_of,
    told_account,
    told_key,
)
from ecosystem.venue_simulator.filling import move_balances
from ecosystem.venue_simulator.journal import Entry, Journal, JournalBroken
from ecosystem.venue_simulator.orders import VenueOrder, VenueOrderStatus
from ecosystem.venue_simulator.trading import Trading


class KeyFile:
    """The secrets of the API keys in a journal, apart from it: JSON lines that only the owner
    of the file can read. With no path nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def load(self) -> dict[str, str]:
        """Secrets by key. Raises `JournalBroken`."""
        if self._path is None:
            return {}
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
            entries = [json.loads(line) for line in lines]
            return {entry["key"]: entry["secret"] for entry in entries}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError):
            # Not the exception's text: it may quote a secret.
            raise JournalBroken(f"{self._path} is not a file of API keys") from None

    def add(self, keys: Sequence[ApiKey]) -> None:
        """Append, and return when it is on disk. Raises `JournalBroken`."""
        if self._path is None or not keys:
            return
        lines = "".join(json.dumps({"key": key.key, "secret": key.secret}) + "\n" for key in keys)
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(file, "w", encoding="utf-8") as stream:
                stream.write(lines)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as exc:
            raise JournalBroken(f"{self._path} cannot be written: {exc}") from exc


class Customers:
    """Opens accounts and gives out API keys to them, and writes both down."""

    def __init__(
        self, *, journal: Journal, key_file: KeyFile, tradings: Mapping[str, Trading]
    ) -> None:
        self.accounts = Accounts()
        self._journal = journal
        self._key_file = key_file
        self._tradings = tradings

    async def enter(self, customers: Iterable[Mapping[str, Any]]) -> list[ApiKey]:
        """New API keys, each from the fields of `accounts.key_of`; on disk on return.

        Raises `Refused` at the first that makes no sense; those before it have come.
        """
        keys: list[ApiKey] = []
        lines: list[dict[str, Any]] = []
        try:
            for fields in customers:
                key = key_of(fields, self.accounts)
                account = key.account
                if self.accounts.account(account.venue, account.name) is None:
                    lines.append(_account_line(account))
                self.accounts.add(key)
                keys.append(key)
                lines.append(_key_line(key))
        finally:
            # The secrets first: a journal that knows a key without one could not be taken up.
            await asyncio.to_thread(self._key_file.add, keys)
            for line in lines:
                self._journal.write(line.pop("type"), **line)
            await self._journal.on_disk()
        return keys

    async def revoke(self, key: str) -> None:
        """The venue refuses the key from now on, on disk on return. Raises `Refused` if there is
        no such key."""
        found = self.accounts.revoke(key)
        self._journal.write("revoked", venue=found.account.venue, key=key)
        await self._journal.on_disk()

    def restore(self, entries: Iterable[Entry]) -> None:
        """Everything that a journal says: accounts, keys, orders, trades, balances.

        Raises `JournalBroken` for entries that do not fit together.
        """
        past = _Past(accounts=self.accounts, secrets=self._key_file.load())
        # A key may have been used before its own line was written.
        in_order = sorted(entries, key=lambda entry: entry["type"] not in _CUSTOMER_LINES)
        for entry in in_order:
            try:
                past.read(entry)
            except (KeyError, ValueError, TypeError, ArithmeticError) as exc:
                raise JournalBroken(f"the journal makes no sense at {entry}") from exc
        for account, orders in past.orders():
            self._tradings[account.venue].restore(account, orders)


_CUSTOMER_LINES: Final = ("account", "key", "revoked")


def _account_line(account: Account) -> dict[str, Any]:
    fields = told_account(account)
    return {"type": "account", "account": fields.pop("name"), **fields}


def _key_line(key: ApiKey) -> dict[str, Any]:
    account = key.account
    return {"type": "key", "venue": account.venue, "account": account.name, **told_key(key)}


class _Past:
    """What entries add up to."""

    def __init__(self, *, accounts: Accounts, secrets: Mapping[str, str]) -> None:
        self._accounts = accounts
        self._secrets = secrets
        self._named: dict[tuple[str, str], Account] = {}
        self._orders: defaultdict[tuple[str, str], dict[str, VenueOrder]] = defaultdict(dict)

    def orders(self) -> Iterable[tuple[Account, list[VenueOrder]]]:
        """Each account's orders, in the order of acceptance."""
        for name, orders in self._orders.items():
            yield self._named[name], list(orders.values())

    def read(self, entry: Entry) -> None:
        match entry["type"]:
            case "account":
                self._named[entry["venue"], entry["account"]] = _account(entry)
            case "key":
                self._key(entry)
            case "revoked":
                self._accounts.revoke(entry["key"])
            case "accepted":
                self._of(entry)[entry["order_id"]] = order_lines.accepted_of(entry)
            case "filled":
                self._fill(entry)
            case "ended":
                order_lines.end(self._of(entry)[entry["order_id"]], entry)

    def _of(self, entry: Entry) -> dict[str, VenueOrder]:
        return self._orders[entry["venue"], entry["account"]]

    def _key(self, entry: Entry) -> None:
        if entry["key"] not in self._secrets:
            raise JournalBroken(
                f"the journal knows the API key {entry['key']}, but the file beside it that ends "
                "in .keys does not: bring it back, or start with another journal"
            )
        self._accounts.add(
            ApiKey(
                key=entry["key"],
                secret=self._secrets[entry["key"]],
                account=self._named[entry["venue"], entry["account"]],
                permissions=Permissions(**entry["permissions"]),
                revoked=entry["revoked"],
            )
        )

    def _fill(self, entry: Entry) -> None:
        trade = order_lines.trade_of(entry)
        order = self._of(entry)[trade.order_id]
        order.trades.append(trade)
        move_balances(self._named[entry["venue"], entry["account"]], trade)
        if not order.remaining:
            order.status = VenueOrderStatus.FILLED
            order.ended_at_ms = trade.at_ms


def _account(entry: Entry) -> Account:
    account = Account(
        name=entry["account"],
        venue=entry["venue"],
        terms=Terms(
            taker_fee=Decimal(entry["taker_fee"]),
            fee_in_coin=entry["fee_in_coin"],
            fee_asset=entry["fee_asset"],
        ),
    )
    for currency, balance in entry["balances"].items():
        account.add(currency, Decimal(balance["free"]))
    return account
