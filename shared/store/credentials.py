"""Users' keys at the venues: sealed, one active per user and venue."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any


class CredentialStatus(StrEnum):
    ACTIVE = "active"
    RETIRED = "retired"
    """Replaced or removed: kept because orders and fills name it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """An API key and its secret as they are stored: see `shared.vault`."""

    ciphertext: bytes = field(repr=False)
    nonce: bytes = field(repr=False)
    wrapped_key: bytes = field(repr=False)
    wrap_nonce: bytes = field(repr=False)
    master_key_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A key at a venue. `sealed` None: its secret was deleted when it was retired.

    `live` is the owner's word that real orders may be placed with it. `taker_fee` None is the
    venue's default. `facts` are permissions and balance as the venue told them at `checked_at`.
    `trouble` is why its bots stand still, None: they do not.
    """

    id: int
    user_id: int
    user: str
    venue: str
    label: str
    version: int
    status: CredentialStatus
    live: bool
    taker_fee: Decimal | None
    facts: Mapping[str, Any]
    trouble: str | None
    checked_at: datetime | None
    created_at: datetime
    sealed: Sealed | None = field(repr=False)
