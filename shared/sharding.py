"""Which shard a user belongs to, and which worker should hold which shard."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final
from zlib import crc32

DEFAULT_SHARD_COUNT: Final = 256


def shard_of(user_id: int, shard_count: int) -> int:
    """The user's shard, from 0 to shard_count - 1: the same on every machine, for ever.

    >>> shard_of(1, 256), shard_of(2, 256)
    (183, 13)
    """
    return crc32(b"%d" % user_id) % shard_count


@dataclass(frozen=True, slots=True)
class Moves:
    """What one worker should do next about shards: give some back, take some that are free."""

    release: frozenset[int] = frozenset()
    take: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.release or self.take)


def fair_shares(
    members: Collection[str], held: Mapping[str, int], shard_count: int
) -> dict[str, int]:
    """How many shards each member should hold: equal, give or take one.

    Where shards cannot be split equally, those who hold most keep one more, so that as few as
    possible move; ties go by name, so that every member comes to the same result.

    >>> fair_shares(["a", "b", "c"], {"b": 8}, 8)
    {'b': 3, 'a': 3, 'c': 2}
    """
    if not members:
        return {}
    least, spare = divmod(shard_count, len(members))
    ranked = sorted(set(members), key=lambda member: (-held.get(member, 0), member))
    return {member: least + (rank < spare) for rank, member in enumerate(ranked)}


def moves_of(member: str, *, members: Collection[str], owners: Mapping[int, str | None]) -> Moves:
    """What `member` should do so that all shards end in fair shares, with the fewest moves.

    `owners` names the holder of every shard, None for a shard that is free: never held,
    released or expired. Each member that is not in `members` counts as gone, its shards wait
    until they are free. A shard moves in two steps, released by one and taken by the other, so
    that nobody ever takes what another may still be using. Members that look at the same
    owners take disjoint shards.
    """
    counts = Counter(owner for owner in owners.values() if owner is not None)
    shares = fair_shares(members, counts, len(owners))
    ours = sorted(shard for shard, owner in owners.items() if owner == member)
    if (surplus := len(ours) - shares[member]) > 0:
        return Moves(release=frozenset(ours[-surplus:]))
    free = sorted(shard for shard, owner in owners.items() if owner is None)
    for taker in sorted(shares):
        wanted = max(shares[taker] - counts[taker], 0)
        if taker == member:
            return Moves(take=frozenset(free[:wanted]))
        free = free[wanted:]
    return Moves()
