"""Which price stream `status` takes for the leader, and which for standbys."""

from dataclasses import replace
from typing import Any

from console.fleet_status import ALIVE_SECS, FleetStatus
from shared.store.workers import Heartbeat, ProcessKind
from tests.unit.test_checkup import beat, fleet


def stream(role: str | None, epoch: int | None, *, silent_secs: float = 1.0) -> Heartbeat:
    report: dict[str, Any] = {"stream_epoch": epoch}
    if role is not None:
        report["role"] = role
    return beat(ProcessKind.PRICE_STREAM, report, silent_secs=silent_secs)


def of(*streams: Heartbeat) -> FleetStatus:
    return replace(fleet(), processes=streams)


def test_the_leader_is_the_one_that_leads() -> None:
    leader, standby = stream("leading", 3), stream("following", 3)
    for status in (of(leader, standby), of(standby, leader)):
        assert status.price_stream is leader
        assert status.standbys == [standby]


def test_of_a_killed_leader_and_its_successor_the_later_epoch_leads() -> None:
    killed, successor = stream("leading", 3, silent_secs=2.0), stream("leading", 4)
    assert of(killed, successor).price_stream is successor
    assert of(successor, killed).price_stream is successor
    assert of(killed, successor).standbys == []


def test_a_standby_alone_is_no_leader_and_a_silent_one_no_standby() -> None:
    waiting, silent = stream("waiting", None), stream("following", 3, silent_secs=ALIVE_SECS + 1)
    assert of(stream("following", 3), waiting).price_stream is None
    assert of(silent, waiting).standbys == []


def test_a_stream_of_an_older_version_that_names_no_role_leads() -> None:
    older = stream(None, 3)
    assert of(older, stream("following", 3)).price_stream is older
