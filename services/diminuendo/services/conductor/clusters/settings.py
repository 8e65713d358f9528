"""The part of the conductor's settings that says where jobs are computed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from diminuendo.services.common.settings import ServiceSettings

ClusterKind = Literal["none", "local", "ray", "kuberay"]
ClusterScope = Literal["shared", "project"]

DASHBOARD = "http://{service}.{namespace}.svc:8265"
"""Where the Jobs REST API of a RayCluster is, within its Kubernetes cluster."""

_HOST_PORT = r"^$|^[^\s/]+:\d{1,5}$"
_LABEL = r"^[a-z]([-a-z0-9]{0,28}[a-z0-9])?$"


class ClusterSettings(ServiceSettings):
    """Where jobs are computed.

    Attributes:
        cluster: Who provides the cluster. ``none``: coordinators are started by somebody else. ``local``: the conductor
            starts one, as a child process with a Ray of its own. ``ray``: it has an existing Ray cluster run one.
            ``kuberay``: it makes RayClusters on Kubernetes, sizes them, and has each run one.
        cluster_scope: Of kuberay: one cluster for all projects, or one for each.
        cluster_address: Of ray: the ``http://`` or ``https://`` URL of the cluster's dashboard.
        cluster_template: Of kuberay: the file, YAML or JSON, with the RayCluster that those made are like.
        cluster_namespace: Of kuberay: the namespace; empty: that of the pod, else that of the kubeconfig's context.
        cluster_instance: Tells clusters and coordinators of this installation from those of others: the name of the
            Helm release. Lower-case letters, digits and dashes, at most 30.
        cluster_dashboard: Of kuberay: URL of a cluster's dashboard, with ``{service}`` for the name of the head's
            Service, ``{namespace}`` and ``{name}`` for the cluster's.
        cluster_conductor: Of ray and kuberay: HOST:PORT under which coordinators reach this conductor's gRPC.
        cluster_jobs: Most jobs that one coordinator works on at a time.
        cluster_evaluators_per_job: Evaluators that are asked for, for each job, before the coordinator has told how
            many works it has.
        cluster_idle_s: For how long fewer evaluators must have been of use before there are fewer, in seconds.
        cluster_keep_s: For how long a cluster without workers is kept, in seconds.
        cluster_settle_s: How long a cluster's size is to be steady before a coordinator that began with another one is
            started again, in seconds; also the least time between two such starts.
    """

    cluster: ClusterKind = "none"
    cluster_scope: ClusterScope = "shared"
    cluster_address: str = Field("", pattern=r"^$|^https?://[^\s/]+", validate_default=True)
    cluster_template: Path | None = Field(None, validate_default=True)
    cluster_namespace: str = Field("", max_length=63)
    cluster_instance: str = Field("diminuendo", pattern=_LABEL)
    cluster_dashboard: str = Field(DASHBOARD, pattern=r"^https?://\S+$")
    cluster_conductor: str = Field("", pattern=_HOST_PORT, validate_default=True)
    cluster_jobs: int = Field(8, ge=1, le=1000)
    cluster_evaluators_per_job: int = Field(4, ge=1, le=10_000)
    cluster_idle_s: float = Field(300.0, gt=0, le=86_400, allow_inf_nan=False)
    cluster_keep_s: float = Field(3600.0, ge=0, le=30 * 86_400, allow_inf_nan=False)
    cluster_settle_s: float = Field(60.0, ge=0, le=3600, allow_inf_nan=False)

    @field_validator("cluster_address")
    @classmethod
    def _has_address(cls, given: str, info: ValidationInfo) -> str:
        if info.data.get("cluster") == "ray" and not given:
            raise ValueError("cluster=ray needs the http:// URL of the Ray cluster's dashboard")
        return given

    @field_validator("cluster_template")
    @classmethod
    def _has_template(cls, given: Path | None, info: ValidationInfo) -> Path | None:
        if info.data.get("cluster") == "kuberay" and given is None:
            raise ValueError("cluster=kuberay needs a file with the RayCluster to make")
        return given

    @field_validator("cluster_conductor")
    @classmethod
    def _has_conductor(cls, given: str, info: ValidationInfo) -> str:
        kind = info.data.get("cluster")
        if kind in ("ray", "kuberay") and not given:
            raise ValueError(f"cluster={kind} needs HOST:PORT under which that cluster reaches this conductor")
        return given

    @field_validator("cluster_dashboard")
    @classmethod
    def _is_pattern(cls, given: str) -> str:
        try:
            given.format(service="s", namespace="n", name="c")
        except (KeyError, IndexError, ValueError):
            raise ValueError(f"it may hold {{service}}, {{namespace}} and {{name}}, like {DASHBOARD}") from None
        return given
