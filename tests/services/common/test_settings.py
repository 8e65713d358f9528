"""Flags over environment over a file over defaults; unknown keys refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from diminuendo.services.common.errors import StartError
from diminuendo.services.common.settings import CONFIG, ServiceSettings
from diminuendo.services.conductor.settings import ConductorSettings
from diminuendo.services.coordinator.settings import CoordinatorSettings


class Example(ServiceSettings):
    """Settings of a service that is none."""

    model_config = SettingsConfigDict(env_prefix="DIMINUENDO_EXAMPLE_")

    port: int = Field(50300, ge=0, le=65535)
    data_dir: str = "here"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("DIMINUENDO_LOG_LEVEL", "DIMINUENDO_LOG_STYLE", CONFIG):
        monkeypatch.delenv(key, raising=False)


def test_defaults_hold_without_anything_else() -> None:
    settings = Example.load(port=None)
    assert (settings.port, settings.data_dir, settings.log_level, settings.log_style) == (50300, "here", "info", "auto")


def test_the_environment_goes_over_defaults_and_flags_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMINUENDO_EXAMPLE_PORT", "1")
    monkeypatch.setenv("DIMINUENDO_EXAMPLE_DATA_DIR", "there")
    monkeypatch.setenv("DIMINUENDO_LOG_LEVEL", "debug")
    settings = Example.load(port=2)
    assert (settings.port, settings.data_dir, settings.log_level) == (2, "there", "debug")
    assert Example.load(log_level="error").log_level == "error"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"port": 70000}, r"port=70000 cannot be used: .*65535; set --port or DIMINUENDO_EXAMPLE_PORT"),
        ({"port": "x"}, r"port='x' cannot be used: .*integer"),
        ({"log_level": "loud"}, r"log_level='loud' cannot be used: .*'debug'.*set --log-level or DIMINUENDO_LOG_LEVEL"),
        ({"prot": 1}, r"prot=1 is no setting; did you mean port\?"),
        ({"zzz": 1}, r"zzz=1 is no setting; known: data_dir, log_level, log_style, port"),
    ],
)
def test_what_cannot_be_used_is_named_with_the_remedy(flags: dict[str, object], says: str) -> None:
    with pytest.raises(StartError, match=says):
        Example.load(**flags)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("DIMINUENDO_EXAMPLE_PROT", "did you mean DIMINUENDO_EXAMPLE_PORT?"),
        ("DIMINUENDO_EXAMPLE_ZZZZZZZZZZZZZZZZ", "known: DIMINUENDO_EXAMPLE_DATA_DIR"),
    ],
)
def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch, key: str, says: str) -> None:
    monkeypatch.setenv(key, "1")
    with pytest.raises(StartError) as caught:
        Example.load()
    assert str(caught.value).startswith(f"environment variable {key}='1' is no setting; ")
    assert says in str(caught.value)


def test_variables_of_other_services_are_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMINUENDO_OTHER_PORT", "1")
    assert Example.load().port == 50300


FILE = """
log_level = "warning"

[conductor]
port = 1
lease_s = 7.5
data_dir = "filed"
weights = "vision=2"

[coordinator]
evaluators = 3
"""


def test_a_file_goes_over_defaults_and_everything_else_over_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "diminuendo.toml"
    file.write_text(FILE)
    monkeypatch.setenv("DIMINUENDO_CONDUCTOR_LEASE_S", "9")
    settings = ConductorSettings.load(file, data_dir=Path("flagged"))
    assert (settings.port, settings.lease_s, settings.data_dir) == (1, 9.0, Path("flagged"))
    assert (settings.weights, settings.log_level, settings.http_port) == ({"vision": 2.0}, "warning", 50301)
    monkeypatch.setenv("DIMINUENDO_LOG_LEVEL", "error")
    monkeypatch.setenv(CONFIG, str(file))
    assert (CoordinatorSettings.load().evaluators, CoordinatorSettings.load().log_level) == (3, "error")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[conductor]\nprot = 1", r"--config '.*': \[conductor\] 'prot' is no setting; did you mean port\?"),
        ("[conductor]\nlog_level = 'info'", r"\[conductor\] 'log_level' is no setting"),
        ("[conducter]\nport = 1", r"'conducter' is no setting; known: log_level, log_style, .*\[conductor\], "),
        ("port = 1", r"'port' is no setting; known: log_level"),
        ("[conductor]\nport = 70000", r"port=70000 cannot be used: .*65535"),
        ("[conductor", r"--config '.*' is no TOML \(.*\); mend it, or name another file"),
        (None, r"--config '.*' cannot be read \(No such file or directory\); name another file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_remedy(tmp_path: Path, content: str | None, says: str) -> None:
    file = tmp_path / "diminuendo.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(StartError, match=says):
        ConductorSettings.load(file)


def test_what_may_be_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMINUENDO_CONDUCTOR_TOKEN", "s3cret")
    with pytest.raises(StartError, match=r"DIMINUENDO_CONDUCTOR_TOKEN=\*\*\* is no setting; did you mean") as caught:
        ConductorSettings.load()
    assert "s3cret" not in str(caught.value)
    monkeypatch.delenv("DIMINUENDO_CONDUCTOR_TOKEN")
    monkeypatch.setenv("DIMINUENDO_CONDUCTOR_COORDINATOR_TOKEN", "s3cret")
    monkeypatch.setenv("DIMINUENDO_COORDINATOR_TOKEN", "s3cret")
    for settings in (ConductorSettings.load(), CoordinatorSettings.load()):
        assert "s3cret" not in repr(settings) + str(settings) + settings.model_dump_json()
    with pytest.raises(StartError, match=r"tokens_file='f' is no setting; did you mean token_file\?"):
        CoordinatorSettings.load(tokens_file="f")
