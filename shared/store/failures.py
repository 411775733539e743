"""What a driver's exception means: try again, give up, or the data is bad."""

import sqlite3
from collections.abc import Iterator
from typing import Final

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    StatementError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from shared.errors import BotfleetError, InvalidRow, StoreUnavailable

# https://www.postgresql.org/docs/15/errcodes-appendix.html
_AWAY: Final = ("08", "25P03", "57P01", "57P02", "57P03", "57P05", "53")
_BUSY: Final = ("55P03", "57014", "40001", "40P01")
_BAD_DATA: Final = ("22", "23")
_HOPELESS: Final = ("28", "3D000", "42501")


def translated(exc: BaseException) -> Exception:
    """The error of ours that a driver's exception means.

    An exception that means none of them is a mistake in our SQL: it comes back as it is.
    """
    for cause in _causes(exc):
        if isinstance(cause, BotfleetError):
            return cause
    if is_disconnect(exc):
        return StoreUnavailable(f"the database cannot be reached: {_text(exc)}")
    state = _sqlstate(exc)
    if state.startswith(_HOPELESS):
        return StoreUnavailable(f"the database refuses us: {_text(exc)}")
    if state.startswith(_BUSY) or _is_busy_sqlite(exc):
        return StoreUnavailable(f"the database is busy: {_text(exc)}")
    if state.startswith(_BAD_DATA) or _is_bad_value(exc):
        return InvalidRow(f"the database refuses this data: {_text(exc)}")
    # A schema change made a cached statement stale: the next try prepares it afresh.
    if any(isinstance(cause, asyncpg.InvalidCachedStatementError) for cause in _causes(exc)):
        return StoreUnavailable("the schema changed under a prepared statement")
    return exc if isinstance(exc, Exception) else StoreUnavailable(_text(exc))


def is_disconnect(exc: BaseException) -> bool:
    """Whether the connection is gone, or nobody knows where it stands."""
    for cause in _causes(exc):
        if isinstance(cause, PoolTimeout):
            return False
        if isinstance(cause, asyncpg.InterfaceError):
            return not isinstance(cause, ValueError)  # ValueError: a value it cannot encode
        if isinstance(cause, OSError):
            return True
        if isinstance(cause, DBAPIError) and cause.connection_invalidated:
            return True
    return _sqlstate(exc).startswith(_AWAY)


def why_hopeless(exc: BaseException) -> str | None:
    """What a person must mend before waiting helps; None if waiting may help."""
    if "unsupported startup parameter" in _text(exc):
        return "PgBouncer is in between: add pgbouncer=true to the parameters of DATABASE_URL"
    return _text(exc) if _sqlstate(exc).startswith(_HOPELESS) else None


def _causes(exc: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException | None] = [None]
    pending: list[BaseException | None] = [exc]
    while pending:
        cause = pending.pop()
        if cause is None or cause in seen:
            continue
        seen.append(cause)
        yield cause
        pending.append(cause.__cause__)
        if isinstance(cause, StatementError):
            pending.append(cause.orig)


def _sqlstate(exc: BaseException) -> str:
    for cause in _causes(exc):
        state = getattr(cause, "sqlstate", None)
        if isinstance(state, str):
            return state
    return ""


def _is_busy_sqlite(exc: BaseException) -> bool:
    for cause in _causes(exc):
        if isinstance(cause, PoolTimeout):
            return True
        code = getattr(cause, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return True
    return False


def _is_bad_value(exc: BaseException) -> bool:
    return any(
        isinstance(cause, IntegrityError | DataError)
        or (isinstance(cause, asyncpg.InterfaceError) and isinstance(cause, ValueError))
        for cause in _causes(exc)
    )


def _text(exc: BaseException) -> str:
    """The innermost message, without SQLAlchemy's copy of the statement and its values."""
    *_, innermost = _causes(exc)
    return str(innermost).strip() or type(innermost).__name__
