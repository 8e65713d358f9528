"""The conductor's settings: flags over ``DIMINUENDO_CONDUCTOR_...`` over defaults."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from diminuendo.services.common.settings import ServiceSettings
from diminuendo.services.conductor.store.connect import sqlite_url


class ConductorSettings(ServiceSettings):
    """How a conductor runs.

    Attributes:
        data_dir: Folder of everything that it keeps; made when it is not there.
        host: Address to listen on. There is no authentication yet: keep it on this machine.
        port: Port of gRPC; 0: the system chooses.
        http_port: Port of /metrics, /livez and /readyz; 0: the system chooses.
        lease_s: How long a coordinator may be silent before its job is given to another, in seconds.
        drain_s: How long calls may go on after a signal to stop, in seconds.
        database_url: Where the database is, as SQLAlchemy writes it; empty: SQLite in `data_dir`.
        with_parent: Stop when the parent process ends, however it ends (Linux).
    """

    model_config = SettingsConfigDict(env_prefix="DIMINUENDO_CONDUCTOR_")

    data_dir: Path = Path("diminuendo-data")
    host: str = "127.0.0.1"
    port: int = Field(50300, ge=0, le=65535)
    http_port: int = Field(50301, ge=0, le=65535)
    lease_s: float = Field(30.0, gt=0, le=3600, allow_inf_nan=False)
    drain_s: float = Field(10.0, ge=0, le=3600, allow_inf_nan=False)
    database_url: str = Field("", pattern=r"^(sqlite:///.+)?$")
    with_parent: bool = False

    @property
    def url(self) -> str:
        """Where the database is."""
        return self.database_url or sqlite_url(str(self.data_dir / "diminuendo.db"))

    @property
    def artifacts_dir(self) -> Path:
        """Where the artifacts are."""
        return self.data_dir / "artifacts"
