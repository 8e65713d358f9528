"""Flags over environment over defaults; unknown keys refused."""

from __future__ import annotations

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from diminuendo.services.common.errors import StartError
from diminuendo.services.common.settings import ServiceSettings


class Example(ServiceSettings):
    """Settings of a service that is none."""

    model_config = SettingsConfigDict(env_prefix="DIMINUENDO_EXAMPLE_")

    port: int = Field(50300, ge=0, le=65535)
    data_dir: str = "here"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("DIMINUENDO_LOG_LEVEL", "DIMINUENDO_LOG_STYLE"):
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
