"""How long the conductor itself takes on the way from a queued job to a coordinator on Kubernetes, and what it weighs.

The API is the tests' simulated one, so that Kubernetes and Ray take no time: a RayCluster is asked for, its pods are
ready, a coordinator is submitted. Measured on a conductor as a process, with the settings as they come.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path

import grpc
from tests.bench.results import command_line, record
from tests.k8s.provider.apiserver import ApiServer
from tests.k8s.provider.conftest import NAMESPACE, RAY_TOKEN, TEMPLATE, TOKEN
from tests.k8s.provider.operator import Dashboards, Operator
from tests.services.conductor.conftest import Api

NAME = "diminuendo"


class Rig:
    """A conductor, and all that it acts on. Workers are ready when `allow` says so."""

    def __init__(self, folder: Path) -> None:
        self.kube, self.ray, self.folder = ApiServer(TOKEN), Dashboards(RAY_TOKEN), folder
        self.operator = Operator(self.kube)
        self.operator.allow(0)

    async def start(self) -> tuple[asyncio.subprocess.Process, str]:
        """The process, and where its gRPC is."""
        words = ["--data-dir", str(self.folder / "data"), "--port", "0", "--http-port", "0", "--cluster", "kuberay"]
        words += ["--cluster-template", str(TEMPLATE), "--cluster-conductor", "conductor:50300"]
        environment = os.environ | {
            "KUBECONFIG": str(self.kube.kubeconfig(self.folder, NAMESPACE)),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": RAY_TOKEN,
            "DIMINUENDO_CONDUCTOR_CLUSTER_DASHBOARD": self.ray.url + "/{name}",
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "diminuendo.services.conductor", *words),
            stdout=PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
        )
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        return process, line.split()[1].removeprefix("grpc=")

    def close(self) -> None:
        self.operator.close()
        self.kube.close()
        self.ray.close()


async def measure(rig: Rig) -> tuple[float, float, float]:
    """Seconds from a queued job to its RayCluster; from ready pods to a submitted coordinator; idle MiB before."""
    process, target = await rig.start()
    try:
        await seen(rig.kube, lambda: rig.kube.watching)
        await asyncio.sleep(2)
        mib = resident(process.pid)
        async with grpc.aio.insecure_channel(target) as channel:
            api = Api(channel)
            await api.lease()  # the channel is there
            began = time.perf_counter()
            await api.create()
            await seen(rig.kube, lambda: rig.kube.objects)
            asked = time.perf_counter() - began
            await asyncio.sleep(1)  # pods take their time
            began = time.perf_counter()
            rig.operator.allow(10)
            await seen(rig.ray, lambda: rig.ray.running(NAME))
            return asked, time.perf_counter() - began, mib
    finally:
        process.terminate()
        await process.wait()


async def seen(server: ApiServer | Dashboards, condition: Callable[[], object]) -> None:
    await asyncio.to_thread(server.wait, condition, 60.0)


def resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    runs = []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            rig = Rig(Path(folder))
            try:
                runs.append(asyncio.run(measure(rig)))
            finally:
                rig.close()
        asked, placed, mib = runs[-1]
        print(f"job to RayCluster {asked:.3f} s, ready pods to coordinator {placed:.3f} s, {mib:.0f} MiB", flush=True)
    figures = {
        "job_to_raycluster_s": statistics.median(asked for asked, _, _ in runs),
        "ready_pods_to_coordinator_s": statistics.median(placed for _, placed, _ in runs),
        "both_s": statistics.median(asked + placed for asked, placed, _ in runs),
        "idle_mib": statistics.median(mib for _, _, mib in runs),
        "most_s": 5.0,
    }
    record("provider", figures, command=command_line("tests.bench.provider"), seed=0, runs=options.runs)
    print(figures)


if __name__ == "__main__":
    main()
