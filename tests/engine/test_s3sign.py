"""Our signature against that of Amazon's own library."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

import pytest

botocore_auth = pytest.importorskip("botocore.auth")
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped, unused-ignore]  # noqa: E402
from botocore.credentials import Credentials  # type: ignore[import-untyped, unused-ignore]  # noqa: E402

from diminuendo.engine import s3sign  # noqa: E402

WHEN = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize("token", [None, "session/+token="])
@pytest.mark.parametrize("path", ["/bucket/ab/abc", "/bucket/a%20b/c/ab/abc"])
def test_the_signature_is_theirs(monkeypatch: pytest.MonkeyPatch, token: str | None, path: str) -> None:
    monkeypatch.setattr(botocore_auth, "get_current_datetime", lambda *_, **__: WHEN)
    credentials = Credentials("access", "secret/key+", token)
    place, headers = f"http://127.0.0.1:9000{path}", s3sign.upload_headers("ab" * 32, 123)

    def theirs(extra: dict[str, str]) -> str:
        request = AWSRequest(method="PUT", url=place, headers=extra)
        botocore_auth.S3SigV4QueryAuth(credentials, "s3", "eu-west-1", expires=60).add_auth(request)
        return str(request.url)

    ours = s3sign.with_headers(theirs({}), headers, "secret/key+")
    assert dict(parse_qsl(urlsplit(ours).query)) == dict(parse_qsl(urlsplit(theirs(headers)).query))
    assert ours.startswith(place)
    assert s3sign.access_key_of(ours) == "access"
    assert headers["x-amz-checksum-sha256"] == "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s="
