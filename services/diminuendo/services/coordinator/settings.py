"""The coordinator's settings: flags over ``DIMINUENDO_COORDINATOR_...`` over defaults."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from diminuendo.engine.stores import check_location
from diminuendo.services.common.settings import ServiceSettings


class CoordinatorSettings(ServiceSettings):
    """How a coordinator runs.

    Attributes:
        conductor: HOST:PORT of the conductor's gRPC.
        artifacts: Where the artifacts are, as for the conductor: a folder, on a cluster of several machines a shared
            one, or ``s3://BUCKET/PREFIX``.
        evaluators: How many; None: one for each GPU, or for each CPU core where there is no GPU.
        name: Unique among the coordinators that are alive.
        ray_address: HOST:PORT of a Ray cluster one of whose nodes this is, or ``auto``; the ``http://`` or ``https://``
            URL of a remote cluster's dashboard, which is to run the coordinator; None: a local Ray of its own.
        work_timeout_s: How long an evaluator may take for one work, in seconds.
        evaluator_memory_gb: Most host memory of one evaluator, in GB of 2^30 bytes; None: as much as there is.
        evaluator_gpus: GPUs that one evaluator takes; 0: one CPU. For a cluster that adds nodes by itself: they need
            not be there yet. None: an evaluator's share of the cluster as it is.
        idle_s: Seconds without work after which an evaluator is let go, so that its node can be; evaluators are
            started as works wait for them. None: all of them are there all the time.
        jobs: Most jobs at a time.
        project: The only one whose jobs it takes; empty: those of all.
        token: What it shows the conductor. By the environment only: other users of the machine can read command lines.
        token_file: A file with the token, in place of `token`; read again when the conductor refuses the token.
        tls: Whether the conductor is spoken to by TLS.
        ca_file: PEM file of the authorities that are trusted; None: those that gRPC trusts.
        cert_file: PEM file of a certificate of the coordinator's own, where the conductor asks for one.
        key_file: PEM file of that certificate's key.
        allow_insecure_token: Whether the token may leave this machine on a line that is not encrypted.
        with_parent: Stop when the parent process ends, however it ends (Linux).
    """

    model_config = SettingsConfigDict(env_prefix="DIMINUENDO_COORDINATOR_")

    conductor: str = Field("127.0.0.1:50300", pattern=r"^[^\s/]+:\d{1,5}$")
    artifacts: str = "diminuendo-data/artifacts"
    evaluators: int | None = Field(None, ge=1, le=10_000)
    name: str = Field("local", min_length=1, max_length=255)
    ray_address: str | None = Field(None, min_length=1)
    work_timeout_s: float = Field(3600.0, gt=0, le=7 * 86400, allow_inf_nan=False)
    evaluator_memory_gb: float | None = Field(None, gt=0, allow_inf_nan=False)
    evaluator_gpus: float | None = Field(None, ge=0, le=64, allow_inf_nan=False)
    idle_s: float | None = Field(None, gt=0, le=86_400, allow_inf_nan=False)
    jobs: int = Field(8, ge=1, le=1000)
    project: str = Field("", pattern=r"^[a-z0-9-]{0,63}$")
    token: SecretStr = SecretStr("")
    token_file: Path | None = None
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = Field(None, validate_default=True)
    allow_insecure_token: bool = False
    with_parent: bool = False

    @field_validator("evaluator_gpus")
    @classmethod
    def _is_of_so_many(cls, given: float | None, info: ValidationInfo) -> float | None:
        if given is not None and info.data.get("evaluators") is None:
            raise ValueError("what one evaluator takes does not say how many there are to be; give evaluators as well")
        return given

    @field_validator("ca_file", "cert_file")
    @classmethod
    def _is_of_tls(cls, given: Path | None, info: ValidationInfo) -> Path | None:
        if given is not None and not info.data.get("tls"):
            raise ValueError("it is for TLS; give --tls as well, or leave it out")
        return given

    @field_validator("key_file")
    @classmethod
    def _is_beside_certificate(cls, given: Path | None, info: ValidationInfo) -> Path | None:
        if (given is None) != (info.data.get("cert_file") is None):
            raise ValueError("certificate and key go together; give both cert_file and key_file, or none")
        return given

    @property
    def is_remote(self) -> bool:
        """Whether the coordinator is to run in a remote cluster, through its Jobs REST API."""
        return (self.ray_address or "").startswith(("http://", "https://"))

    @field_validator("artifacts")
    @classmethod
    def _is_location(cls, value: str) -> str:
        return check_location(value)
