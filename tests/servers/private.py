"""A server of the tests' own, that they may kill, pause and start again."""

import json
import os
import random
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Final

from tests.servers.names import folder_prefix

KEEPER: Final = Path(__file__).with_name("keeper.py")
START_TIMEOUT_SECS: Final = 90.0
POLL_SECS: Final = 0.05
PORTS: Final = range(20_000, 32_000)
"""Below the ephemeral ports (ip_local_port_range), which outgoing connections take at any time."""


class ServerFailed(Exception):
    """A private server did not do what it was told. The text ends with its log's last lines."""


class Port:
    """A TCP port on 127.0.0.1 that no other test run takes, until `close`.

    The UDP port of the same number is held as a lock: it costs nothing, leaves nothing behind,
    goes with the process, and every run on the machine sees it.
    """

    def __init__(self) -> None:
        for number in random.sample(PORTS, len(PORTS)):
            lock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                lock.bind(("127.0.0.1", number))
                with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                    # As servers do: connections of an earlier one in TIME_WAIT do not matter.
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", number))
            except OSError:
                lock.close()
                continue
            self.number, self._lock = number, lock
            return
        raise ServerFailed(f"no port is free between {PORTS.start} and {PORTS.stop}")

    def close(self) -> None:
        self._lock.close()


class PrivateServer:
    """A running server with its own port and folder. Every method is safe from any thread.

    The methods block, up to seconds: in a coroutine, call them with `asyncio.to_thread`. Each
    raises `ServerFailed`. If the test run dies, the server and its folder go too.
    """

    def __init__(
        self,
        *,
        url: str,
        ports: Sequence[Port],
        folder: Path,
        command: Sequence[str],
        environment: Mapping[str, str],
        answers: Callable[[], bool],
        user: str | None = None,
        pid_file: str | None = None,
        at_end: Sequence[str] | None = None,
    ) -> None:
        self.url: Final = url
        self.folder: Final = folder
        self.environment: Final = environment
        self._ports = ports
        self._answers = answers
        self._lock = Lock()
        self._asked = 0
        specification = {
            "folder": str(folder),
            "command": list(command),
            "environment": dict(environment),
            "user": user,
            "pid_file": pid_file,
            "at_end": at_end,
        }
        # A session of its own: Ctrl-C in the terminal reaches the test run only, which then
        # ends its servers in order.
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", str(KEEPER), json.dumps(specification)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self) -> None:
        """Start it and return as soon as it answers."""
        self._ask("start")
        deadline = time.monotonic() + START_TIMEOUT_SECS
        while not self._answers():
            self._ask("check")
            if time.monotonic() > deadline:
                raise ServerFailed(f"no answer in {START_TIMEOUT_SECS:.0f} s{self._log()}")
            time.sleep(POLL_SECS)

    def kill(self) -> None:
        """SIGKILL to all its processes at once. Returns when they are gone."""
        self._ask("kill")

    def stop(self) -> None:
        """SIGSTOP to all its processes: connections stay open, and nothing answers."""
        self._ask("stop")

    def cont(self) -> None:
        """SIGCONT, the end of `stop`."""
        self._ask("cont")

    def terminate(self) -> None:
        """Shut it down in order, clients or not. Returns when it is down."""
        self._ask("terminate")

    def restart(self) -> None:
        """Start it again on the same port and data. Kills it first if it still runs."""
        self.kill()
        self.start()

    def close(self) -> None:
        """End it and remove everything of it. Safe to call twice."""
        if self._keeper.stdin is not None and not self._keeper.stdin.closed:
            self._keeper.stdin.close()
            self._keeper.wait()
            if self._keeper.stdout is not None:
                self._keeper.stdout.close()
            for port in self._ports:
                port.close()

    def _ask(self, verb: str) -> None:
        with self._lock:
            stdin, stdout = self._keeper.stdin, self._keeper.stdout
            if stdin is None or stdout is None or stdin.closed:
                raise ServerFailed(f"cannot {verb} a closed server")
            self._asked += 1
            number = str(self._asked)
            stdin.write(f"{number} {verb}\n")
            stdin.flush()
            for line in stdout:
                # A test's timeout may have interrupted an earlier question: skip its answer.
                asked, _, answer = line.rstrip().partition(" ")
                if asked == number:
                    break
            else:
                raise ServerFailed(f"cannot {verb}: its keeper is gone")
        if answer != "ok":
            raise ServerFailed(f"cannot {verb}: {answer}{self._log()}")

    def _log(self) -> str:
        log = self.folder / "server.log"
        if not log.exists():
            return ""
        return "\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:])


def new_folder(kind: str) -> Path:
    """A fresh folder for a server, readable by its owner only."""
    return Path(tempfile.mkdtemp(prefix=f"{folder_prefix()}{kind}-"))


def new_secret() -> str:
    return secrets.token_hex(16)


def plain_environment(folder: Path) -> dict[str, str]:
    """An environment without any of the developer's or the machine's own settings."""
    return {
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "PATH": os.environ.get("PATH", os.defpath),
        "TMPDIR": str(folder),
    }
