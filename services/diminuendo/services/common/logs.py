"""Structured logs: one line per event on stderr, JSON for machines or aligned text for people.

An event has one name in snake_case and its facts as keys: ``log.info("job_created", job=name)``. What holds
for a whole call or task is bound once: ``with bound(job=name, epoch=3): ...``.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from diminuendo.services.common.settings import LogLevel, LogStyle


def configure(*, service: str, level: LogLevel = "info", style: LogStyle = "auto") -> None:
    """Send this process's logs, and the warnings of the libraries it uses, to stderr.

    Args:
        service: Name of the process, in every line.
        level: The least severe line that is written.
        style: ``json``, ``console``, or ``auto``: console on a terminal, else JSON.
    """

    def stamp(_logger: object, _method: str, event: EventDict) -> EventDict:
        return {"service": service, **event}

    shared: list[Processor] = [
        stamp,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    human = style == "console" or (style == "auto" and sys.stderr.isatty())
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if human
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Stderr())),
        cache_logger_on_first_use=False,
    )
    _route_standard_logging(shared, last)


def _route_standard_logging(shared: list[Processor], last: list[Processor]) -> None:
    """Lines of libraries that use `logging` come out in the same form, from warnings up."""
    handler = logging.StreamHandler(_Stderr())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.root.handlers = [handler]
    logging.root.setLevel(logging.WARNING)


_SECRETS = (
    (re.compile(r"(\w://[^\s:/@]*):[^\s@]*@"), r"\1:***@"),
    (re.compile(r"(?i)(\bbearer\s+|password=|token=)[^\s,;&'\"\\)]+"), r"\1***"),
)
"""Passwords in URLs, tokens as they are sent, and how drivers write both."""


def without_secrets(text: str) -> str:
    """A text for logs: what may be the password of a URL, or a token, is left out of it."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


class _Stderr:
    """The stderr of the moment as a file that never fails: a full disk or a pipe that nobody reads any more costs the
    line, not the thread that wrote it. Whoever logs leaves secrets out; what of them comes here all the same, with the
    text of somebody's error, goes no further.
    """

    def write(self, text: str) -> None:
        """Write, if that can be done."""
        with suppress(OSError, ValueError):  # ValueError: it is closed
            sys.stderr.write(without_secrets(text))

    def flush(self) -> None:
        """Flush, if that can be done."""
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def get(name: str) -> FilteringBoundLogger:
    """A logger; `name` is the module's."""
    return cast("FilteringBoundLogger", structlog.get_logger(source=name))


@contextmanager
def bound(**ids: object) -> Iterator[None]:
    """Bind ids to every line logged inside, in this task and in the tasks it starts."""
    with structlog.contextvars.bound_contextvars(**ids):
        yield
