"""Why an export failed, in one line with the remedy; and the exporters' own talk kept away from the terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator

from diminuendo.engine.exports.forms import INSTALL, Form, FormError
from diminuendo.engine.plan import PlanError
from diminuendo.engine.task import TaskError
from diminuendo.engine.usercode import UserCodeError, where

_LONGEST = 300
_LOGGERS = ("torch.onnx", "torch.export", "torch._export", "torch._dynamo", "torch.fx", "onnxscript", "onnx_ir")
_CONTROL = re.compile(r"data-dependent|GuardOnDataDependent|control flow|Python boolean|dynamic control", re.IGNORECASE)
_KERNEL = re.compile(r"not implemented for '(Half|BFloat16)'|Could not find an implementation for (\S+?)\(")
_OPERATOR = re.compile(
    r"No ONNX function found for <OpOverload\(op='([^']+)'|No decompositions registered for.*'([^']+)'"
)


class ExportError(RuntimeError):
    """An export that cannot be; the message says why and what to do."""


def reason(error: BaseException, form: Form) -> str:
    """The cause and the remedy, in one line."""
    if isinstance(error, ExportError | FormError | TaskError | UserCodeError | PlanError):
        return _line(str(error))
    chain = list(_chain(error))
    text = " ".join(f"{type(each).__name__}: {each}" for each in chain)
    missing = next((each for each in chain if isinstance(each, ImportError)), None)
    if missing is not None:
        return f"{form.format} needs a part that is not installed ({_line(str(missing))}); {INSTALL}"
    line = next(filter(None, map(where, chain)), "")
    return _of_the_network(text, form, f" ({line})" if line else "") or (
        f"{_line(f'{type(error).__name__}: {error}')}; leave {form} out, or export another format ({_others(form)})"
    )


def is_control_flow(error: BaseException) -> bool:
    """Whether an exporter met a forward that decides by the values of its data."""
    return any(_CONTROL.search(f"{type(each).__name__}: {each}") for each in _chain(error))


def is_hopeless(error: BaseException) -> bool:
    """Whether another way of making the same form would fail likewise: a part or a kernel is missing."""
    text = f"{type(error).__name__}: {error}"
    return isinstance(error, ImportError) or _KERNEL.search(text) is not None or "INVALID_GRAPH" in text


def _of_the_network(text: str, form: Form, line: str) -> str:
    """What a network does that a form cannot have; empty for anything else."""
    if _CONTROL.search(text):
        return (
            f"the network's forward{line} decides by the values of its data what it computes, which {form.format} "
            "cannot follow; write that with torch.where or torch.cond"
        )
    kernel = _KERNEL.search(text)
    if kernel or (form.dtype != "fp32" and "INVALID_GRAPH" in text):
        what = "ONNX Runtime" if form.format == "onnx" else "PyTorch"
        which = f" for {kernel[2]}" if kernel and kernel[2] else ""
        other = "fp16" if form.dtype == "bf16" else "fp32"
        return f"{what} has no {form.dtype} kernel on CPUs{which}, so that the file cannot be run and checked; " + (
            f"give {form.format}:{other}" if other != "fp32" else f"give {form.format}"
        )
    operator = _OPERATOR.search(text)
    if operator:
        return f"ONNX has no form of {operator[1] or operator[2]}, which the network calls; give pt2 or torchscript"
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that it came from."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _others(form: Form) -> str:
    return ", ".join(name for name in ("pt2", "onnx", "torchscript") if name != form.format)


def _line(text: str) -> str:
    """The first line that says something, cut."""
    first = next((line.strip() for line in text.splitlines() if line.strip()), "no message")
    return first if len(first) <= _LONGEST else f"{first[: _LONGEST - 3]}..."


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters print, log and warn of."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
