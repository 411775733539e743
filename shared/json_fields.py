"""Reading a message's JSON body field by field: each reader checks, or says what is wrong.

All raise `UndecodableMessage` with the field, what it must be, and what was found.
"""

import math
from typing import Any, Final

import orjson

from shared.errors import UndecodableMessage

VERSION: Final = 1
"""Of the messages that we write."""

READABLE_VERSIONS: Final = frozenset({1})
"""N and N-1."""

LATEST_MS: Final = 253_402_300_799_999
"""The end of the year 9999."""


def json_object(body: bytes) -> dict[str, Any]:
    """The fields of a JSON object."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise UndecodableMessage(f"the body is not JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise UndecodableMessage("the body is not a JSON object")
    return fields


def version_of(fields: dict[str, Any]) -> int:
    """One of `READABLE_VERSIONS`."""
    version = fields.get("version")
    if type(version) is not int or version not in READABLE_VERSIONS:
        raise UndecodableMessage(
            f"version must be one of {sorted(READABLE_VERSIONS)}, was {version!r}"
        )
    return version


def text_of(fields: dict[str, Any], name: str) -> str:
    """A text that is not empty."""
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise UndecodableMessage(f"{name} must be a text, was {value!r}")
    return value


def optional_text_of(fields: dict[str, Any], name: str) -> str | None:
    """A text that is not empty, or None."""
    return None if fields.get(name) is None else text_of(fields, name)


def whole_of(fields: dict[str, Any], name: str) -> int:
    """A whole number of at least 0."""
    value = fields.get(name)
    if type(value) is not int or value < 0:
        raise UndecodableMessage(f"{name} must be a whole number of at least 0, was {value!r}")
    return value


def moment_of(fields: dict[str, Any], name: str) -> int:
    """Milliseconds since 1970 that a datetime can hold."""
    value = whole_of(fields, name)
    if value > LATEST_MS:
        raise UndecodableMessage(
            f"{name} must be in milliseconds since 1970, was {value!r}, after the year 9999"
        )
    return value


def positive_of(fields: dict[str, Any], name: str) -> float:
    """A finite number above 0."""
    value = optional_number_of(fields, name)
    if value is None or value <= 0:
        raise UndecodableMessage(f"{name} must be a number above 0, was {value!r}")
    return value


def optional_number_of(fields: dict[str, Any], name: str) -> float | None:
    """A finite number, or None."""
    value = fields.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value):
        raise UndecodableMessage(f"{name} must be a finite number or null, was {value!r}")
    return float(value)


def object_of(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """An object as a dictionary."""
    value = fields.get(name)
    if not isinstance(value, dict):
        raise UndecodableMessage(f"{name} must be an object, was {value!r}")
    return value
