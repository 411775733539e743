"""The pure core stays pure: no async, clock, randomness, environment, logging or I/O.

The modules are those that the layout in docs/architecture.md marks `(pure)`. Their imports are
followed through everything first-party, so that impurity cannot come in by a side door.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]

PURE_FILES: Final = (
    "price_stream/candles.py",
    "price_stream/confidence.py",
    "price_stream/indicators.py",
    "shared/admission.py",
    "shared/breakers.py",
    "shared/json_fields.py",
    "shared/limits.py",
    "shared/messages.py",
    "shared/money.py",
    "shared/orders.py",
    "shared/reasons.py",
    "shared/recovery.py",
    "shared/request_limits.py",
    "shared/risk_profile.py",
    "shared/settlement_rules.py",
    "shared/sharding.py",
    "shared/signals.py",
    "shared/topology.py",
    "shared/venues.py",
    "trade_worker/answers.py",
    "trade_worker/asking.py",
    "trade_worker/backoff.py",
    "trade_worker/decide.py",
    "trade_worker/exits.py",
    "trade_worker/holdings.py",
    "trade_worker/key_rights.py",
    "trade_worker/limit_price.py",
    "trade_worker/request_budget.py",
    "trade_worker/request_budgets.py",
    "trade_worker/sending.py",
    "trade_worker/sizing.py",
)
PURE_FOLDERS: Final = ("trade_worker/risk",)

FORBIDDEN_MODULES: Final = frozenset(
    {
        *("asyncio", "anyio", "concurrent", "threading", "multiprocessing", "contextvars"),
        *("time", "sched", "zoneinfo"),
        *("random", "secrets"),
        *("os", "sys", "pathlib", "io", "shutil", "tempfile", "subprocess", "signal", "platform"),
        *("socket", "ssl", "select", "selectors", "http", "urllib", "sqlite3"),
        *("logging", "warnings", "rich", "click"),
        *("aio_pika", "aiormq", "aiohttp", "ccxt"),
        *("sqlalchemy", "asyncpg", "aiosqlite", "alembic"),
        *("pydantic", "pydantic_settings", "dotenv", "importlib"),
    }
)
FORBIDDEN_CALLS: Final = frozenset({"open", "print", "input", "eval", "exec", "__import__"})
FORBIDDEN_ATTRIBUTES: Final = frozenset({"now", "utcnow", "today", "uuid1", "uuid4", "random"})
"""`datetime.now`, `date.today`, `uuid.uuid4`, `numpy.random`: called by whatever name."""

FIRST_PARTY: Final = frozenset(
    {
        *("console", "ecosystem", "loadtests", "migrations"),
        *("price_stream", "shared", "tests", "trade_worker"),
    }
)


def pure_modules() -> list[str]:
    in_folders = (path for folder in PURE_FOLDERS for path in (ROOT / folder).glob("*.py"))
    paths = sorted({*(ROOT / name for name in PURE_FILES), *in_folders})
    return [path.relative_to(ROOT).as_posix() for path in paths]


def breaches(source: str) -> Iterator[str]:
    """Every impurity that a module's own text shows, with its line."""
    for node in ast.walk(ast.parse(source)):
        found = _breach(node)
        if found is not None:
            yield f"line {getattr(node, 'lineno', 0)}: {found}"


def _breach(node: ast.AST) -> str | None:
    match node:
        case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
            return "async"
        case ast.Import(names=names):
            forbidden = {name.name.partition(".")[0] for name in names} & FORBIDDEN_MODULES
            dotted = {part for name in names for part in name.name.split(".")[1:]}
            forbidden |= dotted & FORBIDDEN_ATTRIBUTES
        case ast.ImportFrom(module=module, names=names):
            modules = (module or "").split(".")
            forbidden = {modules[0]} & FORBIDDEN_MODULES
            forbidden |= {*modules[1:], *(n.name for n in names)} & FORBIDDEN_ATTRIBUTES
        case ast.Call(func=ast.Name(id=name)):
            forbidden = {name} & FORBIDDEN_CALLS
        case ast.Attribute(attr=name):
            forbidden = {name} & FORBIDDEN_ATTRIBUTES
        case _:
            return None
    return f"uses {', '.join(sorted(forbidden))}" if forbidden else None


def imported(source: str, package: str) -> Iterator[str]:
    """Dotted names of the first-party modules, or names in them, that a module imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            prefix = [*parents, node.module] if node.level else [node.module]
            base = ".".join(part for part in prefix if part)
            names = [base, *(f"{base}.{name.name}" for name in node.names)]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in FIRST_PARTY)


def files_behind(dotted: str) -> Iterator[Path]:
    """The files that importing a dotted name runs: its packages' own, and the module's."""
    parts = dotted.split(".")
    for length in range(1, len(parts) + 1):
        path = ROOT.joinpath(*parts[:length])
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                yield file


def reached(start: Path) -> Mapping[Path, str]:
    """Every first-party file that importing `start` runs, with the way there."""
    ways = {start: start.relative_to(ROOT).as_posix()}
    waiting = [start]
    while waiting:
        file = waiting.pop()
        package = ".".join(file.relative_to(ROOT).parts[:-1])
        names = [package, *imported(file.read_text(), package)]
        for behind in (path for name in names for path in files_behind(name)):
            if behind not in ways:
                ways[behind] = f"{ways[file]} → {behind.relative_to(ROOT).as_posix()}"
                waiting.append(behind)
    return ways


@pytest.mark.parametrize("name", pure_modules())
def test_module_and_all_it_imports_are_pure(name: str) -> None:
    found = [
        f"{way}: {breach}"
        for file, way in reached(ROOT / name).items()
        for breach in breaches(file.read_text())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("folder", PURE_FOLDERS)
def test_pure_folder_holds_modules(folder: str) -> None:
    assert [path for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py"]


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio",
        "import os.path",
        "import ccxt.async_support as ccxt",
        "from sqlalchemy.ext import asyncio",
        "from time import monotonic",
        "from uuid import uuid4",
        "import numpy.random",
        "from numpy import random",
        "from datetime import datetime\nseen = datetime.now()",
        "import numpy as np\nnoise = np.random.default_rng()",
        "import uuid\nid = uuid.uuid4()",
        "def f() -> str:\n    import random\n    return random.choice('ab')",
        "async def f() -> None: ...",
        "text = open('file').read()",
    ],
)
def test_impurity_is_found(source: str) -> None:
    assert list(breaches(source))


@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np\nimport talib\nmean = np.mean([1.0])",
        "from datetime import UTC, datetime\nday = datetime.fromtimestamp(0, UTC)",
        "from uuid import UUID, uuid5\nid = uuid5(UUID(int=0), 'x')",
        "from shared.messages import Tick",
        "def roll(open: float, close: float) -> float:\n    return close / open - 1",
    ],
)
def test_purity_is_left_alone(source: str) -> None:
    assert not list(breaches(source))


def test_imports_are_followed_through_packages_and_relative_names() -> None:
    assert set(imported("from . import b\nfrom .c import d\nimport shared.errors", "shared.x")) == {
        "shared.x",
        "shared.x.b",
        "shared.x.c",
        "shared.x.c.d",
        "shared.errors",
    }
    behind = {path.relative_to(ROOT).as_posix() for path in files_behind("shared.errors.Halt")}
    assert behind == {"shared/__init__.py", "shared/errors.py"}
