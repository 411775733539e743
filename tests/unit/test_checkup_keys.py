"""What `doctor` says about keys."""

import pytest

from console.checkup import Mark
from console.checkup_keys import judge_keys
from shared.store.credentials import KeysHealth

TROUBLED = tuple((f"user {number}", "kraken", "revoked") for number in range(5))


def test_a_fleet_on_paper_hears_nothing_of_keys() -> None:
    assert list(judge_keys(KeysHealth(sealed_by={}, troubled=()), None)) == []


@pytest.mark.parametrize(
    ("master_keys", "mark", "found"),
    [
        (None, Mark.NOTE, "5 keys are stored, and no master key is configured here"),
        (("k2", "k1"), Mark.NOTE, "3 of 5 keys are under an older master key"),
        (("k2",), Mark.WRONG, "3 keys are sealed with k1, which the vault here does not have"),
        (("k1", "k2"), Mark.NOTE, "2 of 5 keys are under an older master key"),
    ],
)
def test_master_keys_are_held_against_what_they_seal(
    master_keys: tuple[str, ...] | None, mark: Mark, found: str
) -> None:
    health = KeysHealth(sealed_by={"k1": 3, "k2": 2}, troubled=())
    vault, keys = judge_keys(health, master_keys)
    assert (vault.mark, vault.found) == (mark, found)
    assert keys.mark is Mark.FINE


def test_everything_under_the_newest_master_key_is_fine() -> None:
    health = KeysHealth(sealed_by={"k1": 3}, troubled=())
    assert [finding.mark for finding in judge_keys(health, ("k1", "k0"))] == [Mark.FINE] * 2


def test_keys_in_trouble_are_named_with_the_cure() -> None:
    *_, finding = judge_keys(KeysHealth(sealed_by={"k1": 5}, troubled=TROUBLED), ("k1",))
    assert finding.mark is Mark.WRONG
    assert finding.found.startswith("5 cannot be used, their bots stand still: user 0 on kraken: ")
    assert finding.found.endswith("user 2 on kraken: revoked and 2 more")
