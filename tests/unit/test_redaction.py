"""No secret in what we write."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.redaction import HIDDEN, REDACTOR, Redactor
from shared.telemetry import configure_logging
from shared.vault import ApiKey

SECRET = "kQH5HW/8p1uGOVjbgWA7FunAmGO8lsSUXNsu3eow76sz84Q18fWxnyRzBHCd3pd5=="


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@given(before=st.text(max_size=40), after=st.text(max_size=40))
def test_a_known_secret_is_hidden_wherever_it_stands(before: str, after: str) -> None:
    redactor = Redactor()
    redactor.learn([SECRET])
    cleaned = redactor.clean(before + SECRET + after)
    assert SECRET not in cleaned
    assert HIDDEN in cleaned


def test_every_occurrence_of_several_secrets_is_hidden() -> None:
    redactor = Redactor()
    redactor.learn([SECRET, "another-secret", "short"])
    text = f"{SECRET}{SECRET} another-secret short kQH5HW%2F8p1"
    assert redactor.clean(text) == "****** *** short kQH5HW%2F8p1"


def test_of_two_secrets_that_begin_alike_the_longer_one_is_hidden() -> None:
    redactor = Redactor()
    redactor.learn(["a-secret-one", "a-secret-one-more"])
    assert redactor.clean("a-secret-one a-secret-one-more a-secret-on") == "*** *** a-secret-on"


def test_a_known_secret_is_hidden_as_it_looks_in_a_url() -> None:
    redactor = Redactor()
    redactor.learn(["abc/def+ghi=="])
    assert redactor.clean("?key=abc%2Fdef%2Bghi%3D%3D&x=1") == "?key=***&x=1"


def test_a_redactor_keeps_no_copy_of_a_secret() -> None:
    redactor = Redactor()
    redactor.learn([SECRET])
    assert SECRET not in repr(vars(redactor))


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (
            "GET https://api.binance.com/api/v3/order?symbol=A&signature=c0ffee&x=1",
            "GET https://api.binance.com/api/v3/order?symbol=A&signature=***&x=1",
        ),
        ("{'API-Key': 'canary', 'n': 1}", "{'API-Key': '***', 'n': 1}"),
        ('{"API-Sign": "canary/+=="}', '{"API-Sign": "***"}'),
        (
            r'"message": "{\"X-MBX-APIKEY\": \"canary\"}"',
            r'"message": "{\"X-MBX-APIKEY\": \"***\"}"',
        ),
        ("x-mbx-apikey: canary", "x-mbx-apikey: ***"),
        ("apiKey=canary&n=1", "apiKey=***&n=1"),
        ("amqp://guest:canary@host:5672/", "amqp://guest:***@host:5672/"),
        ("postgresql://u:c@n@ry@db/x and y@z", "postgresql://u:***@db/x and y@z"),
        ("redis://:canary@host", "redis://:***@host"),
        (
            "it is 12:30, see http://127.0.0.1:9000/a@b",
            "it is 12:30, see http://127.0.0.1:9000/a@b",
        ),
    ],
)
def test_what_looks_like_a_secret_is_hidden_and_nothing_else(text: str, cleaned: str) -> None:
    assert Redactor().clean(text) == cleaned


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_logs_hide_secrets_in_arguments_fields_and_tracebacks(log_format: str) -> None:
    REDACTOR.learn(["canary-9f86d081884c7d65"])
    stream = io.StringIO()
    configure_logging("INFO", "json" if log_format == "json" else "text", stream)
    try:
        raise ValueError("refused canary-9f86d081884c7d65")
    except ValueError:
        logging.getLogger("botfleet").exception(
            "sent %s", "canary-9f86d081884c7d65", extra={"body": "canary-9f86d081884c7d65"}
        )
    written = stream.getvalue()
    assert "canary" not in written
    assert "ValueError: refused ***" in written
    if log_format == "json":
        assert json.loads(written)["message"] == "sent ***"


def test_an_api_key_shows_itself_nowhere() -> None:
    assert "canary" not in f"{ApiKey(key='canary-key', secret='canary-secret')!r}"
