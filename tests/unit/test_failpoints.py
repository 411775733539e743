"""Failpoints: each in its one place, and out of reach for everything but the chaos suite."""

import ast
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from shared import failpoints
from shared.failpoints import WHERE, Point
from tests.chaos.member import EXIT_CODE, Action, Armed, Failpoint, Failure

ROOT: Final = Path(__file__).parents[2]
PRODUCT: Final = ("console", "ecosystem", "loadtests", "migrations", "price_stream", "shared")
FILES: Final = [
    path
    for folder in (*PRODUCT, "trade_worker")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != ROOT / "shared/failpoints.py"
]


def functions(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node


def test_every_point_is_hit_where_it_says_and_nowhere_else() -> None:
    hit = {
        f"{node.args[0].attr}: {path.relative_to(ROOT).as_posix()}: {name}": ast.unparse(node)
        for path in FILES
        for name, function in functions(ast.parse(path.read_text()))
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and isinstance(node.args[:1][0] if node.args else None, ast.Attribute)
        and isinstance(node.args[0], ast.Attribute)
        and ast.unparse(node.func) == "failpoints.hit"
    }
    assert hit == {
        f"{point.name}: {where}": f"failpoints.hit(Point.{point.name})"
        for point, where in WHERE.items()
    }
    said = sum(path.read_text().count("failpoints.hit") for path in FILES)
    assert said == len(WHERE) == len(Point)


def test_nothing_in_the_product_can_replace_the_hit_or_reach_the_tests() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    imported = [name.name for name in names]
                    # `from shared import failpoints` alone, so that it goes by one name.
                    assert "shared.failpoints" not in imported, path
                case ast.ImportFrom(module=module, names=names):
                    imported = [module or ""]
                    if module == "shared.failpoints":
                        assert [name.name for name in names] == ["Point"], path
                case ast.Attribute(attr="hit", ctx=ast.Store() | ast.Del()):
                    pytest.fail(f"{path} replaces a hit")
                case _:
                    continue
            assert not any(name.partition(".")[0] == "tests" for name in imported), path


def test_the_list_of_points_reads_nothing_and_the_hit_is_off() -> None:
    tree = ast.parse((ROOT / "shared/failpoints.py").read_text())
    imported = [
        node.module if isinstance(node, ast.ImportFrom) else ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert imported == ["collections.abc", "enum", "typing"]
    assert failpoints.hit is failpoints.off


def test_no_environment_sets_one(tmp_path: Path) -> None:
    """A whole command of the product, in an environment full of guesses."""
    words = "FAILPOINT FAILPOINTS FAIL_POINTS FP FAILPOINT_NAME CHAOS DEBUG GOFAIL_FAILPOINTS"
    guesses = {
        f"{prefix}{word}": f"{Point.BEFORE_COMMIT}=exit" if "NAME" not in word else "before_commit"
        for word in words.split()
        for prefix in ("", "CHAOS_", "TEST_")
    }
    program = (
        "from console.__main__ import botfleet\n"
        "from shared import failpoints\n"
        "botfleet(['migrate'], standalone_mode=False)\n"
        "import console.wiring, price_stream.service, trade_worker.worker\n"
        "assert failpoints.hit is failpoints.off\n"
        "for point in failpoints.Point: failpoints.hit(point)\n"
        "print('nothing happened')\n"
    )
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    base = {**kept, **guesses, "DATABASE_URL": f"sqlite:///{tmp_path}/fleet.db"}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=base, capture_output=True, text=True
    )
    assert ran.stdout.endswith("nothing happened\n"), ran.stderr

    refused = subprocess.run(
        [sys.executable, "-m", "console", "migrate"],
        cwd=tmp_path,
        env={**base, "BOTFLEET_FAILPOINT": "before_commit=exit"},
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 2
    assert "BOTFLEET_FAILPOINT" in refused.stderr


def test_the_installed_package_has_no_member() -> None:
    import tomllib

    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert not any(name.startswith("tests") for name in packages["packages"]["find"]["include"])


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("after_send=exit", Failpoint(point=Point.AFTER_SEND, action=Action.EXIT)),
        ("in_take=raise@4", Failpoint(point=Point.IN_TAKE, action=Action.RAISE, hit=4)),
        (
            "in_settle=pause:2.5@3",
            Failpoint(point=Point.IN_SETTLE, action=Action.PAUSE, secs=2.5, hit=3),
        ),
    ],
)
def test_a_failpoint_is_written_as_it_is_read(text: str, parsed: Failpoint) -> None:
    assert Failpoint.parse(text) == parsed
    assert str(parsed) == text


@pytest.mark.parametrize("text", ["nowhere=exit", "in_take=sleep", "in_take", "in_take=exit@x"])
def test_a_failpoint_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Failpoint.parse(text)


def test_each_failpoint_is_reached_once_at_its_hit_and_in_turn() -> None:
    armed = Armed([Failpoint.parse("in_take=raise@2"), Failpoint.parse("in_send=raise")])
    armed.hit(Point.IN_SEND)
    armed.hit(Point.IN_TAKE)
    with pytest.raises(Failure, match="in_take=raise@2"):
        armed.hit(Point.IN_TAKE)
    armed.hit(Point.IN_TAKE)
    with pytest.raises(Failure, match="in_send"):
        armed.hit(Point.IN_SEND)
    armed.hit(Point.IN_SEND)


def test_a_pause_holds_the_whole_process_up() -> None:
    began = time.monotonic()
    Armed([Failpoint.parse("in_send=pause:0.05")]).hit(Point.IN_SEND)
    assert time.monotonic() - began >= 0.05


def test_an_exit_is_told_and_closes_nothing() -> None:
    program = (
        "import atexit\n"
        "from shared.failpoints import Point\n"
        "from tests.chaos.member import Armed, Failpoint\n"
        "atexit.register(print, 'closed')\n"
        "Armed([Failpoint.parse('in_send=exit')]).hit(Point.IN_SEND)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (EXIT_CODE, "")
    assert ran.stderr == "failpoint reached: in_send=exit\n"
