"""Opens a store by its location: a folder, or ``s3://bucket/prefix?endpoint_url=...&region=...``."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from diminuendo.engine.store import DirectoryStore, SharedStore

S3 = "s3://"
_OPTIONS = ("endpoint_url", "region")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class LocationError(ValueError):
    """A location that names no store; says which part, and what to give."""


def open_store(location: str | Path) -> SharedStore:
    """The store at a location. Nothing is read or written yet.

    Raises:
        LocationError: The location names no store, or the part that it needs is not installed.
    """
    text = check_location(str(location))
    if not text.startswith(S3):
        return DirectoryStore(text)
    try:
        from diminuendo.engine.s3store import Place, S3Store
    except ImportError as error:
        raise LocationError(
            f"{text!r} needs a part that is not installed ({error}); pip install 'diminuendo[s3]'"
        ) from None
    parts = urlsplit(text)
    options = dict(parse_qsl(parts.query))
    endpoint, region = options.get("endpoint_url", ""), options.get("region", "")
    return S3Store(Place(parts.netloc, parts.path.strip("/"), endpoint, region))


def resolved(location: str) -> str:
    """The location as other processes on this machine can take it: a folder as an absolute path."""
    return location if location.startswith(S3) else str(Path(location).resolve())


def check_location(location: str) -> str:
    """The location itself; LocationError when it names no store. The text never repeats what may be a secret."""
    if not location:
        raise LocationError("'' is no location; give a folder, or s3://BUCKET/PREFIX")
    if not location.startswith(S3):
        scheme = re.match(r"([a-z][a-z0-9+.-]+)://", location)
        if scheme:
            raise LocationError(f"{scheme[1]}:// is no kind of store; give a folder, or s3://BUCKET/PREFIX")
        return location
    parts = urlsplit(location)
    if "@" in parts.netloc:
        raise LocationError("a location holds no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if not _BUCKET.fullmatch(parts.netloc):
        raise LocationError(f"{parts.netloc!r} is no bucket; give s3://BUCKET/PREFIX with 3 to 63 of a-z, 0-9, . and -")
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key not in _OPTIONS:
            raise LocationError(f"{key!r} is no option of a bucket; give {' and '.join(_OPTIONS)}")
        if key == "endpoint_url" and not re.fullmatch(r"https?://[^\s@?#]+", value):
            raise LocationError("endpoint_url is not http://HOST:PORT or https://HOST, without credentials")
    return location
