"""Known bugs, put back one at a time: `python -m tests.chaos.mutants [--chaos] [NAME …]`.

Each patch of tests/chaos/mutants/ is applied to a copy of the work tree, and the parts of the
suite that must catch it run there, until one is red. What was red then runs on a copy without any
bug: a check that is red anyway proves nothing. Prints a table; exit status 1 if a bug survives,
2 if that cannot be told.

With `--chaos` the checks are runs of real processes instead: the failpoint matrix and chaos runs
of fixed seeds, for the bugs that lose, double or mistake orders.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PATCHES: Final = Path(__file__).with_suffix("")
SURVIVED: Final = "NOTHING"
GRACE_SECS: Final = 60.0

Say = Callable[[str], object]


class CannotTell(Exception):
    """Whether the suite catches a bug is not known. The text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Tests:
    """Test files, or single tests, of the suite. The first failure ends them."""

    paths: tuple[str, ...]
    most_secs = 420.0

    def command(self) -> Sequence[str]:
        fixed = (
            "-x",
            "--hypothesis-profile=unshrunk",
            "--hypothesis-seed=1",
            "-p",
            "no:cacheprovider",
            "--tb=no",
            "-rf",
        )
        return "-m", "pytest", *fixed, *self.paths

    def red(self, code: int, output: str) -> str | None:
        """What failed; None: nothing did. Raises `CannotTell` where the tests did not run."""
        if code == 0:
            return None
        failed = re.search(r"^FAILED ([^\s\[]+)", output, re.MULTILINE)
        if code == 1 and failed is not None:
            return failed[1].removeprefix("tests/")
        raise CannotTell(f"the tests did not run: {_tail(output)}")

    def narrowed(self, red: str) -> "Tests":
        """Only the test that was red."""
        return Tests((f"tests/{red}",))

    def __str__(self) -> str:
        return " ".join(path.removeprefix("tests/") for path in self.paths)


@dataclass(frozen=True, slots=True)
class Run:
    """A program that runs a whole fleet, and its judge's verdict."""

    arguments: tuple[str, ...]
    most_secs = 1500.0

    def command(self) -> Sequence[str]:
        return "-m", *self.arguments

    def red(self, code: int, output: str) -> str | None:
        """The first rule that was broken; None: none. Raises `CannotTell` where the judge found
        nothing and yet it failed: a failpoint that was not reached proves nothing."""
        if code == 0:
            return None
        broken = re.search(r"^[a-z]+(?:_[a-z]+)+(?: \(paper\))?: .*", output, re.MULTILINE)
        said = broken or re.search(r"\bstuck: .*", output, re.IGNORECASE)
        if said is None:
            raise CannotTell(f"no rule was broken: {_tail(output)}")
        return f"{self}: {said[0][:100]}"

    def narrowed(self, red: str) -> "Run":
        """All of it: no part of a run stands alone."""
        return self

    def __str__(self) -> str:
        program, first, *rest = self.arguments
        return f"{program.removeprefix('tests.chaos.')} {first}{' …' if rest else ''}"


Check = Tests | Run


def tests(*paths: str) -> Tests:
    """Of tests/, without that and without `.py`."""
    return Tests(tuple(re.sub(r"^([^:]+)", r"tests/\1.py", path) for path in paths))


LIFE: Final = tests("unit/test_life")
DESK: Final = tests("unit/test_desk")
ASKING: Final = tests("unit/test_reconcile")
BOOKS: Final = tests("integration/test_store_settlement")
COMMIT: Final = tests("integration/test_store_trading")
MOMENTS: Final = tests("integration/test_live_moments")
EXECUTION: Final = tests("integration/test_execution")

CAUGHT_BY: Final[Mapping[str, Sequence[Check]]] = {
    "acknowledge_before_commit": [tests("integration/test_relay")],
    "asked_too_early": [ASKING],
    "attempts_not_counted": [EXECUTION],
    "attempts_not_guarded": [COMMIT],
    "coin_fee_ignored": [BOOKS],
    "commit_in_doubt_is_dropped": [MOMENTS, EXECUTION],
    "dust_dropped": [tests("unit/test_settlement_rules"), BOOKS],
    "every_error_is_a_rejection": [tests("unit/test_venue_replies", "integration/test_live_send")],
    "foreign_committed_expires": [ASKING, LIFE],
    "given_up_is_forgotten": [ASKING],
    "kill_switch_not_looked_at": [tests("unit/test_last_look")],
    "late_fill_ignored": [tests("integration/test_late_fills")],
    "lease_without_fence": [COMMIT],
    "mistake_after_commit": [MOMENTS],
    "namespace_not_renewed": [tests("integration/test_store_recovery")],
    "no_answer_is_a_rejection": [tests("integration/test_live_turns")],
    "not_found_is_final": [ASKING, LIFE],
    "read_back_takes_any": [tests("integration/test_live_commit")],
    "request_repeated": [tests("integration/test_live_ask")],
    "resend_on_timeout": [DESK],
    "second_fill_ignored": [BOOKS],
    "second_worker_of_a_name": [tests("integration/test_shards")],
    "send_before_commit": [MOMENTS],
    "sent_past_its_time": [DESK, LIFE],
    "settled_without_its_fills": [tests("unit/test_settlement_rules"), BOOKS],
    "settled_without_lease": [tests("integration/test_settlement_races")],
    "told_before_commit": [MOMENTS, EXECUTION],
}
"""Which checks must catch which patch, the fastest first."""


