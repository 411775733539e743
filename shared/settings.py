"""Every setting, from the environment and, locally, from `.env`.

`.env.example` lists them; a test holds the two together.
"""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from dotenv import dotenv_values
from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import InvalidSettings
from shared.sharding import DEFAULT_SHARD_COUNT
from shared.venues import BINANCE, KRAKEN

PREFIX: Final = "BOTFLEET_"

Url = Annotated[str, Field(pattern=r"^https?://[^/?#]+$")]


class Settings(BaseSettings):
    """What a process was told. Values are checked once, here."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    database_url: str | None = Field(None, validation_alias="DATABASE_URL", repr=False)
    broker_url: str | None = Field(
        None, validation_alias=AliasChoices("CLOUDAMQP_URL", "RABBITMQ_URL"), repr=False
    )
    worker_id: str | None = Field(None, validation_alias="WORKER_ID")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", validation_alias="LOG_LEVEL"
    )
    log_format: Literal["text", "json"] | None = Field(None, validation_alias="LOG_FORMAT")

    poll_interval_secs: float = Field(5.0, ge=0.05, le=3600)
    shard_count: int = Field(DEFAULT_SHARD_COUNT, ge=1, le=32_767)
    lease_ttl_secs: float = Field(5.0, ge=0.5, le=300)
    outbox_keep_secs: float = Field(3600.0, ge=0, le=30 * 86_400)
    vault_key_file: Path | None = None
    vault_key: SecretStr | None = None
    """Taken out of the environment by the first `load_settings`, for the children's sake."""
    proxy_url: SecretStr | None = None
    kraken_url: Url = KRAKEN.url
    binance_url: Url = BINANCE.url

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _any_case(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        return value.upper() if info.field_name == "log_level" else value.lower()

    @field_validator("kraken_url", "binance_url", mode="before")
    @classmethod
    def _no_trailing_slash(cls, value: object) -> object:
        return value.rstrip("/") if isinstance(value, str) else value

    def venue_url(self, venue: str) -> str:
        """Scheme and host under which a venue is reached."""
        url: str = getattr(self, f"{venue}_url")
        return url


def environment_name(field_name: str) -> str:
    """`BOTFLEET_POLL_INTERVAL_SECS` of `poll_interval_secs`, `DATABASE_URL` of `database_url`."""
    alias = Settings.model_fields[field_name].validation_alias
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return alias if isinstance(alias, str) else PREFIX + field_name.upper()


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the environment and `.env`; `overrides` (by field name) win over both.

    Raises `InvalidSettings` with one line per problem: what is wrong, what was found, what
    would be right. A misspelt `BOTFLEET_` name is a problem too.
    """
    _refuse_unknown_names()
    given = {**_vault_key_from_environment(), **(overrides or {})}
    try:
        return Settings(**given)
    except ValidationError as exc:
        problems = "; ".join(_problem(error) for error in exc.errors())
        raise InvalidSettings(problems) from exc


_taken: dict[str, SecretStr] = {}


def _vault_key_from_environment() -> dict[str, SecretStr]:
    """The vault key, which stays in this process's memory only: children do not inherit it."""
    value = os.environ.pop(environment_name("vault_key"), None)
    if value is not None:
        _taken.clear()
        if value:
            _taken["vault_key"] = SecretStr(value)
    return dict(_taken)


def _problem(error: ErrorDetails) -> str:
    field = str(error["loc"][0])
    name = environment_name(field) if field in Settings.model_fields else field
    message = error["msg"].removeprefix("Input ").replace("should be", "must be")
    if error["type"] == "string_pattern_mismatch":
        message = "must be a scheme and host such as https://api.example.com"
    return f"{name} {message}, was {error['input']!r}"


def _refuse_unknown_names() -> None:
    known = {environment_name(field) for field in Settings.model_fields}
    found = {**dotenv_values(".env"), **os.environ}
    for name in sorted(found):
        if name.startswith(PREFIX) and name not in known:
            ours = sorted(name for name in known if name.startswith(PREFIX))
            close = get_close_matches(name, ours, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise InvalidSettings(f"{name} is not a setting; {hint}they are {', '.join(ours)}")
