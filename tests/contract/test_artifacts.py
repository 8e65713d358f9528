"""What every artifact store promises, over a directory and over a bucket."""

from __future__ import annotations

import hashlib
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import obstore
import pytest
from tests.contract.artifacts import make_bucket, s3_server

from diminuendo.engine import s3store
from diminuendo.engine.s3store import S3Store
from diminuendo.engine.store import (
    ArtifactDamagedError,
    ArtifactMissingError,
    DirectoryStore,
    SharedStore,
    StoreAwayError,
    Stored,
)
from diminuendo.engine.stores import LocationError, open_store

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NOWHERE = "0" * 64


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as url:
        make_bucket(url, "artifacts")
        yield url


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SharedStore:
    if request.param == "directory":
        return open_store(tmp_path / "artifacts")
    url = request.getfixturevalue("endpoint")
    return open_store(f"s3://artifacts/{tmp_path.name}?endpoint_url={url}")


@pytest.fixture
def damage(store: SharedStore) -> Callable[[str, bytes], None]:
    """Puts other content in the place of some."""

    def replace(sha256: str, content: bytes) -> None:
        if isinstance(store, DirectoryStore):
            store.path(sha256).write_bytes(content)
        else:
            assert isinstance(store, S3Store)
            obstore.put(store._bucket, f"{sha256[:2]}/{sha256}", content)

    return replace


def test_what_is_put_is_read_back_whole_and_in_parts(store: SharedStore) -> None:
    assert store.put(CONTENT) == SHA256
    assert store.put(CONTENT) == SHA256
    assert store.get(SHA256) == CONTENT
    assert store.size(SHA256) == 7000
    assert store.read(SHA256, 6993, 100) == b"weights"
    assert store.read(SHA256, 7, 7) == b"weights"
    assert store.read(SHA256, 7000, 1) == b""
    empty = store.put(b"")
    assert (store.get(empty), store.size(empty)) == (b"", 0)


def test_what_is_not_there_is_said_to_be_missing(store: SharedStore) -> None:
    for ask in (store.get, store.size, lambda sha256: store.read(sha256, 0, 1)):
        with pytest.raises(ArtifactMissingError, match=f"no content is stored under {NOWHERE}"):
            ask(NOWHERE)
        with pytest.raises(ArtifactMissingError, match="is not a sha256 in lower-case hex"):
            ask("../../etc/passwd")
    store.put(CONTENT)
    assert store.missing([NOWHERE, SHA256, "moments", NOWHERE]) == {NOWHERE, "moments"}
    assert store.missing([]) == set()


def test_a_file_is_stored_when_it_is_what_it_should_be(store: SharedStore, tmp_path: Path) -> None:
    file = tmp_path / "file"
    content = CONTENT * 1500  # more than one part
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"not {NOWHERE}"):
        store.put_file(file, NOWHERE)
    assert store.missing([NOWHERE]) == {NOWHERE}
    sha256 = hashlib.sha256(content).hexdigest()
    store.put_file(file, sha256)
    store.put_file(file, sha256)
    assert store.get(sha256) == content
    assert file.read_bytes() == content


def test_damaged_content_is_found_put_aside_and_stored_again(
    store: SharedStore, damage: Callable[[str, bytes], None]
) -> None:
    store.put(CONTENT)
    damage(SHA256, CONTENT[:-1] + b"S")
    with pytest.raises(ArtifactDamagedError, match=r"was damaged and put aside in .*damaged; store it again"):
        store.get(SHA256)
    assert store.missing([SHA256]) == {SHA256}
    assert [found.sha256 for found in store.stored()] == []
    store.put(CONTENT)
    assert store.get(SHA256) == CONTENT
    damage(SHA256, CONTENT[:10])  # a length of its own is seen when it is stored again
    store.put(CONTENT)
    assert store.get(SHA256) == CONTENT


def test_many_writers_of_the_same_content_and_a_reader_that_never_sees_half(store: SharedStore) -> None:
    large = CONTENT * 100
    sha256 = hashlib.sha256(large).hexdigest()
    done = threading.Event()
    seen: list[bytes] = []

    def read() -> None:
        while not done.is_set():
            try:
                seen.append(store.get(sha256))
            except ArtifactDamagedError:
                seen.append(b"half of it")
            except ArtifactMissingError:
                continue

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=store.put, args=(large,)) for _ in range(4)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join(30)
    done.set()
    reader.join(30)
    assert set(seen) <= {large}
    assert [(found.sha256, found.size) for found in store.stored()] == [(sha256, len(large))]


