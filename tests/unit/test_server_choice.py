"""The order in which the tests look for their servers, and the names they give to things."""

from collections.abc import Set
from typing import Final

import pytest

from tests.servers.choice import (
    POSTGRES,
    RABBITMQ,
    Kind,
    ServersMissing,
    Source,
    advice,
    choose,
    first_source,
)
from tests.servers.names import (
    LEFTOVER_AGE_SECS,
    PREFIX,
    RUN,
    leftovers,
    new_name,
    of_this_run,
)
from tests.servers.rabbitmq import virtual_host, with_virtual_host

POINTED_TO, LISTENING = Source.POINTED_TO, Source.LISTENING
BINARIES, DOCKER, INSTALL = Source.BINARIES, Source.DOCKER, Source.INSTALL
ALL: Final = frozenset(Source)


@pytest.mark.parametrize(
    ("available", "first", "chosen"),
    [
        (ALL, POINTED_TO, POINTED_TO),
        (ALL - {POINTED_TO}, POINTED_TO, LISTENING),
        ({BINARIES, DOCKER, INSTALL}, POINTED_TO, BINARIES),
        ({DOCKER, INSTALL}, POINTED_TO, DOCKER),
        ({INSTALL}, POINTED_TO, INSTALL),
        (frozenset(), POINTED_TO, None),
        (ALL, BINARIES, BINARIES),
        (ALL, DOCKER, DOCKER),
        ({POINTED_TO, LISTENING}, BINARIES, None),
    ],
)
def test_first_available_source_is_chosen(
    available: Set[Source], first: Source, chosen: Source | None
) -> None:
    assert choose(available.__contains__, first=first) is chosen


def test_no_source_behind_the_chosen_one_is_asked() -> None:
    asked = []

    def is_available(source: Source) -> bool:
        asked.append(source)
        return source is LISTENING

    choose(is_available, first=POINTED_TO)
    assert asked == [POINTED_TO, LISTENING]


@pytest.mark.parametrize(
    ("value", "source"),
    [(None, LISTENING), ("", LISTENING), ("listening", LISTENING), ("docker", DOCKER)],
)
def test_first_source_is_read_from_the_environment(value: str | None, source: Source) -> None:
    assert first_source(value) is source


def test_unknown_first_source_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ServersMissing, match="binaries, docker, install, was 'dokcer'"):
        first_source("dokcer")


@pytest.mark.parametrize("kind", [RABBITMQ, POSTGRES], ids=lambda kind: kind.name)
def test_advice_names_every_way_out(kind: Kind) -> None:
    text = advice(kind)
    for way in (kind.name, kind.debian_package, kind.docker_image, kind.variable, "make check"):
        assert way in text


@pytest.mark.parametrize("kind", [RABBITMQ, POSTGRES], ids=lambda kind: kind.name)
def test_no_production_variable_points_the_tests_anywhere(kind: Kind) -> None:
    assert kind.variable.startswith("TEST_")


def test_names_are_unique_and_fit_postgres() -> None:
    names = [new_name() for _ in range(100)]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 63


def test_own_names_are_told_from_those_of_other_runs() -> None:
    mine = [RUN, f"{RUN}_1", f"{RUN}-postgres-x"]
    others = [f"{PREFIX}1_1_abcdef_1", f"{RUN}0_1", "postgres"]
    assert of_this_run([*mine, *others]) == mine


def test_only_old_names_of_ours_are_leftovers() -> None:
    now_secs = 1_000_000.0
    old = f"{PREFIX}{int(now_secs) - LEFTOVER_AGE_SECS - 1}_7_abcdef_1"
    young = f"{PREFIX}{int(now_secs) - LEFTOVER_AGE_SECS}_7_abcdef_1"
    names = [old, young, "production", f"{PREFIX}by_hand"]
    assert leftovers(names, now_secs=now_secs) == [old]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("amqp://host", "/"),
        ("amqp://host/", "/"),
        ("amqp://host/%2F", "/"),
        ("amqp://host/a%2Fb", "a/b"),
    ],
)
def test_virtual_host_is_read_from_the_url(url: str, host: str) -> None:
    assert virtual_host(url) == host
    assert virtual_host(with_virtual_host("amqp://u:p@host:1/x", host)) == host
