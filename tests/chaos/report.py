"""What a chaos run says in the end: one table, and every violation with its history."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Final

from tests.acceptance import live_judge
from tests.acceptance.checker import History, Violation
from tests.chaos import judge
from tests.chaos.judge import Evidence

SHOWN_PER_RULE: Final = 3
STORIES: Final = 3
LONGEST_SHOWN: Final = 400

LOST: Final = (
    "every_venue_order_has_an_intent",
    "every_order_is_settled_as_it_ended_at_the_venue",
)
DOUBLED: Final = ("every_intent_has_at_most_one_venue_order", "no_position_was_opened_twice")
UNRESOLVED: Final = ("nothing_stays_unresolved", "all_is_resolved_soon_after_the_faults")


def table(evidence: Evidence, found: Sequence[Violation]) -> Iterator[str]:
    """The run in numbers, line by line."""
    yield from _faults(evidence)
    yield from _orders(evidence)
    yield from _takeovers(evidence)
    rules = Counter(violation.rule for violation in found)
    named = {"lost": LOST, "doubled": DOUBLED, "unresolved past the bound": UNRESOLVED}
    for name, of in named.items():
        yield _line(name, sum(rules[rule] for rule in of))
    known = {rule for of in named.values() for rule in of}
    yield _line("mismatched", sum(count for rule, count in rules.items() if rule not in known))


def _faults(evidence: Evidence) -> Iterator[str]:
    records = evidence.records
    yield f"seed {records.seed}, {records.injected.total()} faults"
    for kind, count in sorted(records.injected.items()):
        idle = f"  ({records.idle[kind]} met nothing)" if records.idle[kind] else ""
        yield _line(f"  {kind}", count) + idle
    yield _line(
        "processes that ended by themselves, and were started again", len(records.came_back)
    )
    yield from (f"  {text[:LONGEST_SHOWN]}" for text in records.came_back)


def _orders(evidence: Evidence) -> Iterator[str]:
    history, truth = evidence.history, evidence.truth
    live = live_judge.live_orders(history)
    yield _line("orders decided, on paper", len(history.orders) - len(live))
    yield _line("orders decided, live", len(live))
    yield _line(
        "  sent, as far as their senders wrote it down", sum(1 for o in live if o["sent_at"])
    )
    yield _line("  at the venues, by their journal", len(truth.accepted))
    yield _line("  filled, at least in part", sum(1 for o in live if o["filled_quantity"]))
    yield _line("  whose outcome was unknown", sum(unknown_by_outcome(history).values()))
    for status, count in sorted(unknown_by_outcome(history).items()):
        yield _line(f"    resolved as {status}", count)
    secs = [
        (order["settled_at"] - order["committed_at"]).total_seconds()
        for order in live
        if order["settled_at"]
    ]
    net = [judge.net_unresolved_secs(order, evidence.records) or 0.0 for order in live]
    if secs:
        yield _line("  seconds from decided to resolved, median", f"{median(secs):.3f}")
        yield _line("    longest", f"{max(secs):.1f}")
        yield _line("    longest, without the time in which nobody could ask", f"{max(net):.1f}")


def _takeovers(evidence: Evidence) -> Iterator[str]:
    taken = judge.takeovers(evidence.history, evidence.records)
    records = evidence.records
    yield f"takeovers ({records.lease_ttl_secs:g} s lease, {records.poll_secs:g} s poll)"
    for kind, name in (("shard", "shards of a lost worker"), ("price_stream", "a lost stream")):
        of_kind = [each for each in taken if each.kind == kind]
        quiet = [each for each in of_kind if each.undisturbed]
        for chosen, how in ((quiet, "with nothing else wrong"), (of_kind, "all")):
            if secs := [each.secs for each in chosen]:
                figures = f"{median(secs):.2f} / {max(secs):.2f}"
                yield _line(f"  {name}, {how}: {len(secs)}; seconds, median / maximum", figures)


def unknown_by_outcome(history: History) -> Mapping[str, int]:
    """How many live orders ever were `unknown`, by what they are now."""
    statuses: defaultdict[str, set[str]] = defaultdict(set)
    for event in history.outbox:
        if event["exchange"] == "orders":
            body = json.loads(event["body"])
            statuses[body["client_order_id"]].add(body["status"])
    return Counter(
        order["status"]
        for order in live_judge.live_orders(history)
        if "unknown" in statuses[order["client_order_id"]]
    )


def violations(evidence: Evidence, found: Sequence[Violation]) -> Iterator[str]:
    """Every rule that was broken, and the histories of the first orders that show it."""
    for rule in dict.fromkeys(violation.rule for violation in found):
        of_rule = [violation for violation in found if violation.rule == rule]
        yield f"{rule}: {len(of_rule)} times"
        yield from (f"  {violation.text}" for violation in of_rule[:SHOWN_PER_RULE])
        ids = dict.fromkeys(
            row["client_order_id"]
            for violation in of_rule
            for row in violation.rows
            if "client_order_id" in row
        )
        for id_ in list(ids)[:STORIES]:
            yield f"  the history of order {id_}"
            yield from (f"    {line}" for line in judge.story(id_, evidence))
        if not ids:
            yield from (
                f"    {dict(row)}" for each in of_rule[:SHOWN_PER_RULE] for row in each.rows
            )


def _line(name: str, value: object) -> str:
    return f"{name:<68}{value!s:>12}"
