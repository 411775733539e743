"""What a key can spend: the venue's word minus what is ours already, never asked for on the way."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal

import pytest

from shared.errors import CredentialRefused, StoreUnavailable, VenueUnavailable
from trade_worker.balances import (
    FRESH_SECS,
    FRESH_WHERE_TOO_SMALL_SECS,
    MAX_RETRY_SECS,
    RETRY_SECS,
    SEEN_BY_VENUE_SECS,
    USABLE_SECS,
    Balances,
)


class Accounts:
    """A venue's accounts: what a test puts there; `hold` keeps its answers back."""

    def __init__(self) -> None:
        self.usd = Decimal(100)
        self.error: Exception | None = None
        self.asked: list[int] = []
        self.most_at_once = 0
        self._open = asyncio.Event()
        self._open.set()
        self._at_once = 0

    def hold(self) -> None:
        self._open.clear()

    def answer(self) -> None:
        self._open.set()

    async def balances(self, credential_id: int) -> Mapping[str, Decimal]:
        self.asked.append(credential_id)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        told = {"USD": self.usd}
        try:
            await self._open.wait()
        finally:
            self._at_once -= 1
        if self.error is not None:
            raise self.error
        return told


class Bench:
    """Balances on such accounts, with a clock that the test moves."""

    def __init__(self, *, max_accounts: int = 100) -> None:
        self.now_secs = 1_000.0
        self.accounts = Accounts()
        self.balances = Balances(
            ask=self.accounts.balances,
            now_secs=lambda: self.now_secs,
            max_accounts=max_accounts,
            max_asks=3,
        )

    def room(self, cost: int, credential_id: int = 1) -> bool | None:
        return self.balances.room_for(credential_id, "USD", Decimal(cost))

    def reserve(self, order_id: str, cost: int, credential_id: int = 1) -> None:
        self.balances.reserve(
            order_id, credential_id=credential_id, currency="USD", cost=Decimal(cost)
        )

    def asks(self) -> int:
        return len(self.accounts.asked)


async def rest() -> None:
    """Let everything happen that can."""
    for _ in range(10):
        await asyncio.sleep(0)


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[None]:
    task = asyncio.create_task(bench.balances.run())
    try:
        await rest()
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()


@asynccontextmanager
async def known(**options: int) -> AsyncIterator[Bench]:
    """Where credential 1 is known to have 100 USD."""
    bench = Bench(**options)
    async with running(bench):
        assert bench.room(1) is None
        await rest()
        assert bench.asks() == 1
        bench.now_secs += 1
        yield bench


async def test_a_balance_is_unknown_until_the_venue_has_told_it() -> None:
    bench = Bench()
    async with running(bench):
        bench.accounts.hold()
        assert [bench.room(100), bench.room(100)] == [None, None]
        await rest()
        assert bench.room(100) is None
        bench.accounts.answer()
        await rest()
        assert bench.room(100) is True
        assert bench.room(101) is False
        assert bench.balances.room_for(1, "EUR", Decimal(1)) is False
        assert bench.asks() == 1


async def test_what_is_set_aside_cannot_be_spent_twice() -> None:
    async with known() as bench:
        bench.reserve("x", 60)
        assert bench.room(41) is False
        assert bench.room(40) is True
        bench.balances.release("x")
        bench.balances.release("x")
        assert bench.room(100) is True


async def test_what_an_order_took_is_gone_and_the_rest_is_free_again() -> None:
    async with known() as bench:
        bench.reserve("x", 60)
        bench.balances.settle("x", spent=Decimal(25))
        bench.balances.release("x")
        bench.balances.settle("x", spent=Decimal(25))
        assert bench.room(75) is True
        assert bench.room(76) is False
        await rest()
        assert bench.asks() == 1


async def test_an_old_balance_counts_while_it_is_asked_again_and_a_very_old_one_does_not() -> None:
    async with known() as bench:
        bench.now_secs += FRESH_SECS
        bench.accounts.usd = Decimal(7)
        assert bench.room(100) is True
        await rest()
        assert bench.room(8) is False
        bench.now_secs += USABLE_SECS + 1
        assert bench.room(7) is None
        await rest()
        assert bench.room(7) is True


async def test_too_little_is_asked_again_sooner() -> None:
    async with known() as bench:
        bench.now_secs += FRESH_WHERE_TOO_SMALL_SECS
        bench.accounts.usd = Decimal(500)
        assert bench.room(100) is True
        await rest()
        assert bench.asks() == 1
        assert bench.room(300) is False
        await rest()
        assert bench.room(300) is True


async def test_after_a_refusal_nothing_is_known_until_it_is_asked_again() -> None:
    async with known() as bench:
        bench.accounts.usd = Decimal(3)
        bench.balances.forget(1)
        assert bench.room(1) is None
        await rest()
        assert bench.room(4) is False
        bench.balances.forget(99)
        assert bench.asks() == 2


async def test_an_answer_to_a_question_from_before_a_refusal_does_not_count() -> None:
    async with known() as bench:
        bench.now_secs += FRESH_SECS
        bench.accounts.hold()
        assert bench.room(100) is True
        await rest()
        bench.accounts.usd = Decimal(3)
        bench.balances.forget(1)
        bench.accounts.answer()
        await rest()
        assert bench.asks() == 3
        assert bench.room(4) is False


