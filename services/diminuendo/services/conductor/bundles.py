"""Bundles that jobs are created on: whether one is stored, and small enough. What is in it nobody here looks at."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from diminuendo.v1 import job_pb2

from diminuendo.engine.store import ArtifactMissingError, SharedStore, StoreAwayError
from diminuendo.services.common.errors import BundleMissingError, InvalidFieldError, StoreUnavailableError, Violation
from diminuendo.services.common.spec import bundle_of


@dataclass(frozen=True, slots=True)
class Bundles:
    """Bundles in the artifact store.

    Attributes:
        max_bytes: The most that one may be.
    """

    artifacts: SharedStore
    max_bytes: int

    async def check(self, spec: job_pb2.JobSpec) -> None:
        """Refuse a job on a bundle that its evaluators could not have.

        Raises:
            BundleMissingError: It is not stored.
            InvalidFieldError: It is too large.
            StoreUnavailableError: The artifact store is away.
        """
        sha256 = bundle_of(spec)
        if sha256 is None:
            return
        try:
            size = await asyncio.to_thread(self.artifacts.size, sha256)
        except ArtifactMissingError:
            raise missing(spec.bundle) from None
        except StoreAwayError as error:
            raise StoreUnavailableError(f"the artifact store is away ({error}); try again") from error
        if size > self.max_bytes:
            text = (
                f"the bundle has {size:,} bytes, and this server takes {self.max_bytes:,}; leave data out and name it "
                "by path or URI, or have the server's max-bundle-bytes raised"
            )
            raise InvalidFieldError([Violation("job.spec.bundle", text)])


def missing(name: str) -> BundleMissingError:
    """The error of a bundle that is not stored, or is just being removed."""
    return BundleMissingError(
        f"{name} is not stored here: it was never uploaded, or no job has referred to it for long; upload it again",
        bundle=name,
    )
