"""By which address a worker reaches the venues, and how many others do."""

import hashlib
from typing import Final
from urllib.parse import urlsplit

from shared.store import workers
from shared.store.engine import Store

LOOK_EVERY_SECS: Final = 2.0

_SHORT: Final = 12


class Egress:
    """The way out of one worker: `sharers` workers, itself included, go the same way.

    `label` says which way, for others to compare: the worker's report carries it as `egress`.
    Workers of two hosts behind one router are not seen to share it; what the venue tells of the
    address (Binance does) still counts.
    """

    def __init__(
        self, store: Store, *, host: str, proxy_url: str | None, alive_secs: float
    ) -> None:
        """`alive_secs` is how long a worker counts after its last sign of life."""
        self.label = label_of(host, proxy_url)
        self.sharers = 1
        self._store = store
        self._alive_secs = alive_secs

    async def look(self) -> None:
        """Count again. Raises `StoreUnavailable`; then what was known stays."""
        async with self._store.read() as tx:
            count = await workers.sharers(tx, self.label, alive_secs=self._alive_secs)
        # We may not have reported yet.
        self.sharers = max(1, count)


def label_of(host: str, proxy_url: str | None) -> str:
    """A harmless name of a way out: the host's own, or a digest of the proxy's.

    The password takes no part in it; the user does, as some proxies give each user an address.

    >>> label_of("a", None)
    'host a'
    >>> label_of("a", "http://u:secret@proxy:8080") == label_of("b", "http://u:other@PROXY:8080")
    True
    """
    if proxy_url is None:
        return f"host {host}"
    user, _, address = urlsplit(proxy_url).netloc.rpartition("@")
    way = f"{user.partition(':')[0]}@{address.lower()}"
    return f"proxy {hashlib.sha256(way.encode()).hexdigest()[:_SHORT]}"
