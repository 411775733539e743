"""The file that `botfleet bots import` takes: text → bots, or everything that is wrong with it.

CSV with a header, or JSON lines (one object per line): the first character tells. Required
columns are user, bot, venue and pairs (`;` between pairs); capital, mode, status and any field
of the risk profile may follow, and take their defaults where they are absent or empty.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from console import fields
from shared import risk_profile
from shared.errors import Refused
from shared.orders import BotStatus, Mode

REQUIRED: Final = ("user", "bot", "venue", "pairs")
OPTIONAL: Final = ("capital", "mode", "status")
COLUMNS: Final = (*REQUIRED, *OPTIONAL, *risk_profile.BY_NAME)

MAX_PROBLEMS: Final = 1000
"""A file with more is the wrong file: reading stops there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedBot:
    """One bot as its line wants it to be. `risk_profile` holds what differs from the default."""

    line: int
    user: str
    bot: str
    venue: str
    pairs: tuple[str, ...]
    capital: Decimal = fields.DEFAULT_CAPITAL
    mode: Mode = Mode.PAPER
    status: BotStatus = BotStatus.ACTIVE
    risk_profile: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a line cannot be imported: the text names field, value and what is allowed."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportFile:
    """What a file holds. With any problem, none of its bots may be stored."""

    bots: tuple[ImportedBot, ...]
    problems: tuple[Problem, ...]


def parse(text: str, on_line: Callable[[int], None] | None = None) -> ImportFile:
    """Read a whole file. Problems are collected, so that a person mends them in one go.

    `on_line` hears the number of each line once it is read, for a progress bar.
    """
    bots: list[ImportedBot] = []
    problems: list[Problem] = []
    first_lines: dict[tuple[str, str], int] = {}
    for line, row in _rows(text.removeprefix("\ufeff")):
        try:
            bot = _bot(line, row)
            _refuse_twice(bot, first_lines)
        except Refused as exc:
            problems.append(Problem(line=line, text=str(exc)))
            if len(problems) >= MAX_PROBLEMS:
                break
        else:
            bots.append(bot)
        if on_line is not None:
            on_line(line)
    if not bots and not problems:
        problems.append(Problem(line=1, text="the file holds no bots"))
    return ImportFile(bots=tuple(bots), problems=tuple(problems))


_Row = Mapping[str, object] | Refused
"""A line's values, or why the line itself cannot be read."""


def _rows(text: str) -> Iterator[tuple[int, _Row]]:
    start = text.lstrip()[:1]
    if start == "[":
        yield 1, Refused("write JSON lines (one object per line), not a JSON array")
    elif start == "{":
        yield from _json_rows(text)
    elif start:
        yield from _csv_rows(text)


def _json_rows(text: str) -> Iterator[tuple[int, _Row]]:
    # Only line feeds end a line: splitlines() would also cut at U+2028 inside a text.
    for line, content in enumerate(text.split("\n"), 1):
        if content.strip():
            try:
                yield line, _json_object(content)
            except Refused as exc:
                yield line, exc


def _json_object(content: str) -> Mapping[str, object]:
    try:
        row = json.loads(
            content, parse_float=Decimal, parse_constant=str, object_pairs_hook=_distinct
        )
    except (ValueError, RecursionError) as exc:
        raise Refused(f"the line must be a JSON object: {exc}") from exc
    if not isinstance(row, dict):
        raise Refused(f"the line must be a JSON object, was {content[:40]!r}")
    _refuse_columns(row)
    return {name: value for name, value in row.items() if value is not None}


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Refused(f"the field {twice!r} stands twice")
    return row


def _csv_rows(text: str) -> Iterator[tuple[int, _Row]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    line = 1
    try:
        for cells in reader:
            # A quoted cell may span lines: a row is named by the line that it starts on.
            start, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                if (wrong := _header_problem(header)) is not None:
                    yield start, Refused(wrong)
                    return
            else:
                yield start, _csv_row(header, cells)
    except csv.Error as exc:
        yield line, Refused(f"this is not CSV: {exc}")


def _csv_row(header: list[str], cells: list[str]) -> _Row:
    if len(cells) != len(header):
        return Refused(f"{len(header)} cells expected as in the header, found {len(cells)}")
    return {name: cell for name, cell in zip(header, cells, strict=True) if cell.strip()}


def _header_problem(header: list[str]) -> str | None:
    if len(header) == 1 and ";" in header[0]:
        return "the columns must be separated by commas; `;` separates the pairs within a cell"
    try:
        _distinct([(name, None) for name in header])
        _refuse_columns(header)
    except Refused as exc:
        return str(exc)
    missing = [name for name in REQUIRED if name not in header]
    return f"the header lacks {', '.join(missing)}" if missing else None


def _refuse_columns(names: Mapping[str, object] | list[str]) -> None:
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        shown = ", ".join(repr(name) for name in unknown)
        raise Refused(f"unknown column {shown}; allowed are {', '.join(COLUMNS)}")


def _bot(line: int, row: _Row) -> ImportedBot:
    if isinstance(row, Refused):
        raise row
    for required in REQUIRED:
        if required not in row:
            raise Refused(f"{required} must not be empty")
    return ImportedBot(
        line=line,
        user=fields.name("user", row["user"]),
        bot=fields.name("bot", row["bot"]),
        venue=fields.venue(row["venue"]),
        pairs=fields.pairs(row["pairs"]),
        capital=fields.capital(row.get("capital", fields.DEFAULT_CAPITAL)),
        mode=fields.mode(row.get("mode", Mode.PAPER)),
        status=fields.status(row.get("status", BotStatus.ACTIVE)),
        risk_profile=fields.profile(
            {name: value for name, value in row.items() if name in risk_profile.BY_NAME}
        ),
    )


def _refuse_twice(bot: ImportedBot, first_lines: dict[tuple[str, str], int]) -> None:
    first = first_lines.setdefault((bot.user, bot.bot), bot.line)
    if first != bot.line:
        raise Refused(f"bot {bot.bot!r} of user {bot.user!r} stands already on line {first}")
