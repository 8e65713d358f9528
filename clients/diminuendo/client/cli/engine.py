"""The engine that is installed here, for commands that need no server: found by name, since the client imports none."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any

from diminuendo.client.errors import DiminuendoError, InvalidArgumentError, NotFoundError


def engine(module: str, *, otherwise: str = "") -> Any:
    """A module of the engine.

    Args:
        module: Its name below ``diminuendo.engine``.
        otherwise: What to do instead, when it is not here.

    Raises:
        DiminuendoError: It is not installed; the message says what to install.
    """
    try:
        return importlib.import_module(f"diminuendo.engine.{module}")
    except ImportError as error:
        remedy = f", or {otherwise}" if otherwise else ""
        raise DiminuendoError(
            f"the engine is not installed ({error}); pip install 'diminuendo[engine]'{remedy}"
        ) from error


@contextlib.contextmanager
def mistakes() -> Iterator[None]:
    """The engine's errors that are a user's mistakes, as the client's own."""
    try:
        yield
    except LookupError as error:
        catalog = sys.modules.get("diminuendo.engine.zoo.catalog")
        if catalog is None or not isinstance(error, catalog.UnknownNetworkError):
            raise
        raise NotFoundError(f"source: {error}") from error
    except ValueError as error:
        kinds = [("task", "TaskError"), ("plan", "PlanError"), ("search.check", "RequestError")]
        known = [getattr(sys.modules.get(f"diminuendo.engine.{home}"), name, ()) for home, name in kinds]
        if not any(isinstance(error, kind) for kind in known):
            raise
        raise InvalidArgumentError(str(error)) from error
    except Exception as error:
        owner = getattr(sys.modules.get("diminuendo.engine.usercode"), "UserCodeError", ())
        if not isinstance(error, owner):
            raise
        more = "; --debug shows the traceback" if error.traceback_text else ""
        raise InvalidArgumentError(f"{error}{more}") from error
