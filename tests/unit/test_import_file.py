"""The import file: what it may say, and that every refusal tells how to mend it."""

import csv
import io
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console import fields
from console.import_file import COLUMNS, MAX_PROBLEMS, ImportedBot, parse
from shared import risk_profile
from shared.errors import Refused
from shared.orders import BotStatus, Mode

HEADER = "user,bot,venue,pairs"


def problems_of(text: str) -> list[str]:
    file = parse(text)
    assert file.problems, "the file was accepted"
    return [str(problem) for problem in file.problems]


def csv_with(**cells: str) -> str:
    row = {"user": "ann", "bot": "b", "venue": "kraken", "pairs": "BTC/USD", **cells}
    return f"{','.join(row)}\n{','.join(row.values())}\n"


def test_a_line_with_only_the_required_columns_takes_the_defaults() -> None:
    (bot,) = parse(f"{HEADER}\nann,first,kraken,BTC/USD\n").bots

    assert bot == ImportedBot(
        line=2,
        user="ann",
        bot="first",
        venue="kraken",
        pairs=("BTC/USD",),
        capital=Decimal(1000),
        mode=Mode.PAPER,
        status=BotStatus.ACTIVE,
        risk_profile={},
    )


def test_every_column_is_read() -> None:
    text = (
        f"{HEADER},capital,mode,status,min_adx,max_spread\n"
        "ann, first ,Binance,BTC/USDT; ETH/USDT,2500.50,paper,paused,25,0.004\n"
    )

    (bot,) = parse(text).bots

    assert bot.bot == "first"
    assert bot.venue == "binance"
    assert bot.pairs == ("BTC/USDT", "ETH/USDT")
    assert bot.capital == Decimal("2500.50")
    assert bot.status is BotStatus.PAUSED
    assert bot.risk_profile == {"min_adx": 25.0, "max_spread": 0.004}


def test_an_empty_cell_and_a_null_take_the_default() -> None:
    (from_csv,) = parse(f"{HEADER},capital,min_adx\nann,b,kraken,BTC/USD,,\n").bots
    row = {"user": "ann", "bot": "b", "venue": "kraken", "pairs": "BTC/USD", "capital": None}
    (from_json,) = parse(json.dumps(row)).bots

    assert from_csv.capital == from_json.capital == fields.DEFAULT_CAPITAL
    assert from_csv.risk_profile == {}


def test_a_value_equal_to_the_default_is_not_stored() -> None:
    (bot,) = parse(csv_with(min_adx="20.0", max_rsi="80")).bots

    assert bot.risk_profile == {"max_rsi": 80.0}


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_accepted() -> None:
    text = f"\ufeff{HEADER}\r\n\r\nann,b,kraken,BTC/USD\r\n\r\n"

    assert [bot.line for bot in parse(text).bots] == [3]


def test_json_takes_pairs_as_a_list_and_keeps_decimals_exact() -> None:
    line = (
        '{"user":"ann","bot":"b","venue":"kraken","pairs":["BTC/USD","ETH/USD"],'
        '"capital":0.100000000000000001}'
    )

    (bot,) = parse(line).bots

    assert bot.pairs == ("BTC/USD", "ETH/USD")
    assert bot.capital == Decimal("0.100000000000000001")


def test_a_json_text_may_hold_a_unicode_line_separator_only_outside_names() -> None:
    row = {"user": "an\u2028n", "bot": "b", "venue": "kraken", "pairs": "BTC/USD"}

    (problem,) = problems_of(json.dumps(row, ensure_ascii=False))

    assert "user must be 1 to 100 printable characters" in problem


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"user": "x" * 101}, "user must be 1 to 100 printable characters, was 'xxx"),
        ({"bot": "a\x00b"}, "bot must be 1 to 100 printable characters, was 'a\\x00b'"),
        ({"venue": "krakn"}, "venue must be one of kraken, binance, was 'krakn'"),
        ({"pairs": "BTCUSD"}, "BASE/QUOTE such as BTC/USD, was 'BTCUSD'"),
        ({"pairs": "BTC/USD.P"}, "BASE/QUOTE such as BTC/USD, was 'BTC/USD.P'"),
        ({"pairs": "BTC/USD;BTC/USD"}, "each pair once, was 'BTC/USD' twice"),
        ({"pairs": ";"}, "pairs must name at least one pair such as BTC/USD, was ';'"),
        ({"capital": "0"}, "capital must be a number above 0 and at most 1000000000000"),
        ({"capital": "-5"}, "(quote currency), was '-5'"),
        ({"capital": "nan"}, "was 'nan'"),
        ({"capital": "inf"}, "was 'inf'"),
        ({"capital": "1e13"}, "was '1e13'"),
        ({"capital": "1e-19"}, "at most 18 decimal places (quote currency), was '1e-19'"),
        ({"capital": "much"}, "was 'much'"),
        ({"mode": "dry"}, "mode must be paper or live, was 'dry'"),
        ({"status": "stopping"}, "status must be one of active, paused, inactive, was 'stopping'"),
        ({"min_adx": "101"}, "min_adx must be a number from 0 to 100 (points), was '101'"),
        ({"min_adx": "nan"}, "min_adx must be a number from 0 to 100 (points), was 'nan'"),
        ({"max_loss_streak": "2.5"}, "must be a whole number from 1 to 1000 (losses), was '2.5'"),
    ],
)
def test_a_bad_value_is_refused_with_line_field_value_and_what_is_allowed(
    cells: dict[str, str], expected: str
) -> None:
    (problem,) = problems_of(csv_with(**cells))

    assert problem.startswith("line 2: ")
    assert next(iter(cells)) in problem
    assert expected in problem


