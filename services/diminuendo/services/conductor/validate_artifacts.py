"""What may be asked about content: every field that is wrong, with its value and the remedy, in one answer."""

from __future__ import annotations

from diminuendo.v1 import artifact_service_pb2

from diminuendo.services.conductor.uploads import MAX_CHUNK
from diminuendo.services.conductor.validate import Problems
from diminuendo.services.conductor.validate_held import sha256_of

DEFAULT_TTL_S, MAX_TTL_S = 3600, 86_400


def artifact(sha256: str, offset: int) -> None:
    """Which content is read, and from where."""
    problems = Problems()
    sha256_of(problems, "sha256", sha256)
    if offset < 0:
        problems.add("offset", f"{offset} is negative; give a byte of the content, from 0")
    problems.check()


def upload(sha256: str, size: int, max_bytes: int) -> None:
    """Which content is to be sent."""
    problems = Problems()
    sha256_of(problems, "sha256", sha256)
    _size(problems, size, max_bytes)
    problems.check()


def chunk(request: artifact_service_pb2.WriteArtifactRequest, sha256: str, size: int) -> None:
    """A part of the content that the stream's first message named."""
    problems = Problems()
    if request.sha256 not in ("", sha256):
        problems.add("sha256", f"{request.sha256!r} is not the first message's, {sha256}; send one content per stream")
    if request.size_bytes not in (0, size):
        problems.add("size_bytes", f"{request.size_bytes} is not the first message's, {size}; send the same, or 0")
    if len(request.data) > MAX_CHUNK:
        problems.add("data", f"{len(request.data)} bytes are too many; send at most {MAX_CHUNK} at a time")
    if request.offset < 0 or request.offset + len(request.data) > size:
        problems.add(
            "offset", f"{len(request.data)} bytes at {request.offset} do not lie within the content's {size} bytes"
        )
    problems.check()


def download_url(request: artifact_service_pb2.CreateDownloadUrlRequest) -> int:
    """Which content a URL is asked for; how long it is to be good for, in seconds."""
    problems = Problems()
    sha256_of(problems, "sha256", request.sha256)
    ttl_s = _ttl_s(problems, request)
    problems.check()
    return ttl_s


def upload_url(request: artifact_service_pb2.CreateUploadUrlRequest, max_bytes: int) -> int:
    """Which content is to be sent to a URL; how long it is to be good for, in seconds."""
    problems = Problems()
    sha256_of(problems, "sha256", request.sha256)
    _size(problems, request.size_bytes, max_bytes)
    ttl_s = _ttl_s(problems, request)
    problems.check()
    return ttl_s


def _ttl_s(
    problems: Problems,
    request: artifact_service_pb2.CreateDownloadUrlRequest | artifact_service_pb2.CreateUploadUrlRequest,
) -> int:
    if not request.HasField("ttl"):
        return DEFAULT_TTL_S
    if not 1 <= request.ttl.seconds <= MAX_TTL_S:
        problems.add("ttl", f"{request.ttl.seconds} s is no time for a URL; give 1 s to {MAX_TTL_S} s")
    return request.ttl.seconds


def _size(problems: Problems, size: int, max_bytes: int) -> None:
    if not 0 <= size <= max_bytes:
        problems.add("size_bytes", f"{size} is no size that is taken; send content of 0 to {max_bytes} bytes")
