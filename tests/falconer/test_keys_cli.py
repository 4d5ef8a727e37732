"""`falconer keys`: the file that it writes, and its errors."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from falconer import cli
from shared.access.api_keys import ApiKey, KeyRing, Role, digest_of
from shared.access.key_file import MAX_KEYS, change_keys, read_keys
from shared.errors import FalconerError


def run(*words: str, file: Path) -> str:
    env = {"FALCONER_KEYS_FILE": str(file)}
    result = CliRunner().invoke(cli.app, ["keys", *words], env=env, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output.strip()


def test_a_key_is_shown_once_and_the_file_has_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    secret = run("create", "alice", file=file)
    other = run("create", "ops", "--role", "admin", "--expires-in-days", "1", file=file)
    keys = read_keys(file)
    assert [(key.name, key.role) for key in keys] == [("alice", Role.USER), ("ops", Role.ADMIN)]
    found = KeyRing(keys).find(other)
    assert found is not None and found.name == "ops" and not found.has_expired
    assert secret.startswith("fal_") and len(secret) >= 40
    listed = run("list", file=file)
    for text in (file.read_text(), listed):
        assert secret not in text and other not in text
    assert "alice  user" in listed


def test_a_revoked_key_is_refused_and_its_name_is_free(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    first = run("create", "alice", file=file)
    run("revoke", "alice", file=file)
    assert KeyRing(read_keys(file)).find(first) is None
    assert run("create", "alice", file=file) != first


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["create", "alice"], "exists already"),
        (["create", "a b"], "NAME must match"),
        (["revoke", "bob"], "no key named 'bob'"),
    ],
)
def test_an_error_changes_nothing(words: list[str], reason: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    run("create", "alice", file=file)
    before = file.read_bytes()
    with pytest.raises(FalconerError, match=reason):
        run(*words, file=file)
    assert file.read_bytes() == before


def test_a_key_too_many_is_refused_so_that_the_file_stays_valid(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    full = [ApiKey(name=f"key-{n}", sha256=digest_of(str(n))) for n in range(MAX_KEYS)]
    change_keys(file, lambda _: full)
    with pytest.raises(FalconerError, match="must be at most 1000, got 1001"):
        run("create", "alice", file=file)
    run("revoke", "key-0", file=file)
    run("create", "alice", file=file)
    assert len(read_keys(file)) == MAX_KEYS


def test_commands_need_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FALCONER_KEYS_FILE", raising=False)
    with pytest.raises(FalconerError, match="FALCONER_KEYS_FILE"):
        CliRunner().invoke(cli.app, ["keys", "list"], catch_exceptions=False)
