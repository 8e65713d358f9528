"""Content-addressed objects in a bucket that speaks S3. Imports no torch; needs the extra `s3`."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, GenericError, NotFoundError
from obstore.store import S3Store as Bucket

from diminuendo.engine import s3sign
from diminuendo.engine.store import (
    ArtifactDamagedError,
    ArtifactMissingError,
    SignedPut,
    StoreAwayError,
    Stored,
    check_file,
    checked,
    is_sha256,
    no_content,
)

if TYPE_CHECKING:
    from obstore.store import S3Config

FRESH_S = 3600.0
"""Content that was stored within so long is not sent again. Must stay well below the age at which it is collected."""

_HEADS = 16
_PART = 8 * 2**20
MAX_PUT = 5 * 2**30
"""Bytes that one PUT takes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bucket is.

    Attributes:
        prefix: Of every object's key; may be empty.
        endpoint: URL of a server other than Amazon's; empty: Amazon's.
        region: Empty: by ``AWS_REGION`` or ``AWS_DEFAULT_REGION``, else us-east-1.
    """

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""

    def __str__(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


class S3Store:
    """A SharedStore in a bucket: ``prefix/ab/abcdef...``. Objects appear whole or not at all, by S3's own promise.

    Credentials come from the usual AWS environment variables, or from the machine's role.
    """

    def __init__(self, place: Place, *, timeout_s: float = 60.0) -> None:
        """Nothing is sent yet.

        Args:
            place: Where it is.
            timeout_s: Of one request; failed ones are tried again for as long.
        """
        self._place = place
        self._bucket = Bucket(
            place.bucket,
            prefix=place.prefix or None,
            config=_config(place),
            client_options={
                "allow_http": place.endpoint.startswith("http://"),
                "timeout": timedelta(seconds=timeout_s),
                "connect_timeout": timedelta(seconds=5),
            },
            retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=timeout_s)},
        )

    def put(self, content: bytes) -> str:
        """Store the content and return its sha256."""
        sha256 = hashlib.sha256(content).hexdigest()
        if not self._fresh(sha256, len(content)):
            with self._asking(sha256):
                obstore.put(self._bucket, _key(sha256), content, use_multipart=len(content) > _PART)
        return sha256

    def put_file(self, path: Path, sha256: str) -> None:
        """Store a file's content, in parts."""
        check_file(path, checked(sha256))
        if not self._fresh(sha256, path.stat().st_size):
            with self._asking(sha256):
                obstore.put(self._bucket, _key(sha256), path, chunk_size=_PART, max_concurrency=4)

    def get(self, sha256: str) -> bytes:
        """The content, checked against its sha256."""
        with self._asking(sha256):
            content = bytes(obstore.get(self._bucket, _key(sha256)).bytes())
        if hashlib.sha256(content).hexdigest() != sha256:
            self.set_aside(sha256)
            raise ArtifactDamagedError(
                f"the content stored under {sha256} was damaged and put aside in {self._place}/damaged; store it again"
            )
        return content

    def size(self, sha256: str) -> int:
        """Of the content, in bytes."""
        with self._asking(sha256):
            return obstore.head(self._bucket, _key(sha256))["size"]

    def read(self, sha256: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on."""
        if length <= 0:
            return b""
        with self._asking(sha256):
            try:
                return bytes(obstore.get_range(self._bucket, _key(sha256), start=offset, length=length))
            except GenericError as error:
                if "InvalidRange" not in str(error):
                    raise
                return b""  # from the end on there is nothing

    def missing(self, sha256s: Iterable[str]) -> set[str]:
        """Those that are not there, asked for side by side."""

        def absent(sha256: str) -> bool:
            try:
                self.size(sha256)
            except ArtifactMissingError:
                return True
            return False

        wanted = list(dict.fromkeys(sha256s))
        if len(wanted) < 2:
            return {sha256 for sha256 in wanted if absent(sha256)}
        with ThreadPoolExecutor(min(_HEADS, len(wanted))) as pool:
            return {sha256 for sha256, gone in zip(wanted, pool.map(absent, wanted), strict=True) if gone}

    def stored(self) -> Iterator[Stored]:
        """Everything that is there, page by page."""
        with self._asking(""):
            for page in obstore.list(self._bucket):
                for found in page:
                    folder, _, name = found["path"].rpartition("/")
                    if is_sha256(name) and folder == name[:2]:
                        yield Stored(name, found["size"], found["last_modified"].timestamp())

    def remove(self, sha256: str, *, before: float) -> bool:
        """Remove the content unless it was stored at or after a time.

        S3 has no conditional removal; a writer renews what is older than `FRESH_S`, long before it is collected.
        """
        try:
            with self._asking(sha256):
                if obstore.head(self._bucket, _key(sha256))["last_modified"].timestamp() >= before:
                    return False
                obstore.delete(self._bucket, _key(sha256))
        except ArtifactMissingError:
            return True
        return True

    def sweep(self, *, before: float) -> int:
        """Nothing: parts of an upload that was broken off are hidden, and the bucket's lifecycle rules remove them."""
        return 0

    def set_aside(self, sha256: str) -> None:
        """Move damaged content to ``damaged/``."""
        try:
            with self._asking(sha256):
                obstore.rename(self._bucket, _key(sha256), f"damaged/{sha256}")
        except ArtifactMissingError:
            return

    def url(self, sha256: str, *, expires_s: int) -> str | None:
        """A signed URL to read the content from."""
        self.size(sha256)
        with self._asking(sha256):
            return obstore.sign(self._bucket, "GET", _key(sha256), timedelta(seconds=expires_s))

    def upload_url(self, sha256: str, size: int, *, expires_s: int) -> SignedPut | None:
        """A signed URL to put the content to, which the server checks by its sha256.

        None for more than one PUT takes, and where the secret key is not in ``AWS_SECRET_ACCESS_KEY``: a machine's
        role signs no headers.
        """
        if size > MAX_PUT:
            return None
        with self._asking(sha256):
            url = obstore.sign(self._bucket, "PUT", _key(sha256), timedelta(seconds=expires_s))
        secret = os.environ.get("AWS_SECRET_ACCESS_KEY", "")
        if not secret or s3sign.access_key_of(url) != os.environ.get("AWS_ACCESS_KEY_ID"):
            return None
        headers = s3sign.upload_headers(sha256, size)
        return SignedPut(s3sign.with_headers(url, headers, secret), headers)

    def _fresh(self, sha256: str, size: int) -> bool:
        try:
            with self._asking(sha256):
                found = obstore.head(self._bucket, _key(sha256))
        except ArtifactMissingError:
            return False
        return found["size"] == size and found["last_modified"].timestamp() > time.time() - FRESH_S

    @contextmanager
    def _asking(self, sha256: str) -> Iterator[None]:
        """Turn the library's errors into ours. Their texts name no credentials."""
        try:
            yield
        except (NotFoundError, FileNotFoundError) as error:
            if "NoSuchBucket" in str(error):
                raise StoreAwayError(f"the bucket of {self._place} is not there; make it, or name another") from None
            raise no_content(sha256) from None
        except (BaseError, OSError) as error:
            text = " ".join(str(error).partition("Debug source")[0].split())
            raise StoreAwayError(
                f"the artifacts at {self._place} cannot be used now ({text[:500]}); see that the server can be "
                "reached and that the AWS environment variables are right"
            ) from None


def _key(sha256: str) -> str:
    return f"{checked(sha256)[:2]}/{sha256}"


def _config(place: Place) -> S3Config:
    config: S3Config = {}
    if place.endpoint:
        config["endpoint"] = place.endpoint
    if place.region:
        config["region"] = place.region
    return config
