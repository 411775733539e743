"""Keep one private server: start it, signal it, and end it when whoever asked for it is gone.

Runs as a process of its own, `keeper.py SPECIFICATION`, with the standard library only. It
reads one command per line, `NUMBER VERB`, and answers `NUMBER ok` or `NUMBER error TEXT`. The
end of its input, which also a killed test run causes, ends the server with all its processes,
its folder and its shared memory. The specification is a JSON object:

    folder       the server's own, removed at the end
    command      what `start` starts there
    environment  all of the server's environment
    user         who runs it, or null
    pid_file     PostgreSQL's postmaster.pid, which names its shared memory, or null
    at_end       a last command, or null
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

GRACE_SECS: Final = 30.0
SET_CHILD_SUBREAPER: Final = 36


class Keeper:
    """A server and every process that descends from it."""

    def __init__(self, specification: dict[str, Any]) -> None:
        self.folder = Path(specification["folder"])
        self.specification = specification
        self.main: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.main = subprocess.Popen(
                self.specification["command"],
                cwd=self.folder,
                env=self.specification["environment"],
                user=self.specification["user"],
                group=self.specification["user"],
                extra_groups=None if self.specification["user"] is None else [],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def check(self) -> None:
        """Fails if the server's first process has ended."""
        if self.main is None or self.main.poll() is not None:
            raise RuntimeError("it has ended")

    def kill(self) -> None:
        """SIGKILL to everything, until nothing is left: a process may fork meanwhile."""
        while pids := descendants():
            send(signal.SIGKILL, pids)
            # Orphans come to this process, their subreaper: their ends can be waited for.
            os.waitpid(-1, 0)
        self.main = None

    def stop(self) -> None:
        """SIGSTOP to everything, until no process is new."""
        stopped: set[int] = set()
        while new := descendants() - stopped:
            send(signal.SIGSTOP, new)
            stopped |= new

    def cont(self) -> None:
        send(signal.SIGCONT, descendants())

    def terminate(self) -> None:
        """Ask politely. PostgreSQL's SIGTERM would wait for clients; its SIGINT does not."""
        if self.main is not None:
            is_postgres = self.specification["pid_file"] is not None
            self.main.send_signal(signal.SIGINT if is_postgres else signal.SIGTERM)
            self.main.wait(GRACE_SECS)

    def end(self) -> None:
        self.kill()
        if self.specification["pid_file"] is not None:
            remove_shared_memory(self.folder / self.specification["pid_file"])
        if self.specification["at_end"] is not None:
            subprocess.run(self.specification["at_end"], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def descendants() -> set[int]:
    """This process's children, their children, and so on."""
    children: dict[int, list[int]] = {}
    for pid, parent in processes():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    waiting = [os.getpid()]
    while waiting:
        for pid in children.get(waiting.pop(), ()):
            found.add(pid)
            waiting.append(pid)
    return found


def processes() -> list[tuple[int, int]]:
    """(pid, parent's pid) of every process that can be seen."""
    if not sys.platform.startswith("linux"):
        # `ps` itself is among what it lists, but gone by the time that anyone signals it.
        listed = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, check=True)
        return [(int(pid), int(ppid)) for pid, ppid in map(bytes.split, listed.stdout.splitlines())]
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                stat = Path(entry.path, "stat").read_text(errors="replace")
            except OSError:
                continue  # it ended meanwhile
            # The name, in brackets, may itself contain spaces and brackets.
            found.append((int(entry.name), int(stat.rpartition(")")[2].split()[1])))
    return found


def send(number: signal.Signals, pids: set[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def remove_shared_memory(pid_file: Path) -> None:
    """Remove the segment that a killed PostgreSQL leaves: line 7 is its key and its id."""
    try:
        _, segment = pid_file.read_text().splitlines()[6].split()
    except (OSError, IndexError, ValueError):
        return
    remove = 0  # IPC_RMID
    ctypes.CDLL(None).shmctl(int(segment), remove, None)


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A handler and not SIG_IGN, which the server would inherit.
        signal.signal(ignored, lambda *_: None)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    keeper = Keeper(json.loads(sys.argv[1]))
    verbs = {
        verb.__name__: verb
        for verb in (keeper.start, keeper.check, keeper.kill, keeper.stop, keeper.cont)
    } | {"terminate": keeper.terminate}
    try:
        for line in sys.stdin:
            number, verb = line.split()
            try:
                verbs[verb]()
                answer = "ok"
            except Exception as error:  # noqa: BLE001 - it goes to whoever asked
                answer = f"error {error!r}"
            sys.stdout.write(f"{number} {answer}\n")
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever asked is gone before the answer: the same as the end of the input.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        keeper.end()


if __name__ == "__main__":
    main()
