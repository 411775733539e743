"""Every verb explains itself, and asking for help costs no heavy import."""

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from console.__main__ import botfleet

HEAVY = ("aio_pika", "asyncpg", "ccxt", "numpy", "pydantic", "rich", "sqlalchemy", "talib")


def every_command(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        with click.Context(command) as ctx:
            for name in command.list_commands(ctx):
                found = command.get_command(ctx, name)
                assert found is not None
                yield from every_command(found, (*path, name))


COMMANDS = [(path, command) for path, command in every_command(botfleet) if path]
NAMES = [" ".join(path) for path, _ in COMMANDS]


def test_the_commands_of_the_design_are_there() -> None:
    assert set(NAMES) >= {
        *("all", "price-stream", "worker", "demo", "migrate", "simulate-venue"),
        *("doctor", "status", "orders", "users add", "users list"),
        *("bots add", "bots import", "bots list", "bots show", "bots set", "bots start"),
        *("bots pause", "bots explain", "bots history", "positions list", "positions show"),
        *("dead-letters list", "dead-letters show", "dead-letters replay", "dead-letters purge"),
    }


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=NAMES)
def test_every_command_has_a_text_and_an_example_of_itself(
    path: tuple[str, ...], command: click.Command
) -> None:
    result = CliRunner().invoke(botfleet, [*path, "--help"], catch_exceptions=False)

    assert result.exit_code == 0
    assert command.help
    assert f"botfleet {' '.join(path)}" in result.output.partition("Example")[2]


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=NAMES)
def test_every_option_says_what_it_is_for(path: tuple[str, ...], command: click.Command) -> None:
    silent = [
        param.name for param in command.params if isinstance(param, click.Option) and not param.help
    ]

    assert not silent


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from console.__main__ import botfleet\n"
        "try:\n    botfleet(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert "Run a fleet of trading bots" in done.stdout
    assert done.stderr.split() == []


def test_help_lists_every_command_in_a_section() -> None:
    output = CliRunner().invoke(botfleet, ["--help"]).output

    assert [line for line in output.splitlines() if line.endswith(":") and line[0] != " "] == [
        *("Options:", "Run:", "Users and bots:", "Look:", "Stop:", "Care:")
    ]
    assert all(f"  {path[0]} " in output for path, _ in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["worker"], "DATABASE_URL is not set"),
        (["price-stream"], "DATABASE_URL is not set"),
        (["status"], "DATABASE_URL is not set"),
        (["dead-letters", "list"], "CLOUDAMQP_URL and RABBITMQ_URL are not set"),
        (["bots", "set", "1"], "nothing to change"),
        (["dead-letters", "purge"], "or give --all"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_wrong_use_is_one_clear_line_and_exit_status_2(
    arguments: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.chdir(str(tmp_path))

    result = CliRunner().invoke(botfleet, arguments)

    assert result.exit_code == 2
    assert expected in result.stderr


@pytest.mark.parametrize("verb", ["worker", "price-stream"])
@pytest.mark.parametrize(
    ("broker_url", "expected"),
    [
        (None, "CLOUDAMQP_URL and RABBITMQ_URL are not set: set one to amqp://"),
        ("memory://x", "a memory bus cannot join two processes"),
    ],
)
def test_separate_services_refuse_to_start_without_a_broker_that_joins_them(
    verb: str, broker_url: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///never-opened.db")
    if broker_url is not None:
        monkeypatch.setenv("RABBITMQ_URL", broker_url)

    result = CliRunner().invoke(botfleet, [verb])

    assert result.exit_code == 2
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1
