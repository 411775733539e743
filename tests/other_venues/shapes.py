"""The venues' replies as their documentation shows them, with the fields that never change here."""

import json
from pathlib import Path
from typing import Any, Final

_SHAPES: Final = json.loads(Path(__file__).with_name("shapes.json").read_text())


def shape(name: str, **changes: object) -> Any:
    """A reply, or a part of one, with these fields of it filled in."""
    return {**_SHAPES[name], **changes}


def shapes(name: str, *changes: dict[str, object]) -> Any:
    """A list of such, each with its changes."""
    return [{**one, **change} for one, change in zip(_SHAPES[name], changes, strict=True)]
