"""The `botfleet` command. Each noun is a module, imported only when it is asked for."""

from collections.abc import Mapping
from importlib import import_module
from typing import Final

import click

from shared.errors import BotfleetError, InvalidSettings

_SECTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "Run": {
        "demo": "console.demo:demo",
        "all": "console.services:all_services",
        "price-stream": "console.services:price_stream",
        "worker": "console.services:worker",
        "simulate-venue": "console.services:simulate_venue",
    },
    "Users and bots": {
        "users": "console.users:users",
        "keys": "console.keys:keys",
        "bots": "console.bots:bots",
    },
    "Look": {
        "status": "console.status:status",
        "positions": "console.positions:positions",
        "orders": "console.orders:orders",
    },
    "Stop": {
        "kill-switch": "console.kill_switch:kill_switch",
        "control": "console.control:control",
    },
    "Care": {
        "doctor": "console.doctor:doctor",
        "migrate": "console.services:migrate",
        "dead-letters": "console.dead_letters:dead_letters",
        "recover": "console.recover:recover",
    },
}
"""Section of the help → command → where it is defined."""

_WHERE: Final = {name: where for section in _SECTIONS.values() for name, where in section.items()}


class _Nouns(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_WHERE)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _WHERE:
            return None
        module, _, attribute = _WHERE[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, _WHERE))
        for title, names in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (name.ljust(width), command.get_short_help_str(formatter.width - width))
                        for name in names
                        if (command := self.get_command(ctx, name)) is not None
                    ]
                )

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BotfleetError as exc:
            click.echo(f"botfleet: {exc}", err=True)
            ctx.exit(2 if isinstance(exc, InvalidSettings) else 1)


@click.group(
    cls=_Nouns,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Settings come from the environment and from .env; exit status: 0 done, 1 failed, "
    "2 wrong use.",
)
@click.version_option(package_name="botfleet", message="botfleet %(version)s")
def botfleet() -> None:
    """Run a fleet of trading bots on Kraken and Binance.

    `botfleet demo` shows one at work, on simulated venues; `botfleet COMMAND --help` explains
    each command with an example.
    """


def main() -> None:
    """The entry point of the installed command."""
    botfleet(prog_name="botfleet")


if __name__ == "__main__":
    main()
