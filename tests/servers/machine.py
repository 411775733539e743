"""What this machine has: server programs, a Docker engine, a package manager that may be used."""

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.servers.choice import POSTGRES, RABBITMQ, Kind, ServersMissing, Source, advice, choose

RABBITMQ_FOLDERS = (
    "/usr/lib/rabbitmq/bin",  # Debian; the wrapper in /usr/sbin would change user and folders
    "/opt/rabbitmq/sbin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
)
POSTGRES_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
)


def rabbitmq_folder() -> Path | None:
    """Where rabbitmq-server and rabbitmqctl are."""
    return _folder_of("rabbitmq-server", RABBITMQ_FOLDERS)


def postgres_folder() -> Path | None:
    """Where initdb and postgres are; the newest, if several versions are installed."""
    return _folder_of("initdb", POSTGRES_FOLDERS)


def _folder_of(program: str, patterns: tuple[str, ...]) -> Path | None:
    known = [path for pattern in patterns for path in Path("/").glob(pattern.lstrip("/"))]
    found = [path for path in known if (path / program).exists()]
    if found:
        return max(found, key=_version)
    on_path = shutil.which(program)
    return None if on_path is None else Path(on_path).resolve().parent


def _version(folder: Path) -> int:
    return int("".join(filter(str.isdigit, str(folder))) or 0)


@cache
def has_docker() -> bool:
    """Whether a Docker engine answers."""
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def may_install() -> bool:
    """Whether installing a Debian package harms nobody: as root, on CI or in a container."""
    marks = (Path("/.dockerenv"), Path("/run/.containerenv"))
    is_disposable = "CI" in os.environ or "container" in os.environ or any(map(Path.exists, marks))
    return os.geteuid() == 0 and shutil.which("apt-get") is not None and is_disposable


def way_to_start(kind: Kind, *, first: Source, say: Callable[[str], None]) -> Source:
    """How a private server of this kind is started: BINARIES, or DOCKER.

    Installs the server where that is the only way and allowed, saying so first. Raises
    `ServersMissing` with advice if there is none.
    """
    folder = {RABBITMQ: rabbitmq_folder, POSTGRES: postgres_folder}[kind]

    def is_available(source: Source) -> bool:
        match source:
            case Source.BINARIES:
                return folder() is not None
            case Source.DOCKER:
                return has_docker()
            case Source.INSTALL:
                return may_install()
            case Source.POINTED_TO | Source.LISTENING:
                return False

    source = choose(is_available, first=first)
    if source is None:
        raise ServersMissing(advice(kind))
    if source is Source.INSTALL:
        say(f"Installing {kind.debian_package} with apt-get: the tests need {kind.name}.")
        install(kind)
        if folder() is None:
            raise ServersMissing(advice(kind))
        return Source.BINARIES
    return source


def install(kind: Kind) -> None:
    """Install the server's Debian package. Raises `ServersMissing` with apt-get's last words."""
    for arguments in (
        ["update"],
        ["install", "-y", "--no-install-recommends", kind.debian_package],
    ):
        done = subprocess.run(
            ["apt-get", "-qq", *arguments],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            last = "\n".join(done.stdout.splitlines()[-15:])
            raise ServersMissing(f"apt-get {arguments[0]} failed:\n{last}\n{advice(kind)}")
