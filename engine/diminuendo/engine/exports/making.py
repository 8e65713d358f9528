"""Makes one form of a network: writes the file, runs it, compares it, and puts it in its place only then."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diminuendo.engine import hostmemory, tree, weights
from diminuendo.engine.exports import onnxfile, program, scripted
from diminuendo.engine.exports.border import Call, FileNetwork, bare, forward_of
from diminuendo.engine.exports.checking import COMPARED, TOLERANCE, compare
from diminuendo.engine.exports.forms import Exported, Form, check_installed, opset_of
from diminuendo.engine.exports.reasons import ExportError, is_hopeless, quiet, reason
from diminuendo.engine.modules import copied, evaluating, unwrapped
from diminuendo.engine.precision import lay_out

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Measured:
    """A network's metric on samples, and its drop against the original, in points."""

    metric: float
    drop: float
    samples: int


Measure = Callable[[nn.Module], Measured]


def make(
    network: nn.Module,
    form: Form,
    folder: Path,
    inputs: Any,
    *,
    opset: int | None = None,
    dynamic: bool = True,
    measure: Measure | None = None,
) -> Exported:
    """Export a network in one form. A failure is told in the outcome and leaves no file.

    Args:
        network: Compressed, on any device; left as it was. Its forward may be its owner's, see `modules.with_forward`.
        form: Of the file.
        folder: Where the file comes.
        inputs: (N, ...) real samples as the network takes them, on its device; 256 at most are used.
        opset: Of an ONNX file; None: the default of its type.
        dynamic: Whether the file is to take any number of samples.
        measure: Measures the metric of what it is given, which runs the file.

    Raises:
        MemoryError: There is too little memory on the host; torch.OutOfMemoryError likewise.
    """
    start = time.perf_counter()
    try:
        check_installed([form])
        with quiet(), tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as scratch:
            sample = tree.to(tree.take(inputs, slice(0, COMPARED)), "cpu")
            done = _Making(network, form, Path(scratch) / form.file, sample, opset_of(form, opset)).run(dynamic)
            if measure is not None:
                found = measure(done.network)
                done.record = replace(done.record, metric=found.metric, drop=found.drop, samples=found.samples)
            (Path(scratch) / form.file).replace(folder / form.file)
        return replace(done.record, seconds=time.perf_counter() - start)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if hostmemory.is_full(error):
            raise MemoryError(str(error)) from error
        return Exported(str(form), seconds=time.perf_counter() - start, error=reason(error, form))


@dataclass
class _Done:
    """A file that was run, as a network, and what is known of it."""

    network: nn.Module
    record: Exported


