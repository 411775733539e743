"""Make the virtual environment that the Makefile's goals run in: `set_up.py FOLDER`.

Runs on the Python that the environment is made from, with the standard library only. Safe to
start twice at once: the second waits for the first and finds the work done.
"""

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

INPUTS = (Path("pyproject.toml"), Path("constraints.txt"))


class SetUpError(Exception):
    """The environment cannot be made. The text says what to do."""


def main(folder: Path) -> None:
    """Bring `folder` up to date with `INPUTS` and stamp it with `.ready`."""
    stamp = folder / ".ready"
    # The lock sits on a file that is there anyway and that nobody replaces meanwhile; the
    # kernel frees it when this process ends, however it ends.
    with INPUTS[0].open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_current(stamp):
            stamp.touch()
            return
        version = ".".join(map(str, sys.version_info[:3]))
        say(f"Setting up {folder} on Python {version}: once, a minute or two …")
        started = time.monotonic()
        python = folder / "bin" / "python"
        if not works(python):
            make_environment(folder)
        install_into(python)
        stamp.write_text(fingerprint())
        say(f"Set up in {time.monotonic() - started:.0f} s.")


def is_current(stamp: Path) -> bool:
    """Whether the environment was made from these very inputs, and still starts."""
    return (
        stamp.exists()
        and stamp.read_text() == fingerprint()
        and works(stamp.parent / "bin" / "python")
    )


def fingerprint() -> str:
    """What the environment was made from; the place is part of it, as scripts contain it."""
    return "\n".join([str(Path.cwd()), *(path.read_text() for path in INPUTS)])


def works(python: Path) -> bool:
    """Whether this interpreter starts and has a pip (an interrupted set-up may lack it)."""
    return python.exists() and succeeds([str(python), "-m", "pip", "--version"])


def make_environment(folder: Path) -> None:
    """An empty environment with pip in it. Debian splits off what that needs: fall back."""
    if not has_ensurepip() and not has_pip_for_others():
        install_venv_package()
        if not has_ensurepip():
            raise SetUpError(
                f"{sys.executable} cannot make virtual environments, and Debian's package did not "
                "help.\nName another Python: make PYTHON=/usr/bin/python3 …"
            )
    if has_ensurepip():
        run([sys.executable, "-m", "venv", "--clear", str(folder)])
        return
    run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)])
    target = folder / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", str(target), "install", "--quiet", "pip"])


def has_ensurepip() -> bool:
    # Asked in a new process: after an installation this one may still remember that it lacks.
    return succeeds([sys.executable, "-c", "import ensurepip, venv"])


def has_pip_for_others() -> bool:
    """Whether this Python's own pip can install into another environment (pip 22.3)."""
    if importlib.util.find_spec("pip") is None or importlib.util.find_spec("venv") is None:
        return False
    return succeeds([sys.executable, "-m", "pip", "--python", sys.executable, "--version"])


def install_venv_package() -> None:
    """Install Debian's package where that is harmless; raises `SetUpError` elsewhere."""
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if shutil.which("apt-get") is None:
        raise SetUpError(
            f"{sys.executable} cannot make virtual environments: it lacks ensurepip and pip.\n"
            "Install a complete Python, or name another one: make PYTHON=/path/to/python3 …"
        )
    if os.geteuid() != 0 or not is_disposable():
        raise SetUpError(
            f"{sys.executable} cannot make virtual environments yet. Run this, then try again:\n"
            f"    sudo apt-get install {package}"
        )
    say(f"Installing {package} with apt-get: this Python cannot make virtual environments yet.")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-qq"], environment)
    run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], environment)


def is_disposable() -> bool:
    """Whether this is a CI machine or a container, where installing a package harms nobody."""
    marks = (Path("/.dockerenv"), Path("/run/.containerenv"))
    return "CI" in os.environ or "container" in os.environ or any(map(Path.exists, marks))


def install_into(python: Path) -> None:
    """botfleet itself, editable, with its tools, at exactly the locked versions."""
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run([*pip, "-c", "constraints.txt", "-e", ".[dev]"])


def run(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Run a command; its output is shown only if it fails, in the `SetUpError`."""
    done = finished(command, environment)
    if done.returncode:
        raise SetUpError(f"{done.stdout.rstrip()}\nFailed: {' '.join(command)}")


def succeeds(command: list[str]) -> bool:
    return finished(command).returncode == 0


def finished(
    command: list[str], environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - every command is spelt out in this file
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except SetUpError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
