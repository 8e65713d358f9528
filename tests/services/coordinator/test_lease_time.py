"""The coordinator's loop: a lease counts from when it came, however long the coordinator had waited for a job."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from diminuendo.v1 import coordinator_service_pb2 as v1

from diminuendo.services.coordinator import main
from diminuendo.services.coordinator.crew import Crew
from diminuendo.services.coordinator.settings import CoordinatorSettings
from diminuendo.services.coordinator.stopping import Stop

WAITED_S = 19.0


@dataclass
class Waiting:
    """A conductor that has no job for a while, and what is told of the job that comes then."""

    stop: Stop
    now: float = 1000.0
    told: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def future(self, _request: v1.LeaseJobRequest, timeout: float) -> Any:
        assert timeout > WAITED_S

        def result() -> v1.LeaseJobResponse:
            self.now += WAITED_S
            return v1.LeaseJobResponse(lease=v1.Lease(epoch=1))

        return SimpleNamespace(result=result, cancel=lambda: None)

    def run(self, given: v1.Lease, *, asked_at: float) -> None:
        assert given.epoch == 1
        self.told.append(asked_at)
        self.stop.request()


def test_the_wait_for_a_job_is_no_part_of_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()
    waiting = Waiting(stop)
    monkeypatch.setattr(main, "time", waiting)
    stub = SimpleNamespace(LeaseJob=waiting)
    executor = SimpleNamespace(revive=lambda: None, wait_until_usable=lambda stop: not stop.event.is_set())
    runner: Any = SimpleNamespace(executor=executor, conductor=SimpleNamespace(stub=stub), run=waiting.run)
    settings = CoordinatorSettings.load(name="c")
    crew = Crew(settings.jobs, stop)
    main._lease(settings, 1, runner, crew, stop)
    crew.join()
    assert waiting.told == [1000.0 + WAITED_S]
