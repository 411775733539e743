"""What a key may do, from what its venue says of it. Pure.

A key must be able to trade and to ask for its orders, and must not be able to withdraw. What a
venue does not say counts as withdrawal rights.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

KRAKEN_NEEDS: Final[Mapping[str, str]] = {
    "query-funds": "Query funds",
    "query-open-trades": "Query open orders & trades",
    "query-closed-trades": "Query closed orders & trades",
    "modify-trades": "Create & modify orders",
}
"""Permissions of Kraken that trading needs, as GetApiKeyInfo and as its website name them
(docs.kraken.com/exchange/guides/rest/api-keys)."""

KRAKEN_CANCELS: Final = "close-trades"
_WITHDRAW: Final = "withdraw"
"""In the name of everything at Kraken that moves funds out, or prepares it."""

_NO_ADDRESSES: Final = "not restricted to addresses: restrict it to the fleet's, if they are fixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRights:
    """`permissions` as the venue names them. `problems` are why the key must not be used, none:
    it may be. `remarks` are worth knowing. `account` stands for the account behind the key, None
    where the venue does not tell."""

    permissions: tuple[str, ...]
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    account: str | None = field(default=None)


def kraken_rights(granted: Iterable[object], told: Mapping[str, Any]) -> KeyRights:
    """Of the `permissions` in the result of `GetApiKeyInfo`, and of the rest of it."""
    permissions = tuple(sorted(_slug(name) for name in granted))
    problems = [*_kraken_missing(permissions)]
    problems += [
        f"it may move funds out ({name}): make one without any withdrawal permission"
        for name in permissions
        if _WITHDRAW in name
    ]
    if str(told.get("nonceWindow", 0)) not in ("0", "None"):
        problems.append("its nonce window must be 0: else Kraken may take an order twice")
    remarks = []
    if not told.get("ipAllowlist"):
        remarks.append(_NO_ADDRESSES)
    if str(told.get("validUntil", 0)) not in ("0", "None", ""):
        remarks.append("it expires: rotate it in time")
    return KeyRights(
        permissions=permissions,
        problems=tuple(problems),
        remarks=(*remarks, *_kraken_cancelling(permissions)),
        account=account_mark("kraken", told.get("iban")),
    )


def kraken_probed(allowed: Collection[str], *, withdraws: bool | None) -> KeyRights:
    """Of what was tried, where there is no `GetApiKeyInfo`. `withdraws` None: it cannot be told."""
    permissions = tuple(sorted(allowed))
    problems = [*_kraken_missing(permissions)]
    if withdraws:
        problems.append("it may move funds out: make one without any withdrawal permission")
    return KeyRights(
        permissions=permissions,
        problems=(*problems, *([UNPROVEN] if withdraws is None else [])),
    )


def binance_rights(told: Mapping[str, Any] | None, account: Mapping[str, Any]) -> KeyRights:
    """Of `apiRestrictions` and `account`; `told` None: there is no `apiRestrictions`."""
    granted = {name for name, value in (told or {}).items() if value is True}
    problems, remarks = [], []
    if told is None or not isinstance(told.get("enableWithdrawals"), bool):
        problems.append(UNPROVEN)
    elif "enableWithdrawals" in granted:
        problems.append("it may withdraw: switch off Enable Withdrawals")
    if told is not None and "enableSpotAndMarginTrading" not in granted:
        problems.append("it may not trade: switch on Enable Spot & Margin Trading")
    if told is not None and told.get("enableReading") is False:
        problems.append("it may not read: switch on Enable Reading")
    if account.get("canTrade") is False:
        problems.append("the account itself may not trade at present")
    if told is not None and "ipRestrict" not in granted:
        remarks.append(_NO_ADDRESSES)
    if granted & {"enableInternalTransfer", "permitsUniversalTransfer"}:
        remarks.append("it may transfer between accounts, which trading does not need")
    return KeyRights(
        permissions=tuple(sorted(name for name in granted if name != "ipRestrict")),
        problems=tuple(problems),
        remarks=tuple(remarks),
        account=account_mark("binance", account.get("uid")),
    )


UNPROVEN: Final = "whether it may withdraw cannot be told: the venue does not say"


def without_proof(rights: KeyRights) -> KeyRights:
    """The same, where nothing can be withdrawn anyway: at a simulator."""
    return KeyRights(
        permissions=rights.permissions,
        problems=tuple(problem for problem in rights.problems if problem != UNPROVEN),
        remarks=(*rights.remarks, *(one for one in rights.problems if one == UNPROVEN)),
        account=rights.account,
    )


def account_mark(venue: str, identity: object) -> str | None:
    """A short text that is the same for two keys of one account, and tells nothing else."""
    if not isinstance(identity, str | int) or not identity:
        return None
    return hashlib.sha256(f"botfleet|{venue}|{identity}".encode()).hexdigest()[:16]


def _kraken_missing(permissions: Collection[str]) -> list[str]:
    missing = [text for name, text in KRAKEN_NEEDS.items() if name not in permissions]
    return [f"it lacks: {', '.join(missing)}"] if missing else []


def _kraken_cancelling(permissions: Collection[str]) -> list[str]:
    if KRAKEN_CANCELS in permissions:
        return []
    return ["it lacks Cancel & close orders: what stays open could not be cancelled"]


def _slug(name: object) -> str:
    """`query-funds` of `Query Funds`."""
    return re.sub(r"[^a-z]+", "-", str(name).lower()).strip("-")