class _Making:
    """One form of one network."""

    def __init__(self, network: nn.Module, form: Form, path: Path, inputs: Any, opset: int) -> None:
        self._form, self._path, self._inputs = form, path, inputs
        self._opset = opset if form.format == "onnx" else None
        self._dtype = TYPES[form.dtype]
        self._reference = portable(network)
        self._network = _in_type(self._reference, self._dtype)
        one = tree.take(inputs, slice(0, 1))
        with evaluating(self._reference), torch.no_grad():
            self._outputs = tree.call(copy.deepcopy(self._reference), one)

    def run(self, dynamic: bool) -> _Done:
        """With a dynamic batch where that is wanted and can be had, else one sample at a time.

        A TorchScript file is made of the folded program, and of the network itself where that cannot be.
        """
        ways = [(True, True), (False, True)] if dynamic else [(False, True)]
        scripted = any(isinstance(module, torch.jit.ScriptModule) for module in self._network.modules())
        if self._form.format == "torchscript":  # a scripted part is changed by an attempt to make a program of it
            ways = [(batch, fold) for batch, _ in ways for fold in ((False,) if scripted else (True, False))]
        elif scripted and self._form.format != "safetensors":
            raise ExportError(
                f"a network with scripted parts cannot be exported as {self._form.format}; give torchscript, or the "
                "network that was scripted"
            )
        problems: list[Exception] = []
        for batch, fold in ways:
            try:
                return self._attempt(batch, fold)
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # noqa: BLE001 - exporters raise anything; told where no way is left
                problems.append(error)
                if is_hopeless(error):
                    break
        raise next((each for each in problems if isinstance(each, ExportError)), problems[0])

    def _attempt(self, dynamic: bool, fold: bool) -> _Done:
        self._path.unlink(missing_ok=True)
        run, dynamic, folded, unfolded = self._write(dynamic, fold)
        network = FileNetwork.of(run, self._outputs, single=not dynamic)
        found = compare(network, self._reference, self._inputs)
        if self._form.dtype == "fp32" and found.relative > TOLERANCE:
            raise ExportError(
                f"the file's outputs differ by {found.largest:.3g} from the network's, {found.relative:.0%} of the "
                "largest: what it computes is not the same; give another format, or leave it out"
            )
        batch: Literal["dynamic", "static"] = "dynamic" if dynamic else "static"
        record = Exported(
            form=str(self._form),
            file=self._form.file,
            size_bytes=self._path.stat().st_size,
            opset=self._opset,
            batch=batch,
            folded=folded,
            unfolded=unfolded,
            largest_difference=found.largest,
            compared=found.samples,
        )
        return _Done(network, record)

    def _write(self, dynamic: bool, fold: bool) -> tuple[Callable[[list[Tensor]], list[Tensor]], bool, int, int]:
        """Write the file; what runs it, whether its batch is dynamic, BatchNorms that were folded and that are left."""
        path, kind = self._path, self._form.format
        if kind == "safetensors":
            return self._write_weights(), True, 0, _norms(self._network)
        if kind == "torchscript" and not fold:
            made = scripted.write_network(self._network, self._inputs, self._dtype, path, dynamic=dynamic)
            return scripted.runner(path, made.call), dynamic, 0, made.norms
        precise = {name: value for name, value in self._reference.state_dict().items() if isinstance(value, Tensor)}
        found = program.traced(self._network, self._inputs, self._dtype, precise, dynamic=dynamic)
        if kind == "torchscript":
            scripted.write_program(found, path)
            run = scripted.runner(path, found.call)
        elif kind == "pt2":
            program.save(found, path)
            run = program.runner(path, found.call)
        else:
            onnxfile.write(found, bare(self._outputs), path, self._opset or 0)
            run = onnxfile.runner(path)
        return run, found.dynamic, found.folded, found.unfolded

    def _write_weights(self) -> Callable[[list[Tensor]], list[Tensor]]:
        """The weights alone; run in a fresh copy of the network."""
        self._path.write_bytes(weights.to_bytes(self._network))
        fresh = copied(self._network)
        with torch.no_grad():
            for parameter in fresh.parameters():
                parameter.zero_()
        weights.load_into(fresh, weights.from_bytes(self._path.read_bytes()))
        example = tree.take(self._inputs, slice(0, 1))
        call = Call.of(fresh, example)
        forward = forward_of(fresh, example, call, self._dtype)

        def run(leaves: list[Tensor]) -> list[Tensor]:
            given = call.refilled(leaves)
            with torch.no_grad():
                return list(tree.leaves(forward(*given.args, **given.kwargs)))

        return run


def portable(network: nn.Module) -> nn.Module:
    """A copy on the CPU, in eval mode, its weights in plain order."""
    made = copied(unwrapped(network)).cpu().eval()
    lay_out(made, channels_last=False)
    return made


def _in_type(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network itself when its weights are of the type already, else a copy in it.

    Raises:
        ExportError: A weight is out of the type's range.
    """
    if all(value.dtype == dtype for value in network.parameters() if value.is_floating_point()):
        return network
    made = copied(network).to(dtype)
    for (name, before), after in zip(network.named_parameters(), made.parameters(), strict=True):
        if bool((before.isfinite() & ~after.isfinite()).any()):
            raise ExportError(f"weight {name!r} is out of the range of {str(dtype)[6:]}; give bf16, or fp32")
    return made


def _norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._NormBase) for module in network.modules())
