"""Judges real orders by the venue's own journal: plain rules, none of the fleet's code.

`truth_of` reads what a venue wrote down, `violations` compares it with the database of a drained
fleet. Each rule takes both and yields what breaks it, so that a test can hand it broken rows.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any, Final

from tests.acceptance.checker import EXACT, UNSETTLED, History, Row, Violation

Found = Iterator[tuple[str, Sequence[Row]]]

_OURS: Final = re.compile(r"[0-9a-f]{32}")
"""What a client order id of botfleet looks like; a person's own orders have others."""

_PLACED: Final = frozenset({"open", "filled", "cancelled", "expired"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What the venues did, by client order id: acceptances, trades, ends."""

    accepted: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    fills: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    ended: Mapping[str, Sequence[Row]] = field(default_factory=dict)


def truth_of(journal: Path) -> Truth:
    """The orders of ours in a journal (ecosystem/venue_simulator/journal.py has its format)."""
    kinds: dict[str, defaultdict[str, list[Row]]] = {
        kind: defaultdict(list) for kind in ("accepted", "filled", "ended")
    }
    for line in journal.read_text().splitlines():
        entry = json.loads(line)
        if entry["type"] in kinds and _OURS.fullmatch(entry["client_order_id"] or ""):
            kinds[entry["type"]][entry["client_order_id"]].append(entry)
    return Truth(accepted=kinds["accepted"], fills=kinds["filled"], ended=kinds["ended"])


def violations(history: History, truth: Truth) -> list[Violation]:
    """Everything that the fleet's books and the venues' disagree about, rule by rule."""
    return [
        Violation(rule=rule.__name__, text=text, rows=rows)
        for rule in RULES
        for text, rows in rule(history, truth)
    ]


def every_intent_has_at_most_one_venue_order(history: History, truth: Truth) -> Found:
    for order in live_orders(history):
        accepted = truth.accepted.get(order["client_order_id"], ())
        if len(accepted) > 1:
            yield f"accepted {len(accepted)} times", (order, *accepted)


def every_venue_order_has_an_intent(history: History, truth: Truth) -> Found:
    known = {order["client_order_id"] for order in live_orders(history)}
    for id_, accepted in truth.accepted.items():
        if id_ not in known:
            yield "accepted, but nobody knows of it", accepted


def every_order_is_settled_as_it_ended_at_the_venue(history: History, truth: Truth) -> Found:
    for order in live_orders(history):
        id_, status = order["client_order_id"], order["status"]
        if status in UNSETTLED:
            yield f"still {status}", (order,)
        elif (id_ in truth.accepted) != _is_placed(order):
            yield f"{status}, but accepted {len(truth.accepted.get(id_, ()))} times", (order,)
        elif id_ in truth.accepted and order["venue_order_id"] is None:
            yield "the venue's own id is missing", (order,)


def every_order_traded_what_the_venue_says(history: History, truth: Truth) -> Found:
    with localcontext(EXACT):
        for order in live_orders(history):
            fills = truth.fills.get(order["client_order_id"], ())
            traded = sum((Decimal(fill["quantity"]) for fill in fills), Decimal(0))
            if order["filled_quantity"] != traded:
                yield f"filled {order['filled_quantity']}, at the venue {traded}", (order, *fills)
            elif (order["status"] == "filled") != (0 < traded == order["quantity"]):
                yield f"{order['status']} with {traded} of {order['quantity']}", (order, *fills)


def the_fills_are_those_of_the_venue(history: History, truth: Truth) -> Found:
    live = {order["client_order_id"] for order in live_orders(history)}
    ours = {
        (fill["client_order_id"], fill["trade_id"]): _numbers(fill)
        for fill in history.fills
        if fill["client_order_id"] in live
    }
    theirs = {
        (id_, str(fill["trade_id"])): _numbers(fill)
        for id_, fills in truth.fills.items()
        for fill in fills
    }
    for key in ours.keys() ^ theirs.keys():
        where = "in our books" if key in ours else "in the venue's books"
        yield f"a trade only {where}: {key}", ()
    for key in ours.keys() & theirs.keys():
        if ours[key] != theirs[key]:
            yield f"trade {key} is {ours[key]}, at the venue {theirs[key]}", ()


def positions_are_what_their_fills_say(history: History, truth: Truth) -> Found:
    del truth  # the fills have been compared with it
    by_position: defaultdict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for fill in history.fills:
        by_position[fill["bot_id"], fill["pair"], fill["position_sequence"]].append(fill)
    with localcontext(EXACT):
        for position in history.positions:
            fills = by_position[position["bot_id"], position["pair"], position["sequence"]]
            if wrong := _differences(position, fills):
                yield f"differs from its fills: {wrong}", (position, *fills)


def nothing_was_accepted_after_its_time(history: History, truth: Truth) -> Found:
    for order in live_orders(history):
        for accepted in truth.accepted.get(order["client_order_id"], ()):
            at = datetime.fromtimestamp(accepted["wall_ms"] / 1000, tz=UTC)
            if at > order["send_by"]:
                yield f"accepted {at - order['send_by']} after send_by", (order, accepted)


def the_venue_saw_what_was_decided(history: History, truth: Truth) -> Found:
    for order in live_orders(history):
        for accepted in truth.accepted.get(order["client_order_id"], ()):
            price = None if accepted["price"] is None else Decimal(accepted["price"])
            seen = accepted["pair"], accepted["side"], Decimal(accepted["quantity"]), price
            meant = order["pair"], order["side"], order["quantity"], order["limit_price"]
            if seen != meant:
                yield f"meant {meant}, the venue saw {seen}", (order, accepted)


RULES: Final[Sequence[Callable[[History, Truth], Found]]] = (
    every_intent_has_at_most_one_venue_order,
    every_venue_order_has_an_intent,
    every_order_is_settled_as_it_ended_at_the_venue,
    every_order_traded_what_the_venue_says,
    the_fills_are_those_of_the_venue,
    positions_are_what_their_fills_say,
    nothing_was_accepted_after_its_time,
    the_venue_saw_what_was_decided,
)


def live_orders(history: History) -> list[Row]:
    return [order for order in history.orders if order["mode"] == "live"]


def _is_placed(order: Row) -> bool:
    """Whether our books say that the venue had it: what never left is `expired` too."""
    never_left = order["status"] == "expired" and order["venue_order_id"] is None
    return order["status"] in _PLACED and not never_left


def _numbers(fill: Row) -> tuple[Any, ...]:
    amounts = (Decimal(fill[name]) for name in ("quantity", "price", "fee"))
    return (*amounts, fill["fee_currency"], fill["pair"])


def _differences(position: Row, fills: Sequence[Row]) -> dict[str, tuple[Any, Any]]:
    base, _, quote = position["pair"].partition("/")
    sums: defaultdict[str, Decimal] = defaultdict(Decimal)
    for fill in fills:
        value = "entry_cost" if fill["leg"] == "entry" else "exit_proceeds"
        sums[f"{fill['leg']}_quantity"] += fill["quantity"]
        sums[value] += fill["quantity"] * fill["price"]
        if fill["fee_currency"] in (base, quote):
            sums["fees" if fill["fee_currency"] == quote else "fee_quantity"] += fill["fee"]
    names = ("entry_quantity", "entry_cost", "exit_quantity", "exit_proceeds", "fees")
    closed = position["status"] == "closed"
    result = sums["exit_proceeds"] - sums["entry_cost"] - sums["fees"]
    held = sums["entry_quantity"] - sums["exit_quantity"] - sums["fee_quantity"]
    expected = {
        **{name: sums[name] for name in (*names, "fee_quantity")},
        "realised_pnl": result if closed else Decimal(0),
        "dust_quantity": held if closed else Decimal(0),
    }
    return {
        name: (position[name], value) for name, value in expected.items() if position[name] != value
    }
