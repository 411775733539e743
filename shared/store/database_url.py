"""DATABASE_URL as hosts hand it out, and what it means for our drivers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from shared.errors import InvalidSettings

Dialect = Literal["postgresql", "sqlite"]

_FORMS: Final = "postgresql://user:password@host:5432/name or sqlite:///var/botfleet.db"

# What hosts append for other clients. asyncpg would send an unknown parameter to the server as
# a setting, and the server would refuse it.
_NOT_FOR_US: Final = frozenset(
    {"pgbouncer", "channel_binding", "connection_limit", "pool_timeout", "connect_timeout"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseUrl:
    """A parsed DATABASE_URL. `str()` hides the password.

    `dsn` is what asyncpg reads (with the password), `path` the SQLite file. `pgbouncer` says
    that a pooler in transaction mode is in between: no session settings, no statement that
    outlives its transaction.
    """

    dialect: Dialect
    dsn: str = field(default="", repr=False)
    path: Path | None = None
    pgbouncer: bool = False
    shown: str = ""

    def __str__(self) -> str:
        return self.shown

    @property
    def limits_per_transaction(self) -> bool:
        """Whether time limits must be set in each transaction, for want of a session."""
        return self.pgbouncer


def parse(url: str) -> DatabaseUrl:
    """Read `postgres://`, `postgresql://` (with libpq's parameters) and `sqlite:///` URLs.

    `?pgbouncer=true` says that PgBouncer runs in transaction mode. Raises `InvalidSettings`
    for anything else, never showing the password.
    """
    scheme = url.partition(":")[0].lower()
    if scheme in ("postgres", "postgresql"):
        return _postgresql(url)
    if scheme == "sqlite":
        return _sqlite(url)
    raise InvalidSettings(f"DATABASE_URL must look like {_FORMS}, began with {scheme[:20]!r}")


def _postgresql(url: str) -> DatabaseUrl:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise InvalidSettings(f"DATABASE_URL must look like {_FORMS}: {exc}") from None
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not parts.path.strip("/"):
        raise InvalidSettings(f"DATABASE_URL names no database; it must look like {_FORMS}")
    kept = {name: value for name, value in query.items() if name not in _NOT_FOR_US}
    # sslmode and the other parameters of libpq are read by asyncpg itself.
    dsn = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(kept), ""))
    where = host or query.get("host", "local socket")
    return DatabaseUrl(
        dialect="postgresql",
        dsn=dsn,
        pgbouncer=query.get("pgbouncer", "").lower() in ("true", "1", "on", "yes"),
        shown=f"postgresql://{where}{f':{port}' if port else ''}{parts.path}",
    )


def _sqlite(url: str) -> DatabaseUrl:
    prefix = "sqlite:///"
    name = url[len(prefix) :].partition("?")[0]
    if not url.lower().startswith(prefix) or not name or name == ":memory:":
        raise InvalidSettings(
            "DATABASE_URL must name a file: sqlite:///relative.db or sqlite:////absolute.db, "
            f"was {url!r}"
        )
    return DatabaseUrl(dialect="sqlite", path=Path(name), shown=f"{prefix}{name}")
