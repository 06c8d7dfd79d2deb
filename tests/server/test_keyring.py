"""Keys: shown once, kept as hashes, read again when the file changes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorikeet_adapters.errors import RefusedError
from lorikeet_server import keyring
from lorikeet_server.cli import main
from lorikeet_server.keyring import Keyring, Scope, add_key, read_keys, remove_key

HASH = hashlib.sha256(b"a key").hexdigest()
GOOD = f'[[keys]]\nname = "ci"\nhash = "{HASH}"\nscopes = ["generate"]\n'


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


@pytest.mark.safety("security 13")
def test_a_key_has_256_bits_and_only_its_hash_is_kept(file: Path) -> None:
    secrets = [add_key(file, None, ["generate", "admin"], "acme") for _ in range(3)]
    for secret in secrets:
        assert re.fullmatch(r"lk-[A-Za-z0-9_-]{43}", secret), "43 characters of base64 hold 32 bytes"
        assert secret.removeprefix("lk-") not in file.read_text()
    tables = tomllib.loads(file.read_text())["keys"]
    assert [each["hash"] for each in tables] == [
        hashlib.sha256(each.encode()).hexdigest() for each in secrets
    ]
    assert [each["name"] for each in tables] == ["acme-1", "acme-2", "acme-3"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in file.parent.iterdir()] == ["keys.toml"], "nothing is left beside it"


def test_a_key_is_found_by_itself_and_by_nothing_else(file: Path) -> None:
    secret = add_key(file, "ops", ["admin"], None)
    add_key(file, "acme", ["generate"], "acme")
    ring = Keyring(file)
    found = ring.find(secret)
    assert found is not None
    assert (found.name, found.tenant, found.scopes) == ("ops", None, frozenset({Scope.ADMIN}))
    for wrong in ("", secret[:-1], secret + "x", secret.upper(), HASH, found.digest.hex(), "\udc80", "é"):
        assert ring.find(wrong) is None


@pytest.mark.safety("security 2")
@given(st.text())
def test_no_text_is_a_key_or_an_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any-keys.toml"
    if not file.exists():
        add_key(file, "ops", ["admin"], None)
    assert Keyring(file).find(text) is None


@pytest.mark.safety("security 2")
def test_every_key_is_compared_in_constant_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No early exit, so that time does not tell which key was nearly right."""
    secrets = [add_key(file, None, ["generate"], None) for _ in range(5)]
    ring = Keyring(file)
    compared: list[bytes] = []
    honest = keyring.hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return honest(one, other)

    monkeypatch.setattr(keyring.hmac, "compare_digest", compare)
    for secret in (secrets[0], secrets[4], "nobody's"):
        compared.clear()
        ring.find(secret)
        assert len(compared) == 5
        assert all(len(each) == 32 for each in compared)


@pytest.mark.safety("security 13")
@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("keys = [", "no TOML"),
        ('[[keys]]\nname = "a"\n', "hash"),
        (GOOD + 'owner = "me"\n', "owner"),
        ("colour = 1\n" + GOOD, "colour"),
        (GOOD + GOOD, "same name"),
        (GOOD + GOOD.replace("ci", "other"), "same hash"),
        (GOOD.replace("generate", "root"), "no scope"),
        (GOOD.replace('["generate"]', "[]"), "scopes"),
        (GOOD.replace('["generate"]', '"generate"'), "scopes"),
        (GOOD.replace('"ci"', '"a b"'), "name"),
        (GOOD.replace(HASH, HASH.upper()), "hash"),
        (GOOD.replace(HASH, "lk-secret-pasted"), "hash"),
        (GOOD + 'tenant = ""\n', "tenant"),
        (GOOD + "tenant = 3\n", "tenant"),
        ("keys = [3]", "table"),
        ("", "no keys"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_quotes_no_secret(file: Path, text: str, what: str) -> None:
    file.write_text(text)
    with pytest.raises(RefusedError, match=what) as caught:
        Keyring(file)
    assert str(file) in str(caught.value)
    assert "pasted" not in str(caught.value)


def test_a_file_that_others_can_write_is_refused(file: Path) -> None:
    add_key(file, "ops", ["admin"], None)
    file.chmod(0o640)
    assert Keyring(file).find("x") is None
    file.chmod(0o620)
    with pytest.raises(RefusedError, match="chmod 600"):
        Keyring(file)


def test_a_missing_file_says_how_to_make_it(file: Path) -> None:
    with pytest.raises(RefusedError, match="lorikeet keys new"):
        Keyring(file)


def test_what_changes_counts_within_a_second_and_what_breaks_does_not(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    first = add_key(file, "first", ["generate"], None)
    ring = Keyring(file, clock)
    second = add_key(file, "second", ["generate"], None)
    assert ring.find(second) is None, "it looks once a second"
    clock.now += 1.0
    assert ring.find(second) is not None

    file.write_text("keys = [")
    clock.now += 1.0
    with caplog.at_level(logging.ERROR, "lorikeet"):
        assert ring.find(first) is not None
        assert ring.find(second) is not None
    assert "the keys stay as they were" in caplog.text
    file.unlink()
    clock.now += 1.0
    assert ring.find(first) is not None

    third = add_key(file, "third", ["generate"], None)
    clock.now += 1.0
    assert ring.find(first) is None
    assert ring.find(third) is not None
    remove_key(file, "third")
    clock.now += 1.0
    assert ring.find(third) is None, "a file without keys is no broken one: nobody may ask"


def test_two_who_add_at_once_both_have_a_key(file: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: add_key(file, f"key-{each}", ["generate"], None), range(16)))
    assert len(read_keys(file)) == 16


def test_a_write_that_fails_leaves_the_file_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_key(file, "ops", ["admin"], None)
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keyring.os, "fsync", full)
    with pytest.raises(RefusedError, match="No space left"):
        add_key(file, "more", ["admin"], None)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == ["keys.toml"]


def run(*words: str) -> int:
    sys.argv = ["lorikeet", "keys", *words]
    try:
        main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_the_command_makes_lists_and_removes(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert run("new", "--scopes", "generate,admin", "--tenant", "acme", "--file", str(file)) == 0
    secret = capsys.readouterr().out.strip()
    found = Keyring(file).find(secret)
    assert found is not None
    assert (found.tenant, found.scopes) == ("acme", frozenset({Scope.GENERATE, Scope.ADMIN}))

    assert run("list", "--json", "--file", str(file)) == 0
    out = capsys.readouterr().out
    assert json.loads(out) == [{"name": "acme-1", "tenant": "acme", "scopes": ["admin", "generate"]}]
    assert secret not in out
    assert run("list", "--file", str(file)) == 0
    assert "acme-1" in capsys.readouterr().out

    for words, reason in (
        (("new", "--scopes", "root"), "no scope"),
        (("new", "--name", "acme-1"), "already"),
        (("new", "--tenant", "a b"), "no tenant"),
        (("rm", "nobody"), "no key `nobody`"),
    ):
        assert run(*words, "--file", str(file)) == 1
        assert reason in capsys.readouterr().err
    assert run("rm", "acme-1", "--file", str(file)) == 0
    assert read_keys(file) == ()
