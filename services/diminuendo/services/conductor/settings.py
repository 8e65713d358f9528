"""The conductor's settings: flags over ``DIMINUENDO_CONDUCTOR_...`` over defaults."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from diminuendo.engine.stores import check_location
from diminuendo.services.common.weights import Weights
from diminuendo.services.conductor.clusters.settings import ClusterSettings
from diminuendo.services.conductor.store.connect import sqlite_url

_KINDS = "give postgresql://USER:PASSWORD@HOST/NAME or sqlite:///FILE"


class ConductorSettings(ClusterSettings):
    """How a conductor runs. Where jobs are computed is said by the settings that it inherits.

    Attributes:
        data_dir: Folder of everything that it keeps; made when it is not there.
        host: Address to listen on. Without `tokens_file` whoever reaches it may do anything: keep it on this machine.
        port: Port of gRPC; 0: the system chooses.
        http_port: Port of /metrics, /livez and /readyz; 0: the system chooses.
        lease_s: How long a coordinator may be silent before its job is given to another, in seconds.
        drain_s: How long calls may go on after a signal to stop, in seconds.
        database: Where the database is: ``postgresql://USER:PASSWORD@HOST/NAME``, which several conductors may use,
            or ``sqlite:///FILE``; empty: SQLite in `data_dir`.
        artifacts: Where the artifacts are: a folder or ``s3://BUCKET/PREFIX``; empty: ``artifacts`` in `data_dir`.
        weights: What projects may have of the evaluators, relative to one another: ``PROJECT=NUMBER,...``; 1 where it
            is not said.
        max_artifact_bytes: The largest content that is taken.
        max_bundle_bytes: The largest bundle that a job is created on: each evaluator fetches it.
        keep_s: How long content and outcomes are kept that no job refers to any more, in seconds. Longer than a client
            takes from an upload to the job that needs it, and a coordinator from an evaluation to its report.
        collect_every_s: How often what is to go is looked for, in seconds.
        tokens_file: TOML file of the tokens that calls must have; None: calls need none. See `tokens`.
        coordinator_token: One more token, of a coordinator. By the environment only: other users of the machine can
            read command lines.
        tls_cert_file: PEM file of the certificate, and of those between it and its authority, that gRPC serves by TLS
            with; None: it is not encrypted. It is read again when it changes.
        tls_key_file: PEM file of the certificate's key, which no password protects.
        tls_client_ca_file: PEM file of authorities: clients must have a certificate of one of them.
        local_port: Port on 127.0.0.1 of a gRPC that is not encrypted, beside the one that is; 0: the system chooses.
        with_parent: Stop when the parent process ends, however it ends (Linux).
    """

    model_config = SettingsConfigDict(env_prefix="DIMINUENDO_CONDUCTOR_")

    data_dir: Path = Path("diminuendo-data")
    host: str = "127.0.0.1"
    port: int = Field(50300, ge=0, le=65535)
    http_port: int = Field(50301, ge=0, le=65535)
    lease_s: float = Field(30.0, gt=0, le=3600, allow_inf_nan=False)
    drain_s: float = Field(10.0, ge=0, le=3600, allow_inf_nan=False)
    database: SecretStr = SecretStr("")
    artifacts: str = ""
    weights: Weights = Field(default_factory=dict)
    max_artifact_bytes: int = Field(64 * 2**30, ge=2**20, le=64 * 2**30)
    max_bundle_bytes: int = Field(2 * 2**30, ge=2**10, le=64 * 2**30)
    keep_s: float = Field(7 * 86_400.0, ge=7200, allow_inf_nan=False)
    collect_every_s: float = Field(3600.0, ge=1, le=86_400, allow_inf_nan=False)
    tokens_file: Path | None = None
    coordinator_token: SecretStr = SecretStr("")
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = Field(None, validate_default=True)
    tls_client_ca_file: Path | None = None
    local_port: int | None = Field(None, ge=0, le=65535)
    with_parent: bool = False

    @field_validator("tls_key_file")
    @classmethod
    def _is_beside_certificate(cls, given: Path | None, info: ValidationInfo) -> Path | None:
        if (given is None) != (info.data.get("tls_cert_file") is None):
            raise ValueError("certificate and key go together; give both tls_cert_file and tls_key_file, or none")
        return given

    @field_validator("tls_client_ca_file", "local_port")
    @classmethod
    def _is_of_tls(cls, given: Path | int | None, info: ValidationInfo) -> Path | int | None:
        if given is not None and info.data.get("tls_cert_file") is None:
            raise ValueError("it is for TLS; give tls_cert_file and tls_key_file as well, or leave it out")
        return given

    @field_validator("database")
    @classmethod
    def _known(cls, given: SecretStr) -> SecretStr:
        """Only what the store can use; `psycopg` is the driver that is installed."""
        text = given.get_secret_value()
        if not text:
            return given
        try:
            url = make_url(text)
        except ArgumentError:
            raise ValueError(_KINDS) from None
        if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
            return SecretStr(url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False))
        if url.drivername == "sqlite" and url.database and url.database != ":memory:":
            return given
        raise ValueError(_KINDS)

    @field_validator("artifacts")
    @classmethod
    def _is_location(cls, value: str) -> str:
        return check_location(value) if value else value

    @property
    def checks_tokens(self) -> bool:
        """Whether calls need a token."""
        return self.tokens_file is not None

    @property
    def url(self) -> str:
        """Where the database is, as SQLAlchemy writes it."""
        return self.database.get_secret_value() or sqlite_url(str(self.data_dir / "diminuendo.db"))

    @property
    def artifacts_location(self) -> str:
        """Where the artifacts are, for `open_store`."""
        return self.artifacts or str(self.data_dir / "artifacts")

    @property
    def uploads_dir(self) -> Path:
        """Where content grows that is being sent."""
        return self.data_dir / "uploads"
