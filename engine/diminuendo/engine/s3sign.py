"""Signs a PUT with headers by AWS Signature Version 4, in a URL; the library that we use signs no headers.

https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlsplit

SIGNED = "X-Amz-SignedHeaders"
SIGNATURE = "X-Amz-Signature"
CREDENTIAL = "X-Amz-Credential"


def upload_headers(sha256: str, size: int) -> dict[str, str]:
    """What binds a PUT to this very content: the server refuses a body with another sha256 or size."""
    checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
    return {
        "Content-Length": str(size),
        "Content-Type": "application/octet-stream",  # some clients say else that it is a form
        "x-amz-checksum-sha256": checksum,
    }


def access_key_of(url: str) -> str:
    """The access key that a URL was signed with."""
    return dict(parse_qsl(urlsplit(url).query)).get(CREDENTIAL, "").partition("/")[0]


def with_headers(url: str, headers: Mapping[str, str], secret: str) -> str:
    """A URL that was signed for PUT, signed anew so that the request must have these headers.

    Args:
        url: As the library signed it: host, path, time, expiry, scope and session token are taken from it.
        secret: The secret key that belongs to its access key.
    """
    parts = urlsplit(url)
    query = {key: value for key, value in parse_qsl(parts.query) if key not in (SIGNED, SIGNATURE)}
    signed = {"host": parts.netloc} | {name.lower(): value for name, value in headers.items()}
    names = ";".join(sorted(signed))
    query[SIGNED] = names
    text = "&".join(f"{quote(key, safe='-_.~')}={quote(query[key], safe='-_.~')}" for key in sorted(query))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    canonical = "\n".join(("PUT", parts.path, text, lines, names, "UNSIGNED-PAYLOAD"))
    scope = query[CREDENTIAL].partition("/")[2]
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = "\n".join(("AWS4-HMAC-SHA256", query["X-Amz-Date"], scope, digest))
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    return f"{parts.scheme}://{parts.netloc}{parts.path}?{text}&{SIGNATURE}={signature}"