@pytest.mark.parametrize(
    ("field", "value"),
    [("capital", True), ("min_adx", True), ("user", 5), ("pairs", 5), ("pairs", [5])],
)
def test_a_json_value_of_the_wrong_kind_is_refused(field: str, value: object) -> None:
    row: dict[str, Any] = {"user": "ann", "bot": "b", "venue": "kraken", "pairs": "BTC/USD"}

    (problem,) = problems_of(json.dumps(row | {field: value}))

    assert problem.startswith(f"line 1: {field} must be")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_json_constants_that_are_no_numbers_are_refused(constant: str) -> None:
    line = f'{{"user":"a","bot":"b","venue":"kraken","pairs":"BTC/USD","min_adx":{constant}}}'

    (problem,) = problems_of(line)

    assert f"(points), was '{constant}'" in problem


def test_an_unknown_column_is_refused_with_the_allowed_ones() -> None:
    (problem,) = problems_of(f"{HEADER},min_adxx\nann,b,kraken,BTC/USD,3\n")

    assert "line 1: unknown column 'min_adxx'" in problem
    assert all(name in problem for name in COLUMNS)


def test_an_unknown_json_field_is_refused_on_its_own_line() -> None:
    good = json.dumps({"user": "a", "bot": "b", "venue": "kraken", "pairs": "BTC/USD"})

    (problem,) = problems_of(f'{good}\n{{"user":"a","colour":"red"}}\n')

    assert problem.startswith("line 2: unknown column 'colour'; allowed are user, bot")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "line 1: the file holds no bots"),
        (f"{HEADER}\n", "line 1: the file holds no bots"),
        ("user,bot,venue\na,b,kraken\n", "line 1: the header lacks pairs"),
        (f"{HEADER},user\n", "line 1: the field 'user' stands twice"),
        ("user;bot;venue;pairs\n", "line 1: the columns must be separated by commas"),
        (f"{HEADER}\na,b,kraken\n", "line 2: 4 cells expected as in the header, found 3"),
        (f'{HEADER}\na,"b,kraken,BTC/USD\n', "line 2: this is not CSV"),
        ('[{"user":"a"}]', "line 1: write JSON lines (one object per line), not a JSON array"),
        ('{"user":"a"', "line 1: the line must be a JSON object: "),
        ('{"user":"a","user":"b"}', "line 1: the field 'user' stands twice"),
        ('{"user":"a"}', "line 1: bot must not be empty"),
    ],
)
def test_a_file_that_cannot_be_read_says_where_and_why(text: str, expected: str) -> None:
    assert problems_of(text)[0].startswith(expected)


def test_all_lines_with_problems_are_named_and_the_good_ones_are_kept_apart() -> None:
    file = parse(f"{HEADER}\na,b,kraken,BTC/USD\na,c,kranken,BTC/USD\na,d,kraken,BTC\n")

    assert [problem.line for problem in file.problems] == [3, 4]
    assert [bot.bot for bot in file.bots] == ["b"]


def test_the_same_bot_twice_is_refused_with_the_line_of_the_first() -> None:
    (problem,) = problems_of(f"{HEADER}\na,b,kraken,BTC/USD\nc,b,kraken,BTC/USD\na,b,kraken,X/Y\n")

    assert problem == "line 4: bot 'b' of user 'a' stands already on line 2"


