"""Settings: what is read, what is refused, and that `.env.example` tells the truth."""

from pathlib import Path

import pytest
from dotenv import dotenv_values

from shared.errors import InvalidSettings
from shared.settings import Settings, environment_name, load_settings

EXAMPLE = Path(__file__).parents[2] / ".env.example"


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(environment_name(field), raising=False)
    monkeypatch.delenv("RABBITMQ_URL", raising=False)
    monkeypatch.chdir(tmp_path)


def test_example_names_every_setting_with_its_default() -> None:
    example = dotenv_values(EXAMPLE)
    assert set(example) == {environment_name(f) for f in Settings.model_fields} | {"RABBITMQ_URL"}
    defaults = load_settings()
    for field in Settings.model_fields:
        default, written = getattr(defaults, field), example[environment_name(field)]
        assert (written or None) == (None if default is None else f"{default}".removesuffix(".0"))


def test_cloudamqp_url_wins_over_rabbitmq_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_URL", "amqp://second")
    assert load_settings().broker_url == "amqp://second"
    monkeypatch.setenv("CLOUDAMQP_URL", "amqp://first")
    assert load_settings().broker_url == "amqp://first"


def test_env_file_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("BOTFLEET_POLL_INTERVAL_SECS=2\nLOG_LEVEL=debug\n")
    assert load_settings().poll_interval_secs == 2
    assert load_settings().log_level == "DEBUG"
    monkeypatch.setenv("BOTFLEET_POLL_INTERVAL_SECS", "0.5")
    assert load_settings().poll_interval_secs == 0.5


def test_an_empty_value_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("BOTFLEET_SHARD_COUNT", "")
    settings = load_settings()
    assert settings.database_url is None
    assert settings.shard_count == 256


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("BOTFLEET_POLL_INTERVAL_SECS", "0.04", "greater than or equal to 0.05, was '0.04'"),
        ("BOTFLEET_POLL_INTERVAL_SECS", "soon", "must be a valid number"),
        ("BOTFLEET_LEASE_TTL_SECS", "-1", "was '-1'"),
        ("BOTFLEET_SHARD_COUNT", "2.5", "must be a valid integer"),
        ("BOTFLEET_KRAKEN_URL", "api.kraken.com", "must be a scheme and host"),
        ("LOG_LEVEL", "loud", "must be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
    ],
)
def test_an_impossible_value_is_refused_with_name_value_and_range(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings) as refusal:
        load_settings()
    assert str(refusal.value).startswith(name)
    assert told in str(refusal.value)


@pytest.mark.parametrize("source", ["environment", ".env"])
def test_a_misspelt_name_is_refused_with_the_name_that_was_meant(
    monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    if source == ".env":
        Path(".env").write_text("BOTFLEET_POLL_INTERVALL_SECS=1\n")
    else:
        monkeypatch.setenv("BOTFLEET_POLL_INTERVALL_SECS", "1")
    with pytest.raises(InvalidSettings, match="did you mean BOTFLEET_POLL_INTERVAL_SECS"):
        load_settings()


def test_urls_with_passwords_are_not_in_the_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://u:canary@localhost/db")
    monkeypatch.setenv("RABBITMQ_URL", "amqp://u:canary@localhost")
    assert "canary" not in repr(load_settings())
    assert "canary" not in str(load_settings())
