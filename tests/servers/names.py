"""Names of what the tests make on shared ground: databases, virtual hosts, folders.

A name tells when and by which run it was made, so that two runs never meet, and that a later
run can remove what a crashed one left behind.
"""

import itertools
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

PREFIX: Final = "botfleet_test_"
LEFTOVER_AGE_SECS: Final = 6 * 3600
"""Older than any run may last: what carries an older name is a crashed run's."""

RUN: Final = f"{PREFIX}{int(time.time())}_{os.getpid()}_{secrets.token_hex(3)}"
_numbers = itertools.count(1)


def new_name() -> str:
    """A name of this run that was never used before; fits PostgreSQL's 63 characters."""
    return f"{RUN}_{next(_numbers)}"


def folder_prefix() -> str:
    return f"{RUN}-"


def of_this_run(names: Iterable[str]) -> list[str]:
    """Those of the names that this run made."""
    return [name for name in names if re.match(f"{re.escape(RUN)}(?![0-9a-f])", name)]


def leftovers(names: Iterable[str], *, now_secs: float) -> list[str]:
    """Those of the names that a crashed run must have left behind."""
    made = ((name, re.match(rf"{PREFIX}(\d+)_", name)) for name in names)
    return [
        name
        for name, match in made
        if match is not None and now_secs - int(match[1]) > LEFTOVER_AGE_SECS
    ]


def remove_left_folders() -> None:
    """Remove the folders of servers whose keeper was itself killed."""
    folder = Path(tempfile.gettempdir())
    names = [path.name for path in folder.glob(f"{PREFIX}*")]
    for name in leftovers(names, now_secs=time.time()):
        shutil.rmtree(folder / name, ignore_errors=True)
