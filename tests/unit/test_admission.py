"""The last word on intents, without a database: no limit is ever passed."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.admission import UserStanding, denials, notional_of
from shared.limits import KillSwitches, KillSwitchLevel, KillSwitchScope
from shared.orders import Intent, Leg, Mode
from shared.reasons import Reason
from shared.venues import quote_of

STANDING = UserStanding(active=True, breaker_open=False, max_open_positions=10, unclosed=0)
PAIRS = ("BTC/USD", "ETH/USD", "BTC/EUR")


def intent(number: int = 0, **changes: object) -> Intent:
    plain = Intent(
        client_order_id=f"{number:032x}",
        bot_id=1,
        user_id=1,
        shard=0,
        lease_epoch=1,
        mode=Mode.PAPER,
        venue="kraken",
        pair="BTC/USD",
        position_sequence=1,
        position_version=0,
        leg=Leg.ENTRY,
        attempt=0,
        quantity=Decimal(2),
        limit_price=None,
        decided_price=Decimal(50),
        taker_fee=Decimal(0),
        reason=Reason.ENTRY_SIGNAL,
        market_time_ms=0,
        observed_at_ms=0,
        received_at_ms=0,
        decided_at_ms=0,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def denial(
    of: Intent,
    standing: UserStanding = STANDING,
    levels: dict[tuple[KillSwitchScope, str], KillSwitchLevel] | None = None,
    stopped_bots: Mapping[int, Reason] | None = None,
) -> Reason | None:
    return denials(
        [of],
        switches=KillSwitches(levels=levels or {}),
        users={1: standing},
        stopped_bots=stopped_bots or {},
    ).get(of.client_order_id)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"active": False}, Reason.USER_DISABLED),
        ({"breaker_open": True}, Reason.BREAKER_OPEN),
        ({"unclosed": 9}, None),
        ({"unclosed": 10}, Reason.USER_POSITION_LIMIT),
        ({"max_open_positions": 0}, Reason.USER_POSITION_LIMIT),
        ({"max_notional": Decimal(100)}, None),
        ({"max_notional": Decimal("99.99")}, Reason.USER_NOTIONAL_LIMIT),
        ({"max_notional": Decimal(0)}, Reason.USER_NOTIONAL_LIMIT),
        ({"max_notional": Decimal(150), "notional": {"USD": Decimal(50)}}, None),
        (
            {"max_notional": Decimal(150), "notional": {"USD": Decimal("50.01")}},
            Reason.USER_NOTIONAL_LIMIT,
        ),
        ({"max_notional": Decimal(150), "notional": {"EUR": Decimal(150)}}, None),
    ],
)
def test_an_entry_meets_its_users_limits(
    changes: dict[str, object], expected: Reason | None
) -> None:
    standing = replace(STANDING, **changes)  # type: ignore[arg-type]
    assert denial(intent(), standing) is expected
    assert denial(intent(leg=Leg.EXIT), standing) is None


def test_an_unknown_user_enters_nothing() -> None:
    assert denial(intent(user_id=2)) is Reason.USER_DISABLED


def test_a_stopped_bot_enters_nothing_and_sells() -> None:
    assert denial(intent(), stopped_bots={1: Reason.BREAKER_OPEN}) is Reason.BREAKER_OPEN
    assert denial(intent(leg=Leg.EXIT), stopped_bots={1: Reason.BREAKER_OPEN}) is None


@pytest.mark.parametrize(
    ("key", "covers"),
    [
        ((KillSwitchScope.FLEET, ""), True),
        ((KillSwitchScope.VENUE, "kraken"), True),
        ((KillSwitchScope.VENUE, "binance"), False),
        ((KillSwitchScope.USER, "1"), True),
        ((KillSwitchScope.USER, "11"), False),
        ((KillSwitchScope.BOT, "1"), True),
        ((KillSwitchScope.BOT, "2"), False),
    ],
)
@pytest.mark.parametrize(
    "level", [KillSwitchLevel.ENTRIES, KillSwitchLevel.FLATTEN, KillSwitchLevel.ALL]
)
def test_a_kill_switch_stops_entries_and_at_level_all_exits_too(
    key: tuple[KillSwitchScope, str], covers: bool, level: KillSwitchLevel
) -> None:
    stopped = Reason.KILL_SWITCH_ON if covers else None
    assert denial(intent(), levels={key: level}) is stopped
    sold = stopped if level is KillSwitchLevel.ALL else None
    assert denial(intent(leg=Leg.EXIT), levels={key: level}) is sold


def test_the_gentler_of_two_switches_does_not_soften_the_other() -> None:
    levels = {
        (KillSwitchScope.FLEET, ""): KillSwitchLevel.ENTRIES,
        (KillSwitchScope.BOT, "1"): KillSwitchLevel.ALL,
    }
    assert denial(intent(leg=Leg.EXIT), levels=levels) is Reason.KILL_SWITCH_ON


entries = st.builds(
    intent,
    number=st.integers(0, 2**64),
    user_id=st.integers(1, 2),
    pair=st.sampled_from(PAIRS),
    quantity=st.decimals("0.01", "10", places=2),
    limit_price=st.none() | st.decimals("1", "100", places=2),
)
standings = st.builds(
    UserStanding,
    active=st.just(True),
    breaker_open=st.just(False),
    max_open_positions=st.integers(0, 6),
    unclosed=st.integers(0, 4),
    max_notional=st.none() | st.decimals("0", "2000", places=2),
    notional=st.dictionaries(st.sampled_from(["USD", "EUR"]), st.decimals("0", "500", places=2)),
)


@given(
    st.lists(entries, max_size=12, unique_by=lambda entry: entry.client_order_id),
    st.dictionaries(st.integers(1, 2), standings),
)
def test_what_is_admitted_stays_within_every_limit_and_what_is_denied_would_not(
    batch: list[Intent], users: dict[int, UserStanding]
) -> None:
    denied = denials(batch, switches=KillSwitches(), users=users, stopped_bots={})
    count: defaultdict[int, int] = defaultdict(int)
    spent: defaultdict[tuple[int, str], Decimal] = defaultdict(Decimal)
    for entry in batch:
        user, key = users.get(entry.user_id), (entry.user_id, quote_of(entry.pair))
        fits = (
            user is not None
            and user.unclosed + count[entry.user_id] < user.max_open_positions
            and (
                user.max_notional is None
                or user.notional.get(key[1], 0) + spent[key] + notional_of(entry)
                <= user.max_notional
            )
        )
        assert (entry.client_order_id not in denied) is fits
        if fits:
            count[entry.user_id] += 1
            spent[key] += notional_of(entry)
