"""Fetches the results of a fleet: a folder for each model, gone on with where it was cut."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from diminuendo.client.download import download
from diminuendo.client.errors import DiminuendoError, DownloadError, FolderNotEmptyError, ServerUnavailableError
from diminuendo.client.fleet.models import ModelDownload
from diminuendo.client.fleet.requests import is_model_name
from diminuendo.client.fleet.results import FLEET_FILE, report_of
from diminuendo.client.rpc import Connection
from diminuendo.client.types import JobInfo


def fetch_all(
    connection: Connection,
    name: str,
    jobs: Sequence[JobInfo],
    folder: Path,
    *,
    on_model: Callable[[ModelDownload], None],
) -> tuple[ModelDownload, ...]:
    """Fetch what has a result; see `Fleet.download`."""
    begin(name, jobs, folder)
    came = []
    for job in sorted(jobs, key=lambda job: job.model):
        done = _fetch(connection, job, folder)
        on_model(done)
        came.append(done)
    return tuple(came)


def begin(name: str, jobs: Sequence[JobInfo], folder: Path) -> None:
    """Make the folder, and write into it what came of all; FolderNotEmptyError where there is a file."""
    if folder.exists() and not folder.is_dir():
        raise FolderNotEmptyError(f"{folder} is a file; give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / FLEET_FILE, report_of(name, jobs).to_json() + "\n")


def place_of(job: JobInfo, folder: Path) -> Path:
    """The folder of a model's result; DownloadError where its name is none of a folder's."""
    if not is_model_name(job.model):  # a server must not be able to write elsewhere than into the folder
        raise DownloadError(f"{job.model!r} is no folder's name")
    return folder / job.model


def _fetch(connection: Connection, job: JobInfo, folder: Path) -> ModelDownload:
    """One model's result. What is wrong with it is told; a server that has gone ends all."""
    if job.result is None:
        return ModelDownload(job.model, job)
    try:
        return ModelDownload(job.model, job, download(connection, job.result.files, place_of(job, folder)))
    except ServerUnavailableError:
        raise
    except DiminuendoError as error:
        return ModelDownload(job.model, job, error=error)


def _write(path: Path, content: str) -> None:
    """Put the file in its place whole."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_text(content, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
