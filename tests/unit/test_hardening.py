"""A service's memory stays its own."""

import subprocess
import sys

import pytest

SERVICE = """
import asyncio, ctypes, resource
from shared.process import execute

async def main() -> None:
    print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))

raise SystemExit(execute(main))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_service_leaves_no_core_dump_and_cannot_be_read_by_others() -> None:
    told = subprocess.run(
        [sys.executable, "-c", SERVICE], capture_output=True, text=True, check=True
    )

    assert told.stdout.strip() == "(0, 0) 0"