def test_only_what_was_not_stored_lately_is_removed(store: SharedStore) -> None:
    store.put(CONTENT)
    (found,) = store.stored()
    assert found == Stored(SHA256, 7000, found.time)
    assert abs(found.time - time.time()) < 60
    assert not store.remove(SHA256, before=found.time - 1)
    assert store.get(SHA256) == CONTENT
    assert store.remove(SHA256, before=found.time + 60)
    assert store.missing([SHA256]) == {SHA256}
    assert store.remove(SHA256, before=found.time)  # gone already


def test_content_that_is_stored_again_counts_as_new(store: SharedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3store, "FRESH_S", -60.0)  # a bucket renews what is older than that
    store.put(CONTENT)
    before = next(store.stored()).time
    time.sleep(1.1)  # S3 counts whole seconds
    store.put(CONTENT)
    (found,) = store.stored()
    assert found.time > before
    assert not store.remove(SHA256, before=before + 0.5)


def test_a_bucket_gives_urls_that_are_read_without_credentials(store: SharedStore) -> None:
    store.put(CONTENT)
    url = store.url(SHA256, expires_s=60)
    if isinstance(store, DirectoryStore):
        assert url is None
        return
    assert url is not None
    request = urllib.request.Request(url, headers={"Range": "bytes=6993-"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        assert (answer.status, answer.read()) == (206, b"weights")
    with pytest.raises(ArtifactMissingError):
        store.url(NOWHERE, expires_s=60)


def test_a_bucket_gives_urls_that_content_is_put_to(store: SharedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put = store.upload_url(SHA256, len(CONTENT), expires_s=60)
    if isinstance(store, DirectoryStore):
        assert put is None
        return
    assert put is not None
    (signed,) = parse_qs(urlsplit(put.url).query)["X-Amz-SignedHeaders"]
    assert signed == "content-length;content-type;host;x-amz-checksum-sha256"
    request = urllib.request.Request(put.url, CONTENT, dict(put.headers), method="PUT")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        assert answer.status == 200
    assert store.get(SHA256) == CONTENT
    assert store.upload_url(SHA256, 5 * 2**30 + 1, expires_s=60) is None, "more than one PUT takes"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-another-identity")
    assert store.upload_url(SHA256, len(CONTENT), expires_s=60) is None, "its secret is not known"


def test_half_written_files_are_never_seen_and_swept(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put(CONTENT)
    half = store.path(SHA256).with_name(".put-abc")
    half.write_bytes(b"half")
    assert [found.sha256 for found in store.stored()] == [SHA256]
    assert store.sweep(before=time.time() - 60) == 0
    assert store.sweep(before=time.time() + 60) == 1
    assert not half.exists()


def test_a_bucket_that_is_not_there_or_not_answering_is_away(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"s3://no-such-bucket?endpoint_url={endpoint}")
    for act in (lambda: store.put(CONTENT), lambda: store.get(SHA256)):
        with pytest.raises(StoreAwayError, match="bucket of s3://no-such-bucket is not there; make it"):
            act()
    deaf = open_store("s3://artifacts/p?endpoint_url=http://127.0.0.1:9")
    with pytest.raises(StoreAwayError, match="s3://artifacts/p cannot be used now") as caught:
        deaf.get(SHA256)
    assert "test-secret" not in str(caught.value) + repr(deaf.__dict__)


@pytest.mark.parametrize(
    ("location", "part"),
    [
        ("", "'' is no location"),
        ("gs://bucket/x", "gs:// is no kind of store"),
        ("s3://", "'' is no bucket"),
        ("s3://Bad_Bucket/x", "'Bad_Bucket' is no bucket"),
        ("s3://key:secret@bucket/x", "a location holds no credentials"),
        ("s3://bucket/x?endpoint=http://h:1", "'endpoint' is no option of a bucket; give endpoint_url and region"),
        ("s3://bucket/x?endpoint_url=h:1", "endpoint_url is not http://HOST:PORT"),
    ],
)
def test_a_location_that_is_none_is_refused(location: str, part: str) -> None:
    with pytest.raises(LocationError) as caught:
        open_store(location)
    assert part in str(caught.value)
    assert "secret" not in str(caught.value)
