"""The vault: what it seals opens in its place only, and its errors tell no secret."""

import base64
import copy
import dataclasses
import logging
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import CredentialRefused, InvalidSettings
from shared.redaction import REDACTOR
from shared.settings import load_settings
from shared.vault import (
    ApiKey,
    Place,
    Sealed,
    Vault,
    new_master_key,
    parse_master_keys,
    required_vault,
    vault_of,
)

API_KEY = ApiKey(key="canary-key-4711", secret="canary-secret-0815")
PLACE = Place(user_id=1, venue="kraken", credential_id=7, version=1)
LINE = "k1:" + base64.b64encode(bytes(range(32))).decode()
NEXT = "k2:" + base64.b64encode(bytes(range(32, 64))).decode()
VAULT = Vault(parse_master_keys(LINE, "test"))
SEALED = VAULT.seal(API_KEY, PLACE)


def _with(column: str, content: bytes) -> Sealed:
    changed: Any = {column: content}
    return dataclasses.replace(SEALED, **changed)


@pytest.fixture
def _no_vault_key_yet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shared.settings._taken", {})
    for name in ("BOTFLEET_VAULT_KEY", "BOTFLEET_VAULT_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)


@given(key=st.text(), secret=st.text())
def test_what_is_sealed_opens_in_its_place(key: str, secret: str) -> None:
    try:
        f"{key}{secret}".encode()
    except UnicodeEncodeError:
        return
    api_key = ApiKey(key=key, secret=secret)
    assert VAULT.open(VAULT.seal(api_key, PLACE), PLACE) == api_key


@given(
    place=st.builds(
        Place,
        user_id=st.integers(1, 3),
        venue=st.sampled_from(["kraken", "binance"]),
        credential_id=st.integers(6, 8),
        version=st.integers(1, 2),
    )
)
def test_a_row_that_was_moved_to_another_place_does_not_open(place: Place) -> None:
    if place == PLACE:
        assert VAULT.open(SEALED, place) == API_KEY
        return
    with pytest.raises(CredentialRefused, match="does not open"):
        VAULT.open(SEALED, place)
    with pytest.raises(CredentialRefused, match="does not open"):
        VAULT.rewrap(SEALED, place)


@given(column=st.sampled_from(["ciphertext", "nonce", "wrapped_key", "wrap_nonce"]), data=st.data())
def test_a_flipped_bit_is_refused(column: str, data: st.DataObject) -> None:
    stored: bytes = getattr(SEALED, column)
    bit = data.draw(st.integers(0, len(stored) * 8 - 1))
    flipped = bytearray(stored)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CredentialRefused, match="does not open") as refusal:
        VAULT.open(_with(column, bytes(flipped)), PLACE)
    assert "canary" not in str(refusal.value)


@given(column=st.sampled_from(["ciphertext", "nonce", "wrapped_key", "wrap_nonce"]))
def test_a_column_of_another_row_is_refused(column: str) -> None:
    other = VAULT.seal(API_KEY, dataclasses.replace(PLACE, user_id=2, credential_id=8))
    with pytest.raises(CredentialRefused, match="does not open"):
        VAULT.open(_with(column, getattr(other, column)), PLACE)


@pytest.mark.parametrize("column", ["ciphertext", "nonce", "wrapped_key", "wrap_nonce"])
def test_a_cut_column_is_refused(column: str) -> None:
    with pytest.raises(CredentialRefused, match="does not open"):
        VAULT.open(_with(column, b""), PLACE)


def test_sealing_twice_shares_no_byte_that_matters() -> None:
    again = VAULT.seal(API_KEY, PLACE)
    assert again.nonce != SEALED.nonce
    assert again.wrap_nonce != SEALED.wrap_nonce
    assert again.ciphertext != SEALED.ciphertext
    assert again.wrapped_key != SEALED.wrapped_key
    assert len(SEALED.nonce) == len(SEALED.wrap_nonce) == 12
    assert b"canary" not in SEALED.ciphertext


def test_the_newest_master_key_seals_and_an_older_one_still_opens() -> None:
    vault = Vault(parse_master_keys(f"{NEXT}\n{LINE}", "test"))
    assert vault.newest == "k2"
    assert vault.open(SEALED, PLACE) == API_KEY
    assert vault.seal(API_KEY, PLACE).master_key_id == "k2"


def test_rewrapping_moves_to_the_newest_master_key_and_leaves_the_secret_alone() -> None:
    both = Vault(parse_master_keys(f"{NEXT}\n{LINE}", "test"))
    moved = both.rewrap(SEALED, PLACE)
    assert moved.master_key_id == "k2"
    assert (moved.ciphertext, moved.nonce) == (SEALED.ciphertext, SEALED.nonce)
    assert Vault(parse_master_keys(NEXT, "test")).open(moved, PLACE) == API_KEY


