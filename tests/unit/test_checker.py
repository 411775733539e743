"""The acceptance tests' checker: it accepts a sound history, and each rule finds its breach."""

from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.acceptance.checker import (
    RULES,
    History,
    Lost,
    Outage,
    Promise,
    unfair,
    violations,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
PROMISE = Promise(lease_ttl_secs=5.0, poll_secs=0.5)

Rows = dict[str, list[dict[str, Any]]]


def at(secs: float) -> datetime:
    return START + timedelta(seconds=secs)


def grant(epoch: int, owner: str, since: float, until: float, why: str) -> dict[str, Any]:
    return {
        "kind": "shard",
        "number": 7,
        "epoch": epoch,
        "owner": owner,
        "granted_from": at(since),
        "granted_until": at(until),
        "ended_why": why,
    }


def order(leg: str, epoch: int, secs: float) -> dict[str, Any]:
    return {
        "client_order_id": leg,
        "bot_id": 1,
        "pair": "BTC/USD",
        "position_sequence": 1,
        "leg": leg,
        "shard": 7,
        "lease_epoch": epoch,
        "status": "filled",
        "filled_quantity": Decimal(2),
        "fee": Decimal("0.1"),
        "facts": {"thresholds": {"max_tick_age_secs": 15.0}},
        "observed_at": at(secs - 0.3),
        "received_at": at(secs - 0.2),
        "decided_at": at(secs - 0.1),
        "committed_at": at(secs),
        "settled_at": at(secs),
    }


def fill(leg: str, price: str) -> dict[str, Any]:
    return {
        "client_order_id": leg,
        "bot_id": 1,
        "pair": "BTC/USD",
        "position_sequence": 1,
        "leg": leg,
        "quantity": Decimal(2),
        "price": Decimal(price),
        "fee": Decimal("0.1"),
    }


def event(leg: str) -> dict[str, Any]:
    return {
        "exchange": "orders",
        "body": f'{{"client_order_id": "{leg}"}}',
        "sent_at": at(100),
    }


def sound() -> Rows:
    """Bought under the first epoch, sold under the second, after a handover of half a second."""
    return {
        "lease_grants": [
            grant(1, "a (1)", 0, 50, "released"),
            grant(2, "b (2)", 50.5, 100, "released"),
        ],
        "orders": [order("entry", 1, 10), order("exit", 2, 60)],
        "positions": [
            {
                "bot_id": 1,
                "pair": "BTC/USD",
                "sequence": 1,
                "status": "closed",
                "entry_quantity": Decimal(2),
                "entry_cost": Decimal(200),
                "exit_quantity": Decimal(2),
                "exit_proceeds": Decimal(210),
                "fees": Decimal("0.2"),
                "dust_quantity": Decimal(0),
                "realised_pnl": Decimal("9.8"),
                "created_at": at(10),
                "closed_at": at(60),
            }
        ],
        "fills": [fill("entry", "100"), fill("exit", "105")],
        "outbox": [event("entry"), event("exit")],
        "bots": [{"id": 1, "realised": Decimal("9.8")}],
    }


def broken_rules(rows: Rows, promise: Promise = PROMISE) -> set[str]:
    return {violation.rule for violation in violations(History(**rows), promise)}


def test_a_sound_history_breaks_nothing() -> None:
    assert set(sound()) == {each.name for each in fields(History)}
    assert violations(History(**sound()), PROMISE) == []


Breach = Callable[[Rows], object]


def position(rows: Rows) -> dict[str, Any]:
    return rows["positions"][0]


BREACHES: list[tuple[str, str, Breach]] = [
    (
        "overlap",
        "no_shard_was_held_twice",
        lambda rows: rows["lease_grants"][1].update(granted_from=at(49.999)),
    ),
    (
        "epoch skipped",
        "every_epoch_is_one_above_the_last",
        lambda rows: rows["lease_grants"][1].update(epoch=3),
    ),
    (
        "never ended",
        "every_grant_ended_after_it_began",
        lambda rows: rows["lease_grants"][1].update(granted_until=None),
    ),
    (
        "ended first",
        "every_grant_ended_after_it_began",
        lambda rows: rows["lease_grants"][1].update(granted_until=at(50.4)),
    ),
    (
        "slow handover",
        "served_again_in_time",
        lambda rows: rows["lease_grants"][1].update(granted_from=at(51.001)),
    ),
    (
        "superseded",
        "every_order_was_committed_under_the_grant_of_its_time",
        lambda rows: rows["orders"][1].update(lease_epoch=1),
    ),
    (
        "before its grant",
        "every_order_was_committed_under_the_grant_of_its_time",
        lambda rows: rows["orders"][0].update(lease_epoch=2),
    ),
    (
        "unknown epoch",
        "every_order_was_committed_under_the_grant_of_its_time",
        lambda rows: rows["orders"][1].update(lease_epoch=9),
    ),
    (
        "opened twice",
        "no_position_was_opened_twice",
        lambda rows: rows["positions"].append(
            {**position(rows), "sequence": 2, "created_at": at(59), "closed_at": at(70)}
        ),
    ),
    (
        "two unclosed",
        "no_position_was_opened_twice",
        lambda rows: rows.update(
            positions=[
                {**position(rows), "sequence": sequence, "status": "open", "closed_at": None}
                for sequence in (1, 2)
            ]
        ),
    ),
    (
        "sequence used twice",
        "no_position_was_opened_twice",
        lambda rows: rows["positions"].append(dict(position(rows))),
    ),
    (
        "sold twice",
        "every_position_was_bought_once_and_sold_once",
        lambda rows: rows["orders"].append({**rows["orders"][1], "client_order_id": "again"}),
    ),
    (
        "order without a position",
        "every_position_was_bought_once_and_sold_once",
        lambda rows: rows["orders"].append({**rows["orders"][1], "position_sequence": 2}),
    ),
    (
        "unsettled",
        "every_order_is_settled_and_its_times_are_in_order",
        lambda rows: rows["orders"][1].update(status="unknown"),
    ),
    (
        "times",
        "every_order_is_settled_and_its_times_are_in_order",
        lambda rows: rows["orders"][1].update(received_at=at(61)),
    ),
    (
        "stale tick",
        "no_entry_was_decided_on_a_stale_tick",
        lambda rows: rows["orders"][0].update(observed_at=at(-5.2)),
    ),
    (
        "cost",
        "fills_explain_every_order_and_position",
        lambda rows: position(rows).update(entry_cost=Decimal("200.00000001")),
    ),
    (
        "result",
        "fills_explain_every_order_and_position",
        lambda rows: position(rows).update(realised_pnl=Decimal("9.9")),
    ),
    (
        "more filled than traded",
        "fills_explain_every_order_and_position",
        lambda rows: rows["orders"][0].update(filled_quantity=Decimal(3)),
    ),
    (
        "fill of nothing",
        "fills_explain_every_order_and_position",
        lambda rows: rows["fills"].append({**rows["fills"][0], "position_sequence": 2}),
    ),
    (
        "closed with a rest",
        "fills_explain_every_order_and_position",
        lambda rows: (
            rows["fills"][1].update(quantity=Decimal(1), price=Decimal(210)),
            rows["orders"][1].update(filled_quantity=Decimal(1)),
            position(rows).update(exit_quantity=Decimal(1)),
        ),
    ),
    (
        "realised",
        "every_bot_has_what_its_positions_brought",
        lambda rows: rows["bots"][0].update(realised=Decimal("9.7")),
    ),
    (
        "unsent",
        "every_order_was_announced_and_every_event_sent",
        lambda rows: rows["outbox"][1].update(sent_at=None),
    ),
    (
        "unannounced",
        "every_order_was_announced_and_every_event_sent",
        lambda rows: rows["outbox"].pop(),
    ),
]


@pytest.mark.parametrize(
    ("rule", "breach"),
    [breach[1:] for breach in BREACHES],
    ids=[breach[0] for breach in BREACHES],
)
def test_a_breach_is_found_by_its_rule(rule: str, breach: Breach) -> None:
    rows = sound()
    breach(rows)
    assert rule in broken_rules(rows)


def test_every_rule_has_a_breach() -> None:
    assert {rule.__name__ for rule in RULES} <= {rule for _, rule, _ in BREACHES}


def killed_at(secs: float, *, expired_at: float, served_at: float) -> Rows:
    rows = sound()
    rows["lease_grants"] = [
        grant(1, "a (1)", 0, expired_at, "expired"),
        grant(2, "b (2)", served_at, 100, "released"),
    ]
    rows["orders"][1].update(order("exit", 2, 90))
    position(rows).update(closed_at=at(90))
    return rows


def lost(worker: str, secs: float) -> Promise:
    return Promise(lease_ttl_secs=5.0, poll_secs=0.5, lost=[Lost(worker=worker, at=at(secs))])


def test_a_killed_worker_s_shards_are_due_a_lease_time_and_a_poll_after_the_kill() -> None:
    assert not broken_rules(killed_at(50, expired_at=54, served_at=55.5), lost("a", 50))
    assert broken_rules(killed_at(50, expired_at=54, served_at=55.51), lost("a", 50)) == {
        "served_again_in_time"
    }


def test_a_lease_that_ran_out_for_no_known_reason_is_due_within_a_poll() -> None:
    assert not broken_rules(killed_at(50, expired_at=54, served_at=54.5))
    late = killed_at(50, expired_at=54, served_at=54.51)
    assert broken_rules(late) == {"served_again_in_time"}
    assert broken_rules(late, lost("aa", 50)) == {"served_again_in_time"}
    assert broken_rules(late, lost("a", 60)) == {"served_again_in_time"}


def test_while_the_database_was_away_nothing_was_due() -> None:
    away = Promise(lease_ttl_secs=5.0, poll_secs=0.5, outages=[Outage(since=at(51), until=at(70))])
    assert not broken_rules(killed_at(50, expired_at=54, served_at=75.5), away)
    assert broken_rules(killed_at(50, expired_at=54, served_at=75.51), away) == {
        "served_again_in_time"
    }


def test_shares_are_fair_within_one_shard_and_complete() -> None:
    assert unfair({"a": 85, "b": 85, "c": 86}, 256) is None
    assert "differ" in (unfair({"a": 84, "b": 86, "c": 86}, 256) or "")
    assert "of 256" in (unfair({"a": 85, "b": 85, "c": 85}, 256) or "")
