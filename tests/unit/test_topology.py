"""Topic matching, and that the topology keeps to what RabbitMQ 3.10 and 4.x share."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import topology
from shared.topology import Binding, Queue, dead_letter_key, matches

EVENTS = topology.event_queue("events")

QUEUES = [value for value in vars(topology).values() if isinstance(value, Queue)] + [
    EVENTS,
    *(declared.queue for declared in topology.DURABLE_QUEUES),
]

WORDS = st.sampled_from(["", "a", "b", "BTC/USD"])
KEYS = st.lists(WORDS, min_size=1, max_size=6).map(".".join)
PATTERNS = st.lists(st.one_of(WORDS, st.sampled_from(["*", "#"])), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("BTC/USD", "BTC/USD", True),
        ("BTC/USD", "BTC/USDT", False),
        ("*", "BTC/USD", True),
        ("#", "BTC/USD", True),
        ("BTC/#", "BTC/USD", False),
        ("BTC/*", "BTC/USD", False),
        ("*", "a.b", False),
        ("*.*", "a.b", True),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("#.a", "a", True),
        ("#.b.#", "a.b.c", True),
        ("#.#", "a", True),
        ("order.update.*.kraken", "order.update.filled.kraken", True),
        ("order.*.filled.#", "order.update.filled.kraken", True),
        ("order.update.*", "order.update.filled.kraken", False),
        ("", "", True),
        ("#", "", True),
        ("*", "", False),
        ("a", "A", False),
    ],
)
def test_patterns_match_as_amqp_says(pattern: str, key: str, expected: bool) -> None:
    assert matches(pattern, key) is expected


def as_regex(words: list[str]) -> str:
    """The pattern over a key in which each word is followed by a dot."""
    return "".join(
        r"(?:[^.]*\.)*" if word == "#" else r"[^.]*\." if word == "*" else re.escape(word + ".")
        for word in words
    )


@given(PATTERNS, KEYS)
def test_matching_agrees_with_a_regular_expression(words: list[str], key: str) -> None:
    # An empty key has no words, and so has an empty pattern.
    regex = as_regex(words) if words != [""] else ""
    expected = re.fullmatch(regex, key + "." if key else "") is not None

    assert matches(".".join(words), key) is expected


def test_every_queue_is_checked_below() -> None:
    assert {queue.name for queue in QUEUES if queue.name} == {
        "dead_letters",
        "events",
        "profit_and_loss",
    }
    assert topology.TICK_QUEUE in QUEUES
    assert topology.PROBE_QUEUE in QUEUES


@pytest.mark.parametrize("queue", QUEUES)
def test_queues_use_only_what_rabbitmq_3_10_and_4_share(queue: Queue) -> None:
    # 4.x refuses transient queues that are not exclusive; 3.10 has no exclusive quorum queues.
    assert queue.exclusive is not queue.durable
    assert "x-queue-mode" not in queue.arguments
    if queue.delivery_limit is None:
        assert set(queue.arguments) <= {"x-max-length", "x-overflow", "x-message-ttl"}


def test_an_event_queue_is_a_quorum_queue_that_loses_nothing() -> None:
    # The delivery limit is explicit: 3.10 has none of its own, 4.x has 20. Dead-lettering at
    # least once needs `reject-publish`; with `drop-head` it silently becomes at most once.
    assert EVENTS.arguments == {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-delivery-limit": 20,
        "x-dead-letter-exchange": "dead_letters",
        "x-dead-letter-routing-key": "queue.events",
        "x-dead-letter-strategy": "at-least-once",
        "x-max-length": 1_000_000,
        "x-overflow": "reject-publish",
    }
    assert EVENTS.durable


@pytest.mark.parametrize("queue", QUEUES)
def test_an_exclusive_queue_is_nameless_and_a_durable_one_named(queue: Queue) -> None:
    assert (queue.name is None) is queue.exclusive


@pytest.mark.parametrize("queue", QUEUES)
def test_every_queue_is_bounded_and_all_but_events_drop_their_oldest(queue: Queue) -> None:
    assert int(queue.arguments["x-max-length"]) > 0
    dropping = queue.delivery_limit is None
    assert (queue.arguments["x-overflow"] == "drop-head") is dropping


def test_ticks_are_bounded_in_number_and_age_and_never_dead_lettered() -> None:
    assert topology.TICK_QUEUE.arguments == {
        "x-max-length": 10_000,
        "x-overflow": "drop-head",
        "x-message-ttl": 15_000,
    }


def test_names_are_plain_and_not_the_brokers_own() -> None:
    names = [*topology.EXCHANGES, *(queue.name for queue in QUEUES if queue.name)]

    assert all(re.fullmatch(r"[a-z_]+", name) and not name.startswith("amq") for name in names)
    assert len(set(topology.EXCHANGES)) == len(topology.EXCHANGES)


def test_a_binding_to_a_foreign_exchange_is_refused() -> None:
    with pytest.raises(ValueError, match="exchange must be one of"):
        Binding(exchange="prices", pattern="#")


@given(st.text(), st.text())
def test_a_dead_letter_key_fits_amqp_and_begins_with_its_exchange(exchange: str, key: str) -> None:
    dead_key = dead_letter_key(exchange, key)

    assert len(dead_key.encode()) <= topology.MAX_ROUTING_KEY_BYTES
    assert f"{exchange}.{key}".startswith(dead_key)


def test_dead_ticks_can_be_selected_by_their_exchange() -> None:
    assert matches("price_updates.#", dead_letter_key("price_updates", "BTC/USD"))
