"""Judges a chaos run by what is left of it: the database, the venues' journal, the records.

Plain rules over rows, as tests/acceptance/live_judge.py and tests/acceptance/checker.py, whose
rules are the greater part of it; none of the fleet's code.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final

from tests.acceptance import checker, live_judge
from tests.acceptance.checker import History, Row, Violation
from tests.acceptance.live_judge import Truth
from tests.chaos.records import Disturbance, Harm, Loss, Records

UNRESOLVED_SECS: Final = 90.0
"""How long an order may be without an outcome while its venue answers."""

TAKEOVER_MARGIN_SECS: Final = 2.0
"""For machines that are busy with other things; the report has the times themselves."""

CHUNK_BYTES: Final = 1 << 20

_FOR_ALL: Final[Sequence[Callable[[History], checker.Found]]] = (
    checker.no_shard_was_held_twice,
    checker.every_epoch_is_one_above_the_last,
    checker.every_grant_ended_after_it_began,
    checker.every_order_was_committed_under_the_grant_of_its_time,
    checker.no_position_was_opened_twice,
    checker.no_entry_was_decided_on_a_stale_tick,
    checker.every_bot_has_what_its_positions_brought,
)
_FOR_PAPER: Final[Sequence[Callable[[History], checker.Found]]] = (
    checker.every_position_was_bought_once_and_sold_once,
    checker.every_order_is_settled_and_its_times_are_in_order,
    checker.fills_explain_every_order_and_position,
    checker.every_order_was_announced_and_every_event_sent,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is known of a run."""

    history: History
    truth: Truth
    records: Records
    secrets: Collection[str]
    """Texts that must be found in no artefact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Takeover:
    """How long after its holder's loss the last of its leases was held by another."""

    loss: Loss
    kind: str
    """`shard`, or `price_stream`."""
    secs: float
    leases: int
    undisturbed: bool
    """Whether nothing else went wrong meanwhile: then the promised time counts."""


def violations(evidence: Evidence) -> list[Violation]:
    """Everything that the run proves against the fleet."""
    history = evidence.history
    paper = _on_paper(history)
    found = live_judge.violations(history, evidence.truth)
    found += _found((rule.__name__, rule(history)) for rule in _FOR_ALL)
    found += _found((f"{rule.__name__} (paper)", rule(paper)) for rule in _FOR_PAPER)
    found += _found((rule.__name__, rule(evidence)) for rule in OWN_RULES)
    return found


def every_event_was_sent(evidence: Evidence) -> checker.Found:
    for event in evidence.history.outbox:
        if event["sent_at"] is None:
            yield "never sent", (event,)


def nothing_stays_unresolved(evidence: Evidence) -> checker.Found:
    for order in live_judge.live_orders(evidence.history):
        secs = net_unresolved_secs(order, evidence.records)
        if secs is not None and secs > UNRESOLVED_SECS:
            yield f"without an outcome for {secs:.1f} s in which the venue answered", (order,)


def all_is_resolved_soon_after_the_faults(evidence: Evidence) -> checker.Found:
    off_at = evidence.records.faults_off_at
    for order in live_judge.live_orders(evidence.history):
        if order["settled_at"] is None or order["committed_at"] > off_at:
            continue
        late = (order["settled_at"] - off_at).total_seconds()
        if late > UNRESOLVED_SECS:
            yield f"resolved {late:.1f} s after the last fault", (order,)


def leases_are_taken_over_in_time(evidence: Evidence) -> checker.Found:
    records = evidence.records
    bound = records.lease_ttl_secs + records.poll_secs + TAKEOVER_MARGIN_SECS
    for takeover in takeovers(evidence.history, records):
        if takeover.undisturbed and takeover.secs > bound:
            text = f"{takeover.leases} leases of {takeover.loss.owner}, lost {takeover.loss.at}"
            yield f"{text}, were held again after {takeover.secs:.2f} s", ()


def no_secret_is_in_any_artefact(evidence: Evidence) -> checker.Found:
    for path in sorted(evidence.records.folder.rglob("*")):
        if path.is_file() and path.suffix != ".keys" and _contains(path, evidence.secrets):
            yield f"a secret is in {path.name}", ()


def the_run_itself_saw_nothing_wrong(evidence: Evidence) -> checker.Found:
    for text in evidence.records.broken:
        yield text, ()


OWN_RULES: Final[Sequence[Callable[[Evidence], checker.Found]]] = (
    every_event_was_sent,
    nothing_stays_unresolved,
    all_is_resolved_soon_after_the_faults,
    leases_are_taken_over_in_time,
    no_secret_is_in_any_artefact,
    the_run_itself_saw_nothing_wrong,
)


