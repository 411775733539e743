"""What a reading of the fleet says about its health: pure judgements, each with its cure."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from console.fleet_status import FleetStatus, is_alive
from console.output import duration
from shared.store.workers import Heartbeat, ProcessKind

MAX_SKIPPED_SHARE: Final = 0.05
"""Ticks that a worker may skip for newer ones before its queue counts as too deep."""

MAX_EVENT_AGE_SECS: Final = 60.0
MAX_TICK_AGE_SECS: Final = 60.0


class Mark(StrEnum):
    """How serious a finding is; only `WRONG` makes `doctor` fail."""

    FINE = "fine"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: what was looked at, what was found, and what to do about it."""

    check: str
    mark: Mark
    found: str
    cure: str = ""


def fine(check: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(check=check, mark=Mark.FINE, found=found)


def note(check: str, found: str, cure: str) -> Finding:
    """Worth knowing; the fleet works."""
    return Finding(check=check, mark=Mark.NOTE, found=found, cure=cure)


def wrong(check: str, found: str, cure: str) -> Finding:
    """Something does not work, or will not."""
    return Finding(check=check, mark=Mark.WRONG, found=found, cure=cure)


def judge(status: FleetStatus, *, wanted_markets: int) -> list[Finding]:
    """Every check that the database can answer."""
    return [
        *_price_stream(status),
        *_workers(status),
        _active_pairs(status, wanted_markets),
        _processing(status),
        _exits(status),
        *_queues(status),
    ]


def _price_stream(status: FleetStatus) -> Iterator[Finding]:
    stream = status.price_stream
    if stream is None:
        yield wrong("price stream", "not alive", f"{_gone(status)}start `botfleet price-stream`")
        return
    age_ms = stream.report.get("last_tick_age_ms")
    if age_ms is not None and age_ms > 1000 * MAX_TICK_AGE_SECS:
        cure = "look at the venues below and at its log"
        yield wrong("price stream", f"no tick for {duration(age_ms / 1000)}", cure)
    else:
        yield fine("price stream", f"alive, epoch {stream.report.get('stream_epoch')}")
    for venue, report in stream.report.get("venues", {}).items():
        yield from _silenced(venue, report)


def _silenced(venue: str, report: dict[str, Any]) -> Iterator[Finding]:
    if report.get("state") != "ok":
        yield wrong(
            f"{venue} polls",
            f"silenced: {report.get('reason') or 'unknown'}",
            "it is asked again with growing pauses; see the venue's own check below",
        )
    silenced = report.get("silenced", ())
    if silenced:
        shown = "; ".join(f"{one['pair']} {one['reason']}" for one in silenced[:3])
        yield note(
            f"{venue} markets",
            f"{len(silenced)} silenced: {shown}",
            "bots there do not trade; `botfleet status` lists them all",
        )


def _workers(status: FleetStatus) -> Iterator[Finding]:
    alive = status.alive(ProcessKind.TRADE_WORKER)
    if not alive:
        yield wrong("trade worker", "none alive", f"{_gone(status)}start `botfleet worker`")
        return
    nobody = len(status.shards_held_by_nobody)
    if nobody:
        yield wrong(
            "shards",
            f"{nobody} of {len(status.shards)} are held by nobody",
            "a dead worker's shards come free within the lease time; else start a worker",
        )
    for worker in alive:
        if worker.report.get("broker_connected") is False:
            yield wrong(
                f"worker {worker.process.name}",
                "not connected to the broker",
                "it tries again by itself; see the broker's check",
            )
        else:
            rows = worker.report.get("rows", 0)
            yield fine(f"worker {worker.process.name}", f"alive, {rows:,} rows of bots")


def _active_pairs(status: FleetStatus, wanted: int) -> Finding:
    if wanted:
        return fine("active pairs", f"{wanted} markets are wanted")
    if sum(status.bots.values()):
        return wrong("active pairs", "no bot is active", "`botfleet bots start ID...`")
    return wrong("active pairs", "there are no bots", "`botfleet bots import FILE` or `bots add`")


def _processing(status: FleetStatus) -> Finding:
    """Work that failed: ticks that could not be read or judged, rows that make no sense."""
    troubles: list[str] = []
    for worker in status.alive(ProcessKind.TRADE_WORKER):
        ticks = worker.report.get("ticks", {})
        troubles.extend(
            f"{ticks[name]:,} ticks {name} by {worker.process.name}"
            for name in ("undecodable", "failed")
            if ticks.get(name)
        )
        if worker.report.get("invalid_rows"):
            troubles.append(f"{worker.report['invalid_rows']:,} rows make no sense")
    stream = status.price_stream
    if stream is not None and stream.report.get("save_failures"):
        troubles.append(f"{stream.report['save_failures']:,} saves of ticks failed")
    if status.dead_letters:
        troubles.append(f"{status.dead_letters:,} dead letters")
    if not troubles:
        return fine("processing", "nothing failed")
    cure = "`botfleet dead-letters list` has the reasons, the worker's log the exceptions"
    return wrong("processing", "; ".join(troubles), cure)


def _exits(status: FleetStatus) -> Finding:
    """Positions that their venues will not let go of."""
    if not status.stuck:
        return fine("exits", "no position is stuck")
    newest = status.stuck[0]
    ids = " ".join(str(position.id) for position in status.stuck)
    return wrong(
        "exits",
        f"stuck: position {ids}; {newest.venue} says of {newest.id}: "
        f"{newest.last_detail or 'nothing'}",
        "mend what the venue says; or `botfleet positions write-off ID --reason …`",
    )


def _queues(status: FleetStatus) -> Iterator[Finding]:
    for worker in status.alive(ProcessKind.TRADE_WORKER):
        yield _tick_queue(worker)
    oldest = status.outbox.oldest_at
    age_secs = 0.0 if oldest is None else (status.at - oldest).total_seconds()
    if age_secs > MAX_EVENT_AGE_SECS:
        yield wrong(
            "outbox",
            f"{status.outbox.events:,} events unsent, the oldest for {duration(age_secs)}",
            "a worker relays them once the broker takes messages again",
        )
    else:
        yield fine("outbox", f"{status.outbox.events:,} events unsent")


def _tick_queue(worker: Heartbeat) -> Finding:
    name = f"queue of {worker.process.name}"
    ticks = worker.report.get("ticks", {})
    received, skipped = ticks.get("received", 0), ticks.get("skipped", 0)
    if received and skipped > MAX_SKIPPED_SHARE * received:
        return wrong(
            name,
            f"too deep: {skipped:,} of {received:,} ticks were skipped for newer ones",
            "give the worker more processor, poll less often, or spread the bots over workers",
        )
    return fine(name, f"{skipped:,} of {received:,} ticks skipped")


def _gone(status: FleetStatus) -> str:
    """Names the processes that went silent without a goodbye."""
    silent = [beat for beat in status.processes if not is_alive(beat)]
    if not silent:
        return ""
    last = min(silent, key=lambda beat: beat.silent_secs)
    return (
        f"{last.process.name} on {last.process.host} fell silent {duration(last.silent_secs)} ago: "
    )
