"""The forms that a network can be exported in, the files they make, and what came of one. Imports no torch."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, cast, get_args

FormatName = Literal["safetensors", "pt2", "onnx", "torchscript"]
DtypeName = Literal["fp32", "fp16", "bf16"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)
DTYPES: tuple[DtypeName, ...] = get_args(DtypeName)

DEFAULT_OPSET = 18
"""Of an ONNX file: every runtime of the last years reads it, and the exporter writes it without a conversion."""

OPSETS = range(18, 25)
"""What the exporter writes and ONNX Runtime reads."""

BF16_OPSET = 22
"""The first in which convolutions and the like are defined for bfloat16."""

_SUFFIXES: dict[FormatName, str] = {"safetensors": "safetensors", "pt2": "pt2", "onnx": "onnx", "torchscript": "ts"}
_PACKAGES: dict[FormatName, tuple[str, ...]] = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
INSTALL = "pip install 'diminuendo[export]'"
_RESULT: FormatName = "safetensors"


class FormError(ValueError):
    """A text that names no form; says what is legal, without the name of the field."""


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of file, and the type that its weights have and that it computes in.

    Inputs and outputs are float32 in every type, so that callers need not change.
    """

    format: FormatName
    dtype: DtypeName = "fp32"

    @property
    def file(self) -> str:
        """Its file's name, e.g. ``model.fp16.onnx``."""
        kind = "" if self.dtype == "fp32" else f".{self.dtype}"
        return f"model{kind}.{_SUFFIXES[self.format]}"

    def __str__(self) -> str:
        """As it is asked for, e.g. ``onnx:fp16``; fp32 goes without saying."""
        return self.format if self.dtype == "fp32" else f"{self.format}:{self.dtype}"


LEGAL = (
    f"give FORMAT or FORMAT:DTYPE, of {', '.join(FORMATS)} and {', '.join(DTYPES)}; for example onnx, onnx:fp16 or pt2"
)


def parse(text: str) -> Form:
    """The form of a text such as ``onnx`` or ``onnx:fp16``.

    Raises:
        FormError: There is no such form; suggests the nearest.
    """
    kind, colon, dtype = text.partition(":") if isinstance(text, str) else (text, "", "")
    if kind not in FORMATS or (colon and dtype not in DTYPES):
        raise FormError(f"{text!r} is no form of export{_nearest(text)}; {LEGAL}")
    form = Form(kind, cast(DtypeName, dtype or "fp32"))
    if form == Form(_RESULT):
        raise FormError(f"{text!r} is what every result has as {form.file}; leave it out, or give safetensors:fp16")
    return form


def parse_all(texts: Sequence[str]) -> tuple[Form, ...]:
    """The forms of texts, in their order.

    Raises:
        FormError: One of them is none, or comes twice.
    """
    forms = [parse(text) for text in texts]
    for place, form in enumerate(forms):
        if form in forms[:place]:
            raise FormError(f"{str(form)!r} is given twice; give it once")
    return tuple(forms)


def check_installed(forms: Sequence[Form]) -> None:
    """Refuse forms whose packages are not installed here; FormError says what to install."""
    for form in forms:
        lacking = [name for name in _PACKAGES.get(form.format, ()) if importlib.util.find_spec(name) is None]
        if lacking:
            raise FormError(f"{str(form)!r} needs {' and '.join(lacking)}; {INSTALL}")


def opset_of(form: Form, opset: int | None) -> int:
    """The opset of an ONNX file: the one asked for, else the default of its type."""
    if opset is not None:
        return opset
    return BF16_OPSET if form.dtype == "bf16" else DEFAULT_OPSET


def _nearest(text: object) -> str:
    known = [str(Form(kind, dtype)) for kind in FORMATS for dtype in DTYPES]
    near = difflib.get_close_matches(str(text).lower(), known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


@dataclass(frozen=True, slots=True)
class Exported:
    """What came of one form.

    Attributes:
        form: As asked for, e.g. ``onnx:fp16``.
        file: Name of the file; None when there is none, because it failed.
        size_bytes: Of the file.
        opset: Of an ONNX file.
        batch: ``dynamic`` when the file takes any number of samples, else ``static``: one sample at a time.
        folded: BatchNorms that became part of the layer before them.
        unfolded: BatchNorms that are left, because what is before them is no such layer or is used elsewhere, too.
        largest_difference: Between outputs of the file and of the network in PyTorch, over `compared` samples.
        compared: Samples on which both were run.
        metric: Of the file as it was run, in points; None where there was no data to measure it on.
        drop: Of the metric against the original network, in points; positive is worse.
        samples: That the metric was measured on.
        seconds: That making and checking it took.
        error: Why there is no file, and what to do, in one line; empty when there is one.
    """

    form: str
    file: str | None = None
    size_bytes: int | None = None
    opset: int | None = None
    batch: Literal["dynamic", "static"] | None = None
    folded: int = 0
    unfolded: int = 0
    largest_difference: float | None = None
    compared: int = 0
    metric: float | None = None
    drop: float | None = None
    samples: int = 0
    seconds: float = 0.0
    error: str = ""

    def entry(self) -> dict[str, object]:
        """As the certificate has it, under the form's name."""
        found = asdict(self)
        del found["form"]
        if not self.error:
            del found["error"]
        return found | {"seconds": round(self.seconds, 3)}
