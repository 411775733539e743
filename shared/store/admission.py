"""What the database says about intents before they are committed: the facts of `denials`."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from functools import cache

from sqlalchemy import Executable, Text, and_, exists, func, not_, or_, select, text, true

from shared import admission
from shared.admission import UserStanding
from shared.limits import BreakerScope, UserStatus
from shared.money import exact
from shared.orders import BotStatus, Intent, Leg, Mode
from shared.reasons import Reason
from shared.store import switches
from shared.store.bulk import Rows, dialect_of
from shared.store.credentials import CredentialStatus
from shared.store.database_url import Dialect
from shared.store.engine import Transaction
from shared.store.tables import (
    UNCLOSED_POSITION,
    UNSETTLED_ORDER,
    bots,
    breakers,
    credentials,
    orders,
    positions,
    users,
)
from shared.store.types import Id
from shared.venues import quote_of

_IDS = Rows("ids", id=Id)
_ENTRIES = Rows("entries", bot_id=Id, mode=Text, credential_id=Id)


async def denials(tx: Transaction, intents: Sequence[Intent]) -> dict[str, Reason]:
    """Which intents must not be committed, and why, by client order id.

    Call it inside the gate (`switches.enter_gate`) and under the leases of the intents' shards:
    then nothing that it reads gets stricter before the transaction ends, but for what people
    change about users, keys and bots; a bot's mode waits for it (`bots.change`). At most four
    statements for any number of intents.
    """
    if not intents:
        return {}
    entries = [intent for intent in intents if intent.leg is Leg.ENTRY]
    return admission.denials(
        intents,
        switches=await switches.read_levels(tx),
        users=await standings(tx, {entry.user_id for entry in entries}),
        stopped_bots=await _stopped(tx, entries),
    )


async def standings(tx: Transaction, user_ids: Collection[int]) -> dict[int, UserStanding]:
    """How these users stand; one that does not exist is absent."""
    if not user_ids:
        return {}
    asked = _IDS.parameters((user_id,) for user_id in user_ids)
    rows = (await tx.execute(_standings(dialect_of(tx)), asked)).all()
    limited = [row.id for row in rows if row.max_notional is not None]
    notional = await _open_notional(tx, limited) if limited else {}
    return {
        row.id: UserStanding(
            active=row.status == UserStatus.ACTIVE,
            breaker_open=bool(row.breaker_open),
            max_open_positions=row.max_open_positions,
            unclosed=row.unclosed,
            max_notional=row.max_notional,
            notional=notional.get(row.id, {}),
        )
        for row in rows
    }


async def _stopped(tx: Transaction, entries: Sequence[Intent]) -> dict[int, Reason]:
    """Why bots enter nothing: a person stopped, removed or changed them, their breaker is open,
    or the key that they would trade with must not be used."""
    if not entries:
        return {}
    asked = _ENTRIES.parameters(
        {(entry.bot_id, entry.mode, entry.credential_id) for entry in entries}
    )
    found: dict[int, Reason] = {}
    for row in await tx.execute(_stopped_bots(dialect_of(tx)), asked):
        if not row.active:
            found[row.id] = Reason.BOT_NOT_ACTIVE
        elif row.breaker_open:
            found[row.id] = Reason.BREAKER_OPEN
        elif row.mode_changed:
            found[row.id] = Reason.BOT_MODE_CHANGED
        elif dialect_of(tx) == "sqlite":
            found[row.id] = Reason.LIVE_NEEDS_POSTGRES
        else:
            found[row.id] = Reason.CREDENTIAL_NOT_READY
    return found


async def _open_notional(
    tx: Transaction, user_ids: Collection[int]
) -> Mapping[int, Mapping[str, Decimal]]:
    """What unclosed positions cost, by user and quote currency.

    Summed here: SQLite keeps amounts as text. A position counts with what its entry cost, or,
    while the entry is on its way, with what it may cost if that is more.
    """
    asked = _IDS.parameters((user_id,) for user_id in user_ids)
    total: defaultdict[int, defaultdict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    with exact():
        for row in await tx.execute(_unclosed(dialect_of(tx)), asked):
            price = row.decided_price if row.limit_price is None else row.limit_price
            coming = Decimal(0) if price is None else row.quantity * price
            total[row.user_id][quote_of(row.pair)] += max(row.entry_cost, coming)
    return total


@cache
def _standings(dialect: Dialect) -> Executable:
    ids = _IDS.source(dialect)
    # By way of the user's bots: the index of unclosed positions knows bots, and a user's whole
    # history would have to be read otherwise. A removed bot has nothing open.
    unclosed = (
        select(func.count())
        .select_from(bots)
        .join(positions, positions.c.bot_id == bots.c.id)
        .where(
            bots.c.user_id == users.c.id,
            bots.c.removed_at.is_(None),
            text(f"positions.{UNCLOSED_POSITION}"),
        )
        .scalar_subquery()
    )
    breaker_open = exists().where(
        breakers.c.open,
        breakers.c.scope == BreakerScope.USER,
        breakers.c.scope_id == users.c.id,
    )
    return select(
        users.c.id,
        users.c.status,
        users.c.max_open_positions,
        users.c.max_notional,
        unclosed.label("unclosed"),
        breaker_open.label("breaker_open"),
    ).join_from(ids, users, users.c.id == ids.c.id)


@cache
def _stopped_bots(dialect: Dialect) -> Executable:
    entries = _ENTRIES.source(dialect)
    active = and_(bots.c.status == BotStatus.ACTIVE, bots.c.removed_at.is_(None))
    breaker_open = exists().where(
        breakers.c.open,
        breakers.c.scope == BreakerScope.BOT,
        breakers.c.scope_id == bots.c.id,
    )
    mode_changed = bots.c.mode != entries.c.mode
    has_key = exists().where(
        credentials.c.id == entries.c.credential_id,
        credentials.c.user_id == bots.c.user_id,
        credentials.c.venue == bots.c.venue,
        credentials.c.status == CredentialStatus.ACTIVE,
        credentials.c.live,
        credentials.c.trouble.is_(None),
    )
    unusable = true() if dialect == "sqlite" else not_(has_key)
    cannot_be_live = and_(entries.c.mode == Mode.LIVE, unusable)
    return (
        select(
            bots.c.id,
            active.label("active"),
            breaker_open.label("breaker_open"),
            mode_changed.label("mode_changed"),
        )
        .join_from(entries, bots, bots.c.id == entries.c.bot_id)
        .where(or_(not_(active), breaker_open, mode_changed, cannot_be_live))
    )


@cache
def _unclosed(dialect: Dialect) -> Executable:
    ids = _IDS.source(dialect)
    entry = and_(
        orders.c.bot_id == positions.c.bot_id,
        orders.c.pair == positions.c.pair,
        orders.c.position_sequence == positions.c.sequence,
        orders.c.leg == Leg.ENTRY,
        text(f"orders.{UNSETTLED_ORDER}"),
    )
    return (
        select(
            positions.c.user_id,
            positions.c.pair,
            positions.c.entry_cost,
            orders.c.quantity,
            orders.c.limit_price,
            orders.c.decided_price,
        )
        .join_from(ids, bots, bots.c.user_id == ids.c.id)
        .join(positions, positions.c.bot_id == bots.c.id)
        .outerjoin(orders, entry)
        .where(bots.c.removed_at.is_(None), text(f"positions.{UNCLOSED_POSITION}"))
    )