async def test_what_comes_in_is_asked_for_and_what_is_known_counts_meanwhile() -> None:
    async with known() as bench:
        bench.accounts.usd = Decimal(150)
        bench.balances.renew(1)
        assert bench.room(100) is True
        await rest()
        assert bench.room(150) is True
        bench.balances.renew(99)
        assert bench.asks() == 2


async def test_what_was_spent_while_the_venue_was_asked_is_never_counted_as_free() -> None:
    async with known() as bench:
        bench.now_secs += FRESH_SECS
        bench.accounts.hold()
        assert bench.room(1) is True
        await rest()
        bench.reserve("x", 60)
        bench.balances.settle("x", spent=Decimal(60))
        bench.accounts.usd = Decimal(40)
        bench.accounts.answer()
        await rest()
        # The first answer said 100; the next one, asked afterwards, says 40.
        assert bench.asks() == 3
        assert bench.room(40) is True
        assert bench.room(41) is False


async def test_an_order_that_the_balance_may_account_for_makes_it_ask_again() -> None:
    async with known() as bench:
        bench.now_secs += FRESH_SECS
        bench.reserve("x", 60)
        bench.now_secs += 1
        bench.accounts.usd = Decimal(40)
        assert bench.room(1) is True
        await rest()
        assert bench.room(1) is False
        bench.balances.settle("x", spent=Decimal(60))
        await rest()
        assert bench.room(40) is True


async def test_nothing_stays_set_aside_for_an_order_that_another_worker_settled() -> None:
    async with known() as bench:
        bench.reserve("x", 60)
        bench.now_secs += FRESH_SECS + SEEN_BY_VENUE_SECS
        assert bench.room(1) is True
        await rest()
        assert bench.room(100) is True
        assert bench.balances.report()["reserved_for"] == 0


async def test_a_venue_that_does_not_answer_is_asked_less_and_less() -> None:
    bench = Bench()
    bench.accounts.error = VenueUnavailable("away")
    async with running(bench):
        waits = []
        for _ in range(9):
            started = bench.now_secs
            asked = bench.asks()
            while bench.asks() == asked:
                assert bench.room(1) is None
                await rest()
                bench.now_secs += 1
            waits.append(bench.now_secs - started)
        assert waits[1] == RETRY_SECS
        assert waits == sorted(waits)
        assert waits[-1] == MAX_RETRY_SECS
        bench.accounts.error = None
        bench.now_secs += MAX_RETRY_SECS
        assert bench.room(1) is None
        await rest()
        assert bench.room(1) is True


async def test_the_venues_wish_is_heard_and_what_is_known_stays() -> None:
    async with known() as bench:
        bench.accounts.error = VenueUnavailable("throttled", retry_after_secs=90)
        bench.balances.renew(1)
        await rest()
        bench.now_secs += 89
        assert bench.room(100) is True
        await rest()
        assert bench.asks() == 2
        bench.now_secs += 1
        assert bench.room(100) is True
        await rest()
        assert bench.asks() == 3


async def test_a_key_that_is_refused_has_no_balance() -> None:
    async with known() as bench:
        bench.accounts.error = CredentialRefused("revoked")
        bench.balances.renew(1)
        await rest()
        assert bench.room(1) is None
        await rest()
        assert bench.asks() == 2


async def test_a_database_that_is_away_ends_nothing() -> None:
    """The key may not be at hand: then it is read from the database first."""
    async with known() as bench:
        bench.accounts.error = StoreUnavailable("the database restarts")
        bench.balances.renew(1)
        await rest()
        assert bench.asks() == 2
        assert bench.room(100) is True
        bench.accounts.error = None
        bench.now_secs += RETRY_SECS
        assert bench.room(100) is True
        await rest()
        assert bench.asks() == 3


async def test_a_few_are_asked_at_once_and_all_in_the_end() -> None:
    bench = Bench()
    async with running(bench):
        bench.accounts.hold()
        for credential_id in range(20):
            bench.room(1, credential_id)
        await rest()
        assert bench.balances.report()["asking"] == 3
        bench.accounts.answer()
        for _ in range(20):
            await rest()
        assert sorted(bench.accounts.asked) == list(range(20))
        assert bench.accounts.most_at_once == 3


async def test_the_accounts_used_least_are_forgotten() -> None:
    async with known(max_accounts=2) as bench:
        bench.reserve("x", 5)
        for credential_id in (2, 3):
            bench.room(1, credential_id)
            await rest()
        assert bench.balances.report() == {"known": 2, "wanted": 0, "asking": 0, "reserved_for": 0}
        bench.balances.settle("x", spent=Decimal(5))
        assert bench.room(1) is None


async def test_a_defect_ends_the_task_instead_of_leaving_balances_unknown() -> None:
    bench = Bench()
    bench.accounts.error = ZeroDivisionError()
    bench.room(1)
    with pytest.raises(ExceptionGroup):
        async with asyncio.timeout(5):
            await bench.balances.run()