def net_unresolved_secs(order: Row, records: Records) -> float | None:
    """For how long an order had no outcome, without the time in which nobody could find it out:
    its venue did not answer properly, the database was away, its worker's shards had no holder.
    None: it has none yet."""
    since, until = order["committed_at"], order["settled_at"]
    if until is None:
        return None
    takeover = timedelta(seconds=records.lease_ttl_secs + records.poll_secs)
    hidden = []
    for each in records.disturbances:
        if each.harm is Harm.ASKING and each.venue in (None, order["venue"]):
            hidden.append((each.since, each.until))
        elif each.harm in (Harm.DATABASE, Harm.DATABASE_LINK, Harm.WORKER):
            hidden.append((each.since, each.until + takeover))
    away_secs = _covered_secs(hidden, since, until)
    return float((until - since).total_seconds()) - away_secs


def takeovers(history: History, records: Records) -> list[Takeover]:
    """One per loss of a process that held leases, which were then taken."""
    found = []
    for loss in records.losses:
        waits = [
            (kind, (later["granted_from"] - loss.at).total_seconds())
            for (kind, _), grants in checker.grants_by_lease(history).items()
            for earlier, later in pairwise(grants)
            if earlier["owner"] == loss.owner
            and earlier["granted_until"] is not None
            and earlier["granted_from"] <= loss.at <= earlier["granted_until"]
            # What it gave back itself, frozen for less than its lease, nobody took over.
            and earlier["ended_why"] != "released"
        ]
        if waits:
            takeover = Takeover(
                loss=loss,
                kind=str(waits[0][0]),
                secs=max(secs for _, secs in waits),
                leases=len(waits),
                undisturbed=_undisturbed(loss, records),
            )
            found.append(takeover)
    return found


def _undisturbed(loss: Loss, records: Records) -> bool:
    until = loss.at + timedelta(seconds=records.lease_ttl_secs + records.poll_secs)
    name = loss.owner.partition(" ")[0]
    return not any(
        each.since < until
        and each.until > loss.at - timedelta(seconds=records.lease_ttl_secs)
        and not _is_this_loss(each, loss, name)
        for each in records.disturbances
        if each.harm in (Harm.DATABASE, Harm.DATABASE_LINK, Harm.WORKER)
    )


def _is_this_loss(each: Disturbance, loss: Loss, name: str) -> bool:
    own = each.harm is Harm.WORKER and each.target.partition(" ")[0] == name
    return own and each.since <= loss.at <= each.until


def story(client_order_id: str, evidence: Evidence) -> Iterator[str]:
    """All that anybody wrote about one order, and what was done to the fleet at that time."""
    history, records = evidence.history, evidence.records
    orders = [row for row in history.orders if row["client_order_id"] == client_order_id]
    yield from (f"order: {row}" for row in orders)
    for fill in history.fills:
        if fill["client_order_id"] == client_order_id:
            yield f"fill: {fill}"
    for event in history.outbox:
        if client_order_id in event["body"]:
            yield f"event: {event['created_at']} {event['routing_key']} {event['body']}"
    for path in sorted(records.folder.iterdir()):
        if path.suffix in (".log", ".jsonl"):
            for line in path.read_text(errors="replace").splitlines():
                if client_order_id in line:
                    yield f"{path.name}: {line}"
    margin = timedelta(seconds=5)
    for row in orders:
        until = (row["settled_at"] or row["committed_at"]) + margin
        for each in records.disturbances:
            if each.since < until and each.until > row["committed_at"] - margin:
                yield f"at that time: {each}"


def _on_paper(history: History) -> History:
    orders = [order for order in history.orders if order["mode"] == "paper"]
    ids = {order["client_order_id"] for order in orders}
    return replace(
        history,
        orders=orders,
        positions=[row for row in history.positions if row["mode"] == "paper"],
        fills=[fill for fill in history.fills if fill["client_order_id"] in ids],
        outbox=[event for event in history.outbox if _order_of(event) in ids],
    )


def _order_of(event: Row) -> str | None:
    if event["exchange"] != "orders":
        return None
    id_: str = json.loads(event["body"])["client_order_id"]
    return id_


def _found(results: Iterable[tuple[str, checker.Found]]) -> list[Violation]:
    return [
        Violation(rule=name, text=text, rows=rows)
        for name, found in results
        for text, rows in found
    ]


def _contains(path: Path, texts: Collection[str]) -> bool:
    wanted = [text.encode() for text in texts]
    tail = b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            if any(text in tail + chunk for text in wanted):
                return True
            tail = chunk[-256:]
    return False


def _covered_secs(
    windows: Iterable[tuple[datetime, datetime]], since: datetime, until: datetime
) -> float:
    """How much of the time from `since` to `until` lies in at least one of the windows."""
    covered = 0.0
    reached = since
    for begin, end in sorted(windows):
        begin, end = max(begin, reached), min(end, until)
        if end > begin:
            covered += (end - begin).total_seconds()
            reached = end
    return covered
