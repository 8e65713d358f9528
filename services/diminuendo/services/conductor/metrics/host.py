"""Figures of the machine and of this process: disk, uploads, certificate, build."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric

from diminuendo.services.common.version import own_version
from diminuendo.services.conductor.metrics.certificate import expiry_of


@dataclass(frozen=True, slots=True)
class Host:
    """Where a conductor keeps its files.

    Attributes:
        data_dir: Of everything that it keeps.
        uploads_dir: Where content grows that is being sent.
        cert_file: Of the certificate that gRPC is served with; None: it is not encrypted.
    """

    data_dir: Path
    uploads_dir: Path
    cert_file: Path | None = None

    def families(self) -> list[Metric]:
        """The figures of this moment. Blocks for as long as the file system takes."""
        found: list[Metric] = [
            InfoMetricFamily(
                "diminuendo_build",
                "Version of diminuendo and of Python.",
                value={"version": own_version(), "python": platform.python_version()},
            ),
            GaugeMetricFamily("diminuendo_uploads", "Content that is being sent to this conductor.", self._uploads()),
        ]
        found += self._disk()
        if self.cert_file is not None:
            found += _expiry(self.cert_file)
        return found

    def _uploads(self) -> int:
        try:
            return sum(1 for _ in os.scandir(self.uploads_dir))
        except OSError:
            return 0  # nothing was ever sent

    def _disk(self) -> list[Metric]:
        try:
            disk = os.statvfs(self.data_dir)
        except OSError:
            return []
        return [
            GaugeMetricFamily(
                "diminuendo_data_dir_free_bytes",
                "Free space of the file system of the data folder.",
                disk.f_bavail * disk.f_frsize,
            ),
            GaugeMetricFamily(
                "diminuendo_data_dir_size_bytes",
                "Size of the file system of the data folder.",
                disk.f_blocks * disk.f_frsize,
            ),
        ]


def _expiry(cert_file: Path) -> list[Metric]:
    """When the certificate ends; nothing of a file that cannot be read."""
    try:
        expires = expiry_of(cert_file.read_text("ascii", errors="replace"))
    except (OSError, ValueError):
        return []
    return [
        GaugeMetricFamily(
            "diminuendo_certificate_expiry_timestamp_seconds",
            "When the certificate in the file that gRPC is served with ends.",
            expires,
        )
    ]
