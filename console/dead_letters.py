"""Messages that nobody could use: look at them, publish them again, delete them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

from console.output import as_json, examples, iso, print_document, print_lines, print_table
from console.wiring import opened_bus

if TYPE_CHECKING:
    from shared.bus.dead_letters import DeadLetter, DeadLetters

T = TypeVar("T")

_LIMIT = 100
_MAX_LIMIT = 100_000


@click.group("dead-letters", epilog=examples("botfleet dead-letters list"))
def dead_letters() -> None:
    """Look after messages that could not be used."""


@dead_letters.command("list", epilog=examples("botfleet dead-letters list --limit 20"))
@click.option(
    "--limit",
    default=_LIMIT,
    show_default=True,
    type=click.IntRange(1, _MAX_LIMIT),
    help="How many, oldest first.",
)
@as_json
def list_(limit: int, as_json: bool) -> None:
    """List the oldest dead letters. --json prints one object per line."""
    letters = _on_queue(lambda queue: queue.peek(limit))
    if as_json:
        print_lines(_document(letter) for letter in letters)
        return
    print_table(
        ("ID", "Died", "From", "Reason"),
        (
            (letter.id, _died(letter), _origin(letter), letter.reason or "unknown")
            for letter in letters
        ),
        empty="No dead letters.",
    )


@dead_letters.command(epilog=examples("botfleet dead-letters show 1f0c9a7d3b2e"))
@click.argument("letter_id", metavar="ID")
@as_json
def show(letter_id: str, as_json: bool) -> None:
    """Show one dead letter with its body."""
    from shared.errors import Refused

    letters = _on_queue(lambda queue: queue.peek(_MAX_LIMIT))
    letter = next((letter for letter in letters if letter.id == letter_id), None)
    if letter is None:
        raise Refused(f"no dead letter has the id {letter_id}: botfleet dead-letters list")
    if as_json:
        print_document(_document(letter))
        return
    click.echo(f"{letter.id}: {letter.reason}\nfrom {_origin(letter)}, died {_died(letter)}\n")
    click.echo(letter.body.decode(errors="backslashreplace"))


@dead_letters.command(
    epilog=examples(
        "botfleet dead-letters replay 1f0c9a7d3b2e", "botfleet dead-letters replay --all"
    )
)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="Replay every dead letter.")
def replay(ids: tuple[str, ...], everything: bool) -> None:
    """Publish dead letters again where they came from.

    Every queue bound there receives them, at least once. Ticks are refused by their age, so
    replaying serves events rather than prices.
    """
    from shared.errors import Refused

    chosen = _chosen(ids, everything)
    replayed = _on_queue(lambda queue: queue.replay(chosen))
    click.echo(f"{replayed.count} replayed")
    missing = len(set(ids)) - replayed.count - len(replayed.refused)
    if replayed.refused:
        raise Refused(
            f"{len(replayed.refused)} stay, because no queue or no known exchange takes them: "
            + ", ".join(replayed.refused[:20])
        )
    if missing > 0:
        raise Refused(f"{missing} of the given ids are no dead letters")


@dead_letters.command(
    epilog=examples("botfleet dead-letters purge 1f0c9a7d3b2e", "botfleet dead-letters purge --all")
)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="Delete every dead letter.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge(ids: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Delete dead letters for good."""
    chosen = _chosen(ids, everything)
    if everything and not yes:
        click.confirm("Delete every dead letter for good?", abort=True)
    click.echo(f"{_on_queue(lambda queue: queue.purge(chosen))} deleted")


def _chosen(ids: tuple[str, ...], everything: bool) -> frozenset[str] | None:
    if bool(ids) == everything:
        raise click.UsageError("Name the ids of dead letters, or give --all.")
    return None if everything else frozenset(ids)


def _on_queue(work: Callable[["DeadLetters"], Coroutine[Any, Any, T]]) -> T:
    from shared.bus.dead_letters import DeadLetters
    from shared.settings import load_settings

    settings = load_settings()

    async def run() -> T:
        async with opened_bus(settings) as bus:
            return await work(DeadLetters(bus))

    return asyncio.run(run())


def _document(letter: "DeadLetter") -> dict[str, object]:
    return {
        "id": letter.id,
        "reason": letter.reason,
        "exchange": letter.exchange,
        "routing_key": letter.routing_key,
        "died_at_ms": letter.died_at_ms,
        "event_id": letter.event_id,
        "body": letter.body.decode(errors="backslashreplace"),
    }


def _origin(letter: "DeadLetter") -> str:
    return f"{letter.exchange or 'unknown'} {letter.routing_key or ''}".rstrip()


def _died(letter: "DeadLetter") -> str:
    from shared.clock import datetime_of

    return iso(None if letter.died_at_ms is None else datetime_of(letter.died_at_ms))
