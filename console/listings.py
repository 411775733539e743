"""Which pairs a venue lists: as the price stream wrote them down, else as the venue says."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from shared.errors import Refused, RetryLater

if TYPE_CHECKING:
    from shared.settings import Settings
    from shared.store.engine import Transaction

_TIMEOUT_SECS = 20.0


async def listed_pairs(
    tx: "Transaction", settings: "Settings", venues: Iterable[str]
) -> dict[str, frozenset[str]]:
    """The pairs that each venue lists. Raises `Refused` if there is no way to know."""
    from shared.store.markets import MarketStatus, read

    found = {}
    for venue in venues:
        known = await read(tx, venue)
        pairs = frozenset(
            pair for (_, pair), market in known.items() if market.status is MarketStatus.LISTED
        )
        found[venue] = pairs or await _asked(venue, settings)
    return found


async def _asked(venue: str, settings: "Settings") -> frozenset[str]:
    from price_stream.feeds import CcxtFeed
    from shared.venues import venue_named

    url = settings.venue_url(venue)
    feed = CcxtFeed(venue_named(venue), url=url, timeout_secs=_TIMEOUT_SECS)
    try:
        return frozenset(await feed.load())
    except RetryLater as exc:
        raise Refused(
            f"which pairs {venue} lists is not known: no price stream has run on this database, "
            f"and {venue} at {url} {exc}. Start the price stream once, or accept any pair with "
            "--unlisted-ok"
        ) from exc
    finally:
        await feed.close()
