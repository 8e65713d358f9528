"""What cannot work is told when the conductor starts: setting, value and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.k8s.provider.conftest import TEMPLATE

from diminuendo.services.common.errors import StartError
from diminuendo.services.conductor.app import conducting
from diminuendo.services.conductor.settings import ConductorSettings

KUBERAY: dict[str, Any] = {"cluster": "kuberay", "cluster_template": TEMPLATE, "cluster_conductor": "conductor:50300"}


def test_nobody_by_default() -> None:
    assert ConductorSettings.load().cluster == "none"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cluster": "slurm"}, ["cluster='slurm'", "kuberay", "--cluster"]),
        ({"cluster": "ray", "cluster_conductor": "c:1"}, ["cluster_address=''", "http://", "--cluster-address"]),
        ({"cluster": "ray", "cluster_address": "10.0.0.1:8265"}, ["cluster_address='10.0.0.1:8265'"]),
        ({"cluster": "kuberay", "cluster_conductor": "c:1"}, ["cluster_template=None", "RayCluster"]),
        (KUBERAY | {"cluster_conductor": ""}, ["cluster_conductor=''", "HOST:PORT", "--cluster-conductor"]),
        (KUBERAY | {"cluster_instance": "Big_Name"}, ["cluster_instance='Big_Name'"]),
        (KUBERAY | {"cluster_dashboard": "http://{pod}:8265"}, ["cluster_dashboard=", "{service}"]),
        (KUBERAY | {"cluster_idle_s": 0}, ["cluster_idle_s=0", "greater than 0"]),
    ],
)
def test_what_cannot_work(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(StartError) as caught:
        ConductorSettings.load(**given)
    assert all(word in str(caught.value) for word in words), caught.value


async def test_no_kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    settings = ConductorSettings.load(data_dir=tmp_path / "data", port=0, http_port=0, **KUBERAY)
    with pytest.raises(StartError, match=r"no Kubernetes cluster is configured.*set KUBECONFIG"):
        async with conducting(settings):
            pass
