"""The connection to the database: one pool, one way to hold a transaction, one translation.

Whatever goes wrong comes out as one of our errors (shared/errors.py): `StoreUnavailable` to try
again, `CommitUnknown` to read back first, `InvalidRow` for a statement that the data broke.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import asyncpg  # type: ignore[import-untyped]
import orjson
from sqlalchemy import URL, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncTransaction,
    create_async_engine,
)

from shared.errors import CommitUnknown, Halt, StoreUnavailable
from shared.store.database_url import DatabaseUrl, Dialect, parse
from shared.store.failures import is_disconnect, translated, why_hopeless

log = logging.getLogger(__name__)

Transaction = AsyncConnection
"""What aggregates take: a connection inside a transaction that its opener ends."""

_LONGEST_PAUSE_SECS: Final = 5.0
_DURABLE: Final = ("fsync", "synchronous_commit", "full_page_writes")


class Store:
    """A database and its pool of at most `pool_size` connections. `connect` makes one."""

    def __init__(self, engine: AsyncEngine, url: DatabaseUrl, *, timeout_secs: float) -> None:
        self._engine = engine
        self._url = url
        self._timeout_secs = timeout_secs

    @property
    def dialect(self) -> Dialect:
        """`postgresql` or `sqlite`."""
        return self._url.dialect

    def __str__(self) -> str:
        """Where the database is, without the password."""
        return str(self._url)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        """A transaction: committed at the end of the block, rolled back if the block raises.

        On SQLite it holds the write lock from its start. Raises `StoreUnavailable` if the
        database is away, busy past the time limits, or the connection breaks, and nothing was
        committed; `CommitUnknown` if it broke inside COMMIT; `InvalidRow` for data that the
        database refuses (a constraint, a value it cannot hold). A block that is cancelled
        loses its connection, which ends the transaction; a COMMIT that is cancelled is
        finished first. Either way no open transaction returns to the pool.
        """
        async with self._checked_out(read_only=False) as (connection, transaction):
            yield connection
            await self._commit(connection, transaction)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        """A transaction that only reads, and is rolled back. It waits for no writer on SQLite.

        Raises as `begin`, but never `CommitUnknown`.
        """
        async with self._checked_out(read_only=True) as (connection, _):
            yield connection

    async def wait_until_up(self) -> None:
        """Return once the database answers, saying once if it has to be waited for.

        Raises `Halt` where waiting cannot help: a wrong password, no such database.
        """
        pause_secs = 0.1
        waited = False
        while True:
            try:
                async with self.read() as tx:
                    await tx.execute(text("SELECT 1"))
            except StoreUnavailable as exc:
                if reason := why_hopeless(exc):
                    raise Halt(f"the database at {self} refuses us: {reason}") from exc
                if not waited:
                    log.warning("waiting for the database at %s: %s", self, exc)
                waited = True
                await asyncio.sleep(pause_secs * random.uniform(0.5, 1.0))  # noqa: S311
                pause_secs = min(2 * pause_secs, _LONGEST_PAUSE_SECS)
            else:
                break
        if waited:
            log.info("the database at %s answers", self)

    async def durability_warnings(self) -> list[str]:
        """What the database is told to skip that a committed order needs to survive a crash."""
        if self.dialect == "sqlite":
            return []
        warnings = []
        async with self.read() as tx:
            for name in _DURABLE:
                value = await tx.scalar(text(f"SHOW {name}"))
                if value == "off":
                    warnings.append(
                        f"PostgreSQL runs with {name}=off: committed orders can be lost when "
                        f"it crashes; set {name}=on"
                    )
        return warnings

    async def close(self) -> None:
        """Close every connection. Safe to call twice."""
        await self._engine.dispose()

    @asynccontextmanager
    async def _checked_out(
        self, *, read_only: bool
    ) -> AsyncIterator[tuple[AsyncConnection, AsyncTransaction]]:
        try:
            connection = await self._engine.connect()
        except _FOREIGN as exc:
            raise translated(exc) from exc
        try:
            connection = await connection.execution_options(read_only=read_only)
            transaction = await connection.begin()
            await self._limit(connection)
            yield connection, transaction
            if transaction.is_active:
                await transaction.rollback()
        except _FOREIGN as exc:
            await _give_up(connection, broken=is_disconnect(exc))
            raise translated(exc) from exc
        except Exception:
            await _give_up(connection, broken=False)
            raise
        except BaseException:
            await _give_up(connection, broken=True)
            raise
        finally:
            await _undisturbed(connection.close())

    async def _limit(self, connection: AsyncConnection) -> None:
        if not self._url.limits_per_transaction:
            return
        limits = ", ".join(
            f"set_config('{name}', '{value}', true)"
            for name, value in _time_limits(self._timeout_secs).items()
        )
        await connection.execute(text(f"SELECT {limits}"))

    async def _commit(self, connection: AsyncConnection, transaction: AsyncTransaction) -> None:
        try:
            await _undisturbed(transaction.commit())
        except _FOREIGN as exc:
            if is_disconnect(exc):
                await _give_up(connection, broken=True)
                raise CommitUnknown(f"the connection broke inside COMMIT: {exc}") from exc
            raise


_FOREIGN: Final = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
"""What drivers raise; TimeoutError is an OSError."""


def _time_limits(timeout_secs: float) -> dict[str, str]:
    """PostgreSQL's settings that bound a statement, a wait for a lock, and an idle transaction."""
    milliseconds = str(round(timeout_secs * 1000))
    return {
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
    }


