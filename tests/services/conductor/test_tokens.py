"""The file of tokens: what it says, what is wrong with it, and that it is read again."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from diminuendo.services.common.errors import StartError
from diminuendo.services.conductor.tokens import Role, Tokens, TokensError, parsed

HASH = hashlib.sha256(b"s3cret").hexdigest()
OTHER = hashlib.sha256(b"0ther").hexdigest()
SECOND = 1_000_000


def entry(**change: str) -> str:
    """A `[[tokens]]` entry; each value is TOML, and an empty one leaves its key out."""
    fields = {"name": '"ci"', "sha256": f'"{HASH}"', "role": '"writer"', "projects": '["vision", "text"]'} | change
    return "[[tokens]]\n" + "".join(f"{key} = {value}\n" for key, value in fields.items() if value)


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def test_what_a_file_says(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(
        entry(expires="2027-01-31T01:00:00+01:00")
        + entry(name='"all"', sha256=f'"{OTHER}"', role='"admin"', projects='"*"')
        + entry(name='"driver"', sha256=f'"{"0" * 64}"', role='"coordinator"', projects="")
    )
    now = [0]
    tokens = Tokens(file, lambda: now[0], coordinator_token="0wn")
    ci, everybody = tokens.find(digest("s3cret")), tokens.find(digest("0ther"))
    assert ci is not None
    assert everybody is not None
    assert (ci.name, ci.role, ci.projects) == ("ci", Role.WRITER, frozenset(["vision", "text"]))
    assert ci.said_expiry == "2027-01-31 00:00:00Z"
    assert (everybody.role, everybody.projects, everybody.expires_us) == (Role.ADMIN, None, None)
    own, driver = tokens.find(digest("0wn")), tokens.find(bytes(32))
    assert own is not None
    assert driver is not None
    assert own.role is driver.role is Role.COORDINATOR
    assert own.projects is driver.projects is None
    assert tokens.find(digest("s3cre")) is None
    assert HASH not in repr(ci)
    now[0] = ci.expires_us or 0
    assert tokens.expired(ci)
    assert not tokens.expired(everybody)
    now[0] -= 1
    assert not tokens.expired(ci)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it has no token, and would let nobody in; give one [[tokens]] entry at least"),
        ("tokens = []", "it has no token"),
        ("tokens = [1]", "tokens[0]: is no table; write it as [[tokens]]"),
        ("[[token]]", "token is unknown; did you mean tokens?"),
        (entry(rol='"x"'), "tokens[0].rol is unknown; did you mean role?"),
        (entry(name=""), "tokens[0].name: is missing; give it as a text"),
        (entry(name='"\\n"'), "tokens[0].name: '\\n' is no name; give 1 to 63 printable letters"),
        (entry(sha256='"s3cret"'), "tokens[0].sha256: is no SHA-256 in lower-case hex; give what `sha256sum` prints"),
        (entry(sha256="5"), "tokens[0].sha256: is no text; give it as a text"),
        (entry(role='"owner"'), "tokens[0].role: 'owner' is no role; give one of reader, writer, admin, coordinator"),
        (entry(projects=""), 'tokens[0].projects: is missing or no list; give ["PROJECT", ...], or "*" for all'),
        (entry(projects="[]"), "tokens[0].projects: is missing or no list"),
        (entry(projects='["Vision"]'), "tokens[0].projects: 'Vision' is no project; give 1 to 63 characters of a-z"),
        (entry(role='"coordinator"'), "tokens[0].projects: a coordinator takes jobs of all projects; leave it out"),
        (entry(expires='"2027-01-31"'), "tokens[0].expires: 2027-01-31 is no time with its zone; give 2027-01-31T00"),
        (entry(expires="2027-01-31T00:00:00"), "tokens[0].expires: 2027-01-31 00:00:00 is no time with its"),
        (entry() + entry(sha256=f'"{OTHER}"'), "tokens[1].name: is that of tokens[0] too; give each its own"),
        (entry() + entry(name='"b"'), "tokens[1].sha256: is that of tokens[0] too; give each its own"),
    ],
)
def test_what_is_wrong_is_named_and_what_may_be_secret_is_not(text: str, says: str) -> None:
    with pytest.raises(TokensError) as caught:
        parsed(tomllib.loads(text))
    assert str(caught.value).startswith(says)
    assert HASH not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_file_that_cannot_be_used_is_no_start(tmp_path: Path) -> None:
    def refusal(path: Path, **more: Any) -> str:
        with pytest.raises(StartError) as caught:
            Tokens(path, lambda: 0, **more)
        return str(caught.value)

    assert refusal(tmp_path / "none").endswith("none' cannot be read (No such file or directory); name another file")
    (tmp_path / "f").write_text("[[tokens")
    assert refusal(tmp_path / "f").startswith(f"--tokens-file '{tmp_path}/f' is no TOML (")
    (tmp_path / "f").write_bytes(b"\xff")
    assert "is no text" in refusal(tmp_path / "f")
    (tmp_path / "f").write_text(entry())
    text = refusal(tmp_path / "f", coordinator_token="s3 cret")
    assert "letters that no token has" in text
    assert "s3 cret" not in text


def test_a_file_that_changes_is_read_again_and_a_wrong_one_keeps_the_old(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(entry())
    tokens = Tokens(file, lambda: 0)

    def known() -> list[bool]:
        tokens.refresh()
        return [tokens.find(digest(token)) is not None for token in ("s3cret", "0ther")]

    def put(text: str) -> None:
        (tmp_path / "new").write_text(text)
        os.replace(tmp_path / "new", file)

    with capture_logs() as logs:
        assert known() == [True, False]
        put(entry(sha256=f'"{OTHER}"'))
        assert known() == [False, True]
        put("[[tokens]]\nname = 's3cret'")
        assert known() == known() == [False, True], "what was known stays"
        file.unlink()
        assert known() == known() == [False, True]
        put(entry())
        assert known() == [True, False]
    events = [(line["event"], line["log_level"]) for line in logs]
    wrong = ("tokens_not_read", "error")
    assert events == [("tokens_read", "info"), wrong, wrong, ("tokens_read", "info")], "each is told once"
    assert HASH not in str(logs)


def test_the_line_of_the_documentation_makes_a_token_and_its_hash(tmp_path: Path) -> None:
    text = Path("docs/security.md").read_text()
    lines = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ openssl rand")]
    assert len(lines) == 1
    done = subprocess.run(
        ["sh", "-c", f"umask 077; {lines[0]}"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=20
    )
    token = (tmp_path / "token").read_text()
    assert len(token) == 64
    assert done.stdout.split()[0] == hashlib.sha256(token.encode()).hexdigest()
    (tmp_path / "tokens.toml").write_text(entry(sha256=f'"{done.stdout.split()[0]}"'))
    found = Tokens(tmp_path / "tokens.toml", lambda: 0).find(digest(token.strip()))
    assert found is not None
