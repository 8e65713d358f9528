"""Packages of bundles, through Ray's runtime environments: installed before an evaluator is taken for them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import ray
import ray.exceptions

from diminuendo.services.common import logs
from diminuendo.services.coordinator.bundles import Environment

log = logs.get(__name__)

_LOOK_S = 0.5
_SAID = 6
"""Last lines of pip's that a message repeats."""


class RequirementsError(RuntimeError):
    """Raised where a bundle's requirements cannot be installed; the message repeats what pip said."""


class InstallStoppedError(RuntimeError):
    """Raised when nobody waits for an installation any more."""


def runtime_env(environment: Environment) -> dict[str, Any] | None:
    """As Ray takes it; None where the cluster's own packages will do.

    Packages come on top of the cluster's, whose versions of torch and the engine they see.
    """
    if not environment.packages:
        return None
    return {"pip": {"packages": list(environment.packages), "pip_check": False}}


def install(environment: Environment, stopped: Callable[[], bool]) -> None:
    """Have a node of the cluster install what an environment asks for; other nodes do when they first need it.

    It takes no evaluator's place. Ray keeps what is installed for whoever asks for the same.

    Args:
        stopped: Whether to wait no longer.

    Raises:
        RequirementsError: It cannot be installed.
        InstallStoppedError: `stopped` said so.
    """
    wanted = runtime_env(environment)
    if wanted is None:
        return
    log.info("installing", bundle=environment.bundle, packages=len(environment.packages))
    remote: Any = ray.remote(_Trial)
    # An actor, as evaluators are: Ray 2.60 ends the driver when a task is cancelled as it finishes.
    trial = remote.options(num_cpus=0, max_restarts=0, max_task_retries=0, runtime_env=wanted).remote()
    try:
        ready = trial.ready.remote()
        while not ray.wait([ready], timeout=_LOOK_S)[0]:
            if stopped():
                raise InstallStoppedError("nobody waits for the packages any more")
        ray.get(ready)
    except ray.exceptions.RuntimeEnvSetupError as error:
        raise RequirementsError(refused(str(error))) from error
    except ray.exceptions.RayActorError as error:
        raise RequirementsError(f"requirements.txt: with its packages no process starts: {last_line(error)}") from error
    finally:
        ray.kill(trial, no_restart=True)
    log.info("installed", bundle=environment.bundle)


class _Trial:
    """Starts once everything is installed."""

    def ready(self) -> None:
        """It has."""


def last_line(error: BaseException) -> str:
    """Of a traceback that Ray tells: what was raised."""
    return str(error).strip().splitlines()[-1].strip()


def refused(said: str) -> str:
    """What to tell an owner whose requirements Ray could not install: pip's own last words."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    own = [line for line in lines if re.match(r"(?:ERROR|error|Error|fatal|SSLError)\b", line)] or lines[-_SAID:]
    return (
        f"requirements.txt: it cannot be installed on the evaluators: {' '.join(own[-_SAID:])}; try "
        "`pip install -r requirements.txt` in a new environment, or have the packages put into the evaluators' image"
    )
