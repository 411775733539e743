"""What `doctor` makes of a reading of the fleet: the well-known cases, each with its cure."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from console.checkup import Finding, Mark, judge
from console.fleet_status import ALIVE_SECS, FleetStatus
from shared.leases import LeaseKind
from shared.orders import BotStatus
from shared.store.leases import LeaseState
from shared.store.outbox import Backlog
from shared.store.positions import Results
from shared.store.workers import Heartbeat, Process, ProcessKind

NOW = datetime(2026, 1, 5, tzinfo=UTC)
STREAM = {"stream_epoch": 3, "venues": {"kraken": {"state": "ok", "silenced": []}}}
WORKER = {"rows": 10, "broker_connected": True, "ticks": {"received": 1000, "skipped": 3}}


def beat(kind: ProcessKind, report: dict[str, Any], *, silent_secs: float = 1.0) -> Heartbeat:
    return Heartbeat(
        process=Process(kind=kind, name="one", instance="1", host="here", pid=1),
        started_at=NOW,
        heartbeat_at=NOW,
        silent_secs=silent_secs,
        report=report,
    )


def fleet(
    *, stream: dict[str, Any] | None = None, worker: dict[str, Any] | None = None
) -> FleetStatus:
    """A healthy fleet, but for what its processes report."""
    return FleetStatus(
        at=NOW,
        database="",
        processes=[
            beat(ProcessKind.PRICE_STREAM, STREAM | (stream or {})),
            beat(ProcessKind.TRADE_WORKER, WORKER | (worker or {})),
        ],
        leases=[],
        ticks=[],
        bots={BotStatus.ACTIVE: 5},
        positions={},
        open_positions=[],
        trades=[],
        results=Results(of_newest=1, closed={}, won={}, realised_pnl={}),
        orders={},
        outbox=Backlog(events=0, oldest_at=None),
    )


def troubles(status: FleetStatus, *, wanted_markets: int = 2) -> dict[str, Finding]:
    findings = judge(status, wanted_markets=wanted_markets)
    return {finding.check: finding for finding in findings if finding.mark is not Mark.FINE}


def test_a_healthy_fleet_has_no_trouble() -> None:
    assert troubles(fleet()) == {}


def test_not_connected_is_seen_from_the_workers_report() -> None:
    found = troubles(fleet(worker={"broker_connected": False}))

    assert found["worker one"].found == "not connected to the broker"


def test_no_active_pairs_tells_no_bots_from_no_active_bots() -> None:
    idle = replace(fleet(), bots={BotStatus.PAUSED: 5})
    empty = replace(fleet(), bots={})

    assert "bots start" in troubles(idle, wanted_markets=0)["active pairs"].cure
    assert "bots import" in troubles(empty, wanted_markets=0)["active pairs"].cure


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (fleet(worker={"ticks": {"failed": 2}}), "2 ticks failed by one"),
        (fleet(worker={"ticks": {"undecodable": 1}}), "1 ticks undecodable by one"),
        (fleet(worker={"invalid_rows": 4}), "4 rows make no sense"),
        (fleet(stream={"save_failures": 7}), "7 saves of ticks failed"),
        (replace(fleet(), dead_letters=9), "9 dead letters"),
    ],
)
def test_processing_failed_names_what_failed(status: FleetStatus, expected: str) -> None:
    (finding,) = troubles(status).values()

    assert (finding.check, finding.found) == ("processing", expected)


def test_a_queue_is_too_deep_when_ticks_are_skipped() -> None:
    found = troubles(fleet(worker={"ticks": {"received": 1000, "skipped": 60}}))

    assert "too deep: 60 of 1,000" in found["queue of one"].found


def test_an_outbox_that_nobody_empties_is_wrong() -> None:
    status = replace(fleet(), outbox=Backlog(events=12, oldest_at=NOW - timedelta(minutes=5)))

    assert troubles(status)["outbox"].found == "12 events unsent, the oldest for 5 min 0 s"


def test_a_silent_process_counts_as_gone_and_is_named() -> None:
    status = replace(
        fleet(), processes=[beat(ProcessKind.TRADE_WORKER, {}, silent_secs=ALIVE_SECS + 1)]
    )

    found = troubles(status)

    assert found["trade worker"].cure.startswith("one on here fell silent 16 s ago: ")
    assert found["price stream"].found == "not alive"


def test_shards_without_a_holder_are_counted() -> None:
    shard = LeaseState(
        kind=LeaseKind.SHARD,
        number=7,
        owner=None,
        epoch=1,
        granted_at=None,
        expires_at=None,
        held=False,
        left_secs=None,
    )

    found = troubles(replace(fleet(), leases=[shard]))

    assert found["shards"].found == "1 of 1 are held by nobody"


def test_silenced_venues_are_wrong_and_silenced_markets_a_note() -> None:
    silenced = [{"pair": "BTC/USD", "reason": "bid is missing", "since_ms": 0}]
    venue = {"state": "silenced", "reason": "did not answer in time", "silenced": silenced}

    found = troubles(fleet(stream={"venues": {"kraken": venue}}))

    assert found["kraken polls"].mark is Mark.WRONG
    assert found["kraken markets"].mark is Mark.NOTE
    assert "BTC/USD bid is missing" in found["kraken markets"].found
