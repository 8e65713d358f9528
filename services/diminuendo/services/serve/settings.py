"""The settings of `diminuendo serve`: flags over ``DIMINUENDO_SERVE_...`` over defaults."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from diminuendo.engine.stores import check_location
from diminuendo.services.common.settings import ServiceSettings
from diminuendo.services.common.weights import Weights


class ServeSettings(ServiceSettings):
    """How a server on one machine runs.

    Attributes:
        data_dir: Folder of everything that it keeps; made when it is not there. Logs are in its ``logs``.
        host: Address that the conductor listens on.
        port: Port of gRPC; 0: the system chooses.
        http_port: Port of /metrics and health; 0: the system chooses.
        evaluators: How many; None: one for each GPU, or for each CPU core where there is no GPU.
        lease_s: How long the coordinator may be silent before it loses its job, in seconds.
        artifacts: Folder of the artifacts or ``s3://BUCKET/PREFIX``; empty: ``artifacts`` in `data_dir`.
        jobs: Most jobs at a time; others wait in the queue.
        weights: What projects may have of the evaluators, relative to one another: ``PROJECT=NUMBER,...``; 1 where it
            is not said.
        tokens_file: TOML file of the tokens that calls must have; None: calls need none.
        tls_cert_file: PEM file of the certificate that gRPC serves by TLS with; None: it is not encrypted.
        tls_key_file: PEM file of the certificate's key.
        tls_client_ca_file: PEM file of authorities: clients must have a certificate of one of them.
        with_parent: Stop when the parent process ends, however it ends (Linux).
    """

    model_config = SettingsConfigDict(env_prefix="DIMINUENDO_SERVE_")

    data_dir: Path = Path("diminuendo-data")
    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(50300, ge=0, le=65535)
    http_port: int = Field(50301, ge=0, le=65535)
    evaluators: int | None = Field(None, ge=1, le=10_000)
    lease_s: float = Field(30.0, gt=0, le=3600, allow_inf_nan=False)
    artifacts: str = ""
    jobs: int = Field(8, ge=1, le=1000)
    weights: Weights = Field(default_factory=dict)
    tokens_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_client_ca_file: Path | None = None
    with_parent: bool = False

    @field_validator("artifacts")
    @classmethod
    def _is_location(cls, value: str) -> str:
        return check_location(value) if value else value
