"""Who is alive: each process writes its heartbeat and its report."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Float, bindparam, case, delete, func, select, update

from shared.store.bulk import dialect_of, insert_into
from shared.store.engine import Transaction
from shared.store.tables import workers
from shared.store.types import database_now, seconds_from_now


class ProcessKind(StrEnum):
    PRICE_STREAM = "price_stream"
    TRADE_WORKER = "trade_worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One run of one process. `instance` is new with each start, `name` is not."""

    kind: ProcessKind
    name: str
    instance: str
    host: str
    pid: int

    @property
    def owner(self) -> str:
        """Under which name it holds leases: two runs never share one."""
        return f"{self.name} ({self.instance})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """The last sign of life of a process, by the database's clock."""

    process: Process
    started_at: datetime
    heartbeat_at: datetime
    silent_secs: float
    report: Mapping[str, Any]


async def beat(tx: Transaction, process: Process, report: Mapping[str, Any]) -> None:
    """Say that a process is alive. The first beat of an instance is its start."""
    insert = insert_into(dialect_of(tx), workers).values(
        kind=process.kind,
        name=process.name,
        instance=process.instance,
        host=process.host,
        pid=process.pid,
        started_at=database_now(),
        heartbeat_at=database_now(),
        report=dict(report),
    )
    new = insert.excluded
    same = workers.c.instance == new.instance
    await tx.execute(
        insert.on_conflict_do_update(
            index_elements=["kind", "name"],
            set_={
                "started_at": case((same, workers.c.started_at), else_=new.started_at),
                **{
                    name: new[name]
                    for name in ("instance", "host", "pid", "heartbeat_at", "report")
                },
            },
        )
    )


async def find(tx: Transaction, process: Process) -> Heartbeat | None:
    """The last sign of life of another instance under this process's kind and name."""
    for beat_ in await read(tx, process.kind):
        if beat_.process.name == process.name and beat_.process.instance != process.instance:
            return beat_
    return None


async def join(tx: Transaction, process: Process, *, in_place_of: Heartbeat | None) -> bool:
    """Put a process on the list, in place of a dead instance of its name.

    False, changing nothing, if another instance than these two has the name: one whose COMMIT
    broke off joins again.
    """
    insert = insert_into(dialect_of(tx), workers).values(
        kind=process.kind,
        name=process.name,
        instance=process.instance,
        host=process.host,
        pid=process.pid,
        report={},
    )
    new = insert.excluded
    dead = "" if in_place_of is None else in_place_of.process.instance
    joined = await tx.execute(
        insert.on_conflict_do_update(
            index_elements=["kind", "name"],
            set_={name: new[name] for name in ("instance", "host", "pid", "report")}
            | {"started_at": database_now(), "heartbeat_at": database_now()},
            where=workers.c.instance.in_((dead, process.instance)),
        ).returning(workers.c.instance)
    )
    return joined.first() is not None


async def show_life(
    tx: Transaction, process: Process, report: Mapping[str, Any] | None = None
) -> bool:
    """Move the heartbeat, and the report if one is given. False: another has the name."""
    values: dict[str, Any] = {"heartbeat_at": database_now()}
    if report is not None:
        values["report"] = dict(report)
    shown = await tx.execute(
        update(workers)
        .values(values)
        .where(
            workers.c.kind == process.kind,
            workers.c.name == process.name,
            workers.c.instance == process.instance,
        )
    )
    return bool(shown.rowcount)


async def members(tx: Transaction, kind: ProcessKind, *, alive_secs: float) -> list[str]:
    """The owners' names (`Process.owner`) of the processes that showed life so lately."""
    since = seconds_from_now(bindparam("ago", type_=Float(53)))
    rows = await tx.execute(
        select(workers.c.name, workers.c.instance)
        .where(workers.c.kind == kind, workers.c.heartbeat_at > since)
        .order_by(workers.c.name),
        {"ago": -alive_secs},
    )
    return [f"{row.name} ({row.instance})" for row in rows]


async def sharers(tx: Transaction, egress: str, *, alive_secs: float) -> int:
    """How many trade workers showed life so lately and reach the venues by this way out, which
    is what their reports call `egress`."""
    since = seconds_from_now(bindparam("ago", type_=Float(53)))
    count = await tx.scalar(
        select(func.count())
        .select_from(workers)
        .where(
            workers.c.kind == ProcessKind.TRADE_WORKER,
            workers.c.heartbeat_at > since,
            workers.c.report["egress"].as_string() == egress,
        ),
        {"ago": -alive_secs},
    )
    return count or 0


async def read(tx: Transaction, kind: ProcessKind | None = None) -> list[Heartbeat]:
    """Every process that ever was and did not say goodbye, by kind and name."""
    query = select(workers, database_now().label("now")).order_by(workers.c.kind, workers.c.name)
    if kind is not None:
        query = query.where(workers.c.kind == kind)
    return [
        Heartbeat(
            process=Process(
                kind=ProcessKind(row.kind),
                name=row.name,
                instance=row.instance,
                host=row.host,
                pid=row.pid,
            ),
            started_at=row.started_at,
            heartbeat_at=row.heartbeat_at,
            silent_secs=(row.now - row.heartbeat_at).total_seconds(),
            report=row.report,
        )
        for row in await tx.execute(query)
    ]


async def goodbye(tx: Transaction, process: Process) -> None:
    """Take a stopped process off the list, unless another instance has its name already."""
    await tx.execute(
        delete(workers).where(
            workers.c.kind == process.kind,
            workers.c.name == process.name,
            workers.c.instance == process.instance,
        )
    )