async def _give_up(connection: AsyncConnection, *, broken: bool) -> None:
    """End the transaction without its work; a broken connection leaves the pool."""
    try:
        if broken:
            await _undisturbed(connection.invalidate())
        else:
            await _undisturbed(connection.rollback())
    except _FOREIGN as exc:
        log.debug("could not roll back, dropping the connection: %s", exc)
        await _undisturbed(connection.invalidate())


async def _undisturbed(work: Awaitable[Any]) -> None:
    """Finish the work even if this task is cancelled meanwhile, then let the cancel through.

    A statement cut in half leaves its connection in a state that nobody knows
    (https://github.com/sqlalchemy/sqlalchemy/issues/13381). The work is bounded by the
    connection's own time limits.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise cancelled from error
        raise cancelled
    task.result()


def _read_json(stored: str) -> Any:  # noqa: ANN401 - what a database may hold
    """What a JSON column says; the text itself where it is no JSON that Python can hold.

    PostgreSQL's jsonb keeps numbers of any size, and SQLite any text: one such value must not
    fail the whole page of rows that it is in.
    """
    try:
        return orjson.loads(stored)
    except orjson.JSONDecodeError:
        return stored


_JSON: Final[dict[str, Any]] = {
    "json_serializer": lambda value: orjson.dumps(value).decode(),
    "json_deserializer": _read_json,
}


def connect(
    url: str, *, application_name: str, pool_size: int = 4, timeout_secs: float = 2.0
) -> Store:
    """The store at a DATABASE_URL (`database_url.parse` says which). Nothing is opened yet.

    `timeout_secs` bounds each statement, each wait for a lock, and each pause inside a
    transaction; a reply that is overdue by another 3 s counts as a broken connection. The
    folder of an SQLite file is made. Raises `InvalidSettings`.
    """
    parsed = parse(url)
    if parsed.path is None:
        engine = _postgresql_engine(parsed, application_name, pool_size, timeout_secs)
    else:
        engine = _sqlite_engine(parsed.path, pool_size, timeout_secs)
    return Store(engine, parsed, timeout_secs=timeout_secs)


def _postgresql_engine(
    url: DatabaseUrl, application_name: str, pool_size: int, timeout_secs: float
) -> AsyncEngine:
    session = {"application_name": application_name}
    arguments: dict[str, Any] = {"dsn": url.dsn, "timeout": 5.0, "server_settings": session}
    arguments["command_timeout"] = timeout_secs + 3.0
    if url.pgbouncer:
        # https://docs.sqlalchemy.org/en/21/dialects/postgresql.html#prepared-statement-name-with-pgbouncer
        arguments["statement_cache_size"] = 0
        arguments["prepared_statement_cache_size"] = 0
        arguments["prepared_statement_name_func"] = lambda: f"botfleet_{uuid4().hex}"
    else:
        session.update(_time_limits(timeout_secs))
    return create_async_engine(
        "postgresql+asyncpg://",
        connect_args=arguments,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout_secs + 3.0,
        pool_pre_ping=True,
        **_JSON,
    )


def _sqlite_engine(path: Path, pool_size: int, timeout_secs: float) -> AsyncEngine:
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        connect_args={"timeout": timeout_secs},
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout_secs + 3.0,
        **_JSON,
    )
    _begin_by_sqlalchemy(engine)
    return engine


def _begin_by_sqlalchemy(engine: AsyncEngine) -> None:
    """Let SQLAlchemy begin SQLite's transactions, so that writers take the lock at once.

    The driver would begin at the first write: two transactions that had read before would then
    both fail to upgrade (https://docs.sqlalchemy.org/en/21/dialects/sqlite.html, "Enabling
    Non-Legacy SQLite Transactional Modes").
    """

    @event.listens_for(engine.sync_engine, "connect")
    def _prepare(connection: DBAPIConnection, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Any) -> None:  # noqa: ANN401 - SQLAlchemy's sync connection
        read_only = connection.get_execution_options().get("read_only", False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
