"""Shards: where users belong, fair shares, and that moves converge and never overlap."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from shared.sharding import fair_shares, moves_of, shard_of

MEMBERS = [f"worker {number}" for number in range(8)]

members = st.sets(st.sampled_from(MEMBERS), min_size=1).map(sorted)
owners = st.lists(st.none() | st.sampled_from(MEMBERS), min_size=1, max_size=64).map(
    lambda names: dict(enumerate(names))
)


@given(st.integers(1, 2**62), st.integers(1, 1024))
def test_a_user_has_one_shard_within_range(user_id: int, shard_count: int) -> None:
    assert 0 <= shard_of(user_id, shard_count) < shard_count
    assert shard_of(user_id, shard_count) == shard_of(user_id, shard_count)


def test_a_user_s_shard_never_changes_between_versions() -> None:
    assert [shard_of(user_id, 256) for user_id in (1, 2, 3, 10_000)] == [183, 13, 155, 69]


def test_users_spread_over_the_shards() -> None:
    counts = Counter(shard_of(user_id, 256) for user_id in range(1, 10_001))
    assert len(counts) == 256
    assert max(counts.values()) < 3 * 10_000 / 256


@given(members, owners)
def test_shares_are_fair_and_add_up(names: list[str], owned: dict[int, str | None]) -> None:
    held = Counter(owner for owner in owned.values() if owner)
    shares = fair_shares(names, held, len(owned))
    assert set(shares) == set(names)
    assert sum(shares.values()) == len(owned)
    assert max(shares.values()) - min(shares.values()) <= 1


@given(members, owners)
def test_members_who_see_the_same_never_take_the_same_shard(
    names: list[str], owned: dict[int, str | None]
) -> None:
    taken = [shard for name in names for shard in moves_of(name, members=names, owners=owned).take]
    assert len(taken) == len(set(taken))
    assert all(owned[shard] is None for shard in taken)


@given(members, owners)
def test_moves_converge_to_fair_shares_with_the_fewest_moves(
    names: list[str], owned: dict[int, str | None]
) -> None:
    """All look at the same owners, give back and take; whoever is gone has expired."""
    now = {shard: owner if owner in names else None for shard, owner in owned.items()}
    before = dict(now)
    held = Counter(owner for owner in now.values() if owner)
    shares = fair_shares(names, held, len(now))
    for _ in range(2):
        moves = {name: moves_of(name, members=names, owners=now) for name in names}
        for name, move in moves.items():
            now |= dict.fromkeys(move.release) | dict.fromkeys(move.take, name)
    assert Counter(now.values()) == Counter({k: v for k, v in shares.items() if v})
    moved = sum(1 for shard in now if before[shard] not in (None, now[shard]))
    assert moved == sum(max(held[name] - share, 0) for name, share in shares.items())


@given(members, owners, st.randoms(use_true_random=False))
def test_moves_converge_whoever_looks_when(
    names: list[str], owned: dict[int, str | None], random: Random
) -> None:
    """One member at a time acts on what it sees: fair and at rest after a few looks each."""
    now = {shard: owner if owner in names else None for shard, owner in owned.items()}
    for _ in range(4):
        for name in random.sample(names, len(names)):
            move = moves_of(name, members=names, owners=now)
            now |= dict.fromkeys(move.release) | dict.fromkeys(move.take, name)
    counts = [Counter(now.values())[name] for name in names]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == len(now)
    assert not any(moves_of(name, members=names, owners=now) for name in names)


@given(members, owners)
def test_shards_of_a_member_that_is_gone_wait_until_they_are_free(
    names: list[str], owned: dict[int, str | None]
) -> None:
    for name in names:
        moves = moves_of(name, members=names, owners=owned)
        assert all(owned[shard] is None for shard in moves.take)
        assert all(owned[shard] == name for shard in moves.release)
