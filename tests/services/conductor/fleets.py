"""What the tests of fleets ask a conductor."""

from __future__ import annotations

from typing import Any

import grpc
from diminuendo.v1 import fleet_pb2, fleet_service_pb2, fleet_service_pb2_grpc, job_pb2

FLEET = "projects/p/fleets/f"


class Fleets:
    """Stubs, and short forms of what tests often ask."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub: fleet_service_pb2_grpc.FleetServiceAsyncStub = fleet_service_pb2_grpc.FleetServiceStub(channel)

    async def create(self, fleet_id: str = "f", parent: str = "projects/p", **more: Any) -> fleet_pb2.Fleet:
        request = fleet_service_pb2.CreateFleetRequest(parent=parent, fleet_id=fleet_id, **more)
        return await self.stub.CreateFleet(request, timeout=10)

    async def get(self, name: str = FLEET) -> fleet_pb2.Fleet:
        return await self.stub.GetFleet(fleet_service_pb2.GetFleetRequest(name=name), timeout=10)

    async def batch(self, *models: Any, **more: Any) -> list[fleet_service_pb2.FleetModelStatus]:
        """Ask for jobs of models: of their names, or of messages."""
        wanted = [model(one) if isinstance(one, str) else one for one in models]
        request = fleet_service_pb2.BatchCreateJobsRequest(**{"parent": FLEET, "models": wanted} | more)
        return list((await self.stub.BatchCreateJobs(request, timeout=30)).models)

    async def cancel(self, name: str = FLEET) -> fleet_pb2.Fleet:
        return await self.stub.CancelFleet(fleet_service_pb2.CancelFleetRequest(name=name), timeout=10)

    async def retry(self, *models: str, name: str = FLEET) -> list[fleet_service_pb2.FleetModelStatus]:
        request = fleet_service_pb2.RetryFleetRequest(name=name, models=models)
        return list((await self.stub.RetryFleet(request, timeout=10)).models)

    async def delete(self, name: str = FLEET, **more: Any) -> None:
        await self.stub.DeleteFleet(fleet_service_pb2.DeleteFleetRequest(name=name, **more), timeout=10)

    async def page(self, parent: str = "projects/p", **more: Any) -> fleet_service_pb2.ListFleetsResponse:
        request = fleet_service_pb2.ListFleetsRequest(parent=parent, **more)
        return await self.stub.ListFleets(request, timeout=10)


def model(
    name: str, *, zoo: str = "digits", labels: dict[str, str] | None = None, **spec: Any
) -> fleet_service_pb2.FleetModel:
    fields: dict[str, Any] = {"zoo": zoo, "delta": 1.0} | spec
    job = job_pb2.Job(spec=job_pb2.JobSpec(**fields), labels=labels or {})
    return fleet_service_pb2.FleetModel(model=name, job=job)


def states(fleet: fleet_pb2.Fleet) -> dict[str, int]:
    return {job_pb2.JobState.Name(one.state).removeprefix("JOB_STATE_"): one.jobs for one in fleet.counts.states}
