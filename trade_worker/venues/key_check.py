"""Asks a venue what a bare key may do and what is on its account, before anything trusts it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from shared.clock import monotonic_secs
from shared.errors import CredentialRefused, VenueUnavailable
from shared.request_limits import Request
from shared.vault import ApiKey
from shared.venues import KRAKEN, Said, Venue
from trade_worker.key_rights import (
    KeyRights,
    binance_rights,
    kraken_probed,
    kraken_rights,
    without_proof,
)
from trade_worker.venues.binance import BinanceDialect
from trade_worker.venues.clients import client_for
from trade_worker.venues.dialect import Call, Times
from trade_worker.venues.kraken import KrakenDialect
from trade_worker.venues.replies import Judged, Unreadable, answer_of, judge, mapping, number, rows
from trade_worker.venues.symbols import currency_named
from trade_worker.venues.wire import Reply, VenueClient, venue_session

WINDOW_MS: Final = 5_000

_JUMPS: Final = (False, False, True, True, True)
"""Whether the nonces jump ahead before each attempt: a worker may use the key at this moment."""

_NO_SUCH_CALL: Final = frozenset({404, 405, 501})
_PERMISSION_DENIED: Final = "EGeneral:Permission denied"
_UNKNOWN_METHOD: Final = "EGeneral:Unknown method"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyCheck:
    """What the venue says of a key; `balances` are what is free, by our names of currencies."""

    rights: KeyRights
    balances: Mapping[str, Decimal]


async def check_key(
    venue: Venue, key: ApiKey, *, url: str, proxy_url: str | None = None
) -> KeyCheck:
    """Ask with the key itself: nothing is placed, moved or changed.

    Raises `CredentialRefused` if the venue refuses the key, and `VenueUnavailable`.
    """
    session = venue_session(proxy_url=proxy_url)
    try:
        client = client_for(venue, url=url, key=key, session=session)
        async with _readable(venue):
            rights, told = await (_kraken if venue is KRAKEN else _binance)(_Asker(venue, client))
        client.forget()
    finally:
        await session.close()
    return KeyCheck(
        # A simulator that knows nothing of withdrawals has nothing to withdraw.
        rights=rights if url == venue.url else without_proof(rights),
        balances={currency_named(venue, code): left for code, left in sorted(told.items()) if left},
    )


class _Asker:
    """One key's questions, each repeated where the venue only found its time or nonce wrong."""

    def __init__(self, venue: Venue, client: VenueClient) -> None:
        self._venue = venue
        self._client = client
        self._ahead_ms: float | None = None
        """The venue's clock minus our monotonic one, once that turned out to matter."""

    async def ask(self, call: Call) -> Judged:
        """A call's reply, judged."""
        return self._judged(await self._reply(call))

    async def if_there(self, call: Call) -> Judged | None:
        """The same; None where the venue has no such call."""
        reply = await self._reply(call)
        judged = self._judged(reply)
        if reply.status in _NO_SUCH_CALL or _UNKNOWN_METHOD in judged.text:
            return None
        return judged

    async def _reply(self, call: Call) -> Reply:
        for jump in _JUMPS:
            if jump and self._client.lane is not None:
                self._client.lane.nonces.nudge()
            reply = await self._client.call(
                call.path, self._stamped(call).params, method=call.method, api=call.api
            )
            if self._judged(reply).said is not Said.OUT_OF_STEP:
                return reply
            if self._venue is not KRAKEN:
                await self._learn_time()
        raise CredentialRefused(
            "the venue keeps finding the nonce too low: another program uses this key. Make one "
            "for botfleet alone"
            if self._venue is KRAKEN
            else "the venue keeps finding the time of our requests wrong: set this machine's clock"
        )

    def _stamped(self, call: Call) -> Call:
        if self._ahead_ms is None:
            return call
        now_ms = int(1000 * monotonic_secs() + self._ahead_ms)
        times = Times(now_ms=now_ms, deadline_ms=now_ms + WINDOW_MS)
        return BinanceDialect().stamped(call, times)

    async def _learn_time(self) -> None:
        reply = await self._client.call("time", method="GET", api="public")
        told = mapping(answer_of(self._judged(reply))).get("serverTime")
        self._ahead_ms = float(number(told)) - 1000 * reply.read_at_secs

    def _judged(self, reply: Reply) -> Judged:
        return judge(self._venue, status=reply.status, headers=reply.headers, body=reply.body)


_Found = tuple[KeyRights, Mapping[str, Decimal]]


async def _kraken(asker: _Asker) -> _Found:
    told = await asker.if_there(_kraken_call("GetApiKeyInfo"))
    if told is None:
        rights = await _kraken_by_trying(asker)
    else:
        info = mapping(mapping(answer_of(told)).get("result"))
        rights = kraken_rights(rows(info.get("permissions")), info)
    if "query-funds" not in rights.permissions:
        return rights, {}
    return rights, await KrakenDialect().balances(asker.ask)


async def _kraken_by_trying(asker: _Asker) -> KeyRights:
    allowed = []
    for permission, call in _KRAKEN_TRIES.items():
        judged = await asker.ask(call)
        if judged.said is Said.KEY_REFUSED and _PERMISSION_DENIED not in judged.text:
            answer_of(judged)
        if _PERMISSION_DENIED not in judged.text:
            allowed.append(permission)
    tried = await asker.if_there(_kraken_call("WithdrawMethods"))
    withdraws = None if tried is None else _PERMISSION_DENIED not in tried.text
    return kraken_probed(allowed, withdraws=withdraws)


def _kraken_call(path: str, **params: str) -> Call:
    return Call(request=Request.PERMISSIONS, path=path, params=params)


_KRAKEN_TRIES: Final[Mapping[str, Call]] = {
    "query-funds": _kraken_call("Balance"),
    "query-open-trades": _kraken_call("OpenOrders"),
    "query-closed-trades": _kraken_call("ClosedOrders"),
    # Only to be validated, and of nothing: no venue can make an order of it.
    "modify-trades": _kraken_call(
        "AddOrder", pair="XBTUSD", type="buy", ordertype="market", volume="0", validate="true"
    ),
}


async def _binance(asker: _Asker) -> _Found:
    told = await asker.if_there(
        Call(
            request=Request.PERMISSIONS,
            path="account/apiRestrictions",
            params={},
            method="GET",
            api="sapi",
        )
    )
    account = mapping(
        answer_of(
            await asker.ask(Call(request=Request.BALANCES, path="account", params={}, method="GET"))
        )
    )
    restrictions = None if told is None else mapping(answer_of(told))
    return binance_rights(restrictions, account), await BinanceDialect().balances(asker.ask)


@asynccontextmanager
async def _readable(venue: Venue) -> AsyncIterator[None]:
    try:
        yield
    except Unreadable as exc:
        raise VenueUnavailable(f"{venue.name} answered what cannot be read: {exc}") from None
    except VenueUnavailable as exc:
        raise VenueUnavailable(
            f"{venue.name} {exc}", retry_after_secs=exc.retry_after_secs
        ) from None
