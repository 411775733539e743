"""`botfleet bots import`: a whole file of bots, or nothing of it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from console import fields
from console.announce import announce
from console.import_file import ImportedBot, Problem, parse
from console.listings import listed_pairs
from console.output import as_json, examples, print_document
from console.wiring import on_store
from shared.errors import Refused
from shared.orders import Mode

if TYPE_CHECKING:
    from rich.progress import Progress

    from shared.store.bot_import import BotSpec, Imported
    from shared.store.engine import Store, Transaction

SHOWN_PROBLEMS = 20
_MOST_BOTS = 1_000_000


@click.command(
    "import",
    epilog=examples("botfleet bots import fleet.csv", "generate-bots | botfleet bots import -")
    + """

\b
A file may look like this:
  user,bot,venue,pairs,capital,min_adx
  ann,first,kraken,BTC/USD;ETH/USD,2500,25
  bob,second,binance,BTC/USDT,1000,
\b
or, as JSON lines:
  {"user": "ann", "bot": "first", "venue": "kraken", "pairs": ["BTC/USD"], "min_adx": 25}""",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--unlisted-ok", is_flag=True, help="Accept pairs that the venue does not list.")
@as_json
def import_(file: str, unlisted_ok: bool, as_json: bool) -> None:
    """Add and update bots from FILE (`-`: standard input).

    CSV with a header, or JSON lines. Columns: user, bot, venue and pairs (`;` between them), then
    as wanted capital, mode, status and any field of the risk profile (`botfleet bots fields`). A
    missing or empty value takes its default. A bot that exists becomes what its line says. Users
    are added as needed. If anything in the file is wrong, nothing is imported.
    """
    with _progress() as progress:
        imported = _store(_read(file, progress), unlisted_ok, progress)
    if as_json:
        print_document(asdict(imported))
    else:
        click.echo(
            f"{imported.added} bots added, {imported.updated} updated, {imported.unchanged} "
            f"unchanged; {imported.users_added} users added"
        )


def _read(file: str, progress: "Progress") -> tuple[ImportedBot, ...]:
    text = _text(file)
    task = progress.add_task("reading", total=text.count("\n") + 1)

    def show(line: int) -> None:
        if line % 500 == 0:
            progress.update(task, completed=line)

    parsed = parse(text, on_line=show)
    progress.update(task, completed=text.count("\n") + 1)
    _refuse(parsed.problems)
    return parsed.bots


def _text(file: str) -> str:
    content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise Refused(f"line {line}: the file must be UTF-8 text: {exc.reason}") from exc


def _store(
    imported: tuple[ImportedBot, ...], unlisted_ok: bool, progress: "Progress"
) -> "Imported":
    from shared.settings import load_settings

    settings = load_settings()
    task = progress.add_task("storing", total=len(imported))

    async def work(store: "Store") -> "Imported":
        from shared.store.bot_import import import_bots

        if not unlisted_ok:
            venues = sorted({bot.venue for bot in imported})
            async with store.read() as tx:
                listed = await listed_pairs(tx, settings, venues)
            _refuse(unlisted(imported, listed))
        async with store.begin() as tx:
            _refuse(await not_live_yet(tx, imported))
            done = await import_bots(
                tx,
                [spec_of(bot) for bot in imported],
                on_progress=lambda done: progress.update(task, completed=done),
            )
        await announce(settings, "bots")
        return done

    return on_store(work)


async def not_live_yet(tx: "Transaction", imported: tuple[ImportedBot, ...]) -> tuple[Problem, ...]:
    """The lines that would take a bot live: a file may only leave those live that are."""
    from shared.store.bots import BotFilter, page

    wanted = [bot for bot in imported if bot.mode is Mode.LIVE]
    if not wanted:
        return ()
    stored = await page(tx, BotFilter(mode=Mode.LIVE), limit=_MOST_BOTS)
    live = {(bot.user, bot.name) for bot in stored}
    text = f"mode must be paper, was 'live', which this bot is not: {fields.TO_GO_LIVE}"
    return tuple(
        Problem(line=bot.line, text=text) for bot in wanted if (bot.user, bot.bot) not in live
    )


def unlisted(
    imported: tuple[ImportedBot, ...], listed: dict[str, frozenset[str]]
) -> tuple[Problem, ...]:
    """The lines that name a pair which their venue does not list."""
    problems = []
    for bot in imported:
        for pair in bot.pairs:
            try:
                fields.require_listed(bot.venue, pair, listed[bot.venue])
            except Refused as exc:
                problems.append(Problem(line=bot.line, text=str(exc)))
                break
    return tuple(problems)


def spec_of(bot: ImportedBot) -> "BotSpec":
    """The bot as the store takes it."""
    from shared.store.bot_import import BotSpec

    return BotSpec(
        user=bot.user,
        name=bot.bot,
        venue=bot.venue,
        pairs=bot.pairs,
        capital=bot.capital,
        mode=bot.mode,
        status=bot.status,
        risk_profile=bot.risk_profile,
    )


def _refuse(problems: tuple[Problem, ...]) -> None:
    if not problems:
        return
    shown = [str(problem) for problem in problems[:SHOWN_PROBLEMS]]
    if len(problems) > SHOWN_PROBLEMS:
        shown.append(f"and {len(problems) - SHOWN_PROBLEMS} more")
    raise Refused("nothing was imported:\n  " + "\n  ".join(shown))


@contextmanager
def _progress() -> Iterator["Progress"]:
    """A progress bar on a terminal, silence elsewhere; on standard error, so `--json` is clean."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield progress
