"""The known bugs can be put back: every patch fits the code as it is, and has its checks."""

import re
from pathlib import Path

import pytest

from tests.chaos import mutants
from tests.chaos.mutants import CAUGHT_BY, CAUGHT_BY_REAL_PROCESSES, CannotTell, Run


def test_every_patch_has_its_checks_and_every_check_a_patch() -> None:
    assert set(mutants.names_of_patches()) == set(CAUGHT_BY) >= set(CAUGHT_BY_REAL_PROCESSES)
    assert all(CAUGHT_BY.values())


@pytest.mark.parametrize("name", mutants.names_of_patches())
def test_a_patch_says_what_it_is_fits_the_code_and_touches_the_product_alone(name: str) -> None:
    patch = (mutants.PATCHES / f"{name}.patch").read_text()
    assert re.match(r"[A-Z\"].*\.$", mutants.title(name)), "the first line says what the bug is"
    touched = re.findall(r"^\+\+\+ b/(\S+)", patch, re.MULTILINE)
    assert touched
    assert not any(path.startswith("tests/") for path in touched)
    mutants.apply(name, mutants.ROOT, check=True)


PATHS = sorted(
    {
        path
        for checks in CAUGHT_BY.values()
        for check in checks
        if isinstance(check, mutants.Tests)
        for path in check.paths
    }
)


@pytest.mark.parametrize("path", PATHS)
def test_what_must_catch_a_bug_is_there(path: str) -> None:
    file, _, name = path.partition("::")
    assert name in (mutants.ROOT / file).read_text()


def test_a_patch_that_no_longer_fits_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CannotTell, match="no longer applies, as the code has changed"):
        mutants.apply("resend_on_timeout", tmp_path)


FAILED = "FAILED tests/unit/test_desk.py::test_it[a b] - assert 1\n1 failed in 0.1s\n"


def test_a_red_test_is_named() -> None:
    check = mutants.tests("unit/test_desk")
    assert check.paths == ("tests/unit/test_desk.py",)
    assert check.red(1, FAILED) == "unit/test_desk.py::test_it"
    assert check.red(0, "3 passed") is None


@pytest.mark.parametrize(("code", "output"), [(1, "ERROR at setup"), (2, FAILED), (4, "no such")])
def test_tests_that_did_not_run_catch_nothing(code: int, output: str) -> None:
    with pytest.raises(CannotTell, match="did not run"):
        mutants.tests("unit/test_desk").red(code, output)


def test_a_run_counts_by_the_rules_that_were_broken() -> None:
    check = Run(("tests.chaos.run", "--faults", "1"))
    assert check.red(0, "verdict: 0 violations") is None
    assert "Stuck: not within" in str(check.red(1, "tests.fleet.Stuck: not within 9 s: it\n"))
    red = check.red(1, "…\nno_order_is_lost: 3 times\n  one: 1\nverdict: 3 violations\n")
    assert red == "run --faults …: no_order_is_lost: 3 times"
    for output in ("OSError: no space left", "wrong: in_take=exit was never reached\n"):
        with pytest.raises(CannotTell, match="no rule was broken"):
            check.red(1, output)
