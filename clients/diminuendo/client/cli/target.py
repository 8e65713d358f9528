"""Targets of commands that work here: a network of the zoo, or a bundle's folder."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from diminuendo.client.errors import InvalidArgumentError


def bundle_folder(field: str, target: str, **of_the_zoo: object) -> Path | None:
    """The folder of a bundle; None when the target is zoo:NAME.

    Args:
        field: Name of the target's argument, for the message.
        target: As it was given.
        of_the_zoo: Options that a bundle says itself, by name: None when they were not given.

    Raises:
        InvalidArgumentError: It is neither, or such an option was given with a bundle.
    """
    if target.partition(":")[0] == "zoo":
        return None
    if not Path(target).is_dir():
        near = f"; did you mean zoo:{target}?" if target and ":" not in target else ""
        raise InvalidArgumentError.of(field, f"{target!r} is neither zoo:NAME nor a folder{near}")
    for name, value in of_the_zoo.items():
        if value is not None:
            raise InvalidArgumentError.of(name, f"{value} is for zoo:NAME; {Path(target)}/task.py says this itself")
    return Path(target)


@contextlib.contextmanager
def inside(bundle: Path | None) -> Iterator[None]:
    """Have a bundle's folder as working folder, as on evaluators; what its code prints goes to stderr."""
    if bundle is None:
        yield
        return
    before = Path.cwd()
    os.chdir(bundle)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.chdir(before)


def check_one(source: str, bundle: Path | None) -> None:
    """Refuse a command that was given neither a source nor a bundle, or both."""
    if bundle is not None and source:
        raise InvalidArgumentError.of("source", f"{source!r} is given beside --bundle {bundle}; give one of them")
    if bundle is None and not source:
        raise InvalidArgumentError.of("source", "there is none; give SOURCE, as zoo:NAME, or --bundle DIR")