def test_a_row_is_named_by_its_first_line_when_a_cell_spans_lines() -> None:
    first, second = problems_of(f'{HEADER}\n"a\nb",b,kraken,BTC/USD\na,b,kranken,BTC/USD\n')

    assert first.startswith("line 2: user must be")
    assert second.startswith("line 4: venue must be")


def test_reading_stops_at_a_file_that_is_wrong_all_over() -> None:
    file = parse(HEADER + "\n" + "a,b,nowhere,BTC/USD\n" * (MAX_PROBLEMS + 50))

    assert len(file.problems) == MAX_PROBLEMS


def test_progress_hears_of_each_line() -> None:
    seen: list[int] = []

    parse(f"{HEADER}\na,b,kraken,BTC/USD\na,c,krake,BTC/USD\n", on_line=seen.append)

    assert seen == [2, 3]


def test_an_unlisted_pair_is_refused_with_the_nearest_ones() -> None:
    listed = frozenset({"BTC/USD", "ETH/USD"})
    fields.require_listed("kraken", "BTC/USD", listed)

    with pytest.raises(Refused, match=r"pairs must be listed on kraken .*BTC/USDD.*BTC/USD"):
        fields.require_listed("kraken", "BTC/USDD", listed)


def test_assignments_name_the_field_that_was_meant() -> None:
    assert fields.assignments(("min_adx = 25", "max_rsi=80")) == {"min_adx": 25.0, "max_rsi": 80.0}
    with pytest.raises(Refused, match="did you mean min_adx"):
        fields.assignments(("min_axd=25",))
    with pytest.raises(Refused, match=r"field=value such as min_adx=25, was 'min_adx'"):
        fields.assignments(("min_adx",))


names = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=30
).filter(lambda text: text == text.strip() != "")
currencies = st.text("ABCDEFXYZ1", min_size=1, max_size=5)
all_pairs = st.lists(
    st.builds("{}/{}".format, currencies, currencies), min_size=1, max_size=4, unique=True
).map(tuple)


@st.composite
def profiles(draw: st.DrawFn) -> dict[str, float]:
    chosen = draw(st.lists(st.sampled_from(risk_profile.THRESHOLDS), unique=True, max_size=5))
    return {
        threshold.name: value
        for threshold in chosen
        if (
            value := float(draw(st.integers(int(threshold.low) + 1, int(threshold.high))))
            if threshold.whole
            else draw(st.floats(threshold.low, threshold.high))
        )
        != threshold.default
    }


imported_bots = st.builds(
    ImportedBot,
    line=st.just(0),
    user=names,
    bot=names,
    venue=st.sampled_from(["kraken", "binance"]),
    pairs=all_pairs,
    capital=st.decimals("0.01", "1000000", places=8),
    status=st.sampled_from([BotStatus.ACTIVE, BotStatus.PAUSED, BotStatus.INACTIVE]),
    risk_profile=profiles(),
)
files = st.lists(imported_bots, min_size=1, max_size=8, unique_by=lambda bot: (bot.user, bot.bot))


def as_row(bot: ImportedBot) -> dict[str, str]:
    return {
        "user": bot.user,
        "bot": bot.bot,
        "venue": bot.venue,
        "pairs": ";".join(bot.pairs),
        "capital": str(bot.capital),
        "mode": bot.mode,
        "status": bot.status,
        **{name: repr(value) for name, value in bot.risk_profile.items()},
    }


def without_lines(bots: tuple[ImportedBot, ...]) -> list[dict[str, Any]]:
    return [
        {name: getattr(bot, name) for name in ImportedBot.__slots__ if name != "line"}
        for bot in bots
    ]


@given(files)
def test_what_is_written_as_csv_reads_back(bots: list[ImportedBot]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(as_row(bot) for bot in bots)

    file = parse(text.getvalue())

    assert file.problems == ()
    assert without_lines(file.bots) == without_lines(tuple(bots))


@given(files)
def test_what_is_written_as_json_lines_reads_back(bots: list[ImportedBot]) -> None:
    file = parse("\n".join(json.dumps(as_row(bot), ensure_ascii=False) for bot in bots))

    assert file.problems == ()
    assert without_lines(file.bots) == without_lines(tuple(bots))


@given(st.text(max_size=300))
def test_any_text_gives_bots_or_problems_and_never_raises(text: str) -> None:
    file = parse(text)

    assert file.bots or file.problems
