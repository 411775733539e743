"""Seeing that a change has taken effect: which workers go by it already."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from console.announce import announce

if TYPE_CHECKING:
    from shared.store.engine import Store

FOLLOW_SECS: Final = 4.0
"""How long a verb looks for the workers to follow: they look twice and report once a second."""

OUTCOME_SECS: Final = 12.0
"""How long a verb waits for a sale: the next tick comes within a poll, 5 s by default."""

_LOOK_EVERY_SECS: Final = 0.1

T = TypeVar("T")

_wait = click.option(
    "--wait/--no-wait", default=True, help="Wait a few seconds to see it take effect (default)."
)


def waits(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option `--no-wait`, as the argument `wait`."""
    return _wait(command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Which of the workers that serve the bots concerned go by a change, and which not yet.

    `unserved`: some of these bots are served by no worker now.
    """

    followed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unserved: bool = False

    @property
    def text(self) -> str:
        """For people, to be put behind what was changed."""
        if self.missing:
            names = ", ".join(self.missing)
            return f"not yet seen by worker {names}: `botfleet status` looks at it"
        if self.unserved:
            return "no worker serves it now: whichever takes it goes by it"
        if self.followed:
            return f"in effect on worker {', '.join(self.followed)}"
        return "it concerns no bot yet"


async def follow(store: "Store", shards: Collection[int], *, wait: bool, change: str) -> str:
    """Announce a committed change and, if asked to, see it taken over; what to tell people."""
    from shared.settings import load_settings

    asked_at_ms = await _database_ms(store)
    await announce(load_settings(), change)
    if not wait:
        return "workers follow within a second"
    effect = await until(
        lambda: effect_on(store, shards, asked_at_ms),
        lambda effect: not effect.missing,
        within_secs=FOLLOW_SECS,
    )
    return effect.text


async def until(
    look: Callable[[], Awaitable[T]], satisfied: Callable[[T], bool], *, within_secs: float
) -> T:
    """Look again and again until what is seen satisfies; what was seen last."""
    from shared.clock import monotonic_secs

    deadline = monotonic_secs() + within_secs
    while True:
        seen = await look()
        if satisfied(seen) or monotonic_secs() > deadline:
            return seen
        await asyncio.sleep(_LOOK_EVERY_SECS)


async def effect_on(store: "Store", shards: Collection[int], since_ms: int) -> Effect:
    """How far the workers of these shards are with what was committed before `since_ms`."""
    from shared.leases import LeaseKind
    from shared.store import leases, workers

    async with store.read() as tx:
        states = await leases.states(tx, LeaseKind.SHARD)
        beats = {beat.process.owner: beat for beat in await workers.read(tx)}
    concerned = [state for state in states if state.number in shards]
    owners = {state.owner for state in concerned if state.held and state.owner is not None}
    # Later than the millisecond of the commit: both are rounded.
    followed = {
        owner
        for owner in owners
        if owner in beats and (beats[owner].report.get("followed_at_ms") or 0) > since_ms
    }
    names = {owner: beats[owner].process.name if owner in beats else owner for owner in owners}
    return Effect(
        followed=tuple(sorted(names[owner] for owner in followed)),
        missing=tuple(sorted(names[owner] for owner in owners - followed)),
        unserved=any(not state.held for state in concerned),
    )


async def _database_ms(store: "Store") -> int:
    from shared.clock import ms_of
    from shared.store.changes import clock

    async with store.read() as tx:
        return ms_of(await clock(tx))
