"""What a job's works run in. Works on a bundle have processes of their own, with the packages that it asks for.

Imports no ray. The coordinator reads no more of a bundle than its requirements, and runs nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from diminuendo.v1 import job_pb2

from diminuendo.engine.bundle.archive import requirements
from diminuendo.engine.store import SharedStore
from diminuendo.services.common.spec import bundle_of


@dataclass(frozen=True, slots=True)
class Environment:
    """What an evaluator's process has.

    Attributes:
        bundle: sha256 of the bundle whose code it may import; empty: none. Two bundles may have modules of one name,
            and what the code of one does to its process is to do nothing to another's.
        packages: Lines of the bundle's requirements.txt.
    """

    bundle: str = ""
    packages: tuple[str, ...] = ()


COMMON = Environment()
"""Of works that need no code but the engine's."""


def environment_of(spec: job_pb2.JobSpec, store: SharedStore) -> Environment:
    """What a job's works run in.

    Raises:
        BundleError: The job's bundle is none.
        ArtifactMissingError: The store lacks it.
        StoreAwayError: The store cannot be reached.
    """
    sha256 = bundle_of(spec)
    return COMMON if sha256 is None else Environment(sha256, requirements(store, sha256))
