"""The simulator's memory over restarts: which market it plays, and how far it got."""

import json
import os
import threading
from pathlib import Path
from typing import Any, Final

from shared.errors import InvalidSettings

_VERSION: Final = 1


class StateFile:
    """One small JSON file: the market's name and a market time that nobody has seen beyond.

    While the simulator runs, the time lies a little ahead of its clock, so that after a crash it
    goes on later than anything it ever answered; at a stop it is exact.
    """

    def __init__(self, path: Path, *, market: str) -> None:
        self._path = path
        self._market = market
        # A save whose caller was cancelled is still at work in its thread.
        self._saving = threading.Lock()

    def load(self) -> int | None:
        """The market time (ms) to go on from; None where there is no file yet.

        Raises `InvalidSettings` for a file of another market or one that is not a state file.
        """
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as exc:
            raise InvalidSettings(f"the state file {self._path} cannot be read: {exc}") from exc
        market, market_time_ms = self._parse(text)
        if market != self._market:
            raise InvalidSettings(
                f"the state file {self._path} belongs to the market {market!r}, not to "
                f"{self._market!r}: name another state file, or play that market again"
            )
        return market_time_ms

    def save(self, market_time_ms: int) -> None:
        """Replace the file at once: whoever reads it finds the old or the new one.

        Raises `OSError`; the old file is still there then.
        """
        state = {"version": _VERSION, "market": self._market, "market_time_ms": market_time_ms}
        with self._saving:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch = self._path.with_name(self._path.name + ".new")
            with scratch.open("w", encoding="utf-8") as file:
                json.dump(state, file)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(self._path)

    def _parse(self, text: str) -> tuple[str, int]:
        try:
            state: Any = json.loads(text)
            version, market, market_time_ms = (
                state[name] for name in ("version", "market", "market_time_ms")
            )
        except (ValueError, TypeError, KeyError) as exc:
            raise InvalidSettings(
                f"{self._path} is not a state file of the venue simulator: delete it to start anew"
            ) from exc
        if version != _VERSION or not isinstance(market, str) or type(market_time_ms) is not int:
            raise InvalidSettings(
                f"{self._path} is a state file of another version of the venue simulator: "
                "delete it to start anew"
            )
        return market, market_time_ms
