"""Tests in this folder are pure: they open no connection and listen on no port.

`make check` runs them without any server; this keeps it that way. A pair of connected local
sockets is fine: every event loop has one.
"""

import socket
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import pytest

HERE: Final = Path(__file__).parent
FORBIDDEN: Final = frozenset({"socket.connect", "socket.bind", "socket.getaddrinfo"})


class Guard:
    """Watches what this process does with sockets; an audit hook cannot be taken out again."""

    def __init__(self) -> None:
        self.is_on = False
        sys.addaudithook(self.look)

    def __enter__(self) -> None:
        self.is_on = True

    def __exit__(self, *_: object) -> None:
        self.is_on = False

    def look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on or not event.startswith("socket."):
            return
        is_network = event == "socket.__new__" and arguments[1] not in (socket.AF_UNIX, -1)
        if is_network or event in FORBIDDEN:
            # Not an Exception: the code under test must not be able to swallow it.
            pytest.fail(f"a test in tests/unit used the network ({event}): move it elsewhere")


guard = Guard()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    with guard:
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    with guard:
        return (yield)


# Not the teardown: after the last test it takes down the servers of other folders' tests.
