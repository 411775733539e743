"""The keys of this worker's users: opened when needed, and which of them are in trouble."""

import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from shared.errors import CredentialRefused, RetryLater, VenueUnavailable
from shared.store import credentials
from shared.store.credentials import Credential
from shared.store.engine import Store
from shared.vault import Place, Vault
from trade_worker.venues import KeyOf

log = logging.getLogger(__name__)

WRITE_EVERY_SECS: Final = 0.5
TRY_AGAIN_SECS: Final = 60.0
"""How often a key in trouble is tried, while none of its orders asks for it."""


class KeyRing:
    """Opens credentials, and writes down which ones cannot be used: their bots stand still."""

    def __init__(self, store: Store, vault: Vault | None) -> None:
        """`vault` None: no key can be opened at all."""
        self._store = store
        self._vault = vault
        self._troubled: dict[int, str] = {}
        """What the database says, as far as we know."""
        self._news: dict[int, str | None] = {}
        """What it is to say: why a key cannot be used, None where it can."""

    @property
    def in_trouble(self) -> int:
        """How many keys that we met cannot be used at present."""
        return len(self._troubled | {id_: why for id_, why in self._news.items() if why})

    async def open(self, credential_id: int) -> KeyOf:
        """Open a key. Raises `CredentialRefused` if it does not open, and `StoreUnavailable`.

        In the place of one that was replaced comes its successor: what the old one placed is on
        the same account.
        """
        async with self._store.read() as tx:
            credential = await credentials.usable(tx, credential_id)
        if credential is None or credential.sealed is None:
            raise CredentialRefused("the owner's key was removed: add it again")
        if self._vault is None:
            raise CredentialRefused("this worker has no vault key: set BOTFLEET_VAULT_KEY_FILE")
        if credential.trouble is not None:
            self._troubled[credential_id] = credential.trouble
        key = self._vault.open(credential.sealed, place_of(credential))
        return KeyOf(venue=credential.venue, key=key)

    def refused(self, credential_id: int, why: str) -> None:
        """This key cannot be used: say so soon."""
        if self._troubled.get(credential_id) == why:
            self._news.pop(credential_id, None)  # it did answer in between, but no more
        else:
            self._news[credential_id] = why

    def answered(self, credential_id: int) -> None:
        """This key was used with success."""
        if credential_id in self._troubled or credential_id in self._news:
            self._news[credential_id] = None

    async def try_again(
        self, shards: Collection[int], attempt: Callable[[int], Awaitable[object]]
    ) -> None:
        """Use the keys in trouble of these shards' users for something harmless, and see.

        None of their bots trades, so nothing else would find out. Raises `StoreUnavailable`.
        """
        async with self._store.read() as tx:
            troubled = await credentials.in_trouble(tx, shards)
        for credential_id, why in troubled.items():
            self._troubled[credential_id] = why
            try:
                await attempt(credential_id)
            except CredentialRefused as exc:
                self.refused(credential_id, str(exc))
            except VenueUnavailable as exc:
                log.info("credential %d cannot be tried: %s", credential_id, exc)
            else:
                self.answered(credential_id)

    async def write_news(self) -> None:
        """Write down which keys came into trouble, or out of it. Raises `StoreUnavailable`."""
        if not self._news:
            return
        news, self._news = self._news, {}
        try:
            async with self._store.begin() as tx:
                for credential_id, why in news.items():
                    await credentials.set_trouble(tx, credential_id, why)
        except RetryLater:
            self._news = news | self._news
            raise
        for credential_id, why in news.items():
            if why is None:
                self._troubled.pop(credential_id, None)
            else:
                self._troubled[credential_id] = why


def place_of(credential: Credential) -> Place:
    """Where its sealed key belongs."""
    return Place(
        user_id=credential.user_id,
        venue=credential.venue,
        credential_id=credential.id,
        version=credential.version,
    )