def test_a_master_key_that_is_gone_is_named() -> None:
    with pytest.raises(CredentialRefused, match="'k1', which is not among k2"):
        Vault(parse_master_keys(NEXT, "test")).open(SEALED, PLACE)


def test_another_master_key_under_the_same_id_opens_nothing() -> None:
    other = Vault(parse_master_keys(NEXT.replace("k2", "k1"), "test"))
    with pytest.raises(CredentialRefused, match="the master key of its name is another one"):
        other.open(SEALED, PLACE)


def test_keys_and_what_is_sealed_show_nothing() -> None:
    shown = f"{API_KEY!r} {API_KEY} {SEALED!r} {VAULT!r}"
    assert "canary" not in shown
    assert shown.count("***") == 2
    for forbidden in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            forbidden(API_KEY)
    with pytest.raises(TypeError):
        dataclasses.asdict(API_KEY)  # type: ignore[call-overload]


def test_whatever_the_vault_opened_or_sealed_is_taken_out_of_logs() -> None:
    VAULT.open(SEALED, PLACE)
    assert REDACTOR.clean("a canary-secret-0815 b canary-key-4711") == "a *** b ***"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no master key"),
        ("# only a comment", "holds no master key"),
        ("nonsense", "line 1: a line must be `id:key`"),
        (f"{LINE}\na b:abc", "line 2: a line must be `id:key`"),
        ("k1:not base64!", "line 1: the key k1 is not base64"),
        ("k1:Y2FuYXJ5", "the key k1 must be 32 bytes, was 6"),
        (f"{LINE},{LINE}", "line 2: the id k1 is there twice"),
    ],
)
def test_a_bad_line_is_named_and_never_quoted(text: str, told: str) -> None:
    with pytest.raises(InvalidSettings) as refusal:
        parse_master_keys(text, "BOTFLEET_VAULT_KEY")
    assert str(refusal.value).startswith("BOTFLEET_VAULT_KEY")
    assert told in str(refusal.value)
    assert "Y2FuYXJ5" not in str(refusal.value)


def test_lines_commas_comments_and_spaces_are_read() -> None:
    parsed = parse_master_keys(f"# new\n {NEXT} # since May\n\n{LINE},", "test")
    assert list(parsed) == ["k2", "k1"]


def test_the_module_prints_a_line_that_it_reads() -> None:
    command = [sys.executable, "-m", "shared.vault"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert len(parse_master_keys(printed, "test")) == 1
    assert printed.strip() != new_master_key()


@pytest.mark.usefixtures("_no_vault_key_yet")
def test_the_key_in_the_environment_is_read_once_and_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BOTFLEET_VAULT_KEY", LINE)
    settings = load_settings()
    child = "import os; print(os.environ.get('BOTFLEET_VAULT_KEY'))"
    told = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "None"
    assert LINE[3:] not in f"{settings!r} {settings} {settings.model_dump()!r}"
    vault = vault_of(settings)
    assert vault is not None
    assert vault.open(SEALED, PLACE) == API_KEY
    assert vault_of(load_settings()) is not None, "the process itself keeps it"


@pytest.mark.usefixtures("_no_vault_key_yet")
def test_the_file_wins_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "vault.key"
    file.write_text(f"{NEXT}\n{LINE}\n")
    file.chmod(0o600)
    monkeypatch.setenv("BOTFLEET_VAULT_KEY", LINE)
    monkeypatch.setenv("BOTFLEET_VAULT_KEY_FILE", str(file))
    assert required_vault(load_settings()).newest == "k2"


@pytest.mark.usefixtures("_no_vault_key_yet")
def test_a_file_that_everybody_can_read_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "vault.key"
    file.write_text(LINE)
    monkeypatch.setenv("BOTFLEET_VAULT_KEY_FILE", str(file))
    for mode, warnings in ((0o640, 0), (0o644, 1)):
        file.chmod(mode)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            required_vault(load_settings())
        assert len(caplog.records) == warnings
        assert LINE[3:] not in caplog.text


@pytest.mark.usefixtures("_no_vault_key_yet")
def test_a_file_that_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOTFLEET_VAULT_KEY_FILE", "missing.key")
    with pytest.raises(InvalidSettings, match=r"missing\.key cannot be read: No such"):
        vault_of(load_settings())


@pytest.mark.usefixtures("_no_vault_key_yet")
def test_without_a_master_key_there_is_no_vault_and_a_hint() -> None:
    assert vault_of(load_settings()) is None
    with pytest.raises(InvalidSettings, match=r"python -m shared\.vault"):
        required_vault(load_settings())


def test_what_is_stored_is_five_columns() -> None:
    assert list(Sealed.__slots__) == [
        *("ciphertext", "nonce", "wrapped_key", "wrap_nonce", "master_key_id")
    ]
