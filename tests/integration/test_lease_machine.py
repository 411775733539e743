"""The statements of leases.py against a model of them, in any order that Hypothesis thinks of."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import select, text, update

from shared.leases import Lease, LeaseEnd, LeaseKind
from shared.orders import Intent, Leg, Mode, client_order_id
from shared.reasons import Reason
from shared.store import leases, trading
from shared.store.engine import Store, Transaction, connect
from shared.store.schema import migrate
from shared.store.tables import lease_grants
from shared.store.tables import leases as lease_table
from shared.store.trading import Proposal
from shared.store.types import seconds_from_now

T = TypeVar("T")

SHARDS = 3
OWNERS = ("a", "b", "c")
owners = st.sampled_from(OWNERS)
numbers = st.frozensets(st.integers(0, SHARDS - 1))


@cache
def migrated() -> Path:
    """A database file to copy: a migration per example would take all the time."""
    folder = Path(tempfile.mkdtemp(prefix="botfleet_leases_"))
    migrate(f"sqlite:///{folder / 'fleet.db'}", shard_count=SHARDS)
    return folder


def teardown_module() -> None:
    shutil.rmtree(migrated())


@dataclass
class Modelled:
    """A shard's lease as it should be. `ends` are those of all its grants, None for the last."""

    owner: str | None = None
    expired: bool = False
    ends: tuple[tuple[str, LeaseEnd | None], ...] = ()

    @property
    def epoch(self) -> int:
        return len(self.ends)

    @property
    def held(self) -> bool:
        return self.owner is not None and not self.expired

    def grant(self, owner: str) -> None:
        if self.owner is not None:
            self.end(LeaseEnd.EXPIRED if self.expired else LeaseEnd.REPLACED)
        self.owner, self.expired, self.ends = owner, False, (*self.ends, (owner, None))

    def end(self, why: LeaseEnd) -> None:
        self.owner, self.ends = None, (*self.ends[:-1], (self.ends[-1][0], why))


