"""How every service is configured: flags over environment over a file over defaults; unknown keys are refused."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from diminuendo.services.common.errors import StartError

CONFIG = "DIMINUENDO_CONFIG"
"""Environment variable that names the file."""

_SECRET = re.compile(r"token|password|secret", re.IGNORECASE)
SERVICES = ("conductor", "coordinator", "serve")
COMMON = ("log_level", "log_style", "traces")
LogLevel = Literal["debug", "info", "warning", "error"]
LogStyle = Literal["auto", "json", "console"]


class ServiceSettings(BaseSettings):
    """Base of a service's settings.

    A subclass sets its own prefix, e.g. ``SettingsConfigDict(env_prefix="DIMINUENDO_CONDUCTOR_")``; its field
    ``port`` then comes from the flag, else from ``DIMINUENDO_CONDUCTOR_PORT``, else from ``port`` in the table
    ``[conductor]`` of the TOML file that ``--config`` or ``DIMINUENDO_CONFIG`` names, else from its default. How
    services tell of themselves is one for all: ``DIMINUENDO_LOG_LEVEL``, ``DIMINUENDO_LOG_STYLE``,
    ``DIMINUENDO_TRACES``, and ``log_level``, ``log_style`` and ``traces`` before the file's tables.

    Attributes:
        log_level: The least severe log line that is written.
        log_style: ``auto`` is ``console`` on a terminal and ``json`` elsewhere.
        traces: ``http://HOST:PORT`` of what takes spans by OTLP over gRPC, ``https://`` by TLS; empty: no spans.
    """

    model_config = SettingsConfigDict(env_prefix="DIMINUENDO_", extra="forbid", frozen=True, validate_by_name=True)

    log_level: LogLevel = Field("info", validation_alias="DIMINUENDO_LOG_LEVEL")
    log_style: LogStyle = Field("auto", validation_alias="DIMINUENDO_LOG_STYLE")
    traces: str = Field("", validation_alias="DIMINUENDO_TRACES")

    @classmethod
    def load(cls, config: Path | None = None, /, **flags: object) -> Self:
        """Settings from flags (None: not given), the environment, a file and the defaults.

        Args:
            config: The file; None: the one that DIMINUENDO_CONFIG names, if any.
            flags: By field.

        Raises:
            StartError: A key is unknown or a value is not acceptable, or the file cannot be read; one line with key,
                value and remedy.
        """
        cls._refuse_unknown_environment()
        named = config or (Path(path) if (path := os.environ.get(CONFIG)) else None)
        given = {key: value for key, value in flags.items() if value is not None}
        if named is not None:
            filed = cls._filed(named)
            given = {name: filed[name] for name in filed if cls.key(name) not in os.environ} | given
        try:
            return cls(**given)  # type: ignore[arg-type]
        except ValidationError as error:
            raise StartError("; ".join(cls._explain(dict(e)) for e in error.errors())) from None

    @classmethod
    def key(cls, name: str) -> str:
        """The environment variable of a field."""
        alias = cls.model_fields[name].validation_alias
        return alias if isinstance(alias, str) else f"{cls.model_config.get('env_prefix', '')}{name}".upper()

    @classmethod
    def _filed(cls, path: Path) -> dict[str, object]:
        """What a file says about this service."""
        own = cls.model_config.get("env_prefix", "").removeprefix("DIMINUENDO_").rstrip("_").lower()
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise StartError(f"--config {str(path)!r} cannot be read ({error.strerror}); name another file") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise StartError(f"--config {str(path)!r} is no TOML ({error}); mend it, or name another file") from None
        for key, value in content.items():
            if key in COMMON:
                continue
            if key not in SERVICES or not isinstance(value, Mapping):
                known = (*COMMON, *(f"[{name}]" for name in SERVICES))
                raise StartError(f"--config {str(path)!r}: {key!r} is no setting; known: {', '.join(known)}")
        table = content.get(own, {})
        names = [name for name in cls.model_fields if name not in COMMON]
        for key in table:
            if key not in names:
                raise StartError(f"--config {str(path)!r}: [{own}] {key!r} is no setting; {_hint(key, names)}")
        return {**{key: content[key] for key in COMMON if key in content}, **table}

    @classmethod
    def _refuse_unknown_environment(cls) -> None:
        prefix = cls.model_config.get("env_prefix", "").upper()
        if prefix == "DIMINUENDO_":
            return  # everybody's: only keys of a prefix of one's own can be judged
        names = [name.upper() for name in cls.model_fields]
        for key in sorted(os.environ):
            name = key.upper().removeprefix(prefix)
            if key.upper().startswith(prefix) and name not in names:
                hint = _hint(name, names, prefix)
                raise StartError(f"environment variable {key}={_shown(os.environ[key], key)} is no setting; {hint}")

    @classmethod
    def _explain(cls, problem: dict[str, object]) -> str:
        location = problem.get("loc")
        name = str(location[0]) if isinstance(location, tuple) and location else "settings"
        field = next((n for n in cls.model_fields if name in (n, cls.key(n))), None)
        if problem.get("type") == "extra_forbidden" or field is None:
            return f"{name}={_shown(problem.get('input'), name)} is no setting; {_hint(name, list(cls.model_fields))}"
        text = str(problem.get("msg")).removeprefix("Value error, ").replace("Input", "it", 1)
        option = field.replace("_", "-")
        return (
            f"{field}={_shown(problem.get('input'), field)} cannot be used: {text}; set --{option} or {cls.key(field)}"
        )


def _shown(value: object, key: str) -> str:
    """A value for people, but none of a key that is for secrets, nor the password that a URL may have."""
    if value and _SECRET.search(key) and not key.lower().endswith("_file"):
        return "***"
    return re.sub(r"(://[^:/@]*):[^/]*@", r"\1:***@", repr(value))


def _hint(name: str, names: list[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"did you mean {prefix}{near[0]}?"
    return f"known: {', '.join(prefix + known for known in sorted(names))}"
