"""The vault: seals users' keys at the venues, and opens them for whoever places orders.

Envelope encryption with AES-256-GCM. Each credential has a random data key of its own, which
encrypts the key and its secret; the data key is encrypted ("wrapped") by a master key of the
operator's. Both are bound to the place where they belong (user, venue, credential, version), so
a row that was copied to another user does not open. Changing the master key re-wraps data keys
and touches no secret.

`python -m shared.vault` prints a new master key. docs/keys.md is the operator's view.
"""

import base64
import binascii
import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.errors import CredentialRefused, InvalidSettings
from shared.redaction import HIDDEN, REDACTOR
from shared.settings import Settings, environment_name

log = logging.getLogger(__name__)

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HOW_TO: Final = "`python -m shared.vault` makes a new line"


class ApiKey:
    """A key and its secret in the clear: hold it for as short a time as the work takes.

    No dataclass: it has no repr, no pickle and no copy that could carry the secret anywhere.
    """

    __slots__ = ("_key", "_secret")

    def __init__(self, *, key: str, secret: str) -> None:
        self._key = key
        self._secret = secret

    @property
    def key(self) -> str:
        return self._key

    @property
    def secret(self) -> str:
        return self._secret

    def __repr__(self) -> str:
        return f"ApiKey({HIDDEN})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ApiKey):
            return NotImplemented
        return (self._key, self._secret) == (other._key, other._secret)

    def __hash__(self) -> int:
        return hash((self._key, self._secret))

    def __reduce__(self) -> NoReturn:
        raise TypeError("an ApiKey is neither pickled nor copied")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """An API key and its secret as they are stored."""

    ciphertext: bytes = field(repr=False)
    nonce: bytes = field(repr=False)
    wrapped_key: bytes = field(repr=False)
    wrap_nonce: bytes = field(repr=False)
    master_key_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a sealed key belongs. It opens nowhere else."""

    user_id: int
    venue: str
    credential_id: int
    version: int

    @property
    def associated_data(self) -> bytes:
        """What both encryptions are bound to."""
        return f"{self.user_id}|{self.venue}|{self.credential_id}|{self.version}".encode()


class Vault:
    """Seals with the newest master key, opens with any of them.

    What it opened or sealed is taken out of this process's logs from then on.
    """

    def __init__(self, master_keys: Mapping[str, bytes]) -> None:
        """`master_keys` by id, newest first; as `parse_master_keys` gives them."""
        self._ciphers = {name: AESGCM(key) for name, key in master_keys.items()}
        self._newest = next(iter(master_keys))

    def __repr__(self) -> str:
        return f"Vault({', '.join(self._ciphers)})"

    @property
    def master_key_ids(self) -> tuple[str, ...]:
        """Of the master keys that open, newest first."""
        return tuple(self._ciphers)

    @property
    def newest(self) -> str:
        """The id of the master key that seals."""
        return self._newest

    def seal(self, api_key: ApiKey, place: Place) -> Sealed:
        """Encrypt a key for its place, under a new data key."""
        REDACTOR.learn((api_key.key, api_key.secret))
        data_key = AESGCM.generate_key(KEY_BYTES * 8)
        nonce = secrets.token_bytes(NONCE_BYTES)
        body = orjson.dumps({"key": api_key.key, "secret": api_key.secret})
        ciphertext = AESGCM(data_key).encrypt(nonce, body, place.associated_data)
        return self._wrapped(data_key, ciphertext, nonce, place)

    def open(self, sealed: Sealed, place: Place) -> ApiKey:
        """Decrypt a key. Raises `CredentialRefused` if it was not sealed so, for this place."""
        data_key = self._unwrapped(sealed, place)
        try:
            body = AESGCM(data_key).decrypt(sealed.nonce, sealed.ciphertext, place.associated_data)
        except (InvalidTag, ValueError):
            raise _damaged(place) from None
        fields = orjson.loads(body)
        opened = ApiKey(key=fields["key"], secret=fields["secret"])
        REDACTOR.learn((opened.key, opened.secret))
        return opened

    def rewrap(self, sealed: Sealed, place: Place) -> Sealed:
        """The same key with its data key under the newest master key. Raises as `open`."""
        data_key = self._unwrapped(sealed, place)
        return self._wrapped(data_key, sealed.ciphertext, sealed.nonce, place)

    def _wrapped(self, data_key: bytes, ciphertext: bytes, nonce: bytes, place: Place) -> Sealed:
        wrap_nonce = secrets.token_bytes(NONCE_BYTES)
        cipher = self._ciphers[self._newest]
        return Sealed(
            ciphertext=ciphertext,
            nonce=nonce,
            wrapped_key=cipher.encrypt(wrap_nonce, data_key, place.associated_data),
            wrap_nonce=wrap_nonce,
            master_key_id=self._newest,
        )

    def _unwrapped(self, sealed: Sealed, place: Place) -> bytes:
        cipher = self._ciphers.get(sealed.master_key_id)
        if cipher is None:
            raise CredentialRefused(
                f"credential {place.credential_id} is sealed with the master key "
                f"{sealed.master_key_id!r}, which is not among {', '.join(self._ciphers)}: add its "
                "line to the vault's key file again"
            )
        try:
            return cipher.decrypt(sealed.wrap_nonce, sealed.wrapped_key, place.associated_data)
        except (InvalidTag, ValueError):
            raise _damaged(place) from None


def _damaged(place: Place) -> CredentialRefused:
    return CredentialRefused(
        f"credential {place.credential_id} does not open: its row was changed or moved, or the "
        "master key of its name is another one now. Add the user's key again"
    )


def parse_master_keys(text: str, source: str) -> dict[str, bytes]:
    """Master keys by id, newest first, from `id:base64` lines; `#` begins a comment.

    Commas separate too. Raises `InvalidSettings` that names `source` and the line, never what
    stands there.
    """
    found: dict[str, bytes] = {}
    lines = re.split(r"[\n,]", text)
    for number, line in enumerate(lines, start=1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        name, colon, encoded = entry.partition(":")
        problem = _problem_of(name.strip(), colon, encoded.strip(), found)
        if problem is not None:
            raise InvalidSettings(f"{source}, line {number}: {problem}; {_HOW_TO}")
        found[name.strip()] = base64.b64decode(encoded.strip())
    if not found:
        raise InvalidSettings(f"{source} holds no master key; {_HOW_TO}")
    return found


def _problem_of(name: str, colon: str, encoded: str, known: Mapping[str, bytes]) -> str | None:
    if not colon or not _ID.fullmatch(name):
        return "a line must be `id:key`, the id of letters, digits, dots, - and _"
    if name in known:
        return f"the id {name} is there twice"
    try:
        size = len(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError):
        return f"the key {name} is not base64"
    return None if size == KEY_BYTES else f"the key {name} must be {KEY_BYTES} bytes, was {size}"


def new_master_key(known: Sequence[str] = ()) -> str:
    """A line with a fresh master key, under an id that is not among those known."""
    name = f"k{secrets.token_hex(4)}"
    while name in known:
        name = f"k{secrets.token_hex(4)}"
    return f"{name}:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}"


def vault_of(settings: Settings) -> Vault | None:
    """The vault with the configured master keys; None where none are: nothing is live there.

    Raises `InvalidSettings` if they cannot be read.
    """
    if settings.vault_key_file is not None:
        return Vault(parse_master_keys(_read(settings), str(settings.vault_key_file)))
    if settings.vault_key is not None:
        text = settings.vault_key.get_secret_value()
        return Vault(parse_master_keys(text, environment_name("vault_key")))
    return None


def required_vault(settings: Settings) -> Vault:
    """The vault, or `InvalidSettings` that says how to make one."""
    vault = vault_of(settings)
    if vault is None:
        raise InvalidSettings(
            f"{environment_name('vault_key_file')} is not set: users' keys are kept encrypted, and "
            "nothing is live without a master key. Make one: (umask 077; python -m shared.vault > "
            f"vault.key), then set {environment_name('vault_key_file')} to its path, for the "
            "workers too"
        )
    return vault


def _read(settings: Settings) -> str:
    file, name = settings.vault_key_file, environment_name("vault_key_file")
    assert file is not None  # noqa: S101 - for mypy: the caller asked
    try:
        if file.stat().st_mode & 0o004:
            log.warning("%s: every user of this machine can read %s: chmod 600 it", name, file)
        return file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not a text of `id:key` lines"
        raise InvalidSettings(f"{name}: {file} cannot be read: {why}") from None


if __name__ == "__main__":
    print(new_master_key())  # noqa: T201 - what it is for
