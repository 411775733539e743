"""Each rule that the chaos judge adds can be broken, and what nobody could help does not count."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.checker import History
from tests.acceptance.live_judge import Truth
from tests.chaos import judge
from tests.chaos.judge import Evidence
from tests.chaos.records import Disturbance, Harm, Loss, Records

START = datetime(2026, 3, 1, tzinfo=UTC)


def at(secs: float) -> datetime:
    return START + timedelta(seconds=secs)


def evidence(folder: Path, **rows: Any) -> Evidence:
    records = Records(folder=folder, seed=1, lease_ttl_secs=5.0, poll_secs=0.5)
    return Evidence(
        history=History(**rows), truth=Truth(), records=records, secrets=["canary", "other"]
    )


def order(committed: float, settled: float | None, **fields: Any) -> Mapping[str, Any]:
    return {
        "client_order_id": "a" * 32,
        "mode": "live",
        "venue": "kraken",
        "committed_at": at(committed),
        "settled_at": None if settled is None else at(settled),
        **fields,
    }


def disturbed(harm: Harm, since: float, until: float, **fields: Any) -> Disturbance:
    target = fields.pop("target", "1")
    return Disturbance(
        kind="any", target=target, harm=harm, since=at(since), until=at(until), **fields
    )


def grant(owner: str, epoch: int, since: float, until: float | None, why: str) -> Any:
    return {
        "kind": "shard",
        "number": 7,
        "epoch": epoch,
        "owner": owner,
        "ended_why": why,
        "granted_from": at(since),
        "granted_until": None if until is None else at(until),
    }


def test_an_order_that_stays_unresolved_breaks_the_bound(tmp_path: Path) -> None:
    late, soon = order(0, 91), order(0, 89)
    assert [rows for _, rows in judge.nothing_stays_unresolved(evidence(tmp_path, orders=[late]))]
    assert not list(judge.nothing_stays_unresolved(evidence(tmp_path, orders=[soon])))


@pytest.mark.parametrize(
    ("disturbance", "counted"),
    [
        (disturbed(Harm.ASKING, 10, 20), 81),
        (disturbed(Harm.ASKING, 10, 20, venue="kraken"), 81),
        (disturbed(Harm.ASKING, 10, 20, venue="binance"), 91),
        (disturbed(Harm.SENDING, 10, 20, venue="kraken"), 91),
        (disturbed(Harm.OTHER, 10, 20), 91),
        (disturbed(Harm.DATABASE, 10, 20), 75.5),
        (disturbed(Harm.WORKER, 85, 200), 85),
    ],
)
def test_time_in_which_nobody_could_ask_does_not_count(
    disturbance: Disturbance, counted: float, tmp_path: Path
) -> None:
    records = evidence(tmp_path).records
    records.disturbances = [disturbance]
    assert judge.net_unresolved_secs(order(0, 91), records) == pytest.approx(counted)


def test_overlapping_trouble_counts_once(tmp_path: Path) -> None:
    records = evidence(tmp_path).records
    records.disturbances = [
        disturbed(Harm.ASKING, 10, 30),
        disturbed(Harm.ASKING, 15, 20),
        disturbed(Harm.ASKING, 25, 40),
    ]
    assert judge.net_unresolved_secs(order(0, 91), records) == pytest.approx(61)


def test_after_the_faults_all_must_be_resolved_soon(tmp_path: Path) -> None:
    case = evidence(tmp_path, orders=[order(0, 101), order(5, 99), order(20, 200)])
    case.records.faults_off_at = at(10)
    assert len(list(judge.all_is_resolved_soon_after_the_faults(case))) == 1


def test_a_takeover_is_measured_from_the_loss_to_the_last_shard(tmp_path: Path) -> None:
    grants = [grant("1 (x)", 1, 0, 15, "expired"), grant("2 (y)", 2, 18.5, None, "")]
    case = evidence(tmp_path, lease_grants=grants)
    case.records.losses = [Loss(owner="1 (x)", at=at(10))]
    case.records.disturbances = [disturbed(Harm.WORKER, 9.9, 12)]
    (takeover,) = judge.takeovers(case.history, case.records)
    assert (takeover.secs, takeover.leases, takeover.undisturbed) == (8.5, 1, True)
    assert list(judge.leases_are_taken_over_in_time(case))
    case.records.disturbances.append(disturbed(Harm.DATABASE, 11, 12))
    assert not list(judge.leases_are_taken_over_in_time(case))


def test_what_a_worker_gave_back_itself_is_no_takeover(tmp_path: Path) -> None:
    grants = [grant("1 (x)", 1, 0, 15, "released"), grant("2 (y)", 2, 18.5, None, "")]
    case = evidence(tmp_path, lease_grants=grants)
    case.records.losses = [Loss(owner="1 (x)", at=at(10))]
    assert not judge.takeovers(case.history, case.records)


def test_a_secret_is_found_in_any_artefact_but_where_it_belongs(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl.keys").write_text("canary")
    (tmp_path / "worker.log").write_text("x" * judge.CHUNK_BYTES + "nothing")
    case = evidence(tmp_path)
    assert not list(judge.no_secret_is_in_any_artefact(case))
    # Across two reads.
    (tmp_path / "worker.log").write_text("x" * (judge.CHUNK_BYTES - 3) + "canary")
    assert [text for text, _ in judge.no_secret_is_in_any_artefact(case)] == [
        "a secret is in worker.log"
    ]


def test_unsent_events_and_what_the_run_saw_are_violations(tmp_path: Path) -> None:
    event = {"exchange": "orders", "body": '{"client_order_id": "b"}', "sent_at": None}
    case = evidence(tmp_path, outbox=[event])
    case.records.broken.append("it hangs")
    found = {violation.rule for violation in judge.violations(case)}
    assert found == {"every_event_was_sent", "the_run_itself_saw_nothing_wrong"}
    sent = replace(case, history=History(outbox=[{**event, "sent_at": at(1)}]))
    sent.records.broken.clear()
    assert not judge.violations(sent)


def test_the_story_of_an_order_has_every_side(tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_text(f"order {'a' * 32}: sent\nanother line\n")
    (tmp_path / "journal.jsonl").write_text('{"client_order_id": "' + "a" * 32 + '"}\n')
    case = evidence(tmp_path, orders=[order(0, 10)])
    case.records.disturbances = [
        disturbed(Harm.WORKER, 3, 4, target="worker 3"),
        disturbed(Harm.WORKER, 60, 70, target="worker 9"),
    ]
    lines = list(judge.story("a" * 32, case))
    assert [line.partition(":")[0] for line in lines] == [
        *("order", "journal.jsonl", "worker.log", "at that time")
    ]
    assert "worker 3" in lines[-1]