class Leases(RuleBasedStateMachine):
    """Several owners on one database. `known` is what each was ever granted: also the lost."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="botfleet_leases_"))
        shutil.copytree(migrated(), self.folder, dirs_exist_ok=True)
        self.runner = asyncio.Runner()
        self.store: Store = connect(
            f"sqlite:///{self.folder / 'fleet.db'}", application_name="test"
        )
        self.model = {number: Modelled() for number in range(SHARDS)}
        self.known: dict[str, list[Lease]] = {owner: [] for owner in OWNERS}

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def write(self, work: Callable[[Transaction], Coroutine[Any, Any, T]]) -> T:
        async def run() -> T:
            async with self.store.begin() as tx:
                return await work(tx)

        return self.runner.run(run())

    @rule(owner=owners, asked=numbers)
    def take(self, owner: str, asked: frozenset[int]) -> None:
        taken = self.write(
            lambda tx: leases.take(tx, LeaseKind.SHARD, owner, ttl_secs=60, numbers=asked)
        )
        free = [number for number in sorted(asked) if not self.model[number].held]
        self.granted(owner, taken, free)

    @rule(owner=owners, gone=owners)
    def take_over(self, owner: str, gone: str) -> None:
        taken = self.write(
            lambda tx: leases.take_over(tx, LeaseKind.SHARD, owner, ttl_secs=60, replacing=gone)
        )
        self.granted(owner, taken, self.owned_by(gone))

    def granted(self, owner: str, taken: list[Lease], expected: list[int]) -> None:
        for number in expected:
            self.model[number].grant(owner)
        assert [(lease.number, lease.epoch, lease.owner) for lease in taken] == [
            (number, self.model[number].epoch, owner) for number in expected
        ]
        self.known[owner] += taken

    @rule(owner=owners)
    def renew(self, owner: str) -> None:
        known = self.known[owner]
        renewed = self.write(lambda tx: leases.renew(tx, known, ttl_secs=60))
        assert [(lease.number, lease.epoch) for lease in renewed] == sorted(
            (lease.number, lease.epoch) for lease in known if self.counts(lease)
        )

    @rule(owner=owners, asked=numbers)
    def release(self, owner: str, asked: frozenset[int]) -> None:
        given = [lease for lease in self.known[owner] if lease.number in asked]
        self.write(lambda tx: leases.release(tx, given))
        for lease in given:
            if self.counts(lease):
                self.model[lease.number].end(LeaseEnd.RELEASED)

    @rule(owner=owners)
    def release_all(self, owner: str) -> None:
        self.write(lambda tx: leases.release_all(tx, LeaseKind.SHARD, owner))
        for number in self.owned_by(owner):
            if self.model[number].held:
                self.model[number].end(LeaseEnd.RELEASED)

    @rule(asked=numbers)
    def time_runs_out(self, asked: frozenset[int]) -> None:
        owned = [number for number in asked if self.model[number].owner is not None]
        self.write(
            lambda tx: tx.execute(
                update(lease_table)
                .where(lease_table.c.kind == LeaseKind.SHARD, lease_table.c.number.in_(owned))
                .values(expires_at=seconds_from_now(text("0")))
            )
        )
        for number in owned:
            self.model[number].expired = True

    @precondition(lambda self: any(self.known.values()))
    @rule(owner=owners)
    def commit(self, owner: str) -> None:
        """One exit under every lease that the owner was ever granted, in one transaction."""
        proposals = [proposal(number, lease) for number, lease in enumerate(self.known[owner])]
        done = self.write(lambda tx: trading.commit(tx, proposals, owner=owner))
        assert done.fenced == {
            each.intent.client_order_id
            for each, lease in zip(proposals, self.known[owner], strict=True)
            if not self.counts(lease)
        }

    @invariant()
    def the_database_agrees(self) -> None:
        async def read() -> tuple[list[leases.LeaseState], list[Any]]:
            async with self.store.read() as tx:
                grants = select(lease_grants).order_by(lease_grants.c.epoch)
                return await leases.states(tx, LeaseKind.SHARD), list(await tx.execute(grants))

        states, grants = self.runner.run(read())
        assert [(state.owner, state.epoch, state.held) for state in states] == [
            (modelled.owner, modelled.epoch, modelled.held) for modelled in self.model.values()
        ]
        for number, modelled in self.model.items():
            recorded = [grant for grant in grants if grant.number == number]
            assert tuple((grant.owner, grant.ended_why) for grant in recorded) == modelled.ends
            assert [grant.epoch for grant in recorded] == list(range(1, modelled.epoch + 1))
            times = [at for grant in recorded for at in (grant.granted_from, grant.granted_until)]
            known = [at for at in times if at is not None]
            assert known == sorted(known)
            assert None not in times[:-1]

    def counts(self, lease: Lease) -> bool:
        """Whether its owner holds it, under its epoch, and its time has not run out."""
        modelled = self.model[lease.number]
        return modelled.held and (modelled.owner, modelled.epoch) == (lease.owner, lease.epoch)

    def owned_by(self, owner: str) -> list[int]:
        return [number for number, each in self.model.items() if each.owner == owner]


def proposal(bot_id: int, lease: Lease) -> Proposal:
    """An exit of a position that is not there: only the fence can tell it from any other."""
    return Proposal(
        intent=Intent(
            client_order_id=client_order_id(
                UUID(int=1),
                bot_id=bot_id,
                pair="BTC/USD",
                position_sequence=1,
                leg=Leg.EXIT,
                attempt=0,
            ),
            bot_id=bot_id,
            user_id=1,
            shard=lease.number,
            lease_epoch=lease.epoch,
            mode=Mode.PAPER,
            venue="kraken",
            pair="BTC/USD",
            position_sequence=1,
            position_version=1,
            leg=Leg.EXIT,
            attempt=0,
            quantity=Decimal(1),
            limit_price=None,
            decided_price=Decimal(100),
            taker_fee=Decimal(0),
            reason=Reason.PROFIT_TARGET,
            market_time_ms=0,
            observed_at_ms=0,
            received_at_ms=0,
            decided_at_ms=0,
        )
    )


TestLeases = Leases.TestCase
TestLeases.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
