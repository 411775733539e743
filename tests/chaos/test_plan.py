"""The plan of a chaos run is drawn from its seed and nothing else, and leaves nothing out."""

from ecosystem.venue_simulator.fault_fields import fault_of
from ecosystem.venue_simulator.faults import FaultKind
from tests.chaos.nemesis import KINDS, failpoints
from tests.chaos.plan import (
    LINK_FAULTS,
    LINKS,
    MANY_AT_ONCE,
    PROCESS_FAULTS,
    kinds_of_the_simulator,
    plan_of,
)


def test_a_seed_gives_the_same_plan_each_time_and_another_seed_another() -> None:
    plans = [plan_of(seed, faults=50, every_secs=1.0, lease_ttl_secs=4.0) for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]
    assert [len(plan) for plan in plans] == [50, 50, 50]


def test_every_fault_of_the_simulator_can_be_drawn() -> None:
    assert kinds_of_the_simulator() == {kind.value for kind in FaultKind}


def test_a_long_plan_has_every_kind_of_fault_and_every_simulated_one_is_well_formed() -> None:
    plan = plan_of(3, faults=3000, every_secs=1.0, lease_ttl_secs=4.0)
    names = {step.name for step in plan}
    assert set(PROCESS_FAULTS) | {MANY_AT_ONCE} <= names
    assert {f"{link}: {kind}" for link in LINKS for kind in LINK_FAULTS} <= names
    assert {f"venue: {kind.value}" for kind in FaultKind} <= names
    for step in plan:
        for fault in step.faults:
            fault_of(dict(fault))


def test_the_nemesis_knows_every_kind_of_fault() -> None:
    assert set(KINDS) == set(PROCESS_FAULTS)
    assert failpoints()


def test_a_calm_plan_leaves_the_broker_alive() -> None:
    plan = plan_of(3, faults=1000, every_secs=1.0, lease_ttl_secs=4.0, calm=True)
    assert "kill the broker" not in {step.kind for step in plan}
