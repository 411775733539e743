"""Keeps a process's memory, which holds opened keys, to itself."""

import ctypes
import resource
import sys
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def harden() -> None:
    """No core dumps of this process, and no reading of its memory by others of its user.

    What a system does not offer is left out: this is a second wall, not the first.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # Also /proc/PID/environ and /proc/PID/mem belong to root from now on.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
