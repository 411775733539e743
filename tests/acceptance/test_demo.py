"""`botfleet demo` as a newcomer meets it: a whole fleet that trades within a minute."""

import fcntl
import os
import pty
import re
import select
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest

from shared.messages import decode_tick

WITHIN_SECS: Final = 60.0
"""What the README promises of a first start."""

SUMMARY: Final = re.compile(
    r"ticks (?P<ticks>\d+) .* on (?P<markets>\d+) markets.*"
    r"denied: health gate (?P<gate>\d+).* entry quality (?P<quality>\d+).*"
    r"open positions (?P<open>\d+) \| trades (?P<trades>\d+) .* P&L (?P<pnl>\S+).*"
    r"price to order p50 (?P<latency>[\d.]+) ms"
)
ENTER_SCREEN, LEAVE_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
SECTIONS: Final = ("market clock", "price → order", "why bots", "ticks", "open positions", "trades")


class Demo:
    """A running demo whose output is read as it comes."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: int) -> None:
        self.text = ""
        self._process = process
        self._output = output

    def read_until(self, seen: Callable[[str], object]) -> None:
        """Read on until the whole text has been `seen`."""
        deadline = time.monotonic() + WITHIN_SECS
        while not seen(self.text):
            ready, _, _ = select.select([self._output], [], [], deadline - time.monotonic())
            assert ready, f"not seen within {WITHIN_SECS} s:\n{self.text[-3000:]}"
            assert self._read(), f"the demo ended:\n{self.text[-3000:]}"

    def interrupt(self) -> int:
        """Ctrl-C; the exit code, and the rest of the output in `text`."""
        self._process.send_signal(signal.SIGINT)
        while self._read():
            pass
        return self._process.wait()

    def _read(self) -> bool:
        try:
            piece = os.read(self._output, 65_536)
        except OSError:  # a pseudo-terminal without a writer
            return False
        self.text += piece.decode(errors="replace")
        return bool(piece)


@contextmanager
def started(folder: Path, *, terminal: bool = False) -> Iterator[Demo]:
    """The demo in a folder of its own, with a pipe or a terminal of 80 columns as its output."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    if terminal:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "console", "demo"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    os.close(theirs)
    try:
        yield Demo(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.timeout(240)
def test_it_trades_within_a_minute_stops_cleanly_and_goes_on_where_it_was(tmp_path: Path) -> None:
    with started(tmp_path) as demo:
        demo.read_until(has_traded)
        last = list(SUMMARY.finditer(demo.text))[-1]
        assert demo.interrupt() == 0
        assert "start it again to go on" in demo.text
    assert int(last["ticks"]) > 0
    assert int(last["gate"]) > 0
    assert int(last["quality"]) > 0
    assert re.fullmatch(r"[+-][\d,]+\.\d\d", last["pnl"])
    assert float(last["latency"]) > 0
    first = left_behind(tmp_path)
    assert len(first.bots) == 200
    assert first.users == 50
    assert first.positions

    with started(tmp_path) as demo:
        demo.read_until(SUMMARY.search)
        assert demo.interrupt() == 0
    second = left_behind(tmp_path)
    assert second.bots == first.bots
    assert second.users == first.users
    assert first.positions <= second.positions
    assert second.market_time_ms > first.market_time_ms


@pytest.mark.timeout(120)
def test_on_a_terminal_it_draws_every_section_and_leaves_the_screen_as_it_was(
    tmp_path: Path,
) -> None:
    with started(tmp_path, terminal=True) as demo:
        demo.read_until(lambda text: all(section in text for section in SECTIONS))
        demo.read_until(lambda text: "adx below minimum" in text)
        assert demo.interrupt() == 0

    assert ENTER_SCREEN in demo.text
    goodbye = demo.text.rpartition(LEAVE_SCREEN)[2]
    assert "stopped: " in goodbye
    assert "Traceback" not in demo.text
    assert "stopping" in (tmp_path / "var" / "demo.log").read_text()


def has_traded(text: str) -> bool:
    """Whether a summary line shows a trade with its result, and the latency."""
    return any(int(line["trades"]) > 0 for line in SUMMARY.finditer(text))


class LeftBehind:
    """What a stopped demo keeps in its database."""

    def __init__(self, database: Path) -> None:
        with closing(sqlite3.connect(database)) as connection:
            read = connection.execute
            self.bots = read("SELECT id, user_id, name, risk_profile FROM bots").fetchall()
            (self.users,) = read("SELECT count(*) FROM users").fetchone()
            self.positions = set(read("SELECT id, bot_id, pair, sequence FROM positions"))
            self.market_time_ms = max(
                decode_tick(body.encode()).market_time_ms
                for (body,) in read("SELECT body FROM latest_ticks")
            )


def left_behind(folder: Path) -> LeftBehind:
    return LeftBehind(folder / "var" / "botfleet.db")
