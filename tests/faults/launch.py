"""`python -m tests.faults.launch WORKER OPTIONS`: the coordinator's command, with a worker of the tests."""

from __future__ import annotations

import sys
from functools import partial

import typer

from diminuendo.services.coordinator.command import coordinator
from diminuendo.services.coordinator.environment import isolate

if __name__ == "__main__":
    worker = sys.argv.pop(1)
    isolate()  # before ray is imported
    from diminuendo.services.coordinator import main
    from diminuendo.services.coordinator.executor import RayExecutor

    vars(main)["RayExecutor"] = partial(RayExecutor, worker=worker)
    typer.run(coordinator)