def moments(*failpoints: str) -> Run:
    return Run(("tests.chaos.moments", *failpoints))


HOSTILE: Final = Run(("tests.chaos.run", *("--faults", "30"), *("--seed", "5"), *("--users", "4")))
JUST_PAST_THE_LEASE: Final = [f"before_commit=pause:{4.55 + 0.05 * n:.2f}" for n in range(8)]

CAUGHT_BY_REAL_PROCESSES: Final[Mapping[str, Sequence[Check]]] = {
    "every_error_is_a_rejection": [HOSTILE],
    "foreign_committed_expires": [moments("after_send=exit", "before_settle=exit")],
    "lease_without_fence": [moments(*JUST_PAST_THE_LEASE)],
    "not_found_is_final": [HOSTILE],
    "resend_on_timeout": [HOSTILE],
    "send_before_commit": [moments("in_commit=exit", "in_commit=exit@2", "in_commit=exit@3")],
}
"""The same for the bugs that lose, double or mistake orders, with a whole fleet."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make chaos-mutants", description=__doc__)
    parser.add_argument("--chaos", action="store_true", help="With real processes; takes long.")
    parser.add_argument("--list", action="store_true", help="Only say which bugs there are.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="Of a patch; without: all.")
    given = parser.parse_args(arguments)
    say = partial(print, flush=True)
    table = CAUGHT_BY_REAL_PROCESSES if given.chaos else CAUGHT_BY
    try:
        if unknown := set(given.names) - set(table):
            raise CannotTell(f"no checks for {', '.join(sorted(unknown))}: --list shows the names")
        chosen = given.names or sorted(table)
        if given.list:
            for name in chosen:
                say(f"{name:<28}{title(name)}")
            return 0
        survivors = hunt({name: table[name] for name in chosen}, say)
    except CannotTell as why:
        say(f"error: {why}")
        return 2
    say(f"{len(chosen) - len(survivors)} of {len(chosen)} bugs are caught")
    return 1 if survivors else 0


def hunt(bugs: Mapping[str, Sequence[Check]], say: Say) -> list[str]:
    """Put each bug back and run its checks. Returns those that nothing caught."""
    with tempfile.TemporaryDirectory(prefix="botfleet_mutants_") as folder:
        clean = Path(folder, "clean")
        copy_work_tree(clean)
        for name in bugs:
            apply(name, clean, check=True)
        say(f"{'bug':<28}{'secs':>5}  caught by")
        survivors = []
        proven: set[Check] = set()
        for name, checks in bugs.items():
            began = time.monotonic()
            mutant = Path(folder, name)
            shutil.copytree(clean, mutant, ignore=shutil.ignore_patterns("__pycache__"))
            apply(name, mutant)
            found = first_red(checks, mutant)
            say(f"{name:<28}{time.monotonic() - began:>5.0f}  {found[0] if found else SURVIVED}")
            if found is None:
                survivors.append(name)
            elif (proof := found[1].narrowed(found[0])) not in proven:
                if red := run(proof, clean):
                    raise CannotTell(f"red without any bug too, so it catches none: {red}")
                proven.add(proof)
            shutil.rmtree(mutant)
        return survivors


def first_red(checks: Sequence[Check], folder: Path) -> tuple[str, Check] | None:
    """What was red, and in which check; None, if all are green."""
    for check in checks:
        if red := run(check, folder):
            return red, check
    return None


def names_of_patches() -> list[str]:
    return sorted(path.stem for path in PATCHES.glob("*.patch"))


def title(name: str) -> str:
    """What the bug is."""
    return (PATCHES / f"{name}.patch").read_text().splitlines()[0]


def copy_work_tree(folder: Path) -> None:
    """Copy what git has or would take, as it is now: with changes that are not committed."""
    listed = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    told = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, told.split("\0")):
        # What was deleted and is not committed is still listed.
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def apply(name: str, folder: Path, *, check: bool = False) -> None:
    """Apply a patch there, or only see whether it would. Raises `CannotTell` if it does not."""
    patch = PATCHES / f"{name}.patch"
    applied = subprocess.run(
        ("git", "apply", *(("--check",) if check else ()), str(patch)),
        cwd=folder,
        # Not a repository, whatever it lies in: there git would leave out what is outside of it.
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    if applied.returncode:
        raise CannotTell(
            f"{patch.relative_to(ROOT)} no longer applies, as the code has changed: put the same "
            f"bug into the code as it is now ({title(name)})\n{applied.stderr.strip()}"
        )


def run(check: Check, folder: Path) -> str | None:
    """What of a check is red in a copy; None: it is green. Raises `CannotTell`."""
    process = subprocess.Popen(
        (sys.executable, *check.command()),
        cwd=folder,
        # Before an installed botfleet, which is the tree that was copied.
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=check.most_secs)
    except subprocess.TimeoutExpired:
        raise CannotTell(f"{check} did not end in {check.most_secs:g} s") from None
    finally:
        if process.poll() is None:
            _end(process)
    return check.red(process.returncode, output)


def _end(process: subprocess.Popen[str]) -> None:
    """Interrupt it, so that it ends the fleet and the servers that it has started."""
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=GRACE_SECS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _tail(output: str) -> str:
    return "\n".join(output.strip().splitlines()[-15:])


if __name__ == "__main__":
    sys.exit(main())
